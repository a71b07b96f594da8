//! Checks of the building blocks of all kinds of state: operands, clears, scans of one key.

use std::collections::BTreeSet;
use std::ops::Bound;

use super::fixture::{LISTS, ORDERED, STEPS, SUMS, Stored, apply_step, key, make_defined, none, read_in, write_in};
use super::*;
use crate::backend::{ALL_SUBS, Entry, Scope, SubRange};
use crate::key_group::CurrentKey;

/// Returns this file's checks.
pub(super) fn checks<B: StateBackend>() -> Vec<Check<B>> {
    vec![
        ("operands merge with a value in any layer", operands),
        ("a delta has the operand, not the value", deltas_of_operands),
        ("operands without a merge operator are refused", no_operator),
        ("a clear removes covered rows in any layer", clears),
        ("clears and writes take effect in order", clears_in_order),
        ("a delta has at most one row per clear", clears_are_small),
        ("a scan of a key visits its rows, ordered by sub-key if the table is ordered", rows_of_a_key),
        ("a scan of a key sees changes over seals and loads", rows_of_a_key_change),
    ]
}

fn operands<B: StateBackend>(make: &dyn Fn(KeyGroupSet) -> B) -> Checked {
    let address = ["k", "w", "s"];
    for first in STEPS {
        for second in STEPS {
            for base in [None, Some(100u64)] {
                let (mut backend, mut stored) = (make_defined(make), Stored::default());
                if let Some(base) = base {
                    write_in(&mut backend, SUMS, address, Write::Put(&base.to_le_bytes()))?;
                    write_in(&mut backend, LISTS, address, Write::Put(b"base,"))?;
                }
                for (n, then) in [(1u64, first), (2, second), (4, "nothing")] {
                    apply_step(then, &mut backend, &mut stored, make)?;
                    write_in(&mut backend, SUMS, address, Write::Merge(&n.to_le_bytes()))?;
                    write_in(&mut backend, LISTS, address, Write::Merge(&[b'0' + u8::try_from(n).unwrap_or(0)]))?;
                }
                let what = format!("after {first}, {second}, with {base:?}");
                let expected = (base.unwrap_or(0) + 7).to_le_bytes().to_vec();
                let list = if base.is_some() { b"base,124".to_vec() } else { b"124".to_vec() };
                same(&what, read_in(&mut backend, SUMS, address)?, Some(expected.clone()))?;
                same(&what, read_in(&mut backend, LISTS, address)?, Some(list.clone()))?;
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
                apply_step("reload", &mut backend, &mut stored, make)?;
                same("loaded", read_in(&mut backend, SUMS, address)?, Some(expected))?;
                same("loaded", read_in(&mut backend, LISTS, address)?, Some(b"new".to_vec()))?;
                write_in(&mut backend, LISTS, address, Write::Delete)?;
                write_in(&mut backend, LISTS, address, Write::Merge(b"z"))?;
                apply_step("reload", &mut backend, &mut stored, make)?;
                same("after a delete", read_in(&mut backend, LISTS, address)?, Some(b"z".to_vec()))?;
            }
        }
    }
    Ok(())
}

fn deltas_of_operands<B: StateBackend>(make: &dyn Fn(KeyGroupSet) -> B) -> Checked {
    let (mut backend, mut stored) = (make_defined(make), Stored::default());
    let address = ["k", "", ""];
    write_in(&mut backend, LISTS, address, Write::Put(&[b'x'; 100_000]))?;
    stored.seal(&mut backend, &none())?;
    for _again in 0..3 {
        write_in(&mut backend, LISTS, address, Write::Merge(b"ab"))?;
        write_in(&mut backend, LISTS, address, Write::Merge(b"c"))?;
        let rows = stored.seal(&mut backend, &none())?;
        same("delta", rows, vec![('+', b"k//".to_vec(), b"abc".to_vec())])?;
    }
    same("value", read_in(&mut backend, LISTS, address)?.map(|value| value.len()), Some(100_009))?;
    let base = stored.seal(&mut backend, &all())?;
    same("base", base.iter().map(|(sign, _, bytes)| (*sign, bytes.len())).collect(), vec![('=', 100_009)])
}

fn no_operator<B: StateBackend>(make: &dyn Fn(KeyGroupSet) -> B) -> Checked {
    let mut backend = make_defined(make);
    put(&mut backend, "k", "v")?;
    refused("merge", write_in(&mut backend, T, ["k", "", ""], Write::Merge(b"w")), ErrorKind::Usage)?;
    refused("merge", write_in(&mut backend, ORDERED, ["k", "", ""], Write::Merge(b"w")), ErrorKind::Usage)?;
    same("value", read(&mut backend, "k")?, Some(b"v".to_vec()))
}

/// Returns the rows that clears are checked on: two keys in each of two groups, with two namespaces and two sub-keys.
fn addresses() -> Vec<[String; 3]> {
    let mut keys: Vec<String> = Vec::new();
    let group = |k: &String| key(k.as_bytes()).group;
    for n in 0..1000 {
        let k = n.to_string();
        let (same, others) = (keys.iter().filter(|other| group(other) == group(&k)).count(), keys.len());
        if same < 2 && (others < 2 || same > 0 || keys.iter().map(group).collect::<BTreeSet<_>>().len() < 2) {
            keys.push(k);
        }
    }
    let mut addresses = Vec::new();
    for k in keys {
        for namespace in ["v", "w"] {
            addresses.extend(["s", "t"].map(|sub| [k.clone(), namespace.to_owned(), sub.to_owned()]));
        }
    }
    addresses
}

fn as_strs(address: &[String; 3]) -> [&str; 3] {
    address.each_ref().map(String::as_str)
}

fn clears<B: StateBackend>(make: &dyn Fn(KeyGroupSet) -> B) -> Checked {
    let addresses = addresses();
    let Some([victim, namespace, _]) = addresses.first().cloned() else { return Err(Failure("no rows".into())) };
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
                let (mut backend, mut stored) = (make_defined(make), Stored::default());
                for (table, address) in
                    [T, LISTS].into_iter().flat_map(|table| addresses.iter().map(move |p| (table, p)))
                {
                    write_in(&mut backend, table, as_strs(address), Write::Put(b"1"))?;
                }
                apply_step(before, &mut backend, &mut stored, make)?;
                addresses
                    .iter()
                    .try_for_each(|address| write_in(&mut backend, LISTS, as_strs(address), Write::Merge(b"2")))?;
                backend.clear(LISTS, scope)?;
                apply_step(after, &mut backend, &mut stored, make)?;
                let what = format!("{scope:?} between {before} and {after}");
                let left = addresses.iter().filter(|address| !covered(address)).count();
                same(&what, backend.stats().rows, (left + addresses.len()) as u64)?;
                for address in &addresses {
                    let expected = (!covered(address)).then(|| b"12".to_vec());
                    same(&what, read_in(&mut backend, LISTS, as_strs(address))?, expected)?;
                    same("other table", read_in(&mut backend, T, as_strs(address))?, Some(b"1".to_vec()))?;
                }
                same("scan", contents(&mut backend, &[LISTS])?.len(), left)?;
            }
        }
    }
    Ok(())
}

fn clears_in_order<B: StateBackend>(make: &dyn Fn(KeyGroupSet) -> B) -> Checked {
    let (k, address) = (key(b"k"), |sub: &'static str| ["k", "w", sub]);
    let scopes = [Scope::Key(&k), Scope::KeyNamespace(&k, b"w"), Scope::Namespace(k.group, b"w")];
    for scope in scopes {
        for before in STEPS {
            let (mut backend, mut stored) = (make_defined(make), Stored::default());
            for sub in ["put", "merged", "deleted", "gone"] {
                write_in(&mut backend, LISTS, address(sub), Write::Put(b"old"))?;
            }
            apply_step(before, &mut backend, &mut stored, make)?;
            backend.clear(LISTS, scope)?;
            write_in(&mut backend, LISTS, address("put"), Write::Put(b"new"))?;
            write_in(&mut backend, LISTS, address("merged"), Write::Merge(b"new"))?;
            write_in(&mut backend, LISTS, address("deleted"), Write::Put(b"new"))?;
            write_in(&mut backend, LISTS, address("deleted"), Write::Delete)?;
            for reload in [false, true] {
                if reload {
                    apply_step("reload", &mut backend, &mut stored, make)?;
                }
                let what = format!("{scope:?} after {before}, reloaded: {reload}");
                for (sub, expected) in [("put", true), ("merged", true), ("deleted", false), ("gone", false)] {
                    let expected = expected.then(|| b"new".to_vec());
                    same(&format!("{sub}: {what}"), read_in(&mut backend, LISTS, address(sub))?, expected)?;
                }
                same("rows", backend.stats().rows, 2)?;
            }
            backend.clear(LISTS, scope)?;
            backend.clear(LISTS, scope)?;
            apply_step("reload", &mut backend, &mut stored, make)?;
            same("cleared again", (backend.stats().rows, contents(&mut backend, &[LISTS])?.len()), (0, 0))?;
        }
    }
    Ok(())
}

fn clears_are_small<B: StateBackend>(make: &dyn Fn(KeyGroupSet) -> B) -> Checked {
    let (mut backend, mut stored) = (make_defined(make), Stored::default());
    let k = key(b"k");
    let fill = |backend: &mut B| {
        (0..1000).try_for_each(|n: u32| write_in(backend, T, ["k", "w", &n.to_string()], Write::Put(b"v")))
    };
    fill(&mut backend)?;
    backend.clear(T, Scope::KeyNamespace(&k, b"w"))?;
    same("clear of unsealed rows", stored.seal(&mut backend, &none())?, vec![])?;
    fill(&mut backend)?;
    stored.seal(&mut backend, &none())?;
    backend.clear(T, Scope::KeyNamespace(&k, b"w"))?;
    same("clear of sealed rows", stored.seal(&mut backend, &none())?, vec![('!', b"k/w/-".to_vec(), vec![])])?;
    backend.clear(T, Scope::KeyNamespace(&k, b"w"))?;
    backend.clear(T, Scope::Namespace(k.group, b"w"))?;
    same("clear of no rows", stored.seal(&mut backend, &none())?, vec![])?;
    let mut unowned = make(none());
    refused("not owned", unowned.clear(T, Scope::Key(&k)), ErrorKind::Usage)
}

fn row<'a>(table: TableId, key: &'a CurrentKey<'a>, namespace: &'a [u8], sub: &'a [u8]) -> RowRef<'a> {
    RowRef { table, key, namespace, sub }
}

/// Returns the first `limit` sub-keys that a scan of key `k` in namespace `w` visits.
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
        let (mut backend, mut stored) = (make_defined(make), Stored::default());
        let numbers: Vec<u8> = (0..=255).map(|n: u8| n.wrapping_mul(91)).collect();
        for (at, n) in numbers.iter().enumerate() {
            for table in [T, ORDERED] {
                backend.write(row(table, &key(b"k"), b"w", &[*n, 0]), Write::Put(&[*n]))?;
                backend.write(row(table, &key(b"k"), b"", &[*n]), Write::Put(&[*n]))?;
                backend.write(row(table, &key(&[*n, 1]), b"w", &[*n]), Write::Put(&[*n]))?;
            }
            if at == 100 {
                apply_step(storing, &mut backend, &mut stored, make)?;
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
    let mut unowned = make(none());
    refused("not owned", subs(&mut unowned, T, ALL_SUBS, 1), ErrorKind::Usage)
}

fn rows_of_a_key_change<B: StateBackend>(make: &dyn Fn(KeyGroupSet) -> B) -> Checked {
    for table in [T, ORDERED] {
        let (mut backend, mut stored) = (make_defined(make), Stored::default());
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
            apply_step(STEPS.get(usize::from(round) % 7).unwrap_or(&"nothing"), &mut backend, &mut stored, make)?;
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
