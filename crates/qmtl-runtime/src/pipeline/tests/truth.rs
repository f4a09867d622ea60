//! Replay and live against a naive model: what each node sees at each moment, told row by row.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::collection::vec;
use proptest::strategy::{Just, Strategy};
use proptest::test_runner::{TestCaseError, TestRunner};
use proptest::{arbitrary::any, prop_oneof};
use qmtl_history_api::Clock;

use super::{
    Activation, Alignment, Arc, ArrayRef, ComputeNode, Config, Delivered, Duration, Error,
    EventRecorderService, Float64Array, Interval, LateBar, ManualClock, Mode, Mutex, Order, Parallelism,
    Pipeline, RangeSet, RecordBatch, Result, SeriesKey, Snapshot, Source, StreamInput, Taken, TimeRange,
    Timestamp, VALUE, Windows, batch, common_grid, id, prop_assert, prop_assert_eq, start,
};
use crate::StatefulNode;

/// Grids of which some close together and some never do.
const GRIDS: [&str; 6] = ["1m", "2m", "2m+1m", "3m", "5m", "5m+2m"];
const MINUTES: u8 = 40;

fn minute(index: u8) -> Timestamp {
    start().checked_add(Duration::from_secs(60 * u64::from(index))).unwrap()
}

/// What a node computes.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Mean,
    Batch,
    /// It remembers all that it has seen, in its order.
    Stateful,
}

#[derive(Clone, Debug)]
struct NodeCase {
    /// Inputs and earlier nodes, by number.
    reads: Vec<usize>,
    window: usize,
    kind: Kind,
}

/// What becomes of one bar of the grid.
#[derive(Clone, Copy, Debug)]
enum BarCase {
    /// It comes so many seconds after its close, and a second time if that is wished.
    Comes {
        delay: u64,
        again: bool,
    },
    Absent {
        proven: bool,
    },
}

#[derive(Clone, Debug)]
struct Case {
    grids: Vec<usize>,
    /// For every input its bars, the first ones of as many as there may be.
    bars: Vec<Vec<BarCase>>,
    nodes: Vec<NodeCase>,
    /// Bars that close by this minute are history.
    history: u8,
    /// After the moments up to this minute the state is saved, and taken over by another process.
    saved: u8,
    grace: u64,
    holes_allowed: bool,
}

fn bar_case() -> impl Strategy<Value = BarCase> {
    prop_oneof![
        8 => (prop_oneof![3 => 0u64..5, 1 => 0u64..200], proptest::bool::weighted(0.1))
            .prop_map(|(delay, again)| BarCase::Comes { delay, again }),
        1 => any::<bool>().prop_map(|proven| BarCase::Absent { proven }),
    ]
}

fn case() -> impl Strategy<Value = Case> {
    let inputs = (1usize..=3).prop_flat_map(|inputs| {
        (vec(0..GRIDS.len(), inputs), vec(vec(bar_case(), usize::from(MINUTES)), inputs))
    });
    let node = (vec(any::<usize>(), 1..=3), 1usize..=3, 0usize..3);
    let limits = (0..MINUTES, 1..MINUTES, prop_oneof![Just(0u64), Just(10), Just(100)], any::<bool>());
    (inputs, vec(node, 1..=5), limits).prop_map(
        |((grids, bars), nodes, (history, saved, grace, holes_allowed))| {
            let inputs = grids.len();
            let nodes = nodes.into_iter().enumerate().map(|(at, (reads, window, kind))| {
                let reads: BTreeSet<usize> = reads.into_iter().map(|read| read % (inputs + at)).collect();
                let kind = [Kind::Mean, Kind::Batch, Kind::Stateful][kind];
                NodeCase { reads: reads.into_iter().collect(), window, kind }
            });
            Case { grids, bars, nodes: nodes.collect(), history, saved, grace, holes_allowed }
        },
    )
}

/// The value of a bar, which no other one has.
fn value_of(input: usize, ts: Timestamp) -> f64 {
    let value = (ts.as_secs() % 100_000) as f64 + 0.1 * (input + 1) as f64;
    if ts.as_secs() % 180 == 0 { -value } else { value }
}

/// A node of two outputs that remembers: what it computes, and what it remembered before.
#[derive(Debug)]
struct Remembers {
    reads: usize,
    memory: f64,
}

impl StatefulNode for Remembers {
    fn outputs(&self) -> &[&'static str] {
        &[VALUE, "before"]
    }

    fn version(&self) -> String {
        "remembers/1".into()
    }

    fn update(&mut self, windows: &Windows<'_>, out: &mut [f64]) -> Result<()> {
        let seen: Vec<_> = (0..self.reads).map(|read| windows.f64(read)).collect();
        out[1] = self.memory;
        out[0] = computed(Kind::Stateful, &seen, &mut self.memory);
        Ok(())
    }

    fn has_result(&self) -> bool {
        !is_silent(self.memory)
    }

    fn reset(&mut self) {
        self.memory = 0.0;
    }

    fn save(&self) -> Result<Vec<u8>> {
        Ok(self.memory.to_bits().to_le_bytes().to_vec())
    }

    fn restore(&mut self, state: &[u8]) -> Result<()> {
        let bits = state.try_into().map_err(|_| Error::invalid("no eight bytes"))?;
        self.memory = f64::from_bits(u64::from_le_bytes(bits));
        Ok(())
    }
}

/// Whether a node that remembers has no result now.
fn is_silent(memory: f64) -> bool {
    memory.to_bits().count_ones().is_multiple_of(5)
}

/// The result of a node of what it reads, read by read.
fn computed(kind: Kind, windows: &[&[f64]], memory: &mut f64) -> f64 {
    let mean = windows.iter().flat_map(|window| window.iter()).sum::<f64>();
    match kind {
        Kind::Mean | Kind::Batch => mean,
        Kind::Stateful => {
            *memory = *memory * 0.5 + mean;
            *memory
        }
    }
}

/// What came of live bars.
struct Live {
    pipeline: Pipeline,
    /// What was recorded of live moments.
    recorded: Vec<(String, Timestamp, f64)>,
    /// The last moment of history.
    since: Timestamp,
    orders: Vec<(Timestamp, Order)>,
}

impl Case {
    fn interval(&self, input: usize) -> Interval {
        GRIDS[self.grids[input]].parse().unwrap()
    }

    fn key(&self, input: usize) -> SeriesKey {
        SeriesKey::new(format!("in{input}"), self.interval(input)).unwrap()
    }

    fn closes(&self, input: usize, ts: Timestamp) -> Timestamp {
        self.interval(input).next(ts).unwrap()
    }

    /// The bars of an input and what becomes of each.
    fn bars_of(&self, input: usize) -> impl Iterator<Item = (Timestamp, BarCase)> {
        let first = self.interval(input).ceil(start()).unwrap();
        let end = minute(MINUTES);
        let all = TimeRange::new(first, end).unwrap().points(self.interval(input)).collect::<Vec<_>>();
        all.into_iter().zip(self.bars[input].clone())
    }

    fn is_history(&self, input: usize, ts: Timestamp) -> bool {
        self.closes(input, ts) <= minute(self.history)
    }

    fn source(&self, read: usize) -> Source {
        match read.checked_sub(self.grids.len()) {
            None => Source::Input(self.key(read)),
            Some(node) => Source::Node(id(&format!("n{node}"))),
        }
    }

    fn pipeline(&self, clock: &ManualClock, recorder: Option<&Arc<EventRecorderService>>) -> Pipeline {
        let mut builder = crate::Strategy::builder();
        for input in 0..self.grids.len() {
            let key = self.key(input);
            let stream = StreamInput::builder(key.node_id.as_str()).interval(key.interval).period(3);
            let stream = stream.clock(clock.clone()).build().unwrap();
            let proven =
                self.bars_of(input).filter(|(_, bar)| matches!(bar, BarCase::Absent { proven: true }));
            let proven = RangeSet::from_sorted_points(proven.map(|(ts, _)| ts), key.interval);
            stream.cache().write(|cache| cache.note_known_empty(&proven));
            builder = builder.input(stream);
        }
        for (at, NodeCase { reads, window, kind }) in self.nodes.iter().enumerate() {
            let (kind, window, count) = (*kind, *window, reads.len());
            let node = match kind {
                Kind::Batch => ComputeNode::batch(id(&format!("n{at}")), window, move |windows, out| {
                    for (nth, out) in out.iter_mut().enumerate() {
                        let seen: Vec<_> =
                            (0..count).map(|read| &windows.f64(read)[nth..nth + window]).collect();
                        *out = computed(kind, &seen, &mut 0.0);
                    }
                }),
                Kind::Mean => ComputeNode::slices(id(&format!("n{at}")), window, move |windows| {
                    let seen: Vec<_> = (0..count).map(|read| windows.f64(read)).collect();
                    computed(kind, &seen, &mut 0.0)
                }),
                Kind::Stateful => {
                    let node = Remembers { reads: count, memory: 0.0 };
                    ComputeNode::stateful(id(&format!("n{at}")), window, node)
                }
            };
            let node = node.version("1").orders_to(|_| {});
            let node = reads.iter().fold(node.keeps(10_000), |node, read| match self.source(*read) {
                source @ Source::Input(_) => node.reads(source, "close"),
                source => node.reads(source, VALUE),
            });
            builder = builder.node(match recorder {
                Some(recorder) => node.recorded_by(Arc::clone(recorder)),
                None => node,
            });
        }
        let alignment = match self.grace {
            0 => Alignment::AsOf,
            grace => Alignment::Wait { grace: Duration::from_secs(grace) },
        };
        Pipeline::new(builder.build().unwrap())
            .with_holes_allowed(self.holes_allowed)
            .with_alignment(alignment)
            .with_activation(Activation::always(Mode::Paper, clock.clone()))
    }

    fn row(&self, input: usize, ts: Timestamp) -> RecordBatch {
        let value: ArrayRef = Arc::new(Float64Array::from(vec![value_of(input, ts)]));
        batch(&[ts], [("close", value)])
    }

    /// Every arrival of a live bar: when, whose, which.
    fn arrivals(&self) -> Vec<(Timestamp, usize, Timestamp)> {
        let mut arrivals = Vec::new();
        for input in 0..self.grids.len() {
            for (ts, bar) in self.bars_of(input).filter(|(ts, _)| !self.is_history(input, *ts)) {
                if let BarCase::Comes { delay, again } = bar {
                    let at = self.closes(input, ts).checked_add(Duration::from_secs(delay)).unwrap();
                    arrivals.push((at, input, ts));
                    if again {
                        arrivals.push((at.checked_add(Duration::from_secs(7)).unwrap(), input, ts));
                    }
                }
            }
        }
        arrivals.sort_unstable();
        arrivals
    }

    fn load(&self, pipeline: &Pipeline, rows: impl Iterator<Item = (usize, Timestamp)>) {
        for (input, ts) in rows {
            let merged =
                pipeline.inputs[input].cache().write(|cache| cache.merge(&self.row(input, ts), usize::MAX));
            merged.unwrap();
        }
    }

    fn history(&self) -> Vec<(usize, Timestamp)> {
        let of = |input| {
            let bars = self.bars_of(input).filter(|(_, bar)| matches!(bar, BarCase::Comes { .. }));
            bars.filter(move |(ts, _)| self.is_history(input, *ts))
                .map(move |(ts, _)| (input, ts))
                .collect::<Vec<_>>()
        };
        (0..self.grids.len()).flat_map(of).collect()
    }

    /// Feeds history and then the live bars as they come.
    fn live(&self) -> Live {
        let clock = ManualClock::new(start());
        let taken = Taken::default();
        let told: Arc<Mutex<Vec<(Timestamp, Order)>>> = Arc::default();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (pipeline, since) = runtime.block_on(async {
            let service = Arc::new(EventRecorderService::new(taken.clone()));
            let orders = Arc::clone(&told);
            let mut pipeline = self.pipeline(&clock, Some(&service)).with_on_moment(move |_, moment| {
                orders.lock().unwrap().extend(moment.orders.iter().map(|order| (moment.at, order.clone())));
                Ok(())
            });
            self.load(&pipeline, self.history().into_iter());
            let end = minute(self.history);
            pipeline.replay_settled(&vec![end; self.grids.len()]).unwrap();
            let since = pipeline.released;
            for (at, input, ts) in self.arrivals() {
                // Time passes as it would, and ends waits on its way.
                loop {
                    let left = at.since(clock.now());
                    let Some(due) = pipeline.due().filter(|due| *due <= clock.monotonic() + left) else {
                        break;
                    };
                    clock.advance(due.saturating_sub(clock.monotonic()));
                    pipeline.give_up().await.unwrap();
                }
                clock.advance(at.since(clock.now()));
                pipeline.feed(&self.key(input), ts, &self.row(input, ts)).await.unwrap();
            }
            pipeline.finish().await.unwrap();
            service.shutdown().await.unwrap();
            (pipeline, since)
        });
        let recorded = std::mem::take(&mut *taken.0.lock().unwrap());
        let orders = std::mem::take(&mut *told.lock().unwrap());
        Live { pipeline, recorded, since, orders }
    }

    /// Replays the same bars, given which of them came late, with the orders that come of moments after `since`. At
    /// `saved` another process takes over.
    fn replay(
        &self,
        late: &[LateBar],
        parallelism: Parallelism,
        since: Timestamp,
        saved: Option<Timestamp>,
    ) -> (Pipeline, Vec<(Timestamp, Order)>) {
        let fresh = || self.pipeline(&ManualClock::new(start()), None).with_parallelism(parallelism);
        let mut pipeline = fresh();
        let place = |bar: &LateBar| (pipeline.input(&bar.input).unwrap(), bar.ts);
        let held: Vec<_> = late.iter().map(|bar| (bar.after, place(bar))).collect();
        let is_held = |row: &(usize, Timestamp)| held.iter().any(|(_, other)| other == row);
        let live = self.arrivals().into_iter().map(|(_, input, ts)| (input, ts)).collect::<BTreeSet<_>>();
        let mut rows: BTreeSet<_> =
            self.history().into_iter().chain(live).filter(|row| !is_held(row)).collect();
        self.load(&pipeline, rows.iter().copied());
        let activation = Activation::always(Mode::Paper, ManualClock::new(start()));
        let mut orders = Vec::new();
        let mut hear = |delivered: &Delivered<'_>| {
            let mut more: Vec<_> = delivered
                .results_after(since)
                .flat_map(|rows| rows.orders(&activation).collect::<Vec<_>>())
                .collect();
            more.sort_by_key(|(moment, _)| *moment);
            orders.extend(more);
        };
        let mut steps: Vec<_> = held.into_iter().map(|(after, row)| (after, Some(row))).collect();
        if let Some(saved) = saved {
            steps.insert(steps.partition_point(|(after, _)| *after <= saved), (saved, None));
        }
        for (until, row) in steps {
            pipeline.deliver(&[], until, &mut hear).unwrap();
            if let Some(row) = row {
                rows.insert(row);
                self.load(&pipeline, std::iter::once(row));
            } else {
                let bytes = pipeline.snapshot().unwrap().to_bytes().unwrap();
                pipeline = fresh();
                self.load(&pipeline, rows.iter().copied());
                pipeline.restore(&Snapshot::from_bytes(&bytes).unwrap()).unwrap();
            }
        }
        pipeline.deliver(&[], Timestamp::MAX, &mut hear).unwrap();
        (pipeline, orders)
    }

    fn results(&self, pipeline: &Pipeline) -> Vec<(String, Vec<(Timestamp, u64)>)> {
        let of = |at: usize| {
            let node = format!("n{at}");
            let (ts, values) = pipeline.results(&id(&node)).unwrap();
            (node, ts.iter().copied().zip(values.iter().map(|value| value.to_bits())).collect())
        };
        (0..self.nodes.len()).map(of).collect()
    }
}

/// A way in which the model may be wrong, as a check of the check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mutation {
    None,
    /// A node runs at every bar of its inputs.
    FiresTwice,
    /// A bar is seen when it opens.
    ByOpening,
    /// Bars that came late are seen when they closed.
    IgnoresLate,
    /// Who takes over does not know what nodes remember.
    ForgetsState,
    /// A bar is missed only once there is a later one.
    IgnoresEnds,
}

/// What the nodes give, by definition: at each moment each of them looks at all rows that are there.
fn model(case: &Case, late: &[LateBar], mutation: Mutation) -> Vec<(String, Vec<(Timestamp, u64)>)> {
    let inputs = case.grids.len();
    // The rows of each input by the moment at which they are first seen; whether they make that moment.
    let mut seen_at: BTreeMap<Timestamp, Vec<(usize, Timestamp, bool)>> = BTreeMap::new();
    let mut rows: BTreeSet<(usize, Timestamp)> = case.history().into_iter().collect();
    rows.extend(case.arrivals().into_iter().map(|(_, input, ts)| (input, ts)));
    for (input, ts) in rows {
        let came_late = late.iter().find(|bar| bar.input == case.key(input) && bar.ts == ts);
        let closes = if mutation == Mutation::ByOpening { ts } else { case.closes(input, ts) };
        match came_late.filter(|_| mutation != Mutation::IgnoresLate) {
            None => seen_at.entry(closes).or_default().push((input, ts, true)),
            Some(bar) => {
                let just_after = bar.after.checked_add_micros(1).unwrap();
                seen_at.entry(just_after).or_default().push((input, ts, false));
            }
        }
    }
    let mut there: Vec<BTreeSet<Timestamp>> = vec![BTreeSet::new(); inputs];
    let mut results: Vec<Vec<(Timestamp, f64)>> = vec![Vec::new(); case.nodes.len()];
    let mut breaks: Vec<Vec<usize>> = vec![Vec::new(); case.nodes.len()];
    let mut memory = vec![0.0; case.nodes.len()];
    // Nodes whose newest result is not the one that it should be.
    let mut stale = vec![false; case.nodes.len()];
    let roots = |at: usize| roots_of(case, at);
    let mut is_saved = false;
    for (moment, rows) in seen_at {
        if mutation == Mutation::ForgetsState && moment > minute(case.saved) && !is_saved {
            is_saved = true;
            memory.fill(0.0);
        }
        let rounds: Vec<Vec<_>> = match mutation {
            Mutation::FiresTwice => rows.into_iter().map(|row| vec![row]).collect(),
            _ => vec![rows],
        };
        for rows in rounds {
            there.iter_mut().enumerate().for_each(|(input, there)| {
                there.extend(rows.iter().filter(|(of, ..)| *of == input).map(|(_, ts, _)| *ts));
            });
            let mut has_new: Vec<bool> =
                (0..inputs).map(|input| rows.iter().any(|(of, _, makes)| *of == input && *makes)).collect();
            for (at, node) in case.nodes.iter().enumerate() {
                let fires = node.reads.iter().any(|read| has_new[*read]);
                let mut windows: Vec<Vec<f64>> = Vec::new();
                let mut has_hole = false;
                for read in &node.reads {
                    match read.checked_sub(inputs) {
                        None => {
                            let newest: Vec<_> =
                                there[*read].iter().rev().take(node.window).copied().collect();
                            has_hole |= lacks(case, *read, &newest);
                            has_hole |= mutation != Mutation::IgnoresEnds
                                && case.grace > 0
                                && lacks_newest(case, *read, newest.first(), moment);
                            windows.push(newest.iter().rev().map(|ts| value_of(*read, *ts)).collect());
                        }
                        Some(other) => {
                            let all = &results[other];
                            let from = all.len().saturating_sub(node.window);
                            has_hole |= breaks[other].iter().any(|at| *at > from && *at < all.len());
                            has_hole |= stale[other];
                            windows.push(all[from..].iter().map(|(_, value)| *value).collect());
                        }
                    }
                }
                let is_warm = windows.iter().all(|window| window.len() == node.window);
                let is_silent = has_hole && !case.holes_allowed;
                if fires && is_warm && is_silent {
                    breaks[at].push(results[at].len());
                    stale[at] = true;
                }
                let mut gives = fires && is_warm && !is_silent;
                if gives {
                    let seen: Vec<&[f64]> = windows.iter().map(Vec::as_slice).collect();
                    let value = computed(node.kind, &seen, &mut memory[at]);
                    gives = !(matches!(node.kind, Kind::Stateful) && self::is_silent(value));
                    let grid = common_grid(roots(at).into_iter().map(|input| case.interval(input))).unwrap();
                    let ts = moment.checked_add_micros(-grid.as_micros()).unwrap();
                    if gives {
                        results[at].push((ts, value));
                        stale[at] = false;
                    }
                }
                has_new.push(gives);
            }
        }
    }
    let bits =
        |rows: Vec<(Timestamp, f64)>| rows.into_iter().map(|(ts, value)| (ts, value.to_bits())).collect();
    results.into_iter().enumerate().map(|(at, rows)| (format!("n{at}"), bits(rows))).collect()
}

/// The inputs that a node reads, directly or through others.
fn roots_of(case: &Case, node: usize) -> BTreeSet<usize> {
    let of = |read: &usize| match read.checked_sub(case.grids.len()) {
        None => BTreeSet::from([*read]),
        Some(other) => roots_of(case, other),
    };
    case.nodes[node].reads.iter().flat_map(of).collect()
}

/// Whether a bar between these is neither there nor proven to be absent.
fn lacks(case: &Case, input: usize, newest_first: &[Timestamp]) -> bool {
    let (Some(last), Some(first)) = (newest_first.first(), newest_first.last()) else { return false };
    let is_missing = |(ts, bar): (Timestamp, BarCase)| {
        ts > *first
            && ts < *last
            && !newest_first.contains(&ts)
            && !matches!(bar, BarCase::Absent { proven: true })
    };
    case.bars_of(input).any(is_missing)
}

/// Whether a bar behind the newest one, which would have closed by `moment`, is neither there nor proven to be absent.
fn lacks_newest(case: &Case, input: usize, newest: Option<&Timestamp>, moment: Timestamp) -> bool {
    let proven = case.bars_of(input).filter(|(_, bar)| matches!(bar, BarCase::Absent { proven: true }));
    let proven: BTreeSet<_> = proven.map(|(ts, _)| ts).collect();
    let next = |ts: &Timestamp| case.interval(input).next(*ts);
    let behind = std::iter::successors(newest.and_then(next), next);
    let mut closed = behind.take_while(|ts| case.closes(input, *ts) <= moment);
    closed.any(|ts| !proven.contains(&ts))
}

/// Compares live, replay and the model.
fn check(case: &Case, mutation: Mutation, figures: &Figures) -> Result<(), TestCaseError> {
    let Live { pipeline: live, recorded, since, orders } = case.live();
    let late = live.came_late().to_vec();
    let expected = model(case, &late, mutation);
    let of_live = case.results(&live);
    prop_assert_eq!(&of_live, &expected, "live");
    let saved = Some(minute(case.saved));
    for (parallelism, saved) in
        [(Parallelism::Serial, None), (Parallelism::Threads(2), None), (Parallelism::Serial, saved)]
    {
        let (replayed, of_replay) = case.replay(&late, parallelism, since, saved);
        prop_assert_eq!(&case.results(&replayed), &expected, "replay, saved at {:?}", saved);
        prop_assert_eq!(&of_replay, &orders, "orders, saved at {:?}", saved);
    }
    // Each result of a live moment was recorded once, and none of history.
    for (at, (node, results)) in of_live.iter().enumerate() {
        let recorded: Vec<_> = recorded
            .iter()
            .filter(|(of, ..)| of == node)
            .map(|(_, ts, value)| (*ts, value.to_bits()))
            .collect();
        let grid = live.interval(&id(&format!("n{at}"))).unwrap();
        let first = results.len() - recorded.len();
        prop_assert_eq!(&recorded[..], &results[first..]);
        let history = minute(case.history);
        prop_assert!(results[..first].iter().all(|(ts, _)| grid.next(*ts).unwrap() <= history));
    }
    let silenced =
        (0..case.nodes.len()).map(|at| live.silenced(&id(&format!("n{at}"))).unwrap()).sum::<u64>();
    figures.add([
        1,
        live.given_up().len(),
        late.len(),
        of_live.iter().map(|(_, rows)| rows.len()).sum(),
        recorded.len(),
        orders.len(),
        usize::try_from(silenced).unwrap(),
    ]);
    for given_up in live.given_up() {
        prop_assert!(given_up.told_up_to < given_up.moment, "{given_up:?}");
    }
    Ok(())
}

/// What a run of cases has met, for the page.
#[derive(Debug, Default)]
struct Figures([AtomicU64; 7]);

impl Figures {
    const NAMES: [&str; 7] = [
        "cases",
        "moments that were given up for an input",
        "bars that came late",
        "results",
        "results that were recorded",
        "orders",
        "moments at which a node was silent for a missing bar",
    ];

    fn add(&self, counts: [usize; 7]) {
        for (sum, count) in self.0.iter().zip(counts) {
            sum.fetch_add(count as u64, Ordering::Relaxed);
        }
    }
}

/// 2,000 cases; `cargo xtask soak -o replay` says how many more.
fn cases() -> u32 {
    std::env::var("QMTL_RUNTIME_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(2_000)
}

#[test]
fn replay_live_and_the_model_give_the_same() {
    let (mut runner, figures) = (TestRunner::new(Config::with_cases(cases())), Figures::default());
    runner.run(&case(), |case| check(&case, Mutation::None, &figures)).unwrap();
    for (name, count) in Figures::NAMES.iter().zip(&figures.0) {
        println!("figure: {name} = {}", count.load(Ordering::Relaxed));
    }
}

#[test]
fn a_model_that_is_wrong_is_found_out() {
    for mutation in [
        Mutation::FiresTwice,
        Mutation::ByOpening,
        Mutation::IgnoresLate,
        Mutation::ForgetsState,
        Mutation::IgnoresEnds,
    ] {
        let config = Config { failure_persistence: None, max_shrink_iters: 0, ..Config::with_cases(200) };
        let found = TestRunner::new(config).run(&case(), |case| check(&case, mutation, &Figures::default()));
        assert!(found.is_err(), "{mutation:?} looks right");
    }
}
