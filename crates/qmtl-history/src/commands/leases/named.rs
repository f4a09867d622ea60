//! The leases that are to be recovered, however they are named.

use std::io::{IsTerminal, Read};
use std::path::Path;

use qmtl_history_api::Error;
use serde_json::Value;

use crate::cli::RecoverArgs;
use crate::outcome::Result;
use crate::text;

/// A lease: its key, and its token unless it is to be forced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) key: String,
    pub(super) token: Option<String>,
}

/// The leases of the arguments, of the file, and of stdin where nothing else names any; each once.
pub(super) fn read(args: &RecoverArgs) -> Result<Vec<Named>> {
    let mut leases = Vec::new();
    if args.token.len() > args.key.len() || (args.token.len() < args.key.len() && !args.force) {
        let error = Error::invalid("each --key needs its --token, unless they are forced (--force)");
        return Err(error.with("keys", args.key.len()).with("tokens", args.token.len()).into());
    }
    let tokens = args.token.iter().cloned().map(Some).chain(std::iter::repeat(None));
    leases.extend(args.key.iter().cloned().zip(tokens).map(|(key, token)| Named { key, token }));
    for word in &args.lease {
        leases.push(pair(word)?);
    }
    let is_piped = leases.is_empty() && args.file.is_none() && !std::io::stdin().is_terminal();
    let text = match args.file.as_deref() {
        Some(path) if path != Path::new("-") => {
            let broken =
                |e| Error::invalid("cannot read the leases").with("file", path.display()).caused_by(e);
            Some(std::fs::read_to_string(path).map_err(broken)?)
        }
        Some(_) => Some(stdin()?),
        None if is_piped => Some(stdin()?),
        None => None,
    };
    if let Some(text) = text {
        leases.extend(listed(&text));
    }
    let mut seen = Vec::new();
    leases.retain(|lease| {
        let is_new = !seen.contains(lease);
        seen.push(lease.clone());
        is_new
    });
    if leases.is_empty() {
        let message =
            "no lease is named: give KEY:TOKEN, --key and --token, --file, or log lines of workers on stdin";
        return Err(Error::invalid(message).into());
    }
    Ok(leases)
}

fn stdin() -> Result<String> {
    let mut text = String::new();
    let broken = |e| Error::invalid("cannot read the leases on stdin").caused_by(e);
    std::io::stdin().read_to_string(&mut text).map_err(broken)?;
    Ok(text)
}

/// `KEY:TOKEN`: the token is what follows the last colon.
fn pair(word: &str) -> Result<Named> {
    match word.rsplit_once(':') {
        Some((key, token)) if !key.is_empty() && !token.is_empty() => {
            Ok(Named { key: key.to_owned(), token: Some(token.to_owned()) })
        }
        _ => Err(Error::invalid("a lease is named KEY:TOKEN").with("lease", text::in_line(word)).into()),
    }
}

/// The leases of a text: what `leases list --json` prints, or lines, which are pairs or events of workers, of which those
/// that were completed later are left out. Other lines are those of a log, and of no interest.
fn listed(text: &str) -> Vec<Named> {
    if let Ok(Value::Object(printed)) = serde_json::from_str(text)
        && let Some(Value::Array(leases)) = printed.get("leases")
    {
        let lease = |lease: &Value| {
            let [key, token] = ["key", "token"].map(|name| lease[name].as_str().map(str::to_owned));
            Some(Named { key: key?, token: Some(token?) })
        };
        return leases.iter().filter_map(lease).collect();
    }
    let mut leases: Vec<Named> = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let Some(key) = field(line, "lease_key") else {
            leases.extend(pair_of_line(line));
            continue;
        };
        let Some(token) = field(line, "lease_token") else { continue };
        let lease = Named { key, token: Some(token) };
        if line.contains("coordinator_completed") {
            leases.retain(|known| *known != lease);
        } else if line.contains("coordinator_claimed") || line.contains("coordinator_failed") {
            leases.push(lease);
        }
    }
    leases
}

/// The pair of a line. Keys may have blanks, braces and hashes, as log lines and comments have: then the end must be a
/// token of ours, a number and sixteen digits.
fn pair_of_line(line: &str) -> Option<Named> {
    let is_hex = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_ours = |token: &str| {
        token
            .split_once('-')
            .is_some_and(|(fence, nonce)| is_hex(fence) && nonce.len() == 16 && is_hex(nonce))
    };
    let lease = pair(line).ok()?;
    let is_plain = !line.contains([' ', '{', '\t']) && !line.starts_with('#');
    (is_plain || lease.token.as_deref().is_some_and(is_ours)).then_some(lease)
}

/// The text of a field of a log line: of its JSON object, or `name="…"` in a line for people.
fn field(line: &str, name: &str) -> Option<String> {
    if let Some(at) = line.find('{')
        && let Some(Ok(object)) = serde_json::Deserializer::from_str(&line[at..]).into_iter::<Value>().next()
    {
        return object[name].as_str().map(str::to_owned);
    }
    let (_, rest) = line.split_once(&format!("{name}="))?;
    serde_json::Deserializer::from_str(&unescaped(rest)).into_iter::<String>().next()?.ok()
}

/// Log lines for people have texts as Rust prints them, with `\u{301}` where JSON has the character or `\u0301`.
fn unescaped(text: &str) -> String {
    let mut parts = text.split("\\u{");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = part
            .split_once('}')
            .and_then(|(hex, rest)| Some((char::from_u32(u32::from_str_radix(hex, 16).ok()?)?, rest)));
        match code {
            Some((letter, rest)) => {
                // JSON wants control characters escaped.
                let escaped = serde_json::to_string(&letter).unwrap_or_default();
                plain.push_str(escaped.trim_matches('"'));
                plain.push_str(rest);
            }
            None => plain.push_str(part),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_are_found_in_lines_of_every_log_format() {
        let text = r#"
            seamless.backfill.coordinator_claimed {"coordinator_id": "c", "lease_key": "a:60:0:60::", "lease_token": "1-a"}
            {"timestamp":"2024-01-01T00:00:00Z","level":"INFO","lease_key":"b:60:0:60::","lease_token":"2-b","message":"seamless.backfill.coordinator_claimed"}
            2024-01-01T00:00:00Z  INFO seamless.backfill.coordinator_failed coordinator_id="c" lease_key="c \"x\":60:0:60::" lease_token="3-c" reason="r"
            2024-01-01T00:00:00Z  INFO seamless.backfill.coordinator_claimed lease_key="cafe\u{301} \u{7f}:60:0:60::" lease_token="8-c"
            seamless.backfill.coordinator_claimed {"lease_key": "done:60:0:60::", "lease_token": "4-d"}
            seamless.backfill.coordinator_completed {"lease_key": "done:60:0:60::", "lease_token": "4-d"}
            seamless.coordinator.claim_failed {"lease_key": "nobody:60:0:60::", "error": "refused"}
            backfill.start {"node_id": "a"}
            # a comment: with a colon
            Killed
            e:60:0:60:w:2024-01-01T00:00:00Z:5-e
            a node {1}:60:0:60:::6-0123456789abcdef
#a node:60:0:60:::7-0123456789abcdef"#;
        let found: Vec<_> = listed(text).into_iter().map(|lease| (lease.key, lease.token.unwrap())).collect();
        let wanted = [
            ("a:60:0:60::", "1-a"),
            ("b:60:0:60::", "2-b"),
            ("c \"x\":60:0:60::", "3-c"),
            ("cafe\u{301} \u{7f}:60:0:60::", "8-c"),
            ("e:60:0:60:w:2024-01-01T00:00:00Z", "5-e"),
            ("a node {1}:60:0:60::", "6-0123456789abcdef"),
            ("#a node:60:0:60::", "7-0123456789abcdef"),
        ];
        assert_eq!(found, wanted.map(|(key, token)| (key.to_owned(), token.to_owned())));
        let printed =
            r#"{"leases": [{"key": "a b:60:0:60::", "token": "1-a", "state": "dead"}], "more": false}"#;
        let named = Named { key: "a b:60:0:60::".into(), token: Some("1-a".into()) };
        assert_eq!(listed(printed), [named]);
        assert!(pair("nothing").is_err() && pair("key:").is_err());
    }
}
