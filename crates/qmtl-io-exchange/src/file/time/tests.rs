//! Units are proven or refused, and text names exactly the instants it says.

use super::*;

const BAR: i64 = 1_515_560_100;

/// Reads integers as a scan does: by their bounds, else one by one.
fn read(declared: Option<TsUnit>, values: &[i64]) -> Result<(TsUnit, Vec<i64>)> {
    let (min, max) = (values.iter().min().unwrap(), values.iter().max().unwrap());
    let reading = Reading::of_integers(declared, *min, *max)?;
    Ok((reading.unit(), values.iter().map(|value| reading.integer(*value)).collect::<Result<_>>()?))
}

#[test]
fn exactly_one_unit_is_proven() {
    for (unit, scale) in TsUnit::ALL.into_iter().zip([1, 1_000, 1_000_000, 1_000_000_000]) {
        for declared in [None, Some(unit)] {
            let reading = Reading::of_integers(declared, BAR * scale, (BAR + 60) * scale).unwrap();
            assert_eq!(reading, Reading::Unit(unit), "a file of one unit is read once");
        }
        assert_eq!(unit.instant(BAR * scale), Some(Timestamp::from_secs(BAR).unwrap()));
        // The years 1990 to 2100 and no further; nanoseconds of 1990 could be ticks.
        let (first, end) = (unit.plausible().start, unit.plausible().end);
        assert_eq!(TsUnit::of(first), Some(unit));
        assert_eq!(TsUnit::of(end - 1), Some(unit));
        assert!(TsUnit::of(first - 1) != Some(unit) && TsUnit::of(end) != Some(unit));
    }
}

#[test]
fn each_value_is_read_by_its_own_unit() {
    let (ms, us, ns) = (BAR * 1_000, BAR * 1_000_000, BAR * 1_000_000_000);
    assert_eq!(read(None, &[BAR, ms + 60_000]).unwrap(), (TsUnit::Millisecond, vec![ms, ms + 60_000]));
    assert_eq!(read(None, &[us + 1, ms]).unwrap(), (TsUnit::Microsecond, vec![us + 1, us]));
    assert_eq!(read(None, &[BAR, ns + 1, ms, us]).unwrap(), (TsUnit::Nanosecond, vec![ns, ns + 1, ns, ns]));
    let last = 4_133_980_799;
    assert_eq!(read(None, &[last, last * 1_000_000_000]).unwrap().1, [last * 1_000_000_000; 2]);
}

#[test]
fn what_is_not_proven_is_refused_with_the_remedy() {
    let refusal = |declared, values: &[i64]| read(declared, values).unwrap_err().to_string();
    let unproven = "the unit of a time cannot be proven: no unit puts it into the years 1990 to 2100; correct it, \
                    declare seconds, milliseconds, microseconds or nanoseconds (with_ts_unit), or write ISO 8601 text";
    assert_eq!(refusal(None, &[0, BAR]), unproven);
    assert_eq!(refusal(None, &[60, 120]), unproven);
    assert_eq!(refusal(None, &[BAR, i64::MAX]), unproven);
    for (declared, values) in [
        (TsUnit::Millisecond, [BAR, BAR]),
        (TsUnit::Millisecond, [BAR * 1_000, BAR]),
        (TsUnit::Millisecond, [0, BAR]),
    ] {
        assert_eq!(
            refusal(Some(declared), &values),
            "the time column is declared in milliseconds, but this value can only be seconds; leave the unit out, \
             so that each value is read by its own (with_ts_unit)"
        );
    }
    assert_eq!(
        refusal(Some(TsUnit::Second), &[-9_214_560_001, BAR]),
        "the time column is declared in seconds, but this value leaves the years 1678 to 9999"
    );
    let from_1962 = [-252_460_800, BAR];
    assert_eq!(read(Some(TsUnit::Second), &from_1962).unwrap(), (TsUnit::Second, from_1962.to_vec()));
    // Before 1990 a declaration is needed, and believed, also where other units' years lie between two rows.
    assert_eq!(read(Some(TsUnit::Second), &[0, 60]).unwrap(), (TsUnit::Second, vec![0, 60]));
    let apart = [86_400_000, BAR * 1_000];
    assert_eq!(read(Some(TsUnit::Millisecond), &apart).unwrap(), (TsUnit::Millisecond, apart.to_vec()));
}

#[test]
fn ticks_are_not_taken_for_nanoseconds_of_1990() {
    let ticks = 638_396_640_000_000_000;
    for values in [[ticks, ticks + 600_000_000], [ticks, BAR * 1_000_000_000], [BAR, ticks]] {
        assert_eq!(
            read(None, &values).unwrap_err().to_string(),
            "a time may count nanoseconds since 1970 or .NET ticks since the year 1; if it counts nanoseconds, say so \
             (with_ts_unit), otherwise write ISO 8601 text (as_nanoseconds: 1990-03-25T20:24:00Z, as_ticks: \
             2024-01-01T00:00:00Z)"
        );
    }
    assert_eq!(read(Some(TsUnit::Nanosecond), &[ticks]).unwrap(), (TsUnit::Nanosecond, vec![ticks]));
    assert_eq!(read(None, &[662_695_776_000_000_000]).unwrap().0, TsUnit::Nanosecond, "1991");
}

#[test]
fn eight_digits_are_dates() {
    let day = 86_400_000_000;
    let first = 19_730 * day;
    assert_eq!(
        read(None, &[20_240_108, 20_240_109]).unwrap(),
        (TsUnit::Microsecond, vec![first, first + day])
    );
    let refusal = |declared, values: &[i64]| read(declared, values).unwrap_err().to_string();
    assert!(
        refusal(None, &[20_240_108, 20_241_301, 20_250_101])
            .starts_with("a time is not a date of eight digits")
    );
    // Mixed lengths and numbers that are no dates prove nothing.
    for values in
        [[20_240_108, 202_401_081], [2_024_010, 20_240_108], [20_240_108, BAR], [20_241_301, 20_241_302]]
    {
        assert!(refusal(None, &values).starts_with("the unit of a time cannot be proven"), "{values:?}");
    }
    assert_eq!(
        refusal(Some(TsUnit::Second), &[20_240_108, 20_240_112]),
        "the time column is declared in seconds, but holds dates such as 20240108; leave the unit out (with_ts_unit) \
         (smallest: 20240108, largest: 20240112)"
    );
}

#[test]
fn spans_hold_exactly_the_values_inside() {
    let at = |micros| Timestamp::from_micros(micros).unwrap();
    let range = TimeRange::new(at(1_000_001), at(3_000_000)).unwrap();
    assert_eq!(TsUnit::Second.span(range), 2..3);
    assert_eq!(TsUnit::Millisecond.span(range), 1_001..3_000);
    assert_eq!(TsUnit::Microsecond.span(range), 1_000_001..3_000_000);
    assert_eq!(TsUnit::Nanosecond.span(range), 1_000_001_000..3_000_000_000);
    assert_eq!(TsUnit::Nanosecond.span(TimeRange::ALL), -9_214_560_000_000_000_000..i64::MAX);
    let early = TimeRange::new(at(-1_500_000), at(-500_000)).unwrap();
    assert_eq!((TsUnit::Second.span(early), TsUnit::Millisecond.span(early)), (-1..0, -1_500..-500));
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
        "2018-01-10 04:55Z",
        "2018-01-10T05:55+0100",
        "2018-01-10 04:55:00+00",
        "20180110T045500Z",
    ] {
        assert_eq!(parse_iso(text), Some(BAR * 1_000_000), "{text}");
    }
    assert_eq!(parse_iso("2018-01-10"), Some((BAR - 17_700) * 1_000_000));
    assert_eq!(parse_iso("2018-01-10 04:55:00.000001"), Some(BAR * 1_000_000 + 1));
    for text in [
        "",
        "1515560100",
        "20180110",
        "04:55",
        "2018-01-10 04:55:00.0000001",
        "1677-12-31",
        "-1515560100",
        "2018-13-01",
    ] {
        assert_eq!(parse_iso(text), None, "{text}");
    }
}

#[test]
fn an_hour_alone_is_a_full_one() {
    let format = TimeFormat::new("%Y-%m-%d %I-%p").unwrap();
    assert_eq!(format.micros("2018-01-10 04-AM"), Some((BAR - 3_300) * 1_000_000));
    assert_eq!(format.micros("2018-01-10 04-PM"), Some((BAR - 3_300 + 43_200) * 1_000_000));
    assert_eq!(format.micros("2018-01-10 13-PM"), None);
}
