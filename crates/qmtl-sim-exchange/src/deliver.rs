//! How an answer goes out: whole, or with a body that is cut, endless, slow or a bomb.

use std::convert::Infallible;
use std::io::{self, Write as _};
use std::time::Duration;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::stream::{self, Stream, StreamExt};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::Response;
use hyper::body::Frame;
use hyper::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};

use crate::answer::Answer;
use crate::fault::Fault;

pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;

const CHUNK: usize = 64 * 1024;
const PLAUSIBLE_ROW: &str = r#"[1515560100000,"1","1","1","1","1",1515560159999,"1",1,"1","1","0"],"#;

/// The response that carries `answer`; an endless body or a bomb ends at `cap` bytes.
pub(crate) fn deliver(answer: Answer, fault: Option<&Fault>, cap: u64) -> Response<Body> {
    let full = if fault == Some(&Fault::GarbageJson) { garbage(&answer.body) } else { answer.body };
    let length = HeaderValue::from(full.len());
    let (body, extra) = match fault {
        Some(Fault::Truncated) => (streamed(truncated(full)), Some((CONTENT_LENGTH, length))),
        Some(Fault::Slow) => (streamed(slow(full)), Some((CONTENT_LENGTH, length))),
        Some(Fault::Endless) => (streamed(endless(cap)), None),
        Some(Fault::Bomb) => {
            (streamed(bomb(cap)), Some((CONTENT_ENCODING, HeaderValue::from_static("gzip"))))
        }
        _ => (Full::new(full).map_err(|never: Infallible| match never {}).boxed_unsync(), None),
    };
    let mut response = Response::new(body);
    *response.status_mut() = answer.status;
    if !answer.content_type.is_empty() {
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(answer.content_type));
    }
    response.headers_mut().extend(answer.headers);
    response.headers_mut().extend(extra);
    response
}

fn streamed(chunks: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Body {
    StreamBody::new(chunks.map(|chunk| chunk.map(Frame::data))).boxed_unsync()
}

/// Breaks the connection after what has been sent. The server writes what it has when the body makes it
/// wait, and drops it on an error; a client that does not keep up still loses the last chunks.
fn broken() -> impl Stream<Item = io::Result<Bytes>> {
    stream::once(async {
        tokio::task::yield_now().await;
        Err(io::Error::from(io::ErrorKind::ConnectionAborted))
    })
}

/// The same length, but the second half is bytes that JSON never has.
fn garbage(full: &Bytes) -> Bytes {
    full.iter().enumerate().map(|(at, byte)| if at < full.len() / 2 { *byte } else { byte & 0x1f }).collect()
}

fn truncated(mut full: Bytes) -> impl Stream<Item = io::Result<Bytes>> {
    full.truncate(full.len() / 2);
    stream::iter([Ok(full)]).chain(broken())
}

fn slow(full: Bytes) -> impl Stream<Item = io::Result<Bytes>> {
    let bytes = (0..full.len()).map(move |at| full.slice(at..=at));
    stream::iter(bytes).then(|byte| async {
        pause(Duration::from_secs(1)).await;
        Ok(byte)
    })
}

fn endless(cap: u64) -> impl Stream<Item = io::Result<Bytes>> {
    let rows = Bytes::from(PLAUSIBLE_ROW.repeat(CHUNK / PLAUSIBLE_ROW.len()));
    let count = usize::try_from(cap).unwrap_or(usize::MAX) / rows.len();
    let start = stream::iter([Ok(Bytes::from_static(b"["))]);
    start.chain(stream::iter((0..count).map(move |_| Ok(rows.clone())))).chain(broken())
}

/// Gzip of spaces, packed while it is sent, so that the server holds a chunk of it at most.
fn bomb(cap: u64) -> impl Stream<Item = io::Result<Bytes>> {
    const STEP: usize = 1024 * 1024;
    let steps = usize::try_from(cap).unwrap_or(usize::MAX) / STEP;
    let spaces = vec![b' '; STEP];
    let mut gzip = Some(GzEncoder::new(Vec::new(), Compression::default()));
    stream::iter(0..=steps).filter_map(move |step| {
        let packed = if step < steps {
            gzip.as_mut().map(|gzip| gzip.write_all(&spaces).map(|()| std::mem::take(gzip.get_mut())))
        } else {
            gzip.take().map(GzEncoder::finish)
        };
        let packed = packed.filter(|result| !matches!(result, Ok(bytes) if bytes.is_empty()));
        std::future::ready(packed.map(|result| result.map(Bytes::from)))
    })
}

/// Waits by tokio's clock, which a test may pause.
#[expect(clippy::disallowed_methods, reason = "a server of its own: nothing of ours can inject its clock")]
pub(crate) async fn pause(time: Duration) {
    tokio::time::sleep(time).await;
}
