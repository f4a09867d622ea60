//! `backfill --follow`: fills, then stays current as bars close, through outages, and says what it does.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use qmtl_backfill::{FollowConfig, Follower, Round};
use qmtl_history_api::{
    BackfillReport, Error, ErrorKind, Interval, ProgressEvent, ProgressSink, RangeSet, SeriesKey, TimeRange,
    Timestamp,
};

use super::Context;
use super::backfill::{self, Done, Open};
use crate::console::{self, Console};
use crate::fill::Job;
use crate::outcome::{self, Failure, Outcome, Result};
use crate::text;
use crate::waits::{Waits, why};

/// What was last told of each series' failure, so that an outage is told once, and when it begins: a request
/// is repeated for minutes before its round has failed.
#[derive(Debug)]
struct Outages {
    console: Console,
    told: Mutex<HashMap<(SeriesKey, What), String>>,
    waits: Waits,
}

/// What fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum What {
    Fill,
    SecondLook,
}

impl Outages {
    fn told(&self) -> MutexGuard<'_, HashMap<(SeriesKey, What), String>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells of a failure unless that was told already.
    fn begin(&self, key: &SeriesKey, what: What, message: &str, told: &str) {
        let before = self.told().insert((key.clone(), what), message.to_owned());
        if before.as_deref() != Some(message) {
            self.console.warn(format!("{key}: {told}; it is tried again"));
        }
    }

    /// Tells that a failure is over, if one was told of.
    fn end(&self, key: &SeriesKey, what: What) {
        if self.told().remove(&(key.clone(), what)).is_some() {
            self.console.note(match what {
                What::Fill => format!("{key}: the source answers again"),
                What::SecondLook => format!("{key}: stored bars are compared with the source again"),
            });
        }
    }

    /// Takes in how a fill ended, of a series that `was_served` in this run or not; false when it is not worth another
    /// one.
    fn take_in(&self, key: &SeriesKey, filled: Result<&BackfillReport, &Error>, was_served: bool) -> bool {
        let failure = match filled {
            // One that was cut short says nothing of its source.
            Ok(report) if report.stopped => return true,
            Ok(report) => report.failed.first().map(|(_, error)| error),
            Err(error) => Some(error),
        };
        match failure {
            Some(error) if is_final(error, was_served) => {
                let told = outcome::chain(error);
                self.console.warn(format!("{key}: {told}; that will not change, so it is not tried again"));
                return false;
            }
            Some(error) => self.begin(key, What::Fill, error.message(), &outcome::chain(error)),
            None => self.end(key, What::Fill),
        }
        true
    }

    /// Takes in how a second look ended.
    fn take_in_look(&self, key: &SeriesKey, compared: Result<&(), &Error>) {
        match compared {
            Ok(()) => self.end(key, What::SecondLook),
            Err(error) => {
                let told =
                    format!("stored bars cannot be compared with the source: {}", outcome::chain(error));
                self.begin(key, What::SecondLook, error.message(), &told);
            }
        }
    }
}

impl ProgressSink for Outages {
    fn on_event(&self, key: &SeriesKey, event: &ProgressEvent) {
        match event {
            // Once is no outage.
            ProgressEvent::Retrying { retry, .. }
                if retry.attempt > 1 && !self.told().contains_key(&(key.clone(), What::Fill)) =>
            {
                self.begin(key, What::Fill, retry.reason, &format!("the source is failing ({})", why(retry)));
            }
            ProgressEvent::Waiting { wait, .. } => self.waits.wait(wait),
            _ => {}
        }
    }
}

/// Whether asking again brings the same answer. A source that has served us may be out of order behind a proxy that says
/// all sorts of things; that it must not serve this country is no such outage.
fn is_final(error: &Error, was_served: bool) -> bool {
    let is_refusal = error.context().iter().any(|(name, value)| *name == "status" && value == "451");
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::InvalidInput | ErrorKind::Unsupported => true,
        ErrorKind::Unavailable => {
            !error.is_retryable() && !error.is_exhausted() && (is_refusal || !was_served)
        }
        _ => false,
    }
}

/// The refusal to follow files alone: one that is open is not read again, whatever was written to it.
pub(super) fn nothing_to_follow() -> Failure {
    let message = "a file does not grow while it is read, so there is nothing to follow; leave --follow out, or name an \
                   exchange as a source too, such as --source binance";
    Failure::from(Error::invalid(message))
        .hint("to read a file that was written anew, run the command again without it")
}

/// Fills, then goes round until an interruption or the deadline.
pub(super) async fn run(open: Open, context: &Context) -> Result<Outcome> {
    let clock = &context.clock;
    let first = open.fill(open.jobs.clone(), context).await?;
    let mut last = backfill::conclude(&first, context)?;
    let is_over = || open.limits.left().is_some_and(|left| left.is_zero());
    if first.was_cut || is_over() {
        return Ok(last);
    }
    let config = FollowConfig::default().with_at_once(open.limits.at_once);
    let (console, waits) = (context.console.clone(), Waits::new(&context.console));
    let outages = Arc::new(Outages { console, told: Mutex::default(), waits });
    let progress = Arc::<Outages>::clone(&outages);
    let stop = context.signals.stop();
    let mut follower =
        Follower::new(config).with_clock(Arc::clone(clock)).with_progress(progress).with_stop(stop.clone());
    for job in &open.jobs {
        if job.is_from_files {
            context.console.note(format!("{}: its file does not grow, so it is not followed", job.key));
            continue;
        }
        follower.follow(job.key.clone(), job.range.start(), job.strategy.clone());
    }
    for done in first.done.iter().filter(|done| !done.job.is_from_files) {
        follower.take_in(&done.report, &*open.store).await;
        let is_alive = outages.take_in(&done.job.key, Ok(&done.report), false);
        if !is_alive && !follower.unfollow(&done.job.key) {
            return Ok(last);
        }
    }
    context.console.note("following; Ctrl-C ends it");
    let mut is_last = false;
    while !stop.is_stopped() {
        let over = async {
            match open.limits.left() {
                Some(left) => clock.sleep(left).await,
                None => std::future::pending().await,
            }
        };
        let rounds = {
            let mut rounds = std::pin::pin!(follower.next(&*open.store));
            tokio::select! {
                biased;
                () = over => {
                    is_last = true;
                    stop.stop();
                    rounds.await
                }
                rounds = &mut rounds => rounds,
            }
        };
        for round in rounds {
            if let Some(Err(error)) = &round.filled
                && backfill::is_stopped(error, &stop)
            {
                continue;
            }
            let Some(job) = open.jobs.iter().find(|job| job.key == round.key) else { continue };
            let (end, is_alive) = take_in(job, round, (&open, &outages), context).await?;
            last = end.unwrap_or(last);
            if !is_alive && !follower.unfollow(&job.key) {
                return Ok(last);
            }
        }
    }
    if is_last {
        context
            .console
            .note("the deadline has passed; stored bars are kept. Run the same command to continue");
        return Ok(last);
    }
    context.console.warn("interrupted; stored bars are kept. Run the same command to continue");
    Ok(backfill::end_of_interrupted(&open.limits, context))
}

/// Tells what a round brought; how the run would end after it if it has filled anything, and whether the series is worth
/// another one.
async fn take_in(
    job: &Job,
    round: Round,
    (open, outages): (&Open, &Outages),
    context: &Context,
) -> Result<(Option<Outcome>, bool)> {
    let Round { range, filled, revised, compared, .. } = round;
    let job = Job { range, left_out: 0, ..job.clone() };
    for row in &revised {
        let (at, column) = (row.ts, &row.column);
        tracing::info!(series = %job.key, %at, column, before = row.kept, after = row.other, "a bar was revised");
    }
    if let Some(compared) = &compared {
        outages.take_in_look(&job.key, compared.as_ref());
    }
    let Some(filled) = filled else {
        if !revised.is_empty() {
            tell(&Done::revised(job, revised, (&*open.store, context.clock.now())).await, context)?;
        }
        return Ok((None, true));
    };
    let is_alive = outages.take_in(&job.key, filled.as_ref(), true);
    let mut done = Done::new(job, filled, context.clock.now());
    done.revised = revised;
    let has_news = done.report.rows_written > 0 || !done.report.known_empty.is_empty();
    if has_news || !done.revised.is_empty() {
        tell(&done, context)?;
    }
    Ok((Some(backfill::end_of(std::slice::from_ref(&done))), is_alive))
}

fn tell(done: &Done, context: &Context) -> Result<()> {
    let console = &context.console;
    if console.is_json() {
        return console::told_or_not(console.json(&done.result()));
    }
    let (report, interval) = (&done.report, done.job.key.interval);
    let rows = text::counted(report.rows_written, "row");
    let empty = report.known_empty.count(interval);
    let empty = if empty > 0 { format!(", {} known empty", text::count(empty)) } else { String::new() };
    let revised = match done.revised.len() {
        0 => String::new(),
        count => format!(", {} revised", text::counted(count as u64, "bar")),
    };
    let newest_revised = done.revised.iter().map(|row| row.ts).max();
    let newest = newest_settled(done.job.range, &report.missing, interval).or(newest_revised);
    let up_to = newest.map(|newest| format!(", up to {newest}")).unwrap_or_default();
    let line = format!("{}  {rows}{empty}{revised}{up_to}", done.job.key);
    console::told_or_not(console.line(line))?;
    for row in &done.revised {
        let told = text::in_line(&format!("{}: {} was stored, now {}", row.column, row.kept, row.other));
        console::told_or_not(console.line(format!("    revised    {} {told}", row.ts)))?;
    }
    Ok(())
}

/// The newest bar of a round that has a row or a proof.
fn newest_settled(range: TimeRange, missing: &RangeSet, interval: Interval) -> Option<Timestamp> {
    let settled = RangeSet::from(range).difference(missing).on_grid(interval);
    settled.span()?.bounds(interval).map(|(_, last)| last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_reaches_as_far_as_what_it_settled() {
        let range =
            |from: &str, to: &str| TimeRange::new(from.parse().unwrap(), to.parse().unwrap()).unwrap();
        let (round, minute) = (range("2024-01-01T17:38Z", "2024-01-01T17:41Z"), Interval::MINUTE);
        let up_to = |missing: RangeSet| newest_settled(round, &missing, minute).map(|ts| ts.to_string());
        assert_eq!(up_to(RangeSet::new()).as_deref(), Some("2024-01-01T17:40:00Z"));
        let newest = range("2024-01-01T17:40Z", "2024-01-01T17:41Z");
        assert_eq!(up_to(newest.into()).as_deref(), Some("2024-01-01T17:39:00Z"));
        let hole = range("2024-01-01T17:39Z", "2024-01-01T17:40Z");
        assert_eq!(up_to(hole.into()).as_deref(), Some("2024-01-01T17:40:00Z"));
        assert_eq!(up_to(round.into()), None);
    }

    #[test]
    fn what_will_not_change_is_told_from_an_outage() {
        let lasting = |status: u16| Error::unavailable("x").with("status", status).retryable(false);
        assert_eq!([451, 404].map(|status| is_final(&lasting(status), true)), [true, false]);
        assert_eq!([451, 404].map(|status| is_final(&lasting(status), false)), [true, true]);
        assert!(is_final(&Error::new(ErrorKind::NotFound, "no such symbol"), true));
        for error in [Error::unavailable("x"), lasting(503).exhausted(), Error::new(ErrorKind::Corrupt, "x")]
        {
            assert!(!is_final(&error, false), "{error}");
        }
    }
}
