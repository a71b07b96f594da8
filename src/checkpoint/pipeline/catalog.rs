//! The objects that this process uploaded and that no committed checkpoint is known to list.
//!
//! Everything else that its chains refer to is listed by the restored checkpoint or by a committed one.

use std::collections::{BTreeMap, BTreeSet};

use crate::id::{Epoch, ObjectId};
use crate::manifest::ObjectRef;

/// Objects on their way into a checkpoint.
#[derive(Debug, Default)]
pub(crate) struct Catalog {
    /// Each with the epoch for which it was uploaded.
    uploaded: BTreeMap<ObjectId, (Epoch, ObjectRef)>,
    /// The objects reported for each epoch that may still be committed.
    reported: BTreeMap<Epoch, Vec<ObjectId>>,
}

impl Catalog {
    /// Adds an object that was uploaded for `epoch`.
    pub(super) fn add(&mut self, epoch: Epoch, object: ObjectRef) {
        self.uploaded.insert(object.id, (epoch, object));
    }

    /// Divides the objects that `epoch` refers to into uploaded ones and those that an earlier checkpoint lists.
    pub(super) fn report(&mut self, epoch: Epoch, ids: &BTreeSet<ObjectId>) -> (Vec<ObjectRef>, Vec<ObjectId>) {
        let (mut objects, mut kept) = (Vec::new(), Vec::new());
        for &id in ids {
            match self.uploaded.get(&id) {
                Some((_, object)) => objects.push(object.clone()),
                None => kept.push(id),
            }
        }
        self.reported.insert(epoch, objects.iter().map(|object| object.id).collect());
        (objects, kept)
    }

    /// Forgets the objects that the checkpoint of `epoch` lists, and those that no later one will.
    ///
    /// * `chains`: the objects that hold segments of chains.
    pub(super) fn commit(&mut self, epoch: Epoch, chains: &BTreeSet<ObjectId>) {
        for id in self.reported.get(&epoch).into_iter().flatten() {
            self.uploaded.remove(id);
        }
        self.reported = self.reported.split_off(&epoch.next());
        // An object without segments holds opaques and subtask manifests of its epoch alone.
        self.uploaded.retain(|id, (uploaded_for, _)| *uploaded_for > epoch || chains.contains(id));
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.uploaded.is_empty() && self.reported.is_empty()
    }
}
