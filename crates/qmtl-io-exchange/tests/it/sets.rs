//! Several files of one series as one source.

use qmtl_history_api::arrow_array::RecordBatch;
use qmtl_history_api::arrow_array::cast::AsArray;
use qmtl_history_api::arrow_array::types::Float64Type;
use qmtl_history_api::{DataFetcher, ErrorKind, FetchRequest, Fetched, TimeRange, frame};
use qmtl_io_exchange::{FileConfig, FileFetcher, FileSet};
use tempfile::TempDir;

use crate::files::{key, range};

const BASE: i64 = 1_704_067_200;
const HOUR: i64 = 3_600;

/// Hours of a day after `BASE`, some of them missing, as CSV.
fn day(day: i64, lacking: &[i64], scale: i64) -> String {
    let hours = (0..24).filter(|hour| !lacking.contains(hour));
    let lines = hours.map(|hour| format!("{},{hour}\n", (BASE + (day * 24 + hour) * HOUR) * scale));
    std::iter::once("ts,close\n".to_owned()).chain(lines).collect()
}

async fn open(folder: &TempDir, files: &[(&str, &str)]) -> Vec<FileFetcher> {
    let mut opened = Vec::new();
    for (name, content) in files {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        opened.push(FileFetcher::open(FileConfig::new(path)).await.unwrap());
    }
    opened
}

async fn fetched(set: &FileSet, window: TimeRange) -> Fetched {
    set.fetch(&FetchRequest::new(key("X", "1h"), window)).await.unwrap()
}

async fn rows(set: &FileSet, window: TimeRange) -> RecordBatch {
    let batch = fetched(set, window).await.batches.into_batch().await.unwrap();
    frame::normalize(&key("X", "1h"), window, &[batch]).unwrap().rows
}

#[tokio::test]
async fn neighbours_prove_the_border_between_files() {
    let folder = TempDir::new().unwrap();
    let days = [day(0, &[5, 23], 1), day(1, &[], 1_000), day(2, &[0], 1_000_000)];
    let files = [("d1.csv", days[0].as_str()), ("d2.csv", &days[1]), ("d3.csv", &days[2])];
    let set = FileSet::new(open(&folder, &files).await).unwrap();
    let window = range(BASE, BASE + 72 * HOUR);
    assert_eq!(rows(&set, window).await.num_rows(), 69);
    assert_eq!(fetched(&set, window).await.proven.as_slice(), [window]);

    // The day that lies between them was forgotten.
    let set = FileSet::new(open(&folder, &[files[0], files[2]]).await).unwrap();
    let proven = [range(BASE, BASE + 23 * HOUR), range(BASE + 49 * HOUR, BASE + 72 * HOUR)];
    assert_eq!(fetched(&set, window).await.proven.as_slice(), proven);
    let inside = range(BASE + 30 * HOUR, BASE + 31 * HOUR);
    assert!(fetched(&set, inside).await.proven.is_empty());
    assert_eq!(rows(&set, inside).await.num_rows(), 0);
}

#[tokio::test]
async fn the_first_named_file_wins_and_columns_are_joined() {
    let folder = TempDir::new().unwrap();
    let [one, other] =
        ["ts,close\n1704067200,1\n1704070800,2\n", "ts,Close,note\n1704070800,20,x\n1704074400,30,y\n"];
    let opened = open(&folder, &[("one.csv", one), ("other.csv", other)]).await;
    let window = range(BASE, BASE + 10 * HOUR);
    for (files, closes) in [
        (vec![opened[0].clone(), opened[1].clone()], [1.0, 2.0, 30.0]),
        (vec![opened[1].clone(), opened[0].clone()], [1.0, 20.0, 30.0]),
    ] {
        let set = FileSet::new(files).unwrap();
        let found = rows(&set, window).await;
        assert_eq!(found["close"].as_primitive::<Float64Type>().values(), &closes);
        let note = found["note"].as_string::<i32>();
        assert!(note.iter().next().unwrap().is_none() && note.value(2) == "y");
    }
}

#[tokio::test]
async fn columns_of_two_types_are_refused() {
    let folder = TempDir::new().unwrap();
    let files = [("one.csv", "ts,extra\n1704067200,1\n"), ("other.csv", "ts,extra\n1704070800,x\n")];
    let error = FileSet::new(open(&folder, &files).await).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Schema);
    let path = |name: &str| folder.path().join(name).display().to_string();
    assert_eq!(
        error.to_string(),
        format!(
            "a column has different types in two files of one series; declare its type for CSV (with_column_type), or \
             read the files one by one under different nodes (column: extra, file: {}, type: Float64, other_file: {}, \
             other_type: Utf8)",
            path("one.csv"),
            path("other.csv")
        )
    );
    assert_eq!(FileSet::new([]).unwrap_err().kind(), ErrorKind::InvalidInput);
}

#[tokio::test]
async fn the_id_of_a_set_is_that_of_its_content_in_any_order() {
    let folder = TempDir::new().unwrap();
    let days = [day(0, &[], 1), day(1, &[], 1), day(2, &[], 1)];
    let opened = open(&folder, &[("b.csv", &days[0]), ("a.csv", &days[1]), ("c.csv", &days[2])]).await;
    let id =
        |places: &[usize]| FileSet::new(places.iter().map(|at| opened[*at].clone())).unwrap().source_id();
    let all = id(&[0, 1, 2]);
    assert_eq!((all.name(), all.as_str().len()), ("file:a.csv+others", "file:a.csv+others#".len() + 16));
    assert_eq!(all, id(&[2, 0, 1]));
    let fewer = id(&[0, 1]);
    assert!(fewer != all && fewer.name() == all.name(), "a day more is another version");
}

#[tokio::test]
async fn every_file_must_hold_bars_of_the_interval() {
    let folder = TempDir::new().unwrap();
    let minutes: String = (0..60).map(|row| format!("{},1\n", BASE + row * 60)).collect();
    let files = [("hours.csv", day(1, &[], 1)), ("minutes.csv", format!("ts,close\n{minutes}"))];
    let set = FileSet::new(open(&folder, &files.each_ref().map(|(name, text)| (*name, text.as_str()))).await)
        .unwrap();
    let request = FetchRequest::new(key("X", "1h"), range(BASE, BASE + HOUR));
    let error = set.fetch(&request).await.unwrap_err().to_string();
    assert!(error.contains("most neighbouring rows of the file lie 1m apart"), "{error}");
    assert!(error.contains("minutes.csv"), "{error}");
}
