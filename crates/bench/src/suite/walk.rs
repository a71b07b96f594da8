//! The order of touches of a writer that dirties a fixed share of the keys per second.

use std::time::Duration;

use super::workload::BATCH;
use crate::random::Random;

/// Share of the keys touched for the first time after a barrier, per second.
const DIRTY_PER_S: f64 = 0.1;

/// An endless walk over all keys in random order. Keys passed since the last barrier are dirty.
#[derive(Debug)]
pub(super) struct Walk {
    order: Vec<u32>,
    walked: usize,
    /// Passed keys up to the last barrier.
    sealed: usize,
    /// Passed keys before the clock started.
    before: usize,
    random: Random,
}

impl Walk {
    /// Returns a walk over positions `0..count`.
    pub(super) fn new(count: usize, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut order: Vec<_> = (0..u32::try_from(count).unwrap_or(u32::MAX)).collect();
        for at in (1..order.len()).rev() {
            let other = below(&mut random, at + 1);
            order.swap(at, other);
        }
        Self { order, walked: 0, sealed: 0, before: 0, random }
    }

    /// Returns all positions in walk order.
    pub(super) fn order(&self) -> &[u32] {
        &self.order
    }

    /// Returns the number of dirty keys.
    pub(super) fn dirty(&self) -> usize {
        self.walked - self.sealed
    }

    /// Returns the number of keys passed since the clock started.
    pub(super) fn walked(&self) -> usize {
        self.walked - self.before
    }

    /// Starts the pacing clock.
    pub(super) fn start(&mut self) {
        (self.sealed, self.before) = (self.walked, self.walked);
    }

    /// Marks all keys clean, as a barrier does.
    pub(super) fn barrier(&mut self) {
        self.sealed = self.walked;
    }

    /// Passes the next clean key, if any.
    pub(super) fn step(&mut self) -> Option<u32> {
        let next = self.order.get(self.walked % self.order.len().max(1)).filter(|_| self.dirty() < self.order.len());
        self.walked += usize::from(next.is_some());
        next.copied()
    }

    /// Replaces `positions` by the batch at `elapsed` since the start: the clean keys due by then, but at least one if
    /// none is dirty; dirty keys fill the rest.
    pub(super) fn draw(&mut self, elapsed: Duration, positions: &mut Vec<u32>) {
        positions.clear();
        let due = self.due(elapsed).saturating_sub(self.walked()).max(usize::from(self.dirty() == 0));
        positions.extend((0..due.min(BATCH)).map_while(|_| self.step()));
        let dirty = self.dirty();
        if dirty > 0 {
            let rest = BATCH - positions.len();
            positions.extend((0..rest).filter_map(|_| {
                let at = self.sealed + below(&mut self.random, dirty);
                self.order.get(at % self.order.len())
            }));
        }
    }

    /// Returns the number of keys due by `elapsed`.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "nothing is below 0; years are not run"
    )]
    fn due(&self, elapsed: Duration) -> usize {
        (self.order.len() as f64 * DIRTY_PER_S * elapsed.as_secs_f64()) as usize
    }
}

/// Draws a number below `bound`.
fn below(random: &mut Random, bound: usize) -> usize {
    usize::try_from(random.draw() % bound.max(1) as u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn clean_keys_follow_the_pace_and_dirty_keys_fill_the_batch() {
        let mut walk = Walk::new(1000, 7);
        let mut positions = Vec::new();
        walk.start();
        walk.draw(Duration::ZERO, &mut positions);
        assert_eq!((walk.dirty(), positions.len()), (1, BATCH), "one, although none is due");
        walk.draw(Duration::from_secs(1), &mut positions);
        assert_eq!((walk.dirty(), walk.walked()), (100, 100));
        let touched: BTreeSet<_> = positions.iter().copied().collect();
        assert!(touched.iter().all(|position| walk.order()[..100].contains(position)));
        walk.barrier();
        walk.draw(Duration::from_secs(2), &mut positions);
        assert_eq!((walk.dirty(), walk.walked()), (100, 200));
        assert!(positions.iter().all(|position| walk.order()[100..200].contains(position)));
    }

    #[test]
    fn a_walk_passes_each_key_once_and_starts_over() {
        let mut walk = Walk::new(10, 7);
        walk.start();
        let passed: BTreeSet<_> = (0..20).filter_map(|_| walk.step()).collect();
        assert_eq!((passed.len(), walk.dirty()), (10, 10), "all are dirty");
        walk.barrier();
        assert_eq!(walk.step(), walk.order().first().copied());
        let (mut none, mut positions) = (Walk::new(0, 7), vec![1]);
        none.draw(Duration::from_secs(9), &mut positions);
        assert!(positions.is_empty() && none.step().is_none());
    }
}
