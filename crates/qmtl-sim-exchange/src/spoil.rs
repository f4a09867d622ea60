//! The faults of content: what is answered instead, and what becomes of a page before it is written.

use std::sync::Arc;

use hyper::StatusCode;
use hyper::header::{LOCATION, RETRY_AFTER};

use crate::answer::{Answer, Style};
use crate::call::Request;
use crate::fault::Fault;
use crate::log::Endpoint;
use crate::market::{Market, Row};
use crate::venue::{self, Refusal, Venue};
use crate::{archive, binance, coinbase};

/// How many times as long the interval is that a fault mistakes for the one asked for.
const COARSER: i64 = 5;

/// What Binance calls a client that asks too much.
const TOO_MANY: i32 = -1003;

/// The answer that a fault gives instead of the right one.
pub(crate) fn instead(
    fault: &Fault,
    endpoint: Endpoint,
    request: &Request,
    venue: Option<&dyn Venue>,
) -> Option<Answer> {
    let venue_error = |status, code, text| match venue {
        Some(venue) if matches!(endpoint, Endpoint::VenueCandles | Endpoint::VenueTime) => {
            let is_limit = code == TOO_MANY;
            let refusal = if is_limit { Refusal::TooManyRequests } else { Refusal::OutOfOrder };
            venue::refused(venue, refusal, Some(status))
        }
        _ => built_in_error(endpoint, status, code, text),
    };
    let waiting = |answer: Answer, wait: &Option<u32>| match wait {
        Some(seconds) => answer.with_header(RETRY_AFTER, seconds),
        None => answer,
    };
    let answer = match fault {
        Fault::TooManyRequests(wait) => {
            let status = StatusCode::TOO_MANY_REQUESTS;
            waiting(venue_error(status, TOO_MANY, "Too many requests."), wait)
        }
        Fault::Banned(wait) => {
            waiting(venue_error(StatusCode::IM_A_TEAPOT, TOO_MANY, "Address banned."), wait)
        }
        Fault::Forbidden => Answer::html(StatusCode::FORBIDDEN, "403 Forbidden"),
        Fault::InternalError => Answer::html(StatusCode::INTERNAL_SERVER_ERROR, "500 Internal Server Error"),
        Fault::BadGateway => Answer::html(StatusCode::BAD_GATEWAY, "502 Bad Gateway"),
        Fault::Unavailable => Answer::html(StatusCode::SERVICE_UNAVAILABLE, "503 Service Unavailable"),
        Fault::WrongContentType => Answer::html(StatusCode::OK, "Welcome to the network"),
        Fault::ErrorInOk => venue_error(StatusCode::OK, -1001, "Internal error; please try again."),
        Fault::Redirect(base) => {
            let query = if request.query.is_empty() { String::new() } else { format!("?{}", request.query) };
            let target = format!("{}{}{query}", base.trim_end_matches('/'), request.path);
            Answer::html(StatusCode::FOUND, "302 Found").with_header(LOCATION, &target)
        }
        _ => return None,
    };
    Some(answer)
}

/// An error object as the endpoint's exchange writes it.
fn built_in_error(endpoint: Endpoint, status: StatusCode, code: i32, text: &str) -> Answer {
    match endpoint {
        Endpoint::CoinbaseTime | Endpoint::ProductCandles => coinbase::error(status, text),
        Endpoint::Archive => archive::error(status, "SlowDown", text),
        _ => binance::error_with(status, code, text),
    }
}

/// The market as the fault lets it be seen: of another interval, or as it is.
pub(crate) fn seen(market: Arc<Market>, fault: Option<&Fault>) -> Arc<Market> {
    match fault {
        Some(Fault::WrongInterval) => Arc::new(market.coarser(COARSER)),
        _ => market,
    }
}

/// The rows that the fault leaves room for in a page.
pub(crate) fn room(fault: Option<&Fault>) -> usize {
    match fault {
        Some(Fault::ShortPage(rows) | Fault::PartialContent(rows)) => {
            usize::try_from(*rows).unwrap_or(usize::MAX)
        }
        _ => usize::MAX,
    }
}

/// Where a page begins: the opening time that was asked for, from which the pages after it go on.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Begins {
    /// With the oldest row, and upwards.
    AtFirst(Option<i64>),
    /// With the newest row, and downwards.
    AtLast(Option<i64>),
}

/// Changes the rows of `market`'s page as the fault says, if there is one; `number` is that of the request. The style
/// is how they are to be written.
pub(crate) fn spoil(
    rows: &mut Vec<Row>,
    fault: Option<&Fault>,
    market: &Market,
    begins: Begins,
    number: u64,
) -> Style {
    let Some(fault) = fault else { return Style::Right };
    let step = market.interval().ms();
    match fault {
        Fault::NotAdvancing => {
            if rows.is_empty() {
                rows.extend(
                    market.candles().first().map(|candle| Row { time: candle.open_time, candle: *candle }),
                );
            }
            let (oldest, newest) =
                (rows.first().map_or(0, |row| row.time), rows.last().map_or(0, |row| row.time));
            let on = match begins {
                Begins::AtFirst(first) => first.unwrap_or(oldest).saturating_sub(step).saturating_sub(newest),
                Begins::AtLast(last) => last.unwrap_or(newest).saturating_add(step).saturating_sub(oldest),
            };
            rows.iter_mut().for_each(|row| row.time = row.time.saturating_add(on));
        }
        Fault::Unsorted => {
            let half = rows.len() / 2;
            rows.rotate_left(half);
        }
        Fault::Duplicated => rows.extend_from_within(..rows.len().min(1)),
        Fault::OffGrid => {
            let middle = rows.len() / 2;
            rows.iter_mut().skip(middle).take(1).for_each(|row| row.time += step / 2);
        }
        Fault::RandomPart(probability, seed) => {
            // Far apart for seeds and for numbers that are close to each other.
            let mut random = fastrand::Rng::with_seed(seed ^ number.rotate_left(32));
            rows.retain(|_| random.f64() >= *probability);
        }
        Fault::EndsOnly => {
            let last = rows.len().saturating_sub(1);
            rows.drain(last.min(1)..last);
        }
        Fault::Sparser => {
            let grid = market.interval().times(COARSER);
            rows.retain(|row| grid.floor(row.time) == row.time);
        }
        Fault::EmptyPage => rows.clear(),
        Fault::WrongTimeUnit => return Style::WrongTimeUnit,
        Fault::HugeNumbers => return Style::HugeNumbers,
        _ => {}
    }
    Style::Right
}
