//! The twelve fields of a Binance kline, which archives and the API share.

use qmtl_history_api::arrow_schema::DataType;

/// The fields of a row in order. The close time says nothing that the opening time and the interval
/// do not say, and the last field is always 0: neither is read.
pub(crate) const FIELDS: [Option<&str>; 12] = [
    Some("open_time"),
    Some("open"),
    Some("high"),
    Some("low"),
    Some("close"),
    Some("volume"),
    None,
    Some("quote_volume"),
    Some("trades"),
    Some("taker_base_volume"),
    Some("taker_quote_volume"),
    None,
];

/// What the fields that are not read are called in a header.
pub(crate) const UNREAD: [&str; 2] = ["close_time", "ignore"];

/// The name of the opening time in a header.
pub(crate) const OPEN_TIME: &str = "open_time";

/// The usual columns of a candle and what else they are called. Case, blanks, underscores and dashes do
/// not matter in either.
const CANDLE: [(&str, &[&str]); 9] = [
    ("open", &[]),
    ("high", &[]),
    ("low", &[]),
    ("close", &[]),
    ("volume", &[]),
    ("quote_volume", &["quote_asset_volume"]),
    ("trades", &["count", "number_of_trades", "trade_count", "num_trades"]),
    ("taker_base_volume", &["taker_buy_volume", "taker_buy_base_volume", "taker_buy_base_asset_volume"]),
    ("taker_quote_volume", &["taker_buy_quote_volume", "taker_buy_quote_asset_volume"]),
];

/// Whether two names are of one column: their case, and blanks, underscores and dashes in them make no difference.
pub(crate) fn is_same(one: &str, other: &str) -> bool {
    fn compared(name: &str) -> impl Iterator<Item = char> {
        name.chars().filter(|c| !matches!(c, ' ' | '_' | '-')).flat_map(char::to_lowercase)
    }
    compared(one).eq(compared(other))
}

/// The one name under which a usual column of a candle comes out of every file; `None` for any other name.
pub(crate) fn canonical(name: &str) -> Option<&'static str> {
    let is_named = |of: &&(&str, &[&str])| of.1.iter().chain([&of.0]).any(|known| is_same(known, name));
    CANDLE.iter().find(is_named).map(|(name, _)| *name)
}

/// The type of a payload column of this name in lower case; `None` for any other name.
pub(crate) fn payload_type(name: &str) -> Option<DataType> {
    match name {
        "open_time" => None,
        "trades" => Some(DataType::Int64),
        name => FIELDS.contains(&Some(name)).then_some(DataType::Float64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_usual_column_has_one_name_whatever_it_is_called() {
        for (canonical_name, aliases) in CANDLE {
            assert!(payload_type(canonical_name).is_some(), "{canonical_name}");
            for alias in aliases.iter().chain([&canonical_name]) {
                for spelled in [alias.to_uppercase(), alias.replace('_', " "), alias.replace('_', "-")] {
                    assert_eq!(canonical(&spelled), Some(canonical_name), "{spelled}");
                }
            }
        }
        for other in ["", "adj close", "open_interest", "volume btc", "open_time", "close_time", "counts"] {
            assert_eq!(canonical(other), None, "{other}");
        }
    }
}
