//! What sources proved: which proofs count nowhere, how that is told and mended, and that no bar is
//! counted twice.

use std::process::Command;

use qmtl_history_api::arrow_array::RecordBatch;
use qmtl_history_api::{
    EmptyProof, HistoryBackend, RangeSet, SeriesKey, SourceId, TimeRange, Timestamp, WriteRequest, frame,
};
use qmtl_io_parquet::{ParquetBackend, ParquetConfig};
use serde_json::{Value, json};

use super::{Run, Scene};

/// 2024-01-01.
const START: i64 = 1_704_067_200;

pub(crate) fn key() -> SeriesKey {
    SeriesKey::new("it's", "1m".parse().unwrap()).unwrap()
}

/// The minutes number `first` to `end - 1` of 2024.
pub(crate) fn minutes(first: i64, end: i64) -> RangeSet {
    let at = |minute: i64| Timestamp::from_secs(START + minute * 60).unwrap();
    TimeRange::new(at(first), at(end)).unwrap().into()
}

pub(crate) fn proof(source: &str, ranges: RangeSet, answered_at: &str) -> EmptyProof {
    EmptyProof::new(SourceId::new(source).unwrap(), ranges, "no row", answered_at.parse().unwrap())
}

pub(crate) async fn prove(store: &dyn HistoryBackend, proofs: impl IntoIterator<Item = EmptyProof>) {
    let request = proofs.into_iter().fold(WriteRequest::new(key()), WriteRequest::with_empty);
    store.write_rows(&request, RecordBatch::new_empty(frame::ts_only_schema())).await.unwrap();
}

/// Three proofs: one that counts, one dated ahead of time, one by an older rule.
pub(crate) fn doubtful() -> [EmptyProof; 3] {
    [
        proof("coinbase", minutes(0, 10), "2024-06-01"),
        proof("binance", minutes(0, 10), "9000-01-01"),
        proof("binance", minutes(20, 25), "2024-06-01").with_rule(1),
    ]
}

fn scene_with(proofs: impl IntoIterator<Item = EmptyProof>) -> Scene {
    let scene = Scene::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = ParquetBackend::open(ParquetConfig::new(scene.store())).await.unwrap();
        prove(&store, proofs).await;
    });
    scene
}

/// The command that a message ends with, run by a shell. The store is named as in the message.
pub(crate) fn typed(message: &str, store: &str) -> Run {
    let (_, command) = message.split_once("remove it: ").unwrap();
    let program = env!("CARGO_BIN_EXE_qmtl-history");
    let command = command.replacen("qmtl-history", &format!("'{program}'"), 1);
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("{command} --json")]).env("QMTL_HISTORY_STORE", store);
    Run::of(shell.output().unwrap())
}

/// What `verify` says of doubtful proofs, and that the commands that it names mend them.
pub(crate) fn is_told_and_mended(run: impl Fn(&[&str]) -> Run, store: &str) {
    let told = run(&["verify", "--json"]);
    assert_eq!(told.code, Some(1), "{told:?}");
    let said = told.object();
    let (finding, note) = (&said[0]["findings"][0], &said[0]["notes"][0]);
    assert_eq!((&said[0]["found"], &said[0]["rows"]), (&json!(1), &json!(0)));
    assert_eq!((&finding["check"], &finding["ts"]), (&json!("proof_from_the_future"), &json!(START)));
    assert_eq!(note["check"], "proof_of_an_older_rule");
    let people = run(&["verify"]).stdout;
    assert!(people.contains("wrong   it's@1m  0 rows, 1 finding"), "{people}");
    assert!(
        people.contains("note  the proof by binance about 5 bars was made under an older rule"),
        "{people}"
    );
    assert!(!people.contains("quest@"), "{people}");

    let message = |told: &Value| told["message"].as_str().unwrap().to_owned();
    let mended = typed(&message(finding), store);
    assert_eq!((mended.code, &mended.object()["empty_bars"]), (Some(0), &json!(10)), "{mended:?}");
    let noted = run(&["verify", "--json"]);
    assert_eq!(noted.code, Some(0), "a note is no failure: {noted:?}");
    assert_eq!(noted.object()[0]["found"], 0);
    let people = run(&["verify"]).stdout;
    assert!(
        people.starts_with("ok      it's@1m  0 rows\n  note  the proof by binance about 5 bars"),
        "{people}"
    );
    let mended = typed(&message(note), store);
    assert_eq!((mended.code, &mended.object()["empty_bars"]), (Some(0), &json!(5)), "{mended:?}");
    assert_eq!(run(&["verify", "--json"]).object()[0]["notes"], json!([]));
    // What counts was not touched.
    let left = run(&["coverage", "--json"]).object();
    assert_eq!(left[0]["known_empty"], json!([[START, START + 9 * 60]]));
}

#[test]
fn a_proof_that_counts_nowhere_is_told_with_a_command_that_mends_it() {
    let scene = scene_with(doubtful());
    is_told_and_mended(|words| scene.run(words), "");
}

#[test]
fn coverage_says_which_proofs_count_and_until_when() {
    // Asked again twice, each time when the answer before had expired.
    let at = |minute: i64| Timestamp::from_secs(START + minute * 60).unwrap().to_string();
    let again = [60, 120, 240].map(|minute| proof("kraken", minutes(30, 40), &at(minute)));
    let scene = scene_with(doubtful().into_iter().chain(again));
    let said = scene.json(&["coverage", "--node", "it's", "--interval", "1m"]);
    let counts = |source: &str, rule: u32| {
        let proofs = said["proofs"].as_array().unwrap().iter();
        let mut proofs = proofs.filter(|proof| proof["source"] == source && proof["rule"] == rule);
        let proof = proofs.next().unwrap();
        (proof["believed"].as_bool().unwrap(), proof["confirmed"].clone(), proof["expires_at"].clone())
    };
    assert_eq!(counts("coinbase", 2), (true, json!(0), Value::Null));
    assert_eq!(counts("binance", 2), (false, json!(0), Value::Null));
    assert_eq!(counts("binance", 1), (false, json!(0), Value::Null));
    assert_eq!(counts("kraken", 2), (false, json!(2), json!(START + 240 * 60 + 4 * 3_600)));
    assert_eq!(said["known_empty"], json!([[START, START + 9 * 60]]));

    let people = scene.run(&["coverage"]).stdout;
    for line in [
        "binance: 10 bars in 1 range, answered 9000-01-01, ignored: dated in the future\n",
        "binance: 5 bars in 1 range, answered 2024-06-01, ignored: made under an older rule\n",
        "coinbase: 10 bars in 1 range, answered 2024-06-01\n",
        "kraken: 10 bars in 1 range, answered 2024-01-01, expired\n",
    ] {
        assert!(people.contains(line), "{line}: {people}");
    }
}

/// The bars of inclusive pairs.
fn count(pairs: &Value, interval: i64) -> i64 {
    let pairs = pairs.as_array().unwrap().iter();
    pairs.map(|pair| (pair[1].as_i64().unwrap() - pair[0].as_i64().unwrap()) / interval + 1).sum()
}

/// Each file proves what lies between its own rows, which the others do not know of.
#[test]
fn files_that_are_filled_from_one_after_the_other_count_no_bar_twice() {
    let scene = Scene::new();
    let fill = |source: &str| {
        let words = ["backfill", "--node", "x", "--interval", "1h", "--timerange", "20240101-20240104"];
        let run = scene.run(&[&words[..], &["--source", source, "--json"]].concat());
        assert_eq!(run.code, Some(3), "what another file would have to say stays missing: {run:?}");
        run.object()
    };
    for day in 0..3_i64 {
        // Each day lacks an hour of its own in the middle, and the first one of the others.
        let hours = (0..24).filter(|hour| *hour != 10 + day && (*hour > 0 || day == 0));
        let rows = hours.map(|hour| format!("{},1\n", START + (day * 24 + hour) * 3_600));
        let source = scene.file(&format!("{day}.csv"), &format!("ts,close\n{}", rows.collect::<String>()));
        let said = fill(&source);
        let counted = ["present", "known_empty", "missing"].map(|state| count(&said[state], 3_600));
        assert_eq!(counted.iter().sum::<i64>(), 72, "day {day}: {counted:?}");
        // The hour that this file proves is known; those that only the files before it proved are missing.
        assert_eq!(counted[1], 1, "day {day}: {counted:?}");

        let range = ["coverage", "--node", "x", "--interval", "1h", "--timerange", "20240101-20240104"];
        let known = scene.json(&range);
        let counted = ["present", "known_empty", "missing"].map(|state| count(&known[state], 3_600));
        assert_eq!(counted.iter().sum::<i64>(), 72, "day {day}: {counted:?}");
        assert_eq!(counted[1], day + 1, "what any file proved: {counted:?}");
    }
}
