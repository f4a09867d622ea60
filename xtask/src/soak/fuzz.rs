//! Every parser under libFuzzer, from the corpus in the repository on. The same targets replay that corpus as ordinary
//! tests.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::page;
use crate::flags;
use crate::process::{self, cargo, root, target};

const PAGE: &str = "docs/reliability.md";

/// The most inputs of a parser that stand in the repository.
const CORPUS: usize = 64;

/// What a build for libFuzzer needs of the compiler: counters that tell which edges of the code an input takes.
const FLAGS: &str = "--cfg fuzzing --cfg fuzzing_libfuzzer -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares \
    -Cllvm-args=-sanitizer-coverage-stack-depth";

/// A parser and what feeds it.
#[derive(Debug)]
struct Parser {
    /// As in `bolero::check!(name = …)`.
    name: &'static str,
    package: &'static str,
    test: &'static str,
    /// The folder of the test's file in its package.
    folder: &'static str,
    /// The longest input in bytes.
    longest: usize,
}

const PARSERS: [Parser; 11] = [
    Parser {
        name: "arrow",
        package: "qmtl-io-exchange",
        test: "file::fuzz::arrow",
        folder: "src/file",
        longest: 8192,
    },
    Parser {
        name: "csv",
        package: "qmtl-io-exchange",
        test: "file::fuzz::csv",
        folder: "src/file",
        longest: 4096,
    },
    Parser {
        name: "json",
        package: "qmtl-io-exchange",
        test: "file::fuzz::json",
        folder: "src/file",
        longest: 4096,
    },
    Parser {
        name: "parquet",
        package: "qmtl-io-exchange",
        test: "file::fuzz::parquet",
        folder: "src/file",
        longest: 8192,
    },
    Parser { name: "pages", package: "qmtl-io-exchange", test: "fuzz::pages", folder: "src", longest: 2048 },
    Parser {
        name: "footers",
        package: "qmtl-io-parquet",
        test: "fuzz::footers",
        folder: "src",
        longest: 8192,
    },
    Parser {
        name: "bucket_urls",
        package: "qmtl-io-parquet",
        test: "fuzz::bucket_urls",
        folder: "src",
        longest: 256,
    },
    Parser { name: "times", package: "qmtl-history-api", test: "fuzz::times", folder: "src", longest: 128 },
    Parser { name: "lists", package: "qmtl-history", test: "fuzz::lists", folder: "src", longest: 1024 },
    Parser {
        name: "addresses",
        package: "qmtl-history",
        test: "fuzz::addresses",
        folder: "src",
        longest: 256,
    },
    Parser {
        name: "command_lines",
        package: "qmtl-history",
        test: "fuzz::command_lines",
        folder: "src",
        longest: 512,
    },
];

/// The names of all parsers.
pub(crate) fn names() -> Vec<&'static str> {
    PARSERS.iter().map(|parser| parser.name).collect()
}

/// The parsers whose tests would replay nothing.
pub(crate) fn without_corpus() -> Vec<&'static str> {
    let has_corpus =
        |parser: &&Parser| fs::read_dir(parser.corpus()).is_ok_and(|mut inputs| inputs.next().is_some());
    PARSERS.iter().filter(|parser| !has_corpus(parser)).map(|parser| parser.name).collect()
}

/// Fuzzes the parsers with these names, and writes their figures; true when none was broken.
pub(super) fn run(flags: &flags::Soak, names: &[&str]) -> Result<bool> {
    let wanted: VecDeque<_> = PARSERS.iter().filter(|parser| names.contains(&parser.name)).collect();
    let minutes = flags.minutes.unwrap_or(60);
    let programs = build(&wanted.iter().map(|parser| parser.package).collect())?;
    let (queue, done) = (Mutex::new(wanted), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..flags.jobs.unwrap_or(2).max(1) {
            scope.spawn(|| {
                while let Some(parser) = next(&queue) {
                    println!("{}: {minutes} min", parser.name);
                    let outcome = parser.fuzz(&programs[parser.package], minutes);
                    done.lock().unwrap_or_else(PoisonError::into_inner).push((parser, outcome));
                }
            });
        }
    });
    let mut rows = BTreeMap::new();
    let mut is_whole = true;
    for (parser, outcome) in done.into_inner().unwrap_or_else(PoisonError::into_inner) {
        match outcome {
            Ok(figures) => drop(rows.insert(parser.name, figures.row(parser, minutes))),
            Err(error) => {
                println!("{}: {error:#}", parser.name);
                is_whole = false;
            }
        }
    }
    page::replace(PAGE, |old| table(old, &rows))?;
    Ok(is_whole)
}

fn next<'a>(queue: &Mutex<VecDeque<&'a Parser>>) -> Option<&'a Parser> {
    queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
}

/// Builds the tests of these packages with libFuzzer inside; the programs by package.
fn build(packages: &BTreeSet<&str>) -> Result<BTreeMap<String, PathBuf>> {
    let triple = process::output(Command::new("rustc").args(["--print", "host-tuple"]))?;
    let mut command = cargo(["test", "--no-run", "--lib", "--all-features", "--profile", "fuzz"]);
    // A target is named so that build scripts and macros are built without the counters.
    command.args(["--target", triple.trim(), "--message-format", "json-render-diagnostics"]);
    command.arg("--target-dir").arg(target().join("fuzz"));
    command.args(packages.iter().flat_map(|package| ["-p", package]));
    command.env("RUSTFLAGS", FLAGS).env("BOLERO_FUZZER", "libfuzzer");
    let mut programs = BTreeMap::new();
    for message in process::output(&mut command)?.lines().filter_map(|line| serde_json::from_str(line).ok()) {
        let message: Value = message;
        let name = message["target"]["name"].as_str().unwrap_or_default().replace('_', "-");
        if let (Some(program), true) = (message["executable"].as_str(), packages.contains(name.as_str())) {
            programs.insert(name, PathBuf::from(program));
        }
    }
    Ok(programs)
}

/// What came of an hour.
#[derive(Debug, PartialEq, Eq)]
struct Figures {
    inputs: u64,
    edges: u64,
}

impl Figures {
    /// Reads what libFuzzer prints at its end.
    fn of(log: &str) -> Option<Self> {
        let number = |text: &str| text.split_whitespace().next()?.parse().ok();
        let done = log.lines().rev().find(|line| line.contains("\tDONE "))?;
        Some(Self {
            inputs: number(done.trim_start_matches('#'))?,
            edges: number(done.split_once("cov: ")?.1)?,
        })
    }

    fn row(&self, parser: &Parser, minutes: u64) -> String {
        format!("| {} | `{}` | {minutes} | {} | {} |", parser.name, parser.package, self.inputs, self.edges)
    }
}

impl Parser {
    /// The inputs in the repository.
    fn corpus(&self) -> PathBuf {
        root()
            .join("crates")
            .join(self.package)
            .join(self.folder)
            .join("__fuzz__")
            .join(self.name)
            .join("corpus")
    }

    fn fuzz(&self, program: &Path, minutes: u64) -> Result<Figures> {
        let work = target().join("fuzz").join("work").join(self.name);
        // What earlier runs found is gone on from.
        let (found, broken) = (work.join("corpus"), work.join("broken"));
        fs::create_dir_all(&found)?;
        fs::create_dir_all(&broken)?;
        let prefix = format!("-artifact_prefix={}/", broken.display());
        let longest = format!("-max_len={}", self.longest);
        let seconds = format!("-max_total_time={}", minutes * 60);
        let limits = ["-timeout=10", "-rss_limit_mb=2048", &longest, &seconds, &prefix];
        let folders = [found.display().to_string(), self.corpus().display().to_string()];
        let log = work.join("log");
        let is_whole =
            self.run(program, &log, limits.into_iter().chain(folders.iter().map(String::as_str)))?;
        if !is_whole {
            bail!(
                "broken: the input stands in {}, what happened in {}; mend it, and add the input to {}",
                broken.display(),
                log.display(),
                self.corpus().display()
            );
        }
        self.grow(program, &work)?;
        let text = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
        Figures::of(&text).with_context(|| format!("{} tells no figures", log.display()))
    }

    /// Adds the inputs to the repository that reach what those in it do not, the widest first, as long as there is room.
    fn grow(&self, program: &Path, work: &Path) -> Result<()> {
        let (corpus, control, merged) = (self.corpus(), work.join("merge"), work.join("merged"));
        let _ = fs::remove_file(&control);
        fs::create_dir_all(&merged)?;
        let own: Vec<_> = fs::read_dir(&corpus)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
        let file = format!("-merge_control_file={}", control.display());
        let folders = [&merged, &corpus, &work.join("corpus")].map(|folder| folder.display().to_string());
        let flags = ["-set_cover_merge=1", "-use_counters=0", &file];
        let log = work.join("merge.log");
        if !self.run(program, &log, flags.into_iter().chain(folders.iter().map(String::as_str)))? {
            bail!("the inputs cannot be compared, see {}", log.display());
        }
        let inputs = edges_of(&fs::read_to_string(&control)?);
        for input in widest(inputs, &own, CORPUS) {
            let name = input.file_name().context("an input has a name")?;
            fs::copy(&input, corpus.join(name))?;
        }
        fs::remove_dir_all(&merged)?;
        Ok(())
    }

    /// Runs libFuzzer with these arguments; true when it found nothing.
    fn run<'a>(&self, program: &Path, log: &Path, args: impl Iterator<Item = &'a str>) -> Result<bool> {
        let file = File::create(log).with_context(|| format!("write {}", log.display()))?;
        let mut command = Command::new(program);
        command.args([self.test, "--exact", "--nocapture"]);
        command.env("BOLERO_LIBFUZZER_ARGS", args.collect::<Vec<_>>().join(" "));
        command.current_dir(root().join("crates").join(self.package));
        // Inputs that are files are written more often than a disk should be.
        let memory = Path::new("/dev/shm");
        if memory.is_dir() {
            command.env("TMPDIR", memory);
        }
        // Where it starts itself again, libFuzzer knows no other arguments than its own.
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            use std::os::unix::process::CommandExt;
            let again = log.with_extension("sh");
            fs::write(
                &again,
                format!("#!/bin/sh\nexec {} {} --exact --nocapture\n", program.display(), self.test),
            )?;
            fs::set_permissions(&again, fs::Permissions::from_mode(0o755))?;
            command.arg0(again);
        }
        command.stdout(file.try_clone()?).stderr(file);
        Ok(command.status().with_context(|| format!("start {}", program.display()))?.success())
    }
}

/// The edges that each input takes, as the control file of a merge tells them: how many files there are, how many of
/// them are old, their names, then `FT`, a number and its edges for each.
fn edges_of(control: &str) -> Vec<(PathBuf, BTreeSet<u64>)> {
    let mut lines = control.lines();
    let count = lines.next().and_then(|count| count.trim().parse().ok()).unwrap_or(0);
    let mut inputs: Vec<_> =
        lines.by_ref().skip(1).take(count).map(|name| (PathBuf::from(name), BTreeSet::new())).collect();
    for line in lines {
        let mut words = line.split_whitespace();
        if words.next() == Some("FT")
            && let Some(at) = words.next().and_then(|at| at.parse::<usize>().ok()).filter(|at| *at < count)
        {
            inputs[at].1 = words.filter_map(|edge| edge.parse().ok()).collect();
        }
    }
    inputs
}

/// The inputs beside `own` that reach most of what `own` does not, one after another, up to `most` with those.
fn widest(inputs: Vec<(PathBuf, BTreeSet<u64>)>, own: &[PathBuf], most: usize) -> Vec<PathBuf> {
    let (held, mut others): (Vec<_>, Vec<_>) = inputs.into_iter().partition(|(path, _)| own.contains(path));
    let mut reached: BTreeSet<u64> = held.into_iter().flat_map(|(_, edges)| edges).collect();
    let mut chosen = Vec::new();
    while own.len() + chosen.len() < most {
        for (_, edges) in &mut others {
            edges.retain(|edge| !reached.contains(edge));
        }
        let Some(at) = (0..others.len()).max_by_key(|at| others[*at].1.len()) else { break };
        let (path, edges) = others.swap_remove(at);
        if edges.is_empty() {
            break;
        }
        reached.extend(edges);
        chosen.push(path);
    }
    chosen
}

/// The table with these rows in the place of the old ones of the same parsers.
fn table(old: &str, rows: &BTreeMap<&str, String>) -> String {
    let mut table =
        "| parser | package | minutes | inputs | edges reached |\n|---|---|--:|--:|--:|\n".to_owned();
    for name in names() {
        let begin = format!("| {name} |");
        let kept = || old.lines().find(|line| line.starts_with(&begin)).map(str::to_owned);
        if let Some(row) = rows.get(name).cloned().or_else(kept) {
            table.push_str(&row);
            table.push('\n');
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_from_the_last_line() {
        let log =
            "#8\tINITED cov: 3 ft: 4\n#40\tDONE   cov: 5021 ft: 9 corp: 3/9b lim: 4 exec/s: 2 rss: 59Mb\nx";
        assert_eq!(Figures::of(log), Some(Figures { inputs: 40, edges: 5021 }));
        assert_eq!(Figures::of("nothing"), None);
    }

    #[test]
    fn the_widest_inputs_are_added_as_long_as_there_is_room() {
        let control =
            "4\n1\nown\na\nb\nc\nSTARTED 0 9\nFT 0 1 2\nCOV 0 7\nFT 1 2 3\nFT 2 3 4 5\nFT 3 1\nFT 9 1\n";
        let own = [PathBuf::from("own")];
        let chosen = |most| widest(edges_of(control), &own, most);
        assert_eq!(chosen(9), [PathBuf::from("b")], "what `a` and `c` reach is reached");
        assert!(chosen(1).is_empty());
    }

    #[test]
    fn rows_of_other_parsers_stay() {
        let old = table("", &BTreeMap::from([("arrow", "| arrow | old |".to_owned())]));
        let new = table(&old, &BTreeMap::from([("csv", "| csv | new |".to_owned())]));
        let rows: Vec<_> = new.lines().skip(2).collect();
        assert_eq!(rows, ["| arrow | old |", "| csv | new |"]);
    }
}
