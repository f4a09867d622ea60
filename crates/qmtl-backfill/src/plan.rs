//! What to ask for, decided without asking anybody: gaps, windows, requests.
//!
//! A [`Plan`] is a value. The program prints it, a strategy runs it, and neither can make it say
//! anything else: it is a pure function of the wanted range, the store's coverage and the time.

use std::time::Duration;

use qmtl_history_api::{
    Coverage, Error, FetchLimits, Interval, RangeSet, Result, SourceId, TimeRange, Timestamp,
};

/// Grid points of a window when the source limits the rows of a request.
pub const LIMITED_WINDOW_BARS: u64 = 900;
/// Grid points of a window when it does not: a file.
pub const UNLIMITED_WINDOW_BARS: u64 = 50_000;
/// More grid points than any interval has: a window of so many ends at the epoch alone.
const LONGEST_WINDOW_BARS: u64 = 1 << 40;

/// Makes plans for one interval and a set of sources.
#[derive(Clone, Debug)]
pub struct Planner {
    interval: Interval,
    /// In order of preference.
    sources: Vec<(SourceId, FetchLimits)>,
    /// Asked before them, but what they lack others speak for.
    stand_ins: Vec<(SourceId, FetchLimits)>,
    /// Those of the first that is asked.
    limits: FetchLimits,
    window_bars: u64,
    settle: u64,
}

impl Planner {
    /// Plans for series of `interval`. A bar counts as missing unless it is stored or every one of
    /// `sources` proved that it does not exist; requests are cut by `limits`, which hold for each.
    #[must_use]
    pub fn new(interval: Interval, sources: Vec<SourceId>, limits: FetchLimits) -> Self {
        let window_bars = if limits.max_rows.is_some() { LIMITED_WINDOW_BARS } else { UNLIMITED_WINDOW_BARS };
        let sources = sources.into_iter().map(|source| (source, limits)).collect();
        Self { interval, sources, stand_ins: Vec::new(), limits, window_bars, settle: 0 }
    }

    /// Asks `source` before the others, which speak for what it lacks: a bar is missing until they
    /// have said so, whatever it proved. Requests are cut by its limits now.
    #[must_use]
    pub fn with_stand_in(mut self, source: SourceId, limits: FetchLimits) -> Self {
        self.stand_ins.push((source, limits));
        let limits = self.stand_ins[0].1;
        let window_bars = if limits.max_rows.is_some() { LIMITED_WINDOW_BARS } else { UNLIMITED_WINDOW_BARS };
        Self { limits, window_bars, ..self }
    }

    /// A further source with limits of its own, for what those before it cannot give. It does not
    /// change how windows are cut.
    #[must_use]
    pub fn then(mut self, source: SourceId, limits: FetchLimits) -> Self {
        self.sources.push((source, limits));
        self
    }

    /// Grid points of a window, instead of the default that the limits imply.
    #[must_use]
    pub fn with_window_bars(mut self, bars: u64) -> Self {
        self.window_bars = bars;
        self
    }

    /// How many of the newest closed bars to leave alone, because a live recorder writes them.
    #[must_use]
    pub fn with_settle(mut self, bars: u64) -> Self {
        self.settle = bars;
        self
    }

    /// Plans what is missing of `wanted` at `now`, in time linear in the ranges of the coverage.
    ///
    /// `InvalidInput` when the window or the source's row limit is zero.
    pub fn plan(&self, wanted: TimeRange, coverage: &Coverage, now: Timestamp) -> Result<Plan> {
        let positive = |name: &'static str, value: u64| match value {
            0 => Err(Error::invalid("a plan needs room for at least one bar").with(name, value)),
            value => Ok(value),
        };
        let cuts = |limits: &FetchLimits| -> Result<Cuts> {
            let window_bars = positive("window_bars", self.window_bars)?.min(LONGEST_WINDOW_BARS);
            let earliest = self.interval.index(Timestamp::MIN).unsigned_abs();
            Ok(Cuts {
                interval: self.interval,
                window_bars,
                shift: earliest.next_multiple_of(window_bars),
                max_rows: positive("max_rows", limits.max_rows.unwrap_or(u64::MAX))?,
                joins: limits.max_rows.is_some(),
            })
        };
        let closed = self.closed(wanted, now);
        let missing = |sources: &[SourceId]| {
            closed.map(|closed| coverage.missing(closed, self.interval, sources, now)).unwrap_or_default()
        };
        let sources: Vec<_> = self.sources.iter().map(|(source, _)| source.clone()).collect();
        let wanting = missing(&sources);
        let reach = |limits: &FetchLimits| {
            TimeRange::checked(limits.reaches_back_to(self.interval, now), Timestamp::MAX)
        };
        // What each source has not said yet and can have.
        let own = |(source, limits): &(SourceId, FetchLimits)| {
            let own = missing(std::slice::from_ref(source)).intersection(&wanting);
            reach(limits).map_or_else(RangeSet::new, |reach| own.within(reach))
        };
        let of_sources: Vec<_> = self.sources.iter().map(own).collect();
        let reached: RangeSet = self.sources.iter().filter_map(|(_, limits)| reach(limits)).collect();
        let (gaps, out_of_reach) = if self.sources.is_empty() {
            (wanting.clone(), RangeSet::new())
        } else {
            let gaps = of_sources.iter().fold(RangeSet::new(), |gaps, own| gaps.union(own));
            (gaps, wanting.difference(&reached))
        };
        let of_stand_ins = self.stand_ins.iter().map(|asked| own(asked).intersection(&gaps));
        let of_all = of_stand_ins.chain(of_sources);
        let demands =
            self.stand_ins.iter().chain(&self.sources).zip(of_all).map(|((source, limits), own)| {
                Ok(Demand::new(source.clone(), cuts(limits)?.count(&own).requests, limits))
            });
        let demands = demands.collect::<Result<Vec<_>>>()?;
        let cuts = cuts(&self.limits)?;
        let mut counts = cuts.count(&gaps);
        if !demands.is_empty() {
            counts.requests = demands.iter().map(|demand| demand.requests).sum();
        }
        Ok(Plan { cuts, gaps, out_of_reach, counts, demands })
    }

    /// The part of `wanted` whose bars have closed at `now` and are not left to a recorder.
    fn closed(&self, wanted: TimeRange, now: Timestamp) -> Option<TimeRange> {
        let settle = i64::try_from(self.settle).ok()?.checked_mul(self.interval.as_micros())?;
        let end = self.interval.floor(now)?.checked_add_micros(-settle)?;
        wanted.intersect(TimeRange::checked(Timestamp::MIN, end)?)
    }
}

/// What will be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    cuts: Cuts,
    gaps: RangeSet,
    out_of_reach: RangeSet,
    counts: Counts,
    demands: Vec<Demand>,
}

/// What gaps come to when they are cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    rows: u64,
    windows: u64,
    requests: u64,
}

/// The most that a plan asks of one source: all that this source has not said yet. Of a source that
/// is not the first, only what those before it cannot give is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Demand {
    /// Who is asked.
    pub source: SourceId,
    /// Requests, without retries.
    pub requests: u64,
    /// What they cost together, in the source's own units.
    pub weight: u64,
    /// The least time that they take by the source's rate.
    pub paced: Duration,
}

impl Demand {
    fn new(source: SourceId, requests: u64, limits: &FetchLimits) -> Self {
        let weight = requests.saturating_mul(limits.weight.into());
        let paced = match limits.requests_per_second {
            Some(rate) if rate > 0.0 => {
                let seconds = requests.saturating_sub(limits.burst) as f64 / rate;
                Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
            }
            _ => Duration::ZERO,
        };
        Self { source, requests, weight, paced }
    }
}

impl Plan {
    /// The missing bars that some source may have, on the grid.
    #[must_use]
    pub fn gaps(&self) -> &RangeSet {
        &self.gaps
    }

    /// The missing bars that lie further back than any source has bars, on the grid.
    #[must_use]
    pub fn out_of_reach(&self) -> &RangeSet {
        &self.out_of_reach
    }

    /// The most rows that the requests can bring: the number of missing bars.
    #[must_use]
    pub fn estimated_rows(&self) -> u64 {
        self.counts.rows
    }

    /// The number of [`Plan::windows`].
    #[must_use]
    pub fn window_count(&self) -> u64 {
        self.counts.windows
    }

    /// The number of requests of all windows, if every source is asked all that it has not said.
    #[must_use]
    pub fn request_count(&self) -> u64 {
        self.counts.requests
    }

    /// What the requests cost together, in the source's own units.
    #[must_use]
    pub fn weight(&self) -> u64 {
        self.demands.iter().map(|demand| demand.weight).sum()
    }

    /// The most that each source is asked for, in order of preference.
    #[must_use]
    pub fn demands(&self) -> &[Demand] {
        &self.demands
    }

    /// How long the requests take, `at_once` side by side, if the answer to each takes `round_trip`
    /// and every source is asked all that it has not said.
    #[must_use]
    pub fn estimated_time(&self, at_once: u64, round_trip: Duration) -> Duration {
        let of = |demand: &Demand| {
            let rounds = u32::try_from(demand.requests.div_ceil(at_once.max(1))).unwrap_or(u32::MAX);
            demand.paced.max(round_trip.saturating_mul(rounds))
        };
        self.demands.iter().map(of).fold(Duration::ZERO, Duration::saturating_add)
    }

    /// The same for the gaps inside of `ranges` alone.
    #[must_use]
    pub(crate) fn within(&self, ranges: &RangeSet) -> Self {
        let gaps = self.gaps.intersection(ranges);
        let mut counts = self.cuts.count(&gaps);
        counts.requests = counts.requests.min(self.counts.requests);
        Self { gaps, counts, ..self.clone() }
    }

    /// The whole windows in which something is missing.
    pub(crate) fn window_ranges(&self) -> impl Iterator<Item = TimeRange> + '_ {
        self.windows().map(|window| window.range)
    }

    /// The windows in which something is missing, ascending, made one at a time.
    #[must_use]
    pub fn windows(&self) -> Windows<'_> {
        Windows { plan: self, next: 0, from: None, ordinal: 0 }
    }
}

/// The absolute grid that plans are cut on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cuts {
    interval: Interval,
    window_bars: u64,
    /// How far the numbers of bars are moved, in whole windows, so that none is negative.
    shift: u64,
    max_rows: u64,
    /// Whether gaps that fit into one request are asked for by one: where rows between them cost nothing,
    /// because a page has room for them.
    joins: bool,
}

impl Cuts {
    /// Numbers of the first and the last bar inside `range`: windows begin at multiples of their length.
    fn indices(self, range: TimeRange) -> Option<(u64, u64)> {
        let number = |bar: Timestamp| self.shift.saturating_add_signed(self.interval.index(bar));
        range.bounds(self.interval).map(|(first, last)| (number(first), number(last)))
    }

    /// The opening of bar number `number`; an end of time when it lies beyond.
    fn opening(self, number: u64) -> Timestamp {
        let index = i64::try_from(number).unwrap_or(i64::MAX).saturating_sub_unsigned(self.shift);
        let beyond = if index < 0 { Timestamp::MIN } else { Timestamp::MAX };
        self.interval.opening(index).unwrap_or(beyond)
    }

    /// How many bars, windows and requests these gaps come to.
    fn count(self, gaps: &RangeSet) -> Counts {
        let mut counts = Counts::default();
        let mut newest = None;
        let mut page = Page::default();
        for (first, last) in gaps.iter().filter_map(|gap| self.indices(gap)) {
            let (from, to) = (first / self.window_bars, last / self.window_bars);
            counts.rows += last - first + 1;
            counts.windows += to - from + u64::from(newest != Some(from));
            counts.requests += self.requests((first, last), &mut page);
            newest = Some(to);
        }
        counts
    }

    /// The window that bar number `index` lies in.
    fn window(self, index: u64) -> Option<TimeRange> {
        let first = index - index % self.window_bars;
        TimeRange::checked(self.opening(first), self.opening(first.saturating_add(self.window_bars)))
    }

    /// How many more requests a gap from bar `first` to bar `last` takes after those up to `page`.
    fn requests(self, (first, last): (u64, u64), page: &mut Page) -> u64 {
        let (left, right) = (first / self.window_bars, last / self.window_bars);
        if left == right {
            return self.requests_within((first, last), page);
        }
        let between = (right - left - 1) * self.window_bars.div_ceil(self.max_rows);
        self.requests_within((first, left * self.window_bars + self.window_bars - 1), page)
            + between
            + self.requests_within((right * self.window_bars, last), page)
    }

    /// The same for a gap inside one window: what a request reaches beyond the gap before is had with it.
    fn requests_within(self, (first, last): (u64, u64), page: &mut Page) -> u64 {
        let window = first / self.window_bars;
        let first = if page.window == Some(window) { first.max(page.end) } else { first };
        if first > last {
            return 0;
        }
        let requests = (last - first + 1).div_ceil(self.max_rows);
        let end = if self.joins { first.saturating_add(requests.saturating_mul(self.max_rows)) } else { 0 };
        *page = Page { window: Some(window), end };
        requests
    }
}

/// How far the last request of a count reaches.
#[derive(Clone, Copy, Debug, Default)]
struct Page {
    window: Option<u64>,
    /// The number of the first bar behind it.
    end: u64,
}

/// One window of a plan: the unit that is leased, fetched, stored and reported.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Window {
    /// Its place among the plan's windows, from 0.
    pub ordinal: u64,
    /// The whole window, cut at absolute multiples of the window's length, so that overlapping
    /// requests on different machines meet at the same windows.
    pub range: TimeRange,
    /// What of it is missing; never empty.
    pub gaps: RangeSet,
    cuts: Cuts,
}

impl Window {
    /// From the first missing bar to the last.
    #[must_use]
    pub fn span(&self) -> TimeRange {
        self.gaps.span().unwrap_or(self.range)
    }

    /// The number of missing bars.
    #[must_use]
    pub fn bars(&self) -> u64 {
        self.gaps.count(self.cuts.interval)
    }

    /// What to ask the first source for, ascending, each at most the source's row limit long: gaps that
    /// fit into one request are asked for together, with the bars between them.
    pub fn requests(&self) -> impl Iterator<Item = TimeRange> + Send + '_ {
        let max_rows = self.cuts.joins.then_some(self.cuts.max_rows);
        pieces(&self.gaps, self.cuts.interval, max_rows).into_iter().filter_map(|piece| piece.span())
    }
}

/// The parts of `gaps` that are asked for by one request each, ascending: what fits into `max_rows` grid
/// points, else each gap by itself.
pub(crate) fn pieces(gaps: &RangeSet, interval: Interval, max_rows: Option<u64>) -> Vec<RangeSet> {
    let Some(max_rows) = max_rows else { return gaps.iter().map(RangeSet::from).collect() };
    let length = i64::try_from(max_rows).unwrap_or(i64::MAX).saturating_mul(interval.as_micros());
    let mut pieces: Vec<RangeSet> = Vec::new();
    let mut end = Timestamp::MIN;
    for gap in gaps.iter() {
        let mut left = Some(gap);
        while let Some(rest) = left {
            if rest.start() >= end || pieces.is_empty() {
                pieces.push(RangeSet::new());
                end = rest.start().checked_add_micros(length).unwrap_or(Timestamp::MAX);
            }
            let room = TimeRange::checked(rest.start(), end.min(rest.end()));
            if let Some(piece) = pieces.last_mut() {
                room.into_iter().for_each(|room| piece.insert(room));
            }
            left = TimeRange::checked(end, rest.end()).filter(|_| end < rest.end());
        }
    }
    pieces
}

/// See [`Plan::windows`].
#[derive(Clone, Debug)]
pub struct Windows<'a> {
    plan: &'a Plan,
    next: usize,
    /// Where the gap at `next` goes on when the last window cut it.
    from: Option<Timestamp>,
    ordinal: u64,
}

impl Windows<'_> {
    /// What is left of the gap at `next`.
    fn gap(&self) -> Option<TimeRange> {
        let gap = *self.plan.gaps.as_slice().get(self.next)?;
        TimeRange::checked(self.from.unwrap_or(gap.start()), gap.end())
    }
}

impl Iterator for Windows<'_> {
    type Item = Window;

    fn next(&mut self) -> Option<Window> {
        let cuts = self.plan.cuts;
        let (first, _) = cuts.indices(self.gap()?)?;
        let range = cuts.window(first)?;
        let mut gaps = RangeSet::new();
        while let Some(gap) = self.gap()
            && let Some(inside) = gap.intersect(range)
        {
            gaps.insert(inside);
            if gap.end() > range.end() {
                self.from = Some(range.end());
                break;
            }
            self.next += 1;
            self.from = None;
        }
        let ordinal = self.ordinal;
        self.ordinal += 1;
        Some(Window { ordinal, range, gaps, cuts })
    }
}

#[cfg(test)]
mod tests;
