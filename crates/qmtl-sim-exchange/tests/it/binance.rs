//! The API of Binance spot.

use std::time::Duration;

use hyper::{Method, StatusCode};
use qmtl_sim_exchange::{Candle, Endpoint, SimClock, SimConfig, SimExchange};
use serde_json::json;

use crate::client::{MINUTE, START, config, get, head, market, request, serve, whole};

#[tokio::test]
async fn a_page_starts_at_start_time_and_ends_with_end_time_inclusive() {
    let sim = serve(100).await;
    let (first, last) = (START + MINUTE, START + 3 * MINUTE);
    let page =
        get(&sim, &format!("/api/v3/klines?symbol=ADABTC&interval=1m&startTime={first}&endTime={last}"))
            .await;
    assert_eq!(page.status, StatusCode::OK);
    assert_eq!(page.times(), [first, first + MINUTE, last]);
    assert_eq!(page.header("content-type"), Some("application/json;charset=UTF-8"));
    // One millisecond less leaves the last bar out, one more at the start the first.
    let (first, last) = (first + 1, last - 1);
    let page =
        get(&sim, &format!("/api/v3/klines?symbol=ADABTC&interval=1m&startTime={first}&endTime={last}"))
            .await;
    assert_eq!(page.times(), [START + 2 * MINUTE]);
}

#[tokio::test]
async fn a_row_is_the_candle_to_the_last_digit() {
    let sim = serve(3).await;
    let row = &get(&sim, "/api/v3/klines?symbol=ADABTC&interval=1m").await.json()[1];
    let candle = market(3).candles()[1];
    let number = |at: usize| row[at].as_str().unwrap().parse::<f64>().unwrap();
    assert_eq!(row.as_array().unwrap().len(), 12);
    assert_eq!((row[0].as_i64(), row[6].as_i64()), (Some(START + MINUTE), Some(START + 2 * MINUTE - 1)));
    assert_eq!(
        [1, 2, 3, 4, 5].map(number),
        [candle.open, candle.high, candle.low, candle.close, candle.volume]
    );
    assert_eq!([7, 9, 10].map(number), [candle.quote_volume, candle.taker_base, candle.taker_quote]);
    assert_eq!((&row[8], &row[11]), (&json!(1), &json!("0")));
}

#[tokio::test]
async fn without_start_time_the_newest_rows_come_and_500_by_default() {
    let sim = serve(1_500).await;
    let page = get(&sim, "/api/v3/klines?symbol=ADABTC&interval=1m").await.times();
    assert_eq!((page.len(), page[0], page[499]), (500, START + 1_000 * MINUTE, START + 1_499 * MINUTE));
    let end = START + 10 * MINUTE;
    let page = get(&sim, &format!("/api/v3/klines?symbol=ADABTC&interval=1m&endTime={end}&limit=2")).await;
    assert_eq!(page.times(), [end - MINUTE, end]);
    let page =
        get(&sim, &format!("/api/v3/klines?symbol=ADABTC&interval=1m&startTime={START}&limit=5000")).await;
    assert_eq!(page.times().len(), 1_000);
}

#[tokio::test]
async fn the_forming_bar_is_the_last_row_and_the_future_does_not_exist() {
    let sim = serve(10).await;
    sim.set_now(START + 4 * MINUTE + 15_000);
    let rows = get(&sim, "/api/v3/klines?symbol=ADABTC&interval=1m&endTime=9999999999999").await.json();
    assert_eq!(rows.as_array().unwrap().len(), 5);
    let (forming, full) = (&rows[4], market(10).candles()[4]);
    assert_eq!(forming[0], json!(START + 4 * MINUTE));
    assert_eq!(forming[4], forming[1]);
    let volume: f64 = forming[5].as_str().unwrap().parse().unwrap();
    assert_eq!(volume, full.volume * 0.25);
    sim.advance(Duration::from_secs(45));
    let rows = get(&sim, "/api/v3/klines?symbol=ADABTC&interval=1m").await.json();
    assert_eq!(rows[4][5], json!(full.volume.to_string()));
    assert_eq!(rows.as_array().unwrap().len(), 6);
}

#[tokio::test]
async fn before_the_listing_and_in_holes_there_are_no_rows() {
    let market = market(100).with_hole(START + 10 * MINUTE..START + 90 * MINUTE);
    let sim = SimExchange::start(SimConfig::new([market])).await.unwrap();
    let page = get(&sim, "/api/v3/klines?symbol=ADABTC&interval=1m&startTime=0&endTime=1704067199999").await;
    assert_eq!((page.status, page.text()), (StatusCode::OK, "[]"));
    let first = START + 9 * MINUTE;
    let page =
        get(&sim, &format!("/api/v3/klines?symbol=ADABTC&interval=1m&startTime={first}&limit=2")).await;
    assert_eq!(page.times(), [first, START + 90 * MINUTE]);
    let page =
        get(&sim, &format!("/api/v3/klines?symbol=ADABTC&interval=1m&startTime={first}&endTime={START}"))
            .await;
    assert_eq!(page.text(), "[]");
}

#[tokio::test]
async fn errors_are_the_exchanges_own() {
    let sim = serve(3).await;
    let cases = [
        ("symbol=DOGEBTC&interval=1m", r#"{"code":-1121,"msg":"Invalid symbol."}"#),
        ("symbol=ADABTC&interval=5m", r#"{"code":-1120,"msg":"Invalid interval."}"#),
        ("symbol=ADABTC&interval=60", r#"{"code":-1120,"msg":"Invalid interval."}"#),
        (
            "interval=1m",
            r#"{"code":-1102,"msg":"Mandatory parameter 'symbol' was not sent, was empty/null, or malformed."}"#,
        ),
        (
            "symbol=ADABTC&interval=1m&startTime=soon",
            r#"{"code":-1100,"msg":"Illegal characters found in parameter 'startTime'; legal range is '^[0-9]{1,20}$'."}"#,
        ),
    ];
    for (query, body) in cases {
        let got = get(&sim, &format!("/api/v3/klines?{query}")).await;
        assert_eq!((got.status, got.text()), (StatusCode::BAD_REQUEST, body), "{query}");
        // A refusal has its weight too.
        assert!(got.header("x-mbx-used-weight-1m").is_some());
    }
}

#[tokio::test]
async fn time_ping_and_exchange_info_follow_the_clock() {
    let sim = serve(3).await;
    sim.set_now(1_700_000_000_123);
    assert_eq!(get(&sim, "/api/v3/time").await.text(), r#"{"serverTime":1700000000123}"#);
    assert_eq!(get(&sim, "/api/v3/ping").await.text(), "{}");
    let info = get(&sim, "/api/v3/exchangeInfo").await.json();
    assert_eq!(info["serverTime"], json!(1_700_000_000_123_i64));
    assert_eq!(info["symbols"][0]["symbol"], json!("ADABTC"));
    assert_eq!(info["rateLimits"][0]["limit"], json!(6_000));
    assert_eq!(get(&sim, "/api/v3/depth").await.status, StatusCode::NOT_FOUND);
    let post = hyper::Request::builder().method(Method::POST).uri("/api/v3/ping").header("host", "sim");
    let got = head(&sim, post.body(http_body_util::Empty::new()).unwrap()).await.unwrap();
    assert_eq!(got.status(), StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn weight_runs_out_with_429_then_418_and_comes_back() {
    let sim = SimExchange::start(config(3).with_weight_limit(4)).await.unwrap();
    sim.set_now(START + 10 * MINUTE + 59_000);
    let klines = "/api/v3/klines?symbol=ADABTC&interval=1m";
    assert_eq!(get(&sim, klines).await.header("x-mbx-used-weight-1m"), Some("2"));
    assert_eq!(get(&sim, klines).await.header("x-mbx-used-weight-1m"), Some("4"));
    let refused = get(&sim, klines).await;
    assert_eq!((refused.status, refused.header("retry-after")), (StatusCode::TOO_MANY_REQUESTS, Some("1")));
    assert_eq!(refused.json()["code"], json!(-1003));
    sim.advance(Duration::from_secs(1));
    assert_eq!(get(&sim, klines).await.status, StatusCode::OK);

    let mut statuses = Vec::new();
    for _ in 0..12 {
        statuses.push(get(&sim, klines).await.status.as_u16());
    }
    assert_eq!(statuses, [200, 429, 429, 429, 429, 429, 429, 429, 429, 429, 429, 418]);
    let banned = get(&sim, klines).await;
    assert_eq!((banned.status, banned.header("retry-after")), (StatusCode::IM_A_TEAPOT, Some("120")));
    assert!(banned.text().contains(&format!("IP banned until {}", sim.now() + 120_000)), "{}", banned.text());
    sim.advance(Duration::from_secs(120));
    assert_eq!(get(&sim, klines).await.status, StatusCode::OK);
}

#[tokio::test]
async fn the_log_tells_what_was_asked_and_answered() {
    let sim = serve(20).await;
    let query = format!("symbol=ADABTC&interval=1m&startTime={START}&limit=7");
    get(&sim, &format!("/api/v3/klines?{query}")).await;
    get(&sim, "/api/v3/klines?symbol=ADABTC").await;
    let log = sim.requests();
    let asked = log[0].asked.as_ref().unwrap();
    assert_eq!(
        (asked.market.as_str(), asked.first, asked.last, asked.limit),
        ("ADABTC", Some(START), None, 7)
    );
    assert_eq!((log[0].number, log[0].time, log[0].method.as_str()), (1, START + 20 * MINUTE, "GET"));
    assert_eq!((log[0].path.as_str(), log[0].query.as_str()), ("/api/v3/klines", query.as_str()));
    assert_eq!(log[0].endpoint, Endpoint::Klines);
    assert_eq!((log[0].status, log[0].rows, log[0].param("limit")), (Some(200), 7, Some("7".into())));
    assert_eq!((log[1].status, log[1].rows, &log[1].asked), (Some(400), 0, &None));
    sim.clear_requests();
    get(&sim, "/api/v3/ping").await;
    assert_eq!(sim.requests().iter().map(|r| r.number).collect::<Vec<_>>(), [3]);
}

#[tokio::test]
async fn revised_candles_are_served_from_then_on() {
    let sim = serve(3).await;
    let revised = Candle::new(START + MINUTE, [1.0, 3.0, 0.5, 2.0], 9.0);
    let added = Candle::new(START + 3 * MINUTE, [2.0; 4], 1.0);
    sim.revise("ADABTC", "1m", vec![revised, added]).unwrap();
    sim.advance(Duration::from_secs(60));
    let rows = get(&sim, "/api/v3/klines?symbol=ADABTC&interval=1m").await.json();
    assert_eq!((rows.as_array().unwrap().len(), &rows[1][4]), (4, &json!("2")));
    sim.remove("ADABTC", "1m", START..START + 2 * MINUTE).unwrap();
    assert_eq!(get(&sim, "/api/v3/klines?symbol=ADABTC&interval=1m").await.times()[0], START + 2 * MINUTE);
    let off_grid = Candle::new(START + 1, [1.0; 4], 1.0);
    assert!(
        sim.revise("ADABTC", "1m", vec![off_grid]).unwrap_err().to_string().contains("not on the grid of 1m")
    );
    assert!(sim.remove("ADABTC", "5m", 0..1).unwrap_err().to_string().contains("no market ADABTC 5m"));
}

#[tokio::test]
async fn a_running_clock_runs_and_can_be_set() {
    tokio::time::pause();
    let sim = SimExchange::start(config(3).with_clock(SimClock::Running(5_000))).await.unwrap();
    tokio::time::advance(Duration::from_secs(2)).await;
    assert_eq!(sim.now(), 7_000);
    sim.set_now(1_000);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(sim.now(), 2_000);
    sim.advance(Duration::from_secs(8));
    assert_eq!(sim.now(), 10_000);
}

#[tokio::test]
async fn connections_are_kept_alive() {
    let sim = serve(3).await;
    let stream = tokio::net::TcpStream::connect(sim.addr()).await.unwrap();
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    for _ in 0..3 {
        let response = sender.send_request(request("/api/v3/ping")).await.unwrap();
        assert_eq!(whole(response).await.unwrap().text(), "{}");
    }
}
