//! Output to any object store that keeps metadata with its objects: S3, Azure, Google, memory.
//!
//! A slot's output is a log of objects `<prefix>/<slot>/part-<number>`, numbered from 1 without gaps and created if absent. The
//! metadata of each has the attempt that created it and the slot's marker, so an object's content and the marker appear together. A
//! fence is an empty object: it takes the number that an older attempt would use next.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use object_store::path::Path;
use object_store::{Attribute, Attributes, GetOptions, ObjectStore, PutMode, PutOptions, PutPayload};

use super::{Marker, Records, SinkSlot, SinkTarget, Slot};
use crate::error::{Error, Result};
use crate::id::Attempt;
use crate::store::{Access, Fault, open_url_with};

/// Names of metadata. Some stores allow letters and digits alone.
const ATTEMPT: &str = "alluviumattempt";
const MARKER: &str = "alluviummarker";

const PREFIX: &str = "part-";

/// An object store that takes output, each epoch of a slot as one object of records one after the other.
///
/// Readers list `<prefix>/<slot>/` and read the objects in the order of their names; empty ones are fences. What is there stays: the
/// crate deletes no output. Leave at least the newest object of each slot, since it holds the marker.
///
/// # Cost
/// One request per epoch with output and slot; a listing and at least two requests per start and slot. An object has at most
/// [`SinkSettings::max_unpublished_bytes`](super::SinkSettings::max_unpublished_bytes), and is sent in one piece.
#[derive(Clone)]
pub struct ObjectStoreTarget {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    header: Bytes,
    extension: String,
}

impl ObjectStoreTarget {
    /// Returns the target at `url`: `s3://bucket/prefix`, `az://container/prefix`, `gs://bucket/prefix` or `memory:///prefix`.
    /// Credentials come from the environment. Makes no request.
    ///
    /// # Errors
    /// `Config` if the URL or the environment's settings cannot be right, or for a folder, which keeps no metadata.
    pub fn open(url: &str) -> Result<Self> {
        if url.starts_with("file:") {
            return Err(Error::config(
                "a folder keeps no metadata with its files, which output to an object store needs",
            ));
        }
        let (store, prefix) = open_url_with(url, Access::Write, &[])?;
        Ok(Self::new(store, prefix))
    }

    /// Returns the target below `prefix` of a store that honours create-if-absent and keeps metadata.
    #[must_use]
    pub fn new(store: Arc<dyn ObjectStore>, prefix: Path) -> Self {
        Self { store, prefix, header: Bytes::new(), extension: String::new() }
    }

    /// Starts each object that has records with `header`, and ends its name with `extension`: with the names of the columns and
    /// `.csv`, say.
    #[must_use]
    pub fn with_form(self, header: impl Into<Bytes>, extension: impl Into<String>) -> Self {
        Self { header: header.into(), extension: extension.into(), ..self }
    }

    /// Calls `each` with what a slot has published, in order: the marker and the content of every object with records.
    ///
    /// # Errors
    /// From `each`; `Corrupt` if an object has lost its metadata; `NotFound` if one is missing between others; `Denied` or
    /// `Unavailable` from the store.
    ///
    /// # Cost
    /// A listing, and a read of each object, one at a time.
    pub async fn read(&self, slot: &Slot, mut each: impl FnMut(Marker, Bytes) -> Result<()> + Send) -> Result<()> {
        let slot = ObjectStoreSlot::new(self, slot);
        let (last, _) = slot.end().await?;
        for number in 1..=last {
            let path = slot.path(number);
            let failed = |error: object_store::Error| Fault::classify(&error, &path).into_error();
            let found = self.store.get_opts(&path, GetOptions::default()).await.map_err(failed)?;
            let head = Head::from_attributes(&found.attributes).map_err(|error| error.with("object", &path))?;
            let content = found.bytes().await.map_err(failed)?;
            if let Some(marker) = head.marker.filter(|_| !content.is_empty()) {
                each(marker, content)?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for ObjectStoreTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjectStoreTarget").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

#[async_trait]
impl SinkTarget for ObjectStoreTarget {
    async fn check(&self) -> Result<()> {
        let listed = self.store.list(Some(&self.prefix)).try_next().await;
        listed.map(|_first| ()).map_err(|error| Fault::classify(&error, &self.prefix).into_error())
    }

    async fn open(&self, slot: &Slot) -> Result<Box<dyn SinkSlot>> {
        Ok(Box::new(ObjectStoreSlot::new(self, slot)))
    }
}

/// A slot's log of objects.
#[derive(Debug)]
struct ObjectStoreSlot {
    target: ObjectStoreTarget,
    folder: Path,
    /// The number of the next object: the one after the last fence or publication.
    next: u64,
}

/// The metadata of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Head {
    attempt: Attempt,
    marker: Option<Marker>,
}

impl Head {
    fn to_attributes(self) -> Attributes {
        let named = |name: &'static str, value: String| (Attribute::Metadata(name.into()), value);
        let marker = self.marker.map(|marker| named(MARKER, marker.to_string()));
        [named(ATTEMPT, self.attempt.to_string())].into_iter().chain(marker).collect()
    }

    fn from_attributes(attributes: &Attributes) -> Result<Self> {
        let text = |name: &'static str| attributes.get(&Attribute::Metadata(name.into())).map(AsRef::as_ref);
        let lost = || Error::corrupt("object of a sink has lost its metadata, or is not a sink's");
        let attempt = text(ATTEMPT).and_then(|attempt: &str| attempt.parse().ok()).ok_or_else(lost)?;
        Ok(Self { attempt, marker: text(MARKER).map(|marker: &str| marker.parse()).transpose()? })
    }
}

impl ObjectStoreSlot {
    fn new(target: &ObjectStoreTarget, slot: &Slot) -> Self {
        Self { target: target.clone(), folder: target.prefix.clone().join(slot.to_string()), next: 1 }
    }

    fn path(&self, number: u64) -> Path {
        self.folder.clone().join(format!("{PREFIX}{number:012}{}", self.target.extension))
    }

    /// Returns the number in an object's name: the inverse of [`path`](Self::path).
    fn number(&self, path: &Path) -> Option<u64> {
        let number = path.filename()?.strip_prefix(PREFIX)?.get(..12)?.parse().ok()?;
        (self.path(number) == *path).then_some(number)
    }

    async fn head(&self, number: u64) -> Result<Option<Head>> {
        let path = self.path(number);
        let options = GetOptions { head: true, ..GetOptions::default() };
        match self.target.store.get_opts(&path, options).await {
            Ok(found) => Head::from_attributes(&found.attributes).map(Some).map_err(|error| error.with("object", path)),
            Err(error) => match Fault::classify(&error, &path) {
                Fault::Missing(_) => Ok(None),
                other => Err(other.into_error()),
            },
        }
    }

    /// Returns the number of the log's last object, 0 without one, and its metadata. A listing is only a hint at the end.
    async fn end(&self) -> Result<(u64, Option<Head>)> {
        let listed = self.target.store.list(Some(&self.folder));
        let newest = listed.try_fold(0, |newest, object| {
            let number = self.number(&object.location).unwrap_or_default();
            std::future::ready(Ok(number.max(newest)))
        });
        let failed = |error: object_store::Error| Fault::classify(&error, &self.folder).into_error();
        let mut last = newest.await.map_err(failed)?;
        let mut head = if last == 0 { None } else { self.head(last).await? };
        while let Some(next) = self.head(last + 1).await? {
            (last, head) = (last + 1, Some(next));
        }
        Ok((last, head))
    }

    /// Creates an object of the log; returns false if its number is taken.
    async fn create(&self, number: u64, head: Head, content: PutPayload) -> Result<bool> {
        let path = self.path(number);
        let options = PutOptions { attributes: head.to_attributes(), ..PutOptions::from(PutMode::Create) };
        match self.target.store.put_opts(&path, content, options).await {
            Ok(_) => Ok(true),
            Err(error) => match Fault::classify(&error, &path) {
                Fault::Exists(_) => Ok(false),
                Fault::Unclear(error) => Err(error.unknown()),
                Fault::Refused(error) | Fault::Missing(error) => Err(error),
            },
        }
    }
}

#[async_trait]
impl SinkSlot for ObjectStoreSlot {
    async fn fence(&mut self, attempt: Attempt) -> Result<Option<Marker>> {
        loop {
            let (last, head) = self.end().await?;
            if let Some(by) = head.map(|head| head.attempt).filter(|by| *by > attempt) {
                return Err(fenced(attempt, by));
            }
            let marker = head.and_then(|head| head.marker);
            if self.create(last + 1, Head { attempt, marker }, PutPayload::new()).await? {
                self.next = last + 2;
                return Ok(marker);
            }
        }
    }

    async fn publish(&mut self, marker: Marker, records: &Records) -> Result<()> {
        let header = (!records.is_empty()).then(|| self.target.header.clone());
        let content: PutPayload = header.into_iter().chain(records.iter()).collect();
        let head = Head { attempt: marker.attempt, marker: Some(marker) };
        if self.create(self.next, head, content).await? {
            self.next += 1;
            return Ok(());
        }
        match self.head(self.next).await? {
            Some(taken) if taken.attempt > marker.attempt => Err(fenced(marker.attempt, taken.attempt)),
            // Perhaps by an earlier try of this very call: the fence finds out.
            _ => Err(Error::unavailable("next object of the slot is taken")
                .with("object", self.path(self.next))
                .unknown()),
        }
    }
}

fn fenced(attempt: Attempt, by: Attempt) -> Error {
    Error::fenced("a newer attempt publishes through the slot").with("attempt", attempt).with("by", by)
}

#[cfg(test)]
mod tests {
    use object_store::ObjectStoreExt as _;
    use object_store::memory::InMemory;

    use super::*;
    use crate::error::ErrorKind;
    use crate::id::{Epoch, JobId, Lineage, OperatorId, Subtask};

    fn slot() -> Slot {
        Slot { job: JobId([1; 16]), operator: OperatorId(2), sink: "out".to_owned(), subtask: Subtask(3) }
    }

    #[tokio::test]
    async fn objects_are_numbered_and_carry_the_marker() {
        let store = Arc::new(InMemory::new());
        let target = ObjectStoreTarget::new(Arc::<InMemory>::clone(&store), Path::from("results"));
        let target = target.with_form("k,count\n", ".csv");
        let mut opened = target.open(&slot()).await.unwrap();
        opened.fence(Attempt(4)).await.unwrap();
        let marker = Marker { lineage: Lineage([9; 16]), attempt: Attempt(4), epoch: Epoch(7) };
        opened.publish(marker, &["a,1\n", "b,2\n"].into_iter().collect()).await.unwrap();
        let folder = format!("results/{}.2.out.3", "01".repeat(16));
        let second = Path::from(format!("{folder}/part-000000000002.csv"));
        let found = store.get(&second).await.unwrap().bytes().await.unwrap();
        assert_eq!(found, "k,count\na,1\nb,2\n");
        let fence = store.get(&Path::from(format!("{folder}/part-000000000001.csv"))).await.unwrap();
        assert!(fence.bytes().await.unwrap().is_empty());

        // What a user puts there is left alone, and without metadata it is no part of the log.
        store.put(&Path::from(format!("{folder}/notes.txt")), "x".into()).await.unwrap();
        assert_eq!(opened.fence(Attempt(4)).await.unwrap(), Some(marker));
        store.put(&Path::from(format!("{folder}/part-000000000004.csv")), "x".into()).await.unwrap();
        assert_eq!(opened.fence(Attempt(5)).await.unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[tokio::test]
    async fn a_folder_is_refused() {
        assert_eq!(ObjectStoreTarget::open("file:///tmp/x").unwrap_err().kind(), ErrorKind::Config);
        ObjectStoreTarget::open("memory:///x").unwrap().check().await.unwrap();
    }
}
