//! Retention: which manifests live beside the newest, and which objects are garbage.
//!
//! Invariants: a manifest is live if and only if it is the newest or the newest lists it; the liveness of objects is
//! computed from live manifests, never counted; an unreadable live manifest protects every object.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::canary::{self, Canary};
use crate::id::{ManifestId, ObjectId, Seq};
use crate::manifest::{ManifestKind, Retained};

/// Number of recent garbage batches kept, to detect a manifest that refers to a deleted object.
const FREED_BATCHES: usize = 16;

/// Most objects kept while an unreadable manifest blocks their deletion. A sweep finds the rest.
const MAX_SUSPECTS: usize = 64 << 10;

/// The number of retained checkpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetentionPolicy {
    /// Number of newest checkpoints that stay restorable, at least 1. Default 3.
    pub checkpoints: u32,
}

impl Default for RetentionPolicy {
    fn default() -> Self {
        Self { checkpoints: 3 }
    }
}

/// The fate of the live manifests when a new one is appended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Retention {
    /// Manifests that the new one lists, ascending.
    pub kept: Vec<Retained>,
    /// Manifests that the new one does not list: void once it exists.
    pub dropped: Vec<Retained>,
}

impl Retention {
    /// Moves the manifests that the user drops from `kept` to `dropped`.
    ///
    /// * `continued`: the parent of the next checkpoint, unless that is the new manifest. It stays.
    #[must_use]
    pub fn without(self, unwanted: &BTreeSet<Seq>, continued: Option<ManifestId>) -> Self {
        let drops = |manifest: &Retained| unwanted.contains(&manifest.id.seq) && Some(manifest.id) != continued;
        let (gone, kept): (Vec<_>, Vec<_>) = self.kept.into_iter().partition(drops);
        let mut dropped = [self.dropped, gone].concat();
        dropped.sort_unstable_by_key(|manifest| manifest.id.seq);
        Self { kept, dropped }
    }
}

/// Decides which of `candidates`, the live manifests, a new manifest of `kind` lists.
///
/// It keeps the newest checkpoints, counting the new manifest if it is one, and every savepoint. A new claim or savepoint also
/// keeps its parent, because the next checkpoint continues the parent; a new checkpoint is continued itself. A claim never
/// outlives the next manifest.
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

/// Objects and manifests that no live manifest reaches.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Garbage {
    /// Data objects.
    pub objects: BTreeSet<ObjectId>,
    /// Void manifests.
    pub manifests: BTreeSet<Seq>,
    /// Unreadable live manifests. While there are any, no object is garbage.
    pub held_by: BTreeSet<Seq>,
}

/// An owner's record of its live manifests, from which it computes the garbage of a commit without a listing.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Live manifests with their objects; `None` if unreadable.
    live: BTreeMap<Seq, Option<BTreeSet<ObjectId>>>,
    /// Objects of dropped manifests, not yet checked for reachability.
    suspects: BTreeSet<ObjectId>,
    /// Void manifests that still exist.
    void: BTreeSet<Seq>,
    /// Recently returned garbage, newest batch first.
    freed: VecDeque<BTreeSet<ObjectId>>,
}

impl Ledger {
    /// Adds the live manifest `seq` with its objects; `None` if it is unreadable.
    pub fn add_live(&mut self, seq: Seq, objects: Option<BTreeSet<ObjectId>>) {
        self.live.insert(seq, objects);
    }

    /// Adds a void manifest that still exists.
    pub fn add_void(&mut self, seq: Seq) {
        self.void.insert(seq);
    }

    /// Records the commit of `newest`, which refers to `objects` and no longer lists `dropped`.
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

    /// Returns whether `object` was recently returned as garbage.
    #[must_use]
    pub fn freed(&self, object: &ObjectId) -> bool {
        self.freed.iter().any(|objects| objects.contains(object))
    }

    /// Removes and returns the garbage that may be deleted now.
    ///
    /// Void manifests among the last `list_lag` of the chain stay: a reader with a lagging listing follows them to the end.
    pub fn take_garbage(&mut self, list_lag: u64) -> Garbage {
        let newest = self.live.last_key_value().map_or(0, |(seq, _)| seq.0);
        let young = self.void.split_off(&Seq(newest.saturating_sub(list_lag.max(1)).saturating_add(1)));
        let manifests = std::mem::replace(&mut self.void, young);
        let mut objects = BTreeSet::new();
        let held_by: BTreeSet<Seq> =
            self.live.iter().filter(|(_, objects)| objects.is_none()).map(|(seq, _)| *seq).collect();
        // An unreadable live manifest may refer to any suspect.
        if held_by.is_empty() {
            objects = std::mem::take(&mut self.suspects);
            objects.retain(|object| !self.protects(object) || canary::on(Canary::CollectShared));
        }
        while self.suspects.len() > MAX_SUSPECTS {
            self.suspects.pop_first();
        }
        if !objects.is_empty() {
            self.freed.truncate(FREED_BATCHES - 1);
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
        assert_eq!(all, seqs(candidates), "every candidate is kept or dropped");
        seqs(&retention.kept)
    }

    #[test]
    fn the_newest_checkpoints_are_kept() {
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
    fn savepoints_are_kept_and_claims_are_not() {
        let mut candidates = checkpoints([3, 5]);
        candidates.insert(1, manifest(4, ManifestKind::Claim));
        candidates.insert(0, manifest(1, ManifestKind::Savepoint));
        assert_eq!(kept(1, ManifestKind::Checkpoint, Some(5), &candidates), [1]);
        assert_eq!(kept(2, ManifestKind::Claim, Some(5), &candidates), [1, 3, 5]);
    }

    #[test]
    fn the_parent_of_the_next_checkpoint_is_kept() {
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
    fn a_manifest_dropped_by_the_user_goes_unless_it_is_continued() {
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
    fn suspects_blocked_by_an_unreadable_manifest_are_bounded() {
        let mut ledger = Ledger::default();
        ledger.add_live(Seq(1), None);
        let numbered = |n: u64| ObjectId { attempt: Attempt(n), random: [0; 16] };
        ledger.add_live(Seq(2), Some((0..MAX_SUSPECTS as u64 + 9).map(numbered).collect()));
        ledger.advance(Seq(3), objects([]), &checkpoints([2]));
        assert_eq!(ledger.take_garbage(1).held_by, [Seq(1)].into());
        ledger.advance(Seq(4), objects([]), &checkpoints([1]));
        assert_eq!(ledger.take_garbage(1).objects.len(), MAX_SUSPECTS);
    }

    #[test]
    fn objects_reached_only_by_dropped_manifests_are_garbage() {
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
        assert_eq!(ledger.take_garbage(1), Garbage::default(), "garbage is returned once");
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
