//! Where things are printed: results on stdout, the rest on stderr, no colour into pipes.

use std::io::Read;
use std::process::Stdio;

use super::{CANDLES, Run, SPAN, Scene, minutes, program};

fn fill(scene: &Scene, more: &[&str]) -> Run {
    let source = format!("file:{CANDLES}");
    let words = ["backfill", "--node", "ADABTC", "--interval", "5m", "--source", &source];
    scene.run(&[&words[..], &SPAN[..], more].concat())
}

#[test]
fn progress_goes_to_stderr_and_quiet_drops_it() {
    let scene = Scene::new();
    let run = fill(&scene, &[]);
    assert!(run.stderr.contains("ADABTC@5m: 5,760 bars missing in"), "{run:?}");
    assert!(run.stderr.contains("ADABTC@5m: 100%  5,760 of 5,760 bars"), "{run:?}");
    assert!(run.stdout.contains("stored       5,720 rows in"), "{run:?}");
    assert!(run.stdout.contains("known empty  40 bars in 5 ranges"), "{run:?}");
    let again = fill(&scene, &[]);
    assert!(again.stdout.contains("stored       0 rows, 0 requests: nothing was asked for"), "{again:?}");
    assert_eq!(fill(&Scene::new(), &["--quiet"]).stderr, "");
}

#[test]
fn bars_that_have_not_closed_are_left_out_and_told() {
    let scene = Scene::new();
    let source = scene.file("x.csv", "ts,close\n1704067200,1\n1704067260,2\n");
    let fill = [
        "plan",
        "--node",
        "x",
        "--interval",
        "1m",
        "--source",
        &source,
        "--start",
        "1704067200",
        "--end",
        "9000-01-01",
        "--yes",
    ];
    let run = scene.run(&fill);
    assert!(run.code == Some(0) && run.stderr.contains("bars have not closed yet and left out"), "{run:?}");
}

#[test]
fn logs_are_lines_of_the_form_that_was_asked_for() {
    let run = fill(&Scene::new(), &["-v", "--log-format", "event", "--quiet"]);
    assert!(run.stderr.lines().any(|line| line.starts_with("seamless.backfill.succeeded {\"")), "{run:?}");
    let run = fill(&Scene::new(), &["-v", "--log-format", "json", "--quiet", "--json"]);
    assert!(
        run.stderr.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()),
        "{run:?}"
    );
    assert_eq!(run.object()["rows_written"], 5_720);
}

#[test]
fn colour_only_where_it_is_wanted() {
    let scene = Scene::new();
    fill(&scene, &[]);
    let plain = scene.run(&["coverage", "--strip"]).stdout;
    assert!(plain.is_ascii() && plain.contains("2018-01          "), "{plain}");
    let rich = scene
        .command(&["coverage", "--strip", "--color", "always"])
        .env("LC_ALL", "C.UTF-8")
        .output()
        .unwrap();
    assert!(String::from_utf8(rich.stdout).unwrap().contains("\u{1b}[38;5;41m█"));
    let poor =
        scene.command(&["coverage", "--strip", "--color", "always"]).env("LC_ALL", "C").output().unwrap();
    assert!(!String::from_utf8(poor.stdout).unwrap().contains('█'));
}

#[test]
fn a_reader_that_goes_away_ends_an_export_quietly() {
    let scene = Scene::new();
    let source = scene.file("minutes.csv", &minutes(20_000));
    let series = ["--node", "m", "--interval", "1m"];
    let fill =
        [&["backfill"], &series[..], &["--source", &source, "--start", "1704067200", "--end", "1705267200"]]
            .concat();
    assert_eq!(scene.run(&fill).code, Some(0));
    let mut export = scene
        .command(&[&["export"], &series[..]].concat())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut head = [0; 10];
    export.stdout.take().unwrap().read_exact(&mut head).unwrap();
    let run = Run::of(export.wait_with_output().unwrap());
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{run:?}");
}

#[test]
fn the_exit_code_tells_of_findings_though_nobody_reads_them() {
    let scene = Scene::new();
    let source = scene.file("crooked.csv", "ts,high,low\n1704067200,1,2\n1704067260,2,1\n");
    let fill = ["backfill", "--source", &source, "--node", "x", "--interval", "1m", "--range"];
    let unread = |words: &[&str]| {
        let mut run = scene.command(words).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        drop(run.stdout.take());
        run.wait().unwrap().code()
    };
    assert_eq!(unread(&[&fill[..], &["1704067200..=1704067320"]].concat()), Some(3), "a bar is missing");
    assert_eq!(unread(&["verify"]), Some(1));
    assert_eq!(unread(&["verify", "--json"]), Some(1));
}

#[test]
fn an_export_that_fails_leaves_no_file() {
    let scene = Scene::new();
    fill(&scene, &[]);
    let export = ["export", "--node", "ADABTC", "--interval", "5m", "--out", "x.csv", "--columns", "closing"];
    assert_eq!(scene.run(&export).code, Some(1));
    let left: Vec<_> =
        std::fs::read_dir(scene.0.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["store"]);
}

#[test]
fn help_and_completions() {
    let run = |words: &[&str]| Run::of(program().args(words).output().unwrap());
    let help = run(&["--help"]);
    assert_eq!(help.code, Some(0));
    assert!(help.stdout.contains("Exit codes:") && help.stdout.contains("qmtl-history demo"), "{help:?}");
    let commands = ["plan", "backfill", "ls", "coverage", "files", "export", "verify", "demo", "completions"];
    for command in commands {
        assert!(help.stdout.contains(&format!("\n  {command} ")), "{command}");
        assert_eq!(run(&[command, "--help"]).code, Some(0));
    }
    assert!(run(&["backfill", "--help"]).stdout.contains("ends are exclusive"));
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        assert!(run(&["completions", shell]).stdout.contains("backfill"), "{shell}");
    }
    assert_eq!(run(&[]).code, Some(2));
}
