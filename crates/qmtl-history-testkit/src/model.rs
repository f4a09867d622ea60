//! Random sequences of writes against two models: a naive one, which knows every bar by itself,
//! and the memory backend, which is thereby held against the naive one too.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use qmtl_history_api::arrow_array::cast::AsArray;
use qmtl_history_api::arrow_array::types::Float64Type;
use qmtl_history_api::arrow_array::{Array, ArrayRef, Float64Array, RecordBatch};
use qmtl_history_api::{
    Coverage, EmptyProof, OnConflict, RangeSet, TimeRange, Timestamp, WriteReceipt, WriteRequest, frame,
};
use qmtl_io_memory::MemoryBackend;

use crate::Subject;
use crate::fixtures::{batch, source};
use crate::probe::Probe;

/// The bars of a case: so many, `stride` apart.
const SLOTS: u32 = 32;
const COLUMNS: [&str; 2] = ["a", "b"];
/// What seeds the sequences: a failure comes again with the next run.
const SEED: [u8; 32] = *b"the same sequences in every run!";

/// The two columns of a row, as bits.
type Row = [Option<u64>; 2];

/// One write, and the range at which the store is looked at after it.
#[derive(Clone, Debug)]
struct Step {
    /// Seconds since the step before.
    pause: u64,
    replace: bool,
    /// Indices into [`COLUMNS`], in the order of the batch; what is not here is null.
    columns: Vec<usize>,
    rows: BTreeMap<u32, Row>,
    proofs: Vec<Proof>,
    look: Look,
}

/// Who proved a range of slots empty, why, and by which rule.
#[derive(Clone, Debug)]
struct Proof {
    source: &'static str,
    reason: &'static str,
    rule: u32,
    /// Dated ten days ahead, by a clock that is wrong.
    is_ahead: bool,
    slots: std::ops::Range<u32>,
}

impl Proof {
    /// The date that it bears when it is given at `now`.
    fn answered_at(&self, now: Timestamp) -> Timestamp {
        let days = if self.is_ahead { 10 } else { 0 };
        now.checked_add(Duration::from_secs(days * 86_400)).expect("near 2024")
    }
}

/// A range of slots, its ends moved by some microseconds.
#[derive(Clone, Debug)]
struct Look {
    slots: std::ops::Range<u32>,
    shift: i64,
}

fn slots() -> impl Strategy<Value = std::ops::Range<u32>> {
    (0..SLOTS - 1, 1..SLOTS).prop_map(|(from, len)| from..(from + len).min(SLOTS))
}

fn step(nan: bool) -> impl Strategy<Value = Step> {
    let mut values = vec![None, Some(0.0_f64), Some(-0.0), Some(1.5), Some(1.0 / 3.0)];
    values.extend(nan.then_some(Some(f64::NAN)));
    let value = prop::sample::select(values).prop_map(|value| value.map(f64::to_bits));
    let row = [value.clone(), value];
    let columns = prop::sample::select(vec![vec![0, 1], vec![1, 0], vec![0], vec![1]]);
    let proof = (
        prop::sample::select(vec!["x", "y", "z#1", "z#2"]),
        prop::sample::select(vec!["no row", "closed"]),
        prop::sample::select(vec![1, EmptyProof::RULE, EmptyProof::RULE]),
        prop::bool::weighted(0.2),
        slots(),
    )
        .prop_map(|(source, reason, rule, is_ahead, slots)| Proof {
            source,
            reason,
            rule,
            is_ahead,
            slots,
        });
    let look = (slots(), -1..=1_i64).prop_map(|(slots, shift)| Look { slots, shift });
    (
        prop::sample::select(vec![60, 3_600, 7_200]),
        any::<bool>(),
        columns,
        prop::collection::btree_map(0..SLOTS, row, 0..8),
        prop::collection::vec(proof, 0..3),
        look,
    )
        .prop_map(|(pause, replace, columns, rows, proofs, look)| Step {
            pause,
            replace,
            columns,
            rows,
            proofs,
            look,
        })
}

/// What one source proved of one slot.
#[derive(Clone, Copy, Debug)]
struct Proven {
    source: &'static str,
    reason: &'static str,
    answered_at: Timestamp,
    rule: u32,
    confirmed: u32,
}

impl Proven {
    /// What counts once `newer` has been written too.
    fn followed_by(self, newer: Self) -> Self {
        let is_trusted = |proven: &Self| proven.rule >= EmptyProof::RULE || proven.source.contains('#');
        let lead = self.answered_at.as_secs() - newer.answered_at.as_secs();
        match (is_trusted(&self), is_trusted(&newer)) {
            (true, false) => self,
            (true, true) | (false, false) if (1..=300).contains(&lead) => self,
            (false, _) => newer,
            (true, true) if self.source != newer.source || lead > 300 => newer,
            (true, true) => {
                let believed = (0..self.confirmed).fold(3_600, |secs, _| (secs * 2).min(86_400));
                Self { confirmed: self.confirmed + u32::from(-lead >= believed), ..newer }
            }
        }
    }
}

/// The naive model: every slot by itself, every proof of every slot by itself.
#[derive(Debug, Default)]
struct Naive {
    rows: BTreeMap<u32, Row>,
    /// By slot and source, whatever its version.
    empty: BTreeMap<(u32, &'static str), Proven>,
}

impl Naive {
    fn write(&mut self, step: &Step, now: Timestamp) -> WriteReceipt {
        let mut receipt = WriteReceipt::default();
        for (slot, row) in &step.rows {
            let given = [0, 1].map(|column| row[column].filter(|_| step.columns.contains(&column)));
            match (self.rows.contains_key(slot), step.replace) {
                (true, false) => {
                    receipt.rows_kept_out += 1;
                    continue;
                }
                (true, true) => receipt.rows_replaced += 1,
                (false, _) => receipt.rows_written += 1,
            }
            self.rows.insert(*slot, given);
            self.empty.retain(|(empty, _), _| empty != slot);
        }
        for proof in &step.proofs {
            let Proof { source, reason, rule, .. } = *proof;
            let newer = Proven { source, reason, answered_at: proof.answered_at(now), rule, confirmed: 0 };
            let name = source.split('#').next().unwrap_or(source);
            for slot in proof.slots.clone().filter(|slot| !self.rows.contains_key(slot)) {
                self.empty
                    .entry((slot, name))
                    .and_modify(|proven| *proven = proven.followed_by(newer))
                    .or_insert(newer);
            }
        }
        receipt
    }
}

/// What can be seen of some slots.
#[derive(Debug, PartialEq)]
struct Facts {
    rows: BTreeMap<Timestamp, Row>,
    present: RangeSet,
    /// By point and source.
    empty: BTreeMap<(Timestamp, String), Told>,
}

/// What a proof says of a point.
#[derive(Debug, PartialEq)]
struct Told {
    reason: String,
    rule: u32,
    /// Of an answer that will expire: its time, and how often it was confirmed.
    fades: Option<(Timestamp, u32)>,
}

/// One case: a series of the store under test, the same one in memory, and the naive model.
struct Case {
    subject: Probe,
    memory: Probe,
    naive: Naive,
    stride: u32,
    now: Timestamp,
}

impl Case {
    fn at(&self, slot: u32) -> Timestamp {
        self.subject.bar(slot * self.stride)
    }

    fn range(&self, slots: &std::ops::Range<u32>, shift: i64) -> TimeRange {
        let moved = |slot| self.at(slot).checked_add_micros(shift).expect("near 2024");
        TimeRange::new(moved(slots.start), moved(slots.end)).expect("slots ascend")
    }

    fn batch(&self, step: &Step) -> RecordBatch {
        let points: Vec<_> = step.rows.keys().map(|slot| self.at(*slot)).collect();
        let column = |index: usize| -> ArrayRef {
            Arc::new(step.rows.values().map(|row| row[index].map(f64::from_bits)).collect::<Float64Array>())
        };
        batch(&points, step.columns.iter().map(|index| (COLUMNS[*index], column(*index))))
    }

    fn request(&self, step: &Step) -> WriteRequest {
        let policy = if step.replace { OnConflict::Replace } else { OnConflict::KeepExisting };
        step.proofs.iter().fold(self.subject.request(policy), |request, proof| {
            let (ranges, answered_at) = (self.range(&proof.slots, 0).into(), proof.answered_at(self.now));
            let given = EmptyProof::new(source(proof.source), ranges, proof.reason, answered_at);
            request.with_empty(given.with_rule(proof.rule))
        })
    }

    /// The naive model's view of a range.
    fn expected(&self, range: TimeRange) -> Facts {
        let inside = |slot: &u32| range.contains(self.at(*slot));
        let rows: BTreeMap<_, _> = self
            .naive
            .rows
            .iter()
            .filter(|(slot, _)| inside(slot))
            .map(|(slot, row)| (self.at(*slot), *row))
            .collect();
        let present = RangeSet::from_sorted_points(rows.keys().copied(), self.subject.key.interval);
        let empty = self.naive.empty.iter().filter(|((slot, _), _)| inside(slot));
        let empty = empty.map(|((slot, _), proven)| {
            let point = self.at(*slot);
            let settles = proven.answered_at.since(point) > EmptyProof::SETTLED_AFTER;
            let fades = (!settles).then_some((proven.answered_at, proven.confirmed));
            let told = Told { reason: proven.reason.to_owned(), rule: proven.rule, fades };
            ((point, proven.source.to_owned()), told)
        });
        Facts { rows, present, empty: empty.collect() }
    }

    /// A store's view of a range.
    async fn seen(&self, store: &Probe, range: TimeRange) -> (Facts, Coverage) {
        let coverage = store.coverage(range).await;
        let mut empty = BTreeMap::new();
        for slot in (0..SLOTS).map(|slot| self.at(slot)).filter(|ts| range.contains(*ts)) {
            for proof in coverage.known_empty().iter().filter(|proof| proof.ranges.contains(slot)) {
                let fades = proof.expires_at(slot).map(|_| (proof.answered_at, proof.confirmed));
                let told = Told { reason: proof.reason.clone(), rule: proof.rule, fades };
                empty.insert((slot, proof.source.to_string()), told);
            }
        }
        let present = coverage.present().on_grid(store.key.interval);
        (Facts { rows: rows_of(&store.read(range).await), present, empty }, coverage)
    }

    async fn play(&mut self, number: usize, step: &Step) {
        self.now = self.now.checked_add(Duration::from_secs(step.pause)).expect("near 2024");
        let before = (self.expected(TimeRange::ALL), self.subject.revision().await);
        let (rows, request) = (self.batch(step), self.request(step));
        let receipt = self.naive.write(step, self.now);
        assert_eq!(self.memory.write(&request, rows.clone()).await, receipt, "in memory, step {number}");
        assert_eq!(self.subject.write(&request, rows).await, receipt, "step {number}");
        if before.0 != self.expected(TimeRange::ALL) {
            assert_ne!(
                self.subject.revision().await,
                before.1,
                "step {number} changed the series, not its revision"
            );
        }
        for range in [self.range(&step.look.slots, step.look.shift), TimeRange::ALL] {
            let expected = self.expected(range);
            let (in_memory, memory_coverage) = self.seen(&self.memory, range).await;
            assert_eq!(in_memory, expected, "in memory, step {number}, {range}");
            let (seen, coverage) = self.seen(&self.subject, range).await;
            assert_eq!(seen, expected, "step {number}, {range}");
            assert_eq!(self.proven(&coverage), self.proven(&memory_coverage), "step {number}, {range}");
        }
    }

    /// Where each source proved something for each reason by each rule, between the slots too.
    fn proven(&self, coverage: &Coverage) -> BTreeMap<(String, String, u32), RangeSet> {
        coverage.known_empty().iter().fold(BTreeMap::new(), |mut all, proof| {
            let ranges: &mut RangeSet =
                all.entry((proof.source.to_string(), proof.reason.clone(), proof.rule)).or_default();
            *ranges = ranges.union(&proof.ranges.on_grid(self.subject.key.interval));
            all
        })
    }
}

fn rows_of(batch: &RecordBatch) -> BTreeMap<Timestamp, Row> {
    let columns = COLUMNS.map(|name| batch.column_by_name(name).map(|c| c.as_primitive::<Float64Type>()));
    let value = |column: Option<&Float64Array>, row: usize| {
        column.filter(|c| c.is_valid(row)).map(|c| c.value(row).to_bits())
    };
    let ts = frame::timestamps(batch).expect("a read gives a time column").values();
    let rows = ts.iter().enumerate().map(|(row, micros)| {
        let point = Timestamp::from_micros(*micros).expect("a read gives times of this world");
        (point, columns.map(|column| value(column, row)))
    });
    let map: BTreeMap<_, _> = rows.collect();
    assert_eq!(map.len(), batch.num_rows(), "a bar came twice");
    map
}

/// All guarantees at once: after every step of random sequences of writes, the store shows what
/// two models show. The sequences are the same in every run; `RUN_SLOW_TESTS=1` has many more.
pub async fn model_random_operations(subject: &Subject) {
    let cases = if std::env::var("RUN_SLOW_TESTS").is_ok_and(|value| value == "1") { 512 } else { 12 };
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 256, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &SEED));
    let nan = subject.backend().capabilities().nan;
    let sequences = (prop::sample::select(vec![1, 7, 5_000]), prop::collection::vec(step(nan), 1..16));
    let number = AtomicU32::new(0);
    let runtime = tokio::runtime::Handle::current();
    let run = |(stride, steps): (u32, Vec<Step>)| {
        let node = format!("case-{}", number.fetch_add(1, Ordering::Relaxed));
        runtime.block_on(play(subject, &node, stride, &steps));
        Ok(())
    };
    if let Err(failure) = tokio::task::block_in_place(|| runner.run(&sequences, run)) {
        panic!("{failure}");
    }
}

async fn play(subject: &Subject, node: &str, stride: u32, steps: &[Step]) {
    let probe = subject.probe(node, "1m");
    let memory = Subject::new(MemoryBackend::new()).probe(node, "1m");
    // Answers come one after the other, at first when half of the bars are old enough to be settled.
    let now = probe.bar(SLOTS / 2 * stride);
    let now = now.checked_add(EmptyProof::SETTLED_AFTER + Duration::from_secs(30)).expect("near 2024");
    let mut case = Case { subject: probe, memory, naive: Naive::default(), stride, now };
    // Both columns exist from the start, so that a store that adds none later can play too.
    let rows = BTreeMap::from([(SLOTS / 2, [Some(1), Some(2)])]);
    let look = Look { slots: 0..SLOTS, shift: 0 };
    let first = Step { pause: 0, replace: false, columns: vec![0, 1], rows, proofs: Vec::new(), look };
    for (number, step) in std::iter::once(&first).chain(steps).enumerate() {
        case.play(number, step).await;
    }
}
