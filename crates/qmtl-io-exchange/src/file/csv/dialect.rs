//! How a text file is cut into rows and columns: detected from its first lines, or said.

use qmtl_history_api::{Error, Result};

use super::MAX_LINE_BYTES;
use super::layout::epoch;
use super::number::{Notation, Signs, is_null, number};
use super::split::{Fields, Record, SplitFault, Splitter};
use crate::file::columns;
use crate::file::config::FileConfig;
use crate::file::table::EMPTY;
use crate::file::time::{TimeFormat, parse_iso};

/// What fields may be separated by, and what is said of it.
const DELIMITERS: [(u8, &str); 4] = [(b',', "commas"), (b';', "semicolons"), (b'\t', "tabs"), (b'|', "bars")];

/// How many fields blanks must part to be what separates them: times have blanks as well.
const FEWEST_BLANK_FIELDS: usize = 5;

/// The most rows that are looked at.
const SAMPLE_ROWS: usize = 1_000;

/// The most lines before the header or the first row.
const MAX_JUNK_LINES: usize = 100;

/// How a file is written, and its first rows.
#[derive(Clone, Debug)]
pub(super) struct Dialect {
    pub(super) delimiter: u8,
    pub(super) notation: Notation,
    /// The columns' names, as many as a row has fields; one may be empty. `None` where there is no header.
    pub(super) header: Option<Vec<String>>,
    /// The byte and the line at which the first row starts.
    pub(super) start: usize,
    pub(super) line: u64,
    /// The number of fields of a row.
    pub(super) width: usize,
    /// The fields of the first rows.
    pub(super) sample: Vec<Fields>,
    /// What is not as in a plain file, for people.
    pub(super) notes: Vec<String>,
}

/// A line that was cut.
#[derive(Clone, Debug)]
struct Line {
    fields: Fields,
    /// The byte behind it and the line that starts there.
    end: usize,
    next: u64,
    /// The byte behind the line before, and the line that starts there.
    start: usize,
    line: u64,
    /// The line in which its first field stands.
    shown: u64,
}

/// Looks at the first lines of a file, which ends with them if `at_end`.
///
/// `Schema` for what has no rows or cannot be cut, `InvalidInput` where something must be said that the file does not
/// say.
pub(super) fn detect(text: &[u8], at_end: bool, config: &FileConfig) -> Result<Dialect> {
    let (skipped, first_line) = skip(text, config.skipped_lines)?;
    let body = &text[skipped..];
    let delimiter = match config.delimiter {
        Some(delimiter) => delimiter,
        None if is_parted_by_blanks(body, at_end) => b' ',
        None => delimiter_of(body, at_end),
    };
    let lines = cut(body, delimiter, first_line, at_end);
    let lines = lines.map_err(|(fault, line)| Error::schema(fault.message()).with("line", line))?;
    if lines.iter().flat_map(|line| line.fields.iter()).all(|field| field.trim_ascii().is_empty()) {
        return Err(Error::schema(EMPTY));
    }
    let width = usual_width(&lines);
    let Place { header, index, first } = header(&lines, width, config)?;
    let mut notes = Vec::new();
    if delimiter != b',' {
        let name = match DELIMITERS.iter().find(|(known, _)| *known == delimiter) {
            Some((_, name)) => name,
            None if delimiter == b' ' => "blanks",
            None => "another sign",
        };
        notes.push(format!("columns are separated by {name}"));
    }
    match header.unwrap_or(first) {
        0 => {}
        1 => notes.push("1 line before the table is left out".to_owned()),
        junk => notes.push(format!("{junk} lines before the table are left out")),
    }
    match index.zip(header).map_or(0, |(index, header)| index - header) {
        0 => {}
        1 => notes.push("1 line below the header is left out".to_owned()),
        more => notes.push(format!("{more} lines below the header are left out")),
    }
    let (start, line) = match (lines.get(first), lines.last()) {
        (Some(row), _) => (row.start, row.line),
        (None, Some(last)) => (last.end, last.next),
        (None, None) => (0, 1),
    };
    let header = match header {
        None => None,
        Some(at) => {
            let mut names = names(&lines[at])?;
            if let Some(index) = index {
                names[0] = self::names(&lines[index])?.swap_remove(0);
            }
            Some(names)
        }
    };
    let rows = lines.into_iter().skip(first).filter(|line| line.fields.len() == width);
    let mut sample: Vec<Fields> = rows.map(|line| line.fields).collect();
    if at_end {
        take_footer_off(&mut sample);
    }
    let header = match header {
        Some(names) if !sample.is_empty() => Some(
            fit(names, &sample, width, config)
                .map_err(|e| e.with("line", line).with("value", Record::quoted(&sample[0][0])))?,
        ),
        header => header,
    };
    let width = header.as_ref().map_or(width, Vec::len);
    let notation = notation(&sample, config)?;
    if !notation.is_plain() {
        notes.push("a comma stands before the fraction of numbers".to_owned());
    }
    Ok(Dialect { delimiter, notation, header, start: skipped + start, line, width, sample, notes })
}

/// Whether text looks like a table of candles: most of its lines have one number of fields, and two of these or more
/// are numbers or times.
pub(in crate::file) fn is_table(text: &[u8]) -> bool {
    let at_end = text.len() < MAX_LINE_BYTES;
    let lines = cut(text, delimiter_of(text, at_end), 1, at_end).unwrap_or_default();
    let width = usual_width(&lines);
    let is_value = |field: &&[u8]| number(field).is_some() || is_time(field);
    let is_row = |line: &&Line| line.fields.len() == width && line.fields.iter().filter(is_value).count() > 1;
    let rows = lines.iter().filter(is_row).count();
    rows > 0 && rows * 2 >= lines.len()
}

/// Where the text starts behind so many lines, and the number of the line there.
fn skip(text: &[u8], lines: u64) -> Result<(usize, u64)> {
    let mut start = 0;
    for line in 0..lines {
        let Some(end) = memchr::memchr(b'\n', &text[start..]) else {
            return Err(Error::invalid(
                "the file begins with fewer lines than are to be skipped (with_skipped_lines)",
            )
            .with("lines", line + 1));
        };
        start += end + 1;
    }
    Ok((start, lines + 1))
}

/// The first lines of a text; a fault in any but the first one ends them.
fn cut(text: &[u8], delimiter: u8, first_line: u64, at_end: bool) -> Result<Vec<Line>, (SplitFault, u64)> {
    let mut splitter = Splitter::new(delimiter);
    let mut records = splitter.records(text, first_line, at_end);
    let mut lines: Vec<Line> = Vec::new();
    while lines.len() < SAMPLE_ROWS + MAX_JUNK_LINES {
        let line = records.line;
        let (fields, shown) = match records.next() {
            Ok(Some(record)) => (record.to_fields(), record.line),
            Ok(None) => break,
            Err(fault) if lines.is_empty() => return Err((fault, line)),
            Err(_) => break,
        };
        let start = lines.last().map_or(0, |last: &Line| last.end);
        lines.push(Line { fields, end: records.position, next: records.line, start, line, shown });
    }
    Ok(lines)
}

/// Whether nothing but blanks can separate the columns of a table.
fn is_parted_by_blanks(text: &[u8], at_end: bool) -> bool {
    let occurs = |(delimiter, _): &(u8, &str)| memchr::memchr(*delimiter, text).is_some();
    if DELIMITERS.iter().any(occurs) {
        return false;
    }
    let lines = cut(text, b' ', 1, at_end).unwrap_or_default();
    let width = usual_width(&lines);
    width >= FEWEST_BLANK_FIELDS && lines.iter().all(|line| line.fields.len() == width)
}

/// The delimiter that cuts most lines into one and the same number of fields.
fn delimiter_of(text: &[u8], at_end: bool) -> u8 {
    let fit = |delimiter: u8| {
        let lines = cut(text, delimiter, 1, at_end).unwrap_or_default();
        let width = usual_width(&lines);
        let lines = lines.iter().filter(|line| line.fields.len() == width && width > 1).count();
        // Of two that fit alike it is hardly the comma, which numbers have too.
        (lines, delimiter != b',' && width > 2, width)
    };
    let occurs = |delimiter: &u8| memchr::memchr(*delimiter, text).is_some();
    // Most texts have one of them alone, and need not be cut to tell.
    let occurring: Vec<u8> = DELIMITERS.iter().map(|(delimiter, _)| *delimiter).filter(occurs).collect();
    match occurring[..] {
        [only] => only,
        _ => {
            let fits = occurring.iter().rev().map(|delimiter| (fit(*delimiter), *delimiter));
            let best = fits.max_by_key(|(fit, _)| *fit).filter(|((lines, ..), _)| *lines > 0);
            best.map_or(b',', |(_, delimiter)| delimiter)
        }
    }
}

/// The number of fields that most lines have, the larger one of two.
fn usual_width(lines: &[Line]) -> usize {
    let mut widths: Vec<usize> = lines.iter().map(|line| line.fields.len()).collect();
    widths.sort_unstable();
    let usual = widths.chunk_by(|a, b| a == b).max_by_key(|same| (same.len(), same[0]));
    usual.map_or(0, |same| same[0])
}

/// The places of what comes first in a file.
#[derive(Clone, Copy, Debug)]
struct Place {
    header: Option<usize>,
    /// A line below the header that names its first column, as tables with several header lines have it.
    index: Option<usize>,
    /// The first row.
    first: usize,
}

/// Finds the header among the first lines, if there is one, and the first row.
///
/// `InvalidInput` where a line may be either, or is a row of another shape: no row is left out as if it were none.
fn header(lines: &[Line], width: usize, config: &FileConfig) -> Result<Place> {
    let is_given = !config.columns.is_empty();
    if config.has_header == Some(true) {
        return Ok(Place { header: Some(0), index: None, first: 1 });
    }
    let is_row = |line: &Line| match config.has_header {
        Some(_) => line.fields.len() == width,
        None => line.fields.len() == width && (width > 1 || is_given) && !is_header(line),
    };
    let head = &lines[..lines.len().min(MAX_JUNK_LINES)];
    let found = head.iter().position(is_row);
    let before = &lines[..found.unwrap_or(head.len())];
    if let Some(line) = before.iter().find(|line| line.fields.len() > 1 && is_time(&line.fields[0])) {
        return Err(Error::schema(
            "a line does not have as many fields as most; correct it, or leave the lines up to it out \
             (with_skipped_lines)",
        )
        .with("line", line.shown)
        .with("fields", line.fields.len())
        .with("expected", width));
    }
    if config.has_header == Some(false) || is_given {
        // Names that are given stand for the header's.
        return Ok(Place { header: None, index: None, first: found.unwrap_or(0) });
    }
    let has_time = |line: &Line| {
        let is_of = |(at, field): (usize, &[u8])| {
            std::str::from_utf8(field).is_ok_and(|field| columns::is_time(name_of(field, at)))
        };
        line.fields.iter().enumerate().any(is_of)
    };
    let may_be = |line: &&Line| line.fields.len() > 1 && is_header(line);
    let candidates = || before.iter().enumerate().filter(|(_, line)| may_be(line));
    let exact = |line: &Line| line.fields.len() == width;
    let header = candidates()
        .find(|(_, line)| exact(line) && has_time(line) && !is_index(line))
        .or_else(|| candidates().find(|(_, line)| exact(line)))
        .or_else(|| candidates().find(|(_, line)| has_time(line)));
    if let Some((at, _)) = header {
        let index = (at + 1..before.len()).find(|at| exact(&lines[*at]) && is_index(&lines[*at]));
        let index = index.filter(|at| has_time(&lines[*at]));
        return Ok(Place { header: Some(at), index, first: index.unwrap_or(at) + 1 });
    }
    if let Some(first) = found {
        return Ok(Place { header: None, index: None, first });
    }
    if width <= 1 && !is_header(&lines[0]) {
        return Err(Error::schema(
            "the file has one column and no header; say what separates its columns (with_delimiter), or write a comma \
             between them",
        )
        .with("line", Record::quoted(&lines[0].fields[0])));
    }
    // One column may be a list of times.
    Ok(Place { header: Some(0), index: None, first: 1 })
}

/// Whether most fields of a line are words, and none is a time.
fn is_header(line: &Line) -> bool {
    let (mut words, mut values) = (0, 0);
    for field in line.fields.iter() {
        let field = field.trim_ascii();
        let starts = |is: fn(&u8) -> bool| field.first().is_some_and(is);
        let is_quantity =
            starts(|b| b.is_ascii_digit() || b"+-.$".contains(b)) || field.starts_with(b"\xe2\x82\xac");
        if field.is_empty() {
            continue;
        }
        if is_quantity || is_null(field) || field.eq_ignore_ascii_case(b"nan") {
            values += 1;
        } else {
            words += 1;
        }
    }
    words > values && !line.fields.iter().any(is_time)
}

/// Whether a line says nothing but the name of the first column.
fn is_index(line: &Line) -> bool {
    let is_empty = |field: &[u8]| field.trim_ascii().is_empty();
    line.fields.len() > 2 && !is_empty(&line.fields[0]) && line.fields.iter().skip(1).all(is_empty)
}

/// Whether a field can only be a time: no name of a column is one.
pub(super) fn is_time(field: &[u8]) -> bool {
    const FEWEST_DIGITS: usize = 5;
    let Ok(text) = std::str::from_utf8(field) else { return false };
    let text = text.trim();
    let digits = text.bytes().filter(u8::is_ascii_digit).count();
    digits >= FEWEST_DIGITS
        && (epoch(text.as_bytes()).is_some_and(|value| value >= 10_000_000)
            || parse_iso(text).is_some()
            || TimeFormat::of(&std::iter::once(text)).is_some())
}

/// The names in a header: without the signs that some programs put around or before them, each of its own.
fn names(line: &Line) -> Result<Vec<String>> {
    let mut names: Vec<String> = Vec::new();
    for (at, field) in line.fields.iter().enumerate() {
        let name = std::str::from_utf8(field).map_err(|_| {
            Error::schema(
                "the header is not UTF-8; save the file as UTF-8, or name its columns (with_columns)",
            )
            .with("line", line.shown)
            .with("column", at + 1)
        })?;
        names.push(name_of(name, at).to_owned());
    }
    Ok(names)
}

/// The name that the field at a place of a header is.
pub(super) fn name_of(field: &str, at: usize) -> &str {
    let name = field.trim();
    let name = if at == 0 { name.trim_start_matches('#').trim_start() } else { name };
    name.strip_prefix('<').and_then(|name| name.strip_suffix('>')).unwrap_or(name)
}

/// Brings a header that has one name more or less than rows have fields to their number, where the rows tell which.
///
/// `InvalidInput` where they do not: names would stand above values of another column.
fn fit(mut header: Vec<String>, sample: &[Fields], width: usize, config: &FileConfig) -> Result<Vec<String>> {
    let is_empty = |at: usize| sample.iter().all(|row| row[at].trim_ascii().is_empty());
    // One or two digits and a colon.
    let is_clock = |field: &[u8]| {
        let field = field.trim_ascii();
        let digits = field.iter().take_while(|b| b.is_ascii_digit()).count();
        (1..=2).contains(&digits) && field.get(digits) == Some(&b':')
    };
    let has_clock = |row: &Fields| row.len() > 2 && is_clock(&row[1]) && !is_clock(&row[0]);
    if header.len() == width + 1 && header.last().is_some_and(String::is_empty) {
        header.pop();
    } else if header.len() + 1 == width && is_empty(width - 1) {
        header.push(String::new());
    } else if header.len() + 1 == width && sample.iter().all(has_clock) {
        // A date and a time of day below one name.
        header.insert(1, "time".to_owned());
    }
    if header.len() == width || !config.columns.is_empty() {
        header.resize(width, String::new());
        return Ok(header);
    }
    Err(Error::invalid(
        "the header has not as many names as rows have fields; name all columns in their order (with_columns)",
    )
    .with("names", header.len())
    .with("fields", width)
    .with("columns", header.join(", ")))
}

/// Takes the last rows off that have a word for a time, such as a line of totals: they tell nothing of the others.
fn take_footer_off(sample: &mut Vec<Fields>) {
    let time = sample.first().and_then(|row| row.iter().position(is_time));
    let Some(time) = time else { return };
    while sample.pop_if(|row| is_word(&row[time])).is_some() {}
}

/// Whether a field in place of a time is a word, as a line of totals has.
pub(super) fn is_word(field: &[u8]) -> bool {
    !field.trim_ascii().is_empty() && !field.iter().any(u8::is_ascii_digit)
}

fn notation(sample: &[Fields], config: &FileConfig) -> Result<Notation> {
    if let Some(decimal) = config.decimal {
        return Ok(Notation { decimal, is_grouped: true });
    }
    let mut signs = Signs::default();
    sample.iter().flat_map(Fields::iter).for_each(|field| signs.add(field));
    signs.notation().ok_or_else(|| {
        let is_it = |field: &&[u8]| field.contains(&b',') && field.iter().any(u8::is_ascii_digit);
        let shown = sample.iter().flat_map(Fields::iter).find(is_it).unwrap_or_default();
        Error::invalid(
            "a comma in the numbers of the file may stand before a fraction or between thousands; say which one it is \
             (with_decimal)",
        )
        .with("value", Record::quoted(shown))
    })
}
