//! How much is looked at in one run of the suite. Each figure can be set by the environment; what a run must at least come
//! to is asserted only where its figure is the default.

use crate::search::setting;

/// A figure, and the name of the variable that sets it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Budget {
    variable: &'static str,
    default: u64,
}

/// Seeds of the core: claim, commit, sweep.
pub(crate) const CORE_SEEDS: Budget = Budget { variable: "ALLUVIUM_SIM_SEEDS", default: 100_000 };
/// Seeds of the whole stack.
pub(crate) const STACK_SEEDS: Budget = Budget { variable: "ALLUVIUM_STACK_SEEDS", default: 2_000 };
/// Scenarios of the core in which each node is crashed at each of its awaits.
pub(crate) const CORE_CRASHED: Budget = Budget { variable: "ALLUVIUM_SIM_CRASHED", default: 110 };
/// Scenarios of the whole stack likewise.
pub(crate) const STACK_CRASHED: Budget = Budget { variable: "ALLUVIUM_STACK_CRASHED", default: 50 };
/// Seeds of a job on a disk that loses power.
pub(crate) const DISK_SEEDS: Budget = Budget { variable: "ALLUVIUM_DISK_SEEDS", default: 5_000 };
/// Seeds within which each planted bug must be found.
pub(crate) const CANARY_SEEDS: Budget = Budget { variable: "ALLUVIUM_CANARY_SEEDS", default: 2_000 };

/// Every so many seeds one is run twice.
pub(crate) const TWICE_EVERY: u64 = 97;

impl Budget {
    pub(crate) fn get(self) -> u64 {
        setting(self.variable).unwrap_or(self.default)
    }

    /// Returns whether it is what the suite promises.
    pub(crate) fn is_default(self) -> bool {
        self.get() == self.default
    }
}
