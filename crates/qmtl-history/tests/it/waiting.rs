//! What is waited for is said: why, until when, and what ends it; and the end of a run names it.

use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[cfg(unix)]
use super::interrupt;
use super::{Run, Scene};

/// A port of this machine at which nobody answers.
fn closed() -> String {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    format!("binance+http://127.0.0.1:{port}")
}

/// A server that takes connections and says nothing.
fn silent() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let source = format!("binance+http://{}", listener.local_addr().unwrap());
    (listener, source)
}

/// A fill of seven windows from this source, with more words.
fn fill(scene: &Scene, source: &str, more: &[&str]) -> Command {
    let words = ["backfill", "--source", source, "--node", "m", "--interval", "1m", "--window-bars", "1000"];
    let range = ["--start", "2024-01-01", "--end", "2024-01-05T04:00:00"];
    scene.command(&[&words[..], &range, more].concat())
}

#[test]
fn a_source_that_cannot_be_reached_ends_all_windows_after_its_time_and_is_told_at_once() {
    let scene = Scene::new();
    let started = Instant::now();
    let run = Run::of(fill(&scene, &closed(), &["--retry-for", "4s", "--json"]).output().unwrap());
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    assert_eq!(run.code, Some(1), "{run:?}");
    let waiting = run.stderr.lines().find(|line| line.starts_with("waiting: ")).unwrap();
    for part in [
        "the source cannot be reached (host: 127.0.0.1:",
        "Connection refused",
        "; next try in ",
        " at the latest; Ctrl-C stops",
    ] {
        assert!(waiting.contains(part), "{part:?} is not in {waiting:?}");
    }
    let filled = run.object();
    let [window] = &filled["failed"].as_array().unwrap()[..] else { panic!("{filled}") };
    let error = window["error"].as_str().unwrap();
    assert!(error.starts_with("the source has never answered; check its address"), "{error}");
    for part in ["or wait longer (--retry-for)", "waited: 4.", "windows: 7", "Connection refused"] {
        assert!(error.contains(part), "{part:?} is not in {error:?}");
    }
}

#[test]
fn programs_that_read_logs_are_told_too() {
    let words = ["--retry-for", "4s", "--log-format", "json"];
    let run = Run::of(fill(&Scene::new(), &closed(), &words).output().unwrap());
    let lines = run.stderr.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let waiting = lines.into_iter().find(|line| line["message"] == "waiting for a source").unwrap();
    assert_eq!(waiting["level"], "WARN", "{waiting}");
    assert!(waiting["error"].as_str().unwrap().contains("Connection refused"), "{waiting}");
    assert!(waiting["next_try_s"].is_number() && waiting["at_most_s"].is_number(), "{waiting}");
}

#[cfg(unix)]
#[test]
fn a_source_that_says_nothing_is_told_within_seconds_and_named_when_the_run_is_interrupted() {
    use std::io::{BufRead, BufReader};

    let (scene, (_listener, source)) = (Scene::new(), silent());
    let started = Instant::now();
    let mut child =
        fill(&scene, &source, &["--json"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let mut lines = lines.skip_while(|line| !line.starts_with("waiting: "));
    let waiting = lines.next().unwrap();
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    assert!(
        waiting.contains("has not answered yet; timing out in ") && waiting.ends_with("Ctrl-C stops"),
        "{waiting}"
    );
    let rest = std::thread::spawn(move || lines.count());
    let run = interrupt(child);
    rest.join().unwrap();
    assert_eq!(run.code, Some(130), "{run:?}");
    let error = run.object()["last_error"].as_str().unwrap().to_owned();
    assert!(error.contains("the source had not answered yet (host: 127.0.0.1:"), "{error}");
}

#[test]
fn a_deadline_names_what_was_waited_for() {
    let (scene, source) = (Scene::new(), closed());
    let run = Run::of(fill(&scene, &source, &["--deadline", "2s"]).output().unwrap());
    assert_eq!(run.code, Some(1), "{run:?}");
    let line = run.stdout.lines().find(|line| line.contains("failed")).unwrap();
    assert!(
        line.contains("the deadline passed before everything was answered")
            && line.contains("Connection refused"),
        "{run:?}"
    );
    let words = ["warmup", "--source", &source, "--node", "m", "--interval", "1m", "--period", "20"];
    let run = scene.run(&[&words[..], &["--deadline", "2s", "--json"]].concat());
    let primed = run.object();
    let error = primed["error"].as_str().unwrap();
    assert!(error.contains("the deadline passed") && error.contains("Connection refused"), "{error}");
    let waiting = run.stderr.lines().find(|line| line.starts_with("waiting: the source cannot be reached"));
    let at_most = waiting.and_then(|line| line.split("giving up in ").nth(1)).unwrap();
    assert!(at_most.starts_with("1.") || at_most.starts_with("2"), "the warm-up's deadline, not {at_most:?}");
}

#[cfg(all(unix, feature = "questdb"))]
#[test]
fn a_store_that_does_not_answer_is_told_of_without_its_password() {
    use std::io::{BufRead, BufReader};

    let (listener, _) = silent();
    let store = format!("questdb://admin:S3cret@{}/qdb", listener.local_addr().unwrap());
    let mut command = super::program();
    command.args(["ls", "--store", &store]).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let waiting = lines.next().unwrap().unwrap();
    assert_eq!(interrupt(child).code, Some(130));
    assert!(waiting.starts_with("waiting: the store questdb://") && !waiting.contains("S3cret"), "{waiting}");
    assert!(
        waiting.ends_with("has not answered yet; each request is given up within 60.0 s; Ctrl-C stops"),
        "{waiting}"
    );
}

#[cfg(all(unix, feature = "questdb"))]
#[test]
fn a_deadline_and_an_interruption_end_the_wait_for_a_store_and_say_so() {
    use std::io::{BufRead, BufReader};

    let (listener, source) = silent();
    let store = format!("questdb://admin:S3cret@{}/qdb", listener.local_addr().unwrap());
    let fill = |more: &[&str]| {
        let words = ["backfill", "--source", &source, "--node", "m", "--interval", "1m", "--json"];
        let range = ["--start", "2024-01-01", "--end", "2024-01-02", "--store", &store];
        let mut command = super::program();
        command.args([&words[..], &range, more].concat());
        command
    };
    let started = Instant::now();
    let run = Run::of(fill(&["--deadline", "2s"]).output().unwrap());
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert_eq!(run.code, Some(4), "{run:?}");
    let message = run.object()["error"]["message"].as_str().unwrap().to_owned();
    assert!(
        message.starts_with("the deadline (--deadline) passed before the store questdb://***@"),
        "{message}"
    );
    assert!(message.ends_with(" was open"), "{message}");
    let waiting = run.stderr.lines().find(|line| line.starts_with("waiting: the store ")).unwrap();
    assert!(
        waiting.contains("; giving up in ") && waiting.ends_with(" at the latest; Ctrl-C stops"),
        "{waiting}"
    );

    let mut child = fill(&[]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().starts_with("waiting: the store "));
    let rest = std::thread::spawn(move || lines.count());
    let run = interrupt(child);
    rest.join().unwrap();
    assert_eq!(run.code, Some(130), "{run:?}");
    let error = &run.object()["error"];
    assert_eq!((&error["kind"], &error["exit_code"]), (&"cancelled".into(), &130.into()));
    let cause = error["causes"][0].as_str().unwrap();
    assert!(cause.starts_with("the store questdb://***@") && !cause.contains("S3cret"), "{error}");
}

#[cfg(unix)]
#[test]
fn a_source_that_is_not_read_to_its_end_is_no_store_that_cannot_be_reached() {
    use std::io::{BufRead, BufReader};

    let scene = Scene::new();
    assert!(Command::new("mkfifo").arg(scene.path("fifo")).status().unwrap().success());
    let warmup = ["warmup", "--source", "file:fifo", "--node", "m", "--interval", "1m", "--period", "20"];
    for mut command in [
        fill(&scene, "file:fifo", &["--deadline", "2s", "--json"]),
        scene.command(&[&warmup[..], &["--deadline", "2s", "--json"]].concat()),
    ] {
        let run = Run::of(command.output().unwrap());
        assert_eq!(run.code, Some(1), "{run:?}");
        let error = &run.object()["error"];
        let message = error["message"].as_str().unwrap();
        assert!(message.contains("passed before the ") && message.ends_with("sources were open"), "{error}");
        assert_eq!((&error["kind"], &error["exit_code"]), (&"unavailable".into(), &1.into()));
    }

    let mut command = fill(&scene, "file:fifo", &["--json"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().starts_with("waiting: fifo has not been read"));
    let rest = std::thread::spawn(move || lines.count());
    let run = interrupt(child);
    rest.join().unwrap();
    assert_eq!(run.code, Some(130), "{run:?}");
    assert_eq!(run.object()["error"]["causes"][0], "a source was not open yet: fifo");
}

#[test]
fn a_deadline_is_one_for_all_series() {
    let (scene, source) = (Scene::new(), closed());
    let nodes: Vec<_> = (0..40).map(|at| format!("N{at}")).collect();
    let nodes: Vec<_> = nodes.iter().flat_map(|node| ["--node", node]).collect();
    let words = ["backfill", "--source", &source, "--interval", "1m", "--deadline", "2s", "--json"];
    let range = ["--start", "2024-01-01", "--end", "2024-01-02"];
    let started = Instant::now();
    let run = scene.run(&[&words[..], &range, &nodes].concat());
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    let filled: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(filled.as_array().unwrap().len(), 40);
    assert!(filled.as_array().unwrap().iter().all(|one| !one["failed"].as_array().unwrap().is_empty()));
}

#[cfg(unix)]
#[test]
fn a_ban_is_told_as_one_and_waited_out() {
    use qmtl_sim_exchange::{Candle, Fault, FaultRule, Interval, Market, SimConfig, SimExchange, When};

    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let bars = Candle::random_walk(1_704_067_200_000, Interval::parse("1m").unwrap(), 6_000, 9);
    let config = SimConfig::new([Market::new("M", "1m", bars).unwrap()])
        .with_fault(FaultRule::new(Fault::Banned(Some(6)), When::Numbers(vec![2])));
    let sim = runtime.block_on(SimExchange::start(config)).unwrap();
    let source = format!("binance+{}", sim.base_url());
    let words = ["--json", "--symbol", "m=M"];
    let run = Run::of(fill(&Scene::new(), &source, &words).output().unwrap());
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(run.stderr.contains("has banned this address for a while"), "{run:?}");
    assert!(!run.stderr.contains("rate limit"), "{run:?}");
    runtime.block_on(sim.stop());
}

#[test]
fn a_ban_that_outlasts_the_deadline_ends_the_fill_at_once_with_its_status_and_length() {
    use qmtl_sim_exchange::{Candle, Fault, FaultRule, Interval, Market, SimConfig, SimExchange, When};

    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let bars = Candle::random_walk(1_704_067_200_000, Interval::parse("1m").unwrap(), 6_000, 9);
    let config = SimConfig::new([Market::new("M", "1m", bars).unwrap()])
        .with_fault(FaultRule::new(Fault::Banned(Some(900)), When::Numbers(vec![2])));
    let sim = runtime.block_on(SimExchange::start(config)).unwrap();
    let source = format!("binance+{}", sim.base_url());
    let started = Instant::now();
    let words = ["--json", "--symbol", "m=M", "--deadline", "60s"];
    let run = Run::of(fill(&Scene::new(), &source, &words).output().unwrap());
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
    assert_eq!(run.code, Some(3), "{run:?}");
    let errors: Vec<_> =
        run.object()["failed"].as_array().unwrap().iter().map(|one| one["error"].to_string()).collect();
    let has = |parts: &[&str]| errors.iter().any(|error| parts.iter().all(|part| error.contains(part)));
    assert!(has(&["has banned this address", "status: 418", "asks_to_wait_s: 900"]), "{errors:?}");
    assert!(errors.iter().all(|error| error.contains("status: 418")), "{errors:?}");

    let words =
        ["warmup", "--source", &source, "--node", "m", "--symbol", "m=M", "--interval", "1m", "--json"];
    let at = ["--period", "20", "--as-of", "2024-01-02", "--deadline", "60s"];
    sim.inject(FaultRule::new(Fault::Banned(Some(900)), When::Always));
    let run = Scene::new().run(&[&words[..], &at].concat());
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
    let error = run.object()["error"].to_string();
    assert!(error.contains("status: 418") && error.contains("asks_to_wait_s: 900"), "{error}");
    runtime.block_on(sim.stop());
}
