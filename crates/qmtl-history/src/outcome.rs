//! How a command ends: its exit code, or a failure that says what to do about it.

use std::error::Error as _;
use std::io;
use std::process::ExitCode;

use qmtl_history_api::{Error, ErrorKind};
use serde::Serialize;

/// The end of a command that ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Everything asked for is done.
    Done,
    /// Failed with nothing new stored, or a check found something.
    Failed,
    /// Refused before anything was read or written.
    Usage,
    /// Some windows failed, or bars remain missing.
    Partial,
    /// The store cannot be reached.
    Unreachable,
    /// Stopped by a signal.
    Interrupted,
}

impl Outcome {
    /// The process's exit code.
    #[must_use]
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Partial => 3,
            Self::Unreachable => 4,
            Self::Interrupted => 130,
        }
    }
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        outcome.code().into()
    }
}

/// Why a command did not run to its end.
#[derive(Clone, Debug)]
pub(crate) enum Failure {
    /// Something failed.
    Error {
        /// What.
        error: Error,
        /// What to do about it, when there is something.
        hint: Option<String>,
        /// The exit code.
        outcome: Outcome,
    },
    /// Whoever read the output has gone: nothing is left to say.
    ClosedPipe,
}

/// The result of a command and its parts.
pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

impl Failure {
    /// Adds what to do about it.
    #[must_use]
    pub(crate) fn hint(self, text: impl Into<String>) -> Self {
        match self {
            Self::Error { error, outcome, .. } => Self::Error { error, hint: Some(text.into()), outcome },
            Self::ClosedPipe => self,
        }
    }

    /// The store cannot be reached.
    #[must_use]
    pub(crate) fn unreachable(error: Error) -> Self {
        Self::Error { error, hint: None, outcome: Outcome::Unreachable }
    }

    /// A failed write of output; a reader that has gone is no failure.
    #[must_use]
    pub(crate) fn output(what: &'static str, error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::ClosedPipe;
        }
        Error::new(ErrorKind::Storage, "cannot write").with("to", what).caused_by(error).into()
    }

    /// How the process ends.
    #[must_use]
    pub(crate) fn outcome(&self) -> Outcome {
        match self {
            Self::Error { outcome, .. } => *outcome,
            Self::ClosedPipe => Outcome::Done,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let outcome = match error.kind() {
            ErrorKind::InvalidInput | ErrorKind::Unsupported => Outcome::Usage,
            ErrorKind::Unavailable => Outcome::Unreachable,
            ErrorKind::Cancelled => Outcome::Interrupted,
            _ => Outcome::Failed,
        };
        Self::Error { error, hint: None, outcome }
    }
}

/// An error as `--json` prints it: `{"error": {…}}`.
#[derive(Debug, Serialize)]
pub(crate) struct ErrorReport {
    error: ErrorBody,
}

#[derive(Debug, Serialize)]
struct ErrorBody {
    kind: &'static str,
    message: String,
    causes: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
    exit_code: u8,
}

impl ErrorReport {
    /// The report of a failure.
    pub(crate) fn new(error: &Error, hint: Option<&str>, outcome: Outcome) -> Self {
        let mut causes = Vec::new();
        let mut cause = error.source();
        while let Some(error) = cause {
            causes.push(error.to_string());
            cause = error.source();
        }
        Self {
            error: ErrorBody {
                kind: error.kind().as_str(),
                message: error.to_string(),
                causes,
                hint: hint.map(str::to_owned),
                exit_code: outcome.code(),
            },
        }
    }

    /// The report for people: the message, its causes, the remedy.
    pub(crate) fn lines(&self) -> Vec<(&'static str, &str)> {
        let mut lines = vec![("error", self.error.message.as_str())];
        lines.extend(self.error.causes.iter().map(|cause| ("  caused by", cause.as_str())));
        lines.extend(self.error.hint.iter().map(|hint| ("  hint", hint.as_str())));
        lines
    }
}
