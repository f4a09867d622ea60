//! The checks of the fetchers' suite, one function each, named after the guarantee that it holds a fetcher to.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{Either, join_all, select};
use qmtl_history_api::arrow_array::cast::AsArray;
use qmtl_history_api::arrow_array::types::Float64Type;
use qmtl_history_api::{
    DataFetcher, Error, ErrorKind, FetchRequest, PageOrder, RangeSet, Retry, RetrySink, SeriesKey, TimeRange,
    Timestamp, frame,
};
use qmtl_sim_exchange::{Candle, Endpoint, Fault, FaultRule, RequestRecord, When};

use super::{FetcherSubject, Scene};

/// The prices of rows by their times.
type Rows = BTreeMap<Timestamp, Vec<(String, f64)>>;

/// What a fetch said.
struct Said {
    rows: Rows,
    proven: RangeSet,
    as_of: Option<Timestamp>,
}

async fn fetch(fetcher: &dyn DataFetcher, request: &FetchRequest) -> Result<Said, Error> {
    let fetched = fetcher.fetch(request).await?;
    let (proven, as_of) = (fetched.proven, fetched.as_of);
    let batch = fetched.batches.into_batch().await?;
    let columns: Vec<_> = PRICES
        .iter()
        .filter_map(|(name, _)| Some((*name, batch.column_by_name(name)?.as_primitive_opt::<Float64Type>()?)))
        .collect();
    assert!(columns.len() >= 4, "open, high, low and close are doubles: {:?}", batch.schema());
    let times = frame::timestamps(&batch).expect("the first column is ts in microseconds").values();
    let row = |(row, ts): (usize, &i64)| {
        let values = columns.iter().map(|(name, values)| ((*name).to_owned(), values.value(row))).collect();
        (Timestamp::from_micros(*ts).expect("a row's time is one"), values)
    };
    Ok(Said { rows: times.iter().enumerate().map(row).collect(), proven, as_of })
}

/// What a candle has of a column.
type Of = fn(&Candle) -> f64;

/// The usual columns.
const PRICES: [(&str, Of); 5] = [
    ("open", |candle| candle.open),
    ("high", |candle| candle.high),
    ("low", |candle| candle.low),
    ("close", |candle| candle.close),
    ("volume", |candle| candle.volume),
];

impl Scene {
    async fn ask(&self, range: TimeRange) -> Result<Said, Error> {
        fetch(&*self.fetcher, &FetchRequest::new(self.key.clone(), range)).await
    }

    /// The rows of all bars from the first one on, asked for page by page.
    async fn all(&self) -> Rows {
        let (_, count) = self.closed();
        let mut rows = Rows::new();
        let mut from = 0;
        while from < count {
            let range = self.range(from, (from + self.page()).min(count));
            let said = self.ask(range).await.unwrap_or_else(|e| panic!("bars {from} and on: {e}"));
            rows.extend(said.rows.into_iter().filter(|(ts, _)| range.contains(*ts)));
            from += self.page();
        }
        rows
    }

    fn assert_whole(&self, rows: &Rows, what: &str) {
        let (closed, _) = self.closed();
        for candle in &closed {
            let ts = super::at(candle.open_time);
            let row = rows.get(&ts).unwrap_or_else(|| panic!("{what}: the bar at {ts} lacks"));
            for (name, value) in row {
                let wanted = PRICES.iter().find(|(of, _)| of == name).map(|(_, of)| of(candle));
                assert_eq!(Some(*value), wanted, "{what}: {name} at {ts}");
            }
        }
        assert_eq!(rows.len(), closed.len(), "{what}: there are rows that the exchange does not have");
    }

    /// The requests for candles so far.
    fn requests(&self) -> Vec<RequestRecord> {
        let is_for_time =
            |endpoint| matches!(endpoint, Endpoint::Time | Endpoint::CoinbaseTime | Endpoint::VenueTime);
        let all = self.sim.requests().into_iter();
        all.filter(|record| record.asked.is_some() && !is_for_time(record.endpoint)).collect()
    }
}

/// `H-FETCH-01`
pub async fn h_fetch_01_every_row_comes(subject: &FetcherSubject) {
    let scene = subject.start([]).await;
    scene.assert_whole(&scene.all().await, "page by page");
}

/// `H-FETCH-01`
pub async fn h_fetch_01_a_range_without_a_row_is_no_error(subject: &FetcherSubject) {
    let scene = subject.start([]).await;
    let page = scene.page();
    scene.ask(scene.range(page, page + 3)).await.expect("bars before the hole come");
    let hole = scene.range(page + 3, page + 8);
    let said = scene.ask(hole).await.unwrap_or_else(|e| panic!("{hole} lies in a hole: {e}"));
    let rows: Vec<_> = said.rows.into_keys().filter(|ts| hole.contains(*ts)).collect();
    assert!(rows.is_empty(), "{hole} lies in a hole, and there are rows at {rows:?}");
}

/// `H-FETCH-02`
pub async fn h_fetch_02_only_closed_bars_by_the_clock_of_the_source(subject: &FetcherSubject) {
    let fortnight = Duration::from_secs(14 * 86_400);
    for ahead in [Duration::ZERO, fortnight] {
        let scene = Scene::start(subject, [], ahead, super::HURRY).await;
        let (closed, count) = scene.closed();
        let said = scene.ask(scene.range(count - 10, count + 10)).await.expect("the newest bars come");
        let last = closed.last().map(|candle| super::at(candle.open_time));
        assert_eq!(said.rows.last_key_value().map(|(ts, _)| *ts), last, "our clock is {ahead:?} ahead");
        let (as_of, now) = (said.as_of.expect("the source's time is told"), super::at(scene.sim.now()));
        let apart = as_of.since(now).max(now.since(as_of));
        assert!(apart <= Duration::from_secs(60), "as_of is {as_of}, and it is {now} at the source");
    }
}

/// `H-FETCH-03`
pub async fn h_fetch_03_a_page_has_the_first_rows_in_its_order(subject: &FetcherSubject) {
    let scene = subject.start([]).await;
    let (closed, count) = scene.closed();
    let said = scene.ask(scene.range(0, count)).await.expect("a long range is asked for");
    let page = usize::try_from(scene.page()).unwrap_or(usize::MAX);
    let times = |candles: &[Candle]| candles.iter().map(|c| super::at(c.open_time)).collect::<Vec<_>>();
    let found: Vec<_> = said.rows.into_keys().collect();
    assert!(!found.is_empty() && found.len() <= page, "{} rows in a page of {page}", found.len());
    let wanted = match scene.fetcher.profile().order {
        PageOrder::OldestFirst => times(&closed[..found.len()]),
        PageOrder::NewestFirst => times(&closed[closed.len() - found.len()..]),
        PageOrder::Unpaged => times(&closed),
        _ => return,
    };
    assert_eq!(found, wanted, "the order is not the one that is declared");
}

/// `H-FETCH-04`
pub async fn h_fetch_04_what_is_proven_is_absent(subject: &FetcherSubject) {
    let scene = subject.start([]).await;
    let (closed, _) = scene.closed();
    let page = scene.page();
    for from in [0, page] {
        let said = scene.ask(scene.range(from, from + page)).await.expect("a page comes");
        for candle in &closed {
            let ts = super::at(candle.open_time);
            assert!(
                !said.proven.contains(ts) || said.rows.contains_key(&ts),
                "{ts} has a row and is proven empty"
            );
        }
        if from == 0 {
            assert!(said.proven.contains(scene.bar(2)), "the hole at {} is not proven", scene.bar(2));
        }
    }
}

/// `H-FETCH-05`
pub async fn h_fetch_05_nothing_is_proven_before_the_first_row(subject: &FetcherSubject) {
    let scene = subject.start([]).await;
    for (from, to) in [(-20, 5), (-40, -20)] {
        let said = scene.ask(scene.range(from, to)).await.expect("a page comes");
        let before = said.proven.within(scene.range(-40, 0));
        assert!(before.is_empty(), "{before:?} is proven, and the first row is at {}", scene.bar(0));
    }
}

/// `H-FETCH-06`
pub async fn h_fetch_06_part_of_a_page_proves_nothing(subject: &FetcherSubject) {
    let scene = subject.start([FaultRule::new(Fault::PartialContent(3), When::Always)]).await;
    if let Ok(said) = scene.ask(scene.range(0, 10)).await {
        assert!(said.proven.is_empty(), "{:?} is proven by part of an answer", said.proven);
    }
}

/// Counts the repetitions that it is told of.
#[derive(Debug, Default)]
struct Told(Mutex<Vec<&'static str>>);

impl RetrySink for Told {
    fn on_retry(&self, _: TimeRange, retry: Retry) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(retry.reason);
    }
}

/// Looks at the answers under each fault, side by side, and tells of all that are wrong.
async fn under_each<F>(faults: impl IntoIterator<Item = Fault>, wrong: impl Fn(Fault) -> F)
where
    F: Future<Output = Option<String>>,
{
    let all = join_all(faults.into_iter().map(|fault| {
        let said = wrong(fault.clone());
        async move { said.await.map(|said| format!("{fault:?}: {said}")) }
    }));
    let wrong: Vec<_> = all.await.into_iter().flatten().collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// `H-FETCH-07`
pub async fn h_fetch_07_failures_that_pass_are_got_over(subject: &FetcherSubject) {
    // Rows off the grid come as they are; the others that are left out make pages that could be right.
    let passing = Fault::all().into_iter().filter(|fault| *fault != Fault::OffGrid);
    under_each(passing, |fault| async move {
        let scene = subject.start([FaultRule::new(fault, When::Once)]).await;
        let told = Arc::new(Told::default());
        let range = scene.range(0, 10);
        let request = FetchRequest::new(scene.key.clone(), range).with_retries(Arc::clone(&told) as _);
        let said = match fetch(&*scene.fetcher, &request).await {
            Ok(said) => said,
            Err(error) => return Some(format!("once, and it is not got over: {error}")),
        };
        let rows: Vec<_> = said.rows.into_keys().filter(|ts| range.contains(*ts)).collect();
        let wanted: Vec<_> = (0..10).filter(|bar| *bar != 2).map(|bar| scene.bar(bar)).collect();
        if rows != wanted {
            return Some(format!("once, and there are rows at {rows:?} where {wanted:?} is right"));
        }
        let failed = scene.requests().iter().filter(|record| record.status != Some(200)).count();
        let told = told.0.lock().unwrap_or_else(PoisonError::into_inner).len();
        (failed > 0 && told == 0).then(|| "no repetition was told".to_owned())
    })
    .await;
}

/// `H-FETCH-08`
pub async fn h_fetch_08_nobody_asks_sooner_than_told(subject: &FetcherSubject) {
    let scene = subject.start([FaultRule::new(Fault::TooManyRequests(Some(20)), When::Once)]).await;
    let started = scene.host.clock.monotonic();
    scene.ask(scene.range(0, 5)).await.expect("the second request is answered");
    let waited = scene.host.clock.monotonic().saturating_sub(started);
    assert!(waited >= Duration::from_secs(20), "asked again after {waited:?}; Retry-After was 20 s");
}

/// `H-FETCH-09`
pub async fn h_fetch_09_failures_that_stay_end_in_an_error(subject: &FetcherSubject) {
    let staying = [
        Fault::Unavailable,
        Fault::ErrorInOk,
        Fault::NotAdvancing,
        Fault::GarbageJson,
        Fault::WrongContentType,
    ];
    under_each(staying, |fault| async move {
        let always = [FaultRule::new(fault, When::Always)];
        let scene = Scene::start(subject, always, Duration::ZERO, 5 * super::HURRY).await;
        match scene.ask(scene.range(5, 10)).await {
            Ok(_) => Some("it was taken for an answer".to_owned()),
            Err(error) if !error.is_exhausted() || error.is_retryable() => {
                Some(format!("the error is not exhausted: {error:?}"))
            }
            Err(_) if scene.requests().len() > 64 => Some(format!("{} requests", scene.requests().len())),
            Err(_) => None,
        }
    })
    .await;
}

/// `H-FETCH-10`
pub async fn h_fetch_10_what_the_source_lacks_is_said_once(subject: &FetcherSubject) {
    let scene = subject.start([]).await;
    let range = scene.range(0, 5);
    let ask = async |key: SeriesKey| {
        let error = scene.fetcher.fetch(&FetchRequest::new(key, range)).await.err();
        error.map(|error| (error.kind(), error.is_retryable()))
    };
    let unknown = SeriesKey::new("NOSUCH", scene.key.interval).expect("a node id");
    assert_eq!(ask(unknown).await, Some((ErrorKind::NotFound, false)), "a symbol that the source lacks");
    assert_eq!(scene.requests().len(), 1, "a symbol that the source lacks was asked for again");
    let phase = scene.key.interval.with_phase(1).expect("a phase of a second");
    let odd = SeriesKey::new(super::SYMBOL, phase).expect("a node id");
    assert_eq!(ask(odd).await, Some((ErrorKind::InvalidInput, false)), "an interval that nobody offers");
    assert!(scene.requests().len() <= 2, "an interval that nobody offers was asked for again");
}

/// `H-FETCH-11`
pub async fn h_fetch_11_a_source_has_one_id(subject: &FetcherSubject) {
    let (one, other) = (subject.start([]).await, subject.start([]).await);
    let again = (subject.make)(&one.host).expect("a fetcher is made of an address");
    assert_eq!(again.source_id(), one.fetcher.source_id());
    assert_ne!(other.fetcher.source_id(), one.fetcher.source_id(), "another address is another source");
}

/// `H-FETCH-12`
pub async fn h_fetch_12_side_by_side_and_dropped_midway(subject: &FetcherSubject) {
    let scene = subject.start([]).await;
    for bar in 0..4 {
        // Polled once, it has asked for something and is given up.
        let _ = scene.ask(scene.range(bar, bar + 5)).now_or_never();
    }
    let closed: Vec<_> = scene.closed().0.iter().map(|candle| super::at(candle.open_time)).collect();
    let (scene, closed) = (&scene, &closed);
    let asked = (0..8).map(|part| scene.range(10 * part, 10 * (part + 1))).map(|range| async move {
        let said = scene.ask(range).await.unwrap_or_else(|e| panic!("{range}: {e}"));
        let rows: Vec<_> = said.rows.into_keys().filter(|ts| range.contains(*ts)).collect();
        let wanted: Vec<_> = closed.iter().copied().filter(|ts| range.contains(*ts)).collect();
        assert_eq!(rows, wanted, "{range}");
    });
    match select(pin!(join_all(asked)), scene.host.clock.sleep(Duration::from_secs(600))).await {
        Either::Left(_) => {}
        Either::Right(_) => panic!("fetches side by side, after others were dropped, do not come to an end"),
    }
}

/// `H-FETCH-12`
pub async fn h_fetch_12_outside_of_a_runtime(subject: &FetcherSubject) {
    let scene = subject.start([]).await;
    let (fetcher, request) =
        (Arc::clone(&scene.fetcher), FetchRequest::new(scene.key.clone(), scene.range(0, 5)));
    let outside =
        std::thread::spawn(move || fetcher.fetch(&request).now_or_never().map(|said| said.is_err()));
    let said = outside.join().unwrap_or_else(|_| panic!("a fetch outside of a runtime panics"));
    assert_eq!(said, Some(true), "without a runtime there is no answer");
}
