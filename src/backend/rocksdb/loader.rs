//! Loading groups on other threads: their files are written there, and their owner only has them ingested.

use std::fmt;
use std::sync::Arc;

use super::db::LoadFolder;
use super::load::SortedFiles;
use crate::backend::lazy::{GroupLoader, Loaded};
use crate::error::{Error, Result};
use crate::key_group::KeyGroupSet;
use crate::row::{RowSource, Rules};

/// Writes files by the rules that the backend had. It does not keep the database open.
pub(super) struct DetachedLoader {
    folder: Arc<LoadFolder>,
    rules: Rules,
}

impl fmt::Debug for DetachedLoader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DetachedLoader").finish_non_exhaustive()
    }
}

impl DetachedLoader {
    pub(super) fn new(folder: &Arc<LoadFolder>, rules: &Rules) -> Self {
        Self { folder: Arc::clone(folder), rules: rules.clone() }
    }
}

impl GroupLoader for DetachedLoader {
    fn load(&self, rows: &dyn RowSource, groups: &KeyGroupSet, so_far: Option<Loaded>) -> Result<Option<Loaded>> {
        let mut files = match so_far {
            Some(files) => files_of(files)?,
            None => Box::new(SortedFiles::new(&self.folder)),
        };
        files.add(rows, groups, &self.rules)?;
        Ok(Some(files))
    }

    /// Each group would be ingested on its own, with some syncs of the disk.
    fn is_adopted_freely(&self) -> bool {
        false
    }
}

/// Returns the files that a loader has written.
///
/// # Errors
/// `Usage` if it is the loader of another kind of backend.
pub(super) fn files_of(loaded: Loaded) -> Result<Box<SortedFiles>> {
    loaded.downcast().map_err(|_| Error::usage("groups were loaded for another backend"))
}
