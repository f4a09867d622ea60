//! The budget against what a server counts, and the waits of many tasks.

use proptest::prelude::*;
use qmtl_history_testkit::fixtures::{ManualClock, start};

use super::*;

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

#[test]
fn a_budget_is_granted_at_once_and_comes_back_after_a_minute() {
    let mut budget = Budget::new(4);
    assert_eq!(budget.take(secs(10), 2), Ok(()));
    assert_eq!(budget.take(secs(20), 2), Ok(()));
    // The use of second 10 counts until second 71.
    assert_eq!(budget.take(secs(20), 2), Err(secs(51)));
    assert_eq!(budget.take(secs(70), 4), Err(secs(11)));
    assert_eq!(budget.take(secs(71), 2), Ok(()));
}

#[test]
fn what_others_use_of_the_same_address_counts() {
    let mut budget = Budget::new(100);
    assert_eq!(budget.take(secs(1), 10), Ok(()));
    budget.observe(secs(2), 10);
    assert_eq!(budget.take(secs(2), 90), Ok(()));
    let mut budget = Budget::new(100);
    assert_eq!(budget.take(secs(1), 10), Ok(()));
    budget.observe(secs(2), 95);
    assert_eq!(budget.take(secs(2), 10), Err(secs(60)));
    // A new minute of the server's does not give back what was used in this one.
    budget.observe(secs(3), 0);
    assert_eq!(budget.take(secs(3), 10), Err(secs(59)));
}

#[test]
fn a_ban_blocks_and_a_shorter_one_does_not_end_it() {
    let mut budget = Budget::new(100);
    budget.block(secs(30), 418);
    budget.block(secs(20), 429);
    assert_eq!([5, 30].map(|at| budget.held(secs(at))), [Held::Banned(418), Held::UsedUp]);
    assert_eq!(budget.take(secs(5), 1), Err(secs(25)));
    assert_eq!(budget.take(secs(30), 1), Ok(()));
}

#[test]
fn a_weight_beyond_the_budget_does_not_wait_for_ever() {
    let mut budget = Budget::new(5);
    assert_eq!(budget.take(secs(0), 20), Ok(()));
    assert_eq!(budget.take(secs(0), 20), Err(secs(61)));
    assert_eq!(budget.take(secs(61), 20), Ok(()));
}

#[tokio::test]
async fn waiting_lasts_as_long_as_it_must_and_no_longer_than_the_deadline() {
    let limiter = Limiter(Mutex::new(Budget::new(2)));
    let clock = ManualClock::skipping_sleep(start());
    assert_eq!(limiter.acquire(2, &clock, secs(300)).await, Ok(secs(0)));
    assert_eq!(limiter.acquire(2, &clock, secs(300)).await, Ok(secs(61)));
    assert_eq!(limiter.acquire(2, &clock, secs(100)).await, Err(secs(61)));
    assert_eq!(clock.monotonic(), secs(61));
}

#[test]
fn clients_of_one_host_share_the_lowest_budget() {
    let first = Limiter::shared("shared.invalid", 10, None);
    let second = Limiter::shared("shared.invalid", 4, None);
    assert_eq!(first.budget().take(secs(0), 3), Ok(()));
    assert!(second.budget().take(secs(0), 3).is_err());
    assert_eq!(Limiter::shared("other.invalid", 10, None).budget().take(secs(0), 3), Ok(()));
}

#[test]
fn requests_keep_their_distance_after_the_first_second() {
    let mut budget = Budget::new(1_000);
    budget.slow_to(4.0);
    budget.slow_to(9.0);
    let mut now = Duration::from_secs(50);
    let mut granted = Vec::new();
    while granted.len() < 12 {
        match budget.take(now, 1) {
            Ok(()) => granted.push(now),
            Err(wait) => now += wait,
        }
    }
    let at: Vec<_> = granted.iter().map(|at| (*at - Duration::from_secs(50)).as_millis()).collect();
    assert_eq!(at, [0, 0, 0, 0, 250, 500, 750, 1_000, 1_250, 1_500, 1_750, 2_000]);
    let mut slow = Budget::new(1_000);
    slow.slow_to(0.5);
    assert_eq!(slow.take(secs(7), 1), Ok(()));
    assert_eq!(slow.take(secs(7), 1), Err(secs(2)));
}

proptest! {
    /// Whatever second the server's minute starts in, it never counts more than the budget, and
    /// who waits as told is served then.
    #[test]
    fn no_minute_holds_more_than_the_budget(asked in prop::collection::vec((0_u64..40_000, 1_u32..6), 1..80)) {
        let mut budget = Budget::new(20);
        let mut now = Duration::ZERO;
        let mut granted = Vec::new();
        for (gap_ms, weight) in asked {
            now += Duration::from_millis(gap_ms / 20);
            if let Err(wait) = budget.take(now, weight) {
                now += wait;
                prop_assert_eq!(budget.take(now, weight), Ok(()));
            }
            granted.push((now, weight));
        }
        for (from, _) in &granted {
            let minute = *from..*from + secs(60);
            let used: u32 = granted.iter().filter(|(at, _)| minute.contains(at)).map(|(_, weight)| weight).sum();
            prop_assert!(used <= 20, "{} used in the minute from {:?}", used, from);
        }
    }
}
