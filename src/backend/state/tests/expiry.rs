//! TTLs: expired rows are never returned, across restarts, changes of the TTL and clocks that go back.

use std::time::Duration;

use super::{Lab, at};
use crate::backend::{ListState, MapState, ReducingState, TableOptions, TtlConfig, ValueState};
use crate::codec::typed::{Fixed, Utf8};
use crate::error::Result;
use crate::time::Timestamp;

fn life(millis: u64) -> TtlConfig {
    TtlConfig::new(Duration::from_millis(millis))
}

fn table(ttl: impl Into<Option<TtlConfig>>, name: &str) -> TableOptions {
    match ttl.into() {
        Some(ttl) => TableOptions::new(name).ttl(ttl),
        None => TableOptions::new(name),
    }
}

type Value = ValueState<u8, Fixed>;

/// Returns a state with one table of values, declared with `ttl`.
fn value_lab(ttl: impl Into<Option<TtlConfig>>) -> (Lab, Value) {
    let mut lab = Lab::new();
    let value = lab.state.value(table(ttl, "v"), Fixed).unwrap();
    (lab, value)
}

impl Lab {
    fn restart_with(&mut self, ttl: impl Into<Option<TtlConfig>>) -> Value {
        self.restart(|tables| tables.value(table(ttl, "v"), Fixed)).unwrap()
    }

    fn get(&mut self, value: &Value) -> Option<u8> {
        value.read(&mut self.state).unwrap()
    }

    fn put(&mut self, key: &str, value: &Value, to: u8) {
        self.state.set_key(key.as_bytes()).unwrap();
        value.put(&mut self.state, &to).unwrap();
    }
}

#[test]
fn an_expired_row_is_never_returned() {
    let (mut lab, value) = value_lab(life(10));
    lab.at(100);
    lab.put("k", &value, 7);
    lab.at(109);
    assert_eq!(lab.get(&value), Some(7));
    lab.at(110);
    assert_eq!(lab.get(&value), None);
    value.update(&mut lab.state, |n| assert_eq!(*n, None)).unwrap();
    value
        .scan(&mut lab.state, &crate::key_group::KeyGroupSet::all(super::GROUPS), |_, _, _| panic!("visited"))
        .unwrap();
    value.put(&mut lab.state, &8).unwrap();
    lab.at(119);
    assert_eq!(lab.get(&value), Some(8));
    let value = lab.restart_with(life(10));
    assert_eq!(lab.get(&value), None, "the second value was not sealed");
}

#[test]
fn expired_rows_are_tombstones_in_deltas_and_gone_from_bases() {
    let (mut lab, value) = value_lab(life(10));
    lab.at(100);
    lab.put("a", &value, 1);
    assert_eq!(lab.seal(false), ["a//=\\x01 @100"]);
    lab.at(105);
    lab.put("a", &value, 2);
    lab.put("b", &value, 3);
    lab.at(115);
    assert_eq!(lab.seal(false), ["a//x", "b//x"]);
    lab.put("c", &value, 4);
    lab.at(124);
    assert_eq!(lab.seal(true), ["c//=\\x04 @115"]);
    lab.at(125);
    assert_eq!(lab.seal(true), [""; 0]);
}

#[test]
fn elements_and_entries_expire_one_by_one_and_sums_as_a_whole() {
    let declare =
        |tables: &mut crate::backend::Tables| -> Result<(ListState<_, _>, MapState<_, _, _, _>, ReducingState<_, _>)> {
            let list = tables.list::<u8, _>(table(life(10), "l"), Fixed)?;
            let map = tables.map::<String, u8, _, _>(table(life(10), "m"), Utf8, Fixed)?;
            Ok((list, map, tables.reducing(table(life(10), "r"), Fixed, "sum", |a: u8, b| a + b)?))
        };
    let mut lab = Lab::new();
    let (mut list, mut map, mut sum) = lab.restart(declare).unwrap();
    for (time, n) in [(100, 1), (104, 2), (108, 4)] {
        lab.at(time);
        list.add(&mut lab.state, &n).unwrap();
        map.put(&mut lab.state, &n.to_string(), &n).unwrap();
        sum.add(&mut lab.state, &n).unwrap();
    }
    for (time, elements, total) in
        [(109, vec![1, 2, 4], Some(7)), (110, vec![2, 4], Some(7)), (114, vec![4], Some(7)), (118, vec![], None)]
    {
        lab.at(time);
        assert_eq!(list.read(&mut lab.state).unwrap(), elements, "{time}");
        assert_eq!(map.values(&mut lab.state).unwrap(), elements, "{time}");
        assert_eq!(map.is_empty(&mut lab.state).unwrap(), elements.is_empty());
        assert_eq!(sum.read(&mut lab.state).unwrap(), total, "{time}");
        if time == 110 {
            lab.seal(false);
            (list, map, sum) = lab.restart(declare).unwrap();
        }
    }
    sum.add(&mut lab.state, &8).unwrap();
    assert_eq!(sum.read(&mut lab.state).unwrap(), Some(8), "the expired sum is gone");
}

#[test]
fn reads_renew_rows_if_the_ttl_says_so() {
    let (mut lab, value) = value_lab(life(10).renewed_by_reads());
    lab.put("k", &value, 7);
    for time in [9, 18, 27] {
        lab.at(time);
        assert_eq!(lab.get(&value), Some(7));
        assert_eq!(lab.seal(false), [format!("k//=\\x07 @{time}")]);
    }
    let value = lab.restart_with(life(10).renewed_by_reads());
    lab.at(37);
    assert_eq!(lab.get(&value), None);
}

#[test]
fn a_ttl_added_to_stored_rows_counts_from_the_checkpoint() {
    let (mut lab, value) = value_lab(None);
    lab.put("k", &value, 7);
    assert_eq!(lab.seal(false), ["k//=\\x07"]);
    lab.at(1000);
    let mut value = lab.restart_with(life(10));
    lab.at(1009);
    assert_eq!(lab.get(&value), Some(7), "the TTL counts from the checkpoint");
    lab.put("new", &value, 8);
    lab.seal(false);
    value = lab.restart_with(life(10));
    lab.state.set_key(b"k").unwrap();
    lab.at(1010);
    assert_eq!(lab.get(&value), None);
    assert_eq!(lab.seal(true), ["new//=\\x08 @1009"]);
}

#[test]
fn changing_or_removing_a_ttl_revives_no_row() {
    let (mut lab, mut value) = value_lab(life(10));
    lab.put("old", &value, 1);
    lab.at(5);
    lab.put("young", &value, 2);
    lab.seal(false);
    lab.at(12);
    // By the checkpoint at 12, rows written at 2 or before have expired.
    lab.seal(false);
    for ttl in [Some(life(1000)), None, None, Some(life(5000))] {
        value = lab.restart_with(ttl);
        lab.state.set_key(b"old").unwrap();
        assert_eq!(lab.get(&value), None, "{ttl:?}");
        lab.state.set_key(b"young").unwrap();
        assert_eq!(lab.get(&value), Some(2), "{ttl:?}");
        lab.at(lab.now.1.as_millis() + 100);
        lab.seal(false);
    }
    value = lab.restart_with(life(3));
    assert_eq!(lab.get(&value), None, "a shorter TTL holds at once");
    value = lab.restart_with(None);
    lab.state.set_key(b"young").unwrap();
    assert_eq!(lab.get(&value), None);
}

#[test]
fn f12_clocks_that_go_back_revive_nothing() {
    let (mut lab, value) = value_lab(life(10));
    lab.put("k", &value, 7);
    lab.at(10);
    assert_eq!(lab.get(&value), None);
    lab.at(3);
    assert_eq!(lab.get(&value), None);
    value.put(&mut lab.state, &8).unwrap();
    lab.at(19);
    assert_eq!(lab.get(&value), Some(8), "written at 10");
    lab.at(20);
    assert_eq!(lab.get(&value), None);
}

#[test]
fn in_event_time_no_row_expires_before_the_first_watermark() {
    let ttl = life(10).in_event_time();
    let (mut lab, mut value) = value_lab(ttl);
    lab.put("before", &value, 1);
    lab.at(1_000_000);
    assert_eq!(lab.get(&value), Some(1), "the wall clock does not count");
    lab.at_both(at(50), 1_000_000);
    lab.put("after", &value, 2);
    assert_eq!(lab.seal(false), ["after//=\\x02 @50", "before//=\\x01"]);
    lab.at_both(at(60), 1_000_000);
    assert_eq!(lab.get(&value), None);
    lab.state.set_key(b"before").unwrap();
    assert_eq!(lab.get(&value), Some(1), "the row has no stamp");
    lab.seal(false);
    value = lab.restart_with(ttl);
    lab.state.set_key(b"before").unwrap();
    assert_eq!(lab.get(&value), Some(1), "the TTL counts from the checkpoint");
    lab.at_both(at(70), 1_000_000);
    assert_eq!(lab.get(&value), None);
    let refused = lab.restart(|tables| tables.value::<u8, _>(table(life(10), "v"), Fixed)).unwrap_err();
    assert_eq!(refused.kind(), crate::ErrorKind::Config);
    assert!(refused.to_string().contains("`v`"), "{refused}");
}

#[test]
fn a_ttl_can_change_before_any_watermark() {
    let (mut lab, mut value) = value_lab(life(10).in_event_time());
    lab.put("k", &value, 1);
    lab.seal(false);
    assert_eq!(lab.now.0, Timestamp::MIN);
    value = lab.restart_with(life(20).in_event_time());
    assert_eq!(lab.get(&value), Some(1));
    value = lab.restart_with(None);
    assert_eq!(lab.get(&value), Some(1));
}
