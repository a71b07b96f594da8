//! `alluvium list`.

use serde_json::{Value, json};

use alluvium::manifest::ManifestKind;
use alluvium::offline::{self, Listed, Summary};
use alluvium::{Access, ErrorKind, JobName, ManifestLog, Result, Seq};

use super::super::{Finding, print};
use super::place::{JobArgs, StoreArgs};
use super::text::{Table, size, time};

#[derive(Debug, clap::Args)]
pub(in super::super) struct Args {
    #[command(flatten)]
    store: StoreArgs,
    /// Name of the job within the store [default: all]
    #[arg(long, short, value_name = "NAME")]
    job: Option<String>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// A job's name and its listing, or the error that prevents one.
type Found = (String, Result<Listed>);

pub(super) async fn run(args: Args) -> Result<Finding> {
    let found = match &args.job {
        Some(job) => {
            let job = JobArgs { store: args.store.clone(), job: job.clone() };
            let (store, chain) = job.open().await?;
            vec![(job.job, Ok(offline::list(&store, &chain).await?))]
        }
        None => all(&args.store).await?,
    };
    if args.json {
        let jobs: Vec<_> = found.iter().map(job_json).collect();
        print::json(&json!({ "jobs": jobs }))?;
    } else {
        print::out(&found.iter().map(job_text).collect::<String>())?;
    }
    Ok(Finding::Nothing)
}

/// Lists every job; a damaged, unsupported or denied job does not hide the others.
async fn all(args: &StoreArgs) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    for name in args.jobs().await? {
        let listed = match list_job(args, &name).await {
            Ok(None) => continue,
            Ok(Some(listed)) => Ok(listed),
            Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Version | ErrorKind::Denied) => {
                Err(error)
            }
            Err(error) => return Err(error),
        };
        found.push((name.to_string(), listed));
    }
    Ok(found)
}

/// Lists a job; `None` if the folder of that name holds no manifest.
async fn list_job(args: &StoreArgs, name: &JobName) -> Result<Option<Listed>> {
    let store = args.open(name, Access::Read)?;
    let chain = ManifestLog::load(&store).await?;
    if chain.end() == Seq(0) {
        return Ok(None);
    }
    offline::list(&store, &chain).await.map(Some)
}

fn job_json((name, listed): &Found) -> Value {
    match listed {
        Ok(Listed { checkpoints, damaged, .. }) => json!({
            "name": name,
            "checkpoints": checkpoints.iter().map(summary).collect::<Vec<_>>(),
            "damaged": damaged.iter().map(|(id, error)| json!({ "id": id.0, "error": error.chain() })).collect::<Vec<_>>(),
        }),
        Err(error) => json!({ "name": name, "checkpoints": [], "error": error.chain() }),
    }
}

/// Returns a checkpoint's figures as JSON.
pub(super) fn summary(summary: &Summary) -> Value {
    json!({
        "id": summary.id.0,
        "kind": kind(summary.kind),
        "attempt": summary.attempt.0,
        "epoch": summary.epoch.0,
        "parallelism": summary.parallelism,
        "max_parallelism": summary.max_parallelism,
        "created_at": time(summary.created_at),
        "new_bytes": summary.new_bytes,
        "total_bytes": summary.total_bytes,
        "records": summary.records,
    })
}

/// Returns a manifest kind's name.
pub(super) fn kind(kind: ManifestKind) -> &'static str {
    match kind {
        ManifestKind::Savepoint => "savepoint",
        ManifestKind::Claim => "claim",
        _ => "checkpoint",
    }
}

fn job_text((name, listed): &Found) -> String {
    let listed = match listed {
        Ok(listed) => listed,
        Err(error) => return format!("{name}\n  unreadable: {}\n", error.chain()),
    };
    let mut text = format!("{name}\n");
    if listed.checkpoints.is_empty() {
        text.push_str("  no checkpoints\n");
    } else {
        let headings = [
            "id",
            "kind",
            "created",
            "attempt",
            "epoch",
            "parallelism",
            "new bytes",
            "total bytes",
            "records (at most)",
        ];
        let mut table = Table::new(headings);
        for summary in &listed.checkpoints {
            table.row([
                summary.id.to_string(),
                kind(summary.kind).to_owned(),
                time(summary.created_at),
                summary.attempt.to_string(),
                summary.epoch.to_string(),
                format!("{} of {}", summary.parallelism, summary.max_parallelism),
                size(summary.new_bytes),
                size(summary.total_bytes),
                summary.records.to_string(),
            ]);
        }
        text.push_str(&table.print("  "));
    }
    for (id, error) in &listed.damaged {
        text.push_str(&format!("  {id} is damaged: {}\n", error.chain()));
    }
    text
}
