//! `alluvium diff`.

use serde_json::json;

use alluvium::offline::{self, ChangeKind, Diff, RowChange, RowPlace};
use alluvium::schema::Value;
use alluvium::{Error, Result, Seq};

use super::super::{Finding, print};
use super::place::JobArgs;
use super::text::Table;
use super::value::Json;

#[derive(Debug, clap::Args)]
pub(in super::super) struct Args {
    #[command(flatten)]
    job: JobArgs,
    /// Id of the older checkpoint
    #[arg(long, value_name = "ID")]
    from: u64,
    /// Id of the newer checkpoint
    #[arg(long, value_name = "ID")]
    to: u64,
    /// Also print each key that changed
    #[arg(long)]
    keys: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: Args) -> Result<Finding> {
    let (store, mut chain) = args.job.open().await?;
    let from = offline::open(&store, &mut chain, Some(Seq(args.from))).await?;
    let to = offline::open(&store, &mut chain, Some(Seq(args.to))).await?;
    // Keys are printed as they are found: they may not fit in memory.
    let mut printed = 0u64;
    if args.json {
        print::out(&format!("{{\"from\":{},\"to\":{},\"keys\":[", args.from, args.to))?;
    }
    let diff = offline::diff(&store, &from.manifest, &to.manifest, |change| {
        if !args.keys {
            return Ok(());
        }
        printed = printed.saturating_add(1);
        match (args.json, printed) {
            (true, 1) => print::out(&format!("\n{}", change_json(&change)?)),
            (true, _) => print::out(&format!(",\n{}", change_json(&change)?)),
            (false, _) => print::out(&change_text(&change)),
        }
    })
    .await?;
    if args.json {
        print::out(&format!("],\"tables\":{},\"groups\":{}}}\n", tables_json(&diff), groups_json(&diff)))?;
    } else {
        print::out(&text(&diff))?;
    }
    Ok(if diff.is_empty() { Finding::Nothing } else { Finding::Something })
}

const fn name(kind: ChangeKind) -> &'static str {
    match kind {
        ChangeKind::Added => "added",
        ChangeKind::Removed => "removed",
        ChangeKind::Changed => "changed",
    }
}

fn change_json(change: &RowChange<'_>) -> Result<String> {
    let mut map = serde_json::Map::new();
    map.insert("operator".into(), change.operator.into());
    map.insert("table".into(), change.table.into());
    map.insert("change".into(), name(change.kind).into());
    map.insert("key_group".into(), change.group.0.into());
    let head = serde_json::to_string(&map).map_err(unprintable)?;
    let mut line = head.trim_end_matches('}').to_owned();
    for (part, value) in parts(&change.place) {
        line.push_str(&format!(",\"{part}\":{}", serde_json::to_string(&Json(value)).map_err(unprintable)?));
    }
    line.push('}');
    Ok(line)
}

fn unprintable(source: serde_json::Error) -> Error {
    Error::corrupt("key has no JSON").with_source(source)
}

fn change_text(change: &RowChange<'_>) -> String {
    let sign = match change.kind {
        ChangeKind::Added => '+',
        ChangeKind::Removed => '-',
        ChangeKind::Changed => '~',
    };
    let place: Vec<_> = parts(&change.place).map(|(_, value)| value.to_string()).collect();
    format!("{sign} {}.{} {}\n", change.operator, change.table, place.join(" "))
}

/// Returns the parts of a place that are not `Unit`.
fn parts<'a>(place: &'a RowPlace<'a>) -> impl Iterator<Item = (&'static str, &'a Value<'a>)> {
    let parts = [("key", &place.key), ("namespace", &place.namespace), ("sub", &place.sub)];
    parts.into_iter().filter(|(_, value)| **value != Value::Unit)
}

fn tables_json(diff: &Diff) -> serde_json::Value {
    let table = |table: &offline::TableDiff| {
        json!({
            "operator": table.operator,
            "table": table.table,
            "added": table.added,
            "removed": table.removed,
            "changed": table.changed,
        })
    };
    diff.tables.iter().map(table).collect()
}

fn groups_json(diff: &Diff) -> serde_json::Value {
    json!({ "compared": diff.compared_groups, "same_segments": diff.same_groups })
}

fn text(diff: &Diff) -> String {
    let mut table = Table::new(["operator", "table", "added", "removed", "changed"]);
    for counts in &diff.tables {
        table.row([
            counts.operator.clone(),
            counts.table.clone(),
            counts.added.to_string(),
            counts.removed.to_string(),
            counts.changed.to_string(),
        ]);
    }
    let groups = format!(
        "compared {} key groups; {} are of the same segments on both sides\n",
        diff.compared_groups, diff.same_groups
    );
    table.print("") + &groups
}
