//! A bound on answers that the client takes in whole before it looks at them: pages of a list, credentials, what an
//! error says. Objects are read in parts and bounded where they are.

use async_trait::async_trait;
use bytes::BytesMut;
use futures::StreamExt;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
    ReqwestConnector,
};
use url::Url;

/// Bytes of the longest answer: a thousand keys of a kilobyte each, escaped, and much room.
const LONGEST: usize = 16 << 20;

/// Connects like the client does by itself, and bounds what comes back.
#[derive(Debug)]
pub(super) struct Bounded;

impl HttpConnector for Bounded {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(BoundedClient(ReqwestConnector::default().connect(options)?)))
    }
}

#[derive(Debug)]
struct BoundedClient(HttpClient);

#[async_trait]
impl HttpService for BoundedClient {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        // Sent again it would come to the same.
        let fault =
            |what: &str| HttpError::new(HttpErrorKind::Decode, std::io::Error::other(what.to_owned()));
        let is_object = request.headers().contains_key("range");
        let token = asked_from(&request.uri().to_string());
        let (head, body) = self.0.execute(request).await?.into_parts();
        if is_object && head.status.is_success() {
            return Ok(HttpResponse::from_parts(head, body));
        }
        let (mut parts, mut whole) = (body.bytes_stream(), BytesMut::new());
        while let Some(part) = parts.next().await {
            whole.extend_from_slice(&part?);
            if whole.len() > LONGEST {
                return Err(fault("the server sends more than any answer of this kind has"));
            }
        }
        // It would go on for ever.
        let again = token.map(|token| format!("<NextContinuationToken>{token}</NextContinuationToken>"));
        if again.is_some_and(|again| String::from_utf8_lossy(&whole).contains(&again)) {
            return Err(fault("the server lists the same objects again and again"));
        }
        Ok(HttpResponse::from_parts(head, whole.freeze().into()))
    }
}

/// The token of the page that a request is for; `None` where it is no request for a later page of a list.
fn asked_from(uri: &str) -> Option<String> {
    let url = Url::parse(uri).ok()?;
    let token = url.query_pairs().find(|(name, _)| name == "continuation-token");
    token.map(|(_, token)| token.into_owned())
}
