//! Rules about what stands in the files.

use std::collections::BTreeSet;

use super::code::code_of;
use super::repository::Repository;
use crate::soak::fuzz;

/// The guarantees of stores and of fetchers.
const PROTOCOL_PAGES: &str = "crates/qmtl-history-api/docs/";
const SUITE: &str = "crates/qmtl-history-testkit/";

pub(super) fn files_have_a_module_doc(repository: &Repository) -> Vec<String> {
    let without = repository
        .sources()
        .filter(|(_, text)| !text.starts_with("//!") && !text.starts_with("#![doc = include_str!("));
    without.map(|(path, _)| format!("{path} does not start with `//!` and a sentence")).collect()
}

pub(super) fn nothing_is_switched_off(repository: &Repository) -> Vec<String> {
    let mut findings = Vec::new();
    for (path, text) in repository.sources() {
        let code = code_of(text);
        for word in ["#[ignore", "#[should_panic", "todo!", "unimplemented!"] {
            for (number, line) in code.lines().enumerate() {
                if line.contains(word) {
                    findings.push(format!("{path}:{} has {word}", number + 1));
                }
            }
        }
    }
    for (path, text) in &repository.texts {
        for (number, line) in text.lines().enumerate() {
            let line = line.trim_start_matches([' ', '/', '!']);
            if line.strip_prefix("```").is_some_and(|attributes| attributes.contains("ignore")) {
                findings.push(format!("{path}:{} has an example that no test compiles", number + 1));
            }
        }
    }
    findings
}

pub(super) fn guarantees_are_checked(repository: &Repository) -> Vec<String> {
    let pages = repository.texts.iter().filter(|(path, _)| path.starts_with(PROTOCOL_PAGES));
    let promised: BTreeSet<&str> = pages.flat_map(|(_, text)| ids(text)).collect();
    let suite = repository.sources().filter(|(path, _)| path.starts_with(SUITE));
    let checked: BTreeSet<&str> = suite.flat_map(|(_, text)| ids(text)).collect();
    let unchecked = promised.difference(&checked);
    let unchecked =
        unchecked.map(|id| format!("{id} stands in {PROTOCOL_PAGES} and no check of the suite quotes it"));
    let unknown = checked.difference(&promised);
    let unknown =
        unknown.map(|id| format!("{id} is quoted in {SUITE} and does not stand in {PROTOCOL_PAGES}"));
    unchecked.chain(unknown).collect()
}

/// The ids of guarantees in a text: `H-READ-01`.
fn ids(text: &str) -> BTreeSet<&str> {
    let starts = text.match_indices("H-").map(|(at, _)| &text[at..]);
    let ids = starts.filter_map(|rest| {
        let area = rest[2..].find('-')? + 2;
        let end = area + 3;
        let is_area = area > 2 && rest[2..area].bytes().all(|b| b.is_ascii_uppercase());
        let number = rest.get(area + 1..end)?;
        (is_area && number.bytes().all(|b| b.is_ascii_digit())).then(|| &rest[..end])
    });
    ids.collect()
}

/// The page whose tables name tests.
const RELIABILITY: &str = "docs/reliability.md";

pub(super) fn named_tests_are_there(repository: &Repository) -> Vec<String> {
    let functions: BTreeSet<&str> = repository.sources().flat_map(|(_, text)| functions(text)).collect();
    let page = repository.texts.get(RELIABILITY).map_or("", String::as_str);
    let rows = page.lines().filter(|line| line.starts_with('|'));
    let named = rows.flat_map(|row| row.split('`').skip(1).step_by(2)).filter(|word| is_test_name(word));
    let missing: BTreeSet<&str> = named.filter(|name| !functions.contains(name)).collect();
    missing
        .into_iter()
        .map(|name| format!("{RELIABILITY} names `{name}`, and there is no such test"))
        .collect()
}

/// A sentence in snake case.
fn is_test_name(word: &str) -> bool {
    let is_of_name = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    word.matches('_').count() >= 3 && word.bytes().all(is_of_name)
}

/// The names of the functions of a text; those that a macro makes of a list stand in it by themselves.
fn functions(text: &str) -> impl Iterator<Item = &str> {
    let after = text.match_indices("fn ").map(|(at, word)| &text[at + word.len()..]);
    after.map(|rest| {
        &rest[..rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len())]
    })
}

pub(super) fn parsers_are_fuzzed(repository: &Repository) -> Vec<String> {
    let fed =
        repository.sources().filter(|(path, _)| path.ends_with("/fuzz.rs") && !path.starts_with("xtask/"));
    let fed: BTreeSet<&str> = fed.flat_map(|(_, text)| fuzzed(text)).collect();
    let known: BTreeSet<&str> = fuzz::names().into_iter().collect();
    let unknown =
        fed.difference(&known).map(|name| format!("`cargo xtask soak` does not know the parser {name}"));
    let unfed = known.difference(&fed).map(|name| format!("no test feeds the parser {name}"));
    let empty = fuzz::without_corpus();
    let empty =
        empty.into_iter().map(|name| format!("the corpus of {name} is empty, so that its test runs nothing"));
    unknown.chain(unfed).chain(empty).collect()
}

/// The names of the targets in a text: of `check!(name = "times")`, and of `check!("csv", …)` where a macro of the file
/// writes that.
fn fuzzed(text: &str) -> impl Iterator<Item = &str> {
    let after = text.match_indices("check!(").map(|(at, word)| &text[at + word.len()..]);
    after.filter_map(|rest| rest.trim_start_matches("name = ").strip_prefix('"')?.split('"').next())
}

pub(super) fn architecture_names_every_crate(repository: &Repository) -> Vec<String> {
    let page = repository.texts.get("ARCHITECTURE.md").map_or("", String::as_str);
    let words: BTreeSet<&str> =
        page.split(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_').collect();
    let members = repository.graph.members().filter(|package| !words.contains(package.name.as_str()));
    members.map(|package| format!("ARCHITECTURE.md does not name {}", package.name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::repository::tests::{files, graph};

    #[test]
    fn a_test_that_is_named_and_not_there_is_named() {
        let page = "| what | test |\n|---|---|\n| x | `it_is_there_now`, `it_is_not_there` and `a_b` |\n`it_is_prose_only`";
        let repository = files(&[(RELIABILITY, page), ("a.rs", "//! A.\nfn it_is_there_now() {}")]);
        assert_eq!(
            named_tests_are_there(&repository),
            ["docs/reliability.md names `it_is_not_there`, and there is no such test"]
        );
    }

    #[test]
    fn targets_are_found_by_their_name() {
        let text = "bolero::check!(name = \"times\").x; check!(\"csv\", 1); check!(name = $name); check!(x)";
        assert_eq!(fuzzed(text).collect::<Vec<_>>(), ["times", "csv"]);
    }

    #[test]
    fn a_file_without_a_module_doc_is_named() {
        let repository = files(&[
            ("a.rs", "//! What it is.\nfn a() {}"),
            ("lib.rs", "#![doc = include_str!(\"../README.md\")]"),
            ("b.rs", "// A remark.\nfn b() {}"),
        ]);
        assert_eq!(files_have_a_module_doc(&repository), ["b.rs does not start with `//!` and a sentence"]);
    }

    #[test]
    fn tests_that_are_switched_off_and_stubs_are_named_with_their_line() {
        let repository = files(&[
            ("a.rs", "#[test]\n#[ignore = \"slow\"]\nfn a() {}"),
            ("b.rs", "#[should_panic(expected = \"x\")]\nfn b() { todo!() }"),
            ("c.rs", "fn c() { unimplemented!(\"later\") }"),
            ("d.rs", "/// ```ignore\n/// d();\n/// ```\nfn d() { log(\"todo! #[ignore]\") } // todo!"),
            ("e.md", "```rust,ignore\n```\n```rust\n```"),
        ]);
        assert_eq!(
            nothing_is_switched_off(&repository),
            [
                "a.rs:2 has #[ignore",
                "b.rs:1 has #[should_panic",
                "b.rs:2 has todo!",
                "c.rs:1 has unimplemented!",
                "d.rs:1 has an example that no test compiles",
                "e.md:1 has an example that no test compiles",
            ]
        );
    }

    #[test]
    fn a_guarantee_without_a_check_and_a_check_without_a_guarantee_are_named() {
        let repository = files(&[
            (
                "crates/qmtl-history-api/docs/guarantees.md",
                "- `H-READ-01` rows\n- `H-COV-02` proofs, not H-COV or H-cov-01",
            ),
            ("crates/qmtl-history-testkit/src/read.rs", "/// `H-READ-01` and H-SER-09"),
        ]);
        let findings = guarantees_are_checked(&repository);
        assert!(findings[0].starts_with("H-COV-02 stands in"), "{findings:?}");
        assert!(findings[1].starts_with("H-SER-09 is quoted in"), "{findings:?}");
        assert_eq!(findings.len(), 2);
    }

    #[test]
    fn a_crate_that_the_architecture_forgets_is_named_also_when_its_name_starts_another() {
        let mut repository = files(&[("ARCHITECTURE.md", "`qmtl-history-api` and `xtask`")]);
        repository.graph = graph(&["qmtl-history: qmtl-history-api", "xtask:"]);
        assert_eq!(
            architecture_names_every_crate(&repository),
            ["ARCHITECTURE.md does not name qmtl-history"]
        );
    }
}
