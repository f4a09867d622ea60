//! Fills from exchanges through the program: the same API elsewhere, faults, chains, interruptions.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;
use std::time::{Duration, Instant};

use qmtl_sim_exchange::{
    Candle, Endpoint, Fault, FaultRule, Interval, Market, RequestRecord, SimClock, SimConfig, SimExchange,
    When,
};
use serde_json::{Value, json};

#[cfg(unix)]
use super::interrupt;
use super::klines_server::{KlinesServer, price};
use super::{Scene, bars};

/// 2024-01-01 in minutes.
const START: i64 = 28_401_120;
const DAY: i64 = 1_440;

/// An exchange in the background of a test.
struct Exchange {
    sim: SimExchange,
    runtime: tokio::runtime::Runtime,
}

impl Exchange {
    fn start(config: SimConfig) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let sim = runtime.block_on(SimExchange::start(config)).unwrap();
        Self { sim, runtime }
    }

    fn source(&self, venue: &str) -> String {
        format!("{venue}+{}", self.sim.base_url())
    }

    fn klines(&self) -> Vec<RequestRecord> {
        let requests = self.sim.requests();
        requests.into_iter().filter(|record| record.endpoint == Endpoint::Klines).collect()
    }

    /// What was asked for, of whichever exchange.
    fn candles(&self) -> Vec<RequestRecord> {
        let requests = self.sim.requests();
        requests.into_iter().filter(|record| record.asked.is_some()).collect()
    }

    fn stop(self) {
        self.runtime.block_on(self.sim.stop());
    }
}

fn market(symbol: &str, minutes: usize) -> Market {
    let bars = Candle::random_walk(START * 60_000, Interval::parse("1m").unwrap(), minutes, 5);
    Market::new(symbol, "1m", bars).unwrap()
}

fn iso(minute: i64) -> String {
    (minute * 60).to_string()
}

/// A fill of `node` from minute `first` to `end` after [`START`].
fn fill<'a>(node: &'a str, source: &'a str, range: &'a [String; 2], more: &[&'a str]) -> Vec<&'a str> {
    let words = ["backfill", "--node", node, "--interval", "1m", "--source", source];
    [&words[..], &["--start", &range[0], "--end", &range[1]], more].concat()
}

fn range(first: i64, end: i64) -> [String; 2] {
    [iso(START + first), iso(START + end)]
}

/// Runs of minutes as `[first, last]` in epoch seconds.
fn pairs(minutes: impl IntoIterator<Item = i64>) -> Value {
    let mut runs = Vec::<(i64, i64)>::new();
    for minute in minutes {
        match runs.last_mut() {
            Some(run) if run.1 + 1 == minute => run.1 = minute,
            _ => runs.push((minute, minute)),
        }
    }
    runs.into_iter().map(|(first, last)| json!([first * 60, last * 60])).collect()
}

/// Minutes with holes of every length from 1 to 60 bars, one of 2,500, and runs of many lengths.
fn holed() -> (BTreeSet<i64>, i64) {
    let (mut minutes, mut at) = (BTreeSet::new(), START);
    for hole in (1..=60).chain([2_500]).chain(1..=7) {
        let run = 30 + (hole * 37) % 211;
        minutes.extend(at..at + run);
        at += run + hole;
    }
    minutes.extend(at..at + 40);
    (minutes, at + 40)
}

#[test]
fn a_rate_limit_that_is_used_up_is_told_with_the_next_try() {
    let exchange = Exchange::start(SimConfig::new([market("ADABTC", 100)]));
    let (source, range) = (exchange.source("binance"), range(0, 100));
    let run = Scene::new().run(&fill("ADABTC", &source, &range, &["--rate", "0.2"]));
    assert_eq!(run.code, Some(0), "{run:?}");
    let waiting = run.stderr.lines().find(|line| line.contains("the rate limit of 127.0.0.1:")).unwrap();
    for part in ["waiting: ", " is used up; next try in ", ", giving up in ", " at the latest; Ctrl-C stops"]
    {
        assert!(waiting.contains(part), "{part:?} is not in {waiting:?}");
    }
    exchange.stop();
}

#[test]
fn an_independent_server_with_the_klines_api_gives_what_is_computed_from_its_minutes() {
    let (minutes, end) = holed();
    let server = KlinesServer::start(minutes.clone());
    let scene = Scene::new();
    let (source, span) = (format!("binance+{}", server.url), [iso(START), iso(end)]);
    let words = fill("ANY", &source, &span, &[]);
    let plan = scene.json(&[&["plan"], &words[1..]].concat());
    let filled = scene.json(&words);
    let holes = (START..end).filter(|minute| !minutes.contains(minute));
    assert_eq!(filled["present"], pairs(minutes.iter().copied()));
    assert_eq!(filled["known_empty"], pairs(holes));
    assert_eq!((&filled["missing"], &filled["failed"]), (&json!([]), &json!([])));
    assert_eq!(filled["rows_written"].as_u64().unwrap(), minutes.len() as u64);

    // What a page lacks is asked for once more; where a window ends in a hole, only an empty page says so.
    let asked = server.asked();
    let planned = plan["requests"].as_u64().unwrap();
    let windows = (START / 900..=(end - 1) / 900).map(|window| (window * 900 + 899).min(end - 1));
    let open_ends = windows.filter(|last| !minutes.contains(last)).count() as u64;
    assert!(asked.len() as u64 <= 2 * planned + 2 * open_ends, "{} requests of {planned}", asked.len());
    let mut times = BTreeMap::new();
    for asked in &asked {
        assert!(
            asked.limit <= 1_000 && asked.start >= START * 60_000 && asked.end < end * 60_000,
            "{asked:?}"
        );
        (asked.start / 60_000..=asked.end / 60_000).for_each(|minute| *times.entry(minute).or_insert(0) += 1);
    }
    assert!(times.iter().all(|(minute, times)| *times <= if minutes.contains(minute) { 2 } else { 3 }));
    let csv =
        scene.run(&["export", "--node", "ANY", "--interval", "1m", "--ts-format", "s", "--columns", "open"]);
    let expected: Vec<_> = minutes
        .iter()
        .map(|minute| (minute * 60, vec![price(*minute).parse::<f64>().unwrap().to_bits()]))
        .collect();
    assert!(bars(&csv.stdout, 1) == expected, "the values differ");

    let again = scene.json(&words);
    assert_eq!(
        (&again["rows_written"], &again["fetch_requests"], server.asked().len()),
        (&json!(0), &json!(0), 0)
    );
}

#[test]
fn a_store_that_lacks_one_day_asks_for_that_day_only() {
    // The day begins with minutes without a trade: there may have been no trade before, for all that the
    // exchange's answer says.
    let hole = (START + 2 * DAY) * 60_000..(START + 2 * DAY + 10) * 60_000;
    for (venue, page) in [("binance", 1_000), ("coinbase", 300)] {
        let market = market("ADABTC", 6 * 1_440).with_hole(hole.clone());
        let exchange = Exchange::start(SimConfig::new([market.with_product("ADABTC")]));
        let source = exchange.source(venue);
        // Told to fill all that it has, and told to fill that day.
        for wanted in [range(0, 6 * DAY), range(2 * DAY, 3 * DAY)] {
            let scene = Scene::new();
            for (first, end) in [(0, 2 * DAY), (3 * DAY, 6 * DAY)] {
                scene.json(&fill("ADABTC", &source, &range(first, end), &[]));
            }
            exchange.sim.clear_requests();
            let filled = scene.json(&fill("ADABTC", &source, &wanted, &[]));
            assert_eq!(filled["rows_written"], json!(DAY - 10), "{venue}");
            assert_eq!(filled["known_empty"], pairs(START + 2 * DAY..START + 2 * DAY + 10), "{venue}");
            let mut minutes = BTreeSet::new();
            for record in exchange.candles() {
                let asked = record.asked.unwrap();
                assert!(asked.limit <= page, "{venue} {asked:?}");
                for minute in asked.first.unwrap() / 60_000..=asked.last.unwrap() / 60_000 {
                    // The hole at the beginning: Binance has a row for every minute but in an outage, and is asked
                    // once more; a page of Coinbase begins with its newest row and says nothing beyond its last.
                    let is_hole = minute < START + 2 * DAY + 11;
                    assert!(minutes.insert(minute) || is_hole, "{venue} asks for minute {minute} twice");
                }
            }
            assert!(minutes.into_iter().eq(START + 2 * DAY..START + 3 * DAY), "{venue}");
            exchange.sim.clear_requests();
            let again = scene.json(&fill("ADABTC", &source, &range(0, 6 * DAY), &[]));
            assert_eq!(again["fetch_requests"], json!(0), "{venue}");
            assert!(exchange.sim.requests().is_empty(), "{venue}");
        }
        exchange.stop();
    }
}

#[test]
fn faults_do_not_show_in_the_store_and_are_counted_by_reason() {
    let config = SimConfig::new([market("ADABTC", 9_000)])
        .with_fault(FaultRule::new(Fault::TooManyRequests(Some(1)), When::Numbers(vec![3])))
        .with_fault(FaultRule::new(Fault::Truncated, When::Numbers(vec![5])))
        .with_fault(FaultRule::new(Fault::Bomb, When::Numbers(vec![7])))
        .with_fault(FaultRule::new(Fault::OffGrid, When::Numbers(vec![9])));
    let exchange = Exchange::start(config);
    let scene = Scene::new();
    let filled = scene.json(&fill("ADABTC", &exchange.source("binance"), &range(0, 9_000), &[]));
    assert_eq!(filled["retry_reasons"], json!({"rate_limited": 1, "too_large": 1, "truncated": 1}));
    // The row off the grid came right when it was asked for again.
    assert_eq!(filled["rows_dropped"], json!({}));
    assert_eq!((&filled["retries"], &filled["rows_written"]), (&json!(3), &json!(9_000)));
    assert_eq!(filled["fetch_requests"], json!(exchange.klines().len()));
    assert_eq!(scene.run(&["verify"]).code, Some(0));
    exchange.stop();
}

#[test]
fn what_retries_do_not_help_against_ends_with_its_reason() {
    let config = SimConfig::new([market("ADABTC", 900)])
        .with_fault(FaultRule::new(Fault::Banned(Some(86_400)), When::Always));
    let exchange = Exchange::start(config);
    let scene = Scene::new();
    let source = exchange.source("binance");
    let run = scene.run(&fill("ADABTC", &source, &range(0, 900), &[]));
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.stdout.contains("has banned this address"), "{run:?}");
    exchange.sim.clear_faults();
    exchange.sim.inject(FaultRule::new(Fault::InternalError, When::Always));
    exchange.sim.clear_requests();
    let run =
        scene.run(&fill("ADABTC", &source, &range(0, 900), &["--retries", "1", "--window-bars", "90000"]));
    assert!(run.stdout.contains("server error") && run.stdout.contains("tries: 2"), "{run:?}");
    assert_eq!(exchange.klines().len(), 2);
    exchange.stop();
}

#[test]
fn many_series_have_sources_and_symbols_of_their_own() {
    let hole = (START + 100) * 60_000..(START + 110) * 60_000;
    // Two exchanges: what the first lacks of BTC, the second has.
    let first = Exchange::start(SimConfig::new([
        market("BTCUSDT", 5 * 1_440 + 700).with_hole(hole.clone()),
        market("ETHUSDT", 1_000),
    ]));
    let second = Exchange::start(SimConfig::new([market("BTC", 6 * 1_440).with_product("BTC-USD")]));
    let scene = Scene::new();
    let list = format!(
        "interval = \"1m\"\nsource = {:?}\n\n\
         [[series]]\nnode = \"btc\"\nsymbol = \"BTCUSDT\"\nproduct = \"BTC-USD\"\nsource = [{:?}, {:?}, {:?}]\n\n\
         [[series]]\nnode = \"eth\"\nsymbol = \"ETHUSDT\"\n",
        first.source("binance"),
        first.source("binance-archive"),
        first.source("binance"),
        second.source("coinbase"),
    );
    std::fs::write(scene.path("series.toml"), list).unwrap();
    let span = range(0, 900);
    let words = ["backfill", "--nodes", "series.toml", "--start", &span[0], "--end", &span[1]];
    let filled = scene.json(&words);
    let [btc, eth] = filled.as_array().unwrap().as_slice() else { panic!("{filled}") };
    assert_eq!((&btc["rows_written"], &eth["rows_written"]), (&json!(900), &json!(900)));
    let sources: Vec<_> = btc["sources"].as_array().unwrap().iter().collect();
    assert!(sources[0]["source"].as_str().unwrap().starts_with("binance-archive:"), "{btc}");
    assert!(sources[1]["source"].as_str().unwrap().starts_with("coinbase:"), "{btc}");
    assert_eq!(sources[1]["ranges"], pairs(START + 100..START + 110));
    assert_eq!(scene.json(&words)[0]["fetch_requests"], json!(0));
    first.stop();
    second.stop();
}

#[test]
fn a_plan_shows_requests_weight_and_time() {
    let scene = Scene::new();
    let span = range(0, 100_000);
    let words = fill("ADABTC", "binance", &span, &["--window-bars", "1000", "--concurrency", "4"]);
    let plan = scene.json(&[&["plan"], &words[1..]].concat());
    let requests = plan["requests"].as_u64().unwrap();
    assert!((100..=101).contains(&requests), "{plan}");
    assert_eq!(plan["weight"], json!(2 * requests));
    assert_eq!(plan["sources"], json!([{"source": "binance", "requests": requests, "weight": 2 * requests}]));
    // A tenth of a second for each, four at once.
    assert!((2.5..2.7).contains(&plan["seconds"].as_f64().unwrap()), "{plan}");
    let slow = scene.json(&[&["plan"], &words[1..], &["--rate", "2"]].concat());
    assert!((50.0..51.0).contains(&slow["seconds"].as_f64().unwrap()), "{slow}");
    let shown = scene.run(&[&["plan"], &words[1..]].concat()).stdout;
    assert!(shown.contains("weight 20") && shown.contains("4 requests at once"), "{shown}");
}

#[test]
fn requests_keep_to_the_rate() {
    let exchange = Exchange::start(SimConfig::new([market("ADABTC", 9_000)]));
    let scene = Scene::new();
    let started = Instant::now();
    let filled = scene.json(&fill("ADABTC", &exchange.source("binance"), &range(0, 9_000), &["--rate", "4"]));
    assert_eq!(filled["rows_written"], json!(9_000));
    // Eleven or twelve requests: four at once, the others a quarter of a second apart.
    assert!(started.elapsed() > Duration::from_millis(1_700), "{:?}", started.elapsed());
    exchange.stop();
}

#[test]
fn a_deadline_ends_the_run_and_the_next_one_goes_on() {
    let config = SimConfig::new([market("ADABTC", 9_000)]);
    let exchange = Exchange::start(config.with_fault(FaultRule::new(Fault::Silent, When::Numbers(vec![4]))));
    let scene = Scene::new();
    let source = exchange.source("binance");
    let run = scene.run(&fill("ADABTC", &source, &range(0, 9_000), &["--deadline", "2s", "--json"]));
    assert_eq!(run.code, Some(3), "{run:?}");
    let first = run.object();
    assert!(first["failed"][0]["error"].as_str().unwrap().contains("limit: deadline"), "{first}");
    let rest = scene.json(&fill("ADABTC", &source, &range(0, 9_000), &[]));
    let rows = |filled: &Value| filled["rows_written"].as_u64().unwrap();
    assert!(rows(&first) > 0 && rows(&rest) > 0, "{first} {rest}");
    assert_eq!(rows(&first) + rows(&rest), 9_000);
    exchange.stop();
}

#[cfg(unix)]
#[test]
fn an_interruption_ends_a_run_whose_exchange_does_not_answer() {
    // The twelfth request and those after it are never answered.
    let silent = FaultRule::new(Fault::Silent, When::matching(|record| record.number > 12));
    let exchange = Exchange::start(SimConfig::new([market("ADABTC", 90_000)]).with_fault(silent));
    let scene = Scene::new();
    let (source, span) = (exchange.source("binance"), range(0, 90_000));
    let words = fill("ADABTC", &source, &span, &[]);
    let child = scene.command(&words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let started = Instant::now();
    while exchange.klines().iter().filter(|record| record.fault.is_some()).count() < 8 {
        assert!(started.elapsed() < Duration::from_secs(60), "it never comes to a stop");
        std::thread::yield_now();
    }
    let interrupted = Instant::now();
    let run = interrupt(child);
    // A second by itself; a request would wait for half a minute.
    assert!(interrupted.elapsed() < Duration::from_secs(10), "{:?}", interrupted.elapsed());
    assert_eq!(run.code, Some(130), "{run:?}");
    assert!(run.stderr.contains("interrupted"), "{run:?}");
    exchange.sim.clear_faults();
    let rest = scene.json(&words);
    assert_eq!((&rest["missing"], scene.run(&["verify"]).code), (&json!([]), Some(0)));
    assert_eq!(scene.json(&["ls"])["series"][0]["rows"], json!(90_000));
    exchange.stop();
}

#[test]
fn the_forming_bar_is_not_stored() {
    let now = (START + 100) * 60_000 + 30_000;
    let config = SimConfig::new([market("ADABTC", 200)]).with_clock(SimClock::Frozen(now));
    let exchange = Exchange::start(config);
    let scene = Scene::new();
    // By our clock the bars have closed long ago, by the exchange's they have not.
    let run = scene.run(&fill("ADABTC", &exchange.source("binance"), &range(0, 200), &["--json"]));
    assert_eq!(run.code, Some(3), "{run:?}");
    assert_eq!(run.object()["present"], pairs(START..START + 100));
    assert_eq!(run.object()["missing"], pairs(START + 100..START + 200));
    assert_eq!(run.object()["too_young"], json!([]), "they closed years ago by our clock");
    let told = scene.run(&fill("ADABTC", &exchange.source("binance"), &range(0, 200), &[])).stdout;
    assert!(told.contains("by the source's clock and") && told.contains("is not asked for"), "{told}");
    exchange.stop();
}
