//! The ways in which an answer goes wrong, and their text form.

use std::str::FromStr;

use crate::{Error, Result};

/// One way in which an answer goes wrong.
///
/// Faults of rows change nothing in an answer without rows. In an archive they change the file but not
/// its `.CHECKSUM`, so a client sees that they disagree.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// 429 with the exchange's error body, and `Retry-After` in seconds when given.
    TooManyRequests(Option<u32>),
    /// 418, an address banned, with `Retry-After` in seconds when given.
    Banned(Option<u32>),
    /// 403 with the HTML page of a firewall, no `Retry-After`.
    Forbidden,
    /// 500 with an HTML body.
    InternalError,
    /// 502 with an HTML body.
    BadGateway,
    /// 503 with an HTML body.
    Unavailable,
    /// 200 and an error object where rows should be.
    ErrorInOk,
    /// 302 to the same path and query under this base URL.
    Redirect(String),
    /// 200 and an HTML page, called `text/html`, where JSON or a zip should be.
    WrongContentType,
    /// A complete 200 answer that is no JSON: the right bytes up to the middle, then noise.
    GarbageJson,
    /// Prices and volumes of 401 digits, beyond any double; in JSON numbers or strings as usual.
    HugeNumbers,
    /// A page that does not advance: rows of which the last opens one interval before the first
    /// opening time asked for. A page without rows gets the market's first candle so stamped.
    NotAdvancing,
    /// The rows rotated by half a page, neither ascending nor descending.
    Unsorted,
    /// The first row twice; the page may be one longer than its limit.
    Duplicated,
    /// The middle row's opening time is half an interval late.
    OffGrid,
    /// Times in a unit a thousand times off: seconds for milliseconds (Binance), milliseconds for
    /// seconds (Coinbase), and archives divided by a thousand.
    WrongTimeUnit,
    /// `Content-Length` is right, but the connection is closed after half of the body.
    Truncated,
    /// A chunked body of plausible rows that goes on until the body cap, where the connection breaks.
    Endless,
    /// The right body, one byte a second of tokio's clock.
    Slow,
    /// `Content-Encoding: gzip`, about a thousandth of what it inflates to: the body cap.
    Bomb,
    /// The connection is reset after the request was read, before any byte of an answer.
    Reset,
    /// The connection stays open and nothing is ever sent.
    Silent,
}

impl Fault {
    /// Every fault once, with plausible arguments, for tests that try each in turn.
    pub fn all() -> Vec<Self> {
        let elsewhere = "http://elsewhere.invalid".to_owned();
        vec![
            Self::TooManyRequests(Some(1)),
            Self::Banned(Some(1)),
            Self::Forbidden,
            Self::InternalError,
            Self::BadGateway,
            Self::Unavailable,
            Self::ErrorInOk,
            Self::Redirect(elsewhere),
            Self::WrongContentType,
            Self::GarbageJson,
            Self::HugeNumbers,
            Self::NotAdvancing,
            Self::Unsorted,
            Self::Duplicated,
            Self::OffGrid,
            Self::WrongTimeUnit,
            Self::Truncated,
            Self::Endless,
            Self::Slow,
            Self::Bomb,
            Self::Reset,
            Self::Silent,
        ]
    }

    /// The name in the text form, such as `off-grid` or `429`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::TooManyRequests(_) => "429",
            Self::Banned(_) => "418",
            Self::Forbidden => "403",
            Self::InternalError => "500",
            Self::BadGateway => "502",
            Self::Unavailable => "503",
            Self::ErrorInOk => "error-in-200",
            Self::Redirect(_) => "redirect",
            Self::WrongContentType => "wrong-content-type",
            Self::GarbageJson => "garbage-json",
            Self::HugeNumbers => "huge-numbers",
            Self::NotAdvancing => "not-advancing",
            Self::Unsorted => "unsorted",
            Self::Duplicated => "duplicated",
            Self::OffGrid => "off-grid",
            Self::WrongTimeUnit => "wrong-time-unit",
            Self::Truncated => "truncated",
            Self::Endless => "endless",
            Self::Slow => "slow",
            Self::Bomb => "bomb",
            Self::Reset => "reset",
            Self::Silent => "silent",
        }
    }
}

/// `429`, `429=30` (seconds of `Retry-After`), `redirect=http://host`, or another fault's name.
impl FromStr for Fault {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, argument) = match text.split_once('=') {
            Some((name, argument)) => (name, Some(argument)),
            None => (text, None),
        };
        let seconds = |argument: &str| {
            argument
                .parse()
                .map_err(|_| Error::input(format!("fault '{text}': '{argument}' is no number of seconds")))
        };
        match (name, argument) {
            ("429", argument) => Ok(Self::TooManyRequests(argument.map(seconds).transpose()?)),
            ("418", argument) => Ok(Self::Banned(argument.map(seconds).transpose()?)),
            ("redirect", Some(base)) => Ok(Self::Redirect(base.to_owned())),
            (_, Some(_)) => {
                Err(Error::input(format!("fault '{text}': only 429, 418 and redirect take a value")))
            }
            (name, None) => Self::all().into_iter().find(|fault| fault.name() == name).ok_or_else(|| {
                let names: Vec<_> = Self::all().iter().map(Self::name).collect();
                Error::input(format!("fault '{name}' is unknown; there are {}", names.join(", ")))
            }),
        }
    }
}
