//! Inputs that targets must refuse: the first attempts of a hostile or broken writer, each named after its flaw.

mod manifest;
mod object;
mod segment;

use alluvium::internals::codec::bytes::{put_length_delimited, put_varint};

use super::Inputs;

/// An edit of a good file.
type Edit = fn(&mut Vec<u8>);

pub(crate) fn all() -> Inputs {
    let mut inputs = Inputs::new();
    let groups = [object::all(), manifest::all(), segment::all(), names(), tool()];
    for (target, name, bytes) in groups.into_iter().flatten() {
        let before = inputs.insert(format!("{target}/bad-{name}"), bytes);
        assert!(before.is_none(), "two inputs are named {name}");
    }
    inputs
}

type Named = Vec<(&'static str, String, Vec<u8>)>;

fn named<const N: usize>(target: &'static str, list: [(&str, Vec<u8>); N]) -> Named {
    list.into_iter().map(|(name, bytes)| (target, name.to_owned(), bytes)).collect()
}

fn edited<const N: usize>(target: &'static str, good: &[u8], list: [(&str, Edit); N]) -> Named {
    let edit = |(name, edit): (&str, Edit)| {
        let mut bytes = good.to_vec();
        edit(&mut bytes);
        (target, name.to_owned(), bytes)
    };
    list.into_iter().map(edit).collect()
}
/// Returns a length-delimited protobuf field.
fn field(tag: u64, bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let mut out = Vec::new();
    put_varint(&mut out, tag << 3 | 2);
    put_length_delimited(&mut out, bytes.as_ref());
    out
}

/// Returns a varint protobuf field.
fn number(tag: u64, value: u64) -> Vec<u8> {
    [varint(tag << 3), varint(value)].concat()
}

fn varint(value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    put_varint(&mut out, value);
    out
}

/// Invalid names.
fn names() -> Named {
    named(
        "names",
        [
            ("dot-dot", b"..".to_vec()),
            ("up-and-away", b"../../etc/passwd".to_vec()),
            ("absolute", b"/etc/passwd".to_vec()),
            ("backslash", br"a\b".to_vec()),
            ("nul", b"a\0b".to_vec()),
            ("percent-encoded", b"%2e%2e%2fx".to_vec()),
            ("look-alike", "a\u{2024}\u{2044}b".as_bytes().to_vec()),
            ("hidden", b".hidden".to_vec()),
            ("space-behind", b"job ".to_vec()),
            ("too-long", vec![b'x'; 129]),
            ("of-1025-bytes", vec![b'x'; 1025]),
            ("not-utf8", b"job\xff".to_vec()),
            ("url", b"https://host/x".to_vec()),
        ],
    )
}

/// Inputs of the tool, whose first two bytes choose format and flags.
fn tool() -> Named {
    let csv = |text: &[u8]| [&[0, 1], text].concat();
    let jsonl = |text: &str| [&[1, 1], text.as_bytes()].concat();
    let line = "{\"k\":\"a\",\"v\":1,\"w\":\"x\"}\n";
    let deep =
        |open: &str, close: &str| jsonl(&format!("{line}{{\"k\":{}1{}}}\n", open.repeat(20_000), close.repeat(20_000)));
    let gz = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 0xff, 0xff];
    named(
        "input",
        [
            ("csv-empty", csv(b"")),
            ("csv-without-the-columns", csv(b"a,b\n1,2\n")),
            ("csv-column-twice", csv(b"k,k,v,w\n1,2,3,4\n")),
            ("csv-too-few-cells", csv(b"k,v,w\na,1\n")),
            ("csv-too-many-cells", csv(b"k,v,w\na,1,x,y\n")),
            ("csv-not-utf8", csv(b"k,v,w\na\xff,1,x\n")),
            ("csv-kinds-mixed", csv(b"k,v,w\na,1,x\nb,y,x\n")),
            ("csv-quote-without-end", csv(b"k,v,w\na,\"1,x\nb,2,y\n")),
            ("csv-number-of-40-digits", csv(&[b"k,v,w\na,1,x\nb,", [b'9'; 40].as_slice(), b",x\n"].concat())),
            ("json-deep-lists", deep("[", "]")),
            ("json-deep-objects", deep("{\"a\":", "}")),
            ("json-cut", jsonl(&format!("{line}{{\"k\":"))),
            ("json-list", jsonl(&format!("{line}[1,2]\n"))),
            ("json-lone-surrogate", jsonl(&format!("{line}{{\"k\":\"\\ud800\"}}\n"))),
            ("json-byte-order-mark-inside", jsonl(&format!("{line}\u{feff}{line}"))),
            ("json-number-of-400-digits", jsonl(&format!("{line}{{\"k\":1,\"v\":1e400}}\n"))),
            ("json-garbage-behind", jsonl(&format!("{line}{} x\n", line.trim()))),
            ("json-nul", jsonl(&format!("{line}\0\n"))),
            ("gz-not-one", [&[2, 1], b"plain".as_slice()].concat()),
            ("gz-cut", [&[2, 1], gz.as_slice()].concat()),
            ("zst-not-one", [&[3, 1], b"plain".as_slice()].concat()),
            ("zst-window-log-31", [&[3, 1][..], &[0x28, 0xb5, 0x2f, 0xfd, 0, 21 << 3, 1, 0, 0]].concat()),
        ],
    )
}
