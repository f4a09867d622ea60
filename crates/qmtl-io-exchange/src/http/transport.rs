//! What carries requests when it is not the network.

use std::fmt::Debug;
use std::io;
use std::sync::Arc;

use qmtl_history_api::async_trait;
use reqwest::StatusCode;
use reqwest::header::HeaderMap;

/// Carries the GET requests of a fetcher instead of the network: through a client that an application
/// has anyway, or to an exchange inside of a test. Limits, retries and time stay the fetcher's.
#[async_trait]
pub trait Transport: Debug + Send + Sync + 'static {
    /// Asks for `url`. An error means that no whole answer came, and is taken for a lost connection.
    async fn get(&self, url: &str) -> io::Result<TransportAnswer>;
}

#[async_trait]
impl<T: Transport + ?Sized> Transport for Arc<T> {
    async fn get(&self, url: &str) -> io::Result<TransportAnswer> {
        (**self).get(url).await
    }
}

/// An answer to one request.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TransportAnswer {
    /// The status.
    pub status: StatusCode,
    /// The headers; `Date`, `Retry-After` and those of limits are read.
    pub headers: HeaderMap,
    /// The body, decompressed.
    pub body: Vec<u8>,
}

impl TransportAnswer {
    /// An answer of JSON or whatever the API sends, with no headers.
    #[must_use]
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self { status, headers: HeaderMap::new(), body: body.into() }
    }

    /// Adds a header; one whose name or value no header can have is left out.
    #[must_use]
    pub fn with_header(mut self, name: &'static str, value: &str) -> Self {
        if let Ok(value) = value.parse() {
            self.headers.insert(name, value);
        }
        self
    }
}
