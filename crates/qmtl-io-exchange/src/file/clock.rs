//! Whether times that are read as UTC are those of local clocks.

use chrono::{DateTime, Datelike, Weekday};
use qmtl_history_api::Interval;

use super::time::TsUnit;

/// Where the times of rows without a zone go back as clocks do that are put back by an hour, in the unit of the rows.
#[derive(Clone, Debug)]
pub(super) struct StepsBack {
    hour: i64,
    last: Option<i64>,
    /// The times before and behind each step, and the row behind it.
    found: Vec<(i64, i64, u64)>,
    /// Rows go back otherwise too.
    is_other: bool,
}

impl StepsBack {
    /// Of how many years the steps are remembered.
    const MOST: usize = 64;

    pub(super) fn new(unit: TsUnit) -> Self {
        let hour = unit.steps(Interval::HOUR).cast_signed();
        Self { hour, last: None, found: Vec::new(), is_other: false }
    }

    /// Takes the time of the next row.
    pub(super) fn add(&mut self, time: i64, row: u64) {
        let Some(last) = self.last.replace(time).filter(|last| time <= *last) else { return };
        self.is_other |= last.abs_diff(time) >= self.hour.unsigned_abs() || self.found.len() == Self::MOST;
        if !self.is_other {
            self.found.push((last, time, row));
        }
    }

    /// What is said of them, where rows are usually `gap` apart and `place` is what the place of a row is called.
    pub(super) fn note(&self, unit: TsUnit, gap: Option<u64>, place: &str) -> Option<String> {
        let (_, time, row) = self.found.first().filter(|_| !self.is_other)?;
        let gap = gap?.cast_signed();
        // Clocks are put back on a Sunday, in autumn of either hemisphere.
        let is_day = |time: i64| {
            let day = unit.instant(time).and_then(|ts| DateTime::from_timestamp_micros(ts.as_micros()));
            day.is_some_and(|day| day.weekday() == Weekday::Sun && [3, 4, 9, 10, 11].contains(&day.month()))
        };
        let is_fold =
            |(before, after, _): &(i64, i64, u64)| before - after + gap == self.hour && is_day(*after);
        self.found.iter().all(is_fold).then(|| {
            let at = unit.instant(*time).map_or_else(String::new, |ts| format!(" ({ts})"));
            format!(
                "times go back at {place} {row}{at}, as local clocks do in autumn: give their time zone (with_zone), or they \
                 are read as UTC"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2024-10-27 and 2024-10-28, midnight.
    const SUNDAY: i64 = 1_729_987_200;
    const MONDAY: i64 = SUNDAY + 86_400;

    fn note(minutes: &[i64], day: i64, gap: u64) -> Option<String> {
        let mut steps = StepsBack::new(TsUnit::Second);
        (1..).zip(minutes).for_each(|(row, minute)| steps.add(day + minute * 60, row));
        steps.note(TsUnit::Second, Some(gap * 60), "line")
    }

    #[test]
    fn an_hour_that_comes_twice_on_a_sunday_in_autumn_is_that_of_local_clocks() {
        let told = |note: Option<String>| {
            note.is_some_and(|note| note.starts_with("times go back at line 4 (2024-10-27T02:00:00Z)"))
        };
        assert!(told(note(&[60, 120, 150, 120, 150, 180], SUNDAY, 30)));
        assert!(told(note(&[0, 60, 120, 120, 180], SUNDAY, 60)));
        for (minutes, day, gap) in [
            (&[0, 60, 120, 180][..], SUNDAY, 60),
            // Rows of another file behind those of one, or in no order.
            (&[0, 60, 120, 120, 180], MONDAY, 60),
            (&[0, 30, 60, 45, 75], SUNDAY, 30),
            (&[0, 60, 120, 120, 180, 60], SUNDAY, 60),
            (&[180, 120, 60, 60, 0], SUNDAY, 60),
        ] {
            assert_eq!(note(minutes, day, gap), None, "{minutes:?}");
        }
    }
}
