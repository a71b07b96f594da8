use super::*;
use crate::codec::typed::{Fixed, Raw, Utf8};
use crate::error::ErrorKind;
use crate::manifest::{OpaqueContent, Redistribution};

/// Restores subtask `subtask` from all opaques of `from`.
fn restored_from(from: &mut OperatorState, subtask: u32) -> OperatorState {
    OperatorState::restore(Subtask(subtask), &from.add_to(vec![]).unwrap()).unwrap()
}

fn names(state: &mut OperatorState) -> Vec<String> {
    state.add_to(vec![]).unwrap().into_iter().map(|opaque| opaque.name).collect()
}

fn assert_error(error: &Error, kind: ErrorKind, parts: &[&str]) {
    assert_eq!(error.kind(), kind, "{error}");
    parts.iter().for_each(|part| assert!(error.to_string().contains(part), "{error}"));
}

/// Returns a state of subtask 0 with one state of each kind and an empty list.
fn sample() -> OperatorState {
    let mut state = OperatorState::new(Subtask(0));
    let list = state.list("list", Fixed).unwrap();
    list.update(&mut state, &[1u64, 2]).unwrap();
    let union = state.union_list("union", Utf8).unwrap();
    union.add(&mut state, &"a".to_owned()).unwrap();
    let map = state.broadcast("map", Utf8, Fixed).unwrap();
    map.put(&mut state, &"k".to_owned(), &7u32).unwrap();
    let _empty = state.list("empty", Raw).unwrap();
    state
}

#[test]
fn another_type_is_refused_and_both_are_named() {
    let restored = || restored_from(&mut sample(), 0);
    let error = restored().list("list", Utf8).unwrap_err();
    assert_error(&error, ErrorKind::Config, &["`list`", "list(u64le v1)", "list(utf8 v1)"]);
    let error = restored().union_list::<u64, _>("list", Fixed).unwrap_err();
    assert_error(&error, ErrorKind::Config, &["`list(u64le v1)`", "union-list(u64le v1)"]);
    let error = restored().broadcast::<_, u64, _, _>("map", Utf8, Fixed).unwrap_err();
    assert_error(&error, ErrorKind::Config, &["broadcast(utf8 v1, u32le v1)", "broadcast(utf8 v1, u64le v1)"]);
    let error = restored().list("empty", Utf8).unwrap_err();
    assert_error(&error, ErrorKind::Config, &["list(bytes v1)", "list(utf8 v1)"]);

    let mut twice = restored();
    let _list = twice.list::<u64, _>("list", Fixed).unwrap();
    assert_error(&twice.list::<u64, _>("list", Fixed).unwrap_err(), ErrorKind::Usage, &["`list`"]);
    assert_error(&twice.broadcast("list", Utf8, Utf8).unwrap_err(), ErrorKind::Usage, &["`list`"]);
    let long = "x".repeat(MAX_NAME_BYTES - 30);
    assert!(twice.list("longest".to_owned().as_str(), Utf8).is_ok());
    assert!(twice.list(&long, Utf8).is_ok());
    assert_error(&twice.list(&"x".repeat(MAX_NAME_BYTES), Utf8).unwrap_err(), ErrorKind::Usage, &["too long", "4096"]);
}

#[test]
fn a_restore_finds_subtasks_that_disagree_about_a_type() {
    let mut state = OperatorState::new(Subtask(1));
    let list = state.list("list", Utf8).unwrap();
    list.add(&mut state, &"a".to_owned()).unwrap();
    let parts = [sample().add_to(vec![]).unwrap(), state.add_to(vec![]).unwrap()].concat();
    let mut both = OperatorState::restore(Subtask(0), &parts).unwrap();
    assert_error(&both.list::<u64, _>("list", Fixed).unwrap_err(), ErrorKind::Config, &["u64le", "utf8"]);
    assert_error(&both.list("list", Utf8).unwrap_err(), ErrorKind::Config, &["u64le", "utf8"]);
}

#[test]
fn each_state_is_written_by_the_subtasks_that_a_restore_reads() {
    let all = [
        "operator-state:list:1:5:u64le:list",
        "operator-state:union-list:1:4:utf8:union",
        "operator-state:broadcast:1:4:utf8:1:5:u32le:map",
        LABELS,
    ];
    assert_eq!(names(&mut sample()), all);
    // Not declared again: nothing is lost or doubled, whichever subtask restores.
    let mut carried = names(&mut restored_from(&mut sample(), 0));
    carried.sort();
    let mut expected = all.to_vec();
    expected.sort_unstable();
    assert_eq!(carried, expected);
    assert_eq!(names(&mut restored_from(&mut sample(), 1)), [all[0]]);
    // Declared again: each subtask writes its union list, subtask 0 alone the broadcast state.
    let mut declared = restored_from(&mut sample(), 1);
    let _union = declared.union_list("union", Utf8).unwrap();
    let map = declared.broadcast::<_, u32, _, _>("map", Utf8, Fixed).unwrap();
    assert_eq!(map.get(&declared, &"k".to_owned()).unwrap(), Some(7));
    assert_eq!(names(&mut declared), [all[1], all[0]]);
    assert_eq!(names(&mut OperatorState::new(Subtask(0))), [""; 0]);
}

#[test]
fn undeclared_state_is_carried_byte_for_byte() {
    let sorted = |state: &mut OperatorState| {
        let mut opaques = state.add_to(vec![]).unwrap();
        opaques.retain(|opaque| opaque.name != LABELS);
        opaques.sort_by(|a, b| a.name.cmp(&b.name));
        opaques
    };
    let written = sorted(&mut sample());
    assert_eq!(sorted(&mut restored_from(&mut restored_from(&mut sample(), 0), 0)), written);
    assert_eq!(written.len(), 3);
}

/// Encodes all numbers but 13, where it fails after a partial output.
#[derive(Debug, Clone)]
struct Picky;

impl Codec<u8> for Picky {
    fn schema(&self) -> Schema {
        Schema::new("picky")
    }

    fn encode(&self, value: &u8, out: &mut Vec<u8>) -> Result<()> {
        out.push(*value);
        if *value == 13 { Err(Error::usage("unlucky")) } else { Ok(()) }
    }

    fn decode(&self, bytes: &[u8]) -> Result<u8> {
        Fixed.decode(bytes)
    }
}

#[test]
fn a_codec_that_fails_changes_nothing() {
    let mut state = OperatorState::new(Subtask(0));
    let list = state.list("list", Picky).unwrap();
    let map = state.broadcast("map", Picky, Picky).unwrap();
    list.update(&mut state, &[1, 2]).unwrap();
    map.put(&mut state, &1, &2).unwrap();
    let before = state.add_to(vec![]).unwrap();
    assert!(list.add(&mut state, &13).is_err());
    assert!(list.update(&mut state, &[3, 13]).is_err());
    assert!(map.put(&mut state, &1, &13).is_err() && map.put(&mut state, &13, &1).is_err());
    assert!(map.remove(&mut state, &13).is_err() && map.contains(&state, &13).is_err());
    assert_eq!(state.add_to(vec![]).unwrap(), before);
    assert_eq!(list.get(&state).unwrap(), [1, 2]);
}

#[test]
fn a_handle_of_another_state_is_refused() {
    let mut state = sample();
    let (mut lists, mut maps) = (OperatorState::new(Subtask(0)), OperatorState::new(Subtask(0)));
    let list = lists.list::<u8, _>("a", Fixed).unwrap();
    let map = maps.broadcast::<u8, u8, _, _>("a", Fixed, Fixed).unwrap();
    for error in [
        map.put(&mut state, &1, &1).unwrap_err(),
        map.len(&lists).unwrap_err(),
        list.clear(&mut maps).unwrap_err(),
        list.get(&OperatorState::new(Subtask(0))).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Usage);
    }
}

#[test]
fn an_engine_cannot_use_names_of_operator_state() {
    let mut state = sample();
    for name in [LABELS, "operator-state:", "operator-state:list:1:5:u64le:list"] {
        let error = state.add_to(vec![Opaque::new(OpaqueRole::Operator, name, vec![])]).unwrap_err();
        assert_error(&error, ErrorKind::Usage, &[name]);
    }
    let engines =
        vec![Opaque::new(OpaqueRole::Source, LABELS, vec![]), Opaque::new(OpaqueRole::Operator, "list", vec![])];
    assert_eq!(state.add_to(engines.clone()).unwrap()[..2], engines);
}

#[test]
fn damaged_opaques_are_corrupt() {
    let good = sample().add_to(vec![]).unwrap();
    assert!(OperatorState::restore(Subtask(0), &good).is_ok());
    let refused = |at: usize, damage: &dyn Fn(&mut Opaque)| {
        let mut opaques = good.clone();
        damage(&mut opaques[at]);
        let error = OperatorState::restore(Subtask(0), &opaques).unwrap_err();
        assert_error(&error, ErrorKind::Corrupt, &[&opaques[at].name]);
    };
    let inline = |bytes: &'static [u8]| OpaqueContent::Inline(bytes.into());
    refused(0, &|opaque| opaque.name = opaque.name.replace(":5:", ":6:"));
    refused(0, &|opaque| opaque.item_offsets = vec![0, 99]);
    refused(0, &|opaque| opaque.redistribution = Redistribution::Union);
    refused(2, &|opaque| opaque.content = inline(b"\x01k\x09"));
    refused(3, &|opaque| opaque.content = inline(b"\xff\xff"));
    refused(3, &|opaque| opaque.item_offsets = vec![0, 7]);
    refused(3, &|opaque| (opaque.item_offsets, opaque.content) = (vec![], inline(b"")));

    // Bytes that encode no value of their type.
    let mut short = good;
    short[0].item_offsets = vec![0, 7];
    let mut state = OperatorState::restore(Subtask(0), &short).unwrap();
    let list = state.list::<u64, _>("list", Fixed).unwrap();
    assert_eq!(list.get(&state).unwrap_err().kind(), ErrorKind::Corrupt);
}
