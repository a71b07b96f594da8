//! The only contact with an object store: put-if-absent, get, delete, list, and nothing else.
//!
//! Invariants: no object is ever overwritten; every create ends as done, as proved not done, or as unknown; what
//! is unknown is settled here and nowhere else, by reading the key back and comparing the put-id; a repeated
//! create sends the same bytes to the same key.

mod cloud;
mod folder;
#[cfg(any(feature = "aws", feature = "azure", feature = "gcp"))]
mod http;
mod key;
mod retry;
mod url;
mod walk;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::StreamExt;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, GetResult, GetResultPayload, ObjectStore, ObjectStoreExt, PutMode};

use crate::canary::{self, Canary};
use crate::envelope::{self, ENVELOPE_HEADER_BYTES, Kind, MacKeys};
use crate::error::{Error, Result};
use crate::id::{JobName, PutId};
use crate::runtime::{Runtime, SharedRuntime};

use retry::{Fault, NO_BUCKET, Patience};

pub use key::{Key, KeyClass};
pub use retry::StoreSettings;
pub use url::{Access, open_url, open_url_with};

/// Most keys that one listing may return.
const LISTED_MAX: usize = 16 << 20;

/// Most foreign names that one listing returns: anybody may write any number of them.
const FOREIGN_NAMES_MAX: usize = 100;

/// What became of a create.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// The object is there, and it is ours.
    Created,
    /// Another's object has the name; ours will never have it.
    Taken,
}

/// A job's keys of one class.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Listing {
    /// Each key with its object's length, ascending.
    pub entries: Vec<(Key, u64)>,
    /// Names in the folder that are not ours.
    pub foreign: u64,
    /// The first of them, at most 100, as they can be shown.
    pub foreign_names: Vec<String>,
}

impl Listing {
    fn add_foreign(&mut self, root: &Path, location: &Path) {
        self.foreign = self.foreign.saturating_add(1);
        if self.foreign_names.len() < FOREIGN_NAMES_MAX {
            let below = location.as_ref().strip_prefix(root.as_ref()).unwrap_or_else(|| location.as_ref());
            self.foreign_names.push(below.trim_start_matches('/').to_owned());
        }
    }
}

/// Requests made so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RequestCounts {
    /// Creates.
    pub put: u64,
    /// Reads: whole, ranged, or of the length alone.
    pub get: u64,
    /// Deletes.
    pub delete: u64,
    /// Listings; a long one takes the store several pages.
    pub list: u64,
    /// Bytes sent.
    pub put_bytes: u64,
    /// Bytes received.
    pub get_bytes: u64,
}

/// One job's place in an object store. Clones share it, and its counts.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
    manifest_keys: Arc<MacKeys>,
}

struct Inner {
    objects: Arc<dyn ObjectStore>,
    root: Path,
    patience: Patience,
    requests: Requests,
}

/// Whose object stands under a name.
enum Holder {
    Nobody,
    Put(PutId),
    /// Not an object of ours at all.
    Foreign,
}

impl Store {
    /// Returns the place of `job` below `prefix`. No request is made.
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
        Self { inner: Arc::new(inner), manifest_keys: Arc::default() }
    }

    /// Sets the keys that the job's manifests are signed and verified with. Default: none.
    #[must_use]
    pub fn with_manifest_keys(mut self, keys: MacKeys) -> Self {
        self.manifest_keys = Arc::new(keys);
        self
    }

    /// Returns the keys that the job's manifests are signed and verified with.
    #[must_use]
    pub fn manifest_keys(&self) -> &MacKeys {
        &self.manifest_keys
    }

    /// Returns the place of `job` in the store at `url`, which is made if it is a folder that does not exist.
    ///
    /// # Errors
    /// As [`open_url`].
    pub fn open(url: &str, job: &JobName, runtime: impl Runtime) -> Result<Self> {
        let (objects, prefix) = open_url(url, Access::Write)?;
        Ok(Self::new(objects, &prefix, job, Arc::new(runtime), StoreSettings::default()))
    }

    /// Returns the runtime that it sleeps on.
    #[must_use]
    pub fn runtime(&self) -> &SharedRuntime {
        &self.inner.patience.runtime
    }

    /// Returns its settings.
    #[must_use]
    pub fn settings(&self) -> &StoreSettings {
        &self.inner.patience.settings
    }

    /// Returns the requests that it and its clones have made.
    #[must_use]
    pub fn requests(&self) -> RequestCounts {
        self.inner.requests.snapshot()
    }

    /// Draws the identity of a write.
    #[must_use]
    pub fn draw_put_id(&self) -> PutId {
        PutId(self.inner.patience.runtime.random().to_le_bytes())
    }

    /// Creates `object`, whose envelope carries `put_id`, unless `key` is taken.
    ///
    /// An answer that was lost, or that may belong to an earlier try of ours, is settled by reading back whose
    /// object it is.
    ///
    /// # Errors
    /// `Denied` or `Config` if the store refuses, `Unavailable` if it stays unclear. With [`Applied::No`] the object
    /// is not there and will not appear; with [`Applied::Unknown`] it may still.
    ///
    /// [`Applied::No`]: crate::Applied::No
    /// [`Applied::Unknown`]: crate::Applied::Unknown
    pub async fn put_new(&self, key: &Key, put_id: PutId, object: Bytes) -> Result<Put> {
        let mut retry = self.inner.patience.retry();
        let mut in_doubt = false;
        loop {
            let mut failure = match self.create(key, object.clone()).await {
                Ok(()) => return Ok(Put::Created),
                Err(Fault::Missing(error)) => {
                    let error = Error::config(NO_BUCKET).with_source(error);
                    return Err(doubted(error, in_doubt));
                }
                Err(Fault::Refused(error)) => return Err(doubted(error, in_doubt)),
                Err(Fault::Exists(_)) if canary::on(Canary::TrustAlreadyExists) => return Ok(Put::Taken),
                Err(Fault::Exists(error) | Fault::Unclear(error)) => error,
            };
            in_doubt = true;
            match self.holder(key).await {
                Ok(Holder::Put(holder)) if holder == put_id => return Ok(Put::Created),
                Ok(Holder::Put(_) | Holder::Foreign) => return Ok(Put::Taken),
                // It may land later, or a conflicting request left nothing: the same bytes go out again.
                Ok(Holder::Nobody) => {}
                Err(error) => failure = error,
            }
            retry.wait(failure).await.map_err(Error::unknown)?;
        }
    }

    /// Returns the whole object under `key`, or `None` if there is none.
    ///
    /// # Errors
    /// `Corrupt` if it is longer than `cap` bytes; `Denied` or `Unavailable` from the store.
    pub async fn read(&self, key: &Key, cap: u64) -> Result<Option<Bytes>> {
        let path = &key.path(&self.inner.root);
        self.retrying(|| self.fetch(key, path, None, cap)).await
    }

    /// Returns bytes `range` of the object under `key`.
    ///
    /// # Errors
    /// `NotFound` if there is no object, `Corrupt` if it ends before the range does; `Denied` or `Unavailable` from
    /// the store.
    pub async fn read_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let path = &key.path(&self.inner.root);
        let (end, cap) = (range.end, range.end.saturating_sub(range.start));
        let range = &range;
        let found = self.retrying(|| async move {
            let fault = match self.fetch(key, path, Some(range.clone()), cap).await {
                Err(Fault::Unclear(error)) => error,
                settled => return settled,
            };
            // Stores differ in how they answer a range beyond the end; the length tells.
            match self.length(key, path).await? {
                length if length < end => Err(Fault::Refused(
                    Error::corrupt("object is shorter than what lies in it")
                        .with("object", key)
                        .with("expected", end)
                        .with("found", length),
                )),
                _ => Err(Fault::Unclear(fault)),
            }
        });
        found.await?.ok_or_else(|| Error::not_found("object is not in the store").with("object", key))
    }

    /// Deletes the object under `key`; it is no error if there is none.
    ///
    /// # Errors
    /// `Denied` or `Unavailable` from the store; the object may or may not be gone then.
    pub async fn delete(&self, key: &Key) -> Result<()> {
        let path = &key.path(&self.inner.root);
        let once = || {
            self.inner.requests.count(&self.inner.requests.delete, "delete");
            self.inner.patience.answer(key, 0, async move {
                self.inner.objects.delete(path).await.map_err(|error| Fault::of(&error, key))
            })
        };
        self.retrying(once).await.map(|_gone| ()).map_err(Error::unknown)
    }

    /// Returns the job's keys of `class`. A page that fails discards the whole listing; a name that is not ours, however
    /// odd, is counted and passed over.
    ///
    /// A listing may lag: it may miss what was just created and show what was just deleted.
    ///
    /// # Errors
    /// `Limit` if there are too many; `Denied` or `Unavailable` from the store.
    pub async fn list(&self, class: KeyClass) -> Result<Listing> {
        Ok(self.retrying(|| self.list_once(class)).await?.unwrap_or_default())
    }

    /// Finds out whether the store can hold a job: it takes creates, refuses to create twice, and gives back what
    /// it took.
    ///
    /// # Errors
    /// `Config` if it lacks or ignores create-if-absent, `Denied` if it is read-only, `Unavailable` if it is out of
    /// reach.
    pub async fn probe(&self) -> Result<()> {
        let [first, second] = [self.draw_put_id(), self.draw_put_id()];
        let key = Key::Probe(first);
        let [object, other] = [first, second].map(|put_id| envelope::encode(Kind::Attempt, put_id, &put_id.0));
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

    /// Repeats `once` until it is settled; `None` is an object that does not exist.
    async fn retrying<T, F>(&self, once: impl Fn() -> F) -> Result<Option<T>>
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

    async fn create(&self, key: &Key, object: Bytes) -> Result<(), Fault> {
        let path = key.path(&self.inner.root);
        self.inner.requests.count(&self.inner.requests.put, "put");
        let bytes = object.len() as u64;
        self.inner.requests.put_bytes.fetch_add(bytes, Ordering::Relaxed);
        let call = async {
            let mode = if canary::on(Canary::Overwrite) { PutMode::Overwrite } else { PutMode::Create };
            let put = self.inner.objects.put_opts(&path, object.into(), mode.into());
            put.await.map(|_| ()).map_err(|error| Fault::of(&error, key))
        };
        self.inner.patience.answer(key, bytes, call).await
    }

    async fn holder(&self, key: &Key) -> Result<Holder> {
        let path = &key.path(&self.inner.root);
        let length = ENVELOPE_HEADER_BYTES as u64;
        let header = match self.fetch(key, path, Some(0..length), length).await {
            Ok(header) => header,
            Err(Fault::Missing(_)) => return Ok(Holder::Nobody),
            Err(fault) => match self.length(key, path).await {
                // It ends before a header does: nothing of ours does.
                Ok(found) if found < length => return Ok(Holder::Foreign),
                _ => return Err(fault.into_error()),
            },
        };
        Ok(envelope::peek_put_id(&header).map_or(Holder::Foreign, Holder::Put))
    }

    /// Makes one read and checks that what arrived is what was asked for.
    async fn fetch(&self, key: &Key, path: &Path, range: Option<Range<u64>>, cap: u64) -> Result<Bytes, Fault> {
        self.inner.requests.count(&self.inner.requests.get, "get");
        let options = GetOptions { range: range.clone().map(GetRange::Bounded), ..GetOptions::default() };
        let asked = range.as_ref().map_or(0, |range| range.end.saturating_sub(range.start));
        let call = async {
            let unclear = |error: object_store::Error| Fault::of(&error, key);
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
            Ok(bytes)
        };
        self.inner.patience.answer(key, asked, call).await
    }

    async fn length(&self, key: &Key, path: &Path) -> Result<u64, Fault> {
        self.inner.requests.count(&self.inner.requests.get, "get");
        let call =
            async { self.inner.objects.head(path).await.map(|meta| meta.size).map_err(|error| Fault::of(&error, key)) };
        self.inner.patience.answer(key, 0, call).await
    }

    async fn list_once(&self, class: KeyClass) -> Result<Listing, Fault> {
        let folder = class.path(&self.inner.root);
        self.inner.requests.count(&self.inner.requests.list, "list");
        let mut pages = self.inner.objects.list(Some(&folder));
        let mut listing = Listing::default();
        while let Some(page) = self.inner.patience.answer(&folder, 0, async { Ok(pages.next().await) }).await? {
            let meta = match page.map_err(|error| Fault::of(&error, &folder)) {
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

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("root", &self.inner.root.as_ref()).finish_non_exhaustive()
    }
}

/// Returns the body of `answer`; it is read no further than is needed to see that it is longer than `length`.
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

/// Marks a refusal: it proves nothing of the tries before it.
fn doubted(error: Error, in_doubt: bool) -> Error {
    if in_doubt { error.unknown() } else { error }
}

/// Returns the names of the jobs below `prefix`, sorted. A folder whose name is not a job's is passed over; one that
/// holds no manifest is not yet a job, which reading its chain tells.
///
/// # Errors
/// `Denied` or `Unavailable` from the store.
pub async fn list_jobs(
    objects: &dyn ObjectStore,
    prefix: &Path,
    runtime: &SharedRuntime,
    settings: &StoreSettings,
) -> Result<Vec<JobName>> {
    let patience = Patience::new(Arc::clone(runtime), settings.clone());
    let mut retry = patience.retry();
    loop {
        let call = objects.list_with_delimiter(Some(prefix));
        let call = async { call.await.map_err(|error| Fault::of(&error, prefix)) };
        match patience.answer(prefix, 0, call).await {
            Ok(found) => {
                let names = found.common_prefixes.iter().filter_map(|path| path.filename()?.parse().ok());
                let mut jobs: Vec<JobName> = names.collect();
                jobs.sort_unstable();
                return Ok(jobs);
            }
            Err(Fault::Missing(_)) => return Ok(Vec::new()),
            Err(Fault::Refused(error)) => return Err(error),
            Err(Fault::Exists(error) | Fault::Unclear(error)) => retry.wait(error).await?,
        }
    }
}

/// Counts of requests, shared by a store's clones.
#[derive(Debug, Default)]
struct Requests {
    put: AtomicU64,
    get: AtomicU64,
    delete: AtomicU64,
    list: AtomicU64,
    put_bytes: AtomicU64,
    get_bytes: AtomicU64,
}

impl Requests {
    fn count(&self, counter: &AtomicU64, operation: &'static str) {
        counter.fetch_add(1, Ordering::Relaxed);
        metrics::counter!("alluvium_store_requests_total", "operation" => operation).increment(1);
    }

    fn snapshot(&self) -> RequestCounts {
        let [put, get, delete, list, put_bytes, get_bytes] =
            [&self.put, &self.get, &self.delete, &self.list, &self.put_bytes, &self.get_bytes]
                .map(|counter| counter.load(Ordering::Relaxed));
        RequestCounts { put, get, delete, list, put_bytes, get_bytes }
    }
}
