//! Rules about links between pages.

use std::collections::BTreeSet;

use super::repository::Repository;

pub(super) fn docs_are_linked(repository: &Repository) -> Vec<String> {
    let linked: BTreeSet<String> = repository
        .pages()
        .flat_map(|(page, text)| targets(page, text).into_iter().filter(move |target| target != page))
        .collect();
    let pages = repository.paths.iter().filter(|path| path.starts_with("docs/") && path.contains('.'));
    let orphans = pages.filter(|path| !linked.contains(*path));
    orphans.map(|path| format!("no page links to {path}")).collect()
}

pub(super) fn links_lead_somewhere(repository: &Repository) -> Vec<String> {
    let mut findings = Vec::new();
    for (page, text) in repository.pages() {
        for target in targets(page, text) {
            if !target.is_empty() && !repository.paths.contains(&target) {
                findings.push(format!("{page} links to {target}, which does not exist"));
            }
        }
    }
    findings
}

/// The files that a page links to, by their path from the root; web addresses, places in the page
/// itself and links to items of Rust are left out.
fn targets(page: &str, text: &str) -> Vec<String> {
    let folder = page.rsplit_once('/').map_or("", |(folder, _)| folder);
    let links = text.split("](").skip(1).filter_map(|rest| rest.split([')', '#', ' ']).next());
    let files =
        links.filter(|link| link.contains(['/', '.']) && !link.contains("::") && !link.contains("://"));
    files.map(|link| join(folder, link)).collect()
}

fn join(folder: &str, link: &str) -> String {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in link.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::repository::tests::files;

    #[test]
    fn a_page_that_nothing_else_links_to_is_named() {
        let repository = files(&[
            ("README.md", "[guide](docs/guide.md#start)"),
            ("docs/guide.md", "[more](more.md)"),
            ("docs/more.md", "[up](../README.md)"),
            ("docs/lost.md", "[itself](lost.md)"),
        ]);
        assert_eq!(docs_are_linked(&repository), ["no page links to docs/lost.md"]);
    }

    #[test]
    fn a_link_to_a_missing_file_is_named_and_other_links_are_let_be() {
        let repository = files(&[(
            "crates/a/README.md",
            "[x](../../gone.md) [self](README.md) [web](https://a.b/c) [item](crate::Item) [type](Item) [here](#top)",
        )]);
        assert_eq!(
            links_lead_somewhere(&repository),
            ["crates/a/README.md links to gone.md, which does not exist"]
        );
    }
}
