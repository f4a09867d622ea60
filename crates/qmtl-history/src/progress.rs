//! Progress of fills: a bar a series on a terminal, a line now and then elsewhere.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use qmtl_history_api::{ProgressEvent, ProgressSink, SeriesKey};

use crate::console::Console;
use crate::text;

/// Takes the events of all series of a run.
#[derive(Debug)]
pub(crate) struct Progress {
    console: Console,
    lines: Mutex<BTreeMap<SeriesKey, Line>>,
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
    /// Tenths of the plan that were told in plain lines.
    told: u64,
    bar: Option<ProgressBar>,
}

impl Progress {
    pub(crate) fn new(console: &Console) -> Self {
        Self { console: console.clone(), lines: Mutex::default() }
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
            ProgressEvent::Planned { bars, windows, .. } => {
                line.planned = *bars;
                if *bars > 0 {
                    line.bar = self.start(key, *bars);
                    if line.bar.is_none() {
                        self.console.note(format!(
                            "{key}: {} missing in {}",
                            text::counted(*bars, "bar"),
                            text::counted(*windows, "window")
                        ));
                    }
                }
            }
            ProgressEvent::Retrying { .. } => line.retries += 1,
            ProgressEvent::WindowStored { bars, .. } => line.settled += bars,
            ProgressEvent::WindowFailed { window, error } => {
                line.failed += 1;
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
    fn start(&self, key: &SeriesKey, bars: u64) -> Option<ProgressBar> {
        if self.console.bars().is_hidden() {
            return None;
        }
        let style = ProgressStyle::with_template(
            "{prefix:32!} {bar:24.green/dim} {percent:>3}%  {human_pos}/{human_len} bars  {rate}  eta {eta}  {msg}",
        )
        .expect("the template is a constant and valid")
        .with_key("rate", |state: &ProgressState, out: &mut dyn Write| {
            // The bar's own buffer takes every text.
            let _ = write!(out, "{:.0} rows/s", state.per_sec());
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
