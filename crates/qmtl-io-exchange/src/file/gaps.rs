//! How far the rows of a series lie apart, and what that says about the length of its bars.

use qmtl_history_api::Interval;

use super::time::TsUnit;

/// How many equal distances in a row no chance makes: of a sparse series, or at the borders of days.
const RUN: u64 = 20;

/// The most distances that are told apart.
const KEPT: usize = 24;

/// Distances of neighbouring rows with how often each occurs. Of more than 24 different ones the frequent
/// ones are kept, so that memory is bounded.
#[derive(Clone, Debug, Default)]
pub(super) struct Gaps {
    kept: Vec<(u64, u64)>,
    /// The distances of which many came one after another.
    runs: Vec<u64>,
    /// Some were forgotten.
    is_cut: bool,
}

/// What distances say about bars of a length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spacing {
    /// The rows may be such bars.
    Fits,
    /// Most rows lie closer together, so far apart.
    Closer(u64),
    /// Rows lie further apart; this is the closest distance that is usual.
    Wider(u64),
    /// Many rows in a row are such bars, and many others lie so far apart.
    Mixed(u64),
}

impl Gaps {
    /// Adds a distance that occurs `times` times in a row.
    pub(super) fn add(&mut self, gap: u64, times: u64) {
        if times >= RUN && self.runs.len() < KEPT && !self.runs.contains(&gap) {
            self.runs.push(gap);
        }
        if let Some((_, count)) = self.kept.iter_mut().find(|(known, _)| *known == gap) {
            *count += times;
        } else if self.kept.len() < KEPT {
            self.kept.push((gap, times));
        } else {
            self.is_cut = true;
            // The rule of Misra and Gries: what occurs more often than one time in 24 stays.
            let least =
                self.kept.iter().map(|(_, count)| *count).min().map_or(times, |least| least.min(times));
            self.kept.iter_mut().for_each(|(_, count)| *count -= least);
            self.kept.retain(|(_, count)| *count > 0);
            if times > least {
                self.kept.push((gap, times - least));
            }
        }
    }

    /// The distance that occurs most, the smallest of those where several do, and how often it does.
    pub(super) fn most_frequent(&self) -> Option<(u64, u64)> {
        self.kept.iter().copied().max_by_key(|(gap, count)| (*count, std::cmp::Reverse(*gap)))
    }

    /// The shortest distance.
    pub(super) fn least(&self) -> Option<u64> {
        self.kept.iter().map(|(gap, _)| *gap).min()
    }

    /// Whether all distances are multiples of a length; false where more are known of than are remembered.
    pub(super) fn are_multiples_of(&self, length: u64) -> bool {
        !self.is_cut && length > 0 && self.kept.iter().all(|(gap, _)| gap % length == 0)
    }

    /// Whether all distances that are remembered are days, but for an hour where clocks were put on or back.
    pub(super) fn are_local_days(&self, unit: TsUnit) -> bool {
        let (day, hour) = (unit.steps(Interval::DAY), unit.steps(Interval::HOUR));
        let off = |gap: u64| (gap % day).min(day - gap % day);
        let is_moved = |gap: u64| off(gap) == hour;
        self.kept.iter().any(|(gap, _)| is_moved(*gap))
            && self.kept.iter().all(|(gap, _)| gap % day == 0 || is_moved(*gap))
    }

    /// Whether there are distances, and all that are remembered are those of months, or of their first or last days of
    /// trading.
    pub(super) fn are_months(&self, unit: TsUnit) -> bool {
        let day = unit.steps(Interval::DAY);
        match self.kept[..] {
            [] => false,
            // Two months of one length follow each other only where both have 31 days.
            [(gap, times)] => {
                (28 * day..=31 * day).contains(&gap) && (times == 1 || (times == 2 && gap == 31 * day))
            }
            _ => self.kept.iter().all(|(gap, _)| (26 * day..=35 * day).contains(gap)),
        }
    }

    /// How often distances occur that are remembered.
    pub(super) fn total(&self) -> u64 {
        self.kept.iter().map(|(_, count)| count).sum()
    }

    /// Whether the rows may be bars of this length. A few rows that stand elsewhere decide nothing, and nor do
    /// distances that are off by a twentieth, such as those of rows that are stamped seconds late.
    pub(super) fn spacing(&self, length: u64) -> Spacing {
        let Some((usual, most)) = self.most_frequent() else { return Spacing::Fits };
        let is_shorter = |gap: u64| gap.saturating_mul(20) < length.saturating_mul(19);
        let is_longer = |gap: u64| gap.saturating_mul(20) > length.saturating_mul(21);
        let count = |is: &dyn Fn(u64) -> bool| {
            self.kept.iter().filter(|(gap, _)| is(*gap)).map(|(_, count)| count).sum::<u64>()
        };
        let is_tied = self.kept.iter().any(|(gap, count)| *count == most && !is_shorter(*gap));
        if (is_shorter(usual) && !is_tied) || count(&is_shorter) * 2 > self.total() {
            let kept = self.kept.iter().copied().filter(|(gap, _)| is_shorter(*gap)).collect();
            let shorter = Self { kept, is_cut: self.is_cut, ..Self::default() };
            return shorter.most_frequent().map_or(Spacing::Fits, |(gap, _)| Spacing::Closer(gap));
        }
        let near = count(&|gap| !is_longer(gap));
        if is_longer(usual) && (near < 2 || near * 20 < self.total()) {
            return Spacing::Wider(usual);
        }
        let other = self.runs.iter().copied().filter(|gap| is_longer(*gap)).min();
        match other.filter(|_| self.runs.iter().any(|gap| !is_longer(*gap))) {
            Some(other) => Spacing::Mixed(other),
            None => Spacing::Fits,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gaps(of: &[(u64, u64)]) -> Gaps {
        let mut gaps = Gaps::default();
        of.iter().for_each(|(gap, times)| gaps.add(*gap, *times));
        gaps
    }

    #[test]
    fn rows_tell_which_bars_they_may_be() {
        for (of, length, expected) in [
            (&[(60, 30)][..], 60, Spacing::Fits),
            (&[(60, 30)], 300, Spacing::Closer(60)),
            (&[(300, 30)], 60, Spacing::Wider(300)),
            // Weekends, and hours of a day's trading.
            (&[(86_400, 200), (259_200, 19)], 86_400, Spacing::Fits),
            // One row of 600 seven seconds late, and rows that are late by milliseconds.
            (&[(60, 597), (67, 1), (53, 1)], 60, Spacing::Fits),
            (&[(61, 40), (58, 20)], 60, Spacing::Fits),
            (&[(53, 1), (67, 1)], 60, Spacing::Fits),
            (&[(28_799_983, 40), (28_800_017, 40), (28_800_004, 7)], 28_800_000, Spacing::Fits),
            // A minute's row between those of five minutes.
            (&[(300, 597), (60, 1), (240, 1)], 60, Spacing::Wider(300)),
            // A sparse series: some rows are neighbours.
            (&[(60, 1), (120, 1), (180, 1)], 60, Spacing::Fits),
            (&[(60, 4), (120, 5), (180, 3), (240, 6)], 60, Spacing::Fits),
            (&[(60, 1), (120, 1), (420, 1)], 300, Spacing::Closer(60)),
            // Bars of a minute for the greater part, and many holes.
            (&[(60, 40), (120, 20), (600, 20), (1_200, 20)], 300, Spacing::Closer(60)),
            (&[], 60, Spacing::Fits),
            // Hours, and minutes behind them.
            (&[(3_600, 23), (60, 29)], 60, Spacing::Mixed(3_600)),
            (&[(60, 29), (3_600, 23)], 60, Spacing::Mixed(3_600)),
            (&[(60, 29), (3_600, 19)], 60, Spacing::Fits),
        ] {
            assert_eq!(gaps(of).spacing(length), expected, "{of:?} as {length}");
        }
    }

    #[test]
    fn months_are_told_by_their_lengths() {
        const DAY: u64 = 86_400;
        let are_months = |of: &[u64]| {
            gaps(&of.iter().map(|days| (days * DAY, 1)).collect::<Vec<_>>()).are_months(TsUnit::Second)
        };
        assert!(are_months(&[31, 28, 31, 30]));
        // The last days of trading: a month may end on a Saturday.
        assert!(are_months(&[28, 31, 28, 33, 30]));
        assert!(are_months(&[28]) && are_months(&[31, 31]) && !are_months(&[28, 28]));
        assert!(!are_months(&[35]) && !are_months(&[31, 62]) && !are_months(&[7, 28]) && !are_months(&[]));
    }

    #[test]
    fn the_frequent_distance_is_found_among_many_rare_ones() {
        let mut gaps = Gaps::default();
        for rare in 0..10_000 {
            gaps.add(1_000 + rare, 1);
            gaps.add(60, 1);
            assert!(gaps.kept.len() <= KEPT);
        }
        assert_eq!(gaps.most_frequent().map(|(gap, _)| gap), Some(60));
        assert_eq!(gaps.spacing(300), Spacing::Closer(60));
    }
}
