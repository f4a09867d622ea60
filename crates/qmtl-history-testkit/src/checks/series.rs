//! Series, revisions and errors: `H-SER-01` to `H-ERR-01`.

use std::collections::BTreeSet;
use std::sync::Arc;

use qmtl_history_api::arrow_array::StringArray;
use qmtl_history_api::{ErrorKind, HistoryBackendExt, OnConflict, ReadRequest, TimeRange};

use crate::Subject;
use crate::fixtures::{proof, secs};
use crate::probe::{Probe, assert_closes};

/// Node ids that a path, a table name, a line or a case-insensitive file system cannot tell apart
/// or hold at all.
fn hard_ids() -> Vec<String> {
    let short = [
        "blake3:ab/../\"x\"",
        "ohlcv:binance:BTC/USDT:1m",
        "ohlcv:binance:BTC_USDT:1m",
        "btc",
        "BTC",
        "Btc",
        "btc.",
        "btc ",
        " btc",
        "btc\n",
        "btc\0",
        ".",
        "..",
        "/",
        "\\",
        "a/b",
        "a\\b",
        "a%2Fb",
        "a:b",
        "a?b",
        "*",
        "~",
        "CON",
        "nul.parquet",
        "🦀",
        "é",
        "e\u{301}",
        "'; drop table x; --",
        "$(id)",
        "_series.json",
        "{\"a\":1}",
        "<b>",
        "-x",
        "null",
    ];
    let long = |last: &str| format!("{}{last}", "n".repeat(1_000 - last.len()));
    let emoji = "🦀".repeat(256);
    short.into_iter().map(str::to_owned).chain([long("1"), long("2"), long("/"), emoji]).collect()
}

/// `H-SER-01`: every series with a row or a proof is listed once, whatever its node id contains.
pub async fn h_ser_01_lists_every_series_once(subject: &Subject) {
    let mut expected = Vec::new();
    for (index, id) in hard_ids().iter().enumerate() {
        let series = subject.probe(id, "1m");
        if index % 3 != 0 {
            series.keep(series.rows([(0, 1.0)])).await;
            series.keep(series.rows([(60_000, 1.0)])).await;
        }
        if index % 3 != 1 {
            series.prove(proof("a", series.span(5, 9), secs(2_000_000_000))).await;
        }
        expected.push(series.key);
    }
    expected.sort();
    assert_eq!(subject.btc().listed().await, expected);
    if let Some(other) = subject.reopened().await {
        assert_eq!(
            other.list_series().await.expect("the series can be listed"),
            expected,
            "through another handle"
        );
    }
}

/// `H-SER-02`: series do not touch each other, however alike their node ids are.
pub async fn h_ser_02_alike_ids_do_not_touch(subject: &Subject) {
    let series: Vec<Probe> = hard_ids().iter().map(|id| subject.probe(id, "1m")).collect();
    let number = |index: usize| u32::try_from(index).expect("a few ids");
    for (index, one) in series.iter().enumerate() {
        let bar = number(index);
        one.keep(one.rows([(0, f64::from(bar)), (bar + 1, 1.0)])).await;
        one.prove(proof("a", one.span(100, 101 + bar), secs(2_000_000_000))).await;
    }
    for (index, one) in series.iter().enumerate() {
        let (key, bar) = (&one.key, number(index));
        let expected = one.expected([(0, f64::from(bar)), (bar + 1, 1.0)]);
        assert_closes(&one.closes(TimeRange::ALL).await, &expected, key);
        let coverage = one.coverage(TimeRange::ALL).await;
        assert_eq!(coverage.present().on_grid(key.interval), one.ranges([0, bar + 1]), "{key}");
        assert_eq!(
            coverage.known_empty(),
            [proof("a", one.span(100, 101 + bar), secs(2_000_000_000))],
            "{key}"
        );
    }
}

/// `H-SER-02`: one node has a series of its own for every length of its interval and every phase.
pub async fn h_ser_02_intervals_do_not_touch(subject: &Subject) {
    let series = ["1s", "60s", "1h", "1h+30m", "1d", "1d+16h", "7d", "7d+3d"]
        .map(|interval| subject.probe("BTC", interval));
    for (index, one) in (1_u32..).zip(&series) {
        one.keep(one.rows((0..index).map(|bar| (bar, f64::from(index))))).await;
    }
    for (index, one) in (1_u32..).zip(&series) {
        let expected = one.expected((0..index).map(|bar| (bar, f64::from(index))));
        assert_closes(&one.closes(TimeRange::ALL).await, &expected, &one.key);
        assert_eq!(one.present(TimeRange::ALL).await, one.span(0, index).into(), "{}", one.key);
    }
    assert_eq!(series[0].listed().await, series.map(|one| one.key));
}

/// `H-REV-01`: there is no revision before the first write, whatever other series hold.
pub async fn h_rev_01_none_before_the_first_write(subject: &Subject) {
    let (btc, eth) = (subject.btc(), subject.probe("ETH", "1m"));
    assert_eq!(btc.revision().await, None);
    eth.keep(eth.rows([(0, 1.0)])).await;
    btc.all().await;
    assert_eq!(btc.revision().await, None);
    btc.prove(proof("a", btc.span(0, 1), secs(2_000_000_000))).await;
    assert_ne!(btc.revision().await, None, "a proof is something");
}

/// `H-REV-01`: the revision differs after any change of rows or proofs, and stands while nothing
/// is written.
pub async fn h_rev_01_differs_after_every_change(subject: &Subject) {
    let btc = subject.btc();
    let mut seen = BTreeSet::new();
    let mut changed = async |what: &str| {
        let revision = btc.revision().await.expect("the series was written");
        assert!(seen.insert(revision), "{what}: the revision is still {revision}");
        btc.all().await;
        assert_eq!(btc.revision().await, Some(revision), "a read changed the revision");
    };
    btc.keep(btc.rows([(0, 1.0)])).await;
    changed("the first row").await;
    btc.keep(btc.rows([(1, 1.0)])).await;
    changed("another row").await;
    btc.keep(btc.rows([(110_000, 1.0)])).await;
    changed("a row far away").await;
    btc.replace(btc.rows([(0, 2.0)])).await;
    changed("another value").await;
    btc.prove(proof("a", btc.span(5, 9), secs(2_000_000_000))).await;
    changed("a proof").await;
    btc.prove(proof("b", btc.span(5, 9), secs(2_000_000_000))).await;
    changed("the proof of another source").await;
    btc.keep(btc.rows([(6, 1.0)])).await;
    changed("a row instead of a proof").await;
}

/// `H-ERR-01`: what the caller did wrong is not retryable, and its error names series, column or
/// value.
pub async fn h_err_01_bad_input_is_not_retryable(subject: &Subject) {
    let series = subject.probe("ohlcv:binance:BTC/USDT:1m", "1m");
    series.keep(series.rows([(0, 1.0)])).await;
    let keep = series.request(OnConflict::KeepExisting);
    let seconds = subject.probe("BTC", "1s").rows([(61, 1.0)]);
    let backwards = series.rows([(2, 1.0), (1, 1.0)]);
    let text = Arc::new(StringArray::from(vec!["1"]));
    let clash = series.column("close", [5], text);
    for (rows, named) in [(seconds, "00:01:01"), (backwards, "ts"), (clash, "close")] {
        let error = series.refused(&keep, rows).await;
        assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Schema, false), "{error}");
        let text = error.to_string();
        assert!(text.contains(&series.key.to_string()) && text.contains(named), "must name {named}: {text}");
    }
    let request = ReadRequest::new(series.key.clone(), TimeRange::ALL).with_columns(["cloze"]);
    let error = series.backend.read_all(&request).await.expect_err("there is no such column");
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::NotFound, false), "{error}");
    assert!(error.to_string().contains("cloze"), "must name the column: {error}");
}
