//! Checks of rows: reading, writing, updating, scanning, limits.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;
use crate::backend::{Change, Stored};

/// Returns this file's checks.
pub(super) fn checks<B: StateBackend>() -> Vec<Check<B>> {
    vec![
        ("a new backend is empty", new_is_empty),
        ("reads see the last write", reads_see_writes),
        ("rows differ by table, namespace and sub-key", addresses_are_distinct),
        ("values grow and shrink", values_grow_and_shrink),
        ("an update applies its change", updates),
        ("an edit changes bytes, not their number", edits),
        ("an update in place changes bytes or applies its change", updates_in_place),
        ("a panic in an update changes nothing", panics_change_nothing),
        ("groups not owned are refused", unowned_groups_are_refused),
        ("keys, namespaces and sub-keys that are too long are refused", long_parts_are_refused),
        ("a scan visits the selected rows", scans),
        ("stats count live rows and bytes", stats_count),
    ]
}

fn new_is_empty<B: StateBackend>(make: &dyn Fn(KeyGroupSet) -> B) -> Checked {
    let (low, _) = halves();
    let mut backend = make(low.clone());
    same("groups", backend.groups().clone(), low)?;
    for key in keys(50).filter(|key| backend.groups().contains(group_of(key))).collect::<Vec<_>>() {
        same("read", read(&mut backend, key)?, None)?;
        delete(&mut backend, key)?;
    }
    same("rows", contents(&mut backend, &[T])?.len(), 0)?;
    let stats = backend.stats();
    same("stats", (stats.rows, stats.live_bytes, stats.dirty_rows, stats.dirty_bytes), (0, 0, 0, 0))
}

fn reads_see_writes<B: StateBackend>(make: &dyn Fn(KeyGroupSet) -> B) -> Checked {
    let mut backend = make(all());
    for round in 0..3u8 {
        for key in keys(500) {
            put(&mut backend, key, [round; 20])?;
        }
        for key in keys(500).step_by(3) {
            delete(&mut backend, key)?;
        }
        for (i, key) in keys(500).enumerate() {
            let expected = (i % 3 != 0).then(|| vec![round; 20]);
            same("read", read(&mut backend, key)?, expected)?;
        }
        seal(&mut backend, u64::from(round) + 1, 0, &KeyGroupSet::empty())?;
    }
    put(&mut backend, [], [])?;
    same("empty key and value", read(&mut backend, [])?, Some(vec![]))
}

fn addresses_are_distinct<B: StateBackend>(make: &dyn Fn(KeyGroupSet) -> B) -> Checked {
    let mut backend = make(all());
    let key = PARTITIONER.locate(b"ab", 0, MAX_PARALLELISM);
    let parts: [&[u8]; 4] = [b"", b"a", b"b", b"ab"];
    let mut rows = Vec::new();
    for table in [TableId(0), T, TableId(u32::MAX)] {
        for namespace in parts {
            rows.extend(parts.map(|sub| RowRef { table, key: &key, namespace, sub }));
        }
    }
    for (i, row) in (0u64..).zip(&rows) {
        backend.write(*row, Write::Put(&i.to_le_bytes()))?;
    }
    if let Some(row) = rows.get(7) {
        backend.write(*row, Write::Delete)?;
    }
    for (i, row) in (0u64..).zip(&rows) {
        let found = backend.read(*row, |value| value.map(<[u8]>::to_vec))?;
        same("row", found, (i != 7).then(|| i.to_le_bytes().to_vec()))?;
    }
    Ok(())
}

fn values_grow_and_shrink<B: StateBackend>(make: &dyn Fn(KeyGroupSet) -> B) -> Checked {
    let mut backend = make(all());
    for (epoch, length) in (1u64..).zip([0, 1, 255, 256, 300, 5, 70_000, 65_536, 1 << 20, 0, 100]) {
        let value: Vec<u8> = (0u8..=250).cycle().take(length).collect();
        put(&mut backend, "k", &value)?;
        same("value", read(&mut backend, "k")?, Some(value))?;
        if length % 2 == 0 {
            seal(&mut backend, epoch, 0, &KeyGroupSet::empty())?;
        }
    }
    for length in 0..600 {
        put(&mut backend, "grows", vec![7; length])?;
    }
    same("grown", read(&mut backend, "grows")?, Some(vec![7; 599]))
}

fn updates<B: StateBackend>(make: &dyn Fn(KeyGroupSet) -> B) -> Checked {
    let mut backend = make(all());
    let mut update = |change: Change, value: &[u8], expected: Option<&[u8]>| -> Checked {
        let result = with_row(b"k", |row| {
            backend.update(row, |stored, scratch| {
                let seen = (stored.map(<[u8]>::to_vec), scratch.len());
                scratch.extend_from_slice(value);
                (change, seen)
            })
        })?;
        same("what the closure saw", result, (expected.map(<[u8]>::to_vec), 0))
    };
    update(Change::Keep, b"x", None)?;
    update(Change::Delete, b"x", None)?;
    update(Change::Put, b"one", None)?;
    update(Change::Keep, b"x", Some(b"one"))?;
    update(Change::Put, b"three", Some(b"one"))?;
    update(Change::Delete, b"x", Some(b"three"))?;
    update(Change::Keep, b"x", None)
}

fn edits<B: StateBackend>(make: &dyn Fn(KeyGroupSet) -> B) -> Checked {
    let mut backend = make(all());
    let edit = |backend: &mut B, with: u8| {
        with_row(b"k", |row| {
            backend.edit(row, |value| {
                value.iter_mut().for_each(|byte| *byte ^= with);
                value.len()
            })
        })
    };
    same("no row", edit(&mut backend, 1)?, None)?;
    for (epoch, length) in (1u64..).zip([0usize, 1, 2, 3, 100, 255, 256, 300, 65_535, 65_536, 70_000]) {
        let value: Vec<u8> = (0u8..=250).cycle().take(length).collect();
        put(&mut backend, "k", &value)?;
        same("length", edit(&mut backend, 1)?, Some(length))?;
        seal(&mut backend, epoch, 0, &KeyGroupSet::empty())?;
        same("dirty rows after the seal", backend.stats().dirty_rows, 0)?;
        same("length", edit(&mut backend, 2)?, Some(length))?;
        same("length", edit(&mut backend, 4)?, Some(length))?;
        same("dirty rows", backend.stats().dirty_rows, 1)?;
        let expected: Vec<u8> = value.iter().map(|byte| byte ^ 7).collect();
        same("value", read(&mut backend, "k")?, Some(expected))?;
    }
    delete(&mut backend, "k")?;
    same("a deleted row", edit(&mut backend, 1)?, None)
}

fn updates_in_place<B: StateBackend>(make: &dyn Fn(KeyGroupSet) -> B) -> Checked {
    let mut backend = make(all());
    let flip = |backend: &mut B, with: u8| {
        with_row(b"k", |row| {
            backend.update_in_place(row, |stored, new| {
                let length = stored.bytes().map(<[u8]>::len);
                let change = match stored {
                    Stored::InPlace(value) => {
                        value.iter_mut().for_each(|byte| *byte ^= with);
                        None
                    }
                    stored => stored.bytes().map(|value| {
                        new.extend(value.iter().map(|byte| byte ^ with));
                        Change::Put
                    }),
                };
                (change, length)
            })
        })
    };
    same("no row", flip(&mut backend, 1)?, None)?;
    same("no row", read(&mut backend, "k")?, None)?;
    for (epoch, length) in (1u64..).zip([0usize, 1, 8, 100, 255, 256, 300, 65_536]) {
        let value: Vec<u8> = (0u8..=250).cycle().take(length).collect();
        put(&mut backend, "k", &value)?;
        same("length", flip(&mut backend, 1)?, Some(length))?;
        seal(&mut backend, epoch, 0, &KeyGroupSet::empty())?;
        same("length", flip(&mut backend, 2)?, Some(length))?;
        same("length", flip(&mut backend, 4)?, Some(length))?;
        same("dirty rows", backend.stats().dirty_rows, 1)?;
        let expected: Vec<u8> = value.iter().map(|byte| byte ^ 7).collect();
        same("value", read(&mut backend, "k")?, Some(expected))?;
    }
    for (change, put, expected) in [
        (Some(Change::Put), "as long", Some("as long")),
        (Some(Change::Put), "another", Some("another")),
        (Some(Change::Put), "longer than before", Some("longer than before")),
        (Some(Change::Keep), "ignored", Some("longer than before")),
        (None, "ignored", Some("longer than before")),
        (Some(Change::Delete), "ignored", None),
    ] {
        with_row(b"k", |row| {
            backend.update_in_place(row, |_, new| {
                new.extend_from_slice(put.as_bytes());
                (change, ())
            })
        })?;
        same("value", read(&mut backend, "k")?, expected.map(|value| value.as_bytes().to_vec()))?;
    }
    Ok(())
}

fn panics_change_nothing<B: StateBackend>(make: &dyn Fn(KeyGroupSet) -> B) -> Checked {
    let mut backend = make(all());
    put(&mut backend, "k", "before")?;
    let panicking = || {
        with_row(b"k", |row| {
            backend.update(row, |_, scratch| -> (Change, ()) {
                scratch.extend_from_slice(b"half");
                std::panic::resume_unwind(Box::new("planned"))
            })
        })
    };
    if catch_unwind(AssertUnwindSafe(panicking)).is_ok() {
        return Err(Failure("the panic was swallowed".into()));
    }
    same("value", read(&mut backend, "k")?, Some(b"before".to_vec()))?;
    put(&mut backend, "k", "after")?;
    same("value", read(&mut backend, "k")?, Some(b"after".to_vec()))
}

fn unowned_groups_are_refused<B: StateBackend>(make: &dyn Fn(KeyGroupSet) -> B) -> Checked {
    let (low, high) = halves();
    let mut backend = make(low.clone());
    for key in keys(20).filter(|key| high.contains(group_of(key))) {
        refused("read", read(&mut backend, key), ErrorKind::Usage)?;
        refused("put", put(&mut backend, key, "v"), ErrorKind::Usage)?;
        refused("delete", delete(&mut backend, key), ErrorKind::Usage)?;
        let update = with_row(&key, |row| backend.update(row, |_, _| (Change::Put, ())));
        refused("update", update, ErrorKind::Usage)?;
        refused("edit", with_row(&key, |row| backend.edit(row, |_| ())), ErrorKind::Usage)?;
    }
    refused("scan", backend.scan(T, &all(), &[], |_| true), ErrorKind::Usage)?;
    refused("seal", seal(&mut backend, 1, 0, &high), ErrorKind::Usage)?;
    refused("drop", backend.drop_groups(&all()), ErrorKind::Usage)?;
    refused("load", backend.load(&History::default(), &all()), ErrorKind::Usage)?;
    same("groups", backend.groups().clone(), low)?;
    seal(&mut backend, 1, 0, &KeyGroupSet::empty())?;
    Ok(())
}

fn long_parts_are_refused<B: StateBackend>(make: &dyn Fn(KeyGroupSet) -> B) -> Checked {
    let mut backend = make(all());
    let long = vec![b'x'; 65_536];
    let longest = long.split_at(65_535).0;
    let located = |bytes| PARTITIONER.locate(bytes, 0, MAX_PARALLELISM);
    let (short, fits, too_long) = (located(b"k"), located(longest), located(&long));
    let fitting = RowRef { table: T, key: &fits, namespace: longest, sub: longest };
    backend.write(fitting, Write::Put(b"v"))?;
    same("read", backend.read(fitting, |value| value.is_some())?, true)?;
    let row = RowRef { table: T, key: &short, namespace: &[], sub: &[] };
    for bad in [RowRef { key: &too_long, ..row }, RowRef { namespace: &long, ..row }, RowRef { sub: &long, ..row }] {
        refused("put", backend.write(bad, Write::Put(b"v")), ErrorKind::Limit)?;
    }
    same("rows", backend.stats().rows, 1)
}

fn scans<B: StateBackend>(make: &dyn Fn(KeyGroupSet) -> B) -> Checked {
    let mut backend = make(all());
    for key in keys(600) {
        put(&mut backend, key, [1])?;
    }
    seal(&mut backend, 1, 0, &KeyGroupSet::empty())?;
    for key in keys(600).step_by(2) {
        delete(&mut backend, key)?;
    }
    let key = PARTITIONER.locate(b"other", 0, MAX_PARALLELISM);
    backend.write(RowRef { table: TableId(9), key: &key, namespace: &[], sub: &[] }, Write::Put(b"v"))?;
    let (low, _) = halves();
    let mut scan = |groups: &KeyGroupSet, prefix: &[u8], limit: usize| -> Result<Vec<Vec<u8>>> {
        let mut seen = Vec::new();
        backend.scan(T, groups, prefix, |entry| {
            seen.push(entry.key.to_vec());
            seen.len() < limit
        })?;
        seen.sort_unstable();
        Ok(seen)
    };
    let odd = |wanted: &dyn Fn(&[u8; 4]) -> bool| -> Vec<Vec<u8>> {
        keys(600).skip(1).step_by(2).filter(wanted).map(Vec::from).collect()
    };
    same("all", scan(&all(), &[], usize::MAX)?, odd(&|_| true))?;
    same("lower half", scan(&low, &[], usize::MAX)?, odd(&|key| low.contains(group_of(key))))?;
    same("prefix", scan(&all(), &[0, 0, 1], usize::MAX)?, odd(&|key| key.starts_with(&[0, 0, 1])))?;
    same("stopped", scan(&all(), &[], 7)?.len(), 7)
}

fn stats_count<B: StateBackend>(make: &dyn Fn(KeyGroupSet) -> B) -> Checked {
    let mut backend = make(all());
    for key in keys(100) {
        put(&mut backend, key, [0; 10])?;
        put(&mut backend, key, [0; 30])?;
    }
    let before = backend.stats();
    same("rows", (before.rows, before.live_bytes, before.dirty_rows), (100, 3400, 100))?;
    same("dirty bytes", before.dirty_bytes >= before.live_bytes, true)?;
    same("memory", before.memory_bytes >= before.live_bytes, true)?;
    seal(&mut backend, 1, 0, &KeyGroupSet::empty())?;
    for key in keys(40) {
        delete(&mut backend, key)?;
    }
    for key in keys(50).skip(40) {
        put(&mut backend, key, [])?;
    }
    let after = backend.stats();
    same("rows", (after.rows, after.live_bytes, after.dirty_rows), (60, 50 * 34 + 10 * 4, 50))
}
