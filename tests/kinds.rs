//! Every kind of state in one job: the logical content survives checkpoints, restores and rescales.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use alluvium::prelude::*;
use alluvium::schema::Value;
use alluvium::{ErrorKind, ManifestLog, RestoreFrom, Result, Tables, offline};
use alluvium_testkit::Gate;
use alluvium_testkit::Mean;
use object_store::ObjectStore;

const OPERATOR: OperatorId = OperatorId(7);
const KEYS: u32 = 60;
const WINDOW: &[u8] = b"window";

/// A table of each kind.
struct Kinds {
    value: ValueState<u64, Fixed>,
    windowed: ValueState<String, Utf8>,
    list: ListState<u32, Fixed>,
    map: MapState<u16, u64, Fixed, Fixed>,
    ordered: OrderedMapState<i64, String, Ordered, Utf8>,
    sum: ReducingState<u64, Fixed>,
    mean: AggregatingState<Mean, (Fixed, Fixed)>,
}

impl Kinds {
    fn declare(tables: &mut Tables) -> Result<Self> {
        Ok(Self {
            value: tables.value("value", Fixed)?,
            windowed: tables.value(TableOptions::new("windowed").namespaced(Schema::new("utf8")), Utf8)?,
            list: tables.list("list", Fixed)?,
            map: tables.map("map", Fixed, Fixed)?,
            ordered: tables.ordered_map("ordered", Ordered, Utf8)?,
            sum: tables.reducing("sum", Fixed, "sum", |a: u64, b| a + b)?,
            mean: tables.aggregating("mean", (Fixed, Fixed), Mean)?,
        })
    }
}

/// The content of one key, in every kind.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Content {
    value: Option<u64>,
    windowed: Option<String>,
    list: Vec<u32>,
    map: BTreeMap<u16, u64>,
    ordered: Vec<(i64, String)>,
    sum: Option<u64>,
    mean: Option<(u64, u64)>,
}

struct Subtask {
    task: Task<LogBackend>,
    kinds: Kinds,
    timers: Timers,
}

struct World {
    job: Job,
    subtasks: Vec<Subtask>,
    model: BTreeMap<u32, Content>,
    timers: BTreeSet<(i64, u32)>,
    fired: Vec<(i64, u32)>,
}

impl World {
    async fn open(objects: &Arc<dyn ObjectStore>, parallelism: u32) -> Result<Self> {
        let operator = OperatorSpec::new(OPERATOR, "kinds", parallelism).keyed_by(Schema::new("u32le"));
        let builder = JobBuilder::new(alluvium_testkit::store(objects)).operator(operator);
        let mut job = builder.restore_from(RestoreFrom::Newest).open().await?;
        let mut subtasks = Vec::new();
        for mut seat in job.take_seats() {
            let kinds = Kinds::declare(seat.tables())?;
            let timers = seat.tables().timers("timers", TimeDomain::Event, Schema::unit())?;
            let mut task = seat.restore(LogBackend::new).await?;
            let timers = timers.load(task.state())?;
            subtasks.push(Subtask { task, kinds, timers });
        }
        Ok(Self { job, subtasks, model: BTreeMap::new(), timers: BTreeSet::new(), fired: Vec::new() })
    }

    /// Reopens the job at another parallelism, and checks that its state is unchanged.
    async fn reopen(self, objects: &Arc<dyn ObjectStore>, parallelism: u32) -> Result<Self> {
        let Self { model, timers, fired, .. } = self;
        let mut world = Self { model, timers, fired, ..Self::open(objects, parallelism).await? };
        world.check()?;
        Ok(world)
    }

    fn owner(&mut self, key: u32) -> Result<&mut Subtask> {
        let parallelism = u32::try_from(self.subtasks.len()).unwrap();
        let at = self.job.subtask_of(&key.to_le_bytes(), parallelism);
        let subtask = &mut self.subtasks[at];
        subtask.task.state().set_key(&key.to_le_bytes())?;
        Ok(subtask)
    }

    /// Changes a key in every kind, depending on `step`.
    fn touch(&mut self, key: u32, step: u32) -> Result<()> {
        let content = self.model.entry(key).or_default();
        let number = u64::from(key * 1000 + step);
        let (sub, time) = (u16::try_from(step % 5).unwrap(), i64::from(step % 7) - 3);
        let (clears, text) = (step % 6 == 5, format!("{key}:{step}"));
        if clears {
            *content = Content::default();
        }
        content.value = (!step.is_multiple_of(4)).then_some(number);
        content.windowed = Some(text.clone());
        content.list.push(step);
        content.map.insert(sub, number);
        content.map.remove(&(sub ^ 1));
        content.ordered.retain(|(at, _)| *at != time);
        content.ordered.push((time, text.clone()));
        content.ordered.sort();
        content.sum = Some(content.sum.unwrap_or(0) + number);
        let (count, sum) = content.mean.unwrap_or_default();
        content.mean = Some((count + 1, sum + number));
        let at = i64::from(step * 10 + key % 10);
        let is_new = self.timers.insert((at, key));

        let Subtask { task, kinds, timers } = self.owner(key)?;
        let state = task.state();
        if clears {
            kinds.value.clear(state)?;
            kinds.windowed.clear(&mut state.in_namespace(WINDOW))?;
            kinds.list.clear(state)?;
            kinds.map.clear(state)?;
            kinds.ordered.clear(state)?;
            kinds.sum.clear(state)?;
            kinds.mean.clear(state)?;
        }
        match step % 4 {
            0 => kinds.value.clear(state)?,
            _ => kinds.value.put(state, &number)?,
        }
        kinds.windowed.put(&mut state.in_namespace(WINDOW), &text)?;
        kinds.list.add(state, &step)?;
        kinds.map.put(state, &sub, &number)?;
        kinds.map.remove(state, &(sub ^ 1))?;
        kinds.ordered.put(state, &time, &text)?;
        kinds.sum.add(state, &number)?;
        kinds.mean.add(state, &number)?;
        assert_eq!(timers.register(state, &[], Timestamp::from_millis(at))?, is_new);
        Ok(())
    }

    /// Fires due timers, and checks their order and uniqueness.
    fn fire(&mut self, to: i64) -> Result<()> {
        for Subtask { task, timers, .. } in &mut self.subtasks {
            let mut last = i64::MIN;
            while let Some(timer) = timers.pop_due(task.state(), Timestamp::from_millis(to))? {
                let (at, key) = (timer.timestamp().as_millis(), u32::from_le_bytes(timer.key().try_into().unwrap()));
                assert!(at >= last && self.timers.remove(&(at, key)), "timer {at} of {key} is not due");
                last = at;
                self.fired.push((at, key));
            }
        }
        assert!(self.timers.first().is_none_or(|(at, _)| *at > to), "a timer did not fire");
        Ok(())
    }

    async fn checkpoint(&mut self) -> Result<()> {
        let epoch = self.job.trigger_when_possible().await?;
        for Subtask { task, .. } in &mut self.subtasks {
            task.barrier(epoch, Timestamp::MIN, Vec::new())?;
        }
        assert!(self.job.wait(epoch).await?.is_some());
        Ok(())
    }

    fn check(&mut self) -> Result<()> {
        for (key, expected) in self.model.clone() {
            let Subtask { task, kinds, .. } = self.owner(key)?;
            let state = task.state();
            let mean = expected.mean.map(|(count, sum)| sum / count);
            let found = Content {
                value: kinds.value.read(state)?,
                windowed: kinds.windowed.read(&mut state.in_namespace(WINDOW))?,
                list: kinds.list.read(state)?,
                map: kinds.map.entries(state)?.into_iter().collect(),
                ordered: kinds.ordered.entries(state)?,
                sum: kinds.sum.read(state)?,
                mean: expected.mean,
            };
            assert_eq!((found, kinds.mean.read(state)?), (expected, mean), "key {key}");
        }
        let mut waiting = 0;
        for Subtask { task, timers, .. } in &mut self.subtasks {
            // Counts the timers of groups that were absent, too.
            let groups = task.groups().clone();
            task.state().backend_mut().ensure(&groups)?;
            timers.rebuild(task.state(), &groups)?;
            waiting += timers.len();
        }
        assert_eq!(waiting, self.timers.len());
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f01_every_rescale_keeps_what_every_kind_holds() -> Result<()> {
    let gate = Gate::new();
    let objects = gate.objects();
    let mut world = World::open(&objects, 1).await?;
    (0..KEYS).try_for_each(|key| world.touch(key, 1))?;
    let mut step = 2;
    for from in 1..=16 {
        for to in 1..=16 {
            if u32::try_from(world.subtasks.len()) != Ok(from) {
                world.checkpoint().await?;
                world = world.reopen(&objects, from).await?;
            }
            (0..KEYS).filter(|key| (key + step).is_multiple_of(9)).try_for_each(|key| world.touch(key, step))?;
            world.fire(i64::from(step.saturating_sub(40)) * 10)?;
            world.checkpoint().await?;
            world = world.reopen(&objects, to).await?;
            step += 1;
        }
    }
    world.fire(i64::MAX)?;
    let distinct: BTreeSet<_> = world.fired.iter().collect();
    assert_eq!(distinct.len(), world.fired.len(), "a timer fired twice");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_offline_tools_read_every_kind() -> Result<()> {
    let gate = Gate::new();
    let objects = gate.objects();
    let mut world = World::open(&objects, 2).await?;
    for step in [1, 2, 3] {
        (0..KEYS).filter(|key| step == 1 || key.is_multiple_of(3)).try_for_each(|key| world.touch(key, step))?;
        world.checkpoint().await?;
    }
    let store = alluvium_testkit::store(&objects);
    let checkpoint = offline::open(&store, &mut ManifestLog::load(&store).await?, None).await?;
    let all = KeyGroupSet::all(128);
    let mut lists = BTreeMap::new();
    offline::export(&store, &checkpoint.manifest, "list", &all, |entry| {
        let Value::List(elements) = &entry.value else { panic!("{entry:?} is not a list") };
        let element = |element: &Value<'_>| element.to_string().parse::<u32>().unwrap();
        let key = entry.place.key.to_string().parse::<u32>().unwrap();
        assert!(lists.insert(key, elements.iter().map(element).collect::<Vec<_>>()).is_none(), "one row per list");
        Ok(())
    })
    .await?;
    let expected = world.model.iter().map(|(key, content)| (*key, content.list.clone()));
    assert!(lists.into_iter().eq(expected));
    for (table, rows) in [("value", KEYS), ("map", KEYS + 20), ("sum", KEYS), ("mean", KEYS)] {
        let found = offline::export(&store, &checkpoint.manifest, table, &all, |_| Ok(())).await?;
        assert_eq!(found, u64::from(rows), "{table}");
    }
    let timers = offline::export(&store, &checkpoint.manifest, "timers", &all, |_| Ok(())).await?;
    assert_eq!(timers, world.timers.len() as u64);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn f13_another_type_is_refused_before_anything_is_loaded() -> Result<()> {
    let gate = Gate::new();
    let objects = gate.objects();
    let mut world = World::open(&objects, 2).await?;
    (0..KEYS).try_for_each(|key| world.touch(key, 1))?;
    world.checkpoint().await?;
    drop(world);
    let operator = OperatorSpec::new(OPERATOR, "kinds", 1).keyed_by(Schema::new("u32le"));
    let mut job = JobBuilder::new(alluvium_testkit::store(&objects)).operator(operator).open().await?;
    let mut seat = job.take_seats().pop().unwrap();
    gate.take_calls();
    let refused = seat.tables().list("list", Utf8).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Config);
    let message = refused.chain();
    assert!(message.contains("u32le") && message.contains("utf8") && message.contains("`list`"), "{message}");
    assert_eq!(
        seat.tables().map("list", Fixed, Fixed).map(|_: MapState<u8, u8, _, _>| ()).unwrap_err().kind(),
        ErrorKind::Config
    );
    let read = gate.take_calls().into_iter().filter(|call| call.contains("/data/")).count();
    assert_eq!(read, 0, "nothing was read");
    Ok(())
}
