//! Where an export goes: what `--out` names, and how a file appears there whole or not at all.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use qmtl_history_api::{Error, ErrorKind};
use tempfile::NamedTempFile;

use crate::outcome::Result;

/// What stdout is called.
const STDOUT: [&str; 4] = ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"];

/// What `--out` names, by its name and what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Stdout,
    /// A folder that is there.
    Folder,
    /// A folder for certain: the name ends as only those of folders do.
    NamedFolder,
    /// Anything else.
    File,
}

impl Place {
    pub(crate) fn of(out: &Path) -> Self {
        if STDOUT.iter().any(|name| out == Path::new(name)) {
            Self::Stdout
        } else if out.as_os_str().to_string_lossy().ends_with(std::path::is_separator) {
            Self::NamedFolder
        } else if out.is_dir() {
            Self::Folder
        } else {
            Self::File
        }
    }

    pub(crate) fn is_folder(self) -> bool {
        matches!(self, Self::Folder | Self::NamedFolder)
    }
}

/// What a file's name leads to.
#[derive(Debug)]
pub(crate) enum Destination {
    /// A regular file, or nothing yet, at this path behind all links.
    File(PathBuf),
    /// A device, a FIFO, a terminal: something that is written to and not replaced.
    Stream,
}

impl Destination {
    pub(crate) fn of(out: &Path) -> Result<Self> {
        match fs::metadata(out) {
            Ok(there) if there.is_dir() => {
                let message = "this is a folder: name a file in it, or end it with / for a file that is named after \
                               the series";
                Err(Error::invalid(message).with("out", out.display()).into())
            }
            Ok(there) if !there.is_file() => Ok(Self::Stream),
            // A file that somebody has open, such as a shell that redirects our output.
            Ok(_) if is_open_file(out) => Ok(Self::Stream),
            _ => Ok(Self::File(behind_links(out).map_err(|e| cannot_write(out, e))?)),
        }
    }

    /// The name of the regular file that is written to, there or not.
    pub(crate) fn file(&self, out: &Path) -> Option<PathBuf> {
        match self {
            Self::File(path) => Some(path.clone()),
            // A file that somebody has open has a name as well.
            Self::Stream => fs::canonicalize(out).ok().filter(|path| path.is_file()),
        }
    }
}

/// Whether a path is that of a file which a process has open: `/dev/stdout`, `/dev/fd/3`, `/proc/self/fd/3`.
fn is_open_file(path: &Path) -> bool {
    let is_number = |name: &OsStr| name.to_str().is_some_and(|name| name.parse::<u32>().is_ok());
    let folder = path.parent().unwrap_or(path);
    let of_process =
        folder.ends_with("fd") && folder.starts_with("/proc") && folder.components().count() == 4;
    ["/dev/stdout", "/dev/stderr"].iter().any(|name| path == Path::new(name))
        || (path.file_name().is_some_and(is_number) && (folder == Path::new("/dev/fd") || of_process))
}

/// What the path leads to, whether it is there or not; an error where its links lead in a circle.
fn behind_links(out: &Path) -> io::Result<PathBuf> {
    /// As many links in a row as Linux follows.
    const LINKS: usize = 40;
    let mut path = out.to_owned();
    for _ in 0..=LINKS {
        let Ok(target) = fs::read_link(&path) else { return Ok(path) };
        // A relative one starts from where the link is.
        path = path.parent().map_or_else(|| target.clone(), |folder| folder.join(&target));
    }
    Err(io::Error::other("too many levels of symbolic links"))
}

pub(crate) fn cannot_write(out: &Path, cause: io::Error) -> Error {
    let folder = out.parent().filter(|folder| !folder.as_os_str().is_empty() && !folder.exists());
    match folder {
        Some(folder) => {
            Error::new(ErrorKind::NotFound, "the folder of the export does not exist; make it first")
                .with("folder", folder.display())
        }
        None => Error::new(ErrorKind::Storage, "cannot write the export")
            .with("out", out.display())
            .caused_by(cause),
    }
}

/// Opens what is written to and not replaced. A FIFO takes as long as its reader needs to come.
pub(crate) async fn open(out: PathBuf) -> Result<File> {
    let opened = tokio::task::spawn_blocking(move || {
        // What a file that is open holds already stays.
        OpenOptions::new().append(true).open(&out).map_err(|e| cannot_write(&out, e))
    });
    Ok(opened.await.map_err(|e| Error::unexpected("the export was not opened").caused_by(e))??)
}

/// A file beside `path`, to be moved there at the end, so that nobody ever sees half of it.
pub(crate) fn beside(path: &Path) -> io::Result<NamedTempFile> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // As any new file: the umask takes away what the user does not share.
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    builder.prefix(".export-").tempfile_in(folder)
}
