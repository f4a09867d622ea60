//! Nodes that read nodes: where a fast average crosses a slow one, over two weeks of bars that are
//! replayed on two threads. The averages are batch functions, which see many bars in one call.

use std::sync::{Arc, Mutex};

use qmtl_backfill::{AugmentedHistoryProvider, FetcherBackfillStrategy};
use qmtl_history_api::{NodeId, Result, Timestamp};
use qmtl_io_exchange::{FileConfig, FileFetcher};
use qmtl_io_memory::MemoryBackend;
use qmtl_runtime::{AsOf, ComputeNode, Parallelism, Runner, Strategy, StreamInput, VALUE, WarmupConfig};

const CANDLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../data/ADABTC-5m.csv");
/// Two weeks of five minutes.
const PERIOD: usize = 14 * 288;

/// A moving average by a running sum: one call fills all results of a stretch of bars.
fn average(id: &NodeId, window: usize, input: &StreamInput) -> ComputeNode {
    let node = ComputeNode::batch(id.clone(), window, move |windows, out| {
        let closes = windows.f64(0);
        if closes.len() < window {
            // Where bars of the window are proven not to exist there is one result a call.
            out[0] = closes.iter().sum::<f64>() / closes.len() as f64;
            return;
        }
        let mut sum: f64 = closes[..window].iter().sum();
        out[0] = sum / window as f64;
        for at in 1..out.len() {
            sum += closes[at + window - 1] - closes[at - 1];
            out[at] = sum / window as f64;
        }
    });
    node.reads(input, "close")
}

#[tokio::main]
async fn main() -> Result<()> {
    let candles = FileFetcher::open(FileConfig::new(CANDLES)).await?;
    // The same as .backend(…).fetcher(…), which is enough where nothing is to be set.
    let fills = FetcherBackfillStrategy::new(candles);
    let history = AugmentedHistoryProvider::new(MemoryBackend::new()).with_auto_backfill(fills);
    let ada = StreamInput::builder("ADABTC")
        .interval("5m")
        .period(PERIOD)
        .history_provider(history)
        .clock(AsOf::new("2018-01-30".parse()?))
        .build()?;

    let crossings: Arc<Mutex<Vec<Timestamp>>> = Arc::default();
    let (seen, mut before) = (Arc::clone(&crossings), 0.0);
    let (fast, slow): (NodeId, NodeId) = ("fast".parse()?, "slow".parse()?);
    let cross = ComputeNode::slices("cross".parse()?, 1, move |windows| {
        let spread = windows.f64(0)[0] - windows.f64(1)[0];
        let crossed = before * spread < 0.0;
        if crossed {
            seen.lock().expect("no closure panics").push(windows.ts());
        }
        before = if spread == 0.0 { before } else { spread };
        f64::from(crossed)
    });
    let strategy = Strategy::builder()
        .node(average(&fast, 12, &ada))
        .node(average(&slow, 144, &ada))
        .node(cross.reads(fast, VALUE).reads(slow, VALUE))
        .input(ada)
        .build()?;

    let session = Runner::new()
        .with_parallelism(Parallelism::Threads(2))
        .with_warmup(WarmupConfig::default().with_strict(true))
        .prime(strategy)
        .await?;
    let crossings = crossings.lock().expect("no closure panics");
    println!("{} bars, {} crossings", session.replayed.bars, crossings.len());
    println!("the last one at {}", crossings.last().expect("two weeks have crossings"));
    assert_eq!(session.replayed.bars, PERIOD as u64);
    assert!(crossings.is_sorted() && session.pipeline.failures().next().is_none());
    Ok(())
}
