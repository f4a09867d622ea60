//! The place of a store: the few things that commits, reads and collections do there. A folder and
//! a bucket differ in these and in nothing else.

#[cfg(feature = "s3")]
pub(crate) mod bucket;
mod folder;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use qmtl_history_api::{Error, ErrorKind, Result};

use crate::cache::Stamp;
pub(crate) use folder::Folder;

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

/// Bytes of the file that names a node: an id is a kilobyte at most, and each byte may be escaped.
const LONGEST_NAME: u64 = 64 << 10;

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

/// A commit in a list. Of a file in a folder the list says its number, of an object everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) seq: u64,
    pub(crate) stamp: Option<Stamp>,
}

/// What stands in a folder.
#[derive(Debug, Default)]
pub(crate) struct Entries {
    pub(crate) folders: Vec<String>,
    pub(crate) files: Vec<String>,
    /// Folders whose names are not UTF-8, as nothing of this store has them.
    pub(crate) unnamed_folders: Vec<PathBuf>,
    /// What is no folder and has such a name.
    pub(crate) unnamed_files: Vec<PathBuf>,
}

/// A file that is open for reading.
pub(crate) trait Content: fmt::Debug + Send + Sync {
    /// Its size in bytes.
    fn size(&self) -> Result<u64>;

    /// Exactly these bytes; `Corrupt` when the file ends before them. `NotFound` when it is gone,
    /// which a file that is open in a folder never is.
    fn read(&self, start: usize, length: usize) -> Result<Bytes>;
}

/// Where a store is. Paths are those of [`layout`](crate::layout), below the root.
pub(crate) trait Disk: fmt::Debug + Send + Sync {
    /// The folder, or the bucket's URL: what all paths begin with.
    fn root(&self) -> &Path;

    /// Proves that a store can be here; `NotFound` when there is none and `create` is false.
    fn check(&self, create: bool) -> Result<()>;

    /// The names in a folder that are UTF-8; none when there is no such folder. Nothing of this
    /// store has another name.
    fn list(&self, folder: &Path) -> Result<Vec<String>>;

    /// What stands in a folder; nothing when there is no such folder.
    fn entries(&self, folder: &Path) -> Result<Entries>;

    /// Whether a folder has commits, or those have some that are up to `depth` folders below it, whatever they are
    /// called.
    fn holds_commits(&self, folder: &Path, depth: usize) -> Result<bool>;

    /// Whether a file keeps a folder from having its name.
    fn files_obstruct(&self) -> bool;

    /// The commits in a folder, ascending.
    fn commits(&self, folder: &Path) -> Result<Vec<Listed>>;

    /// The newest commit in a folder, asked of the disk; `known` was there once, and none below it
    /// can be the newest unless it is gone. A commit that goes in between has no time of change.
    fn newest(&self, folder: &Path, known: Option<u64>) -> Result<Option<Stamp>>;

    /// The newest commit in each folder of a folder whose name is within `names`, ascending, where
    /// one list tells; `None` where each of them must be asked.
    fn newest_of_each(&self, folder: &Path, names: [&str; 2]) -> Result<Option<Vec<(String, Stamp)>>>;

    /// When an entry of a folder was last added, removed or renamed; `None` when nobody can tell.
    fn changed(&self, folder: &Path) -> Option<SystemTime>;

    /// What tells a version of a file from another; `None` when there is no such file.
    fn stamp(&self, path: &Path, seq: u64) -> Result<Option<Stamp>>;

    /// The file that names a node, whole; `None` when there is none.
    fn read_name(&self, path: &Path) -> Result<Option<Bytes>>;

    /// Opens a file; `None` when there is none.
    fn open(&self, path: &Path) -> Result<Option<Box<dyn Content>>>;

    /// Puts a whole file where none was, durably: when this is [`Put::Done`] the file survives a
    /// power cut, and nobody ever saw a part of it. Of files with equal bytes both may be done.
    fn put_if_absent(&self, folder: &Path, name: &str, bytes: Vec<u8>) -> Result<Put>;

    /// Removes a file; one that is gone already is no error.
    fn remove(&self, path: &Path) -> Result<()>;

    /// Whether something stands where a file belongs that is none and cannot be replaced by one: a folder, or a link that
    /// leads nowhere.
    fn is_in_the_way(&self, path: &Path) -> bool;

    /// Whether a folder that was made is still there.
    fn has_folder(&self, folder: &Path) -> bool;

    /// Creates `folder`, which is the root or below, and whatever is missing above it. When this
    /// returns the entries of all of them are on the disk, also of those that another process
    /// made, except of old ones for which `is_durable` already says so.
    fn create_folders(&self, folder: &Path, is_durable: &dyn Fn(&Path) -> bool) -> Result<()>;

    /// Makes the entries of a folder last.
    fn sync_folder(&self, folder: &Path) -> Result<()>;

    /// Proves, once, that a name is given once here. `path` is a file that is there.
    fn prove(&self, path: &Path) -> Result<()>;

    /// A text that no other attempt of a commit has, where the answer to a put can get lost: by it
    /// a writer knows its own file. `None` where a put has one answer.
    fn attempt(&self) -> Option<String>;
}

/// Where `root` is: a folder, or the URL of a bucket.
pub(crate) fn at(root: &Path) -> Result<Box<dyn Disk>> {
    let url = root.to_str().filter(|text| text.contains("://"));
    match url.map(|url| (url, url.split_once("://").unwrap_or_default())) {
        None => Ok(Box::new(Folder::new(root))),
        Some((_, ("file", path))) if path.starts_with('/') => Ok(Box::new(Folder::new(Path::new(path)))),
        #[cfg(feature = "s3")]
        Some((url, _)) => Ok(Box::new(bucket::Bucket::of_url(url)?)),
        #[cfg(not(feature = "s3"))]
        Some((_, (scheme, _))) => Err(Error::new(
            ErrorKind::Unsupported,
            "this build has no store in a bucket; build it with the feature `s3`, or name a folder",
        )
        .with("scheme", format_args!("{scheme}://"))),
    }
}

/// The error of a place that holds no store and is to hold one.
fn no_store(root: &Path) -> Error {
    let message = if root.to_str().is_some_and(|text| text.contains("://")) {
        "there is no store under this URL; check bucket and prefix"
    } else {
        "there is no store in this folder; check the path"
    };
    Error::new(ErrorKind::NotFound, message).with("path", root.display())
}
