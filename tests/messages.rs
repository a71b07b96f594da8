//! Messages between an owner and its workers as bytes: golden files, and bytes that must be refused.
//!
//! As `tests/golden.rs`: the current code must produce each file byte for byte; a different one is written beside it as
//! `.proposed`.

use std::fs;
use std::path::PathBuf;

use alluvium::internals::codec::bytes::{put_checksum, put_u16, put_u32};
use alluvium::internals::wire::{Body, Envelope, MAX_MESSAGE_BYTES, ToOwner, ToWorker, decode, encode};
use alluvium::interval::{LoadSample, Observation};
use alluvium::manifest::Hash;
use alluvium::{ErrorKind, Result, SessionId};
use alluvium_testkit::messages::{self, acknowledge, envelope};
use bytes::Bytes;

/// A message: its bytes, and a reader that returns the value as text.
struct Case {
    name: String,
    written: Bytes,
    value: String,
    read: fn(&[u8]) -> Result<String>,
    read_as_other: fn(&[u8]) -> Result<String>,
}

fn read<M: Body + std::fmt::Debug>(bytes: &[u8]) -> Result<String> {
    decode::<M>(bytes).map(|message| format!("{message:?}"))
}

fn cases() -> Vec<Case> {
    let to_owner = messages::to_owner().into_iter().map(|(name, message)| Case {
        name: format!("{name}.message"),
        written: encode(&message),
        value: format!("{message:?}"),
        read: read::<ToOwner>,
        read_as_other: read::<ToWorker>,
    });
    let to_worker = messages::to_worker().into_iter().map(|(name, message)| Case {
        name: format!("{name}.message"),
        written: encode(&message),
        value: format!("{message:?}"),
        read: read::<ToWorker>,
        read_as_other: read::<ToOwner>,
    });
    to_owner.chain(to_worker).collect()
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn golden_messages_are_reproduced_and_decoded() {
    let mut differing = Vec::new();
    for Case { name, written, value, read, .. } in cases() {
        let path = root().join("tests/golden/v1").join(&name);
        let stored = fs::read(&path).unwrap_or_default();
        if stored == written {
            assert_eq!(read(&stored).unwrap(), value, "{name}");
        } else {
            fs::write(path.with_extension("message.proposed"), &written).unwrap();
            differing.push(name);
        }
    }
    assert!(
        differing.is_empty(),
        "the writer differs from {differing:?}: compare with the .proposed files beside them"
    );
}

#[test]
fn the_page_on_messages_matches_their_source() {
    let document = fs::read_to_string(root().join("docs/wire.md")).unwrap();
    let source = "src/job/wire/proto.rs";
    let hash = Hash::of(&fs::read(root().join(source)).unwrap());
    let line = format!("`{source}` {hash}");
    assert!(document.contains(&line), "check docs/wire.md against {source}, then write there: {line}");
}

#[test]
fn every_flip_and_every_cut_is_detected() {
    for Case { name, written, read, .. } in cases() {
        for at in 0..written.len() {
            for bit in 0..8 {
                let mut flipped = written.to_vec();
                flipped[at] ^= 1 << bit;
                assert_eq!(read(&flipped).unwrap_err().kind(), ErrorKind::Corrupt, "{name}: byte {at}, bit {bit}");
            }
            assert_eq!(read(&written[..at]).unwrap_err().kind(), ErrorKind::Corrupt, "{name}: cut at {at}");
        }
        let longer = [&written[..], &[0]].concat();
        assert_eq!(read(&longer).unwrap_err().kind(), ErrorKind::Corrupt, "{name}: an extra byte");
    }
}

#[test]
fn a_message_of_the_other_direction_is_refused() {
    for Case { name, written, read_as_other, .. } in cases() {
        assert_eq!(read_as_other(&written).unwrap_err().kind(), ErrorKind::Usage, "{name}");
    }
}

/// Returns a frame around `body`, with a valid checksum.
fn frame(version: u16, flags: u16, length: u32, body: &[u8]) -> Vec<u8> {
    let mut out = b"ALMS".to_vec();
    put_u16(&mut out, version);
    put_u16(&mut out, flags);
    put_u32(&mut out, length);
    out.extend_from_slice(body);
    put_checksum(&mut out, 0);
    out
}

fn framed(body: &[u8]) -> Vec<u8> {
    frame(1, 0, u32::try_from(body.len()).unwrap(), body)
}

/// Returns the protobuf body of a message.
fn body_of(written: &[u8]) -> &[u8] {
    &written[12..written.len() - 4]
}

#[test]
fn other_versions_flags_and_kinds_are_refused_as_such() {
    for Case { name, written, read, .. } in cases() {
        let body = body_of(&written);
        let length = u32::try_from(body.len()).unwrap();
        assert_eq!(framed(body), written, "{name}");
        for (version, flags) in [(0, 0), (2, 0), (u16::MAX, 0), (1, 1), (1, 0x8000)] {
            let error = read(&frame(version, flags, length, body)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Version, "{name}: version {version}, flags {flags}");
        }
    }
    // The identity alone, and with a body of a number that no kind has.
    let hello = encode(&messages::to_worker().pop().unwrap().1);
    let identity: &[u8] = &body_of(&hello)[..18 + 2 + 18];
    let unknown = [identity, &[0xc2, 0x02, 0]].concat();
    for body in [identity, &unknown] {
        assert_eq!(read::<ToOwner>(&framed(body)).unwrap_err().kind(), ErrorKind::Version);
        assert_eq!(read::<ToWorker>(&framed(body)).unwrap_err().kind(), ErrorKind::Version);
    }
}

#[test]
fn a_length_that_is_a_lie_is_refused_before_anything_is_reserved() {
    for length in [1, 1 << 20, u32::MAX] {
        let error = read::<ToOwner>(&frame(1, 0, length, &[])).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{length}");
    }
    let error = read::<ToOwner>(&vec![0; MAX_MESSAGE_BYTES + 1]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Limit);
}

/// The lists of messages: the path of fields, and the shortest element.
const LISTS: [(&[u32], &[u8]); 12] = [
    (&[12], &[2 << 3 | 2, 0]),
    (&[13], &[2 << 3 | 2, 0]),
    (&[13], &[3 << 3 | 2, 0]),
    (&[13], &[4 << 3 | 2, 0]),
    (&[13, 2, 2, 1], &[4 << 3 | 2, 0]),
    (&[13, 2, 3], &[1 << 3 | 2, 0]),
    (&[13, 2], &[4 << 3 | 2, 0]),
    (&[13, 2], &[5 << 3 | 2, 0]),
    (&[30], &[9 << 3 | 2, 0]),
    (&[30, 9], &[4 << 3, 0]),
    (&[30, 9], &[6 << 3 | 2, 0]),
    (&[30, 9], &[9 << 3 | 2, 0]),
];

/// Returns a body that repeats one field nested at `path`.
fn repeated(path: &[u32], field: &[u8], length: usize) -> Vec<u8> {
    use alluvium::internals::codec::bytes::{put_length, put_varint};
    let mut body = field.repeat(length / field.len());
    for tag in path.iter().rev() {
        let mut outer = Vec::new();
        put_varint(&mut outer, u64::from(*tag) << 3 | 2);
        put_length(&mut outer, body.len());
        outer.extend_from_slice(&body);
        body = outer;
    }
    body
}

#[test]
fn lists_far_larger_in_memory_than_in_the_message_are_refused() {
    for (path, field) in LISTS {
        let error = read::<ToOwner>(&framed(&repeated(path, field, 18 << 20))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{path:?}");
        assert!(error.message().contains("too long"), "{path:?}: {error}");
    }
}

fn refused<M: Body + std::fmt::Debug>(body: M) -> ErrorKind {
    read::<M>(&encode(&envelope(body))).unwrap_err().kind()
}

#[test]
fn loads_and_pauses_that_no_worker_measures_are_refused() {
    let good = LoadSample { received: 1.0, processed: 1.0, ..LoadSample::default() };
    for bad in [f64::NAN, f64::INFINITY, -1.0] {
        for load in [
            LoadSample { received: bad, ..good },
            LoadSample { processed: bad, ..good },
            LoadSample { updates: Some(bad), ..good },
            LoadSample { busy: Some(bad), ..good },
            LoadSample { backlog: Some(bad), ..good },
        ] {
            assert_eq!(refused(ToOwner::Observed(Observation::Load(load))), ErrorKind::Corrupt, "{load:?}");
        }
        assert_eq!(refused(ToOwner::Observed(Observation::Paused(bad))), ErrorKind::Corrupt, "{bad}");
    }
    // What only the owner observes has no form on the wire.
    assert_eq!(refused(ToOwner::Observed(Observation::Aborted)), ErrorKind::Version);
}

#[test]
fn seats_and_sources_that_do_not_fit_their_operator_are_refused() {
    use alluvium::Subtask;
    use alluvium::internals::wire::Assign;
    let good = || match messages::to_worker().remove(0).1.body {
        ToWorker::Assign(assign) => assign,
        other => panic!("{other:?}"),
    };
    type Edit = fn(&mut Assign);
    let edits: [(&str, Edit); 11] = [
        ("a seat beyond the parallelism", |it| it.operators[0].seats.push(Subtask(3))),
        ("seats out of order", |it| it.operators[0].seats.reverse()),
        ("a seat twice", |it| it.operators[0].seats = vec![Subtask(0), Subtask(0)]),
        ("a source beyond the stored parallelism", |it| it.operators[0].stored_parallelism = 1),
        ("sources of an operator without state", |it| it.operators[0].stored_parallelism = 0),
        ("sources out of order", |it| it.operators[0].sources.reverse()),
        ("no subtasks", |it| it.operators[0].parallelism = 0),
        ("more subtasks than groups", |it| it.operators[0].parallelism = 9),
        ("no groups", |it| it.max_parallelism = 0),
        ("no groups and no seats", |it| (it.max_parallelism, it.operators) = (0, Vec::new())),
        ("too many groups", |it| it.max_parallelism = 32_769),
    ];
    for (name, edit) in edits {
        let mut assign = good();
        edit(&mut assign);
        assert_eq!(refused(ToWorker::Assign(assign)), ErrorKind::Corrupt, "{name}");
    }
}

#[test]
fn names_and_identities_of_a_wrong_length_are_refused() {
    let mut hello = messages::to_owner().remove(0).1;
    if let ToOwner::Hello(hello) = &mut hello.body {
        hello.host = "x".repeat(4097);
    }
    assert_eq!(read::<ToOwner>(&encode(&hello)).unwrap_err().kind(), ErrorKind::Corrupt);
    // A job of 15 bytes, a session of none, and an acknowledgement of nobody.
    let good = encode(&envelope(ToOwner::Acknowledge(Box::new(acknowledge()))));
    let body = body_of(&good);
    let short = [&[1 << 3 | 2, 15], &body[3..]].concat();
    let no_session = [&body[..20], &body[38..]].concat();
    let nobody = [&body[..38], &[13 << 3 | 2, 2, 2 << 3 | 2, 0]].concat();
    for body in [short, no_session, nobody] {
        assert_eq!(read::<ToOwner>(&framed(&body)).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}

#[test]
fn an_error_keeps_its_kind_its_text_and_whether_it_was_applied() {
    let text = encode(&messages::to_owner().remove(4).1);
    let Envelope { body: ToOwner::Decline(_, error), session, .. } = decode(&text).unwrap() else { panic!() };
    assert_eq!(session, SessionId([0x44; 16]));
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(error.applied(), alluvium::Applied::Unknown);
    assert_eq!(error.chain(), "upload failed: 403 key=`job/data/x`");
    let unknown = [&body_of(&text)[..38], &[0x8a, 1, 5, 1 << 3 | 2, 3, b'o', b'd', b'd']].concat();
    assert_eq!(read::<ToOwner>(&framed(&unknown)).unwrap_err().kind(), ErrorKind::Version);
}
