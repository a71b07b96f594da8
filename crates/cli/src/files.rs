//! Atomic writes of single results, by one writer at a time.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use alluvium::internals::store::files::{remove, staged_by, staged_name, write_durably};
use alluvium::{Attempt, Error, JobId, Result};
use xxhash_rust::xxh3::xxh3_128;

pub(crate) use alluvium::internals::store::files::{folder_of, io_error, names_in, rename_durably};

/// Refuses a result's name that a device, a pipe or a socket has: the rename would put a file in its place, `/dev/null` included.
///
/// # Errors
/// `Config`.
pub(crate) fn check_not_special(target: &Path) -> Result<()> {
    match fs::metadata(target) {
        Ok(found) if !found.is_file() && !found.is_dir() => {
            Err(Error::config("--output is a device, a pipe or a socket").with("file", target.display()))
        }
        _ => Ok(()),
    }
}

/// The writer of results: an attempt of a job. Staged names carry both ids, so writers cannot confuse their files.
///
/// An attempt never replaces a newer attempt's results, however long it stalls between two steps. Each attempt stages,
/// then checks that no newer attempt has begun, then renames. Any file that an older attempt may still rename was
/// therefore staged before the newer attempt began, and the newer attempt removes such files before it publishes; the
/// late rename then fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Writer {
    pub(crate) job: JobId,
    pub(crate) attempt: Attempt,
}

impl Writer {
    /// Returns the temporary name for `result`.
    pub(crate) fn staged_name(self, result: &str) -> String {
        staged_name(self.job, self.attempt, result)
    }

    /// Returns the result's name if `name` was staged by an older attempt of the job.
    fn staged_by_older(self, name: &str) -> Option<&str> {
        staged_by(self.job, name).filter(|(attempt, _)| *attempt < self.attempt).map(|(_, result)| result)
    }

    /// Removes the files in a folder that older attempts of the job staged for `result`. Those attempts are dead, or will fail to
    /// publish.
    ///
    /// # Errors
    /// The I/O error.
    fn remove_older(self, folder: &Path, result: &str) -> Result<()> {
        for name in names_in(folder)? {
            if self.staged_by_older(&name) == Some(result) {
                remove(&folder.join(name))?;
            }
        }
        Ok(())
    }
}

/// A complete file under a temporary name; removed if dropped before `publish`.
#[derive(Debug)]
pub(crate) struct StagedFile {
    staged: PathBuf,
    target: PathBuf,
}

impl StagedFile {
    /// Writes the content for `target` beside it, after removing older attempts' staged files for it.
    ///
    /// # Errors
    /// As `write`, or the I/O error; the staged file is removed.
    pub(crate) fn write(
        target: &Path,
        writer: Writer,
        write: impl FnOnce(&mut dyn Write) -> Result<()>,
    ) -> Result<Self> {
        let folder = folder_of(target);
        let result = label(&target.file_name().map(OsStr::to_string_lossy).unwrap_or_default());
        writer.remove_older(folder, &result)?;
        let file = Self { staged: folder.join(writer.staged_name(&result)), target: target.to_owned() };
        write_durably(&file.staged, write)?;
        Ok(file)
    }

    /// Renames the file to its final name. The caller first checks that no newer attempt owns the job: see [`Writer`].
    ///
    /// # Errors
    /// `NotFound` if the file is gone, as after a newer attempt's removal; else the I/O error.
    pub(crate) fn publish(self) -> Result<()> {
        rename_durably(&self.staged, &self.target)
    }
}

/// Returns a result's part of its staged name: the result's name, or a hash where that would be too long.
fn label(name: &str) -> String {
    const MAX_BYTES: usize = 160;
    if name.len() <= MAX_BYTES { name.to_owned() } else { format!("{:032x}", xxh3_128(name.as_bytes())) }
}

impl Drop for StagedFile {
    fn drop(&mut self) {
        // Fails harmlessly after a rename.
        drop(fs::remove_file(&self.staged));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JOB: JobId = JobId([0xab; 16]);

    #[test]
    fn staged_names_identify_older_attempts() {
        let writer = |attempt| Writer { job: JOB, attempt: Attempt(attempt) };
        let older = writer(9).staged_name("out-1.csv");
        assert_eq!(writer(10).staged_by_older(&older), Some("out-1.csv"));
        assert_eq!(writer(9).staged_by_older(&older), None);
    }

    #[test]
    fn a_result_name_of_maximum_length_can_be_staged() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("n".repeat(255));
        let writer = Writer { job: JOB, attempt: Attempt(u64::MAX) };
        StagedFile::write(&target, writer, |_| Ok(())).unwrap().publish().unwrap();
        assert!(target.is_file());
    }

    #[test]
    fn an_older_attempt_cannot_publish_once_a_newer_one_has_staged() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("out.csv");
        let stage = |attempt: u64| {
            let writer = Writer { job: JOB, attempt: Attempt(attempt) };
            StagedFile::write(&target, writer, |file| {
                file.write_all(attempt.to_string().as_bytes()).map_err(|e| io_error("write", &target, e))
            })
        };
        let older = stage(1).unwrap();
        let another_job = Writer { job: JobId([7; 16]), attempt: Attempt(1) };
        let other = StagedFile::write(&target, another_job, |_| Ok(())).unwrap();
        stage(2).unwrap().publish().unwrap();
        assert_eq!(older.publish().unwrap_err().kind(), alluvium::ErrorKind::NotFound);
        assert_eq!(fs::read_to_string(&target).unwrap(), "2");
        other.publish().unwrap();
    }
}
