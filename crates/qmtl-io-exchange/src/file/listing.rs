//! Which files a path stands for: itself, what lies in a folder, or what has names of a pattern.

use std::fs::File;
use std::path::{Path, PathBuf};

use glob::{MatchOptions, glob_with};
use qmtl_history_api::{Error, ErrorKind, Result};

use super::bytes::{FileBytes, io_error};
use super::config::FileFormat;
use super::unpack::Compression;
use super::{csv, text};

/// Extensions of files with data, and of those in which some may be packed.
const DATA: [&str; 22] = [
    "csv", "tsv", "json", "jsonl", "ndjson", "parquet", "pq", "arrow", "arrows", "feather", "ipc", "gz",
    "gzip", "zip", "zst", "zstd", "xz", "bz2", "tar", "tgz", "txz", "tbz2",
];

/// Extensions of what lies beside data.
const OTHERS: [&str; 14] = [
    "checksum",
    "md5",
    "sha1",
    "sha256",
    "sha512",
    "asc",
    "sig",
    "md",
    "rst",
    "log",
    "html",
    "pdf",
    "part",
    "crdownload",
];

/// The names of what lies beside data.
const OTHER_NAMES: [&str; 5] = ["readme", "license", "thumbs.db", "desktop.ini", "changelog"];

/// The most names that an error or a note shows.
const SHOWN: usize = 5;

/// What a path stands for.
#[derive(Debug)]
pub(super) struct Listing {
    /// The files, in natural order of their names.
    pub(super) files: Vec<PathBuf>,
    /// What is left out, as a sentence.
    pub(super) note: Option<String>,
}

/// The files of a folder or a pattern; `None` for a path that is neither.
///
/// `NotFound` where a pattern has no match, `InvalidInput` where nothing of a folder or a pattern is data.
pub(super) fn list(path: &Path) -> Result<Option<Listing>> {
    if path.is_dir() {
        let entries = std::fs::read_dir(path).map_err(io_error)?;
        let entries = entries.map(|entry| entry.map(|entry| entry.path()).map_err(io_error));
        return listed(entries.collect::<Result<_>>()?, path).map(Some);
    }
    let pattern = path.to_string_lossy();
    if path.symlink_metadata().is_ok() || !is_pattern(&pattern) {
        return Ok(None);
    }
    // As shells do: a star stands for no folder, and names with a dot are hidden.
    let options = MatchOptions {
        case_sensitive: true,
        require_literal_separator: true,
        require_literal_leading_dot: true,
    };
    let matches = glob_with(&pattern, options).map_err(|e| {
        Error::invalid("the pattern of the file's name cannot be read; see how * and [] are used")
            .caused_by(e)
    })?;
    let found: Vec<_> = matches.map(|found| found.map_err(|e| io_error(e.into()))).collect::<Result<_>>()?;
    if found.is_empty() {
        return Err(Error::new(ErrorKind::NotFound, "no file has a name of this pattern"));
    }
    listed(found, path).map(Some)
}

/// Whether a path may be a pattern of names.
pub(super) fn is_pattern(path: &str) -> bool {
    path.contains(['*', '?', '['])
}

fn listed(found: Vec<PathBuf>, path: &Path) -> Result<Listing> {
    let (folders, files): (Vec<_>, Vec<_>) = found.into_iter().partition(|path| path.is_dir());
    let name = |path: &PathBuf| match path.file_name() {
        Some(name) => name.to_string_lossy().into_owned(),
        None => String::new(),
    };
    // Nobody may ever write to a pipe that happens to lie here. A link to nothing is a file that is missing.
    let is_no_file = |path: &PathBuf| path.metadata().is_ok_and(|metadata| !metadata.is_file());
    let (others, maybe): (Vec<_>, Vec<_>) =
        files.into_iter().partition(|path| is_other(&name(path)) || is_no_file(path));
    let named = maybe.into_iter().map(|path| (path.to_string_lossy().into_owned(), path)).collect();
    let open = |path: &PathBuf| File::open(path).and_then(FileBytes::new).map_err(io_error);
    let Chosen { files, left_out } =
        choose(named, |path| open(path).map_err(|e| e.with("file", path.display())))?;
    let left_out: Vec<_> =
        others.iter().map(name).chain(left_out.iter().map(|path| name(&path.into()))).collect();
    if !files.is_empty() {
        let files = files.into_iter().map(|(_, path)| path).collect();
        return Ok(Listing { files, note: note(&left_out, folders.len()) });
    }
    let folder_names: Vec<_> = folders.iter().map(|path| name(path) + "/").collect();
    Err(match (left_out.is_empty(), folder_names.is_empty()) {
        (true, true) => Error::invalid("the folder is empty"),
        (true, false) => Error::invalid(
            "there are only folders here; name the files in them by a pattern, or one of the folders",
        )
        .with("pattern", path.join("**/*.csv").display())
        .with("folders", shown(&folder_names)),
        _ => Error::invalid("no file here is of a format that is read")
            .with("files", left_out.len())
            .with("names", shown(&left_out)),
    })
}

fn note(left_out: &[String], folders: usize) -> Option<String> {
    let counted = |count: usize, of: &str| match count {
        1 => format!("1 {of}"),
        _ => format!("{count} {of}s"),
    };
    let files = (!left_out.is_empty())
        .then(|| format!("{} without data ({})", counted(left_out.len(), "file"), shown(left_out)));
    let folders = (folders > 0).then(|| counted(folders, "folder"));
    let parts: Vec<_> = files.into_iter().chain(folders).collect();
    let is = if parts.len() == 1 && parts[0].starts_with("1 ") { "is" } else { "are" };
    (!parts.is_empty()).then(|| format!("{} {is} left out", parts.join(" and ")))
}

/// What is said of the members that an archive has beside its data.
pub(super) fn left_out(names: &[String]) -> Option<String> {
    note(names, 0)
}

fn shown(names: &[String]) -> String {
    let more = if names.len() > SHOWN { ", …" } else { "" };
    names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ") + more
}

/// Files with data, and the names of what is left out.
#[derive(Debug)]
pub(super) struct Chosen<T> {
    pub(super) files: Vec<(String, T)>,
    pub(super) left_out: Vec<String>,
}

/// Chooses what has data, in natural order of names: by the extension, else by the content, which `open` gives.
pub(super) fn choose<T>(
    mut found: Vec<(String, T)>,
    open: impl Fn(&T) -> Result<FileBytes>,
) -> Result<Chosen<T>> {
    found.sort_by(|(one, _), (other, _)| alphanumeric_sort::compare_str(one, other));
    let mut chosen = Chosen { files: Vec::new(), left_out: Vec::new() };
    for (name, file) in found {
        let extension = extension(&name);
        if DATA.contains(&extension.as_str()) || is_table(&open(&file)?)? {
            chosen.files.push((name, file));
        } else {
            chosen.left_out.push(name);
        }
    }
    Ok(chosen)
}

/// Whether a name is that of what lies beside data: hidden, a checksum, a page that explains it.
pub(super) fn is_other(name: &str) -> bool {
    let mut parts = name.split(['/', '\\']);
    let is_hidden = |part: &str| (part.starts_with('.') && part.len() > 2) || part == "__MACOSX";
    if parts.clone().any(is_hidden) {
        return true;
    }
    let file = parts.next_back().unwrap_or_default().to_ascii_lowercase();
    let stem = file.split('.').next().unwrap_or_default();
    OTHERS.contains(&extension(&file).as_str())
        || OTHER_NAMES.contains(&file.as_str())
        || OTHER_NAMES.contains(&stem)
}

fn extension(name: &str) -> String {
    Path::new(name).extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase()
}

/// Whether a file whose name does not tell has data: text must look like a table, as reports and notes do not.
fn is_table(bytes: &FileBytes) -> Result<bool> {
    let head = text::head(bytes)?;
    let is_known = matches!(FileFormat::of_content(&head), Some(FileFormat::Parquet | FileFormat::Arrow));
    Ok(is_known || Compression::of(&head).is_some() || (text::is_text(bytes)? && csv::is_table(&head)))
}
