//! The sinks of a subtask: registered with its seat, taken over with its restore, part of its barriers.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use futures_util::FutureExt as _;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::shared::Presence;
use crate::backend::Outcome;
use crate::error::{Error, Result};
use crate::id::{Epoch, JobId, Subtask};
use crate::manifest::Opaque;
use crate::runtime::SharedRuntime;
use crate::sink::{
    Lineages, PreparedEpoch, Publisher, Queue, Sink, SinkSettings, SinkTarget, Slot, Takeover, check_name, sink_of,
};

/// The sinks of a seat.
pub(super) struct SeatSinks {
    pub(super) job: JobId,
    pub(super) lineages: Lineages,
    /// The epoch before the attempt's first.
    pub(super) before: Epoch,
    /// What the restored checkpoint has of sinks.
    pub(super) restored: Vec<Opaque>,
    registered: Vec<Registered>,
}

/// A sink and its target.
struct Registered {
    queue: Arc<Queue>,
    target: Arc<dyn SinkTarget>,
}

/// The sinks of a task.
#[derive(Debug, Default)]
pub(super) struct TaskSinks(Vec<Arc<Queue>>);

impl SeatSinks {
    pub(super) fn new(job: JobId, lineages: Lineages, before: Epoch, restored: Vec<Opaque>) -> Self {
        Self { job, lineages, before, restored, registered: Vec::new() }
    }

    pub(super) fn add(
        &mut self,
        name: &str,
        subtask: Subtask,
        target: Arc<dyn SinkTarget>,
        settings: SinkSettings,
    ) -> Result<Sink> {
        check_name(name)?;
        if self.registered.iter().any(|registered| registered.queue.name() == name) {
            return Err(Error::usage("the seat has a sink of this name").with("sink", name));
        }
        let published = (self.before > Epoch(0)).then_some(self.before);
        let queue = Arc::new(Queue::new(name, subtask, settings, published));
        self.registered.push(Registered { queue: Arc::clone(&queue), target });
        Ok(Sink::new(queue))
    }

    /// Takes over the slots of all sinks, those of subtasks that are gone too, and publishes what the restored checkpoint has and
    /// the targets have not. Returns the publishers, which are not running yet.
    ///
    /// # Errors
    /// `Config` if the checkpoint has output of a sink that is not registered, or if a target diverges from the checkpoint;
    /// `Corrupt` or `Version` if the stored output cannot be read; others from the targets.
    pub(super) async fn take_over(&self, presence: &Presence, runtime: &SharedRuntime) -> Result<Vec<Publisher>> {
        let mut restored = self.restored_output()?;
        let (operator, own) = presence.participant;
        let mut publishers = Vec::new();
        for Registered { queue, target } in &self.registered {
            target.check().await.map_err(|error| error.with("sink", queue.name()))?;
            let mut slots = restored.remove(queue.name()).unwrap_or_default();
            let takeover = Takeover {
                attempt: presence.attempt.shared.attempt(),
                lineages: self.lineages,
                epoch: self.before,
                divergence: queue.settings().divergence,
                runtime: Arc::clone(runtime),
            };
            let slot = |subtask| Slot { job: self.job, operator, sink: queue.name().to_owned(), subtask };
            let prepared = slots.remove(&own).unwrap_or_default();
            for (gone, prepared) in slots {
                takeover.of(&**target, &slot(gone), prepared).await?;
            }
            let writer = takeover.of(&**target, &slot(own), prepared).await?;
            publishers.push(Publisher::new(writer, Arc::clone(queue), settlements(presence)));
        }
        let lost = restored.iter().find(|(_, slots)| slots.values().flatten().any(|epoch| !epoch.records.is_empty()));
        match lost {
            None => Ok(publishers),
            Some((sink, _)) => {
                let error = Error::config("restored checkpoint has output of a sink that is not registered");
                Err(error.with("operator", operator).with("sink", sink))
            }
        }
    }

    /// Returns what the restored checkpoint has, by sink and slot.
    fn restored_output(&self) -> Result<BTreeMap<String, BTreeMap<Subtask, Vec<PreparedEpoch>>>> {
        let mut output: BTreeMap<String, BTreeMap<_, Vec<_>>> = BTreeMap::new();
        for opaque in &self.restored {
            let Some(sink) = sink_of(opaque) else { continue };
            for bytes in opaque.items()? {
                let prepared = PreparedEpoch::parse(&bytes).map_err(|error| error.with("sink", sink))?;
                output.entry(sink.to_owned()).or_default().entry(prepared.subtask).or_default().push(prepared);
            }
        }
        Ok(output)
    }

    pub(super) fn into_task(self, publishers: Vec<Publisher>, runtime: &SharedRuntime) -> TaskSinks {
        publishers.into_iter().for_each(|publisher| runtime.spawn(publisher.run().boxed()));
        TaskSinks(self.registered.into_iter().map(|registered| registered.queue).collect())
    }
}

/// Returns the outcomes of epochs from now on.
fn settlements(presence: &Presence) -> UnboundedReceiver<(Epoch, Outcome)> {
    let (sender, receiver) = unbounded_channel();
    presence.attempt.shared.add_settlement(sender);
    receiver
}

impl fmt::Debug for SeatSinks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.registered.iter().map(|registered| registered.queue.name());
        f.debug_struct("SeatSinks").field("sinks", &names.collect::<Vec<_>>()).finish_non_exhaustive()
    }
}

impl TaskSinks {
    /// Returns why a sink publishes nothing more, if one does.
    pub(super) fn check(&self) -> Result<()> {
        self.0.iter().try_for_each(|queue| queue.check())
    }

    /// Ends the epoch: returns the output of each sink.
    pub(super) fn prepare(&self, epoch: Epoch) -> impl Iterator<Item = Opaque> + '_ {
        self.0.iter().map(move |queue| queue.prepare(epoch))
    }

    /// Returns the epoch up to which all sinks have published, if that is less than `committed`.
    pub(super) fn published(&self, committed: Option<Epoch>) -> Option<Epoch> {
        self.0.iter().map(|queue| queue.published_epoch()).fold(committed, Option::min)
    }
}
