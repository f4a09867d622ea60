//! An API of three numbers a row, carried by no network.

use std::fmt::Write;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};

use qmtl_history_api::arrow_schema::{DataType, SchemaRef};
use qmtl_history_api::{ErrorKind, RangeSet};
use qmtl_history_testkit::fixtures::{ManualClock, bar, key, span};

use super::*;
use crate::http::{HttpRequest, Transport, TransportAnswer};

/// A row is `time close`, in seconds; rows are lines.
#[derive(Debug)]
struct Lines(ApiSpec);

impl Lines {
    fn new(order: PageOrder, beginning: Beginning) -> Self {
        let spec = ApiSpec::new("lines", "Lines", order, 10).with_intervals(&[("1m", "60")]);
        Self(spec.with_beginning(beginning))
    }
}

impl CandleApi for Lines {
    fn spec(&self) -> &ApiSpec {
        &self.0
    }

    fn schema(&self) -> SchemaRef {
        frame::schema_of([("close", DataType::Float64)])
    }

    fn candles(&self, asked: &CandleRequest<'_>) -> HttpRequest {
        let request = HttpRequest::new([asked.symbol, asked.interval]);
        request.with("from", asked.first().as_secs()).with("to", asked.last().as_secs()).with("n", asked.rows)
    }

    fn rows(&self, _: &CandleRequest<'_>, answer: &Answer) -> Result<RecordBatch, Failure> {
        let text = String::from_utf8_lossy(&answer.body);
        let rows: Vec<_> = text.lines().filter_map(|line| line.split_once(' ')).collect();
        let times = rows.iter().map(|(ts, _)| Timestamp::from_secs(ts.parse().unwrap()).unwrap());
        let close = crate::doubles("close", rows.iter().map(|(_, close)| *close)).unwrap();
        crate::page(&self.schema(), times, [Arc::new(close) as _])
    }
}

/// What the server has: bars by number, and how it answers wrongly.
#[derive(Debug)]
struct Server {
    bars: Vec<u32>,
    order: PageOrder,
    status: u16,
    asked: StdMutex<Vec<String>>,
    body: Option<String>,
    /// It pays no heed to the far end of a range.
    is_open: bool,
    /// A first bar, in seconds, at the first request for which the server is out of order.
    fails: StdMutex<Option<i64>>,
}

#[async_trait]
impl Transport for Server {
    async fn get(&self, url: &str) -> io::Result<TransportAnswer> {
        let date = ("date", "Mon, 01 Jan 2024 01:00:30 GMT");
        let path = url.split_once(".invalid/").unwrap().1;
        self.asked.lock().unwrap().push(path.to_owned());
        let Some((_, query)) = path.split_once('?') else {
            return Ok(TransportAnswer::new(403, "no such page").with_header(date.0, date.1));
        };
        let numbers: Vec<i64> =
            query.split('&').filter_map(|pair| pair.split_once('=')?.1.parse().ok()).collect();
        let [from, to, n] = numbers[..] else { panic!("{query}") };
        if self.fails.lock().unwrap().take_if(|first| *first == from).is_some() {
            return Ok(TransportAnswer::new(503, "out of order").with_header(date.0, date.1));
        }
        let opens = |index: &u32| bar(&key("BTC", "1m"), *index).as_secs();
        let (from, to) = match self.order {
            PageOrder::NewestFirst if self.is_open => (i64::MIN, to),
            _ if self.is_open => (from, i64::MAX),
            _ => (from, to),
        };
        let mut rows: Vec<_> = self.bars.iter().filter(|i| (from..=to).contains(&opens(i))).collect();
        if self.order == PageOrder::NewestFirst {
            rows.reverse();
        }
        rows.truncate(n.try_into().unwrap());
        let mut body = String::new();
        rows.iter().for_each(|index| writeln!(body, "{} {index}", opens(index)).unwrap());
        let body = self.body.clone().unwrap_or(body);
        Ok(TransportAnswer::new(self.status, body).with_header(date.0, date.1))
    }
}

fn server(order: PageOrder, bars: impl IntoIterator<Item = u32>) -> Server {
    let (asked, bars) = (StdMutex::default(), bars.into_iter().collect());
    Server { bars, order, status: 200, asked, body: None, is_open: false, fails: StdMutex::default() }
}

/// Settings for a host of its own: all clients of one share its limits, and each test has a clock of its own.
fn config(server: &Arc<Server>) -> ExchangeConfig {
    static HOSTS: AtomicU32 = AtomicU32::new(0);
    let host = format!("http://lines-{}.invalid", HOSTS.fetch_add(1, Ordering::Relaxed));
    let clock = ManualClock::new(bar(&key("BTC", "1m"), 60));
    let config = ExchangeConfig::new(host).with_transport(Arc::clone(server)).with_clock(clock);
    config.with_requests_per_second(1_000.0).with_weight_per_minute(60_000).with_retries(0)
}

fn pager(beginning: Beginning, server: &Arc<Server>) -> Pager<Lines> {
    let Lines(spec) = Lines::new(server.order, beginning);
    Pager::with_api(Lines(spec.with_open_end(server.is_open)), config(server)).unwrap()
}

/// The rows, what is proven, and how many requests it took.
async fn fetch(
    pager: &Pager<Lines>,
    server: &Server,
    from: u32,
    to: u32,
) -> Result<(usize, RangeSet, usize)> {
    server.asked.lock().unwrap().clear();
    let key = key("BTC", "1m");
    let fetched = pager.fetch(&FetchRequest::new(key.clone(), span(&key, from, to))).await?;
    assert_eq!(fetched.as_of, Some("2024-01-01T01:00:30Z".parse().unwrap()));
    let rows = fetched.batches.into_batch().await?.num_rows();
    Ok((rows, fetched.proven, server.asked.lock().unwrap().len()))
}

#[tokio::test]
async fn bars_are_closed_by_the_date_of_the_answers_where_nothing_else_tells_the_time() {
    let server = Arc::new(server(PageOrder::OldestFirst, 0..100));
    let pager = pager(Beginning::FirstRow, &server);
    // The clock of the answers stands in bar 60; the first request asks for its date.
    assert_eq!(fetch(&pager, &server, 55, 70).await.unwrap().0, 5);
    let asked = server.asked.lock().unwrap().clone();
    assert_eq!(asked[0], "", "the address itself, where a gateway refuses");
    assert!(asked[1].ends_with("n=5"), "{asked:?}");
}

#[tokio::test]
async fn a_page_is_the_first_of_a_range_in_the_order_of_the_api() {
    let key = key("BTC", "1m");
    for (order, first) in [(PageOrder::OldestFirst, 0), (PageOrder::NewestFirst, 20)] {
        let server = Arc::new(server(order, 0..100));
        let pager = pager(Beginning::LookBack, &server);
        let (rows, proven, _) = fetch(&pager, &server, 0, 30).await.unwrap();
        assert_eq!((rows, proven.contains(bar(&key, first))), (10, true), "{order:?}");
        // What lies beyond the page is whoever asks to cut off, by the order of the rows.
        assert_eq!((pager.profile().order, pager.limits().max_rows), (order, Some(10)));
    }
}

#[tokio::test]
async fn nothing_is_proven_before_the_beginning_however_that_is_found() {
    let key = key("BTC", "1m");
    for (order, beginning, requests) in [
        (PageOrder::OldestFirst, Beginning::FirstRow, 3),
        (PageOrder::NewestFirst, Beginning::LookBack, 2 + 11),
        (PageOrder::NewestFirst, Beginning::Unknown, 2),
    ] {
        let server = Arc::new(server(order, 5..50));
        let pager = pager(beginning, &server);
        let (rows, proven, asked) = fetch(&pager, &server, 0, 10).await.unwrap();
        assert_eq!((rows, proven.span().unwrap().start()), (5, bar(&key, 5)), "{beginning:?}");
        assert_eq!(asked, requests, "{beginning:?}");
        // What was found is known from now on.
        let (_, proven, asked) = fetch(&pager, &server, 50, 55).await.unwrap();
        assert_eq!((proven, asked), (span(&key, 50, 55).into(), 1), "{beginning:?}");
    }
    let server = Arc::new(server(PageOrder::OldestFirst, 5..50));
    let pager = pager(Beginning::FirstRow, &server);
    fetch(&pager, &server, 0, 10).await.unwrap();
    let (rows, proven, asked) = fetch(&pager, &server, 0, 5).await.unwrap();
    assert_eq!(
        (rows, proven, asked),
        (0, RangeSet::new(), 0),
        "what lies before the listing is not asked for"
    );
}

#[tokio::test]
async fn a_bar_is_looked_for_further_and_further_back() {
    let key = key("BTC", "1m");
    let server = Arc::new(server(PageOrder::NewestFirst, 0..2));
    let pager = pager(Beginning::LookBack, &server);
    // Pages that begin 10, 20 and 40 bars before; a fourth would begin before the epoch's first bar that exists.
    let (rows, proven, asked) = fetch(&pager, &server, 40, 50).await.unwrap();
    assert_eq!((rows, proven, asked), (0, span(&key, 40, 50).into(), 5));
}

#[tokio::test]
async fn a_page_that_goes_on_beyond_the_range_has_answered_for_it() {
    let key = key("BTC", "1m");
    for order in [PageOrder::NewestFirst, PageOrder::OldestFirst] {
        let mut server = server(order, (0..20).chain(30..50));
        server.is_open = true;
        let server = Arc::new(server);
        let pager = pager(Beginning::LookBack, &server);
        fetch(&pager, &server, 0, 5).await.unwrap();
        // All of it is a hole: the page has rows before it, or after it, and none inside.
        let (rows, proven, asked) = fetch(&pager, &server, 22, 27).await.unwrap();
        assert_eq!((rows, proven, asked), (5, span(&key, 22, 27).into(), 1), "{order:?}");
    }
}

#[tokio::test]
async fn nobody_looks_back_beyond_the_reach_of_the_api() {
    let server = Arc::new(server(PageOrder::NewestFirst, 40..60));
    let Lines(spec) = Lines::new(PageOrder::NewestFirst, Beginning::LookBack);
    let pager = Pager::with_api(Lines(spec.with_newest_bars(30)), config(&server)).unwrap();
    // The reach begins with bar 30, and the pages before the range would begin before it.
    let (rows, proven, asked) = fetch(&pager, &server, 35, 45).await.unwrap();
    assert_eq!((rows, proven.span().unwrap().start(), asked), (5, bar(&key("BTC", "1m"), 40), 2));
    assert_eq!(pager.limits().newest_bars, Some(30));
}

#[tokio::test]
async fn a_look_that_failed_is_made_again_and_one_that_found_nothing_is_not() {
    let key = key("BTC", "1m");
    let mut failing = server(PageOrder::NewestFirst, 6..8);
    // The first page before the range begins with bar 16.
    failing.fails = StdMutex::new(Some(bar(&key, 16).as_secs()));
    let failing = Arc::new(failing);
    let fetcher = pager(Beginning::LookBack, &failing);
    let (rows, proven, asked) = fetch(&fetcher, &failing, 26, 36).await.unwrap();
    assert_eq!((rows, proven, asked), (0, RangeSet::new(), 3), "the time, the page, the look that failed");
    // The second page before it begins with bar 6.
    let (_, proven, asked) = fetch(&fetcher, &failing, 26, 36).await.unwrap();
    assert_eq!((proven, asked), (span(&key, 26, 36).into(), 3));

    let empty = Arc::new(server(PageOrder::NewestFirst, 55..60));
    let fetcher = pager(Beginning::LookBack, &empty);
    assert_eq!(fetch(&fetcher, &empty, 0, 10).await.unwrap().2, 2 + 11);
    for page in 1..4 {
        let (_, _, asked) = fetch(&fetcher, &empty, 10 * page, 10 * (page + 1)).await.unwrap();
        assert_eq!(asked, 1, "nothing is looked for twice");
    }
}

#[tokio::test]
async fn part_of_an_answer_is_not_taken_for_the_first_bar_of_all() {
    let mut server = server(PageOrder::OldestFirst, 5..50);
    server.status = 206;
    let server = Arc::new(server);
    let pager = pager(Beginning::FirstRow, &server);
    let (_, proven, asked) = fetch(&pager, &server, 0, 10).await.unwrap();
    assert_eq!((proven, asked), (RangeSet::new(), 3));
    let (rows, _, asked) = fetch(&pager, &server, 0, 5).await.unwrap();
    assert_eq!((rows, asked), (0, 2), "bars before it are still asked for");
}

#[tokio::test]
async fn part_of_an_answer_proves_nothing() {
    let mut server = server(PageOrder::OldestFirst, 0..5);
    server.status = 206;
    let server = Arc::new(server);
    let pager = pager(Beginning::FirstRow, &server);
    let (rows, proven, _) = fetch(&pager, &server, 0, 10).await.unwrap();
    assert_eq!((rows, proven), (5, RangeSet::new()));
}

#[tokio::test]
async fn pages_that_cannot_be_an_answer_are_refused() {
    let opens = bar(&key("BTC", "1m"), 0).as_secs();
    for (body, says) in [
        (format!("{} 1\n{opens} 2\n", opens / 1_000), "years away"),
        (format!("{} 1\n", opens - 60), "does not advance"),
    ] {
        let mut server = server(PageOrder::OldestFirst, 0..5);
        server.body = Some(body);
        let server = Arc::new(server);
        let error = fetch(&pager(Beginning::FirstRow, &server), &server, 0, 10).await.unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
        assert_eq!((error.kind(), error.is_exhausted()), (ErrorKind::Schema, true), "{error}");
        assert!(error.to_string().contains("series: BTC@1m"), "{error}");
    }
}

#[tokio::test]
async fn an_interval_that_is_not_on_offer_is_not_asked_for() {
    let server = Arc::new(server(PageOrder::OldestFirst, 0..5));
    let pager = pager(Beginning::FirstRow, &server);
    let key = key("BTC", "5m");
    let error = pager.fetch(&FetchRequest::new(key.clone(), span(&key, 0, 1))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(
        error.to_string().contains("Lines does not offer") && error.to_string().contains("1m"),
        "{error}"
    );
    assert!(server.asked.lock().unwrap().is_empty());
}
