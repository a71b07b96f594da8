//! The program of a job: stored in every manifest, compared on restart.

use alluvium::{Error, Result};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::aggregate::Aggregate;
use super::list;
use super::window::Window;

/// The flags that determine the output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Program {
    /// Identity of the input: see [`Input::identity`](super::source::Input::identity).
    pub(crate) input: String,
    /// Format of the input; `None` for generated input.
    pub(crate) format: Option<Format>,
    /// The key's columns.
    pub(crate) key: Vec<String>,
    /// The aggregates, without duplicates.
    pub(crate) agg: Vec<Aggregate>,
    /// The windows, if any.
    pub(crate) window: Option<Window>,
    /// Treatment of malformed records.
    pub(crate) on_bad_record: OnBadRecord,
    /// When results are written; with `OnClose`, closed windows are removed from the state.
    pub(crate) emit: Emit,
}

/// The format of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Format {
    /// Comma-separated values with a header line
    Csv,
    /// One JSON object per line
    Jsonl,
}

/// Treatment of malformed records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum OnBadRecord {
    /// End the job and report the first one
    Fail,
    /// Count and skip them
    Skip,
}

/// When results are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Emit {
    /// All in one file, at the end of the input
    End,
    /// Per window when it closes, one file per checkpoint
    OnClose,
}

impl Program {
    /// Checks that key columns, aggregates and output columns are each without duplicates.
    ///
    /// # Errors
    /// `Config`, naming the duplicate.
    pub(crate) fn checked(self) -> Result<Self> {
        if let Some(twice) = first_repeated(&self.key) {
            return Err(Error::config("--key names a column twice").with("column", twice));
        }
        if let Some(twice) = first_repeated(&self.agg) {
            return Err(Error::config("--agg names an aggregate twice").with("aggregate", twice));
        }
        let columns: Vec<String> = self.output_columns().collect();
        if let Some(twice) = first_repeated(&columns) {
            return Err(Error::config("two output columns have the same name").with("column", twice));
        }
        Ok(self)
    }

    /// Returns the names of the output's columns.
    pub(crate) fn output_columns(&self) -> impl Iterator<Item = String> + '_ {
        let window = self.window.iter().map(|_| "window_start".to_owned());
        let aggregates = self.agg.iter().map(Aggregate::output_name);
        self.key.iter().cloned().chain(window).chain(aggregates)
    }

    /// Encodes the program for manifests.
    ///
    /// # Errors
    /// `Config` if serialization fails, which no program causes.
    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|source| Error::config("program has no JSON form").with_source(source))
    }

    /// Decodes a manifest's program.
    ///
    /// # Errors
    /// `Version` if this build cannot decode the program: another version or another engine wrote it.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self> {
        serde_json::from_slice(bytes)
            .map_err(|source| Error::version("stored program is not one of this version").with_source(source))
    }

    /// Refuses to resume from a checkpoint of another program.
    ///
    /// # Errors
    /// `Config`, naming the first flag that differs, with both values.
    pub(crate) fn check(stored: &Self, given: &Self) -> Result<()> {
        let pairs = stored.flags().into_iter().zip(given.flags());
        match pairs.into_iter().find(|(stored, given)| stored != given) {
            None => Ok(()),
            Some(((flag, stored), (_, given))) => Err(Error::config(format!("{flag} differs from the stored program"))
                .with("stored", stored)
                .with("given", given)),
        }
    }

    /// Returns the program as flags and their values.
    fn flags(&self) -> [(&'static str, String); 9] {
        let window = |text: fn(&Window) -> String| self.window.as_ref().map_or_else(|| "none".to_owned(), text);
        [
            ("--input", self.input.clone()),
            ("--format", self.format.map_or_else(|| "none".to_owned(), name)),
            ("--key", list::join(self.key.iter().cloned())),
            ("--agg", list::join(self.agg.iter().map(Aggregate::to_string))),
            ("--window", window(|w| format!("tumbling:{}", humantime::format_duration(w.size())))),
            ("--time", window(|w| w.time.clone())),
            ("--lateness", window(|w| humantime::format_duration(w.lateness()).to_string())),
            ("--on-bad-record", name(self.on_bad_record)),
            ("--emit", name(self.emit)),
        ]
    }
}

/// Returns a flag's value as typed on the command line.
fn name(value: impl ValueEnum) -> String {
    value.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

fn first_repeated<T: PartialEq>(items: &[T]) -> Option<&T> {
    items.iter().enumerate().find(|(i, item)| items.iter().take(*i).any(|before| before == *item)).map(|(_, item)| item)
}
