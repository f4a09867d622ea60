//! What a simulated exchange serves, and how.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::SimClock;
use crate::market::Market;
use crate::publishing::Publishing;
use crate::rule::FaultRule;
use crate::venue::Venue;

/// The greatest body cap, bytes.
const MOST_BODY_CAP: u64 = 1 << 30;

/// The settings of a server.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SimConfig {
    pub(crate) markets: Vec<Market>,
    pub(crate) clock: SimClock,
    pub(crate) clock_error: i64,
    pub(crate) publishing: Publishing,
    pub(crate) latency: Duration,
    pub(crate) weight_limit: u32,
    pub(crate) faults: Vec<FaultRule>,
    pub(crate) body_cap: u64,
    pub(crate) port: u16,
    pub(crate) venue: Option<Arc<dyn Venue>>,
}

impl SimConfig {
    /// Serves these markets on a free port: the system's clock, no latency, 6000 weight a minute, no
    /// faults.
    pub fn new(markets: impl IntoIterator<Item = Market>) -> Self {
        Self {
            markets: markets.into_iter().collect(),
            clock: SimClock::default(),
            clock_error: 0,
            publishing: Publishing::default(),
            latency: Duration::ZERO,
            weight_limit: 6_000,
            faults: Vec::new(),
            body_cap: 64 << 20,
            port: 0,
            venue: None,
        }
    }

    /// The clock that says which bars exist, which one is forming, and in which minute weight counts.
    #[must_use]
    pub fn with_clock(mut self, clock: SimClock) -> Self {
        self.clock = clock;
        self
    }

    /// Milliseconds that the server says it is later than it is, in the answers that tell the time and in
    /// every `Date` header; negative ones make it earlier. What is published, and when weight and bans end,
    /// goes by the right time.
    #[must_use]
    pub fn with_clock_error(mut self, ms: i64) -> Self {
        self.clock_error = ms;
        self
    }

    /// How long after its close, by the server's clock, a bar appears in pages, to the millisecond. Until
    /// then an answer ends before it. With any delay a bar that is forming is not served; without, it is.
    /// Archives are as they are.
    #[must_use]
    pub fn with_publish_delay(mut self, delay: Duration) -> Self {
        self.publishing.delay = delay;
        self
    }

    /// How long after its close, by the server's clock, pages have a bar in a first version: as it stood
    /// in its middle, all prices at the open and half of the volume. Then the final one replaces it. A
    /// publishing delay of the same length hides all of it. Archives have final versions.
    #[must_use]
    pub fn with_first_version(mut self, lasts: Duration) -> Self {
        self.publishing.first_version = lasts;
        self
    }

    /// The time from a request's arrival to the first byte of its answer, to the millisecond that
    /// tokio's timers have.
    #[must_use]
    pub fn with_latency(mut self, latency: Duration) -> Self {
        self.latency = latency;
        self
    }

    /// The request weight that Binance grants in a minute of the server's clock. Under a frozen clock
    /// the minute never ends: raise the limit for a test that asks much.
    #[must_use]
    pub fn with_weight_limit(mut self, weight: u32) -> Self {
        self.weight_limit = weight;
        self
    }

    /// Adds a fault.
    #[must_use]
    pub fn with_fault(mut self, rule: FaultRule) -> Self {
        self.faults.push(rule);
        self
    }

    /// Where an endless body ends and what a bomb inflates to, bytes: 64 MiB unless set, 1 GiB at most.
    #[must_use]
    pub fn with_body_cap(mut self, bytes: u64) -> Self {
        self.body_cap = bytes.min(MOST_BODY_CAP);
        self
    }

    /// Binds this port instead of a free one. The address is always 127.0.0.1.
    #[must_use]
    pub fn with_port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// Serves the markets as this exchange does too; its paths win over those that are built in.
    #[must_use]
    pub fn with_venue(mut self, venue: impl Venue) -> Self {
        self.venue = Some(Arc::new(venue));
        self
    }
}
