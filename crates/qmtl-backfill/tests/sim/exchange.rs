//! A simulated exchange behind the fetchers' transport: the real formats over a drawn market, with faults.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use qmtl_history_api::{TimeRange, Timestamp, async_trait};
use qmtl_io_exchange::{Transport, TransportAnswer};
use url::Url;

use crate::clock::{Process, SimClock};
use crate::log::Log;
use crate::world::{Fault, Kind, Market, Trouble, Version, World, moved};

/// The longest that a fetcher waits for an answer, and the longest pause before its next try: half a
/// minute, doubled by chance.
const OF_A_TRY: Duration = Duration::from_secs(30 + 61);
/// Longer than a fetcher waits for an answer.
const FOR_EVER: Duration = Duration::from_secs(600);
/// Rows of a page at most.
const PAGE: (usize, usize) = (1_000, 300);

/// The server of one market.
#[derive(Debug)]
pub(crate) struct Exchange {
    world: Arc<World>,
    market: usize,
    clock: SimClock,
    process: Arc<Process>,
    log: Arc<Log>,
    state: Mutex<State>,
}

/// What the server remembers.
#[derive(Debug)]
struct State {
    rng: Rng,
    /// Bars that the last answer about them left out by chance.
    left_out: BTreeSet<Timestamp>,
    /// In which versions each closed bar was given.
    served: BTreeMap<Timestamp, BTreeSet<Version>>,
    counts: Counts,
}

/// What was asked of a server so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    /// Requests, repetitions included.
    pub(crate) requests: u64,
    /// Of them, those that met a fault.
    pub(crate) faulty: u64,
    /// Rows given.
    pub(crate) rows: u64,
    /// The longest that the requests can have taken, with the pauses after those that failed.
    pub(crate) took: Duration,
}

/// What a request asks for.
enum Asked {
    Time,
    /// Bars of a range, so many at most.
    Page(TimeRange, usize),
}

/// A row of an answer.
#[derive(Clone, Copy)]
struct Row {
    opens: Timestamp,
    /// The last microsecond of its bar.
    closes: Timestamp,
    values: [f64; 5],
    /// The bar and its version, when it is one of the market.
    is: Option<(Timestamp, Version)>,
}

impl Exchange {
    pub(crate) fn new(
        (world, market): (&Arc<World>, usize),
        clock: SimClock,
        process: &Arc<Process>,
        log: &Arc<Log>,
    ) -> Arc<Self> {
        let state = State {
            rng: Rng::with_seed(world.seed ^ (0xe4c4 + market as u64)),
            left_out: BTreeSet::new(),
            served: BTreeMap::new(),
            counts: Counts::default(),
        };
        Arc::new(Self {
            world: Arc::clone(world),
            market,
            clock,
            process: Arc::clone(process),
            log: Arc::clone(log),
            state: Mutex::new(state),
        })
    }

    pub(crate) fn market(&self) -> &Market {
        &self.world.markets[self.market]
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn counts(&self) -> Counts {
        self.state().counts
    }

    /// Whether a closed bar was given in this version.
    pub(crate) fn has_served(&self, bar: Timestamp, version: Version) -> bool {
        self.state().served.get(&bar).is_some_and(|versions| versions.contains(&version))
    }

    /// The server's own time, which may be wrong.
    fn server_time(&self, now: Timestamp) -> Timestamp {
        let lies = self.world.at(now).filter(|trouble| trouble.fault == Fault::WrongTime);
        moved(now, lies.map(|trouble| trouble.amount).next().unwrap_or(0))
    }

    /// Which fault of those that keep an answer from coming strikes this request.
    fn failure(&self, now: Timestamp) -> Option<Trouble> {
        let mut state = self.state();
        let failures = [
            Fault::ServerErrors,
            Fault::Refused,
            Fault::Silent,
            Fault::RateLimited,
            Fault::Garbage,
            Fault::Slow,
        ];
        let mut active = self.world.at(now).filter(|trouble| failures.contains(&trouble.fault));
        active.find(|trouble| state.rng.f64() < trouble.chance).copied()
    }

    fn answer(&self, asked: &Asked, now: Timestamp) -> TransportAnswer {
        let time = self.server_time(now);
        let no_time = self.world.at(now).find(|trouble| trouble.fault == Fault::NoTime);
        let tells_date = no_time.is_none_or(|trouble| trouble.amount == 1);
        let answer = match asked {
            Asked::Time if no_time.is_some() => {
                self.meet(Fault::NoTime);
                let body = match self.market().kind {
                    Kind::Binance => "not here",
                    Kind::Coinbase => "NotFound",
                };
                TransportAnswer::new(404, body)
            }
            Asked::Time => match self.market().kind {
                Kind::Binance => {
                    TransportAnswer::new(200, format!("{{\"serverTime\":{}}}", time.as_micros() / 1_000))
                }
                Kind::Coinbase => {
                    TransportAnswer::new(200, format!("{{\"iso\":\"{time}\",\"epoch\":{}}}", time.as_secs()))
                }
            },
            Asked::Page(range, limit) => self.page((*range, *limit), now),
        };
        if time != now {
            self.meet(Fault::WrongTime);
        }
        if tells_date { answer.with_header("Date", &http_date(time)) } else { answer }
    }

    fn page(&self, (range, limit): (TimeRange, usize), now: Timestamp) -> TransportAnswer {
        let market = self.market();
        let until = TimeRange::checked(range.start(), range.end().min(moved(now, 1)));
        let row = |bar: Timestamp| Some(row_of(market, bar, market.version(bar, now)?));
        let bars = until.into_iter().flat_map(|range| market.bars(range)).filter_map(row);
        let mut rows: Vec<_> = match market.kind {
            Kind::Binance => bars.take(limit).collect(),
            Kind::Coinbase => bars.rev().take(limit).collect(),
        };
        let whole: Vec<_> = rows.iter().filter_map(|row| row.is).collect();
        let (mut status, mut struck) = (200, Vec::new());
        let mut state = self.state();
        let state = &mut *state;
        for trouble in self.world.at(now) {
            if rows.is_empty() || state.rng.f64() >= trouble.chance {
                continue;
            }
            if let Some(spoilt) = self.spoilt(trouble, &rows, state) {
                rows = spoilt;
                status = if trouble.fault == Fault::Partial { 206 } else { status };
                struck.push(trouble.fault);
            }
        }
        let left_out = left_out(market.kind, &whole, &rows);
        if status == 200
            && left_out.iter().any(|bar| state.left_out.contains(bar))
            && !rows.iter().any(|row| row.is.is_some_and(|(bar, _)| state.left_out.contains(&bar)))
        {
            // Twice in a row the same and nothing new: nobody could find that out.
            rows = whole.iter().map(|(bar, version)| row_of(market, *bar, *version)).collect();
            struck.clear();
        }
        struck.iter().for_each(|fault| self.log.met(*fault));
        state.counts.faulty += struck.len() as u64;
        if struck.contains(&Fault::WrongInterval) {
            // Such an answer is refused and asked for again.
            state.counts.took += OF_A_TRY;
        }
        for row in &rows {
            let Some((bar, version)) = row.is else { continue };
            state.left_out.remove(&bar);
            if version != Version::Forming && row.opens == bar {
                state.served.entry(bar).or_default().insert(version);
            }
        }
        state.left_out.extend(left_out);
        state.counts.rows += rows.len() as u64;
        TransportAnswer::new(status, text(market.kind, &rows))
    }

    /// What a fault makes of a page; `None` when it does nothing to it.
    fn spoilt(&self, trouble: &Trouble, rows: &[Row], state: &mut State) -> Option<Vec<Row>> {
        let minute = |row: &Row| row.opens.as_secs() / 60;
        let only = |keep: &mut dyn FnMut(usize, &Row) -> bool| {
            let kept: Vec<_> =
                rows.iter().enumerate().filter(|(at, row)| keep(*at, row)).map(|(_, row)| *row).collect();
            (kept.len() < rows.len()).then_some(kept)
        };
        match trouble.fault {
            Fault::ShortPages => only(&mut |at, _| at < usize::try_from(trouble.amount).unwrap_or(1)),
            Fault::Partial if trouble.amount == 0 => only(&mut |at, _| at < rows.len().div_ceil(2)),
            Fault::Partial => only(&mut |_, row| minute(row) % 3 != 1),
            Fault::RandomPart => {
                let State { rng, left_out, .. } = state;
                only(&mut |_, row| left_out.contains(&row.opens) || rng.bool())
            }
            Fault::EndsOnly => only(&mut |at, _| at == 0 || at + 1 == rows.len()),
            Fault::EmptyPages => only(&mut |_, _| false),
            Fault::WrongInterval => Some(self.longer(rows)),
            Fault::Sparser => {
                let length = self.market().interval().as_micros() * 5;
                only(&mut |_, row| row.opens.as_micros() % length == 0).filter(|rows| rows.len() >= 3)
            }
            Fault::OffGrid => {
                let beside = |row: &Row| match minute(row) % 7 {
                    3 => Row { opens: moved(row.opens, 7_000_000), ..*row },
                    _ => *row,
                };
                rows.iter().any(|row| minute(row) % 7 == 3).then(|| rows.iter().map(beside).collect())
            }
            _ => None,
        }
    }

    /// Bars five times as long as those of `rows`, as the closed ones make them.
    fn longer(&self, rows: &[Row]) -> Vec<Row> {
        let length = self.market().interval().as_micros() * 5;
        let mut longer: Vec<Row> = Vec::new();
        for row in rows {
            let opens = moved(row.opens, -row.opens.as_micros().rem_euclid(length));
            let [_, high, low, close, volume] = row.values;
            match longer.last_mut().filter(|last| last.opens == opens) {
                Some(last) => {
                    let [open, highest, lowest, _, sum] = last.values;
                    last.values = [open, highest.max(high), lowest.min(low), close, sum + volume];
                }
                None => {
                    longer.push(Row { opens, closes: moved(opens, length - 1), values: row.values, is: None })
                }
            }
        }
        longer
    }

    fn meet(&self, fault: Fault) {
        self.log.met(fault);
        self.state().counts.faulty += 1;
    }

    fn read(&self, url: &str) -> Option<Asked> {
        let url = Url::parse(url).ok()?;
        let field = |name: &str| url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value);
        let market = self.market();
        if url.path().ends_with("/time") {
            return Some(Asked::Time);
        }
        match market.kind {
            Kind::Binance => {
                let millis = |name| field(name).and_then(|text| text.parse::<i64>().ok());
                let (from, to) = (millis("startTime")?, millis("endTime")?);
                let range = TimeRange::new(
                    Timestamp::from_micros(from * 1_000).ok()?,
                    Timestamp::from_micros(to * 1_000 + 1).ok()?,
                );
                let limit: usize = field("limit")?.parse().ok()?;
                Some(Asked::Page(range.ok()?, limit.min(PAGE.0)))
            }
            Kind::Coinbase => {
                let time = |name| field(name).and_then(|text| text.parse::<Timestamp>().ok());
                let range = TimeRange::new(time("start")?, moved(time("end")?, 1)).ok()?;
                Some(Asked::Page(range, PAGE.1))
            }
        }
    }
}

#[async_trait]
impl Transport for Exchange {
    async fn get(&self, url: &str) -> io::Result<TransportAnswer> {
        self.process.step(self.clock.truth()).await;
        let asked_at = self.clock.truth();
        let (there, back) = {
            let mut state = self.state();
            state.counts.requests += 1;
            (state.rng.u64(1..40), state.rng.u64(1..80))
        };
        self.clock.until(moved(asked_at, i64::try_from(there).unwrap_or(1) * 1_000)).await;
        let now = self.clock.truth();
        let failure = self.failure(now);
        self.log.request(now, url, failure.map(|trouble| trouble.fault));
        let mut latency = Duration::from_millis(back);
        let mut pause = Duration::ZERO;
        let answer = match failure {
            Some(trouble) => {
                self.meet(trouble.fault);
                pause = OF_A_TRY;
                match trouble.fault {
                    Fault::Refused => Err(io::ErrorKind::ConnectionRefused.into()),
                    Fault::ServerErrors => Ok(TransportAnswer::new(503, "<html>")),
                    Fault::RateLimited => {
                        pause += Duration::from_secs(trouble.amount.unsigned_abs());
                        let answer = TransportAnswer::new(429, "{\"code\":-1003,\"msg\":\"too much\"}");
                        Ok(answer.with_header("Retry-After", &trouble.amount.to_string()))
                    }
                    Fault::Slow => {
                        latency += Duration::from_secs(trouble.amount.unsigned_abs());
                        self.asked(url, now)
                    }
                    Fault::Silent => {
                        latency = FOR_EVER;
                        Err(io::ErrorKind::TimedOut.into())
                    }
                    _ => Ok(TransportAnswer::new(200, "{\"status\":\"ok\"}")),
                }
            }
            None => self.asked(url, now),
        };
        self.state().counts.took += latency.min(OF_A_TRY) + pause + Duration::from_millis(there + 200);
        self.clock.pass(latency).await;
        self.process.step(self.clock.truth()).await;
        answer
    }
}

impl Exchange {
    fn asked(&self, url: &str, now: Timestamp) -> io::Result<TransportAnswer> {
        let asked = self.read(url).ok_or_else(|| io::Error::other("the exchange has no such address"))?;
        Ok(self.answer(&asked, now))
    }
}

/// A bar as it should be given.
fn row_of(market: &Market, bar: Timestamp, version: Version) -> Row {
    Row {
        opens: bar,
        closes: moved(market.close(bar), -1),
        values: market.values(bar, version),
        is: Some((bar, version)),
    }
}

/// Which bars of a `whole` page are not among the `rows` that are given of it, although the page goes on beyond
/// them in the order of the API.
fn left_out(kind: Kind, whole: &[(Timestamp, Version)], rows: &[Row]) -> Vec<Timestamp> {
    let last = rows.last().map(|row| row.opens);
    let is_beyond = |bar: Timestamp| match (kind, last) {
        (_, None) => false,
        (Kind::Binance, Some(last)) => bar > last,
        (Kind::Coinbase, Some(last)) => bar < last,
    };
    let given: BTreeSet<_> = rows.iter().filter_map(|row| row.is).map(|(bar, _)| bar).collect();
    let bars = whole.iter().map(|(bar, _)| *bar);
    bars.filter(|bar| !given.contains(bar) && !is_beyond(*bar)).collect()
}

/// Rows as the API writes them.
fn text(kind: Kind, rows: &[Row]) -> String {
    let mut text = String::from("[");
    for (number, Row { opens, closes, values: [open, high, low, close, volume], .. }) in
        rows.iter().enumerate()
    {
        let comma = if number == 0 { "" } else { "," };
        let written = match kind {
            Kind::Binance => {
                let [quote, trades, base, taker] = crate::store::beside(*volume);
                let (opens, closes) = (opens.as_micros() / 1_000, closes.as_micros() / 1_000);
                write!(
                    text,
                    "{comma}[{opens},\"{open:.2}\",\"{high:.2}\",\"{low:.2}\",\"{close:.2}\",\"{volume:.2}\",\
                     {closes},\"{quote:.2}\",{trades},\"{base:.2}\",\"{taker:.2}\",\"0\"]"
                )
            }
            Kind::Coinbase => {
                let opens = opens.as_secs();
                write!(text, "{comma}[{opens},{low:.2},{high:.2},{open:.2},{close:.2},{volume:.2}]")
            }
        };
        written.expect("writing to a string cannot fail");
    }
    text.push(']');
    text
}

/// The form of an HTTP `Date`.
fn http_date(time: Timestamp) -> String {
    chrono::DateTime::from_timestamp_micros(time.as_micros()).unwrap_or_default().to_rfc2822()
}
