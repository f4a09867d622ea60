//! Random candles in random dress, read through random windows, against the naive model.

use std::sync::Arc;

use proptest::prelude::*;
use qmtl_history_api::arrow_array::cast::AsArray;
use qmtl_history_api::arrow_array::types::Float64Type;
use qmtl_history_api::arrow_array::{ArrayRef, Float64Array, Int64Array, RecordBatch};
use qmtl_history_api::{DataFetcher, FetchRequest};
use qmtl_history_api::{RangeSet, SeriesKey, Timestamp, frame};
use qmtl_io_exchange::FileFetcher;

use crate::files::{TestFile, file, key, range, rows};
use crate::formats::{ipc_file, parquet};

const BASE: i64 = 1_704_067_200;

#[derive(Clone, Copy, Debug)]
enum Order {
    Ascending,
    Descending,
    Shuffled,
}

#[derive(Clone, Copy, Debug)]
enum Time {
    Factor(i64),
    Iso,
}

/// Bars by minute after `BASE`, each with a value of which every bit counts.
fn bars() -> impl Strategy<Value = Vec<(i64, f64)>> {
    prop::collection::btree_map(0i64..400, any::<f64>().prop_filter("finite", |v| v.is_finite()), 2..80)
        .prop_map(|bars| bars.into_iter().collect())
}

fn ordered(bars: &[(i64, f64)], order: Order) -> Vec<(i64, f64)> {
    let mut bars = bars.to_vec();
    match order {
        Order::Ascending => {}
        Order::Descending => bars.reverse(),
        // Any fixed permutation that is neither of the others.
        Order::Shuffled => bars.sort_by_key(|(minute, _)| (minute * 7_919) % 401),
    }
    bars
}

fn csv(bars: &[(i64, f64)], time: Time, ending: &str, quoted: bool) -> String {
    let mut text = format!("open_time,close{ending}");
    for (minute, close) in bars {
        let secs = BASE + minute * 60;
        let time = match time {
            Time::Factor(factor) => (secs * factor).to_string(),
            Time::Iso => Timestamp::from_secs(secs).unwrap().to_string(),
        };
        let line = if quoted { format!("\"{time}\",\"{close:e}\"") } else { format!("{time},{close}") };
        text += &(line + ending);
    }
    text
}

fn columnar(bars: &[(i64, f64)], factor: i64) -> RecordBatch {
    let ts: ArrayRef =
        Arc::new(Int64Array::from_iter_values(bars.iter().map(|(m, _)| (BASE + m * 60) * factor)));
    let close: ArrayRef = Arc::new(Float64Array::from_iter_values(bars.iter().map(|(_, close)| *close)));
    RecordBatch::try_from_iter([("ts", ts), ("close", close)]).unwrap()
}

/// Compares a window with the model: rows bit for bit, and where absence is proven.
async fn check(fetcher: &FileFetcher, bars: &[(i64, f64)], key: &SeriesKey, (start, end): (i64, i64)) {
    let window = range(BASE + start, BASE + end);
    let found = rows(fetcher, key, window).await.unwrap();
    let times =
        frame::timestamps(&found).unwrap().values().iter().map(|micros| (micros / 1_000_000 - BASE) / 60);
    let closes = found.column_by_name("close").unwrap().as_primitive::<Float64Type>().values();
    let found: Vec<_> = times.zip(closes.iter().map(|close| close.to_bits())).collect();
    let inside = bars.iter().filter(|(minute, _)| (start..end).contains(&(minute * 60)));
    assert_eq!(found, inside.map(|(minute, close)| (*minute, close.to_bits())).collect::<Vec<_>>());
    let answer = fetcher.fetch(&FetchRequest::new(key.clone(), window)).await.unwrap();
    let extent = range(BASE + bars[0].0 * 60, BASE + bars[bars.len() - 1].0 * 60 + 60);
    assert_eq!(answer.proven, extent.intersect(window).map_or_else(RangeSet::new, RangeSet::from));
}

fn run(written: &TestFile, bars: &[(i64, f64)], windows: &[(i64, i64)]) {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
        let config = written.config().with_interval("1m".parse().unwrap());
        let fetcher = FileFetcher::open(config).await.unwrap();
        for (start, length) in windows {
            check(&fetcher, bars, &key("X", "1m"), (*start, start + length)).await;
        }
    });
}

fn windows() -> impl Strategy<Value = Vec<(i64, i64)>> {
    prop::collection::vec((-3_000i64..27_000, 1i64..20_000), 1..8)
}

fn order() -> impl Strategy<Value = Order> {
    prop_oneof![Just(Order::Ascending), Just(Order::Descending), Just(Order::Shuffled)]
}

fn factor() -> impl Strategy<Value = i64> {
    prop_oneof![Just(1), Just(1_000), Just(1_000_000), Just(1_000_000_000)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn csv_equals_the_model(
        bars in bars(),
        windows in windows(),
        order in order(),
        time in prop_oneof![4 => factor().prop_map(Time::Factor), 1 => Just(Time::Iso)],
        ending in prop_oneof![Just("\n"), Just("\r\n")],
        quoted in any::<bool>(),
    ) {
        run(&file("a.csv", csv(&ordered(&bars, order), time, ending, quoted)), &bars, &windows);
    }

    #[test]
    fn parquet_and_arrow_equal_the_model(
        bars in bars(),
        windows in windows(),
        order in order(),
        factor in factor(),
        slice in 1usize..40,
    ) {
        let batch = columnar(&ordered(&bars, order), factor);
        run(&file("a.parquet", parquet(&batch, slice)), &bars, &windows);
        let rows = batch.num_rows();
        let batches: Vec<_> =
            (0..rows).step_by(slice).map(|at| batch.slice(at, slice.min(rows - at))).collect();
        run(&file("a.arrow", ipc_file(&batches, None)), &bars, &windows);
    }
}

/// Opens damaged bytes and reads all of them: any answer will do, as long as there is one.
fn answer(damaged: &TestFile) -> Option<usize> {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
        let config = damaged.config().with_interval("1m".parse().unwrap());
        let fetcher = FileFetcher::open(config).await.ok()?;
        Some(rows(&fetcher, &key("X", "1m"), range(BASE, BASE + 24_000)).await.ok()?.num_rows())
    })
}

proptest! {
    #[test]
    fn damaged_bytes_are_answered(bars in bars(), flips in prop::collection::vec((any::<u16>(), 1u8..), 1..4)) {
        let batch = columnar(&bars, 1_000);
        let text = csv(&bars, Time::Factor(1_000), "\n", true).into_bytes();
        for (name, mut bytes) in
            [("a.csv", text), ("a.parquet", parquet(&batch, 30)), ("a.arrow", ipc_file(&[batch], None))]
        {
            for (place, bits) in &flips {
                let at = usize::from(*place) % bytes.len();
                bytes[at] ^= bits;
            }
            prop_assert!(answer(&file(name, bytes)).is_none_or(|rows| rows <= 400));
        }
    }
}

#[test]
fn files_of_many_blocks() {
    // About 4 MB of text and 200,000 rows: eight blocks of CSV, seven of Parquet.
    let bars: Vec<_> = (0..200_000u32)
        .filter(|row| row % 11 != 0)
        .map(|row| (i64::from(row), f64::from(row) / 7.0))
        .collect();
    let windows = [(-60, 30), (0, 12_000_000), (5_999_940, 120), (11_999_000, 9_000), (3_000_000, 3_000_000)];
    for order in [Order::Ascending, Order::Descending, Order::Shuffled] {
        let rows = ordered(&bars, order);
        run(&file("a.csv", csv(&rows, Time::Factor(1_000), "\n", false)), &bars, &windows);
        run(&file("a.parquet", parquet(&columnar(&rows, 1_000), 1 << 20)), &bars, &windows);
    }
}
