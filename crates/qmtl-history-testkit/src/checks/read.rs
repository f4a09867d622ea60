//! What a read returns: `H-READ-01` to `H-READ-08`.

use std::sync::Arc;

use qmtl_history_api::arrow_array::Float64Array;
use qmtl_history_api::arrow_schema::DataType;
use qmtl_history_api::{
    ErrorKind, HistoryBackend, HistoryBackendExt, ReadRequest, SeriesKey, TimeRange, Timestamp, frame,
};

use crate::Subject;
use crate::fixtures::{bar, bars, batch, rows_within};
use crate::probe::{assert_closes, assert_rows, closes};

/// Far more than any sensible partition of a store, so that reads and writes cross several.
pub(super) const MANY: u32 = 120_000;

/// `H-READ-01`: exactly the stored rows with `start <= ts < end`, ascending, each once.
pub async fn h_read_01_half_open_ascending_unique(subject: &Subject) {
    let btc = subject.btc();
    let value = |bar: u32| (bar, f64::from(bar));
    btc.keep(btc.rows((0..10).map(value))).await;
    for (first, end) in [(2, 5), (0, 10), (0, 1), (9, 10), (4, 5), (9, 20)] {
        let expected = btc.expected((first..end.min(10)).map(value));
        assert_closes(
            &btc.closes(btc.span(first, end)).await,
            &expected,
            format_args!("bars [{first}, {end})"),
        );
    }
    assert_closes(&btc.closes(btc.span(10, 20)).await, &[], "after the last row");
    assert_closes(&btc.closes(TimeRange::ALL).await, &btc.expected((0..10).map(value)), "all of the series");
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
        assert_closes(&btc.closes(range).await, &btc.expected(expected.map(|bar| (bar, 1.0))), range);
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
    let expected = btc.expected((0..32).map(|bar| (bar, writer(bar))));
    assert_closes(&btc.closes(TimeRange::ALL).await, &expected, "all of the series");
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
    assert_rows(&btc.all().await, &whole, "all of the series");
    for range in [btc.span(third - 1, third + 1), btc.span(1, MANY - 1), btc.span(49_990, 70_010)] {
        assert_rows(&btc.read(range).await, &rows_within(&whole, range), range);
    }
}

/// `H-READ-01`: every interval has its own grid; weeks start on Monday, and a phase moves it.
pub async fn h_read_01_every_grid(subject: &Subject) {
    for interval in ["1s", "7s", "90s", "1h", "1h+30m", "1d+16h", "3d", "1w", "1w+3d", "2w", "3650d"] {
        let series = subject.probe("BTC", interval);
        let rows = bars(&series.key, series.bar(0), 50);
        series.keep(rows.clone()).await;
        assert_rows(&series.all().await, &rows, &series.key);
        let middle = series.span(10, 20);
        assert_rows(&series.read(middle).await, &rows_within(&rows, middle), &series.key);
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
    assert_closes(&btc.closes(TimeRange::ALL).await, &closes(&rows), "all of the series");
    let head = TimeRange::new(first, btc.bar(0)).expect("the bar is before 2024");
    assert_closes(&btc.closes(head).await, &[(first.as_micros(), 1.0)], "the first bar");
    let tail = TimeRange::new(last, Timestamp::MAX).expect("the bar is before the end");
    assert_closes(&btc.closes(tail).await, &[(last.as_micros(), 3.0)], "the last bar");
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
    let column = |value: f64| Arc::new(Float64Array::from(vec![value])) as _;
    btc.keep(batch(&btc.points([60_000]), [("b", column(1.0)), ("a", column(2.0))])).await;
    btc.keep(batch(&btc.points([0]), [("a", column(3.0)), ("b", column(4.0))])).await;
    btc.keep(batch(&btc.points([110_000]), [("a", column(5.0))])).await;
    let expected = frame::schema_of([("b", DataType::Float64), ("a", DataType::Float64)]);
    let request = ReadRequest::new(btc.key.clone(), TimeRange::ALL);
    let mut stream = btc.backend.read_range(&request).await.expect("a series can be read");
    assert_eq!(stream.schema(), expected);
    let mut rows = 0;
    while let Some(batch) = stream.next_batch().await {
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

/// `H-READ-06`: `ts` may be named, and stands first all the same; a column that is named twice is refused.
pub async fn h_read_06_ts_and_names_twice(subject: &Subject) {
    let btc = subject.btc();
    btc.keep(bars(&btc.key, btc.bar(0), 3)).await;
    let read = async |columns: &[&str]| {
        let request = ReadRequest::new(btc.key.clone(), TimeRange::ALL).with_columns(columns.iter().copied());
        btc.backend.read_all(&request).await
    };
    let plain = read(&["close", "open"]).await.expect("stored columns can be asked for");
    for named in [&["ts", "close", "open"][..], &["close", "ts", "open"], &["close", "open", "ts"]] {
        assert_eq!(read(named).await.expect("ts is a column"), plain, "{named:?}");
    }
    assert_eq!(read(&["ts"]).await.expect("ts is a column"), read(&[]).await.expect("no column is one too"));
    for twice in [&["close", "close"][..], &["close", "open", "close"]] {
        let error = read(twice).await.expect_err("a batch cannot have two columns of one name");
        assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::InvalidInput, false), "{error}");
        assert!(error.to_string().contains("close"), "must name the column: {error}");
    }
    // A series that was never written has a time column too.
    let never = ReadRequest::new(subject.probe("ETH", "1m").key, TimeRange::ALL).with_columns(["ts"]);
    let never = subject.backend().read_all(&never).await.expect("ts is a column");
    assert_eq!((never.num_rows(), never.schema()), (0, frame::ts_only_schema()));
}

/// `H-READ-07`: with a limit a read has the first rows of its order, and newest first it is descending.
pub async fn h_read_07_newest_first_and_limits(subject: &Subject) {
    let btc = subject.btc();
    let numbers = [0, 1, 5, 6, 7, 60_000, 60_001, 110_000];
    btc.keep(btc.rows(numbers.map(|bar| (bar, f64::from(bar))))).await;
    // A second commit of the same partitions.
    btc.keep(btc.rows([(3, 3.0), (60_003, 3.0)])).await;
    let whole = btc.closes(TimeRange::ALL).await;
    let odd = TimeRange::new(
        btc.bar(0).checked_add_micros(1).expect("near 2024"),
        btc.bar(60_001).checked_add_micros(1).expect("near 2024"),
    );
    for range in [TimeRange::ALL, btc.span(1, 60_001), odd.expect("start is before end"), btc.span(8, 9)] {
        let inside: Vec<_> = whole
            .iter()
            .copied()
            .filter(|(micros, _)| Timestamp::from_micros(*micros).is_ok_and(|ts| range.contains(ts)))
            .collect();
        for limit in [0, 1, 2, 3, 5, 9, 10, 11, u64::MAX] {
            let kept = usize::try_from(limit).unwrap_or(usize::MAX).min(inside.len());
            let request = ReadRequest::new(btc.key.clone(), range);
            let oldest = btc.ordered(&request.clone().with_limit(limit)).await;
            assert_closes(&oldest, &inside[..kept], format_args!("the oldest {limit} of {range}"));
            let newest = btc.ordered(&request.clone().with_newest_first().with_limit(limit)).await;
            let expected: Vec<_> = inside.iter().rev().take(kept).copied().collect();
            assert_closes(&newest, &expected, format_args!("the newest {limit} of {range}"));
            let all = btc.ordered(&request.with_newest_first()).await;
            let expected: Vec<_> = inside.iter().rev().copied().collect();
            assert_closes(&all, &expected, format_args!("{range} newest first"));
        }
    }
    let last = btc.backend.read_last(&btc.key, 3).await.expect("a series can be read");
    assert_closes(&closes(&last), &whole[whole.len() - 3..], "the last three");
}

/// `H-READ-07`: the same in a series of many partitions, each batch in the schema of the stream.
pub async fn h_read_07_limits_over_many_partitions(subject: &Subject) {
    let btc = subject.btc();
    let whole = bars(&btc.key, btc.bar(0), usize::try_from(MANY).expect("it fits"));
    btc.keep(whole.clone()).await;
    for (limit, newest_first) in
        [(500, true), (70_000, true), (u64::from(MANY), true), (500, false), (70_000, false)]
    {
        let request =
            ReadRequest::new(btc.key.clone(), TimeRange::ALL).with_limit(limit).with_columns(["close"]);
        let request = if newest_first { request.with_newest_first() } else { request };
        let mut stream = btc.backend.read_range(&request).await.expect("a series can be read");
        let (schema, mut times) = (stream.schema(), Vec::new());
        while let Some(batch) = stream.next_batch().await {
            let batch = batch.expect("the stream goes on to its end");
            assert_eq!(batch.schema(), schema);
            times.extend_from_slice(frame::timestamps(&batch).expect("a read gives a time column").values());
        }
        let expected = frame::timestamps(&whole).expect("it is canonical").values();
        let limit = usize::try_from(limit).expect("it fits");
        let expected: Vec<_> = match newest_first {
            true => expected.iter().rev().take(limit).copied().collect(),
            false => expected[..limit].to_vec(),
        };
        assert!(times == expected, "{} rows of {limit}, newest first: {newest_first}", times.len());
    }
}

/// `H-READ-08`: the schema of a series is that of a read of all its columns, and `ts` alone where nothing was
/// ever written.
pub async fn h_read_08_schema_is_that_of_a_read(subject: &Subject) {
    let btc = subject.btc();
    let schema = async || btc.backend.schema(&btc.key).await.expect("a schema can be asked for");
    assert_eq!(schema().await, frame::ts_only_schema());
    btc.keep(bars(&btc.key, btc.bar(0), 3)).await;
    assert_eq!(schema().await, bars(&btc.key, btc.bar(0), 0).schema());
    if subject.backend().capabilities().adds_columns {
        let vwap = Arc::new(Float64Array::from(vec![7.0]));
        btc.keep(btc.column("vwap", [70_000], vwap)).await;
        assert_eq!(schema().await, btc.all().await.schema());
    }
    if let Some(other) = subject.reopened().await {
        assert_eq!(other.schema(&btc.key).await.expect("a schema can be asked for"), schema().await);
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
        begun.next_batch().await.expect("there are rows").expect("they can be read");
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
