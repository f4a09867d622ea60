//! The API of Coinbase Exchange.

use hyper::StatusCode;
use qmtl_sim_exchange::{Candle, Market, SimClock, SimConfig, SimExchange};
use serde_json::json;

use crate::client::{MINUTE, START, get, market, serve};

#[tokio::test]
async fn candles_come_newest_first_as_numbers() {
    let sim = serve(10).await;
    let path = "/products/ADA-BTC/candles?granularity=60&start=2024-01-01T00:01:00Z&end=2024-01-01T00:03:00Z";
    let page = get(&sim, path).await;
    assert_eq!(page.status, StatusCode::OK);
    let seconds = |minute: i64| (START + minute * MINUTE) / 1_000;
    assert_eq!(page.times(), [seconds(3), seconds(2), seconds(1)]);
    let candle = market(10).candles()[3];
    let row = json!([seconds(3), candle.low, candle.high, candle.open, candle.close, candle.volume]);
    assert_eq!(page.json()[0], row);
    // Epoch seconds say the same.
    let path = format!("/products/ADA-BTC/candles?granularity=60&start={}&end={}", seconds(1), seconds(3));
    assert_eq!(get(&sim, &path).await.body, page.body);
}

#[tokio::test]
async fn without_a_window_the_newest_300_bars_are_meant() {
    let sim = serve(1_000).await;
    for path in ["/products/ADA-BTC/candles?granularity=60", "/products/ADA-BTC/candles?start=1704067200"] {
        let times = get(&sim, path).await.times();
        assert_eq!((times.len(), times[0]), (300, (START + 999 * MINUTE) / 1_000), "{path}");
    }
}

#[tokio::test]
async fn of_301_bars_the_newest_300_come() {
    let sim = serve(400).await;
    let (start, end) = (START / 1_000, START / 1_000 + 300 * 60);
    let times =
        get(&sim, &format!("/products/ADA-BTC/candles?granularity=60&start={start}&end={end}")).await.times();
    assert_eq!((times.len(), times[0], times[299]), (300, end, start + 60));
}

#[tokio::test]
async fn a_bar_without_trades_has_no_row() {
    let mut candles = market(5).candles().to_vec();
    candles[2] = Candle::new(candles[2].open_time, [1.0; 4], 0.0);
    let market = Market::new("ADABTC", "1m", candles).unwrap().with_product("ADA-BTC");
    let config = SimConfig::new([market]).with_clock(SimClock::Frozen(START + 5 * MINUTE));
    let sim = SimExchange::start(config).await.unwrap();
    let times = get(&sim, "/products/ADA-BTC/candles?granularity=60").await.times();
    assert_eq!(times.iter().map(|time| (time * 1_000 - START) / MINUTE).collect::<Vec<_>>(), [4, 3, 1, 0]);
    // Binance has one, with a volume of nothing.
    assert_eq!(get(&sim, "/api/v3/klines?symbol=ADABTC&interval=1m").await.json()[2][5], json!("0"));
}

#[tokio::test]
async fn errors_are_the_exchanges_own() {
    let sim = serve(3).await;
    let long =
        "granularity too small for the requested time range. Count of aggregations requested exceeds 300";
    let cases = [
        ("/products/ADA-EUR/candles?granularity=60", 404, "NotFound"),
        ("/products/ADA-BTC/candles?granularity=300", 400, "Unsupported granularity"),
        ("/products/ADA-BTC/candles?granularity=61", 400, "Unsupported granularity"),
        ("/products/ADA-BTC/candles?granularity=60&start=2024-01-01&end=2024-01-02", 400, long),
        ("/products/ADA-BTC/candles?granularity=60&start=soon&end=2024-01-02", 400, "Invalid start"),
    ];
    for (path, status, message) in cases {
        let got = get(&sim, path).await;
        assert_eq!((got.status.as_u16(), got.json()), (status, json!({ "message": message })), "{path}");
    }
}

#[tokio::test]
async fn time_comes_in_both_forms() {
    let sim = serve(3).await;
    sim.set_now(START + 250);
    assert_eq!(
        get(&sim, "/time").await.text(),
        r#"{"iso":"2024-01-01T00:00:00.250Z","epoch":1704067200.250}"#
    );
}
