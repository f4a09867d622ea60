//! What goes wrong between us and a bucket, in words that name the remedy and no secret.

use std::error::Error as StdError;
use std::fmt;
use std::path::Path;

use object_store::Error as Fault;
use object_store::client::{HttpError, HttpErrorKind};
use qmtl_history_api::{Error, ErrorKind};

/// Bytes of the shortest secret that is hidden.
const SECRET: usize = 6;

/// Characters of what a fault says that are told.
const TEXT: usize = 1_000;

/// What the errors of a bucket need to know.
#[derive(Clone, Default)]
pub(super) struct Faults {
    /// The server, where it is not the cloud's own.
    endpoint: Option<String>,
    /// What must not be shown, whoever says it.
    secrets: Vec<String>,
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faults").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

impl Faults {
    pub(super) fn new(endpoint: Option<String>, secrets: Vec<String>) -> Self {
        // An address with a password is not shown at all.
        let endpoint = endpoint.filter(|endpoint| !endpoint.contains('@'));
        // A shorter one is part of words, and no server of others takes it.
        Self { endpoint, secrets: secrets.into_iter().filter(|secret| secret.len() >= SECRET).collect() }
    }

    /// The error of a failed request about `path`.
    pub(super) fn error(&self, action: &str, path: &Path, fault: &Fault) -> Error {
        let (kind, remedy) = match (fault, status(fault)) {
            (Fault::NotImplemented { .. } | Fault::NotSupported { .. }, _) => (
                ErrorKind::Unsupported,
                "this bucket cannot put an object only where none is: unset AWS_CONDITIONAL_PUT, or use another",
            ),
            (Fault::AlreadyExists { .. }, _) => {
                (ErrorKind::Unavailable, "other writers are in the way again and again: write again")
            }
            (_, Some(300..=399)) => {
                (ErrorKind::Storage, "the bucket is in another region: set AWS_REGION to it")
            }
            (_, Some(401 | 403)) => (
                ErrorKind::Storage,
                "access denied: check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, and let \
                 them list, get, put and delete under this prefix",
            ),
            (_, Some(404)) => (ErrorKind::Storage, "there is no such bucket: create it, or check the URL"),
            (_, Some(400..=428 | 430..=499)) => {
                (ErrorKind::Storage, "the server refuses: check AWS_REGION, AWS_ENDPOINT_URL and the clock")
            }
            (_, Some(_)) => (ErrorKind::Unavailable, "the server is in trouble: try again later"),
            _ if is_unreadable(fault) => {
                (ErrorKind::Unavailable, "the server answers, but not as S3 does: check AWS_ENDPOINT_URL")
            }
            (_, None) => (
                ErrorKind::Unavailable,
                "the server does not answer: check the network, AWS_ENDPOINT_URL and AWS_REGION, and set \
                 AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY where this machine has no role",
            ),
        };
        let error = Error::new(kind, format!("cannot {action}; {remedy}")).with("path", path.display());
        let error = match &self.endpoint {
            Some(endpoint) => error.with("endpoint", endpoint),
            None => error,
        };
        error.caused_by(self.text(fault))
    }

    /// What a fault says, on one line.
    pub(super) fn text(&self, fault: &Fault) -> String {
        // Each fault prints its causes itself, and what the server said at any length.
        let mut text: String = summarized(&fault.to_string()).chars().take(TEXT).collect();
        for secret in &self.secrets {
            text = text.replace(secret.as_str(), "…");
        }
        text
    }
}

/// The text with the server's XML cut to its code and message: the rest may repeat what was signed.
fn summarized(text: &str) -> String {
    let element = |name: &str| {
        let rest = text.split_once(&format!("<{name}>"))?.1;
        Some(rest.split_once(&format!("</{name}>"))?.0)
    };
    let Some((before, _)) = text.split_once("<?xml").or_else(|| text.split_once("<Error")) else {
        return text.split_whitespace().collect::<Vec<_>>().join(" ");
    };
    let said = [element("Code"), element("Message")].into_iter().flatten().collect::<Vec<_>>().join(": ");
    format!("{}{said}", before.split_whitespace().map(|word| word.to_owned() + " ").collect::<String>())
}

/// The HTTP status of an answer that was an error; `None` when none came.
fn status(fault: &Fault) -> Option<u16> {
    let text = fault.to_string();
    if text.contains("Received redirect without LOCATION") {
        return Some(301);
    }
    text.split_once("status code: ")?.1.get(..3)?.parse().ok()
}

/// Whether the server answered something that is nothing S3 says.
fn is_unreadable(fault: &Fault) -> bool {
    let text = fault.to_string();
    let odd = [
        "Got invalid ",
        "Unable to extract metadata",
        "the server sends more than ",
        "the server lists the same ",
    ];
    odd.iter().any(|said| text.contains(said))
}

/// What comes of a request that could not even be made.
pub(super) fn unmade() -> Fault {
    let source = "the request cannot be made with these settings: check the variables AWS_*".into();
    Fault::Generic { store: "S3", source }
}

/// Whether the request may have been carried out although no answer came.
pub(super) fn is_answer_lost(fault: &Fault) -> bool {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(fault);
    while let Some(error) = cause {
        if let Some(http) = error.downcast_ref::<HttpError>() {
            return !matches!(http.kind(), HttpErrorKind::Connect | HttpErrorKind::Request);
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generic(text: &str) -> Fault {
        Fault::Generic { store: "S3", source: text.to_owned().into() }
    }

    #[test]
    fn what_a_bucket_does_has_its_remedy_and_no_secret() {
        let xml = "status code: 403 Forbidden: <?xml version=\"1.0\"?>\n<Error><Code>SignatureDoesNotMatch</Code>\
                   <Message>no match for KEYKEY</Message><CanonicalRequest>x-amz-security-token:hush</CanonicalRequest></Error>";
        let faults = Faults::new(Some("http://host".to_owned()), vec!["KEYKEY".to_owned(), "S".to_owned()]);
        let source = xml.to_owned().into();
        let denied = Fault::PermissionDenied { path: "a".to_owned(), source };
        let error = faults.error("list a folder of the store", Path::new("s3://b/x"), &denied);
        assert!(error.to_string().starts_with(
            "cannot list a folder of the store; access denied: check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY"
        ));
        assert!(error.to_string().ends_with("(path: s3://b/x, endpoint: http://host)"), "{error}");
        assert!(error.chain().ends_with("403 Forbidden: SignatureDoesNotMatch: no match for …"), "{error:?}");
        assert!(!error.chain().contains("hush") && !format!("{faults:?}").contains("KEYKEY"));
    }

    #[test]
    fn the_kind_says_whether_trying_again_helps() {
        for (text, kind, said) in [
            ("status code: 503 Slow Down", ErrorKind::Unavailable, "try again later"),
            ("status code: 429 Too Many", ErrorKind::Unavailable, "try again later"),
            ("status code: 404 Not Found", ErrorKind::Storage, "there is no such bucket"),
            ("status code: 403 Forbidden", ErrorKind::Storage, "access denied"),
            ("status code: 400 Bad Request", ErrorKind::Storage, "the server refuses"),
            ("status code: 301 Moved", ErrorKind::Storage, "set AWS_REGION"),
            ("Received redirect without LOCATION, this", ErrorKind::Storage, "set AWS_REGION"),
            ("Got invalid list response: no XML", ErrorKind::Unavailable, "not as S3 does"),
            ("connection refused", ErrorKind::Unavailable, "does not answer"),
        ] {
            let error = Faults::default().error("x", Path::new("s3://b"), &generic(text));
            assert_eq!((error.kind(), error.is_retryable()), (kind, kind == ErrorKind::Unavailable));
            assert!(error.to_string().contains(said), "{error}");
        }
    }

    #[test]
    fn what_a_server_says_at_length_is_cut() {
        let faults = Faults::default();
        assert_eq!(faults.text(&generic(&"x".repeat(3 << 20))).len(), TEXT);
    }

    #[test]
    fn an_endpoint_with_a_password_is_not_shown() {
        let faults = Faults::new(Some("http://user:pw@host".to_owned()), Vec::new());
        let error = faults.error("x", Path::new("s3://b"), &generic("y"));
        assert!(!error.chain().contains("pw@"), "{error:?}");
    }
}
