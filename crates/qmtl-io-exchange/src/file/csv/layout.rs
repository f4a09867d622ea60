//! What the columns of a text file are: told by its header, by names that are given, or by what the rows prove.

use std::sync::Arc;

use qmtl_history_api::arrow_schema::DataType;
use qmtl_history_api::frame::NanRule;
use qmtl_history_api::{Error, Result};

use super::MAX_LINE_BYTES;
use super::dialect::{self, Dialect};
use super::number::{Notation, integer, is_null, number};
use super::split::Fields;
use crate::file::bytes::{FileBytes, io_error};
use crate::file::columns::{self, Payload, Roles};
use crate::file::config::{ColumnType, FileConfig};
use crate::file::one_series::{Holds, OneSeries, has_leading_zeros};
use crate::file::table::NO_ROWS;
use crate::file::time::{Reading, TimeFormat, parse_iso, parse_text};
use crate::file::zone::Local;
use crate::kline;

/// The mark that some editors put before UTF-8 text.
const BOM: &[u8] = b"\xef\xbb\xbf";

/// A payload column.
#[derive(Clone, Debug)]
pub(super) struct Column {
    /// Its place in a line.
    pub(super) at: usize,
    /// Its name in the header.
    pub(super) own: String,
    /// Its name in what is read.
    pub(super) name: String,
    /// Its type; `None` until the scan has seen whether all its values are numbers.
    pub(super) column_type: Option<ColumnType>,
}

impl Column {
    pub(super) fn data_type(&self) -> DataType {
        match self.column_type {
            Some(ColumnType::Int64) => DataType::Int64,
            Some(ColumnType::Utf8) => DataType::Utf8,
            Some(ColumnType::Float64) | None => DataType::Float64,
        }
    }
}

/// Where things stand in a line, and where the first row starts.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub(super) delimiter: u8,
    pub(super) notation: Notation,
    /// The header's fields, which may come again where files were joined.
    pub(super) header: Option<Vec<String>>,
    /// The number of fields of each line.
    pub(super) width: usize,
    /// The place of the time column and its name.
    pub(super) ts: usize,
    pub(super) ts_name: String,
    /// The place of the time of day, where the time column has only dates.
    pub(super) clock: Option<usize>,
    /// The place of the symbol column.
    pub(super) symbol: Option<usize>,
    pub(super) payload: Vec<Column>,
    /// What shows that all rows are of one series.
    pub(super) one_series: OneSeries,
    /// How the time column is read.
    pub(super) reading: Reading,
    /// How text in it is, if that is not ISO 8601.
    pub(super) format: Option<Arc<TimeFormat>>,
    /// How what it says becomes an instant.
    pub(super) local: Local,
    /// The place of the close time of klines.
    pub(super) close_time: Option<usize>,
    /// Whether rows of words for no value are rows with nulls, which a rule treats.
    pub(super) keeps_nulls: bool,
    /// Whether the columns are told by their number alone, so that each row must prove to be a kline.
    pub(super) is_bare: bool,
    /// The byte and the line at which the first row starts.
    pub(super) data_start: u64,
    pub(super) data_line: u64,
}

/// Reads the first lines of a file.
pub(super) fn detect(bytes: &FileBytes, config: &FileConfig) -> Result<(Layout, Vec<String>)> {
    let room = usize::try_from(bytes.len()).unwrap_or(usize::MAX);
    let mut head = vec![0; room.min(BOM.len() + 2 * MAX_LINE_BYTES)];
    let filled = bytes.read_at(&mut head, 0).map_err(io_error)?;
    head.truncate(filled);
    let text = head.strip_prefix(BOM).unwrap_or(&head);
    let at_end = filled as u64 == bytes.len();
    let dialect = dialect::detect(text, at_end, config)?;
    let mut notes = dialect.notes.clone();
    let is_bare = dialect.header.is_none() && config.columns.is_empty() && are_klines(&dialect);
    let own = if is_bare { kline_names() } else { own_names(config, &dialect, &mut notes)? };
    if dialect.sample.is_empty() && at_end && dialect.start == text.len() {
        return Err(Error::schema(NO_ROWS));
    }
    let own: Vec<_> = own.iter().map(String::as_str).collect();
    let names = distinct(columns::named(config, &own)?, &mut notes);
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let is_called = |wanted: &&String| names.iter().any(|own| columns::is_called(own, wanted));
    if let Some(name) = config.column_types.keys().find(|name| !is_called(name)) {
        return Err(
            Error::invalid("a type is declared for a column that the file lacks").with("column", name)
        );
    }
    let (roles, payload) = columns::find(config, &names, |places| choose_time(&dialect, places))?;
    let payload: Vec<_> = payload.into_iter().map(|column| typed(config, column)).collect();
    let has_value = |at: usize| dialect.sample.iter().any(|row| !row[at].trim_ascii().is_empty());
    let is_unread = |at: &usize| names[*at].is_empty() && *at != roles.ts && has_value(*at);
    if config.columns.is_empty() {
        let unread = (0..names.len()).filter(is_unread);
        notes.extend(unread.map(|at| format!("column {} has no name and is not read", at + 1)));
    }
    if let Some(wrong) = contradicted(&dialect, &payload) {
        // The names of a header are those of whoever wrote the file; others are a guess.
        if dialect.header.is_none() || !config.columns.is_empty() {
            return Err(wrong);
        }
        notes.push(
            "in nearly all rows the high is not the highest price or the low not the lowest".to_owned(),
        );
    }
    let one_series = match roles.symbol {
        Some(_) => OneSeries::default(),
        None => one_series(&payload),
    };
    let times = times(&dialect.sample, roles.ts, roles.clock);
    let (reading, format) =
        time_format(config, &times, &roles, names[roles.ts]).map_err(|e| e.with("line", dialect.line))?;
    if let Some(format) = &format {
        let zone = match config.zone {
            _ if format.tells_offset() => String::new(),
            Some(zone) => format!(" in {zone}"),
            None => " in UTC".to_owned(),
        };
        notes.push(format!("times are read as {format}{zone}"));
    }
    let local = Local::new(config.zone, config.stamp());
    // Both times of a kline would have to be read so.
    let close_time = roles.close_time.filter(|_| is_bare || local.is_plain());
    Ok((
        Layout {
            delimiter: dialect.delimiter,
            notation: dialect.notation,
            header: dialect.header,
            width: dialect.width,
            ts: roles.ts,
            ts_name: names[roles.ts].to_owned(),
            clock: roles.clock,
            symbol: roles.symbol,
            payload,
            one_series,
            reading,
            format: format.map(Arc::new),
            local,
            close_time,
            keeps_nulls: config.rules.nan != NanRule::Keep,
            is_bare,
            data_start: (head.len() - text.len() + dialect.start) as u64,
            data_line: dialect.line,
        },
        notes,
    ))
}

/// What is wrong where nearly all rows say that the columns called after prices hold others: a high below the low, or prices
/// outside of both. A few such rows are faults of the data, which are stored as they are.
fn contradicted(dialect: &Dialect, payload: &[Column]) -> Option<Error> {
    const FEWEST_ROWS: usize = 3;
    let at = |name: &str| payload.iter().find(|column| column.name == name).map(|column| column.at);
    let (Some(open), Some(high), Some(low), Some(close)) = (at("open"), at("high"), at("low"), at("close"))
    else {
        return None;
    };
    let (mut rows, mut wrong, mut first) = (0, 0, None);
    for row in &dialect.sample {
        let Some(prices) = prices(dialect, row, [open, high, low, close]) else { continue };
        rows += 1;
        if !is_candle(prices) {
            wrong += 1;
            let [open, high, low, close] = prices;
            first = first.or_else(|| Some(format!("open {open}, high {high}, low {low}, close {close}")));
        }
    }
    let first = first.filter(|_| wrong >= FEWEST_ROWS && wrong * 5 > rows * 4)?;
    let told = Error::invalid(
        "in nearly all rows the high is not the highest price or the low not the lowest, so the columns have other names; \
         name them all in their order (with_columns)",
    );
    Some(told.with("first", first))
}

/// Four numbers of a row; `None` unless all are finite.
fn prices(dialect: &Dialect, row: &Fields, places: [usize; 4]) -> Option<[f64; 4]> {
    let values = places.map(|at| dialect.notation.number(&row[at]).filter(|value| value.is_finite()));
    let [Some(first), Some(second), Some(third), Some(fourth)] = values else { return None };
    Some([first, second, third, fourth])
}

/// Whether four prices may be open, high, low and close.
fn is_candle([open, high, low, close]: [f64; 4]) -> bool {
    high >= open.max(close) && low <= open.min(close)
}

/// The names of the columns: given, in the header, or proven by the rows.
fn own_names(config: &FileConfig, dialect: &Dialect, notes: &mut Vec<String>) -> Result<Vec<String>> {
    match &dialect.header {
        _ if !config.columns.is_empty() => given_names(config, dialect),
        Some(header) => Ok(header.clone()),
        None => {
            let names = bare_names(dialect)?;
            notes.push(format!("there is no header: its columns are read as {}", names.join(", ")));
            Ok(names)
        }
    }
}

/// How the time column is read: integers by a unit that all of them tell, text by a format that is given or that the
/// first rows tell, or as ISO 8601.
fn time_format(
    config: &FileConfig,
    times: &[String],
    roles: &Roles,
    column: &str,
) -> Result<(Reading, Option<TimeFormat>)> {
    let is_integer = |time: &String| epoch(time.as_bytes()).is_some();
    match &config.time_format {
        Some(format) => Ok((Reading::Text, Some(format.clone()))),
        None if roles.clock.is_none() && times.first().is_some_and(is_integer) => {
            Ok((Reading::Undecided, None))
        }
        None => Ok((Reading::Text, written(times, column)?)),
    }
}

/// The times of rows as text, a date and a time of day as one.
fn times<'a>(sample: impl IntoIterator<Item = &'a Fields>, ts: usize, clock: Option<usize>) -> Vec<String> {
    let text = |field: &[u8]| String::from_utf8_lossy(field).trim().to_owned();
    let time = |row: &Fields| match clock {
        Some(clock) => format!("{} {}", text(&row[ts]), text(&row[clock])),
        None => text(&row[ts]),
    };
    sample.into_iter().map(time).collect()
}

/// The form of times in text where it is not ISO 8601 and the rows tell. `InvalidInput` where several fit.
fn written(times: &[String], column: &str) -> Result<Option<TimeFormat>> {
    let is_iso = |time: &String| parse_iso(time).is_some();
    if times.first().is_none_or(is_iso) {
        return Ok(None);
    }
    match TimeFormat::of(&times.iter().map(String::as_str)) {
        None => Ok(None),
        Some(Ok(format)) => Ok(Some(format)),
        Some(Err(forms)) => Err(Error::invalid(
            "the times of the file can be read in several ways; say which one is right (with_time_format)",
        )
        .with("column", column)
        .with("value", format_args!("{:?}", times[0]))
        .with("forms", forms.join(" or "))),
    }
}

/// Microseconds of sample times, if all can be read.
fn instants(times: &[String]) -> Option<Vec<i64>> {
    let values: Option<Vec<i64>> = times.iter().map(|time| epoch(time.as_bytes())).collect();
    if let Some(values) = values {
        let (min, max) = (*values.iter().min()?, *values.iter().max()?);
        let reading = Reading::of_integers(None, min, max).ok()?;
        let unit = reading.unit();
        let micros = |value: &i64| Some(unit.instant(reading.integer(*value).ok()?)?.as_micros());
        return values.iter().map(micros).collect();
    }
    let format = written(times, "").ok()?;
    times.iter().map(|time| parse_text(time, format.as_ref())).collect()
}

/// Of columns that may hold the time the one that does: the others say the same or less precisely, or one has the time
/// of day beside a date.
fn choose_time(dialect: &Dialect, places: &[usize]) -> Option<(usize, Option<usize>)> {
    const DAY: i64 = 86_400_000_000;
    // A column without any value says nothing.
    let has_value = |at: &usize| dialect.sample.iter().any(|row| !row[*at].trim_ascii().is_empty());
    let places: Vec<usize> = places.iter().copied().filter(has_value).collect();
    // A header that comes again, or a line of totals, tells nothing of the others.
    let has_times = |row: &&Fields| places.iter().all(|at| row[*at].iter().any(u8::is_ascii_digit));
    let mut sample: Vec<&Fields> = dialect.sample.iter().filter(has_times).collect();
    if sample.is_empty() {
        sample = dialect.sample.iter().collect();
    }
    if sample.is_empty() {
        return None;
    }
    let times = |ts: usize, clock| times(sample.iter().copied(), ts, clock);
    let read: Vec<_> = places.iter().map(|at| (*at, instants(&times(*at, None)))).collect();
    for (ts, own) in read.iter().filter_map(|(at, own)| Some((*at, own.as_ref()?))) {
        let is_less = |(own, other): (&i64, &i64)| own == other || own.div_euclid(DAY) * DAY == *other;
        let says_less = |other: &Vec<i64>| own.iter().zip(other).all(is_less);
        if read.iter().all(|(at, other)| *at == ts || other.as_ref().is_some_and(says_less)) {
            return Some((ts, None));
        }
    }
    let are_days = |own: &Vec<i64>| own.iter().all(|time| time.rem_euclid(DAY) == 0);
    let (ts, _) = read.iter().find(|(_, own)| own.as_ref().is_some_and(are_days))?;
    let clock = |at: usize| at != *ts && instants(&times(*ts, Some(at))).is_some();
    let mut clocks = places.iter().copied().filter(|at| clock(*at));
    let clock = clocks.next()?;
    clocks.next().is_none().then_some((*ts, Some(clock)))
}

/// Names that no two columns have, where they are no names of candles' columns: `Plot`, `Plot_2`.
fn distinct(mut names: Vec<String>, notes: &mut Vec<String>) -> Vec<String> {
    for at in 1..names.len() {
        let (before, after) = names.split_at_mut(at);
        let name = &mut after[0];
        if name.is_empty() || kline::canonical(name).is_some() || !before.contains(name) {
            continue;
        }
        let is_free = |number: &usize| !before.contains(&format!("{name}_{number}"));
        let number = (2..=at + 2).find(is_free).unwrap_or(at + 3);
        let other = format!("{name}_{number}");
        notes.push(format!("column {} is called {name} like another one and is read as {other}", at + 1));
        *name = other;
    }
    names
}

/// The names that are given for a file's columns.
fn given_names(config: &FileConfig, dialect: &Dialect) -> Result<Vec<String>> {
    if config.columns.len() == dialect.width {
        return Ok(config.columns.clone());
    }
    Err(Error::invalid(
        "as many names must be given as rows have fields (with_columns); leave one empty for a column \
                        that is not to be read",
    )
    .with("names", config.columns.len())
    .with("fields", dialect.width))
}

/// Whether rows without a header may be klines by their number of fields.
fn are_klines(dialect: &Dialect) -> bool {
    let is_number = |field: &[u8]| number(field).is_some();
    dialect.width == kline::FIELDS.len()
        && dialect.sample.first().is_some_and(|row| row.iter().all(is_number))
}

fn kline_names() -> Vec<String> {
    let mut unread = kline::UNREAD.into_iter();
    kline::FIELDS.iter().filter_map(|name| name.or_else(|| unread.next())).map(str::to_owned).collect()
}

/// The columns of rows without a header, as far as these prove them: a time, or a date and a time of day, then prices
/// of which the second is the highest and the third the lowest, then a volume.
fn bare_names(dialect: &Dialect) -> Result<Vec<String>> {
    let refuse = |why: &str| {
        let row = dialect.sample.first().into_iter().flat_map(Fields::iter);
        let shown: Vec<_> = row.take(8).map(|field| String::from_utf8_lossy(field).into_owned()).collect();
        Err(Error::schema(format!(
            "the file has no header, and {why}; name its columns in order (with_columns), such as \
             ts,open,high,low,close,volume"
        ))
        .with("first_row", shown.join(" "))
        .with("fields", dialect.width))
    };
    let sample = dialect.sample.as_slice();
    let is_time = |clock: Option<usize>| dialect.width > 1 && instants(&times(sample, 0, clock)).is_some();
    let is_clock = || sample.iter().all(|row| integer(&row[1]).is_some() || row[1].contains(&b':'));
    let first = match (is_time(None), dialect.width) {
        (_, 6..) if is_clock() && !is_price(dialect, 1) && is_time(Some(1)) => 2,
        (true, _) => 1,
        _ => return refuse("its first column is no time"),
    };
    if dialect.width < first + 4 {
        return refuse("it has fewer columns than a time and four prices");
    }
    let clock = (first == 2).then_some(1);
    let instants = instants(&times(sample, 0, clock)).unwrap_or_default();
    let places = [0, 1, 2, 3].map(|at| first + at);
    let (mut is_sure, mut are_prices, mut candles) = (false, true, Vec::new());
    for (row, time) in sample.iter().zip(instants.iter().copied()) {
        if let Some(candle @ [open, high, low, close]) = prices(dialect, row, places) {
            are_prices &= is_candle(candle);
            is_sure |= high > low;
            candles.push((time, open, close));
        } else {
            are_prices &= places.iter().all(|at| is_null(&row[*at]));
        }
    }
    if !are_prices || !is_sure {
        let refused = refuse("the columns behind the time are not open, high, low and close");
        return match fitting(dialect, first, &instants) {
            Some(names) => refused.map_err(|e| e.with("rows_fit", names)),
            None => refused,
        };
    }
    if !opens_first(candles) {
        return refuse("the rows do not tell which of the prices is the open and which the close");
    }
    let mut names = time_names(first);
    names.extend(["open", "high", "low", "close"].map(str::to_owned));
    for at in names.len()..dialect.width {
        let is_volume = at == first + 4 && is_volume(dialect, first + 3);
        names.push(if is_volume { "volume".to_owned() } else { format!("column_{}", at + 1) });
    }
    Ok(names)
}

/// The order of columns in which four prices of another order than usual are open, high, low and close, if the rows tell.
fn fitting(dialect: &Dialect, first_price: usize, times: &[i64]) -> Option<String> {
    let places = [0, 1, 2, 3].map(|at| first_price + at);
    let rows = dialect.sample.iter().map(|row| prices(dialect, row, places)).collect::<Option<Vec<_>>>()?;
    let is_end = |at: usize, is: fn(&f64, &f64) -> bool| {
        rows.iter().all(|row| row.iter().all(|other| is(&row[at], other)))
    };
    let high = (0..4).find(|at| is_end(*at, f64::ge))?;
    let low = (0..4).find(|at| *at != high && is_end(*at, f64::le))?;
    let mut others = (0..4).filter(|at| ![high, low].contains(at));
    let (first, second) = (others.next()?, others.next()?);
    let ends = |open: usize, close: usize| {
        opens_first(times.iter().zip(&rows).map(|(time, row)| (*time, row[open], row[close])).collect())
    };
    let (open, close) = match (ends(first, second), ends(second, first)) {
        (true, false) => (first, second),
        (false, true) => (second, first),
        _ => return None,
    };
    let mut names = time_names(first_price);
    names.resize(first_price + 4, String::new());
    for (at, name) in [(open, "open"), (high, "high"), (low, "low"), (close, "close")] {
        name.clone_into(&mut names[first_price + at]);
    }
    let others = (names.len()..dialect.width).map(|at| match at - first_price {
        4 => "volume".to_owned(),
        _ => format!("column_{}", at + 1),
    });
    names.extend(others.collect::<Vec<_>>());
    Some(names.join(","))
}

/// The names of what stands before the prices of rows without a header.
fn time_names(count: usize) -> Vec<String> {
    let names: &[&str] = if count == 2 { &["date", "time"] } else { &["ts"] };
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// The time of a candle, and the two prices of it that may be its open and its close.
type Ends = (i64, f64, f64);

/// Whether of two prices the first is the open: where bars follow each other, it is nearer to the close before it than
/// the second one to the open before that.
fn opens_first(mut candles: Vec<Ends>) -> bool {
    candles.sort_by_key(|(time, ..)| *time);
    let distance = |step: fn(Ends, Ends) -> f64| {
        candles.windows(2).map(|pair| step(pair[0], pair[1]).abs()).sum::<f64>()
    };
    let are_same = candles.iter().all(|(_, open, close)| open == close);
    are_same || distance(|before, next| next.1 - before.2) < distance(|before, next| next.2 - before.1)
}

/// Whether the column behind the close is a volume and not another price, such as an adjusted close: its values are
/// whole where those of the close are not, or do not go with the close.
fn is_volume(dialect: &Dialect, at: usize) -> bool {
    let (mut least, mut most) = (f64::INFINITY, 0.0_f64);
    let (mut is_whole, mut has_fractions) = (true, false);
    // Behind an average price, which some write as 0 for a bar without trades, or a spread, stands the volume.
    let is_last = at + 2 == dialect.width;
    let [sum, next] = [at + 1, at + 2].map(|at| sum(dialect, at));
    let may_be_next = !is_last && next.is_some_and(|next| sum.is_some_and(|sum| next > sum));
    for row in &dialect.sample {
        let [close, volume] = [at, at + 1].map(|at| dialect.notation.number(&row[at]));
        match (close, volume) {
            (_, Some(volume)) if volume.is_nan() || volume < 0.0 => return false,
            (Some(_), Some(volume)) if volume == 0.0 && !is_last => {}
            (Some(close), Some(volume)) => {
                let ratio = volume / close;
                (least, most) = (least.min(ratio), most.max(ratio));
                is_whole &= volume.fract() == 0.0;
                has_fractions |= close.fract() != 0.0;
            }
            (_, None) if !is_null(&row[at + 1]) => return false,
            _ => {}
        }
    }
    if is_whole && may_be_next {
        return false;
    }
    // No price is 0 or doubles against the close. The last column of six is no close that was adjusted far, beside which
    // the volume would stand.
    let is_far = !(0.5..=2.0).contains(&least) && !(0.5..=2.0).contains(&most);
    (is_whole && has_fractions) || most == 0.0 || most > 2.0 * least || (is_last && is_far)
}

/// The sum of a column of whole numbers; `None` for any other.
fn sum(dialect: &Dialect, at: usize) -> Option<f64> {
    let value = |row: &Fields| dialect.notation.number(row.get(at)?).filter(|value| value.fract() == 0.0);
    dialect.sample.iter().map(value).sum()
}

/// Whether a column of a headerless file has fractions, which no time of day has.
fn is_price(dialect: &Dialect, at: usize) -> bool {
    dialect.sample.iter().any(|row| {
        !row[at].contains(&b':')
            && dialect.notation.number(&row[at]).is_some_and(|value| value.fract() != 0.0)
    })
}

fn one_series(payload: &[Column]) -> OneSeries {
    let suspects = payload.iter().map(|Column { at, own, column_type, .. }| {
        let holds = match column_type {
            Some(ColumnType::Utf8) => Holds::Text,
            Some(ColumnType::Float64) => Holds::Other,
            Some(ColumnType::Int64) | None => Holds::Anything,
        };
        (*at, own.as_str(), holds)
    });
    OneSeries::new("line", suspects)
}

/// A whole number of a time column, blanks around it and zeros behind a point ignored.
pub(super) fn epoch(field: &[u8]) -> Option<i64> {
    integer(field).or_else(|| {
        let field = field.trim_ascii();
        let point = memchr::memchr(b'.', field)?;
        if field.iter().any(|byte| b"eE".contains(byte)) {
            return scientific(std::str::from_utf8(field).ok()?);
        }
        let (whole, zeros) = (&field[..point], &field[point + 1..]);
        integer(whole).filter(|_| !zeros.is_empty() && zeros.iter().all(|digit| *digit == b'0'))
    })
}

/// A whole number as `1.704067200000e+09`, which has all of its digits.
fn scientific(text: &str) -> Option<i64> {
    let (mantissa, exponent) = text.split_once(['e', 'E'])?;
    let (whole, fraction) = mantissa.split_once('.')?;
    let places: usize = exponent.strip_prefix('+').unwrap_or(exponent).parse().ok()?;
    let (digits, zeros) = fraction.split_at_checked(places)?;
    let is_whole = zeros.bytes().all(|digit| digit == b'0');
    integer(format!("{whole}{digits}").as_bytes()).filter(|_| is_whole)
}

/// Whether a field of a column of no known type is a number; digits with zeros before them are a name, and a letter
/// behind them may be anything.
pub(super) fn reads_as_number(field: &[u8], notation: Notation) -> bool {
    (notation.is_number_alone(field) && !has_leading_zeros(field.trim_ascii())) || is_null(field)
}

/// A column with its type: declared, else that of a column which every candle file has. There, text in place of
/// a number is an error and not a reason to read the column as text.
fn typed(config: &FileConfig, Payload { at, own, name }: Payload) -> Column {
    let types = &config.column_types;
    let called =
        || types.iter().find(|(wanted, _)| columns::is_called(&own, wanted)).map(|(_, declared)| *declared);
    let declared = types.get(&own).copied().or_else(called);
    let usual = || match kline::payload_type(&name)? {
        DataType::Int64 => Some(ColumnType::Int64),
        _ => Some(ColumnType::Float64),
    };
    let column_type = declared.or_else(usual);
    Column { at, own, name, column_type }
}
