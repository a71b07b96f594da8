//! `alluvium inspect`.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value, json};

use alluvium::backend::{GroupHeat, SegmentKind};
use alluvium::internals::checkpoint::restore;
use alluvium::internals::store::Key;
use alluvium::manifest::{Manifest, SegmentRef, StateKind};
use alluvium::offline::{self, Depth, Inspection, OperatorInspection, TableInspection};
use alluvium::{KeyGroupSet, ManifestLog, Opaque, OpaqueContent, OpaqueRole, OperatorId, Result, Store, Subtask};

use super::super::{Finding, print};
use super::list::summary;
use super::load_order::{load_order_json, load_order_text};
use super::place::CheckpointArgs;
use super::text::{Table, size, time};
use alluvium_bench::clock;

/// Ranged reads that a restore has in flight.
const CONCURRENT_READS: u32 = 8;

/// Longest timed read.
const TIMED_BYTES: u64 = 4 << 20;

#[derive(Debug, clap::Args)]
pub(in super::super) struct Args {
    #[command(flatten)]
    at: CheckpointArgs,
    /// Read the manifest only: no figures per table, and upper bounds for restore reads
    #[arg(long)]
    fast: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: Args) -> Result<Finding> {
    let depth = if args.fast { Depth::Manifest } else { Depth::Rows };
    let read = args.at.read(async |store, chain, checkpoint| inspect(store, chain, &checkpoint.manifest, depth).await);
    let (manifest, inspection, estimate) = read.await?;
    if args.json {
        print::json(&document(&manifest, &inspection, estimate))?;
    } else {
        print::out(&text(&manifest, &inspection, estimate))?;
    }
    Ok(Finding::Nothing)
}

async fn inspect(
    store: &Store,
    chain: &ManifestLog,
    manifest: &Manifest,
    depth: Depth,
) -> Result<(Manifest, Inspection, Option<Estimate>)> {
    let parent = manifest.parent.and_then(|id| chain.live().into_iter().find(|entry| entry.id == id));
    let parent = match parent {
        Some(parent) => chain.read(store, &parent).await.ok(),
        None => None,
    };
    let parent = parent.as_ref().map(|parent| &parent.manifest);
    let inspection = offline::inspect(store, manifest, parent, depth).await?;
    let estimate = estimate(store, &inspection).await?;
    Ok((manifest.clone(), inspection, estimate))
}

/// Estimated time of a restore, from two reads timed here.
#[derive(Debug, Clone, Copy)]
struct Estimate {
    latency: Duration,
    bytes_per_s: f64,
    total: Duration,
}

/// Times a read of one byte and one of up to 4 MiB. Assumes that one process here reads everything, with eight
/// requests in flight, and that decoding keeps up.
#[expect(clippy::cast_precision_loss, reason = "an estimate")]
async fn estimate(store: &Store, inspection: &Inspection) -> Result<Option<Estimate>> {
    let Some(largest) = inspection.objects.iter().max_by_key(|object| object.bytes) else { return Ok(None) };
    let timed = async |bytes: u64| {
        let start = clock::now();
        store
            .folder()
            .read_range(&Key::Data(largest.id), 0..bytes.min(largest.bytes))
            .await
            .map_err(restore::missing)?;
        Ok::<_, alluvium::Error>(start.elapsed())
    };
    // The first read opens the connection.
    timed(1).await?;
    let (latency, large) = (timed(1).await?, timed(TIMED_BYTES).await?);
    let transfer = large.saturating_sub(latency).max(Duration::from_micros(1));
    let bytes_per_s = largest.bytes.min(TIMED_BYTES) as f64 / transfer.as_secs_f64();
    let rounds = inspection.restore.requests.div_ceil(u64::from(CONCURRENT_READS));
    let seconds = latency.as_secs_f64() * rounds as f64 + inspection.restore.bytes as f64 / bytes_per_s;
    let total = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
    Ok(Some(Estimate { latency, bytes_per_s, total }))
}

const ASSUMPTION: &str = "one process here reads everything, 8 requests at a time; decoding keeps up";

fn document(manifest: &Manifest, inspection: &Inspection, estimate: Option<Estimate>) -> Value {
    let milliseconds = |duration: Duration| duration.as_secs_f64() * 1000.0;
    let objects = inspection.objects.iter().map(
        |object| json!({ "object": object.id.to_string(), "bytes": object.bytes, "used_bytes": object.used_bytes }),
    );
    json!({
        "checkpoint": summary(&inspection.summary),
        "job": manifest.job.to_string(),
        "writer": manifest.writer,
        "parent": manifest.parent.map(|parent| parent.seq.0),
        "partitioner": manifest.partitioner.name(),
        "operators": inspection.operators.iter().map(|o| operator_json(o, inspection)).collect::<Vec<_>>(),
        "objects": objects.collect::<Vec<_>>(),
        "opaques": inspection.opaques.iter().map(opaque_json).collect::<Vec<_>>(),
        "restore": {
            "bytes": inspection.restore.bytes,
            "requests": inspection.restore.requests,
            "exact": inspection.restore.exact,
            "estimate": estimate.map(|estimate| json!({
                "ms": milliseconds(estimate.total),
                "latency_ms": milliseconds(estimate.latency),
                "bytes_per_s": estimate.bytes_per_s.round(),
                "assumes": ASSUMPTION,
            })),
        },
    })
}

fn operator_json(operator: &OperatorInspection, inspection: &Inspection) -> Value {
    let segments = operator.segments.iter().map(|segment| {
        json!({
            "id": segment.id.to_string(),
            "kind": segment_kind(segment.kind),
            "first_epoch": segment.first_epoch.0,
            "epoch": segment.id.epoch.0,
            "age_epochs": age(segment, inspection),
            "key_groups": segment.groups.to_string(),
            "object": segment.object.to_string(),
            "offset": segment.offset,
            "bytes": segment.length,
            "records": segment.records,
        })
    });
    let (longest, mean) = chain_lengths(operator);
    json!({
        "id": operator.id.0,
        "name": operator.name,
        "parallelism": operator.parallelism,
        "tables": operator.tables.iter().map(table_json).collect::<Vec<_>>(),
        "segments": segments.collect::<Vec<_>>(),
        "chain": { "max": longest, "mean": mean },
        "load_order": load_order_json(&operator.load_order),
        "heat": operator.heat.iter().map(heat_json).collect::<Vec<_>>(),
        "statistics": operator.statistics.iter().map(|s| (s.name.clone(), json!(s.value))).collect::<Map<_, _>>(),
    })
}

fn heat_json(heat: &GroupHeat) -> Value {
    json!({
        "key_group": heat.group.0,
        "rows": heat.rows,
        "live_bytes": heat.live_bytes,
        "dirty_rows": heat.dirty_rows,
        "reads": heat.reads,
        "writes": heat.writes,
    })
}

fn table_json(table: &TableInspection) -> Value {
    let schema = table.schema.as_ref();
    let typed = |pick: fn(&alluvium::manifest::TableSchema) -> &alluvium::Schema| {
        schema.map(pick).map(|part| json!({ "name": part.name, "version": part.version }))
    };
    let mut document = json!({
        "id": table.id.0,
        "name": table.name,
        "kind": schema.map(|schema| state_kind(schema.kind)),
        "key": typed(|schema| &schema.key),
        "namespace": typed(|schema| &schema.namespace),
        "sub": typed(|schema| &schema.sub),
        "value": typed(|schema| &schema.value),
        "ttl_ms": schema.and_then(|schema| schema.ttl).map(|ttl| ttl.millis),
        "merge_operator": schema.and_then(|schema| schema.merge_operator.as_ref()),
    });
    if let (Some(map), false) = (document.as_object_mut(), table.groups.is_empty()) {
        let total = table.total();
        map.insert("records".into(), total.records.into());
        map.insert("bytes".into(), total.bytes.into());
        map.insert("skew".into(), skew(table).into());
        let records: Vec<_> = table.groups.iter().map(|extent| extent.records).collect();
        let bytes: Vec<_> = table.groups.iter().map(|extent| extent.bytes).collect();
        map.insert("key_groups".into(), json!({ "records": records, "bytes": bytes }));
    }
    document
}

/// Returns the bytes of the largest key group over the mean.
#[expect(clippy::cast_precision_loss, reason = "a displayed ratio")]
fn skew(table: &TableInspection) -> f64 {
    let largest = table.groups.iter().map(|extent| extent.bytes).max().unwrap_or(0);
    let mean = table.total().bytes as f64 / table.groups.len().max(1) as f64;
    if mean > 0.0 { largest as f64 / mean } else { 1.0 }
}

#[expect(clippy::cast_precision_loss, reason = "a displayed mean")]
fn chain_lengths(operator: &OperatorInspection) -> (usize, f64) {
    let longest = operator.chains.iter().copied().max().unwrap_or(0);
    (longest, operator.chains.iter().sum::<usize>() as f64 / operator.chains.len().max(1) as f64)
}

fn age(segment: &SegmentRef, inspection: &Inspection) -> u64 {
    inspection.summary.epoch.0.saturating_sub(segment.id.epoch.0)
}

const fn segment_kind(kind: SegmentKind) -> &'static str {
    match kind {
        SegmentKind::Base => "base",
        SegmentKind::Delta => "delta",
        _ => "foreign",
    }
}

const fn state_kind(kind: StateKind) -> &'static str {
    match kind {
        StateKind::Value => "value",
        StateKind::List => "list",
        StateKind::Map => "map",
        StateKind::Reducing => "reducing",
        StateKind::Aggregating => "aggregating",
        StateKind::Timers => "timers",
        _ => "unknown",
    }
}

const fn role(role: OpaqueRole) -> &'static str {
    match role {
        OpaqueRole::Source => "source",
        OpaqueRole::Operator => "operator",
        OpaqueRole::InFlight => "in_flight",
        OpaqueRole::SinkPrepared => "sink_prepared",
        OpaqueRole::SinkSums => "sink_sums",
        _ => "unknown",
    }
}

/// Returns an opaque's content: a source's or operator's JSON unchanged, else length and hash.
fn content(opaque: &Opaque) -> Value {
    let OpaqueContent::Inline(bytes) = &opaque.content else { return Value::Null };
    let readable = matches!(opaque.role, OpaqueRole::Source | OpaqueRole::Operator);
    let parsed = readable.then(|| serde_json::from_slice(bytes).ok()).flatten();
    parsed.unwrap_or_else(|| json!({ "bytes": bytes.len(), "blake3": alluvium::manifest::Hash::of(bytes).to_string() }))
}

fn opaque_json((operator, subtask, opaque): &(OperatorId, Subtask, Opaque)) -> Value {
    json!({
        "operator": operator.0,
        "subtask": subtask.0,
        "role": role(opaque.role),
        "name": opaque.name,
        "content": content(opaque),
    })
}

fn text(manifest: &Manifest, inspection: &Inspection, estimate: Option<Estimate>) -> String {
    let summary = &inspection.summary;
    let mut text = format!(
        "checkpoint {} of epoch {}, attempt {}, written {} by {}\n{} key groups, partitioner {}; {} new, {} in all\n",
        summary.id,
        summary.epoch,
        summary.attempt,
        time(summary.created_at),
        manifest.writer,
        summary.max_parallelism,
        manifest.partitioner.name(),
        size(summary.new_bytes),
        size(summary.total_bytes),
    );
    for operator in &inspection.operators {
        text.push_str(&operator_text(operator, inspection));
    }
    text.push_str("\nobjects\n");
    let mut table = Table::new(["object", "bytes", "used"]);
    for object in &inspection.objects {
        table.row([object.id.to_string(), size(object.bytes), size(object.used_bytes)]);
    }
    text.push_str(&table.print("  "));
    if !inspection.opaques.is_empty() {
        text.push_str("\npositions and other state\n");
        let mut table = Table::new(["operator", "subtask", "role", "name", "content"]);
        for (operator, subtask, opaque) in &inspection.opaques {
            let head = [operator.to_string(), subtask.to_string(), role(opaque.role).to_owned(), opaque.name.clone()];
            let [operator, subtask, role, name] = head;
            table.row([operator, subtask, role, name, content(opaque).to_string()]);
        }
        text.push_str(&table.print("  "));
    }
    text.push_str(&restore_text(inspection, estimate));
    text
}

fn operator_text(operator: &OperatorInspection, inspection: &Inspection) -> String {
    let (longest, mean) = chain_lengths(operator);
    let mut text = format!("\noperator {} `{}`: parallelism {}", operator.id, operator.name, operator.parallelism);
    if longest > 0 {
        text.push_str(&format!("; a key group has {mean:.1} segments on average, at most {longest}"));
    }
    text.push('\n');
    let mut tables = Table::new(["table", "kind", "key", "namespace", "sub", "value", "rows", "bytes", "skew"]);
    for table in &operator.tables {
        let part = |pick: fn(&alluvium::manifest::TableSchema) -> &alluvium::Schema| {
            table.schema.as_ref().map_or_else(
                || "?".to_owned(),
                |schema| {
                    let part = pick(schema);
                    if part.version == 1 { part.name.clone() } else { format!("{} v{}", part.name, part.version) }
                },
            )
        };
        let known = !table.groups.is_empty();
        let figure = |text: String| if known { text } else { "-".to_owned() };
        tables.row([
            table.name.clone(),
            table.schema.as_ref().map_or("unknown", |schema| state_kind(schema.kind)).to_owned(),
            part(|schema| &schema.key),
            part(|schema| &schema.namespace),
            part(|schema| &schema.sub),
            part(|schema| &schema.value),
            figure(table.total().records.to_string()),
            figure(size(table.total().bytes)),
            figure(format!("{:.2}", skew(table))),
        ]);
    }
    text.push_str(&tables.print("  "));
    operator.tables.iter().filter(|table| !table.groups.is_empty()).for_each(|table| text.push_str(&histogram(table)));
    text.push_str(&load_order_text(&operator.load_order));
    text.push_str(&heat_text(operator));
    text.push_str(&statistics_text(operator));
    text.push_str(&segments_text(operator, inspection));
    text
}

/// Returns the hottest key groups, by recent writes.
fn heat_text(operator: &OperatorInspection) -> String {
    const SHOWN: usize = 5;
    if operator.heat.is_empty() {
        return String::new();
    }
    let mut hottest: Vec<_> = operator.heat.iter().collect();
    hottest.sort_by_key(|heat| std::cmp::Reverse((heat.writes, heat.reads)));
    let mut text = format!("  hottest of {} key groups that changed in this epoch\n", operator.heat.len());
    let mut table = Table::new(["key group", "writes of late", "reads of late", "rows changed", "rows", "bytes"]);
    for heat in hottest.into_iter().take(SHOWN) {
        table.row([
            heat.group.to_string(),
            heat.writes.to_string(),
            heat.reads.to_string(),
            heat.dirty_rows.to_string(),
            heat.rows.to_string(),
            size(heat.live_bytes),
        ]);
    }
    text.push_str(&table.print("    "));
    text
}

/// Returns the statistics reported by the backends, or the engines below them.
fn statistics_text(operator: &OperatorInspection) -> String {
    if operator.statistics.is_empty() {
        return String::new();
    }
    let mut table = Table::new(["statistic", "value"]);
    for statistic in &operator.statistics {
        let bytes = statistic.name.ends_with("_bytes");
        let value = if bytes { size(statistic.value) } else { statistic.value.to_string() };
        table.row([statistic.name.clone(), value]);
    }
    format!("  its subtasks' backends, in all, before this checkpoint\n{}", table.print("    "))
}

/// Returns a histogram of key groups by rows, one line per bin.
fn histogram(table: &TableInspection) -> String {
    let mut bins: BTreeMap<u64, usize> = BTreeMap::new();
    for extent in &table.groups {
        // Bins double: 0, 1, 2..4, 4..8, and so on.
        let bin = extent.records.checked_ilog2().map_or(0, |log| 1u64 << log);
        *bins.entry(bin).or_default() += 1;
    }
    let mut lines = Table::new(["rows in key group", "key groups"]);
    for (bin, groups) in bins {
        let label = if bin < 2 { bin.to_string() } else { format!("{bin}..{}", bin.saturating_mul(2)) };
        lines.row([label, groups.to_string()]);
    }
    format!("  {}\n{}", table.name, lines.print("    "))
}

fn segments_text(operator: &OperatorInspection, inspection: &Inspection) -> String {
    let mut classes: BTreeMap<(SegmentKind, u64), (u64, u64, u64, KeyGroupSet)> = BTreeMap::new();
    for segment in &operator.segments {
        let class = classes.entry((segment.kind, age(segment, inspection))).or_default();
        class.0 += 1;
        class.1 = class.1.saturating_add(segment.length);
        class.2 = class.2.saturating_add(segment.records);
        class.3 = class.3.union(&segment.groups);
    }
    let mut table = Table::new(["segments", "kind", "age (epochs)", "bytes", "records", "key groups"]);
    for ((kind, age), (count, bytes, records, groups)) in classes {
        let groups = groups.len().to_string();
        table.row([
            count.to_string(),
            segment_kind(kind).to_owned(),
            age.to_string(),
            size(bytes),
            records.to_string(),
            groups,
        ]);
    }
    table.print("  ")
}

fn restore_text(inspection: &Inspection, estimate: Option<Estimate>) -> String {
    let cost = inspection.restore;
    let bound = if cost.exact { "" } else { "at most " };
    let mut text = format!("\na restore reads {bound}{} in {bound}{} requests", size(cost.bytes), cost.requests);
    if let Some(estimate) = estimate {
        text.push_str(&format!(
            ": about {:.1?}, if {ASSUMPTION} (measured now: {:.1?} a request, then {:.1} MB/s)",
            estimate.total,
            estimate.latency,
            estimate.bytes_per_s / 1e6,
        ));
    }
    text.push('\n');
    text
}
