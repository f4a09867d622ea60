//! Sources of many files: a folder, a pattern, a list that a shell made of one, an archive.

use super::{Scene, minutes};

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
