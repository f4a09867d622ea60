//! `backfill --follow`: bars are there soon after they close, also after an outage.

#![cfg(unix)]

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use qmtl_history_api::Clock;
use qmtl_observe::TokioClock;
use qmtl_sim_exchange::{Candle, Interval, Market, SimConfig, SimExchange};
use serde_json::Value;

use super::{Scene, interrupt};

/// What a run with `--json` says of each round.
fn rounds_of(child: &mut Child) -> impl Iterator<Item = Value> + use<> {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    lines.map(|line| serde_json::from_str(&line.unwrap()).unwrap())
}

/// What the store has of the series that is followed.
fn coverage(scene: &Scene) -> Value {
    let covered = scene.run(&["coverage", "--node", "ADABTC", "--interval", "1s", "--json"]);
    let covered: Value = serde_json::from_str(covered.stdout.trim()).unwrap();
    covered.get(0).cloned().unwrap_or(covered)
}

#[test]
fn a_followed_series_stays_current_through_an_outage() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    // Bars of a second, from a minute ago until long after the test.
    let now = TokioClock::new().now().as_secs();
    let bars = Candle::random_walk((now - 60) * 1_000, Interval::parse("1s").unwrap(), 3_600, 9);
    let market = Market::new("ADABTC", "1s", bars).unwrap();
    let sim = runtime.block_on(SimExchange::start(SimConfig::new([market.clone()]))).unwrap();
    let (port, source) = (sim.addr().port(), format!("binance+{}", sim.base_url()));
    let scene = Scene::new();
    let start = (now - 30).to_string();
    // A run that does not do what is waited for ends by itself.
    let words = ["backfill", "--follow", "--json", "--node", "ADABTC", "--interval", "1s", "--start", &start];
    let mut child = scene
        .command(&[&words[..], &["--source", &source, "--retries", "0", "--deadline", "5m"]].concat())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut rounds = rounds_of(&mut child);
    let last = |round: &Value| round["present"].as_array().unwrap().last().unwrap()[1].as_i64().unwrap();
    let first = rounds.next().unwrap();
    assert!(first["rows_written"].as_u64().unwrap() >= 29, "{first}");
    let mut newest = last(&first);
    for _ in 0..3 {
        let round = rounds.next().unwrap();
        assert!(last(&round) > newest && round["rows_written"].as_u64().unwrap() > 0, "{round}");
        newest = last(&round);
    }
    // The exchange goes away and comes back where it was.
    runtime.block_on(sim.stop());
    let mut notes = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let told = notes.find(|note| note.contains("it is tried again")).unwrap();
    assert!(told.contains("ADABTC@1s"), "{told}");
    let sim = runtime.block_on(SimExchange::start(SimConfig::new([market]).with_port(port))).unwrap();
    assert!(notes.any(|note| note.contains("the source answers again")));
    let after = rounds.find(|round| last(round) > newest + 1).unwrap();
    assert_eq!(interrupt(child).code, Some(130));
    // One run of bars from the start on, outage included.
    let covered = coverage(&scene);
    let present = covered["present"].as_array().unwrap();
    assert_eq!((present.len(), present[0][0].as_i64().unwrap()), (1, now - 30), "{covered}");
    assert!(present[0][1].as_i64().unwrap() >= last(&after));
    assert_eq!(scene.run(&["verify"]).code, Some(0));
    runtime.block_on(sim.stop());
}

#[test]
fn bars_that_are_published_late_are_stored_and_never_called_empty() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let now = TokioClock::new().now().as_secs();
    let bars = Candle::random_walk((now - 60) * 1_000, Interval::parse("1s").unwrap(), 3_600, 9);
    let market = Market::new("ADABTC", "1s", bars).unwrap().with_product("ADABTC");
    let late = SimConfig::new([market]).with_publish_delay(std::time::Duration::from_secs(3));
    let sim = runtime.block_on(SimExchange::start(late)).unwrap();
    let source = format!("binance+{}", sim.base_url());
    let (scene, start) = (Scene::new(), (now - 30).to_string());
    let words = ["backfill", "--follow", "--json", "--node", "ADABTC", "--interval", "1s", "--start", &start];
    let mut child = scene
        .command(&[&words[..], &["--source", &source, "--deadline", "5m"]].concat())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut rounds = rounds_of(&mut child);
    let first = rounds.next().unwrap();
    assert!(!first["too_young"].as_array().unwrap().is_empty(), "the newest bars are still to come: {first}");
    for _ in 0..4 {
        let round = rounds.next().unwrap();
        assert!(round["rows_written"].as_u64().unwrap() > 0 && round["known_empty"] == serde_json::json!([]));
    }
    assert_eq!(interrupt(child).code, Some(130));
    let covered = coverage(&scene);
    assert_eq!(covered["present"].as_array().unwrap().len(), 1, "{covered}");
    assert_eq!(covered["proofs"], serde_json::json!([]));
    runtime.block_on(sim.stop());
}

#[test]
fn a_source_that_does_not_serve_this_machine_ends_it_as_it_ends_a_fill() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let source = format!("binance+http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
            while lines.next().is_some_and(|header| !header.is_empty()) {}
            let refusal = b"HTTP/1.1 451 No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            let _ = std::io::Write::write_all(&mut &stream, refusal);
        }
    });
    let words = ["backfill", "--node", "m", "--interval", "1m", "--start", "2024-01-01", "--source", &source];
    let scene = Scene::new();
    let filled = scene.run(&[&words[..], &["--end", "2024-01-02"]].concat());
    let followed = scene.run(&[&words[..], &["--follow"]].concat());
    assert_eq!((filled.code, followed.code), (Some(1), Some(1)), "{followed:?}");
    assert!(followed.stderr.contains("status: 451"), "{followed:?}");
    assert!(followed.stderr.contains("that will not change, so it is not tried again"), "{followed:?}");
    assert!(!followed.stderr.contains("; it is tried again") && !followed.stderr.contains("following"));
}

#[test]
fn a_file_is_not_followed() {
    let scene = Scene::new();
    let source = scene.file("m.csv", &super::minutes(50));
    let words =
        ["backfill", "--node", "m", "--interval", "1m", "--start", "2024-01-01", "--follow", "--source"];
    let refused = scene.run(&[&words[..], &[&source]].concat());
    refused.fails_with(
        2,
        "a file does not grow while it is read, so there is nothing to follow; leave --follow out",
    );
    assert!(!scene.path("store").exists(), "nothing may be written");
}

#[test]
fn of_a_list_only_what_an_exchange_has_is_followed() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let now = TokioClock::new().now().as_secs();
    let bars = Candle::random_walk((now - 60) * 1_000, Interval::parse("1s").unwrap(), 3_600, 9);
    let market = Market::new("ADABTC", "1s", bars).unwrap();
    let sim = runtime.block_on(SimExchange::start(SimConfig::new([market]))).unwrap();
    let (scene, base_url) = (Scene::new(), sim.base_url());
    let file: String = (now - 30..now - 20).map(|ts| format!("{ts},1\n")).collect();
    scene.file("s.csv", &format!("ts,close\n{file}"));
    let list = format!(
        "interval = \"1s\"\n[[series]]\nnode = \"ADABTC\"\nsource = \"binance+{base_url}\"\n\
         [[series]]\nnode = \"s\"\nsource = \"file:s.csv\"\n"
    );
    scene.file("list.toml", &list);
    let start = (now - 30).to_string();
    let words = ["backfill", "--follow", "--nodes", "list.toml", "--start", &start, "--deadline", "5m"];
    let mut child = scene.command(&words).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut notes = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(notes.any(|note| note.contains("s@1s: its file does not grow, so it is not followed")));
    assert!(notes.any(|note| note.contains("following; Ctrl-C ends it")));
    assert_eq!(interrupt(child).code, Some(130));
    runtime.block_on(sim.stop());
}
