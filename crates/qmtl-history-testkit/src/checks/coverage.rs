//! What is known of rows and of their absence: `H-COV-01` to `H-COV-07`.

use std::time::Duration;

use qmtl_history_api::{
    EmptyProof, HistoryBackendExt, OnConflict, RangeSet, SourceId, TimeRange, Timestamp, frame,
};

use super::read::MANY;
use crate::Subject;
use crate::fixtures::{proof, secs, source, sparse_bars};
use crate::probe::{Probe, assert_closes};

/// When answers are given that settle every bar of the fixtures: 2033.
fn later() -> Timestamp {
    secs(2_000_000_000)
}

/// `H-COV-01`: `present` is exactly the stored rows, neighbours joined, over many partitions.
pub async fn h_cov_01_present_is_the_rows(subject: &Subject) {
    let btc = subject.btc();
    let stored: RangeSet = (0..MANY)
        .step_by(1_009)
        .enumerate()
        .map(|(index, first)| btc.span(first, first + if index % 2 == 0 { 1_000 } else { 1 }))
        .collect();
    let rows = sparse_bars(&btc.key, &stored);
    let half = rows.num_rows() / 2;
    btc.keep(rows.slice(half, rows.num_rows() - half)).await;
    btc.keep(rows.slice(0, half + 10)).await;
    let coverage = btc.coverage(TimeRange::ALL).await;
    assert_eq!(coverage.present().on_grid(btc.key.interval), stored);
    assert_eq!(coverage.known_empty(), [], "nobody proved anything");
    let scanned = btc.backend.scan_present(&btc.key, TimeRange::ALL).await.expect("a series can be read");
    assert_eq!(scanned, stored);
}

/// `H-COV-01`: it is cut to the asked range, whose ends need not be on the grid.
pub async fn h_cov_01_cut_to_the_asked_range(subject: &Subject) {
    let btc = subject.btc();
    btc.keep(btc.rows((0..10).chain(20..30).map(|bar| (bar, 1.0)))).await;
    btc.prove(proof("a", btc.span(10, 20), later())).await;
    let shifted = |bar: u32, micros: i64| btc.bar(bar).checked_add_micros(micros).expect("near 2024");
    for (start, end, rows, empty) in [
        (shifted(5, 0), shifted(25, 0), 5..25, 10..20),
        (shifted(5, 1), shifted(25, 1), 6..26, 10..20),
        (shifted(12, -1), shifted(15, -1), 12..15, 12..15),
        (shifted(12, 1), shifted(13, 0), 0..0, 0..0),
        (shifted(40, 0), shifted(50, 0), 0..0, 0..0),
    ] {
        let range = TimeRange::new(start, end).expect("start is before end");
        let coverage = btc.coverage(range).await;
        let expected = btc.ranges(rows.filter(|bar| !(10..20).contains(bar)));
        assert_eq!(coverage.present().on_grid(btc.key.interval), expected, "{range}");
        assert_eq!(known(&coverage.empty_by_any(later()), &btc), btc.ranges(empty), "{range}");
    }
}

fn known(ranges: &RangeSet, series: &Probe) -> RangeSet {
    ranges.on_grid(series.key.interval)
}

/// `H-COV-02`: a proof is kept with source, reason and time; what nobody proved stays missing.
pub async fn h_cov_02_proofs_are_kept(subject: &Subject) {
    let btc = subject.btc();
    let ranges: RangeSet = [btc.span(0, 10), btc.span(50, 60), btc.span(500, MANY)].into_iter().collect();
    let given = EmptyProof::new(source("file:a.csv#1"), ranges.clone(), "the \"file\" has\nno row", later());
    btc.prove(given.clone()).await;
    let coverage = btc.coverage(TimeRange::ALL).await;
    assert_eq!(coverage.known_empty(), [given]);
    assert!(coverage.present().is_empty(), "a proof is no row");
    let asked = [source("file:a.csv#1")];
    let wanted = btc.span(0, MANY + 10);
    let missing = coverage.missing(wanted, btc.key.interval, &asked, later());
    assert_eq!(
        missing,
        [btc.span(10, 50), btc.span(60, 500), btc.span(MANY, MANY + 10)].into_iter().collect()
    );
    let elsewhere = coverage.missing(wanted, btc.key.interval, &[source("file:a.csv#2")], later());
    assert_eq!(elsewhere, wanted.into(), "the proof of one source is none of another");
}

/// `H-COV-02`: of the range of a proof only the points without a row become known-empty, also
/// when rows and proof come in one write, and up to the proof's very edges.
pub async fn h_cov_02_known_empty_only_where_no_row_is(subject: &Subject) {
    let btc = subject.btc();
    btc.keep(btc.rows([(3, 1.0), (9, 1.0)])).await;
    let request = btc.request(OnConflict::KeepExisting).with_empty(proof("a", btc.span(0, 10), later()));
    btc.write(&request, btc.rows([(0, 1.0), (5, 1.0), (6, 1.0), (10, 1.0)])).await;
    let coverage = btc.coverage(TimeRange::ALL).await;
    assert_eq!(coverage.present().on_grid(btc.key.interval), btc.ranges([0, 3, 5, 6, 9, 10]));
    assert_eq!(known(&coverage.empty_by_any(later()), &btc), btc.ranges([1, 2, 4, 7, 8]));
}

/// `H-COV-02`: an answer about young bars is believed for an hour, about settled ones for ever:
/// the time of the answer survives, so a store need not know the time.
pub async fn h_cov_02_answers_about_young_bars_expire(subject: &Subject) {
    let btc = subject.btc();
    let answered_at = btc.bar(20_000);
    btc.prove(proof("a", btc.span(0, 20_000), answered_at)).await;
    let coverage = btc.coverage(TimeRange::ALL).await;
    let believed_after = |secs: u64| {
        let now = answered_at.checked_add(Duration::from_secs(secs)).expect("near 2024");
        known(&coverage.empty_by_any(now), &btc)
    };
    let young = u32::try_from(EmptyProof::SETTLED_AFTER.as_secs() / 60).expect("a week has few minutes");
    assert_eq!(believed_after(3_599), btc.span(0, 20_000).into());
    assert_eq!(believed_after(3_600), btc.span(0, 20_000 - young).into());
}

/// `H-COV-03`: a row that arrives removes the known-empty at its point, of every source.
pub async fn h_cov_03_a_row_removes_known_empty(subject: &Subject) {
    let btc = subject.btc();
    for name in ["a", "b"] {
        btc.prove(proof(name, btc.span(0, 10), later())).await;
    }
    btc.keep(btc.rows([(0, 1.0), (4, 1.0), (5, 1.0)])).await;
    btc.replace(btc.rows([(9, 1.0)])).await;
    let coverage = btc.coverage(TimeRange::ALL).await;
    assert_eq!(coverage.present().on_grid(btc.key.interval), btc.ranges([0, 4, 5, 9]));
    for name in ["a", "b"] {
        let left = coverage.empty_by_all(&[source(name)], later());
        assert_eq!(known(&left, &btc), btc.ranges([1, 2, 3, 6, 7, 8]), "source {name}");
    }
}

/// `H-COV-03`: a proof never removes a row.
pub async fn h_cov_03_a_proof_never_removes_a_row(subject: &Subject) {
    let btc = subject.btc();
    btc.keep(btc.rows((0..10).map(|bar| (bar, 1.0)))).await;
    btc.prove(proof("a", btc.span(0, 20), later())).await;
    let request = btc.request(OnConflict::Replace).with_empty(proof("a", btc.span(0, 20), later()));
    btc.write(&request, btc.rows([(3, 2.0)])).await;
    let close = |bar: u32| (bar, if bar == 3 { 2.0 } else { 1.0 });
    assert_closes(&btc.closes(TimeRange::ALL).await, &btc.expected((0..10).map(close)), "all of the series");
    let coverage = btc.coverage(TimeRange::ALL).await;
    assert_eq!(coverage.present().on_grid(btc.key.interval), btc.span(0, 10).into());
    assert_eq!(known(&coverage.empty_by_any(later()), &btc), btc.span(10, 20).into());
}

/// `H-COV-04`: what `present` claims, a read that starts later returns, while a writer is at work.
pub async fn h_cov_04_never_ahead_of_rows(subject: &Subject) {
    let btc = subject.btc();
    let writer = tokio::spawn({
        let btc = btc.clone();
        async move {
            for part in 0..40_u32 {
                let bars = (0..50).map(|step| ((part * 7_919) % 40 * 100 + step, 1.0));
                btc.keep(btc.rows(bars)).await;
            }
        }
    });
    loop {
        let done = writer.is_finished();
        let claimed = btc.present(TimeRange::ALL).await;
        let read = frame::row_runs(&btc.key, &btc.all().await).expect("a read is canonical");
        let ahead = claimed.difference(&read);
        assert!(ahead.is_empty(), "coverage claims rows that a later read does not have: {ahead:?}");
        if done {
            assert_eq!(claimed.count(btc.key.interval), 40 * 50);
            break;
        }
    }
    writer.await.expect("every write is taken");
}

/// `H-COV-05`: a series never written has an empty coverage; asking is not an error, nor a write.
pub async fn h_cov_05_never_written_is_empty(subject: &Subject) {
    let (btc, eth) = (subject.btc(), subject.probe("ETH", "1m"));
    for range in [TimeRange::ALL, btc.span(0, 1)] {
        let coverage = btc.coverage(range).await;
        assert!(coverage.present().is_empty() && coverage.known_empty().is_empty(), "{coverage:?}");
    }
    eth.keep(eth.rows([(0, 1.0)])).await;
    assert!(btc.coverage(TimeRange::ALL).await.present().is_empty(), "those are the rows of another series");
    assert_eq!(btc.listed().await, std::slice::from_ref(&eth.key), "to ask for a series made it");
}

/// What each source proved, its points on the grid.
async fn by_source(series: &Probe, sources: &[&str]) -> Vec<RangeSet> {
    let coverage = series.coverage(TimeRange::ALL).await;
    let proven = |id: &&str| known(&coverage.empty_by_all(&[source(id)], later()), series);
    sources.iter().map(proven).collect()
}

/// `H-COV-06`: the proofs of several sources live side by side, overlapping or not.
pub async fn h_cov_06_sources_live_side_by_side(subject: &Subject) {
    let btc = subject.btc();
    let request = btc
        .request(OnConflict::KeepExisting)
        .with_empty(proof("a", btc.span(0, 10), later()))
        .with_empty(proof("b", btc.span(5, 15), later()));
    btc.write(&request, btc.rows([(20, 1.0)])).await;
    btc.prove(proof("A", btc.span(8, 9), later())).await;
    let expected = [btc.span(0, 10), btc.span(5, 15), btc.span(8, 9)].map(RangeSet::from);
    assert_eq!(by_source(&btc, &["a", "b", "A"]).await, expected);
    let all: Vec<SourceId> = ["a", "b"].map(source).into();
    let both = btc.coverage(TimeRange::ALL).await.empty_by_all(&all, later());
    assert_eq!(known(&both, &btc), btc.span(5, 10).into(), "a poor source must not silence a better one");
}

/// `H-COV-06`: where answers of one source overlap the newer one counts, whichever came first.
pub async fn h_cov_06_the_newer_answer_counts(subject: &Subject) {
    let btc = subject.btc();
    let after = |secs: u64| later().checked_add(Duration::from_secs(secs)).expect("2033");
    let answer = |ranges: TimeRange, reason: &str, secs| {
        EmptyProof::new(source("a"), ranges.into(), reason, after(secs))
    };
    btc.prove(answer(btc.span(0, 10), "second", 20)).await;
    btc.prove(answer(btc.span(5, 15), "third", 30)).await;
    btc.prove(answer(btc.span(0, 20), "first", 10)).await;
    btc.prove(EmptyProof::new(source("b"), btc.span(0, 20).into(), "other", after(40))).await;
    let coverage = btc.coverage(TimeRange::ALL).await;
    let expected = [
        answer(btc.span(15, 20), "first", 10),
        answer(btc.span(0, 5), "second", 20),
        answer(btc.span(5, 15), "third", 30),
        EmptyProof::new(source("b"), btc.span(0, 20).into(), "other", after(40)),
    ];
    assert_eq!(coverage.known_empty(), expected);
    for (version, secs) in [("v#1", 10), ("v#2", 20)] {
        btc.prove(EmptyProof::new(source(version), btc.span(0, 20).into(), "", after(secs))).await;
    }
    let versions = by_source(&btc, &["v#1", "v#2"]).await;
    assert_eq!(versions, [RangeSet::new(), btc.span(0, 20).into()], "a newer version replaces an older one");
}

/// `H-COV-07`: a proof keeps the version of its rule and how often it was confirmed. An answer that
/// repeats one which has expired confirms it; one that comes earlier does not, nor does a look.
pub async fn h_cov_07_rule_and_confirmations_are_kept(subject: &Subject) {
    let btc = subject.btc();
    let after = |secs: u64| btc.bar(20).checked_add(Duration::from_secs(secs)).expect("near 2024");
    let given = proof("a", btc.span(0, 10), after(0)).with_rule(1).with_confirmed(2);
    btc.prove(given.clone()).await;
    let answer = |bars: TimeRange, secs| proof("b", bars, after(secs));
    for (end, secs) in [(15, 0), (15, 3_599), (10, 7_199)] {
        btc.prove(answer(btc.span(0, end), secs)).await;
    }
    let expected = [given, answer(btc.span(10, 15), 3_599), answer(btc.span(0, 10), 7_199).with_confirmed(1)];
    for handle in [Some(subject.backend()), subject.reopened().await].into_iter().flatten() {
        let seen = btc.through(&handle);
        // A write elsewhere may make a store put down anew what it knows.
        seen.keep(seen.rows([(30, 1.0)])).await;
        for _ in 0..2 {
            assert_eq!(seen.coverage(TimeRange::ALL).await.known_empty(), expected);
        }
    }
    // For two hours now, and then it is confirmed again.
    btc.prove(answer(btc.span(0, 10), 7_199 + 7_199)).await;
    btc.prove(answer(btc.span(0, 10), 7_199 + 7_199 + 7_200)).await;
    let coverage = btc.coverage(TimeRange::ALL).await;
    let twice =
        coverage.known_empty().iter().find(|proof| proof.confirmed == 2 && proof.source == source("b"));
    assert_eq!(twice.map(|proof| known(&proof.ranges, &btc)), Some(btc.span(0, 10).into()), "{coverage:?}");
}

/// `H-COV-07`: a proof that is dated far after an answer that is written later yields to it, since
/// its clock was wrong; where clocks differ by minutes the later date counts.
pub async fn h_cov_07_a_date_ahead_yields(subject: &Subject) {
    let btc = subject.btc();
    let after = |secs: u64| btc.bar(20).checked_add(Duration::from_secs(secs)).expect("near 2024");
    btc.prove(proof("a", btc.span(0, 20), later())).await;
    btc.prove(proof("a", btc.span(5, 10), after(0))).await;
    btc.prove(proof("b", btc.span(0, 20), after(300))).await;
    btc.prove(proof("b", btc.span(5, 10), after(0))).await;
    let ahead: RangeSet = [btc.span(0, 5), btc.span(10, 20)].into_iter().collect();
    let expected = [
        proof("a", btc.span(5, 10), after(0)),
        proof("a", ahead, later()),
        proof("b", btc.span(0, 20), after(300)),
    ];
    assert_eq!(btc.coverage(TimeRange::ALL).await.known_empty(), expected);
}

/// `H-COV-07`: what was decided by an older rule never replaces what was decided by a newer one, and
/// yields to it whatever its date.
pub async fn h_cov_07_an_older_rule_never_replaces_a_newer_one(subject: &Subject) {
    let btc = subject.btc();
    let after = |secs: u64| later().checked_add(Duration::from_secs(secs)).expect("2033");
    btc.prove(proof("a", btc.span(5, 15), after(0))).await;
    btc.prove(proof("a", btc.span(0, 20), after(0)).with_rule(1)).await;
    btc.prove(proof("a", btc.span(10, 20), after(60)).with_rule(1)).await;
    btc.prove(proof("b", btc.span(0, 20), after(60)).with_rule(1)).await;
    btc.prove(proof("b", btc.span(5, 15), after(0))).await;
    let coverage = btc.coverage(TimeRange::ALL).await;
    let by_rule = |id: &str, rule: u32| {
        let proofs = coverage.known_empty().iter();
        let proofs = proofs.filter(|proof| proof.source == source(id) && proof.rule == rule);
        known(&proofs.fold(RangeSet::new(), |all, proof| all.union(&proof.ranges)), &btc)
    };
    for id in ["a", "b"] {
        assert_eq!(by_rule(id, EmptyProof::RULE), btc.span(5, 15).into(), "{id}: {coverage:?}");
        let around = [btc.span(0, 5), btc.span(15, 20)].into_iter().collect();
        assert_eq!(by_rule(id, 1), around, "{id}: {coverage:?}");
    }
}
