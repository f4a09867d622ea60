//! The ways in which an answer goes wrong, and their text form.

use std::str::FromStr;

use crate::{Error, Result};

/// One way in which an answer goes wrong.
///
/// Faults of rows change nothing in an answer without rows. In an archive they change the file but not
/// its `.CHECKSUM`, so a client sees that they disagree. Some are plain to see in the one answer, others
/// are not: [`all`](Self::all) lists the former, [`quiet`](Self::quiet) the latter.
#[derive(Debug, Clone, PartialEq)]
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
    /// A page that does not advance: rows of which the last opens one interval before the first opening time asked
    /// for, or, where the newest come first, the first one interval after the last asked for. A page without rows gets
    /// the market's first candle so stamped.
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
    /// At most so many rows in a page, though more were asked for: of Binance those that a smaller `limit`
    /// would bring, of Coinbase the newest, of an archive the oldest.
    ShortPage(u32),
    /// [`ShortPage`](Self::ShortPage) with the status 206 where 200 would be.
    PartialContent(u32),
    /// Each row is left out with this probability; which ones depends on the seed, the second value, and
    /// on [`RequestRecord::number`](crate::RequestRecord::number).
    RandomPart(f64, u64),
    /// Of a page the first and the last row only.
    EndsOnly,
    /// The page of a market whose interval is five times as long: open of the first, high and low of all,
    /// close of the last, sums of the rest. In Binance's rows and archives the close time says so too.
    WrongInterval,
    /// Of a page only the rows on the grid of an interval five times as long, unchanged.
    Sparser,
    /// A page without rows.
    EmptyPage,
}

impl Fault {
    /// Every fault that one answer shows, as a failure or as rows that cannot be right, once and with
    /// plausible arguments, for tests that try each in turn. Who asks again gets over it.
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

    /// Every other fault once: those that make an answer that could be a right one, of a market with holes
    /// or another end. Only what else is known of the market shows them, or a second answer; in an archive
    /// the checksum does. The arguments bite at the pages of both exchanges.
    pub fn quiet() -> Vec<Self> {
        vec![
            Self::ShortPage(100),
            Self::PartialContent(100),
            Self::RandomPart(0.5, 0),
            Self::EndsOnly,
            Self::WrongInterval,
            Self::Sparser,
            Self::EmptyPage,
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
            Self::ShortPage(_) => "short-page",
            Self::PartialContent(_) => "206",
            Self::RandomPart(..) => "random-part",
            Self::EndsOnly => "ends-only",
            Self::WrongInterval => "wrong-interval",
            Self::Sparser => "sparser",
            Self::EmptyPage => "empty-page",
        }
    }
}

/// `429`, `429=30` (seconds of `Retry-After`), `redirect=http://host`, `short-page=500` and `206=500`
/// (rows), `random-part=0.5` and `random-part=0.5:SEED`, or another fault's name. Without a value, a fault
/// has that of [`Fault::all`] or [`Fault::quiet`]; 429 and 418 have none.
impl FromStr for Fault {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, argument) = match text.split_once('=') {
            Some((name, argument)) => (name, Some(argument)),
            None => (text, None),
        };
        let number = |argument: &str, of: &str| {
            let wrong = |_| Error::input(format!("fault '{text}': '{argument}' is no number of {of}"));
            argument.parse().map_err(wrong)
        };
        let seconds = |argument: Option<&str>| argument.map(|given| number(given, "seconds")).transpose();
        match (name, argument) {
            ("429", argument) => Ok(Self::TooManyRequests(seconds(argument)?)),
            ("418", argument) => Ok(Self::Banned(seconds(argument)?)),
            ("redirect", Some(base)) => Ok(Self::Redirect(base.to_owned())),
            ("short-page", Some(rows)) => Ok(Self::ShortPage(number(rows, "rows")?)),
            ("206", Some(rows)) => Ok(Self::PartialContent(number(rows, "rows")?)),
            ("random-part", Some(part)) => {
                let (probability, seed) = part.split_once(':').unwrap_or((part, "0"));
                match (probability.parse(), seed.parse()) {
                    (Ok(p), Ok(seed)) if (0.0..=1.0).contains(&p) => Ok(Self::RandomPart(p, seed)),
                    _ => {
                        Err(Error::input(format!("fault '{text}': not random-part=0.5[:SEED], from 0 to 1")))
                    }
                }
            }
            (_, Some(_)) => Err(Error::input(format!(
                "fault '{text}': only 429, 418, redirect, short-page, 206 and random-part take a value"
            ))),
            (name, None) => {
                let known = Self::all().into_iter().chain(Self::quiet()).collect::<Vec<_>>();
                let names = || known.iter().map(Self::name).collect::<Vec<_>>().join(", ");
                let unknown = || Error::input(format!("fault '{name}' is unknown; there are {}", names()));
                known.iter().find(|fault| fault.name() == name).cloned().ok_or_else(unknown)
            }
        }
    }
}
