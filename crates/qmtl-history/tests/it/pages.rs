//! Pages whose commands are run: their files are written, and what the program prints is what they show.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use super::{Run, Scene};

/// Set, the test writes what is printed into the page instead of comparing it.
const UPDATE: &str = "QMTL_UPDATE_DOCS";

/// A line of a console, run where the files of the page are.
fn run(scene: &Scene, command: &str) -> Run {
    let program = Path::new(env!("CARGO_BIN_EXE_qmtl-history"));
    let path = std::env::join_paths([program.parent().unwrap(), Path::new("/usr/bin"), Path::new("/bin")]);
    let mut shell = Command::new("sh");
    shell.args(["-c", command]).current_dir(scene.path("")).env("PATH", path.unwrap());
    for name in ["QMTL_HISTORY_STORE", "RUST_LOG", "NO_COLOR"] {
        shell.env_remove(name);
    }
    Run::of(shell.output().unwrap())
}

/// What a page shows of a run: its stdout, or else why it failed, without what is different every time and empty
/// lines, and with one line for all columns but the first.
fn shown(run: &Run) -> String {
    const OTHER_COLUMN: &str = "           ";
    let all = if run.stdout.is_empty() { &run.stderr } else { &run.stdout };
    let mut text = String::new();
    for line in all.lines().filter(|line| !line.is_empty()) {
        let line = match line.split_once(" in ") {
            Some((stored, _)) if line.starts_with("  stored") => format!("{stored} ..."),
            _ if line.starts_with(OTHER_COLUMN) => format!("{OTHER_COLUMN}..."),
            _ => line.trim_end().to_owned(),
        };
        if !(line.starts_with(OTHER_COLUMN) && text.ends_with(&format!("{line}\n"))) {
            writeln!(text, "{line}").unwrap();
        }
    }
    text
}

/// The page with the output of every command as it is. A command that `inspect` names is run too.
fn as_run(page: &str) -> String {
    let scene = Scene::new();
    let mut text = String::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        writeln!(text, "{line}").unwrap();
        let Some(info) = line.strip_prefix("```").filter(|info| !info.is_empty()) else { continue };
        let block: Vec<_> = lines.by_ref().take_while(|line| *line != "```").collect();
        let whole = block.iter().fold(String::new(), |all, line| all + line + "\n");
        if let Some(name) = info.strip_prefix("csv ") {
            scene.file(name, &whole);
        }
        if info == "console" {
            for command in block.iter().filter_map(|line| line.strip_prefix("$ ")) {
                let told = run(&scene, command);
                write!(text, "$ {command}\n{}", shown(&told)).unwrap();
                let named = told.stdout.split_once("This stores them:\n").map(|(_, named)| named.trim());
                if let Some(named) = named.filter(|named| !whole.contains(&format!("$ {named}\n"))) {
                    let stored = run(&scene, named);
                    assert_eq!(stored.code, Some(0), "{named} {stored:?}");
                }
            }
        } else {
            text += &whole;
        }
        text += "```\n";
    }
    text
}

#[test]
#[cfg(unix)]
fn the_first_file_is_stored_as_its_page_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/first-file.md");
    let page = super::read(&path);
    let text = as_run(&page);
    if std::env::var_os(UPDATE).is_some() {
        std::fs::write(&path, text).unwrap();
    } else {
        assert!(page == text, "docs/first-file.md is stale; run this test with {UPDATE}=1\n{text}");
    }
}
