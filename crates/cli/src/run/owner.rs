//! The owner record of a folder of parts: parts of two jobs in one folder would be the result of neither job.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use alluvium::{Error, JobId, Result};
use serde::{Deserialize, Serialize};

use crate::files::{Writer, io_error, remove, sync_folder, write_durably};

/// File name of the owner record.
pub(crate) const RECORD: &str = "_owner.json";

/// The job that owns a folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Owner {
    /// The job's id, in hexadecimal.
    id: String,
    /// Name and store of the job, for error messages only.
    job: String,
    store: String,
}

impl Owner {
    pub(crate) fn new(id: JobId, job: &str, store: &str) -> Self {
        Self { id: id.to_string(), job: job.to_owned(), store: store.to_owned() }
    }

    /// Refuses a folder owned by another job; `None` is a new job, which owns no folder.
    ///
    /// # Errors
    /// `Config`, naming the owner; `Corrupt` if the record is malformed; `Denied` or `Unavailable`.
    pub(crate) fn check(folder: &Path, job: Option<JobId>) -> Result<()> {
        match Self::read(folder)? {
            Some(owner) if job.is_none_or(|id| owner.id != id.to_string()) => {
                Err(Error::config("--output belongs to another job")
                    .with("folder", folder.display())
                    .with("job", owner.job)
                    .with("store", owner.store)
                    .with("id", owner.id)
                    .with("record", RECORD))
            }
            _ => Ok(()),
        }
    }

    /// Claims the folder for the writer's job; the claim holds for all attempts of the job.
    ///
    /// # Errors
    /// As [`Owner::check`].
    pub(crate) fn claim(&self, folder: &Path, writer: Writer) -> Result<()> {
        if Self::read(folder)?.is_none() {
            let (staged, record) = (folder.join(writer.staged_name(RECORD)), folder.join(RECORD));
            let failed = |source| io_error("cannot write file", &record, source);
            let text = serde_json::to_vec(self)
                .map_err(|source| Error::usage("owner has no JSON form").with_source(source))?;
            write_durably(&staged, |file| file.write_all(&text).map_err(failed))?;
            // A hard link, unlike a rename, cannot replace a concurrent job's record.
            let linked = fs::hard_link(&staged, &record);
            remove(&staged)?;
            match linked {
                Err(source) if source.kind() != ErrorKind::AlreadyExists => return Err(failed(source)),
                _ => sync_folder(folder)?,
            }
        }
        Self::check(folder, Some(writer.job))
    }

    fn read(folder: &Path) -> Result<Option<Self>> {
        let record = folder.join(RECORD);
        let damaged = || Error::corrupt("owner record of --output is damaged").with("file", record.display());
        match fs::read(&record) {
            Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|source| damaged().with_source(source)),
            Err(source) if source.kind() == ErrorKind::NotFound => Ok(None),
            Err(source) => Err(io_error("cannot read file", &record, source)),
        }
    }
}

#[cfg(test)]
mod tests {
    use alluvium::Attempt;

    use super::*;

    #[test]
    fn a_folder_belongs_to_the_first_job_that_claims_it() {
        let folder = tempfile::tempdir().unwrap();
        let ids = [1, 2].map(|n| JobId([n; 16]));
        let claim = |id: JobId, attempt| {
            let writer = Writer { job: id, attempt: Attempt(attempt) };
            Owner::new(id, &format!("job {}", id.0[0]), "file:///s").claim(folder.path(), writer)
        };
        Owner::check(folder.path(), None).unwrap();
        for attempt in [1, 2] {
            claim(ids[0], attempt).unwrap();
            let error = claim(ids[1], attempt).unwrap_err();
            assert_eq!(error.kind(), alluvium::ErrorKind::Config);
            assert!(error.message().contains("job=`job 1` store=`file:///s`"), "{error}");
            assert!(Owner::check(folder.path(), None).is_err());
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        }
        fs::write(folder.path().join(RECORD), "{").unwrap();
        assert_eq!(claim(ids[0], 3).unwrap_err().kind(), alluvium::ErrorKind::Corrupt);
    }
}
