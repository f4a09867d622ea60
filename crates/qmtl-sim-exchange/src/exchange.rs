//! What the server knows, and how it answers one request.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hyper::StatusCode;
use hyper::header::{HeaderName, LOCATION, RETRY_AFTER};

use crate::answer::{Answer, Style};
use crate::archive::{self, FileName, Packed};
use crate::binance::{self, Klines};
use crate::clock::Time;
use crate::coinbase::{self, Candles};
use crate::config::SimConfig;
use crate::fault::{Fault, FaultRule};
use crate::limit::{Verdict, WeightBudget};
use crate::log::{Asked, Endpoint, Log, RequestRecord};
use crate::market::{Market, Row};
use crate::spoil::spoil;
use crate::{Error, Result};

/// Markets, clock, limits, faults and log of one server.
#[derive(Debug)]
pub(crate) struct Exchange {
    state: Mutex<State>,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) time: Time,
    pub(crate) faults: Vec<FaultRule>,
    pub(crate) log: Log,
    markets: Vec<Arc<Market>>,
    budget: WeightBudget,
    /// Files packed already, by their path; forgotten when a market changes.
    packed: HashMap<String, Arc<Packed>>,
}

/// The parts of an HTTP request that matter here.
#[derive(Debug, Clone, Default)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) if_none_match: Option<String>,
}

/// What a request turned out to be.
#[derive(Debug)]
enum Call {
    Ping,
    Time,
    ExchangeInfo,
    Klines(std::result::Result<Klines, Answer>),
    CoinbaseTime,
    ProductCandles(std::result::Result<Candles, Answer>),
    Archive(Option<FileName>),
    Unknown,
}

/// An answer on its way, with the fault that it is to suffer.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) number: u64,
    pub(crate) answer: Answer,
    pub(crate) fault: Option<Fault>,
}

impl Exchange {
    pub(crate) fn new(config: SimConfig) -> Result<Self> {
        let mut seen = std::collections::HashSet::new();
        for market in &config.markets {
            if !seen.insert((market.symbol().to_owned(), market.interval())) {
                let (symbol, interval) = (market.symbol(), market.interval().name());
                return Err(Error::input(format!("{symbol} {interval} is given twice")));
            }
        }
        let state = State {
            time: Time::start(config.clock),
            faults: config.faults,
            log: Log::default(),
            markets: config.markets.into_iter().map(Arc::new).collect(),
            budget: WeightBudget::new(config.weight_limit),
            packed: HashMap::new(),
        };
        Ok(Self { state: Mutex::new(state) })
    }

    /// The state; a panic of a test's predicate does not spoil it.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes a market for the requests to come.
    pub(crate) fn change(
        &self,
        symbol: &str,
        interval: &str,
        change: impl FnOnce(&mut Market) -> Result<()>,
    ) -> Result<()> {
        let mut state = self.state();
        let found =
            state.markets.iter_mut().find(|m| m.symbol() == symbol && m.interval().name() == interval);
        let market = found.ok_or_else(|| Error::input(format!("there is no market {symbol} {interval}")))?;
        change(Arc::make_mut(market))?;
        state.packed.clear();
        Ok(())
    }

    /// Logs the request and works out its answer.
    pub(crate) fn answer(&self, request: &Request) -> Outcome {
        let call = Call::parse(request);
        let (number, now, fault) = self.receive(request, &call);
        let answer = match fault.as_ref().and_then(|fault| instead(fault, call.endpoint(), request)) {
            Some(answer) => answer,
            None => self.serve(&call, request, now, fault.as_ref()),
        };
        Outcome { number, answer, fault }
    }

    /// Notes what was answered.
    pub(crate) fn answered(&self, number: u64, status: StatusCode, rows: usize) {
        if let Some(record) = self.state().log.get_mut(number) {
            (record.status, record.rows) = (Some(status.as_u16()), rows);
        }
    }

    fn receive(&self, request: &Request, call: &Call) -> (u64, i64, Option<Fault>) {
        let mut state = self.state();
        let (number, time) = (state.log.next_number(), state.time.now());
        let mut record = RequestRecord {
            number,
            time,
            method: request.method.clone(),
            path: request.path.clone(),
            query: request.query.clone(),
            endpoint: call.endpoint(),
            asked: call.asked(),
            fault: None,
            status: None,
            rows: 0,
        };
        // Every rule counts the request, also when an earlier one strikes.
        let strikes: Vec<Fault> =
            state.faults.iter_mut().filter_map(|rule| rule.strike(&record).cloned()).collect();
        record.fault = strikes.into_iter().next();
        let fault = record.fault.clone();
        state.log.push(record);
        (number, time, fault)
    }

    fn serve(&self, call: &Call, request: &Request, now: i64, fault: Option<&Fault>) -> Answer {
        if request.method != "GET" && request.method != "HEAD" {
            return Answer::html(StatusCode::METHOD_NOT_ALLOWED, "405 Method Not Allowed");
        }
        match call {
            Call::Ping => self.weighed(now, 1, |_| binance::ping()),
            Call::Time => self.weighed(now, 1, |_| binance::time(now)),
            Call::ExchangeInfo => self.weighed(now, binance::EXCHANGE_INFO_WEIGHT, |state| {
                binance::exchange_info(state.markets.iter().map(Arc::as_ref), now, state.budget.limit())
            }),
            Call::Klines(klines) => self.klines(klines, now, fault),
            Call::CoinbaseTime => coinbase::time(now),
            Call::ProductCandles(candles) => self.candles(candles, now, fault),
            Call::Archive(name) => self.archive(name.as_ref(), request, now, fault),
            Call::Unknown => Answer::html(StatusCode::NOT_FOUND, "404 Not Found"),
        }
    }

    /// A Binance answer, if the weight is granted, with the weight used in its headers.
    fn weighed(&self, now: i64, weight: u32, answer: impl FnOnce(&State) -> Answer) -> Answer {
        let mut state = self.state();
        let (verdict, limit) = (state.budget.charge(now, weight), state.budget.limit());
        let answer = match verdict {
            Verdict::Served => answer(&state),
            Verdict::Refused { retry_after_s } => {
                binance::too_much_weight(limit).with_header(RETRY_AFTER, &retry_after_s)
            }
            Verdict::Banned { until, retry_after_s } => {
                binance::banned(until).with_header(RETRY_AFTER, &retry_after_s)
            }
        };
        let used = state.budget.used();
        answer
            .with_header(HeaderName::from_static("x-mbx-used-weight"), &used)
            .with_header(HeaderName::from_static("x-mbx-used-weight-1m"), &used)
    }

    fn klines(
        &self,
        klines: &std::result::Result<Klines, Answer>,
        now: i64,
        fault: Option<&Fault>,
    ) -> Answer {
        let mut market = None;
        // The page is written outside of the lock; only the weight is counted inside.
        let answer = self.weighed(now, binance::KLINES_WEIGHT, |state| {
            let klines = match klines {
                Ok(klines) => klines,
                Err(refusal) => return refusal.clone(),
            };
            market = state.market(|m| m.symbol() == klines.symbol && m.interval() == klines.interval);
            match &market {
                Some(_) => binance::ping(),
                None if state.market(|m| m.symbol() == klines.symbol).is_some() => binance::bad_interval(),
                None => binance::bad_symbol(),
            }
        });
        let (Some(market), Ok(klines)) = (market, klines) else { return answer };
        let wanted = klines.wanted();
        let mut rows = market.page(wanted, now);
        let style = style_of(&mut rows, fault, &market, wanted.first);
        Answer { headers: answer.headers, ..binance::page(&rows, klines.interval, style) }
    }

    fn candles(
        &self,
        candles: &std::result::Result<Candles, Answer>,
        now: i64,
        fault: Option<&Fault>,
    ) -> Answer {
        let candles = match candles {
            Ok(candles) => candles,
            Err(refusal) => return refusal.clone(),
        };
        let market =
            self.state().market(|m| m.product() == candles.product && m.interval() == candles.interval);
        let Some(market) = market else {
            return match self.state().market(|m| m.product() == candles.product) {
                Some(_) => coinbase::error(StatusCode::BAD_REQUEST, "Unsupported granularity"),
                None => coinbase::error(StatusCode::NOT_FOUND, "NotFound"),
            };
        };
        let wanted = candles.wanted(now);
        let mut rows = coinbase::published(market.page(wanted, now));
        let style = style_of(&mut rows, fault, &market, wanted.first);
        coinbase::page(&rows, style)
    }

    fn archive(&self, name: Option<&FileName>, request: &Request, now: i64, fault: Option<&Fault>) -> Answer {
        let absent = || archive::absent(&request.path);
        let Some(name) = name.filter(|name| name.published(now)) else { return absent() };
        let Some(market) =
            self.state().market(|m| m.symbol() == name.symbol && m.interval() == name.interval)
        else {
            return absent();
        };
        let spoilt = fault.filter(|_| !name.checksum);
        let packed = match self.packed(name, &market, spoilt) {
            Ok(Some(packed)) => packed,
            Ok(None) => return absent(),
            Err(e) => {
                return archive::error(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", &e.to_string());
            }
        };
        packed.answer(name, request.if_none_match.as_deref())
    }

    /// The file with its fault, if it has rows. The right file is packed once and kept.
    fn packed(
        &self,
        name: &FileName,
        market: &Arc<Market>,
        fault: Option<&Fault>,
    ) -> std::io::Result<Option<Arc<Packed>>> {
        let key = name.zip();
        if let (None, Some(packed)) = (fault, self.state().packed.get(&key)) {
            return Ok(Some(Arc::clone(packed)));
        }
        let wanted = name.wanted();
        let mut rows = market.page(wanted, i64::MAX);
        if rows.is_empty() {
            return Ok(None);
        }
        let style = style_of(&mut rows, fault, market, wanted.first);
        let packed = Arc::new(Packed::new(name.pack(&rows, style)?, rows.len()));
        if fault.is_none() {
            let mut state = self.state();
            // What was packed from rows that have changed meanwhile must not be kept.
            if state.markets.iter().any(|now| Arc::ptr_eq(now, market)) {
                state.packed.insert(key, Arc::clone(&packed));
            }
        }
        Ok(Some(packed))
    }
}

impl State {
    fn market(&self, pick: impl Fn(&Market) -> bool) -> Option<Arc<Market>> {
        self.markets.iter().find(|market| pick(market)).map(Arc::clone)
    }
}

fn style_of(rows: &mut Vec<Row>, fault: Option<&Fault>, market: &Market, first: Option<i64>) -> Style {
    fault.map_or(Style::Right, |fault| spoil(rows, fault, market, first))
}

impl Call {
    fn parse(request: &Request) -> Self {
        match request.path.as_str() {
            "/api/v3/ping" => Self::Ping,
            "/api/v3/time" => Self::Time,
            "/api/v3/exchangeInfo" => Self::ExchangeInfo,
            "/api/v3/klines" => Self::Klines(Klines::parse(&request.query)),
            "/time" => Self::CoinbaseTime,
            path => {
                let product = path.strip_prefix("/products/").and_then(|rest| rest.strip_suffix("/candles"));
                match product.filter(|product| !product.contains('/')) {
                    Some(product) => Self::ProductCandles(Candles::parse(product, &request.query)),
                    None if path.starts_with("/data/spot/") => Self::Archive(FileName::parse(path)),
                    None => Self::Unknown,
                }
            }
        }
    }

    fn endpoint(&self) -> Endpoint {
        match self {
            Self::Ping => Endpoint::Ping,
            Self::Time => Endpoint::Time,
            Self::ExchangeInfo => Endpoint::ExchangeInfo,
            Self::Klines(_) => Endpoint::Klines,
            Self::CoinbaseTime => Endpoint::CoinbaseTime,
            Self::ProductCandles(_) => Endpoint::ProductCandles,
            Self::Archive(_) => Endpoint::Archive,
            Self::Unknown => Endpoint::Unknown,
        }
    }

    fn asked(&self) -> Option<Asked> {
        match self {
            Self::Klines(Ok(klines)) => Some(klines.asked()),
            Self::ProductCandles(Ok(candles)) => Some(candles.asked()),
            Self::Archive(Some(name)) => Some(name.asked()),
            _ => None,
        }
    }
}

/// The answer that a fault gives instead of the right one.
fn instead(fault: &Fault, endpoint: Endpoint, request: &Request) -> Option<Answer> {
    let waiting = |answer: Answer, wait: &Option<u32>| match wait {
        Some(seconds) => answer.with_header(RETRY_AFTER, seconds),
        None => answer,
    };
    let answer = match fault {
        Fault::TooManyRequests(wait) => {
            let status = StatusCode::TOO_MANY_REQUESTS;
            waiting(venue_error(endpoint, status, -1003, "Too many requests."), wait)
        }
        Fault::Banned(wait) => {
            waiting(venue_error(endpoint, StatusCode::IM_A_TEAPOT, -1003, "Address banned."), wait)
        }
        Fault::Forbidden => Answer::html(StatusCode::FORBIDDEN, "403 Forbidden"),
        Fault::InternalError => Answer::html(StatusCode::INTERNAL_SERVER_ERROR, "500 Internal Server Error"),
        Fault::BadGateway => Answer::html(StatusCode::BAD_GATEWAY, "502 Bad Gateway"),
        Fault::Unavailable => Answer::html(StatusCode::SERVICE_UNAVAILABLE, "503 Service Unavailable"),
        Fault::WrongContentType => Answer::html(StatusCode::OK, "Welcome to the network"),
        Fault::ErrorInOk => venue_error(endpoint, StatusCode::OK, -1001, "Internal error; please try again."),
        Fault::Redirect(base) => {
            let query = if request.query.is_empty() { String::new() } else { format!("?{}", request.query) };
            let target = format!("{}{}{query}", base.trim_end_matches('/'), request.path);
            Answer::html(StatusCode::FOUND, "302 Found").with_header(LOCATION, &target)
        }
        _ => return None,
    };
    Some(answer)
}

/// An error object as the endpoint's exchange writes it.
fn venue_error(endpoint: Endpoint, status: StatusCode, code: i32, text: &str) -> Answer {
    match endpoint {
        Endpoint::CoinbaseTime | Endpoint::ProductCandles => coinbase::error(status, text),
        Endpoint::Archive => archive::error(status, "SlowDown", text),
        _ => binance::error_with(status, code, text),
    }
}
