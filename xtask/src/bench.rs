//! `cargo xtask bench`: measures, beside peers where they can be installed, and prints one table.
//! Gates are ratios, so that they hold on any machine; absolute numbers are for reading.

mod coordinator;
mod exchange;
mod export;
mod indicators;
mod measures;
mod peers;
mod questdb;
mod readers;
mod runtime;
mod store;

use std::fmt;

use anyhow::Result;

use crate::flags;
use peers::Peers;

/// Measures one thing; an error becomes a line of the table and fails the run.
type Measure = fn(&Peers) -> Result<Vec<Row>>;

const MEASURES: &[(&str, Measure)] = &[
    ("algebra", measures::algebra),
    ("csv", measures::csv),
    ("archives", measures::archives),
    ("inspect", measures::inspect),
    ("backfill", measures::backfill),
    ("exchange", exchange::exchange),
    ("store", store::store),
    ("readers", readers::readers),
    ("export", export::export),
    ("runtime", runtime::runtime),
    ("indicators", indicators::indicators),
    ("coordinator", coordinator::coordinator),
    ("workers", coordinator::workers),
    ("questdb", questdb::questdb),
];

/// Prints the table; true when every gate holds.
pub(crate) fn run(flags: &flags::Bench) -> Result<bool> {
    let peers = Peers::install();
    let mut table = vec![HEAD.map(str::to_owned)];
    let mut held = true;
    let asked = |name: &str| flags.row.as_deref().is_none_or(|row| name.contains(row));
    let cold: &[(&str, Measure)] = if flags.cold { &[("cold build", measures::cold_build)] } else { &[] };
    for (name, measure) in MEASURES.iter().chain(cold).filter(|(name, _)| asked(name)) {
        println!("measuring {name} …");
        match measure(&peers) {
            Ok(rows) => {
                held &= rows.iter().all(Row::holds);
                table.extend(rows.iter().map(Row::cells));
            }
            Err(error) => {
                held = false;
                println!("{name} could not be measured: {error:#}");
                table.push([name, "-", "-", "-", "-", "NOT MEASURED"].map(str::to_owned));
            }
        }
    }
    println!("\n{}", aligned(&table));
    if let Err(reason) = &peers.python {
        println!("\nno peers: {reason}");
    }
    Ok(held)
}

const HEAD: [&str; 6] = ["what", "ours", "peer or limit", "ratio", "gate", "verdict"];

/// A number with its unit.
#[derive(Clone, Debug, PartialEq)]
struct Amount(f64, &'static str);

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = if self.0 < 100.0 { 1 } else { 0 };
        write!(f, "{:.digits$} {}", self.0, self.1)
    }
}

/// Which side of a ratio is the good one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Better {
    More,
    Less,
}

/// One line: our number beside another one of the same unit.
#[derive(Debug)]
struct Row {
    name: String,
    ours: Amount,
    /// A peer's number or a limit, and whose it is.
    other: (f64, String),
    better: Better,
    /// The ratio that must be reached; `None` is for reading only.
    gate: Option<f64>,
}

impl Row {
    /// How many times better than the other number ours is.
    fn ratio(&self) -> f64 {
        match self.better {
            Better::More => self.ours.0 / self.other.0,
            Better::Less => self.other.0 / self.ours.0,
        }
    }

    fn holds(&self) -> bool {
        self.gate.is_none_or(|gate| self.ratio() >= gate)
    }

    fn cells(&self) -> [String; 6] {
        let verdict = match (self.gate, self.holds()) {
            (None, _) => "reported",
            (_, true) => "holds",
            (_, false) => "MISSED",
        };
        [
            self.name.clone(),
            self.ours.to_string(),
            format!("{} {}", Amount(self.other.0, self.ours.1), self.other.1),
            format!("{:.2}", self.ratio()),
            self.gate.map_or_else(|| "-".to_owned(), |gate| format!("{gate:.2}")),
            verdict.to_owned(),
        ]
    }
}

fn aligned(table: &[[String; 6]]) -> String {
    let width = |column: usize| table.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let line = |row: &[String; 6]| {
        let cells = row.iter().enumerate().map(|(column, cell)| format!("{cell:<w$}", w = width(column)));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    table.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(ours: f64, other: f64, better: Better, gate: Option<f64>) -> Row {
        let name = "read".to_owned();
        Row { name, ours: Amount(ours, "MB"), other: (other, "limit".to_owned()), better, gate }
    }

    #[test]
    fn a_gate_is_a_ratio_in_our_favour() {
        assert!(row(300.0, 150.0, Better::More, Some(2.0)).holds());
        assert!(!row(299.0, 150.0, Better::More, Some(2.0)).holds());
        assert!(row(128.0, 256.0, Better::Less, Some(2.0)).holds());
        assert!(!row(257.0, 256.0, Better::Less, Some(1.0)).holds());
        assert!(row(1.0, 256.0, Better::More, None).holds());
    }

    #[test]
    fn the_table_is_aligned_and_says_what_was_missed() {
        let table = [HEAD.map(str::to_owned), row(300.0, 256.0, Better::Less, Some(1.0)).cells()];
        assert_eq!(
            aligned(&table),
            "what  ours    peer or limit  ratio  gate  verdict\n\
             read  300 MB  256 MB limit   0.85   1.00  MISSED"
        );
    }
}
