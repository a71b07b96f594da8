//! Restored subtasks, as the engine holds them: in its own process, or in those of workers.

use std::sync::{Arc, Mutex};

use alluvium::{
    AnyBackend, Assignment, Error, Opaque, OpaqueRole, OperatorId, OverlayBackend, Redistribution, Result, Seat,
    SharedRuntime, Task,
};

use super::engine::{SINK, SOURCE};
use super::kinds::Subtask;
use super::sink::Transaction;

/// Something that lives in a process. The engine reaches it from outside; it is gone once the process is.
pub(crate) struct Slot<T>(Arc<Mutex<Option<T>>>);

impl<T> Clone for Slot<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Slot<T> {
    pub(crate) fn new(content: T) -> Self {
        Self(Arc::new(Mutex::new(Some(content))))
    }

    /// # Errors
    /// `Stopped` if the process is gone.
    pub(crate) fn with<R>(&self, work: impl FnOnce(&mut T) -> Result<R>) -> Result<R> {
        match &mut *self.0.lock().unwrap() {
            Some(content) => work(content),
            None => Err(Error::stopped("the process of a subtask is gone")),
        }
    }

    fn clear(&self) {
        // Dropped outside the lock: destructors may run other code of the simulation.
        let content = self.0.lock().unwrap().take();
        drop(content);
    }
}

/// A restored subtask.
pub(crate) enum Seated {
    Source(Slot<Task<AnyBackend>>),
    State(u32, Slot<Subtask>),
    Sink(Slot<Task<AnyBackend>>),
}

impl Clone for Seated {
    fn clone(&self) -> Self {
        match self {
            Self::Source(task) => Self::Source(task.clone()),
            Self::State(index, subtask) => Self::State(*index, subtask.clone()),
            Self::Sink(task) => Self::Sink(task.clone()),
        }
    }
}

impl Seated {
    pub(crate) async fn restore(seat: Seat, overlay: bool) -> Result<Self> {
        Ok(match seat.operator() {
            SOURCE => Self::Source(Slot::new(stateless(seat).await?)),
            SINK => Self::Sink(Slot::new(stateless(seat).await?)),
            OperatorId(_) => {
                let index = seat.subtask().0;
                Self::State(index, Slot::new(Subtask::restore(seat, overlay).await?))
            }
        })
    }

    fn clear(&self) {
        match self {
            Self::Source(task) | Self::Sink(task) => task.clear(),
            Self::State(_, subtask) => subtask.clear(),
        }
    }
}

async fn stateless(seat: Seat) -> Result<Task<AnyBackend>> {
    Ok(seat.restore(|groups, _, budget| AnyBackend::Overlay(OverlayBackend::new(groups, budget))).await?)
}

/// What the opaques of a checkpoint hold.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stored {
    /// Number of records read by the source.
    pub(crate) read: u64,
    /// Records read but not processed.
    pub(crate) in_flight: Vec<u64>,
    /// Prepared transactions.
    pub(crate) listed: Vec<Transaction>,
}

impl Stored {
    pub(crate) fn add(&mut self, opaques: &[Opaque]) -> Result<()> {
        for opaque in opaques {
            match opaque.role {
                OpaqueRole::Source => self.read = numbers(opaque)?.first().copied().unwrap_or(0),
                OpaqueRole::InFlight => self.in_flight.extend(numbers(opaque)?),
                OpaqueRole::SinkPrepared => self.listed.extend(Transaction::decode(&opaque.items()?.concat())),
                _ => {}
            }
        }
        Ok(())
    }

    pub(crate) fn append(&mut self, mut other: Self) {
        self.read = self.read.max(other.read);
        self.in_flight.append(&mut other.in_flight);
        self.listed.append(&mut other.listed);
    }
}

/// Decodes an opaque's numbers.
fn numbers(opaque: &Opaque) -> Result<Vec<u64>> {
    let bytes = match opaque.redistribution {
        Redistribution::ByKeyGroup => opaque.group_items()?.into_iter().flat_map(|(_, item)| item).collect(),
        _ => opaque.items()?.concat(),
    };
    Ok(bytes.chunks_exact(8).map(|bytes| u64::from_le_bytes(bytes.try_into().expect("8 bytes"))).collect())
}

/// The restored subtasks of one process.
#[derive(Clone)]
pub(crate) struct Party {
    pub(crate) seated: Vec<Seated>,
    pub(crate) stored: Stored,
    /// The process's clock.
    pub(crate) clock: SharedRuntime,
    /// `None` if the owner is in the same process.
    pub(crate) assignment: Option<Slot<Assignment>>,
}

impl Party {
    pub(crate) fn new(clock: SharedRuntime) -> Self {
        Self { seated: Vec::new(), stored: Stored::default(), clock, assignment: None }
    }

    /// Restores seats one after another.
    pub(crate) async fn restore(&mut self, seats: Vec<Seat>, overlay: bool) -> Result<()> {
        for seat in seats {
            self.stored.add(seat.opaques())?;
            self.seated.push(Seated::restore(seat, overlay).await?);
        }
        Ok(())
    }
}

/// A worker's tasks: dropped with the worker's process, even while others hold a reference to them.
pub(crate) struct Hosted(pub(crate) Party);

impl Drop for Hosted {
    fn drop(&mut self) {
        self.0.seated.iter().for_each(Seated::clear);
        self.0.assignment.iter().for_each(Slot::clear);
    }
}
