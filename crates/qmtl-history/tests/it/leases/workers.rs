//! Workers that share a series, some of which are killed, suspended or cut off.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;
use std::time::{Duration, Instant};

use qmtl_history_api::Clock;
use qmtl_history_testkit::harness::number;
use qmtl_history_testkit::proxy::{Fault, Proxy};
use qmtl_observe::TokioClock;
use qmtl_sim_exchange::{Candle, Interval, Market, SimConfig, SimExchange};
use serde_json::Value;

use super::{Coordinator, Exchange, is_whole, rows, signal, spawn, until_asked};
use crate::{Run, Scene, program};

#[test]
fn four_workers_ask_for_each_window_once() {
    let scene = Scene::new();
    share_a_series(&scene, &scene.store());
}

/// Four workers fill an empty store: each window is asked for once, and each row is stored once.
pub(crate) fn share_a_series(scene: &Scene, store: &str) {
    let exchange = Exchange::start(40);
    let coordinator = Coordinator::start(&scene.path("leases.db").display().to_string());
    let workers: Vec<_> = ["w1", "w2", "w3", "w4"]
        .iter()
        .map(|name| {
            let mut command = program();
            command.args(exchange.words(&coordinator.url, name)).args(["--store", store]);
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    let runs: Vec<_> = workers.into_iter().map(|child| Run::of(child.wait_with_output().unwrap())).collect();
    for run in &runs {
        assert_eq!(run.code, Some(0), "{run:?}");
        assert_eq!(run.object()["missing"], Value::from(Vec::<Value>::new()));
        assert!(run.stderr.contains("seamless.backfill.coordinator_claimed {"), "{}", run.stderr);
    }
    assert_eq!(runs.iter().map(rows).sum::<u64>(), 40 * 900);
    let asked = exchange.asked();
    assert_eq!((asked.len(), asked.values().max()), (40, Some(&1)), "{asked:?}");
    is_whole(store, &exchange);
    assert_eq!(coordinator.states(), BTreeMap::from([("done".to_owned(), 40)]));
    let names: BTreeSet<_> = runs
        .iter()
        .flat_map(|run| events(&run.stderr, "completed"))
        .map(|event| event["worker"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(names.len(), 4, "all four completed windows");
    exchange.stop();
}

/// The lifecycle events of one kind in a worker's log.
fn events(log: &str, kind: &str) -> Vec<Value> {
    let prefix = format!("seamless.backfill.coordinator_{kind} ");
    let lines = log.lines().filter_map(|line| line.strip_prefix(&prefix));
    // The last line of one that was killed may be cut off.
    lines.filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// A worker that is killed half way holds its windows for as long as its leases last; then others do them.
#[test]
fn the_windows_of_a_worker_that_was_killed_are_done_by_others() {
    let (scene, exchange) = (Scene::new(), Exchange::start(30));
    let coordinator = Coordinator::start(&scene.path("leases.db").display().to_string());
    let mut workers: Vec<_> = ["w1", "w2", "w3"]
        .iter()
        .map(|name| spawn(&scene, &exchange.words(&coordinator.url, name)))
        .collect();
    until_asked(&exchange, 12);
    let mut victim = workers.remove(0);
    victim.kill().unwrap();
    victim.wait().unwrap();
    for child in workers {
        let run = Run::of(child.wait_with_output().unwrap());
        assert_eq!(run.code, Some(0), "{run:?}");
    }
    is_whole(&scene.store(), &exchange);
    let asked = exchange.asked();
    assert_eq!((asked.len(), asked.values().filter(|count| **count > 2).count()), (30, 0), "{asked:?}");
    assert_eq!(coordinator.states(), BTreeMap::from([("done".to_owned(), 30)]));
    exchange.stop();
}

/// A coordinator that is killed again and again loses no lease, and the fill ends.
#[test]
fn a_coordinator_that_is_killed_comes_back_with_its_leases() {
    let (scene, exchange) = (Scene::new(), Exchange::start(30));
    let mut coordinator = Coordinator::start(&scene.path("leases.db").display().to_string());
    let workers: Vec<_> =
        ["w1", "w2"].iter().map(|name| spawn(&scene, &exchange.words(&coordinator.url, name))).collect();
    for round in 1..=3 {
        until_asked(&exchange, 6 * round);
        coordinator.kill_and_restart();
    }
    for child in workers {
        let run = Run::of(child.wait_with_output().unwrap());
        assert_eq!(run.code, Some(0), "{run:?}");
    }
    is_whole(&scene.store(), &exchange);
    let asked = exchange.asked();
    assert_eq!((asked.len(), asked.values().max()), (30, Some(&1)), "{asked:?}");
    exchange.stop();
}

/// A worker that is told to go gives back what it has not done, and nobody waits for its leases.
#[cfg(unix)]
#[test]
fn a_worker_that_is_terminated_drains() {
    let (scene, exchange) = (Scene::new(), Exchange::start(40));
    let coordinator = Coordinator::start(&scene.path("leases.db").display().to_string());
    let child = spawn(&scene, &exchange.words(&coordinator.url, "w1"));
    until_asked(&exchange, 10);
    signal(&child, "-TERM");
    let run = Run::of(child.wait_with_output().unwrap());
    assert_eq!(run.code, Some(0), "{run:?}");
    let states = coordinator.states();
    assert!(!states.contains_key("held") && states["done"] >= 8, "{states:?}");
    assert_eq!(rows(&run), states["done"] as u64 * 900);
    exchange.stop();
}

/// One that is told to go while its coordinator is silent goes as well, and reports what it has stored.
#[cfg(unix)]
#[test]
fn a_worker_drains_without_its_coordinator() {
    for name in ["-STOP", "-KILL"] {
        let (scene, exchange) = (Scene::new(), Exchange::start(40));
        let coordinator = Coordinator::start(&scene.path("leases.db").display().to_string());
        let child = spawn(&scene, &exchange.words(&coordinator.url, "w1"));
        until_asked(&exchange, 10);
        signal(&coordinator.child, name);
        signal(&child, "-TERM");
        let run = Run::of(child.wait_with_output().unwrap());
        assert_eq!(run.code, Some(0), "{name}: {run:?}");
        assert!(rows(&run) >= 900, "{name}: {run:?}");
        exchange.stop();
    }
}

/// Workers that follow one series lose no bar of it, whichever of them stores it, and drain as well.
#[cfg(unix)]
#[test]
fn workers_that_follow_share_a_series_and_drain() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let now = TokioClock::new().now().as_secs();
    let bars = Candle::random_walk((now - 60) * 1_000, Interval::parse("1s").unwrap(), 3_600, 9);
    let market = Market::new("BTCUSDT", "1s", bars).unwrap();
    let sim = runtime.block_on(SimExchange::start(SimConfig::new([market]))).unwrap();
    let source = format!("binance+{}", sim.base_url());
    let scene = Scene::new();
    let coordinator = Coordinator::start(&scene.path("leases.db").display().to_string());
    let start = (now - 30).to_string();
    let series = ["--node", "BTCUSDT", "--interval", "1s"];
    let workers: Vec<_> = ["w1", "w2"]
        .iter()
        .map(|name| {
            let own = ["backfill", "--follow", "--source", &source, "--start", &start, "--lease", "3s"];
            let shared = ["--coordinator", &coordinator.url, "--worker-id", name, "--deadline", "5m"];
            let words = [&own[..], &series, &shared].concat();
            spawn(&scene, &words.into_iter().map(str::to_owned).collect::<Vec<_>>())
        })
        .collect();
    // None before the first rows are stored.
    let present = || {
        let covered = scene.run(&[&["coverage", "--json"], &series[..]].concat());
        let covered = serde_json::from_str::<Value>(&covered.stdout).unwrap_or_default();
        let ranges = covered["present"].as_array().cloned().unwrap_or_default();
        ranges.iter().map(|range| [0, 1].map(|end| range[end].as_i64().unwrap())).collect::<Vec<_>>()
    };
    let started = Instant::now();
    while present().last().is_none_or(|[_, last]| *last < now + 8) {
        assert!(started.elapsed() < Duration::from_secs(60), "{:?}", present());
    }
    for child in workers {
        signal(&child, "-TERM");
        let ended = child.wait_with_output().unwrap();
        assert_eq!(ended.status.code(), Some(0), "{}", String::from_utf8_lossy(&ended.stderr));
    }
    let present = present();
    assert!(present.len() == 1 && present[0][0] == now - 30, "{present:?}");
    assert!(!coordinator.states().contains_key("held"));
    runtime.block_on(sim.stop());
}

/// A stopped process wakes up after its lease is over, when others have done its window.
#[cfg(unix)]
#[test]
fn a_worker_that_stood_still_past_its_lease_writes_nothing_of_it() {
    let (scene, exchange) = (Scene::new(), Exchange::start(20));
    let coordinator = Coordinator::start(&scene.path("leases.db").display().to_string());
    let sleeper = spawn(&scene, &exchange.words(&coordinator.url, "sleeper"));
    until_asked(&exchange, 5);
    signal(&sleeper, "-STOP");
    let other = spawn(&scene, &exchange.words(&coordinator.url, "other"));
    let run = Run::of(other.wait_with_output().unwrap());
    assert_eq!(run.code, Some(0), "{run:?}");
    is_whole(&scene.store(), &exchange);
    signal(&sleeper, "-CONT");
    let slept = Run::of(sleeper.wait_with_output().unwrap());
    assert_eq!(slept.code, Some(0), "{slept:?}");
    assert_eq!(rows(&run) + rows(&slept), 20 * 900, "no row counts twice");
    is_whole(&scene.store(), &exchange);
    exchange.stop();
}

/// Workers that are killed at any moment, and replaced, leave neither a hole nor a lease.
#[test]
fn workers_that_are_killed_again_and_again_leave_no_hole() {
    let rounds = number("QMTL_SOAK_ROUNDS").map_or(5, |rounds| usize::try_from(rounds).unwrap());
    let windows = 10 * rounds;
    let (scene, exchange) = (Scene::new(), Exchange::start(i64::try_from(windows).unwrap()));
    let coordinator = Coordinator::start(&scene.path("leases.db").display().to_string());
    let (mut count, mut logs) = (0, String::new());
    let mut start = || {
        count += 1;
        spawn(&scene, &exchange.words(&coordinator.url, &format!("w{count}")))
    };
    let mut workers: Vec<_> = (0..3).map(|_| start()).collect();
    for round in 1..=rounds {
        until_asked(&exchange, 7 * round + fastrand::usize(..3));
        std::thread::sleep(Duration::from_millis(fastrand::u64(..60)));
        let mut victim = workers.swap_remove(fastrand::usize(..workers.len()));
        victim.kill().unwrap();
        logs.push_str(&Run::of(victim.wait_with_output().unwrap()).stderr);
        workers.push(start());
    }
    for child in workers {
        let run = Run::of(child.wait_with_output().unwrap());
        assert_eq!(run.code, Some(0), "{run:?}");
        logs.push_str(&run.stderr);
    }
    is_whole(&scene.store(), &exchange);
    let mut granted = BTreeMap::<String, usize>::new();
    for claimed in events(&logs, "claimed") {
        *granted.entry(format!("{}000", claimed["batch_start"])).or_default() += 1;
    }
    let asked = exchange.asked();
    assert_eq!(asked.len(), windows);
    for (window, times) in &asked {
        assert!(*times <= granted[window], "{window} was asked for {times} times, granted {granted:?}");
    }
    let again = asked.values().sum::<usize>() - windows;
    let states = coordinator.states();
    assert!(states.keys().all(|state| ["done", "held", "expired"].contains(&&**state)), "{states:?}");
    println!("figure: kills of workers = {rounds}");
    println!("figure: windows done while workers were killed = {windows}");
    println!("figure: windows asked for again after a kill = {again}");
    exchange.stop();
}

/// A worker that is cut off from the coordinator for longer than its leases last, without being told: others do its
/// windows, it comes back, and nothing is stored twice.
#[test]
fn a_worker_that_is_cut_off_loses_its_leases_and_no_row() {
    let (scene, exchange) = (Scene::new(), Exchange::start(40));
    let coordinator = Coordinator::start(&scene.path("leases.db").display().to_string());
    let port = coordinator.url.rsplit_once(':').unwrap().1.parse().unwrap();
    let wire = exchange.runtime.block_on(Proxy::before(port));
    let far = format!("http://127.0.0.1:{}", wire.port());
    let cut_off = spawn(&scene, &exchange.words(&far, "cut-off"));
    until_asked(&exchange, 6);
    wire.fail_after(0, Fault::Stall);
    let other =
        Run::of(spawn(&scene, &exchange.words(&coordinator.url, "other")).wait_with_output().unwrap());
    assert_eq!(other.code, Some(0), "{other:?}");
    is_whole(&scene.store(), &exchange);
    wire.heal();
    let back = Run::of(cut_off.wait_with_output().unwrap());
    assert_eq!(back.code, Some(0), "{back:?}");
    assert_eq!(rows(&other) + rows(&back), 40 * 900, "no row counts twice");
    is_whole(&scene.store(), &exchange);
    let asked = exchange.asked();
    assert_eq!((asked.len(), asked.values().filter(|count| **count > 2).count()), (40, 0), "{asked:?}");
    exchange.stop();
}
