//! Where downloaded files lie, by name and checksum.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use qmtl_history_api::{Error, ErrorKind, Result};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// A folder of files called `NAME.SHA256.zip`; a temporary one goes away with it.
#[derive(Debug)]
pub(super) struct Shelf {
    folder: PathBuf,
    _temporary: Option<TempDir>,
}

/// What a download changed.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) path: PathBuf,
    /// The checksum of the file that was kept under this name before, when it was another one.
    pub(super) revised_from: Option<String>,
}

impl Shelf {
    /// A folder that stays, or a temporary one.
    pub(super) fn new(folder: Option<&Path>) -> Result<Self> {
        let fault = |e: std::io::Error| {
            Error::new(
                ErrorKind::Storage,
                "cannot make a folder for archives; make room there, or name another",
            )
            .caused_by(e)
        };
        match folder {
            Some(folder) => {
                std::fs::create_dir_all(folder).map_err(|e| fault(e).with("folder", folder.display()))?;
                Ok(Self { folder: folder.to_owned(), _temporary: None })
            }
            None => {
                let temporary = tempfile::Builder::new().prefix("qmtl-archives-").tempdir().map_err(fault)?;
                Ok(Self { folder: temporary.path().to_owned(), _temporary: Some(temporary) })
            }
        }
    }

    /// The file of this name and checksum, if it lies here whole.
    pub(super) async fn find(self: &Arc<Self>, name: &str, sha256: &str) -> Option<PathBuf> {
        let (path, sha256) = (self.path(name, sha256), sha256.to_owned());
        let found = tokio::task::spawn_blocking(move || {
            let bytes = std::fs::read(&path).ok()?;
            (checksum(&bytes) == sha256).then_some(path)
        });
        found.await.ok().flatten()
    }

    /// Keeps a file, whole or not at all, and takes away what was kept under its name before.
    pub(super) async fn keep(self: &Arc<Self>, name: &str, sha256: &str, bytes: Vec<u8>) -> Result<Kept> {
        let (shelf, name, sha256) = (Arc::clone(self), name.to_owned(), sha256.to_owned());
        let kept = tokio::task::spawn_blocking(move || shelf.write(&name, &sha256, &bytes)).await;
        kept.unwrap_or_else(|e| Err(Error::unexpected("keeping an archive panicked").caused_by(e)))
    }

    fn write(&self, name: &str, sha256: &str, bytes: &[u8]) -> Result<Kept> {
        let fault = |e: std::io::Error| {
            Error::new(ErrorKind::Storage, "cannot keep an archive; make room, or name another folder")
                .with("folder", self.folder.display())
                .caused_by(e)
        };
        let revised_from = self.forget_others(name, sha256).map_err(fault)?;
        let path = self.path(name, sha256);
        let file = tempfile::NamedTempFile::new_in(&self.folder).map_err(fault)?;
        std::fs::write(file.path(), bytes).map_err(fault)?;
        file.persist(&path).map_err(|e| fault(e.error))?;
        Ok(Kept { path, revised_from })
    }

    /// Removes files of this name with other checksums, and gives one of those.
    fn forget_others(&self, name: &str, sha256: &str) -> std::io::Result<Option<String>> {
        let mut other = None;
        for entry in std::fs::read_dir(&self.folder)? {
            let entry = entry?;
            let file = entry.file_name();
            let found = file.to_str().and_then(|file| {
                file.strip_prefix(name)?.strip_prefix('.')?.strip_suffix(".zip").map(str::to_owned)
            });
            if let Some(found) = found.filter(|found| found != sha256) {
                std::fs::remove_file(entry.path())?;
                other = Some(found);
            }
        }
        Ok(other)
    }

    fn path(&self, name: &str, sha256: &str) -> PathBuf {
        self.folder.join(format!("{name}.{sha256}.zip"))
    }
}

/// The SHA-256 of bytes in hex.
pub(super) fn checksum(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
