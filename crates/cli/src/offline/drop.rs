//! `alluvium drop`: drops savepoints and checkpoints by id.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use alluvium::internals::checkpoint::sweep::Tally;
use alluvium::manifest::ManifestKind;
use alluvium::offline::{drop_savepoints, preview_drop};
use alluvium::{Error, ManifestLog, Result, Seq};

use super::super::{Finding, print};
use super::place::JobArgs;
use super::text::size;

#[derive(Debug, clap::Args)]
pub(in super::super) struct Args {
    #[command(flatten)]
    job: JobArgs,
    /// Id of a savepoint or checkpoint; may be repeated
    #[arg(long = "savepoint", visible_alias = "checkpoint", required = true, value_name = "ID")]
    savepoints: Vec<u64>,
    /// Drop nothing [default]
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
    /// Drop them. Claims the job first, which stops a running job
    #[arg(long)]
    yes: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: Args) -> Result<Finding> {
    let (store, chain) = args.job.open().await?;
    let ids: BTreeSet<Seq> = args.savepoints.iter().copied().map(Seq).collect();
    let named = named(&chain, &ids);
    if !args.yes {
        let plan = preview_drop(&store, &chain, &ids).await?;
        let text = format!("would drop {}: add --yes\n", listed(&named));
        show(&args, &named, "deletable", plan.deletable_tally(), json!({ "dropped": false }), &text)?;
        return Ok(Finding::Nothing);
    }
    print::note("claiming the job: an attempt that runs it now stops with error[fenced]\n")?;
    let dropped = drop_savepoints(&store, &chain, &ids).await?;
    let text = format!("dropped {} as attempt {}\n", listed(&named), dropped.attempt);
    let (freed, failed) = match dropped.swept {
        Ok((plan, swept)) => {
            let deleted: BTreeSet<_> = swept.deleted.iter().collect();
            let freed = plan.deletable.iter().filter(|(key, _)| deleted.contains(key));
            let freed = freed.fold(Tally::default(), |sum, (_, bytes)| Tally {
                objects: sum.objects.saturating_add(1),
                bytes: sum.bytes.saturating_add(*bytes),
            });
            let failed = swept.failed.into_iter().next();
            (freed, failed.map(|(key, error)| error.with("object", key)))
        }
        Err(error) => (Tally::default(), Some(error)),
    };
    let outcome = json!({ "dropped": true, "attempt": dropped.attempt.0 });
    show(&args, &named, "deleted", freed, outcome, &text)?;
    match failed {
        None => Ok(Finding::Nothing),
        Some(error) => {
            let dropped = "dropped, but some unreachable objects could not be deleted: sweep later";
            Err(Error::new(error.kind(), dropped).with_source(error))
        }
    }
}

/// Returns the live ids, with their kinds.
fn named(chain: &ManifestLog, ids: &BTreeSet<Seq>) -> Vec<(Seq, &'static str)> {
    let live = chain.restorable().into_iter().filter(|entry| ids.contains(&entry.id.seq));
    live.map(|entry| {
        let kind = if entry.kind == ManifestKind::Savepoint { "savepoint" } else { "checkpoint" };
        (entry.id.seq, kind)
    })
    .collect()
}

fn listed(named: &[(Seq, &str)]) -> String {
    named.iter().map(|(seq, kind)| format!("{kind} {seq}")).collect::<Vec<_>>().join(", ")
}

fn show(args: &Args, named: &[(Seq, &str)], label: &str, tally: Tally, mut outcome: Value, note: &str) -> Result<()> {
    if args.json {
        if let Some(document) = outcome.as_object_mut() {
            let ids = named.iter().map(|(seq, kind)| json!({ "id": seq.0, "kind": kind }));
            document.insert("checkpoints".into(), ids.collect());
            document.insert(label.into(), json!({ "objects": tally.objects, "bytes": tally.bytes }));
        }
        return print::json(&outcome);
    }
    print::out(&format!("{label}: {} objects, {}\n{note}", tally.objects, size(tally.bytes)))
}
