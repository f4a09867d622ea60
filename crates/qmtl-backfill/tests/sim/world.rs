//! What a run meets, drawn from its seed: markets, faults with their times, clocks, crashes.

use std::time::Duration;

use fastrand::Rng;
use qmtl_history_api::{Interval, RangeSet, SeriesKey, TimeRange, Timestamp};

/// How long an exchange may take to publish a bar or to revise it; nothing here takes longer.
pub(crate) const LAG: Duration = Duration::from_secs(120);
/// Seeds from here on are of runs over Parquet.
pub(crate) const PARQUET_SEEDS: u64 = 1_000_000_000;

const SECOND: i64 = 1_000_000;
const MINUTE: i64 = 60 * SECOND;
const DAY: i64 = 86_400 * SECOND;

/// When every run begins, by the true time: 2024-03-10T00:00:00Z.
pub(crate) fn begin() -> Timestamp {
    Timestamp::from_secs(1_710_028_800).expect("it lies in 2024")
}

/// `time` moved by so many microseconds.
pub(crate) fn moved(time: Timestamp, micros: i64) -> Timestamp {
    time.checked_add_micros(micros).expect("a run stays near its beginning")
}

/// One way in which something goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Fault {
    /// Bars are published up to just below the publish lag after their close.
    Late,
    /// A bar is published in a first version, and changed within the publish lag.
    Revised,
    /// A page has fewer rows than were asked for.
    ShortPages,
    /// Status 206 with a part of the rows, the same part whenever it is asked.
    Partial,
    /// Rows are left out by chance, but none by two answers in a row.
    RandomPart,
    /// Of a page only its first and its last row.
    EndsOnly,
    /// A page without rows, but never two in a row without the same.
    EmptyPages,
    /// Rows of bars five times as long, which say so in their close time.
    WrongInterval,
    /// Every fifth row, as long as three of them come, so that they give themselves away.
    Sparser,
    /// Rows that stand seven seconds beside the grid.
    OffGrid,
    /// Status 503.
    ServerErrors,
    /// No connection.
    Refused,
    /// No answer ever.
    Silent,
    /// Status 429 with a pause to be kept.
    RateLimited,
    /// Status 200 and something that is no answer of the API.
    Garbage,
    /// Answers take many seconds.
    Slow,
    /// The server's clock is wrong, in its answers and in the `Date` header.
    WrongTime,
    /// The server does not tell the time, or in the `Date` header alone.
    NoTime,
    /// A write fails and stores nothing.
    WriteFails,
    /// A write fails and has stored the first half of its rows.
    WriteTorn,
    /// A write fails and has stored everything.
    WriteUnacknowledged,
    /// The store does not say what it has.
    CoverageFails,
    /// The store gives no rows.
    ReadFails,
    /// Calls of the store take a while.
    StoreSlow,
    /// A recorder stores closed bars in their final version.
    OtherWriter,
    /// The wall clock is set, by seconds to days, and later set right.
    Step,
    /// The wall clock runs too fast or too slow.
    Drift,
    /// The process stands still: with its monotonic clock, as when a machine sleeps, or without.
    Pause,
    /// The process ends at any of its calls and is started anew.
    Crash,
}

use Fault::{
    CoverageFails, EmptyPages, EndsOnly, Garbage, Late, NoTime, OffGrid, OtherWriter, Partial, RandomPart,
    RateLimited, ReadFails, Refused, Revised, ServerErrors, ShortPages, Silent, Slow, Sparser, StoreSlow,
    WriteFails, WriteTorn, WriteUnacknowledged, WrongInterval, WrongTime,
};

/// Faults of any exchange.
const OF_EXCHANGES: [Fault; 13] = [
    Late,
    Revised,
    ShortPages,
    Partial,
    OffGrid,
    ServerErrors,
    Refused,
    Silent,
    RateLimited,
    Garbage,
    Slow,
    WrongTime,
    NoTime,
];
/// Faults of an exchange that has a row for every bar: of others nobody could tell them from the truth.
const OF_GAPLESS: [Fault; 5] = [RandomPart, EndsOnly, EmptyPages, WrongInterval, Sparser];
const OF_STORES: [Fault; 7] =
    [WriteFails, WriteTorn, WriteUnacknowledged, CoverageFails, ReadFails, StoreSlow, OtherWriter];

/// A fault and its time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trouble {
    pub(crate) fault: Fault,
    pub(crate) during: TimeRange,
    /// How often it strikes while it lasts, 0 to 1.
    pub(crate) chance: f64,
    /// Rows, seconds or microseconds, whatever the fault is measured in.
    pub(crate) amount: i64,
}

/// Whose API a market speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Binance,
    Coinbase,
}

/// A state of a bar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Version {
    /// Before its close.
    Forming,
    /// As it is published.
    First,
    /// As it stays.
    Final,
}

/// What an exchange has of one series, as a function of the true time.
#[derive(Clone, Debug)]
pub(crate) struct Market {
    pub(crate) kind: Kind,
    pub(crate) key: SeriesKey,
    seed: u64,
    /// When the first bar opens.
    pub(crate) listed: Timestamp,
    /// Where it has no bars.
    holes: RangeSet,
    /// Of a hundred minutes, how many are without trades.
    quiet: u64,
    late: Vec<Trouble>,
    revised: Vec<Trouble>,
    /// From where on bars are wanted.
    pub(crate) start: Timestamp,
}

impl Market {
    pub(crate) fn interval(&self) -> Interval {
        self.key.interval
    }

    /// A number that looks drawn, the same for the same bar and question.
    fn chance(&self, bar: Timestamp, question: u64) -> u64 {
        let mut x = self.seed ^ bar.as_micros().unsigned_abs() ^ question.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for factor in [0xbf58_476d_1ce4_e5b9_u64, 0x94d0_49bb_1331_11eb] {
            x = (x ^ (x >> 30)).wrapping_mul(factor);
            x ^= x >> 27;
        }
        x ^ (x >> 31)
    }

    /// Whether the exchange has the bar, now or once it has closed.
    pub(crate) fn has(&self, bar: Timestamp) -> bool {
        bar >= self.listed
            && !self.holes.contains(bar)
            // The first bar has trades: they are what makes it the first.
            && (bar == self.listed || self.chance(bar, 1) % 100 >= self.quiet)
    }

    pub(crate) fn close(&self, bar: Timestamp) -> Timestamp {
        moved(bar, self.interval().as_micros())
    }

    /// From when on the exchange gives the bar in its first version, and from when on in its final one.
    pub(crate) fn published(&self, bar: Timestamp) -> (Timestamp, Timestamp) {
        let close = self.close(bar);
        let strikes = |troubles: &[Trouble], question| {
            troubles
                .iter()
                .find(|trouble| trouble.during.contains(close) && self.share(bar, question) < trouble.chance)
                .map(|trouble| trouble.amount)
        };
        let micros = |range: i64, question| {
            i64::try_from(self.chance(bar, question) % range.unsigned_abs().max(1)).unwrap_or(0)
        };
        let first =
            strikes(&self.late, 2).map_or(micros(2 * SECOND, 3), |longest| micros(longest * SECOND, 4));
        let last = match strikes(&self.revised, 5) {
            Some(longest) => first.max(micros(longest * SECOND, 6)),
            None => first,
        };
        (moved(close, first), moved(close, last))
    }

    fn share(&self, bar: Timestamp, question: u64) -> f64 {
        (self.chance(bar, question) % 1_000) as f64 / 1_000.0
    }

    /// What the exchange gives of the bar at `time`.
    pub(crate) fn version(&self, bar: Timestamp, time: Timestamp) -> Option<Version> {
        let (first, last) = self.published(bar);
        match () {
            () if time < bar || !self.has(bar) => None,
            () if time < self.close(bar) => Some(Version::Forming),
            () if time < first => None,
            () if time < last => Some(Version::First),
            () => Some(Version::Final),
        }
    }

    /// Open, high, low, close and volume; every number is a multiple of a quarter, and so exact as text.
    pub(crate) fn values(&self, bar: Timestamp, version: Version) -> [f64; 5] {
        let open = 100.0 + (self.chance(bar, 7) % 40_000) as f64 / 4.0;
        let done = match version {
            Version::Forming => 1.0,
            Version::First => 2.0,
            Version::Final => 3.0,
        };
        let volume = 1.0 + (self.chance(bar, 8) % 1_000) as f64 / 2.0;
        [open, open + done, open - 1.0, open + done / 4.0, volume * done]
    }

    /// The first bar at or after `from` that the exchange has of those before `end`.
    pub(crate) fn bars(&self, range: TimeRange) -> impl DoubleEndedIterator<Item = Timestamp> {
        let length = self.interval().as_micros();
        let on_grid = range.intersect(TimeRange::checked(self.listed, Timestamp::MAX).unwrap_or(range));
        let (first, bars) = match on_grid.and_then(|range| range.on_grid(self.interval())) {
            Some(range) => (range.start(), range.micros() / length),
            None => (Timestamp::MIN, 0),
        };
        (0..bars).map(move |n| moved(first, n * length)).filter(|bar| self.has(*bar))
    }
}

/// A time in which the process stands still.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Standstill {
    pub(crate) during: TimeRange,
    /// Whether its monotonic clock stands still as well.
    pub(crate) stops_clock: bool,
}

/// Everything that a run meets.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) seed: u64,
    pub(crate) markets: Vec<Market>,
    pub(crate) troubles: Vec<Trouble>,
    /// When the wall clock is set, and by how many microseconds; ascending.
    pub(crate) steps: Vec<(Timestamp, i64)>,
    /// Millionths by which the wall clock runs too fast.
    pub(crate) drift: i64,
    /// Ascending and apart.
    pub(crate) standstills: Vec<Standstill>,
    /// After how many of its calls each process ends; those after the last live on.
    pub(crate) crashes: Vec<u64>,
    /// When the process is stopped and started again, once the faults are over.
    pub(crate) off: Option<TimeRange>,
    /// From when on nothing goes wrong any more.
    pub(crate) calm: Timestamp,
    pub(crate) end: Timestamp,
    /// Repetitions of a request.
    pub(crate) retries: usize,
    pub(crate) window_bars: Option<u64>,
    /// Whose clock may be ahead of the true time: the exchange's, or ours. Never both, because then nobody
    /// is left who knows.
    pub(crate) ours_may_be_ahead: bool,
}

impl World {
    pub(crate) fn is_over_parquet(&self) -> bool {
        self.seed >= PARQUET_SEEDS
    }

    /// Draws the world of `seed`.
    pub(crate) fn draw(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let is_small = seed >= PARQUET_SEEDS;
        let faulty = if is_small { 5..10 } else { 6..20 };
        let calm = moved(begin(), rng.i64(faulty) * MINUTE);
        let mut world = Self {
            seed,
            markets: Vec::new(),
            troubles: Vec::new(),
            steps: Vec::new(),
            drift: 0,
            standstills: Vec::new(),
            crashes: Vec::new(),
            off: None,
            calm,
            end: calm,
            retries: *rng.choice(&[0, 2, 8]).expect("there are three"),
            window_bars: *rng.choice(&[None, None, Some(7), Some(30), Some(60)]).expect("there are five"),
            ours_may_be_ahead: rng.bool(),
        };
        world.draw_markets(&mut rng, is_small);
        world.draw_troubles(&mut rng);
        world.draw_process(&mut rng);
        world.draw_rest(&mut rng);
        world
    }

    fn draw_markets(&mut self, rng: &mut Rng, is_small: bool) {
        let kinds: &[Kind] = match rng.u32(0..10) {
            0..6 => &[Kind::Binance],
            6..9 => &[Kind::Coinbase],
            _ => &[Kind::Binance, Kind::Coinbase],
        };
        for (number, kind) in kinds.iter().enumerate() {
            let interval = if rng.u32(0..8) == 0 { "5m" } else { "1m" };
            let interval: Interval = interval.parse().expect("it is one");
            let length = interval.as_micros();
            let past = rng.i64(if is_small { 5..40 } else { 10..150 });
            let start = moved(begin(), -past * length);
            let listed = match rng.u32(0..10) {
                0..6 => moved(start, -rng.i64(0..5_000) * length),
                6..9 => moved(start, rng.i64(0..past) * length),
                _ => moved(begin(), rng.i64(0..8) * length),
            };
            let mut holes = RangeSet::new();
            for _ in 0..rng.usize(0..4) {
                let from = moved(start, rng.i64(-5..past + 30) * length);
                let hole = TimeRange::checked(from, moved(from, rng.i64(1..16) * length));
                // Outages stand two bars apart at least, or they are one.
                let near = hole.and_then(|hole| {
                    TimeRange::checked(moved(hole.start(), -2 * length), moved(hole.end(), 2 * length))
                });
                if near.is_some_and(|near| holes.within(near).is_empty()) {
                    holes.extend(hole);
                }
            }
            let quiet = if *kind == Kind::Coinbase { rng.u64(0..60) } else { 0 };
            let node = format!("{kind:?}{number}").to_uppercase();
            self.markets.push(Market {
                kind: *kind,
                key: SeriesKey::new(node.as_str(), interval).expect("a name of letters"),
                seed: rng.u64(..),
                listed,
                holes,
                quiet,
                late: Vec::new(),
                revised: Vec::new(),
                start,
            });
        }
    }

    fn draw_troubles(&mut self, rng: &mut Rng) {
        let has_others = self.markets.iter().any(|market| market.kind == Kind::Coinbase);
        let mut kinds = OF_EXCHANGES.to_vec();
        if !has_others {
            kinds.extend(OF_GAPLESS);
        }
        rng.shuffle(&mut kinds);
        kinds.truncate(rng.usize(0..6));
        let mut of_store = OF_STORES.to_vec();
        rng.shuffle(&mut of_store);
        kinds.extend(&of_store[..rng.usize(0..3)]);
        for fault in kinds {
            for _ in 0..rng.usize(1..3) {
                let trouble = self.draw_trouble(fault, rng);
                self.add(trouble);
            }
        }
    }

    /// A time for `fault` before the calm, and how it strikes.
    pub(crate) fn draw_trouble(&self, fault: Fault, rng: &mut Rng) -> Trouble {
        let faulty = self.calm.as_micros() - begin().as_micros();
        // What has closed just before the beginning may be late as well.
        let (from, to) = if rng.u32(0..3) == 0 {
            (-2 * MINUTE, faulty)
        } else {
            let from = rng.i64(-2 * MINUTE..faulty - MINUTE);
            (from, from + rng.i64(MINUTE..=faulty - from))
        };
        let during = TimeRange::new(moved(begin(), from), moved(begin(), to.min(faulty)));
        let ahead = if self.ours_may_be_ahead { -1 } else { *rng.choice(&[1, -1]).expect("there are two") };
        let amount = match fault {
            Late | Revised => rng.i64(3..119),
            ShortPages => rng.i64(1..40),
            RateLimited => rng.i64(1..40),
            Slow => rng.i64(1..25),
            Partial => rng.i64(0..2),
            NoTime => i64::from(self.ours_may_be_ahead || rng.bool()),
            WrongTime => ahead * draw_shift(rng),
            _ => 0,
        };
        let chance = match fault {
            WrongTime | NoTime | OtherWriter => 1.0,
            Late | Revised => *rng.choice(&[0.3, 1.0]).expect("there are two"),
            _ => *rng.choice(&[0.1, 0.3, 0.6, 1.0]).expect("there are four"),
        };
        Trouble { fault, during: during.expect("a minute at least"), chance, amount }
    }

    /// Adds a fault of an exchange or of the store.
    pub(crate) fn add(&mut self, trouble: Trouble) {
        for market in &mut self.markets {
            match trouble.fault {
                Late => market.late.push(trouble),
                Revised => market.revised.push(trouble),
                _ => {}
            }
        }
        self.troubles.push(trouble);
    }

    /// Leaves these faults alone to happen, all the time until the calm. `false` when they do not suit the
    /// exchanges of this world.
    pub(crate) fn only(&mut self, faults: &[Fault]) -> bool {
        let mut rng = Rng::with_seed(self.seed ^ 0x0017);
        for market in &mut self.markets {
            market.late.clear();
            market.revised.clear();
        }
        self.troubles.clear();
        self.steps.clear();
        self.crashes.clear();
        self.drift = 0;
        // What lies beyond the calm is the rest, not a fault.
        self.standstills.retain(|still| still.during.start() >= self.calm);
        let during = TimeRange::checked(moved(begin(), -2 * MINUTE), self.calm);
        for fault in faults {
            let drawn = self.draw_trouble(*fault, &mut rng);
            let trouble =
                Trouble { during: during.unwrap_or(drawn.during), chance: drawn.chance.max(0.6), ..drawn };
            self.add(trouble);
        }
        let is_gapless = |market: &Market| market.kind == Kind::Binance;
        self.markets.iter().all(is_gapless) || !faults.iter().any(|fault| OF_GAPLESS.contains(fault))
    }

    fn draw_process(&mut self, rng: &mut Rng) {
        let faulty = self.calm.as_micros() - begin().as_micros();
        if rng.u32(0..3) == 0 {
            let sign =
                if self.ours_may_be_ahead { *rng.choice(&[1, -1]).expect("there are two") } else { -1 };
            self.drift = sign * rng.i64(1..300);
        }
        if rng.u32(0..2) == 0 {
            let sign =
                if self.ours_may_be_ahead { *rng.choice(&[1, -1]).expect("there are two") } else { -1 };
            let (from, by) = (rng.i64(-MINUTE..faulty - MINUTE), sign * draw_shift(rng));
            self.set_clock(from, from + rng.i64(1..=faulty - from), by);
        }
        if rng.u32(0..3) == 0 {
            let from = rng.i64(0..faulty - MINUTE);
            let to = (from + rng.i64(SECOND..20 * MINUTE)).min(faulty);
            self.stand_still(from, to, rng.bool());
        }
        if rng.u32(0..2) == 0 {
            self.crashes = (0..rng.usize(1..4))
                .map(|_| {
                    // Many in the first fill, some later.
                    if rng.bool() { rng.u64(0..40) } else { rng.u64(40..600) }
                })
                .collect();
        }
    }

    /// Sets the wall clock by so many microseconds, and right again; times are counted from the beginning.
    pub(crate) fn set_clock(&mut self, from: i64, to: i64, by: i64) {
        self.steps = vec![(moved(begin(), from), by), (moved(begin(), to), -by)];
    }

    /// Lets the process stand still; times are counted from the beginning.
    pub(crate) fn stand_still(&mut self, from: i64, to: i64, stops_clock: bool) {
        let during = TimeRange::new(moved(begin(), from), moved(begin(), to)).expect("it takes a second");
        self.standstills.push(Standstill { during, stops_clock });
        self.standstills.sort_by_key(|still| still.during.start());
    }

    /// After the calm: some minutes, hours in which proofs expire, and some minutes again.
    fn draw_rest(&mut self, rng: &mut Rng) {
        let calm = self.calm.as_micros() - begin().as_micros();
        // An outage may have left a pause of minutes before the next try.
        let longest = self.markets.iter().map(|market| market.interval().as_micros()).max().unwrap_or(MINUTE);
        let settled = calm + 5 * MINUTE + longest;
        let rested = settled + rng.i64(100..240) * MINUTE;
        self.end = moved(begin(), rested + 5 * MINUTE + longest);
        match rng.u32(0..50) {
            0..24 => self.stand_still(settled, rested, rng.bool()),
            24..49 => {
                self.off = TimeRange::checked(moved(begin(), settled), moved(begin(), rested));
            }
            // It follows all the time.
            _ => {}
        }
    }

    /// The faults of this kind at `time`.
    pub(crate) fn at(&self, time: Timestamp) -> impl Iterator<Item = &Trouble> {
        self.troubles.iter().filter(move |trouble| trouble.during.contains(time))
    }

    /// What our wall clock shows at `time`.
    pub(crate) fn wall(&self, time: Timestamp) -> Timestamp {
        let run = time.as_micros() - begin().as_micros();
        let set: i64 = self.steps.iter().filter(|(at, _)| *at <= time).map(|(_, by)| by).sum();
        moved(time, run * self.drift / 1_000_000 + set)
    }

    /// What our monotonic clock shows at `time`.
    pub(crate) fn monotonic(&self, time: Timestamp) -> Duration {
        let stood = self.standstills.iter().filter(|still| still.stops_clock);
        let stood: Duration =
            stood.map(|still| time.min(still.during.end()).since(still.during.start())).sum();
        time.since(begin()) - stood
    }

    /// When the monotonic clock will have gone on by `duration` from `time` on.
    pub(crate) fn after(&self, time: Timestamp, duration: Duration) -> Timestamp {
        let target = self.monotonic(time).saturating_add(duration);
        let mut then = begin().checked_add(target).unwrap_or(Timestamp::MAX);
        for still in self.standstills.iter().filter(|still| still.stops_clock) {
            if then > still.during.start() {
                then = then.checked_add_micros(still.during.micros()).unwrap_or(Timestamp::MAX);
            }
        }
        then
    }

    /// The first time from `time` on at which the process does not stand still.
    pub(crate) fn awake(&self, time: Timestamp) -> Timestamp {
        let still = self.standstills.iter().find(|still| still.during.contains(time));
        still.map_or(time, |still| still.during.end())
    }
}

/// By how much a clock is wrong: seconds, minutes, hours or days.
fn draw_shift(rng: &mut Rng) -> i64 {
    match rng.u32(0..4) {
        0 => rng.i64(SECOND..MINUTE),
        1 => rng.i64(MINUTE..15 * MINUTE),
        2 => rng.i64(15 * MINUTE..5 * 60 * MINUTE),
        _ => rng.i64(DAY..30 * DAY),
    }
}
