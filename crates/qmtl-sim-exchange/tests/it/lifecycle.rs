//! Starting, stopping, latency, and what is refused before anything runs.

use std::path::Path;
use std::time::Duration;

use qmtl_sim_exchange::{Candle, Market, SimClock, SimConfig, SimExchange};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::client::{START, config, get, market, serve, try_get};

#[tokio::test]
async fn it_listens_on_loopback_only_and_gives_its_address() {
    let sim = serve(3).await;
    assert!(sim.addr().ip().is_loopback());
    assert_eq!(sim.base_url(), format!("http://127.0.0.1:{}", sim.addr().port()));
    let error = SimExchange::start(config(3).with_port(sim.addr().port())).await.unwrap_err().to_string();
    assert!(error.starts_with(&format!("binding 127.0.0.1:{}: ", sim.addr().port())), "{error}");
}

#[tokio::test]
async fn stopping_closes_the_port_and_every_connection() {
    let sim = serve(3).await;
    let addr = sim.addr();
    get(&sim, "/api/v3/ping").await;
    let mut idle = TcpStream::connect(addr).await.unwrap();
    sim.stop().await;
    assert_eq!(idle.read(&mut [0; 1]).await.unwrap_or(0), 0);
    assert!(TcpStream::connect(addr).await.is_err());

    let sim = serve(3).await;
    let mut idle = TcpStream::connect(sim.addr()).await.unwrap();
    drop(sim);
    assert_eq!(idle.read(&mut [0; 1]).await.unwrap_or(0), 0);
}

#[tokio::test(start_paused = true)]
async fn an_answer_takes_the_latency() {
    let sim = SimExchange::start(config(3).with_latency(Duration::from_secs(20))).await.unwrap();
    let started = tokio::time::Instant::now();
    try_get(&sim, "/api/v3/ping").await.unwrap();
    assert_eq!((started.elapsed() + Duration::from_millis(5)).as_secs(), 20);
}

#[tokio::test]
async fn the_bundled_candles_are_a_market() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/data/ADABTC-5m.csv");
    let market = Market::from_csv("ADABTC", "5m", &path).unwrap();
    assert_eq!(market.candles().len(), 5_720);
    let sim = SimExchange::start(SimConfig::new([market])).await.unwrap();
    let first = get(&sim, "/api/v3/klines?symbol=ADABTC&interval=5m&startTime=0&limit=1").await.json();
    assert_eq!(first[0][0], serde_json::json!(1_515_560_100_000_i64));
    // The exact double of the file, without an exponent.
    assert_eq!(first[0][3], serde_json::json!("0.00005288"));
}

#[test]
fn candles_that_cannot_be_are_refused_with_their_place() {
    let candle = |time: i64, price: f64| Candle::new(time, [price; 4], 1.0);
    let refused = |symbol: &str, interval: &str, candles: Vec<Candle>| {
        Market::new(symbol, interval, candles).unwrap_err().to_string()
    };
    assert!(refused("ada/btc", "1m", vec![]).contains("symbol 'ada/btc'"));
    assert!(refused("A", "7m", vec![]).contains("interval '7m'"));
    assert!(refused("A", "1M", vec![]).contains("months have no fixed length"));
    assert!(
        refused("A", "1m", vec![candle(START + 1, 1.0)])
            .contains(&format!("{} is not on the grid", START + 1))
    );
    assert!(refused("A", "1m", vec![candle(-60_000, 1.0)]).contains("-60000"));
    assert!(refused("A", "1m", vec![candle(START, f64::NAN)]).contains("not finite"));
    assert!(refused("A", "1m", vec![candle(START, 1.0), candle(START, 1.0)]).contains("does not ascend"));
    let csv = |text: &str| Candle::read_csv(text.as_bytes()).unwrap_err().to_string();
    assert!(csv("time,open\n").contains("open_time,open,high,low,close,volume"));
    assert!(csv("open_time,open,high,low,close,volume\n1,2,3,x,5,6\n").contains("line: 2"));
    let missing = Market::from_csv("A", "1m", "no/such.csv").unwrap_err().to_string();
    assert!(missing.starts_with("opening no/such.csv: "), "{missing}");
}

#[tokio::test]
async fn a_market_given_twice_is_refused() {
    let error = SimExchange::start(SimConfig::new([market(1), market(2)])).await.unwrap_err();
    assert_eq!(error.to_string(), "ADABTC 1m is given twice");
    // Without a clock of its own the server takes the system's.
    let sim = SimExchange::start(SimConfig::new([market(1)]).with_clock(SimClock::System)).await.unwrap();
    assert!(sim.now() > START);
    sim.set_now(START);
    assert!((START..START + 60_000).contains(&sim.now()));
}
