//! I1: checks a manifest and the objects it refers to, at the instant of its creation.

use std::collections::BTreeSet;

use crate::stack::{Transaction, intent};
use crate::wire::{self, SeenManifest};
use alluvium_testkit::sim::Objects;

/// The kind of state in a scenario's manifests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    /// Records of a log, from the core's scenario.
    Records,
    /// Segments, from real jobs.
    Segments,
}

impl Content {
    /// Fills in the fields that only the core's scenario writes.
    pub(super) fn complete(self, manifest: &mut SeenManifest) {
        if self == Self::Records {
            return;
        }
        if manifest.is_claim() {
            // Jobs of the whole stack always restore the newest checkpoint.
            manifest.writer = "Newest".into();
        } else {
            manifest.intent = Some(intent(manifest.attempt, manifest.epoch));
        }
    }

    pub(super) fn check(self, manifest: &SeenManifest, objects: &Objects, wrong: &mut Vec<String>) {
        i01_references_are_whole(manifest, objects, wrong);
        match self {
            Self::Records => i01_records_have_no_gap(manifest, objects, wrong),
            Self::Segments => i01_groups_are_covered_once(manifest, wrong),
        }
    }
}

/// Each object exists, with the length, hash and put-id in the manifest.
fn i01_references_are_whole(manifest: &SeenManifest, objects: &Objects, wrong: &mut Vec<String>) {
    let seq = manifest.seq;
    for object in &manifest.objects {
        let name = &object.name;
        let Some(stored) = objects.get(&format!("job/data/{name}")) else {
            wrong.push(format!("I1: manifest {seq} refers to {name}, which is absent"));
            continue;
        };
        let whole = stored.bytes.len() as u64 == object.bytes
            && wire::put_id(&stored.bytes) == object.put_id
            && blake3::hash(&stored.bytes).as_bytes()[..16] == object.hash[..];
        if !whole {
            wrong.push(format!("I1: manifest {seq} refers to {name}, which holds another object"));
        }
    }
}

/// The objects hold the records from the first on, without a gap.
fn i01_records_have_no_gap(manifest: &SeenManifest, objects: &Objects, wrong: &mut Vec<String>) {
    let stored = manifest.objects.iter().filter_map(|object| objects.get(&format!("job/data/{}", object.name)));
    let mut ranges: Vec<(u64, u64)> = stored.map(|stored| wire::records(&stored.bytes)).collect();
    ranges.sort_unstable();
    let mut next = 0;
    for (from, to) in ranges {
        if from != next {
            wrong.push(format!("I1: manifest {} has a gap at {next}", manifest.seq));
        }
        next = to;
    }
    if manifest.is_checkpoint() && next != manifest.epoch {
        wrong.push(format!("I1: manifest {} holds {next} records, not {}", manifest.seq, manifest.epoch));
    }
}

/// The subtasks of each operator own each key group once, and the manifest lists each segment's object.
fn i01_groups_are_covered_once(manifest: &SeenManifest, wrong: &mut Vec<String>) {
    let listed: BTreeSet<&str> = manifest.objects.iter().map(|object| object.name.as_str()).collect();
    for operator in &manifest.operators {
        let (seq, id) = (manifest.seq, operator.id);
        if operator.subtasks.len() as u64 != operator.parallelism {
            wrong.push(format!("I1: operator {id} of manifest {seq} lacks subtasks"));
        }
        let mut ranges: Vec<(u64, u64)> = operator.subtasks.iter().flat_map(|subtask| subtask.groups.clone()).collect();
        ranges.sort_unstable();
        let end = ranges.iter().try_fold(0, |next, (start, end)| (*start == next && end > start).then_some(*end));
        if end != Some(manifest.max_parallelism) {
            wrong.push(format!("I1: subtasks of operator {id} of manifest {seq} own {ranges:?}"));
        }
        for segment in operator.subtasks.iter().flat_map(|subtask| &subtask.segments) {
            if !listed.contains(segment.object.as_str()) {
                wrong.push(format!("I1: manifest {seq} does not list {}, which holds a segment", segment.object));
            }
        }
    }
}

/// Role of opaques that list a sink's prepared transactions.
const SINK_PREPARED: u64 = 4;

/// Returns the transactions that a manifest lists.
pub(super) fn transactions(manifest: &SeenManifest, objects: &Objects) -> Vec<Transaction> {
    let subtasks = manifest.operators.iter().flat_map(|operator| &operator.subtasks);
    let opaques = subtasks.flat_map(|subtask| &subtask.opaques).filter(|opaque| opaque.role == SINK_PREPARED);
    opaques.flat_map(|opaque| Transaction::decode(&opaque.bytes(objects))).collect()
}
