//! Layouts of text files that many people have, by name: a table of what such a file does not say of itself.

use std::path::Path;

use qmtl_history_api::{Error, Result};

use super::config::FileConfig;
use super::stamp::Stamp;
use super::time::TimeFormat;
use super::zone::Zone;

/// A layout that many files have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Profile {
    /// What it is called, such as `histdata`.
    pub name: &'static str,
    /// Whose files have it.
    pub about: &'static str,
    /// The columns of a file without a header.
    columns: &'static [&'static str],
    delimiter: Option<char>,
    ts_column: Option<&'static str>,
    symbol_column: Option<&'static str>,
    time_format: Option<&'static str>,
    /// The zone of times without an offset.
    zone: Option<&'static str>,
    stamp: Stamp,
    /// Columns with other names, and those that are left out, whose other name is empty.
    renamed: &'static [(&'static str, &'static str)],
    sign: Sign,
}

/// What shows for certain that a file has a layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sign {
    /// Nothing: it must be named.
    None,
    /// All of these columns are in its first line.
    Header(&'static [&'static str]),
    /// Its name contains all of these, as one way of naming such files has it.
    Name(&'static [[&'static str; 2]]),
}

/// A layout that says nothing.
const PLAIN: Profile = Profile {
    name: "",
    about: "",
    columns: &[],
    delimiter: None,
    ts_column: None,
    symbol_column: None,
    time_format: None,
    zone: None,
    stamp: Stamp::Open,
    renamed: &[],
    sign: Sign::None,
};

/// A time, four prices and a volume.
const CANDLE: [&str; 6] = ["ts", "open", "high", "low", "close", "volume"];

const PROFILES: [Profile; 19] = [
    Profile {
        name: "alphavantage",
        about: "Alpha Vantage, intraday: times of New York",
        zone: Some("America/New_York"),
        ..PLAIN
    },
    Profile {
        name: "backtrader",
        about: "backtrader's GenericCSVData: seven columns without a header",
        columns: &["ts", "open", "high", "low", "close", "volume", "openinterest"],
        ..PLAIN
    },
    Profile {
        name: "cryptodatadownload",
        about: "CryptoDataDownload: a line with its address, then a header",
        ts_column: Some("unix"),
        renamed: &[("date", ""), ("Date", ""), ("tradecount", "trades")],
        ..PLAIN
    },
    Profile {
        name: "dukascopy",
        about: "Dukascopy's historical data, times in GMT",
        ts_column: Some("Gmt time"),
        time_format: Some("%d.%m.%Y %H:%M:%S%.f"),
        ..PLAIN
    },
    Profile {
        name: "firstrate",
        about: "FirstRate Data: without a header, times of New York",
        columns: &CANDLE,
        zone: Some("America/New_York"),
        ..PLAIN
    },
    Profile {
        name: "histdata",
        about: "HistData.com, generic ASCII M1: semicolons, EST without summer time",
        columns: &CANDLE,
        delimiter: Some(';'),
        time_format: Some("%Y%m%d %H%M%S"),
        zone: Some("EST"),
        sign: Sign::Name(&[["DAT_ASCII_", "_M1"], ["HISTDATA_COM_ASCII_", "_M1"]]),
        ..PLAIN
    },
    Profile {
        name: "histdata-mt",
        about: "HistData.com, MetaTrader M1: commas, EST without summer time",
        columns: &["date", "time", "open", "high", "low", "close", "volume"],
        time_format: Some("%Y.%m.%d %H:%M"),
        zone: Some("EST"),
        sign: Sign::Name(&[["DAT_MT_", "_M1"], ["HISTDATA_COM_MT_", "_M1"]]),
        ..PLAIN
    },
    Profile {
        name: "kraken",
        about: "Kraken's OHLCVT archives: seven columns without a header",
        columns: &["ts", "open", "high", "low", "close", "volume", "trades"],
        ..PLAIN
    },
    Profile {
        name: "lean",
        about: "LEAN's hourly and daily crypto files; prices of shares are stored ten thousandfold there",
        columns: &CANDLE,
        time_format: Some("%Y%m%d %H:%M"),
        ..PLAIN
    },
    Profile {
        name: "mt4",
        about: "MetaTrader 4, History Center: date and time, without a header; times are the broker's (--zone)",
        columns: &["date", "time", "open", "high", "low", "close", "volume"],
        time_format: Some("%Y.%m.%d %H:%M"),
        ..PLAIN
    },
    Profile {
        name: "mt5",
        about: "MetaTrader 5, exported bars: the volume counts price changes; times are the broker's (--zone)",
        renamed: &[("TICKVOL", "volume"), ("VOL", "real_volume"), ("SPREAD", "spread")],
        sign: Sign::Header(&["<DATE>", "<OPEN>", "<TICKVOL>", "<SPREAD>"]),
        ..PLAIN
    },
    Profile {
        name: "ninjatrader",
        about: "NinjaTrader, minute bars: semicolons, stamped with their close",
        columns: &CANDLE,
        delimiter: Some(';'),
        time_format: Some("%Y%m%d %H%M%S"),
        stamp: Stamp::Close,
        ..PLAIN
    },
    Profile {
        name: "polygon",
        about: "Polygon's flat files of aggregates: all tickers in one file",
        ts_column: Some("window_start"),
        symbol_column: Some("ticker"),
        renamed: &[("transactions", "trades")],
        sign: Sign::Header(&["ticker", "window_start", "transactions"]),
        ..PLAIN
    },
    Profile {
        name: "stooq",
        about: "Stooq: <TICKER>, <PER>, <DATE>, <TIME>",
        symbol_column: Some("TICKER"),
        renamed: &[("PER", ""), ("OPENINT", "")],
        ..PLAIN
    },
    Profile {
        name: "tradingview",
        about: "TradingView's chart export: epoch seconds or ISO 8601",
        ts_column: Some("time"),
        ..PLAIN
    },
    Profile {
        name: "tushare",
        about: "Tushare's daily bars: all codes in one table, dates of eight digits",
        ts_column: Some("trade_date"),
        symbol_column: Some("ts_code"),
        renamed: &[("vol", "volume")],
        ..PLAIN
    },
    Profile {
        name: "vnpy",
        about: "VeighNa's CSV export: datetime with an offset, or times of Shanghai",
        ts_column: Some("datetime"),
        zone: Some("Asia/Shanghai"),
        ..PLAIN
    },
    Profile {
        name: "yahoo",
        about: "Yahoo Finance, downloaded or by yfinance, daily: the date counts",
        ts_column: Some("Date"),
        stamp: Stamp::Date,
        sign: Sign::Header(&["Date", "Open", "Close", "Dividends", "Stock Splits"]),
        ..PLAIN
    },
    Profile {
        name: "zipline",
        about: "bars that are stamped with their close, as zipline and QuantConnect's consolidators write them",
        stamp: Stamp::Close,
        ..PLAIN
    },
];

impl Profile {
    /// All profiles, by name.
    #[must_use]
    pub fn all() -> &'static [Self] {
        &PROFILES
    }

    /// The profile of this name; `InvalidInput`, naming all, when there is none.
    pub fn named(name: &str) -> Result<Self> {
        let found = PROFILES.iter().find(|profile| profile.name == name).copied();
        found.ok_or_else(|| {
            let names: Vec<_> = PROFILES.iter().map(|profile| profile.name).collect();
            Error::invalid(format!("no such profile; there are {}", names.join(", ")))
                .with("profile", format_args!("{name:?}"))
        })
    }

    /// What it says of its files, as options would say it.
    #[must_use]
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        let told = |name, value: Option<&str>| value.map(|value| (name, value.to_owned()));
        let columns = self.columns.join(",");
        let renamed: Vec<_> = self.renamed.iter().map(|(own, name)| format!("{name}={own}")).collect();
        let stamp = self.stamp.to_string();
        [
            told("delimiter", self.delimiter.map(String::from).as_deref()),
            told("columns", Some(columns.as_str()).filter(|columns| !columns.is_empty())),
            told("ts column", self.ts_column),
            told("symbol column", self.symbol_column),
            told("time format", self.time_format),
            told("zone", self.zone),
            told("stamp", Some(stamp.as_str()).filter(|_| self.stamp != Stamp::Open)),
            told("renamed", Some(renamed.join(" ")).filter(|renamed| !renamed.is_empty()).as_deref()),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// The profile that a file shows by its name or its first line.
    pub(super) fn of(name: &Path, head: &[u8]) -> Option<Self> {
        let file = name.file_name()?.to_string_lossy().to_uppercase();
        let line = head.split(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or_default();
        let line = String::from_utf8_lossy(line);
        let fields: Vec<_> =
            line.split([',', ';', '\t']).map(|field| field.trim().trim_matches('"')).collect();
        let is_shown = |profile: &&Self| match profile.sign {
            Sign::None => false,
            Sign::Name(ways) => ways.iter().any(|parts| parts.iter().all(|part| file.contains(part))),
            Sign::Header(columns) => columns.iter().all(|column| fields.contains(column)),
        };
        PROFILES.iter().find(is_shown).copied()
    }

    /// What it adds to what is said of a file: nothing there is changed.
    pub(super) fn applied(self, mut config: FileConfig) -> Result<FileConfig> {
        if let Some(delimiter) = self.delimiter.filter(|_| config.delimiter.is_none()) {
            config = config.with_delimiter(delimiter)?;
        }
        if let Some(format) = self.time_format.filter(|_| config.time_format.is_none()) {
            config = config.with_time_format(TimeFormat::new(format)?);
        }
        if let Some(zone) = self.zone.filter(|_| config.zone.is_none()) {
            config = config.with_zone(zone.parse::<Zone>()?);
        }
        if config.columns.is_empty() && config.has_header != Some(true) && !self.columns.is_empty() {
            config = config.with_columns(self.columns.iter().copied());
        }
        config.stamp = config.stamp.or(Some(self.stamp));
        config.ts_column = config.ts_column.or(self.ts_column.map(str::to_owned));
        config.symbol_column = config.symbol_column.or(self.symbol_column.map(str::to_owned));
        config.usually_renamed = self.renamed;
        Ok(config)
    }

    /// The same for a file that shows by itself that it has this layout. Which series is wanted of it must be said all
    /// the same.
    pub(super) fn applied_by_itself(self, config: FileConfig) -> Result<FileConfig> {
        let symbol_column = config.symbol_column.clone();
        self.applied(config).map(|config| FileConfig { symbol_column, ..config })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_are_sound_and_sorted() {
        let names: Vec<_> = PROFILES.iter().map(|profile| profile.name).collect();
        assert!(names.is_sorted(), "{names:?}");
        for profile in PROFILES {
            let config = profile.applied(FileConfig::new("x.csv")).unwrap();
            assert_eq!(config.stamp, Some(profile.stamp), "{}", profile.name);
            assert_eq!(Profile::named(profile.name).unwrap(), profile);
        }
        let error = Profile::named("mt6").unwrap_err().to_string();
        assert!(error.contains("mt4, mt5") && error.contains("profile: \"mt6\""), "{error}");
    }

    #[test]
    fn what_was_said_counts_more_than_a_profile() {
        let said = FileConfig::new("x.csv").with_zone("UTC".parse().unwrap()).with_stamp(Stamp::Open);
        let config = Profile::named("histdata").unwrap().applied(said.clone()).unwrap();
        assert_eq!((config.zone, config.stamp), (said.zone, said.stamp));
        assert_eq!(config.delimiter, Some(b';'));
    }

    #[test]
    fn a_file_may_show_its_profile() {
        let of = |name: &str, head: &str| {
            Profile::of(Path::new(name), head.as_bytes()).map(|profile| profile.name)
        };
        assert_eq!(of("DAT_ASCII_EURUSD_M1_202401.csv", "20240101 170000;1"), Some("histdata"));
        assert_eq!(of("HISTDATA_COM_ASCII_EURUSD_M1202401.zip", ""), Some("histdata"));
        assert_eq!(of("DAT_MT_EURUSD_M1_2024.csv", "2024.01.01,17:00,1.1"), Some("histdata-mt"));
        assert_eq!(of("DAT_ASCII_EURUSD_T_202401.csv", "20240101 170003660,1.1,1.2,0"), None, "ticks");
        assert_eq!(
            of("x.csv", "<DATE>\t<TIME>\t<OPEN>\t<HIGH>\t<TICKVOL>\t<VOL>\t<SPREAD>\r\n"),
            Some("mt5")
        );
        assert_eq!(of("x.csv", "Date,Open,High,Low,Close,Volume,Dividends,Stock Splits\n"), Some("yahoo"));
        assert_eq!(of("x.csv", "Date,Open,High,Low,Close,Volume\n"), None);
        assert_eq!(of("x.csv", ""), None);
    }
}
