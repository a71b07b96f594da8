//! Checks of table rules: expiry, older versions of values, failing operators.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::fixture::{LISTS, SUMS, Stored, Sum, define, key, none, read_in, write_in};
use super::*;
use crate::backend::{ALL_SUBS, Change};
use crate::row::{Append, GroupTimes, Life, TableRules, Ttl, Upgrade};

/// Returns this file's checks.
pub(super) fn checks<B: StateBackend>() -> Vec<Check<B>> {
    vec![
        ("expired rows are absent", expired_rows_are_absent),
        ("times never go back", times_never_go_back),
        ("each group resumes its own times", groups_resume_their_times),
        ("each group resumes its own bounds of expiry", groups_resume_their_bounds),
        ("a read renews a row if the rules say so", reads_renew),
        ("elements of a list expire one by one", elements_expire),
        ("expired rows are neither stored nor loaded", expired_rows_are_not_stored),
        ("rows without a stamp expire by the table's rules", rows_without_stamps),
        ("an operand does not merge with an expired value", expired_values_do_not_merge),
        ("values of older versions are upgraded", versions),
        ("a panicking or failing operator changes nothing", bad_operators),
    ]
}

fn ttl(millis: u64) -> TableRules {
    TableRules { ttl: Some(Ttl { millis, ..Ttl::default() }), ..TableRules::default() }
}

/// Advances processing time.
fn advance_to<B: StateBackend>(backend: &mut B, millis: i64) {
    backend.advance(Timestamp::MIN, Timestamp::from_millis(millis));
}

const ROW: [&str; 3] = ["k", "w", "s"];

fn expired_rows_are_absent<B: StateBackend>(make: &dyn Fn(KeyGroupSet) -> B) -> Checked {
    for sealed in [false, true] {
        let mut backend = make(all());
        backend.define(T, ttl(10));
        advance_to(&mut backend, 100);
        write_in(&mut backend, T, ROW, Write::Put(b"v"))?;
        if sealed {
            Stored::default().seal_at(&mut backend, &none(), (0, 100))?;
        }
        advance_to(&mut backend, 109);
        same("alive", read_in(&mut backend, T, ROW)?, Some(b"v".to_vec()))?;
        advance_to(&mut backend, 110);
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
        advance_to(&mut backend, 119);
        same("written anew", read_in(&mut backend, T, ROW)?, Some(b"n".to_vec()))?;
    }
    Ok(())
}

fn times_never_go_back<B: StateBackend>(make: &dyn Fn(KeyGroupSet) -> B) -> Checked {
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

/// Returns a key of the lower and a key of the upper half of the groups.
fn a_key_of_each_half() -> [[u8; 4]; 2] {
    let (lower, upper) = halves();
    [lower, upper].map(|half| keys(1000).find(|key| half.contains(group_of(key))).unwrap_or_default())
}

/// Writes to both keys of table [`T`] at 100 ms and seals. Returns a new backend at 105 ms that resumed `record` and
/// loaded the sealed rows, and the stored parts.
fn load_with_record<B: StateBackend>(
    make: &dyn Fn(KeyGroupSet) -> B,
    rules: &TableRules,
    record: &GroupTimes,
    write: Write<'_>,
) -> Result<(B, Stored)> {
    let (mut backend, mut stored) = (make(all()), Stored::default());
    backend.define(T, rules.clone());
    advance_to(&mut backend, 100);
    for key in a_key_of_each_half() {
        with_row(&key, |row| backend.write(row, write))?;
    }
    stored.seal_at(&mut backend, &none(), (0, 100))?;
    let mut loaded = make(none());
    loaded.define(T, rules.clone());
    advance_to(&mut loaded, 105);
    loaded.resume(std::slice::from_ref(record));
    loaded.load(&stored.history, &all())?;
    Ok((loaded, stored))
}

fn groups_resume_their_times<B: StateBackend>(make: &dyn Fn(KeyGroupSet) -> B) -> Checked {
    let [ahead, behind] = a_key_of_each_half();
    let (lower, upper) = halves();
    let range = KeyGroupRange::new(0, MAX_PARALLELISM / 2);
    let time = Timestamp::from_millis;
    let record = GroupTimes::new(range, Timestamp::MIN, time(110));
    let (mut backend, mut stored) = load_with_record(make, &ttl(10), &record, Write::Put(b"v"))?;
    let seen = |backend: &mut B| Ok::<_, Error>((read(backend, ahead)?.is_some(), read(backend, behind)?.is_some()));
    same("by each group's times", seen(&mut backend)?, (false, true))?;
    same("scanned", contents(&mut backend, &[T])?.len(), 1)?;
    put(&mut backend, ahead, b"new")?;
    advance_to(&mut backend, 109);
    same("the clock is behind the record", seen(&mut backend)?, (true, true))?;
    let times =
        [GroupTimes::new(range, Timestamp::MIN, time(110)), GroupTimes::new(upper_range(), Timestamp::MIN, time(109))];
    same("times", backend.times(), times.to_vec())?;
    let base = stored.seal_at(&mut backend, &all(), (i64::MIN, 109))?;
    same("rows of a base", base.len(), 2)?;
    advance_to(&mut backend, 112);
    same("the clock expires rows of groups without a record", seen(&mut backend)?, (true, false))?;
    advance_to(&mut backend, 120);
    same("the clock has passed the record", seen(&mut backend)?, (false, false))?;
    let whole = KeyGroupRange::new(0, MAX_PARALLELISM);
    same("times", backend.times(), vec![GroupTimes::new(whole, Timestamp::MIN, time(120))])?;
    backend.drop_groups(&lower)?;
    same(
        "times of the remaining groups",
        backend.times(),
        vec![GroupTimes::new(upper_range(), Timestamp::MIN, time(120))],
    )?;
    same("groups", backend.groups(), &upper)
}

fn upper_range() -> KeyGroupRange {
    KeyGroupRange::new(MAX_PARALLELISM / 2, MAX_PARALLELISM)
}

fn groups_resume_their_bounds<B: StateBackend>(make: &dyn Fn(KeyGroupSet) -> B) -> Checked {
    let [expired, alive] = a_key_of_each_half();
    let mut record = GroupTimes::new(KeyGroupRange::new(0, MAX_PARALLELISM / 2), Timestamp::MIN, Timestamp::MIN);
    record.lives = vec![Life { table: T, millis: None, since: None, dead_until: Some(Timestamp::from_millis(100)) }];
    let sums = TableRules { merge: Some(Arc::new(Sum)), ..ttl(1000) };
    let number = |n: u64| n.to_le_bytes();
    let (mut backend, mut stored) = load_with_record(make, &sums, &record, Write::Merge(&number(1)))?;
    same("kept", backend.times().first().map(|times| times.lives.clone()), Some(record.lives.clone()))?;
    for key in [expired, alive] {
        with_row(&key, |row| backend.write(row, Write::Merge(&number(2))))?;
    }
    let seen = |backend: &mut B| Ok::<_, Error>([read(backend, expired)?, read(backend, alive)?]);
    let expected = [number(2), number(3)].map(|sum| Some(sum.to_vec()));
    same("merged with the live value only", seen(&mut backend)?, expected.clone())?;
    stored.seal_at(&mut backend, &none(), (0, 110))?;
    let mut again = make(none());
    again.define(T, sums);
    again.resume(&[record]);
    again.load(&stored.history, &all())?;
    same("loaded", seen(&mut again)?, expected)
}

fn reads_renew<B: StateBackend>(make: &dyn Fn(KeyGroupSet) -> B) -> Checked {
    let renewed = TableRules { ttl: Some(Ttl { millis: 10, on_read: true, ..Ttl::default() }), ..ttl(10) };
    let (mut backend, mut stored) = (make(all()), Stored::default());
    backend.define(T, renewed.clone());
    advance_to(&mut backend, 0);
    write_in(&mut backend, T, ROW, Write::Put(b"v"))?;
    stored.seal_at(&mut backend, &none(), (0, 0))?;
    for time in [9, 18, 27] {
        advance_to(&mut backend, time);
        same("alive", read_in(&mut backend, T, ROW)?, Some(b"v".to_vec()))?;
    }
    same("a read is a write", stored.seal_at(&mut backend, &none(), (0, 27))?.len(), 1)?;
    let mut loaded = make(none());
    loaded.define(T, renewed);
    advance_to(&mut loaded, 30);
    loaded.load(&stored.history, &all())?;
    advance_to(&mut loaded, 37);
    same("loaded", read_in(&mut loaded, T, ROW)?, None)
}

fn elements_expire<B: StateBackend>(make: &dyn Fn(KeyGroupSet) -> B) -> Checked {
    let rules = TableRules { merge: Some(Arc::new(Append)), ..ttl(10) };
    let (mut backend, mut stored) = (make(all()), Stored::default());
    backend.define(LISTS, rules.clone());
    for (time, element) in [(0, b"a"), (4, b"b"), (8, b"c")] {
        advance_to(&mut backend, time);
        write_in(&mut backend, LISTS, ROW, Write::Merge(element))?;
        if time == 4 {
            stored.seal_at(&mut backend, &none(), (0, 4))?;
        }
    }
    for (time, expected) in [(9, Some(&b"abc"[..])), (10, Some(b"bc")), (14, Some(b"c")), (18, None)] {
        advance_to(&mut backend, time);
        same("elements", read_in(&mut backend, LISTS, ROW)?.as_deref(), expected)?;
        if time == 10 {
            stored.seal_at(&mut backend, &all(), (0, 10))?;
            backend = make(none());
            backend.define(LISTS, rules.clone());
            advance_to(&mut backend, 10);
            backend.load(&stored.history, &all())?;
            stored = Stored::default();
        }
    }
    Ok(())
}

fn expired_rows_are_not_stored<B: StateBackend>(make: &dyn Fn(KeyGroupSet) -> B) -> Checked {
    let (mut backend, mut stored) = (make(all()), Stored::default());
    backend.define(T, ttl(10));
    advance_to(&mut backend, 0);
    write_in(&mut backend, T, ROW, Write::Put(b"old"))?;
    stored.seal_at(&mut backend, &none(), (0, 0))?;
    advance_to(&mut backend, 5);
    write_in(&mut backend, T, ROW, Write::Put(b"v"))?;
    // The seal itself advances the time.
    let delta = stored.seal_at(&mut backend, &none(), (0, 15))?;
    same("delta", delta, vec![('x', b"k/w/s".to_vec(), vec![])])?;
    advance_to(&mut backend, 15);
    write_in(&mut backend, T, ROW, Write::Put(b"new"))?;
    stored.seal_at(&mut backend, &none(), (0, 20))?;
    let mut loaded = make(none());
    loaded.define(T, ttl(10));
    advance_to(&mut loaded, 25);
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
        advance_to(&mut loaded, time);
        loaded.load(&stored.history, &all())?;
        same(&format!("{rules:?} at {time}"), read_in(&mut loaded, T, ROW)?.is_some(), alive)?;
    }
    Ok(())
}

/// Includes operands without a stamp, written before the first timestamp.
fn expired_values_do_not_merge<B: StateBackend>(make: &dyn Fn(KeyGroupSet) -> B) -> Checked {
    let sums = |dead_until| {
        let ttl = Ttl { millis: 10, dead_until, ..Ttl::default() };
        TableRules { ttl: Some(ttl), merge: Some(Arc::new(Sum)), ..TableRules::default() }
    };
    let dead = sums(Some(Timestamp::from_millis(5)));
    // Define the new rules before or after the load; seal a delta or a base.
    for (late, bases) in [(false, none()), (false, all()), (true, none()), (true, all())] {
        let (mut backend, mut stored) = (make(all()), Stored::default());
        backend.define(SUMS, sums(None));
        advance_to(&mut backend, 5);
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

/// Doubles each byte of a value of version 1; refuses `!`.
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
    // Define the new rules before the load, or late, on a backend with rows.
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
    refused("no upgrade", read(&mut backend, "good"), ErrorKind::Version)?;
    put(&mut backend, "good", "3")?;
    same("overwritten", read(&mut backend, "good")?, Some(b"3".to_vec()))
}

fn bad_operators<B: StateBackend>(make: &dyn Fn(KeyGroupSet) -> B) -> Checked {
    let number = |n: u64| n.to_le_bytes();
    let (mut backend, mut stored) = (make(all()), Stored::default());
    define(&mut backend);
    write_in(&mut backend, SUMS, ROW, Write::Put(&number(1)))?;
    write_in(&mut backend, SUMS, ["k", "", "other"], Write::Put(&number(5)))?;
    for sealed in [false, true] {
        // A backend may merge at the write or at the read, so either may fail. A put repairs the row.
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
