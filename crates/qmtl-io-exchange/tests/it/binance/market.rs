//! A market, what a right backfill of it leaves in a store, and a clock for it.

use std::sync::Arc;
use std::time::Duration;

use qmtl_backfill::{BackfillConfig, FetcherBackfillStrategy};
use qmtl_history_api::arrow_array::{ArrayRef, Float64Array, Int64Array, RecordBatch};
use qmtl_history_api::{
    AutoBackfillStrategy, BackfillReport, BackfillRequest, Clock, DataFetcher, HistoryBackend,
    HistoryBackendExt, Interval, NoProgress, RangeSet, ReadRequest, SeriesKey, TimeRange, Timestamp,
    async_trait, frame,
};
use qmtl_io_exchange::ExchangeConfig;
use qmtl_io_memory::MemoryBackend;
use qmtl_observe::TokioClock;
use qmtl_sim_exchange::{Candle, Endpoint, Market, RequestRecord, SimClock, SimConfig, SimExchange};

/// 2024-01-01T00:00:00Z in milliseconds: the first bar.
pub(crate) const LISTED: i64 = 1_704_067_200_000;
pub(crate) const MINUTE: i64 = 60_000;
pub(crate) const BARS: i64 = 8_200;
/// The exchange's clock: the last bar is still forming.
pub(crate) const NOW: i64 = LISTED + BARS * MINUTE - MINUTE / 2;

pub(crate) fn at(millis: i64) -> Timestamp {
    Timestamp::from_micros(millis * 1_000).unwrap()
}

pub(crate) fn key() -> SeriesKey {
    SeriesKey::new("ADABTC", Interval::MINUTE).unwrap()
}

/// From before the listing until after the last bar that has closed.
pub(crate) fn wanted() -> TimeRange {
    TimeRange::new(at(LISTED - 300 * MINUTE), at(LISTED + (BARS + 50) * MINUTE)).unwrap()
}

/// One-minute bars with holes of one bar, of some, and of more than a page.
pub(crate) fn market() -> Market {
    let count = usize::try_from(BARS).unwrap();
    let bars = Candle::random_walk(LISTED, qmtl_sim_exchange::Interval::parse("1m").unwrap(), count, 11);
    let hole = |from: i64, bars: i64| LISTED + from * MINUTE..LISTED + (from + bars) * MINUTE;
    Market::new("ADABTC", "1m", bars)
        .unwrap()
        .with_hole(hole(17, 1))
        .with_hole(hole(895, 40))
        .with_hole(hole(3_000, 1_500))
}

pub(crate) fn config() -> SimConfig {
    SimConfig::new([market()]).with_clock(SimClock::Frozen(NOW)).with_weight_limit(1_000_000)
}

/// A clock on which so many seconds pass in one, and whose date stands still.
#[derive(Debug)]
pub(crate) struct Hurried(pub(crate) Timestamp, pub(crate) u32);

#[async_trait]
impl Clock for Hurried {
    fn now(&self) -> Timestamp {
        self.0
    }

    fn monotonic(&self) -> Duration {
        TokioClock::new().monotonic() * self.1
    }

    async fn sleep(&self, duration: Duration) {
        TokioClock::new().sleep(duration / self.1).await;
    }
}

pub(crate) fn clock() -> Arc<dyn Clock> {
    Arc::new(Hurried(at(NOW), 20))
}

pub(crate) fn settings(sim: &SimExchange) -> ExchangeConfig {
    hurried(ExchangeConfig::binance(), sim)
}

/// Settings for an exchange on which time flies.
pub(crate) fn hurried(config: ExchangeConfig, sim: &SimExchange) -> ExchangeConfig {
    config
        .with_base_url(sim.base_url())
        .with_clock(clock())
        .with_timeout(Duration::from_secs(40))
        .with_max_body_bytes(4 << 20)
}

/// Fills `wanted` from the fetcher.
pub(crate) async fn fill<F: DataFetcher + Clone>(fetcher: &F, backend: &MemoryBackend) -> BackfillReport {
    fill_by(FetcherBackfillStrategy::new(Arc::new(fetcher.clone())).with_clock(clock()), backend).await
}

/// Fills `wanted` one request after the other.
pub(crate) async fn fill_in_turn<F: DataFetcher + Clone>(
    fetcher: &F,
    backend: &MemoryBackend,
) -> BackfillReport {
    let strategy = FetcherBackfillStrategy::new(Arc::new(fetcher.clone())).with_clock(clock());
    fill_at_once(strategy, 1, backend).await
}

/// Fills `wanted`.
pub(crate) async fn fill_by(strategy: FetcherBackfillStrategy, backend: &MemoryBackend) -> BackfillReport {
    fill_at_once(strategy, 4, backend).await
}

async fn fill_at_once(
    strategy: FetcherBackfillStrategy,
    windows: usize,
    backend: &MemoryBackend,
) -> BackfillReport {
    let config = BackfillConfig::default().with_windows_in_flight(windows);
    let strategy = strategy.with_config(config);
    strategy.ensure_range(&BackfillRequest::new(key(), wanted()), backend, &NoProgress).await.unwrap()
}

/// The requests for bars that the exchange has seen.
pub(crate) fn klines(sim: &SimExchange) -> Vec<RequestRecord> {
    requests(sim, Endpoint::Klines)
}

/// The requests of one kind that the exchange has seen.
pub(crate) fn requests(sim: &SimExchange, endpoint: Endpoint) -> Vec<RequestRecord> {
    sim.requests().into_iter().filter(|record| record.endpoint == endpoint).collect()
}

/// Asserts that rows, values, present and known-empty ranges are those of the market, worked out
/// from its candles alone.
pub(crate) async fn assert_right(backend: &MemoryBackend, what: &str) {
    assert_right_columns(backend, 10, what).await;
}

/// As [`assert_right`], for an exchange that has the first columns only.
pub(crate) async fn assert_right_columns(backend: &MemoryBackend, columns: usize, what: &str) {
    let has = columns;
    let market = market();
    let closed: Vec<_> = market.candles().iter().filter(|bar| bar.open_time + MINUTE <= NOW).collect();
    let doubles = |of: fn(&Candle) -> f64| -> ArrayRef {
        Arc::new(closed.iter().map(|bar| of(bar)).collect::<Float64Array>())
    };
    let trades = closed.iter().map(|bar| i64::try_from(bar.trades).unwrap()).collect::<Int64Array>();
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("open", doubles(|bar| bar.open)),
        ("high", doubles(|bar| bar.high)),
        ("low", doubles(|bar| bar.low)),
        ("close", doubles(|bar| bar.close)),
        ("volume", doubles(|bar| bar.volume)),
        ("quote_volume", doubles(|bar| bar.quote_volume)),
        ("trades", Arc::new(trades)),
        ("taker_base_volume", doubles(|bar| bar.taker_base)),
        ("taker_quote_volume", doubles(|bar| bar.taker_quote)),
    ];
    let schema = frame::schema_of(columns.iter().map(|(name, array)| (*name, array.data_type().clone())));
    let ts: ArrayRef = Arc::new(frame::ts_array(closed.iter().map(|bar| at(bar.open_time))));
    let arrays = std::iter::once(ts).chain(columns.into_iter().map(|(_, array)| array)).collect();
    let expected = RecordBatch::try_new(schema, arrays).unwrap();
    let expected = expected.project(&(0..has).collect::<Vec<_>>()).unwrap();
    let stored = backend.read_all(&ReadRequest::new(key(), wanted())).await.unwrap();
    assert_eq!(stored.num_rows(), expected.num_rows(), "{what}");
    assert!(stored == expected, "{what}: values differ");

    let coverage = backend.coverage(&key(), wanted()).await.unwrap();
    let present = RangeSet::from_sorted_points(closed.iter().map(|bar| at(bar.open_time)), Interval::MINUTE);
    assert_eq!(*coverage.present(), present, "{what}");
    let answered = RangeSet::from(TimeRange::new(at(LISTED), at(NOW - MINUTE / 2)).unwrap());
    let empty = coverage.empty_by_any(at(NOW)).on_grid(Interval::MINUTE);
    assert_eq!(empty, answered.difference(&present), "{what}");
}
