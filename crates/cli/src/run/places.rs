//! Refuses, before the job starts, an output that would overwrite the input or lie among checkpoints.
//!
//! Files are compared by device and inode, not by name.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use alluvium::{Error, Result};
use url::Url;

use super::output::check_target;
use super::program::Emit;
use super::source::Input;
use crate::files::{folder_of, names_in};

/// Refuses an output that would replace the input or lie among checkpoints.
///
/// # Errors
/// `Config`; `NotFound` or `Denied` if the output file's folder cannot be read.
pub(crate) fn check(output: Option<&Path>, emit: Emit, input: &Input, store: &str) -> Result<()> {
    let Some(output) = output else { return Ok(()) };
    let refused = |why: &str| Err(Error::config(why).with("output", output.display()));
    let place = match emit {
        Emit::End => resolved(folder_of(output)).join(output.file_name().unwrap_or_default()),
        Emit::OnClose => resolved(output),
    };
    if store_folder(store).is_some_and(|store| place.starts_with(resolved(&store))) {
        return refused("--output lies in the folder of --store");
    }
    match emit {
        Emit::End => check_target(output)?,
        Emit::OnClose => check_folder(output)?,
    }
    let Some(input) = metadata_of(input) else { return Ok(()) };
    let is_input = |path: &Path| fs::metadata(path).is_ok_and(|found| same(&found, &input));
    match emit {
        Emit::End if is_input(output) => refused("--output is the --input"),
        Emit::OnClose if output.is_dir() => {
            let names = names_in(output)?;
            match names.iter().any(|name| name.starts_with("part-") && is_input(&output.join(name))) {
                true => refused("--input is a part file in the --output folder"),
                false => Ok(()),
            }
        }
        _ => Ok(()),
    }
}

/// Refuses a folder of local copies that lies among checkpoints.
///
/// # Errors
/// `Config`.
pub(crate) fn check_disk(folder: &Path, store: &str) -> Result<()> {
    match store_folder(store) {
        Some(store) if resolved(folder).starts_with(resolved(&store)) => {
            Err(Error::config("--disk lies in the folder of --store").with("disk", folder.display()))
        }
        _ => Ok(()),
    }
}

fn check_folder(folder: &Path) -> Result<()> {
    if fs::metadata(folder).is_ok_and(|metadata| !metadata.is_dir()) {
        let error = Error::config("--output is a file, --emit on-close needs a folder");
        return Err(error.with("file", folder.display()));
    }
    Ok(())
}

fn same(a: &Metadata, b: &Metadata) -> bool {
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

/// Returns the metadata of an input file; `None` if it is missing, which the source reports.
fn metadata_of(input: &Input) -> Option<Metadata> {
    let metadata = match input {
        Input::Path(path) => fs::metadata(path),
        Input::Stdin => io::stdin().as_fd().try_clone_to_owned().and_then(|file| File::from(file).metadata()),
        Input::Nexmark { .. } | Input::Topic(_) => return None,
    };
    metadata.ok().filter(Metadata::is_file)
}

/// Returns the store's folder, if it is a `file:` store.
fn store_folder(store: &str) -> Option<PathBuf> {
    Url::parse(store).ok().filter(|url| url.scheme() == "file")?.to_file_path().ok()
}

/// Resolves the links of a path whose last components need not exist.
fn resolved(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let found = absolute.ancestors().find_map(|ancestor| {
        let rest = absolute.strip_prefix(ancestor).ok()?;
        Some(ancestor.canonicalize().ok()?.join(rest))
    });
    found.unwrap_or(absolute)
}

#[cfg(test)]
mod tests {
    use alluvium::ErrorKind;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn an_output_that_is_the_input_or_lies_in_the_store_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let input = Input::Path(path("in.csv"));
        fs::write(path("in.csv"), "k\n").unwrap();
        fs::write(path("other.csv"), "k\n").unwrap();
        fs::create_dir_all(path("parts")).unwrap();
        fs::create_dir_all(path("store/j")).unwrap();
        symlink(path("in.csv"), path("link.csv")).unwrap();
        symlink(path("store"), path("way")).unwrap();
        symlink(path("."), path("here")).unwrap();
        fs::hard_link(path("in.csv"), path("hard.csv")).unwrap();
        let store = format!("file://{}", path("store").display());
        for bad in [
            "in.csv",
            "./in.csv",
            "parts/../in.csv",
            "link.csv",
            "hard.csv",
            "here/in.csv",
            "store/out.csv",
            "way/j/out.csv",
        ] {
            let error = check(Some(&path(bad)), Emit::End, &input, &store).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{bad}: {error}");
        }
        for bad in ["store", "store/parts", "way/new/deep"] {
            let error = check(Some(&path(bad)), Emit::OnClose, &input, &store).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{bad}: {error}");
        }
        for fine in ["other.csv", "new.csv", "store.csv"] {
            check(Some(&path(fine)), Emit::End, &input, &store).unwrap();
        }
        let linked = Input::Path(path("link.csv"));
        assert!(check(Some(&path("in.csv")), Emit::End, &linked, "s3://bucket").is_err());
        for fine in ["parts", "new", "new/deep", "here", "."] {
            check(Some(&path(fine)), Emit::OnClose, &input, &store).unwrap();
        }
        fs::hard_link(path("in.csv"), path("parts/part-1-1.csv")).unwrap();
        assert!(check(Some(&path("parts")), Emit::OnClose, &input, &store).is_err());
        check(None, Emit::End, &input, &store).unwrap();
        for bad in ["store", "store/cache", "way/cache"] {
            assert_eq!(check_disk(&path(bad), &store).unwrap_err().kind(), ErrorKind::Config, "{bad}");
        }
        check_disk(&path("cache"), &store).unwrap();
        check_disk(&path("store"), "s3://bucket").unwrap();
    }
}
