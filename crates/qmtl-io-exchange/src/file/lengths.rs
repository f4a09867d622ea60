//! How long the bars of klines say that they last: from the opening time to the close time.

use qmtl_history_api::{Error, Result};

use super::gaps::Gaps;

/// The lengths of all rows, in the file's unit. Memory is bounded.
#[derive(Clone, Debug, Default)]
pub(super) struct Lengths {
    counts: Gaps,
    rows: u64,
    first: u64,
    /// The first row of another length than the first one's.
    other: Option<(u64, u64)>,
    /// The longest row.
    longest: (u64, u64),
}

impl Lengths {
    /// Adds row number `row`, a bar from `open` up to but not including `end`; `false` when it has no length.
    pub(super) fn add(&mut self, open: i64, end: i64, row: u64) -> bool {
        if end <= open {
            return false;
        }
        let length = end.abs_diff(open);
        self.counts.add(length, 1);
        self.rows += 1;
        if self.rows == 1 {
            self.first = length;
        } else if self.other.is_none() && length != self.first {
            self.other = Some((length, row));
        }
        if length > self.longest.0 {
            self.longest = (length, row);
        }
        true
    }

    /// The length of more than half of the rows.
    pub(super) fn usual(&self) -> Option<u64> {
        let (length, times) = self.counts.most_frequent()?;
        (times * 2 > self.rows).then_some(length)
    }

    /// `Schema` unless the rows have one length. Some may be shorter, as bars are that a break of the exchange
    /// has cut; none may be longer. The error names the line.
    pub(super) fn are_one(&self) -> Result<()> {
        let odd = match (self.usual(), self.longest) {
            (Some(usual), (longest, row)) if longest > usual => Some((longest, row)),
            (None, _) => self.other,
            _ => None,
        };
        match odd {
            None => Ok(()),
            Some((length, row)) => Err(Error::schema(format!(
                "{NOT_KLINES}: the 7th, as a close time, would make bars of different lengths; {ADD_HEADER}"
            ))
            .with("line", row)
            .with("length", length)
            .with("others", self.usual().unwrap_or(self.first))),
        }
    }
}

/// How a message begins about numbers without a header.
pub(super) const NOT_KLINES: &str =
    "twelve numbers without a header are read as Binance klines, but these are not";

/// How it ends.
pub(super) const ADD_HEADER: &str = "add a header that names the columns";

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths(of: &[u64]) -> Lengths {
        let mut lengths = Lengths::default();
        for (row, length) in (1u64..).zip(of) {
            assert!(lengths.add(1_000, 1_000 + i64::try_from(*length).unwrap(), row));
        }
        lengths
    }

    #[test]
    fn klines_have_one_length_and_may_be_cut() {
        assert_eq!(lengths(&[60, 60, 60]).usual(), Some(60));
        assert!(lengths(&[60]).are_one().is_ok());
        // Cut by a break of the exchange, also when it is the first.
        assert!(lengths(&[60, 31, 60, 60]).are_one().is_ok());
        assert!(lengths(&[31, 60, 60, 60]).are_one().is_ok());
        for (of, line) in [(&[60, 61][..], 2), (&[60, 60, 61, 60], 3), (&[60, 30, 20, 50], 2)] {
            let error = lengths(of).are_one().unwrap_err().to_string();
            assert!(error.contains(&format!("line: {line},")), "{of:?}: {error}");
        }
        assert!(!Lengths::default().add(5, 5, 1));
    }
}
