//! What a Parquet footer claims, checked before it is believed: its decoder counts through the elements of fields that
//! it does not know, two thousand million of them in a list of a few bytes where an element takes none.
//!
//! The encoding is Thrift's compact protocol, <https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md>.

use qmtl_history_api::Result;

use crate::file::bytes::{FileBytes, corrupt, io_error};

const MAGIC: &[u8] = b"PAR1";
/// The footer's length and the magic at the end.
const TRAILER_BYTES: usize = 8;
/// How deep structures may lie in each other, which is as deep as the decoder goes.
const DEEPEST: usize = 64;

/// `Corrupt` for a footer in which something is longer than what is left of it. One that is not there, or that is
/// encrypted, is left to the decoder.
pub(super) fn check_footer(bytes: &FileBytes) -> Result<()> {
    let mut trailer = [0; TRAILER_BYTES];
    let trailer_at = bytes.len().saturating_sub(TRAILER_BYTES as u64);
    bytes.read_at(&mut trailer, trailer_at).map_err(io_error)?;
    let (length, magic) = trailer.split_at(4);
    let length = u64::from(u32::from_le_bytes(length.try_into().unwrap_or_default()));
    let (Some(footer_at), true) = (trailer_at.checked_sub(length), magic == MAGIC) else { return Ok(()) };
    let mut footer = vec![0; usize::try_from(length).unwrap_or_default()];
    bytes.read_at(&mut footer, footer_at).map_err(io_error)?;
    let mut rest = Rest(&footer);
    rest.fields(0).ok_or_else(|| {
        corrupt("the footer of the Parquet file claims more than it holds: it is damaged or cut off")
    })
}

/// What was not read yet; `None` of every step is a claim that it cannot fulfil.
struct Rest<'a>(&'a [u8]);

impl Rest<'_> {
    fn skip(&mut self, count: usize) -> Option<()> {
        self.0 = self.0.get(count..)?;
        Some(())
    }

    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn number(&mut self) -> Option<usize> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return usize::try_from(number).ok();
            }
        }
        None
    }

    /// The fields of a structure, up to its end.
    fn fields(&mut self, depth: usize) -> Option<()> {
        loop {
            let head = self.byte()?;
            if head == 0 {
                return Some(());
            }
            if head >> 4 == 0 {
                self.number()?;
            }
            match head & 0xf {
                // The value is the type.
                1 | 2 => {}
                kind => self.value(kind, depth)?,
            }
        }
    }

    fn value(&mut self, kind: u8, depth: usize) -> Option<()> {
        match kind {
            _ if depth == DEEPEST => None,
            3 => self.skip(1),
            4..=6 => self.number().map(drop),
            7 => self.skip(8),
            8 => self.number().and_then(|length| self.skip(length)),
            9 | 10 => {
                let head = self.byte()?;
                let count = if head >> 4 == 15 { self.number()? } else { usize::from(head >> 4) };
                self.elements(count, &[head & 0xf], depth)
            }
            11 => match self.number()? {
                0 => Some(()),
                count => {
                    let kinds = self.byte()?;
                    self.elements(count, &[kinds >> 4, kinds & 0xf], depth)
                }
            },
            12 => self.fields(depth + 1),
            13 => self.skip(16),
            _ => None,
        }
    }

    /// As many elements, each of a value of every kind. No footer has any of booleans, which the decoder cannot skip.
    fn elements(&mut self, count: usize, kinds: &[u8], depth: usize) -> Option<()> {
        if count > self.0.len() {
            return None;
        }
        for _ in 0..count {
            kinds.iter().try_for_each(|kind| self.value(*kind, depth + 1))?;
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// A file that ends with this footer.
    fn file(footer: &[u8]) -> FileBytes {
        let length = u32::try_from(footer.len()).unwrap().to_le_bytes();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[MAGIC, footer, &length, MAGIC].concat()).unwrap();
        FileBytes::new(file).unwrap()
    }

    #[test]
    fn a_list_is_as_long_as_its_bytes_allow() {
        // Field 1 of type list: two integers; two thousand million of them; of booleans; one that is cut off.
        assert!(check_footer(&file(&[0x19, 0x25, 2, 4, 0])).is_ok());
        for footer in
            [&[0x19, 0xf5, 0xff, 0xff, 0xff, 0xff, 0x07, 0][..], &[0x19, 0x21, 1, 1, 0], &[0x19, 0x25, 2]]
        {
            let error = check_footer(&file(footer)).unwrap_err().to_string();
            assert!(error.contains("claims more than it holds"), "{footer:?}: {error}");
        }
    }

    #[test]
    fn structures_end_and_lie_in_each_other_only_so_deep() {
        let nested = |depth: usize| [vec![0x1c; depth], vec![0; depth + 1]].concat();
        assert!(check_footer(&file(&nested(60))).is_ok());
        assert!(check_footer(&file(&nested(100))).is_err());
        assert!(check_footer(&file(&[0x1c, 0])).is_err());
    }

    #[test]
    fn what_is_no_footer_is_left_to_the_decoder() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"PAR1 and no end").unwrap();
        assert!(check_footer(&FileBytes::new(file).unwrap()).is_ok());
    }
}
