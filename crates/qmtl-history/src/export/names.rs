//! File names for series, whose ids are any text.

use std::collections::BTreeMap;

use qmtl_history_api::SeriesKey;

/// The names of a store's series as files: readable, the same in every run over the same store, never that of two
/// series, and never a way out of the folder.
#[derive(Debug)]
pub(crate) struct Names(BTreeMap<String, u32>);

/// The most letters of an id in a name. A file's name has 255 bytes, and a hash, an interval and extensions follow.
const LONGEST: usize = 150;
/// Hex digits of the hash that tells apart what is read the same.
const HASH: usize = 16;

impl Names {
    /// Looks at all series that files may be named after.
    pub(crate) fn new<'a>(keys: impl Iterator<Item = &'a SeriesKey>) -> Self {
        let mut counts = BTreeMap::new();
        for key in keys {
            *counts.entry(folded(key)).or_insert(0) += 1;
        }
        Self(counts)
    }

    /// The name of a series, without an extension.
    pub(crate) fn of(&self, key: &SeriesKey) -> String {
        let id = key.node_id.as_str();
        let is_shared = self.0.get(&folded(key)).is_some_and(|count| *count > 1);
        // Letters beyond ASCII are equal in more ways than one, by case and by composition.
        let hash = if is_shared || id.len() > LONGEST || !id.is_ascii() {
            // No readable name has a tilde, so none looks like one with a hash.
            format!("~{}", &blake3::hash(id.as_bytes()).to_hex()[..HASH])
        } else {
            String::new()
        };
        format!("{}{hash}-{}", readable(id), key.interval)
    }
}

/// What two names have in common that are one to some file systems.
fn folded(key: &SeriesKey) -> String {
    format!("{}-{}", readable(key.node_id.as_str()).to_ascii_lowercase(), key.interval)
}

/// An id with what stands in no file name everywhere replaced: `BTC/USDT` is `BTC_USDT`.
fn readable(id: &str) -> String {
    let mut name = String::new();
    for c in id.chars() {
        let is_first = name.is_empty();
        let c = match c {
            c if c.is_alphanumeric() => c,
            '_' | '+' | '=' | '@' => c,
            // In front, a dot hides the file, and a dash looks like a flag.
            '.' | '-' if !is_first => c,
            _ => '_',
        };
        if name.len() + c.len_utf8() > LONGEST {
            break;
        }
        name.push(c);
    }
    name
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn key(id: &str) -> SeriesKey {
        SeriesKey::new(id, "1h".parse().unwrap()).unwrap()
    }

    fn names(ids: &[&str]) -> Vec<String> {
        let keys: Vec<_> = ids.iter().map(|id| key(id)).collect();
        let names = Names::new(keys.iter());
        keys.iter().map(|key| names.of(key)).collect()
    }

    #[test]
    fn a_plain_id_is_its_own_name() {
        assert_eq!(names(&["BTC/USDT", "ETHUSDT"]), ["BTC_USDT-1h", "ETHUSDT-1h"]);
        assert_eq!(names(&["ohlcv:binance:BTC/USDT:1h"]), ["ohlcv_binance_BTC_USDT_1h-1h"]);
    }

    #[test]
    fn no_two_series_share_a_name_and_none_leaves_the_folder() {
        let long = "x".repeat(1_000);
        let longer = format!("{long}y");
        let ids = [
            "a/b",
            "a:b",
            "a_b",
            "A/B",
            "..",
            "../..",
            "/etc/passwd",
            ".hidden",
            "-x",
            "C:\\x",
            "nul",
            "é",
            "e\u{301}",
            "a\0b",
            "a\nb",
            "~",
            " ",
            "%",
            "*",
            &long,
            &longer,
        ];
        let names = names(&ids);
        let folded: BTreeSet<_> = names.iter().map(|name| name.to_lowercase()).collect();
        assert_eq!(folded.len(), ids.len(), "{names:?}");
        for name in &names {
            assert!(!name.contains(['/', '\\', ':', '\0', '\n', '*', '%', ' ']), "{name}");
            assert!(!name.starts_with(['.', '-']) && name.len() < 200, "{name}");
        }
        // What has a hash can be no other's plain name.
        let plain = names.iter().find(|name| name.starts_with("a_b~")).unwrap().strip_suffix("-1h").unwrap();
        assert!(!self::names(&[plain]).contains(&format!("{plain}-1h")));
    }
}
