//! What text is before it is read as a table: its encoding and line ends, and whether it is a table at all.

use std::io::{BufRead, BufReader, Write};

use qmtl_history_api::{Error, Result};

use super::bytes::{FileBytes, io_error};
use super::unpack::{Capped, rewrite_text};

/// How many bytes tell what a content is.
const HEAD_BYTES: usize = 64 * 1024;

/// Which byte of a UTF-16 unit comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Little,
    Big,
}

/// Formats that are not read, by how they begin, and what to do about it.
const FOREIGN: [(&[u8], &str); 7] = [
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive; unpack it first"),
    (b"Rar!\x1a\x07", "a RAR archive; unpack it first"),
    (b"SQLite format 3\0", "an SQLite database; export the table as CSV or Parquet"),
    (b"\x89HDF\r\n\x1a\n", "HDF5; write the table as CSV or Parquet"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook; save its sheet as CSV"),
    (b"%PDF-", "a PDF document, not data"),
    (b"Obj\x01", "Avro; write the table as CSV or Parquet"),
];

/// Whether a content of no known format may be text.
pub(super) fn is_text(bytes: &FileBytes) -> Result<bool> {
    let head = head(bytes)?;
    let is_control = |byte: u8| matches!(byte, 0..=8 | 14..=25 | 28..=31);
    // Without a way out in between, which would have each byte looked at alone.
    let has_controls = head.iter().fold(false, |has, byte| has | is_control(*byte));
    Ok(encoding(&head).is_some() || !has_controls)
}

/// A text as UTF-8 with lines that end in LF, and what was changed for that; `None` where it is so already.
///
/// `Schema` for what is no table, naming what it is.
pub(super) fn plain(bytes: &FileBytes, cap: u64) -> Result<(Option<FileBytes>, Vec<String>)> {
    let mut notes = Vec::new();
    let start = head(bytes)?;
    let mut text = None;
    if let Some((order, mark)) = encoding(&start) {
        notes.push("the text is UTF-16".to_owned());
        text = Some(
            bytes.rewritten(move |bytes| rewrite_text(cap, |target| decode(bytes, order, mark, target)))?,
        );
    } else if start.starts_with(b"\xff\xfe\0\0") || start.starts_with(b"\0\0\xfe\xff") {
        return Err(Error::schema("the file is UTF-32 text; save it as UTF-8"));
    }
    let now = text.as_ref().unwrap_or(bytes);
    let start = if text.is_some() { head(now)? } else { start };
    refuse_foreign(&start)?;
    if !start.contains(&b'\n') && start.contains(&b'\r') && !has_lf(now)? {
        let changed = now.rewritten(move |bytes| rewrite_text(cap, |target| end_in_lf(bytes, target)))?;
        notes.push("lines end in CR alone".to_owned());
        text = Some(changed);
    }
    Ok((text, notes))
}

/// The first bytes of a content.
pub(super) fn head(bytes: &FileBytes) -> Result<Vec<u8>> {
    let mut head = vec![0; usize::try_from(bytes.len()).unwrap_or(usize::MAX).min(HEAD_BYTES)];
    let count = bytes.read_at(&mut head, 0).map_err(io_error)?;
    head.truncate(count);
    Ok(head)
}

/// The lines at the beginning and at the end of a text that has more bytes than this; `None` where it has not.
pub(super) fn sample(bytes: &FileBytes, most: u64) -> Result<Option<FileBytes>> {
    if bytes.len() <= most {
        return Ok(None);
    }
    let half = usize::try_from(most / 2).unwrap_or(usize::MAX);
    let rewrite = move |bytes: &FileBytes| {
        let part = |at: u64| {
            let mut part = vec![0; half];
            let count = bytes.read_at(&mut part, at).map_err(io_error)?;
            part.truncate(count);
            Ok::<_, Error>(part)
        };
        let (first, last) = (part(0)?, part(bytes.len() - half as u64)?);
        let end = first.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let start = last.iter().position(|byte| *byte == b'\n').map_or(last.len(), |at| at + 1);
        rewrite_text(most, |target| {
            target.write_all(&first[..end]).and_then(|()| target.write_all(&last[start..])).map_err(io_error)
        })
    };
    bytes.rewritten(rewrite).map(Some)
}

/// The order of UTF-16, if a content is that, and how many bytes its mark takes.
fn encoding(head: &[u8]) -> Option<(Order, u64)> {
    const FEWEST_BYTES: usize = 8;
    match head {
        [0xff, 0xfe, 0, 0, ..] => None,
        [0xff, 0xfe, ..] => Some((Order::Little, 2)),
        [0xfe, 0xff, ..] => Some((Order::Big, 2)),
        _ if head.len() >= FEWEST_BYTES => {
            // Text of ASCII, as tables begin, has a zero in every unit.
            let first = &head[..head.len().min(256) & !1];
            let are = |is: fn(u8, u8) -> bool| first.chunks_exact(2).all(|pair| is(pair[0], pair[1]));
            if are(|low, high| low != 0 && high == 0) {
                Some((Order::Little, 0))
            } else {
                are(|high, low| low != 0 && high == 0).then_some((Order::Big, 0))
            }
        }
        _ => None,
    }
}

fn decode(bytes: &FileBytes, order: Order, mark: u64, target: &mut Capped) -> Result<()> {
    let damaged = || Error::schema("the file is UTF-16 text, but damaged or cut off; save it as UTF-8");
    if !(bytes.len() - mark).is_multiple_of(2) {
        return Err(damaged());
    }
    let (mut at, mut block, mut units, mut text) = (mark, vec![0; HEAD_BYTES], Vec::new(), String::new());
    loop {
        let count = bytes.read_at(&mut block, at).map_err(io_error)?;
        at += count as u64;
        units.extend(block[..count].chunks_exact(2).map(|pair| match order {
            Order::Little => u16::from_le_bytes([pair[0], pair[1]]),
            Order::Big => u16::from_be_bytes([pair[0], pair[1]]),
        }));
        // The first half of a pair waits for the second one.
        let is_half = |unit: &u16| (0xd800..0xdc00).contains(unit);
        let half = units.pop_if(|unit| count > 0 && is_half(unit));
        text.clear();
        for unit in char::decode_utf16(units.drain(..)) {
            text.push(unit.map_err(|_| damaged())?);
        }
        units.extend(half);
        target.write_all(text.as_bytes()).map_err(io_error)?;
        if count == 0 {
            return Ok(());
        }
    }
}

fn has_lf(bytes: &FileBytes) -> Result<bool> {
    let mut reader = BufReader::with_capacity(HEAD_BYTES, bytes.cursor());
    loop {
        let block = reader.fill_buf().map_err(io_error)?;
        if block.is_empty() || block.contains(&b'\n') {
            return Ok(!block.is_empty());
        }
        let length = block.len();
        reader.consume(length);
    }
}

/// Writes a text with LF for CR.
fn end_in_lf(bytes: &FileBytes, target: &mut Capped) -> Result<()> {
    let mut reader = BufReader::with_capacity(HEAD_BYTES, bytes.cursor());
    loop {
        let block = reader.fill_buf().map_err(io_error)?;
        if block.is_empty() {
            return Ok(());
        }
        let changed: Vec<u8> = block.iter().map(|byte| if *byte == b'\r' { b'\n' } else { *byte }).collect();
        target.write_all(&changed).map_err(io_error)?;
        reader.consume(changed.len());
    }
}

/// Whether a text begins as JSON does.
pub(super) fn is_json(bytes: &FileBytes) -> Result<bool> {
    let head = head(bytes)?;
    let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&head).trim_ascii_start();
    let next = || text.get(1..).unwrap_or_default().trim_ascii_start().first().copied();
    Ok(match text.first() {
        Some(b'{') => next().is_none_or(|byte| b"\"}".contains(&byte)),
        Some(b'[') => next().is_none_or(|byte| byte.is_ascii_digit() || b"{[]\"-".contains(&byte)),
        _ => false,
    })
}

fn refuse_foreign(head: &[u8]) -> Result<()> {
    let refuse = |what: String| Err(Error::schema(what));
    if let Some((_, what)) = FOREIGN.iter().find(|(mark, _)| head.starts_with(mark)) {
        return refuse(format!("the file is {what}"));
    }
    let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start();
    let begins =
        |with: &str| text.get(..with.len()).is_some_and(|start| start.eq_ignore_ascii_case(with.as_bytes()));
    if begins("<!doctype html") || begins("<html") || begins("<head") {
        return refuse(
            "the file is an HTML page, not data: the download has failed or needs a login".to_owned(),
        );
    }
    if begins("<?xml") {
        return refuse("the file is XML, not a table; write it as CSV or Parquet".to_owned());
    }
    Ok(())
}
