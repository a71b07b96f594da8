//! Opens the job and its input.

use alluvium::manifest::Manifest;
use alluvium::source::SourceSettings;
use alluvium::{
    CheckpointPolicy, Job, JobBuilder, JobSettings, LocalCache, Opaque, OperatorId, OperatorSpec, RestoreFrom,
    RestoreMode, Result, RetentionPolicy, Seq, Store, StoredManifest, TokioRuntime,
};
use alluvium_bench::backend::Strategy;

use super::args::{Restore, RunArgs};
use super::interval::Interval;
use super::operator::Operator;
use super::program::{Emit, Program};
use super::source::{Source, SourceState};
use super::target::{FolderOutput, RemoteOutput};
use super::tiers::Tiers;

pub(super) const SOURCE: OperatorId = OperatorId(1);
pub(super) const AGGREGATE: OperatorId = OperatorId(2);
pub(super) const SINK: OperatorId = OperatorId(3);

/// Opens job and source. Checks flags and input before the claim: the claim stops a running job.
pub(super) async fn open(
    args: &RunArgs,
    program: &Program,
    tiers: &Tiers,
    folder: Option<&FolderOutput>,
    remote: Option<&RemoteOutput>,
) -> Result<(Job, Source)> {
    let from = match (args.fresh, args.checkpoint) {
        (true, _) => RestoreFrom::Fresh,
        (_, Some(id)) => RestoreFrom::Checkpoint(Seq(id)),
        _ => RestoreFrom::Newest,
    };
    let store = Store::open(&args.store, &args.job.parse()?, TokioRuntime::current())?;
    let mut store = store.with_manifest_keys(args.keys.read()?);
    if let Some(disk) = &args.disk {
        store = store.with_cache(LocalCache::open(&disk.folder, tiers.cache_bytes(disk), TokioRuntime::current())?);
    }
    let mut builder = JobBuilder::new(store)
        .settings(settings(args, tiers))
        .program(program.to_bytes()?)
        .operator(OperatorSpec::new(SOURCE, "source", 1))
        .operator(OperatorSpec::new(AGGREGATE, "aggregate", args.parallelism).keyed_by(Operator::key_schema(program)))
        .restore_from(from);
    if folder.is_some() {
        builder = builder.operator(OperatorSpec::new(SINK, "sink", 1));
    }
    builder.check()?;
    if let Some(remote) = remote {
        remote.check().await?;
    }
    if let Some(folder) = folder {
        let peeked = builder.peek().await?;
        folder.target.check_owner(peeked.as_ref().map(|peeked| peeked.newest.manifest.job))?;
    }
    let peeked = builder.peek_restored().await?;
    check_program(peeked.as_ref(), program)?;
    let source = open_source(args, program, peeked.as_ref()).await?;
    let job = builder.open().await?;
    // The job that the claim stopped may have committed once more before it.
    if job.restored().map(|stored| stored.id) == peeked.map(|stored| stored.id) {
        return Ok((job, source));
    }
    check_program(job.restored(), program)?;
    drop(source);
    let source = open_source(args, program, job.restored()).await?;
    Ok((job, source))
}

fn settings(args: &RunArgs, tiers: &Tiers) -> JobSettings {
    JobSettings::default().with(|it| {
        it.strategy = match args.strategy {
            Strategy::Full => alluvium::Strategy::Full,
            Strategy::Incremental => alluvium::Strategy::Incremental,
        };
        it.checkpoints = CheckpointPolicy::default().with(|it| {
            it.interval = match args.interval {
                Interval::Fixed(interval) => interval,
                Interval::Adaptive => CheckpointPolicy::default().interval,
            };
            it.min_pause = args.min_pause;
            it.timeout = args.checkpoint_timeout;
            it.max_in_flight = usize::try_from(args.max_in_flight).unwrap_or(usize::MAX);
        });
        it.adaptive = args.adaptive();
        it.retention = RetentionPolicy::default().with(|it| it.checkpoints = args.retain);
        it.max_parallelism = args.max_parallelism;
        it.durable_store = args.durable_store;
        it.restore = match args.restore {
            Restore::Lazy => RestoreMode::Auto,
            Restore::Eager => RestoreMode::Eager,
        };
        tiers.apply(it);
    })
}

fn check_program(restored: Option<&StoredManifest>, program: &Program) -> Result<()> {
    match restored {
        Some(stored) => Program::check(&Program::from_bytes(&stored.manifest.program.bytes)?, program),
        None => Ok(()),
    }
}

async fn open_source(args: &RunArgs, program: &Program, restored: Option<&StoredManifest>) -> Result<Source> {
    let state = restored.map(|stored| source_state(&stored.manifest)).transpose()?;
    let settings = SourceSettings::default().with(|it| {
        it.max_ahead = args.max_ahead;
        it.idle_after = args.idle_after;
        // Windows that are not published yet may get records of a later run.
        it.end_is_final = program.emit == Emit::OnClose;
    });
    Source::open(&args.input, program, settings, state).await
}

/// Returns the source's state in a checkpoint.
fn source_state(manifest: &Manifest) -> Result<SourceState> {
    let operator = manifest.operators.iter().find(|operator| operator.id == SOURCE);
    let subtasks = operator.map(|operator| operator.inline_subtasks()).transpose()?.unwrap_or_default();
    let opaques: Vec<Opaque> = subtasks.iter().flat_map(|subtask| subtask.opaques.iter().cloned()).collect();
    SourceState::from_opaques(&opaques)
}
