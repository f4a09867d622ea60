//! Numbers, ranges and tables for people.

use std::borrow::Cow;
use std::path::Path;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use qmtl_history_api::frame::{NotNumbers, OffGrid};
use qmtl_history_api::{Error, Interval, RangeSet, TimeRange};
use unicode_width::UnicodeWidthStr;

/// A text that may have come from elsewhere, as a terminal can be given it: what would move its cursor or colour it is
/// written out, and every further line is indented, so that none looks like one of ours.
pub(crate) fn for_terminal(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => safe.push_str("\n    "),
            '\t' => safe.push(' '),
            c if is_unsafe(c) => safe.extend(c.escape_default()),
            c => safe.push(c),
        }
    }
    safe
}

/// The same on one line, as part of a line of ours.
pub(crate) fn in_line(text: &str) -> String {
    for_terminal(&text.replace('\n', "\\n"))
}

/// A line of ours, which may be coloured, with foreign names in it that have not been looked at.
pub(crate) fn line(text: &str) -> Cow<'_, str> {
    escaped(
        text,
        |c| is_unsafe(c) && !matches!(c, '\u{1b}' | '\n' | '\t'),
        |c| c.escape_default().to_string(),
    )
}

/// JSON on one line, which escapes less than a terminal needs.
pub(crate) fn json(text: &str) -> Cow<'_, str> {
    escaped(text, |c| is_unsafe(c) && c != '\n', |c| format!("\\u{:04x}", u32::from(c)))
}

fn escaped(text: &str, is_bad: impl Fn(char) -> bool, escape: impl Fn(char) -> String) -> Cow<'_, str> {
    if !text.contains(&is_bad) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.chars().map(|c| if is_bad(c) { escape(c) } else { c.to_string() }).collect())
}

/// Whether a letter moves the cursor, colours, or makes a terminal show later letters before earlier ones.
fn is_unsafe(c: char) -> bool {
    c.is_control() || BIDI.contains(&c)
}

/// What makes a terminal show later letters before earlier ones.
const BIDI: [char; 12] = [
    '\u{061c}', '\u{200e}', '\u{200f}', '\u{202a}', '\u{202b}', '\u{202c}', '\u{202d}', '\u{202e}',
    '\u{2066}', '\u{2067}', '\u{2068}', '\u{2069}',
];

/// What begins an address, also where its slashes were forgotten. `file` is none of them: `file:candles.csv#9f86d081` is
/// a source, and holds no secret.
const SCHEMES: [&str; 10] =
    ["s3", "s3a", "questdb", "postgresql", "postgres", "http", "https", "gs", "az", "abfs"];

/// Parameters of addresses that hold no secret, as long as their value is plain.
const PARAMETERS: [&str; 9] = [
    "http",
    "table",
    "prefix",
    "add_columns",
    "nan_as_null",
    "allow_legacy",
    "connections",
    "connect_timeout",
    "timeout",
];

/// Addresses with a secret in them that the user has given, as they may be quoted, each with what is shown in its place.
/// A password that is not escaped may hold blanks and quotes, so where it ends is known of these alone.
static GIVEN: RwLock<Vec<(String, String)>> = RwLock::new(Vec::new());

/// Takes in words of the command line, or of a list of series.
pub(crate) fn learn_secrets<'a>(words: impl Iterator<Item = Cow<'a, str>>) {
    let mut given = Vec::new();
    let mut before = Cow::Borrowed("");
    for word in words {
        let (option, value) = match word.split_once('=') {
            Some((option, value)) if option.starts_with("--") => (option, value),
            _ => (&*before, &*word),
        };
        match option {
            // The id of a node may look like a user and a password.
            "--node" => {}
            "--symbol" | "--product" => {
                learn(value.rsplit_once('=').map_or(value, |(_, name)| name), &mut given)
            }
            _ => learn(value, &mut given),
        }
        before = word;
    }
    if given.is_empty() {
        return;
    }
    let mut all = GIVEN.write().unwrap_or_else(PoisonError::into_inner);
    given.retain(|one| !all.contains(one));
    all.append(&mut given);
    // What holds another one comes first.
    all.sort_by_key(|(quoted, _)| std::cmp::Reverse(quoted.len()));
}

/// A password is replaced wherever it stands when it has at least as many letters: a shorter one is part of words.
const LONG_PASSWORD: usize = 6;

/// Takes in the address in a word, also where its scheme or the colon behind that was forgotten.
fn learn(word: &str, given: &mut Vec<(String, String)>) {
    let narrow = narrow(word);
    let begins = |at: usize| begins_address(&narrow[..at], &narrow[at + 1..]);
    let found = match narrow.match_indices(':').find(|(at, _)| begins(*at)) {
        Some((colon, _)) => {
            let before = narrow[..colon].trim_end_matches(|c: char| c.is_ascii_alphanumeric()).len();
            let address = &narrow[before..];
            Some((address, clean(address, |_, rest| rest.len())))
        }
        None => {
            let place = narrow.strip_prefix("file:").unwrap_or(&narrow);
            let has_user = |user: &str| user.contains(':');
            let (user, host) = place.rsplit_once('@').unwrap_or_default();
            // Nobody knows where a password that was typed ends.
            let named = secret_name(place).map(|end| (place, format!("{}***", &place[..end])));
            has_user(user).then(|| (place, format!("***@{host}"))).or(named)
        }
    };
    let Some((address, shown)) = found.filter(|(address, shown)| address != shown) else { return };
    // Letters are as many in either spelling.
    let before = narrow[..narrow.len() - address.len()].chars().count();
    let typed: String = word.chars().skip(before).collect();
    let one_line = typed.replace('\n', "\\n");
    let debug = typed.escape_debug().to_string();
    let quoted = [for_terminal(&one_line), for_terminal(&typed), one_line, debug, typed];
    given.extend(quoted.map(|quoted| (quoted, shown.clone())));
    let password = address.rsplit_once('@').and_then(|(user, _)| user.rsplit_once(':'));
    if let Some((_, password)) = password.filter(|(_, password)| password.len() >= LONG_PASSWORD) {
        given.push((password.to_owned(), "***".to_owned()));
    }
}

/// The text with the signs of addresses as ASCII has them, where they were typed in full width, which an input method
/// does by itself. A letter stays a letter, so positions are the same when letters are counted.
fn narrow(text: &str) -> Cow<'_, str> {
    const WIDE: [(char, char); 9] = [
        ('：', ':'),
        ('﹕', ':'),
        ('＠', '@'),
        ('﹫', '@'),
        ('／', '/'),
        ('？', '?'),
        ('＃', '#'),
        ('；', ';'),
        ('＝', '='),
    ];
    let ascii = |c: char| WIDE.iter().find(|(wide, _)| *wide == c).map(|(_, ascii)| *ascii);
    if text.contains(|c| ascii(c).is_some()) {
        Cow::Owned(text.chars().map(|c| ascii(c).unwrap_or(c)).collect())
    } else {
        Cow::Borrowed(text)
    }
}

/// A text without the users, passwords and queries of the addresses in it, wherever it comes from: an error, a log
/// line, a word of the command line. What stands before the last `@` of an address goes, however it is spelled, since a
/// password that is not escaped may hold anything; all of it where the `@` may be part of a query.
pub(crate) fn without_secrets(text: &str) -> String {
    let mut text = Cow::Borrowed(text);
    for (quoted, shown) in GIVEN.read().unwrap_or_else(PoisonError::into_inner).iter() {
        if text.contains(quoted) {
            text = Cow::Owned(text.replace(quoted, shown));
        }
    }
    redacted(&text)
}

/// The same of what shows by itself that it is a secret, whatever the command line holds.
fn redacted(text: &str) -> String {
    let narrow = narrow(text);
    let hidden = without_parts(&clean(&narrow, end_of_address));
    // What is no secret stays as it is spelled.
    if hidden == *narrow { text.to_owned() } else { hidden }
}

/// Names of values that are secrets, in connection strings and settings; also as the end of longer ones.
const SECRETS: [&str; 7] = ["password", "passwd", "pwd", "secret", "token", "access_key", "api_key"];

/// Where the first value that is a secret begins: behind the `=` after its name.
fn secret_name(text: &str) -> Option<usize> {
    text.match_indices('=').map(|(at, _)| at).find_map(|at| {
        let word = text[..at].rsplit(|c: char| !c.is_ascii_alphanumeric() && c != '_').next()?;
        let word = word.to_ascii_lowercase();
        SECRETS.iter().any(|name| word.ends_with(name)).then_some(at + 1)
    })
}

/// What stands before a secret in logs of HTTP clients, and what ends it: the parts of an address, and the host of a
/// connection.
const PARTS: [(&str, char); 9] = [
    ("username: \"", '"'),
    ("username: \\\"", '\\'),
    ("password: Some(\"", '"'),
    ("password: Some(\\\"", '\\'),
    ("query: Some(\"", '"'),
    ("query: Some(\\\"", '\\'),
    ("(\"http\", ", '@'),
    ("(\"https\", ", '@'),
    ("(\\\"http\\\", ", '@'),
];

/// The text without secrets that are told apart from their address.
fn without_parts(text: &str) -> String {
    let (mut hidden, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(begin) = secret_name(rest) {
        let end = |c: char| c.is_whitespace() || "&)'\"`".contains(c);
        let end = rest[begin..].find(end).map_or(rest.len(), |end| begin + end);
        hidden.push_str(&rest[..begin]);
        hidden.push_str(if begin == end { "" } else { "***" });
        rest = &rest[end..];
    }
    hidden.push_str(rest);
    for (before, end) in PARTS {
        if !hidden.contains(before) {
            continue;
        }
        let mut parts = hidden.split(before);
        let mut shown = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            shown.push_str(before);
            let secret = part.split([')', '\n']).next().unwrap_or_default();
            let secret = if end == '@' { secret.rfind(end) } else { part.find(end) }.unwrap_or_default();
            shown.push_str(if secret == 0 { "" } else { "***" });
            shown.push_str(&part[secret..]);
        }
        hidden = shown;
    }
    hidden
}

/// The same where an address ends as `end_of` says, of what stands before it and from it on.
fn clean(text: &str, end_of: impl Fn(&str, &str) -> usize) -> String {
    let (mut clean, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(colon) = rest.find(':') {
        let (before, after) = rest.split_at(colon + 1);
        clean.push_str(before);
        if !begins_address(&before[..colon], after) {
            rest = after;
            continue;
        }
        let (address, behind) = after.split_at(end_of(before, after));
        clean.push_str(&without_secret(address));
        rest = behind;
    }
    clean + rest
}

/// Whether a colon between these two is that of an address.
fn begins_address(before: &str, after: &str) -> bool {
    let word = before.rsplit(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default();
    after.starts_with("//") || SCHEMES.iter().any(|scheme| word.eq_ignore_ascii_case(scheme))
}

/// Where an address ends that began before `rest`: at the quote that closes the one it is in, which a password may hold
/// too, otherwise at a blank.
fn end_of_address(before: &str, rest: &str) -> usize {
    let word = before.rsplit(char::is_whitespace).next().unwrap_or_default().trim_start_matches(['(', '[']);
    let Some(quote) = word.chars().next().filter(|c| "\"'`".contains(*c)) else {
        return rest.find(char::is_whitespace).unwrap_or(rest.len());
    };
    let line = rest.lines().next().unwrap_or_default();
    let is_behind =
        |at: usize| line[at + 1..].chars().next().is_none_or(|c| c.is_whitespace() || ",.;:)]".contains(c));
    // A quote that is part of the text is escaped where that is quoted.
    let is_escaped = |at: usize| line[..at].ends_with('\\');
    let closing = line.match_indices(quote).map(|(at, _)| at).find(|at| is_behind(*at) && !is_escaped(*at));
    closing.unwrap_or(line.len())
}

/// The scheme of an address whose colon or slashes may have been forgotten.
pub(crate) fn scheme(name: &str) -> Option<&'static str> {
    let (word, rest) = name.split_at(name.find(|c: char| !c.is_ascii_alphanumeric())?);
    let known = SCHEMES.into_iter().find(|scheme| word.eq_ignore_ascii_case(scheme))?;
    (rest.starts_with(':') || rest.starts_with("//")).then_some(known)
}

/// Whether a name is an address or a connection string, however it was mistyped, and no path of this machine. What is
/// hidden wherever it is told is none either; for the rest, `./` before it says that it is one.
pub(crate) fn is_address(name: &str) -> bool {
    let typed = unescaped(&narrow(name));
    let is_path = ["/", "./", "../"].iter().any(|start| typed.starts_with(start)) && !typed.starts_with("//");
    let has_user = typed.rsplit_once('@').is_some_and(|(user, _)| user.contains(':'));
    let has_query = typed.split_once('?').is_some_and(|(_, query)| query.contains('='));
    let is_hidden = |text: &str| redacted(text) != text;
    typed.contains("://")
        || scheme(&typed).is_some()
        || is_hidden(name)
        || is_hidden(&typed)
        || (!is_path && (has_user || has_query || is_settings(&typed)))
}

/// Whether a name is a list of settings: `host=h port=8812`, `Server=h;Port=8812`, `tcp::addr=h`.
fn is_settings(name: &str) -> bool {
    let are_pairs = |parts: Vec<&str>| parts.len() > 1 && parts.iter().all(|part| part.contains('='));
    let parts = name.split(';').filter(|part| !part.trim().is_empty());
    name.split_once("::").is_some_and(|(_, rest)| rest.contains('='))
        || are_pairs(parts.collect())
        || are_pairs(name.split_whitespace().collect())
}

/// The text with the signs of addresses that are written as `%3A`.
fn unescaped(text: &str) -> String {
    const ESCAPED: [(&str, &str); 7] =
        [("%3a", ":"), ("%40", "@"), ("%2f", "/"), ("%3f", "?"), ("%3d", "="), ("%3b", ";"), ("%20", " ")];
    ESCAPED.iter().fold(text.to_owned(), |text, (escaped, sign)| {
        text.replace(escaped, sign).replace(&escaped.to_ascii_uppercase(), sign)
    })
}

/// Refuses an address where an option takes a path: it would become the name of a file, with its password.
pub(crate) fn must_be_path(path: &Path, remedy: &str) -> Result<(), Error> {
    // What the address holds is not repeated.
    if is_address(&path.to_string_lossy()) { Err(Error::invalid(remedy.to_owned())) } else { Ok(()) }
}

/// What stands for a user and a password in our own texts.
const EXAMPLE: &str = "user:password";

/// What follows the scheme of an address, without user, password and query.
fn without_secret(address: &str) -> String {
    let (slashes, place) = address.split_at(if address.starts_with("//") { 2 } else { 0 });
    let (hidden, place) = match place.rsplit_once('@') {
        // A password with a question mark, or a query with an @: either may be on either side.
        Some((before, _)) if before.contains(['?', '#', ';']) => return format!("{slashes}***"),
        Some((EXAMPLE, place)) => ("user:password@", place),
        Some((_, place)) => ("***@", place),
        // What stands where a port does and is no number is a password whose host was forgotten.
        None if has_odd_port(place) => return format!("{slashes}***"),
        None => ("", place),
    };
    let (place, query) = place.split_at(place.find(['?', '#', ';']).unwrap_or(place.len()));
    let (sign, query) = query.split_at(query.len().min(1));
    let plain = |c: char| c.is_ascii_alphanumeric() || "_.:-".contains(c);
    let is_known = |pair: &str| {
        let pair = pair.trim_end_matches([')', ',', ';', '.']);
        pair.split_once('=')
            .is_some_and(|(name, value)| PARAMETERS.contains(&name) && value.chars().all(plain))
    };
    // What closes the sentence is no part of it.
    let closing = query.trim_end_matches([')', ',', ';', ':', '.', '\'', '"', '`', ']']).len();
    let is_shown = closing == 0 || (sign == "?" && query.split('&').all(is_known));
    let shown = if is_shown { query.to_owned() } else { format!("***{}", &query[closing..]) };
    format!("{slashes}{hidden}{place}{sign}{shown}")
}

/// Whether what follows the host of an address is no port.
fn has_odd_port(place: &str) -> bool {
    let authority = place.split(['/', '?', '#', ';']).next().unwrap_or_default();
    let behind_host = authority.rsplit_once(']').map_or(authority, |(_, rest)| rest);
    let port = behind_host
        .split_once(':')
        .map(|(_, port)| port.trim_end_matches(|c: char| !c.is_ascii_alphanumeric()));
    // Our own texts say `host:port`.
    port.is_some_and(|port| port.chars().any(|c| !c.is_ascii_digit()) && !port.eq_ignore_ascii_case("port"))
}

/// `2024-01-01T00:01:07Z, 7s after 00:01:00Z`, or before the next point of the grid where that is nearer.
pub(crate) fn off_grid(row: &OffGrid, interval: Interval) -> String {
    let next = interval.next(row.ts).map(|next| (next, next.since(row.ts)));
    let before = row.bar.map(|bar| (bar, row.distance()));
    let (point, distance, side) = match (before, next) {
        (Some((_, after)), Some((next, ahead))) if ahead < after => (next, ahead, "before"),
        (Some((bar, after)), _) => (bar, after, "after"),
        (None, Some((next, ahead))) => (next, ahead, "before"),
        (None, None) => return row.ts.to_string(),
    };
    format!("{}, {} {side} {point}; it is not stored", row.ts, span(distance))
}

/// A length of time as people write it, to the millisecond: `28m 14.789s`, `7s`.
fn span(length: Duration) -> String {
    let (minutes, seconds) = (length.as_secs() / 60, length.as_secs() % 60);
    let seconds = match length.subsec_millis() {
        0 => format!("{seconds}s"),
        millis => format!("{seconds}.{millis:03}s"),
    };
    match (minutes / 60, minutes % 60) {
        (0, 0) => seconds,
        (0, minutes) => format!("{minutes}m {seconds}"),
        (hours, minutes) => format!("{hours}h {minutes}m {seconds}"),
    }
}

/// `3 rows without a number (NaN, infinite or null) in close, the first at 2024-01-01T00:00:00Z`.
pub(crate) fn not_numbers(nan: &NotNumbers) -> String {
    let column = in_line(&nan.column);
    format!(
        "{} without a number (NaN, infinite or null) in {column}, the first at {}",
        counted(nan.rows, "row"),
        nan.first
    )
}

/// `1234567` as `1,234,567`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number of things: `1 bar`, `2,000 bars`.
pub(crate) fn counted(number: u64, thing: &str) -> String {
    format!("{} {thing}{}", count(number), if number == 1 { "" } else { "s" })
}

/// A number of bytes: `512 B`, `1.4 MB` (powers of two).
pub(crate) fn bytes(number: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KB", "MB", "GB", "TB"];
    let mut tenths = u128::from(number) * 10;
    let mut unit = 0;
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1_024;
        unit += 1;
    }
    if unit == 0 { format!("{number} B") } else { format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit]) }
}

/// A duration: `140 ms`, `3.2 s`, `4 min 5 s`.
pub(crate) fn duration(duration: Duration) -> String {
    match duration.as_secs() {
        0 => format!("{} ms", duration.as_millis()),
        1..120 => format!("{:.1} s", duration.as_secs_f64()),
        secs => format!("{} min {} s", secs / 60, secs % 60),
    }
}

/// A range as `--range` takes it back: `FIRST..=LAST`.
pub(crate) fn range(range: TimeRange, interval: Interval) -> String {
    let (first, last) = range.bounds(interval).unwrap_or((range.start(), range.end()));
    format!("{first}..={last}")
}

/// A word as a shell takes it.
pub(crate) fn shell_word(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// An option with its value as a shell takes it: `--node BTC`, `--node=-x`.
pub(crate) fn option(name: &str, value: &str) -> String {
    let between = if value.starts_with('-') { '=' } else { ' ' };
    format!("{name}{between}{}", shell_word(value))
}

/// A set in a few words: `5,720 bars in 6 ranges`.
pub(crate) fn set(set: &RangeSet, interval: Interval) -> String {
    let ranges = u64::try_from(set.len()).unwrap_or(u64::MAX);
    match set.count(interval) {
        0 => "none".to_owned(),
        bars => format!("{} in {}", counted(bars, "bar"), counted(ranges, "range")),
    }
}

/// Rows of cells with their columns aligned: text to the left, columns named in `right` to the right.
pub(crate) fn table(rows: &[Vec<String>], right: &[usize]) -> Vec<String> {
    // Whatever a cell holds, it stays one.
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| in_line(cell)).collect()).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|column| {
            rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.width()).max().unwrap_or(0)
        })
        .collect();
    rows.iter()
        .map(|row| {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                let space = " ".repeat(widths[column] - cell.width());
                let gap = if column == 0 { "" } else { "  " };
                let (before, after) = if right.contains(&column) { (&*space, "") } else { ("", &*space) };
                line.extend([gap, before, cell, after]);
            }
            line.truncate(line.trim_end().len());
            line
        })
        .collect()
}

/// Bars that no source can have any more.
pub(crate) fn out_of_reach(bars: &RangeSet, interval: Interval) -> String {
    format!("beyond    {} further back than any source has", counted(bars.count(interval), "bar"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_moves_no_cursor_and_forges_no_line() {
        assert_eq!(
            for_terminal("a\u{1b}[31mb\r\nerror: c\u{7}\td"),
            "a\\u{1b}[31mb\\r\n    error: c\\u{7} d"
        );
        assert_eq!(for_terminal("ä\u{202e}x 漢"), "ä\\u{202e}x 漢");
    }

    #[test]
    fn addresses_are_shown_without_their_secrets() {
        for (text, clean) in [
            ("no address: none", "no address: none"),
            (
                "at questdb://host:8812/qdb?prefix=x&http=9000, then",
                "at questdb://host:8812/qdb?prefix=x&http=9000, then",
            ),
            ("(server: questdb://admin:PW@host/qdb)", "(server: questdb://***@host/qdb)"),
            ("questdb://admin:12/PW?P#W@PW@host:1/x y", "questdb://*** y"),
            ("questdb:admin:PW@host", "questdb:***@host"),
            ("write questdb://user:password@host:port", "write questdb://user:password@host:port"),
            ("QuestDB:admin:PW@host", "QuestDB:***@host"),
            ("'https://api.example.com/x?key=PW'", "'https://api.example.com/x?***'"),
            ("questdb://h/q?http=u:PW@h:9000&table=t", "questdb://***"),
            ("https://h/?key=@PW", "https://***"),
            ("value 'http://a:x'P W'@b' for", "value 'http://***@b' for"),
            ("(url: \"http://h/?k=`PW x\")", "(url: \"http://h/?***\")"),
            ("questdb://h/q?password=PW", "questdb://h/q?***"),
            ("questdb://u:PW and", "questdb://*** and"),
            ("(at http://[::1]:80), (at http://h:1): x", "(at http://[::1]:80), (at http://h:1): x"),
            ("host=h user=u password=PW dbname=q", "host=h user=u password=*** dbname=q"),
            ("(location: http://h/a?k=PW): no", "(location: http://h/a?***): no"),
            ("value \"http://a:x\\\" PW@b\" for", "value \"http://***@b\" for"),
            ("two: http://a:PW@b, https://c:PW@d.", "two: http://***@b, https://***@d."),
            ("http: 9000 and a:b@c", "http: 9000 and a:b@c"),
            ("at http：//u：PW＠h/x, then", "at http://***@h/x, then"),
            ("questdb://u：PW＠h", "questdb://***@h"),
            ("the file 行情：一.csv is not there", "the file 行情：一.csv is not there"),
            ("(server: http://h:1/q;password=PW;PW)", "(server: http://h:1/q;***)"),
            ("at http://h:1; then", "at http://h:1; then"),
            ("./a;Password=PW;PW x", "./a;Password=*** x"),
            ("aws_secret_access_key=PW", "aws_secret_access_key=***"),
            ("(\"http\", us:PW@h:1) idle", "(\"http\", ***@h:1) idle"),
            ("(\\\"http\\\", us:PW@h:1) x@y", "(\\\"http\\\", ***@h:1) x@y"),
            ("(\"http\", h:1) x@y", "(\"http\", h:1) x@y"),
            (
                "Url { username: \"PW\", password: Some(\"PW\"), port: None, query: Some(\"k=PW\") }",
                "Url { username: \"***\", password: Some(\"***\"), port: None, query: Some(\"***\") }",
            ),
            ("{username: \\\"PW\\\", password: None}", "{username: \\\"***\\\", password: None}"),
            ("(source: file:a@b.csv#9f86d081, asked)", "(source: file:a@b.csv#9f86d081, asked)"),
        ] {
            assert_eq!(without_secrets(text), clean);
            assert!(!without_secrets(text).contains("PW"), "{text}");
        }
    }

    #[test]
    fn what_was_typed_is_known_wherever_it_is_quoted_and_however_it_is_spelled() {
        // One of a process, so one test has them all.
        let words = [
            "--nodes=questdb://u:P' X PW@h/q",
            "file:http://a:\"P W@b",
            "s3://k:a\nPW@b",
            "plain:x",
            "a@b",
            "--node",
            "a:b@c",
            "--symbol=a:b@c=XY",
            "file:we@ird:x.csv",
            "mysql:root:sesame@host",
            "mysql：root：sesam2＠host",
            "./x;pwd=a;b c",
        ];
        learn_secrets(words.into_iter().map(Cow::Borrowed));
        for (text, shown) in [
            ("no list questdb://u:P' X PW@h/q here", "no list questdb://***@h/q here"),
            ("'questdb://u:P' X PW@h/q' (nodes)", "'questdb://***@h/q' (nodes)"),
            ("file:http://a:\"P W@b is not", "file:http://***@b is not"),
            ("\"http://a:\\\"P W@b\"", "\"http://***@b\""),
            ("s3://k:a\\nPW@b and s3://k:a\nPW@b", "s3://***@b and s3://***@b"),
            ("plain:x a@b a:b@c=XY we@ird:x.csv", "plain:x a@b a:b@c=XY we@ird:x.csv"),
            ("no source mysql:root:sesame@host: bad password sesame", "no source ***@host: bad password ***"),
            ("no mysql：root：sesam2＠host there", "no ***@host there"),
            ("no ./x;pwd=a;b c there", "no ./x;pwd=*** there"),
        ] {
            assert_eq!(without_secrets(text), shown);
        }
    }

    #[test]
    fn lines_and_json_hold_nothing_that_moves_a_terminal() {
        assert_eq!(line("\u{1b}[1ma\u{202e}b\u{9b}c\u{1b}[0m"), "\u{1b}[1ma\\u{202e}b\\u{9b}c\u{1b}[0m");
        assert_eq!(json("{\"a\":\"\u{7f}\u{85}\u{2066}ä\"}\n"), "{\"a\":\"\\u007f\\u0085\\u2066ä\"}\n");
        assert_eq!(in_line("a\nb\u{7}"), "a\\nb\\u{7}");
    }

    #[test]
    fn an_address_is_no_path_however_it_was_mistyped() {
        for name in [
            "tcp::addr=h;username=a;password=PW;",
            "tcps::addr=h:9009;token=PW",
            "tcp::addr=h",
            "host=h user=a password=PW",
            "host=h user=a",
            "password=PW host=h port=8812",
            "user=a;password=PW;host=h",
            "Server=h;Port=8812;User Id=a;Password=PW;",
            "./a;Password=PW",
            "/data/pwd=PW",
            "user%3APW%40h",
            "host%3Dh%20password%3dPW",
            "user：PW＠h",
            "questdb:admin:PW@h",
            "s3://AK:PW@b/x",
            "//admin:PW@h",
            "admin@h/qdb?tls=1",
        ] {
            assert!(is_address(name), "{name}");
            let error = must_be_path(Path::new(name), "use DIR").unwrap_err();
            assert!(!error.chain().contains("PW"));
        }
        for name in
            ["history", "./s3:x", "/x/a:b@c", "a@b", "a:b", "symbol=BTC/year=2024", "a; b", "../x y", "C:\\x"]
        {
            assert!(!is_address(name), "{name}");
        }
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!((counted(1, "bar"), counted(2, "bar")), ("1 bar".into(), "2 bars".into()));
        assert_eq!([0, 1_023, 1_536, 10 << 20].map(bytes), ["0 B", "1023 B", "1.5 KB", "10.0 MB"]);
    }

    #[test]
    fn words_are_quoted_for_the_shell() {
        assert_eq!(shell_word("/tmp/a-b"), "/tmp/a-b");
        assert_eq!(shell_word("it's $x"), r"'it'\''s $x'");
        assert_eq!(option("--node", "ohlcv:BTC/USDT"), "--node ohlcv:BTC/USDT");
        assert_eq!(option("--node", "-x y"), "--node='-x y'");
    }

    #[test]
    fn columns_align_by_their_width_on_the_screen() {
        let rows = [vec!["🦀".into(), "1".into()], vec!["abc".into(), "100".into()]];
        assert_eq!(table(&rows, &[1]), ["🦀     1", "abc  100"]);
        assert_eq!(table(&[vec!["a\nb\u{1b}\tc".into(), "d".into()]], &[]), ["a\\nb\\u{1b} c  d"]);
    }
}
