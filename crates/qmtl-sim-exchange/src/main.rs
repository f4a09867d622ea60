//! A simulated exchange by hand: serves a CSV of candles on loopback until it is interrupted.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use qmtl_sim_exchange::{FaultRule, Market, Result, SimClock, SimConfig, SimExchange};

/// Serve candles with the APIs of Binance spot, Coinbase Exchange and data.binance.vision on 127.0.0.1.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// CSV with the header open_time,open,high,low,close,volume; times in milliseconds
    #[arg(long, value_name = "FILE")]
    candles: PathBuf,
    /// Binance symbol
    #[arg(long)]
    symbol: String,
    /// Coinbase product; the symbol unless given
    #[arg(long)]
    product: Option<String>,
    /// Length of a bar, such as 5m
    #[arg(long)]
    interval: String,
    /// Port; 0 takes a free one
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Start the clock here, milliseconds since the epoch, instead of now
    #[arg(long, value_name = "MS")]
    now: Option<i64>,
    /// Milliseconds that the server says it is later than it is; negative ones make it earlier
    #[arg(long, value_name = "MS", default_value_t = 0, allow_negative_numbers = true)]
    clock_error: i64,
    /// Milliseconds from a bar's close to its first row; with any, a forming bar has none
    #[arg(long, value_name = "MS", default_value_t = 0)]
    publish_delay: u64,
    /// Milliseconds from a bar's close to its final numbers
    #[arg(long, value_name = "MS", default_value_t = 0)]
    first_version: u64,
    /// Milliseconds from a request to its answer
    #[arg(long, value_name = "MS", default_value_t = 0)]
    latency: u64,
    /// Binance request weight a minute
    #[arg(long, default_value_t = 6_000)]
    weight: u32,
    /// FAULT[@SCHEDULE], such as truncated, 429=30@every:5, off-grid@3,7, reset@random:0.1; repeatable
    #[arg(long, value_name = "FAULT")]
    fault: Vec<FaultRule>,
}

fn config(args: Args) -> Result<SimConfig> {
    let mut market = Market::from_csv(&args.symbol, &args.interval, &args.candles)?;
    if let Some(product) = args.product {
        market = market.with_product(product);
    }
    let config = SimConfig::new([market])
        .with_clock(args.now.map_or(SimClock::System, SimClock::Running))
        .with_clock_error(args.clock_error)
        .with_publish_delay(Duration::from_millis(args.publish_delay))
        .with_first_version(Duration::from_millis(args.first_version))
        .with_latency(Duration::from_millis(args.latency))
        .with_weight_limit(args.weight)
        .with_port(args.port);
    Ok(args.fault.into_iter().fold(config, SimConfig::with_fault))
}

#[tokio::main]
async fn main() -> ExitCode {
    match serve(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            // With standard error gone there is nobody to tell.
            let _ = writeln!(std::io::stderr(), "error: {e}");
            ExitCode::from(2)
        }
    }
}

async fn serve(args: Args) -> Result<()> {
    let sim = SimExchange::start(config(args)?).await?;
    let said = writeln!(std::io::stdout(), "{}", sim.base_url()).and_then(|()| std::io::stdout().flush());
    said.map_err(|e| qmtl_sim_exchange::Error::Io("writing the address".into(), e))?;
    // Without a handler for the signal, the process ends by it all the same.
    let _ = tokio::signal::ctrl_c().await;
    sim.stop().await;
    Ok(())
}
