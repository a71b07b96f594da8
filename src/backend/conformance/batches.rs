//! Checks of batches: a batch does what single operations on its rows would do, in order.

use super::fixture::{key, none};
use super::*;
use crate::backend::{Change, Stored};

/// Returns this file's checks.
pub(super) fn checks<B: StateBackend>() -> Vec<Check<B>> {
    vec![
        ("a batch of updates equals single updates", updates),
        ("a batch of reads equals single reads", reads),
        ("the first failure ends a batch", failures),
    ]
}

/// Changes a row in one of several ways, which `turn` selects. Returns also the value before.
fn step(turn: usize, stored: Stored<'_>, new: &mut Vec<u8>) -> (Option<Change>, Option<Vec<u8>>) {
    let before = stored.bytes().map(<[u8]>::to_vec);
    let old = before.as_deref().unwrap_or(&[1; 8]);
    let change = match (turn % 16, stored) {
        (0, _) => Some(Change::Keep),
        (1, _) => Some(Change::Delete),
        (2, _) => {
            // A value that grows moves, and the cleaner moves others.
            new.resize(if old.len() > 4000 { 8 } else { old.len() * 2 }, 3);
            Some(Change::Put)
        }
        (3..10, Stored::InPlace(value)) => {
            value.iter_mut().for_each(|byte| *byte = byte.wrapping_add(1));
            None
        }
        _ => {
            new.extend(old.iter().map(|byte| byte.wrapping_add(1)));
            Some(Change::Put)
        }
    };
    (change, before)
}

/// Keys of one batch, some of them twice, more than a backend may look ahead.
fn batch(round: usize) -> Vec<[u8; 4]> {
    (0..150).map(|at| u32::try_from(at * (2 * round + 1) % 400).unwrap_or(0).to_be_bytes()).collect()
}

fn updates<B: StateBackend>(make: &dyn Fn(KeyGroupSet) -> B) -> Checked {
    let (mut many, mut single) = (make(all()), make(all()));
    for round in 0..60 {
        let namespace: &[u8] = if round % 5 == 4 { b"w" } else { b"" };
        let keys = batch(round);
        let located: Vec<_> = keys.iter().map(|bytes| key(bytes)).collect();
        let turn = |at: usize| (at + 3) * (round + 5) / 3;
        let mut seen = Vec::new();
        many.update_many(T, namespace, &located, |at, stored, new| {
            let (change, before) = step(turn(at), stored, new);
            seen.push((at, before));
            (change, Ok(()))
        })?;
        let mut expected = Vec::new();
        for (at, key) in located.iter().enumerate() {
            let row = RowRef { table: T, key, namespace, sub: &[] };
            expected.push((at, single.update_in_place(row, |stored, new| step(turn(at), stored, new))?));
        }
        same("what the closure saw", seen, expected)?;
        same("rows", contents(&mut many, &[T])?, contents(&mut single, &[T])?)?;
        same("dirty rows", many.stats().dirty_rows, single.stats().dirty_rows)?;
        if round % 2 == 1 {
            for backend in [&mut many, &mut single] {
                seal(backend, round as u64, 0, &if round % 8 == 7 { all() } else { none() })?;
            }
        }
    }
    Ok(())
}

fn reads<B: StateBackend>(make: &dyn Fn(KeyGroupSet) -> B) -> Checked {
    let mut backend = make(all());
    for (at, key) in batch(1).iter().enumerate().filter(|(at, _)| at % 3 != 0) {
        put(&mut backend, key, vec![7; at])?;
        if at % 50 == 0 {
            seal(&mut backend, at as u64, 0, &none())?;
        }
    }
    let keys = batch(0);
    let located: Vec<_> = keys.iter().map(|bytes| key(bytes)).collect();
    let mut seen = Vec::new();
    backend.read_many(T, &[], &located, |at, value| {
        seen.push((at, value.map(<[u8]>::to_vec)));
        Ok(())
    })?;
    let mut expected = Vec::new();
    for (at, key) in keys.iter().enumerate() {
        expected.push((at, read(&mut backend, key)?));
    }
    same("values", seen, expected)
}

fn failures<B: StateBackend>(make: &dyn Fn(KeyGroupSet) -> B) -> Checked {
    let mut backend = make(halves().0);
    let (owned, others): (Vec<_>, _) = batch(0).into_iter().partition(|key| backend.groups().contains(group_of(key)));
    let keys = [&owned[..50], &others[..1], &owned[50..]].concat();
    let located: Vec<_> = keys.iter().map(|bytes| key(bytes)).collect();
    let mut fill = |fails_at: usize| {
        let update = |at: usize, _: Stored<'_>, new: &mut Vec<u8>| {
            new.push(1);
            (Some(Change::Put), if at == fails_at { Err(Error::corrupt("planned")) } else { Ok(()) })
        };
        let result = backend.update_many(T, &[], &located, update);
        (result, backend.stats().rows)
    };
    let (result, rows) = fill(40);
    refused("a failing closure", result, ErrorKind::Corrupt)?;
    same("rows before it, and its own", rows, 41)?;
    let (result, rows) = fill(usize::MAX);
    refused("a group that is not owned", result, ErrorKind::Usage)?;
    same("rows before it", rows, 50)?;
    let mut read = 0;
    let result = backend.read_many(T, &[], &located, |at, value| {
        read += usize::from(value.is_some());
        if at == 45 { Err(Error::corrupt("planned")) } else { Ok(()) }
    });
    refused("a failing closure", result, ErrorKind::Corrupt)?;
    same("rows read", read, 46)?;
    refused("a group that is not owned", backend.read_many(T, &[], &located, |_, _| Ok(())), ErrorKind::Usage)
}
