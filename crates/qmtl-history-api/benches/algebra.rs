//! How the time of a `RangeSet` difference grows with its ranges: prints nanoseconds per range for
//! ten thousand, a hundred thousand and a million, each the median of several runs.

use std::hint::black_box;
use std::time::Instant;

use qmtl_history_api::{RangeSet, TimeRange, Timestamp};

const RUNS: usize = 9;

/// `count` ranges of `length` microseconds, one every ten, the first one at `offset`.
fn ranges(count: i64, offset: i64, length: i64) -> RangeSet {
    let at = |micros| Timestamp::from_micros(micros).expect("an early point of 1970");
    (0..count)
        .map(|n| n * 10 + offset)
        .map(|start| TimeRange::new(at(start), at(start + length)).expect("a positive length"))
        .collect()
}

#[expect(clippy::print_stdout, reason = "the numbers are what this program is for")]
fn main() {
    for count in [10_000, 100_000, 1_000_000] {
        let (wanted, present) = (ranges(count, 0, 6), ranges(count, 3, 5));
        let mut times = Vec::new();
        for _ in 0..RUNS {
            let start = Instant::now();
            let missing = black_box(&wanted).difference(black_box(&present));
            times.push(start.elapsed());
            assert_eq!(missing.len(), wanted.len());
        }
        times.sort_unstable();
        let per_range =
            times[RUNS / 2].as_secs_f64() * 1e9 / f64::from(u32::try_from(count).expect("a million"));
        println!("difference {count} {per_range:.2} ns/range");
    }
}
