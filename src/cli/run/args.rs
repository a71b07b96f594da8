//! The flags of `alluvium run`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::super::goal::{self, GoalArg};
use super::super::keys::KeyArgs;
use super::interval::{Interval, positive_duration};
use super::list::{Aggregates, Columns};
use super::program::{Emit, OnBadRecord};
use super::rate::RateArg;
use super::source::{Format, Input};
use super::window::WindowSize;
#[cfg(feature = "rocksdb")]
use crate::cli::rocksdb::RocksDbArgs;

/// Aggregates a stream of records by key, with checkpoints.
///
/// Run again with the same --store and --job, it goes on from the newest checkpoint, at any --parallelism; the
/// output is what an uninterrupted run writes.
#[derive(Debug, Clone, Args)]
pub(crate) struct RunArgs {
    /// What to read: a file (`.gz` and `.zst` are decompressed), `-` for standard input, or the bids among the
    /// first EVENTS events of a NEXMark generator (SEED picks another stream, default 0)
    #[arg(long, short, value_name = "PATH|-|nexmark:EVENTS[:SEED]")]
    pub(crate) input: Input,
    /// Format of the input [default: by the file's name, else csv]
    #[arg(long, value_enum)]
    pub(crate) format: Option<Format>,
    /// Columns that make the key; a name with a comma is put into double quotes
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

    /// Where checkpoints go: file:///dir, memory:///, s3://bucket/prefix, az://container/prefix, gs://bucket/prefix
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
    /// Number of key groups, fixed for the job's life: the largest parallelism it can ever have
    #[arg(long, default_value_t = alluvium::key_group::DEFAULT_MAX_PARALLELISM, value_name = "N")]
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
    /// Time between the starts of two checkpoints; adaptive chooses it by what is measured and by --goal
    #[arg(long, default_value = "10s", value_name = "DURATION|adaptive")]
    pub(crate) interval: Interval,
    #[arg(long, value_name = "GOAL=VALUE,...", help = goal::HELP)]
    pub(crate) goal: Option<GoalArg>,
    /// Mean time between failures that the adaptive interval expects before it has seen any
    /// [default: 1d]
    #[arg(long, value_parser = positive_duration, value_name = "DURATION")]
    pub(crate) mtbf: Option<Duration>,
    /// Go on from this checkpoint instead of the newest
    #[arg(long, conflicts_with = "fresh", value_name = "ID")]
    pub(crate) checkpoint: Option<u64>,
    /// Start from the beginning, whatever checkpoints there are
    #[arg(long)]
    pub(crate) fresh: bool,
    /// Checkpoints to keep
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..), value_name = "N")]
    pub(crate) retain: u32,
    /// Give a checkpoint up after this long
    #[arg(long, default_value = "10m", value_parser = positive_duration, value_name = "DURATION")]
    pub(crate) checkpoint_timeout: Duration,
    /// Checkpoints that may be under way at once
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..), value_name = "N")]
    pub(crate) max_in_flight: u32,
    /// Least time between the end of a checkpoint and the start of the next
    #[arg(long, default_value = "0s", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub(crate) min_pause: Duration,

    /// Read at most this many records per second; further rates hold from their times on: `1000,10000@60s,1000@2m`
    #[arg(long, value_name = "RECORDS_PER_S[,RATE@TIME...]")]
    pub(crate) rate: Option<RateArg>,
    /// Stop after this many records, counted from the start of the input; windows stay open
    #[arg(long, value_name = "RECORDS")]
    pub(crate) limit: Option<u64>,
    /// What to do with a malformed record
    #[arg(long, value_enum, default_value_t = OnBadRecord::Fail)]
    pub(crate) on_bad_record: OnBadRecord,

    /// Where the result goes: a CSV file; with --emit on-close a folder
    /// [default: standard output, nowhere with --json]
    #[arg(long, short, required_if_eq("emit", "on-close"), value_name = "FILE.csv")]
    pub(crate) output: Option<PathBuf>,
    /// When results are written: all at the end, or a window's when it closes
    #[arg(long, value_enum, default_value_t = Emit::End)]
    pub(crate) emit: Emit,
    /// Serve metrics as Prometheus text at this address
    #[arg(long, value_name = "ADDR")]
    pub(crate) metrics: Option<SocketAddr>,
    /// Print a summary as one JSON document
    #[arg(long)]
    pub(crate) json: bool,
}

impl RunArgs {
    /// Checks what one flag asks of the value of another.
    ///
    /// # Errors
    /// Wrong usage, naming the flags.
    pub(crate) fn check(&self) -> Result<(), clap::Error> {
        let only_adaptive = [("--goal", self.goal.is_some()), ("--mtbf", self.mtbf.is_some())];
        match only_adaptive.into_iter().find(|(_, given)| *given && self.interval != Interval::Adaptive) {
            Some((flag, _)) => {
                let why = format!("{flag} means nothing without --interval adaptive\n");
                Err(clap::Error::raw(clap::error::ErrorKind::ArgumentConflict, why))
            }
            None => Ok(()),
        }
    }
}

/// The state backends of this build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BackendKind {
    /// A log per key group, in memory
    Log,
    /// Ordered maps in memory: small and slow, for comparison
    Overlay,
    /// RocksDB: state far larger than memory
    #[cfg(feature = "rocksdb")]
    #[value(name = "rocksdb")]
    RocksDb,
}

/// The snapshot strategies of this build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Strategy {
    /// All state each time
    Full,
    /// What changed since the checkpoint before
    Incremental,
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use clap::error::ErrorKind;

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
    fn defaults_and_lists() {
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
            ("--strategy changelog", ErrorKind::InvalidValue),
            ("--backend heap", ErrorKind::InvalidValue),
            ("--format parquet", ErrorKind::InvalidValue),
            ("--interval often", ErrorKind::ValueValidation),
            ("--interval adaptive --goal recovery=0s", ErrorKind::ValueValidation),
            ("--interval adaptive --goal speed=9", ErrorKind::ValueValidation),
            ("--mtbf 0s", ErrorKind::ValueValidation),
            ("--interval 1s --goal recovery=1s", ErrorKind::ArgumentConflict),
            ("--goal recovery=1s", ErrorKind::ArgumentConflict),
            ("--mtbf 1h", ErrorKind::ArgumentConflict),
            ("--interval 0s", ErrorKind::ValueValidation),
            ("--window tumbling:30d", ErrorKind::MissingRequiredArgument),
            ("--time t", ErrorKind::MissingRequiredArgument),
            ("--lateness 1s", ErrorKind::MissingRequiredArgument),
            ("--window sliding:1s --time t", ErrorKind::ValueValidation),
            ("--window tumbling:0s --time t", ErrorKind::ValueValidation),
            ("--window tumbling:10 --time t", ErrorKind::ValueValidation),
            ("--window tumbling:1us --time t", ErrorKind::ValueValidation),
            ("--emit on-close --output dir", ErrorKind::MissingRequiredArgument),
            ("--emit on-close --window tumbling:1s --time t", ErrorKind::MissingRequiredArgument),
            ("--fresh --checkpoint 3", ErrorKind::ArgumentConflict),
            ("--agg median:v", ErrorKind::ValueValidation),
            ("--agg count:v", ErrorKind::ValueValidation),
            ("--agg sum", ErrorKind::ValueValidation),
            ("--key \"a", ErrorKind::ValueValidation),
            ("--retain 0", ErrorKind::ValueValidation),
            ("--rate 0", ErrorKind::ValueValidation),
        ] {
            let error = parse(extra).expect_err(extra);
            assert_eq!((error.kind(), error.exit_code()), (kind, 2), "{extra}: {error}");
        }
    }

    #[test]
    fn inputs() {
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
}
