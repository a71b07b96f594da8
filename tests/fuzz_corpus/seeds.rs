//! Good inputs: golden files, and cases of the structured targets.

use std::fs;
use std::path::Path;

use alluvium::internals::codec::bytes::put_u16;
use alluvium::internals::segment::SegmentIndex;
use alluvium::internals::wire::encode;
use alluvium_testkit::messages;
use bytes::Bytes;

use super::Inputs;

pub(crate) fn golden(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1").join(name)).unwrap()
}

/// Returns fixed pseudo-random bytes.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        state.to_be_bytes()[0]
    };
    (0..length).map(|_| next()).collect()
}

pub(crate) fn all() -> Inputs {
    let mut inputs = stored();
    inputs.extend(texts());
    inputs
}

/// Returns the seeds made of golden files, and noise.
fn stored() -> Inputs {
    let mut inputs = Inputs::new();
    let mut add = |target: &str, name: &str, bytes: Vec<u8>| drop(inputs.insert(format!("{target}/{name}"), bytes));
    for (target, names) in [
        ("segment", &["base.segment", "delta.segment", "places.segment", "timers.segment"][..]),
        ("pack", &["data.pack"]),
        ("manifest", &["attempt.marker", "checkpoint.manifest", "claim.manifest", "subtask.manifest"]),
        ("envelope", &["attempt.marker", "claim.manifest", "data.pack"]),
    ] {
        names.iter().for_each(|name| add(target, &format!("golden-{name}"), golden(name)));
    }
    for name in ["base.segment", "delta.segment", "places.segment", "timers.segment"] {
        let whole = golden(name);
        let index = SegmentIndex::find(&whole, None).unwrap();
        let start = usize::try_from(index.offset()).unwrap();
        add("segment_index", &format!("golden-{name}"), whole[start..whole.len() - 16].to_vec());
        let block = index.blocks()[0];
        let stored = &whole[16..16 + block.length as usize];
        let compressed = stored[0];
        let mut case = vec![if compressed == 1 { 1 | 2 << 3 } else { 2 }];
        let told = [u16::try_from(block.rows).unwrap(), block.first.0, block.last.0];
        told.into_iter().for_each(|number| put_u16(&mut case, number));
        case.extend_from_slice(&stored[16..stored.len() - 4]);
        add("block", &format!("golden-{name}"), case);
    }
    let message = |(name, bytes): (&str, Bytes)| add("message", &format!("golden-{name}"), bytes.to_vec());
    let to_owner = messages::to_owner().into_iter().map(|(name, message)| (name, encode(&message)));
    let to_worker = messages::to_worker().into_iter().map(|(name, message)| (name, encode(&message)));
    to_owner.chain(to_worker).for_each(message);
    for target in ["backend", "codecs", "decisions", "operator_state", "restore", "session"] {
        add(target, "nothing", Vec::new());
        for (seed, length) in [(1, 40), (2, 200), (3, 900), (4, 2500)] {
            add(target, &format!("noise-{length}"), noise(seed, length));
        }
    }
    inputs
}

/// Returns the seeds that are text: types, names, inputs, flags.
fn texts() -> Inputs {
    let mut inputs = Inputs::new();
    let mut add = |target: &str, name: &str, bytes: Vec<u8>| drop(inputs.insert(format!("{target}/{name}"), bytes));
    for (name, text) in [
        ("plain", "utf8\nabc"),
        ("ordered", "ordered:tuple<i64,option<utf8>,bytes>\n\u{1}2345678\u{1}a\u{0}\u{0}rest"),
        ("list", "list<tuple<u8,utf8>>\n\u{2}\u{3}\u{1}7a\u{3}\u{1}8b"),
        ("postcard", "postcard:struct<a:u64,b:enum<x:unit,y:list<bytes>>>\n\u{7}\u{1}\u{1}\u{2}ab"),
        ("opaque", "tuple<opaque:serde:shop.Tree@4,u16le@2>\n\u{2}ab12"),
    ] {
        add("schema", name, text.as_bytes().to_vec());
    }
    let id = "ab".repeat(16);
    let names =
        format!("job-1.x\n00000000000000000012\n7-{id}\n{id}\ns3://bucket/prefix\nmemory:///\n7-{id}.tmp\na b%2f");
    add("names", "names", names.into_bytes());
    let csv = "k,v,w,t\na,1,x,14\n\n\"b\nc\",-2,NA,9\nd,,\"\",25\n";
    let jsonl = "{\"k\":\"a\",\"v\":1,\"w\":\"x\",\"t\":14}\n{\"k\":2,\"t\":\"2023-05-28 19:58:53.260\"}\n";
    for choice in 0..4u8 {
        add("input", &format!("csv-{choice}"), [&[choice << 2, 1], csv.as_bytes()].concat());
        add("input", &format!("jsonl-{choice}"), [&[choice << 2 | 1, 1], jsonl.as_bytes()].concat());
    }
    add("input", "zst", [&[3, 1], zstd::encode_all(jsonl.as_bytes(), 1).unwrap().as_slice()].concat());
    for (name, text) in [
        ("run", "--input in.csv --key a,b --agg count,min:v --window tumbling:30d --time t --lateness 5m"),
        ("times", "2023-05-28 19:58:53.260\n1685303933260\n-1\n2023-05-28T19:58:53+02:00"),
        (
            "state",
            "{\"records\":1,\"offset\":9,\"line\":2,\"check\":\"nothing\",\"bad_records\":0,\"late_records\":0,\"kinds\":{\"v\":\"integer\"},\"watermark\":null}",
        ),
        (
            "program",
            "{\"input\":\"a.csv\",\"format\":\"csv\",\"key\":[\"k\"],\"agg\":[\"count\"],\"window\":null,\"on_bad_record\":\"fail\",\"emit\":\"end\"}",
        ),
    ] {
        add("flags", name, text.as_bytes().to_vec());
    }
    inputs
}
