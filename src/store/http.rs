//! What of a cloud store's answers over HTTP reaches the library.
//!
//! Invariants: no endpoint decides how much memory an error or a listing takes (an object's bytes are counted by who
//! asked for them); what an error repeats of a request's credentials is struck out, since errors are logged; an answer
//! that shows the store to be unfit differs from one that may pass; until a first answer, what looks like a mistake in
//! the settings is one, afterwards it is a disturbance.

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
    /// No request can be sent: there is no such host, or a url is none.
    Nowhere,
    /// Nobody gives credentials.
    NoCredentials,
}

/// What ends a call.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) why: Why,
    /// What the user can do, if that is known here.
    pub(super) advice: Option<String>,
    text: String,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Refusal {}

/// Connects to stores as the library does, and looks through their answers.
#[derive(Debug)]
pub(super) struct Connector {
    library: ReqwestConnector,
    /// Names of the settings that say where the store is.
    place: &'static str,
}

impl Connector {
    /// Returns a connector to the store whose place the settings named `place` say.
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
    /// Whether anybody has ever answered.
    answered: AtomicBool,
}

#[async_trait]
impl HttpService for Guard {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (asked, secrets) = (Asked::of(&request), secrets(&request));
        let host = request.uri().host().unwrap_or_default().to_owned();
        let answer = self.client.execute(request).await.map_err(|error| self.unanswered(&host, error))?;
        self.answered.store(true, Ordering::Relaxed);
        let (head, body) = answer.into_parts();
        if head.status.is_success() {
            let body = match asked {
                Asked::Read => body,
                Asked::List => Bytes::from(legible(&page(body).await?)).into(),
                Asked::Create | Asked::Other => Bytes::from(page(body).await?).into(),
            };
            return Ok(HttpResponse::from_parts(head, body));
        }
        let (status, text) = (head.status.as_u16(), strike_out(&secrets, &start(body).await));
        match asked.refused_by(status, &text) {
            Some(why) => {
                let text = format!("status {status}: {text}");
                Err(HttpError::new(HttpErrorKind::Decode, Refusal { why, advice: None, text }))
            }
            None => Ok(HttpResponse::from_parts(head, Bytes::from(text).into())),
        }
    }
}

impl Guard {
    /// Tells an outage from a place that does not exist.
    fn unanswered(&self, host: &str, error: HttpError) -> HttpError {
        let malformed = mentions(&error, "builder error");
        let unknown = NO_SUCH_HOST.iter().any(|text| mentions(&error, text));
        if !malformed && (!unknown || self.answered.load(Ordering::Relaxed)) {
            return error;
        }
        let fault = if malformed { "no request can be sent" } else { "store's host does not exist" };
        let advice = Some(format!("{fault}: look at {}, host=`{host}`", self.place));
        HttpError::new(HttpErrorKind::Decode, Refusal { why: Why::Nowhere, advice, text: error.to_string() })
    }
}

/// How resolvers say that a name is nobody's, which they do not say of one that they cannot find out about now.
const NO_SUCH_HOST: [&str; 4] =
    ["Name or service not known", "Name does not resolve", "nodename nor servname provided", "No such host is known"];

/// Whether `error`, or what is behind it, says `text`. The library has no other way to tell these causes apart.
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

/// Credentials that are not set: the instance metadata service of the machine is asked for them. Where there is none,
/// the user has forgotten to set them; where it gave some before, it is disturbed.
#[derive(Debug)]
pub(super) struct MachineCredentials<C> {
    service: Arc<dyn CredentialProvider<Credential = C>>,
    given: AtomicBool,
    /// Names of the settings that give credentials.
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
            let source = Refusal { why: Why::NoCredentials, advice, text: error.to_string() }.into();
            object_store::Error::Generic { store: "cloud", source }
        })
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

    fn refused_by(self, status: u16, text: &str) -> Option<Why> {
        match (self, status) {
            // S3's answer to a signature for another region.
            (_, 400) if text.contains("AuthorizationHeaderMalformed") => Some(Why::Elsewhere),
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

/// Returns a page of a listing whose names the library can all read.
///
/// The library refuses the whole page for one name with an empty part, `..` or a control character, and takes a name
/// that ends in a slash for the one without it. None of ours is like that. Each is replaced by one that shows it, in one
/// part, so that no key of ours can equal it.
fn legible(page: &[u8]) -> Vec<u8> {
    let page = String::from_utf8_lossy(page);
    let mut found = String::with_capacity(page.len());
    // Within an object's element, within a folder's, or before any.
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

/// Returns an XML text without its escapes.
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
        let client = HttpClient::new(Says(status, body));
        let answer = Guard { client, place: "PLACE", answered: AtomicBool::new(false) }.call(request).await?;
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
            (list(), 400, None),
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

    #[test]
    fn a_name_that_no_object_has_does_not_spoil_its_page() {
        let key = |name: &str| format!("<Contents><Key>{name}</Key><Size>1</Size></Contents>");
        let ours = "it&#39;s &lt;ours&gt; &amp; theirs/job/manifest/00000000000000000001";
        let blob = |name: &str| format!("<Blob><Name>{name}</Name></Blob>");
        let folder = |name: &str| format!("<CommonPrefixes><Prefix>{name}</Prefix></CommonPrefixes>");
        let page = |parts: &[String]| format!("<R><Name>bucket</Name><Prefix>a//b/</Prefix>{}</R>", parts.concat());
        let same = page(&[key(ours), blob("a/b"), folder("some/prefix/job/"), key("100%"), key("%2e")]);
        assert_eq!(String::from_utf8(legible(same.as_bytes())).unwrap(), same);
        for (name, shown) in [
            ("job/manifest//x", "job%2Fmanifest%2F%2Fx"),
            ("job/manifest/00000000000000000001/", "job%2Fmanifest%2F00000000000000000001%2F"),
            ("job/../x", "job%2F..%2Fx"),
            ("job/a&#x1;&amp;", "job%2Fa%01&amp;"),
        ] {
            let found = legible(page(&[key(ours), key(name), blob(name), folder(&format!("{name}/"))]).as_bytes());
            let expected = page(&[key(ours), key(shown), blob(shown), folder(&format!("{shown}%2F"))]);
            assert_eq!(String::from_utf8(found).unwrap(), expected, "{name}");
        }
    }

    /// Fails as the library does when nobody answers.
    #[derive(Debug)]
    struct Silent(&'static str);

    #[async_trait]
    impl HttpService for Silent {
        async fn call(&self, _request: HttpRequest) -> Result<HttpResponse, HttpError> {
            Err(HttpError::new(HttpErrorKind::Connect, std::io::Error::other(self.0)))
        }
    }

    #[tokio::test]
    async fn a_place_that_does_not_exist_is_a_mistake_until_it_has_answered() {
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
    async fn a_machine_that_gave_credentials_once_is_only_disturbed() {
        let service = Arc::new(Service(AtomicBool::new(false)));
        let credentials = MachineCredentials::new(service.clone(), "SETTINGS");
        let forgotten = || async {
            let error = credentials.get_credential().await.unwrap_err();
            let source = std::error::Error::source(&error).unwrap();
            source.downcast_ref::<Refusal>().is_some_and(|refusal| refusal.why == Why::NoCredentials)
        };
        assert!(forgotten().await);
        service.0.store(true, Ordering::Relaxed);
        credentials.get_credential().await.unwrap();
        service.0.store(false, Ordering::Relaxed);
        assert!(!forgotten().await);
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
