//! Output to a local folder.
//!
//! A part is staged as `.staged-<job>-<holder>-<name>` and renamed to its name, `part-<epoch>-<attempt><extension>`; parts of other
//! subtasks than the first have `-<subtask>` after the attempt. The holder is the attempt that may publish it: first the one that staged
//! it, then one that has taken it over. `_owner.json` names the job and sink that the folder belongs to, and
//! `_slot-<job>-<subtask>-<attempt>` has what the newest attempt knows of the slot.
//!
//! Invariants:
//! - every part that a committed checkpoint lists gets its name exactly once, however often publishing is retried;
//! - no other file ever gets a part's name. An attempt renames files that it holds, and no others: once a newer attempt has taken all of
//!   them over, an older one that wakes up finds nothing, whatever it was about to do;
//! - a file is removed by an attempt that does not list it, if it was not listed by the attempt before either.

mod names;
mod owner;
mod slot;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::{StagedSlot, StagedTarget};
use crate::error::{Error, Result};
use crate::id::{Attempt, Epoch, JobId};
use crate::runtime::{Runtime, SharedRuntime, run_blocking};
use crate::sink::slot::Slot;

use names::Part;
use owner::Owner;
use slot::FolderSlot;

/// A local folder that takes output, each epoch of a slot as one file of records one after the other.
///
/// Readers read `part-*`. They may move parts away, but must leave the newest one of each subtask: it says how far the output has come.
/// The folder belongs to one sink of one job; another is refused.
///
/// # Cost
/// Per epoch with output and slot: a file written and synced, then a rename and two syncs of the folder. A part is read once before it
/// is renamed, to compare its hash. Per start and slot, listings of the folder.
#[derive(Debug, Clone)]
pub struct FolderTarget {
    folder: PathBuf,
    runtime: SharedRuntime,
    header: Bytes,
    extension: String,
    /// How errors name the job.
    described: String,
}

impl FolderTarget {
    /// Returns the target in `folder`, which is created once a slot is taken over.
    pub fn new(folder: impl Into<PathBuf>, runtime: impl Runtime) -> Self {
        let (header, extension, described) = (Bytes::new(), String::new(), String::new());
        Self { folder: folder.into(), runtime: Arc::new(runtime), header, extension, described }
    }

    /// Starts each part with `header`, and ends its name with `extension`: with the names of the columns and `.csv`, say. The extension
    /// begins with a dot, and stays the same over restarts.
    #[must_use]
    pub fn with_form(self, header: impl Into<Bytes>, extension: impl Into<String>) -> Self {
        Self { header: header.into(), extension: extension.into(), ..self }
    }

    /// Describes the job, by its name and its store, say, to users of a folder that belongs to it.
    #[must_use]
    pub fn described(self, job: impl Into<String>) -> Self {
        Self { described: job.into(), ..self }
    }

    /// Refuses the folder if it belongs to another job; `None` is a new job, which owns no folder. For a check before a job is claimed.
    ///
    /// # Errors
    /// `Config`, naming the owner, or if the folder is a file; `Corrupt` if the record of the owner is damaged; `Denied` or
    /// `Unavailable`.
    pub fn check_owner(&self, job: Option<JobId>) -> Result<()> {
        self.check_folder()?;
        Owner::check(&self.folder, job)
    }

    /// Returns the epoch of a part, by its file name; `None` if it is none's.
    #[must_use]
    pub fn epoch_of(name: &str) -> Option<Epoch> {
        Part::parse(name).map(|part| part.epoch)
    }

    fn check_folder(&self) -> Result<()> {
        if !self.extension.is_empty() && !self.extension.starts_with('.') {
            let error = Error::config("extension of parts does not begin with a dot");
            return Err(error.with("extension", &self.extension));
        }
        if fs::metadata(&self.folder).is_ok_and(|metadata| !metadata.is_dir()) {
            return Err(Error::config("output needs a folder, and is a file").with("file", self.folder.display()));
        }
        Ok(())
    }

    fn folder(&self) -> &Path {
        &self.folder
    }

    /// Runs `work`, which blocks, off the executor.
    async fn run<R: Send + 'static>(&self, work: impl FnOnce() -> Result<R> + Send + 'static) -> Result<R> {
        run_blocking(&*self.runtime, work).await
    }
}

#[async_trait]
impl StagedTarget for FolderTarget {
    async fn check(&self) -> Result<()> {
        let target = self.clone();
        self.run(move || target.check_folder()).await
    }

    fn is_local(&self) -> bool {
        true
    }

    async fn open(&self, slot: &Slot, attempt: Attempt) -> Result<Box<dyn StagedSlot>> {
        self.check().await?;
        Ok(Box::new(FolderSlot::new(self.clone(), slot.clone(), attempt)))
    }
}
