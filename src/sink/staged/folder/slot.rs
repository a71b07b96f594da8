//! A slot of a folder: staging, publishing, taking over.

use std::fs::{self, File};
use std::io::ErrorKind as IoErrorKind;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::FolderTarget;
use super::files::{create_folder, io_error, names_in, read, remove, rename_durably, sync_folder, write_durably};
use super::names::{self, Part};
use super::owner::{Owner, RECORD};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{Attempt, Epoch, Lineage, Subtask};
use crate::sink::prepared::Records;
use crate::sink::slot::{Marker, Slot};
use crate::sink::staged::{Claim, StagedPart, StagedSlot};

/// A slot of one attempt.
#[derive(Debug, Clone)]
pub(super) struct FolderSlot {
    target: FolderTarget,
    slot: Slot,
    attempt: Attempt,
}

/// A part as a checkpoint lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Listed {
    epoch: u64,
    attempt: u64,
    bytes: u64,
    blake3: [u8; 32],
}

impl Listed {
    fn to_part(self) -> Result<StagedPart> {
        let bytes = postcard::to_stdvec(&self);
        bytes.map(StagedPart::new).map_err(|source| Error::usage("part has no encoding").with_source(source))
    }

    fn of(part: &StagedPart) -> Result<Self> {
        postcard::from_bytes(part.bytes())
            .map_err(|source| Error::corrupt("stored name of a part is damaged").with_source(source))
    }
}

/// What an attempt knows of a slot, in its file: `<lineage>.<since>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct SlotRecord {
    /// The lineage of the attempt's checkpoints.
    lineage: Lineage,
    /// Parts of attempts before this one count no more.
    since: Attempt,
}

impl SlotRecord {
    /// A folder without a record has no lineage, so that parts in it are another's.
    const NONE: Self = Self { lineage: Lineage([0; 16]), since: Attempt(0) };

    fn parse(text: &str) -> Option<Self> {
        let (lineage, since) = text.split_once('.')?;
        let record = Self { lineage: lineage.parse().ok()?, since: Attempt(since.parse().ok()?) };
        (record.to_text() == text).then_some(record)
    }

    fn to_text(self) -> String {
        format!("{}.{}", self.lineage, self.since)
    }
}

impl FolderSlot {
    pub(super) fn new(target: FolderTarget, slot: Slot, attempt: Attempt) -> Self {
        Self { target, slot, attempt }
    }

    fn folder(&self) -> &Path {
        self.target.folder()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    fn subtask(&self) -> Subtask {
        self.slot.subtask
    }

    fn owner(&self) -> Owner {
        Owner::of(&self.slot, &self.target.described)
    }

    fn staged(&self, attempt: Attempt, name: &str) -> String {
        names::staged(self.slot.job, attempt, name)
    }

    fn name(&self, listed: Listed) -> String {
        let part = Part { epoch: Epoch(listed.epoch), attempt: Attempt(listed.attempt), subtask: self.subtask() };
        part.name(&self.target.extension)
    }

    /// Runs `work`, which blocks, off the executor.
    async fn run<R: Send + 'static>(&self, work: impl FnOnce(&Self) -> Result<R> + Send + 'static) -> Result<R> {
        let slot = self.clone();
        self.target.run(move || work(&slot)).await
    }

    /// Returns what the newest attempt knows of the slot.
    ///
    /// # Errors
    /// `Fenced` if that is a later one; `Corrupt`.
    fn record(&self, names: &[String]) -> Result<SlotRecord> {
        let own =
            names.iter().filter_map(|name| names::slot_of(name).filter(|(subtask, _)| *subtask == self.subtask()));
        let Some(attempt) = own.map(|(_, attempt)| attempt).max() else { return Ok(SlotRecord::NONE) };
        if attempt > self.attempt {
            return Err(Error::fenced("a later attempt has the slot").with("by", attempt));
        }
        let path = self.path(&names::slot(self.subtask(), attempt));
        let text = read(&path)?.unwrap_or_default();
        let record = std::str::from_utf8(&text).ok().and_then(SlotRecord::parse);
        record.ok_or_else(|| Error::corrupt("record of a slot is damaged").with("file", path.display()))
    }

    fn published_now(&self) -> Result<Option<Marker>> {
        self.owner().check_own(self.folder())?;
        let names = names_in(self.folder())?;
        let SlotRecord { lineage, since } = self.record(&names)?;
        let parts = names.iter().filter_map(|name| Part::parse(name, &self.target.extension));
        let newest = parts.filter(|part| part.subtask == self.subtask() && part.attempt >= since).max();
        Ok(newest.map(|Part { epoch, attempt, .. }| Marker { lineage, attempt, epoch }))
    }

    fn fence_now(&self, claim: Claim, listed: &[StagedPart]) -> Result<()> {
        create_folder(self.folder())?;
        self.owner().claim(self.folder(), self.slot.job, self.attempt)?;
        let names = names_in(self.folder())?;
        let since = if claim.disregards_published { self.attempt } else { self.record(&names)?.since };
        self.put_record(SlotRecord { lineage: claim.lineage, since })?;
        let listed = listed.iter().map(|part| Listed::of(part).map(|listed| self.name(listed)));
        let listed: Vec<String> = listed.collect::<Result<_>>()?;
        for name in names_in(self.folder())? {
            let is_older = match (names::staged_by(self.slot.job, &name), names::slot_of(&name)) {
                (Some((attempt, result)), _) => {
                    attempt < self.attempt && self.is_of_slot(result) && !listed.iter().any(|part| part == result)
                }
                (None, Some((subtask, attempt))) => subtask == self.subtask() && attempt < self.attempt,
                (None, None) => false,
            };
            if is_older {
                remove(&self.path(&name))?;
            }
        }
        Ok(())
    }

    /// Returns whether a file with this name, once published, is of the slot, or of the whole folder.
    fn is_of_slot(&self, name: &str) -> bool {
        let part = Part::parse(name, &self.target.extension).map(|part| part.subtask);
        let slot = names::slot_of(name).map(|(subtask, _)| subtask);
        name == RECORD || part.or(slot) == Some(self.subtask())
    }

    fn put_record(&self, record: SlotRecord) -> Result<()> {
        let name = names::slot(self.subtask(), self.attempt);
        let staged = self.staged(self.attempt, &name);
        write_durably(&self.path(&staged), std::iter::once(record.to_text().as_bytes()))?;
        rename_durably(self.folder(), &staged, &name)
    }

    fn stage_now(&self, epoch: Epoch, records: &Records) -> Result<StagedPart> {
        let content: Vec<Bytes> = std::iter::once(self.target.header.clone()).chain(records.iter()).collect();
        let mut hasher = blake3::Hasher::new();
        for piece in &content {
            hasher.update(piece);
        }
        let listed = Listed {
            epoch: epoch.0,
            attempt: self.attempt.0,
            bytes: content.iter().map(|piece| piece.len() as u64).sum(),
            blake3: *hasher.finalize().as_bytes(),
        };
        let staged = self.path(&self.staged(self.attempt, &self.name(listed)));
        write_durably(&staged, content.iter().map(AsRef::as_ref))?;
        sync_folder(self.folder())?;
        listed.to_part()
    }

    fn publish_now(&self, part: &StagedPart) -> Result<()> {
        let listed = Listed::of(part)?;
        let name = self.name(listed);
        let (staged, published) = (self.staged(Attempt(listed.attempt), &name), self.path(&name));
        if !holds(&published, listed)? && holds(&self.path(&staged), listed)? {
            match rename_durably(self.folder(), &staged, &name) {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                renamed => return renamed,
            }
        }
        // Also published by an earlier call, or by another attempt that restored the same checkpoint.
        if holds(&published, listed)? {
            return sync_folder(self.folder());
        }
        Err(Error::not_found("part of a committed checkpoint is neither staged nor published")
            .with("file", published.display()))
    }
}

/// Returns whether a file exists at `path`, with the part's content.
///
/// # Errors
/// `Corrupt` if the content differs, or if the file is a link, which could point anywhere.
fn holds(path: &Path, listed: Listed) -> Result<bool> {
    let failed = |source| io_error("cannot read part", path, source);
    let metadata = match fs::symlink_metadata(path) {
        Err(source) if source.kind() == IoErrorKind::NotFound => return Ok(false),
        metadata => metadata.map_err(failed)?,
    };
    if metadata.is_file() && metadata.len() == listed.bytes {
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(File::open(path).map_err(failed)?).map_err(failed)?;
        if hasher.finalize() == blake3::Hash::from_bytes(listed.blake3) {
            return Ok(true);
        }
    }
    Err(Error::corrupt("part differs from the staged content").with("file", path.display()))
}

#[async_trait]
impl StagedSlot for FolderSlot {
    async fn published(&self) -> Result<Option<Marker>> {
        self.run(Self::published_now).await
    }

    async fn fence(&self, claim: Claim, listed: &[StagedPart]) -> Result<()> {
        let listed = listed.to_vec();
        self.run(move |slot| slot.fence_now(claim, &listed)).await
    }

    async fn stage(&self, epoch: Epoch, records: &Records) -> Result<StagedPart> {
        let records = records.clone();
        self.run(move |slot| slot.stage_now(epoch, &records)).await
    }

    async fn publish(&self, part: &StagedPart) -> Result<()> {
        let part = part.clone();
        self.run(move |slot| slot.publish_now(&part)).await
    }
}
