//! Proofs, their expiry, and rows against proofs.

use proptest::prelude::*;

use super::*;

const DAY: i64 = 86_400;

fn secs(value: i64) -> Timestamp {
    Timestamp::from_secs(value).unwrap()
}

fn range(start: i64, end: i64) -> TimeRange {
    TimeRange::new(secs(start), secs(end)).unwrap()
}

fn source(name: &str) -> SourceId {
    SourceId::new(name).unwrap()
}

fn proof(name: &str, ranges: TimeRange, answered_at: i64) -> EmptyProof {
    EmptyProof::new(source(name), ranges.into(), "no row in the answer", secs(answered_at))
}

#[test]
fn old_bars_are_settled_and_young_ones_believed_for_an_hour() {
    let answered = 20 * DAY;
    let proof = proof("x", range(12 * DAY, 14 * DAY), answered);
    assert_eq!(proof.expires_at(secs(12 * DAY)), None);
    // Exactly seven days is not more than seven days.
    assert_eq!(proof.expires_at(secs(13 * DAY)), Some(secs(answered + 3_600)));
    assert_eq!(proof.valid_at(secs(answered)), range(12 * DAY, 14 * DAY).into());
    assert_eq!(proof.valid_at(secs(answered + 3_600)), range(12 * DAY, 13 * DAY).into());
    assert_eq!(proof.settled(), range(12 * DAY, 13 * DAY).into());
}

#[test]
fn missing_asks_every_configured_source_once() {
    let mut coverage = Coverage::of_present(range(0, 600).into());
    let now = 100 * DAY;
    coverage.add_empty(&proof("poor", range(600, 3_600), now));
    coverage.add_empty(&proof("good", range(600, 1_200), now));
    let missing = |sources: &[&str]| {
        let sources: Vec<_> = sources.iter().map(|name| source(name)).collect();
        coverage.missing(range(0, 3_600), Interval::MINUTE, &sources, secs(now))
    };
    assert_eq!(missing(&["poor"]), RangeSet::new());
    assert_eq!(missing(&["good"]), range(1_200, 3_600).into());
    assert_eq!(missing(&["good", "poor"]), range(1_200, 3_600).into());
    assert_eq!(missing(&["new"]), range(600, 3_600).into());
    assert_eq!(missing(&[]), range(600, 3_600).into());
    assert_eq!(coverage.empty_by_any(secs(now)), range(600, 3_600).into());
}

#[test]
fn a_row_removes_the_proof_at_its_point_and_a_proof_never_removes_a_row() {
    let mut coverage = Coverage::default();
    coverage.add_empty(&proof("x", range(0, 300), 100 * DAY));
    coverage.add_present(&range(60, 120).into());
    coverage.add_empty(&proof("x", range(0, 300), 101 * DAY));
    assert_eq!(coverage.present(), &range(60, 120).into());
    let expected: RangeSet = [range(0, 60), range(120, 300)].into_iter().collect();
    assert_eq!(coverage.empty_by_any(secs(101 * DAY)), expected);
}

#[test]
fn settled_answers_of_a_day_do_not_pile_up() {
    let mut coverage = Coverage::default();
    for fetch in 0..100 {
        coverage.add_empty(&proof("x", range(fetch * 60, fetch * 60 + 60), 100 * DAY + fetch));
    }
    assert_eq!(coverage.known_empty(), [proof("x", range(0, 6_000), 100 * DAY + 99)]);
    coverage.add_empty(&proof("x", range(6_000, 6_060), 101 * DAY));
    assert_eq!(coverage.known_empty().len(), 2, "what is dated wrong does not spread beyond a day");
}

#[test]
fn a_newer_answer_replaces_the_older_one() {
    let mut coverage = Coverage::default();
    coverage.add_empty(&proof("x", range(0, 300), 2 * DAY));
    coverage.add_empty(&proof("x", range(60, 120), 3 * DAY));
    coverage.add_empty(&proof("x", range(0, 300), 3 * DAY - 300));
    let young: RangeSet = [range(0, 60), range(120, 300)].into_iter().collect();
    assert_eq!(
        coverage.known_empty()[0],
        proof("x", range(0, 60), 3 * DAY - 300).with_confirmed(1).about(young)
    );
    assert_eq!(coverage.known_empty()[1], proof("x", range(60, 120), 3 * DAY).with_confirmed(1));
}

#[test]
fn an_answer_from_the_future_counts_nowhere_and_yields_to_any_other() {
    let now = secs(100 * DAY);
    let ahead = |seconds: i64| proof("x", range(0, 600), 100 * DAY + seconds);
    assert_eq!(ahead(300).valid_at(now), range(0, 600).into(), "clocks differ");
    assert_eq!(ahead(301).valid_at(now), RangeSet::new());
    let mut coverage = Coverage::default();
    coverage.add_empty(&ahead(20 * DAY));
    coverage.add_empty(&proof("x", range(60, 120), 100 * DAY));
    assert_eq!(coverage.empty_by_any(now), range(60, 120).into());
    assert_eq!(coverage.known_empty()[0], proof("x", range(60, 120), 100 * DAY), "it inherits no date");
}

#[test]
fn what_an_exchange_proved_by_an_older_rule_is_believed_no_longer() {
    let now = secs(100 * DAY);
    let old = proof("binance", range(0, 600), 100 * DAY).with_rule(1);
    assert_eq!(old.valid_at(now), RangeSet::new());
    let file = proof("file:a.csv#1", range(0, 600), 100 * DAY).with_rule(1);
    assert_eq!(file.valid_at(now), range(0, 600).into(), "a file says the same as ever");
    let mut coverage = Coverage::default();
    coverage.add_empty(&old);
    coverage.add_empty(&proof("binance", range(0, 60), 99 * DAY));
    coverage.add_empty(&old);
    assert_eq!(coverage.empty_by_any(now), range(0, 60).into(), "however late an older build said so");
}

#[test]
fn each_answer_that_says_the_same_is_believed_for_twice_as_long_up_to_a_day() {
    let mut coverage = Coverage::default();
    let (mut now, mut hours) = (10 * DAY, Vec::new());
    for _ in 0..7 {
        coverage.add_empty(&proof("x", range(10 * DAY - 600, 10 * DAY), now));
        coverage.add_empty(&proof("x", range(10 * DAY - 600, 10 * DAY), now));
        let [one] = coverage.known_empty() else { panic!("{:?}", coverage.known_empty()) };
        hours.push(one.provisional_for().as_secs() / 3_600);
        now += i64::try_from(one.provisional_for().as_secs()).unwrap();
    }
    assert_eq!(hours, [1, 2, 4, 8, 16, 24, 24]);
    coverage.add_empty(&proof("x", range(10 * DAY - 600, 10 * DAY), 30 * DAY));
    assert_eq!(coverage.known_empty(), [proof("x", range(10 * DAY - 600, 10 * DAY), 30 * DAY)]);
}

#[test]
fn a_source_without_a_version_answers_for_all_of_its_versions() {
    let mut coverage = Coverage::default();
    coverage.add_empty(&proof("archive#a", range(0, 60), 100 * DAY));
    coverage.add_empty(&proof("archive#b", range(60, 120), 100 * DAY));
    let known = |id: &str| coverage.empty_by_all(&[source(id)], secs(100 * DAY));
    assert_eq!(known("archive"), range(0, 120).into());
    assert_eq!(known("archive#b"), range(60, 120).into());
    assert_eq!(source("archive#a").with_version("c"), source("archive#c"));
}

#[test]
fn the_versions_of_a_file_do_not_pile_up() {
    let mut coverage = Coverage::default();
    for version in 0..40 {
        coverage.add_empty(&proof(&format!("file:a.csv#{version}"), range(0, 600), 100 * DAY + version));
    }
    coverage.add_empty(&proof("file:b.csv#0", range(0, 60), 100 * DAY));
    assert_eq!(
        coverage.known_empty(),
        [
            proof("file:a.csv#39", range(0, 600), 100 * DAY + 39),
            proof("file:b.csv#0", range(0, 60), 100 * DAY)
        ]
    );
    let now = secs(100 * DAY + 60);
    assert_eq!(coverage.empty_by_all(&[source("file:a.csv#38")], now), RangeSet::new());
    assert_eq!(source("file:a#b.csv#39").name(), "file:a#b.csv");
    assert_eq!(source("binance").name(), "binance");
}

fn any_change() -> impl Strategy<Value = (bool, u8, i64, i64, i64)> {
    (any::<bool>(), 0..3u8, 0..50i64, 1..10i64, 0..20i64)
}

proptest! {
    #[test]
    fn rows_and_proofs_agree_with_a_model_by_point(changes in prop::collection::vec(any_change(), 0..40)) {
        let mut coverage = Coverage::default();
        let mut rows = std::collections::BTreeSet::new();
        // The last answer of each source at each point: days apart, one that is dated later was dated wrong.
        let mut answers = std::collections::BTreeMap::new();
        for (is_row, name, start, length, day) in changes {
            let span = range(start * 60, (start + length) * 60);
            if is_row {
                coverage.add_present(&span.into());
                rows.extend(start..start + length);
            } else {
                coverage.add_empty(&proof(&name.to_string(), span, day * DAY));
                for point in (start..start + length).filter(|point| !rows.contains(point)) {
                    answers.insert((name, point), day);
                }
            }
            answers.retain(|(_, point), _| !rows.contains(point));
        }
        prop_assert_eq!(coverage.present().points(Interval::MINUTE).count(), rows.len());
        let now = secs(19 * DAY + 60);
        for name in 0..3u8 {
            let believed = coverage.empty_by_all(&[source(&name.to_string())], now);
            for point in 0..60i64 {
                // The points lie in the first hour of 1970: settled from the eighth day on.
                let expected = answers.get(&(name, point)).is_some_and(|day| *day >= 8 || *day == 19);
                prop_assert_eq!(believed.contains(secs(point * 60)), expected, "source {} point {}", name, point);
            }
            let mut seen = RangeSet::new();
            for proof in coverage.known_empty().iter().filter(|p| p.source.as_str() == name.to_string()) {
                prop_assert!(seen.intersection(&proof.ranges).is_empty());
                seen = seen.union(&proof.ranges);
            }
        }
        let cut = range(600, 1_800);
        let inside = coverage.within(cut);
        prop_assert_eq!(inside.present(), &coverage.present().within(cut));
    }
}
