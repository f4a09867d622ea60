//! The zone map of a file: which blocks can hold rows of a series and a span of time, and what the
//! file as a whole says about each of its series. Times are in the file's own unit.

use std::collections::HashMap;
use std::ops::Range;

use qmtl_history_api::{Error, Result};

use super::gaps::Gaps;

/// The most series that one file may hold.
const MAX_SERIES: usize = 1 << 16;

/// What one scan of a file found.
#[derive(Debug)]
pub(super) struct Index {
    zones: Vec<Zone>,
    series: Vec<Series>,
    ids: HashMap<String, usize>,
}

/// The times of one block and the series in it, a bit for each.
#[derive(Debug)]
struct Zone {
    min: i64,
    max: i64,
    members: Vec<u64>,
}

/// The times of one series.
#[derive(Clone, Debug)]
pub(super) struct Series {
    /// The earliest.
    pub(super) first: i64,
    /// The latest.
    pub(super) last: i64,
    /// How many rows it has.
    pub(super) rows: u64,
    /// The distances of neighbouring times that were seen: exact where blocks do not overlap, otherwise
    /// never too small.
    pub(super) gaps: Gaps,
    /// The times of the last block that has rows of the series.
    recent: (i64, i64),
}

impl Index {
    /// The earliest and the latest time of the file.
    pub(super) fn bounds(&self) -> Option<(i64, i64)> {
        bounds(&self.zones)
    }

    /// The series called `symbol`.
    pub(super) fn series(&self, symbol: &str) -> Option<&Series> {
        self.ids.get(symbol).map(|id| &self.series[*id])
    }

    /// The distance of most neighbouring rows of a file of one series.
    pub(super) fn usual_gap(&self) -> Option<u64> {
        self.series("")?.gaps.most_frequent().map(|(gap, _)| gap)
    }

    /// The names of all series.
    pub(super) fn symbols(&self) -> impl Iterator<Item = &str> {
        self.ids.keys().map(String::as_str)
    }

    /// The blocks that may hold rows of `symbol` with a time inside `span`, in file order.
    pub(super) fn blocks(&self, symbol: &str, span: &Range<i64>) -> Vec<usize> {
        let Some(id) = self.ids.get(symbol) else { return Vec::new() };
        let (word, bit) = (id / 64, 1u64 << (id % 64));
        let may_hold = |zone: &Zone| {
            zone.min < span.end
                && zone.max >= span.start
                && zone.members.get(word).is_some_and(|members| members & bit != 0)
        };
        (0..self.zones.len()).filter(|block| may_hold(&self.zones[*block])).collect()
    }
}

/// Builds an [`Index`] from rows in file order.
#[derive(Debug, Default)]
pub(super) struct IndexBuilder {
    zones: Vec<Zone>,
    series: Vec<Series>,
    ids: HashMap<String, usize>,
    block: Vec<(usize, i64)>,
}

impl IndexBuilder {
    /// The id of a series; an error when there are too many to be symbols.
    pub(super) fn id(&mut self, symbol: &str) -> Result<usize> {
        if let Some(id) = self.ids.get(symbol) {
            return Ok(*id);
        }
        if self.ids.len() == MAX_SERIES {
            return Err(Error::schema("the symbol column holds more than 65536 different symbols"));
        }
        let id = self.ids.len();
        self.ids.insert(symbol.to_owned(), id);
        Ok(id)
    }

    /// Whether a series is known.
    pub(super) fn has(&self, symbol: &[u8]) -> bool {
        std::str::from_utf8(symbol).is_ok_and(|symbol| self.ids.contains_key(symbol))
    }

    /// Whether a series is known whose name begins so.
    pub(super) fn has_longer(&self, start: &[u8]) -> bool {
        self.ids.keys().any(|symbol| symbol.as_bytes().starts_with(start))
    }

    /// Adds a row to the current block.
    pub(super) fn row(&mut self, id: usize, time: i64) {
        self.block.push((id, time));
    }

    /// Ends the current block; `false` when it has no row and so does not count.
    pub(super) fn end_block(&mut self) -> bool {
        if self.block.is_empty() {
            return false;
        }
        if !self.block.is_sorted() {
            self.block.sort_unstable();
        }
        let mut zone = Zone { min: i64::MAX, max: i64::MIN, members: Vec::new() };
        for run in self.block.chunk_by(|a, b| a.0 == b.0) {
            let (id, min, max) = (run[0].0, run[0].1, run[run.len() - 1].1);
            zone.min = zone.min.min(min);
            zone.max = zone.max.max(max);
            zone.members.resize(zone.members.len().max(id / 64 + 1), 0);
            zone.members[id / 64] |= 1 << (id % 64);
            // Ids are given in order of first appearance, but a block is sorted by id.
            while self.series.len() <= id {
                self.series.push(Series {
                    first: i64::MAX,
                    last: i64::MIN,
                    rows: 0,
                    gaps: Gaps::default(),
                    recent: (i64::MAX, i64::MIN),
                });
            }
            let series = &mut self.series[id];
            series.rows += run.len() as u64;
            // Neighbouring distances are mostly equal, so that they are counted before they are added.
            let (mut last, mut times) = (0, 0);
            for gap in run.windows(2).map(|pair| pair[1].1.abs_diff(pair[0].1)).filter(|gap| *gap > 0) {
                if gap != last && times > 0 {
                    series.gaps.add(last, times);
                    times = 0;
                }
                (last, times) = (gap, times + 1);
            }
            if times > 0 {
                series.gaps.add(last, times);
            }
            series.absorb(min, max);
        }
        self.zones.push(zone);
        self.block.clear();
        true
    }

    /// The earliest and the latest time of all blocks that were ended.
    pub(super) fn bounds(&self) -> Option<(i64, i64)> {
        bounds(&self.zones)
    }

    /// The index of all blocks that were ended.
    pub(super) fn finish(self) -> Index {
        Index { zones: self.zones, series: self.series, ids: self.ids }
    }
}

fn bounds(zones: &[Zone]) -> Option<(i64, i64)> {
    Some((zones.iter().map(|zone| zone.min).min()?, zones.iter().map(|zone| zone.max).max()?))
}

impl Series {
    /// Adds the ends of one more block, and its distance from the block before.
    fn absorb(&mut self, min: i64, max: i64) {
        let (earlier, later) = self.recent;
        if earlier <= later && min > later {
            self.gaps.add(min.abs_diff(later), 1);
        } else if earlier <= later && max < earlier {
            self.gaps.add(earlier.abs_diff(max), 1);
        }
        self.first = self.first.min(min);
        self.last = self.last.max(max);
        self.recent = (min, max);
    }
}

#[cfg(test)]
mod tests;
