//! `alluvium savepoint` and `alluvium restore`: a self-contained copy in another store.

use serde_json::json;

use alluvium::offline::{self, RestoreOptions};
use alluvium::{ManifestId, Result, Seq};

use super::super::{Finding, print};
use super::place::{CheckpointArgs, Groups, progress_bar, watch};

#[derive(Debug, clap::Args)]
pub(in super::super) struct SavepointArgs {
    #[command(flatten)]
    at: CheckpointArgs,
    /// Store to copy the checkpoint to, under the same job name
    #[arg(long, value_name = "URL")]
    to: String,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(in super::super) struct RestoreArgs {
    #[command(flatten)]
    at: CheckpointArgs,
    /// Store to restore into, under the same job name
    #[arg(long, value_name = "URL")]
    to: String,
    /// Subtasks of each operator with keyed state [default: unchanged]
    #[arg(long, short, value_name = "P")]
    parallelism: Option<u32>,
    /// Copy the rows of these key groups only; all other key groups are empty
    #[arg(long, value_name = "A..B")]
    key_groups: Option<Groups>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub(super) async fn savepoint(args: SavepointArgs) -> Result<Finding> {
    let (store, mut chain) = args.at.job.open().await?;
    offline::find(&store, &mut chain, args.at.id()).await?;
    let to = args.at.job.elsewhere(&args.to)?;
    let bar = progress_bar();
    let (from, copy) = offline::savepoint_of(&store, &mut chain, args.at.id(), &to, &watch(&bar)).await?;
    bar.finish_and_clear();
    report(&args.at, from, &args.to, copy, to.requests().put_bytes, args.json)
}

pub(super) async fn restore(args: RestoreArgs) -> Result<Finding> {
    let (store, mut chain) = args.at.job.open().await?;
    let found = offline::find(&store, &mut chain, args.at.id()).await?;
    let max_parallelism = found.manifest.max_parallelism;
    let groups = args.key_groups.map(|groups| Groups::of(Some(groups), max_parallelism)).transpose()?;
    let options = RestoreOptions::default().with(|it| {
        it.parallelism = args.parallelism;
        it.groups = groups;
    });
    let to = args.at.job.elsewhere(&args.to)?;
    let bar = progress_bar();
    let (from, copy) = offline::restore_of(&store, &mut chain, args.at.id(), &to, &options, &watch(&bar)).await?;
    bar.finish_and_clear();
    report(&args.at, from, &args.to, copy, to.requests().put_bytes, args.json)
}

fn report(at: &CheckpointArgs, from: Seq, url: &str, copy: ManifestId, bytes: u64, as_json: bool) -> Result<Finding> {
    let job = &at.job.job;
    if as_json {
        print::json(&json!({ "job": job, "checkpoint": from.0, "to": url, "id": copy.seq.0, "bytes": bytes }))?;
    } else {
        let bytes = super::text::size(bytes);
        print::out(&format!("wrote checkpoint {from} of {job} to {url} as {}, {bytes}\n", copy.seq))?;
    }
    Ok(Finding::Nothing)
}
