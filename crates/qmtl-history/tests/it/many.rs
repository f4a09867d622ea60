//! Many series in one run: a list in TOML, a shared source, one object or an array.

use serde_json::json;

use super::{Scene, minutes};

/// A file of two symbols, of which one lacks a bar, and a list of their series.
fn two() -> Scene {
    let scene = Scene::new();
    scene.file(
        "all.csv",
        "ts,symbol,close\n1704067200,AB,1\n1704067200,CD,2\n1704067260,AB,3\n1704067260,CD,4\n\
         1704067320,AB,5\n1704067380,AB,6\n1704067380,CD,7\n",
    );
    scene.file(
        "series.toml",
        "interval = \"1m\"\nsource = \"file:all.csv\"\nsymbol_column = \"symbol\"\n\n\
         [[series]]\nnode = \"first\"\nsymbol = \"AB\"\n\n[[series]]\nnode = \"CD\"\n",
    );
    scene
}

const FILL: [&str; 7] =
    ["backfill", "--nodes", "series.toml", "--start", "1704067200", "--end", "1704067440"];

#[test]
fn a_list_of_series_is_filled_in_one_run() {
    let scene = two();
    let filled = scene.json(&FILL);
    let [first, second] = filled.as_array().unwrap().as_slice() else { panic!("two series: {filled}") };
    assert_eq!((&first["node_id"], &first["rows_written"]), (&json!("first"), &json!(4)));
    assert_eq!(
        (&second["node_id"], &second["known_empty"]),
        (&json!("CD"), &json!([[1_704_067_320, 1_704_067_320]]))
    );
    let covered = scene.json(&["coverage"]);
    assert_eq!(covered.as_array().unwrap().len(), 2);
    let run = scene.run(&["verify", "--nodes", "series.toml"]);
    assert_eq!(run.code, Some(0), "{run:?}");
}

#[test]
fn a_list_that_is_no_toml_is_told_without_empty_lines() {
    let scene = two();
    scene.file("series.toml", "interval = \n");
    let run = scene.run(&FILL);
    run.fails_with(2, "is not valid; backfill --help shows its form");
    assert!(!run.stderr.contains("\n\n") && run.stderr.contains("line 1"), "{run:?}");
}

#[test]
fn symbols_are_given_on_the_command_line_too() {
    let scene = two();
    let flags = [
        "backfill",
        "--node",
        "first",
        "--node",
        "CD",
        "--interval",
        "1m",
        "--source",
        "all.csv",
        "--symbol-column",
        "symbol",
        "--symbol",
        "first=AB",
        "--start",
        "1704067200",
        "--end",
        "1704067440",
    ];
    assert_eq!(scene.json(&flags)[0]["rows_written"], 4);
}

#[test]
fn a_series_that_fails_does_not_stop_the_others() {
    let scene = two();
    let list = std::fs::read_to_string(scene.path("series.toml")).unwrap();
    scene.file("series.toml", &format!("{list}\n[[series]]\nnode = \"none\"\nsymbol = \"EF\"\n"));
    let run = scene.run(&FILL);
    run.fails_with(3, "");
    assert!(run.stdout.contains("stored       4 rows"), "{run:?}");
    assert!(run.stdout.contains("no row of this symbol"), "{run:?}");
}

#[test]
fn a_damaged_series_does_not_hide_what_the_others_got() {
    let scene = two();
    scene.json(&FILL);
    let listing = scene.json(&["files", "--node", "CD", "--interval", "1m"]);
    std::fs::write(listing["files"][0]["path"].as_str().unwrap(), "damaged").unwrap();
    let list = std::fs::read_to_string(scene.path("series.toml")).unwrap();
    scene.file("series.toml", &list.replace("first", "third"));
    let run = scene.run(&[&FILL[..], &["--json"]].concat());
    assert_eq!(run.code, Some(3), "{run:?}");
    let filled = run.object();
    assert_eq!((&filled[0]["node_id"], &filled[0]["rows_written"]), (&json!("third"), &json!(4)));
    let error = filled[1]["failed"][0]["error"].as_str().unwrap();
    assert!(error.contains("restore the file from a copy"), "{error}");
    assert_eq!(filled[1]["missing"], json!([[1_704_067_200, 1_704_067_380]]), "nothing is known of it");
}

#[test]
fn a_damaged_series_stands_as_an_error_beside_the_others() {
    let scene = two();
    scene.json(&FILL);
    let listing = scene.json(&["files", "--node", "CD", "--interval", "1m"]);
    let path = listing["files"][0]["path"].as_str().unwrap().to_owned();
    std::fs::write(&path, "damaged").unwrap();
    for command in ["ls", "coverage"] {
        let run = scene.run(&[command, "--json"]);
        assert_eq!(run.code, Some(1), "{run:?}");
        let object = run.object();
        let series = if command == "ls" { &object["series"] } else { &object };
        let damaged = &series[0];
        assert_eq!((&damaged["node_id"], &damaged["interval"]), (&json!("CD"), &json!(60)), "{damaged}");
        assert_eq!(damaged["error"]["kind"], "corrupt");
        assert_eq!((&series[1]["node_id"], &series[1]["rows"]), (&json!("first"), &json!(4)));
        let run = scene.run(&[command]);
        assert!(run.stdout.contains("first"), "{run:?}");
        run.fails_with(1, "restore the file from a copy");
    }
    scene
        .run(&["coverage", "--node", "CD", "--interval", "1m"])
        .fails_with(1, "restore the file from a copy");
}

#[test]
fn a_series_whose_name_is_damaged_stands_as_an_error_beside_the_others() {
    let scene = two();
    scene.json(&FILL);
    let listing = scene.json(&["files", "--node", "CD", "--interval", "1m"]);
    let file = std::path::PathBuf::from(listing["files"][0]["path"].as_str().unwrap());
    let name = file.ancestors().map(|folder| folder.join("_series.json")).find(|file| file.exists()).unwrap();
    std::fs::write(name, "damaged").unwrap();
    for command in ["ls", "coverage", "files", "verify"] {
        let run = scene.run(&[command, "--json"]);
        assert_eq!(run.code, Some(1), "{run:?}");
        let object = run.object();
        let series = if command == "ls" { &object["series"] } else { &object };
        assert_eq!(series[0]["node_id"], "first", "{series}");
        assert!(series[1]["error"]["message"].as_str().unwrap().contains("the file that names the series"));
        let run = scene.run(&[command]);
        assert_eq!(run.code, Some(1), "{run:?}");
        let told = if command == "verify" { &run.stdout } else { &run.stderr };
        assert!(told.contains("the file that names the series is damaged"), "{run:?}");
    }
}

#[test]
fn a_sparse_series_needs_its_user_to_vouch_for_it() {
    let scene = Scene::new();
    let source = scene.file("sparse.csv", "ts,close\n1704067200,1\n1704067380,2\n");
    let fill = [
        "backfill",
        "--node",
        "s",
        "--interval",
        "1m",
        "--source",
        &source,
        "--range",
        "1704067200..=1704067380",
    ];
    let run = scene.run(&fill);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.stdout.contains("vouch that it is a sparse series (--sparse)"), "{run:?}");
    assert_eq!(run.stderr, "s@1m: 4 bars missing in 1 window\n");
    let filled = scene.json(&[&fill[..], &["--sparse"]].concat());
    assert_eq!(
        (&filled["rows_written"], &filled["known_empty"]),
        (&json!(2), &json!([[1_704_067_260, 1_704_067_320]]))
    );
}

#[test]
fn two_nodes_are_not_filled_from_one_series() {
    let scene = Scene::new();
    let source = scene.file("a.csv", &minutes(10));
    let fill =
        ["backfill", "--interval", "1m", "--start", "1704067200", "--end", "1704067800", "--source", &source];
    let run = scene.run(&[&fill[..], &["--node", "BTCUSDT", "--node", "ETHUSDT"]].concat());
    run.fails_with(2, "two nodes would get the same rows of one file; say which of its columns");
    run.fails_with(2, "a.csv, nodes: BTCUSDT, ETHUSDT)");
    assert!(!scene.path("store").exists());
    // In a list as well, whatever the path is written like.
    scene.file(
        "series.toml",
        "interval = \"1m\"\n[[series]]\nnode = \"A\"\nsource = \"file:a.csv\"\n[[series]]\nnode = \"B\"\nsource = \"file:./a.csv\"\n",
    );
    scene.run(&FILL).fails_with(2, "nodes: A, B)");
}

#[test]
fn files_of_one_series_are_one_source() {
    let scene = Scene::new();
    let day = |name: &str, from: i64, until: i64, lacking: i64| {
        let lines = (from..until)
            .filter(|hour| *hour != lacking)
            .map(|hour| format!("{},{hour}\n", 1_704_067_200 + hour * 3_600));
        scene.file(name, &std::iter::once("ts,close\n".to_owned()).chain(lines).collect::<String>())
    };
    // Of each day an hour is missing: the last one, one inside, and the first one.
    let (one, two, three) = (day("1.csv", 0, 24, 23), day("2.csv", 24, 48, 30), day("3.csv", 48, 72, 48));
    let fill = ["backfill", "--node", "a", "--interval", "1h", "--timerange", "20240101-20240104"];
    let sources = ["--source", &one, "--source", &two, "--source", &three];
    let filled = scene.json(&[&fill[..], &sources].concat());
    let hour = |hour: i64| json!([1_704_067_200 + hour * 3_600, 1_704_067_200 + hour * 3_600]);
    assert_eq!(
        (&filled["rows_written"], &filled["known_empty"], &filled["missing"]),
        (&json!(69), &json!([hour(23), hour(30), hour(48)]), &json!([]))
    );
}

#[test]
fn limits_are_shared_and_small_ones_suffice() {
    let scene = Scene::new();
    let lists = ["a", "b", "c"].map(|node| {
        let source = scene.file(&format!("{node}.csv"), &minutes(5_000));
        format!("[[series]]\nnode = {node:?}\nsource = {source:?}\n")
    });
    scene.file("series.toml", &format!("interval = \"1m\"\n{}", lists.concat()));
    let fill = [
        "backfill",
        "--nodes",
        "series.toml",
        "--start",
        "1704067200",
        "--end",
        "1704367200",
        "--concurrency",
        "2",
        "--memory",
        "64KB",
        "--window-bars",
        "100",
    ];
    let filled = scene.json(&fill);
    assert!(filled.as_array().unwrap().iter().all(|series| series["rows_written"] == 5_000), "{filled}");
    assert_eq!(scene.run(&["verify"]).code, Some(0));
}
