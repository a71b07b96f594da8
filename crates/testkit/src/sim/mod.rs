//! The simulation's harness: a seeded executor on virtual time and an object store that runs on it. Independent of the
//! code under test.

mod copies;
mod disk;
mod executor;
mod fate;
mod history;
mod log;
mod reply;
mod rng;
mod store;

pub use copies::Copies;
pub use disk::{Disk, DiskFaults, DiskStore};
pub use executor::{Counts, Node, Sim, Tracing};
pub use fate::{Answer, Call, Fate, Faults, Operation, Profile};
pub use log::logged;
pub use rng::Rng;
pub use store::{Objects, SimStore, StoreWorld, Watcher};
