#![doc = include_str!("../README.md")]

pub mod cli;
mod commands;
mod console;
mod fill;
mod outcome;
mod progress;
mod range;
mod replace;
mod series;
mod shapes;
mod signals;
mod source;
mod store;
mod strip;
mod table_writer;
mod text;
mod verify;
mod waits;

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use clap::error::ErrorKind as ClapErrorKind;
use qmtl_history_api::Error;
use qmtl_observe::TokioClock;

use cli::Cli;
use commands::Context;
use console::Console;
use outcome::{ErrorReport, Outcome};
use signals::Signals;

/// The guide's examples, run with this crate's tests because it sees all the others.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/guide.md")]
mod guide {}

/// Runs the program with these arguments, the first of which is its name, to its exit code.
#[must_use]
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(error) => return refused(&error, &args).into(),
    };
    let console = Console::new(&cli.global);
    console.start_logging(&cli.global);
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => {
            console.fail(&Error::unexpected("cannot start the runtime").caused_by(error).into());
            return Outcome::Failed.into();
        }
    };
    let _ = ignore_file_size_signal(&runtime);
    let signals = runtime.block_on(async { Signals::listen() });
    let context = Context { console, global: cli.global, clock: Arc::new(TokioClock::new()), signals };
    let outcome = runtime.block_on(commands::run(&cli.command, &context)).unwrap_or_else(|failure| {
        context.console.fail(&failure);
        failure.outcome()
    });
    // Whatever a cancelled command left to other threads must not keep the program from ending.
    runtime.shutdown_background();
    outcome.into()
}

/// A runtime for work on files. More blocking threads than keep the cores and the disk busy only
/// hold memory: each has a heap of its own, which fragments (ten million bars: 320 MB at the peak
/// with any number of threads, 220 MB with two a core).
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    tokio::runtime::Builder::new_multi_thread().enable_all().max_blocking_threads((2 * cores).max(4)).build()
}

/// Makes a write beyond a limit on file sizes an error with a remedy, not the end of the program.
#[cfg(unix)]
fn ignore_file_size_signal(runtime: &tokio::runtime::Runtime) -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    /// SIGXFSZ, of one number on every system but MIPS.
    const FILE_TOO_LARGE: i32 = 25;
    let _inside = runtime.enter();
    // A handler stays for the life of the process, though nobody listens to it.
    signal(SignalKind::from_raw(FILE_TOO_LARGE)).map(drop)
}

#[cfg(not(unix))]
fn ignore_file_size_signal(_: &tokio::runtime::Runtime) -> std::io::Result<()> {
    Ok(())
}

/// Answers arguments that do not parse, or that ask for help or the version.
fn refused(error: &clap::Error, args: &[OsString]) -> Outcome {
    match error.kind() {
        ClapErrorKind::DisplayHelp | ClapErrorKind::DisplayVersion => {
            // A reader that has gone cannot be told so.
            let _ = error.print();
            return Outcome::Done;
        }
        _ => console::refused(error),
    }
    match error.kind() {
        _ if args.iter().any(|arg| arg == "--json") => {
            let text = text::without_secrets(&error.render().to_string());
            // What is wrong stands before the first empty line, on several lines where it is a list.
            let told = text.split("\n\n").next().unwrap_or_default().trim_start_matches("error: ");
            let message = told.split_whitespace().collect::<Vec<_>>().join(" ");
            let report = ErrorReport::new(&Error::invalid(message), None, Outcome::Usage);
            let _ = console::print_json(&report);
        }
        _ => {}
    }
    Outcome::Usage
}
