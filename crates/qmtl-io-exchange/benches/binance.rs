//! How fast a million bars come from an exchange 20 ms away, 8 pages at once: prints the time beside
//! the ideal, and the CPU time beside that of parsing the same bytes with `serde_json` alone. The
//! exchange is another process: this program, started again.

#![expect(clippy::print_stdout, reason = "the table is what a bench is run for")]

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt, stream};
use qmtl_history_api::{DataFetcher, FetchRequest, Interval, SeriesKey, TimeRange, Timestamp};
use qmtl_io_exchange::{BinanceFetcher, ExchangeConfig};
use qmtl_sim_exchange::{Candle, Market, SimConfig, SimExchange};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Where windows of 1,000 minutes begin.
const START: i64 = 1_600_020_000_000;
const PAGES: i64 = 1_000;
const PAGE_MS: i64 = 1_000 * 60_000;
const AT_ONCE: usize = 8;
const LATENCY: Duration = Duration::from_millis(20);

fn main() -> Result<()> {
    if std::env::args().any(|argument| argument == "serve") {
        return tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(serve());
    }
    let runtime = tokio::runtime::Runtime::new()?;
    let mut server = Command::new(std::env::current_exe()?);
    let mut server = server.arg("serve").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut url = String::new();
    BufReader::new(server.stdout.take().ok_or("the server has no output")?).read_line(&mut url)?;
    let measured = runtime.block_on(measure(url.trim()));
    drop(server.stdin.take());
    server.wait()?;
    measured
}

/// Prints the address and serves until the standard input ends: whoever started this has gone.
async fn serve() -> Result<()> {
    let bars = Candle::random_walk(START, qmtl_sim_exchange::Interval::parse("1m")?, 1_000_000, 42);
    let market = Market::new("ADABTC", "1m", bars)?;
    let sim = SimExchange::start(SimConfig::new([market]).with_latency(LATENCY).with_weight_limit(1_000_000))
        .await?;
    println!("{}", sim.base_url());
    tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink())).await??;
    Ok(())
}

async fn measure(url: &str) -> Result<()> {
    let config = ExchangeConfig::binance().with_base_url(url).with_weight_per_minute(1_000_000);
    let fetcher = BinanceFetcher::new(config)?;
    let key = SeriesKey::new("ADABTC", Interval::MINUTE)?;
    let at = |page: i64| Timestamp::from_micros((START + page * PAGE_MS) * 1_000);
    let fetch = async |page: i64| -> Result<usize> {
        let request = FetchRequest::new(key.clone(), TimeRange::new(at(page)?, at(page + 1)?)?);
        Ok(fetcher.fetch(&request).await?.batches.into_batch().await?.num_rows())
    };
    // The server's clock and the listing are asked for once.
    fetch(0).await?;
    let (started, cpu) = (Instant::now(), cpu_time()?);
    let pages = stream::iter(0..PAGES).map(&fetch).buffer_unordered(AT_ONCE);
    let rows: Vec<usize> = pages.try_collect().await?;
    let (took, cpu) = (started.elapsed(), cpu_time()? - cpu);
    let ideal = LATENCY * u32::try_from(PAGES)? / u32::try_from(AT_ONCE)?;
    let body = page_body();
    let parsing = cpu_time()?;
    for _ in 0..PAGES {
        let page: serde_json::Value = serde_json::from_slice(std::hint::black_box(&body))?;
        std::hint::black_box(page);
    }
    let parsing = cpu_time()? - parsing;
    println!("rows {}", rows.iter().sum::<usize>());
    println!("took {:.1} ms", took.as_secs_f64() * 1_000.0);
    println!("ideal {:.1} ms", ideal.as_secs_f64() * 1_000.0);
    println!("cpu {:.1} ms", cpu.as_secs_f64() * 1_000.0);
    println!("serde_json {:.1} ms for pages of {} bytes", parsing.as_secs_f64() * 1_000.0, body.len());
    Ok(())
}

/// A page such as the server sends.
fn page_body() -> Vec<u8> {
    let row = |bar: i64| {
        let opens = START + bar * 60_000;
        let closes = opens + 59_999;
        format!(
            r#"[{opens},"100.24031","100.38021","100.11972","100.25017","431.97870",{closes},"43305.17023",1,"215.98935","21652.58511","0"]"#
        )
    };
    format!("[{}]", (0..1_000).map(row).collect::<Vec<_>>().join(",")).into_bytes()
}

/// The CPU time of this process so far, to the hundredth of a second that the kernel counts in.
fn cpu_time() -> Result<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = stat.rsplit_once(')').ok_or("an unknown form of /proc/self/stat")?;
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>);
    let ticks = ticks.sum::<std::result::Result<u64, _>>()?;
    Ok(Duration::from_millis(ticks * 10))
}
