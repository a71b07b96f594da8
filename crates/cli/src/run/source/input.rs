//! The `--input` flag, and opening an input.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use alluvium::{Error, Result};

use super::gzip::Members;
use super::tape::{Stream, Tape};
use crate::files::io_error;
use crate::run::program::Format;

/// A source of records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Input {
    /// A file.
    Path(PathBuf),
    /// Standard input.
    Stdin,
    /// The bids among the first `events` events of a generator.
    Nexmark { events: u64, seed: u32 },
}

impl FromStr for Input {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let Some(spec) = text.strip_prefix("nexmark:") else {
            return match text {
                "" => Err(Error::usage("an input is a path, - or nexmark:EVENTS[:SEED]")),
                "-" => Ok(Self::Stdin),
                path => Ok(Self::Path(path.into())),
            };
        };
        let (events, seed) = spec.split_once(':').unwrap_or((spec, "0"));
        match (events.parse(), seed.parse()) {
            (Ok(events @ 1..), Ok(seed)) => Ok(Self::Nexmark { events, seed }),
            _ => Err(Error::usage("generated input is nexmark:EVENTS[:SEED], with at least 1 event and a 32-bit seed")),
        }
    }
}

impl Input {
    /// Returns the input's identity in the stored program. It omits a file's folder: input and store can move to
    /// another machine; [`super::Check`] compares the content.
    pub(crate) fn identity(&self) -> String {
        match self {
            Self::Path(path) => path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned(),
            Self::Stdin => "-".to_owned(),
            Self::Nexmark { events, seed } => format!("nexmark:{events}:{seed}"),
        }
    }

    /// Returns the format by the file's extension.
    pub(crate) fn format(&self) -> Format {
        let Self::Path(path) = self else { return Format::Csv };
        let plain = if is_compressed(path) { path.with_extension("") } else { path.clone() };
        match extension(&plain).as_str() {
            "jsonl" | "ndjson" | "json" => Format::Jsonl,
            _ => Format::Csv,
        }
    }

    /// Returns the input's name for messages.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Path(path) => path.display().to_string(),
            _ => self.identity(),
        }
    }
}

/// Opens a file, or standard input, at its start.
///
/// # Errors
/// `NotFound`, `Denied` or `Unavailable`; `Input` for a folder.
pub(super) fn open(path: Option<&Path>) -> Result<Tape> {
    let Some(path) = path else { return Ok(Tape::new(Stream::Once(Box::new(std::io::stdin())))) };
    let failed = |source| io_error("cannot open input", path, source);
    let file = File::open(path).map_err(failed)?;
    let metadata = fs::metadata(path).map_err(failed)?;
    if metadata.is_dir() {
        return Err(Error::input("input is a folder").with("file", path.display()));
    }
    let stream = match extension(path).as_str() {
        "gz" => Stream::Once(Box::new(Members::new(file))),
        "zst" => Stream::Once(Box::new(zstd::Decoder::new(file).map_err(failed)?)),
        // A pipe cannot seek.
        _ if metadata.is_file() => Stream::File(file),
        _ => Stream::Once(Box::new(file)),
    };
    Ok(Tape::new(stream))
}

fn is_compressed(path: &Path) -> bool {
    matches!(extension(path).as_str(), "gz" | "zst")
}

fn extension(path: &Path) -> String {
    path.extension().map(|extension| extension.to_string_lossy().to_ascii_lowercase()).unwrap_or_default()
}
