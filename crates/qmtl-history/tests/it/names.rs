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
