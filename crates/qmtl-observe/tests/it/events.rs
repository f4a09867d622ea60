//! Names, levels and fields of the lifecycle events.

use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use expect_test::{Expect, expect};
use qmtl_history_api::{Error, SeriesKey};
use qmtl_observe::events::{self, Batch, TARGET};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt};

use crate::{key, source, window};

/// Keeps events as lines `LEVEL message name=value …`, text in quotes, numbers bare.
#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<String>>>);

impl<S: Subscriber> Layer<S> for Captured {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = Line(format!("{} ", event.metadata().level()));
        event.record(&mut line);
        assert_eq!(event.metadata().target(), TARGET);
        self.0.lock().unwrap().push(line.0);
    }
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let name = if field.name() == "message" { "" } else { &format!(" {}=", field.name()) };
        self.0 += &format!("{name}{value:?}");
    }
}

fn check(emit: impl FnOnce(), expected: &Expect) {
    let captured = Captured::default();
    tracing::subscriber::with_default(tracing_subscriber::registry().with(captured.clone()), emit);
    expected.assert_eq(&captured.0.lock().unwrap().join("\n"));
}

#[test]
fn a_job_starts_and_completes() {
    check(
        || {
            events::backfill_start(&key("blake3:ab"), window());
            events::backfill_complete(&key("blake3:ab"), window());
        },
        &expect![[r#"
            INFO backfill.start node_id="blake3:ab" interval=60 start=1700000040 end=1700000100
            INFO backfill.complete node_id="blake3:ab" interval=60 start=1700000040 end=1700000100"#]],
    );
}

#[test]
fn an_interval_with_a_phase_is_told_with_it() {
    let key = SeriesKey::new("blake3:ab", "1d+16h".parse().unwrap()).unwrap();
    check(
        || {
            events::backfill_start(&key, window());
            Batch::new(&key, window(), &source()).attempt(1);
        },
        &expect![[r#"
            INFO backfill.start node_id="blake3:ab" interval="86400+57600" start=1700000040 end=1700000100
            INFO seamless.backfill.attempt batch_id="blake3:ab:86400:1700000040:1700000100" attempt=1 node_id="blake3:ab" interval="86400+57600" start=1700000040 end=1700000100 source="file:candles.csv#9f86d081884c7d65""#]],
    );
}

#[test]
fn a_gateway_is_lost_and_found() {
    check(
        || {
            events::gateway_lost("world-1", &Error::unavailable("the gateway does not answer"));
            events::gateway_found("world-1", "strategy-1");
        },
        &expect![[r#"
            WARN world.gateway_lost world="world-1" error="the gateway does not answer"
            INFO world.gateway_found world="world-1" strategy_id="strategy-1""#]],
    );
}

#[test]
fn a_job_retries_and_fails() {
    check(
        || {
            events::backfill_retry(&key("blake3:ab"), 1);
            events::backfill_failed(&key("blake3:ab"), 3);
        },
        &expect![[r#"
            INFO backfill.retry node_id="blake3:ab" interval=60 attempt=1
            ERROR backfill.failed node_id="blake3:ab" interval=60 attempts=3"#]],
    );
}

#[test]
fn a_batch_is_attempted_and_succeeds_or_fails_with_the_chain_of_causes() {
    check(
        || {
            let (series, source) = (key("blake3:ab"), source());
            let batch = Batch::new(&series, window(), &source);
            batch.attempt(1);
            batch.succeeded(1);
            batch.failed(2, &Error::unavailable("read the file").caused_by(std::io::Error::other("disk")));
        },
        &expect![[r#"
            INFO seamless.backfill.attempt batch_id="blake3:ab:60:1700000040:1700000100" attempt=1 node_id="blake3:ab" interval=60 start=1700000040 end=1700000100 source="file:candles.csv#9f86d081884c7d65"
            INFO seamless.backfill.succeeded batch_id="blake3:ab:60:1700000040:1700000100" attempt=1 node_id="blake3:ab" interval=60 start=1700000040 end=1700000100 source="file:candles.csv#9f86d081884c7d65"
            ERROR seamless.backfill.failed batch_id="blake3:ab:60:1700000040:1700000100" attempt=2 node_id="blake3:ab" interval=60 start=1700000040 end=1700000100 source="file:candles.csv#9f86d081884c7d65" error="read the file: disk""#]],
    );
}
