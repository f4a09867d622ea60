//! What the server knows, and how it answers one request.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hyper::StatusCode;
use hyper::header::{DATE, HeaderName, RETRY_AFTER};

use crate::answer::Answer;
use crate::archive::{self, FileName, Packed};
use crate::binance::{self, Klines};
use crate::call::{Call, Request};
use crate::clock::{Time, http_date};
use crate::coinbase::{self, Candles};
use crate::config::SimConfig;
use crate::fault::Fault;
use crate::limit::{Verdict, WeightBudget};
use crate::log::{Log, RequestRecord};
use crate::market::Market;
use crate::publishing::Publishing;
use crate::rule::FaultRule;
use crate::spoil::{Begins, instead, room, seen, spoil};
use crate::venue::{self, Ask, CandlesAsk, Refusal, Venue};
use crate::{Error, Result};

/// Markets, clock, limits, faults and log of one server.
#[derive(Debug)]
pub(crate) struct Exchange {
    state: Mutex<State>,
    venue: Option<Arc<dyn Venue>>,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) time: Time,
    /// Milliseconds that the time which the server says is ahead of its clock.
    pub(crate) clock_error: i64,
    pub(crate) publishing: Publishing,
    pub(crate) faults: Vec<FaultRule>,
    pub(crate) log: Log,
    markets: Vec<Arc<Market>>,
    budget: WeightBudget,
    /// Files packed already, by their path; forgotten when a market changes.
    packed: HashMap<String, Arc<Packed>>,
}

/// A request that is logged, with what held when it came.
#[derive(Debug)]
struct Received {
    number: u64,
    /// The server's clock, milliseconds since the epoch.
    now: i64,
    /// The time that the server says it is, milliseconds since the epoch.
    said: i64,
    publishing: Publishing,
    fault: Option<Fault>,
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
        let mut seen = HashSet::new();
        for market in &config.markets {
            if !seen.insert((market.symbol().to_owned(), market.interval())) {
                let (symbol, interval) = (market.symbol(), market.interval().name());
                return Err(Error::input(format!("{symbol} {interval} is given twice")));
            }
        }
        let state = State {
            time: Time::start(config.clock),
            clock_error: config.clock_error,
            publishing: config.publishing,
            faults: config.faults,
            log: Log::default(),
            markets: config.markets.into_iter().map(Arc::new).collect(),
            budget: WeightBudget::new(config.weight_limit),
            packed: HashMap::new(),
        };
        Ok(Self { state: Mutex::new(state), venue: config.venue })
    }

    /// The state; a panic of a test's predicate does not spoil it.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn market(&self, pick: impl Fn(&Market) -> bool) -> Option<Arc<Market>> {
        self.state().markets.iter().find(|market| pick(market)).map(Arc::clone)
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
        let venue = self.venue.as_deref();
        let call = Call::parse(request, venue);
        let received = self.receive(request, &call);
        let spoiled =
            received.fault.as_ref().and_then(|fault| instead(fault, call.endpoint(), request, venue));
        let answer = spoiled.unwrap_or_else(|| self.serve(call, request, &received));
        let mut answer = answer.with_header(DATE, &http_date(received.said));
        if matches!(received.fault, Some(Fault::PartialContent(_))) && answer.status == StatusCode::OK {
            answer.status = StatusCode::PARTIAL_CONTENT;
        }
        Outcome { number: received.number, answer, fault: received.fault }
    }

    /// Notes what was answered.
    pub(crate) fn answered(&self, number: u64, status: StatusCode, rows: usize) {
        if let Some(record) = self.state().log.get_mut(number) {
            (record.status, record.rows) = (Some(status.as_u16()), rows);
        }
    }

    fn receive(&self, request: &Request, call: &Call) -> Received {
        let mut state = self.state();
        let (number, now) = (state.log.next_number(), state.time.now());
        let mut record = RequestRecord {
            number,
            time: now,
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
        let said = now.saturating_add(state.clock_error);
        Received { number, now, said, publishing: state.publishing, fault }
    }

    fn serve(&self, call: Call, request: &Request, received: &Received) -> Answer {
        let Received { now, said, .. } = *received;
        if request.method != "GET" && request.method != "HEAD" {
            return Answer::html(StatusCode::METHOD_NOT_ALLOWED, "405 Method Not Allowed");
        }
        match call {
            Call::Ping => self.weighed(now, 1, binance::ping),
            Call::Time => self.weighed(now, 1, || binance::time(said)),
            Call::ExchangeInfo => {
                self.weighed(now, binance::EXCHANGE_INFO_WEIGHT, || self.state().exchange_info(said))
            }
            Call::Klines(Ok(klines)) => {
                self.weighed(now, binance::KLINES_WEIGHT, || self.klines(&klines, received))
            }
            Call::Klines(Err(refusal)) => self.weighed(now, binance::KLINES_WEIGHT, || refusal),
            Call::CoinbaseTime => coinbase::time(said),
            Call::ProductCandles(Ok(candles)) => self.candles(&candles, received),
            Call::ProductCandles(Err(refusal)) => refusal,
            Call::Archive(Some(name)) if name.published(now) => self.archive(&name, request, received),
            Call::Archive(_) => archive::absent(&request.path),
            Call::Venue(ask) => match &self.venue {
                Some(venue) => self.venue(&**venue, &ask, received),
                None => Answer::html(StatusCode::NOT_FOUND, "404 Not Found"),
            },
            Call::Unknown => Answer::html(StatusCode::NOT_FOUND, "404 Not Found"),
        }
    }

    /// A Binance answer, if the weight is granted, with the weight used in its headers.
    fn weighed(&self, now: i64, weight: u32, answer: impl FnOnce() -> Answer) -> Answer {
        let (verdict, used, limit) = self.state().charge(now, weight);
        let answer = match verdict {
            Verdict::Served => answer(),
            Verdict::Refused { retry_after_s } => {
                binance::too_much_weight(limit).with_header(RETRY_AFTER, &retry_after_s)
            }
            Verdict::Banned { until, retry_after_s } => {
                binance::banned(until).with_header(RETRY_AFTER, &retry_after_s)
            }
        };
        answer
            .with_header(HeaderName::from_static("x-mbx-used-weight"), &used)
            .with_header(HeaderName::from_static("x-mbx-used-weight-1m"), &used)
    }

    fn klines(&self, klines: &Klines, received: &Received) -> Answer {
        let Klines { symbol, interval, .. } = klines;
        let Some(market) = self.market(|m| m.symbol() == symbol && m.interval() == *interval) else {
            let known = self.market(|m| m.symbol() == symbol).is_some();
            return if known { binance::bad_interval() } else { binance::bad_symbol() };
        };
        let fault = received.fault.as_ref();
        let (market, wanted) = (seen(market, fault), klines.wanted(room(fault)));
        let mut rows = market.page(wanted, received.now, received.publishing);
        let style = spoil(&mut rows, fault, &market, Begins::AtFirst(wanted.first), received.number);
        binance::page(&rows, market.interval(), style)
    }

    fn candles(&self, candles: &Candles, received: &Received) -> Answer {
        let Candles { product, interval, .. } = candles;
        let Some(market) = self.market(|m| m.product() == product && m.interval() == *interval) else {
            let known = self.market(|m| m.product() == product).is_some();
            return if known { coinbase::bad_granularity() } else { coinbase::unknown_product() };
        };
        let fault = received.fault.as_ref();
        let (market, wanted) = (seen(market, fault), candles.wanted(received.now));
        let rows = market.page(wanted, received.now, received.publishing);
        let mut rows = coinbase::published(rows, room(fault));
        let style = spoil(&mut rows, fault, &market, Begins::AtLast(wanted.last), received.number);
        coinbase::page(&rows, style)
    }

    fn venue(&self, venue: &dyn Venue, ask: &Ask, received: &Received) -> Answer {
        match ask {
            Ask::Time => Answer::json(StatusCode::OK, venue.time(received.said)),
            Ask::Candles(candles) => self.page_of(venue, candles, received),
        }
    }

    fn page_of(&self, venue: &dyn Venue, asked: &CandlesAsk, received: &Received) -> Answer {
        let CandlesAsk { symbol, interval, .. } = asked;
        let Some(market) = self.market(|m| m.symbol() == symbol && m.interval().name() == interval) else {
            let known = self.market(|m| m.symbol() == symbol).is_some();
            let refusal = if known { Refusal::UnknownInterval } else { Refusal::UnknownSymbol };
            return venue::refused(venue, refusal, None);
        };
        let fault = received.fault.as_ref();
        let market = seen(market, fault);
        let mut rows = market.page(asked.wanted(), received.now, received.publishing);
        asked.cut(&mut rows, room(fault));
        let style = spoil(&mut rows, fault, &market, asked.begins(), received.number);
        venue::page(venue, &rows, style)
    }

    fn archive(&self, name: &FileName, request: &Request, received: &Received) -> Answer {
        let Some(market) = self.market(|m| m.symbol() == name.symbol && m.interval() == name.interval) else {
            return archive::absent(&request.path);
        };
        match self.packed(name, market, received) {
            Ok(Some(packed)) => packed.answer(name, request.if_none_match.as_deref()),
            Ok(None) => archive::absent(&request.path),
            Err(e) => archive::error(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", &e.to_string()),
        }
    }

    /// The file with its fault, if it has rows. The right file is packed once and kept.
    fn packed(
        &self,
        name: &FileName,
        market: Arc<Market>,
        received: &Received,
    ) -> std::io::Result<Option<Arc<Packed>>> {
        let key = name.zip();
        // A checksum is that of the right file.
        let fault = received.fault.as_ref().filter(|_| !name.checksum);
        if let (None, Some(packed)) = (fault, self.state().packed.get(&key)) {
            return Ok(Some(Arc::clone(packed)));
        }
        let (market, wanted) = (seen(market, fault), name.wanted(room(fault)));
        // Long after the day: late bars are out and first versions replaced.
        let mut rows = market.page(wanted, i64::MAX, Publishing::default());
        if rows.is_empty() {
            return Ok(None);
        }
        let style = spoil(&mut rows, fault, &market, Begins::AtFirst(wanted.first), received.number);
        let packed = Arc::new(Packed::new(name.pack(&rows, market.interval(), style)?, rows.len()));
        if fault.is_none() {
            let mut state = self.state();
            // What was packed from rows that have changed meanwhile must not be kept.
            if state.markets.iter().any(|now| Arc::ptr_eq(now, &market)) {
                state.packed.insert(key, Arc::clone(&packed));
            }
        }
        Ok(Some(packed))
    }
}

impl State {
    /// The verdict on a request, the weight used and the limit.
    fn charge(&mut self, now: i64, weight: u32) -> (Verdict, u32, u32) {
        (self.budget.charge(now, weight), self.budget.used(), self.budget.limit())
    }

    fn exchange_info(&self, said: i64) -> Answer {
        binance::exchange_info(self.markets.iter().map(Arc::as_ref), said, self.budget.limit())
    }
}
