//! The result of listing a job's folder.

use object_store::path::Path;

use super::key::Key;

/// Most keys that one listing may return.
pub(super) const LISTED_MAX: usize = 16 << 20;

/// Most foreign names that one listing returns: a folder may hold any number.
const FOREIGN_NAMES_MAX: usize = 100;

/// A job's keys of one class.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Listing {
    /// Each key with its object's length, ascending.
    pub entries: Vec<(Key, u64)>,
    /// Number of names in the folder that are not keys of the job.
    pub foreign: u64,
    /// The first 100 foreign names, escaped for display.
    pub foreign_names: Vec<String>,
}

impl Listing {
    pub(super) fn add_foreign(&mut self, root: &Path, location: &Path) {
        self.foreign = self.foreign.saturating_add(1);
        if self.foreign_names.len() < FOREIGN_NAMES_MAX {
            let below = location.as_ref().strip_prefix(root.as_ref()).unwrap_or_else(|| location.as_ref());
            self.foreign_names.push(below.trim_start_matches('/').to_owned());
        }
    }
}
