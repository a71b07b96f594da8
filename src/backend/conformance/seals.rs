//! Checks of seals, outcomes, loads and dropped groups.

use super::fixture::none;
use super::*;
use crate::backend::Outcome;
use crate::row::{Columns, Fold, Op, Row, RowBatch, RowKey, RowSource, Rules, SealedPart, SegmentKind};

/// Returns this file's checks.
pub(super) fn checks<B: StateBackend>() -> Vec<Check<B>> {
    vec![
        ("a seal without changes is empty", empty_seals),
        ("a delta has the changes since the last seal", deltas),
        ("a base has all rows", bases),
        ("sealed parts never change", sealed_parts_are_immutable),
        ("cuts rise", cuts_rise),
        ("an abort undoes nothing and repeats nothing", aborts),
        ("sealed parts restore the state", round_trip),
        ("a failed load adds nothing", failed_loads),
        ("a group is loaded in parts", loads_in_parts),
        ("routing hashes are restored", routing_round_trips),
        ("groups move between backends", groups_move),
        ("sealed parts are read by another thread", parts_cross_threads),
    ]
}

/// A sealed row: its key, and its value or `None` for a tombstone.
type SealedRow = (Vec<u8>, Option<Vec<u8>>);

/// Returns a part's rows, folded and sorted by key.
fn rows(part: &SealedPart) -> Result<Vec<SealedRow>> {
    let mut rows = Vec::new();
    let mut batch = RowBatch::new();
    for group in part.groups.iter() {
        batch.clear();
        part.rows.append_group(group, &mut batch)?;
        batch.fold(if part.kind == SegmentKind::Base { Fold::Base } else { Fold::Delta }, &part.rules)?;
        let value = |row: &Row<'_>| (row.op != Op::Delete).then(|| row.op.payload().to_vec());
        rows.extend(batch.iter().map(|row| (row.key.key.unwrap_or_default().to_vec(), value(&row))));
    }
    rows.sort_unstable();
    Ok(rows)
}

fn kinds(sealed: &Sealed) -> Vec<SegmentKind> {
    sealed.parts.iter().map(|part| part.kind).collect()
}

fn part(sealed: &Sealed, kind: SegmentKind) -> Result<&SealedPart, Failure> {
    let found = sealed.parts.iter().find(|part| part.kind == kind);
    found.ok_or_else(|| Failure(format!("no {kind:?} was sealed")))
}

fn empty_seals<B: StateBackend>(make: &dyn Fn(KeyGroupSet) -> B) -> Checked {
    let mut backend = make(all());
    let sealed = seal(&mut backend, 1, 0, &none())?;
    same("new", (kinds(&sealed), sealed.dirty_rows), (vec![], 0))?;
    put(&mut backend, "k", "v")?;
    delete(&mut backend, "k")?;
    delete(&mut backend, "never")?;
    let sealed = seal(&mut backend, 2, 0, &none())?;
    same("created and deleted", (kinds(&sealed), sealed.dirty_rows), (vec![], 0))?;
    same("epoch", sealed.cut.epoch, Epoch(2))?;
    let sealed = seal(&mut backend, 3, 0, &all())?;
    let base = part(&sealed, SegmentKind::Base)?;
    same("a base covers groups without rows", (base.groups.clone(), rows(base)?), (all(), vec![]))?;
    same("parts", kinds(&sealed).len(), 1)
}

fn deltas<B: StateBackend>(make: &dyn Fn(KeyGroupSet) -> B) -> Checked {
    let mut backend = make(all());
    for key in ["a", "b", "c"] {
        put(&mut backend, key, "1")?;
    }
    seal(&mut backend, 1, 0, &none())?;
    put(&mut backend, "a", "2")?;
    put(&mut backend, "a", "a longer value")?;
    delete(&mut backend, "b")?;
    delete(&mut backend, "b")?;
    put(&mut backend, "d", "1")?;
    put(&mut backend, "e", "1")?;
    delete(&mut backend, "e")?;
    let row = |key: &str, value: Option<&str>| (key.as_bytes().to_vec(), value.map(|value| value.as_bytes().to_vec()));
    let sealed = seal(&mut backend, 1, 1, &none())?;
    let delta = part(&sealed, SegmentKind::Delta)?;
    same("rows", rows(delta)?, vec![row("a", Some("a longer value")), row("b", None), row("d", Some("1"))])?;
    same("dirty rows", sealed.dirty_rows, 3)?;
    let touched = ["a", "b", "d"].into_iter().map(|key| group_of(key.as_bytes())).collect::<KeyGroupSet>();
    same("groups", delta.groups.clone(), touched)?;
    delete(&mut backend, "a")?;
    put(&mut backend, "a", "3")?;
    let sealed = seal(&mut backend, 2, 0, &none())?;
    same("back again", rows(part(&sealed, SegmentKind::Delta)?)?, vec![row("a", Some("3"))])?;
    delete(&mut backend, "a")?;
    let sealed = seal(&mut backend, 3, 0, &none())?;
    same("gone", rows(part(&sealed, SegmentKind::Delta)?)?, vec![row("a", None)])
}

fn bases<B: StateBackend>(make: &dyn Fn(KeyGroupSet) -> B) -> Checked {
    let mut backend = make(all());
    let (low, high) = halves();
    for key in keys(200) {
        put(&mut backend, key, "old")?;
    }
    seal(&mut backend, 1, 0, &none())?;
    for key in keys(200).step_by(2) {
        put(&mut backend, key, "new")?;
    }
    for key in keys(200).step_by(5) {
        delete(&mut backend, key)?;
    }
    let sealed = seal(&mut backend, 2, 0, &low)?;
    let (base, delta) = (part(&sealed, SegmentKind::Base)?, part(&sealed, SegmentKind::Delta)?);
    same("parts", sealed.parts.len(), 2)?;
    same("base groups", base.groups.clone(), low.clone())?;
    same("delta groups", delta.groups.clone(), high.clone())?;
    let expected = |groups: &KeyGroupSet, base: bool| -> Vec<SealedRow> {
        let row = |(i, key): (usize, [u8; 4])| {
            let value = if i % 2 == 0 { "new" } else { "old" };
            let row = match i % 5 {
                0 => (!base).then_some(None),
                _ => (base || i % 2 == 0).then_some(Some(value.as_bytes().to_vec())),
            };
            row.map(|value| (key.to_vec(), value))
        };
        keys(200).enumerate().filter(|(_, key)| groups.contains(group_of(key))).filter_map(row).collect()
    };
    same("base rows", rows(base)?, expected(&low, true))?;
    same("delta rows", rows(delta)?, expected(&high, false))?;
    same("nothing is repeated", kinds(&seal(&mut backend, 3, 0, &none())?), vec![])
}

fn sealed_parts_are_immutable<B: StateBackend>(make: &dyn Fn(KeyGroupSet) -> B) -> Checked {
    let mut backend = make(all());
    for key in keys(300) {
        put(&mut backend, key, [1; 50])?;
    }
    let delta = seal(&mut backend, 1, 0, &none())?;
    let base = seal(&mut backend, 2, 0, &all())?;
    let (delta, base) = (part(&delta, SegmentKind::Delta)?, part(&base, SegmentKind::Base)?);
    let expected: Vec<_> = keys(300).map(|key| (key.to_vec(), Some(vec![1; 50]))).collect();
    for round in 0..20u8 {
        for key in keys(300) {
            put(&mut backend, key, vec![round; 60])?;
        }
        if round == 10 {
            backend.settle(Epoch(2), Outcome::Commit)?;
            keys(300).try_for_each(|key| delete(&mut backend, key))?;
        }
        seal(&mut backend, u64::from(round) + 3, 0, &none())?;
    }
    let (low, _) = halves();
    backend.drop_groups(&low)?;
    same("delta", rows(delta)?, expected.clone())?;
    same("base", rows(base)?, expected.clone())?;
    same("memory is accounted for", delta.rows.held_bytes() > 300 * 54, true)?;
    drop(backend);
    same("after the backend", rows(delta)?, expected)
}

fn cuts_rise<B: StateBackend>(make: &dyn Fn(KeyGroupSet) -> B) -> Checked {
    let mut backend = make(all());
    seal(&mut backend, 5, 0, &none())?;
    put(&mut backend, "k", "v")?;
    for (epoch, part) in [(5, 0), (4, 9), (0, 0)] {
        refused("seal", seal(&mut backend, epoch, part, &none()), ErrorKind::Usage)?;
    }
    refused("settle", backend.settle(Epoch(6), Outcome::Commit), ErrorKind::Usage)?;
    refused("settle", backend.settle(Epoch(6), Outcome::Abort), ErrorKind::Usage)?;
    same("nothing was lost", seal(&mut backend, 5, 1, &none())?.dirty_rows, 1)
}

fn aborts<B: StateBackend>(make: &dyn Fn(KeyGroupSet) -> B) -> Checked {
    let mut backend = make(all());
    let mut history = History::default();
    for (epoch, outcome) in (1u64..).zip([Outcome::Abort, Outcome::Abort, Outcome::Commit, Outcome::Abort]) {
        let key = format!("k{epoch}");
        put(&mut backend, "shared", epoch.to_le_bytes())?;
        put(&mut backend, &key, "v")?;
        let sealed = seal(&mut backend, epoch, 0, &none())?;
        let mut expected = vec![(key.into_bytes(), Some(b"v".to_vec()))];
        expected.push((b"shared".to_vec(), Some(epoch.to_le_bytes().to_vec())));
        same("delta", rows(part(&sealed, SegmentKind::Delta)?)?, expected)?;
        history.add(sealed);
        backend.settle(Epoch(epoch), outcome)?;
        same("rows", backend.stats().rows, epoch + 1)?;
    }
    let mut restored = make(none());
    restored.load(&history, &all())?;
    same("state", contents(&mut restored, &[T])?, contents(&mut backend, &[T])?)
}

fn round_trip<B: StateBackend>(make: &dyn Fn(KeyGroupSet) -> B) -> Checked {
    let mut backend = make(all());
    let mut history = History::default();
    let (low, _) = halves();
    for epoch in 1..=8u64 {
        for (i, key) in (epoch..).zip(keys(400)) {
            match i % 7 {
                0 => put(&mut backend, key, vec![5; usize::from(key[3])])?,
                1 => delete(&mut backend, key)?,
                _ => {}
            }
        }
        let bases = if epoch == 4 { low.clone() } else { none() };
        history.add(seal(&mut backend, epoch, 0, &bases)?);
    }
    let mut restored = make(none());
    restored.load(&history, &all())?;
    let expected = contents(&mut backend, &[T])?;
    same("rows", contents(&mut restored, &[T])?, expected.clone())?;
    same("nothing is dirty", kinds(&seal(&mut restored, 1, 0, &none())?), vec![])?;
    let Some((_, _, key, ..)) = expected.keys().next() else { return Err(Failure("no rows".into())) };
    delete(&mut restored, key)?;
    let sealed = seal(&mut restored, 2, 0, &none())?;
    same("tombstone", rows(part(&sealed, SegmentKind::Delta)?)?, vec![(key.clone(), None)])?;
    let sealed = seal(&mut restored, 3, 0, &all())?;
    same("base", rows(part(&sealed, SegmentKind::Base)?)?.len(), expected.len() - 1)
}

/// A source with one row in every group; in one group the row cannot be loaded.
#[derive(Debug)]
struct DamagedSource {
    groups: KeyGroupSet,
    damaged: KeyGroup,
    /// Whether the damage is a key that is too long, rather than an error of the source.
    long_key: bool,
}

impl RowSource for DamagedSource {
    fn groups(&self) -> &KeyGroupSet {
        &self.groups
    }

    fn append_group(&self, group: KeyGroup, batch: &mut RowBatch) -> Result<()> {
        let long = vec![b'k'; if group == self.damaged && self.long_key { 70_000 } else { 1 }];
        let key = RowKey::data(T, &long, b"", b"");
        batch.push(&Row { key, op: Op::Put(b"v"), columns: Columns::default() })?;
        if group == self.damaged && !self.long_key { Err(Error::corrupt("planned")) } else { Ok(()) }
    }

    fn held_bytes(&self) -> u64 {
        0
    }
}

fn failed_loads<B: StateBackend>(make: &dyn Fn(KeyGroupSet) -> B) -> Checked {
    let (low, high) = halves();
    let mut backend = make(low.clone());
    for long_key in [true, false] {
        let damaged = KeyGroup(MAX_PARALLELISM - 1);
        let source = DamagedSource { groups: high.clone(), damaged, long_key };
        refused("load", backend.load(&source, &high), ErrorKind::Corrupt)?;
        same("groups", backend.groups().clone(), low.clone())?;
        same("rows", backend.stats().rows, 0)?;
    }
    backend.load(&History::default(), &high)?;
    same("groups without rows", (backend.groups().clone(), contents(&mut backend, &[T])?.len()), (all(), 0))
}

/// Loads groups in two parts. A backend may refuse the second with `Limit`.
fn loads_in_parts<B: StateBackend>(make: &dyn Fn(KeyGroupSet) -> B) -> Checked {
    let (mut whole, mut parts) = (make(all()), [History::default(), History::default()]);
    for (epoch, history) in (1..).zip(&mut parts) {
        // In byte order, some keys of the second part precede keys of the first.
        for key in keys(300).filter(|key| u64::from(key[3] % 2) + 1 == epoch) {
            put(&mut whole, key, "1")?;
        }
        history.add(seal(&mut whole, epoch, 0, &none())?);
    }
    let mut loaded = make(none());
    loaded.load(&parts[0], &all())?;
    match loaded.load_more(&parts[1], &all()) {
        Err(error) if error.kind() == ErrorKind::Limit => return Ok(()),
        done => done?,
    }
    same("rows", contents(&mut loaded, &[T])?, contents(&mut whole, &[T])?)?;
    same("counts", loaded.stats().rows, whole.stats().rows)?;
    same("nothing is dirty", kinds(&seal(&mut loaded, 1, 0, &none())?), vec![])?;
    refused("not owned", make(none()).load_more(&parts[1], &all()), ErrorKind::Usage)
}

fn routing_round_trips<B: StateBackend>(make: &dyn Fn(KeyGroupSet) -> B) -> Checked {
    let mut backend = make(all());
    let mut history = History::default();
    for (epoch, bases) in [(1, none()), (2, all())] {
        let located = PARTITIONER.locate(b"k", 0, MAX_PARALLELISM);
        let key = crate::key_group::CurrentKey { routing: Some(77), ..located };
        backend.write(RowRef { table: T, key: &key, namespace: &[], sub: &[] }, Write::Put(b"v"))?;
        history.add(seal(&mut backend, epoch, 0, &bases)?);
        let mut batch = RowBatch::new();
        history.append_group(key.group, &mut batch)?;
        batch.fold(Fold::Base, &Rules::none())?;
        let routing: Vec<_> = batch.iter().map(|row| row.columns.routing).collect();
        same("routing", routing, vec![Some(77)])?;
        backend = make(none());
        backend.load(&history, &all())?;
    }
    Ok(())
}

fn groups_move<B: StateBackend>(make: &dyn Fn(KeyGroupSet) -> B) -> Checked {
    let (low, high) = halves();
    let mut left = make(all());
    let mut history = History::default();
    for key in keys(300) {
        put(&mut left, key, "1")?;
    }
    history.add(seal(&mut left, 1, 0, &none())?);
    let mut right = make(none());
    right.load(&history, &high)?;
    for key in keys(300) {
        put(&mut left, key, "unsealed, and dropped with its group")?;
    }
    left.drop_groups(&high)?;
    same("groups", (left.groups().clone(), right.groups().clone()), (low.clone(), high.clone()))?;
    let in_low = keys(300).filter(|key| low.contains(group_of(key))).count() as u64;
    same("rows", (left.stats().rows, right.stats().rows), (in_low, 300 - in_low))?;
    let sealed = seal(&mut left, 2, 0, &none())?;
    same("delta groups", part(&sealed, SegmentKind::Delta)?.groups.difference(&low), none())?;
    same("dirty rows", sealed.dirty_rows, in_low)?;
    right.load(&history, &low)?;
    left.drop_groups(&low)?;
    same("moved", contents(&mut right, &[T])?.len(), 300)?;
    same("emptied", (left.groups().is_empty(), left.stats().rows), (true, 0))?;
    left.load(&history, &all())?;
    same("and back", contents(&mut left, &[T])?, contents(&mut right, &[T])?)
}

fn parts_cross_threads<B: StateBackend>(make: &dyn Fn(KeyGroupSet) -> B) -> Checked {
    let mut backend = make(all());
    for key in keys(2000) {
        put(&mut backend, key, [3; 40])?;
    }
    let sealed = seal(&mut backend, 1, 0, &none())?;
    let reader = std::thread::spawn(move || sealed.parts.iter().map(rows).collect::<Result<Vec<_>>>());
    for key in keys(2000) {
        put(&mut backend, key, [4; 50])?;
    }
    match reader.join() {
        Ok(parts) => same("rows", parts?.iter().map(Vec::len).sum(), 2000),
        Err(_) => Err(Failure("the reader panicked".into())),
    }
}
