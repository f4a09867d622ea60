//! The bytes of an open file, read by position, so that many readers share one handle.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;
use parquet::errors::Result as ParquetResult;
use parquet::file::reader::{ChunkReader, Length};
use qmtl_history_api::{Error, ErrorKind, Result};

use super::handles::Reopened;
use super::spool::Content;

/// A file's bytes, or a part of them.
#[derive(Clone, Debug)]
pub(super) struct FileBytes {
    file: Handle,
    /// Where the part begins, and how long it is.
    start: u64,
    len: u64,
}

#[derive(Clone, Debug)]
enum Handle {
    /// Open as long as somebody reads it.
    Held(Arc<File>),
    /// Closed at times.
    Reopened(Arc<Reopened>),
}

impl FileBytes {
    /// The bytes of a file that stays open.
    pub(super) fn new(file: File) -> io::Result<Self> {
        let len = file.metadata()?.len();
        Ok(Self { file: Handle::Held(Arc::new(file)), start: 0, len })
    }

    /// The bytes of a file that may be closed meanwhile; `again` opens the same one.
    pub(super) fn reopened(
        file: File,
        again: impl Fn() -> Result<File> + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let len = file.metadata()?.len();
        let same = move || {
            let file = again()?;
            // What was unpacked again is as long as it was, or the scan tells of other bytes.
            if file.metadata().map_err(io_error)?.len() == len { Ok(file) } else { Err(changed()) }
        };
        Ok(Self { file: Handle::Reopened(Reopened::new(file, same)), start: 0, len })
    }

    /// What `rewrite` makes of these bytes. A large content may be closed, and is made again then.
    pub(super) fn rewritten(
        &self,
        rewrite: impl Fn(&Self) -> Result<Content> + Send + Sync + 'static,
    ) -> Result<Self> {
        let content = rewrite(self)?;
        let origin = self.clone();
        Self::unpacked(content, move || rewrite(&origin))
    }

    /// A content that was unpacked; `again` unpacks it once more where it was closed.
    pub(super) fn unpacked(
        content: Content,
        again: impl Fn() -> Result<Content> + Send + Sync + 'static,
    ) -> Result<Self> {
        match content.shared() {
            Ok((file, start, len)) => Ok(Self { file: Handle::Held(file), start, len }),
            Err(content) => {
                let again = move || again()?.into_file();
                Self::reopened(content.into_file()?, again).map_err(io_error)
            }
        }
    }

    /// So many of the bytes from `at` on; `None` where there are fewer.
    pub(super) fn part(&self, at: u64, len: u64) -> Option<Self> {
        let is_inside = at.checked_add(len).is_some_and(|end| end <= self.len);
        is_inside.then(|| Self { file: self.file.clone(), start: self.start + at, len })
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Fills `buffer` from `at` on as far as the file goes; the number of bytes read.
    pub(super) fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        let file = self.open()?;
        let mut filled = 0;
        while filled < buffer.len() {
            match self.read_some(&file, &mut buffer[filled..], at + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(filled)
    }

    /// A reader of its own position.
    pub(super) fn cursor(&self) -> Cursor {
        Cursor { bytes: self.clone(), at: 0, file: None }
    }

    fn open(&self) -> io::Result<Arc<File>> {
        match &self.file {
            Handle::Held(file) => Ok(Arc::clone(file)),
            Handle::Reopened(file) => file.get().map_err(io::Error::other),
        }
    }

    fn read_some(&self, file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        let left = usize::try_from(self.len.saturating_sub(at)).unwrap_or(usize::MAX);
        let length = buffer.len().min(left);
        if length == 0 { Ok(0) } else { read_some_at(file, &mut buffer[..length], self.start + at) }
    }
}

/// That a file is not what it was.
pub(super) fn changed() -> Error {
    Error::new(ErrorKind::Conflict, "the file changed after it was opened; open it again")
}

/// An error of the operating system, or of a file that was to be opened again. Whoever knows the file's name adds it.
pub(super) fn io_error(cause: io::Error) -> Error {
    let cause = match cause.downcast::<Error>() {
        Ok(error) => return error,
        Err(cause) => cause,
    };
    let (kind, message) = match cause.kind() {
        io::ErrorKind::NotFound => (ErrorKind::NotFound, "the file does not exist"),
        _ => (ErrorKind::Unavailable, "cannot read the file"),
    };
    Error::new(kind, message).retryable(false).caused_by(cause)
}

/// An error about bytes that are not what their format promises.
pub(super) fn corrupt(message: &str) -> Error {
    Error::new(ErrorKind::Corrupt, message)
}

/// What a decoder makes of bytes; `Corrupt` where it panics, as it does on some that nobody wrote.
pub(super) fn decoded<T>(decode: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(decode))
        .unwrap_or_else(|_| Err(corrupt("cannot read the file: it is damaged or cut off")))
}

#[cfg(unix)]
fn read_some_at(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, buffer, at)
}

#[cfg(windows)]
fn read_some_at(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, buffer, at)
}

/// A position in a file that no other reader moves. It keeps the file open from its first read on.
#[derive(Clone, Debug)]
pub(super) struct Cursor {
    bytes: FileBytes,
    at: u64,
    file: Option<Arc<File>>,
}

impl Read for Cursor {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let file = match &self.file {
            Some(file) => file,
            None => self.file.insert(self.bytes.open()?),
        };
        let count = self.bytes.read_some(file, buffer, self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

impl Seek for Cursor {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.bytes.len.checked_add_signed(by),
        };
        self.at = target.ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, "seek before the start of the file")
        })?;
        Ok(self.at)
    }
}

impl Length for FileBytes {
    fn len(&self) -> u64 {
        self.len
    }
}

impl ChunkReader for FileBytes {
    type T = BufReader<Cursor>;

    fn get_read(&self, start: u64) -> ParquetResult<Self::T> {
        Ok(BufReader::new(Cursor { at: start, ..self.cursor() }))
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<Bytes> {
        // The length comes from the file: never reserve more than the file holds.
        if start.checked_add(length as u64).is_none_or(|end| end > self.len) {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        let mut buffer = vec![0; length];
        if self.read_at(&mut buffer, start)? < length {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        Ok(buffer.into())
    }
}
