//! Real object-store servers on loopback: S3 (moto, SeaweedFS) and Azure Blob (Azurite), if `install.sh` has installed
//! them.
//!
//! `ALLUVIUM_STORE_KILLS` sets the number of kills of the tool per kind of store (20), a fifth of which is the number of
//! kills of a server; `ALLUVIUM_STORE_SEEDS` the number of network
//! seeds (2); `ALLUVIUM_REQUIRE_STORES=1` makes a missing server an error.
#![expect(
    clippy::disallowed_methods,
    reason = "real processes take real time, and the environment says how much of it"
)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "figures, for who wants to see them, and what is not tested"
)]

mod answers;
mod away;
mod hostile;
mod kills;
mod network;
mod place;
mod proxy;
mod restarts;
mod seaweedfs;
mod secrets;
mod server;
mod sinks;
mod sound;
mod unfit;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}
