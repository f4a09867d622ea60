//! Flags about leases: of workers, of the coordinator, of those who look after it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::{parse_count, parse_length};

/// Where the coordinator is and how to get in.
#[derive(Args, Clone, Debug)]
#[non_exhaustive]
pub struct ServerArgs {
    /// The address of the lease coordinator, such as http://coordinator:7470
    #[arg(long, value_name = "URL")]
    pub coordinator: String,
    /// A file with the bearer token, alone on its first line [default: the variable QMTL_COORDINATOR_TOKEN]
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
}

/// What makes a fill one of many workers.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Sharing the work")]
#[non_exhaustive]
pub struct WorkerArgs {
    /// Fill only windows that this lease coordinator grants, so that many workers can fill one store together
    #[arg(long, value_name = "URL", conflicts_with_all = ["replace", "compare", "window_bars"])]
    pub coordinator: Option<String>,
    /// A file with the coordinator's bearer token [default: the variable QMTL_COORDINATOR_TOKEN]
    #[arg(long, value_name = "FILE", requires = "coordinator")]
    pub token_file: Option<PathBuf>,
    /// The name of this worker [default: QMTL_SEAMLESS_WORKER, else QMTL_WORKER_ID, else the host's name]
    #[arg(long, value_name = "NAME", requires = "coordinator", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub worker_id: Option<String>,
    /// How long a lease lasts unless this worker renews it, 1s to 1h; it does so after each third [default: 2m]
    #[arg(long, value_name = "SPAN", value_parser = parse_lease, requires = "coordinator")]
    pub lease: Option<Duration>,
    /// What to do when the coordinator has not answered for a minute: stop, or go on alone and perhaps request windows
    /// that other workers request too [default: stop]
    #[arg(long, value_name = "WHAT", value_enum, requires = "coordinator")]
    pub on_coordinator_loss: Option<Loss>,
}

/// What to do without the coordinator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Loss {
    /// Begin no more windows.
    Stop,
    /// Go on without leases.
    Alone,
}

fn parse_lease(text: &str) -> Result<Duration, String> {
    let lease = parse_length(text)?;
    if lease <= Duration::from_secs(3_600) { Ok(lease) } else { Err("a lease lasts from 1s to 1h".into()) }
}

/// What `coordinator` takes.
#[derive(Args, Clone, Debug)]
#[non_exhaustive]
pub struct CoordinatorArgs {
    /// Where to listen; beyond this machine only with --token-file
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:7470")]
    pub listen: SocketAddr,
    /// Where leases are kept: a file, which is created if it does not exist, or postgres://user@host/database, which
    /// several coordinators can share
    #[arg(long, value_name = "FILE|URL")]
    pub store: String,
    /// A file with bearer tokens, one per line; it is read again when it changes
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// How many times in a row a window may fail before no worker may claim it
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub max_attempts: u32,
    /// How long the record of a finished window is kept
    #[arg(long, value_name = "SPAN", default_value = "30d", value_parser = parse_length)]
    pub keep: Duration,
}

/// What `leases` takes.
#[derive(Args, Clone, Debug)]
#[non_exhaustive]
pub struct LeasesArgs {
    /// What to do.
    #[command(subcommand)]
    pub what: Leases,
}

/// What can be done about leases.
#[derive(Clone, Debug, Subcommand)]
#[non_exhaustive]
pub enum Leases {
    /// List leases: which worker has which window
    #[command(after_help = "\
Examples:
  qmtl-history leases list --coordinator http://coordinator:7470 --state held
  qmtl-history leases list --coordinator http://coordinator:7470 --state dead --json")]
    List(ListArgs),
    /// Show everything that is known about some leases
    Inspect(InspectLeasesArgs),
    /// Free stuck leases, and revive windows that failed too often
    #[command(after_help = RECOVER_HELP)]
    Recover(RecoverArgs),
}

const RECOVER_HELP: &str = "\
A lease is named by its key and its token, as `leases inspect` shows them and workers log them with -v. If it
has ended, or another worker holds it by now, it is left alone; --force --key KEY takes it from whoever holds it.
Exits 1 if any lease did not change, 4 if the coordinator did not answer.

Examples:
  qmtl-history leases recover --coordinator http://coordinator:7470 'nodeA:60:1700:1760:w::5-3f2a9c0d11223344'
  qmtl-history leases list --coordinator http://coordinator:7470 --state dead --json \\
      | qmtl-history leases recover --coordinator http://coordinator:7470 --file -
  qmtl-history leases recover --coordinator http://coordinator:7470 --file worker.log
  qmtl-history leases recover --coordinator http://coordinator:7470 --force --key 'nodeA:60:1700:1760:w:'";

/// What `leases list` takes.
#[derive(Args, Clone, Debug)]
#[non_exhaustive]
pub struct ListArgs {
    /// Where.
    #[command(flatten)]
    pub server: ServerArgs,
    /// Only keys that begin with this, such as a node id
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub prefix: String,
    /// Only leases in this state: held, expired, released, failed, backoff, partial, done or dead
    #[arg(long, value_name = "STATE")]
    pub state: Option<String>,
    /// The most leases to list
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = parse_count)]
    pub limit: u64,
}

/// What `leases inspect` takes.
#[derive(Args, Clone, Debug)]
#[non_exhaustive]
pub struct InspectLeasesArgs {
    /// Where.
    #[command(flatten)]
    pub server: ServerArgs,
    /// The keys, as `leases list` shows them
    #[arg(value_name = "KEY", required = true)]
    pub key: Vec<String>,
}

/// What `leases recover` takes.
#[derive(Args, Clone, Debug)]
#[non_exhaustive]
pub struct RecoverArgs {
    /// Where.
    #[command(flatten)]
    pub server: ServerArgs,
    /// Leases as KEY:TOKEN; the token is what follows the last colon
    #[arg(value_name = "KEY:TOKEN")]
    pub lease: Vec<String>,
    /// The key of a lease, followed by its --token; may be repeated
    #[arg(long, value_name = "KEY")]
    pub key: Vec<String>,
    /// The token of the --key before it; not needed with --force
    #[arg(long, value_name = "TOKEN")]
    pub token: Vec<String>,
    /// A file of leases, or - for stdin: KEY:TOKEN lines, what `leases list --json` prints, or workers' log lines, from
    /// which claimed and failed leases are taken
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// What becomes of the windows: fail (others may claim them at once) or complete (they count as done)
    #[arg(long, value_name = "WHAT", value_enum, default_value = "fail")]
    pub action: Action,
    /// Why, for the coordinator's record
    #[arg(long, value_name = "TEXT", default_value = "manual_recovery")]
    pub reason: String,
    /// Show what would be done; change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Free the leases, whoever holds them
    #[arg(long)]
    pub force: bool,
}

/// What becomes of the window of a recovered lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Action {
    /// Others may claim it at once.
    Fail,
    /// It counts as done.
    Complete,
}
