//! The faults of rows, as changes to a page before it is written.

use crate::answer::Style;
use crate::fault::Fault;
use crate::market::{Market, Row};

/// Changes the rows of `market`'s page as the fault says; `first` is the first opening time asked for.
/// The style is how they are to be written.
pub(crate) fn spoil(rows: &mut Vec<Row>, fault: &Fault, market: &Market, first: Option<i64>) -> Style {
    let step = market.interval().ms();
    match fault {
        Fault::NotAdvancing => {
            let first = first.or_else(|| rows.first().map(|row| row.time)).unwrap_or_default();
            if rows.is_empty() {
                rows.extend(
                    market.candles().first().map(|candle| Row { time: candle.open_time, candle: *candle }),
                );
            }
            let back = rows.last().map_or(0, |row| row.time + step - first);
            rows.iter_mut().for_each(|row| row.time -= back);
        }
        Fault::Unsorted => {
            let half = rows.len() / 2;
            rows.rotate_left(half);
        }
        Fault::Duplicated => rows.extend_from_within(..rows.len().min(1)),
        Fault::OffGrid => {
            let middle = rows.len() / 2;
            rows.iter_mut().skip(middle).take(1).for_each(|row| row.time += step / 2);
        }
        Fault::WrongTimeUnit => return Style::WrongTimeUnit,
        Fault::HugeNumbers => return Style::HugeNumbers,
        _ => {}
    }
    Style::Right
}
