//! An external system with two-phase transactions, prepared before a barrier and published after the commit.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::oracle::Oracle;
use alluvium_testkit::sim::Sim;

/// A transaction, identified by attempt and epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Transaction {
    pub(crate) attempt: u64,
    pub(crate) epoch: u64,
}

impl Transaction {
    /// Encodes a list of transactions for a checkpoint, with `padding` bytes behind it.
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
        let count = numbers.next().expect("the list begins with its length");
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

/// The external system. Clones share it.
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

    /// Publishes a transaction; a repetition has no effect.
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
            self.oracle.violation(format!("I7: {transaction:?} is published without having been prepared"));
            return;
        };
        state.published.insert(transaction);
        let twice: Vec<String> = rows.into_iter().filter(|row| !state.rows.insert(row.clone())).collect();
        drop(state);
        if !twice.is_empty() {
            self.oracle.violation(format!("I7: {transaction:?} publishes rows twice: {twice:?}"));
        }
    }

    /// Drops the prepared transactions of attempts before `attempt`, except the listed ones.
    pub(crate) fn abandon(&self, attempt: u64, listed: &[Transaction]) {
        let mut state = self.state();
        let before = state.staged.len();
        state.staged.retain(|transaction, _| transaction.attempt >= attempt || listed.contains(transaction));
        if state.staged.len() < before {
            self.sim.hit("prepared transaction abandoned");
        }
    }

    /// Returns all published rows.
    pub(crate) fn rows(&self) -> BTreeSet<String> {
        self.state().rows.clone()
    }

    /// A checkpoint in the chain lists each published transaction.
    fn i07_published_is_committed(&self, transaction: Transaction) {
        if !self.oracle.has_listed(transaction) {
            self.oracle.violation(format!("I7: {transaction:?} is published, but no committed checkpoint lists it"));
        }
    }
}
