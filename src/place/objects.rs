//! The data objects of a job: the only way to put and read them.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;

use super::pack::Packed;
use crate::envelope::Object;
use crate::error::{Error, Result};
use crate::id::ObjectId;
use crate::manifest::{Layout, ObjectRef};
use crate::store::{JobFolder, Key, KeyClass, Put, PutPayload};

/// A job's data objects. Each is stored whole in the object store.
#[derive(Debug, Clone)]
pub struct DataObjects {
    folder: JobFolder,
}

impl DataObjects {
    pub(super) fn new(folder: JobFolder) -> Self {
        Self { folder }
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
        Ok(match self.folder.put_new(&Key::Data(id), put_id, PutPayload::from_iter(pieces)).await? {
            Put::Created => {
                let layout = Layout::Whole;
                Some(ObjectRef { id, put_id, bytes, hash, layout, cipher: 0, key_id: String::new() })
            }
            Put::Taken => None,
        })
    }

    /// Returns bytes `range` of an object.
    ///
    /// # Errors
    /// As [`JobFolder::read_range`].
    pub async fn read(&self, id: ObjectId, range: Range<u64>) -> Result<Bytes> {
        self.folder.read_range(&Key::Data(id), range).await
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
