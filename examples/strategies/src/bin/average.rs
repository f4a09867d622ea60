//! The smallest strategy: a moving average over the last 200 bars, primed as of a day in 2018.

use qmtl_history_api::{NodeId, Result};
use qmtl_io_exchange::{FileConfig, FileFetcher};
use qmtl_io_memory::MemoryBackend;
use qmtl_runtime::{AsOf, ComputeNode, Runner, Strategy, StreamInput};

const CANDLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../data/ADABTC-5m.csv");

#[tokio::main]
async fn main() -> Result<()> {
    let ada = StreamInput::builder("ADABTC")
        .interval("5m")
        .period(200)
        .backend(MemoryBackend::new())
        .fetcher(FileFetcher::open(FileConfig::new(CANDLES)).await?)
        .clock(AsOf::new("2018-01-30".parse()?)) // leave this out to start now
        .build()?;
    let average: NodeId = "average".parse()?;
    let node = ComputeNode::slices(average.clone(), 200, |windows| {
        let closes = windows.f64(0);
        closes.iter().sum::<f64>() / closes.len() as f64
    });
    let node = node.reads(&ada, "close");
    let strategy = Strategy::builder().input(ada).node(node).build()?;

    let session = Runner::offline(strategy).await?;
    let (bars, averages) = session.pipeline.results(&average)?;
    println!("{} of {} bars: {}", averages.len(), session.replayed.bars, averages[0]);
    assert!(session.warmup.is_ready());
    assert_eq!(bars[0].to_string(), "2018-01-29T23:55:00Z");
    Ok(())
}
