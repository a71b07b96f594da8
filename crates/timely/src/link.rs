//! A process's part of the job beside its dataflow: its end of the link to the owner, and the seats of its threads.

use std::collections::BTreeMap;
use std::sync::mpsc::Sender;

use alluvium::{Assignment, Attempt, Epoch, Error, Result, Seat, Worker};
use tokio::sync::mpsc::UnboundedReceiver;

use crate::control::Up;
use crate::port::Port;

/// What the owner gives to a worker of the dataflow: the seats of its subtasks, one for each operator.
#[derive(Debug)]
pub(crate) struct Seats {
    pub(crate) attempt: Attempt,
    pub(crate) first_epoch: Epoch,
    pub(crate) routing: Routing,
    pub(crate) seats: Vec<Seat>,
}

/// How records are shared out to the workers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Routing {
    pub(crate) partitioner: alluvium::Partitioner,
    pub(crate) max_parallelism: u16,
    pub(crate) workers: u32,
}

impl Routing {
    /// Returns the worker that has the state of a key.
    pub(crate) fn worker_of(&self, key: &[u8]) -> u64 {
        let group = self.partitioner.locate(key, 0, self.max_parallelism).group;
        u64::from(alluvium::owner(self.max_parallelism, self.workers, group))
    }
}

/// The link of a process to the owner.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) process: u64,
    pub(crate) worker: Worker,
    /// From the owner.
    pub(crate) from_owner: UnboundedReceiver<Vec<u8>>,
    pub(crate) up: Port<Up>,
    /// Where the seats of each worker go, by its index.
    pub(crate) threads: BTreeMap<u32, Sender<Seats>>,
}

impl Link {
    /// Carries messages until the job ends. Dropping it ends the process's part of the attempt.
    ///
    /// # Errors
    /// Why the job cannot go on in this process.
    pub(crate) async fn run(mut self) -> Result<()> {
        let (mut inbox, mut outbox) = self.worker.connect();
        loop {
            tokio::select! {
                message = self.from_owner.recv() => match message {
                    Some(message) => inbox.receive(&message)?,
                    None => return Ok(()),
                },
                message = outbox.next() => match message {
                    Some(message) => self.up.send(Up::Link(self.process, message.to_vec())),
                    None => return Err(Error::stopped("the link to the owner is broken")),
                },
                assignment = self.worker.assigned() => self.hand_out(assignment?),
            }
        }
    }

    fn hand_out(&self, assignment: Assignment) {
        let Assignment { attempt, first_epoch, partitioner, max_parallelism, .. } = assignment;
        let mut by_worker: BTreeMap<u32, Vec<Seat>> = BTreeMap::new();
        let workers = assignment.seats.first().map_or(1, Seat::parallelism);
        for seat in assignment.seats {
            by_worker.entry(seat.subtask().0).or_default().push(seat);
        }
        let routing = Routing { partitioner, max_parallelism, workers };
        for (index, thread) in &self.threads {
            let seats = by_worker.remove(index).unwrap_or_default();
            // A thread that has ended has said why.
            let _ended = thread.send(Seats { attempt, first_epoch, routing, seats });
        }
    }
}
