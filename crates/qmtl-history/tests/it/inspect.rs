//! `inspect`: what it says of a file, and that its command stores exactly the rows of it.

use std::process::Command;

use serde_json::json;

use super::{Run, Scene};

/// Runs the command that `inspect` names, as a user would type it, on the store of the scene.
fn typed(scene: &Scene, command: &str) -> Run {
    let program = env!("CARGO_BIN_EXE_qmtl-history");
    let command = command.replacen("qmtl-history", &format!("'{program}'"), 1);
    let command = command.replacen("--store ./history", &format!("--store '{}'", scene.store()), 1);
    let mut shell = Command::new("sh");
    Run::of(shell.args(["-c", &format!("{command} --json")]).current_dir(scene.path("")).output().unwrap())
}

/// A file, how it is to be read, and what must be stored of it.
struct Odd {
    name: &'static str,
    text: &'static str,
    flags: &'static [&'static str],
    /// The interval that is found.
    interval: &'static str,
    /// The node that the command names.
    node: &'static str,
    rows: &'static str,
}

const ODD: [Odd; 8] = [
    Odd {
        name: "candles.csv",
        text: "ts,close\n1704067200,1.5\n1704067260,2.5\n1704067380,3.5\n",
        flags: &["--sparse"],
        interval: "1m",
        node: "candles",
        rows: "ts,close\n2024-01-01T00:00:00Z,1.5\n2024-01-01T00:01:00Z,2.5\n2024-01-01T00:03:00Z,3.5\n",
    },
    Odd {
        name: "it's $HOME.csv",
        text: "date;close\n08.01.2024 00:00;1,5\n08.01.2024 00:05;2,5\n08.01.2024 00:10;3,5\n",
        flags: &["--time-format", "%d.%m.%Y %H:%M", "--decimal", "comma"],
        interval: "5m",
        node: "it's $HOME",
        rows: "ts,close\n2024-01-08T00:00:00Z,1.5\n2024-01-08T00:05:00Z,2.5\n2024-01-08T00:10:00Z,3.5\n",
    },
    Odd {
        name: "newyork.csv",
        text: "time,close\n2024-11-03 00:00,1.5\n2024-11-03 01:00,2.5\n2024-11-03 01:00,3.5\n2024-11-03 02:00,4.5\n",
        flags: &["--zone", "America/New_York"],
        interval: "1h",
        node: "newyork",
        rows: "ts,close\n2024-11-03T04:00:00Z,1.5\n2024-11-03T05:00:00Z,2.5\n2024-11-03T06:00:00Z,3.5\n\
               2024-11-03T07:00:00Z,4.5\n",
    },
    Odd {
        name: "stocks.csv",
        text: "time,close\n2024-01-08 14:30,1.5\n2024-01-08 15:30,2.5\n2024-01-08 16:30,3.5\n",
        flags: &[],
        interval: "1h+30m",
        node: "stocks",
        rows: "ts,close\n2024-01-08T14:30:00Z,1.5\n2024-01-08T15:30:00Z,2.5\n2024-01-08T16:30:00Z,3.5\n",
    },
    Odd {
        name: "closes.csv",
        text: "time,close\n1704067259999,1.5\n1704067319999,2.5\n1704067379999,3.5\n",
        flags: &["--stamp=close"],
        interval: "1m",
        node: "closes",
        rows: "ts,close\n2024-01-01T00:00:00Z,1.5\n2024-01-01T00:01:00Z,2.5\n2024-01-01T00:02:00Z,3.5\n",
    },
    Odd {
        name: "yahoo.csv",
        text: "Date,Close\n2024-03-07 00:00:00-05:00,1.5\n2024-03-08 00:00:00-05:00,2.5\n2024-03-11 00:00:00-04:00,3.5\n\
               2024-03-12 00:00:00-04:00,4.5\n2024-03-13 00:00:00-04:00,5.5\n",
        flags: &["--stamp", "date"],
        interval: "1d",
        node: "yahoo",
        rows: "ts,close\n2024-03-07T00:00:00Z,1.5\n2024-03-08T00:00:00Z,2.5\n2024-03-11T00:00:00Z,3.5\n\
               2024-03-12T00:00:00Z,4.5\n2024-03-13T00:00:00Z,5.5\n",
    },
    Odd {
        name: "late.csv",
        text: "time,close\n1704067200,1.5\n1704067267,2.5\n1704067320,3.5\n1704067380,4.5\n1704067440,5.5\n",
        flags: &["--off-grid", "floor"],
        interval: "1m",
        node: "late",
        rows: "ts,close\n2024-01-01T00:00:00Z,1.5\n2024-01-01T00:01:00Z,2.5\n2024-01-01T00:02:00Z,3.5\n\
               2024-01-01T00:03:00Z,4.5\n2024-01-01T00:04:00Z,5.5\n",
    },
    Odd {
        name: "BTCUSDT.csv",
        text: "when|c|x\n1704067200|1.5|a\n1704067260|2.5|b\n1704067320|3.5|c\n",
        flags: &["--ts-column", "when", "--column", "close=c", "--column=x", "--columns="],
        interval: "1m",
        node: "BTCUSDT",
        rows: "",
    },
];

#[test]
fn the_command_that_it_names_stores_the_rows_of_the_file() {
    for Odd { name, text, flags, interval, node, rows } in &ODD[..7] {
        let scene = Scene::new();
        scene.file(name, text);
        let said = scene.json(&[&["inspect", name], *flags].concat());
        let command = said["command"].as_str().unwrap_or_else(|| panic!("{name}: {said}"));
        let people = scene.run(&[&["inspect", name], *flags].concat());
        assert!(people.stdout.ends_with(&format!("\nThis stores them:\n  {command}\n")), "{people:?}");
        let filled = typed(&scene, command);
        assert_eq!(filled.code, Some(0), "{name}: {command}\n{filled:?}");
        let series = ["--node", node, "--interval", interval];
        let export = scene.run(&[&["export"], &series[..]].concat());
        assert_eq!(export.stdout, *rows, "{name}: {command}");
        assert_eq!(said["series"][0]["interval"], *interval, "{name}");
        // What it shows of them is what is stored.
        let shown = said["first_rows"].as_array().unwrap();
        assert_eq!(shown.len(), rows.lines().count() - 1, "{name}: {said}");
        let closes: Vec<_> = shown.iter().map(|row| row["close"].as_f64().unwrap()).collect();
        let expected = rows.lines().skip(1).map(|row| row.split(',').nth(1).unwrap().parse::<f64>().unwrap());
        assert_eq!(closes, expected.collect::<Vec<_>>(), "{name}");
    }
}

#[test]
fn weeks_begin_on_the_day_of_most_rows() {
    let scene = Scene::new();
    // The fourth Friday was a holiday.
    let days = [5, 12, 19, 25].map(|day| format!("2024-01-{day:02}"));
    let days = days.into_iter().chain([2, 9, 16].map(|day| format!("2024-02-{day:02}")));
    scene.file("weeks.csv", &format!("date,close\n{}", days.map(|day| day + ",1\n").collect::<String>()));
    let said = scene.json(&["inspect", "weeks.csv"]);
    assert_eq!(
        (&said["series"][0]["interval"], &said["first_rows"][2]["ts"]),
        (&json!("1w+4d"), &json!(1_705_622_400))
    );
    let filled = typed(&scene, said["command"].as_str().unwrap());
    assert_eq!(filled.code, Some(3), "{filled:?}");
    assert_eq!(filled.object()["off_grid"][0]["ts"], 1_706_140_800, "{filled:?}");
}

#[test]
fn what_is_given_for_the_file_stands_in_the_command() {
    let scene = Scene::new();
    let Odd { name, text, .. } = &ODD[7];
    scene.file(name, text);
    let words = [
        "inspect",
        name,
        "--ts-column",
        "when",
        "--column",
        "close=c",
        "--column",
        "=x",
        "--rows",
        "1",
        "-q",
    ];
    let said = scene.json(&words);
    assert_eq!(
        said["command"],
        "qmtl-history backfill --store ./history --source file:BTCUSDT.csv --ts-column when --column close=c \
         --column =x --node BTCUSDT --interval 1m"
    );
    assert_eq!(said["first_rows"], json!([{"ts": 1_704_067_200, "close": 1.5}]));
    let filled = typed(&scene, said["command"].as_str().unwrap());
    assert_eq!((filled.code, &filled.object()["rows_written"]), (Some(0), &json!(3)), "{filled:?}");
}

#[test]
fn it_prints_one_object_with_all_that_was_found() {
    let scene = Scene::new();
    scene.file("x.csv", "Open Time;Close;Note\n1704067200;1,5;a\n1704067260;2,5;b\n1704067380;3,5;c\n");
    let said = scene.json(&["inspect", "x.csv"]);
    let fields: Vec<_> = said.as_object().unwrap().keys().map(String::as_str).collect();
    let mut expected = [
        "file",
        "read_of",
        "notes",
        "time",
        "columns",
        "symbol_column",
        "series",
        "first_rows",
        "command",
        "commands",
    ];
    expected.sort_unstable();
    let mut sorted = fields.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, expected);
    assert_eq!(said["file"], "x.csv");
    assert_eq!(said["time"], json!({"column": "Open Time", "form": "seconds since 1970"}));
    assert_eq!(
        said["columns"],
        json!([
            {"name": "close", "own": "Close", "type": "float64"},
            {"name": "Note", "own": "Note", "type": "utf8"},
        ])
    );
    assert_eq!(said["symbol_column"], json!(null));
    assert_eq!(
        said["series"],
        json!([{
            "symbol": "", "rows": 3, "first": 1_704_067_200, "last": 1_704_067_380, "distance_s": 60.0,
            "interval": "1m", "without_row": 1,
        }])
    );
    let notes: Vec<_> = said["notes"].as_array().unwrap().iter().map(|note| note.as_str().unwrap()).collect();
    assert!(notes.contains(&"columns are separated by semicolons"), "{notes:?}");
    assert_eq!(scene.json(&["inspect", "x.csv", "--rows", "0"])["first_rows"], json!([]));
    assert!(!scene.path("store").exists(), "no store is made");
}

#[test]
fn a_file_of_several_series_is_shown_with_the_column_that_tells_them_apart() {
    let scene = Scene::new();
    scene.file(
        "all.csv",
        "ts,ticker,close\n1704067200,AB,1\n1704067200,CD,2\n1704067260,AB,3\n1704067260,CD,4\n1704067320,AB,5\n\
         1704067320,CD,6\n",
    );
    let said = scene.json(&["inspect", "all.csv"]);
    assert_eq!((&said["symbol_column"], said["series"].as_array().unwrap().len()), (&json!("ticker"), 2));
    let filled = typed(&scene, said["command"].as_str().unwrap());
    assert_eq!(filled.code, Some(0), "{filled:?}");
    let told = filled.object();
    assert_eq!((&told[0]["node_id"], &told[1]["node_id"]), (&json!("AB"), &json!("CD")));
    assert_eq!((&told[0]["rows_written"], &told[1]["rows_written"]), (&json!(3), &json!(3)));
    let people = scene.run(&["inspect", "all.csv"]).stdout;
    assert!(people.contains("  series   2, told apart by ticker\n"), "{people}");
}

#[test]
fn a_file_that_tells_no_interval_or_is_none_is_told() {
    let scene = Scene::new();
    scene.file("one.csv", "ts,close\n1704067200,1\n");
    let said = scene.json(&["inspect", "one.csv"]);
    assert_eq!((&said["command"], &said["series"][0]["interval"]), (&json!(null), &json!(null)));
    let people = scene.run(&["inspect", "one.csv"]).stdout;
    assert!(people.contains("The rows do not tell which interval they have"), "{people}");
    scene.file("months.csv", "Date,Close\n2024-01-01,1\n2024-02-01,2\n2024-03-01,3\n2024-04-01,4\n");
    assert_eq!(scene.json(&["inspect", "months.csv"])["command"], json!(null));
    scene.run(&["inspect", "none.csv"]).fails_with(2, "there is no such file; check its path");
    scene.file("page.csv", "<!DOCTYPE html>\n<html></html>\n");
    scene.run(&["inspect", "page.csv"]).fails_with(2, "the file is an HTML page, not data");
    scene.file("twice.csv", "ts,close\n2024-11-03 00:00,1\n2024-11-03 01:00,2\n2024-11-03 02:00,3\n");
    let run = scene.run(&["inspect", "twice.csv", "--zone", "America/New_York"]);
    run.fails_with(2, "a time comes twice in its time zone");
    assert!(run.stderr.contains("line: 3"), "{run:?}");
}

#[test]
fn a_folder_is_described_as_one_source() {
    let scene = Scene::new();
    std::fs::create_dir(scene.path("days")).unwrap();
    for day in 0..3 {
        let rows: String =
            (0..24).map(|hour| format!("{},1\n", 1_704_067_200 + (day * 24 + hour) * 3_600)).collect();
        scene.file(&format!("days/{day}.csv"), &format!("ts,close\n{rows}"));
    }
    scene.file("days/README", "what this is");
    let bare = scene.json(&["inspect", "days"]);
    assert_eq!(bare["command"], scene.json(&["inspect", "file:days"])["command"]);
    let said = scene.json(&["inspect", "file:days"]);
    let series = &said["series"][0];
    assert_eq!((series["rows"].as_u64(), series["without_row"].as_u64()), (Some(72), Some(0)));
    assert_eq!(
        (series["first"].as_i64(), series["last"].as_i64()),
        (Some(1_704_067_200), Some(1_704_322_800))
    );
    assert_eq!(series["interval"], "1h");
    assert_eq!(
        said["command"],
        "qmtl-history backfill --store ./history --source file:days --node days --interval 1h"
    );
}

#[test]
fn a_command_is_named_for_each_interval_and_all_of_its_series() {
    let scene = Scene::new();
    let mut text = String::from("symbol,ts,close\n");
    for symbol in ["AAA", "BBB", "CCC", "DDD"] {
        (0..5).for_each(|hour| text += &format!("{symbol},{},1\n", 1_704_067_200 + hour * 3_600));
    }
    (0..5).for_each(|day| text += &format!("EEE,{},1\n", 1_704_067_200 + day * 86_400));
    scene.file("x.csv", &text);
    let said = scene.json(&["inspect", "x.csv"]);
    let base = "qmtl-history backfill --store ./history --source file:x.csv --symbol-column symbol";
    assert_eq!(
        said["commands"],
        json!([
            format!("{base} --node AAA --node BBB --node CCC --node DDD --interval 1h"),
            format!("{base} --node EEE --interval 1d"),
        ])
    );
    assert_eq!(said["command"], said["commands"][0]);
    let shown = scene.run(&["inspect", "x.csv"]).stdout;
    assert!(shown.contains("These store them:\n  qmtl-history backfill "), "{shown}");
}

#[test]
fn days_of_a_zone_with_summer_time_are_stored_by_their_dates() {
    let scene = Scene::new();
    scene.file(
        "NOVA.csv",
        "Date,Close\n2024-03-08 00:00:00-05:00,1\n2024-03-09 00:00:00-05:00,1\n2024-03-10 00:00:00-05:00,1\n\
         2024-03-11 00:00:00-04:00,1\n2024-03-12 00:00:00-04:00,1\n",
    );
    let said = scene.json(&["inspect", "NOVA.csv"]);
    let command = "qmtl-history backfill --store ./history --source file:NOVA.csv --node NOVA --interval 1d --stamp date";
    assert_eq!(said["command"], command);
    let filled = typed(&scene, command);
    assert_eq!(filled.code, Some(0), "{filled:?}");
    assert_eq!(said["first_rows"][0]["ts"], 1_709_856_000, "as it is stored");
}

#[test]
fn a_profile_is_named_on_the_command_line() {
    let scene = Scene::new();
    scene.file("x.csv", "1704067200,1,2,0.5,1.5,9,3\n1704070800,1.5,2,1,1.25,8,2\n");
    for (profile, column) in [("kraken", "trades"), ("none", "column_7")] {
        let said = scene.json(&["inspect", "x.csv", "--profile", profile]);
        assert_eq!(said["columns"][5]["name"], column, "{said}");
    }
    scene.run(&["inspect", "x.csv", "--profile", "krakn"]).fails_with(2, "kraken");
}

#[test]
fn nodes_are_filled_from_the_files_that_are_called_after_them() {
    let scene = Scene::new();
    std::fs::create_dir(scene.path("pairs")).unwrap();
    for (name, close) in [("XBTUSD", 42_000), ("ETHUSD", 2_300)] {
        let rows =
            (0..3).map(|hour| format!("{},{close}\n", 1_704_067_200 + hour * 3_600)).collect::<String>();
        scene.file(&format!("pairs/{name}_60.csv"), &format!("ts,close\n{rows}"));
    }
    let fill = ["backfill", "--source", "file:pairs", "--interval", "1h"];
    let run = scene.run(&[&fill[..], &["--node", "BTCUSD", "--node", "ETHUSD"]].concat());
    assert_eq!(run.code, Some(0), "{run:?}");
    for (node, close) in [("BTCUSD", ",42000"), ("ETHUSD", ",2300")] {
        let rows = scene.run(&["export", "--node", node, "--interval", "1h"]).stdout;
        assert_eq!(rows.lines().filter(|line| line.contains(close)).count(), 3, "{rows}");
    }
    let run = scene.run(&[&fill[..], &["--node", "SOLUSD"]].concat());
    run.fails_with(2, "no file is named after this series");
    let run = scene.run(&[
        "backfill",
        "--source",
        "file:pairs/ETHUSD_60.csv",
        "--interval",
        "1h",
        "--node",
        "XBTUSD",
    ]);
    run.fails_with(2, "the file holds another symbol than the node is named after");
}

#[test]
fn ends_of_bars_and_rows_beside_the_grid_are_told() {
    let scene = Scene::new();
    let rows = |at: &dyn Fn(i64) -> String| (0..6).map(|row| format!("{},1\n", at(row))).collect::<String>();
    let closes = rows(&|row| format!("{}", 1_704_067_259_999_i64 + row * 60_000));
    scene.file("closes.csv", &format!("ts,close\n{closes}"));
    let said = scene.json(&["inspect", "closes.csv"]);
    let command = "qmtl-history backfill --store ./history --source file:closes.csv --node closes --interval 1m --stamp close";
    assert_eq!((&said["command"], &said["first_rows"][0]["ts"]), (&json!(command), &json!(1_704_067_200)));
    assert_eq!(typed(&scene, command).code, Some(0));
    let late = rows(&|row| format!("{}", 1_704_067_200 + row * 60 + row % 3));
    scene.file("late.csv", &format!("ts,close\n{late}"));
    let shown = scene.run(&["inspect", "late.csv"]).stdout;
    let told =
        "\n4 of the first rows are off the grid, the first at 2024-01-01T00:01:01Z; --off-grid decides";
    assert!(shown.contains("bars of 1m") && shown.contains(told), "{shown}");
}
