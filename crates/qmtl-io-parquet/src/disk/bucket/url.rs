//! URLs of buckets: what they mean, which of them can hold a store, and where credentials come from.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::memory::InMemory;
use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreScheme, RetryConfig};
use qmtl_history_api::{Error, ErrorKind, Result};
use url::Url;

use super::bounded::Bounded;
use super::fault::Faults;

/// How often a request is sent again that the server did not take, within half a minute: errors of
/// the server, throttling, no connection.
const RETRIES: RetryConfig = RetryConfig {
    backoff: object_store::BackoffConfig {
        init_backoff: Duration::from_millis(100),
        max_backoff: Duration::from_secs(5),
        base: 2.0,
    },
    max_retries: 6,
    retry_timeout: Duration::from_secs(30),
};

/// What a URL means.
pub(super) struct Place {
    /// The URL without a slash at its end.
    pub(super) root: PathBuf,
    pub(super) prefix: Key,
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) faults: Faults,
}

/// Opens the object store of a URL. `InvalidInput` for what is no such URL, `Unsupported` for what
/// cannot hold a store.
pub(super) fn open(text: &str) -> Result<Place> {
    let url = parse(text)?;
    let shown = shown(&url);
    let unsupported = |why: &str| Error::new(ErrorKind::Unsupported, why).with("url", &shown);
    let (root, _) = prefix(text)?;
    match ObjectStoreScheme::parse(&url) {
        Ok((ObjectStoreScheme::AmazonS3, prefix)) => {
            // Directory buckets list in no order.
            if url.host_str().is_some_and(|bucket| bucket.ends_with("--x-s3")) {
                return Err(unsupported("a directory bucket cannot hold a store; use a general purpose one"));
            }
            let (store, faults) = s3(&url)?;
            Ok(Place { root, prefix, store, faults })
        }
        Ok((ObjectStoreScheme::Memory, prefix)) => {
            Ok(Place { root, prefix, store: Arc::new(InMemory::new()), faults: Faults::default() })
        }
        Ok((ObjectStoreScheme::Http, _)) => {
            Err(unsupported("a web server cannot put an object only where none is; use s3://bucket/prefix"))
        }
        _ => Err(unsupported("this build has no store of that kind; use s3://bucket/prefix")),
    }
}

/// The URL as paths begin with it, and its path as a prefix of keys.
pub(crate) fn prefix(text: &str) -> Result<(PathBuf, Key)> {
    let url = parse(text)?;
    let bad = |e: object_store::path::Error| {
        Error::invalid("the URL's path cannot be a prefix in a bucket").with("url", shown(&url)).caused_by(e)
    };
    let prefix = Key::from_url_path(url.path()).map_err(bad)?;
    let (scheme, rest) = text.split_once("://").unwrap_or_default();
    Ok((PathBuf::from(format!("{scheme}://{}", rest.trim_end_matches('/'))), prefix))
}

/// Reads a URL that may be shown: one without secrets.
fn parse(text: &str) -> Result<Url> {
    let url = Url::parse(text).map_err(|e| {
        Error::invalid("this is no URL of a bucket: it is s3://bucket/prefix").caused_by(e.to_string())
    })?;
    if url.scheme() == "s3" && url.host_str().is_none() {
        return Err(Error::invalid("this is no URL of a bucket: it is s3://bucket/prefix"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Error::invalid(
            "credentials do not stand in the URL: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        )
        .with("scheme", url.scheme()));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(Error::invalid(
            "a bucket's URL takes no parameters: set AWS_REGION, AWS_ENDPOINT_URL and the like",
        )
        .with("scheme", url.scheme()));
    }
    Ok(url)
}

/// The URL up to its path.
fn shown(url: &Url) -> String {
    format!("{}://{}{}", url.scheme(), url.host_str().unwrap_or_default(), url.path())
}

fn s3(url: &Url) -> Result<(Arc<dyn ObjectStore>, Faults)> {
    let mut builder = settings(std::env::vars_os())?
        .with_url(url.as_str())
        .with_retry(RETRIES)
        .with_http_connector(Bounded);
    let value = |key| builder.get_config_value(&key);
    let endpoint = value(AmazonS3ConfigKey::S3Endpoint).or_else(|| value(AmazonS3ConfigKey::Endpoint));
    let secrets =
        [AmazonS3ConfigKey::AccessKeyId, AmazonS3ConfigKey::SecretAccessKey, AmazonS3ConfigKey::Token];
    let faults = Faults::new(endpoint.clone(), secrets.into_iter().filter_map(value).collect());
    if endpoint.is_some_and(|endpoint| endpoint.starts_with("http://")) {
        // Who names such an endpoint wants it. Credentials are not sent, they sign.
        builder = builder.with_allow_http(true);
    }
    let store = builder.build().map_err(|e| {
        Error::invalid("the settings of the bucket do not fit; look at the variables AWS_*")
            .with("url", shown(url))
            .caused_by(faults.text(&e))
    })?;
    Ok((Arc::new(store), faults))
}

/// The variables of the environment that say how a bucket is reached. An empty one is none. `InvalidInput` for one that
/// no request can be made with, by name alone: its value may be a secret.
fn settings(variables: impl Iterator<Item = (OsString, OsString)>) -> Result<AmazonS3Builder> {
    let mut builder = AmazonS3Builder::new();
    for (name, value) in variables {
        let Some(name) = name.to_str().filter(|name| name.starts_with("AWS_")) else { continue };
        let Ok(key) = name.to_ascii_lowercase().parse::<AmazonS3ConfigKey>() else { continue };
        if value.is_empty() {
            continue;
        }
        let checked =
            value.to_str().ok_or("it is no text").and_then(|value| fits(&key, value).map(|()| value));
        let value = checked.map_err(|why| {
            Error::invalid("a setting of the bucket cannot be used").with("variable", name).with("why", why)
        })?;
        builder = builder.with_config(key, value);
    }
    Ok(builder)
}

/// Whether a setting has the form that its use needs, or what is wrong with it. The client checks others by itself, and
/// makes requests with these as they are.
fn fits(key: &AmazonS3ConfigKey, value: &str) -> Result<(), &'static str> {
    use AmazonS3ConfigKey as K;
    match key {
        K::Endpoint
        | K::S3Endpoint
        | K::StsEndpoint
        | K::MetadataEndpoint
        | K::ContainerCredentialsFullUri => {
            let url =
                Url::parse(value).map_err(|_| "it is no URL: write http://host:port or https://host")?;
            if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
                return Err("it is no URL of a server: write http://host:port or https://host");
            }
            if !url.username().is_empty() || url.password().is_some() {
                return Err("it has credentials in it: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY");
            }
            if *key != K::ContainerCredentialsFullUri && (url.query().is_some() || url.fragment().is_some()) {
                return Err("it has parameters, which an address of a server does not take");
            }
        }
        K::ContainerCredentialsRelativeUri if !value.starts_with('/') => {
            return Err("it does not begin with a slash");
        }
        // Names of files, and what the client reads by itself.
        K::WebIdentityTokenFile | K::ContainerAuthorizationTokenFile | K::Client(_) => return Ok(()),
        _ => {}
    }
    if value.chars().all(|c| c.is_ascii_graphic()) {
        Ok(())
    } else {
        Err("it has a blank, a line break or a letter beyond ASCII in it, perhaps at its end")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_that_no_request_can_be_made_with_is_refused_by_name() {
        let with = |name: &str, value: &str| settings([(name.into(), value.into())].into_iter());
        for (name, value) in [
            ("AWS_ENDPOINT_URL", "127.0.0.1:9000"),
            ("AWS_ENDPOINT", "http://"),
            ("AWS_ENDPOINT_URL_S3", "canary"),
            ("AWS_ENDPOINT_URL", "ftp://canary"),
            ("AWS_ENDPOINT_URL", "http://user:canary@host"),
            ("AWS_ENDPOINT_URL", "http://host/?key=canary"),
            ("AWS_ENDPOINT_URL_STS", "canary"),
            ("AWS_METADATA_ENDPOINT", "canary"),
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "canary"),
            ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "canary"),
            ("AWS_ACCESS_KEY_ID", "canary\n"),
            ("AWS_SECRET_ACCESS_KEY", " canary"),
            ("AWS_SESSION_TOKEN", "can\r\nary"),
            ("AWS_REGION", "eu-canary-1 "),
            ("AWS_DEFAULT_REGION", "cänary"),
            ("AWS_SSE_KMS_KEY_ID", "canary\n"),
        ] {
            let error = with(name, value).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{name}");
            assert!(error.to_string().contains(&format!("(variable: {name}, why: it ")), "{error}");
            assert!(!error.chain().contains("canary"), "{error}");
        }
        for (name, value) in [
            ("AWS_ENDPOINT_URL", ""),
            ("AWS_ENDPOINT_URL", "http://127.0.0.1:9000/below"),
            ("AWS_SECRET_ACCESS_KEY", "a+b/c="),
            ("AWS_WEB_IDENTITY_TOKEN_FILE", "/a folder/token"),
            ("AWS_UNKNOWN", "any thing"),
            ("OTHER", "any thing"),
        ] {
            assert!(with(name, value).is_ok(), "{name}");
        }
    }

    #[test]
    fn a_url_is_a_root_without_a_slash_and_a_prefix() {
        for (url, root, key) in [
            ("s3://bucket/some/prefix/", "s3://bucket/some/prefix", "some/prefix"),
            ("s3://bucket", "s3://bucket", ""),
            ("memory:///", "memory://", ""),
            ("gs://bucket/x", "gs://bucket/x", "x"),
        ] {
            let (path, prefix) = prefix(url).unwrap();
            assert_eq!((path, prefix.as_ref()), (PathBuf::from(root), key));
        }
    }

    #[test]
    fn what_cannot_hold_a_store_is_refused_by_name_and_without_secrets() {
        for (url, kind, said) in [
            ("s3://key:secret@bucket/x", ErrorKind::InvalidInput, "set AWS_ACCESS_KEY_ID"),
            ("s3://bucket/x?secret=y", ErrorKind::InvalidInput, "takes no parameters"),
            ("s3://", ErrorKind::InvalidInput, "no URL of a bucket"),
            ("http://host/secret", ErrorKind::Unsupported, "a web server cannot put"),
            ("gs://bucket/x", ErrorKind::Unsupported, "no store of that kind"),
            ("s3://name--usw2-az1--x-s3/x", ErrorKind::Unsupported, "a directory bucket"),
            ("file://relative/x", ErrorKind::Unsupported, "no store of that kind"),
        ] {
            let error = open(url).err().unwrap();
            assert_eq!(error.kind(), kind, "{url}: {error:?}");
            assert!(error.to_string().contains(said), "{url}: {error}");
            assert!(url.starts_with("http:") || !error.chain().contains("secret"), "{error:?}");
        }
    }
}
