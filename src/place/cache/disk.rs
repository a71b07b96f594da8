//! The files of a cache.

use std::fmt::Debug;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::ops::Range;
use std::path::PathBuf;
use std::time::SystemTime;

use bytes::Bytes;

/// A folder of files, named by their callers. Files are never changed: they are created whole, read and removed.
pub trait Disk: Debug + Send + Sync + 'static {
    /// Returns name and length of each file, the least recently written first. Leaves out whatever is not a plain file.
    ///
    /// # Errors
    /// Those of the system.
    fn list(&self) -> io::Result<Vec<(String, u64)>>;

    /// Returns the length of a plain file.
    ///
    /// # Errors
    /// `NotFound` if there is none; those of the system.
    fn length(&self, name: &str) -> io::Result<u64>;

    /// Returns bytes `range` of a file.
    ///
    /// # Errors
    /// `NotFound` if there is none, `UnexpectedEof` if it ends within the range; those of the system.
    fn read(&self, name: &str, range: Range<u64>) -> io::Result<Bytes>;

    /// Writes `pieces` to a new file `temporary` and then gives it the name `name`, in place of any other file. Leaves no
    /// file behind if it fails.
    ///
    /// # Errors
    /// Those of the system.
    fn write(&self, temporary: &str, name: &str, pieces: &[Bytes]) -> io::Result<()>;

    /// Removes a file, or a link and not what it leads to.
    ///
    /// # Errors
    /// `NotFound` if there is none; those of the system.
    fn remove(&self, name: &str) -> io::Result<()>;
}

/// A folder of the file system.
#[derive(Debug)]
pub(super) struct Folder(pub(super) PathBuf);

impl Disk for Folder {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.0)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            // Does not follow links. Another process may have removed the file meanwhile.
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_file() {
                files.push((metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH), name, metadata.len()));
            }
        }
        files.sort_unstable();
        Ok(files.into_iter().map(|(_, name, length)| (name, length)).collect())
    }

    fn length(&self, name: &str) -> io::Result<u64> {
        // Neither follows a link nor opens a pipe, which would wait for a writer.
        let metadata = fs::symlink_metadata(self.0.join(name))?;
        if metadata.is_file() { Ok(metadata.len()) } else { Err(io::ErrorKind::NotFound.into()) }
    }

    fn read(&self, name: &str, range: Range<u64>) -> io::Result<Bytes> {
        // Before room is made for a length that the file does not have.
        if self.length(name)? < range.end {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut file = File::open(self.0.join(name))?;
        file.seek(SeekFrom::Start(range.start))?;
        let length = range.end.saturating_sub(range.start);
        let room = usize::try_from(length).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(room).map_err(|_| io::ErrorKind::OutOfMemory)?;
        file.take(length).read_to_end(&mut bytes)?;
        if bytes.len() < room { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(bytes.into()) }
    }

    fn write(&self, temporary: &str, name: &str, pieces: &[Bytes]) -> io::Result<()> {
        let temporary = self.0.join(temporary);
        let file = File::create_new(&temporary)?;
        let written = write_all(file, pieces).and_then(|()| fs::rename(&temporary, self.0.join(name)));
        if written.is_err() {
            // If this fails too, the file goes when the cache is next opened.
            drop(fs::remove_file(&temporary));
        }
        written
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.0.join(name))
    }
}

fn write_all(mut file: File, pieces: &[Bytes]) -> io::Result<()> {
    pieces.iter().try_for_each(|piece| file.write_all(piece))
}
