//! A backfill that is stopped or killed at any moment loses and doubles nothing.

use std::process::Stdio;
use std::time::{Duration, Instant};

#[cfg(unix)]
use super::interrupt;
#[cfg(all(unix, feature = "questdb"))]
use super::program;
use super::{Run, Scene, bars, minutes};

const ROWS: i64 = 60_000;

/// A scene with a file that takes many small commits to store.
fn scene() -> (Scene, Vec<String>) {
    let scene = Scene::new();
    let source = scene.file("minutes.csv", &minutes(ROWS));
    let end = (1_704_067_200 + ROWS * 60).to_string();
    let words = [
        "backfill",
        "--node",
        "m",
        "--interval",
        "1m",
        "--source",
        &source,
        "--start",
        "1704067200",
        "--end",
        &end,
        "--window-bars",
        "500",
        "--memory",
        "512KB",
    ];
    let words = words.map(str::to_owned).to_vec();
    (scene, words)
}

fn fill(scene: &Scene, words: &[String]) -> Run {
    scene.run(&words.iter().map(String::as_str).collect::<Vec<_>>())
}

/// All rows are there, once, with the bits of the input.
fn is_whole(scene: &Scene) {
    let verify = scene.run(&["verify", "--json"]);
    assert_eq!(verify.code, Some(0), "{verify:?}");
    let csv = scene.run(&["export", "--node", "m", "--interval", "1m", "--ts-format", "s"]).stdout;
    assert!(bars(&csv, 1) == bars(&minutes(ROWS), 1), "the rows differ from the input");
}

/// Delays without a pattern; the machine's own jitter does the rest.
fn delays(seed: u64) -> impl Iterator<Item = u64> {
    std::iter::successors(Some(seed), |x| {
        let x = x ^ (x << 13);
        let x = x ^ (x >> 7);
        Some(x ^ (x << 17))
    })
}

#[test]
fn kills_at_random_moments_lose_and_double_nothing() {
    let (first, words) = scene();
    let started = Instant::now();
    assert_eq!(fill(&first, &words).code, Some(0));
    let whole_run = u64::try_from(started.elapsed().as_micros()).unwrap();
    is_whole(&first);

    let (mut kills, mut span) = (0, whole_run);
    let mut delays = delays(0x5EED);
    while kills < 50 {
        // A store that has become whole makes room for a new one.
        let (scene, words) = scene();
        for _ in 0..10 {
            let mut child = scene
                .command(&words.iter().map(String::as_str).collect::<Vec<_>>())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            std::thread::sleep(Duration::from_micros(delays.next().unwrap() % span));
            let has_ended = child.try_wait().unwrap().is_some();
            child.kill().unwrap();
            child.wait().unwrap();
            if has_ended {
                // Only a kill that falls into a run counts: the next ones come earlier.
                span = (span * 3 / 4).max(1);
                break;
            }
            kills += 1;
            // What is there after a kill is sound, however little it is.
            let verify = scene.run(&["verify"]);
            assert!(matches!(verify.code, Some(0 | 4)), "{verify:?}");
        }
        let run = fill(&scene, &words);
        assert_eq!(run.code, Some(0), "{run:?}");
        is_whole(&scene);
    }
}

#[cfg(unix)]
#[test]
fn an_interruption_keeps_what_is_stored_and_the_next_run_goes_on() {
    use std::io::{BufRead, BufReader};

    let (scene, words) = scene();
    let mut child = scene
        .command(&words.iter().map(String::as_str).collect::<Vec<_>>())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The second line of progress: something is stored, and more is to come.
    let mut progress = BufReader::new(child.stderr.take().unwrap()).lines();
    progress.by_ref().nth(1).unwrap().unwrap();
    let rest = std::thread::spawn(|| progress.map(Result::unwrap).collect::<Vec<_>>());
    let run = interrupt(child);
    let rest = rest.join().unwrap();
    assert_eq!(run.code, Some(130), "{run:?} {rest:?}");
    assert!(
        rest.iter().any(|line| line.contains("rows are stored and kept; run the same command")),
        "{rest:?}"
    );
    assert!(run.stdout.contains("rows before the interruption"), "{run:?}");

    let stored = scene.json(&["ls"])["series"][0]["rows"].as_u64().unwrap();
    assert!(stored > 0 && stored < ROWS.unsigned_abs(), "{stored}");
    let told = run.stdout.replace(',', "");
    assert!(told.contains(&format!("stored       {stored} rows before")), "{run:?}");
    let args: Vec<_> = words.iter().map(String::as_str).collect();
    let rest = scene.json(&args);
    assert_eq!(rest["rows_written"], ROWS.unsigned_abs() - stored);
    is_whole(&scene);
}

/// The rows of the series in the scene's store.
#[cfg(unix)]
fn stored(scene: &Scene) -> u64 {
    let listed = scene.run(&["ls", "--json"]);
    // Before the first write there is no store.
    let rows = |listed: serde_json::Value| listed["series"][0]["rows"].as_u64().unwrap_or(0);
    if listed.code == Some(0) { rows(listed.object()) } else { 0 }
}

#[cfg(unix)]
#[test]
fn interruptions_at_random_moments_are_told_exactly() {
    let (first, words) = scene();
    let started = Instant::now();
    assert_eq!(fill(&first, &words).code, Some(0));
    let mut span = u64::try_from(started.elapsed().as_micros()).unwrap();
    let (mut interruptions, mut partial) = (0, 0);
    let mut delays = delays(0xC0FFEE);
    while interruptions < 50 {
        let (scene, words) = scene();
        let mut before = 0;
        for _ in 0..10 {
            let child = scene
                .command(&[&words.iter().map(String::as_str).collect::<Vec<_>>()[..], &["--json"]].concat())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            std::thread::sleep(Duration::from_micros(delays.next().unwrap() % span));
            let run = interrupt(child);
            let told = match run.stdout.trim() {
                // It was interrupted before it listened.
                "" => 0,
                _ if run.object()["error"]["kind"] == "cancelled" => 0,
                _ => run.object()["rows_written"].as_u64().unwrap(),
            };
            let now = stored(&scene);
            assert_eq!(told, now - before, "{run:?}");
            before = now;
            if run.code == Some(0) {
                span = (span * 3 / 4).max(1);
                break;
            }
            interruptions += 1;
            partial += u64::from(told > 0);
        }
        let rest = fill(&scene, &words);
        assert_eq!(rest.code, Some(0), "{rest:?}");
        is_whole(&scene);
    }
    assert!(partial > 5, "hardly an interruption fell into a fill: {partial} of {interruptions}");
}

#[cfg(all(unix, feature = "questdb"))]
#[test]
fn an_interruption_is_heard_while_the_store_is_still_being_opened() {
    // A server that takes connections and never says a word.
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let store = format!("questdb://admin:quest@{}/qdb?connect_timeout=600", server.local_addr().unwrap());
    let scene = Scene::new();
    let source = scene.file("minutes.csv", &minutes(10));
    let words =
        ["backfill", "--json", "--node", "m", "--interval", "1m", "--source", &source, "--last", "1d"];
    let mut command = program();
    command.args(words).args(["--store", &store]).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    let _connection = server.accept().unwrap();
    let run = interrupt(child);
    assert_eq!(run.code, Some(130), "{run:?}");
    assert_eq!(run.object()["error"]["kind"], "cancelled", "{run:?}");
}

#[cfg(target_os = "linux")]
#[test]
fn an_interruption_is_heard_while_the_source_is_still_being_opened() {
    let scene = Scene::new();
    // Nobody ever writes to it, so that opening it takes for ever.
    let pipe = scene.path("pipe.csv");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let source = format!("file:{}", pipe.display());
    let words =
        ["backfill", "--json", "--node", "m", "--interval", "1m", "--source", &source, "--last", "1d"];
    let child = scene.command(&words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // It listens once the system says that it catches SIGINT, which has the second bit.
    let listens = || {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
        u64::from_str_radix(caught.trim(), 16).unwrap() & 2 != 0
    };
    let started = Instant::now();
    while !listens() {
        assert!(started.elapsed() < Duration::from_secs(30), "it never listens");
        std::thread::yield_now();
    }
    let run = interrupt(child);
    assert_eq!(run.code, Some(130), "{run:?}");
    assert_eq!(run.object()["error"]["kind"], "cancelled", "{run:?}");
    assert!(run.stderr.contains("interrupted before anything was stored"), "{run:?}");
}
