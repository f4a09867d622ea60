//! Sources of many files: a folder, a pattern, a list that a shell made of one, an archive.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;

use qmtl_history_api::Timestamp;
use serde_json::{Value, json};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::{Run, Scene, minutes, program, read};

/// Two hours of minutes in two files of a folder, a checksum beside them.
fn halves() -> Scene {
    let scene = Scene::new();
    let text = minutes(120);
    let lines: Vec<_> = text.lines().collect();
    std::fs::create_dir(scene.path("two halves")).unwrap();
    let half = |name: &str, rows: &[&str]| {
        std::fs::write(scene.path(name), format!("{}\n{}\n", lines[0], rows.join("\n"))).unwrap();
    };
    half("two halves/M-1m-2.csv", &lines[1..61]);
    half("two halves/M-1m-10.csv", &lines[61..]);
    std::fs::write(scene.path("two halves/M-1m-2.csv.CHECKSUM"), "00  M-1m-2.csv\n").unwrap();
    scene
}

const REST: [&str; 6] = ["--node", "M", "--interval", "1m", "--timerange", "1704067200-1704074400"];

#[test]
fn files_of_a_folder_are_one_source_however_they_are_named() {
    let names = ["two halves/", "two halves/*.csv", "two halves/M-1m-2.csv", "two halves/M-1m-10.csv"];
    for form in 0..6 {
        let scene = halves();
        let [folder, pattern, first, second] = names.map(|name| scene.path(name).display().to_string());
        let sources = match form {
            0 => vec![format!("file:{folder}")],
            1 => vec![folder],
            2 => vec![format!("file:{pattern}")],
            3 => vec![pattern],
            4 => vec![first, second],
            _ => vec![format!("file://{}", folder.replace(' ', "%20"))],
        };
        let sources: Vec<_> = sources.iter().map(String::as_str).collect();
        let run = scene.json(&[&["backfill", "--source"], &sources[..], &REST].concat());
        assert_eq!(run["rows_written"], 120, "{sources:?}: {run}");
    }
    let scene = halves();
    let encoded = scene.path("two%20halves").display().to_string();
    let run = scene.run(&[&["backfill", "--source", &format!("file:{encoded}")], &REST[..]].concat());
    run.fails_with(2, "there is no such file; write the characters of its name as they are");
}

#[test]
fn a_list_of_series_names_a_folder_relative_to_itself() {
    let scene = halves();
    let list = "interval = \"1m\"\n[[series]]\nnode = \"M\"\nsource = \"file:two halves/M-*\"\n";
    let list = scene.file("series.toml", list).replace("file:", "");
    let range = &REST[4..];
    let run = scene.run(&[&["backfill", "--nodes", &list], range].concat());
    assert_eq!(run.code, Some(0), "{run:?}");
    assert!(run.stderr.contains("1 file without data (M-1m-2.csv.CHECKSUM) is left out"), "{run:?}");
}

/// Writes rows into a zip file of an exchange's archive.
fn archive(scene: &Scene, path: &str, rows: &[String]) {
    let path = scene.path(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let name = path.with_extension("csv").file_name().unwrap().to_string_lossy().into_owned();
    let mut archive = ZipWriter::new(File::create(&path).unwrap());
    archive.start_file(name, SimpleFileOptions::default()).unwrap();
    archive.write_all(rows.concat().as_bytes()).unwrap();
    archive.finish().unwrap();
}

#[test]
fn a_year_is_the_same_from_daily_and_monthly_archives_and_one_file() {
    const HOURS: i64 = 365 * 24;
    /// 2023-01-01.
    const START: i64 = 1_672_531_200;
    let scene = Scene::new();
    let (mut days, mut months) = (BTreeMap::<String, Vec<_>>::new(), BTreeMap::<String, Vec<_>>::new());
    for hour in 0..HOURS {
        // The exchange was closed for an hour, and for three over the end of a month.
        if hour == 1_000 || (1_415..1_418).contains(&hour) {
            continue;
        }
        let open = (START + hour * 3_600) * 1_000;
        let row = format!("{open},1.5,99.25,0.125,{}.5,7,{},8,9,3,4,0\n", hour % 50 + 1, open + 3_599_999);
        let day = Timestamp::from_millis(open).unwrap().to_string()[..10].to_owned();
        months.entry(day[..7].to_owned()).or_default().push(row.clone());
        days.entry(day).or_default().push(row);
    }
    for (folder, files) in [("days", &days), ("months", &months)] {
        for (name, rows) in files {
            archive(&scene, &format!("{folder}/XBTEUR-1h-{name}.zip"), rows);
        }
    }
    assert_eq!((days.len(), months.len()), (365, 12));
    let series = ["--node", "XBTEUR", "--interval", "1h"];
    let mut found = Vec::new();
    for (store, source) in [("a", "file:days/*.zip"), ("b", "file:months"), ("c", "file:a.parquet")] {
        let run = |words: &[&str]| {
            let words = [words, &series, &["--store", store]].concat();
            let run = Run::of(program().args(&words).current_dir(scene.path(".")).output().unwrap());
            assert_eq!(run.code, Some(0), "{words:?}: {run:?}");
            run.stdout
        };
        run(&["backfill", "--source", source]);
        let mut coverage: Value = serde_json::from_str(&run(&["coverage", "--json"])).unwrap();
        // Which source proved what, and when.
        coverage.as_object_mut().unwrap().remove("proofs").unwrap();
        run(&["export", "--out", &format!("{store}.parquet")]);
        run(&["export", "--out", &format!("{store}.csv")]);
        found.push((coverage, read(scene.path(&format!("{store}.csv")))));
    }
    assert_eq!(found[0].1.lines().count(), 1 + 8_756);
    let hours = |first: i64, last: i64| json!([START + first * 3_600, START + last * 3_600]);
    assert_eq!(found[0].0["known_empty"], json!([hours(1_000, 1_000), hours(1_415, 1_417)]));
    for (coverage, rows) in &found[1..] {
        assert_eq!(*coverage, found[0].0);
        assert!(*rows == found[0].1, "the rows differ");
    }
}
