//! Times whose units differ inside a file, dates of eight digits, and ticks.

use qmtl_history_api::{ErrorKind, frame};
use qmtl_io_exchange::{FileFetcher, TsUnit};

use crate::files::{TestFile, file, key, range, rows};
use crate::formats::Table;

const BASE: i64 = 1_704_067_200;
const HOUR: i64 = 3_600;

/// A table of these times, with their place as the close.
fn times(of: &[i64]) -> Vec<TestFile> {
    let text: Vec<_> = of.iter().map(i64::to_string).collect();
    let rows = text.iter().map(|time| vec![time.as_str(), "1.5"]).collect();
    Table { header: vec!["ts", "close"], rows }.files()
}

/// The hours after `BASE` at which a file has rows.
async fn hours(written: &TestFile, units: Option<TsUnit>) -> Vec<i64> {
    let config = written.config();
    let config = if let Some(unit) = units { config.with_ts_unit(unit) } else { config };
    let fetcher = FileFetcher::open(config).await.unwrap();
    let key = key("X", "1h");
    assert_eq!(fetcher.range(&key).unwrap(), range(BASE, BASE + 4 * HOUR), "{:?}", written.path);
    let found = rows(&fetcher, &key, range(BASE - HOUR, BASE + 99 * HOUR)).await.unwrap();
    frame::timestamps(&found).unwrap().values().iter().map(|m| (m / 1_000_000 - BASE) / HOUR).collect()
}

#[tokio::test]
async fn each_row_is_read_by_its_own_unit() {
    let at = |hour: i64, scale: i64| (BASE + hour * HOUR) * scale;
    for of in [
        [at(0, 1), at(1, 1), at(2, 1_000), at(3, 1_000)],
        [at(0, 1_000), at(1, 1_000), at(2, 1_000_000), at(3, 1_000_000)],
        [at(3, 1_000_000), at(2, 1_000_000), at(1, 1_000), at(0, 1_000)],
        [at(0, 1_000_000_000), at(1, 1), at(2, 1_000_000), at(3, 1_000)],
    ] {
        for written in times(&of) {
            let mut found = hours(&written, None).await;
            found.sort_unstable();
            assert_eq!(found, [0, 1, 2, 3], "{of:?} in {:?}", written.path);
        }
    }
}

#[tokio::test]
async fn a_declared_unit_that_a_row_contradicts_is_refused() {
    let of = [BASE, BASE + HOUR, (BASE + 2 * HOUR) * 1_000, (BASE + 3 * HOUR) * 1_000];
    for (unit, own, row, value) in [
        (TsUnit::Millisecond, "seconds", 0, of[0]),
        (TsUnit::Second, "milliseconds", 2, of[2]),
        (TsUnit::Nanosecond, "seconds", 0, of[0]),
    ] {
        for written in times(&of) {
            let error = FileFetcher::open(written.config().with_ts_unit(unit)).await.unwrap_err();
            let text = error.to_string();
            assert!(
                text.starts_with(&format!(
                    "the time column is declared in {unit}, but this value can only be {own}; leave the unit out"
                )),
                "{text}"
            );
            let in_text = format!("(line: {}, column: ts, value: \"{value}\"", row + 2);
            let in_columns = format!("(column: ts, row: {row}, value: {value}");
            assert!(text.contains(&in_text) || text.contains(&in_columns), "{text}");
            // The remedy works.
            assert_eq!(hours(&written, None).await, [0, 1, 2, 3]);
        }
    }
}

#[tokio::test]
async fn eight_digits_are_a_date() {
    let days = [20_231_231, 20_240_101, 20_240_102, 20_240_104];
    for written in times(&days) {
        let fetcher = written.open().await;
        let key = key("X", "1d");
        assert_eq!(fetcher.range(&key).unwrap(), range(BASE - 24 * HOUR, BASE + 96 * HOUR));
        assert_eq!(rows(&fetcher, &key, range(0, BASE * 2)).await.unwrap().num_rows(), 4);
        let error = FileFetcher::open(written.config().with_ts_unit(TsUnit::Second)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(
            error.to_string().contains("but holds dates such as 20231231; leave the unit out"),
            "{error}"
        );
    }
    for of in [[20_240_101, 202_401_021], [20_240_101, 20_241_301], [2_024_010, 20_240_101]] {
        for written in times(&of) {
            assert!(FileFetcher::open(written.config()).await.is_err(), "{of:?}");
        }
    }
}

#[tokio::test]
async fn ticks_are_refused_unless_nanoseconds_are_declared() {
    let ticks = 638_396_640_000_000_000;
    for written in times(&[ticks, ticks + 600_000_000]) {
        let error = FileFetcher::open(written.config()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        let text = error.to_string();
        assert!(
            text.contains("as_nanoseconds: 1990-03-25T20:24:00Z, as_ticks: 2024-01-01T00:00:00Z"),
            "{text}"
        );
        let config = written.config().with_ts_unit(TsUnit::Nanosecond);
        assert!(FileFetcher::open(config).await.is_ok());
    }
}

#[tokio::test]
async fn times_of_a_mixed_file_are_found_by_any_window() {
    let text: String = (0..40_000)
        .map(|row: i64| {
            format!("{},{row}\n", (BASE + row * 60) * if row < 25_000 { 1_000 } else { 1_000_000 })
        })
        .collect();
    let written = file("a.csv", format!("ts,close\n{text}"));
    let fetcher = written.open().await;
    let key = key("X", "1m");
    assert_eq!(fetcher.range(&key).unwrap(), range(BASE, BASE + 40_000 * 60));
    for (start, end) in [(0, 40_000), (24_990, 25_010), (0, 10), (39_990, 40_010)] {
        let found = rows(&fetcher, &key, range(BASE + start * 60, BASE + end * 60)).await.unwrap();
        assert_eq!(i64::try_from(found.num_rows()).unwrap(), end.min(40_000) - start);
    }
}
