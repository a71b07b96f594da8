//! What a lazy restore knows of each absent group: how far it has come, who waits, what is next. No I/O.

use std::collections::{BTreeMap, VecDeque};
use std::task::Waker;

use crate::backend::{Arrived, ArrivedContent};
use crate::error::{Error, ErrorKind, Result, broken};
use crate::key_group::{KeyGroup, KeyGroupSet};

use super::progress::RestoreProgress;
use crate::checkpoint::uses::GroupUses;

/// How far an absent group has come.
#[derive(Debug)]
enum Stage {
    Absent,
    Loading,
    Loaded(ArrivedContent),
    /// Damage stays. Any other error is for who waits now; the next one who asks has the group loaded again.
    Failed(Error),
}

/// Bytes that a group counts for beside its own, when groups are put in order.
const GROUP_BYTES: u64 = 4096;

/// The absent groups of one subtask. A group that is not here is resident.
#[derive(Debug, Default)]
pub(super) struct Board {
    stages: BTreeMap<KeyGroup, Stage>,
    /// Stored bytes and share of the traffic of the groups of the restored checkpoint.
    sizes: BTreeMap<KeyGroup, (u64, f64)>,
    /// Groups to load in the background, the next one last.
    order: Vec<KeyGroup>,
    requested: VecDeque<KeyGroup>,
    /// How many wait for a group, or keep it from being evicted.
    wanted: BTreeMap<KeyGroup, usize>,
    wakers: Vec<Waker>,
    /// Lanes that serve requests alone.
    pub(super) urgent: usize,
    /// Whether the background has stopped, because the memory budget is spent.
    parked: bool,
    /// Why nothing will be loaded any more.
    ended: Option<Error>,
    pub(super) progress: RestoreProgress,
}

impl Board {
    /// Returns the board of a restore of `groups`, all absent.
    ///
    /// * `sizes`: their stored bytes.
    /// * `uses`: how much they were used.
    pub(super) fn new(groups: &KeyGroupSet, sizes: &BTreeMap<KeyGroup, u64>, uses: &GroupUses) -> Self {
        let weight = |group| uses.of(group);
        let all: f64 = groups.iter().map(weight).sum();
        // Without a record all are alike.
        #[expect(clippy::cast_precision_loss, reason = "fewer than 2^15 groups")]
        let share = |group| if all > 0.0 { weight(group) / all } else { 1.0 / groups.len() as f64 };
        let size = |group: KeyGroup| sizes.get(&group).copied().unwrap_or(0);
        let sizes: BTreeMap<_, _> = groups.iter().map(|group| (group, (size(group), share(group)))).collect();
        let bytes = sizes.values().map(|(bytes, _)| bytes).sum();
        Self {
            stages: groups.iter().map(|group| (group, Stage::Absent)).collect(),
            order: by_smiths_rule(&sizes),
            sizes,
            progress: RestoreProgress { groups: groups.len(), bytes, ..RestoreProgress::default() },
            ..Self::default()
        }
    }

    /// Moves groups that are not being loaded to the end of the requests.
    pub(super) fn request(&mut self, groups: &KeyGroupSet) {
        for group in groups.iter() {
            if matches!(self.stages.get(&group), Some(Stage::Absent)) && !self.requested.contains(&group) {
                self.requested.push_back(group);
            }
        }
    }

    pub(super) fn has_requests(&self) -> bool {
        !self.requested.is_empty()
    }

    /// Returns requested groups, or else the next groups in the order of the background, of up to `bytes` together. They
    /// count as being loaded. `None` if there is nothing to load.
    pub(super) fn next_unit(&mut self, bytes: u64, requests_only: bool) -> Option<KeyGroupSet> {
        if self.ended.is_some() {
            return None;
        }
        let mut unit = Vec::new();
        let mut total = 0u64;
        while let Some(group) = self.next_group(requests_only) {
            total = total.saturating_add(self.bytes_of(group));
            if total > bytes && !unit.is_empty() {
                self.put_back(group);
                break;
            }
            self.stages.insert(group, Stage::Loading);
            unit.push(group);
            // A request waits for no other group.
            if self.wanted.contains_key(&group) {
                break;
            }
        }
        (!unit.is_empty()).then(|| unit.into_iter().collect())
    }

    fn next_group(&mut self, requests_only: bool) -> Option<KeyGroup> {
        loop {
            let next = match self.requested.pop_front() {
                Some(group) => group,
                None if requests_only || self.parked => return None,
                None => self.order.pop()?,
            };
            if matches!(self.stages.get(&next), Some(Stage::Absent)) {
                return Some(next);
            }
        }
    }

    fn put_back(&mut self, group: KeyGroup) {
        if self.wanted.contains_key(&group) { self.requested.push_front(group) } else { self.order.push(group) }
    }

    fn bytes_of(&self, group: KeyGroup) -> u64 {
        self.sizes.get(&group).map_or(0, |(bytes, _)| *bytes)
    }

    /// Returns those of `groups` that are being loaded.
    pub(super) fn loading(&self, groups: &KeyGroupSet) -> KeyGroupSet {
        groups.iter().filter(|group| matches!(self.stages.get(group), Some(Stage::Loading))).collect()
    }

    /// Records that a group is loaded.
    pub(super) fn loaded(&mut self, group: KeyGroup, content: ArrivedContent) {
        // A group that was dropped meanwhile is forgotten.
        if let Some(stage) = self.stages.get_mut(&group) {
            *stage = Stage::Loaded(content);
            if let Some((bytes, share)) = self.sizes.remove(&group) {
                self.progress.add(bytes, share);
            }
        }
    }

    /// Records that those of `unit` that are still being loaded cannot be loaded.
    pub(super) fn fail(&mut self, unit: &KeyGroupSet, error: &Error) {
        if matches!(error.kind(), ErrorKind::Fenced | ErrorKind::Stopped) {
            self.end(error.clone());
        }
        self.parked |= error.kind() == ErrorKind::Limit;
        for group in unit.iter() {
            let Some(stage @ Stage::Loading) = self.stages.get_mut(&group) else { continue };
            if is_permanent(error) || self.wanted.contains_key(&group) {
                let error = error.clone().with("group", group);
                *stage = Stage::Failed(error);
            } else {
                *stage = Stage::Absent;
                self.order.push(group);
            }
        }
    }

    /// Ends all loading: who waits gets `error`.
    pub(super) fn end(&mut self, error: Error) {
        self.ended.get_or_insert(error);
    }

    /// Returns a loaded group, which is resident from now on, or why it cannot be loaded; `None` while that is not known.
    pub(super) fn take(&mut self, group: KeyGroup) -> Option<Result<Arrived>> {
        match self.stages.get_mut(&group) {
            Some(Stage::Loaded(_)) => {
                let Some(Stage::Loaded(content)) = self.stages.remove(&group) else {
                    broken("a loaded group was found")
                };
                Some(Ok(Arrived { groups: std::iter::once(group).collect(), content }))
            }
            Some(Stage::Failed(_)) => self.failure(group).map(Err),
            Some(Stage::Absent | Stage::Loading) => self.ended.clone().map(Err),
            None => broken("a group that is waited for is absent"),
        }
    }

    /// Takes all groups that cost nothing to adopt.
    pub(super) fn take_loaded(&mut self) -> Vec<Arrived> {
        let is_loaded = |stage: &Stage| matches!(stage, Stage::Loaded(ArrivedContent::Loaded(_)));
        let loaded: Vec<_> = self.stages.extract_if(.., |_, stage| is_loaded(stage)).collect();
        let arrived = |(group, stage)| match stage {
            Stage::Loaded(content) => Some(Arrived { groups: std::iter::once(group).collect(), content }),
            Stage::Absent | Stage::Loading | Stage::Failed(_) => None,
        };
        loaded.into_iter().filter_map(arrived).collect()
    }

    /// Makes groups absent again.
    pub(super) fn take_back(&mut self, groups: &KeyGroupSet) {
        self.stages.extend(groups.iter().map(|group| (group, Stage::Absent)));
    }

    pub(super) fn forget(&mut self, groups: &KeyGroupSet) {
        self.stages.retain(|group, _| !groups.contains(*group));
    }

    /// Returns the groups that are damaged, each with its error.
    pub(super) fn damaged(&self) -> Vec<(KeyGroup, Error)> {
        let damaged = |(group, stage): (&KeyGroup, &Stage)| match stage {
            Stage::Failed(error) if is_permanent(error) => Some((*group, error.clone())),
            _ => None,
        };
        self.stages.iter().filter_map(damaged).collect()
    }

    /// Returns whether each of `groups` is loaded or resident; the first error if one cannot be loaded.
    pub(super) fn are_ready(&mut self, groups: &KeyGroupSet) -> Result<bool> {
        for group in groups.iter() {
            match self.stages.get(&group) {
                None | Some(Stage::Loaded(_)) => {}
                Some(Stage::Failed(_)) => return self.failure(group).map_or(Ok(false), Err),
                Some(Stage::Absent | Stage::Loading) => return self.ended.clone().map_or(Ok(false), Err),
            }
        }
        Ok(true)
    }

    /// Returns why a group failed. After a passing error it counts as absent again.
    fn failure(&mut self, group: KeyGroup) -> Option<Error> {
        let stage = self.stages.get_mut(&group)?;
        let Stage::Failed(error) = stage else { return None };
        let error = error.clone();
        if !is_permanent(&error) {
            *stage = Stage::Absent;
        }
        Some(error)
    }

    /// Records that somebody waits for `groups`, or uses them.
    pub(super) fn want(&mut self, groups: &KeyGroupSet) {
        groups.iter().for_each(|group| *self.wanted.entry(group).or_default() += 1);
    }

    /// Takes back a call of [`Board::want`].
    pub(super) fn unwant(&mut self, groups: &KeyGroupSet) {
        for group in groups.iter() {
            match self.wanted.get_mut(&group) {
                Some(count @ 2..) => *count -= 1,
                _ => drop(self.wanted.remove(&group)),
            }
        }
    }

    pub(super) fn is_wanted(&self, group: KeyGroup) -> bool {
        self.wanted.contains_key(&group)
    }

    pub(super) fn wake_later(&mut self, waker: &Waker) {
        if !self.wakers.iter().any(|other| other.will_wake(waker)) {
            self.wakers.push(waker.clone());
        }
    }

    pub(super) fn take_wakers(&mut self) -> Vec<Waker> {
        std::mem::take(&mut self.wakers)
    }
}

/// Returns whether another attempt would meet the same error.
fn is_permanent(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Version)
}

/// Returns the groups by uses per byte, the highest last. Loaded in this order, the least traffic waits, summed over time
/// (W. E. Smith, "Various optimizers for single-stage production", 1956).
fn by_smiths_rule(sizes: &BTreeMap<KeyGroup, (u64, f64)>) -> Vec<KeyGroup> {
    #[expect(clippy::cast_precision_loss, reason = "an order needs no more")]
    let priority = |(bytes, share): (u64, f64)| share / bytes.saturating_add(GROUP_BYTES) as f64;
    let mut order: Vec<_> = sizes.iter().map(|(group, size)| (priority(*size), *group)).collect();
    order.sort_by(|(a, first), (b, second)| a.total_cmp(b).then(second.cmp(first)));
    order.into_iter().map(|(_, group)| group).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn board(sizes: &[(u16, u64, f64)]) -> Board {
        let groups: KeyGroupSet = sizes.iter().map(|(group, ..)| KeyGroup(*group)).collect();
        let bytes = sizes.iter().map(|(group, bytes, _)| (KeyGroup(*group), *bytes)).collect();
        Board::new(&groups, &bytes, &sizes.iter().map(|(group, _, uses)| (KeyGroup(*group), *uses)).collect())
    }

    fn units(board: &mut Board, bytes: u64) -> Vec<Vec<u16>> {
        let next = || board.next_unit(bytes, false);
        std::iter::from_fn(next).map(|unit| unit.iter().map(|group| group.0).collect()).collect()
    }

    fn set(groups: &[u16]) -> KeyGroupSet {
        groups.iter().map(|group| KeyGroup(*group)).collect()
    }

    fn rows() -> ArrivedContent {
        ArrivedContent::Rows(Vec::new())
    }

    /// The example of the source: the least sum of weight times completion, by brute force, is 107.
    #[test]
    fn groups_come_by_uses_per_byte() {
        const UNIT: u64 = 1 << 30;
        let (weights, sizes) = ([5.0, 1.0, 8.0, 2.0, 4.0], [2, 1, 4, 4, 1]);
        let groups: Vec<_> = (0..5u16).zip(sizes).zip(weights).map(|((g, size), w)| (g, size * UNIT, w)).collect();
        assert_eq!(units(&mut board(&groups), 0), [[4], [0], [2], [1], [3]]);
        let alike: Vec<_> = (0..3u16).map(|group| (group, UNIT, 0.0)).collect();
        assert_eq!(units(&mut board(&alike), 0), [[0], [1], [2]], "without a record, by number");
    }

    #[test]
    fn small_groups_are_loaded_together() {
        let groups: Vec<_> = (0..6u16).map(|group| (group, 10, 1.0)).collect();
        assert_eq!(units(&mut board(&groups), 25), [[0, 1], [2, 3], [4, 5]]);
    }

    #[test]
    fn requests_come_first_and_alone_if_somebody_waits() {
        let mut board = board(&[(0, 10, 9.0), (1, 10, 1.0), (2, 10, 1.0), (3, 10, 2.0)]);
        board.request(&set(&[2, 1]));
        board.want(&set(&[2]));
        assert_eq!(board.next_unit(100, true), Some(set(&[1, 2])));
        assert_eq!(board.next_unit(100, true), None, "nothing else was requested");
        assert_eq!(units(&mut board, 100), [[0, 3]]);
    }

    #[test]
    fn a_passing_error_is_for_those_who_wait_now() {
        let mut board = board(&[(0, 10, 2.0), (1, 10, 1.0)]);
        let all = set(&[0, 1]);
        assert_eq!(board.next_unit(100, false), Some(all.clone()));
        board.want(&set(&[0]));
        board.fail(&all, &Error::unavailable("the store is down"));
        assert_eq!(board.take(KeyGroup(0)).unwrap().unwrap_err().kind(), ErrorKind::Unavailable);
        assert!(board.take(KeyGroup(0)).is_none() && board.take(KeyGroup(1)).is_none(), "both are absent again");
        board.request(&set(&[0]));
        assert_eq!(units(&mut board, 100), [[0], [1]]);
    }

    #[test]
    fn damage_stays_with_its_group() {
        let mut board = board(&[(0, 10, 2.0), (1, 10, 1.0)]);
        assert_eq!(board.next_unit(0, false), Some(set(&[0])));
        board.fail(&set(&[0]), &Error::corrupt("hash differs"));
        for _ in 0..2 {
            let error = board.take(KeyGroup(0)).unwrap().unwrap_err();
            assert!(error.kind() == ErrorKind::Corrupt && error.chain().contains("group=`0`"), "{}", error.chain());
        }
        assert_eq!(board.damaged().len(), 1);
        assert_eq!(board.next_unit(0, false), Some(set(&[1])), "the others are loaded");
        board.loaded(KeyGroup(1), rows());
        assert!(board.are_ready(&set(&[1])).unwrap() && board.are_ready(&set(&[0, 1])).is_err());
    }

    #[test]
    fn a_spent_budget_stops_the_background_but_no_request() {
        let mut board = board(&[(0, 10, 2.0), (1, 10, 1.0)]);
        board.next_unit(0, false).unwrap();
        board.fail(&set(&[0]), &Error::limit("no memory"));
        assert_eq!(board.next_unit(0, false), None);
        board.request(&set(&[1]));
        assert_eq!(board.next_unit(0, false), Some(set(&[1])));
    }

    #[test]
    fn everybody_learns_of_the_end() {
        let mut board = board(&[(0, 10, 2.0), (1, 10, 1.0)]);
        board.next_unit(0, false).unwrap();
        board.fail(&set(&[0]), &Error::fenced("a newer attempt"));
        assert_eq!(board.take(KeyGroup(1)).unwrap().unwrap_err().kind(), ErrorKind::Fenced);
        assert_eq!(board.are_ready(&set(&[0])).unwrap_err().kind(), ErrorKind::Fenced);
        assert_eq!(board.next_unit(0, false), None);
    }

    #[test]
    fn progress_counts_each_group_of_the_checkpoint_once() {
        let mut board = board(&[(0, 30, 3.0), (1, 10, 1.0)]);
        for _ in 0..2 {
            board.loaded(KeyGroup(0), rows());
            board.take(KeyGroup(0)).unwrap().unwrap();
            let progress = board.progress;
            assert_eq!((progress.loaded_groups, progress.loaded_bytes, progress.ready_share), (1, 30, 0.75));
            board.take_back(&set(&[0]));
        }
        assert_eq!((board.progress.groups, board.progress.bytes), (2, 40));
    }
}
