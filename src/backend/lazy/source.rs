//! Where absent groups come from, and how they come into a backend.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use crate::error::Result;
use crate::id::TableId;
use crate::key_group::{KeyGroup, KeyGroupSet};
use crate::row::RowSource;
use crate::time::Timestamp;

/// Groups that a [`GroupLoader`] has loaded. Only the backend that made the loader knows what this is.
pub type Loaded = Box<dyn Any + Send>;

/// Loads groups of one backend on any thread, by the rules that the backend had when it made the loader.
pub trait GroupLoader: fmt::Debug + Send + Sync {
    /// Loads `groups` from `rows`, and returns what [`StateBackend::adopt`](crate::backend::StateBackend::adopt) takes.
    /// `None` if only the backend's owner can load these rows.
    ///
    /// * `so_far`: what the last call returned, if `rows` are more rows of a single group, which sort after all before.
    ///
    /// # Errors
    /// `Corrupt` or `Version` from the rows; `Limit` if the memory budget is spent.
    fn load(&self, rows: &dyn RowSource, groups: &KeyGroupSet, so_far: Option<Loaded>) -> Result<Option<Loaded>>;

    /// Returns whether a loaded group costs next to nothing to adopt, so that it is adopted before it is needed. Default: yes.
    fn is_adopted_freely(&self) -> bool {
        true
    }
}

/// Groups on their way into a backend.
#[derive(Debug)]
pub struct Arrived {
    /// The groups.
    pub groups: KeyGroupSet,
    /// Their state.
    pub content: ArrivedContent,
}

/// The state of groups on their way into a backend.
pub enum ArrivedContent {
    /// Loaded: the backend adopts it.
    Loaded(Loaded),
    /// Rows that the backend has to load, piece by piece.
    Rows(Vec<Arc<dyn RowSource>>),
}

impl fmt::Debug for ArrivedContent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loaded(_) => f.write_str("Loaded"),
            Self::Rows(rows) => f.debug_tuple("Rows").field(&rows.len()).finish(),
        }
    }
}

/// Loads the absent groups of a [`LazyBackend`](super::LazyBackend) in the background.
pub trait GroupSource: fmt::Debug + Send + Sync {
    /// Replaces what loads groups from now on: tables may have been defined since the last one was made.
    fn set_loader(&self, loader: Option<Arc<dyn GroupLoader>>);

    /// Has these groups loaded before all others. Does not block.
    fn request(&self, groups: &KeyGroupSet);

    /// Returns a group, blocking the calling thread until it is loaded.
    ///
    /// # Errors
    /// Why the group cannot be loaded: `Corrupt` or `Version`, naming it; `Fenced`; `Limit` if the memory budget is spent;
    /// `Unavailable` if the store does not answer. `Usage` if the thread must not block, because the load would never end.
    /// The next call tries again, except after damage.
    fn wait(&self, group: KeyGroup) -> Result<Arrived>;

    /// Returns groups that are loaded and [cost next to nothing to adopt](GroupLoader::is_adopted_freely).
    fn take_loaded(&self) -> Vec<Arrived>;

    /// Returns the least used of the `resident` groups that can be evicted: all its state is in segments, and nobody has it
    /// [ready](crate::Task::ready). `None` if there is none.
    fn coldest(&self, resident: &KeyGroupSet) -> Option<KeyGroup>;

    /// Returns whether so much of the memory budget is held that groups should be evicted before writes need it.
    fn is_crowded(&self) -> bool {
        false
    }

    /// Blocks the calling thread until no group is being loaded: what is being loaded holds memory, and cannot be evicted.
    /// Returns false if there was nothing to wait for, or the thread must not block.
    fn wait_for_loads(&self) -> bool {
        false
    }

    /// Takes groups back, which are absent again: they could not be adopted, or their owner evicts them.
    fn take_back(&self, groups: &KeyGroupSet);

    /// Forgets groups that their owner drops, or has from elsewhere.
    fn forget(&self, groups: &KeyGroupSet);

    /// Returns a lower bound of the times of the group's timers in `table`; `None` if it has none there.
    fn earliest_timer(&self, table: TableId, group: KeyGroup) -> Option<Timestamp>;
}
