//! A seeded executor on virtual time and an object store to run on it. Nothing here knows what is tested with it.

mod executor;
mod rng;
mod store;

pub(crate) use executor::{Node, Sim, Tracing};
pub(crate) use rng::Rng;
pub(crate) use store::{Answer, Call, Fate, Faults, Objects, Operation, Profile, SimStore, StoreWorld, Watcher};
