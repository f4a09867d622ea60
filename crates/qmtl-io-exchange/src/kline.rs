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

/// The type of a payload column of this name in lower case; `None` for any other name.
pub(crate) fn payload_type(name: &str) -> Option<DataType> {
    match name {
        "open_time" => None,
        "trades" => Some(DataType::Int64),
        name => FIELDS.contains(&Some(name)).then_some(DataType::Float64),
    }
}
