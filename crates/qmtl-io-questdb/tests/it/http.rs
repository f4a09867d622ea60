//! What QuestDB does over HTTP that a client must know, and what we make of it.

use std::sync::Arc;

use hyper::Method;
use qmtl_history_api::arrow_array::{ArrayRef, StringArray};
use qmtl_history_api::{ErrorKind, HistoryBackend, TimeRange, WriteRequest};
use qmtl_history_testkit::fixtures::{bar, bars, batch, key, span};

use crate::server::{client, connect, fresh_dsn, http, number};

/// A request is stored whole or not at all, and makes tables and columns by itself: so what the
/// columns are is settled before rows are sent.
#[tokio::test]
async fn a_request_of_the_line_protocol_is_whole_and_asks_nobody() {
    let Some(dsn) = fresh_dsn() else { return };
    let client = client(&dsn).await;
    let table = format!("{}lines", dsn.split_once("prefix=").unwrap().1);
    let lines = |text: &str| -> &'static str { text.replace('T', &table).leak() };
    let write = async |text| http(&dsn, Method::POST, "/write?precision=u", lines(text)).await;
    let count = format!("select count() from \"{table}\"");
    let settle = format!("select wait_wal_table('{table}')");

    let (status, answer) = write("T a=1i 1000000\nT a=2i 2000000\nT a=\"x 3000000\n").await;
    assert!(status == 400 && answer.contains("line 3"), "{status}: {answer}");
    assert_eq!(number(&client, &count).await, 0, "the table was made, and has none of the rows");

    assert_eq!(write("T a=1i 1700000000\nT a=2i,b=3 2000000\nT a=5i\n").await.0, 204);
    client.query_one(&settle, &[]).await.unwrap();
    assert_eq!(number(&client, &count).await, 3);
    let of_1970 = format!("{count} where timestamp in '1970'");
    assert_eq!(number(&client, &of_1970).await, 2, "seconds are taken for microseconds");
    let now = format!("{count} where timestamp > dateadd('h', -1, now())");
    assert_eq!(number(&client, &now).await, 1, "a line without a time has the server's");
    assert_eq!(number(&client, &format!("{count} where b = 3")).await, 1, "nobody had a column b");
    assert_eq!(write("T a=1i,b=\"x\" 4000000\nT a=1i 5000000\n").await.0, 400, "b is a number now");

    let (backend, key) = (connect(&dsn).await, key("BTC", "1m"));
    backend.write_rows(&WriteRequest::new(key.clone()), bars(&key, bar(&key, 0), 10)).await.unwrap();
    let text: ArrayRef = Arc::new(StringArray::from(vec!["x"]));
    let name = bars(&key, bar(&key, 0), 1).schema().field(1).name().clone();
    let other = batch(&[bar(&key, 10)], [(name.as_str(), text)]);
    let error = backend.write_rows(&WriteRequest::new(key.clone()), other).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Schema, "before anything is sent: {error:?}");
    assert_eq!(backend.coverage(&key, TimeRange::ALL).await.unwrap().present(), &span(&key, 0, 10).into());
}

/// So docs/questdb.md asks for a user of HTTP and a private network.
#[tokio::test]
async fn without_a_login_http_runs_every_statement() {
    let Some(dsn) = fresh_dsn() else { return };
    let client = client(&dsn).await;
    let table = format!("{}made", dsn.split_once("prefix=").unwrap().1);
    assert_eq!(http(&dsn, Method::GET, "/ping", "").await.0, 204);
    let query = format!("/exec?query=create%20table%20{table}%20(a%20int)");
    let (status, answer) = http(&dsn, Method::GET, &query, "").await;
    assert!(status == 200 && answer.contains("OK"), "{status}: {answer}");
    assert_eq!(number(&client, &format!("select count() from {table}")).await, 0);
}
