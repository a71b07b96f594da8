//! Codecs and schemas: stored bytes to values and back.

use std::fmt::Debug;

use alluvium::schema::{Type, decode_any, encode_any};
use alluvium::{At, Codec, Fixed, ListOf, Migrating, Optional, Ordered, OrderedCodec, Raw, Result, Serde, Unit, Utf8};

/// Any bytes as a value of every codec. Decoding is stable under re-encoding, and tools decode by the type's name
/// alone.
pub fn codecs(data: &[u8]) -> Result<()> {
    check::<Vec<u8>>(&Raw, data);
    check::<String>(&Utf8, data);
    check::<()>(&Unit, data);
    check::<bool>(&Fixed, data);
    check::<u8>(&Fixed, data);
    check::<i16>(&Fixed, data);
    check::<u32>(&Fixed, data);
    check::<u64>(&Fixed, data);
    check::<i128>(&Fixed, data);
    check::<Option<String>>(&Optional(Utf8), data);
    check::<Vec<Vec<u8>>>(&ListOf(Raw), data);
    check::<Vec<Option<u64>>>(&ListOf(Optional(Fixed)), data);
    check::<(String, u64)>(&(Utf8, Fixed), data);
    check::<(u8, (), Vec<String>, Vec<u8>)>(&(At::new(Fixed, 3), Unit, ListOf(Utf8), Raw), data);
    check::<(u64, Option<i128>, Vec<(String, bool)>)>(
        &Serde::new("struct<a:u64,b:option<i128>,c:list<tuple<utf8,bool>>>")?,
        data,
    );
    let migrating = Migrating::new(At::new(Fixed, 2)).from(Fixed, |old: u32| u64::from(old))?;
    for version in 0..4 {
        let _refused = migrating.decode_version(version, data);
    }
    orders(data);
    Ok(())
}

fn orders(data: &[u8]) {
    let (left, right) = data.split_at(data.len() / 2);
    check_order::<Vec<u8>>(left, right);
    check_order::<String>(left, right);
    check_order::<()>(left, right);
    check_order::<bool>(left, right);
    check_order::<u16>(left, right);
    check_order::<i64>(left, right);
    check_order::<i128>(left, right);
    check_order::<Option<i32>>(left, right);
    check_order::<(i64, i64)>(left, right);
    check_order::<(Vec<u8>, u8)>(left, right);
    check_order::<(String, Option<Vec<u8>>, String)>(left, right);
    check_order::<((bool, Vec<u8>), i8)>(left, right);
}

fn check<V: Debug + PartialEq>(codec: &impl Codec<V>, bytes: &[u8]) {
    let Ok(value) = codec.decode(bytes) else { return };
    let again = encoded(codec, &value);
    assert_eq!(codec.decode(&again).expect("encoded output decodes"), value);
    assert_eq!(
        encoded(codec, &codec.decode(&again).expect("encoded output decodes")),
        again,
        "equal values have equal bytes"
    );
    let ty = Type::parse(&codec.schema().name).expect("the crate's codecs have types");
    let read = decode_any(&ty, &again).expect("tools read what codecs write");
    assert_eq!(encode_any(&ty, &read).expect("tools write what they read"), again);
}

fn check_order<V: Debug + Ord>(left: &[u8], right: &[u8])
where
    Ordered: OrderedCodec<V>,
{
    check::<V>(&Ordered, left);
    let (Ok(a), Ok(b)) = (Ordered.decode(left), Ordered.decode(right)) else { return };
    let order = encoded::<V>(&Ordered, &a).cmp(&encoded(&Ordered, &b));
    assert_eq!(order, a.cmp(&b), "bytes sort as values do: {a:?}, {b:?}");
}

fn encoded<V>(codec: &impl Codec<V>, value: &V) -> Vec<u8> {
    let mut bytes = Vec::new();
    codec.encode(value, &mut bytes).expect("a value that was decoded can be encoded");
    bytes
}

/// The first line as a schema's name, the rest as bytes of that type.
pub fn schema(data: &[u8]) -> Result<()> {
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (name, bytes) = data.split_at(end);
    let Ok(name) = std::str::from_utf8(name) else { return Ok(()) };
    let Some(ty) = Type::parse(name) else { return Ok(()) };
    assert_eq!(ty.to_string(), name, "a name has one spelling");
    let value = decode_any(&ty, bytes.get(1..).unwrap_or_default())?;
    let printed = value.to_string();
    // A hostile enum may name two variants alike: the first is written, which need not hold the value of the second.
    if let Ok(again) = encode_any(&ty, &value) {
        // Floats that are not numbers equal no value, so the text is compared.
        assert_eq!(decode_any(&ty, &again).expect("what tools wrote").to_string(), printed);
    }
    Ok(())
}
