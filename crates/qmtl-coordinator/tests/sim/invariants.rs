//! What must hold.

use std::collections::{BTreeMap, BTreeSet};

use qmtl_backfill::lease::Status;
use qmtl_history_api::Timestamp;

use crate::leases::Event;

/// What must hold, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Invariant {
    /// Of one key no two grants are live at the same time, by the store's clock.
    OneHolder,
    /// Of two grants the later one has the greater fence.
    FencesIncrease,
    /// A grant is ended by who shows its own token.
    OwnTokens,
    /// A window that is called done has no bar that is missing.
    WholeIsWhole,
    /// Whoever begins to write a window holds its lease.
    WritesAreLeased,
    /// A write changes no row that is there.
    NothingChanges,
    /// A bar is asked for at most once for each grant.
    OnceAGrant,
    /// What the coordinator answered, it could have answered one call after another.
    Linear,
    /// Once faults stop, workers end, and every key is free, partial or dead.
    Ends,
    /// Every bar is there in the end.
    NothingLost,
}

/// Something that does not hold.
#[derive(Clone, Debug)]
pub(crate) struct Violation {
    pub(crate) invariant: Invariant,
    pub(crate) what: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}: {}", self.invariant, self.what)
    }
}

/// The grants of a run, as the store gave them.
#[derive(Debug, Default)]
pub(crate) struct Grants {
    last_fence: u64,
    /// The grant of each key that nobody has ended, and until when it holds at least.
    live: BTreeMap<String, (u64, Timestamp)>,
    /// How many grants of each key each worker got.
    given: BTreeMap<(String, String), u32>,
    /// Keys that were called done.
    whole: BTreeSet<String>,
    count: u64,
}

impl Grants {
    pub(crate) fn take(&mut self, now: Timestamp, event: &Event) -> Option<Violation> {
        let violation = |invariant, what| Some(Violation { invariant, what });
        let until = now.checked_add(crate::world::TTL).unwrap_or(Timestamp::MAX);
        match event {
            Event::Granted { key, fence, worker } => {
                self.count += 1;
                *self.given.entry((key.clone(), worker.clone())).or_default() += 1;
                if *fence <= self.last_fence {
                    return violation(
                        Invariant::FencesIncrease,
                        format!("{fence} after {}", self.last_fence),
                    );
                }
                self.last_fence = *fence;
                let before = self.live.insert(key.clone(), (*fence, until));
                match before {
                    Some((other, until)) if until > now => violation(
                        Invariant::OneHolder,
                        format!("{now}: {key} has the grants {other} and {fence}"),
                    ),
                    _ => None,
                }
            }
            Event::Renewed { key, fence } => {
                self.live.insert(key.clone(), (*fence, until));
                None
            }
            Event::Ended { key, fence, shown, status, ratio } => {
                self.live.remove(key);
                if *status == Status::Done && *ratio >= 1.0 {
                    self.whole.insert(key.clone());
                }
                // A token begins with its fence, in hexadecimal.
                let own = shown.split('-').next().and_then(|own| u64::from_str_radix(own, 16).ok());
                if own.is_some_and(|own| own != *fence || fence < &self.of_key(key)) {
                    return violation(
                        Invariant::OwnTokens,
                        format!("{key}: the grant {fence} was ended by {shown}"),
                    );
                }
                None
            }
        }
    }

    fn of_key(&self, key: &str) -> u64 {
        self.live.get(key).map_or(0, |(fence, _)| *fence)
    }

    pub(crate) fn whole(&self) -> impl Iterator<Item = &String> {
        self.whole.iter()
    }

    pub(crate) fn of(&self, key: &str, worker: &str) -> u32 {
        self.given.get(&(key.to_owned(), worker.to_owned())).copied().unwrap_or(0)
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }
}
