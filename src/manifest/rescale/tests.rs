//! Plans for all seats and for some, compared with a plain one.

use proptest::prelude::*;

use bytes::Bytes;

use super::*;
use crate::id::{Part, SegmentId};
use crate::key_group::KeyGroup;
use crate::manifest::OpaqueRole;
use crate::manifest::tests::manifest;

fn seats() -> Seats {
    Seats::new(3, 3, &[Subtask(0), Subtask(1), Subtask(2)])
}

fn opaque(redistribution: Redistribution, content: &'static [u8], item_offsets: Vec<u64>) -> Opaque {
    let content = OpaqueContent::Inline(Bytes::from_static(content));
    Opaque { role: OpaqueRole::Operator, name: "x".into(), redistribution, channel: Some(4), item_offsets, content }
}

/// Prints the opaques of each share.
fn print(shares: &[Share]) -> Vec<String> {
    let print = |opaque: &Opaque| String::from_utf8(opaque.items().unwrap().concat()).unwrap();
    shares.iter().map(|share| share.opaques.iter().map(print).collect::<Vec<_>>().join("|")).collect()
}

/// Distributes an opaque of subtask 2 to three subtasks.
fn distributed(redistribution: Redistribution) -> Vec<String> {
    let mut seats = seats();
    seats.distribute(Subtask(2), &opaque(redistribution, b"a", vec![]));
    print(&seats.shares)
}

#[test]
fn opaques_are_distributed_by_their_redistribution() {
    assert_eq!(distributed(Redistribution::None), ["", "", "a"]);
    assert_eq!(distributed(Redistribution::Split), ["", "", "a"], "not split: the parallelism is the same");
    assert_eq!(distributed(Redistribution::Union), ["a", "a", "a"]);
    assert_eq!(distributed(Redistribution::Broadcast), ["", "", ""]);
    assert_eq!(distributed(Redistribution::ByChannel), ["", "a", ""]);
}

#[test]
fn items_are_distributed_in_turn_list_by_list() {
    let list =
        |name: &str, content, offsets| Opaque { name: name.into(), ..opaque(Redistribution::Split, content, offsets) };
    let mut seats = seats();
    let parts = [list("x", b"abcd", vec![0, 1, 3, 3]), list("w", b"e", vec![]), list("x", b"f", vec![])];
    seats.distribute_items(parts.iter().collect()).unwrap();
    assert_eq!(print(&seats.shares), ["e|", "a|d", "bc|f"]);
}

#[test]
fn offsets_that_do_not_fit_are_corrupt() {
    for offsets in [vec![0, 9], vec![2, 1], vec![0, u64::MAX]] {
        assert!(opaque(Redistribution::Split, b"abc", offsets).items().is_err());
    }
}

const MAX: u16 = 24;

fn segment(part: u32, groups: KeyGroupSet) -> SegmentRef {
    let Some(entry) = manifest().operators.remove(0).subtasks.pop() else { panic!("a subtask") };
    let SubtaskEntry::Inline(mut subtask) = entry else { panic!("inline") };
    let segment = subtask.segments.remove(0);
    SegmentRef { id: SegmentId { part: Part(part), ..segment.id }, groups, ..segment }
}

/// Returns an operator's subtasks: subtask `i` has `opaques[i]`, a base, and a delta of every third group.
fn stored(parallelism: u32, opaques: &[Vec<(Redistribution, usize)>]) -> Vec<SubtaskManifest> {
    let subtask = |index: u32| {
        let range = subtask_range(MAX, parallelism, index);
        let thirds = (range.start..range.end).filter(|group| group % 3 == 0).map(KeyGroup).collect();
        let opaque = |(at, &(redistribution, items)): (usize, &(Redistribution, usize))| Opaque {
            name: (at % 2).to_string(),
            channel: Some(index * 7 + u32::try_from(at).unwrap()),
            content: OpaqueContent::Inline(format!("{index}.{at}.{items}").into()),
            ..opaque(redistribution, b"", (0..items as u64).collect())
        };
        SubtaskManifest {
            subtask: Subtask(index),
            groups: range.into(),
            watermark: Timestamp::from_millis(i64::from(index * 5 % 3)),
            segments: vec![segment(2 * index, range.into()), segment(2 * index + 1, thirds)],
            opaques: opaques[index as usize].iter().enumerate().map(opaque).collect(),
            times: vec![GroupTimes::new(range, Timestamp::from_millis(i64::from(index / 2)), Timestamp::MIN)],
            // Unknown to every third.
            heat: if index % 3 == 2 { vec![] } else { (range.start..range.end).map(warmth_of).collect() },
        }
    };
    (0..parallelism).map(subtask).collect()
}

fn warmth_of(group: u16) -> Warmth {
    Warmth(u8::try_from(group + 1).unwrap())
}

/// The plan as a reader of the format would write it: every new subtask looks at every old one.
fn plainly(parallelism: u32, old: &[SubtaskManifest]) -> Vec<Share> {
    let share = |index: u32| {
        let groups: KeyGroupSet = subtask_range(MAX, parallelism, index).into();
        let from = || old.iter().filter(|other| !other.groups.intersection(&groups).is_empty());
        let narrowed = |segment: &SegmentRef| {
            let groups = segment.groups.intersection(&groups);
            (!groups.is_empty()).then(|| SegmentRef { groups, ..segment.clone() })
        };
        let over = |record: &GroupTimes| {
            let groups = groups.ranges()[0].intersection(record.groups);
            (!groups.is_empty()).then(|| record.over(groups))
        };
        let times: Vec<_> = from().flat_map(|other| other.group_times()).collect();
        let times: Vec<_> = times.iter().filter_map(over).collect();
        let heat_of = |group: KeyGroup| {
            let owner = old.iter().find(|other| other.groups.contains(group));
            owner.filter(|owner| !owner.heat.is_empty()).map_or(Warmth(0), |_| warmth_of(group.0))
        };
        Share {
            subtask: Subtask(index),
            watermark: from().map(|other| other.watermark).min().unwrap_or(Timestamp::MIN),
            times: later_times(&[], &times),
            segments: from().flat_map(|other| other.segments.iter().filter_map(narrowed)).collect(),
            opaques: Vec::new(),
            heat: groups.iter().map(heat_of).collect(),
            groups,
        }
    };
    (0..parallelism).map(share).collect()
}

fn any_opaques() -> impl Strategy<Value = Vec<Vec<(Redistribution, usize)>>> {
    let kind = prop::sample::select(vec![
        Redistribution::None,
        Redistribution::Split,
        Redistribution::Union,
        Redistribution::Broadcast,
        Redistribution::ByChannel,
    ]);
    prop::collection::vec(prop::collection::vec((kind, 0..4usize), 0..3), usize::from(MAX))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn some_seats_need_some_entries_and_get_the_same_shares(
        old in 1..=u32::from(MAX),
        new in 1..=u32::from(MAX),
        same in any::<bool>(),
        chosen in prop::collection::vec(any::<bool>(), usize::from(MAX)),
        opaques in any_opaques(),
    ) {
        let new = if same { old } else { new };
        let stored = stored(old, &opaques);
        let operator = |subtasks| StoredOperator { parallelism: old, tables: Vec::new(), subtasks };
        let all: Vec<_> = (0..new).map(Subtask).collect();
        let whole = OperatorPlan::of_seats(OperatorId(1), (MAX, new), &operator(stored.clone()), &all).unwrap();
        let bare = whole.shares.iter().map(|share| Share { opaques: Vec::new(), ..share.clone() });
        prop_assert_eq!(bare.collect::<Vec<_>>(), plainly(new, &stored));

        let seats: Vec<_> = all.into_iter().filter(|seat| chosen[seat.0 as usize]).collect();
        let entries: Vec<_> = stored.iter().cloned().map(SubtaskEntry::Inline).collect();
        let needed = Sources::new(&entries, MAX, new).of_seats(&seats);
        let subset = needed.iter().map(|at| stored[*at].clone()).collect();
        let part = OperatorPlan::of_seats(OperatorId(1), (MAX, new), &operator(subset), &seats).unwrap();
        let expected: Vec<_> = whole.shares.into_iter().filter(|share| seats.contains(&share.subtask)).collect();
        prop_assert_eq!(part.shares, expected);
    }
}

#[test]
fn only_what_seats_need_is_named() {
    let mut opaques = vec![Vec::new(); usize::from(MAX)];
    opaques[2] = vec![(Redistribution::Split, 1)];
    opaques[3] = vec![(Redistribution::Union, 1)];
    opaques[5] = vec![(Redistribution::None, 1)];
    let entries: Vec<_> = stored(6, &opaques).into_iter().map(SubtaskEntry::Inline).collect();
    let needed = |parallelism, seat| {
        let needed = Sources::new(&entries, MAX, parallelism).of_seats(&[Subtask(seat)]);
        needed.into_iter().collect::<Vec<_>>()
    };
    assert_eq!(needed(6, 1), [1, 3]);
    assert_eq!(needed(12, 1), [0, 2, 3]);
    assert_eq!(needed(2, 1), [2, 3, 4, 5]);
    // What belongs to an index goes to it, or to subtask 0.
    assert_eq!(needed(12, 5), [2, 3, 5]);
    assert_eq!(needed(3, 0), [0, 1, 2, 3, 5]);
}

#[test]
fn ten_thousand_subtasks_are_planned_for_ten_thousand_others() {
    let (max, old) = (32_768, 10_000u32);
    let subtask = |index: u32| {
        let range = subtask_range(max, old, index);
        let thirds = (range.start..range.end).filter(|group| group % 3 == 0).map(KeyGroup).collect();
        SubtaskManifest {
            subtask: Subtask(index),
            groups: range.into(),
            watermark: Timestamp::MIN,
            segments: vec![segment(0, range.into()), segment(1, thirds)],
            opaques: Vec::new(),
            times: Vec::new(),
            heat: vec![Warmth(7); range.len()],
        }
    };
    let subtasks: Vec<_> = (0..old).map(subtask).collect();
    let stored = StoredOperator { parallelism: old, tables: Vec::new(), subtasks };
    let seats: Vec<_> = (0..9_999).map(Subtask).collect();
    let plan = OperatorPlan::of_seats(OperatorId(1), (max, 9_999), &stored, &seats).unwrap();
    let pairs: usize = plan.shares.iter().map(|share| share.segments.len()).sum();
    assert!((20_000..50_000).contains(&pairs), "{pairs}");
    assert!(plan.shares.iter().all(|share| share.heat == vec![Warmth(7); share.groups.len()]));
}
