//! `cargo xtask tidy`: the rules of this repository that no compiler knows, each a pure function
//! over what cargo and the files say, and a report of lengths that is never a gate.

mod code;
mod dependencies;
mod lengths;
mod links;
mod repository;
mod sources;

use anyhow::Result;

use repository::Repository;
pub(crate) use repository::members;

/// Says what is wrong, one sentence a finding; nothing when all is well.
type Rule = fn(&Repository) -> Vec<String>;

const RULES: &[(&str, Rule)] = &[
    ("the protocol crate has no crate of ours, runtime or database under it", dependencies::protocol_is_pure),
    ("the protocol crate's tree stays small", dependencies::protocol_is_small),
    ("no backend crate depends on another", dependencies::backends_are_apart),
    ("backfill and runtime know no backend", dependencies::core_knows_no_backend),
    ("only the query crate and the program see DataFusion", dependencies::datafusion_is_contained),
    ("there is one arrow", dependencies::one_arrow),
    ("a crate's folder has its name", dependencies::folders_are_named_after_crates),
    ("every source file says what it is", sources::files_have_a_module_doc),
    ("no test is switched off or waits for a panic, and nothing is a stub", sources::nothing_is_switched_off),
    ("guarantees and conformance checks quote each other", sources::guarantees_are_checked),
    ("the tests that docs/reliability.md names are there", sources::named_tests_are_there),
    ("every parser that a test feeds is fuzzed, and its corpus is there", sources::parsers_are_fuzzed),
    ("ARCHITECTURE.md names every crate", sources::architecture_names_every_crate),
    ("every page in docs/ is linked", links::docs_are_linked),
    ("links between pages lead somewhere", links::links_lead_somewhere),
];

/// Checks every rule; true when none is broken.
pub(crate) fn run() -> Result<bool> {
    let repository = Repository::read()?;
    let mut broken = 0;
    for (name, rule) in RULES {
        let findings = rule(&repository);
        println!("{} {name}", if findings.is_empty() { "ok    " } else { "BROKEN" });
        for finding in &findings {
            println!("       - {finding}");
        }
        broken += findings.len();
    }
    println!("\n{}", lengths::report(&repository));
    if broken > 0 {
        println!("\n{broken} findings");
    }
    Ok(broken == 0)
}
