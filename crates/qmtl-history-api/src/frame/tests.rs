//! Normalisation against a naive model, and every refusal with its message.

use std::collections::BTreeMap;
use std::time::Duration;

use arrow_array::types::Float64Type;
use arrow_array::{
    ArrayRef, Float64Array, Int64Array, StringArray, TimestampMillisecondArray, TimestampNanosecondArray,
    TimestampSecondArray,
};
use proptest::prelude::*;

use super::*;
use crate::{Interval, TimeRange};

fn key() -> SeriesKey {
    SeriesKey::new("BTC", Interval::MINUTE).unwrap()
}

/// 2024-01-01T00:00:00Z.
const BASE: i64 = 1_704_067_200;

fn window(from: i64, to: i64) -> TimeRange {
    let at = |minute: i64| Timestamp::from_secs(BASE + minute * 60).unwrap();
    TimeRange::new(at(from), at(to)).unwrap()
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true)))
        .unwrap()
}

/// Rows of `(seconds, close)` with a time column in seconds.
fn rows(values: &[(i64, f64)]) -> RecordBatch {
    let ts = TimestampSecondArray::from_iter_values(values.iter().map(|(secs, _)| *secs));
    let close = Float64Array::from_iter_values(values.iter().map(|(_, close)| *close));
    batch(vec![("ts", Arc::new(ts)), ("close", Arc::new(close))])
}

fn refused(batch: &RecordBatch) -> String {
    let error = normalize(&key(), window(0, 60), std::slice::from_ref(batch)).unwrap_err();
    assert_eq!(error.kind(), crate::ErrorKind::Schema);
    assert!(!error.is_retryable());
    error.to_string()
}

#[test]
fn every_unit_and_zone_comes_out_the_same() {
    let ms = TimestampMillisecondArray::from(vec![BASE * 1_000]);
    let ns = TimestampNanosecondArray::from(vec![BASE * 1_000_000_000]).with_timezone("+02:00");
    for ts in [Arc::new(ms) as ArrayRef, Arc::new(ns), Arc::new(TimestampSecondArray::from(vec![BASE]))] {
        let normal = normalize(&key(), window(0, 1), &[batch(vec![("ts", ts)])]).unwrap();
        check(&key(), &normal.rows).unwrap();
        assert_eq!(timestamps(&normal.rows).unwrap().values(), &[BASE * 1_000_000]);
    }
}

#[test]
fn the_time_column_moves_to_the_front_and_values_stay_as_they_are() {
    let close = Float64Array::from(vec![Some(f64::NAN), None, Some(-0.0)]);
    let ts = TimestampSecondArray::from(vec![BASE, BASE + 60, BASE + 120]);
    let normal = normalize(
        &key(),
        window(0, 3),
        &[batch(vec![("close", Arc::new(close.clone())), ("ts", Arc::new(ts))])],
    )
    .unwrap();
    assert_eq!(normal.rows.schema(), schema_of([("close", DataType::Float64)]));
    let kept = normal.rows.column(1).as_primitive::<Float64Type>();
    assert_eq!(kept.nulls(), close.nulls());
    assert_eq!(kept.value(0).to_bits(), f64::NAN.to_bits());
    assert_eq!(kept.value(2).to_bits(), (-0.0f64).to_bits());
}

#[test]
fn no_rows_are_a_frame_too() {
    let normal = normalize(&key(), window(0, 1), &[]).unwrap();
    assert_eq!((normal.rows.num_rows(), normal.rows.schema()), (0, ts_only_schema()));
    let normal = normalize(&key(), window(0, 1), &[rows(&[])]).unwrap();
    assert_eq!(normal.rows.schema(), schema_of([("close", DataType::Float64)]));
}

#[test]
fn duplicates_are_dropped_and_conflicts_counted() {
    let minute = |n: i64| BASE + n * 60;
    let given =
        rows(&[(minute(2), 2.0), (minute(1), 1.0), (minute(2), 2.0), (minute(2), 9.0), (minute(99), 0.0)]);
    let normal = normalize(&key(), window(0, 60), &[given]).unwrap();
    check(&key(), &normal.rows).unwrap();
    assert_eq!(normal.rows.column(1).as_primitive::<Float64Type>().values(), &[1.0, 2.0]);
    assert_eq!(normal.dropped, Dropped { outside: 1, duplicate: 1, conflict: 1, ..Dropped::default() });
    let [named] = &normal.conflicts[..] else { panic!("{:?}", normal.conflicts) };
    assert_eq!(named.ts, Timestamp::from_secs(minute(2)).unwrap());
    assert_eq!((&*named.column, &*named.kept, &*named.other), ("close", "2.0", "9.0"));
    let span = (minute(1), minute(99));
    assert_eq!(normal.span.map(|(first, last)| (first.as_secs(), last.as_secs())), Some(span));
    assert_eq!(normal.dropped.total(), 3);
}

#[test]
fn a_row_off_the_grid_is_listed_and_costs_no_other_row() {
    let given = rows(&[(BASE, 1.0), (BASE + 67, 2.0), (BASE + 120, 3.0), (BASE + 180, 4.0)]);
    let normal = normalize(&key(), window(0, 60), &[given]).unwrap();
    assert_eq!(normal.rows.column(1).as_primitive::<Float64Type>().values(), &[1.0, 3.0, 4.0]);
    assert_eq!((normal.dropped.off_grid, normal.dropped.total()), (1, 1));
    let [odd] = normal.off_grid[..] else { panic!("{:?}", normal.off_grid) };
    assert_eq!((odd.ts.as_secs(), odd.distance()), (BASE + 67, Duration::from_secs(7)));
    assert_eq!(odd.bars(Interval::MINUTE), Some(window(1, 3)), "it may have been meant for either");
    // All of them off by one constant are rows of another grid, not of another interval.
    let late = rows(&[(BASE + 30, 1.0), (BASE + 90, 2.0), (BASE + 150, 3.0)]);
    assert_eq!(normalize(&key(), window(0, 60), &[late]).unwrap().dropped.off_grid, 3);
    // Between two microseconds nothing is on any grid.
    for nanos in [BASE * 1_000_000_000 + 17, BASE * 1_000_000_000 - 17] {
        let nanos = batch(vec![("ts", Arc::new(TimestampNanosecondArray::from(vec![nanos])))]);
        let wide =
            TimeRange::new(window(0, 1).start().checked_add_micros(-60_000_000).unwrap(), window(0, 1).end());
        assert_eq!(normalize(&key(), wide.unwrap(), &[nanos]).unwrap().dropped.off_grid, 1);
    }
}

#[test]
fn bars_of_a_shorter_interval_are_refused_with_their_distance() {
    let hours = SeriesKey::new("BTC", Interval::HOUR).unwrap();
    let minutes: Vec<_> = (0..90).map(|minute| (BASE + minute * 60, 1.0)).collect();
    let error = normalize(&hours, window(0, 120), &[rows(&minutes)]).unwrap_err().to_string();
    assert!(error.starts_with("the rows are bars of a shorter interval"), "{error}");
    assert!(error.contains("(series: BTC@1h, distance: 60s, first: 2024-01-01T00:01:00Z)"), "{error}");
}

#[test]
fn rows_that_differ_are_told_with_both_values() {
    let canonical = |values: &[(i64, f64)]| normalize(&key(), window(0, 60), &[rows(values)]).unwrap().rows;
    let old = canonical(&[(BASE, 1.0), (BASE + 60, f64::NAN), (BASE + 120, 3.0), (BASE + 240, 5.0)]);
    let new = canonical(&[(BASE + 60, f64::NAN), (BASE + 120, 3.5), (BASE + 180, 4.0), (BASE + 240, 5.0)]);
    let [found] = &differences(&old, &new).unwrap()[..] else { panic!("one row differs") };
    assert_eq!((found.ts.as_secs(), &*found.column), (BASE + 120, "close"));
    assert_eq!((&*found.kept, &*found.other), ("3.0", "3.5"));
    assert!(differences(&old, &canonical(&[])).unwrap().is_empty());
}

#[test]
fn values_that_are_no_numbers_are_told_by_column() {
    let given = rows(&[(BASE, 1.0), (BASE + 60, f64::NAN), (BASE + 120, f64::NAN)]);
    let normal = normalize(&key(), window(0, 60), &[given]).unwrap();
    let [nan] = &not_numbers(&normal.rows)[..] else { panic!("one column has them") };
    assert_eq!((&*nan.column, nan.rows, nan.first.as_secs()), ("close", 2, BASE + 60));
    // A price that is null is none either; a volume may be.
    let nulls = || Arc::new(Float64Array::from(vec![Some(1.0), None])) as ArrayRef;
    let ts = Arc::new(TimestampSecondArray::from(vec![BASE, BASE + 60]));
    let given = batch(vec![("ts", ts), ("Open", nulls()), ("volume", nulls())]);
    let normal = normalize(&key(), window(0, 60), &[given]).unwrap();
    let [null] = &not_numbers(&normal.rows)[..] else { panic!("one column has them") };
    assert_eq!((&*null.column, null.rows, null.first.as_secs()), ("Open", 1, BASE + 60));
    // Nor is an infinite one, whatever it is held in; a volume may be.
    for width in [DataType::Float64, DataType::Float32] {
        let infinite = || {
            let values: ArrayRef = Arc::new(Float64Array::from(vec![1.0, f64::NEG_INFINITY]));
            arrow_cast::cast::cast(&values, &width).unwrap()
        };
        let ts = Arc::new(TimestampSecondArray::from(vec![BASE, BASE + 60]));
        let given = batch(vec![("ts", ts), ("low", infinite()), ("volume", infinite())]);
        let normal = normalize(&key(), window(0, 60), std::slice::from_ref(&given)).unwrap();
        let [found] = &not_numbers(&normal.rows)[..] else { panic!("one column has them") };
        assert_eq!((&*found.column, found.rows, found.first.as_secs()), ("low", 1, BASE + 60));
        let rules = Rules::default().with_nan(NanRule::Missing);
        let normal = normalize_by(&key(), window(0, 60), &[given], rules).unwrap();
        assert_eq!((normal.rows.num_rows(), normal.dropped.nan), (1, 1), "{width}");
    }
    let times = |row: usize| Timestamp::from_secs(BASE + i64::try_from(row).unwrap()).unwrap();
    let values = [1.0, f64::INFINITY, f64::NAN];
    assert_eq!(NotNumbers::of("close", &values, times).unwrap().rows, 2);
    assert_eq!(NotNumbers::of("volume", &values, times).unwrap().first, times(2));
}

#[test]
fn rows_that_contradict_each_other_again_and_again_are_not_of_one_series() {
    let of = |times: i64, repeated: i64| {
        let stamps = (0..times).chain(0..repeated).map(|at| BASE + at * 60).collect::<Vec<_>>();
        let close = (0..times + repeated).map(|at| f64::from(i32::try_from(at).unwrap())).collect::<Vec<_>>();
        let given = batch(vec![
            ("ts", Arc::new(TimestampSecondArray::from(stamps)) as _),
            ("close", Arc::new(Float64Array::from(close)) as _),
        ]);
        normalize(&key(), window(0, 6_000), &[given])
    };
    assert_eq!(of(20, 9).unwrap().dropped.conflict, 9);
    assert_eq!(of(4, 4).unwrap().dropped.conflict, 4, "a few are a few");
    let error = of(20, 10).unwrap_err().to_string();
    assert!(error.starts_with("many times have several rows that contradict each other"), "{error}");
    assert!(error.contains("times: 20, contradicting_rows: 10"), "{error}");
}

#[test]
fn rows_that_all_miss_the_grid_alike_tell_of_another_one() {
    let told = |interval: &str, times: &[&str]| {
        let key = SeriesKey::new("BTC", interval.parse().unwrap()).unwrap();
        let rows: Vec<_> =
            times.iter().map(|time| OffGrid::new(time.parse().unwrap(), key.interval)).collect();
        other_grid(&key, &rows).map(|error| error.to_string())
    };
    for (interval, times, fits) in [
        ("1h", ["2024-01-08T14:30:00Z", "2024-01-09T15:30:00Z"], "1h+30m"),
        ("1d", ["2023-12-31T16:00:00Z", "2024-01-01T16:00:00Z"], "1d+16h"),
        ("1w", ["2024-01-04", "2024-01-11"], "1w+3d"),
        ("1d+16h", ["2024-01-01", "2024-01-02"], "1d"),
    ] {
        assert_eq!(
            told(interval, &times).unwrap(),
            format!(
                "no row is on the grid of {interval}, but all are on that of {fits}: use that interval \
                 (series: BTC@{interval}, first: {})",
                times[0].parse::<Timestamp>().unwrap()
            )
        );
    }
    let zone = told("1d", &["2024-01-02T05:00:00Z", "2024-07-01T04:00:00Z", "2024-07-02T04:00:00Z"]).unwrap();
    assert!(zone.contains("store each by its date (with_stamp date)"), "{zone}");
    assert!(zone.contains("fitting: 1d+4h, 1d+5h"), "{zone}");
    // One row tells of no grid, nor do several that differ, or lie between two seconds.
    assert_eq!(told("1h", &["2024-01-08T14:30:00Z"]), None);
    assert_eq!(told("1h", &["2024-01-08T14:30:00Z", "2024-01-08T15:31:00Z"]), None);
    assert_eq!(told("1h", &["2024-01-08T14:30:00.789Z", "2024-01-08T15:30:00.789Z"]), None);
    assert_eq!(told("1h", &[]), None);
}

/// Rows in a window, with odd ones treated by rules as a command line names them.
fn ruled(rules: &str, window: TimeRange, given: &[(i64, f64)]) -> Result<Normalized> {
    let rules = match rules.strip_prefix("nan:") {
        Some(nan) => Rules::default().with_nan(nan.parse().unwrap()),
        None => Rules::default().with_off_grid(rules.parse().unwrap()),
    };
    normalize_by(&key(), window, &[rows(given)], rules)
}

/// The rows as seconds after [`BASE`] and their numbers.
fn found(normal: &Normalized) -> Vec<(i64, f64)> {
    check(&key(), &normal.rows).unwrap();
    let times = timestamps(&normal.rows).unwrap().values().iter().map(|micros| micros / 1_000_000 - BASE);
    times.zip(normal.rows.column(1).as_primitive::<Float64Type>().values().iter().copied()).collect()
}

fn secs(points: &[Timestamp]) -> Vec<i64> {
    points.iter().map(|point| point.as_secs() - BASE).collect()
}

#[test]
fn each_rule_says_what_becomes_of_a_row_off_the_grid() {
    let given = [(BASE, 1.0), (BASE + 67, 2.0), (BASE + 177, 3.0), (BASE + 240, 4.0)];
    let kept = vec![(0, 1.0), (240, 4.0)];
    for (rule, expected, moved, off_grid) in [
        ("list", kept.clone(), vec![], 2),
        ("drop", kept, vec![], 2),
        ("floor", vec![(0, 1.0), (60, 2.0), (120, 3.0), (240, 4.0)], vec![60, 120], 0),
        ("nearest:3s", vec![(0, 1.0), (180, 3.0), (240, 4.0)], vec![180], 1),
        ("nearest:20s", vec![(0, 1.0), (60, 2.0), (180, 3.0), (240, 4.0)], vec![60, 180], 0),
    ] {
        let normal = ruled(rule, window(0, 60), &given).unwrap();
        assert_eq!(found(&normal), expected, "{rule}");
        assert_eq!(secs(&normal.moved), moved, "{rule}");
        assert_eq!((normal.dropped.off_grid, normal.dropped.total()), (off_grid, off_grid), "{rule}");
        assert_eq!(normal.off_grid.len() as u64, off_grid, "{rule}");
    }
    let error = ruled("refuse", window(0, 60), &given).unwrap_err();
    assert_eq!(
        error.to_string(),
        "rows are off the grid, which is to be refused (with_off_grid) (series: BTC@1m, rows: 2, first: \
         2024-01-01T00:01:07Z)"
    );
    assert_eq!(error.kind(), crate::ErrorKind::Schema);
    // Outside the window a row is nobody's.
    assert_eq!(ruled("refuse", window(0, 1), &given).unwrap().dropped.outside, 3);
}

#[test]
fn rows_of_one_bar_are_never_merged_and_the_one_on_the_grid_stays() {
    let on_grid = [(BASE + 60, 1.0), (BASE + 61, 2.0), (BASE + 119, 3.0), (BASE + 180, 4.0)];
    let beside = [(BASE + 61, 1.0), (BASE + 119, 2.0), (BASE + 180, 4.0)];
    for given in [&on_grid[..], &beside] {
        let mut backwards = given.to_vec();
        backwards.reverse();
        let mut turned = given.to_vec();
        turned.rotate_left(1);
        for order in [given.to_vec(), backwards, turned] {
            let normal = ruled("floor", window(0, 60), &order).unwrap();
            assert_eq!(found(&normal), [(60, 1.0), (180, 4.0)], "{order:?}");
            let others = given.len() as u64 - 2;
            assert_eq!((normal.dropped.conflict, normal.dropped.total()), (others, others), "{order:?}");
            let named: Vec<_> =
                normal.conflicts.iter().map(|row| (row.ts.as_secs() - BASE, &*row.kept)).collect();
            assert_eq!(named, vec![(60, "1.0"); given.len() - 2], "{order:?}");
        }
    }
    // The same row twice is no conflict, wherever it stood.
    let normal = ruled("floor", window(0, 60), &[(BASE + 61, 1.0), (BASE + 60, 1.0)]).unwrap();
    assert_eq!((found(&normal), normal.dropped.duplicate), (vec![(60, 1.0)], 1));
    let normal = ruled("nearest:30s", window(0, 60), &[(BASE + 58, 2.0), (BASE + 60, 1.0)]).unwrap();
    assert_eq!((found(&normal), normal.dropped.conflict), (vec![(60, 1.0)], 1));
    // Ticks are no bars, whatever the rule.
    let ticks: Vec<_> = (0..300).map(|at| (BASE + at * 7, 1.0)).collect();
    let error = ruled("floor", window(0, 60), &ticks).unwrap_err().to_string();
    assert!(error.starts_with("the rows are bars of a shorter interval"), "{error}");
}

#[test]
fn a_row_comes_into_the_window_of_its_nearest_bar_and_into_no_other() {
    let given = [(BASE + 58, 1.0), (BASE + 122, 2.0), (BASE + 178, 3.0), (BASE + 240, 4.0)];
    let rules = Rules::default().with_off_grid(OffGridRule::Nearest(Duration::from_secs(5)));
    assert_eq!(rules.asked(window(1, 2), Interval::MINUTE), window(0, 2));
    assert_eq!(Rules::default().asked(window(1, 2), Interval::MINUTE), window(1, 2));
    // A source that gives what it is asked for, and one that gives everything.
    let asked = |minute: i64| {
        let asked = rules.asked(window(minute, minute + 1), Interval::MINUTE);
        let is_asked = |row: &&(i64, f64)| asked.contains(Timestamp::from_secs(row.0).unwrap());
        given.iter().filter(is_asked).copied().collect::<Vec<_>>()
    };
    let mut all = Vec::new();
    for minute in 0..6 {
        let normal = ruled("nearest:5s", window(minute, minute + 1), &asked(minute)).unwrap();
        assert_eq!(
            normal.dropped.total(),
            0,
            "what was asked for to be sure is nothing to tell of: {minute}"
        );
        assert_eq!(found(&ruled("nearest:5s", window(minute, minute + 1), &given).unwrap()), found(&normal));
        all.extend(found(&normal));
    }
    assert_eq!(all, [(60, 1.0), (120, 2.0), (180, 3.0), (240, 4.0)]);
    // Too far from any bar it is listed in the window in which it stands, and only there.
    let stray = [(BASE + 90, 1.0)];
    let listed = |minute| ruled("nearest:5s", window(minute, minute + 1), &stray).unwrap().dropped;
    assert_eq!((listed(1).off_grid, listed(2).off_grid, listed(2).total()), (1, 0, 0));
}

#[test]
fn a_row_without_a_price_is_kept_left_out_or_refused() {
    let ts = || Arc::new(TimestampSecondArray::from_iter_values((0..5).map(|at| BASE + at * 60))) as ArrayRef;
    let open =
        Arc::new(Float64Array::from(vec![Some(1.0), None, Some(3.0), Some(4.0), Some(5.0)])) as ArrayRef;
    let close = Arc::new(Float64Array::from(vec![1.0, 2.0, f64::NAN, 4.0, 5.0])) as ArrayRef;
    let volume =
        Arc::new(Float64Array::from(vec![Some(1.0), Some(2.0), Some(3.0), Some(f64::NAN), None])) as ArrayRef;
    let given = batch(vec![("ts", ts()), ("Open", open), ("close", close), ("volume", volume)]);
    let by = |rule: &str| {
        let rules = Rules::default().with_nan(rule.parse().unwrap());
        normalize_by(&key(), window(0, 60), std::slice::from_ref(&given), rules)
    };
    let kept = by("keep").unwrap();
    assert_eq!((kept.rows.num_rows(), kept.dropped.total()), (5, 0));
    let missing = by("missing").unwrap();
    assert_eq!(secs(&missing.without_price), [60, 120]);
    assert_eq!((missing.dropped.nan, missing.dropped.total()), (2, 2));
    let times = timestamps(&missing.rows).unwrap().values().iter().map(|micros| micros / 1_000_000 - BASE);
    assert_eq!(times.collect::<Vec<_>>(), [0, 180, 240], "a volume may be none");
    let error = by("refuse").unwrap_err();
    assert_eq!(
        error.to_string(),
        "rows have no number for a price, which is to be refused (with_nan) (series: BTC@1m, rows: 2, first: \
         2024-01-01T00:01:00Z)"
    );
    assert_eq!(error.kind(), crate::ErrorKind::Schema);
    // Rows that have all of their prices are nothing to any rule.
    for rule in ["keep", "missing", "refuse"] {
        let normal = ruled(&format!("nan:{rule}"), window(0, 60), &[(BASE, 1.0)]);
        assert_eq!(normal.unwrap().rows.num_rows(), 1, "{rule}");
    }
}

#[test]
fn what_has_no_time_is_refused_by_row() {
    let nulls = TimestampSecondArray::from(vec![Some(BASE), None]);
    assert_eq!(
        refused(&batch(vec![("ts", Arc::new(nulls))])),
        "a row has no time (series: BTC@1m, column: ts, row: 1)"
    );
    let close = Float64Array::from(vec![1.0]);
    assert_eq!(
        refused(&batch(vec![("time", Arc::new(close))])),
        "the source's rows have no time column (series: BTC@1m, column: ts, columns: time)"
    );
    assert_eq!(
        refused(&batch(vec![("ts", Arc::new(Int64Array::from(vec![BASE])))])),
        "the time column is not a timestamp; give it a unit (series: BTC@1m, column: ts, type: Int64)"
    );
}

#[test]
fn a_wrong_unit_is_recognised() {
    let seconds_as_ms = TimestampMillisecondArray::from(vec![BASE]);
    let text = refused(&batch(vec![("ts", Arc::new(seconds_as_ms))]));
    assert!(
        text.starts_with(
            "a row lies more than ten years outside its window (series: BTC@1m, column: ts, row: 0"
        ),
        "{text}"
    );
    assert!(text.ends_with("hint: its value times 1000 would fit)"), "{text}");
    let ms_as_seconds = TimestampSecondArray::from(vec![BASE * 1_000]);
    let text = refused(&batch(vec![("ts", Arc::new(ms_as_seconds))]));
    assert!(text.starts_with("a row's time is outside the years 1678 to 9999"), "{text}");
    assert!(text.ends_with("hint: its value divided by 1000 would fit)"), "{text}");
    let overflow = TimestampSecondArray::from(vec![i64::MAX]);
    assert!(refused(&batch(vec![("ts", Arc::new(overflow))])).contains("outside the years 1678 to 9999"));
}

#[test]
fn column_names_are_distinct() {
    let column = || Arc::new(Float64Array::from(vec![1.0])) as ArrayRef;
    let fields = vec![
        ts_field(),
        Field::new("close", DataType::Float64, true),
        Field::new("close", DataType::Float64, true),
    ];
    let columns =
        vec![Arc::new(ts_array([Timestamp::from_secs(BASE).unwrap()])) as ArrayRef, column(), column()];
    let twice = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap();
    assert_eq!(
        refused(&twice),
        "column names must be distinct and not empty (series: BTC@1m, column: \"close\")"
    );
    assert!(check(&key(), &twice).is_err());
}

#[test]
fn check_names_what_is_not_canonical() {
    let canonical = |secs: &[i64]| {
        let ts = ts_array(secs.iter().map(|s| Timestamp::from_secs(*s).unwrap()));
        RecordBatch::try_new(ts_only_schema(), vec![Arc::new(ts)]).unwrap()
    };
    let message = |batch: &RecordBatch| check(&key(), batch).unwrap_err().to_string();
    check(&key(), &canonical(&[BASE, BASE + 60])).unwrap();
    assert!(
        message(&canonical(&[BASE, BASE]))
            .starts_with("rows must be strictly ascending in time (series: BTC@1m, column: ts, row: 1")
    );
    assert!(message(&canonical(&[BASE + 60, BASE])).starts_with("rows must be strictly ascending"));
    assert!(
        message(&canonical(&[BASE + 1]))
            .starts_with("a row is off the grid (series: BTC@1m, column: ts, row: 0")
    );
    let text = batch(vec![("close", Arc::new(StringArray::from(vec!["x"])))]);
    assert_eq!(message(&text), "the first column must be ts (series: BTC@1m, columns: close)");
    assert!(
        message(&rows(&[(BASE, 1.0)])).starts_with("the time column must be Timestamp(Microsecond, \"UTC\")")
    );
}

#[test]
fn stored_types_are_not_contradicted() {
    let stored = schema_of([("close", DataType::Float64)]);
    check_types(&key(), &schema_of([("close", DataType::Float64), ("new", DataType::Utf8)]), &stored)
        .unwrap();
    assert_eq!(
        check_types(&key(), &schema_of([("close", DataType::Utf8)]), &stored).unwrap_err().to_string(),
        "the column is stored with another type; give the new one another name, or leave it out \
         (with_column) (series: BTC@1m, column: close, stored: Float64, given: Utf8)"
    );
}

proptest! {
    #[test]
    fn any_rows_agree_with_a_model(given in prop::collection::vec((-20i64..80, 0u8..3), 0..120), cut in 0usize..120) {
        let values: Vec<_> = given.iter().map(|(minute, close)| (BASE + minute * 60, f64::from(*close))).collect();
        let cut = cut.min(values.len());
        let normal = normalize(&key(), window(0, 60), &[rows(&values[..cut]), rows(&values[cut..])]);
        let (mut model, mut dropped) = (BTreeMap::new(), Dropped::default());
        for (secs, close) in values {
            if !(BASE..BASE + 3_600).contains(&secs) {
                dropped.outside += 1;
            } else if let Some(kept) = model.get(&(secs * 1_000_000)) {
                *(if *kept == close { &mut dropped.duplicate } else { &mut dropped.conflict }) += 1;
            } else {
                model.insert(secs * 1_000_000, close);
            }
        }
        if dropped.conflict >= 5 && dropped.conflict * 2 >= model.len() as u64 {
            prop_assert!(normal.unwrap_err().to_string().contains("contradict each other"));
            return Ok(());
        }
        let normal = normal.unwrap();
        check(&key(), &normal.rows).unwrap();
        prop_assert_eq!(normal.dropped, dropped);
        prop_assert_eq!(timestamps(&normal.rows).unwrap().values().to_vec(), model.keys().copied().collect::<Vec<_>>());
        let kept = normal.rows.column(1).as_primitive::<Float64Type>().values().to_vec();
        prop_assert_eq!(kept, model.into_values().collect::<Vec<_>>());
    }
}
