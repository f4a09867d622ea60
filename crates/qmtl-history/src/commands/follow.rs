//! `backfill --follow`: fills, then stays current as bars close, through outages.

use std::time::Duration;

use qmtl_history_api::{Interval, RangeSet, TimeRange, Timestamp};

use super::Context;
use super::backfill::{self, Done, Open};
use crate::cli::BackfillArgs;
use crate::fill::Job;
use crate::outcome::{self, Outcome, Result};
use crate::text;

/// How long after its close a bar is asked for: an exchange needs a moment to publish it.
const GRACE: Duration = Duration::from_secs(1);
/// The pauses before a bar that was not to be had is asked for again, while the next one is open.
const AGAIN: Duration = Duration::from_secs(1);
const AGAIN_AT_MOST: Duration = Duration::from_secs(60);
/// How far back a round looks for bars that have come to be missing: a proof about a bar of the last
/// seven days is believed for an hour only.
const LOOK_BACK: Duration = Duration::from_secs(8 * 86_400);

/// One series that is kept current.
#[derive(Clone, Debug)]
struct Followed {
    job: Job,
    pace: Pace,
    /// What was last told of a failure, so that an outage is told once.
    failure: Option<String>,
}

/// When a series is asked again, and from where on.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pace {
    interval: Interval,
    start: Timestamp,
    from: Timestamp,
    due: Timestamp,
    again: Duration,
}

impl Pace {
    fn new(interval: Interval, start: Timestamp) -> Self {
        Self { interval, start, from: start, due: Timestamp::MIN, again: AGAIN }
    }

    /// The bars of a round at `now`; none before the first of them has closed.
    fn range(&self, now: Timestamp) -> Option<TimeRange> {
        TimeRange::checked(self.from, self.interval.floor(now)?)
    }

    /// Takes in what a round up to `end` left missing and from where on something failed.
    fn settle(&mut self, now: Timestamp, end: Timestamp, missing: &RangeSet, failed_from: Option<Timestamp>) {
        let recent = now.checked_sub(LOOK_BACK).unwrap_or(Timestamp::MIN);
        self.from = failed_from.map_or(recent, |failed| failed.min(recent)).max(self.start);
        let settled = now.checked_sub(GRACE).unwrap_or(Timestamp::MIN);
        let close =
            self.interval.next(settled).and_then(|close| close.checked_add(GRACE)).unwrap_or(Timestamp::MAX);
        let is_current = failed_from.is_none() && missing.span().is_none_or(|span| span.end() < end);
        if is_current {
            (self.due, self.again) = (close, AGAIN);
        } else {
            let again = now.checked_add(self.again).unwrap_or(Timestamp::MAX);
            self.due = again.min(close);
            self.again = (self.again * 2).min(AGAIN_AT_MOST);
        }
    }
}

/// Fills, then goes round until an interruption or the deadline.
pub(super) async fn run(open: Open, args: &BackfillArgs, context: &Context) -> Result<Outcome> {
    let clock = &context.clock;
    let until = args
        .deadline
        .map(|span| clock.monotonic().saturating_add(Duration::from_secs(span.as_secs().unsigned_abs())));
    let first = open.fill(open.jobs.clone(), context).await?;
    let mut last = backfill::conclude(&first, context)?;
    let mut followed: Vec<_> = open
        .jobs
        .iter()
        .map(|job| Followed {
            job: job.clone(),
            pace: Pace::new(job.key.interval, job.range.start()),
            failure: None,
        })
        .collect();
    take_in(&mut followed, &first.done, context)?;
    context.console.note("following; Ctrl-C ends it");
    while last != Outcome::Interrupted {
        let due = followed.iter().map(|followed| followed.pace.due).min().unwrap_or(Timestamp::MAX);
        let mut wait = due.since(clock.now());
        if let Some(until) = until {
            let left = until.saturating_sub(clock.monotonic());
            if left.is_zero() {
                return Ok(last);
            }
            wait = wait.min(left);
        }
        tokio::select! {
            () = clock.sleep(wait) => {}
            () = context.signals.asked() => {
                context.console.warn("interrupted; what is stored stays, the same command goes on from there");
                return Ok(Outcome::Interrupted);
            }
        }
        let now = clock.now();
        let jobs: Vec<_> = followed.iter().filter_map(|followed| followed.round(now)).collect();
        if jobs.is_empty() {
            continue;
        }
        let hushed = Context { console: context.console.hushed(), ..context.clone() };
        let round = open.fill(jobs, &hushed).await?;
        last = round.outcome;
        if last == Outcome::Interrupted {
            return backfill::conclude(&round, context);
        }
        take_in(&mut followed, &round.done, context)?;
    }
    Ok(last)
}

impl Followed {
    /// What to fill at `now`, if it is time.
    fn round(&self, now: Timestamp) -> Option<Job> {
        let range = self.pace.range(now).filter(|_| self.pace.due <= now)?;
        Some(Job { range, left_out: 0, ..self.job.clone() })
    }

    /// Tells of an outage when it begins and when it is over.
    fn tell(&mut self, done: &Done, context: &Context) {
        let failure = done.report.failed.first().map(|(_, error)| error.message().to_owned());
        let key = &self.job.key;
        match (&self.failure, &failure) {
            (before, Some(now)) if before.as_ref() != Some(now) => {
                let (_, error) = &done.report.failed[0];
                context.console.warn(format!("{key}: {}; it is tried again", outcome::chain(error)));
            }
            (Some(_), None) => context.console.note(format!("{key}: it works again")),
            _ => {}
        }
        self.failure = failure;
    }
}

/// Takes in what came of a round and tells what it brought.
fn take_in(followed: &mut [Followed], done: &[Done], context: &Context) -> Result<()> {
    let console = &context.console;
    for done in done {
        let Some(own) = followed.iter_mut().find(|followed| followed.job.key == done.job.key) else {
            continue;
        };
        let (report, range) = (&done.report, done.job.range);
        let is_first = own.pace.due == Timestamp::MIN;
        let failed_from = report.failed.iter().map(|(range, _)| range.start()).min();
        own.pace.settle(context.clock.now(), range.end(), &report.missing, failed_from);
        own.tell(done, context);
        if is_first || (report.rows_written == 0 && report.known_empty.is_empty()) {
            continue;
        }
        if console.is_json() {
            outcome::read_or_not(console.json(&done.result()))?;
        } else {
            let rows = text::counted(report.rows_written, "row");
            let empty = report.known_empty.count(own.pace.interval);
            let empty =
                if empty > 0 { format!(", {} known empty", text::count(empty)) } else { String::new() };
            let line = format!("{}  {rows}{empty}, up to {}", own.job.key, range.end());
            outcome::read_or_not(console.line(line))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        format!("2024-03-10T{text}Z").parse().unwrap()
    }

    fn pace() -> Pace {
        Pace::new(Interval::MINUTE, "2024-01-01".parse().unwrap())
    }

    #[test]
    fn a_series_that_is_current_is_asked_at_the_next_close() {
        let mut pace = pace();
        pace.settle(at("12:00:30"), at("12:00:00"), &RangeSet::new(), None);
        assert_eq!(pace.due, at("12:01:01"));
        assert_eq!(pace.range(at("12:01:01")).unwrap().end(), at("12:01:00"));
        assert_eq!(pace.from, "2024-03-02T12:00:30Z".parse().unwrap());
    }

    #[test]
    fn no_close_is_slept_through() {
        // A bar may be as short as the time that an exchange is given to publish it.
        let mut short = Pace::new("1s".parse().unwrap(), "2024-01-01".parse().unwrap());
        short.settle(at("12:00:30.1"), at("12:00:29"), &RangeSet::new(), None);
        assert_eq!(short.due, at("12:00:31"));
        // And a round may end after the next bar has closed.
        let mut pace = pace();
        pace.settle(at("12:01:00.5"), at("12:00:00"), &RangeSet::new(), None);
        assert_eq!(pace.due, at("12:01:01"));
    }

    #[test]
    fn a_bar_that_is_late_is_asked_for_again_after_growing_pauses_but_not_past_the_next_close() {
        let mut pace = pace();
        let late = RangeSet::from(TimeRange::new(at("11:59:00"), at("12:00:00")).unwrap());
        let mut now = at("12:00:01");
        let mut waits = Vec::new();
        for _ in 0..6 {
            pace.settle(now, at("12:00:00"), &late, None);
            waits.push(pace.due.since(now).as_secs());
            now = pace.due;
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 29]);
        pace.settle(now, at("12:01:00"), &RangeSet::new(), None);
        assert_eq!((pace.due, pace.again), (at("12:02:01"), AGAIN));
        // What is missing before the newest bars is nothing that waiting helps.
        pace.settle(at("12:02:30"), at("12:02:00"), &late, None);
        assert_eq!(pace.due, at("12:03:01"));
    }

    #[test]
    fn what_failed_is_asked_for_again_from_its_beginning() {
        let mut pace = pace();
        let failed: Timestamp = "2024-02-01".parse().unwrap();
        pace.settle(at("12:00:30"), at("12:00:00"), &RangeSet::new(), Some(failed));
        assert_eq!((pace.from, pace.due), (failed, at("12:00:31")));
        pace.settle(at("12:00:31"), at("12:00:00"), &RangeSet::new(), Some("2023-01-01".parse().unwrap()));
        assert_eq!(pace.from, pace.start);
    }
}
