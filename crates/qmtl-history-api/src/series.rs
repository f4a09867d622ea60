//! What a series is called.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::{Error, Interval, Result};

/// The name of a node: any non-empty UTF-8 string of up to 1,024 bytes, compared byte by byte.
///
/// Colons, slashes, quotes and emoji are all welcome (`ohlcv:binance:BTC/USDT:1m`). A store must
/// encode what it cannot hold in a path or a table name; nobody may splice it into SQL or a path.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(Arc<str>);

impl NodeId {
    /// The longest node id, in bytes.
    pub const MAX_BYTES: usize = 1_024;

    /// Checks the length; `InvalidInput` when it is empty or longer than [`NodeId::MAX_BYTES`].
    pub fn new(id: impl AsRef<str>) -> Result<Self> {
        let id = id.as_ref();
        match id.len() {
            0 => Err(Error::invalid("a node id must not be empty")),
            1..=Self::MAX_BYTES => Ok(Self(Arc::from(id))),
            bytes => {
                let head: String = id.chars().take(40).collect();
                Err(Error::invalid("a node id must not be longer than 1024 bytes")
                    .with("bytes", bytes)
                    .with("node_id", format_args!("{head:?}…")))
            }
        }
    }

    /// The text, unchanged.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NodeId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::new(text)
    }
}

/// Prints the id as it is, except for control characters, which are escaped, so that no id can
/// forge a line of a log or move a terminal's cursor.
impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_visible(f, &self.0)
    }
}

/// Writes a name that others chose, with its control characters escaped.
pub(crate) fn write_visible(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    text.chars()
        .try_for_each(|c| if c.is_control() { write!(f, "{}", c.escape_default()) } else { write!(f, "{c}") })
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

/// One series of bars: a node and the interval of its grid.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeriesKey {
    /// The node whose bars these are.
    pub node_id: NodeId,
    /// The distance of two bars.
    pub interval: Interval,
}

impl SeriesKey {
    /// Names the series; `InvalidInput` for a node id that [`NodeId::new`] refuses.
    pub fn new(node_id: impl AsRef<str>, interval: Interval) -> Result<Self> {
        Ok(Self { node_id: NodeId::new(node_id)?, interval })
    }
}

/// Prints `node@interval` for messages; it is not meant to be parsed.
impl fmt::Display for SeriesKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.node_id, self.interval)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_string_up_to_1024_bytes_is_an_id() {
        for id in ["blake3:ab/../\"x\"", "ohlcv:binance:BTC/USDT:1m", "🦀", &"x".repeat(1_024)] {
            assert_eq!(NodeId::new(id).unwrap().as_str(), id);
        }
        let error = NodeId::new("é".repeat(513)).unwrap_err();
        assert!(error.to_string().contains("longer than 1024 bytes (bytes: 1026"), "{error}");
        assert_eq!(NodeId::new("").unwrap_err().to_string(), "a node id must not be empty");
    }

    #[test]
    fn display_cannot_forge_a_log_line() {
        let id = NodeId::new("a\nb\u{1b}[2J").unwrap();
        assert_eq!(id.to_string(), "a\\nb\\u{1b}[2J");
        assert_eq!(SeriesKey::new("x", Interval::MINUTE).unwrap().to_string(), "x@1m");
    }
}
