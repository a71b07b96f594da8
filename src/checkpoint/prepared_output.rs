//! Prepared output on its way into a committed manifest.
//!
//! Invariant: each manifest lists a sink's prepared output until one that lists it is known to be committed. An aborted
//! epoch loses nothing: its prepared output joins the next manifest, as its state does.

use std::collections::BTreeMap;

use crate::canary::{self, Canary};
use crate::control::coordinator::Participant;
use crate::id::Epoch;
use crate::manifest::{Opaque, OpaqueContent, OpaqueRole};
use crate::memory::{Charge, MemoryBudget};

/// Prepared output of all subtasks, by the epoch that it was prepared in.
#[derive(Debug)]
pub(crate) struct PreparedOutput {
    budget: MemoryBudget,
    waiting: BTreeMap<Participant, Vec<Prepared>>,
}

#[derive(Debug)]
struct Prepared {
    epoch: Epoch,
    opaque: Opaque,
    #[expect(dead_code, reason = "held for its drop")]
    charge: Charge,
}

impl PreparedOutput {
    pub(crate) fn new(budget: MemoryBudget) -> Self {
        Self { budget, waiting: BTreeMap::new() }
    }

    /// Moves the output that a subtask prepared in `epoch` out of the subtask's opaques.
    pub(crate) fn take(&mut self, epoch: Epoch, participant: Participant, opaques: &mut Vec<Opaque>) {
        let prepared: Vec<_> = opaques.extract_if(.., |opaque| opaque.role == OpaqueRole::SinkPrepared).collect();
        for opaque in prepared {
            let charge = self.charge(std::slice::from_ref(&opaque));
            self.waiting.entry(participant).or_default().push(Prepared { epoch, opaque, charge });
        }
    }

    /// Charges opaques to the memory budget.
    pub(crate) fn charge(&self, opaques: &[Opaque]) -> Charge {
        let bytes = opaques.iter().map(|opaque| match &opaque.content {
            OpaqueContent::Inline(bytes) => bytes.len() as u64,
            OpaqueContent::Stored(_) => 0,
        });
        self.budget.charge(bytes.sum())
    }

    /// Returns the prepared output that the manifest of `epoch` lists for a subtask, oldest first.
    pub(crate) fn list(&self, epoch: Epoch, participant: Participant) -> Vec<Opaque> {
        let waiting = self.waiting.get(&participant).into_iter().flatten();
        let listed = |prepared: &&Prepared| {
            let forgotten = canary::on(Canary::ForgetPrepared) && prepared.epoch < epoch;
            prepared.epoch <= epoch && !forgotten
        };
        waiting.filter(listed).map(|prepared| prepared.opaque.clone()).collect()
    }

    /// Forgets output that a subtask prepared up to `epoch`, whose commit it knew before its barrier.
    pub(crate) fn settle(&mut self, participant: Participant, epoch: Epoch) {
        if let Some(waiting) = self.waiting.get_mut(&participant) {
            waiting.retain(|prepared| prepared.epoch > epoch);
        }
    }
}
