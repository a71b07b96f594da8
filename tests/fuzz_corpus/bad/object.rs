//! Objects: envelopes, and the directory of packs.

use alluvium::internals::codec::bytes::{put_checksum, put_u32, put_u64};
use alluvium::internals::envelope;
use alluvium::internals::envelope::{ENVELOPE_HEADER_BYTES, ObjectKind};
use alluvium::manifest::PutId;

use super::super::seeds;
use super::{Edit, Named, edited, named, varint};
use alluvium_testkit::fuzz::object::PACK;
use alluvium_testkit::fuzz::seal;

pub(super) fn all() -> Named {
    [envelopes(), packs()].concat()
}

/// Envelopes: framing.
fn envelopes() -> Named {
    let good = seeds::golden("claim.manifest");
    let plain: [(&str, Edit); 16] = [
        ("empty", Vec::clear),
        ("one-byte", |o| o.truncate(1)),
        ("magic-only", |o| o.truncate(8)),
        ("magic-wrong", |o| o[0] = b'a'),
        ("magic-reversed", |o| o[..8].reverse()),
        ("magic-of-a-segment", |o| o[..4].copy_from_slice(b"ALSG")),
        ("header-cut", |o| o.truncate(ENVELOPE_HEADER_BYTES - 1)),
        ("header-only", |o| o.truncate(ENVELOPE_HEADER_BYTES)),
        ("last-byte-missing", |o| o.truncate(o.len() - 1)),
        ("garbage-behind", |o| o.push(0)),
        ("twice", |o| o.extend_from_within(..)),
        ("checksum-zero", |o| o.iter_mut().rev().take(4).for_each(|byte| *byte = 0)),
        ("header-checksum-zero", |o| o[44..48].fill(0)),
        ("all-zeros", |o| o.fill(0)),
        ("all-ones", |o| o.fill(0xff)),
        ("body-flipped", |o| o[60] ^= 1),
    ];
    let lengths = [
        ("length-0", 0),
        ("length-32-bits", u64::from(u32::MAX)),
        ("length-63-bits", 1 << 63),
        ("length-max", u64::MAX),
    ];
    let lengths = lengths.map(|(name, length)| {
        let mut object = good.clone();
        object[36..44].copy_from_slice(&length.to_le_bytes());
        (name, with_header_checksum(object))
    });
    let sealed: [(&str, Edit); 7] = [
        ("version-0", |o| o[10..12].fill(0)),
        ("version-2", |o| o[10] = 2),
        ("version-max", |o| o[10..12].fill(0xff)),
        ("kind-0", |o| o[8] = 0),
        ("kind-unknown", |o| o[8] = 9),
        ("reserved", |o| o[9] = 1),
        ("flag-unknown", |o| o[12] = 2),
    ];
    let mut signed = good.clone();
    signed[12] = 1;
    let mut all = edited("envelope", &good, plain);
    all.extend(named("envelope", lengths));
    all.extend(edited("envelope", &good, sealed).into_iter().map(|(t, name, bytes)| (t, name, seal::envelope(&bytes))));
    all.extend(named("envelope", [("mac-missing", with_header_checksum(signed))]));
    all
}

fn with_header_checksum(mut object: Vec<u8>) -> Vec<u8> {
    let mut header = object[..44].to_vec();
    put_checksum(&mut header, 0);
    object[..48].copy_from_slice(&header);
    object
}

/// Packs: the directory.
fn packs() -> Named {
    let mut other = seeds::golden("data.pack");
    other[ENVELOPE_HEADER_BYTES] ^= 1;
    let body = |body: &[u8]| envelope::encode(ObjectKind::Pack, PutId::default(), body).to_vec();
    let mut all = named(
        "pack",
        [
            ("another-pack", seal::pack(&other)),
            ("a-manifest", seeds::golden("claim.manifest")),
            ("body-empty", body(b"")),
            ("trailer-only", body(&[0; 16])),
            ("trailer-before-the-start", pack(&one(5), Some(0))),
            ("trailer-beyond-the-end", pack(&one(5), Some(1 << 20))),
            ("trailer-max", pack(&one(5), Some(u64::MAX))),
        ],
    );
    all.extend(named("pack", directories().map(|(name, directory)| (name, pack(&directory, None)))));
    all
}

/// Directories of a pack that holds five bytes.
fn directories() -> [(&'static str, Vec<u8>); 14] {
    [
        ("directory-empty", vec![]),
        ("count-40-bits", varint(1 << 40)),
        ("count-max", varint(u64::MAX)),
        ("count-too-small", varint(0)),
        ("count-overlong", [&[0x81, 0], opaque(5).as_slice()].concat()),
        ("count-of-11-bytes", vec![0x80; 11]),
        ("slice-too-long", one(6)),
        ("slice-too-short", one(4)),
        ("slice-max", one(u64::MAX)),
        ("slices-overflow", [varint(2), opaque(u64::MAX), opaque(u64::MAX)].concat()),
        ("slice-of-unknown-kind", [&[1, 9], 5u64.to_le_bytes().as_slice()].concat()),
        ("segment-of-kind-0", [&[1, 1], 5u64.to_le_bytes().as_slice(), &[0; 29]].concat()),
        ("entry-cut", vec![1; 21]),
        ("bytes-behind-the-directory", [one(5), vec![0]].concat()),
    ]
}

/// Returns an entry of a directory.
fn opaque(length: u64) -> Vec<u8> {
    [&[2], length.to_le_bytes().as_slice()].concat()
}

/// Returns a directory of one entry.
fn one(length: u64) -> Vec<u8> {
    [varint(1), opaque(length)].concat()
}

/// Returns a pack with five bytes and this directory; its trailer claims that the directory is at `offset`, if given.
fn pack(directory: &[u8], offset: Option<u64>) -> Vec<u8> {
    let mut body = [&PACK.attempt.0.to_le_bytes(), PACK.random.as_slice(), b"slice"].concat();
    let start = body.len();
    body.extend_from_slice(directory);
    put_u64(&mut body, offset.unwrap_or((ENVELOPE_HEADER_BYTES + start) as u64));
    put_u32(&mut body, u32::try_from(directory.len()).unwrap());
    put_checksum(&mut body, start);
    envelope::encode(ObjectKind::Pack, PutId::default(), &body).to_vec()
}
