//! Every step of a commit, a fold and a collection: killed there, failed there, slept through there.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use qmtl_history_api::{HistoryBackend, Maintenance, Problem, Timestamp, WriteRequest};
use qmtl_io_parquet::failpoints;
use tempfile::TempDir;

use crate::child::{Task, key, numbered};
use crate::crash::{open, read, walk};

/// A way through the code: what stands before, what a process does, and where it comes by.
struct Way {
    name: &'static str,
    /// The bars of each commit before, by number of the first and the one after the last.
    before: &'static [(u32, u32)],
    task: Job,
    /// Each step with how often the process has come by such a step then.
    steps: Vec<(String, String)>,
}

#[derive(Clone, Copy)]
enum Job {
    Write(u32, u32),
    Collect,
}

fn now() -> Timestamp {
    "2040-01-01".parse().unwrap()
}

impl Job {
    fn text(self) -> String {
        match self {
            Self::Write(first, end) => format!("write:{first}:{end}"),
            Self::Collect => format!("collect:{}", now().as_micros()),
        }
    }
}

/// Steps by their place in one commit that comes after `files` others that are put and `encoded`
/// that are committed.
fn commit(label: &str, files: usize, encoded: usize) -> Vec<(String, String)> {
    let nth = |step: &str| match step {
        "encoded" => encoded + 1,
        "checked" => 1,
        _ => files + 1,
    };
    failpoints::commit_steps()
        .into_iter()
        .map(|step| (format!("{label}{step}"), format!("{step}:{}", nth(step))))
        .collect()
}

fn ways() -> Vec<Way> {
    let mut first: Vec<_> = commit("name: ", 0, 0);
    // The name is no commit and columns need no second look.
    first.retain(|(label, _)| !label.ends_with("encoded") && !label.ends_with("checked"));
    first.extend(commit("columns: ", 1, 0).into_iter().filter(|(label, _)| !label.ends_with("checked")));
    first.extend(commit("rows: ", 2, 1));
    let collection = failpoints::collection_steps();
    let [chosen, removed] = collection.as_slice() else { panic!("{collection:?}") };
    let removals = (1..=3).map(|nth| (format!("{removed}, number {nth}"), format!("{removed}:{nth}")));
    vec![
        Way { name: "first commit of a series", before: &[], task: Job::Write(0, 100), steps: first },
        Way { name: "full commit", before: &[(0, 100)], task: Job::Write(50, 200), steps: commit("", 0, 0) },
        Way {
            name: "delta",
            before: &[(0, 3_000), (3_000, 3_005)],
            task: Job::Write(3_000, 3_010),
            steps: commit("", 0, 0),
        },
        Way {
            name: "fold",
            before: &[(0, 3_000), (3_000, 3_500)],
            task: Job::Write(3_490, 3_600),
            steps: commit("", 0, 0),
        },
        Way {
            name: "collection",
            before: &[(0, 3_000), (3_000, 3_001), (3_001, 3_600), (3_600, 3_601), (3_601, 3_602)],
            task: Job::Collect,
            steps: [(chosen.to_string(), format!("{chosen}:1"))].into_iter().chain(removals).collect(),
        },
    ]
}

/// Makes every file look as old as a collection wants it.
fn age(root: &Path) {
    let then = SystemTime::UNIX_EPOCH + Duration::from_micros(now().as_micros().unsigned_abs());
    for path in walk(root) {
        let then = then - Duration::from_secs(7_200);
        fs::File::options().append(true).open(path).unwrap().set_modified(then).unwrap();
    }
}

impl Way {
    async fn prepare(&self) -> (TempDir, usize) {
        let folder = TempDir::new().unwrap();
        let store = open(folder.path()).await;
        for (first, end) in self.before {
            store.write_rows(&WriteRequest::new(key()), numbered(*first, *end, 1)).await.unwrap();
        }
        if matches!(self.task, Job::Collect) {
            age(folder.path());
        }
        (folder, read(&store).await.len())
    }

    /// The rows when the work is done.
    fn rows_after(&self) -> usize {
        let end = self.before.iter().map(|(_, end)| *end).max().unwrap_or(0);
        usize::try_from(match self.task {
            Job::Write(_, last) => end.max(last),
            Job::Collect => end,
        })
        .unwrap()
    }

    /// What a reader in another process sees: all of before, or the new rows too.
    async fn seen(&self, root: &Path, before: usize) -> &'static str {
        let rows = read(&open(root).await).await;
        let numbers: Vec<_> = rows.iter().map(|(number, _)| *number).collect();
        let end = u32::try_from(rows.len()).unwrap();
        assert_eq!(numbers, (0..end).collect::<Vec<_>>(), "a row is missing or doubled");
        match rows.len() {
            len if len == before && before == self.rows_after() => "the same",
            len if len == before => "as before",
            len if len == self.rows_after() => "the new rows",
            len => panic!("{len} rows, part of a commit"),
        }
    }

    /// One line of the table.
    async fn line(&self, (label, at): &(String, String)) -> String {
        let (folder, before) = self.prepare().await;
        let mut task = Task::start_at(&self.task.text(), folder.path(), &format!("stop:{at}"));
        assert!(task.has_stopped(), "{} never comes to {at}", self.name);
        task.process.kill().unwrap();
        task.process.wait().unwrap();
        let killed = self.seen(folder.path(), before).await;
        let left = unfinished(folder.path()).await;
        self.again(folder.path()).await;

        let (folder, before) = self.prepare().await;
        let mut task = Task::start_at(&self.task.text(), folder.path(), &format!("fail:{at}"));
        let said = task.line().unwrap();
        assert!(said.starts_with("Storage a failpoint"), "{} at {at}: {said}", self.name);
        task.process.wait().unwrap();
        let failed = self.seen(folder.path(), before).await;
        assert_eq!(unfinished(folder.path()).await, 0, "an error leaves no temporary file");
        self.again(folder.path()).await;
        let left = if left == 0 { "nothing" } else { "a temporary file" };
        format!("| {} | {label} | {killed} | {left} | {failed} |", self.name)
    }

    /// Does the same once more, which completes it whatever happened.
    async fn again(&self, root: &Path) {
        let store = open(root).await;
        match self.task {
            Job::Write(first, end) => {
                store.write_rows(&WriteRequest::new(key()), numbered(first, end, 2)).await.unwrap();
            }
            Job::Collect => {
                store.collect(&key(), now(), false).await.unwrap();
                assert_eq!(commits(root).len(), 2, "the newest commit and the one that it adds to");
            }
        }
        assert_eq!(read(&store).await.len(), self.rows_after());
        let damaged = store.verify(&key()).await.unwrap();
        assert!(damaged.iter().all(|finding| matches!(finding.problem, Problem::Unfinished)), "{damaged:?}");
    }
}

/// The temporary files that are left in the store.
async fn unfinished(root: &Path) -> usize {
    let found = open(root).await.verify(&key()).await.unwrap();
    assert!(found.iter().all(|finding| matches!(finding.problem, Problem::Unfinished)), "{found:?}");
    found.len()
}

/// The commits of rows.
fn commits(root: &Path) -> Vec<PathBuf> {
    let mut files = walk(root);
    files.retain(|path| {
        path.extension().is_some_and(|ext| ext == "parquet") && !path.parent().unwrap().ends_with("_schema")
    });
    files.sort();
    files
}

const BEGIN: &str = "<!-- made by the test steps::the_table_is_what_happens -->\n";
const END: &str = "<!-- end -->\n";

/// Set, the test writes the table instead of comparing it.
const UPDATE: &str = "QMTL_UPDATE_DOCS";

#[tokio::test(flavor = "multi_thread")]
async fn the_table_is_what_happens() {
    let mut table = String::from(
        "| path | step that was reached | after kill -9 a reader sees | left behind | after an error a reader sees |\n\
         |---|---|---|---|---|\n",
    );
    for way in ways() {
        for step in &way.steps {
            table.push_str(&way.line(step).await);
            table.push('\n');
        }
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reliability.md");
    let page = fs::read_to_string(&path).unwrap();
    let (head, rest) = page.split_once(BEGIN).expect("the page has a place for the table");
    let (written, tail) = rest.split_once(END).unwrap();
    if std::env::var_os(UPDATE).is_some() {
        fs::write(&path, format!("{head}{BEGIN}{table}{END}{tail}")).unwrap();
    } else {
        assert_eq!(written, table, "docs/reliability.md is stale; run this test with {UPDATE}=1");
    }
}

/// What the others do while a writer sleeps: commits, folds, and a collection past the grace time.
async fn go_on(root: &Path, sweep_temporary: bool) {
    let store = open(root).await;
    for (first, end) in [(3_100, 3_101), (3_101, 3_102), (3_102, 3_800), (3_800, 3_801), (3_801, 3_802)] {
        store.write_rows(&WriteRequest::new(key()), numbered(first, end, 3)).await.unwrap();
    }
    let temporary: Vec<_> = walk(root).into_iter().filter(|path| is_temporary(path)).collect();
    age(root);
    if !sweep_temporary {
        for path in temporary {
            let now = SystemTime::UNIX_EPOCH + Duration::from_micros(now().as_micros().unsigned_abs());
            fs::File::options().append(true).open(path).unwrap().set_modified(now).unwrap();
        }
    }
    store.collect(&key(), now(), false).await.unwrap();
    assert_eq!(commits(root).len(), 2, "all numbers of before are free");
}

fn is_temporary(path: &Path) -> bool {
    path.file_name().unwrap().to_str().unwrap().starts_with(".tmp-")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_sleeps_past_the_grace_time_loses_cleanly() {
    let steps = ["encoded", "written", "flushed", "named", "durable"];
    for (step, sweep) in steps.into_iter().flat_map(|step| [(step, false), (step, true)]) {
        let folder = TempDir::new().unwrap();
        let store = open(folder.path()).await;
        for (first, end) in [(0, 3_000), (3_000, 3_005)] {
            store.write_rows(&WriteRequest::new(key()), numbered(first, end, 1)).await.unwrap();
        }
        let mut task = Task::start_at("write:3000:3020", folder.path(), &format!("pause:{step}:1"));
        assert!(task.has_stopped());
        go_on(folder.path(), sweep).await;
        task.wake();
        let said = task.line().unwrap();
        assert!(task.process.wait().unwrap().success());
        // From the step on at which others saw its commit, it finds its own rows stored.
        let is_seen = ["named", "durable"].contains(&step);
        let expected = if is_seen { "stored 0 kept out 20" } else { "stored 15 kept out 5" };
        assert_eq!(said, expected, "{step}, temporary file swept: {sweep}");
        let numbers: Vec<_> = read(&open(folder.path()).await).await.iter().map(|(n, _)| *n).collect();
        assert_eq!(numbers, (0..3_020).chain(3_100..3_802).collect::<Vec<_>>(), "{step}, {sweep}");
        assert!(store.verify(&key()).await.unwrap().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_sleeps_removes_nothing_that_counts() {
    let collection = ways().pop().unwrap();
    for (_, at) in &collection.steps[..3] {
        let (folder, before) = collection.prepare().await;
        let mut task = Task::start_at(&collection.task.text(), folder.path(), &format!("pause:{at}"));
        assert!(task.has_stopped());
        let store = open(folder.path()).await;
        for at in 3_602..3_610 {
            store.write_rows(&WriteRequest::new(key()), numbered(at, at + 1, 3)).await.unwrap();
        }
        store.write_rows(&WriteRequest::new(key()), numbered(3_610, 4_500, 3)).await.unwrap();
        task.wake();
        assert!(task.line().unwrap().starts_with("collected "));
        task.process.wait().unwrap();
        assert_eq!(read(&open(folder.path()).await).await.len(), before + 898);
        assert!(store.verify(&key()).await.unwrap().is_empty());
    }
}
