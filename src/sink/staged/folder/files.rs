//! Files that appear at once and stay.

use std::fs::{self, DirEntry, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::path::Path;

use crate::error::{Error, Result};

/// Maps a failed file operation to an error kind.
pub(super) fn io_error(what: &str, path: &Path, source: io::Error) -> Error {
    let error = match source.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::IsADirectory => Error::not_found(what),
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => Error::denied(what),
        _ => Error::unavailable(what),
    };
    error.with("file", path.display()).with_source(source)
}

/// Writes a new file of these pieces and syncs its bytes, replacing any file of this name. Does not follow links.
pub(super) fn write_durably<P: AsRef<[u8]>, I: Iterator<Item = P>>(path: &Path, pieces: impl Fn() -> I) -> Result<()> {
    let failed = |source| io_error("cannot write file", path, source);
    remove(path)?;
    let file = OpenOptions::new().write(true).create_new(true).open(path).map_err(failed)?;
    let mut file = io::BufWriter::new(file);
    pieces().try_for_each(|piece| file.write_all(piece.as_ref())).map_err(failed)?;
    let file = file.into_inner().map_err(|error| failed(error.into_error()))?;
    file.sync_all().map_err(failed)
}

/// Renames a file within its folder, and syncs the folder.
pub(super) fn rename_durably(folder: &Path, from: &str, to: &str) -> Result<()> {
    let to = folder.join(to);
    fs::rename(folder.join(from), &to).map_err(|source| io_error("cannot rename file", &to, source))?;
    sync_folder(folder)
}

/// Creates a folder, and makes its name durable.
pub(super) fn create_folder(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).map_err(|source| io_error("cannot create folder", folder, source))?;
    match folder.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_folder(parent),
        _ => sync_folder(Path::new(".")),
    }
}

/// Syncs a folder, which makes its names durable.
pub(super) fn sync_folder(folder: &Path) -> Result<()> {
    let sync = File::open(folder).and_then(|folder| folder.sync_all());
    sync.map_err(|source| io_error("cannot sync folder", folder, source))
}

/// Returns the UTF-8 names in a folder, sorted; none if there is no folder.
pub(super) fn names_in(folder: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Err(source) if source.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.and_then(Iterator::collect::<io::Result<Vec<DirEntry>>>),
    };
    let entries = entries.map_err(|source| io_error("cannot list folder", folder, source))?;
    let mut names: Vec<_> = entries.iter().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort_unstable();
    Ok(names)
}

/// Removes a file, if it exists.
pub(super) fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != ErrorKind::NotFound => Err(io_error("cannot remove file", path, source)),
        _ => Ok(()),
    }
}

/// Reads a file, if it exists.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(source) if source.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(io_error("cannot read file", path, source)),
    }
}
