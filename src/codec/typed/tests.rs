use std::cmp::Ordering;

use ::serde::{Deserialize, Serialize};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::RngSeed;

use super::*;
use crate::codec::schema::{Type, decode_any, encode_any};
use crate::error::ErrorKind;

fn encoded<V>(codec: &impl Codec<V>, value: &V) -> Vec<u8> {
    let mut bytes = vec![7];
    codec.encode(value, &mut bytes).unwrap();
    assert_eq!(bytes.remove(0), 7, "codecs append");
    bytes
}

/// Checks that `value` comes back, and returns the printed value that tools decode by the schema.
fn check<V: PartialEq + Debug>(codec: &impl Codec<V>, value: &V) -> String {
    let bytes = encoded(codec, value);
    assert_eq!(codec.decode(&bytes).unwrap(), *value);
    let ty = Type::parse(&codec.schema().name).unwrap();
    let value = decode_any(&ty, &bytes).unwrap();
    assert_eq!(encode_any(&ty, &value).unwrap(), bytes, "{ty}: {value}");
    value.to_string()
}

#[test]
fn values_come_back_and_tools_decode_them() {
    assert_eq!(check(&Raw, &vec![0, 255]), "0x00ff");
    assert_eq!(check(&Utf8, &"a\"é".to_owned()), "a\"é");
    assert_eq!(check(&Fixed, &-3i16), "-3");
    assert_eq!(check(&Fixed, &i128::MIN), i128::MIN.to_string());
    assert_eq!(check(&Fixed, &0.1f32), "0.1");
    assert_eq!(check(&Fixed, &u64::MAX), u64::MAX.to_string());
    assert_eq!(check(&Ordered, &u16::MAX), "65535");
    assert_eq!(check(&Ordered, &i128::MIN), i128::MIN.to_string());
    let codec = Serde::new("struct<count:u64,sum:option<i128>,names:list<tuple<utf8,bool>>>").unwrap();
    let value = (7u64, Some(-300i128), vec![("x".to_owned(), true)]);
    assert_eq!(check(&codec, &value), "{count:7,sum:-300,names:[(x,true)]}");
    assert_eq!(check(&codec, &(0, None, vec![])), "{count:0,sum:null,names:[]}");
}

/// Checks that `new` overwrites `old`, and no bytes of another length.
fn check_over<V>(codec: &impl Codec<V>, old: &V, new: &V) {
    let mut bytes = encoded(codec, old);
    assert!(codec.encode_over(new, &mut bytes));
    assert_eq!(bytes, encoded(codec, new));
    bytes.push(9);
    let longer = bytes.clone();
    assert!(!codec.encode_over(old, &mut bytes));
    assert_eq!(bytes, longer, "unchanged");
}

#[test]
fn values_of_a_fixed_width_overwrite_others() {
    check_over(&Fixed, &1u8, &2);
    check_over(&Fixed, &-1i64, &i64::MIN);
    check_over(&Fixed, &0.5f32, &-0.0);
    check_over(&Fixed, &false, &true);
    check_over(&At::new(Fixed, 2), &1u128, &u128::MAX);
    let migrating = Migrating::new(At::new(Fixed, 2)).from(Fixed, |old: u32| u64::from(old)).unwrap();
    check_over(&migrating, &1, &u64::MAX);
    assert!(!Utf8.encode_over(&"b".to_owned(), &mut [b'a']), "the default");
}

#[test]
fn composed_values_come_back_and_tools_decode_them() {
    assert_eq!(check(&Unit, &()), "");
    assert_eq!(check(&Fixed, &true), "true");
    assert_eq!(check(&(Utf8, Fixed), &("a".to_owned(), 7u64)), "(a,7)");
    assert_eq!(encoded(&(Utf8, Fixed), &("a".to_owned(), 7u16)), [1, b'a', 7, 0]);
    assert_eq!(check(&Optional(Utf8), &None), "null");
    assert_eq!(encoded(&Optional(Utf8), &Some(String::new())), [1]);
    let codec = (Fixed, Unit, ListOf(Optional(Fixed)), (Raw, Fixed), At::new(Fixed, 3), Utf8);
    let value = (-1i8, (), vec![None, Some(2u16)], (vec![9u8; 300], false), 0.5f32, "é\0".to_owned());
    let text = format!("(-1,,[null,2],(0x{},false),0.5,é\0)", "09".repeat(300));
    assert_eq!(check(&codec, &value), text);
    let name = "tuple<i8,unit,list<option<u16le>>,tuple<bytes,bool>,f32le@3,utf8>";
    assert_eq!(schema_of(&codec, &value), Schema::new(name));
}

fn schema_of<V>(codec: &impl Codec<V>, _value: &V) -> Schema {
    codec.schema()
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Tree(Vec<Self>);

#[test]
fn tools_show_serde_types_without_an_expression_as_bytes() {
    let codec = Serde::<Tree>::opaque("shop.Tree", 4);
    assert_eq!(codec.schema(), Schema { name: "serde:shop.Tree".into(), version: 4 });
    let value = Tree(vec![Tree(vec![]), Tree(vec![])]);
    assert_eq!(codec.decode(&encoded(&codec, &value)).unwrap(), value);
    assert_eq!(Type::parse(&codec.schema().name), None);
    let pair = (codec, Fixed);
    assert_eq!(schema_of(&pair, &(value.clone(), 1u8)).name, "tuple<opaque:serde:shop.Tree@4,u8>");
    assert_eq!(check(&pair, &(value, 1u8)), "(0x020000,1)");
}

/// The examples of `docs/format.md`.
#[test]
fn examples_are_as_documented() {
    assert_eq!(encoded(&(Utf8, Fixed), &("ab".to_owned(), 1u16)), b"\x02ab\x01\0");
    assert_eq!(encoded(&Ordered, &("a\0".to_owned(), true)), b"a\0\xff\0\0\x01");
    assert_eq!(encoded(&Ordered, &(-1i16, "a\0".to_owned())), b"\x7f\xffa\0");
}

#[test]
fn ordered_bytes_sort_as_numbers() {
    let numbers = [i64::MIN, -300, -1, 0, 1, 255, 256, i64::MAX];
    let bytes = numbers.map(|number| {
        assert_eq!(check(&Ordered, &number), number.to_string());
        encoded(&Ordered, &number)
    });
    assert!(bytes.is_sorted());
}

#[test]
fn floats_sort_in_total_order_and_keep_their_bits() {
    let nan = f64::NAN.copysign(1.0);
    let numbers = [-nan, f64::NEG_INFINITY, -1.5, -f64::MIN_POSITIVE, -0.0, 0.0, 1e-310, 2.0, f64::INFINITY, nan];
    let bytes = numbers.map(|number| {
        let bytes = encoded(&Ordered, &number);
        assert_eq!(Codec::<f64>::decode(&Ordered, &bytes).unwrap().to_bits(), number.to_bits());
        bytes
    });
    assert!(bytes.is_sorted_by(|a, b| a < b));
    assert_eq!(check(&Ordered, &-1.5f32), "-1.5");
}

#[test]
fn a_window_is_sixteen_bytes() {
    let window = (-5i64, 5i64);
    assert_eq!(encoded(&Ordered, &window).len(), 16);
    assert_eq!(schema_of(&Ordered, &window).name, "ordered:tuple<i64,i64>");
    assert_eq!(<Ordered as OrderedCodec<((bool, i64), f32)>>::WIDTH, Some(13));
    assert_eq!(<Ordered as OrderedCodec<(bool, String)>>::WIDTH, None);
}

/// Another crate's ordered type, under a name that this crate does not know.
#[derive(Debug, Clone, PartialEq, PartialOrd)]
struct Reversed(u8);

impl Codec<Reversed> for Ordered {
    fn schema(&self) -> Schema {
        Schema { name: "reversed u8".into(), version: 2 }
    }

    fn encode(&self, value: &Reversed, out: &mut Vec<u8>) -> Result<()> {
        out.push(!value.0);
        Ok(())
    }

    fn decode(&self, bytes: &[u8]) -> Result<Reversed> {
        Fixed.decode(bytes).map(|byte: u8| Reversed(!byte))
    }
}

impl OrderedCodec<Reversed> for Ordered {}

#[test]
fn a_foreign_ordered_type_can_be_a_part() {
    let value = (Reversed(0xff), 1u8);
    assert_eq!(schema_of(&Ordered, &value).name, "ordered:tuple<opaque:reversed%20u8@2,u8>");
    assert_eq!(encoded(&Ordered, &value), [0, 0xff, 0, 0, 1]);
    assert_eq!(check(&Ordered, &value), "(0x00,1)");
}

#[test]
fn values_of_older_versions_are_converted() {
    let codec = Migrating::new(At::new((Fixed, Fixed), 5)).from(Fixed, |old: u8| (u64::from(old), false)).unwrap();
    let codec = codec.from(At::new(Utf8, 3), |old| (old.len() as u64, true)).unwrap();
    assert_eq!(check(&codec, &(8, true)), "(8,true)");
    assert_eq!(codec.schema(), Schema { name: "tuple<u64le,bool>".into(), version: 5 });
    assert_eq!(codec.decode_version(5, &encoded(&codec, &(8, true))).unwrap(), (8, true));
    assert_eq!(codec.decode_version(1, &[9]).unwrap(), (9, false));
    assert_eq!(codec.clone().decode_version(3, b"abc").unwrap(), (3, true));
    assert_eq!(codec.decode_version(1, &[9, 9]).unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(codec.decode_version(2, &[9]).unwrap_err().kind(), ErrorKind::Version);
    for (name, version, reads) in
        [("tuple<u64le,bool>", 5, true), ("utf8", 3, true), ("u8", 1, true), ("utf8", 1, false), ("utf8", 2, false)]
    {
        assert_eq!(codec.reads_version(&Schema { name: name.into(), version }), reads, "{name} {version}");
    }
    // Each old version has a number of its own, below the current one.
    let next = Migrating::new(At::new(Fixed, 6)).from(Raw, |_| 0u64).unwrap();
    let error = next.clone().from(Utf8, |_| 0).unwrap_err();
    let text = "old version is read already old=`utf8` old_version=`1` current=`u64le` current_version=`6`";
    assert_eq!((error.kind(), error.message()), (ErrorKind::Config, text));
    assert_eq!(next.from(At::new(Utf8, 6), |_| 0).unwrap_err().kind(), ErrorKind::Config);
    let same = Migrating::new(Fixed).from(Fixed, |old: u32| u64::from(old));
    assert_eq!(same.unwrap_err().kind(), ErrorKind::Config);
}

#[test]
fn an_unknown_version_is_refused_by_number_and_by_name() {
    assert_eq!(Codec::<u8>::decode_version(&Fixed, 1, &[7]).unwrap(), 7);
    let error = Codec::<u8>::decode_version(&Fixed, 3, &[7]).unwrap_err();
    let text = "value was stored under another version of its type schema=`u8` stored=`3` known=`1`";
    assert_eq!((error.kind(), error.message()), (ErrorKind::Version, text));
    assert!(Utf8.reads_version(&Schema::new("utf8")) && !Utf8.reads_version(&Schema::new("bytes")));
    assert!(!Utf8.reads_version(&Schema { version: 2, ..Utf8.schema() }));
}

#[test]
fn a_missing_or_extra_byte_is_refused() {
    assert!(Codec::<u32>::decode(&Fixed, &[0; 3]).is_err());
    assert!(Codec::<u32>::decode(&Fixed, &[0; 5]).is_err());
    assert!(Utf8.decode(&[0xff]).is_err());
    let codec = Serde::<(u64, String)>::new("tuple<u64,utf8>").unwrap();
    let mut bytes = Vec::new();
    codec.encode(&(300, "abc".into()), &mut bytes).unwrap();
    assert!(codec.decode(&bytes[..bytes.len() - 1]).is_err());
    bytes.push(0);
    assert!(codec.decode(&bytes).is_err());
    assert!(Serde::<u8>::new("struct<count>").is_err());
}

#[derive(Debug, Clone)]
struct Broken;

impl Codec<u8> for Broken {
    fn schema(&self) -> Schema {
        Schema::new("broken")
    }

    fn encode(&self, _: &u8, _: &mut Vec<u8>) -> Result<()> {
        Err(Error::usage("value has no encoding"))
    }

    fn decode(&self, _: &[u8]) -> Result<u8> {
        Err(mismatch("broken"))
    }
}

#[test]
fn a_failing_part_fails_the_whole() {
    let mut out = Vec::new();
    assert!((Fixed, Broken).encode(&(1u8, 1), &mut out).is_err());
    assert!((Broken, Fixed).encode(&(1, 1u8), &mut out).is_err());
    assert!(ListOf(Broken).encode(&vec![1], &mut out).is_err());
    assert!((Fixed, Broken).decode(&[1, 1, 1]).map(|_: (u8, u8)| ()).is_err());
}

type Plain = (Option<String>, Vec<(Vec<u8>, bool)>, i64);
type Sorted = ((Vec<u8>, String), Option<(String, i16)>, String);

fn plain() -> impl Strategy<Value = Plain> {
    (any::<Option<String>>(), vec((vec(any::<u8>(), 0..200), any::<bool>()), 0..4), any::<i64>())
}

/// Short values of few letters, so that many share parts.
fn sorted() -> impl Strategy<Value = Sorted> {
    let bytes = || vec(prop_oneof![Just(0u8), Just(1), Just(255)], 0..4);
    let text = || "[\0\u{1}é]{0,3}";
    ((bytes(), text()), option::of((text(), -1i16..2)), text())
}

fn sorted_bytes<V>(value: &V) -> Vec<u8>
where
    Ordered: OrderedCodec<V>,
{
    encoded::<V>(&Ordered, value)
}

/// Checks that the bytes of `a` and `b`, alone and within options and tuples, compare as the values do.
fn assert_order<V: Clone>(a: &V, b: &V, expected: Ordering)
where
    Ordered: OrderedCodec<V>,
{
    assert_eq!(sorted_bytes(a).cmp(&sorted_bytes(b)), expected);
    // The bound makes the compiler infer `V` for a call without a type.
    let some = |value: &V| sorted_bytes::<Option<V>>(&Some(value.clone()));
    assert_eq!(some(a).cmp(&some(b)), expected);
    assert!(sorted_bytes::<Option<V>>(&None) < some(a));
    for (x, y) in [(0u8, 1u8), (1, 1), (1, 0)] {
        let before = |value: &V, other| sorted_bytes::<(V, u8)>(&(value.clone(), other));
        assert_eq!(before(a, x).cmp(&before(b, y)), expected.then(x.cmp(&y)));
        let behind = |value: &V, other| sorted_bytes::<(u8, V)>(&(other, value.clone()));
        assert_eq!(behind(a, x).cmp(&behind(b, y)), x.cmp(&y).then(expected));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { rng_seed: RngSeed::Fixed(3), failure_persistence: None, ..Default::default() })]

    #[test]
    fn composed_values_come_back(value in plain(), cut in any::<Index>(), byte in any::<u8>()) {
        let codec = (Optional(Utf8), ListOf((Raw, Fixed)), Fixed);
        let (name, items, number) = &value;
        let items: Vec<_> = items.iter().map(|(bytes, flag)| format!("({},{flag})", check(&Raw, bytes))).collect();
        let name = name.as_deref().unwrap_or("null");
        prop_assert_eq!(check(&codec, &value), format!("({name},[{}],{number})", items.join(",")));
        let mut bytes = encoded(&codec, &value);
        let ty = Type::parse(&schema_of(&codec, &value).name).unwrap();
        let refused = |bytes: &[u8]| Codec::<Plain>::decode(&codec, bytes).is_err() && decode_any(&ty, bytes).is_err();
        prop_assert!(refused(&bytes[..cut.index(bytes.len())]));
        bytes.push(byte);
        prop_assert!(refused(&bytes));
    }

    #[test]
    fn ordered_values_come_back(value in sorted()) {
        let ((bytes, first), pair, last) = &value;
        let pair = pair.as_ref().map_or_else(|| "null".into(), |(text, number)| format!("({text},{number})"));
        let text = format!("(({},{first}),{pair},{last})", check(&Raw, bytes));
        prop_assert_eq!(check(&Ordered, &value), text);
        let (whole, bytes) = ((value, 0u8), ());
        let (codec, value) = (Ordered, (whole, bytes));
        let bytes = encoded(&codec, &value);
        let ty = Type::parse(&schema_of(&codec, &value).name).unwrap();
        type Whole = ((Sorted, u8), ());
        for cut in 0..bytes.len() {
            prop_assert!(Codec::<Whole>::decode(&codec, &bytes[..cut]).is_err(), "{cut}");
            prop_assert!(decode_any(&ty, &bytes[..cut]).is_err(), "{cut}");
        }
        let more = [bytes.as_slice(), &[0]].concat();
        prop_assert!(Codec::<Whole>::decode(&codec, &more).is_err() && decode_any(&ty, &more).is_err());
    }

    #[test]
    fn ordered_bytes_sort_as_their_values(a in sorted(), b in sorted(), x in any::<(i64, u128, bool)>(), y in any::<(i64, u128, bool)>()) {
        assert_order(&a, &b, a.cmp(&b));
        assert_order(&a.0, &b.0, a.0.cmp(&b.0));
        assert_order(&a.1, &b.1, a.1.cmp(&b.1));
        assert_order(&a.2, &b.2, a.2.cmp(&b.2));
        assert_order(&x, &y, x.cmp(&y));
    }

    #[test]
    fn float_bytes_sort_in_total_order(a in any::<u64>().prop_map(f64::from_bits), b in any::<u64>().prop_map(f64::from_bits)) {
        assert_order(&a, &b, a.total_cmp(&b));
        #[expect(clippy::cast_possible_truncation, reason = "any bits will do")]
        let (a, b) = (f32::from_bits(a.to_bits() as u32), f32::from_bits(b.to_bits() as u32));
        assert_order(&a, &b, a.total_cmp(&b));
    }

    /// Neither reader panics on hostile bytes, and both accept the same bytes.
    #[test]
    fn codecs_and_tools_accept_the_same_bytes(bytes in vec(prop_oneof![0u8..4, any::<u8>()], 0..24)) {
        fn agree<V>(codec: &impl Codec<V>, bytes: &[u8]) {
            let name = codec.schema().name;
            let dynamic = decode_any(&Type::parse(&name).unwrap(), bytes).is_ok();
            let typed = codec.decode(bytes);
            assert_eq!(typed.is_ok(), dynamic, "{name}");
            // Each value has one encoding.
            if let Ok(value) = typed {
                assert_eq!(encoded(codec, &value), bytes, "{name}");
            }
        }
        agree::<Plain>(&(Optional(Utf8), ListOf((Raw, Fixed)), Fixed), &bytes);
        agree::<Vec<Vec<()>>>(&ListOf(ListOf(Unit)), &bytes);
        agree::<Sorted>(&Ordered, &bytes);
        agree::<(Option<bool>, f32, (Vec<u8>, ()))>(&Ordered, &bytes);
        agree::<bool>(&Fixed, &bytes);
        agree::<(f64, String)>(&(Ordered, Utf8), &bytes);
    }
}
