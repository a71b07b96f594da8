//! Declarations over stored tables.

use super::Lab;
use crate::ErrorKind;
use crate::backend::{TableOptions, Tables, TtlConfig};
use crate::codec::schema::Schema;
use crate::codec::typed::{Fixed, Utf8};
use crate::error::{Error, Result};

/// Returns the error of `declare` over the stored tables `v` (value), `m` (map) and `r` (reducing).
fn refused<H: std::fmt::Debug>(declare: impl FnOnce(&mut Tables) -> Result<H>) -> Error {
    let mut lab = Lab::new();
    lab.state.value::<u64, _>("v", Fixed).unwrap();
    lab.state.map::<String, u64, _, _>("m", Utf8, Fixed).unwrap();
    lab.state.reducing("r", Fixed, "sum", |a: u64, b| a + b).unwrap();
    lab.restart(declare).unwrap_err()
}

#[test]
fn a_restored_table_keeps_its_id_and_its_type() {
    let mut lab = Lab::new();
    let _a = lab.state.value::<u64, _>("a", Fixed).unwrap();
    let b = lab.state.list("b", Utf8).unwrap();
    let id = b.table();
    assert_eq!(lab.state.value("a", Utf8).unwrap_err().kind(), ErrorKind::Usage, "twice");
    assert_eq!(lab.state.list("a", Utf8).unwrap_err().kind(), ErrorKind::Usage, "twice, as another kind");
    b.add(&mut lab.state, &"x".to_owned()).unwrap();
    lab.seal(false);
    let (b, c) = lab
        .restart(|tables| {
            assert_eq!(tables.value("a", Utf8).unwrap_err().kind(), ErrorKind::Config);
            let b = tables.list("b", Utf8)?;
            Ok((b, tables.value::<u8, _>("c", Fixed)?))
        })
        .unwrap();
    assert_eq!(b.table(), id);
    assert_ne!(c.table(), id);
    assert_eq!(lab.state.tables().schemas().len(), 3, "a table that is not declared again stays listed");
    assert_eq!(b.read(&mut lab.state).unwrap(), ["x"]);
}

#[test]
fn another_type_is_refused_and_both_are_named() {
    let parts = |error: Error, parts: &[&str]| {
        assert_eq!(error.kind(), ErrorKind::Config, "{error}");
        for part in parts {
            assert!(error.to_string().contains(part), "{error} lacks {part}");
        }
    };
    parts(refused(|t| t.value::<i64, _>("v", Fixed)), &["`v`", "u64le v1", "i64le v1"]);
    parts(refused(|t| t.list::<u64, _>("v", Fixed)), &["`v`", "Value(", "List("]);
    parts(refused(|t| t.map::<u8, u64, _, _>("m", Fixed, Fixed)), &["`m`", "utf8 v1, u64le v1", "u8 v1, u64le v1"]);
    let by_window = TableOptions::new("v").namespaced(Schema::new("ordered:i64"));
    parts(refused(|t| t.value::<u64, _>(by_window, Fixed)), &["`v`", "ordered:i64"]);
    parts(refused(|t| t.reducing("r", Fixed, "max", |a: u64, b| a.max(b))), &["`r`", "`sum`", "`max`"]);
    let mut lab = Lab::new();
    lab.state.value::<u64, _>("v", Fixed).unwrap();
    let schemas = lab.state.tables().schemas().to_vec();
    let times = crate::backend::CheckpointTimes { event_time: lab.now.0, processing_time: lab.now.1 };
    let mut other_key = Tables::restored(Schema::new("bytes"), schemas, times);
    parts(other_key.value::<u64, _>("v", Fixed).unwrap_err(), &["utf8 v1", "bytes v1"]);
}

#[test]
fn a_refused_declaration_changes_nothing() {
    let mut lab = Lab::new();
    lab.state.value::<u64, _>("v", Fixed).unwrap();
    let before = lab.state.tables().schemas().to_vec();
    lab.restart(|tables| {
        assert!(tables.value("v", Utf8).is_err());
        let never = TtlConfig::new(std::time::Duration::ZERO);
        assert_eq!(tables.value("n".repeat(5000), Utf8).unwrap_err().kind(), ErrorKind::Usage);
        assert_eq!(
            tables.value::<u8, _>(TableOptions::new("n").ttl(never), Fixed).unwrap_err().kind(),
            ErrorKind::Config
        );
        assert_eq!(tables.schemas(), before);
        tables.value::<u64, _>("v", Fixed)
    })
    .unwrap();
}

#[test]
fn a_restored_table_can_be_renamed() {
    let mut lab = Lab::new();
    lab.state.rename("a", "b").unwrap();
    let a = lab.state.value("a", Fixed).unwrap();
    let id = a.table();
    a.put(&mut lab.state, &7u8).unwrap();
    lab.seal(false);
    for _restart in 0..2 {
        let b = lab
            .restart(|tables| {
                assert_eq!(tables.rename("x", "y").unwrap_err().kind(), ErrorKind::Config, "neither");
                tables.rename("a", "b")?;
                let b = tables.value::<u8, _>("b", Fixed)?;
                assert_eq!(tables.rename("b", "c").unwrap_err().kind(), ErrorKind::Usage, "in use");
                Ok(b)
            })
            .unwrap();
        assert_eq!((b.table(), b.read(&mut lab.state).unwrap()), (id, Some(7)));
        assert_eq!(lab.state.tables().schemas()[0].name, "b");
    }
    // The table keeps the id that is the hash of its old name.
    refused_for(lab.state.value::<u8, _>("a", Fixed).unwrap_err(), ["`a`", "`b`"]);
    lab.state.value::<u8, _>("c", Fixed).unwrap();
    let both = lab.restart(|tables| tables.rename("b", "c")).unwrap_err();
    assert_eq!(both.kind(), ErrorKind::Config);
}

fn refused_for(error: Error, names: [&str; 2]) {
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    assert!(names.iter().all(|name| error.to_string().contains(name)), "{error} lacks one of {names:?}");
}

#[test]
fn ids_do_not_depend_on_the_order_of_declaration() {
    let ids = |names: [&'static str; 3]| {
        let mut tables = Tables::new(Schema::new("utf8"));
        let mut ids = names.map(|name| (name, tables.value::<u8, _>(name, Fixed).unwrap().table()));
        ids.sort_unstable();
        ids
    };
    let sorted = ids(["a", "b", "c"]);
    for names in [["c", "b", "a"], ["b", "c", "a"]] {
        assert_eq!(ids(names), sorted);
    }
    // The hash must not change: processes of several builds may run one job.
    assert_eq!(sorted.map(|(_, id)| id.0), [363_059_444, 1_028_634_069, 426_264_139]);
}

#[test]
fn names_with_colliding_ids_are_refused_and_both_are_named() {
    let mut seen = std::collections::BTreeMap::new();
    let names = (0u32..).map(|n| n.to_string());
    let collision = names.map(|name| (super::super::tables::id_of(&name), name));
    let [first, second] =
        collision.into_iter().find_map(|(id, name)| Some([seen.insert(id, name.clone())?, name])).unwrap();
    let mut lab = Lab::new();
    lab.state.value::<u8, _>(first.as_str(), Fixed).unwrap();
    refused_for(lab.state.value::<u8, _>(second.as_str(), Fixed).unwrap_err(), [&first, &second]);
    let over_stored = lab.restart(|tables| tables.value::<u8, _>(second.as_str(), Fixed)).unwrap_err();
    refused_for(over_stored, [&first, &second]);
    // A stored table keeps its id even if a new name hashes to it.
    lab.restart(|tables| tables.value::<u8, _>(first.as_str(), Fixed)).unwrap();
}
