//! A filter between cloud stores and the library: bounds, redacts and classifies HTTP responses.
//!
//! Invariants: no endpoint decides how much memory an error or a listing takes (the caller bounds an object's bytes);
//! credentials of the request are redacted from error bodies, since errors are logged; permanent refusals differ from
//! transient errors; an apparent mistake in the settings counts as one only until the store's first response, and as an
//! outage afterwards.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
    ReqwestConnector,
};
use object_store::path::Path;
use object_store::{ClientOptions, CredentialProvider};

/// Most bytes read of an error's body.
const ERROR_BYTES_MAX: usize = 64 << 10;

/// Longest response other than an object: one page of a listing.
const PAGE_BYTES_MAX: usize = 32 << 20;

/// Replacement for a credential in an error's body.
const REDACTED: &str = "[secret]";

/// Headers with secret values, besides those that the library marks as sensitive.
const SECRET_HEADERS: [&str; 2] = ["authorization", "x-amz-security-token"];

/// Why a retry is useless. The library does not distinguish these from other failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// A listing is not allowed.
    Denied,
    /// The bucket or container does not exist.
    NoBucket,
    /// The store does not support conditional creates.
    LacksCreate,
    /// The store does not support a required request.
    Lacks,
    /// The store redirects to another region or endpoint.
    Elsewhere,
    /// No request can be sent: the host does not exist, or the URL is invalid.
    Nowhere,
    /// There are no credentials.
    NoCredentials,
}

/// An error that ends a call without retries.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) reason: Why,
    /// A remedy for the user, if known.
    pub(super) advice: Option<String>,
    text: String,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Refusal {}

/// Connects as the library does, and filters the responses.
#[derive(Debug)]
pub(super) struct Connector {
    library: ReqwestConnector,
    /// Names of the settings that locate the store.
    place: &'static str,
}

impl Connector {
    /// Returns a connector to a store.
    ///
    /// * `place`: the names of the settings that locate the store.
    pub(super) fn new(place: &'static str) -> Self {
        Self { library: ReqwestConnector::default(), place }
    }
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let client = self.library.connect(options)?;
        Ok(HttpClient::new(Guard { client, place: self.place, answered: AtomicBool::new(false) }))
    }
}

#[derive(Debug)]
struct Guard {
    client: HttpClient,
    place: &'static str,
    /// Whether the store has ever responded.
    answered: AtomicBool,
}

#[async_trait]
impl HttpService for Guard {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (kind, secrets) = (RequestKind::of(&request), secrets(&request));
        let host = request.uri().host().unwrap_or_default().to_owned();
        let answer = self.client.execute(request).await.map_err(|error| self.unanswered(&host, error))?;
        self.answered.store(true, Ordering::Relaxed);
        let (head, body) = answer.into_parts();
        if head.status.is_success() {
            let body = match kind {
                RequestKind::Read => body,
                RequestKind::List => Bytes::from(escape_foreign_names(&read_page(body).await?)).into(),
                RequestKind::Create | RequestKind::Other => Bytes::from(read_page(body).await?).into(),
            };
            return Ok(HttpResponse::from_parts(head, body));
        }
        let (status, text) = (head.status.as_u16(), redact(&secrets, &read_start(body).await));
        match kind.refusal(status, &text) {
            Some(reason) => {
                let text = format!("status {status}: {text}");
                Err(HttpError::new(HttpErrorKind::Decode, Refusal { reason, advice: None, text }))
            }
            None => Ok(HttpResponse::from_parts(head, Bytes::from(text).into())),
        }
    }
}

impl Guard {
    /// Distinguishes a host that does not exist from an outage.
    fn unanswered(&self, host: &str, error: HttpError) -> HttpError {
        let malformed = mentions(&error, "builder error");
        let unknown = NO_SUCH_HOST.iter().any(|text| mentions(&error, text));
        if !malformed && (!unknown || self.answered.load(Ordering::Relaxed)) {
            return error;
        }
        let fault = if malformed { "no request can be sent" } else { "store's host does not exist" };
        let advice = Some(format!("{fault}: look at {}, host=`{host}`", self.place));
        HttpError::new(HttpErrorKind::Decode, Refusal { reason: Why::Nowhere, advice, text: error.to_string() })
    }
}

/// Resolver messages for a name that does not exist. Transient failures have other messages.
const NO_SUCH_HOST: [&str; 4] =
    ["Name or service not known", "Name does not resolve", "nodename nor servname provided", "No such host is known"];

/// Returns whether `error` or one of its sources contains `text`. The library offers nothing better to match on.
fn mentions(error: &HttpError, text: &str) -> bool {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = next {
        if error.to_string().contains(text) {
            return true;
        }
        next = error.source();
    }
    false
}

/// Credentials from the machine's instance metadata service, used when none are set. A failure means that the user
/// forgot to set credentials or, if the service gave some before, an outage.
#[derive(Debug)]
pub(super) struct MachineCredentials<C> {
    service: Arc<dyn CredentialProvider<Credential = C>>,
    given: AtomicBool,
    /// Names of the settings that provide credentials.
    settings: &'static str,
}

impl<C> MachineCredentials<C> {
    pub(super) fn new(service: Arc<dyn CredentialProvider<Credential = C>>, settings: &'static str) -> Self {
        Self { service, given: AtomicBool::new(false), settings }
    }
}

#[async_trait]
impl<C: std::fmt::Debug + Send + Sync> CredentialProvider for MachineCredentials<C> {
    type Credential = C;

    async fn get_credential(&self) -> object_store::Result<Arc<C>> {
        let given = self.service.get_credential().await;
        if given.is_ok() {
            self.given.store(true, Ordering::Relaxed);
        }
        given.map_err(|error| {
            if self.given.load(Ordering::Relaxed) {
                return error;
            }
            let advice = Some(format!("store needs credentials: set {}, since this machine gives none", self.settings));
            let source = Refusal { reason: Why::NoCredentials, advice, text: error.to_string() }.into();
            object_store::Error::Generic { store: "cloud", source }
        })
    }
}

/// The kind of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RequestKind {
    Create,
    Read,
    List,
    Other,
}

impl RequestKind {
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

    fn refusal(self, status: u16, text: &str) -> Option<Why> {
        match (self, status) {
            // S3's response to a signature for another region.
            (_, 400) if text.contains("AuthorizationHeaderMalformed") => Some(Why::Elsewhere),
            (Self::List, 401 | 403) => Some(Why::Denied),
            (Self::List, 404) => Some(Why::NoBucket),
            (Self::Create, 501) => Some(Why::LacksCreate),
            (_, 501) => Some(Why::Lacks),
            // 304 is the response to a condition.
            (_, 300..=303 | 305..=399) => Some(Why::Elsewhere),
            _ => None,
        }
    }
}

/// Reads the whole of `body`, at most [`PAGE_BYTES_MAX`].
async fn read_page(mut body: HttpResponseBody) -> Result<Vec<u8>, HttpError> {
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

/// Escapes the names in a page of a listing that the library cannot parse.
///
/// The library refuses the whole page for one name with an empty part, `..` or a control character, and strips a
/// trailing slash. No key of this crate has such a name. Each is escaped into a single path part, which no key can
/// equal.
fn escape_foreign_names(page: &[u8]) -> Vec<u8> {
    let page = String::from_utf8_lossy(page);
    let mut found = String::with_capacity(page.len());
    // `Some(false)` within an object's element, `Some(true)` within a folder's, `None` before either.
    let mut folder = None;
    for (at, piece) in page.split('<').enumerate() {
        found.push_str(if at > 0 { "<" } else { "" });
        let (tag, text) = piece.split_once('>').unwrap_or((piece, ""));
        folder = match tag {
            "Contents" | "Blob" => Some(false),
            "CommonPrefixes" | "BlobPrefix" => Some(true),
            _ => folder,
        };
        let name = unescape(text);
        let stem = if folder == Some(true) { name.strip_suffix('/').unwrap_or(&name) } else { &name };
        let names = folder.is_some() && ["Key", "Prefix", "Name"].contains(&tag);
        if !names || Path::parse(stem).is_ok_and(|path| path.as_ref() == stem) {
            found.push_str(piece);
        } else {
            let shown = Path::from_iter([name.as_str()]).to_string().replace('&', "&amp;");
            found.push_str(&format!("{tag}>{shown}"));
        }
    }
    found.into_bytes()
}

/// Resolves the escapes of an XML text.
fn unescape(text: &str) -> String {
    let mut parts = text.split('&');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (entity, rest) = part.split_once(';').unwrap_or(("", part));
        let numeric = entity.strip_prefix('#').and_then(|number| match number.strip_prefix('x') {
            Some(hex) => u32::from_str_radix(hex, 16).ok(),
            None => number.parse().ok(),
        });
        let named = [("amp", '&'), ("lt", '<'), ("gt", '>'), ("quot", '"'), ("apos", '\'')];
        let named = named.iter().find(|(name, _)| *name == entity).map(|(_, char)| *char);
        plain.push(numeric.and_then(char::from_u32).or(named).unwrap_or('&'));
        plain.push_str(rest);
    }
    plain
}

/// Reads the start of an error's `body`. Read failures are ignored: the status already determines the error.
async fn read_start(mut body: HttpResponseBody) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < ERROR_BYTES_MAX
        && let Some(Ok(frame)) = body.frame().await
    {
        bytes.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
    }
    bytes.truncate(ERROR_BYTES_MAX);
    bytes
}

/// Returns the secrets in `request`.
fn secrets(request: &HttpRequest) -> Vec<String> {
    let headers = request.headers().iter();
    let secret = headers.filter(|(name, value)| value.is_sensitive() || SECRET_HEADERS.contains(&name.as_str()));
    let values = secret.filter_map(|(_, value)| value.to_str().ok());
    // The signature of a shared access signature.
    let query = request.uri().query().unwrap_or_default().split('&').filter_map(|pair| pair.strip_prefix("sig="));
    values.chain(query).filter(|secret| !secret.is_empty()).map(str::to_owned).collect()
}

fn redact(secrets: &[String], text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text).into_owned();
    secrets.iter().fold(text, |text, secret| text.replace(secret, REDACTED))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Responds with a status and a body.
    #[derive(Debug)]
    struct Respond(u16, String);

    #[async_trait]
    impl HttpService for Respond {
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
        let client = HttpClient::new(Respond(status, body));
        let answer = Guard { client, place: "PLACE", answered: AtomicBool::new(false) }.call(request).await?;
        let (head, body) = answer.into_parts();
        Ok((head.status.as_u16(), body.collect().await?.to_bytes()))
    }

    #[tokio::test]
    async fn a_status_is_a_refusal_by_the_kind_of_its_request() {
        let list = || request("GET", "http://h/b?list-type=2&prefix=p", None);
        let cases = [
            (list(), 403, Some(Why::Denied)),
            (request("GET", "http://h/b?restype=container&comp=list", None), 401, Some(Why::Denied)),
            (list(), 404, Some(Why::NoBucket)),
            (list(), 500, None),
            (list(), 400, None),
            (request("PUT", "http://h/b/k", Some(("if-none-match", "*"))), 501, Some(Why::LacksCreate)),
            (request("PUT", "http://h/b/k", Some(("if-none-match", "*"))), 412, None),
            (request("POST", "http://h/b?delete", None), 501, Some(Why::Lacks)),
            (request("GET", "http://h/b/k", None), 301, Some(Why::Elsewhere)),
            (request("GET", "http://h/b/k", None), 304, None),
            (request("GET", "http://h/b/k", None), 403, None),
            (request("HEAD", "http://h/b/k", None), 404, None),
        ];
        for (request, status, reason) in cases {
            let case = format!("{} {} {status}", request.method(), request.uri());
            match (ask(request, status, "text".to_owned()).await, reason) {
                (Ok((found, _)), None) => assert_eq!(found, status, "{case}"),
                (Err(error), Some(reason)) => {
                    let source = std::error::Error::source(&error).unwrap();
                    assert_eq!(source.downcast_ref::<Refusal>().unwrap().reason, reason, "{case}");
                    assert!(error.to_string().contains(&format!("status {status}: text")), "{case}: {error}");
                }
                (found, reason) => panic!("{case}: {found:?}, not {reason:?}"),
            }
        }
    }

    #[test]
    fn a_foreign_name_is_escaped_in_its_page() {
        let key = |name: &str| format!("<Contents><Key>{name}</Key><Size>1</Size></Contents>");
        let ours = "it&#39;s &lt;ours&gt; &amp; theirs/job/manifest/00000000000000000001";
        let blob = |name: &str| format!("<Blob><Name>{name}</Name></Blob>");
        let folder = |name: &str| format!("<CommonPrefixes><Prefix>{name}</Prefix></CommonPrefixes>");
        let page = |parts: &[String]| format!("<R><Name>bucket</Name><Prefix>a//b/</Prefix>{}</R>", parts.concat());
        let same = page(&[key(ours), blob("a/b"), folder("some/prefix/job/"), key("100%"), key("%2e")]);
        assert_eq!(String::from_utf8(escape_foreign_names(same.as_bytes())).unwrap(), same);
        for (name, shown) in [
            ("job/manifest//x", "job%2Fmanifest%2F%2Fx"),
            ("job/manifest/00000000000000000001/", "job%2Fmanifest%2F00000000000000000001%2F"),
            ("job/../x", "job%2F..%2Fx"),
            ("job/a&#x1;&amp;", "job%2Fa%01&amp;"),
        ] {
            let found =
                escape_foreign_names(page(&[key(ours), key(name), blob(name), folder(&format!("{name}/"))]).as_bytes());
            let expected = page(&[key(ours), key(shown), blob(shown), folder(&format!("{shown}%2F"))]);
            assert_eq!(String::from_utf8(found).unwrap(), expected, "{name}");
        }
    }

    /// Fails as the library does when the host does not answer.
    #[derive(Debug)]
    struct Silent(&'static str);

    #[async_trait]
    impl HttpService for Silent {
        async fn call(&self, _request: HttpRequest) -> Result<HttpResponse, HttpError> {
            Err(HttpError::new(HttpErrorKind::Connect, std::io::Error::other(self.0)))
        }
    }

    #[tokio::test]
    async fn an_unknown_host_is_a_mistake_until_it_has_responded() {
        for (text, answered, mistake) in [
            ("failed to lookup address information: Name or service not known", false, true),
            ("failed to lookup address information: Name or service not known", true, false),
            ("failed to lookup address information: Temporary failure in name resolution", false, false),
            ("connection refused", false, false),
            ("builder error", true, true),
        ] {
            let client = HttpClient::new(Silent(text));
            let guard = Guard { client, place: "PLACE", answered: AtomicBool::new(answered) };
            let error = guard.call(request("GET", "http://h/b/k", None)).await.unwrap_err();
            let refusal = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<Refusal>());
            let advice = refusal.and_then(|refusal| refusal.advice.as_ref());
            assert_eq!(advice.is_some_and(|advice| advice.contains("look at PLACE, host=`h`")), mistake, "{text}");
        }
    }

    #[derive(Debug)]
    struct Service(AtomicBool);

    #[async_trait]
    impl CredentialProvider for Service {
        type Credential = ();

        async fn get_credential(&self) -> object_store::Result<Arc<()>> {
            match self.0.load(Ordering::Relaxed) {
                true => Ok(Arc::new(())),
                false => Err(object_store::Error::Generic { store: "test", source: "out of reach".into() }),
            }
        }
    }

    #[tokio::test]
    async fn missing_credentials_are_a_mistake_until_some_were_given() {
        let service = Arc::new(Service(AtomicBool::new(false)));
        let credentials = MachineCredentials::new(service.clone(), "SETTINGS");
        let forgotten = || async {
            let error = credentials.get_credential().await.unwrap_err();
            let source = std::error::Error::source(&error).unwrap();
            source.downcast_ref::<Refusal>().is_some_and(|refusal| refusal.reason == Why::NoCredentials)
        };
        assert!(forgotten().await);
        service.0.store(true, Ordering::Relaxed);
        credentials.get_credential().await.unwrap();
        service.0.store(false, Ordering::Relaxed);
        assert!(!forgotten().await);
    }

    #[tokio::test]
    async fn every_response_but_an_object_is_bounded() {
        let long = "x".repeat(PAGE_BYTES_MAX + 1);
        let object = || request("GET", "http://h/b/k", None);
        assert_eq!(ask(object(), 200, long.clone()).await.unwrap().1.len(), long.len());
        assert_eq!(ask(object(), 500, long.clone()).await.unwrap().1.len(), ERROR_BYTES_MAX);
        let page = || request("GET", "http://h/b?list-type=2", None);
        ask(page(), 200, long.clone()).await.unwrap_err();
        assert_eq!(ask(page(), 200, long[1..].to_owned()).await.unwrap().1.len(), PAGE_BYTES_MAX);
    }

    #[tokio::test]
    async fn an_error_contains_no_credential() {
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
