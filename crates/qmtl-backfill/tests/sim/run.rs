//! One run: a process that fills and follows in its world, checked as it goes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fastrand::Rng;
use qmtl_backfill::plan::Planner;
use qmtl_backfill::{BackfillConfig, FetcherBackfillStrategy, FollowConfig, Follower};
use qmtl_history_api::{
    AutoBackfillStrategy, BackfillReport, BackfillRequest, Clock, DataFetcher, EmptyProof, HistoryBackend,
    HistoryBackendExt, NoProgress, ReadRequest, Result, SourceId, TimeRange, Timestamp,
};
use qmtl_io_exchange::{BinanceFetcher, CoinbaseFetcher, ExchangeConfig, Transport};
use qmtl_io_memory::MemoryBackend;
use qmtl_io_parquet::{ParquetBackend, ParquetConfig};
use tempfile::TempDir;

use crate::clock::{Process, SimClock};
use crate::exchange::{self, Exchange};
use crate::figures::Figures;
use crate::invariants::{self, Believed, Finding, Invariant, Violation};
use crate::log::Log;
use crate::naive::NaiveFollower;
use crate::store::{self, Store, at_once};
use crate::world::{Fault, Kind, LAG, Version, World, begin, moved};

/// A pause between two rounds beyond the close and the time that requests take: the longest after a round
/// that failed, and some slack.
const PAUSE: Duration = Duration::from_secs(75);
/// From the calm on, the time in which a process gets over what it met.
const OVER_IT: Duration = Duration::from_secs(180);

/// Puts something in the place of something.
pub(crate) type Wrap<T> = Box<dyn Fn(Arc<T>) -> Arc<T> + Send + Sync>;

/// How the process under test works; [`Rules::default`] is as it should.
pub(crate) struct Rules {
    /// What stands between strategy and fetcher.
    pub(crate) fetcher: Wrap<dyn DataFetcher>,
    /// What stands between fetcher and exchange.
    pub(crate) transport: Wrap<dyn Transport>,
    /// What stands between strategy and store.
    pub(crate) backend: Wrap<dyn HistoryBackend>,
    /// How it follows; `None` is by a loop that trusts its wall clock.
    pub(crate) follow: Option<FollowConfig>,
    /// Which proofs whoever reads the store believes.
    pub(crate) believed: Believed,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            fetcher: Box::new(|fetcher| fetcher),
            transport: Box::new(|transport| transport),
            backend: Box::new(|backend| backend),
            follow: Some(FollowConfig::default()),
            believed: EmptyProof::valid_at,
        }
    }
}

/// What came of a run.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) figures: Figures,
    pub(crate) violation: Option<Violation>,
    /// The same for two runs in which the same happened.
    pub(crate) fingerprint: u64,
}

/// Runs `world` under `rules`; tells all that happens when `is_told`.
pub(crate) fn run(world: &World, rules: &Rules, is_told: bool) -> Outcome {
    // The pauses of retries are drawn from the thread's own generator.
    fastrand::seed(world.seed);
    let log = Arc::new(Log::new(is_told));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without input and output needs nothing");
    let (figures, violation) = runtime.block_on(async {
        let mut run = Run::start(world, rules, &log);
        let violation = run.drive().await.err();
        (run.conclude(), violation)
    });
    if let Some(violation) = &violation {
        log.note(violation.what.as_str());
    }
    Outcome { figures, violation, fingerprint: log.fingerprint() }
}

struct Run<'a> {
    world: Arc<World>,
    rules: &'a Rules,
    clock: SimClock,
    process: Arc<Process>,
    store: Arc<Store>,
    /// The store as the process sees it.
    backend: Arc<dyn HistoryBackend>,
    folder: Option<TempDir>,
    series: Vec<Series>,
    log: Arc<Log>,
    figures: Figures,
    /// When each life ended.
    lives: Vec<Timestamp>,
}

/// One series of a run.
struct Series {
    exchange: Arc<Exchange>,
    host: String,
    source: SourceId,
    /// What was counted when it was last looked at, and when that was.
    seen: Seen,
    steady: Steady,
}

#[derive(Clone, Copy)]
struct Seen {
    at: Timestamp,
    asked: exchange::Counts,
    stored: store::Counts,
    /// The time that the requests of all series have taken.
    took: Duration,
}

/// Requests and closes of a series that was followed without faults.
#[derive(Clone, Copy, Default)]
struct Steady {
    requests: u64,
    closes: u64,
}

/// What a loop tells of a series.
pub(crate) struct Told {
    pub(crate) series: usize,
    pub(crate) filled: Option<Result<BackfillReport>>,
    pub(crate) revised: usize,
}

impl<'a> Run<'a> {
    fn start(world: &World, rules: &'a Rules, log: &Arc<Log>) -> Self {
        static HOSTS: AtomicU64 = AtomicU64::new(0);
        let world = Arc::new(world.clone());
        let process = Arc::new(Process::new(world.calm));
        let clock = SimClock::new(Arc::clone(&world), Arc::clone(&process));
        let folder = world.is_over_parquet().then(|| TempDir::new().expect("a temporary folder"));
        let store = Store::new(&world, opened(folder.as_ref()), clock.clone(), &process, log);
        let series = (0..world.markets.len()).map(|market| {
            let exchange = Exchange::new((&world, market), clock.clone(), &process, log);
            let host = format!("sim-{}.invalid", HOSTS.fetch_add(1, Ordering::Relaxed));
            let name = match exchange.market().kind {
                Kind::Binance => "binance",
                Kind::Coinbase => "coinbase",
            };
            let source = SourceId::new(format!("{name}:{host}")).expect("it has a name");
            let seen = Seen {
                at: begin(),
                asked: exchange::Counts::default(),
                stored: store::Counts::default(),
                took: Duration::ZERO,
            };
            Series { exchange, host, source, seen, steady: Steady::default() }
        });
        Self {
            series: series.collect(),
            backend: (rules.backend)(Arc::clone(&store) as Arc<dyn HistoryBackend>),
            world,
            rules,
            clock,
            process,
            store,
            folder,
            log: Arc::clone(log),
            figures: Figures::default(),
            lives: Vec::new(),
        }
    }

    /// Lets process after process live until the end of the world, and judges what is left.
    async fn drive(&mut self) -> Result<(), Violation> {
        let others = self.spawn_other_writer();
        let mut rng = Rng::with_seed(self.world.seed ^ 0xd01e);
        while self.clock.truth() < self.world.end {
            let life = self.lives.len();
            let crash = self.world.crashes.get(life).copied();
            self.process.start(crash);
            let off = self.world.off.filter(|off| self.clock.truth() < off.start());
            let stop = off.map_or(self.world.end, TimeRange::start);
            let (process, clock) = (Arc::clone(&self.process), self.clock.clone());
            self.tell(|| format!("life {life} begins, to end after {crash:?} calls"));
            for at in 0..self.series.len() {
                self.look(at);
            }
            let crashed = tokio::select! {
                biased;
                () = process.ended() => true,
                () = clock.until(stop) => false,
                done = self.live() => {
                    done?;
                    false
                }
            };
            self.tell(|| format!("life {life} ends, crashed {crashed}"));
            if process.turns_in_a_circle() {
                return Err(self.broken(Invariant::NeverSilent, "the process turns in a circle".to_owned()));
            }
            for at in 0..self.series.len() {
                self.check_silence(at)?;
                self.check_rows(at)?;
                self.check_proofs(at)?;
            }
            self.lives.push(self.clock.truth());
            let pause = match off {
                _ if crashed => {
                    self.log.met(Fault::Crash);
                    Duration::from_millis(rng.u64(0..240_000))
                }
                Some(off) => off.end().since(off.start()),
                None => Duration::ZERO,
            };
            self.clock.pass(pause).await;
            self.store.reopen(self.reopened(), life + 1);
        }
        others.abort();
        for at in 0..self.series.len() {
            self.check_end(at)?;
        }
        Ok(())
    }

    /// What was written stays; a store of files is opened anew.
    fn reopened(&self) -> Arc<dyn HistoryBackend> {
        if self.folder.is_some() { opened(self.folder.as_ref()) } else { self.store.inner() }
    }

    /// A process of its own that stores closed bars in their final version.
    fn spawn_other_writer(&self) -> tokio::task::JoinHandle<()> {
        let mut bars = Vec::new();
        for trouble in self.world.troubles.iter().filter(|trouble| trouble.fault == Fault::OtherWriter) {
            for series in &self.series {
                let market = series.exchange.market();
                for bar in market.bars(trouble.during) {
                    let (_, last) = market.published(bar);
                    bars.push((moved(last, 1_000_000), Arc::clone(&series.exchange), bar));
                }
            }
        }
        bars.sort_by_key(|(at, _, bar)| (*at, *bar));
        let (clock, store) = (self.clock.clone(), Arc::clone(&self.store));
        tokio::spawn(async move {
            for (at, exchange, bar) in bars {
                clock.until(at).await;
                store.record(exchange.market(), bar);
            }
        })
    }

    fn strategy(&self, series: &Series) -> Arc<dyn DataFetcher> {
        let transport = (self.rules.transport)(Arc::clone(&series.exchange) as Arc<dyn Transport>);
        let config = match series.exchange.market().kind {
            Kind::Binance => ExchangeConfig::binance(),
            Kind::Coinbase => ExchangeConfig::coinbase(),
        };
        let config = config
            .with_base_url(format!("http://{}", series.host))
            .with_transport(transport)
            .with_clock(Arc::new(self.clock.clone()))
            .with_retries(self.world.retries);
        let fetcher: Arc<dyn DataFetcher> = match series.exchange.market().kind {
            Kind::Binance => Arc::new(BinanceFetcher::new(config).expect("the settings are right")),
            Kind::Coinbase => Arc::new(CoinbaseFetcher::new(config).expect("the settings are right")),
        };
        (self.rules.fetcher)(fetcher)
    }

    /// A life: fills, then follows; ends with a broken invariant only.
    async fn live(&mut self) -> Result<(), Violation> {
        let clock: Arc<dyn Clock> = Arc::new(self.clock.clone());
        let backend = Arc::clone(&self.backend);
        let strategies: Vec<_> = self
            .series
            .iter()
            .map(|series| {
                let mut config = BackfillConfig::default();
                config.window_bars = self.world.window_bars;
                FetcherBackfillStrategy::new(self.strategy(series))
                    .with_clock(Arc::clone(&clock))
                    .with_config(config)
            })
            .collect();
        let mut followed = Followed::new(self.rules, &clock);
        for (series, strategy) in self.series.iter().zip(&strategies) {
            followed.follow(series.exchange.market(), strategy.clone());
        }
        for (at, strategy) in strategies.iter().enumerate() {
            let (key, start) = {
                let market = self.series[at].exchange.market();
                (market.key.clone(), market.start)
            };
            let closed = key.interval.floor(clock.now()).and_then(|end| TimeRange::checked(start, end));
            let Some(wanted) = closed else { continue };
            self.tell(|| format!("fill {key} {wanted}"));
            let filled =
                strategy.ensure_range(&BackfillRequest::new(key, wanted), &*backend, &NoProgress).await;
            self.judge(&Told { series: at, filled: Some(filled.clone()), revised: 0 })?;
            if let Ok(report) = filled {
                followed.take_in(&report, &*backend).await;
            }
        }
        loop {
            for told in followed.next(&*backend).await {
                self.judge(&told)?;
            }
        }
    }

    /// Checks what a round or a fill of a series has told, and what it has left.
    fn judge(&mut self, told: &Told) -> Result<(), Violation> {
        let at = told.series;
        let series = &self.series[at];
        let market = series.exchange.market();
        let (asked, stored) = (series.exchange.counts(), self.store.counts(&market.key));
        let before = series.seen;
        let answers = self.store.take_told(&market.key);
        let requests = asked.requests - before.asked.requests;
        let failures = stored.failures - before.stored.failures;
        self.tell(|| match &told.filled {
            Some(Ok(report)) => format!(
                "round {} {}: {} rows, empty {:?}, missing {:?}, too young {:?}, failed {:?}; {requests} requests, \
                 {} revised",
                market.key, report.wanted, report.rows_written, report.known_empty, report.missing,
                report.too_young, report.failed, told.revised
            ),
            Some(Err(error)) => format!("round {}: {}; {requests} requests", market.key, error.chain()),
            None => format!("round {}: {} revised; {requests} requests", market.key, told.revised),
        });
        self.figures.rounds += 1;
        self.figures.revised += told.revised as u64;
        let mut planned = 0;
        if let Some(Ok(report)) = &told.filled {
            let unknown = stored.unknown - before.stored.unknown;
            // A report of what a store did not say is made of what was written.
            let heard = if unknown > 0 { &[][..] } else { &answers };
            let counted = invariants::counts_add_up(report, &series.source, heard).and_then(|()| {
                let rows = (stored.own - before.stored.own, stored.others - before.stored.others);
                invariants::rows_add_up(report.rows_written, rows, (failures, unknown))
            });
            self.found(Invariant::CountsAddUp, counted)?;
            // A fill looks at the bars before its range too.
            let first = answers.iter().find(|(range, ..)| range.contains_range(report.wanted));
            if let Some((_, coverage, now)) = first {
                let limits = qmtl_history_api::FetchLimits::none().with_max_rows(match market.kind {
                    Kind::Binance => 1_000,
                    Kind::Coinbase => 300,
                });
                let planner = Planner::new(market.interval(), vec![series.source.clone()], limits);
                let planner = self
                    .world
                    .window_bars
                    .iter()
                    .fold(planner, |planner, bars| planner.with_window_bars(*bars));
                let (wanted, known) = (report.wanted, coverage.within(report.wanted));
                planned = planner.plan(wanted, &known, *now).map_or(0, |plan| plan.request_count());
            }
        }
        let is_calm = asked.faulty == before.asked.faulty
            && failures == 0
            && told.filled.as_ref().is_none_or(|filled| filled.is_ok());
        if is_calm {
            let most = invariants::most_requests(market.kind, planned);
            let enough = if requests > most {
                Err(format!("{requests} requests, {planned} were planned and {most} are the most"))
            } else {
                Ok(())
            };
            self.found(Invariant::RequestsBounded, enough)?;
            if planned > 0 {
                self.figures.most_by_planned = self.figures.most_by_planned.max(requests.div_ceil(planned));
            }
        }
        self.count_steady(at, requests, is_calm && planned <= 3)?;
        self.check_silence(at)?;
        self.check_proofs(at)?;
        let key = self.series[at].exchange.market().key.clone();
        self.store.round_ends(&key, stored.unknown > before.stored.unknown);
        self.look(at);
        Ok(())
    }

    /// Keeps in mind what has been counted of a series by now.
    fn look(&mut self, at: usize) {
        let exchange = &self.series[at].exchange;
        // What the store told a round that was never judged, because its process died, is nothing to the next.
        drop(self.store.take_told(&exchange.market().key));
        let stored = self.store.counts(&exchange.market().key);
        let seen = Seen { at: self.clock.truth(), asked: exchange.counts(), stored, took: self.took() };
        self.series[at].seen = seen;
    }

    /// Counts requests and closes where a series is followed and nothing is wrong, and nothing lacks before
    /// its first row, which would be asked for in every round.
    fn count_steady(&mut self, at: usize, requests: u64, is_calm: bool) -> Result<(), Violation> {
        let now = self.clock.truth();
        let series = &mut self.series[at];
        let market = series.exchange.market();
        let (since, interval) = (series.seen.at, market.interval());
        let steady_from = self.world.calm.checked_add(OVER_IT).unwrap_or(Timestamp::MAX);
        let is_calm = is_calm && market.has(market.start);
        let is_steady = is_calm && since >= steady_from && now.since(since) <= interval.duration() + PAUSE;
        if !is_steady {
            return Ok(());
        }
        let closes =
            TimeRange::checked(moved(since, 1), moved(now, 1)).map_or(0, |range| range.count(interval));
        series.steady.closes += closes;
        series.steady.requests += requests;
        let Steady { requests, closes } = series.steady;
        let most = invariants::MOST_PER_CLOSE * (closes + 1);
        let enough =
            if requests > most { Err(format!("{requests} requests in {closes} closes")) } else { Ok(()) };
        self.found(Invariant::RequestsBounded, enough)
    }

    /// The time that the requests of all series, and the store, have taken so far.
    fn took(&self) -> Duration {
        let asked: Duration = self.series.iter().map(|series| series.exchange.counts().took).sum();
        let stored =
            self.series.iter().map(|series| self.store.counts(&series.exchange.market().key).took).max();
        asked + stored.unwrap_or_default()
    }

    /// Nothing may have been told of a series for longer than its bars, a pause, and what requests took.
    fn check_silence(&mut self, at: usize) -> Result<(), Violation> {
        let series = &self.series[at];
        let market = series.exchange.market();
        let (since, now) = (series.seen.at, self.clock.truth());
        let Some(silent) = TimeRange::checked(since, now) else { return Ok(()) };
        let stood = self.world.standstills.iter().filter_map(|still| still.during.intersect(silent));
        let stood: Duration = stood.map(|stood| stood.end().since(stood.start())).sum();
        // Before the beginning of the series by our clock nothing is wanted.
        let mut cuts: Vec<_> =
            self.world.steps.iter().map(|(at, _)| *at).filter(|at| silent.contains(*at)).collect();
        cuts.insert(0, since);
        cuts.push(now);
        let first_close = market.close(market.start);
        let early: Duration = cuts
            .windows(2)
            .map(|cut| first_close.since(self.world.wall(cut[0])).min(cut[1].since(cut[0])))
            .sum();
        let busy = self.took().saturating_sub(series.seen.took);
        let most = market.interval().duration() + PAUSE + stood + early + busy;
        let heard = if now.since(since) > most {
            Err(format!(
                "nothing was heard of {} for {:?}, {most:?} are the most",
                market.key,
                now.since(since)
            ))
        } else {
            Ok(())
        };
        self.found(Invariant::NeverSilent, heard)
    }

    fn check_proofs(&mut self, at: usize) -> Result<(), Violation> {
        let series = &self.series[at];
        let market = series.exchange.market();
        let coverage = at_once(self.store.inner().coverage(&market.key, TimeRange::ALL));
        let coverage = coverage.map_err(|e| self.broken(Invariant::ProofsHold, e.chain()))?;
        let held = [self.clock.now(), self.clock.truth()].into_iter().try_for_each(|now| {
            invariants::proofs_hold(market, &coverage, &series.source, (now, self.rules.believed))
        });
        self.found(Invariant::ProofsHold, held)
    }

    fn rows(&self, at: usize) -> Result<qmtl_history_api::arrow_array::RecordBatch, Violation> {
        let key = self.series[at].exchange.market().key.clone();
        let rows = at_once(self.store.inner().read_all(&ReadRequest::new(key, TimeRange::ALL)));
        rows.map_err(|e| self.broken(Invariant::NothingLost, e.chain()))
    }

    fn check_rows(&mut self, at: usize) -> Result<(), Violation> {
        let rows = self.rows(at)?;
        let series = &self.series[at];
        let kept = self.store.kept(&series.exchange.market().key);
        self.found(Invariant::NothingInvented, invariants::nothing_invented(&series.exchange, &kept, &rows))
    }

    /// What must hold at the end of the world.
    fn check_end(&mut self, at: usize) -> Result<(), Violation> {
        self.check_rows(at)?;
        let rows = self.rows(at)?;
        let series = &self.series[at];
        let market = series.exchange.market();
        let kept = self.store.kept(&market.key);
        let settled = market.interval().duration() + LAG + PAUSE;
        let end =
            self.world.end.checked_sub(settled).and_then(|end| end.checked_sub(market.interval().duration()));
        let due = end.and_then(|end| TimeRange::checked(market.start, end));
        let (world, lives) = (&self.world, &self.lives);
        // Bars that were stored early are looked at again once they are settled, if their process lives.
        let may_be_first = |bar: Timestamp| {
            let Some((life, at)) = kept.stored.get(&bar) else { return false };
            if kept.untold.contains(bar) {
                return true;
            }
            let by = market.close(bar).max(world.calm).max(*at).checked_add(settled);
            by.is_none_or(|by| lives.get(*life).is_none_or(|ended| *ended < by))
        };
        let lost = due.map_or(Ok(()), |due| invariants::nothing_lost(market, due, &rows, may_be_first));
        let coverage = at_once(self.store.inner().coverage(&market.key, TimeRange::ALL));
        let empty = coverage.map(|coverage| coverage.empty_by_any(self.world.end).count(market.interval()));
        let (bars, empty) = (rows.num_rows() as u64, empty.unwrap_or_default());
        self.log.note((bars, empty));
        let micros =
            qmtl_history_api::frame::timestamps(&rows).map(|ts| ts.values().to_vec()).unwrap_or_default();
        let is_first = |at: usize, bar: Timestamp| {
            let (first, last) = market.published(bar);
            first != last && store::version_of(market, &rows, at, bar) == Some(Version::First)
        };
        let bars_of = micros.iter().filter_map(|micros| Timestamp::from_micros(*micros).ok());
        let first = bars_of.enumerate().filter(|(at, bar)| is_first(*at, *bar)).count();
        self.log.note(micros);
        self.log.note(rows.column_by_name("volume").map(|column| format!("{column:?}")));
        self.figures.exempt += first as u64;
        self.figures.bars += bars;
        self.figures.empty += empty;
        self.found(Invariant::NothingLost, lost)
    }

    fn found(&self, invariant: Invariant, finding: Finding) -> Result<(), Violation> {
        finding.map_err(|what| self.broken(invariant, what))
    }

    fn broken(&self, invariant: Invariant, what: String) -> Violation {
        let violation = Violation { invariant, at: self.clock.truth(), what };
        self.tell(|| format!("BROKEN {violation}"));
        violation
    }

    fn tell(&self, what: impl FnOnce() -> String) {
        self.log.event(self.clock.truth(), || {
            let off = self.clock.now().as_micros() - self.clock.truth().as_micros();
            format!("{} (clock {:+} s)", what(), off / 1_000_000)
        });
    }

    fn conclude(mut self) -> Figures {
        let passed = self.clock.truth().since(begin());
        for fault in [Fault::Step, Fault::Drift, Fault::Pause] {
            let has = match fault {
                Fault::Step => !self.world.steps.is_empty(),
                Fault::Drift => self.world.drift != 0,
                _ => self.world.standstills.iter().any(|still| still.during.start() < self.world.calm),
            };
            if has {
                self.log.met(fault);
            }
        }
        let markets = self.series.iter().map(|series| series.exchange.market());
        for market in markets {
            let bars = TimeRange::checked(market.start, self.world.calm)
                .into_iter()
                .flat_map(|range| market.bars(range));
            for bar in bars {
                let (first, last) = market.published(bar);
                if first.since(market.close(bar)) >= Duration::from_secs(3) {
                    self.log.met(Fault::Late);
                }
                if first != last {
                    self.log.met(Fault::Revised);
                }
            }
        }
        self.figures.runs = 1;
        self.figures.lives = self.lives.len() as u64;
        self.figures.passed = passed;
        for series in &self.series {
            let counts = series.exchange.counts();
            self.figures.requests += counts.requests;
            self.figures.rows += counts.rows;
            self.figures.steady(series.steady.requests, series.steady.closes);
        }
        let faults: BTreeMap<_, _> = self.log.faults();
        self.figures.faults = faults;
        self.figures
    }
}

/// The backend of a run.
fn opened(folder: Option<&TempDir>) -> Arc<dyn HistoryBackend> {
    match folder {
        Some(folder) => {
            let store = at_once(ParquetBackend::open(ParquetConfig::new(folder.path())));
            Arc::new(store.expect("a folder of our own can be opened"))
        }
        None => Arc::new(MemoryBackend::new()),
    }
}

/// How a life follows.
enum Followed {
    Real(Follower, Vec<qmtl_history_api::SeriesKey>),
    Naive(NaiveFollower),
}

impl Followed {
    fn new(rules: &Rules, clock: &Arc<dyn Clock>) -> Self {
        match &rules.follow {
            Some(config) => {
                Self::Real(Follower::new(config.clone()).with_clock(Arc::clone(clock)), Vec::new())
            }
            None => Self::Naive(NaiveFollower::new(Arc::clone(clock))),
        }
    }

    fn follow(&mut self, market: &crate::world::Market, strategy: FetcherBackfillStrategy) {
        match self {
            Self::Real(follower, keys) => {
                keys.push(market.key.clone());
                follower.follow(market.key.clone(), market.start, strategy);
            }
            Self::Naive(follower) => follower.follow(market.key.clone(), market.start, strategy),
        }
    }

    async fn take_in(&mut self, report: &BackfillReport, backend: &dyn HistoryBackend) {
        match self {
            Self::Real(follower, _) => follower.take_in(report, backend).await,
            Self::Naive(follower) => follower.take_in(report),
        }
    }

    async fn next(&mut self, backend: &dyn HistoryBackend) -> Vec<Told> {
        match self {
            Self::Real(follower, keys) => {
                let rounds = follower.next(backend).await;
                let told = rounds.into_iter().filter_map(|round| {
                    let series = keys.iter().position(|key| *key == round.key)?;
                    Some(Told { series, filled: round.filled, revised: round.revised.len() })
                });
                told.collect()
            }
            Self::Naive(follower) => follower.next(backend).await,
        }
    }
}
