//! What an answer of the klines API says: a page of bars, or why there is none.

use std::sync::{Arc, LazyLock};

use qmtl_history_api::arrow_array::{ArrayRef, Int64Array, RecordBatch};
use qmtl_history_api::arrow_schema::SchemaRef;
use qmtl_history_api::{Error, ErrorKind, Result, SeriesKey, Timestamp, frame};
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::http::{Answer, Failure, Reason};
use crate::{api, kline};

/// `ts`, then what an archive of the same bars has.
pub(super) static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let payload = kline::FIELDS.into_iter().flatten();
    frame::schema_of(payload.filter_map(|name| Some((name, kline::payload_type(name)?))))
});

/// A row as the API writes it, in the order of [`kline::FIELDS`].
#[derive(Debug, Deserialize)]
struct Row<'a>(
    i64,
    &'a str,
    &'a str,
    &'a str,
    &'a str,
    &'a str,
    i64,
    &'a str,
    i64,
    &'a str,
    &'a str,
    IgnoredAny,
);

/// The rows of an answer: out of order, twice, off the grid, or beside some that were asked for, as they come. What
/// cannot be an answer at all is a passing failure, bars of another interval than was asked for a lasting one.
pub(super) fn rows(key: &SeriesKey, answer: &Answer) -> Result<RecordBatch, Failure> {
    let rows: Vec<Row<'_>> = parse(answer)?;
    let bad = |error: Error| Failure::passing(Reason::BadAnswer, error.with("series", key));
    let mut times = Vec::with_capacity(rows.len());
    for (at, row) in rows.iter().enumerate() {
        times.push(opening(key, row).map_err(|error| bad(error.with("row", at)))?);
    }
    check_lengths(key, &rows, &times)?;
    api::page(&SCHEMA, times, columns(&rows).map_err(bad)?)
}

/// The instant of `/api/v3/time`; where the server has no such address, that of the answer's date.
pub(super) fn server_time(answer: &Answer) -> Result<Option<Timestamp>, Failure> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Time {
        server_time: i64,
    }
    if answer.status == 404 {
        return Ok(answer.date);
    }
    let Time { server_time } = parse(answer)?;
    Timestamp::from_millis(server_time).map(Some).map_err(|e| {
        Failure::passing(
            Reason::BadAnswer,
            Error::schema("the server's time is not a valid time").caused_by(e),
        )
    })
}

/// What the body holds; an error object is the failure that it tells of.
fn parse<'a, T: Deserialize<'a>>(answer: &'a Answer) -> Result<T, Failure> {
    #[derive(Deserialize)]
    struct Refusal {
        code: i64,
        msg: String,
    }
    answer.json("Binance", |Refusal { code, msg }| refusal(code, &msg))
}

/// What an error code means here.
fn refusal(code: i64, msg: &str) -> Failure {
    let told =
        |error: Error| error.with("code", code).with("says", msg.chars().take(200).collect::<String>());
    let unavailable = |message: &str| told(Error::unavailable(message));
    match code {
        -1121 => Failure::lasting(told(Error::new(
            ErrorKind::NotFound,
            "the exchange does not know the symbol; say which one the node's bars are of (with_symbol)",
        ))),
        -1120 => Failure::lasting(told(Error::invalid("the exchange does not offer bars of this interval"))),
        -1199..=-1100 => Failure::lasting(told(Error::invalid(
            "the exchange does not understand the request; is the symbol spelled as the exchange does, such as BTCUSDT?",
        ))),
        -1003 | -1015 => {
            Failure::passing(Reason::RateLimited, unavailable("the exchange asks for fewer requests"))
        }
        // What is wrong with who asks.
        -2999..=-2000 => Failure::lasting(unavailable("the exchange refuses the request").retryable(false)),
        _ => Failure::passing(Reason::ServerError, unavailable("the exchange reports an error")),
    }
}

/// When a row's bar opens; `Schema` when its time is in another unit: in seconds or microseconds a bar is a
/// thousandth or a thousandfold of what it is in milliseconds.
fn opening(key: &SeriesKey, row: &Row<'_>) -> Result<Timestamp> {
    let (opens, closes) = (row.0, row.6);
    let length = closes.saturating_sub(opens).saturating_add(1);
    let interval = key.interval.as_secs();
    let is_other_unit = length == interval || length == interval.saturating_mul(1_000_000);
    Timestamp::from_millis(opens).ok().filter(|_| !is_other_unit).ok_or_else(|| {
        let error = Error::schema("a row's time is not in milliseconds, the unit of this API");
        error.with("column", "open_time").with("value", opens)
    })
}

/// Fails, for good, when a row says of itself that its bar is of another length than was asked for: the
/// server would say the same again. A bar that opens off the grid may be cut short, the first one after a
/// halt.
fn check_lengths(key: &SeriesKey, rows: &[Row<'_>], times: &[Timestamp]) -> Result<(), Failure> {
    let wanted = key.interval.as_secs().saturating_mul(1_000);
    let length = |row: &Row<'_>| row.6.saturating_sub(row.0).saturating_add(1);
    let mut bars = rows.iter().zip(times).enumerate();
    match bars.find(|(_, (row, ts))| key.interval.is_on_grid(**ts) && length(row) != wanted) {
        Some((at, (row, _))) => Err(Failure::lasting(
            Error::schema("a row is a bar of an interval that was not asked for")
                .with("series", key)
                .with("row", at)
                .with("column", "close_time")
                .with("value", row.6)
                .with("length_ms", length(row)),
        )),
        None => Ok(()),
    }
}

/// The payload in the order of [`SCHEMA`].
fn columns(rows: &[Row<'_>]) -> Result<Vec<ArrayRef>> {
    let doubles = |name: &str, of: for<'a> fn(&Row<'a>) -> &'a str| -> Result<ArrayRef> {
        Ok(Arc::new(api::doubles(name, rows.iter().map(of))?))
    };
    Ok(vec![
        doubles("open", |row| row.1)?,
        doubles("high", |row| row.2)?,
        doubles("low", |row| row.3)?,
        doubles("close", |row| row.4)?,
        doubles("volume", |row| row.5)?,
        doubles("quote_volume", |row| row.7)?,
        Arc::new(rows.iter().map(|row| row.8).collect::<Int64Array>()),
        doubles("taker_base_volume", |row| row.9)?,
        doubles("taker_quote_volume", |row| row.10)?,
    ])
}

#[cfg(test)]
mod tests;
