//! The flags of `alluvium run`.

use std::net::SocketAddr;
use std::time::Duration;

use alluvium::interval::{FailurePrior, IntervalSettings, ReplayWeight};
use alluvium::{AdaptiveInterval, Error, Result};
#[cfg(feature = "rocksdb")]
use alluvium_bench::backend::RocksDbArgs;
use alluvium_bench::backend::{BackendKind, Strategy};
use alluvium_bench::goal::{self, GoalArg};
use bytesize::ByteSize;
use clap::Args;

use super::aggregate::Aggregate;
use super::disk::DiskArg;
use super::interval::{Interval, SHORTEST, positive_duration};
use super::list::{Aggregates, Columns};
use super::program::{Emit, Format, OnBadRecord, Program};
use super::rate::RateArg;
use super::source::Input;
use super::target::OutputPlace;
use super::window::{Window, WindowSize};
use crate::keys::KeyArgs;

/// Aggregates a stream of records by key, with checkpoints.
///
/// A second run with the same --store and --job resumes from the newest checkpoint, at any --parallelism; the output
/// is that of an uninterrupted run.
#[derive(Debug, Clone, Args)]
pub(crate) struct RunArgs {
    /// Input: a file (`.gz` and `.zst` are decompressed), `-` for standard input, the bids among the first EVENTS
    /// events of a NEXMark generator (SEED picks the stream, default 0), or a topic of JSON objects,
    /// `kafka://host:port/topic`; with `?stop-at-end`, up to where it ends when the run starts
    #[arg(long, short, value_name = "PATH|-|nexmark:EVENTS[:SEED]|URL")]
    pub(crate) input: Input,
    /// Format of the input [default: by the file's extension, else csv]
    #[arg(long, value_enum)]
    pub(crate) format: Option<Format>,
    /// Columns of the key; put a name that contains a comma in double quotes
    #[arg(long, short, required = true, value_name = "COL[,COL...]")]
    pub(crate) key: Vec<Columns>,
    /// Aggregates per key: count, sum:COL, min:COL, max:COL, mean:COL, last:COL, distinct:COL
    #[arg(long, short, required = true, value_name = "AGG[,AGG...]")]
    pub(crate) agg: Vec<Aggregates>,

    /// Aggregate per key and window of this length, aligned to the Unix epoch
    #[arg(long, short, requires = "time", required_if_eq("emit", "on-close"), value_name = "tumbling:DURATION")]
    pub(crate) window: Option<WindowSize>,
    /// Column with the event time: RFC 3339, `2023-05-28 19:58:53.260` as UTC, or integer milliseconds
    #[arg(long, short, requires = "window", value_name = "COL")]
    pub(crate) time: Option<String>,
    /// How long a window stays open after the watermark has passed its end [default: 0s]
    #[arg(long, requires = "window", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub(crate) lateness: Option<Duration>,
    /// Most that one record moves the watermark ahead, so that one with a wrong clock, far in the future, does not make all that
    /// follow late. After a real gap, a few records catch up [default: no bound]
    #[arg(long, requires = "window", value_parser = positive_duration, value_name = "DURATION")]
    pub(crate) max_ahead: Option<Duration>,
    /// Let the watermark pass a partition that has had no more records for this long; later ones may be late [default: wait for it]
    #[arg(long, requires = "window", value_parser = positive_duration, value_name = "DURATION")]
    pub(crate) idle_after: Option<Duration>,

    /// Store of checkpoints: file:///dir, memory:///, s3://bucket/prefix, az://container/prefix, gs://bucket/prefix
    #[arg(long, short, value_name = "URL")]
    pub(crate) store: String,
    /// Name of the job within the store
    #[arg(long, short, value_name = "NAME")]
    pub(crate) job: String,
    #[command(flatten)]
    pub(crate) keys: KeyArgs,
    /// Number of subtasks
    #[arg(long, short, default_value_t = 1, value_name = "P")]
    pub(crate) parallelism: u32,
    /// Number of key groups, fixed for the job's life: the upper bound of its parallelism
    #[arg(long, default_value_t = alluvium::DEFAULT_MAX_PARALLELISM, value_name = "N")]
    pub(crate) max_parallelism: u16,

    /// Where a subtask keeps its state
    #[arg(long, value_enum, default_value_t = BackendKind::Log)]
    pub(crate) backend: BackendKind,
    #[cfg(feature = "rocksdb")]
    #[command(flatten)]
    pub(crate) rocksdb: RocksDbArgs,
    /// What a checkpoint writes
    #[arg(long, value_enum, default_value_t = Strategy::Incremental)]
    pub(crate) strategy: Strategy,
    /// Time between the starts of two checkpoints; adaptive chooses it from measurements and --goal
    #[arg(long, default_value = "10s", value_name = "DURATION|adaptive")]
    pub(crate) interval: Interval,
    #[arg(long, value_name = "GOAL=VALUE,...", help = goal::HELP)]
    pub(crate) goal: Option<GoalArg>,
    /// Mean time between failures that the adaptive interval assumes before the first failure
    /// [default: 1d]
    #[arg(long, value_parser = positive_duration, value_name = "DURATION")]
    pub(crate) mtbf: Option<Duration>,
    /// Resume from this checkpoint instead of the newest
    #[arg(long, conflicts_with = "fresh", value_name = "ID")]
    pub(crate) checkpoint: Option<u64>,
    /// Start from the beginning, ignoring existing checkpoints
    #[arg(long)]
    pub(crate) fresh: bool,
    /// When the state of the checkpoint is loaded: `lazy`, while records are processed, each key group when it is needed and
    /// the most used first, if the backend can (`log`, `rocksdb`); `eager`, before the first record
    #[arg(long, value_enum, default_value_t = Restore::Lazy)]
    pub(crate) restore: Restore,
    /// Checkpoints to keep
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..), value_name = "N")]
    pub(crate) retain: u32,
    /// Abort a checkpoint after this time
    #[arg(long, default_value = "10m", value_parser = positive_duration, value_name = "DURATION")]
    pub(crate) checkpoint_timeout: Duration,
    /// Maximum number of checkpoints in flight
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..), value_name = "N")]
    pub(crate) max_in_flight: u32,
    /// Minimum time between the end of a checkpoint and the start of the next
    #[arg(long, default_value = "0s", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub(crate) min_pause: Duration,

    /// Memory for state and for what is being uploaded, at least 16MiB. Records that need more end the run, unless the
    /// state can go to --disk [default: no bound]
    #[arg(long, value_name = "SIZE")]
    pub(crate) memory: Option<ByteSize>,
    /// Folder of this machine for local copies of packs, which a restart reads instead of the store; other runs may share
    /// it. SIZE bounds them: the least recently used go first. With --memory and the backend `log`, cold state goes there
    /// too, and each of the two gets half of SIZE [default: no folder; no bound]
    #[arg(long, value_name = "DIR[:SIZE]")]
    pub(crate) disk: Option<DiskArg>,

    /// Read at most this many records per second; each further rate applies from its time on: `1000,10000@60s,1000@2m`
    #[arg(long, value_name = "RECORDS_PER_S[,RATE@TIME...]")]
    pub(crate) rate: Option<RateArg>,
    /// Stop after this many records, counted from the start of the input; windows stay open
    #[arg(long, value_name = "RECORDS")]
    pub(crate) limit: Option<u64>,
    /// What to do with a malformed record
    #[arg(long, value_enum, default_value_t = OnBadRecord::Fail)]
    pub(crate) on_bad_record: OnBadRecord,

    /// Where to write the result: a CSV file; with --emit on-close a folder, `s3://bucket/prefix`, `az://...`, `gs://...`,
    /// `postgres://user@host/database/table`, or `kafka://host:port/topic` [default: standard output, nowhere with --json]
    #[arg(long, short, required_if_eq("emit", "on-close"), value_name = "FILE.csv|URL")]
    pub(crate) output: Option<OutputPlace>,
    /// Continue although the --output URL has other output than the checkpoint knows: after --fresh or --checkpoint, what follows is
    /// published again
    #[arg(long)]
    pub(crate) publish_again: bool,
    /// Refuse a --store whose checkpoints are lost with this machine
    #[arg(long)]
    pub(crate) durable_store: bool,
    /// When to write results: all at the end, or per window when it closes
    #[arg(long, value_enum, default_value_t = Emit::End)]
    pub(crate) emit: Emit,
    /// Serve metrics as Prometheus text at this address
    #[arg(long, value_name = "ADDR")]
    pub(crate) metrics: Option<SocketAddr>,
    /// Print a summary as one JSON document
    #[arg(long)]
    pub(crate) json: bool,
}

/// When the state of a checkpoint is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Restore {
    /// When it is needed, and in the background
    Lazy,
    /// Before the first record
    Eager,
}

impl RunArgs {
    /// Checks the rules between flags that clap cannot express.
    ///
    /// # Errors
    /// Wrong usage, naming the flags.
    pub(crate) fn check(&self) -> Result<(), clap::Error> {
        let adaptive_only = [("--goal", self.goal.is_some()), ("--mtbf", self.mtbf.is_some())];
        match adaptive_only.into_iter().find(|(_, given)| *given && self.interval != Interval::Adaptive) {
            Some((flag, _)) => {
                let why = format!("{flag} requires --interval adaptive\n");
                Err(clap::Error::raw(clap::error::ErrorKind::ArgumentConflict, why))
            }
            None => Ok(()),
        }
    }

    /// Returns the program that the flags describe.
    ///
    /// # Errors
    /// `Config` if the flags contradict one another.
    pub(crate) fn program(&self) -> Result<Program> {
        let format = match (&self.input, self.format) {
            (Input::Nexmark { .. }, None) => None,
            (Input::Nexmark { .. }, Some(_)) => return Err(Error::config("--format does not apply to nexmark input")),
            (Input::Topic(_), Some(Format::Csv)) => return Err(Error::config("records of a topic are JSON, not CSV")),
            (input, format) => Some(format.unwrap_or_else(|| input.format())),
        };
        let key: Vec<String> = self.key.iter().flat_map(|columns| columns.0.clone()).collect();
        let agg: Vec<Aggregate> = self.agg.iter().flat_map(|aggregates| aggregates.0.clone()).collect();
        let window = match (self.window, &self.time) {
            (Some(size), Some(time)) => Some(Window::new(size, time.clone(), self.lateness.unwrap_or_default())),
            (None, None) => None,
            _ => return Err(Error::config("--window and --time require each other")),
        };
        if window.is_none() && self.emit == Emit::OnClose {
            return Err(Error::config("--emit on-close needs --window"));
        }
        let (on_bad_record, emit) = (self.on_bad_record, self.emit);
        Program { input: self.input.identity(), format, key, agg, window, on_bad_record, emit }.checked()
    }

    /// Returns the goals and settings of the interval, if it is adaptive.
    pub(crate) fn adaptive(&self) -> Option<AdaptiveInterval> {
        if self.interval != Interval::Adaptive {
            return None;
        }
        let prior = self.mtbf.map_or_else(FailurePrior::default, |mtbf| FailurePrior {
            job_mtbf: mtbf.as_secs_f64(),
            ..FailurePrior::default()
        });
        // Without a rate, input that is there already is a batch: a replay delays the end, but no backlog grows.
        let has_rate = self.rate.is_some() || matches!(self.input, Input::Topic(_));
        let weight = if has_rate { ReplayWeight::CatchUp } else { ReplayWeight::Batch };
        let settings = IntervalSettings::default().with(|it| {
            it.shortest = SHORTEST;
            it.first = Duration::from_secs(1);
            it.failures = prior;
            it.weight = weight;
        });
        Some(AdaptiveInterval::default().with(|it| {
            it.goals = self.goal.map(|goal| goal.0).unwrap_or_default();
            it.settings = settings;
        }))
    }
}

#[cfg(test)]
mod tests {
    use alluvium::ErrorKind;
    use clap::Parser;
    use clap::error::ErrorKind as Usage;

    use super::*;

    #[derive(Debug, Parser)]
    struct Tool {
        #[command(flatten)]
        run: RunArgs,
    }

    fn parse(extra: &str) -> Result<RunArgs, clap::Error> {
        let all = format!("run --input in.csv --key a,b --agg count,min:v --store memory:/// --job j {extra}");
        let run = Tool::try_parse_from(all.split_whitespace())?.run;
        run.check().map(|()| run)
    }

    #[test]
    fn flags_have_defaults_and_lists_are_split() {
        let args = parse("").unwrap();
        assert_eq!((args.key[0].0.len(), args.agg[0].0.len()), (2, 2));
        assert_eq!((args.parallelism, args.max_parallelism), (1, 128));
        assert_eq!((args.retain, args.max_in_flight, args.min_pause), (3, 2, Duration::ZERO));
        let args = parse("--window tumbling:30d --time t --lateness 30m --emit on-close --output dir").unwrap();
        assert_eq!((args.lateness, args.emit), (Some(Duration::from_secs(1800)), Emit::OnClose));
    }

    #[test]
    fn wrong_usage_ends_with_2() {
        for (extra, kind) in [
            ("--strategy changelog", Usage::InvalidValue),
            ("--backend heap", Usage::InvalidValue),
            ("--format parquet", Usage::InvalidValue),
            ("--interval often", Usage::ValueValidation),
            ("--interval adaptive --goal recovery=0s", Usage::ValueValidation),
            ("--interval adaptive --goal speed=9", Usage::ValueValidation),
            ("--mtbf 0s", Usage::ValueValidation),
            ("--interval 1s --goal recovery=1s", Usage::ArgumentConflict),
            ("--goal recovery=1s", Usage::ArgumentConflict),
            ("--mtbf 1h", Usage::ArgumentConflict),
            ("--interval 0s", Usage::ValueValidation),
            ("--window tumbling:30d", Usage::MissingRequiredArgument),
            ("--time t", Usage::MissingRequiredArgument),
            ("--lateness 1s", Usage::MissingRequiredArgument),
            ("--max-ahead 1s", Usage::MissingRequiredArgument),
            ("--idle-after 1s", Usage::MissingRequiredArgument),
            ("--max-ahead 0s --window tumbling:1s --time t", Usage::ValueValidation),
            ("--window sliding:1s --time t", Usage::ValueValidation),
            ("--window tumbling:0s --time t", Usage::ValueValidation),
            ("--window tumbling:10 --time t", Usage::ValueValidation),
            ("--window tumbling:1us --time t", Usage::ValueValidation),
            ("--emit on-close --output dir", Usage::MissingRequiredArgument),
            ("--emit on-close --window tumbling:1s --time t", Usage::MissingRequiredArgument),
            ("--fresh --checkpoint 3", Usage::ArgumentConflict),
            ("--agg median:v", Usage::ValueValidation),
            ("--agg count:v", Usage::ValueValidation),
            ("--agg sum", Usage::ValueValidation),
            ("--key \"a", Usage::ValueValidation),
            ("--retain 0", Usage::ValueValidation),
            ("--rate 0", Usage::ValueValidation),
            ("--disk dir:1XB", Usage::ValueValidation),
            ("--memory much", Usage::ValueValidation),
        ] {
            let error = parse(extra).expect_err(extra);
            assert_eq!((error.kind(), error.exit_code()), (kind, 2), "{extra}: {error}");
        }
    }

    #[test]
    fn inputs_are_parsed() {
        let input = |text: &str| {
            let all = ["run", "--key", "a", "--agg", "count", "--store", "memory:///", "--job", "j", "--input", text];
            Tool::try_parse_from(all).map(|tool| tool.run.input)
        };
        assert_eq!(input("nexmark:100").unwrap(), Input::Nexmark { events: 100, seed: 0 });
        assert_eq!(input("nexmark:100:7").unwrap(), Input::Nexmark { events: 100, seed: 7 });
        assert_eq!(input("-").unwrap(), Input::Stdin);
        for bad in ["nexmark:", "nexmark:0", "nexmark:-1", "nexmark:1:x", "nexmark:1:2:3", ""] {
            assert_eq!(input(bad).expect_err(bad).exit_code(), 2);
        }
    }

    fn program(flags: &str) -> Result<Program> {
        let all = format!("run --store memory:/// --job j {flags}");
        Tool::try_parse_from(all.split_whitespace()).unwrap().run.program()
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
