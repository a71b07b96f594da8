//! Runs an [`Operator`] in a dataflow.
//!
//! ```text
//! input --epoch--> current: process --> output
//!           |         ^
//!           `--> held-'   input frontier past the epoch: timers, barrier, then the next epoch
//! ```
//!
//! Invariants:
//! - the state at the barrier of an epoch has the effect of exactly the records of that epoch and those before;
//! - timers fire at the time of the input frontier, or of held records if that is earlier, before the barrier of the epochs that the
//!   frontier has passed;
//! - the operator holds a capability for its epoch and its time, so that nothing after it passes a barrier earlier.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use alluvium::{Barrier, Epoch, Error, Result, Timestamp};
use timely::communication::Pull;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::Message;
use timely::dataflow::channels::pact::ParallelizationContract;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::operators::generic::{InputHandleCore, OutputBuilder};
use timely::dataflow::operators::{CapabilitySet, InputCapability};
use timely::dataflow::{Scope, Stream};
use timely::progress::Timestamp as _;
use timely::progress::frontier::MutableAntichain;
use timely::scheduling::activate::Activator;

use crate::failure::Failure;
use crate::operator::Operator;
use crate::signals::{Phase, Signals};
use crate::time::Time;

/// How often an operator that waits for something outside of the dataflow looks for it.
pub(crate) const POLL: Duration = Duration::from_millis(2);

/// What is being restored, and comes from another thread.
pub(crate) type Restoring<O> = Receiver<Result<O>>;

/// What an operator needs of its worker.
pub(crate) struct Environment {
    pub(crate) signals: Rc<Signals>,
    pub(crate) failure: Failure,
    pub(crate) activator: Activator,
}

type Buffer<D> = CapacityContainerBuilder<Vec<D>>;

/// Adds the operator to a dataflow.
///
/// * `pact`: sends each record to the worker that has the state of its key.
/// * `prepare`: returns where the restored operator comes from.
pub(crate) fn add<'scope, O, P>(
    name: &str,
    (stream, pact): (Stream<'scope, Time, Vec<O::Input>>, P),
    prepare: impl FnOnce(Scope<'scope, Time>, Rc<[usize]>) -> (Restoring<O>, Environment),
) -> Stream<'scope, Time, Vec<O::Output>>
where
    O: Operator,
    P: ParallelizationContract<Time, Vec<O::Input>>,
{
    let scope = stream.scope();
    let mut builder = OperatorBuilder::new(name.to_owned(), scope);
    let mut input = builder.new_input(stream, pact);
    let (output, stream) = builder.new_output::<Vec<O::Output>>();
    let mut output = OutputBuilder::from(output);
    let (restoring, environment) = prepare(scope, builder.operator_info().address);
    builder.build_reschedule(move |mut capabilities| {
        let mut stateful = Stateful::new(restoring, environment, capabilities.drain(..).collect());
        move |frontiers| stateful.schedule(frontiers, &mut input, &mut output)
    });
    stream
}

/// Records of an epoch that is not current yet.
struct Held<D> {
    /// The least time of their sources, which the operator has not passed then.
    millis: i64,
    /// With the right to send on what follows from them.
    batches: Vec<(CapabilitySet<Time>, Vec<D>)>,
}

enum Stage<O> {
    Restoring(Restoring<O>),
    Running(O),
    Ended,
}

struct Stateful<O: Operator> {
    environment: Environment,
    operator: Stage<O>,
    /// Empty once the input has ended.
    capability: CapabilitySet<Time>,
    /// The epoch and the time to which it has come.
    now: Time,
    /// By epoch.
    held: BTreeMap<u64, Held<O::Input>>,
    /// What the operator has just emitted.
    emitted: Vec<O::Output>,
}

impl<O: Operator> Stateful<O> {
    fn new(restoring: Restoring<O>, environment: Environment, capability: CapabilitySet<Time>) -> Self {
        let (now, held, emitted) = (Time::minimum(), BTreeMap::new(), Vec::new());
        Self { environment, operator: Stage::Restoring(restoring), capability, now, held, emitted }
    }

    /// Returns whether the operator is to stay although its input has ended.
    fn schedule<P: Pull<Message<Time, Vec<O::Input>>>>(
        &mut self,
        frontiers: &[MutableAntichain<Time>],
        input: &mut InputHandleCore<Time, Vec<O::Input>, P>,
        output: &mut OutputBuilder<Time, Buffer<O::Output>>,
    ) -> bool {
        let frontier = frontiers.first().and_then(|frontier| least(frontier.frontier().iter()));
        let failure = self.environment.failure.clone();
        failure.catch(|| {
            self.start()?;
            match self.operator {
                Stage::Restoring(_) => {
                    input.for_each(|capability, records| self.hold(&capability, records));
                    Ok(true)
                }
                Stage::Running(_) => {
                    self.read(input, output)?;
                    self.follow(frontier, output)
                }
                Stage::Ended => Ok(false),
            }
        })
    }

    /// Takes in the operator, once it is restored.
    fn start(&mut self) -> Result<()> {
        if let Stage::Restoring(restoring) = &self.operator
            && let Ok(restored) = restoring.try_recv()
        {
            self.operator = Stage::Running(restored?);
            self.now.epoch = self.environment.signals.first_epoch().0;
        }
        Ok(())
    }

    fn read<P: Pull<Message<Time, Vec<O::Input>>>>(
        &mut self,
        input: &mut InputHandleCore<Time, Vec<O::Input>, P>,
        output: &mut OutputBuilder<Time, Buffer<O::Output>>,
    ) -> Result<()> {
        // What has come before the operator was restored.
        self.release(output)?;
        let mut read = Ok(());
        input.for_each(|capability, records| {
            let epoch = least(capability.stamp().iter()).map_or(0, |time| time.epoch);
            if read.is_err() || epoch > self.now.epoch {
                return self.hold(&capability, records);
            }
            read = self.process(records);
            if !self.emitted.is_empty() {
                self.give(&capability.retain_stamp(0), output);
            }
        });
        read
    }

    fn hold(&mut self, capability: &InputCapability<Time>, records: &mut Vec<O::Input>) {
        let Some(time) = least(capability.stamp().iter()) else { return };
        let held = self.held.entry(time.epoch).or_insert_with(|| Held { millis: i64::MAX, batches: Vec::new() });
        held.millis = held.millis.min(time.millis);
        held.batches.push((capability.retain_stamp(0), std::mem::take(records)));
    }

    /// Processes what was held back for the current epoch.
    fn release(&mut self, output: &mut OutputBuilder<Time, Buffer<O::Output>>) -> Result<()> {
        let held = self.held.remove(&self.now.epoch);
        for (capability, mut records) in held.into_iter().flat_map(|held| held.batches) {
            self.process(&mut records)?;
            self.give(&capability, output);
        }
        Ok(())
    }

    fn process(&mut self, records: &mut Vec<O::Input>) -> Result<()> {
        let Stage::Running(operator) = &mut self.operator else { return Ok(()) };
        records.drain(..).try_for_each(|record| operator.process(record, &mut self.emitted))
    }

    /// Sends what the operator has emitted.
    fn give(&mut self, capability: &CapabilitySet<Time>, output: &mut OutputBuilder<Time, Buffer<O::Output>>) {
        if !self.emitted.is_empty() {
            output.activate().session(capability).give_iterator(self.emitted.drain(..));
        }
    }

    /// Follows the frontier of the input: through the epochs that it has passed, and in time.
    fn follow(&mut self, frontier: Option<Time>, output: &mut OutputBuilder<Time, Buffer<O::Output>>) -> Result<bool> {
        let Some(frontier) = frontier else { return self.end() };
        while self.now.epoch < frontier.epoch {
            self.advance(frontier.millis, output)?;
            self.barrier()?;
            self.release(output)?;
        }
        self.advance(frontier.millis, output)?;
        if let Stage::Running(operator) = &mut self.operator {
            operator.task().settle()?;
        }
        Ok(true)
    }

    /// Lets time come to that of the frontier, or of the records that are held back.
    fn advance(&mut self, frontier: i64, output: &mut OutputBuilder<Time, Buffer<O::Output>>) -> Result<()> {
        let millis = self.held.values().map(|held| held.millis).fold(frontier, i64::min);
        let Stage::Running(operator) = &mut self.operator else { return Ok(()) };
        if millis <= self.now.millis {
            return Ok(());
        }
        operator.advance(Timestamp::from_millis(millis), &mut self.emitted)?;
        let capability = std::mem::take(&mut self.capability);
        self.give(&capability, output);
        self.capability = capability;
        self.now.millis = millis;
        self.downgrade();
        Ok(())
    }

    fn barrier(&mut self) -> Result<()> {
        let Stage::Running(operator) = &mut self.operator else { return Ok(()) };
        let barrier = Barrier { attempt: self.environment.signals.attempt(), epoch: Epoch(self.now.epoch) };
        operator.task().barrier(barrier, Timestamp::from_millis(self.now.millis), Vec::new())?;
        self.now.epoch += 1;
        self.downgrade();
        Ok(())
    }

    fn downgrade(&mut self) {
        self.capability.downgrade([self.now]);
    }

    /// The input has ended: waits until the operator is finished.
    fn end(&mut self) -> Result<bool> {
        self.capability = CapabilitySet::new();
        let last = match self.environment.signals.phase() {
            Phase::Complete(last) => last,
            Phase::Ended => return Ok(false),
            Phase::Starting | Phase::Running => {
                return Err(Error::usage("an input ended that is no source of the job"));
            }
        };
        if let Stage::Running(operator) = &mut self.operator
            && !operator.is_finished(last)?
        {
            self.environment.activator.activate_after(POLL);
            return Ok(true);
        }
        self.operator = Stage::Ended;
        Ok(false)
    }
}

/// Returns the least epoch and the least time of some timestamps; they are not always those of one of them.
fn least<'a>(times: impl Iterator<Item = &'a Time>) -> Option<Time> {
    times.copied().reduce(|least, time| Time::new(least.epoch.min(time.epoch), least.millis.min(time.millis)))
}
