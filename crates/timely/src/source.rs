//! Runs a [`Source`] in a dataflow: its records, in the epoch in which they were read, and its watermark.
//!
//! A source cuts its input where a barrier finds it, and moves to the next epoch at once. It goes no further ahead than the owner
//! triggers: the number of epochs in flight is bounded by the job's settings.

use std::collections::VecDeque;
use std::rc::Rc;

use alluvium::source::{Advance, Source, SourceReader};
use alluvium::{Barrier, LogBackend, Result, Task, Timestamp};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::{Scope, Stream};
use timely::progress::Timestamp as _;

use crate::control::Up;
use crate::port::Port;
use crate::signals::{Barriers, Phase};
use crate::stateful::{Environment, POLL, Restoring};
use crate::time::Time;

/// Records that a source reads in one turn: others of its worker, and barriers, have theirs in between.
const BATCH: usize = 1024;

/// A source as it is restored: its positions are part of the task's checkpoints.
pub(crate) struct Opened<S: Source> {
    pub(crate) task: Task<LogBackend>,
    pub(crate) reader: SourceReader<S>,
}

/// What a source needs beside the environment of all operators.
pub(crate) struct Feed {
    pub(crate) barriers: Rc<Barriers>,
    pub(crate) up: Port<Up>,
}

/// Adds the source to a dataflow.
///
/// * `read`: returns the time and the content of the current record of a split; no content skips it.
pub(crate) fn add<'scope, S, D>(
    name: &str,
    scope: Scope<'scope, Time>,
    read: impl FnMut(&S::Reader) -> Result<(Option<Timestamp>, Option<D>)> + 'static,
    prepare: impl FnOnce(Rc<[usize]>) -> (Restoring<Opened<S>>, Environment, Feed),
) -> Stream<'scope, Time, Vec<D>>
where
    S: Source,
    D: Clone + 'static,
{
    let mut builder = OperatorBuilder::new(name.to_owned(), scope);
    let (output, stream) = builder.new_output::<Vec<D>>();
    let mut output = OutputBuilder::from(output);
    let (restoring, environment, feed) = prepare(builder.operator_info().address);
    builder.build(move |mut capabilities| {
        let (capability, now) = (capabilities.pop(), Time::minimum());
        let mut reading =
            Reading { environment, feed, restoring, read, opened: None, capability, now, is_exhausted: false };
        move |_| {
            let failure = reading.environment.failure.clone();
            let _source = failure.catch(|| reading.step(&mut output).map(|()| true));
        }
    });
    stream
}

struct Reading<S: Source, F> {
    environment: Environment,
    feed: Feed,
    restoring: Restoring<Opened<S>>,
    read: F,
    /// `None` until it is restored.
    opened: Option<Opened<S>>,
    /// `None` once the job is complete.
    capability: Option<Capability<Time>>,
    now: Time,
    /// Whether it has said that there is no more to read.
    is_exhausted: bool,
}

impl<S: Source, F> Reading<S, F> {
    fn step<D: Clone + 'static>(
        &mut self,
        output: &mut OutputBuilder<Time, CapacityContainerBuilder<Vec<D>>>,
    ) -> Result<()>
    where
        F: FnMut(&S::Reader) -> Result<(Option<Timestamp>, Option<D>)>,
    {
        if self.opened.is_none()
            && let Ok(opened) = self.restoring.try_recv()
        {
            self.opened = Some(opened?);
            self.now.epoch = self.environment.signals.first_epoch().0;
            self.follow();
        }
        if matches!(self.environment.signals.phase(), Phase::Complete(_) | Phase::Ended) {
            (self.capability, self.opened) = (None, None);
        }
        let (Some(opened), Some(capability)) = (&mut self.opened, &mut self.capability) else { return Ok(()) };
        let barriers = std::mem::take(&mut *self.feed.barriers.borrow_mut());
        pass(opened, barriers, &mut self.now, capability)?;
        if self.is_exhausted {
            return Ok(());
        }
        let mut found = Advance::Record;
        let mut active = output.activate();
        let mut session = active.session(capability);
        for _ in 0..BATCH {
            found = opened.reader.advance()?;
            if found != Advance::Record {
                break;
            }
            let current = opened.reader.current().map(|(_, reader)| (self.read)(reader)).transpose()?;
            let (time, record) = current.unwrap_or_default();
            time.into_iter().for_each(|time| opened.reader.set_time(time));
            record.into_iter().for_each(|record| session.give(record));
        }
        drop(session);
        drop(active);
        match found {
            Advance::Record => self.environment.activator.activate(),
            Advance::End => {
                self.is_exhausted = true;
                self.feed.up.send(Up::Exhausted);
            }
            _ => self.environment.activator.activate_after(POLL),
        }
        self.follow();
        Ok(())
    }

    /// Follows the watermark of the reader.
    fn follow(&mut self) {
        let (Some(opened), Some(capability)) = (&mut self.opened, &mut self.capability) else { return };
        let millis = if self.is_exhausted { i64::MAX } else { opened.reader.watermark().as_millis() };
        self.now.millis = self.now.millis.max(millis);
        capability.downgrade(&self.now);
    }
}

/// Ends epochs here: the positions of their checkpoints are where the reader is.
fn pass<S: Source>(
    opened: &mut Opened<S>,
    barriers: VecDeque<Barrier>,
    now: &mut Time,
    capability: &mut Capability<Time>,
) -> Result<()> {
    for barrier in barriers {
        let (positions, watermark) = (opened.reader.opaque()?, opened.reader.watermark());
        opened.task.barrier(barrier, watermark, vec![positions])?;
        now.epoch = barrier.epoch.next().0;
        capability.downgrade(now);
    }
    Ok(())
}
