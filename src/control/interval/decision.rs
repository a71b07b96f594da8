//! A decision: when and how to make checkpoints.

use std::time::Duration;

use super::reason::Reason;
use super::settings::IntervalSettings;
use crate::control::chain::ChainPolicy;
use crate::time::Timestamp;

/// How the next checkpoint should write state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CheckpointKind {
    /// All rows.
    Full,
    /// Changed rows, plus new bases for some key groups.
    Incremental {
        /// Number of key groups that get a new base.
        bases: u16,
    },
}

impl CheckpointKind {
    /// Returns chain bounds under which a checkpoint of `groups` key groups is of this kind; never looser than `policy`.
    #[must_use]
    pub fn chain_policy(self, policy: ChainPolicy, groups: u16) -> ChainPolicy {
        match self {
            Self::Full => ChainPolicy { max_segments: 1, spread: 1 },
            Self::Incremental { bases: 0 } => policy,
            Self::Incremental { bases } => {
                // Groups become due `spread` checkpoints before a chain is full.
                let chain = usize::from(groups.div_ceil(bases)).saturating_add(policy.spread);
                ChainPolicy { max_segments: policy.max_segments.min(chain), ..policy }
            }
        }
    }
}

/// When and how to make checkpoints from now on.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Decision {
    /// Time of the decision.
    pub at: Timestamp,
    /// From the start of one checkpoint to the start of the next.
    pub interval: Duration,
    /// From this time on, a lull triggers the checkpoint.
    pub earliest: Duration,
    /// At this time the wait for a lull ends.
    pub latest: Duration,
    /// How the next checkpoint writes state.
    pub kind: CheckpointKind,
    /// Factor of the checkpoint timeout: doubled after repeated failures, instead of the interval.
    pub timeout_factor: u32,
    /// The numbers behind the decision.
    pub reason: Reason,
}

impl Decision {
    /// Returns the decision before the first measurements.
    pub(super) fn first(settings: &IntervalSettings, now: Timestamp) -> Self {
        let first = settings.first;
        Self {
            at: now,
            interval: first,
            earliest: first,
            latest: first,
            kind: CheckpointKind::Incremental { bases: 0 },
            timeout_factor: 1,
            reason: Reason::first(settings),
        }
    }
}
