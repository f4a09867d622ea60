//! `warmup` on real candles: the closed bars of a period, from a source or the store alone.

use serde_json::json;

use super::{CANDLES, Scene, minutes};

const NODE: [&str; 7] = ["warmup", "--node", "ADABTC", "--interval", "5m", "--period", "200"];
const AS_OF: [&str; 2] = ["--as-of", "2018-01-30T00:00:00Z"];

fn words<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&NODE, &AS_OF[..], more].concat()
}

#[test]
fn a_node_is_primed_with_its_closed_bars_and_again_from_the_store_alone() {
    let scene = Scene::new();
    let source = format!("file:{CANDLES}");
    let filled = scene.json(&words(&["--source", &source]));
    // 200 bars of five minutes, the newest opening at 2018-01-29T23:55:00Z.
    let expected = [("bars", json!(200)), ("first", json!(1_517_210_400)), ("last", json!(1_517_270_100))];
    for (key, value) in &expected {
        assert_eq!(&filled[*key], value, "{key}: {filled}");
    }
    assert_eq!((&filled["node_id"], &filled["interval"]), (&json!("ADABTC"), &json!(300)));
    assert_eq!((&filled["missing"], &filled["known_empty"]), (&json!([]), &json!([])));
    assert!(filled["ready_ms"].is_u64());

    let text = std::fs::read_to_string(CANDLES).unwrap();
    let closes = text.lines().skip(1).filter_map(|line| {
        let cells: Vec<&str> = line.split(',').collect();
        let ts: i64 = cells[0].parse().unwrap();
        (1_517_210_400_000..1_517_270_400_000).contains(&ts).then(|| cells[4].parse::<f64>().unwrap())
    });
    let average = closes.sum::<f64>() / 200.0;
    assert!((filled["average"].as_f64().unwrap() - average).abs() < 1e-12, "{filled}");

    let stored = scene.json(&words(&[]));
    for (key, value) in &expected {
        assert_eq!(&stored[*key], value, "{key}: {stored}");
    }
    assert_eq!(stored["average"], filled["average"]);

    // Nothing stood in the way; of a longer period something does, and what helps is said.
    let run = scene.run(&words(&[]));
    assert!(run.code == Some(0) && !run.stdout.contains("error"), "{run:?}");
    let run = scene.run(&[&NODE[..6], &["201"], &AS_OF].concat());
    assert!(run.code == Some(3) && run.stdout.contains("name a source with --source"), "{run:?}");
}

#[test]
fn people_read_when_it_was_ready() {
    let scene = Scene::new();
    let run = scene.run(&words(&["--source", &format!("file:{CANDLES}")]));
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(run.stdout.starts_with("ADABTC@5m  ready after "), "{run:?}");
    assert!(run.stdout.contains("200 closed bars, 2018-01-29T07:20:00Z..=2018-01-29T23:55:00Z"), "{run:?}");
}

#[test]
fn bars_proven_not_to_exist_leave_their_place_to_older_ones() {
    let scene = Scene::new();
    let source = format!("file:{CANDLES}");
    // The 32 bars before 14:45 on January 15th do not exist.
    let at = ["--source", &source, "--as-of", "2018-01-15T15:00:00Z"];
    let rows = scene.json(&[&NODE[..], &at].concat());
    assert_eq!((&rows["bars"], &rows["missing"]), (&json!(200), &json!([])), "{rows}");
    // The proofs are of today: that the warm-up is as of an earlier day makes them no lie about the future.
    let stored = scene.json(&[&NODE[..], &at[2..]].concat());
    assert_eq!((&stored["bars"], &stored["known_empty"]), (&rows["bars"], &rows["known_empty"]), "{stored}");
    let near = scene.run(&[&NODE[..], &at, &["--max-lookback", "200", "--json"]].concat());
    assert_eq!((near.code, &near.object()["bars"]), (Some(3), &json!(160)), "{near:?}");
}

#[test]
fn what_is_missing_is_said_and_exits_3() {
    let scene = Scene::new();
    let source = scene.file("few.csv", &minutes(50));
    let few = ["warmup", "--node", "few", "--interval", "1m", "--period", "60", "--source", &source];
    let run = scene.run(&[&few[..], &["--as-of", "2024-01-01T00:50:00Z", "--json"]].concat());
    assert_eq!(run.code, Some(3), "{run:?}");
    let told: Vec<_> = run.stderr.lines().collect();
    assert_eq!(told, ["few@1m: 60 bars missing in 1 window", "few@1m:  80%  50 of 60 bars"]);
    let primed = run.object();
    assert_eq!((&primed["bars"], &primed["ready_ms"]), (&json!(50), &json!(null)));
    // 2023-12-31T23:50 to 23:59: the file does not go back so far, and proves nothing there.
    assert_eq!(primed["missing"], json!([[1_704_066_600, 1_704_067_140]]));

    // The store alone cannot fill, and is not waited for.
    let alone = scene.run(&[
        "warmup",
        "--node",
        "few",
        "--interval",
        "1m",
        "--period",
        "60",
        "--as-of",
        "2024-01-01T00:50:00Z",
    ]);
    assert_eq!(alone.code, Some(3), "{alone:?}");
    assert!(alone.stdout.contains("not ready") && alone.stdout.contains("10 bars in 1 range"), "{alone:?}");
}

#[test]
fn a_file_that_can_never_have_the_bars_ends_a_warm_up_at_once() {
    let scene = Scene::new();
    let source = scene.file("few.csv", &minutes(50));
    // Whoever waits here waits longer than the test may last.
    let few = ["warmup", "--node", "few", "--interval", "1m", "--deadline", "1h", "--source", &source];
    let warm_up = |more: &[&str]| scene.run(&[&few[..], more].concat());
    let holds = "the file holds 2024-01-01T00:00:00Z..=2024-01-01T00:49:00Z; bars outside that range need another \
                 source, or ";
    let ends = format!("{holds}start where the file ends: --as-of 2024-01-01T00:50:00Z");
    let run = warm_up(&["--period", "10"]);
    assert!(run.code == Some(1) && run.stdout.contains(&ends), "{run:?}");
    // A part of the window is stored all the same.
    let run = warm_up(&["--period", "10", "--as-of", "2024-01-01T00:55:00Z", "--json"]);
    let primed = run.object();
    assert_eq!((run.code, &primed["bars"]), (Some(3), &json!(5)), "{run:?}");
    assert!(primed["error"].as_str().unwrap().contains(&ends), "{primed}");
    assert_eq!(scene.json(&["coverage", "--node", "few", "--interval", "1m"])["rows"], 5);
    // What it says helps; and the other end is told apart.
    assert_eq!(warm_up(&["--period", "10", "--as-of", "2024-01-01T00:50:00Z"]).code, Some(0));
    let run = warm_up(&["--period", "60", "--as-of", "2024-01-01T00:50:00Z"]);
    let begins = format!("{holds}ask for fewer of them, or start later: --period, --as-of");
    assert!(run.code == Some(3) && run.stdout.contains(&begins), "{run:?}");
}

#[test]
fn many_series_are_primed_at_once() {
    let scene = Scene::new();
    scene.file("m.csv", &minutes(300));
    scene.file("n.csv", &minutes(300));
    scene.file(
        "list.toml",
        "interval = \"1m\"\n[[series]]\nnode = \"a:b\"\nsource = \"file:m.csv\"\n\
         [[series]]\nnode = \"c\"\nsource = \"file:n.csv\"\n",
    );
    let primed =
        scene.json(&["warmup", "--nodes", "list.toml", "--period", "100", "--as-of", "2024-01-01T05:00:00Z"]);
    let bars: Vec<_> = primed.as_array().unwrap().iter().map(|one| (&one["node_id"], &one["bars"])).collect();
    assert_eq!(bars, [(&json!("a:b"), &json!(100)), (&json!("c"), &json!(100))]);
}

#[test]
fn a_wrong_wish_is_refused_before_anything_is_done() {
    let scene = Scene::new();
    let source = format!("file:{CANDLES}");
    let future = [&NODE[..], &["--source", &source, "--as-of", "2200-01-01"]].concat();
    scene.run(&future).fails_with(2, "--as-of must not lie in the future");
    scene.run(&["warmup", "--period", "200"]).fails_with(2, "no series is named");
    scene.run(&[&NODE[..5], &["--period", "0"]].concat()).fails_with(2, "--period");
    assert!(!scene.path("store").exists());
    scene.run(&words(&[])).fails_with(4, "backfill");
    let column = scene.run(&words(&["--source", &source, "--column", "nope"]));
    assert_eq!(column.code, Some(3), "{column:?}");
    assert!(
        column.stdout.contains("the bars have no such column; choose another with --column"),
        "{column:?}"
    );
}

#[test]
fn nan_is_told_where_it_is_stored_and_where_a_warm_up_meets_it() {
    let scene = Scene::new();
    let rows = "ts,open,high,low,close,volume\n1704067200,1,2,0.5,1.5,9\n1704067260,1,2,0.5,NaN,9\n1704067320,1,2,0.5,1.5,9\n";
    let source = scene.file("odd.csv", rows);
    let words = ["backfill", "--node", "x", "--interval", "1m", "--source", &source];
    let filled = scene.run(&[&words[..], &["--timerange", "1704067200-1704067380", "--json"]].concat());
    assert_eq!(filled.object()["nan"], json!([{"column": "close", "rows": 1, "first": 1_704_067_260}]));
    let words = ["warmup", "--node", "x", "--interval", "1m", "--period", "3", "--as-of", "1704067380"];
    let primed = scene.run(&words);
    assert!(primed.stdout.contains(
        "NaN           1 row without a number (NaN, infinite or null) in close, the first at 2024-01-01T00:01:00Z"
    ));
    assert_eq!(scene.run(&[&words[..], &["--json"]].concat()).object()["nan"], filled.object()["nan"]);
}
