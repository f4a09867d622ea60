//! What must hold in every run, each as a function of what was seen.

use std::fmt;

use qmtl_history_api::arrow_array::RecordBatch;
use qmtl_history_api::{
    BackfillReport, Coverage, EmptyProof, RangeSet, SourceId, TimeRange, Timestamp, frame,
};

use crate::exchange::Exchange;
use crate::store::{self, Kept};
use crate::world::{Kind, Market, Version};

/// The invariants, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Invariant {
    /// A stored row has the values of a version in which the exchange gave that bar after its close, or is
    /// the other writer's.
    NothingInvented,
    /// Once faults have stopped, every bar of the wanted range that the exchange has and that is older than
    /// its publish lag is stored, and in its final version.
    ///
    /// Exempt from the second part is what a process stored and did not live to read again, and what a store
    /// kept of a write that it said had failed, when it did not tell what it has at the end of that round
    /// either: nobody then knows that there is a row to read again.
    NothingLost,
    /// No proof that is believed is about a bar that the exchange has or will have. It is checked after
    /// every round, by our clock of then and by the true time.
    ProofsHold,
    /// A run makes rounds, each at most a close and a pause after the one before, and does not turn in a
    /// circle.
    NeverSilent,
    /// Of the wanted bars each is present, known empty or missing, and only one of these; reports count the
    /// rows that came to stand in the store.
    CountsAddUp,
    /// Requests stay below the bounds of [`most_requests`] and [`MOST_PER_CLOSE`].
    RequestsBounded,
}

/// How an invariant was broken.
#[derive(Clone, Debug)]
pub(crate) struct Violation {
    pub(crate) invariant: Invariant,
    pub(crate) at: Timestamp,
    pub(crate) what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} at {}: {}", self.invariant, self.at, self.what)
    }
}

/// `Ok` when nothing is to be said, else the invariant is broken and this is how.
pub(crate) type Finding = Result<(), String>;

/// `NothingInvented`, of all rows that are stored of a series.
pub(crate) fn nothing_invented(exchange: &Exchange, kept: &Kept, rows: &RecordBatch) -> Finding {
    let market = exchange.market();
    for (at, bar) in times(rows).into_iter().enumerate() {
        let version = store::version_of(market, rows, at, bar).filter(|_| market.has(bar));
        let is_right = version.is_some_and(|version| {
            exchange.has_served(bar, version) || (version == Version::Final && kept.by_others.contains(bar))
        });
        if !is_right {
            return Err(format!("the row of {bar} is {version:?} and was never given so after its close"));
        }
    }
    Ok(())
}

/// `NothingLost`, of all rows that are stored of a series: `due` are the bars that must be there, and of each
/// that is there in its first version `may_be_first` says whether nobody could know better.
pub(crate) fn nothing_lost(
    market: &Market,
    due: TimeRange,
    rows: &RecordBatch,
    may_be_first: impl Fn(Timestamp) -> bool,
) -> Finding {
    let stored = times(rows);
    for bar in market.bars(due) {
        let Ok(at) = stored.binary_search(&bar) else {
            return Err(format!("the bar of {bar} is not stored"));
        };
        let (first, last) = market.published(bar);
        let is_final = first == last || store::version_of(market, rows, at, bar) == Some(Version::Final);
        if !is_final && !may_be_first(bar) {
            return Err(format!(
                "the bar of {bar} is stored in its first version, which was revised at {last}"
            ));
        }
    }
    Ok(())
}

/// Which proofs are believed at a time.
pub(crate) type Believed = fn(&EmptyProof, Timestamp) -> RangeSet;

/// `ProofsHold`, of a series and a time.
pub(crate) fn proofs_hold(
    market: &Market,
    coverage: &Coverage,
    source: &SourceId,
    (now, believed): (Timestamp, Believed),
) -> Finding {
    for proof in coverage.known_empty().iter().filter(|proof| source.covers(&proof.source)) {
        let empty = believed(proof, now);
        if let Some(bar) = empty.points(market.interval()).find(|bar| market.has(*bar)) {
            return Err(format!(
                "the bar of {bar} is believed to be absent, by an answer of {}",
                proof.answered_at
            ));
        }
    }
    Ok(())
}

/// `CountsAddUp`, of one report; `told` is what the store said of the wanted range while it was made.
pub(crate) fn counts_add_up(
    report: &BackfillReport,
    source: &SourceId,
    told: &[(TimeRange, Coverage, Timestamp)],
) -> Finding {
    let (wanted, interval) = (report.wanted, report.key.interval);
    let apart = |a: &RangeSet, b: &RangeSet, what: &str| {
        let both = a.intersection(b);
        if both.is_empty() { Ok(()) } else { Err(format!("bars are both {what}: {both:?}")) }
    };
    let mut filled = RangeSet::new();
    for (_, bars) in &report.filled {
        apart(&filled, bars, "from one source and from another")?;
        filled = filled.union(bars);
    }
    apart(&filled, &report.missing, "filled and missing")?;
    apart(&filled, &report.known_empty, "filled and known empty")?;
    apart(&report.known_empty, &report.missing, "known empty and missing")?;
    for (set, what) in
        [(&filled, "filled"), (&report.missing, "missing"), (&report.known_empty, "known empty")]
    {
        if *set != set.within(wanted).on_grid(interval) {
            return Err(format!("bars that are {what} were not wanted: {set:?} of {wanted}"));
        }
    }
    if !report.too_young.difference(&report.missing).is_empty() {
        return Err(format!("bars are too young but not missing: {:?}", report.too_young));
    }
    let mut told = told.iter().filter(|(range, ..)| range.contains_range(wanted)).peekable();
    if told.peek().is_none() {
        return Ok(());
    }
    let adds_up = |(_, coverage, now): &(TimeRange, Coverage, Timestamp)| {
        let present = coverage.present().within(wanted).on_grid(interval);
        let empty =
            coverage.empty_by_all(std::slice::from_ref(source), *now).within(wanted).on_grid(interval);
        let sum = [&present, &empty, &report.missing].map(|set| set.count(interval)).iter().sum::<u64>();
        let all = present.union(&empty).union(&report.missing);
        sum == wanted.count(interval) && all.count(interval) == sum
    };
    if told.any(adds_up) { Ok(()) } else { Err(format!("of {wanted} are missing {:?}", report.missing)) }
}

/// `CountsAddUp`, of the rows of one report: `own` came to stand in the store by this process, `others` by
/// another one. After a call that failed nobody can tell the two apart, and when the store did not say what it
/// has, rows of a write that failed are not known to be there.
pub(crate) fn rows_add_up(
    rows_written: u64,
    (own, others): (u64, u64),
    (failures, unknown): (u64, u64),
) -> Finding {
    let least = if unknown > 0 { 0 } else { own };
    let most = if failures > 0 { own + others } else { own };
    if (least..=most).contains(&rows_written) {
        Ok(())
    } else {
        Err(format!("{rows_written} rows are reported and {own} were stored, {others} by others"))
    }
}

/// The most requests of a round that met no fault:
///
/// - 4 pages for each that was `planned`: the page, what lies beyond its last row, and both once more where every
///   bar should have a row;
/// - 1 page for bars that are read again;
/// - with each page one look at the server's clock;
/// - on Binance with each page but the last kind one look for the listing, as long as there is none;
/// - on Coinbase 11 looks back for a first bar, in pages that lie farther and farther back.
pub(crate) fn most_requests(kind: Kind, planned: u64) -> u64 {
    let pages = 4 * planned;
    let to_begin = match kind {
        Kind::Binance => pages,
        Kind::Coinbase => 11 * planned.min(1),
    };
    2 * (pages + 1) + to_begin
}

/// The most requests of a series that is followed, for each of its closes, on the average of a while in which
/// nothing is wrong: a page and the time for each of five questions after a close, and twice that much for what
/// is asked a second time and read again.
pub(crate) const MOST_PER_CLOSE: u64 = 16;

fn times(rows: &RecordBatch) -> Vec<Timestamp> {
    let micros = frame::timestamps(rows).map(|ts| ts.values().to_vec()).unwrap_or_default();
    micros.into_iter().filter_map(|micros| Timestamp::from_micros(micros).ok()).collect()
}
