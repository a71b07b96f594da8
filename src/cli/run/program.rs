//! What a job computes: stored in every manifest, compared on restart.

use alluvium::{Error, Result};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::aggregate::Aggregate;
use super::args::RunArgs;
use super::list;
use super::output::Output;
use super::source::{Format, Input};
use super::window::Window;

/// The part of the flags that decides what the output is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Program {
    /// Identity of the input: see [`Input::identity`].
    pub(crate) input: String,
    /// How it is read; generated input has no format.
    pub(crate) format: Option<Format>,
    /// The key's columns.
    pub(crate) key: Vec<String>,
    /// The aggregates, each different.
    pub(crate) agg: Vec<Aggregate>,
    /// The windows, if any.
    pub(crate) window: Option<Window>,
    /// What becomes of malformed records.
    pub(crate) on_bad_record: OnBadRecord,
    /// When results are written: closed windows leave the state.
    pub(crate) emit: Emit,
}

/// What becomes of malformed records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum OnBadRecord {
    /// The job ends and names the first one
    Fail,
    /// They are counted and skipped
    Skip,
}

/// When results are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Emit {
    /// All in one file, at the end of the input
    End,
    /// A window's when it closes, one file per checkpoint
    OnClose,
}

impl Program {
    /// Returns the program that the flags describe.
    ///
    /// # Errors
    /// `Config` if the flags contradict one another.
    pub(crate) fn new(args: &RunArgs) -> Result<Self> {
        let format = match (&args.input, args.format) {
            (Input::Nexmark { .. }, None) => None,
            (Input::Nexmark { .. }, Some(_)) => return Err(Error::config("--format has no meaning for nexmark input")),
            (input, format) => Some(format.unwrap_or_else(|| Format::of(input))),
        };
        let key: Vec<String> = args.key.iter().flat_map(|columns| columns.0.clone()).collect();
        let agg: Vec<Aggregate> = args.agg.iter().flat_map(|aggregates| aggregates.0.clone()).collect();
        if let Some(twice) = first_repeated(&key) {
            return Err(Error::config("--key names a column twice").with("column", twice));
        }
        if let Some(twice) = first_repeated(&agg) {
            return Err(Error::config("--agg names an aggregate twice").with("aggregate", twice));
        }
        let window = match (args.window, &args.time) {
            (Some(size), Some(time)) => Some(Window::new(size, time.clone(), args.lateness.unwrap_or_default())),
            (None, None) => None,
            _ => return Err(Error::config("--window and --time need one another")),
        };
        if window.is_none() && args.emit == Emit::OnClose {
            return Err(Error::config("--emit on-close needs --window"));
        }
        let program = Self {
            input: args.input.identity(),
            format,
            key,
            agg,
            window,
            on_bad_record: args.on_bad_record,
            emit: args.emit,
        };
        let columns: Vec<String> = Output::columns(&program).collect();
        if let Some(twice) = first_repeated(&columns) {
            return Err(Error::config("two columns of the output would have this name").with("column", twice));
        }
        Ok(program)
    }

    /// Returns the bytes that manifests store.
    ///
    /// # Errors
    /// `Config` if it has no JSON form, which none has.
    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(self).map_err(|source| Error::config("program has no JSON form").with_source(source))
    }

    /// Returns the program that a manifest stores.
    ///
    /// # Errors
    /// `Version` if this build does not know it: another version or another software wrote it.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self> {
        serde_json::from_slice(bytes)
            .map_err(|source| Error::version("stored program is not one of this version").with_source(source))
    }

    /// Refuses to go on from a checkpoint of another program.
    ///
    /// # Errors
    /// `Config` that names the first flag that differs, with both values.
    pub(crate) fn check(stored: &Self, given: &Self) -> Result<()> {
        let pairs = stored.flags().into_iter().zip(given.flags());
        match pairs.into_iter().find(|(stored, given)| stored != given) {
            None => Ok(()),
            Some(((flag, stored), (_, given))) => Err(Error::config(format!("{flag} differs from the stored program"))
                .with("stored", stored)
                .with("given", given)),
        }
    }

    /// Returns the flags that say the same.
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

/// Returns a flag's value as it is typed.
fn name(value: impl ValueEnum) -> String {
    value.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

fn first_repeated<T: PartialEq>(items: &[T]) -> Option<&T> {
    items.iter().enumerate().find(|(i, item)| items.iter().take(*i).any(|before| before == *item)).map(|(_, item)| item)
}

#[cfg(test)]
mod tests {
    use alluvium::ErrorKind;
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Tool {
        #[command(flatten)]
        run: RunArgs,
    }

    fn program(flags: &str) -> Result<Program> {
        let all = format!("run --store memory:/// --job j {flags}");
        Program::new(&Tool::try_parse_from(all.split_whitespace()).unwrap().run)
    }

    const FLAGS: &str = "--input data/in.csv --key a,b --agg count,min:v --window tumbling:30d --time t";

    #[test]
    fn a_restart_with_another_program_names_the_flag() {
        let stored = program(FLAGS).unwrap();
        let stored = Program::from_bytes(&stored.to_bytes().unwrap()).unwrap();
        for same in [FLAGS, &format!("{FLAGS} --lateness 0s --format csv --emit end"), &FLAGS.replace("data/", "/x/")] {
            Program::check(&stored, &program(same).unwrap()).unwrap();
        }
        for (flag, other) in [
            ("--input", FLAGS.replace("in.csv", "other.csv")),
            ("--format", format!("{FLAGS} --format jsonl")),
            ("--key", FLAGS.replace("a,b", "b,a")),
            ("--key", FLAGS.replace("a,b", "\"a,b\"")),
            ("--agg", FLAGS.replace("min:v", "max:v")),
            ("--window", FLAGS.replace("30d", "31d")),
            ("--window", "--input data/in.csv --key a,b --agg count,min:v".to_owned()),
            ("--time", FLAGS.replace("--time t", "--time u")),
            ("--lateness", format!("{FLAGS} --lateness 1s")),
            ("--on-bad-record", format!("{FLAGS} --on-bad-record skip")),
            ("--emit", format!("{FLAGS} --emit on-close --output x")),
        ] {
            let error = Program::check(&stored, &program(&other).unwrap()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(error.message().starts_with(&format!("{flag} differs")), "{flag}: {error}");
        }
        let error = Program::check(&stored, &program(&FLAGS.replace("30d", "1h")).unwrap()).unwrap_err();
        assert_eq!(
            error.message(),
            "--window differs from the stored program stored=`tumbling:30days` given=`tumbling:1h`"
        );
    }

    #[test]
    fn contradictions_and_foreign_programs_are_refused() {
        for flags in [
            "--input x --key a,a --agg count",
            "--input x --key a --agg count,count",
            "--input x --key a --key b,a --agg count",
            "--input x --key count --agg count",
            "--input x --key a,sum_v --agg sum:v",
            "--input x --key window_start --agg count --window tumbling:1d --time t",
            "--input nexmark:5 --format csv --key a --agg count",
        ] {
            assert_eq!(program(flags).unwrap_err().kind(), ErrorKind::Config, "{flags}");
        }
        for bytes in [&b""[..], b"{}", b"{\"input\":1}", b"\xff"] {
            assert_eq!(Program::from_bytes(bytes).unwrap_err().kind(), ErrorKind::Version);
        }
    }

    #[test]
    fn formats_follow_the_name() {
        let format = |input: &str| program(&format!("--input {input} --key a --agg count")).unwrap().format;
        for csv in ["a.csv", "a.csv.gz", "a", "-", "a.txt.zst"] {
            assert_eq!(format(csv), Some(Format::Csv), "{csv}");
        }
        for jsonl in ["a.jsonl", "dir.csv/a.JSONL.zst", "a.ndjson.gz"] {
            assert_eq!(format(jsonl), Some(Format::Jsonl), "{jsonl}");
        }
        assert_eq!(format("nexmark:9"), None);
    }
}
