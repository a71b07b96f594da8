//! The flags that name the keys of manifests.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;

use alluvium::{Error, Result};
use alluvium::{MacKey, MacKeys};

/// Keys of manifests.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct KeyArgs {
    /// File with the key that the job's manifests are signed and verified with: 64 hexadecimal digits. Given again:
    /// an older key, whose manifests are believed too
    #[arg(long, value_name = "FILE")]
    manifest_key: Vec<PathBuf>,
    /// Believe manifests that nobody signed, too: those of a job that had no key before
    #[arg(long, requires = "manifest_key")]
    accept_unsigned: bool,
}

impl KeyArgs {
    /// Reads the files.
    ///
    /// # Errors
    /// `Config` if one cannot be read or has no key.
    pub(super) fn read(&self) -> Result<MacKeys> {
        let mut files = self.manifest_key.iter();
        let Some(first) = files.next() else { return Ok(MacKeys::default()) };
        let mut keys = MacKeys::signing(read(first)?);
        for older in files {
            keys = keys.or_signed_by(read(older)?);
        }
        Ok(if self.accept_unsigned { keys.or_unsigned() } else { keys })
    }
}

fn read(path: &Path) -> Result<MacKey> {
    let named = |error: Error| error.with("file", path.display());
    let text = fs::read_to_string(path)
        .map_err(|source| named(Error::config("cannot read the key of manifests")).with_source(source))?;
    text.trim_end().parse().map_err(named)
}
