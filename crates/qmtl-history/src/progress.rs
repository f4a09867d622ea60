//! Progress of fills: a bar a series on a terminal, a line now and then elsewhere.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressState, ProgressStyle};
use qmtl_history_api::{Error, ProgressEvent, ProgressSink, SeriesKey};

use crate::console::Console;
use crate::text;
use crate::waits::Waits;

/// Takes the events of all series of a run.
#[derive(Debug)]
pub(crate) struct Progress {
    console: Console,
    lines: Mutex<BTreeMap<SeriesKey, Line>>,
    waits: Waits,
    /// Whether bars are asked for that may be stored already.
    replaces: bool,
}

/// Where one series stands.
#[derive(Debug, Default)]
struct Line {
    /// Bars that were missing when the plan was made.
    planned: u64,
    /// Bars settled since: stored or known to be empty.
    settled: u64,
    failed: u64,
    retries: u64,
    /// When the next try comes, while nothing else does. The bar shows it as it draws nearer.
    next_try: Arc<Mutex<Option<Instant>>>,
    /// How the last try failed, while nothing has come since.
    last_error: Option<Error>,
    /// Tenths of the plan that were told in plain lines.
    told: u64,
    bar: Option<ProgressBar>,
}

impl Progress {
    pub(crate) fn new(console: &Console) -> Self {
        Self {
            console: console.clone(),
            lines: Mutex::default(),
            waits: Waits::new(console),
            replaces: false,
        }
    }

    /// For a fill that asks for stored bars too.
    pub(crate) fn with_replaces(mut self, replaces: bool) -> Self {
        self.replaces = replaces;
        self
    }

    /// For work that is given up after so much time from now, whatever it waits for.
    pub(crate) fn with_deadline(mut self, deadline: Option<Duration>) -> Self {
        self.waits = self.waits.with_deadline(deadline);
        self
    }

    /// How the last try failed of a request that is still being made again.
    pub(crate) fn last_error(&self) -> Option<Error> {
        self.lines().values().find_map(|line| line.last_error.clone())
    }

    /// Takes the bar of a series away: its result is about to be printed.
    pub(crate) fn finish(&self, key: &SeriesKey) {
        if let Some(bar) = self.lines().get_mut(key).and_then(|line| line.bar.take()) {
            bar.finish_and_clear();
            self.console.bars().remove(&bar);
        }
    }

    fn lines(&self) -> MutexGuard<'_, BTreeMap<SeriesKey, Line>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ProgressSink for Progress {
    fn on_event(&self, key: &SeriesKey, event: &ProgressEvent) {
        let mut lines = self.lines();
        let line = lines.entry(key.clone()).or_default();
        match event {
            ProgressEvent::Planned { bars, windows, .. } if line.takes_in(*bars) => {
                match &line.bar {
                    Some(bar) => bar.set_length(*bars),
                    None => line.bar = self.start(key, *bars, Arc::clone(&line.next_try)),
                }
                if line.bar.is_none() {
                    self.console.note(format!(
                        "{key}: {} {} in {}",
                        text::counted(*bars, "bar"),
                        if self.replaces { "to ask for again" } else { "missing" },
                        text::counted(*windows, "window")
                    ));
                }
            }
            ProgressEvent::Retrying { retry, .. } => {
                line.retries += 1;
                line.tries_again(Some(Instant::now() + retry.after));
                line.last_error.clone_from(&retry.error);
                self.waits.retry(retry);
            }
            ProgressEvent::Waiting { wait, .. } => {
                line.last_error.get_or_insert_with(|| wait.error());
                self.waits.wait(wait);
            }
            ProgressEvent::Fetched { .. } => line.clear_wait(),
            ProgressEvent::WindowStored { bars, .. } => line.settled += bars,
            ProgressEvent::WindowFailed { window, error } => {
                line.failed += 1;
                line.clear_wait();
                tracing::debug!(series = %key, %window, error = error.chain(), "window failed");
            }
            _ => {}
        }
        match &line.bar {
            Some(bar) => {
                bar.set_position(line.settled.min(line.planned));
                bar.set_message(line.state());
            }
            None => self.tell(key, line),
        }
    }
}

impl Progress {
    /// A bar, where bars are drawn.
    fn start(
        &self,
        key: &SeriesKey,
        bars: u64,
        next_try: Arc<Mutex<Option<Instant>>>,
    ) -> Option<ProgressBar> {
        if self.console.bars().is_hidden() {
            return None;
        }
        let style = ProgressStyle::with_template(
            "{prefix:32!} {bar:24.green/dim} {percent:>3}%  {human_pos}/{human_len} bars  {rate}  eta {when}{wait}  {msg}",
        )
        .expect("the template is a constant and valid")
        .with_key("rate", |state: &ProgressState, out: &mut dyn Write| {
            // The bar's own buffer takes every text.
            let _ = write!(out, "{:.0} rows/s", state.per_sec());
        })
        .with_key("when", |state: &ProgressState, out: &mut dyn Write| {
            let _ = match state.pos() {
                0 => write!(out, "unknown"),
                _ => write!(out, "{:#}", HumanDuration(state.eta())),
            };
        })
        .with_key("wait", move |_: &ProgressState, out: &mut dyn Write| {
            if let Some(next) = *next_try.lock().unwrap_or_else(PoisonError::into_inner) {
                let left = next.saturating_duration_since(Instant::now()).as_secs();
                let _ = write!(out, "  next try in {left} s");
            }
        });
        let bar = self.console.bars().add(ProgressBar::new(bars).with_style(style));
        bar.set_prefix(key.to_string());
        bar.enable_steady_tick(Duration::from_millis(200));
        Some(bar)
    }

    /// A plain line at each tenth of the plan.
    fn tell(&self, key: &SeriesKey, line: &mut Line) {
        let tenth = (line.settled * 10).checked_div(line.planned).unwrap_or(0).min(10);
        if tenth > line.told {
            line.told = tenth;
            self.console.note(format!(
                "{key}: {:>3}%  {} of {}{}",
                tenth * 10,
                text::count(line.settled),
                text::counted(line.planned, "bar"),
                line.state()
            ));
        }
    }
}

impl Line {
    /// Takes in that so many bars are missing; whether that is news. A warm-up asks again for what its last round has
    /// left.
    fn takes_in(&mut self, bars: u64) -> bool {
        let is_news = bars > self.planned.saturating_sub(self.settled);
        if is_news {
            (self.planned, self.settled, self.told) = (bars, 0, 0);
        }
        is_news
    }

    fn tries_again(&mut self, at: Option<Instant>) {
        *self.next_try.lock().unwrap_or_else(PoisonError::into_inner) = at;
    }

    /// Takes in that something has come, or nothing will.
    fn clear_wait(&mut self) {
        self.tries_again(None);
        self.last_error = None;
    }

    /// What is beside the way of things.
    fn state(&self) -> String {
        let mut state = String::new();
        if self.retries > 0 {
            state += &format!("  {}", text::counted(self.retries, "repetition"));
        }
        if self.failed > 0 {
            state += &format!("  {} failed", text::counted(self.failed, "window"));
        }
        state
    }
}
