//! Looking back is free: counted by an allocator, alone in its process because it counts all threads.

use std::alloc::System;
use std::hint::black_box;

use qmtl_history_testkit::fixtures::{bar, bars, key, start};
use qmtl_runtime::NodeCache;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

#[test]
fn a_view_of_the_last_500_bars_allocates_nothing() {
    let key = key("btc", "1m");
    let mut cache = NodeCache::new(key.clone(), 1_000).unwrap();
    cache.backfill_bulk(&bars(&key, start(), 3_000)).unwrap();
    cache.append(bar(&key, 3_000), &bars(&key, bar(&key, 3_000), 1)).unwrap();

    let region = Region::new(ALLOCATOR);
    for _ in 0..100 {
        let last = black_box(&cache).last(500);
        let (closes, times) = (last.f64("close").unwrap(), last.timestamps());
        assert_eq!((closes.len(), times.len()), (500, 500));
        black_box((closes, times));
    }
    let counted = region.change();
    assert_eq!((counted.allocations, counted.reallocations), (0, 0));
}
