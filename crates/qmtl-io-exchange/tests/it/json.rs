//! JSON in the forms in which programs write candles, and what is refused of it.

use qmtl_history_api::{ErrorKind, Interval};
use qmtl_io_exchange::{FileConfig, FileFetcher, FileFormat};

use crate::files::{file, key, rows};
use crate::formats::gzipped;
use crate::shapes::shown;

/// The rows of a file as text, and its notes.
async fn read(config: FileConfig) -> (String, Vec<String>) {
    let fetcher = FileFetcher::open(config).await.unwrap();
    let key = key("X", "1h");
    let found = rows(&fetcher, &key, fetcher.range(&key).unwrap()).await.unwrap();
    (shown(&found), fetcher.notes().to_vec())
}

const CANDLES: &str = "ts open high low close volume\n\
                       2024-03-04T00:00:00Z 21 22.5 20.25 22 70\n\
                       2024-03-04T01:00:00Z 22 23 21.5 21.75 8.5\n\
                       2024-03-04T02:00:00Z 21.75 21.75 19 20 -";

#[tokio::test]
async fn candles_in_every_form() {
    let lists = "[[1709510400000,21,22.5,20.25,22,70],[1709514000000,22,23,21.5,21.75,8.5],\n\
                 [1709517600000, 21.75, 21.75, 19, 20, null]]";
    let lines = "{\"t\": 1709510400, \"o\": \"21\", \"h\": \"22.5\", \"l\": 20.25, \"c\": 2.2e1, \"v\": 70}\n\
                 {\"t\": 1709514000, \"o\": 22, \"h\": 23, \"l\": 21.5, \"c\": 21.75, \"v\": 8.5}\n\n\
                 {\"t\": 1709517600, \"o\": 21.75, \"h\": 21.75, \"l\": 19, \"c\": 20}\n";
    let objects = "[{\"time\":\"2024-03-04T00:00:00Z\",\"open\":21,\"high\":22.5,\"low\":20.25,\"close\":22,\"volume\":70},\
                   {\"time\":\"2024-03-04T01:00:00Z\",\"volume\":8.5,\"close\":21.75,\"low\":21.5,\"high\":23,\"open\":22},\
                   {\"time\":\"2024-03-04T02:00:00Z\",\"open\":21.75,\"high\":21.75,\"low\":19,\"close\":20}]";
    let columns = "{\"s\":\"ok\",\"t\":[1709510400,1709514000,1709517600],\"o\":[21,22,21.75],\"h\":[22.5,23,21.75],\
                   \"l\":[20.25,21.5,19],\"c\":[22,21.75,20],\"v\":[70,8.5,null],\"errors\":[]}";
    let list_lines = lists.replace("[[", "[").replace("]]", "]").replace("],", "]\n");
    let utf16: Vec<u8> =
        [0xff, 0xfe].into_iter().chain(lists.encode_utf16().flat_map(u16::to_le_bytes)).collect();
    for (name, content) in [
        ("a.json", lists.as_bytes().to_vec()),
        ("a.json.gz", gzipped(lists.as_bytes())),
        ("a.csv", lists.as_bytes().to_vec()),
        ("a.json", [b"\xef\xbb\xbf", lists.as_bytes()].concat()),
        ("a.json", utf16),
        ("a.jsonl", list_lines.into_bytes()),
        ("a.ndjson", lines.as_bytes().to_vec()),
        ("a", objects.as_bytes().to_vec()),
        ("a.json", columns.as_bytes().to_vec()),
        ("a.json", format!("{{\"symbol\":\"X\",\"data\":{objects},\"next\":null}}").into_bytes()),
        ("a.json", format!("{{\"error\":[],\"result\":{{\"X\":{lists},\"last\":5}}}}").into_bytes()),
    ] {
        let file = file(name, content);
        assert_eq!(read(file.config()).await.0, CANDLES, "{name}");
    }
}

/// Python writes them, though JSON does not have them.
#[tokio::test]
async fn numbers_that_are_none() {
    let told = "NaN and Infinity are not valid JSON; they are read as numbers";
    let text = "[{\"ts\":1709510400,\"note\":\"NaN, \\\"Infinity\",\"open\":NaN,\"vol\": -Infinity},\n\
                {\"ts\":1709514000,\"note\":\"\\\\\",\"open\":1.5e-1,\"vol\":Infinity}]";
    let (rows, notes) = read(file("a.json", text).config()).await;
    let same = "ts,note,open,vol\n1709510400,\"NaN, \"\"Infinity\",NaN,-inf\n1709514000,\\,0.15,inf\n";
    assert_eq!((rows, notes), (read(file("a.csv", same).config()).await.0, vec![told.to_owned()]));
    // What is no JSON either way is told as it stands in the file.
    let error = FileFetcher::open(file("a.json", "[[1709510400,NaN],[1709514000,x]]").config()).await;
    let error = error.unwrap_err().to_string();
    assert!(error.contains("the file is not valid JSON"), "{error}");
}

#[tokio::test]
async fn tables_that_are_not_written_by_rows() {
    let names = ["open", "high", "low", "close", "volume"];
    let rows = [
        ["21", "22.5", "20.25", "22", "70"],
        ["22", "23", "21.5", "21.75", "8.5"],
        ["21.75", "21.75", "19", "20", "null"],
    ];
    let times = ["1709510400000", "1709514000000", "1709517600000"];
    let texts = ["2024-03-04 00:00:00", "2024-03-04 01:00:00", "2024-03-04 02:00:00"];
    let object = |entries: Vec<(String, String)>| {
        let entries: Vec<_> = entries.iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
        format!("{{{}}}", entries.join(","))
    };
    let row = |at: usize, name: &dyn Fn(usize) -> String| {
        object((0..5).map(|column| (name(column), rows[at][column].to_owned())).collect())
    };
    let plain = |column: usize| names[column].to_owned();
    let by_time = |keys: [&str; 3], name: &dyn Fn(usize) -> String| {
        object((0..3).map(|at| (keys[at].to_owned(), row(at, name))).collect())
    };
    let by_column = |keys: [&str; 3]| {
        let column = |column: usize| {
            object((0..3).map(|at| (keys[at].to_owned(), rows[at][column].to_owned())).collect())
        };
        (0..5).map(|at| (names[at].to_owned(), column(at))).collect::<Vec<_>>()
    };
    let column = |column: usize| format!("[{}]", rows.map(|row| row[column]).join(","));
    let numbered =
        [("ts".to_owned(), object((0..3).map(|at| (at.to_string(), times[at].to_owned())).collect()))];
    let numbered = numbered.into_iter().chain(by_column(["0", "1", "2"])).collect();
    let series = by_time(texts, &|column| format!("{}. {}", column + 1, names[column]));
    let quote = object((0..5).map(|at| (names[at].to_owned(), column(at))).collect());
    let data = format!("[{}]", rows.map(|row| format!("[{}]", row.join(","))).join(","));
    let columns = format!("[{}]", names.map(|name| format!("\"{name}\"")).join(","));
    let records = (0..3).map(|at| row(at, &plain).replacen('{', &format!("{{\"ts\":{},", times[at]), 1));
    let records = records.collect::<Vec<_>>().join(",");
    for content in [
        by_time(times, &plain),
        object(by_column(times)),
        object(numbered),
        format!("{{\"columns\":{columns},\"index\":[{}],\"data\":{data}}}", times.join(",")),
        format!(
            "{{\"schema\":{{\"fields\":[{{\"name\":\"ts\"}},{{\"name\":\"open\"}}]}},\"data\":[{records}]}}"
        ),
        format!("{{\"Time Series (60min)\":{series}}}"),
        format!("{{\"Meta Data\":{{\"2. Symbol\":\"X\"}},\"Time Series (60min)\":{series}}}"),
        format!(
            "{{\"chart\":{{\"error\":null,\"result\":[{{\"meta\":{{\"symbol\":\"X\",\"ranges\":[\"1d\",\"5d\"]}},\
             \"timestamp\":[1709510400,1709514000,1709517600],\"indicators\":{{\"quote\":[{quote}]}}}}]}}}}"
        ),
    ] {
        let file = file("a.json", content.clone());
        let (rows, _) = read(file.config()).await;
        let rows = rows.replacen("timestamp", "ts", 1);
        assert_eq!(rows, CANDLES, "{content}");
    }
    // What is left out, and what is not of one length, is told as where rows or columns are lists.
    let nested = by_time(times, &plain).replace("{\"open\"", "{\"meta\":{\"a\":1},\"open\"");
    let (rows, notes) = read(file("a.json", nested).config()).await;
    assert_eq!(rows, CANDLES);
    assert!(notes.contains(&"what holds lists or objects is left out: meta".to_owned()), "{notes:?}");
    let short =
        "{\"timestamp\":[1709510400,1709514000],\"quote\":{\"open\":[1,2],\"close\":[1],\"zones\":[[1]]}}";
    let short = format!("{{\"chart\":{{\"result\":[{short}]}}}}");
    let error = FileFetcher::open(file("a.json", short).config()).await.unwrap_err().to_string();
    let told =
        "the columns of the JSON do not have the same number of values (columns: open, close, values: 2, 1";
    assert!(error.starts_with(told), "{error}");
    let own = by_time(times, &plain).replace("{\"open\"", "{\"ts\":1700000000,\"open\"");
    let error = FileFetcher::open(file("a.json", own).config()).await.unwrap_err().to_string();
    assert!(error.starts_with("several columns may hold the time"), "{error}");
    let two = format!("{{\"a\":{},\"b\":{}}}", by_time(times, &plain), by_time(texts, &plain));
    let error = FileFetcher::open(file("a.json", two).config()).await.unwrap_err().to_string();
    assert!(
        error.starts_with("the JSON holds several tables; keep the one that is meant (keys: a, b"),
        "{error}"
    );
}

#[tokio::test]
async fn numbers_keep_their_digits_and_what_is_no_value_is_left_out() {
    let content = "[{\"ts\":1709510400,\"close\":0.1234567890123456789,\"id\":9007199254740993,\"note\":\"a,\\\"b\\\"\",\
                   \"info\":{\"x\":[1]}},{\"ts\":1709514000,\"close\":null,\"id\":2,\"note\":\"ü\\u00e9\",\"info\":{}}]";
    let file = file("a.json", content);
    let config = file.config().with_column_type("id", qmtl_io_exchange::ColumnType::Int64);
    let (rows, notes) = read(config).await;
    assert_eq!(
        rows,
        "ts close id note\n2024-03-04T00:00:00Z 0.12345678901234568 9007199254740993 \"a,\\\"b\\\"\"\n\
         2024-03-04T01:00:00Z - 2 \"üé\""
    );
    assert_eq!(notes, ["what holds lists or objects is left out: info"]);
}

#[tokio::test]
async fn lists_without_names_take_those_that_are_given() {
    let file = file("a.json", "[[1709510400000,21,20],[1709514000000,22,21]]");
    let error = FileFetcher::open(file.config()).await.unwrap_err().to_string();
    assert!(
        error.starts_with("the file has no header, and it has fewer columns than a time and four prices"),
        "{error}"
    );
    let (rows, _) = read(file.config().with_columns(["ts", "close", ""])).await;
    assert_eq!(rows, "ts close\n2024-03-04T00:00:00Z 21\n2024-03-04T01:00:00Z 22");
}

#[tokio::test]
async fn what_is_wrong_is_told_with_its_row() {
    let deep = format!("{{\"data\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let long = format!("[[1709510400,\"{}\"]]", "x".repeat(3 << 20));
    for (content, kind, message) in [
        ("[]", ErrorKind::Schema, "the file has no row ("),
        ("{\"data\": []}", ErrorKind::Schema, "the file has no row ("),
        (
            "{}",
            ErrorKind::Schema,
            "the JSON holds no rows; write it as a list with an object or a list for each (",
        ),
        (
            "{\"ts\":{\"a\":1},\"close\":{\"b\":2}}",
            ErrorKind::Schema,
            "the JSON holds no rows; write it as a list with an object or a list for each (",
        ),
        (
            "[[1709510400,1],[1709514000",
            ErrorKind::Corrupt,
            "the JSON is cut off; copy or download the file again (line: 1",
        ),
        (
            "[[1709510400,1],[1709514000,}]]",
            ErrorKind::Schema,
            "the file is not valid JSON (line: 1, column: 29",
        ),
        (
            "[[1709510400,1],[1709514000]]",
            ErrorKind::Schema,
            "a row does not have as many values as the first one (values: 1, expected: 2, row: 2",
        ),
        (
            "[[1709510400,1],{\"ts\":1}]",
            ErrorKind::Schema,
            "some rows are lists and some are objects, or values (row: 2",
        ),
        (
            "[[1709510400,1],null]",
            ErrorKind::Schema,
            "some rows are lists and some are objects, or values (row: 2",
        ),
        ("[[1709510400,[1]]]", ErrorKind::Schema, "a value of a row is a list or an object (row: 1"),
        (
            "[{\"ts\":1709510400},{\"ts\":1709514000},{\"ts\":\"x\",\"close\":5},{\"ts\":1709514000}]",
            ErrorKind::Schema,
            "a time is not an integer, although the first one is; write all times in one format (row: 3, column: ts",
        ),
        (
            "{\"a\":[[1,2]],\"b\":[[1,2]]}",
            ErrorKind::Schema,
            "the JSON holds several lists of rows; keep the one that is meant (keys: a, b",
        ),
        (
            "{\"t\":[1709510400,1709514000],\"c\":[1]}",
            ErrorKind::Schema,
            "the columns of the JSON do not have the same number of values (columns: t, c, values: 2, 1",
        ),
        (
            "{\"a\":{\"t\":[1,2],\"c\":[1,2]},\"a\":{\"t\":[1]}}",
            ErrorKind::InvalidInput,
            "no column is named like a time, ",
        ),
        (&deep, ErrorKind::Schema, "a value of a row is a list or an object (row: 1"),
        (&long, ErrorKind::Schema, "a row of the JSON is longer than 1 MiB (row: 1"),
    ] {
        let file = file("a.json", content);
        let error = FileFetcher::open(file.config()).await.unwrap_err();
        let text = error.to_string();
        let shown: String = content.chars().take(60).collect();
        assert!(error.kind() == kind && text.starts_with(message), "{shown}: {text}");
    }
    let file = file("a.json", "[[1709510400,1]]");
    let error = FileFetcher::open(file.config().with_format(FileFormat::Csv)).await.unwrap_err().to_string();
    assert!(
        error.starts_with("the file is to be read as CSV, but is JSON; leave the format out (with_format) ("),
        "{error}"
    );
    let text = crate::files::file("a.json", "ts,close\n1709510400,1\n");
    let error = FileFetcher::open(text.config().with_format(FileFormat::Json)).await.unwrap_err().to_string();
    assert!(error.starts_with("the file is to be read as JSON, but its content is not ("), "{error}");
    let config = text.config().with_interval(Interval::HOUR);
    assert!(FileFetcher::open(config).await.is_ok(), "text is read as what it is");
}

#[tokio::test]
async fn whatever_the_bytes_are_they_are_answered() {
    let whole =
        "{\"a\":[[1709510400,\"1\",null],[1709514000,2,\"x\\\"\"]],\"b\":{\"t\":[1,2],\"c\":[3,4]},\"s\":5}";
    for at in 0..whole.len() {
        for other in ["", "[", "}", "\"", "1", ",", "\n", "\\"] {
            let content = [&whole[..at], other, &whole[(at + 1).min(whole.len())..]].concat();
            for content in [content.as_str(), &content[..at]] {
                let file = file("a.json", content);
                if let Err(error) = FileFetcher::open(file.config()).await {
                    let kind = error.kind();
                    assert!(
                        !matches!(kind, ErrorKind::Unexpected | ErrorKind::Storage),
                        "{content}: {error:?}"
                    );
                }
            }
        }
    }
}
