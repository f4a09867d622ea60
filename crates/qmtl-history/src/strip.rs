//! The heat strip: one row a month, one cell a day, shaded by the share of bars that are stored.

use qmtl_history_api::{Interval, RangeSet, TimeRange, Timestamp};

const DAY_MICROS: i64 = 86_400_000_000;

/// What is drawn of a series.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Strip<'a> {
    pub(crate) interval: Interval,
    /// The range that the strip is about.
    pub(crate) wanted: TimeRange,
    pub(crate) present: &'a RangeSet,
    pub(crate) known_empty: &'a RangeSet,
}

/// How the cells look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// Letters and signs.
    Ascii,
    /// Shades in colour.
    Rich,
}

/// What a day's cell says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cell {
    /// No bar opens in the part of the day that is asked about.
    Blank,
    /// Every bar is proven not to exist.
    Empty,
    /// Every bar is stored or proven not to exist, some of each.
    Settled,
    /// Quarters of the bars that can exist: 0 is none, 4 is all of them.
    Share(u8),
}

impl Strip<'_> {
    /// The lines, a legend last; of more months than `months` the newest.
    pub(crate) fn lines(&self, look: Look, months: usize) -> Vec<String> {
        let starts = self.months();
        let hidden = starts.len().saturating_sub(months);
        let mut lines = Vec::with_capacity(starts.len() - hidden + 2);
        if hidden > 0 {
            lines.push(format!("... {hidden} earlier months (--months {})", starts.len()));
        }
        for (start, end) in &starts[hidden..] {
            let (year, month, _) = start.date();
            let mut line = format!("{year:04}-{month:02} ");
            for day in days(*start, *end) {
                line.push_str(self.cell(day).glyph(look));
            }
            lines.push(line.trim_end().to_owned());
        }
        lines.push(legend(look));
        lines
    }

    /// First instants of the months that the range touches, with that of the month after each.
    fn months(&self) -> Vec<(Timestamp, Timestamp)> {
        let mut months = Vec::new();
        let mut start = month_of(self.wanted.start());
        while start < self.wanted.end() {
            // No month has more than 31 days, and the first day after these is in the next one.
            let Some(end) = start.checked_add_micros(31 * DAY_MICROS).map(month_of) else { break };
            months.push((start, end));
            start = end;
        }
        months
    }

    fn cell(&self, day: TimeRange) -> Cell {
        let wanted = day.intersect(self.wanted).map_or(0, |part| part.count(self.interval));
        let stored = self.present.within(day).count(self.interval);
        let empty = self.known_empty.within(day).count(self.interval);
        let possible = wanted.saturating_sub(empty);
        match (wanted, possible) {
            (0, _) => Cell::Blank,
            (_, 0) if stored == 0 => Cell::Empty,
            _ if stored >= possible && empty > 0 => Cell::Settled,
            _ if stored >= possible => Cell::Share(4),
            _ if stored == 0 => Cell::Share(0),
            _ => Cell::Share(u8::try_from((stored * 4 / possible).clamp(1, 3)).expect("it lies from 1 to 3")),
        }
    }
}

impl Cell {
    fn glyph(self, look: Look) -> &'static str {
        match (look, self) {
            (_, Self::Blank) => " ",
            (Look::Ascii, Self::Empty) => "o",
            (Look::Ascii, Self::Settled) => "+",
            (Look::Ascii, Self::Share(share)) => [".", "1", "2", "3", "#"][usize::from(share)],
            (Look::Rich, Self::Empty) => "\u{1b}[38;5;244m·\u{1b}[0m",
            (Look::Rich, Self::Settled) => "\u{1b}[38;5;36m▇\u{1b}[0m",
            (Look::Rich, Self::Share(share)) => [
                "\u{1b}[38;5;203m□\u{1b}[0m",
                "\u{1b}[38;5;208m░\u{1b}[0m",
                "\u{1b}[38;5;220m▒\u{1b}[0m",
                "\u{1b}[38;5;148m▓\u{1b}[0m",
                "\u{1b}[38;5;41m█\u{1b}[0m",
            ][usize::from(share)],
        }
    }
}

fn legend(look: Look) -> String {
    let glyph = |cell: Cell| cell.glyph(look);
    format!(
        "a cell a day: {} all bars  {} all that exist, the rest proven not to  {}{}{} some  {} none  {} none exist",
        glyph(Cell::Share(4)),
        glyph(Cell::Settled),
        glyph(Cell::Share(3)),
        glyph(Cell::Share(2)),
        glyph(Cell::Share(1)),
        glyph(Cell::Share(0)),
        glyph(Cell::Empty),
    )
}

fn days(start: Timestamp, end: Timestamp) -> impl Iterator<Item = TimeRange> {
    let next = move |from: Timestamp| {
        let to = from.checked_add_micros(DAY_MICROS).unwrap_or(Timestamp::MAX);
        (from < end).then(|| TimeRange::checked(from, to)).flatten()
    };
    std::iter::successors(next(start), move |day| next(day.end()))
}

/// The first instant of the month that `ts` lies in.
fn month_of(ts: Timestamp) -> Timestamp {
    let (year, month, _) = ts.date();
    format!("{year:04}-{month:02}-01").parse().expect("the first of a month of a valid time")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: &str, end: &str) -> TimeRange {
        TimeRange::new(start.parse().unwrap(), end.parse().unwrap()).unwrap()
    }

    #[test]
    fn a_day_is_shaded_by_its_share_of_bars() {
        let present = RangeSet::from_iter([
            range("2024-01-30", "2024-01-30T18:00:00Z"),
            range("2024-01-31", "2024-02-01"),
            range("2024-02-02", "2024-02-02T00:05:00Z"),
            range("2024-02-03", "2024-02-03T12:00:00Z"),
        ]);
        let known_empty = RangeSet::from_iter([
            range("2024-02-03T12:00:00Z", "2024-02-04"),
            range("2024-02-04", "2024-02-05"),
        ]);
        let strip = Strip {
            interval: "5m".parse().unwrap(),
            wanted: range("2024-01-30", "2024-02-06"),
            present: &present,
            known_empty: &known_empty,
        };
        let lines = strip.lines(Look::Ascii, 24);
        assert_eq!(lines[0], format!("2024-01 {}3#", " ".repeat(29)));
        assert_eq!(lines[1], "2024-02 .1+o.");
        assert_eq!(
            lines[2],
            "a cell a day: # all bars  + all that exist, the rest proven not to  321 some  . none  o none exist"
        );
        assert_eq!(strip.lines(Look::Ascii, 1)[0], "... 1 earlier months (--months 2)");
    }

    #[test]
    fn weeks_leave_most_days_blank() {
        let present = RangeSet::from(range("2024-01-01", "2024-01-15"));
        let strip = Strip {
            interval: "1w".parse().unwrap(),
            wanted: range("2024-01-01", "2024-01-20"),
            present: &present,
            known_empty: &RangeSet::new(),
        };
        assert_eq!(strip.lines(Look::Ascii, 24)[0], "2024-01 #      #      .");
    }
}
