//! Tests that may print, listed, chosen and counted as libtest does it: what a test target without a harness runs. And
//! seeded runs of a simulation on all threads.

#![expect(clippy::print_stdout, reason = "a test without a harness talks on stdout")]

use std::any::Any;
use std::env;
use std::fmt;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

/// Failures of a batch that are told.
const TOLD: usize = 10;

/// A test by name.
pub struct Test {
    name: String,
    run: Box<dyn Fn() -> Result<(), String>>,
}

impl Test {
    /// A test of this name; an error is why it failed.
    pub fn new(name: impl Into<String>, run: impl Fn() -> Result<(), String> + 'static) -> Self {
        Self { name: name.into(), run: Box::new(run) }
    }
}

impl fmt::Debug for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Test").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Which tests were asked for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Chosen {
    names: Vec<String>,
    skipped: Vec<String>,
    is_exact: bool,
    /// Only names are wanted.
    lists: bool,
    /// Only tests that are switched off, of which there are none.
    only_ignored: bool,
}

impl Chosen {
    /// Takes libtest's arguments; those that say how to run or to print mean nothing here.
    fn read(arguments: impl Iterator<Item = String>) -> Self {
        let mut chosen = Self::default();
        let mut arguments = arguments;
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--list" => chosen.lists = true,
                "--exact" => chosen.is_exact = true,
                "--ignored" => chosen.only_ignored = true,
                "--skip" => chosen.skipped.extend(arguments.next()),
                "--test-threads" | "--format" | "--color" | "--logfile" | "--shuffle-seed" | "-Z" => {
                    arguments.next();
                }
                other if other.starts_with('-') => {}
                _ => chosen.names.push(argument),
            }
        }
        chosen
    }

    fn has(&self, name: &str) -> bool {
        let is_meant =
            |given: &String| if self.is_exact { name == given } else { name.contains(given.as_str()) };
        !self.only_ignored
            && (self.names.is_empty() || self.names.iter().any(is_meant))
            && !self.skipped.iter().any(is_meant)
    }
}

/// Runs the tests that `arguments` ask for, one after another, and tells what came of them. The arguments are those of
/// libtest, without the program's name.
pub fn run(tests: &[Test], arguments: impl Iterator<Item = String>) -> ExitCode {
    let chosen = Chosen::read(arguments);
    let (meant, left): (Vec<_>, Vec<_>) = tests.iter().partition(|test| chosen.has(&test.name));
    if chosen.lists {
        meant.iter().for_each(|test| println!("{}: test", test.name));
        return ExitCode::SUCCESS;
    }
    let started = Instant::now();
    println!("\nrunning {} tests", meant.len());
    let mut failed = 0;
    for test in &meant {
        match (test.run)() {
            Ok(()) => println!("test {} ... ok", test.name),
            Err(why) => {
                failed += 1;
                println!("test {} ... FAILED\n{why}", test.name);
            }
        }
    }
    let (word, code) = if failed == 0 { ("ok", ExitCode::SUCCESS) } else { ("FAILED", ExitCode::FAILURE) };
    println!(
        "\ntest result: {word}. {} passed; {failed} failed; 0 ignored; 0 measured; {} filtered out; finished in {:.2}s\n",
        meant.len() - failed,
        left.len(),
        started.elapsed().as_secs_f64()
    );
    code
}

/// A variable of the environment that is a whole number.
#[must_use]
pub fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok()?.parse().ok()
}

/// Makes a run of each seed, on all threads. Gives the seeds whose run failed, ascending, and why; a run that panics has
/// failed. Of a long batch it is told how far it is.
pub fn runs(seeds: Range<u64>, run: impl Fn(u64) -> Result<(), String> + Sync) -> Vec<(u64, String)> {
    let Range { start, end } = seeds;
    let count = end.saturating_sub(start);
    let stride = (count / 20).max(1_000);
    let next = AtomicU64::new(start);
    let failed = Mutex::new(Vec::new());
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end {
                break;
            }
            let done = catch_unwind(AssertUnwindSafe(|| run(seed)));
            let done = done.unwrap_or_else(|panic| Err(format!("panicked: {}", message(&*panic))));
            if (seed - start + 1).is_multiple_of(stride) {
                println!("  {} of {count} runs", seed - start + 1);
            }
            if let Err(why) = done {
                failed.lock().unwrap_or_else(PoisonError::into_inner).push((seed, why));
            }
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    let mut failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    failed.sort();
    failed
}

/// Tells how many of so many runs broke an invariant; an error names the first of them.
pub fn verdict(runs: u64, broken: &[(u64, String)]) -> Result<(), String> {
    println!("figure: violations = {}", broken.len());
    if broken.is_empty() {
        return Ok(());
    }
    let told = broken.iter().take(TOLD).map(|(seed, why)| format!("\n  QMTL_SIM_SEED={seed}: {why}"));
    Err(format!("{} of {runs} runs broke an invariant:{}", broken.len(), told.collect::<String>()))
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a word")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_seed_is_run_once_and_a_panic_is_a_failure() {
        let made = Mutex::new(Vec::new());
        let failed = runs(5..45, |seed| {
            made.lock().unwrap().push(seed);
            match seed {
                7 => Err("seven".into()),
                9 => panic!("nine"),
                _ => Ok(()),
            }
        });
        let mut made = made.into_inner().unwrap();
        made.sort_unstable();
        assert_eq!(made, (5..45).collect::<Vec<_>>());
        assert_eq!(failed, [(7, "seven".to_owned()), (9, "panicked: nine".to_owned())]);
        let told = verdict(40, &failed).unwrap_err();
        assert!(told.starts_with("2 of 40") && told.contains("QMTL_SIM_SEED=9: panicked: nine"), "{told}");
        assert_eq!(verdict(40, &[]), Ok(()));
    }
}
