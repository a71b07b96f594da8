//! Each kind under keys and namespaces; failures and panics change nothing.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::Lab;
use crate::ErrorKind;
use crate::backend::{Aggregate, CheckpointTimes, KeyedState, OverlayBackend, StateBackend, TableOptions, Tables};
use crate::codec::schema::Schema;
use crate::codec::typed::{Codec, Fixed, Ordered, Utf8};
use crate::error::{Error, Result};
use crate::key_group::{KeyGroup, KeyGroupSet, Partitioner};
use crate::memory::MemoryBudget;
use crate::row::MAX_VALUE_BYTES;

#[test]
fn values_live_under_key_and_namespace() {
    let Lab { mut state, .. } = Lab::new();
    let count = state.value("count", Fixed).unwrap();
    let last = state.value(TableOptions::new("last").namespaced(Schema::new("i64le")), Utf8).unwrap();
    for key in ["a", "b", "a"] {
        state.set_key(key.as_bytes()).unwrap();
        count.update(&mut state, |n: &mut Option<u64>| *n = Some(n.unwrap_or(0) + 1)).unwrap();
        last.put(&mut state.in_namespace(b"w1"), &key.to_owned()).unwrap();
    }
    assert_eq!(count.read(&mut state).unwrap(), Some(2));
    assert_eq!(last.read(&mut state.in_namespace(b"w1")).unwrap().as_deref(), Some("a"));
    assert_eq!(last.read(&mut state.in_namespace(b"w2")).unwrap(), None);
    assert_eq!(count.read(&mut state.in_namespace(b"w1")).unwrap_err().kind(), ErrorKind::Usage);
    count.clear(&mut state).unwrap();
    last.update(&mut state.in_namespace(b"w1"), Option::take).unwrap();
    let mut left = Vec::new();
    let all = KeyGroupSet::all(super::GROUPS);
    count
        .scan(&mut state, &all, |key, _, n| {
            left.push((key.to_vec(), n));
            true
        })
        .unwrap();
    assert_eq!(left, [(b"b".to_vec(), 1)]);
    assert_eq!(state.backend().stats().rows, 2);
}

#[test]
fn adding_to_a_list_writes_one_operand_however_long_the_list() {
    let mut lab = Lab::new();
    let list = lab.state.list("l", Utf8).unwrap();
    assert_eq!(list.read(&mut lab.state).unwrap(), Vec::<String>::new());
    list.add_all(&mut lab.state, &["x".repeat(300), String::new()]).unwrap();
    assert_eq!(lab.seal(false), [format!("k//=\\xac\\x02{}\\x00", "x".repeat(300))]);
    list.add(&mut lab.state, &"b".to_owned()).unwrap();
    list.add_all(&mut lab.state, []).unwrap();
    assert_eq!(lab.seal(false), ["k//+\\x01b"]);
    list.add(&mut lab.state, &"c".to_owned()).unwrap();
    let expected = ["x".repeat(300), String::new(), "b".to_owned(), "c".to_owned()];
    assert_eq!(list.read(&mut lab.state).unwrap(), expected);
    assert_eq!(lab.seal(true), [format!("k//=\\xac\\x02{}\\x00\\x01b\\x01c", "x".repeat(300))]);
    let list = lab.restart(|tables| tables.list("l", Utf8)).unwrap();
    let mut seen = Vec::new();
    list.for_each(&mut lab.state, |value: String| seen.push(value)).unwrap();
    assert_eq!(seen, expected);
    list.update(&mut lab.state, &["only".to_owned()]).unwrap();
    assert_eq!(lab.seal(false), ["k//=\\x04only"]);
    list.update(&mut lab.state, &[]).unwrap();
    assert_eq!((lab.rows(), list.read(&mut lab.state).unwrap().len()), (0, 0));
    assert_eq!(lab.seal(false), ["k//x"]);
    list.add(&mut lab.state, &"again".to_owned()).unwrap();
    list.clear(&mut lab.state).unwrap();
    assert_eq!(list.read(&mut lab.state).unwrap(), Vec::<String>::new());
}

#[test]
fn a_map_has_a_row_per_entry_and_clears_in_one_row() {
    let mut lab = Lab::new();
    let map = lab.state.map(TableOptions::new("m").namespaced(Schema::new("utf8")), Utf8, Fixed).unwrap();
    for key in ["k", "other"] {
        lab.state.set_key(key.as_bytes()).unwrap();
        for n in 0..100u32 {
            map.put(&mut lab.state.in_namespace(b"w"), &n.to_string(), &n).unwrap();
        }
        map.put(&mut lab.state.in_namespace(b"v"), &"v".to_owned(), &7).unwrap();
    }
    assert_eq!(lab.seal(false).len(), 202);
    let mut state = lab.state.in_namespace(b"w");
    assert_eq!(map.read(&mut state, &"17".to_owned()).unwrap(), Some(17));
    assert!(map.contains(&mut state, &"99".to_owned()).unwrap());
    assert!(!map.contains(&mut state, &"v".to_owned()).unwrap());
    map.remove(&mut state, &"17".to_owned()).unwrap();
    map.update(&mut state, &"18".to_owned(), |n| *n = n.map(|n| n + 1000)).unwrap();
    map.put_all(&mut state, [(&"a".to_owned(), &1), (&"b".to_owned(), &2)]).unwrap();
    assert_eq!(map.entries(&mut state).unwrap().len(), 101);
    assert_eq!(map.values(&mut state).unwrap().iter().sum::<u32>(), 4950 - 17 + 1000 + 3);
    assert!(map.keys(&mut state).unwrap().contains(&"b".to_owned()));
    let mut seen = 0;
    map.retain(&mut state, |_, n| {
        seen += 1;
        *n = if *n == 2 { 20 } else { *n };
        *n >= 20 && *n < 30
    })
    .unwrap();
    assert_eq!(seen, 101);
    assert_eq!(map.values(&mut state).unwrap().iter().sum::<u32>(), 245 + 40);
    map.clear(&mut state).unwrap();
    assert!(map.is_empty(&mut state).unwrap());
    map.put(&mut state, &"new".to_owned(), &1).unwrap();
    assert_eq!(lab.seal(false), ["other/w/-!", "other/w/new=\\x01\\x00\\x00\\x00"]);
    let map = lab.restart(|tables| tables.map::<String, u32, _, _>(options(), Utf8, Fixed)).unwrap();
    assert_eq!(
        map.read(&mut lab.state.in_namespace(b"w"), &"17".to_owned()).unwrap(),
        Some(17),
        "the other key keeps its entries"
    );
    lab.state.clear_namespace(map.table(), b"w").unwrap();
    assert_eq!(lab.rows(), 2);
    lab.state.clear_key(map.table()).unwrap();
    assert_eq!(lab.rows(), 1);
    assert_eq!(lab.seal(false).len(), 3, "two groups, and a key");
}

/// Adds up numbers, stored with their count.
#[derive(Debug)]
struct Sum;

impl Aggregate for Sum {
    type Input = u64;
    type Accumulator = (u64, u64);
    type Output = (u64, u64);

    fn name(&self) -> &'static str {
        "sum"
    }

    fn create(&self) -> (u64, u64) {
        (0, 0)
    }

    fn add(&self, (count, sum): &mut (u64, u64), input: &u64) {
        (*count, *sum) = (*count + 1, *sum + input);
    }

    fn merge(&self, older: (u64, u64), newer: (u64, u64)) -> (u64, u64) {
        (older.0 + newer.0, older.1 + newer.1)
    }

    fn result(&self, accumulator: &(u64, u64)) -> (u64, u64) {
        *accumulator
    }
}

fn options() -> TableOptions {
    TableOptions::new("m").namespaced(Schema::new("utf8"))
}

#[test]
fn ordered_maps_are_visited_in_the_order_of_sub_keys() {
    let mut lab = Lab::new();
    let map = lab.state.ordered_map("m", Ordered, Fixed).unwrap();
    let numbers = [5i64, -1, i64::MIN, 300, 0, i64::MAX, -300];
    for n in numbers {
        map.put(&mut lab.state, &n, &n).unwrap();
    }
    lab.seal(false);
    lab.state.set_key(b"another").unwrap();
    map.put(&mut lab.state, &1, &1).unwrap();
    lab.state.set_key(b"k").unwrap();
    map.remove(&mut lab.state, &i64::MIN).unwrap();
    let mut sorted = numbers.to_vec();
    sorted.sort_unstable();
    sorted.remove(0);
    assert_eq!(map.keys(&mut lab.state).unwrap(), sorted);
    assert_eq!(map.first(&mut lab.state).unwrap(), Some((-300, -300)));
    let mut walk = |range: (std::ops::Bound<i64>, std::ops::Bound<i64>), limit| {
        let mut seen = Vec::new();
        map.range(&mut lab.state, range, |n, _| {
            seen.push(n);
            seen.len() < limit
        })
        .unwrap();
        seen
    };
    use std::ops::Bound::{Excluded, Included, Unbounded};
    assert_eq!(walk((Included(-1), Excluded(300)), 9), [-1, 0, 5]);
    assert_eq!(walk((Excluded(-1), Included(300)), 2), [0, 5]);
    assert_eq!(walk((Included(i64::MAX), Unbounded), 9), [i64::MAX]);
    assert_eq!(walk((Included(1), Excluded(1)), 9), [0i64; 0]);
}

#[test]
fn additions_are_merged_without_a_read() {
    let mut lab = Lab::new();
    let text = |a: String, b: String| a + &b;
    let joined = lab.state.reducing("joined", Utf8, "concat", text).unwrap();
    let sum = lab.state.aggregating("sum", (Fixed, Fixed), Sum).unwrap();
    assert_eq!((joined.read(&mut lab.state).unwrap(), sum.read(&mut lab.state).unwrap()), (None, None));
    for (i, word) in ["a", "b", "c", "d"].into_iter().enumerate() {
        joined.add(&mut lab.state, &word.to_owned()).unwrap();
        sum.add(&mut lab.state, &(10 * u64::try_from(i).unwrap())).unwrap();
        if i == 1 {
            assert_eq!(lab.seal(false)[1], "k//=ab", "a first operand is a value");
        }
    }
    assert_eq!(joined.read(&mut lab.state).unwrap().as_deref(), Some("abcd"));
    assert_eq!(sum.read(&mut lab.state).unwrap(), Some((4, 60)));
    assert_eq!(lab.seal(false)[1], "k//+cd");
    assert_eq!(lab.seal(true)[1], "k//=abcd");
    let (joined, sum) = lab
        .restart(|tables| {
            let joined = tables.reducing("joined", Utf8, "concat", text)?;
            Ok((joined, tables.aggregating("sum", (Fixed, Fixed), Sum)?))
        })
        .unwrap();
    sum.add(&mut lab.state, &115).unwrap();
    assert_eq!(sum.read(&mut lab.state).unwrap(), Some((5, 175)));
    joined.clear(&mut lab.state).unwrap();
    assert_eq!(joined.read(&mut lab.state).unwrap(), None);
    joined.add(&mut lab.state, &"z".to_owned()).unwrap();
    assert_eq!(lab.seal(false)[1], "k//=z");
}

/// A codec for words that fails on `bad` and panics on `panic`.
#[derive(Debug, Clone)]
struct Fragile;

impl Codec<String> for Fragile {
    fn schema(&self) -> Schema {
        Schema::new("fragile")
    }

    fn encode(&self, value: &String, out: &mut Vec<u8>) -> Result<()> {
        out.extend_from_slice(value.as_bytes());
        assert!(!value.contains("panic"), "planned");
        if value.contains("bad") { Err(Error::usage("planned")) } else { Ok(()) }
    }

    fn decode(&self, bytes: &[u8]) -> Result<String> {
        Utf8.decode(bytes)
    }
}

fn panics<R>(f: impl FnOnce() -> R) {
    assert!(catch_unwind(AssertUnwindSafe(f)).is_err(), "no panic");
}

#[test]
fn codecs_that_fail_or_panic_change_nothing() {
    let Lab { mut state, .. } = Lab::new();
    let (good, bad, panic) = ("good".to_owned(), "bad".to_owned(), "panic".to_owned());
    let value = state.value("v", Fragile).unwrap();
    let list = state.list("l", Fragile).unwrap();
    let map = state.map("m", Fragile, Fragile).unwrap();
    let sum = state.reducing("r", Fragile, "concat", |a: String, b: String| a + &b).unwrap();
    value.put(&mut state, &good).unwrap();
    list.add(&mut state, &good).unwrap();
    map.put(&mut state, &good, &good).unwrap();
    sum.add(&mut state, &good).unwrap();
    for fails in [&bad, &panic] {
        let calls: [&mut dyn FnMut(&mut _) -> Result<()>; 11] = [
            &mut |state| value.put(state, fails),
            &mut |state| value.update(state, |value| *value = Some(fails.clone())),
            &mut |state| list.add(state, fails),
            &mut |state| list.add_all(state, [&good, fails]),
            &mut |state| list.update(state, &[good.clone(), fails.clone()]),
            &mut |state| map.put(state, fails, &good),
            &mut |state| map.put_all(state, [(&good, fails), (&good, &good)]),
            &mut |state| map.update(state, &good, |value| *value = Some(fails.clone())),
            &mut |state| {
                map.retain(state, |_, value| {
                    value.push_str(fails);
                    true
                })
            },
            &mut |state| map.remove(state, fails),
            &mut |state| sum.add(state, fails),
        ];
        for call in calls {
            if *fails == panic {
                panics(|| call(&mut state));
            } else {
                assert_eq!(call(&mut state).unwrap_err().kind(), ErrorKind::Usage);
            }
        }
        assert_eq!(value.read(&mut state).unwrap().as_deref(), Some("good"));
        assert_eq!(list.read(&mut state).unwrap(), ["good"]);
        assert_eq!(map.entries(&mut state).unwrap(), [(good.clone(), good.clone())]);
        assert_eq!(sum.read(&mut state).unwrap().as_deref(), Some("good"));
    }
    assert_eq!(state.backend().stats().rows, 4);
}

#[test]
fn functions_that_panic_change_nothing() {
    let mut lab = Lab::new();
    let reduce = |a: u32, b: u32| {
        assert!(b != 13, "planned");
        a + b
    };
    let sum = lab.state.reducing("r", Fixed, "careful", reduce).unwrap();
    let value = lab.state.value("v", Fixed).unwrap();
    let map = lab.state.map("m", Fixed, Fixed).unwrap();
    sum.add(&mut lab.state, &1).unwrap();
    value.put(&mut lab.state, &1u8).unwrap();
    map.put(&mut lab.state, &1u8, &1u8).unwrap();
    panics(|| sum.add(&mut lab.state, &13));
    panics(|| value.update(&mut lab.state, |_| panic!("planned")));
    panics(|| map.update(&mut lab.state, &1, |_| panic!("planned")));
    panics(|| map.retain(&mut lab.state, |_, _| panic!("planned")));
    panics(|| map.for_each(&mut lab.state, |_, _| panic!("planned")));
    sum.add(&mut lab.state, &2).unwrap();
    assert_eq!(sum.read(&mut lab.state).unwrap(), Some(3));
    assert_eq!((value.read(&mut lab.state).unwrap(), map.entries(&mut lab.state).unwrap()), (Some(1), vec![(1, 1)]));
    // After a seal the operand stays unmerged until a read, so the read panics. Clearing the row still works.
    lab.seal(false);
    sum.add(&mut lab.state, &13).unwrap();
    panics(|| sum.read(&mut lab.state));
    value.put(&mut lab.state, &2).unwrap();
    sum.clear(&mut lab.state).unwrap();
    sum.add(&mut lab.state, &4).unwrap();
    assert_eq!((sum.read(&mut lab.state).unwrap(), value.read(&mut lab.state).unwrap()), (Some(4), Some(2)));
}

#[test]
fn stored_bytes_of_another_type_are_corrupt() {
    let mut lab = Lab::new();
    let short = lab.state.value("v", Fixed).unwrap();
    let list = lab.state.list("l", Fixed).unwrap();
    short.put(&mut lab.state, &7u16).unwrap();
    list.add(&mut lab.state, &7u16).unwrap();
    lab.seal(false);
    // Tables as a damaged manifest might list them.
    let mut schemas = lab.state.tables().schemas().to_vec();
    schemas.iter_mut().for_each(|table| table.value = Schema::new("u32le"));
    let times = CheckpointTimes { event_time: lab.now.0, processing_time: lab.now.1 };
    let mut tables = Tables::restored(Schema::new("utf8"), schemas, times);
    let long = tables.value::<u32, _>("v", Fixed).unwrap();
    let longs = tables.list::<u32, _>("l", Fixed).unwrap();
    let mut lab = Lab::over(tables, lab.segments, 1, lab.now);
    assert_eq!(long.update(&mut lab.state, |n| *n = None).unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(longs.read(&mut lab.state).unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(lab.rows(), 2);
}

#[test]
fn values_and_sub_keys_that_are_too_long_are_refused() {
    let Lab { mut state, .. } = Lab::new();
    let value = state.value("v", Utf8).unwrap();
    let map = state.map("m", Utf8, Utf8).unwrap();
    let list = state.list("l", Utf8).unwrap();
    let (small, long, huge) = ("s".to_owned(), "x".repeat(65_536), "x".repeat(MAX_VALUE_BYTES + 1));
    assert_eq!(value.put(&mut state, &huge).unwrap_err().kind(), ErrorKind::Limit);
    assert_eq!(list.add(&mut state, &huge).unwrap_err().kind(), ErrorKind::Limit);
    assert_eq!(map.put(&mut state, &small, &huge).unwrap_err().kind(), ErrorKind::Limit);
    assert_eq!(map.put(&mut state, &long, &small).unwrap_err().kind(), ErrorKind::Limit);
    assert_eq!(state.backend().stats().rows, 0);
}

#[test]
fn without_a_current_key_every_operation_fails() {
    let backend = OverlayBackend::new(KeyGroupSet::all(8), MemoryBudget::new(u64::MAX));
    let mut state = KeyedState::new(backend, Partitioner::External, 8, Tables::new(Schema::new("bytes")));
    let list = state.list("l", Utf8).unwrap();
    assert_eq!(list.read(&mut state).unwrap_err().kind(), ErrorKind::Usage);
    assert_eq!(state.clear_key(list.table()).unwrap_err().kind(), ErrorKind::Usage);
    assert_eq!(state.set_key(b"a").unwrap_err().kind(), ErrorKind::Usage, "the partitioner needs a routing hash");
    assert_eq!(state.locate(b"a").unwrap_err().kind(), ErrorKind::Usage);
    state.set_key_routed(b"a", u64::MAX);
    assert_eq!(state.key.group, KeyGroup(7));
    assert_eq!(list.read(&mut state).unwrap(), Vec::<String>::new());
}
