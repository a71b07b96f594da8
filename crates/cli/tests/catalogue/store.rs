//! Misbehaving object stores under a whole job (A).

use std::sync::{Arc, Mutex};
use std::time::Duration;

use alluvium::internals::store::Key;
use alluvium::{ErrorKind, JobSettings, ManifestLog, Opaque, OpaqueRole, RestoreFrom, Result, Strategy, offline};
use bytes::Bytes;
use object_store::ObjectStore;

use crate::sim::{Rig, small};
use crate::twist::{Twist, Twisted};
use alluvium_testkit::sim::{Answer, Fate, Faults};
use alluvium_testkit::{self, Counting, Gate};

/// A job with three checkpoints in `objects`.
async fn counted(objects: &Arc<dyn ObjectStore>) -> Result<Counting> {
    let mut job = Counting::fresh(objects, 2).await;
    for round in 0..3 {
        job.add(round * 10..round * 10 + 50)?;
        job.checkpoint().await?.unwrap();
    }
    Ok(job)
}

async fn open(objects: &Arc<dyn ObjectStore>) -> Result<Counting> {
    let store = alluvium_testkit::store(objects);
    Counting::open_on(store, 3, JobSettings::default(), RestoreFrom::Newest).await
}

#[test]
fn a10_a_storm_of_refusals_is_met_with_ever_fewer_requests() {
    let rig = Rig::new();
    let pipeline = small().pipeline.with(|it| it.pack_bytes = 1);
    let mut job = rig.open(0, 8, small().with(|it| it.pipeline = pipeline)).unwrap();
    job.add(0..1000).unwrap();
    let start = rig.sim.now_ms();
    let requests = Arc::new(Mutex::new(Vec::new()));
    let (sim, seen) = (rig.sim.clone(), Arc::clone(&requests));
    rig.faults(Faults::Scripted(Box::new(move |_| {
        let at = sim.now_ms() - start;
        seen.lock().unwrap().push(at);
        (at < 60_000).then(|| Fate::not_applied(5, Answer::Throttled))
    })));
    let (committed, content) = rig.on(0, async move {
        let mut aborted = 0;
        while job.checkpoint().await.unwrap().is_none() {
            aborted += 1;
        }
        (aborted, job.expected)
    });
    assert!(committed <= 3, "{committed} checkpoints were given up in a minute");
    let requests = requests.lock().unwrap().clone();
    let within = |from: u64, to: u64| requests.iter().filter(|at| (from..to).contains(*at)).count();
    // Four packs upload concurrently; a try is a create and two existence checks, with growing delays. After ten tries
    // the checkpoint is aborted, and the next starts over.
    assert!(within(0, 1_000) <= 4 * 4 * 3 && within(1_000, 60_000) <= 2 * 4 * 10 * 3, "{requests:?}");
    assert_eq!(rig.open(1, 3, small()).unwrap().expected, content);
}

#[tokio::test]
async fn a12_bytes_of_another_range_are_noticed() -> Result<()> {
    let twisted = Arc::new(Twisted::default());
    let job = counted(&twisted.objects()).await?;
    twisted.set(Twist::Whole, "/data/", u64::MAX);
    let error = open(&twisted.objects()).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.chain().contains("another range"), "{}", error.chain());
    twisted.set(Twist::Shifted, "/data/", u64::MAX);
    let error = open(&twisted.objects()).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.chain().contains("object=`1-"), "{}", error.chain());
    twisted.set(Twist::Whole, "/data/", 1);
    assert_eq!(open(&twisted.objects()).await?.expected, job.expected, "asked again");
    twisted.clear();
    assert_eq!(open(&twisted.objects()).await?.expected, job.expected, "nothing was done to what is stored");
    Ok(())
}

#[tokio::test]
async fn a13_an_object_that_is_not_found_is_an_error_and_never_an_empty_job() -> Result<()> {
    let twisted = Arc::new(Twisted::default());
    let job = counted(&twisted.objects()).await?;
    twisted.set(Twist::Missing, "/data/", u64::MAX);
    let error = open(&twisted.objects()).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.chain().contains("object of a committed manifest is missing"), "{}", error.chain());
    assert!(error.chain().contains("object=`1-"), "{}", error.chain());
    // The listing shows manifests that no read finds.
    twisted.set(Twist::Missing, "/manifest/", u64::MAX);
    let error = open(&twisted.objects()).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.chain());
    twisted.set(Twist::Missing, "/manifest/", 2);
    assert_eq!(open(&twisted.objects()).await?.expected, job.expected, "looked for again");
    Ok(())
}

#[tokio::test]
async fn a16_a17_a18_a19_a_large_pack_is_one_request_and_no_upload_has_parts() -> Result<()> {
    // The gate panics at a multipart upload.
    let gate = Gate::new();
    let mut job = Counting::fresh(&gate.objects(), 2).await;
    job.add(0..100)?;
    gate.take_calls();
    let large = |at| if at == 0 { vec![0; 20 << 20] } else { Vec::new() };
    let epoch = job.barrier_with(|at| vec![Opaque::new(OpaqueRole::Operator, "large", large(at))])?;
    assert!(job.job.wait(epoch).await?.is_some());
    let calls = gate.take_calls();
    assert_eq!(calls.iter().filter(|call| call.starts_with("put job/data/")).count(), 1, "{calls:?}");
    assert!(job.job.store().requests().put_bytes > 20 << 20);
    Ok(())
}

#[test]
pub(crate) fn a24_what_is_damaged_is_not_copied() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (gate, other) = (Gate::new(), Gate::new());
        counted(&gate.objects()).await.unwrap();
        let key = gate.dump().await.into_keys().find(|key| key.contains("/data/")).unwrap();
        let mut bytes = gate.dump().await.remove(&key).unwrap().to_vec();
        bytes[100] ^= 1;
        gate.damage(&key, Some(bytes.into())).await;
        let (from, to) = [&gate, &other].map(|gate| alluvium_testkit::store(&gate.objects())).into();
        let checkpoint = offline::find(&from, &mut ManifestLog::load(&from).await.unwrap(), None).await.unwrap();
        let error = offline::savepoint(&from, &checkpoint, &to, &|_, _| {}).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.chain().contains(key.trim_start_matches("job/")), "{}", error.chain());
        assert_eq!(ManifestLog::load(&to).await.unwrap().end().0, 0, "nothing is visible");
    });
}

#[test]
pub(crate) fn a25_a_sound_block_of_another_checkpoint_is_found() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let gate = Gate::new();
        let settings = JobSettings::default().with(|it| it.strategy = Strategy::Full);
        let mut job = Counting::open_on(alluvium_testkit::store(&gate.objects()), 1, settings, RestoreFrom::Newest)
            .await
            .unwrap();
        // Two checkpoints of the same keys and lengths: their blocks differ only in the counts.
        let mut packs: Vec<(String, Bytes, usize)> = Vec::new();
        let (older, (key, newer, index)) = loop {
            job.add(0..8).unwrap();
            let id = job.checkpoint().await.unwrap().unwrap();
            let store = alluvium_testkit::store(&gate.objects());
            let stored =
                offline::open(&store, &mut ManifestLog::load(&store).await.unwrap(), Some(id.seq)).await.unwrap();
            let segment = stored.manifest.operators[0].inline_subtasks().unwrap()[0].segments[0].clone();
            let key = format!("job/{}", Key::Data(segment.object));
            let bytes = gate.dump().await.remove(&key).unwrap();
            let pack = (key, bytes, usize::try_from(segment.offset + segment.index_offset).unwrap());
            if let Some((_, older, _)) = packs.iter().find(|(_, older, _)| older.len() == pack.1.len()) {
                break (older.clone(), pack);
            }
            packs.push(pack);
        };
        let mixed = [&newer[..48], &older[48..index], &newer[index..]].concat();
        gate.damage(&key, Some(mixed.into())).await;
        let error = open(&gate.objects()).await.map(|job| job.expected).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.chain().contains("another hash"), "{}", error.chain());
    });
}

#[test]
fn a26_a_slow_store_holds_up_neither_records_nor_more_than_two_checkpoints() {
    let rig = Rig::new();
    let mut job = rig.open(0, 2, small()).unwrap();
    rig.faults(Faults::Scripted(Box::new(|_| Some(Fate::ok(30_000)))));
    let content = rig.on(0, async move {
        let runtime = job.job.store().runtime().clone();
        let (mut triggered, mut skipped, mut last) = (0, 0, None);
        for second in 0..300 {
            job.add(second..second + 20).unwrap();
            match job.barrier() {
                Ok(epoch) => (triggered, last) = (triggered + 1, Some(epoch)),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Limit);
                    skipped += 1;
                }
            }
            runtime.sleep(Duration::from_secs(1)).await;
        }
        // An epoch takes three sequential calls; two epochs are in flight at a time.
        assert!((4..=8).contains(&triggered) && skipped > 250, "{triggered} triggered, {skipped} skipped");
        assert!(job.job.wait(last.unwrap()).await.unwrap().is_some());
        assert_eq!(job.job.progress().aborted, 0);
        job.checkpoint().await.unwrap().unwrap();
        job.expected
    });
    rig.faults(Faults::none());
    assert_eq!(rig.open(1, 3, small()).unwrap().expected, content);
}

/// Bounding the bodies of answers is the client libraries' task: these versions do.
#[test]
fn a27_the_parsers_of_answers_are_of_bounded_versions() {
    let lock = include_str!("../../../../Cargo.lock");
    let version = |name: &str| -> (u64, u64, u64) {
        let found = lock.split(&format!("name = \"{name}\"\nversion = \"")).nth(1).unwrap();
        let mut numbers = found.split('"').next().unwrap().split('.').map(|number| number.parse().unwrap());
        [(); 3].map(|()| numbers.next().unwrap()).into()
    };
    assert!(version("quick-xml") >= (0, 41, 0));
    assert!(version("object_store") >= (0, 14, 1));
}
