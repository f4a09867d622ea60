//! The rule against sources that cap, lose, delay and contradict themselves.

use std::collections::BTreeSet;

use proptest::prelude::*;
use qmtl_history_testkit::fixtures::{bar, key, span};

use super::*;

const LAG: Duration = SourceProfile::PUBLISH_LAG;

fn set(bars: impl IntoIterator<Item = u32>) -> RangeSet {
    let key = key("BTC", "1m");
    bars.into_iter().map(|index| span(&key, index, index + 1)).collect()
}

fn points(set: &RangeSet) -> BTreeSet<u32> {
    let from = bar(&key("BTC", "1m"), 0);
    set.points(Interval::MINUTE).map(|ts| u32::try_from(ts.since(from).as_secs() / 60).unwrap()).collect()
}

/// A source that has `bars` and gives what `page` leaves of them at each request.
fn ask(
    profile: SourceProfile,
    wanted: &RangeSet,
    now: u32,
    mut page: impl FnMut(u32, Vec<u32>) -> Vec<u32>,
    bars: &BTreeSet<u32>,
) -> (Result<Verdict>, BTreeSet<u32>, u32) {
    let key = key("BTC", "1m");
    let mut inquiry = Inquiry::new(wanted.clone(), Interval::MINUTE, profile);
    let (mut got, mut requests) = (BTreeSet::new(), 0);
    loop {
        let range = match inquiry.ask() {
            Ok(Some(range)) => range,
            Ok(None) => return (Ok(inquiry.verdict()), got, requests),
            Err(error) => return (Err(error), got, requests),
        };
        let asked = points(&range.into());
        let rows = page(requests, bars.intersection(&asked).copied().collect());
        requests += 1;
        got.extend(rows.iter().copied());
        let ends = rows.iter().min().zip(rows.iter().max());
        inquiry.take(&Reply {
            asked: range,
            present: set(rows.iter().copied()),
            doubtful: RangeSet::new(),
            span: ends.map(|(first, last)| (bar(&key, *first), bar(&key, *last))),
            proven: range.into(),
            dated: bar(&key, now),
        });
    }
}

fn oldest() -> SourceProfile {
    SourceProfile::new(PageOrder::OldestFirst)
}

#[test]
fn a_full_page_is_one_request_whatever_its_order() {
    for order in [PageOrder::Unpaged, PageOrder::OldestFirst, PageOrder::NewestFirst, PageOrder::Unknown] {
        let profile = SourceProfile::new(order).with_gapless(true);
        let (verdict, got, requests) = ask(profile, &set(0..100), 500, |_, rows| rows, &(0..100).collect());
        assert_eq!((verdict.unwrap().empty, got.len(), requests), (RangeSet::new(), 100, 1), "{order:?}");
    }
}

#[test]
fn a_capped_page_is_asked_on_in_the_sources_order() {
    let bars: BTreeSet<_> = (0..100).filter(|index| *index != 70).collect();
    let (verdict, got, requests) =
        ask(oldest(), &set(0..100), 500, |_, rows| rows.into_iter().take(40).collect(), &bars);
    assert_eq!((points(&verdict.unwrap().empty), got, requests), ([70].into(), bars.clone(), 3));
    let newest = SourceProfile::new(PageOrder::NewestFirst);
    let cap = |_, rows: Vec<u32>| rows.split_at(rows.len().saturating_sub(40)).1.to_vec();
    let (verdict, got, requests) = ask(newest, &set(0..100), 500, cap, &bars);
    assert_eq!((points(&verdict.unwrap().empty), got, requests), ([70].into(), bars, 3));
}

#[test]
fn a_hole_of_a_gapless_source_takes_two_answers() {
    let bars: BTreeSet<_> = (0..100).filter(|index| !(20..25).contains(index) && *index != 60).collect();
    let profile = oldest().with_gapless(true);
    let (verdict, _, requests) = ask(profile, &set(0..100), 500, |_, rows| rows, &bars);
    assert_eq!(
        (points(&verdict.unwrap().empty), requests),
        ([20, 21, 22, 23, 24, 60].into(), 2),
        "the second page ends with the row behind the last hole"
    );
    // The second answer has what the first one lacked: all is found, and nothing is believed.
    let forgetful =
        |request, rows: Vec<u32>| rows.into_iter().filter(|row| request > 0 || row % 7 > 0).collect();
    let (verdict, got, _) = ask(profile, &set(0..100), 500, forgetful, &bars);
    assert_eq!((got, verdict.unwrap().empty), (bars, RangeSet::new()));
}

#[test]
fn a_source_that_gives_the_ends_alone_proves_nothing_and_is_not_asked_for_ever() {
    let ends = |_, rows: Vec<u32>| rows.first().into_iter().chain(rows.last()).copied().collect();
    let (verdict, got, requests) =
        ask(oldest().with_gapless(true), &set(0..100), 500, ends, &(0..100).collect());
    let verdict = verdict.unwrap();
    assert_eq!((verdict.empty.len(), verdict.too_young.len()), (0, 0));
    assert!(!verdict.contradicted.is_empty() && got.len() > 15 && requests <= 20, "{requests}");
    // Stored rows, which are not wanted, are told of as well.
    let wanted = set((0..5).chain(6..30));
    let (verdict, ..) = ask(oldest().with_gapless(true), &wanted, 500, ends, &(5..29).collect());
    assert_eq!(verdict.unwrap().empty, RangeSet::new());
    // A page that begins with an outage has the same ends when it is asked for again.
    let (verdict, ..) = ask(oldest().with_gapless(true), &set(0..100), 500, ends, &(60..100).collect());
    assert_eq!(verdict.unwrap().empty, RangeSet::new());
    let one = |_, rows: Vec<u32>| rows.into_iter().take(1).collect();
    let (verdict, ..) = ask(oldest(), &set(0..100), 500, one, &(0..100).collect());
    assert!(verdict.unwrap_err().to_string().starts_with("the source never completes its answer"));
}

#[test]
fn a_bar_that_may_still_be_published_is_too_young_and_asked_for_once() {
    // At the opening of bar 10 the bars 8 and 9 have closed less than two minutes ago.
    let (verdict, _, requests) = ask(oldest(), &set(5..10), 10, |_, rows| rows, &[5, 6].into());
    let verdict = verdict.unwrap();
    assert_eq!((points(&verdict.empty), points(&verdict.too_young)), ([7].into(), [8, 9].into()));
    assert_eq!(requests, 2);
    let (verdict, _, requests) = ask(oldest(), &set(5..10), 10, |_, rows| rows, &(5..9).collect());
    assert_eq!((points(&verdict.unwrap().too_young), requests), ([9].into(), 1));
    let patient = oldest().with_publish_lag(Duration::ZERO);
    let (verdict, ..) = ask(patient, &set(5..10), 10, |_, rows| rows, &BTreeSet::new());
    assert_eq!(points(&verdict.unwrap().empty), (5..10).collect());
    assert_eq!(LAG.as_secs(), 120);
}

#[test]
fn a_bar_beside_a_row_off_the_grid_is_asked_for_again_and_never_empty() {
    let mut inquiry = Inquiry::new(set(0..3), Interval::MINUTE, oldest());
    let asked = inquiry.ask().unwrap().unwrap();
    let key = key("BTC", "1m");
    let reply = |asked| Reply {
        asked,
        present: set([0, 2]).within(asked),
        doubtful: set([1, 2]).within(asked),
        span: Some((asked.start(), bar(&key, 2))),
        proven: asked.into(),
        dated: bar(&key, 500),
    };
    inquiry.take(&reply(asked));
    let again = inquiry.ask().unwrap().unwrap();
    assert_eq!(again, span(&key, 1, 3), "up to a row");
    inquiry.take(&reply(again));
    assert_eq!(inquiry.ask().unwrap(), None);
    assert_eq!(inquiry.verdict().empty, RangeSet::new());
}

#[test]
fn a_row_just_before_the_grid_keeps_the_bar_after_it_from_being_called_empty() {
    let key = key("BTC", "1m");
    let mut inquiry = Inquiry::new(set(0..100), Interval::MINUTE, oldest().with_gapless(true));
    let odd = bar(&key, 60).checked_add_micros(-7_000_000).unwrap();
    let mut asked = Vec::new();
    while let Some(range) = inquiry.ask().unwrap() {
        asked.push(points(&range.into()));
        let present = set((0..100).filter(|index| *index != 60)).within(range);
        let doubtful = if range.contains(odd) { set([59, 60]) } else { RangeSet::new() };
        let span =
            present.span().map(|span| (span.start(), span.end().checked_add_micros(-60_000_000).unwrap()));
        inquiry.take(&Reply {
            asked: range,
            present,
            doubtful,
            span,
            proven: range.into(),
            dated: bar(&key, 500),
        });
    }
    assert!(
        asked.len() == 2 && asked[1].contains(&59),
        "it is asked for where the row would come again: {asked:?}"
    );
    assert_eq!(inquiry.verdict().empty, RangeSet::new());
}

#[test]
fn bars_of_a_longer_interval_are_told_from_a_market_without_trades() {
    let spacing = |bars: &[u32], gapless| {
        let mut spacing = Spacing::default();
        spacing.take(&set(bars.iter().copied()), Interval::MINUTE);
        spacing.contradiction(gapless)
    };
    let fifth: Vec<_> = (0..20).map(|index| index * 5).collect();
    assert_eq!((spacing(&fifth, true), spacing(&fifth, false)), (Some(5), Some(5)));
    assert_eq!((spacing(&fifth[..3], true), spacing(&fifth[..3], false)), (Some(5), None));
    assert_eq!(spacing(&[0, 5, 10, 15, 16], true), None);
    assert_eq!(spacing(&[0, 999], true), None, "two rows may be the ends of an outage");
    let hourly: Vec<_> = (0..5).map(|index| index * 60).collect();
    assert_eq!(spacing(&hourly, false), Some(60));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Whatever an honest source caps, a verdict is true, complete, and bounded in requests.
    #[test]
    fn an_honest_source_is_read_to_its_end(
        bars in prop::collection::btree_set(0_u32..60, 0..60),
        wanted in prop::collection::btree_set(0_u32..60, 1..60),
        cap in 1_usize..70,
        (order, gapless) in (0_u8..4, any::<bool>()),
        now in 0_u32..80,
    ) {
        let order = [PageOrder::OldestFirst, PageOrder::NewestFirst, PageOrder::Unknown, PageOrder::Unpaged]
            [usize::from(order)];
        let cap = if order == PageOrder::Unpaged { usize::MAX } else { cap };
        let profile = SourceProfile::new(order).with_gapless(gapless);
        let page = |_, rows: Vec<u32>| match order {
            PageOrder::NewestFirst => rows[rows.len().saturating_sub(cap)..].to_vec(),
            _ => rows.into_iter().take(cap).collect(),
        };
        let (verdict, got, requests) = ask(profile, &set(wanted.iter().copied()), now, page, &bars);
        let Ok(verdict) = verdict else {
            prop_assert!(cap < 3, "asked in vain with {cap} rows a page");
            return Ok(());
        };
        let (empty, young) = (points(&verdict.empty), points(&verdict.too_young));
        let settled_by = i64::from(now) - 3;
        for index in &wanted {
            let is_old = i64::from(*index) <= settled_by;
            let has = bars.contains(index);
            prop_assert!(!(empty.contains(index) && has), "{index} exists");
            prop_assert!(!empty.contains(index) || is_old, "{index} is too young to say");
            if is_old {
                prop_assert!(got.contains(index) == has && empty.contains(index) != has, "{index}");
            } else {
                prop_assert!(got.contains(index) || young.contains(index), "{index} is neither");
            }
        }
        prop_assert!(verdict.contradicted.is_empty());
        // The last page may be a short one.
        let pages = u32::try_from(bars.len().div_ceil(cap.min(60))).unwrap();
        prop_assert!(requests <= 12 + 3 * pages, "{requests} requests");
    }

    /// However a source loses rows, what two answers had is not called absent where one had it.
    #[test]
    fn a_gapless_source_that_loses_rows_is_never_believed_against_itself(
        lost in prop::collection::vec(prop::collection::btree_set(0_u32..40, 0..20), 20),
    ) {
        let bars: BTreeSet<u32> = (0..40).collect();
        let page = |request: u32, rows: Vec<u32>| {
            let lost = &lost[request as usize % lost.len()];
            rows.into_iter().filter(|row| !lost.contains(row)).collect()
        };
        let (verdict, got, requests) = ask(oldest().with_gapless(true), &set(0..40), 99, page, &bars);
        prop_assert!(requests <= MAX_REQUESTS);
        if let Ok(verdict) = verdict {
            prop_assert!(points(&verdict.empty).is_disjoint(&got));
        }
    }
}
