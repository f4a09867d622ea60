//! What the name of a file says of its bars.

use std::path::Path;

use qmtl_history_api::Interval;

/// What prices are counted in.
const QUOTES: [&str; 12] =
    ["USDT", "USDC", "BUSD", "USD", "EUR", "GBP", "JPY", "CHF", "BTC", "XBT", "ETH", "KRW"];

/// Months in capitals, as they are cut.
const MONTHS: [&str; 13] =
    ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "SEPT", "OCT", "NOV", "DEC"];

/// Other words in capitals that are no symbols.
const NO_SYMBOLS: [&str; 15] = [
    "CSV", "OHLC", "OHLCV", "UTC", "GMT", "PART", "DATA", "FILE", "EXPORT", "BARS", "KLINES", "OHLCVT",
    "CHART", "HISTORY", "PRICES",
];

/// The symbol and the interval that a name tells: `BTCUSDT-1h-2024-01.zip`, `BTC-USD-1d.csv`,
/// `Binance_BTCUSDT_1m.csv`.
///
/// An interval counts behind a symbol, which is of capitals and digits, and before the year and month of an archive
/// behind anything.
pub(super) fn told(path: &Path) -> Option<(String, Interval)> {
    let words = words(path)?;
    let is_number =
        |at: usize, digits: usize| words.get(at).is_some_and(|word| word.len() == digits && is_digits(word));
    (1..words.len()).find_map(|at| {
        let interval: Interval = words[at].parse().ok()?;
        let is_before_date = is_number(at + 1, 4) && is_number(at + 2, 2);
        let symbol: Vec<_> = words[..at].iter().rev().take_while(|word| is_capital(word)).collect();
        let symbol = match symbol.len() {
            0 if is_before_date => words[..at].join("-"),
            0 => return None,
            _ => symbol.into_iter().rev().map(String::as_str).collect::<Vec<_>>().join("-"),
        };
        Some((symbol, interval))
    })
}

/// The symbol that a name tells, by itself or before a timeframe: `XBTUSD_60.csv`, `EURUSD_H1_202401.csv`,
/// `NASDAQ_AAPL, 60.csv`, `ETHUSDT.csv`, and what [`told`] knows. Which interval a bare number means is not certain.
pub(super) fn symbol(path: &Path) -> Option<String> {
    if let Some((symbol, _)) = told(path) {
        return Some(symbol);
    }
    let words = words(path)?;
    let is_pair =
        |word: &str| QUOTES.iter().any(|quote| word.len() > quote.len() + 1 && word.ends_with(quote));
    if let [sole] = &words[..] {
        return Some(sole.clone()).filter(|sole| may_be_symbol(sole) && is_pair(sole));
    }
    let before = |at: usize| words[..at].iter().rev().find(|word| !word.is_empty());
    let at = (1..words.len()).find(|at| timeframe_of(&words[*at]).is_some())?;
    // A bare number may count the parts of a file, unless it stands where charts write it.
    let is_chart = path.file_name()?.to_string_lossy().contains(", ") || !is_digits(&words[at]);
    before(at).filter(|word| may_be_symbol(word) && (is_chart || is_pair(word))).cloned()
}

/// The interval that stands behind the symbol of a name. A bare number may be something else.
pub(super) fn timeframe(path: &Path) -> Option<Interval> {
    if let Some((_, interval)) = told(path) {
        return Some(interval);
    }
    symbol(path)?;
    words(path)?.iter().skip(1).find_map(|word| timeframe_of(word))
}

/// The length of bars as charts name it: `60` minutes, `H1`, `1D`, `5min`.
fn timeframe_of(word: &str) -> Option<Interval> {
    const MINUTES: [&str; 14] =
        ["1", "2", "3", "5", "10", "15", "30", "45", "60", "120", "180", "240", "720", "1440"];
    if MINUTES.contains(&word) {
        return format!("{word}m").parse().ok();
    }
    let is_letter = |c: char| c.is_ascii_alphabetic();
    let number = word.trim_matches(is_letter);
    let letters = word.replace(number, "");
    if number.is_empty() || number.len() > 2 || !is_digits(number) {
        return None;
    }
    let unit = match letters.as_str() {
        "min" | "minute" | "M" => "m",
        "hour" | "H" => "h",
        "day" | "D" => "d",
        "W" => "w",
        _ => return None,
    };
    format!("{number}{unit}").parse().ok()
}

/// Whether a node that is named after a symbol is named after this one. The base of a pair is enough: `BTC` of `BTCUSDT`.
pub(super) fn is_of(symbol: &str, node: &str) -> bool {
    let (symbol, node) = (folded(symbol), folded(node));
    // Of futures the currency of settlement stands behind that of the prices.
    let is_quotes = |rest: &str| {
        let one =
            |rest: &str| QUOTES.iter().find_map(|quote| Some(rest.strip_prefix(&folded(quote))?.to_owned()));
        one(rest).is_some_and(|rest| rest.is_empty() || one(&rest).is_some_and(|rest| rest.is_empty()))
    };
    node.contains(&symbol) || symbol.strip_prefix(&node).is_some_and(is_quotes)
}

/// The words of a name that may be symbols, in order, as one: `Binance_BTCUSDT_2024_minute.csv` has `BTCUSDT`. Two
/// files of one series do not differ in them.
pub(super) fn capitals(path: &Path) -> Option<String> {
    let words = words(path)?;
    let found: Vec<_> = words.iter().map(String::as_str).filter(|word| may_be_symbol(word)).collect();
    (!found.is_empty()).then(|| found.join("-"))
}

/// What of a name is neither a date nor a number, nor says how long bars are: what files of one series have in common.
pub(super) fn words_alone(path: &Path) -> Option<Vec<String>> {
    let name = path.file_name()?.to_string_lossy().to_lowercase();
    let stem =
        name.split_once(".csv").or_else(|| name.rsplit_once('.')).map_or(name.as_str(), |(stem, _)| stem);
    let is_month =
        |word: &str| word.len() >= 3 && MONTHS.iter().any(|month| month.eq_ignore_ascii_case(word));
    let words =
        stem.split(|c: char| !c.is_alphabetic()).filter(|word| word.chars().count() > 1 && !is_month(word));
    Some(words.map(str::to_owned).collect())
}

/// A symbol as it is compared: small letters and digits; Kraken and others write XBT for BTC.
pub(super) fn folded(symbol: &str) -> String {
    let letters = symbol.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase);
    letters.collect::<String>().replace("xbt", "btc")
}

/// The words of a name up to its first dot.
fn words(path: &Path) -> Option<Vec<String>> {
    let name = path.file_name()?.to_string_lossy();
    Some(name.split('.').next()?.split(['-', '_', ' ', ',']).map(str::to_owned).collect())
}

fn is_digits(word: &str) -> bool {
    word.bytes().all(|byte| byte.is_ascii_digit())
}

/// Whether a word is of capitals, two or more of them letters, and no word that such names have beside symbols.
fn may_be_symbol(word: &str) -> bool {
    let letters = word.bytes().filter(u8::is_ascii_uppercase).count();
    is_capital(word) && letters > 1 && !MONTHS.contains(&word) && !NO_SYMBOLS.contains(&word)
}

/// Of capitals and digits, and not of digits alone.
fn is_capital(word: &str) -> bool {
    word.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit()) && !is_digits(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_tell_the_symbol_and_the_interval() {
        for (name, told_by_it) in [
            ("BTCUSDT-1h-2024-01.zip", Some(("BTCUSDT", "1h"))),
            ("x/BTCUSDT-1m-2024-01-31.csv.gz", Some(("BTCUSDT", "1m"))),
            ("BTC-USD-1d-2024-01.csv", Some(("BTC-USD", "1d"))),
            ("BTCUSDT-1m-2024-01.0123abcd.zip", Some(("BTCUSDT", "1m"))),
            ("BTCUSDT-5m.csv", Some(("BTCUSDT", "5m"))),
            ("BTCUSDT_5m.csv", Some(("BTCUSDT", "5m"))),
            ("BTCUSDT-5m-2024.csv", Some(("BTCUSDT", "5m"))),
            ("Binance_BTCUSDT_1h.csv", Some(("BTCUSDT", "1h"))),
            ("btcusdt-1m-2024-01.csv", Some(("btcusdt", "1m"))),
            ("BTCUSDT-1mo-2024-01.zip", None),
            ("1h-2024-01.csv", None),
            ("candles.csv", None),
            ("backup-2d.csv", None),
            ("a-1h-202401-02.csv", None),
        ] {
            let told_by_it =
                told_by_it.map(|(symbol, interval)| (symbol.to_owned(), interval.parse().unwrap()));
            assert_eq!(told(Path::new(name)), told_by_it, "{name}");
        }
    }

    #[test]
    fn a_symbol_stands_before_a_timeframe_or_alone() {
        for (name, told_by_it) in [
            ("XBTUSD_60.csv", Some("XBTUSD")),
            ("kr/ETHUSD_1440.csv", Some("ETHUSD")),
            ("EURUSD_H1_202401020000_202402010000.csv", Some("EURUSD")),
            ("NASDAQ_AAPL, 60.csv", Some("AAPL")),
            ("BINANCE_BTCUSDT, 1D (2).csv", Some("BTCUSDT")),
            ("AAPL_5min.txt", Some("AAPL")),
            ("DAT_ASCII_EURUSD_M1_2024.csv", Some("EURUSD")),
            ("ETHUSDT.csv", Some("ETHUSDT")),
            ("BTC-USD-1d.csv", Some("BTC-USD")),
            ("AB-1.csv", None),
            ("PART_1.csv", None),
            ("A_1.csv", None),
            ("export_60.csv", None),
            ("NOTES.csv", None),
            ("BTCUSDT_2024_minute.csv", None),
        ] {
            assert_eq!(symbol(Path::new(name)).as_deref(), told_by_it, "{name}");
        }
    }

    #[test]
    fn a_node_may_be_called_after_the_base_of_a_pair() {
        for (symbol, node, is) in [
            ("BTCUSDT", "binance:BTC/USDT", true),
            ("XBTUSD", "btcusd", true),
            ("BTCUSDT", "BTC", true),
            ("XRP-USDT-USDT", "XRP", true),
            ("BTCUSDT", "BTCUSD", false),
            ("BTCUSD", "BTCUSDT", true),
            ("ETHUSDT", "BTCUSDT", false),
            ("AAPL", "A", false),
        ] {
            assert_eq!(is_of(symbol, node), is, "{symbol} {node}");
        }
    }

    #[test]
    fn what_files_of_one_series_have_in_common_is_neither_date_nor_number() {
        let words = |name: &str| words_alone(Path::new(name)).unwrap();
        let months =
            ["JAN", "feb", "Mar", "Sept", "dec"].map(|month| words(&format!("bars_2024-{month}_2.csv.gz")));
        assert!(months.iter().all(|words| words == &["bars"]), "{months:?}");
        assert_ne!(words("BRK.A.csv"), words("apple.csv"));
        assert_ne!(words("600519.SH.csv"), words("000001.SZ.csv"));
    }

    #[test]
    fn what_may_be_a_symbol_is_written_in_capitals() {
        for (name, symbol) in [
            ("BTCUSDT.csv", Some("BTCUSDT")),
            ("Binance_ETHUSDT_2024_minute.csv", Some("ETHUSDT")),
            ("BTC-USD-1d-2024-01.csv", Some("BTC-USD")),
            ("2024-JAN.csv", None),
            ("candles-2.csv", None),
            ("A.csv", None),
        ] {
            assert_eq!(capitals(Path::new(name)).as_deref(), symbol, "{name}");
        }
    }
}
