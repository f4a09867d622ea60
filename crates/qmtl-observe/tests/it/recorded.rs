//! A recorder in memory and a short way to ask it.

use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};

pub(crate) struct Recorded {
    recorder: DebuggingRecorder,
    snapshotter: Snapshotter,
}

impl Recorded {
    pub(crate) fn new() -> Self {
        let recorder = DebuggingRecorder::new();
        Self { snapshotter: recorder.snapshotter(), recorder }
    }

    /// What `work` records, as sorted `(name{label=value,…}, value)` pairs.
    pub(crate) fn of(work: impl FnOnce()) -> Vec<(String, Value)> {
        let recorded = Self::new();
        ::metrics::with_local_recorder(&recorded.recorder, work);
        recorded.snapshot()
    }

    pub(crate) fn recorder(&self) -> &DebuggingRecorder {
        &self.recorder
    }

    /// Everything recorded; reading takes the histograms' values out.
    pub(crate) fn snapshot(&self) -> Vec<(String, Value)> {
        let mut rows: Vec<_> = self.snapshotter.snapshot().into_vec().into_iter().map(row).collect();
        rows.sort_by(|a, b| a.0.cmp(&b.0));
        rows
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Counter(u64),
    Gauge(f64),
    Histogram(Vec<f64>),
}

type Row = (metrics_util::CompositeKey, Option<::metrics::Unit>, Option<::metrics::SharedString>, DebugValue);

fn row((key, _, _, value): Row) -> (String, Value) {
    let labels: Vec<String> = key.key().labels().map(|l| format!("{}={}", l.key(), l.value())).collect();
    let value = match value {
        DebugValue::Counter(count) => Value::Counter(count),
        DebugValue::Gauge(value) => Value::Gauge(*value),
        DebugValue::Histogram(values) => Value::Histogram(values.into_iter().map(|v| *v).collect()),
    };
    (format!("{}{{{}}}", key.key().name(), labels.join(",")), value)
}

impl Recorded {
    /// The unit and help text that the recorder was given for a metric.
    pub(crate) fn described(&self, name: &str) -> Option<(::metrics::Unit, String)> {
        let rows = self.snapshotter.snapshot().into_vec();
        let (_, unit, help, _) = rows.into_iter().find(|(key, ..)| key.key().name() == name)?;
        Some((unit?, help?.to_string()))
    }
}
