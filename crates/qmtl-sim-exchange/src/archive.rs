//! Archive files like those of data.binance.vision: names, zipped CSV and checksums.

use std::io::{self, Cursor, Write as _};

use chrono::{Datelike, Months, NaiveDate, NaiveTime};
use hyper::StatusCode;
use hyper::header::ETAG;
use sha2::{Digest, Sha256};
use zip::write::SimpleFileOptions;

use crate::answer::{Answer, Style, push};
use crate::interval::Interval;
use crate::log::Asked;
use crate::market::{Row, Wanted};

/// Where the paths of archives start.
pub(crate) const ARCHIVES: &str = "/data/spot/";
/// The first year whose files count microseconds.
const MICROSECONDS_SINCE: i32 = 2025;

/// What the path of an archive means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileName {
    pub(crate) symbol: String,
    pub(crate) interval: Interval,
    /// Without its extension, such as `ADABTC-5m-2018-01-10`.
    stem: String,
    first_day: NaiveDate,
    /// The day after the last one.
    end_day: NaiveDate,
    /// Whether the `.CHECKSUM` beside the file is meant.
    pub(crate) checksum: bool,
}

impl FileName {
    /// Reads `/data/spot/{daily,monthly}/klines/SYM/INT/SYM-INT-YYYY-MM[-DD].zip[.CHECKSUM]`.
    pub(crate) fn parse(path: &str) -> Option<Self> {
        let mut parts = path.strip_prefix(ARCHIVES)?.split('/');
        let (period, klines, symbol) = (parts.next()?, parts.next()?, parts.next()?);
        let (interval, file) = (Interval::parse(parts.next()?).ok()?, parts.next()?);
        if klines != "klines" || parts.next().is_some() {
            return None;
        }
        let (file, checksum) = match file.strip_suffix(".CHECKSUM") {
            Some(file) => (file, true),
            None => (file, false),
        };
        let stem = file.strip_suffix(".zip")?;
        let date =
            stem.strip_prefix(symbol)?.strip_prefix('-')?.strip_prefix(interval.name())?.strip_prefix('-')?;
        let (first_day, end_day) = days(period, date)?;
        Some(Self {
            symbol: symbol.to_owned(),
            interval,
            stem: stem.to_owned(),
            first_day,
            end_day,
            checksum,
        })
    }

    /// The file's name, of a checksum that of the file it is for.
    pub(crate) fn zip(&self) -> String {
        format!("{}.zip", self.stem)
    }

    /// The bars in a file that has room for so many rows.
    pub(crate) fn wanted(&self, room: usize) -> Wanted {
        Wanted { first: Some(millis(self.first_day)), last: Some(millis(self.end_day) - 1), limit: room }
    }

    pub(crate) fn asked(&self) -> Asked {
        let Wanted { first, last, .. } = self.wanted(usize::MAX);
        let bars = (millis(self.end_day) - millis(self.first_day)) / self.interval.ms();
        Asked { market: self.symbol.clone(), first, last, limit: bars.unsigned_abs() }
    }

    /// Whether the file is out at `now`: its last day is over.
    pub(crate) fn published(&self, now: i64) -> bool {
        now >= millis(self.end_day)
    }

    /// The zip of these rows of this length; the same rows give the same bytes.
    pub(crate) fn pack(&self, rows: &[Row], length: Interval, style: Style) -> io::Result<Vec<u8>> {
        // A fixed time, because the archive's identity must not depend on when it was packed.
        let options = SimpleFileOptions::default().last_modified_time(zip::DateTime::default());
        let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
        zip.start_file(format!("{}.csv", self.stem), options)?;
        zip.write_all(self.csv(rows, length, style).as_bytes())?;
        Ok(zip.finish()?.into_inner())
    }

    fn csv(&self, rows: &[Row], length: Interval, style: Style) -> String {
        let per_ms = if self.first_day.year() >= MICROSECONDS_SINCE { 1_000 } else { 1 };
        let over = if style == Style::WrongTimeUnit { 1_000 } else { 1 };
        let mut out = String::with_capacity(rows.len() * 120);
        for Row { time, candle } in rows {
            push(&mut out, format_args!("{}", time * per_ms / over));
            for number in [candle.open, candle.high, candle.low, candle.close, candle.volume] {
                field(&mut out, number, style);
            }
            push(&mut out, format_args!(",{}", ((time + length.ms()) * per_ms - 1) / over));
            field(&mut out, candle.quote_volume, style);
            push(&mut out, format_args!(",{}", candle.trades));
            field(&mut out, candle.taker_base, style);
            field(&mut out, candle.taker_quote, style);
            out.push_str(",0\n");
        }
        out
    }
}

fn field(out: &mut String, number: f64, style: Style) {
    out.push(',');
    style.number(out, number);
}

/// The first day of a file and the day after its last one.
fn days(period: &str, date: &str) -> Option<(NaiveDate, NaiveDate)> {
    let (first, end, form) = match period {
        "daily" => {
            let day = NaiveDate::parse_from_str(date, "%Y-%m-%d").ok()?;
            (day, day.succ_opt()?, "%Y-%m-%d")
        }
        "monthly" => {
            let month = NaiveDate::parse_from_str(&format!("{date}-01"), "%Y-%m-%d").ok()?;
            (month, month.checked_add_months(Months::new(1))?, "%Y-%m")
        }
        _ => return None,
    };
    // A name has one spelling: no `2018-1-9`.
    (first.format(form).to_string() == date).then_some((first, end))
}

fn millis(day: NaiveDate) -> i64 {
    day.and_time(NaiveTime::MIN).and_utc().timestamp_millis()
}

/// A packed file and its SHA-256 in hex.
#[derive(Debug)]
pub(crate) struct Packed {
    pub(crate) bytes: bytes::Bytes,
    sha256: String,
    rows: usize,
}

impl Packed {
    pub(crate) fn new(bytes: Vec<u8>, rows: usize) -> Self {
        let sha256 = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        Self { bytes: bytes.into(), sha256, rows }
    }

    /// The file or its checksum; 304 when the client's `If-None-Match` is the file as it is.
    pub(crate) fn answer(&self, name: &FileName, if_none_match: Option<&str>) -> Answer {
        let tag = format!("\"{}{}\"", &self.sha256[..32], if name.checksum { "-sum" } else { "" });
        let fresh =
            if_none_match.is_some_and(|tags| tags.split(',').any(|t| t.trim() == tag || t.trim() == "*"));
        let answer = if fresh {
            Answer::new(StatusCode::NOT_MODIFIED, "", "")
        } else if name.checksum {
            Answer::new(StatusCode::OK, "text/plain", format!("{}  {}\n", self.sha256, name.zip()))
        } else {
            Answer::new(StatusCode::OK, "application/zip", self.bytes.clone()).with_rows(self.rows)
        };
        answer.with_header(ETAG, &tag)
    }
}

/// The answer for a file that is not there.
pub(crate) fn absent(path: &str) -> Answer {
    error(StatusCode::NOT_FOUND, "NoSuchKey", &format!("The specified key does not exist: {path}"))
}

pub(crate) fn error(status: StatusCode, code: &str, text: &str) -> Answer {
    // The path comes from the client.
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>{text}</Message></Error>"
    );
    Answer::new(status, "application/xml", body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_in_one_spelling() {
        let path = "/data/spot/daily/klines/ADABTC/5m/ADABTC-5m-2018-01-10.zip";
        let name = FileName::parse(path).unwrap();
        let wanted =
            Wanted { first: Some(1_515_542_400_000), last: Some(1_515_628_799_999), limit: usize::MAX };
        assert_eq!((name.wanted(usize::MAX), name.checksum), (wanted, false));
        assert!(!name.published(1_515_628_799_999) && name.published(1_515_628_800_000));
        let month = "/data/spot/monthly/klines/ADABTC/5m/ADABTC-5m-2018-12.zip.CHECKSUM";
        let month = FileName::parse(month).unwrap();
        assert_eq!(month.end_day, NaiveDate::from_ymd_opt(2019, 1, 1).unwrap());
        assert!(month.checksum);
        for wrong in [
            "/data/spot/daily/klines/ADABTC/5m/ADABTC-1m-2018-01-10.zip",
            "/data/spot/daily/klines/ADABTC/5m/ADABTC-5m-2018-1-10.zip",
            "/data/spot/daily/klines/ADABTC/5m/ADABTC-5m-2018-02-30.zip",
            "/data/spot/daily/klines/ADABTC/5m/ADABTC-5m-2018-01.zip",
            "/data/spot/weekly/klines/ADABTC/5m/ADABTC-5m-2018-01-10.zip",
            "/data/spot/daily/trades/ADABTC/5m/ADABTC-5m-2018-01-10.zip",
            "/data/spot/daily/klines/ADABTC/5m/ADABTC-5m-2018-01-10.csv",
        ] {
            assert_eq!(FileName::parse(wrong), None, "{wrong}");
        }
    }
}
