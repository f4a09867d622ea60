//! What is odd about the rows of a run, a little of each kind, to be told by name.

use qmtl_history_api::frame::{Conflict, NotNumbers, OffGrid};

/// How many of each kind are kept; all are counted elsewhere.
const KEPT: usize = 1_000;

/// Odd rows of a run.
#[derive(Clone, Debug, Default)]
pub(super) struct Notes {
    pub(super) off_grid: Vec<OffGrid>,
    pub(super) conflicts: Vec<Conflict>,
    pub(super) not_numbers: Vec<NotNumbers>,
}

impl Notes {
    /// Adds rows off the grid.
    pub(super) fn off_grid(&mut self, rows: &[OffGrid]) {
        let room = KEPT.saturating_sub(self.off_grid.len());
        self.off_grid.extend(rows.iter().take(room));
    }

    /// Adds conflicts.
    pub(super) fn conflicts(&mut self, conflicts: &[Conflict]) {
        let room = KEPT.saturating_sub(self.conflicts.len());
        self.conflicts.extend(conflicts.iter().take(room).cloned());
    }

    /// Adds columns with values that are no numbers.
    pub(super) fn not_numbers(&mut self, columns: &[NotNumbers]) {
        for column in columns {
            match self.not_numbers.iter_mut().find(|known| known.column == column.column) {
                Some(known) => {
                    known.rows += column.rows;
                    known.first = known.first.min(column.first);
                }
                None => self.not_numbers.push(column.clone()),
            }
        }
    }

    /// Adds the notes of a window.
    pub(super) fn add(&mut self, other: &Self) {
        self.off_grid(&other.off_grid);
        self.conflicts(&other.conflicts);
        self.not_numbers(&other.not_numbers);
    }

    /// Sorts them by time.
    pub(super) fn sort(&mut self) {
        self.off_grid.sort_unstable();
        self.conflicts.sort_by_key(|conflict| conflict.ts);
    }
}
