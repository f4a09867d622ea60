//! The suite that holds a fetcher to the guarantees of [`DataFetcher`], against an exchange on loopback.
//!
//! A [`FetcherSubject`] says how a fetcher is made of an address, and how the exchange speaks: a [`Venue`], unless it
//! is one that `qmtl-sim-exchange` has built in. [`fetcher_conformance!`](crate::fetcher_conformance) makes a test of
//! each check.

pub mod checks;
pub mod faults;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use qmtl_history_api::{Clock, DataFetcher, Interval, Result, SeriesKey, TimeRange, Timestamp, async_trait};
use qmtl_observe::TokioClock;
use qmtl_sim_exchange::{Candle, FaultRule, Market, SimClock, SimConfig, SimExchange, Venue};

use crate::Check;

/// The symbol of the market that the checks ask for.
pub const SYMBOL: &str = "ADABTC";
/// No bar of it opens before this, milliseconds since the epoch: 2024-01-01T00:00:00Z.
const LISTED: i64 = 1_704_067_200_000;
/// How many times as fast time passes for a fetcher under test, so that pauses and timeouts are short.
const HURRY: u32 = 20;

type Make = dyn Fn(&Host) -> Result<Arc<dyn DataFetcher>> + Send + Sync;

/// Where a fetcher under test finds its exchange, and what time it is there.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Host {
    /// Such as `http://127.0.0.1:40123`.
    pub base_url: String,
    /// The clock of the fetcher, on which time flies.
    pub clock: Arc<dyn Clock>,
}

/// A fetcher under test: how it is made, and how its exchange speaks.
pub struct FetcherSubject {
    make: Box<Make>,
    venue: Option<Arc<dyn Venue>>,
    interval: &'static str,
}

impl FetcherSubject {
    /// Fetchers that `make` makes, with the host's address and clock, of an exchange that is built in. Leave retries
    /// and timeouts as they are, and allow as many requests a second as there may be: the checks wait for no rate.
    #[must_use]
    pub fn new<F: DataFetcher>(make: impl Fn(&Host) -> Result<F> + Send + Sync + 'static) -> Self {
        let make = move |host: &Host| make(host).map(|fetcher| Arc::new(fetcher) as Arc<dyn DataFetcher>);
        Self { make: Box::new(make), venue: None, interval: "1m" }
    }

    /// Says how the exchange speaks.
    #[must_use]
    pub fn with_venue(mut self, venue: impl Venue) -> Self {
        self.venue = Some(Arc::new(venue));
        self
    }

    /// Asks for bars of another interval than a minute, such as `1d+16h`: a [`Venue`] finds its market under this very
    /// text.
    #[must_use]
    pub fn with_interval(mut self, interval: &'static str) -> Self {
        self.interval = interval;
        self
    }

    /// The same with every fetcher inside a wrapper, such as one that is wrong.
    #[must_use]
    pub fn map<F: DataFetcher>(
        self,
        wrap: impl Fn(Arc<dyn DataFetcher>) -> F + Send + Sync + 'static,
    ) -> Self {
        let make = self.make;
        let wrapped =
            move |host: &Host| make(host).map(|inner| Arc::new(wrap(inner)) as Arc<dyn DataFetcher>);
        Self { make: Box::new(wrapped), ..self }
    }

    /// An exchange and a fetcher of it.
    async fn start(&self, faults: impl IntoIterator<Item = FaultRule>) -> Scene {
        Scene::start(self, faults, Duration::ZERO, HURRY).await
    }
}

impl fmt::Debug for FetcherSubject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FetcherSubject")
            .field("venue", &self.venue)
            .field("interval", &self.interval)
            .finish_non_exhaustive()
    }
}

/// A running exchange with one market, and a fetcher of it.
struct Scene {
    sim: SimExchange,
    host: Host,
    fetcher: Arc<dyn DataFetcher>,
    market: Market,
    /// When its first bar opens, milliseconds since the epoch.
    listed: i64,
    key: SeriesKey,
}

impl Scene {
    /// The market has two pages of bars and a little more, with holes of one bar and of some; the exchange's clock
    /// stands in the middle of the last one, and the fetcher's is `ahead` of it.
    async fn start(
        subject: &FetcherSubject,
        faults: impl IntoIterator<Item = FaultRule>,
        ahead: Duration,
        hurry: u32,
    ) -> Self {
        let interval: Interval = subject.interval.parse().expect("the interval of the subject is one");
        let key = SeriesKey::new(SYMBOL, interval).expect("the symbol is a node id");
        let idle = Host { base_url: "http://127.0.0.1:9".to_owned(), clock: Arc::new(TokioClock::new()) };
        let limits = (subject.make)(&idle).expect("a fetcher is made of an address").limits();
        let page = limits.max_rows.unwrap_or(1_000).min(5_000);
        let count = 2 * page + 50;
        let length = interval.as_micros() / 1_000;
        let first_after =
            |at: Timestamp| interval.ceil(at).expect("the interval has bars in our time").as_millis();
        let listed = first_after(at(LISTED));
        let opens = |bar: u64| listed + i64::try_from(bar).unwrap_or(i64::MAX) * length;
        let grid = qmtl_sim_exchange::Interval::new(subject.interval, length, first_after(Timestamp::EPOCH));
        let grid = grid.expect("the interval is whole milliseconds");
        let bars = Candle::random_walk(listed, grid, usize::try_from(count).unwrap_or(0), 7);
        let market = Market::with_interval(SYMBOL, grid, bars).expect("the market is sound");
        let market = market.with_hole(opens(2)..opens(3)).with_hole(opens(page + 3)..opens(page + 8));
        let now = opens(count) - length / 2;
        let config = SimConfig::new([market.clone()]).with_clock(SimClock::Frozen(now));
        let mut config = config.with_weight_limit(1_000_000).with_body_cap(8 << 20);
        if let Some(venue) = &subject.venue {
            config = config.with_venue(Arc::clone(venue));
        }
        let config = faults.into_iter().fold(config, SimConfig::with_fault);
        let sim = SimExchange::start(config).await.expect("loopback has a port");
        let wall = at(now).checked_add(ahead).expect("the clock is not that far ahead");
        let host = Host { base_url: sim.base_url(), clock: Arc::new(Hurried { wall, hurry }) };
        let fetcher = (subject.make)(&host).expect("a fetcher is made of an address");
        Self { sim, host, fetcher, market, listed, key }
    }

    /// The opening of the bar with this number, from the first one on.
    fn bar(&self, number: i64) -> Timestamp {
        at(self.listed + number * self.key.interval.as_micros() / 1_000)
    }

    fn range(&self, from: i64, to: i64) -> TimeRange {
        TimeRange::new(self.bar(from), self.bar(to)).expect("the range is not empty")
    }

    /// Bars of a page.
    fn page(&self) -> i64 {
        let rows = self.fetcher.limits().max_rows.unwrap_or(1_000).min(5_000);
        i64::try_from(rows).unwrap_or(i64::MAX)
    }

    /// All bars that have closed, and how many there would be without holes.
    fn closed(&self) -> (Vec<Candle>, i64) {
        let length = self.key.interval.as_micros() / 1_000;
        let now = self.sim.now();
        let closed = self.market.candles().iter().filter(|candle| candle.open_time + length <= now).copied();
        (closed.collect(), (now - self.listed) / length)
    }
}

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis).expect("the market lies in our time")
}

/// A clock on which so many seconds pass in one, and whose date stands still.
#[derive(Debug)]
struct Hurried {
    wall: Timestamp,
    hurry: u32,
}

#[async_trait]
impl Clock for Hurried {
    fn now(&self) -> Timestamp {
        self.wall
    }

    fn monotonic(&self) -> Duration {
        TokioClock::new().monotonic() * self.hurry
    }

    async fn sleep(&self, duration: Duration) {
        TokioClock::new().sleep(duration / self.hurry).await;
    }
}

/// Expands to one `#[test]` per check of the fetchers' suite.
///
/// Its argument is the path of an `async fn() -> Option<FetcherSubject>`.
#[macro_export]
macro_rules! fetcher_conformance {
    ($fresh:path) => {
        $crate::fetcher_conformance! { @checks tests [$fresh] }
    };
    // The only list of checks.
    (@checks $what:ident $fresh:tt) => {
        $crate::fetcher_conformance! { @$what $fresh
            h_fetch_01_every_row_comes
            h_fetch_01_a_range_without_a_row_is_no_error
            h_fetch_02_only_closed_bars_by_the_clock_of_the_source
            h_fetch_03_a_page_has_the_first_rows_in_its_order
            h_fetch_04_what_is_proven_is_absent
            h_fetch_05_nothing_is_proven_before_the_first_row
            h_fetch_06_part_of_a_page_proves_nothing
            h_fetch_07_failures_that_pass_are_got_over
            h_fetch_08_nobody_asks_sooner_than_told
            h_fetch_09_failures_that_stay_end_in_an_error
            h_fetch_10_what_the_source_lacks_is_said_once
            h_fetch_11_a_source_has_one_id
            h_fetch_12_side_by_side_and_dropped_midway
            h_fetch_12_outside_of_a_runtime
        }
    };
    (@tests [$fresh:path] $($check:ident)*) => {$(
        #[test]
        fn $check() {
            let check = $crate::Check::new(stringify!($check), |subject| {
                Box::pin($crate::fetchers::checks::$check(subject))
            });
            $crate::run(&check, $fresh);
        }
    )*};
    (@table [] $($check:ident)*) => {
        &[$($crate::Check::new(stringify!($check), |subject| {
            Box::pin($crate::fetchers::checks::$check(subject))
        })),*]
    };
}

/// Every check of the fetchers' suite.
pub const CHECKS: &[Check<FetcherSubject>] = crate::fetcher_conformance! { @checks table [] };
