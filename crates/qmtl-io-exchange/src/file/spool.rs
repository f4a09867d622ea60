//! Where unpacked contents lie: small ones behind each other in a few temporary files without names, large ones in one
//! each. Ten thousand small archives would otherwise be as many open files, or be unpacked whenever they are read.

use std::fs::File;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use qmtl_history_api::{Error, ErrorKind, Result};
use tempfile::{SpooledData, SpooledTempFile, spooled_tempfile};

/// The largest content that lies with others, and is in memory until then.
const SMALL_BYTES: usize = 1 << 20;

/// How much lies in one file, and the most files that are used at a time.
const FILE_BYTES: u64 = 256 << 20;
const MAX_FILES: usize = 8;

/// The files in which somebody still reads; new contents go to the last one.
static FILES: Mutex<Vec<Shared>> = Mutex::new(Vec::new());

/// A temporary file of many contents.
#[derive(Debug)]
struct Shared {
    file: Weak<File>,
    used: u64,
}

/// A content that is being written.
pub(super) fn unpacking() -> SpooledTempFile {
    spooled_tempfile(SMALL_BYTES)
}

/// A content that was written.
#[derive(Debug)]
pub(super) struct Content(SpooledData);

impl Content {
    pub(super) fn of(written: SpooledTempFile) -> Self {
        Self(written.into_inner())
    }

    /// The file in which a small content lies from now on, where in it and how many bytes; the content again where it is
    /// too large, or small ones take as much room as they may.
    pub(super) fn shared(self) -> Result<(Arc<File>, u64, u64), Self> {
        let SpooledData::InMemory(content) = &self.0 else { return Err(self) };
        let content = content.get_ref();
        let place = place_of(content.len() as u64);
        match place.filter(|(file, start)| write_at(file, content, *start).is_ok()) {
            Some((file, start)) => Ok((file, start, content.len() as u64)),
            None => Err(self),
        }
    }

    /// A file of its own.
    pub(super) fn into_file(self) -> Result<File> {
        match self.0 {
            SpooledData::OnDisk(file) => Ok(file),
            SpooledData::InMemory(content) => {
                let mut file = tempfile::tempfile().map_err(no_room)?;
                file.write_all(content.get_ref()).map_err(no_room)?;
                Ok(file)
            }
        }
    }
}

/// Sets so many bytes of a file aside; `None` where there is no room.
fn place_of(bytes: u64) -> Option<(Arc<File>, u64)> {
    let mut files = FILES.lock().unwrap_or_else(PoisonError::into_inner);
    files.retain(|shared| shared.file.strong_count() > 0);
    if let Some(last) = files.last_mut().filter(|last| last.used + bytes <= FILE_BYTES)
        && let Some(file) = last.file.upgrade()
    {
        let start = last.used;
        last.used += bytes;
        return Some((file, start));
    }
    if files.len() >= MAX_FILES {
        return None;
    }
    let file = Arc::new(tempfile::tempfile().ok()?);
    files.push(Shared { file: Arc::downgrade(&file), used: bytes });
    Some((file, 0))
}

/// That there is no room for what is unpacked.
pub(super) fn no_room(cause: io::Error) -> Error {
    Error::new(ErrorKind::Storage, "cannot unpack into a temporary file; make room there, or set TMPDIR")
        .with("folder", std::env::temp_dir().display())
        .caused_by(cause)
}

#[cfg(unix)]
fn write_at(file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, at)
}

#[cfg(windows)]
fn write_at(file: &File, mut bytes: &[u8], mut at: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        let count = std::os::windows::fs::FileExt::seek_write(file, bytes, at)?;
        (bytes, at) = (&bytes[count..], at + count as u64);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek, SeekFrom};

    use super::*;

    fn content(bytes: &[u8]) -> Content {
        let mut written = unpacking();
        written.write_all(bytes).expect("there is room");
        Content::of(written)
    }

    #[test]
    fn small_contents_lie_in_one_file_and_large_ones_in_their_own() {
        let (one, start, length) = content(b"abc").shared().expect("it is small");
        let (other, behind, _) = content(b"defg").shared().expect("it is small");
        assert_eq!(length, 3);
        if Arc::ptr_eq(&one, &other) {
            assert!(behind >= start + 3, "no content is written over another one");
        }
        let mut read = [0; 4];
        let mut file = &*other;
        file.seek(SeekFrom::Start(behind)).and_then(|_| file.read_exact(&mut read)).expect("it is there");
        assert_eq!(&read, b"defg");
        let large = content(&vec![7; SMALL_BYTES + 1]).shared().expect_err("it is large");
        assert_eq!(
            large.into_file().expect("it is a file").metadata().expect("it is open").len(),
            (1 << 20) + 1
        );
        // Where small ones have no more room.
        assert_eq!(
            content(b"abc").into_file().expect("it is written").metadata().expect("it is open").len(),
            3
        );
    }
}
