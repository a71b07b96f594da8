//! How far a restore has come.

use std::iter::Sum;
use std::time::Duration;

use crate::error::ErrorKind;

/// How far the restore of a subtask has come, or the restores of several: add them up with `sum()`.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[non_exhaustive]
pub struct RestoreProgress {
    /// Key groups to load. One that is dropped before it is loaded counts no longer.
    pub groups: usize,
    /// Of these, those that are loaded.
    pub loaded_groups: usize,
    /// Of these, those that cannot be loaded: see [`Task::damaged_groups`](crate::Task::damaged_groups).
    pub damaged_groups: usize,
    /// Stored bytes of the groups. A block of several groups counts for its first; segments up to 32 KiB count for none.
    pub bytes: u64,
    /// Of these, those that are loaded.
    pub loaded_bytes: u64,
    /// Recent reads and writes of the groups, as the checkpoint recorded them; 0 if it recorded none.
    pub uses: f64,
    /// Of these, those of loaded groups.
    pub loaded_uses: f64,
    /// From the start of the restore until now, or until it ended, to the millisecond. Of several: the longest.
    pub elapsed: Duration,
    /// Why the restore ended before all groups were loaded: `Stopped` if the task was dropped, `Fenced` if a newer attempt
    /// took over, or the kind of error that [`Seat::restore`](crate::Seat::restore) returned.
    pub failed: Option<ErrorKind>,
}

impl RestoreProgress {
    /// Returns whether all groups have been loaded.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.failed.is_none() && self.loaded_groups == self.groups
    }

    /// Returns whether no further group will be loaded: all are, or are damaged, or the restore failed.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.failed.is_some() || self.loaded_groups.saturating_add(self.damaged_groups) == self.groups
    }

    /// Returns the share of the recorded traffic that no longer waits, from 0 to 1: of the uses of all groups, those of
    /// loaded ones. Without a record every group counts the same.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a share of far fewer than 2^53 groups")]
    pub fn ready_share(&self) -> f64 {
        match self.uses > 0.0 {
            // Sums in another order may differ in their last digits.
            _ if self.is_complete() => 1.0,
            true => (self.loaded_uses / self.uses).clamp(0.0, 1.0),
            false => self.loaded_groups as f64 / self.groups.max(1) as f64,
        }
    }

    /// Returns the stored bytes loaded per second so far; `None` in the first millisecond.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    pub fn bytes_per_s(&self) -> Option<f64> {
        (!self.elapsed.is_zero()).then(|| self.loaded_bytes as f64 / self.elapsed.as_secs_f64())
    }

    /// Adds the progress of another subtask's restore.
    #[must_use]
    pub fn merge(self, other: Self) -> Self {
        Self {
            groups: self.groups.saturating_add(other.groups),
            loaded_groups: self.loaded_groups.saturating_add(other.loaded_groups),
            damaged_groups: self.damaged_groups.saturating_add(other.damaged_groups),
            bytes: self.bytes.saturating_add(other.bytes),
            loaded_bytes: self.loaded_bytes.saturating_add(other.loaded_bytes),
            uses: self.uses + other.uses,
            loaded_uses: self.loaded_uses + other.loaded_uses,
            elapsed: self.elapsed.max(other.elapsed),
            failed: self.failed.or(other.failed),
        }
    }
}

impl Sum for RestoreProgress {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), Self::merge)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(groups: usize, loaded_groups: usize, uses: f64, loaded_uses: f64) -> RestoreProgress {
        RestoreProgress { groups, loaded_groups, uses, loaded_uses, ..RestoreProgress::default() }
    }

    #[test]
    fn a_subtask_weighs_as_much_as_it_was_used() {
        let (busy, idle) = (progress(2, 1, 90.0, 90.0), progress(2, 1, 10.0, 0.0));
        let both = |a, b| [a, b].into_iter().sum::<RestoreProgress>();
        assert_eq!((busy.ready_share(), idle.ready_share()), (1.0, 0.0));
        assert_eq!(both(busy, idle).ready_share(), 0.9);
        assert_eq!(both(busy, progress(6, 1, 0.0, 0.0)).ready_share(), 1.0, "no traffic is recorded of the other");
        assert_eq!(both(progress(2, 1, 0.0, 0.0), progress(6, 1, 0.0, 0.0)).ready_share(), 0.25);
        assert_eq!(RestoreProgress::default().ready_share(), 1.0, "nothing waits for nothing");
    }

    #[test]
    fn the_longest_restore_sets_the_time() {
        let of = |loaded_bytes, millis| {
            let elapsed = Duration::from_millis(millis);
            RestoreProgress { bytes: 4000, loaded_bytes, elapsed, ..progress(1, 0, 0.0, 0.0) }
        };
        let both: RestoreProgress = [of(1000, 500), of(2000, 2000)].into_iter().sum();
        assert_eq!((both.bytes, both.loaded_bytes, both.bytes_per_s()), (8000, 3000, Some(1500.0)));
        assert_eq!(of(1000, 0).bytes_per_s(), None);
    }

    #[test]
    fn a_restore_ends_complete_damaged_or_failed() {
        let ends = |progress: RestoreProgress| (progress.is_complete(), progress.has_ended());
        assert_eq!(ends(progress(2, 1, 0.0, 0.0)), (false, false));
        assert_eq!(ends(progress(2, 2, 0.0, 0.0)), (true, true));
        assert_eq!(ends(RestoreProgress { damaged_groups: 1, ..progress(2, 1, 0.0, 0.0) }), (false, true));
        let failed = RestoreProgress { failed: Some(ErrorKind::Fenced), ..RestoreProgress::default() };
        assert_eq!(ends([progress(2, 2, 0.0, 0.0), failed].into_iter().sum()), (false, true));
    }
}
