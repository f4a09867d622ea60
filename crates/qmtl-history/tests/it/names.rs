//! Node ids that would break paths, tables and keys, through every command.

use super::{CANDLES, SPAN, Scene, bars, read};

#[test]
fn any_node_id_goes_through_every_command() {
    let long = format!("x{}", "é/".repeat(333));
    assert_eq!(long.len(), 1_000);
    let scene = Scene::new();
    // The file's own name tells a symbol, which a node that is called like one must not contradict.
    let source = scene.file("candles.csv", &read(CANDLES));
    for node in
        ["blake3:ab/../\"x\"", "🦀", &long, "ohlcv:binance:ADA/BTC:5m", "-- 'x'; drop", "a=b", "..", "A", "a"]
    {
        // An id may look like a flag, which the equals sign keeps apart.
        let node_flag = format!("--node={node}");
        let series = [node_flag.as_str(), "--interval", "5m"];
        let words = |command: &'static str| [&[command], &series[..]].concat();
        let fill = |command| [&words(command)[..], &["--source", &source], &SPAN[..]].concat();
        assert_eq!(scene.json(&fill("plan"))["node_id"], node);
        let filled = scene.json(&fill("backfill"));
        assert_eq!((&filled["node_id"], filled["rows_written"].as_u64()), (&node.into(), Some(5_720)));
        assert_eq!(scene.json(&fill("backfill"))["fetch_requests"], 0);
        assert_eq!(scene.json(&words("coverage"))["present"].as_array().unwrap().len(), 6);
        assert!(!scene.json(&words("files"))["files"].as_array().unwrap().is_empty());
        assert_eq!(scene.json(&words("verify"))["found"], 0);
        let csv = scene.run(&[&words("export")[..], &["--ts-format", "ms"]].concat()).stdout;
        assert_eq!(bars(&csv, 1_000), bars(&read(CANDLES), 1_000));
        for command in ["plan", "backfill"] {
            let run = scene.run(&fill(command));
            assert!(run.code == Some(0) && run.stdout.contains(node), "{run:?}");
        }
        for command in ["coverage", "files", "verify"] {
            assert_eq!(scene.run(&words(command)).code, Some(0));
        }
        let listed = scene.json(&["ls"]);
        assert!(
            listed["series"].as_array().unwrap().iter().any(|series| series["node_id"] == node),
            "{node}"
        );
    }
    assert_eq!(scene.json(&["ls"])["series"].as_array().unwrap().len(), 9);
    assert_eq!(scene.run(&["verify"]).code, Some(0));
}

/// A password in an address is shown nowhere, wherever the address stands and however it is spelled.
#[test]
fn no_message_repeats_a_secret() {
    const SECRET: &str = "C4nary";
    let series = ["--node", "x", "--interval", "1m", "--last", "5d"];
    let addresses = [
        "questdb://admin:C4nary@127.0.0.1:1/qdb",
        "questdb://admin:12/C4nary@127.0.0.1:1/qdb",
        "questdb://admin:12?C4nary@127.0.0.1:1/qdb",
        "questdb://127.0.0.1:1/qdb?http=u:C4nary@h:9000",
        "questdb://127.0.0.1:1/qdb?password=C4nary",
        "questdb:admin:C4nary@host",
        "postgresql://admin:C4nary@host/qdb",
        "s3://key:C4nary@bucket/x",
        "https://u:C4nary@host/x?key=C4nary",
        "questdb//admin:C4nary@host/qdb",
        "//admin:C4nary@host/qdb",
        "admin:C4nary@host:8812/qdb",
        "mysql:admin:C4nary@host",
        "questdb://admin:C4nary",
        "host=h user=u password=C4nary",
        "questdb://admin:x' y C4nary@host/qdb",
        "questdb://admin:x\" y C4nary@host/qdb",
        "questdb://admin:x\n` y C4nary@host/qdb",
        "questdb://admin:x,C4nary@host/qdb",
        "questdb://127.0.0.1:1/qdb?key=x,C4nary",
        "questdb：//admin：C4nary＠127.0.0.1:1/qdb",
        "http://admin：C4nary＠127.0.0.1:1/qdb",
        "mysql：admin：C4nary＠host",
        "questdb://127.0.0.1:1/qdb;password=x;C4nary",
        "./folder;password=x;C4nary",
        "./folder;PWD=C4nary",
    ];
    let scene = Scene::new();
    for address in addresses {
        let source = format!("binance+{address}");
        let option = format!("--color={address}");
        let rest = address.split_once("//").map(|(_, rest)| rest);
        let without_scheme = rest.filter(|rest| rest.contains(['@', '?'])).unwrap_or(address);
        let export = ["export", "--node", "x", "--interval", "1m"];
        let (out, columns) =
            ([&export[..], &["--out", address]].concat(), [&export[..], &["--columns", address]].concat());
        let (file, column) = (format!("file:{address}"), format!("C={address}"));
        let places: [&[&str]; 20] = [
            &["ls", "--store", address],
            &["ls", "--json", "--store", address],
            &["-vvv", "ls", "--log-format", "json", "--store", address],
            &[address],
            &["ls", address],
            &["ls", &option],
            &["plan", "--interval", address],
            &["plan", "--source", address],
            &["plan", "--source", &source],
            &["backfill", "--nodes", address],
            &["plan", "--source", &file],
            &["plan", "--source", "file:none.csv", "--ts-column", address],
            &["plan", "--source", "file:none.csv", "--column-type", &column],
            &["plan", "--source", "binance", "--symbol", &column],
            &["ls", "--store", &address.replacen("://", "//", 1)],
            &["ls", "--store", without_scheme],
            &["backfill", "--node", address, "--interval", "1m", "--source", "file:none.csv", "--last", "5d"],
            &["demo", "--keep", address],
            &out,
            &columns,
        ];
        for place in places {
            let mut command = super::program();
            command.args(place).current_dir(scene.path(""));
            if place[0] == "plan" {
                command.args(["--store", "./none"]);
                command.args(if place[1] == "--interval" { &series[..2] } else { &series[..] });
            }
            let run = super::Run::of(command.output().unwrap());
            assert_ne!(run.code, Some(0), "{place:?}: {run:?}");
            assert!(!format!("{}{}", run.stdout, run.stderr).contains(SECRET), "{place:?}: {run:?}");
        }
    }
    assert_eq!(std::fs::read_dir(scene.path("")).unwrap().count(), 0, "nor is a folder called so");
}

/// A list of series may hold addresses with passwords, and lines of it that do not parse are not quoted.
#[test]
fn no_line_of_a_list_is_quoted() {
    let scene = Scene::new();
    for line in [
        "source = binance+http://u:x C4nary@h",
        "source = \"binance+http://u:x C4nary@h",
        "source = \"binance+http://u:x' y C4nary@h\"",
        "source = [\"coinbase\" \"binance+http://u:C4nary@h\"]",
        "password = C4nary",
        "source = \"binance+http：//u：C4nary＠h\"",
        "source = \"file:./x;password=a C4nary\"",
    ] {
        scene.file("l.toml", &format!("interval = \"1m\"\n{line}\n[[series]]\nnode = \"x\"\n"));
        for json in [&["--json"][..], &[]] {
            let run = scene.run(&[&["plan", "--nodes", "l.toml", "--last", "5d"], json].concat());
            assert_eq!(run.code, Some(2), "{line}: {run:?}");
            assert!(!format!("{}{}", run.stdout, run.stderr).contains("C4nary"), "{line}: {run:?}");
        }
    }
}

/// Whatever a file, its columns or a list of series are called, no line of ours is forged and no cursor moved.
#[test]
fn names_and_values_of_columns_stay_in_their_line() {
    let fill =
        ["backfill", "--node", "x", "--interval", "1m", "--start", "1704067200", "--end", "1704067380"];
    let odd = "clo\u{1b}[2Jse\u{202e}\t\nok  FAKE@1m  9 rows";
    let nan = format!("ts,\"{odd}\",x\n1704067200,NaN,1\n1704067260,2,2\n1704067320,inf,2\n");
    let conflict = format!("ts,\"{odd}\"\n1704067200,1\n1704067200,2\n1704067260,3\n");
    let values = format!("ts,s\n1704067200,\"a{odd}\"\n1704067200,\"b{odd}\"\n1704067260,\"c\"\n");
    let mut runs = Vec::new();
    let text: &[&str] = &["--column-type", "s=text"];
    for (content, more) in [(nan, &[][..]), (conflict, &[]), (values, text)] {
        let scene = Scene::new();
        let source = scene.file("odd.csv", &content);
        let filled = scene.run(&[&fill[..], &["--source", &source, "--quiet"], more].concat());
        assert!(filled.stdout.contains("FAKE"), "{filled:?}");
        runs.push(filled);
        let x = ["--node", "x", "--interval", "1m"];
        for command in ["verify", "coverage", "files"] {
            runs.push(scene.run(&[&[command], &x[..]].concat()));
        }
        let warmup = ["warmup", "--period", "2", "--as-of", "1704067380", "--column", odd];
        runs.push(scene.run(&[&warmup[..], &x].concat()));
        runs.push(scene.run(&[&["export", "--columns", "absent", "--out", "x.csv"], &x[..]].concat()));
    }
    for run in runs {
        let all = format!("{}{}", run.stdout, run.stderr);
        assert!(!all.contains(['\u{1b}', '\u{202e}', '\t']) && !all.is_empty(), "{all:?}");
        assert!(!all.lines().any(|line| line.trim_start().starts_with("ok  FAKE")), "{all}");
    }
}

#[test]
fn foreign_text_is_escaped() {
    let scene = Scene::new();
    let name = "\u{1b}[2Jcandles\nerror: forged.csv";
    let source = scene.file(name, "ts,close\n1704067200,1\n1704067320,2\n");
    let fill =
        ["backfill", "--node", "x", "--interval", "1m", "--start", "1704067200", "--end", "1704067380"];
    let column = scene.file("columns.csv", "t\u{1b}[31mime\nerror: x,close\n1,2\n");
    let text = scene.file("values.csv", "ts,close\n1704067200,\u{1b}[31mred\n1704067260,2\n");
    let list = scene.path("list.toml");
    std::fs::write(&list, "\"\\u001b[31m\" = 1\n[[series]]\nnode = \"x\"\n").unwrap();
    let runs = [
        scene.run(&[&fill[..], &["--source", &source]].concat()),
        scene.run(&["coverage"]),
        scene.run(&[&fill[..], &["--source", &column]].concat()),
        scene.run(&[&fill[..], &["--source", &text]].concat()),
        scene.run(&["backfill", "--nodes", list.to_str().unwrap(), "--last", "5d"]),
        scene.run(&["verify"]),
        scene.run(&["ls", "--store", "./no\u{1b}[31m\nerror: such"]),
    ];
    for run in runs {
        let all = format!("{}{}", run.stdout, run.stderr);
        assert!(!all.contains('\u{1b}') && !all.is_empty(), "{all:?}");
        assert!(
            all.lines().all(|line| !line.starts_with("error: forged") && !line.starts_with("error: such")),
            "{all}"
        );
    }
}
