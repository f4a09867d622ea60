//! The protocol that a strategy's inputs use: serve history, and fill what is missing.

use std::fmt;
use std::sync::Arc;

use arrow_schema::SchemaRef;
use async_trait::async_trait;

use crate::{
    BackfillReport, BackfillRequest, BatchStream, Coverage, Error, ErrorKind, ReadRequest, Result, SeriesKey,
    StreamBinding,
};

/// Which optional calls a provider answers itself, rather than by the trait's default.
///
/// Warm-up reads it: `ensure_range` where native, else the loop over `coverage` and `fill_missing`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProviderCapabilities {
    /// `coverage` is answered.
    pub coverage: bool,
    /// `fill_missing` is answered.
    pub fill_missing: bool,
    /// `ensure_range` does more than call `fill_missing`.
    pub ensure_range: bool,
}

impl ProviderCapabilities {
    /// A provider that answers `fetch` alone.
    #[must_use]
    pub fn fetch_only() -> Self {
        Self::default()
    }

    /// A provider that answers everything.
    #[must_use]
    pub fn all() -> Self {
        Self { coverage: true, fill_missing: true, ensure_range: true }
    }

    /// Says whether `coverage` is answered.
    #[must_use]
    pub fn with_coverage(mut self, native: bool) -> Self {
        self.coverage = native;
        self
    }

    /// Says whether `fill_missing` is answered.
    #[must_use]
    pub fn with_fill_missing(mut self, native: bool) -> Self {
        self.fill_missing = native;
        self
    }

    /// Says whether `ensure_range` does more than call `fill_missing`.
    #[must_use]
    pub fn with_ensure_range(mut self, native: bool) -> Self {
        self.ensure_range = native;
        self
    }
}

/// Serves the history of a node.
///
/// Only `fetch` is required. The defaults of the others are part of the protocol, so that a
/// provider written before auto backfill existed keeps working; wrappers must forward them all
/// (`#[deny(clippy::missing_trait_methods)]` on the impl sees to it).
#[async_trait]
pub trait HistoryProvider: fmt::Debug + Send + Sync + 'static {
    /// Streams the stored rows of `[start, end)`, canonical and ascending. It never fills.
    async fn fetch(&self, request: &ReadRequest) -> Result<BatchStream>;

    /// What is stored and known of the whole series; `Unsupported` by default.
    async fn coverage(&self, key: &SeriesKey) -> Result<Coverage> {
        Err(Error::new(ErrorKind::Unsupported, "this provider does not report coverage").with("series", key))
    }

    /// The columns of a series, `ts` first; `None` where nothing is stored, or the provider does not know them, as by
    /// default.
    async fn schema(&self, key: &SeriesKey) -> Result<Option<SchemaRef>> {
        let _ = key;
        Ok(None)
    }

    /// Inserts real rows for what is missing of the request's range; `Unsupported` by default,
    /// `NoFetcher` where no fetcher is configured. A part that fails stands in the report.
    async fn fill_missing(&self, request: &BackfillRequest) -> Result<BackfillReport> {
        Err(Error::new(ErrorKind::Unsupported, "this provider cannot fill missing rows")
            .with("series", &request.key))
    }

    /// Sees to it that the range is complete; calls [`HistoryProvider::fill_missing`] by default.
    /// `NoStrategy` where neither a strategy nor a fetcher is configured.
    async fn ensure_range(&self, request: &BackfillRequest) -> Result<BackfillReport> {
        self.fill_missing(request).await
    }

    /// Tells the provider which stream it serves, from which it may infer a table. Does nothing by default.
    fn bind_stream(&self, binding: &StreamBinding) -> Result<()> {
        let _ = binding;
        Ok(())
    }

    /// Which of the optional calls are native; `fetch` alone by default.
    fn capabilities(&self) -> ProviderCapabilities {
        ProviderCapabilities::fetch_only()
    }
}

macro_rules! forward_provider {
    ($($pointer:ty),*) => {$(
        #[async_trait]
        #[deny(clippy::missing_trait_methods)]
        impl<T: HistoryProvider + ?Sized> HistoryProvider for $pointer {
            async fn fetch(&self, request: &ReadRequest) -> Result<BatchStream> {
                (**self).fetch(request).await
            }

            async fn coverage(&self, key: &SeriesKey) -> Result<Coverage> {
                (**self).coverage(key).await
            }

            async fn schema(&self, key: &SeriesKey) -> Result<Option<SchemaRef>> {
                (**self).schema(key).await
            }

            async fn fill_missing(&self, request: &BackfillRequest) -> Result<BackfillReport> {
                (**self).fill_missing(request).await
            }

            async fn ensure_range(&self, request: &BackfillRequest) -> Result<BackfillReport> {
                (**self).ensure_range(request).await
            }

            fn bind_stream(&self, binding: &StreamBinding) -> Result<()> {
                (**self).bind_stream(binding)
            }

            fn capabilities(&self) -> ProviderCapabilities {
                (**self).capabilities()
            }
        }
    )*};
}

forward_provider!(Arc<T>, Box<T>);

/// A provider made of a closure that streams rows; it answers `fetch` alone.
///
/// ```
/// use qmtl_history_api::{BatchStream, ReadRequest, frame, provider_fn};
///
/// let provider = provider_fn(|request: ReadRequest| async move {
///     // Read request.range of request.key from anywhere.
///     Ok(BatchStream::empty(frame::ts_only_schema()))
/// });
/// # let _: Box<dyn qmtl_history_api::HistoryProvider> = Box::new(provider);
/// ```
pub fn provider_fn<F, Fut>(fetch: F) -> ProviderFn<F>
where
    F: Fn(ReadRequest) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<BatchStream>> + Send + 'static,
{
    ProviderFn(fetch)
}

/// See [`provider_fn`].
pub struct ProviderFn<F>(F);

impl<F> fmt::Debug for ProviderFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProviderFn")
    }
}

#[async_trait]
impl<F, Fut> HistoryProvider for ProviderFn<F>
where
    F: Fn(ReadRequest) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<BatchStream>> + Send + 'static,
{
    async fn fetch(&self, request: &ReadRequest) -> Result<BatchStream> {
        (self.0)(request.clone()).await
    }
}
