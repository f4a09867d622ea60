//! The clock of a simulated process: true time passes by itself once everything waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use qmtl_history_api::{Clock, Timestamp, async_trait};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::world::{World, begin};

/// Calls of a process at one instant, after which it is taken to turn in a circle.
const TURNS: u64 = 50_000;

/// True time, and what the process believes of it. Time moves on to the next point at which something
/// happens when nothing can go on without it: the runtime's paused clock does that.
#[derive(Clone, Debug)]
pub(crate) struct SimClock {
    world: Arc<World>,
    started: Instant,
    process: Arc<Process>,
}

impl SimClock {
    /// Starts at the beginning of the world, inside of its runtime.
    pub(crate) fn new(world: Arc<World>, process: Arc<Process>) -> Self {
        Self { world, started: Instant::now(), process }
    }

    /// The true time.
    pub(crate) fn truth(&self) -> Timestamp {
        begin().checked_add(self.started.elapsed()).unwrap_or(Timestamp::MAX)
    }

    /// Waits for a true time, whatever the process does.
    pub(crate) async fn until(&self, time: Timestamp) {
        tokio::time::sleep_until(self.started + time.since(begin())).await;
    }

    /// Waits for so much true time to pass, and until the process goes on if it stands still then.
    pub(crate) async fn pass(&self, duration: Duration) {
        let then = self.truth().checked_add(duration).unwrap_or(Timestamp::MAX);
        self.until(self.world.awake(then)).await;
    }
}

#[async_trait]
impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        self.world.wall(self.truth())
    }

    fn monotonic(&self) -> Duration {
        self.world.monotonic(self.truth())
    }

    async fn sleep(&self, duration: Duration) {
        self.process.step(self.truth()).await;
        let then = self.world.after(self.truth(), duration);
        self.until(self.world.awake(then)).await;
    }
}

/// A process: every call that leaves it is a step, and at any step it may end.
#[derive(Debug)]
pub(crate) struct Process {
    /// From when on it lives.
    calm: Timestamp,
    steps: AtomicU64,
    ends_at: AtomicU64,
    ended: Notify,
    /// The instant of the last step, and how many there were at it.
    instant: AtomicU64,
    turns: AtomicU64,
}

impl Process {
    /// A process that ends nowhere before it is started, and not from the true time `calm` on.
    pub(crate) fn new(calm: Timestamp) -> Self {
        Self {
            calm,
            steps: AtomicU64::new(0),
            ends_at: AtomicU64::new(u64::MAX),
            ended: Notify::new(),
            instant: AtomicU64::new(0),
            turns: AtomicU64::new(0),
        }
    }

    /// Starts anew, to end at its step number `ends_at`.
    pub(crate) fn start(&self, ends_at: Option<u64>) {
        self.steps.store(0, Ordering::Relaxed);
        self.ends_at.store(ends_at.unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// A step at a true time; never returns from the one at which the process ends, nor when it turns in a
    /// circle.
    pub(crate) async fn step(&self, time: Timestamp) {
        let instant = time.as_micros().unsigned_abs();
        if self.instant.swap(instant, Ordering::Relaxed) != instant {
            self.turns.store(0, Ordering::Relaxed);
        }
        let turns = self.turns.fetch_add(1, Ordering::Relaxed);
        let step = self.steps.fetch_add(1, Ordering::Relaxed);
        let is_last = step >= self.ends_at.load(Ordering::Relaxed) && time < self.calm;
        if is_last || turns >= TURNS {
            self.ended.notify_one();
            std::future::pending::<()>().await;
        }
    }

    /// Waits for the end of the process.
    pub(crate) async fn ended(&self) {
        self.ended.notified().await;
    }

    /// Whether it went on and on without letting time pass.
    pub(crate) fn turns_in_a_circle(&self) -> bool {
        self.turns.load(Ordering::Relaxed) >= TURNS
    }
}
