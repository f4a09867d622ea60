//! Bars as text: delimited lines, JSON. A double is written in the shortest form that reads back as the same bits.

use std::fmt::Write as _;
use std::io::Write as _;

use qmtl_history_api::arrow_array::cast::AsArray;
use qmtl_history_api::arrow_array::types::{Float32Type, Float64Type, TimestampMicrosecondType};
use qmtl_history_api::arrow_array::{Array, ArrayRef, RecordBatch};
use qmtl_history_api::arrow_cast::cast;
use qmtl_history_api::arrow_cast::display::{ArrayFormatter, FormatOptions};
use qmtl_history_api::arrow_schema::{ArrowError, DataType, SchemaRef};
use qmtl_history_api::{Error, Timestamp};

use crate::cli::TsFormat;
use crate::outcome::{Failure, Result};

/// How rows stand in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TextForm {
    /// A header, then a line a row: a null is an empty cell, an empty text is quoted.
    Csv,
    /// The same without a header, every number as LEAN reads it: as digits, without an exponent.
    Lean,
    /// An array of objects. A null, a NaN and an infinity are null.
    Json,
    /// An object a line.
    JsonLines,
    /// An array of arrays, without names.
    JsonArrays,
}

/// How times stand in a text; all are in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TimeForm {
    /// `2024-01-01T00:00:00Z`.
    Iso,
    /// Epoch seconds.
    Seconds,
    /// Epoch milliseconds.
    Millis,
    /// Epoch microseconds.
    Micros,
    /// `2024-01-01 00:00:00`.
    Spaced,
    /// `20240101 00:00`.
    Compact,
    /// Milliseconds since midnight.
    OfDay,
}

impl From<TsFormat> for TimeForm {
    fn from(form: TsFormat) -> Self {
        match form {
            TsFormat::Iso => Self::Iso,
            TsFormat::S => Self::Seconds,
            TsFormat::Ms => Self::Millis,
            TsFormat::Us => Self::Micros,
        }
    }
}

/// Microseconds of a day.
const DAY: i64 = 86_400_000_000;

impl TimeForm {
    fn write(self, text: &mut String, micros: i64) -> Result<()> {
        let ts = Timestamp::from_micros(micros)?;
        let (year, month, day) = ts.date();
        let of_day = micros.rem_euclid(DAY);
        let seconds = of_day / 1_000_000;
        let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
        let _ = match self {
            Self::Iso => write!(text, "{ts}"),
            Self::Seconds => write!(text, "{}", micros.div_euclid(1_000_000)),
            Self::Millis => write!(text, "{}", micros.div_euclid(1_000)),
            Self::Micros => write!(text, "{micros}"),
            Self::Spaced => {
                write!(text, "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
            }
            Self::Compact => write!(text, "{year:04}{month:02}{day:02} {hour:02}:{minute:02}"),
            Self::OfDay => write!(text, "{}", of_day / 1_000),
        };
        Ok(())
    }

    /// Whether it is a text to JSON.
    fn is_text(self) -> bool {
        matches!(self, Self::Iso | Self::Spaced | Self::Compact)
    }
}

/// What stands before the first row.
pub(super) fn begin(form: TextForm, schema: &SchemaRef) -> String {
    match form {
        TextForm::Csv => {
            let names: Vec<_> = schema.fields().iter().map(|field| quoted(field.name())).collect();
            format!("{}\n", names.join(","))
        }
        TextForm::Json | TextForm::JsonArrays => "[".to_owned(),
        TextForm::Lean | TextForm::JsonLines => String::new(),
    }
}

/// What stands behind the last row.
pub(super) fn end(form: TextForm, has_rows: bool) -> &'static str {
    match form {
        TextForm::Json | TextForm::JsonArrays if has_rows => "\n]\n",
        TextForm::Json | TextForm::JsonArrays => "]\n",
        TextForm::Csv | TextForm::Lean | TextForm::JsonLines => "",
    }
}

/// The rows of a batch, of which others may stand before.
pub(super) fn rows(
    batch: &RecordBatch,
    (form, time): (TextForm, TimeForm),
    has_rows: bool,
) -> Result<Vec<u8>> {
    match form {
        TextForm::Csv => csv_lines(batch, time).map(String::into_bytes),
        TextForm::Lean => lean_lines(batch, time).map(String::into_bytes),
        TextForm::Json | TextForm::JsonLines | TextForm::JsonArrays => {
            json_rows(batch, (form, time), has_rows)
        }
    }
}

fn fault(error: ArrowError) -> Failure {
    Error::unexpected("cannot write the export as text").caused_by(error).into()
}

/// The times of a batch.
fn times(batch: &RecordBatch) -> Result<&[i64]> {
    let column = batch.columns().first().and_then(|c| c.as_primitive_opt::<TimestampMicrosecondType>());
    let column = column.ok_or_else(|| Error::unexpected("the first column of an export is no time"))?;
    Ok(column.values())
}

fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

fn csv_lines(batch: &RecordBatch, form: TimeForm) -> Result<String> {
    let options = FormatOptions::default();
    let payload = batch.columns().iter().skip(1);
    let columns = payload
        .map(|column| {
            let data_type = column.data_type();
            let is_plain = data_type.is_primitive() || *data_type == DataType::Boolean;
            let formatter = ArrayFormatter::try_new(column.as_ref(), &options).map_err(fault)?;
            Ok((column, formatter, is_plain && !is_text(data_type)))
        })
        .collect::<Result<Vec<_>>>()?;
    let mut text = String::with_capacity(batch.num_rows() * 64);
    for (row, micros) in times(batch)?.iter().enumerate() {
        form.write(&mut text, *micros)?;
        for (column, formatter, is_plain) in &columns {
            text.push(',');
            if column.is_null(row) {
                continue;
            }
            if *is_plain {
                formatter.value(row).write(&mut text).map_err(fault)?;
            } else {
                text.push_str(&quoted(&formatter.value(row).try_to_string().map_err(fault)?));
            }
        }
        text.push('\n');
    }
    Ok(text)
}

fn lean_lines(batch: &RecordBatch, form: TimeForm) -> Result<String> {
    let numbers = batch.columns().iter().skip(1).map(|column| cast(column, &DataType::Float64));
    let numbers = numbers.collect::<Result<Vec<_>, _>>().map_err(fault)?;
    let mut text = String::with_capacity(batch.num_rows() * 64);
    for (row, micros) in times(batch)?.iter().enumerate() {
        let ts = Timestamp::from_micros(*micros)?;
        form.write(&mut text, *micros)?;
        for (at, column) in numbers.iter().enumerate() {
            let column = column.as_primitive::<Float64Type>();
            let number = column.is_valid(row).then(|| column.value(row)).and_then(lean_number);
            let number = number.ok_or_else(|| {
                let message =
                    "LEAN reads numbers of at most 18 digits, and none that are missing or no number";
                let value =
                    if column.is_valid(row) { column.value(row).to_string() } else { "null".to_owned() };
                Error::schema(message)
                    .with("column", batch.schema().field(at + 1).name())
                    .with("ts", ts)
                    .with("value", value)
            })?;
            let _ = write!(text, ",{number}");
        }
        text.push('\n');
    }
    Ok(text)
}

/// A number as digits; `None` for one that LEAN, which reads digits into 64 bits and 28 places, would take for another.
fn lean_number(number: f64) -> Option<String> {
    let text = number.is_finite().then(|| number.to_string())?;
    let places = text.split_once('.').map_or(0, |(_, fraction)| fraction.len());
    let digits = text.chars().filter(char::is_ascii_digit).skip_while(|c| *c == '0').count();
    (digits <= 18 && places <= 28).then_some(text)
}

/// A cell of text, in quotes where it needs them.
fn quoted(text: &str) -> String {
    if text.is_empty() || text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

fn json_rows(batch: &RecordBatch, (form, time): (TextForm, TimeForm), has_rows: bool) -> Result<Vec<u8>> {
    let options = FormatOptions::default();
    let narrowed: Vec<ArrayRef> = batch.columns().iter().skip(1).map(widened).collect::<Result<_>>()?;
    let columns = narrowed.iter().map(|column| Cells::new(column, &options)).collect::<Result<Vec<_>>>()?;
    let (open, close) = if form == TextForm::JsonArrays { (b'[', b']') } else { (b'{', b'}') };
    let names = batch
        .schema()
        .fields()
        .iter()
        .map(|field| if form == TextForm::JsonArrays { Ok(String::new()) } else { key(field.name()) })
        .collect::<Result<Vec<_>>>()?;
    let mut text = Vec::with_capacity(batch.num_rows() * 96);
    let mut ts = String::new();
    for (row, micros) in times(batch)?.iter().enumerate() {
        if form != TextForm::JsonLines {
            text.extend_from_slice(if row > 0 || has_rows { b",\n" } else { b"\n" });
        }
        text.push(open);
        ts.clear();
        time.write(&mut ts, *micros)?;
        text.extend_from_slice(names[0].as_bytes());
        if time.is_text() {
            json(&mut text, ts.as_str())?
        } else {
            text.extend_from_slice(ts.as_bytes())
        }
        for (name, cells) in names[1..].iter().zip(&columns) {
            text.push(b',');
            text.extend_from_slice(name.as_bytes());
            cells.write(row, &mut text)?;
        }
        text.push(close);
        if form == TextForm::JsonLines {
            text.push(b'\n');
        }
    }
    Ok(text)
}

/// A name as the key of an object.
fn key(name: &str) -> Result<String> {
    let mut text = Vec::new();
    json(&mut text, name)?;
    text.push(b':');
    String::from_utf8(text).map_err(|e| Error::unexpected("a name is no text").caused_by(e).into())
}

/// A half as a single: JSON has one kind of number, and every half is one of them.
fn widened(column: &ArrayRef) -> Result<ArrayRef> {
    match column.data_type() {
        DataType::Float16 => cast(column, &DataType::Float32).map_err(fault),
        _ => Ok(ArrayRef::clone(column)),
    }
}

/// The values of a column as JSON has them.
enum Cells<'a> {
    Doubles(&'a dyn Array, &'a [f64]),
    Singles(&'a dyn Array, &'a [f32]),
    /// What is JSON as it is printed: whole numbers, decimals, true and false.
    Plain(&'a dyn Array, ArrayFormatter<'a>),
    /// Everything else, as a text.
    Texts(&'a dyn Array, ArrayFormatter<'a>),
}

impl<'a> Cells<'a> {
    fn new(column: &'a ArrayRef, options: &FormatOptions<'a>) -> Result<Self> {
        let data_type = column.data_type();
        if let Some(doubles) = column.as_primitive_opt::<Float64Type>() {
            return Ok(Self::Doubles(column, doubles.values()));
        }
        if let Some(singles) = column.as_primitive_opt::<Float32Type>() {
            return Ok(Self::Singles(column, singles.values()));
        }
        let formatter = ArrayFormatter::try_new(column.as_ref(), options).map_err(fault)?;
        let is_plain = data_type.is_numeric() || *data_type == DataType::Boolean;
        Ok(if is_plain { Self::Plain(column, formatter) } else { Self::Texts(column, formatter) })
    }

    fn write(&self, row: usize, text: &mut Vec<u8>) -> Result<()> {
        match self {
            Self::Doubles(column, _)
            | Self::Singles(column, _)
            | Self::Plain(column, _)
            | Self::Texts(column, _)
                if column.is_null(row) =>
            {
                text.extend_from_slice(b"null");
                Ok(())
            }
            // What is no number is null to serde_json.
            Self::Doubles(_, values) => json(text, &values[row]),
            Self::Singles(_, values) => json(text, &values[row]),
            Self::Plain(_, formatter) => {
                write!(text, "{}", formatter.value(row).try_to_string().map_err(fault)?)
                    .map_err(|e| Failure::output("the export", e))
            }
            Self::Texts(_, formatter) => json(text, &formatter.value(row).try_to_string().map_err(fault)?),
        }
    }
}

fn json<T: serde::Serialize + ?Sized>(text: &mut Vec<u8>, value: &T) -> Result<()> {
    serde_json::to_writer(text, value)
        .map_err(|e| Error::unexpected("cannot write the export as JSON").caused_by(e).into())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use qmtl_history_api::arrow_array::{
        BooleanArray, Decimal128Array, Float32Array, Float64Array, Int64Array, StringArray,
    };
    use qmtl_history_api::frame;
    use serde_json::Value;

    use super::*;

    fn odd() -> RecordBatch {
        let points = [60, 120, 180].map(|secs| Timestamp::from_secs(secs).unwrap());
        let doubles = [Some(5.33e-5), Some(-0.0), Some(f64::NAN)];
        RecordBatch::try_new(
            frame::schema_of([("x", DataType::Float64), ("n", DataType::Int64), ("s, t", DataType::Utf8)]),
            vec![
                Arc::new(frame::ts_array(points)),
                Arc::new(Float64Array::from(doubles.to_vec())),
                Arc::new(Int64Array::from(vec![Some(1), None, Some(-3)])),
                Arc::new(StringArray::from(vec![Some("a,\"b\""), Some(""), None])),
            ],
        )
        .unwrap()
    }

    #[test]
    fn csv_keeps_every_bit_and_tells_null_from_empty() {
        let text = csv_lines(&odd(), TimeForm::Millis).unwrap();
        assert_eq!(text, "60000,0.0000533,1,\"a,\"\"b\"\"\"\n120000,-0.0,,\"\"\n180000,NaN,-3,\n");
        assert!(csv_lines(&odd(), TimeForm::Iso).unwrap().starts_with("1970-01-01T00:01:00Z,"));
        assert_eq!(quoted("s, t"), "\"s, t\"");
    }

    #[test]
    fn json_has_null_for_what_is_no_number() {
        let lines =
            |form, time, has_rows| String::from_utf8(rows(&odd(), (form, time), has_rows).unwrap()).unwrap();
        let text = lines(TextForm::JsonLines, TimeForm::Iso, false);
        assert_eq!(
            text,
            "{\"ts\":\"1970-01-01T00:01:00Z\",\"x\":0.0000533,\"n\":1,\"s, t\":\"a,\\\"b\\\"\"}\n\
             {\"ts\":\"1970-01-01T00:02:00Z\",\"x\":-0.0,\"n\":null,\"s, t\":\"\"}\n\
             {\"ts\":\"1970-01-01T00:03:00Z\",\"x\":null,\"n\":-3,\"s, t\":null}\n"
        );
        for (form, first) in [(TextForm::Json, Value::from(60)), (TextForm::JsonArrays, Value::from(60))] {
            let whole = format!(
                "{}{}{}{}",
                begin(form, &odd().schema()),
                lines(form, TimeForm::Seconds, false),
                lines(form, TimeForm::Seconds, true),
                end(form, true)
            );
            let value: Value = serde_json::from_str(&whole).unwrap();
            let row = &value.as_array().unwrap()[3];
            assert_eq!(row.get("ts").or(row.get(0)), Some(&first));
            let none = format!("{}{}", begin(form, &odd().schema()), end(form, false));
            assert_eq!(none, "[]\n");
        }
    }

    #[test]
    fn every_number_of_json_reads_back_as_the_same() {
        let doubles = [0.1, 1.0, 1e22, 123_456_789.123_456_7, f64::MIN_POSITIVE, f64::MAX, 5e-324];
        let points = (1..).map(|minute| Timestamp::from_secs(minute * 60).unwrap());
        let schema = frame::schema_of([
            ("d", DataType::Float64),
            ("f", DataType::Float32),
            ("b", DataType::Boolean),
            ("m", DataType::Decimal128(20, 3)),
        ]);
        let singles: Vec<f32> = vec![0.1; doubles.len()];
        let decimals = Decimal128Array::from(vec![-1_234_567_890_123_456_i128; doubles.len()]);
        let batch = RecordBatch::try_new(
            schema,
            vec![
                Arc::new(frame::ts_array(points.take(doubles.len()))),
                Arc::new(Float64Array::from(doubles.to_vec())),
                Arc::new(Float32Array::from(singles)),
                Arc::new(BooleanArray::from(vec![true; doubles.len()])),
                Arc::new(decimals.with_precision_and_scale(20, 3).unwrap()),
            ],
        )
        .unwrap();
        let text = rows(&batch, (TextForm::JsonLines, TimeForm::Micros), false).unwrap();
        let text = String::from_utf8(text).unwrap();
        for (line, double) in text.lines().zip(doubles) {
            let (_, rest) = line.split_once("\"d\":").unwrap();
            let (number, rest) = rest.split_once(',').unwrap();
            assert_eq!(number.parse::<f64>().unwrap().to_bits(), double.to_bits(), "{line}");
            assert_eq!(rest, "\"f\":0.1,\"b\":true,\"m\":-1234567890123.456}");
        }
    }

    #[test]
    fn lean_reads_digits() {
        let number = |text: &str| lean_number(text.parse().unwrap());
        for (text, told) in [
            ("1e-8", "0.00000001"),
            ("100.0", "100"),
            ("-2.5e-7", "-0.00000025"),
            ("1e16", "10000000000000000"),
        ] {
            assert_eq!(number(text).as_deref(), Some(told));
        }
        for bad in ["NaN", "inf", "1e22", "5e-324", "1.23456789e-25"] {
            assert_eq!(number(bad), None, "{bad}");
        }
    }

    #[test]
    fn times_stand_in_every_form() {
        let at = |form: TimeForm, secs: i64| {
            let mut text = String::new();
            form.write(&mut text, secs * 1_000_000).unwrap();
            text
        };
        assert_eq!(at(TimeForm::Spaced, 1_704_070_865), "2024-01-01 01:01:05");
        assert_eq!(at(TimeForm::Compact, 1_704_070_860), "20240101 01:01");
        assert_eq!(at(TimeForm::OfDay, 1_704_070_860), "3660000");
        assert_eq!(
            (at(TimeForm::Spaced, -1), at(TimeForm::OfDay, -60)),
            ("1969-12-31 23:59:59".into(), "86340000".into())
        );
        assert_eq!(at(TimeForm::Millis, -1), "-1000");
    }
}
