//! The program on a store that is no folder: the same answers by another `--store`.

use serde_json::{Value, json};

use super::{Run, SPAN, Scene, program};

pub(crate) const SOURCE: &str =
    concat!("file:", env!("CARGO_MANIFEST_DIR"), "/../../examples/data/ADABTC-5m.csv");
pub(crate) const SERIES: [&str; 4] = ["--node", "ADABTC", "--interval", "5m"];

pub(crate) fn run(store: &str, words: &[&str]) -> Run {
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

/// Fills the store `server` and the scene's folder alike, and compares what each command says.
pub(crate) fn says_the_same_as_a_folder(server: &str, scene: &Scene) {
    let filling = [&["--source", SOURCE], &SPAN[..]].concat();
    let both = |command: &str, more: &[&str]| {
        let (there, here) = (said(server, command, more), said(&scene.store(), command, more));
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
    assert_eq!(bars(server), bars(&scene.store()));
}
