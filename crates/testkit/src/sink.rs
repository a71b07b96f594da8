//! A transactional target in memory, with faults and planted flaws.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use alluvium::sink::conformance::Harness;
use alluvium::sink::{Marker, Records, SinkSlot, SinkTarget, Slot};
use alluvium::{Attempt, Error, Result};
use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;

/// What happens to a call of publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Succeed,
    /// Fails, and nothing is published.
    Fail,
    /// Publishes, and the answer is lost.
    LoseAnswer,
    /// Refuses the records for good.
    Refuse,
    /// Waits until [`MemoryTarget::resume`], before anything is published.
    Wait,
}

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
    fates: Arc<Mutex<VecDeque<Fate>>>,
    resumed: watch::Sender<bool>,
    flaw: Option<Flaw>,
}

impl MemoryTarget {
    pub fn new() -> Self {
        Self { slots: Arc::default(), fates: Arc::default(), resumed: watch::Sender::new(false), flaw: None }
    }

    pub fn with_flaw(flaw: Flaw) -> Self {
        Self { flaw: Some(flaw), ..Self::new() }
    }

    /// Sets the fates of the next calls of publish.
    pub fn meet(&self, fates: impl IntoIterator<Item = Fate>) {
        self.fates.lock().unwrap().extend(fates);
    }

    /// Lets calls that wait continue.
    pub fn resume(&self) {
        self.resumed.send_replace(true);
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
        let fate = self.target.fates.lock().unwrap().pop_front().unwrap_or(Fate::Succeed);
        match fate {
            Fate::Fail => return Err(Error::unavailable("the target is away")),
            Fate::Refuse => return Err(Error::input("the target refuses a record")),
            Fate::Wait => {
                let mut resumed = self.target.resumed.subscribe();
                resumed.wait_for(|resumed| *resumed).await.expect("the target outlives its slots");
            }
            Fate::Succeed | Fate::LoseAnswer => {}
        }
        if self.target.has(Flaw::Uncommitted) {
            self.target.slots().get_mut(&self.slot).expect("fenced").records.extend(records.iter());
        }
        tokio::task::yield_now().await;
        self.apply(marker, records)?;
        if self.target.has(Flaw::MarkerApart) {
            tokio::task::yield_now().await;
            self.target.slots().get_mut(&self.slot).expect("fenced").marker = Some(marker);
        }
        if fate == Fate::LoseAnswer {
            return Err(Error::unavailable("no answer").unknown());
        }
        Ok(())
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
