//! The amount of work in one run of the suite. An environment variable overrides each figure; tests assert minimum
//! results only for default figures.

use crate::search::setting;

/// A figure, and the environment variable that overrides it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget {
    variable: &'static str,
    default: u64,
}

/// Seeds of the core: claim, commit, sweep.
pub(crate) const CORE_SEEDS: Budget = Budget { variable: "ALLUVIUM_SIM_SEEDS", default: 100_000 };
/// Seeds of the whole stack.
pub(crate) const STACK_SEEDS: Budget = Budget { variable: "ALLUVIUM_STACK_SEEDS", default: 2_000 };
/// Seeds of the core whose runs are repeated with each node crashed at each of its awaits.
pub(crate) const CORE_CRASHED: Budget = Budget { variable: "ALLUVIUM_SIM_CRASHED", default: 110 };
/// The same for the whole stack.
pub(crate) const STACK_CRASHED: Budget = Budget { variable: "ALLUVIUM_STACK_CRASHED", default: 20 };
/// Seeds of a job on a disk that loses power.
pub(crate) const DISK_SEEDS: Budget = Budget { variable: "ALLUVIUM_DISK_SEEDS", default: 5_000 };
/// Maximum number of seeds until each planted bug is found.
pub(crate) const CANARY_SEEDS: Budget = Budget { variable: "ALLUVIUM_CANARY_SEEDS", default: 2_000 };

/// One in this many seeds is run twice, to prove that runs are deterministic.
pub(crate) const TWICE_EVERY: u64 = 97;

impl Budget {
    pub(crate) fn get(self) -> u64 {
        setting(self.variable).unwrap_or(self.default)
    }

    /// Returns whether no variable overrides the figure.
    pub(crate) fn is_default(self) -> bool {
        self.get() == self.default
    }
}
