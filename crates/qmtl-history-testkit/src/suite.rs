//! What is tested, the list of checks, and how a test is made of each.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use qmtl_history_api::{FETCHER_GUARANTEES, GUARANTEES, HistoryBackend};

type Reopen = dyn Fn() -> BoxFuture<'static, Arc<dyn HistoryBackend>> + Send + Sync;

/// An empty store under test, for one check alone.
pub struct Subject {
    backend: Arc<dyn HistoryBackend>,
    reopen: Option<Box<Reopen>>,
    // Held for its drop: it goes last, after every handle of the store.
    guard: Option<Box<dyn Any + Send + Sync>>,
}

impl Subject {
    /// A store without series.
    #[must_use]
    pub fn new(backend: impl HistoryBackend) -> Self {
        Self { backend: Arc::new(backend), reopen: None, guard: None }
    }

    /// How to get another handle onto the same data that shares as little as possible with the
    /// first one: no cache, its own connection. Without it the checks of several handles know one.
    #[must_use]
    pub fn with_reopen<F, B>(mut self, reopen: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = B> + Send + 'static,
        B: HistoryBackend,
    {
        self.reopen = Some(Box::new(move || {
            let handle = reopen();
            Box::pin(async move { Arc::new(handle.await) as Arc<dyn HistoryBackend> })
        }));
        self
    }

    /// What must live as long as the store: a temporary folder, a server.
    #[must_use]
    pub fn with_guard(mut self, guard: impl Any + Send + Sync) -> Self {
        self.guard = Some(Box::new(guard));
        self
    }

    /// The same store with every handle inside a wrapper: so a meter, a cache or a fault runs the
    /// suite too.
    #[must_use]
    pub fn map<B: HistoryBackend>(
        self,
        wrap: impl Fn(Arc<dyn HistoryBackend>) -> B + Clone + Send + Sync + 'static,
    ) -> Self {
        let backend = Arc::new(wrap(self.backend));
        let reopen = self.reopen.map(|reopen| -> Box<Reopen> {
            Box::new(move || {
                let (handle, wrap) = (reopen(), wrap.clone());
                Box::pin(async move { Arc::new(wrap(handle.await)) as Arc<dyn HistoryBackend> })
            })
        });
        Self { backend, reopen, guard: self.guard }
    }

    /// The store.
    #[must_use]
    pub fn backend(&self) -> Arc<dyn HistoryBackend> {
        Arc::clone(&self.backend)
    }

    /// Another handle onto the store, where the subject knows how to open one.
    pub async fn reopened(&self) -> Option<Arc<dyn HistoryBackend>> {
        match &self.reopen {
            Some(reopen) => Some(reopen().await),
            None => None,
        }
    }
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subject")
            .field("backend", &self.backend)
            .field("reopen", &self.reopen.is_some())
            .field("guard", &self.guard.is_some())
            .finish()
    }
}

/// One check of a suite. It panics, with what it saw, when what is tested breaks a guarantee.
#[non_exhaustive]
pub struct Check<S = Subject> {
    /// The name of its test: `h_read_01_off_grid_ends`.
    pub name: &'static str,
    /// Runs the check on a subject of its own.
    pub run: for<'a> fn(&'a S) -> BoxFuture<'a, ()>,
}

impl<S> Clone for Check<S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S> Copy for Check<S> {}

impl<S> Check<S> {
    #[doc(hidden)]
    #[must_use]
    pub const fn new(name: &'static str, run: for<'a> fn(&'a S) -> BoxFuture<'a, ()>) -> Self {
        Self { name, run }
    }

    /// The guarantee that the check is named after, as the protocol's pages write it:
    /// `H-READ-01`. `None` for the model test, which holds the store against all of them.
    #[must_use]
    pub fn guarantee(&self) -> Option<String> {
        let words: Vec<_> = self.name.split('_').take(3).collect();
        (words.first() == Some(&"h")).then(|| words.join("-").to_uppercase())
    }

    /// The guarantee in words, as [`GUARANTEES`] and [`FETCHER_GUARANTEES`] have them.
    fn sentence(&self) -> Option<&'static str> {
        let bullet = format!("- `{}` ", self.guarantee()?);
        GUARANTEES.lines().chain(FETCHER_GUARANTEES.lines()).find_map(|line| line.strip_prefix(&bullet))
    }
}

impl<S> fmt::Debug for Check<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// Expands to one `#[test]` per check of the suite, each on a fresh store.
///
/// Its argument is the path of an `async fn() -> Option<Subject>` that gives an empty store of its
/// own to every call, so that checks run side by side. `None` says that no server is configured:
/// the test prints that it skips, and fails where `QMTL_REQUIRE_BACKENDS=1`.
///
/// ```
/// use qmtl_history_testkit::Subject;
/// use qmtl_io_memory::MemoryBackend;
///
/// async fn fresh() -> Option<Subject> {
///     Some(Subject::new(MemoryBackend::new()))
/// }
///
/// qmtl_history_testkit::backend_conformance!(fresh);
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! backend_conformance {
    ($fresh:path) => {
        $crate::backend_conformance! { @checks tests [$fresh] }
    };
    // The only list of checks.
    (@checks $what:ident $fresh:tt) => {
        $crate::backend_conformance! { @$what $fresh
            h_read_01_half_open_ascending_unique
            h_read_01_off_grid_ends
            h_read_01_out_of_order_and_overlapping_writes
            h_read_01_many_partitions
            h_read_01_every_grid
            h_read_01_first_and_last_bar_of_time
            h_read_02_schema_without_rows
            h_read_02_every_batch_has_the_schema
            h_read_03_projection_in_the_asked_order
            h_read_03_unknown_column_is_not_found
            h_read_04_dropped_stream_leaves_no_lock
            h_read_05_commit_whole_or_not_at_all
            h_read_06_ts_and_names_twice
            h_read_07_newest_first_and_limits
            h_read_07_limits_over_many_partitions
            h_read_08_schema_is_that_of_a_read
            h_write_01_visible_at_once
            h_write_01_visible_to_every_handle
            h_write_02_keep_existing_keeps_bit_for_bit
            h_write_02_replace_takes_the_whole_row
            h_write_03_repeating_changes_nothing
            h_write_03_receipt_adds_up
            h_write_04_not_canonical_is_refused_whole
            h_write_05_type_clash_is_refused_whole
            h_write_06_floats_bit_for_bit
            h_write_06_nan_as_declared
            h_write_06_strings_byte_for_byte
            h_write_06_every_type_held_or_refused
            h_write_07_columns_by_name
            h_write_07_new_column_is_null_in_older_rows
            h_write_08_empty_batch_records_proofs
            h_write_08_nothing_comes_of_nothing
            h_write_09_concurrent_writers_keep
            h_write_09_concurrent_writers_replace
            h_write_10_any_time_that_can_be_held
            h_cov_01_present_is_the_rows
            h_cov_01_cut_to_the_asked_range
            h_cov_02_proofs_are_kept
            h_cov_02_known_empty_only_where_no_row_is
            h_cov_02_answers_about_young_bars_expire
            h_cov_03_a_row_removes_known_empty
            h_cov_03_a_proof_never_removes_a_row
            h_cov_04_never_ahead_of_rows
            h_cov_05_never_written_is_empty
            h_cov_06_sources_live_side_by_side
            h_cov_06_the_newer_answer_counts
            h_cov_07_rule_and_confirmations_are_kept
            h_cov_07_a_date_ahead_yields
            h_cov_07_an_older_rule_never_replaces_a_newer_one
            h_ser_01_lists_every_series_once
            h_ser_02_alike_ids_do_not_touch
            h_ser_02_intervals_do_not_touch
            h_rev_01_none_before_the_first_write
            h_rev_01_differs_after_every_change
            h_err_01_bad_input_is_not_retryable
            h_conc_01_many_tasks_at_once
            model_random_operations
        }
    };
    (@tests [$fresh:path] $($check:ident)*) => {$(
        #[test]
        fn $check() {
            let check = $crate::Check::new(stringify!($check), |subject| Box::pin($crate::checks::$check(subject)));
            $crate::run(&check, $fresh);
        }
    )*};
    (@table [] $($check:ident)*) => {
        &[$($crate::Check::new(stringify!($check), |subject| Box::pin($crate::checks::$check(subject)))),*]
    };
}

/// Every check of the suite.
pub const CHECKS: &[Check] = crate::backend_conformance! { @checks table [] };

/// Runs one check on a fresh subject; [`backend_conformance!`](crate::backend_conformance) calls it, and so does its
/// twin for fetchers. Panics when the check fails, after the guarantee was printed that is broken, and without a
/// subject where `QMTL_REQUIRE_BACKENDS=1`.
#[expect(clippy::print_stderr, reason = "a skipped test must say so, and a failed one what was promised")]
pub fn run<S, F>(check: &Check<S>, fresh: impl Fn() -> F)
where
    F: Future<Output = Option<S>>,
{
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a test can start threads");
    let failed = runtime.block_on(async {
        match fresh().await {
            Some(subject) => {
                let failed = AssertUnwindSafe((check.run)(&subject)).catch_unwind().await.err()?;
                // Not while the panic unwinds: a store that panics as it is dropped, over a lock that the first
                // panic poisoned, would abort the process and with it every other check.
                let _ = catch_unwind(AssertUnwindSafe(|| drop(subject)));
                Some(failed)
            }
            None if is_required() => {
                panic!("QMTL_REQUIRE_BACKENDS=1, but there is no backend for {check:?}")
            }
            None => {
                eprintln!("{check:?}: skipped, no backend is configured");
                None
            }
        }
    });
    if let Some(failed) = failed {
        match check.guarantee().zip(check.sentence()) {
            Some((id, sentence)) => eprintln!("This breaks {id}: {sentence}"),
            None => eprintln!("The store and a simple model of it diverge after the same operations."),
        }
        resume_unwind(failed);
    }
}

/// What a variable tells a test of the server that it needs. Without it the test gets `None` and says
/// that it is skipped, and `how` such a server is started.
///
/// Panics without it where `QMTL_REQUIRE_BACKENDS=1`.
#[expect(clippy::print_stdout, reason = "a skipped test must say so")]
pub fn told(variable: &str, how: &str) -> Option<String> {
    let value = std::env::var(variable).ok().filter(|value| !value.is_empty());
    if value.is_none() {
        assert!(!is_required(), "QMTL_REQUIRE_BACKENDS=1, but {variable} is not set: {how}");
        println!("skipped, {variable} is not set: {how}");
    }
    value
}

fn is_required() -> bool {
    std::env::var("QMTL_REQUIRE_BACKENDS").is_ok_and(|value| value == "1")
}
