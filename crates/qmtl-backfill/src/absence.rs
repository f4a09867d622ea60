//! When the absence of a row is proof that there is none: the one place that decides it.
//!
//! Fetchers report what an answer holds and how their source answers ([`SourceProfile`]); an
//! [`Inquiry`] makes of it what else to ask and, in the end, what is empty. It asks nobody and reads
//! no clock, so the rule can be tested as it stands:
//!
//! - Beyond a page's last row, in the source's own order, nothing was answered, and the rest is asked
//!   for; only a page without rows is an end.
//! - A source that sends rows for bars without trades is asked a second time for what it lacks, and only
//!   what both answers lack is empty. Of other sources one answer suffices.
//! - Nothing is said of a bar that its source may still publish, nor of one beside a row off the grid.
//! - A source of which one answer lacked what another one had proves nothing of these bars; so it is when that was
//!   a bar that nobody wanted, because it is stored.

use std::time::Duration;

use qmtl_history_api::{Error, Interval, PageOrder, RangeSet, Result, SourceProfile, TimeRange, Timestamp};

/// Requests that one inquiry makes at most: a page that comes in sixty-four pieces is a page no longer.
pub const MAX_REQUESTS: u32 = 64;
/// How often a source may contradict itself before it is asked no further.
pub const MAX_CONTRADICTIONS: u32 = 16;
/// An answer of so few rows may be the ends of a page alone, which would come again for the same page.
const FEW_ROWS: u64 = 4;

/// One answer of a source, its rows in canonical form.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Reply {
    /// What was asked for.
    pub asked: TimeRange,
    /// Where rows stand on the grid, inside of what was asked for.
    pub present: RangeSet,
    /// The bars that a row off the grid may have been meant for.
    pub doubtful: RangeSet,
    /// The times of the earliest and the latest row of the answer, wherever they stand; `None` when it
    /// has none at all.
    pub span: Option<(Timestamp, Timestamp)>,
    /// Where a row would have come if there were one, as the source says.
    pub proven: RangeSet,
    /// By when it was given at the earliest: the source's time, or ours when it was asked, whichever is earlier.
    pub dated: Timestamp,
}

/// What came of an inquiry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verdict {
    /// Bars that do not exist.
    pub empty: RangeSet,
    /// Bars that the source lacks and may still publish.
    pub too_young: RangeSet,
    /// The date of the proof: that of the earliest answer. `None` when nobody was asked.
    pub dated: Option<Timestamp>,
    /// Bars that one answer lacked while others were had only by a later answer: nothing is known of them.
    pub contradicted: RangeSet,
}

/// The questions about at most a page of bars, and what their answers amount to.
#[derive(Clone, Debug)]
pub struct Inquiry {
    interval: Interval,
    profile: SourceProfile,
    /// The bars that it is about.
    wanted: RangeSet,
    to_ask: Vec<TimeRange>,
    requests: u32,
    /// Where rows came.
    found: RangeSet,
    /// What an answer lacked, although it would have been in it.
    lacking: RangeSet,
    /// The same with the bars that are not wanted.
    silent: RangeSet,
    /// What the answers lacked as often as it takes.
    empty: RangeSet,
    too_young: RangeSet,
    /// Bars beside a row off the grid, which were asked for again.
    doubts: Vec<TimeRange>,
    contradictions: u32,
    dated: Option<Timestamp>,
}

impl Inquiry {
    /// An inquiry about the bars of `wanted`, which together fit into one request.
    #[must_use]
    pub fn new(wanted: RangeSet, interval: Interval, profile: SourceProfile) -> Self {
        Self {
            interval,
            profile,
            to_ask: wanted.span().into_iter().collect(),
            wanted,
            requests: 0,
            found: RangeSet::new(),
            lacking: RangeSet::new(),
            silent: RangeSet::new(),
            empty: RangeSet::new(),
            too_young: RangeSet::new(),
            doubts: Vec::new(),
            contradictions: 0,
            dated: None,
        }
    }

    /// What to ask for next; `None` when nothing is left to ask.
    ///
    /// `Unavailable`, exhausted, when the source has been asked [`MAX_REQUESTS`] times.
    pub fn ask(&mut self) -> Result<Option<TimeRange>> {
        let Some(range) = self.to_ask.pop() else { return Ok(None) };
        if self.requests == MAX_REQUESTS {
            let error = Error::unavailable(
                "the source never completes its answer: each response holds only a small part of the range",
            );
            return Err(error.with("requests", self.requests).exhausted());
        }
        self.requests += 1;
        Ok(Some(range))
    }

    /// Takes in the answer to what [`Inquiry::ask`] gave last.
    pub fn take(&mut self, reply: &Reply) {
        self.dated = Some(self.dated.map_or(reply.dated, |dated| dated.min(reply.dated)));
        let asked = self.wanted.within(reply.asked);
        let found = reply.present.intersection(&asked);
        let told = reply.present.union(&reply.doubtful);
        self.contradict(&told);
        self.found = self.found.union(&found);
        self.too_young = self.too_young.difference(&found);

        let answered = self.answered(reply);
        let doubtful = reply.doubtful.within(reply.asked);
        let is_new_doubt = !doubtful.difference(&self.doubted()).is_empty();
        // A row that was off the grid once may have been meant for its bar, unless an answer in which it would
        // stand again has another row instead, or none.
        self.doubts.retain(|doubt| !reply.asked.contains_range(*doubt) || doubtful.contains_range(*doubt));
        self.doubts.extend(doubtful.iter());
        let silent = asked.intersection(&answered).difference(&self.found).difference(&self.doubted());
        let old = self.published_by(reply.dated, &silent);
        self.too_young = self.too_young.union(&silent.difference(&old));

        let silent = answered.difference(&told).within(reply.asked).intersection(&reply.proven);
        self.silent = self.silent.union(&self.published_by(reply.dated, &silent));

        let claimed = old.intersection(&reply.proven);
        // From the bar on in which the row stands, or it would not be seen again. What was read whole says the
        // same again.
        let is_worth_asking = is_new_doubt && self.profile.order != PageOrder::Unpaged;
        let mut again = if is_worth_asking { doubtful } else { RangeSet::new() };
        if self.profile.gapless {
            again = again.union(&claimed.difference(&self.lacking));
            self.empty = self.empty.union(&claimed.intersection(&self.lacking));
            self.lacking = self.lacking.union(&claimed);
        } else {
            self.lacking = self.lacking.union(&claimed);
            self.empty = self.empty.union(&claimed);
        }
        if self.contradictions <= MAX_CONTRADICTIONS {
            let questions: Vec<_> = apart(&again, &reply.present, self.interval)
                .into_iter()
                .map(|question| self.up_to_a_row(question))
                .collect();
            self.to_ask.extend(questions);
        }
        // An answer about other bars alone would be the same again.
        let has_advanced = !answered.is_empty();
        let rest = RangeSet::from(reply.asked).difference(&answered);
        for rest in rest.iter().filter(|_| has_advanced) {
            let rest = asked.within(rest).difference(&self.found);
            // Nothing is to be learned of what is not due yet.
            let due = self.published_by(reply.dated, &rest);
            if due.is_empty() {
                self.too_young = self.too_young.union(&rest);
            } else {
                self.to_ask.extend(rest.span());
            }
        }
    }

    fn doubted(&self) -> RangeSet {
        self.doubts.iter().copied().collect()
    }

    /// `span` with the row behind it, in the source's own order, so that a page of it has an end that says
    /// that it ends there. Not with rows on both sides: a source that gives the ends of a page alone would
    /// give the same again, and so would one that gives a single row.
    fn up_to_a_row(&self, span: TimeRange) -> TimeRange {
        let has_row = |bar: &Timestamp| self.found.contains(*bar);
        let length = self.interval.as_micros();
        let (mut start, mut end) = (span.start(), span.end());
        match self.profile.order {
            _ if self.found.count(self.interval) < 2 => {}
            PageOrder::OldestFirst if has_row(&end) => end = end.checked_add_micros(length).unwrap_or(end),
            PageOrder::NewestFirst => {
                start = start.checked_add_micros(-length).filter(has_row).unwrap_or(start);
            }
            _ => {}
        }
        TimeRange::checked(start, end).unwrap_or(span)
    }

    /// Rows where an answer had none: whatever it lacked may exist.
    fn contradict(&mut self, told: &RangeSet) {
        if !told.intersection(&self.silent).is_empty() {
            self.contradictions += 1;
            self.lacking = RangeSet::new();
            self.silent = RangeSet::new();
            self.empty = RangeSet::new();
        }
    }

    /// The part of what was asked for that the answer speaks of.
    fn answered(&self, reply: &Reply) -> RangeSet {
        let Some((first, last)) = reply.span else { return reply.asked.into() };
        let begin = self.interval.floor(first).unwrap_or(Timestamp::MIN);
        let end = self.interval.next(last).unwrap_or(Timestamp::MAX);
        let (begin, end) = match self.profile.order {
            PageOrder::Unpaged => return reply.asked.into(),
            PageOrder::OldestFirst => (reply.asked.start(), end),
            PageOrder::NewestFirst => (begin, reply.asked.end()),
            // Also of orders that are not known here.
            _ => (begin, end),
        };
        TimeRange::checked(begin, end).and_then(|range| range.intersect(reply.asked)).into_iter().collect()
    }

    /// Those of `bars` that their source would have published by `now`.
    fn published_by(&self, now: Timestamp, bars: &RangeSet) -> RangeSet {
        let wait = self.interval.duration().saturating_add(self.profile.publish_lag);
        opened_by(now, wait, bars).on_grid(self.interval)
    }

    /// What the answers amount to.
    #[must_use]
    pub fn verdict(self) -> Verdict {
        let (empty, contradicted) = if self.contradictions == 0 {
            (self.empty, RangeSet::new())
        } else {
            (RangeSet::new(), self.lacking)
        };
        Verdict { empty, too_young: self.too_young, dated: self.dated, contradicted }
    }
}

/// By when an answer was given at the earliest, if its source says `as_of` and our clock showed these times when it
/// was asked and when it had answered. What takes a fetcher long, retries or a look for the listing, may come after the
/// answer, which is only known to be no older than the question.
pub(crate) fn dated(as_of: Option<Timestamp>, (asked, done): (Timestamp, Timestamp)) -> Timestamp {
    as_of.map_or(asked, |as_of| as_of.min(asked)).min(done)
}

/// Those of `bars` that had opened `ago` before `now`, or earlier.
pub(crate) fn opened_by(now: Timestamp, ago: Duration, bars: &RangeSet) -> RangeSet {
    let end = now.checked_sub(ago).and_then(|newest| newest.checked_add_micros(1));
    let range = end.and_then(|end| TimeRange::checked(Timestamp::MIN, end));
    range.map_or_else(RangeSet::new, |range| bars.within(range))
}

/// The questions about `bars` that an answer with these `rows` lacked: one about all of them; about those between
/// two rows each where the rows are few, since the ends of that are other ones than the answer had.
fn apart(bars: &RangeSet, rows: &RangeSet, interval: Interval) -> Vec<TimeRange> {
    let Some(span) = bars.span() else { return Vec::new() };
    if rows.count(interval) > FEW_ROWS {
        return vec![span];
    }
    let between = RangeSet::from(span).difference(rows);
    between.iter().filter_map(|between| bars.within(between).span()).collect()
}

/// Whether the rows of answers stand as close as bars of an interval do, or further apart: then they are
/// bars of another one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spacing {
    /// The greatest common divisor of all distances, in bars; 0 without any.
    divisor: u64,
    distances: u32,
}

impl Spacing {
    /// Distances of which none is a matter of chance any longer: a market without trades in most bars
    /// would have to be in step by chance, once in a million.
    const CERTAIN_BITS: f64 = 20.0;
    /// The same where every bar has a row: two distances in step are no outages.
    const GAPLESS_DISTANCES: u32 = 2;

    /// Takes in where the rows of one inquiry stand.
    pub fn take(&mut self, present: &RangeSet, interval: Interval) {
        let length = interval.as_micros().unsigned_abs();
        let mut previous: Option<TimeRange> = None;
        for run in present.iter() {
            if run.count(interval) > 1 {
                self.add(1);
            }
            if let Some(before) = previous {
                self.add((run.start().as_micros() - before.start().as_micros()).unsigned_abs() / length);
            }
            previous = Some(run);
        }
    }

    fn add(&mut self, distance: u64) {
        self.divisor = gcd(self.divisor, distance);
        self.distances = self.distances.saturating_add(1);
    }

    /// How many bars the rows lie apart when that contradicts their interval.
    #[must_use]
    pub fn contradiction(&self, gapless: bool) -> Option<u64> {
        let is_certain = if gapless {
            self.distances >= Self::GAPLESS_DISTANCES
        } else {
            f64::from(self.distances) * (self.divisor as f64).log2() >= Self::CERTAIN_BITS
        };
        (self.divisor > 1 && is_certain).then_some(self.divisor)
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests;
