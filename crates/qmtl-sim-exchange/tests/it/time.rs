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
