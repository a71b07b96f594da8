//! The earliest timers that an index tells.

use super::*;
use crate::codec::bytes::{put_length, put_length_delimited, put_signed, put_u32, put_varint};
use crate::codec::typed::{Codec as _, Ordered};
use crate::row::TableRules;
use crate::segment::{EarliestTimer, SectionCheck};
use crate::time::Timestamp;

fn timer(group: u16, table: u32, key: &str, at: i64) -> Owned {
    let mut sub = Vec::new();
    Ordered.encode(&at, &mut sub).unwrap();
    let key = RowKey::data(TableId(table), key.as_bytes(), b"w", &sub);
    Owned::new(KeyGroup(group), &Row { key, op: Op::Put(b""), columns: Columns::default() })
}

/// Returns the index of these rows of groups `0..MAX`, where `tables` have timers.
fn index_of(kind: SegmentKind, tables: &[u32], rows: &[Owned]) -> SegmentIndex {
    let mut rules = Rules::none();
    for table in tables {
        rules.define(TableId(*table), TableRules { timers: true, ..TableRules::default() });
    }
    let part = SealedPart { rules, ..part(kind, &KeyGroupSet::all(MAX), rows) };
    let encoded = encode(&part, EncodeOptions::default()).unwrap();
    SegmentIndex::find(&encoded.bytes, Some(&encoded.index_hash)).unwrap()
}

fn told(index: &SegmentIndex) -> Vec<(u32, u16, i64)> {
    index.earliest().iter().map(|timer| (timer.table.0, timer.group.0, timer.at.as_millis())).collect()
}

#[test]
fn an_index_tells_the_earliest_timer_of_each_table_and_group() {
    let deleted = Owned { op: OwnedOp::Delete, ..timer(2, 7, "a", -100) };
    let malformed = Owned { sub: Some(b"no time".to_vec()), ..timer(4, 7, "a", 0) };
    let rows = [
        timer(0, 9, "a", 30),
        timer(0, 7, "b", 20),
        timer(0, 7, "a", 25),
        timer(0, 8, "a", 1),
        deleted,
        timer(2, 7, "b", i64::MAX),
        timer(3, 7, "b", i64::MIN),
        malformed,
    ];
    let index = index_of(SegmentKind::Delta, &[7, 9], &rows);
    let expected = [(7, 0, 20), (7, 2, i64::MAX), (7, 3, i64::MIN), (7, 4, i64::MIN), (9, 0, 30)];
    assert_eq!(told(&index), expected, "table 8 has no timers, a delete puts none, and what is no time comes first");
    let of = |table, group| index.earliest_of(TableId(table), KeyGroup(group)).map(Timestamp::as_millis);
    assert_eq!([of(7, 0), of(7, 1), of(9, 0), of(8, 0), of(7, MAX)], [Some(20), None, Some(30), None, None]);
}

#[test]
fn no_timers_are_told_apart_from_unknown_ones() {
    let rows = [timer(1, 7, "a", 5)];
    let (known, unknown) = (index_of(SegmentKind::Base, &[8], &rows), index_of(SegmentKind::Base, &[], &rows));
    assert!(known.tells_timers() && !unknown.tells_timers());
    assert!(known.earliest().is_empty() && unknown.earliest().is_empty());
    let of = |index: &SegmentIndex, group| index.earliest_of(TableId(8), KeyGroup(group));
    assert_eq!((of(&known, 1), of(&unknown, 1), of(&unknown, MAX)), (None, Some(Timestamp::MIN), None));
}

/// Returns an index without blocks of groups 0 to 3 with this section.
fn with_section(id: u8, flags: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![1, 0, 0, 0, 2, 1, 0, 0, 4, 0, 0, 1, id, flags];
    put_length_delimited(&mut bytes, content);
    bytes
}

/// A table, and the gap before each group and its time.
fn table(id: u32, entries: &[(u64, i64)]) -> Vec<u8> {
    let mut content = Vec::new();
    put_u32(&mut content, id);
    put_length(&mut content, entries.len());
    for (gap, time) in entries {
        put_varint(&mut content, *gap);
        put_signed(&mut content, *time);
    }
    content
}

#[test]
fn sections_that_break_a_rule_are_refused() {
    let decode = |bytes: &[u8]| SegmentIndex::decode(bytes, &Hash::of(bytes)).map_err(|error| error.kind());
    let content = |content: &[u8]| decode(&with_section(1, 0, content));
    let good = [&[2][..], &table(5, &[(0, 7), (2, -9)]), &table(6, &[(3, 1)])].concat();
    assert_eq!(told(&content(&good).unwrap()), [(5, 0, 7), (5, 3, -2), (6, 3, 1)]);
    for (at, bad) in [
        [&[2][..], &table(6, &[(0, 7)]), &table(5, &[(0, 7)])].concat(),
        [&[2][..], &table(5, &[(0, 7)]), &table(5, &[(1, 7)])].concat(),
        [&[1][..], &table(5, &[])].concat(),
        [&[1][..], &table(5, &[(4, 7)])].concat(),
        [&[1][..], &table(5, &[(0, 7), (3, 7)])].concat(),
        [&[1][..], &table(5, &[(u64::from(u16::MAX), 7), (u64::from(u16::MAX), 7)])].concat(),
        [&[1][..], &table(5, &[(u64::MAX, 7)])].concat(),
        good[..good.len() - 1].to_vec(),
        [&good[..], &[0]].concat(),
        vec![3],
        vec![],
    ]
    .iter()
    .enumerate()
    {
        assert_eq!(content(bad), Err(ErrorKind::Corrupt), "case {at}");
    }
    assert!(decode(&with_section(1, 1, &good)).is_ok(), "required, and known");
    assert_eq!(decode(&with_section(1, 2, &good)), Err(ErrorKind::Version));
    let mut twice = with_section(1, 0, &good);
    twice[11] = 2;
    twice.extend_from_slice(&with_section(1, 0, &good)[12..]);
    assert_eq!(decode(&twice), Err(ErrorKind::Corrupt));
}

#[test]
fn a_check_finds_timers_earlier_than_told() {
    let rows = [timer(0, 7, "a", 25), timer(0, 7, "b", 20), timer(1, 7, "a", 3)];
    let index = index_of(SegmentKind::Delta, &[7], &rows);
    let check = |told: &[(u64, i64)]| {
        let content = [&[1][..], &table(7, told)].concat();
        let bytes = with_section(1, 0, &content);
        let told = SegmentIndex::decode(&bytes, &Hash::of(&bytes)).unwrap();
        let mut check = SectionCheck::new(&told);
        let mut of_group = |group: u16| {
            let mut batch = RowBatch::new();
            rows.iter().filter(|row| row.group.0 == group).try_for_each(|row| batch.push(&row.row()))?;
            check.check(KeyGroup(group), &batch)
        };
        of_group(0).and_then(|()| of_group(1)).map_err(|error| error.message().to_owned())
    };
    assert_eq!(told(&index), [(7, 0, 20), (7, 1, 3)]);
    assert!(check(&[(0, 20), (0, -17)]).is_ok() && check(&[(0, 19), (0, -17)]).is_ok(), "it is a lower bound");
    for wrong in [&[(0, 21), (0, -17)][..], &[(0, 20), (0, -16)], &[(0, 20)], &[(1, 3)]] {
        assert!(check(wrong).unwrap_err().starts_with("timer is earlier"), "{wrong:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_told_is_the_minimum(
        rows in prop::collection::vec((0..MAX, 0..4u32, 0..9u8, prop_oneof![any::<i64>(), -5..5i64]), 0..60),
    ) {
        let rows: Vec<_> = rows.into_iter().map(|(g, t, key, at)| timer(g, t, &key.to_string(), at)).collect();
        let mut least = BTreeMap::new();
        for row in rows.iter().filter(|row| row.table.0 % 2 == 1) {
            let at = Ordered.decode(row.sub.as_ref().unwrap()).unwrap();
            let known: &mut i64 = least.entry((row.table, row.group)).or_insert(at);
            *known = at.min(*known);
        }
        let expected: Vec<_> = least
            .into_iter()
            .map(|((table, group), at)| EarliestTimer { table, group, at: Timestamp::from_millis(at) })
            .collect();
        let index = index_of(SegmentKind::Delta, &[1, 3], &rows);
        prop_assert_eq!(index.earliest(), expected.as_slice());
    }
}
