//! Other stores beside the backends, each behind a feature of its own.

#[cfg(feature = "peer-cobble")]
mod cobble;
#[cfg(any(feature = "peer-cobble", feature = "peer-rocksdb", test))]
mod loops;
#[cfg(feature = "peer-rocksdb")]
mod rocksdb;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::Path;

use alluvium::Result;

use super::args::CellSpec;
use super::report::PeerReport;

/// The stores that a build can contain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PeerKind {
    /// The crate `cobble`: a log-structured merge tree with snapshots.
    Cobble,
    /// The crate `rocksdb`, used plainly.
    RocksDb,
}

impl PeerKind {
    /// For the usage line.
    pub(super) const NAMES: &str = "cobble|rocksdb";

    fn name(self) -> &'static str {
        match self {
            Self::Cobble => "cobble",
            Self::RocksDb => "rocksdb",
        }
    }

    /// Parses a name, and refuses what was not compiled in.
    pub(super) fn in_this_build(name: &str) -> Result<Self, String> {
        let (kind, built) = match name {
            "cobble" => (Self::Cobble, cfg!(feature = "peer-cobble")),
            "rocksdb" => (Self::RocksDb, cfg!(feature = "peer-rocksdb")),
            _ => return Err(format!("a peer is {}", Self::NAMES.replace('|', " or "))),
        };
        if built { Ok(kind) } else { Err(format!("not in this build: build with --features peer-{name}")) }
    }

    /// Measures the peer with the records of `spec`, in a new `folder`.
    pub(super) fn measure(self, spec: &CellSpec, folder: &Path) -> Result<PeerReport> {
        match self {
            #[cfg(feature = "peer-cobble")]
            Self::Cobble => loops::measure::<cobble::Cobble>(self, spec, folder),
            #[cfg(feature = "peer-rocksdb")]
            Self::RocksDb => loops::measure::<rocksdb::RocksDb>(self, spec, folder),
            #[cfg(not(all(feature = "peer-cobble", feature = "peer-rocksdb")))]
            _ => {
                let _unused = (spec, folder);
                Err(alluvium::Error::usage("this peer is not in this build").with("peer", self))
            }
        }
    }
}

impl fmt::Display for PeerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
