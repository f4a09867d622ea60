//! The program on a QuestDB: the same answers as on a folder, by another `--store`.

use serde_json::{Value, json};

use super::{Run, SPAN, Scene, program};

const SOURCE: &str = concat!("file:", env!("CARGO_MANIFEST_DIR"), "/../../examples/data/ADABTC-5m.csv");
const SERIES: [&str; 4] = ["--node", "ADABTC", "--interval", "5m"];

/// An empty store on the server of `cargo xtask integration`; `None`, said aloud, without one.
#[expect(clippy::print_stdout, reason = "a skipped test must say so")]
fn server(name: &str) -> Option<String> {
    match std::env::var("QMTL_TEST_QUESTDB_DSN") {
        Ok(dsn) => Some(format!("{dsn}&prefix=program_{}_{name}_", std::process::id())),
        Err(_) if std::env::var("QMTL_REQUIRE_BACKENDS").is_ok_and(|value| value == "1") => {
            panic!("QMTL_REQUIRE_BACKENDS=1, but QMTL_TEST_QUESTDB_DSN names no server")
        }
        Err(_) => {
            println!("skipped, no QuestDB is configured: `cargo xtask integration` starts one");
            None
        }
    }
}

fn run(store: &str, words: &[&str]) -> Run {
    Run::of(program().args(words).args(["--store", store]).output().unwrap())
}

/// What a command prints as JSON, without what differs from run to run and from store to store.
fn said(store: &str, command: &str, more: &[&str]) -> Value {
    let run = run(store, &[&[command], &SERIES[..], more, &["--json"]].concat());
    assert_eq!(run.code, Some(0), "{run:?}");
    let mut value = run.object();
    let object = value.as_object_mut().unwrap();
    object.remove("elapsed_ms");
    for proof in object.get_mut("proofs").and_then(Value::as_array_mut).into_iter().flatten() {
        proof.as_object_mut().unwrap().remove("answered_at");
    }
    value
}

#[test]
fn every_command_says_the_same_as_on_a_folder() {
    let Some(server) = server("same") else { return };
    let scene = Scene::new();
    let filling = [&["--source", SOURCE], &SPAN[..]].concat();
    let both = |command: &str, more: &[&str]| {
        let (there, here) = (said(&server, command, more), said(&scene.store(), command, more));
        assert_eq!(there, here, "{command}");
        there
    };
    both("plan", &filling);
    assert_eq!(both("backfill", &filling)["rows_written"], 5_720);
    let again = both("backfill", &filling);
    assert_eq!((&again["rows_written"], &again["fetch_requests"]), (&json!(0), &json!(0)));
    both("coverage", &SPAN);
    both("verify", &[]);
    let bars = |store: &str| {
        run(store, &[&["export"], &SERIES[..], &["--format", "csv", "--out", "-"]].concat()).stdout
    };
    assert_eq!(bars(&server), bars(&scene.store()));
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
