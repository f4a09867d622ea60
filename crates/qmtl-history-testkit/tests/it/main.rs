//! The suite itself: every guarantee has a check, and every check can fail.

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::FutureExt;
use qmtl_history_api::GUARANTEES;
use qmtl_history_testkit::faults::Fault;
use qmtl_history_testkit::{CHECKS, Check, Subject, told};
use qmtl_io_memory::MemoryBackend;

/// A store in memory with two handles.
fn subject() -> Subject {
    let backend = Arc::new(MemoryBackend::new());
    let other = Arc::clone(&backend);
    Subject::new(backend).with_reopen(move || std::future::ready(Arc::clone(&other)))
}

/// The guarantees of the page, each the first code of its bullet.
fn guarantees() -> BTreeSet<String> {
    let bullets = GUARANTEES.lines().filter_map(|line| line.strip_prefix("- `H-"));
    bullets.filter_map(|rest| Some(format!("H-{}", rest.split_once('`')?.0))).collect()
}

/// Whether the check fails on the store with this fault.
async fn trips(check: &Check, fault: Fault) -> bool {
    let subject = fault.wrap(subject());
    AssertUnwindSafe((check.run)(&subject)).catch_unwind().await.is_err()
}

#[test]
fn every_guarantee_has_a_check_and_every_check_a_guarantee() {
    let checked: BTreeSet<_> = CHECKS.iter().filter_map(Check::guarantee).collect();
    assert_eq!(checked, guarantees());
    assert!(checked.len() >= 25, "the page's bullets are not found: {checked:?}");
    let names: BTreeSet<_> = CHECKS.iter().map(|check| check.name).collect();
    assert_eq!(names.len(), CHECKS.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_check_fails_without_a_fault_or_by_the_wrapper_alone() {
    for check in CHECKS {
        (check.run)(&subject()).await;
        // These two are seen by one check each, so every check passes under one of them.
        let under_both =
            trips(check, Fault::WeeksFromThursday).await && trips(check, Fault::IntegersThroughDoubles).await;
        assert!(!under_both, "{check:?} fails whatever the fault");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_check_is_tripped_by_a_fault_against_its_guarantee() {
    let mut blind = Vec::new();
    for check in CHECKS {
        let guarantee = check.guarantee();
        let mut tripped = false;
        for fault in Fault::ALL.iter().copied() {
            let relevant = guarantee.as_deref().is_none_or(|id| fault.breaks().contains(&id));
            tripped = tripped || (relevant && trips(check, fault).await);
        }
        if !tripped {
            blind.push(check);
        }
    }
    assert!(blind.is_empty(), "no fault trips {blind:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_fault_is_caught_by_a_check_of_each_guarantee_it_breaks() {
    let known = guarantees();
    let mut missed = Vec::new();
    for fault in Fault::ALL.iter().copied() {
        for id in fault.breaks() {
            assert!(known.contains(*id), "{fault:?} breaks {id}, which is no guarantee");
            let mut caught = false;
            for check in CHECKS.iter().filter(|check| check.guarantee().as_deref() == Some(*id)) {
                caught = caught || trips(check, fault).await;
            }
            if !caught {
                missed.push((fault, id));
            }
        }
    }
    assert!(missed.is_empty(), "not caught: {missed:?}");
}

/// Set for the run of this program by itself in which no backend is configured.
const ALONE: &str = "QMTL_TESTKIT_WITHOUT_BACKEND";

#[test]
fn without_a_backend_a_check_says_that_it_skips_or_fails_where_one_is_required() {
    if std::env::var_os(ALONE).is_some() {
        return qmtl_history_testkit::run(&CHECKS[0], || std::future::ready(None));
    }
    for (required, said) in [
        ("0", "h_read_01_half_open_ascending_unique: skipped, no backend is configured"),
        ("1", "QMTL_REQUIRE_BACKENDS=1, but there is no backend for h_read_01_half_open_ascending_unique"),
    ] {
        alone_says(
            "without_a_backend_a_check_says_that_it_skips_or_fails_where_one_is_required",
            required,
            said,
        );
    }
}

/// What a store of a test may need to live, and what fails to go.
struct PanicsOnDrop;

impl Drop for PanicsOnDrop {
    fn drop(&mut self) {
        panic!("dropped");
    }
}

/// It names the promise and the row, and ends alone: not even a store that panics once more as it is dropped
/// takes the other tests of the process with it.
#[test]
fn a_failed_check_says_what_was_promised_and_shows_the_first_row_that_differs() {
    let name = "a_failed_check_says_what_was_promised_and_shows_the_first_row_that_differs";
    if std::env::var_os(ALONE).is_some() {
        let broken = || Some(Fault::EndInclusive.wrap(subject()).with_guard(PanicsOnDrop));
        return qmtl_history_testkit::run(&CHECKS[0], || std::future::ready(broken()));
    }
    let promise = GUARANTEES.lines().next().and_then(|line| line.strip_prefix("- `H-READ-01` "));
    for said in [
        &format!("This breaks H-READ-01: {}", promise.expect("the first guarantee is about reads")),
        "bars [2, 5): 4 rows instead of 3; row 3 is ts=2024-01-01T00:05:00Z close=5 instead of no row",
        "test result: FAILED",
    ] {
        alone_says(name, "1", said);
    }
}

#[test]
fn without_its_server_a_test_says_how_to_start_one_or_fails_where_one_is_required() {
    if std::env::var_os(ALONE).is_some() {
        assert_eq!(told("QMTL_TEST_NOTHING", "`this` starts one"), None);
        return;
    }
    assert_eq!(told("PATH", "nobody is without it"), std::env::var("PATH").ok());
    for (required, said) in [
        ("0", "skipped, QMTL_TEST_NOTHING is not set: `this` starts one"),
        ("1", "QMTL_REQUIRE_BACKENDS=1, but QMTL_TEST_NOTHING is not set: `this` starts one"),
    ] {
        alone_says(
            "without_its_server_a_test_says_how_to_start_one_or_fails_where_one_is_required",
            required,
            said,
        );
    }
}

/// Runs one test of this program by itself, and looks for what it says.
fn alone_says(name: &str, required: &str, said: &str) {
    let program = std::env::current_exe().expect("a running program has a path");
    let run = std::process::Command::new(program)
        .args([name, "--exact", "--nocapture"])
        .env(ALONE, "1")
        .env("QMTL_REQUIRE_BACKENDS", required)
        .output()
        .expect("a program that runs can be run again");
    assert_eq!(run.status.success(), required == "0");
    let told = String::from_utf8_lossy(&[run.stdout, run.stderr].concat()).into_owned();
    assert!(told.contains(said), "{told}");
}
