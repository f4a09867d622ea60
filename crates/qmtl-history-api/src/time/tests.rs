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
    assert_eq!((at("1970"), at("0"), at("9999")), (Timestamp::MIN, Timestamp::MIN, at("9999-01-01")));
    assert_eq!(at("100000000"), at("1973-03-03T09:46:40Z"));
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
        "1969-12-31T23:59:59Z",
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
        Timestamp::from_secs(-1).unwrap_err().to_string(),
        "timestamp is outside the years 1970 to 9999 (seconds: -1)"
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
    assert!("1969".parse::<Timestamp>().is_err() && "0000".parse::<Timestamp>().is_err());
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
fn bad_intervals_are_refused_with_a_hint() {
    let message = |text: &str| text.parse::<Interval>().unwrap_err().to_string();
    assert_eq!(
        message("1M"),
        "not an interval: M would be a month, which has no fixed length; minutes are written m (value: \"1M\")"
    );
    assert_eq!(
        message("60"),
        "not an interval: the unit is missing; seconds are written s, such as 60s (value: \"60\")"
    );
    assert_eq!(message("0m"), "not an interval: it must last from 1 second to 3650 days (value: \"0m\")");
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
    // The week around the epoch opened in 1969, which cannot be named.
    assert_eq!(week.floor(at("1970-01-04T23:59:59Z")), None);
    assert_eq!(week.ceil(Timestamp::MIN), Some(at("1970-01-05")));
    assert_eq!("2w".parse::<Interval>().unwrap().ceil(Timestamp::MIN), Some(at("1970-01-05")));
    // Days and odd spans count from the epoch.
    assert!("3d".parse::<Interval>().unwrap().is_on_grid(at("1970-01-04")));
}

proptest! {
    #[test]
    fn grid_arithmetic_never_panics_and_agrees_with_itself(
        micros in 0..=Timestamp::MAX.as_micros(),
        secs in prop_oneof![1i64..100_000, Just(604_800), Just(315_360_000)],
    ) {
        let (ts, interval) = (Timestamp::from_micros(micros).unwrap(), Interval::from_secs(secs).unwrap());
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
    fn any_text_and_any_number_is_answered(text in ".{0,40}", number in any::<i64>()) {
        let _ = text.parse::<Timestamp>();
        let _ = text.parse::<Interval>();
        let _ = Interval::from_secs(number);
        let _ = Timestamp::from_micros(number);
        let _ = Timestamp::from_secs(number);
        let _ = Timestamp::MAX.checked_add_micros(number);
        let _ = Timestamp::MAX.checked_add(Duration::from_secs(number.unsigned_abs()));
        let _ = Timestamp::MIN.checked_sub(Duration::from_secs(number.unsigned_abs()));
    }
}
