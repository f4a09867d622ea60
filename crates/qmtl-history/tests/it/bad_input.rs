//! What is refused, before anything is read or written, and in which words.

use std::process::Command;

use serde_json::json;

use super::{Run, Scene, program};

/// A fill of the word `series` without its range.
const FILL: [&str; 7] = ["backfill", "--source", "file:x.csv", "--node", "x", "--interval", "1m"];

#[track_caller]
fn refused(words: &[&str], message: &str) {
    let scene = Scene::new();
    let run = scene.run(words);
    run.fails_with(2, message);
    assert_eq!(run.stdout, "");
    assert!(!scene.path("store").exists(), "nothing may be written");
    let run = scene.run(&[words, &["--json"]].concat());
    assert_eq!(run.code, Some(2));
    let error = &run.object()["error"];
    assert_eq!(
        (error["kind"].as_str(), error["exit_code"].as_i64()),
        (Some("invalid_input"), Some(2)),
        "{error}"
    );
}

fn fill(more: &[&'static str]) -> Vec<&'static str> {
    [&FILL[..], more].concat()
}

/// A fill from an exchange, which has no end that could be taken.
fn fill_from_exchange(more: &[&'static str]) -> Vec<&'static str> {
    let exchange = ["backfill", "--source", "binance+http://127.0.0.1:9", "--node", "x", "--interval", "1d"];
    [&exchange[..], more].concat()
}

#[test]
fn intervals() {
    let with = |interval: &'static str| {
        ["backfill", "--source", "file:x", "--node", "x", "--last", "1d", "--interval", interval]
    };
    refused(&with("0m"), "it must last from 1 second to 3650 days (value: \"0m\", flag: --interval)");
    refused(
        &with("1M"),
        "M would be a month, which has no fixed length: keep days, 1d, and make months of them; minutes are written m (value: \"1M\"",
    );
    refused(
        &with("5x"),
        "use a number and one of s, m, h, d, w, such as 60s, 5m, 1h, 1d, 1w; a phase stands behind a +, such as 1d+16h (value: \"5x\"",
    );
    refused(&with("60"), "the unit is missing; seconds are written s, such as 60s (value: \"60\"");
}

#[test]
fn ranges() {
    refused(
        &fill(&["--start", "20240102", "--end", "20240102"]),
        "a range must start before it ends (start: 2024-01-02T00:00:00Z, end: 2024-01-02T00:00:00Z)",
    );
    refused(&fill(&["--timerange", "20240601-20240101"]), "a range must start before it ends");
    refused(&fill(&["--range", "20240601..=20240101"]), "a range's first bar must not be after its last");
    refused(&fill(&["--timerange", "2024-01-01"]), "not a time range: use 20240101-20240601 or 20240101-");
    refused(&fill(&["--start", "yesterday"]), "not a time: use ISO 8601 such as 2024-01-01T00:00:00Z");
    refused(&fill(&["--start", "1677-12-31"]), "timestamp is outside the years 1678 to 9999");
    refused(
        &fill(&["--start", "253402300800"]),
        "timestamp is outside the years 1678 to 9999 (seconds: 253402300800)",
    );
    refused(&fill(&["--start", "9998-01-01", "--end", "9999-01-01"]), "no bar of the range has closed yet");
    refused(&fill(&["--bars", "0"]), "must be at least 1");
}

#[test]
fn one_way_to_name_a_range_at_a_time() {
    refused(&fill(&["--last", "1d", "--bars", "5"]), "cannot be used with");
    refused(&fill(&["--last", "1d", "--start", "20240101"]), "cannot be used with");
    refused(&fill(&["--timerange", "20240101-", "--end", "20240201"]), "cannot be used with");
    refused(
        &fill_from_exchange(&[]),
        "a fill from anything but files needs a start: use --start TIME [--end TIME], --timerange 20240101-20240601, --last 30d",
    );
    refused(&fill_from_exchange(&["--end", "20240101"]), "a fill from anything but files needs a start");
}

#[test]
fn more_windows_than_anybody_means() {
    let many = fill(&["--timerange", "20200101-20240101", "--window-bars", "100"]);
    refused(&many, "the range has more than 10000 windows (windows: 21039, window_bars: 100)");
    refused(&many, "hint: confirm with --yes");
    // With --yes it goes on, to find that there is no such file.
    Scene::new().run(&[&many[..], &["--yes"]].concat()).fails_with(2, "x.csv");
}

#[test]
fn node_ids_and_series() {
    let long = "n".repeat(1_025);
    refused(
        &["backfill", "--source", "file:x", "--node", &long, "--interval", "1m", "--last", "1d"],
        "a node id must not be longer than 1024 bytes (bytes: 1025",
    );
    refused(&["coverage", "--node", "", "--interval", "1m"], "a node id must not be empty");
    refused(&["coverage", "--node", "x"], "--interval <INTERVAL>");
    refused(
        &["verify", "--node", "x", "--node", "x", "--interval", "1m"],
        "a series is named twice (series: x@1m)",
    );
    refused(
        &["plan", "--source", "file:x", "--last", "1d"],
        "no series is named: use --node ID --interval 5m, or --nodes FILE",
    );
    refused(&["coverage", "--nodes", "absent.toml"], "cannot read the list of series (nodes: absent.toml)");
}

#[test]
fn sources() {
    let with = |source: &'static str| {
        ["backfill", "--node", "x", "--interval", "1m", "--last", "1d", "--source", source]
    };
    refused(
        &with("kraken"),
        "no such source: use binance, binance-archive, coinbase, one of them at another address (binance+http://host:port)",
    );
    refused(&with("binance+host:1"), "write binance+http://host:port");
    refused(&with("binance+http://me:canary@host"), "it holds a user or a password");
    refused(
        &[
            "backfill",
            "--node",
            "x",
            "--interval",
            "90s",
            "--last",
            "1d",
            "--source",
            "binance",
            "--rate",
            "0",
        ],
        "use a number of requests a second from 0.002 to 1000000, such as 5 or 0.5",
    );
    refused(
        &["backfill", "--node", "x", "--interval", "1m", "--last", "1d"],
        "no source is named: use --source binance or --source file:PATH (series: x@1m)",
    );
    refused(&with("okk.csv"), "there is no such file; check its path (source: okk.csv)");
    let scene = Scene::new();
    scene.file("list.toml", "interval = \"1m\"\n[[series]]\nnode = \"x\"\n");
    scene
        .run(&["backfill", "--nodes", "list.toml", "--last", "1d"])
        .fails_with(2, "no source is named: write source = \"binance\" in the list of series (series: x@1m)");
    refused(&fill(&["--last", "1d", "--ts-unit", "h"]), "use s, ms, us or ns");
    refused(
        &fill(&["--last", "1d", "--symbol-column", "s", "--symbol", "y=Y"]),
        "this names no node of the command",
    );
    refused(&fill(&["--last", "1d", "--memory", "much"]), "use a number of bytes such as 64MB or 1GB");
    Scene::new().run(&fill(&["--last", "1d"])).fails_with(2, "x.csv");
}

#[test]
fn flags_that_a_list_of_series_takes_the_place_of() {
    let scene = Scene::new();
    let list = "interval = \"1m\"\nsource = \"file:m.csv\"\n[[series]]\nnode = \"x\"\n";
    scene.file("list.toml", list);
    scene.file("m.csv", &super::minutes(5));
    let plan = |words: &[&str]| {
        let range = ["--timerange", "1704067200-1704067500"];
        scene.run(&[&["plan", "--nodes", "list.toml"], &range[..], words].concat())
    };
    assert_eq!(plan(&[]).code, Some(0));
    for (words, told) in [
        (&["--symbol", "UNKNOWN=X"][..], "--symbol: write symbol = \"BTCUSDT\" there (nodes: list.toml)"),
        (&["--symbol", "x=X"], "--symbol: write symbol ="),
        (&["--product", "x=X"], "--product: write product ="),
        (&["--source", "binance"], "--source: write source = \"binance\""),
        (&["--source-format", "csv"], "--source-format: write source_format ="),
        (&["--ts-column", "ts"], "--ts-column: write ts_column ="),
        (&["--ts-unit", "s"], "--ts-unit: write ts_unit ="),
        (&["--symbol-column", "s"], "--symbol-column: write symbol_column ="),
        (&["--column-type", "volume=int64"], "--column-type: write column_types ="),
        (&["--max-unpacked", "1GB"], "--max-unpacked: write max_unpacked ="),
        (&["--sparse"], "--sparse: write sparse = true there"),
    ] {
        plan(words).fails_with(2, &format!("with --nodes, the file takes the place of {told}"));
    }
}

#[test]
fn what_is_lacking_is_named_to_machines_too() {
    let run = Scene::new().run(&["backfill", "--node", "x", "--json"]);
    assert_eq!(
        run.object()["error"]["message"],
        "the following required arguments were not provided: --interval <INTERVAL>"
    );
}

#[test]
fn usage_errors_are_log_lines_where_those_are_json() {
    let odd = "x\u{1b}[31m\nerror: forged";
    let cases: [(&[&str], &str); 5] = [
        (&["--log-format", "json", "plan", "--bogus"], "unexpected argument '--bogus' found"),
        (&["plan", "--last", "1d", "--bogus", "--log-format=json"], "unexpected argument '--bogus' found"),
        (&["--log-format", "json", "coverage", "--node", "x"], "--interval <INTERVAL>"),
        (&["--log-format", "json", odd], "unrecognized subcommand"),
        (&["--log-format", "json"], "requires a subcommand"),
    ];
    for (words, told) in cases {
        for json in [&[][..], &["--json"]] {
            let run = Run::of(program().args(json).args(words).output().unwrap());
            run.fails_with(2, told);
            let lines: Vec<serde_json::Value> =
                run.stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            let [line] = &lines[..] else { panic!("{run:?}") };
            assert_eq!((&line["level"], &line["target"]), (&json!("ERROR"), &json!("qmtl_history")));
            assert_eq!(
                (&line["error"]["kind"], &line["error"]["exit_code"]),
                (&json!("invalid_input"), &json!(2))
            );
            assert_eq!(line["message"], line["error"]["message"]);
            match json {
                [] => assert_eq!(run.stdout, ""),
                _ => assert_eq!(run.object()["error"], line["error"]),
            }
        }
    }
}

#[test]
fn stores() {
    let run = |store: &str| Run::of(program().args(["ls", "--store", store]).output().unwrap());
    let unreachable = "questdb://admin:canary@127.0.0.1:1/qdb?http=1";
    if cfg!(feature = "questdb") {
        run(unreachable).fails_with(4, "QuestDB cannot be reached (server: questdb://127.0.0.1:1/qdb)");
        run("questdb://admin:canary@h/qdb?tabel=x").fails_with(2, "parameter: \"tabel\"");
    } else {
        run(unreachable).fails_with(2, "--features questdb");
    }
    assert!(!run(unreachable).stderr.contains("canary"));
    if !cfg!(feature = "s3") {
        run("s3://bucket/history").fails_with(2, "--features s3");
    }
    run("gs://bucket/history").fails_with(
        2,
        "hint: use --store DIR, a folder of Parquet files on a local disk, or s3://bucket/prefix",
    );
    Run::of(program().arg("ls").output().unwrap())
        .fails_with(2, "no store is named\n  hint: use --store DIR, or set QMTL_HISTORY_STORE");

    let scene = Scene::new();
    scene.run(&["ls"]).fails_with(4, "there is no store in this folder; check the path");
    std::fs::write(scene.path("store"), "a file").unwrap();
    scene.run(&["coverage"]).fails_with(4, "open the store");
    let run = scene.run(&["ls", "--json"]);
    assert_eq!((run.code, run.object()["error"]["exit_code"].as_i64()), (Some(4), Some(4)));
}

#[test]
fn an_address_becomes_no_path_and_shows_no_password() {
    let hint = "hint: write questdb://user:password@host:port";
    let fill: &[&str] = &[
        "plan",
        "--source",
        "binance-archive",
        "--node",
        "x",
        "--interval",
        "1m",
        "--last",
        "1d",
        "--store",
        "s",
    ];
    let backfill = [&["backfill"], &fill[1..fill.len() - 2]].concat();
    let mut cases: Vec<(Vec<&str>, &str)> = [
        "tcp::addr=h;username=a;password=sekret;",
        "tcps::addr=h:9009;token=sekret",
        "host=h user=a password=sekret",
        "password=sekret host=h port=8812",
        "user=a;password=sekret;host=h",
        "Server=h;Port=8812;User Id=a;Password=sekret;",
        "user%3Asekret%40h",
        "file:///x;password=sekret",
        "host=h password=sekret url=http://x",
    ]
    .into_iter()
    .map(|store| ([&backfill[..], &["--store", store]].concat(), hint))
    .collect();
    cases.push(([&backfill[..], &["--store", "-"]].concat(), "hint: use --store DIR, or ./- for"));
    for folder in ["s3://AK:sekret@b/x", "questdb://u:sekret@h", "host=h password=sekret"] {
        cases.push(([fill, &["--archive-folder", folder]].concat(), "use --archive-folder DIR"));
        cases.push((vec!["demo", "--keep", folder], "use --keep DIR"));
    }
    for out in ["questdb:admin:sekret@h", "user%3Asekret%40h", "user=a;password=sekret"] {
        cases.push((
            vec!["export", "--node", "x", "--interval", "1m", "--store", "s", "--out", out],
            "use --out FILE",
        ));
    }
    let folder = tempfile::tempdir().unwrap();
    for (words, told) in cases {
        for json in [&[][..], &["--json"]] {
            let run = Run::of(program().args(&words).args(json).current_dir(folder.path()).output().unwrap());
            run.fails_with(2, told);
            assert!(!format!("{run:?}").contains("sekret"), "{words:?}: {run:?}");
            assert_eq!(json.is_empty(), run.stdout.is_empty(), "{run:?}");
        }
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing may be made");
}

#[test]
fn an_open_start_is_no_flag() {
    let scene = Scene::new();
    std::fs::create_dir(scene.path("store")).unwrap();
    let x = ["coverage", "--node", "x", "--interval", "1d", "--timerange", "-19700103"];
    assert_eq!(scene.json(&x)["missing"][0][1], 86_400);
    refused(
        &fill_from_exchange(&["--timerange", "-20240601"]),
        "a fill from anything but files needs a start",
    );
}

#[cfg(unix)]
#[test]
fn a_limit_on_file_sizes_is_an_error_with_a_remedy() {
    let scene = Scene::new();
    scene.file("minutes.csv", &super::minutes(20_000));
    let fill = [
        "backfill",
        "--source",
        "minutes.csv",
        "--node",
        "x",
        "--interval",
        "1m",
        "--timerange",
        "20240101-20240114",
    ];
    let fill = scene.command(&fill);
    let limited = Command::new("sh")
        .args(["-c", "ulimit -f 32 && exec \"$0\" \"$@\""])
        .arg(fill.get_program())
        .args(fill.get_args())
        .current_dir(scene.0.path())
        .output()
        .unwrap();
    let run = Run::of(limited);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.stdout.contains("a limit on file sizes is reached: raise it, then run again"), "{run:?}");
}

#[cfg(feature = "binance")]
#[test]
fn flags_of_files_beside_an_exchange() {
    let scene = Scene::new();
    let range = ["--node", "BTCUSDT", "--interval", "1h", "--start", "2024-01-01", "--end", "2024-01-02"];
    for flag in
        [&["--zone", "Europe/Berlin"][..], &["--delimiter", ";"], &["--no-header"], &["--stamp", "close"]]
    {
        let told = format!("{} applies to files only, and no source is a file; leave it out", flag[0]);
        scene.run(&[&["plan", "--source", "binance"], flag, &range].concat()).fails_with(2, &told);
    }
    // In a list, what stands at the top is for the series that have files.
    let list = |own: &str| {
        let top = "interval = \"1h\"\nsource = \"binance\"\nzone = \"Europe/Berlin\"\n";
        scene.file("list.toml", &format!("{top}[[series]]\nnode = \"BTCUSDT\"\n{own}"));
        scene.run(&["plan", "--nodes", "list.toml", "--start", "2024-01-01", "--end", "2024-01-02"])
    };
    assert_eq!(list("").code, Some(0));
    let told = "skip_lines applies to files only, and no source is a file; leave it out (entry: 1";
    list("skip_lines = 2\n").fails_with(2, told);
    // One of several is.
    let source = scene.file("BTCUSDT-1h.csv", "ts,close\n2024-01-01 01:00,1\n2024-01-01 02:00,2\n");
    let run = scene
        .run(&[&["plan", "--source", &source, "binance", "--zone", "Europe/Berlin"], &range[..]].concat());
    assert_eq!(run.code, Some(0), "{run:?}");
}

#[test]
fn of_bars_that_can_be_made_of_stored_ones_the_hint_says_so() {
    let scene = Scene::new();
    let source = scene.file("x.csv", &super::minutes(10));
    scene.json(&["backfill", "--source", &source, "--node", "y", "--interval", "1m"]);
    let hint = "it has y@1m: export that and resample it to 5m, for example with pandas";
    scene.run(&["export", "--node", "y", "--interval", "5m"]).fails_with(1, hint);
    for other in ["90s", "5m+30s"] {
        scene.run(&["export", "--node", "y", "--interval", other]).fails_with(1, "hint: it has y@1m\n");
    }
}

#[test]
fn a_series_that_the_store_lacks() {
    let scene = Scene::new();
    std::fs::create_dir(scene.path("store")).unwrap();
    let x = ["--node", "x", "--interval", "1m"];
    for command in ["export", "verify", "files"] {
        scene
            .run(&[&[command], &x[..]].concat())
            .fails_with(1, "the store has no such series (series: x@1m)");
    }
    let coverage = scene.json(&[&["coverage"], &x[..]].concat());
    assert_eq!((coverage["rows"].as_i64(), coverage["present"].as_array().map(Vec::len)), (Some(0), Some(0)));
    scene
        .run(&["export"])
        .fails_with(2, "an export is of one series: use --node ID --interval 5m (series: 0)");
    scene.run(&["export", "--json"]).fails_with(2, "--json and bars cannot share stdout: use --out FILE");
    scene.run(&["export", "--out", "x.xlsx"]).fails_with(2, "the extension names no format");
}

#[test]
fn rows_of_another_series_or_unit_are_refused_with_the_remedy() {
    let scene = Scene::new();
    let fill = |content: &str, more: &[&str]| {
        let source = scene.file("x.csv", content);
        let words = [
            "backfill",
            "--source",
            &source,
            "--node",
            "AAL",
            "--interval",
            "1h",
            "--timerange",
            "20240101-20240102",
        ];
        scene.run(&[&words[..], more].concat())
    };
    let two = "date,close,Name\n2024-01-01,1,AAL\n2024-01-01 01:00,2,AAL\n2024-01-01,3,AAPL\n2024-01-01 01:00,4,AAPL\n";
    fill(two, &[]).fails_with(2, "say which column tells them apart (--symbol-column)");
    let run = fill(two, &["--symbol-column", "Name", "--json"]);
    assert_eq!((run.code, &run.object()["rows_written"]), (Some(3), &json!(2)));

    let mixed = "ts,close\n1704074400,1\n1704078000000,2\n";
    fill(mixed, &["--ts-unit", "ms"]).fails_with(1, "this value can only be seconds; leave the unit out");
    assert_eq!(fill(mixed, &["--json"]).object()["rows_written"], 2);
}

#[test]
fn a_year_is_a_year_and_few_digits_are_no_time() {
    let scene = Scene::new();
    let source = scene.file("x.csv", "ts,close\n1704067200,1\n1704070800,2\n");
    let plan = ["plan", "--source", &source, "--node", "x", "--interval", "1h", "--start"];
    let planned = scene.json(&[&plan[..], &["2024", "--end", "20240102"]].concat());
    assert_eq!(planned["gaps"], json!([[1_704_067_200, 1_704_150_000]]));
    scene.run(&[&plan[..], &["202401"]].concat()).fails_with(2, "too few digits for epoch seconds");
    scene
        .run(&[&plan[..], &["1704067200000"]].concat())
        .fails_with(2, "divide it by 1000, or write the time in ISO 8601");
}

#[test]
fn arguments_that_are_quoted_move_no_cursor_and_forge_no_line() {
    let odd = "x\u{1b}[31m\nerror: forged";
    let words: [&[&str]; 4] = [
        &["ls", odd],
        &["coverage", "--last", odd],
        &["plan", "--start", odd, "--node", "x", "--interval", "1m"],
        &[odd],
    ];
    for words in words {
        for json in [&[][..], &["--json"]] {
            let run = Scene::new().run(&[words, json].concat());
            assert_eq!(run.code, Some(2), "{run:?}");
            assert!(run.stderr.contains("forged"), "{run:?}");
            for output in [&run.stderr, &run.stdout] {
                assert!(!output.contains('\u{1b}'), "{words:?}: {run:?}");
                assert!(!output.lines().any(|line| line.starts_with("error: forged")), "{words:?}: {run:?}");
            }
        }
    }
}

/// Root may start as many threads as it likes, so that somebody else tries.
#[cfg(target_os = "linux")]
#[test]
fn threads_that_cannot_be_started_are_an_error_with_a_remedy() {
    let program = env!("CARGO_BIN_EXE_qmtl-history");
    // None at all, and some of those that are needed.
    for most in ["--nproc=1", "--nproc=2", "--nproc=3"] {
        let mut limited = Command::new("setpriv");
        limited.args(["--reuid", "65533", "--clear-groups", "prlimit", most]);
        let output = limited.args([program, "ls", "--store", "/nowhere"]).output();
        // Where this user may not become another one, or not see the program, there is nothing to try.
        let Ok(output) = output else { continue };
        let run = Run::of(output);
        if run.stderr.starts_with("setpriv:") || run.stderr.starts_with("prlimit:") {
            println!("not tried: {}", run.stderr);
            continue;
        }
        run.fails_with(
            1,
            "cannot start the threads that the program needs; end other programs, or raise the limits",
        );
        assert!(!run.stderr.contains("panicked"), "{run:?}");
    }
}
