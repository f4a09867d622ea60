//! What cargo and the file system say of the repository, read once.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::process::{cargo, output, root};

/// Everything that the rules look at.
#[derive(Debug, Default)]
pub(super) struct Repository {
    pub(super) graph: Graph,
    /// `name vversion` of all that the protocol crate compiles, itself included.
    pub(super) protocol_tree: BTreeSet<String>,
    /// The text of `.rs` and `.md` files by their path from the root.
    pub(super) texts: BTreeMap<String, String>,
    /// Every file and folder by its path from the root.
    pub(super) paths: BTreeSet<String>,
}

impl Repository {
    pub(super) fn read() -> Result<Self> {
        let mut repository = Self { graph: Graph::read()?, ..Self::default() };
        repository.protocol_tree =
            tree_lines(&output(&mut cargo(["tree", "-p", PROTOCOL, "--prefix", "none", "-e", "normal"]))?);
        let root = root();
        repository.walk(&root, &root)?;
        Ok(repository)
    }

    /// Reads a folder, hidden ones and build output apart.
    fn walk(&mut self, root: &Path, folder: &Path) -> Result<()> {
        for entry in fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
            let path = entry?.path();
            let name = path.strip_prefix(root)?.to_string_lossy().replace('\\', "/");
            let last = name.rsplit('/').next().unwrap_or(&name);
            if last.starts_with('.') || last == "target" {
                continue;
            }
            if path.is_dir() {
                self.walk(root, &path)?;
            } else if last.ends_with(".rs") || last.ends_with(".md") {
                let text = fs::read_to_string(&path).with_context(|| format!("read {name}"))?;
                self.texts.insert(name.clone(), text);
            }
            self.paths.insert(name);
        }
        Ok(())
    }

    /// The `.rs` files.
    pub(super) fn sources(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files(".rs")
    }

    /// The `.md` files.
    pub(super) fn pages(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files(".md")
    }

    fn files(&self, end: &'static str) -> impl Iterator<Item = (&str, &str)> {
        let texts = self.texts.iter().map(|(path, text)| (path.as_str(), text.as_str()));
        texts.filter(move |(path, _)| path.ends_with(end))
    }
}

/// The protocol crate, about which there are rules of its own.
pub(super) const PROTOCOL: &str = "qmtl-history-api";

fn tree_lines(text: &str) -> BTreeSet<String> {
    // cargo adds ` (*)` to what it has printed already, ` (proc-macro)` and our own crates' paths.
    let lines = text.lines().map(|line| line.split(" (").next().unwrap_or(line));
    lines.filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

/// The packages that the lock file names, all features on.
#[derive(Debug, Default)]
pub(super) struct Graph {
    /// By cargo's package id.
    pub(super) packages: BTreeMap<String, Package>,
}

#[derive(Debug, Default)]
pub(super) struct Package {
    pub(super) name: String,
    pub(super) version: String,
    /// The folder's name, for crates of this workspace; `None` for all others.
    pub(super) folder: Option<String>,
    pub(super) dependencies: Vec<Dependency>,
}

#[derive(Debug)]
pub(super) struct Dependency {
    pub(super) id: String,
    /// True when it is used by tests alone.
    pub(super) dev: bool,
}

impl Graph {
    fn read() -> Result<Self> {
        let text = output(&mut cargo(["metadata", "--format-version", "1", "--all-features"]))?;
        Self::parse(&serde_json::from_str(&text)?).context("cargo metadata has another form than expected")
    }

    fn parse(metadata: &Value) -> Option<Self> {
        let members: BTreeSet<&str> =
            metadata["workspace_members"].as_array()?.iter().map_while(Value::as_str).collect();
        let mut packages = BTreeMap::new();
        for package in metadata["packages"].as_array()? {
            let id = package["id"].as_str()?;
            let folder =
                Path::new(package["manifest_path"].as_str()?).parent()?.file_name()?.to_string_lossy();
            let package = Package {
                name: package["name"].as_str()?.to_owned(),
                version: package["version"].as_str()?.to_owned(),
                folder: members.contains(id).then(|| folder.into_owned()),
                dependencies: Vec::new(),
            };
            packages.insert(id.to_owned(), package);
        }
        for node in metadata["resolve"]["nodes"].as_array()? {
            let package: &mut Package = packages.get_mut(node["id"].as_str()?)?;
            for dependency in node["deps"].as_array()? {
                let kinds = dependency["dep_kinds"].as_array()?;
                package.dependencies.push(Dependency {
                    id: dependency["pkg"].as_str()?.to_owned(),
                    dev: kinds.iter().all(|kind| kind["kind"] == "dev"),
                });
            }
        }
        Some(Self { packages })
    }

    /// The crates of this workspace.
    pub(super) fn members(&self) -> impl Iterator<Item = &Package> {
        self.packages.values().filter(|package| package.folder.is_some())
    }

    /// What a package depends on directly, tests apart.
    pub(super) fn direct<'a>(&'a self, package: &'a Package) -> impl Iterator<Item = &'a Package> {
        let normal = package.dependencies.iter().filter(|dependency| !dependency.dev);
        normal.filter_map(|dependency| self.packages.get(&dependency.id))
    }

    /// The names of all that a package compiles, tests apart, itself not included.
    pub(super) fn below<'a>(&'a self, package: &'a Package) -> BTreeSet<&'a str> {
        let mut names = BTreeSet::new();
        let mut open = vec![package];
        while let Some(package) = open.pop() {
            open.extend(self.direct(package).filter(|below| names.insert(below.name.as_str())));
        }
        names
    }
}

/// The names of the crates of this workspace, sorted.
pub(crate) fn members() -> Result<Vec<String>> {
    let mut names: Vec<_> = Graph::read()?.members().map(|package| package.name.clone()).collect();
    names.sort();
    Ok(names)
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;

    /// A graph of crates of this workspace and others: `name: normal dependencies / dev ones`.
    /// Names that start with `qmtl-` or are called xtask are of this workspace.
    pub(in crate::tidy) fn graph(lines: &[&str]) -> Graph {
        let mut graph = Graph::default();
        let ours = |name: &str| (name.starts_with("qmtl-") || name == "xtask").then(|| name.to_owned());
        let mut add = |id: &str| {
            let (name, version) = id.split_once('@').unwrap_or((id, "1.0.0"));
            let package = graph.packages.entry(id.to_owned()).or_default();
            (package.name, package.version) = (name.to_owned(), version.to_owned());
            package.folder = ours(name);
        };
        let mut edges = Vec::new();
        for line in lines {
            let (from, to) = line.split_once(':').unwrap();
            let (normal, dev) = to.split_once('/').unwrap_or((to, ""));
            add(from);
            for (names, dev) in [(normal, false), (dev, true)] {
                for to in names.split_whitespace() {
                    add(to);
                    edges.push((from, to, dev));
                }
            }
        }
        for (from, to, dev) in edges {
            let dependency = Dependency { id: to.to_owned(), dev };
            graph.packages.get_mut(from).unwrap().dependencies.push(dependency);
        }
        graph
    }

    /// A repository of these files alone.
    pub(in crate::tidy) fn files(files: &[(&str, &str)]) -> Repository {
        let texts: BTreeMap<_, _> =
            files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect();
        let paths = texts.keys().cloned().collect();
        Repository { texts, paths, ..Repository::default() }
    }

    #[test]
    fn metadata_is_read_with_kinds_and_members() {
        let graph = Graph::parse(&json!({
            "workspace_members": ["a#1"],
            "packages": [
                {"id": "a#1", "name": "a", "version": "0.1.0", "manifest_path": "/x/crates/folder/Cargo.toml"},
                {"id": "b#1", "name": "b", "version": "2.0.0", "manifest_path": "/r/b-2.0.0/Cargo.toml"},
                {"id": "c#1", "name": "c", "version": "3.0.0", "manifest_path": "/r/c-3.0.0/Cargo.toml"},
            ],
            "resolve": {"nodes": [
                {"id": "a#1", "deps": [
                    {"pkg": "b#1", "dep_kinds": [{"kind": null}, {"kind": "dev"}]},
                    {"pkg": "c#1", "dep_kinds": [{"kind": "dev"}]},
                ]},
                {"id": "b#1", "deps": []},
                {"id": "c#1", "deps": []},
            ]},
        }))
        .unwrap();
        let members: Vec<_> = graph.members().collect();
        assert_eq!(members.len(), 1);
        assert_eq!(members[0].folder.as_deref(), Some("folder"));
        assert_eq!(graph.below(members[0]), BTreeSet::from(["b"]));
    }

    #[test]
    fn a_tree_is_read_without_repetitions_and_remarks() {
        let text = "a v0.1.0 (/x/a)\nb v1.2.3\nc v1.0.0 (proc-macro)\nb v1.2.3 (*)\n";
        assert_eq!(tree_lines(text).into_iter().collect::<Vec<_>>(), ["a v0.1.0", "b v1.2.3", "c v1.0.0"]);
    }
}
