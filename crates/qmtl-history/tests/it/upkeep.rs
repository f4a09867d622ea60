//! Replacing, pruning, forgetting, collecting; two programs on one series; a copy as a backup.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{CANDLES, Run, SPAN, Scene, bars, minutes, read};

const SERIES: [&str; 4] = ["--node", "x", "--interval", "1m"];
const RANGE: [&str; 4] = ["--start", "1704067200", "--end", "1704247200"];

fn words<'a>(command: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&[command], &SERIES[..], more].concat()
}

/// A store with 3,000 bars from one file.
fn filled() -> (Scene, String) {
    let scene = Scene::new();
    let source = scene.file("x.csv", &minutes(3_000));
    let done = scene.json(&words("backfill", &[&["--source", &source], &RANGE[..]].concat()));
    assert_eq!(done["rows_written"], 3_000);
    (scene, source)
}

fn export(scene: &Scene) -> String {
    scene.run(&words("export", &["--ts-format", "s"])).stdout
}

#[test]
fn stored_bars_are_replaced_only_by_name_and_with_a_reason() {
    let (scene, _) = filled();
    // The same bars with other closes, ten of them missing; five new ones behind.
    let corrected = minutes(3_005).replace(",0\n", ",7\n");
    let mut lines: Vec<_> = corrected.lines().collect();
    lines.drain(101..111);
    let source = scene.file("y.csv", &(lines.join("\n") + "\n"));
    let range = ["--start", "1704067200", "--end", "1704247500"];
    let fill = words("backfill", &[&["--source", &source], &range[..]].concat());
    let with = |more: &[&'static str]| [&fill[..], more].concat();

    scene.run(&with(&["--replace"])).fails_with(2, "--reason <TEXT>");
    scene.run(&with(&["--reason", "why not"])).fails_with(2, "--replace");
    scene
        .run(&with(&["--replace", "--reason", ""]))
        .fails_with(2, "a value is required for '--reason <TEXT>'");
    let before = export(&scene);
    let planned = scene.json(&with(&["--dry-run", "--replace", "--reason", "revised"]));
    assert_eq!(planned["estimated_rows"], 3_005);
    let planned = scene.run(&with(&["--dry-run", "--replace", "--reason", "revised"]));
    assert!(planned.stdout.contains("  again     3,005 bars"), "{planned:?}");
    assert_eq!(scene.json(&with(&["--dry-run"]))["estimated_rows"], 5);
    assert_eq!(export(&scene), before, "a dry run writes nothing");

    let log = scene.run(&with(&["--replace", "--reason", "revised by the exchange", "--json", "-v"]));
    assert!(
        log.stderr.contains("stored rows are replaced") && log.stderr.contains("revised by the exchange")
    );
    assert!(log.stderr.contains("x@1m: 3,005 bars to ask for again in 1 window"), "{log:?}");
    let done = log.object();
    assert_eq!((&done["rows_written"], &done["rows_replaced"]), (&json!(2_995), &json!(2_990)), "{done}");
    assert_eq!(done["reason"], "revised by the exchange");
    assert_eq!(done["missing"], json!([]));
    let expected = {
        let mut expected = bars(&corrected, 1);
        expected.splice(100..110, bars(&before, 1).drain(100..110));
        expected
    };
    assert_eq!(bars(&export(&scene), 1), expected, "what the source has wins, what it lacks stays");
    assert_eq!(scene.json(&words("verify", &[]))["found"], 0);
    let again = scene.json(&with(&["--replace", "--reason", "once more"]));
    assert_eq!(again["rows_replaced"], 2_995);
    assert_eq!(bars(&export(&scene), 1), expected);
}

#[test]
fn pruning_and_forgetting_say_first_what_they_would_do() {
    let scene = Scene::new();
    let source = format!("file:{CANDLES}");
    let series = ["--node", "ADABTC", "--interval", "5m"];
    let with = |command: &'static str, more: &[&str]| {
        let words: Vec<String> =
            [&[command], &series[..], more].concat().iter().map(|word| (*word).to_owned()).collect();
        words
    };
    let run = |words: &[String]| {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        scene.json(&words)
    };
    let fill = with("backfill", &[&["--source", &source], &SPAN[..]].concat());
    assert_eq!(run(&fill)["rows_written"], 5_720);

    scene.run(&["prune", "--before", "20180115"]).fails_with(2, "no series is named");
    scene.run(&["forget-empty"]).fails_with(2, "no series is named");
    let told = run(&with("forget-empty", &["--dry-run"]));
    assert_eq!((&told["rows"], &told["empty_bars"], &told["dry_run"]), (&json!(0), &json!(40), &json!(true)));
    let told = scene.run(&["forget-empty", "--all", "--dry-run"]).stdout;
    assert_eq!(told, "ADABTC@5m  would remove proofs that 40 bars are empty\n");
    let told = scene.run(&["forget-empty", "--all", "--dry-run", "--last", "1d"]).stdout;
    assert_eq!(told, "ADABTC@5m  would remove nothing\n");
    let wrong = scene.run(&["forget-empty", "--node", "ADABTC", "--interval", "5m", "--from", "binance"]);
    wrong.fails_with(1, "use --from with one that has (from: binance, sources: file:ADABTC-5m.csv)");
    assert_eq!(run(&fill)["fetch_requests"], 0, "nothing was forgotten yet");
    assert_eq!(run(&with("forget-empty", &["--from", "file:ADABTC-5m.csv"]))["empty_bars"], 40);
    let again = run(&fill);
    assert_eq!((&again["rows_written"], again["fetch_requests"].as_u64() > Some(0)), (&json!(0), true));
    assert_eq!(run(&with("forget-empty", &["--dry-run"]))["empty_bars"], 40, "the proofs are back");

    let told = run(&with("prune", &["--before", "20180115", "--dry-run"]));
    let rows = told["rows"].as_u64().unwrap();
    assert!(rows > 1_000 && told["partitions"] == 1, "{told}");
    let before = run(&with("coverage", &[]))["rows"].as_u64().unwrap();
    assert_eq!(run(&with("prune", &["--before", "20180115"]))["rows"], rows);
    let coverage = run(&with("coverage", &[]));
    assert_eq!(coverage["rows"], before - rows);
    assert_eq!(coverage["present"][0][0], 1_515_974_400, "the first bar of January 15th");
    let all = scene.json(&["prune", "--all", "--before", "20190101"]);
    assert_eq!(all[0]["rows"], before - rows);
    assert_eq!(run(&with("coverage", &[]))["rows"], 0);
}

/// The commits of rows below a folder.
fn commits(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(commits(&path));
        } else if path.extension().is_some_and(|ext| ext == "parquet") {
            found.push(path.display().to_string());
        }
    }
    found.retain(|path| !path.contains("_schema"));
    found.sort();
    found
}

/// Fills more of the same series, a few bars at a time, so that the store has deltas and old versions.
fn grow(scene: &Scene, source: &str, ends: std::ops::Range<i64>) {
    for end in ends.step_by(7) {
        let end = (1_704_067_200 + end * 60).to_string();
        let range = ["--start", "1704067200", "--end", &end];
        let run = scene.run(&words("backfill", &[&["--source", source], &range[..], &["--quiet"]].concat()));
        assert_eq!(run.code, Some(0), "{run:?}");
    }
}

#[test]
fn collection_keeps_what_counts() {
    let (scene, _) = filled();
    let source = scene.file("more.csv", &minutes(3_100));
    grow(&scene, &source, 3_007..3_060);
    let listed = scene.json(&words("files", &[]));
    let rows: Vec<_> = listed["files"].as_array().unwrap().iter().map(|file| file["rows"].clone()).collect();
    assert_eq!(rows, [3_000, 56], "most rows in one file, the new ones in another");
    assert_eq!(commits(&scene.path("store")).len(), 9, "the full one and eight deltas");
    let before = export(&scene);
    assert_eq!(scene.json(&["gc"])[0]["files"], 0, "all are younger than an hour");
    assert_eq!(scene.json(&words("gc", &["--grace", "1s", "--dry-run"]))["dry_run"], true);
    // Only the newest delta and the full file are as old as nobody needs the others.
    for path in commits(&scene.path("store")) {
        let past = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000);
        fs::File::options().append(true).open(path).unwrap().set_modified(past).unwrap();
    }
    assert_eq!(scene.json(&words("gc", &["--dry-run"]))["files"], 7);
    assert_eq!(commits(&scene.path("store")).len(), 9, "a dry run removes nothing");
    let done = scene.json(&words("gc", &[]));
    assert!(done["files"] == 7 && done["bytes"].as_u64() > Some(7_000), "{done}");
    assert_eq!(commits(&scene.path("store")).len(), 2);
    assert_eq!((export(&scene), scene.json(&words("verify", &[]))["found"].clone()), (before, json!(0)));
}

#[test]
fn two_programs_that_start_together_store_each_bar_once() {
    let source = Scene::new();
    let text = minutes(3_000);
    let file = source.file("x.csv", &text);
    for round in 0..20 {
        let scene = Scene::new();
        let fill = words(
            "backfill",
            &[&["--source", &file], &RANGE[..], &["--json", "--window-bars", "500"]].concat(),
        );
        let mut runs: Vec<_> = (0..2)
            .map(|_| {
                let mut command = scene.command(&fill);
                command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
                command.spawn().unwrap()
            })
            .collect();
        let runs: Vec<_> = runs.drain(..).map(|child| Run::of(child.wait_with_output().unwrap())).collect();
        let mut written = 0;
        for run in &runs {
            assert_eq!(run.code, Some(0), "round {round}: {run:?}");
            let report = run.object();
            written += report["rows_written"].as_u64().unwrap();
            assert_eq!(report["missing"], json!([]), "round {round}");
        }
        assert_eq!(written, 3_000, "round {round}: each bar is counted by the one that stored it");
        let coverage = scene.json(&words("coverage", &[]));
        assert_eq!(coverage["present"], json!([[1_704_067_200, 1_704_247_140]]), "round {round}");
        assert_eq!(bars(&export(&scene), 1), bars(&text, 1), "round {round}");
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else if !path.file_name().unwrap().to_str().unwrap().starts_with(".tmp-") {
            fs::copy(&path, &target).unwrap();
        }
    }
}

#[test]
fn a_copy_of_a_live_store_is_a_backup() {
    let (scene, _) = filled();
    let source = scene.file("more.csv", &minutes(4_000));
    let end = (1_704_067_200 + 4_000 * 60).to_string();
    let fill = words(
        "backfill",
        &["--source", &source, "--start", "1704067200", "--end", &end, "--window-bars", "10", "--quiet"],
    );
    // Copies while a program writes, over what an earlier copy has, as rsync does.
    let backup = scene.path("backup");
    let mut writer = scene.command(&fill).stdout(std::process::Stdio::null()).spawn().unwrap();
    let mut copies = 0;
    while copies < 3 || writer.try_wait().unwrap().is_none() {
        copy(&scene.path("store"), &backup);
        copies += 1;
        let store = backup.display().to_string();
        let look = |words: &[&str]| {
            let output = super::program().args(words).args(["--store", &store, "--json"]).output().unwrap();
            let run = Run::of(output);
            assert_eq!(run.code, Some(0), "copy {copies}: {run:?}");
            run.object()
        };
        assert_eq!(look(&["verify"])[0]["found"], 0);
        let rows = look(&["coverage"])[0]["rows"].as_u64().unwrap();
        assert!((3_000..=4_000).contains(&rows), "copy {copies}: {rows} rows");
    }
    assert!(writer.wait().unwrap().success());
    // Restoring is copying back.
    copy(&scene.path("store"), &backup);
    let before = export(&scene);
    fs::remove_dir_all(scene.path("store")).unwrap();
    copy(&backup, &scene.path("store"));
    assert_eq!(export(&scene), before);
    let again =
        scene.json(&words("backfill", &["--source", &source, "--start", "1704067200", "--end", &end]));
    assert_eq!((&again["rows_written"], &again["fetch_requests"]), (&json!(0), &json!(0)));
    assert_eq!(read(scene.path("more.csv")).lines().count(), 4_001);
    assert!(again["missing"] == Value::Array(Vec::new()));
}

/// The only folder in a folder whose name does not begin with an underscore.
fn only(folder: &Path) -> PathBuf {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut folders = entries.filter(|path| path.is_dir() && !path.ends_with("_schema"));
    folders.next().unwrap()
}

#[test]
fn a_series_that_was_renamed_or_edited_is_told_by_every_command_and_rebuilt_by_one() {
    let (scene, _) = filled();
    let node = only(&scene.path("store"));
    let before = export(&scene);
    let told = |what: &str| {
        for command in ["ls", "coverage", "verify", "files", "gc"] {
            let run = scene.run(&[command]);
            assert_eq!(run.code, Some(1), "{run:?}");
            assert!(run.stdout.contains(what) || run.stderr.contains(what), "{run:?}");
            let json = scene.run(&[command, "--json"]);
            assert_eq!(json.code, Some(1), "{json:?}");
            assert!(json.stdout.contains(what) && json.stdout.contains("\"corrupt\""), "{json:?}");
            assert!(!json.stderr.contains("no series yet"), "{json:?}");
        }
    };
    // The name is edited: the series has none, and one command gives it back.
    let name = node.join("_series.json");
    fs::write(&name, read(&name).replace("\"x\"", "\"y\"")).unwrap();
    told("the folder's name does not fit the series that it holds");
    scene.run(&words("export", &[])).fails_with(1, "the folder belongs to another node");
    let planned = scene.json(&["repair", "--dry-run"]);
    assert_eq!((&planned["rebuilt"][0]["node_id"], &planned["damaged"]), (&json!("x"), &json!([])));
    told("`qmtl-history repair`");
    assert_eq!(scene.json(&["repair"])["rebuilt"], planned["rebuilt"]);
    assert_eq!(export(&scene), before);
    // The list of columns is lost.
    fs::remove_dir_all(only(&node).join("_schema")).unwrap();
    let run = scene.run(&["verify"]);
    run.fails_with(1, "");
    assert!(run.stdout.contains("rebuild the list (`qmtl-history repair`)"), "{run:?}");
    let run = scene.run(&["repair"]);
    let columns = "rebuilt columns of x@1m: open, high, low, close, volume (path: ";
    assert!(run.code == Some(0) && run.stdout.starts_with(columns), "{run:?}");
    assert_eq!((scene.run(&["verify"]).code, export(&scene)), (Some(0), before.clone()));
    // The folder is renamed: nothing in it can say so but its own name.
    let renamed = node.with_file_name("x-backup");
    fs::rename(&node, &renamed).unwrap();
    told(&format!("expected: {}", node.file_name().unwrap().to_str().unwrap()));
    for command in ["export", "coverage"] {
        scene.run(&words(command, &[])).fails_with(1, "`qmtl-history ls` names the damaged folders");
    }
    scene.run(&["repair"]).fails_with(1, "the folder's name does not fit the series that it holds");
    fs::rename(&renamed, &node).unwrap();
    assert_eq!((scene.run(&["repair"]).code, export(&scene)), (Some(0), before));
}

#[test]
fn a_series_whose_commits_are_gone_is_told_of_by_every_command() {
    let (scene, source) = filled();
    for commit in commits(&scene.path("store")) {
        fs::remove_file(commit).unwrap();
    }
    let listed = scene.json(&["ls"]);
    assert_eq!((&listed["series"][0]["node_id"], &listed["series"][0]["rows"]), (&json!("x"), &json!(0)));
    assert_eq!(scene.json(&["verify"])[0]["rows"], 0);
    for command in ["coverage", "files", "verify", "gc"] {
        scene.json(&words(command, &[]));
    }
    assert_eq!(export(&scene).lines().count(), 1, "the header");
    let filled = scene.json(&words("backfill", &[&["--source", &source], &RANGE[..]].concat()));
    assert_eq!(filled["rows_written"], 3_000);
}

#[cfg(target_os = "linux")]
#[test]
fn a_name_that_is_no_text_and_a_commit_in_the_wrong_place_are_told_by_every_command() {
    use std::os::unix::ffi::OsStrExt;
    let (scene, _) = filled();
    let store = scene.path("store");
    let commit = PathBuf::from(commits(&store).remove(0));
    let [partition, interval, node] = [1, 2, 3].map(|depth| commit.ancestors().nth(depth).unwrap());
    let odd = |path: &Path| path.with_file_name(std::ffi::OsStr::from_bytes(b"\xffodd"));
    let name = commit.file_name().unwrap();
    fs::create_dir(partition.join("x")).unwrap();
    for (from, to, what) in [
        (node, odd(node), r"\xffodd"),
        (interval, odd(interval), r"\xffodd"),
        (partition, odd(partition), r"\xffodd"),
        (&commit, interval.join(name), "a commit stands where no partition has any"),
        (&commit, node.join(name), "a commit stands where no partition has any"),
        (&commit, partition.join("x").join(name), "the folder holds commits"),
    ] {
        fs::rename(from, &to).unwrap();
        for command in ["ls", "coverage", "verify", "files", "gc", "repair"] {
            let run = scene.run(&[command]);
            assert_eq!(run.code, Some(1), "{run:?}");
            assert!(run.stdout.contains(what) || run.stderr.contains(what), "{run:?}");
            let json = scene.run(&[command, "--json"]);
            let is_told =
                ["\"corrupt\"", "\"check\":\"read\""].iter().any(|shape| json.stdout.contains(shape));
            assert!(json.code == Some(1) && is_told, "{command}: {json:?}");
        }
        fs::rename(&to, from).unwrap();
        assert_eq!(scene.run(&["verify"]).code, Some(0), "{to:?}");
    }
}
