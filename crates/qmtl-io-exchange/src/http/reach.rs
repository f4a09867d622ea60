//! Whether a host answers at all. What all requests find out together: one that cannot be reached is waited for once,
//! not by each request in turn.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use qmtl_history_api::Error;

/// What is known of a host. Times are monotonic.
#[derive(Debug)]
pub(super) struct Reach {
    /// How long a host is waited for that has never answered.
    patience: Duration,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    has_answered: bool,
    has_served: bool,
    /// When the first of the tries began that nobody has answered.
    since: Option<Duration>,
    /// When it was given up, and why.
    given_up: Option<(Duration, Error)>,
}

impl Reach {
    pub(super) fn new(patience: Duration) -> Self {
        Self { patience, known: Mutex::default() }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The error of a host that was given up lately; after as long as it was waited for, somebody may look again.
    pub(super) fn check(&self, now: Duration) -> Result<(), Error> {
        match &self.known().given_up {
            Some((at, error)) if now < at.saturating_add(self.patience) => Err(error.clone()),
            _ => Ok(()),
        }
    }

    /// Begins a try.
    pub(super) fn begin(&self, now: Duration) {
        let mut known = self.known();
        if known.given_up.take_if(|(at, _)| now >= at.saturating_add(self.patience)).is_some() {
            known.since = None;
        }
        known.since.get_or_insert(now);
    }

    /// Takes in an answer, and whether it shows that requests from here are served, be they in vain.
    pub(super) fn answered(&self, is_service: bool) {
        let mut known = self.known();
        known.has_answered = true;
        known.has_served |= is_service;
        known.given_up = None;
    }

    /// Until when the host is waited for; `None` for one that has answered.
    pub(super) fn until(&self) -> Option<Duration> {
        let known = self.known();
        let since = known.since.filter(|_| !known.has_answered)?;
        Some(since.saturating_add(self.patience))
    }

    /// How long it has been waited for.
    pub(super) fn waited(&self, now: Duration) -> Duration {
        self.known().since.map_or(Duration::ZERO, |since| now.saturating_sub(since))
    }

    /// Whether it has served a request.
    pub(super) fn has_served(&self) -> bool {
        self.known().has_served
    }

    /// Gives the host up, for all requests.
    pub(super) fn give_up(&self, now: Duration, why: &Error) {
        self.known().given_up.get_or_insert_with(|| (now, why.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_host_that_never_answers_is_given_up_once_for_all_and_looked_at_again_later() {
        let reach = Reach::new(60 * SECOND);
        for now in [5, 20] {
            reach.begin(now * SECOND);
            assert_eq!(reach.until(), Some(65 * SECOND));
        }
        assert!(reach.check(64 * SECOND).is_ok());
        reach.give_up(64 * SECOND, &Error::unavailable("refused"));
        reach.give_up(65 * SECOND, &Error::unavailable("another"));
        assert_eq!(reach.check(123 * SECOND).unwrap_err().message(), "refused");
        assert!(reach.check(124 * SECOND).is_ok());
        reach.begin(124 * SECOND);
        assert_eq!(reach.until(), Some(184 * SECOND));
    }

    #[test]
    fn a_host_that_has_answered_once_is_waited_for() {
        let reach = Reach::new(60 * SECOND);
        reach.begin(SECOND);
        reach.give_up(2 * SECOND, &Error::unavailable("refused"));
        reach.answered(false);
        assert!(reach.check(3 * SECOND).is_ok());
        assert_eq!((reach.until(), reach.has_served()), (None, false));
        reach.answered(true);
        reach.answered(false);
        assert!(reach.has_served());
    }
}
