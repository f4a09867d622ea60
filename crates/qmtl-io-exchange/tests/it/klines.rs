//! Klines of exchanges with a header and without one, and the names of their columns.

use std::fmt::Write as _;

use qmtl_history_api::ErrorKind;
use qmtl_history_api::arrow_array::RecordBatch;
use qmtl_history_api::arrow_array::cast::AsArray;
use qmtl_history_api::arrow_array::types::{Float64Type, Int64Type};
use qmtl_history_api::arrow_schema::DataType;
use qmtl_io_exchange::{ColumnType, FileFetcher};

use crate::files::{TestFile, file, key, range, rows};
use crate::formats::{Table, zipped};

const BASE: i64 = 1_704_067_200;
const HOUR_MS: i64 = 3_600_000;

const COLUMNS: [&str; 10] = [
    "ts",
    "open",
    "high",
    "low",
    "close",
    "volume",
    "quote_volume",
    "trades",
    "taker_base_volume",
    "taker_quote_volume",
];

/// Three hours of klines, of which one field of one row is another.
fn klines(other: Option<(usize, usize, &str)>) -> String {
    let mut text = String::new();
    for row in 0..3 {
        let open = BASE * 1_000 + i64::try_from(row).unwrap() * HOUR_MS;
        let line = format!("{open},100,103,98,101,10.5,{},1000.25,40,5.5,500.5,0", open + HOUR_MS - 1);
        let mut fields: Vec<_> = line.split(',').collect();
        if let Some((_, field, value)) = other.filter(|(at, ..)| *at == row) {
            fields[field] = value;
        }
        writeln!(text, "{}", fields.join(",")).unwrap();
    }
    text
}

async fn hours(written: &TestFile) -> RecordBatch {
    rows(&written.open().await, &key("X", "1h"), range(BASE, BASE + 36_000)).await.unwrap()
}

#[tokio::test]
async fn a_header_of_any_exchange_gives_the_columns_of_one_without() {
    let bare = hours(&file("a.csv", klines(None))).await;
    for header in [
        "open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,taker_buy_quote_volume,ignore",
        "Open time,Open,High,Low,Close,Volume,Close time,Quote asset volume,Number of trades,Taker buy base asset volume,\
         Taker buy quote asset volume,Ignore",
        "OPEN-TIME,OPEN,HIGH,LOW,CLOSE,VOLUME,CLOSE-TIME,QUOTE_ASSET_VOLUME,NUM-TRADES,TAKER_BUY_BASE_ASSET_VOLUME,\
         TAKER_BUY_QUOTE_ASSET_VOLUME,IGNORE",
        "opentime,open,high,low,close,volume,closetime,quotevolume,tradecount,takerbasevolume,takerquotevolume,ignore",
    ] {
        let text = klines(None);
        let table = Table {
            header: header.split(',').collect(),
            rows: text.lines().map(|line| line.split(',').collect()).collect(),
        };
        for written in table.files() {
            let found = hours(&written).await;
            let schema = found.schema();
            let names: Vec<_> = schema.fields().iter().map(|field| field.name().as_str()).collect();
            assert_eq!(names, COLUMNS, "{header}");
            if written.path.extension().is_some_and(|e| e != "parquet" && e != "arrow") {
                assert_eq!(found, bare, "{header}");
            } else {
                // These keep the types of the file.
                assert_eq!(found["close"].as_primitive::<Int64Type>().value(0), 101);
                assert_eq!(found["volume"].as_primitive::<Float64Type>().value(0), 10.5);
            }
        }
    }
}

#[tokio::test]
async fn capital_names_come_out_as_all_files_have_them() {
    let lines = vec![vec!["2024-01-01", "1", "2", "0.5", "1.5", "10", "3", "x"]; 1];
    let header = vec!["Date", "Open", "HIGH", "low", "Close", "Volume", "Adj Close", "Note"];
    for written in (Table { header, rows: lines }).files() {
        let schema = written.open().await.schema();
        let names: Vec<_> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        assert_eq!(names, ["ts", "open", "high", "low", "close", "volume", "Adj Close", "Note"]);
    }
}

#[tokio::test]
async fn two_names_of_one_column_are_refused() {
    for (first, second, usual) in [("Open", "open", "open"), ("count", "Number of trades", "trades")] {
        let table = Table { header: vec!["ts", first, second], rows: vec![vec!["1704067200", "1", "2"]] };
        for written in table.files() {
            let error = FileFetcher::open(written.config()).await.unwrap_err();
            assert_eq!(
                error.to_string(),
                format!(
                    "two columns have names that stand for {usual}; give one of them another name (with_column) \
                     (columns: {first}, {second}, file: {})",
                    written.path.display()
                )
            );
        }
    }
}

#[tokio::test]
async fn columns_are_found_in_any_spelling() {
    let text = "Open time,Close,Number of trades,Extra\n1704067200,1,40.5,1\n1704070800,2,40,2\n";
    for trades in ["Number of trades", "trades", "count"] {
        for time in ["Open time", "open_time"] {
            let written = file("a.csv", text);
            let config = written.config().with_ts_column(time).with_column_type(trades, ColumnType::Float64);
            let fetcher = FileFetcher::open(config).await.unwrap();
            assert_eq!(fetcher.schema().field(2).data_type(), &DataType::Float64);
            let found = rows(&fetcher, &key("X", "1h"), range(BASE, BASE + 7_200)).await.unwrap();
            assert_eq!(found["trades"].as_primitive::<Float64Type>().value(0), 40.5);
        }
    }
    let written = file("a.csv", text);
    let error =
        FileFetcher::open(written.config().with_column_type("extra", ColumnType::Utf8)).await.unwrap_err();
    assert!(error.to_string().starts_with("a type is declared for a column that the file lacks"), "{error}");
}

#[tokio::test]
async fn twelve_numbers_must_be_klines() {
    let wrong = "twelve numbers without a header are read as Binance klines, but these are not";
    for (other, why, place) in [
        (
            (1, 6, "1.1"),
            "the 7th is no close time after the opening time",
            "line: 2, field: 7, value: \"1.1\"",
        ),
        ((0, 6, "1704067199999"), "the 7th is no close time", "line: 1, field: 7"),
        ((2, 11, ""), "the 12th is no number", "line: 3, field: 12"),
        ((1, 2, "97"), "the 3rd would be a high below the low", "line: 2, field: 3, value: \"97\""),
        ((1, 2, "100.5"), "the 3rd would be a high below the open or the close", "line: 2, field: 3"),
        ((2, 3, "100.5"), "the 4th would be a low above the open or the close", "line: 3, field: 4"),
        ((1, 6, "1704074500000"), "would make bars of different lengths", "line: 2, length: "),
    ] {
        let text = klines(Some(other));
        for written in [file("a.csv", &text), file("a.zip", zipped(&[("a.csv", text.as_bytes())]))] {
            let error = FileFetcher::open(written.config()).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Schema);
            let text = error.to_string();
            assert!(text.starts_with(&format!("{wrong}: ")) && text.contains(why), "{text}");
            assert!(
                text.contains("; add a header that names the columns (") && text.contains(place),
                "{text}"
            );
        }
    }
    // The remedy works.
    let named = format!("ts,a,b,c,d,e,f,g,h,i,j,k\n{}", klines(Some((1, 6, "1.1"))));
    assert_eq!(hours(&file("a.csv", named)).await.num_columns(), 12);
    // A break of the exchange may cut a bar.
    let cut = file("a.csv", klines(Some((1, 6, "1704071999999"))));
    assert_eq!(hours(&cut).await.num_rows(), 3);
}

#[tokio::test]
async fn klines_say_which_interval_they_are_of() {
    let header = "open_time,open,high,low,close,volume,close_time,quote_volume,count,taker_buy_volume,\
                  taker_buy_quote_volume,ignore";
    // One row in four hours, so that distances say nothing of the interval.
    let text = klines(None);
    let first = text.lines().next().unwrap();
    let table = Table { header: header.split(',').collect(), rows: vec![first.split(',').collect()] };
    let mut written = table.files();
    written.push(file("a.csv", format!("{first}\n")));
    for written in written {
        for vouched in [false, true] {
            let config = written.config();
            let config = if vouched { config.with_interval("1m".parse().unwrap()) } else { config };
            let error = FileFetcher::open(config).await.unwrap().range(&key("X", "1m")).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            let text = error.to_string();
            assert!(
                text.starts_with(
                    "by their opening and close times the rows of the file last 1h, so it does not hold bars of 1m; ask \
                     for the interval it holds (series: X@1m, file: "
                ),
                "{text}"
            );
        }
        assert_eq!(hours(&written).await.num_rows(), 1);
    }
}
