//! What a job is: plain data, with the checks that need no store.

use std::collections::{BTreeMap, BTreeSet};

use super::{JobSettings, OperatorSpec, WRITER};
use crate::checkpoint::claim::{self, ClaimRequest, Claimed};
use crate::checkpoint::manifest_log::RestoreFrom;
use crate::checkpoint::operators::{Carried, OperatorClaims, Undeclared};
use crate::control::coordinator::Participant;
use crate::error::{Error, Result};
use crate::id::{OperatorId, Subtask};
use crate::key_group::{Partitioner, check_parallelism};
use crate::manifest::{MAX_NAME_BYTES, Program};
use crate::place::Store;

/// Longest description of a program, in bytes. Every manifest holds a copy.
const PROGRAM_BYTES_MAX: usize = 8 << 20;

/// A job: its store, settings and operators.
#[derive(Debug)]
pub(super) struct JobSpec {
    pub(super) store: Store,
    pub(super) settings: JobSettings,
    pub(super) operators: Vec<OperatorSpec>,
    pub(super) undeclared: BTreeMap<OperatorId, Undeclared>,
    pub(super) program: Program,
    /// The checkpoint that its first attempt continues.
    pub(super) from: RestoreFrom,
}

impl JobSpec {
    /// Returns the subtasks of all operators.
    pub(super) fn participants(&self) -> BTreeSet<Participant> {
        let of = |operator: &OperatorSpec| {
            let id = operator.id;
            (0..operator.parallelism).map(move |index| (id, Subtask(index)))
        };
        self.operators.iter().flat_map(of).collect()
    }

    /// See [`JobBuilder::check`](super::JobBuilder::check).
    pub(super) fn check(&self) -> Result<()> {
        if self.operators.is_empty() {
            return Err(Error::config("a job needs an operator"));
        }
        if let Some(with) = self.store.lost_with().filter(|_| self.settings.durable_store) {
            return Err(Error::config("checkpoints would be lost with this machine, which a setting forbids")
                .with("with", with));
        }
        if let Some(adaptive) = &self.settings.adaptive {
            adaptive.goals.check()?;
            adaptive.settings.check()?;
        }
        let program = self.program.bytes.len();
        if program > PROGRAM_BYTES_MAX {
            let error = Error::config("description of the program is too long").with("bytes", program);
            return Err(error.with("limit", PROGRAM_BYTES_MAX));
        }
        let (mut ids, mut names) = (BTreeSet::new(), BTreeSet::new());
        for OperatorSpec { id, name, parallelism, .. } in &self.operators {
            let refused = |what| Error::config(what).with("operator", id).with("name", name.escape_debug());
            if !ids.insert(*id) {
                return Err(refused("two operators have one id"));
            }
            if !names.insert(name) {
                return Err(refused("two operators have one name"));
            }
            if name.len() > MAX_NAME_BYTES {
                return Err(Error::config("name of an operator is too long")
                    .with("operator", id)
                    .with("bytes", name.len()));
            }
            if self.undeclared.contains_key(id) {
                return Err(refused("operator is both declared and dropped or carried"));
            }
            check_parallelism(*parallelism, self.settings.max_parallelism)?;
        }
        Ok(())
    }

    /// Claims the job, to continue the checkpoint `from`. Returns the stored operators to carry, too.
    pub(super) async fn claim(&self, from: RestoreFrom) -> Result<(Claimed, Vec<Carried>)> {
        let claimed = claim::claim(&self.store, &self.claim_request(from)).await?;
        let Some(stored) = &claimed.restore else { return Ok((claimed, Vec::new())) };
        match self.claims().carried(&self.store, stored).await {
            Ok(carried) => Ok((claimed, carried)),
            Err(error) => Err(claim::why_unreadable(&self.store, claimed.attempt, error).await),
        }
    }

    fn claims(&self) -> OperatorClaims {
        let names = |OperatorSpec { name, renamed_from, .. }: &OperatorSpec| {
            [name].into_iter().chain(renamed_from).cloned().collect::<Vec<_>>()
        };
        let declared = self.operators.iter().map(|operator| (operator.id, names(operator)));
        OperatorClaims { declared: declared.collect(), undeclared: self.undeclared.clone() }
    }

    fn claim_request(&self, from: RestoreFrom) -> ClaimRequest {
        let seed = || u64::try_from(self.store.runtime().random() >> 64).unwrap_or(0);
        ClaimRequest {
            from,
            partitioner: self.settings.partitioner.unwrap_or_else(|| Partitioner::Range { seed: seed() }),
            max_parallelism: self.settings.max_parallelism,
            retention: self.settings.retention,
            writer: WRITER.to_owned(),
            program: self.program.clone(),
            operators: Some(self.claims()),
        }
    }
}
