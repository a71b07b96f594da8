//! The command-line tool: flags in, library calls, text or one JSON document out.
//!
//! Exit codes: 0 done; 1 failed, with `error[kind]: message` as the last line of standard error; 2 wrong usage;
//! 3 damage or a difference found.

mod files;
mod keys;
mod offline;
mod print;
mod reconcile;
mod run;

#[cfg(any(test, feature = "fuzzing"))]
pub use run::fuzz;

use std::io::IsTerminal as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use alluvium::{Error, Result};
use alluvium_bench::{interval, suite};

/// Keyed state and checkpoints for stream processors.
#[derive(Debug, Parser)]
#[command(name = "alluvium", version, propagate_version = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a checkpointed keyed aggregation over a stream of records.
    Run(Box<run::Args>),
    /// Replay a load through the adaptive checkpoint interval and through fixed ones.
    Interval(Box<interval::Args>),
    /// Measure backends and snapshot strategies on this machine.
    Bench(Box<suite::Args>),
    /// Compare what a job has read and published with what its checkpoints say of it.
    ///
    /// Each checkpoint counts and hashes the records of every part of the input, and of every slot of the output. Without --input and
    /// --output, shows what the newest one says. Exit code 3 if an end differs: the first epoch at which it does is named.
    Reconcile(reconcile::Args),
    #[command(flatten)]
    Offline(offline::Command),
}

/// The finding of a successful command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Finding {
    /// Nothing to report by exit code.
    Nothing,
    /// Damage, or a difference.
    Something,
}

/// Parses the command line, runs the command, and returns the exit code.
#[must_use]
pub fn main() -> ExitCode {
    let parsed = Cli::try_parse().and_then(|cli| match &cli.command {
        Command::Run(args) => args.check().map(|()| cli),
        _ => Ok(cli),
    });
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => {
            // clap picks the stream and exit code: help and version are not errors.
            let code = u8::try_from(error.exit_code()).unwrap_or(2);
            return if error.print().is_ok() { ExitCode::from(code) } else { ExitCode::from(1) };
        }
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty());
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(|| print::Log).init();
    let outcome = match cli.command {
        Command::Run(args) => run::run(&args).map(|()| Finding::Nothing),
        Command::Interval(args) => interval::run(&args, &print::out).map(|()| Finding::Nothing),
        Command::Bench(args) => suite::run(&args, &print::out).map(|()| Finding::Nothing),
        Command::Reconcile(args) => block_on(reconcile::run(args)),
        Command::Offline(command) => block_on(offline::run(command)),
    };
    match outcome {
        Ok(Finding::Nothing) => ExitCode::SUCCESS,
        Ok(Finding::Something) => ExitCode::from(3),
        Err(error) => {
            print::error(&error);
            ExitCode::from(1)
        }
    }
}

/// Runs `future` on a new tokio runtime.
fn block_on<R>(future: impl Future<Output = Result<R>>) -> Result<R> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.map_err(|source| Error::unavailable("cannot start the async runtime").with_source(source))?.block_on(future)
}
