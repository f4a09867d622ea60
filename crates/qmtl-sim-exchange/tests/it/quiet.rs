//! The faults that look like right answers, by what a client gets of a market that it knows.

use std::io::{Cursor, Read};

use qmtl_sim_exchange::{Candle, Fault, FaultRule, SimExchange, When};
use serde_json::{Value, json};

use crate::client::{MINUTE, START, config, get, market, serve};

const DAILY: &str = "/data/spot/daily/klines/ADABTC/1m/ADABTC-1m-2024-01-01.zip";
/// The bar with which both pages begin, and the one with which they end, counted from [`START`]. Neither
/// is on the grid of five minutes.
const FIRST: i64 = 8;
const LAST: i64 = 207;

/// A server on which every request for candles meets this fault.
async fn with(fault: Fault) -> SimExchange {
    SimExchange::start(config(1_440).with_fault(FaultRule::new(fault, When::Always))).await.unwrap()
}

/// The page from [`FIRST`] to [`LAST`] in Binance's form, as it comes.
async fn klines(sim: &SimExchange) -> Value {
    let (start, end) = (START + FIRST * MINUTE, START + LAST * MINUTE);
    let query = format!("symbol=ADABTC&interval=1m&startTime={start}&endTime={end}&limit=1000");
    let got = get(sim, &format!("/api/v3/klines?{query}")).await;
    assert!(matches!(got.status.as_u16(), 200 | 206), "{}", got.status);
    got.json()
}

/// The same in Coinbase's form, newest first as it comes.
async fn candles(sim: &SimExchange) -> Value {
    let (start, end) = ((START + FIRST * MINUTE) / 1_000, (START + LAST * MINUTE) / 1_000);
    let got = get(sim, &format!("/products/ADA-BTC/candles?granularity=60&start={start}&end={end}")).await;
    assert!(matches!(got.status.as_u16(), 200 | 206), "{}", got.status);
    got.json()
}

/// The bars of the rows, counted from [`START`], in the order of the rows; `unit` is milliseconds.
fn bars(page: &Value, unit: i64) -> Vec<i64> {
    let rows = page.as_array().unwrap().iter();
    rows.map(|row| (row[0].as_i64().unwrap() * unit - START) / MINUTE).collect()
}

async fn both(sim: &SimExchange) -> (Vec<i64>, Vec<i64>) {
    (bars(&klines(sim).await, 1), bars(&candles(sim).await, 1_000))
}

/// These bars oldest first, and newest first.
fn in_both_orders(bars: impl IntoIterator<Item = i64>) -> (Vec<i64>, Vec<i64>) {
    let ascending: Vec<i64> = bars.into_iter().collect();
    (ascending.clone(), ascending.into_iter().rev().collect())
}

/// The lines of an archive.
async fn lines(sim: &SimExchange) -> Vec<String> {
    let body = get(sim, DAILY).await.body;
    let mut text = String::new();
    zip::ZipArchive::new(Cursor::new(body)).unwrap().by_index(0).unwrap().read_to_string(&mut text).unwrap();
    text.lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn a_short_page_has_the_rows_that_come_first_in_the_exchanges_order() {
    for (fault, status) in [(Fault::ShortPage(50), 200), (Fault::PartialContent(50), 206)] {
        let sim = with(fault).await;
        let (binance, coinbase) = both(&sim).await;
        assert_eq!(binance, (FIRST..FIRST + 50).collect::<Vec<_>>());
        assert_eq!(coinbase, (LAST - 49..=LAST).rev().collect::<Vec<_>>());
        assert!(sim.requests().iter().all(|record| (record.status, record.rows) == (Some(status), 50)));
        // Without a start the newest rows are meant, and a smaller limit stands.
        let newest = get(&sim, "/api/v3/klines?symbol=ADABTC&interval=1m").await.json();
        assert_eq!(bars(&newest, 1), (1_390..1_440).collect::<Vec<_>>());
        let fewer = get(&sim, "/api/v3/klines?symbol=ADABTC&interval=1m&startTime=0&limit=7").await.json();
        assert_eq!(bars(&fewer, 1), (0..7).collect::<Vec<_>>());
        // A refusal stays what it is.
        assert_eq!(get(&sim, "/api/v3/klines?symbol=ADABTC").await.status.as_u16(), 400);
        assert_eq!(lines(&sim).await.len(), 50);
    }
}

#[tokio::test]
async fn a_random_part_is_another_one_at_each_request_and_the_same_in_each_run() {
    let pages = async |seed: u64| {
        let sim = with(Fault::RandomPart(0.5, seed)).await;
        let pages = [both(&sim).await, both(&sim).await];
        for (binance, coinbase) in &pages {
            assert!((60..140).contains(&binance.len()) && binance.is_sorted(), "{binance:?}");
            assert!((60..140).contains(&coinbase.len()) && coinbase.is_sorted_by(|a, b| a > b));
            assert!(binance.iter().chain(coinbase).all(|bar| (FIRST..=LAST).contains(bar)));
        }
        assert_ne!(pages[0], pages[1]);
        pages
    };
    let first = pages(7).await;
    assert_eq!(pages(7).await, first);
    assert_ne!(pages(8).await, first);
    assert_eq!(both(&with(Fault::RandomPart(0.0, 7)).await).await, in_both_orders(FIRST..=LAST));
    assert_eq!(both(&with(Fault::RandomPart(1.0, 7)).await).await, in_both_orders([]));
}

#[tokio::test]
async fn the_ends_of_a_page_come_alone() {
    let sim = with(Fault::EndsOnly).await;
    assert_eq!(both(&sim).await, in_both_orders([FIRST, LAST]));
    // What has no middle stays as it is.
    for rows in 0..3 {
        sim.remove("ADABTC", "1m", START + (FIRST + rows) * MINUTE..START + 1_000 * MINUTE).unwrap();
        assert_eq!(both(&sim).await, in_both_orders(FIRST..FIRST + rows));
        sim.revise("ADABTC", "1m", market(1_000).candles().to_vec()).unwrap();
    }
}

#[tokio::test]
async fn a_wrong_interval_gives_bars_that_are_five_times_as_long() {
    let sim = with(Fault::WrongInterval).await;
    let coarse = in_both_orders((10..=LAST).step_by(5));
    let (binance, coinbase) = (klines(&sim).await, candles(&sim).await);
    assert_eq!((bars(&binance, 1), bars(&coinbase, 1_000)), coarse);

    let known = market(1_440);
    let five = &known.candles()[10..15];
    let high = five.iter().map(|candle| candle.high).fold(f64::MIN, f64::max);
    let low = five.iter().map(|candle| candle.low).fold(f64::MAX, f64::min);
    let sum = |field: fn(&Candle) -> f64| five.iter().map(field).sum::<f64>();
    let volume = sum(|candle| candle.volume);
    let row = json!([
        START + 10 * MINUTE,
        five[0].open.to_string(),
        high.to_string(),
        low.to_string(),
        five[4].close.to_string(),
        volume.to_string(),
        START + 15 * MINUTE - 1,
        sum(|candle| candle.quote_volume).to_string(),
        5,
        sum(|candle| candle.taker_base).to_string(),
        sum(|candle| candle.taker_quote).to_string(),
        "0",
    ]);
    assert_eq!(binance[0], row);
    let row = json!([START / 1_000 + 600, low, high, five[0].open, five[4].close, volume]);
    assert_eq!(coinbase.as_array().unwrap().last(), Some(&row));

    let file = lines(&sim).await;
    let times: Vec<_> = file[1].split(',').map(str::to_owned).collect();
    assert_eq!((file.len(), times[0].clone()), (288, (START + 5 * MINUTE).to_string()));
    assert_eq!(times[6], (START + 10 * MINUTE - 1).to_string());
    // The longer bar that is forming comes as it stands, and a hole of all its minutes is one.
    sim.set_now(START + 102 * MINUTE);
    assert_eq!(bars(&klines(&sim).await, 1).last(), Some(&100));
    sim.remove("ADABTC", "1m", START + 20 * MINUTE..START + 25 * MINUTE).unwrap();
    assert_eq!(bars(&klines(&sim).await, 1)[..3], [10, 15, 25]);
}

#[tokio::test]
async fn sparser_rows_are_right_ones_of_every_fifth_bar() {
    let right = serve(1_440).await;
    let fifth = |page: Value, unit: i64| {
        let on_the_grid = |row: &&Value| row[0].as_i64().unwrap() * unit % (5 * MINUTE) == 0;
        page.as_array().unwrap().iter().filter(on_the_grid).cloned().collect::<Value>()
    };
    let sim = with(Fault::Sparser).await;
    assert_eq!(both(&sim).await, in_both_orders((10..=LAST).step_by(5)));
    assert_eq!(klines(&sim).await, fifth(klines(&right).await, 1));
    assert_eq!(candles(&sim).await, fifth(candles(&right).await, 1_000));
}

#[tokio::test]
async fn an_empty_page_is_an_array_without_rows() {
    let sim = with(Fault::EmptyPage).await;
    assert_eq!((klines(&sim).await, candles(&sim).await), (json!([]), json!([])));
    assert!(sim.requests().iter().all(|record| (record.status, record.rows) == (Some(200), 0)));
}

#[tokio::test]
async fn every_quiet_fault_takes_rows_from_both_exchanges_and_leaves_the_server_well() {
    let all = in_both_orders(FIRST..=LAST);
    for fault in Fault::quiet() {
        let sim = with(fault.clone()).await;
        let (binance, coinbase) = both(&sim).await;
        assert!(binance.len() < all.0.len() && coinbase.len() < all.1.len(), "{fault:?}");
        // What there is, is in order and in the range, as it is in a right answer.
        assert!(binance.is_sorted_by(|a, b| a < b) && coinbase.is_sorted_by(|a, b| a > b), "{fault:?}");
        assert!(binance.iter().chain(&coinbase).all(|bar| (FIRST..=LAST).contains(bar)), "{fault:?}");
        assert_eq!(sim.requests()[0].fault.as_ref(), Some(&fault));
        sim.clear_faults();
        assert_eq!(both(&sim).await, all, "{fault:?}");
    }
}
