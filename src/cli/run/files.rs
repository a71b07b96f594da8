//! Files that are there whole or not at all: written under another name, made durable, renamed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};

use alluvium::{Error, Result};

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
    match fs::remove_file(path) {
        Err(source) if source.kind() != ErrorKind::NotFound => return Err(failed(source)),
        _ => {}
    }
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

/// A file that waits for its final name; dropped before, it is removed.
#[derive(Debug)]
pub(crate) struct StagedFile {
    staged: PathBuf,
    target: PathBuf,
}

impl StagedFile {
    /// Writes the content for `target` under a name beside it that carries `attempt`. What older attempts left under
    /// such names goes: they can publish no more.
    ///
    /// # Errors
    /// What `write` returns, or what became of the file; nothing is left of it then.
    pub(crate) fn write(
        target: &Path,
        attempt: alluvium::id::Attempt,
        write: impl FnOnce(&mut dyn Write) -> Result<()>,
    ) -> Result<Self> {
        let folder = folder_of(target);
        let name = target.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        remove_left_overs(folder, &name, attempt)?;
        let file = Self { staged: folder.join(staged_name(&name, attempt.0)), target: target.to_owned() };
        write_durably(&file.staged, write)?;
        Ok(file)
    }

    /// Gives the file its final name.
    ///
    /// # Errors
    /// What became of the rename.
    pub(crate) fn publish(self) -> Result<()> {
        rename_durably(&self.staged, &self.target)
    }
}

fn staged_name(name: &str, attempt: u64) -> String {
    format!(".{name}.attempt-{attempt}.tmp")
}

/// Removes what attempts before `attempt` staged for the file `name` and died over. One that cannot be is only in the way.
fn remove_left_overs(folder: &Path, name: &str, attempt: alluvium::id::Attempt) -> Result<()> {
    let entries = fs::read_dir(folder).map_err(|source| io_error("cannot list folder", folder, source))?;
    for found in entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()) {
        let number = found.strip_prefix(&format!(".{name}.attempt-")).and_then(|rest| rest.strip_suffix(".tmp"));
        let older = number.and_then(|number| number.parse().ok()).filter(|older| *older < attempt.0);
        if older.is_some_and(|older| staged_name(name, older) == found) {
            drop(fs::remove_file(folder.join(found)));
        }
    }
    Ok(())
}

impl Drop for StagedFile {
    fn drop(&mut self) {
        // After a rename there is nothing left to remove.
        drop(fs::remove_file(&self.staged));
    }
}
