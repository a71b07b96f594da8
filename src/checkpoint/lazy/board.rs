//! What a lazy restore knows of each absent group: how far it has come, who waits, what is next. No I/O.

use std::collections::{BTreeMap, VecDeque};
use std::task::Waker;

use crate::backend::{Arrived, ArrivedContent};
use crate::error::{Error, ErrorKind, Result, broken};
use crate::key_group::{KeyGroup, KeyGroupSet};

use crate::checkpoint::load_order::{GroupLoads, by_smiths_rule};

/// How far an absent group has come.
#[derive(Debug)]
enum Stage {
    Absent,
    /// With the ticket of its unit: what comes of an older one is stale.
    Loading(Ticket),
    Loaded(ArrivedContent),
    /// Damage stays. Any other error is for all who wait now; the next request has the group loaded again.
    Failed(Error),
}

/// Identifies a unit of groups that are loaded together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Ticket(u64);

/// The absent groups of one subtask. A group that is not here is resident.
#[derive(Debug, Default)]
pub(super) struct Board {
    stages: BTreeMap<KeyGroup, Stage>,
    /// Stored bytes of the groups in the restored checkpoint.
    sizes: BTreeMap<KeyGroup, u64>,
    last_ticket: Ticket,
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
}

impl Board {
    /// Returns the board of a restore of the groups of `loads`, all absent.
    pub(super) fn new(loads: &GroupLoads) -> Self {
        let mut order = by_smiths_rule(loads);
        order.reverse();
        Self {
            stages: loads.keys().map(|group| (*group, Stage::Absent)).collect(),
            sizes: loads.iter().map(|(group, load)| (*group, load.bytes)).collect(),
            order,
            ..Self::default()
        }
    }

    /// Adds groups that are not being loaded to the end of the requests. A passing error is forgotten.
    pub(super) fn request(&mut self, groups: &KeyGroupSet) {
        for group in groups.iter() {
            match self.stages.get_mut(&group) {
                Some(Stage::Absent) => {}
                Some(stage @ Stage::Failed(_)) if !stage.is_permanent() => *stage = Stage::Absent,
                _ => continue,
            }
            if !self.requested.contains(&group) {
                self.requested.push_back(group);
            }
        }
    }

    pub(super) fn has_requests(&self) -> bool {
        !self.requested.is_empty()
    }

    /// Returns requested groups, or else the next groups in the order of the background, of up to `bytes` together. They
    /// count as being loaded. `None` if there is nothing to load.
    pub(super) fn next_unit(&mut self, bytes: u64, requests_only: bool) -> Option<(KeyGroupSet, Ticket)> {
        if self.ended.is_some() {
            return None;
        }
        let ticket = Ticket(self.last_ticket.0 + 1);
        self.last_ticket = ticket;
        let mut unit = Vec::new();
        let mut total = 0u64;
        while let Some(group) = self.next_group(requests_only) {
            total = total.saturating_add(self.bytes_of(group));
            if total > bytes && !unit.is_empty() {
                self.put_back(group);
                break;
            }
            self.stages.insert(group, Stage::Loading(ticket));
            unit.push(group);
            // A request waits for no other group.
            if self.wanted.contains_key(&group) {
                break;
            }
        }
        (!unit.is_empty()).then(|| (unit.into_iter().collect(), ticket))
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
        self.sizes.get(&group).copied().unwrap_or(0)
    }

    /// Returns those of `groups` that are being loaded under `ticket`.
    pub(super) fn loading(&self, groups: &KeyGroupSet, ticket: Ticket) -> KeyGroupSet {
        groups.iter().filter(|group| self.is_loading(*group, ticket)).collect()
    }

    /// Returns the absent groups, however far they have come.
    pub(super) fn absent(&self) -> KeyGroupSet {
        self.stages.keys().copied().collect()
    }

    /// Returns how many groups are being loaded.
    pub(super) fn loads(&self) -> usize {
        let is_loading = |stage: &&Stage| matches!(stage, Stage::Loading(_));
        if self.ended.is_some() { 0 } else { self.stages.values().filter(is_loading).count() }
    }

    fn is_loading(&self, group: KeyGroup, ticket: Ticket) -> bool {
        matches!(self.stages.get(&group), Some(Stage::Loading(own)) if *own == ticket)
    }

    /// Records that a group is loaded. A group that was dropped or taken back meanwhile stays as it is. Returns whether
    /// the content is used.
    pub(super) fn loaded(&mut self, group: KeyGroup, ticket: Ticket, content: ArrivedContent) -> bool {
        let is_current = self.is_loading(group, ticket);
        if is_current {
            self.stages.insert(group, Stage::Loaded(content));
        }
        is_current
    }

    /// Records that those of `unit` that are still being loaded cannot be loaded, and returns them.
    pub(super) fn fail(&mut self, unit: &KeyGroupSet, ticket: Ticket, error: &Error) -> KeyGroupSet {
        if matches!(error.kind(), ErrorKind::Fenced | ErrorKind::Stopped) {
            self.end(error.clone());
        }
        self.parked |= error.kind() == ErrorKind::Limit;
        let failed = self.loading(unit, ticket);
        for group in failed.iter() {
            let stage = if is_permanent(error) || self.wanted.contains_key(&group) {
                Stage::Failed(error.clone().with("group", group))
            } else {
                // In its turn again, after all others.
                self.order.insert(0, group);
                Stage::Absent
            };
            self.stages.insert(group, stage);
        }
        failed
    }

    /// Ends all loading: who waits gets `error`.
    pub(super) fn end(&mut self, error: Error) {
        self.ended.get_or_insert(error);
    }

    /// Returns why nothing will be loaded any more.
    pub(super) fn ended(&self) -> Option<ErrorKind> {
        self.ended.as_ref().map(Error::kind)
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
            Some(Stage::Failed(error)) => Some(Err(error.clone())),
            Some(Stage::Absent | Stage::Loading(_)) => self.ended.clone().map(Err),
            None => broken("a group that is waited for is absent"),
        }
    }

    /// Takes all groups that cost nothing to adopt.
    pub(super) fn take_loaded(&mut self) -> Vec<Arrived> {
        let is_loaded = |stage: &Stage| matches!(stage, Stage::Loaded(ArrivedContent::Loaded(_)));
        let loaded: Vec<_> = self.stages.extract_if(.., |_, stage| is_loaded(stage)).collect();
        let arrived = |(group, stage)| match stage {
            Stage::Loaded(content) => Some(Arrived { groups: std::iter::once(group).collect(), content }),
            Stage::Absent | Stage::Loading(_) | Stage::Failed(_) => None,
        };
        loaded.into_iter().filter_map(arrived).collect()
    }

    /// Makes groups absent again. Returns those that somebody waits for.
    pub(super) fn take_back(&mut self, groups: &KeyGroupSet) -> KeyGroupSet {
        self.stages.extend(groups.iter().map(|group| (group, Stage::Absent)));
        groups.iter().filter(|group| self.is_wanted(*group)).collect()
    }

    /// Drops the content of loaded groups, which nobody will take any more.
    pub(super) fn drop_loaded(&mut self) {
        let loaded = self.stages.values_mut().filter(|stage| matches!(stage, Stage::Loaded(_)));
        loaded.for_each(|stage| *stage = Stage::Absent);
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
    pub(super) fn are_ready(&self, groups: &KeyGroupSet) -> Result<bool> {
        for group in groups.iter() {
            match self.stages.get(&group) {
                None | Some(Stage::Loaded(_)) => {}
                Some(Stage::Failed(error)) => return Err(error.clone()),
                Some(Stage::Absent | Stage::Loading(_)) => return self.ended.clone().map_or(Ok(false), Err),
            }
        }
        Ok(true)
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

impl Stage {
    fn is_permanent(&self) -> bool {
        matches!(self, Self::Failed(error) if is_permanent(error))
    }
}

/// Returns whether another attempt would meet the same error.
pub(super) fn is_permanent(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Version)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::lazy::UNIT_BYTES;
    use crate::checkpoint::load_order::GroupLoad;

    fn board(sizes: &[(u16, u64, f64)]) -> Board {
        let load =
            |(group, bytes, uses): &(u16, u64, f64)| (KeyGroup(*group), GroupLoad { bytes: *bytes, uses: *uses });
        Board::new(&sizes.iter().map(load).collect())
    }

    fn units(board: &mut Board, bytes: u64) -> Vec<Vec<u16>> {
        let next = || board.next_unit(bytes, false);
        std::iter::from_fn(next).map(|(unit, _)| unit.iter().map(|group| group.0).collect()).collect()
    }

    fn set(groups: &[u16]) -> KeyGroupSet {
        groups.iter().map(|group| KeyGroup(*group)).collect()
    }

    fn rows() -> ArrivedContent {
        ArrivedContent::Rows(Vec::new())
    }

    /// The optimum loads groups by their exact uses per byte, and part of a group where it helps.
    #[test]
    fn after_each_unit_the_served_share_is_within_five_points_of_the_optimum() {
        for skew in [0.0, 0.5, 0.99, 1.5] {
            let rank = |group: u16| f64::from(u32::from(group) * 389 % 1024 + 1);
            let group =
                |group: u16| (group, 60_000 + u64::from(group) * 7919 % 80_000, 1000.0 * rank(group).powf(-skew));
            let groups: Vec<_> = (0..1024).map(group).collect();
            let all = |of: fn(&(u16, u64, f64)) -> f64| groups.iter().map(of).sum::<f64>();
            let (bytes, uses) = (all(|(_, bytes, _)| *bytes as f64), all(|(.., uses)| *uses));
            let mut best = groups.clone();
            best.sort_by(|a, b| (b.2 / b.1 as f64).total_cmp(&(a.2 / a.1 as f64)));
            let optimum = |most: f64| {
                let (mut left, mut served) = (most, 0.0);
                for (_, bytes, uses) in &best {
                    let part = (left / *bytes as f64).clamp(0.0, 1.0);
                    (left, served) = (left - part * *bytes as f64, served + part * uses);
                }
                served
            };
            let (mut loaded, mut served) = (0.0, 0.0);
            for unit in units(&mut board(&groups), UNIT_BYTES) {
                for group in unit {
                    let (_, bytes_of, uses_of) = groups[usize::from(group)];
                    (loaded, served) = (loaded + bytes_of as f64, served + uses_of);
                }
                let gap = (optimum(loaded) - served) / uses;
                assert!(gap <= 0.05, "skew {skew}: {gap} behind after {} of the bytes", loaded / bytes);
            }
        }
    }

    #[test]
    fn small_groups_are_loaded_together() {
        let groups: Vec<_> = (0..6u16).map(|group| (group, 10, f64::from(6 - group))).collect();
        assert_eq!(units(&mut board(&groups), 25), [[0, 1], [2, 3], [4, 5]]);
    }

    #[test]
    fn requests_come_first_and_alone_if_somebody_waits() {
        let mut board = board(&[(0, 10, 9.0), (1, 10, 1.0), (2, 10, 1.0), (3, 10, 2.0)]);
        board.request(&set(&[2, 1]));
        board.want(&set(&[2]));
        assert_eq!(board.next_unit(100, true).unwrap().0, set(&[1, 2]));
        assert_eq!(board.next_unit(100, true), None, "nothing else was requested");
        assert_eq!(units(&mut board, 100), [[0, 3]]);
    }

    #[test]
    fn a_passing_error_is_for_all_who_wait_now() {
        let mut board = board(&[(0, 10, 2.0), (1, 10, 1.0)]);
        let (unit, ticket) = board.next_unit(100, false).unwrap();
        assert_eq!(unit, set(&[0, 1]));
        board.want(&set(&[0]));
        board.want(&set(&[0]));
        board.fail(&unit, ticket, &Error::unavailable("the store is down"));
        for _ in 0..2 {
            assert_eq!(board.take(KeyGroup(0)).unwrap().unwrap_err().kind(), ErrorKind::Unavailable);
        }
        assert!(board.take(KeyGroup(1)).is_none(), "nobody waited for it");
        board.request(&set(&[0]));
        assert!(board.take(KeyGroup(0)).is_none(), "the next one waits for another load");
        assert_eq!(units(&mut board, 100), [[0], [1]]);
    }

    #[test]
    fn what_a_stale_load_brings_is_dropped() {
        let mut board = board(&[(0, 10, 2.0)]);
        let (unit, stale) = board.next_unit(100, false).unwrap();
        board.take_back(&unit);
        board.request(&unit);
        let (_, ticket) = board.next_unit(100, true).unwrap();
        assert!(!board.loaded(KeyGroup(0), stale, rows()));
        board.fail(&unit, stale, &Error::corrupt("an old segment"));
        assert!(board.take(KeyGroup(0)).is_none());
        assert!(board.loaded(KeyGroup(0), ticket, rows()));
        assert!(board.take(KeyGroup(0)).unwrap().is_ok());
    }

    #[test]
    fn groups_that_are_taken_back_are_loaded_for_those_who_wait() {
        let mut board = board(&[(0, 10, 2.0), (1, 10, 1.0)]);
        let (unit, ticket) = board.next_unit(100, false).unwrap();
        assert!(unit.iter().all(|group| board.loaded(group, ticket, rows())));
        board.want(&set(&[1]));
        unit.iter().for_each(|group| drop(board.take(group)));
        assert_eq!(board.take_back(&unit), set(&[1]));
    }

    #[test]
    fn damage_stays_with_its_group() {
        let mut board = board(&[(0, 10, 2.0), (1, 10, 1.0)]);
        let (unit, ticket) = board.next_unit(0, false).unwrap();
        assert_eq!(unit, set(&[0]));
        board.fail(&unit, ticket, &Error::corrupt("hash differs"));
        for _ in 0..2 {
            board.request(&unit);
            let error = board.take(KeyGroup(0)).unwrap().unwrap_err();
            assert!(error.kind() == ErrorKind::Corrupt && error.chain().contains("group=`0`"), "{}", error.chain());
        }
        assert_eq!(board.damaged().len(), 1);
        let (unit, ticket) = board.next_unit(0, false).unwrap();
        assert_eq!(unit, set(&[1]), "the others are loaded");
        board.loaded(KeyGroup(1), ticket, rows());
        assert!(board.are_ready(&set(&[1])).unwrap() && board.are_ready(&set(&[0, 1])).is_err());
    }

    #[test]
    fn a_spent_budget_stops_the_background_but_no_request() {
        let mut board = board(&[(0, 10, 2.0), (1, 10, 1.0)]);
        let (unit, ticket) = board.next_unit(0, false).unwrap();
        board.fail(&unit, ticket, &Error::limit("no memory"));
        assert_eq!(board.next_unit(0, false), None);
        board.request(&set(&[1]));
        assert_eq!(board.next_unit(0, false).unwrap().0, set(&[1]));
    }

    #[test]
    fn everybody_learns_of_the_end() {
        let mut board = board(&[(0, 10, 2.0), (1, 10, 1.0)]);
        let (unit, ticket) = board.next_unit(0, false).unwrap();
        board.fail(&unit, ticket, &Error::fenced("a newer attempt"));
        assert_eq!(board.take(KeyGroup(1)).unwrap().unwrap_err().kind(), ErrorKind::Fenced);
        assert_eq!(board.are_ready(&set(&[0])).unwrap_err().kind(), ErrorKind::Fenced);
        assert_eq!(board.next_unit(0, false), None);
    }
}
