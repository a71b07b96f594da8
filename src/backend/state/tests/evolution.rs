//! Stored values of older versions under newer codecs.

use std::time::Duration;

use super::Lab;
use crate::ErrorKind;
use crate::backend::{StateBackend, TableOptions, Tables, TtlConfig};
use crate::codec::schema::Schema;
use crate::codec::typed::{At, Codec, Fixed, Migrating, Utf8};
use crate::error::{Error, Result};
use crate::id::{Epoch, Part};
use crate::key_group::KeyGroupSet;
use crate::row::{Cut, SegmentKind};

/// Version 2: `u32`, and version 1 was `u16`.
fn second() -> Migrating<u32, At<Fixed>> {
    Migrating::new(At::new(Fixed, 2)).from(Fixed, |old: u16| u32::from(old)).unwrap()
}

/// Version 3: `u64`; version 2 was `u32`, version 1 `u16`.
fn third() -> Migrating<u64, At<Fixed>> {
    let codec = Migrating::new(At::new(Fixed, 3)).from(At::new(Fixed, 2), |old: u32| u64::from(old)).unwrap();
    codec.from(Fixed, |old: u16| u64::from(old)).unwrap()
}

#[test]
fn values_migrate_when_written_and_at_the_next_base() {
    let mut lab = Lab::new();
    let first = lab.state.value("v", Fixed).unwrap();
    for key in ["a", "b", "c"] {
        lab.state.set_key(key.as_bytes()).unwrap();
        first.put(&mut lab.state, &258u16).unwrap();
    }
    assert_eq!(lab.seal(false)[0], "a//=\\x02\\x01");
    for _restart in 0..3 {
        let value = lab.restart(|tables| tables.value("v", second())).unwrap();
        for key in ["a", "b", "c"] {
            lab.state.set_key(key.as_bytes()).unwrap();
            assert_eq!(value.read(&mut lab.state).unwrap(), Some(258), "{key}");
        }
        assert_eq!(lab.seal(false), [""; 0], "reading writes nothing");
        lab.state.set_key(b"a").unwrap();
        value.put(&mut lab.state, &258).unwrap();
        assert_eq!(lab.seal(false), ["a//=\\x02\\x01\\x00\\x00 v2"]);
    }
    let value = lab.restart(|tables| tables.value("v", third())).unwrap();
    lab.state.set_key(b"c").unwrap();
    assert_eq!(value.read(&mut lab.state).unwrap(), Some(258));
    let base = lab.seal(true);
    assert_eq!(base, ["a", "b", "c"].map(|key| format!("{key}//=\\x02\\x01{} v3", "\\x00".repeat(6))));
    let value = lab.restart(|tables| tables.value::<u64, _>("v", At::new(Fixed, 3))).unwrap();
    lab.state.set_key(b"c").unwrap();
    assert_eq!(value.read(&mut lab.state).unwrap(), Some(258), "the base holds no older version");
}

#[test]
fn a_codec_that_cannot_read_stored_rows_is_refused_before_the_load() {
    let mut lab = Lab::new();
    lab.state.value("v", third()).unwrap();
    let mut refused = |declare: &dyn Fn(&mut Tables) -> Result<()>, parts: [&str; 2]| {
        let error = lab.restart(declare).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        for part in parts {
            assert!(error.to_string().contains(part), "{error} lacks {part}");
        }
    };
    refused(&|t| t.value("v", second()).map(drop), ["u64le v3", "u32le v2"]);
    refused(&|t| t.value::<u64, _>("v", At::new(Fixed, 4)).map(drop), ["u64le v3", "u64le v4"]);
    refused(&|t| t.value("v", At::new(Utf8, 3)).map(drop), ["u64le v3", "utf8 v3"]);
    let renamed = |t: &mut Tables| {
        t.rename("v", "w")?;
        t.value("w", Utf8).map(drop)
    };
    refused(&renamed, ["`w`", "utf8 v1"]);
}

#[test]
fn a_row_of_an_unreadable_version_fails_the_load() {
    let mut lab = Lab::new();
    let first = lab.state.value("v", Fixed).unwrap();
    first.put(&mut lab.state, &1u16).unwrap();
    lab.seal(false);
    lab.restart(|tables| tables.value("v", second())).unwrap();
    // The table has version 2 by now, its row still version 1, and the codec of version 3 reads only 2.
    let forgetful = Migrating::new(At::new(Fixed, 3)).from(At::new(Fixed, 2), |old: u32| u64::from(old)).unwrap();
    let mut tables = lab.restored_tables();
    tables.value("v", forgetful).unwrap();
    let loaded = Lab::try_over(tables, lab.segments, lab.epoch, lab.now);
    assert_eq!(loaded.unwrap_err().kind(), ErrorKind::Version);
}

#[test]
fn a_list_may_hold_elements_of_several_versions() {
    let mut lab = Lab::new();
    let first = lab.state.list("l", Fixed).unwrap();
    first.add_all(&mut lab.state, &[1u16, 2]).unwrap();
    lab.seal(false);
    let second = lab.restart(|tables| tables.list("l", second())).unwrap();
    second.add(&mut lab.state, &3).unwrap();
    assert_eq!(second.read(&mut lab.state).unwrap(), [1, 2, 3]);
    assert_eq!(lab.seal(false), ["k//+\\x04\\x03\\x00\\x00\\x00 v2"]);
    let third = lab.restart(|tables| tables.list("l", third())).unwrap();
    third.add(&mut lab.state, &4).unwrap();
    assert_eq!(third.read(&mut lab.state).unwrap(), [1, 2, 3, 4]);
    let base = lab.seal(true);
    let element = |n| format!("\\x08\\x0{n}{}", "\\x00".repeat(7));
    assert_eq!(base, [format!("k//={} v3", [1, 2, 3, 4].map(element).concat())]);
}

#[test]
fn elements_of_several_versions_expire_one_by_one() {
    let ttl = TtlConfig::new(Duration::from_millis(10));
    let options = || TableOptions::new("l").ttl(ttl);
    let mut lab = Lab::new();
    let first = lab.state.list(options(), Fixed).unwrap();
    first.add(&mut lab.state, &1u16).unwrap();
    lab.at(5);
    first.add(&mut lab.state, &2).unwrap();
    lab.seal(false);
    let second = lab.restart(|tables| tables.list(options(), second())).unwrap();
    lab.at(8);
    second.add(&mut lab.state, &3).unwrap();
    assert_eq!(second.read(&mut lab.state).unwrap(), [1, 2, 3]);
    lab.at(10);
    assert_eq!(second.read(&mut lab.state).unwrap(), [2, 3]);
    assert_eq!(lab.seal(true), ["k//+\\x04\\x03\\x00\\x00\\x00 @8 v2", "k//=\\x04\\x02\\x00\\x00\\x00 @5 v2"]);
    lab.at(15);
    assert_eq!(second.read(&mut lab.state).unwrap(), [3]);
}

#[test]
fn operands_of_older_versions_merge_with_newer_ones() {
    let mut lab = Lab::new();
    let first = lab.state.reducing("r", Fixed, "sum", |a: u16, b| a + b).unwrap();
    first.add(&mut lab.state, &1).unwrap();
    lab.seal(false);
    first.add(&mut lab.state, &2).unwrap();
    assert_eq!(lab.seal(false), ["k//+\\x02\\x00"]);
    let sum = lab.restart(|tables| tables.reducing("r", second(), "sum", |a: u32, b| a + b)).unwrap();
    sum.add(&mut lab.state, &70_000).unwrap();
    assert_eq!(lab.seal(false), ["k//+p\\x11\\x01\\x00 v2"]);
    assert_eq!(sum.read(&mut lab.state).unwrap(), Some(70_003));
    assert_eq!(lab.seal(true), ["k//=s\\x11\\x01\\x00 v2"]);
}

#[test]
fn maps_migrate_entry_by_entry() {
    let mut lab = Lab::new();
    let first = lab.state.map("m", Utf8, Fixed).unwrap();
    for sub in ["a", "b"] {
        first.put(&mut lab.state, &sub.to_owned(), &1u16).unwrap();
    }
    lab.seal(false);
    let second = lab.restart(|tables| tables.map("m", Utf8, second())).unwrap();
    second.put(&mut lab.state, &"c".to_owned(), &2).unwrap();
    second.retain(&mut lab.state, |_, _| true).unwrap();
    assert_eq!(second.values(&mut lab.state).unwrap(), [1, 1, 2]);
    assert_eq!(
        lab.seal(false),
        ["k//c=\\x02\\x00\\x00\\x00 v2"],
        "visited entries that do not change stay as they are"
    );
}

/// Version 2: `u32`; version 1 was its digits as text.
#[derive(Debug, Clone)]
struct Numbers;

impl Codec<u32> for Numbers {
    fn schema(&self) -> Schema {
        Schema { name: "numbers".into(), version: 2 }
    }

    fn encode(&self, value: &u32, out: &mut Vec<u8>) -> Result<()> {
        Fixed.encode(value, out)
    }

    fn decode(&self, bytes: &[u8]) -> Result<u32> {
        Fixed.decode(bytes)
    }

    fn decode_version(&self, version: u32, bytes: &[u8]) -> Result<u32> {
        if version == 2 {
            return self.decode(bytes);
        }
        let text = Utf8.decode(bytes)?;
        text.parse().map_err(|source| Error::corrupt("not a number").with_source(source))
    }

    fn reads_version(&self, schema: &Schema) -> bool {
        schema.name == "utf8" || *schema == self.schema()
    }
}

#[test]
fn a_value_that_cannot_migrate_fails_the_base_and_nothing_else() {
    let mut lab = Lab::new();
    let first = lab.state.value("v", Utf8).unwrap();
    for (key, value) in [("a", "1"), ("b", "no number")] {
        lab.state.set_key(key.as_bytes()).unwrap();
        first.put(&mut lab.state, &value.to_owned()).unwrap();
    }
    lab.seal(false);
    // The load precedes the declaration, so the load does not migrate rows.
    lab.restart(|_| Ok(())).unwrap();
    let second = lab.state.value("v", Numbers).unwrap();
    lab.state.set_key(b"b").unwrap();
    assert_eq!(second.read(&mut lab.state).unwrap_err().kind(), ErrorKind::Corrupt);
    lab.state.set_key(b"a").unwrap();
    assert_eq!(second.read(&mut lab.state).unwrap(), Some(1));
    let backend = lab.state.backend_mut();
    let cut = Cut { epoch: Epoch(9), part: Part(0), event_time: lab.now.0, processing_time: lab.now.1 };
    let sealed = backend.seal(cut, &KeyGroupSet::all(super::GROUPS)).unwrap();
    assert_eq!(sealed.parts[0].kind, SegmentKind::Base);
    assert_eq!(sealed.parts[0].folded().unwrap_err().kind(), ErrorKind::Corrupt);
    lab.state.set_key(b"b").unwrap();
    second.clear(&mut lab.state).unwrap();
    lab.epoch = 9;
    assert_eq!(lab.seal(true), ["a//=\\x01\\x00\\x00\\x00 v2"]);
}
