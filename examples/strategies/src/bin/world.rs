//! A strategy that runs in a world: primed from history, taken over by live bars without one lost,
//! recorded, and acting only while the world's gateway vouches for it. The gateway here is a
//! loopback one that goes away for a while; the live bars are those of the next day.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use qmtl_history_api::arrow_array::RecordBatch;
use qmtl_history_api::{
    DataFetcher, Error, EventRecorder, FetchRequest, Interval, NodeId, Result, SeriesKey, StreamBinding,
    TimeRange, Timestamp, async_trait, frame,
};
use qmtl_history_testkit::gateway::{FakeGateway, FakeWorld, Phase};
use qmtl_io_exchange::{FileConfig, FileFetcher};
use qmtl_io_memory::MemoryBackend;
use qmtl_observe::TokioClock;
use qmtl_runtime::{
    Activation, AsOf, ComputeNode, EventRecorderService, LiveBar, LiveSender, Order, Runner, Side, Strategy,
    StreamInput, World, live_channel,
};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

const CANDLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../data/ADABTC-5m.csv");
const NODE: &str = "ADABTC";
const START: &str = "2018-01-29";

/// Counts what it is given; a real one writes to a store.
#[derive(Debug, Default)]
struct Recorder(Arc<Mutex<Vec<Timestamp>>>);

#[async_trait]
impl EventRecorder for Recorder {
    async fn persist(&self, _: &NodeId, _: Interval, ts: Timestamp, _: RecordBatch) -> Result<()> {
        self.0.lock().expect("no recorder panics").push(ts);
        Ok(())
    }

    async fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn bind_stream(&self, _: &StreamBinding) -> Result<()> {
        Ok(())
    }
}

type Log<T> = Arc<Mutex<Vec<T>>>;

/// The price against its average over 50 bars, as a signal whose orders go to `orders`; each bar is
/// told to `computed`.
fn momentum(
    id: NodeId,
    input: &StreamInput,
    orders: &Log<Order>,
    computed: UnboundedSender<Timestamp>,
) -> ComputeNode {
    let orders = Arc::clone(orders);
    ComputeNode::slices(id, 50, move |windows| {
        // Nobody listens any more at the end.
        let _ = computed.send(windows.ts());
        let closes = windows.f64(0);
        let average = closes.iter().sum::<f64>() / closes.len() as f64;
        closes[closes.len() - 1] / average - 1.0
    })
    .reads(input, "close")
    .keeps(1_000)
    .orders_to(move |order| orders.lock().expect("no order panics").push(order.clone()))
}

/// The bars of a day, one batch of one row each.
async fn day(candles: &FileFetcher, input: &StreamInput) -> Result<Vec<(Timestamp, RecordBatch)>> {
    let start: Timestamp = START.parse()?;
    let day =
        TimeRange::new(start, start.checked_add(Duration::from_secs(86_400)).unwrap_or(Timestamp::MAX))?;
    let raw = candles.fetch(&FetchRequest::new(input.key().clone(), day)).await?.batches.into_batch().await?;
    let rows = frame::normalize(input.key(), day, &[raw])?.rows;
    let times = frame::timestamps(&rows)?.values().to_vec();
    times
        .iter()
        .enumerate()
        .map(|(row, micros)| Ok((Timestamp::from_micros(*micros)?, rows.slice(row, 1))))
        .collect()
}

/// Feeds the day in three parts: the gateway is there, away, and back.
async fn feed(
    (live, mut computed): (LiveSender, UnboundedReceiver<Timestamp>),
    (input, bars): (SeriesKey, Vec<(Timestamp, RecordBatch)>),
    gateway: &FakeGateway,
    activation: Activation,
) -> Result<()> {
    activation.wait_until(|now| now.allowed(Side::Long).is_some()).await;
    // A bar that comes before history is replayed is replayed with it, and makes no order.
    let _last_of_history = computed.recv().await;
    for (part, bars) in bars.chunks(bars.len().div_ceil(3)).enumerate() {
        match part {
            1 => {
                gateway.set_phase(Phase::Down);
                // What was allowed ends by itself when nobody renews it.
                while activation.allowed(Side::Long).is_some() {
                    gateway.wait_for_requests(1).await;
                }
            }
            2 => {
                gateway.set_phase(Phase::Up);
                activation.wait_until(|now| now.allowed(Side::Long).is_some()).await;
            }
            _ => {}
        }
        for (ts, row) in bars {
            live.send(LiveBar::new(input.clone(), *ts, row.clone())).await?;
            while computed.recv().await.is_some_and(|done| done < *ts) {}
        }
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    let gateway = FakeGateway::start(FakeWorld::live("demo"), TokioClock::new())
        .await
        .map_err(|e| Error::unavailable("cannot start the gateway").caused_by(e))?;
    let world = World::new("demo", gateway.url())?
        .with_poll_interval(Duration::from_millis(50))
        .with_stale_after(Duration::from_secs(3));

    let candles = FileFetcher::open(FileConfig::new(CANDLES)).await?;
    let recorded: Log<Timestamp> = Arc::default();
    let events = Arc::new(EventRecorderService::new(Recorder(Arc::clone(&recorded))));
    let ada = StreamInput::builder(NODE)
        .interval("5m")
        .period(50)
        .backend(MemoryBackend::new())
        .fetcher(FileFetcher::open(FileConfig::new(CANDLES)).await?)
        .event_service(Arc::clone(&events))
        .clock(AsOf::new(START.parse()?))
        .build()?;
    let bars = day(&candles, &ada).await?;

    let (orders, (live, receiver)) = (Log::<Order>::default(), live_channel(16));
    let (computed, done) = unbounded_channel();
    let (input, signal): (_, NodeId) = (ada.key().clone(), "momentum".parse()?);
    let node = momentum(signal.clone(), &ada, &orders, computed);
    let strategy = Strategy::builder().input(ada).node(node).live(receiver).build()?;
    let runner = Runner::new();
    let (session, fed) = tokio::join!(
        runner.run_in(strategy, &world),
        feed((live, done), (input, bars.clone()), &gateway, world.activation()),
    );
    let session = fed.and(session)?;
    events.shutdown().await?;

    let orders = orders.lock().expect("no order panics");
    let recorded = recorded.lock().expect("no recorder panics");
    println!("{} bars of history, {} live, {} recorded", session.replayed.bars, bars.len(), recorded.len());
    println!("{} orders while the gateway was there", orders.len());

    // The middle third of the day had no gateway; a signal of zero wants no side.
    let (times, signals) = session.pipeline.results(&signal)?;
    let away = bars[bars.len() / 3].0..bars[bars.len() / 3 * 2].0;
    let wanted = times.iter().zip(signals).filter(|(ts, signal)| {
        **ts >= bars[0].0 && !away.contains(ts) && Side::of_signal(**signal).is_some()
    });
    assert!(wanted.map(|(ts, _)| *ts).eq(orders.iter().map(|order| order.ts)), "every one, and no other");
    assert_eq!(recorded.len(), bars.len());
    assert_eq!(gateway.history("strategy-1").len(), 1, "the history is published once");
    Ok(())
}
