//! The fault catalogue on whole jobs, real files and the real tool; test names begin with their row's id.
//!
//! `docs/catalogue.md` maps every row to its test; the commit protocol's rows are among the laws of `tests/sim`.

#[cfg(test)]
mod canaries;
#[cfg(test)]
mod collection;
#[cfg(test)]
mod committed;
#[cfg(test)]
mod coordinator;
#[cfg(test)]
mod disk;
#[cfg(test)]
mod epochs;
#[cfg(test)]
mod folder;
#[cfg(test)]
mod local;
#[cfg(test)]
mod operators;
#[cfg(test)]
mod restore;
#[cfg(test)]
mod shim;
#[cfg(test)]
mod sim;
#[cfg(test)]
mod state;
#[cfg(test)]
mod store;
#[cfg(test)]
mod twist;
