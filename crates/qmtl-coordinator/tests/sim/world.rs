//! What a run meets, drawn from its seed.

use std::time::Duration;

use fastrand::Rng;
use qmtl_history_api::{Interval, SeriesKey, TimeRange, Timestamp};

use crate::clock::{Skew, after};

/// When faults end, in seconds from the beginning.
pub(crate) const CALM: f64 = 400.0;
/// How long a lease lasts.
pub(crate) const TTL: Duration = Duration::from_secs(30);
/// Minutes of a window.
const WINDOW: i64 = 900;
/// How far missing bars of a window lie apart.
const STEP: usize = 128;

/// One worker.
#[derive(Clone, Debug)]
pub(crate) struct WorkerPlan {
    pub(crate) skew: Skew,
    /// When it cannot reach the coordinator.
    pub(crate) partitions: Vec<TimeRange>,
    /// When it ends without a word; it comes back some seconds later.
    pub(crate) crashes: Vec<Timestamp>,
    /// Windows in flight.
    pub(crate) at_once: usize,
    /// Whether it goes on without the coordinator.
    pub(crate) goes_alone: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) seed: u64,
    pub(crate) key: SeriesKey,
    /// The bars that are wanted: whole windows.
    pub(crate) range: TimeRange,
    /// Of each window so many bars are missing when the run begins.
    pub(crate) missing: u32,
    pub(crate) workers: Vec<WorkerPlan>,
    /// When the server is not there.
    pub(crate) outages: Vec<TimeRange>,
    /// By how much its wall clock is set back further at each restart, in microseconds.
    pub(crate) set_back: i64,
    /// How likely it is that a request, and that an answer, is lost; that a request comes twice.
    pub(crate) lost: f64,
    pub(crate) doubled: f64,
    /// The longest that a message takes, in seconds.
    pub(crate) slow: f64,
    /// The longest that the source takes, in seconds, and how often it fails.
    pub(crate) slow_source: f64,
    pub(crate) failing_source: f64,
    /// A window whose rows are never right, by its number.
    pub(crate) poisoned: Option<u32>,
    /// The longest that a write takes, in seconds, and how often one fails.
    pub(crate) slow_store: f64,
    pub(crate) failing_store: f64,
}

/// Times at which something is so, by their beginning.
fn ranges(rng: &mut Rng, most: usize, longest: f64) -> Vec<TimeRange> {
    let mut ranges: Vec<_> = (0..rng.usize(0..=most))
        .filter_map(|_| {
            let from = rng.f64() * CALM;
            TimeRange::checked(after(from), after((from + 1.0 + rng.f64() * longest).min(CALM)))
        })
        .collect();
    ranges.sort_by_key(|range| range.start());
    ranges
}

impl World {
    pub(crate) fn draw(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let windows = rng.i64(2..=9);
        // Windows begin at multiples of their length.
        let first = 1_704_067_200_i64 / (WINDOW * 60) * (WINDOW * 60);
        let time =
            |windows: i64| Timestamp::from_secs(first + windows * WINDOW * 60).expect("it lies in 2024");
        let workers = (0..rng.usize(2..=4))
            .map(|_| WorkerPlan {
                skew: Skew {
                    wall: rng.i64(-3_600_000_000..3_600_000_000),
                    ppm: rng.i64(-300..=300),
                    stalls: ranges(&mut rng, 2, 90.0),
                },
                partitions: ranges(&mut rng, 2, 60.0),
                crashes: (0..rng.usize(0..=3)).map(|_| after(rng.f64() * CALM)).collect(),
                at_once: rng.usize(1..=4),
                goes_alone: rng.u32(0..8) == 0,
            })
            .collect();
        let share = |rng: &mut Rng, values: &[f64]| *rng.choice(values).expect("there are some");
        Self {
            seed,
            key: SeriesKey::new("ohlcv:sim:X:1m", Interval::MINUTE).expect("a name"),
            range: TimeRange::new(time(0), time(windows)).expect("it has bars"),
            missing: rng.u32(1..=6),
            workers,
            outages: ranges(&mut rng, 3, 40.0),
            set_back: rng.i64(0..7_200_000_000),
            lost: share(&mut rng, &[0.0, 0.05, 0.3]),
            doubled: share(&mut rng, &[0.0, 0.1, 0.5]),
            slow: share(&mut rng, &[0.01, 0.5, 6.0]),
            slow_source: share(&mut rng, &[0.1, 5.0, 60.0]),
            failing_source: share(&mut rng, &[0.0, 0.2, 0.6]),
            poisoned: (rng.u32(0..6) == 0).then(|| rng.u32(0..2)),
            slow_store: share(&mut rng, &[0.01, 2.0, 45.0]),
            failing_store: share(&mut rng, &[0.0, 0.1, 0.4]),
        }
    }

    /// The windows, ascending.
    pub(crate) fn windows(&self) -> Vec<TimeRange> {
        let length = WINDOW * 60 * 1_000_000;
        let count = self.range.micros() / length;
        (0..count)
            .filter_map(|number| {
                let start = self.range.start().checked_add_micros(number * length)?;
                TimeRange::checked(start, start.checked_add_micros(length)?)
            })
            .collect()
    }

    /// The bars of a window that are missing when the run begins.
    pub(crate) fn wanted(&self, window: TimeRange) -> Vec<Timestamp> {
        let bars = window.points(self.key.interval);
        bars.step_by(STEP).take(self.missing as usize).collect()
    }

    /// Whether the window that begins here is the poisoned one.
    pub(crate) fn is_poisoned(&self, bar: Timestamp) -> bool {
        let window = self.poisoned.and_then(|number| self.windows().get(number as usize).copied());
        window.is_some_and(|window| window.contains(bar))
    }
}
