//! Which files hold a range: their dates and their paths.

use qmtl_history_api::{TimeRange, Timestamp};

const DAY_MICROS: i64 = 86_400 * 1_000_000;
/// From so much of a month on, its file is fetched and not those of the days.
const MONTHLY_FROM_MICROS: i64 = 4 * DAY_MICROS;

/// A file: a whole day or month in UTC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Period {
    pub(super) range: TimeRange,
    /// `2024-01` or `2024-01-31`.
    pub(super) date: String,
}

impl Period {
    pub(super) fn is_month(&self) -> bool {
        self.date.len() == "2024-01".len()
    }

    fn day_of(at: Timestamp) -> Option<Self> {
        let date = at.to_string().get(..10)?.to_owned();
        let start: Timestamp = date.parse().ok()?;
        let end = start.checked_add_micros(DAY_MICROS)?;
        Some(Self { range: TimeRange::checked(start, end)?, date })
    }

    fn month_of(at: Timestamp) -> Option<Self> {
        let date = at.to_string().get(..7)?.to_owned();
        let start: Timestamp = format!("{date}-01").parse().ok()?;
        // No month is longer, and none so short that this would skip the next one.
        let next = start.checked_add_micros(31 * DAY_MICROS)?.to_string().get(..7)?.to_owned();
        let end: Timestamp = format!("{next}-01").parse().ok()?;
        Some(Self { range: TimeRange::checked(start, end)?, date })
    }

    /// The period whose file has this date in its name.
    pub(super) fn of_date(date: &str) -> Option<Self> {
        let is_month = date.len() == "2024-01".len();
        let start: Timestamp = if is_month { format!("{date}-01").parse() } else { date.parse() }.ok()?;
        let period = if is_month { Self::month_of(start) } else { Self::day_of(start) };
        period.filter(|period| period.date == date)
    }

    /// The month in which it begins.
    pub(super) fn month(&self) -> Option<Self> {
        Self::month_of(self.range.start())
    }

    pub(super) fn day_before(&self) -> Option<Self> {
        self.range.start().checked_add_micros(-1).and_then(Self::day_of)
    }

    pub(super) fn day_after(&self) -> Option<Self> {
        Self::day_of(self.range.end())
    }

    /// The path under a host.
    pub(super) fn path(&self, symbol: &str, interval: &str) -> String {
        let period = if self.is_month() { "monthly" } else { "daily" };
        format!("data/spot/{period}/klines/{symbol}/{interval}/{symbol}-{interval}-{}.zip", self.date)
    }
}

/// The days of `range` that are over at `now`, ascending.
pub(super) fn days(range: TimeRange, now: Timestamp) -> impl Iterator<Item = Period> {
    let over = move |day: &Period| day.range.end() <= now && day.range.start() < range.end();
    std::iter::successors(Period::day_of(range.start()), |day| Period::day_of(day.range.end()))
        .take_while(over)
}

/// The files to read for `range`, ascending: of a month that is over at `now` and of which a good
/// part is wanted its own, else those of the days.
pub(super) fn files(range: TimeRange, now: Timestamp) -> Vec<Period> {
    let months =
        std::iter::successors(Period::month_of(range.start()), |month| Period::month_of(month.range.end()));
    months
        .take_while(|month| month.range.start() < range.end() && month.range.start() < now)
        .filter_map(|month| Some((range.intersect(month.range)?, month)))
        .flat_map(|(part, month)| {
            if month.range.end() <= now && part.micros() >= MONTHLY_FROM_MICROS {
                vec![month]
            } else {
                days(part, now).collect()
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: &str, end: &str) -> TimeRange {
        TimeRange::new(start.parse().unwrap(), end.parse().unwrap()).unwrap()
    }

    fn dates(start: &str, end: &str, now: &str) -> String {
        let dates: Vec<_> =
            files(range(start, end), now.parse().unwrap()).into_iter().map(|period| period.date).collect();
        dates.join(" ")
    }

    #[test]
    fn whole_months_come_as_one_file_and_the_running_one_in_days() {
        assert_eq!(
            dates("2023-12-30", "2024-03-20", "2024-03-03T12:00:00Z"),
            "2023-12-30 2023-12-31 2024-01 2024-02 2024-03-01 2024-03-02"
        );
    }

    #[test]
    fn a_day_that_was_lost_comes_as_its_own_file() {
        assert_eq!(dates("2024-01-31", "2024-02-01", "2025-01-01"), "2024-01-31");
        assert_eq!(
            dates("2024-01-31T23:00:00Z", "2024-02-01T01:00:00Z", "2025-01-01"),
            "2024-01-31 2024-02-01"
        );
        assert_eq!(dates("2024-02-10", "2024-02-14", "2025-01-01"), "2024-02");
    }

    #[test]
    fn nothing_is_asked_for_that_is_not_over() {
        assert_eq!(dates("2024-02-10", "2024-02-14", "2024-02-10T23:59:59Z"), "");
        assert_eq!(dates("2024-02-10", "2024-02-14", "2024-01-01"), "");
        assert_eq!(dates("9999-12-01", "9999-12-31", "2024-01-01"), "");
    }

    #[test]
    fn paths_are_those_of_the_archives() {
        let day = Period::day_of("2024-12-31T23:59:59Z".parse().unwrap()).unwrap();
        assert_eq!(day.path("BTCUSDT", "1m"), "data/spot/daily/klines/BTCUSDT/1m/BTCUSDT-1m-2024-12-31.zip");
        let month = Period::month_of(day.range.start()).unwrap();
        assert_eq!(month.path("BTCUSDT", "1m"), "data/spot/monthly/klines/BTCUSDT/1m/BTCUSDT-1m-2024-12.zip");
        assert_eq!(month.range, range("2024-12-01", "2025-01-01"));
        assert_eq!(month.day_before().unwrap().date, "2024-11-30");
        assert_eq!(month.day_after().unwrap().date, "2025-01-01");
        for period in [&day, &month] {
            assert_eq!(Period::of_date(&period.date).as_ref(), Some(period));
        }
        assert_eq!((Period::of_date("2024-1"), Period::of_date("20240101")), (None, None));
    }
}
