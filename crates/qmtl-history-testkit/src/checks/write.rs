//! What a write leaves behind: `H-WRITE-01` to `H-WRITE-05`, `H-WRITE-07`, `H-WRITE-08` and `H-WRITE-10`.

use std::slice::from_ref;
use std::sync::Arc;

use qmtl_history_api::arrow_array::{
    ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
    TimestampMillisecondArray,
};
use qmtl_history_api::arrow_schema::{DataType, Field, Schema};
use qmtl_history_api::{ErrorKind, HistoryBackend, OnConflict, TimeRange, Timestamp, WriteReceipt, frame};

use crate::Subject;
use crate::fixtures::{bars, batch, proof, secs};
use crate::probe::{Probe, assert_closes, assert_rows};

/// `H-WRITE-01`: when a write returns, the next read, coverage, list and revision see it.
pub async fn h_write_01_visible_at_once(subject: &Subject) {
    let btc = subject.btc();
    let mut revision = None;
    for count in 1..=20_u32 {
        btc.keep(btc.rows([(count - 1, f64::from(count))])).await;
        let expected = btc.expected((0..count).map(|bar| (bar, f64::from(bar + 1))));
        assert_closes(&btc.closes(TimeRange::ALL).await, &expected, format_args!("after write {count}"));
        assert_eq!(btc.present(TimeRange::ALL).await, btc.span(0, count).into());
        assert_eq!(btc.listed().await, from_ref(&btc.key));
        let next = btc.revision().await;
        assert_ne!(next, revision, "the revision did not change");
        revision = next;
    }
}

/// `H-WRITE-01`: every other handle sees a write too, also one that looked before.
pub async fn h_write_01_visible_to_every_handle(subject: &Subject) {
    let ours = subject.btc();
    let Some(other) = subject.reopened().await else { return };
    let theirs = ours.through(&other);
    assert_eq!(theirs.revision().await, None);
    for (index, (writer, reader)) in
        [(&ours, &theirs), (&theirs, &ours), (&ours, &theirs)].into_iter().enumerate()
    {
        let count = u32::try_from(index).expect("three") + 1;
        let before = reader.snapshot().await;
        writer.keep(writer.rows([(count - 1, 1.0)])).await;
        let expected = reader.expected((0..count).map(|bar| (bar, 1.0)));
        assert_closes(&reader.closes(TimeRange::ALL).await, &expected, "through the other handle");
        assert_eq!(reader.present(TimeRange::ALL).await, reader.span(0, count).into());
        assert_ne!(reader.revision().await, before.revision, "the revision did not change");
        assert_eq!(reader.listed().await, from_ref(&reader.key));
    }
    let proven = proof("a", ours.span(50, 60), secs(2_000_000_000));
    ours.prove(proven.clone()).await;
    assert_eq!(theirs.coverage(TimeRange::ALL).await.known_empty(), [proven]);
    let late = subject.reopened().await.expect("it could be opened before");
    assert_eq!(ours.through(&late).snapshot().await, ours.snapshot().await);
}

/// A row of two columns, either of which may be null.
fn pair(series: &Probe, bar: u32, close: Option<f64>, volume: Option<f64>) -> RecordBatch {
    let columns = [("close", close), ("volume", volume)];
    batch(
        &series.points([bar]),
        columns.map(|(name, value)| (name, Arc::new(Float64Array::from(vec![value])) as ArrayRef)),
    )
}

/// `H-WRITE-02`: `KeepExisting` leaves a stored row as it is, its nulls too.
pub async fn h_write_02_keep_existing_keeps_bit_for_bit(subject: &Subject) {
    let btc = subject.btc();
    let stored = pair(&btc, 0, None, Some(-0.0));
    assert_eq!(btc.keep(stored.clone()).await, WriteReceipt::new(1, 0, 0));
    for other in [pair(&btc, 0, Some(5.0), Some(0.0)), pair(&btc, 0, Some(6.0), None)] {
        assert_eq!(btc.keep(other).await, WriteReceipt::new(0, 0, 1));
        assert_rows(&btc.all().await, &stored, "the stored row was changed");
    }
}

/// `H-WRITE-02`: `Replace` takes the whole row: what the new one lacks becomes null.
pub async fn h_write_02_replace_takes_the_whole_row(subject: &Subject) {
    let btc = subject.btc();
    btc.keep(pair(&btc, 0, Some(1.0), Some(2.0))).await;
    btc.keep(pair(&btc, 1, Some(3.0), Some(4.0))).await;
    let with_null = pair(&btc, 0, None, Some(5.0));
    assert_eq!(btc.replace(with_null.clone()).await, WriteReceipt::new(0, 1, 0));
    assert_rows(&btc.read(btc.span(0, 1)).await, &with_null, "the row that was replaced");
    assert_eq!(btc.replace(btc.rows([(0, 6.0)])).await, WriteReceipt::new(0, 1, 0));
    let replaced = pair(&btc, 0, Some(6.0), None);
    assert_rows(&btc.read(btc.span(0, 1)).await, &replaced, "the row that was replaced");
    let kept = pair(&btc, 1, Some(3.0), Some(4.0));
    assert_rows(&btc.read(btc.span(1, 2)).await, &kept, "the row beside it");
}

/// `H-WRITE-03`: repeating a write, rows and proofs, changes nothing that can be read.
pub async fn h_write_03_repeating_changes_nothing(subject: &Subject) {
    let btc = subject.btc();
    let rows = btc.rows([(0, 1.0), (1, 2.0), (5, 3.0)]);
    for (on_conflict, first, again) in [
        (OnConflict::KeepExisting, WriteReceipt::new(3, 0, 0), WriteReceipt::new(0, 0, 3)),
        (OnConflict::Replace, WriteReceipt::new(0, 3, 0), WriteReceipt::new(0, 3, 0)),
    ] {
        let request = btc.request(on_conflict).with_empty(proof("a", btc.span(0, 9), secs(2_000_000_000)));
        assert_eq!(btc.write(&request, rows.clone()).await, first);
        let (read, coverage) = (btc.all().await, btc.coverage(TimeRange::ALL).await);
        for _ in 0..3 {
            assert_eq!(btc.write(&request, rows.clone()).await, again);
            assert_eq!(btc.all().await, read);
            assert_eq!(btc.coverage(TimeRange::ALL).await, coverage);
        }
        assert_rows(&read, &rows, "all of the series");
    }
}

/// `H-WRITE-03`: the receipt's three counts say what happened and add up to the batch's rows.
pub async fn h_write_03_receipt_adds_up(subject: &Subject) {
    let btc = subject.btc();
    let rows = |bars: std::ops::Range<u32>| btc.rows(bars.map(|bar| (bar, f64::from(bar))));
    assert_eq!(btc.keep(rows(10..20)).await, WriteReceipt::new(10, 0, 0));
    assert_eq!(btc.keep(rows(5..15)).await, WriteReceipt::new(5, 0, 5));
    assert_eq!(btc.replace(rows(15..40)).await, WriteReceipt::new(20, 5, 0));
    assert_eq!(btc.keep(rows(0..60_000)).await, WriteReceipt::new(59_965, 0, 35));
    assert_eq!(btc.replace(rows(59_990..60_010)).await, WriteReceipt::new(10, 10, 0));
}

/// Batches that are not canonical for a one-minute series, with what a message must name besides
/// the series.
fn not_canonical(series: &Probe) -> Vec<(RecordBatch, &'static str)> {
    let good = series.rows([(0, 1.0), (1, 2.0), (2, 3.0)]);
    let close = Arc::clone(good.column(1));
    let at = |points: [Timestamp; 3]| batch(&points, [("close", Arc::clone(&close))]);
    let (zero, one, two) = (series.bar(0), series.bar(1), series.bar(2));
    let with_ts = |ts: ArrayRef| {
        let columns = [(frame::TS, ts), ("close", Arc::clone(&close))];
        RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true)))
            .expect("columns of three rows")
    };
    let micros = frame::timestamps(&good).expect("it is canonical").values().to_vec();
    let null_in_row_1 = micros.iter().enumerate().map(|(row, m)| (row != 1).then_some(*m));
    let null = TimestampMicrosecondArray::from_iter(null_in_row_1).with_timezone("UTC");
    let zoneless = TimestampMicrosecondArray::from(micros.clone());
    let millis =
        TimestampMillisecondArray::from_iter_values(micros.iter().map(|m| m / 1_000)).with_timezone("UTC");
    let twice = Schema::new(vec![
        frame::ts_field(),
        Field::new("close", DataType::Float64, true),
        Field::new("close", DataType::Float64, true),
    ]);
    let columns = vec![Arc::clone(good.column(0)), Arc::clone(&close), Arc::clone(&close)];
    vec![
        (at([zero, two, one]), "row: 2"),
        (at([zero, one, one]), "row: 2"),
        (at([zero, one.checked_add_micros(1).expect("near 2024"), two]), "row: 1"),
        (at([zero, one, two.checked_add_micros(30_000_000).expect("near 2024")]), "row: 2"),
        (with_ts(Arc::new(null)), "row: 1"),
        (with_ts(Arc::new(zoneless)), "column: ts"),
        (with_ts(Arc::new(millis)), "column: ts"),
        (with_ts(Arc::new(Int64Array::from(micros))), "column: ts"),
        (good.project(&[1]).expect("it has a second column"), "ts"),
        (good.project(&[1, 0]).expect("it has two columns"), "ts"),
        (RecordBatch::try_new(Arc::new(twice), columns).expect("three columns"), "close"),
    ]
}

/// `H-WRITE-04`, `H-ERR-01`: a batch that is not canonical is refused whole, before anything is
/// stored, proofs included.
pub async fn h_write_04_not_canonical_is_refused_whole(subject: &Subject) {
    let (btc, eth) = (subject.btc(), subject.probe("ETH", "1m"));
    eth.keep(eth.rows([(1, 9.0), (7, 9.0)])).await;
    for series in [&btc, &eth] {
        let proven = proof("a", series.span(20, 30), secs(2_000_000_000));
        for (rows, named) in not_canonical(series) {
            for on_conflict in [OnConflict::KeepExisting, OnConflict::Replace] {
                let request = series.request(on_conflict).with_empty(proven.clone());
                let error = series.refused(&request, rows.clone()).await;
                assert_eq!(error.kind(), ErrorKind::Schema, "{error}");
                let text = error.to_string();
                let names = text.contains(&series.key.to_string()) && text.contains(named);
                assert!(names, "must name the series and {named:?}: {text}");
            }
        }
    }
    assert_eq!(btc.listed().await, from_ref(&eth.key), "a refused write made a series");
}

/// `H-WRITE-05`, `H-ERR-01`: a column of another type than the stored one is refused whole.
pub async fn h_write_05_type_clash_is_refused_whole(subject: &Subject) {
    let btc = subject.btc();
    btc.keep(btc.rows([(0, 1.0), (1, 2.0)])).await;
    let values: [ArrayRef; 2] =
        [Arc::new(Int64Array::from(vec![1, 2, 3])), Arc::new(StringArray::from(vec!["1", "2", "3"]))];
    for value in values {
        for bars in [[0, 1, 2], [10, 60_000, 110_000]] {
            let rows = btc.column("close", bars, Arc::clone(&value));
            let request = btc.request(OnConflict::Replace).with_empty(proof(
                "a",
                btc.span(20, 30),
                secs(2_000_000_000),
            ));
            let error = btc.refused(&request, rows).await;
            assert_eq!(error.kind(), ErrorKind::Schema, "{error}");
            let text = error.to_string();
            assert!(text.contains("BTC@1m") && text.contains("close"), "must name series and column: {text}");
        }
    }
}

/// `H-WRITE-07`: columns are matched by name; a stored column that a batch lacks is null there.
pub async fn h_write_07_columns_by_name(subject: &Subject) {
    let btc = subject.btc();
    let column = |values: &[Option<f64>]| Arc::new(Float64Array::from(values.to_vec())) as ArrayRef;
    let one = |value: f64| column(&[Some(value)]);
    btc.keep(batch(&btc.points([0]), [("open", one(1.0)), ("close", one(2.0))])).await;
    btc.keep(batch(&btc.points([1]), [("close", one(4.0)), ("open", one(3.0))])).await;
    btc.keep(batch(&btc.points([2]), [("close", one(5.0))])).await;
    btc.keep(batch(&btc.points([3]), [("open", one(6.0))])).await;
    let expected = [
        ("open", column(&[Some(1.0), Some(3.0), None, Some(6.0)])),
        ("close", column(&[Some(2.0), Some(4.0), Some(5.0), None])),
    ];
    assert_eq!(btc.all().await, batch(&btc.points(0..4), expected));
}

/// `H-WRITE-07`: a new column is null in older rows where the store adds columns, else `Schema`.
pub async fn h_write_07_new_column_is_null_in_older_rows(subject: &Subject) {
    let btc = subject.btc();
    btc.keep(btc.rows([(0, 1.0), (60_000, 2.0)])).await;
    let values = Arc::new(Float64Array::from(vec![7.0, 8.0]));
    let rows = btc.column("vwap", [1, 110_000], values);
    if !subject.backend().capabilities().adds_columns {
        let error = btc.refused(&btc.request(OnConflict::KeepExisting), rows).await;
        assert_eq!(error.kind(), ErrorKind::Schema, "{error}");
        assert!(error.to_string().contains("vwap"), "must name the column: {error}");
        return;
    }
    assert_eq!(btc.keep(rows).await, WriteReceipt::new(2, 0, 0));
    let column = |values: [Option<f64>; 4]| Arc::new(Float64Array::from(values.to_vec())) as ArrayRef;
    let close = ("close", column([Some(1.0), None, Some(2.0), None]));
    let vwap = ("vwap", column([None, Some(7.0), None, Some(8.0)]));
    assert_eq!(btc.all().await, batch(&btc.points([0, 1, 60_000, 110_000]), [close, vwap]));
}

/// `H-WRITE-08`: an empty batch with proofs records the proofs, in a new series and in an old one.
pub async fn h_write_08_empty_batch_records_proofs(subject: &Subject) {
    let btc = subject.btc();
    let first = proof("a", btc.span(0, 10), secs(2_000_000_000));
    btc.prove(first.clone()).await;
    assert_eq!(btc.coverage(TimeRange::ALL).await.known_empty(), [first]);
    assert_eq!((btc.listed().await, btc.all().await.num_rows()), (vec![btc.key.clone()], 0));
    btc.keep(btc.rows([(20, 1.0)])).await;
    btc.prove(proof("b", btc.span(30, 40), secs(2_000_000_000))).await;
    let coverage = btc.coverage(TimeRange::ALL).await;
    assert_eq!(coverage.known_empty().len(), 2, "{coverage:?}");
    assert_closes(&btc.closes(TimeRange::ALL).await, &btc.expected([(20, 1.0)]), "all of the series");
}

/// `H-WRITE-08`: an empty batch without proofs does nothing, and no series comes of it.
pub async fn h_write_08_nothing_comes_of_nothing(subject: &Subject) {
    let (btc, eth) = (subject.btc(), subject.probe("ETH", "1m"));
    eth.keep(eth.rows([(0, 1.0)])).await;
    let before = eth.snapshot().await;
    for rows in [RecordBatch::new_empty(frame::ts_only_schema()), bars(&btc.key, btc.bar(0), 0)] {
        for series in [&btc, &eth] {
            assert_eq!(series.keep(rows.clone()).await, WriteReceipt::default());
            assert_eq!(series.replace(rows.clone()).await, WriteReceipt::default());
        }
    }
    assert_eq!((btc.revision().await, btc.listed().await), (None, vec![eth.key.clone()]));
    assert_eq!(btc.all().await.schema(), frame::ts_only_schema());
    assert_eq!(eth.snapshot().await, before);
}

/// `H-WRITE-10`: rows of every time that the backend can hold are held, on any grid; an earlier one costs its
/// batch.
pub async fn h_write_10_any_time_that_can_be_held(subject: &Subject) {
    let earliest = subject.backend().capabilities().earliest;
    for interval in ["1m", "1d+16h", "1w"] {
        let series = subject.probe("IBM", interval);
        let grid = series.key.interval;
        let first = grid.ceil(earliest).expect("there is time after it");
        let numbers = [-100_000, -1, 0, 1].into_iter().filter_map(|number| grid.opening(number));
        let points: Vec<_> = std::iter::once(first).chain(numbers.filter(|ts| *ts > first)).collect();
        let close: Vec<_> = (0..u32::try_from(points.len()).expect("a few rows")).map(f64::from).collect();
        let rows = batch(&points, [("close", Arc::new(Float64Array::from(close)) as _)]);
        series.keep(rows.clone()).await;
        assert_rows(&series.all().await, &rows, &series.key);
        let present = series.present(TimeRange::ALL).await;
        assert!(present.points(grid).eq(points.iter().copied()), "{}: {present:?}", series.key);
        let newest = TimeRange::new(points[points.len() - 1], series.bar(0)).expect("it is long before 2024");
        assert_eq!(series.read(newest).await.num_rows(), 1, "{}", series.key);
        let Some(early) = earliest.checked_add_micros(-1).and_then(|before| grid.floor(before)) else {
            continue;
        };
        let close = Arc::new(Float64Array::from(vec![1.0, 2.0]));
        let rows = batch(&[early, series.bar(0)], [("close", close as _)]);
        let error = series.refused(&series.request(OnConflict::KeepExisting), rows).await.to_string();
        let named = [series.key.to_string(), early.to_string()];
        assert!(named.iter().all(|name| error.contains(name)), "must name {named:?}: {error}");
    }
}
