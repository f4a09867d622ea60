//! `demo`: the first minute with this program, on real candles and through its own commands.

use std::path::{Path, PathBuf};

use clap::Parser;
use qmtl_history_api::arrow_array::cast::AsArray;
use qmtl_history_api::arrow_array::types::Float64Type;
use qmtl_history_api::arrow_array::{Float64Array, RecordBatch};
use qmtl_history_api::{
    Error, ErrorKind, HistoryBackendExt, ReadRequest, SeriesKey, TimeRange, Timestamp, frame,
};
use qmtl_sim_exchange::{Candle, Fault, FaultRule, Market, SimConfig, SimExchange, When};
use serde::Serialize;
use tempfile::TempDir;

use super::{Context, backfill, coverage, plan};
use crate::cli::{BackfillArgs, Cli, Command, CoverageArgs, DemoArgs, FillArgs};
use crate::console::{Console, Style};
use crate::outcome::{Failure, Outcome, Result};
use crate::shapes::{Entry, Seconds};
use crate::text;

/// Five-minute candles of ADA/BTC from January 2018, with the exchange's own outages.
const CANDLES: &[u8] = include_bytes!("../../../../examples/data/ADABTC-5m.csv");
const NODE: &str = "ADABTC";
const START: &str = "2018-01-10T04:55:00Z";
const END: &str = "2018-01-30T04:55:00Z";

/// The result for machines: the results of the commands that ran.
#[derive(Debug, Serialize)]
struct Shown {
    /// Where the store was kept; null when it was temporary.
    store: Option<String>,
    plan: plan::Planned,
    backfill: backfill::Filled,
    again: backfill::Filled,
    coverage: coverage::Covered,
    bars: Bars,
}

/// A summary of the bars.
#[derive(Debug, Serialize)]
struct Bars {
    rows: usize,
    first: Seconds,
    last: Seconds,
    open: f64,
    close: f64,
    min_low: f64,
    max_high: f64,
    volume: f64,
    #[serde(skip)]
    closes: Vec<f64>,
}

/// Where the demo happens: its folder, which goes away unless it is kept, and an exchange on this
/// machine that has the candles, with the troubles that exchanges have.
#[derive(Debug)]
struct Stage {
    store: PathBuf,
    exchange: SimExchange,
    kept: bool,
    _temporary: Option<TempDir>,
}

impl Stage {
    async fn set(args: &DemoArgs) -> Result<Self> {
        let at = |path: &Path, e| {
            Error::new(ErrorKind::Storage, "cannot set up the demo")
                .with("folder", path.display())
                .caused_by(e)
        };
        let (folder, temporary) = match &args.keep {
            Some(folder) => {
                text::must_be_path(folder, "the demo keeps its store in a folder: use --keep DIR")?;
                if std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some()) {
                    return Err(Error::invalid("the folder is not empty; --keep needs a new one")
                        .with("folder", folder.display())
                        .into());
                }
                std::fs::create_dir_all(folder).map_err(|e| at(folder, e))?;
                (folder.clone(), None)
            }
            None => {
                let temporary = tempfile::Builder::new().prefix("qmtl-history-").tempdir();
                let temporary = temporary.map_err(|e| at(&std::env::temp_dir(), e))?;
                (temporary.path().to_owned(), Some(temporary))
            }
        };
        let exchange = exchange().await.map_err(|e| {
            Error::unavailable("cannot start the demo's exchange on this machine").caused_by(e)
        })?;
        Ok(Self { store: folder.join("store"), exchange, kept: args.keep.is_some(), _temporary: temporary })
    }

    /// The arguments of a command on this stage.
    fn words(&self, command: &str) -> Vec<String> {
        let store = self.store.display().to_string();
        let source = format!("binance+{}", self.exchange.base_url());
        let mut words = vec![command, "--store", &store, "--node", NODE, "--interval", "5m"];
        if command == "coverage" {
            words.push("--strip");
        } else {
            words.extend(["--source", &source, "--start", START, "--end", END]);
        }
        words.into_iter().map(str::to_owned).collect()
    }

    fn command(&self, command: &str) -> Result<Cli> {
        let words = std::iter::once("qmtl-history".to_owned()).chain(self.words(command));
        Cli::try_parse_from(words)
            .map_err(|e| Error::unexpected("the demo's command does not parse").caused_by(e).into())
    }

    fn plan(&self) -> Result<FillArgs> {
        match self.command("plan")?.command {
            Command::Plan(args) => Ok(args),
            _ => Err(Error::unexpected("plan is another command").into()),
        }
    }

    fn backfill(&self) -> Result<BackfillArgs> {
        match self.command("backfill")?.command {
            Command::Backfill(args) => Ok(args),
            _ => Err(Error::unexpected("backfill is another command").into()),
        }
    }

    fn coverage(&self) -> Result<CoverageArgs> {
        match self.command("coverage")?.command {
            Command::Coverage(args) => Ok(args),
            _ => Err(Error::unexpected("coverage is another command").into()),
        }
    }
}

/// Serves the candles as Binance does, with an answer that breaks off and one that asks for patience.
async fn exchange() -> qmtl_sim_exchange::Result<SimExchange> {
    let market = Market::new(NODE, "5m", Candle::read_csv(CANDLES)?)?;
    let config = SimConfig::new([market])
        .with_fault(FaultRule::new(Fault::Truncated, When::Numbers(vec![2])))
        .with_fault(FaultRule::new(Fault::TooManyRequests(Some(1)), When::Numbers(vec![5])));
    SimExchange::start(config).await
}

pub(crate) async fn run(args: &DemoArgs, context: &Context) -> Result<Outcome> {
    let stage = Stage::set(args).await?;
    let mut context = context.clone();
    context.global.store = Some(stage.store.display().to_string());
    if context.console.is_json() { as_json(&stage, &context).await } else { as_tour(&stage, &context).await }
}

async fn as_json(stage: &Stage, context: &Context) -> Result<Outcome> {
    let (plans, limits) = plan::plans(&stage.plan()?, context, false).await?;
    let first = fill_all(&stage.backfill()?, context).await?;
    let again = fill_all(&stage.backfill()?, context).await?;
    let (views, _) = coverage::views(&stage.coverage()?, context).await?;
    let ([(job, plan)], [first], [again], [Entry::Sound(view)]) =
        (plans.as_slice(), first.done.as_slice(), again.done.as_slice(), views.as_slice())
    else {
        return Err(
            Error::unexpected("the demo has one series, but its results are of another number").into()
        );
    };
    context.console.json(&Shown {
        store: stage.kept.then(|| stage.store.display().to_string()),
        plan: plan::Planned::new(job, plan, &limits),
        backfill: first.result(),
        again: again.result(),
        coverage: view.result(),
        bars: bars(context).await?,
    })?;
    Ok(Outcome::Done)
}

/// Fills every series of the arguments, or as many as an interruption lets.
async fn fill_all(args: &BackfillArgs, context: &Context) -> Result<backfill::Run> {
    let open = backfill::Open::new(args, context).await?;
    open.fill(open.jobs.clone(), context).await
}

async fn as_tour(stage: &Stage, context: &Context) -> Result<Outcome> {
    let console = &context.console;
    console.line(console.paint(
        Style::Bold,
        "Real candles, an exchange that has its moods, a temporary store, four commands",
    ))?;
    console.line("Five-minute bars of ADA/BTC as Binance gave them in January 2018, outages included.")?;
    console.line("An exchange on this machine serves them as Binance's API does; it breaks an answer off")?;
    console.line("and asks for fewer requests now and then.")?;
    typed(stage, "plan", "What is missing, and what would a fill ask for?", console)?;
    plan::run(&stage.plan()?, context).await?;
    typed(stage, "backfill", "Fill it.", console)?;
    let outcome = backfill::run(&stage.backfill()?, context).await?;
    if outcome != Outcome::Done {
        return Ok(outcome);
    }
    typed(
        stage,
        "backfill",
        "The same again: the holes are proven to be the exchange's, so nobody is asked twice.",
        console,
    )?;
    backfill::run(&stage.backfill()?, context).await?;
    typed(stage, "coverage", "Where the bars are and where they cannot be.", console)?;
    coverage::run(&stage.coverage()?, context).await?;
    bars(context).await?.show(console)?;
    farewell(stage, console)?;
    Ok(Outcome::Done)
}

/// Shows the command that runs next, as a user would type it.
fn typed(stage: &Stage, command: &str, why: &str, console: &Console) -> Result<()> {
    console.line("")?;
    console.line(console.paint(Style::Dim, &format!("# {why}")))?;
    let words: Vec<_> = stage.words(command).into_iter().map(|word| text::shell_word(&word)).collect();
    let line = format!("$ qmtl-history {}", words.join(" "));
    console.line(console.paint(Style::Bold, &line.replace(" --source", " \\\n      --source")))
}

fn farewell(stage: &Stage, console: &Console) -> Result<()> {
    console.line("")?;
    console.line(console.paint(Style::Bold, "Now your own data"))?;
    console.line(
        "  qmtl-history backfill --store ./history --source binance --node BTCUSDT --interval 1m --last 30d",
    )?;
    console.line(
        "  qmtl-history backfill --store ./history --source file:YOUR.csv --node YOUR-NODE --interval 1m \\",
    )?;
    console.line("      --start 2024-01-01 --end 2024-06-01")?;
    console.line("  qmtl-history verify --store ./history          # every bar is read and checked")?;
    console
        .line("  qmtl-history export --store ./history --node BTCUSDT --interval 1m --out bars.parquet")?;
    console.line("")?;
    if stage.kept {
        console.line(format!(
            "The store is kept: qmtl-history ls --store {}",
            text::shell_word(&stage.store.display().to_string())
        ))
    } else {
        console
            .line("The temporary store is gone now; `qmtl-history demo --keep DIR` keeps one to play with.")
    }
}

/// Reads the bars back and sums them up.
async fn bars(context: &Context) -> Result<Bars> {
    let store = context.store().await?;
    let key = SeriesKey::new(NODE, "5m".parse()?)?;
    let columns = ["open", "high", "low", "close", "volume"];
    let rows = store.read_all(&ReadRequest::new(key, TimeRange::ALL).with_columns(columns)).await?;
    Bars::of(&rows)
}

impl Bars {
    fn of(rows: &RecordBatch) -> Result<Self> {
        let column = |index: usize| -> Result<&Float64Array> {
            rows.column(index).as_primitive_opt::<Float64Type>().ok_or_else(|| {
                Failure::from(
                    Error::unexpected("a column of the candles is not of doubles").with("column", index),
                )
            })
        };
        let ts = frame::timestamps(rows)?.values();
        let (open, close) = (column(1)?.values(), column(4)?.values());
        let ([first, .., last], [open, ..], [.., end]) = (&ts[..], &open[..], &close[..]) else {
            return Err(Error::unexpected("the demo's store has no bars").into());
        };
        let fold = |index, pick: fn(f64, f64) -> f64, from| -> Result<f64> {
            Ok(column(index)?.values().iter().copied().fold(from, pick))
        };
        Ok(Self {
            rows: rows.num_rows(),
            first: Seconds(Timestamp::from_micros(*first)?),
            last: Seconds(Timestamp::from_micros(*last)?),
            open: *open,
            close: *end,
            min_low: fold(3, f64::min, f64::INFINITY)?,
            max_high: fold(2, f64::max, f64::NEG_INFINITY)?,
            volume: fold(5, |sum, value| sum + value, 0.0)?,
            closes: close.to_vec(),
        })
    }

    fn show(&self, console: &Console) -> Result<()> {
        console.line("")?;
        console.line(console.paint(Style::Dim, "# What a strategy would see."))?;
        let rows = u64::try_from(self.rows).unwrap_or(u64::MAX);
        console.line(format!("{}  from {} to {}", text::counted(rows, "bar"), self.first.0, self.last.0))?;
        console.line(format!(
            "  open {}  low {}  high {}  close {}  volume {:.0}",
            self.open, self.min_low, self.max_high, self.close, self.volume
        ))?;
        if console.is_rich() { console.line(format!("  {}", sparkline(&self.closes, 72))) } else { Ok(()) }
    }
}

/// Values as a line of blocks, each the last value of its part.
fn sparkline(values: &[f64], width: usize) -> String {
    const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let parts: Vec<f64> =
        values.chunks(values.len().div_ceil(width).max(1)).filter_map(|part| part.last().copied()).collect();
    let (low, high) =
        parts.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(*v), high.max(*v)));
    let level = |value: f64| {
        let share = (value - low) / (high - low);
        (1..8).rev().find(|level| share >= f64::from(*level) / 8.0).map_or(0, |level: u8| usize::from(level))
    };
    parts.into_iter().map(|value| BLOCKS[level(value)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sparkline_spans_its_values() {
        assert_eq!(sparkline(&[0.0, 1.0, 2.0, 8.0], 4), "▁▂▃█");
        assert_eq!(sparkline(&[1.0, 1.0], 4), "▁▁");
        assert_eq!(sparkline(&[], 4), "");
    }
}
