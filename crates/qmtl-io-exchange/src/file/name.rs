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
const NO_SYMBOLS: [&str; 17] = [
    "CSV", "OHLC", "OHLCV", "UTC", "GMT", "PART", "DATA", "FILE", "EXPORT", "BARS", "KLINES", "OHLCVT",
    "CHART", "HISTORY", "PRICES", "MT4", "MT5",
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
        let capitals = words[..at].iter().rev().take_while(|word| is_capital(word)).map(String::as_str);
        let symbol: Vec<_> = capitals.filter(|word| !is_other(word)).collect();
        let symbol = match symbol.len() {
            0 if is_before_date => words[..at].join("-"),
            0 => return None,
            _ => symbol.into_iter().rev().collect::<Vec<_>>().join("-"),
        };
        Some((symbol, interval))
    })
}

/// The symbol that a name tells, by itself or before a timeframe: `XBTUSD_60.csv`, `EURUSD_H1_202401.csv`,
/// `NASDAQ_AAPL, 60.csv`, `ETHUSDT.csv`, and what [`told`] knows. Which interval a bare number means is not certain.
pub(super) fn symbol(path: &Path) -> Option<String> {
    if let Some((symbol, _)) = chart(path) {
        return Some(symbol);
    }
    if let Some((symbol, _)) = told(path) {
        return Some(symbol);
    }
    let words = words(path)?;
    if let [sole] = &words[..] {
        return Some(sole.clone()).filter(|sole| may_be_symbol(sole) && is_pair(sole));
    }
    let before = |at: usize| words[..at].iter().rev().find(|word| !word.is_empty());
    let at = (1..words.len()).find(|at| timeframe_of(&words[*at]).is_some())?;
    // A bare number may count the parts of a file.
    before(at).filter(|word| may_be_symbol(word) && (!is_digits(&words[at]) || is_pair(word))).cloned()
}

/// The interval that stands behind the symbol of a name. A bare number may be something else.
pub(super) fn timeframe(path: &Path) -> Option<Interval> {
    if let Some((_, interval)) = chart(path) {
        return interval;
    }
    if let Some((_, interval)) = told(path) {
        return Some(interval);
    }
    symbol(path)?;
    words(path)?.iter().skip(1).find_map(|word| timeframe_of(word))
}

/// What the name of a chart's export tells: `NASDAQ_AAPL, 60.csv`, `BINANCE_BTCUSDT.P, 1D (2).csv`.
fn chart(path: &Path) -> Option<(String, Option<Interval>)> {
    let name = path.file_name()?.to_string_lossy();
    let (head, tail) = name.split_once(", ")?;
    let symbol = head.split_once('_').map_or(head, |(_, symbol)| symbol);
    let is_of_symbol = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || ".!-&".contains(c);
    let frame = tail.split(|c: char| !c.is_ascii_alphanumeric()).next()?;
    let is_chart = frame.starts_with(|c: char| c.is_ascii_digit())
        && symbol.chars().all(is_of_symbol)
        && symbol.chars().any(|c| c.is_ascii_alphanumeric());
    is_chart.then(|| (symbol.to_owned(), timeframe_of(frame)))
}

/// The length of bars as charts name it: `60` minutes, `H1`, `1D`, `5min`. `1M` is a month, `M1` a minute.
fn timeframe_of(word: &str) -> Option<Interval> {
    const MINUTES: [&str; 14] =
        ["1", "2", "3", "5", "10", "15", "30", "45", "60", "120", "180", "240", "720", "1440"];
    if MINUTES.contains(&word) {
        return format!("{word}m").parse().ok();
    }
    let (number, unit) = if word.starts_with(|c: char| c.is_ascii_digit()) {
        let letters = word.trim_start_matches(|c: char| c.is_ascii_digit());
        let unit = match letters {
            "min" | "minute" => "m",
            "hour" | "H" => "h",
            "day" | "D" => "d",
            "W" => "w",
            _ => return None,
        };
        (&word[..word.len() - letters.len()], unit)
    } else {
        let number = word.trim_start_matches(|c: char| !c.is_ascii_digit());
        let unit = match &word[..word.len() - number.len()] {
            "M" => "m",
            "H" => "h",
            "D" => "d",
            "W" => "w",
            _ => return None,
        };
        (number, unit)
    };
    let is_short = (1..=2).contains(&number.len()) && is_digits(number);
    if is_short { format!("{number}{unit}").parse().ok() } else { None }
}

/// How well a node is named after a symbol: the letters that both share as whole words, `BTC/USDT` of `BTCUSDT`, and none
/// where it has the base of a pair alone, `BTC` of `BTCUSDT`. `None` where it is named after something else, such as
/// another pair that has the symbol in its name.
pub(super) fn fit(symbol: &str, node: &str) -> Option<usize> {
    let of_symbol = parts(symbol);
    let whole = of_symbol.concat();
    // A venue may stand before a pair.
    let pair = of_symbol.last().filter(|last| of_symbol.len() > 1 && is_pair(&last.to_ascii_uppercase()));
    // A colon sets a venue or an interval apart, and what a future is settled in. Each word, and whether one begins there.
    let in_field = |field| parts(field).into_iter().enumerate().map(|(at, part)| (part, at == 0));
    let of_node: Vec<(String, bool)> = node.split(':').flat_map(in_field).collect();
    let joined = |span: &[(String, bool)]| span.iter().map(|(part, _)| part.as_str()).collect::<String>();
    let is_quote = |part: &str| QUOTES.iter().any(|quote| folded(quote) == part);
    // Behind a symbol, a currency makes another pair of it, and a letter another class of share or a future.
    let is_more = |(part, _): &(String, bool)| is_quote(part) || (part.len() == 1 && !is_digits(part));
    let is_priced_in = |at: usize| {
        let (part, is_first) = &of_node[at];
        at > 0 && is_quote(part) && (!is_first || is_quote(&of_node[at - 1].0))
    };
    let is_it = |start: usize, end: usize| {
        let span = joined(&of_node[start..end]);
        (span == whole || pair == Some(&span))
            && !(end == start + 1 && is_priced_in(start))
            && !of_node.get(end).is_some_and(is_more)
    };
    let spans = (0..of_node.len()).flat_map(|start| (start + 1..=of_node.len()).map(move |end| (start, end)));
    let fitting = spans.filter(|(start, end)| is_it(*start, *end));
    let base = || whole.strip_prefix(&joined(&of_node)).filter(|rest| are_quotes(rest)).map(|_| 0);
    fitting.map(|(start, end)| joined(&of_node[start..end]).len()).max().or_else(base)
}

/// Whether text is one currency or two: of futures that of settlement stands behind that of the prices.
fn are_quotes(text: &str) -> bool {
    let one =
        |text: &str| QUOTES.iter().find_map(|quote| Some(text.strip_prefix(&folded(quote))?.to_owned()));
    one(text).is_some_and(|rest| rest.is_empty() || one(&rest).is_some_and(|rest| rest.is_empty()))
}

/// Whether a word ends with what prices are counted in.
fn is_pair(word: &str) -> bool {
    QUOTES.iter().any(|quote| word.len() > quote.len() + 1 && word.ends_with(quote))
}

/// The words of a symbol or a node as they are compared.
fn parts(name: &str) -> Vec<String> {
    name.split(|c: char| !c.is_alphanumeric()).filter(|part| !part.is_empty()).map(folded).collect()
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
    is_capital(word) && letters > 1 && !is_other(word)
}

/// Whether a word in capitals is no symbol.
fn is_other(word: &str) -> bool {
    MONTHS.contains(&word) || NO_SYMBOLS.contains(&word)
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
            ("BINANCE_BTCUSDT.P, 60.csv", Some("BTCUSDT.P")),
            ("NYSE_T, 60.csv", Some("T")),
            ("NYSE_BRK.A, 1D.csv", Some("BRK.A")),
            ("EURUSD_DATA_1h.csv", Some("EURUSD")),
            ("OHLCV_1h.csv", None),
            ("MT4_H1.csv", None),
            ("Prices, 2024.csv", None),
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
    fn a_node_is_named_after_a_symbol_by_whole_words() {
        for (symbol, node, expected) in [
            ("BTCUSDT", "binance:BTC/USDT", Some(7)),
            ("XBTUSD", "btcusd", Some(6)),
            ("BTC-USD", "BTC", Some(0)),
            ("BTCUSDT", "BTC", Some(0)),
            ("XRP-USDT-USDT", "XRP", Some(0)),
            ("XRP-USDT-USDT", "XRP/USDT:USDT", Some(11)),
            ("BINANCE-BTCUSDT", "BTCUSDT", Some(7)),
            ("BTC", "ohlcv:BTC:1h", Some(3)),
            ("BRK.A", "BRK.A", Some(4)),
            ("GE", "NYSE:GE", Some(2)),
            // Other pairs.
            ("USDT", "BTC/USDT", None),
            ("USDT", "binance:XRP/USDT:USDT", None),
            ("BTC", "BTC/USDT", None),
            ("ETH", "ETH/BTC", None),
            ("BTC", "ETH/BTC", None),
            ("BTCUSDT", "BTCUSD", None),
            ("BTCUSD", "BTCUSDT", None),
            ("XRPUSDT", "XRP/USDT:USDT", None),
            ("BTCUSDT", "BTCUSDT.P", None),
            ("BTCUSDT.P", "BTCUSDT", None),
            ("BRK.A", "BRK.B", None),
            // Parts of words.
            ("PEPEUSDT", "1000PEPEUSDT", None),
            ("ETHUSDT", "STETHUSDT", None),
            ("GE", "exchange:MSFT", None),
            ("GE", "ORANGE", None),
            ("T", "FT", None),
            ("BTC-PERP", "ETH-PERP", None),
            ("AAPL", "A", None),
        ] {
            assert_eq!(fit(symbol, node), expected, "{symbol} {node}");
        }
    }

    #[test]
    fn a_timeframe_is_a_number_and_a_unit() {
        for (name, interval) in [
            ("NASDAQ_AAPL, 60.csv", Some("60m")),
            ("BINANCE_BTCUSDT.P, 1D (2).csv", Some("1d")),
            ("AAPL, 1M.csv", None),
            ("EURUSD_M1_2024.csv", Some("1m")),
            ("EURUSD_H4.csv", Some("4h")),
            ("AAPL_5min.txt", Some("5m")),
            ("XBTUSD_1440.csv", Some("1d")),
            ("BTCUSDT-1h-2024-01.zip", Some("1h")),
            ("AAPL_M.csv", None),
        ] {
            let interval = interval.map(|interval| interval.parse::<Interval>().unwrap());
            assert_eq!(timeframe(Path::new(name)), interval, "{name}");
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
