//! Parsing, printing and grid arithmetic, the extremes included.

use proptest::prelude::*;

use super::*;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

#[test]
fn timestamps_print_and_parse() {
    for (text, micros) in [
        ("1970-01-01T00:00:00Z", 0),
        ("1969-12-31T23:59:59.999999Z", -1),
        ("1962-01-02T14:30:00Z", -252_322_200_000_000),
        ("1678-01-01T00:00:00Z", Timestamp::MIN.as_micros()),
        ("2018-01-10T04:55:00Z", 1_515_560_100_000_000),
        ("2024-02-29T12:00:00.5Z", 1_709_208_000_500_000),
        ("9999-12-31T23:59:59.999999Z", Timestamp::MAX.as_micros()),
    ] {
        assert_eq!(at(text).as_micros(), micros, "{text}");
        assert_eq!(
            Timestamp::from_micros(micros).unwrap().to_string().parse::<Timestamp>().unwrap(),
            at(text)
        );
    }
    for text in ["1515560100", "2018-01-10 04:55", "2018-01-10T05:55:00+01:00", "2018-01-10T04:55:00"] {
        assert_eq!(at(text), at("2018-01-10T04:55:00Z"), "{text}");
    }
    assert_eq!(at("20240101"), at("2024-01-01"));
    assert_eq!(at("2024"), at("2024-01-01"));
    assert_eq!((at("1970"), at("0"), at("9999")), (Timestamp::EPOCH, Timestamp::EPOCH, at("9999-01-01")));
    assert_eq!(
        (at("1678"), at("-252322200"), at("19620102")),
        (Timestamp::MIN, at("1962-01-02T14:30:00Z"), at("1962-01-02"))
    );
    assert_eq!(
        (at("1969-12-31T23:59:59.5Z").as_secs(), at("1969-12-31T23:59:59.5Z").as_secs_f64()),
        (-1, -0.5)
    );
    assert_eq!(at("100000000"), at("1973-03-03T09:46:40Z"));
    assert_eq!((at("1962-01-02T14:30:00Z").date(), Timestamp::MAX.date()), ((1962, 1, 2), (9999, 12, 31)));
}

#[test]
fn every_form_of_iso_8601_that_is_written_names_the_same_moment() {
    for text in [
        "2018-01-10T04:55Z",
        "2018-01-10 04:55Z",
        "2018-01-10T05:55+01:00",
        "2018-01-10T05:55+0100",
        "2018-01-10 05:55+01",
        "2018-01-10 04:55:00+00",
        "2018-01-09T23:55:00-0500",
        "2018-01-10T10:25:00.000+0530",
        "2018-01-10T04:55-00:00",
        "20180110T045500Z",
        "20180110T0455Z",
        "20180110T045500",
        "20180110T0455",
        "20180110T055500+0100",
        "20180110T055500.000000+01:00",
    ] {
        assert_eq!(at(text), at("2018-01-10T04:55:00Z"), "{text}");
    }
    assert_eq!(at("20180110T045500.5Z"), at("2018-01-10T04:55:00.500Z"));
}

#[test]
fn times_that_may_mean_several_moments_are_refused() {
    for text in [
        // A day and a month in any order.
        "01/02/2024 00:00",
        "01-02-2024T00:00Z",
        // Cut off, or two numbers.
        "2024-01-01T",
        "2024-01-01T00",
        "2024-01-01T00Z",
        "20240101T00",
        "20240101T00000",
        "20240101 000000",
        "20240101 0000Z",
        "20240101000000",
        "20240101Z",
        // No offsets.
        "2024-01-01T00:00+1",
        "2024-01-01T00:00+100",
        "2024-01-01T00:00+01:0",
        "2024-01-01T00:00+24:00",
        "2024-01-01T00:00+0160",
        "2024-01-01T00:00+01:00Z",
        "2024-01-01T00:00+é",
        "2024-01-01T00:00+0:100",
        "2024-01-01T00:00 UTC",
        "2024-01-01T24:00Z",
        "20240101T240000Z",
        "20241301T000000Z",
    ] {
        assert!(text.parse::<Timestamp>().is_err(), "{text}");
    }
}

#[test]
fn bad_timestamps_are_refused_by_value() {
    for text in [
        "",
        "yesterday",
        "2024-13-01",
        "20241301",
        "-5",
        "1e9",
        "99999999999999",
        "-",
        "-1234",
        "-20240101",
        "-99999999999999",
        "1677-12-31T23:59:59Z",
        // What .NET, Windows and pandas write for no time.
        "0001-01-01",
        "1601-01-01",
        "1677-09-21T00:12:43.145Z",
        "10000-01-01",
    ] {
        let error = text.parse::<Timestamp>().unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::InvalidInput, "{text}");
    }
    assert_eq!(
        "yesterday".parse::<Timestamp>().unwrap_err().to_string(),
        "not a time: use ISO 8601 such as 2024-01-01T00:00:00Z, a date such as 20240101, or epoch seconds (value: \"yesterday\")"
    );
    assert_eq!(
        Timestamp::from_secs(-9_214_560_001).unwrap_err().to_string(),
        "timestamp is outside the years 1678 to 9999 (seconds: -9214560001)"
    );
}

#[test]
fn numbers_that_are_no_epoch_seconds_are_refused_with_what_to_write() {
    for text in ["1", "60", "00", "202", "20240", "202401", "2024010"] {
        assert_eq!(
            text.parse::<Timestamp>().unwrap_err().to_string(),
            format!(
                "too few digits for epoch seconds: write a year such as 2024, a date such as 20240101, or ISO 8601 \
                 such as 2024-01-01T00:00:00Z (value: {text:?})"
            )
        );
    }
    assert!("1677".parse::<Timestamp>().is_err() && "0000".parse::<Timestamp>().is_err());
    for (text, unit, factor, meant) in [
        ("1704067200000", "milliseconds", 1_000, "2024-01-01T00:00:00Z"),
        ("1704067200250", "milliseconds", 1_000, "2024-01-01T00:00:00.250Z"),
        ("631152000000", "milliseconds", 1_000, "1990-01-01T00:00:00Z"),
        ("1704067200000000", "microseconds", 1_000_000, "2024-01-01T00:00:00Z"),
        ("1704067200000000000", "nanoseconds", 1_000_000_000, "2024-01-01T00:00:00Z"),
    ] {
        assert_eq!(
            text.parse::<Timestamp>().unwrap_err().to_string(),
            format!(
                "a number this long counts {unit}, but epoch seconds are wanted: divide it by {factor}, or write \
                 the time in ISO 8601 (value: {text}, probably_meant: {meant})"
            )
        );
    }
}

#[test]
fn intervals_print_the_shortest_form() {
    for (text, secs, shown) in [
        ("1s", 1, "1s"),
        ("60s", 60, "1m"),
        ("90s", 90, "90s"),
        ("120m", 7_200, "2h"),
        ("24h", 86_400, "1d"),
        ("7d", 604_800, "1w"),
    ] {
        let interval: Interval = text.parse().unwrap();
        assert_eq!((interval.as_secs(), interval.to_string().as_str()), (secs, shown));
    }
}

#[test]
fn a_phase_stands_behind_the_length() {
    for (text, secs, phase, shown) in [
        ("1h+30m", 3_600, 1_800, "1h+30m"),
        ("60m+1800s", 3_600, 1_800, "1h+30m"),
        ("1d+16h", 86_400, 57_600, "1d+16h"),
        ("1d+225m", 86_400, 13_500, "1d+225m"),
        ("1w+3d", 604_800, 259_200, "1w+3d"),
        ("1w@thu", 604_800, 259_200, "1w+3d"),
        ("1w@mon", 604_800, 0, "1w"),
        ("1w@sun", 604_800, 518_400, "1w+6d"),
        ("1h+0s", 3_600, 0, "1h"),
        ("3d+1d", 259_200, 86_400, "3d+1d"),
    ] {
        let interval: Interval = text.parse().unwrap();
        assert_eq!((interval.as_secs(), interval.phase_secs()), (secs, phase), "{text}");
        assert_eq!(interval.to_string(), shown);
    }
    let half_past: Interval = "1h+30m".parse().unwrap();
    assert!(Interval::MINUTE < Interval::HOUR && Interval::HOUR < half_past && half_past < Interval::DAY);
    assert_ne!(Interval::HOUR, half_past);
    assert_eq!(Interval::HOUR.with_phase(1_800).unwrap(), half_past);
    assert_eq!(
        Interval::HOUR.with_phase(3_600).unwrap_err().to_string(),
        "a phase is a whole number of seconds, at least 0 and less than the interval (interval: 1h, seconds: 3600)"
    );
}

#[test]
fn a_phase_moves_the_grid() {
    let grid = |text: &str| text.parse::<Interval>().unwrap();
    // New York's hours open at half past, OKX's days at 16:00Z, KuCoin's weeks on Thursday.
    assert_eq!(grid("1h+30m").floor(at("2024-01-08T15:29:59Z")), Some(at("2024-01-08T14:30:00Z")));
    assert_eq!(grid("1h+30m").next(at("2024-01-08T15:30:00Z")), Some(at("2024-01-08T16:30:00Z")));
    assert_eq!(grid("1d+16h").ceil(at("2024-01-08")), Some(at("2024-01-08T16:00:00Z")));
    assert!(grid("1w+3d").is_on_grid(at("2024-01-04")) && !grid("1w+3d").is_on_grid(at("2024-01-01")));
    // Bars are numbered from the first one that is not before the epoch.
    for (text, origin) in [
        ("1m", "1970-01-01"),
        ("1h+30m", "1970-01-01T00:30:00Z"),
        ("1w", "1970-01-05"),
        ("1w+2d", "1970-01-07"),
        ("1w+3d", "1970-01-01"),
        ("2w", "1970-01-05"),
        ("2w+10d", "1970-01-01"),
    ] {
        let interval = grid(text);
        assert_eq!((interval.origin(), interval.index(at(origin))), (at(origin), 0), "{text}");
        assert_eq!(interval.index(at(origin).checked_add_micros(-1).unwrap()), -1, "{text}");
        assert_eq!(interval.opening(-1), at(origin).checked_sub(interval.duration()), "{text}");
    }
    assert_eq!(Interval::HOUR.through(at("2024-01-08T14:30:00Z")), Some(grid("1h+30m")));
    assert_eq!(grid("1h+10m").through(at("2024-01-08T14:30:00Z")), Some(grid("1h+30m")));
    assert_eq!(grid("1w").through(at("2024-01-04")), Some(grid("1w@thu")));
    assert_eq!(Interval::HOUR.through(at("2024-01-08T14:30:00.5Z")), None);
}

#[test]
fn bad_intervals_are_refused_with_a_hint() {
    let message = |text: &str| text.parse::<Interval>().unwrap_err().to_string();
    assert_eq!(
        message("1M"),
        "not an interval: M would be a month, which has no fixed length: keep days, 1d, and make months of them; \
         minutes are written m (value: \"1M\")"
    );
    assert_eq!(
        message("60"),
        "not an interval: the unit is missing; seconds are written s, such as 60s (value: \"60\")"
    );
    assert_eq!(message("0m"), "not an interval: it must last from 1 second to 3650 days (value: \"0m\")");
    assert_eq!(
        message("1h+1h"),
        "not an interval: its phase, behind the +, must be shorter than the interval (value: \"1h+1h\")"
    );
    assert_eq!(
        message("2w@thu"),
        "not an interval: only 1w can open @ a day; write a phase, such as 2w+3d (value: \"2w@thu\")"
    );
    assert_eq!(
        message("1w@Thursday"),
        "not an interval: a week opens @mon, @tue, @wed, @thu, @fri, @sat or @sun (value: \"1w@Thursday\")"
    );
    for text in ["1h+", "+30m", "1h+30", "1h-30m", "1d+16h+5m", "1w@", "@thu", "1h+1M", "1h+3650000d"] {
        assert!(message(text).starts_with("not an interval: "), "{text}");
    }
    for text in ["5x", "", "m", "-1m", "1 m", "1D", "99999999999999999999s", "9223372036854775807w", "５m"] {
        assert!(message(text).starts_with("not an interval: "), "{text}");
    }
}

#[test]
fn weeks_open_on_monday() {
    let week: Interval = "1w".parse().unwrap();
    assert_eq!(week.floor(at("2024-05-19")), Some(at("2024-05-13")));
    assert_eq!(week.ceil(at("2024-05-14")), Some(at("2024-05-20")));
    assert!(week.is_on_grid(at("2024-05-13")) && !week.is_on_grid(at("2024-05-16")));
    assert_eq!(week.floor(at("1970-01-04T23:59:59Z")), Some(at("1969-12-29")));
    assert_eq!(week.ceil(Timestamp::EPOCH), Some(at("1970-01-05")));
    assert_eq!("2w".parse::<Interval>().unwrap().ceil(Timestamp::EPOCH), Some(at("1970-01-05")));
    // The week around the beginning of time opened in 1677, which cannot be named.
    assert_eq!((week.floor(Timestamp::MIN), week.ceil(Timestamp::MIN)), (None, Some(at("1678-01-03"))));
    // Days and odd spans count from the epoch.
    assert!("3d".parse::<Interval>().unwrap().is_on_grid(at("1970-01-04")));
}

proptest! {
    #[test]
    fn grid_arithmetic_never_panics_and_agrees_with_itself(
        micros in prop_oneof![
            Timestamp::MIN.as_micros()..=Timestamp::MAX.as_micros(),
            -1_000_000_000_000i64..1_000_000_000_000,
            Just(Timestamp::MIN.as_micros()),
            Just(Timestamp::MAX.as_micros()),
        ],
        secs in prop_oneof![1i64..100_000, Just(604_800), Just(315_360_000)],
        phase in prop_oneof![Just(0), 0i64..315_360_000],
    ) {
        let ts = Timestamp::from_micros(micros).unwrap();
        let interval = Interval::from_secs(secs).unwrap().with_phase(phase % secs).unwrap();
        let index = interval.index(ts);
        prop_assert_eq!(interval.opening(index), interval.floor(ts));
        prop_assert_eq!(interval.opening(index + 1), interval.next(ts));
        prop_assert_eq!(interval.through(ts) == Some(interval), interval.is_on_grid(ts));
        prop_assert!(interval.is_on_grid(interval.origin()) && interval.index(interval.origin()) == 0);
        if let Some(floor) = interval.floor(ts) {
            prop_assert!(interval.is_on_grid(floor) && floor <= ts);
            prop_assert!(ts.as_micros() - floor.as_micros() < interval.as_micros());
            prop_assert_eq!(interval.next(ts), floor.checked_add_micros(interval.as_micros()));
        }
        if let Some(ceil) = interval.ceil(ts) {
            prop_assert!(interval.is_on_grid(ceil) && ceil >= ts);
            prop_assert!(ceil.as_micros() - ts.as_micros() < interval.as_micros());
        }
        prop_assert_eq!(interval.is_on_grid(ts), interval.floor(ts) == Some(ts));
        prop_assert_eq!(interval.to_string().parse::<Interval>().unwrap(), interval);
        prop_assert_eq!(ts.to_string().parse::<Timestamp>().unwrap(), ts);
    }

    #[test]
    fn all_forms_of_a_moment_are_read_alike(
        micros in Timestamp::MIN.as_micros() + 86_400_000_000..Timestamp::MAX.as_micros() - 86_400_000_000,
        minutes_east in -1_439_i32..1_440,
    ) {
        let ts = Timestamp::from_micros(micros).unwrap();
        let offset = chrono::FixedOffset::east_opt(minutes_east * 60).unwrap();
        let local = DateTime::from_timestamp_micros(micros).unwrap().with_timezone(&offset);
        for date in ["%Y-%m-%dT%H:%M:%S%.6f", "%Y-%m-%d %H:%M:%S%.6f", "%Y%m%dT%H%M%S%.6f"] {
            for zone in ["%z", "%:z"] {
                let text = local.format(&format!("{date}{zone}")).to_string();
                prop_assert_eq!(text.parse::<Timestamp>().unwrap(), ts, "{}", text);
            }
        }
    }

    #[test]
    fn any_text_and_any_number_is_answered(text in ".{0,40}", number in any::<i64>()) {
        let _ = text.parse::<Timestamp>();
        let _ = text.parse::<Interval>();
        let _ = Interval::from_secs(number);
        let _ = Interval::DAY.with_phase(number);
        let _ = Interval::MINUTE.opening(number);
        let _ = Timestamp::from_micros(number);
        let _ = Timestamp::from_secs(number);
        let _ = Timestamp::MAX.checked_add_micros(number);
        let _ = Timestamp::MAX.checked_add(Duration::from_secs(number.unsigned_abs()));
        let _ = Timestamp::MIN.checked_sub(Duration::from_secs(number.unsigned_abs()));
    }
}
