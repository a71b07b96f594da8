//! The offline tools: flags in, text or one JSON document out. The work is done in `alluvium::offline`.

mod copy;
mod diff;
mod drop;
mod export;
mod get;
mod inspect;
mod key;
mod list;
mod load_order;
mod place;
mod rescale;
mod rows;
mod sweep;
mod text;
mod value;
mod verify;

use clap::Subcommand;

use alluvium::Result;

use super::Finding;

pub(crate) use place::JobArgs;
pub(crate) use text::Table;

/// Offline tools. Each works with no engine and no user code.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List jobs, or a job's checkpoints and savepoints.
    List(list::Args),
    /// Show a checkpoint's tables, skew, segments, objects, positions and restore cost.
    Inspect(inspect::Args),
    /// Find damage, the checkpoints it touches, and the undamaged checkpoints.
    ///
    /// Exit code 3 if damage is found.
    Verify(verify::Args),
    /// Compare two checkpoints: keys added, removed, changed per table.
    ///
    /// A key counts once for each of its namespaces and sub-keys. Exit code 3 if the checkpoints differ.
    Diff(diff::Args),
    /// Write a table's live rows to a file, decoded by the checkpoint's schema.
    Export(export::Args),
    /// Print the rows of one key of a table, as CSV.
    ///
    /// Reads a few blocks, however large the checkpoint is. Exit code 1 and error[not_found] if the table lacks the key.
    Get(get::Args),
    /// Copy a checkpoint, self-contained and byte for byte, to another store.
    ///
    /// A job run there resumes from the copy. Refused if the job already exists there.
    Savepoint(copy::SavepointArgs),
    /// Restore a checkpoint, or part of it, into another store, at any parallelism.
    ///
    /// The state is read, folded and rewritten as one base per subtask. Refused if the job already exists there.
    Restore(copy::RestoreArgs),
    /// Show which subtask would read which byte ranges at another parallelism.
    Rescale(rescale::Args),
    /// Show what dropping savepoints or checkpoints would delete, and with --yes drop them.
    ///
    /// Also drops a checkpoint whose manifest is damaged or missing, which blocks all deletion while it is live.
    Drop(drop::Args),
    /// Show live, orphaned and deletable objects, and with --delete delete the last.
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
        Command::Get(args) => get::run(args).await,
        Command::Savepoint(args) => copy::savepoint(args).await,
        Command::Restore(args) => copy::restore(args).await,
        Command::Rescale(args) => rescale::run(args).await,
        Command::Drop(args) => drop::run(args).await,
        Command::Sweep(args) => sweep::run(args).await,
    }
}
