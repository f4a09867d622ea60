//! Units are proven or refused, and text names exactly the instants it says.

use super::*;

const BAR: i64 = 1_515_560_100;

#[test]
fn exactly_one_unit_is_proven() {
    for (unit, scale) in TsUnit::ALL.into_iter().zip([1, 1_000, 1_000_000, 1_000_000_000]) {
        assert_eq!(unit_of(None, BAR * scale, (BAR + 60) * scale).unwrap(), unit);
        assert_eq!(unit_of(Some(unit), BAR * scale, BAR * scale).unwrap(), unit);
        assert_eq!(unit.instant(BAR * scale), Some(Timestamp::from_secs(BAR).unwrap()));
        // The years 1990 to 2100 and no further.
        let (first, end) = (PLAUSIBLE_SECS.start * scale, PLAUSIBLE_SECS.end * scale);
        assert_eq!(unit_of(None, first, end - 1).unwrap(), unit);
        assert!(unit_of(None, first - 1, first).is_err() && unit_of(None, first, end).is_err());
    }
}

#[test]
fn what_is_not_proven_is_refused_with_the_remedy() {
    assert_eq!(
        unit_of(None, BAR, BAR * 1_000).unwrap_err().to_string(),
        "the unit of the time column cannot be proven: no unit puts every value into the years 1990 to 2100; \
         declare seconds, milliseconds, microseconds or nanoseconds (with_ts_unit), or write ISO 8601 text \
         (smallest: 1515560100, largest: 1515560100000)"
    );
    assert_eq!(
        unit_of(Some(TsUnit::Millisecond), BAR, BAR).unwrap_err().to_string(),
        "the time column is declared in milliseconds, but its values can only be seconds \
         (smallest: 1515560100, largest: 1515560100)"
    );
    assert_eq!(
        unit_of(Some(TsUnit::Second), -1, BAR).unwrap_err().to_string(),
        "the time column is declared in seconds, but leaves the years 1970 to 9999 \
         (smallest: -1, largest: 1515560100)"
    );
    // Before 1990 a declaration is needed, and believed.
    assert!(unit_of(None, 0, 60).is_err());
    assert_eq!(unit_of(Some(TsUnit::Second), 0, 60).unwrap(), TsUnit::Second);
}

#[test]
fn spans_hold_exactly_the_values_inside() {
    let at = |micros| Timestamp::from_micros(micros).unwrap();
    let range = TimeRange::new(at(1_000_001), at(3_000_000)).unwrap();
    assert_eq!(TsUnit::Second.span(range), 2..3);
    assert_eq!(TsUnit::Millisecond.span(range), 1_001..3_000);
    assert_eq!(TsUnit::Microsecond.span(range), 1_000_001..3_000_000);
    assert_eq!(TsUnit::Nanosecond.span(range), 1_000_001_000..3_000_000_000);
    assert_eq!(TsUnit::Nanosecond.span(TimeRange::ALL), 0..i64::MAX);
    assert_eq!(TsUnit::Nanosecond.distance_micros(1), 1);
    assert_eq!(TsUnit::Second.distance_micros(60), 60_000_000);
}

#[test]
fn iso_text_names_instants() {
    for text in [
        "2018-01-10T04:55:00Z",
        "2018-01-10 04:55:00",
        "2018-01-10T05:55:00+01:00",
        "2018-01-10 04:55:00+00:00",
        "2018-01-10 04:55:00.000000000",
        "2018-01-10T04:55",
    ] {
        assert_eq!(parse_iso(text), Some(BAR * 1_000_000), "{text}");
    }
    assert_eq!(parse_iso("2018-01-10"), Some((BAR - 17_700) * 1_000_000));
    assert_eq!(parse_iso("2018-01-10 04:55:00.000001"), Some(BAR * 1_000_000 + 1));
    for text in
        ["", "1515560100", "20180110", "04:55", "2018-01-10 04:55:00.0000001", "1969-12-31", "2018-13-01"]
    {
        assert_eq!(parse_iso(text), None, "{text}");
    }
}
