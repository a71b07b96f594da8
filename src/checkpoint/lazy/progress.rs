//! How far a lazy restore has come.

/// How far the restore of a subtask, or of several, has come.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[non_exhaustive]
pub struct RestoreProgress {
    /// Key groups of the checkpoint.
    pub groups: usize,
    /// Of these, those that are loaded.
    pub loaded_groups: usize,
    /// Stored bytes of the groups. A block of several groups counts for its first; segments up to 32 KiB count for none.
    pub bytes: u64,
    /// Of these, those that are loaded.
    pub loaded_bytes: u64,
    /// The share of the recorded traffic that no longer waits: of the uses of all groups, those of loaded ones, from 0 to 1.
    pub ready_share: f64,
}

impl RestoreProgress {
    pub(super) fn add(&mut self, bytes: u64, share: f64) {
        self.loaded_groups += 1;
        self.loaded_bytes = self.loaded_bytes.saturating_add(bytes);
        self.ready_share = if self.is_complete() { 1.0 } else { self.ready_share + share };
    }

    /// Returns whether all groups have been loaded.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.loaded_groups == self.groups
    }
}
