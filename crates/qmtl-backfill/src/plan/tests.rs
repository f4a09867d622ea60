//! The planner against a naive model that looks at one bar at a time.

use std::collections::BTreeSet;

use proptest::prelude::*;
use qmtl_history_api::EmptyProof;

use super::*;

fn secs(value: i64) -> Timestamp {
    Timestamp::from_secs(value).unwrap()
}

fn range(start: i64, end: i64) -> TimeRange {
    TimeRange::new(secs(start), secs(end)).unwrap()
}

fn source(name: &str) -> SourceId {
    SourceId::new(name).unwrap()
}

fn planner(max_rows: Option<u64>) -> Planner {
    let limits = max_rows.map_or_else(FetchLimits::none, |rows| FetchLimits::none().with_max_rows(rows));
    Planner::new(Interval::MINUTE, vec![source("a")], limits)
}

const LATER: i64 = 4_000_000_000;

#[test]
fn windows_stand_on_absolute_multiples_whatever_was_asked() {
    let plan = planner(None).with_window_bars(10).plan(range(60, 1_860), &Coverage::default(), secs(LATER));
    let windows: Vec<_> = plan.unwrap().windows().map(|w| (w.range, w.gaps)).collect();
    assert_eq!(
        windows,
        [(0, 600), (600, 1_200), (1_200, 1_800), (1_800, 2_400)].map(|(start, end)| {
            (range(start, end), RangeSet::from(range(start.max(60), end.min(1_860))))
        })
    );
}

#[test]
fn weekly_windows_begin_on_a_monday() {
    let week = Interval::from_secs(7 * 86_400).unwrap();
    let planner = Planner::new(week, vec![], FetchLimits::none()).with_window_bars(2);
    let monday = secs(4 * 86_400);
    let wanted = TimeRange::new(Timestamp::EPOCH, secs(100 * 86_400)).unwrap();
    let plan = planner.plan(wanted, &Coverage::default(), secs(LATER)).unwrap();
    let first = plan.windows().next().unwrap();
    assert_eq!(first.range, TimeRange::new(monday, secs(18 * 86_400)).unwrap());
    assert_eq!(plan.estimated_rows(), 14);
    assert_eq!(plan.window_count(), 7);
}

#[test]
fn windows_go_on_before_the_epoch() {
    let plan = |wanted, bars| {
        let plan =
            planner(None).with_window_bars(bars).plan(wanted, &Coverage::default(), secs(LATER)).unwrap();
        let windows: Vec<_> = plan.windows().map(|w| w.range).collect();
        assert_eq!(plan.window_count(), windows.len() as u64);
        windows
    };
    let around = range(-900, 660);
    assert_eq!(
        plan(around, 10),
        [(-1_200, -600), (-600, 0), (0, 600), (600, 1_200)].map(|(a, b)| range(a, b))
    );
    // However long, a window begins or ends at the epoch, or where time does.
    let beginning = TimeRange::new(Timestamp::MIN, Timestamp::EPOCH).unwrap();
    let end = TimeRange::new(Timestamp::EPOCH, Timestamp::MAX).unwrap();
    assert_eq!(plan(around, u64::MAX), [beginning, end]);
    assert_eq!(plan(range(Timestamp::MIN.as_secs(), 60), 1 << 37), [beginning, end]);
}

#[test]
fn a_grid_with_a_phase_has_windows_of_its_own() {
    let hours: Interval = "1h+30m".parse().unwrap();
    let planner = Planner::new(hours, vec![source("a")], FetchLimits::none()).with_window_bars(2);
    let plan = planner.plan(range(0, 18_000), &Coverage::default(), secs(LATER)).unwrap();
    let windows: Vec<_> = plan.windows().map(|w| w.range).collect();
    assert_eq!(windows, [(1_800, 9_000), (9_000, 16_200), (16_200, 23_400)].map(|(a, b)| range(a, b)));
    assert_eq!((plan.estimated_rows(), plan.gaps()), (5, &range(1_800, 19_800).into()));
}

#[test]
fn nothing_is_asked_that_lies_further_back_than_a_source_has() {
    let newest = |bars| FetchLimits::none().with_newest_bars(bars);
    let wanted = range(0, 6_000);
    let now = secs(6_030);
    let of = |planner: Planner| planner.plan(wanted, &Coverage::default(), now).unwrap();
    let plan = of(Planner::new(Interval::MINUTE, vec![source("a")], newest(20)));
    assert_eq!((plan.gaps(), plan.out_of_reach()), (&range(4_800, 6_000).into(), &range(0, 4_800).into()));
    assert_eq!((plan.estimated_rows(), plan.request_count()), (20, 1));
    // Another source reaches further, by age: a bar that is half out of it is out of it.
    let aged = FetchLimits::none().with_newest(Duration::from_secs(3_000));
    let both = of(Planner::new(Interval::MINUTE, vec![source("a")], newest(20)).then(source("b"), aged));
    assert_eq!((both.gaps(), both.out_of_reach()), (&range(3_060, 6_000).into(), &range(0, 3_060).into()));
    // What one has proven and the other cannot have is asked of nobody.
    let mut known = Coverage::default();
    known.add_empty(&EmptyProof::new(source("b"), range(3_060, 6_000).into(), "no row", now));
    let planner = Planner::new(Interval::MINUTE, vec![source("a")], newest(20)).then(source("b"), aged);
    let plan = planner.plan(wanted, &known, now).unwrap();
    assert_eq!((plan.gaps(), plan.request_count()), (&range(4_800, 6_000).into(), 1));
    assert_eq!(of(Planner::new(Interval::MINUTE, vec![source("a")], newest(0))).gaps(), &RangeSet::new());
}

#[test]
fn the_forming_bar_the_future_and_the_recorders_ground_are_left_alone() {
    let wanted = range(0, 6_000);
    let bars = |now: i64, settle: u64| {
        let plan = planner(None).with_settle(settle).plan(wanted, &Coverage::default(), secs(now)).unwrap();
        plan.estimated_rows()
    };
    assert_eq!(bars(599, 0), 9, "the bar of 540 is still forming at 599");
    assert_eq!(bars(600, 0), 10, "and has closed at 600");
    assert_eq!(bars(600, 2), 8);
    assert_eq!(bars(600, u64::MAX), 0);
    assert_eq!(bars(59, 0), 0);
    assert_eq!(bars(LATER, 0), 100);
}

#[test]
fn the_guides_off_grid_ends_mean_the_bars_inside() {
    let wanted = TimeRange::inclusive(secs(1_700_000_000), secs(1_700_001_800)).unwrap();
    let plan = planner(None).plan(wanted, &Coverage::default(), secs(LATER)).unwrap();
    assert_eq!(plan.gaps().inclusive(Interval::MINUTE), [(secs(1_700_000_040), secs(1_700_001_780))]);
}

#[test]
fn a_poor_source_does_not_silence_a_better_one() {
    let mut coverage = Coverage::default();
    let hole = RangeSet::from(range(0, 600));
    coverage.add_empty(&EmptyProof::new(source("a"), hole, "no row", secs(LATER)));
    let plan = |sources: &[&str]| {
        let sources = sources.iter().map(|name| source(name)).collect();
        let planner = Planner::new(Interval::MINUTE, sources, FetchLimits::none());
        planner.plan(range(0, 600), &coverage, secs(LATER)).unwrap()
    };
    assert_eq!(plan(&["a"]).estimated_rows(), 0);
    assert_eq!(plan(&["a", "b"]).estimated_rows(), 10);
    assert_eq!(plan(&[]).estimated_rows(), 10);
}

#[test]
fn a_plan_without_room_is_refused_by_name() {
    let refused = |planner: Planner| {
        planner.plan(range(0, 600), &Coverage::default(), secs(LATER)).unwrap_err().to_string()
    };
    assert_eq!(
        refused(planner(None).with_window_bars(0)),
        "a plan needs room for at least one bar (window_bars: 0)"
    );
    assert_eq!(refused(planner(Some(0))), "a plan needs room for at least one bar (max_rows: 0)");
}

#[test]
fn the_ends_of_time_and_of_numbers_do_not_overflow() {
    for bars in [1 << 40, u64::MAX] {
        let planner = planner(Some(u64::MAX)).with_window_bars(bars);
        let plan = planner.plan(TimeRange::ALL, &Coverage::default(), Timestamp::MAX).unwrap();
        let windows: Vec<_> = plan.windows().collect();
        assert_eq!((plan.window_count(), windows.len()), (2, 2), "one before the epoch and one after it");
        for window in windows {
            assert_eq!(window.requests().collect::<Vec<_>>(), [window.span()]);
        }
    }
}

#[test]
fn ten_million_bars_with_a_million_gaps_are_planned_in_linear_time() {
    let gap = |index: i64| range(index * 600, index * 600 + 60);
    let present: RangeSet =
        RangeSet::from(range(0, 600_000_000)).difference(&(0..1_000_000).map(gap).collect());
    let planner = planner(Some(1_000));
    let plan = planner.plan(range(0, 600_000_000), &Coverage::of_present(present), secs(LATER)).unwrap();
    assert_eq!((plan.estimated_rows(), plan.gaps().len()), (1_000_000, 1_000_000));
    assert_eq!(
        (plan.window_count(), plan.request_count()),
        (11_112, 11_112),
        "a page has room for many gaps"
    );
    assert_eq!(plan.windows().map(|w| w.bars()).sum::<u64>(), 1_000_000);
}

/// Runs of bars: the length of each is a number of minutes, alternately known and missing.
fn known() -> impl Strategy<Value = BTreeSet<i64>> {
    prop::collection::vec(1_i64..12, 0..24).prop_map(|runs| {
        let mut minute = 0;
        let mut known = BTreeSet::new();
        for (index, length) in runs.into_iter().enumerate() {
            if index % 2 == 1 {
                known.extend(minute..minute + length);
            }
            minute += length;
        }
        known
    })
}

proptest! {
    #[test]
    fn every_missing_closed_bar_is_asked_for_exactly_once_and_no_page_is_wasted(
        known in known(),
        start in 0_i64..6_000,
        length in 1_i64..9_000,
        now in 0_i64..12_000,
        (window_bars, settle) in (1_u64..40, 0_u64..3),
        max_rows in prop::option::of(1_u64..20),
    ) {
        let wanted = range(start, start + length);
        let present = RangeSet::from_sorted_points(known.iter().map(|m| secs(m * 60)), Interval::MINUTE);
        let planner = planner(max_rows).with_window_bars(window_bars).with_settle(settle);
        let plan = planner.plan(wanted, &Coverage::of_present(present), secs(now)).unwrap();

        let closed = |minute: i64| (minute + 1 + i64::try_from(settle).unwrap()) * 60 <= now;
        let expected: Vec<Timestamp> = (0..200)
            .filter(|minute| wanted.contains(secs(minute * 60)) && closed(*minute) && !known.contains(minute))
            .map(|minute| secs(minute * 60))
            .collect();
        let windows: Vec<_> = plan.windows().collect();
        let requests: Vec<_> = windows.iter().flat_map(Window::requests).collect();
        let asked: Vec<_> = requests.iter().flat_map(|r| r.points(Interval::MINUTE)).collect();
        let missing: Vec<_> = asked.iter().copied().filter(|bar| expected.contains(bar)).collect();
        prop_assert_eq!(&missing, &expected);
        prop_assert!(max_rows.is_some() || asked == expected, "without pages, nothing that is known");

        prop_assert_eq!(plan.estimated_rows(), u64::try_from(expected.len()).unwrap());
        prop_assert_eq!(plan.window_count(), u64::try_from(windows.len()).unwrap());
        prop_assert_eq!(plan.request_count(), u64::try_from(requests.len()).unwrap());
        let length = i64::try_from(window_bars).unwrap() * 60;
        for (ordinal, window) in windows.iter().enumerate() {
            prop_assert_eq!(window.ordinal, u64::try_from(ordinal).unwrap());
            prop_assert_eq!(window.range.start().as_secs() % length, 0);
            prop_assert_eq!(window.range.micros(), length * 1_000_000);
            prop_assert!(window.range.contains_range(window.span()));
        }
        for request in &requests {
            prop_assert!(request.count(Interval::MINUTE) <= max_rows.unwrap_or(u64::MAX));
            let ends = request.bounds(Interval::MINUTE).unwrap();
            prop_assert!(expected.contains(&ends.0) && expected.contains(&ends.1), "{request} ends in a known bar");
        }
        if let Some(rows) = max_rows {
            for window in &windows {
                let starts: Vec<_> = window.requests().map(TimeRange::start).collect();
                let page = i64::try_from(rows).unwrap() * 60;
                let apart = starts.windows(2).all(|pair| pair[1].as_secs() - pair[0].as_secs() >= page);
                prop_assert!(apart, "two requests where one page has room: {starts:?}");
            }
        }
    }
}
