//! A transactional target in memory, with faults and planted flaws.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use alluvium::sink::conformance::Harness;
use alluvium::sink::{Marker, Records, SinkSlot, SinkTarget, Slot};
use alluvium::{Attempt, Error, Result};
use async_trait::async_trait;
use bytes::Bytes;

use crate::fates::{Fates, answer};

/// A planted flaw of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// Sets the marker after the records, in another transaction.
    MarkerApart,
    ForgetMarker,
    AcceptOlder,
    /// Accepts calls from before a fence of the same attempt.
    IgnoreToken,
    OutOfOrder,
    /// Readers see records before the transaction ends.
    Uncommitted,
}

#[derive(Debug, Default)]
struct SlotState {
    attempt: u64,
    /// Counts fences.
    token: u64,
    marker: Option<Marker>,
    records: Vec<Bytes>,
}

/// A target in memory. Its clones share the content.
#[derive(Debug, Clone)]
pub struct MemoryTarget {
    slots: Arc<Mutex<BTreeMap<Slot, SlotState>>>,
    fates: Fates,
    flaw: Option<Flaw>,
}

impl MemoryTarget {
    pub fn new() -> Self {
        Self { slots: Arc::default(), fates: Fates::new(), flaw: None }
    }

    pub fn with_flaw(flaw: Flaw) -> Self {
        Self { flaw: Some(flaw), ..Self::new() }
    }

    /// Returns the fates of calls of publish.
    pub fn fates(&self) -> &Fates {
        &self.fates
    }

    /// Returns what readers see, slot by slot.
    pub fn records(&self) -> Vec<Bytes> {
        self.slots().values().flat_map(|slot| slot.records.iter().cloned()).collect()
    }

    /// Returns the marker of each slot, by subtask.
    pub fn markers(&self) -> BTreeMap<u32, Marker> {
        self.slots().iter().filter_map(|(slot, state)| Some((slot.subtask.0, state.marker?))).collect()
    }

    /// Forgets all markers, as a target does whose retention is over.
    pub fn lose_markers(&self) {
        self.slots().values_mut().for_each(|slot| slot.marker = None);
    }

    fn slots(&self) -> MutexGuard<'_, BTreeMap<Slot, SlotState>> {
        self.slots.lock().unwrap()
    }

    fn has(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }
}

#[async_trait]
impl SinkTarget for MemoryTarget {
    async fn check(&self) -> Result<()> {
        Ok(())
    }

    async fn open(&self, slot: &Slot) -> Result<Box<dyn SinkSlot>> {
        Ok(Box::new(MemorySlot { target: self.clone(), slot: slot.clone(), token: 0 }))
    }
}

#[derive(Debug)]
struct MemorySlot {
    target: MemoryTarget,
    slot: Slot,
    token: u64,
}

impl MemorySlot {
    fn apply(&self, marker: Marker, records: &Records) -> Result<()> {
        let MemoryTarget { flaw, .. } = self.target;
        let mut slots = self.target.slots();
        let slot = slots.get_mut(&self.slot).expect("a slot is fenced before it publishes");
        if slot.attempt > marker.attempt.0 && flaw != Some(Flaw::AcceptOlder) {
            return Err(Error::fenced("a later attempt has the slot").with("by", slot.attempt));
        }
        if slot.token != self.token && flaw != Some(Flaw::IgnoreToken) && flaw != Some(Flaw::AcceptOlder) {
            return Err(Error::unavailable("the slot was fenced again"));
        }
        let mut records: Vec<_> = records.iter().collect();
        if flaw == Some(Flaw::OutOfOrder) {
            records.reverse();
        }
        if flaw != Some(Flaw::Uncommitted) {
            slot.records.append(&mut records);
        }
        if flaw != Some(Flaw::MarkerApart) && flaw != Some(Flaw::ForgetMarker) {
            slot.marker = Some(marker);
        }
        Ok(())
    }
}

#[async_trait]
impl SinkSlot for MemorySlot {
    async fn fence(&mut self, attempt: Attempt) -> Result<Option<Marker>> {
        let mut slots = self.target.slots();
        let slot = slots.entry(self.slot.clone()).or_default();
        if slot.attempt > attempt.0 && !self.target.has(Flaw::AcceptOlder) {
            return Err(Error::fenced("a later attempt has the slot").with("by", slot.attempt));
        }
        slot.attempt = slot.attempt.max(attempt.0);
        slot.token += 1;
        self.token = slot.token;
        Ok(slot.marker)
    }

    async fn publish(&mut self, marker: Marker, records: &Records) -> Result<()> {
        let is_lost = self.target.fates.call().await?;
        if self.target.has(Flaw::Uncommitted) {
            self.target.slots().get_mut(&self.slot).expect("fenced").records.extend(records.iter());
        }
        tokio::task::yield_now().await;
        self.apply(marker, records)?;
        if self.target.has(Flaw::MarkerApart) {
            tokio::task::yield_now().await;
            self.target.slots().get_mut(&self.slot).expect("fenced").marker = Some(marker);
        }
        answer((), is_lost)
    }
}

#[async_trait]
impl Harness for MemoryTarget {
    fn target(&self) -> Arc<dyn SinkTarget> {
        Arc::new(self.clone())
    }

    fn record(&self, number: u64) -> Bytes {
        number.to_string().into()
    }

    async fn read(&self) -> Result<Vec<u64>> {
        Ok(self.records().iter().map(|record| std::str::from_utf8(record).unwrap().parse().unwrap()).collect())
    }

    fn random(&self) -> u128 {
        7
    }
}
