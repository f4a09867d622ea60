//! Coinbase Exchange: what a candles request asks for, its errors, and the pages as JSON.

use chrono::{DateTime, NaiveDate, NaiveDateTime, SecondsFormat};
use hyper::StatusCode;

use crate::answer::{Answer, Style, push};
use crate::interval::Interval;
use crate::log::Asked;
use crate::market::{Row, Wanted};

/// Bars that a window may span, and rows in a page.
const MAX_BARS: u16 = 300;

/// A candles request that makes sense.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candles {
    pub(crate) product: String,
    pub(crate) interval: Interval,
    /// First and last opening time, milliseconds; without one, the newest bars are meant.
    window: Option<(i64, i64)>,
}

impl Candles {
    pub(crate) fn parse(product: &str, query: &str) -> Result<Self, Answer> {
        let find = |name: &str| form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == name);
        let interval = match find("granularity") {
            None => granularity("60"),
            Some((_, seconds)) => granularity(&seconds),
        }
        .ok_or_else(bad_granularity)?;
        let time = |name: &str| match find(name) {
            None => Ok(None),
            Some((_, text)) => instant(&text)
                .map(Some)
                .ok_or_else(|| error(StatusCode::BAD_REQUEST, &format!("Invalid {name}"))),
        };
        // With one end alone the exchange ignores it.
        let window = time("start")?.zip(time("end")?);
        if let Some((start, end)) = window {
            if start > end {
                return Err(error(StatusCode::BAD_REQUEST, "start must be before end"));
            }
            if end.saturating_sub(start) > interval.ms() * i64::from(MAX_BARS) {
                let text = format!(
                    "granularity too small for the requested time range. \
                     Count of aggregations requested exceeds {MAX_BARS}"
                );
                return Err(error(StatusCode::BAD_REQUEST, &text));
            }
        }
        Ok(Self { product: product.to_owned(), interval, window })
    }

    pub(crate) fn asked(&self) -> Asked {
        let (first, last) = self.window.unzip();
        Asked { market: self.product.clone(), first, last, limit: u64::from(MAX_BARS) }
    }

    /// The window at `now`; both of its ends are inclusive, so it may hold a bar more than is served.
    pub(crate) fn wanted(&self, now: i64) -> Wanted {
        let newest = || (now.saturating_sub(self.interval.ms() * i64::from(MAX_BARS)), now);
        let (first, last) = self.window.unwrap_or_else(newest);
        Wanted { first: Some(first), last: Some(last), limit: usize::from(MAX_BARS) + 1 }
    }
}

fn granularity(seconds: &str) -> Option<Interval> {
    let name = match seconds {
        "60" => "1m",
        "300" => "5m",
        "900" => "15m",
        "3600" => "1h",
        "21600" => "6h",
        "86400" => "1d",
        _ => return None,
    };
    Interval::parse(name).ok()
}

/// Milliseconds of an ISO 8601 time (UTC unless it says otherwise), a date, or epoch seconds.
fn instant(text: &str) -> Option<i64> {
    if let Ok(seconds) = text.parse::<i64>() {
        return seconds.checked_mul(1_000);
    }
    let zoned = || DateTime::parse_from_rfc3339(text).ok().map(|time| time.timestamp_millis());
    let local = || NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f").ok();
    let date = || NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?.and_hms_opt(0, 0, 0);
    zoned().or_else(|| local().or_else(date).map(|time| time.and_utc().timestamp_millis()))
}

pub(crate) fn error(status: StatusCode, text: &str) -> Answer {
    Answer::json(status, format!(r#"{{"message":"{text}"}}"#))
}

pub(crate) fn bad_granularity() -> Answer {
    error(StatusCode::BAD_REQUEST, "Unsupported granularity")
}

pub(crate) fn unknown_product() -> Answer {
    error(StatusCode::NOT_FOUND, "NotFound")
}

/// The server's time in both forms.
pub(crate) fn time(now: i64) -> Answer {
    let iso =
        DateTime::from_timestamp_millis(now).unwrap_or_default().to_rfc3339_opts(SecondsFormat::Millis, true);
    let (seconds, millis) = (now.div_euclid(1_000), now.rem_euclid(1_000));
    Answer::json(StatusCode::OK, format!(r#"{{"iso":"{iso}","epoch":{seconds}.{millis:03}}}"#))
}

/// The rows that the exchange publishes: none for a bar without trades, the newest 300, or fewer when
/// there is not so much room.
pub(crate) fn published(mut rows: Vec<Row>, room: usize) -> Vec<Row> {
    rows.retain(|row| row.candle.volume > 0.0);
    rows.split_off(rows.len().saturating_sub(room.min(usize::from(MAX_BARS))))
}

/// A page of candles: the last row comes first.
pub(crate) fn page(rows: &[Row], style: Style) -> Answer {
    let mut out = String::with_capacity(rows.len() * 80 + 2);
    out.push('[');
    let unit = if style == Style::WrongTimeUnit { 1 } else { 1_000 };
    for Row { time, candle } in rows.iter().rev() {
        if out.len() > 1 {
            out.push(',');
        }
        push(&mut out, format_args!("[{}", time / unit));
        for number in [candle.low, candle.high, candle.open, candle.close, candle.volume] {
            out.push(',');
            style.number(&mut out, number);
        }
        out.push(']');
    }
    out.push(']');
    Answer::json(StatusCode::OK, out).with_rows(rows.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(query: &str) -> String {
        let answer = Candles::parse("ADA-BTC", query).unwrap_err();
        assert_eq!(answer.status, StatusCode::BAD_REQUEST);
        String::from_utf8(answer.body.to_vec()).unwrap()
    }

    #[test]
    fn times_are_iso_or_epoch_seconds() {
        for text in [
            "2018-01-10T00:00:00Z",
            "2018-01-10T01:00:00+01:00",
            "2018-01-10T00:00:00.000",
            "2018-01-10",
            "1515542400",
        ] {
            assert_eq!(instant(text), Some(1_515_542_400_000), "{text}");
        }
        assert_eq!(instant("yesterday"), None);
    }

    #[test]
    fn a_window_of_more_than_300_bars_is_refused() {
        assert!(Candles::parse("ADA-BTC", "granularity=300&start=0&end=90000").is_ok());
        assert!(refusal("granularity=300&start=0&end=90001").contains("exceeds 300"));
        assert!(refusal("granularity=120").contains("Unsupported granularity"));
        assert!(refusal("granularity=60&start=9&end=8").contains("start must be before end"));
        assert!(refusal("granularity=60&start=x&end=8").contains("Invalid start"));
    }

    #[test]
    fn one_end_alone_is_ignored() {
        let candles = Candles::parse("ADA-BTC", "granularity=60&start=0").unwrap();
        assert_eq!(candles.wanted(18_000_000), Wanted { first: Some(0), last: Some(18_000_000), limit: 301 });
        assert_eq!(candles.asked().first, None);
    }
}
