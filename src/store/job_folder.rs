//! One job's folder: creates, reads, deletes and listings, each retried until it is settled or the retries run out.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures_util::StreamExt;
use object_store::path::Path;
use object_store::{
    GetOptions, GetRange, GetResult, GetResultPayload, ObjectStore, ObjectStoreExt, PutMode, PutPayload,
};

use super::fault::{Fault, NO_BUCKET};
use super::key::{Key, KeyClass};
use super::listing::{LISTED_MAX, Listing};
use super::requests::{RequestCounts, Requests};
use super::retry::{Patience, StoreSettings};
use crate::canary::{self, Canary};
use crate::envelope::{self, ENVELOPE_HEADER_BYTES, ObjectKind};
use crate::error::{Error, Result};
use crate::id::{JobName, PutId};
use crate::runtime::SharedRuntime;

/// The outcome of a create.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// The object is in the store.
    Created,
    /// Another object has the key, for good.
    Taken,
}

/// One job's folder in an object store. Clones share the request counts.
#[derive(Clone)]
pub struct JobFolder {
    inner: Arc<Inner>,
}

struct Inner {
    objects: Arc<dyn ObjectStore>,
    root: Path,
    patience: Patience,
    requests: Requests,
}

/// The object that holds a key.
enum Holder {
    Nobody,
    Put(PutId),
    /// Not an object of this crate.
    Foreign,
}

impl JobFolder {
    /// Returns the folder of `job` below `prefix`. Makes no request.
    #[must_use]
    pub fn new(
        objects: Arc<dyn ObjectStore>,
        prefix: &Path,
        job: &JobName,
        runtime: SharedRuntime,
        settings: StoreSettings,
    ) -> Self {
        let root = prefix.clone().join(job.as_str());
        let inner = Inner { objects, root, patience: Patience::new(runtime, settings), requests: Requests::default() };
        Self { inner: Arc::new(inner) }
    }

    /// Returns the store's settings.
    #[must_use]
    pub fn settings(&self) -> &StoreSettings {
        &self.inner.patience.settings
    }

    /// Returns the requests made by this value and its clones.
    #[must_use]
    pub fn requests(&self) -> RequestCounts {
        self.inner.requests.snapshot()
    }

    /// Creates `object`, whose envelope has `put_id`, unless `key` is taken. An object may come in pieces.
    ///
    /// After a lost response, or a refusal that an earlier try of this call may have caused, the object is read back
    /// and its put-id compared.
    ///
    /// # Errors
    /// `Denied` or `Config` if the store refuses, `Unavailable` if the outcome stays unknown. With [`Applied::No`] the
    /// object does not exist and will not appear; with [`Applied::Unknown`] it may.
    ///
    /// [`Applied::No`]: crate::Applied::No
    /// [`Applied::Unknown`]: crate::Applied::Unknown
    pub async fn put_new(&self, key: &Key, put_id: PutId, object: impl Into<PutPayload>) -> Result<Put> {
        let object = object.into();
        let mut retry = self.inner.patience.retry();
        let mut in_doubt = false;
        loop {
            let mut failure = match self.create(key, object.clone()).await {
                Ok(()) => return Ok(Put::Created),
                Err(Fault::Missing(error)) => {
                    let error = Error::config(NO_BUCKET).with_source(error);
                    return Err(with_doubt(error, in_doubt));
                }
                Err(Fault::Refused(error)) => return Err(with_doubt(error, in_doubt)),
                Err(Fault::Exists(_)) if canary::on(Canary::TrustAlreadyExists) => return Ok(Put::Taken),
                Err(Fault::Exists(error) | Fault::Unclear(error)) => error,
            };
            in_doubt = true;
            match self.holder(key).await {
                Ok(Holder::Put(holder)) if holder == put_id => return Ok(Put::Created),
                Ok(Holder::Put(_) | Holder::Foreign) => return Ok(Put::Taken),
                // A delayed create may still land, or a conflicting one left nothing. Send the same bytes again.
                Ok(Holder::Nobody) => {}
                Err(error) => failure = error,
            }
            retry.wait(failure).await.map_err(Error::unknown)?;
        }
    }

    /// Returns the whole object under `key`; `None` if there is none.
    ///
    /// # Errors
    /// `Corrupt` if the object is longer than `cap` bytes; `Denied` or `Unavailable` from the store.
    pub async fn read(&self, key: &Key, cap: u64) -> Result<Option<Bytes>> {
        let path = &key.path(&self.inner.root);
        self.retry(|| self.fetch(key, path, None, cap)).await
    }

    /// Returns bytes `range` of the object under `key`.
    ///
    /// # Errors
    /// `NotFound` if there is no object, `Corrupt` if the object ends inside the range; `Denied` or `Unavailable` from
    /// the store.
    pub async fn read_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let path = &key.path(&self.inner.root);
        let (end, cap) = (range.end, range.end.saturating_sub(range.start));
        let range = &range;
        let found = self.retry(|| async move {
            let fault = match self.fetch(key, path, Some(range.clone()), cap).await {
                Err(Fault::Unclear(error)) => error,
                settled => return settled,
            };
            // Stores differ in how they answer a range beyond the end, so check the length.
            match self.length(key, path).await? {
                length if length < end => Err(Fault::Refused(
                    Error::corrupt("object is shorter than its content")
                        .with("object", key)
                        .with("expected", end)
                        .with("found", length),
                )),
                _ => Err(Fault::Unclear(fault)),
            }
        });
        found.await?.ok_or_else(|| Error::not_found("object is not in the store").with("object", key))
    }

    /// Deletes the object under `key`. A missing object is no error.
    ///
    /// # Errors
    /// `Denied` or `Unavailable` from the store; the object may be gone all the same.
    pub async fn delete(&self, key: &Key) -> Result<()> {
        let path = &key.path(&self.inner.root);
        let once = || {
            self.inner.requests.count(&self.inner.requests.delete, "delete");
            self.inner.patience.with_timeout(key, 0, async move {
                self.inner.objects.delete(path).await.map_err(|error| Fault::classify(&error, key))
            })
        };
        self.retry(once).await.map(|_gone| ()).map_err(Error::unknown)
    }

    /// Returns the job's keys of `class`. If a page fails, the whole listing is retried. Foreign names are counted and
    /// skipped.
    ///
    /// A listing may lag: it can miss a new object, or show a deleted one.
    ///
    /// # Errors
    /// `Limit` if there are more than 16 Mi keys; `Denied` or `Unavailable` from the store.
    pub async fn list(&self, class: KeyClass) -> Result<Listing> {
        Ok(self.retry(|| self.list_once(class)).await?.unwrap_or_default())
    }

    /// Checks whether the store can hold a job: it creates an object, refuses to create it again, and returns its
    /// bytes.
    ///
    /// # Errors
    /// `Config` if the store lacks or ignores create-if-absent, `Denied` if it is read-only, `Unavailable` if it does
    /// not answer.
    pub async fn probe(&self) -> Result<()> {
        let draw = || PutId(self.inner.patience.runtime.random().to_le_bytes());
        let [first, second] = [draw(), draw()];
        let key = Key::Probe(first);
        let [object, other] = [first, second].map(|put_id| envelope::encode(ObjectKind::Attempt, put_id, &put_id.0));
        let created = self.put_new(&key, first, object.clone()).await?;
        let again = self.put_new(&key, second, other).await?;
        let found = self.read_range(&key, 0..object.len() as u64).await?;
        if let Err(error) = self.delete(&key).await {
            tracing::warn!(error = error.chain(), "store does not let objects be deleted: dead ones will stay");
        }
        if (created, again) != (Put::Created, Put::Taken) {
            let message = "store ignores create-if-absent, on which every commit rests";
            return Err(Error::config(message).with("object", key));
        }
        if found != object {
            return Err(Error::config("store gives back something else than it took").with("object", key));
        }
        Ok(())
    }

    /// Retries `once` until it is settled; `None` if the object does not exist.
    async fn retry<T, F>(&self, once: impl Fn() -> F) -> Result<Option<T>>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        let mut retry = self.inner.patience.retry();
        loop {
            match once().await {
                Ok(value) => return Ok(Some(value)),
                Err(Fault::Missing(_)) => return Ok(None),
                Err(Fault::Refused(error)) => return Err(error),
                Err(Fault::Exists(error) | Fault::Unclear(error)) => retry.wait(error).await?,
            }
        }
    }

    async fn create(&self, key: &Key, object: PutPayload) -> Result<(), Fault> {
        let path = key.path(&self.inner.root);
        self.inner.requests.count(&self.inner.requests.put, "put");
        let bytes = object.content_length() as u64;
        self.inner.requests.put_bytes.fetch_add(bytes, Ordering::Relaxed);
        let call = async {
            let mode = if canary::on(Canary::Overwrite) { PutMode::Overwrite } else { PutMode::Create };
            let put = self.inner.objects.put_opts(&path, object, mode.into());
            put.await.map(|_| ()).map_err(|error| Fault::classify(&error, key))
        };
        self.inner.patience.with_timeout(key, bytes, call).await
    }

    async fn holder(&self, key: &Key) -> Result<Holder> {
        let path = &key.path(&self.inner.root);
        let length = ENVELOPE_HEADER_BYTES as u64;
        let header = match self.fetch(key, path, Some(0..length), length).await {
            Ok(header) => header,
            Err(Fault::Missing(_)) => return Ok(Holder::Nobody),
            Err(fault) => match self.length(key, path).await {
                // The object is shorter than a header, which every object of this crate has.
                Ok(found) if found < length => return Ok(Holder::Foreign),
                _ => return Err(fault.into_error()),
            },
        };
        Ok(envelope::peek_put_id(&header).map_or(Holder::Foreign, Holder::Put))
    }

    /// Makes one read and checks that the response has the requested range and its stated length.
    async fn fetch(&self, key: &Key, path: &Path, range: Option<Range<u64>>, cap: u64) -> Result<Bytes, Fault> {
        self.inner.requests.count(&self.inner.requests.get, "get");
        let options = GetOptions { range: range.clone().map(GetRange::Bounded), ..GetOptions::default() };
        let asked = range.as_ref().map_or(0, |range| range.end.saturating_sub(range.start));
        let call = async {
            let unclear = |error: object_store::Error| Fault::classify(&error, key);
            let answer = self.inner.objects.get_opts(path, options).await.map_err(unclear)?;
            let got = answer.range.clone();
            if range.as_ref().is_some_and(|asked| *asked != got) {
                let error = Error::unavailable("store answered with another range").with("object", key);
                return Err(Fault::Unclear(error.with("found", format!("{}..{}", got.start, got.end))));
            }
            let length = got.end.saturating_sub(got.start);
            if length > cap && !canary::on(Canary::SkipCap) {
                let error = Error::corrupt("object is longer than any of its kind").with("object", key);
                return Err(Fault::Refused(error.with("bytes", length).with("limit", cap)));
            }
            let bytes = body(answer, length).await.map_err(unclear)?;
            if bytes.len() as u64 != length {
                let error = Error::unavailable("store's answer is not as long as it says").with("object", key);
                return Err(Fault::Unclear(error.with("expected", length).with("found", bytes.len())));
            }
            self.inner.requests.get_bytes.fetch_add(length, Ordering::Relaxed);
            if key.is_data() {
                self.inner.requests.data_bytes.fetch_add(length, Ordering::Relaxed);
            }
            Ok(bytes)
        };
        self.inner.patience.with_timeout(key, asked, call).await
    }

    async fn length(&self, key: &Key, path: &Path) -> Result<u64, Fault> {
        self.inner.requests.count(&self.inner.requests.get, "get");
        let call = async {
            self.inner.objects.head(path).await.map(|meta| meta.size).map_err(|error| Fault::classify(&error, key))
        };
        self.inner.patience.with_timeout(key, 0, call).await
    }

    async fn list_once(&self, class: KeyClass) -> Result<Listing, Fault> {
        let folder = class.path(&self.inner.root);
        self.inner.requests.count(&self.inner.requests.list, "list");
        let mut pages = self.inner.objects.list(Some(&folder));
        let mut listing = Listing::default();
        while let Some(page) = self.inner.patience.with_timeout(&folder, 0, async { Ok(pages.next().await) }).await? {
            let meta = match page.map_err(|error| Fault::classify(&error, &folder)) {
                Err(_) if canary::on(Canary::PartialListing) => break,
                page => page?,
            };
            match Key::parse(class, &self.inner.root, &meta.location) {
                Some(key) => listing.entries.push((key, meta.size)),
                None => listing.add_foreign(&self.inner.root, &meta.location),
            }
            if listing.entries.len() > LISTED_MAX {
                return Err(Fault::Refused(Error::limit("too many objects to list").with("limit", LISTED_MAX)));
            }
        }
        listing.entries.sort_unstable();
        Ok(listing)
    }
}

impl fmt::Debug for JobFolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobFolder").field("root", &self.inner.root.as_ref()).finish_non_exhaustive()
    }
}

/// Returns the body of `answer`. Stops reading once the body exceeds `length`.
async fn body(answer: GetResult, length: u64) -> object_store::Result<Bytes> {
    if matches!(answer.payload, GetResultPayload::File(..)) {
        return answer.bytes().await;
    }
    let mut stream = answer.into_stream().fuse();
    let mut found = stream.next().await.transpose()?.unwrap_or_default();
    let mut whole = Vec::new();
    while (whole.len().max(found.len()) as u64) <= length
        && let Some(part) = stream.next().await.transpose()?
    {
        if whole.is_empty() {
            whole = Vec::from(std::mem::take(&mut found));
        }
        whole.extend_from_slice(&part);
    }
    Ok(if whole.is_empty() { found } else { whole.into() })
}

/// Marks a refusal as unknown if an earlier try is in doubt: the refusal proves nothing about that try.
fn with_doubt(error: Error, in_doubt: bool) -> Error {
    if in_doubt { error.unknown() } else { error }
}
