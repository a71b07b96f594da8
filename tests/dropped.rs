//! Dropped checkpoints: while a reader uses them, and on the user's request.

use std::collections::BTreeMap;
use std::sync::Arc;

use alluvium::offline::{self, Depth, RestoreOptions, VerifyLevel};
use alluvium::schema::Value;
use alluvium::{
    Error, ErrorKind, JobBuilder, JobSettings, KeyGroupSet, ManifestLog, Opaque, OpaqueContent, OpaqueRole,
    OperatorSpec, Redistribution, RestoreFrom, Result, RetentionPolicy, Seq, Store, StoredManifest, Strategy,
};
use alluvium_testkit::{Counting, Gate};
use bytes::Bytes;

/// Ignores progress.
fn silent(_done: u64, _total: u64) {}

async fn open(store: &Store, id: Option<Seq>) -> Result<StoredManifest> {
    offline::open(store, &mut ManifestLog::load(store).await?, id).await
}

async fn verify(store: &Store) -> Result<offline::Report> {
    offline::verify(store, &ManifestLog::load(store).await?, VerifyLevel::Full, &silent).await
}

/// Returns the rows of the newest checkpoint.
async fn state(store: &Store) -> Result<BTreeMap<Vec<u8>, u64>> {
    let (manifest, mut rows) = (open(store, None).await?.manifest, BTreeMap::new());
    offline::export(store, &manifest, "count", &KeyGroupSet::all(128), |entry| {
        let (Value::Bytes(key), Value::Unsigned(count)) = (&entry.place.key, &entry.value) else { panic!("{entry:?}") };
        rows.insert(key.to_vec(), u64::try_from(*count).unwrap());
        Ok(())
    })
    .await?;
    Ok(rows)
}

/// Takes a checkpoint with an opaque too large for a manifest.
async fn checkpoint(job: &mut Counting) -> Result<Seq> {
    let large = |at| Opaque {
        role: OpaqueRole::Source,
        name: format!("large {at}"),
        redistribution: Redistribution::None,
        channel: None,
        item_offsets: Vec::new(),
        content: OpaqueContent::Inline(Bytes::from(vec![7; 50_000])),
    };
    let epoch = job.barrier_with(|at| vec![large(at)])?;
    Ok(job.job.wait(epoch).await?.unwrap().seq)
}

/// Opens a job that keeps one checkpoint and writes all of its state into each.
async fn busy(gate: &Arc<Gate>) -> Result<Counting> {
    let retention = RetentionPolicy::default().with(|it| it.checkpoints = 1);
    let settings = JobSettings::default().with(|it| {
        it.strategy = Strategy::Full;
        it.retention = retention;
    });
    let store = alluvium_testkit::store(&gate.objects());
    let mut job = Counting::open_on(store, 2, settings, RestoreFrom::Newest).await?;
    job.add(0..300)?;
    checkpoint(&mut job).await?;
    Ok(job)
}

/// Takes checkpoints until the job's collector has deleted all objects of `gone`.
async fn collect(job: &mut Counting, gate: &Gate, gone: &StoredManifest) -> Result<()> {
    for _ in 0..500 {
        checkpoint(job).await?;
        let stored = gate.dump().await;
        if gone.objects().iter().all(|id| !stored.contains_key(&format!("job/data/{id}"))) {
            return Ok(());
        }
    }
    panic!("the job's collector deleted nothing");
}

fn assert_dropped(error: &Error, checkpoint: Seq, newest: Seq) {
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
    let text = error.message();
    assert!(text.contains("dropped while it was read"), "{text}");
    assert!(text.contains(&format!("checkpoint=`{checkpoint}`")), "{text}");
    assert!(text.contains(&format!("restorable=`{newest}`")), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_dropped_during_a_read_is_not_reported_as_damaged() -> Result<()> {
    let (gate, other) = (Gate::new(), Gate::new());
    let mut job = busy(&gate).await?;
    let (store, target) = (alluvium_testkit::store(&gate.objects()), alluvium_testkit::store(&other.objects()));
    let stored = offline::find(&store, &mut ManifestLog::load(&store).await?, None).await?;
    let StoredManifest { id, manifest, .. } = open(&store, None).await?;
    collect(&mut job, &gate, &stored).await?;
    let newest = open(&store, None).await?;
    let all = KeyGroupSet::all(128);
    let operator = || OperatorSpec::new(alluvium_testkit::COUNT, "count", 2);
    let errors = [
        offline::savepoint(&store, &stored, &target, &silent).await.unwrap_err(),
        offline::restore(&store, &manifest, &target, &RestoreOptions::default(), &silent).await.unwrap_err(),
        offline::export(&store, &manifest, "count", &all, |_| Ok(())).await.unwrap_err(),
        offline::inspect(&store, &manifest, None, Depth::Rows).await.unwrap_err(),
        offline::diff(&store, &manifest, &newest.manifest, |_| Ok(())).await.unwrap_err(),
        offline::diff(&store, &newest.manifest, &manifest, |_| Ok(())).await.unwrap_err(),
        JobBuilder::new(store.clone()).operator(operator()).resolve(stored.clone()).await.unwrap_err(),
    ];
    for error in errors {
        assert_dropped(&error, id.seq, newest.id.seq);
    }
    assert_eq!(ManifestLog::load(&target).await?.end(), Seq(0));

    // A missing object of a live checkpoint is damage.
    let lost = newest.objects().into_iter().next().unwrap();
    gate.damage(&format!("job/data/{lost}"), None).await;
    let error = offline::export(&store, &newest.manifest, "count", &all, |_| Ok(())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    let error = offline::savepoint_of(&store, &mut ManifestLog::load(&store).await?, None, &target, &silent).await;
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Corrupt);
    Ok(())
}

/// Arranges that before the next read of data, the job deletes the now newest checkpoint; returns its number.
async fn race(gate: &Arc<Gate>, job: &Arc<tokio::sync::Mutex<Counting>>) -> Result<Seq> {
    let store = alluvium_testkit::store(&gate.objects());
    let newest = offline::find(&store, &mut ManifestLog::load(&store).await?, None).await?;
    let (seq, job, owners) = (newest.id.seq, Arc::clone(job), Arc::clone(gate));
    gate.before_next_read(async move { collect(&mut *job.lock().await, &owners, &newest).await.unwrap() });
    Ok(seq)
}

/// Checks at compile time that a future is `Send`, so that engines can spawn it.
fn assert_send<T>(future: impl Future<Output = T> + Send) -> impl Future<Output = T> + Send {
    future
}

#[tokio::test(flavor = "multi_thread")]
async fn f19_readers_of_the_newest_go_on_with_a_newer_checkpoint() -> Result<()> {
    let gate = Gate::new();
    let job = Arc::new(tokio::sync::Mutex::new(busy(&gate).await?));
    let store = alluvium_testkit::store(&gate.objects());
    let expected = job.lock().await.expected.clone();
    let mut reads = 0;
    let mut next = async || {
        reads += 1;
        let raced = race(&gate, &job).await?;
        Ok::<_, Error>((raced, ManifestLog::load(&store).await?, Gate::new()))
    };

    let (raced, mut chain, other) = next().await?;
    let target = alluvium_testkit::store(&other.objects());
    let (copied, _) = assert_send(offline::savepoint_of(&store, &mut chain, None, &target, &silent)).await?;
    assert!(copied > raced && verify(&target).await?.damaged.is_empty());
    assert_eq!(state(&target).await?, expected);

    let (raced, mut chain, other) = next().await?;
    let target = alluvium_testkit::store(&other.objects());
    let options = RestoreOptions::default();
    let (restored, _) = assert_send(offline::restore_of(&store, &mut chain, None, &target, &options, &silent)).await?;
    assert!(restored > raced && verify(&target).await?.damaged.is_empty());
    assert_eq!(state(&target).await?, expected);

    // `open` reads data, since the large opaque is a separate object.
    let (raced, mut chain, _) = next().await?;
    assert!(assert_send(offline::open(&store, &mut chain, None)).await?.id.seq > raced);
    let (raced, ..) = next().await?;
    let builder = JobBuilder::new(store.clone()).operator(OperatorSpec::new(alluvium_testkit::COUNT, "count", 2));
    assert!(assert_send(builder.peek_restored()).await?.unwrap().id.seq > raced);

    let (raced, chain, _) = next().await?;
    let report = assert_send(offline::verify(&store, &chain, VerifyLevel::Full, &silent)).await?;
    assert!(report.damaged.is_empty() && report.restorable.iter().all(|seq| *seq > raced), "{report:?}");
    assert_eq!(report.restorable.len(), 1);
    // An explicitly chosen checkpoint is never replaced by a newer one.
    let (raced, mut chain, other) = next().await?;
    let target = alluvium_testkit::store(&other.objects());
    let error = offline::savepoint_of(&store, &mut chain, Some(raced), &target, &silent).await.unwrap_err();
    assert_dropped(&error, raced, ManifestLog::load(&store).await?.end());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_of_dropped_checkpoints_are_not_listed_as_damaged() -> Result<()> {
    let gate = Gate::new();
    let mut job = Counting::fresh(&gate.objects(), 3).await;
    for _ in 0..3 {
        job.checkpoint().await?.unwrap();
    }
    let store = alluvium_testkit::store(&gate.objects());
    let chain = ManifestLog::load(&store).await?;
    for _ in 0..5 {
        job.checkpoint().await?.unwrap();
    }
    // The collector deletes dropped manifests like this, once they are old enough.
    for entry in chain.restorable() {
        gate.damage(&format!("job/manifest/{:020}", entry.id.seq.0), None).await;
    }
    let listed = offline::list(&store, &chain).await?;
    assert!(listed.damaged.is_empty(), "{listed:?}");
    let newest = ManifestLog::load(&store).await?.restorable();
    gate.damage(&format!("job/manifest/{:020}", newest[0].id.seq.0), None).await;
    let listed = offline::list(&store, &ManifestLog::load(&store).await?).await?;
    assert_eq!(listed.damaged.iter().map(|(seq, _)| *seq).collect::<Vec<_>>(), [newest[0].id.seq]);
    Ok(())
}

/// Opens a job from a copied savepoint, number 1, and takes a checkpoint; the job keeps one checkpoint.
async fn job_from_savepoint(gate: &Arc<Gate>) -> Result<Counting> {
    let origin = Gate::new();
    drop(busy(&origin).await?);
    let (store, target) = (alluvium_testkit::store(&origin.objects()), alluvium_testkit::store(&gate.objects()));
    offline::savepoint_of(&store, &mut ManifestLog::load(&store).await?, None, &target, &silent).await?;
    let mut job = busy(gate).await?;
    job.add(0..10)?;
    job.checkpoint().await?.unwrap();
    Ok(job)
}

fn live(chain: &ManifestLog) -> Vec<u64> {
    chain.restorable().iter().map(|entry| entry.id.seq.0).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_job_drops_a_savepoint_with_or_without_its_manifest() -> Result<()> {
    for gone in [false, true] {
        let gate = Gate::new();
        let mut job = job_from_savepoint(&gate).await?;
        let store = alluvium_testkit::store(&gate.objects());
        let savepoint = open(&store, Some(Seq(1))).await?;
        if gone {
            gate.damage("job/manifest/00000000000000000001", None).await;
            // The next attempt cannot read this savepoint, and therefore deletes nothing.
            drop(job);
            job = busy(&gate).await?;
            for _ in 0..10 {
                job.checkpoint().await?.unwrap();
            }
            assert!(gate.dump().await.keys().filter(|key| key.contains("/data/")).count() > 10);
        }
        let error = job.job.drop_savepoint(Seq(2)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        job.job.drop_savepoint(Seq(1))?;
        job.job.drop_savepoint(Seq(1))?;
        let newest = job.checkpoint().await?.unwrap();
        assert_eq!(live(&ManifestLog::load(&store).await?), [newest.seq.0]);
        assert_eq!(job.job.drop_savepoint(Seq(1)).unwrap_err().kind(), ErrorKind::NotFound);
        if !gone {
            collect(&mut job, &gate, &savepoint).await?;
        }
        let newest = open(&store, None).await?;
        collect(&mut job, &gate, &newest).await?;
        job.reopen(&gate.objects(), 3).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn c12_savepoints_are_dropped_offline_though_their_manifests_are_gone() -> Result<()> {
    for gone in [false, true] {
        let gate = Gate::new();
        let mut job = job_from_savepoint(&gate).await?;
        let store = alluvium_testkit::store(&gate.objects());
        let savepoint = open(&store, Some(Seq(1))).await?;
        if gone {
            gate.damage("job/manifest/00000000000000000001", None).await;
        }
        let before = gate.dump().await;
        let chain = ManifestLog::load(&store).await?;
        let newest = chain.end();
        let unknown = offline::drop_savepoints(&store, &chain, &[Seq(2)].into()).await.unwrap_err();
        assert_eq!(unknown.kind(), ErrorKind::NotFound);
        let needed = offline::drop_savepoints(&store, &chain, &[Seq(1), newest].into()).await.unwrap_err();
        assert_eq!(needed.kind(), ErrorKind::Usage);
        let plan = offline::preview_drop(&store, &chain, &[Seq(1)].into()).await?;
        let deletable: Vec<_> = plan.deletable.iter().map(|(key, _)| key.to_string()).collect();
        assert!(savepoint.objects().iter().all(|id| deletable.contains(&format!("data/{id}"))), "{deletable:?}");
        assert_eq!(gate.dump().await, before, "a preview writes nothing");

        let dropped = offline::drop_savepoints(&store, &chain, &[Seq(1)].into()).await?;
        let (_, swept) = dropped.swept?;
        assert!(swept.failed.is_empty());
        assert_eq!(live(&ManifestLog::load(&store).await?), [newest.0]);
        let stored = gate.dump().await;
        assert!(savepoint.objects().iter().all(|id| !stored.contains_key(&format!("job/data/{id}"))));
        job.add(0..1)?;
        let stopped = match job.barrier() {
            Ok(epoch) => job.job.wait(epoch).await.unwrap_err(),
            Err(error) => error,
        };
        assert_eq!(stopped.kind(), ErrorKind::Fenced);
        assert!(verify(&store).await?.damaged.is_empty());
        busy(&gate).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_savepoint_can_be_dropped_while_another_is_unreadable() -> Result<()> {
    let gate = Gate::new();
    drop(job_from_savepoint(&gate).await?);
    let store = alluvium_testkit::store(&gate.objects());
    let chain = ManifestLog::load(&store).await?;
    // In a fresh copy the savepoint is the only restorable state, so it cannot be dropped.
    let fresh = Gate::new();
    let copy = alluvium_testkit::store(&fresh.objects());
    offline::savepoint_of(&store, &mut ManifestLog::load(&store).await?, None, &copy, &silent).await?;
    let error = offline::preview_drop(&copy, &ManifestLog::load(&copy).await?, &[Seq(1)].into()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);

    let settings =
        JobSettings::default().with(|it| it.retention = RetentionPolicy::default().with(|it| it.checkpoints = 3));
    let mut job = Counting::open_on(store.clone(), 2, settings, RestoreFrom::Newest).await?;
    let first = job.checkpoint().await?.unwrap().seq;
    job.checkpoint().await?.unwrap();
    drop(chain);
    for seq in [Seq(1), first] {
        gate.damage(&format!("job/manifest/{:020}", seq.0), Some(Bytes::from_static(b"no manifest"))).await;
    }
    let chain = ManifestLog::load(&store).await?;
    let dropped = offline::drop_savepoints(&store, &chain, &[Seq(1)].into()).await?;
    assert_eq!(
        dropped.swept.unwrap_err().kind(),
        ErrorKind::Corrupt,
        "nothing is deleted while a live manifest is unreadable"
    );
    let chain = ManifestLog::load(&store).await?;
    assert!(!chain.lists(Seq(1)) && chain.lists(first));
    // The same call drops a checkpoint.
    let dropped = offline::drop_savepoints(&store, &chain, &[first].into()).await?;
    dropped.swept?;
    assert!(verify(&store).await?.damaged.is_empty());
    Ok(())
}
