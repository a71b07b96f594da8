//! `alluvium sweep`.

use serde_json::{Value, json};

use alluvium::internals::checkpoint::sweep::{SweepPlan, Tally};
use alluvium::internals::store::Key;
use alluvium::offline::{Foreign, foreign, policy, preview, sweep};
use alluvium::{Error, Result};

use super::super::{Finding, print};
use super::place::JobArgs;
use super::text::{Table, foreign_text, size};

#[derive(Debug, clap::Args)]
pub(in super::super) struct Args {
    #[command(flatten)]
    job: JobArgs,
    /// Keep this many of the newest checkpoints, and all savepoints [default: all live ones]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..), value_name = "N")]
    retain: Option<u32>,
    /// Delete nothing [default]
    #[arg(long, conflicts_with = "delete")]
    dry_run: bool,
    /// Delete. Claims the job first, which stops a running job
    #[arg(long)]
    delete: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: Args) -> Result<Finding> {
    let (store, chain) = args.job.open().await?;
    if !args.delete {
        let plan = preview(&store, policy(&chain, args.retain)).await?;
        let foreign = foreign(&store).await?;
        show(&args, &plan, &foreign, json!({ "deleted": 0 }), "nothing was deleted: add --delete\n")?;
        return Ok(Finding::Nothing);
    }
    print::note("claiming the job: an attempt that runs it now stops with error[fenced]\n")?;
    let Some((attempt, plan, swept)) = sweep(&store, &chain, args.retain).await? else {
        return Ok(Finding::Nothing);
    };
    let done = json!({ "deleted": swept.deleted.len(), "failed": swept.failed.len(), "attempt": attempt.0 });
    let foreign = foreign(&store).await?;
    let note = format!("deleted {} objects as attempt {attempt}\n", swept.deleted.len());
    show(&args, &plan, &foreign, done, &note)?;
    match swept.failed.into_iter().next() {
        None => Ok(Finding::Nothing),
        Some((key, error)) => {
            let kind = error.kind();
            Err(Error::new(kind, "some objects could not be deleted: sweep again")
                .with("object", key)
                .with_source(error))
        }
    }
}

fn show(args: &Args, plan: &SweepPlan, foreign: &Foreign, outcome: Value, note: &str) -> Result<()> {
    if args.json {
        return print::json(&document(plan, foreign, outcome));
    }
    let verb = if args.delete { "dropped" } else { "would drop" };
    print::out(&(text(plan, foreign, verb) + note))
}

fn tally(entries: &[(Key, u64)]) -> Tally {
    let bytes = entries.iter().fold(0u64, |sum, (_, bytes)| sum.saturating_add(*bytes));
    Tally { objects: entries.len() as u64, bytes }
}

fn document(plan: &SweepPlan, foreign: &Foreign, outcome: Value) -> Value {
    let figures = |tally: Tally| json!({ "objects": tally.objects, "bytes": tally.bytes });
    let keys: Vec<_> =
        plan.deletable.iter().map(|(key, bytes)| json!({ "object": key.to_string(), "bytes": bytes })).collect();
    let dropped: Vec<_> =
        plan.dropped.iter().map(|dropped| json!({ "id": dropped.id.0, "epoch": dropped.epoch.0 })).collect();
    json!({
        "newest": plan.newest.map(|seq| seq.0),
        "live": figures(plan.live),
        "in_flight": figures(tally(&plan.in_flight)),
        "signposts": figures(tally(&plan.signposts)),
        "deletable": figures(tally(&plan.deletable)),
        "deletable_objects": keys,
        "dropped_checkpoints": dropped,
        "foreign": foreign.count,
        "foreign_names": foreign.names,
        "outcome": outcome,
    })
}

fn text(plan: &SweepPlan, foreign: &Foreign, verb: &str) -> String {
    let mut table = Table::new(["what", "objects", "bytes", "meaning"]);
    let mut row = |what: &str, tally: Tally, meaning: &str| {
        table.row([what.to_owned(), tally.objects.to_string(), size(tally.bytes), meaning.to_owned()]);
    };
    row("live", plan.live, "reached by the newest manifest or one that it lists");
    row("in flight", tally(&plan.in_flight), "unreferenced, of an attempt that may still commit");
    row("signposts", tally(&plan.signposts), "void manifests that lead to the end of the chain");
    row("deletable", tally(&plan.deletable), "unreferenced, and no commit can refer to it any more");
    let mut text = table.print("");
    for dropped in &plan.dropped {
        text.push_str(&format!("{verb} checkpoint {} of epoch {}\n", dropped.id, dropped.epoch));
    }
    for (key, bytes) in &plan.deletable {
        text.push_str(&format!("deletable {key} {}\n", size(*bytes)));
    }
    text + &foreign_text(foreign)
}
