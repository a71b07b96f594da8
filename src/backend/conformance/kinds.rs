//! Checks of what every kind of state is made of: operands, clears, rows of one key.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;

use super::*;
use crate::backend::{ALL_SUBS, Entry, Outcome, Scope, SubRange};
use crate::key_group::CurrentKey;
use crate::row::{Append, MergeOperator, Op, RowBatch, RowSource as _, SealedPart, TableRules};

/// Returns this file's checks.
pub(super) fn checks<B: StateBackend>() -> Vec<Check<B>> {
    vec![
        ("operands merge, wherever what they belong to lies", operands),
        ("what is added is in the delta, not what it is added to", deltas_of_operands),
        ("operands without an operator are refused", no_operator),
        ("a clear removes what it covers, wherever it lies", clears),
        ("clears and writes take effect in order", clears_in_order),
        ("a clear is one row, or none", clears_are_small),
        ("rows of one key are visited, by sub-key where ordered", rows_of_a_key),
        ("rows of a key change over seals and loads", rows_of_a_key_change),
    ]
}

pub(super) fn key(bytes: &[u8]) -> CurrentKey<'_> {
    PARTITIONER.locate(bytes, 0, MAX_PARALLELISM)
}

/// Adds numbers of 8 bytes; 13 panics, and 14 is refused.
#[derive(Debug)]
pub(super) struct Sum;

impl MergeOperator for Sum {
    fn name(&self) -> &'static str {
        "sum"
    }

    fn merge(&self, older: &[u8], newer: &[u8], out: &mut Vec<u8>) -> Result<()> {
        let number = |bytes: &[u8]| bytes.try_into().map(u64::from_le_bytes);
        match (number(older), number(newer)) {
            (Ok(_), Ok(13)) => std::panic::resume_unwind(Box::new("planned")),
            (Ok(_), Ok(14)) | (Err(_), _) | (_, Err(_)) => Err(Error::corrupt("planned")),
            (Ok(older), Ok(newer)) => {
                out.extend_from_slice(&older.wrapping_add(newer).to_le_bytes());
                Ok(())
            }
        }
    }
}

/// A table of sums.
pub(super) const SUMS: TableId = TableId(2);
/// A table of lists.
pub(super) const LISTS: TableId = TableId(3);
/// A table whose rows are visited in order.
const ORDERED: TableId = TableId(4);

/// Sets the rules of the tables above.
pub(super) fn define<B: StateBackend>(backend: &mut B) {
    let merging = |merge: Arc<dyn MergeOperator>| TableRules { merge: Some(merge), ..TableRules::default() };
    backend.define(SUMS, merging(Arc::new(Sum)));
    backend.define(LISTS, merging(Arc::new(Append)));
    backend.define(ORDERED, TableRules { ordered: true, ..TableRules::default() });
}

fn made<B: StateBackend>(make: &dyn Fn(KeyGroupSet) -> B) -> B {
    let mut backend = make(all());
    define(&mut backend);
    backend
}

/// What is stored of a backend: its parts, encoded and read again.
#[derive(Default)]
pub(super) struct Stored {
    pub(super) history: History,
    epoch: u64,
}

/// A stored row: its op as a sign, its place and its bytes.
pub(super) type StoredRow = (char, Vec<u8>, Vec<u8>);

impl Stored {
    /// Seals at these times, stores what was sealed and returns its rows.
    pub(super) fn seal_at<B: StateBackend>(
        &mut self,
        backend: &mut B,
        bases: &KeyGroupSet,
        (event, processing): (i64, i64),
    ) -> Result<Vec<StoredRow>> {
        self.epoch += 1;
        let (event_time, processing_time) = (Timestamp::from_millis(event), Timestamp::from_millis(processing));
        let cut = Cut { epoch: Epoch(self.epoch), part: Part(0), event_time, processing_time };
        let mut sealed = backend.seal(cut, bases)?;
        let outcome = if self.epoch.is_multiple_of(2) { Outcome::Commit } else { Outcome::Abort };
        backend.settle(cut.epoch, outcome)?;
        let mut found = Vec::new();
        for part in &mut sealed.parts {
            found.extend(store(part)?);
        }
        self.history.add(sealed);
        Ok(found)
    }

    pub(super) fn seal<B: StateBackend>(&mut self, backend: &mut B, bases: &KeyGroupSet) -> Result<Vec<StoredRow>> {
        self.seal_at(backend, bases, (0, 0))
    }

    /// Returns a backend that was loaded from what is stored.
    fn load<B: StateBackend>(&self, make: &dyn Fn(KeyGroupSet) -> B) -> Result<B> {
        let mut backend = make(KeyGroupSet::empty());
        define(&mut backend);
        backend.load(&self.history, &all())?;
        Ok(backend)
    }
}

/// Folds a part's rows, as encoding does, and returns them.
fn store(part: &mut SealedPart) -> Result<Vec<StoredRow>> {
    let rows = part.folded()?;
    let mut batch = RowBatch::new();
    part.groups.iter().try_for_each(|group| rows.append_group(group, &mut batch))?;
    part.rows = Arc::new(rows);
    let sign = |op: &Op<'_>| match op {
        Op::Put(_) => '=',
        Op::Merge(_) => '+',
        Op::Delete => 'x',
        Op::Clear => '!',
    };
    let found = batch.iter().map(|row| {
        let place = [row.key.key, row.key.namespace, row.key.sub].map(|part| part.unwrap_or(b"-"));
        (sign(&row.op), place.join(&b'/'), row.op.payload().to_vec())
    });
    Ok(found.collect())
}

fn none() -> KeyGroupSet {
    KeyGroupSet::empty()
}

pub(super) fn write_in<B: StateBackend>(
    backend: &mut B,
    table: TableId,
    [k, namespace, sub]: [&str; 3],
    write: Write<'_>,
) -> Result<()> {
    let (namespace, sub) = (namespace.as_bytes(), sub.as_bytes());
    backend.write(RowRef { table, key: &key(k.as_bytes()), namespace, sub }, write)
}

pub(super) fn read_in<B: StateBackend>(
    backend: &mut B,
    table: TableId,
    [k, namespace, sub]: [&str; 3],
) -> Result<Option<Vec<u8>>> {
    let (namespace, sub) = (namespace.as_bytes(), sub.as_bytes());
    backend.read(RowRef { table, key: &key(k.as_bytes()), namespace, sub }, |value| value.map(<[u8]>::to_vec))
}

/// Ways to store what there is, between two steps of a check.
const STEPS: [&str; 4] = ["nothing", "seal", "base", "reload"];

fn step<B: StateBackend>(
    step: &str,
    backend: &mut B,
    stored: &mut Stored,
    make: &dyn Fn(KeyGroupSet) -> B,
) -> Result<()> {
    match step {
        "seal" => stored.seal(backend, &none()).map(drop),
        "base" => stored.seal(backend, &all()).map(drop),
        "reload" => {
            stored.seal(backend, &none())?;
            *backend = stored.load(make)?;
            // Epochs go on in the new life of the backend.
            Ok(())
        }
        _ => Ok(()),
    }
}

fn operands<B: StateBackend>(make: &dyn Fn(KeyGroupSet) -> B) -> Checked {
    let place = ["k", "w", "s"];
    for first in STEPS {
        for second in STEPS {
            for base in [None, Some(100u64)] {
                let (mut backend, mut stored) = (made(make), Stored::default());
                if let Some(base) = base {
                    write_in(&mut backend, SUMS, place, Write::Put(&base.to_le_bytes()))?;
                    write_in(&mut backend, LISTS, place, Write::Put(b"base,"))?;
                }
                for (n, then) in [(1u64, first), (2, second), (4, "nothing")] {
                    step(then, &mut backend, &mut stored, make)?;
                    write_in(&mut backend, SUMS, place, Write::Merge(&n.to_le_bytes()))?;
                    write_in(&mut backend, LISTS, place, Write::Merge(&[b'0' + u8::try_from(n).unwrap_or(0)]))?;
                }
                let what = format!("after {first}, {second}, with {base:?}");
                let expected = (base.unwrap_or(0) + 7).to_le_bytes().to_vec();
                let list = if base.is_some() { b"base,124".to_vec() } else { b"124".to_vec() };
                same(&what, read_in(&mut backend, SUMS, place)?, Some(expected.clone()))?;
                same(&what, read_in(&mut backend, LISTS, place)?, Some(list.clone()))?;
                same("scan", contents(&mut backend, &[SUMS])?.into_values().collect(), vec![expected.clone()])?;
                same("rows", backend.stats().rows, 2)?;
                let seen = backend.update(
                    RowRef { table: LISTS, key: &key(b"k"), namespace: b"w", sub: b"s" },
                    |value, out| {
                        out.extend_from_slice(b"new");
                        (crate::backend::Change::Put, value.map(<[u8]>::to_vec))
                    },
                )?;
                same("update", seen, Some(list))?;
                step("reload", &mut backend, &mut stored, make)?;
                same("loaded", read_in(&mut backend, SUMS, place)?, Some(expected))?;
                same("loaded", read_in(&mut backend, LISTS, place)?, Some(b"new".to_vec()))?;
                write_in(&mut backend, LISTS, place, Write::Delete)?;
                write_in(&mut backend, LISTS, place, Write::Merge(b"z"))?;
                step("reload", &mut backend, &mut stored, make)?;
                same("after a delete", read_in(&mut backend, LISTS, place)?, Some(b"z".to_vec()))?;
            }
        }
    }
    Ok(())
}

fn deltas_of_operands<B: StateBackend>(make: &dyn Fn(KeyGroupSet) -> B) -> Checked {
    let (mut backend, mut stored) = (made(make), Stored::default());
    let place = ["k", "", ""];
    write_in(&mut backend, LISTS, place, Write::Put(&[b'x'; 100_000]))?;
    stored.seal(&mut backend, &none())?;
    for _again in 0..3 {
        write_in(&mut backend, LISTS, place, Write::Merge(b"ab"))?;
        write_in(&mut backend, LISTS, place, Write::Merge(b"c"))?;
        let rows = stored.seal(&mut backend, &none())?;
        same("delta", rows, vec![('+', b"k//".to_vec(), b"abc".to_vec())])?;
    }
    same("value", read_in(&mut backend, LISTS, place)?.map(|value| value.len()), Some(100_009))?;
    let base = stored.seal(&mut backend, &all())?;
    same("base", base.iter().map(|(sign, _, bytes)| (*sign, bytes.len())).collect(), vec![('=', 100_009)])
}

fn no_operator<B: StateBackend>(make: &dyn Fn(KeyGroupSet) -> B) -> Checked {
    let mut backend = made(make);
    put(&mut backend, "k", "v")?;
    refused("merge", write_in(&mut backend, T, ["k", "", ""], Write::Merge(b"w")), ErrorKind::Usage)?;
    refused("merge", write_in(&mut backend, ORDERED, ["k", "", ""], Write::Merge(b"w")), ErrorKind::Usage)?;
    same("value", read(&mut backend, "k")?, Some(b"v".to_vec()))
}

/// The places that clears are checked on: two keys of each of two groups, two namespaces, two sub-keys.
fn places() -> Vec<[String; 3]> {
    let mut keys: Vec<String> = Vec::new();
    let group = |k: &String| key(k.as_bytes()).group;
    for n in 0..1000 {
        let k = n.to_string();
        let (same, others) = (keys.iter().filter(|other| group(other) == group(&k)).count(), keys.len());
        if same < 2 && (others < 2 || same > 0 || keys.iter().map(group).collect::<BTreeSet<_>>().len() < 2) {
            keys.push(k);
        }
    }
    let mut places = Vec::new();
    for k in keys {
        for namespace in ["v", "w"] {
            places.extend(["s", "t"].map(|sub| [k.clone(), namespace.to_owned(), sub.to_owned()]));
        }
    }
    places
}

fn as_text(place: &[String; 3]) -> [&str; 3] {
    place.each_ref().map(String::as_str)
}

fn clears<B: StateBackend>(make: &dyn Fn(KeyGroupSet) -> B) -> Checked {
    let places = places();
    let Some([victim, namespace, _]) = places.first().cloned() else { return Err(Failure("no places".into())) };
    let located = key(victim.as_bytes());
    let scopes = [
        Scope::Key(&located),
        Scope::KeyNamespace(&located, namespace.as_bytes()),
        Scope::Namespace(located.group, namespace.as_bytes()),
    ];
    for scope in scopes {
        let covered = |[k, n, _]: &[String; 3]| match scope {
            Scope::Key(_) => *k == victim,
            Scope::KeyNamespace(..) => *k == victim && *n == namespace,
            Scope::Namespace(group, _) => key(k.as_bytes()).group == group && *n == namespace,
        };
        for before in STEPS {
            for after in STEPS {
                let (mut backend, mut stored) = (made(make), Stored::default());
                for (table, place) in [T, LISTS].into_iter().flat_map(|table| places.iter().map(move |p| (table, p))) {
                    write_in(&mut backend, table, as_text(place), Write::Put(b"1"))?;
                }
                step(before, &mut backend, &mut stored, make)?;
                places
                    .iter()
                    .try_for_each(|place| write_in(&mut backend, LISTS, as_text(place), Write::Merge(b"2")))?;
                backend.clear(LISTS, scope)?;
                step(after, &mut backend, &mut stored, make)?;
                let what = format!("{scope:?} between {before} and {after}");
                let left = places.iter().filter(|place| !covered(place)).count();
                same(&what, backend.stats().rows, (left + places.len()) as u64)?;
                for place in &places {
                    let expected = (!covered(place)).then(|| b"12".to_vec());
                    same(&what, read_in(&mut backend, LISTS, as_text(place))?, expected)?;
                    same("other table", read_in(&mut backend, T, as_text(place))?, Some(b"1".to_vec()))?;
                }
                same("scan", contents(&mut backend, &[LISTS])?.len(), left)?;
            }
        }
    }
    Ok(())
}

fn clears_in_order<B: StateBackend>(make: &dyn Fn(KeyGroupSet) -> B) -> Checked {
    let (k, place) = (key(b"k"), |sub: &'static str| ["k", "w", sub]);
    let scopes = [Scope::Key(&k), Scope::KeyNamespace(&k, b"w"), Scope::Namespace(k.group, b"w")];
    for scope in scopes {
        for before in STEPS {
            let (mut backend, mut stored) = (made(make), Stored::default());
            for sub in ["put", "merged", "deleted", "gone"] {
                write_in(&mut backend, LISTS, place(sub), Write::Put(b"old"))?;
            }
            step(before, &mut backend, &mut stored, make)?;
            backend.clear(LISTS, scope)?;
            write_in(&mut backend, LISTS, place("put"), Write::Put(b"new"))?;
            write_in(&mut backend, LISTS, place("merged"), Write::Merge(b"new"))?;
            write_in(&mut backend, LISTS, place("deleted"), Write::Put(b"new"))?;
            write_in(&mut backend, LISTS, place("deleted"), Write::Delete)?;
            for reload in [false, true] {
                if reload {
                    step("reload", &mut backend, &mut stored, make)?;
                }
                let what = format!("{scope:?} after {before}, reloaded: {reload}");
                for (sub, expected) in [("put", true), ("merged", true), ("deleted", false), ("gone", false)] {
                    let expected = expected.then(|| b"new".to_vec());
                    same(&format!("{sub}: {what}"), read_in(&mut backend, LISTS, place(sub))?, expected)?;
                }
                same("rows", backend.stats().rows, 2)?;
            }
            backend.clear(LISTS, scope)?;
            backend.clear(LISTS, scope)?;
            step("reload", &mut backend, &mut stored, make)?;
            same("cleared again", (backend.stats().rows, contents(&mut backend, &[LISTS])?.len()), (0, 0))?;
        }
    }
    Ok(())
}

fn clears_are_small<B: StateBackend>(make: &dyn Fn(KeyGroupSet) -> B) -> Checked {
    let (mut backend, mut stored) = (made(make), Stored::default());
    let k = key(b"k");
    let fill = |backend: &mut B| {
        (0..1000).try_for_each(|n: u32| write_in(backend, T, ["k", "w", &n.to_string()], Write::Put(b"v")))
    };
    fill(&mut backend)?;
    backend.clear(T, Scope::KeyNamespace(&k, b"w"))?;
    same("of rows born since", stored.seal(&mut backend, &none())?, vec![])?;
    fill(&mut backend)?;
    stored.seal(&mut backend, &none())?;
    backend.clear(T, Scope::KeyNamespace(&k, b"w"))?;
    same("of sealed rows", stored.seal(&mut backend, &none())?, vec![('!', b"k/w/-".to_vec(), vec![])])?;
    backend.clear(T, Scope::KeyNamespace(&k, b"w"))?;
    backend.clear(T, Scope::Namespace(k.group, b"w"))?;
    same("of nothing", stored.seal(&mut backend, &none())?, vec![])?;
    let mut stranger = make(none());
    refused("not owned", stranger.clear(T, Scope::Key(&k)), ErrorKind::Usage)
}

fn row<'a>(table: TableId, key: &'a CurrentKey<'a>, namespace: &'a [u8], sub: &'a [u8]) -> RowRef<'a> {
    RowRef { table, key, namespace, sub }
}

/// Returns the sub-keys that a scan of a key visits.
fn subs<B: StateBackend>(backend: &mut B, table: TableId, range: SubRange<'_>, limit: usize) -> Result<Vec<Vec<u8>>> {
    let mut seen = Vec::new();
    backend.scan_key(table, &key(b"k"), b"w", range, |Entry { sub, .. }| {
        seen.push(sub.to_vec());
        seen.len() < limit
    })?;
    Ok(seen)
}

fn rows_of_a_key<B: StateBackend>(make: &dyn Fn(KeyGroupSet) -> B) -> Checked {
    for storing in STEPS {
        let (mut backend, mut stored) = (made(make), Stored::default());
        let numbers: Vec<u8> = (0..=255).map(|n: u8| n.wrapping_mul(91)).collect();
        for (at, n) in numbers.iter().enumerate() {
            for table in [T, ORDERED] {
                backend.write(row(table, &key(b"k"), b"w", &[*n, 0]), Write::Put(&[*n]))?;
                backend.write(row(table, &key(b"k"), b"", &[*n]), Write::Put(&[*n]))?;
                backend.write(row(table, &key(&[*n, 1]), b"w", &[*n]), Write::Put(&[*n]))?;
            }
            if at == 100 {
                step(storing, &mut backend, &mut stored, make)?;
            }
        }
        let range = (Bound::Included(&[7u8, 0][..]), Bound::Excluded(&[200u8, 0][..]));
        let expected = |numbers: std::ops::Range<u16>| -> Vec<Vec<u8>> {
            numbers.filter_map(|n| Some(vec![u8::try_from(n).ok()?, 0])).collect()
        };
        same("all, ordered", subs(&mut backend, ORDERED, ALL_SUBS, 999)?, expected(0..256))?;
        same("range, ordered", subs(&mut backend, ORDERED, range, 999)?, expected(7..200))?;
        same("first", subs(&mut backend, ORDERED, range, 1)?, expected(7..8))?;
        let sorted = |mut found: Vec<Vec<u8>>| {
            found.sort();
            found
        };
        same("all", sorted(subs(&mut backend, T, ALL_SUBS, 999)?), expected(0..256))?;
        same("range", sorted(subs(&mut backend, T, range, 999)?), expected(7..200))?;
        same("stopped", subs(&mut backend, T, range, 5)?.len(), 5)?;
        let after = (Bound::Excluded(&[250u8, 0][..]), Bound::Unbounded);
        same("bounds", subs(&mut backend, ORDERED, after, 999)?, expected(251..256))?;
    }
    let mut stranger = make(none());
    refused("not owned", subs(&mut stranger, T, ALL_SUBS, 1), ErrorKind::Usage)
}

fn rows_of_a_key_change<B: StateBackend>(make: &dyn Fn(KeyGroupSet) -> B) -> Checked {
    for table in [T, ORDERED] {
        let (mut backend, mut stored) = (made(make), Stored::default());
        let mut expected = BTreeSet::new();
        for round in 0..40u8 {
            for n in 0..20u8 {
                let sub = [n.wrapping_mul(37).wrapping_add(round)];
                let row = RowRef { table, key: &key(b"k"), namespace: b"w", sub: &sub };
                if (n ^ round) % 3 == 0 {
                    backend.write(row, Write::Delete)?;
                    expected.remove(sub.as_slice());
                } else {
                    backend.write(row, Write::Put(&[round; 30]))?;
                    expected.insert(sub.to_vec());
                }
            }
            if round == 17 {
                backend.clear(table, Scope::Key(&key(b"k")))?;
                expected.clear();
            }
            step(STEPS.get(usize::from(round) % 7).unwrap_or(&"nothing"), &mut backend, &mut stored, make)?;
            let found = subs(&mut backend, table, ALL_SUBS, 999)?;
            same("each once", found.len(), expected.len())?;
            let mut sorted = found.clone();
            sorted.sort();
            same("rows", &sorted, &expected.iter().cloned().collect())?;
            same("order", table == ORDERED && found != sorted, false)?;
        }
    }
    Ok(())
}
