//! Leases: which of many workers fills which window.
//!
//! A lease is mutual exclusion over one window of a series ([`LeaseKey`]), for a limited time. [`core`] says, as a pure
//! function, what each [`Command`] does to the state of a key; a [`BackfillCoordinator`] keeps those states: in this
//! process ([`InProcessCoordinator`]), in a file or a database (crate `qmtl-coordinator`), or on a server somewhere
//! else. What is done is not the coordinator's to say: that is the coverage of the store.

mod clock;
pub mod core;
#[cfg(feature = "http")]
mod http;
mod in_process;
mod keeper;
mod key;
#[cfg(feature = "wire")]
pub mod wire;

use std::fmt::Debug;
use std::ops::Bound;
use std::sync::Arc;

use qmtl_history_api::{Error, Result, Timestamp, async_trait};

pub use self::clock::LeaseClock;
pub use self::core::{Command, Grant, Lease, Outcome, Policy, Refusal, Reply, Status, Turn};
#[cfg(feature = "http")]
pub use self::http::{DistributedBackfillCoordinator, Transport};
pub use self::in_process::InProcessCoordinator;
pub(crate) use self::keeper::{Claimed, Ending, HeldLease};
pub use self::keeper::{Keeper, LeaseConfig, OnLoss};
pub use self::key::LeaseKey;

/// The bars of a window that is leased. Windows begin at multiples of it, counted from the epoch, whatever the request,
/// so that workers whose requests overlap claim the same keys.
pub const LEASED_WINDOW_BARS: u64 = 900;

/// Who grants leases.
///
/// Keys are any text of up to [`LeaseKey::MAX_BYTES`] bytes: those of workers of this system are [`LeaseKey`]s, others
/// are opaque. When a call returns, what it changed is durable, as far as the implementation is, and seen by every
/// later call of any process.
///
/// Errors of both calls: `InvalidInput` for what [`admit`] refuses; `Unavailable` when the coordinator does not answer,
/// which says nothing of the lease; `Storage` and `Corrupt` when its store cannot take bytes or is damaged.
#[async_trait]
pub trait BackfillCoordinator: Debug + Send + Sync + 'static {
    /// What it is called in logs (`coordinator_id`): of a server, its host.
    fn id(&self) -> &str;

    /// Does what [`Policy::step`] says to one key.
    async fn apply(&self, key: &str, command: Command) -> Result<Reply>;

    /// A page of the keys that were ever claimed, in the order of their bytes.
    async fn inspect(&self, query: &Query) -> Result<Page>;
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<T: BackfillCoordinator + ?Sized> BackfillCoordinator for Arc<T> {
    fn id(&self) -> &str {
        (**self).id()
    }

    async fn apply(&self, key: &str, command: Command) -> Result<Reply> {
        (**self).apply(key, command).await
    }

    async fn inspect(&self, query: &Query) -> Result<Page> {
        (**self).inspect(query).await
    }
}

/// What is listed of a coordinator's keys.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Query {
    /// Only keys that begin with this.
    pub prefix: String,
    /// Only keys in this state.
    pub state: Option<State>,
    /// Only keys behind this one: [`Page::next`] of the page before.
    pub after: Option<String>,
    /// The most keys of a page, 1 to [`Query::LONGEST`].
    pub limit: usize,
}

impl Query {
    /// The most keys of a page.
    pub const LONGEST: usize = 1_000;

    /// The most keys that are looked at for one page. Where few of many are in the wanted state, a page may be short or
    /// empty, and still not be the last one.
    pub const LOOKED_AT: usize = 10_000;

    /// The first hundred keys with this beginning.
    #[must_use]
    pub fn new(prefix: impl Into<String>) -> Self {
        Self { prefix: prefix.into(), state: None, after: None, limit: 100 }
    }

    /// Only keys in this state.
    #[must_use]
    pub fn with_state(mut self, state: State) -> Self {
        self.state = Some(state);
        self
    }

    /// The page that begins behind this key.
    #[must_use]
    pub fn with_after(mut self, key: impl Into<String>) -> Self {
        self.after = Some(key.into());
        self
    }

    /// The most keys of a page; cut to 1 to [`Query::LONGEST`].
    #[must_use]
    pub fn with_limit(mut self, keys: usize) -> Self {
        self.limit = keys.clamp(1, Self::LONGEST);
        self
    }

    /// Where it begins among all keys, which are in the order of their bytes: at the first that may have the prefix and
    /// is behind [`after`](Self::after).
    #[must_use]
    pub fn start(&self) -> Bound<&str> {
        let after = self.after.as_deref().filter(|after| *after >= self.prefix.as_str());
        after.map_or(Bound::Included(self.prefix.as_str()), Bound::Excluded)
    }

    /// Makes a page of keys, given in ascending order from [`start`](Self::start) on.
    pub fn page<E>(
        &self,
        now: Timestamp,
        leases: impl IntoIterator<Item = Result<(String, Lease), E>>,
    ) -> Result<Page, E> {
        let mut page = Page { now, leases: Vec::new(), next: None };
        let mut last = None;
        for (looked_at, found) in leases.into_iter().enumerate() {
            let (key, lease) = found?;
            if !key.starts_with(&self.prefix) {
                break;
            }
            if page.leases.len() == self.limit || looked_at == Self::LOOKED_AT {
                page.next = last;
                break;
            }
            last = Some(key.clone());
            if self.state.is_none_or(|state| state == lease.state(now)) {
                page.leases.push(Listed { key, lease });
            }
        }
        Ok(page)
    }
}

/// A page of a coordinator's keys.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Page {
    /// The coordinator's time.
    pub now: Timestamp,
    /// The keys, ascending.
    pub leases: Vec<Listed>,
    /// Where the next page begins; `None` when this one is the last.
    pub next: Option<String>,
}

/// A key and what is known of it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Listed {
    /// The key.
    pub key: String,
    /// Its state.
    pub lease: Lease,
}

/// The state of a key at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum State {
    /// Somebody holds it.
    Held,
    /// Somebody held it and was not heard of in time.
    Expired,
    /// It was given back, and may be claimed.
    Released,
    /// It failed, and may be claimed again.
    Failed,
    /// It failed more than once, and may be claimed again later.
    Backoff,
    /// It was completed, with bars that could not be settled.
    Partial,
    /// It was completed.
    Done,
    /// It failed too often, and waits for an operator.
    Dead,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Held,
        Self::Expired,
        Self::Released,
        Self::Failed,
        Self::Backoff,
        Self::Partial,
        Self::Done,
        Self::Dead,
    ];

    /// The name in answers and filters, `snake_case`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Expired => "expired",
            Self::Released => "released",
            Self::Failed => "failed",
            Self::Backoff => "backoff",
            Self::Partial => "partial",
            Self::Done => "done",
            Self::Dead => "dead",
        }
    }

    /// The state of this name; `InvalidInput`, naming all of them, when there is none.
    pub fn named(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == name).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|state| state.as_str()).collect();
            Error::invalid("not a state of a lease")
                .with("state", format_args!("{name:?}"))
                .with("states", names.join(", "))
        })
    }

    /// What a store has filed leases in this state under.
    #[must_use]
    pub fn status(self) -> Status {
        match self {
            Self::Held | Self::Expired => Status::Held,
            Self::Released => Status::Released,
            Self::Failed | Self::Backoff => Status::Failed,
            Self::Partial => Status::Partial,
            Self::Done => Status::Done,
            Self::Dead => Status::Dead,
        }
    }
}

impl Lease {
    /// Whether nothing is to be done about it any more, and nothing has changed since `before`: then a store may
    /// forget it. What is held, failed or dead is kept.
    #[must_use]
    pub fn is_over_since(&self, before: Timestamp) -> bool {
        let is_over = matches!(self.status, Status::Done | Status::Released | Status::Partial);
        is_over && self.changed_at < before && self.until < before
    }

    /// What it is at `now`.
    #[must_use]
    pub fn state(&self, now: Timestamp) -> State {
        match self.status {
            Status::Held if self.until <= now => State::Expired,
            Status::Held => State::Held,
            Status::Released => State::Released,
            Status::Failed if self.until > now => State::Backoff,
            Status::Failed => State::Failed,
            Status::Partial => State::Partial,
            Status::Done => State::Done,
            Status::Dead => State::Dead,
        }
    }
}

/// The longest name of a worker or a request, in bytes.
const LONGEST_NAME: usize = 256;
/// The longest reason, in bytes; what is longer is cut.
const LONGEST_REASON: usize = 2_048;

/// Checks what every coordinator checks before anything else: `InvalidInput` for a key that is empty or longer than
/// [`LeaseKey::MAX_BYTES`], and for a worker or a request id of more than 256 bytes. A long reason is cut, an empty request
/// id is none, and a zero byte, which no text of PostgreSQL holds, is replaced.
pub fn admit(key: &str, command: &mut Command) -> Result<()> {
    if !(1..=LeaseKey::MAX_BYTES).contains(&key.len()) {
        let message = "a lease key has 1 to 4096 bytes";
        return Err(Error::invalid(message).with("bytes", key.len()));
    }
    let short = |name: &'static str, text: &Option<String>| match text {
        Some(text) if text.len() > LONGEST_NAME => Err(Error::invalid("the name is longer than 256 bytes")
            .with("field", name)
            .with("bytes", text.len())),
        _ => Ok(()),
    };
    let storable = |text: &mut String| {
        if text.contains('\0') {
            *text = text.replace('\0', "\u{fffd}");
        }
    };
    match command {
        Command::Claim { worker, request_id, .. } => {
            short("worker", worker)?;
            short("request_id", request_id)?;
            worker.iter_mut().chain(request_id.iter_mut()).for_each(storable);
            *request_id = request_id.take().filter(|id| !id.is_empty());
            Ok(())
        }
        Command::Fail { reason, .. } | Command::Release { reason, .. } | Command::Recover { reason, .. } => {
            reason.truncate(reason.floor_char_boundary(LONGEST_REASON));
            storable(reason);
            Ok(())
        }
        Command::Renew { .. } | Command::Complete { .. } => Ok(()),
    }
}
