//! Checks of rows that expire, of values of older versions, and of operators that fail.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::kinds::{LISTS, SUMS, Stored, Sum, define, key, read_in, write_in};
use super::*;
use crate::backend::{ALL_SUBS, Change};
use crate::row::{Append, GroupTimes, Life, TableRules, Ttl, Upgrade};

/// Returns this file's checks.
pub(super) fn checks<B: StateBackend>() -> Vec<Check<B>> {
    vec![
        ("what has expired is not there", expired_is_gone),
        ("times do not go back", times_do_not_go_back),
        ("groups continue from their own times", groups_have_their_own_times),
        ("groups have their own bounds of lives", groups_have_their_own_bounds),
        ("reading renews where the rules say so", reading_renews),
        ("elements of a list expire by themselves", elements_expire),
        ("what has expired is not stored, and not loaded", expired_is_not_stored),
        ("rows without a stamp live as the table says", rows_without_stamps),
        ("a dead value is not merged with", dead_values_are_not_merged_with),
        ("older versions are read as present ones", versions),
        ("an operator that panics or fails changes nothing", bad_operators),
    ]
}

fn ttl(millis: u64) -> TableRules {
    TableRules { ttl: Some(Ttl { millis, ..Ttl::default() }), ..TableRules::default() }
}

/// Moves processing time on.
fn at<B: StateBackend>(backend: &mut B, millis: i64) {
    backend.advance(Timestamp::MIN, Timestamp::from_millis(millis));
}

const ROW: [&str; 3] = ["k", "w", "s"];

fn none() -> KeyGroupSet {
    KeyGroupSet::empty()
}

fn expired_is_gone<B: StateBackend>(make: &dyn Fn(KeyGroupSet) -> B) -> Checked {
    for sealed in [false, true] {
        let mut backend = make(all());
        backend.define(T, ttl(10));
        at(&mut backend, 100);
        write_in(&mut backend, T, ROW, Write::Put(b"v"))?;
        if sealed {
            Stored::default().seal_at(&mut backend, &none(), (0, 100))?;
        }
        at(&mut backend, 109);
        same("alive", read_in(&mut backend, T, ROW)?, Some(b"v".to_vec()))?;
        at(&mut backend, 110);
        same("read", read_in(&mut backend, T, ROW)?, None)?;
        same("scan", contents(&mut backend, &[T])?.len(), 0)?;
        let mut visited = 0;
        backend.scan_key(T, &key(b"k"), b"w", ALL_SUBS, |_| {
            visited += 1;
            true
        })?;
        same("rows of the key", visited, 0)?;
        let row = RowRef { table: T, key: &key(b"k"), namespace: b"w", sub: b"s" };
        let seen = backend.update(row, |value, out| {
            out.push(b'n');
            (Change::Put, value.is_some())
        })?;
        same("update", (seen, read_in(&mut backend, T, ROW)?), (false, Some(b"n".to_vec())))?;
        at(&mut backend, 119);
        same("written anew", read_in(&mut backend, T, ROW)?, Some(b"n".to_vec()))?;
    }
    Ok(())
}

fn times_do_not_go_back<B: StateBackend>(make: &dyn Fn(KeyGroupSet) -> B) -> Checked {
    let mut backend = make(all());
    let event = TableRules { ttl: Some(Ttl { millis: 10, event_time: true, ..Ttl::default() }), ..ttl(10) };
    backend.define(T, ttl(10));
    backend.define(SUMS, event);
    write_in(&mut backend, SUMS, ["k", "", "early"], Write::Put(b"v"))?;
    backend.advance(Timestamp::from_millis(5), Timestamp::from_millis(50));
    for table in [T, SUMS] {
        write_in(&mut backend, table, ROW, Write::Put(b"v"))?;
    }
    backend.advance(Timestamp::from_millis(15), Timestamp::from_millis(59));
    same("event time", read_in(&mut backend, SUMS, ROW)?, None)?;
    same("processing time", read_in(&mut backend, T, ROW)?.is_some(), true)?;
    backend.advance(Timestamp::from_millis(5), Timestamp::from_millis(60));
    backend.advance(Timestamp::MIN, Timestamp::MIN);
    same("later", (read_in(&mut backend, T, ROW)?, read_in(&mut backend, SUMS, ROW)?), (None, None))?;
    same("before time began", read_in(&mut backend, SUMS, ["k", "", "early"])?.is_some(), true)?;
    Stored::default().seal_at(&mut backend, &none(), (0, 0))?;
    same("a seal of the past", read_in(&mut backend, T, ROW)?, None)
}

/// Two keys, the first of the lower half of the groups, the second of the upper.
fn a_key_of_each_half() -> [[u8; 4]; 2] {
    let (lower, upper) = halves();
    [lower, upper].map(|half| keys(1000).find(|key| half.contains(group_of(key))).unwrap_or_default())
}

/// Rows of both keys of table [`T`] that were written at `millis` and sealed, and a backend that will load them: with a record
/// of the lower half of the groups.
fn loaded_with<B: StateBackend>(
    make: &dyn Fn(KeyGroupSet) -> B,
    rules: &TableRules,
    record: &GroupTimes,
    write: Write<'_>,
) -> Result<(B, Stored)> {
    let (mut backend, mut stored) = (make(all()), Stored::default());
    backend.define(T, rules.clone());
    at(&mut backend, 100);
    for key in a_key_of_each_half() {
        with_row(&key, |row| backend.write(row, write))?;
    }
    stored.seal_at(&mut backend, &none(), (0, 100))?;
    let mut loaded = make(none());
    loaded.define(T, rules.clone());
    at(&mut loaded, 105);
    loaded.resume(std::slice::from_ref(record));
    loaded.load(&stored.history, &all())?;
    Ok((loaded, stored))
}

fn groups_have_their_own_times<B: StateBackend>(make: &dyn Fn(KeyGroupSet) -> B) -> Checked {
    let [ahead, behind] = a_key_of_each_half();
    let (lower, upper) = halves();
    let range = KeyGroupRange::new(0, MAX_PARALLELISM / 2);
    let time = Timestamp::from_millis;
    let record = GroupTimes::new(range, Timestamp::MIN, time(110));
    let (mut backend, mut stored) = loaded_with(make, &ttl(10), &record, Write::Put(b"v"))?;
    let seen = |backend: &mut B| Ok::<_, Error>((read(backend, ahead)?.is_some(), read(backend, behind)?.is_some()));
    same("by their own times", seen(&mut backend)?, (false, true))?;
    same("scanned", contents(&mut backend, &[T])?.len(), 1)?;
    put(&mut backend, ahead, b"new")?;
    at(&mut backend, 109);
    same("the clock has passed no record", seen(&mut backend)?, (true, true))?;
    let times =
        [GroupTimes::new(range, Timestamp::MIN, time(110)), GroupTimes::new(upper_range(), Timestamp::MIN, time(109))];
    same("times", backend.times(), times.to_vec())?;
    let base = stored.seal_at(&mut backend, &all(), (i64::MIN, 109))?;
    same("rows of a base", base.len(), 2)?;
    at(&mut backend, 112);
    same("the clock counts for those it has passed", seen(&mut backend)?, (true, false))?;
    at(&mut backend, 120);
    same("and for the others in the end", seen(&mut backend)?, (false, false))?;
    let whole = KeyGroupRange::new(0, MAX_PARALLELISM);
    same("times", backend.times(), vec![GroupTimes::new(whole, Timestamp::MIN, time(120))])?;
    backend.drop_groups(&lower)?;
    same("times of what is left", backend.times(), vec![GroupTimes::new(upper_range(), Timestamp::MIN, time(120))])?;
    same("groups", backend.groups(), &upper)
}

fn upper_range() -> KeyGroupRange {
    KeyGroupRange::new(MAX_PARALLELISM / 2, MAX_PARALLELISM)
}

fn groups_have_their_own_bounds<B: StateBackend>(make: &dyn Fn(KeyGroupSet) -> B) -> Checked {
    let [dead, alive] = a_key_of_each_half();
    let mut record = GroupTimes::new(KeyGroupRange::new(0, MAX_PARALLELISM / 2), Timestamp::MIN, Timestamp::MIN);
    record.lives = vec![Life { table: T, millis: None, since: None, dead_until: Some(Timestamp::from_millis(100)) }];
    let sums = TableRules { merge: Some(Arc::new(Sum)), ..ttl(1000) };
    let number = |n: u64| n.to_le_bytes();
    let (mut backend, mut stored) = loaded_with(make, &sums, &record, Write::Merge(&number(1)))?;
    same("kept", backend.times().first().map(|times| times.lives.clone()), Some(record.lives.clone()))?;
    for key in [dead, alive] {
        with_row(&key, |row| backend.write(row, Write::Merge(&number(2))))?;
    }
    let seen = |backend: &mut B| Ok::<_, Error>([read(backend, dead)?, read(backend, alive)?]);
    let expected = [number(2), number(3)].map(|sum| Some(sum.to_vec()));
    same("merged with what lives alone", seen(&mut backend)?, expected.clone())?;
    stored.seal_at(&mut backend, &none(), (0, 110))?;
    let mut again = make(none());
    again.define(T, sums);
    again.resume(&[record]);
    again.load(&stored.history, &all())?;
    same("loaded", seen(&mut again)?, expected)
}

fn reading_renews<B: StateBackend>(make: &dyn Fn(KeyGroupSet) -> B) -> Checked {
    let renewed = TableRules { ttl: Some(Ttl { millis: 10, on_read: true, ..Ttl::default() }), ..ttl(10) };
    let (mut backend, mut stored) = (make(all()), Stored::default());
    backend.define(T, renewed.clone());
    at(&mut backend, 0);
    write_in(&mut backend, T, ROW, Write::Put(b"v"))?;
    stored.seal_at(&mut backend, &none(), (0, 0))?;
    for time in [9, 18, 27] {
        at(&mut backend, time);
        same("alive", read_in(&mut backend, T, ROW)?, Some(b"v".to_vec()))?;
    }
    same("a read is a write", stored.seal_at(&mut backend, &none(), (0, 27))?.len(), 1)?;
    let mut loaded = make(none());
    loaded.define(T, renewed);
    at(&mut loaded, 30);
    loaded.load(&stored.history, &all())?;
    at(&mut loaded, 37);
    same("loaded", read_in(&mut loaded, T, ROW)?, None)
}

fn elements_expire<B: StateBackend>(make: &dyn Fn(KeyGroupSet) -> B) -> Checked {
    let rules = TableRules { merge: Some(Arc::new(Append)), ..ttl(10) };
    let (mut backend, mut stored) = (make(all()), Stored::default());
    backend.define(LISTS, rules.clone());
    for (time, element) in [(0, b"a"), (4, b"b"), (8, b"c")] {
        at(&mut backend, time);
        write_in(&mut backend, LISTS, ROW, Write::Merge(element))?;
        if time == 4 {
            stored.seal_at(&mut backend, &none(), (0, 4))?;
        }
    }
    for (time, expected) in [(9, Some(&b"abc"[..])), (10, Some(b"bc")), (14, Some(b"c")), (18, None)] {
        at(&mut backend, time);
        same("elements", read_in(&mut backend, LISTS, ROW)?.as_deref(), expected)?;
        if time == 10 {
            stored.seal_at(&mut backend, &all(), (0, 10))?;
            backend = make(none());
            backend.define(LISTS, rules.clone());
            at(&mut backend, 10);
            backend.load(&stored.history, &all())?;
            stored = Stored::default();
        }
    }
    Ok(())
}

fn expired_is_not_stored<B: StateBackend>(make: &dyn Fn(KeyGroupSet) -> B) -> Checked {
    let (mut backend, mut stored) = (make(all()), Stored::default());
    backend.define(T, ttl(10));
    at(&mut backend, 0);
    write_in(&mut backend, T, ROW, Write::Put(b"old"))?;
    stored.seal_at(&mut backend, &none(), (0, 0))?;
    at(&mut backend, 5);
    write_in(&mut backend, T, ROW, Write::Put(b"v"))?;
    // The seal itself moves time on.
    let delta = stored.seal_at(&mut backend, &none(), (0, 15))?;
    same("delta", delta, vec![('x', b"k/w/s".to_vec(), vec![])])?;
    at(&mut backend, 15);
    write_in(&mut backend, T, ROW, Write::Put(b"new"))?;
    stored.seal_at(&mut backend, &none(), (0, 20))?;
    let mut loaded = make(none());
    loaded.define(T, ttl(10));
    at(&mut loaded, 25);
    loaded.load(&stored.history, &all())?;
    same("loaded", (read_in(&mut loaded, T, ROW)?, contents(&mut loaded, &[T])?.len()), (None, 0))?;
    same("base", stored.seal_at(&mut backend, &all(), (0, 25))?, vec![])
}

fn rows_without_stamps<B: StateBackend>(make: &dyn Fn(KeyGroupSet) -> B) -> Checked {
    let (mut backend, mut stored) = (make(all()), Stored::default());
    write_in(&mut backend, T, ROW, Write::Put(b"v"))?;
    stored.seal(&mut backend, &none())?;
    let stamp = |millis| Some(Timestamp::from_millis(millis));
    let rules = |since, dead_until| {
        let ttl = Ttl { millis: 10, since, dead_until, ..Ttl::default() };
        TableRules { ttl: Some(ttl), ..TableRules::default() }
    };
    let cases = [
        (rules(None, None), 1000, true),
        (rules(stamp(50), None), 59, true),
        (rules(stamp(50), None), 60, false),
        (rules(stamp(50), stamp(50)), 51, false),
    ];
    for (rules, time, alive) in cases {
        let mut loaded = make(none());
        loaded.define(T, rules.clone());
        at(&mut loaded, time);
        loaded.load(&stored.history, &all())?;
        same(&format!("{rules:?} at {time}"), read_in(&mut loaded, T, ROW)?.is_some(), alive)?;
    }
    Ok(())
}

/// Not even before time has begun, when what is written has no stamp.
fn dead_values_are_not_merged_with<B: StateBackend>(make: &dyn Fn(KeyGroupSet) -> B) -> Checked {
    let sums = |dead_until| {
        let ttl = Ttl { millis: 10, dead_until, ..Ttl::default() };
        TableRules { ttl: Some(ttl), merge: Some(Arc::new(Sum)), ..TableRules::default() }
    };
    let dead = sums(Some(Timestamp::from_millis(5)));
    // Loaded under the new rules, or told of them later; a delta, or a base.
    for (late, bases) in [(false, none()), (false, all()), (true, none()), (true, all())] {
        let (mut backend, mut stored) = (make(all()), Stored::default());
        backend.define(SUMS, sums(None));
        at(&mut backend, 5);
        write_in(&mut backend, SUMS, ROW, Write::Put(&1u64.to_le_bytes()))?;
        stored.seal_at(&mut backend, &none(), (0, 5))?;
        let mut loaded = make(none());
        loaded.define(SUMS, if late { sums(None) } else { dead.clone() });
        loaded.load(&stored.history, &all())?;
        loaded.define(SUMS, dead.clone());
        write_in(&mut loaded, SUMS, ROW, Write::Merge(&2u64.to_le_bytes()))?;
        same("merged", read_in(&mut loaded, SUMS, ROW)?, Some(2u64.to_le_bytes().to_vec()))?;
        stored.seal_at(&mut loaded, &bases, (0, 6))?;
        let mut again = make(none());
        again.define(SUMS, dead.clone());
        again.load(&stored.history, &all())?;
        same("loaded", read_in(&mut again, SUMS, ROW)?, Some(2u64.to_le_bytes().to_vec()))?;
    }
    Ok(())
}

/// Doubles each byte for each version, and refuses `!`.
#[derive(Debug)]
struct Doubled;

impl Upgrade for Doubled {
    fn upgrade(&self, from: u32, bytes: &[u8], out: &mut Vec<u8>) -> Result<()> {
        if bytes == b"!" {
            return Err(Error::corrupt("planned"));
        }
        let times = if from == 1 { 2 } else { 1 };
        out.extend(bytes.iter().flat_map(|byte| std::iter::repeat_n(*byte, times)));
        Ok(())
    }
}

fn versions<B: StateBackend>(make: &dyn Fn(KeyGroupSet) -> B) -> Checked {
    let second = |merge: bool| TableRules {
        version: 2,
        upgrade: Some(Arc::new(Doubled)),
        merge: merge.then(|| Arc::new(Append) as Arc<_>),
        ..TableRules::default()
    };
    // Loaded under the new rules, or told of them later.
    for late in [false, true] {
        let (mut backend, mut stored) = (make(all()), Stored::default());
        define(&mut backend);
        for (table, sub) in [(T, "a"), (T, "b"), (LISTS, "a")] {
            write_in(&mut backend, table, ["k", "", sub], Write::Put(b"xy"))?;
        }
        stored.seal(&mut backend, &none())?;
        write_in(&mut backend, LISTS, ["k", "", "a"], Write::Merge(b"z"))?;
        stored.seal(&mut backend, &none())?;
        if !late {
            backend = make(none());
        }
        backend.define(T, second(false));
        backend.define(LISTS, second(true));
        if !late {
            backend.load(&stored.history, &all())?;
        }
        for sub in ["a", "b"] {
            same("value", read_in(&mut backend, T, ["k", "", sub])?, Some(b"xxyy".to_vec()))?;
        }
        same("list", read_in(&mut backend, LISTS, ["k", "", "a"])?, Some(b"xxyyzz".to_vec()))?;
        write_in(&mut backend, T, ["k", "", "a"], Write::Put(b"new"))?;
        write_in(&mut backend, LISTS, ["k", "", "a"], Write::Merge(b"+"))?;
        same("written", read_in(&mut backend, T, ["k", "", "a"])?, Some(b"new".to_vec()))?;
        same("added", read_in(&mut backend, LISTS, ["k", "", "a"])?, Some(b"xxyyzz+".to_vec()))?;
        let scanned: Vec<_> = contents(&mut backend, &[T])?.into_values().collect();
        same("scan", scanned, vec![b"new".to_vec(), b"xxyy".to_vec()])?;
        let mut values: Vec<_> = stored.seal(&mut backend, &all())?.into_iter().map(|(_, _, bytes)| bytes).collect();
        values.sort();
        same("base", values, vec![b"new".to_vec(), b"xxyy".to_vec(), b"xxyyzz+".to_vec()])?;
    }
    let mut backend = make(all());
    put(&mut backend, "bad", "!")?;
    put(&mut backend, "good", "g")?;
    backend.define(T, second(false));
    refused("read", read(&mut backend, "bad"), ErrorKind::Corrupt)?;
    same("others", read(&mut backend, "good")?, Some(b"gg".to_vec()))?;
    backend.define(T, TableRules { version: 3, ..TableRules::default() });
    refused("no way", read(&mut backend, "good"), ErrorKind::Version)?;
    put(&mut backend, "good", "3")?;
    same("written over", read(&mut backend, "good")?, Some(b"3".to_vec()))
}

fn bad_operators<B: StateBackend>(make: &dyn Fn(KeyGroupSet) -> B) -> Checked {
    let number = |n: u64| n.to_le_bytes();
    let (mut backend, mut stored) = (make(all()), Stored::default());
    define(&mut backend);
    write_in(&mut backend, SUMS, ROW, Write::Put(&number(1)))?;
    write_in(&mut backend, SUMS, ["k", "", "other"], Write::Put(&number(5)))?;
    for sealed in [false, true] {
        // A backend may merge at the write or at the read: what fails first fails, and a delete makes it good.
        for bad in [13, 14] {
            if sealed {
                stored.seal(&mut backend, &none())?;
            }
            let add = |backend: &mut B| write_in(backend, SUMS, ROW, Write::Merge(&number(bad)));
            let added = catch_unwind(AssertUnwindSafe(|| add(&mut backend)));
            if matches!(added, Ok(Ok(()))) {
                let found = catch_unwind(AssertUnwindSafe(|| read_in(&mut backend, SUMS, ROW)));
                same("the read fails", matches!(found, Ok(Ok(_))), false)?;
                write_in(&mut backend, SUMS, ROW, Write::Put(&number(1)))?;
            }
            same("unchanged", read_in(&mut backend, SUMS, ROW)?, Some(number(1).to_vec()))?;
            same("other", read_in(&mut backend, SUMS, ["k", "", "other"])?, Some(number(5).to_vec()))?;
            same("rows", backend.stats().rows, 2)?;
        }
    }
    write_in(&mut backend, SUMS, ROW, Write::Merge(&number(2)))?;
    same("usable", read_in(&mut backend, SUMS, ROW)?, Some(number(3).to_vec()))
}
