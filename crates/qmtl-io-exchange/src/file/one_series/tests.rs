//! What is one series and what is not, told by columns of text and of ids.

use super::*;

/// The verdict on a file of one column; rows are times and values.
fn verdict(name: &str, rows: &[(i64, &str)]) -> Result<Option<(String, String)>> {
    let mut one = OneSeries::new("line", [(0, name, Holds::Anything)].into_iter());
    for (at, (time, value)) in rows.iter().enumerate() {
        one.row(*time, at as u64 + 2, |_| value.as_bytes())?;
    }
    one.finish()
}

fn rows<'a>(values: &[&'a str]) -> Vec<(i64, &'a str)> {
    values.iter().enumerate().map(|(at, value)| (i64::try_from(at).unwrap(), *value)).collect()
}

#[test]
fn a_column_named_for_symbols_has_one_value() {
    for name in
        ["Symbol", "ts_code", "stockCode", "INSTRUMENT NAME", "security_id", "tscode", "Asset", "coin"]
    {
        let error = verdict(name, &rows(&["a", "a", "", "b", "a"])).unwrap_err().to_string();
        assert_eq!(
            error,
            format!(
                "the file holds several series; say which column tells them apart (with_symbol_column), or take this \
                 one out of the file if it does not (column: {name}, values: \"a\", \"b\", line: 5)"
            )
        );
        let sole = verdict(name, &rows(&["a", "a", "a"])).unwrap();
        assert_eq!(sole, Some((name.to_owned(), "a".to_owned())));
        let error = verdict(name, &rows(&["a", "", "a"])).unwrap_err().to_string();
        assert!(error.starts_with("a row has no value in the column that names the series"), "{error}");
        assert!(error.ends_with(&format!("(column: {name}, line: 3)")), "{error}");
    }
    for name in ["market_cap", "note", "metric", "asset_volume", "contracts", "bitcoin", "id"] {
        assert!(!tells_series_apart(name), "{name}");
    }
}

#[test]
fn values_that_differ_at_one_time_are_several_series() {
    // One after another, interleaved, ids as integers, and ids with zeros before them.
    let values = ["AAL", "AAPL"];
    let after = values.iter().flat_map(|value| (0..5).map(move |time| (time, *value))).collect::<Vec<_>>();
    let beside = (0..5).flat_map(|time| values.map(|value| (time, value))).collect::<Vec<_>>();
    let ids = (0..5).flat_map(|time| ["10107", "14593"].map(|value| (time, value))).collect::<Vec<_>>();
    let zeros = (0..5).flat_map(|time| ["600519", "000001"].map(|value| (time, value))).collect::<Vec<_>>();
    for rows in [&after, &beside, &ids, &zeros] {
        let error = verdict("Which", rows).unwrap_err().to_string();
        assert!(error.contains("rows of one time have different values"), "{error}");
    }
    // One conflicting row is a conflict, also where its text differs.
    let mut one = (0..50).map(|time| (time, "ok")).collect::<Vec<_>>();
    one.push((7, "late"));
    one.push((50, "ok"));
    assert_eq!(verdict("note", &one).unwrap(), None);
    // Numbers that are no ids, and names of rows.
    let prices = (0..5).flat_map(|time| ["1.5", "2"].map(|value| (time, value))).collect::<Vec<_>>();
    assert_eq!(verdict("vwap", &prices).unwrap(), None);
    let volumes: Vec<_> = (0..100).map(|row: i64| (row / 2, (row * 7_919).to_string())).collect();
    let volumes: Vec<_> = volumes.iter().map(|(time, value)| (*time, value.as_str())).collect();
    assert_eq!(verdict("vol", &volumes).unwrap(), None);
    let uuids: Vec<_> = (0..100).map(|row: i64| (row / 2, format!("u-{row}"))).collect();
    let uuids: Vec<_> = uuids.iter().map(|(time, value)| (*time, value.as_str())).collect();
    assert_eq!(verdict("uuid", &uuids).unwrap(), None);
}

#[test]
fn values_in_blocks_are_several_series() {
    for (name, values) in [
        ("expiry", ["ESH4", "ESH4", "ESM4", "ESM4", "ESU4", "ESU4"]),
        ("who", ["000001", "000001", "600519", "600519", "600519", ""]),
        ("row_id", ["7", "7", "", "9", "9", "9"]),
    ] {
        let error = verdict(name, &rows(&values)).unwrap_err().to_string();
        assert!(error.contains("one after another"), "{name}: {error}");
    }
    for (name, values) in [
        ("note", ["a", "b", "a", "b", "b", "b"]),
        ("closed", ["true", "true", "true", "true", "true", "False"]),
        ("day", ["2024-01-01", "2024-01-01", "2024-01-01", "2024-01-02", "2024-01-02", "2024-01-02"]),
        ("year", ["2023", "2023", "2023", "2024", "2024", "2024"]),
        ("event", ["", "split", "", "", "dividend", ""]),
        ("exchange", ["N", "N", "N", "N", "N", "N"]),
    ] {
        assert_eq!(verdict(name, &rows(&values)).unwrap(), None, "{name}");
    }
}

#[test]
fn a_sample_of_times_finds_what_all_times_would() {
    let rows: Vec<_> =
        ["a", "b"].iter().flat_map(|value| (0..60_000).map(move |time| (time * 60, *value))).collect();
    // Not in blocks, so that only equal times tell.
    let mixed: Vec<_> = rows.iter().copied().chain([(0, "a")]).collect();
    let mut one = OneSeries::new("row", [(0, "which", Holds::Text)].into_iter());
    for (row, (time, value)) in mixed.iter().enumerate() {
        one.row(*time, row as u64, |_| value.as_bytes()).unwrap();
        assert!(one.times.values.len() <= MAX_TIMES);
    }
    let error = one.finish().unwrap_err().to_string();
    assert!(error.contains("rows of one time have different values"), "{error}");
}

#[test]
fn a_column_of_numbers_costs_nothing_after_its_first_fraction() {
    let mut one =
        OneSeries::new("line", [(0, "vwap", Holds::Anything), (1, "note", Holds::Anything)].into_iter());
    one.row(0, 2, |at| if at == 0 { b"1.5" } else { b"" }).unwrap();
    assert_eq!(one.places().collect::<Vec<_>>(), [1], "a column that is still empty may yet tell");
}
