//! Time that passes by itself in tests that wait.

use std::pin::pin;
use std::time::Duration;

use qmtl_history_testkit::fixtures::ManualClock;

/// Runs `work` while `clock` moves on by 50 ms whenever all that can go on without it has.
pub(crate) async fn passing_time<T>(clock: &ManualClock, work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    loop {
        let idle = async {
            clock.wait_for_sleepers(1).await;
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            biased;
            done = &mut work => return done,
            () = idle => clock.advance(Duration::from_millis(50)),
        }
    }
}
