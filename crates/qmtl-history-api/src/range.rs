//! Half-open ranges of time and sets of them: the only way in which this system speaks of spans.

use std::fmt;

use crate::{Error, Interval, Result, Timestamp};

/// A span of time `[start, end)` with `start < end`.
///
/// Its ends need not be on a grid: over an [`Interval`] it means the grid points inside.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimeRange {
    start: Timestamp,
    end: Timestamp,
}

impl TimeRange {
    /// Everything that can be named: `[Timestamp::MIN, Timestamp::MAX)`.
    pub const ALL: Self = Self { start: Timestamp::MIN, end: Timestamp::MAX };

    /// The range `[start, end)`; `InvalidInput` unless `start < end`.
    pub fn new(start: Timestamp, end: Timestamp) -> Result<Self> {
        Self::checked(start, end).ok_or_else(|| {
            Error::invalid("a range must start before it ends").with("start", start).with("end", end)
        })
    }

    /// The range `[start, end)`, `None` unless `start < end`.
    #[must_use]
    pub fn checked(start: Timestamp, end: Timestamp) -> Option<Self> {
        (start < end).then_some(Self { start, end })
    }

    /// The range of the inclusive pair `first..=last`, as `ensure_range`, `fill_missing` and
    /// printed coverage name it. The ends need not be on a grid.
    /// `InvalidInput` when `first > last` or when `last` is the very last representable point.
    pub fn inclusive(first: Timestamp, last: Timestamp) -> Result<Self> {
        let end = last
            .checked_add_micros(1)
            .ok_or_else(|| Error::invalid("a range must end before the year 10000").with("last", last))?;
        if first > last {
            return Err(Error::invalid("a range's first bar must not be after its last")
                .with("first", first)
                .with("last", last));
        }
        Ok(Self { start: first, end })
    }

    /// The first point of the range.
    #[must_use]
    pub fn start(self) -> Timestamp {
        self.start
    }

    /// The first point after the range.
    #[must_use]
    pub fn end(self) -> Timestamp {
        self.end
    }

    /// The length in microseconds.
    #[must_use]
    pub fn micros(self) -> i64 {
        self.end.as_micros() - self.start.as_micros()
    }

    /// True when `ts` is inside.
    #[must_use]
    pub fn contains(self, ts: Timestamp) -> bool {
        self.start <= ts && ts < self.end
    }

    /// True when every point of `other` is inside.
    #[must_use]
    pub fn contains_range(self, other: Self) -> bool {
        self.start <= other.start && other.end <= self.end
    }

    /// The common part.
    #[must_use]
    pub fn intersect(self, other: Self) -> Option<Self> {
        Self::checked(later(self.start, other.start), earlier(self.end, other.end))
    }

    /// The range with its ends moved up to the grid, which keeps the same grid points;
    /// `None` when no grid point is inside. An end whose grid point lies beyond 9999 stays.
    #[must_use]
    pub fn on_grid(self, interval: Interval) -> Option<Self> {
        Self::checked(interval.ceil(self.start)?, interval.ceil(self.end).unwrap_or(Timestamp::MAX))
    }

    /// The number of grid points inside.
    #[must_use]
    pub fn count(self, interval: Interval) -> u64 {
        self.bounds(interval).map_or(0, |(first, last)| {
            let steps = (last.as_micros() - first.as_micros()) / interval.as_micros();
            steps.unsigned_abs() + 1
        })
    }

    /// The grid points inside, ascending.
    pub fn points(self, interval: Interval) -> impl Iterator<Item = Timestamp> + Clone {
        let first = interval.ceil(self.start).filter(|ts| *ts < self.end);
        std::iter::successors(first, move |ts| interval.next(*ts).filter(|ts| *ts < self.end))
    }

    /// The first and the last grid point inside.
    #[must_use]
    pub fn bounds(self, interval: Interval) -> Option<(Timestamp, Timestamp)> {
        let first = interval.ceil(self.start).filter(|ts| *ts < self.end)?;
        let last = interval.floor(self.end.checked_add_micros(-1)?)?;
        Some((first, last))
    }
}

fn earlier(a: Timestamp, b: Timestamp) -> Timestamp {
    if a <= b { a } else { b }
}

fn later(a: Timestamp, b: Timestamp) -> Timestamp {
    if a >= b { a } else { b }
}

/// Prints `[2018-01-10T04:55:00Z, 2018-01-11T00:00:00Z)`.
impl fmt::Display for TimeRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {})", self.start, self.end)
    }
}

impl fmt::Debug for TimeRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A set of points in time, kept as sorted, disjoint, non-touching ranges.
///
/// Union, difference and intersection take time linear in the number of ranges of both sides.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct RangeSet(Vec<TimeRange>);

impl RangeSet {
    /// The empty set.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// The runs of `timestamps`, which must be ascending points of `interval`'s grid: each
    /// becomes `[ts, ts + interval)`, and neighbours join. A point seen twice counts once.
    #[must_use]
    pub fn from_sorted_points(timestamps: impl IntoIterator<Item = Timestamp>, interval: Interval) -> Self {
        let mut set = Self::new();
        for ts in timestamps {
            let end = ts.checked_add_micros(interval.as_micros()).unwrap_or(Timestamp::MAX);
            if let Some(range) = TimeRange::checked(ts, end) {
                set.push(range);
            }
        }
        set
    }

    /// The ranges, ascending.
    #[must_use]
    pub fn as_slice(&self) -> &[TimeRange] {
        &self.0
    }

    /// The ranges, ascending.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = TimeRange> + DoubleEndedIterator + Clone + '_ {
        self.0.iter().copied()
    }

    /// The number of ranges.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True when no point is inside.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// From the first point to the last.
    #[must_use]
    pub fn span(&self) -> Option<TimeRange> {
        Some(TimeRange { start: self.0.first()?.start, end: self.0.last()?.end })
    }

    /// True when `ts` is inside; logarithmic.
    #[must_use]
    pub fn contains(&self, ts: Timestamp) -> bool {
        let after = self.0.partition_point(|range| range.start <= ts);
        after.checked_sub(1).is_some_and(|index| ts < self.0[index].end)
    }

    /// True when every point of `range` is inside; logarithmic.
    #[must_use]
    pub fn contains_range(&self, range: TimeRange) -> bool {
        let after = self.0.partition_point(|r| r.start <= range.start);
        after.checked_sub(1).is_some_and(|index| range.end <= self.0[index].end)
    }

    /// Adds `range`; constant time when it does not start before the last one.
    pub fn insert(&mut self, range: TimeRange) {
        match self.0.last() {
            Some(last) if range.start < last.start => {
                let from = self.0.partition_point(|r| r.end < range.start);
                let to = self.0.partition_point(|r| r.start <= range.end);
                let joined = self.0[from..to].iter().fold(range, |all, r| TimeRange {
                    start: earlier(all.start, r.start),
                    end: later(all.end, r.end),
                });
                self.0.splice(from..to, [joined]);
            }
            _ => self.push(range),
        }
    }

    /// Adds `range`, which does not start before the last one.
    fn push(&mut self, range: TimeRange) {
        match self.0.last_mut() {
            Some(last) if range.start <= last.end => last.end = later(last.end, range.end),
            _ => self.0.push(range),
        }
    }

    /// The points in either.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let mut set = Self(Vec::with_capacity(self.0.len() + other.0.len()));
        let (mut left, mut right) = (self.iter().peekable(), other.iter().peekable());
        loop {
            let next = match (left.peek(), right.peek()) {
                (Some(a), Some(b)) if b.start < a.start => right.next(),
                (Some(_), _) => left.next(),
                (None, _) => right.next(),
            };
            match next {
                Some(range) => set.push(range),
                None => return set,
            }
        }
    }

    /// The points in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let mut set = Self::new();
        let (mut a, mut b) = (0, 0);
        while let (Some(left), Some(right)) = (self.0.get(a), other.0.get(b)) {
            if let Some(common) = left.intersect(*right) {
                set.push(common);
            }
            if left.end <= right.end { a += 1 } else { b += 1 }
        }
        set
    }

    /// The points of this set that are not in `other`.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        let mut set = Self::new();
        let mut b = 0;
        for range in self.iter() {
            while other.0.get(b).is_some_and(|cut| cut.end <= range.start) {
                b += 1;
            }
            let mut start = range.start;
            let mut next = b;
            while let Some(cut) = other.0.get(next).filter(|cut| cut.start < range.end) {
                if let Some(rest) = TimeRange::checked(start, cut.start) {
                    set.push(rest);
                }
                start = later(start, cut.end);
                if cut.end >= range.end {
                    break;
                }
                next += 1;
            }
            if let Some(rest) = TimeRange::checked(start, range.end) {
                set.push(rest);
            }
            b = next;
        }
        set
    }

    /// The points inside `range`; touches only the ranges that overlap it.
    #[must_use]
    pub fn within(&self, range: TimeRange) -> Self {
        let from = self.0.partition_point(|r| r.end <= range.start);
        let to = self.0.partition_point(|r| r.start < range.end);
        Self(self.0.get(from..to).unwrap_or_default().iter().filter_map(|r| r.intersect(range)).collect())
    }

    /// The same grid points with every end on the grid, neighbours joined, ranges without a grid
    /// point gone. Two sets hold the same bars exactly when their `on_grid` are equal.
    #[must_use]
    pub fn on_grid(&self, interval: Interval) -> Self {
        let mut set = Self::new();
        for range in self.iter().filter_map(|range| range.on_grid(interval)) {
            set.push(range);
        }
        set
    }

    /// The number of grid points inside.
    #[must_use]
    pub fn count(&self, interval: Interval) -> u64 {
        self.iter().map(|range| range.count(interval)).sum()
    }

    /// The grid point number `index`, counted from 0 at the earliest one; linear in the number of ranges.
    #[must_use]
    pub fn nth(&self, mut index: u64, interval: Interval) -> Option<Timestamp> {
        for range in self.iter() {
            let count = range.count(interval);
            if index < count {
                let (first, _) = range.bounds(interval)?;
                let steps = i64::try_from(index).ok()?.checked_mul(interval.as_micros())?;
                return first.checked_add_micros(steps);
            }
            index -= count;
        }
        None
    }

    /// The grid points inside, ascending.
    pub fn points(&self, interval: Interval) -> impl Iterator<Item = Timestamp> + Clone + '_ {
        self.iter().flat_map(move |range| range.points(interval))
    }

    /// The guide's view: inclusive pairs `(first bar, last bar)`, runs of neighbouring bars joined.
    #[must_use]
    pub fn inclusive(&self, interval: Interval) -> Vec<(Timestamp, Timestamp)> {
        self.on_grid(interval).iter().filter_map(|range| range.bounds(interval)).collect()
    }
}

impl From<TimeRange> for RangeSet {
    fn from(range: TimeRange) -> Self {
        Self(vec![range])
    }
}

/// Any order, overlaps welcome.
impl FromIterator<TimeRange> for RangeSet {
    fn from_iter<I: IntoIterator<Item = TimeRange>>(ranges: I) -> Self {
        let mut ranges: Vec<_> = ranges.into_iter().collect();
        if !ranges.is_sorted() {
            ranges.sort_unstable();
        }
        let mut set = Self::new();
        for range in ranges {
            set.push(range);
        }
        set
    }
}

impl Extend<TimeRange> for RangeSet {
    fn extend<I: IntoIterator<Item = TimeRange>>(&mut self, ranges: I) {
        for range in ranges {
            self.insert(range);
        }
    }
}

impl IntoIterator for RangeSet {
    type Item = TimeRange;
    type IntoIter = std::vec::IntoIter<TimeRange>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// The ranges, joined by `, `; nothing for an empty set.
impl fmt::Display for RangeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, range) in self.0.iter().enumerate() {
            write!(f, "{}{range}", if at == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

impl fmt::Debug for RangeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(&self.0).finish()
    }
}

#[cfg(test)]
mod tests;
