//! Absent groups of the model's backends, loaded from the sealed parts.

use std::sync::{Arc, Mutex};

use alluvium::backend::conformance::History;
use alluvium::backend::{Arrived, ArrivedContent, GroupLoader, GroupSource};
use alluvium::{KeyGroup, KeyGroupSet, Result, TableId, Timestamp};

/// Loads a group when it is waited for, or with others once it was requested.
#[derive(Debug)]
pub(super) struct FromHistory {
    history: Arc<Mutex<History>>,
    loader: Mutex<Option<Arc<dyn GroupLoader>>>,
    requested: Mutex<KeyGroupSet>,
}

impl FromHistory {
    pub(super) fn new(history: Arc<Mutex<History>>, loader: Option<Arc<dyn GroupLoader>>) -> Self {
        Self { history, loader: Mutex::new(loader), requested: Mutex::new(KeyGroupSet::empty()) }
    }
}

impl GroupSource for FromHistory {
    fn set_loader(&self, loader: Option<Arc<dyn GroupLoader>>) {
        *self.loader.lock().unwrap() = loader;
    }

    fn request(&self, groups: &KeyGroupSet) {
        let mut requested = self.requested.lock().unwrap();
        *requested = requested.union(groups);
    }

    fn wait(&self, group: KeyGroup) -> Result<Arrived> {
        let (history, groups) = (self.history.lock().unwrap().clone(), std::iter::once(group).collect());
        self.forget(&groups);
        let loaded = self
            .loader
            .lock()
            .unwrap()
            .as_ref()
            .map(|loader| loader.load(&history, &groups, None))
            .transpose()?
            .flatten();
        let content = loaded.map_or_else(|| ArrivedContent::Rows(vec![Arc::new(history)]), ArrivedContent::Loaded);
        Ok(Arrived { groups, content })
    }

    fn take_loaded(&self) -> Vec<Arrived> {
        let requested = self.requested.lock().unwrap().clone();
        requested.iter().map(|group| self.wait(group).unwrap()).collect()
    }

    fn coldest(&self, resident: &KeyGroupSet) -> Option<KeyGroup> {
        resident.first()
    }

    fn take_back(&self, groups: &KeyGroupSet) {
        self.forget(groups);
    }

    fn forget(&self, groups: &KeyGroupSet) {
        let mut requested = self.requested.lock().unwrap();
        *requested = requested.difference(groups);
    }

    fn earliest_timer(&self, _table: TableId, _group: KeyGroup) -> Option<Timestamp> {
        None
    }
}
