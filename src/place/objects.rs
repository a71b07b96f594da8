//! The data objects of a job: the only way to put and read them.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::cache::{Found, LocalCache};
use super::pack::Packed;
use crate::envelope::Object;
use crate::error::{Error, Result};
use crate::id::ObjectId;
use crate::manifest::{Layout, ObjectRef};
use crate::store::{JobFolder, Key, KeyClass, Put, PutPayload};

/// Longest read of the store. A longer range is read in parts.
pub(crate) const READ_BYTES_MAX: u64 = 64 << 20;

/// Concurrent reads of a call.
const CONCURRENT_READS: usize = 8;

/// A job's data objects. Each is stored whole in the object store; this machine may have copies.
#[derive(Debug, Clone)]
pub struct DataObjects {
    folder: JobFolder,
    cache: Option<LocalCache>,
}

impl DataObjects {
    pub(super) fn new(folder: JobFolder) -> Self {
        Self { folder, cache: None }
    }

    pub(super) fn set_cache(&mut self, cache: LocalCache) {
        self.cache = Some(cache);
    }

    /// Returns the name under which errors and reports show an object.
    #[must_use]
    pub fn name(id: ObjectId) -> String {
        Key::Data(id).to_string()
    }

    /// Puts a finished pack and returns how a manifest refers to it, or `None` if the name is taken.
    ///
    /// # Errors
    /// As [`JobFolder::put_new`].
    pub async fn put(&self, pack: Packed) -> Result<Option<ObjectRef>> {
        let Packed { id, put_id, object: Object { pieces, length: bytes, hash } } = pack;
        let copy = self.cache.as_ref().map(|cache| (cache, cache.add_object(id, pieces.clone())));
        let put = self.folder.put_new(&Key::Data(id), put_id, PutPayload::from_iter(pieces)).await;
        if let Some((cache, copied)) = copy {
            cache.wait(copied).await;
            if !matches!(put, Ok(Put::Created)) {
                cache.forget(id);
            }
        }
        Ok(match put? {
            Put::Created => {
                let layout = Layout::Whole;
                Some(ObjectRef { id, put_id, bytes, hash, layout, cipher: 0, key_id: String::new() })
            }
            Put::Taken => None,
        })
    }

    /// Returns bytes `range` of an object, as the store has them. They are not verified.
    ///
    /// # Errors
    /// As [`JobFolder::read_range`].
    pub async fn read(&self, id: ObjectId, range: Range<u64>) -> Result<Bytes> {
        self.folder.read_range(&Key::Data(id), range).await
    }

    /// Returns what `check` makes of the bytes of `ranges` of an object. It must verify them: they may be from a local copy,
    /// which may be anything. If it refuses them, the copy is dropped, and `check` decides on those of the store.
    ///
    /// # Errors
    /// As [`JobFolder::read_range`]; those of `check` for the store's bytes.
    pub async fn read_checked<T>(
        &self,
        id: ObjectId,
        ranges: &[Range<u64>],
        check: impl Fn(Vec<Bytes>) -> Result<T>,
    ) -> Result<T> {
        let Some(cache) = &self.cache else { return check(self.fetch_all(id, ranges).await?) };
        let found = match ranges {
            [range] => vec![cache.read(id, range.clone()).await],
            _ => {
                let reads = stream::iter(ranges.to_vec()).map(|range| cache.read(id, range));
                reads.buffered(CONCURRENT_READS).collect().await
            }
        };
        let gaps: Vec<_> = found.iter().map(|found| found.gap.clone()).collect();
        let fetched = self.fetch_all(id, &gaps).await?;
        let filled = found.iter().zip(&fetched).map(|(found, fetched)| fill(found, fetched)).collect();
        let (fetched, gaps, value) = match check(filled) {
            Ok(value) => (fetched, gaps, value),
            Err(error) if found.iter().all(|found| found.parts.is_empty()) => return Err(error),
            Err(error) => {
                cache.refuse(found, &error).await;
                let fetched = self.fetch_all(id, ranges).await?;
                let value = check(fetched.clone())?;
                (fetched, ranges.to_vec(), value)
            }
        };
        for (gap, bytes) in gaps.iter().zip(fetched).filter(|(gap, _)| !gap.is_empty()) {
            cache.add_part(id, gap.start, bytes);
        }
        Ok(value)
    }

    /// Reads `ranges` from the store.
    async fn fetch_all(&self, id: ObjectId, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        // A stream of one within the caller's stream would have the caller poll in rounds.
        if let [range] = ranges {
            return Ok(vec![self.fetch(id, range.clone()).await?]);
        }
        stream::iter(ranges.to_vec()).map(|range| self.fetch(id, range)).buffered(CONCURRENT_READS).try_collect().await
    }

    /// Reads a range of any length from the store.
    async fn fetch(&self, id: ObjectId, range: Range<u64>) -> Result<Bytes> {
        let mut starts = Vec::new();
        let mut start = range.start;
        while start < range.end {
            starts.push(start);
            start = start.saturating_add(READ_BYTES_MAX);
        }
        if starts.len() <= 1 {
            return self.read(id, range).await;
        }
        let part = |start: u64| self.read(id, start..start.saturating_add(READ_BYTES_MAX).min(range.end));
        let mut parts = stream::iter(starts).map(part).buffered(CONCURRENT_READS);
        // Do not allocate by the stated length: it is not verified yet.
        let mut bytes = Vec::new();
        while let Some(part) = parts.try_next().await? {
            bytes.extend_from_slice(&part);
        }
        Ok(bytes.into())
    }

    /// Drops this machine's copies of an object that was deleted.
    pub fn forget(&self, id: ObjectId) {
        if let Some(cache) = &self.cache {
            cache.forget(id);
        }
    }

    /// Returns the whole of an object, or `None` if it is gone. Its bytes are not verified.
    ///
    /// * `cap`: its greatest permitted length, in bytes.
    ///
    /// # Errors
    /// As [`JobFolder::read`].
    pub async fn read_whole(&self, id: ObjectId, cap: u64) -> Result<Option<Bytes>> {
        self.folder.read(&Key::Data(id), cap).await
    }

    /// Returns the length of each object in the store. A listing may lag: miss a new object, or show a deleted one.
    ///
    /// # Errors
    /// As [`JobFolder::list`].
    pub async fn lengths(&self) -> Result<BTreeMap<ObjectId, u64>> {
        let listed = self.folder.list(KeyClass::Data).await?.entries.into_iter();
        Ok(listed.filter_map(|(key, length)| if let Key::Data(id) = key { Some((id, length)) } else { None }).collect())
    }
}

/// Returns the bytes of a range of which a local copy has the parts `found`, and the store gave the rest.
fn fill(found: &Found, fetched: &Bytes) -> Bytes {
    match &found.parts[..] {
        [] => fetched.clone(),
        [(_, part)] if fetched.is_empty() => part.clone(),
        parts => {
            let (before, after) = parts.split_at(parts.partition_point(|(start, _)| *start < found.gap.start));
            let slices = before.iter().map(|(_, part)| part).chain([fetched]).chain(after.iter().map(|(_, part)| part));
            slices.map(|bytes| &bytes[..]).collect::<Vec<_>>().concat().into()
        }
    }
}

/// Refuses an object whose layout this build cannot read.
///
/// # Errors
/// `Version`, naming the object.
pub(crate) fn check_layout(object: &ObjectRef) -> Result<()> {
    match object.layout {
        Layout::Whole => Ok(()),
        _ => Err(Error::version("object is in shards, which this build cannot read").with("object", object.id)),
    }
}
