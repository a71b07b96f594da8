//! Local files that appear at once and stay: staged under a temporary name, synced, then renamed.

use std::fs::{self, DirEntry, File, OpenOptions};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::Path;

use crate::error::{Error, Result};
use crate::id::{Attempt, JobId};

/// Maps a failed file operation to an error kind.
#[must_use]
pub fn io_error(what: &str, path: &Path, source: io::Error) -> Error {
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
pub fn write_durably(path: &Path, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
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
pub fn rename_durably(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(|source| io_error("cannot rename file", to, source))?;
    sync_folder(folder_of(to))
}

/// Syncs a folder, which makes its file names durable.
///
/// # Errors
/// The I/O error.
pub fn sync_folder(folder: &Path) -> Result<()> {
    let sync = File::open(folder).and_then(|folder| folder.sync_all());
    sync.map_err(|source| io_error("cannot sync folder", folder, source))
}

/// Returns the parent folder of a path.
#[must_use]
pub fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Returns the UTF-8 names in a folder, sorted.
///
/// # Errors
/// The I/O error.
pub fn names_in(folder: &Path) -> Result<Vec<String>> {
    let failed = |source| io_error("cannot list folder", folder, source);
    let entries: Vec<DirEntry> = fs::read_dir(folder).and_then(Iterator::collect).map_err(failed)?;
    let mut names: Vec<_> = entries.iter().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort_unstable();
    Ok(names)
}

/// Reads a file, if it exists.
///
/// # Errors
/// The I/O error.
pub fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(source) if source.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(io_error("cannot read file", path, source)),
    }
}

/// Removes a file, if it exists.
///
/// # Errors
/// The I/O error.
pub fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != ErrorKind::NotFound => Err(io_error("cannot remove file", path, source)),
        _ => Ok(()),
    }
}

/// Returns the name under which a file that is to be called `name` is staged, so that attempts cannot confuse their files.
///
/// * `holder`: the attempt that may rename it.
#[must_use]
pub fn staged_name(job: JobId, holder: Attempt, name: &str) -> String {
    format!(".staged-{job}-{holder}-{name}")
}

/// Returns the holder of a file that the job has staged, and what it is to be called: the inverse of [`staged_name`].
#[must_use]
pub fn staged_by(job: JobId, staged: &str) -> Option<(Attempt, &str)> {
    let (holder, name) = staged.strip_prefix(&format!(".staged-{job}-"))?.split_once('-')?;
    let holder = Attempt(holder.parse().ok()?);
    (staged_name(job, holder, name) == staged).then_some((holder, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn staged_names_parse_back_and_no_others_do() {
        let (job, other) = (JobId([0xab; 16]), JobId([1; 16]));
        let name = staged_name(job, Attempt(9), "part-1-9.csv");
        assert_eq!(staged_by(job, &name), Some((Attempt(9), "part-1-9.csv")));
        for foreign in [
            staged_name(other, Attempt(9), "part-1-9.csv"),
            name.replacen("-9-", "-09-", 1),
            name.replacen("-9-", "-x-", 1),
            name.replace(".staged", "staged"),
            format!(".staged-{job}-"),
        ] {
            assert_eq!(staged_by(job, &foreign), None, "{foreign}");
        }
    }
}
