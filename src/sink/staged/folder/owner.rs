//! The owner of a folder: parts of two sinks in one folder would be the result of neither.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::id::{Attempt, JobId, OperatorId, Subtask};
use crate::sink::slot::Slot;
use crate::store::files::{io_error, read, remove, staged_name, sync_folder, write_durably};

/// File name of the owner's record.
pub(super) const RECORD: &str = "_owner.json";

/// The sink that a folder belongs to, in all attempts of its job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Owner {
    /// The job's id, in hexadecimal.
    id: String,
    /// For error messages only.
    job: String,
    operator: u32,
    sink: String,
    /// That of all parts.
    extension: String,
}

impl Owner {
    pub(super) fn of(slot: &Slot, described: &str, extension: &str) -> Self {
        let Slot { job, operator: OperatorId(operator), sink, .. } = slot;
        let (job_name, extension) = (described.to_owned(), extension.to_owned());
        Self { id: job.to_string(), job: job_name, operator: *operator, sink: sink.clone(), extension }
    }

    /// Refuses a folder of another job; `None` is a new job, which owns no folder.
    ///
    /// # Errors
    /// `Config`, naming the owner; `Corrupt` if the record is damaged; `Denied` or `Unavailable`.
    pub(super) fn check(folder: &Path, job: Option<JobId>) -> Result<()> {
        match Self::read(folder)? {
            Some(owner) if job.is_none_or(|id| owner.id != id.to_string()) => Err(owner.refusal(folder)),
            _ => Ok(()),
        }
    }

    /// Refuses a folder of another sink, of another job, or with another extension.
    ///
    /// # Errors
    /// As [`Owner::check`].
    pub(super) fn check_own(&self, folder: &Path) -> Result<()> {
        let Some(owner) = Self::read(folder)? else { return Ok(()) };
        if (&owner.id, owner.operator, &owner.sink) != (&self.id, self.operator, &self.sink) {
            return Err(owner.refusal(folder));
        }
        if owner.extension != self.extension {
            let error = Error::config("parts of the folder have another extension").with("folder", folder.display());
            return Err(error.with("extension", owner.extension).with("given", &self.extension));
        }
        Ok(())
    }

    /// Claims the folder.
    ///
    /// # Errors
    /// As [`Owner::check_own`].
    pub(super) fn claim(&self, folder: &Path, slot: &Slot, attempt: Attempt) -> Result<()> {
        if Self::read(folder)?.is_none() {
            let staged = staged_name(slot.job, attempt, &staged_record(slot.subtask));
            let (staged, record) = (folder.join(staged), folder.join(RECORD));
            let text = serde_json::to_vec(self)
                .map_err(|source| Error::usage("owner has no JSON form").with_source(source))?;
            let failed = |source| io_error("cannot write file", &record, source);
            write_durably(&staged, |file| file.write_all(&text).map_err(failed))?;
            // A hard link, unlike a rename, cannot replace a concurrent job's record.
            let linked = fs::hard_link(&staged, &record);
            remove(&staged)?;
            match linked {
                Err(source) if source.kind() != ErrorKind::AlreadyExists => {
                    return Err(failed(source));
                }
                _ => sync_folder(folder)?,
            }
        }
        self.check_own(folder)
    }

    fn refusal(&self, folder: &Path) -> Error {
        let error = Error::config("folder of the output belongs to another job").with("folder", folder.display());
        let error = error.with("job", &self.job).with("id", &self.id).with("operator", self.operator);
        error.with("sink", &self.sink).with("record", RECORD)
    }

    fn read(folder: &Path) -> Result<Option<Self>> {
        let record = folder.join(RECORD);
        let Some(text) = read(&record)? else { return Ok(None) };
        serde_json::from_slice(&text).map(Some).map_err(|source| {
            Error::corrupt("record of the folder's owner is damaged, or an earlier build's")
                .with("file", record.display())
                .with_source(source)
        })
    }
}

/// Returns what a slot's own copy of the record is to be called while it is staged: slots claim the folder at the same time.
pub(super) fn staged_record(subtask: Subtask) -> String {
    format!("{RECORD}-{subtask}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn a_folder_belongs_to_the_first_sink_that_claims_it() {
        let folder = tempfile::tempdir().unwrap();
        let slot = |job, sink: &str| Slot {
            job: JobId([job; 16]),
            operator: OperatorId(1),
            sink: sink.to_owned(),
            subtask: Subtask(0),
        };
        let claim = |slot: &Slot, attempt| {
            Owner::of(slot, &format!("job {}", slot.job.0[0]), ".csv").claim(folder.path(), slot, Attempt(attempt))
        };
        Owner::check(folder.path(), None).unwrap();
        for attempt in [1, 2] {
            claim(&slot(1, "out"), attempt).unwrap();
            for other in [slot(2, "out"), slot(1, "other")] {
                let error = claim(&other, attempt).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Config);
                assert!(error.message().contains("job=`job 1`"), "{error}");
            }
            assert!(Owner::check(folder.path(), None).is_err());
            Owner::check(folder.path(), Some(JobId([1; 16]))).unwrap();
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        }
        let other = Owner::of(&slot(1, "out"), "job 1", "").claim(folder.path(), &slot(1, "out"), Attempt(3));
        assert!(other.unwrap_err().message().contains("extension"));
        fs::write(folder.path().join(RECORD), "{").unwrap();
        assert_eq!(claim(&slot(1, "out"), 3).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
