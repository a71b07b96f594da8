//! Clears of absent groups: logged, not applied.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::backend::{Scope, StateBackend};
use crate::canary::{self, Canary};
use crate::error::Result;
use crate::id::TableId;
use crate::key_group::{CurrentKey, KeyGroup, KeyGroupSet};
use crate::row::{Columns, Op, Row, RowBatch, RowSource, Rules, Sealed, SealedPart, SegmentKind, Stack};

/// Clears of one absent group that are kept. A group with more is loaded.
const CLEARS_MAX: usize = 64;

/// A clear, with its own bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Clear {
    table: TableId,
    key: Option<OwnedKey>,
    namespace: Option<Box<[u8]>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct OwnedKey {
    bytes: Box<[u8]>,
    hash: u64,
    routing: Option<u64>,
}

/// The clears of absent groups, oldest first.
///
/// A clear is sealed once, and stays here until its group is loaded: the group's rows are then cleared again, which the
/// next delta repeats. Between the two no row was written, since a write loads its group first.
#[derive(Debug, Default)]
pub(super) struct Clears {
    groups: BTreeMap<KeyGroup, Vec<Clear>>,
    /// Groups with clears since the last seal.
    unsealed: BTreeMap<KeyGroup, Vec<Clear>>,
}

impl Clears {
    /// Logs a clear. Returns false if its group has too many.
    pub(super) fn log(&mut self, table: TableId, scope: &Scope<'_>) -> bool {
        let group = scope.group();
        let kept = self.groups.entry(group).or_default();
        let clear = Clear::new(table, scope);
        // Nothing was written since: the clear is in the next delta, or in one before.
        if kept.contains(&clear) {
            return true;
        }
        if kept.len() >= CLEARS_MAX {
            return false;
        }
        kept.push(clear.clone());
        self.unsealed.entry(group).or_default().push(clear);
        true
    }

    /// Applies the clears of a group that was loaded.
    pub(super) fn apply(&self, group: KeyGroup, backend: &mut impl StateBackend) -> Result<()> {
        let clears = self.groups.get(&group).filter(|_| !canary::on(Canary::SkipClears)).into_iter().flatten();
        clears.into_iter().try_for_each(|clear| clear.apply(group, backend))
    }

    /// Drops the clears of `groups`.
    pub(super) fn forget(&mut self, groups: &KeyGroupSet) {
        self.groups.retain(|group, _| !groups.contains(*group));
        self.unsealed.retain(|group, _| !groups.contains(*group));
    }

    /// Returns the clears since the last seal, as rows.
    pub(super) fn unsealed(&self) -> Result<ClearedGroups> {
        let rows = |(&group, clears): (&KeyGroup, &Vec<Clear>)| {
            let mut batch = RowBatch::new();
            clears.iter().try_for_each(|clear| clear.push_to(group, &mut batch))?;
            Ok((group, batch))
        };
        let batches = self.unsealed.iter().map(rows).collect::<Result<_>>()?;
        Ok(ClearedGroups { groups: self.unsealed.keys().copied().collect(), batches })
    }

    /// Adds the clears since the last seal to the seal's delta.
    pub(super) fn seal(&mut self, clears: ClearedGroups, sealed: &mut Sealed, rules: &Rules) {
        self.unsealed.clear();
        let groups = clears.groups.clone();
        if groups.is_empty() {
            return;
        }
        let clears: Arc<dyn RowSource> = Arc::new(clears);
        match sealed.parts.iter_mut().find(|part| part.kind == SegmentKind::Delta) {
            Some(delta) => {
                delta.groups = delta.groups.union(&groups);
                delta.rows = Arc::new(Stack::new(vec![Arc::clone(&delta.rows), clears]));
            }
            None => {
                sealed.parts.push(SealedPart { kind: SegmentKind::Delta, groups, rows: clears, rules: rules.clone() });
            }
        }
    }
}

impl Clear {
    fn new(table: TableId, scope: &Scope<'_>) -> Self {
        let owned = |key: &CurrentKey<'_>| OwnedKey { bytes: key.bytes.into(), hash: key.hash, routing: key.routing };
        let (key, namespace) = match *scope {
            Scope::Key(key) => (Some(owned(key)), None),
            Scope::KeyNamespace(key, namespace) => (Some(owned(key)), Some(namespace.into())),
            Scope::Namespace(_, namespace) => (None, Some(namespace.into())),
        };
        Self { table, key, namespace }
    }

    /// Calls `f` with the clear's scope.
    fn with_scope<R>(&self, group: KeyGroup, f: impl FnOnce(Scope<'_>) -> R) -> R {
        let namespace = self.namespace.as_deref();
        let Some(OwnedKey { bytes, hash, routing }) = &self.key else {
            return f(Scope::Namespace(group, namespace.unwrap_or_default()));
        };
        let key = CurrentKey { bytes, hash: *hash, group, routing: *routing };
        f(match namespace {
            Some(namespace) => Scope::KeyNamespace(&key, namespace),
            None => Scope::Key(&key),
        })
    }

    fn apply(&self, group: KeyGroup, backend: &mut impl StateBackend) -> Result<()> {
        self.with_scope(group, |scope| backend.clear(self.table, scope))
    }

    fn push_to(&self, group: KeyGroup, batch: &mut RowBatch) -> Result<()> {
        self.with_scope(group, |scope| {
            batch.push(&Row { key: scope.place(self.table), op: Op::Clear, columns: Columns::default() })
        })
    }
}

/// The clears of one seal.
#[derive(Debug)]
pub(super) struct ClearedGroups {
    groups: KeyGroupSet,
    batches: BTreeMap<KeyGroup, RowBatch>,
}

/// Returns a base of `groups` without rows, for [`Canary::ForgetAbsent`]; `None` of no groups.
pub(super) fn empty_base(groups: KeyGroupSet, rules: &Rules) -> Option<SealedPart> {
    let rows = Arc::new(ClearedGroups { groups: groups.clone(), batches: BTreeMap::new() });
    let base = SealedPart { kind: SegmentKind::Base, groups, rows, rules: rules.clone() };
    (!base.groups.is_empty()).then_some(base)
}

impl RowSource for ClearedGroups {
    fn groups(&self) -> &KeyGroupSet {
        &self.groups
    }

    fn append_group(&self, group: KeyGroup, batch: &mut RowBatch) -> Result<()> {
        self.batches.get(&group).map_or(Ok(()), |clears| clears.iter().try_for_each(|row| batch.push(&row)))
    }

    fn held_bytes(&self) -> u64 {
        self.batches.values().map(RowBatch::held_bytes).sum()
    }
}
