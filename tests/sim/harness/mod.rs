//! A seeded executor on virtual time and an object store to run on it. Nothing here knows what is tested with it.

mod disk;
mod executor;
mod fate;
mod history;
mod log;
mod rng;
mod store;

pub(crate) use disk::{Disk, DiskFaults, DiskStore};
pub(crate) use executor::{Counts, Node, Sim, Tracing};
pub(crate) use fate::{Answer, Call, Fate, Faults, Operation, Profile};
pub(crate) use log::logged;
pub(crate) use rng::Rng;
pub(crate) use store::{Objects, SimStore, StoreWorld, Watcher};
