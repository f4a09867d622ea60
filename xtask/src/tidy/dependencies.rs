//! Rules about who may depend on whom.

use std::collections::{BTreeMap, BTreeSet};

use super::repository::{PROTOCOL, Package, Repository};

/// What the protocol crate must not see: a runtime, a database or its client, the network.
const HEAVY: &[&str] = &[
    "axum",
    "datafusion",
    "deadpool-postgres",
    "diesel",
    "duckdb",
    "hyper",
    "object_store",
    "parquet",
    "postgres",
    "questdb-rs",
    "redb",
    "reqwest",
    "rusqlite",
    "sqlx",
    "tokio",
    "tokio-postgres",
    "ureq",
];

/// The protocol crate's tree stays under this many crates, itself counted.
const PROTOCOL_LIMIT: usize = 50;

pub(super) fn protocol_is_pure(repository: &Repository) -> Vec<String> {
    let names = repository.protocol_tree.iter().filter_map(|line| line.split(' ').next());
    let unwanted =
        names.filter(|name| (name.starts_with("qmtl-") && *name != PROTOCOL) || HEAVY.contains(name));
    unwanted
        .map(|name| {
            format!("{PROTOCOL} depends on {name}: `cargo tree -p {PROTOCOL} -e normal -i {name}` shows through what")
        })
        .collect()
}

pub(super) fn protocol_is_small(repository: &Repository) -> Vec<String> {
    match repository.protocol_tree.len() {
        0..PROTOCOL_LIMIT => Vec::new(),
        crates => vec![format!(
            "{PROTOCOL} compiles {crates} crates, the limit is {PROTOCOL_LIMIT}: \
             `cargo tree -p {PROTOCOL} -e normal` lists them"
        )],
    }
}

pub(super) fn backends_are_apart(repository: &Repository) -> Vec<String> {
    forbidden(repository, is_backend, is_backend)
}

pub(super) fn core_knows_no_backend(repository: &Repository) -> Vec<String> {
    forbidden(repository, |name| name == "qmtl-backfill" || name == "qmtl-runtime", is_backend)
}

pub(super) fn datafusion_is_contained(repository: &Repository) -> Vec<String> {
    forbidden(
        repository,
        |name| name != "qmtl-query" && name != "qmtl-history",
        |name| name == "datafusion" || name.starts_with("datafusion-"),
    )
}

fn is_backend(name: &str) -> bool {
    name.starts_with("qmtl-io-")
}

/// Crates of ours for which `who` holds and that have something under them for which `what` holds.
fn forbidden(repository: &Repository, who: fn(&str) -> bool, what: fn(&str) -> bool) -> Vec<String> {
    let graph = &repository.graph;
    let crates = graph.members().filter(|package| who(&package.name));
    let findings = crates.flat_map(|package| {
        let unwanted = graph.below(package).into_iter().filter(|name| what(name) && *name != package.name);
        unwanted.map(|name| format!("{} depends on {name}", package.name)).collect::<Vec<_>>()
    });
    findings.collect()
}

pub(super) fn one_arrow(repository: &Repository) -> Vec<String> {
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let is_arrow = |package: &&Package| {
        package.name == "arrow" || package.name == "parquet" || package.name.starts_with("arrow-")
    };
    for package in repository.graph.packages.values().filter(is_arrow) {
        versions.entry(&package.version).or_default().insert(&package.name);
    }
    if versions.len() < 2 {
        return Vec::new();
    }
    let listed = versions.iter().map(|(version, names)| {
        format!("{version} ({})", names.iter().copied().collect::<Vec<_>>().join(", "))
    });
    vec![format!("the tree has arrow {}", listed.collect::<Vec<_>>().join(" and "))]
}

pub(super) fn folders_are_named_after_crates(repository: &Repository) -> Vec<String> {
    let members = repository.graph.members();
    let named_otherwise = members.filter(|package| package.folder.as_ref() != Some(&package.name));
    named_otherwise
        .map(|package| {
            format!(
                "crate {} lies in a folder called {}",
                package.name,
                package.folder.as_deref().unwrap_or("?")
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::repository::tests::graph;

    fn tree(names: &[&str]) -> Repository {
        let protocol_tree = names.iter().map(|name| format!("{name} v1.0.0")).collect();
        Repository { protocol_tree, ..Repository::default() }
    }

    fn crates(lines: &[&str]) -> Repository {
        Repository { graph: graph(lines), ..Repository::default() }
    }

    #[test]
    fn the_protocol_crate_that_gains_tokio_or_a_crate_of_ours_is_named() {
        assert!(protocol_is_pure(&tree(&[PROTOCOL, "arrow-array", "tokio-macros"])).is_empty());
        let findings = protocol_is_pure(&tree(&[PROTOCOL, "tokio", "qmtl-observe"]));
        assert!(findings[0].starts_with("qmtl-history-api depends on qmtl-observe"), "{findings:?}");
        assert!(findings[1].starts_with("qmtl-history-api depends on tokio"), "{findings:?}");
    }

    #[test]
    fn the_protocol_crate_may_have_49_crates_and_not_50() {
        let names: Vec<_> = (0..50).map(|n| format!("crate-{n}")).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        assert!(protocol_is_small(&tree(&names[..49])).is_empty());
        assert!(protocol_is_small(&tree(&names))[0].contains("compiles 50 crates"));
    }

    #[test]
    fn a_backend_that_depends_on_another_is_named_unless_its_tests_do() {
        let apart = crates(&["qmtl-io-a: qmtl-history-api / qmtl-testkit", "qmtl-testkit: qmtl-io-b"]);
        assert!(backends_are_apart(&apart).is_empty());
        let joined = crates(&["qmtl-io-a: qmtl-helper", "qmtl-helper: qmtl-io-b"]);
        assert_eq!(backends_are_apart(&joined), ["qmtl-io-a depends on qmtl-io-b"]);
    }

    #[test]
    fn backfill_and_runtime_that_name_a_backend_are_named_unless_their_tests_do() {
        let clean = crates(&["qmtl-backfill: / qmtl-io-memory", "qmtl-history: qmtl-io-parquet"]);
        assert!(core_knows_no_backend(&clean).is_empty());
        let findings = core_knows_no_backend(&crates(&["qmtl-runtime: qmtl-io-parquet"]));
        assert_eq!(findings, ["qmtl-runtime depends on qmtl-io-parquet"]);
    }

    #[test]
    fn datafusion_under_any_other_crate_is_named() {
        let contained =
            crates(&["qmtl-query: datafusion", "qmtl-history: qmtl-query", "datafusion: datafusion-expr"]);
        assert!(datafusion_is_contained(&contained).is_empty());
        let findings = datafusion_is_contained(&crates(&["qmtl-backfill: x", "x: datafusion-expr"]));
        assert_eq!(findings, ["qmtl-backfill depends on datafusion-expr"]);
    }

    #[test]
    fn two_arrows_are_named_with_their_crates() {
        assert!(one_arrow(&crates(&["a: arrow-array@59.3.2 parquet@59.3.2 arrow-schema@59.3.2"])).is_empty());
        let findings = one_arrow(&crates(&["a: arrow-array@59.3.2", "b: arrow-array@60.0.0 parquet@60.0.0"]));
        assert_eq!(findings, ["the tree has arrow 59.3.2 (arrow-array) and 60.0.0 (arrow-array, parquet)"]);
    }

    #[test]
    fn a_folder_with_another_name_is_named() {
        let mut repository = crates(&["qmtl-a:", "qmtl-b:"]);
        assert!(folders_are_named_after_crates(&repository).is_empty());
        repository.graph.packages.get_mut("qmtl-b").unwrap().folder = Some("b".to_owned());
        assert_eq!(folders_are_named_after_crates(&repository), ["crate qmtl-b lies in a folder called b"]);
    }
}
