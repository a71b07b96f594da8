use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::*;

fn bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![Just(vec![]), proptest::collection::vec(any::<u8>(), 0..most)]
}

/// Returns the shape of a record of this row, as text.
fn of_row(bytes: &[u8], place: &Place<'_>) -> Option<String> {
    Shape::of_row(bytes, place).map(|shape| format!("{shape:?}"))
}

proptest! {
    #![proptest_config(ProptestConfig { rng_seed: RngSeed::Fixed(3), failure_persistence: None, ..Default::default() })]

    #[test]
    fn records_parse_as_they_were_drafted(
        (table, key, namespace, sub) in (any::<u32>(), bytes(300), bytes(40), bytes(40)),
        (routing, older) in (any::<Option<u64>>(), any::<bool>()),
        (value, spare) in (proptest::option::of(bytes(70_000)), 0usize..300),
        (version, stamp, operand, ordinal) in (1u32..3, any::<Option<i64>>(), any::<bool>(), 0u32..2),
    ) {
        let place = Place { table: TableId(table), key: &key, namespace: &namespace, sub: &sub, routing, clear: 0 };
        let capacity = value.as_ref().map_or(0, Vec::len) + spare;
        let stamp = stamp.map(Timestamp::from_millis);
        let meta = ValueMeta { version, stamp, operand, ordinal };
        let draft = Draft { place, value: value.as_deref(), capacity, older, meta };
        let mut out = vec![99; draft.len() + 1];
        draft.write(&mut out[..draft.len()]);
        let record = Record::parse(&out).unwrap();
        prop_assert!(record.place.same_row(&place) && record.place.routing == routing);
        let shape = record.shape;
        prop_assert_eq!((record.value(), shape.capacity, shape.len), (value.as_deref(), capacity, draft.len()));
        prop_assert_eq!((shape.has_older(), shape.is_dead(), record.meta), (older, false, meta));
        prop_assert_eq!((shape.value(&out), shape.is_plain()), (value.as_deref(), meta == ValueMeta::PLAIN));
        prop_assert_eq!(of_row(&out, &place), Some(format!("{shape:?}")));
        for part in 0..4 {
            let longer = [&[&key, &namespace, &sub, &vec![]][part][..], b"x"].concat();
            let other = match part {
                0 => Place { key: &longer, ..place },
                1 => Place { namespace: &longer, ..place },
                2 => Place { sub: &longer, ..place },
                _ => Place { table: TableId(!table), ..place },
            };
            prop_assert_eq!(of_row(&out, &other), None);
        }
        for short in [Record::parse_short(&out), Record::parse_scoped(&out)].into_iter().flatten() {
            let any = Record::parse_full(&out).unwrap();
            prop_assert_eq!(format!("{short:?}"), format!("{any:?}"));
        }

        let other = vec![7; spare / 2];
        let later = stamp.map(|_| Timestamp::from_millis(77));
        rewrite(&mut out, &shape, Some(&other), later);
        let rewritten = Record::parse(&out).unwrap().shape;
        extend(&mut out, &rewritten, &vec![8; spare / 2]);
        let record = Record::parse(&out).unwrap();
        let expected = [vec![7; spare / 2], vec![8; spare / 2]].concat();
        prop_assert_eq!((record.value(), record.meta), (Some(expected.as_slice()), ValueMeta { stamp: later, ..meta }));
        rewrite(&mut out, &shape, None, later);
        mark_dead(&mut out);
        let record = Record::parse(&out).unwrap();
        prop_assert_eq!(of_row(&out, &place), Some(format!("{:?}", record.shape)));
        prop_assert!(record.place.same_row(&place) && record.value().is_none() && record.shape.is_dead());
        prop_assert_eq!((record.shape.len, record.shape.has_older(), out.last()), (shape.len, older, Some(&99)));
    }
}

#[test]
fn places_that_differ_in_one_part_are_different_rows() {
    let place = Place { table: TableId(3), key: b"k", namespace: b"n", sub: b"s", routing: None, clear: 0 };
    assert!(place.same_row(&Place { routing: Some(1), ..place }));
    for other in [
        Place { table: TableId(4), ..place },
        Place { key: b"", ..place },
        Place { namespace: b"", ..place },
        Place { sub: b"", ..place },
        Place { clear: CLEAR | CLEAR_KEY, ..place },
    ] {
        assert!(!place.same_row(&other) && !other.same_row(&place));
    }
}

#[test]
#[should_panic(expected = "fits its record")]
fn overwriting_beyond_the_capacity_panics() {
    let place = Place { table: TableId(3), key: b"k", namespace: &[], sub: &[], routing: None, clear: 0 };
    let mut bytes = Draft::exact(place, b"value", ValueMeta::PLAIN).encode();
    let shape = Record::parse(&bytes).unwrap().shape;
    rewrite(&mut bytes, &shape, Some(b"longer"), None);
}

#[test]
fn a_small_row_costs_five_bytes_of_header() {
    let place = Place { table: TableId(3), key: &[1; 16], namespace: &[], sub: &[], routing: None, clear: 0 };
    let draft = Draft { older: true, ..Draft::exact(place, &[2; 100], ValueMeta::PLAIN) };
    assert_eq!(draft.len(), 5 + 16 + 100);
}

#[test]
fn short_puts_are_told_from_all_other_records() {
    let place = Place { table: TableId(3), key: b"key", namespace: &[], sub: &[], routing: None, clear: 0 };
    for (value, spare, older) in [(&b""[..], 0, false), (b"value", 0, true), (b"value", 7, false), (&[1; 255], 0, true)]
    {
        let draft = Draft { older, capacity: value.len() + spare, ..Draft::exact(place, value, ValueMeta::PLAIN) };
        let mut bytes = [draft.encode(), vec![9; 300]].concat();
        let put = ShortPut::parse(&bytes).unwrap();
        assert_eq!((put.table, put.key_len, put.len), (place.table, 3, draft.len()));
        assert_eq!(put.bytes, [b"key", value].concat());
        mark_dead(&mut bytes);
        assert!(ShortPut::parse(&bytes).is_none());
    }
    let version = ValueMeta { version: 2, ..ValueMeta::PLAIN };
    for draft in [
        Draft::without_value(place, true),
        Draft::exact(place, b"value", version),
        Draft::exact(place, &[1; 256], ValueMeta::PLAIN),
        Draft::exact(Place { routing: Some(1), ..place }, b"value", ValueMeta::PLAIN),
        Draft::exact(Place { namespace: b"n", ..place }, b"value", ValueMeta::PLAIN),
        Draft::exact(Place { sub: b"s", ..place }, b"value", ValueMeta::PLAIN),
        Draft::exact(Place { table: TableId(0x80), ..place }, b"value", ValueMeta::PLAIN),
        Draft::exact(Place { key: &[1; 0x80], ..place }, b"value", ValueMeta::PLAIN),
    ] {
        assert!(ShortPut::parse(&draft.encode()).is_none(), "{draft:?}");
    }
}
