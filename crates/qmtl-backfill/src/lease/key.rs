//! What a lease is about, and its text form.

use std::fmt;
use std::str::FromStr;

use qmtl_history_api::{Error, Interval, NodeId, Result, SeriesKey, TimeRange, Timestamp};
use qmtl_observe::metrics::interval_label;

/// What a lease is about: a window of a series, on behalf of whom, and from which point of view.
///
/// As text `node:interval:start:end:world:requested_as_of`, the guide's canonical lease identifier: `interval` as in
/// labels of metrics ([`interval_label`]), `start` and `end` in whole epoch seconds, `end` exclusive, the last two
/// possibly empty. Node ids and `requested_as_of` contain colons, so that such a text is read from the three numbers in
/// its middle; one that can be read in several ways is refused.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LeaseKey {
    series: SeriesKey,
    range: TimeRange,
    world: Option<String>,
    requested_as_of: Option<String>,
}

impl LeaseKey {
    /// The longest key in bytes that coordinators take: a node id of the greatest length, and room for the rest.
    pub const MAX_BYTES: usize = 4_096;

    /// The key of a window of a series. `InvalidInput` when the window does not begin and end at whole seconds.
    pub fn new(series: SeriesKey, range: TimeRange) -> Result<Self> {
        let is_whole = |time: Timestamp| time.as_micros() % 1_000_000 == 0;
        if !(is_whole(range.start()) && is_whole(range.end())) {
            return Err(Error::invalid("the window of a lease begins and ends at whole seconds")
                .with("window", range));
        }
        Ok(Self { series, range, world: None, requested_as_of: None })
    }

    /// Names the world; empty means none. `InvalidInput` for a name with a colon, which the text form could not tell
    /// from the field behind it.
    pub fn with_world(mut self, world: impl Into<String>) -> Result<Self> {
        let world = world.into();
        if world.contains(':') {
            return Err(Error::invalid("the world of a lease must not contain a colon").with("world", world));
        }
        self.world = Some(world).filter(|world| !world.is_empty());
        Ok(self)
    }

    /// Names the point of view, as the caller wrote it; empty means none. `InvalidInput` when it begins with a colon.
    pub fn with_requested_as_of(mut self, as_of: impl Into<String>) -> Result<Self> {
        let as_of = as_of.into();
        if as_of.starts_with(':') {
            let message = "the point of view of a lease must not begin with a colon";
            return Err(Error::invalid(message).with("requested_as_of", as_of));
        }
        self.requested_as_of = Some(as_of).filter(|as_of| !as_of.is_empty());
        Ok(self)
    }

    /// The series.
    #[must_use]
    pub fn series(&self) -> &SeriesKey {
        &self.series
    }

    /// The window.
    #[must_use]
    pub fn range(&self) -> TimeRange {
        self.range
    }

    /// On behalf of which world.
    #[must_use]
    pub fn world(&self) -> Option<&str> {
        self.world.as_deref()
    }

    /// The point of view.
    #[must_use]
    pub fn requested_as_of(&self) -> Option<&str> {
        self.requested_as_of.as_deref()
    }

    /// The number of bars of the window.
    #[must_use]
    pub fn points(&self) -> u64 {
        self.range.count(self.series.interval)
    }
}

impl fmt::Display for LeaseKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { series: SeriesKey { node_id, interval }, range, world, requested_as_of } = self;
        let (start, end) = (range.start().as_secs(), range.end().as_secs());
        let (world, as_of) =
            (world.as_deref().unwrap_or_default(), requested_as_of.as_deref().unwrap_or_default());
        write!(f, "{}:{}:{start}:{end}:{world}:{as_of}", node_id.as_str(), interval_label(*interval))
    }
}

/// Reads the text form. `InvalidInput` for what is none, and for what can be read in several ways.
impl FromStr for LeaseKey {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut found = None;
        for (at, _) in text.match_indices(':') {
            let Some(key) = read_at(text, at) else { continue };
            if let Some(first) = found.replace(key) {
                let message = "the lease key can be read in several ways: its node id ends, or its world begins, like \
                               the numbers in its middle";
                return Err(Error::invalid(message)
                    .with("key", format_args!("{text:?}"))
                    .with("first", range_of(&first)));
            }
        }
        found.ok_or_else(|| {
            Error::invalid("not a lease key: it reads node:interval:start:end:world:requested_as_of, the last two may be empty")
                .with("key", format_args!("{text:?}"))
        })
    }
}

fn range_of(key: &LeaseKey) -> String {
    format!("{} {}", key.series, key.range)
}

/// Reads a key whose node id ends at `at`.
fn read_at(text: &str, at: usize) -> Option<LeaseKey> {
    let (node, rest) = (&text[..at], &text[at + 1..]);
    let mut fields = rest.splitn(5, ':');
    let mut next = || fields.next();
    let (interval, start, end, world, as_of) = (next()?, next()?, next()?, next()?, next()?);
    let (secs, phase) = interval.split_once('+').unwrap_or((interval, "0"));
    let interval = Interval::from_secs(number(secs)?).ok()?.with_phase(number(phase)?).ok()?;
    let time = |text| Timestamp::from_secs(number(text)?).ok();
    let range = TimeRange::checked(time(start)?, time(end)?)?;
    let key = LeaseKey::new(SeriesKey { node_id: NodeId::new(node).ok()?, interval }, range).ok()?;
    let key = key.with_world(world).ok()?.with_requested_as_of(as_of).ok()?;
    // What is written differently, with zeros in front or a phase of zero, would be another key to a coordinator.
    (key.to_string() == text).then_some(key)
}

/// A decimal number without a plus sign.
fn number(text: &str) -> Option<i64> {
    text.parse().ok().filter(|_| !text.starts_with('+'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        match text.parse::<LeaseKey>() {
            Ok(key) => {
                let SeriesKey { node_id, interval } = key.series();
                let (start, end) = (key.range().start().as_secs(), key.range().end().as_secs());
                format!(
                    "{}|{interval}|{start}|{end}|{:?}|{:?}",
                    node_id.as_str(),
                    key.world(),
                    key.requested_as_of()
                )
            }
            Err(error) => error.message().chars().take(30).collect(),
        }
    }

    #[test]
    fn node_ids_and_points_of_view_contain_colons() {
        for (text, told) in [
            (
                "nodeA:60:1700:1760:world-1:2024-01-01T00:00:00Z",
                r#"nodeA|1m|1700|1760|Some("world-1")|Some("2024-01-01T00:00:00Z")"#,
            ),
            ("blake3:ab:60:1700:1760::", "blake3:ab|1m|1700|1760|None|None"),
            (
                "ohlcv:binance:BTC/USDT:1m:60:0:54000:w:",
                r#"ohlcv:binance:BTC/USDT:1m|1m|0|54000|Some("w")|None"#,
            ),
            ("🦀:86400+57600:-28800:57600::x", r#"🦀|1d+16h|-28800|57600|None|Some("x")"#),
            // Numbers at the end of a node id, as long as only one reading is a window.
            ("n:5:60:1700:1760::", "n:5|1m|1700|1760|None|None"),
        ] {
            assert_eq!(shown(text), told, "{text}");
            assert_eq!(text.parse::<LeaseKey>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_key_or_two_is_refused() {
        for text in [
            "",
            "n",
            "n:60:1:2",
            "n:60:1760:1700:w:",
            "n:0:0:60::",
            ":60:0:60::",
            "n:060:0:60::",
            "n:60:0:+60::",
        ] {
            assert_eq!(shown(text), "not a lease key: it reads node", "{text}");
        }
        assert_eq!(shown("a:60:0:60:b:60:0:60::"), "the lease key can be read in s");
        assert_eq!(shown("n:5:60:1700:1760:w:x"), "the lease key can be read in s");
    }

    #[test]
    fn what_its_text_could_not_tell_apart_is_no_key() {
        let key = || LeaseKey::new(SeriesKey::new("n", Interval::MINUTE).unwrap(), TimeRange::ALL);
        assert!(key().is_err(), "the last microsecond of time is no whole second");
        let range = TimeRange::new(Timestamp::EPOCH, Timestamp::from_secs(60).unwrap()).unwrap();
        let key = || LeaseKey::new(SeriesKey::new("n", Interval::MINUTE).unwrap(), range).unwrap();
        assert!(key().with_world("a:b").is_err() && key().with_requested_as_of(":b").is_err());
        assert_eq!(key().with_world("").unwrap(), key());
    }
}
