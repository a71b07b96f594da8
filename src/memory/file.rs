//! The file behind a disk tier.

use std::fmt::Debug;
use std::fs::{self, File};
use std::io;
use std::path::Path;

use crate::error::{Error, Result};

/// How the names of files begin while they have one. Nothing else is ever removed.
const PREFIX: &str = "alluvium-cold-";

/// A private file, read and written by position. Calls may do less than they are asked to.
pub trait TierFile: Debug + Send + Sync {
    /// Reads bytes from `at` on; returns how many, 0 at the end of the file.
    ///
    /// # Errors
    /// Those of the system.
    fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<usize>;

    /// Writes bytes from `at` on; returns how many.
    ///
    /// # Errors
    /// Those of the system.
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<usize>;

    /// Cuts the file to `len` bytes, or extends it.
    ///
    /// # Errors
    /// Those of the system.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Announces that these bytes are soon read: a hint, which does not wait for them.
    fn will_read(&self, at: u64, len: u64) {
        let _no_hint = (at, len);
    }
}

impl TierFile for File {
    #[cfg(unix)]
    fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<usize> {
        std::os::unix::fs::FileExt::read_at(self, bytes, at)
    }

    #[cfg(unix)]
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<usize> {
        std::os::unix::fs::FileExt::write_at(self, bytes, at)
    }

    #[cfg(windows)]
    fn read_at(&self, bytes: &mut [u8], at: u64) -> io::Result<usize> {
        std::os::windows::fs::FileExt::seek_read(self, bytes, at)
    }

    #[cfg(windows)]
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<usize> {
        std::os::windows::fs::FileExt::seek_write(self, bytes, at)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        Self::set_len(self, len)
    }

    #[cfg(target_os = "linux")]
    fn will_read(&self, at: u64, len: u64) {
        // No length would mean all up to the end.
        if let Some(len) = std::num::NonZeroU64::new(len) {
            // Without it, the read itself waits.
            _ = rustix::fs::fadvise(self, at, Some(len), rustix::fs::Advice::WillNeed);
        }
    }
}

/// Returns a new file in `folder` that has no name, so that it is gone with the process however that ends. Creates the
/// folder, and removes files that kept their names because their process ended between two calls.
pub(super) fn unnamed_file(folder: &Path) -> Result<File> {
    let refused = |error: io::Error| {
        let message = "folder cannot take files for cold state";
        Error::config(message).with("folder", folder.display()).with_source(error)
    };
    fs::create_dir_all(folder).map_err(refused)?;
    remove_leftovers(folder).map_err(refused)?;
    let named = tempfile::Builder::new().prefix(PREFIX).tempfile_in(folder).map_err(refused)?;
    let (file, name) = named.into_parts();
    // Another process may have taken it for a leftover: gone is gone.
    match name.close() {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(refused(error)),
        _ => read_at_random(&file),
    }
    Ok(file)
}

/// Has the system read no more of a file than it is asked to: what lies beside a record is not needed soon.
fn read_at_random(file: &File) {
    // A hint only.
    #[cfg(target_os = "linux")]
    {
        _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::Random);
    }
    #[cfg(not(target_os = "linux"))]
    let _no_hint = file;
}

/// Files of other processes that have a name only for the moment lose nothing by being removed.
fn remove_leftovers(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let is_ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX));
        if is_ours && entry.file_type().is_ok_and(|kind| kind.is_file()) {
            // Another process may remove it at the same moment.
            drop(fs::remove_file(entry.path()));
        }
    }
    Ok(())
}
