//! A spread between two venues, killed and restored: live and over history it gives the same signals, bit for bit.
//!
//! Two exchanges on loopback trade nearly the same thing. A strategy of minutes of both and of five minutes of one is
//! followed live by a child process, which saves its state at each moment. It is killed in the middle, is away for some
//! bars, and is started again. In the end a backtest over the same bars says what the signals must be.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use qmtl_backfill::FetcherBackfillStrategy;
use qmtl_history_api::arrow_array::RecordBatch;
use qmtl_history_api::{
    AutoBackfillStrategy, BackfillRequest, Clock, DataFetcher, Error, FetchRequest, NoProgress, NodeId,
    Result, SeriesKey, TimeRange, Timestamp, async_trait, frame,
};
use qmtl_io_exchange::{BinanceFetcher, CoinbaseFetcher, ExchangeConfig};
use qmtl_io_memory::MemoryBackend;
use qmtl_observe::TokioClock;
use qmtl_runtime::{
    Backtest, ComputeNode, LiveBar, LiveSender, Pipeline, Runner, Snapshot, Strategy, StrategyBuilder,
    StreamInput, VALUE, WarmupConfig, live_channel,
};
use qmtl_sim_exchange::{Candle, Interval, Market, SimClock, SimConfig, SimExchange};
use strategies::{candles, nodes};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// The minutes of the first venue and of the second one, and five minutes of the first.
const SERIES: [(&str, &str); 3] = [("BTCUSDT", "1m"), ("BTC-USD", "1m"), ("BTCUSDT", "5m")];
/// How many bars of each are looked back on.
const PERIODS: [usize; 3] = [60, 60, 30];
const SIGNAL: &str = "signal";
/// When the first process starts: not where a bar of five minutes closes.
const START: &str = "2024-01-01T12:03:00Z";
/// After so many minutes the first process is killed, the second one starts, and everything ends.
const KILLED: u64 = 17;
const BACK: u64 = 29;
const END: u64 = 50;
/// The files of a process: its signals, a line each, and its state.
const SIGNALS: &str = "signals";
const STATE: &str = "state";
/// How long a poll waits after an answer without a new bar.
const POLL: Duration = Duration::from_millis(20);
/// The longest that a process may be silent.
const PATIENCE: Duration = Duration::from_secs(120);

/// The exchange's time as the clock of everything: its wall stands where it was set, the rest is the system's.
#[derive(Clone, Debug)]
struct MarketClock {
    now: Arc<Mutex<Timestamp>>,
    system: TokioClock,
}

impl MarketClock {
    fn new(now: Timestamp) -> Self {
        Self { now: Arc::new(Mutex::new(now)), system: TokioClock::new() }
    }

    fn set(&self, now: Timestamp) {
        *self.now.lock().expect("nobody panics with it") = now;
    }
}

#[async_trait]
impl Clock for MarketClock {
    fn now(&self) -> Timestamp {
        *self.now.lock().expect("nobody panics with it")
    }

    fn monotonic(&self) -> Duration {
        self.system.monotonic()
    }

    async fn sleep(&self, duration: Duration) {
        self.system.sleep(duration).await;
    }
}

/// The two venues: the second one is asked at a pace that a loopback can bear.
fn fetchers(url: &str, clock: &MarketClock) -> Result<[Arc<dyn DataFetcher>; 3]> {
    let binance = ExchangeConfig::binance().with_base_url(url).with_clock(clock.clone());
    let coinbase = ExchangeConfig::coinbase().with_base_url(url).with_clock(clock.clone());
    let first: Arc<dyn DataFetcher> = Arc::new(BinanceFetcher::new(binance)?);
    let second =
        CoinbaseFetcher::new(coinbase.with_requests_per_second(1_000.0).with_weight_per_minute(10_000))?;
    Ok([Arc::clone(&first), Arc::new(second), first])
}

fn inputs(
    store: &Arc<MemoryBackend>,
    fetchers: [Arc<dyn DataFetcher>; 3],
    clock: &MarketClock,
) -> Result<Vec<StreamInput>> {
    let inputs = SERIES.into_iter().zip(PERIODS).zip(fetchers);
    let input = |(((node, interval), period), fetcher)| {
        let builder = StreamInput::builder(node).interval(interval).period(period).clock(clock.clone());
        builder.backend(Arc::clone(store)).fetcher(fetcher).build()
    };
    inputs.map(input).collect()
}

/// Buys the spread below its average and sells it above: the signal is how far it is away, in average ranges of five
/// minutes.
fn strategy(inputs: Vec<StreamInput>) -> Result<Strategy> {
    let [first, second, five] = inputs.as_slice() else {
        return Err(Error::invalid("there are three inputs"));
    };
    let (spread, mean, range): (NodeId, NodeId, NodeId) =
        ("spread".parse()?, "mean".parse()?, "range".parse()?);
    let apart = ComputeNode::slices(spread.clone(), 1, |windows| windows.f64(0)[0] - windows.f64(1)[0])
        .version("spread")
        .reads(first, "close")
        .reads(second, "close");
    let signal = ComputeNode::slices(SIGNAL.parse()?, 1, |windows| {
        let [spread, mean, range] = [0, 1, 2].map(|read| windows.f64(read)[0]);
        (mean - spread) / range
    });
    let signal = signal.version("fade").reads(&spread, VALUE).reads(&mean, VALUE).reads(&range, VALUE);
    let builder = Strategy::builder()
        .node(apart)
        .node(nodes::ema(mean, 30, &spread, VALUE)?)
        .node(nodes::atr(range, 14, five)?)
        // All that may have been missed while nobody was there.
        .node(signal.keeps(1_000));
    inputs.into_iter().fold(builder, StrategyBuilder::input).build()
}

/// What a process leaves behind: its signals, and the state to go on from.
struct Journal {
    folder: PathBuf,
    /// The bar of the newest signal that was written.
    newest: Timestamp,
}

impl Journal {
    /// Goes on behind the last whole line, else with the bar that closes after `start`.
    fn open(folder: &Path, start: Timestamp) -> Result<Self> {
        let path = folder.join(SIGNALS);
        let text = if path.exists() {
            fs::read_to_string(&path).map_err(io("read the signals"))?
        } else {
            String::new()
        };
        // A kill may have left a part of a line.
        let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
        fs::write(&path, whole).map_err(io("write the signals"))?;
        let last = signals(whole)?.last().map(|(ts, _)| *ts);
        let before = start.checked_sub(Duration::from_secs(60)).unwrap_or(Timestamp::MIN);
        Ok(Self { folder: folder.to_owned(), newest: last.unwrap_or(before) })
    }

    /// Writes the signals that are new, then the state: after a kill in between the state is older, and the signals that
    /// come again are those that are there already.
    fn record(&mut self, pipeline: &Pipeline) -> Result<()> {
        let (bars, values) = pipeline.results(&SIGNAL.parse()?)?;
        let written = bars.partition_point(|ts| *ts <= self.newest);
        let new = bars.iter().zip(values).skip(written);
        let lines: String = new.map(|(ts, value)| format!("{} {value:?}\n", ts.as_micros())).collect();
        let file = fs::OpenOptions::new().append(true).open(self.folder.join(SIGNALS));
        file.and_then(|mut file| file.write_all(lines.as_bytes())).map_err(io("write the signals"))?;
        self.newest = bars.last().copied().unwrap_or(self.newest).max(self.newest);
        // Under another name first: a kill leaves the state before or this one, whole.
        let (state, next) = (self.folder.join(STATE), self.folder.join("state.next"));
        let written = fs::write(&next, pipeline.snapshot()?.to_bytes()?);
        written.and_then(|()| fs::rename(next, state)).map_err(io("write the state"))
    }
}

/// The signals of a file, each with the bar that it is of, as the bits of a double.
fn signals(text: &str) -> Result<Vec<(Timestamp, u64)>> {
    let line = |line: &str| {
        let (ts, value) = line.split_once(' ')?;
        Some((Timestamp::from_micros(ts.parse().ok()?).ok()?, value.parse::<f64>().ok()?.to_bits()))
    };
    text.lines()
        .map(|text| line(text).ok_or_else(|| Error::invalid("no signal").with("line", text)))
        .collect()
}

fn io(what: &'static str) -> impl FnOnce(std::io::Error) -> Error {
    move |error| Error::unavailable(what).caused_by(error)
}

/// The child: goes on from the state if there is one, and follows both venues until its input ends.
async fn follow(folder: &Path, url: &str, now: Timestamp) -> Result<()> {
    let clock = MarketClock::new(now);
    let fetchers = fetchers(url, &clock)?;
    let inputs = inputs(&Arc::new(MemoryBackend::new()), fetchers.clone(), &clock)?;
    let keys: Vec<SeriesKey> = inputs.iter().map(|input| input.key().clone()).collect();
    let journal = Arc::new(Mutex::new(Journal::open(folder, now)?));
    let record = move |pipeline: &Pipeline| journal.lock().expect("nobody panics with it").record(pipeline);
    let at_start = record.clone();
    let mut runner = Runner::new().with_warmup(WarmupConfig::default().with_strict(true));
    runner = runner.with_on_ready(move |pipeline, _| {
        at_start(pipeline)?;
        println!("ready");
        Ok(())
    });
    let is_second = folder.join(STATE).exists();
    if is_second {
        let bytes = fs::read(folder.join(STATE)).map_err(io("read the state"))?;
        runner = runner.with_snapshot(Snapshot::from_bytes(&bytes)?);
    }
    let (sender, mut receiver) = live_channel(16);
    let following = runner.follow_with(strategy(inputs)?, &mut receiver, move |pipeline, moment| {
        record(pipeline)?;
        println!("{}", moment.at);
        Ok(())
    });
    let (session, ()) = tokio::try_join!(following, feed(sender, &keys, fetchers, &clock))?;
    assert_eq!(session.restored.transpose()?.is_some(), is_second, "a state that is there is taken");
    assert!(
        session.gaps.is_empty()
            && session.pipeline.given_up().is_empty()
            && session.pipeline.came_late().is_empty()
    );
    Ok(())
}

/// Polls the venues for the bars that have closed by each time that is told.
async fn feed(
    live: LiveSender,
    keys: &[SeriesKey],
    fetchers: [Arc<dyn DataFetcher>; 3],
    clock: &MarketClock,
) -> Result<()> {
    let mut told = times();
    let mut next: Vec<_> = keys.iter().map(|key| key.interval.floor(clock.now())).collect();
    while let Some(now) = told.recv().await {
        clock.set(now);
        for ((key, fetcher), next) in keys.iter().zip(&fetchers).zip(&mut next) {
            while let Some(due) =
                next.zip(key.interval.floor(now)).and_then(|(from, to)| TimeRange::checked(from, to))
            {
                let rows = closed(fetcher, key, due).await?;
                if rows.is_empty() {
                    clock.sleep(POLL).await;
                }
                for (ts, row) in rows {
                    live.send(LiveBar::new(key.clone(), ts, row)).await?;
                    *next = key.interval.next(ts);
                }
            }
        }
    }
    Ok(())
}

/// The bars of a range that the venue has, a row each.
async fn closed(
    fetcher: &Arc<dyn DataFetcher>,
    key: &SeriesKey,
    range: TimeRange,
) -> Result<Vec<(Timestamp, RecordBatch)>> {
    let page = fetcher.fetch(&FetchRequest::new(key.clone(), range)).await?.batches.into_batch().await?;
    let rows = frame::normalize(key, range, &[page])?.rows;
    let times = frame::timestamps(&rows)?.values().to_vec();
    let row = |(at, micros): (usize, &i64)| Ok((Timestamp::from_micros(*micros)?, rows.slice(at, 1)));
    times.iter().enumerate().map(row).collect()
}

/// The exchange's time, from a line of our input each. A thread reads it: a task that reads would hold up the end.
fn times() -> UnboundedReceiver<Timestamp> {
    let (sender, receiver) = unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(std::io::Result::ok) {
            let Ok(now) = line.parse() else { return };
            if sender.send(now).is_err() {
                return;
            }
        }
    });
    receiver
}

/// A child at work.
struct Process {
    child: Child,
    times: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Process {
    /// Starts one as of `now`, and waits until it has seen all of history.
    async fn start(folder: &Path, url: &str, now: Timestamp) -> Result<Self> {
        let program = std::env::current_exe().map_err(io("find this program"))?;
        let mut command = Command::new(program);
        command.arg("follow").arg(folder).arg(url).arg(now.to_string()).kill_on_drop(true);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(io("start this program"))?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (times, output) = pipes.ok_or_else(|| Error::unexpected("the child has no pipes"))?;
        let mut process = Self { child, times, lines: BufReader::new(output).lines() };
        process.hears("ready").await?;
        Ok(process)
    }

    async fn tell(&mut self, now: Timestamp) -> Result<()> {
        self.times.write_all(format!("{now}\n").as_bytes()).await.map_err(io("tell the time"))
    }

    /// Waits for a line, which must be this one.
    async fn hears(&mut self, expected: &str) -> Result<()> {
        let line = tokio::time::timeout(PATIENCE, self.lines.next_line()).await;
        let line =
            line.map_err(|_| Error::unavailable("the child says nothing"))?.map_err(io("hear the child"))?;
        assert_eq!(line.as_deref(), Some(expected), "what the child says");
        Ok(())
    }
}

/// Both venues from a day before the start on: minutes of one, the same a little away from them, and five minutes.
fn markets(start: Timestamp) -> Result<[Market; 3]> {
    let invalid = |e| Error::invalid("no market").caused_by(e);
    let day = start.as_millis() - 86_400_000;
    let interval = Interval::parse("1m").map_err(invalid)?;
    let first = Candle::random_walk(day, interval, 2_000, 7);
    let second = first.iter().zip(Candle::random_walk(day, interval, 2_000, 8)).map(|(first, other)| {
        let premium = other.close / 100.0;
        let Candle { open_time, open, high, low, close, volume, .. } = *first;
        Candle::new(open_time, [open, high, low, close].map(|price| price * premium), volume)
    });
    let grid = |candle: &Candle| candle.open_time.div_euclid(300_000) * 300_000;
    let five = first.chunk_by(|a, b| grid(a) == grid(b)).map(|bars| {
        let high = bars.iter().fold(f64::MIN, |high, bar| high.max(bar.high));
        let low = bars.iter().fold(f64::MAX, |low, bar| low.min(bar.low));
        let volume = bars.iter().map(|bar| bar.volume).sum();
        Candle::new(grid(&bars[0]), [bars[0].open, high, low, bars[bars.len() - 1].close], volume)
    });
    let (second, five) = (second.collect(), five.collect());
    Ok([
        Market::new("BTCUSDT", "5m", five).map_err(invalid)?,
        Market::new("BTCUSDT", "1m", first).map_err(invalid)?,
        Market::new("BTCUSD", "1m", second).map_err(invalid)?.with_product("BTC-USD"),
    ])
}

/// The signals of a backtest over the bars that close after `start` and up to `end`.
async fn backtested(url: &str, start: Timestamp, end: Timestamp) -> Result<Vec<(Timestamp, u64)>> {
    let (clock, store) = (MarketClock::new(end), Arc::new(MemoryBackend::new()));
    let fetchers = fetchers(url, &clock)?;
    let inputs = inputs(&store, fetchers.clone(), &clock)?;
    for (input, fetcher) in inputs.iter().zip(fetchers) {
        let from = start.checked_sub(Duration::from_secs(6 * 3_600)).unwrap_or(start);
        let interval = input.key().interval;
        let range = TimeRange::new(interval.floor(from).unwrap_or(from), interval.floor(end).unwrap_or(end))?;
        let request = BackfillRequest::new(input.key().clone(), range);
        let fills = FetcherBackfillStrategy::new(fetcher).with_clock(clock.clone());
        assert!(fills.ensure_range(&request, &store, &NoProgress).await?.is_complete());
    }
    let results = Backtest::new().range(strategy(inputs)?, start, end).await?.collect().await?;
    assert!(results.failures.is_empty() && results.missing.iter().all(|(_, missing)| missing.is_empty()));
    let signal = SIGNAL.parse()?;
    let values = candles::output(&results, &signal, VALUE)?;
    let bars = candles::times(&results, &signal)?.into_iter().map(Timestamp::from_secs);
    bars.zip(values).map(|(ts, value)| Ok((ts?, value.to_bits()))).collect()
}

/// The parent: keeps the exchange and its time, and kills.
async fn kill_and_compare() -> Result<()> {
    let start: Timestamp = START.parse()?;
    let minute = |minute: u64| start.checked_add(Duration::from_secs(60 * minute)).unwrap_or(Timestamp::MAX);
    let config = SimConfig::new(markets(start)?).with_clock(SimClock::Frozen(start.as_millis()));
    let sim = SimExchange::start(config.with_weight_limit(1_000_000))
        .await
        .map_err(|e| Error::unavailable("start the exchange").caused_by(e))?;
    let folder = tempfile::tempdir().map_err(io("make a folder"))?;
    let (path, url) = (folder.path(), sim.base_url());

    let mut process = Process::start(path, &url, start).await?;
    for now in (1..=KILLED).map(minute) {
        sim.set_now(now.as_millis());
        process.tell(now).await?;
        process.hears(&now.to_string()).await?;
    }
    // The next bar is on its way when it is killed: nobody knows how far it got.
    sim.set_now(minute(KILLED + 1).as_millis());
    process.tell(minute(KILLED + 1)).await?;
    process.child.kill().await.map_err(io("kill the child"))?;

    sim.set_now(minute(BACK).as_millis());
    let mut process = Process::start(path, &url, minute(BACK)).await?;
    for now in (BACK + 1..=END).map(minute) {
        sim.set_now(now.as_millis());
        process.tell(now).await?;
        process.hears(&now.to_string()).await?;
    }
    drop(process.times);
    assert!(process.child.wait().await.map_err(io("wait for the child"))?.success());

    let live = signals(&fs::read_to_string(path.join(SIGNALS)).map_err(io("read the signals"))?)?;
    let expected = backtested(&url, start, minute(END)).await?;
    println!("{} signals; about {} of them were missed and made up for", live.len(), BACK - KILLED);
    assert!(live.len() as u64 == END && live.iter().all(|(_, bits)| f64::from_bits(*bits).is_finite()));
    assert_eq!(live, expected, "live and restored as over history, bit for bit");
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [what, folder, url, now] if what == "follow" => follow(Path::new(folder), url, now.parse()?).await,
        _ => kill_and_compare().await,
    }
}
