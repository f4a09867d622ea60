//! Which rows a node gets, which intervals are answered, and that a changed file is refused.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use qmtl_history_api::arrow_array::cast::AsArray;
use qmtl_history_api::arrow_array::types::{Float64Type, TimestampSecondType};
use qmtl_history_api::arrow_array::{Float64Array, RecordBatch, StringArray};
use qmtl_history_api::arrow_schema::DataType;
use qmtl_history_api::{DataFetcher, ErrorKind, FetchRequest, Interval, NodeId, SeriesKey, Timestamp, frame};
use qmtl_io_exchange::{FileConfig, FileFetcher, FileSet};

use crate::files::{TestFile, file, key, range, rows};
use crate::formats::{Table, ipc_file, parquet};

const BASE: i64 = 1_704_067_200;
const TWO: &str = "time,symbol,close\n\
    1704067200,BTC/USDT,1\n\
    1704067200,ETH/USDT,10\n\
    1704067260,ETH/USDT,11\n\
    1704067500,BTC/USDT,2\n\
    1704067800,BTC/USDT,3\n";

#[tokio::test]
async fn a_symbol_column_tells_series_apart() {
    let two = file("two.csv", TWO);
    let node = NodeId::new("ohlcv:binance:ETH/USDT:1m").unwrap();
    let config = two.config().with_symbol_column("symbol").with_symbol(node, "ETH/USDT");
    let fetcher = FileFetcher::open(config).await.unwrap();
    let window = range(BASE - 60, BASE + 6_000);
    let (btc, eth) = (key("BTC/USDT", "5m"), key("ohlcv:binance:ETH/USDT:1m", "1m"));
    assert_eq!(rows(&fetcher, &btc, window).await.unwrap().num_rows(), 3);
    let found = rows(&fetcher, &eth, window).await.unwrap();
    assert_eq!((found.num_rows(), found.num_columns()), (2, 2));
    // Each series has its own ends and its own spacing.
    assert_eq!(fetcher.range(&btc).unwrap(), range(BASE, BASE + 900));
    assert_eq!(fetcher.range(&eth).unwrap(), range(BASE, BASE + 120));
    let unknown = fetcher.fetch(&FetchRequest::new(key("BTC/USD", "5m"), window)).await.unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::NotFound);
    assert_eq!(
        unknown.to_string(),
        format!(
            "the file has no row of this symbol (series: BTC/USD@5m, symbol: \"BTC/USD\", nearest: \"BTC/USDT\", \
             \"ETH/USDT\", file: {})",
            two.path.display()
        )
    );
}

#[tokio::test]
async fn several_series_are_never_read_as_one() {
    let several = "the file holds several series; say which column tells them apart (with_symbol_column), or take \
                   this one out of the file if it does not";
    let two = file("two.csv", TWO);
    let error = FileFetcher::open(two.config()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert_eq!(
        error.to_string(),
        format!(
            "{several} (column: symbol, values: \"BTC/USDT\", \"ETH/USDT\", line: 3, file: {})",
            two.path.display()
        )
    );
    let codes = file("codes.csv", "ts,Ticker,close\n1704067200,5930,1\n1704067260,660,2\n");
    let error = FileFetcher::open(codes.config()).await.unwrap_err();
    assert!(
        error.to_string().starts_with(&format!("{several} (column: Ticker, values: \"5930\", \"660\"")),
        "{error}"
    );

    let schema = frame::schema_of([("pair", DataType::Utf8), ("close", DataType::Float64)]);
    let batch = |pairs: [Option<&str>; 2]| {
        let ts = frame::ts_array([BASE, BASE + 60].map(|secs| Timestamp::from_secs(secs).unwrap()));
        let (pairs, close) = (StringArray::from(pairs.to_vec()), Float64Array::from(vec![1.0, 2.0]));
        RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(ts), Arc::new(pairs), Arc::new(close)])
            .unwrap()
    };
    let write = |name: &str, batch: RecordBatch| match name {
        "a.parquet" => file(name, parquet(&batch, 10)),
        _ => file(name, ipc_file(&[batch], None)),
    };
    for name in ["a.parquet", "a.arrow"] {
        let mixed = write(name, batch([Some("BTC"), Some("ETH")]));
        let error = FileFetcher::open(mixed.config()).await.unwrap_err();
        assert!(error.to_string().starts_with(&format!("{several} (column: pair")), "{error}");
        // One value is one series, and the column is payload.
        let one = write(name, batch([Some("BTC"), Some("BTC")]));
        assert_eq!(one.open().await.schema().fields().len(), 3);
        let blank = write(name, batch([Some("BTC"), None]));
        let error = FileFetcher::open(blank.config()).await.unwrap_err().to_string();
        assert!(error.starts_with("a row has no value in the column that names the series"), "{error}");
    }
}

#[tokio::test]
async fn what_tells_series_apart_may_be_called_anything() {
    let days = ["2024-03-11", "2024-03-12", "2024-03-13", "2024-03-14"];
    let after = |one: &'static str, other: &'static str| {
        days.map(|day| (day, one)).into_iter().chain(days.map(|day| (day, other)))
    };
    let beside: Vec<_> = days.iter().flat_map(|day| [(*day, "AAPL"), (*day, "AAL")]).collect();
    let blocks = [(days[0], "ESH4"), (days[1], "ESH4"), (days[2], "ESM4"), (days[3], "ESM4")];
    let zeros = [(days[0], "000001"), (days[1], "000001"), (days[2], "600519"), (days[3], "600519")];
    for (column, rows, values) in [
        ("which", after("AAL", "AAPL").collect(), "\"AAL\", \"AAPL\""),
        ("which", beside, "\"AAPL\", \"AAL\""),
        ("which", blocks.to_vec(), "\"ESH4\", \"ESM4\""),
        ("which", zeros.to_vec(), "\"000001\", \"600519\""),
        ("which", after("10107", "14593").collect(), "\"10107\", \"14593\""),
        ("ts_code", vec![(days[0], "a"), (days[1], "b")], "\"a\", \"b\""),
    ] {
        let lines: Vec<_> = rows.iter().map(|(day, value)| vec![*day, "1.5", *value]).collect();
        let table = Table { header: vec!["date", "close", column], rows: lines };
        for written in table.files() {
            let error = FileFetcher::open(written.config()).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
            let text = error.to_string();
            assert!(text.contains("say which column tells them apart (with_symbol_column)"), "{text}");
            assert!(text.contains(&format!("(column: {column}, values: {values}, ")), "{text}");
            // The remedy works.
            let config = written.config().with_symbol_column(column);
            let fetcher = FileFetcher::open(config).await.unwrap();
            let node = rows[0].1;
            let count = rows.iter().filter(|(_, value)| *value == node).count();
            let window = range(BASE, BASE + 100 * 86_400);
            assert_eq!(self::rows(&fetcher, &key(node, "1d"), window).await.unwrap().num_rows(), count);
        }
    }
}

#[tokio::test]
async fn text_that_varies_is_payload() {
    let notes = ["ok", "late", "", "ok", "late", "ok", "halted", "ok"];
    let rows = notes.iter().enumerate().map(|(row, note)| (BASE + 60 * i64::try_from(row).unwrap(), *note));
    let lines: Vec<_> =
        rows.map(|(time, note)| vec![time.to_string(), "1.5".into(), note.to_owned()]).collect();
    let lines = lines.iter().map(|line| line.iter().map(String::as_str).collect()).collect();
    let table = Table { header: vec!["ts", "close", "note"], rows: lines };
    for written in table.files() {
        let found = rows_of(&written).await;
        let found: Vec<_> = found["note"].as_string::<i32>().iter().map(Option::unwrap_or_default).collect();
        assert_eq!(found, notes);
    }
}

async fn rows_of(written: &TestFile) -> RecordBatch {
    rows(&written.open().await, &key("X", "1m"), range(BASE, BASE + 6_000)).await.unwrap()
}

#[tokio::test]
async fn digits_with_zeros_before_them_are_text() {
    let ids = file("a.csv", "ts,close,id\n1704067200,1,000001\n1704067260,02,000001\n");
    let found = rows_of(&ids).await;
    assert_eq!(found["id"].as_string::<i32>().value(1), "000001");
    assert_eq!(found["close"].as_primitive::<Float64Type>().value(1), 2.0, "a price may have them");
}

#[tokio::test]
async fn without_a_symbol_column_any_node_is_served() {
    let two = file("a.csv", "ts,close\n1704067200,1\n1704067260,2\n");
    let fetcher = two.open().await;
    for node in ["blake3:ab/../\"x\"", "🦀", &"x".repeat(1_000)] {
        assert_eq!(rows(&fetcher, &key(node, "1m"), range(BASE, BASE + 600)).await.unwrap().num_rows(), 2);
    }
}

#[tokio::test]
async fn an_interval_finer_than_the_file_is_refused_unless_vouched_for() {
    let five = file("five.csv", "ts,close\n1704067200,1\n1704067500,2\n1704068100,3\n");
    let fetcher = five.open().await;
    let window = range(BASE, BASE + 6_000);
    let error = fetcher.fetch(&FetchRequest::new(key("X", "1m"), window)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert_eq!(
        error.to_string(),
        format!(
            "most neighbouring rows of the file lie 5m apart, so it does not hold bars of 1m; ask for the interval \
             it holds, or vouch that it is a sparse series (with_interval) (series: X@1m, file: {})",
            five.path.display()
        )
    );
    assert_eq!(fetcher.range(&key("X", "5m")).unwrap(), range(BASE, BASE + 1_200));
    let vouched = FileFetcher::open(five.config().with_interval("1m".parse().unwrap())).await.unwrap();
    assert_eq!(rows(&vouched, &key("X", "1m"), window).await.unwrap().num_rows(), 3);
    let error = vouched.fetch(&FetchRequest::new(key("X", "5m"), window)).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "the file is said to hold bars of 1m (with_interval), not of 5m (series: X@5m, file: {})",
            five.path.display()
        )
    );
}

#[tokio::test]
async fn an_interval_coarser_than_the_file_is_refused_also_when_vouched_for() {
    let minutes: String = (0..30).map(|row| format!("{},{row}\n", BASE + row * 60)).collect();
    let one = file("a.csv", format!("ts,close\n{minutes}"));
    let vouched = one.config().with_interval("5m".parse().unwrap());
    for config in [one.config(), vouched] {
        let fetcher = FileFetcher::open(config).await.unwrap();
        let error = rows(&fetcher, &key("X", "5m"), range(BASE, BASE + 600)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert_eq!(
            error.to_string(),
            format!(
                "most neighbouring rows of the file lie 1m apart, so it holds bars of a shorter interval than 5m; ask \
                 for the interval it holds (series: X@5m, file: {})",
                one.path.display()
            )
        );
    }
}

#[tokio::test]
async fn rows_off_the_grid_are_given_as_they_are() {
    let odd = |row: i64| if row == 300 { 7 } else { 0 };
    let minutes: String = (0..600).map(|row| format!("{},{row}\n", BASE + row * 60 + odd(row))).collect();
    let written = file("a.csv", format!("ts,close\n{minutes}"));
    let fetcher = written.open().await;
    let (key, window) = (key("X", "1m"), range(BASE, BASE + 36_000));
    let answer = fetcher.fetch(&FetchRequest::new(key.clone(), window)).await.unwrap();
    let found = answer.batches.into_batch().await.unwrap();
    assert_eq!(found.num_rows(), 600);
    assert_eq!(found.column(0).as_primitive::<TimestampSecondType>().value(300), BASE + 18_007);

    // The extent begins and ends with the bars in which the first and the last row stand.
    let odd = file("a.csv", format!("ts,close\n{},1\n{},2\n{},3\n", BASE + 7, BASE + 60, BASE + 130));
    assert_eq!(odd.open().await.range(&key).unwrap(), range(BASE, BASE + 180));
}

#[tokio::test]
async fn a_few_rows_elsewhere_do_not_make_a_shorter_interval() {
    let mut times: Vec<_> = (0..100).map(|row| BASE + row * 300).collect();
    times.push(BASE + 360);
    let text: String = times.iter().map(|time| format!("{time},1\n")).collect();
    let fetcher = file("a.csv", format!("ts,close\n{text}")).open().await;
    let error = fetcher.range(&key("X", "1m")).unwrap_err().to_string();
    assert!(error.starts_with("most neighbouring rows of the file lie 5m apart"), "{error}");
    assert!(fetcher.range(&key("X", "5m")).is_ok());
}

#[tokio::test]
async fn a_name_says_which_interval_a_file_holds() {
    let hours = "ts,close\n1704067200,1\n1704070800,2\n";
    let named = file("BTCUSDT-1h-2024-01.csv", hours);
    let vouched = named.config().with_interval("1m".parse().unwrap());
    for config in [named.config(), vouched] {
        let fetcher = FileFetcher::open(config).await.unwrap();
        let error = fetcher.range(&key("BTCUSDT", "1m")).unwrap_err().to_string();
        assert_eq!(
            error,
            format!(
                "the file's name says that it holds bars of 1h, not of 1m; ask for bars of 1h, or rename the file if \
                 that is wrong (series: BTCUSDT@1m, file: {})",
                named.path.display()
            )
        );
    }
    assert!(named.open().await.range(&key("BTCUSDT", "1h")).is_ok());
}

#[tokio::test]
async fn the_source_id_is_the_content() {
    let [one, same, other] = [
        ("a.csv", "ts,v\n1704067200,1\n"),
        ("a.csv", "ts,v\n1704067200,1\n"),
        ("a.csv", "ts,v\n1704067200,2\n"),
    ]
    .map(|(name, content)| file(name, content));
    let id = one.open().await.source_id();
    assert!(id.as_str().starts_with("file:a.csv#") && id.as_str().len() == "file:a.csv#".len() + 16);
    assert_eq!(id, same.open().await.source_id());
    assert_ne!(id, other.open().await.source_id());
}

#[tokio::test]
async fn a_file_that_changed_is_refused_also_midway() {
    let long: String = (0..60_000).map(|row| format!("{},{row}\n", BASE + row * 60)).collect();
    let growing = file("a.csv", format!("ts,close\n{long}"));
    let fetcher = growing.open().await;
    let everything = FetchRequest::new(key("X", "1m"), range(BASE, BASE + 6_000_000));
    let mut batches = fetcher.fetch(&everything).await.unwrap().batches;
    assert!(batches.next_batch().await.unwrap().unwrap().num_rows() > 8_000);
    let later = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
    std::fs::File::options().append(true).open(&growing.path).unwrap().set_modified(later).unwrap();
    let expected =
        format!("the file changed after it was opened; open it again (file: {})", growing.path.display());
    let error = batches.next_batch().await.unwrap().unwrap_err();
    assert_eq!((error.kind(), error.to_string()), (ErrorKind::Conflict, expected.clone()));
    let hole = FetchRequest::new(key("X", "1m"), range(BASE + 1, BASE + 2));
    assert_eq!(fetcher.fetch(&hole).await.unwrap_err().to_string(), expected);
    std::fs::remove_file(&growing.path).unwrap();
    assert_eq!(fetcher.fetch(&hole).await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_file_of_another_symbol_is_refused_for_a_node_that_is_named_after_one() {
    let folder = tempfile::tempdir().unwrap();
    let rows = "2024-01-01T00:00:00Z,ETH/USDT,1\n2024-01-01T00:01:00Z,ETH/USDT,2\n";
    let with_column = folder.path().join("candles.csv");
    std::fs::write(&with_column, format!("ts,symbol,close\n{rows}")).unwrap();
    let with_name = folder.path().join("ETHUSDT-1m-2024-01-01.csv");
    std::fs::write(&with_name, "ts,close\n2024-01-01T00:00:00Z,1\n2024-01-01T00:01:00Z,2\n").unwrap();
    let range = async |config: FileConfig, node: &str| {
        let fetcher = FileFetcher::open(config).await.unwrap();
        fetcher.range(&SeriesKey::new(node, Interval::MINUTE).unwrap())
    };
    for (path, by) in [(&with_column, "by: symbol"), (&with_name, "by: the file's name")] {
        let error = range(FileConfig::new(path), "BTCUSDT").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        let text = error.to_string();
        assert!(text.starts_with("the file holds another symbol than the node is named after"), "{text}");
        assert!(text.contains(by) && text.contains("ETH"), "{text}");
        // A node may be called anything, and by the symbol in any spelling.
        for node in ["ETHUSDT", "ETH-USDT", "ohlcv:binance:ETH/USDT:1m", "my input"] {
            assert!(range(FileConfig::new(path), node).await.is_ok(), "{node}");
        }
    }
    // A number and a word may be names of one thing; two numbers or two words are not.
    let with_id = folder.path().join("ids.csv");
    std::fs::write(&with_id, "ts,instrument_id,close\n1704067200,5482,1\n1704067260,5482,2\n").unwrap();
    assert!(range(FileConfig::new(&with_id), "ES").await.is_ok());
    assert!(range(FileConfig::new(&with_id), "ES1").await.is_err());
    // The remedy.
    let told = FileConfig::new(&with_column)
        .with_symbol_column("symbol")
        .with_symbol(NodeId::new("BTCUSDT").unwrap(), "ETH/USDT");
    assert!(range(told, "BTCUSDT").await.is_ok());
}

/// A fetcher of a file of this content.
async fn opened(folder: &tempfile::TempDir, name: &str, content: &str, symbol: Option<&str>) -> FileFetcher {
    let path = folder.path().join(name);
    std::fs::write(&path, content).unwrap();
    let config = FileConfig::new(&path);
    let config = symbol.into_iter().fold(config, |config, column| config.with_symbol_column(column));
    FileFetcher::open(config).await.unwrap()
}

#[tokio::test]
async fn blanks_around_a_symbol_are_none_and_another_case_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let key = SeriesKey::new("BTC", Interval::MINUTE).unwrap();
    let rows = |symbols: [&str; 4]| {
        let lines = (0..).zip(symbols).map(|(at, symbol)| format!("{},{symbol},{at}\n", BASE + at * 60));
        format!("ts,symbol,close\n{}", lines.collect::<String>())
    };
    let whole =
        opened(&folder, "blanks.csv", &rows(["BTC", "BTC ", " BTC", "BTC\u{a0}"]), Some("symbol")).await;
    let request = FetchRequest::new(key.clone(), whole.range(&key).unwrap());
    assert_eq!(whole.fetch(&request).await.unwrap().batches.into_batch().await.unwrap().num_rows(), 4);
    let cased = opened(&folder, "case.csv", &rows(["BTC", "btc", "BTC", "BTC"]), Some("symbol")).await;
    let error = cased.range(&key).unwrap_err().to_string();
    assert!(
        error.starts_with("the file spells a symbol in two ways") && error.contains("\"btc\""),
        "{error}"
    );
    let path = folder.path().join("none.csv");
    std::fs::write(&path, rows(["BTC", " ", "BTC", "BTC"])).unwrap();
    let error = FileFetcher::open(FileConfig::new(&path).with_symbol_column("symbol")).await.unwrap_err();
    assert!(error.to_string().starts_with("a row has no symbol (line: 3"), "{error}");
}

#[tokio::test]
async fn files_of_one_set_are_not_called_after_two_symbols() {
    let folder = tempfile::tempdir().unwrap();
    let rows = |from: i64| format!("ts,close\n{},1\n{},2\n", BASE + from, BASE + from + 60);
    for names in [["BTCUSDT.csv", "ETHUSDT.csv"], ["BTCUSDT_1m.csv", "ETHUSDT_1m.csv"]] {
        let first = opened(&folder, names[0], &rows(0), None).await;
        let second = opened(&folder, names[1], &rows(120), None).await;
        let set = FileSet::new([first, second]).unwrap();
        let range = |node: &str| set.range(&SeriesKey::new(node, Interval::MINUTE).unwrap());
        assert_eq!(range("BTCUSDT").unwrap().start().as_secs(), BASE, "{names:?}");
        assert_eq!(range("binance:eth/usdt").unwrap().start().as_secs(), BASE + 120, "{names:?}");
        assert_eq!(range("bars").unwrap_err().kind(), ErrorKind::NotFound);
    }
    let names = ["Binance_BTCUSDT_2024_minute.csv", "Binance_ETHUSDT_2024_minute.csv"];
    let first = opened(&folder, names[0], &rows(0), None).await;
    let second = opened(&folder, names[1], &rows(120), None).await;
    let error = FileSet::new([first, second]).unwrap_err().to_string();
    assert!(error.starts_with("files of different symbols are named for one series"), "{error}");
    for names in [["2024-01.csv", "2024-02.csv"], ["BTCUSDT-1m-2024-01.csv", "BTCUSDT-1m-2024-02.csv"]] {
        let first = opened(&folder, names[0], &rows(0), None).await;
        let second = opened(&folder, names[1], &rows(120), None).await;
        assert!(FileSet::new([first, second]).is_ok(), "{names:?}");
    }
}

#[tokio::test]
async fn a_hole_with_a_file_that_lacks_the_symbol_is_not_proven() {
    let folder = tempfile::tempdir().unwrap();
    let rows = |symbol: &str, minutes: std::ops::Range<i64>| {
        let lines = minutes.map(|at| format!("{},{symbol},{at}\n", BASE + at * 60));
        format!("ts,symbol,close\n{}", lines.collect::<String>())
    };
    let mut files = Vec::new();
    for (name, symbol, minutes) in
        [("a.csv", "FB", 0..20), ("b.csv", "META", 20..23), ("c.csv", "FB", 24..44)]
    {
        files.push(opened(&folder, name, &rows(symbol, minutes), Some("symbol")).await);
    }
    let set = FileSet::new(files).unwrap();
    let key = SeriesKey::new("FB", Interval::MINUTE).unwrap();
    let at = |minute: i64| Timestamp::from_secs(BASE + minute * 60).unwrap();
    let all = qmtl_history_api::TimeRange::new(at(0), at(44)).unwrap();
    let proven = set.fetch(&FetchRequest::new(key, all)).await.unwrap().proven;
    assert_eq!(proven.inclusive(Interval::MINUTE), [(at(0), at(19)), (at(24), at(43))]);
}
