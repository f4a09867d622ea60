//! The state of a partition: its newest commit and, when that is a delta, the full one below it.

use std::path::Path;
use std::sync::Arc;

use qmtl_history_api::arrow_array::RecordBatch;
use qmtl_history_api::arrow_schema::SchemaRef;
use qmtl_history_api::{Coverage, Error, ErrorKind, RangeSet, Result, TimeRange, frame};

use crate::cache::Stamp;
use crate::error;
use crate::file::StoredFile;
use crate::footer::{Footer, Kind, Link};
use crate::layout::{self, Partition, SeriesFolder};
use crate::merge::weave;
use crate::store::{ATTEMPTS, ENTRY, Store};

/// What a partition holds, as footers tell it.
#[derive(Debug)]
pub(crate) struct State {
    /// The newest commit.
    pub(crate) newest: Link,
    /// The full commit: the newest one, or the one that it adds to.
    pub(crate) base: Arc<Footer>,
    pub(crate) base_link: Link,
    /// Rows of the delta.
    pub(crate) delta_rows: u64,
    /// Everything that is known of the partition, when that is more than the full commit says.
    merged: Option<Coverage>,
}

impl State {
    /// The state of a full commit and of the delta that adds to it.
    fn new((base, base_link): (Arc<Footer>, Link), delta: Option<(&Footer, Link)>) -> Self {
        let merged = delta.as_ref().map(|(delta, _)| {
            let mut coverage = if delta.inherits {
                base.coverage.clone()
            } else {
                Coverage::of_present(base.coverage.present().clone())
            };
            coverage.merge(&delta.coverage);
            coverage
        });
        let delta_rows = delta.as_ref().map_or(0, |(delta, _)| delta.rows);
        let newest = delta.map_or_else(|| base_link.clone(), |(_, link)| link);
        Self { newest, base, base_link, delta_rows, merged }
    }

    /// The state after one more commit; `before` has the full commit that a delta adds to.
    pub(crate) fn after(before: Option<&Self>, footer: Footer, link: Link) -> Self {
        match before.filter(|_| footer.kind == Kind::Delta) {
            Some(before) => {
                let base = (Arc::clone(&before.base), before.base_link.clone());
                Self::new(base, Some((&footer, link)))
            }
            None => Self::new((Arc::new(footer), link), None),
        }
    }

    /// Whether the newest commit is a delta.
    pub(crate) fn is_delta(&self) -> bool {
        self.newest != self.base_link
    }

    /// Everything that is known of the partition.
    pub(crate) fn coverage(&self) -> &Coverage {
        self.merged.as_ref().unwrap_or(&self.base.coverage)
    }
}

/// The open files of a state: the full one, and the delta when there is one.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) full: StoredFile,
    pub(crate) delta: Option<StoredFile>,
}

/// What became of an attempt to open a state.
enum Opened {
    Whole(Box<Snapshot>),
    /// The newest file is gone.
    Gone,
    /// The newest file is there, the one that it adds to is not.
    Baseless(Box<StoredFile>),
}

impl Snapshot {
    /// The file of the newest commit.
    pub(crate) fn newest(&self) -> &StoredFile {
        self.delta.as_ref().unwrap_or(&self.full)
    }

    /// The number of the newest commit.
    pub(crate) fn seq(&self) -> u64 {
        self.newest().footer().seq
    }

    pub(crate) fn files(&self) -> impl Iterator<Item = &StoredFile> {
        [&self.full].into_iter().chain(&self.delta)
    }

    /// The columns of all files.
    pub(crate) fn schema(&self) -> Result<SchemaRef> {
        let full = self.full.schema();
        self.delta.as_ref().map_or_else(|| Ok(Arc::clone(full)), |delta| frame::union(full, delta.schema()))
    }

    /// Where rows are.
    pub(crate) fn present(&self) -> RangeSet {
        let full = self.full.footer().coverage.present();
        self.delta
            .as_ref()
            .map_or_else(|| full.clone(), |delta| full.union(delta.footer().coverage.present()))
    }

    /// The rows inside `range`, ascending, each once, with exactly the columns of `wanted`.
    pub(crate) fn read(&self, range: TimeRange, wanted: &SchemaRef) -> Result<Vec<RecordBatch>> {
        let full = rows_within(&self.full, range, wanted)?;
        match &self.delta {
            Some(delta) => weave(full, &rows_within(delta, range, wanted)?),
            None => Ok(full),
        }
    }

    fn state(&self) -> State {
        let base = (Arc::new(self.full.footer().clone()), self.full.link());
        State::new(base, self.delta.as_ref().map(|delta| (delta.footer(), delta.link())))
    }
}

/// The rows of a file inside `range`.
fn rows_within(file: &StoredFile, range: TimeRange, wanted: &SchemaRef) -> Result<Vec<RecordBatch>> {
    let mut batches = Vec::new();
    if file.footer().coverage.present().within(range).is_empty() {
        return Ok(batches);
    }
    for batch in file.read(range, wanted)? {
        let ts = frame::timestamps(&batch)?.values();
        let from = ts.partition_point(|micros| *micros < range.start().as_micros());
        let to = ts.partition_point(|micros| *micros < range.end().as_micros());
        if from < to {
            batches.push(frame::conform(&batch.slice(from, to - from), wanted)?);
        }
    }
    Ok(batches)
}

impl Store {
    /// Opens the newest state of a partition at least as new as `seq`: files that vanish between
    /// listing and opening make room for their successors.
    pub(crate) fn open(&self, series: &SeriesFolder, partition: Partition, seq: u64) -> Result<Snapshot> {
        let folder = series.partition(partition);
        let mut seq = seq;
        for _ in 0..ATTEMPTS {
            let opened = self.open_once(series, partition, seq)?;
            if let Opened::Whole(snapshot) = opened {
                return Ok(*snapshot);
            }
            let newest = self.disk.newest(&folder, None)?.map_or(seq, |newest| newest.seq);
            if let Opened::Baseless(delta) = opened
                && newest == seq
            {
                let base = delta.footer().base.as_ref().map_or(0, |base| base.seq);
                let path = series.commit(partition, seq);
                return Err(error::corrupt(&path, "the file that this one adds to is gone")
                    .with("missing", series.commit(partition, base).display()));
            }
            seq = newest;
        }
        Err(vanishing(&folder))
    }

    /// What `work` makes of the newest state at least as new as `seq`, of a newer one when a file is
    /// collected while it is read.
    pub(crate) fn with_open<T>(
        &self,
        series: &SeriesFolder,
        partition: Partition,
        seq: u64,
        work: impl Fn(&Snapshot) -> Result<T>,
    ) -> Result<T> {
        for _ in 0..ATTEMPTS {
            match work(&self.open(series, partition, seq)?) {
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                done => return done,
            }
        }
        Err(vanishing(&series.partition(partition)))
    }

    /// What is known of a partition, from memory when its newest file is known.
    pub(crate) fn state(
        &self,
        series: &SeriesFolder,
        partition: Partition,
        newest: Stamp,
    ) -> Result<Arc<State>> {
        let folder = series.partition(partition);
        if let Some(state) = self.states.get(&folder, newest) {
            return Ok(state);
        }
        let snapshot = self.open(series, partition, newest.seq)?;
        let state = Arc::new(snapshot.state());
        let stamp = if snapshot.seq() == newest.seq && newest.modified.is_some() {
            // The stamp is older than the footer: another file of this number would not fit it later.
            Some(newest)
        } else {
            self.disk.stamp(&folder.join(layout::commit_file(snapshot.seq())), snapshot.seq())?
        };
        if let Some(stamp) = stamp {
            self.remember(&folder, stamp, &state);
        }
        Ok(state)
    }

    fn open_once(&self, series: &SeriesFolder, partition: Partition, seq: u64) -> Result<Opened> {
        let path = series.commit(partition, seq);
        let Some(newest) = self.open_checked(&path, series, Some(partition), seq)? else {
            return Ok(Opened::Gone);
        };
        let Some(base) = newest.footer().base.clone() else {
            return Ok(Opened::Whole(Box::new(Snapshot { full: newest, delta: None })));
        };
        let base_path = series.commit(partition, base.seq);
        let Some(full) = self.open_checked(&base_path, series, Some(partition), base.seq)? else {
            return Ok(Opened::Baseless(Box::new(newest)));
        };
        if full.footer().kind != Kind::Full || full.link() != base {
            return Err(error::corrupt(&path, "the file adds to another one than the one that stands there")
                .with("base", base_path.display()));
        }
        Ok(Opened::Whole(Box::new(Snapshot { full, delta: Some(newest) })))
    }

    /// Keeps a state for as long as its newest commit is the newest.
    pub(crate) fn remember(&self, folder: &Path, stamp: Stamp, state: &Arc<State>) {
        let weight = weight(&state.base.coverage) + state.merged.as_ref().map_or(0, weight);
        self.states.put(folder, stamp, Arc::clone(state), weight);
    }
}

/// The error of a reader that collectors overtook again and again.
fn vanishing(folder: &Path) -> Error {
    Error::unavailable("the files of a partition keep vanishing while they are read; try again")
        .with("path", folder.display())
}

fn weight(coverage: &Coverage) -> usize {
    let proofs = coverage.known_empty().iter().map(|proof| ENTRY + proof.ranges.len());
    ENTRY + coverage.present().len() + proofs.sum::<usize>()
}
