//! A job's adaptive interval: the controller, fed by background and engine, with its decisions as metrics.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::settings::{AdaptiveInterval, JobSettings};
use crate::checkpoint::manifest_log::{RestoreFrom, StoredManifest};
use crate::control::chain::ChainPolicy;
use crate::control::coordinator::{CheckpointPolicy, Participant};
use crate::control::interval::{Bound, Controller, Decision, Goals, IntervalSettings, Learned, Observation};
use crate::error::{Error, Result};
use crate::manifest::{Extension, Manifest};
use crate::metrics;
use crate::segment::sum;
use crate::time::Timestamp;

/// Tag of the manifest extension with the controller's saved estimates.
const TAG: &str = "interval";

/// The controller of a running job.
#[derive(Debug)]
pub(super) struct Adaptive {
    controller: Mutex<Controller>,
    groups: u16,
    /// Bytes of the restored state.
    restored_bytes: u64,
    /// Subtasks whose restore is not complete.
    to_restore: Mutex<BTreeSet<Participant>>,
}

impl Adaptive {
    /// Returns the controller of a job with `groups` key groups, if the settings enable one. The first interval begins
    /// at `now`, when the subtasks start to restore.
    ///
    /// # Errors
    /// `Config` if a goal or a setting is out of range, or goals contradict each other.
    pub(super) fn from_settings(
        settings: &JobSettings,
        groups: u16,
        (from, restored): (RestoreFrom, Option<&StoredManifest>),
        subtasks: BTreeSet<Participant>,
        now: Timestamp,
    ) -> Result<Option<Self>> {
        let Some(AdaptiveInterval { goals, settings: wanted }) = settings.adaptive else { return Ok(None) };
        let CheckpointPolicy { min_pause, timeout, .. } = settings.checkpoints;
        let settings = IntervalSettings { min_pause, timeout, chain: settings.chain, groups, ..wanted };
        let restored = restored.map(|stored| &stored.manifest);
        // An explicitly chosen checkpoint is a rollback, not a failure.
        let learned = restored.and_then(learned);
        let learned = if from == RestoreFrom::Newest { learned } else { learned.map(Learned::of_an_end) };
        let controller = match learned {
            Some(learned) => Controller::resume(settings, goals, now, &learned)?,
            None => Controller::new(settings, goals, now)?,
        };
        export(controller.decision());
        Ok(Some(Self {
            controller: Mutex::new(controller),
            groups,
            restored_bytes: restored.map_or(0, state_bytes),
            to_restore: Mutex::new(subtasks),
        }))
    }

    /// Records that a subtask is restored. After the last one, processing can begin.
    #[expect(clippy::cast_precision_loss, reason = "fewer than 2^53 bytes")]
    pub(super) fn restored(&self, now: Timestamp, subtask: Participant) {
        let mut to_restore = self.to_restore();
        if to_restore.remove(&subtask) && to_restore.is_empty() {
            self.lock().observe(now, Observation::Restored { bytes: self.restored_bytes as f64 });
        }
    }

    /// Returns the estimates for the next attempt.
    pub(super) fn extension(&self) -> Extension {
        Extension { tag: TAG.to_owned(), required: false, bytes: self.lock().learned().to_bytes() }
    }

    fn lock(&self) -> MutexGuard<'_, Controller> {
        self.controller.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn to_restore(&self) -> MutexGuard<'_, BTreeSet<Participant>> {
        self.to_restore.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn observe(&self, now: Timestamp, observation: Observation) {
        let is_load = matches!(observation, Observation::Load(_));
        // Input read before every subtask is restored only queues up.
        if is_load && !self.to_restore().is_empty() {
            return;
        }
        let mut controller = self.lock();
        let before = controller.decision().at;
        controller.observe(now, observation);
        if controller.decision().at != before {
            export(controller.decision());
        }
        if is_load {
            metrics::predicted_recovery(controller.predicted_recovery(now));
        }
    }

    pub(super) fn is_due(&self, now: Timestamp) -> bool {
        self.lock().is_due(now)
    }

    /// Returns chain bounds under which the next checkpoint is of the decided kind; never looser than `policy`.
    pub(super) fn chain_policy(&self, policy: ChainPolicy) -> ChainPolicy {
        self.lock().decision().kind.chain_policy(policy, self.groups)
    }

    /// Returns the factor of the timeout of a checkpoint that starts now.
    pub(super) fn timeout_factor(&self) -> u32 {
        self.lock().decision().timeout_factor
    }

    pub(super) fn decision(&self) -> Decision {
        self.lock().decision().clone()
    }

    pub(super) fn set_goals(&self, now: Timestamp, goals: Goals) -> Result<()> {
        let mut controller = self.lock();
        controller.set_goals(now, goals)?;
        export(controller.decision());
        Ok(())
    }
}

/// Returns the estimates saved in a checkpoint, unless there are none or this build cannot decode them.
fn learned(manifest: &Manifest) -> Option<Learned> {
    let extension = manifest.extensions.iter().find(|extension| extension.tag == TAG)?;
    let learned = Learned::from_bytes(&extension.bytes);
    let ignored = |error: &Error| {
        tracing::warn!(error = error.chain(), "saved estimates of the interval are ignored");
    };
    learned.inspect_err(ignored).ok()
}

/// Returns the total length of all segments.
fn state_bytes(manifest: &Manifest) -> u64 {
    let entries = manifest.operators.iter().flat_map(|operator| &operator.subtasks);
    sum(entries.map(|entry| entry.summary().bytes))
}

/// Exports a decision as metrics.
fn export(decision: &Decision) {
    let reason = &decision.reason;
    let infeasible = reason.infeasible.is_some();
    metrics::interval(decision.interval.as_secs_f64(), reason.binds.name(), &Bound::NAMES, infeasible);
    metrics::interval_expects(reason.dirty_rows_per_s, reason.overhead);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::chain::{LinkSize, bases_due};
    use crate::control::interval::CheckpointKind;
    use crate::key_group::KeyGroupSet;

    #[test]
    fn a_checkpoint_kind_shortens_the_chain_and_never_lengthens_it() {
        let owned = KeyGroupSet::all(128);
        let policy = ChainPolicy::default();
        let due = |kind: CheckpointKind, deltas: usize| {
            let chain = vec![LinkSize { groups: &owned, bytes_per_group: 1 << 20, raw_bytes_per_group: 1 << 20 }];
            let delta = LinkSize { groups: &owned, bytes_per_group: 1, raw_bytes_per_group: 1 };
            let chain: Vec<_> = chain.into_iter().chain(vec![delta; deltas]).collect();
            bases_due(&chain, &owned, kind.chain_policy(policy, 128)).len()
        };
        assert_eq!(due(CheckpointKind::Full, 0), 128);
        for (bases, patience) in [(0, 24), (4, 24), (8, 16), (16, 8)] {
            let kind = CheckpointKind::Incremental { bases };
            assert_eq!((due(kind, patience - 2), due(kind, patience - 1)), (0, 16), "{bases} bases per checkpoint");
        }
    }
}
