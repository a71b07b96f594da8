//! State that could silently change or disappear, or outgrow a restore's limits (F).

use std::time::Duration;

use alluvium::backend::SegmentKind;
use alluvium::manifest::Manifest;
use alluvium::{
    Fixed, Job, JobBuilder, LogBackend, OperatorSpec, Raw, Result, Seq, Store, TableOptions, Task, Timestamp,
    TtlConfig, ValueState,
};

use crate::sim::{Rig, small};
use alluvium_testkit::COUNT;

type Number = ValueState<u64, Fixed>;

async fn open(store: &Store, parallelism: u32) -> Result<Job> {
    let operator = OperatorSpec::new(COUNT, "count", parallelism);
    JobBuilder::new(store.clone()).settings(small()).operator(operator).open().await
}

async fn checkpoint(job: &Job, tasks: &mut [Task<LogBackend>], watermarks: &[i64]) -> Result<Seq> {
    let barrier = job.trigger()?.expect("none is in flight");
    for (task, watermark) in tasks.iter_mut().zip(watermarks.iter().cycle()) {
        task.barrier(barrier, Timestamp::from_millis(*watermark), vec![])?;
    }
    Ok(job.wait(barrier).await?.expect("it commits").seq)
}

/// Opens two subtasks, the second of which declares its tables in reverse order; returns a key of the second.
async fn in_two_orders(store: &Store) -> Result<(Job, Vec<Task<LogBackend>>, [Number; 2], Vec<u8>)> {
    let mut job = open(store, 2).await?;
    let (mut tasks, mut second) = (Vec::new(), None);
    for seat in job.take_seats() {
        let turned = seat.subtask().0 == 1;
        let mut task = seat.restore(LogBackend::new).await?;
        let names = if turned { ["bids", "asks"] } else { ["asks", "bids"] };
        let [a, b] = [task.state().value(names[0], Fixed)?, task.state().value(names[1], Fixed)?];
        if turned {
            second = Some([b, a]);
        }
        tasks.push(task);
    }
    let key = (0u64..).map(u64::to_be_bytes).find(|key| job.subtask_of(key, 2) == 1).expect("some key").to_vec();
    Ok((job, tasks, second.expect("two subtasks"), key))
}

#[test]
pub(crate) fn f16_tables_declared_in_another_order_keep_their_rows() {
    let rig = Rig::new();
    let store = rig.store(0);
    rig.on(0, async move {
        let (job, mut tasks, [asks, bids], key) = in_two_orders(&store).await.unwrap();
        tasks[1].state().set_key(&key).unwrap();
        asks.put(tasks[1].state(), &111).unwrap();
        bids.put(tasks[1].state(), &222).unwrap();
        checkpoint(&job, &mut tasks, &[0]).await.unwrap();
        drop((job, tasks));
        let (_job, mut tasks, [asks, bids], key) = in_two_orders(&store).await.unwrap();
        tasks[1].state().set_key(&key).unwrap();
        assert_eq!(asks.read(tasks[1].state()).unwrap(), Some(111));
        assert_eq!(bids.read(tasks[1].state()).unwrap(), Some(222));
    });
}

/// Opens subtasks with a value whose time to live is half a second of event time.
async fn short_lived(store: &Store, parallelism: u32) -> Result<(Job, Vec<Task<LogBackend>>, Vec<Number>)> {
    let mut job = open(store, parallelism).await?;
    let (mut tasks, mut values) = (Vec::new(), Vec::new());
    for mut seat in job.take_seats() {
        let ttl = TtlConfig::new(Duration::from_millis(500)).in_event_time();
        values.push(seat.tables().value(TableOptions::new("value").ttl(ttl), Fixed)?);
        tasks.push(seat.restore(LogBackend::new).await?);
    }
    Ok((job, tasks, values))
}

#[test]
pub(crate) fn f12_watermarks_that_differ_revive_and_lose_nothing_at_a_rescale() {
    let rig = Rig::new();
    let store = rig.store(0);
    rig.on(0, async move {
        let keys: Vec<_> = (0u32..300).map(u32::to_be_bytes).collect();
        let (job, mut tasks, values) = short_lived(&store, 3).await.unwrap();
        // Written at 100, 2100 and 1100; read at 1000, 3000 and 1200: the last owner's rows live on.
        for (written, until) in [(true, [100, 2_100, 1_100]), (false, [1_000, 3_000, 1_200])] {
            for (task, time) in tasks.iter_mut().zip(until) {
                task.state().advance(Timestamp::from_millis(time), Timestamp::MIN);
            }
            for key in &keys {
                let owner = job.subtask_of(key, 3);
                let state = tasks[owner].state();
                state.set_key(key).unwrap();
                if written {
                    values[owner].put(state, &7).unwrap();
                } else {
                    assert_eq!(values[owner].read(state).unwrap(), (owner == 2).then_some(7));
                }
            }
            // The state keeps its own time, independent of the barrier's watermark.
            checkpoint(&job, &mut tasks, &[i64::MIN]).await.unwrap();
        }
        drop((job, tasks));
        for parallelism in [1, 2, 5] {
            let (job, mut tasks, values) = short_lived(&store, parallelism).await.unwrap();
            for key in &keys {
                let at = job.subtask_of(key, parallelism);
                tasks[at].state().set_key(key).unwrap();
                let expected = (job.subtask_of(key, 3) == 2).then_some(7);
                assert_eq!(values[at].read(tasks[at].state()).unwrap(), expected, "at {parallelism}");
            }
        }
    });
}

#[test]
pub(crate) fn f17_a_chain_is_bounded_by_what_it_decodes_to() {
    let rig = Rig::new();
    let store = rig.store(0);
    let newest = rig.on(0, async move {
        let settings = small().with(|it| it.max_parallelism = 1);
        let operator = OperatorSpec::new(COUNT, "count", 1);
        let mut job = JobBuilder::new(store).settings(settings).operator(operator).open().await.unwrap();
        let mut tasks = vec![job.take_seats().remove(0).restore(LogBackend::new).await.unwrap()];
        let value = tasks[0].state().value::<Vec<u8>, _>("value", Raw).unwrap();
        // Noise does not compress, so stored deltas of zeros never outweigh it.
        let noise: Vec<u8> = (0u32..8_000).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        tasks[0].state().set_key(b"noise").unwrap();
        value.put(tasks[0].state(), &noise).unwrap();
        let mut newest = Seq(0);
        for round in 0..20u8 {
            tasks[0].state().set_key(b"zeros").unwrap();
            let mut zeros = vec![0; 64_000];
            zeros[0] = round;
            value.put(tasks[0].state(), &zeros).unwrap();
            newest = checkpoint(&job, &mut tasks, &[0]).await.unwrap();
        }
        newest
    });
    let world = rig.world.lock().unwrap();
    let (_, object) =
        world.objects().iter().find(|(key, _)| key.ends_with(&format!("manifest/{:020}", newest.0))).unwrap();
    let (manifest, _) = Manifest::decode(&object.bytes, newest).unwrap();
    let segments = &manifest.operators[0].inline_subtasks().unwrap()[0].segments;
    let deltas = segments.iter().filter(|segment| segment.kind == SegmentKind::Delta).count();
    assert!(deltas < 19, "a base came between: {deltas} deltas");
}
