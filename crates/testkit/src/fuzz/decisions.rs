//! Decisions checked against simple models: when epochs end, which manifests live, what is garbage, what a sweep
//! deletes.

use std::collections::{BTreeMap, BTreeSet};

use alluvium::internals::checkpoint::sweep;
use alluvium::internals::control::chain::{LinkSize, bases_due};
use alluvium::internals::control::coordinator::{Command, Coordinator, Event};
use alluvium::internals::control::retention::{Ledger, retain};
use alluvium::internals::store::Key;
use alluvium::manifest::{Hash, Layout, Manifest, ManifestKind, ObjectId, ObjectRef, PutId, Retained};
use alluvium::{
    Attempt, ChainPolicy, CheckpointPolicy, Epoch, KeyGroup, KeyGroupSet, ManifestId, OperatorId, Participant, Result,
    RetentionPolicy, Seq, Subtask, Timestamp,
};
use arbitrary::{Arbitrary, Unstructured};

use super::object::golden;
use super::world::{self, Objects};

/// Events of a coordinator.
#[derive(Debug, Clone, Copy, Arbitrary)]
enum Step {
    Trigger,
    Acknowledged { epoch: u8, by: u8 },
    Declined { epoch: u8 },
    Committed,
    NotCommitted,
    Later { seconds: u16 },
}

/// A manifest appended to the chain.
#[derive(Debug, Clone, Arbitrary)]
struct Appended {
    kind: u8,
    objects: Vec<u8>,
    unreadable: bool,
    collect: bool,
}

#[derive(Debug, Arbitrary)]
struct Case {
    participants: u8,
    max_in_flight: u8,
    steps: Vec<Step>,
    retained: u8,
    list_lag: u8,
    appended: Vec<Appended>,
    chains: Vec<(u16, u8)>,
    swept: Swept,
}

/// The contents of a store.
#[derive(Debug, Arbitrary)]
struct Swept {
    manifests: Vec<Stored>,
    objects: Vec<(u8, u8)>,
    owner: bool,
}

#[derive(Debug, Arbitrary)]
struct Stored {
    attempt: u8,
    retains: u16,
    objects: Vec<(u8, u8)>,
}

/// Runs all decisions on the same input.
pub fn decisions(data: &[u8]) -> Result<()> {
    let Ok(case) = Case::arbitrary_take_rest(Unstructured::new(data)) else { return Ok(()) };
    coordinate(&case);
    retention(&case);
    chains(&case);
    world::run(sweeps(&case.swept))
}

fn coordinate(case: &Case) {
    let participants: Vec<Participant> =
        (0..1 + u32::from(case.participants % 4)).map(|n| (OperatorId(n % 2), Subtask(n))).collect();
    let max_in_flight = 1 + usize::from(case.max_in_flight % 3);
    let policy = CheckpointPolicy::default().with(|it| it.max_in_flight = max_in_flight);
    let mut now = Timestamp::from_millis(0);
    let mut coordinator = Coordinator::new(policy, participants.iter().copied(), Epoch(1), now);
    // Open epochs with the participants that acknowledged, and the committing epoch.
    let mut open: BTreeMap<Epoch, BTreeSet<Participant>> = BTreeMap::new();
    let (mut committing, mut last) = (None, Epoch(0));
    for step in &case.steps {
        match *step {
            Step::Trigger => match coordinator.trigger(now) {
                Some(epoch) => {
                    assert!(epoch == last.next() && open.len() < max_in_flight);
                    last = epoch;
                    open.insert(epoch, BTreeSet::new());
                }
                None => assert_eq!(open.len(), max_in_flight, "a trigger was refused below the limit"),
            },
            Step::Acknowledged { epoch, by } => {
                let by = participants[usize::from(by) % participants.len()];
                open.entry(Epoch(epoch.into())).and_modify(|seen| seen.extend([by]));
                coordinator.handle(now, Event::Acknowledged(Epoch(epoch.into()), by));
            }
            Step::Declined { epoch } => coordinator.handle(now, Event::Declined(Epoch(epoch.into()))),
            Step::Committed => {
                if let Some(epoch) = committing.take() {
                    open.retain(|other, _| *other > epoch);
                    coordinator.handle(now, Event::Committed(epoch));
                }
            }
            Step::NotCommitted => {
                if let Some(epoch) = committing.take() {
                    coordinator.handle(now, Event::NotCommitted(epoch));
                }
            }
            Step::Later { seconds } => {
                now = Timestamp::from_millis(now.as_millis() + i64::from(seconds) * 1000);
                coordinator.handle_timeout(now);
                assert!(coordinator.deadline().is_none_or(|deadline| deadline > now), "a deadline passed unnoticed");
            }
        }
        while let Some(command) = coordinator.poll() {
            follow(command, participants.len(), &mut open, &mut committing);
        }
        let ready = open.first_key_value().is_some_and(|(_, seen)| seen.len() == participants.len());
        assert!(!ready || committing.is_some(), "a complete epoch is not being committed");
        assert_eq!(coordinator.in_flight(), open.len());
    }
}

/// Checks a coordinator's command against the model, and applies it there.
fn follow(
    command: Command,
    participants: usize,
    open: &mut BTreeMap<Epoch, BTreeSet<Participant>>,
    committing: &mut Option<Epoch>,
) {
    match command {
        Command::Commit(epoch) => {
            assert_eq!(open[&epoch].len(), participants, "not all have acknowledged {epoch}");
            assert!(committing.is_none() && open.keys().all(|other| *other >= epoch), "out of order");
            *committing = Some(epoch);
        }
        Command::Abort(epoch) => {
            assert!(*committing != Some(epoch), "aborted an epoch whose commit is in flight");
            assert!(open.remove(&epoch).is_some(), "an epoch ends twice");
        }
    }
}

fn retention(case: &Case) {
    let policy = RetentionPolicy::default().with(|it| it.checkpoints = u32::from(case.retained % 5));
    let list_lag = u64::from(case.list_lag % 8);
    let mut ledger = Ledger::default();
    // All manifests with their objects, the live ones, and the garbage returned so far.
    let mut all: BTreeMap<Seq, BTreeSet<ObjectId>> = BTreeMap::new();
    let mut live: Vec<Retained> = Vec::new();
    let (mut deleted, mut gone): (BTreeSet<ObjectId>, BTreeSet<Seq>) = Default::default();
    let mut unreadable: BTreeSet<Seq> = BTreeSet::new();
    for (number, appended) in (1..).zip(&case.appended) {
        let kind =
            [ManifestKind::Checkpoint, ManifestKind::Claim, ManifestKind::Savepoint][usize::from(appended.kind % 3)];
        let (id, hash) = (ManifestId { seq: Seq(number), put_id: PutId::default() }, Hash::default());
        let parent = live.iter().rev().find(|entry| entry.kind != ManifestKind::Claim).map(|entry| entry.id);
        let retention = retain(policy, kind, parent, &live);
        check_retention(policy, kind, parent, &live, &retention.kept, &retention.dropped);
        let name = |n: &u8| ObjectId { attempt: Attempt(1), random: [*n; 16] };
        let objects: BTreeSet<_> = appended.objects.iter().map(name).filter(|o| !deleted.contains(o)).collect();
        ledger.advance(id.seq, objects.clone(), &retention.dropped);
        if appended.unreadable {
            ledger.add_live(id.seq, None);
            unreadable.insert(id.seq);
        }
        all.insert(id.seq, objects);
        live = retention.kept;
        live.push(Retained { id, hash, kind });
        if !appended.collect {
            continue;
        }
        let garbage = ledger.take_garbage(list_lag);
        let is_live = |seq: &Seq| live.iter().any(|entry| entry.id.seq == *seq);
        let reached: BTreeSet<_> = all.iter().filter(|(seq, _)| is_live(seq)).flat_map(|(_, o)| o).copied().collect();
        assert!(garbage.objects.is_disjoint(&reached), "an object of a live manifest is garbage");
        assert!(garbage.manifests.iter().all(|seq| !is_live(seq) && seq.0 + list_lag.max(1) <= number));
        assert!(garbage.objects.iter().all(|object| ledger.freed(object)));
        let blind = unreadable.iter().any(is_live);
        assert!(!blind || garbage.objects.is_empty(), "an unreadable manifest protects every object");
        deleted.extend(garbage.objects);
        gone.extend(garbage.manifests);
        let void: BTreeSet<_> =
            all.keys().filter(|s| !is_live(s) && s.0 + list_lag.max(1) <= number).copied().collect();
        assert_eq!(gone, void, "void manifests leave as they grow old");
        if !blind && unreadable.is_empty() {
            let orphans: BTreeSet<_> = all.values().flatten().filter(|o| !reached.contains(o)).copied().collect();
            assert_eq!(deleted, orphans, "unreachable objects are garbage");
        }
    }
}

fn check_retention(
    policy: RetentionPolicy,
    kind: ManifestKind,
    parent: Option<ManifestId>,
    live: &[Retained],
    kept: &[Retained],
    dropped: &[Retained],
) {
    let mut both = [kept, dropped].concat();
    both.sort_unstable_by_key(|entry| entry.id.seq);
    assert!(both == live && kept.is_sorted_by_key(|entry| entry.id.seq));
    let count_of = |entries: &[Retained], kind| entries.iter().filter(|entry| entry.kind == kind).count();
    assert_eq!(count_of(dropped, ManifestKind::Savepoint), 0, "savepoints are the user's");
    assert_eq!(count_of(kept, ManifestKind::Claim), 0, "a claim never outlives the manifest after it");
    let parent_lives = parent.is_none() || kept.iter().any(|entry| Some(entry.id) == parent);
    assert!(kind == ManifestKind::Checkpoint || parent_lives, "the parent checkpoint was dropped");
    let room = policy.checkpoints.max(1) as usize - usize::from(kind == ManifestKind::Checkpoint);
    let newest = live.iter().rev().filter(|entry| entry.kind == ManifestKind::Checkpoint).take(room);
    assert!(newest.into_iter().all(|entry| kept.contains(entry)), "a checkpoint is dropped too early");
    assert!(count_of(kept, ManifestKind::Checkpoint) <= room + 1, "more checkpoints than the policy allows");
}

fn chains(case: &Case) {
    let set = |bits: u16| -> KeyGroupSet { (0..16).filter(|bit| bits >> bit & 1 == 1).map(KeyGroup).collect() };
    let layers: Vec<_> = case.chains.iter().map(|(bits, bytes)| (set(*bits), u64::from(*bytes))).collect();
    let links: Vec<_> = layers
        .iter()
        .map(|(groups, bytes)| LinkSize { groups, bytes_per_group: *bytes, raw_bytes_per_group: *bytes / 2 })
        .collect();
    let owned = KeyGroupSet::all(1 + u16::from(case.retained) % 16);
    let policy = ChainPolicy::default().with(|it| {
        it.max_segments = 1 + usize::from(case.list_lag);
        it.spread = usize::from(case.participants);
    });
    let due = bases_due(&links, &owned, policy);
    assert!(due.difference(&owned).is_empty() && due.len() <= owned.len().div_ceil(policy.spread.max(1)));
    let length = |group| links.iter().filter(|link| link.groups.contains(group)).count();
    assert!(due.iter().all(|group| length(group) > 0), "a group without rows needs no base");
}

async fn sweeps(case: &Swept) -> Result<()> {
    let object = |(attempt, n): &(u8, u8)| ObjectId { attempt: Attempt(u64::from(attempt % 4)), random: [*n; 16] };
    let (golden, put_id) = golden();
    let mut objects = Objects::new();
    let mut chain: Vec<(Retained, u64, BTreeSet<ObjectId>)> = Vec::new();
    let mut attempt = 1u64;
    for (number, stored) in (1..).zip(case.manifests.iter().take(16)) {
        attempt += u64::from(stored.attempt % 2);
        let refers: BTreeSet<ObjectId> = stored.objects.iter().map(object).collect();
        let retained = chain.iter().enumerate().filter(|(at, _)| stored.retains >> at & 1 == 1);
        let manifest = Manifest {
            seq: Seq(number),
            attempt: Attempt(attempt),
            parent: None,
            retained: retained.map(|(_, (entry, ..))| *entry).collect(),
            objects: refers.iter().map(|id| reference(*id)).collect(),
            ..golden.clone()
        };
        let bytes = manifest.encode(put_id)?;
        let entry =
            Retained { id: ManifestId { seq: Seq(number), put_id }, hash: Hash::of(&bytes), kind: manifest.kind };
        objects.insert(format!("job/manifest/{number:020}"), bytes);
        chain.push((entry, stored.retains.into(), refers));
    }
    let stored: BTreeSet<ObjectId> = case.objects.iter().map(object).collect();
    objects.extend(stored.iter().map(|id| (format!("job/data/{id}"), bytes::Bytes::from_static(b"x"))));
    let (_, store) = world::store(&objects, 1).await;
    let found = sweep::plan(&store, case.owner.then_some(Attempt(attempt))).await?;
    // The live manifests: the newest, and those it lists.
    let newest = chain.len();
    let lives = |at: usize| at + 1 == newest || chain.last().is_some_and(|(_, retains, _)| retains >> at & 1 == 1);
    let live = chain.iter().enumerate().filter(|(at, _)| lives(*at));
    let reached: BTreeSet<ObjectId> = live.flat_map(|(_, (.., refers))| refers).copied().collect();
    let owner = if newest == 0 { 0 } else { attempt };
    let (mut deletable, mut in_flight, mut signposts) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for id in stored.difference(&reached) {
        let side = if id.attempt.0 < owner { &mut deletable } else { &mut in_flight };
        side.insert(Key::Data(*id));
    }
    for at in (0..newest).filter(|at| !lives(*at)) {
        let young = ((newest - at - 1) as u64) < store.settings().list_lag;
        let side = if young { &mut signposts } else { &mut deletable };
        side.insert(Key::Manifest(chain[at].0.id.seq));
    }
    let keys = |found: &[(Key, u64)]| found.iter().map(|(key, _)| *key).collect::<BTreeSet<_>>();
    assert_eq!(keys(&found.deletable), deletable);
    assert_eq!(keys(&found.in_flight), in_flight);
    assert_eq!(keys(&found.signposts), signposts);
    Ok(())
}

fn reference(id: ObjectId) -> ObjectRef {
    let (put_id, hash) = (PutId::default(), Hash::default());
    ObjectRef { id, put_id, bytes: 1, hash, layout: Layout::Whole, cipher: 0, key_id: String::new() }
}
