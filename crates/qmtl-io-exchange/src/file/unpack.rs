//! Files that cannot be read at random are rewritten, up to a cap.

use std::io::{self, BufReader, Read, Write};

use bzip2::read::MultiBzDecoder;
use flate2::read::MultiGzDecoder;
use lzma_rust2::XzReader;
use qmtl_history_api::{Error, Result};
use tempfile::SpooledTempFile;

use super::bytes::{FileBytes, corrupt, io_error};
use super::spool::{Content, no_room, unpacking};

/// How much memory xz may ask for, in KiB: its strongest preset takes a quarter of that.
const XZ_MEMORY_KIB: u32 = 256 << 10;

/// Writes up to a number of bytes and remembers why it could not.
#[derive(Debug)]
pub(super) struct Capped {
    file: SpooledTempFile,
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

/// What `fill` writes, at most `cap` bytes.
pub(super) fn rewrite(cap: u64, fill: impl FnOnce(&mut Capped) -> Result<()>) -> Result<Content> {
    let too_much = "the file unpacks to more than the cap and may be a decompression bomb; raise the cap if it is not \
                    (with_max_unpacked_bytes)";
    written(cap, too_much, fill)
}

/// Text that `fill` writes otherwise than its file has it.
pub(super) fn rewrite_text(cap: u64, fill: impl FnOnce(&mut Capped) -> Result<()>) -> Result<Content> {
    let too_much = "as UTF-8 with usual line ends the file is larger than the cap; raise the cap (with_max_unpacked_bytes)";
    written(cap, too_much, fill)
}

/// What comes out of a pipe up to its end, which is read more than once.
pub(super) fn stream(mut from: impl Read, cap: u64) -> Result<FileBytes> {
    let too_much =
        "the pipe holds more than the cap; raise the cap if that is right (with_max_unpacked_bytes)";
    let content = written(cap, too_much, |target| io::copy(&mut from, target).map(drop).map_err(io_error))?;
    FileBytes::new(content.into_file()?).map_err(no_room)
}

fn written(cap: u64, too_much: &str, fill: impl FnOnce(&mut Capped) -> Result<()>) -> Result<Content> {
    let mut target = Capped { file: unpacking(), left: cap, failed: None };
    let filled = fill(&mut target);
    match target.failed {
        Some(Fault::TooMuch) => Err(Error::invalid(too_much).with("cap_bytes", cap)),
        Some(Fault::Io(e)) => Err(no_room(e)),
        None => filled.map(|()| Content::of(target.file)),
    }
}

/// How one file is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    Gzip,
    Zstandard,
    Xz,
    Bzip2,
}

impl Compression {
    /// What the first bytes of a file tell.
    pub(super) fn of(head: &[u8]) -> Option<Self> {
        match head {
            [0x1f, 0x8b, ..] => Some(Self::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Self::Zstandard),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Self::Xz),
            // The size of a block, and the first block or the end: text may begin with the letters alone.
            [b'B', b'Z', b'h', b'1'..=b'9', b'1', b'A', b'Y', ..]
            | [b'B', b'Z', b'h', b'1'..=b'9', 0x17, 0x72, 0x45, ..] => Some(Self::Bzip2),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstandard => "Zstandard",
            Self::Xz => "xz",
            Self::Bzip2 => "bzip2",
        }
    }

    /// The file that was compressed, at most `cap` bytes of it.
    pub(super) fn unpack(self, bytes: &FileBytes, cap: u64) -> Result<FileBytes> {
        bytes.rewritten(move |bytes| {
            let from = BufReader::new(bytes.cursor());
            rewrite(cap, |target| {
                let copied = match self {
                    Self::Gzip => io::copy(&mut MultiGzDecoder::new(from), target),
                    Self::Zstandard => zstd::stream::read::Decoder::with_buffer(from)
                        .and_then(|mut from| io::copy(&mut from, target)),
                    Self::Xz => io::copy(&mut XzReader::new_mem_limit(from, true, XZ_MEMORY_KIB), target),
                    Self::Bzip2 => io::copy(&mut MultiBzDecoder::new(from), target),
                };
                copied.map(drop).map_err(|e| damaged(&format!("the {} data", self.name()), e))
            })
        })
    }
}

/// That `what` ends early, or is not what it should be.
pub(super) fn damaged(what: &str, cause: io::Error) -> Error {
    let cause = match cause.downcast::<Error>() {
        Ok(error) => return error,
        Err(cause) => cause,
    };
    let how = match cause.kind() {
        io::ErrorKind::UnexpectedEof => "cut off; copy or download the file again",
        io::ErrorKind::OutOfMemory => "packed so that it takes more than 256 MiB of memory; pack it anew",
        _ => "damaged; copy or download the file again",
    };
    corrupt(&format!("{what} is {how}")).caused_by(cause)
}
