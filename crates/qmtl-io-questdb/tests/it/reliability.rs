//! Servers that die, networks that break, connections that run out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use qmtl_history_api::arrow_array::{Float64Array, RecordBatch};
use qmtl_history_api::arrow_schema::{DataType, Field, Schema};
use qmtl_history_api::{
    ErrorKind, EventRecorder, HistoryBackend, HistoryBackendExt, OnConflict, ReadRequest, TimeRange,
    WriteRequest,
};
use qmtl_history_testkit::fixtures::{bar, bars, key, span};
use qmtl_history_testkit::proxy::{Fault, Proxy};
use qmtl_io_questdb::{QuestDbBackend, QuestDbConfig, QuestDbRecorder, RecorderConfig};
use tokio::sync::watch;

use crate::server::{Own, client, connect};

/// How often something is tried: few times by default, as often as a variable says in a soak.
fn times(variable: &str, default: u32) -> u32 {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn a_call_outside_of_a_runtime_is_refused() {
    let config = QuestDbConfig::from_dsn("questdb://admin:quest@127.0.0.1:1/qdb").unwrap();
    let refused = QuestDbBackend::connect(config).now_or_never().unwrap().unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unsupported, "{refused}");
}

/// The server is killed while batches are written: what was acknowledged is there afterwards, and
/// the same writes complete.
#[tokio::test(flavor = "multi_thread")]
async fn kill_during_writes_loses_nothing_acknowledged() {
    let Some(mut server) = Own::start() else { return };
    let key = key("BTC", "1s");
    let dsn = server.dsn();
    let (batches, rows) = (400_u32, 500_u32);
    let part = |number: u32| bars(&key, bar(&key, number * rows), usize::try_from(rows).unwrap());
    let mut acknowledged = 0;
    for kill in 0..times("QMTL_TEST_KILLS", 3) {
        let backend = connect(&dsn).await;
        let (done, mut seen) = watch::channel(acknowledged);
        let writer = tokio::spawn({
            let (backend, key) = (backend.clone(), key.clone());
            let parts: Vec<_> = (acknowledged..batches).map(part).collect();
            async move {
                for rows in parts {
                    if backend.write_rows(&WriteRequest::new(key.clone()), rows).await.is_err() {
                        return;
                    }
                    done.send_modify(|count| *count += 1);
                }
            }
        });
        let goal = acknowledged + 5 + fastrand::u32(0..15);
        seen.wait_for(|count| *count >= goal).await.unwrap();
        server.kill();
        writer.await.unwrap();
        acknowledged = *seen.borrow();
        server.restart();
        let after = connect(&dsn).await;
        let sure = span(&key, 0, acknowledged * rows);
        let read = after.read_all(&ReadRequest::new(key.clone(), sure)).await.unwrap();
        assert_eq!(read, bars(&key, bar(&key, 0), read.num_rows()), "kill {kill}");
        assert_eq!(
            read.num_rows(),
            usize::try_from(acknowledged * rows).unwrap(),
            "kill {kill}: rows were lost"
        );
        assert!(after.coverage(&key, sure).await.unwrap().present().contains_range(sure));
    }
    let backend = connect(&dsn).await;
    for number in acknowledged.saturating_sub(2)..acknowledged + 5 {
        backend.write_rows(&WriteRequest::new(key.clone()), part(number)).await.unwrap();
    }
    let whole = span(&key, 0, (acknowledged + 5) * rows);
    assert_eq!(backend.coverage(&key, whole).await.unwrap().present(), &whole.into());
}

/// The recorder outlives its server: nothing that it took is lost, and it says while it waits.
#[tokio::test(flavor = "multi_thread")]
async fn kill_during_recording_loses_no_event() {
    let Some(mut server) = Own::start() else { return };
    let backend = connect(&server.dsn()).await;
    let config = RecorderConfig::default().with_sizes(200, 1_000).with_delay(Duration::from_millis(50));
    let recorder = QuestDbRecorder::with_config(&backend, config);
    let key = key("BTC", "1s");
    let schema = Arc::new(Schema::new(vec![Field::new("close", DataType::Float64, true)]));
    let payload = RecordBatch::try_new(schema, vec![Arc::new(Float64Array::from(vec![1.0]))]).unwrap();
    let mut taken = 0;
    for _ in 0..times("QMTL_TEST_KILLS", 2) {
        for _ in 0..1_500 {
            recorder.persist(&key.node_id, key.interval, bar(&key, taken), payload.clone()).await.unwrap();
            taken += 1;
        }
        server.kill();
        recorder.persist(&key.node_id, key.interval, bar(&key, taken), payload.clone()).await.unwrap();
        taken += 1;
        let error = recorder.flush().await.unwrap_err();
        assert!(error.is_retryable() && error.to_string().contains("kept"), "{error:?}");
        assert!(recorder.unwritten() >= 1 && recorder.unwritten() <= 1_000);
        server.restart();
        while recorder.flush().await.is_err() {}
    }
    assert_eq!(backend.coverage(&key, TimeRange::ALL).await.unwrap().present(), &span(&key, 0, taken).into());
}

/// A proxy cuts, stalls or resets after some bytes: every call ends in time, with the right rows
/// or with an error that may be tried again, and the repeated write completes.
#[tokio::test(flavor = "multi_thread")]
async fn broken_networks_give_errors_in_time_and_never_wrong_rows() {
    let Some(server) = Own::start() else { return };
    let (pg, http) = (Proxy::before(server.pg).await, Proxy::before(server.http).await);
    let direct = connect(&server.dsn()).await;
    let prefix = direct.config().to_string();
    let (_, prefix) = prefix.split_once("prefix=").unwrap();
    let dsn = format!(
        "questdb://admin:quest@127.0.0.1:{}/qdb?http={}&prefix={prefix}&timeout=2&connect_timeout=2",
        pg.port(),
        http.port()
    );
    let mut random = fastrand::Rng::with_seed(7);
    let (mut failed, runs) = (0, times("QMTL_TEST_CUTS", 12));
    for run in 0..runs {
        pg.heal();
        http.heal();
        let backend = connect(&dsn).await;
        let key = key(&format!("run-{run}"), "1s");
        let rows = bars(&key, bar(&key, 0), 12_000);
        let fault = *random.choice([Fault::Cut, Fault::Stall, Fault::Reset].iter()).unwrap();
        let bytes = random.i64(1..1_500_000) >> random.u32(0..10);
        if random.bool() { &pg } else { &http }.fail_after(bytes, fault);
        let request = WriteRequest::new(key.clone()).with_on_conflict(OnConflict::KeepExisting);
        let started = Instant::now();
        let written = backend.write_rows(&request, rows.clone()).await;
        let read = backend.read_all(&ReadRequest::new(key.clone(), TimeRange::ALL)).await;
        assert!(started.elapsed() < Duration::from_secs(60), "run {run} took {:?}", started.elapsed());
        for error in [written.as_ref().err(), read.as_ref().err()].into_iter().flatten() {
            assert!(error.is_retryable(), "run {run}, {fault:?} after {bytes} bytes: {error:?}");
        }
        if let (Ok(_), Ok(read)) = (&written, &read) {
            assert_eq!(read, &rows, "run {run}, {fault:?} after {bytes} bytes");
        } else {
            failed += 1;
        }
        let again = direct.write_rows(&request, rows.clone()).await.unwrap();
        assert_eq!(again.rows_written + again.rows_kept_out, 12_000);
        assert_eq!(direct.read_all(&ReadRequest::new(key, TimeRange::ALL)).await.unwrap(), rows);
    }
    assert!(failed > runs / 6, "the faults hit {failed} of {runs} runs only");
}

/// All connections of the server are taken: an error in seconds, no hang.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_a_free_connection_is_an_error_in_seconds() {
    let Some(server) = Own::start() else { return };
    let dsn = server.dsn();
    let mut taken = Vec::new();
    for _ in 0..64 {
        taken.push(client(&dsn).await);
    }
    let started = Instant::now();
    let config = QuestDbConfig::from_dsn(&format!("{dsn}&connect_timeout=2")).unwrap();
    let error = QuestDbBackend::connect(config).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(started.elapsed() < Duration::from_secs(15), "{error:?} came after {:?}", started.elapsed());
}

/// Sets how many files a process may have open.
#[cfg(target_os = "linux")]
fn limit_open_files(process: u32, limit: &str) {
    let mut prlimit = std::process::Command::new("prlimit");
    prlimit.args(["--pid", &process.to_string(), &format!("--nofile={limit}")]);
    assert!(prlimit.status().unwrap().success());
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_can_open_no_more_files_says_so_and_goes_on_with_more() {
    let Some(server) = Own::start() else { return };
    let backend = connect(&server.dsn()).await;
    let of = |number: u32| key(&format!("S{number}"), "1s");
    let write = async |number: u32| {
        let key = of(number);
        backend.write_rows(&WriteRequest::new(key.clone()), bars(&key, bar(&key, 0), 100)).await
    };
    write(0).await.unwrap();
    let status = |of: &str| std::path::PathBuf::from(format!("/proc/{}/{of}", server.id()));
    let limits = std::fs::read_to_string(status("limits")).unwrap();
    let limit = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let limit = limit.split_whitespace().next().unwrap();
    let open = std::fs::read_dir(status("fd")).unwrap().count();
    limit_open_files(server.id(), &format!("{}:", open + 60));
    let mut number = 1;
    let error = loop {
        match write(number).await {
            Ok(_) => number += 1,
            Err(error) => break error,
        }
        assert!(number < 100, "the server opens whatever it is asked to");
    };
    assert_eq!(error.kind(), ErrorKind::Storage, "{error:?}");
    limit_open_files(server.id(), &format!("{limit}:"));
    // It may lack them when it takes the rows, or when it applies what it has taken.
    if error.chain().contains("has suspended the table") {
        server.resume(&backend.table_of(&of(number).node_id)).await;
    } else {
        assert!(error.chain().contains("more open files (ulimit -n)"), "{error:?}");
    }
    write(number).await.unwrap();
    for number in 0..=number {
        let key = of(number);
        let present = backend.coverage(&key, TimeRange::ALL).await.unwrap().present().clone();
        assert_eq!(present, span(&key, 0, 100).into(), "{key}");
    }
}
