//! What the owner says to the operators of a worker.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use alluvium::{Attempt, Barrier, Epoch};
use timely::scheduling::activate::Activator;

/// How far the job is, as this worker knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Its operators have no state yet.
    Starting,
    /// It runs.
    Running,
    /// Everything is read and committed, with this epoch.
    Complete(Epoch),
    /// All workers have published their output.
    Ended,
}

/// The owner's signals, as the operators of one worker see them.
#[derive(Debug)]
pub(crate) struct Signals {
    phase: Cell<Phase>,
    attempt: Cell<Attempt>,
    first_epoch: Cell<Epoch>,
    queues: RefCell<Vec<Rc<Barriers>>>,
    activators: RefCell<Vec<Activator>>,
}

/// The barriers that a source has not passed.
pub(crate) type Barriers = RefCell<VecDeque<Barrier>>;

impl Signals {
    pub(crate) fn new() -> Rc<Self> {
        Rc::new(Self {
            phase: Cell::new(Phase::Starting),
            attempt: Cell::new(Attempt(0)),
            first_epoch: Cell::new(Epoch(0)),
            queues: RefCell::default(),
            activators: RefCell::default(),
        })
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase.get()
    }

    pub(crate) fn attempt(&self) -> Attempt {
        self.attempt.get()
    }

    pub(crate) fn first_epoch(&self) -> Epoch {
        self.first_epoch.get()
    }

    /// Has the operator of `activator` run after each signal.
    pub(crate) fn wake(&self, activator: Activator) {
        self.activators.borrow_mut().push(activator);
    }

    /// Returns where a source finds its barriers, in their order.
    pub(crate) fn subscribe(&self) -> Rc<Barriers> {
        let queue = Rc::default();
        self.queues.borrow_mut().push(Rc::clone(&queue));
        queue
    }

    pub(crate) fn start(&self, attempt: Attempt, first_epoch: Epoch) {
        self.attempt.set(attempt);
        self.first_epoch.set(first_epoch);
        self.enter(Phase::Running);
    }

    pub(crate) fn barrier(&self, barrier: Barrier) {
        self.queues.borrow().iter().for_each(|queue| queue.borrow_mut().push_back(barrier));
        self.activate();
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.set(phase);
        self.activate();
    }

    fn activate(&self) {
        self.activators.borrow().iter().for_each(Activator::activate);
    }
}
