//! The few things done to the disk: list commits, put a file that was not there, make folders last.

use std::fs::{self, File};
use std::io::{self, ErrorKind as Io, Write};
use std::path::Path;

use qmtl_history_api::Result;

use crate::cache::Stamp;
use crate::error::storage;
use crate::layout::{self, TEMP_PREFIX};

/// The names in a folder that are UTF-8; none when there is no such folder. Nothing of this store
/// has another name.
pub(crate) fn list(folder: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == Io::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(storage("list a folder of the store", folder, e)),
    };
    entries
        .filter_map(|entry| entry.map(|entry| entry.file_name().into_string().ok()).transpose())
        .collect::<io::Result<_>>()
        .map_err(|e| storage("list a folder of the store", folder, e))
}

/// The number of the newest commit in a folder.
pub(crate) fn newest(folder: &Path) -> Result<Option<u64>> {
    Ok(list(folder)?.iter().filter_map(|name| layout::parse_commit(name)).max())
}

/// What tells a version of a commit's file from another; `None` when there is no such file.
pub(crate) fn stamp(folder: &Path, seq: u64) -> Result<Option<Stamp>> {
    let path = folder.join(layout::commit_file(seq));
    match fs::metadata(&path) {
        Ok(meta) => Ok(Some(Stamp { seq, bytes: meta.len(), modified: meta.modified().ok() })),
        Err(e) if e.kind() == Io::NotFound => Ok(None),
        Err(e) => Err(storage("look at a file of the store", &path, e)),
    }
}

/// Puts a whole file where none was, durably: when this returns `true` the file survives a power
/// cut, and nobody ever saw a part of it. `false`: a file of this name was there already.
pub(crate) fn put_if_absent(folder: &Path, name: &str, bytes: &[u8]) -> Result<bool> {
    let fault = |e| storage("write a file of the store", &folder.join(name), e);
    let mut temp = tempfile::Builder::new();
    temp.prefix(TEMP_PREFIX);
    #[cfg(unix)]
    temp.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut temp = temp.tempfile_in(folder).map_err(fault)?;
    temp.write_all(bytes).and_then(|()| temp.as_file().sync_all()).map_err(fault)?;
    match temp.persist_noclobber(folder.join(name)) {
        Ok(_) => sync_folder(folder).map(|()| true),
        Err(e) if e.error.kind() == Io::AlreadyExists => Ok(false),
        Err(e) => Err(fault(e.error)),
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
