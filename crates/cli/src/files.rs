//! Files that are there whole or not at all: written under another name, made durable, renamed, by one writer at a time.

use std::ffi::OsStr;
use std::fs::{self, DirEntry, File, OpenOptions};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};

use alluvium::{Attempt, JobId};
use alluvium::{Error, Result};
use xxhash_rust::xxh3::xxh3_128;

/// Returns what a failed file operation means for the user.
pub(crate) fn io_error(what: &str, path: &Path, source: io::Error) -> Error {
    let error = match source.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::IsADirectory => Error::not_found(what),
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => Error::denied(what),
        _ => Error::unavailable(what),
    };
    error.with("file", path.display()).with_source(source)
}

/// Writes a new file and makes its bytes durable; an old file of this name goes. It follows no link.
///
/// # Errors
/// What `write` returns, or what became of the file.
pub(crate) fn write_durably(path: &Path, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let failed = |source| io_error("cannot write file", path, source);
    remove(path)?;
    let mut file = BufWriter::new(OpenOptions::new().write(true).create_new(true).open(path).map_err(failed)?);
    write(&mut file)?;
    let file = file.into_inner().map_err(|error| failed(error.into_error()))?;
    file.sync_all().map_err(failed)
}

/// Renames a file within its folder, durably.
///
/// # Errors
/// What became of the rename.
pub(crate) fn rename_durably(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(|source| io_error("cannot rename file", to, source))?;
    sync_folder(folder_of(to))
}

/// Makes the names in a folder durable.
///
/// # Errors
/// What became of it.
pub(crate) fn sync_folder(folder: &Path) -> Result<()> {
    let sync = File::open(folder).and_then(|folder| folder.sync_all());
    sync.map_err(|source| io_error("cannot sync folder", folder, source))
}

/// Returns the folder that a path lies in.
pub(crate) fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Who writes results: an attempt of a job. What it stages carries both, so no other writer mistakes it for its own.
///
/// No attempt replaces what a newer one published, however long it sleeps between any two steps: each stages first, then
/// finds out that no newer attempt has begun, then renames. Whatever an older attempt may still rename was therefore
/// staged before a newer one began; and that one removes it, before it publishes anything. A rename whose file is gone
/// fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Writer {
    pub(crate) job: JobId,
    pub(crate) attempt: Attempt,
}

impl Writer {
    /// Returns the name under which it stages the result of this name.
    pub(crate) fn staged_name(self, result: &str) -> String {
        format!(".staged-{}-{}-{result}", self.job, self.attempt)
    }

    /// Returns the result that an older attempt of the job staged under this name.
    fn of_older(self, name: &str) -> Option<&str> {
        let own = name.strip_prefix(&format!(".staged-{}-", self.job))?;
        let (attempt, result) = own.split_once('-')?;
        let older = Self { attempt: Attempt(attempt.parse().ok()?), ..self };
        (older.attempt < self.attempt && older.staged_name(result) == name).then_some(result)
    }

    /// Removes from a folder what older attempts of the job staged there for results that are `unwanted`: each of these
    /// attempts is dead, or will fail to publish it.
    ///
    /// # Errors
    /// What became of the folder, or of a file in it that cannot be removed.
    pub(crate) fn remove_older(self, folder: &Path, unwanted: impl Fn(&str, &str) -> bool) -> Result<()> {
        for name in names_in(folder)? {
            if self.of_older(&name).is_some_and(|result| unwanted(&name, result)) {
                remove(&folder.join(name))?;
            }
        }
        Ok(())
    }
}

/// Returns the names in a folder that are text, in order.
///
/// # Errors
/// What became of the folder.
pub(crate) fn names_in(folder: &Path) -> Result<Vec<String>> {
    let failed = |source| io_error("cannot list folder", folder, source);
    let entries: Vec<DirEntry> = fs::read_dir(folder).and_then(Iterator::collect).map_err(failed)?;
    let mut names: Vec<_> = entries.iter().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort_unstable();
    Ok(names)
}

/// Removes a file that may be gone.
///
/// # Errors
/// What became of it.
pub(crate) fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != ErrorKind::NotFound => Err(io_error("cannot remove file", path, source)),
        _ => Ok(()),
    }
}

/// A file that waits for its final name; dropped before, it is removed.
#[derive(Debug)]
pub(crate) struct StagedFile {
    staged: PathBuf,
    target: PathBuf,
}

impl StagedFile {
    /// Writes the content for `target` under a name beside it, after removing what older attempts staged for it.
    ///
    /// # Errors
    /// What `write` returns, or what became of the files; nothing is left of it then.
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

    /// Gives the file its final name. Find out before that no newer attempt owns the job: see [`Writer`].
    ///
    /// # Errors
    /// `NotFound` if a newer attempt has removed it, or somebody else; else what became of the rename.
    pub(crate) fn publish(self) -> Result<()> {
        rename_durably(&self.staged, &self.target)
    }
}

/// Returns what a result is called in the name that it is staged under: its own name, unless there is no room for that.
fn label(name: &str) -> String {
    const ROOM: usize = 160;
    if name.len() <= ROOM { name.to_owned() } else { format!("{:032x}", xxh3_128(name.as_bytes())) }
}

impl Drop for StagedFile {
    fn drop(&mut self) {
        // After a rename there is nothing left to remove.
        drop(fs::remove_file(&self.staged));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JOB: JobId = JobId([0xab; 16]);

    #[test]
    fn older_attempts_are_told_by_names() {
        let writer = |attempt| Writer { job: JOB, attempt: Attempt(attempt) };
        let older = writer(9).staged_name("out-1.csv");
        assert_eq!(writer(10).of_older(&older), Some("out-1.csv"));
        assert_eq!(writer(9).of_older(&older), None);
        let other = Writer { job: JobId([1; 16]), attempt: Attempt(1) };
        for foreign in [
            other.staged_name("out-1.csv"),
            older.replace("-9-", "-09-"),
            older.replace("-9-", "-x-"),
            older.replace("-9-", "-"),
            older.replace(".staged", "staged"),
            format!(".staged-{JOB}-"),
        ] {
            assert_eq!(writer(10).of_older(&foreign), None, "{foreign}");
        }
    }

    #[test]
    fn a_long_name_leaves_room() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("n".repeat(255));
        let writer = Writer { job: JOB, attempt: Attempt(u64::MAX) };
        StagedFile::write(&target, writer, |_| Ok(())).unwrap().publish().unwrap();
        assert!(target.is_file());
    }

    /// Whatever the older attempt has done by then, it cannot replace what the newer one publishes.
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
