//! The metrics as Prometheus reads them.

use std::fmt;
use std::thread;
use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use qmtl_history_api::{Error, ErrorKind, Result};

use crate::metrics::{Kind, METRICS, Unit, describe};

/// How often what was recorded is summed up when nobody reads it.
const UPKEEP: Duration = Duration::from_secs(5);

/// Upper bounds of histograms in milliseconds, up to ten minutes.
const MILLISECONDS: &[f64] = &[
    1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1_000.0, 2_500.0, 5_000.0, 10_000.0, 30_000.0,
    60_000.0, 120_000.0, 300_000.0, 600_000.0,
];

/// Upper bounds of histograms in seconds, from half a millisecond to a minute.
const SECONDS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// The metrics of this process in Prometheus' text format.
#[derive(Clone)]
pub struct Exporter(PrometheusHandle);

impl Exporter {
    /// Records all metrics of this process from now on.
    ///
    /// `Conflict` when the process has a recorder already; it stays.
    pub fn install() -> Result<Self> {
        let mut builder = PrometheusBuilder::new();
        for metric in METRICS.iter().filter(|metric| metric.kind == Kind::Histogram) {
            let bounds = if metric.unit == Unit::Milliseconds { MILLISECONDS } else { SECONDS };
            builder = builder
                .set_buckets_for_metric(Matcher::Full(metric.name.to_owned()), bounds)
                .map_err(|error| Error::unexpected("a histogram without bounds").caused_by(error))?;
        }
        let handle = builder.install_recorder().map_err(|error| {
            Error::new(ErrorKind::Conflict, "this process has a recorder of metrics already").caused_by(error)
        })?;
        describe();
        let own = handle.clone();
        // What a histogram was given lies in memory until it is summed up.
        let upkeep = move || {
            loop {
                thread::sleep(UPKEEP);
                own.run_upkeep();
            }
        };
        let started = thread::Builder::new().name("qmtl-metrics".into()).spawn(upkeep);
        started.map_err(|error| Error::unavailable("cannot start a thread").caused_by(error))?;
        Ok(Self(handle))
    }

    /// The metrics as they are now.
    #[must_use]
    pub fn render(&self) -> String {
        self.0.render()
    }
}

impl fmt::Debug for Exporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Exporter")
    }
}
