//! A job's chain of manifests, as a reader finds it.
//!
//! Invariants: a listing is only a hint at the chain's end, which is found by reading number after number; only the
//! newest manifest decides which others are live; damage is never skipped silently.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use bytes::Bytes;

use crate::canary::{self, Canary};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{Attempt, Hash, ManifestId, ObjectId, Seq};
use crate::manifest::{MAX_MANIFEST_BYTES, Manifest, ManifestKind, Retained};
use crate::place::Store;
use crate::store::{Key, KeyClass};

/// Most listings that one load makes while they lag too far behind.
const LISTINGS_MAX: u32 = 5;

/// How often a reader moves on to a newer checkpoint while the chain grows.
pub(crate) const FOLLOWED_MAX: u32 = 8;

/// Which checkpoint to restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestoreFrom {
    /// The newest checkpoint of the newest claim's lineage.
    Newest,
    /// None: start empty.
    Fresh,
    /// The live checkpoint or savepoint with this id.
    Checkpoint(Seq),
}

/// A manifest with the identity under which it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredManifest {
    /// Its number, and the id of the put that created it.
    pub id: ManifestId,
    /// Hash of the whole object.
    pub hash: Hash,
    /// Its content.
    pub manifest: Manifest,
}

impl StoredManifest {
    fn decode(store: &Store, seq: Seq, object: &Bytes) -> Result<Self> {
        let named = |error: Error| {
            Error::new(error.kind(), "unreadable manifest").with("object", Key::Manifest(seq)).with_source(error)
        };
        let (manifest, put_id) = Manifest::decode_signed(object, seq, store.manifest_keys()).map_err(named)?;
        Ok(Self { id: ManifestId { seq, put_id }, hash: Hash::of(object), manifest })
    }

    /// Returns the entry by which another manifest retains it.
    #[must_use]
    pub fn as_retained(&self) -> Retained {
        Retained { id: self.id, hash: self.hash, kind: self.manifest.kind }
    }

    /// Returns the data objects that it refers to.
    #[must_use]
    pub fn objects(&self) -> BTreeSet<ObjectId> {
        self.manifest.objects.iter().map(|object| object.id).collect()
    }
}

/// The end of a job's chain.
#[derive(Debug)]
pub struct ManifestLog {
    /// The last number in use.
    end: Seq,
    /// The newest readable manifest: the one at the end, unless that is damaged.
    newest: Option<StoredManifest>,
    /// The error of decoding the manifest at the end.
    damage: Option<Error>,
    /// Every number known to be in use, with its object's length.
    stored: BTreeMap<Seq, u64>,
}

impl ManifestLog {
    /// Finds the end of the job's chain: one listing, then a read of each further number until one is missing.
    ///
    /// # Errors
    /// `Version` if the newest manifest is too new for this build; `Denied` or `Unavailable` from the store. A damaged
    /// newest manifest is no error here: [`ManifestLog::newest`] and [`ManifestLog::resolve`] report it.
    pub async fn load(store: &Store) -> Result<Self> {
        for _ in 0..LISTINGS_MAX {
            let stored = list(store).await?;
            let start = stored.last_key_value().map_or(Seq(0), |(seq, _)| *seq);
            let mut chain = Self { end: start, newest: None, damage: None, stored };
            let listed = if start == Seq(0) { None } else { read_object(store, start).await? };
            if start == Seq(0) || listed.is_some() {
                chain.follow(store, listed).await?;
                return Ok(chain);
            }
            // The listing lags: its last manifest is deleted already, and it misses the later ones.
            store.runtime().sleep(store.settings().backoff_max).await;
        }
        Err(Error::unavailable("store's listings lag: their last manifest is deleted"))
    }

    /// Reads from the end, which holds `object`, until a number is missing.
    async fn follow(&mut self, store: &Store, object: Option<Bytes>) -> Result<()> {
        let mut last = object;
        loop {
            let next = following(self.end)?;
            if last.is_some() && canary::on(Canary::TrustListing) {
                break;
            }
            let Some(object) = read_object(store, next).await? else { break };
            self.stored.insert(next, object.len() as u64);
            self.end = next;
            last = Some(object);
        }
        match last {
            Some(object) => self.decode_newest(store, &object).await,
            None => Ok(()),
        }
    }

    /// Loads the chain again; returns whether it has grown.
    ///
    /// # Errors
    /// As [`ManifestLog::load`].
    pub async fn refresh(&mut self, store: &Store) -> Result<bool> {
        let newer = self.newer(store).await?;
        let grown = newer.is_some();
        newer.into_iter().for_each(|newer| *self = newer);
        Ok(grown)
    }

    /// Returns the current chain, if it has grown. Reading on from the old end is not enough: the manifests after it
    /// may have been created, dropped and deleted already.
    ///
    /// A slow read that finds nothing proves nothing either, for the same reason. But after such a delete, any listing
    /// that begins later shows a higher number.
    ///
    /// # Errors
    /// As [`ManifestLog::load`].
    pub async fn newer(&self, store: &Store) -> Result<Option<Self>> {
        for _ in 0..LISTINGS_MAX {
            let found = Self::load(store).await?;
            if found.end > self.end {
                return Ok(Some(found));
            }
            if list(store).await?.keys().all(|seq| *seq <= self.end) {
                return Ok(None);
            }
        }
        Err(Error::unavailable("the chain grows faster than it can be read"))
    }

    /// Decodes `object`, the manifest at the end. If it is damaged, falls back to the newest readable manifest below,
    /// which serves only to choose a checkpoint by number.
    async fn decode_newest(&mut self, store: &Store, object: &Bytes) -> Result<()> {
        self.damage = match StoredManifest::decode(store, self.end, object) {
            Ok(stored) => {
                self.newest = Some(stored);
                return Ok(());
            }
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                Some(error).filter(|_| !canary::on(Canary::SilentFallback))
            }
            Err(error) => return Err(error),
        };
        for below in self.stored.range(..self.end).rev().map(|(below, _)| *below) {
            let Some(object) = read_object(store, below).await? else { continue };
            if let Ok(stored) = StoredManifest::decode(store, below, &object) {
                self.newest = Some(stored);
                break;
            }
        }
        Ok(())
    }

    /// Returns the last number in use; 0 if the job has no manifest.
    #[must_use]
    pub fn end(&self) -> Seq {
        self.end
    }

    /// Returns the newest manifest, or `None` if the job has none.
    ///
    /// # Errors
    /// `Corrupt` if it is damaged, naming it and the checkpoints to choose from instead.
    pub fn newest(&self) -> Result<Option<&StoredManifest>> {
        match &self.damage {
            Some(damage) => Err(self
                .with_restorable(Error::corrupt("newest manifest is damaged"), None)
                .with_source(damage.chain())),
            None => Ok(self.newest.as_ref()),
        }
    }

    /// Returns the newest readable manifest, even if damaged ones follow it. Use it to choose a checkpoint by number,
    /// never to delete.
    #[must_use]
    pub fn newest_readable(&self) -> Option<&StoredManifest> {
        self.newest.as_ref()
    }

    /// Returns the numbers known to be in use, void ones included, with their objects' lengths.
    #[must_use]
    pub fn stored(&self) -> &BTreeMap<Seq, u64> {
        &self.stored
    }

    /// Returns the live manifests, ascending: the newest one and those that it retains.
    #[must_use]
    pub fn live(&self) -> Vec<Retained> {
        let Some(newest) = &self.newest else { return Vec::new() };
        let mut live = newest.manifest.retained.clone();
        live.push(newest.as_retained());
        live.sort_unstable_by_key(|manifest| manifest.id.seq);
        live
    }

    /// Returns the live checkpoints and savepoints.
    #[must_use]
    pub fn restorable(&self) -> Vec<Retained> {
        self.live().into_iter().filter(|manifest| manifest.kind != ManifestKind::Claim).collect()
    }

    /// Returns whether `seq` is a live checkpoint or savepoint.
    #[must_use]
    pub fn lists(&self, seq: Seq) -> bool {
        self.restorable().iter().any(|manifest| manifest.id.seq == seq)
    }

    /// Reads the checkpoint that `from` selects. If the checkpoint is gone because the chain has grown, tries again.
    ///
    /// # Errors
    /// `NotFound` if the chosen checkpoint is not live, or was dropped while it was read; `Corrupt` if the checkpoint,
    /// or a manifest that leads to it, is damaged. Both name the checkpoints to choose from; no other one is restored
    /// instead.
    pub async fn resolve(&mut self, store: &Store, from: RestoreFrom) -> Result<Option<StoredManifest>> {
        let mut followed = 0;
        let mut missed: Option<Error> = None;
        loop {
            let error = match self.select(from) {
                Ok(None) => return Ok(None),
                Ok(Some(manifest)) => match self.read(store, &manifest).await {
                    Ok(stored) => return Ok(Some(stored)),
                    Err(error) => error,
                },
                Err(error) => match (from, missed.take()) {
                    (RestoreFrom::Checkpoint(seq), Some(missed)) if error.kind() == ErrorKind::NotFound => {
                        return Err(self.dropped(seq, &missed));
                    }
                    _ => error,
                },
            };
            // The owner may have committed, and dropped the checkpoint, since the chain was loaded.
            if !is_content_error(&error) || followed == FOLLOWED_MAX || !self.refresh(store).await? {
                return Err(error);
            }
            followed += 1;
            missed = Some(error).filter(|error| error.kind() == ErrorKind::Corrupt);
        }
    }

    /// Returns the error of a read under `seq`, which is no longer live.
    pub(super) fn dropped(&self, seq: Seq, missed: &Error) -> Error {
        let error = Error::not_found("checkpoint was dropped while it was read").with("checkpoint", seq);
        self.with_restorable(error, None).with_source(missed.clone())
    }

    /// Reads every live manifest, ascending. If one is gone because the chain has grown, starts over.
    ///
    /// # Errors
    /// `Corrupt` if one is damaged or missing.
    pub async fn read_live(&mut self, store: &Store) -> Result<Vec<StoredManifest>> {
        self.read_live_but(store, &BTreeSet::new()).await
    }

    /// As [`ManifestLog::read_live`], without the manifests `unread`.
    pub(super) async fn read_live_but(&mut self, store: &Store, unread: &BTreeSet<Seq>) -> Result<Vec<StoredManifest>> {
        let mut followed = 0;
        loop {
            match self.read_live_once(store, unread).await {
                Err(error) if is_content_error(&error) && followed < FOLLOWED_MAX && self.refresh(store).await? => {
                    followed += 1;
                }
                settled => return settled,
            }
        }
    }

    async fn read_live_once(&self, store: &Store, unread: &BTreeSet<Seq>) -> Result<Vec<StoredManifest>> {
        self.newest()?;
        let mut manifests = Vec::new();
        for manifest in self.live().into_iter().filter(|manifest| !unread.contains(&manifest.id.seq)) {
            manifests.push(self.read(store, &manifest).await?);
        }
        Ok(manifests)
    }

    /// Reads a live manifest and checks that it is the retained one.
    ///
    /// # Errors
    /// `Corrupt` if it is missing, damaged, or another writer's object under its number, naming the checkpoints to
    /// choose from instead.
    pub async fn read(&self, store: &Store, manifest: &Retained) -> Result<StoredManifest> {
        if let Some(newest) = self.newest.as_ref().filter(|newest| newest.id == manifest.id) {
            return Ok(newest.clone());
        }
        let seq = manifest.id.seq;
        let failed = |error: Error| self.with_restorable(error, Some(seq)).with("object", Key::Manifest(seq));
        let object = read_object(store, seq).await?;
        let object = object.ok_or_else(|| failed(Error::corrupt("live manifest is missing")))?;
        let stored = StoredManifest::decode(store, seq, &object)
            .map_err(|error| failed(Error::new(error.kind(), "live manifest is unreadable")).with_source(error))?;
        if stored.as_retained() != *manifest && !canary::on(Canary::SkipIdentity) {
            return Err(failed(Error::corrupt("live manifest is not the one that the newest lists")));
        }
        Ok(stored)
    }

    /// Returns the newest manifest's entry of the checkpoint that `from` selects; `None` to start empty.
    ///
    /// # Errors
    /// `NotFound` if the chosen checkpoint is not live; `Corrupt` if the newest manifest is damaged.
    pub fn select(&self, from: RestoreFrom) -> Result<Option<Retained>> {
        match from {
            RestoreFrom::Fresh => Ok(None),
            RestoreFrom::Newest => {
                let Some(newest) = self.newest()? else { return Ok(None) };
                if newest.manifest.kind != ManifestKind::Claim {
                    return Ok(Some(newest.as_retained()));
                }
                let Some(parent) = newest.manifest.parent else { return Ok(None) };
                let listed = newest.manifest.retained.iter().find(|manifest| manifest.id == parent);
                let missing = || {
                    Error::corrupt("claim does not list its own parent").with("object", Key::Manifest(newest.id.seq))
                };
                listed.copied().ok_or_else(missing).map(Some)
            }
            RestoreFrom::Checkpoint(seq) => {
                if seq == self.end {
                    self.newest()?;
                }
                let found = self.restorable().into_iter().find(|manifest| manifest.id.seq == seq);
                let missing =
                    || self.with_restorable(Error::not_found("no such checkpoint"), None).with("checkpoint", seq);
                found.ok_or_else(missing).map(Some)
            }
        }
    }

    /// Adds the restorable checkpoints, except `except`, to an error.
    fn with_restorable(&self, error: Error, except: Option<Seq>) -> Error {
        let mut choices = String::new();
        for manifest in self.restorable().iter().filter(|manifest| Some(manifest.id.seq) != except) {
            let comma = if choices.is_empty() { "" } else { "," };
            // Writing to a string cannot fail.
            let _infallible = write!(choices, "{comma}{}", manifest.id.seq);
        }
        error.with("restorable", if choices.is_empty() { "none" } else { &choices })
    }
}

/// Returns whether the stored content is at fault, rather than access to the store.
fn is_content_error(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::NotFound)
}

/// Lists the numbers in use, with their objects' lengths.
async fn list(store: &Store) -> Result<BTreeMap<Seq, u64>> {
    let listed = store.folder().list(KeyClass::Manifest).await?.entries;
    let manifests = listed.into_iter().filter_map(|(key, bytes)| match key {
        Key::Manifest(seq) => Some((seq, bytes)),
        _ => None,
    });
    Ok(manifests.collect())
}

async fn read_object(store: &Store, seq: Seq) -> Result<Option<Bytes>> {
    store.folder().read(&Key::Manifest(seq), MAX_MANIFEST_BYTES as u64).await
}

/// Returns the number after `seq`.
///
/// # Errors
/// `Limit` if there is none.
pub(super) fn following(seq: Seq) -> Result<Seq> {
    seq.0.checked_add(1).map(Seq).ok_or_else(|| Error::limit("the chain has no more numbers").with("seq", seq))
}

/// Returns the attempt after `attempt`.
///
/// # Errors
/// `Limit` if there is none.
pub(super) fn succeeding(attempt: Attempt) -> Result<Attempt> {
    let next = attempt.0.checked_add(1).map(Attempt);
    next.ok_or_else(|| Error::limit("the job has no more attempts").with("attempt", attempt))
}
