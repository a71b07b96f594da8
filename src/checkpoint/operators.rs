//! Which stored operators an attempt takes over.
//!
//! Invariant: unclaimed state is never lost silently. The embedder declares, carries or drops each stored operator that
//! has state.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::manifest_log::StoredManifest;
use super::restore;
use crate::canary::{self, Canary};
use crate::error::{Error, Result};
use crate::id::OperatorId;
use crate::manifest::{Manifest, ObjectRef, OperatorManifest, SubtaskEntry, SubtaskManifest};
use crate::place::Store;
use crate::segment::sum;

/// What to do with a stored operator that the job does not declare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undeclared {
    /// Leave its state behind; the state is gone once no retained checkpoint has it.
    Drop,
    /// List its state in each checkpoint, unchanged, until a later attempt declares the operator.
    Carry,
}

/// The stored operators that an attempt declares, carries or drops.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OperatorClaims {
    /// Declared operators, each with its name and former names.
    pub declared: BTreeMap<OperatorId, Vec<String>>,
    /// Undeclared operators, each with what to do with its state.
    pub undeclared: BTreeMap<OperatorId, Undeclared>,
}

/// A stored operator that each checkpoint lists again, undeclared.
#[derive(Debug, Clone)]
pub(crate) struct Carried {
    /// Its stored entry.
    pub(crate) manifest: OperatorManifest,
    /// The objects that the entry refers to.
    pub(crate) objects: Vec<ObjectRef>,
}

impl OperatorClaims {
    /// Refuses a restore of `stored` that would lose an operator's state or hand it to another operator.
    ///
    /// # Errors
    /// `Config`, naming each such operator with its rows and bytes; `Corrupt` or `Unavailable` from the store.
    pub async fn check(&self, store: &Store, stored: &StoredManifest) -> Result<()> {
        if canary::on(Canary::LoseOperators) {
            return Ok(());
        }
        let mut unclaimed = Vec::new();
        for operator in &stored.manifest.operators {
            match self.declared.get(&operator.id) {
                Some(names) if names.contains(&operator.name) => {}
                Some(names) => {
                    return Err(Error::config("operator was stored under another name")
                        .with("operator", operator.id)
                        .with("stored", operator.name.escape_debug())
                        .with("declared", names.join(", ").escape_debug()));
                }
                None => match self.undeclared.get(&operator.id) {
                    Some(Undeclared::Drop) => {}
                    Some(Undeclared::Carry) => self.check_carried(operator)?,
                    None => {
                        let subtasks = subtasks(store, operator, &stored.manifest).await?;
                        unclaimed.extend(Unclaimed::of(operator, &subtasks));
                    }
                },
            }
        }
        if unclaimed.is_empty() {
            return Ok(());
        }
        let list = unclaimed.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        let error = Error::config("stored state has no operator: declare, drop or carry it");
        Err(error.with("checkpoint", stored.id.seq).with("unclaimed", list))
    }

    /// Refuses to carry an operator that has the name of a declared one.
    fn check_carried(&self, operator: &OperatorManifest) -> Result<()> {
        match self.declared.iter().find(|(_, names)| names.contains(&operator.name)) {
            Some((declared, _)) => Err(Error::config("carried operator has the name of a declared one")
                .with("operator", operator.id)
                .with("declared", declared)
                .with("name", operator.name.escape_debug())),
            None => Ok(()),
        }
    }

    /// Returns the operators to carry.
    ///
    /// # Errors
    /// `Corrupt` or `Unavailable` from the store.
    pub(crate) async fn carried(&self, store: &Store, stored: &StoredManifest) -> Result<Vec<Carried>> {
        let mut carried = Vec::new();
        for operator in &stored.manifest.operators {
            if self.undeclared.get(&operator.id) != Some(&Undeclared::Carry) {
                continue;
            }
            let subtasks = subtasks(store, operator, &stored.manifest).await?;
            let slices = operator.subtasks.iter().filter_map(SubtaskEntry::slice).map(|slice| slice.object);
            let ids: BTreeSet<_> = subtasks.iter().flat_map(SubtaskManifest::objects).chain(slices).collect();
            let objects = stored.manifest.objects.iter().filter(|object| ids.contains(&object.id)).cloned().collect();
            carried.push(Carried { manifest: operator.clone(), objects });
        }
        Ok(carried)
    }
}

/// An operator whose state would be lost.
struct Unclaimed<'a> {
    operator: &'a OperatorManifest,
    rows: u64,
    bytes: u64,
    opaques: usize,
}

impl<'a> Unclaimed<'a> {
    /// Returns `None` if the operator has no state.
    fn of(operator: &'a OperatorManifest, subtasks: &[SubtaskManifest]) -> Option<Self> {
        let segments = || subtasks.iter().flat_map(|subtask| &subtask.segments);
        let rows = sum(segments().map(|segment| segment.records));
        let bytes = sum(segments().map(|segment| segment.length));
        let opaques = subtasks.iter().map(|subtask| subtask.opaques.len()).sum();
        (rows > 0 || opaques > 0).then_some(Self { operator, rows, bytes, opaques })
    }
}

impl fmt::Display for Unclaimed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { operator, rows, bytes, opaques } = self;
        write!(f, "operator {} \"{}\" with {rows} rows, {bytes} bytes", operator.id, operator.name.escape_debug())?;
        if *opaques > 0 {
            write!(f, ", {opaques} opaques")?;
        }
        Ok(())
    }
}

/// Returns the operator's subtask manifests, read from slices where they are not inline.
async fn subtasks(store: &Store, operator: &OperatorManifest, manifest: &Manifest) -> Result<Vec<SubtaskManifest>> {
    let subtasks = restore::read_subtasks(store, operator.subtasks.clone(), manifest.max_parallelism).await?;
    restore::check_listed(&manifest.objects, &subtasks)?;
    Ok(subtasks)
}
