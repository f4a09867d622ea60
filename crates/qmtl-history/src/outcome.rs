//! How a command ends: its exit code, or a failure that says what to do about it.

use std::error::Error as _;
use std::io;
use std::process::ExitCode;

use qmtl_history_api::{Error, ErrorKind};
use serde::Serialize;

use crate::text;

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

    /// The same where a source was waited for, and not the store, which has an exit code of its own.
    #[must_use]
    pub(crate) fn of_source(self) -> Self {
        match self {
            Self::Error { error, hint, outcome: Outcome::Unreachable } => {
                Self::Error { error, hint, outcome: Outcome::Failed }
            }
            other => other,
        }
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

/// The error of what a build without `feature` lacks; it says how to build it in.
pub(crate) fn not_built(what: &str, feature: &str) -> Error {
    let remedy = format!("cargo install --profile dist --path crates/qmtl-history --features {feature}");
    Error::new(ErrorKind::Unsupported, format!("this build has no {what}; build it in: {remedy}"))
}

/// The result of printing what a command did, when its exit code says more than that it was read.
pub(crate) fn read_or_not(printed: Result<()>) -> Result<()> {
    match printed {
        Err(Failure::ClosedPipe) => Ok(()),
        printed => printed,
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

/// Options of the library as its errors name them, and the flags that set them here.
const FLAGS: [(&str, &str); 24] = [
    ("with_column_type", "--column-type"),
    ("with_columns", "--columns"),
    ("with_column", "--column"),
    ("with_delimiter", "--delimiter"),
    ("with_decimal", "--decimal"),
    ("with_header", "--no-header"),
    ("with_skipped_lines", "--skip-lines"),
    ("with_time_format", "--time-format"),
    ("with_zone", "--zone"),
    ("with_stamp", "--stamp"),
    ("with_off_grid", "--off-grid"),
    ("with_nan", "--nan"),
    ("with_max_unpacked_bytes", "--max-unpacked"),
    ("with_interval", "--sparse"),
    ("with_format", "--source-format"),
    ("with_ts_column", "--ts-column"),
    ("with_ts_unit", "--ts-unit"),
    ("with_symbol_column", "--symbol-column"),
    ("with_symbol", "--symbol"),
    ("with_product", "--product"),
    (
        "a compute node reads a column that its input lacks",
        "the bars have no such column; choose another with --column",
    ),
    ("with_retry_for", "--retry-for"),
    ("with `repair`", "`qmtl-history repair`"),
    (
        "neither a backfill strategy nor a fetcher is configured; give the provider one with with_auto_backfill or \
         with_fetcher",
        "there is nothing to fill it from; name a source with --source",
    ),
];

/// A text of the library in the words of the command line, without secrets.
pub(crate) fn in_own_words(text: &str) -> String {
    let text = FLAGS.iter().fold(text.to_owned(), |text, (option, flag)| text.replace(option, flag));
    text::without_secrets(&text)
}

/// The most bytes of a text that are told. What a server says may have any length.
const LONGEST: usize = 8 << 10;

/// A text of the library as it is told here: in the words of the command line, without secrets, at no absurd length.
fn told(text: &str) -> String {
    bounded(in_own_words(text))
}

/// A text without its middle where it is longer than anybody reads.
pub(crate) fn bounded(text: String) -> String {
    if text.len() <= LONGEST {
        return text;
    }
    let (start, end) =
        (text.floor_char_boundary(LONGEST / 2), text.ceil_char_boundary(text.len() - LONGEST / 2));
    format!("{} … {} bytes left out … {}", &text[..start], end - start, &text[end..])
}

/// An error and all its causes on one line, in the words of the command line.
pub(crate) fn chain(error: &Error) -> String {
    text::for_terminal(&told(&error.chain()))
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
            causes.push(told(&error.to_string()));
            cause = error.source();
        }
        Self {
            error: ErrorBody {
                kind: error.kind().as_str(),
                message: told(&error.to_string()),
                causes,
                hint: hint.map(text::without_secrets),
                exit_code: outcome.code(),
            },
        }
    }

    /// What failed, without causes.
    pub(crate) fn message(&self) -> &str {
        &self.error.message
    }

    /// What to do about it, where that is known.
    pub(crate) fn hint(&self) -> Option<&str> {
        self.error.hint.as_deref()
    }

    /// The report for people: the message, its causes, the remedy.
    pub(crate) fn lines(&self) -> Vec<(&'static str, &str)> {
        let mut lines = vec![("error", self.error.message.as_str())];
        lines.extend(self.error.causes.iter().map(|cause| ("  caused by", cause.as_str())));
        lines.extend(self.error.hint.iter().map(|hint| ("  hint", hint.as_str())));
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_the_library_are_named_as_flags() {
        let cause = Error::invalid("say which column tells them apart (with_symbol_column)");
        let error = Error::invalid("give it a unit (with_ts_unit)").caused_by(cause);
        assert_eq!(
            chain(&error),
            "give it a unit (--ts-unit): say which column tells them apart (--symbol-column)"
        );
    }

    #[test]
    fn a_text_of_any_length_is_told_at_a_bounded_one() {
        let long = told(&format!("a{}b", "ü".repeat(1 << 20)));
        assert!(
            long.len() < LONGEST + 100 && long.starts_with("aü") && long.ends_with("üb"),
            "{}",
            long.len()
        );
        assert!(long.contains(" bytes left out "));
        assert_eq!(told("short"), "short");
    }

    #[test]
    fn exit_codes_follow_the_kind_of_error() {
        let code = |kind| Failure::from(Error::new(kind, "x")).outcome().code();
        let kinds =
            [ErrorKind::InvalidInput, ErrorKind::Unavailable, ErrorKind::Corrupt, ErrorKind::NotFound];
        assert_eq!(kinds.map(code), [2, 4, 1, 1]);
        assert_eq!(Failure::output("x", io::ErrorKind::BrokenPipe.into()).outcome().code(), 0);
        assert_eq!(Failure::output("x", io::ErrorKind::StorageFull.into()).outcome().code(), 1);
    }
}
