//! Footers that no writer wrote, in files whose checksums hold: whatever they say, a file is read or found damaged.

use std::path::Path;

use qmtl_history_api::{ErrorKind, Result, TimeRange};

use crate::disk::Folder;
use crate::file::{self, StoredFile};
use crate::footer::Footer;
use crate::layout::Partition;

/// A footer's text; what can be read is written so that it is read again.
fn text(text: &str) -> Result<()> {
    let path = Path::new("x.parquet");
    let (footer, checksums) = Footer::decode(text, path)?;
    if let Some(partition) = footer.partition {
        assert_eq!(Partition::parse(footer.key.interval, &partition.name()), Some(partition));
    }
    let again = footer.encode(checksums.chunks.clone())?;
    let (footer_again, checksums_again) = Footer::decode(&again, path)?;
    assert_eq!((footer_again, checksums_again.chunks), (footer, checksums.chunks), "{text}");
    Ok(())
}

/// A whole file, whose rows are read.
fn whole(folder: &Path, bytes: &[u8]) -> Result<()> {
    let path = folder.join("0000000001.parquet");
    std::fs::write(&path, file::rehashed(bytes)).expect("the file is written");
    let file = StoredFile::open(&Folder::new(folder), &path)?.expect("the file is there");
    file.read(TimeRange::ALL, file.schema()).map(drop)
}

#[test]
fn footers() {
    let folder = tempfile::tempdir().expect("a folder for the file");
    bolero::check!(name = "footers").with_iterations(0).for_each(|bytes: &[u8]| {
        let read = match std::str::from_utf8(bytes) {
            Ok(json) if json.starts_with('{') => text(json),
            _ => whole(folder.path(), bytes),
        };
        if let Err(error) = read {
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
        }
    });
}

#[cfg(feature = "s3")]
#[test]
fn bucket_urls() {
    bolero::check!(name = "bucket_urls").with_iterations(0).for_each(|bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        // A user, a password and a query are refused, so that none of them can be shown.
        let secret = format!("s3://key:ZqXjZqXj{text}@bucket/prefix");
        let _ = crate::disk::bucket::prefix(&text);
        if let Err(error) = crate::disk::bucket::prefix(&secret) {
            // A URL has no tabs and line breaks: they are left out of it.
            let plain: String = text.chars().filter(|c| !"\t\n\r".contains(*c)).collect();
            assert!(!format!("{error:?}").contains("ZqXjZqXj") || plain.contains("ZqXj"), "{error:?}");
        }
    });
}
