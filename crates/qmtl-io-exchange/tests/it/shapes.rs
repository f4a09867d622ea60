//! Text files in the shapes that people have: each is read right, or refused with a remedy that works.

use qmtl_history_api::arrow_array::cast::AsArray;
use qmtl_history_api::arrow_array::types::{Float64Type, Int64Type, TimestampMicrosecondType};
use qmtl_history_api::arrow_array::{Array, RecordBatch};
use qmtl_history_api::arrow_schema::DataType;
use qmtl_history_api::{Result, Timestamp};
use qmtl_io_exchange::{ColumnType, Decimal, FileConfig, FileFetcher, FileFormat, TimeFormat, TsUnit};

use crate::files::{TestFile, file, key, rows};
use crate::formats::{gzipped, zipped};

/// The names of all columns, then all values, a line each; `-` for no value.
pub(crate) fn shown(batch: &RecordBatch) -> String {
    let cell = |column: &dyn Array, row: usize| match column.data_type() {
        _ if column.is_null(row) => "-".to_owned(),
        DataType::Float64 => column.as_primitive::<Float64Type>().value(row).to_string(),
        DataType::Int64 => column.as_primitive::<Int64Type>().value(row).to_string(),
        DataType::Utf8 => format!("{:?}", column.as_string::<i32>().value(row)),
        DataType::Timestamp(..) => {
            let micros = column.as_primitive::<TimestampMicrosecondType>().value(row);
            Timestamp::from_micros(micros).unwrap().to_string()
        }
        other => panic!("a column of {other}"),
    };
    let names: Vec<_> = batch.schema().fields().iter().map(|field| field.name().clone()).collect();
    let mut lines = vec![names.join(" ")];
    for row in 0..batch.num_rows() {
        let cells: Vec<_> = batch.columns().iter().map(|column| cell(column, row)).collect();
        lines.push(cells.join(" "));
    }
    lines.join("\n")
}

/// All rows of a file, and what was noted.
async fn read(config: FileConfig, interval: &str) -> Result<(String, Vec<String>)> {
    let fetcher = FileFetcher::open(config).await?;
    let key = key("X", interval);
    let rows = rows(&fetcher, &key, fetcher.range(&key)?).await?;
    Ok((shown(&rows), fetcher.notes().to_vec()))
}

/// Checks all rows of a file and its notes.
async fn check(file: &TestFile, config: FileConfig, interval: &str, expected: &[&str], notes: &[&str]) {
    let content = String::from_utf8_lossy(&std::fs::read(&file.path).unwrap()).into_owned();
    let (rows, told) = read(config, interval).await.unwrap_or_else(|e| panic!("{content}\n{e}"));
    assert_eq!(rows, expected.join("\n"), "{content}");
    assert_eq!(told, notes, "{content}");
}

async fn check_text(content: &str, interval: &str, expected: &[&str], notes: &[&str]) {
    let file = file("a.csv", content);
    check(&file, file.config(), interval, expected, notes).await;
}

const CANDLES: [&str; 3] = [
    "ts open high low close volume",
    "2024-03-04T00:00:00Z 20.5 22.25 20 21.75 310",
    "2024-03-04T01:00:00Z 21.75 23 21.5 22.5 45.5",
];

#[tokio::test]
async fn delimiters() {
    for (mark, name) in [(";", "semicolons"), ("\t", "tabs"), ("|", "bars"), (" ", "blanks")] {
        let text = "ts,open,high,low,close,volume\n1709510400,20.5,22.25,20,21.75,310\n\
                    1709514000,21.75,23,21.5,22.5,45.5\n";
        let note = format!("columns are separated by {name}");
        check_text(&text.replace(',', mark), "1h", &CANDLES, &[&note]).await;
    }
    check_text(
        "ts;open;high;low;close;volume\n1709510400;20,5;22,25;20,0;21,75;310\n1709514000;21,75;23,0;21,5;22,5;45,5\n",
        "1h",
        &CANDLES,
        &["columns are separated by semicolons", "a comma stands before the fraction of numbers"],
    )
    .await;
    let spaced = file(
        "a.csv",
        "ts open high low close volume\n1709510400 20.5 22.25 20 21.75 310\n\
                                1709514000 21.75 23 21.5 22.5 45.5\n",
    );
    let config = spaced.config().with_delimiter(' ').unwrap();
    check(&spaced, config, "1h", &CANDLES, &["columns are separated by blanks"]).await;
}

#[tokio::test]
async fn numbers() {
    check_text(
        "Date,Open,High,Low,Close,Volume\n2024-03-04,\"1,020.5\",\"1,200\",999.75,\"1,100.25\",\"7,654,321\"\n\
         2024-03-05,\"1,100.25\",\"1,150\",\"1,000\",\"1,010\",\"82,000\"\n",
        "1d",
        &[
            "ts open high low close volume",
            "2024-03-04T00:00:00Z 1020.5 1200 999.75 1100.25 7654321",
            "2024-03-05T00:00:00Z 1100.25 1150 1000 1010 82000",
        ],
        &[],
    )
    .await;
    check_text(
        "Date,Price,Open,High,Low,Vol.,Change %\n2024-03-04,$21.5,$20.25,$22,$20,117.65K,4.67%\n\
         2024-03-05,$22,$21.5,$23,$21,1.2M,-0.5%\n",
        "1d",
        &[
            "ts close open high low volume Change %",
            "2024-03-04T00:00:00Z 21.5 20.25 22 20 117650 \"4.67%\"",
            "2024-03-05T00:00:00Z 22 21.5 23 21 1200000 \"-0.5%\"",
        ],
        &[],
    )
    .await;
    check_text(
        "ts;close;volume\n1709510400;42.187,15;1.234\n1709514000;1.000.000,5;0\n",
        "1h",
        &["ts close volume", "2024-03-04T00:00:00Z 42187.15 1234", "2024-03-04T01:00:00Z 1000000.5 0"],
        &["columns are separated by semicolons", "a comma stands before the fraction of numbers"],
    )
    .await;
    // What counts in a unit may be anything in a column that is not known.
    check_text(
        "ts,close,bar,side\n1709510400,1.5,5m,B\n1709514000,1.25,5m,S\n",
        "1h",
        &[
            "ts close bar side",
            "2024-03-04T00:00:00Z 1.5 \"5m\" \"B\"",
            "2024-03-04T01:00:00Z 1.25 \"5m\" \"S\"",
        ],
        &[],
    )
    .await;
}

#[tokio::test]
async fn words_for_no_value() {
    check_text(
        "ts,close,volume\n1709510400,1.5,N/A\n1709514000,null,7\n1709517600,2.5,--\n",
        "1h",
        &[
            "ts close volume",
            "2024-03-04T00:00:00Z 1.5 -",
            "2024-03-04T01:00:00Z - 7",
            "2024-03-04T02:00:00Z 2.5 -",
        ],
        &[],
    )
    .await;
    check_text(
        "Date,Open,Close\n2024-03-04,1,2\n2024-03-05,null,null\n2024-03-06,3,4\n",
        "1d",
        &["ts open close", "2024-03-04T00:00:00Z 1 2", "2024-03-06T00:00:00Z 3 4"],
        &["1 row is left out, with words such as null for all values"],
    )
    .await;
}

#[tokio::test]
async fn lines_around_the_table() {
    let table = "ts,open,high,low,close,volume\n1709510400,20.5,22.25,20,21.75,310\n\
                 1709514000,21.75,23,21.5,22.5,45.5\n";
    let one = &["1 line before the table is left out"];
    let two = &["2 lines before the table are left out"];
    check_text(&format!("https://www.example.com/data\n{table}"), "1h", &CANDLES, one).await;
    check_text(&format!("# made by hand\n# on 2024-03-05, not checked\n{table}"), "1h", &CANDLES, two).await;
    check_text(&format!("sep=,\n{table}"), "1h", &CANDLES, one).await;
    check_text(&format!("#{table}"), "1h", &CANDLES, &[]).await;
    check_text(&format!("a,b,c,d,e,f\n{table}"), "1h", &CANDLES, one).await;
    check_text(
        "Price,Close,Open\nTicker,ACME,ACME\nDate,,\n2024-03-04,2,1\n2024-03-05,4,3\n",
        "1d",
        &["ts close open", "2024-03-04T00:00:00Z 2 1", "2024-03-05T00:00:00Z 4 3"],
        &["2 lines below the header are left out"],
    )
    .await;
    // As pandas writes the same table into a file of one header.
    for columns in
        ["\"('Close', 'ACME')\",\"('Open', 'ACME')\"", "\"('ACME', 'Close')\",\"('ACME', 'Open')\""]
    {
        let text = format!("\"('Date', '')\",{columns}\n2024-03-04,2,1\n2024-03-05,4,3\n");
        let rows = &["ts close open", "2024-03-04T00:00:00Z 2 1", "2024-03-05T00:00:00Z 4 3"];
        check_text(&text, "1d", rows, &[]).await;
    }
    let both = "\"('Date', '')\",\"('Close', 'ACME')\",\"('Close', 'NOVA')\"\n2024-03-04,2,1\n";
    let error = read(file("a.csv", both).config(), "1d").await.unwrap_err().to_string();
    assert!(error.starts_with("the file holds several series side by side"), "{error}");
    let header = table.lines().next().unwrap();
    let repeated = table.replace("\n1709514000", &format!("\n{header}\n1709514000"));
    check_text(&repeated, "1h", &CANDLES, &["the header comes again once"]).await;
    let repeated = table.replace("\n1709514000", &format!("\n{}\n1709514000", header.to_uppercase()));
    check_text(&repeated, "1h", &CANDLES, &["the header comes again once"]).await;
    let behind = "1 line is left out behind the table";
    check_text(&format!("{table}Total: 2 rows\n"), "1h", &CANDLES, &[behind]).await;
    check_text(&format!("{table}Total,,,,,\n"), "1h", &CANDLES, &[behind]).await;
    // A line below a date and a time of day that has neither, and one that has the date alone.
    let two = "Date,Time,Close\n2024-03-04,00:00,1\n2024-03-04,01:00,2\n";
    let rows = &["ts close", "2024-03-04T00:00:00Z 1", "2024-03-04T01:00:00Z 2"];
    check_text(&format!("{two}Total: 2 rows\n"), "1h", rows, &[behind]).await;
    for again in ["Date,Time,Close", "DATE,TIME,CLOSE", ",,", "Total,,3"] {
        let (rows, _) = read(file("a.csv", format!("{two}{again}\n")).config(), "1h").await.unwrap();
        assert_eq!(rows.lines().count(), 3, "{again}: {rows}");
    }
    let middle = two.replace("\n2024-03-04,01", "\nDate,Time,Close\n2024-03-04,01");
    check_text(&middle, "1h", rows, &["the header comes again once"]).await;
    let error =
        read(file("a.csv", format!("{two}2024-03-04\n")).config(), "1h").await.unwrap_err().to_string();
    assert!(
        error.starts_with("a line does not have as many fields as the header or the first line"),
        "{error}"
    );
    check_text(&format!("{table}1709517600,22"), "1h", &CANDLES, &["the last line is cut off and left out"])
        .await;
    check_text(
        table.trim_end(),
        "1h",
        &CANDLES,
        &["the last line has no line end, so its last value may be cut off"],
    )
    .await;
    let skipped = file("a.csv", format!("ts,close\n1709510400,1\n{table}"));
    check(&skipped, skipped.config().with_skipped_lines(2), "1h", &CANDLES, &[]).await;
}

#[tokio::test]
async fn no_header() {
    check_text(
        "1709510400,20.5,22.25,20.0,21.75,310.5,7\n1709514000,21.75,23.0,21.5,22.5,45.5,3\n",
        "1h",
        &[
            "ts open high low close volume column_7",
            "2024-03-04T00:00:00Z 20.5 22.25 20 21.75 310.5 7",
            "2024-03-04T01:00:00Z 21.75 23 21.5 22.5 45.5 3",
        ],
        &["there is no header: its columns are read as ts, open, high, low, close, volume, column_7"],
    )
    .await;
    check_text(
        "20240304 000000;1.0825;1.0831;1.0820;1.0829;0\n20240304 000100;1.0829;1.0835;1.0828;1.0830;0\n",
        "1m",
        &[
            "ts open high low close volume",
            "2024-03-04T00:00:00Z 1.0825 1.0831 1.082 1.0829 0",
            "2024-03-04T00:01:00Z 1.0829 1.0835 1.0828 1.083 0",
        ],
        &[
            "columns are separated by semicolons",
            "there is no header: its columns are read as ts, open, high, low, close, volume",
            "times are read as %Y%m%d %H%M%S in UTC",
        ],
    )
    .await;
    check_text(
        "2024.03.04,00:00,1.0825,1.0831,1.0820,1.0829,12\n2024.03.04,00:01,1.0829,1.0835,1.0828,1.0830,40\n",
        "1m",
        &[
            "ts open high low close volume",
            "2024-03-04T00:00:00Z 1.0825 1.0831 1.082 1.0829 12",
            "2024-03-04T00:01:00Z 1.0829 1.0835 1.0828 1.083 40",
        ],
        &[
            "there is no header: its columns are read as date, time, open, high, low, close, volume",
            "times are read as %Y.%m.%d %H:%M in UTC",
        ],
    )
    .await;
    // A price behind the close is no volume.
    check_text(
        "2024-03-04,20,22,19,21,20.8\n2024-03-05,21,23,20,22,21.8\n2024-03-06,22,24,21,23,22.8\n",
        "1d",
        &[
            "ts open high low close column_6",
            "2024-03-04T00:00:00Z 20 22 19 21 20.8",
            "2024-03-05T00:00:00Z 21 23 20 22 21.8",
            "2024-03-06T00:00:00Z 22 24 21 23 22.8",
        ],
        &["there is no header: its columns are read as ts, open, high, low, close, column_6"],
    )
    .await;
    let named = file("a.csv", "1709510400,21.75,20.5,x,B\n1709514000,22.5,21.75,y,S\n");
    check(
        &named,
        named.config().with_columns(["ts", "close", "open", "", "side"]),
        "1h",
        &[
            "ts close open side",
            "2024-03-04T00:00:00Z 21.75 20.5 \"B\"",
            "2024-03-04T01:00:00Z 22.5 21.75 \"S\"",
        ],
        &[],
    )
    .await;
    // A header is recognised where names are given in its place, and left out.
    let renamed = file("a.csv", "zeit,schluss\n1709510400,21.75\n");
    check(
        &renamed,
        renamed.config().with_columns(["ts", "close"]),
        "1h",
        &["ts close", "2024-03-04T00:00:00Z 21.75"],
        &["1 line before the table is left out"],
    )
    .await;
    check(
        &renamed,
        renamed.config().with_column("close", "schluss").with_column("ts", "zeit"),
        "1h",
        &["ts close", "2024-03-04T00:00:00Z 21.75"],
        &[],
    )
    .await;
}

#[tokio::test]
async fn headers() {
    check_text(
        ",ts,close\n0,1709510400,1.5\n1,1709514000,2.5\n",
        "1h",
        &["ts close", "2024-03-04T00:00:00Z 1.5", "2024-03-04T01:00:00Z 2.5"],
        &["column 1 has no name and is not read"],
    )
    .await;
    check_text(
        ",Open,Close\n2024-03-04,1.5,2\n2024-03-05,2.5,3\n",
        "1d",
        &["ts open close", "2024-03-04T00:00:00Z 1.5 2", "2024-03-05T00:00:00Z 2.5 3"],
        &[],
    )
    .await;
    check_text(
        "time,close,Plot,Plot\n1709510400,1.5,3,4\n1709514000,2.5,5,6\n",
        "1h",
        &["ts close Plot Plot_2", "2024-03-04T00:00:00Z 1.5 3 4", "2024-03-04T01:00:00Z 2.5 5 6"],
        &["column 4 is called Plot like another one and is read as Plot_2"],
    )
    .await;
    let plain = ["ts close", "2024-03-04T00:00:00Z 1.5", "2024-03-04T01:00:00Z 2.5"];
    check_text("ts,close,\n1709510400,1.5,\n1709514000,2.5,\n", "1h", &plain, &[]).await;
    check_text("ts,close\n1709510400,1.5,\n1709514000,2.5,\n", "1h", &plain, &[]).await;
    check_text("ts,close,\n1709510400,1.5\n1709514000,2.5\n", "1h", &plain, &[]).await;
    check_text("<TS>,<CLOSE>\n1709510400,1.5\n1709514000,2.5\n", "1h", &plain, &[]).await;
    check_text(
        "Date,Open,Close\n2024-03-04,00:00:00,1,1.5\n2024-03-04,01:00:00,2,2.5\n",
        "1h",
        &["ts open close", "2024-03-04T00:00:00Z 1 1.5", "2024-03-04T01:00:00Z 2 2.5"],
        &[],
    )
    .await;
    check_text(
        "Date,Time,Close\n03/14/2024,00:00,1.5\n03/14/2024,01:00,2.5\n",
        "1h",
        &["ts close", "2024-03-14T00:00:00Z 1.5", "2024-03-14T01:00:00Z 2.5"],
        &["times are read as %m/%d/%Y %H:%M in UTC"],
    )
    .await;
    check_text(
        "Unix,Date,Symbol,close\n1709514000,2024-03-04 01:00:00,X,2.5\n1709510400,2024-03-04 00:00:00,X,1.5\n",
        "1h",
        &[
            "ts Date Symbol close",
            "2024-03-04T00:00:00Z \"2024-03-04 00:00:00\" \"X\" 1.5",
            "2024-03-04T01:00:00Z \"2024-03-04 01:00:00\" \"X\" 2.5",
        ],
        &[],
    )
    .await;
}

#[tokio::test]
async fn encodings_and_line_ends() {
    let text = "ts,open,high,low,close,volume\n1709510400,20.5,22.25,20,21.75,310\n\
                1709514000,21.75,23,21.5,22.5,45.5\n";
    let utf16 =
        |text: &str, bytes: fn(u16) -> [u8; 2]| text.encode_utf16().flat_map(bytes).collect::<Vec<u8>>();
    let marked = format!("\u{feff}{text}");
    for content in [
        utf16(&marked, u16::to_le_bytes),
        utf16(&marked, u16::to_be_bytes),
        utf16(text, u16::to_le_bytes),
        utf16(text, u16::to_be_bytes),
    ] {
        for (name, content) in [
            ("a.csv", content.clone()),
            ("a.csv.gz", gzipped(&content)),
            ("a.zip", zipped(&[("a.csv", &content)])),
            ("a.dat", content),
        ] {
            let file = file(name, content);
            check(&file, file.config(), "1h", &CANDLES, &["the text is UTF-16"]).await;
        }
    }
    check_text(&text.replace('\n', "\r"), "1h", &CANDLES, &["lines end in CR alone"]).await;
    check_text(&text.replace('\n', "\r\n"), "1h", &CANDLES, &[]).await;
    check_text(&marked, "1h", &CANDLES, &[]).await;
    let both = file("a.csv", utf16(&text.replace('\n', "\r"), u16::to_le_bytes));
    check(&both, both.config(), "1h", &CANDLES, &["the text is UTF-16", "lines end in CR alone"]).await;
    let beyond = format!("ts,note\n1709510400,{}\n1709514000,b\n", "\u{1f4c8}".repeat(15_000));
    let beyond = file("a.csv", utf16(&format!("\u{feff}{beyond}"), u16::to_le_bytes));
    let (rows, _) = read(beyond.config(), "1h").await.unwrap();
    let expected = format!(
        "ts note\n2024-03-04T00:00:00Z \"{}\"\n2024-03-04T01:00:00Z \"b\"",
        "\u{1f4c8}".repeat(15_000)
    );
    assert_eq!(rows, expected);
    for name in ["a.tsv", "a.dat", "a.prn", "a"] {
        let file = file(name, text.replace(',', "\t"));
        check(&file, file.config(), "1h", &CANDLES, &["columns are separated by tabs"]).await;
    }
}

#[tokio::test]
async fn forms_of_times() {
    // Each is 2024-03-14, 00:00 and 01:00 UTC.
    for (first, second, form) in [
        ("2024-03-14T00:00:00Z", "2024-03-14T01:00:00Z", None),
        ("2024-03-14T00:00:00+0000", "2024-03-14T01:00:00+0000", None),
        ("2024-03-14 00:00:00+00", "2024-03-14 01:00:00+00", None),
        ("2024-03-14 00:00:00 UTC", "2024-03-14 01:00:00 UTC", None),
        ("2024-03-14 00:00:00 +00:00", "2024-03-14 01:00:00 +00:00", None),
        ("2024-03-14 01:00:00 +0100", "2024-03-14 02:00:00 +0100", None),
        ("2024-03-14T00:00:00.000000000Z", "2024-03-14T01:00:00.000000000Z", None),
        ("2024-03-14 00:00", "2024-03-14 01:00", None),
        ("2024-03-14T00:00Z", "2024-03-14T01:00Z", None),
        ("20240314T000000Z", "20240314T010000Z", None),
        (" 2024-03-14 00:00:00 ", " 2024-03-14 01:00:00 ", None),
        ("2024-03-14  00:00:00", "2024-03-14  01:00:00", None),
        ("2024-03-13 24:00:00", "2024-03-14 01:00:00", None),
        ("2024-03-13 24:00", "2024-03-14 01:00", None),
        ("2024-03-14", "2024-03-14 01:00:00", None),
        ("20240314000000", "20240314010000", None),
        ("202403140000", "202403140100", None),
        ("1710374400.0", "1710378000.0", None),
        ("1710374400.000", "1710378000.000", None),
        ("1.710374400000000000e+09", "1.710378000000000000e+09", None),
        ("1710374400000", "1710378000000", None),
        ("2024/03/14 00:00:00", "2024/03/14 01:00:00", Some("%Y/%m/%d %H:%M:%S%.f")),
        ("14.03.2024 00:00:00.000", "14.03.2024 01:00:00.000", Some("%d.%m.%Y %H:%M:%S%.f")),
        ("03/14/2024 12:00 AM", "03/14/2024 01:00 AM", Some("%m/%d/%Y %I:%M %p")),
        ("14/03/2024 00:00", "14/03/2024 01:00", Some("%d/%m/%Y %H:%M")),
        ("20240314 000000", "20240314 010000", Some("%Y%m%d %H%M%S")),
        ("20240314  00:00:00", "20240314  01:00:00", Some("%Y%m%d %H:%M:%S%.f")),
        (
            "Thu, 14 Mar 2024 00:00:00 GMT",
            "Thu, 14 Mar 2024 01:00:00 GMT",
            Some("%a, %d %B %Y %H:%M:%S%.f GMT"),
        ),
        ("14 Mar 2024 00:00", "14 Mar 2024 01:00", Some("%d %B %Y %H:%M")),
        ("2024-3-14 0:00", "2024-3-14 1:00", None),
    ] {
        let content = format!("ts;close\n{first};1.5\n{second};2.5\n");
        let zone = |form: &str| if form.ends_with("GMT") { "" } else { " in UTC" };
        let notes = form.map(|form| format!("times are read as {form}{}", zone(form)));
        let notes: Vec<_> =
            ["columns are separated by semicolons"].into_iter().chain(notes.as_deref()).collect();
        check_text(
            &content,
            "1h",
            &["ts close", "2024-03-14T00:00:00Z 1.5", "2024-03-14T01:00:00Z 2.5"],
            &notes,
        )
        .await;
    }
    // Minutes that look like the end of a day are none.
    check_text(
        "ts,close\n2024-03-14 12:24:00 UTC,1.5\n2024-03-14 12:25:00 UTC,2.5\n",
        "1m",
        &["ts close", "2024-03-14T12:24:00Z 1.5", "2024-03-14T12:25:00Z 2.5"],
        &[],
    )
    .await;
}

#[tokio::test]
async fn a_time_of_day_without_its_zero_is_not_taken_for_another() {
    // 10000 would be ten o'clock, and is one.
    let file = file("a.csv", "ts,close\n20240304 10000,1.5\n20240304 20000,2.5\n");
    let error = FileFetcher::open(file.config()).await.unwrap_err().to_string();
    assert_eq!(
        error,
        format!(
            "a time is neither an integer nor an ISO 8601 date or date and time; give its format \
             (with_time_format) (line: 2, column: ts, value: \"20240304 10000\", file: {})",
            file.path.display()
        )
    );
}

/// A remedy.
type Remedy = fn(FileConfig) -> FileConfig;

#[tokio::test]
async fn what_is_refused_names_a_remedy_that_works() {
    let cases: [(&str, &str, &str, Remedy, &[&str]); 15] = [
        (
            "ts,close\n01/02/2024,1.5\n01/03/2024,2.5\n",
            "the times of the file can be read in several ways; say which one is right (with_time_format) (column: ts, \
             value: \"01/02/2024\", forms: %d/%m/%Y or %m/%d/%Y, line: 2, file: FILE)",
            "1d",
            |config| config.with_time_format(TimeFormat::new("%m/%d/%Y").unwrap()),
            &["ts close", "2024-01-02T00:00:00Z 1.5", "2024-01-03T00:00:00Z 2.5"],
        ),
        // What both forms read alike may be followed by what they do not.
        (
            "ts,close\n01/01/2024 00:00,1.5\n01/01/2024 01:00,2.5\n",
            "the times of the file can be read in several ways; say which one is right (with_time_format) (column: ts, \
             value: \"01/01/2024 00:00\", forms: %d/%m/%Y %H:%M or %m/%d/%Y %H:%M, line: 2, file: FILE)",
            "1h",
            |config| config.with_time_format(TimeFormat::new("%d/%m/%Y %H:%M").unwrap()),
            &["ts close", "2024-01-01T00:00:00Z 1.5", "2024-01-01T01:00:00Z 2.5"],
        ),
        (
            "ts,close\n24/01/30,1.5\n24/01/31,2.5\n",
            "the times of the file can be read in several ways; say which one is right (with_time_format) (column: ts, \
             value: \"24/01/30\", forms: %d/%m/%y or %y/%m/%d, line: 2, file: FILE)",
            "1d",
            |config| config.with_time_format(TimeFormat::new("%y/%m/%d").unwrap()),
            &["ts close", "2024-01-30T00:00:00Z 1.5", "2024-01-31T00:00:00Z 2.5"],
        ),
        (
            "ts;close\n1709510400;1,234\n1709514000;5,678\n",
            "a comma in the numbers of the file may stand before a fraction or between thousands; say which one it is \
             (with_decimal) (value: \"1,234\", file: FILE)",
            "1h",
            |config| config.with_decimal(Decimal::Comma),
            &["ts close", "2024-03-04T00:00:00Z 1.234", "2024-03-04T01:00:00Z 5.678"],
        ),
        (
            "ts;close;volume\n1709510400;1,5;2.5\n1709514000;2,5;2,5\n",
            "a comma in the numbers of the file may stand before a fraction or between thousands; say which one it is \
             (with_decimal) (value: \"1,5\", file: FILE)",
            "1h",
            |config| config.with_decimal(Decimal::Comma).with_column_type("volume", ColumnType::Utf8),
            &["ts close volume", "2024-03-04T00:00:00Z 1.5 \"2.5\"", "2024-03-04T01:00:00Z 2.5 \"2,5\""],
        ),
        (
            "1709510400,21,22,20,20.5\n1709514000,22,23,21,21\n",
            "the file has no header, and the rows do not tell which of the prices is the open and which the close; name \
             its columns in order (with_columns), such as ts,open,high,low,close,volume (first_row: 1709510400 21 22 20 \
             20.5, fields: 5, file: FILE)",
            "1h",
            |config| config.with_columns(["ts", "close", "high", "low", "open"]),
            &[
                "ts close high low open",
                "2024-03-04T00:00:00Z 21 22 20 20.5",
                "2024-03-04T01:00:00Z 22 23 21 21",
            ],
        ),
        (
            "1709510400,1.5,x\n1709514000,2.5,y\n",
            "the file has no header, and it has fewer columns than a time and four prices; name its columns in order \
             (with_columns), such as ts,open,high,low,close,volume (first_row: 1709510400 1.5 x, fields: 3, file: FILE)",
            "1h",
            |config| config.with_columns(["ts", "close", "note"]),
            &["ts close note", "2024-03-04T00:00:00Z 1.5 \"x\"", "2024-03-04T01:00:00Z 2.5 \"y\""],
        ),
        // Words in the first row do not make it a header.
        (
            "2024-03-04 00:00:00,buy,x\n2024-03-04 01:00:00,sell,y\n",
            "the file has no header, and it has fewer columns than a time and four prices; name its columns in order \
             (with_columns), such as ts,open,high,low,close,volume (first_row: 2024-03-04 00:00:00 buy x, fields: 3, \
             file: FILE)",
            "1h",
            |config| config.with_columns(["ts", "side", "note"]),
            &["ts side note", "2024-03-04T00:00:00Z \"buy\" \"x\"", "2024-03-04T01:00:00Z \"sell\" \"y\""],
        ),
        (
            "date,open,close\n20240304,170000,1.5,2.5\n20240304,180000,2.5,3.5\n",
            "the header has not as many names as rows have fields; name all columns in their order (with_columns) \
             (names: 3, fields: 4, columns: date, open, close, line: 2, value: \"20240304\", file: FILE)",
            "1h",
            |config| config.with_columns(["date", "time", "open", "close"]),
            &["ts open close", "2024-03-04T17:00:00Z 1.5 2.5", "2024-03-04T18:00:00Z 2.5 3.5"],
        ),
        (
            "ts,open,close\nThu, 14 Mar 2024 00:00:00 GMT,1.5,2.5\nThu, 14 Mar 2024 01:00:00 GMT,2.5,3.5\n",
            "the header has not as many names as rows have fields; name all columns in their order (with_columns) \
             (names: 3, fields: 4, columns: ts, open, close, line: 2, value: \"Thu\", file: FILE)",
            "1h",
            |config| config.with_columns(["", "ts", "open", "close"]),
            &["ts open close", "2024-03-14T00:00:00Z 1.5 2.5", "2024-03-14T01:00:00Z 2.5 3.5"],
        ),
        (
            "1709506800,1\n1709510400,1.5,x\n1709514000,2.5,y\n",
            "a line does not have as many fields as most; correct it, or leave the lines up to it out \
             (with_skipped_lines) (line: 1, fields: 2, expected: 3, file: FILE)",
            "1h",
            |config| config.with_skipped_lines(1).with_columns(["ts", "close", "note"]),
            &["ts close note", "2024-03-04T00:00:00Z 1.5 \"x\"", "2024-03-04T01:00:00Z 2.5 \"y\""],
        ),
        (
            "when,close\n1709510400,1.5\n1709514000,2.5\n",
            "no column is named like a time, such as ts, timestamp, time, date, datetime or open_time; say which one holds \
             it (with_ts_column) (columns: when, close, file: FILE)",
            "1h",
            |config| config.with_ts_column("when"),
            &["ts close", "2024-03-04T00:00:00Z 1.5", "2024-03-04T01:00:00Z 2.5"],
        ),
        (
            "time,timestamp,close\n2024-03-04 01:00,1709510400,1.5\n2024-03-04 02:00,1709514000,2.5\n",
            "several columns may hold the time; say which one does (with_ts_column) (columns: time, timestamp, close, \
             file: FILE)",
            "1h",
            |config| config.with_ts_column("timestamp"),
            &[
                "ts time close",
                "2024-03-04T00:00:00Z \"2024-03-04 01:00\" 1.5",
                "2024-03-04T01:00:00Z \"2024-03-04 02:00\" 2.5",
            ],
        ),
        (
            "ts~close\n1709510400~1.5\n1709514000~2.5\n",
            "no column is named like a time, such as ts, timestamp, time, date, datetime or open_time; say which one holds \
             it (with_ts_column) (columns: ts~close, file: FILE)",
            "1h",
            |config| config.with_delimiter('~').unwrap(),
            &["ts close", "2024-03-04T00:00:00Z 1.5", "2024-03-04T01:00:00Z 2.5"],
        ),
        (
            "ts,close\n-2208988800,1.5\n-2208985200,2.5\n",
            "the unit of a time cannot be proven: no unit puts it into the years 1990 to 2100; correct it, declare seconds, \
             milliseconds, microseconds or nanoseconds (with_ts_unit), or write ISO 8601 text (line: 2, column: ts, value: \
             \"-2208988800\", file: FILE)",
            "1h",
            |config| config.with_ts_unit(TsUnit::Second),
            &["ts close", "1900-01-01T00:00:00Z 1.5", "1900-01-01T01:00:00Z 2.5"],
        ),
    ];
    for (content, message, interval, remedy, expected) in cases {
        let file = file("a.csv", content);
        let error = read(file.config(), interval).await.unwrap_err();
        assert_eq!(error.to_string(), message.replace("FILE", &file.path.display().to_string()), "{content}");
        let (rows, _) =
            read(remedy(file.config()), interval).await.unwrap_or_else(|e| panic!("{content}\n{e}"));
        assert_eq!(rows, expected.join("\n"), "{content}");
    }
}

#[tokio::test]
async fn what_is_no_table_is_told_by_what_it_is() {
    let page = "the file is an HTML page, not data: the download has failed or needs a login";
    let cases: [(&[u8], &str); 7] = [
        (b"<!DOCTYPE html>\n<html><body>Not found</body></html>\n", page),
        (b"\xef\xbb\xbf\n <HTML lang=en>\n", page),
        (b"<?xml version=\"1.0\"?>\n<rows/>\n", "the file is XML, not a table; write it as CSV or Parquet"),
        (b"", "the file is empty"),
        (b"\n \n\n", "the file is empty"),
        (b"SQLite format 3\0\0\0\0", "the file is an SQLite database; export the table as CSV or Parquet"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "the file is an old Excel workbook; save its sheet as CSV"),
    ];
    for (content, message) in cases {
        for (name, content) in [("a.csv", content.to_vec()), ("a.csv.gz", gzipped(content))] {
            let file = file(name, content);
            let error = FileFetcher::open(file.config()).await.unwrap_err();
            assert_eq!(error.to_string(), format!("{message} (file: {})", file.path.display()));
        }
    }
    let sheet = zipped(&[("[Content_Types].xml", b"<x/>"), ("xl/workbook.xml", b"<x/>")]);
    let sheet = file("a.xlsx", sheet);
    let error = FileFetcher::open(sheet.config()).await.unwrap_err().to_string();
    assert!(error.starts_with("the file is an Excel workbook; save its sheet as CSV ("), "{error}");
    let text = file("a.parquet", "ts,close\n1709510400,1.5\n");
    let (rows, _) = read(text.config().with_format(FileFormat::Csv), "1h").await.unwrap();
    assert_eq!(rows, "ts close\n2024-03-04T00:00:00Z 1.5");
}

#[test]
fn an_option_that_cannot_be_is_refused() {
    for (pattern, why) in [
        ("%Q", "it has an unknown specifier; use those of strftime, such as %d.%m.%Y %H:%M:%S"),
        ("date", "it has no specifier; use those of strftime, such as %d.%m.%Y %H:%M:%S"),
        (
            "%Y-%m-%d %H:%M %Z",
            "the name of a time zone does not tell an offset; write times with one (%z), or in UTC",
        ),
    ] {
        let error = TimeFormat::new(pattern).unwrap_err().to_string();
        assert_eq!(error, format!("not a time format: {why} (format: {pattern:?})"));
    }
    for delimiter in ['a', '"', '\n', '7', 'é'] {
        let error = FileConfig::new("a.csv").with_delimiter(delimiter).unwrap_err().to_string();
        assert_eq!(
            error,
            format!(
                "not a sign between columns; use one such as , or ; or | or a tab (delimiter: {delimiter:?})"
            )
        );
    }
}

#[tokio::test]
async fn a_half_written_last_row_is_left_out() {
    let rows = "ts,open,high,low,close\n1709510400,20.5,22.25,20,21.75\n1709514000,21.75,23,21.5,22.5\n";
    let candles = CANDLES.map(|line| line.rsplit_once(' ').unwrap().0);
    for last in ["1709517600,22.5,24,22,2", "1709517600,22.5,24,22,", "1709517600,22.5,24", "17095"] {
        check_text(&format!("{rows}{last}"), "1h", &candles, &["the last line is cut off and left out"])
            .await;
    }
    let whole = format!("{}\n2024-03-04T02:00:00Z 22.5 24 22 22.75", candles.join("\n"));
    let note = "the last line has no line end, so its last value may be cut off";
    check_text(&format!("{rows}1709517600,22.5,24,22,22.75"), "1h", &[&whole], &[note]).await;
    // Where other rows lack the last value too, nothing is cut off.
    let text = "ts,close,note\n1709510400,1,\n1709514000,2,";
    let rows = ["ts close note", "2024-03-04T00:00:00Z 1 -", "2024-03-04T01:00:00Z 2 -"];
    check_text(text, "1h", &rows, &[note]).await;
}

/// It would be read as midnight.
#[tokio::test]
async fn a_date_without_its_time_of_day_is_refused() {
    for empty in ["", " "] {
        let text = format!("date,time,close\n2024-03-04,01:00,1\n2024-03-04,{empty},2\n2024-03-04,03:00,3\n");
        let error = read(file("a.csv", text).config(), "1h").await.unwrap_err().to_string();
        assert!(
            error.starts_with("a row has a date but no time of day; correct or remove it (line: 3,"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_time_of_day_that_no_row_has_is_no_part_of_the_time() {
    let text = "date,time,close\n2024-03-04,,1\n2024-03-05,,2\n";
    let (rows, _) = read(file("a.csv", text).config(), "1d").await.unwrap();
    assert!(rows.contains("2024-03-04T00:00:00Z") && rows.contains("2024-03-05T00:00:00Z"), "{rows}");
}

/// Where the time or the symbol stands last, a part of it is another one.
#[tokio::test]
async fn a_time_or_a_symbol_that_is_cut_off_is_left_out() {
    let cut = "the last line is cut off and left out";
    let rows = &["ts close", "2024-03-04T00:00:00Z 1", "2024-03-05T00:00:00Z 2"];
    check_text("close,date\n1,2024-03-04\n2,2024-03-05\n3,2024-03-1", "1d", rows, &[cut]).await;
    let rows = &["ts close", "2024-03-04T10:08:00Z 1", "2024-03-04T10:09:00Z 2"];
    let text = "close,date,time\n1,2024-03-04,10:08\n2,2024-03-04,10:09\n3,2024-03-04,10:1";
    check_text(text, "1m", rows, &[cut]).await;
    let text = "ts,close,symbol\n1709510400,1,AAPL\n1709514000,2,AAPL\n1709517600,3,AA";
    let of = file("a.csv", text);
    let fetcher = FileFetcher::open(of.config().with_symbol_column("symbol")).await.unwrap();
    assert!(fetcher.notes().contains(&cut.to_owned()), "{:?}", fetcher.notes());
    assert_eq!(fetcher.describe().series.len(), 1);
}

#[tokio::test]
async fn a_line_of_totals_is_no_row() {
    let text = "Kurse DAX;;;;;\nDatum;open;high;low;close;volume\n13.03.2024 00:00;20,5;22,25;20,0;21,75;310\n\
                13.03.2024 01:00;21,75;23,0;21,5;22,5;45,5\nSumme;;;;;355,5\n";
    let (rows, notes) = read(file("a.csv", text).config(), "1h").await.unwrap();
    assert_eq!(rows.lines().count(), 3, "{rows}");
    assert!(notes.contains(&"1 line is left out behind the table".to_owned()), "{notes:?}");
    assert!(notes.contains(&"1 line before the table is left out".to_owned()), "{notes:?}");
    let middle = "ts,close\n1709510400,1\nTotal,1\n1709514000,2\n";
    let error = read(file("a.csv", middle).config(), "1h").await.unwrap_err().to_string();
    assert!(error.contains("(line: 3, "), "{error}");
}

#[tokio::test]
async fn columns_that_rows_contradict_are_refused() {
    let rows = "1709510400,20.5,20,22.25,21.75\n1709514000,21.75,21.5,23,22.5\n1709517600,22.5,22,24,23\n";
    let told = "in nearly all rows the high is not the highest price or the low not the lowest, so the columns have other \
                names; name them all in their order (with_columns) (first: open 20.5, high 20, low 22.25, close 21.75";
    let named = file("a.csv", format!("ts,open,high,low,close\n{rows}"));
    let bare = file("a.csv", rows);
    let columns = |names: &str| bare.config().with_columns(names.split(','));
    for config in
        [columns("ts,open,high,low,close"), named.config().with_columns("ts,open,high,low,close".split(','))]
    {
        let error = read(config, "1h").await.unwrap_err().to_string();
        assert!(error.starts_with(told), "{error}");
    }
    let (_, notes) = read(named.config(), "1h").await.unwrap();
    assert_eq!(notes, [told.split(", so").next().unwrap()], "the file's own names are taken, and told");
    assert!(read(columns("ts,open,low,high,close"), "1h").await.is_ok());
    let joined = format!("ts,open,low,high,close\n{rows}ts,open,high,low,close\n1709521200,22,24,21,23\n");
    let error = read(file("a.csv", joined).config(), "1h").await.unwrap_err().to_string();
    assert!(error.starts_with("the header comes again with its columns in another order"), "{error}");
    assert!(error.contains("(line: 5, "), "{error}");
}

#[tokio::test]
async fn prices_in_another_order_are_told_with_the_order_that_fits() {
    let rows = "1709510400,20,22.25,20.5,21.75,310\n1709514000,21.5,23,21.75,22.5,45.5\n1709517600,22,24,22.5,23,7\n";
    let bare = file("a.csv", rows);
    let error = read(bare.config(), "1h").await.unwrap_err().to_string();
    let order = "ts,low,high,open,close,volume";
    assert!(error.contains(&format!("rows_fit: {order}")), "{error}");
    let (shown, _) = read(bare.config().with_columns(order.split(',')), "1h").await.unwrap();
    assert!(
        shown.starts_with("ts low high open close volume\n2024-03-04T00:00:00Z 20 22.25 20.5 21.75 310"),
        "{shown}"
    );
}

#[tokio::test]
async fn an_average_price_and_a_spread_are_no_volume() {
    for rows in [
        "1704412800,10,12,9,11,10.5,700,3\n1704412860,11,11,11,11,0.0,0,0\n1704412920,11,13,10,12,11.2,900,5\n",
        "1704412800,1.5,1.75,1.25,1.5,3,1500\n1704412860,1.5,1.75,1.25,1.5,2,900\n1704412920,1.5,1.75,1.25,1.5,4,90\n",
    ] {
        let (shown, _) = read(file("a.csv", rows).config(), "1m").await.unwrap();
        assert!(shown.starts_with("ts open high low close column_6 column_7"), "{shown}");
    }
}

#[tokio::test]
async fn two_intervals_in_one_file_prove_nothing_between_them() {
    let hours = (0..30).map(|at| 1_709_510_400 + at * 3_600);
    let minutes = (0..30).map(|at| 1_709_701_200 + at * 60);
    let lines = hours.chain(minutes).map(|ts| format!("{ts},1\n")).collect::<String>();
    let file = file("a.csv", format!("ts,close\n{lines}"));
    let error = read(file.config(), "1m").await.unwrap_err().to_string();
    assert!(
        error.starts_with("a part of the file holds bars of 1m, and many rows in another part lie 1h apart"),
        "{error}"
    );
    let minute = "1m".parse().unwrap();
    assert!(read(file.config().with_interval(minute), "1m").await.is_ok(), "vouched for");
}

#[tokio::test]
async fn a_row_of_null_is_a_row_where_a_rule_treats_those() {
    let rules = |rule| qmtl_history_api::frame::Rules::default().with_nan(rule);
    let text = "ts,close\n1709510400,1\n1709514000,null\n1709517600,3\n";
    let null = file("a.csv", text);
    let (rows, _) = read(null.config(), "1h").await.unwrap();
    assert_eq!(rows.lines().count(), 3, "it proves that there is no bar");
    let config = null.config().with_rules(rules(qmtl_history_api::frame::NanRule::Missing));
    let (rows, _) = read(config, "1h").await.unwrap();
    assert!(rows.contains("2024-03-04T01:00:00Z -"), "{rows}");
}
