//! An external system that transactions are prepared in before a barrier and published in after the commit.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::oracle::Oracle;
use alluvium_testkit::sim::Sim;

/// A transaction: the attempt and the epoch that made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Transaction {
    pub(crate) attempt: u64,
    pub(crate) epoch: u64,
}

impl Transaction {
    /// Returns the bytes of several, as checkpoints list them, with `padding` bytes behind them.
    pub(crate) fn encode(listed: &[Self], padding: usize) -> Vec<u8> {
        let mut bytes = (listed.len() as u64).to_le_bytes().to_vec();
        for Self { attempt, epoch } in listed {
            bytes.extend([attempt.to_le_bytes(), epoch.to_le_bytes()].concat());
        }
        bytes.resize(bytes.len() + padding, 0);
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Vec<Self> {
        let mut numbers = bytes.chunks_exact(8).map(|bytes| u64::from_le_bytes(bytes.try_into().expect("8 bytes")));
        let count = numbers.next().expect("a list has a length");
        let one = |_| Self { attempt: numbers.next().expect("an attempt"), epoch: numbers.next().expect("an epoch") };
        (0..count).map(one).collect()
    }
}

#[derive(Debug, Default)]
struct State {
    staged: BTreeMap<Transaction, Vec<String>>,
    published: BTreeSet<Transaction>,
    rows: BTreeSet<String>,
}

/// The system. Clones share it.
#[derive(Clone)]
pub(crate) struct Sink {
    sim: Sim,
    oracle: Oracle,
    state: Arc<Mutex<State>>,
}

impl Sink {
    pub(crate) fn new(sim: &Sim, oracle: &Oracle) -> Self {
        Self { sim: sim.clone(), oracle: oracle.clone(), state: Arc::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn prepare(&self, transaction: Transaction, rows: Vec<String>) {
        self.sim.trace(format_args!("sink: {transaction:?} prepared with {} rows", rows.len()));
        self.state().staged.insert(transaction, rows);
    }

    /// Publishes a transaction; once more does nothing.
    pub(crate) fn publish(&self, transaction: Transaction) {
        self.sim.trace(format_args!("sink: {transaction:?} published"));
        self.i07_published_is_committed(transaction);
        let mut state = self.state();
        if state.published.contains(&transaction) {
            self.sim.hit("transaction published again");
            return;
        }
        let Some(rows) = state.staged.remove(&transaction) else {
            drop(state);
            self.oracle.violation(format!("I7: {transaction:?} is to be published, but nobody has prepared it"));
            return;
        };
        state.published.insert(transaction);
        let twice: Vec<String> = rows.into_iter().filter(|row| !state.rows.insert(row.clone())).collect();
        drop(state);
        if !twice.is_empty() {
            self.oracle.violation(format!("I7: {transaction:?} publishes again: {twice:?}"));
        }
    }

    /// Drops what attempts before `attempt` prepared, but for what is listed.
    pub(crate) fn abandon(&self, attempt: u64, listed: &[Transaction]) {
        let mut state = self.state();
        let before = state.staged.len();
        state.staged.retain(|transaction, _| transaction.attempt >= attempt || listed.contains(transaction));
        if state.staged.len() < before {
            self.sim.hit("prepared transaction abandoned");
        }
    }

    /// Returns all rows that were published.
    pub(crate) fn rows(&self) -> BTreeSet<String> {
        self.state().rows.clone()
    }

    /// What is published stands in a checkpoint in the chain.
    fn i07_published_is_committed(&self, transaction: Transaction) {
        if !self.oracle.has_listed(transaction) {
            self.oracle.violation(format!("I7: {transaction:?} is published, but no committed checkpoint lists it"));
        }
    }
}
