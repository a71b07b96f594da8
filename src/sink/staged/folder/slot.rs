//! A slot of a folder: staging, publishing, taking over.

use std::fs::{self, File};
use std::io::ErrorKind as IoErrorKind;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::FolderTarget;
use super::names::{self, Part};
use super::owner::{Owner, staged_record};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{Attempt, Epoch, Lineage, Subtask};
use crate::sink::prepared::Records;
use crate::sink::slot::{Marker, Slot};
use crate::sink::staged::{Claim, StagedPart, StagedSlot};
use crate::store::files::{
    folder_of, io_error, names_in, read, remove, rename_durably, staged_by, staged_name, sync_folder, write_durably,
};

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

/// What an attempt knows of a slot, in its file: `<lineage>.<since>.<epoch>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct SlotRecord {
    /// The lineage of the attempt's checkpoints.
    lineage: Lineage,
    /// Parts of attempts before this one count no more: all up to `epoch` is published, as far as the user is concerned.
    since: Attempt,
    epoch: Epoch,
}

impl SlotRecord {
    /// A folder without a record has no lineage, so that parts in it are another's.
    const NONE: Self = Self { lineage: Lineage([0; 16]), since: Attempt(0), epoch: Epoch(0) };

    fn parse(text: &str) -> Option<Self> {
        // The same three parts as a marker, though the second means another thing.
        let Marker { lineage, attempt: since, epoch } = text.parse().ok()?;
        Some(Self { lineage, since, epoch })
    }

    fn to_text(self) -> String {
        let Self { lineage, since, epoch } = self;
        Marker { lineage, attempt: since, epoch }.to_string()
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
        Owner::of(&self.slot, &self.target.described, &self.target.extension)
    }

    /// Returns the name under which this attempt holds a file.
    fn staged(&self, name: &str) -> String {
        staged_name(self.slot.job, self.attempt, name)
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

    /// Returns the names in the folder; none if there is no folder yet.
    fn names(&self) -> Result<Vec<String>> {
        match names_in(self.folder()) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            names => names,
        }
    }

    /// Returns the newest attempt that has taken the slot over, and what it knows.
    ///
    /// # Errors
    /// `Fenced` if that is a later one; `Corrupt`.
    fn record(&self) -> Result<(Attempt, SlotRecord)> {
        let names = self.names()?;
        let of_slot = names.iter().filter_map(|name| names::slot_of(self.slot.job, name));
        let attempts = of_slot.filter(|(subtask, _)| *subtask == self.subtask()).map(|(_, attempt)| attempt);
        let Some(attempt) = attempts.max() else { return Ok((Attempt(0), SlotRecord::NONE)) };
        if attempt > self.attempt {
            return Err(Error::fenced("a later attempt has the slot").with("by", attempt));
        }
        let path = self.path(&names::slot(self.slot.job, self.subtask(), attempt));
        // A later attempt has removed it, and has one of its own.
        let Some(text) = read(&path)? else { return self.record() };
        let record = std::str::from_utf8(&text).ok().and_then(SlotRecord::parse);
        let damaged = || Error::corrupt("record of a slot is damaged").with("file", path.display());
        Ok((attempt, record.ok_or_else(damaged)?))
    }

    fn published_now(&self) -> Result<Option<Marker>> {
        self.owner().check_own(self.folder())?;
        let (_, SlotRecord { lineage, since, epoch }) = self.record()?;
        let disregarded = (since > Attempt(0)).then_some(Marker { lineage, attempt: since, epoch });
        let names = self.names()?;
        let parts = names.iter().filter_map(|name| Part::parse(name));
        let newest = parts.filter(|part| part.subtask == self.subtask() && part.attempt >= since).max();
        let newest = newest.map(|Part { epoch, attempt, .. }| Marker { lineage, attempt, epoch });
        Ok(newest.filter(|newest| disregarded.is_none_or(|it| newest.epoch >= it.epoch)).or(disregarded))
    }

    fn fence_now(&self, claim: Claim, listed: &[StagedPart]) -> Result<()> {
        let listed = listed.iter().map(|part| Listed::of(part).map(|listed| self.name(listed)));
        let listed: Vec<String> = listed.collect::<Result<_>>()?;
        fs::create_dir_all(self.folder()).map_err(|source| io_error("cannot create folder", self.folder(), source))?;
        sync_folder(folder_of(self.folder()))?;
        self.owner().claim(self.folder(), &self.slot, self.attempt)?;
        let (by, known) = self.record()?;
        if by == self.attempt && known.lineage != claim.lineage {
            let error = Error::fenced("another copy of the job has the slot, as the same attempt");
            return Err(error.with("attempt", by).with("lineage", known.lineage));
        }
        let SlotRecord { since, epoch, .. } = known;
        let (since, epoch) = claim.disregards_after.map_or((since, epoch), |epoch| (self.attempt, epoch));
        self.put_record(SlotRecord { lineage: claim.lineage, since, epoch })?;
        // An older attempt may take files over meanwhile, from even older ones: until none is left.
        while self.take_files_over(&listed)? {}
        sync_folder(self.folder())
    }

    /// Takes over what older attempts hold. Returns whether there was anything.
    fn take_files_over(&self, listed: &[String]) -> Result<bool> {
        let mut has_found = false;
        for name in names_in(self.folder())? {
            let path = self.path(&name);
            if names::slot_of(self.slot.job, &name)
                .is_some_and(|(subtask, by)| subtask == self.subtask() && by < self.attempt)
            {
                remove(&path)?;
            }
            let Some((holder, result)) = staged_by(self.slot.job, &name) else { continue };
            if holder >= self.attempt || !self.is_of_slot(result) {
                continue;
            }
            has_found = true;
            // The attempt before did not list it either.
            let is_left = Part::parse(result).is_none_or(|part| part.attempt != holder);
            if is_left && !listed.iter().any(|part| part == result) {
                remove(&path)?;
                continue;
            }
            match fs::rename(&path, self.path(&self.staged(result))) {
                Err(source) if source.kind() != IoErrorKind::NotFound => {
                    return Err(io_error("cannot rename file", &path, source));
                }
                _ => {}
            }
        }
        Ok(has_found)
    }

    /// Returns whether a file that is to be called `name` is the slot's.
    fn is_of_slot(&self, name: &str) -> bool {
        let part = Part::parse(name).map(|part| part.subtask);
        let slot = names::slot_of(self.slot.job, name).map(|(subtask, _)| subtask);
        part.or(slot) == Some(self.subtask()) || name == staged_record(self.subtask())
    }

    fn put_record(&self, record: SlotRecord) -> Result<()> {
        let name = names::slot(self.slot.job, self.subtask(), self.attempt);
        let (staged, record) = (self.path(&self.staged(&name)), record.to_text());
        let failed = |source| io_error("cannot write file", &staged, source);
        write_durably(&staged, |file| file.write_all(record.as_bytes()).map_err(failed))?;
        rename_durably(&staged, &self.path(&name))
    }

    fn stage_now(&self, epoch: Epoch, records: &Records) -> Result<StagedPart> {
        let pieces = || std::iter::once(self.target.header.clone()).chain(records.iter());
        let (mut hasher, mut bytes) = (blake3::Hasher::new(), 0);
        for piece in pieces() {
            hasher.update(&piece);
            bytes += piece.len() as u64;
        }
        let blake3 = *hasher.finalize().as_bytes();
        let listed = Listed { epoch: epoch.0, attempt: self.attempt.0, bytes, blake3 };
        let staged = self.path(&self.staged(&self.name(listed)));
        let failed = |source| io_error("cannot write file", &staged, source);
        write_durably(&staged, |file| pieces().try_for_each(|piece| file.write_all(&piece)).map_err(failed))?;
        sync_folder(self.folder())?;
        listed.to_part()
    }

    fn publish_now(&self, part: &StagedPart) -> Result<()> {
        let listed = Listed::of(part)?;
        let name = self.name(listed);
        let (staged, published) = (self.path(&self.staged(&name)), self.path(&name));
        if !holds(&published, listed)? && holds(&staged, listed)? {
            match rename_durably(&staged, &published) {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                renamed => return renamed,
            }
        }
        // Also published by an earlier call, or by another attempt that restored the same checkpoint.
        if holds(&published, listed)? {
            return sync_folder(self.folder());
        }
        self.record()?;
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
