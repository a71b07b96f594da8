//! The fault catalogue on whole jobs, real files and the real tool: names begin with the row that they show.
//!
//! `docs/catalogue.md` maps every row to its test; those of the commit protocol are among the laws of `tests/sim`.

#[cfg(test)]
mod canaries;
#[cfg(test)]
mod collection;
#[cfg(test)]
mod committed;
#[path = "../common/mod.rs"]
#[cfg(test)]
mod common;
#[cfg(test)]
mod coordinator;
#[cfg(test)]
mod disk;
#[cfg(test)]
mod epochs;
#[cfg(test)]
mod folder;
#[path = "../sim/harness/mod.rs"]
#[cfg(test)]
#[expect(dead_code, unused_imports, reason = "the simulation of the protocol uses the rest")]
mod harness;
#[cfg(test)]
mod operators;
#[path = "../oracle/mod.rs"]
#[cfg(test)]
mod oracle;
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
#[path = "../tool/mod.rs"]
#[cfg(test)]
mod tool;
#[cfg(test)]
mod twist;
