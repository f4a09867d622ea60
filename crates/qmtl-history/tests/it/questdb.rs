//! The program on a QuestDB: the same answers as on a folder, by another `--store`.

use qmtl_history_testkit::told;
use serde_json::{Value, json};

use super::elsewhere::{SERIES, SOURCE, run, says_the_same_as_a_folder};
use super::{SPAN, Scene};

/// An empty store on the server of `cargo xtask integration`.
fn server(name: &str) -> Option<String> {
    let dsn = told("QMTL_TEST_QUESTDB_DSN", "`cargo xtask integration` starts a QuestDB")?;
    Some(format!("{dsn}&prefix=program_{}_{name}_", std::process::id()))
}

#[test]
fn every_command_says_the_same_as_on_a_folder() {
    let Some(server) = server("same") else { return };
    says_the_same_as_a_folder(&server, &Scene::new());
    let listed = run(&server, &["ls", "--json"]).object();
    assert_eq!((&listed["series"][0]["rows"], &listed["series"][0]["files"]), (&json!(5_720), &Value::Null));
    assert!(!listed.to_string().contains("quest@"), "a password was printed: {listed}");
}

#[test]
fn what_only_files_have_is_said() {
    let Some(server) = server("files") else { return };
    let filled = run(&server, &[&["backfill"], &SERIES[..], &["--source", SOURCE], &SPAN[..]].concat());
    assert_eq!(filled.code, Some(0), "{filled:?}");
    let files = run(&server, &[&["files"], &SERIES[..]].concat());
    assert_ne!(files.code, Some(0));
    assert!(files.stderr.contains("a store on a server has no files"), "{files:?}");
}
