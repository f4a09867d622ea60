//! The system clock.

use std::time::Duration;

use qmtl_history_api::Clock;
use qmtl_observe::TokioClock;

use crate::at;

#[test]
fn now_is_after_this_test_was_written() {
    assert!(TokioClock::new().now() > at(1_763_942_400));
}

#[tokio::test(start_paused = true)]
async fn two_clocks_share_one_monotonic_time_and_sleeping_moves_it() {
    let (one, other) = (TokioClock::new(), TokioClock::new());
    let before = one.monotonic();
    one.sleep(Duration::from_secs(3_600)).await;
    assert!(other.monotonic() - before >= Duration::from_secs(3_600));
}
