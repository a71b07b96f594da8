//! `alluvium rescale --dry-run`.

use serde_json::{Value, json};

use alluvium::Result;
use alluvium::offline::{self, ReadPlan, SubtaskReads};

use super::super::{Finding, print};
use super::place::CheckpointArgs;
use super::text::{Table, size};

#[derive(Debug, clap::Args)]
pub(in super::super) struct Args {
    #[command(flatten)]
    at: CheckpointArgs,
    /// Subtasks of each operator with keyed state
    #[arg(long, short, value_name = "P")]
    parallelism: u32,
    /// Required: the rescale itself happens at the next `alluvium run --parallelism P`
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: Args) -> Result<Finding> {
    if !args.dry_run {
        let message =
            "add --dry-run: this only shows a rescale, which happens at the next `alluvium run --parallelism P`\n";
        clap::Error::raw(clap::error::ErrorKind::MissingRequiredArgument, message).exit();
    }
    let read = args.at.read(async |store, _, checkpoint| {
        let plan = offline::read_plan(store, &checkpoint.manifest, args.parallelism).await?;
        let from = checkpoint.manifest.operators.iter().map(|operator| operator.parallelism).max();
        Ok((checkpoint.id.seq, from, plan))
    });
    let (checkpoint, from, plan) = read.await?;
    if args.json {
        print::json(&json!({
            "checkpoint": checkpoint.0,
            "from": from,
            "to": args.parallelism,
            "subtasks": plan.subtasks.iter().map(subtask_json).collect::<Vec<_>>(),
            "bytes": plan.bytes,
            "ideal_bytes": plan.ideal_bytes,
        }))?;
    } else {
        print::out(&text(&plan))?;
    }
    Ok(Finding::Nothing)
}

fn subtask_json(subtask: &SubtaskReads) -> Value {
    let objects = subtask.objects.iter().map(|(object, ranges)| {
        let ranges: Vec<_> = ranges.iter().map(|range| [range.start, range.end]).collect();
        json!({ "object": object.to_string(), "ranges": ranges })
    });
    json!({
        "operator": subtask.operator.0,
        "subtask": subtask.subtask.0,
        "key_groups": subtask.groups.to_string(),
        "objects": objects.collect::<Vec<_>>(),
        "bytes": subtask.bytes,
    })
}

fn text(plan: &ReadPlan) -> String {
    let mut table = Table::new(["operator", "subtask", "key groups", "object", "bytes", "ranges"]);
    for subtask in &plan.subtasks {
        for (object, ranges) in &subtask.objects {
            let bytes =
                ranges.iter().fold(0u64, |sum, range| sum.saturating_add(range.end.saturating_sub(range.start)));
            let ranges: Vec<_> = ranges.iter().map(|range| format!("{}..{}", range.start, range.end)).collect();
            table.row([
                subtask.operator.to_string(),
                subtask.subtask.to_string(),
                subtask.groups.to_string(),
                object.to_string(),
                size(bytes),
                ranges.join(" "),
            ]);
        }
    }
    let ideal = size(plan.ideal_bytes);
    table.print("") + &format!("reads {} in all; every segment once would be {ideal}\n", size(plan.bytes))
}
