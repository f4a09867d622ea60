//! Rows off the grid, rows without prices and times on local clocks through the program; and files without a range.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde_json::json;

use super::klines_server::KlinesServer;
use super::{Run, Scene, minutes};

/// 2024-01-01.
const START: i64 = 1_704_067_200;
const SERIES: [&str; 4] = ["--node", "X", "--interval", "1m"];

/// Ten minutes, of which number 3 is seven seconds late.
fn late() -> String {
    let mut text = String::from("ts,close\n");
    for minute in 0..10 {
        let ts = START + minute * 60 + if minute == 3 { 7 } else { 0 };
        writeln!(text, "{ts},{minute}.5").unwrap();
    }
    text
}

/// Runs a fill of the whole of a file.
fn fill(scene: &Scene, source: &str, more: &[&str]) -> Run {
    scene.run(&[&["backfill", "--source", source], &SERIES[..], more].concat())
}

fn bar(minute: i64) -> serde_json::Value {
    json!([[START + minute * 60, START + minute * 60]])
}

#[test]
fn each_rule_for_rows_off_the_grid_ends_as_it_says() {
    for (rule, code, present) in [
        (None, 3, 9),
        (Some("list"), 3, 9),
        (Some("refuse"), 1, 0),
        (Some("drop"), 0, 9),
        (Some("floor"), 0, 10),
        (Some("nearest:6s"), 3, 9),
        (Some("nearest:7s"), 0, 10),
    ] {
        let scene = Scene::new();
        let source = scene.file("x.csv", &late());
        let flags: Vec<_> = rule.into_iter().flat_map(|rule| ["--off-grid", rule]).collect();
        let run = fill(&scene, &source, &[&flags[..], &["--json"]].concat());
        assert_eq!(run.code, Some(code), "{rule:?} {run:?}");
        let told = run.object();
        assert_eq!(told["rows_written"], present, "{rule:?} {told}");
        let rows = scene.run(&[&["export", "--ts-format", "s"], &SERIES[..]].concat()).stdout;
        match present {
            10 => {
                assert_eq!((&told["rows_moved"], &told["rows_dropped"]), (&json!(1), &json!({})), "{rule:?}");
                assert!(told.get("off_grid").is_none(), "{rule:?} {told}");
                assert!(rows.contains(&format!("\n{},3.5\n", START + 180)), "{rule:?} {rows}");
            }
            9 => {
                assert!(told.get("rows_moved").is_none(), "{rule:?} {told}");
                assert_eq!(told["rows_dropped"], json!({"off_grid": 1}), "{rule:?}");
                assert_eq!(
                    told["off_grid"],
                    json!([{"ts": START + 187, "bar": START + 180, "distance_s": 7.0}]),
                    "{rule:?}"
                );
                let state = if code == 0 { "known_empty" } else { "missing" };
                assert_eq!(told[state], bar(3), "{rule:?}");
            }
            _ => {
                let failed = told["failed"][0]["error"].as_str().unwrap();
                assert!(
                    failed.contains("rows are off the grid, which is to be refused (--off-grid)"),
                    "{failed}"
                );
            }
        }
        let people = fill(&Scene::new(), &source, &flags).stdout;
        let hint = "to store such rows as the bars in which they stand: --off-grid floor";
        assert_eq!(people.contains(hint), code == 3, "{rule:?}\n{people}");
        assert_eq!(people.contains("moved        1 row onto the grid"), present == 10, "{rule:?}\n{people}");
    }
}

#[test]
fn each_rule_for_rows_without_prices_ends_as_it_says() {
    let text =
        "ts,open,close,volume\n1704067200,1,1,\n1704067260,NaN,2,5\n1704067320,3,,5\n1704067380,4,4,5\n";
    for (rule, code, written) in
        [(None, 0, 4), (Some("keep"), 0, 4), (Some("missing"), 3, 2), (Some("refuse"), 1, 0)]
    {
        let scene = Scene::new();
        let source = scene.file("x.csv", text);
        let flags: Vec<_> = rule.into_iter().flat_map(|rule| ["--nan", rule]).collect();
        let run = fill(&scene, &source, &[&flags[..], &["--json"]].concat());
        assert_eq!(run.code, Some(code), "{rule:?} {run:?}");
        let told = run.object();
        assert_eq!(told["rows_written"], written, "{rule:?} {told}");
        match written {
            4 => assert_eq!(
                (&told["nan"][0]["column"], &told["nan"][1]["column"]),
                (&json!("open"), &json!("close"))
            ),
            2 => {
                assert_eq!(told["rows_dropped"], json!({"nan": 2}), "{told}");
                assert_eq!(told["missing"], json!([[START + 60, START + 120]]), "{told}");
            }
            _ => {
                let failed = told["failed"][0]["error"].as_str().unwrap();
                assert!(
                    failed.contains("rows have no number for a price, which is to be refused (--nan)"),
                    "{failed}"
                );
            }
        }
    }
}

#[test]
fn a_list_of_series_has_the_rules_and_clocks_of_each() {
    let scene = Scene::new();
    scene.file("late.csv", &late());
    scene.file("clock.csv", "ts,close\n2024-07-01 09:31,1\n2024-07-01 09:32,NaN\n2024-07-01 09:33,3\n");
    scene.file(
        "list.toml",
        "interval = \"1m\"\n[[series]]\nnode = \"late\"\nsource = \"file:late.csv\"\noff_grid = \"floor\"\n\
         [[series]]\nnode = \"clock\"\nsource = \"file:clock.csv\"\nzone = \"America/New_York\"\nstamp = \"close\"\n\
         nan = \"missing\"\n",
    );
    let run = scene.run(&["backfill", "--nodes", "list.toml", "--json"]);
    assert_eq!(run.code, Some(3), "{run:?}");
    let told = run.object();
    assert_eq!((&told[0]["rows_written"], &told[0]["rows_moved"]), (&json!(10), &json!(1)), "{told}");
    // 09:30 in New York is 13:30 UTC.
    let opens = 1_719_840_600;
    assert_eq!(told[1]["present"], json!([[opens, opens], [opens + 120, opens + 120]]), "{told}");
    assert_eq!(
        (&told[1]["missing"], &told[1]["rows_dropped"]),
        (&json!([[opens + 60, opens + 60]]), &json!({"nan": 1}))
    );

    for (flag, value, entry) in [
        ("--zone", "Asia/Tokyo", "zone = \"America/New_York\""),
        ("--stamp", "close", "stamp = \"close\""),
        ("--off-grid", "floor", "off_grid = \"floor\""),
        ("--nan", "missing", "nan = \"missing\""),
    ] {
        let run = scene.run(&["backfill", "--nodes", "list.toml", flag, value]);
        run.fails_with(2, &format!("with --nodes, the file takes the place of {flag}: write {entry} there"));
    }
    for (line, message) in [
        ("zone = \"New York\"", "not a time zone: use a name of the IANA database such as America/New_York"),
        ("stamp = \"end\"", "use open, close or date"),
        (
            "off_grid = \"round\"",
            "use list, refuse, drop, floor, or nearest and a distance, such as nearest:5s",
        ),
        ("nan = \"drop\"", "use keep, missing or refuse"),
    ] {
        scene.file(
            "bad.toml",
            &format!("interval = \"1m\"\n{line}\n[[series]]\nnode = \"a\"\nsource = \"file:late.csv\"\n"),
        );
        scene.run(&["backfill", "--nodes", "bad.toml"]).fails_with(2, message);
        let (key, value) = line.split_once(" = ").unwrap();
        let flag = format!("--{}", key.replace('_', "-"));
        let run = scene.run(
            &[&["backfill", "--source", "file:late.csv", &flag, value.trim_matches('"')], &SERIES[..]]
                .concat(),
        );
        run.fails_with(2, message);
    }
}

#[test]
fn rules_are_for_the_rows_of_an_exchange_too() {
    let minutes: BTreeSet<_> = (START / 60..START / 60 + 20).collect();
    let server = KlinesServer::late(minutes, |minute| if minute % 10 == 3 { 17 } else { 0 });
    let source = format!("binance+{}", server.url);
    let end = (START + 1_200).to_string();
    let range = ["--start", "1704067200", "--end", &end];
    let fill = |scene: &Scene, more: &[&str]| {
        let run =
            scene.run(&[&["backfill", "--json", "--source", &source], &SERIES[..], &range, more].concat());
        (run.code, run.object())
    };
    let late = (START / 60..START / 60 + 20).filter(|minute| minute % 10 == 3).count();
    let (code, told) = fill(&Scene::new(), &[]);
    assert_eq!((code, &told["rows_dropped"]["off_grid"]), (Some(3), &json!(late)), "{told}");
    let (code, told) = fill(&Scene::new(), &["--off-grid", "nearest:1s"]);
    assert_eq!(
        (code, &told["rows_moved"], &told["rows_written"]),
        (Some(0), &json!(late), &json!(20)),
        "{told}"
    );
    let scene = Scene::new();
    scene.file(
        "list.toml",
        &format!("interval = \"1m\"\nsource = {source:?}\noff_grid = \"floor\"\n[[series]]\nnode = \"X\"\n"),
    );
    let told = scene.json(&[&["backfill", "--nodes", "list.toml"], &range[..]].concat());
    assert_eq!((&told["rows_moved"], &told["missing"]), (&json!(late), &json!([])), "{told}");
}

#[test]
fn a_file_without_a_range_is_stored_whole() {
    let text = minutes(50)
        .replace("1704069000,", "x,")
        .lines()
        .filter(|line| !line.starts_with('x'))
        .fold(String::new(), |all, line| all + line + "\n");
    let stored = |more: &[&str]| {
        let scene = Scene::new();
        let source = scene.file("x.csv", &text);
        let run = fill(&scene, &source, &[more, &["--json"]].concat());
        assert_eq!(run.code, Some(0), "{run:?}");
        let mut told = run.object();
        told.as_object_mut().unwrap().remove("elapsed_ms");
        (told, scene.run(&[&["export"], &SERIES[..]].concat()).stdout)
    };
    let exact = stored(&["--start", "1704067200", "--end", "1704070200"]);
    assert_eq!(exact.0["known_empty"], json!([[1_704_069_000, 1_704_069_000]]));
    assert_eq!(exact.0["rows_written"], 49);
    assert_eq!(stored(&[]), exact);
    assert_eq!(stored(&["--end", "2025-01-01"]), exact);
    let (cut, rows) = stored(&["--end", "1704067500"]);
    assert_eq!((&cut["rows_written"], rows.lines().count()), (&json!(5), 6));
    assert_eq!(cut["present"], json!([[1_704_067_200, 1_704_067_440]]));
    // A plan speaks of the same bars.
    let scene = Scene::new();
    let source = scene.file("x.csv", &text);
    let plan = scene.json(&[&["plan", "--source", &source], &SERIES[..]].concat());
    assert_eq!(plan["gaps"], json!([[1_704_067_200, 1_704_070_140]]), "{plan}");
    let run = fill(&scene, &source, &["--end", "2023-01-01"]);
    run.fails_with(2, "the file has no bar before the end of the range");
    assert!(run.stderr.contains("file_has: 2024-01-01T00:00:00Z..=2024-01-01T00:49:00Z"), "{run:?}");
    // What else names a range needs all of it, and so does what is no file.
    let run = scene.run(&[&["backfill", "--source", "binance"], &SERIES[..]].concat());
    assert_eq!(run.code, Some(2), "{run:?}");
}

#[test]
fn a_file_of_which_no_bar_has_closed_is_told() {
    let scene = Scene::new();
    let source = scene.file("x.csv", "ts,close\n2099-01-01T00:00:00Z,1\n2099-01-01T00:01:00Z,2\n");
    let run = fill(&scene, &source, &[]);
    assert_eq!(run.code, Some(2), "{run:?}");
    assert!(run.stderr.contains("no bar of the range has closed yet"), "{run:?}");
    assert!(!scene.path("store").exists() || std::fs::read_dir(scene.path("store")).unwrap().count() == 0);
}

#[test]
fn a_run_over_several_series_is_summed_up() {
    let scene = Scene::new();
    scene.file("whole.csv", &minutes(10));
    scene.file("late.csv", &late());
    scene.file("bad.csv", "ts,close\n1704067200,1\n1704067500,2\n1704067800,3\n1704068100,4\n");
    let series = ["whole", "late", "bad"]
        .map(|name| format!("[[series]]\nnode = \"{name}\"\nsource = \"file:{name}.csv\"\n"))
        .concat();
    scene.file("list.toml", &format!("interval = \"1m\"\n{series}"));
    let range = ["--start", "1704067200", "--end", "1704067800"];
    let run = scene.run(&[&["backfill", "--nodes", "list.toml"], &range[..]].concat());
    assert_eq!(run.code, Some(3), "{run:?}");
    let told =
        "3 series: 1 complete, 1 incomplete, 1 failed\n  incomplete   late@1m\n  failed       bad@1m\n";
    assert!(run.stdout.ends_with(told), "{run:?}");
    let one = scene.run(&[&["backfill", "--source", "file:whole.csv"], &SERIES[..]].concat());
    assert!(one.code == Some(0) && !one.stdout.contains(" series: "), "{one:?}");
}

#[test]
fn a_plan_refuses_rows_on_another_phase_as_a_fill_does() {
    let scene = Scene::new();
    let rows: String = (0..10).map(|hour| format!("{},1\n", START + 1_800 + hour * 3_600)).collect();
    let source = scene.file("x.csv", &format!("ts,close\n{rows}"));
    let told = "no row is on the grid of 1h, but all are on that of 1h+30m: use that interval";
    for command in ["plan", "backfill"] {
        for range in [&["--start", "2024-01-01", "--end", "2024-01-02"][..], &[]] {
            let words = [command, "--source", &source, "--node", "X", "--interval", "1h"];
            let run = scene.run(&[&words[..], range].concat());
            assert!(matches!(run.code, Some(1 | 2)), "{command} {range:?} {run:?}");
            assert!(format!("{}{}", run.stdout, run.stderr).contains(told), "{command} {range:?} {run:?}");
        }
    }
    let millis = "ts,close\n1704067259999,1\n1704067319999,2\n1704067379999,3\n";
    let seconds = "ts,close\n1704067259,1\n1704067319,2\n1704067379,3\n";
    for closes in [millis, seconds] {
        let scene = Scene::new();
        let closes = scene.file("y.csv", closes);
        for command in ["plan", "backfill"] {
            let run = scene.run(&[&[command, "--source", &closes], &SERIES[..]].concat());
            let told = "they are stamped with their close (--stamp close)";
            assert!(format!("{}{}", run.stdout, run.stderr).contains(told), "{command} {run:?}");
        }
        let run = fill(&scene, &closes, &["--stamp", "close", "--json"]);
        assert_eq!((run.code, &run.object()["present"]), (Some(0), &json!([[START, START + 120]])));
    }
}
