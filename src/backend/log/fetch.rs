//! Records on disk are read before they are used.
//!
//! An operation first fetches all records on disk that its row may have, which can fail. What follows takes records from
//! memory or from what was fetched, and cannot. Without regions on disk, fetching costs one comparison.
//!
//! Invariant: what was fetched is used before any region moves or leaves its log: then the addresses hold.

use crate::error::{Result, broken};

use super::arena::no_region;
use super::chunk::no_record;
use super::group::Group;
use super::index::Address;
use super::record::Record;
use super::region::{Region, Section};
use super::regions::Regions;

/// Records that were read from the disk for one operation.
#[derive(Debug, Default)]
pub(super) struct Fetched(Vec<(Address, Vec<u8>)>);

impl Fetched {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the bytes from a record on, at least all of the record.
    pub(super) fn get(&self, address: Address) -> Option<&[u8]> {
        self.0.iter().find(|(at, _)| *at == address).map(|(_, bytes)| bytes.as_slice())
    }
}

impl Regions {
    /// Returns whether records may lie on disk.
    #[inline]
    pub(super) fn use_disk(&self) -> bool {
        !self.run(Section::Disk).order.is_empty()
    }

    /// Returns whether the bytes from an address on lie on disk.
    fn lie_on_disk(&self, address: Address) -> bool {
        self.bytes_in_memory(address).is_none() && self.get(address.region()).is_some_and(Region::is_on_disk)
    }

    /// Returns the bytes from a record on, from memory or from what was fetched.
    #[inline]
    pub(super) fn bytes<'a>(&'a self, address: Address, fetched: &'a Fetched) -> &'a [u8] {
        match self.bytes_in_memory(address).or_else(|| fetched.get(address)) {
            Some(bytes) => bytes,
            None => self.no_bytes(address),
        }
    }

    #[cold]
    fn no_bytes(&self, address: Address) -> ! {
        match self.get(address.region()) {
            None => no_region(),
            Some(region) if region.is_on_disk() => broken("a record on disk is fetched before it is used"),
            Some(_) => no_record(),
        }
    }

    /// Reads the record at an address, which lies on disk.
    ///
    /// * `expected`: how long it is, probably.
    fn read_record(&self, address: Address, expected: usize) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.read_from(address, expected, &mut bytes)?;
        if Record::parse(&bytes).is_none() {
            self.read_from(address, usize::MAX, &mut bytes)?;
        }
        Ok(bytes)
    }
}

impl Group {
    /// Reads what lies on disk of the rows with these hashes: their newest records and all older pieces of their values.
    ///
    /// # Errors
    /// `Corrupt` if the disk returns other bytes than were written; `Unavailable` if it returns none.
    #[inline]
    pub(super) fn fetch(&self, hashes: impl IntoIterator<Item = u32>) -> Result<Fetched> {
        if self.regions.use_disk() { self.fetch_from_disk(hashes) } else { Ok(Fetched::default()) }
    }

    fn fetch_from_disk(&self, hashes: impl IntoIterator<Item = u32>) -> Result<Fetched> {
        let mut fetched = Fetched::default();
        for hash in hashes {
            for (_, address) in self.index.hits(hash) {
                self.fetch_at(address, &mut fetched)?;
            }
            let chains = self.chains.iter().flat_map(|chains| chains.with_hash(hash));
            for piece in chains.flat_map(|chain| chain.pieces()) {
                self.fetch_at(piece.address, &mut fetched)?;
            }
        }
        Ok(fetched)
    }

    /// Reads the record at an address, if it lies on disk and was not fetched.
    pub(super) fn fetch_at(&self, address: Address, fetched: &mut Fetched) -> Result<()> {
        if self.regions.lie_on_disk(address) && fetched.get(address).is_none() {
            fetched.0.push((address, self.regions.read_record(address, self.record_bytes())?));
        }
        Ok(())
    }
}
