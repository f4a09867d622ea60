//! Times on local clocks, closing times and dates: the instants that come out of files which have them.

use std::sync::Arc;

use chrono::{DateTime, TimeZone};
use chrono_tz::Tz;
use proptest::prelude::*;
use qmtl_history_api::arrow_array::cast::AsArray;
use qmtl_history_api::arrow_array::types::{Float64Type, TimestampNanosecondType};
use qmtl_history_api::arrow_array::{
    ArrayRef, Date32Array, Float64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
    TimestampMillisecondArray, TimestampNanosecondArray,
};
use qmtl_history_api::{DataFetcher, Error, FetchRequest, TimeRange, Timestamp, frame};
use qmtl_io_exchange::{FileConfig, FileFetcher, Stamp};

use crate::files::{TestFile, file, key, rows};
use crate::formats::{ipc_file, parquet};

/// The rows of a series: when it opened, and the number that it has.
type Rows = Vec<(String, f64)>;

async fn read_series(config: FileConfig, node: &str, interval: &str) -> Result<Rows, Error> {
    let fetcher = FileFetcher::open(config).await?;
    let key = key(node, interval);
    Ok(shown(&rows(&fetcher, &key, fetcher.range(&key)?).await?))
}

async fn read(config: FileConfig, interval: &str) -> Result<Rows, Error> {
    read_series(config, "X", interval).await
}

fn shown(rows: &RecordBatch) -> Rows {
    let times = frame::timestamps(rows).unwrap().values();
    let values = rows.column_by_name("close").unwrap().as_primitive::<Float64Type>().values();
    let iso = |micros: &i64| Timestamp::from_micros(*micros).unwrap().to_string();
    times.iter().map(iso).zip(values.iter().copied()).collect()
}

/// Rows numbered in the order of a file, as they are expected to come out.
fn numbered<const N: usize>(times: [&str; N]) -> Rows {
    times.into_iter().map(str::to_owned).zip([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).collect()
}

/// Times as text, one a row, with the numbers 1, 2 and so on.
fn csv(times: &[&str]) -> String {
    let rows = (1..).zip(times).map(|(number, time)| format!("{time},{number}\n"));
    format!("ts,close\n{}", rows.collect::<String>())
}

/// A Parquet and an Arrow file of the same times, with the numbers 1, 2 and so on.
fn columnar(times: ArrayRef) -> [TestFile; 2] {
    let numbers = (1..=times.len()).map(|number| f64::from(u32::try_from(number).unwrap()));
    let close: ArrayRef = Arc::new(Float64Array::from_iter_values(numbers));
    let batch = RecordBatch::try_from_iter([("ts", times), ("close", close)]).unwrap();
    [file("a.parquet", parquet(&batch, 2)), file("a.arrow", ipc_file(&[batch], None))]
}

fn micros(time: &str) -> i64 {
    time.parse::<Timestamp>().unwrap().as_micros()
}

fn in_zone(file: &TestFile, zone: &str) -> FileConfig {
    file.config().with_zone(zone.parse().unwrap())
}

#[tokio::test]
async fn text_without_an_offset_is_of_the_zone_and_text_with_one_is_not() {
    let cases: [(&[&str], &str, &str, [&str; 2]); 8] = [
        (
            &["2024-07-01 09:30", "2024-07-01 09:31"],
            "America/New_York",
            "1m",
            ["2024-07-01T13:30:00Z", "2024-07-01T13:31:00Z"],
        ),
        (
            &["2024.01.02 09:30", "2024.01.02 09:31"],
            "America/New_York",
            "1m",
            ["2024-01-02T14:30:00Z", "2024-01-02T14:31:00Z"],
        ),
        (
            &["20240701 170400", "20240701 170500"],
            "EST",
            "1m",
            ["2024-07-01T22:04:00Z", "2024-07-01T22:05:00Z"],
        ),
        (
            &["2024-07-01T09:15", "2024-07-01T09:16"],
            "+05:30",
            "1m",
            ["2024-07-01T03:45:00Z", "2024-07-01T03:46:00Z"],
        ),
        (
            &["2024-07-01T09:30-04:00", "2024-07-01T09:31-04:00"],
            "Asia/Tokyo",
            "1m",
            ["2024-07-01T13:30:00Z", "2024-07-01T13:31:00Z"],
        ),
        // Each row for itself.
        (
            &["2024-07-01 13:30:00Z", "2024-07-01 09:31:00"],
            "America/New_York",
            "1m",
            ["2024-07-01T13:30:00Z", "2024-07-01T13:31:00Z"],
        ),
        // A date begins where clocks show midnight.
        (
            &["2024-07-01", "2024-07-02"],
            "America/New_York",
            "1d+4h",
            ["2024-07-01T04:00:00Z", "2024-07-02T04:00:00Z"],
        ),
        (
            &["20240701", "20240702"],
            "America/New_York",
            "1d+4h",
            ["2024-07-01T04:00:00Z", "2024-07-02T04:00:00Z"],
        ),
    ];
    for (times, zone, interval, expected) in cases {
        let file = file("a.csv", csv(times));
        assert_eq!(
            read(in_zone(&file, zone), interval).await.unwrap(),
            numbered(expected),
            "{times:?} {zone}"
        );
    }
    // What counts from the epoch is an instant everywhere.
    let file = file("a.csv", csv(&["1719840600", "1719840660"]));
    let expected = numbered(["2024-07-01T13:30:00Z", "2024-07-01T13:31:00Z"]);
    assert_eq!(read(in_zone(&file, "Asia/Tokyo"), "1m").await.unwrap(), expected);
}

#[tokio::test]
async fn columns_of_timestamps_and_dates_are_of_the_zone_unless_they_have_one() {
    let clock = ["2024-07-01T09:30:00", "2024-07-01T09:31:00"].map(micros);
    let text = StringArray::from(vec!["2024-07-01 09:30:00", "2024-07-01 09:31:00"]);
    let naive = || TimestampMicrosecondArray::from(clock.to_vec());
    let local = ["2024-07-01T13:30:00Z", "2024-07-01T13:31:00Z"];
    let days = Date32Array::from(vec![19_905, 19_906]);
    let cases: [(ArrayRef, &str, [&str; 2]); 5] = [
        (Arc::new(naive()), "1m", local),
        (Arc::new(TimestampMillisecondArray::from(clock.map(|micros| micros / 1_000).to_vec())), "1m", local),
        (Arc::new(text), "1m", local),
        (Arc::new(days), "1d+4h", ["2024-07-01T04:00:00Z", "2024-07-02T04:00:00Z"]),
        (
            Arc::new(naive().with_timezone("America/New_York")),
            "1m",
            ["2024-07-01T09:30:00Z", "2024-07-01T09:31:00Z"],
        ),
    ];
    for (times, interval, expected) in cases {
        let data_type = times.data_type().clone();
        for file in columnar(times) {
            let found = read(in_zone(&file, "America/New_York"), interval).await.unwrap();
            assert_eq!(found, numbered(expected), "{data_type} in {}", file.path.display());
        }
    }
}

#[tokio::test]
async fn nanoseconds_keep_their_digits() {
    let clock = [micros("2024-11-03T02:30:00"), micros("2024-11-03T03:30:00")];
    let odd = clock.map(|micros| micros * 1_000 + 123);
    for file in columnar(Arc::new(TimestampNanosecondArray::from(odd.to_vec()))) {
        let fetcher = FileFetcher::open(in_zone(&file, "America/New_York")).await.unwrap();
        let key = key("X", "1h+30m");
        let request = FetchRequest::new(key.clone(), fetcher.range(&key).unwrap());
        let batch = fetcher.fetch(&request).await.unwrap().batches.into_batch().await.unwrap();
        let expected = [micros("2024-11-03T07:30:00"), micros("2024-11-03T08:30:00")];
        assert_eq!(
            batch.column(0).as_primitive::<TimestampNanosecondType>().values(),
            &expected.map(|micros| micros * 1_000 + 123)
        );
    }
}

/// New York put its clocks back at 06:00 UTC.
const DOUBLED: [&str; 5] = [
    "2024-11-03T04:00:00Z",
    "2024-11-03T05:00:00Z",
    "2024-11-03T06:00:00Z",
    "2024-11-03T07:00:00Z",
    "2024-11-03T08:00:00Z",
];

#[tokio::test]
async fn each_series_goes_through_the_doubled_hour_in_its_own_rows() {
    let hours = ["00", "01", "01", "02", "03"];
    let line = |symbol: &str, at: usize| format!("2024-11-03 {}:00,{symbol},{}\n", hours[at], at + 1);
    let interleaved: String = (0..5).map(|at| line("A", at) + &line("B", at)).collect();
    let one_by_one: String =
        ["A", "B"].map(|symbol| (0..5).map(|at| line(symbol, at)).collect::<String>()).concat();
    // One newest first, the other oldest first.
    let against: String = (0..5).map(|at| line("A", at) + &line("B", 4 - at)).collect();
    for lines in [interleaved, one_by_one, against] {
        let file = file("a.csv", format!("ts,symbol,close\n{lines}"));
        for symbol in ["A", "B"] {
            let config = in_zone(&file, "America/New_York").with_symbol_column("symbol");
            let found = read_series(config, symbol, "1h").await.unwrap();
            assert_eq!(found, numbered(DOUBLED), "{symbol}\n{lines}");
        }
    }
}

/// Times that are read as UTC and cannot be: a note says so, for text and for columns of timestamps without a zone.
#[tokio::test]
async fn an_hour_that_comes_twice_is_noted_where_no_zone_is_given() {
    let times = ["2024-11-03 00:00", "2024-11-03 01:00", "2024-11-03 01:00", "2024-11-03 02:00"];
    let clock = times.map(|time| micros(&format!("{}:00Z", time.replace(' ', "T"))));
    let told = |at: &str| {
        format!(
            "times go back at {at} (2024-11-03T01:00:00Z), as local clocks do in autumn: give their time zone (with_zone), \
             or they are read as UTC"
        )
    };
    let notes = |config| async { FileFetcher::open(config).await.unwrap().notes().to_vec() };
    let text = file("a.csv", csv(&times));
    assert_eq!(notes(text.config()).await, [told("line 4")]);
    assert!(notes(in_zone(&text, "America/New_York")).await.is_empty());
    for file in columnar(Arc::new(TimestampMicrosecondArray::from(clock.to_vec()))) {
        assert_eq!(notes(file.config()).await, [told("row 2")]);
    }
    for file in columnar(Arc::new(TimestampMicrosecondArray::from(clock.to_vec()).with_timezone("UTC"))) {
        assert!(notes(file.config()).await.is_empty());
    }
    // Numbers since 1970 are instants.
    let epoch = clock.map(|micros| (micros / 1_000_000).to_string());
    let epoch = file("a.csv", csv(&epoch.iter().map(String::as_str).collect::<Vec<_>>()));
    assert!(notes(epoch.config()).await.is_empty());
}

#[tokio::test]
async fn a_file_may_have_its_newest_rows_first() {
    let times =
        ["2024-11-03 03:00", "2024-11-03 02:00", "2024-11-03 01:00", "2024-11-03 01:00", "2024-11-03 00:00"];
    let expected: Rows = DOUBLED.into_iter().map(str::to_owned).zip([5.0, 4.0, 3.0, 2.0, 1.0]).collect();
    let text = file("a.csv", csv(&times));
    assert_eq!(read(in_zone(&text, "America/New_York"), "1h").await.unwrap(), expected);
    let clock = times.map(|time| micros(&format!("{}:00", time.replace(' ', "T"))));
    for file in columnar(Arc::new(TimestampMicrosecondArray::from(clock.to_vec()))) {
        assert_eq!(read(in_zone(&file, "America/New_York"), "1h").await.unwrap(), expected);
    }
}

#[tokio::test]
async fn a_time_that_the_rows_do_not_tell_is_refused_by_its_row() {
    let fails = async |file: &TestFile, parts: &[&str]| {
        let error = match FileFetcher::open(in_zone(file, "America/New_York")).await {
            Err(error) => error.to_string(),
            Ok(_) => panic!("it was read"),
        };
        for part in parts.iter().copied().chain(["zone: America/New_York"]) {
            assert!(error.contains(part), "{part:?} is not in {error}");
        }
    };
    let twice = ["a time comes twice in its time zone", "write the offset from UTC behind the times"];
    let none = ["a time is none in its time zone: clocks were put forward over it", "another zone"];
    // The hour once, which may be either of the two; and in no order.
    for (times, line) in [
        (&["2024-11-03 00:00", "2024-11-03 01:00", "2024-11-03 02:00"][..], "line: 3"),
        (&["2024-11-03 00:00", "2024-11-03 01:00", "2024-11-03 01:30", "2024-11-03 02:00"], "line: 3"),
        (
            &[
                "2024-11-03 01:00",
                "2024-11-03 01:30",
                "2024-11-03 01:00",
                "2024-11-03 01:00",
                "2024-11-03 03:00",
            ],
            "line: 2",
        ),
    ] {
        fails(&file("a.csv", csv(times)), &[&twice[..], &[line]].concat()).await;
    }
    let skipped = csv(&["2024-03-10 01:00", "2024-03-10 02:00", "2024-03-10 03:00"]);
    fails(&file("a.csv", skipped), &[&none[..], &["line: 3"]].concat()).await;
    let naive = |times: [&str; 3]| Arc::new(TimestampMicrosecondArray::from(times.map(micros).to_vec()));
    for file in columnar(naive(["2024-11-03T00:00:00", "2024-11-03T01:00:00", "2024-11-03T02:00:00"])) {
        fails(&file, &[&twice[..], &["row: 1"]].concat()).await;
    }
    for file in columnar(naive(["2024-03-10T01:00:00", "2024-03-10T02:00:00", "2024-03-10T03:00:00"])) {
        fails(&file, &[&none[..], &["row: 1"]].concat()).await;
    }
    // The remedy: offsets behind the times.
    let told =
        file("a.csv", csv(&["2024-11-03 00:00-04:00", "2024-11-03 01:00-05:00", "2024-11-03 02:00-05:00"]));
    assert_eq!(
        read(in_zone(&told, "America/New_York"), "1h").await.unwrap(),
        numbered(["2024-11-03T04:00:00Z", "2024-11-03T06:00:00Z", "2024-11-03T07:00:00Z"])
    );
}

#[tokio::test]
async fn bars_that_are_stamped_with_their_close_come_out_at_their_opening() {
    let expected = numbered(["2024-01-01T00:00:00Z", "2024-01-01T00:01:00Z", "2024-01-01T00:03:00Z"]);
    for times in [
        ["1704067259999", "1704067319999", "1704067439999"],
        ["1704067260000", "1704067320000", "1704067440000"],
        ["1704067259999999", "1704067319999999", "1704067439999999"],
        ["1704067260", "1704067320", "1704067440"],
        ["2024-01-01T00:00:59.999Z", "2024-01-01T00:01:59.999Z", "2024-01-01T00:03:59.999Z"],
    ] {
        let file = file("a.csv", csv(&times));
        let config = file.config().with_stamp(Stamp::Close).with_interval("1m".parse().unwrap());
        assert_eq!(read(config, "1m").await.unwrap(), expected, "{times:?}");
    }
    let naive = ["2024-07-01T09:31:00", "2024-07-01T09:32:00"].map(micros);
    for file in columnar(Arc::new(TimestampMicrosecondArray::from(naive.to_vec()))) {
        let config = in_zone(&file, "America/New_York").with_stamp(Stamp::Close);
        assert_eq!(
            read(config, "1m").await.unwrap(),
            numbered(["2024-07-01T13:30:00Z", "2024-07-01T13:31:00Z"])
        );
    }
}

#[tokio::test]
async fn dates_are_days_of_the_exchange_also_where_summer_time_begins() {
    let days =
        ["2024-03-08T00:00:00Z", "2024-03-11T00:00:00Z", "2024-11-01T00:00:00Z", "2024-11-04T00:00:00Z"];
    let dated = |file: &TestFile| file.config().with_stamp(Stamp::Date).with_interval("1d".parse().unwrap());
    for times in [
        // As Yahoo writes them.
        [
            "2024-03-08 00:00:00-05:00",
            "2024-03-11 00:00:00-04:00",
            "2024-11-01 00:00:00-04:00",
            "2024-11-04 00:00:00-05:00",
        ],
        ["2024-03-08", "2024-03-11", "2024-11-01", "2024-11-04"],
        ["20240308", "20240311", "20241101", "20241104"],
        ["2024-03-08 16:00", "2024-03-11 16:00", "2024-11-01 13:00", "2024-11-04 16:00"],
    ] {
        let file = file("a.csv", csv(&times));
        assert_eq!(read(dated(&file), "1d").await.unwrap(), numbered(days), "{times:?}");
        let zoned = dated(&file).with_zone("America/New_York".parse().unwrap());
        assert_eq!(read(zoned, "1d").await.unwrap(), numbered(days), "{times:?}");
    }
    // Instants of midnight there are dates only with the zone.
    let midnights =
        ["2024-03-08T05:00:00Z", "2024-03-11T04:00:00Z", "2024-11-01T04:00:00Z", "2024-11-04T05:00:00Z"];
    let seconds = midnights.map(|time| (micros(time) / 1_000_000).to_string());
    let text = file("a.csv", csv(&seconds.each_ref().map(String::as_str)));
    let new_york = "America/New_York".parse().unwrap();
    assert_eq!(read(dated(&text).with_zone(new_york), "1d").await.unwrap(), numbered(days));
    // So are the same instants as text, which programs write in UTC.
    let written = file("a.csv", csv(&midnights));
    assert_eq!(read(dated(&written).with_zone(new_york), "1d").await.unwrap(), numbered(days));
    for file in columnar(Arc::new(StringArray::from(midnights.to_vec()))) {
        assert_eq!(read(dated(&file).with_zone(new_york), "1d").await.unwrap(), numbered(days));
    }
    let instants = TimestampMicrosecondArray::from(midnights.map(micros).to_vec()).with_timezone("UTC");
    for file in columnar(Arc::new(instants)) {
        assert_eq!(read(dated(&file).with_zone(new_york), "1d").await.unwrap(), numbered(days));
    }
    for file in columnar(Arc::new(Date32Array::from(vec![19_790, 19_793, 20_028, 20_031]))) {
        assert_eq!(read(dated(&file), "1d").await.unwrap(), numbered(days));
    }
}

/// Fetches every run of seven bars, from before the first to behind the last, and compares them with all at once.
async fn sevens_are_the_whole(config: FileConfig, interval: &str, count: usize) {
    let path = format!("{config:?}");
    let fetcher = FileFetcher::open(config).await.unwrap();
    let key = key("X", interval);
    let all = fetcher.range(&key).unwrap();
    let whole = shown(&rows(&fetcher, &key, all).await.unwrap());
    assert_eq!(whole.len(), count, "{path}");
    let step = key.interval.as_micros();
    for shift in 0..7 {
        let mut found = Rows::new();
        let mut start = all.start().checked_add_micros(-step * (7 + shift)).unwrap();
        while start < all.end() {
            let end = start.checked_add_micros(7 * step).unwrap();
            let window = TimeRange::new(start, end).unwrap();
            let request = FetchRequest::new(key.clone(), window);
            let batch = fetcher.fetch(&request).await.unwrap().batches.into_batch().await.unwrap();
            let normal = frame::normalize(&key, window, &[batch]).unwrap();
            assert_eq!(normal.dropped.total(), 0, "{window} {path}");
            if normal.rows.num_rows() > 0 {
                found.extend(shown(&normal.rows));
            }
            start = end;
        }
        assert_eq!(found, whole, "{shift} {path}");
    }
}

#[tokio::test]
async fn windows_neither_lose_nor_double_a_bar_at_their_borders() {
    let bars = 60;
    let base = micros("2024-11-03T02:00:00");
    let new_york: Tz = "America/New_York".parse().unwrap();
    let hours: Vec<_> = (0..bars).map(|hour| base + hour * 3_600_000_000).collect();
    let walls: Vec<_> = hours.iter().map(|micros| wall(new_york, *micros)).collect();
    let text = |times: &[i64]| {
        let times: Vec<_> =
            times.iter().map(|micros| Timestamp::from_micros(*micros).unwrap().to_string()).collect();
        csv(&times.iter().map(|time| time.trim_end_matches('Z')).collect::<Vec<_>>())
    };
    let count = usize::try_from(bars).unwrap();
    for times in [walls.clone(), walls.iter().copied().rev().collect()] {
        let csv = file("a.csv", text(&times));
        sevens_are_the_whole(in_zone(&csv, "America/New_York"), "1h", count).await;
        for file in columnar(Arc::new(TimestampMicrosecondArray::from(times))) {
            sevens_are_the_whole(in_zone(&file, "America/New_York"), "1h", count).await;
        }
    }
    for early in [0, 1, 1_000] {
        let closes: Vec<_> = hours.iter().map(|micros| micros + 3_600_000_000 - early).collect();
        let csv = file("a.csv", text(&closes));
        sevens_are_the_whole(csv.config().with_stamp(Stamp::Close), "1h", count).await;
        for file in columnar(Arc::new(TimestampMicrosecondArray::from(closes))) {
            sevens_are_the_whole(file.config().with_stamp(Stamp::Close), "1h", count).await;
        }
    }
    let days: Vec<_> = (0..bars).map(|day| micros("2024-10-01T16:00:00") + day * 86_400_000_000).collect();
    let csv = file("a.csv", text(&days));
    sevens_are_the_whole(in_zone(&csv, "America/New_York").with_stamp(Stamp::Date), "1d", count).await;
}

/// What clocks of a zone show at an instant, both in microseconds.
fn wall(zone: Tz, micros: i64) -> i64 {
    let time = DateTime::from_timestamp_micros(micros).unwrap().naive_utc();
    zone.from_utc_datetime(&time).naive_local().and_utc().timestamp_micros()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Half hours, as Lord Howe puts its clocks by half an hour; none begins or ends near a change of the clocks.
    #[test]
    fn all_half_hours_of_a_zone_are_read_back_as_the_instants_they_came_from(
        zone in prop::sample::select(vec![
            "America/New_York", "Europe/Berlin", "Australia/Lord_Howe", "America/Sao_Paulo", "Asia/Jerusalem",
        ]),
        first in 0i64..3_000,
        days in 1i64..45,
        newest_first in any::<bool>(),
        as_text in any::<bool>(),
    ) {
        let start = micros("2016-01-01T10:00:00") + first * 86_400_000_000;
        let mut instants: Vec<_> = (0..days * 48).map(|at| start + at * 1_800_000_000).collect();
        if newest_first {
            instants.reverse();
        }
        let tz: Tz = zone.parse().unwrap();
        let walls: Vec<_> = instants.iter().map(|micros| wall(tz, *micros)).collect();
        let written = if as_text {
            let text = |micros: &i64| {
                DateTime::from_timestamp_micros(*micros).unwrap().format("%Y-%m-%d %H:%M").to_string()
            };
            let text: Vec<_> = walls.iter().map(text).collect();
            file("a.csv", csv(&text.iter().map(String::as_str).collect::<Vec<_>>()))
        } else {
            let [parquet, _] = columnar(Arc::new(TimestampMicrosecondArray::from(walls)));
            parquet
        };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let found = runtime.block_on(read(in_zone(&written, zone), "30m")).unwrap();
        let mut expected: Rows = (1..)
            .zip(&instants)
            .map(|(number, micros)| (Timestamp::from_micros(*micros).unwrap().to_string(), f64::from(number)))
            .collect();
        expected.sort_by(|a, b| a.0.cmp(&b.0));
        prop_assert_eq!(found, expected);
    }
}
