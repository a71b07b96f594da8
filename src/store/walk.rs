//! Listing a folder: objects and foreign entries.
//!
//! The library ends a listing at the first entry that is not a valid object. Here such an entry is listed under a name
//! that describes it, and that no key can have.
//!
//! Invariant: a listing that succeeds is complete. Only an unreadable requested folder or an I/O error makes it fail.

use std::ffi::OsStr;
use std::fs::{self, DirEntry, Metadata, ReadDir};
use std::io::{self, ErrorKind};
use std::path::Path as FilePath;
use std::task::Poll;
use std::time::SystemTime;

use futures_util::future::poll_fn;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use object_store::path::{Path, PathPart};
use object_store::{Error, ListResult, ObjectMeta, Result};

/// Entries after which the stream yields to the executor: reading a folder never suspends by itself.
const ENTRIES_PER_TURN: usize = 256;

/// An entry of a folder.
enum Entry {
    Object(ObjectMeta),
    /// A folder, or a link to one, which is not entered.
    Folder {
        name: Path,
        link: bool,
    },
    /// A hidden entry, or one deleted meanwhile.
    Nothing,
}

/// Lists `folder` and its sub-folders under the name `prefix`. Links to folders are not entered: they may lead
/// anywhere, including in circles.
pub(super) fn all(folder: &FilePath, prefix: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
    let walk = match open(folder) {
        Ok(entries) => Walk { pending: entries.map(|entries| (entries, prefix.clone())).into_iter().collect() },
        Err(error) => return stream::iter([Err(error)]).boxed(),
    };
    let found = stream::iter(walk).enumerate().then(|(at, found)| async move {
        if at % ENTRIES_PER_TURN == ENTRIES_PER_TURN - 1 {
            yield_now().await;
        }
        found
    });
    found.boxed()
}

/// Lists `folder` without its sub-folders under the name `prefix`.
pub(super) fn direct(folder: &FilePath, prefix: &Path) -> Result<ListResult> {
    let mut found = ListResult { common_prefixes: Vec::new(), objects: Vec::new(), extensions: Default::default() };
    for entry in open(folder)?.into_iter().flatten() {
        match classify(&entry.map_err(failed)?, prefix)? {
            Entry::Object(object) => found.objects.push(object),
            Entry::Folder { name, .. } => found.common_prefixes.push(name),
            Entry::Nothing => {}
        }
    }
    Ok(found)
}

/// Opens a folder; `None` if there is none.
fn open(folder: &FilePath) -> Result<Option<ReadDir>> {
    match fs::read_dir(folder) {
        Ok(entries) => Ok(Some(entries)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

fn failed(source: io::Error) -> Error {
    Error::Generic { store: "folder", source: source.into() }
}

struct Walk {
    /// Open folders with their names, the innermost last.
    pending: Vec<(ReadDir, Path)>,
}

impl Iterator for Walk {
    type Item = Result<ObjectMeta>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (entries, prefix) = self.pending.last_mut()?;
            let Some(entry) = entries.next() else {
                self.pending.pop();
                continue;
            };
            let found = entry.map_err(failed).and_then(|entry| Ok((classify(&entry, prefix)?, entry)));
            let (name, entry) = match found {
                Err(error) => return Some(Err(error)),
                Ok((Entry::Object(object), _)) => return Some(Ok(object)),
                Ok((Entry::Nothing, _)) => continue,
                Ok((Entry::Folder { link: true, .. }, entry)) => {
                    return Some(Ok(foreign(prefix, &entry.file_name(), "a link to a folder")));
                }
                Ok((Entry::Folder { name, link: false }, entry)) => (name, entry),
            };
            match fs::read_dir(entry.path()) {
                Ok(entries) => self.pending.push((entries, name)),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                // An unreadable sub-folder must not hide its siblings.
                Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                    return Some(Ok(foreign(prefix, &entry.file_name(), "an unreadable folder")));
                }
                Err(error) => return Some(Err(failed(error))),
            }
        }
    }
}

/// Classifies an entry of the folder named `prefix`.
fn classify(entry: &DirEntry, prefix: &Path) -> Result<Entry> {
    let name = entry.file_name();
    let link = match entry.file_type() {
        Ok(kind) => kind.is_symlink(),
        Err(error) => return vanished(error),
    };
    let metadata = if link { fs::metadata(entry.path()) } else { entry.metadata() };
    let metadata = match metadata {
        Ok(metadata) => metadata,
        Err(_) if link => return Ok(Entry::Object(foreign(prefix, &name, "a link that leads nowhere"))),
        Err(error) => return vanished(error),
    };
    let part = name.to_str().and_then(|name| PathPart::parse(name).ok());
    Ok(match part {
        None => Entry::Object(foreign(prefix, &name, "a name that no object has")),
        Some(part) if metadata.is_dir() => Entry::Folder { name: prefix.clone().join(part), link },
        Some(part) if is_scratch(part.as_ref()) => Entry::Nothing,
        Some(part) if metadata.is_file() => Entry::Object(object(prefix.clone().join(part), &metadata)),
        Some(_) => Entry::Object(foreign(prefix, &name, "neither file nor folder")),
    })
}

fn vanished(error: io::Error) -> Result<Entry> {
    if error.kind() == ErrorKind::NotFound { Ok(Entry::Nothing) } else { Err(failed(error)) }
}

/// Returns whether `name` is that of a temporary file of the library.
fn is_scratch(name: &str) -> bool {
    let digits = name.split_once('#').map(|(_, digits)| digits);
    digits.is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()))
}

fn object(location: Path, metadata: &Metadata) -> ObjectMeta {
    let last_modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH).into();
    ObjectMeta { location, last_modified, size: metadata.len(), e_tag: None, version: None }
}

/// Returns the listing of a foreign entry. Its name contains spaces, which no key does.
fn foreign(prefix: &Path, name: &OsStr, what: &str) -> ObjectMeta {
    let name = [name.as_encoded_bytes(), b" (", what.as_bytes(), b")"].concat();
    undescribed(prefix.clone().join(PathPart::from(name.as_slice())))
}

/// Returns the description of an object of which nothing but the name is known.
pub(super) fn undescribed(location: Path) -> ObjectMeta {
    ObjectMeta { location, last_modified: SystemTime::UNIX_EPOCH.into(), size: 0, e_tag: None, version: None }
}

/// Yields to the executor once.
async fn yield_now() {
    let mut yielded = false;
    poll_fn(|context| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
