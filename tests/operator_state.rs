//! Operator state in real jobs: lists, union lists and broadcast states over restarts and rescales.

use std::collections::BTreeMap;
use std::sync::Arc;

use alluvium::manifest::{Manifest, SubtaskEntry};
use alluvium::{
    BroadcastState, Epoch, Error, ErrorKind, Fixed, Job, JobBuilder, LogBackend, Opaque, OpaqueContent, OpaqueRole,
    OperatorId, OperatorList, OperatorSpec, Raw, Result, Seq, Task, Timestamp, Utf8,
};
use alluvium_testkit::{Counting, Door, Gate};
use bytes::Bytes;

const OPERATOR: OperatorId = OperatorId(1);

type Rules = BroadcastState<String, u32, Utf8, Fixed>;

/// An operator with operator state only.
struct Running {
    job: Job,
    tasks: Vec<Task<LogBackend>>,
}

impl Running {
    async fn open(gate: &Arc<Gate>, parallelism: u32) -> Result<Self> {
        let operator = OperatorSpec::new(OPERATOR, "operator", parallelism);
        let mut job = JobBuilder::new(alluvium_testkit::store(&gate.objects())).operator(operator).open().await?;
        let mut tasks = Vec::new();
        for seat in job.take_seats() {
            tasks.push(seat.restore(LogBackend::new).await?);
        }
        Ok(Self { job, tasks })
    }

    fn lists(&mut self, name: &str) -> Result<Vec<OperatorList<u64, Fixed>>> {
        self.tasks.iter_mut().map(|task| task.operator_state().list(name, Fixed)).collect()
    }

    fn unions(&mut self, name: &str) -> Result<Vec<OperatorList<u64, Fixed>>> {
        self.tasks.iter_mut().map(|task| task.operator_state().union_list(name, Fixed)).collect()
    }

    fn rules(&mut self, name: &str) -> Result<Vec<Rules>> {
        self.tasks.iter_mut().map(|task| task.operator_state().broadcast(name, Utf8, Fixed)).collect()
    }

    /// Returns the items of each subtask.
    fn items(&mut self, lists: &[OperatorList<u64, Fixed>]) -> Result<Vec<Vec<u64>>> {
        self.tasks.iter_mut().zip(lists).map(|(task, list)| list.get(task.operator_state())).collect()
    }

    /// Returns the rules of each subtask.
    fn all_rules(&mut self, rules: &[Rules]) -> Result<Vec<BTreeMap<String, u32>>> {
        let of = |(task, rules): (&mut Task<LogBackend>, &Rules)| rules.iter(task.operator_state())?.collect();
        self.tasks.iter_mut().zip(rules).map(of).collect()
    }

    fn barrier(&mut self) -> Result<Epoch> {
        let barrier = self.job.trigger()?.ok_or_else(|| Error::limit("too many checkpoints in flight"))?;
        self.tasks.iter_mut().try_for_each(|task| task.barrier(barrier, Timestamp::MIN, vec![]))?;
        Ok(barrier.epoch)
    }

    async fn checkpoint(&mut self) -> Result<()> {
        let epoch = self.barrier()?;
        assert!(self.job.wait(epoch).await?.is_some(), "the checkpoint was aborted");
        Ok(())
    }
}

fn sorted(items: Vec<Vec<u64>>) -> Vec<u64> {
    let mut items = items.concat();
    items.sort_unstable();
    items
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_keep_each_item_once_at_any_parallelism() -> Result<()> {
    for (first, second) in (1..=6).flat_map(|first| (1..=6).map(move |second| (first, second))) {
        let gate = Gate::new();
        let (mut expected, mut next) = (Vec::new(), 0u64);
        let mut before: Vec<Vec<u64>> = Vec::new();
        for (round, parallelism) in [first, second, 7 - first, second].into_iter().enumerate() {
            let mut running = Running::open(&gate, parallelism).await?;
            let lists = running.lists("list")?;
            let found = running.items(&lists)?;
            assert_eq!(sorted(found.clone()), expected, "{first}, {second}, round {round}");
            if found.len() == before.len() {
                assert_eq!(found, before, "at the same parallelism, each subtask keeps its list");
            } else {
                let lengths = found.iter().map(Vec::len);
                assert!(lengths.clone().max() <= lengths.min().map(|shortest| shortest + 1), "{found:?}");
            }
            // Uneven lists; that of the first subtask gets nothing.
            for (at, (task, list)) in running.tasks.iter_mut().zip(&lists).enumerate() {
                for _ in 0..at * (round + 1) {
                    list.add(task.operator_state(), &next)?;
                    expected.push(next);
                    next += 1;
                }
            }
            before = running.items(&lists)?;
            let epoch = running.barrier()?;
            // This item belongs to the next epoch, which never ends.
            lists[0].add(running.tasks[0].operator_state(), &u64::MAX)?;
            assert!(running.job.wait(epoch).await?.is_some());
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_subtask_restores_the_whole_union_list() -> Result<()> {
    let gate = Gate::new();
    let mut expected = Vec::new();
    for (round, parallelism) in [3u32, 3, 5, 1, 6, 2].into_iter().enumerate() {
        let mut running = Running::open(&gate, parallelism).await?;
        let lists = running.unions("union")?;
        assert_eq!(running.items(&lists)?, vec![expected.clone(); parallelism as usize], "round {round}");
        let mut written = Vec::new();
        for (at, (task, list)) in running.tasks.iter_mut().zip(&lists).enumerate() {
            let state = task.operator_state();
            let mut own = list.get(state)?;
            own.retain(|item| *item % u64::from(parallelism) == at as u64);
            list.update(state, &own)?;
            list.add(state, &(100 * round as u64 + at as u64))?;
            written.extend(list.get(state)?);
        }
        running.checkpoint().await?;
        // A union is the concatenation of the kept lists in subtask order.
        expected = written;
        assert_eq!(expected.len(), [3, 6, 11, 12, 18, 20][round]);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn broadcast_states_reach_new_subtasks() -> Result<()> {
    let gate = Gate::new();
    let mut running = Running::open(&gate, 2).await?;
    let rules = running.rules("rules")?;
    let mut expected = BTreeMap::new();
    for number in 0..5_000u32 {
        let key = format!("rule {number}");
        for (task, rules) in running.tasks.iter_mut().zip(&rules) {
            rules.put(task.operator_state(), &key, &number)?;
        }
        expected.insert(key, number);
    }
    // Copies must not differ; if they do, the copy of subtask 0 is stored.
    rules[1].put(running.tasks[1].operator_state(), &"mine".to_owned(), &0)?;
    running.checkpoint().await?;
    for parallelism in [5, 1, 3] {
        let mut running = Running::open(&gate, parallelism).await?;
        let rules = running.rules("rules")?;
        assert_eq!(running.all_rules(&rules)?, vec![expected.clone(); parallelism as usize]);
        let gone = expected.pop_first().unwrap().0;
        for (task, rules) in running.tasks.iter_mut().zip(&rules) {
            let state = task.operator_state();
            assert!(rules.contains(state, &gone)?);
            rules.remove(state, &gone)?;
            assert_eq!((rules.get(state, &gone)?, rules.len(state)?), (None, expected.len()));
        }
        running.checkpoint().await?;
    }
    let mut running = Running::open(&gate, 4).await?;
    let rules = running.rules("rules")?;
    for (task, rules) in running.tasks.iter_mut().zip(&rules) {
        rules.clear(task.operator_state())?;
    }
    running.checkpoint().await?;
    let mut running = Running::open(&gate, 2).await?;
    let rules = running.rules("rules")?;
    assert_eq!(running.all_rules(&rules)?, vec![BTreeMap::new(); 2]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn other_types_are_refused_in_every_subtask() -> Result<()> {
    let gate = Gate::new();
    let mut running = Running::open(&gate, 2).await?;
    let lists = running.lists("list")?;
    lists[1].add(running.tasks[1].operator_state(), &7)?;
    running.rules("rules")?;
    running.checkpoint().await?;
    let mut running = Running::open(&gate, 3).await?;
    for task in &mut running.tasks {
        let state = task.operator_state();
        let errors = [
            state.list("list", Utf8).unwrap_err(),
            state.broadcast("list", Utf8, Utf8).unwrap_err(),
            state.broadcast("rules", Utf8, Raw).unwrap_err(),
        ];
        for (error, parts) in errors.iter().zip([["u64le", "utf8"], ["list(", "broadcast("], ["u32le", "bytes"]]) {
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(parts.iter().all(|part| error.to_string().contains(part)), "{error}");
        }
    }
    // The refused state is intact, and can be declared with its own type.
    let lists = running.lists("list")?;
    assert_eq!(sorted(running.items(&lists)?), [7]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn undeclared_state_is_kept() -> Result<()> {
    let gate = Gate::new();
    let mut running = Running::open(&gate, 3).await?;
    let (lists, unions, rules) = (running.lists("list")?, running.unions("union")?, running.rules("rules")?);
    for (at, task) in running.tasks.iter_mut().enumerate() {
        let state = task.operator_state();
        lists[at].update(state, &[at as u64, 10 + at as u64])?;
        unions[at].add(state, &(at as u64))?;
        rules[at].put(state, &"a".to_owned(), &1)?;
    }
    running.checkpoint().await?;
    for parallelism in [3, 5, 2, 2, 1, 4] {
        let mut running = Running::open(&gate, parallelism).await?;
        running.checkpoint().await?;
        running.checkpoint().await?;
    }
    let mut running = Running::open(&gate, 6).await?;
    let (lists, unions, rules) = (running.lists("list")?, running.unions("union")?, running.rules("rules")?);
    assert_eq!(sorted(running.items(&lists)?), [0, 1, 2, 10, 11, 12]);
    assert_eq!(running.items(&unions)?, vec![vec![0, 1, 2]; 6]);
    assert_eq!(running.all_rules(&rules)?, vec![BTreeMap::from([("a".to_owned(), 1)]); 6]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_after_an_abort_is_complete() -> Result<()> {
    let gate = Gate::new();
    let mut running = Running::open(&gate, 2).await?;
    let lists = running.lists("list")?;
    gate.set(Door::Shut);
    // Too much for a manifest, so that a separate upload fails.
    let many: Vec<u64> = (0..10_000).collect();
    lists[0].update(running.tasks[0].operator_state(), &many)?;
    let epoch = running.barrier()?;
    assert_eq!(running.job.wait(epoch).await?, None);
    gate.set(Door::Open);
    lists[0].add(running.tasks[0].operator_state(), &10_000)?;
    lists[1].add(running.tasks[1].operator_state(), &10_001)?;
    running.checkpoint().await?;
    let mut running = Running::open(&gate, 1).await?;
    let lists = running.lists("list")?;
    assert_eq!(running.items(&lists)?, [(0..=10_001).collect::<Vec<u64>>()]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn keyed_and_operator_state_are_from_the_same_epoch() -> Result<()> {
    let gate = Gate::new();
    let mut job = Counting::fresh(&gate.objects(), 3).await;
    for parallelism in [2, 5, 1] {
        let mut added = 0;
        for task in &mut job.tasks {
            let list = task.operator_state().list::<u64, _>("added", Fixed)?;
            let (_, state) = task.states();
            added += list.get(state)?.iter().sum::<u64>();
            list.add(state, &10)?;
        }
        assert_eq!(added, job.expected.values().sum::<u64>());
        job.add(0..10 * u32::try_from(job.tasks.len()).unwrap())?;
        let epoch = job.barrier()?;
        let committed = job.expected.clone();
        job.add(0..5)?;
        job.job.wait(epoch).await?.unwrap();
        job.expected = committed;
        job = job.reopen(&gate.objects(), parallelism).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn opaques_of_the_engine_are_kept_apart_from_operator_state() -> Result<()> {
    let gate = Gate::new();
    let mut running = Running::open(&gate, 1).await?;
    let lists = running.lists("list")?;
    lists[0].add(running.tasks[0].operator_state(), &1)?;
    let epoch = running.job.trigger()?.unwrap();
    let opaque = |name: &str| Opaque::new(OpaqueRole::Operator, name, name.as_bytes().to_vec());
    let reserved = opaque("operator-state:list:1:5:u64le:list");
    let error = running.tasks[0].barrier(epoch, Timestamp::MIN, vec![reserved]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
    // The refused barrier had no effect and can be repeated.
    running.tasks[0].barrier(epoch, Timestamp::MIN, vec![opaque("list"), opaque("labels")])?;
    assert!(running.job.wait(epoch).await?.is_some());
    let operator = OperatorSpec::new(OPERATOR, "operator", 2);
    let mut job = JobBuilder::new(alluvium_testkit::store(&gate.objects())).operator(operator).open().await?;
    let seats = job.take_seats();
    assert_eq!(seats[0].opaques(), [opaque("list"), opaque("labels")]);
    assert!(seats[1].opaques().is_empty());
    Ok(())
}

/// Changes the opaques of the newest manifest in the store.
async fn damage(gate: &Gate, change: impl Fn(&mut Opaque)) {
    let dump = gate.dump().await;
    let (key, bytes) = dump.iter().rfind(|(key, _)| key.starts_with("job/manifest/")).unwrap();
    let seq = Seq(key.strip_prefix("job/manifest/").unwrap().parse().unwrap());
    let (mut manifest, put_id) = Manifest::decode(bytes, seq).unwrap();
    for entry in manifest.operators.iter_mut().flat_map(|operator| &mut operator.subtasks) {
        let SubtaskEntry::Inline(subtask) = entry else { panic!("inline") };
        subtask.opaques.iter_mut().for_each(&change);
    }
    gate.damage(key, Some(manifest.encode(put_id).unwrap())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_operator_state_is_corrupt() -> Result<()> {
    let cut = |opaque: &mut Opaque| {
        if let (OpaqueContent::Inline(bytes), true) = (&mut opaque.content, opaque.name.contains(":broadcast:")) {
            bytes.truncate(bytes.len() - 1);
        }
    };
    let renamed = |opaque: &mut Opaque| opaque.name = opaque.name.replace(":u64le:", ":u64l:");
    let unlabelled = |opaque: &mut Opaque| {
        if opaque.name == "operator-state:labels" {
            opaque.content = OpaqueContent::Inline(Bytes::from_static(b"list"));
            opaque.item_offsets.truncate(1);
        }
    };
    for (at, change) in [&cut as &dyn Fn(&mut Opaque), &renamed, &unlabelled].into_iter().enumerate() {
        let gate = Gate::new();
        let mut running = Running::open(&gate, 1).await?;
        let (lists, rules) = (running.lists("list")?, running.rules("rules")?);
        lists[0].add(running.tasks[0].operator_state(), &1)?;
        rules[0].put(running.tasks[0].operator_state(), &"a".to_owned(), &1)?;
        running.checkpoint().await?;
        damage(&gate, change).await;
        let error = Running::open(&gate, 2).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "damage {at}: {error:?}");
        assert!(error.to_string().contains("operator-state:"), "{error}");
    }
    Ok(())
}
