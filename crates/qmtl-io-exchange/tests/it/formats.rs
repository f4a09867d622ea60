//! The same candles from every format, and what each format does to types.

use std::io::{Cursor, Write};
use std::sync::Arc;

use arrow_ipc::CompressionType;
use arrow_ipc::writer::{FileWriter, IpcWriteOptions, StreamWriter};
use flate2::Compression;
use flate2::write::GzEncoder;
use lzma_rust2::{XzOptions, XzWriter};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use qmtl_history_api::arrow_array::cast::AsArray;
use qmtl_history_api::arrow_array::types::{Float64Type, Int64Type};
use qmtl_history_api::arrow_array::{
    Array, ArrayRef, Date32Array, Float64Array, Int64Array, RecordBatch, StringArray,
    TimestampNanosecondArray,
};
use qmtl_history_api::arrow_cast::{CastOptions, cast_with_options};
use qmtl_history_api::arrow_schema::DataType;
use qmtl_history_api::{DataFetcher, ErrorKind, FetchRequest, frame};
use qmtl_io_exchange::{ColumnType, FileFetcher, FileFormat, TsUnit};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use crate::files::{TestFile, file, key, range, rows};

const BASE: i64 = 1_704_067_200;

/// Three bars of a minute with one missing, as CSV.
const CANDLES: &str = "ts,close\n1704067200,1.5\n1704067260,0.1\n1704067380,1e-8\n";

pub(crate) fn zipped(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in entries {
        writer.start_file(*name, SimpleFileOptions::default()).unwrap();
        writer.write_all(content).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

pub(crate) fn parquet(batch: &RecordBatch, rows_per_group: usize) -> Vec<u8> {
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(rows_per_group)).build();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).unwrap();
    writer.write(batch).unwrap();
    writer.into_inner().unwrap()
}

pub(crate) fn ipc_file(batches: &[RecordBatch], compression: Option<CompressionType>) -> Vec<u8> {
    let options = IpcWriteOptions::default().try_with_compression(compression).unwrap();
    let mut writer = FileWriter::try_new_with_options(Vec::new(), &batches[0].schema(), options).unwrap();
    batches.iter().for_each(|batch| writer.write(batch).unwrap());
    writer.into_inner().unwrap()
}

fn ipc_stream(batches: &[RecordBatch]) -> Vec<u8> {
    let mut writer = StreamWriter::try_new(Vec::new(), &batches[0].schema()).unwrap();
    batches.iter().for_each(|batch| writer.write(batch).unwrap());
    writer.into_inner().unwrap()
}

pub(crate) fn gzipped(content: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(content).unwrap();
    gzip.finish().unwrap()
}

/// A table of text, to be written in every format.
pub(crate) struct Table<'a> {
    pub(crate) header: Vec<&'a str>,
    pub(crate) rows: Vec<Vec<&'a str>>,
}

impl Table<'_> {
    /// The table as CSV, gzip, zip, Parquet and Arrow. Columns of the last two are integers or doubles where all
    /// their values are, otherwise text.
    pub(crate) fn files(&self) -> Vec<TestFile> {
        let lines = std::iter::once(&self.header).chain(&self.rows).map(|line| line.join(",") + "\n");
        let text: String = lines.collect();
        let columns = self.header.iter().enumerate().map(|(at, name)| {
            let values: Vec<_> =
                self.rows.iter().map(|row| Some(row[at]).filter(|value| !value.is_empty())).collect();
            let has_zeros = values
                .iter()
                .flatten()
                .any(|value| value.len() > 1 && value.starts_with('0') && !value.contains('.'));
            let text: ArrayRef = Arc::new(StringArray::from(values));
            let strict = CastOptions { safe: false, ..CastOptions::default() };
            let number = [DataType::Int64, DataType::Float64]
                .iter()
                .find_map(|kind| cast_with_options(&text, kind, &strict).ok().filter(|_| !has_zeros));
            (*name, number.unwrap_or(text))
        });
        let batch =
            RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true)))
                .unwrap();
        vec![
            file("a.csv", &text),
            file("a.csv.gz", gzipped(text.as_bytes())),
            file("a.zip", zipped(&[("a.csv", text.as_bytes())])),
            file("a.parquet", parquet(&batch, 3)),
            file("a.arrow", ipc_file(&[batch.slice(0, 1), batch.slice(1, batch.num_rows() - 1)], None)),
        ]
    }
}

fn batch(ts: ArrayRef) -> RecordBatch {
    let close: ArrayRef = Arc::new(Float64Array::from(vec![1.5, 0.1, 1e-8]));
    RecordBatch::try_from_iter([("close", close), ("ts", ts)]).unwrap()
}

/// The candles with integers of this factor to a second.
fn integers(factor: i64) -> RecordBatch {
    batch(Arc::new(Int64Array::from_iter_values([0, 60, 180].map(|secs| (BASE + secs) * factor))))
}

async fn assert_candles(file: TestFile) {
    let (key, window) = (key("X", "1m"), range(BASE - 600, BASE + 600));
    let fetcher = file.open().await;
    assert_eq!(fetcher.range(&key).unwrap(), range(BASE, BASE + 240));
    let found = rows(&fetcher, &key, window).await.unwrap();
    let times: Vec<_> =
        frame::timestamps(&found).unwrap().values().iter().map(|m| m / 1_000_000 - BASE).collect();
    assert_eq!(times, [0, 60, 180], "{:?}", file.path);
    assert_eq!(found.column(1).as_primitive::<Float64Type>().values(), &[1.5, 0.1, 1e-8]);
    assert_eq!(found.num_columns(), 2);
    let answer = fetcher.fetch(&FetchRequest::new(key.clone(), window)).await.unwrap();
    assert_eq!(answer.proven.as_slice(), [range(BASE, BASE + 240)]);
    assert_eq!(
        answer.reason,
        format!("no row between the first and the last one of {}", fetcher.source_id())
    );
    assert_eq!(fetcher.limits().max_rows, None);
}

#[tokio::test]
async fn csv_in_every_dress() {
    assert_candles(file("a.csv", CANDLES)).await;
    assert_candles(file("a.CSV", CANDLES.replace('\n', "\r\n"))).await;
    assert_candles(file("a.csv", CANDLES.trim_end())).await;
    assert_candles(file("a.csv", format!("\u{feff}{CANDLES}\n\n"))).await;
    assert_candles(file(
        "a.csv",
        CANDLES.replace(',', "\",\"").replace('\n', "\"\n\"").trim_end_matches('"').replacen("ts", "\"ts", 1),
    ))
    .await;
    assert_candles(file("a.csv", CANDLES.replace(',', ", "))).await;
    assert_candles(file("a.zip", zipped(&[("a.csv", CANDLES.as_bytes())]))).await;
    assert_candles(file(
        "a.zip",
        zipped(&[("a/", b""), ("a/a.csv", CANDLES.as_bytes()), ("__MACOSX/._a.csv", b"x")]),
    ))
    .await;
    assert_candles(file("a.csv.gz", gzipped(CANDLES.as_bytes()))).await;
    for name in ["timestamp", "time", "Date", "open_time", "Open time"] {
        assert_candles(file("a.csv", CANDLES.replacen("ts", name, 1))).await;
    }
}

#[tokio::test]
async fn columnar_files_of_every_kind_and_unit() {
    for factor in [1, 1_000, 1_000_000, 1_000_000_000] {
        let rows = integers(factor);
        assert_candles(file("a.parquet", parquet(&rows, 2))).await;
        assert_candles(file("a.arrow", ipc_file(&[rows.slice(0, 1), rows.slice(1, 2)], None))).await;
    }
    let nanos =
        TimestampNanosecondArray::from_iter_values([0, 60, 180].map(|secs| (BASE + secs) * 1_000_000_000));
    let rows = batch(Arc::new(nanos.with_timezone("Europe/Berlin")));
    assert_candles(file("a.pq", parquet(&rows, 100))).await;
    assert_candles(file(
        "a.feather",
        ipc_file(std::slice::from_ref(&rows), Some(CompressionType::LZ4_FRAME)),
    ))
    .await;
    assert_candles(file("a.ipc", ipc_file(std::slice::from_ref(&rows), Some(CompressionType::ZSTD)))).await;
    assert_candles(file("a.arrows", ipc_stream(&[rows.slice(0, 2), rows.slice(2, 1)]))).await;
    let text = ["2024-01-01", "2024-01-01 00:01:00", "2024-01-01T00:03:00Z"];
    let rows = batch(Arc::new(StringArray::from(text.to_vec())));
    assert_candles(file("a.parquet", parquet(&rows, 2))).await;
    assert_candles(file("a.csv", format!("ts,close\n{},1.5\n{},0.1\n{},1e-8\n", text[0], text[1], text[2])))
        .await;
}

/// A file in each kind of compression.
fn compressed(content: &[u8]) -> [(&'static str, Vec<u8>); 4] {
    let mut bzip = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    bzip.write_all(content).unwrap();
    let mut xz = XzWriter::new(Vec::new(), XzOptions::with_preset(1)).unwrap();
    xz.write_all(content).unwrap();
    [
        ("gz", gzipped(content)),
        ("zst", zstd::encode_all(content, 1).unwrap()),
        ("bz2", bzip.finish().unwrap()),
        ("xz", xz.finish().unwrap()),
    ]
}

#[tokio::test]
async fn any_format_may_be_compressed_whatever_the_file_is_called() {
    let rows = integers(1);
    let ipc = ipc_file(std::slice::from_ref(&rows), None);
    for (kind, content) in
        [("csv", CANDLES.as_bytes().to_vec()), ("parquet", parquet(&rows, 2)), ("feather", ipc)]
    {
        for (extension, content) in compressed(&content) {
            assert_candles(file(&format!("a.{kind}.{extension}"), &content)).await;
            assert_candles(file(&format!("a.{kind}"), &content)).await;
            // Twice over, and in an archive.
            assert_candles(file("a", gzipped(&content))).await;
            assert_candles(file("a.zip", zipped(&[(&format!("a.{extension}"), &content)]))).await;
        }
    }
    let names = [("gz", "gzip"), ("zst", "Zstandard"), ("bz2", "bzip2"), ("xz", "xz")];
    let long: String = (0..5_000).map(|row| format!("{},{row}\n", BASE + row * 60)).collect();
    for (extension, content) in compressed(format!("ts,close\n{long}").as_bytes()) {
        let name = names.iter().find(|(of, _)| *of == extension).unwrap().1;
        let cut = file("a.csv", &content[..content.len() / 2]);
        let error = FileFetcher::open(cut.config()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        let told = error.to_string();
        assert!(
            told.starts_with(&format!("the {name} data is cut off; copy or download the file again (")),
            "{told}"
        );
        let bomb = file("a.csv", &content);
        let error = FileFetcher::open(bomb.config().with_max_unpacked_bytes(10_000)).await.unwrap_err();
        assert!(error.to_string().contains("(with_max_unpacked_bytes) (cap_bytes: 10000"), "{error}");
    }
}

#[tokio::test]
async fn parquet_may_be_compressed_in_every_usual_way() {
    let rows = integers(1);
    for codec in [
        parquet::basic::Compression::SNAPPY,
        parquet::basic::Compression::GZIP(Default::default()),
        parquet::basic::Compression::BROTLI(Default::default()),
        parquet::basic::Compression::LZ4,
        parquet::basic::Compression::LZ4_RAW,
        parquet::basic::Compression::ZSTD(Default::default()),
    ] {
        let properties = WriterProperties::builder().set_compression(codec).build();
        let mut writer = ArrowWriter::try_new(Vec::new(), rows.schema(), Some(properties)).unwrap();
        writer.write(&rows).unwrap();
        assert_candles(file("a.parquet", writer.into_inner().unwrap())).await;
    }
}

#[tokio::test]
async fn dates_are_days() {
    let days: ArrayRef = Arc::new(Date32Array::from(vec![19_723, 19_724]));
    let close: ArrayRef = Arc::new(Float64Array::from(vec![1.0, 2.0]));
    let rows_written = RecordBatch::try_from_iter([("date", days), ("close", close)]).unwrap();
    let fetcher = file("a.parquet", parquet(&rows_written, 10)).open().await;
    assert_eq!(fetcher.range(&key("X", "1d")).unwrap(), range(BASE, BASE + 2 * 86_400));
}

#[tokio::test]
async fn a_binance_archive_without_header() {
    for (factor, base) in [(1_000, BASE), (1_000_000, 1_735_689_600)] {
        let line = |at: i64| {
            let (open, close) = ((base + at) * factor, (base + at + 60) * factor - 1);
            format!(
                "{open},42283.58000000,42298.62,42261.02,42298.61,35.92724,{close},1519032.11,1327,23.18766,980394.37,0\n"
            )
        };
        let content = zipped(&[("BTCUSDT-1m.csv", (line(0) + &line(60)).as_bytes())]);
        let archive = file("BTCUSDT-1m.zip", content);
        let fetcher = archive.open().await;
        let found = rows(&fetcher, &key("BTCUSDT", "1m"), range(base, base + 600)).await.unwrap();
        let names: Vec<_> = found.schema_ref().fields().iter().map(|field| field.name().clone()).collect();
        let payload =
            ["open", "high", "low", "close", "volume", "quote_volume", "trades", "taker_base_volume"];
        assert_eq!(names[1..9], payload);
        assert_eq!((names[0].as_str(), names[9].as_str(), names.len()), ("ts", "taker_quote_volume", 10));
        assert_eq!(found.num_rows(), 2);
        assert_eq!(found.column(1).as_primitive::<Float64Type>().value(0), 42_283.58);
        assert_eq!(found.column(7).as_primitive::<Int64Type>().value(1), 1_327);
        assert_eq!(found.column(9).as_primitive::<Float64Type>().value(1), 980_394.37);
    }
}

#[tokio::test]
async fn csv_types_nulls_and_doubles() {
    let content = "date,close,note,score,trades,empty\n\
         2024-01-01,NaN,,1,12,\n\
         2024-01-02,-0.0,\"a, b\",,,\n\
         2024-01-03,9007199254740993.0,x,nan,7,\n\
         2024-01-04,inf,y,2.5,0,\n";
    let typed = file("a.csv", content);
    let fetcher = typed.open().await;
    let window = range(BASE, BASE + 10 * 86_400);
    let found = rows(&fetcher, &key("X", "1d"), window).await.unwrap();
    let close = found["close"].as_primitive::<Float64Type>();
    assert!(close.value(0).is_nan() && close.value(1).is_sign_negative() && close.value(3).is_infinite());
    assert_eq!((close.null_count(), close.value(2)), (0, 9_007_199_254_740_992.0));
    let note: Vec<_> = found["note"].as_string::<i32>().iter().collect();
    assert_eq!(note, [None, Some("a, b"), Some("x"), Some("y")]);
    let score = found["score"].as_primitive::<Float64Type>();
    assert!(score.is_null(1) && score.value(2).is_nan());
    let trades: Vec<_> = found["trades"].as_primitive::<Int64Type>().iter().collect();
    assert_eq!(trades, [Some(12), None, Some(7), Some(0)]);
    assert_eq!(found["empty"].as_primitive::<Float64Type>().null_count(), 4);

    let config = typed
        .config()
        .with_column_type("score", ColumnType::Utf8)
        .with_column_type("trades", ColumnType::Float64);
    let fetcher = FileFetcher::open(config).await.unwrap();
    let found = rows(&fetcher, &key("X", "1d"), window).await.unwrap();
    assert_eq!(found["score"].as_string::<i32>().value(3), "2.5");
    assert_eq!(found["trades"].as_primitive::<Float64Type>().value(0), 12.0);
}

#[tokio::test]
async fn long_numbers_that_doubles_hold_or_round() {
    let exact = [
        ("9007199254740992", 9_007_199_254_740_992.0),
        ("-9007199254740994", -9_007_199_254_740_994.0),
        ("18446744073709551616", 18_446_744_073_709_551_616.0),
        ("100000000000000000000", 1e20),
        ("100000000000000000000000", 1e23),
        ("+0000000000000000000001", 1.0),
        ("-0000000000000000000000", -0.0),
    ];
    let rounded = [
        ("9007199254740993.0", 9_007_199_254_740_992.0),
        ("9007199254740993e0", 9_007_199_254_740_992.0),
        ("0.10000000000000000001", 0.1),
        ("1.7976931348623157e308", f64::MAX),
        ("1e-400", 0.0),
    ];
    let infinite = [("inf", f64::INFINITY), ("-Infinity", f64::NEG_INFINITY)];
    for (text, value) in exact.into_iter().chain(rounded).chain(infinite) {
        let written = file("a.csv", format!("ts,close\n1704067200,{text}\n"));
        let fetcher = written.open().await;
        let found = rows(&fetcher, &key("X", "1m"), range(BASE, BASE + 60)).await.unwrap();
        let close = found.column(1).as_primitive::<Float64Type>().value(0);
        assert_eq!(close.to_bits(), value.to_bits(), "{text}");
    }
    let declared = file("a.csv", "ts,id\n1704067200,9007199254740993\n");
    let config = declared.config().with_column_type("id", ColumnType::Int64);
    let fetcher = FileFetcher::open(config).await.unwrap();
    let found = rows(&fetcher, &key("X", "1m"), range(BASE, BASE + 60)).await.unwrap();
    assert_eq!(found.column(1).as_primitive::<Int64Type>().value(0), 9_007_199_254_740_993);
}

#[tokio::test]
async fn a_format_and_a_unit_can_be_said() {
    let named = file("candles.dat", "when,close\n0,1\n60,2\n");
    let config =
        named.config().with_format(FileFormat::Csv).with_ts_column("when").with_ts_unit(TsUnit::Second);
    let fetcher = FileFetcher::open(config).await.unwrap();
    assert_eq!(fetcher.range(&key("X", "1m")).unwrap(), range(0, 120));
    assert_eq!(rows(&fetcher, &key("X", "1m"), range(0, 600)).await.unwrap().num_rows(), 2);
}

/// A reader of zip files knows the last one of them only.
#[tokio::test]
async fn members_of_one_name_are_refused() {
    let [one, other] = ["ts,close\n1709510400,1\n", "ts,close\n1709514000,2\n"].map(str::as_bytes);
    let mut archive = zipped(&[("X-1.csv", one), ("X-2.csv", other)]);
    for at in 0..archive.len() - 7 {
        if archive[at..].starts_with(b"X-2.csv") {
            archive[at + 2] = b'1';
        }
    }
    let error = FileFetcher::open(file("X.zip", archive).config()).await.unwrap_err().to_string();
    assert!(error.starts_with("several members of the zip archive share a name; unpack it"), "{error}");
}
