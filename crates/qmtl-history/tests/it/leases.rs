//! Many workers, one coordinator, one store: real processes, some of which are killed.

pub(crate) mod workers;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use qmtl_history_testkit::harness::number;
use qmtl_sim_exchange::{Candle, Endpoint, Interval, Market, SimConfig, SimExchange};
use serde_json::Value;

use super::elsewhere::run;
use super::{Run, Scene, program};

/// 2024-01-01T00:00:00Z, and windows of 900 minutes from the first whole one on.
const START: i64 = 1_704_067_200;
const WINDOW: i64 = 900 * 60;

/// An exchange with so many whole windows of minutes, that takes a while to answer.
struct Exchange {
    sim: SimExchange,
    runtime: tokio::runtime::Runtime,
    first: i64,
    windows: i64,
}

impl Exchange {
    fn start(windows: i64) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let first = (START / WINDOW + 1) * WINDOW;
        let minutes = usize::try_from(windows * 900).unwrap();
        let bars = Candle::random_walk(first * 1_000, Interval::parse("1m").unwrap(), minutes, 7);
        let market = Market::new("BTCUSDT", "1m", bars).unwrap();
        let config =
            SimConfig::new([market]).with_latency(Duration::from_millis(30)).with_weight_limit(1_000_000);
        let sim = runtime.block_on(SimExchange::start(config)).unwrap();
        Self { sim, runtime, first, windows }
    }

    /// A worker's command line.
    fn words(&self, coordinator: &str, name: &str) -> Vec<String> {
        let (start, end) = (self.first, self.first + self.windows * WINDOW);
        let source = format!("binance+{}", self.sim.base_url());
        let words = [
            "backfill",
            "--node",
            "BTCUSDT",
            "--interval",
            "1m",
            "--source",
            &source,
            "--start",
            &start.to_string(),
            "--end",
            &end.to_string(),
            "--coordinator",
            coordinator,
            "--worker-id",
            name,
            "--concurrency",
            "1",
            "--lease",
            "3s",
            "--log-format",
            "event",
            "-v",
            "--json",
        ];
        words.map(str::to_owned).to_vec()
    }

    /// How often each window was asked for.
    fn asked(&self) -> BTreeMap<String, usize> {
        let requests = self.sim.requests();
        let mut counts = BTreeMap::new();
        for record in requests.iter().filter(|record| record.endpoint == Endpoint::Klines) {
            *counts.entry(record.param("startTime").unwrap_or_default()).or_default() += 1;
        }
        counts
    }

    fn stop(self) {
        self.runtime.block_on(self.sim.stop());
    }
}

/// A coordinator in a process of its own.
struct Coordinator {
    child: Child,
    url: String,
    words: Vec<String>,
}

impl Coordinator {
    fn start(store: &str) -> Self {
        Self::listen(store, "127.0.0.1:0")
    }

    fn listen(store: &str, address: &str) -> Self {
        Self::spawn(program(), store, address)
    }

    fn spawn(mut program: std::process::Command, store: &str, address: &str) -> Self {
        let words = ["coordinator", "--store", store, "--listen", address].map(str::to_owned).to_vec();
        let mut child = program.args(&words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let url = line.trim_start_matches("listening at ").split(',').next().unwrap().to_owned();
        assert!(
            url.starts_with("http://127.0.0.1:"),
            "{line} {:?}",
            child.stderr.take().map(|mut stderr| {
                let mut text = String::new();
                stderr.read_to_string(&mut text).map(|_| text)
            })
        );
        Self { child, url, words }
    }

    /// Ends without a word, and comes back at the same address.
    fn kill_and_restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let address = self.url.trim_start_matches("http://").to_owned();
        *self = Self::listen(&self.words[2].clone(), &address);
    }

    fn get(&self, path: &str) -> Value {
        ask(&self.url, &format!("GET {path}"), "").unwrap().1
    }

    fn leases(&self, words: &[&str], input: Option<&str>) -> Run {
        let mut command = program();
        command.arg("leases").args(words).args(["--coordinator", &self.url]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.unwrap_or_default().as_bytes()).unwrap();
        Run::of(child.wait_with_output().unwrap())
    }

    /// How many keys are in each state.
    fn states(&self) -> BTreeMap<String, usize> {
        let run = self.leases(&["list", "--json"], None);
        assert_eq!(run.code, Some(0), "{run:?}");
        let mut states = BTreeMap::new();
        for lease in run.object()["leases"].as_array().unwrap() {
            *states.entry(lease["state"].as_str().unwrap().to_owned()).or_default() += 1;
        }
        states
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(scene: &Scene, words: &[String]) -> Child {
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    scene.command(&words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn signal(child: &Child, name: &str) {
    let pid = child.id().to_string();
    assert!(std::process::Command::new("kill").args([name, &pid]).status().unwrap().success());
}

/// Waits until the exchange was asked that often.
fn until_asked(exchange: &Exchange, requests: usize) {
    let started = Instant::now();
    while exchange.asked().values().sum::<usize>() < requests {
        assert!(started.elapsed() < Duration::from_secs(60), "the exchange is not asked");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn rows(run: &Run) -> u64 {
    run.object()["rows_written"].as_u64().unwrap()
}

/// All bars stand in the store, once.
fn is_whole(store: &str, exchange: &Exchange) {
    let series = ["--node", "BTCUSDT", "--interval", "1m", "--json"];
    let verified = run(store, &[&["verify"], &series[..]].concat()).object();
    let found = if verified.is_array() { verified[0].clone() } else { verified };
    assert_eq!(found["rows"], Value::from(exchange.windows * 900), "{found}");
    let coverage = run(store, &[&["coverage"], &series[..]].concat()).object();
    assert_eq!(coverage["present"].as_array().map(Vec::len), Some(1), "{coverage}");
}

#[test]
fn stuck_leases_are_recovered_from_a_log() {
    let (scene, exchange) = (Scene::new(), Exchange::start(12));
    let coordinator = Coordinator::start(&scene.path("leases.db").display().to_string());
    let mut words = exchange.words(&coordinator.url, "w1");
    let at = words.iter().position(|word| word == "3s").unwrap();
    words[at] = "1h".into();
    let mut victim = spawn(&scene, &words);
    until_asked(&exchange, 3);
    victim.kill().unwrap();
    let log = Run::of(victim.wait_with_output().unwrap()).stderr;
    let held = coordinator.states()["held"];
    let recover =
        |words: &[&str], input: Option<&str>| coordinator.leases(&[&["recover"], words].concat(), input);
    let dry = recover(&["--dry-run"], Some(&log));
    assert!(dry.code == Some(0) && dry.stdout.contains("would release"), "{dry:?}");
    assert_eq!(coordinator.states()["held"], held);
    let run = recover(&[], Some(&log));
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(run.stdout.ends_with(&format!("processed={held} released={held} skipped=0\n")), "{run:?}");
    assert_eq!(coordinator.states().get("held"), None);
    // A token of long ago, a key that nobody knows, and words that name nothing.
    let known = coordinator.leases(&["list", "--json"], None).object()["leases"][0]["key"]
        .as_str()
        .unwrap()
        .to_owned();
    let run = recover(&[&format!("{known}:0-0"), "nobody:60:0:60:::1-a"], None);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.stdout.ends_with("processed=2 released=0 skipped=2\n"), "{run:?}");
    let run = recover(&["--force", "--key", &known, "--action", "complete"], None);
    assert!(run.code == Some(0) && run.stdout.starts_with("completed"), "{run:?}");
    assert_eq!(recover(&[], None).code, Some(2));
    assert_eq!(recover(&["--key", &known], None).code, Some(2));
    // The store is the truth about what is done: what was called done by hand and is not is filled all the same.
    let run = Run::of(spawn(&scene, &exchange.words(&coordinator.url, "w2")).wait_with_output().unwrap());
    assert_eq!(run.code, Some(0), "{run:?}");
    is_whole(&scene.store(), &exchange);
    let nobody = program()
        .args(["leases", "recover", &format!("{known}:1-a"), "--coordinator", "http://127.0.0.1:1"])
        .output()
        .unwrap();
    let nobody = Run::of(nobody);
    assert!(nobody.code == Some(4) && nobody.stdout.starts_with("unreachable"), "{nobody:?}");
    exchange.stop();
}

/// A lease as a client knows it, or what it has heard of its end.
#[derive(Debug)]
struct Known {
    key: String,
    token: String,
    is_done: bool,
}

/// A coordinator that is killed at any moment has lost nothing that it had acknowledged.
#[test]
fn nothing_that_was_acknowledged_is_lost_when_the_coordinator_is_killed() {
    let rounds = number("QMTL_SOAK_ROUNDS").map_or(5, |rounds| usize::try_from(rounds).unwrap());
    let scene = Scene::new();
    let mut coordinator = Coordinator::start(&scene.path("leases.db").display().to_string());
    let mut known: Vec<Known> = Vec::new();
    for round in 0..rounds {
        let url = coordinator.url.clone();
        let clients: Vec<_> = (0..4)
            .map(|client| {
                let url = url.clone();
                std::thread::spawn(move || work(&url, &format!("{round}:{client}")))
            })
            .collect();
        // Somewhere in the middle of it.
        std::thread::sleep(Duration::from_millis(40 + fastrand::u64(..120)));
        coordinator.kill_and_restart();
        known.extend(clients.into_iter().flat_map(|client| client.join().unwrap()));
        for Known { key, token, is_done } in &known {
            let page = coordinator.get(&format!("/v1/leases/inspect?limit=1&prefix={key}"));
            let lease = &page["leases"][0];
            assert_eq!(lease["token"], Value::from(token.as_str()), "{key}: {lease}");
            let state = lease["state"].as_str().unwrap();
            assert!(state == "done" || (!is_done && state == "held"), "{key} done={is_done}: {lease}");
        }
    }
    let done = known.iter().filter(|known| known.is_done).count();
    println!("figure: kills of the coordinator = {rounds}");
    println!("figure: acknowledged completions, none lost = {done}");
    assert!(done > 10 * rounds, "{done}");
}

/// Claims and completes until nobody answers.
fn work(url: &str, name: &str) -> Vec<Known> {
    let mut known = Vec::new();
    for number in 0.. {
        let key = format!("{name}:{number}:");
        let Some((200, claimed)) =
            post(url, "claim", &serde_json::json!({"key": key, "lease_ms": 3_600_000}))
        else {
            break;
        };
        let token = claimed["lease"]["token"].as_str().unwrap().to_owned();
        let done = post(url, "complete", &serde_json::json!({"key": key, "token": token}));
        let is_done = done.as_ref().is_some_and(|(status, _)| *status == 200);
        known.push(Known { key, token, is_done });
        if done.is_none() {
            break;
        }
    }
    known
}

/// Sends a request by hand: the status and the JSON of the answer, `None` when there is none.
fn ask(url: &str, head: &str, body: &str) -> Option<(u16, Value)> {
    let mut stream = TcpStream::connect(url.trim_start_matches("http://")).ok()?;
    let length = body.len();
    let head = format!("{head} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all(format!("{head}{body}").as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let status = answer.split(' ').nth(1)?.parse().ok()?;
    Some((status, serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()?))
}

/// Posts a body as a client of the original does.
fn post(url: &str, call: &str, body: &Value) -> Option<(u16, Value)> {
    ask(url, &format!("POST /v1/leases/{call}"), &body.to_string())
}

/// A disk that takes no more bytes costs what is asked then, and nothing that was granted before.
#[cfg(unix)]
#[test]
fn a_full_disk_loses_no_lease_that_was_granted() {
    let scene = Scene::new();
    let path = scene.path("leases.db").display().to_string();
    let mut limited = std::process::Command::new("sh");
    // In units of 512 or 1,024 bytes.
    limited.args(["-c", "ulimit -f 4000; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_qmtl-history")]);
    let mut coordinator = Coordinator::spawn(limited, &path, "127.0.0.1:0");
    let claim = |coordinator: &Coordinator, number: u32| {
        let key = format!("k{number:04}:{}", "x".repeat(3_000));
        post(&coordinator.url, "claim", &serde_json::json!({"key": key, "lease_ms": 3_600_000})).unwrap()
    };
    let refused = (0..).find(|number| claim(&coordinator, *number).0 == 503).unwrap();
    let (_, told) = claim(&coordinator, refused);
    assert!(told["error"].as_str().is_none_or(|told| told.contains("room")), "{told}");
    coordinator.kill_and_restart();
    for number in 0..refused {
        assert_eq!(claim(&coordinator, number).1["outcome"], "held", "{number} of {refused}");
    }
    assert_eq!(claim(&coordinator, refused + 1).0, 200, "there is room again");
}

#[test]
fn what_cannot_work_is_refused_with_a_remedy() {
    let scene = Scene::new();
    let fill = |words: &[&str]| {
        let all = [
            "backfill",
            "--node",
            "X",
            "--interval",
            "1m",
            "--source",
            "binance+http://127.0.0.1:1",
            "--last",
            "1h",
        ];
        scene.run(&[&all[..], words].concat())
    };
    fill(&["--coordinator", "coordinator:7470"]).fails_with(2, "http://");
    fill(&["--coordinator", "http://user:canary@host"]).fails_with(2, "bearer token");
    fill(&["--worker-id", "w"]).fails_with(2, "--coordinator");
    fill(&["--coordinator", "http://127.0.0.1:1", "--replace", "--reason", "r"]).fails_with(2, "--replace");
    let serve = |words: &[&str]| Run::of(program().args(["coordinator"]).args(words).output().unwrap());
    let path = scene.path("leases.db").display().to_string();
    let open = serve(&["--store", &path, "--listen", "0.0.0.0:0"]);
    open.fails_with(2, "bearer token");
    assert!(open.stderr.contains("--token-file"), "{open:?}");
    serve(&["--store", "s3://bucket/leases"]).fails_with(2, "PostgreSQL");
    serve(&["--store", "postgres://qmtl:canary@127.0.0.1:1/leases"]).fails_with(4, "cannot be reached");
    serve(&[]).fails_with(2, "--store");
    let first = Coordinator::start(&path);
    serve(&["--store", &path]).fails_with(4, "another process");
    drop(first);
}
