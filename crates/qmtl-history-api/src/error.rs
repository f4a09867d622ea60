//! The one public error of the system: a small kind to branch on, a message and context to read.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

/// The result of every fallible call of these crates.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a caller can act on. Everything else belongs into the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The caller passed something that can never work; nothing was read or written.
    InvalidInput,
    /// The named thing does not exist.
    NotFound,
    /// This implementation does not offer the operation.
    Unsupported,
    /// Rows contradict the canonical frame or the stored columns.
    Schema,
    /// Another writer won, or two rows claim one timestamp.
    Conflict,
    /// A fill was asked of a provider that has no fetcher.
    NoFetcher,
    /// `ensure_range` was asked of a provider that has neither a strategy nor a fetcher.
    NoStrategy,
    /// A store, source or coordinator cannot be reached or refuses for now.
    Unavailable,
    /// A store cannot take the bytes: full, read-only, suspended.
    Storage,
    /// Stored bytes are damaged or of a format that this version does not know.
    Corrupt,
    /// The work was cancelled or its deadline passed.
    Cancelled,
    /// A broken promise inside this system or a library: a defect to report.
    Unexpected,
}

impl ErrorKind {
    /// The kind's name in reports and JSON, `snake_case`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidInput => "invalid_input",
            Self::NotFound => "not_found",
            Self::Unsupported => "unsupported",
            Self::Schema => "schema",
            Self::Conflict => "conflict",
            Self::NoFetcher => "no_fetcher",
            Self::NoStrategy => "no_strategy",
            Self::Unavailable => "unavailable",
            Self::Storage => "storage",
            Self::Corrupt => "corrupt",
            Self::Cancelled => "cancelled",
            Self::Unexpected => "unexpected",
        }
    }
}

/// An error of any crate of this system.
///
/// `Display` prints the message and its context, never the cause; [`Error::chain`] and `Debug`
/// print the whole chain. Cloning is cheap, so that waiters of one flight can share a failure.
#[derive(Clone)]
pub struct Error(Box<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    message: String,
    context: Vec<(&'static str, String)>,
    retryable: bool,
    exhausted: bool,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

impl Error {
    /// A new error that is not retryable, except of kind [`ErrorKind::Unavailable`], which is.
    #[must_use]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            context: Vec::new(),
            retryable: kind == ErrorKind::Unavailable,
            exhausted: false,
            source: None,
        }))
    }

    /// Short for [`Error::new`] with [`ErrorKind::InvalidInput`].
    #[must_use]
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidInput, message)
    }

    /// Short for [`Error::new`] with [`ErrorKind::Schema`].
    #[must_use]
    pub fn schema(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Schema, message)
    }

    /// Short for [`Error::new`] with [`ErrorKind::Unavailable`].
    #[must_use]
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unavailable, message)
    }

    /// Short for [`Error::new`] with [`ErrorKind::Unexpected`].
    #[must_use]
    pub fn unexpected(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unexpected, message)
    }

    /// `Unsupported`: a call that needs a Tokio runtime was made where none runs; `who` works on its threads.
    #[must_use]
    pub fn outside_runtime(who: &str) -> Self {
        let message = format!(
            "{who} works on the threads of a Tokio runtime, and none runs here: call it inside of \
             `#[tokio::main]` or `Runtime::block_on`"
        );
        Self::new(ErrorKind::Unsupported, message)
    }

    /// Adds a name and a value that tell a reader which thing failed. Never pass a secret.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl fmt::Display) -> Self {
        self.0.context.push((name, value.to_string()));
        self
    }

    /// Records the cause.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(Arc::from(source.into()));
        self
    }

    /// Says whether the same call may succeed when it is made again.
    #[must_use]
    pub fn retryable(mut self, retryable: bool) -> Self {
        self.0.retryable = retryable;
        self
    }

    /// Marks that whoever owns the retries has used them up: no outer layer retries again.
    #[must_use]
    pub fn exhausted(mut self) -> Self {
        self.0.exhausted = true;
        self
    }

    /// What a caller branches on.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The message without its context.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The context pairs in the order in which they were added.
    #[must_use]
    pub fn context(&self) -> &[(&'static str, String)] {
        &self.0.context
    }

    /// True when the same call may succeed later and nobody has used the retries up.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.0.retryable && !self.0.exhausted
    }

    /// True when retries were made and did not help.
    #[must_use]
    pub fn is_exhausted(&self) -> bool {
        self.0.exhausted
    }

    /// The error and all its causes on one line, for logs and reports.
    #[must_use]
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        for (index, (name, value)) in self.0.context.iter().enumerate() {
            let lead = if index == 0 { " (" } else { ", " };
            // A value may be foreign text, which must not look like a line of ours.
            let value = value.replace('\n', "\\n").replace('\r', "\\r");
            write!(f, "{lead}{name}: {value}")?;
        }
        if self.0.context.is_empty() { Ok(()) } else { f.write_str(")") }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {self}", self.0.kind.as_str())?;
        let mut cause = self.source();
        while let Some(error) = cause {
            write!(f, "\n  caused by: {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_stays_in_its_line() {
        let error = Error::invalid("no such column").with("columns", "a, b\nerror: forged\r").with("row", 1);
        assert_eq!(error.to_string(), "no such column (columns: a, b\\nerror: forged\\r, row: 1)");
    }

    #[test]
    fn display_has_context_but_not_the_cause() {
        let error = Error::unavailable("read history")
            .with("series", "BTC@1m")
            .with("host", "db")
            .caused_by(std::io::Error::other("connection reset"));
        assert_eq!(error.to_string(), "read history (series: BTC@1m, host: db)");
        assert_eq!(error.chain(), "read history (series: BTC@1m, host: db): connection reset");
        assert_eq!(
            format!("{error:?}"),
            "unavailable: read history (series: BTC@1m, host: db)\n  caused by: connection reset"
        );
    }

    #[test]
    fn only_unavailable_is_retryable_by_itself_and_exhausted_ends_it() {
        assert!(Error::unavailable("x").is_retryable());
        assert!(!Error::invalid("x").is_retryable());
        let spent = Error::unavailable("x").exhausted();
        assert!(!spent.is_retryable() && spent.is_exhausted());
    }

    #[test]
    fn the_cause_can_be_downcast() {
        let error = Error::unexpected("x").caused_by(std::io::Error::other("disk"));
        assert!(error.source().is_some_and(|s| s.is::<std::io::Error>()));
    }
}
