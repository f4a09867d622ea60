//! Sees to it that a file which is read as one series is one: otherwise the rows of several series would be
//! stored under one name.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use qmtl_history_api::{Error, Result};

use crate::kline;

/// Words that a column which tells series apart is called by.
const NAMES: [&str; 28] = [
    "symbol",
    "symbols",
    "ticker",
    "tickers",
    "pair",
    "instrument",
    "name",
    "code",
    "contract",
    "sym",
    "stock",
    "asset",
    "security",
    "isin",
    "cusip",
    "figi",
    "ric",
    "coin",
    "market",
    "product",
    "sedol",
    "permno",
    "gvkey",
    "cik",
    "conid",
    "sid",
    "scrip",
    "underlying",
];

/// The last words of `instrument_id` and the like.
const ID_WORDS: [&str; 5] = ["id", "key", "no", "nr", "number"];

/// What a name without any border between its words ends with, such as `tscode`.
const ENDINGS: [&str; 6] = ["symbol", "ticker", "instrument", "contract", "security", "code"];

/// Words that say yes or no. A column of them tells a state, such as whether a candle is closed.
const FLAGS: [&str; 8] = ["true", "false", "t", "f", "yes", "no", "y", "n"];

/// The most values by which a column may tell series apart.
const MAX_VALUES: usize = 1 << 14;

/// The most columns that are looked at for what they hold, and not for their names.
const MAX_UNNAMED: usize = 64;

/// The most times of which the values are remembered; of more, a sample is.
const MAX_TIMES: usize = 4_096;

const REMEDY: &str = "say which column tells them apart (with_symbol_column), or take this one out of the file if it \
                      does not";

/// What the type of a column says about its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holds {
    Text,
    /// Text or numbers; the values tell.
    Anything,
    /// Neither text nor integers.
    Other,
}

/// Looks at the columns of a file that may tell series apart, row by row.
///
/// Memory is bounded whatever the file's size. A column of numbers with fractions costs nothing after its
/// first row.
#[derive(Clone, Debug, Default)]
pub(super) struct OneSeries {
    suspects: Vec<Suspect>,
    times: Times,
    /// What the place of a row is called: its line or its row.
    place: &'static str,
}

/// A column that may tell series apart.
#[derive(Clone, Debug)]
struct Suspect {
    at: usize,
    name: String,
    /// Named as if it did, so that its second value decides.
    is_named: bool,
    is_text: bool,
    /// The value of the last row that has one, and its hash.
    last: Vec<u8>,
    hash: u64,
    /// Rows that have a value.
    rows: u64,
    /// The first row that has none.
    blank: Option<u64>,
    /// The hashes of its values, as long as they are few.
    seen: HashSet<u64>,
    /// The first value.
    first: Vec<u8>,
    /// The first value that is another one, and where it stands.
    second: Option<(Vec<u8>, u64)>,
    /// No value has come back after another one.
    is_in_blocks: bool,
    /// Some value is neither a flag nor a time.
    has_names: bool,
    /// It holds numbers that are no ids, or more values than there can be series.
    is_cleared: bool,
}

impl OneSeries {
    /// Looks at payload columns given by place, name and type. `place` is what the place of a row is called in
    /// messages: `line` or `row`.
    pub(super) fn new<'a>(
        place: &'static str,
        columns: impl Iterator<Item = (usize, &'a str, Holds)>,
    ) -> Self {
        let mut unnamed = 0;
        let suspects = columns.filter_map(|(at, name, holds)| {
            let is_named = tells_series_apart(name);
            if !is_named && (holds == Holds::Other || kline::canonical(name).is_some()) {
                return None;
            }
            unnamed += usize::from(!is_named);
            (is_named || unnamed <= MAX_UNNAMED).then(|| Suspect {
                at,
                name: name.to_owned(),
                is_named,
                is_text: holds == Holds::Text,
                last: Vec::new(),
                hash: 0,
                rows: 0,
                blank: None,
                seen: HashSet::new(),
                first: Vec::new(),
                second: None,
                is_in_blocks: true,
                has_names: false,
                is_cleared: false,
            })
        });
        Self { suspects: suspects.collect(), times: Times::default(), place }
    }

    /// The places of the columns to look at.
    pub(super) fn places(&self) -> impl Iterator<Item = usize> {
        self.suspects.iter().map(|suspect| suspect.at)
    }

    /// Looks at a row, whose fields `field` gives by place; an empty one says nothing. `row` is its line or its
    /// number.
    ///
    /// `InvalidInput` at the second value of a column that is named as if it told series apart.
    #[inline]
    pub(super) fn row<'a>(&mut self, time: i64, row: u64, field: impl Fn(usize) -> &'a [u8]) -> Result<()> {
        if self.suspects.is_empty() { Ok(()) } else { self.look(time, row, field) }
    }

    fn look<'a>(&mut self, time: i64, row: u64, field: impl Fn(usize) -> &'a [u8]) -> Result<()> {
        let mut values = self.times.of(time);
        let mut is_any_cleared = false;
        for suspect in &mut self.suspects {
            let value = field(suspect.at).trim_ascii();
            if value.is_empty() {
                suspect.blank = suspect.blank.or(Some(row));
                continue;
            }
            suspect.take(value, row);
            if suspect.is_named && suspect.second.is_some() {
                return Err(suspect.refusal("the file holds several series", self.place));
            }
            is_any_cleared |= suspect.is_cleared;
            if let Some(values) = values.as_deref_mut().filter(|_| !suspect.is_named) {
                match values.iter_mut().find(|(at, ..)| *at == suspect.at) {
                    Some((_, hash, differ)) => *differ |= *hash != suspect.hash,
                    None => values.push((suspect.at, suspect.hash, false)),
                }
            }
        }
        if is_any_cleared {
            self.suspects.retain(|suspect| !suspect.is_cleared);
        }
        Ok(())
    }

    /// What all rows together say: `InvalidInput` where a column tells series apart, whatever it is called.
    /// Otherwise the only value of a column that is named as if it did, with that column's name.
    pub(super) fn finish(mut self) -> Result<Option<(String, String)>> {
        // Where a column of text and one of integers both do, the text is what people know.
        self.suspects.sort_by_key(|suspect| !suspect.is_text);
        for suspect in self.suspects.iter().filter(|suspect| !suspect.is_named) {
            if suspect.repeats_times(&self.times) {
                return Err(suspect.refusal(
                    "the file looks like several series: rows of one time have different values in a column",
                    self.place,
                ));
            }
            if suspect.changes_in_blocks() {
                return Err(suspect.refusal(
                    "the file looks like several series one after another: a column has one value for many rows and \
                     then another one",
                    self.place,
                ));
            }
        }
        let sole = self.suspects.into_iter().find(|suspect| suspect.is_named && suspect.rows > 0);
        if let Some((suspect, row)) = sole.as_ref().and_then(|suspect| Some((suspect, suspect.blank?))) {
            let message = "a row has no value in the column that names the series of all others; correct it, or take \
                           the column out of the file if it does not name series";
            return Err(Error::invalid(message).with("column", &suspect.name).with(self.place, row));
        }
        Ok(sole.map(|suspect| (suspect.name, String::from_utf8_lossy(&suspect.first).into_owned())))
    }
}

impl Suspect {
    /// Takes the value of a row.
    fn take(&mut self, value: &[u8], row: u64) {
        self.rows += 1;
        if self.rows > 1 && self.last == value {
            return;
        }
        if !self.is_named && !self.is_text {
            let is_integer = value.iter().all(u8::is_ascii_digit);
            self.is_text =
                has_leading_zeros(value) || (!is_integer && lexical_core::parse::<f64>(value).is_err());
            self.is_cleared = !is_integer && !self.is_text;
        }
        let mut hasher = DefaultHasher::new();
        value.hash(&mut hasher);
        self.hash = hasher.finish();
        if self.rows == 1 {
            self.first = head(value);
        } else if self.second.is_none() {
            self.second = Some((head(value), row));
        }
        self.last.clear();
        self.last.extend_from_slice(value);
        let is_new = self.seen.insert(self.hash);
        self.is_in_blocks &= is_new;
        self.has_names = self.has_names || !is_flag_or_time(value);
        self.is_cleared |= !self.is_named && self.seen.len() > MAX_VALUES;
    }

    /// A value stands in two rows or more on average.
    fn repeats(&self) -> bool {
        self.rows >= 2 * self.seen.len() as u64
    }

    /// For a good part of the times rows of one time differ in this column.
    fn repeats_times(&self, times: &Times) -> bool {
        let own = || times.values.values().flatten().filter(|(at, ..)| *at == self.at);
        let (all, differing) = (own().count(), own().filter(|(.., differ)| *differ).count());
        let is_good_part = differing >= 2 && differing * 10 >= all;
        let may_be_key = if self.is_text {
            // What is new in every row is a row's name and not a series'.
            all == 1 || (self.seen.len() as u64) < self.rows
        } else {
            self.repeats()
        };
        (is_good_part || (differing > 0 && differing == all)) && may_be_key
    }

    fn changes_in_blocks(&self) -> bool {
        let may_be_key = self.is_text || words(&self.name).last().is_some_and(|word| is_id_word(word));
        self.is_in_blocks && self.second.is_some() && self.repeats() && self.has_names && may_be_key
    }

    fn refusal(&self, why: &str, place: &'static str) -> Error {
        let shown = |value: &[u8]| format!("{:?}", String::from_utf8_lossy(value));
        let (second, row) = self.second.as_ref().map_or((&[][..], 0), |(value, row)| (value, *row));
        Error::invalid(format!("{why}; {REMEDY}"))
            .with("column", &self.name)
            .with("values", format_args!("{}, {}", shown(&self.first), shown(second)))
            .with(place, row)
    }
}

/// The values of rows by time, of all times or of a sample that is drawn by hash, so that rows of one time are
/// found wherever they stand in the file: the column, the hash of the first value, and whether another one came.
#[derive(Clone, Debug, Default)]
struct Times {
    values: HashMap<i64, Vec<(usize, u64, bool)>>,
    /// Times are in the sample whose hash starts with so many zeros.
    zeros: u32,
}

impl Times {
    /// The values of a time; `None` where it is not in the sample.
    fn of(&mut self, time: i64) -> Option<&mut Vec<(usize, u64, bool)>> {
        let zeros = |time: i64| {
            // Fibonacci hashing: multiples of an interval spread evenly over the upper bits.
            time.cast_unsigned().wrapping_mul(0x9e37_79b9_7f4a_7c15).leading_zeros()
        };
        while self.values.len() >= MAX_TIMES {
            self.zeros += 1;
            let wanted = self.zeros;
            self.values.retain(|time, _| zeros(*time) >= wanted);
        }
        (zeros(time) >= self.zeros).then(|| self.values.entry(time).or_default())
    }
}

/// Whether digits are a name and no number: `000001`.
pub(super) fn has_leading_zeros(digits: &[u8]) -> bool {
    digits.len() > 1 && digits[0] == b'0' && digits.iter().all(u8::is_ascii_digit)
}

/// The start of a value, as much of it as a message shows.
fn head(value: &[u8]) -> Vec<u8> {
    value[..value.len().min(80)].to_vec()
}

fn is_flag_or_time(value: &[u8]) -> bool {
    let is_of_time = |c: &u8| c.is_ascii_digit() || b"-/:. +TZ".contains(c);
    FLAGS.iter().any(|flag| value.eq_ignore_ascii_case(flag.as_bytes()))
        || (value.iter().all(is_of_time) && value.iter().any(|c| b"-/:".contains(c)))
}

/// Whether a column is named as if it told series apart, such as `symbol`, `ts_code`, `Instrument Name`,
/// `stockCode` or `security_id`.
fn tells_series_apart(name: &str) -> bool {
    let words = words(name);
    let Some((last, before)) = words.split_last() else { return false };
    let is_name = |word: &String| NAMES.contains(&word.as_str());
    is_name(last)
        || (is_id_word(last) && before.last().is_some_and(is_name))
        || ENDINGS.iter().any(|ending| last.ends_with(ending))
}

fn is_id_word(word: &str) -> bool {
    ID_WORDS.contains(&word)
}

/// The words of a column's name in lower case: cut where a character is no letter and before a capital that
/// follows a small letter.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut was_small = false;
    for c in name.chars() {
        if !c.is_alphanumeric() || (c.is_uppercase() && was_small) {
            words.push(String::new());
        }
        was_small = c.is_lowercase();
        if let Some(word) = words.last_mut().filter(|_| c.is_alphanumeric()) {
            word.extend(c.to_lowercase());
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests;
