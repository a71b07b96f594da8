//! The flags for manifest keys.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;

use alluvium::{Error, MacKey, MacKeys, Result};

/// Manifest keys.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct KeyArgs {
    /// File with the key that signs and verifies the job's manifests: 64 hexadecimal digits. Repeat the flag to accept
    /// manifests signed with older keys
    #[arg(long, value_name = "FILE")]
    manifest_key: Vec<PathBuf>,
    /// Also accept unsigned manifests, from before the job had a key
    #[arg(long, requires = "manifest_key")]
    accept_unsigned: bool,
}

impl KeyArgs {
    /// Reads the key files.
    ///
    /// # Errors
    /// `Config` if a file cannot be read or holds no key.
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
        .map_err(|source| named(Error::config("cannot read the manifest key")).with_source(source))?;
    text.trim_end().parse().map_err(named)
}
