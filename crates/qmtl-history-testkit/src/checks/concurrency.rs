//! Many callers at once: `H-WRITE-09` and `H-CONC-01`.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::join_all;
use qmtl_history_api::arrow_array::{Array, ArrayRef, Float64Array};
use qmtl_history_api::{HistoryBackend, OnConflict, TimeRange, WriteReceipt, frame};
use tokio::sync::Barrier;

use crate::Subject;
use crate::fixtures::{bars, batch, rows_within};
use crate::probe::assert_rows;

/// Eight tasks write overlapping stretches of one series at once, each row `open = close = the
/// writer`, through every handle there is. Gives the receipts.
async fn write_from_eight_tasks(subject: &Subject, on_conflict: OnConflict) -> Vec<WriteReceipt> {
    let btc = subject.btc();
    let other: Arc<dyn HistoryBackend> = subject.reopened().await.unwrap_or_else(|| subject.backend());
    let start = Arc::new(Barrier::new(8));
    let tasks = (0..8_u32).map(|writer| {
        let start = Arc::clone(&start);
        let series = if writer % 2 == 0 { btc.clone() } else { btc.through(&other) };
        tokio::spawn(async move {
            let mut receipts = Vec::new();
            start.wait().await;
            for part in 0..6 {
                let bars: Vec<_> = (0..100).map(|step| writer * 50 + part * 20_000 + step).collect();
                let value = Arc::new(Float64Array::from(vec![f64::from(writer); bars.len()])) as ArrayRef;
                let columns = [("open", Arc::clone(&value)), ("close", value)];
                let rows = batch(&series.points(bars), columns);
                receipts.push(series.write(&series.request(on_conflict), rows).await);
            }
            receipts
        })
    });
    let receipts: Vec<_> =
        join_all(tasks).await.into_iter().flat_map(|r| r.expect("every write is taken")).collect();
    assert!(
        receipts.iter().all(|r| r.rows_written + r.rows_replaced + r.rows_kept_out == 100),
        "{receipts:?}"
    );
    receipts
}

/// `H-WRITE-09`: the union is there, each bar once, each row one writer's as a whole.
async fn assert_union(subject: &Subject) {
    let btc = subject.btc();
    let rows = btc.all().await;
    let union: Vec<_> = (0..6).flat_map(|part| (0..450).map(move |step| part * 20_000 + step)).collect();
    let read = frame::timestamps(&rows).expect("a read gives a time column").values().to_vec();
    assert_eq!(read, btc.points(union.iter().copied()).iter().map(|ts| ts.as_micros()).collect::<Vec<_>>());
    assert_eq!(rows.column_by_name("open"), rows.column_by_name("close"), "a row of two writers");
    assert_eq!(rows.column(1).null_count(), 0, "a row lost a value");
    assert_eq!(btc.present(TimeRange::ALL).await, btc.ranges(union));
}

/// `H-WRITE-09`: writers that keep existing rows lose nothing. Where keeping is exact among
/// handles, each bar was written once and never again.
pub async fn h_write_09_concurrent_writers_keep(subject: &Subject) {
    let exact =
        subject.backend().capabilities().concurrent_keep_existing || subject.reopened().await.is_none();
    let receipts = write_from_eight_tasks(subject, OnConflict::KeepExisting).await;
    assert_union(subject).await;
    if exact {
        let written: u64 = receipts.iter().map(|receipt| receipt.rows_written).sum();
        assert_eq!(written, 6 * 450, "a bar was written twice, or one that is stored was not counted");
    }
}

/// `H-WRITE-09`: writers that replace lose nothing, and a bar has one writer's row.
pub async fn h_write_09_concurrent_writers_replace(subject: &Subject) {
    write_from_eight_tasks(subject, OnConflict::Replace).await;
    assert_union(subject).await;
    let rows = subject.btc().closes(TimeRange::ALL).await;
    let by_writer = rows.iter().fold(BTreeMap::new(), |mut counts, (_, writer)| {
        *counts.entry(writer.to_bits()).or_insert(0) += 1;
        counts
    });
    // The first and the last writer each have a stretch of fifty bars that nobody else writes.
    for lonely in [0.0_f64, 7.0] {
        assert!(by_writer.get(&lonely.to_bits()).is_some_and(|rows| *rows >= 6 * 50), "{by_writer:?}");
    }
}

/// `H-CONC-01`: every call works through `Arc<dyn HistoryBackend>` from many tasks at once, each
/// of which owns its future.
pub async fn h_conc_01_many_tasks_at_once(subject: &Subject) {
    let start = Arc::new(Barrier::new(8));
    let tasks = (0..8_u32).map(|task| {
        let start = Arc::clone(&start);
        let (own, shared) = (subject.probe(&format!("node-{task}"), "1m"), subject.btc());
        tokio::spawn(async move {
            let rows = bars(&own.key, own.bar(0), 50);
            start.wait().await;
            for part in 0..5 {
                let piece = rows_within(&rows, own.span(part * 10, part * 10 + 10));
                own.keep(piece.clone()).await;
                shared.keep(piece).await;
                assert_eq!(own.all().await.num_rows(), (usize::try_from(part).expect("five") + 1) * 10);
                assert_eq!(own.present(TimeRange::ALL).await, own.span(0, part * 10 + 10).into());
                assert!(own.revision().await.is_some() && shared.revision().await.is_some());
                assert!(own.listed().await.contains(&own.key));
            }
            assert_rows(&own.all().await, &rows, &own.key);
        })
    });
    for task in join_all(tasks).await {
        task.expect("every call works beside others");
    }
    let btc = subject.btc();
    assert_rows(&btc.all().await, &bars(&btc.key, btc.bar(0), 50), &btc.key);
    assert_eq!(btc.listed().await.len(), 9);
    assert_eq!(btc.keep(bars(&btc.key, btc.bar(0), 50)).await.rows_kept_out, 50);
}
