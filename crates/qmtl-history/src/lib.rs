#![doc = include_str!("../README.md")]

mod again;
pub mod cli;
mod commands;
mod console;
mod export;
mod fill;
#[cfg(test)]
mod fuzz;
mod outcome;
mod progress;
mod range;
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
#[cfg(feature = "coordinator")]
mod worker;

use std::ffi::OsString;
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use clap::error::{ContextKind, ContextValue, ErrorKind as ClapErrorKind};
use qmtl_history_api::{Error, ErrorKind};
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
    text::learn_secrets(args.iter().skip(1).map(|arg| arg.to_string_lossy()));
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(error) => {
            // What is quoted of an argument must not move the cursor, nor look like a line of ours.
            let quoted = Cli::try_parse_from(args.iter().map(plain)).err();
            return refused(&quoted.unwrap_or(error), &args).into();
        }
    };
    let console = Console::new(&cli.global);
    console.start_logging(&cli.global);
    hide_caught_panics();
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => {
            let message = "cannot start the threads that the program needs; end other programs, or raise the limits on \
                           processes and memory (ulimit -u, ulimit -v)";
            console.fail(&Error::new(ErrorKind::Storage, message).caused_by(error).into());
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

/// Keeps panics of decoders, on bytes that are damaged, and of a bucket's client, on credentials that no request can
/// hold, off the screen: they are caught, and the error that is made of them names what is wrong.
fn hide_caught_panics() {
    const CAUGHT: [&str; 3] = ["/arrow-", "/parquet-", "/object_store-"];
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let place = info.location().map(ToString::to_string).unwrap_or_default().replace('\\', "/");
        if CAUGHT.iter().any(|own| place.contains(own)) {
            tracing::debug!(place, "a panic was caught");
        } else {
            usual(info);
        }
    }));
}

/// A runtime for work on files. More blocking threads than keep the cores and the disk busy only
/// hold memory: each has a heap of its own, which fragments (ten million bars: 320 MB at the peak
/// with any number of threads, 220 MB with two a core).
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    // A runtime that cannot start its second thread waits for its first one, for ever; and one that cannot start a
    // thread for work on files panics when there is some.
    let blocking = (2 * cores).max(4);
    can_start(cores + blocking)?;
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.enable_all().max_blocking_threads(blocking);
    // A thread that the system refuses is a panic there, and nothing that it says helps the user.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let built = std::panic::catch_unwind(AssertUnwindSafe(|| builder.build()));
    std::panic::set_hook(hook);
    built.unwrap_or_else(|_| Err(std::io::Error::other("the system starts no more threads")))
}

/// Starts so many threads at once, and ends them.
fn can_start(threads: usize) -> std::io::Result<()> {
    let (hold, held) = std::sync::mpsc::channel::<()>();
    let held = std::sync::Mutex::new(held);
    std::thread::scope(|scope| {
        let hold = hold;
        for _ in 0..threads {
            // Each waits until all have been started or one has not: then nobody sends any more.
            let wait = || drop(held.lock().map(|held| held.recv()));
            std::thread::Builder::new().spawn_scoped(scope, wait)?;
        }
        drop(hold);
        Ok(())
    })
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

/// An argument as it can be quoted.
fn plain(arg: &OsString) -> String {
    text::in_line(&arg.to_string_lossy())
}

/// Answers arguments that do not parse, or that ask for help or the version.
fn refused(error: &clap::Error, args: &[OsString]) -> Outcome {
    let (is_json, log_is_json) = (args.iter().any(|arg| arg == "--json"), logs_json(args));
    let text = match error.kind() {
        ClapErrorKind::DisplayHelp | ClapErrorKind::DisplayVersion => return console::answered(error),
        ClapErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            return Outcome::Usage;
        }
        _ => text::without_secrets(&error.render().to_string()),
    };
    // What is wrong stands before the first empty line, on several lines where it is a list.
    let told = text.split("\n\n").next().unwrap_or_default().trim_start_matches("error: ");
    let message = told.split_whitespace().collect::<Vec<_>>().join(" ");
    let hint = several_files(error);
    let report = ErrorReport::new(&Error::invalid(message), hint, Outcome::Usage);
    console::refused(error, &report, log_is_json);
    if is_json {
        let _ = console::print_json(&report);
    }
    Outcome::Usage
}

/// What to do where a shell has made several arguments of one pattern.
fn several_files(error: &clap::Error) -> Option<&'static str> {
    let unexpected = match (error.kind(), error.get(ContextKind::InvalidArg)) {
        (ClapErrorKind::UnknownArgument, Some(ContextValue::String(argument))) => argument,
        _ => return None,
    };
    std::path::Path::new(unexpected).exists().then_some(
        "a shell has made several files of a pattern: quote it, as in --source 'data/*.csv', or name their folder",
    )
}

/// Whether log lines were to be JSON, as far as can be told of arguments that do not parse.
fn logs_json(args: &[OsString]) -> bool {
    args.iter().any(|arg| arg == "--log-format=json")
        || args.windows(2).any(|pair| pair[0] == "--log-format" && pair[1] == "json")
}
