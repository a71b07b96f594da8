//! `alluvium verify`.

use clap::ValueEnum;
use serde_json::json;

use alluvium::offline::{self, Damage, Report};
use alluvium::{Result, Seq};

use super::super::{Finding, print};
use super::place::{JobArgs, progress_bar, watch};
use super::text::{Table, foreign_text, size};

#[derive(Debug, clap::Args)]
pub(in super::super) struct Args {
    #[command(flatten)]
    job: JobArgs,
    /// How much to check
    #[arg(long, value_enum, default_value_t = Level::Full)]
    level: Level,
    /// Seed that chooses the blocks of --level sampled
    #[arg(long, default_value_t = 0, value_name = "S")]
    seed: u64,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Level {
    /// Markers and manifests in full; existence and length of data objects
    Manifest,
    /// Also each segment's index and one of its blocks
    Sampled,
    /// Every byte of every reachable object, and every rule of rows
    Full,
}

pub(super) async fn run(args: Args) -> Result<Finding> {
    let (store, chain) = args.job.open().await?;
    let level = match args.level {
        Level::Manifest => offline::VerifyLevel::Manifest,
        Level::Sampled => offline::VerifyLevel::Sampled { seed: args.seed },
        Level::Full => offline::VerifyLevel::Full,
    };
    let foreign = offline::foreign(&store).await?;
    let bar = progress_bar();
    let report = offline::verify(&store, &chain, level, &watch(&bar)).await?;
    bar.finish_and_clear();
    if args.json {
        print::json(&json!({
            "objects": report.objects,
            "bytes": report.bytes,
            "damaged": report.damaged.iter().map(damage_json).collect::<Vec<_>>(),
            "restorable": ids(&report.restorable),
            "foreign": foreign.count,
            "foreign_names": foreign.names,
        }))?;
    } else {
        print::out(&(text(&report) + &foreign_text(&foreign)))?;
    }
    Ok(if report.damaged.is_empty() { Finding::Nothing } else { Finding::Something })
}

fn ids<'a>(seqs: impl IntoIterator<Item = &'a Seq>) -> Vec<u64> {
    seqs.into_iter().map(|seq| seq.0).collect()
}

fn damage_json(damage: &Damage) -> serde_json::Value {
    json!({
        "object": damage.object,
        "offset": damage.offset,
        "kind": damage.kind.name(),
        "checkpoints": ids(&damage.checkpoints),
        "detail": damage.detail,
    })
}

fn text(report: &Report) -> String {
    let listed = |seqs: Vec<u64>| match seqs.as_slice() {
        [] => "none".to_owned(),
        seqs => seqs.iter().map(u64::to_string).collect::<Vec<_>>().join(", "),
    };
    let mut text = String::new();
    if !report.damaged.is_empty() {
        let mut table = Table::new(["object", "offset", "kind", "checkpoints", "detail"]);
        for damage in &report.damaged {
            table.row([
                damage.object.clone(),
                damage.offset.to_string(),
                damage.kind.name().to_owned(),
                listed(ids(&damage.checkpoints)),
                damage.detail.clone(),
            ]);
        }
        text.push_str(&table.print(""));
    }
    text.push_str(&format!(
        "looked at {} objects, {}: {} damaged; restorable checkpoints: {}\n",
        report.objects,
        size(report.bytes),
        report.damaged.len(),
        listed(ids(&report.restorable)),
    ));
    text
}
