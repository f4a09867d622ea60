//! Log lines as programs print them.

use std::io;
use std::sync::{Arc, Mutex};

use expect_test::{Expect, expect};
use qmtl_history_api::{Error, TimeRange, Timestamp};
use qmtl_observe::events;
use qmtl_observe::format::LogFormat;
use tracing_subscriber::layer::SubscriberExt;

use crate::{key, window};

#[derive(Clone, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl io::Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn lines(format: LogFormat, emit: impl FnOnce()) -> String {
    let buffer = Buffer::default();
    let writer = buffer.clone();
    let layer = format.layer(move || writer.clone(), false);
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), emit);
    String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap()
}

fn check(emit: impl FnOnce(), expected: &Expect) {
    expected.assert_eq(&lines(LogFormat::Event, emit));
}

#[test]
fn an_event_line_is_its_name_and_its_fields() {
    check(
        || events::backfill_start(&key("n\"\n:ü"), window()),
        &expect![[r#"
        backfill.start {"node_id": "n\"\n:ü", "interval": 60, "start": 1700000040, "end": 1700000100}
    "#]],
    );
}

#[test]
fn no_message_and_no_value_can_forge_a_line() {
    check(
        || {
            tracing::info!("one\nbackfill.failed {{}}");
            tracing::warn!(ratio = 0.5, ok = true, path = ?"a\nb", "two");
        },
        &expect![[r#"
            one\nbackfill.failed {} {}
            two {"ratio": 0.5, "ok": true, "path": "\"a\\nb\""}
        "#]],
    );
}

#[test]
fn a_json_line_is_one_object_with_the_fields_beside_the_message() {
    let text = lines(LogFormat::Json, || events::backfill_retry(&key("a\nb"), 2));
    let line: serde_json::Value = serde_json::from_str(text.strip_suffix('\n').unwrap()).unwrap();
    assert_eq!(line["message"], "backfill.retry");
    assert_eq!(line["level"], "INFO");
    assert_eq!(line["node_id"], "a\nb");
    assert_eq!(line["interval"], 60);
    assert_eq!(line["attempt"], 2);
    assert!(line["timestamp"].is_string());
}

#[test]
fn a_human_line_has_level_name_and_fields_and_stays_a_line() {
    let text = lines(LogFormat::Human, || events::backfill_retry(&key("a\nb"), 2));
    assert!(text.ends_with(" INFO backfill.retry node_id=\"a\\nb\" interval=60 attempt=2\n"), "{text}");
}

#[test]
fn formats_are_read_by_name() {
    assert_eq!("event".parse::<LogFormat>().unwrap(), LogFormat::Event);
    let error = "xml".parse::<LogFormat>().unwrap_err();
    assert_eq!(error.to_string(), "not a log format: use human, event or json (value: \"xml\")");
}

/// The guide's own example, field by field; then what is not known is no field.
#[test]
fn a_claimed_lease_is_the_line_of_the_guide() {
    let series = key("nodeA");
    let (start, end) = (Timestamp::from_secs(1_700).unwrap(), Timestamp::from_secs(1_760).unwrap());
    let range = TimeRange::new(start, end).unwrap();
    let lease = events::Lease {
        coordinator: "coordinator.local",
        worker: "worker-42",
        key: "nodeA:60:1700:1760:world-1:2024-01-01T00:00:00Z",
        series: &series,
        range,
        world: Some("world-1"),
        requested_as_of: Some("2024-01-01T00:00:00Z"),
    };
    let guide = "seamless.backfill.coordinator_claimed {\"coordinator_id\": \"coordinator.local\", \"lease_key\": \
        \"nodeA:60:1700:1760:world-1:2024-01-01T00:00:00Z\", \"node_id\": \"nodeA\", \"interval\": 60, \"batch_start\": 1700, \
        \"batch_end\": 1760, \"world\": \"world-1\", \"requested_as_of\": \"2024-01-01T00:00:00Z\", \"worker\": \"worker-42\", \
        \"lease_token\": \"abc\", \"lease_until_ms\": 2000, \"completion_ratio\": 0.5}\n";
    assert_eq!(lines(LogFormat::Event, || lease.claimed("abc", 2_000, 0.5)), guide);
    let lease = events::Lease { key: "nodeA:60:1700:1760::", world: None, requested_as_of: None, ..lease };
    let failed = "seamless.backfill.coordinator_failed {\"coordinator_id\": \"coordinator.local\", \"lease_key\": \
        \"nodeA:60:1700:1760::\", \"node_id\": \"nodeA\", \"interval\": 60, \"batch_start\": 1700, \"batch_end\": 1760, \
        \"worker\": \"worker-42\", \"lease_token\": \"abc\", \"lease_until_ms\": 2000, \"completion_ratio\": 0.5, \
        \"reason\": \"no disk\"}\n";
    assert_eq!(lines(LogFormat::Event, || lease.failed("abc", 2_000, 0.5, "no disk")), failed);
    let error = Error::unavailable("refused");
    assert_eq!(
        lines(LogFormat::Event, || {
            lease.claim_failed(&error);
            lease.bad_claim_response(&error);
            lease.complete_failed(&error);
            lease.fail_failed(&error);
        }),
        ["claim_failed", "bad_claim_response", "complete_failed", "fail_failed"]
            .map(|name| format!(
                "seamless.coordinator.{name} {{\"coordinator_id\": \"coordinator.local\", \"lease_key\": \
                 \"nodeA:60:1700:1760::\", \"error\": \"refused\"}}\n"
            ))
            .concat()
    );
}
