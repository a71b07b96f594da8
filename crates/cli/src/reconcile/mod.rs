//! `alluvium reconcile`: the ends of a job against what its checkpoints say of them.
//!
//! Each checkpoint counts and hashes the records read of every split and emitted through every slot since the job started. This reads
//! the ends again.

mod compare;
mod output;

use std::collections::BTreeMap;

use alluvium::offline::{self, EndSums, SplitSum};
use alluvium::source::{SplitId, StoredSplit};
use alluvium::{Epoch, Result};

use crate::Finding;
use crate::offline::JobArgs;
use crate::run::{Input, OutputPlace, Program, SPLITS, recount};
use compare::{Comparison, End};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    job: JobArgs,
    /// Read the job's input again and compare it: as for `run`
    #[arg(long, short, value_name = "INPUT")]
    input: Option<Input>,
    /// Read what the job has published and compare it: as for `run`, with --emit on-close
    ///
    /// A folder and an object store are compared checkpoint by checkpoint, a topic as a whole, a table by its number of rows.
    #[arg(long, short, value_name = "PLACE")]
    output: Option<OutputPlace>,
    /// Trust the oldest checkpoint, and compare the input from there on
    ///
    /// For a topic that was read from its end, or whose oldest records are gone.
    #[arg(long)]
    since_oldest: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// `Config` if the input or the output cannot be the job's; others from the store, the input and the output.
pub(crate) async fn run(args: Args) -> Result<Finding> {
    args.input.as_ref().map_or(Ok(()), Input::check)?;
    let (store, mut chain) = args.job.open().await?;
    let newest = offline::find(&store, &mut chain, None).await?;
    let program = Program::from_bytes(&newest.manifest.program.bytes)?;
    let checkpoints = offline::end_sums(&store, &mut chain, &[SPLITS]).await?;
    let mut ends = Vec::new();
    match &args.input {
        Some(input) => ends.extend(of_input(input, &program, &checkpoints, args.since_oldest).await?),
        None => ends.extend(compare::splits(&checkpoints)),
    }
    match &args.output {
        Some(place) => ends.extend(output::compare(place, &program, &checkpoints).await?),
        None => ends.extend(compare::slots(&checkpoints)),
    }
    let print = if args.json { compare::print_json } else { compare::print_text };
    print(&checkpoints, &ends)?;
    let differs = ends.iter().any(|end| matches!(end.comparison, Comparison::Differs { .. }));
    Ok(if differs { Finding::Something } else { Finding::Nothing })
}

/// Compares each split with all checkpoints that have it.
async fn of_input(input: &Input, program: &Program, checkpoints: &[EndSums], since_oldest: bool) -> Result<Vec<End>> {
    let mut splits: BTreeMap<&SplitId, (Vec<Epoch>, Vec<StoredSplit>)> = BTreeMap::new();
    for checkpoint in checkpoints {
        for SplitSum { split, .. } in &checkpoint.splits {
            let (epochs, stored) = splits.entry(&split.id).or_default();
            epochs.push(checkpoint.epoch);
            stored.push(split.clone());
        }
    }
    let mut ends = Vec::new();
    for (id, (epochs, stored)) in splits {
        let recounted = recount(input, program, &stored, since_oldest).await?;
        let mut end = End::new("input", id.to_string());
        for ((epoch, split), recounted) in epochs.into_iter().zip(stored).zip(recounted) {
            end.compare(epoch, (split.records, recounted.found.records), recounted.is_same);
        }
        ends.push(end);
    }
    Ok(ends)
}
