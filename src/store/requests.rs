//! Counts of requests.

use std::sync::atomic::{AtomicU64, Ordering};

/// Requests made so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RequestCounts {
    /// Creates.
    pub put: u64,
    /// Reads: of an object, of a range, or of the length alone.
    pub get: u64,
    /// Deletes.
    pub delete: u64,
    /// Listings. A long listing counts once, though the store sends several pages.
    pub list: u64,
    /// Bytes sent.
    pub put_bytes: u64,
    /// Bytes received.
    pub get_bytes: u64,
    /// Those of data objects.
    pub data_bytes: u64,
}

/// Counts of requests, shared by the clones of a folder.
#[derive(Debug, Default)]
pub(super) struct Requests {
    pub(super) put: AtomicU64,
    pub(super) get: AtomicU64,
    pub(super) delete: AtomicU64,
    pub(super) list: AtomicU64,
    pub(super) put_bytes: AtomicU64,
    pub(super) get_bytes: AtomicU64,
    pub(super) data_bytes: AtomicU64,
}

impl Requests {
    pub(super) fn count(&self, counter: &AtomicU64, operation: &'static str) {
        counter.fetch_add(1, Ordering::Relaxed);
        metrics::counter!("alluvium_store_requests_total", "operation" => operation).increment(1);
    }

    pub(super) fn snapshot(&self) -> RequestCounts {
        let [put, get, delete, list, put_bytes, get_bytes, data_bytes] =
            [&self.put, &self.get, &self.delete, &self.list, &self.put_bytes, &self.get_bytes, &self.data_bytes]
                .map(|counter| counter.load(Ordering::Relaxed));
        RequestCounts { put, get, delete, list, put_bytes, get_bytes, data_bytes }
    }
}
