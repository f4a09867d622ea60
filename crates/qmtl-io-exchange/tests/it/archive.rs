//! The archives against a simulated server: names by date, checksums, revisions, and what is left to
//! the exchange's API.

use std::sync::Arc;

use qmtl_backfill::FetcherBackfillStrategy;
use qmtl_history_api::arrow_array::cast::AsArray;
use qmtl_history_api::arrow_array::types::Float64Type;
use qmtl_history_api::{
    AutoBackfillStrategy, BackfillRequest, DataFetcher, ErrorKind, FetchRequest, HistoryBackend, Interval,
    NoProgress, RangeSet, SeriesKey, TimeRange, Timestamp,
};
use qmtl_io_exchange::{ArchiveFetcher, BinanceFetcher, ExchangeConfig};
use qmtl_io_memory::MemoryBackend;
use qmtl_sim_exchange::{
    Candle, Endpoint, Fault, FaultRule, Market, RequestRecord, SimClock, SimConfig, SimExchange, Target, When,
};

use crate::binance::market::{
    Hurried, LISTED, MINUTE, NOW, assert_right, at, clock, config, fill_by, hurried, key, klines, market,
    requests, settings,
};

const DAY: i64 = 1_440 * MINUTE;

fn archives(sim: &SimExchange) -> ExchangeConfig {
    hurried(ExchangeConfig::archive(), sim)
}

fn files(sim: &SimExchange) -> Vec<String> {
    let name = |record: RequestRecord| record.path.rsplit('/').next().unwrap().to_owned();
    requests(sim, Endpoint::Archive).into_iter().map(name).collect()
}

fn days(first: i64, end: i64) -> TimeRange {
    TimeRange::new(at(LISTED + first * DAY), at(LISTED + end * DAY)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_archive_comes_first_and_the_api_gives_the_rest() {
    let sim = SimExchange::start(config()).await.unwrap();
    let archive = ArchiveFetcher::new(archives(&sim)).unwrap();
    let rest = BinanceFetcher::new(settings(&sim)).unwrap();
    let strategy = FetcherBackfillStrategy::new(Arc::new(rest))
        .with_clock(clock())
        .with_stand_in(Arc::new(archive.clone()));
    let backend = MemoryBackend::new();
    let report = fill_by(strategy.clone(), &backend).await;
    assert!(report.failed.is_empty(), "{:?}", report.failed);
    assert_right(&backend, "archive and API").await;
    let [(first, by_archive), (second, by_api)] = &report.filled[..] else { panic!("{:?}", report.filled) };
    assert!(first.as_str().starts_with("binance-archive:") && second.as_str().starts_with("binance:127"));
    // Five days are over; the sixth has no file yet.
    assert_eq!(by_archive.span().unwrap(), TimeRange::new(at(LISTED), at(LISTED + 5 * DAY)).unwrap());
    assert_eq!(by_api.span().unwrap().start(), at(LISTED + 5 * DAY));
    let asked = files(&sim);
    assert_eq!(asked.iter().filter(|name| name.ends_with(".zip")).count(), 5, "{asked:?}");

    sim.clear_requests();
    let again = fill_by(strategy, &backend).await;
    assert_eq!((again.rows_written, klines(&sim).len()), (0, 0));
}

#[tokio::test]
async fn files_prove_between_their_rows_and_those_of_the_days_beside_them() {
    let sim = SimExchange::start(config()).await.unwrap();
    let fetcher = ArchiveFetcher::new(archives(&sim)).unwrap();
    // A hole lies across midnight: the fourth day begins inside it.
    let fetched = fetcher.fetch(&FetchRequest::new(key(), days(2, 4))).await.unwrap();
    assert_eq!(fetched.proven, RangeSet::from(days(2, 4)));
    assert_eq!(fetched.batches.into_batch().await.unwrap().num_rows(), 2 * 1_440 - 1_500);
    assert_eq!(files(&sim).len(), 4, "a checksum and a file for each day");
    fetcher.fetch(&FetchRequest::new(key(), days(2, 3))).await.unwrap();
    assert_eq!(files(&sim).len(), 4, "and never again");

    // Alone it does not say where the hole began: there is a file of the day before.
    sim.clear_requests();
    let fetcher = ArchiveFetcher::new(archives(&sim)).unwrap();
    let fetched = fetcher.fetch(&FetchRequest::new(key(), days(3, 4))).await.unwrap();
    assert_eq!(fetched.proven, RangeSet::from(days(3, 4)));
    let looked_for = "ADABTC-1m-2024-01-03.zip.CHECKSUM".to_owned();
    assert_eq!((files(&sim).len(), files(&sim).pop()), (3, Some(looked_for)));
}

#[tokio::test]
async fn nothing_is_proven_before_the_first_row_of_the_first_file() {
    let late = market().with_hole(LISTED..LISTED + 30 * MINUTE);
    let sim = SimExchange::start(SimConfig::new([late]).with_clock(SimClock::Frozen(NOW))).await.unwrap();
    let request = FetchRequest::new(key(), days(0, 1));
    let fetch = async |request: &FetchRequest| {
        sim.clear_requests();
        ArchiveFetcher::new(archives(&sim)).unwrap().fetch(request).await.unwrap().proven
    };
    let first = at(LISTED + 30 * MINUTE);
    assert_eq!(fetch(&request).await, TimeRange::new(first, days(0, 1).end()).unwrap().into());
    // What is known from elsewhere needs no look at the day before.
    let asked = files(&sim).len();
    let known = request.with_begun_by(Some(at(LISTED - 1)));
    assert_eq!((fetch(&known).await, files(&sim).len()), (days(0, 1).into(), asked - 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_suffers_a_fault_is_fetched_until_its_checksum_is_right() {
    let all = Fault::all().into_iter().map(|fault| async move {
        let rule = FaultRule::new(fault.clone(), When::Every(3)).with_target(Target::Archives);
        let sim = SimExchange::start(config().with_fault(rule).with_body_cap(8 << 20)).await.unwrap();
        let fetcher = ArchiveFetcher::new(archives(&sim).with_max_body_bytes(4 << 20)).unwrap();
        let fetched = fetcher.fetch(&FetchRequest::new(key(), days(0, 5))).await;
        let fetched = fetched.unwrap_or_else(|error| panic!("{fault:?}: {error:?}"));
        let rows = fetched.batches.into_batch().await.unwrap().num_rows();
        assert_eq!(rows, 5 * 1_440 - 1_541, "{fault:?}");
        let struck = requests(&sim, Endpoint::Archive).iter().filter(|record| record.fault.is_some()).count();
        assert!(struck >= 2, "{fault:?}");
    });
    futures::future::join_all(all).await;
}

/// Forty days of hours from 2024-12-20 on: two units of time and a whole month.
async fn across_the_year() -> (SimExchange, SeriesKey, TimeRange) {
    const FROM: i64 = 1_734_652_800_000;
    let hour = qmtl_sim_exchange::Interval::parse("1h").unwrap();
    let market = Market::new("ADABTC", "1h", Candle::random_walk(FROM, hour, 70 * 24, 3)).unwrap();
    let now = FROM + 70 * DAY + 1;
    let sim = SimExchange::start(SimConfig::new([market]).with_clock(SimClock::Frozen(now))).await.unwrap();
    let key = SeriesKey::new("ADABTC", Interval::from_secs(3_600).unwrap()).unwrap();
    (sim, key, TimeRange::new(at(FROM), at(FROM + 70 * DAY)).unwrap())
}

fn at_the_end(config: ExchangeConfig, range: TimeRange) -> ExchangeConfig {
    config.with_clock(Arc::new(Hurried(range.end(), 20)))
}

#[tokio::test]
async fn milliseconds_before_2025_and_microseconds_since_are_the_same_bars() {
    let (sim, key, range) = across_the_year().await;
    let fetcher = ArchiveFetcher::new(at_the_end(archives(&sim), range)).unwrap();
    let fetched = fetcher.fetch(&FetchRequest::new(key, range)).await.unwrap();
    assert_eq!(fetched.proven, RangeSet::from(range));
    let rows = fetched.batches.into_batch().await.unwrap();
    assert_eq!(rows.num_rows(), 70 * 24);
    let names: Vec<_> = files(&sim).into_iter().filter(|name| name.ends_with(".zip")).collect();
    assert_eq!(names[..2], ["ADABTC-1h-2024-12.zip", "ADABTC-1h-2025-01.zip"]);
    assert_eq!((names.len(), names[2].as_str()), (2 + 27, "ADABTC-1h-2025-02-01.zip"));
}

#[tokio::test]
async fn a_month_that_is_not_out_yet_comes_in_days() {
    let (sim, key, range) = across_the_year().await;
    let gone = When::matching(|record| record.path.contains("/monthly/"));
    // 404 is what a file that is not there is answered with; a redirect is not followed.
    sim.inject(FaultRule::new(Fault::Redirect(String::new()), gone).with_target(Target::Archives));
    let january =
        TimeRange::new("2025-01-01".parse().unwrap(), "2025-02-01".parse::<Timestamp>().unwrap()).unwrap();
    let fetcher = ArchiveFetcher::new(at_the_end(archives(&sim), range).with_retries(0)).unwrap();
    let error = fetcher.fetch(&FetchRequest::new(key.clone(), january)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);

    // By the server's clock January is not over, by ours it is.
    sim.clear_faults();
    sim.set_now(january.end().as_micros() / 1_000 - 1);
    let fetched = fetcher.fetch(&FetchRequest::new(key, january)).await.unwrap();
    assert_eq!(fetched.batches.into_batch().await.unwrap().num_rows(), 30 * 24);
}

#[tokio::test]
async fn a_revised_file_is_noticed_and_fetched_anew() {
    let (folder, sim) = (tempfile::tempdir().unwrap(), SimExchange::start(config()).await.unwrap());
    let fetch = async || {
        let fetcher = ArchiveFetcher::with_folder(archives(&sim), folder.path()).unwrap();
        sim.clear_requests();
        let fetched = fetcher.fetch(&FetchRequest::new(key(), days(0, 2))).await.unwrap();
        let rows = fetched.batches.into_batch().await.unwrap();
        let first = rows.column_by_name("open").unwrap().as_primitive::<Float64Type>().value(0);
        (first, fetcher.revised(), files(&sim))
    };
    let (_, revised, asked) = fetch().await;
    assert_eq!((revised.len(), asked.len()), (0, 4));
    let (_, revised, asked) = fetch().await;
    assert!(revised.is_empty() && asked.iter().all(|name| name.ends_with(".CHECKSUM")), "{asked:?}");

    sim.revise("ADABTC", "1m", vec![Candle::new(LISTED, [7.5; 4], 1.0)]).unwrap();
    let (first, revised, asked) = fetch().await;
    assert_eq!((first, revised.len()), (7.5, 1));
    assert_eq!(revised[0].file, "ADABTC-1m-2024-01-01.zip");
    assert_ne!(revised[0].before, revised[0].now);
    assert_eq!(asked.iter().filter(|name| name.ends_with(".zip")).count(), 1, "{asked:?}");
    let (_, revised, _) = fetch().await;
    assert!(revised.is_empty(), "it is told once");
}

#[tokio::test]
async fn a_kept_file_that_was_damaged_is_fetched_again() {
    let (folder, sim) = (tempfile::tempdir().unwrap(), SimExchange::start(config()).await.unwrap());
    let fetch = async || {
        let fetcher = ArchiveFetcher::with_folder(archives(&sim), folder.path()).unwrap();
        let fetched = fetcher.fetch(&FetchRequest::new(key(), days(0, 1))).await.unwrap();
        fetched.batches.into_batch().await.unwrap().num_rows()
    };
    let rows = fetch().await;
    let kept = std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
    std::fs::write(&kept, b"PK\x03\x04 cut off").unwrap();
    assert_eq!(fetch().await, rows);
}

#[tokio::test]
async fn what_has_no_archives_is_refused_before_anything_is_asked() {
    let sim = SimExchange::start(config()).await.unwrap();
    let fetcher = ArchiveFetcher::new(archives(&sim)).unwrap();
    let ask = async |node: &str, secs: i64| {
        let key = SeriesKey::new(node, Interval::from_secs(secs).unwrap()).unwrap();
        fetcher.fetch(&FetchRequest::new(key, days(0, 1))).await.unwrap_err()
    };
    for (node, secs) in [("ADABTC", 90), ("ADABTC", 604_800), ("../../etc", 60), ("a b", 60)] {
        assert_eq!(ask(node, secs).await.kind(), ErrorKind::InvalidInput, "{node} {secs}");
    }
    assert!(sim.requests().is_empty());
    // A symbol that does not exist has no files: that is no error and no proof.
    let key = SeriesKey::new("NOSUCH", Interval::MINUTE).unwrap();
    let fetched = fetcher.fetch(&FetchRequest::new(key, days(0, 1))).await.unwrap();
    assert!(fetched.proven.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_ends_when_the_file_that_it_is_from_is_revised() {
    let (sim, backend) = (SimExchange::start(config()).await.unwrap(), MemoryBackend::new());
    // Each time by a process of its own, which has looked at no file yet.
    let fill = async || {
        sim.clear_requests();
        let archive = Arc::new(ArchiveFetcher::new(archives(&sim)).unwrap());
        let report = fill_by(FetcherBackfillStrategy::new(archive).with_clock(clock()), &backend).await;
        (report.rows_written, files(&sim).into_iter().filter(|name| name.ends_with(".zip")).count())
    };
    assert_eq!(fill().await, (5 * 1_440 - 1_541, 5));
    let hole = LISTED + 17 * MINUTE;
    let known = backend.coverage(&key(), days(0, 5)).await.unwrap();
    let proof = known.known_empty().iter().find(|proof| proof.ranges.contains(at(hole))).unwrap().clone();
    assert!(proof.source.version().unwrap().starts_with("2024-01-01-"), "{}", proof.source);
    assert_eq!(fill().await, (0, 0), "what the files say is known");

    // The exchange has found the bar, and puts it into the file of the first day.
    sim.revise("ADABTC", "1m", vec![Candle::new(hole, [7.5; 4], 1.0)]).unwrap();
    assert_eq!(fill().await, (1, 1));
    let known = backend.coverage(&key(), days(0, 5)).await.unwrap();
    assert!(
        known.present().contains(at(hole))
            && known.known_empty().iter().all(|old| old.source != proof.source)
    );
}

#[tokio::test]
async fn a_month_that_was_revised_is_read_again_for_the_bars_that_it_lacked() {
    let (sim, key, range) = across_the_year().await;
    let hole = range.start().as_micros() / 1_000 + 20 * DAY;
    let lacking =
        Market::new("ADABTC", "1h", sim_candles(&range)).unwrap().with_hole(hole..hole + 60 * MINUTE);
    let now = range.end().as_micros() / 1_000 + 1;
    let config = SimConfig::new([lacking]).with_clock(SimClock::Frozen(now));
    let revised = SimExchange::start(config).await.unwrap();
    drop(sim);
    let backend = MemoryBackend::new();
    let january: TimeRange =
        TimeRange::new("2025-01-01".parse().unwrap(), "2025-02-01".parse::<Timestamp>().unwrap()).unwrap();
    let fill = async || {
        let fetcher = ArchiveFetcher::new(at_the_end(archives(&revised), range).with_retries(0)).unwrap();
        let strategy =
            FetcherBackfillStrategy::new(Arc::new(fetcher)).with_clock(Arc::new(Hurried(range.end(), 20)));
        let request = BackfillRequest::new(key.clone(), january);
        strategy.ensure_range(&request, &backend, &NoProgress).await.unwrap()
    };
    let report = fill().await;
    assert_eq!((report.rows_written, report.known_empty.count(key.interval)), (31 * 24 - 1, 1));
    revised.revise("ADABTC", "1h", vec![Candle::new(hole, [7.5; 4], 1.0)]).unwrap();
    let report = fill().await;
    assert_eq!((report.rows_written, report.is_complete()), (1, true), "{:?}", report.failed);
    let read: Vec<_> = files(&revised).into_iter().filter(|name| name.ends_with(".zip")).collect();
    assert_eq!(read, ["ADABTC-1h-2025-01.zip"; 2]);
}

fn sim_candles(range: &TimeRange) -> Vec<Candle> {
    let hour = qmtl_sim_exchange::Interval::parse("1h").unwrap();
    Candle::random_walk(range.start().as_micros() / 1_000, hour, 70 * 24, 3)
}
