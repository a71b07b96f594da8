//! Stores by URL.
//!
//! Credentials and endpoints come from the environment, as the library reads it, or from the caller. A URL with
//! credentials is refused. Errors never show the value of a setting, nor more of a URL than scheme, host and path.

use std::sync::Arc;

use object_store::ObjectStore;
use object_store::memory::InMemory;
use object_store::path::Path;
use url::Url;

use crate::canary::{self, Canary};
use crate::error::{Error, Result};

use super::cloud::{azure, gcs, s3};
use super::folder::Folder;

/// How a store is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reading only: a missing folder is an error.
    Read,
    /// Reading and writing: a missing folder is created.
    Write,
}

/// Opens the store at `url`. Returns the store and the prefix of its jobs. Makes no request.
///
/// `file:///dir` (every create is synced to disk), `memory:///` (dropped with the returned value),
/// `s3://bucket/prefix`, `az://container/prefix`, `gs://bucket/prefix`.
///
/// # Errors
/// `Config` if the URL is malformed, has credentials, or names a store that this build lacks, or if the environment's
/// settings for the store cannot be right, naming the variables; `NotFound` if a folder to read does not exist;
/// `Denied` if a folder cannot be created.
pub fn open_url(url: &str, access: Access) -> Result<(Arc<dyn ObjectStore>, Path)> {
    open_url_with(url, access, &[])
}

/// As [`open_url`], with `settings` of a cloud store that override the environment. Their names are those of the
/// environment variables, such as `AWS_ENDPOINT`.
///
/// # Errors
/// As [`open_url`]; `Config` also if the store has no setting of that name.
pub fn open_url_with(url: &str, access: Access, settings: &[(&str, &str)]) -> Result<(Arc<dyn ObjectStore>, Path)> {
    // Text that does not parse may hold secrets: keep it out of the error.
    let parsed = Url::parse(url).map_err(|source| Error::config("malformed store url").with_source(source))?;
    let shown = shown(&parsed);
    let has_secrets = !parsed.username().is_empty() || parsed.password().is_some();
    if has_secrets || parsed.query().is_some() || parsed.fragment().is_some() {
        let message = "a store url has no user, password, query or fragment: credentials come from the environment";
        return Err(Error::config(message).with("url", shown));
    }
    let prefix = || {
        Path::from_url_path(parsed.path())
            .map_err(|source| Error::config("malformed path in store url").with("url", &shown).with_source(source))
    };
    let host = parsed.host_str().filter(|host| !host.is_empty());
    if let (None, Some((name, _))) = (host, settings.first()) {
        return Err(unknown_setting(name, &shown));
    }
    match (parsed.scheme(), host) {
        ("file", None) => Ok((folder(&parsed, &shown, access)?, Path::default())),
        ("memory", None) => Ok((Arc::new(InMemory::new()), prefix()?)),
        ("s3" | "s3a", Some(_)) => Ok((s3(url, &shown, settings)?, prefix()?)),
        ("az", Some(_)) => Ok((azure(url, &shown, settings)?, prefix()?)),
        ("gs", Some(_)) => Ok((gcs(url, &shown, settings)?, prefix()?)),
        _ => {
            let message = "a store url is file:///dir, memory:///, s3://bucket/prefix, az://container/prefix or \
                           gs://bucket/prefix";
            Err(Error::config(message).with("url", shown))
        }
    }
}

/// Returns the parts of `url` that are safe to show.
fn shown(url: &Url) -> String {
    format!("{}://{}{}", url.scheme(), url.host_str().unwrap_or_default(), url.path())
}

fn folder(url: &Url, shown: &str, access: Access) -> Result<Arc<dyn ObjectStore>> {
    let path = url.to_file_path().map_err(|()| Error::config("store url is not a local path").with("url", shown))?;
    match access {
        Access::Read if !path.is_dir() => {
            return Err(Error::not_found("store folder does not exist").with("path", path.display()));
        }
        Access::Read => {}
        Access::Write => make_folder(&path).map_err(|source| {
            Error::denied("cannot make the store folder").with("path", path.display()).with_source(source)
        })?,
    }
    let store = Folder::open(&path, !canary::on(Canary::SkipSync)).map_err(|source| {
        Error::denied("cannot open the store folder").with("path", path.display()).with_source(source)
    })?;
    Ok(store)
}

/// Creates the folder `path` durably: a folder's name is durable once its parent is synced.
fn make_folder(path: &std::path::Path) -> std::io::Result<()> {
    let missing: Vec<_> = path.ancestors().take_while(|folder| !folder.exists()).collect();
    std::fs::create_dir_all(path)?;
    let parents = missing.iter().filter_map(|folder| folder.parent()).filter(|_| cfg!(unix));
    parents.into_iter().try_for_each(|parent| std::fs::File::open(parent)?.sync_all())
}

pub(super) fn unknown_setting(name: &str, shown: &str) -> Error {
    Error::config("store has no such setting").with("setting", name).with("url", shown)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn bad_urls_are_refused_without_repeating_their_secrets() {
        let bad = [
            "",
            "dir",
            "/dir",
            "file://host/dir",
            "http://host/dir",
            "ftp://host/dir",
            "s3:///nobucket",
            "s3://KEY:SECRET@bucket/prefix",
            "s3://bucket/prefix?token=SECRET",
            "memory:///#SECRET",
            "SECRET://[",
        ];
        for url in bad {
            let error = open_url(url, Access::Write).map(|_| ()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{url}: {error}");
            assert!(!error.chain().contains("SECRET"), "{}", error.chain());
        }
    }

    #[cfg(not(feature = "gcp"))]
    #[test]
    fn a_missing_feature_is_named() {
        let error = open_url("gs://bucket/prefix", Access::Read).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains("`gcp`"), "{error}");
    }

    #[test]
    fn a_folder_is_created_only_for_writing() {
        let dir = tempfile::tempdir().unwrap();
        let url = Url::from_file_path(dir.path().join("a/b")).unwrap();
        let error = open_url(url.as_str(), Access::Read).map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(!dir.path().join("a").exists());
        assert_eq!(open_url(url.as_str(), Access::Write).unwrap().1, Path::default());
        assert!(dir.path().join("a/b").is_dir());
        open_url(url.as_str(), Access::Read).unwrap();
    }
}
