//! The footer's text: what is written is read, and nothing else is believed.

use proptest::prelude::*;
use qmtl_history_api::ErrorKind;
use qmtl_history_testkit::fixtures::proof;

use super::*;

const PATH: &str = "store/x/1m/0000000001.parquet";

fn partition() -> Partition {
    Partition::around(Interval::MINUTE, "2024-01-01".parse().unwrap())
}

/// The bars `from..to` of the partition.
fn bars(from: i64, to: i64) -> TimeRange {
    let at = |bar: i64| partition().range().start().checked_add_micros(bar * 60_000_000).unwrap();
    TimeRange::new(at(from), at(to)).unwrap()
}

fn footer(coverage: Coverage) -> Footer {
    Footer {
        kind: Kind::Full,
        key: SeriesKey::new("blake3:ab/../\"x\" 🦀", Interval::MINUTE).unwrap(),
        partition: Some(partition()),
        seq: 3,
        built_on: Some(Link { seq: 2, id: "0123456789abcdef".to_owned() }),
        base: None,
        rows: coverage.present().count(Interval::MINUTE),
        coverage,
        inherits: false,
        attempt: None,
    }
}

fn decoded(text: &str) -> Footer {
    Footer::decode(text, Path::new(PATH)).unwrap().0
}

fn refused(text: &str) -> String {
    let error = Footer::decode(text, Path::new(PATH)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains(PATH), "{error}");
    error.to_string()
}

#[test]
fn the_text_is_compact_and_says_what_the_file_is() {
    let mut coverage = Coverage::of_present([bars(2, 5), bars(7, 8)].into_iter().collect());
    coverage.add_empty(&proof("file:a.csv", bars(5, 7), "2024-06-01".parse().unwrap()));
    let chunks = vec![vec!["001122aa".to_owned()]];
    let text = footer(coverage).encode(chunks.clone()).unwrap();
    assert_eq!(
        text,
        concat!(
            r#"{"format":3,"kind":"full","node_id":"blake3:ab/../\"x\" 🦀","interval":"1m","#,
            r#""partition":"20231231T052000Z","seq":3,"built_on":2,"parent":"0123456789abcdef","rows":4,"present":[2,3,2,1],"#,
            r#""known_empty":[{"source":"file:a.csv","reason":"no row in the answer","answered_at":1717200000000000,"#,
            r#""rule":2,"ranges":[300000000,120000000]}],"chunks":[["001122aa"]]}"#
        )
    );
    let checksums = Checksums { kind: Checksum::Crc32, chunks };
    assert_eq!(Footer::decode(&text, Path::new(PATH)).unwrap().1, checksums);
    // Older formats checked chunks another way.
    let older = text.replacen(r#""format":3"#, r#""format":2"#, 1);
    assert_eq!(Footer::decode(&older, Path::new(PATH)).unwrap().1.kind, Checksum::Blake3);
    assert_eq!(Checksum::Crc32.of(b"123456789"), "cbf43926");
}

#[test]
fn a_proof_says_by_which_rule_and_how_often_confirmed_and_older_ones_say_neither() {
    let mut coverage = Coverage::default();
    let young = proof("x", bars(20, 30), bars(40, 50).end()).with_rule(3).with_confirmed(2);
    coverage.add_empty(&young);
    let text = footer(coverage.clone()).encode(Vec::new()).unwrap();
    assert!(text.contains(r#","rule":3,"confirmed":2,"ranges""#), "{text}");
    assert_eq!(decoded(&text).coverage, coverage);
    let older = text.replace(r#""rule":3,"confirmed":2,"#, "");
    let first = young.with_rule(1).with_confirmed(0);
    assert_eq!(decoded(&older).coverage.known_empty(), [first]);
    // So an older build passes over what it does not know.
    let later = text.replace(r#""rule":3,"#, r#""rule":3,"weight":[1],"#);
    assert_eq!(decoded(&later).coverage, coverage);
}

#[test]
fn a_newer_format_is_refused_by_its_number_whatever_else_it_says() {
    assert_eq!(
        refused(r#"{"format":7,"layout":"unheard of"}"#),
        format!(
            "the file has format version 7 and this program knows up to 3: upgrade the program (path: {PATH})"
        )
    );
}

#[test]
fn a_kind_or_a_claim_outside_the_format_is_refused() {
    let good = footer(Coverage::of_present(bars(0, 10).into())).encode(Vec::new()).unwrap();
    for (from, to, field) in [
        (r#""kind":"full""#, r#""kind":"stripe""#, "damaged"),
        (r#""kind":"full""#, r#""kind":"delta""#, "field: base"),
        (r#""rows":10"#, r#""base":{"seq":1,"id":"00"},"rows":10"#, "field: base"),
        (r#""interval":"1m""#, r#""interval":"1M""#, "field: interval"),
        ("20231231T052000Z", "20231231T052100Z", "field: partition"),
        (r#""rows":10"#, r#""rows":11"#, "field: rows"),
        (r#""present":[0,10]"#, r#""present":[0,10,3]"#, "field: present"),
        (r#""present":[0,10]"#, r#""present":[49999,2]"#, "field: present"),
        (r#""present":[0,10]"#, r#""present":[0,10,1,0]"#, "field: present"),
        (r#""present":[0,10]"#, r#""present":[18446744073709551615,10]"#, "field: present"),
        (r#""format":3"#, r#""format":"3""#, "damaged"),
    ] {
        let bad = good.replace(from, to);
        assert_ne!(bad, good);
        let message = refused(&bad);
        assert!(message.contains(field), "{to}: {message}");
    }
}

#[test]
fn the_last_bar_before_the_end_of_time_can_be_stored() {
    let last = Partition::around(Interval::DAY, Timestamp::MAX);
    let points = last.range().points(Interval::DAY);
    let coverage = Coverage::of_present(RangeSet::from_sorted_points(points, Interval::DAY));
    let footer = Footer {
        key: SeriesKey::new("x", Interval::DAY).unwrap(),
        partition: Some(last),
        rows: coverage.present().count(Interval::DAY),
        ..footer(coverage)
    };
    let text = footer.encode(Vec::new()).unwrap();
    assert_eq!(decoded(&text), footer);
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        present in proptest::collection::vec((0i64..50_000, 1i64..500), 0..40),
        proofs in proptest::collection::vec(
            (0i64..50_000, 1i64..500, 0i64..3_000_000_000_000_000, 0..3u8, (1..3u32, 0..3u32)),
            0..8,
        ),
    ) {
        let clip = |from: i64, length: i64| bars(from, (from + length).min(50_000));
        let mut coverage = Coverage::of_present(present.into_iter().map(|(from, n)| clip(from, n)).collect());
        for (from, n, answered_at, source, (rule, confirmed)) in proofs {
            // Proofs need not lie on the grid, and the end of what is settled seldom does.
            let range = clip(from, n);
            let shifted = range.start().checked_add_micros(answered_at % 60_000_000).unwrap();
            let range = TimeRange::checked(shifted, range.end()).unwrap_or(range);
            // Half of them at the end of the partition, so that some repeat others about young bars.
            let answered_at = match answered_at % 2 {
                0 => bars(0, 50_000).end().checked_add_micros(answered_at % 7_200_000_000).unwrap(),
                _ => Timestamp::from_micros(answered_at).unwrap(),
            };
            let proof = proof(&format!("s{source}"), range, answered_at);
            coverage.add_empty(&proof.with_rule(rule).with_confirmed(confirmed));
        }
        let footer = footer(coverage);
        let text = footer.encode(Vec::new()).unwrap();
        // Reading puts the proofs of a ledger together again, which confirms none of them.
        prop_assert_eq!(&decoded(&text), &footer);
        let mut folded = footer.coverage.clone();
        folded.merge(&footer.coverage);
        prop_assert_eq!(folded, footer.coverage);
    }

    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,200}", cut in 0usize..400) {
        let _ = Footer::decode(&text, Path::new(PATH));
        let good = footer(Coverage::of_present(bars(0, 10).into())).encode(Vec::new()).unwrap();
        let head: String = good.chars().take(cut).collect();
        let _ = Footer::decode(&head, Path::new(PATH));
    }
}
