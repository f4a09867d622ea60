//! `backfill --compare`: what differs is found and told, and nothing is written.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{Run, Scene, minutes};

/// 2024-01-01.
const START: i64 = 1_704_067_200;
const WHAT: [&str; 8] = ["--node", "X", "--interval", "1m", "--start", "1704067200", "--end", "1704068400"];

/// Twenty stored minutes.
fn scene() -> Scene {
    let scene = Scene::new();
    let source = scene.file("old.csv", &minutes(20));
    assert_eq!(scene.json(&[&["backfill", "--source", &source], &WHAT[..]].concat())["rows_written"], 20);
    scene
}

/// Every file of a store with its content.
fn content(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(content(&path));
        } else {
            let bytes = std::fs::read(&path).unwrap();
            found.insert(path, bytes);
        }
    }
    found
}

/// Compares the store with a file; the store must stay as it is.
fn compare(scene: &Scene, text: &str, more: &[&str]) -> Run {
    let source = scene.file("new.csv", text);
    let before = content(&scene.path("store"));
    let run = scene.run(&[&["backfill", "--compare", "--source", &source], &WHAT[..], more].concat());
    assert!(content(&scene.path("store")) == before, "something was written: {run:?}");
    run
}

fn told(scene: &Scene, text: &str) -> (Option<i32>, Value) {
    let run = compare(scene, text, &["--json"]);
    (run.code, run.object())
}

/// The lines of a file, each by the minute of its row.
fn changed(change: impl Fn(i64, &str) -> Option<String>) -> String {
    let text = minutes(20);
    let mut lines = text.lines();
    let header = lines.next().unwrap().to_owned();
    let rows = (0..).zip(lines).filter_map(|(minute, line)| change(minute, line));
    rows.fold(header + "\n", |all, line| all + &line + "\n")
}

#[test]
fn a_source_that_has_what_is_stored_ends_well() {
    let scene = scene();
    let (code, said) = told(&scene, &minutes(20));
    assert_eq!(code, Some(0), "{said}");
    assert_eq!((&said["compared"], &said["differ"]), (&json!(20), &json!(0)));
    for list in ["differences", "not_stored", "not_in_source", "not_told", "failed"] {
        assert_eq!(said[list], json!([]), "{list}");
    }
    let people = compare(&scene, &minutes(20), &[]);
    assert_eq!(people.code, Some(0));
    assert!(people.stdout.contains("  compared       20 bars"), "{people:?}");
    assert!(people.stdout.contains("  differ         0 bars\n"), "{people:?}");
}

#[test]
fn what_differs_is_told_bar_by_bar() {
    let scene = scene();
    let text = changed(|minute, line| match minute {
        4 => Some(line.replace(",4", ",4.5")),
        9 => None,
        _ => Some(line.to_owned()),
    });
    let (code, said) = told(&scene, &text);
    assert_eq!((code, &said["compared"], &said["differ"]), (Some(1), &json!(19), &json!(1)), "{said}");
    let [one] = said["differences"].as_array().unwrap().as_slice() else { panic!("{said}") };
    assert_eq!((&one["ts"], &one["column"]), (&json!(START + 240), &json!("volume")), "{said}");
    assert_eq!((&one["kept"], &one["other"]), (&json!("4.0"), &json!("4.5")), "{said}");
    // Inside of what a file has, it proves that the bars it lacks do not exist.
    assert_eq!(said["not_in_source"], json!([[START + 540, START + 540]]), "{said}");
    assert_eq!((&said["not_stored"], &said["not_told"]), (&json!([]), &json!([])));
    let people = compare(&scene, &text, &[]).stdout;
    assert!(people.contains("volume: 4.0 is stored, the source has 4.5"), "{people}");
    assert!(people.contains("  not in source  1 bar"), "{people}");
    // Behind the last row of the file nothing is told.
    let short = changed(|minute, line| (minute < 15).then(|| line.to_owned()));
    let (code, said) = told(&scene, &short);
    assert_eq!((code, &said["not_told"]), (Some(0), &json!([[START + 900, START + 1_140]])), "{said}");
}

#[test]
fn a_bar_that_the_store_lacks_is_told_and_not_stored() {
    let scene = Scene::new();
    let old = changed(|minute, line| (minute != 7).then(|| line.to_owned()));
    let source = scene.file("old.csv", &old);
    scene.json(&[&["backfill", "--source", &source], &WHAT[..]].concat());
    let (code, said) = told(&scene, &minutes(20));
    assert_eq!((code, &said["compared"], &said["differ"]), (Some(1), &json!(19), &json!(0)), "{said}");
    assert_eq!(said["not_stored"], json!([[START + 420, START + 420]]), "{said}");
    assert_eq!(scene.json(&["coverage"])[0]["rows"], 19);
    // A store that has nothing of the series lacks all of it.
    let empty = Scene::new();
    let source = empty.file("new.csv", &minutes(20));
    let run = empty.run(&[&["backfill", "--compare", "--json", "--source", &source], &WHAT[..]].concat());
    assert_eq!(run.code, Some(1), "{run:?}");
    assert_eq!(run.object()["not_stored"], json!([[START, START + 1_140]]));
    assert!(!empty.path("store").exists());
}

#[test]
fn several_series_are_compared_in_one_run() {
    let scene = Scene::new();
    let list = |folder: &str| {
        let series = ["a", "b", "c"]
            .map(|name| format!("[[series]]\nnode = \"{name}\"\nsource = \"file:{folder}-{name}.csv\"\n"));
        format!("interval = \"1m\"\n{}", series.concat())
    };
    for name in ["a", "b", "c"] {
        scene.file(&format!("old-{name}.csv"), &minutes(20));
        scene.file(&format!("new-{name}.csv"), &minutes(20));
    }
    scene.file("old.toml", &list("old"));
    scene.file("new.toml", &list("new"));
    scene.json(&["backfill", "--nodes", "old.toml"]);
    scene.file(
        "new-b.csv",
        &changed(|minute, line| Some(if minute == 0 { line.replace(",0", ",9") } else { line.to_owned() })),
    );
    let run = scene.run(&["backfill", "--compare", "--nodes", "new.toml", "--json"]);
    assert_eq!(run.code, Some(1), "{run:?}");
    let said = run.object();
    let differ: Vec<_> =
        said.as_array().unwrap().iter().map(|one| (&one["node_id"], &one["differ"])).collect();
    assert_eq!(
        differ,
        [(&json!("a"), &json!(0)), (&json!("b"), &json!(1)), (&json!("c"), &json!(0))],
        "{said}"
    );
    // A series whose source fails is told as such, whatever the others are.
    scene.file("new-c.csv", "ts,close\n1704067200,1\n1704067500,2\n1704067800,3\n1704068100,4\n");
    let range = &WHAT[4..];
    let run = scene.run(&[&["backfill", "--compare", "--nodes", "new.toml", "--json"], range].concat());
    assert_eq!(run.code, Some(3), "{run:?}");
    assert_eq!(run.object()[2]["failed"].as_array().unwrap().len(), 1);
}

#[test]
fn comparing_is_neither_replacing_nor_following() {
    let scene = scene();
    for other in [&["--replace", "--reason", "x"][..], &["--follow"], &["--dry-run"]] {
        assert_eq!(compare(&scene, &minutes(20), other).code, Some(2), "{other:?}");
    }
}
