//! Moving cold records to the disk, before memory runs out.
//!
//! The oldest frozen region of a group goes first: what is written or read often has newer records. Groups take turns, so
//! that one without traffic loses its memory to the others. A region of mostly live records is written as it is, and so is
//! one that a sealed part shares, which then reads it from the disk; of any other only the survivors are written. Where
//! nothing but tails is left, they are frozen early: the next delta has their regions, too.

use std::sync::Arc;

use crate::error::{ErrorKind, Result, broken};
use crate::key_group::KeyGroup;
use crate::row::Rules;

use super::LogBackend;
use super::arena::Frozen;
use super::group::Group;
use super::region::Section;

/// The least bytes to move for what the budget refused.
const DEMOTED_TO_RETRY_BYTES: u64 = 1 << 20;

/// After a search that found nothing to move, memory must grow by this much before the next.
const FRUITLESS_BYTES: u64 = 64 * 1024;

/// The least tail that is frozen early.
const SMALL_TAIL_BYTES: usize = 2 * 1024;

/// Where the search for cold records stands.
#[derive(Debug, Default)]
pub(super) struct Demotion {
    /// The group that was looked at last.
    last: usize,
    /// Bytes held in memory when nothing was left to move.
    fruitless_bytes: Option<u64>,
    /// Bytes that other owners of the budget had ever given back when it last refused something.
    released_before: u64,
}

/// Regions that were frozen before the seal whose delta has them.
#[derive(Debug, Default)]
pub(super) struct FrozenEarly {
    pub(super) regions: Vec<Arc<Frozen>>,
    pub(super) rows: u64,
    pub(super) bytes: u64,
}

impl Group {
    /// Moves the oldest frozen region to the disk. Returns false if there is none.
    ///
    /// # Errors
    /// `Limit` if the disk is full; `Unavailable` if it fails; `Corrupt` if it returns other bytes than were written.
    fn demote_oldest(&mut self, rules: &Rules) -> Result<bool> {
        let Some(oldest) = self.oldest(Section::Frozen) else { return Ok(false) };
        let tally = oldest.notes.tally();
        let fills_one = 2 * oldest.len() >= self.regions.region_bytes();
        let is_mostly_live = 2 * tally.bytes() >= oldest.len() as u64 && fills_one;
        if oldest.is_pinned() || oldest.notes.has_older_pieces || is_mostly_live {
            self.regions.demote_oldest()?;
        } else {
            self.clean_oldest(Section::Frozen, Section::Disk, rules)?;
        }
        self.regions.write_outgoing();
        Ok(true)
    }

    /// Freezes the tail, if it has at least `bytes` of records. Returns whether it did.
    fn freeze_early(&mut self, bytes: u64) -> bool {
        if self.unsealed().bytes() < bytes {
            return false;
        }
        let mut early = self.early.take().unwrap_or_default();
        early.rows += self.unsealed().records();
        early.bytes += self.unsealed().bytes();
        self.regions.freeze(|region| early.regions.push(region));
        self.early = Some(early);
        true
    }
}

impl LogBackend {
    /// Moves cold records to the disk while more memory is held than should be.
    #[inline]
    pub(super) fn relieve(&mut self) {
        if self.arena.budget().bytes_to_demote() > 0 {
            self.relieve_now();
        }
    }

    #[cold]
    fn relieve_now(&mut self) {
        let is_waited_for = self.arena.budget().is_waited_for();
        if is_waited_for {
            self.arena.release();
        }
        // Blocks that are kept for the next use are as good as free.
        let bytes = self.arena.budget().bytes_to_demote().saturating_sub(self.arena.free_bytes());
        let held = self.arena.budget().held_bytes();
        let may_move = |fruitless| is_waited_for || held > fruitless + FRUITLESS_BYTES;
        if bytes > 0 && self.demotion.fruitless_bytes.is_none_or(may_move) {
            self.demote_cold(bytes);
        }
    }

    /// Frees memory for what the budget refused: moves cold records to the disk or, if there are none left, waits until other
    /// owners of the budget give back some of theirs. Returns whether another try may succeed.
    pub(super) fn make_room_now(&mut self) -> bool {
        let budget = self.arena.budget();
        if budget.disk().is_none() {
            return false;
        }
        let (released, bytes) = (budget.released_by_others(), budget.bytes_to_demote().max(DEMOTED_TO_RETRY_BYTES));
        let moved = self.demote_cold(bytes);
        self.arena.release();
        // What others gave back since the last call may have come too late for the caller's try.
        let last = std::mem::replace(&mut self.demotion.released_before, released);
        moved || self.arena.budget().wait_for_others(last)
    }

    /// Moves about `bytes` of cold records to the disk, if it takes them. Returns whether it moved any.
    fn demote_cold(&mut self, bytes: u64) -> bool {
        let in_use = |backend: &Self| backend.arena.budget().held_bytes().saturating_sub(backend.arena.free_bytes());
        let before = in_use(self);
        let target = before.saturating_sub(bytes);
        let mut enough = |backend: &Self| in_use(backend) <= target;
        let moved = self.each_group_in_turn(&mut enough, |group, rules| group.demote_oldest(rules)).and_then(|()| {
            // Small tails would make small regions, and each takes some memory wherever it lies.
            [self.arena.region_bytes() / 2, SMALL_TAIL_BYTES].into_iter().try_for_each(|least| {
                self.each_group_in_turn(&mut enough, |group, rules| {
                    let frozen = group.freeze_early(least as u64);
                    while frozen && group.demote_oldest(rules)? {}
                    Ok(frozen)
                })
            })
        });
        if let Err(error) = moved
            && error.kind() != ErrorKind::Limit
        {
            tracing::warn!(error = %error.chain(), "cold state stays in memory");
        }
        self.demotion.fruitless_bytes = (!enough(self)).then(|| self.arena.budget().held_bytes());
        in_use(self) < before
    }

    /// Calls `step` with one group after the other, until `enough`, or no group had anything to move.
    fn each_group_in_turn(
        &mut self,
        enough: &mut impl FnMut(&Self) -> bool,
        mut step: impl FnMut(&mut Group, &Rules) -> Result<bool>,
    ) -> Result<()> {
        let mut without = 0;
        while without < self.groups.len() && !enough(self) {
            let next = (self.demotion.last + 1) % self.groups.len();
            self.demotion.last = next;
            let Ok(id) = u16::try_from(next).map(KeyGroup) else { broken("group numbers fit 16 bits") };
            let moved = match self.groups.get_mut(next) {
                Some(Some(group)) => step(group, self.rules.of(id))?,
                _ => false,
            };
            without = if moved { 0 } else { without + 1 };
        }
        Ok(())
    }
}
