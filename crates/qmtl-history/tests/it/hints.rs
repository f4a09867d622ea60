//! What is likely meant is said where something else was typed.

use super::{Scene, minutes, program};

const SERIES: [&str; 4] = ["--node", "m", "--interval", "1m"];
const RANGE: [&str; 2] = ["--timerange", "1704067200-1704070200"];

/// A scene with fifty bars of January 2024 in the store of this name.
fn filled(store: &str) -> Scene {
    let scene = Scene::new();
    let source = scene.file("m.csv", &minutes(50));
    let fill = [&["backfill", "--store", store, "--source", &source], &SERIES[..], &RANGE].concat();
    let run = super::Run::of(program().args(fill).current_dir(scene.path("")).output().unwrap());
    assert_eq!(run.code, Some(0), "{run:?}");
    scene
}

#[test]
fn a_folder_of_stores_names_them_in_one_error_of_every_command() {
    let scene = filled("all/first one");
    let source = format!("file:{}", scene.path("m.csv").display());
    let fill = [&["--source", &source], &SERIES[..], &RANGE].concat();
    let all = |words: &[&str], store: &str| {
        let mut command = program();
        super::Run::of(
            command.args(words).args(["--store", store]).current_dir(scene.path("")).output().unwrap(),
        )
    };
    let commands: [&[&str]; 9] = [
        &["ls"],
        &["coverage"],
        &["verify"],
        &["gc"],
        &["repair"],
        &["export", "--node", "m", "--interval", "1m"],
        &["prune", "--all", "--before", "2024"],
        &[&["plan"], &fill[..]].concat(),
        &[&["backfill"], &fill[..]].concat(),
    ];
    let told = "there is no store in this folder, but its subfolders hold series: name one of them, or if series were \
                moved into them, move those back (folder: all, subfolders: first one)\n  hint: use --store 'all/first one'";
    for words in commands {
        let run = all(words, "all");
        run.fails_with(2, told);
        assert_eq!((run.stderr.matches("error:").count(), run.stdout.as_str()), (1, ""), "{run:?}");
    }
    let inside: Vec<_> = std::fs::read_dir(scene.path("all")).unwrap().collect();
    assert_eq!(inside.len(), 1, "nothing may be begun beside the store: {inside:?}");
    assert_eq!(all(&["ls"], "all/first one").code, Some(0));
}

#[test]
fn a_store_may_hold_a_folder_of_something_else() {
    let scene = filled("store");
    std::fs::create_dir(scene.path("store/notes")).unwrap();
    assert_eq!(scene.run(&["ls"]).code, Some(0));
    // Nor is a folder refused that is about to become a store.
    std::fs::create_dir_all(scene.path("new/notes/old")).unwrap();
    let run = super::Run::of(
        program().args(["ls", "--store", "new"]).current_dir(scene.path("")).output().unwrap(),
    );
    assert_eq!(run.code, Some(0), "{run:?}");
}

#[test]
fn a_series_that_ended_long_ago_says_where_and_how_its_end_is_named() {
    let scene = filled("store");
    for command in ["coverage", "export", "verify", "files"] {
        let run = scene.run(&[&[command], &SERIES[..], &["--bars", "10"]].concat());
        assert_eq!(run.code, Some(0), "{run:?}");
        let told =
            "the newest is at 2024-01-01T00:49:00Z; for the last ones use --timerange 1704069600-1704070200";
        assert!(run.stderr.contains(told), "{command}: {run:?}");
    }
    let last = scene.json(&[&["coverage"], &SERIES[..], &["--timerange", "1704069600-1704070200"]].concat());
    assert_eq!(last["rows"], 10);
    let run = scene.run(&[&["coverage"], &SERIES[..], &["--start", "2024"]].concat());
    assert!(run.code == Some(0) && !run.stdout.contains("9999"), "{run:?}");
    let run = scene.run(&[&["coverage"], &SERIES[..], &["--start", "2999"]].concat());
    run.fails_with(2, "the range begins in the future (start: 2999-01-01T00:00:00Z, now: ");
}

#[test]
fn a_file_that_does_not_reach_the_range_says_what_it_holds() {
    let scene = Scene::new();
    let source = scene.file("m.csv", &minutes(50));
    let holds = "the file holds 2024-01-01T00:00:00Z..=2024-01-01T00:49:00Z; bars outside that range need another source";
    for command in ["plan", "backfill"] {
        for range in [["--bars", "10"], ["--timerange", "20240102-20240103"]] {
            let run = scene.run(&[&[command, "--source", &source], &SERIES[..], &range].concat());
            assert!(run.stderr.contains(holds), "{command}: {run:?}");
            assert!(!run.stdout.contains("too young"), "{command}: {run:?}");
        }
    }
    let run = scene.run(&[&["backfill", "--source", &source], &SERIES[..], &RANGE].concat());
    assert!(run.code == Some(0) && !run.stderr.contains("the file holds"), "{run:?}");
}

#[test]
fn a_plan_refuses_the_file_that_a_fill_would_refuse() {
    let scene = Scene::new();
    let source = scene.file("m.csv", &minutes(50));
    let words = ["--source", &source, "--node", "m", "--interval", "5m"];
    for command in ["plan", "backfill"] {
        let run = scene.run(&[&[command], &words[..], &RANGE].concat());
        let told = format!("{}{}", run.stdout, run.stderr);
        assert!(told.contains("so it holds bars of a shorter interval than 5m"), "{run:?}");
        assert!(run.code == Some(if command == "plan" { 2 } else { 1 }), "{run:?}");
    }
}

#[test]
fn a_column_that_the_series_lacks_names_those_it_has() {
    let scene = filled("store");
    let run = scene.run(&[&["export", "--columns", "cloze"], &SERIES[..]].concat());
    run.fails_with(1, "(series: m@1m, column: cloze, columns: ts, open, high, low, close, volume)");
}

#[test]
fn how_a_text_file_was_read_is_noted_once_a_file() {
    let scene = Scene::new();
    let (first, second) = (
        scene.file("1.csv", "ts;close\n1704067200;1,5\n1704067260;2,5\n"),
        scene.file("2.csv", "ts\tclose\n1704067320\t3.5\n1704067380\t4.5\n"),
    );
    let [first_path, second_path] = ["1.csv", "2.csv"].map(|name| scene.path(name).display().to_string());
    let notes = [
        format!("{first_path}: columns are separated by semicolons"),
        format!("{first_path}: a comma stands before the fraction of numbers"),
        format!("{second_path}: columns are separated by tabs"),
    ];
    let words = ["--source", &first, "--source", &second, "--timerange", "1704067200-1704067440"];
    let lines = |words: &[&str]| {
        let run = scene.run(&[words, &SERIES[..]].concat());
        assert_eq!(run.code, Some(0), "{run:?}");
        run.stderr.lines().map(str::to_owned).filter(|line| line.contains(".csv: ")).collect::<Vec<_>>()
    };
    for command in ["plan", "backfill"] {
        assert_eq!(lines(&[&[command], &words[..]].concat()), notes);
        assert_eq!(lines(&[&[command, "-q"], &words[..]].concat()), Vec::<String>::new());
        let logged = lines(&[&[command, "--log-format", "json"], &words[..]].concat());
        let logged: Vec<serde_json::Value> =
            logged.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
        let told: Vec<_> = logged.iter().map(|event| (&event["level"], &event["message"])).collect();
        let info = serde_json::json!("INFO");
        let notes: Vec<_> = notes.iter().map(|note| serde_json::json!(note)).collect();
        assert_eq!(told, notes.iter().map(|note| (&info, note)).collect::<Vec<_>>());
    }
    let csv = scene.run(&[&["export", "--ts-format", "s"], &SERIES[..]].concat()).stdout;
    assert_eq!(csv, "ts,close\n1704067200,1.5\n1704067260,2.5\n1704067320,3.5\n1704067380,4.5\n");
}

#[test]
fn a_text_file_that_is_refused_names_the_flag_that_reads_it() {
    let plain = "ts,close\n1704067200,1.5\n1704067260,2.5\n";
    for (text, message, flags) in [
        (
            "ts,close\n01/01/2024 00:00,1.5\n01/01/2024 00:01,2.5\n",
            "say which one is right (--time-format)",
            &["--time-format", "%d/%m/%Y %H:%M"][..],
        ),
        (
            "ts;close\n1704067200;1,500\n1704067260;2,500\n",
            "say which one it is (--decimal)",
            &["--decimal", "comma"],
        ),
        (
            "1704067200,x,1.5\n1704067260,y,2.5\n",
            "name its columns in order (--columns)",
            &["--columns", "ts,,close"],
        ),
        (
            "1704067140,9\n1704067200,x,1.5\n1704067260,y,2.5\n",
            "leave the lines up to it out (--skip-lines)",
            &["--skip-lines", "1", "--columns", "ts,,close"],
        ),
        ("ts~close\n1704067200~1.5\n1704067260~2.5\n", "(--ts-column)", &["--delimiter", "~"]),
        (
            "ts,Close,close\n1704067200,1.5,\n1704067260,2.5,\n",
            "give one of them another name (--column)",
            &["--column", "=close"],
        ),
    ] {
        let scene = Scene::new();
        let source = scene.file("m.txt", text);
        let fill =
            [&["backfill", "--source", &source], &SERIES[..], &["--timerange", "1704067200-1704067320"]];
        let run = scene.run(&fill.concat());
        assert!(run.code != Some(0) && run.stderr.contains(message), "{text}\n{run:?}");
        let run = scene.run(&[&fill.concat()[..], flags].concat());
        assert_eq!(run.code, Some(0), "{text}\n{run:?}");
        let csv = scene.run(&[&["export", "--ts-format", "s"], &SERIES[..]].concat()).stdout;
        assert_eq!(csv, plain, "{text}");
    }
}

#[test]
fn sources_and_stores_in_a_wrong_form_are_refused_with_the_right_one() {
    let scene = Scene::new();
    let plan = |source: &str| scene.run(&[&["plan", "--source", source], &SERIES[..], &RANGE].concat());
    plan("binance+127.0.0.1:9").fails_with(2, "write binance+http://host:port, or binance+https://host");
    plan("file://m.csv").fails_with(2, "write file:candles.csv");
    let run = super::Run::of(program().args(["ls", "--store", "file:./x"]).output().unwrap());
    run.fails_with(2, "write DIR alone, such as ./history, or file:///path/to/DIR");
}

#[test]
fn help_is_a_command_too() {
    let help = |words: &[&str]| super::Run::of(program().args(words).output().unwrap());
    assert!(help(&["help"]).stdout.contains("Usage: "));
    assert_eq!(help(&["help", "plan"]).stdout, help(&["plan", "--help"]).stdout);
    assert_eq!(help(&["help"]).code, Some(0));
}

#[test]
fn every_line_beside_json_logs_is_json() {
    let scene = Scene::new();
    let source = scene.file("m.csv", &minutes(50));
    let fill = ["backfill", "--log-format", "json", "--source", &source, "--timerange", "20240101-20240102"];
    let failing = ["ls", "--log-format", "json", "--json", "--store", "./none"];
    let filled = scene.run(&[&fill[..], &SERIES].concat());
    let failed = super::Run::of(program().args(failing).current_dir(scene.path("")).output().unwrap());
    let lines = |text: &str| -> Vec<serde_json::Value> {
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let notes = lines(&filled.stderr);
    assert!(notes.len() >= 2 && notes.iter().all(|note| note["level"] == "INFO"), "{notes:?}");
    assert!(notes[0]["message"].as_str().unwrap().starts_with("m@1m: 1,440 bars missing"), "{notes:?}");
    let [error] = &lines(&failed.stderr)[..] else { panic!("{failed:?}") };
    assert_eq!((&error["level"], &error["error"]), (&"ERROR".into(), &failed.object()["error"]));
}
