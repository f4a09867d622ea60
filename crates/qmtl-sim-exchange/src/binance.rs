//! Binance spot: what a klines request asks for, its errors, and the pages as JSON.

use hyper::StatusCode;

use crate::answer::{Answer, Style, push};
use crate::interval::Interval;
use crate::log::Asked;
use crate::market::{Market, Row, Wanted, is_symbol};

/// Rows in a page unless `limit` says otherwise.
const DEFAULT_LIMIT: u64 = 500;
/// Rows in a page at most; the exchange takes a greater `limit` for this one without a word.
const MAX_LIMIT: u64 = 1_000;
/// Weight of a klines request, whatever its limit.
pub(crate) const KLINES_WEIGHT: u32 = 2;
pub(crate) const EXCHANGE_INFO_WEIGHT: u32 = 20;

const DIGITS: &str = "^[0-9]{1,20}$";
const SYMBOL: &str = "^[A-Z0-9-_.]{1,20}$";
const PARAMETERS: [&str; 6] = ["symbol", "interval", "startTime", "endTime", "timeZone", "limit"];

/// A klines request that makes sense.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Klines {
    pub(crate) symbol: String,
    pub(crate) interval: Interval,
    first: Option<i64>,
    last: Option<i64>,
    limit: u64,
}

impl Klines {
    /// Reads the query in the order in which the exchange complains.
    pub(crate) fn parse(query: &str) -> Result<Self, Answer> {
        let sent: Vec<(String, String)> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        let find = |name: &str| sent.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        if let Some(name) =
            PARAMETERS.iter().find(|name| sent.iter().filter(|(key, _)| key == *name).count() > 1)
        {
            return Err(error(-1101, &format!("Duplicate values for parameter '{name}' detected.")));
        }
        let mandatory =
            |name: &str| find(name).filter(|value| !value.is_empty()).ok_or_else(|| missing(name));
        let symbol = mandatory("symbol")?;
        if !is_symbol(symbol) {
            return Err(illegal("symbol", SYMBOL));
        }
        let interval = mandatory("interval")?;
        let number = |name: &str| find(name).map(|value| digits(name, value)).transpose();
        let (first, last, limit) = (number("startTime")?, number("endTime")?, number("limit")?);
        if limit == Some(0) {
            return Err(invalid("limit"));
        }
        if find("timeZone").is_some_and(|zone| zone != "0") {
            // The simulation knows no other calendar than UTC.
            return Err(invalid("timeZone"));
        }
        let read = sent.iter().filter(|(key, _)| PARAMETERS.contains(&key.as_str())).count();
        if read < sent.len() {
            let text = format!(
                "Not all sent parameters were read; read '{read}' parameter(s) but was sent '{}'.",
                sent.len()
            );
            return Err(error(-1104, &text));
        }
        let interval = Interval::parse(interval).map_err(|_| bad_interval())?;
        let limit = limit.map_or(DEFAULT_LIMIT, i64::unsigned_abs);
        Ok(Self { symbol: symbol.to_owned(), interval, first, last, limit })
    }

    pub(crate) fn asked(&self) -> Asked {
        Asked { market: self.symbol.clone(), first: self.first, last: self.last, limit: self.limit }
    }

    /// The bars of a page that has room for so many rows.
    pub(crate) fn wanted(&self, room: usize) -> Wanted {
        let limit = usize::try_from(self.limit.min(MAX_LIMIT)).unwrap_or(usize::MAX);
        Wanted { first: self.first, last: self.last, limit: limit.min(room) }
    }
}

fn digits(name: &str, value: &str) -> Result<i64, Answer> {
    if value.is_empty() {
        return Err(error(-1105, &format!("Parameter '{name}' was empty.")));
    }
    if value.len() > 20 || !value.bytes().all(|b| b.is_ascii_digit()) {
        return Err(illegal(name, DIGITS));
    }
    value.parse().map_err(|_| error(-1108, &format!("Parameter '{name}' overflowed.")))
}

/// An error of the exchange's, HTTP 400.
pub(crate) fn error(code: i32, text: &str) -> Answer {
    error_with(StatusCode::BAD_REQUEST, code, text)
}

pub(crate) fn error_with(status: StatusCode, code: i32, text: &str) -> Answer {
    Answer::json(status, format!(r#"{{"code":{code},"msg":"{text}"}}"#))
}

pub(crate) fn bad_symbol() -> Answer {
    error(-1121, "Invalid symbol.")
}

pub(crate) fn bad_interval() -> Answer {
    error(-1120, "Invalid interval.")
}

pub(crate) fn too_much_weight(limit: u32) -> Answer {
    let text = format!(
        "Too much request weight used; current limit is {limit} request weight per 1 MINUTE. \
         Please use WebSocket Streams for live updates to avoid polling the API."
    );
    error_with(StatusCode::TOO_MANY_REQUESTS, -1003, &text)
}

/// A ban that ends at `until`, milliseconds.
pub(crate) fn banned(until: i64) -> Answer {
    let text = format!(
        "Way too much request weight used; IP banned until {until}. \
         Please use WebSocket Streams for live updates to avoid bans."
    );
    error_with(StatusCode::IM_A_TEAPOT, -1003, &text)
}

fn missing(name: &str) -> Answer {
    error(-1102, &format!("Mandatory parameter '{name}' was not sent, was empty/null, or malformed."))
}

fn illegal(name: &str, range: &str) -> Answer {
    error(-1100, &format!("Illegal characters found in parameter '{name}'; legal range is '{range}'."))
}

fn invalid(name: &str) -> Answer {
    error(-1130, &format!("Data sent for parameter '{name}' is not valid."))
}

pub(crate) fn ping() -> Answer {
    Answer::json(StatusCode::OK, "{}")
}

pub(crate) fn time(now: i64) -> Answer {
    Answer::json(StatusCode::OK, format!(r#"{{"serverTime":{now}}}"#))
}

/// Time zone, clock, weight limit and symbols; orders and filters are not simulated.
pub(crate) fn exchange_info<'a>(
    markets: impl Iterator<Item = &'a Market>,
    now: i64,
    weight_limit: u32,
) -> Answer {
    let mut symbols: Vec<&str> = markets.map(Market::symbol).collect();
    symbols.sort_unstable();
    symbols.dedup();
    let symbols: Vec<String> =
        symbols.iter().map(|symbol| format!(r#"{{"symbol":"{symbol}","status":"TRADING"}}"#)).collect();
    let body = format!(
        r#"{{"timezone":"UTC","serverTime":{now},"rateLimits":[{{"rateLimitType":"REQUEST_WEIGHT","interval":"MINUTE","intervalNum":1,"limit":{weight_limit}}}],"exchangeFilters":[],"symbols":[{}]}}"#,
        symbols.join(",")
    );
    Answer::json(StatusCode::OK, body)
}

/// A page of klines, rows as they come.
pub(crate) fn page(rows: &[Row], interval: Interval, style: Style) -> Answer {
    let mut out = String::with_capacity(rows.len() * 160 + 2);
    out.push('[');
    let unit = if style == Style::WrongTimeUnit { 1_000 } else { 1 };
    for row in rows {
        if out.len() > 1 {
            out.push(',');
        }
        out.push('[');
        write_fields(&mut out, row, style, [row.time / unit, (row.time + interval.ms() - 1) / unit]);
        out.push(']');
    }
    out.push(']');
    Answer::json(StatusCode::OK, out).with_rows(rows.len())
}

/// The twelve fields of a kline between commas; `times` are those of opening and closing.
fn write_fields(out: &mut String, row: &Row, style: Style, times: [i64; 2]) {
    let candle = &row.candle;
    let quoted = |out: &mut String, number: f64| {
        out.push_str(",\"");
        style.number(out, number);
        out.push('"');
    };
    push(out, format_args!("{}", times[0]));
    for number in [candle.open, candle.high, candle.low, candle.close, candle.volume] {
        quoted(out, number);
    }
    push(out, format_args!(",{}", times[1]));
    quoted(out, candle.quote_volume);
    push(out, format_args!(",{}", candle.trades));
    quoted(out, candle.taker_base);
    quoted(out, candle.taker_quote);
    out.push_str(",\"0\"");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::candle::Candle;

    fn refusal(query: &str) -> String {
        let answer = Klines::parse(query).unwrap_err();
        assert_eq!(answer.status, StatusCode::BAD_REQUEST);
        String::from_utf8(answer.body.to_vec()).unwrap()
    }

    #[test]
    fn every_malformed_query_has_its_code() {
        let cases = [
            ("interval=1m", "-1102"),
            ("symbol=&interval=1m", "-1102"),
            ("symbol=ADABTC", "-1102"),
            ("symbol=adabtc&interval=1m", "-1100"),
            ("symbol=ADABTC&interval=1M", "-1120"),
            ("symbol=ADABTC&interval=60", "-1120"),
            ("symbol=ADABTC&interval=1m&startTime=-1", "-1100"),
            ("symbol=ADABTC&interval=1m&startTime=1e3", "-1100"),
            ("symbol=ADABTC&interval=1m&endTime=99999999999999999999", "-1108"),
            ("symbol=ADABTC&interval=1m&endTime=", "-1105"),
            ("symbol=ADABTC&interval=1m&limit=0", "-1130"),
            ("symbol=ADABTC&interval=1m&timeZone=8", "-1130"),
            ("symbol=ADABTC&interval=1m&limit=1&limit=2", "-1101"),
            ("symbol=ADABTC&interval=1m&start_time=1", "-1104"),
        ];
        for (query, code) in cases {
            assert!(refusal(query).contains(&format!(r#"{{"code":{code},"#)), "{query}: {}", refusal(query));
        }
        assert!(
            refusal("symbol=ADABTC&interval=1m&start=1").contains("read '2' parameter(s) but was sent '3'")
        );
    }

    #[test]
    fn a_greater_limit_is_remembered_but_not_served() {
        let klines = Klines::parse("symbol=ADABTC&interval=5m&limit=5000&startTime=7&endTime=9").unwrap();
        assert_eq!(klines.wanted(usize::MAX), Wanted { first: Some(7), last: Some(9), limit: 1_000 });
        assert_eq!(
            klines.asked(),
            Asked { market: "ADABTC".into(), first: Some(7), last: Some(9), limit: 5_000 }
        );
        assert_eq!(Klines::parse("symbol=A&interval=1d").unwrap().wanted(501).limit, 500);
    }

    #[test]
    fn a_row_has_twelve_fields_and_numbers_as_strings() {
        let candle = Candle::new(1_515_560_100_000, [5.33e-5, 5.33e-5, 5.288e-5, 5.29e-5], 2.0);
        let row = Row { time: candle.open_time, candle };
        let answer = page(&[row], Interval::parse("5m").unwrap(), Style::Right);
        assert_eq!(
            std::str::from_utf8(&answer.body).unwrap(),
            r#"[[1515560100000,"0.0000533","0.0000533","0.00005288","0.0000529","2",1515560399999,"0.0001062",1,"1","0.0000531","0"]]"#
        );
    }
}
