//! What of a cloud store's answers over HTTP reaches the library.
//!
//! Invariants: no endpoint decides how much memory an error or a listing takes (an object's bytes are counted by who
//! asked for them); what an error repeats of a request's credentials is struck out, since errors are logged; an answer
//! by which the store turns out to be unfit is told from one that it may take back.

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
    ReqwestConnector,
};

/// Bytes of an error's body that are read; the rest is left unread.
const ERROR_BYTES_MAX: usize = 64 << 10;

/// Longest answer that is no object: one page of a listing.
const PAGE_BYTES_MAX: usize = 32 << 20;

/// What stands for a credential in an error's body.
const STRUCK_OUT: &str = "[secret]";

/// Headers whose values are nobody's business, beside those that the library marks so itself.
const SECRET_HEADERS: [&str; 2] = ["authorization", "x-amz-security-token"];

/// Why it is of no use to ask a store again, where the library does not tell that from other failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// A listing is not allowed.
    Denied,
    /// There is nothing to list: no bucket, no container.
    NoBucket,
    /// The store does not know the condition of a create.
    LacksCreate,
    /// The store does not know a request that is needed.
    Lacks,
    /// The store sends its callers to another place.
    Elsewhere,
}

/// An answer that ends a call.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) why: Why,
    status: u16,
    text: String,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "status {}: {}", self.status, self.text)
    }
}

impl std::error::Error for Refusal {}

/// Connects to stores as the library does, and looks through their answers.
#[derive(Debug, Default)]
pub(super) struct Connector(ReqwestConnector);

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Guard(self.0.connect(options)?)))
    }
}

#[derive(Debug)]
struct Guard(HttpClient);

#[async_trait]
impl HttpService for Guard {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (asked, secrets) = (Asked::of(&request), secrets(&request));
        let (head, body) = self.0.execute(request).await?.into_parts();
        if head.status.is_success() {
            let body = if asked == Asked::Read { body } else { Bytes::from(page(body).await?).into() };
            return Ok(HttpResponse::from_parts(head, body));
        }
        let (status, text) = (head.status.as_u16(), strike_out(&secrets, &start(body).await));
        match asked.refused_by(status) {
            Some(why) => Err(HttpError::new(HttpErrorKind::Decode, Refusal { why, status, text })),
            None => Ok(HttpResponse::from_parts(head, Bytes::from(text).into())),
        }
    }
}

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Create,
    Read,
    List,
    Other,
}

impl Asked {
    fn of(request: &HttpRequest) -> Self {
        let lists = |pair: &str| pair.starts_with("list-type=") || pair.starts_with("comp=list");
        let query = request.uri().query().unwrap_or_default();
        match request.method().as_str() {
            "GET" if query.split('&').any(lists) => Self::List,
            "GET" | "HEAD" => Self::Read,
            "PUT" if request.headers().contains_key("if-none-match") => Self::Create,
            _ => Self::Other,
        }
    }

    fn refused_by(self, status: u16) -> Option<Why> {
        match (self, status) {
            (Self::List, 401 | 403) => Some(Why::Denied),
            (Self::List, 404) => Some(Why::NoBucket),
            (Self::Create, 501) => Some(Why::LacksCreate),
            (_, 501) => Some(Why::Lacks),
            // 304 answers a condition.
            (_, 300..=303 | 305..=399) => Some(Why::Elsewhere),
            _ => None,
        }
    }
}

/// Reads the whole of `body`, which may be as long as a page.
async fn page(mut body: HttpResponseBody) -> Result<Vec<u8>, HttpError> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            if bytes.len().saturating_add(data.len()) > PAGE_BYTES_MAX {
                let error = std::io::Error::other("answer is longer than any page of a listing");
                return Err(HttpError::new(HttpErrorKind::Decode, error));
            }
            bytes.extend_from_slice(&data);
        }
    }
    Ok(bytes)
}

/// Reads the start of an error's `body`. Its status says what happened, however the rest comes or does not come.
async fn start(mut body: HttpResponseBody) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < ERROR_BYTES_MAX
        && let Some(Ok(frame)) = body.frame().await
    {
        bytes.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
    }
    bytes.truncate(ERROR_BYTES_MAX);
    bytes
}

/// Returns what of `request` may not be repeated.
fn secrets(request: &HttpRequest) -> Vec<String> {
    let headers = request.headers().iter();
    let secret = headers.filter(|(name, value)| value.is_sensitive() || SECRET_HEADERS.contains(&name.as_str()));
    let values = secret.filter_map(|(_, value)| value.to_str().ok());
    // The signature of a shared access signature.
    let query = request.uri().query().unwrap_or_default().split('&').filter_map(|pair| pair.strip_prefix("sig="));
    values.chain(query).filter(|secret| !secret.is_empty()).map(str::to_owned).collect()
}

fn strike_out(secrets: &[String], text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text).into_owned();
    secrets.iter().fold(text, |text, secret| text.replace(secret, STRUCK_OUT))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers with a status and a body.
    #[derive(Debug)]
    struct Says(u16, String);

    #[async_trait]
    impl HttpService for Says {
        async fn call(&self, _request: HttpRequest) -> Result<HttpResponse, HttpError> {
            let mut answer = HttpResponse::new(Bytes::from(self.1.clone()).into());
            *answer.status_mut() = self.0.try_into().unwrap();
            Ok(answer)
        }
    }

    fn request(method: &str, uri: &str, header: Option<(&'static str, &str)>) -> HttpRequest {
        let mut request = HttpRequest::new(object_store::client::HttpRequestBody::empty());
        *request.method_mut() = method.parse().unwrap();
        *request.uri_mut() = uri.parse().unwrap();
        if let Some((name, value)) = header {
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        request
    }

    async fn ask(request: HttpRequest, status: u16, body: String) -> Result<(u16, Bytes), HttpError> {
        let answer = Guard(HttpClient::new(Says(status, body))).call(request).await?;
        let (head, body) = answer.into_parts();
        Ok((head.status.as_u16(), body.collect().await?.to_bytes()))
    }

    #[tokio::test]
    async fn a_refusal_is_told_by_what_was_asked() {
        let list = || request("GET", "http://h/b?list-type=2&prefix=p", None);
        let cases = [
            (list(), 403, Some(Why::Denied)),
            (request("GET", "http://h/b?restype=container&comp=list", None), 401, Some(Why::Denied)),
            (list(), 404, Some(Why::NoBucket)),
            (list(), 500, None),
            (request("PUT", "http://h/b/k", Some(("if-none-match", "*"))), 501, Some(Why::LacksCreate)),
            (request("PUT", "http://h/b/k", Some(("if-none-match", "*"))), 412, None),
            (request("POST", "http://h/b?delete", None), 501, Some(Why::Lacks)),
            (request("GET", "http://h/b/k", None), 301, Some(Why::Elsewhere)),
            (request("GET", "http://h/b/k", None), 304, None),
            (request("GET", "http://h/b/k", None), 403, None),
            (request("HEAD", "http://h/b/k", None), 404, None),
        ];
        for (request, status, why) in cases {
            let case = format!("{} {} {status}", request.method(), request.uri());
            match (ask(request, status, "text".to_owned()).await, why) {
                (Ok((found, _)), None) => assert_eq!(found, status, "{case}"),
                (Err(error), Some(why)) => {
                    let source = std::error::Error::source(&error).unwrap();
                    assert_eq!(source.downcast_ref::<Refusal>().unwrap().why, why, "{case}");
                    assert!(error.to_string().contains(&format!("status {status}: text")), "{case}: {error}");
                }
                (found, why) => panic!("{case}: {found:?}, not {why:?}"),
            }
        }
    }

    #[tokio::test]
    async fn what_is_read_has_a_limit_unless_it_is_an_object() {
        let long = "x".repeat(PAGE_BYTES_MAX + 1);
        let object = || request("GET", "http://h/b/k", None);
        assert_eq!(ask(object(), 200, long.clone()).await.unwrap().1.len(), long.len());
        assert_eq!(ask(object(), 500, long.clone()).await.unwrap().1.len(), ERROR_BYTES_MAX);
        let page = || request("GET", "http://h/b?list-type=2", None);
        ask(page(), 200, long.clone()).await.unwrap_err();
        assert_eq!(ask(page(), 200, long[1..].to_owned()).await.unwrap().1.len(), PAGE_BYTES_MAX);
    }

    #[tokio::test]
    async fn an_error_repeats_no_credential() {
        for (uri, header, secret) in [
            ("http://h/b/k", Some(("authorization", "AWS4 SECRET")), "AWS4 SECRET"),
            ("http://h/b/k", Some(("x-amz-security-token", "SECRET")), "SECRET"),
            ("http://h/b/k?sv=1&sig=SECRET&x=2", None, "sig=SECRET"),
        ] {
            let body = format!("<a>{secret}</a>{secret}");
            let (_, text) = ask(request("PUT", uri, header), 403, body).await.unwrap();
            let text = String::from_utf8(text.to_vec()).unwrap();
            assert!(text.starts_with("<a>") && !text.contains("SECRET"), "{uri}: {text}");
        }
    }
}
