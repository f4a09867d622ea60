//! The few things done to the disk: list commits, put a file that was not there, make folders last.

use std::fs::{self, File};
use std::io::{ErrorKind as Io, Write};
use std::path::Path;
use std::time::{Duration, SystemTime};

use qmtl_history_api::Result;

use crate::cache::Stamp;
use crate::error::storage;
use crate::failpoints::{Step, reach};
use crate::layout::{self, TEMP_PREFIX};

/// The coarsest clock of a file system in use. Two changes within one tick have one time; a list
/// that was taken when the tick of the last change was over has seen all changes of that time.
pub(crate) const TICK: Duration = Duration::from_secs(3);

/// The same where times have more digits than milliseconds: they are of the system's clock, which
/// ticks every ten milliseconds or more often.
const FINE_TICK: Duration = Duration::from_millis(100);

/// The tick of the clock that a time of change is from.
pub(crate) fn tick(changed: SystemTime) -> Duration {
    let since = changed.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    if since.subsec_nanos().is_multiple_of(1_000_000) { TICK } else { FINE_TICK }
}

/// The names in a folder that are UTF-8; none when there is no such folder. Nothing of this store
/// has another name.
pub(crate) fn list(folder: &Path) -> Result<Vec<String>> {
    pick(folder, |name| Some(name.to_owned()))
}

/// The numbers of the commits in a folder, ascending.
pub(crate) fn commits(folder: &Path) -> Result<Vec<u64>> {
    let mut commits = pick(folder, layout::parse_commit)?;
    commits.sort_unstable();
    Ok(commits)
}

/// The number of the newest commit in a folder.
pub(crate) fn newest(folder: &Path) -> Result<Option<u64>> {
    Ok(pick(folder, layout::parse_commit)?.into_iter().max())
}

/// What `wanted` makes of the names in a folder.
fn pick<T>(folder: &Path, wanted: impl Fn(&str) -> Option<T>) -> Result<Vec<T>> {
    let fault = |e| storage("list a folder of the store", folder, e);
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == Io::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(fault(e)),
    };
    let mut picked = Vec::new();
    for entry in entries {
        let name = entry.map_err(fault)?.file_name();
        picked.extend(name.to_str().and_then(&wanted));
    }
    Ok(picked)
}

/// When an entry of a folder was last added, removed or renamed; `None` when nobody can tell.
pub(crate) fn changed(folder: &Path) -> Option<SystemTime> {
    fs::metadata(folder).and_then(|meta| meta.modified()).ok()
}

/// What tells a version of a commit's file from another; `None` when there is no such file.
pub(crate) fn stamp(folder: &Path, seq: u64) -> Result<Option<Stamp>> {
    stamp_of(&folder.join(layout::commit_file(seq)), seq)
}

/// The same of any file.
pub(crate) fn stamp_of(path: &Path, seq: u64) -> Result<Option<Stamp>> {
    match fs::metadata(path) {
        Ok(meta) => Ok(Some(Stamp { seq, bytes: meta.len(), modified: meta.modified().ok() })),
        Err(e) if e.kind() == Io::NotFound => Ok(None),
        Err(e) => Err(storage("look at a file of the store", path, e)),
    }
}

/// What came of the wish to put a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Put {
    /// It is there, and survives a power cut.
    Done,
    /// A file of this name was there already.
    Taken,
    /// The temporary file or its folder was removed before the file had its name.
    Swept,
}

/// Puts a whole file where none was, durably: when this is [`Put::Done`] the file survives a power
/// cut, and nobody ever saw a part of it.
pub(crate) fn put_if_absent(folder: &Path, name: &str, bytes: &[u8]) -> Result<Put> {
    let fault = |e| storage("write a file of the store", &folder.join(name), e);
    let mut temp = tempfile::Builder::new();
    temp.prefix(TEMP_PREFIX);
    #[cfg(unix)]
    temp.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut temp = match temp.tempfile_in(folder) {
        Ok(temp) => temp,
        Err(e) if e.kind() == Io::NotFound => return Ok(Put::Swept),
        Err(e) => return Err(fault(e)),
    };
    temp.write_all(bytes).map_err(fault)?;
    reach(Step::Written)?;
    temp.as_file().sync_all().map_err(fault)?;
    reach(Step::Flushed)?;
    match temp.persist_noclobber(folder.join(name)) {
        Ok(_) => {
            reach(Step::Named)?;
            sync_folder(folder)?;
            reach(Step::Durable)?;
            Ok(Put::Done)
        }
        Err(e) if e.error.kind() == Io::AlreadyExists => Ok(Put::Taken),
        Err(e) if e.error.kind() == Io::NotFound => Ok(Put::Swept),
        Err(e) => Err(fault(e.error)),
    }
}

/// Removes a file; one that is gone already is no error.
pub(crate) fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != Io::NotFound => Err(storage("remove a file of the store", path, e)),
        _ => Ok(()),
    }
}

/// Creates `folder`, which is `root` or below, and whatever is missing above it. When this returns
/// the entries of all of them are on the disk, also of those that another process made, except of
/// old ones for which `is_durable` already says so.
pub(crate) fn create_folders(root: &Path, folder: &Path, is_durable: impl Fn(&Path) -> bool) -> Result<()> {
    let chain: Vec<&Path> = folder
        .ancestors()
        .take_while(|folder| !folder.as_os_str().is_empty() && (folder.starts_with(root) || !folder.is_dir()))
        .collect();
    for folder in chain.into_iter().rev() {
        let is_new = match fs::create_dir(folder) {
            Ok(()) => true,
            Err(e) if e.kind() == Io::AlreadyExists && folder.is_dir() => false,
            Err(e) => return Err(storage("create a folder of the store", folder, e)),
        };
        if let Some(parent) = folder.parent().filter(|_| is_new || !is_durable(folder)) {
            sync_folder(if parent.as_os_str().is_empty() { Path::new(".") } else { parent })?;
        }
    }
    Ok(())
}

/// Makes the entries of a folder last.
pub(crate) fn sync_folder(folder: &Path) -> Result<()> {
    // Other systems have no handle of a folder to flush.
    if cfg!(unix) {
        File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(|e| storage("flush a folder of the store to the disk", folder, e))?;
    }
    Ok(())
}
