//! One run: workers that come and go fill one store, and what is checked meanwhile and at the end.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use qmtl_backfill::lease::{
    BackfillCoordinator, Command, DistributedBackfillCoordinator, Keeper, LeaseConfig, LeaseKey, OnLoss,
    Query, Reply, State, Status,
};
use qmtl_backfill::{BackfillConfig, FetcherBackfillStrategy};
use qmtl_coordinator::{LeaseStore, Server};
use qmtl_history_api::arrow_array::{Float64Array, RecordBatch};
use qmtl_history_api::{
    AutoBackfillStrategy, BackfillRequest, Clock as _, DataFetcher, EmptyProof, HistoryBackend, NoProgress,
    RangeSet, Timestamp, WriteRequest, frame,
};
use qmtl_history_testkit::fixtures;
use qmtl_io_memory::MemoryBackend;
use tokio::task::AbortHandle;

use crate::bars::{Bars, Life, Shared, Source};
use crate::clock::{SimClock, Skew, Truth, after, begin, calm};
use crate::invariants::{Grants, Invariant, Violation};
use crate::leases::{Durable, Flaw};
use crate::linear::{self, Recorder};
use crate::net::Net;
use crate::world::{TTL, World};

/// Counts of what happened.
#[derive(Debug, Default)]
pub(crate) struct Figures(Mutex<BTreeMap<&'static str, u64>>);

impl Figures {
    pub(crate) fn add(&self, name: &'static str, count: u64) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(name).or_default() += count;
    }

    pub(crate) fn take(&self) -> BTreeMap<&'static str, u64> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The first thing that was found to be wrong.
#[derive(Debug, Default)]
pub(crate) struct Found(Mutex<Option<Violation>>);

impl Found {
    pub(crate) fn report(&self, invariant: Invariant, what: impl fmt::Display) {
        let mut found = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        found.get_or_insert_with(|| Violation { invariant, what: what.to_string() });
    }

    pub(crate) fn take(&self) -> Option<Violation> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Whoever begins to write a window holds its lease, by the store's clock.
    pub(crate) fn writes_are_leased(&self, shared: &Shared, name: &str, stands: &RangeSet) {
        for window in shared.world.windows() {
            if stands.within(window).is_empty() {
                continue;
            }
            let key = LeaseKey::new(shared.world.key.clone(), window)
                .expect("windows are whole seconds")
                .to_string();
            let holder = shared.leases.holder(&key);
            if holder.as_deref() != Some(name) {
                let now = shared.leases.now();
                self.report(
                    Invariant::WritesAreLeased,
                    format_args!("{now}: {name} writes {key}, which {holder:?} holds"),
                );
            }
        }
    }

    /// A write, however late it lands, changes no row that is there.
    pub(crate) fn nothing_changed(&self, before: &RecordBatch, after: &RecordBatch) {
        let after = values(after);
        if let Some((ts, _)) = values(before).into_iter().find(|(ts, row)| after.get(ts) != Some(row)) {
            self.report(Invariant::NothingChanges, format_args!("the row of {ts:?} was changed"));
        }
    }
}

/// The bits of every row, by time.
fn values(rows: &RecordBatch) -> BTreeMap<Option<Timestamp>, Vec<u64>> {
    let times = frame::timestamps(rows).map(|times| times.values().to_vec()).unwrap_or_default();
    let columns: Vec<_> =
        rows.columns().iter().filter_map(|column| column.as_any().downcast_ref::<Float64Array>()).collect();
    let row = |at: usize| columns.iter().map(|column| column.value(at).to_bits()).collect();
    times.iter().enumerate().map(|(at, ts)| (Timestamp::from_micros(*ts).ok(), row(at))).collect()
}

/// Puts something in the place of something.
pub(crate) type Wrap<T> = Box<dyn Fn(Arc<T>) -> Arc<T> + Send + Sync>;

/// How the system under test works; [`Rules::default`] is as it should.
pub(crate) struct Rules {
    pub(crate) flaw: Flaw,
    /// What stands between a worker and its client of the coordinator.
    pub(crate) coordinator: Wrap<dyn BackfillCoordinator>,
    /// What stands between a worker and the source.
    pub(crate) fetcher: Wrap<dyn DataFetcher>,
    /// What stands between a worker and the store.
    pub(crate) backend: Wrap<dyn HistoryBackend>,
    /// By how many parts of a million the clocks of workers run too fast besides.
    pub(crate) ppm: i64,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            flaw: Flaw::None,
            coordinator: Box::new(|coordinator| coordinator),
            fetcher: Box::new(|fetcher| fetcher),
            backend: Box::new(|backend| backend),
            ppm: 0,
        }
    }
}

/// What came of a run.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) figures: BTreeMap<&'static str, u64>,
    pub(crate) violation: Option<Violation>,
}

/// How long the work may take once faults have ended.
const PATIENCE: f64 = 3_000.0;

/// Runs a world.
pub(crate) fn run(world: &World, rules: &Rules) -> Outcome {
    // Pauses of retries and names of grants are drawn from the thread's own generator.
    fastrand::seed(world.seed);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without input and output needs nothing");
    runtime.block_on(async {
        let run = Run::start(world, rules).await;
        run.drive().await;
        Outcome { violation: run.shared.found.take(), figures: run.figures.take() }
    })
}

struct Run<'a> {
    world: Arc<World>,
    rules: &'a Rules,
    truth: Truth,
    leases: Arc<Durable>,
    shared: Arc<Shared>,
    figures: Arc<Figures>,
    recorder: Recorder,
}

impl<'a> Run<'a> {
    async fn start(world: &World, rules: &'a Rules) -> Self {
        let (world, truth) = (Arc::new(world.clone()), Truth::start());
        let figures = Arc::new(Figures::default());
        let leases = Arc::new(Durable::new(SimClock { truth, skew: Skew::default() }, rules.flaw));
        let store = MemoryBackend::new();
        // Most bars are known not to exist, so that a window is not much work.
        let mut wanted = RangeSet::new();
        for window in world.windows() {
            wanted.extend(RangeSet::from_sorted_points(world.wanted(window), world.key.interval));
        }
        let empty = RangeSet::from(world.range).difference(&wanted);
        let mut request = WriteRequest::new(world.key.clone());
        // Of a time that is past by every worker's clock.
        let answered = begin().checked_sub(Duration::from_secs(30 * 86_400)).expect("a month earlier");
        request.empty.push(EmptyProof::new(fixtures::source("sim"), empty, "sim", answered));
        let nothing = fixtures::sparse_bars(&world.key, &RangeSet::new());
        store.write_rows(&request, nothing).await.expect("a store in memory takes proofs");
        let shared = Arc::new(Shared {
            world: Arc::clone(&world),
            store,
            leases: Arc::clone(&leases),
            figures: Arc::clone(&figures),
            asked: Mutex::default(),
            found: Found::default(),
        });
        let recorder = Recorder::new(truth);
        Self { world, rules, truth, leases, shared, figures, recorder }
    }

    /// The server restarts at the end of each outage, with another wall clock.
    fn restarts(&self) {
        for (number, outage) in self.world.outages.iter().enumerate() {
            let (leases, truth, end) = (Arc::clone(&self.leases), self.truth, outage.end());
            let wall = -self.world.set_back * i64::try_from(number + 1).unwrap_or(1);
            let figures = Arc::clone(&self.figures);
            tokio::spawn(async move {
                truth.until(end).await;
                leases.restart(SimClock { truth, skew: Skew { wall, ..Skew::default() } });
                figures.add("restarts of the server", 1);
            });
        }
    }

    async fn drive(&self) {
        self.restarts();
        let lives = (0..self.world.workers.len()).map(|worker| self.worker(worker));
        let all = futures::future::join_all(lives);
        let end = self.truth.until(after(crate::world::CALM + PATIENCE));
        tokio::select! {
            _ = all => {}
            () = end => self.shared.found.report(Invariant::Ends, "workers still work long after faults have ended"),
        }
        // What was on its way lands, and leases that nobody knows of run out.
        self.truth.until(after(crate::world::CALM)).await;
        self.truth.pass(Duration::from_secs(120)).await;
        self.conclude().await;
    }

    /// The lives of one worker, until it has nothing to do any more.
    async fn worker(&self, number: usize) {
        let plan = &self.world.workers[number];
        let mut crashes = plan.crashes.clone();
        crashes.sort();
        let mut crashes = crashes.into_iter();
        for life in 0.. {
            let name = format!("w{number}.{life}");
            let crash = crashes.next().filter(|crash| *crash > self.truth.now());
            let work = self.life(number, name, life);
            let Some(crash) = crash else { return work.await };
            tokio::select! {
                () = work => return,
                () = self.truth.until(crash) => {}
            }
            self.figures.add("crashes", 1);
            self.truth.pass(Duration::from_secs(3)).await;
        }
    }

    /// One life of a worker.
    async fn life(&self, number: usize, name: String, life: u64) {
        let plan = &self.world.workers[number];
        let skew = Skew { ppm: plan.skew.ppm + self.rules.ppm, ..plan.skew.clone() };
        let clock = SimClock { truth: self.truth, skew };
        let seed = self.world.seed.wrapping_mul(1_000).wrapping_add(number as u64 * 50 + life);
        let rng = Arc::new(Mutex::new(Rng::with_seed(seed)));
        let router = Server::new(Arc::clone(&self.leases) as Arc<dyn LeaseStore>).router();
        let net = Net {
            world: Arc::clone(&self.world),
            worker: number,
            clock: clock.clone(),
            router,
            rng: Arc::clone(&rng),
            figures: Arc::clone(&self.figures),
        };
        let client = DistributedBackfillCoordinator::new("http://sim:7470").expect("an address");
        let client = client.with_transport(net).with_clock(clock.clone());
        let client = (self.rules.coordinator)(Arc::new(self.recorder.of(client)));
        let on_loss = if plan.goes_alone { OnLoss::Alone } else { OnLoss::Stop };
        let config = LeaseConfig::new(name.clone())
            .with_look_every(Duration::from_secs(5))
            .with_ttl(TTL)
            .with_on_loss(on_loss, Duration::from_secs(20));
        let (keeper, keeping) = Keeper::with_clock(client, config, clock.clone());
        let _keeping = Ends(tokio::spawn(keeping).abort_handle());
        let life = Life {
            shared: Arc::clone(&self.shared),
            name,
            clock: clock.clone(),
            rng,
            is_leased: !plan.goes_alone,
        };
        let fetcher = (self.rules.fetcher)(Arc::new(Source(life.clone())));
        let backend = (self.rules.backend)(Arc::new(Bars(life)));
        let strategy = FetcherBackfillStrategy::new(fetcher)
            .with_clock(clock.clone())
            .with_config(BackfillConfig::default().with_windows_in_flight(plan.at_once))
            .with_leases(keeper);
        let request = BackfillRequest::new(self.world.key.clone(), self.world.range);
        loop {
            let report = strategy.ensure_range(&request, &*backend, &NoProgress).await;
            self.figures.add("fills", 1);
            let is_done = report.as_ref().is_ok_and(|report| report.missing.is_empty());
            // A window that is dead is nobody's any more.
            let is_vain = report
                .is_ok_and(|report| report.failed.iter().any(|(_, e)| e.to_string().contains("recover")));
            if is_done || (is_vain && self.truth.now() > calm()) {
                return;
            }
            clock.sleep(Duration::from_secs(11)).await;
        }
    }

    async fn conclude(&self) {
        let found = &self.shared.found;
        let mut grants = Grants::default();
        for (now, event) in self.leases.take_events() {
            if let Some(Violation { invariant, what }) = grants.take(now, &event) {
                found.report(invariant, what);
            }
        }
        // A share of 1 was told only where everything was settled; nothing is ever removed.
        for key in grants.whole() {
            let Ok(key) = key.parse::<LeaseKey>() else { continue };
            let missing = self.shared.missing(key.range()).await;
            if !missing.is_empty() {
                found.report(
                    Invariant::WholeIsWhole,
                    format_args!("{key} was called done, and lacks {missing}"),
                );
            }
        }
        {
            let asked = self.shared.asked.lock().unwrap_or_else(PoisonError::into_inner);
            for ((name, bar), count) in asked.iter() {
                let Some(window) = self.world.windows().into_iter().find(|window| window.contains(*bar))
                else {
                    continue;
                };
                let key = LeaseKey::new(self.world.key.clone(), window).expect("whole seconds").to_string();
                let worker =
                    name.trim_start_matches('w').split('.').next().and_then(|number| number.parse().ok());
                let is_alone = worker.is_some_and(|number: usize| self.world.workers[number].goes_alone);
                let granted = grants.of(&key, name);
                if !is_alone && *count > granted {
                    let what =
                        format!("{name} asked {count} times for {bar}, with {granted} grants of {key}");
                    found.report(Invariant::OnceAGrant, what);
                }
            }
        }
        if let Err(what) = linear::check(&self.recorder.history(), self.world.doubled > 0.0) {
            found.report(Invariant::Linear, what);
        }
        self.keys_end(found).await;
        self.figures.add("grants", grants.count());
        self.figures.add("virtual seconds", self.truth.now().since(begin()).as_secs());
    }

    /// Every key ends free, partial or dead, a lease that has expired is free; what an operator revives is filled, and
    /// then everything is there.
    async fn keys_end(&self, found: &Found) {
        let page = self.leases.inspect(&Query::new("")).await.expect("a map answers");
        for listed in &page.leases {
            match listed.lease.state(page.now) {
                State::Held => {
                    found.report(Invariant::Ends, format_args!("{} is held at the end", listed.key))
                }
                State::Dead => {
                    self.figures.add("dead windows", 1);
                    let recover = Command::Recover { token: None, is_done: false, reason: "sim".into() };
                    let reply = self.leases.apply(&listed.key, recover).await.expect("a map answers");
                    assert!(matches!(reply, Reply::Ended { status: Status::Released, .. }), "{reply:?}");
                }
                _ => {}
            }
        }
        let plan = self.world.workers.len() - 1;
        let last = self.life(plan, format!("w{plan}.last"), 40);
        if tokio::time::timeout(Duration::from_secs(2_000), last).await.is_err() {
            return found.report(Invariant::Ends, "a worker alone does not end");
        }
        let missing = self.shared.missing(self.world.range).await;
        if !missing.is_empty() {
            found.report(Invariant::NothingLost, format_args!("{missing} is missing at the end"));
        }
    }
}

/// Ends a task with the life that it belongs to.
struct Ends(AbortHandle);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.abort();
    }
}
