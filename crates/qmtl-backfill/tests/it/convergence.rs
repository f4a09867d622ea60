//! The whole strategy against a naive model: whatever fails on the way, after enough runs the store
//! holds exactly what it should, and nothing that was known has been asked for.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use qmtl_history_api::{
    Error, ErrorKind, FetchLimits, HistoryBackend, HistoryBackendExt, PageOrder, RangeSet, ReadRequest,
    SourceProfile, TimeRange,
};
use qmtl_history_testkit::fixtures::{FakeFetcher, ManualClock, bar, bars, rows_within, sparse_bars};

use crate::support::{Filling, Store, btc, span};

const BARS: u32 = 120;

fn set(bars: &BTreeSet<u32>) -> RangeSet {
    bars.iter().map(|index| span(*index, index + 1)).collect()
}

fn some_bars() -> impl Strategy<Value = BTreeSet<u32>> {
    prop::collection::vec((0..BARS, 1_u32..15), 0..8).prop_map(|runs| {
        runs.into_iter().flat_map(|(first, length)| first..(first + length).min(BARS)).collect()
    })
}

#[derive(Clone, Debug)]
struct Case {
    seeded: BTreeSet<u32>,
    holes: BTreeSet<u32>,
    unproven: BTreeSet<u32>,
    wanted: (u32, u32),
    now: u32,
    /// Which requests fail, by number modulo 16: 1 breaks off, 2 brings an off-grid row.
    faults: Vec<u8>,
    /// Which writes fail, by number modulo 8.
    refusals: Vec<bool>,
    knobs: (u64, usize, u64, u64, Option<u64>),
    /// The source answers with more than it was asked for, in the wrong order.
    sloppy: bool,
}

fn case() -> impl Strategy<Value = Case> {
    (
        (some_bars(), some_bars(), some_bars()),
        (0..BARS, 1..BARS),
        0..BARS + 20,
        (prop::collection::vec(0_u8..3, 16), prop::collection::vec(any::<bool>(), 8)),
        (1_u64..30, 1_usize..10, 1_u64..40_000, 1_u64..4_000, prop::option::of(1_u64..12)),
        any::<bool>(),
    )
        .prop_map(
            |((seeded, holes, unproven), (first, length), now, (faults, refusals), knobs, sloppy)| Case {
                seeded,
                holes,
                unproven,
                wanted: (first, (first + length).min(BARS)),
                now,
                faults,
                refusals,
                knobs,
                sloppy,
            },
        )
}

/// The source of a case; its faults end after `faulty` requests.
fn source(case: &Case, faulty: usize) -> FakeFetcher {
    let has = RangeSet::from(span(0, BARS + 30)).difference(&set(&case.holes));
    let (faults, unproven, sloppy) = (case.faults.clone(), set(&case.unproven), case.sloppy);
    let fetcher = FakeFetcher::new("fake")
        .with_rows(move |request| {
            let range = if sloppy { span(0, BARS + 30) } else { request.range };
            let rows = sparse_bars(&request.key, &has.within(range));
            if sloppy && rows.num_rows() > 1 {
                let middle = rows.num_rows() / 2;
                let parts = [rows.slice(middle, rows.num_rows() - middle), rows.slice(0, middle + 1)];
                qmtl_history_api::arrow_select::concat::concat_batches(&rows.schema(), &parts).unwrap()
            } else {
                rows
            }
        })
        .with_failures(move |number, _| match faults[number % 16] {
            1 if number < faulty => Some(Error::unavailable("reset")),
            2 if number < faulty => Some(Error::schema("a row is off the grid")),
            _ => None,
        })
        .with_proven(move |request| RangeSet::from(request.range).difference(&unproven))
        .with_profile(SourceProfile::new(PageOrder::Unpaged).with_publish_lag(Duration::ZERO));
    match case.knobs.4 {
        Some(rows) => fetcher.with_limits(FetchLimits::none().with_max_rows(rows)),
        None => fetcher,
    }
}

async fn converges(case: Case) -> Result<(), TestCaseError> {
    let refusals = case.refusals.clone();
    let store = Store::failing(move |number, _| {
        let kind = [ErrorKind::Unavailable, ErrorKind::Schema][number % 2];
        (number < 8 && refusals[number]).then(|| Error::new(kind, "not now"))
    });
    if !case.seeded.is_empty() {
        store.seed(&btc(), sparse_bars(&btc(), &set(&case.seeded))).await;
    }
    let (window, in_flight, budget, flush, _) = case.knobs;
    let clock = ManualClock::new(bar(&btc(), case.now));
    let filling = Filling::new().with_clock(&clock).with_config(|config| {
        config
            .with_window_bars(window)
            .with_windows_in_flight(in_flight)
            .with_memory_budget(budget)
            .with_flush_bytes(flush)
    });
    let fetcher = Arc::new(source(&case, 40));
    let wanted: TimeRange = span(case.wanted.0, case.wanted.1);
    let mut written = 0;
    for _ in 0..60 {
        let before = store.coverage(&btc(), TimeRange::ALL).await.unwrap();
        let asked = fetcher.requests().len();
        let report = filling.run(&fetcher, &store, wanted).await;
        let known = before.present().union(&before.empty_by_any(bar(&btc(), case.now)));
        let requests = &fetcher.requests()[asked..];
        for request in requests {
            let range = RangeSet::from(request.range);
            // A page has room for what lies between two gaps.
            let asked =
                if case.knobs.4.is_some() { request.range.start() } else { range.span().unwrap().start() };
            prop_assert!(!known.contains(asked), "{request:?} begins with what is known");
            prop_assert!(case.knobs.4.is_some() || range.intersection(&known).is_empty(), "{request:?}");
            prop_assert!(
                wanted.contains_range(request.range) && request.range.end() <= bar(&btc(), case.now)
            );
        }
        prop_assert_eq!(report.fetch_requests, requests.len() as u64);
        let filled = report.filled.iter().fold(RangeSet::new(), |all, (_, ranges)| all.union(ranges));
        prop_assert_eq!(filled.count(btc().interval), report.rows_written);
        let after = store.coverage(&btc(), wanted).await.unwrap();
        prop_assert!(filled.difference(after.present()).is_empty());
        prop_assert!(report.known_empty.difference(&after.empty_by_any(bar(&btc(), case.now))).is_empty());
        written += report.rows_written;
        if report.failed.is_empty() {
            break;
        }
    }

    let closed = |index: &u32| *index < case.now;
    let fillable: BTreeSet<u32> = (case.wanted.0..case.wanted.1)
        .filter(|index| closed(index) && !case.holes.contains(index) && !case.seeded.contains(index))
        .collect();
    let expected: BTreeSet<u32> = fillable.union(&case.seeded).copied().collect();
    prop_assert_eq!(store.present(&btc()).await, set(&expected));
    prop_assert_eq!(written, fillable.len() as u64);
    let stored = store.read_all(&ReadRequest::new(btc(), TimeRange::ALL)).await.unwrap();
    if !expected.is_empty() {
        let all = bars(&btc(), bar(&btc(), 0), BARS as usize);
        let model = sparse_bars(&btc(), &set(&expected));
        prop_assert_eq!(&stored, &model);
        prop_assert!(rows_within(&all, span(0, BARS)).num_rows() >= stored.num_rows());
    }
    let unknown = (case.wanted.0..case.wanted.1).filter(|i| {
        !expected.contains(i) && (!closed(i) || case.unproven.contains(i) || !case.holes.contains(i))
    });
    let report = filling.run(&fetcher, &store, wanted).await;
    prop_assert_eq!(report.missing, set(&unknown.collect()));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn after_enough_runs_the_store_holds_what_it_should(case in case()) {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(converges(case))?;
    }
}
