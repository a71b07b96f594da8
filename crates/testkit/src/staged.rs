//! A target of staged output in memory, with faults and planted flaws.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use alluvium::sink::conformance::StagedHarness;
use alluvium::sink::{Claim, Marker, Records, Slot, StagedPart, StagedSlot, StagedTarget};
use alluvium::{Attempt, Epoch, Error, JobId, Lineage, Result};
use async_trait::async_trait;
use bytes::Bytes;

use crate::fates::{Fates, answer};

/// A planted flaw of a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StagedFlaw {
    /// Readers see what is staged.
    SeenEarly,
    /// A fence leaves what older attempts staged.
    KeepStaged,
    /// A fence removes what is listed too.
    ForgetListed,
    /// A repeated publication adds the records again.
    PublishAgain,
    /// Staged names have no attempt.
    SharedNames,
    AcceptOlder,
    OutOfOrder,
}

/// The name of a part: slot, epoch, attempt.
type Name = (Slot, u64, u64);

#[derive(Debug, Default)]
struct Content {
    /// Each with the attempt that may publish it.
    staged: BTreeMap<Name, (u64, Vec<Bytes>)>,
    published: BTreeMap<Name, Vec<Bytes>>,
    claims: BTreeMap<Slot, Claimed>,
}

/// The newest claim to a slot.
#[derive(Debug, Clone, Copy)]
struct Claimed {
    attempt: u64,
    lineage: Lineage,
    /// The attempt before which parts no longer count, and the epoch up to which all counts as published then.
    disregards: Option<(u64, Epoch)>,
}

/// A target in memory. Its clones share the content.
#[derive(Debug, Clone)]
pub struct MemoryStaging {
    content: Arc<Mutex<Content>>,
    fates: Fates,
    flaw: Option<StagedFlaw>,
}

impl MemoryStaging {
    pub fn new() -> Self {
        Self { content: Arc::default(), fates: Fates::new(), flaw: None }
    }

    pub fn with_flaw(flaw: StagedFlaw) -> Self {
        Self { flaw: Some(flaw), ..Self::new() }
    }

    /// Returns the fates of calls that stage or publish.
    pub fn fates(&self) -> &Fates {
        &self.fates
    }

    /// Returns what readers see, part by part.
    pub fn records(&self) -> Vec<Bytes> {
        let content = self.content();
        let early = content.staged.values().filter(|_| self.has(StagedFlaw::SeenEarly)).map(|(_, records)| records);
        content.published.values().chain(early).flatten().cloned().collect()
    }

    /// Returns the number of parts that are staged and not published.
    pub fn staged(&self) -> usize {
        self.content().staged.len()
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap()
    }

    fn has(&self, flaw: StagedFlaw) -> bool {
        self.flaw == Some(flaw)
    }

    /// Awaits the fate of a call. Returns whether its answer is lost.
    async fn call(&self) -> Result<bool> {
        tokio::task::yield_now().await;
        self.fates.call().await
    }
}

#[async_trait]
impl StagedTarget for MemoryStaging {
    async fn check(&self) -> Result<()> {
        Ok(())
    }

    async fn open(&self, slot: &Slot, attempt: Attempt) -> Result<Box<dyn StagedSlot>> {
        Ok(Box::new(MemorySlot { target: self.clone(), slot: slot.clone(), attempt: attempt.0 }))
    }
}

#[derive(Debug)]
struct MemorySlot {
    target: MemoryStaging,
    slot: Slot,
    attempt: u64,
}

impl MemorySlot {
    fn check(&self, content: &Content) -> Result<()> {
        let newest = content.claims.get(&self.slot).map_or(0, |claim| claim.attempt);
        if newest > self.attempt && !self.target.has(StagedFlaw::AcceptOlder) {
            return Err(Error::fenced("a later attempt has the slot").with("by", newest));
        }
        Ok(())
    }

    fn name(&self, part: &StagedPart) -> Name {
        let mut numbers =
            part.bytes().chunks_exact(8).map(|bytes| u64::from_le_bytes(bytes.try_into().expect("8 bytes")));
        let mut next = || numbers.next().expect("two numbers");
        (self.slot.clone(), next(), next())
    }
}

#[async_trait]
impl StagedSlot for MemorySlot {
    async fn published(&self) -> Result<Option<Marker>> {
        let content = self.target.content();
        self.check(&content)?;
        let claim = content.claims.get(&self.slot);
        let lineage = claim.map_or(Lineage([0; 16]), |claim| claim.lineage);
        let disregards = claim.and_then(|claim| claim.disregards);
        let since = disregards.map_or(0, |(since, _)| since);
        let own = content.published.keys().filter(|(slot, _, attempt)| *slot == self.slot && *attempt >= since);
        let parts = own.map(|(_, epoch, attempt)| (Epoch(*epoch), *attempt));
        let newest = parts.chain(disregards.map(|(since, epoch)| (epoch, since))).max();
        Ok(newest.map(|(epoch, attempt)| Marker { lineage, attempt: Attempt(attempt), epoch }))
    }

    async fn fence(&self, claim: Claim, listed: &[StagedPart]) -> Result<()> {
        let mut content = self.target.content();
        self.check(&content)?;
        let before = content.claims.get(&self.slot).copied();
        if before.is_some_and(|it| it.attempt == self.attempt && it.lineage != claim.lineage) {
            return Err(Error::fenced("another copy of the job has the slot"));
        }
        let disregards = claim.disregards_after.map(|epoch| (self.attempt, epoch));
        let disregards = disregards.or_else(|| before.and_then(|before| before.disregards));
        let claimed = Claimed { attempt: self.attempt, lineage: claim.lineage, disregards };
        content.claims.insert(self.slot.clone(), claimed);
        if self.target.has(StagedFlaw::KeepStaged) {
            return Ok(());
        }
        let listed: Vec<_> = listed.iter().map(|part| self.name(part)).collect();
        let forgets = self.target.has(StagedFlaw::ForgetListed);
        for (name, (holder, _)) in content.staged.iter_mut().filter(|(name, _)| name.0 == self.slot) {
            *holder = if forgets && listed.contains(name) { u64::MAX } else { self.attempt.max(*holder) };
        }
        Ok(())
    }

    async fn stage(&self, epoch: Epoch, records: &Records) -> Result<StagedPart> {
        let is_lost = self.target.call().await?;
        let attempt = if self.target.has(StagedFlaw::SharedNames) { 0 } else { self.attempt };
        let mut records: Vec<_> = records.iter().collect();
        if self.target.has(StagedFlaw::OutOfOrder) {
            records.reverse();
        }
        self.target.content().staged.insert((self.slot.clone(), epoch.0, attempt), (self.attempt, records));
        answer(StagedPart::new([epoch.0.to_le_bytes(), attempt.to_le_bytes()].concat()), is_lost)
    }

    async fn publish(&self, part: &StagedPart) -> Result<()> {
        let is_lost = self.target.call().await?;
        let name = self.name(part);
        let mut content = self.target.content();
        let keeps = self.target.has(StagedFlaw::KeepStaged);
        let is_held = content.staged.get(&name).is_some_and(|(holder, _)| keeps || *holder == self.attempt);
        let held = if is_held { content.staged.remove(&name) } else { None };
        if let Some((_, records)) = held {
            content.published.insert(name, records);
            return answer((), is_lost);
        }
        let again = self.target.has(StagedFlaw::PublishAgain);
        match content.published.get_mut(&name) {
            Some(records) if again => records.extend_from_within(..),
            Some(_) => {}
            None => return Err(Error::not_found("part is neither staged nor published")),
        }
        answer((), is_lost)
    }
}

#[async_trait]
impl StagedHarness for MemoryStaging {
    fn target(&self, _job: JobId) -> Arc<dyn StagedTarget> {
        Arc::new(self.clone())
    }

    fn record(&self, number: u64) -> Bytes {
        number.to_string().into()
    }

    async fn read(&self, job: JobId) -> Result<Vec<u64>> {
        let content = self.content();
        let early = content.staged.iter().filter(|_| self.has(StagedFlaw::SeenEarly));
        let early = early.map(|(name, (_, records))| (name, records));
        let own = content.published.iter().chain(early).filter(|(name, _)| name.0.job == job);
        let number = |record: &Bytes| std::str::from_utf8(record).unwrap().parse().unwrap();
        Ok(own.flat_map(|(_, records)| records.iter().map(number)).collect())
    }

    fn random(&self) -> u128 {
        7
    }
}
