//! What is waited for: sources and stores that take their time, told for as long as that lasts.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::future::{Either, select};
use qmtl_history_api::arrow_array::RecordBatch;
use qmtl_history_api::arrow_schema::SchemaRef;
use qmtl_history_api::{
    BatchStream, BoxStream, Capabilities, Clock, Collected, Coverage, Error, ErrorKind, Finding,
    HistoryBackend, Maintenance, ReadRequest, Removed, Repaired, Result, Retry, SeriesKey, SourceId,
    TimeRange, Timestamp, Wait, WriteReceipt, WriteRequest, async_trait,
};
use qmtl_observe::TokioClock;

use crate::console::Console;
use crate::{outcome, text};

/// Tells what is waited for, once for all that wait for the same.
#[derive(Debug)]
pub(crate) struct Waits {
    console: Console,
    told: Mutex<BTreeMap<String, Instant>>,
    /// When the command gives up, whatever it waits for.
    ends: Option<Instant>,
    /// When a store gives a request up.
    answers_within: Option<Duration>,
}

/// How often it is told that something is still waited for.
const TOLD_EVERY: Duration = Duration::from_secs(25);
/// How often pauses are told, each of which may be longer than the one before.
const PAUSES_TOLD_EVERY: Duration = Duration::from_secs(5);
/// A pause that is shorter is hardly noticed the first time.
const SHORT: Duration = Duration::from_secs(2);
/// Nothing that takes no longer is told of.
const SHORTEST: Duration = Duration::from_millis(800);
/// A store that takes longer is told of.
const LONG: Duration = Duration::from_secs(3);

impl Waits {
    pub(crate) fn new(console: &Console) -> Self {
        Self { console: console.clone(), told: Mutex::default(), ends: None, answers_within: None }
    }

    /// Tells what is worth knowing and no reason to wait.
    pub(crate) fn note(&self, text: &str) {
        self.console.note(text);
    }

    /// For a store that gives a request up after this time.
    pub(crate) fn with_answers_within(mut self, longest: Option<Duration>) -> Self {
        self.answers_within = longest;
        self
    }

    /// For a command that gives up after so much time from now.
    pub(crate) fn with_deadline(mut self, deadline: Option<Duration>) -> Self {
        self.ends = deadline.and_then(|deadline| Instant::now().checked_add(deadline));
        self
    }

    /// What is left of the time for which something is waited for.
    fn left(&self, at_most: Option<Duration>) -> Option<Duration> {
        let ends = self.ends.map(|ends| ends.saturating_duration_since(Instant::now()));
        at_most.into_iter().chain(ends).min()
    }

    /// Tells of a repetition: what is waited for, why, when the next try is, until when, and what ends it.
    pub(crate) fn retry(&self, retry: &Retry) {
        if retry.attempt == 1 && retry.after < SHORT {
            return;
        }
        let why = why(retry);
        let about = retry.error.as_ref().map_or(retry.reason, Error::message);
        let at_most = self.left(retry.at_most);
        if !self.is_news(about, PAUSES_TOLD_EVERY) {
            return;
        }
        if self.console.logs_for_machines() {
            let (next_try_s, at_most_s) = (retry.after.as_secs_f64(), at_most.map(|most| most.as_secs()));
            tracing::warn!(
                error = why,
                attempt = retry.attempt,
                next_try_s,
                at_most_s,
                "waiting for a source"
            );
            return;
        }
        self.tell(&why, Some(retry.after), at_most);
    }

    /// Tells of a request that waits though nothing has failed.
    pub(crate) fn wait(&self, wait: &Wait) {
        let Wait { what, host, next, .. } = wait;
        let at_most = self.left(Some(wait.at_most));
        if !self.is_news(&format!("{what} {host}"), TOLD_EVERY) {
            return;
        }
        if self.console.logs_for_machines() {
            let (next_try_s, at_most_s) =
                (next.map(|next| next.as_secs_f64()), at_most.map(|most| most.as_secs()));
            tracing::warn!(host, waits_for = what, next_try_s, at_most_s, "waiting for a source");
            return;
        }
        match *what {
            "rate_limit" => self.tell(&format!("the rate limit of {host} is used up"), *next, at_most),
            "pause" => self.tell(&format!("{host} has asked for a pause"), *next, at_most),
            "lease" => self.tell(&format!("{host} works on the windows that are left"), *next, None),
            "coordinator" => self.tell(&format!("the coordinator {host} does not answer"), *next, at_most),
            "ban" => self.tell(&format!("{host} has banned this address for a while"), *next, at_most),
            _ => {
                let at_most = text::duration(at_most.unwrap_or_default());
                self.console.note(format!(
                    "waiting: {host} has not answered yet; timing out in {at_most} at the latest; Ctrl-C stops"
                ));
            }
        }
    }

    /// Tells people why something is waited for, when the next try is, until when, and what ends it.
    fn tell(&self, why: &str, next: Option<Duration>, at_most: Option<Duration>) {
        // What comes after the end is no try.
        let next = next.filter(|next| at_most.is_none_or(|most| *next < most));
        let next = next.map(|next| format!("; next try in {}", text::duration(next))).unwrap_or_default();
        let sign = if next.is_empty() { ';' } else { ',' };
        let at_most =
            at_most.map(|most| format!("{sign} giving up in {} at the latest", text::duration(most)));
        self.console.note(format!("waiting: {why}{next}{}; Ctrl-C stops", at_most.unwrap_or_default()));
    }

    /// Does some work with a store, and tells that it is waited for as long as that takes.
    pub(crate) async fn on<T>(&self, store: &str, work: impl Future<Output = T>) -> T {
        self.during(&format!("the store {store} has not answered yet"), work).await
    }

    /// Does some work, and tells what is waited for as long as that takes.
    pub(crate) async fn during<T>(&self, what: &str, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        // Where there is little time, half of it is long; what is left of a command that is ending tells nothing.
        let mut patience = self.left(None).map_or(LONG, |left| LONG.min((left / 2).max(SHORTEST)));
        loop {
            match select(&mut work, pin!(TokioClock::new().sleep(patience))).await {
                Either::Left((done, _)) => return done,
                Either::Right(_) if !self.is_news(what, TOLD_EVERY) => {}
                Either::Right(_) if self.console.logs_for_machines() => {
                    let at_most_s = self.left(self.answers_within).map(|most| most.as_secs());
                    tracing::warn!(what, at_most_s, "waiting");
                }
                Either::Right(_) => {
                    let end = match (self.left(None), self.answers_within) {
                        (Some(left), _) => format!("giving up in {} at the latest; ", text::duration(left)),
                        (None, Some(longest)) => {
                            format!("each request is given up within {}; ", text::duration(longest))
                        }
                        (None, None) => String::new(),
                    };
                    self.console.note(format!("waiting: {what}; {end}Ctrl-C stops"));
                }
            }
            patience = TOLD_EVERY;
        }
    }

    /// Whether it is time to tell this, for the first time or again.
    fn is_news(&self, what: &str, every: Duration) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if told.get(what).is_some_and(|last| now < *last + every) {
            return false;
        }
        told.insert(what.to_owned(), now);
        true
    }
}

/// Why a request is made again.
pub(crate) fn why(retry: &Retry) -> String {
    retry.error.as_ref().map_or_else(|| retry.reason.replace('_', " "), outcome::chain)
}

/// A store of which it is told when it takes its time.
#[derive(Debug)]
pub(crate) struct Patient {
    pub(crate) backend: Arc<dyn HistoryBackend>,
    /// What it is called, without secrets.
    pub(crate) shown: String,
    pub(crate) waits: Waits,
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl HistoryBackend for Patient {
    async fn read_range(&self, request: &ReadRequest) -> Result<BatchStream> {
        self.waits.on(&self.shown, self.backend.read_range(request)).await
    }

    async fn schema(&self, key: &SeriesKey) -> Result<SchemaRef> {
        self.waits.on(&self.shown, self.backend.schema(key)).await
    }

    async fn write_rows(&self, request: &WriteRequest, rows: RecordBatch) -> Result<WriteReceipt> {
        self.waits.on(&self.shown, self.backend.write_rows(request, rows)).await
    }

    async fn coverage(&self, key: &SeriesKey, range: TimeRange) -> Result<Coverage> {
        self.waits.on(&self.shown, self.backend.coverage(key, range)).await
    }

    async fn series(&self) -> Result<BoxStream<Result<SeriesKey>>> {
        self.waits.on(&self.shown, self.backend.series()).await
    }

    async fn revision(&self, key: &SeriesKey) -> Result<Option<u64>> {
        self.waits.on(&self.shown, self.backend.revision(key)).await
    }

    fn capabilities(&self) -> Capabilities {
        self.backend.capabilities()
    }

    fn maintenance(&self) -> Option<&dyn Maintenance> {
        self.upkeep().ok().map(|_| self as &dyn Maintenance)
    }
}

impl Patient {
    /// Upkeep of the store itself; `Unsupported` where it has none.
    pub(crate) fn upkeep(&self) -> Result<&dyn Maintenance> {
        self.backend.maintenance().ok_or_else(|| {
            Error::new(ErrorKind::Unsupported, "this store needs no upkeep").with("store", &self.shown)
        })
    }

    /// Tells of upkeep for as long as it takes.
    async fn kept_up<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        self.waits.during(&format!("the store {} is still working", self.shown), work).await
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl Maintenance for Patient {
    async fn prune(&self, key: &SeriesKey, before: Timestamp, dry_run: bool) -> Result<Removed> {
        self.kept_up(self.upkeep()?.prune(key, before, dry_run)).await
    }

    async fn forget_empty(
        &self,
        key: &SeriesKey,
        range: TimeRange,
        source: Option<&SourceId>,
        dry_run: bool,
    ) -> Result<Removed> {
        self.kept_up(self.upkeep()?.forget_empty(key, range, source, dry_run)).await
    }

    async fn collect(&self, key: &SeriesKey, now: Timestamp, dry_run: bool) -> Result<Collected> {
        self.kept_up(self.upkeep()?.collect(key, now, dry_run)).await
    }

    async fn verify(&self, key: &SeriesKey) -> Result<Vec<Finding>> {
        self.kept_up(self.upkeep()?.verify(key)).await
    }

    async fn repair(&self, dry_run: bool) -> Result<Vec<Repaired>> {
        self.kept_up(self.upkeep()?.repair(dry_run)).await
    }
}
