//! What operating system and Parquet errors mean for whoever runs the store.

use std::io::{self, ErrorKind as Io};
use std::path::Path;

use qmtl_history_api::{Error, ErrorKind};

/// The error of a failed call on `path`, with the remedy for what a disk can do to us.
pub(crate) fn storage(action: &str, path: &Path, error: io::Error) -> Error {
    let remedy = match error.kind() {
        Io::StorageFull | Io::QuotaExceeded => "the disk is full: free space, then run again",
        Io::FileTooLarge => "a limit on file sizes is reached: raise it, then run again",
        Io::ReadOnlyFilesystem => "the file system is read-only: mount it writable or choose another folder",
        Io::PermissionDenied => "permission denied: let this user read and write the store's folder",
        Io::NotADirectory | Io::AlreadyExists => {
            "a file stands where a folder is needed: move it away or choose another folder"
        }
        _ => "check the disk and the store's folder",
    };
    Error::new(ErrorKind::Storage, format!("cannot {action}; {remedy}"))
        .with("path", path.display())
        .caused_by(error)
}

/// The error of a stored file that cannot be what was written. What else is stored stays readable.
pub(crate) fn corrupt(path: &Path, what: &str) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        format!("{what}; restore the file from a copy, or move it away and run the backfill again"),
    )
    .with("path", path.display())
}

/// The error of a file from a later version of this program.
pub(crate) fn newer(path: &Path, found: u64, known: u64) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        format!(
            "the file has format version {found} and this program knows up to {known}: upgrade the program"
        ),
    )
    .with("path", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_disk_can_do_has_its_remedy() {
        for (kind, remedy) in [
            (Io::StorageFull, "the disk is full: free space, then run again"),
            (Io::QuotaExceeded, "the disk is full: free space, then run again"),
            (Io::FileTooLarge, "a limit on file sizes is reached: raise it, then run again"),
            (
                Io::ReadOnlyFilesystem,
                "the file system is read-only: mount it writable or choose another folder",
            ),
            (Io::PermissionDenied, "permission denied: let this user read and write the store's folder"),
            (
                Io::NotADirectory,
                "a file stands where a folder is needed: move it away or choose another folder",
            ),
            (Io::Other, "check the disk and the store's folder"),
        ] {
            let error = storage("write a file of the store", Path::new("a/b"), kind.into());
            assert_eq!(error.to_string(), format!("cannot write a file of the store; {remedy} (path: a/b)"));
            assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Storage, false));
        }
    }
}
