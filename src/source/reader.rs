//! Reads the splits of one subtask in turn.

use std::fmt::Debug;
use std::future::poll_fn;
use std::task::Poll;

use super::SourceSettings;
use super::split::{Advance, Source, SplitId, SplitReader, StartAt};
use super::state::{SplitState, SubtaskState};
use super::watermark::SplitClock;
use crate::error::{Error, Result};
use crate::id::Subtask;
use crate::manifest::{Opaque, OpaqueRole};
use crate::time::Timestamp;

/// Records that a split gives before it is another's turn.
const BURST: u32 = 64;

/// Reads the splits that one subtask owns, and says how far it has come. `Seat::open_source` makes one.
///
/// Not for several threads: each subtask has its own.
#[derive(Debug)]
pub struct SourceReader<S: Source> {
    name: String,
    source: S,
    settings: SourceSettings,
    subtask: Subtask,
    parallelism: u32,
    splits: Vec<OpenSplit<S::Reader>>,
    /// The split of the current record, and how many more it may give in this turn.
    turn: usize,
    left: u32,
    watermark: Timestamp,
    /// The split that holds the watermark back; `None` if that must be found out.
    holder: Option<usize>,
}

/// How far a split has been read.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SplitProgress {
    /// The split.
    pub id: SplitId,
    /// Records read, from where the job started.
    pub records: u64,
    /// The sum of their hashes, modulo 2^128, if each [has one](SplitReader::hash).
    pub hash: Option<u128>,
    /// The time before which it is expected to have no more records.
    pub watermark: Timestamp,
    /// What the last attempt to read it has found.
    pub found: Advance,
    /// Whether it does not hold the watermark back although it is not at its end.
    pub is_idle: bool,
}

#[derive(Debug)]
struct OpenSplit<R> {
    id: SplitId,
    reader: R,
    records: u64,
    hash: Option<u128>,
    clock: SplitClock,
    found: Advance,
    /// Since when it is known to have no more records, by the clock of [`SourceReader::tick`].
    caught_up_since: Option<Timestamp>,
    is_idle: bool,
}

impl<R> OpenSplit<R> {
    fn holds_back(&self, settings: &SourceSettings) -> bool {
        !self.is_idle && (self.found != Advance::End || !settings.end_is_final)
    }
}

impl<S: Source> SourceReader<S> {
    /// Opens the splits of a subtask: those of the restored checkpoint at their positions, new ones at their beginning; from nothing,
    /// all of them where the source's settings say.
    ///
    /// * `name`: names the positions in a checkpoint; unique in the operator, and the same over restarts.
    /// * `opaques`: what the subtask was restored with, [`Seat::opaques`](crate::Seat::opaques).
    ///
    /// # Errors
    /// `Config` if the checkpoint has positions of other sources, but none of this one; `Corrupt` or `Version` if the positions
    /// cannot be read; others as [`Source::splits`] and [`Source::open`].
    pub async fn open(
        name: impl Into<String>,
        source: S,
        settings: SourceSettings,
        (subtask, parallelism): (Subtask, u32),
        opaques: &[Opaque],
    ) -> Result<Self> {
        let name = name.into();
        let states = SubtaskState::of(&name, opaques)?;
        if states.is_empty() && !settings.is_new {
            refuse_renamed(&name, opaques)?;
        }
        let start = if states.is_empty() { StartAt::Configured } else { StartAt::Beginning };
        let mut reader = Self {
            name,
            source,
            settings,
            subtask,
            parallelism,
            splits: Vec::new(),
            turn: 0,
            left: BURST,
            watermark: Timestamp::MIN,
            holder: None,
        };
        reader.restore(&states).await?;
        reader.add_splits(start).await?;
        Ok(reader)
    }

    async fn restore(&mut self, states: &[SubtaskState]) -> Result<()> {
        let known: Vec<_> = states.iter().filter(|state| !state.splits.is_empty()).collect();
        let is_ours = |split: &&SplitState| split.id.owner(self.parallelism) == self.subtask;
        let sources: Vec<_> = known.iter().filter(|state| state.splits.iter().any(|split| is_ours(&split))).collect();
        // A split that was idle must not take the watermark back, nor must a subtask that had none.
        let least = sources.into_iter().map(|state| state.watermark).min();
        let least = least.or_else(|| known.iter().map(|state| state.watermark).min());
        let ours: Vec<_> = known.iter().flat_map(|state| state.splits.iter().filter(is_ours)).collect();
        for split in ours {
            if self.splits.iter().any(|known| known.id == split.id) {
                return Err(Error::corrupt("split has two positions").with("split", &split.id));
            }
            self.open_split(&split.id, StartAt::Position(&split.position), Some(split)).await?;
        }
        self.watermark = least.unwrap_or(Timestamp::MIN);
        Ok(())
    }

    /// Opens the splits that have appeared, and returns how many they are. To be called from time to time, if the source may grow.
    ///
    /// A split that no longer exists is an error when it is read.
    ///
    /// # Errors
    /// As [`Source::splits`] and [`Source::open`].
    pub async fn discover(&mut self) -> Result<usize> {
        self.add_splits(StartAt::Beginning).await
    }

    async fn add_splits(&mut self, start: StartAt<'_>) -> Result<usize> {
        let before = self.splits.len();
        for id in self.source.splits().await? {
            if id.owner(self.parallelism) == self.subtask && !self.splits.iter().any(|known| known.id == id) {
                self.open_split(&id, start, None).await?;
            }
        }
        Ok(self.splits.len() - before)
    }

    async fn open_split(&mut self, id: &SplitId, from: StartAt<'_>, restored: Option<&SplitState>) -> Result<()> {
        let reader = self.source.open(id, from).await.map_err(|error| of_split(error, id))?;
        // At the end, so that the split of the current record stays where it is.
        self.splits.push(OpenSplit {
            id: id.clone(),
            reader,
            records: restored.map_or(0, |state| state.records),
            hash: restored.map_or(Some(0), |state| state.hash),
            clock: restored.map_or_else(SplitClock::default, |state| state.clock),
            found: Advance::Pending,
            caught_up_since: None,
            is_idle: false,
        });
        self.holder = None;
        Ok(())
    }

    /// Moves to the next record of any split, in turn. Never waits.
    ///
    /// Returns `Pending` if no split has one at hand and one of them has not answered; `CaughtUp` if all of them are known to have
    /// none; `End` if all are at their end.
    ///
    /// # Errors
    /// As [`SplitReader::advance`]. Restore the subtask then, from the last checkpoint.
    pub fn advance(&mut self) -> Result<Advance> {
        let mut best = if self.source.is_bounded() { Advance::End } else { Advance::CaughtUp };
        for _ in 0..self.splits.len() {
            if self.left == 0 {
                self.next_turn();
            }
            let Some(split) = self.splits.get_mut(self.turn) else { break };
            if split.found != Advance::End {
                let found = split.reader.advance().map_err(|error| of_split(error, &split.id))?;
                if self.note(found) {
                    return Ok(Advance::Record);
                }
                best = match (best, found) {
                    (Advance::Pending, _) | (_, Advance::Pending) => Advance::Pending,
                    (Advance::CaughtUp, _) | (_, Advance::CaughtUp) => Advance::CaughtUp,
                    _ => best,
                };
            }
            self.left = 0;
        }
        Ok(best)
    }

    /// Notes what the split in turn has found; returns whether it is a record.
    fn note(&mut self, found: Advance) -> bool {
        let Some(split) = self.splits.get_mut(self.turn) else { return false };
        let is_record = found == Advance::Record;
        let held_back = split.holds_back(&self.settings);
        split.found = found;
        if found != Advance::CaughtUp {
            // Whether a split that does not answer has more is not known.
            (split.caught_up_since, split.is_idle) = (None, false);
        }
        if split.holds_back(&self.settings) != held_back {
            self.holder = None;
        }
        if is_record {
            split.records += 1;
            split.hash = split.hash.and_then(|sum| Some(sum.wrapping_add(split.reader.hash()?)));
            self.left -= 1;
        }
        is_record
    }

    fn next_turn(&mut self) {
        self.turn = if self.turn + 1 < self.splits.len() { self.turn + 1 } else { 0 };
        self.left = BURST;
    }

    /// Returns the split of the current record, and its reader, which has the record. `None` without splits.
    #[must_use]
    pub fn current(&self) -> Option<(&SplitId, &S::Reader)> {
        self.splits.get(self.turn).map(|split| (&split.id, &split.reader))
    }

    /// Takes in the event time of the current record. Records without one need no call.
    pub fn set_time(&mut self, time: Timestamp) {
        let Some(split) = self.splits.get_mut(self.turn) else { return };
        let before = split.clock;
        split.clock.observe(time, &self.settings);
        if split.clock != before && self.holder == Some(self.turn) {
            self.holder = None;
        }
    }

    /// Returns the time before which no more records are expected, [`Timestamp::MIN`] at first; it never goes back. It is that of
    /// the split that is furthest behind, among those that are neither idle nor at their final end; without such a split, that of the
    /// split that is furthest ahead.
    ///
    /// A job's watermark is the least one of the subtasks that are not [idle](Self::is_idle).
    ///
    /// # Cost
    /// Looks at all splits if the one furthest behind has moved.
    pub fn watermark(&mut self) -> Timestamp {
        if self.holder.is_none() {
            let of = |split: &OpenSplit<S::Reader>| split.clock.watermark(&self.settings);
            let held = self.splits.iter().enumerate().filter(|(_, split)| split.holds_back(&self.settings));
            let least = held.min_by_key(|(_, split)| of(split));
            let found = least.map(|(_, split)| of(split)).or_else(|| self.splits.iter().map(of).max());
            self.watermark = self.watermark.max(found.unwrap_or(Timestamp::MIN));
            self.holder = least.map(|(at, _)| at);
        }
        self.watermark
    }

    /// Returns whether no split holds the watermark back: all are idle or at their final end, or there is none. The watermark of the job
    /// is then that of its other subtasks.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        !self.splits.iter().any(|split| split.holds_back(&self.settings))
    }

    /// Looks which splits have become idle.
    ///
    /// * `now`: by a clock that never goes back, [`Runtime::monotonic`](crate::Runtime::monotonic).
    pub fn tick(&mut self, now: Timestamp) {
        let Some(idle_after) = self.settings.idle_after else { return };
        for split in self.splits.iter_mut().filter(|split| split.found == Advance::CaughtUp && !split.is_idle) {
            let since = *split.caught_up_since.get_or_insert(now);
            if now.since(since) >= idle_after {
                split.is_idle = true;
                self.holder = None;
            }
        }
    }

    /// Completes once a split may have something new. At once if a source does not know, as files do not: then wait for a moment
    /// before the next try. Never, if all splits are at their end.
    pub async fn ready(&mut self) {
        poll_fn(|context| {
            let mut open = self.splits.iter_mut().filter(|split| split.found != Advance::End);
            // Each one that is not ready has been asked, so that it wakes the task.
            let ready = open.any(|split| split.reader.poll_ready(context).is_ready());
            if ready { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Returns the positions of all splits, for the checkpoint of a barrier after the current record.
    ///
    /// # Errors
    /// From reading what proves a position.
    pub fn opaque(&mut self) -> Result<Opaque> {
        let watermark = self.watermark();
        let state = |split: &OpenSplit<S::Reader>| -> Result<SplitState> {
            let position = split.reader.position().map_err(|error| of_split(error, &split.id))?;
            let OpenSplit { records, hash, clock, .. } = *split;
            Ok(SplitState { id: split.id.clone(), position, records, hash, clock })
        };
        let splits = self.splits.iter().map(state).collect::<Result<_>>()?;
        SubtaskState { watermark, splits }.to_opaque(&self.name)
    }

    /// Returns how far each split has been read, in the order in which they were opened.
    pub fn progress(&self) -> impl Iterator<Item = SplitProgress> {
        self.splits.iter().map(|split| SplitProgress {
            id: split.id.clone(),
            records: split.records,
            hash: split.hash,
            watermark: split.clock.watermark(&self.settings),
            found: split.found,
            is_idle: split.is_idle,
        })
    }
}

/// Refuses to start from nothing if the checkpoint has positions of other sources.
fn refuse_renamed(name: &str, opaques: &[Opaque]) -> Result<()> {
    let mut stored = opaques.iter().filter(|opaque| opaque.role == OpaqueRole::Source);
    stored.next().map_or(Ok(()), |other| {
        let error = Error::config("checkpoint has no positions of this source: was it renamed?");
        Err(error.with("source", name).with("stored", &other.name))
    })
}

fn of_split(error: Error, id: &SplitId) -> Error {
    error.with("split", id)
}
