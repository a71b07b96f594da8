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
    /// A topic of Kafka, by what follows `kafka://` in its URL. See [`check`](Self::check).
    Topic(String),
}

impl FromStr for Input {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if let Some(place) = text.strip_prefix("kafka://") {
            return Ok(Self::Topic(place.to_owned()));
        }
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
    /// Checks a URL, which parsing the flag does not: its message would repeat a misplaced password.
    ///
    /// # Errors
    /// `Config` if it is malformed, of another system, or of one that this build lacks.
    pub(crate) fn check(&self) -> Result<()> {
        match self {
            Self::Path(path) if path.to_string_lossy().contains("://") => {
                Err(Error::config("--input takes a path, without file://, or kafka://host:port/topic"))
            }
            #[cfg(feature = "kafka")]
            Self::Topic(place) => crate::run::kafka::source(place).map(drop),
            #[cfg(not(feature = "kafka"))]
            Self::Topic(_) => Err(crate::run::target::lacks("Kafka", "kafka")),
            Self::Path(_) | Self::Stdin | Self::Nexmark { .. } => Ok(()),
        }
    }

    /// Returns the input's identity in the stored program. It omits a file's folder: input and store can move to
    /// another machine; [`super::Check`] compares the content. It omits a topic's brokers: positions have the topic's id.
    pub(crate) fn identity(&self) -> String {
        match self {
            Self::Path(path) => path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned(),
            Self::Stdin => "-".to_owned(),
            Self::Nexmark { events, seed } => format!("nexmark:{events}:{seed}"),
            Self::Topic(place) => format!("kafka:{}", topic_of(place)),
        }
    }

    /// Returns the format by the file's extension; of a topic, JSON.
    pub(crate) fn format(&self) -> Format {
        let path = match self {
            Self::Path(path) => path,
            Self::Topic(_) => return Format::Jsonl,
            Self::Stdin | Self::Nexmark { .. } => return Format::Csv,
        };
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

/// Returns the topic of a URL without `kafka://`.
fn topic_of(place: &str) -> &str {
    let (place, _) = place.split_once('?').unwrap_or((place, ""));
    place.rsplit_once('/').map_or(place, |(_, topic)| topic)
}

fn is_compressed(path: &Path) -> bool {
    matches!(extension(path).as_str(), "gz" | "zst")
}

fn extension(path: &Path) -> String {
    path.extension().map(|extension| extension.to_string_lossy().to_ascii_lowercase()).unwrap_or_default()
}
