//! Files that cannot be read at random are rewritten once into a temporary file without a name,
//! which is gone with its last handle. Its size is capped.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};

use flate2::read::MultiGzDecoder;
use qmtl_history_api::{Error, ErrorKind, Result};
use zip::ZipArchive;

use super::bytes::{FileBytes, corrupt, io_error};

/// Writes up to a number of bytes and remembers why it could not.
#[derive(Debug)]
pub(super) struct Capped {
    file: File,
    left: u64,
    failed: Option<Fault>,
}

#[derive(Debug)]
enum Fault {
    TooMuch,
    Io(io::Error),
}

impl Write for Capped {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() as u64 > self.left {
            self.failed = Some(Fault::TooMuch);
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let count = self.file.write(bytes).map_err(|e| {
            let kind = e.kind();
            self.failed = Some(Fault::Io(e));
            kind
        })?;
        self.left -= count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// The bytes that `fill` writes into a temporary file, at most `cap`.
pub(super) fn rewrite(cap: u64, fill: impl FnOnce(&mut Capped) -> Result<()>) -> Result<FileBytes> {
    let too_much = "the file unpacks to more than the cap and may be a decompression bomb; raise the cap if it is not \
                    (with_max_unpacked_bytes)";
    written(cap, too_much, fill)
}

/// Text that `fill` writes otherwise than its file has it.
pub(super) fn rewrite_text(cap: u64, fill: impl FnOnce(&mut Capped) -> Result<()>) -> Result<FileBytes> {
    let too_much = "as UTF-8 with usual line ends the file is larger than the cap; raise the cap (with_max_unpacked_bytes)";
    written(cap, too_much, fill)
}

/// What comes out of a pipe up to its end, which is read more than once.
pub(super) fn stream(mut from: impl Read, cap: u64) -> Result<FileBytes> {
    let too_much =
        "the pipe holds more than the cap; raise the cap if that is right (with_max_unpacked_bytes)";
    written(cap, too_much, |target| io::copy(&mut from, target).map(drop).map_err(io_error))
}

fn written(cap: u64, too_much: &str, fill: impl FnOnce(&mut Capped) -> Result<()>) -> Result<FileBytes> {
    let no_room = |e: io::Error| {
        Error::new(ErrorKind::Storage, "cannot unpack into a temporary file; make room there, or set TMPDIR")
            .with("folder", std::env::temp_dir().display())
            .caused_by(e)
    };
    let mut target = Capped { file: tempfile::tempfile().map_err(no_room)?, left: cap, failed: None };
    let filled = fill(&mut target);
    match target.failed {
        Some(Fault::TooMuch) => Err(Error::invalid(too_much).with("cap_bytes", cap)),
        Some(Fault::Io(e)) => Err(no_room(e)),
        None => {
            filled?;
            FileBytes::new(target.file).map_err(no_room)
        }
    }
}

/// The one file inside a zip archive.
pub(super) fn zip(bytes: &FileBytes, cap: u64) -> Result<FileBytes> {
    let damaged =
        |e| corrupt("cannot read the zip archive: it is damaged, cut off or encrypted").caused_by(e);
    let mut archive = ZipArchive::new(BufReader::new(bytes.cursor())).map_err(damaged)?;
    // A folder is no content, nor is what macOS adds beside each file.
    let is_content = |name: &str| !name.ends_with('/') && !name.starts_with("__MACOSX/");
    let mut names = Vec::new();
    for at in 0..archive.len() {
        let name = archive.by_index_raw(at).map_err(damaged)?.entry().name().map_err(damaged)?.into_owned();
        if is_content(&name) {
            names.push((at, name));
        }
    }
    if names.iter().any(|(_, name)| name == "xl/workbook.xml") {
        return Err(Error::schema("the file is an Excel workbook; save its sheet as CSV"));
    }
    let [(at, _)] = names[..] else {
        let first: Vec<_> = names.iter().take(5).map(|(_, name)| name.as_str()).collect();
        return Err(Error::schema(
            "a zip archive must hold exactly one CSV file; unpack it and read the files one by one",
        )
        .with("files", names.len())
        .with("names", first.join(", ")));
    };
    let entry = archive.by_index(at).map_err(damaged)?;
    rewrite(cap, |target| copy(entry, target))
}

/// A file compressed with gzip.
pub(super) fn gzip(bytes: &FileBytes, cap: u64) -> Result<FileBytes> {
    rewrite(cap, |target| copy(MultiGzDecoder::new(BufReader::new(bytes.cursor())), target))
}

fn copy(mut from: impl Read, target: &mut Capped) -> Result<()> {
    io::copy(&mut from, target)
        .map(|_| ())
        .map_err(|e| corrupt("cannot unpack the file: it is damaged or cut off").caused_by(e))
}
