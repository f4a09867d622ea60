//! Exports in every format, for other programs, of many series, and with bars made up where none exist.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};

use super::{Run, Scene, minutes, read};

const M: [&str; 5] = ["export", "--node", "m", "--interval", "1m"];

/// Fills a series of minutes of 2024 from a file, which proves what it lacks between its first and last row.
fn fill(scene: &Scene, node: &str, content: &str) {
    let source = scene.file("source.csv", content);
    let end = (1_704_067_200 + 100_000 * 60).to_string();
    let words =
        ["backfill", "--node", node, "--interval", "1m", "--source", &source, "--start", "1704067200"];
    let run = scene.run(&[&words[..], &["--end", &end, "--yes"]].concat());
    assert!(run.stdout.contains("stored"), "{run:?}");
}

/// Rows at these minutes, whose close is ten times the minute, and whose volume is the minute.
fn rows(at: impl IntoIterator<Item = i64>) -> String {
    let head = "ts,open,high,low,close,volume,trades,vwap,venue\n".to_owned();
    at.into_iter().fold(head, |text, minute| {
        let (ts, close) = (1_704_067_200 + minute * 60, minute * 10);
        text + &format!("{ts},{close},{},{},{close}.5,{minute},3,1.25,X\n", close + 1, close - 1)
    })
}

fn gunzip(path: impl AsRef<Path>) -> std::io::Result<String> {
    let mut text = String::new();
    flate2::read::MultiGzDecoder::new(File::open(path)?).read_to_string(&mut text)?;
    Ok(text)
}

#[test]
fn json_and_compressed_text_hold_what_csv_holds() {
    let scene = Scene::new();
    fill(&scene, "m", "ts,open,close,note\n1704067200,1.5,NaN,\"a \"\"b\"\"\"\n1704067260,,0.1,\n");
    let export = |out: &str, more: &[&str]| {
        let run = scene.run(&[&M[..], &["--out", out], more].concat());
        assert_eq!(run.code, Some(0), "{run:?}");
        scene.path(out)
    };
    let lines = read(export("x.jsonl", &[]));
    assert_eq!(
        lines,
        "{\"ts\":\"2024-01-01T00:00:00Z\",\"open\":1.5,\"close\":null,\"note\":\"a \\\"b\\\"\"}\n\
         {\"ts\":\"2024-01-01T00:01:00Z\",\"open\":null,\"close\":0.1,\"note\":null}\n"
    );
    let array: Vec<Value> = serde_json::from_str(&read(export("x.json", &[]))).unwrap();
    let each: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(array, each);
    for (form, expected) in
        [("s", 1_704_067_260_i64), ("ms", 1_704_067_260_000), ("us", 1_704_067_260_000_000)]
    {
        let array: Value = serde_json::from_str(&read(export("x.json", &["--ts-format", form]))).unwrap();
        assert_eq!(array[1]["ts"], expected);
    }
    for (extension, plain) in
        [("csv", read(export("x.csv", &[]))), ("json", read(export("x.json", &[]))), ("jsonl", lines)]
    {
        assert_eq!(gunzip(export(&format!("x.{extension}.gz"), &[])).unwrap(), plain);
        let packed = File::open(export(&format!("x.{extension}.ZST"), &[])).unwrap();
        let mut text = String::new();
        zstd::Decoder::new(packed).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, plain);
    }
    assert_eq!(gunzip(export("x.v2.gz", &["--format", "csv"])).unwrap(), read(scene.path("x.csv")));
    // The file is replaced whole.
    assert_eq!(
        read(export("x.csv", &["--columns", "open"])).lines().nth(1),
        Some("2024-01-01T00:00:00Z,1.5")
    );
}

#[test]
fn a_name_that_cannot_be_is_refused_before_anything_is_written() {
    let scene = Scene::new();
    fill(&scene, "m", &minutes(3));
    for (out, more, told) in [
        ("x.parquet.gz", &[][..], "parquet compresses by itself what it holds"),
        ("x.feather.zst", &[], "feather compresses by itself what it holds"),
        ("x.zst", &["--format", "arrow"], "arrow compresses by itself what it holds"),
        ("x.csv.xz", &[], "exports are compressed as .gz or .zst"),
        ("x.csv.bz2", &["--format", "csv"], "exports are compressed as .gz or .zst"),
        ("x.csv.zip", &[], "a zip is written for LEAN only"),
        ("x.xlsx.gz", &[], "the extension names no format"),
        ("x.csv", &["--for", "freqtrade"], "freqtrade reads feather, json or parquet, not csv"),
        ("x.csv.gz", &["--for", "backtrader"], "backtrader reads no compressed file"),
        ("x.csv", &["--for", "backtesting", "--columns", "close"], "leave out --columns"),
        ("x.json", &["--for", "freqtrade", "--ts-format", "s"], "leave out --ts-format"),
    ] {
        scene.run(&[&M[..], &["--out", out], more].concat()).fails_with(2, told);
        assert!(!scene.path(out).exists(), "{out}");
    }
}

#[test]
fn feather_is_a_file_and_arrow_in_a_pipe_a_stream() {
    let scene = Scene::new();
    fill(&scene, "m", &minutes(30));
    let bytes = |words: &[&str]| scene.command(&[&M[..], words].concat()).output().unwrap().stdout;
    let feather = bytes(&["--format", "feather"]);
    assert!(feather.starts_with(b"ARROW1") && feather.ends_with(b"ARROW1"));
    assert!(!bytes(&["--format", "arrow"]).starts_with(b"ARROW1"));
    for out in ["x.feather", "x.arrow"] {
        bytes(&["--out", out]);
        assert_eq!(fs::read(scene.path(out)).unwrap(), feather, "{out}");
        let fill = ["backfill", "--node", out, "--interval", "1m", "--timerange", "20240101-20240102"];
        let source = format!("file:{out}");
        assert_eq!(
            scene.run(&[&fill[..], &["--source", &source, "--json"]].concat()).object()["rows_written"],
            30
        );
    }
}

#[test]
fn columns_have_other_names_on_the_way_out() {
    let scene = Scene::new();
    fill(&scene, "m", &minutes(2));
    let head = |more: &[&str]| {
        let run = scene.run(&[&M[..], more].concat());
        assert_eq!(run.code, Some(0), "{run:?}");
        run.stdout.lines().next().unwrap().to_owned()
    };
    assert_eq!(head(&["--rename", "ts=date", "--rename", "close=last"]), "date,open,high,low,last,volume");
    assert_eq!(head(&["--columns", "close,open", "--rename", "ts=t"]), "t,close,open");
    assert_eq!(head(&["--rename", "ts=t", "--rename", "close=ts"]), "t,open,high,low,ts,volume");
    assert_eq!(head(&["--rename", "open=close", "--rename", "close=open"]), "ts,close,high,low,open,volume");
    let fails = |more: &[&str], told: &str| scene.run(&[&M[..], more].concat()).fails_with(2, told);
    fails(
        &["--rename", "date=ts"],
        "(series: m@1m, column: date, columns: ts, open, high, low, close, volume)\n  hint: the stored name comes first: \
         --rename ts=date",
    );
    fails(
        &["--rename", "x=y"],
        "names a column that the export does not have (series: m@1m, column: x, columns: ts",
    );
    fails(&["--rename", "open=close"], "two columns of the export would have one name");
    fails(&["--rename", "open=a", "--rename", "open=b"], "gives a column two names");
    fails(&["--rename", "open"], "use OLD=NEW");
    fails(&["--columns", "close", "--rename", "open=a"], "columns: ts, close)");
    let run = scene.run(&[&M[..], &["--columns", "cloze"]].concat());
    run.fails_with(1, "column: cloze, columns: ts, open, high, low, close, volume");
}

#[test]
fn programs_get_the_columns_that_they_expect() {
    let scene = Scene::new();
    fill(&scene, "m", &rows([0, 1, 2]));
    let export = |reader: &str, out: &str| {
        let run = scene.run(&[&M[..], &["--for", reader, "--out", out]].concat());
        assert_eq!(run.code, Some(0), "{run:?}");
        scene.path(out)
    };
    assert_eq!(
        read(export("freqtrade", "f.json")),
        "[\n[1704067200000,0.0,1.0,-1.0,0.5,0.0],\n[1704067260000,10.0,11.0,9.0,10.5,1.0],\n\
         [1704067320000,20.0,21.0,19.0,20.5,2.0]\n]\n"
    );
    assert!(fs::read(export("freqtrade", "f.feather")).unwrap().starts_with(b"ARROW1"));
    assert!(fs::read(export("freqtrade", "plain")).unwrap().starts_with(b"ARROW1"), "it is the default");
    let line = |path: std::path::PathBuf| read(path).lines().take(2).collect::<Vec<_>>().join("\n");
    assert_eq!(
        line(export("backtesting", "b.csv")),
        "Date,Open,High,Low,Close,Volume\n2024-01-01 00:00:00,0.0,1.0,-1.0,0.5,0.0"
    );
    assert_eq!(
        line(export("backtrader", "r.csv")),
        "datetime,open,high,low,close,volume,openinterest\n2024-01-01 00:00:00,0.0,1.0,-1.0,0.5,0.0,0"
    );
    assert_eq!(
        line(export("pandas", "p.csv")),
        "ts,open,high,low,close,volume,trades,vwap,venue\n2024-01-01T00:00:00Z,0.0,1.0,-1.0,0.5,0.0,3,1.25,X"
    );
    // What is called otherwise is named, and what is no number is refused.
    fill(&scene, "odd", "ts,o,high,low,close,volume\n1704067200,1,2,3,4,5\n");
    let odd = ["export", "--node", "odd", "--interval", "1m", "--for", "backtesting"];
    scene.run(&odd).fails_with(
        2,
        "backtesting.py needs a column that the series does not have (column: open, columns: ts, o, high, low, close, \
         volume)\n  hint: if another column holds it: --rename OLD=open",
    );
    let run = scene.run(&[&odd[..], &["--rename", "o=open"]].concat());
    assert!(run.stdout.ends_with("\n2024-01-01 00:00:00,1.0,2.0,3.0,4.0,5.0\n"), "{run:?}");
    let run = scene.run(
        &[&M[..], &["--for", "backtesting", "--rename", "volume=v", "--rename", "venue=volume"]].concat(),
    );
    run.fails_with(2, "needs numbers in this column (column: volume, type: Utf8)");
}

#[test]
fn lean_gets_hours_in_a_file_and_minutes_in_a_zip_a_day() {
    let scene = Scene::new();
    fill(&scene, "m", &minutes(1_500));
    let unzip = |path: &str| {
        let mut archive = zip::ZipArchive::new(File::open(scene.path(path)).unwrap()).unwrap();
        assert_eq!(archive.len(), 1);
        let mut entry = archive.by_index(0).unwrap();
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        (entry.name().unwrap().into_owned(), text)
    };
    let lean = [&M[..], &["--for", "lean"]].concat();
    let exported = scene.json(&[&lean[..], &["--out", "crypto/minute/BTCUSDT"]].concat());
    assert_eq!((&exported["rows"], &exported["out"]), (&json!(1_500), &json!("crypto/minute/BTCUSDT")));
    let (name, first) = unzip("crypto/minute/BTCUSDT/20240101_trade.zip");
    assert_eq!((name.as_str(), first.lines().count()), ("20240101_btcusdt_minute_trade.csv", 1_440));
    assert_eq!(first.lines().next(), Some("0,100,100.5,99.5,100.25,0"));
    let (_, second) = unzip("crypto/minute/BTCUSDT/20240102_trade.zip");
    assert!(second.starts_with("0,") && second.lines().last().unwrap().starts_with("3540000,"), "{second}");
    assert_eq!(fs::read_dir(scene.path("crypto/minute/BTCUSDT")).unwrap().count(), 2);
    let again = scene.json(&[&lean[..], &["--out", "crypto/minute/BTCUSDT/", "--bars", "1"]].concat());
    assert_eq!(again["rows"], 0, "the days that have no row stay");
    assert_eq!(fs::read_dir(scene.path("crypto/minute/BTCUSDT")).unwrap().count(), 2);
    let each = scene.json(&["export", "--for", "lean", "--out", "each/"]);
    assert_eq!(each[0]["out"], "each/m-1m");
    assert!(scene.path("each/m-1m/20240102_trade.zip").exists());
    scene.run(&lean).fails_with(2, "LEAN reads these bars from a zip a day: use --out DIR/");

    let source = scene
        .file("h.csv", "ts,open,high,low,close,volume\n1704067200,1,2,0.5,1.5,9\n1704070800,2,3,1,2,8\n");
    let fill = [
        "backfill",
        "--node",
        "h",
        "--interval",
        "1h",
        "--source",
        &source,
        "--timerange",
        "20240101-20240102",
    ];
    scene.run(&fill);
    let hours = ["export", "--node", "h", "--interval", "1h", "--for", "lean"];
    let text = "20240101 00:00,1,2,0.5,1.5,9\n20240101 01:00,2,3,1,2,8\n";
    assert_eq!(scene.run(&hours).stdout, text);
    assert_eq!(scene.run(&[&hours[..], &["--out", "btcusdt_trade.zip"]].concat()).code, Some(0));
    assert_eq!(unzip("btcusdt_trade.zip"), ("btcusdt.csv".to_owned(), text.to_owned()));

    let source = scene.file("n.csv", "ts,open,high,low,close,volume\n1704067200,1,2,0.5,NaN,9\n");
    let fill = [
        "backfill",
        "--node",
        "n",
        "--interval",
        "1h",
        "--source",
        &source,
        "--timerange",
        "20240101-20240102",
    ];
    scene.run(&fill);
    let run = scene.run(&["export", "--node", "n", "--interval", "1h", "--for", "lean", "--out", "n.csv"]);
    run.fails_with(
        1,
        "none that are missing or no number (column: close, ts: 2024-01-01T00:00:00Z, value: NaN)",
    );

    let source = scene.file("5.csv", "ts,open,high,low,close,volume\n1704067200,1,2,0.5,1.5,9\n");
    let fill = [
        "backfill",
        "--node",
        "5",
        "--interval",
        "5m",
        "--source",
        &source,
        "--timerange",
        "20240101-20240102",
    ];
    scene.run(&fill);
    let run = scene.run(&["export", "--node", "5", "--interval", "5m", "--for", "lean", "--out", "five/"]);
    run.fails_with(2, "LEAN has bars of 1s, 1m, 1h and 1d");
    assert!(!scene.path("five").exists());
}

/// The times and marks of a CSV, by minutes.
fn marks(csv: &str) -> Vec<(i64, bool)> {
    let minute = |ts: &str| (ts.parse::<i64>().unwrap() - 1_704_067_200) / 60;
    csv.lines()
        .skip(1)
        .map(|line| (minute(line.split(',').next().unwrap()), line.ends_with(",true")))
        .collect()
}

#[test]
fn bars_proved_absent_are_flat_and_missing_ones_are_not_made_up() {
    let scene = Scene::new();
    fill(&scene, "m", &rows([2, 3, 7, 8]));
    // Another file proves 12; 9 is missing.
    fill(&scene, "m", &rows([10, 11, 13, 14]));
    let flat = ["--fill", "flat", "--ts-format", "s"];
    let run = scene.run(&[&M[..], &flat].concat());
    assert_eq!(run.code, Some(0), "{run:?}");
    let expected: Vec<_> =
        [2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 14].map(|at| (at, [4, 5, 6, 12].contains(&at))).into();
    assert_eq!(marks(&run.stdout), expected);
    assert_eq!(run.stdout.lines().nth(3), Some("1704067440,30.5,30.5,30.5,30.5,0.0,0,,,true"));
    assert!(run.stderr.contains("m@1m: the range lacks 1 bar, neither stored nor proved absent"), "{run:?}");
    let run = scene.run(&[&M[..], &flat, &["--quiet"]].concat());
    assert_eq!(run.stderr, "");

    // The close before the range counts, also where its column is not asked for.
    let part = ["--range", "1704067500..=1704067560", "--columns", "volume,vwap"];
    let run = scene.run(&[&M[..], &flat, &part].concat());
    assert_eq!(run.stdout, "ts,volume,vwap,filled\n1704067500,0.0,,true\n1704067560,0.0,,true\n");
    assert!(run.stderr.contains("no row in 2024-01-01T00:05:00Z..=2024-01-01T00:06:00Z"), "{run:?}");
    let run = scene.run(&[&M[..], &flat, &part[..2], &["--for", "backtesting"]].concat());
    run.fails_with(2, "leave out --ts-format");
    let run = scene.run(&[&M[..], &flat[..2], &part[..2], &["--for", "backtesting"]].concat());
    assert_eq!(run.stdout.lines().nth(1), Some("2024-01-01 00:05:00,30.5,30.5,30.5,30.5,0.0"), "{run:?}");
    let object = scene.json(&[&M[..], &flat, &["--out", "x.csv"]].concat());
    assert_eq!((&object["rows"], &object["filled"]), (&json!(12), &json!(4)));
}

#[test]
fn a_flat_bar_needs_a_close_that_is_a_number_and_a_free_name() {
    let scene = Scene::new();
    fill(&scene, "m", "ts,close,filled\n1704067200,5,1\n1704067260,NaN,2\n1704067380,7,3\n");
    let flat = [&M[..], &["--fill", "flat", "--ts-format", "s"]].concat();
    scene.run(&flat).fails_with(2, "two columns of the export would have one name; give one of them another with --rename (name: filled, columns: filled, the mark of --fill)");
    let run = scene.run(&[&flat[..], &["--rename", "filled=depth"]].concat());
    assert_eq!(
        run.stdout,
        "ts,close,depth,filled\n1704067200,5.0,1.0,false\n1704067260,NaN,2.0,false\n1704067320,5.0,,true\n\
         1704067380,7.0,3.0,false\n"
    );
    fill(&scene, "x", "ts,last\n1704067200,5\n1704067320,7\n1704067380,8\n");
    let x = ["export", "--node", "x", "--interval", "1m", "--fill", "flat"];
    scene.run(&x).fails_with(2, "--fill needs closing prices");
    let run = scene.run(&[&x[..], &["--rename", "last=close"]].concat());
    assert_eq!(run.stdout.lines().nth(2), Some("2024-01-01T00:01:00Z,5.0,true"), "{run:?}");
}

#[test]
fn a_long_hole_is_filled_bar_by_bar() {
    let scene = Scene::new();
    // Rows so far apart prove nothing by themselves.
    let source = scene.file("source.csv", &rows([0, 1, 40_000, 40_002]));
    let words = ["backfill", "--node", "s", "--interval", "1m", "--source", &source, "--sparse", "--yes"];
    let end = (1_704_067_200 + 40_003 * 60).to_string();
    scene.run(&[&words[..], &["--start", "1704067200", "--end", &end]].concat());
    let run = scene.run(&["export", "--node", "s", "--interval", "1m", "--fill", "flat", "--ts-format", "s"]);
    let marks = marks(&run.stdout);
    assert_eq!(marks.len(), 40_003, "{}", run.stderr);
    assert!(marks.iter().zip(0..).all(|((at, _), expected)| *at == expected));
    assert_eq!(marks.iter().filter(|(_, is_filled)| !is_filled).count(), 4);
}

#[test]
fn a_strict_export_of_a_range_with_holes_writes_nothing() {
    let scene = Scene::new();
    fill(&scene, "m", &rows([2, 3]));
    fill(&scene, "m", &rows([5, 6, 8, 9]));
    fs::write(scene.path("x.csv"), "old").unwrap();
    for more in [&["--strict"][..], &["--strict", "--fill", "flat"]] {
        let run = scene.run(&[&M[..], &["--out", "x.csv"], more].concat());
        run.fails_with(
            3,
            "the range lacks 1 bar; nothing is written (--strict) (series: m@1m, missing: \
             2024-01-01T00:04:00Z..=2024-01-01T00:04:00Z)",
        );
        assert_eq!(read(scene.path("x.csv")), "old");
    }
    let whole = [&M[..], &["--strict", "--range", "1704067500..=1704067560"]].concat();
    assert_eq!(scene.run(&whole).stdout.lines().count(), 3);
    let json = scene.run(&[&M[..], &["--strict", "--out", "x.csv", "--json"]].concat());
    assert_eq!((json.code, &json.object()["error"]["exit_code"]), (Some(3), &json!(3)));
}

#[test]
fn an_export_of_nothing_is_a_file_and_says_where_the_rows_are() {
    let scene = Scene::new();
    fill(&scene, "m", &minutes(5));
    let nothing = [&M[..], &["--timerange", "20230101-20230102"]].concat();
    let run = scene.run(&[&nothing[..], &["--format", "json"]].concat());
    assert_eq!((run.code, run.stdout.as_str()), (Some(0), "[]\n"));
    assert!(
        run.stderr.contains(
            "no row in 2023-01-01T00:00:00Z..=2023-01-01T23:59:00Z; the series has rows from 2024-01-01T00:00:00Z to \
             2024-01-01T00:04:00Z"
        ),
        "{run:?}"
    );
    for (out, begins) in
        [("x.parquet", "PAR1"), ("x.feather", "ARROW1"), ("x.csv", "ts,open"), ("x.jsonl", "")]
    {
        assert_eq!(scene.run(&[&nothing[..], &["--out", out]].concat()).code, Some(0));
        assert!(fs::read(scene.path(out)).unwrap().starts_with(begins.as_bytes()), "{out}");
    }
    let run = scene.run(&[&M[..], &["--end", "2023-01-01"]].concat());
    assert!(run.stderr.contains("no row before 2023-01-01T00:00:00Z; the series has"), "{run:?}");
    // A series of which only the absence of bars is stored, with columns and without.
    let source = scene.file("holes.csv", &rows([0, 1, 2, 5, 6]));
    let range = ["--start", "1704067380", "--end", "1704067500"];
    let bare = scene.run(
        &[&["backfill", "--node", "bare", "--interval", "1m", "--source", &source], &range[..]].concat(),
    );
    assert!(bare.stdout.contains("known empty  2 bars"), "{bare:?}");
    let bare = ["export", "--node", "bare", "--interval", "1m"];
    for (more, told) in [
        (&["--fill", "flat"][..], "ts,filled\n"),
        (&["--format", "json"], "[]\n"),
        (&["--for", "backtesting", "--fill", "flat"], "Date,Open,High,Low,Close,Volume\n"),
        (&["--for", "freqtrade", "--format", "json"], "[]\n"),
    ] {
        let run = scene.run(&[&bare[..], more].concat());
        assert_eq!((run.code, run.stdout.as_str()), (Some(0), told), "{run:?}");
        assert!(run.stderr.contains("bare@1m: no row; the series has none"), "{run:?}");
    }
    assert_eq!(
        scene.run(&[&bare[..], &["--for", "freqtrade", "--out", "bare.feather"]].concat()).code,
        Some(0)
    );
    scene.run(&["prune", "--all", "--before", "2024-01-01T00:05:00Z"]);
    let run = scene.run(&[&M[..], &["--fill", "flat", "--format", "jsonl"]].concat());
    assert!(
        run.code == Some(0) && run.stdout.is_empty() && run.stderr.contains("no row; the series has none"),
        "{run:?}"
    );
}

#[test]
fn a_folder_takes_a_file_of_each_series() {
    let scene = Scene::new();
    let long = "l".repeat(1_000);
    let ids = ["a/b", "a:b", "A/B", "..", "../up", &long, "ü"];
    for (index, id) in ids.iter().enumerate() {
        fill(&scene, id, &minutes(i64::try_from(index).unwrap() + 1));
    }
    let exported = scene.json(&["export", "--out", "all/"]);
    let exported = exported.as_array().unwrap();
    assert_eq!(exported.len(), ids.len());
    let mut names = BTreeSet::new();
    for object in exported {
        let index = ids.iter().position(|id| object["node_id"] == *id).unwrap();
        let out = object["out"].as_str().unwrap();
        assert_eq!(read(scene.path(out)).lines().count(), index + 2, "{out}");
        assert!(names.insert(out.to_lowercase()), "{out}");
        assert!(out.starts_with("all/") && out.matches('/').count() == 1 && out.len() < 220, "{out}");
    }
    assert_eq!(fs::read_dir(scene.path("all")).unwrap().count(), ids.len(), "nothing else is there");
    assert!(!scene.path("up-1m.csv").exists());
    // The same series has the same file when it is asked for alone.
    let alone = scene.json(&["export", "--node", "a/b", "--interval", "1m", "--out", "all/"]);
    assert_eq!(alone["out"], exported.iter().find(|object| object["node_id"] == "a/b").unwrap()["out"]);
    let two =
        ["export", "--node", "..", "--node", "ü", "--interval", "1m", "--out", "all", "--format", "jsonl"];
    let run = scene.run(&two);
    assert_eq!((run.code, run.stderr.matches("rows written to all/").count()), (Some(0), 2), "{run:?}");
    scene.file("list.toml", "interval = \"1m\"\n[[series]]\nnode = \"..\"\n[[series]]\nnode = \"ü\"\n");
    let listed = scene.json(&["export", "--nodes", "list.toml", "--out", "listed/"]);
    assert_eq!(listed.as_array().map(Vec::len), Some(2));
    // Not among the store's own files.
    for out in ["store/new/", "store/new/deeper/"] {
        scene.run(&["export", "--out", out]).fails_with(2, "the export would lie among a store's own files");
    }
    assert!(!scene.path("store/new").exists());
    scene.run(&["export", "--out", "absent/../store/x/"]).fails_with(2, "the folder before .. is not there");
    assert!(!scene.path("absent").exists());
    scene.run(&["export"]).fails_with(2, "--out DIR/ writes a file for each series");
    scene.run(&["export", "--out", "list.toml/"]).fails_with(1, "cannot write the export");
    let one = ["export", "--node", "ü", "--interval", "1m", "--out", "nowhere/x.csv"];
    scene.run(&one).fails_with(1, "the folder of the export does not exist; make it first (folder: nowhere)");
}

#[test]
fn a_series_that_fails_does_not_stop_the_others() {
    let scene = Scene::new();
    fill(&scene, "m", &minutes(3));
    fill(&scene, "o", "ts,open\n1704067200,1\n");
    let run = scene.run(&["export", "--out", "x/", "--columns", "close", "--json"]);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert_eq!(run.object()[0]["rows"], 3);
    assert_eq!(run.object()[1]["error"]["kind"], "not_found");
    assert!(run.stderr.contains("error: the series has no such column"), "{run:?}");
    fill(&scene, "o", &rows([9, 10]).replace("venue", "more"));
    let run = scene.run(&["export", "--out", "x/", "--strict"]);
    run.fails_with(3, "the range lacks ");
    let listing = scene.json(&["files", "--node", "o", "--interval", "1m"]);
    fs::write(listing["files"][0]["path"].as_str().unwrap(), "damaged").unwrap();
    let run = scene.run(&["export", "--out", "y/"]);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert_eq!(read(scene.path("y/m-1m.csv")).lines().count(), 4);
    assert_eq!(fs::read_dir(scene.path("y")).unwrap().count(), 1, "half a file is none");
}

#[cfg(unix)]
#[test]
fn compressed_text_goes_into_a_pipe_and_half_of_it_is_not_taken_for_all() {
    let scene = Scene::new();
    fill(&scene, "m", &minutes(20_000));
    assert!(std::process::Command::new("mkfifo").arg(scene.path("pipe.csv.gz")).status().unwrap().success());
    let pipe = scene.path("pipe.csv.gz");
    let reader = std::thread::spawn(move || gunzip(pipe).unwrap());
    let export = [&M[..], &["--out", "pipe.csv.gz"]].concat();
    assert_eq!(scene.run(&export).code, Some(0));
    assert_eq!(reader.join().unwrap(), scene.run(&M).stdout);
    for out in ["pipe.csv.gz", "/dev/full"] {
        let pipe = scene.path("pipe.csv.gz");
        let reader =
            (out != "/dev/full").then(|| std::thread::spawn(move || drop(File::open(pipe).unwrap())));
        let run = scene.run(&[&M[..], &["--format", "jsonl", "--out", out]].concat());
        reader.into_iter().for_each(|reader| reader.join().unwrap());
        run.fails_with(1, "cannot write");
    }
    // Whoever reads stdout may have seen enough.
    for format in ["jsonl", "json", "feather"] {
        let mut run = scene
            .command(&[&M[..], &["--format", format]].concat())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(run.stdout.take());
        let run = Run::of(run.wait_with_output().unwrap());
        assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{format}");
    }
}
