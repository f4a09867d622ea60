//! A folder of a file system: files get their names by hard links and are flushed, and times of change tell
//! what was listed already.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{ErrorKind as Io, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bytes::Bytes;
use qmtl_history_api::Result;

use super::{Content, Disk, Entries, LONGEST_NAME, Listed, Put, no_store};
use crate::cache::Stamp;
use crate::error::{corrupt, storage, stray};
use crate::failpoints::{Step, reach};
use crate::layout::{self, TEMP_PREFIX};

/// A store's folder.
#[derive(Debug)]
pub(crate) struct Folder {
    root: PathBuf,
}

impl Folder {
    pub(crate) fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }
}

impl Disk for Folder {
    fn root(&self) -> &Path {
        &self.root
    }

    fn check(&self, create: bool) -> Result<()> {
        match fs::metadata(&self.root) {
            Ok(meta) if meta.is_dir() => Ok(()),
            Ok(_) => Err(storage("open the store", &self.root, Io::NotADirectory.into())),
            Err(e) if e.kind() == Io::NotFound && create => Ok(()),
            Err(e) if e.kind() == Io::NotFound => Err(no_store(&self.root)),
            Err(e) => Err(storage("open the store", &self.root, e)),
        }
    }

    fn list(&self, folder: &Path) -> Result<Vec<String>> {
        pick(folder, |name| Some(name.to_owned()))
    }

    fn entries(&self, folder: &Path) -> Result<Entries> {
        let mut entries = Entries::default();
        for name in names(folder)? {
            let path = folder.join(&name);
            match (name.into_string(), path.is_dir()) {
                (Ok(name), true) => entries.folders.push(name),
                (Ok(name), false) => entries.files.push(name),
                (Err(_), true) => entries.unnamed_folders.push(path),
                (Err(_), false) => entries.unnamed_files.push(path),
            }
        }
        Ok(entries)
    }

    fn holds_commits(&self, folder: &Path, depth: usize) -> Result<bool> {
        let names = names(folder)?;
        if names.iter().any(|name| name.to_str().and_then(layout::parse_commit).is_some()) {
            return Ok(true);
        }
        let Some(depth) = depth.checked_sub(1) else { return Ok(false) };
        for folder in names.iter().map(|name| folder.join(name)).filter(|path| path.is_dir()) {
            if self.holds_commits(&folder, depth)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn files_obstruct(&self) -> bool {
        true
    }

    fn commits(&self, folder: &Path) -> Result<Vec<Listed>> {
        let mut commits = commits(folder)?;
        commits.sort_unstable();
        Ok(commits.into_iter().map(|seq| Listed { seq, stamp: None }).collect())
    }

    fn newest(&self, folder: &Path, _: Option<u64>) -> Result<Option<Stamp>> {
        let Some(seq) = commits(folder)?.into_iter().max() else { return Ok(None) };
        let stamp = self.stamp(&folder.join(layout::commit_file(seq)), seq)?;
        Ok(Some(stamp.unwrap_or(Stamp { seq, bytes: 0, modified: None, tag: 0 })))
    }

    fn newest_of_each(&self, _: &Path, _: [&str; 2]) -> Result<Option<Vec<(String, Stamp)>>> {
        Ok(None)
    }

    fn changed(&self, folder: &Path) -> Option<SystemTime> {
        fs::metadata(folder).and_then(|meta| meta.modified()).ok()
    }

    fn stamp(&self, path: &Path, seq: u64) -> Result<Option<Stamp>> {
        match fs::metadata(path) {
            Ok(meta) => Ok(Some(Stamp { seq, bytes: meta.len(), modified: meta.modified().ok(), tag: 0 })),
            Err(e) if e.kind() == Io::NotFound => Ok(None),
            Err(e) => Err(storage("look at a file of the store", path, e)),
        }
    }

    fn read_name(&self, path: &Path) -> Result<Option<Bytes>> {
        let fault = |e| storage("read a series' name", path, e);
        let Some(file) = open_file(path, "read a series' name")? else { return Ok(None) };
        let mut text = Vec::new();
        file.take(LONGEST_NAME + 1).read_to_end(&mut text).map_err(fault)?;
        if text.len() as u64 > LONGEST_NAME {
            return Err(corrupt(path, "the file that names the series is longer than any name"));
        }
        Ok(Some(text.into()))
    }

    fn open(&self, path: &Path) -> Result<Option<Box<dyn Content>>> {
        let file = open_file(path, "open a file of the store")?;
        Ok(file.map(|file| Box::new(OpenFile { path: path.to_owned(), file }) as Box<dyn Content>))
    }

    fn put_if_absent(&self, folder: &Path, name: &str, bytes: Vec<u8>) -> Result<Put> {
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
        temp.write_all(&bytes).map_err(fault)?;
        reach(Step::Written)?;
        temp.as_file().sync_all().map_err(fault)?;
        reach(Step::Flushed)?;
        match temp.persist_noclobber(folder.join(name)) {
            Ok(_) => {
                reach(Step::Named)?;
                self.sync_folder(folder)?;
                reach(Step::Durable)?;
                Ok(Put::Done)
            }
            Err(e) if e.error.kind() == Io::AlreadyExists => Ok(Put::Taken),
            Err(e) if e.error.kind() == Io::NotFound => Ok(Put::Swept),
            Err(e) => Err(fault(e.error)),
        }
    }

    fn remove(&self, path: &Path) -> Result<()> {
        match fs::remove_file(path) {
            Err(e) if e.kind() != Io::NotFound => Err(storage("remove a file of the store", path, e)),
            _ => Ok(()),
        }
    }

    fn is_in_the_way(&self, path: &Path) -> bool {
        fs::symlink_metadata(path)
            .is_ok_and(|meta| meta.is_dir() || (meta.is_symlink() && fs::metadata(path).is_err()))
    }

    fn has_folder(&self, folder: &Path) -> bool {
        folder.is_dir()
    }

    fn create_folders(&self, folder: &Path, is_durable: &dyn Fn(&Path) -> bool) -> Result<()> {
        let chain: Vec<&Path> = folder
            .ancestors()
            .take_while(|folder| {
                !folder.as_os_str().is_empty() && (folder.starts_with(&self.root) || !folder.is_dir())
            })
            .collect();
        for folder in chain.into_iter().rev() {
            let is_new = match fs::create_dir(folder) {
                Ok(()) => true,
                Err(e) if e.kind() == Io::AlreadyExists && folder.is_dir() => false,
                Err(e) => return Err(storage("create a folder of the store", folder, e)),
            };
            if let Some(parent) = folder.parent().filter(|_| is_new || !is_durable(folder)) {
                self.sync_folder(if parent.as_os_str().is_empty() { Path::new(".") } else { parent })?;
            }
        }
        Ok(())
    }

    fn sync_folder(&self, folder: &Path) -> Result<()> {
        // Other systems have no handle of a folder to flush.
        if cfg!(unix) {
            File::open(folder)
                .and_then(|folder| folder.sync_all())
                .map_err(|e| storage("flush a folder of the store to the disk", folder, e))?;
        }
        Ok(())
    }

    fn prove(&self, _: &Path) -> Result<()> {
        Ok(())
    }

    fn attempt(&self) -> Option<String> {
        None
    }
}

/// Opens what must be a regular file: a pipe would keep whoever opens it, and a device has no end. `None` when nothing
/// is there.
fn open_file(path: &Path, action: &str) -> Result<Option<File>> {
    match fs::metadata(path) {
        Ok(meta) if meta.is_dir() => {
            return Err(corrupt(path, "a folder stands in the place of the file: move it away"));
        }
        Ok(meta) if !meta.is_file() => return Err(corrupt(path, "what stands there is no file")),
        Ok(_) => {}
        Err(e) if e.kind() == Io::NotFound && path.is_symlink() => {
            return Err(corrupt(
                path,
                "a link that leads nowhere stands in the place of the file: move it away",
            ));
        }
        Err(e) if e.kind() == Io::NotFound => return Ok(None),
        Err(e) => return Err(storage(action, path, e)),
    }
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(e) if e.kind() == Io::NotFound => Ok(None),
        Err(e) => Err(storage(action, path, e)),
    }
}

/// An open file of a folder, which stays readable when its name is removed.
#[derive(Debug)]
struct OpenFile {
    path: PathBuf,
    file: File,
}

impl Content for OpenFile {
    fn size(&self) -> Result<u64> {
        let meta = self.file.metadata();
        Ok(meta.map_err(|e| storage("look at a file of the store", &self.path, e))?.len())
    }

    fn read(&self, start: usize, length: usize) -> Result<Bytes> {
        let fault = |e| storage("read a file of the store", &self.path, e);
        let (offset, limit) =
            (u64::try_from(start).unwrap_or(u64::MAX), u64::try_from(length).unwrap_or(u64::MAX));
        // Not read into a buffer of zeros: to fill one takes as long as to read a tenth of it.
        let mut bytes = Vec::with_capacity(length);
        let mut file = &self.file;
        file.seek(SeekFrom::Start(offset)).map_err(fault)?;
        file.take(limit).read_to_end(&mut bytes).map_err(fault)?;
        if bytes.len() == length {
            Ok(bytes.into())
        } else {
            Err(corrupt(&self.path, "the file is truncated"))
        }
    }
}

/// What `wanted` makes of the names in a folder.
fn pick<T>(folder: &Path, wanted: impl Fn(&str) -> Option<T>) -> Result<Vec<T>> {
    Ok(names(folder)?.iter().filter_map(|name| name.to_str().and_then(&wanted)).collect())
}

/// The numbers of the commits in a folder. `Corrupt` for a file that looks like one and has another name: it may have been
/// the newest one, and all that it holds would be missing in silence.
fn commits(folder: &Path) -> Result<Vec<u64>> {
    let mut commits = Vec::new();
    for name in names(folder)? {
        match name.to_str().and_then(layout::parse_commit) {
            Some(seq) => commits.push(seq),
            None if layout::is_odd_commit(&name.to_string_lossy()) => return Err(stray(&folder.join(name))),
            None => {}
        }
    }
    Ok(commits)
}

/// The names in a folder; none when there is no such folder.
fn names(folder: &Path) -> Result<Vec<OsString>> {
    let fault = |e| storage("list a folder of the store", folder, e);
    match fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| Ok(entry.map_err(fault)?.file_name())).collect(),
        Err(e) if e.kind() == Io::NotFound => Ok(Vec::new()),
        Err(e) => Err(fault(e)),
    }
}
