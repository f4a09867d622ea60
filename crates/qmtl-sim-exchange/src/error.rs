//! What can go wrong before the server runs.

use std::fmt;
use std::io;

/// Why a market, a fault or a server could not be made.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The caller's input does not make sense; the text names it and says what would.
    Input(String),
    /// The operating system refused: what was being done, and its answer.
    Io(String, io::Error),
}

impl Error {
    pub(crate) fn input(text: impl Into<String>) -> Self {
        Self::Input(text.into())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Input(text) => f.write_str(text),
            Self::Io(doing, source) => write!(f, "{doing}: {source}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Input(_) => None,
            Self::Io(_, source) => Some(source),
        }
    }
}

/// Shorthand for this crate's results.
pub type Result<T> = std::result::Result<T, Error>;
