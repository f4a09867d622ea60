//! How long files and functions are: a report to look at, never a gate.

use std::fmt::Write as _;

use super::code::code_of;
use super::repository::Repository;

const LONG_FILE: usize = 300;
const LONG_FUNCTION: usize = 40;

/// Medians and the longest of production code; tests are not counted.
pub(super) fn report(repository: &Repository) -> String {
    let mut files = Vec::new();
    let mut functions = Vec::new();
    let is_production = |path: &str| !path.split(['/', '.']).any(|part| part == "tests" || part == "benches");
    for (path, text) in repository.sources().filter(|(path, _)| is_production(path)) {
        let production = text.split("#[cfg(test)]").next().unwrap_or(text);
        files.push((production.lines().count(), path.to_owned()));
        let found = functions_of(&code_of(production)).into_iter();
        functions.extend(found.map(|(lines, name)| (lines, format!("{name} in {path}"))));
    }
    let mut text = section("files", files, LONG_FILE);
    text += &section("functions", functions, LONG_FUNCTION);
    text.truncate(text.trim_end().len());
    text
}

fn section(what: &str, mut lengths: Vec<(usize, String)>, limit: usize) -> String {
    lengths.sort_by(|a, b| b.cmp(a));
    let at = |share: usize| lengths.get(lengths.len() * share / 100).map_or(0, |(lines, _)| *lines);
    let long: Vec<_> = lengths.iter().filter(|(lines, _)| *lines > limit).collect();
    let mut text = format!(
        "{} {what}: median {} lines, p90 {}, {} over {limit}\n",
        lengths.len(),
        at(50),
        at(10),
        long.len()
    );
    for (lines, name) in long.iter().take(5) {
        let _ = writeln!(text, "{lines:>6}  {name}");
    }
    text
}

/// The functions with a body in blanked code: lines from `fn` to its closing brace, and the name.
fn functions_of(code: &str) -> Vec<(usize, String)> {
    let mut functions = Vec::new();
    for (at, _) in code.match_indices("fn ") {
        let is_word = code[..at].chars().next_back().is_none_or(|c| c.is_whitespace() || c == '(');
        let name: String = code[at + 3..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        if is_word
            && !name.is_empty()
            && let Some(length) = body_end(&code[at..])
        {
            functions.push((code[at..=at + length].lines().count(), name));
        }
    }
    functions
}

/// Where the body that follows ends; `None` when a semicolon comes first.
fn body_end(code: &str) -> Option<usize> {
    let (mut braces, mut brackets) = (0_usize, 0_usize);
    for (at, c) in code.char_indices() {
        match c {
            '[' => brackets += 1,
            ']' => brackets = brackets.saturating_sub(1),
            '{' => braces += 1,
            ';' if braces == 0 && brackets == 0 => return None,
            '}' if braces <= 1 => return Some(at),
            '}' => braces -= 1,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_measured_to_their_closing_brace() {
        let code = "trait A { fn none(&self, x: [u8; 4]); }\nfn one() {}\npub fn four<F: Fn(u8)>(f: F)\n{\n  if f { }\n}\n";
        assert_eq!(functions_of(code), [(1, "one".to_owned()), (4, "four".to_owned())]);
    }
}
