//! A bucket or container of a real server, and access to it.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt as _;

use alluvium::{Access, StoreSettings, open_url_with};
use object_store::azure::{AzureAccessKey, AzureAuthorizer, AzureCredential};
use object_store::client::{HttpConnector as _, HttpRequest, HttpRequestBody, ReqwestConnector};
use object_store::path::Path;
use object_store::{ClientOptions, ObjectStore, ObjectStoreExt as _};

use super::seaweedfs;
use super::server::{self, AZURE_ACCOUNT, AZURE_KEY};
use alluvium_testkit::tool::tool;

/// Stands for a user's own credentials: the S3 servers accept any.
pub(crate) const S3_ID: &str = "PLANTED-S3-ID";
pub(crate) const S3_SECRET: &str = "PLANTED-S3-SECRET";
pub(crate) const S3_TOKEN: &str = "PLANTED-S3-TOKEN";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// moto.
    S3,
    /// S3 too, with the objects on disk.
    SeaweedFs,
    /// Azurite.
    Azure,
}

#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) kind: Kind,
    pub(crate) bucket: String,
    /// The address to connect to: the server, or a proxy in front of it.
    pub(crate) address: SocketAddr,
}

impl Place {
    /// Creates a bucket or container called `name` on each installed server.
    pub(crate) async fn all(name: &str) -> Vec<Self> {
        let mut places = Self::in_memory(name).await;
        if let Some(address) = seaweedfs::shared() {
            places.push(Self::create_on(Kind::SeaweedFs, address, name).await);
        }
        places
    }

    /// Creates a bucket and a container called `name` on the installed servers that keep them in memory: one of each
    /// protocol, for tests of the client.
    pub(crate) async fn in_memory(name: &str) -> Vec<Self> {
        let mut places = Vec::new();
        for (kind, server) in [(Kind::S3, server::s3()), (Kind::Azure, server::azure())] {
            let Some(server) = server else { continue };
            places.push(Self::create_on(kind, server.address, name).await);
        }
        places
    }

    /// Creates a bucket or container on the server at `address`.
    pub(crate) async fn create_on(kind: Kind, address: SocketAddr, name: &str) -> Self {
        let place = Self { kind, bucket: name.to_owned(), address };
        place.make().await;
        place
    }

    /// Returns the same place reached through `address`.
    pub(crate) fn via(&self, address: SocketAddr) -> Self {
        Self { address, ..self.clone() }
    }

    /// Returns the bucket of another name, which may not exist.
    pub(crate) fn named(&self, bucket: &str) -> Self {
        Self { bucket: bucket.to_owned(), ..self.clone() }
    }

    pub(crate) fn url(&self) -> String {
        match self.kind {
            Kind::S3 | Kind::SeaweedFs => format!("s3://{}/some/prefix", self.bucket),
            Kind::Azure => format!("az://{}/some/prefix", self.bucket),
        }
    }

    /// Returns the environment variables that direct a user of the URL to this place.
    pub(crate) fn environment(&self) -> Vec<(&'static str, String)> {
        let address = self.address;
        match self.kind {
            Kind::S3 | Kind::SeaweedFs => vec![
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

    /// Opens the place as the crate does.
    pub(crate) fn open(&self) -> Arc<dyn ObjectStore> {
        let environment = self.environment();
        let settings: Vec<(&str, &str)> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
        open_url_with(&self.url(), Access::Write, &settings).unwrap().0
    }

    /// Returns the rows of all objects below `prefix`, sorted, without their headers.
    pub(crate) async fn rows(&self, prefix: &str) -> Vec<String> {
        let store = self.open();
        let listed: Vec<_> = store.list(Some(&Path::from(prefix))).try_collect().await.unwrap();
        let mut rows = Vec::new();
        for object in listed.iter().filter(|object| object.size > 0) {
            let text = store.get(&object.location).await.unwrap().bytes().await.unwrap();
            let text = String::from_utf8(text.to_vec()).unwrap();
            let (header, body) = text.split_once('\n').unwrap();
            assert!(header.contains("window_start"), "{}: {header}", object.location);
            rows.extend(body.lines().map(str::to_owned));
        }
        rows.sort_unstable();
        rows
    }

    /// Returns the tool's command with its arguments, in an environment that points here.
    pub(crate) fn tool<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = tool(args);
        command.envs(self.environment());
        command
    }

    /// Creates the bucket.
    pub(crate) async fn make(&self) {
        let container = if self.kind == Kind::Azure { "?restype=container" } else { "" };
        self.create(container).await;
    }

    /// Creates an empty object with any name.
    pub(crate) async fn plant(&self, name: &str) {
        self.create(&format!("/{name}")).await;
    }

    async fn create(&self, below: &str) {
        let (address, bucket) = (self.address, &self.bucket);
        let client = ReqwestConnector::default().connect(&ClientOptions::new().with_allow_http(true)).unwrap();
        let mut request = HttpRequest::new(HttpRequestBody::empty());
        *request.method_mut() = "PUT".parse().unwrap();
        let url = match self.kind {
            Kind::S3 | Kind::SeaweedFs => format!("http://{address}/{bucket}{below}"),
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

/// Settings with the default number of tries, but without delays.
pub(crate) fn quick() -> StoreSettings {
    StoreSettings::default().with(|it| {
        it.backoff_first = Duration::from_millis(1);
        it.backoff_max = Duration::from_millis(4);
    })
}

/// Returns the head of a request. Azure's signatures cover the head, so a request to Azure is signed again.
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
