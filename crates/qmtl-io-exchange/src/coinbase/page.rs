//! What an answer of the candles API says: a page of bars, or why there is none.

use std::sync::{Arc, LazyLock};

use qmtl_history_api::arrow_array::{ArrayRef, RecordBatch};
use qmtl_history_api::arrow_schema::{DataType, SchemaRef};
use qmtl_history_api::{Error, ErrorKind, Result, Timestamp, frame};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::api;
use crate::http::{Answer, Failure, Reason};

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

/// The rows of an answer, in whatever order, on the grid or off it.
pub(super) fn rows(answer: &Answer) -> Result<RecordBatch, Failure> {
    let rows: Vec<Row<'_>> = parse(answer)?;
    let bad = |error: Error| Failure::passing(Reason::BadAnswer, error);
    let opening = |(at, row): (usize, &Row<'_>)| {
        let error = |_| Error::schema("a row's time is not in seconds, the unit of this API");
        Timestamp::from_secs(row.0)
            .map_err(|e| bad(error(e).with("row", at).with("column", "time").with("value", row.0)))
    };
    let times = rows.iter().enumerate().map(opening).collect::<Result<Vec<_>, _>>()?;
    let of: [for<'a> fn(&Row<'a>) -> &'a RawValue; 5] =
        [|row| row.3, |row| row.2, |row| row.1, |row| row.4, |row| row.5];
    let payload = COLUMNS.into_iter().zip(of).map(|(name, of)| -> Result<ArrayRef> {
        Ok(Arc::new(api::doubles(name, rows.iter().map(|row| of(row).get()))?))
    });
    let payload = payload.collect::<Result<Vec<_>>>().map_err(bad)?;
    api::page(&SCHEMA, times, payload)
}

/// The instant of `/time`; where the server has no such address, that of the answer's date.
pub(super) fn server_time(answer: &Answer) -> Result<Option<Timestamp>, Failure> {
    #[derive(Deserialize)]
    struct Time {
        iso: String,
    }
    if answer.status == 404 {
        return Ok(answer.date);
    }
    let Time { iso } = parse(answer)?;
    iso.parse().map(Some).map_err(|e: Error| {
        Failure::passing(
            Reason::BadAnswer,
            Error::schema("the server's time is not a valid time").caused_by(e),
        )
    })
}

/// What the body holds; an object with a message is the failure that it tells of.
fn parse<'a, T: Deserialize<'a>>(answer: &'a Answer) -> Result<T, Failure> {
    #[derive(Deserialize)]
    struct Refusal {
        message: String,
    }
    answer.json("Coinbase", |Refusal { message }| refusal(answer.status, &message))
}

/// What a refusal means here.
fn refusal(status: u16, message: &str) -> Failure {
    let told = |error: Error| error.with("says", message.chars().take(200).collect::<String>());
    match status {
        404 => Failure::lasting(told(Error::new(
            ErrorKind::NotFound,
            "the exchange does not know the product; say which one the node's bars are of (with_product)",
        ))),
        400 => Failure::lasting(told(Error::invalid(
            "the exchange does not understand the request; is the product spelled as the exchange does, such as \
             BTC-USD?",
        ))),
        _ => Failure::passing(
            Reason::ServerError,
            told(Error::unavailable("the exchange reports an error").with("status", status)),
        ),
    }
}
