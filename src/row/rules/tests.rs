//! Rules: merging, expiry, upgrades, and times by group.

use super::*;
use crate::error::Result;
use crate::key_group::KeyGroupRange;
use crate::row::piece::{OwnedPiece, Piece};
use crate::row::{Life, MAX_VALUE_BYTES};

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn piece(bytes: &[u8], version: u32, stamp: Option<i64>) -> OwnedPiece {
    OwnedPiece { bytes: bytes.to_vec(), version, stamp: stamp.map(at) }
}

fn borrowed(pieces: &[OwnedPiece]) -> impl Iterator<Item = Piece<'_>> {
    pieces.iter().map(OwnedPiece::borrow)
}

/// Adds numbers of one byte.
#[derive(Debug)]
struct Sum;

impl MergeOperator for Sum {
    fn name(&self) -> &'static str {
        "sum"
    }

    fn merge(&self, older: &[u8], newer: &[u8], out: &mut Vec<u8>) -> Result<()> {
        out.push(older[0] + newer[0]);
        Ok(())
    }
}

/// Upgrades values of version 1 by doubling them.
#[derive(Debug)]
struct Double;

impl Upgrade for Double {
    fn upgrade(&self, _: u32, bytes: &[u8], out: &mut Vec<u8>) -> Result<()> {
        out.extend(bytes.iter().map(|byte| byte * 2));
        Ok(())
    }
}

fn ttl(millis: u64) -> Option<Ttl> {
    Some(Ttl { millis, ..Ttl::default() })
}

#[test]
fn rows_expire_by_their_own_stamp_or_else_by_the_tables() {
    let ttl = Ttl { millis: 10, since: Some(at(5)), dead_until: Some(at(2)), ..Ttl::default() };
    let expired = |stamp: Option<i64>, now| ttl.expired(stamp.map(at), at(now));
    assert!(!expired(Some(7), 16) && expired(Some(7), 17));
    assert!(!expired(None, 14) && expired(None, 15));
    assert!(expired(Some(2), 3) && !expired(Some(3), 4), "expired for good");
    assert!(!Ttl { since: None, ..ttl }.expired(None, Timestamp::MAX));
    let forever = Ttl { millis: u64::MAX, ..ttl };
    assert!(!forever.expired(Some(at(3)), Timestamp::MAX) && forever.expired(Some(at(2)), at(2)));
}

#[test]
fn pieces_of_a_list_have_separate_lives_and_pieces_of_a_sum_share_one() {
    let list = TableRules { merge: Some(Arc::new(Append)), ttl: ttl(10), ..TableRules::default() };
    let pieces = vec![piece(b"a", 1, Some(0)), piece(b"b", 1, Some(4)), piece(b"c", 1, Some(4))];
    let left = list.combine(pieces.clone(), Below::Nothing, at(9), true).unwrap();
    assert_eq!(left, [piece(b"a", 1, Some(0)), piece(b"bc", 1, Some(4))]);
    let mut out = vec![];
    assert!(list.resolve(borrowed(&pieces), at(10), &mut out).unwrap());
    assert_eq!(out, b"bc");
    assert!(!list.resolve(borrowed(&pieces), at(14), &mut vec![]).unwrap());

    let sum = TableRules { merge: Some(Arc::new(Sum)), ttl: ttl(10), ..TableRules::default() };
    let renewed = vec![piece(&[1], 1, Some(0)), piece(&[2], 1, Some(9)), piece(&[4], 1, Some(19))];
    assert_eq!(
        sum.combine(renewed, Below::Nothing, at(20), true).unwrap(),
        [piece(&[4], 1, Some(19))],
        "the third operand found the value expired"
    );
    let renewed = vec![piece(&[1], 1, Some(0)), piece(&[2], 1, Some(9)), piece(&[4], 1, Some(18))];
    assert_eq!(sum.combine(renewed, Below::Nothing, at(20), true).unwrap(), [piece(&[7], 1, Some(18))]);
}

/// However operands are divided into parts and merged part by part, the value equals that of merging one by one.
#[test]
fn operands_merged_early_renew_a_value_as_single_operands_do() {
    let sum = TableRules { merge: Some(Arc::new(Sum)), ttl: ttl(10), ..TableRules::default() };
    for gaps in 0..5usize.pow(4) {
        let mut time = 0;
        let mut pieces = vec![piece(&[1], 1, Some(0))];
        for (i, bit) in [2u8, 4, 8, 16].into_iter().enumerate() {
            time += [0, 1, 6, 9, 10][gaps / 5usize.pow(u32::try_from(i).unwrap()) % 5];
            pieces.push(piece(&[bit], 1, Some(time)));
        }
        let seen = |pieces: &[OwnedPiece]| {
            let mut out = Vec::new();
            sum.resolve(borrowed(pieces), at(time), &mut out).unwrap().then_some(out)
        };
        for cut in 0..=pieces.len() {
            for end in cut.max(1)..=pieces.len() {
                let below = if cut == 0 { Below::Nothing } else { Below::Unknown };
                // A part is folded by the time of its seal.
                let sealed = pieces[end - 1].stamp.unwrap();
                let merged = sum.combine(pieces[cut..end].to_vec(), below, sealed, false).unwrap();
                let all = [&pieces[..cut], &merged[..], &pieces[end..]].concat();
                assert_eq!(seen(&all), seen(&pieces), "{pieces:?}, merged in {cut}..{end}");
            }
        }
    }
}

#[test]
fn older_versions_are_upgraded_before_they_merge() {
    let sum =
        TableRules { version: 2, merge: Some(Arc::new(Sum)), upgrade: Some(Arc::new(Double)), ..TableRules::default() };
    let pieces = vec![piece(&[1], 1, None), piece(&[5], 2, None)];
    assert_eq!(sum.combine(pieces.clone(), Below::Nothing, at(0), true).unwrap(), [piece(&[7], 2, None)]);
    let without = TableRules { upgrade: None, ..sum };
    assert_eq!(without.combine(pieces.clone(), Below::Nothing, at(0), true).unwrap().len(), 2, "left as they are");
    let refused = without.resolve(borrowed(&pieces), at(0), &mut vec![]).unwrap_err();
    assert_eq!(refused.kind(), crate::ErrorKind::Version);
}

/// Concatenates bytes without declaring that it grows.
#[derive(Debug)]
struct Concat;

impl MergeOperator for Concat {
    fn name(&self) -> &'static str {
        "concat"
    }

    fn merge(&self, older: &[u8], newer: &[u8], out: &mut Vec<u8>) -> Result<()> {
        Append.merge(older, newer, out)
    }
}

/// Upgrades values of version 1 to values too long for a segment.
#[derive(Debug)]
struct Blow;

impl Upgrade for Blow {
    fn upgrade(&self, _: u32, _: &[u8], out: &mut Vec<u8>) -> Result<()> {
        out.resize(MAX_VALUE_BYTES + 1, 7);
        Ok(())
    }
}

#[test]
fn a_value_too_long_for_a_segment_stays_in_pieces_and_is_read_whole() {
    let lengths = [MAX_VALUE_BYTES - 1, 1, 1, 5];
    let pieces: Vec<_> = lengths.iter().map(|length| piece(&vec![1; *length], 1, None)).collect();
    for merge in [Arc::new(Append) as Arc<dyn MergeOperator>, Arc::new(Concat)] {
        let table = TableRules { merge: Some(merge), ..TableRules::default() };
        let left = table.combine(pieces.clone(), Below::Nothing, at(0), true).unwrap();
        assert_eq!(left.iter().map(|piece| piece.bytes.len()).collect::<Vec<_>>(), [MAX_VALUE_BYTES, 6]);
        let mut out = vec![];
        assert!(table.resolve(borrowed(&left), at(0), &mut out).unwrap());
        assert_eq!(out.len(), MAX_VALUE_BYTES + 6);
        let refused = table.check_length(borrowed(&pieces), at(0)).unwrap_err();
        assert_eq!(refused.kind(), crate::ErrorKind::Limit);
        assert!(table.check_length(borrowed(&pieces[..2]), at(0)).is_ok());
    }
    let table = TableRules { version: 2, upgrade: Some(Arc::new(Blow)), ..TableRules::default() };
    let old = vec![piece(b"old", 1, None)];
    assert_eq!(table.combine(old.clone(), Below::Nothing, at(0), true).unwrap(), old, "left as it is");
}

/// Counts copied bytes.
#[derive(Debug, Default)]
struct Counted(std::sync::atomic::AtomicUsize);

impl MergeOperator for Counted {
    fn name(&self) -> &'static str {
        "counted"
    }

    fn merge(&self, older: &[u8], newer: &[u8], out: &mut Vec<u8>) -> Result<()> {
        self.0.fetch_add(older.len(), std::sync::atomic::Ordering::Relaxed);
        Append.merge(older, newer, out)
    }

    fn merge_into(&self, value: &mut Vec<u8>, newer: &[u8]) -> Result<()> {
        self.0.fetch_add(newer.len(), std::sync::atomic::Ordering::Relaxed);
        Append.merge_into(value, newer)
    }

    fn grows(&self) -> bool {
        true
    }
}

#[test]
fn a_value_of_many_pieces_is_assembled_in_one_pass() {
    let counted = Arc::new(Counted::default());
    let table = TableRules { merge: Some(counted.clone()), ..TableRules::default() };
    let pieces = vec![piece(&[1; 100], 1, None); 2000];
    let copied = || counted.0.swap(0, std::sync::atomic::Ordering::Relaxed);
    let mut out = vec![];
    assert!(table.resolve(borrowed(&pieces), at(0), &mut out).unwrap());
    assert_eq!((out.len(), copied() <= 200_000), (200_000, true));
    let combined = table.combine(pieces, Below::Unknown, at(0), true).unwrap();
    assert_eq!((combined.len(), copied() <= 200_000), (1, true));
}

#[test]
fn times_do_not_go_back() {
    let mut rules = Rules::none();
    rules.define(TableId(3), TableRules { ttl: ttl(10), ..TableRules::default() });
    rules.advance(at(7), at(9));
    rules.advance(at(8), at(2));
    assert_eq!(rules.mark(TableId(3)), (1, Some(at(9))));
    assert_eq!(rules.mark(TableId(4)), (1, None));
    assert_eq!(Rules { processing_time: Timestamp::MIN, ..rules }.mark(TableId(3)), (1, None));
}

fn record(start: u16, end: u16, event: i64, processing: i64) -> GroupTimes {
    GroupTimes::new(KeyGroupRange::new(start, end), at(event), at(processing))
}

#[test]
fn groups_continue_from_their_own_records() {
    let mut rules = Rules::none();
    rules.define(TableId(3), TableRules { ttl: ttl(10), ..TableRules::default() });
    rules.advance(at(5), at(50));
    rules.resume(&[record(0, 2, 1, 70), record(2, 4, 9, 60)]);
    let stamp = |rules: &Rules, group| rules.of(KeyGroup(group)).mark(TableId(3)).1.unwrap().as_millis();
    assert_eq!([0, 1, 2, 3, 4].map(|group| stamp(&rules, group)), [70, 70, 60, 60, 50]);
    let all = KeyGroupSet::all(6);
    assert_eq!(rules.times(&all), [record(0, 2, 5, 70), record(2, 4, 9, 60), record(4, 6, 5, 50)]);
    // The clock applies once it has passed a record.
    rules.advance(at(5), at(65));
    assert_eq!([0, 2, 4].map(|group| stamp(&rules, group)), [70, 65, 65]);
    rules.advance(at(9), at(70));
    assert!(rules.overrides.is_none(), "the clock has passed all records");
    assert_eq!(rules.times(&all), [record(0, 6, 9, 70)]);
}

#[test]
fn bounds_apply_to_their_groups_alone_and_are_kept() {
    let mut rules = Rules::none();
    rules.advance(at(0), at(100));
    let mut bounded = record(0, 2, 0, 0);
    let expired_life = Life { table: TableId(3), millis: None, since: None, dead_until: Some(at(40)) };
    bounded.set_life(TableId(3), Some(expired_life));
    rules.resume(std::slice::from_ref(&bounded));
    rules.define(TableId(3), TableRules { ttl: ttl(1000), ..TableRules::default() });
    let expired = |rules: &Rules, group| {
        let of = rules.of(KeyGroup(group));
        of.table(TableId(3)).unwrap().expired(Some(at(40)), at(100))
    };
    assert!(expired(&rules, 1) && !expired(&rules, 2));
    let times = rules.times(&KeyGroupSet::all(4));
    assert_eq!(times[0].lives, [expired_life]);
    assert_eq!((times.len(), times[0].processing_time), (2, at(100)));
    rules.forget(&KeyGroupSet::all(1));
    assert!(!expired(&rules, 0) && expired(&rules, 1));
}
