//! From a configuration to tables: a file is opened, what it is packed in is taken off, and each table is scanned.

use std::fs::{File, Metadata};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::SystemTime;

use qmtl_history_api::{Error, Result, SourceId};

use super::bytes::{FileBytes, changed, io_error};
use super::config::{FileConfig, FileFormat};
use super::listing::{self, Chosen};
use super::members::Archive;
use super::profile::Profile;
use super::table::{EMPTY, Opened};
use super::unpack::{self, Compression};
use super::{Inner, csv, ipc, json, parquet, text};

/// How many times over a file may be compressed.
const MAX_LAYERS: usize = 4;

/// A file that is open, and the tables in it, which are not scanned yet.
#[derive(Debug)]
pub(super) struct Unit {
    config: FileConfig,
    version: Option<Version>,
    source: SourceId,
    /// The tables, each with its name where the file is an archive of several.
    tables: Vec<(Option<String>, FileBytes)>,
    /// What is left out of an archive.
    pub(super) note: Option<String>,
}

impl Unit {
    /// Opens a file and unpacks it.
    pub(super) fn open(config: FileConfig) -> Result<Self> {
        let file = if config.is_stdin { stdin() } else { File::open(&config.path) };
        let file = file.map_err(|e| if is_socket(&config.path) { socket(e) } else { io_error(e) })?;
        let metadata = file.metadata().map_err(io_error)?;
        Self::of(config, file, &metadata)
    }

    /// Unpacks an open file that was as its `metadata` say.
    pub(super) fn of(config: FileConfig, file: File, metadata: &Metadata) -> Result<Self> {
        let is_stream = is_stream(metadata)?;
        if !config.symbols.is_empty() && config.symbol_column.is_none() {
            return Err(Error::invalid(
                "symbols are given, but not the column to find them in (with_symbol_column)",
            ));
        }
        // What came out of a pipe is ours.
        let version = Some(Version::of(metadata)).filter(|_| !is_stream && !config.is_stdin);
        let read = || {
            let bytes = match version {
                _ if is_stream => unpack::stream(file, config.max_unpacked_bytes)?,
                None => FileBytes::new(file).map_err(io_error)?,
                Some(version) => reopened(file, config.path.clone(), version)?,
            };
            if bytes.len() == 0 {
                return Err(Error::schema(EMPTY));
            }
            if let Some(packed @ (FileFormat::Zip | FileFormat::Gzip)) = config.format {
                packed.check(&bytes)?;
            }
            let source = source_id(&config.path, &bytes, config.sample_bytes)?;
            Ok((source, unpacked(bytes, &config)?))
        };
        let read = read();
        // Of a file that was changed meanwhile this tells whatever it met.
        check_unchanged(&config.path, version)?;
        let (source, (tables, note)) = read?;
        Ok(Self { config, version, source, tables, note })
    }

    /// The number of its tables.
    pub(super) fn len(&self) -> usize {
        self.tables.len()
    }

    pub(super) fn path(&self) -> &Path {
        &self.config.path
    }

    /// Scans the table at a place. `is_compared` is as in [`Inner`].
    pub(super) fn table(&self, at: usize, is_compared: Arc<AtomicBool>) -> Result<Inner> {
        let (member, bytes) = &self.tables[at];
        let in_member = |e: Error| match member {
            Some(member) => e.with("member", member),
            None => e,
        };
        let name = member.as_ref().map_or(self.config.path.as_path(), Path::new);
        let (config, note) = self.profiled(bytes, name)?;
        let opened = open_table(bytes, name, &config).map_err(in_member);
        check_unchanged(&self.config.path, self.version)?;
        let mut opened = opened?;
        opened.notes.extend(note);
        Ok(Inner {
            config,
            member: member.clone(),
            version: self.version,
            opened,
            source: self.source.clone(),
            is_compared,
        })
    }

    /// What is said of a table, by its profile too, and what was told of that by itself.
    fn profiled(&self, bytes: &FileBytes, name: &Path) -> Result<(FileConfig, Option<String>)> {
        let config = self.config.clone();
        match config.profile {
            Some(Some(profile)) => return Ok((profile.applied(config)?, None)),
            Some(None) => return Ok((config, None)),
            None => {}
        }
        let head = text::head(bytes)?;
        let shown = Profile::of(name, &head).filter(|_| FileFormat::of_content(&head).is_none());
        match shown {
            Some(profile) => {
                let told: Vec<_> =
                    profile.settings().into_iter().map(|(what, value)| format!("{what} {value}")).collect();
                let note =
                    format!("recognised as a file of the profile {}: {}", profile.name, told.join(", "));
                Ok((profile.applied_by_itself(config)?, Some(note)))
            }
            None => Ok((config, None)),
        }
    }

    /// Scans the only table; `InvalidInput` where there are several.
    pub(super) fn sole(&self) -> Result<Inner> {
        match self.tables.as_slice() {
            [_] => self.table(0, Arc::default()),
            tables => Err(Error::invalid("the archive holds several files; read it as a set of files")
                .with("files", tables.len())),
        }
    }
}

/// A file that is opened again by its path, as long as it is the same.
fn reopened(file: File, path: PathBuf, version: Version) -> Result<FileBytes> {
    let again = move || {
        let file = File::open(&path).map_err(io_error)?;
        let is_same = Version::of(&file.metadata().map_err(io_error)?) == version;
        if is_same { Ok(file) } else { Err(changed()) }
    };
    FileBytes::reopened(file, again).map_err(io_error)
}

/// The tables of a file, and what is left out beside them.
type Unpacked = (Vec<(Option<String>, FileBytes)>, Option<String>);

/// Takes off what a file is packed in, by its content.
fn unpacked(bytes: FileBytes, config: &FileConfig) -> Result<Unpacked> {
    let (bytes, archive) = decompressed(bytes, config)?;
    let Some(archive) = archive else { return Ok((vec![(None, bytes)], None)) };
    let Chosen { files, left_out } = archive.members(&bytes, config.max_unpacked_bytes)?;
    let is_one = files.len() == 1;
    let mut tables = Vec::new();
    for (name, bytes) in files {
        let (bytes, nested) = decompressed(bytes, config).map_err(|e| e.with("member", &name))?;
        if nested.is_some() {
            return Err(Error::schema("an archive lies inside of the archive; unpack the outer one first")
                .with("member", name));
        }
        // The only one is called as its archive, whose name tells what it holds.
        tables.push(((!is_one || !left_out.is_empty()).then_some(name), bytes));
    }
    Ok((tables, listing::left_out(&left_out)))
}

/// A file without its compression, and the kind of archive that it is then.
fn decompressed(mut bytes: FileBytes, config: &FileConfig) -> Result<(FileBytes, Option<Archive>)> {
    for _ in 0..MAX_LAYERS {
        let head = text::head(&bytes)?;
        match Compression::of(&head) {
            Some(compression) => bytes = compression.unpack(&bytes, config.max_unpacked_bytes)?,
            None => return Ok((bytes, Archive::of(&head))),
        }
    }
    Err(Error::schema("the file is compressed more than three times over; unpack it first"))
}

/// Scans a table. Its name, or that of the file that it is in, tells what it should be.
fn open_table(bytes: &FileBytes, name: &Path, config: &FileConfig) -> Result<Opened> {
    match table_format(bytes, name, config)? {
        FileFormat::Parquet => parquet::open(bytes, config),
        FileFormat::Arrow => ipc::open(bytes, config),
        _ => open_text(bytes, config),
    }
}

fn table_format(bytes: &FileBytes, name: &Path, config: &FileConfig) -> Result<FileFormat> {
    let wanted = config.format.filter(|format| !matches!(format, FileFormat::Zip | FileFormat::Gzip));
    if let Some(wanted) = wanted {
        return wanted.check(bytes).map(|()| wanted);
    }
    let told = told_format(name);
    match (FileFormat::of_content(&text::head(bytes)?), told) {
        (Some(found), _) => found.check(bytes).map(|()| found),
        (None, Some(told)) => told.check(bytes).map(|()| told),
        (None, None) if text::is_text(bytes)? => Ok(FileFormat::Csv),
        (None, None) => Err(Error::invalid(
            "neither the file's extension nor its content is of a format that is read (csv, json, parquet, arrow, \
             feather, ipc; also in gz, zst, xz, bz2, zip, tar); say which one it is (with_format)",
        )),
    }
}

/// The format that a name tells, without the extensions of what a table is packed in.
fn told_format(name: &Path) -> Option<FileFormat> {
    const PACKED: [&str; 11] = ["gz", "gzip", "zst", "zstd", "xz", "bz2", "zip", "tar", "tgz", "txz", "tbz2"];
    let mut name = name.to_path_buf();
    loop {
        let extension = name.extension()?.to_string_lossy().to_ascii_lowercase();
        if !PACKED.contains(&extension.as_str()) {
            return FileFormat::of_extension(&extension);
        }
        name.set_extension("");
    }
}

/// Opens text in any encoding and with any line ends that are known.
fn open_text(bytes: &FileBytes, config: &FileConfig) -> Result<Opened> {
    // A list that is cut open is none.
    let most = config.sample_bytes.filter(|_| text::is_json(bytes).is_ok_and(|is_json| !is_json));
    let sample = most.map(|most| text::sample(bytes, most)).transpose()?.flatten();
    let all = bytes.len();
    let bytes = sample.as_ref().unwrap_or(bytes);
    let (text, mut notes) = text::plain(bytes, config.max_unpacked_bytes)?;
    let text = text.as_ref().unwrap_or(bytes);
    let mut opened = match (config.format, text::is_json(text)?) {
        (Some(FileFormat::Csv), true) => {
            return Err(Error::schema(
                "the file is to be read as CSV, but is JSON; leave the format out (with_format)",
            ));
        }
        (Some(FileFormat::Json), false) => {
            return Err(Error::schema("the file is to be read as JSON, but its content is not"));
        }
        (_, true) => json::open(text, config)?,
        (_, false) => csv::open(text, config)?,
    };
    notes.append(&mut opened.notes);
    let read_of = sample.as_ref().map(|sample| (sample.len(), all));
    Ok(Opened { notes, read_of, ..opened })
}

/// `file:<name>#<the first 16 hex digits of the content's BLAKE3 hash>`.
fn source_id(path: &Path, bytes: &FileBytes, most: Option<u64>) -> Result<SourceId> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(bytes.cursor().take(most.unwrap_or(u64::MAX))).map_err(io_error)?;
    let name = path.file_name().map(PathBuf::from).unwrap_or_default();
    SourceId::new(format!("file:{}#{}", name.display(), &hasher.finalize().to_hex()[..16]))
}

/// What tells that a file was not written since: its length and the time of its last change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Version(u64, Option<SystemTime>);

impl Version {
    fn of(metadata: &Metadata) -> Self {
        Self(metadata.len(), metadata.modified().ok())
    }
}

/// `Conflict` where a file is not what it was when it had this version.
pub(super) fn check_unchanged(path: &Path, version: Option<Version>) -> Result<()> {
    let Some(version) = version else { return Ok(()) };
    let is_same = Version::of(&std::fs::metadata(path).map_err(io_error)?) == version;
    if is_same { Ok(()) } else { Err(changed()) }
}

/// Whether a path is that of a socket, which cannot be opened.
fn is_socket(path: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket())
    }
    #[cfg(not(unix))]
    false
}

fn socket(cause: std::io::Error) -> Error {
    let message = "a socket is given where a file is read: name a file, or pipe one into it";
    Error::invalid(message).caused_by(cause)
}

/// Stdin as the file, or the pipe, that it is.
fn stdin() -> std::io::Result<File> {
    #[cfg(unix)]
    let stdin = std::os::fd::AsFd::as_fd(&std::io::stdin()).try_clone_to_owned()?;
    #[cfg(windows)]
    let stdin = std::os::windows::io::AsHandle::as_handle(&std::io::stdin()).try_clone_to_owned()?;
    Ok(File::from(stdin))
}

/// Whether bytes come one after another, once; `InvalidInput` for what has no end or none at all.
fn is_stream(metadata: &Metadata) -> Result<bool> {
    if metadata.is_dir() {
        return Err(Error::invalid("a directory was given where a file is expected"));
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        let kind = metadata.file_type();
        if kind.is_char_device() || kind.is_block_device() {
            return Err(Error::invalid(
                "a device was given where a file is expected: name a file, or pipe one into it",
            ));
        }
        // What the system makes up as it is read, such as a file of /proc, has no length either.
        Ok(kind.is_fifo() || kind.is_socket() || metadata.len() == 0)
    }
    #[cfg(not(unix))]
    Ok(!metadata.is_file())
}
