//! Cuts text into lines and fields. Lines without quotes are cut where they stand; the others go
//! through `csv-core`.

use std::ops::Index;

use csv_core::{ReadRecordResult, Reader, ReaderBuilder, Terminator};
use memchr::memchr3_iter;

use super::MAX_LINE_BYTES;

/// The most fields of a line.
const MAX_FIELDS: usize = 4_096;

/// Why a line cannot be cut.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum SplitFault {
    TooLong,
    TooManyFields,
    OpenQuote,
}

impl SplitFault {
    pub(super) fn message(&self) -> &'static str {
        match self {
            Self::TooLong => "a line is longer than 64 KiB",
            Self::TooManyFields => "a line has more than 4096 fields",
            Self::OpenQuote => "a quote is opened and not closed",
        }
    }
}

/// The fields of one line.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record<'a> {
    text: &'a [u8],
    ends: &'a [usize],
    /// Bytes between two fields: the delimiter, where fields are cut out of the line as it stands.
    gap: usize,
    /// How many bytes it and what is skipped before it take, its line end included.
    bytes: usize,
    /// The line that the record starts in, counted from 1.
    pub(super) line: u64,
}

impl<'a> Record<'a> {
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The field at `index`, which must be less than [`Record::len`].
    pub(super) fn field(&self, index: usize) -> &'a [u8] {
        field(self.text, self.ends, self.gap, index)
    }

    /// The fields to keep.
    pub(super) fn to_fields(self) -> Fields {
        Fields { text: self.text.into(), ends: self.ends.into(), gap: self.gap }
    }

    /// How many bytes it and what is skipped before it take, its line end included.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The head of a field as a message quotes it.
    pub(super) fn quote(&self, index: usize) -> String {
        Self::quoted(self.field(index))
    }

    /// The head of a field, quoted.
    pub(super) fn quoted(field: &[u8]) -> String {
        let head = field.get(..80).unwrap_or(field);
        format!("{:?}", String::from_utf8_lossy(head))
    }
}

fn field<'a>(text: &'a [u8], ends: &[usize], gap: usize, index: usize) -> &'a [u8] {
    let start = if index == 0 { 0 } else { ends[index - 1] + gap };
    &text[start..ends[index]]
}

/// The fields of a line that are kept: a thousand lines of each of ten thousand files are, so that one field is not an
/// allocation.
#[derive(Clone, Debug)]
pub(super) struct Fields {
    text: Box<[u8]>,
    ends: Box<[usize]>,
    gap: usize,
}

impl Fields {
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn get(&self, index: usize) -> Option<&[u8]> {
        (index < self.len()).then(|| &self[index])
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.len()).map(|index| &self[index])
    }
}

impl Index<usize> for Fields {
    type Output = [u8];

    fn index(&self, index: usize) -> &[u8] {
        field(&self.text, &self.ends, self.gap, index)
    }
}

/// Reads records from the start of a buffer on.
pub(super) struct Records<'b> {
    buffer: &'b [u8],
    splitter: &'b mut Splitter,
    /// True when the file ends with the buffer, so that its last line needs no line end.
    at_end: bool,
    /// Where the next record starts.
    pub(super) position: usize,
    /// The line in which it starts.
    pub(super) line: u64,
}

/// Memory that is used again for every record.
#[derive(Debug)]
pub(super) struct Splitter {
    ends: Vec<usize>,
    text: Vec<u8>,
    quoted: Reader,
    delimiter: u8,
}

impl Splitter {
    pub(super) fn new(delimiter: u8) -> Self {
        let quoted = ReaderBuilder::new().delimiter(delimiter).terminator(Terminator::Any(b'\n')).build();
        Self { ends: Vec::with_capacity(16), text: Vec::new(), quoted, delimiter }
    }

    /// The records of `buffer`, the first of which starts in `line`.
    pub(super) fn records<'b>(&'b mut self, buffer: &'b [u8], line: u64, at_end: bool) -> Records<'b> {
        Records { buffer, splitter: self, at_end, position: 0, line }
    }

    /// Cuts the quoted record at the start of `rest`: bytes used, `None` when it is not complete.
    fn cut_quoted(&mut self, rest: &[u8], at_end: bool) -> Result<Option<usize>, SplitFault> {
        self.quoted.reset();
        self.text.resize(MAX_LINE_BYTES, 0);
        self.ends.resize(MAX_FIELDS, 0);
        let window = &rest[..rest.len().min(MAX_LINE_BYTES + 1)];
        let (mut outcome, used, mut written, mut fields) =
            self.quoted.read_record(window, &mut self.text, &mut self.ends);
        if outcome == ReadRecordResult::InputEmpty && at_end && window.len() == rest.len() {
            if !ends_outside_quotes(rest) {
                return Err(SplitFault::OpenQuote);
            }
            let (last, _, more_text, more_fields) =
                self.quoted.read_record(&[], &mut self.text[written..], &mut self.ends[fields..]);
            (outcome, written, fields) = (last, written + more_text, fields + more_fields);
        }
        match outcome {
            ReadRecordResult::Record => {}
            ReadRecordResult::OutputEndsFull => return Err(SplitFault::TooManyFields),
            ReadRecordResult::OutputFull => return Err(SplitFault::TooLong),
            ReadRecordResult::InputEmpty | ReadRecordResult::End if window.len() > MAX_LINE_BYTES => {
                return Err(SplitFault::TooLong);
            }
            ReadRecordResult::InputEmpty | ReadRecordResult::End => return Ok(None),
        }
        self.ends.truncate(fields);
        // The carriage return of the line's end is no part of its last field.
        let line = rest[..used].strip_suffix(b"\n").unwrap_or(&rest[..used]);
        if line.ends_with(b"\r")
            && let Some(last) = self.ends.last_mut()
        {
            *last -= 1;
        }
        self.text.truncate(written);
        Ok(Some(used))
    }
}

/// Whether a record that has no line end is complete: every quote of it has its partner.
fn ends_outside_quotes(record: &[u8]) -> bool {
    memchr::memchr_iter(b'"', record).count().is_multiple_of(2)
}

impl Records<'_> {
    /// The next record that is not an empty line; `None` when the buffer holds no complete one.
    pub(super) fn next(&mut self) -> Result<Option<Record<'_>>, SplitFault> {
        let (delimiter, start) = (self.splitter.delimiter, self.position);
        loop {
            let rest = &self.buffer[self.position..];
            if rest.is_empty() {
                return Ok(None);
            }
            let line = self.line;
            self.splitter.ends.clear();
            let mut stop = rest.len();
            for at in memchr3_iter(delimiter, b'\n', b'"', rest) {
                if rest[at] == delimiter {
                    self.splitter.ends.push(at);
                } else {
                    stop = at;
                    break;
                }
            }
            if rest.get(stop) == Some(&b'"') {
                let Some(used) = self.splitter.cut_quoted(rest, self.at_end)? else { return Ok(None) };
                self.position += used;
                self.line += memchr::memchr_iter(b'\n', &rest[..used]).count() as u64;
                return Ok(Some(Record {
                    text: &self.splitter.text,
                    ends: &self.splitter.ends,
                    gap: 0,
                    bytes: self.position - start,
                    line,
                }));
            }
            if stop >= MAX_LINE_BYTES {
                return Err(SplitFault::TooLong);
            }
            if stop == rest.len() && !self.at_end {
                return Ok(None);
            }
            self.position += rest.len().min(stop + 1);
            self.line += 1;
            let end = if rest[..stop].ends_with(b"\r") { stop - 1 } else { stop };
            if end == 0 {
                continue;
            }
            if self.splitter.ends.len() >= MAX_FIELDS {
                return Err(SplitFault::TooManyFields);
            }
            self.splitter.ends.push(end);
            let bytes = self.position - start;
            return Ok(Some(Record { text: &rest[..end], ends: &self.splitter.ends, gap: 1, bytes, line }));
        }
    }
}

#[cfg(test)]
mod tests;
