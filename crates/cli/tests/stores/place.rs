//! A bucket or container of a real server, and the ways to it.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use alluvium::{Access, StoreSettings, open_url_with};
use object_store::azure::{AzureAccessKey, AzureAuthorizer, AzureCredential};
use object_store::client::{HttpConnector as _, HttpRequest, HttpRequestBody, ReqwestConnector};
use object_store::{ClientOptions, ObjectStore};

use super::server::{self, AZURE_ACCOUNT, AZURE_KEY};
use alluvium_testkit::tool::tool;

/// Credentials that stand for a user's own: the server for S3 takes any.
pub(crate) const S3_ID: &str = "PLANTED-S3-ID";
pub(crate) const S3_SECRET: &str = "PLANTED-S3-SECRET";
pub(crate) const S3_TOKEN: &str = "PLANTED-S3-TOKEN";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    S3,
    Azure,
}

#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) kind: Kind,
    pub(crate) bucket: String,
    /// Whom to ask: the server, or a proxy before it.
    pub(crate) address: SocketAddr,
}

impl Place {
    /// Makes a bucket and a container called `name`, as far as the servers are installed.
    pub(crate) async fn all(name: &str) -> Vec<Self> {
        let mut places = Vec::new();
        for (kind, server) in [(Kind::S3, server::s3()), (Kind::Azure, server::azure())] {
            let Some(server) = server else { continue };
            let place = Self { kind, bucket: name.to_owned(), address: server.address };
            place.make().await;
            places.push(place);
        }
        places
    }

    /// Returns the same place by way of `address`.
    pub(crate) fn via(&self, address: SocketAddr) -> Self {
        Self { address, ..self.clone() }
    }

    /// Returns the bucket of another name, whether it exists or not.
    pub(crate) fn named(&self, bucket: &str) -> Self {
        Self { bucket: bucket.to_owned(), ..self.clone() }
    }

    pub(crate) fn url(&self) -> String {
        match self.kind {
            Kind::S3 => format!("s3://{}/some/prefix", self.bucket),
            Kind::Azure => format!("az://{}/some/prefix", self.bucket),
        }
    }

    /// Returns what of the environment points a user of the URL at this place.
    pub(crate) fn environment(&self) -> Vec<(&'static str, String)> {
        let address = self.address;
        match self.kind {
            Kind::S3 => vec![
                ("AWS_ENDPOINT", format!("http://{address}")),
                ("AWS_ALLOW_HTTP", "true".to_owned()),
                ("AWS_REGION", "us-east-1".to_owned()),
                ("AWS_ACCESS_KEY_ID", S3_ID.to_owned()),
                ("AWS_SECRET_ACCESS_KEY", S3_SECRET.to_owned()),
                ("AWS_SESSION_TOKEN", S3_TOKEN.to_owned()),
            ],
            Kind::Azure => vec![
                ("AZURE_STORAGE_ENDPOINT", format!("http://{address}/{AZURE_ACCOUNT}")),
                ("AZURE_ALLOW_HTTP", "true".to_owned()),
                ("AZURE_STORAGE_ACCOUNT_NAME", AZURE_ACCOUNT.to_owned()),
                ("AZURE_STORAGE_ACCOUNT_KEY", AZURE_KEY.to_owned()),
            ],
        }
    }

    /// Opens it as the crate does.
    pub(crate) fn open(&self) -> Arc<dyn ObjectStore> {
        let environment = self.environment();
        let settings: Vec<(&str, &str)> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
        open_url_with(&self.url(), Access::Write, &settings).unwrap().0
    }

    /// Returns the tool with its arguments, in an environment that leads here.
    pub(crate) fn tool<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = tool(args);
        command.envs(self.environment());
        command
    }

    /// Makes the bucket.
    pub(crate) async fn make(&self) {
        let container = if self.kind == Kind::Azure { "?restype=container" } else { "" };
        self.create(container).await;
    }

    /// Creates an empty object, whatever its name.
    pub(crate) async fn plant(&self, name: &str) {
        self.create(&format!("/{name}")).await;
    }

    async fn create(&self, below: &str) {
        let (address, bucket) = (self.address, &self.bucket);
        let client = ReqwestConnector::default().connect(&ClientOptions::new().with_allow_http(true)).unwrap();
        let mut request = HttpRequest::new(HttpRequestBody::empty());
        *request.method_mut() = "PUT".parse().unwrap();
        let url = match self.kind {
            Kind::S3 => format!("http://{address}/{bucket}{below}"),
            Kind::Azure => format!("http://{address}/{AZURE_ACCOUNT}/{bucket}{below}"),
        };
        *request.uri_mut() = url.parse().unwrap();
        request.headers_mut().insert("content-length", "0".parse().unwrap());
        if self.kind == Kind::Azure {
            request.headers_mut().insert("x-ms-blob-type", "BlockBlob".parse().unwrap());
        }
        if self.kind == Kind::Azure {
            let credential = AzureCredential::AccessKey(AzureAccessKey::try_new(AZURE_KEY).unwrap());
            AzureAuthorizer::new(&credential, AZURE_ACCOUNT).try_authorize(&mut request).unwrap();
        }
        let answer = client.execute(request).await.unwrap();
        assert!(answer.status().is_success(), "{:?}: {}", self.kind, answer.status());
    }
}

/// Settings that try as often as a user's, without the waiting.
pub(crate) fn quick() -> StoreSettings {
    StoreSettings::default().with(|it| {
        it.backoff_first = Duration::from_millis(1);
        it.backoff_max = Duration::from_millis(4);
    })
}

/// Returns the head of a request, signed anew if it is one to the Azure server, whose signatures cover it.
pub(crate) fn sign(head: &str) -> String {
    if !head.contains("authorization: SharedKey") {
        return head.to_owned();
    }
    let (first, rest) = head.split_once("\r\n").unwrap();
    let [method, target, _] = first.split(' ').collect::<Vec<_>>()[..] else { panic!("{first}") };
    let headers = rest.lines().filter_map(|line| line.split_once(": "));
    let headers = headers.filter(|(name, _)| *name != "authorization");
    let mut request = HttpRequest::new(HttpRequestBody::empty());
    *request.method_mut() = method.parse().unwrap();
    *request.uri_mut() = format!("http://azure{target}").parse().unwrap();
    *request.headers_mut() = headers.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
    let credential = AzureCredential::AccessKey(AzureAccessKey::try_new(AZURE_KEY).unwrap());
    AzureAuthorizer::new(&credential, AZURE_ACCOUNT).try_authorize(&mut request).unwrap();
    let headers = request.headers().iter().map(|(name, value)| format!("{name}: {}\r\n", value.to_str().unwrap()));
    format!("{first}\r\n{}\r\n", headers.collect::<String>())
}
