//! Retention: which manifests live on beside the newest, and what nothing reaches any more.
//!
//! Invariants: a manifest is live if and only if it is the newest or the newest lists it; liveness of objects is
//! computed from live manifests, never counted; whatever is unreadable protects everything.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::canary::{self, Canary};
use crate::id::{ManifestId, ObjectId, Seq};
use crate::manifest::{ManifestKind, Retained};

/// How many of the latest lots of garbage are remembered, to catch a manifest that would refer to any of it.
const FREED_LOTS: usize = 16;

/// Most objects that are remembered while an unreadable manifest holds back their deletion. A sweep finds the others.
const SUSPECTS_MAX: usize = 64 << 10;

/// How many checkpoints live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetentionPolicy {
    /// The newest ones that stay restorable, at least 1. Default 3.
    pub checkpoints: u32,
}

impl Default for RetentionPolicy {
    fn default() -> Self {
        Self { checkpoints: 3 }
    }
}

/// What becomes of the live manifests when a new one is appended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Retention {
    /// Those that the new manifest lists, ascending.
    pub kept: Vec<Retained>,
    /// Those that it does not list: void from the moment it exists.
    pub dropped: Vec<Retained>,
}

impl Retention {
    /// Returns it without the manifests that the operator wants dropped.
    ///
    /// * `continued`: what the next checkpoint continues, if the new manifest is not itself that. It stays.
    #[must_use]
    pub fn without(self, unwanted: &BTreeSet<Seq>, continued: Option<ManifestId>) -> Self {
        let goes = |manifest: &Retained| unwanted.contains(&manifest.id.seq) && Some(manifest.id) != continued;
        let (gone, kept): (Vec<_>, Vec<_>) = self.kept.into_iter().partition(goes);
        let mut dropped = [self.dropped, gone].concat();
        dropped.sort_unstable_by_key(|manifest| manifest.id.seq);
        Self { kept, dropped }
    }
}

/// Decides which of `candidates`, the manifests that live now, a new manifest of `kind` lists.
///
/// Kept are the newest checkpoints, the new one counted if it is one, and every savepoint. A claim or savepoint
/// keeps its parent too, since the next checkpoint continues that; a checkpoint is itself what the next continues.
/// A claim never outlives the manifest after it.
#[must_use]
pub fn retain(
    policy: RetentionPolicy,
    kind: ManifestKind,
    parent: Option<ManifestId>,
    candidates: &[Retained],
) -> Retention {
    let is_checkpoint = kind == ManifestKind::Checkpoint;
    let mut room = policy.checkpoints.max(1).saturating_sub(u32::from(is_checkpoint));
    let mut ordered = candidates.to_vec();
    ordered.sort_unstable_by_key(|manifest| std::cmp::Reverse(manifest.id.seq));
    let mut retention = Retention::default();
    for manifest in ordered {
        let within_room = manifest.kind == ManifestKind::Checkpoint && room > 0;
        room = room.saturating_sub(u32::from(within_room));
        let continued = !is_checkpoint && parent == Some(manifest.id);
        let owned_by_user = manifest.kind == ManifestKind::Savepoint && !canary::on(Canary::CollectSavepoints);
        let kept = within_room || continued || owned_by_user;
        let side = if kept { &mut retention.kept } else { &mut retention.dropped };
        side.push(manifest);
    }
    retention.kept.reverse();
    retention.dropped.reverse();
    retention
}

/// Names that nothing live reaches.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Garbage {
    /// Data objects.
    pub objects: BTreeSet<ObjectId>,
    /// Void manifests.
    pub manifests: BTreeSet<Seq>,
    /// Live manifests that cannot be read. While there are any, no object is garbage.
    pub held_by: BTreeSet<Seq>,
}

/// What an owner knows of its live manifests: enough to tell, without a listing, what a commit made unreachable.
#[derive(Debug, Default)]
pub struct Ledger {
    /// The live manifests with their objects; `None` if they could not be read.
    live: BTreeMap<Seq, Option<BTreeSet<ObjectId>>>,
    /// Objects of manifests that were dropped, not yet found unreachable.
    suspects: BTreeSet<ObjectId>,
    /// Void manifests whose names are still in use.
    void: BTreeSet<Seq>,
    /// Objects that were handed out as garbage lately.
    freed: VecDeque<BTreeSet<ObjectId>>,
}

impl Ledger {
    /// Adds the live manifest `seq` with its objects, or `None` if it is unreadable.
    pub fn add_live(&mut self, seq: Seq, objects: Option<BTreeSet<ObjectId>>) {
        self.live.insert(seq, objects);
    }

    /// Adds a manifest that is stored but void.
    pub fn add_void(&mut self, seq: Seq) {
        self.void.insert(seq);
    }

    /// Takes note that `newest` was committed with `objects`, and that it does not list `dropped`.
    pub fn advance(&mut self, newest: Seq, objects: BTreeSet<ObjectId>, dropped: &[Retained]) {
        self.add_live(newest, Some(objects));
        for manifest in dropped {
            self.suspects.extend(self.live.remove(&manifest.id.seq).flatten().unwrap_or_default());
            self.void.insert(manifest.id.seq);
        }
    }

    /// Returns whether a live manifest refers to `object`.
    #[must_use]
    pub fn protects(&self, object: &ObjectId) -> bool {
        self.live.values().flatten().any(|objects| objects.contains(object))
    }

    /// Returns whether `object` was handed out as garbage lately.
    #[must_use]
    pub fn freed(&self, object: &ObjectId) -> bool {
        self.freed.iter().any(|objects| objects.contains(object))
    }

    /// Removes and returns what may be deleted now.
    ///
    /// Void manifests among the last `list_lag` of the chain stay: they lead a reader whose listing lags to its end.
    pub fn take_garbage(&mut self, list_lag: u64) -> Garbage {
        let newest = self.live.last_key_value().map_or(0, |(seq, _)| seq.0);
        let young = self.void.split_off(&Seq(newest.saturating_sub(list_lag.max(1)).saturating_add(1)));
        let manifests = std::mem::replace(&mut self.void, young);
        let mut objects = BTreeSet::new();
        let held_by: BTreeSet<Seq> =
            self.live.iter().filter(|(_, objects)| objects.is_none()).map(|(seq, _)| *seq).collect();
        // As long as one live manifest is unreadable, any suspect may be an object of it.
        if held_by.is_empty() {
            objects = std::mem::take(&mut self.suspects);
            objects.retain(|object| !self.protects(object) || canary::on(Canary::CollectShared));
        }
        while self.suspects.len() > SUSPECTS_MAX {
            self.suspects.pop_first();
        }
        if !objects.is_empty() {
            self.freed.truncate(FREED_LOTS - 1);
            self.freed.push_front(objects.clone());
        }
        Garbage { objects, manifests, held_by }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{Attempt, Hash, PutId};

    fn id(seq: u64) -> ManifestId {
        ManifestId { seq: Seq(seq), put_id: PutId([1; 16]) }
    }

    fn manifest(seq: u64, kind: ManifestKind) -> Retained {
        Retained { id: id(seq), hash: Hash::default(), kind }
    }

    fn checkpoints<const N: usize>(seqs: [u64; N]) -> Vec<Retained> {
        seqs.into_iter().map(|seq| manifest(seq, ManifestKind::Checkpoint)).collect()
    }

    fn seqs(manifests: &[Retained]) -> Vec<u64> {
        manifests.iter().map(|manifest| manifest.id.seq.0).collect()
    }

    fn kept(checkpoints: u32, kind: ManifestKind, parent: Option<u64>, candidates: &[Retained]) -> Vec<u64> {
        let retention = retain(RetentionPolicy { checkpoints }, kind, parent.map(id), candidates);
        let mut all = [seqs(&retention.kept), seqs(&retention.dropped)].concat();
        all.sort_unstable();
        assert_eq!(all, seqs(candidates), "each candidate is kept or dropped");
        seqs(&retention.kept)
    }

    #[test]
    fn the_newest_checkpoints_live() {
        use ManifestKind::{Checkpoint, Claim, Savepoint};
        let candidates = checkpoints([3, 4, 5]);
        assert_eq!(kept(3, Checkpoint, Some(5), &candidates), [4, 5]);
        assert_eq!(kept(1, Checkpoint, Some(5), &candidates), Vec::<u64>::new());
        assert_eq!(kept(0, Checkpoint, Some(5), &candidates), Vec::<u64>::new(), "0 means 1");
        assert_eq!(kept(9, Checkpoint, Some(5), &candidates), [3, 4, 5]);
        assert_eq!(kept(3, Claim, Some(5), &candidates), [3, 4, 5], "a claim is no checkpoint");
        assert_eq!(kept(3, Savepoint, Some(5), &candidates), [3, 4, 5], "nor is a savepoint");
        assert_eq!(kept(2, Checkpoint, None, &[]), Vec::<u64>::new());
    }

    #[test]
    fn savepoints_live_and_claims_do_not() {
        let mut candidates = checkpoints([3, 5]);
        candidates.insert(1, manifest(4, ManifestKind::Claim));
        candidates.insert(0, manifest(1, ManifestKind::Savepoint));
        assert_eq!(kept(1, ManifestKind::Checkpoint, Some(5), &candidates), [1]);
        assert_eq!(kept(2, ManifestKind::Claim, Some(5), &candidates), [1, 3, 5]);
    }

    #[test]
    fn what_the_next_checkpoint_continues_lives() {
        let candidates = checkpoints([3, 4, 5]);
        assert_eq!(kept(1, ManifestKind::Claim, Some(3), &candidates), [3, 5]);
        let after_claim = checkpoints([3, 5]);
        assert_eq!(kept(1, ManifestKind::Savepoint, Some(3), &after_claim), [3, 5]);
        assert_eq!(kept(1, ManifestKind::Checkpoint, Some(3), &after_claim), Vec::<u64>::new());
    }

    fn object(number: u8) -> ObjectId {
        ObjectId { attempt: Attempt(1), random: [number; 16] }
    }

    fn objects<const N: usize>(numbers: [u8; N]) -> BTreeSet<ObjectId> {
        numbers.into_iter().map(object).collect()
    }

    fn garbage<const N: usize>(objects: BTreeSet<ObjectId>, manifests: [u64; N]) -> Garbage {
        Garbage { objects, manifests: manifests.into_iter().map(Seq).collect(), held_by: BTreeSet::new() }
    }

    #[test]
    fn what_the_operator_drops_goes_unless_it_is_continued() {
        let mut candidates = checkpoints([2, 5, 6]);
        candidates.insert(0, manifest(1, ManifestKind::Savepoint));
        let retention = |kind, continued: Option<u64>| {
            let retention = retain(RetentionPolicy { checkpoints: 2 }, kind, continued.map(id), &candidates);
            let left = retention.without(&[Seq(1), Seq(5), Seq(9)].into(), continued.map(id));
            (seqs(&left.kept), seqs(&left.dropped))
        };
        assert_eq!(retention(ManifestKind::Checkpoint, None), (vec![6], vec![1, 2, 5]));
        assert_eq!(retention(ManifestKind::Claim, Some(1)), (vec![1, 6], vec![2, 5]));
        assert_eq!(retention(ManifestKind::Claim, Some(5)), (vec![5, 6], vec![1, 2]));
    }

    #[test]
    fn what_an_unreadable_manifest_holds_back_is_bounded() {
        let mut ledger = Ledger::default();
        ledger.add_live(Seq(1), None);
        let numbered = |n: u64| ObjectId { attempt: Attempt(n), random: [0; 16] };
        ledger.add_live(Seq(2), Some((0..SUSPECTS_MAX as u64 + 9).map(numbered).collect()));
        ledger.advance(Seq(3), objects([]), &checkpoints([2]));
        assert_eq!(ledger.take_garbage(1).held_by, [Seq(1)].into());
        ledger.advance(Seq(4), objects([]), &checkpoints([1]));
        assert_eq!(ledger.take_garbage(1).objects.len(), SUSPECTS_MAX);
    }

    #[test]
    fn garbage_is_what_only_dropped_manifests_reach() {
        let mut ledger = Ledger::default();
        ledger.add_live(Seq(1), Some(objects([1, 2])));
        ledger.advance(Seq(2), objects([2, 3]), &[]);
        assert_eq!(ledger.take_garbage(1), Garbage::default());
        ledger.advance(Seq(3), objects([3, 4]), &checkpoints([1]));
        assert_eq!(ledger.take_garbage(1), garbage(objects([1]), [1]));
        assert!(ledger.freed(&object(1)) && !ledger.freed(&object(2)));
        assert!(ledger.protects(&object(2)) && !ledger.protects(&object(1)));
        ledger.advance(Seq(4), objects([4]), &checkpoints([2, 3]));
        assert_eq!(ledger.take_garbage(1), garbage(objects([2, 3]), [2, 3]));
        assert_eq!(ledger.take_garbage(1), Garbage::default(), "it is handed out once");
    }

    #[test]
    fn an_unreadable_live_manifest_protects_every_object() {
        let mut ledger = Ledger::default();
        ledger.add_live(Seq(1), None);
        ledger.add_live(Seq(2), Some(objects([2])));
        ledger.advance(Seq(3), objects([3]), &checkpoints([2]));
        let held = Garbage { held_by: [Seq(1)].into(), ..garbage(objects([]), [2]) };
        assert_eq!(ledger.take_garbage(1), held);
        ledger.advance(Seq(4), objects([4]), &checkpoints([1]));
        assert_eq!(ledger.take_garbage(1), garbage(objects([2]), [1]));
    }

    #[test]
    fn void_manifests_stay_until_a_lagging_listing_has_seen_past_them() {
        let mut ledger = Ledger::default();
        ledger.add_void(Seq(5));
        ledger.add_live(Seq(6), Some(objects([])));
        assert_eq!(ledger.take_garbage(3).manifests, [].into());
        ledger.advance(Seq(7), objects([]), &checkpoints([6]));
        assert_eq!(ledger.take_garbage(3).manifests, [].into());
        ledger.advance(Seq(8), objects([]), &checkpoints([7]));
        assert_eq!(ledger.take_garbage(3).manifests, [Seq(5)].into());
        assert_eq!(ledger.take_garbage(0).manifests, [Seq(6), Seq(7)].into(), "0 means 1: the newest always stays");
    }
}
