//! The first minute: `demo`.

use super::{Run, Scene, program};

#[test]
fn the_demo_shows_every_step_and_leaves_nothing() {
    let scene = Scene::new();
    let demo = program().arg("demo").env("TMPDIR", scene.0.path()).output().unwrap();
    let run = Run::of(demo);
    assert_eq!(run.code, Some(0), "{run:?}");
    for line in [
        "$ qmtl-history plan --store",
        "missing   5,760 bars in 1 range",
        "$ qmtl-history backfill --store",
        "stored       5,720 rows in",
        "repeated     2 requests: 1 rate_limited, 1 truncated",
        "stored       0 rows, 0 requests: nothing was asked for",
        "known empty  40 bars in 5 ranges",
        "5,720 bars  from 2018-01-10T04:55:00Z to 2018-01-30T04:50:00Z",
        "Now your own data",
    ] {
        assert!(run.stdout.contains(line), "{line:?} is not in:\n{}", run.stdout);
    }
    assert_eq!(std::fs::read_dir(scene.0.path()).unwrap().count(), 0, "a temporary store goes away");
}

#[test]
fn the_demo_keeps_its_store_where_it_is_told_to() {
    let scene = Scene::new();
    let kept = scene.path("kept");
    let demo =
        |folder: &std::path::Path| Run::of(program().args(["demo", "--keep"]).arg(folder).output().unwrap());
    let run = demo(&kept);
    assert_eq!(run.code, Some(0), "{run:?}");
    let ls = program().arg("ls").arg("--store").arg(kept.join("store")).output().unwrap();
    assert!(Run::of(ls).stdout.contains("ADABTC"));
    demo(&kept).fails_with(2, "the folder is not empty; --keep needs a new one");
}

#[test]
fn the_demo_speaks_to_machines_too() {
    let run = Run::of(program().args(["demo", "--json"]).output().unwrap());
    let shown = run.object();
    assert_eq!(shown["backfill"]["rows_written"], 5_720);
    assert_eq!(shown["backfill"]["retry_reasons"], serde_json::json!({"rate_limited": 1, "truncated": 1}));
    assert_eq!(shown["again"]["fetch_requests"], 0);
    assert_eq!(shown["bars"]["rows"], 5_720);
    assert_eq!(
        (&shown["store"], &shown["plan"]["estimated_rows"]),
        (&serde_json::Value::Null, &5_760.into())
    );
}
