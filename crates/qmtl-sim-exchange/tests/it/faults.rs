//! Every fault, by what a client sees of it.

use std::io::Read;
use std::time::Duration;

use flate2::read::GzDecoder;
use http_body_util::BodyExt;
use hyper::StatusCode;
use qmtl_sim_exchange::{Fault, FaultRule, SimExchange, Target, When};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::client::{Got, MINUTE, START, config, get, head, request, serve, try_get};

const KLINES: &str = "/api/v3/klines?symbol=ADABTC&interval=1m&startTime=1704067500000&limit=10";
const CANDLES: &str = "/products/ADA-BTC/candles?granularity=60&start=1704067500&end=1704068040";
const DAILY: &str = "/data/spot/daily/klines/ADABTC/1m/ADABTC-1m-2024-01-01.zip";
/// The first opening time that [`KLINES`] and [`CANDLES`] ask for.
const FIRST: i64 = START + 5 * MINUTE;

/// A server on which every request for candles meets this fault.
async fn with(fault: Fault) -> SimExchange {
    let rule = FaultRule::new(fault, When::Always);
    SimExchange::start(config(1_440).with_body_cap(4 << 20).with_fault(rule)).await.unwrap()
}

fn right() -> Vec<i64> {
    (0..10).map(|bar| FIRST + bar * MINUTE).collect()
}

#[tokio::test]
async fn refusals_have_their_status_and_retry_after() {
    for (fault, status) in [(Fault::TooManyRequests(Some(7)), 429), (Fault::Banned(Some(7)), 418)] {
        let sim = with(fault.clone()).await;
        for path in [KLINES, CANDLES, DAILY] {
            let got = get(&sim, path).await;
            assert_eq!((got.status.as_u16(), got.header("retry-after")), (status, Some("7")), "{path}");
        }
        assert_eq!(get(&sim, KLINES).await.json()["code"], json!(-1003));
        assert_eq!(get(&sim, CANDLES).await.json()["message"].as_str().map(str::is_empty), Some(false));
        assert_eq!(sim.requests()[0].fault, Some(fault));
        assert_eq!(sim.requests()[0].status, Some(status));
    }
    let got = get(&with(Fault::TooManyRequests(None)).await, KLINES).await;
    assert_eq!((got.status, got.header("retry-after")), (StatusCode::TOO_MANY_REQUESTS, None));
}

#[tokio::test]
async fn the_firewall_and_broken_servers_answer_html() {
    let cases = [
        (Fault::Forbidden, 403),
        (Fault::InternalError, 500),
        (Fault::BadGateway, 502),
        (Fault::Unavailable, 503),
        (Fault::WrongContentType, 200),
    ];
    for (fault, status) in cases {
        let got = get(&with(fault).await, KLINES).await;
        assert_eq!((got.status.as_u16(), got.header("content-type")), (status, Some("text/html")));
        assert!(got.text().starts_with("<html>"));
    }
}

#[tokio::test]
async fn an_error_comes_in_a_200() {
    let sim = with(Fault::ErrorInOk).await;
    let got = get(&sim, KLINES).await;
    assert_eq!((got.status, &got.json()["code"]), (StatusCode::OK, &json!(-1001)));
    assert!(get(&sim, CANDLES).await.json()["message"].is_string());
    assert!(get(&sim, DAILY).await.text().contains("<Error>"));
}

#[tokio::test]
async fn a_redirect_points_to_the_same_path_elsewhere() {
    let got = get(&with(Fault::Redirect("http://elsewhere.invalid/".into())).await, KLINES).await;
    assert_eq!(got.status, StatusCode::FOUND);
    assert_eq!(got.header("location"), Some(format!("http://elsewhere.invalid{KLINES}").as_str()));
}

#[tokio::test]
async fn garbage_arrives_whole_and_is_no_json() {
    let sim = with(Fault::GarbageJson).await;
    for path in [KLINES, CANDLES] {
        let got = get(&sim, path).await;
        assert_eq!(got.status, StatusCode::OK);
        assert_eq!(got.header("content-length"), Some(got.body.len().to_string().as_str()));
        assert!(serde_json::from_slice::<serde_json::Value>(&got.body).is_err());
    }
}

#[tokio::test]
async fn huge_numbers_are_beyond_a_double() {
    let sim = with(Fault::HugeNumbers).await;
    let rows = get(&sim, KLINES).await.json();
    assert_eq!(rows[0][1].as_str().unwrap().parse::<f64>().unwrap(), f64::INFINITY);
    assert_eq!(rows[0][0], json!(FIRST));
    assert!(get(&sim, CANDLES).await.text().contains(&"0".repeat(400)));
}

#[tokio::test]
async fn a_page_that_does_not_advance_lies_on_the_near_side_of_what_was_asked() {
    let sim = with(Fault::NotAdvancing).await;
    let before: Vec<i64> = right().iter().map(|time| time - 10 * MINUTE).collect();
    assert_eq!(get(&sim, KLINES).await.times(), before);
    let after: Vec<i64> = right().iter().map(|time| time + 10 * MINUTE).collect();
    let newest_first: Vec<i64> = after.iter().rev().map(|time| time / 1_000).collect();
    assert_eq!(get(&sim, CANDLES).await.times(), newest_first);
    // An empty page would look like proof of no bars.
    let empty = "/api/v3/klines?symbol=ADABTC&interval=1m&startTime=60000&endTime=120000";
    assert_eq!(get(&sim, empty).await.times(), [0]);
}

#[tokio::test]
async fn rows_are_unsorted_doubled_off_the_grid_or_in_another_unit() {
    let sim = with(Fault::Unsorted).await;
    let mut rotated = right();
    rotated.rotate_left(5);
    assert_eq!(get(&sim, KLINES).await.times(), rotated);
    assert!(!get(&sim, CANDLES).await.times().is_sorted_by(|a, b| a > b));

    let sim = with(Fault::Duplicated).await;
    let times = get(&sim, KLINES).await.times();
    assert_eq!((times.len(), times.iter().filter(|time| **time == FIRST).count()), (11, 2));

    let sim = with(Fault::OffGrid).await;
    let off: Vec<i64> =
        get(&sim, KLINES).await.times().into_iter().filter(|time| time % MINUTE != 0).collect();
    assert_eq!(off, [FIRST + 5 * MINUTE + MINUTE / 2]);

    let sim = with(Fault::WrongTimeUnit).await;
    assert_eq!(get(&sim, KLINES).await.times()[0], FIRST / 1_000);
    assert_eq!(get(&sim, CANDLES).await.times()[9], FIRST);
}

#[tokio::test]
async fn an_archive_with_a_fault_disagrees_with_its_checksum() {
    let sim = serve(1_440).await;
    let (file, sum) = (get(&sim, DAILY).await, get(&sim, &format!("{DAILY}.CHECKSUM")).await);
    sim.inject(FaultRule::new(Fault::OffGrid, When::Always));
    assert_ne!(get(&sim, DAILY).await.body, file.body);
    assert_eq!(get(&sim, &format!("{DAILY}.CHECKSUM")).await.body, sum.body);
    sim.clear_faults();
    assert_eq!(get(&sim, DAILY).await.body, file.body);
}

#[tokio::test]
async fn a_truncated_body_is_shorter_than_promised() {
    let sim = with(Fault::Truncated).await;
    for path in [KLINES, CANDLES, DAILY] {
        let response = head(&sim, request(path)).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let promised: usize = response.headers()["content-length"].to_str().unwrap().parse().unwrap();
        let (received, end) = drain(response.into_body()).await;
        assert_eq!(received.len(), promised / 2);
        let error = end.unwrap_err();
        let cause = std::error::Error::source(&error).unwrap().downcast_ref::<std::io::Error>().unwrap();
        assert_eq!(cause.kind(), std::io::ErrorKind::UnexpectedEof);
    }
}

#[tokio::test]
async fn an_endless_body_goes_on_to_the_cap_and_breaks() {
    let response = head(&with(Fault::Endless).await, request(KLINES)).await.unwrap();
    assert_eq!((response.status(), response.headers().get("content-length")), (StatusCode::OK, None));
    let (received, end) = drain(response.into_body()).await;
    assert!(end.is_err());
    assert!(2 << 20 <= received.len() && received.len() <= 4 << 20, "{}", received.len());
    assert!(received.starts_with(b"[[1515560100000,"));
}

#[tokio::test]
async fn a_bomb_inflates_to_the_cap() {
    let got = get(&with(Fault::Bomb).await, KLINES).await;
    assert_eq!(got.header("content-encoding"), Some("gzip"));
    assert!(got.body.len() < 20_000, "{}", got.body.len());
    let mut inflated = Vec::new();
    GzDecoder::new(&got.body[..]).read_to_end(&mut inflated).unwrap();
    assert_eq!(inflated.len(), 4 << 20);
}

#[tokio::test(start_paused = true)]
async fn a_slow_body_takes_a_second_a_byte() {
    let sim = with(Fault::Slow).await;
    let started = tokio::time::Instant::now();
    let got = try_get(&sim, "/api/v3/klines?symbol=ADABTC&interval=1m&endTime=0").await.unwrap();
    assert_eq!(got.text(), "[]");
    assert!(started.elapsed() >= Duration::from_secs(2));
    let started = tokio::time::Instant::now();
    let got = try_get(&sim, KLINES).await.unwrap();
    assert_eq!(got.times(), right());
    assert!(started.elapsed() >= Duration::from_secs(u64::try_from(got.body.len()).unwrap()));
}

#[tokio::test]
async fn a_reset_comes_before_any_byte() {
    let sim = with(Fault::Reset).await;
    assert!(try_get(&sim, KLINES).await.is_err());
    let mut stream = TcpStream::connect(sim.addr()).await.unwrap();
    stream.write_all(format!("GET {KLINES} HTTP/1.1\r\nhost: sim\r\n\r\n").as_bytes()).await.unwrap();
    let error = stream.read_to_end(&mut Vec::new()).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!((sim.requests()[0].status, &sim.requests()[0].fault), (None, &Some(Fault::Reset)));
}

#[tokio::test]
async fn silence_lasts_until_the_server_stops() {
    let sim = with(Fault::Silent).await;
    let mut stream = TcpStream::connect(sim.addr()).await.unwrap();
    stream.write_all(format!("GET {KLINES} HTTP/1.1\r\nhost: sim\r\n\r\n").as_bytes()).await.unwrap();
    // Another connection is served meanwhile, after the silent request was read.
    while sim.requests().is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(get(&sim, "/api/v3/ping").await.text(), "{}");
    let nothing = stream.try_read(&mut [0; 1]).unwrap_err();
    assert_eq!(nothing.kind(), std::io::ErrorKind::WouldBlock);
    sim.stop().await;
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap_or(0), 0);
}

async fn drain(mut body: hyper::body::Incoming) -> (Vec<u8>, hyper::Result<()>) {
    let mut received = Vec::new();
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => received.extend_from_slice(frame.data_ref().unwrap()),
            Err(e) => return (received, Err(e)),
        }
    }
    (received, Ok(()))
}

/// The numbers of the requests that met the fault, of `count`.
async fn struck(rule: FaultRule, count: u64) -> Vec<u64> {
    let sim = SimExchange::start(config(10).with_fault(rule)).await.unwrap();
    for _ in 0..count {
        get(&sim, KLINES).await;
    }
    sim.requests().iter().filter(|r| r.fault.is_some()).map(|r| r.number).collect()
}

#[tokio::test]
async fn schedules_pick_their_requests() {
    let rule = |when| FaultRule::new(Fault::Forbidden, when);
    assert_eq!(struck(rule(When::Every(3)), 10).await, [3, 6, 9]);
    assert_eq!(struck(rule(When::Every(0)), 3).await, [0_u64; 0]);
    assert_eq!(struck(rule(When::Once), 4).await, [1]);
    assert_eq!(struck(rule(When::Numbers(vec![2, 4])), 5).await, [2, 4]);
    assert_eq!(struck(rule(When::matching(|request| request.number == 5)), 6).await, [5]);
    let random = struck(rule(When::Random(0.5, 3)), 40).await;
    assert!((5..=35).contains(&random.len()), "{random:?}");
    assert_eq!(struck(rule(When::Random(0.5, 3)), 40).await, random);
    assert_ne!(struck(rule(When::Random(0.5, 4)), 40).await, random);
}

#[tokio::test]
async fn a_rule_counts_only_what_it_covers() {
    let sim = serve(1_440).await;
    sim.inject(FaultRule::new(Fault::Forbidden, When::Numbers(vec![2])));
    sim.inject(FaultRule::new(Fault::BadGateway, When::Once).with_target(Target::Archives));
    let mut statuses = Vec::new();
    for path in ["/api/v3/time", KLINES, "/api/v3/ping", CANDLES, DAILY, DAILY] {
        statuses.push(get(&sim, path).await.status.as_u16());
    }
    assert_eq!(statuses, [200, 200, 200, 403, 502, 200]);
    sim.inject(FaultRule::new(Fault::Unavailable, When::Always).with_target(Target::Any));
    assert_eq!(get(&sim, "/time").await.status.as_u16(), 503);
}

#[tokio::test]
async fn every_fault_is_visible_and_leaves_the_server_well() {
    for fault in Fault::all() {
        let sim = with(fault.clone()).await;
        let seen: Option<Got> = match fault {
            Fault::Slow | Fault::Silent => {
                // The head comes at once or not at all; the rest is tested above.
                let sent = head(&sim, request(KLINES));
                tokio::select! { _ = sent => {}, () = logged(&sim) => {} }
                None
            }
            _ => try_get(&sim, KLINES).await.ok(),
        };
        let whole =
            seen.filter(|got| got.status == StatusCode::OK && got.header("content-encoding").is_none());
        let times =
            whole.and_then(|got| serde_json::from_slice::<serde_json::Value>(&got.body).ok()).map(|rows| {
                let numbers = |row: &serde_json::Value| row[1].as_str().is_some_and(|text| text.len() < 400);
                let rows = rows.as_array().cloned().unwrap_or_default();
                rows.iter().filter(|row| numbers(row)).map(|row| row[0].as_i64().unwrap()).collect::<Vec<_>>()
            });
        assert_ne!(times, Some(right()), "{}", fault.name());
        assert_eq!(sim.requests()[0].fault.as_ref(), Some(&fault));
        sim.clear_faults();
        assert_eq!(get(&sim, KLINES).await.times(), right(), "{}", fault.name());
    }
}

async fn logged(sim: &SimExchange) {
    while sim.requests().is_empty() {
        tokio::task::yield_now().await;
    }
}

#[test]
fn the_text_form_names_fault_and_schedule() {
    let parse = |text: &str| text.parse::<FaultRule>().map(|rule| format!("{rule:?}"));
    for fault in Fault::all().into_iter().chain(Fault::quiet()) {
        assert_eq!(fault.name().parse::<Fault>().unwrap().name(), fault.name());
    }
    assert_eq!("429=30".parse::<Fault>().unwrap(), Fault::TooManyRequests(Some(30)));
    assert_eq!("redirect=http://a@b".parse::<Fault>().unwrap(), Fault::Redirect("http://a@b".into()));
    assert_eq!("short-page=500".parse::<Fault>().unwrap(), Fault::ShortPage(500));
    assert_eq!("206=500".parse::<Fault>().unwrap(), Fault::PartialContent(500));
    assert_eq!("random-part=0.25".parse::<Fault>().unwrap(), Fault::RandomPart(0.25, 0));
    assert_eq!("random-part=0.5:7".parse::<Fault>().unwrap(), Fault::RandomPart(0.5, 7));
    assert!(parse("short-page=500@every:2").unwrap().contains("every:2"));
    assert!(parse("429=30@every:5").unwrap().contains("every:5"));
    assert!(parse("truncated@3,7").unwrap().contains("[3, 7]"));
    assert!(parse("reset@random:0.25:9").unwrap().contains("random:0.25:9"));
    assert!(parse("slow@once").unwrap().contains("once"));
    let wrong = [
        ("sleepy", "fault 'sleepy' is unknown; there are 429, 418"),
        ("slow=3", "only 429, 418, redirect, short-page, 206 and random-part take a value"),
        ("429=soon", "'soon' is no number of seconds"),
        ("short-page=all", "'all' is no number of rows"),
        ("random-part=1.5", "fault 'random-part=1.5': not random-part=0.5[:SEED]"),
        ("random-part=0.5:x", "fault 'random-part=0.5:x': not random-part=0.5[:SEED]"),
        ("slow@sometimes", "schedule 'sometimes'"),
        ("slow@every:0", "schedule 'every:0'"),
        ("slow@random:1.5", "schedule 'random:1.5'"),
    ];
    for (text, message) in wrong {
        let error = parse(text).unwrap_err().to_string();
        assert!(error.contains(message), "{text}: {error}");
    }
}
