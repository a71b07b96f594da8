use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::RngSeed;
use serde::Serialize;

use super::*;

fn decoded(name: &str, bytes: &[u8]) -> Option<String> {
    let ty = Type::parse(name).unwrap_or_else(|| panic!("{name}"));
    let value = decode_any(&ty, bytes).ok()?;
    assert_eq!(encode_any(&ty, &value).unwrap(), bytes, "{name}: {value}");
    Some(value.to_string())
}

#[test]
fn values_of_other_types_are_not_encoded() {
    let refused = |name: &str, value: Value<'_>| {
        let error = encode_any(&Type::parse(name).unwrap(), &value).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Usage, "{name}: {value}");
    };
    for name in ["u8", "ordered:u8", "postcard:u8"] {
        assert_eq!(encode_any(&Type::parse(name).unwrap(), &Value::Unsigned(255)).unwrap(), [255]);
        refused(name, Value::Unsigned(256));
        refused(name, Value::Signed(1));
    }
    for name in ["i16le", "ordered:i16", "postcard:i16"] {
        assert!(encode_any(&Type::parse(name).unwrap(), &Value::Signed(-32_768)).is_ok());
        refused(name, Value::Signed(32_768));
        refused(name, Value::Signed(-32_769));
    }
    refused("postcard:u16", Value::Unsigned(65_536));
    refused("f32le", Value::F64(1.0));
    refused("utf8", Value::Bytes(b"a"[..].into()));
    refused("tuple<u8,u8>", Value::Tuple(vec![Value::Unsigned(1)]));
    refused("ordered:tuple<u8,u8>", Value::Tuple(vec![Value::Unsigned(1)]));
    refused("postcard:struct<a:u8>", Value::Struct(vec![("b", Value::Unsigned(1))]));
    refused("postcard:enum<a:u8>", Value::Struct(vec![("b", Value::Unsigned(1))]));
    refused("option<u8>", Value::Unit);
}

#[test]
fn a_parsed_type_prints_its_name() {
    for name in [
        "unit",
        "bytes",
        "utf8",
        "u8",
        "i8",
        "u16le",
        "i128le",
        "f32le",
        "f64le",
        "ordered:u8",
        "ordered:i64",
        "ordered:f64",
        "ordered:tuple<i64,option<utf8>,bytes@2,unit>",
        "ordered:option<tuple<bool,f32>>",
        "ordered:tuple<u8,opaque:x:y%2c>",
        "bool",
        "option<list<tuple<bytes,postcard:struct<a:u8,b:tuple<u8,u8>>@3>>@4294967295>",
        "tuple<utf8@0,u64le@2>",
        "tuple<ordered:tuple<i64,i64@2>@7,opaque:avro:a.b/c-d_e%3c@2>",
        "opaque:",
        "postcard:u8",
        "postcard:tuple<u16,option<list<bytes>>,unit>",
        "postcard:struct<a:bool,b_2:struct<c:f32>>",
        "postcard:enum<int:i128,dec:f64,text:utf8,none:unit>",
    ] {
        assert_eq!(Type::parse(name).unwrap().to_string(), name);
    }
    let lists = |form: &str, count| format!("{form}{}u8{}", "list<".repeat(count), ">".repeat(count));
    for form in ["", "postcard:"] {
        assert!(Type::parse(&lists(form, 31)).is_some());
        assert_eq!(Type::parse(&lists(form, 32)), None, "too deep");
    }
    for name in ["", "u64", "u8le", "u24le", "postcard:", "postcard:u8 ", "postcard:list<>", "postcard:tuple<u8,>"] {
        assert_eq!(Type::parse(name), None, "{name}");
    }
    for name in ["avro:x", "postcard:struct<u8>", "postcard:list<u8", "postcard:list<u8>>", "postcard:é"] {
        assert_eq!(Type::parse(name), None, "{name}");
    }
    for name in ["ordered:", "ordered:i64le", "ordered:ordered:i64", "ordered:list<u8>", "ordered:tuple<u8,u16le>"] {
        assert_eq!(Type::parse(name), None, "{name}");
    }
    for name in ["tuple<>", "tuple<u8", "tuple<u8>>", "tuple<u8,>", "tuple<u8><u8>", "tuple<>u8<>", "tuple", "set<u8>"]
    {
        assert_eq!(Type::parse(name), None, "{name}");
    }
    for name in
        ["option<u8,u8>", "list<u8@1>", "list<u8@01>", "list<u8@>", "list<u8@4294967296>", "list<u8@+2>", "u8@2"]
    {
        assert_eq!(Type::parse(name), None, "{name}");
    }
    for name in ["list<serde:x>", "list<opaque:x y>", "opaque:<", "list< u8>", "list<u8@2@3>", "tuple<u8, u8>"] {
        assert_eq!(Type::parse(name), None, "{name}");
    }
}

#[test]
fn composed_names_hold_versions_and_unknown_names() {
    let name = |form: &str, parts: &[Schema]| Schema::composed(form, parts).name;
    let text = |version| Schema { version, ..Schema::new("utf8") };
    assert_eq!(name("tuple", &[text(1), text(2)]), "tuple<utf8,utf8@2>");
    let foreign = Schema { name: "avro:<é@1,%".into(), version: 0 };
    assert_eq!(name("list", std::slice::from_ref(&foreign)), "list<opaque:avro:%3c%c3%a9%401%2c%25@0>");
    let ordered = Schema::ordered("tuple", &[Schema::new("ordered:i64"), Schema::new("i64"), foreign]);
    assert_eq!(ordered.name, "ordered:tuple<i64,opaque:i64,opaque:avro:%3c%c3%a9%401%2c%25@0>");
    assert!(Type::parse(&ordered.name).is_some());
    // A part that nests too deep becomes an opaque name.
    let deep = (0..40).fold(Schema::unit(), |inner, _| Schema::composed("option", &[inner]));
    assert!(deep.name.starts_with("option<option<option<") && deep.name.contains("<opaque:option%3c"));
    assert!(Type::parse(&deep.name).is_some());
}

#[test]
fn composed_values_decode_by_their_names() {
    let check = |name: &str, bytes: &[u8], expected: &str| {
        assert_eq!(decoded(name, bytes).as_deref(), Some(expected), "{name}");
    };
    check("tuple<utf8,opaque:x,u16le>", &[1, b'a', 2, 7, 8, 1, 0], "(a,0x0708,1)");
    check("list<option<bool>>", &[2, 1, 0, 2, 1, 1], "[null,true]");
    check("list<unit>", &[2, 0, 0], "[,]");
    let window = [0x80, 0, 0, 0, 0, 0, 0, 5, 0x7f, 255, 255, 255, 255, 255, 255, 255];
    check("ordered:tuple<i64,i64>", &window, "(5,-1)");
    check("ordered:tuple<utf8,bytes,bool>", &[b'a', 0, 255, 0, 0, 9, 0, 0, 1], "(a\0,0x09,true)");
    check("ordered:tuple<tuple<utf8,utf8>,u8>", &[b'a', 0, 255, 0, 255, b'b', 0, 0, 3], "((a,b),3)");
    check("ordered:option<f64>", &[1, 0x40, 0x0f, 255, 255, 255, 255, 255, 255], "-1");
    for (name, bytes) in [
        ("bool", &[2][..]),
        ("option<unit>", &[0, 0]),
        ("option<unit>", &[]),
        ("list<unit>", &[0xff, 0xff, 0xff, 0xff, 0x0f]),
        ("list<unit>", &[1, 0, 0]),
        ("list<unit>", &[0x81, 0, 0]),
        ("tuple<utf8,u8>", &[2, b'a', 0]),
        ("tuple<unit,unit>", &[0, 0]),
        ("ordered:tuple<utf8,unit>", &[b'a', 0]),
        ("ordered:tuple<utf8,unit>", &[0xff, 0, 0]),
        ("ordered:tuple<u16,unit>", &[1]),
        ("ordered:option<unit>", &[0, 0]),
    ] {
        assert_eq!(decoded(name, bytes), None, "{name} {bytes:?}");
    }
}

#[derive(Serialize)]
enum Cell {
    Int(i128),
    Text(String),
    Null,
}

#[test]
fn postcard_values_decode_as_written() {
    let check = |expression: &str, bytes: Vec<u8>, expected: &str| {
        let name = format!("postcard:{expression}");
        assert_eq!(decoded(&name, &bytes).as_deref(), Some(expected));
        assert_eq!(decoded(&name, &[&bytes[..], &[0]].concat()), None, "a byte more");
        assert_eq!(decoded(&name, &bytes[..bytes.len() - 1]), None, "a byte less");
    };
    let of = |value: &dyn erased::Value| value.bytes();
    check("u16", of(&u16::MAX), "65535");
    check("u128", of(&u128::MAX), &u128::MAX.to_string());
    check("i8", of(&-1i8), "-1");
    check("i16", of(&i16::MIN), "-32768");
    check("i64", of(&i64::MIN), &i64::MIN.to_string());
    check("i128", of(&i128::MAX), &i128::MAX.to_string());
    check("f64", of(&-0.5f64), "-0.5");
    check("bytes", of(&vec![1u8, 2]), "0x0102");
    check("list<utf8>", of(&vec!["a", "bc"]), "[a,bc]");
    let cells = "enum<int:i128,text:utf8,null:unit>";
    check(cells, of(&Cell::Int(-5)), "{int:-5}");
    check(cells, of(&Cell::Text("x".into())), "{text:x}");
    check(cells, of(&Cell::Null), "{null:}");
}

/// Encoding through an object: Serde's own trait is not dyn compatible.
mod erased {
    pub(super) trait Value {
        fn bytes(&self) -> Vec<u8>;
    }

    impl<T: serde::Serialize> Value for T {
        fn bytes(&self) -> Vec<u8> {
            postcard::to_stdvec(self).unwrap()
        }
    }
}

#[test]
fn hostile_bytes_are_refused_before_memory_is_allocated() {
    assert_eq!(decoded("postcard:list<unit>", &[0xff, 0xff, 0xff, 0xff, 0x0f]), None);
    assert_eq!(decoded("postcard:bytes", &[0xff, 0xff, 0xff, 0xff, 0x0f]), None);
    assert_eq!(decoded("postcard:u16", &[0xff, 0xff, 0x04]), None, "17 bits");
    assert_eq!(decoded("postcard:u16", &[0x80, 0x80, 0x80, 0x00]), None, "too long");
    assert_eq!(decoded("postcard:bool", &[2]), None);
    assert_eq!(decoded("postcard:enum<a:unit>", &[1]), None);
}

/// Fragments of type names.
const WORDS: &[&str] = &[
    "tuple<",
    "option<",
    "list<",
    "struct<a:",
    ">",
    ">",
    ",",
    "ordered:",
    "postcard:",
    "opaque:",
    "u8",
    "utf8",
    "f64",
    "le",
    "@2",
    "@",
    "1",
    "<",
];

proptest! {
    #![proptest_config(ProptestConfig { rng_seed: RngSeed::Fixed(3), failure_persistence: None, ..Default::default() })]

    #[test]
    fn decoding_never_panics(bytes in vec(any::<u8>(), 0..40)) {
        let nested = "postcard:struct<a:list<option<tuple<i16,utf8>>>,b:enum<x:bytes,y:u128>,c:f32>";
        let composed = "tuple<list<option<utf8>>,ordered:option<tuple<utf8,tuple<bytes,bytes>,f32,unit>>>";
        let ordered = "ordered:tuple<tuple<bytes,tuple<utf8,bool>>,option<utf8>,opaque:x,i8>";
        for name in ["unit", "bool", "utf8", "i128le", "f32le", "ordered:i16", nested, composed, ordered] {
            let ty = Type::parse(name).unwrap();
            let _result = decode_any(&ty, &bytes);
        }
    }

    #[test]
    fn every_parsed_name_prints_as_it_was(words in vec(select(WORDS), 0..12), close in 0usize..4) {
        let name = words.concat() + &">".repeat(close);
        if let Some(ty) = Type::parse(&name) {
            prop_assert_eq!(ty.to_string(), name);
        }
    }

    #[test]
    fn a_name_composed_of_any_parts_parses(parts in vec((any::<String>(), any::<u32>()), 1..4)) {
        let parts: Vec<_> = parts.into_iter().map(|(name, version)| Schema { name, version }).collect();
        for schema in [Schema::composed("tuple", &parts), Schema::ordered("tuple", &parts)] {
            prop_assert_eq!(Type::parse(&schema.name).unwrap().to_string(), schema.name);
        }
    }
}
