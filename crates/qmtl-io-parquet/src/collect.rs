//! Collection: removing commits that newer ones have replaced for a while, and what killed writers
//! left behind.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use qmtl_history_api::{Collected, Result, SeriesKey, TimeRange, Timestamp};

use crate::cache::Stamp;
use crate::disk::{Disk, Listed, TICK};
use crate::failpoints::{Step, reach};
use crate::layout::{Partition, SeriesFolder, TEMP_PREFIX};
use crate::store::Store;

/// Replaced commits of a partition that are kept when they are older than [`SHORT_GRACE`]: what a
/// recorder that commits every second leaves behind stays bounded.
const MAX_REPLACED: usize = 128;

/// The time that replaced commits are kept however many there are.
const SHORT_GRACE: Duration = Duration::from_secs(60);

/// Commits of a partition between two looks at what can be collected.
const EVERY: u64 = 32;

/// A file that may go.
struct Aged {
    path: PathBuf,
    bytes: u64,
}

impl Store {
    /// Removes what no reader that started within the grace time can need. With `dry_run` it only
    /// says what that is.
    pub(crate) fn collect(&self, key: &SeriesKey, now: Timestamp, dry_run: bool) -> Result<Collected> {
        let series = self.series_folder(key)?;
        let now = SystemTime::UNIX_EPOCH + now.since(Timestamp::EPOCH);
        let mut collected = Collected::default();
        for folder in [series.node(), series.schemas()] {
            take(&mut collected, &*self.disk, self.left_behind(&folder, now)?, dry_run)?;
        }
        for partition in self.partition_folders(&series, TimeRange::ALL)? {
            take(&mut collected, &*self.disk, self.replaced(&series, partition, now)?, dry_run)?;
            let folder = series.partition(partition);
            take(&mut collected, &*self.disk, self.left_behind(&folder, now)?, dry_run)?;
        }
        Ok(collected)
    }

    /// The temporary files in a folder that nobody has touched for the grace time.
    fn left_behind(&self, folder: &Path, now: SystemTime) -> Result<Vec<Aged>> {
        let mut found = Vec::new();
        for name in self.disk.list(folder)?.into_iter().filter(|name| name.starts_with(TEMP_PREFIX)) {
            let path = folder.join(name);
            if let Some(stamp) = self.disk.stamp(&path, 0)? {
                let age = stamp.modified.and_then(|modified| now.duration_since(modified).ok());
                let is_old = age.is_some_and(|age| age >= self.config.grace);
                found.extend(is_old.then_some(Aged { path, bytes: stamp.bytes }));
            }
        }
        Ok(found)
    }

    /// Collects in one partition now and then, on behalf of a writer whose commit `seq` stands
    /// already: the time is that of its file, and a failure is only told.
    pub(crate) fn collect_at_times(&self, series: &SeriesFolder, partition: Partition, seq: u64) {
        if !seq.is_multiple_of(EVERY) {
            return;
        }
        let collect = || match self.disk.stamp(&series.commit(partition, seq), seq)? {
            Some(Stamp { modified: Some(now), .. }) => {
                take(&mut Collected::default(), &*self.disk, self.replaced(series, partition, now)?, false)
            }
            _ => Ok(()),
        };
        if let Err(error) = collect() {
            let path = series.partition(partition);
            tracing::warn!(path = %path.display(), error = %error.chain(), "cannot collect old commits");
        }
    }

    /// The commits of a partition that newer ones have replaced for the grace time: all before the
    /// commit that was the newest then, except the full ones that it and the newest one now add to.
    fn replaced(&self, series: &SeriesFolder, partition: Partition, now: SystemTime) -> Result<Vec<Aged>> {
        let folder = series.partition(partition);
        let commits = self.disk.commits(&folder)?;
        let Some(newest) = commits.last().map(|newest| newest.seq) else { return Ok(Vec::new()) };
        let stamp_of = |Listed { seq, stamp }: Listed| match stamp {
            Some(stamp) => Ok(Some(stamp)),
            None => self.disk.stamp(&series.commit(partition, seq), seq),
        };
        let is_older = |commit: Listed, grace: Duration| -> Result<bool> {
            let modified = stamp_of(commit)?.and_then(|stamp| stamp.modified);
            let age = modified.and_then(|modified| now.duration_since(modified).ok());
            // Within a tick of the folder's time nobody else would notice.
            Ok(age.is_some_and(|age| age >= grace.max(TICK)))
        };
        // Later commits are younger, so a few looks find the newest one that is old enough.
        let newest_older = |commits: &[Listed], grace: Duration| -> Result<Option<u64>> {
            let (mut from, mut to) = (0, commits.len());
            while from < to {
                let middle = from.midpoint(to);
                if is_older(commits[middle], grace)? { from = middle + 1 } else { to = middle }
            }
            Ok(from.checked_sub(1).map(|last| commits[last].seq))
        };
        let behind = &commits[..commits.len().saturating_sub(MAX_REPLACED)];
        let current = newest_older(behind, SHORT_GRACE)?.max(newest_older(&commits, self.config.grace)?);
        let Some(current) = current else { return Ok(Vec::new()) };
        let mut needed = vec![newest];
        for seq in [current, newest] {
            let file = self.open_checked(&series.commit(partition, seq), series, Some(partition), seq)?;
            // Gone: another collector is at work, and knows more than we do.
            let Some(file) = file else { return Ok(Vec::new()) };
            needed.extend(file.footer().base.as_ref().map(|base| base.seq));
        }
        let mut replaced = Vec::new();
        for commit in commits.into_iter().filter(|c| c.seq < current && !needed.contains(&c.seq)) {
            let path = series.commit(partition, commit.seq);
            replaced.extend(stamp_of(commit)?.map(|stamp| Aged { path, bytes: stamp.bytes }));
        }
        Ok(replaced)
    }
}

/// Removes files, unless it is only to be told what would go, and adds them to what has been.
fn take(collected: &mut Collected, disk: &dyn Disk, files: Vec<Aged>, dry_run: bool) -> Result<()> {
    if !files.is_empty() {
        reach(Step::Chosen)?;
    }
    for file in files {
        if !dry_run {
            disk.remove(&file.path)?;
            reach(Step::Removed)?;
        }
        collected.bytes += file.bytes;
        collected.files.push(file.path);
    }
    Ok(())
}
