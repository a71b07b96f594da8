//! The offline tools: a job's place in, text or one JSON document out.
//!
//! What they find out stands in `alluvium::offline`; here are flags and print.

mod copy;
mod diff;
mod drop;
mod export;
mod inspect;
mod list;
mod place;
mod rescale;
mod sweep;
mod text;
mod value;
mod verify;

use clap::Subcommand;

use alluvium::Result;

use super::Finding;

/// Offline tools. Each works with no engine and no user code.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List jobs, or a job's checkpoints and savepoints.
    List(list::Args),
    /// Show what a checkpoint is made of: tables, skew, segments, objects, positions, what a restore reads.
    Inspect(inspect::Args),
    /// Find damage, the checkpoints that it touches, and those that are whole.
    ///
    /// Exit code 3 if there is any.
    Verify(verify::Args),
    /// Compare two checkpoints: keys added, removed, changed per table.
    ///
    /// A key counts once for each of its namespaces and sub-keys. Exit code 3 if the checkpoints differ.
    Diff(diff::Args),
    /// Write a table's live rows to a file, decoded by the types that the checkpoint names.
    Export(export::Args),
    /// Copy a checkpoint, self-contained and byte for byte, to another place.
    ///
    /// A job run there goes on from it. Refused where anything stands.
    Savepoint(copy::SavepointArgs),
    /// Restore a checkpoint, or part of it, into another place, at any parallelism.
    ///
    /// The state is read, folded and written anew as one base per subtask. Refused where anything stands.
    Restore(copy::RestoreArgs),
    /// Show which subtask would read which byte ranges at another parallelism.
    Rescale(rescale::Args),
    /// Show what would go with savepoints or checkpoints, and with --yes drop them.
    ///
    /// Works on one whose manifest is damaged or gone, too: while that is live, nothing of the job is deleted.
    Drop(drop::Args),
    /// Show what is live, orphaned and deletable, and with --delete delete it.
    Sweep(sweep::Args),
}

/// Runs one of the tools.
pub(super) async fn run(command: Command) -> Result<Finding> {
    match command {
        Command::List(args) => list::run(args).await,
        Command::Inspect(args) => inspect::run(args).await,
        Command::Verify(args) => verify::run(args).await,
        Command::Diff(args) => diff::run(args).await,
        Command::Export(args) => export::run(args).await,
        Command::Savepoint(args) => copy::savepoint(args).await,
        Command::Restore(args) => copy::restore(args).await,
        Command::Rescale(args) => rescale::run(args).await,
        Command::Drop(args) => drop::run(args).await,
        Command::Sweep(args) => sweep::run(args).await,
    }
}
