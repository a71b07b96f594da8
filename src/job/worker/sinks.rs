//! The sinks of a subtask: registered with its seat, taken over with its restore, part of its barriers.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use futures_util::FutureExt as _;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::in_flight::HandIn;
use super::shared::Presence;
use crate::backend::Outcome;
use crate::error::{Error, Result};
use crate::id::{Epoch, JobId, Subtask};
use crate::manifest::Opaque;
use crate::runtime::SharedRuntime;
use crate::sink::{
    Draining, EpochWriter, Form, Lineages, PreparedEpoch, Publisher, Queue, Sink, SinkSettings, SinkTarget, Slot,
    StagedTarget, StagedWriter, Stager, Staging, Takeover, check_name, sink_of, slot_sums,
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

/// Where a sink's output goes.
#[derive(Clone)]
pub(super) enum Target {
    Transactional(Arc<dyn SinkTarget>),
    Staged(Arc<dyn StagedTarget>),
}

/// A sink and its target.
struct Registered {
    queue: Arc<Queue>,
    target: Target,
}

/// A sink whose slots are taken over, not running yet.
#[derive(Debug)]
pub(super) struct Ready {
    publisher: Publisher,
    stager: Option<(Stager, Draining)>,
}

/// The sinks of a task.
#[derive(Debug, Default)]
pub(super) struct TaskSinks(Vec<TaskSink>);

#[derive(Debug)]
struct TaskSink {
    queue: Arc<Queue>,
    /// `None` if its records go into the checkpoint.
    draining: Option<Draining>,
}

/// Output of a task on its way to the sink's target.
pub(super) struct Drained(Draining, Staging);

impl Drained {
    /// Has the output staged. If its sink has ended, the epoch is declined.
    pub(super) fn stage(self) {
        let _ended = self.0.send(self.1);
    }
}

impl Target {
    fn form(&self) -> Form {
        match self {
            Self::Transactional(_) => Form::Records,
            Self::Staged(_) => Form::Parts,
        }
    }

    async fn check(&self) -> Result<()> {
        match self {
            Self::Transactional(target) => target.check().await,
            Self::Staged(target) => target.check().await,
        }
    }
}

impl SeatSinks {
    pub(super) fn new(job: JobId, lineages: Lineages, before: Epoch, restored: Vec<Opaque>) -> Self {
        Self { job, lineages, before, restored, registered: Vec::new() }
    }

    pub(super) fn add(
        &mut self,
        name: &str,
        (subtask, parallelism): (Subtask, u32),
        target: Target,
        settings: SinkSettings,
    ) -> Result<Sink> {
        check_name(name)?;
        if self.registered.iter().any(|registered| registered.queue.name() == name) {
            return Err(Error::usage("the seat has a sink of this name").with("sink", name));
        }
        let published = (self.before > Epoch(0)).then_some(self.before);
        let restored = (published, slot_sums(name, &self.restored)?);
        let queue = Arc::new(Queue::new(name, (subtask, parallelism), settings, restored));
        self.registered.push(Registered { queue: Arc::clone(&queue), target });
        Ok(Sink::new(queue))
    }

    /// Takes over the slots of all sinks, those of subtasks that are gone too, and publishes what the restored checkpoint has and
    /// the targets have not. Returns the sinks, which are not running yet.
    ///
    /// # Errors
    /// `Config` if the checkpoint has output of a sink that is not registered, or if a target diverges from the checkpoint;
    /// `Corrupt` or `Version` if the stored output cannot be read; others from the targets.
    pub(super) async fn take_over(&self, presence: &Presence, runtime: &SharedRuntime) -> Result<Vec<Ready>> {
        let mut restored = self.restored_output()?;
        let (operator, own) = presence.participant;
        let mut ready = Vec::new();
        for Registered { queue, target } in &self.registered {
            target.check().await.map_err(|error| error.with("sink", queue.name()))?;
            let mut slots = restored.remove(&(target.form(), queue.name().to_owned())).unwrap_or_default();
            let takeover = Takeover {
                attempt: presence.attempt.shared.attempt(),
                lineages: self.lineages,
                epoch: self.before,
                divergence: queue.settings().divergence,
            };
            let slot = |subtask| Slot { job: self.job, operator, sink: queue.name().to_owned(), subtask };
            let prepared = slots.remove(&own).unwrap_or_default();
            let gone = slots.into_iter().map(|(gone, prepared)| (slot(gone), prepared)).collect();
            let (writer, stager) = match target {
                Target::Transactional(target) => {
                    (of_records(&takeover, &**target, gone, (slot(own), prepared)).await?, None)
                }
                Target::Staged(target) => {
                    let writer = of_parts(&takeover, &**target, gone, (slot(own), prepared)).await?;
                    let stager = Stager::new(Arc::clone(&writer.0), Arc::clone(queue), Arc::clone(runtime));
                    (Box::new(writer) as Box<dyn EpochWriter>, Some(stager))
                }
            };
            let publisher = Publisher::new(writer, Arc::clone(queue), settlements(presence), Arc::clone(runtime));
            ready.push(Ready { publisher, stager });
        }
        let lost = restored.iter().find(|(_, slots)| slots.values().flatten().any(|epoch| !epoch.records.is_empty()));
        match lost {
            None => Ok(ready),
            Some(((_, sink), _)) => {
                let error = Error::config("restored checkpoint has output of a sink that is not registered");
                Err(error.with("operator", operator).with("sink", sink))
            }
        }
    }

    /// Returns what the restored checkpoint has, by sink and slot.
    fn restored_output(&self) -> Result<RestoredOutput> {
        let mut output = RestoredOutput::new();
        for opaque in &self.restored {
            let Some((form, sink)) = sink_of(opaque) else { continue };
            for bytes in opaque.items()? {
                let prepared = PreparedEpoch::parse(&bytes).map_err(|error| error.with("sink", sink))?;
                let slots = output.entry((form, sink.to_owned())).or_default();
                slots.entry(prepared.subtask).or_default().push(prepared);
            }
        }
        Ok(output)
    }

    pub(super) fn into_task(self, ready: Vec<Ready>, runtime: &SharedRuntime) -> TaskSinks {
        let start = |(Registered { queue, .. }, Ready { publisher, stager }): (Registered, Ready)| {
            runtime.spawn(publisher.run().boxed());
            let draining = stager.map(|(stager, draining)| {
                runtime.spawn(stager.run().boxed());
                draining
            });
            TaskSink { queue, draining }
        };
        TaskSinks(self.registered.into_iter().zip(ready).map(start).collect())
    }
}

/// What a checkpoint has, by sink and slot.
type RestoredOutput = BTreeMap<(Form, String), BTreeMap<Subtask, Vec<PreparedEpoch>>>;

/// Takes over a sink's slots: those of subtasks that are gone, then the subtask's own, whose writer it returns.
async fn of_records(
    takeover: &Takeover,
    target: &dyn SinkTarget,
    gone: Vec<(Slot, Vec<PreparedEpoch>)>,
    (own, prepared): (Slot, Vec<PreparedEpoch>),
) -> Result<Box<dyn EpochWriter>> {
    for (slot, prepared) in gone {
        takeover.of(target, &slot, prepared).await?;
    }
    Ok(Box::new(takeover.of(target, &own, prepared).await?))
}

/// As [`of_records`], for staged output.
async fn of_parts(
    takeover: &Takeover,
    target: &dyn StagedTarget,
    gone: Vec<(Slot, Vec<PreparedEpoch>)>,
    (own, prepared): (Slot, Vec<PreparedEpoch>),
) -> Result<StagedWriter> {
    for (slot, prepared) in gone {
        takeover.of_staged(target, &slot, prepared).await?;
    }
    takeover.of_staged(target, &own, prepared).await
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
        self.0.iter().try_for_each(|sink| sink.queue.check())
    }

    /// Ends the epoch: returns the output of each sink, unless it is staged, and what each has emitted.
    pub(super) fn prepare(&self, epoch: Epoch) -> impl Iterator<Item = Opaque> + '_ {
        let in_checkpoints = self.0.iter().filter(|sink| sink.draining.is_none());
        let sums = self.0.iter().map(|sink| sink.queue.sums());
        in_checkpoints.map(move |sink| sink.queue.prepare(epoch)).chain(sums)
    }

    /// Ends the epoch: returns the output that is to be staged, each of which completes the task's arrival.
    pub(super) fn drain(&self, epoch: Epoch, presence: &Presence) -> Vec<Drained> {
        let drained = |sink: &TaskSink| {
            let draining = sink.draining.clone()?;
            let records = sink.queue.drain()?;
            let hand_in = HandIn::new(presence, epoch);
            let hand_in = move |part: Result<Vec<Opaque>>| match part {
                // An attempt that has ended waits for nothing.
                Ok(part) => drop(hand_in.complete(part)),
                Err(error) => hand_in.decline(error),
            };
            Some(Drained(draining, Staging::new((epoch, records), hand_in)))
        };
        self.0.iter().filter_map(drained).collect()
    }

    /// Returns the epoch up to which all sinks have published, if that is less than `committed`.
    pub(super) fn published(&self, committed: Option<Epoch>) -> Option<Epoch> {
        self.0.iter().map(|sink| sink.queue.published_epoch()).fold(committed, Option::min)
    }
}
