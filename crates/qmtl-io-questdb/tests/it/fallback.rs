//! Servers that export nothing for now, or that do not know the barrier: the other way is taken.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::future::join_all;
use qmtl_history_api::{ErrorKind, HistoryBackend, HistoryBackendExt, ReadRequest, TimeRange, WriteRequest};
use qmtl_history_testkit::fixtures::{bar, bars, key, span};
use qmtl_history_testkit::proxy::Proxy;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::server::{client, connect, fresh_dsn};

/// An HTTP server that has one answer for every request; its port, and how often it gave it.
async fn answering(status: &'static str, body: &'static [u8]) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let (port, asked) = (listener.local_addr().unwrap().port(), Arc::<AtomicUsize>::default());
    let count = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4_096];
            if stream.read(&mut request).await.is_ok_and(|bytes| bytes > 0) {
                let head = format!(
                    "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                    body.len()
                );
                let _ = stream.write_all(&[head.as_bytes(), body].concat()).await;
                count.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    (port, asked)
}

/// The same store with HTTP at another port.
fn with_http(dsn: &str, port: u16) -> String {
    let (address, parameters) = dsn.split_once("?http=").unwrap();
    let (_, rest) = parameters.split_once('&').unwrap();
    format!("{address}?http={port}&{rest}")
}

#[tokio::test]
async fn an_export_too_many_or_cut_short_is_read_over_the_wire() {
    let Some(dsn) = fresh_dsn() else { return };
    let key = key("BTC", "1m");
    let rows = bars(&key, bar(&key, 0), 30_000);
    connect(&dsn).await.write_rows(&WriteRequest::new(key.clone()), rows.clone()).await.unwrap();
    // An error in the midst of an export ends it early, and the status has been sent by then.
    for (status, body) in [("429 Too Many Requests", &b""[..]), ("200 OK", b"PAR1 and some rows")] {
        let (port, asked) = answering(status, body).await;
        let backend = connect(&with_http(&dsn, port)).await;
        let read = backend.read_all(&ReadRequest::new(key.clone(), TimeRange::ALL)).await.unwrap();
        assert_eq!((read, asked.load(Ordering::SeqCst)), (rows.clone(), 1), "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_readers_than_the_server_exports_to_all_get_their_rows() {
    let Some(dsn) = fresh_dsn() else { return };
    let backend = connect(&dsn).await;
    let key = key("BTC", "1s");
    let rows = bars(&key, bar(&key, 0), 300_000);
    backend.write_rows(&WriteRequest::new(key.clone()), rows.clone()).await.unwrap();
    let request = ReadRequest::new(key, TimeRange::ALL);
    for read in join_all((0..8).map(|_| backend.read_all(&request))).await {
        assert_eq!(read.unwrap(), rows);
    }
}

/// The proxy misspells the barrier's name, so that the server does not know it.
#[tokio::test]
async fn without_the_barrier_the_log_is_watched() {
    let Some(dsn) = fresh_dsn() else { return };
    let (_, place) = dsn.split_once('@').unwrap();
    let (_, port) = place.split_once('/').unwrap().0.split_once(':').unwrap();
    let proxy = Proxy::rewriting(port.parse().unwrap(), b"wait_wal_table", b"wait_wal_tabel").await;
    let backend = connect(&dsn.replace(&format!(":{port}/"), &format!(":{}/", proxy.port()))).await;
    let key = key("BTC", "1s");
    let request = WriteRequest::new(key.clone());
    for part in 0..10 {
        let first = bar(&key, part * 1_000);
        backend.write_rows(&request, bars(&key, first, 1_000)).await.unwrap();
        let present = backend.coverage(&key, TimeRange::ALL).await.unwrap();
        assert_eq!(present.present(), &span(&key, 0, (part + 1) * 1_000).into());
    }
    let (client, table) = (client(&dsn).await, backend.table_of(&key.node_id));
    client.batch_execute(&format!("ALTER TABLE \"{table}\" SUSPEND WAL")).await.unwrap();
    let error = backend.write_rows(&request, bars(&key, bar(&key, 10_000), 1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Storage, "{error:?}");
    assert!(error.to_string().contains(&format!("ALTER TABLE \"{table}\" RESUME WAL")), "{error}");
    assert!(proxy.rewritten() > 10);
}
