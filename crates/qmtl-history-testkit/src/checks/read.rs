//! What a read returns: `H-READ-01` to `H-READ-05`.

use std::sync::Arc;

use qmtl_history_api::arrow_array::{Float64Array, Int64Array, RecordBatch};
use qmtl_history_api::arrow_schema::DataType;
use qmtl_history_api::{ErrorKind, HistoryBackendExt, ReadRequest, SeriesKey, TimeRange, Timestamp, frame};

use crate::Subject;
use crate::fixtures::{bar, bars, batch, rows_within};
use crate::probe::closes;

/// Far more than any sensible partition of a store, so that reads and writes cross several.
pub(super) const MANY: u32 = 120_000;

/// `H-READ-01`: exactly the stored rows with `start <= ts < end`, ascending, each once.
pub async fn h_read_01_half_open_ascending_unique(subject: &Subject) {
    let btc = subject.btc();
    let value = |bar: u32| (bar, f64::from(bar));
    btc.keep(btc.rows((0..10).map(value))).await;
    for (first, end) in [(2, 5), (0, 10), (0, 1), (9, 10), (4, 5), (9, 20)] {
        let expected = btc.expected((first..end.min(10)).map(value));
        assert_eq!(btc.closes(btc.span(first, end)).await, expected, "bars [{first}, {end})");
    }
    assert_eq!(btc.closes(btc.span(10, 20)).await, [], "after the last row");
    assert_eq!(btc.closes(TimeRange::ALL).await, btc.expected((0..10).map(value)));
}

/// `H-READ-01`: the ends of a range need not be on the grid.
pub async fn h_read_01_off_grid_ends(subject: &Subject) {
    let btc = subject.btc();
    btc.keep(btc.rows((0..5).map(|bar| (bar, 1.0)))).await;
    let shifted = |bar: u32, micros: i64| btc.bar(bar).checked_add_micros(micros).expect("near 2024");
    for (start, end, expected) in [
        (shifted(1, 1), shifted(3, 1), 2..4),
        (shifted(1, -1), shifted(3, -1), 1..3),
        (shifted(1, 0), shifted(1, 1), 1..2),
        (shifted(1, 1), shifted(2, 0), 0..0),
    ] {
        let range = TimeRange::new(start, end).expect("start is before end");
        assert_eq!(btc.closes(range).await, btc.expected(expected.map(|bar| (bar, 1.0))), "{range}");
    }
}

/// `H-READ-01`: rows come ascending and once, in whatever order and overlap they were written.
pub async fn h_read_01_out_of_order_and_overlapping_writes(subject: &Subject) {
    let btc = subject.btc();
    for (writer, bars) in [(1.0, 20..30), (2.0, 0..10), (3.0, 5..25), (4.0, 0..32)] {
        btc.keep(btc.rows(bars.map(|bar| (bar, writer)))).await;
    }
    let writer = |bar: u32| match bar {
        0..10 => 2.0,
        10..20 => 3.0,
        20..30 => 1.0,
        _ => 4.0,
    };
    assert_eq!(btc.closes(TimeRange::ALL).await, btc.expected((0..32).map(|bar| (bar, writer(bar)))));
}

/// `H-READ-01`, `H-READ-02`: a series of many partitions, written last part first, reads as one.
pub async fn h_read_01_many_partitions(subject: &Subject) {
    let btc = subject.btc();
    let whole = bars(&btc.key, btc.bar(0), usize::try_from(MANY).expect("it fits"));
    let third = MANY / 3;
    for part in [2, 0, 1] {
        let rows = rows_within(&whole, btc.span(part * third, (part + 1) * third));
        assert_eq!(btc.keep(rows).await.rows_written, u64::from(third));
    }
    let same = |read: &RecordBatch, expected: &RecordBatch| read.columns() == expected.columns();
    assert!(same(&btc.all().await, &whole), "the series differs from what was written");
    for range in [btc.span(third - 1, third + 1), btc.span(1, MANY - 1), btc.span(49_990, 70_010)] {
        assert!(same(&btc.read(range).await, &rows_within(&whole, range)), "{range} differs");
    }
}

/// `H-READ-01`: every interval has its own grid; weeks start on Monday, and a phase moves it.
pub async fn h_read_01_every_grid(subject: &Subject) {
    for interval in ["1s", "7s", "90s", "1h", "1h+30m", "1d+16h", "3d", "1w", "1w+3d", "2w", "3650d"] {
        let series = subject.probe("BTC", interval);
        let rows = bars(&series.key, series.bar(0), 50);
        series.keep(rows.clone()).await;
        assert_eq!(series.all().await.columns(), rows.columns(), "{}", series.key);
        let middle = series.span(10, 20);
        assert_eq!(
            series.read(middle).await.columns(),
            rows_within(&rows, middle).columns(),
            "{}",
            series.key
        );
        assert_eq!(series.present(TimeRange::ALL).await, series.span(0, 50).into(), "{}", series.key);
    }
}

/// `H-READ-01`: the first bar that the store can hold and the last one of 9999 are bars like others.
pub async fn h_read_01_first_and_last_bar_of_time(subject: &Subject) {
    let btc = subject.btc();
    let first = btc.key.interval.ceil(btc.backend.capabilities().earliest).expect("there is time after it");
    let last = btc.key.interval.floor(Timestamp::MAX).expect("9999 is after 1678");
    let close = Arc::new(Float64Array::from(vec![1.0, 2.0, 3.0]));
    let rows = batch(&[first, btc.bar(0), last], [("close", close as _)]);
    btc.keep(rows.clone()).await;
    assert_eq!(btc.closes(TimeRange::ALL).await, closes(&rows));
    let head = TimeRange::new(first, btc.bar(0)).expect("the bar is before 2024");
    assert_eq!(btc.closes(head).await, [(first.as_micros(), 1.0)]);
    let tail = TimeRange::new(last, Timestamp::MAX).expect("the bar is before the end");
    assert_eq!(btc.closes(tail).await, [(last.as_micros(), 3.0)]);
    assert_eq!(btc.present(TimeRange::ALL).await.count(btc.key.interval), 3);
}

/// `H-READ-02`: without rows the schema is the series' whole one, and `ts` alone where nothing
/// was ever written.
pub async fn h_read_02_schema_without_rows(subject: &Subject) {
    let btc = subject.btc();
    let never = btc.all().await;
    assert_eq!((never.num_rows(), never.schema()), (0, frame::ts_only_schema()));
    btc.keep(bars(&btc.key, btc.bar(0), 3)).await;
    let none = btc.read(btc.span(1_000, 1_010)).await;
    assert_eq!((none.num_rows(), none.schema()), (0, bars(&btc.key, btc.bar(0), 0).schema()));
    let request = ReadRequest::new(btc.key.clone(), btc.span(1_000, 1_010)).with_columns(["low", "open"]);
    let projected = btc.backend.read_all(&request).await.expect("stored columns can be asked for");
    let expected = frame::schema_of([("low", DataType::Float64), ("open", DataType::Float64)]);
    assert_eq!((projected.num_rows(), projected.schema()), (0, expected));
}

/// `H-READ-02`: a stream and each of its batches have one schema: `ts`, then the columns in the
/// order in which the series first saw them, whatever a write's own order was.
pub async fn h_read_02_every_batch_has_the_schema(subject: &Subject) {
    let btc = subject.btc();
    let column = |value: i64| Arc::new(Int64Array::from(vec![value])) as _;
    btc.keep(batch(&btc.points([60_000]), [("b", column(1)), ("a", column(2))])).await;
    btc.keep(batch(&btc.points([0]), [("a", column(3)), ("b", column(4))])).await;
    btc.keep(batch(&btc.points([110_000]), [("a", column(5))])).await;
    let expected = frame::schema_of([("b", DataType::Int64), ("a", DataType::Int64)]);
    let request = ReadRequest::new(btc.key.clone(), TimeRange::ALL);
    let mut stream = btc.backend.read_range(&request).await.expect("a series can be read");
    assert_eq!(stream.schema(), expected);
    let mut rows = 0;
    while let Some(batch) = stream.next().await {
        let batch = batch.expect("the stream goes on to its end");
        assert_eq!(batch.schema(), expected);
        rows += batch.num_rows();
    }
    assert_eq!(rows, 3);
}

/// `H-READ-03`: a projection returns `ts` and the named columns in the asked order; no column is
/// `ts` alone.
pub async fn h_read_03_projection_in_the_asked_order(subject: &Subject) {
    let btc = subject.btc();
    let rows = bars(&btc.key, btc.bar(0), 10);
    btc.keep(rows.clone()).await;
    for columns in [vec!["close"], vec!["volume", "open", "low"], vec!["open", "volume"], vec![]] {
        let request = ReadRequest::new(btc.key.clone(), TimeRange::ALL).with_columns(columns.clone());
        let read = btc.backend.read_all(&request).await.expect("stored columns can be asked for");
        let names: Vec<_> = read.schema().fields().iter().skip(1).map(|f| f.name().clone()).collect();
        assert_eq!(
            (read.schema().field(0), names),
            (&frame::ts_field(), columns.iter().map(|c| (*c).to_owned()).collect())
        );
        for name in columns.into_iter().chain([frame::TS]) {
            assert_eq!(read.column_by_name(name), rows.column_by_name(name), "column {name}");
        }
    }
}

/// `H-READ-03`: a column that the series lacks is `NotFound`, naming it.
pub async fn h_read_03_unknown_column_is_not_found(subject: &Subject) {
    let btc = subject.btc();
    btc.keep(bars(&btc.key, btc.bar(0), 3)).await;
    let never_written = subject.probe("ETH", "1m").key;
    for (key, columns) in
        [(&btc.key, ["close", "vwap"]), (&btc.key, ["vwap", "close"]), (&never_written, ["vwap", "vwap2"])]
    {
        let error = refused_read(subject, key, columns).await;
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        assert!(!error.is_retryable(), "{error}");
        let text = error.to_string();
        assert!(
            text.contains("vwap") && text.contains(&key.to_string()),
            "must name series and column: {text}"
        );
    }
}

/// The error of a read, which may come at once or as the stream's first item.
async fn refused_read(subject: &Subject, key: &SeriesKey, columns: [&str; 2]) -> qmtl_history_api::Error {
    let request = ReadRequest::new(key.clone(), TimeRange::ALL).with_columns(columns);
    match subject.backend().read_all(&request).await {
        Ok(rows) => panic!("{columns:?} of {key} were read: {rows:?}"),
        Err(error) => error,
    }
}

/// `H-READ-04`: a stream dropped midway leaves no lock. A store that keeps one hangs here.
pub async fn h_read_04_dropped_stream_leaves_no_lock(subject: &Subject) {
    let btc = subject.btc();
    btc.keep(bars(&btc.key, btc.bar(0), 60_000)).await;
    for _ in 0..3 {
        let request = ReadRequest::new(btc.key.clone(), TimeRange::ALL);
        let unread = btc.backend.read_range(&request).await.expect("a series can be read");
        let mut begun = btc.backend.read_range(&request).await.expect("a series can be read");
        begun.next().await.expect("there are rows").expect("they can be read");
        drop((begun, unread));
    }
    assert_eq!(btc.keep(bars(&btc.key, bar(&btc.key, 60_000), 10)).await.rows_written, 10);
    assert_eq!(btc.all().await.num_rows(), 60_010);
    assert_eq!(btc.present(TimeRange::ALL).await, btc.span(0, 60_010).into());
}

/// `H-READ-05`: a read shows each commit of a partition whole or not at all. The ten bars of one
/// write lie in one partition of any calendar, and all carry the number of the write.
pub async fn h_read_05_commit_whole_or_not_at_all(subject: &Subject) {
    let btc = subject.btc();
    let version = |version: u32| btc.rows((0..10).map(|bar| (bar, f64::from(version))));
    btc.replace(version(0)).await;
    let writer = tokio::spawn({
        let (btc, versions) = (btc.clone(), (1..=40).map(version).collect::<Vec<_>>());
        async move {
            for rows in versions {
                btc.replace(rows).await;
            }
        }
    });
    let mut newest = 0.0;
    loop {
        let done = writer.is_finished();
        let rows = btc.closes(btc.span(0, 10)).await;
        let version = rows.first().map_or(f64::NAN, |(_, close)| *close);
        let whole = rows.len() == 10 && rows.iter().all(|(_, close)| *close == version);
        assert!(whole, "a torn commit: {rows:?}");
        assert!(version >= newest, "a read after version {newest} shows version {version}");
        newest = version;
        if done {
            break;
        }
    }
    writer.await.expect("every write is taken");
    assert_eq!(newest, 40.0, "the newest version is not read");
}
