//! Atomic file writes: staged under a temporary name, synced, then renamed, by one writer at a time.

use std::ffi::OsStr;
use std::fs::{self, DirEntry, File, OpenOptions};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};

use alluvium::{Attempt, Error, JobId, Result};
use xxhash_rust::xxh3::xxh3_128;

/// Maps a failed file operation to an error kind.
pub(crate) fn io_error(what: &str, path: &Path, source: io::Error) -> Error {
    let error = match source.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::IsADirectory => Error::not_found(what),
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => Error::denied(what),
        _ => Error::unavailable(what),
    };
    error.with("file", path.display()).with_source(source)
}

/// Writes a new file and syncs its bytes, replacing any file of this name. Does not follow links.
///
/// # Errors
/// As `write`, or the I/O error.
pub(crate) fn write_durably(path: &Path, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let failed = |source| io_error("cannot write file", path, source);
    remove(path)?;
    let mut file = BufWriter::new(OpenOptions::new().write(true).create_new(true).open(path).map_err(failed)?);
    write(&mut file)?;
    let file = file.into_inner().map_err(|error| failed(error.into_error()))?;
    file.sync_all().map_err(failed)
}

/// Renames a file within its folder, and syncs the folder.
///
/// # Errors
/// The I/O error.
pub(crate) fn rename_durably(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(|source| io_error("cannot rename file", to, source))?;
    sync_folder(folder_of(to))
}

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

/// Syncs a folder, which makes its file names durable.
///
/// # Errors
/// The I/O error.
pub(crate) fn sync_folder(folder: &Path) -> Result<()> {
    let sync = File::open(folder).and_then(|folder| folder.sync_all());
    sync.map_err(|source| io_error("cannot sync folder", folder, source))
}

/// Returns the parent folder of a path.
pub(crate) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
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
        format!(".staged-{}-{}-{result}", self.job, self.attempt)
    }

    /// Returns the result's name if `name` was staged by an older attempt of the job.
    fn staged_by_older(self, name: &str) -> Option<&str> {
        let own = name.strip_prefix(&format!(".staged-{}-", self.job))?;
        let (attempt, result) = own.split_once('-')?;
        let older = Self { attempt: Attempt(attempt.parse().ok()?), ..self };
        (older.attempt < self.attempt && older.staged_name(result) == name).then_some(result)
    }

    /// Removes the files in a folder that older attempts of the job staged for `unwanted` results. Those attempts are
    /// dead, or will fail to publish.
    ///
    /// # Errors
    /// The I/O error.
    pub(crate) fn remove_older(self, folder: &Path, unwanted: impl Fn(&str, &str) -> bool) -> Result<()> {
        for name in names_in(folder)? {
            if self.staged_by_older(&name).is_some_and(|result| unwanted(&name, result)) {
                remove(&folder.join(name))?;
            }
        }
        Ok(())
    }
}

/// Returns the UTF-8 names in a folder, sorted.
///
/// # Errors
/// The I/O error.
pub(crate) fn names_in(folder: &Path) -> Result<Vec<String>> {
    let failed = |source| io_error("cannot list folder", folder, source);
    let entries: Vec<DirEntry> = fs::read_dir(folder).and_then(Iterator::collect).map_err(failed)?;
    let mut names: Vec<_> = entries.iter().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort_unstable();
    Ok(names)
}

/// Removes a file, if it exists.
///
/// # Errors
/// The I/O error.
pub(crate) fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != ErrorKind::NotFound => Err(io_error("cannot remove file", path, source)),
        _ => Ok(()),
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
        writer.remove_older(folder, |_, found| found == result)?;
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
        let other = Writer { job: JobId([1; 16]), attempt: Attempt(1) };
        for foreign in [
            other.staged_name("out-1.csv"),
            older.replace("-9-", "-09-"),
            older.replace("-9-", "-x-"),
            older.replace("-9-", "-"),
            older.replace(".staged", "staged"),
            format!(".staged-{JOB}-"),
        ] {
            assert_eq!(writer(10).staged_by_older(&foreign), None, "{foreign}");
        }
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
