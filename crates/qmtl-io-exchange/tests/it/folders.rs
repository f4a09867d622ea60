//! Folders, patterns of names and archives of many files as one source.

use std::path::{Path, PathBuf};

use qmtl_history_api::arrow_array::RecordBatch;
use qmtl_history_api::arrow_array::cast::AsArray;
use qmtl_history_api::arrow_array::types::Float64Type;
use qmtl_history_api::{DataFetcher, Error, ErrorKind, FetchRequest, Fetched, Interval, TimeRange, frame};
use qmtl_io_exchange::{FileConfig, FileFetcher, FileSet};
use tempfile::TempDir;

use crate::files::{key, range};
use crate::formats::{gzipped, zipped};

const BASE: i64 = 1_714_521_600;
const HOUR: i64 = 3_600;

/// The hours of a day after `BASE`, as CSV; each closes at its number.
fn day(day: i64, scale: i64) -> Vec<u8> {
    let row = |hour: i64| format!("{},{}\n", (BASE + hour * HOUR) * scale, hour);
    let rows = (day * 24..(day + 1) * 24).map(row);
    std::iter::once("ts,close\n".to_owned()).chain(rows).collect::<String>().into_bytes()
}

fn days(from: i64, to: i64) -> TimeRange {
    range(BASE + from * 24 * HOUR, BASE + to * 24 * HOUR)
}

/// A folder with these files, which may lie in folders of their own.
fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let folder = TempDir::new().unwrap();
    for (name, content) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    folder
}

/// A tar archive of these files.
fn tarred(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, *content).unwrap();
    }
    archive.into_inner().unwrap()
}

async fn open(path: impl Into<PathBuf>) -> Result<FileSet, Error> {
    FileSet::open([FileConfig::new(path)]).await
}

async fn fetched(set: &FileSet, window: TimeRange) -> Result<(RecordBatch, Fetched), Error> {
    let mut answer = set.fetch(&FetchRequest::new(key("X", "1h"), window)).await?;
    let empty = Fetched::new(qmtl_history_api::BatchStream::empty(set.schema()));
    let batches = std::mem::replace(&mut answer.batches, empty.batches);
    let rows = frame::normalize(&key("X", "1h"), window, &[batches.into_batch().await?])?.rows;
    Ok((rows, answer))
}

/// The rows of a window, all of which is proven.
async fn proven(set: &FileSet, window: TimeRange) -> usize {
    let (rows, answer) = fetched(set, window).await.unwrap();
    assert_eq!(answer.proven.as_slice(), [window]);
    rows.num_rows()
}

#[tokio::test]
async fn a_folder_is_one_source_of_the_data_in_it() {
    let (first, second, third) = (day(0, 1), day(1, 1_000), day(2, 1_000_000));
    let report = b"File Status: 2 gaps, found\nGap of 120s, from 1 to 2\n";
    let folder = folder(&[
        ("d10.csv", &third),
        ("d2.csv.gz", &gzipped(&second)),
        ("d1.zip", &zipped(&[("d1.csv", &first)])),
        ("d1.zip.CHECKSUM", b"0123  d1.zip\n"),
        ("d10.txt", report),
        ("README", b"Bars, and more bars\n"),
        (".DS_Store", b"\0\0\0\x01Bud1"),
        ("old/d3.csv", &day(5, 1)),
    ]);
    let set = open(folder.path()).await.unwrap();
    assert_eq!(set.range(&key("X", "1h")).unwrap(), days(0, 3));
    assert_eq!(proven(&set, days(0, 3)).await, 72);
    let at = folder.path().display();
    let mut notes = set.notes().to_vec();
    notes.sort();
    let [note] = &notes[..] else { panic!("{notes:?}") };
    let start = format!("{at}: 4 files without data (");
    assert!(note.starts_with(&start) && note.ends_with(") and 1 folder are left out"), "{note}");
    assert!(note.contains("d10.txt") && note.contains("README") && note.contains(".DS_Store"), "{note}");
    assert!(set.source_id().as_str().starts_with("file:d1.zip+others#"), "{}", set.source_id());
    // Nobody writes to a pipe that lies there.
    #[cfg(unix)]
    {
        let pipe = folder.path().join("d9.csv");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let notes = open(folder.path()).await.unwrap().notes().to_vec();
        assert!(notes[0].starts_with(&format!("{at}: 5 files without data (")), "{notes:?}");
        assert!(notes[0].contains("d9.csv"), "{notes:?}");
    }
    // A day that was forgotten is not proven.
    std::fs::remove_file(folder.path().join("d2.csv.gz")).unwrap();
    let set = open(folder.path()).await.unwrap();
    let (rows, answer) = fetched(&set, days(0, 3)).await.unwrap();
    assert_eq!((rows.num_rows(), answer.proven.as_slice()), (48, &[days(0, 1), days(2, 3)][..]));
}

#[tokio::test]
async fn text_in_a_folder_is_data_if_it_is_a_table() {
    let folder = folder(&[("b.txt", &day(1, 1)), ("a.dat", &day(0, 1)), ("notes", b"Two days.\n")]);
    let set = open(folder.path()).await.unwrap();
    assert_eq!(proven(&set, days(0, 2)).await, 48);
    assert_eq!(
        set.notes(),
        [format!("{}: 1 file without data (notes) is left out", folder.path().display())]
    );
}

#[tokio::test]
async fn a_pattern_names_files_also_in_folders() {
    let names = ["a/AB-1.csv", "a/AB-2.csv", "b/AB-10.csv", "b/CD-1.csv"];
    let contents = [day(0, 1), day(1, 1), day(2, 1), day(9, 1)];
    let files: Vec<_> = names.iter().copied().zip(contents.iter().map(Vec::as_slice)).collect();
    let folder = folder(&files);
    for (pattern, whole) in
        [("a/AB-?.csv", days(0, 2)), ("**/AB-*.csv", days(0, 3)), ("b/AB-[0-9]*", days(2, 3))]
    {
        let set = open(folder.path().join(pattern)).await.unwrap();
        assert_eq!(set.range(&key("X", "1h")).unwrap(), whole, "{pattern}");
    }
    let pattern = folder.path().join("a/EF-*");
    let error = open(&pattern).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(
        error.to_string(),
        format!("no file has a name of this pattern (path: {})", pattern.display())
    );
    // A file whose name looks like a pattern is itself.
    let name = folder.path().join("a/AB-[1].csv");
    std::fs::write(&name, day(4, 1)).unwrap();
    assert_eq!(open(name).await.unwrap().range(&key("X", "1h")).unwrap(), days(4, 5));
}

#[tokio::test]
async fn what_is_no_source_says_what_it_saw() {
    let refused = async |folder: &Path| {
        let error = open(folder).await.unwrap_err();
        error.to_string().replace(&folder.display().to_string(), "FOLDER")
    };
    let empty = folder(&[]);
    assert_eq!(refused(empty.path()).await, "the folder is empty (path: FOLDER)");
    let nothing = folder(&[("README.md", b"# Bars"), ("a.txt", b"none\n")]);
    assert_eq!(
        refused(nothing.path()).await,
        "no file here is of a format that is read (files: 2, names: README.md, a.txt, path: FOLDER)"
    );
    let nested = folder(&[("2024/a.csv", &day(0, 1)), ("2025/b.csv", &day(1, 1))]);
    let error = refused(nested.path()).await;
    assert!(
        error.starts_with(
            "there are only folders here; name the files in them by a pattern, or one of the folders (pattern: \
             FOLDER/**/*.csv, folders: "
        ),
        "{error}"
    );
    let mixed = folder(&[("BTCUSDT-1h.csv", &day(0, 1)), ("ETHUSDT-1h.csv", &day(1, 1))]);
    let set = open(mixed.path()).await.unwrap();
    assert_eq!(set.range(&key("ETHUSDT", "1h")).unwrap(), days(1, 2), "names tell the series apart");
    assert_eq!(
        set.range(&key("X", "1h")).unwrap_err().to_string(),
        "no file is named after this series, and names tell the files of this source apart; call the node as the files call \
         it (series: X@1h, files_of: BTCUSDT of 1h, ETHUSDT of 1h)"
    );
    let untold = folder(&[("BTC-usd-a.csv", &day(0, 1)), ("ETH-usd-a.csv", &day(1, 1))]);
    assert_eq!(
        refused(untold.path()).await,
        "files of different symbols are named for one series; name one symbol's files, in a folder by a pattern such as \
         BTCUSDT-*, or the column that tells them apart (with_symbol_column) (symbols: BTC, ETH, files: \
         FOLDER/BTC-usd-a.csv, FOLDER/ETH-usd-a.csv)"
    );
    let bad = folder(&[("a.csv", &day(0, 1)), ("b.csv", b"ts,close\nx,1\ny,2\nz,3\n")]);
    let error = refused(bad.path()).await;
    assert!(error.ends_with("(line: 2, column: ts, value: \"x\", file: FOLDER/b.csv)"), "{error}");
}

#[tokio::test]
async fn an_archive_of_many_files_is_one_source() {
    let (one, two, three) = (day(0, 1_000), day(1, 1_000), gzipped(&day(2, 1_000_000)));
    let files: [(&str, &[u8]); 5] = [
        ("x/d10.csv.gz", &three),
        ("x/d1.csv", &one),
        ("x/d2.csv", &two),
        ("x/README.txt", b"Bars\n"),
        ("__MACOSX/x/._d1.csv", b"\0\x05\x16\x07"),
    ];
    for (name, content) in
        [("a.zip", zipped(&files)), ("a.tar", tarred(&files)), ("a.tar.gz", gzipped(&tarred(&files)))]
    {
        let folder = folder(&[(name, &content)]);
        let path = folder.path().join(name);
        let set = open(&path).await.unwrap();
        assert_eq!(proven(&set, days(0, 3)).await, 72, "{name}");
        assert_eq!(
            set.notes(),
            [format!(
                "{}: 2 files without data (x/README.txt, __MACOSX/x/._d1.csv) are left out",
                path.display()
            )]
        );
        assert!(set.source_id().as_str().starts_with(&format!("file:{name}#")), "{}", set.source_id());
        let error = FileFetcher::open(FileConfig::new(&path)).await.unwrap_err().to_string();
        assert!(error.starts_with("the archive holds several files; read it as a set of files ("), "{error}");
    }
}

#[tokio::test]
async fn a_bad_member_of_an_archive_is_named() {
    let good = day(0, 1);
    let bad = b"ts,close\n1714521600,1\n1714525200,x,2\n1714528800,1\n";
    for (name, content) in [
        ("a.zip", zipped(&[("a.csv", &good), ("b.csv", bad)])),
        ("a.tar", tarred(&[("a.csv", &good), ("b.csv", bad)])),
    ] {
        let folder = folder(&[(name, &content)]);
        let path = folder.path().join(name);
        let error = open(&path).await.unwrap_err().to_string();
        assert!(error.ends_with(&format!("member: b.csv, file: {})", path.display())), "{error}");
    }
    let nested = zipped(&[("a.csv", &good), ("b.zip", &zipped(&[("b.csv", &good)]))]);
    let folder = folder(&[("a.zip", &nested)]);
    let error = open(folder.path()).await.unwrap_err().to_string();
    let path = folder.path().join("a.zip");
    assert_eq!(
        error,
        format!(
            "an archive lies inside of the archive; unpack the outer one first (member: b.zip, file: {})",
            path.display()
        )
    );
}

#[tokio::test]
async fn archives_that_are_cut_off_or_encrypted_are_told_as_such() {
    let (one, two) = (day(0, 1), day(1, 1));
    let tar = tarred(&[("a.csv", &one), ("b.csv", &two)]);
    let mut encrypted = zipped(&[("a.csv", &one), ("b.csv", &two)]);
    // The flag of encryption in the headers of both files and of the directory.
    for at in 0..encrypted.len() - 10 {
        match encrypted[at..at + 4] {
            [b'P', b'K', 3, 4] => encrypted[at + 6] |= 1,
            [b'P', b'K', 1, 2] => encrypted[at + 8] |= 1,
            _ => {}
        }
    }
    let zip = zipped(&[("a.csv", &one), ("b.csv", &two)]);
    for (name, content, message) in [
        ("a.tar", &tar[..1_400], "the tar archive is cut off; copy or download the file again (file: "),
        (
            "b.tar",
            &tar[..1_700],
            "the tar archive is cut off; copy or download the file again (member: b.csv, ",
        ),
        (
            "a.tar.gz",
            &gzipped(&tar)[..100],
            "the gzip data is cut off; copy or download the file again (file: ",
        ),
        (
            "a.zip",
            &zip[..200],
            "the zip archive is damaged or cut off; copy or download the file again (file: ",
        ),
        ("b.zip", &encrypted, "the zip archive is encrypted; unpack it with its password first (file: "),
    ] {
        let folder = folder(&[(name, content)]);
        let error = open(folder.path().join(name)).await.unwrap_err().to_string();
        assert!(error.starts_with(message), "{name}: {error}");
    }
}

#[tokio::test]
async fn of_files_that_overlap_the_first_one_gives_the_bars() {
    let month: Vec<u8> = {
        let mut all = day(0, 1_000);
        all.extend(&day(1, 1_000)[b"ts,close\n".len()..]);
        all
    };
    let other = String::from_utf8(day(1, 1_000_000)).unwrap().replace(",24\n", ",124\n");
    let folder = folder(&[("X-1h-2024-05.csv", &month), ("X-1h-2024-05-02.csv", other.as_bytes())]);
    let set = open(folder.path()).await.unwrap();
    let (rows, _) = fetched(&set, days(0, 2)).await.unwrap();
    assert_eq!(rows.num_rows(), 48);
    // In natural order 2024-05-02 comes before 2024-05.
    let close = rows["close"].as_primitive::<Float64Type>();
    assert!([close.value(23), close.value(24)] == [23.0, 124.0], "{close:?}");
    // Both rows of a bar come out, so that whoever reads them can tell that they differ.
    let request = FetchRequest::new(key("X", "1h"), days(1, 2));
    let both = set.fetch(&request).await.unwrap().batches.into_batch().await.unwrap();
    assert_eq!(both.num_rows(), 48);
}

#[tokio::test]
async fn more_files_than_may_be_open_are_read_and_few_are_kept_open() {
    const FILES: i64 = 300;
    let folder = TempDir::new().unwrap();
    for at in 0..FILES {
        let content = zipped(&[("a.csv", &day(at, 1))]);
        std::fs::write(folder.path().join(format!("d{at}.zip")), content).unwrap();
    }
    let set = open(folder.path()).await.unwrap();
    assert_eq!(proven(&set, days(0, FILES)).await, 24 * 300);
    assert_eq!(proven(&set, days(7, 8)).await, 24);
    #[cfg(target_os = "linux")]
    {
        let links =
            std::fs::read_dir("/proc/self/fd").unwrap().filter_map(|fd| fd.unwrap().path().read_link().ok());
        let open = links.filter(|path| path.starts_with(folder.path())).count();
        assert!(open <= 64, "{open} files of the folder are open");
    }
    // One that changed after it was closed is refused.
    std::fs::write(folder.path().join("d0.zip"), zipped(&[("a.csv", &day(1, 1))])).unwrap();
    let file = std::fs::File::options().write(true).open(folder.path().join("d0.zip")).unwrap();
    file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    let error = fetched(&set, days(0, 1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
}

#[tokio::test]
async fn files_that_are_called_differently_are_told() {
    let note = |folder: &TempDir, set: &FileSet| {
        let base = format!("{}/", folder.path().display());
        set.notes().iter().map(|note| note.replace(&base, "")).collect::<Vec<_>>()
    };
    let folder = folder(&[("apple.csv", &day(0, 1)), ("tesla.csv", &day(1, 1))]);
    let set = open(folder.path()).await.unwrap();
    let told = "apple.csv and tesla.csv are read as one series, though they are called differently";
    assert_eq!(note(&folder, &set), [told]);
    let days = self::folder(&[("bars-2024-jan.csv", &day(0, 1)), ("bars-2024-feb_1.csv", &day(1, 1))]);
    assert!(open(days.path()).await.unwrap().notes().is_empty());
}

#[tokio::test]
async fn names_tell_pairs_and_intervals_apart() {
    let rows = |count: i64, step: i64| {
        let lines = (0..count).map(|at| format!("{},1\n", 1_704_067_200 + at * step));
        format!("ts,close\n{}", lines.collect::<String>()).into_bytes()
    };
    let (minutes, hours) = (rows(90, 60), rows(24, 3_600));
    let files = [
        ("XBTUSD_1.csv", minutes.as_slice()),
        ("XBTUSD_60.csv", &hours),
        ("XBTUSDT_60.csv", &hours[..hours.len() / 2]),
        ("ETHUSD_60.csv", b"ts,close\n"),
    ];
    let folder = folder(&files);
    let set = open(folder.path()).await.unwrap();
    let bars = |node: &str, interval: &str| {
        let key = key(node, interval);
        set.range(&key).map(|range| range.count(key.interval))
    };
    assert_eq!(bars("BTCUSD", "1m").unwrap(), 90);
    assert_eq!(bars("kraken:XBT/USD", "1h").unwrap(), 24);
    assert!(bars("BTCUSDT", "1h").unwrap() < 24, "the longer symbol is meant");
    let error = bars("ETHUSD", "1h").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "a file without rows is none");
    assert!(set.notes().iter().any(|note| note == "1 file without rows is left out"), "{:?}", set.notes());
    let described = set.describe();
    let series: Vec<_> =
        described.series.iter().map(|series| (series.symbol.as_str(), series.rows)).collect();
    assert!([("XBTUSD", 90), ("XBTUSD", 24)].iter().all(|one| series.contains(one)), "{series:?}");
    // A third of its minutes is all that a thin market has.
    let thin = (0..90).filter(|at| at % 3 != 1).map(|at| format!("{},1\n", 1_704_067_200 + at * 60));
    let thin = format!("ts,close\n{}", thin.collect::<String>()).into_bytes();
    let pairs =
        self::folder(&[("XBTUSD_1.csv", &thin), ("XBTUSD_60.csv", &hours), ("XBTEUR_60.csv", &hours)]);
    let set = open(pairs.path()).await.unwrap();
    assert_eq!(set.range(&key("BTCUSD", "1h")).unwrap().count(Interval::HOUR), 24);
    let error = set.range(&key("BTC", "1h")).unwrap_err().to_string();
    assert!(error.starts_with("files of several symbols fit the name of this series"), "{error}");
    assert!(error.contains("symbols: btceur, btcusd"), "{error}");
    // Exports of charts tell classes of shares and futures, and symbols of one letter.
    let names = ["BINANCE_BTCUSDT, 60.csv", "BINANCE_BTCUSDT.P, 60.csv", "NYSE_T, 60.csv"];
    let contents = [day(0, 1), day(1, 1), day(2, 1)];
    let charts: Vec<_> = names.iter().copied().zip(contents.iter().map(Vec::as_slice)).collect();
    let charts = self::folder(&charts);
    let set = open(charts.path()).await.unwrap();
    for (node, whole) in [("BTCUSDT", days(0, 1)), ("BTCUSDT.P", days(1, 2)), ("NYSE:T", days(2, 3))] {
        assert_eq!(set.range(&key(node, "1h")).unwrap(), whole, "{node}");
    }
    assert_eq!(set.range(&key("FT", "1h")).unwrap_err().kind(), ErrorKind::NotFound);
    // Numbers that count parts say nothing of intervals.
    let parts = self::folder(&[("XBTUSD_1.csv", &day(0, 1)), ("XBTUSD_2.csv", &day(1, 1))]);
    let set = open(parts.path()).await.unwrap();
    assert_eq!(set.range(&key("any", "1h")).unwrap(), days(0, 2));
}
