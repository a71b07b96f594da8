//! The only access to an object store: put-if-absent, get, delete, list.
//!
//! Invariants: no object is ever overwritten; every create ends as done, as provably not done, or as unknown; only this
//! module settles an unknown outcome, by reading the key back and comparing the put-id; a retried create sends the same
//! bytes to the same key.

mod cloud;
mod fault;
pub mod files;
mod folder;
#[cfg(any(feature = "aws", feature = "azure", feature = "gcp"))]
mod http;
mod job_folder;
mod key;
mod listing;
mod requests;
mod retry;
mod url;
mod walk;

use std::sync::Arc;

use object_store::ObjectStore;
pub(crate) use object_store::PutPayload;
use object_store::path::Path;

use crate::error::Result;
use crate::id::JobName;
use crate::runtime::SharedRuntime;

pub(crate) use fault::Fault;
use retry::Patience;

pub use job_folder::{JobFolder, Put};
pub use key::{Key, KeyClass};
pub use requests::RequestCounts;
pub use retry::StoreSettings;
pub use url::{Access, open_url, open_url_with};

/// Returns the names of the jobs below `prefix`, sorted. Folders whose names are not valid job names are skipped. A
/// listed folder may have no manifest yet; loading its chain shows that.
///
/// # Errors
/// `Denied` or `Unavailable` from the store.
pub async fn list_jobs(
    objects: &dyn ObjectStore,
    prefix: &Path,
    runtime: &SharedRuntime,
    settings: &StoreSettings,
) -> Result<Vec<JobName>> {
    let patience = Patience::new(Arc::clone(runtime), settings.clone());
    let mut retry = patience.retry();
    loop {
        let call = objects.list_with_delimiter(Some(prefix));
        let call = async { call.await.map_err(|error| Fault::classify(&error, prefix)) };
        match patience.with_timeout(prefix, 0, call).await {
            Ok(found) => {
                let names = found.common_prefixes.iter().filter_map(|path| path.filename()?.parse().ok());
                let mut jobs: Vec<JobName> = names.collect();
                jobs.sort_unstable();
                return Ok(jobs);
            }
            Err(Fault::Missing(_)) => return Ok(Vec::new()),
            Err(Fault::Refused(error)) => return Err(error),
            Err(Fault::Exists(error) | Fault::Unclear(error)) => retry.wait(error).await?,
        }
    }
}
