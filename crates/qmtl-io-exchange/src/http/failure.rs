//! Why a request failed, and whether to make it again.

use std::time::Duration;

use qmtl_history_api::{Error, Timestamp};

/// Why a request is made again, in a bounded number of words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// 429.
    RateLimited,
    /// 418: the address is banned for a while.
    Banned,
    /// 403: a firewall stands before the source.
    Forbidden,
    /// 5xx, or an error of the source's own that it says will pass.
    ServerError,
    /// No answer in time, or not all of it.
    Timeout,
    /// No connection, or one that was reset before an answer.
    Connection,
    /// The answer broke off.
    Truncated,
    /// The answer is larger than any right one.
    TooLarge,
    /// 3xx: something else than the source answers.
    Redirected,
    /// A whole answer that cannot be what was asked for.
    BadAnswer,
}

impl Reason {
    /// The word for reports: `rate_limited`, `banned`, `forbidden`, `server_error`, `timeout`, `connection`,
    /// `truncated`, `too_large`, `redirected` or `bad_answer`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RateLimited => "rate_limited",
            Self::Banned => "banned",
            Self::Forbidden => "forbidden",
            Self::ServerError => "server_error",
            Self::Timeout => "timeout",
            Self::Connection => "connection",
            Self::Truncated => "truncated",
            Self::TooLarge => "too_large",
            Self::Redirected => "redirected",
            Self::BadAnswer => "bad_answer",
        }
    }
}

/// A request that failed, and whether to make it again.
#[derive(Debug)]
#[non_exhaustive]
pub struct Failure {
    /// What is told when no repetition helps.
    pub error: Error,
    /// Why to try again; `None` when that would be vain.
    pub reason: Option<Reason>,
    /// The shortest pause before the next try that the source asks for.
    pub pause: Duration,
    /// What time it was at the server when it refused.
    pub(crate) date: Option<Timestamp>,
    /// Whether it is said of this machine, whatever it asks for.
    pub(crate) is_of_all: bool,
}

impl Failure {
    /// A failure that may pass.
    #[must_use]
    pub fn passing(reason: Reason, error: Error) -> Self {
        Self { error, reason: Some(reason), pause: Duration::ZERO, date: None, is_of_all: false }
    }

    /// A failure that stays: the request is not made again.
    #[must_use]
    pub fn lasting(error: Error) -> Self {
        Self { error, reason: None, pause: Duration::ZERO, date: None, is_of_all: false }
    }

    /// Says how long to wait at least before the next try.
    #[must_use]
    pub fn with_pause(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }
}
