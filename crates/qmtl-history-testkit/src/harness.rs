//! Tests that may print, listed, chosen and counted as libtest does it: what a test target without a harness runs.

#![expect(clippy::print_stdout, reason = "a test without a harness talks on stdout")]

use std::fmt;
use std::process::ExitCode;
use std::time::Instant;

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
