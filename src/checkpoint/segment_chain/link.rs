//! One link of a segment chain: a run of state on its way into a manifest, or already in one.

use std::sync::Arc;

use crate::checkpoint::encoded_rows::EncodedRows;
use crate::id::{Epoch, Part};
use crate::key_group::KeyGroupSet;
use crate::memory::MemoryBudget;
use crate::row::{RowSource, Rules, SealedPart, SegmentKind, Stack};
use crate::segment::{Encoded, SegmentRef};

/// Identifies a link within its chain while its content stays the same. Never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub(super) u64);

/// The seals that a link covers: those of `first_epoch` up to part `part` of `epoch`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seals {
    /// The first epoch.
    pub first_epoch: Epoch,
    /// The last epoch.
    pub epoch: Epoch,
    /// The last part, within that epoch.
    pub part: Part,
}

/// A link of a chain.
#[derive(Debug, Clone)]
pub(super) struct Link {
    pub(super) id: LinkId,
    pub(super) seals: Seals,
    pub(super) kind: SegmentKind,
    /// The groups whose state the link holds. A newer base, once committed, removes groups.
    pub(super) groups: KeyGroupSet,
    pub(super) stage: Stage,
    /// The rules of its rows; unused once it is placed, and empty if a manifest listed it.
    pub(super) rules: Rules,
    /// Stored bytes of its rows, where the index was read: a restored segment may have rows of other groups too.
    pub(super) measured: Option<u64>,
}

/// How far a link has come.
#[derive(Debug, Clone)]
pub(super) enum Stage {
    Sealed(Arc<dyn RowSource>),
    Encoded(Arc<EncodedRows>),
    Placed(SegmentRef),
}

/// A link to be encoded and placed for a checkpoint.
#[derive(Debug, Clone)]
pub struct PendingLink {
    /// The link's id.
    pub id: LinkId,
    /// The seals that it covers.
    pub seals: Seals,
    /// Its encoded bytes, or the rows to encode.
    pub content: Content,
}

/// The content of a pending link.
#[derive(Debug, Clone)]
pub enum Content {
    /// Rows, not encoded yet.
    Rows(SealedPart),
    /// The segment's bytes, encoded earlier.
    Bytes(Encoded),
}

impl Link {
    /// Returns the link of a segment listed in a manifest.
    pub(super) fn placed(id: LinkId, segment: SegmentRef) -> Self {
        Self {
            id,
            seals: Seals { first_epoch: segment.first_epoch, epoch: segment.id.epoch, part: segment.id.part },
            kind: segment.kind,
            groups: segment.groups.clone(),
            stage: Stage::Placed(segment),
            rules: Rules::none(),
            measured: None,
        }
    }

    /// Returns whether both links have the same seal and kind.
    pub(super) fn is_sealed_with(&self, other: &Self) -> bool {
        (self.seals.epoch, self.seals.part, self.kind) == (other.seals.epoch, other.seals.part, other.kind)
    }

    /// Returns whether it must be placed before a manifest can cover `epoch`.
    pub(super) fn is_pending(&self, epoch: Epoch) -> bool {
        self.seals.epoch <= epoch && !matches!(self.stage, Stage::Placed(_))
    }

    /// Returns its rows; none once it is placed.
    pub(super) fn rows(&self) -> Arc<dyn RowSource> {
        match &self.stage {
            Stage::Sealed(rows) => Arc::clone(rows),
            Stage::Encoded(encoded) => Arc::<EncodedRows>::clone(encoded),
            Stage::Placed(_) => Arc::new(Stack::default()),
        }
    }

    pub(super) fn sealed_part(&self) -> SealedPart {
        SealedPart { kind: self.kind, groups: self.groups.clone(), rows: self.rows(), rules: self.rules.clone() }
    }

    /// Returns a link for the groups of `encoded`, which was encoded from this one.
    pub(super) fn encoded_as(&self, id: LinkId, encoded: Encoded, budget: &MemoryBudget) -> Self {
        let groups = encoded.groups.clone();
        let stage = Stage::Encoded(Arc::new(EncodedRows::new(encoded, budget)));
        Self { id, groups, stage, rules: self.rules.clone(), measured: None, ..*self }
    }

    pub(super) fn pending(&self) -> PendingLink {
        let content = match &self.stage {
            Stage::Encoded(encoded) => Content::Bytes(encoded.encoded().clone()),
            Stage::Sealed(_) | Stage::Placed(_) => Content::Rows(self.sealed_part()),
        };
        PendingLink { id: self.id, seals: self.seals, content }
    }

    /// Returns the length of its segment, or of its rows there; 0 before it is encoded.
    pub(super) fn bytes(&self) -> u64 {
        match &self.stage {
            Stage::Sealed(_) => 0,
            Stage::Encoded(encoded) => encoded.held_bytes(),
            Stage::Placed(segment) => self.measured.unwrap_or(segment.length),
        }
    }

    /// Returns the bytes of its rows before compression; 0 before it is encoded.
    pub(super) fn raw_bytes(&self) -> u64 {
        match &self.stage {
            Stage::Sealed(_) => 0,
            Stage::Encoded(encoded) => encoded.encoded().raw_bytes,
            Stage::Placed(segment) => match self.measured {
                Some(bytes) => scaled(segment.raw_bytes, bytes, segment.length),
                None => segment.raw_bytes,
            },
        }
    }

    /// Returns the number of groups that its bytes are for; it may have handed some of them to newer links since.
    pub(super) fn covered(&self) -> u64 {
        let groups = match &self.stage {
            Stage::Sealed(_) => &self.groups,
            Stage::Encoded(encoded) => &encoded.encoded().groups,
            Stage::Placed(segment) => &segment.groups,
        };
        groups.len() as u64
    }

    pub(super) fn bytes_per_group(&self) -> u64 {
        self.bytes() / self.covered().max(1)
    }
}

/// Returns `value * part / whole`.
fn scaled(value: u64, part: u64, whole: u64) -> u64 {
    let scaled = u128::from(value) * u128::from(part) / u128::from(whole.max(1));
    u64::try_from(scaled).unwrap_or(u64::MAX)
}
