//! Grids with a phase and times before 1970 through every command.

use std::fmt::Write as _;

use qmtl_history_api::Timestamp;
use serde_json::{Value, json};

use super::{Run, Scene, program};

/// Bars of markets that do not open them at multiples of the interval in UTC.
struct Market {
    /// What the interval is called, and without its phase.
    interval: &'static str,
    plain: &'static str,
    /// In seconds.
    length: i64,
    phase: i64,
    /// When its bars open.
    opens: &'static [&'static str],
}

const MARKETS: [Market; 3] = [
    Market {
        interval: "1h+30m",
        plain: "1h",
        length: 3_600,
        phase: 1_800,
        opens: &[
            "2024-01-08T14:30:00Z",
            "2024-01-08T15:30:00Z",
            "2024-01-08T16:30:00Z",
            "2024-01-08T17:30:00Z",
            "2024-01-09T14:30:00Z",
            "2024-01-09T15:30:00Z",
            "2024-01-09T16:30:00Z",
            "2024-01-09T17:30:00Z",
        ],
    },
    Market {
        interval: "1d+16h",
        plain: "1d",
        length: 86_400,
        phase: 57_600,
        opens: &[
            "2023-12-31T16:00:00Z",
            "2024-01-01T16:00:00Z",
            "2024-01-02T16:00:00Z",
            "2024-01-03T16:00:00Z",
        ],
    },
    Market {
        interval: "1w+3d",
        plain: "1w",
        length: 604_800,
        phase: 259_200,
        opens: &["2024-01-04", "2024-01-11", "2024-01-18", "2024-01-25"],
    },
];

impl Market {
    fn secs(&self) -> Vec<i64> {
        self.opens.iter().map(|open| open.parse::<Timestamp>().unwrap().as_secs()).collect()
    }

    fn csv(&self) -> String {
        let mut text = String::from("ts,open,high,low,close,volume\n");
        for (secs, close) in self.secs().into_iter().zip(101..) {
            writeln!(text, "{secs},100.0,110.0,99.0,{close}.0,1.0").unwrap();
        }
        text
    }
}

fn run(store: &str, words: &[&str]) -> Run {
    Run::of(program().args(words).args(["--store", store]).output().unwrap())
}

fn said(store: &str, words: &[&str]) -> Value {
    let run = run(store, &[words, &["--json"]].concat());
    assert_eq!(run.code, Some(0), "{words:?}: {run:?}");
    run.object()
}

/// Fills series with phases in `store` and asks every command for them.
pub(crate) fn phases_stand_in_every_command(store: &str, scene: &Scene) {
    for market in MARKETS {
        let Market { interval, plain, length, phase, .. } = market;
        let (secs, csv) = (market.secs(), market.csv());
        let (first, last) = (secs[0], secs[secs.len() - 1]);
        let (source, end) = (scene.file(&format!("{interval}.csv"), &csv), (last + length).to_string());
        let range = ["--start", &first.to_string(), "--end", &end];
        let words = |command: &'static str, interval: &'static str, more: &[&str]| {
            let words = [&[command, "--node", "X", "--interval", interval], more].concat();
            words.into_iter().map(str::to_owned).collect::<Vec<_>>()
        };
        let words = |command, interval, more: &[&str]| words(command, interval, more);
        let fill = [&["--source", &source], &range[..]].concat();
        let of = |words: Vec<String>| said(store, &words.iter().map(String::as_str).collect::<Vec<_>>());

        let refused = words("backfill", plain, &fill);
        let refused = run(store, &refused.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(refused.code, Some(1), "{refused:?}");
        let remedy =
            format!("no row is on the grid of {plain}, but all are on that of {interval}: use that interval");
        assert!(refused.stdout.contains(&remedy), "{refused:?}");

        let plan = of(words("plan", interval, &fill));
        assert_eq!((&plan["interval"], &plan["phase"]), (&json!(length), &json!(phase)), "{plan}");
        let done = of(words("backfill", interval, &fill));
        assert_eq!((&done["rows_written"], &done["missing"]), (&json!(secs.len()), &json!([])), "{done}");
        assert_eq!((&done["interval"], &done["phase"]), (&json!(length), &json!(phase)));
        assert_eq!(of(words("backfill", interval, &fill))["fetch_requests"], 0);

        let coverage = of(words("coverage", interval, &range));
        let rows = coverage["present"].as_array().unwrap().iter();
        let held: i64 =
            rows.map(|pair| (pair[1].as_i64().unwrap() - pair[0].as_i64().unwrap()) / length + 1).sum();
        assert_eq!((json!(held), &coverage["missing"]), (json!(secs.len()), &json!([])), "{coverage}");
        assert_eq!(coverage["present"][0][0], first);
        // The plain grid is another series, of which nothing is known.
        let other = of(words("coverage", plain, &range));
        assert_eq!((&other["present"], &other["known_empty"]), (&json!([]), &json!([])), "{other}");

        assert_eq!(of(words("verify", interval, &[]))["rows"], secs.len());
        let export = words("export", interval, &["--format", "csv", "--ts-format", "s", "--out", "-"]);
        assert_eq!(run(store, &export.iter().map(String::as_str).collect::<Vec<_>>()).stdout, csv);
        let period = ["--period", "4", "--as-of", &end];
        let ready = of(words("warmup", interval, &period));
        assert_eq!(
            (&ready["bars"], &ready["last"], &ready["average"]),
            (&json!(4), &json!(last), &json!(f64::from(u32::try_from(secs.len()).unwrap()) + 98.5))
        );
    }
    let listed = said(store, &["ls"]);
    let series = listed["series"].as_array().unwrap().iter();
    let listed: Vec<_> = series.map(|one| (one["interval"].clone(), one["phase"].clone())).collect();
    assert_eq!(listed, MARKETS.map(|market| (json!(market.length), json!(market.phase))));
}

#[test]
fn a_folder_has_series_on_grids_with_a_phase() {
    let scene = Scene::new();
    phases_stand_in_every_command(&scene.store(), &scene);
}

#[test]
fn a_length_of_time_has_no_phase() {
    let words = ["coverage", "--node", "x", "--interval", "1m", "--last", "1h+30m"];
    Scene::new()
        .run(&words)
        .fails_with(2, "use a number and one of s, m, h, d, w, from 1s to 3650d, such as 90s, 36h or 30d");
}

/// Days of IBM from 1962 on, up to and after the epoch.
const IBM: &str = "Date,Open,High,Low,Close,Volume\n\
                   1962-01-02,578.5,578.5,572.0,572.0,387200\n\
                   1962-01-03,572.0,577.0,572.0,577.0,288000\n\
                   1962-01-04,577.0,577.0,571.0,571.25,256000\n\
                   1969-12-31,363.5,365.5,363.5,364.5,124000\n\
                   1970-01-02,364.75,369.25,364.75,368.0,98000\n";

#[test]
fn bars_from_1962_are_bars_like_others() {
    let scene = Scene::new();
    let source = scene.file("ibm.csv", IBM);
    let words = |command: &'static str, more: &[&'static str]| {
        [&[command, "--node", "IBM", "--interval", "1d"], more].concat()
    };
    let range = ["--start", "1962-01-02", "--end", "1970-01-03"];
    let fill = [&words("backfill", &["--source"])[..], &[&*source, "--sparse"], &range].concat();
    let done = scene.json(&fill);
    assert_eq!(done["rows_written"], 5, "{done}");
    // Nothing tells of the day before the first row.
    assert_eq!(
        scene.json(&words("coverage", &range))["present"],
        json!([[-252_374_400, -252_201_600], [-86_400, -86_400], [86_400, 86_400],])
    );
    let export = scene.run(&words("export", &["--format", "csv", "--columns", "close", "--out", "-"]));
    assert_eq!(
        export.stdout,
        "ts,close\n1962-01-02T00:00:00Z,572.0\n1962-01-03T00:00:00Z,577.0\n1962-01-04T00:00:00Z,571.25\n\
         1969-12-31T00:00:00Z,364.5\n1970-01-02T00:00:00Z,368.0\n"
    );
    assert_eq!(scene.json(&words("verify", &[]))["rows"], 5);
    let listed = scene.json(&["ls"]);
    assert_eq!(listed["series"][0]["first"], -252_374_400, "{listed}");
    let ready = scene.json(&words(
        "warmup",
        &["--period", "2", "--as-of", "1970-01-03", "--allow-holes", "--max-lookback", "9999"],
    ));
    assert_eq!((&ready["bars"], &ready["average"]), (&json!(2), &json!(366.25)), "{ready}");
}
