//! How much faster eight workers fill a million bars than one, each with one request in flight to an exchange that takes
//! 20 ms for a page: real processes, a real coordinator. Prints the seconds for a folder, and for the bucket and the
//! QuestDB that `QMTL_TEST_S3_URL` and `QMTL_TEST_QUESTDB_DSN` name.

#![expect(clippy::print_stdout, reason = "the table is what a bench is run for")]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use qmtl_sim_exchange::{Candle, Interval, Market, SimConfig, SimExchange};

const BARS: u32 = 1_000_000;
/// 2022-01-01T00:00:00Z.
const START: i64 = 1_640_995_200;
const LATENCY: Duration = Duration::from_millis(20);

fn main() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("threads");
    let bars =
        Candle::random_walk(START * 1_000, Interval::parse("1m").expect("an interval"), BARS as usize, 11);
    let market = Market::new("BTCUSDT", "1m", bars).expect("candles of a minute");
    let folder = tempfile::tempdir().expect("a folder");
    let mut stores = vec![("folder", folder.path().join("store").display().to_string())];
    stores.extend(std::env::var("QMTL_TEST_S3_URL").ok().map(|url| ("bucket", format!("{url}/workers"))));
    stores.extend(std::env::var("QMTL_TEST_QUESTDB_DSN").ok().map(|url| ("questdb", url)));
    for (name, store) in &stores {
        for workers in [1, 8] {
            let node = format!("bench-{name}-{workers}");
            let leases = folder.path().join(format!("{node}.db"));
            // Each with its own, so that no run comes near the weight that one has for a minute.
            let config = SimConfig::new([market.clone()]).with_latency(LATENCY).with_weight_limit(u32::MAX);
            let exchange = runtime.block_on(SimExchange::start(config)).expect("a port");
            let source = format!("binance+{}", exchange.base_url());
            let took = fill(&source, store, &node, (workers, &leases.display().to_string()));
            runtime.block_on(exchange.stop());
            println!("workers: {name} {workers} {:.2} s", took.as_secs_f64());
        }
    }
}

/// Ends a process with the value.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_qmtl-history"))
}

/// Lets so many workers fill a series, and checks that all of it is there.
fn fill(source: &str, store: &str, node: &str, (workers, leases): (usize, &str)) -> Duration {
    let mut coordinator = program();
    coordinator.args(["coordinator", "--listen", "127.0.0.1:0", "--store", leases]);
    let mut coordinator = Ends(coordinator.stdout(Stdio::piped()).spawn().expect("a coordinator"));
    let mut line = String::new();
    let out = coordinator.0.stdout.as_mut().expect("it is piped");
    BufReader::new(out).read_line(&mut line).expect("it says where it listens");
    let url = line.trim_start_matches("listening at ").split(',').next().expect("an address").to_owned();
    let (start, end) = (START.to_string(), (START + 60 * i64::from(BARS)).to_string());
    let begun = Instant::now();
    let working: Vec<_> = (0..workers)
        .map(|number| {
            let mut worker = program();
            worker.args([
                "backfill",
                "--node",
                node,
                "--interval",
                "1m",
                "--symbol",
                &format!("{node}=BTCUSDT"),
            ]);
            worker.args(["--source", source, "--start", &start, "--end", &end, "--store", store, "--yes"]);
            worker.args(["--coordinator", &url, "--worker-id", &format!("w{number}"), "--concurrency", "1"]);
            worker.args(["--quiet", "--json"]).stdout(Stdio::piped()).spawn().expect("a worker")
        })
        .collect();
    let mut rows = 0;
    for worker in working {
        let output = worker.wait_with_output().expect("it ends");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        let told: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one object");
        rows += told["rows_written"].as_u64().expect("a number");
    }
    let took = begun.elapsed();
    assert_eq!(rows, u64::from(BARS), "every bar is stored once");
    took
}
