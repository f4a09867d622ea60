//! Where an exchange's API is, what its symbols are called, and how much is asked of it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use qmtl_history_api::frame::Rules;
use qmtl_history_api::{Clock, Error, NodeId, Result, SourceProfile};
use qmtl_observe::TokioClock;

use reqwest::Url;

use crate::http::Transport;

/// What a fetcher of an exchange asks, and how; the defaults suit the exchange.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ExchangeConfig {
    /// The scheme, host and port of the API.
    pub base_url: String,
    /// Symbols of nodes that are not called like their symbol.
    pub symbols: HashMap<NodeId, String>,
    /// Weight that all fetchers of this process together use of the host in any minute; where the
    /// exchange has no weights, requests.
    pub weight_per_minute: u32,
    /// Requests a second that all fetchers of this process together make of the host.
    pub requests_per_second: Option<f64>,
    /// The longest that one try may take, from sending to the last byte.
    pub timeout: Duration,
    /// The longest that a connection may take to come about.
    pub connect_timeout: Duration,
    /// The longest that a request may take with all its tries and pauses, bans included.
    pub deadline: Duration,
    /// How often a request is repeated at most, once the host has answered.
    pub retries: usize,
    /// How long a host is waited for that has never answered, by all requests together.
    pub retry_for: Duration,
    /// The most bytes of an answer, after decompression.
    pub max_body_bytes: usize,
    /// How long after its close a bar may be published; until then its absence means nothing.
    pub publish_lag: Duration,
    /// What becomes of rows off the grid and of rows without prices.
    pub rules: Rules,
    /// What carries the requests; `None` is the network.
    pub transport: Option<Arc<dyn Transport>>,
    /// Where the time comes from.
    pub clock: Arc<dyn Clock>,
}

impl ExchangeConfig {
    /// Any API at this address, asked once a second: say what it grants with
    /// [`with_requests_per_second`](Self::with_requests_per_second) and
    /// [`with_weight_per_minute`](Self::with_weight_per_minute). 30 seconds for a try, 10 for a connection,
    /// 20 minutes, longer than a usual ban, and 8 repetitions for a request, a minute for a host that never answers, 32 MiB.
    #[must_use]
    pub fn new(base_url: impl Into<String>) -> Self {
        Self {
            base_url: base_url.into(),
            symbols: HashMap::new(),
            weight_per_minute: 60,
            requests_per_second: Some(1.0),
            timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(10),
            deadline: Duration::from_secs(20 * 60),
            retries: 8,
            retry_for: Duration::from_secs(60),
            max_body_bytes: 32 << 20,
            publish_lag: SourceProfile::PUBLISH_LAG,
            rules: Rules::default(),
            transport: None,
            clock: Arc::new(TokioClock::new()),
        }
    }

    /// Binance's spot API: nine tenths of the weight that it grants an address, else as [`ExchangeConfig::new`].
    #[must_use]
    pub fn binance() -> Self {
        let base = Self::new("https://api.binance.com");
        Self { weight_per_minute: 5_400, requests_per_second: None, ..base }
    }

    /// Coinbase Exchange: nine of the ten requests a second that it grants an address, else as
    /// [`ExchangeConfig::binance`].
    #[must_use]
    pub fn coinbase() -> Self {
        Self {
            base_url: "https://api.exchange.coinbase.com".to_owned(),
            weight_per_minute: 540,
            requests_per_second: Some(9.0),
            ..Self::binance()
        }
    }

    /// The files of data.binance.vision: up to 256 MiB and two minutes for one, 1,200 requests a
    /// minute, else as [`ExchangeConfig::binance`].
    #[must_use]
    pub fn archive() -> Self {
        Self {
            base_url: "https://data.binance.vision".to_owned(),
            weight_per_minute: 1_200,
            timeout: Duration::from_secs(120),
            max_body_bytes: 256 << 20,
            ..Self::binance()
        }
    }

    /// Asks another host with the same API: `https://data-api.binance.vision`,
    /// `http://127.0.0.1:8123`.
    #[must_use]
    pub fn with_base_url(mut self, url: impl Into<String>) -> Self {
        self.base_url = url.into();
        self
    }

    /// Says which symbol a node's bars are of; otherwise it is the node's id.
    #[must_use]
    pub fn with_symbol(mut self, node: NodeId, symbol: impl Into<String>) -> Self {
        self.symbols.insert(node, symbol.into());
        self
    }

    /// [`with_symbol`](Self::with_symbol) in the words of exchanges whose symbols are called products.
    #[must_use]
    pub fn with_product(self, node: NodeId, product: impl Into<String>) -> Self {
        self.with_symbol(node, product)
    }

    /// Weight that may be used in any minute.
    #[must_use]
    pub fn with_weight_per_minute(mut self, weight: u32) -> Self {
        self.weight_per_minute = weight;
        self
    }

    /// Requests a second that may be made.
    #[must_use]
    pub fn with_requests_per_second(mut self, rate: f64) -> Self {
        self.requests_per_second = Some(rate);
        self
    }

    /// The longest that one try may take.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The longest that a connection may take to come about.
    #[must_use]
    pub fn with_connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// The longest that a request may take with all its tries and pauses.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// How long a host is waited for that has never answered. Once it was given up, no request goes to it for as long
    /// again. With no retries nothing is waited for.
    #[must_use]
    pub fn with_retry_for(mut self, longest: Duration) -> Self {
        self.retry_for = longest;
        self
    }

    /// How often a request is repeated at most.
    #[must_use]
    pub fn with_retries(mut self, retries: usize) -> Self {
        self.retries = retries;
        self
    }

    /// The most bytes of an answer, after decompression.
    #[must_use]
    pub fn with_max_body_bytes(mut self, bytes: usize) -> Self {
        self.max_body_bytes = bytes;
        self
    }

    /// How long after its close a bar may be published; two minutes unless set.
    #[must_use]
    pub fn with_publish_lag(mut self, lag: Duration) -> Self {
        self.publish_lag = lag;
        self
    }

    /// What becomes of rows off the grid and of rows without prices.
    #[must_use]
    pub fn with_rules(mut self, rules: Rules) -> Self {
        self.rules = rules;
        self
    }

    /// Hands the requests to `transport` instead of the network.
    #[must_use]
    pub fn with_transport(mut self, transport: impl Transport) -> Self {
        self.transport = Some(Arc::new(transport));
        self
    }

    /// Where the time comes from; the system's clock unless set.
    #[must_use]
    pub fn with_clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// The base URL; `InvalidInput` when it is none, or holds what does not belong there.
    pub(crate) fn url(&self) -> Result<Url> {
        let bad = |why: &str| {
            Error::invalid(format!(
                "not the address of an API: {why}; use one such as https://api.binance.com"
            ))
        };
        let url = Url::parse(&self.base_url).map_err(|e| bad("it is no URL").caused_by(e))?;
        // Where the address is not quoted it may hold a secret: a password that is not escaped ends what looks like
        // its host.
        if !url.username().is_empty() || url.password().is_some() || self.base_url.contains('@') {
            return Err(bad("it holds a user or a password, and this API has neither"));
        }
        let mut shown = url.clone();
        shown.set_query(None);
        shown.set_fragment(None);
        let bad = |why: &str| bad(why).with("url", &shown);
        match url.scheme() {
            _ if url.host_str().is_none_or(str::is_empty) => Err(bad("it names no host")),
            "http" | "https" if url.query().is_some() || url.fragment().is_some() => {
                Err(bad("it ends in a query"))
            }
            "http" | "https" => Ok(url),
            _ => Err(bad("its scheme is neither http nor https")),
        }
    }

    /// `InvalidInput` for a limit under which no request could ever succeed.
    pub(crate) fn check_room(&self) -> Result<()> {
        let room = [
            ("weight_per_minute", u128::from(self.weight_per_minute)),
            ("timeout", self.timeout.as_nanos()),
            ("connect_timeout", self.connect_timeout.as_nanos()),
            ("deadline", self.deadline.as_nanos()),
            ("max_body_bytes", self.max_body_bytes as u128),
        ];
        // A rate that is not a number leaves no room either.
        let no_rate = self.requests_per_second.is_some_and(|rate| rate.is_nan() || rate <= 0.0);
        let no_room = room.into_iter().find(|(_, room)| *room == 0);
        match no_room.or(no_rate.then_some(("requests_per_second", 0))) {
            Some((name, _)) => {
                Err(Error::invalid("a limit of zero leaves no room for a request").with(name, 0))
            }
            None => Ok(()),
        }
    }

    /// What the exchange calls a node.
    pub(crate) fn symbol<'a>(&'a self, node: &'a NodeId) -> &'a str {
        self.symbols.get(node).map_or_else(|| node.as_str(), String::as_str)
    }
}
