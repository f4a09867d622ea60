//! What an answer of the candles API says: a page of bars, or why there is none.

use std::sync::{Arc, LazyLock};

use qmtl_history_api::arrow_array::builder::Float64Builder;
use qmtl_history_api::arrow_array::{ArrayRef, RecordBatch};
use qmtl_history_api::arrow_schema::{DataType, SchemaRef};
use qmtl_history_api::{Error, ErrorKind, Result, SeriesKey, TimeRange, Timestamp, frame};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::api;
use crate::http::{Answer, Failure, Reason, StatusCode};

/// Ten years: a row this far from what was asked for counts its time in another unit.
const FAR_SECS: i64 = 3_650 * 86_400;

const COLUMNS: [&str; 5] = ["open", "high", "low", "close", "volume"];

/// `ts` and the prices and volume.
pub(super) static SCHEMA: LazyLock<SchemaRef> =
    LazyLock::new(|| frame::schema_of(COLUMNS.map(|name| (name, DataType::Float64))));

/// A row as the API writes it: time, low, high, open, close, volume. Numbers are kept as text, for
/// the double that is nearest to it.
#[derive(Debug, Deserialize)]
struct Row<'a>(
    i64,
    #[serde(borrow)] &'a RawValue,
    #[serde(borrow)] &'a RawValue,
    #[serde(borrow)] &'a RawValue,
    #[serde(borrow)] &'a RawValue,
    #[serde(borrow)] &'a RawValue,
);

/// The rows of an answer.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) batch: RecordBatch,
    /// When the earliest bar opens that was asked for.
    pub(super) first: Option<Timestamp>,
    /// Whether the absence of a row in it means anything.
    pub(super) is_whole: bool,
}

/// Reads the rows that answer for `asked`, in whatever order, on the grid or off it.
pub(super) fn read(key: &SeriesKey, asked: TimeRange, answer: &Answer) -> Result<Page, Failure> {
    let rows: Vec<Row<'_>> = parse(answer)?;
    let bad = |error: Error| Failure::passing(Reason::BadAnswer, error.with("series", key));
    let mut times = Vec::with_capacity(rows.len());
    for (at, row) in rows.iter().enumerate() {
        times.push(opening(asked, row.0).map_err(|error| bad(error.with("row", at)))?);
    }
    let first = times.iter().copied().filter(|ts| asked.contains(*ts)).min();
    if let (None, Some(other)) = (first, times.first()) {
        return Err(bad(Error::schema("the page has no row that was asked for")
            .with("asked", asked)
            .with("has", other)));
    }
    let payload = columns(&rows).map_err(bad)?;
    let ts: ArrayRef = Arc::new(frame::ts_array(times));
    let columns = std::iter::once(ts).chain(payload).collect();
    let batch = RecordBatch::try_new(Arc::clone(&SCHEMA), columns).map_err(|e| {
        Failure::lasting(Error::unexpected("cannot assemble the rows of a page").caused_by(e))
    })?;
    Ok(Page { batch, first, is_whole: answer.is_whole() })
}

/// The instant of `/time`; where the server has no such address, that of the answer's date.
pub(super) fn server_time(answer: &Answer) -> Result<Option<Timestamp>, Failure> {
    #[derive(Deserialize)]
    struct Time {
        iso: String,
    }
    if answer.status == StatusCode::NOT_FOUND {
        return Ok(answer.date);
    }
    let Time { iso } = parse(answer)?;
    iso.parse().map(Some).map_err(|error| Failure::passing(Reason::BadAnswer, error))
}

/// What the body holds; an object with a message is the failure that it tells of.
fn parse<'a, T: Deserialize<'a>>(answer: &'a Answer) -> Result<T, Failure> {
    #[derive(Deserialize)]
    struct Refusal {
        message: String,
    }
    api::decode("Coinbase", answer, |Refusal { message }| refusal(answer.status, &message))
}

/// What a refusal means here.
fn refusal(status: StatusCode, message: &str) -> Failure {
    let told = |error: Error| error.with("says", message.chars().take(200).collect::<String>());
    match status {
        StatusCode::NOT_FOUND => Failure::lasting(told(Error::new(
            ErrorKind::NotFound,
            "the exchange does not know the product; say which one the node's bars are of (with_product)",
        ))),
        StatusCode::BAD_REQUEST => Failure::lasting(told(Error::invalid(
            "the exchange does not understand the request; is the product spelled as the exchange does, such as \
             BTC-USD?",
        ))),
        _ => Failure::passing(
            Reason::ServerError,
            told(Error::unavailable("the exchange reports an error").with("status", status.as_u16())),
        ),
    }
}

/// When a row's bar opens; `Schema` when that is in another unit or far from `asked`.
fn opening(asked: TimeRange, secs: i64) -> Result<Timestamp> {
    let is_far = secs < asked.start().as_secs() - FAR_SECS || secs > asked.end().as_secs() + FAR_SECS;
    Timestamp::from_secs(secs).ok().filter(|_| !is_far).ok_or_else(|| {
        let error = Error::schema("a row's time is not one in seconds, as this API counts");
        error.with("column", "time").with("value", secs)
    })
}

/// The payload in the order of [`COLUMNS`].
fn columns(rows: &[Row<'_>]) -> Result<Vec<ArrayRef>> {
    let of: [for<'a> fn(&Row<'a>) -> &'a RawValue; 5] =
        [|row| row.3, |row| row.2, |row| row.1, |row| row.4, |row| row.5];
    let doubles = |(name, of): (&str, for<'a> fn(&Row<'a>) -> &'a RawValue)| -> Result<ArrayRef> {
        let mut values = Float64Builder::with_capacity(rows.len());
        for (at, row) in rows.iter().enumerate() {
            let text = of(row).get();
            let value = lexical_core::parse(text.as_bytes()).ok().filter(|value: &f64| value.is_finite());
            values.append_value(value.ok_or_else(|| {
                let start: String = text.chars().take(40).collect();
                Error::schema("a value is not a number that a double can hold")
                    .with("row", at)
                    .with("column", name)
                    .with("value", format_args!("{start:?}"))
            })?);
        }
        Ok(Arc::new(values.finish()))
    };
    COLUMNS.into_iter().zip(of).map(doubles).collect()
}
