//! Files that cannot be read, each with the message that says why and what to do.

use std::sync::Arc;

use qmtl_history_api::arrow_array::{ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch};
use qmtl_history_api::{Error, ErrorKind, NodeId};
use qmtl_io_exchange::{ColumnType, FileConfig, FileFetcher, FileFormat, TsUnit};

use crate::files::{TestFile, file, key, range, rows};
use crate::formats::{ipc_file, parquet, zipped};

const BASE: i64 = 1_704_067_200;

async fn refused(config: FileConfig) -> Error {
    let error = FileFetcher::open(config).await.unwrap_err();
    assert!(!error.is_retryable(), "{error}");
    error
}

/// Opens a file and compares the error, in which `FILE` stands for the path.
async fn check(file: &TestFile, kind: ErrorKind, message: &str) {
    check_config(file, file.config(), kind, message).await;
}

async fn check_config(file: &TestFile, config: FileConfig, kind: ErrorKind, message: &str) {
    let error = refused(config).await;
    let expected = message.replace("FILE", &file.path.display().to_string());
    assert_eq!((error.to_string(), error.kind()), (expected, kind));
}

#[tokio::test]
async fn no_file() {
    let there = file("a.csv", "x");
    let missing = there.path.with_file_name("b.csv");
    let error = refused(FileConfig::new(&missing)).await;
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(error.to_string(), format!("the file does not exist (file: {})", missing.display()));
    let folder = there.path.parent().unwrap();
    let error = refused(FileConfig::new(folder)).await;
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert_eq!(
        error.to_string(),
        format!("a directory was given where a file is expected (file: {})", folder.display())
    );
}

#[tokio::test]
async fn nothing_inside() {
    let schema = ErrorKind::Schema;
    check(&file("a.csv", ""), schema, "the file is empty (file: FILE)").await;
    check(&file("a.csv", "\u{feff}\n\n"), schema, "the file is empty (file: FILE)").await;
    check(&file("a.csv", "ts,close\n"), schema, "the file has a header but no rows (file: FILE)").await;
    check(&file("a.csv", "ts,close\r\n\r\n"), schema, "the file has a header but no rows (file: FILE)").await;
    let ts: ArrayRef = Arc::new(Int64Array::from(Vec::<i64>::new()));
    let none = RecordBatch::try_from_iter([("ts", ts)]).unwrap();
    check(&file("a.parquet", parquet(&none, 1)), schema, "the file has columns but no rows (file: FILE)")
        .await;
    check(&file("a.arrow", ipc_file(&[none], None)), schema, "the file has columns but no rows (file: FILE)")
        .await;
}

/// A file of the system has a content and no length: it is read like a pipe.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn what_the_system_makes_up_as_it_is_read_is_not_called_empty() {
    let error = refused(FileConfig::new("/proc/self/status").with_format(FileFormat::Csv)).await;
    assert!(error.to_string().contains("(columns: Name:"), "{error}");
}

#[tokio::test]
async fn time_columns() {
    let invalid = ErrorKind::InvalidInput;
    check(
        &file("a.csv", "day,open,close\n1,2,3\n"),
        invalid,
        "no column is named like a time, such as ts, timestamp, time, date, datetime or open_time; say which one holds \
         it (with_ts_column) (columns: day, open, close, file: FILE)",
    )
    .await;
    check(
        &file("a.csv", "date,time,close\n2024-01-01,2024-01-02,3\n"),
        invalid,
        "several columns may hold the time; say which one does (with_ts_column) (columns: date, time, close, file: FILE)",
    )
    .await;
    let day = file("a.csv", "day,ts\n2024-01-01,3\n");
    check_config(
        &day,
        day.config().with_ts_column("Day"),
        invalid,
        "the file has no column of the name given for the time (column: Day, columns: day, ts, file: FILE)",
    )
    .await;
    check_config(
        &day,
        day.config().with_ts_column("day"),
        ErrorKind::Schema,
        "two columns have one name; name all columns of the file in their order (with_columns), or rename one in it \
         (column: ts, file: FILE)",
    )
    .await;
    check(
        &file("a.csv", "ts,open,open\n1704067200,2,3\n"),
        ErrorKind::Schema,
        "two columns have one name; name all columns of the file in their order (with_columns), or rename one in it \
         (column: open, file: FILE)",
    )
    .await;
}

#[tokio::test]
async fn times() {
    let schema = ErrorKind::Schema;
    check(
        &file("a.csv", "ts,close\n1704067200,1\n,2\n"),
        schema,
        "a row has no time (line: 3, column: ts, value: \"\", file: FILE)",
    )
    .await;
    check(
        &file("a.csv", "ts,close\n1704067200,1\n2024-01-01,2\n"),
        schema,
        "a time is not an integer, although the first one is; write all times in one format (line: 3, column: ts, value: \
         \"2024-01-01\", file: FILE)",
    )
    .await;
    check(
        &file("a.csv", "ts,close\n2024-01-01 00:00,1\n1704067260,2\n"),
        schema,
        "a time is neither an integer nor an ISO 8601 date or date and time; give its format (with_time_format) \
         (line: 3, column: ts, value: \"1704067260\", file: FILE)",
    )
    .await;
    check(
        &file("a.csv", "ts,close\n1704067200,1\n17040672,2\n"),
        schema,
        "the unit of a time cannot be proven: no unit puts it into the years 1990 to 2100; correct it, declare seconds, \
         milliseconds, microseconds or nanoseconds (with_ts_unit), or write ISO 8601 text \
         (line: 3, column: ts, value: \"17040672\", file: FILE)",
    )
    .await;
    let iso = file("a.csv", "date,close\n2024-01-01,1\n");
    check_config(
        &iso,
        iso.config().with_ts_unit(TsUnit::Second),
        ErrorKind::InvalidInput,
        "the time column is declared in seconds, but holds no integer (column: date, file: FILE)",
    )
    .await;
}

#[tokio::test]
async fn columnar_times() {
    let close = || Arc::new(Float64Array::from(vec![1.0, 2.0])) as ArrayRef;
    let with = |ts: ArrayRef| RecordBatch::try_from_iter([("ts", ts), ("close", close())]).unwrap();
    let null = with(Arc::new(Int64Array::from(vec![Some(BASE), None])));
    check(
        &file("a.parquet", parquet(&null, 9)),
        ErrorKind::Schema,
        "a row has no time (column: ts, row: 1, file: FILE)",
    )
    .await;
    check(
        &file("a.parquet", parquet(&null, 1)),
        ErrorKind::Schema,
        "a row has no time (column: ts, row: 1, file: FILE)",
    )
    .await;
    let flags = with(Arc::new(BooleanArray::from(vec![true, false])));
    check(
        &file("a.feather", ipc_file(&[flags], None)),
        ErrorKind::Schema,
        "the time column is neither a timestamp, nor a date, an integer or text (column: ts, type: Boolean, file: FILE)",
    )
    .await;
    let unproven = with(Arc::new(Int64Array::from(vec![BASE, 60])));
    let error = refused(file("a.parquet", parquet(&unproven, 9)).config()).await;
    assert!(error.to_string().starts_with("the unit of a time cannot be proven"), "{error}");
    assert!(error.to_string().contains("(column: ts, row: 1, value: 60, file: "), "{error}");
    let typed = file("a.parquet", parquet(&with(Arc::new(Int64Array::from(vec![BASE, BASE + 60]))), 9));
    check_config(
        &typed,
        typed.config().with_column_type("close", ColumnType::Utf8),
        ErrorKind::InvalidInput,
        "types are declared for CSV alone; this file carries its own (column: close, file: FILE)",
    )
    .await;
}

#[tokio::test]
async fn lines() {
    let schema = ErrorKind::Schema;
    let ragged = "a line does not have as many fields as the header or the first line";
    check(
        &file("a.csv", "ts,close\n1704067200,1\n1704067260\n"),
        schema,
        &format!("{ragged} (line: 3, fields: 1, expected: 2, file: FILE)"),
    )
    .await;
    check(
        &file("a.csv", "ts,close\n1704067200,1\n\n1704067260,1,5\n"),
        schema,
        &format!("{ragged} (line: 4, fields: 3, expected: 2, file: FILE)"),
    )
    .await;
    let long = format!("ts,close\n1704067200,1\n1704067260,{}\n", "1".repeat(70_000));
    check(&file("a.csv", long), schema, "a line is longer than 64 KiB (line: 3, file: FILE)").await;
    let endless = "1".repeat(2_000_000);
    check(&file("a.csv", endless), schema, "a line is longer than 64 KiB (line: 1, file: FILE)").await;
    check(
        &file("a.csv", "ts,note\n1704067200,\"open\n"),
        schema,
        "a quote is opened and not closed (line: 2, file: FILE)",
    )
    .await;
    check(
        &file("a.csv", "1704067200,1,2,3,4,5\n"),
        schema,
        "the file has no header, and the columns behind the time are not open, high, low and close; name its columns in \
         order (with_columns), such as ts,open,high,low,close,volume (first_row: 1704067200 1 2 3 4 5, fields: 6, \
         file: FILE)",
    )
    .await;
}

#[tokio::test]
async fn text_that_is_not_utf8() {
    let schema = ErrorKind::Schema;
    check(
        &file("a.csv", b"ts,\xff\n1,2\n"),
        schema,
        "the header is not UTF-8; save the file as UTF-8, or name its columns (with_columns) (line: 1, column: 2, \
         file: FILE)",
    )
    .await;
    for cut in [&b"\xff\xfet\0s"[..], b"\xff\xfet\0\0\xdc"] {
        check(
            &file("a.csv", cut),
            schema,
            "the file is UTF-16 text, but damaged or cut off; save it as UTF-8 (file: FILE)",
        )
        .await;
    }
    check(
        &file("a.csv", b"\xff\xfe\0\0t\0\0\0"),
        schema,
        "the file is UTF-32 text; save it as UTF-8 (file: FILE)",
    )
    .await;
    let symbol = file("a.csv", b"ts,symbol\n1704067200,\xff\n");
    check_config(
        &symbol,
        symbol.config().with_symbol_column("symbol"),
        schema,
        "a symbol is not UTF-8 (line: 2, file: FILE)",
    )
    .await;
    check_value(
        b"ts,note\n1704067200,ok\n1704067260,\xff\n",
        "a value is not UTF-8 text",
        "note",
        "\u{fffd}",
    )
    .await;
}

/// Reads a file whose third line has a bad value: the window fails, not the file.
async fn check_value(content: &[u8], message: &str, column: &str, value: &str) {
    let bad = file("a.csv", content);
    let fetcher = bad.open().await;
    assert_eq!(rows(&fetcher, &key("X", "1m"), range(BASE, BASE + 60)).await.unwrap().num_rows(), 1);
    let error = rows(&fetcher, &key("X", "1m"), range(BASE, BASE + 120)).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "{message}; correct it, or declare the column's type (with_column_type) (line: 3, column: {column}, \
             value: {value:?}, file: {})",
            bad.path.display()
        )
    );
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Schema, false));
}

/// Reads a file whose third line holds a number that is no double: the window fails, not the file.
async fn check_double(column: &str, value: &str, message: &str) {
    let bad = file("a.csv", format!("ts,{column}\n1704067200,1\n1704067260,{value}\n"));
    let fetcher = bad.open().await;
    assert_eq!(rows(&fetcher, &key("X", "1m"), range(BASE, BASE + 60)).await.unwrap().num_rows(), 1);
    let error = rows(&fetcher, &key("X", "1m"), range(BASE, BASE + 120)).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "{message} (line: 3, column: {column}, value: {:?}, file: {})",
            &value[..value.len().min(80)],
            bad.path.display()
        )
    );
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Schema, false));
}

#[tokio::test]
async fn numbers_that_are_no_doubles() {
    let large = "a number is larger than the largest double; correct it, or declare the column as Utf8 \
                 (with_column_type)";
    for value in ["1e400", "-1e400", " 1e309 ", &"9".repeat(400), "1.8e308"] {
        check_double("close", value, large).await;
        check_double("extra", value, large).await;
    }
    let inexact = "a whole number cannot be held exactly by a double; declare the column as Int64, or as Utf8 if \
                   its values need more than 64 bits (with_column_type)";
    for value in ["9007199254740993", "-9007199254740993", "9223372036854775807", "18446744073709551617"] {
        check_double("volume", value, inexact).await;
        check_double("extra", value, inexact).await;
    }
    // Zeros before an id are part of it, so that only a column of a candle is a number with them.
    check_double("volume", " 009007199254740993", inexact).await;
}

#[tokio::test]
async fn values() {
    for value in ["abc", "1.2.3", "0x10", "1_000", "4.67%", "K"] {
        let content = format!("ts,close\n1704067200,1\n1704067260,{value}\n");
        check_value(content.as_bytes(), "a value is not a number", "close", value).await;
    }
    check_value(b"ts,trades\n1704067200,1\n1704067260,1.5\n", "a value is not an integer", "trades", "1.5")
        .await;
    let lacks = file("a.csv", "ts,close\n1704067200,1\n");
    check_config(
        &lacks,
        lacks.config().with_column_type("note", ColumnType::Utf8),
        ErrorKind::InvalidInput,
        "a type is declared for a column that the file lacks (column: note, file: FILE)",
    )
    .await;
}

#[tokio::test]
async fn symbols() {
    let one = file("a.csv", "ts,close\n1704067200,1\n");
    check_config(
        &one,
        one.config().with_symbol(NodeId::new("n").unwrap(), "BTC"),
        ErrorKind::InvalidInput,
        "symbols are given, but not the column to find them in (with_symbol_column) (file: FILE)",
    )
    .await;
    check_config(
        &one,
        one.config().with_symbol_column("symbol"),
        ErrorKind::InvalidInput,
        "the file has no column of the name given for the symbol (column: symbol, columns: ts, close, file: FILE)",
    )
    .await;
    check_config(
        &one,
        one.config().with_symbol_column("ts"),
        ErrorKind::InvalidInput,
        "one column cannot hold both the time and the symbol (columns: ts, close, file: FILE)",
    )
    .await;
}

#[tokio::test]
async fn archives() {
    check(
        &file("a.zip", zipped(&[])),
        ErrorKind::Schema,
        "the archive holds no file of a format that is read (files: 0, names: , file: FILE)",
    )
    .await;
    check(
        &file("a.zip", zipped(&[("README.md", b"# Bars"), ("n2.dat", b"none, yet\n"), ("n10.dat", b"\x01")])),
        ErrorKind::Schema,
        "the archive holds no file of a format that is read (files: 3, names: README.md, n2.dat, n10.dat, file: FILE)",
    )
    .await;
    let bomb = file("a.zip", zipped(&[("a.csv", &vec![b'0'; 50_000_000])]));
    assert!(std::fs::metadata(&bomb.path).unwrap().len() < 100_000);
    check_config(
        &bomb,
        bomb.config().with_max_unpacked_bytes(1_000_000),
        ErrorKind::InvalidInput,
        "the file unpacks to more than the cap and may be a decompression bomb; raise the cap if it is not \
         (with_max_unpacked_bytes) (cap_bytes: 1000000, file: FILE)",
    )
    .await;
    let nested = file("a.zip", zipped(&[("a.zip", &zipped(&[("a.csv", b"ts\n1\n")]))]));
    check(
        &nested,
        ErrorKind::Schema,
        "an archive lies inside of the archive; unpack the outer one first (member: a.zip, file: FILE)",
    )
    .await;
    let whole = zipped(&[("a.csv", b"ts,close\n1704067200,1\n1704067260,2\n")]);
    check(
        &file("a.zip", &whole[..whole.len() - 10]),
        ErrorKind::Corrupt,
        "the zip archive is damaged or cut off; copy or download the file again (file: FILE)",
    )
    .await;
    check(
        &file("a.csv.gz", b"\x1f\x8b\x08\0\0\0\0\0\0\x03"),
        ErrorKind::Corrupt,
        "the gzip data is cut off; copy or download the file again (file: FILE)",
    )
    .await;
}

#[tokio::test]
async fn the_wrong_format() {
    let ts: ArrayRef = Arc::new(Int64Array::from(vec![BASE, BASE + 60]));
    let rows = RecordBatch::try_from_iter([("ts", ts)]).unwrap();
    let named = file("a.csv", parquet(&rows, 9));
    assert!(FileFetcher::open(named.config()).await.is_ok());
    check_config(
        &named,
        named.config().with_format(FileFormat::Csv),
        ErrorKind::Schema,
        "the file is to be read as CSV, but its content is Parquet; leave the format out (with_format) (file: FILE)",
    )
    .await;
    check(
        &file("a.parquet", "ts,close\n1,2\n"),
        ErrorKind::Schema,
        "the file is to be read as Parquet, but its content is not (file: FILE)",
    )
    .await;
    check(
        &file("a.feather", b"FEA1...."),
        ErrorKind::Schema,
        "Feather V1 is not read; write the file as Feather V2 or Parquet (file: FILE)",
    )
    .await;
    check(
        &file("a.bin", b"\x01\x02\x03"),
        ErrorKind::InvalidInput,
        "neither the file's extension nor its content is of a format that is read (csv, json, parquet, arrow, feather, \
         ipc; also in gz, zst, xz, bz2, zip, tar); say which one it is (with_format) (file: FILE)",
    )
    .await;
    let named = file("a.csv", ipc_file(std::slice::from_ref(&rows), None));
    assert!(FileFetcher::open(named.config().with_format(FileFormat::Arrow)).await.is_ok());
}

#[tokio::test]
async fn cut_off_and_damaged_files_are_refused_and_never_misread() {
    let ts: ArrayRef = Arc::new(Int64Array::from_iter_values((0..500).map(|row| BASE + row * 60)));
    let batch = RecordBatch::try_from_iter([("ts", ts)]).unwrap();
    let whole = parquet(&batch, 100);
    check(
        &file("a.parquet", &whole[..whole.len() - 20]),
        ErrorKind::Corrupt,
        "cannot read the footer of the Parquet file: it is damaged or cut off (file: FILE)",
    )
    .await;
    let whole = ipc_file(&[batch], None);
    check(
        &file("a.arrow", &whole[..whole.len() - 20]),
        ErrorKind::Corrupt,
        "cannot read the footer of the Arrow file: it is damaged or cut off (file: FILE)",
    )
    .await;
    for keep in (7..whole.len()).step_by(97) {
        let cut = file("a.arrow", &whole[..keep]);
        assert_eq!(refused(cut.config()).await.kind(), ErrorKind::Corrupt, "{keep}");
    }
}

#[tokio::test]
async fn long_values_are_quoted_by_their_head() {
    let content = format!("ts,close\n1704067200,1\n1704067260,{}\n", "x".repeat(10_000));
    let fetcher_file = file("a.csv", content);
    let fetcher = fetcher_file.open().await;
    let error = rows(&fetcher, &key("X", "1m"), range(BASE, BASE + 120)).await.unwrap_err();
    assert!(error.to_string().contains(&format!("value: {:?},", "x".repeat(80))), "{error}");
}
