//! Table names. A node id that cannot be one becomes a slug and a hash; nothing is ever spliced
//! into SQL but names that pass here.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use qmtl_history_api::{Error, Interval, NodeId, Result};

use crate::config::QuestDbConfig;

/// The longest table name that we make, well below QuestDB's 127.
const MAX_NAME: usize = 100;
/// How much of a node id stays readable in front of its hash.
const MAX_SLUG: usize = 40;
/// The table of proofs, behind the prefix or the table's name.
const PROOFS: &str = "qmtl_known_empty";
/// What the table of a stream's plain events is called, behind the name of its bars' table.
pub(crate) const EVENTS: &str = "_events";

/// The table of a node's bars: the configured one, or one that is named after the node id.
pub(crate) fn table(config: &QuestDbConfig, node_id: &NodeId) -> String {
    match &config.table {
        Some(table) => table.clone(),
        None => format!("{}{}", config.prefix, named_after(node_id.as_str())),
    }
}

/// The table of what sources proved.
pub(crate) fn proofs_table(config: &QuestDbConfig) -> String {
    match &config.table {
        Some(table) => format!("{table}_{PROOFS}"),
        None => format!("{}{PROOFS}", config.prefix),
    }
}

/// The table of a node's plain events.
pub(crate) fn events_table(config: &QuestDbConfig, node_id: &NodeId) -> String {
    format!("{}{EVENTS}", table(config, node_id))
}

/// The node id itself where it is a plain name, else a slug and 16 hex digits of its hash.
///
/// Two ids may share a table (names do not tell case apart): every row carries its node id, and
/// every query asks for it.
fn named_after(node_id: &str) -> String {
    let is_plain = is_name(node_id)
        && !node_id.starts_with("sys.")
        && !node_id.starts_with("telemetry")
        && !node_id.to_ascii_lowercase().ends_with(PROOFS)
        && !node_id.to_ascii_lowercase().ends_with(EVENTS);
    if is_plain {
        return node_id.to_owned();
    }
    let mut slug = String::new();
    for c in node_id.chars().map(|c| c.to_ascii_lowercase()) {
        if c.is_ascii_alphanumeric() {
            slug.push(c);
        } else if !slug.is_empty() && !slug.ends_with('_') {
            slug.push('_');
        }
        if slug.len() == MAX_SLUG {
            break;
        }
    }
    let hash = blake3::hash(node_id.as_bytes()).to_hex();
    format!("{}_{}", if slug.is_empty() { "node" } else { slug.trim_end_matches('_') }, &hash[..16])
}

/// What leads a node id that is stored in another form.
const ENCODED: &str = "%qmtl:";
const ESCAPED: &AsciiSet = &CONTROLS.add(b'%');

/// A node id as it stands in a row: itself, except that the line protocol takes no control
/// characters in it, for which such an id is stored percent-encoded behind [`ENCODED`].
pub(crate) fn stored(node_id: &NodeId) -> Cow<'_, str> {
    let id = node_id.as_str();
    if id.starts_with(ENCODED) || id.chars().any(char::is_control) {
        Cow::Owned(format!("{ENCODED}{}", utf8_percent_encode(id, ESCAPED)))
    } else {
        Cow::Borrowed(id)
    }
}

/// The node id of what stands in a row; `None` when it is none.
pub(crate) fn node_of(stored: &str) -> Option<NodeId> {
    match stored.strip_prefix(ENCODED) {
        Some(encoded) => NodeId::new(percent_decode_str(encoded).decode_utf8().ok()?).ok(),
        None => NodeId::new(stored).ok(),
    }
}

/// An interval as it stands in a row: the length in seconds, and the phase above its 32 bits.
pub(crate) fn interval_number(interval: Interval) -> i64 {
    interval.as_secs() + (interval.phase_secs() << 32)
}

/// The interval of what stands in a row; `None` when it is none.
pub(crate) fn interval_of(number: i64) -> Option<Interval> {
    let secs = number & i64::from(u32::MAX);
    Interval::from_secs(secs).ok()?.with_phase(number >> 32).ok()
}

/// ASCII letters, digits, `_`, and `.` or `-` inside: accepted everywhere, quoted or not, by every tool.
fn is_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    name.len() <= MAX_NAME
        && name.starts_with(plain)
        && name.ends_with(plain)
        && name.chars().all(|c| plain(c) || c == '-' || c == '.')
}

/// Refuses a table name or prefix that is not plain.
pub(crate) fn check_table(name: &str) -> Result<()> {
    if is_name(name) {
        return Ok(());
    }
    Err(Error::invalid(
        "a table of QuestDB must have a name of 1 to 100 ASCII letters, digits and _, with - and . inside",
    )
    .with("table", format_args!("{name:?}")))
}

/// Whether a payload column may be called so: QuestDB refuses these characters even in quotes.
pub(crate) fn is_column(name: &str) -> bool {
    const REFUSED: &str = "/\\:?,'\"()+*%~.-\r\n\0\u{feff}";
    !name.is_empty()
        && name.encode_utf16().count() <= 127
        && name.len() <= 255
        && !name.chars().any(|c| REFUSED.contains(c) || c.is_control())
}

/// An identifier in SQL.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text literal in SQL. QuestDB knows no escape but the doubled quote.
pub(crate) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(node_id: &str) -> String {
        let config = QuestDbConfig::from_dsn("questdb://h").unwrap();
        table(&config, &NodeId::new(node_id).unwrap())
    }

    #[test]
    fn a_plain_node_id_names_its_table_and_others_keep_a_readable_head() {
        assert_eq!(of("BTCUSDT"), "BTCUSDT");
        assert_eq!(of("btc-usd.spot"), "btc-usd.spot");
        assert_eq!(of("ohlcv:binance:BTC/USDT:1m"), "ohlcv_binance_btc_usdt_1m_d7aac67f0e01a801");
        assert!(of("🦀").starts_with("node_"));
        assert!(of(&"n".repeat(1_000)).starts_with(&format!("{}_", "n".repeat(40))));
    }

    #[test]
    fn every_name_is_one_that_questdb_takes_and_alike_ids_differ() {
        let ids =
            ["..", ".a", "a.", "'; drop table x; --", "é", "a b", "a_b?", "sys.x", "telemetry", "\0", "-x"];
        let names: std::collections::BTreeSet<_> = ids.iter().map(|id| of(id)).collect();
        assert_eq!(names.len(), ids.len());
        assert!(names.iter().all(|name| is_name(name) && name.len() <= 64), "{names:?}");
        // A node cannot get hold of the store's own table, or of another's events.
        assert_ne!(of(PROOFS), PROOFS);
        assert_ne!(of("BTC_events"), "BTC_events");
    }

    #[test]
    fn what_stands_in_a_row_names_its_node() {
        for id in ["BTC/USDT", "a%2Fb", "a\nb\0", "%qmtl:x", "\u{85}", "🦀"] {
            let node_id = NodeId::new(id).unwrap();
            let stored = stored(&node_id);
            assert!(!stored.chars().any(|c| c.is_ascii_control()), "{stored:?}");
            assert_eq!(node_of(&stored), Some(node_id));
        }
        assert_eq!(stored(&NodeId::new("a\nb").unwrap()), "%qmtl:a%0Ab");
    }

    #[test]
    fn what_stands_in_a_row_names_its_interval() {
        for (text, number) in [
            ("1m", 60),
            ("1d", 86_400),
            ("1d+16h", 86_400 + (57_600 << 32)),
            ("1w+3d", 604_800 + (259_200 << 32)),
        ] {
            let interval: Interval = text.parse().unwrap();
            assert_eq!((interval_number(interval), interval_of(number)), (number, Some(interval)), "{text}");
        }
        for number in [0, -60, i64::MIN, i64::MAX, 60 + (60 << 32), 1 << 32] {
            assert_eq!(interval_of(number), None, "{number}");
        }
    }

    #[test]
    fn quotes_cannot_be_left() {
        assert_eq!(literal("a'; drop table x; --"), "'a''; drop table x; --'");
        assert_eq!(quoted("a\"b"), "\"a\"\"b\"");
        for name in ["a\"b", "a;b/", "a'b", "", "a.b", "x\n", &"n".repeat(128)] {
            assert!(!is_column(name), "{name:?}");
        }
        assert!(
            is_column("close") && is_column("trade count") && is_column("é") && is_column("; drop table x;")
        );
    }
}
