//! Real object-store servers on loopback: S3 (moto) and Azure Blob (Azurite), if `install.sh` has installed them.
//!
//! `ALLUVIUM_STORE_KILLS` sets the number of kills per kind of store (20), `ALLUVIUM_STORE_SEEDS` the number of network
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
mod secrets;
mod server;
mod sound;
mod unfit;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// A small generator (SplitMix64), so that a seed identifies a run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}
