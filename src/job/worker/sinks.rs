//! The sinks of a subtask: registered with its seat, taken over with its restore, part of its barriers.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use futures_util::FutureExt as _;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::in_flight::HandIn;
use super::shared::Presence;
use crate::backend::Outcome;
use crate::control::coordinator::Participant;
use crate::error::{Error, Result};
use crate::id::{Epoch, JobId, OperatorId, Subtask};
use crate::manifest::Opaque;
use crate::runtime::SharedRuntime;
use crate::sink::{
    Draining, EpochWriter, Form, Lineages, PreparedEpoch, Publisher, Queue, Sink, SinkSettings, SinkTarget, Slot,
    StagedTakeover, StagedTarget, Stager, Staging, Takeover, check_name, sink_of, slot_sums,
};

/// The sinks of a seat.
pub(super) struct SeatSinks {
    pub(super) job: JobId,
    pub(super) lineages: Lineages,
    /// The epoch before the attempt's first.
    pub(super) before: Epoch,
    /// The operator's.
    parallelism: u32,
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

    pub(super) fn is_local(&self) -> bool {
        match self {
            Self::Transactional(_) => false,
            Self::Staged(target) => target.is_local(),
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
    pub(super) fn new(
        job: JobId,
        lineages: Lineages,
        before: Epoch,
        (parallelism, restored): (u32, Vec<Opaque>),
    ) -> Self {
        Self { job, lineages, before, parallelism, restored, registered: Vec::new() }
    }

    pub(super) fn add(&mut self, name: &str, subtask: Subtask, target: Target, settings: SinkSettings) -> Result<Sink> {
        check_name(name)?;
        if self.registered.iter().any(|registered| registered.queue.name() == name) {
            return Err(Error::usage("the seat has a sink of this name").with("sink", name));
        }
        let published = (self.before > Epoch(0)).then_some(self.before);
        let restored = (published, slot_sums(name, &self.restored)?);
        let queue = Arc::new(Queue::new(name, subtask, settings, restored));
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
        let restored = self.restored_output()?;
        self.check_registered(&restored, presence.participant.0)?;
        // Staged targets are looked at first, all of them, so that a start that one refuses changes nothing in the others.
        let mut looked = Vec::new();
        for registered in &self.registered {
            let named = |error: Error| error.with("sink", registered.queue.name());
            registered.target.check().await.map_err(named)?;
            let Slots { gone, own: (slot, prepared) } = self.slots(registered, &restored, presence.participant);
            let takeover = self.takeover(registered, presence);
            looked.push(match &registered.target {
                Target::Transactional(target) => {
                    Looked::Transactional(takeover, target, Slots { gone, own: (slot, prepared) })
                }
                Target::Staged(target) => {
                    let mut found = Vec::new();
                    for (slot, prepared) in gone {
                        found.push(takeover.look(&**target, slot, prepared).await?);
                    }
                    let own = takeover.look(&**target, slot, prepared).await?;
                    Looked::Staged(takeover, Slots { gone: found, own })
                }
            });
        }
        let mut ready = Vec::new();
        for (Registered { queue, .. }, looked) in self.registered.iter().zip(looked) {
            let (writer, stager) = looked.take(queue, runtime).await?;
            let publisher = Publisher::new(writer, Arc::clone(queue), settlements(presence), Arc::clone(runtime));
            ready.push(Ready { publisher, stager });
        }
        Ok(ready)
    }

    fn takeover(&self, registered: &Registered, presence: &Presence) -> Takeover {
        Takeover {
            attempt: presence.attempt.shared.attempt(),
            lineages: self.lineages,
            epoch: self.before,
            divergence: registered.queue.settings().divergence,
        }
    }

    /// Returns the slots of a sink that this subtask takes over, with what the checkpoint has of each.
    fn slots(
        &self,
        Registered { queue, target }: &Registered,
        restored: &RestoredOutput,
        (operator, own): Participant,
    ) -> Slots<(Slot, Vec<PreparedEpoch>)> {
        let sink = queue.name();
        let mut slots = restored.get(&(target.form(), sink.to_owned())).cloned().unwrap_or_default();
        if target.form() == Form::Parts && own == Subtask(0) {
            // Epochs without output have no parts, so that the slots of subtasks that are gone may not be known by those.
            for slot in queue.slots().into_iter().filter(|slot| slot.0 >= self.parallelism) {
                slots.entry(slot).or_default();
            }
        }
        let prepared = slots.remove(&own).unwrap_or_default();
        let slot = |subtask| Slot { job: self.job, operator, sink: sink.to_owned(), subtask };
        let gone = slots.into_iter().map(|(gone, prepared)| (slot(gone), prepared)).collect();
        Slots { gone, own: (slot(own), prepared) }
    }

    /// Refuses a checkpoint that has output of a sink that is not registered.
    fn check_registered(&self, restored: &RestoredOutput, operator: OperatorId) -> Result<()> {
        let is_known = |(form, sink): &(Form, String)| {
            self.registered.iter().any(|known| known.target.form() == *form && known.queue.name() == sink)
        };
        let has_output =
            |slots: &BTreeMap<_, Vec<PreparedEpoch>>| slots.values().flatten().any(|it| !it.records.is_empty());
        match restored.iter().find(|(sink, slots)| !is_known(sink) && has_output(slots)) {
            None => Ok(()),
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

/// The slots of a sink that a subtask takes over: those of subtasks that are gone, and its own.
struct Slots<T> {
    gone: Vec<T>,
    own: T,
}

/// A sink whose slots are known, and not taken over yet.
enum Looked<'a> {
    Transactional(Takeover, &'a Arc<dyn SinkTarget>, Slots<(Slot, Vec<PreparedEpoch>)>),
    Staged(Takeover, Slots<StagedTakeover>),
}

impl Looked<'_> {
    /// Takes over the slots; returns the right to publish through the own one, and what stages its output.
    async fn take(
        self,
        queue: &Arc<Queue>,
        runtime: &SharedRuntime,
    ) -> Result<(Box<dyn EpochWriter>, Option<(Stager, Draining)>)> {
        match self {
            Self::Transactional(takeover, target, Slots { gone, own: (slot, prepared) }) => {
                for (slot, prepared) in gone {
                    takeover.of(&**target, &slot, prepared).await?;
                }
                Ok((Box::new(takeover.of(&**target, &slot, prepared).await?), None))
            }
            Self::Staged(takeover, Slots { gone, own }) => {
                for slot in gone {
                    takeover.take(slot).await?;
                }
                let writer = takeover.take(own).await?;
                let stager = Stager::new(Arc::clone(&writer.0), Arc::clone(queue), Arc::clone(runtime));
                Ok((Box::new(writer), Some(stager)))
            }
        }
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
