//! Foreign entries among a job's objects.

use crate::error::Result;
use crate::place::Store;
use crate::store::KeyClass;

/// Entries in a job's folders that are not its objects. They are left alone.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Foreign {
    /// Number of entries.
    pub count: u64,
    /// The first 100 names of each folder, below the job's root, with invalid names escaped.
    pub names: Vec<String>,
}

/// Lists the entries that are not the job's.
///
/// # Errors
/// `Denied` or `Unavailable` from the store.
///
/// # Cost
/// Four listings.
pub async fn foreign(store: &Store) -> Result<Foreign> {
    let mut foreign = Foreign::default();
    for class in [KeyClass::Attempt, KeyClass::Manifest, KeyClass::Data, KeyClass::Probe] {
        let listing = store.folder().list(class).await?;
        foreign.count = foreign.count.saturating_add(listing.foreign);
        foreign.names.extend(listing.foreign_names);
    }
    Ok(foreign)
}
