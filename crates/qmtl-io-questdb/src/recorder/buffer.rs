//! Events that are not stored yet, in the order in which they came.

use std::collections::BTreeMap;

use qmtl_history_api::arrow_array::RecordBatch;
use qmtl_history_api::arrow_select::concat::concat_batches;
use qmtl_history_api::{Error, Result, SeriesKey};

/// Single rows that are joined into one batch: a batch of one row takes a hundred times its values.
const LOOSE: usize = 256;

/// What waits, what is being written, and what became of the rest.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    waiting: BTreeMap<SeriesKey, Vec<Run>>,
    /// Taken by the task and not stored yet.
    in_flight: Vec<(SeriesKey, RecordBatch)>,
    unwritten: usize,
    /// Events that were ever taken from callers.
    pushed: u64,
    /// So many of them were settled: stored, or refused.
    done: u64,
    /// Up to here the events are to be written at once.
    urgent_to: u64,
    is_running: bool,
    trouble: Option<Error>,
    lost: Option<(usize, Error)>,
}

/// Neighbouring events of one schema: joined ones, then single ones.
#[derive(Debug)]
struct Run {
    joined: Vec<RecordBatch>,
    loose: Vec<RecordBatch>,
}

/// What the task is to write.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) series: Vec<(SeriesKey, RecordBatch)>,
    /// The number of the newest event of it.
    pub(super) up_to: u64,
}

impl Run {
    fn fold(&mut self) -> Result<()> {
        if let Some(first) = self.loose.first() {
            self.joined.push(joined(&first.clone(), &self.loose)?);
            self.loose.clear();
        }
        Ok(())
    }
}

impl Buffer {
    /// Events that are not stored yet.
    pub(super) fn len(&self) -> usize {
        self.unwritten
    }

    pub(super) fn push(&mut self, key: &SeriesKey, event: RecordBatch) -> Result<()> {
        // No clone of the key for a series that waits already.
        if !self.waiting.contains_key(key) {
            self.waiting.insert(key.clone(), Vec::new());
        }
        let runs = self.waiting.entry(key.clone()).or_default();
        let schema_of = |run: &Run| run.loose.first().or(run.joined.first()).map(RecordBatch::schema);
        let fits = runs.last().and_then(schema_of).is_some_and(|schema| schema == event.schema());
        if !fits {
            runs.push(Run { joined: Vec::new(), loose: Vec::new() });
        }
        if let Some(run) = runs.last_mut() {
            run.loose.push(event);
            if run.loose.len() >= LOOSE {
                run.fold()?;
            }
        }
        self.unwritten += 1;
        self.pushed += 1;
        Ok(())
    }

    /// Whether the task should write now.
    pub(super) fn is_urgent(&self, batch: usize) -> bool {
        !self.waiting.is_empty() && (self.unwritten >= batch || self.done < self.urgent_to)
    }

    /// True exactly once until the task has gone: whoever gets it starts the task.
    pub(super) fn starts(&mut self) -> bool {
        !std::mem::replace(&mut self.is_running, true)
    }

    /// Whether the task may go, which the buffer then remembers.
    pub(super) fn rests(&mut self) -> bool {
        if self.waiting.is_empty() {
            self.is_running = false;
        }
        self.waiting.is_empty()
    }

    /// Everything that waits; it counts as unwritten until it is settled.
    pub(super) fn take(&mut self) -> Result<Taken> {
        let mut series = Vec::new();
        for (key, runs) in std::mem::take(&mut self.waiting) {
            for mut run in runs {
                run.fold()?;
                if let Some(first) = run.joined.first() {
                    series.push((key.clone(), joined(&first.clone(), &run.joined)?));
                }
            }
        }
        self.in_flight.clone_from(&series);
        Ok(Taken { series, up_to: self.pushed })
    }

    /// The first of what was taken is stored.
    pub(super) fn stored(&mut self) {
        self.settle();
        self.trouble = None;
    }

    /// The first of what was taken can never be stored.
    pub(super) fn refused(&mut self, error: Error) {
        let rows = self.settle();
        let lost = self.lost.get_or_insert((0, error));
        lost.0 += rows;
    }

    fn settle(&mut self) -> usize {
        if self.in_flight.is_empty() {
            return 0;
        }
        let (_, rows) = self.in_flight.remove(0);
        self.unwritten = self.unwritten.saturating_sub(rows.num_rows());
        rows.num_rows()
    }

    /// All of what was taken is settled.
    pub(super) fn settled(&mut self, up_to: u64) {
        self.done = up_to;
    }

    /// What was taken is not stored for now.
    pub(super) fn note(&mut self, error: Error) {
        self.trouble = Some(error);
    }

    /// The number of the newest event, up to which everything is urgent now.
    pub(super) fn flush_goal(&mut self) -> u64 {
        self.urgent_to = self.pushed;
        self.trouble = None;
        self.pushed
    }

    pub(super) fn is_past(&self, goal: u64) -> bool {
        self.done >= goal
    }

    pub(super) fn trouble(&self) -> Option<Error> {
        self.trouble.clone()
    }

    /// What was refused since the last call.
    pub(super) fn lost(&mut self) -> Option<Error> {
        let (events, first) = self.lost.take()?;
        let error = Error::new(first.kind(), "QuestDB refused events, which are lost");
        Some(error.with("events", events).caused_by(first))
    }

    /// The unwritten events of a series, oldest first.
    pub(super) fn rows(&self, key: &SeriesKey) -> Vec<RecordBatch> {
        let in_flight = self.in_flight.iter().filter(|(taken, _)| taken == key).map(|(_, rows)| rows);
        let waiting = self.waiting.get(key).into_iter().flatten();
        let waiting = waiting.flat_map(|run| run.joined.iter().chain(&run.loose));
        in_flight.chain(waiting).cloned().collect()
    }
}

fn joined(first: &RecordBatch, rows: &[RecordBatch]) -> Result<RecordBatch> {
    concat_batches(&first.schema(), rows)
        .map_err(|e| Error::unexpected("events of one schema differ").caused_by(e))
}
