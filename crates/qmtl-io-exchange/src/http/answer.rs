//! An answer as a reader of it gets it.

use qmtl_history_api::{Error, ErrorKind, Result, Timestamp};
use reqwest::StatusCode;
use serde::Deserialize;

use super::{Failure, Reason};

/// An answer, read to its end.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The server's time, which its `Date` header says in whole seconds.
    pub date: Option<Timestamp>,
    /// The body, decompressed.
    pub body: Vec<u8>,
}

impl Answer {
    /// An answer with this status and body, for tests of what reads it.
    #[must_use]
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, date: None, body: body.into() }
    }

    /// Says what time it was at the server.
    #[must_use]
    pub fn with_date(mut self, date: Option<Timestamp>) -> Self {
        self.date = date;
        self
    }

    /// Whether it is one of success, whole or not.
    #[must_use]
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// Whether it is all that the server has to say: a page of part of the rows (206), or from somebody
    /// between it and us, brings rows and proves nothing.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.status == StatusCode::OK.as_u16()
    }

    /// What the JSON of the body holds. An object of the type `R`, which the API sends where it refuses, also with
    /// a status of success, is the failure that `refusal` makes of it; `api` names whose answers these are, for
    /// people.
    ///
    /// Any other answer that is not one of success is a lasting failure: whoever answers is not this API. One of
    /// success that does not hold a `T` is a passing one.
    pub fn json<'a, T: Deserialize<'a>, R: Deserialize<'a>>(
        &'a self,
        api: &str,
        refusal: impl FnOnce(R) -> Failure,
    ) -> Result<T, Failure> {
        if let Ok(told) = serde_json::from_slice(&self.body) {
            return Err(refusal(told));
        }
        if !self.is_success() {
            let message = format!("the address answers, but not as {api}'s API does");
            let error = Error::new(ErrorKind::Unavailable, message).with("status", self.status);
            return Err(Failure::lasting(error.retryable(false)));
        }
        // Checked once as a whole, not string by string.
        let text = std::str::from_utf8(&self.body).map_err(serde::de::Error::custom);
        text.and_then(serde_json::from_str).map_err(|e: serde_json::Error| {
            let start: String = String::from_utf8_lossy(&self.body).chars().take(60).collect();
            let error = Error::unavailable(format!("the answer is not what {api}'s API sends"))
                .with("begins", format_args!("{start:?}"))
                .caused_by(e);
            Failure::passing(Reason::BadAnswer, error)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_nearest_doubles() {
        let texts = ["31.245270191439438", "121.48791951161945", "100.78399658203125", "5e-324", "0.1"];
        let answer = Answer::new(200, format!("[{}]", texts.join(",")));
        let refusal = |_: bool| Failure::lasting(Error::unexpected("it is no refusal"));
        let numbers: Vec<f64> = answer.json("Lines", refusal).unwrap();
        let nearest: Vec<f64> = texts.iter().map(|text| text.parse().unwrap()).collect();
        assert_eq!(numbers, nearest);
    }
}
