//! The commit protocol under simulation: competing coordinators, a sweeper and a reader on a store that fails, answers
//! late or never, and still applies the requests of dead clients.
//!
//! * `ALLUVIUM_SIM_SEEDS=1000000 cargo test --test sim random_seeds` executes that many runs;
//! * `ALLUVIUM_SIM_SEED=17 cargo test --test sim replay -- --nocapture` prints the trace of one run.

#[cfg(test)]
mod budget;
#[cfg(test)]
mod cluster;
#[cfg(test)]
mod disk;
#[cfg(test)]
mod laws;
#[cfg(test)]
mod modes;
#[cfg(test)]
mod nodes;
#[cfg(test)]
mod oracle;
#[cfg(test)]
mod points;
#[cfg(test)]
mod scenario;
#[cfg(test)]
mod search;
#[cfg(test)]
mod stack;
#[cfg(test)]
mod wire;
