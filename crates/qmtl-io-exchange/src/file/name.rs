//! What the name of a file says of its bars.

use std::path::Path;

use qmtl_history_api::Interval;

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

/// The words of a name that may be symbols, in order, as one: `Binance_BTCUSDT_2024_minute.csv` has `BTCUSDT`. Two
/// files of one series do not differ in them.
pub(super) fn capitals(path: &Path) -> Option<String> {
    const OTHERS: [&str; 22] = [
        "JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "SEPT", "OCT", "NOV", "DEC", "CSV",
        "OHLC", "OHLCV", "UTC", "GMT", "PART", "DATA", "FILE", "EXPORT",
    ];
    let words = words(path)?;
    let may_be = |word: &&String| {
        let letters = word.chars().filter(char::is_ascii_uppercase).count();
        is_capital(word) && letters >= 2 && !OTHERS.contains(&word.as_str())
    };
    let found: Vec<_> = words.iter().filter(may_be).map(String::as_str).collect();
    (!found.is_empty()).then(|| found.join("-"))
}

/// The words of a name up to its first dot.
fn words(path: &Path) -> Option<Vec<String>> {
    let name = path.file_name()?.to_string_lossy();
    Some(name.split('.').next()?.split(['-', '_', ' ']).map(str::to_owned).collect())
}

fn is_digits(word: &str) -> bool {
    word.bytes().all(|byte| byte.is_ascii_digit())
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
