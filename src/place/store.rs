//! A job's place: its folder in an object store, its data objects, and the keys that sign its manifests.

use std::fmt;
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::path::Path;

use super::cache::LocalCache;
use super::objects::DataObjects;
use crate::envelope::MacKeys;
use crate::error::Result;
use crate::id::{JobName, PutId};
use crate::runtime::{Runtime, SharedRuntime};
use crate::store::{Access, JobFolder, RequestCounts, StoreSettings, open_url};

/// The store of one job's checkpoints. Clones share the request counts.
#[derive(Clone)]
pub struct Store {
    folder: JobFolder,
    data: DataObjects,
    runtime: SharedRuntime,
    manifest_keys: Arc<MacKeys>,
    lost_with: Option<&'static str>,
}

impl Store {
    /// Returns the store of `job` below `prefix`. Makes no request.
    #[must_use]
    pub fn new(
        objects: Arc<dyn ObjectStore>,
        prefix: &Path,
        job: &JobName,
        runtime: SharedRuntime,
        settings: StoreSettings,
    ) -> Self {
        let folder = JobFolder::new(objects, prefix, job, Arc::clone(&runtime), settings);
        Self { data: DataObjects::new(folder.clone()), folder, runtime, manifest_keys: Arc::default(), lost_with: None }
    }

    /// Opens the store of `job` at `url`, creating a local folder that does not exist.
    ///
    /// # Errors
    /// As [`open_url`].
    pub fn open(url: &str, job: &JobName, runtime: impl Runtime) -> Result<Self> {
        let (objects, prefix) = open_url(url, Access::Write)?;
        let store = Self::new(objects, &prefix, job, Arc::new(runtime), StoreSettings::default());
        Ok(Self { lost_with: lost_with(url), ..store })
    }

    /// Returns what the checkpoints are lost with, if the store's URL says so: this process, or a disk of this machine. Output that
    /// leaves the machine then outlives the checkpoints that say it is published.
    #[must_use]
    pub fn lost_with(&self) -> Option<&'static str> {
        self.lost_with
    }

    /// Sets the keys that sign and verify the job's manifests. Default: none.
    #[must_use]
    pub fn with_manifest_keys(mut self, keys: MacKeys) -> Self {
        self.manifest_keys = Arc::new(keys);
        self
    }

    /// Keeps copies of the job's data objects in `cache`, for restarts on this machine. Default: none.
    #[must_use]
    pub fn with_cache(mut self, cache: LocalCache) -> Self {
        self.data.set_cache(cache);
        self
    }

    /// Returns the keys that sign and verify the job's manifests.
    #[must_use]
    pub fn manifest_keys(&self) -> &MacKeys {
        &self.manifest_keys
    }

    /// Returns the runtime that the job runs on.
    #[must_use]
    pub fn runtime(&self) -> &SharedRuntime {
        &self.runtime
    }

    /// Returns the store's settings.
    #[must_use]
    pub fn settings(&self) -> &StoreSettings {
        self.folder.settings()
    }

    /// Returns the requests made by this value and its clones.
    #[must_use]
    pub fn requests(&self) -> RequestCounts {
        self.folder.requests()
    }

    /// Draws a random id for a put.
    #[must_use]
    pub fn draw_put_id(&self) -> PutId {
        PutId(self.runtime.random().to_le_bytes())
    }

    /// Checks whether the store can hold a job: whether it creates objects, refuses to create one twice, and returns
    /// the bytes it took.
    ///
    /// # Errors
    /// `Config` if the store lacks or ignores create-if-absent, `Denied` if it is read-only, `Unavailable` if it does not
    /// answer.
    pub async fn probe(&self) -> Result<()> {
        self.folder.probe().await
    }
}

fn lost_with(url: &str) -> Option<&'static str> {
    match url.split_once(':')?.0 {
        "memory" => Some("this process"),
        "file" => Some("the disk of its folder"),
        _ => None,
    }
}

/// Declares accessors that only the crate, its tests and its tools use.
macro_rules! internal {
    ($($(#[$doc:meta])* fn $name:ident -> $type:ty;)+) => {
        impl Store {$(
            $(#[$doc])*
            #[cfg(feature = "internals")]
            #[must_use]
            pub fn $name(&self) -> &$type {
                &self.$name
            }

            $(#[$doc])*
            #[cfg(not(feature = "internals"))]
            pub(crate) fn $name(&self) -> &$type {
                &self.$name
            }
        )+}
    };
}

internal! {
    /// Returns the job's data objects.
    fn data -> DataObjects;
    /// Returns the job's folder, which holds its manifests and attempt markers.
    fn folder -> JobFolder;
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("folder", &self.folder).finish_non_exhaustive()
    }
}
