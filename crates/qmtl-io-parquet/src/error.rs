//! What operating system and Parquet errors mean for whoever runs the store.

use std::io::{self, ErrorKind as Io};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use qmtl_history_api::{Error, ErrorKind, Result};

use crate::layout::{self, SCHEMA_FOLDER, SERIES_FILE};

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
    let is_list = path.parent().is_some_and(|folder| folder.ends_with(SCHEMA_FOLDER));
    let is_name = path.file_name().is_some_and(|name| name == SERIES_FILE);
    let remedy = if is_name {
        "rebuild it (with `repair`) or restore it from a copy"
    } else if is_list {
        // A backfill brings rows again, but not the types of the columns that others rely on.
        "rebuild it (with `repair`) or restore it from a copy; the rows beside it are sound"
    } else {
        "restore the file from a copy, or move it away and run the backfill again"
    };
    Error::new(ErrorKind::Corrupt, format!("{what}; {remedy}")).with("path", path.display())
}

/// What a decoder makes of bytes that its checksum vouches for; `Corrupt` where it panics, as it does on some that no
/// writer writes.
pub(crate) fn decoded<T>(path: &Path, decode: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(decode))
        .unwrap_or_else(|_| Err(corrupt(path, "the file cannot be decoded")))
}

/// The error of a data file whose series has lost the list of its columns, or a part of it.
pub(crate) fn unlisted(path: &Path, column: &str) -> Error {
    let message = format!(
        "the series' list of columns lacks one that this file has; rebuild the list (with `repair`) or restore the \
         folder {SCHEMA_FOLDER} from a copy, the file is sound"
    );
    Error::new(ErrorKind::Corrupt, message).with("path", path.display()).with("column", column)
}

/// Whether an error is that of a file from a later version, which is not damaged.
pub(crate) fn is_newer(error: &Error) -> bool {
    error.message().starts_with(NEWER)
}

/// How the error of such a file begins.
const NEWER: &str = "the file has format version";

/// The error of a file from a later version of this program.
pub(crate) fn newer(path: &Path, found: u64, known: u64) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        format!("{NEWER} {found} and this program knows up to {known}: upgrade the program"),
    )
    .with("path", path.display())
}

/// The error of a folder with commits, of a commit, or of a file that looks like one, where no series has such.
pub(crate) fn stray(path: &Path) -> Error {
    let is_commit = |path: &Path| path.file_name()?.to_str().and_then(layout::parse_commit);
    let message = if is_commit(path).is_some() {
        "a commit stands where no partition has any; move it back into the folder of its partition, or out of the store and \
         run the backfill again"
    } else if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("parquet")) {
        "the file's name is not that of a commit; give the file its name back, or move it out of the store and run the \
         backfill again"
    } else {
        "the folder holds commits, but has the name of no series, interval or partition where it stands; give the folder \
         its name and its place back, or move it out of the store and run the backfill again"
    };
    let error = Error::new(ErrorKind::Corrupt, message);
    match path.to_str() {
        Some(path) => error.with("path", path),
        None => error.with("path", path.as_os_str().as_encoded_bytes().escape_ascii()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_list_of_columns_is_not_to_be_moved_away() {
        let data = corrupt(Path::new("s/5m/20180103T172000Z/0000000001.parquet"), "damaged").to_string();
        assert!(data.starts_with("damaged; restore the file from a copy, or move it away"), "{data}");
        let list = corrupt(Path::new("s/5m/_schema/0000000001.parquet"), "damaged").to_string();
        assert!(
            list.starts_with(
                "damaged; rebuild it (with `repair`) or restore it from a copy; the rows beside it"
            ),
            "{list}"
        );
    }

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
