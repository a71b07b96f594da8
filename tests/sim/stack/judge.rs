//! Compares the restored state, memory and output of jobs with the model.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use alluvium::{Epoch, Error, ManifestId, MemoryBudget};

use super::kinds::SEEN_LIFE_MS;
use super::model::{Content, Model, differences};
use super::sink::Sink;
use super::workload::Workload;
use crate::oracle::Oracle;
use crate::wire::PutId;
use alluvium_testkit::sim::Sim;

/// Number of cached states of the model, which later positions are folded from.
const MODELS_KEPT: usize = 6;

/// The state that a job restored.
#[derive(Debug, Clone, Default)]
pub(crate) struct Restored {
    /// Number of records read by the source.
    pub(crate) read: u64,
    /// Records read but not processed.
    pub(crate) in_flight: Vec<u64>,
    pub(crate) content: Content,
    /// Lower bound of processing time over all of the state.
    pub(crate) now_ms: i64,
}

#[derive(Default)]
struct State {
    models: BTreeMap<u64, Model>,
    /// Bounds of the processing time of each `Op::Seen` record, over all attempts.
    seen: BTreeMap<u64, (i64, i64)>,
    /// Per intent: lower bound of processing time over all groups of the checkpoint, and upper bound in any group.
    times: BTreeMap<u64, (i64, i64)>,
    /// Latest time read from any clock.
    latest_ms: i64,
    budgets: Vec<MemoryBudget>,
}

/// The judge. Clones share it.
#[derive(Clone)]
pub(crate) struct Judge {
    pub(crate) sim: Sim,
    pub(crate) oracle: Oracle,
    pub(crate) workload: Arc<Workload>,
    state: Arc<Mutex<State>>,
}

/// Returns the oracle's number of an attempt's draft.
pub(crate) fn intent(attempt: u64, epoch: u64) -> u64 {
    attempt << 32 | epoch
}

impl Judge {
    pub(crate) fn new(sim: &Sim, oracle: &Oracle, workload: Workload) -> Self {
        Self { sim: sim.clone(), oracle: oracle.clone(), workload: Arc::new(workload), state: Arc::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Returns the model after `position` records.
    pub(crate) fn model(&self, position: u64) -> Model {
        let mut state = self.state();
        let mut model =
            state.models.range(..=position).next_back().map_or_else(Model::default, |(_, model)| model.clone());
        model.advance(&self.workload, position);
        state.models.insert(position, model.clone());
        while state.models.len() > MODELS_KEPT {
            let middle = state.models.keys().nth(MODELS_KEPT / 2).copied();
            middle.and_then(|middle| state.models.remove(&middle));
        }
        model
    }

    /// Records that an `Op::Seen` record was processed within these bounds of processing time.
    pub(crate) fn record_seen(&self, index: u64, from_ms: i64, to_ms: i64) {
        let mut state = self.state();
        let seen = state.seen.entry(index).or_insert((from_ms, to_ms));
        *seen = (seen.0.min(from_ms), seen.1.max(to_ms));
    }

    /// Records the bounds of processing time for the state of a checkpoint about to be made.
    pub(crate) fn record_times(&self, intent: u64, least_ms: i64, most_ms: i64) {
        self.state().times.insert(intent, (least_ms, most_ms));
    }

    /// Returns the bounds of processing time for the state of a checkpoint.
    pub(crate) fn times(&self, intent: u64) -> (i64, i64) {
        self.state().times.get(&intent).copied().unwrap_or((i64::MIN, i64::MAX))
    }

    /// Records a clock's reading.
    pub(crate) fn observe_clock(&self, now_ms: i64) {
        let mut state = self.state();
        state.latest_ms = state.latest_ms.max(now_ms);
    }

    /// Restored state equals the model at the restored position: every kind, expiry, timers, records in flight.
    pub(crate) fn i01_state_is_the_models(&self, what: &str, restored: Restored) {
        self.oracle.count_restore();
        let Restored { read, in_flight, mut content, now_ms } = restored;
        let position = read.saturating_sub(in_flight.len() as u64);
        if !in_flight.iter().copied().eq(position..read) {
            self.oracle.violation(format!("I1: {what}: {read} records read, in flight {in_flight:?}"));
            return;
        }
        let model = self.model(position);
        let mut found_seen = BTreeMap::new();
        content.retain(|(table, key, _), value| {
            let seen = *table == "seen";
            if seen {
                found_seen.insert(*key, value.parse::<u64>().expect("the value is a record's number"));
            }
            !seen
        });
        let expected = model.content();
        if content != expected {
            let differences = differences(&content, &expected);
            self.oracle.violation(format!(
                "I1: {what}: state after {position} records differs from the model's: {differences:#?}"
            ));
        }
        for wrong in self.i01_seen_is_plausible(&model, &found_seen, now_ms) {
            self.oracle.violation(format!("I1: {what}: after {position} records {wrong}"));
        }
    }

    /// The row of each key in `seen`, which expires in processing time, is the key's last record, or may have expired. The
    /// exact time is unknown, so only bounds are checked.
    fn i01_seen_is_plausible(&self, model: &Model, found: &BTreeMap<u16, u64>, now_ms: i64) -> Vec<String> {
        let state = self.state();
        let keys: BTreeSet<u16> = model.seen.keys().chain(found.keys()).copied().collect();
        let wrong = |key: u16| match (model.seen.get(&key), found.get(&key)) {
            (Some(expected), Some(found)) if expected == found => {
                let (_, last) = *state.seen.get(found)?;
                (last + SEEN_LIFE_MS <= now_ms)
                    .then(|| format!("key {key} has record {found}, which must have expired"))
            }
            (Some(expected), None) => {
                let (first, _) = *state.seen.get(expected)?;
                (first + SEEN_LIFE_MS > state.latest_ms)
                    .then(|| format!("key {key} lacks record {expected}, which cannot have expired"))
            }
            (expected, found) => Some(format!("key {key} has record {found:?}, not {expected:?}")),
        };
        keys.into_iter().filter_map(wrong).collect()
    }

    /// A live checkpoint can be restored, unless the store refuses the calls.
    pub(crate) fn i02_acknowledged_is_restorable(
        &self,
        id: (u64, PutId),
        what: &str,
        outcome: Result<Restored, Error>,
    ) {
        match outcome {
            Ok(restored) => self.i01_state_is_the_models(what, restored),
            Err(error) if self.oracle.is_live(id) && !is_of_store(&error) => {
                self.oracle.violation(format!("I2: {what} is live but cannot be restored: {}", error.chain()));
            }
            Err(error) => self.oracle.failed(what, &error, &["not_found"]),
        }
    }

    /// Records that an engine is about to end an epoch.
    pub(crate) fn started(&self, attempt: u64, epoch: Epoch) {
        self.oracle.started(intent(attempt, epoch.0));
    }

    /// Records that an epoch was acknowledged to an engine.
    pub(crate) fn acknowledged(&self, attempt: u64, epoch: Epoch, id: ManifestId) {
        self.oracle.reported_committed(intent(attempt, epoch.0), attempt, (id.seq.0, id.put_id.0));
    }

    /// Records that an epoch was reported to an engine as aborted.
    pub(crate) fn given_up(&self, attempt: u64, epoch: Epoch) {
        self.sim.hit("checkpoint aborted");
        self.oracle.reported_refused(intent(attempt, epoch.0));
    }

    /// The published output equals the model's output up to the newest checkpoint.
    pub(crate) fn i07_output_is_the_models(&self, sink: &Sink, position: u64) {
        let (found, expected) = (sink.rows(), self.model(position).output);
        let (lost, invented): (Vec<_>, Vec<_>) =
            (expected.difference(&found).take(5).collect(), found.difference(&expected).take(5).collect());
        if !lost.is_empty() || !invented.is_empty() {
            self.oracle.violation(format!("I7: output of {position} records lacks {lost:?} and has {invented:?}"));
        }
    }

    /// Watches a job's memory budget.
    pub(crate) fn track_budget(&self, budget: &MemoryBudget) {
        self.state().budgets.push(budget.clone());
    }

    /// After the end of all jobs, no memory is held.
    pub(crate) fn i08_memory_is_given_back(&self) {
        let held: u64 = self.state().budgets.iter().map(MemoryBudget::held_bytes).sum();
        if held > 0 {
            self.oracle.violation(format!("I8: ended jobs hold {held} bytes"));
        }
    }
}

fn is_of_store(error: &Error) -> bool {
    matches!(error.kind().name(), "unavailable" | "denied")
}
