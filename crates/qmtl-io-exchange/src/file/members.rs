//! Archives that hold files: zip and tar. What is in them comes out as parts of one content, or of the archive.

use std::io::{self, BufReader};

use qmtl_history_api::{Error, Result};
use tar::EntryType;
use zip::ZipArchive;
use zip::result::ZipError;

use super::bytes::{Cursor, FileBytes, corrupt, io_error};
use super::listing::{Chosen, choose, is_other};
use super::spool::Content;
use super::unpack::{Capped, damaged, rewrite};

/// The most files of an archive.
const MAX_MEMBERS: usize = 1 << 20;

/// Where a tar archive says that it is one.
const TAR_MARK: usize = 257;

/// The kind of an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Archive {
    Zip,
    Tar,
}

impl Archive {
    /// What the first bytes of a file tell.
    pub(super) fn of(head: &[u8]) -> Option<Self> {
        match head {
            [b'P', b'K', 3 | 5, 4 | 6, ..] => Some(Self::Zip),
            _ => head.get(TAR_MARK..)?.starts_with(b"ustar").then_some(Self::Tar),
        }
    }

    /// The files with data in natural order of their names, and the names of what is left out.
    pub(super) fn members(self, bytes: &FileBytes, cap: u64) -> Result<Chosen<FileBytes>> {
        let (found, mut left_out) = match self {
            Self::Zip => zip(bytes, cap)?,
            Self::Tar => tar(bytes)?,
        };
        // The only file of an archive is meant, whatever it is called.
        let chosen = match found.len() {
            1 => Chosen { files: found, left_out: Vec::new() },
            _ => choose(found, |bytes| Ok(bytes.clone()))?,
        };
        left_out.extend(chosen.left_out);
        if chosen.files.is_empty() {
            let shown: Vec<_> = left_out.iter().take(5).map(String::as_str).collect();
            return Err(Error::schema("the archive holds no file of a format that is read")
                .with("files", left_out.len())
                .with("names", shown.join(", ")));
        }
        Ok(Chosen { files: chosen.files, left_out })
    }
}

/// Files with their names, and the names of those that are certainly no data.
type Found = (Vec<(String, FileBytes)>, Vec<String>);

/// The files of a zip archive, one behind the other in one content.
fn zip(bytes: &FileBytes, cap: u64) -> Result<Found> {
    let mut archive = opened_zip(bytes)?;
    refuse_twins(bytes, &archive)?;
    let (mut names, mut places, mut left_out, mut is_encrypted) = (Vec::new(), Vec::new(), Vec::new(), false);
    for at in 0..archive.len() {
        let file = archive.by_index_raw(at).map_err(zip_fault)?;
        let entry = file.entry();
        let name = entry.name().map_err(zip_fault)?.into_owned();
        // Shells and Finder write folders as members.
        if name.ends_with('/') {
            continue;
        }
        if is_other(&name) {
            left_out.push(name);
            continue;
        }
        is_encrypted |= entry.encrypted();
        names.push(name);
        places.push(at);
    }
    if names.iter().any(|name| name == "xl/workbook.xml") {
        return Err(Error::schema("the file is an Excel workbook; save its sheet as CSV"));
    }
    if is_encrypted {
        return Err(Error::schema("the zip archive is encrypted; unpack it with its password first"));
    }
    let (content, lengths) = unzip(archive, &names, &places, cap)?;
    let (origin, again) = (bytes.clone(), names.clone());
    let all = FileBytes::unpacked(content, move || {
        unzip(opened_zip(&origin)?, &again, &places, cap).map(|(content, _)| content)
    })?;
    let mut start = 0;
    let mut files = Vec::new();
    for (name, length) in names.into_iter().zip(lengths) {
        let part = all.part(start, length);
        files.push((
            name,
            part.ok_or_else(|| Error::unexpected("a member is longer than what was unpacked"))?,
        ));
        start += length;
    }
    Ok((files, left_out))
}

/// `Schema` where members have one name: of those the library knows the last one only.
fn refuse_twins(bytes: &FileBytes, archive: &ZipArchive<BufReader<Cursor>>) -> Result<()> {
    /// The end record without its comment, and where in it the number of members stands.
    const END_BYTES: usize = 22;
    const COUNT_AT: usize = 10;
    let mut end = [0; END_BYTES];
    let behind = (END_BYTES + archive.comment().len()) as u64;
    let Some(at) = bytes.len().checked_sub(behind) else { return Ok(()) };
    if bytes.read_at(&mut end, at).map_err(io_error)? < END_BYTES || !end.starts_with(b"PK\x05\x06") {
        return Ok(());
    }
    let count = u16::from_le_bytes([end[COUNT_AT], end[COUNT_AT + 1]]);
    // A larger number stands elsewhere.
    if count == u16::MAX || usize::from(count) == archive.len() {
        return Ok(());
    }
    Err(Error::schema("several members of the zip archive share a name; unpack it and read the files")
        .with("members", count)
        .with("names", archive.len()))
}

fn opened_zip(bytes: &FileBytes) -> Result<ZipArchive<BufReader<Cursor>>> {
    ZipArchive::new(BufReader::new(bytes.cursor())).map_err(zip_fault)
}

/// Unpacks members into one content; how long each is.
fn unzip(
    mut archive: ZipArchive<BufReader<Cursor>>,
    names: &[String],
    places: &[usize],
    cap: u64,
) -> Result<(Content, Vec<u64>)> {
    let mut lengths = Vec::new();
    let content = rewrite(cap, |target| {
        for (at, name) in places.iter().zip(names) {
            lengths.push(unzip_one(&mut archive, *at, target).map_err(|e| e.with("member", name))?);
        }
        Ok(())
    })?;
    Ok((content, lengths))
}

fn unzip_one(archive: &mut ZipArchive<BufReader<Cursor>>, at: usize, target: &mut Capped) -> Result<u64> {
    let mut from = archive.by_index(at).map_err(zip_fault)?;
    io::copy(&mut from, target).map_err(|e| damaged("the zip archive", e))
}

fn zip_fault(error: ZipError) -> Error {
    match error {
        ZipError::Io(e) => damaged("the zip archive", e),
        ZipError::CompressionMethodNotSupported(method) => {
            Error::schema("the zip archive is compressed in a way that is not read; unpack it first")
                .with("method", method)
        }
        other => {
            corrupt("the zip archive is damaged or cut off; copy or download the file again").caused_by(other)
        }
    }
}

/// The files of a tar archive, where they stand.
fn tar(bytes: &FileBytes) -> Result<Found> {
    const BLOCK_BYTES: u64 = 512;
    let cut_off = || damaged("the tar archive", io::ErrorKind::UnexpectedEof.into());
    let is_whole = bytes.len().is_multiple_of(BLOCK_BYTES);
    let fault = |e| if is_whole { damaged("the tar archive", e) } else { cut_off() };
    let mut archive = tar::Archive::new(bytes.cursor());
    let (mut files, mut left_out) = (Vec::new(), Vec::new());
    for entry in archive.entries_with_seek().map_err(fault)? {
        let entry = entry.map_err(fault)?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        match entry.header().entry_type() {
            EntryType::Regular | EntryType::Continuous if is_other(&name) => left_out.push(name),
            EntryType::Regular | EntryType::Continuous if files.len() < MAX_MEMBERS => {
                let part = bytes.part(entry.raw_file_position(), entry.size());
                files.push((name.clone(), part.ok_or_else(|| cut_off().with("member", name))?));
            }
            EntryType::Directory => {}
            _ => left_out.push(name),
        }
    }
    Ok((files, left_out))
}
