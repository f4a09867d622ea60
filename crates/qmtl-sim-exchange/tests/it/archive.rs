//! The files of data.binance.vision.

use std::io::{Cursor, Read};

use hyper::{Request, StatusCode};
use qmtl_sim_exchange::{Candle, Interval, Market, SimConfig, SimExchange};
use sha2::{Digest, Sha256};

use crate::client::{Got, START, get, head, market, serve, whole};

const DAY: i64 = 86_400_000;
const DAILY: &str = "/data/spot/daily/klines/ADABTC/1m/ADABTC-1m-2024-01-02.zip";

/// The lines of the one file in a zip, and its name.
fn unzip(got: &Got) -> (String, Vec<String>) {
    let mut zip = zip::ZipArchive::new(Cursor::new(got.body.clone())).unwrap();
    assert_eq!(zip.len(), 1);
    let mut file = zip.by_index(0).unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    (file.name().unwrap().into_owned(), text.lines().map(str::to_owned).collect())
}

async fn checksum(sim: &SimExchange, path: &str) -> String {
    let got = get(sim, &format!("{path}.CHECKSUM")).await;
    let (sum, name) = got.text().trim_end().split_once("  ").unwrap();
    assert!(path.ends_with(name), "{name}");
    sum.to_owned()
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn a_day_is_a_zipped_csv_with_its_checksum() {
    let sim = serve(2 * 1_440).await;
    let got = get(&sim, DAILY).await;
    assert_eq!((got.status, got.header("content-type")), (StatusCode::OK, Some("application/zip")));
    let (name, lines) = unzip(&got);
    assert_eq!((name.as_str(), lines.len()), ("ADABTC-1m-2024-01-02.csv", 1_440));
    let candle = market(1_441).candles()[1_440];
    let Candle { open, high, low, close, volume, quote_volume, taker_base, taker_quote, .. } = candle;
    let line = format!(
        "{},{open},{high},{low},{close},{volume},{},{quote_volume},1,{taker_base},{taker_quote},0",
        START + DAY,
        START + DAY + 59_999,
    );
    assert_eq!(lines[0], line);
    assert_eq!(checksum(&sim, DAILY).await, sha256(&got.body));
    assert_eq!(sim.requests()[0].rows, 1_440);
    assert_eq!(sim.requests()[0].asked.as_ref().unwrap().limit, 1_440);
}

#[tokio::test]
async fn from_2025_on_times_are_microseconds() {
    let last_of_2024 = START + 365 * DAY;
    let candles = Candle::random_walk(last_of_2024, Interval::parse("1h").unwrap(), 48, 1);
    let sim = SimExchange::start(SimConfig::new([Market::new("X", "1h", candles).unwrap()])).await.unwrap();
    let times = async |path: &str| {
        let line = unzip(&get(&sim, path).await).1.remove(0);
        let fields: Vec<_> = line.split(',').map(str::to_owned).collect();
        (fields[0].clone(), fields[6].clone())
    };
    let old = times("/data/spot/daily/klines/X/1h/X-1h-2024-12-31.zip").await;
    assert_eq!(old, ("1735603200000".into(), "1735606799999".into()));
    let new = times("/data/spot/monthly/klines/X/1h/X-1h-2025-01.zip").await;
    assert_eq!(new, ("1735689600000000".into(), "1735693199999999".into()));
}

#[tokio::test]
async fn a_file_is_there_once_its_time_is_over_and_if_it_has_rows() {
    let sim = serve(3 * 1_440).await;
    sim.set_now(START + 2 * DAY - 1);
    let absent = get(&sim, DAILY).await;
    assert_eq!(absent.status, StatusCode::NOT_FOUND);
    assert!(absent.text().contains("<Code>NoSuchKey</Code>"), "{}", absent.text());
    sim.set_now(START + 2 * DAY);
    assert_eq!(get(&sim, DAILY).await.status, StatusCode::OK);
    let month = "/data/spot/monthly/klines/ADABTC/1m/ADABTC-1m-2024-01.zip";
    assert_eq!(get(&sim, month).await.status, StatusCode::NOT_FOUND);
    sim.set_now(START + 31 * DAY);
    assert_eq!(unzip(&get(&sim, month).await).1.len(), 3 * 1_440);
    for path in [
        "/data/spot/daily/klines/ADABTC/1m/ADABTC-1m-2023-12-31.zip",
        "/data/spot/daily/klines/ADABTC/1m/ADABTC-1m-2024-01-04.zip.CHECKSUM",
        "/data/spot/daily/klines/ADABTC/5m/ADABTC-5m-2024-01-02.zip",
        "/data/spot/daily/klines/ADABTC/1m/",
    ] {
        assert_eq!(get(&sim, path).await.status, StatusCode::NOT_FOUND, "{path}");
    }
}

#[tokio::test]
async fn a_revised_file_has_another_etag_and_checksum() {
    let sim = serve(2 * 1_440).await;
    let first = get(&sim, DAILY).await;
    let tag = first.header("etag").unwrap().to_owned();
    assert_eq!(get(&sim, DAILY).await.body, first.body);
    let conditional = || {
        let request = Request::get(DAILY).header("host", "sim").header("if-none-match", &tag);
        request.body(http_body_util::Empty::new()).unwrap()
    };
    let same = whole(head(&sim, conditional()).await.unwrap()).await.unwrap();
    assert_eq!((same.status, same.body.len()), (StatusCode::NOT_MODIFIED, 0));

    sim.revise("ADABTC", "1m", vec![Candle::new(START + DAY, [5.0; 4], 1.0)]).unwrap();
    let revised = whole(head(&sim, conditional()).await.unwrap()).await.unwrap();
    assert_eq!(revised.status, StatusCode::OK);
    assert_ne!(revised.header("etag"), Some(tag.as_str()));
    assert_eq!(checksum(&sim, DAILY).await, sha256(&revised.body));
    assert!(unzip(&revised).1[0].contains(",5,5,5,5,1,"));
}
