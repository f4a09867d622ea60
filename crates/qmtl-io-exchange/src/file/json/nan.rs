//! Numbers that JSON does not have and Python writes all the same: `NaN`, `Infinity` and `-Infinity`. They become text, as
//! which they are numbers of a table again.

use std::io::{BufRead, BufReader, Write};

use qmtl_history_api::Result;

use crate::file::bytes::{FileBytes, io_error};
use crate::file::unpack::{Capped, rewrite_text};

const WORDS: [&[u8]; 3] = [b"NaN", b"Infinity", b"-Infinity"];

/// The same JSON with quotes around such numbers; `None` where it has none.
pub(super) fn quoted(bytes: &FileBytes, cap: u64) -> Result<Option<FileBytes>> {
    let mut found = false;
    each_word(bytes, |word| {
        found |= WORDS.contains(&word);
        Ok(())
    })?;
    if !found {
        return Ok(None);
    }
    let write = move |bytes: &FileBytes, target: &mut Capped| {
        each_word(bytes, |word| {
            let is_quoted = WORDS.contains(&word);
            let parts = if is_quoted { [b"\"", word, b"\""] } else { [b"", word, b""] };
            parts.iter().try_for_each(|part| target.write_all(part)).map_err(io_error)
        })
    };
    bytes.rewritten(move |bytes| rewrite_text(cap, |target| write(bytes, target))).map(Some)
}

/// Gives a file in pieces, of which each word outside of a text is one.
fn each_word(bytes: &FileBytes, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let mut reader = BufReader::new(bytes.cursor());
    let (mut piece, mut is_word, mut is_text, mut is_escaped) = (Vec::new(), false, false, false);
    loop {
        let block = reader.fill_buf().map_err(io_error)?;
        if block.is_empty() {
            return take(&piece);
        }
        for byte in block {
            let is_of_word = !is_text && (byte.is_ascii_alphabetic() || *byte == b'-');
            if is_of_word != is_word || piece.len() >= 4_096 {
                take(&piece)?;
                piece.clear();
                is_word = is_of_word;
            }
            piece.push(*byte);
            let is_quote = *byte == b'"' && !is_escaped;
            is_escaped = is_text && *byte == b'\\' && !is_escaped;
            is_text ^= is_quote;
        }
        let length = block.len();
        reader.consume(length);
    }
}
