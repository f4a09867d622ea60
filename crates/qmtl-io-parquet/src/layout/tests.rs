//! Partitions against a naive reading of the grid, and names for any node id.

use proptest::prelude::*;

use super::*;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

#[test]
fn partitions_are_aligned_to_the_grid_and_named_by_their_start() {
    let minute = Partition::around(Interval::MINUTE, at("2024-01-01"));
    assert_eq!(minute.name(), "20231231T052000Z");
    assert_eq!(minute.range().start().as_secs() % (50_000 * 60), 0);
    assert_eq!(minute.range().count(Interval::MINUTE), 50_000);

    let week: Interval = "1w".parse().unwrap();
    let first = Partition::around(week, at("1970-01-05"));
    assert_eq!(first.name(), "19700105T000000Z", "weeks count from Monday");
    assert_eq!(first.range().start(), Partition::around(week, at("2024-01-01")).range().start());

    let longest = Interval::from_secs(3_650 * 86_400).unwrap();
    let all = Partition::around(longest, Timestamp::MAX);
    let from_epoch = TimeRange::new(Timestamp::EPOCH, Timestamp::MAX).unwrap();
    assert_eq!(all.range(), from_epoch, "a span beyond the end of time is cut there");
}

#[test]
fn partitions_are_counted_from_the_epoch_to_both_sides() {
    let around = |interval: &str, ts: &str| Partition::around(interval.parse().unwrap(), at(ts));
    let before = around("1m", "1969-12-31T23:59:00Z");
    assert_eq!((before.name().as_str(), before.range().end()), ("19691127T064000Z", Timestamp::EPOCH));
    assert_eq!(around("1m", "1969-11-27T06:39:00Z").range().end(), before.range().start());
    // The first grid point of time begins the first partition.
    assert_eq!(around("1d", "1962-01-02").name(), "18330208T000000Z");
    assert_eq!(around("1d", "1833-02-07").name(), "16960317T000000Z");
    assert_eq!(around("1d", "1696-03-16").name(), "16780101T000000Z");
    assert_eq!(around("1w", "1962-01-02").name(), "16780103T000000Z");
    assert_eq!(around("1w+3d", "1962-01-04").name(), "16780106T000000Z");
    // A phase moves partitions with their bars.
    assert_eq!(around("1h+30m", "2024-01-01T00:30:00Z").name(), "20210503T003000Z");
    assert_eq!(Partition::parse("1h+30m".parse().unwrap(), "20210503T000000Z"), None);
    for (interval, name) in
        [("1d", "16780101T000000Z"), ("1w", "16780103T000000Z"), ("1m", "19691127T064000Z")]
    {
        assert_eq!(
            Partition::parse(interval.parse().unwrap(), name).map(Partition::name).as_deref(),
            Some(name)
        );
    }
}

#[test]
fn a_range_touches_only_partitions_that_hold_one_of_its_points() {
    let second: Interval = "1s".parse().unwrap();
    let names = |start: &str, end: &str| {
        let range = TimeRange::new(at(start), at(end)).unwrap();
        Partition::over(second, range).map(Partition::name).collect::<Vec<_>>()
    };
    assert_eq!(names("1970-01-01T13:53:19Z", "1970-01-01T13:53:20Z"), ["19700101T000000Z"]);
    assert_eq!(names("1970-01-01T13:53:19.5Z", "1970-01-01T13:53:20.5Z"), ["19700101T135320Z"]);
    assert_eq!(
        names("1970-01-01", "1970-01-02T03:46:40.000001Z"),
        ["19700101T000000Z", "19700101T135320Z", "19700102T034640Z"]
    );
    assert_eq!(names("1970-01-01T00:00:00.1Z", "1970-01-01T00:00:00.9Z"), [""; 0]);
}

#[test]
fn only_names_of_this_format_are_partitions() {
    for name in [
        "",
        "20231231T052000",
        "20231231T052001Z",
        "2023-12-09T08:00Z",
        "é0231209T08000Z",
        "_schema",
        "20239999T080000Z",
    ] {
        assert_eq!(Partition::parse(Interval::MINUTE, name), None, "{name}");
    }
    assert!(Partition::parse(Interval::MINUTE, "20231231T052000Z").is_some());
    assert_eq!(Partition::parse(Interval::HOUR, "20231231T052000Z"), None, "another interval's grid");
}

#[test]
fn folders_are_readable_safe_and_distinct() {
    let folder = |id: &str| node_folder(&NodeId::new(id).unwrap());
    let btc = folder("ohlcv:binance:BTC/USDT:1m");
    let (slug, hash) = btc.rsplit_once('-').unwrap();
    assert_eq!(slug, "ohlcv-binance-BTC-USDT-1m");
    assert!(hash.len() == 16 && hash.bytes().all(|b| b.is_ascii_hexdigit()));
    assert!(folder("🦀").starts_with("node-"));
    assert!(folder("..").starts_with("node-"));
    assert!(folder(&"x/".repeat(512)).len() <= 57);
    assert_ne!(folder("BTC"), folder("btc"));
    assert_ne!(folder("BTC"), folder("BTC."));
}

#[test]
fn commits_are_numbered_from_one_with_zeros_in_front() {
    assert_eq!(commit_file(12), "0000000012.parquet");
    assert_eq!(parse_commit("0000000012.parquet"), Some(12));
    assert_eq!(parse_commit("99999999999.parquet"), Some(99_999_999_999));
    for name in
        ["0000000000.parquet", "12.parquet", "+000000012.parquet", ".tmp-abc", "0000000012.parquet.bak"]
    {
        assert_eq!(parse_commit(name), None, "{name}");
    }
}

proptest! {
    #[test]
    fn every_grid_point_lies_in_exactly_the_partition_of_its_folder(
        secs in 1i64..400_000_000,
        micros in 0i64..=Timestamp::MAX.as_micros(),
    ) {
        let Ok(interval) = Interval::from_secs(secs) else { return Ok(()) };
        let Some(point) = interval.floor(Timestamp::from_micros(micros).unwrap()) else { return Ok(()) };
        let partition = Partition::around(interval, point);
        prop_assert!(partition.range().contains(point));
        prop_assert!(interval.is_on_grid(partition.range().start()));
        prop_assert!(partition.range().count(interval) <= 50_000);
        prop_assert_eq!(Partition::around(interval, partition.range().start()), partition);
        prop_assert_eq!(Partition::parse(interval, &partition.name()), Some(partition));
        if let Some(before) = partition.range().start().checked_add_micros(-1).and_then(|ts| interval.floor(ts)) {
            prop_assert_eq!(Partition::around(interval, before).range().end(), partition.range().start());
        }
    }

    #[test]
    fn any_node_id_gives_a_portable_folder_name(id in "\\PC{1,64}") {
        let name = node_folder(&NodeId::new(&id).unwrap());
        prop_assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'), "{}", name);
        prop_assert!(name.len() <= 57 && !name.starts_with('-'));
    }
}
