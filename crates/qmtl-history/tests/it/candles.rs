//! The main job on real candles: plan, fill, fill again, look, export, verify.

use expect_test::{Expect, expect};
use serde_json::{Value, json};

use std::io::Write as _;
use std::process::{Command, Stdio};

#[cfg(unix)]
use super::interrupt;
use super::{CANDLES, Run, SPAN, Scene, bars, minutes, read};

const SERIES: [&str; 4] = ["--node", "ADABTC", "--interval", "5m"];

/// A command on the candles' series.
fn words<'a>(command: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&[command], &SERIES[..], more].concat()
}

fn filling(command: &'static str) -> Vec<&'static str> {
    const SOURCE: &str = concat!("file:", env!("CARGO_MANIFEST_DIR"), "/../../examples/data/ADABTC-5m.csv");
    words(command, &[&["--source", SOURCE], &SPAN[..]].concat())
}

fn filled() -> Scene {
    let scene = Scene::new();
    let run = scene.run(&filling("backfill"));
    assert_eq!(run.code, Some(0), "{run:?}");
    scene
}

/// Takes out what differs from run to run.
fn check(mut value: Value, expected: &Expect) {
    let object = value.as_object_mut().unwrap();
    for key in ["elapsed_ms"] {
        if object.contains_key(key) {
            assert!(object[key].is_u64());
            object.remove(key);
        }
    }
    for proof in object.get_mut("proofs").and_then(Value::as_array_mut).into_iter().flatten() {
        assert!(proof["answered_at"].is_number());
        proof.as_object_mut().unwrap().remove("answered_at");
    }
    // A line a key: short and stable.
    let text: String = object.iter().map(|(key, value)| format!("{key}: {value}\n")).collect();
    expected.assert_eq(&text);
}

#[test]
fn the_main_job_end_to_end() {
    let scene = Scene::new();
    check(
        scene.json(&filling("plan")),
        &expect![[r#"
        estimated_rows: 5760
        gaps: [[1515560100,1517287800]]
        interval: 300
        node_id: "ADABTC"
        requests: 1
        seconds: null
        sources: [{"requests":1,"source":"file:ADABTC-5m.csv#be547899384923d4","weight":0}]
        weight: 0
        windows: [[1515560100,1517287800]]
    "#]],
    );
    assert!(!scene.path("store").exists(), "a plan writes nothing");

    let first = scene.json(&filling("backfill"));
    assert_eq!(first["rows_written"], 5_720);
    assert_eq!(first["present"].as_array().unwrap().len(), 6);
    assert_eq!(first["known_empty"].as_array().unwrap().len(), 5);
    check(
        first,
        &expect![[r#"
            failed: []
            fetch_requests: 1
            interval: 300
            known_empty: [[1516011000,1516011000],[1516012200,1516012200],[1516014600,1516015500],[1516016700,1516016700],[1516017600,1516027200]]
            missing: []
            node_id: "ADABTC"
            not_closed: 0
            present: [[1515560100,1516010700],[1516011300,1516011900],[1516012500,1516014300],[1516015800,1516016400],[1516017000,1516017300],[1516027500,1517287800]]
            retries: 0
            retry_reasons: {}
            rows_dropped: {}
            rows_kept_out: 0
            rows_written: 5720
            sources: [{"ranges":[[1515560100,1516010700],[1516011300,1516011900],[1516012500,1516014300],[1516015800,1516016400],[1516017000,1516017300],[1516027500,1517287800]],"source":"file:ADABTC-5m.csv#be547899384923d4"}]
            too_young: []
        "#]],
    );

    let again = scene.json(&filling("backfill"));
    assert_eq!((&again["rows_written"], &again["fetch_requests"]), (&json!(0), &json!(0)));
    let plan = scene.json(&filling("plan"));
    assert_eq!(
        (&plan["gaps"], &plan["windows"], &plan["estimated_rows"]),
        (&json!([]), &json!([]), &json!(0))
    );

    check(
        scene.json(&words("coverage", &[])),
        &expect![[r#"
        interval: 300
        known_empty: [[1516011000,1516011000],[1516012200,1516012200],[1516014600,1516015500],[1516016700,1516016700],[1516017600,1516027200]]
        missing: []
        node_id: "ADABTC"
        present: [[1515560100,1516010700],[1516011300,1516011900],[1516012500,1516014300],[1516015800,1516016400],[1516017000,1516017300],[1516027500,1517287800]]
        proofs: [{"believed":true,"confirmed":0,"expires_at":null,"ranges":[[1516011000,1516011000],[1516012200,1516012200],[1516014600,1516015500],[1516016700,1516016700],[1516017600,1516027200]],"reason":"no row between the first and the last one of file:ADABTC-5m.csv#be547899384923d4","rule":2,"source":"file:ADABTC-5m.csv#be547899384923d4"}]
        rows: 5720
    "#]],
    );
}

#[test]
fn the_known_empty_bars_are_forty() {
    let scene = filled();
    let coverage = scene.json(&words("coverage", &[]));
    let bars: i64 = coverage["known_empty"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pair| (pair[1].as_i64().unwrap() - pair[0].as_i64().unwrap()) / 300 + 1)
        .sum();
    assert_eq!((bars, &coverage["rows"], &coverage["missing"]), (40, &json!(5_720), &json!([])));
}

#[test]
fn an_export_equals_the_input_bit_for_bit() {
    let scene = filled();
    let run = scene.run(&words("export", &["--format", "csv", "--out", "-", "--ts-format", "ms"]));
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(run.stdout.starts_with("ts,open,high,low,close,volume\n1515560100000,0.0000533,"), "{run:?}");
    assert_eq!(bars(&run.stdout, 1_000), bars(&read(CANDLES), 1_000));
}

#[test]
fn an_export_can_be_imported_again() {
    let scene = filled();
    for (name, unit) in
        [("iso.csv", "iso"), ("s.csv", "s"), ("us.csv", "us"), ("x.parquet", "iso"), ("x.arrow", "iso")]
    {
        let export = scene.run(&words("export", &["--out", name, "--ts-format", unit]));
        assert_eq!((export.code, export.stdout.as_str()), (Some(0), ""), "{export:?}");
        let (node, source) = (format!("again {name}"), format!("file:{}", scene.path(name).display()));
        let again = ["backfill", "--node", &node, "--interval", "5m", "--source", &source];
        let filled = scene.json(&[&again[..], &SPAN[..]].concat());
        assert_eq!((&filled["rows_written"], &filled["missing"]), (&json!(5_720), &json!([])), "{name}");
        let back = scene.run(&["export", "--node", &node, "--interval", "5m", "--ts-format", "ms"]);
        assert_eq!(bars(&back.stdout, 1_000), bars(&read(CANDLES), 1_000), "{name}");
    }
}

#[test]
fn a_printed_range_is_taken_back_and_columns_are_chosen() {
    let scene = filled();
    let shown = scene.run(&words("coverage", &[])).stdout;
    let range = shown
        .lines()
        .find_map(|line| {
            line.trim().strip_prefix("known empty")?.split_whitespace().find(|word| word.contains("..="))
        })
        .unwrap();
    let empty = scene.json(&words("coverage", &["--range", range]));
    assert_eq!(
        (&empty["present"], empty["known_empty"].as_array().unwrap().len()),
        (&json!([]), 1),
        "{range}"
    );

    let run = scene.run(&words("export", &["--columns", "close,open", "--range", "1515560100..=1515560400"]));
    assert_eq!(
        run.stdout,
        "ts,close,open\n2018-01-10T04:55:00Z,0.0000529,0.0000533\n2018-01-10T05:00:00Z,0.0000527,0.0000529\n"
    );
    scene.run(&words("export", &["--columns", "closing"])).fails_with(1, "closing");
}

#[test]
fn what_the_file_does_not_cover_remains_missing() {
    let scene = Scene::new();
    let source = format!("file:{CANDLES}");
    let early = words("backfill", &["--source", &source, "--timerange", "20180110-20180111"]);
    let run = scene.run(&early);
    run.fails_with(3, "");
    assert!(run.stdout.contains("missing      59 bars in 1 range"), "{run:?}");
    assert!(run.stdout.contains("2018-01-10T00:00:00Z..=2018-01-10T04:50:00Z"), "{run:?}");
    let run = scene.run(&[&early[..], &["--json"]].concat());
    assert_eq!((run.code, &run.object()["missing"]), (Some(3), &json!([[1_515_542_400, 1_515_559_800]])));
}

#[test]
fn a_row_off_the_grid_is_told_and_costs_no_other_row() {
    let scene = Scene::new();
    let source = scene.file("bad.csv", "ts,open,high,low,close,volume\n2024-01-01T00:00:00Z,1,2,0.5,1,9\n2024-01-01T00:01:30Z,1,2,0.5,1,9\n2024-01-01T00:02:00Z,1,2,0.5,1,9\n");
    let fill = [
        "backfill",
        "--node",
        "x",
        "--interval",
        "1m",
        "--source",
        &source,
        "--timerange",
        "20240101-20240102",
    ];
    let run = scene.run(&[&fill[..], &["--json"]].concat());
    assert_eq!(run.code, Some(3), "{run:?}");
    assert_eq!(run.object()["rows_written"], json!(2));
    let odd = json!([{"ts": 1_704_067_290, "bar": 1_704_067_260, "distance_s": 30.0}]);
    assert_eq!((&run.object()["off_grid"], &run.object()["failed"]), (&odd, &json!([])));
    let again = scene.run(&fill);
    assert_eq!(again.code, Some(3), "it is told each time: {again:?}");
    let line = "off grid   2024-01-01T00:01:30Z, 30s after 2024-01-01T00:01:00Z; it is not stored";
    assert!(again.stdout.contains(line), "{again:?}");
}

#[test]
fn verify_reads_every_bar_and_finds_what_is_wrong() {
    let scene = filled();
    let run = scene.run(&["verify"]);
    assert_eq!((run.code, run.stdout.as_str()), (Some(0), "ok      ADABTC@5m  5,720 rows\n"), "{run:?}");

    let source = scene.file("wild.csv", "ts,open,high,low,close,volume\n1704067200,1,2,0.5,3,9\n1704067260,1,0.5,2,1,9\n1704067320,NaN,2,0.5,1,9\n");
    let fill = [
        "backfill",
        "--node",
        "wild",
        "--interval",
        "1m",
        "--source",
        &source,
        "--start",
        "1704067200",
        "--end",
        "1704067380",
    ];
    assert_eq!(scene.run(&fill).code, Some(0));
    let run = scene.run(&["verify", "--node", "wild", "--interval", "1m", "--json"]);
    assert_eq!(run.code, Some(1), "{run:?}");
    check(
        run.object(),
        &expect![[r#"
            findings: [{"check":"open_close","column":"close","message":"close lies outside low to high, 0.5 to 2","ts":1704067200,"value":"3"},{"check":"high_low","column":"high","message":"high is below low, which is 2","ts":1704067260,"value":"0.5"},{"check":"nan","column":"open","message":"not a number (NaN); whatever is computed from it is NaN too","ts":1704067320,"value":"NaN"}]
            found: 3
            interval: 60
            node_id: "wild"
            notes: []
            rows: 3
        "#]],
    );
    let run: Run = scene.run(&["verify"]);
    assert_eq!(run.code, Some(1));
    assert!(run.stdout.contains("wrong   wild@1m  3 rows, 3 findings"), "{run:?}");
    assert!(
        run.stdout.contains(
            "open_close  2024-01-01T00:00:00Z  close  3    close lies outside low to high, 0.5 to 2"
        ),
        "{run:?}"
    );
}

#[test]
fn the_list_of_series_and_files() {
    let scene = filled();
    let mut list = scene.json(&["ls"]);
    let series = list["series"][0].as_object_mut().unwrap();
    assert!(series.remove("bytes").unwrap().as_u64().unwrap() > 1_000);
    let count = series.remove("files").unwrap();
    assert_eq!(
        list["series"],
        json!([{"node_id": "ADABTC", "interval": 300, "rows": 5_720, "first": 1_515_560_100, "last": 1_517_287_800}])
    );
    let table = scene.run(&["ls"]).stdout;
    assert!(table.starts_with("INTERVAL   ROWS  FIRST"), "{table}");
    assert!(table.contains("5m        5,720  2018-01-10T04:55:00Z  2018-01-30T04:50:00Z"), "{table}");

    let files = scene.run(&words("files", &[])).stdout;
    assert_eq!(json!(files.lines().count()), count);
    assert!(
        files.lines().all(|path| path.ends_with(".parquet") && std::path::Path::new(path).is_file()),
        "{files}"
    );
    let details = scene.json(&words("files", &[]));
    let rows: u64 =
        details["files"].as_array().unwrap().iter().map(|file| file["rows"].as_u64().unwrap()).sum();
    assert_eq!((rows, &details["files"][0]["path"]), (5_720, &json!(files.lines().next().unwrap())));
}

#[test]
fn a_damaged_file_is_a_finding_that_names_it() {
    let scene = filled();
    let files = scene.run(&words("files", &[])).stdout;
    let path = files.lines().next().unwrap();
    let whole = std::fs::read(path).unwrap();
    let mut torn = whole.clone();
    let middle = whole.len() / 3;
    torn[middle..middle + 64].fill(0xAA);
    for (name, bytes) in [("cut", &whole[..middle]), ("torn", &torn[..]), ("empty", &[])] {
        std::fs::write(path, bytes).unwrap();
        let run = scene.run(&["verify"]);
        assert_eq!(run.code, Some(1), "{name}: {run:?}");
        let file = path.rsplit('/').next().unwrap();
        assert!(run.stdout.contains("  read ") && run.stdout.contains(file), "{name}: {run:?}");
    }
    std::fs::write(path, &whole).unwrap();
    assert_eq!(scene.run(&["verify"]).code, Some(0));
}

#[test]
fn every_damaged_file_is_a_finding() {
    let scene = Scene::new();
    let source = scene.file("minutes.csv", &minutes(60_000));
    let fill = ["backfill", "--node", "m", "--interval", "1m", "--source", &source, "--range"];
    scene.json(&[&fill[..], &["1704067200..=1707667140"]].concat());
    let files = scene.run(&["files"]).stdout;
    assert!(files.lines().count() > 1, "{files}");
    for path in files.lines() {
        std::fs::write(path, "damaged").unwrap();
    }
    let run = scene.run(&["verify", "--json"]);
    assert_eq!(run.code, Some(1), "{run:?}");
    let found = run.object()[0]["findings"].as_array().unwrap().clone();
    assert_eq!(found.len(), files.lines().count(), "{found:?}");
    for (finding, path) in found.iter().zip(files.lines()) {
        let name = path.rsplit('/').nth(1).unwrap();
        assert!(
            finding["check"] == "read" && finding["message"].as_str().unwrap().contains(name),
            "{finding}"
        );
    }
}

/// Runs a fill of ten minutes from a source, with these bytes on stdin.
fn fill_from(scene: &Scene, source: &str, more: &[&str], stdin: &[u8]) -> Run {
    let range = ["--start", "1704067200", "--end", "1704067800"];
    let words = ["backfill", "--node", "x", "--interval", "1m", "--source", source];
    let mut child = scene
        .command(&[&words[..], &range, more].concat())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Whoever refuses does not read to the end.
    let _ = child.stdin.take().unwrap().write_all(stdin);
    Run::of(child.wait_with_output().unwrap())
}

#[cfg(unix)]
#[test]
fn what_comes_through_a_pipe_is_read_as_a_file_is() {
    let ten = minutes(10);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(ten.as_bytes()).unwrap();
    let gzip = gzip.finish().unwrap();
    for (source, bytes) in
        [("file:-", ten.as_bytes()), ("file:/dev/stdin", ten.as_bytes()), ("file:-", &gzip)]
    {
        let scene = Scene::new();
        let run = fill_from(&scene, source, &["--json"], bytes);
        assert_eq!((run.code, &run.object()["rows_written"]), (Some(0), &json!(10)), "{source}: {run:?}");
    }
    let scene = Scene::new();
    fill_from(&scene, "file:-", &[], b"").fails_with(1, "the file is empty");
    fill_from(&scene, "file:-", &["--max-unpacked", "1KB"], minutes(100).as_bytes())
        .fails_with(2, "the pipe holds more than the cap; raise the cap if that is right (--max-unpacked)");
    fill_from(&scene, "file:/dev/zero", &[], b"")
        .fails_with(2, "a device was given where a file is expected");
    // A list of series has an end too.
    scene
        .run(&["plan", "--nodes", "/dev/zero", "--last", "1d"])
        .fails_with(2, "the list of series is too long");
    let _listener = std::os::unix::net::UnixListener::bind(scene.path("socket")).unwrap();
    let socket = format!("file:{}", scene.path("socket").display());
    fill_from(&scene, &socket, &[], b"").fails_with(2, "a socket is given where a file is read: name a file");
}

#[cfg(unix)]
#[test]
fn a_list_of_series_may_come_through_a_pipe_and_stdin_is_read_once() {
    let scene = Scene::new();
    std::fs::write(scene.path("ten.csv"), minutes(10)).unwrap();
    let run = |words: &[&str], source: &str| {
        let range = ["--start", "1704067200", "--end", "1704067800", "--json"];
        let mut command = scene.command(&[&["backfill"][..], words, &range].concat());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.current_dir(scene.path("")).spawn().unwrap();
        let list = format!("interval = \"1m\"\nsource = \"{source}\"\n[[series]]\nnode = \"x\"\n");
        child.stdin.take().unwrap().write_all(list.as_bytes()).unwrap();
        Run::of(child.wait_with_output().unwrap())
    };
    // What it names is looked for where the program runs.
    for list in ["-", "/dev/stdin"] {
        let run = run(&["--nodes", list], "file:ten.csv");
        assert_eq!(run.code, Some(0), "{run:?}");
        assert_eq!(run.object()["present"], json!([[1_704_067_200, 1_704_067_740]]), "{run:?}");
    }
    for (words, source) in [
        (&["--nodes", "-"][..], "file:-"),
        (&["--nodes", "/dev/stdin"], "file:/dev/fd/0"),
        (
            &["--node", "x", "--interval", "1m", "--source", "file:-", "--source", "file:/dev/stdin"],
            "file:ten.csv",
        ),
    ] {
        run(words, source).fails_with(2, "stdin can be read only once");
    }
}

/// Returns once a program has a handler of its own for SIGINT.
#[cfg(target_os = "linux")]
fn hears_interrupts(child: &std::process::Child) {
    const SIGINT: u64 = 1 << 1;
    loop {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
        if u64::from_str_radix(caught.trim(), 16).unwrap() & SIGINT != 0 {
            return;
        }
        std::thread::yield_now();
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_pipe_that_nobody_writes_to_is_told_of_and_can_be_left() {
    use std::io::{BufRead, BufReader};

    let scene = Scene::new();
    let pipe = scene.path("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let source = format!("file:{}", pipe.display());
    let pipe = pipe.display().to_string();
    for words in [
        vec!["backfill", "--node", "x", "--interval", "1m", "--source", &source, "--last", "1d"],
        vec!["backfill", "--nodes", &pipe, "--last", "1d"],
        vec!["plan", "--nodes", &pipe, "--last", "1d"],
    ] {
        let mut child = scene.command(&words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        if words.contains(&source.as_str()) {
            let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
            let line = lines.next().unwrap().unwrap();
            assert!(line.ends_with("pipe has not been read to its end yet; Ctrl-C stops"), "{line}");
        } else {
            hears_interrupts(&child);
        }
        let asked = std::time::Instant::now();
        assert_eq!(interrupt(child).code, Some(130), "{words:?}");
        assert!(asked.elapsed() < std::time::Duration::from_secs(10), "{words:?}");
    }
}
