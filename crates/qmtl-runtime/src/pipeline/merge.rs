//! Puts the rows of several caches in the order of the moments at which they close.

use std::sync::{Mutex, MutexGuard, PoisonError};

use qmtl_history_api::Timestamp;

use super::Parallelism;
use super::node::{Chunk, Few, Node, Results, Round};
use crate::{NodeCache, StreamInput};

/// All caches, in the order of the inputs.
pub(super) fn lock<'a>(inputs: &'a [StreamInput], order: &[usize]) -> Few<MutexGuard<'a, NodeCache>> {
    let mut guards: Few<_> = order.iter().map(|input| (*input, inputs[*input].cache().lock())).collect();
    guards.sort_unstable_by_key(|(input, _)| *input);
    guards.into_iter().map(|(_, guard)| guard).collect()
}

/// How many rows close at `moment` or before.
pub(super) fn rows_up_to(cache: &NodeCache, moment: Timestamp) -> usize {
    let Some(newest) = moment.checked_add_micros(-cache.key().interval.as_micros()) else { return 0 };
    let rows = cache.view().timestamps();
    // Mostly nothing waits.
    if rows.last().is_none_or(|last| *last <= newest) {
        return rows.len();
    }
    rows.partition_point(|ts| *ts <= newest)
}

/// Merges what closes after `released` and up to `until`, moment by moment, into at most about `size` moments. The
/// inputs that are `open` have more to come: nothing is merged beyond the last row of any of these. With `shows_stale`,
/// the chunk lists the moments at which an input lacks the bar that would be its newest.
pub(super) fn next_chunk(
    caches: &[MutexGuard<'_, NodeCache>],
    (released, until): (Timestamp, Timestamp),
    open: &[bool],
    (size, shows_stale): (usize, bool),
    chunk: &mut Chunk,
) {
    chunk.clear(caches.len());
    let Chunk { moments, emits, before, runs, stale, next, heads, due } = chunk;
    let rows = |input: usize| caches[input].view().timestamps();
    let close = |input: usize, row: usize| {
        // Nothing is later than the end of time, where an input has no row left.
        let length = caches[input].key().interval.as_micros();
        rows(input).get(row).and_then(|ts| ts.checked_add_micros(length)).unwrap_or(Timestamp::MAX)
    };
    before.extend(caches.iter().map(|cache| rows_up_to(cache, released)));
    next.extend_from_slice(before);
    heads.extend(next.iter().enumerate().map(|(input, row)| close(input, *row)));
    let due_after = |input: usize, close: Timestamp| {
        close.checked_add_micros(caches[input].key().interval.as_micros()).unwrap_or(Timestamp::MAX)
    };
    due.extend(next.iter().enumerate().map(|(input, row)| match row.checked_sub(1) {
        Some(last) if shows_stale => (due_after(input, close(input, last)), false),
        _ => (Timestamp::MAX, false),
    }));
    let starved = |input: usize, at: usize| open.get(input) == Some(&true) && at == rows(input).len();
    let mut is_starved = (0..caches.len()).any(|input| starved(input, next[input]));
    while moments.len() < size && !is_starved {
        let Some(moment) = heads.iter().copied().min().filter(|at| *at < Timestamp::MAX && *at <= until)
        else {
            break;
        };
        let number = u32::try_from(moments.len()).expect("a chunk has few moments");
        for (input, head) in heads.iter_mut().enumerate() {
            if *head == moment {
                emits[input].push(number);
                next[input] += 1;
                is_starved |= starved(input, next[input]);
                *head = close(input, next[input]);
                if shows_stale {
                    due[input] = (due_after(input, moment), false);
                }
            } else if moment >= due[input].0 {
                let (from, is_stale) = &mut due[input];
                if !*is_stale {
                    let newest = rows(input)[next[input] - 1];
                    match caches[input].settled_until(newest, moment) {
                        Some(close) => *from = due_after(input, close),
                        None => *is_stale = true,
                    }
                }
                if *is_stale {
                    stale[input].push(number);
                }
            }
        }
        moments.push(moment);
    }
    runs.extend(caches.iter().zip(&*next).map(|(cache, rows)| cache.runs(*rows)));
}

/// Runs the nodes of one level, none of which reads another.
pub(super) fn run_level(
    nodes: &mut [Node],
    results: &mut [Results],
    round: &Round<'_>,
    parallelism: Parallelism,
) {
    let threads = if round.chunk.is_small() { 1 } else { parallelism.threads() };
    spread(threads, nodes.iter_mut().zip(results), |(node, own)| node.run(own, round));
}

/// Works on every item, on up to so many threads, of which this one is one. Each takes the next
/// item when it is done with one, so that a slow item or a busy core holds up nobody else.
pub(super) fn spread<T: Send>(
    threads: usize,
    items: impl ExactSizeIterator<Item = T> + Send,
    work: impl Fn(T) + Sync,
) {
    let others = threads.min(items.len()).saturating_sub(1);
    if others == 0 {
        return items.for_each(work);
    }
    let queue = Mutex::new(items);
    let run = || {
        loop {
            // A panic elsewhere leaves the queue as it was.
            let item = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
            match item {
                Some(item) => work(item),
                None => return,
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..others {
            scope.spawn(run);
        }
        run();
    });
}
