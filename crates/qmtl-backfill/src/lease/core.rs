//! The pure heart of every coordinator: what one command does to the state of one key.

use std::fmt;
use std::time::Duration;

use qmtl_history_api::Timestamp;

/// What a coordinator knows of one key: its last grant, and what came of it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Lease {
    /// The number of the last grant; of two grants the later one has the greater number.
    pub fence: u64,
    /// The name of the last grant, which its holder shows with every call.
    pub token: String,
    /// What came of it.
    pub status: Status,
    /// While it is held, when it expires; else, from when on the key may be claimed.
    pub until: Timestamp,
    /// When it was granted.
    pub granted_at: Timestamp,
    /// When anything of this was last changed.
    pub changed_at: Timestamp,
    /// Who holds it or held it last.
    pub worker: Option<String>,
    /// The id of the request that it was granted to.
    pub request_id: Option<String>,
    /// Grants in a row that failed or expired without a newly settled bar.
    pub attempts: u32,
    /// The share of the key's bars that are stored or known to be empty, 0 to 1, as last reported.
    pub ratio: f64,
    /// That share when the last grant was given: what a failed one has settled is no failed attempt.
    pub granted_ratio: f64,
    /// Bars that the last completion could not settle.
    pub missing: u64,
    /// Why it failed, was given back, or was recovered.
    pub reason: Option<String>,
}

/// What came of the last grant of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Status {
    /// Its holder has not been heard of since; expired once its time is over.
    Held,
    /// Given back without having failed.
    Released,
    /// Failed, with attempts left.
    Failed,
    /// Completed, with bars that could not be settled.
    Partial,
    /// Completed.
    Done,
    /// Failed or expired too often in a row: nobody may claim it until it is recovered.
    Dead,
}

impl Status {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Held, Self::Released, Self::Failed, Self::Partial, Self::Done, Self::Dead];

    /// The name in answers, filters and stores, `snake_case`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Released => "released",
            Self::Failed => "failed",
            Self::Partial => "partial",
            Self::Done => "done",
            Self::Dead => "dead",
        }
    }

    /// The status of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == name)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What is asked of a key.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Command {
    /// Give me the lease.
    Claim {
        /// For how long; cut to what the [`Policy`] allows.
        ttl: Duration,
        /// Who asks.
        worker: Option<String>,
        /// Tells a repeated request from a new one: the same id gets the same grant.
        request_id: Option<String>,
    },
    /// I am alive: let the lease last for another `ttl` from now on.
    Renew {
        /// The grant.
        token: String,
        /// For how long.
        ttl: Duration,
        /// How much of the window is settled.
        ratio: Option<f64>,
    },
    /// The window is done.
    Complete {
        /// The grant.
        token: String,
        /// Bars that could not be settled: then it is [`Status::Partial`].
        missing: u64,
        /// How much of the window is settled where bars are missing; below 1.
        ratio: f64,
        /// How long nobody need look at it again.
        retry_after: Duration,
    },
    /// The window failed.
    Fail {
        /// The grant.
        token: String,
        /// Why.
        reason: String,
        /// How much of the window is settled.
        ratio: Option<f64>,
    },
    /// I give the window back; that is no failure.
    Release {
        /// The grant.
        token: String,
        /// Why.
        reason: String,
        /// How much of the window is settled.
        ratio: Option<f64>,
    },
    /// An operator ends the grant, whatever its state, and forgives failed attempts.
    Recover {
        /// The grant; `None` forces it: then the fence is raised, so that its holder can do nothing any more.
        token: Option<String>,
        /// Whether the window counts as done; it may be claimed again otherwise.
        is_done: bool,
        /// Why.
        reason: String,
    },
}

/// What came of a command. In all but the first four cases nothing was changed.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Reply {
    /// The lease is the caller's.
    Granted(Grant),
    /// The lease is the caller's for longer.
    Renewed(Grant),
    /// The grant has ended as asked, now or by the same call before.
    Ended {
        /// How much of the window is settled.
        ratio: f64,
        /// What the key is now.
        status: Status,
    },
    /// Nobody may have the lease now.
    Refused(Refusal),
    /// No such key was ever claimed.
    Unknown,
    /// The grant is not the key's last one, or has ended otherwise; a renewal also when its time is over.
    Stale,
}

/// A lease that is the caller's.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Grant {
    /// Its number.
    pub fence: u64,
    /// Its name.
    pub token: String,
    /// When it expires, by the coordinator's clock.
    pub until: Timestamp,
    /// How much of the window was settled as last reported.
    pub ratio: f64,
    /// Whether the lease before it expired, which counts as a failed attempt.
    pub has_expired: bool,
}

/// Why nobody may have a lease now.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Refusal {
    /// Why.
    pub outcome: Outcome,
    /// What came of the key's last grant: of a key that is not to be claimed yet, whether it failed or was completed as
    /// far as it could be.
    pub status: Status,
    /// Who holds it or held it last.
    pub worker: Option<String>,
    /// When it may be worth asking again; of a dead key, when it died.
    pub until: Timestamp,
}

/// Why a claim was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// Somebody holds it.
    Held,
    /// It failed too often.
    Dead,
    /// It failed, or could not be settled, a short while ago.
    Backoff,
    /// The grant that this request got before has ended: a message that came twice, the second time late.
    Replayed,
}

impl Outcome {
    /// The name in answers.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Dead => "dead",
            Self::Backoff => "backoff",
            Self::Replayed => "replayed",
        }
    }

    /// The outcome of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        [Self::Held, Self::Dead, Self::Backoff, Self::Replayed].into_iter().find(|own| own.as_str() == name)
    }
}

/// What a store brings to a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// The store's time, which never goes back and by which leases expire.
    pub now: Timestamp,
    /// A number greater than that of every grant before, of any key; used up when the step changes the key's
    /// fence.
    pub fence: u64,
    /// Random bits for the name of a grant.
    pub nonce: u64,
}

impl Turn {
    /// The name of a grant of this turn. It has no colon, which recovery splits at.
    fn token(self) -> String {
        format!("{:x}-{:016x}", self.fence, self.nonce)
    }
}

/// The numbers by which leases are given.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Policy {
    /// Failed attempts in a row after which a key is dead.
    pub max_attempts: u32,
    /// The shortest lease.
    pub shortest: Duration,
    /// The longest lease.
    pub longest: Duration,
    /// The longest pause after failures.
    pub longest_pause: Duration,
    /// The longest that a completion may keep others from its window.
    pub longest_retry_after: Duration,
}

impl Default for Policy {
    /// 6 attempts, leases from a second to an hour, pauses of a minute and completions of a day at most.
    fn default() -> Self {
        Self {
            max_attempts: 6,
            shortest: Duration::from_secs(1),
            longest: Duration::from_secs(3_600),
            longest_pause: Duration::from_secs(60),
            longest_retry_after: Duration::from_secs(86_400),
        }
    }
}

impl Policy {
    /// How many failed attempts in a row make a key dead; one at least.
    #[must_use]
    pub fn with_max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = attempts.max(1);
        self
    }

    /// What `command` does to a key of which `lease` is known: the key's new state, `None` when nothing changes, and
    /// the reply. Stores call it inside of the transaction in which they write the state.
    #[must_use]
    pub fn step(&self, lease: Option<&Lease>, turn: Turn, command: &Command) -> (Option<Lease>, Reply) {
        let Some(lease) = lease else {
            return match command {
                Command::Claim { ttl, worker, request_id } => {
                    let lease = self.grant(None, turn, (*ttl, worker, request_id));
                    let grant = lease.as_granted(false);
                    (Some(lease), Reply::Granted(grant))
                }
                _ => (None, Reply::Unknown),
            };
        };
        match command {
            Command::Claim { ttl, worker, request_id } => self.claim(lease, turn, (*ttl, worker, request_id)),
            Command::Renew { token, ttl, ratio } => self.renew(lease, turn, (token, *ttl, *ratio)),
            Command::Complete { token, missing, ratio, retry_after } => {
                self.complete(lease, turn, (token, *missing, *ratio, *retry_after))
            }
            Command::Fail { token, reason, ratio } => self.fail(&lease.at(*ratio), turn, (token, reason)),
            Command::Release { token, reason, ratio } => release(&lease.at(*ratio), turn, (token, reason)),
            Command::Recover { token, is_done, reason } => {
                recover(lease, turn, (token.as_deref(), *is_done, reason))
            }
        }
    }

    fn ttl(&self, wanted: Duration) -> Duration {
        wanted.clamp(self.shortest, self.longest)
    }

    /// A new grant of a key.
    fn grant(
        &self,
        before: Option<&Lease>,
        turn: Turn,
        (ttl, worker, request_id): (Duration, &Option<String>, &Option<String>),
    ) -> Lease {
        // What was done once is claimed again because bars are missing again; nobody knows yet how many.
        let ratio = before.filter(|before| before.status != Status::Done).map_or(0.0, |before| before.ratio);
        Lease {
            fence: turn.fence,
            token: turn.token(),
            status: Status::Held,
            until: later(turn.now, self.ttl(ttl)),
            granted_at: turn.now,
            changed_at: turn.now,
            worker: worker.clone(),
            request_id: request_id.clone(),
            attempts: before.map_or(0, |before| before.attempts),
            ratio,
            granted_ratio: ratio,
            missing: 0,
            reason: None,
        }
    }

    fn claim(
        &self,
        lease: &Lease,
        turn: Turn,
        claim: (Duration, &Option<String>, &Option<String>),
    ) -> (Option<Lease>, Reply) {
        let refused = |outcome| (None, Reply::Refused(lease.refusal(outcome)));
        let is_held = lease.status == Status::Held && turn.now < lease.until;
        let (_, worker, request_id) = claim;
        if request_id.is_some() && lease.request_id == *request_id && lease.worker == *worker {
            return if is_held {
                (None, Reply::Granted(lease.as_granted(false)))
            } else {
                refused(Outcome::Replayed)
            };
        }
        match lease.status {
            Status::Held if is_held => refused(Outcome::Held),
            Status::Dead => refused(Outcome::Dead),
            // A worker that ends without a word at each try must not be started on the same window for ever.
            Status::Held => {
                let attempts = lease.attempts_after_failure();
                if attempts >= self.max_attempts {
                    let dead =
                        Lease { attempts, reason: Some("expired".into()), ..lease.ended(Status::Dead, turn) };
                    let refusal = dead.refusal(Outcome::Dead);
                    return (Some(dead), Reply::Refused(refusal));
                }
                let granted = Lease { attempts, ..self.grant(Some(lease), turn, claim) };
                let grant = granted.as_granted(true);
                (Some(granted), Reply::Granted(grant))
            }
            Status::Released | Status::Failed | Status::Partial | Status::Done => {
                if turn.now < lease.until {
                    return refused(Outcome::Backoff);
                }
                let granted = self.grant(Some(lease), turn, claim);
                let grant = granted.as_granted(false);
                (Some(granted), Reply::Granted(grant))
            }
        }
    }

    fn renew(
        &self,
        lease: &Lease,
        turn: Turn,
        (token, ttl, ratio): (&str, Duration, Option<f64>),
    ) -> (Option<Lease>, Reply) {
        if lease.token != token || lease.status != Status::Held || lease.until <= turn.now {
            return (None, Reply::Stale);
        }
        // A renewal that was overtaken by a later one must not shorten what its holder counts on.
        let until = later(turn.now, self.ttl(ttl)).max(lease.until);
        let renewed = Lease { until, changed_at: turn.now, ..lease.at(ratio) };
        let grant = renewed.as_granted(false);
        (Some(renewed), Reply::Renewed(grant))
    }

    fn complete(
        &self,
        lease: &Lease,
        turn: Turn,
        (token, missing, ratio, retry_after): (&str, u64, f64, Duration),
    ) -> (Option<Lease>, Reply) {
        match lease.status {
            _ if lease.token != token => (None, Reply::Stale),
            Status::Done | Status::Partial => (None, lease.as_ended()),
            Status::Released | Status::Failed => (None, Reply::Stale),
            // A lease that has expired, even once too often, is still its holder's as long as nobody else has it.
            Status::Held | Status::Dead => {
                let mut ended = lease.ended(if missing == 0 { Status::Done } else { Status::Partial }, turn);
                (ended.missing, ended.attempts) = (missing, 0);
                ended.ratio = if missing == 0 { 1.0 } else { ratio.clamp(0.0, ALMOST) };
                if missing > 0 {
                    ended.until = later(turn.now, retry_after.min(self.longest_retry_after));
                }
                let reply = ended.as_ended();
                (Some(ended), reply)
            }
        }
    }

    fn fail(&self, lease: &Lease, turn: Turn, (token, reason): (&str, &str)) -> (Option<Lease>, Reply) {
        match lease.status {
            _ if lease.token != token => (None, Reply::Stale),
            Status::Failed | Status::Dead => (None, lease.as_ended()),
            Status::Released | Status::Partial | Status::Done => (None, Reply::Stale),
            Status::Held => {
                let attempts = lease.attempts_after_failure();
                let is_dead = attempts >= self.max_attempts;
                let ended = lease.ended(if is_dead { Status::Dead } else { Status::Failed }, turn);
                let until = later(turn.now, self.pause(attempts));
                let ended = Lease { attempts, until, reason: Some(reason.into()), ..ended };
                let reply = ended.as_ended();
                (Some(ended), reply)
            }
        }
    }

    /// None after the first failure, then a second, doubled with each further one.
    fn pause(&self, attempts: u32) -> Duration {
        let doublings = attempts.saturating_sub(2).min(16);
        if attempts < 2 {
            Duration::ZERO
        } else {
            Duration::from_secs(1 << doublings).min(self.longest_pause)
        }
    }
}

/// The largest share of a window in which bars are missing.
const ALMOST: f64 = 1.0 - f64::EPSILON;

fn release(lease: &Lease, turn: Turn, (token, reason): (&str, &str)) -> (Option<Lease>, Reply) {
    match lease.status {
        _ if lease.token != token => (None, Reply::Stale),
        Status::Released => (None, lease.as_ended()),
        Status::Failed | Status::Partial | Status::Done | Status::Dead => (None, Reply::Stale),
        Status::Held => {
            // What was settled before it was given back counts: a failure afterwards is the first one.
            let attempts = if lease.ratio > lease.granted_ratio { 0 } else { lease.attempts };
            let ended =
                Lease { attempts, reason: Some(reason.into()), ..lease.ended(Status::Released, turn) };
            let reply = ended.as_ended();
            (Some(ended), reply)
        }
    }
}

fn recover(
    lease: &Lease,
    turn: Turn,
    (token, is_done, reason): (Option<&str>, bool, &str),
) -> (Option<Lease>, Reply) {
    if token.is_some_and(|token| token != lease.token) {
        return (None, Reply::Stale);
    }
    let status = if is_done { Status::Done } else { Status::Released };
    // Logs name leases of windows that were done since: what has ended stays as it ended. The same recovery may come once
    // more, because its first answer was lost.
    if token.is_some() && lease.has_ended() {
        return (None, if lease.status == status { lease.as_ended() } else { Reply::Stale });
    }
    let mut ended = Lease { attempts: 0, reason: Some(reason.into()), ..lease.ended(status, turn) };
    if is_done {
        (ended.ratio, ended.missing) = (1.0, 0);
    }
    if token.is_none() {
        (ended.fence, ended.token) = (turn.fence, turn.token());
    }
    let reply = ended.as_ended();
    (Some(ended), reply)
}

impl Lease {
    /// Whether it was completed or given back, so that nobody holds it and nobody waits for it to be recovered.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        matches!(self.status, Status::Done | Status::Partial | Status::Released)
    }

    /// A lease of this grant and status, and of which nothing else is known: what stores build rows from.
    #[must_use]
    pub fn new(fence: u64, token: String, status: Status) -> Self {
        let (until, granted_at, changed_at) = (Timestamp::MIN, Timestamp::MIN, Timestamp::MIN);
        let (worker, request_id, reason) = (None, None, None);
        let (attempts, ratio, granted_ratio, missing) = (0, 0.0, 0.0, 0);
        Self {
            fence,
            token,
            status,
            until,
            granted_at,
            changed_at,
            worker,
            request_id,
            attempts,
            ratio,
            granted_ratio,
            missing,
            reason,
        }
    }

    /// The same with so much of its window settled, where that is known while it is held.
    fn at(&self, ratio: Option<f64>) -> Self {
        let ratio = ratio.filter(|ratio| (0.0..=1.0).contains(ratio) && self.status == Status::Held);
        Self { ratio: ratio.unwrap_or(self.ratio), ..self.clone() }
    }

    /// The same with its grant ended now.
    fn ended(&self, status: Status, turn: Turn) -> Self {
        Self { status, until: turn.now, changed_at: turn.now, ..self.clone() }
    }

    /// The attempts once the present one has failed.
    fn attempts_after_failure(&self) -> u32 {
        if self.ratio > self.granted_ratio { 0 } else { self.attempts.saturating_add(1) }
    }

    fn as_granted(&self, has_expired: bool) -> Grant {
        let Self { fence, token, until, ratio, .. } = self.clone();
        Grant { fence, token, until, ratio, has_expired }
    }

    fn as_ended(&self) -> Reply {
        Reply::Ended { ratio: self.ratio, status: self.status }
    }

    fn refusal(&self, outcome: Outcome) -> Refusal {
        Refusal { outcome, status: self.status, worker: self.worker.clone(), until: self.until }
    }
}

fn later(now: Timestamp, by: Duration) -> Timestamp {
    now.checked_add(by).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests;
