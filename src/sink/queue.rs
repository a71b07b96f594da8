//! The engine's end of a sink, and what waits for its publication.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;

use super::SinkSettings;
use super::prepared::{Draft, Form, PreparedEpoch, Records, opaque};
use super::staged::StagedPart;
use super::sums::{self, SlotSums};
use crate::error::{Error, Result};
use crate::id::{Epoch, Subtask};
use crate::manifest::Opaque;
use crate::metrics;

/// Most bytes of one record.
const MAX_RECORD_BYTES: usize = 1 << 30;

/// Where an engine hands in the output of a subtask. [`Seat::add_sink`](crate::Seat::add_sink) returns it; use it on the thread of the
/// subtask's task, so that a record belongs to the epoch in which it was emitted. Nothing has to be done at a barrier.
#[derive(Debug)]
pub struct Sink {
    queue: Arc<Queue>,
}

/// How far the publication of a sink has come.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct SinkProgress {
    /// All output up to this epoch is published.
    pub published: Option<Epoch>,
    /// Records published since the start of the attempt.
    pub records: u64,
    /// Why publication is late: the last error of the target since the last success.
    pub delayed: Option<Error>,
    /// Why nothing more will be published.
    pub failed: Option<Error>,
}

impl Sink {
    pub(crate) fn new(queue: Arc<Queue>) -> Self {
        Self { queue }
    }

    /// Adds a record to the output of the current epoch. What its bytes mean is the target's affair.
    ///
    /// # Errors
    /// * `Limit`: the output that waits for its publication, with this record, exceeds
    ///   [`SinkSettings::max_unpublished_bytes`]. The record is not taken: wait with [`room`](Self::room), between barriers that
    ///   go on, and emit it again. Also if the record has more than 1 GiB.
    /// * The target's error, if it refused earlier output for good; `Fenced` if a newer attempt took over.
    pub fn emit(&mut self, record: &[u8]) -> Result<()> {
        self.queue.emit(record)
    }

    /// Returns once at most half of [`SinkSettings::max_unpublished_bytes`] wait for their publication. Output is published after
    /// commits, so barriers must come meanwhile.
    ///
    /// # Errors
    /// As [`emit`](Self::emit), without `Limit`.
    pub async fn room(&self) -> Result<()> {
        let enough = |queue: &Queue| queue.lock().unpublished() <= queue.settings.max_unpublished_bytes / 2;
        self.queue.wait(enough).await
    }

    /// Returns once all output up to `epoch` is published: at the end of a job, before its process ends. Output that is committed and
    /// not published is published by the next attempt.
    ///
    /// # Errors
    /// The target's error, if it refused output for good; `Fenced` if a newer attempt took over.
    pub async fn published(&self, epoch: Epoch) -> Result<()> {
        self.queue.wait(|queue| queue.progress.borrow().published >= Some(epoch)).await
    }

    /// Returns its progress, and changes of it.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<SinkProgress> {
        self.queue.progress.subscribe()
    }
}

/// What a sink shares with its task and its publisher.
#[derive(Debug)]
pub(crate) struct Queue {
    name: String,
    subtask: Subtask,
    settings: SinkSettings,
    state: Mutex<State>,
    progress: watch::Sender<SinkProgress>,
}

#[derive(Debug, Default)]
struct State {
    draft: Draft,
    /// What the slot has emitted, and those whose sums it carries on.
    sums: SlotSums,
    /// Prepared and not published, oldest first.
    waiting: VecDeque<Waiting>,
    /// Bytes of records that are in memory until they are published, or staged.
    waiting_bytes: u64,
    /// Epochs whose output is being staged, or is not handed in yet.
    staging: usize,
    /// The epoch of the target's marker.
    marked: Option<Epoch>,
}

/// The output of an epoch that waits for its publication.
#[derive(Debug, Clone)]
struct Waiting {
    epoch: Epoch,
    prepared: Bytes,
    records: u64,
    /// Of records in memory: none if they are staged.
    bytes: u64,
}

impl State {
    fn unpublished(&self) -> u64 {
        self.waiting_bytes.saturating_add(self.draft.len())
    }
}

impl Queue {
    /// * `published`: the restored checkpoint's epoch.
    /// * `restored`: what the subtask's slot had emitted, and others whose sums it carries on.
    pub(crate) fn new(
        name: &str,
        subtask: Subtask,
        settings: SinkSettings,
        (published, sums): (Option<Epoch>, SlotSums),
    ) -> Self {
        let progress = SinkProgress { published, ..SinkProgress::default() };
        let state = State { sums, ..State::default() };
        Self {
            name: name.to_owned(),
            subtask,
            settings,
            state: Mutex::new(state),
            progress: watch::Sender::new(progress),
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn settings(&self) -> SinkSettings {
        self.settings
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn emit(&self, record: &[u8]) -> Result<()> {
        let mut state = self.lock();
        let (bytes, limit) = (record.len(), self.settings.max_unpublished_bytes);
        let after = state.unpublished().saturating_add(bytes as u64 + 4);
        if after > limit || bytes > MAX_RECORD_BYTES {
            drop(state);
            self.check()?;
            let error =
                Error::limit("output that waits for its publication exceeds its bound").with("sink", &self.name);
            return Err(error.with("bytes", after).with("limit", limit));
        }
        state.draft.push(record);
        state.sums.entry(self.subtask).or_default().add(record);
        Ok(())
    }

    /// Returns its slot, and those of other subtasks whose sums it carries on.
    pub(crate) fn slots(&self) -> Vec<Subtask> {
        self.lock().sums.keys().copied().collect()
    }

    /// Returns what the sink's slots have emitted, for the checkpoint of an epoch that has ended.
    pub(crate) fn sums(&self) -> Opaque {
        sums::to_opaque(&self.name, &self.lock().sums)
    }

    /// Returns why nothing more will be published, if so.
    pub(crate) fn check(&self) -> Result<()> {
        self.progress.borrow().failed.clone().map_or(Ok(()), Err)
    }

    /// Ends the epoch: returns its output, for the checkpoint.
    pub(crate) fn prepare(&self, epoch: Epoch) -> Opaque {
        let mut state = self.lock();
        let draft = std::mem::take(&mut state.draft);
        let (records, bytes) = (u64::from(draft.count()), draft.len());
        let prepared = draft.prepare(self.subtask, epoch, state.marked);
        state.waiting_bytes += bytes;
        state.waiting.push_back(Waiting { epoch, prepared: prepared.clone(), records, bytes });
        metrics::sink_unpublished(&self.name, self.subtask, state.waiting_bytes);
        opaque(Form::Records, &self.name, prepared)
    }

    /// Ends the epoch: returns its output, to be staged. `None` if there is none, and nothing is being staged: the checkpoint also
    /// needs what earlier epochs, given up since, have staged.
    pub(crate) fn drain(&self) -> Option<Records> {
        let mut state = self.lock();
        if state.draft.count() == 0 && state.staging == 0 {
            return None;
        }
        let draft = std::mem::take(&mut state.draft);
        state.staging += 1;
        state.waiting_bytes += draft.len();
        metrics::sink_unpublished(&self.name, self.subtask, state.waiting_bytes);
        Some(draft.into_records())
    }

    /// Records that the output of an epoch is staged; returns what the checkpoint lists of it.
    pub(super) fn staged(&self, epoch: Epoch, records: &Records, part: Option<StagedPart>) -> Vec<Opaque> {
        let mut state = self.lock();
        state.waiting_bytes -= records.bytes() as u64;
        metrics::sink_unpublished(&self.name, self.subtask, state.waiting_bytes);
        let Some(part) = part else { return Vec::new() };
        let mut draft = Draft::default();
        draft.push(part.bytes());
        let prepared = draft.prepare(self.subtask, epoch, None);
        state.waiting.push_back(Waiting { epoch, prepared: prepared.clone(), records: records.len() as u64, bytes: 0 });
        drop(state);
        // Waits for room end with it.
        self.progress.send_modify(|progress| progress.delayed = None);
        vec![opaque(Form::Parts, &self.name, prepared)]
    }

    /// Records that what was staged for an epoch is handed in.
    pub(super) fn handed_in(&self) {
        self.lock().staging -= 1;
    }

    /// Returns the epoch up to which all output is published.
    pub(crate) fn published_epoch(&self) -> Option<Epoch> {
        self.progress.borrow().published
    }

    pub(super) fn set_marked(&self, marked: Option<Epoch>) {
        self.lock().marked = marked;
    }

    /// Returns the oldest output that waits, if `committed` covers it.
    pub(super) fn next(&self, committed: Epoch) -> Result<Option<(Epoch, Records)>> {
        let next = self.lock().waiting.front().filter(|next| next.epoch <= committed).cloned();
        next.map(|next| Ok((next.epoch, PreparedEpoch::parse(&next.prepared)?.records))).transpose()
    }

    /// Removes the oldest output, which is published.
    pub(super) fn published(&self, epoch: Epoch, marked: Option<Epoch>) {
        let mut state = self.lock();
        state.marked = marked;
        let published = state.waiting.pop_front();
        let (records, bytes) = published.map_or((0, 0), |published| (published.records, published.bytes));
        state.waiting_bytes -= bytes;
        metrics::sink_published(&self.name, self.subtask, records, state.waiting_bytes);
        drop(state);
        self.progress.send_modify(|progress| {
            progress.published = Some(epoch);
            progress.records += records;
            progress.delayed = None;
        });
    }

    /// Records that all output up to `epoch` is published.
    pub(super) fn covered(&self, epoch: Epoch) {
        self.progress.send_modify(|progress| progress.published = progress.published.max(Some(epoch)));
    }

    pub(super) fn delayed(&self, error: Error) {
        self.progress.send_modify(|progress| progress.delayed = Some(error));
    }

    pub(super) fn fail(&self, error: Error) {
        self.progress.send_modify(|progress| progress.failed = Some(error));
    }

    async fn wait(&self, enough: impl Fn(&Self) -> bool) -> Result<()> {
        let mut changes = self.progress.subscribe();
        loop {
            self.check()?;
            if enough(self) {
                return Ok(());
            }
            // The sender lives in this queue.
            let _open = changes.changed().await;
        }
    }
}
