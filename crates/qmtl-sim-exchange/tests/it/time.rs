//! The time that the server says, and the versions in which its bars come out.

use std::time::Duration;

use qmtl_sim_exchange::{Fault, FaultRule, SimExchange, Target, When};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::{MINUTE, START, config, get, serve};

const KLINES: &str = "/api/v3/klines?symbol=ADABTC&interval=1m";
const CANDLES: &str = "/products/ADA-BTC/candles?granularity=60";
const DAILY: &str = "/data/spot/daily/klines/ADABTC/1m/ADABTC-1m-2024-01-01.zip";

#[tokio::test]
async fn every_answer_has_the_date_of_the_servers_clock() {
    let sim = serve(10).await;
    sim.set_now(START + 1_999);
    let paths = [KLINES, CANDLES, DAILY, "/api/v3/time", "/api/v3/ping", "/api/v3/klines", "/time", "/none"];
    for path in paths {
        let got = get(&sim, path).await;
        // One date, and not that of the machine.
        let dates: Vec<_> = got.headers.get_all("date").iter().collect();
        assert_eq!(dates, ["Mon, 01 Jan 2024 00:00:01 GMT"], "{path}");
    }
    sim.advance(Duration::from_secs(86_400));
    assert_eq!(get(&sim, KLINES).await.header("date"), Some("Tue, 02 Jan 2024 00:00:01 GMT"));
    for fault in [Fault::BadGateway, Fault::Redirect("http://elsewhere.invalid".into()), Fault::Bomb] {
        sim.clear_faults();
        sim.inject(FaultRule::new(fault.clone(), When::Always).with_target(Target::Any));
        let date = get(&sim, KLINES).await.header("date").map(str::to_owned);
        assert_eq!(date.as_deref(), Some("Tue, 02 Jan 2024 00:00:01 GMT"), "{fault:?}");
    }
}

#[tokio::test]
async fn what_is_no_http_is_refused_without_a_date() {
    let sim = serve(1).await;
    let mut stream = TcpStream::connect(sim.addr()).await.unwrap();
    stream.write_all(b"NO HTTP AT ALL\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 ") && !answer.contains("date:"), "{answer}");
}

#[tokio::test]
async fn a_clock_that_lies_changes_what_is_said_and_nothing_that_is_published() {
    let ahead = 20 * 86_400_000;
    let sim = SimExchange::start(config(10).with_clock_error(ahead)).await.unwrap();
    let said = START + 10 * MINUTE + ahead;
    assert_eq!(get(&sim, "/api/v3/time").await.json(), json!({ "serverTime": said }));
    assert_eq!(get(&sim, "/api/v3/exchangeInfo").await.json()["serverTime"], json!(said));
    let coinbase = get(&sim, "/time").await;
    assert_eq!(coinbase.json()["iso"], json!("2024-01-21T00:10:00.000Z"));
    assert_eq!(coinbase.header("date"), Some("Sun, 21 Jan 2024 00:10:00 GMT"));
    let (klines, candles) = (get(&sim, KLINES).await, get(&sim, CANDLES).await);
    assert_eq!((sim.now(), sim.requests()[0].time), (START + 10 * MINUTE, START + 10 * MINUTE));
    // A file is not out before its day is over, whatever the server says of the time.
    assert_eq!(get(&sim, DAILY).await.status.as_u16(), 404);

    sim.set_clock_error(-3_600_000);
    assert_eq!(get(&sim, "/time").await.json()["iso"], json!("2023-12-31T23:10:00.000Z"));
    assert_eq!(get(&sim, KLINES).await.header("date"), Some("Sun, 31 Dec 2023 23:10:00 GMT"));
    assert_eq!(get(&sim, KLINES).await.body, klines.body);
    assert_eq!(get(&sim, CANDLES).await.body, candles.body);
}

/// The minutes from [`START`] on that both APIs have a row of.
async fn minutes(sim: &SimExchange) -> Vec<i64> {
    let klines = get(sim, KLINES).await.times();
    let mut candles: Vec<i64> = get(sim, CANDLES).await.times().iter().map(|time| time * 1_000).collect();
    candles.reverse();
    assert_eq!(klines, candles);
    klines.iter().map(|time| (time - START) / MINUTE).collect()
}

#[tokio::test]
async fn a_late_bar_appears_that_long_after_its_close() {
    let delay = Duration::from_secs(3);
    let sim = SimExchange::start(config(10).with_publish_delay(delay)).await.unwrap();
    sim.set_now(START + 4 * MINUTE + 2_999);
    assert_eq!(minutes(&sim).await, [0, 1, 2]);
    sim.advance(Duration::from_millis(1));
    assert_eq!(minutes(&sim).await, [0, 1, 2, 3]);
    // Also where the bar is asked for by name, and one that is not there is no error.
    let bar = START + 4 * MINUTE;
    let klines = format!("{KLINES}&startTime={bar}&endTime={bar}");
    let candles = format!("{CANDLES}&start={0}&end={0}", bar / 1_000);
    sim.advance(Duration::from_millis(59_999));
    for path in [&klines, &candles] {
        let got = get(&sim, path).await;
        assert_eq!((got.status.as_u16(), got.text()), (200, "[]"));
    }
    sim.advance(Duration::from_millis(1));
    assert_eq!(get(&sim, &klines).await.times(), [bar]);
    assert_eq!(get(&sim, &candles).await.times(), [bar / 1_000]);
    // Of the newest rows those count that are out.
    assert_eq!(get(&sim, &format!("{KLINES}&limit=2")).await.times(), [bar - MINUTE, bar]);

    sim.set_publish_delay(Duration::ZERO);
    assert_eq!(minutes(&sim).await, [0, 1, 2, 3, 4, 5]);
    sim.set_publish_delay(Duration::from_secs(600));
    assert_eq!(minutes(&sim).await, [0_i64; 0]);
}

#[tokio::test]
async fn a_first_version_is_replaced_by_the_final_one() {
    let sim = serve(10).await;
    let (bar, last) = (START + 3 * MINUTE, START + 4 * MINUTE);
    let klines = format!("{KLINES}&startTime={bar}&endTime={bar}");
    let candles = format!("{CANDLES}&start={0}&end={0}", bar / 1_000);
    sim.set_now(last - MINUTE / 2);
    let halfway = (get(&sim, &klines).await.body, get(&sim, &candles).await.body);
    sim.set_now(last);
    let right = (get(&sim, &klines).await.body, get(&sim, &candles).await.body);
    assert!(halfway.0 != right.0 && halfway.1 != right.1);

    sim.set_first_version(Duration::from_secs(90));
    for (after_close, expected) in [(0, &halfway), (89_999, &halfway), (90_000, &right), (600_000, &right)] {
        sim.set_now(last + after_close);
        let seen = (get(&sim, &klines).await.body, get(&sim, &candles).await.body);
        assert_eq!(&seen, expected, "{after_close}");
    }
}

#[tokio::test]
async fn archives_have_every_bar_in_its_final_version() {
    let sim = serve(1_440).await;
    let file = get(&sim, DAILY).await;
    let late = config(1_440).with_publish_delay(Duration::from_secs(5));
    let late = SimExchange::start(late.with_first_version(Duration::from_secs(600))).await.unwrap();
    assert_eq!(get(&late, DAILY).await.body, file.body);
}
