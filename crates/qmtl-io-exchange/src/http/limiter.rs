//! How much may be asked of a host in a minute, kept together for all jobs of the process.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use qmtl_history_api::Clock;

/// Seconds for which a use counts: the minute, and the second that the use may have begun before it.
const KEPT_SECS: u64 = 61;

/// Weight used within any minute. Times are monotonic.
///
/// The minute slides: whatever minute the server counts by, no 60 seconds hold more than the budget.
#[derive(Clone, Debug)]
struct Budget {
    per_minute: u32,
    /// Weight by the second in which it was used, ascending.
    used: VecDeque<(u64, u32)>,
    blocked_until: Duration,
    /// The status of the answer that said so.
    status: u16,
    pace: Option<Pace>,
}

/// Why a request waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Held {
    /// Others have used what the host grants.
    UsedUp,
    /// The host has asked for a pause, with this status.
    Paused(u16),
    /// The host has banned this address, with this status.
    Banned(u16),
}

/// The status of a ban, which comes of more than one request too many.
const BANNED: u16 = 418;

impl Held {
    /// The word for [`Wait::what`](qmtl_history_api::Wait::what).
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::UsedUp => "rate_limit",
            Self::Paused(_) => "pause",
            Self::Banned(_) => "ban",
        }
    }

    /// The status of the answer because of which a request waits.
    pub(super) fn status(self) -> Option<u16> {
        match self {
            Self::UsedUp => None,
            Self::Paused(status) | Self::Banned(status) => Some(status),
        }
    }
}

/// Requests at even distances; after a rest, those of up to a second at once.
#[derive(Clone, Copy, Debug)]
struct Pace {
    distance: Duration,
    /// When the next request would come if all kept their distance.
    next: Duration,
}

impl Pace {
    /// `rate` requests a second.
    fn new(rate: f64) -> Self {
        let distance = Duration::try_from_secs_f64(rate.recip()).unwrap_or(Duration::MAX);
        Self { distance, next: Duration::ZERO }
    }

    /// How long a request must still wait at `now`.
    fn wait(self, now: Duration) -> Option<Duration> {
        let ahead = Duration::from_secs(1).saturating_sub(self.distance);
        self.next.checked_sub(now + ahead).filter(|wait| !wait.is_zero())
    }

    fn take(&mut self, now: Duration) {
        self.next = self.next.max(now).saturating_add(self.distance);
    }
}

impl Budget {
    fn new(per_minute: u32) -> Self {
        Self { per_minute, used: VecDeque::new(), blocked_until: Duration::ZERO, status: 0, pace: None }
    }

    /// Grants `rate` requests a second at most; of several rates the lowest stands.
    fn slow_to(&mut self, rate: f64) {
        let slower = Pace::new(rate);
        if self.pace.is_none_or(|pace| pace.distance < slower.distance) {
            self.pace = Some(slower);
        }
    }

    /// Uses `weight` now, or says how long to wait before asking again. A weight beyond the whole
    /// budget is granted when nothing else was used for a minute.
    fn take(&mut self, now: Duration, weight: u32) -> Result<(), Duration> {
        if now < self.blocked_until {
            return Err(self.blocked_until - now);
        }
        if let Some(wait) = self.pace.and_then(|pace| pace.wait(now)) {
            return Err(wait);
        }
        self.forget(now);
        let mut left = self.total().saturating_add(weight);
        let mut free_at = None;
        for (second, weight) in &self.used {
            if left <= self.per_minute {
                break;
            }
            left -= weight;
            free_at = Some(Duration::from_secs(second + KEPT_SECS));
        }
        match free_at {
            Some(free_at) => Err(free_at.saturating_sub(now)),
            None => {
                self.add(now, weight);
                if let Some(pace) = &mut self.pace {
                    pace.take(now);
                }
                Ok(())
            }
        }
    }

    /// Takes in the server's count of its running minute: what is not ours, others used.
    fn observe(&mut self, now: Duration, counted: u32) {
        self.forget(now);
        let others = counted.saturating_sub(self.total());
        if others > 0 {
            self.add(now, others);
        }
    }

    /// Grants nothing before `until`.
    fn block(&mut self, until: Duration, status: u16) {
        if until > self.blocked_until {
            (self.blocked_until, self.status) = (until, status);
        }
    }

    fn held(&self, now: Duration) -> Held {
        match (now < self.blocked_until, self.status) {
            (false, _) => Held::UsedUp,
            (true, BANNED) => Held::Banned(BANNED),
            (true, status) => Held::Paused(status),
        }
    }

    fn add(&mut self, now: Duration, weight: u32) {
        match self.used.back_mut() {
            Some((second, used)) if *second >= now.as_secs() => *used = used.saturating_add(weight),
            _ => self.used.push_back((now.as_secs(), weight)),
        }
    }

    fn forget(&mut self, now: Duration) {
        while self.used.front().is_some_and(|(second, _)| second + KEPT_SECS <= now.as_secs()) {
            self.used.pop_front();
        }
    }

    fn total(&self) -> u32 {
        self.used.iter().fold(0, |total, (_, weight)| total.saturating_add(*weight))
    }
}

/// How much may still be asked of one host, by all clients of it in this process.
#[derive(Debug)]
pub struct Limiter(Mutex<Budget>);

impl Limiter {
    /// The limiter that all clients of `host`, such as `api.example.com:443`, share: so much weight in any minute, so
    /// many requests in any second. Of several budgets and rates the lowest stands. All must be on one clock: a test
    /// with a clock of its own needs a host of its own.
    #[must_use]
    pub fn shared(host: &str, per_minute: u32, rate: Option<f64>) -> Arc<Self> {
        static HOSTS: LazyLock<Mutex<HashMap<String, Weak<Limiter>>>> = LazyLock::new(Mutex::default);
        let mut hosts = HOSTS.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.retain(|_, limiter| limiter.strong_count() > 0);
        let limiter = hosts.get(host).and_then(Weak::upgrade).unwrap_or_else(|| {
            let limiter = Arc::new(Self(Mutex::new(Budget::new(per_minute))));
            hosts.insert(host.to_owned(), Arc::downgrade(&limiter));
            limiter
        });
        let mut budget = limiter.budget();
        budget.per_minute = budget.per_minute.min(per_minute);
        if let Some(rate) = rate {
            budget.slow_to(rate);
        }
        drop(budget);
        limiter
    }

    /// Waits until `weight` may be used, and says how long that took. When the wait would last
    /// beyond `deadline` (monotonic), the error is how long it would be.
    pub async fn acquire(
        &self,
        weight: u32,
        clock: &dyn Clock,
        deadline: Duration,
    ) -> Result<Duration, Duration> {
        let started = clock.monotonic();
        loop {
            let now = clock.monotonic();
            let granted = self.budget().take(now, weight);
            match granted {
                Ok(()) => return Ok(now - started),
                Err(wait) if now + wait > deadline => return Err(wait),
                Err(wait) => clock.sleep(wait).await,
            }
        }
    }

    /// How long it is until `weight` may be used, as things stand; `None` when that is now.
    pub(super) fn free_in(&self, weight: u32, clock: &dyn Clock) -> Option<Duration> {
        self.budget().clone().take(clock.monotonic(), weight).err()
    }

    /// Takes in the server's own count of what was used in its running minute: what is not ours, others used.
    /// `now` is monotonic.
    pub fn observe(&self, now: Duration, used: u32) {
        self.budget().observe(now, used);
    }

    /// Grants nothing before `until`, a time on the monotonic clock: the server has said so in an answer with this HTTP
    /// status, where 418 is a ban and any other a pause.
    pub fn block(&self, until: Duration, status: u16) {
        self.budget().block(until, status);
    }

    /// Why a request waits that is not granted at `now`, which is monotonic.
    pub(super) fn held(&self, now: Duration) -> Held {
        self.budget().held(now)
    }

    fn budget(&self) -> MutexGuard<'_, Budget> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
