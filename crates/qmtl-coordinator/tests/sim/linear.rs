//! Whether answers could have been given one call after another: the search of Wing and Gong, with Lowe's memory of what was
//! tried. The model knows nothing of the core: a key has a last grant, which has ended or not, and time may end any lease.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use qmtl_backfill::lease::{BackfillCoordinator, Command, Outcome, Page, Query, Reply};
use qmtl_history_api::{Result, Timestamp, async_trait};

use crate::clock::{Truth, begin};

/// One call: when it was made and answered, what it was, and what it came to as far as that is known.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    key: String,
    begun: Timestamp,
    /// `None` when nobody answered: then it may have been carried out at any time since, or never.
    ended: Option<Timestamp>,
    what: What,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = |time: Timestamp| time.since(begin()).as_secs_f64();
        let ended = self.ended.map_or("never".to_owned(), |ended| format!("{:.3}", since(ended)));
        write!(f, "{:.3} to {ended}: {:?}", since(self.begun), self.what)
    }
}

#[derive(Clone, Debug)]
enum What {
    /// Granted this fence.
    Granted(u64),
    /// Refused because somebody holds it.
    Held,
    /// Asked for a lease; nobody knows what came of it.
    Claim,
    /// Renewed this grant, or not.
    Renew(u64, bool),
    /// Ended this grant, or not; `None` when nobody knows.
    End(u64, Option<bool>),
}

/// Writes down what clients ask and hear.
#[derive(Clone, Debug)]
pub(crate) struct Recorder {
    truth: Truth,
    calls: Arc<Mutex<Vec<Call>>>,
}

impl Recorder {
    pub(crate) fn new(truth: Truth) -> Self {
        Self { truth, calls: Arc::default() }
    }

    /// A coordinator whose calls are written down.
    pub(crate) fn of(&self, inner: impl BackfillCoordinator) -> impl BackfillCoordinator {
        Recorded { inner, recorder: self.clone() }
    }

    pub(crate) fn history(&self) -> Vec<Call> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[derive(Debug)]
struct Recorded<C> {
    inner: C,
    recorder: Recorder,
}

fn fence_of(token: &str) -> u64 {
    token.split('-').next().and_then(|fence| u64::from_str_radix(fence, 16).ok()).unwrap_or(0)
}

#[async_trait]
impl<C: BackfillCoordinator> BackfillCoordinator for Recorded<C> {
    fn id(&self) -> &str {
        self.inner.id()
    }

    async fn apply(&self, key: &str, command: Command) -> Result<Reply> {
        let unknown = match &command {
            Command::Claim { .. } => What::Claim,
            Command::Renew { token, .. } => What::Renew(fence_of(token), false),
            Command::Complete { token, .. }
            | Command::Fail { token, .. }
            | Command::Release { token, .. } => What::End(fence_of(token), None),
            _ => return self.inner.apply(key, command).await,
        };
        // Written down before it is made: whoever calls may end before the answer.
        let begun = self.recorder.truth.now();
        let at = {
            let mut calls = self.recorder.calls.lock().unwrap_or_else(PoisonError::into_inner);
            calls.push(Call { key: key.to_owned(), begun, ended: None, what: unknown.clone() });
            calls.len() - 1
        };
        let reply = self.inner.apply(key, command).await;
        let what = match (&reply, unknown) {
            (Ok(Reply::Granted(grant)), What::Claim) => Some(What::Granted(grant.fence)),
            (Ok(Reply::Refused(refusal)), What::Claim) if refusal.outcome == Outcome::Held => {
                Some(What::Held)
            }
            (Ok(Reply::Renewed(_)), What::Renew(fence, _)) => Some(What::Renew(fence, true)),
            (Ok(Reply::Ended { .. }), What::End(fence, _)) => Some(What::End(fence, Some(true))),
            (Ok(Reply::Stale), What::End(fence, _)) => Some(What::End(fence, Some(false))),
            _ => None,
        };
        if let Some(what) = what {
            let mut calls = self.recorder.calls.lock().unwrap_or_else(PoisonError::into_inner);
            (calls[at].what, calls[at].ended) = (what, Some(self.recorder.truth.now()));
        }
        reply
    }

    async fn inspect(&self, query: &Query) -> Result<Page> {
        self.inner.inspect(query).await
    }
}

/// A key: its last grant, and whether that has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct State {
    fence: u64,
    has_ended: bool,
    /// Somebody has got a grant behind that one, and does not know it.
    is_unknown: bool,
}

impl State {
    /// What a call leads to; `None` when it cannot have been answered so.
    fn after(self, what: &What) -> Option<Self> {
        match *what {
            // Time may have ended what was held.
            What::Granted(fence) => (fence > self.fence).then_some(Self { fence, ..Self::default() }),
            What::Held => (self.is_unknown || (self.fence > 0 && !self.has_ended)).then_some(self),
            What::Renew(fence, true) => (self.fence == fence && !self.has_ended).then_some(self),
            What::End(fence, Some(true)) => {
                (self.fence == fence && !self.is_unknown).then_some(Self { has_ended: true, ..self })
            }
            // Not the last grant, or one that was ended otherwise.
            What::End(fence, Some(false)) => (self.fence != fence || self.has_ended).then_some(self),
            What::Claim | What::Renew(_, false) | What::End(_, None) => Some(self),
        }
    }
}

/// A client sends a request again that was not answered for so long.
const SENT_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// Fails with the key whose answers cannot have been given one after another. Where the network doubles messages, a claim
/// may have come a second time, late, when others had claimed since: then it is a new one, whose grant nobody knows.
pub(crate) fn check(history: &[Call], is_doubled: bool) -> Result<(), String> {
    let mut by_key: BTreeMap<&str, Vec<&Call>> = BTreeMap::new();
    for call in history {
        by_key.entry(&call.key).or_default().push(call);
    }
    for (key, calls) in by_key {
        if !is_linear(&calls, is_doubled) {
            let known = calls.iter().filter(|call| call.ended.is_some()).count();
            let told: String = calls.iter().map(|call| format!("\n    {call}")).collect();
            return Err(format!("the answers to {known} calls about {key} do not fit each other:{told}"));
        }
    }
    Ok(())
}

fn is_linear(calls: &[&Call], is_doubled: bool) -> bool {
    // What came of a call that nobody heard of shows only in what came later: an end may have ended its grant at any
    // time, a claim may have got a grant that nobody knows.
    let ends: Vec<(u64, Timestamp)> = calls
        .iter()
        .filter_map(|call| match call.what {
            // What was sent again because its answer was lost may have been carried out the first time.
            What::End(fence, None | Some(false)) => Some((fence, call.begun)),
            _ => None,
        })
        .collect();
    let may_be_unknown = |call: &&&Call| match call.what {
        What::Claim => true,
        // One that was sent again, when others had claimed meanwhile, is a new one too.
        What::Granted(_) | What::Held => {
            is_doubled || call.ended.is_some_and(|ended| ended.since(call.begun) >= SENT_AGAIN_AFTER)
        }
        _ => false,
    };
    let claims: Vec<Timestamp> = calls.iter().filter(may_be_unknown).map(|call| call.begun).collect();
    let known: Vec<&Call> = calls.iter().copied().filter(|call| call.ended.is_some()).collect();
    let mut tried = HashSet::new();
    search(&known, (&ends, &claims), &mut vec![false; known.len()], State::default(), &mut tried)
}

fn search(
    calls: &[&Call],
    unknown: (&[(u64, Timestamp)], &[Timestamp]),
    done: &mut Vec<bool>,
    state: State,
    tried: &mut HashSet<(Vec<bool>, State)>,
) -> bool {
    if done.iter().all(|done| *done) {
        return true;
    }
    if !tried.insert((done.clone(), state)) {
        return false;
    }
    // Whatever is next was begun before anything that is left was answered.
    let left = (0..calls.len()).filter(|at| !done[*at]).collect::<Vec<_>>();
    let first_end = left.iter().filter_map(|at| calls[*at].ended).min().unwrap_or(Timestamp::MAX);
    for at in left {
        if calls[at].begun > first_end {
            continue;
        }
        let latest = calls[at].ended.unwrap_or(Timestamp::MAX);
        // Before it, something that nobody heard of may have happened.
        let mut before = vec![state];
        if unknown.0.iter().any(|(fence, begun)| *fence == state.fence && *begun <= latest) {
            before.push(State { has_ended: true, ..state });
        }
        if unknown.1.iter().any(|begun| *begun <= latest) {
            before.push(State { has_ended: true, is_unknown: true, ..state });
        }
        for state in before {
            let Some(after) = state.after(&calls[at].what) else { continue };
            done[at] = true;
            if search(calls, unknown, done, after, tried) {
                return true;
            }
            done[at] = false;
        }
    }
    false
}
