//! The algebra against a naive model: every pair of sets of a small universe, random sets of a
//! large one, and the guide's own numbers.

use proptest::prelude::*;

use super::*;

/// Points of the small universe; a set of them is a bit mask.
const POINTS: u32 = 7;

fn secs(value: i64) -> Timestamp {
    Timestamp::from_secs(value).unwrap()
}

fn range(start: i64, end: i64) -> TimeRange {
    TimeRange::new(secs(start), secs(end)).unwrap()
}

fn of_bits(bits: u32) -> RangeSet {
    (0..POINTS).filter(|i| bits & (1 << i) != 0).map(|i| range(i64::from(i), i64::from(i) + 1)).collect()
}

fn to_bits(set: &RangeSet) -> u32 {
    (0..POINTS).filter(|i| set.contains(secs(i64::from(*i)))).fold(0, |bits, i| bits | (1 << i))
}

/// What makes a `RangeSet` one: sorted, disjoint, not touching.
fn assert_normal(set: &RangeSet) {
    assert!(set.as_slice().windows(2).all(|pair| pair[0].end < pair[1].start), "{set:?}");
}

#[test]
fn every_pair_of_small_sets() {
    let second = Interval::from_secs(1).unwrap();
    for a in 0..1 << POINTS {
        let left = of_bits(a);
        assert_normal(&left);
        assert_eq!(to_bits(&left), a);
        assert_eq!(left.count(second), u64::from(a.count_ones()));
        assert_eq!(RangeSet::from_sorted_points(left.points(second), second), left);
        for b in 0..1 << POINTS {
            let right = of_bits(b);
            for (result, expected) in [
                (left.union(&right), a | b),
                (left.intersection(&right), a & b),
                (left.difference(&right), a & !b),
            ] {
                assert_normal(&result);
                assert_eq!(to_bits(&result), expected, "{left:?} {right:?}");
            }
        }
        for start in 0..POINTS {
            for end in start + 1..=POINTS {
                let cut = range(i64::from(start), i64::from(end));
                let inside = (1 << end) - (1 << start);
                assert_eq!(to_bits(&left.within(cut)), a & inside);
                assert_eq!(left.contains_range(cut), a & inside == inside);
                let mut grown = left.clone();
                grown.insert(cut);
                assert_normal(&grown);
                assert_eq!(to_bits(&grown), a | inside);
            }
        }
    }
}

#[test]
fn ranges_are_checked() {
    assert_eq!(
        TimeRange::new(secs(120), secs(60)).unwrap_err().to_string(),
        "a range must start before it ends (start: 1970-01-01T00:02:00Z, end: 1970-01-01T00:01:00Z)"
    );
    assert!(TimeRange::new(secs(60), secs(60)).is_err());
    assert!(TimeRange::inclusive(secs(60), secs(60)).is_ok());
    assert!(TimeRange::inclusive(secs(61), secs(60)).is_err());
    assert!(TimeRange::inclusive(secs(0), Timestamp::MAX).is_err());
}

#[test]
fn the_guides_off_grid_example() {
    // ensure_range(1700000000, 1700001800) at 60 s, then fetch(1700000000, 1700001860):
    // neither end is a multiple of 60, and both mean the same thirty bars.
    let minute = Interval::MINUTE;
    let ensured = TimeRange::inclusive(secs(1_700_000_000), secs(1_700_001_800)).unwrap();
    assert_eq!(ensured.bounds(minute), Some((secs(1_700_000_040), secs(1_700_001_780))));
    assert_eq!(ensured.count(minute), 30);
    assert_eq!(ensured.on_grid(minute), Some(range(1_700_000_040, 1_700_001_840)));
    let fetched = range(1_700_000_000, 1_700_001_860);
    assert_eq!(fetched.on_grid(minute), Some(range(1_700_000_040, 1_700_001_900)));
    assert_eq!(fetched.bounds(minute), Some((secs(1_700_000_040), secs(1_700_001_840))));
    // On the grid the last bar is part of the inclusive range, and the end is not of the other.
    assert_eq!(TimeRange::inclusive(secs(60), secs(120)).unwrap().count(minute), 2);
    assert_eq!(range(60, 120).count(minute), 1);
}

#[test]
fn coverage_merges_when_the_next_bar_follows() {
    // merge when start <= last_end + interval; a gap ends at next.start - interval.
    let minute = Interval::MINUTE;
    let set: RangeSet = [(60, 120), (180, 180), (300, 360)]
        .map(|(first, last)| TimeRange::inclusive(secs(first), secs(last)).unwrap())
        .into_iter()
        .collect();
    assert_eq!(set.inclusive(minute), [(secs(60), secs(180)), (secs(300), secs(360))]);
    let gap = RangeSet::from(range(60, 420)).difference(&set.on_grid(minute));
    assert_eq!(gap.inclusive(minute), [(secs(240), secs(240))]);
}

#[test]
fn ranges_between_grid_points_hold_no_bar() {
    let minute = Interval::MINUTE;
    let sliver = range(61, 119);
    assert_eq!((sliver.count(minute), sliver.bounds(minute), sliver.on_grid(minute)), (0, None, None));
    assert_eq!(sliver.points(minute).count(), 0);
    assert!(RangeSet::from(sliver).inclusive(minute).is_empty());
}

#[test]
fn weekly_grids_and_the_ends_of_time() {
    let week: Interval = "1w".parse().unwrap();
    let everything = TimeRange::ALL;
    let (first, last) = everything.bounds(week).unwrap();
    assert_eq!(first.to_string(), "1678-01-03T00:00:00Z");
    assert_eq!(last.to_string(), "9999-12-27T00:00:00Z");
    assert_eq!(everything.count(week), RangeSet::from(everything).count(week));
    assert_eq!(everything.on_grid(week).unwrap().end(), Timestamp::MAX);
    assert_eq!(everything.on_grid(week).unwrap().bounds(week), Some((first, last)));
    assert_eq!(everything.count(Interval::from_secs(1).unwrap()), 262_616_860_800);
}

/// Up to 40 ranges with ends anywhere in two hours, so that many touch, nest and miss the grid.
fn any_set() -> impl Strategy<Value = RangeSet> {
    prop::collection::vec((0i64..7_200, 1i64..400), 0..40)
        .prop_map(|spans| spans.into_iter().map(|(start, length)| range(start, start + length)).collect())
}

fn any_interval() -> impl Strategy<Value = Interval> {
    prop_oneof![Just(1i64), Just(7), Just(60), Just(300), Just(3_600), Just(604_800)]
        .prop_map(|secs| Interval::from_secs(secs).unwrap())
}

proptest! {
    #[test]
    fn large_sets_agree_with_a_model_by_second(a in any_set(), b in any_set()) {
        for (result, holds) in [
            (a.union(&b), (|x, y| x || y) as fn(bool, bool) -> bool),
            (a.intersection(&b), |x, y| x && y),
            (a.difference(&b), |x, y| x && !y),
        ] {
            assert_normal(&result);
            for point in (0..8_000).map(secs) {
                prop_assert_eq!(result.contains(point), holds(a.contains(point), b.contains(point)));
            }
        }
    }

    #[test]
    fn the_grid_view_keeps_exactly_the_bars(set in any_set(), interval in any_interval()) {
        let bars: Vec<_> = (0..8_000).map(secs).filter(|p| interval.is_on_grid(*p) && set.contains(*p)).collect();
        prop_assert_eq!(set.points(interval).collect::<Vec<_>>(), bars.clone());
        prop_assert_eq!(set.count(interval), bars.len() as u64);
        let grid = set.on_grid(interval);
        assert_normal(&grid);
        prop_assert_eq!(&grid, &RangeSet::from_sorted_points(bars, interval));
        prop_assert_eq!(grid.on_grid(interval), grid.clone());
        let back: RangeSet = set
            .inclusive(interval)
            .into_iter()
            .map(|(first, last)| TimeRange::inclusive(first, last).unwrap())
            .collect();
        prop_assert_eq!(back.on_grid(interval), grid);
    }

    #[test]
    fn insertion_in_any_order_is_union(spans in prop::collection::vec((0i64..1_000, 1i64..60), 0..60)) {
        let mut grown = RangeSet::new();
        grown.extend(spans.iter().map(|(start, length)| range(*start, start + length)));
        assert_normal(&grown);
        prop_assert_eq!(grown, spans.iter().map(|(start, length)| range(*start, start + length)).collect());
    }

    #[test]
    fn no_end_panics(start in 0..=Timestamp::MAX.as_micros(), length in 1i64..=Timestamp::MAX.as_micros(), interval in any_interval()) {
        let start = Timestamp::from_micros(start).unwrap();
        let end = start.checked_add_micros(length).unwrap_or(Timestamp::MAX);
        if let Some(range) = TimeRange::checked(start, end) {
            let _ = (range.on_grid(interval), range.bounds(interval), range.count(interval));
            prop_assert_eq!(range.points(interval).take(3).count() as u64, range.count(interval).min(3));
        }
    }
}

#[test]
fn a_set_is_printed_as_its_ranges() {
    let range = |from, to| TimeRange::new(secs(from), secs(to)).unwrap();
    let set: RangeSet = [range(0, 60), range(120, 180)].into_iter().collect();
    let text = "[1970-01-01T00:00:00Z, 1970-01-01T00:01:00Z), [1970-01-01T00:02:00Z, 1970-01-01T00:03:00Z)";
    assert_eq!((set.to_string().as_str(), RangeSet::new().to_string().as_str()), (text, ""));
}
