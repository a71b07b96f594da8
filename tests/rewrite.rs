//! What is stored stays within twice what is live: packs that a few cold key groups keep alive are rewritten.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use alluvium::backend::StateBackend;
use alluvium::internals::checkpoint::restore::ranges;
use alluvium::prelude::*;
use alluvium::{ChainPolicy, JobSettings, LogBackend, MemoryBudget, OverlayBackend, RestoreMode, Result};
use alluvium_testkit::{Gate, store};
use tokio::sync::oneshot;

const OPERATOR: OperatorId = OperatorId(3);
const GROUPS: u16 = 16;
const KEYS: u32 = 800;

/// A job of one subtask with lists of bytes, and what it should hold.
struct World<B: StateBackend> {
    gate: Arc<Gate>,
    job: Job,
    task: Task<B>,
    list: ListState<Vec<u8>, Raw>,
    model: BTreeMap<u32, Vec<Vec<u8>>>,
}

/// Returns a quarter of a KiB that does not compress.
fn item(key: u32, version: u32) -> Vec<u8> {
    let mut state = (u64::from(key) << 32) + u64::from(version) + 1;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    };
    std::iter::repeat_with(next).take(256).collect()
}

/// Has bases written as soon as a group has two deltas.
fn eager_bases() -> ChainPolicy {
    let mut policy = ChainPolicy::default();
    (policy.max_segments, policy.spread) = (4, 1);
    policy
}

impl<B: StateBackend> World<B> {
    async fn open(
        gate: &Arc<Gate>,
        chain: ChainPolicy,
        make: impl FnOnce(KeyGroupSet, Partitioner, MemoryBudget) -> B,
        model: BTreeMap<u32, Vec<Vec<u8>>>,
    ) -> Result<Self> {
        let settings = JobSettings::default().with(|it| {
            it.max_parallelism = GROUPS;
            it.chain = chain;
            it.restore = RestoreMode::Lazy;
            it.retention.checkpoints = 1;
        });
        let operator = OperatorSpec::new(OPERATOR, "lists", 1).keyed_by(Schema::new("u32le"));
        let mut job = JobBuilder::new(store(&gate.objects())).settings(settings).operator(operator).open().await?;
        let mut seat = job.take_seats().remove(0);
        let list = seat.tables().list("list", Raw)?;
        let task = seat.restore(make).await?;
        Ok(Self { gate: Arc::clone(gate), job, task, list, model })
    }

    fn group_of(&mut self, key: u32) -> KeyGroup {
        self.task.state().locate(&key.to_le_bytes()).unwrap().group
    }

    /// Replaces the list of each key whose group is at least `from`.
    fn put_from(&mut self, from: u16, version: u32) -> Result<()> {
        for key in 0..KEYS {
            if self.group_of(key).0 >= from {
                let list = vec![item(key, version)];
                let state = self.task.state();
                state.set_key(&key.to_le_bytes())?;
                self.list.update(state, &list)?;
                self.model.insert(key, list);
            }
        }
        Ok(())
    }

    /// Returns a key of none of these groups.
    fn key_beside(&mut self, groups: &KeyGroupSet) -> u32 {
        (0..KEYS).find(|key| !groups.contains(self.group_of(*key))).unwrap()
    }

    fn append(&mut self, key: u32, version: u32) -> Result<()> {
        let state = self.task.state();
        state.set_key(&key.to_le_bytes())?;
        self.list.add(state, &item(key, version))?;
        self.model.entry(key).or_default().push(item(key, version));
        Ok(())
    }

    fn clear(&mut self, key: u32) -> Result<()> {
        let table = self.list.table();
        let state = self.task.state();
        state.set_key(&key.to_le_bytes())?;
        state.clear_key(table)?;
        self.model.remove(&key);
        Ok(())
    }

    async fn checkpoint(&mut self) -> Result<()> {
        let barrier = self.job.trigger_when_possible().await?;
        self.task.barrier(barrier, Timestamp::MIN, Vec::new())?;
        assert!(self.job.wait(barrier).await?.is_some());
        self.task.settle()
    }

    fn check(&mut self) -> Result<()> {
        for key in 0..KEYS {
            let state = self.task.state();
            state.set_key(&key.to_le_bytes())?;
            let found = self.list.read(state)?;
            assert!(found == self.model.get(&key).cloned().unwrap_or_default(), "key {key} differs");
        }
        Ok(())
    }

    fn absent(&mut self) -> KeyGroupSet {
        self.task.state().backend().absent()
    }

    /// Returns what the newest checkpoint lists.
    async fn listed(&self) -> Listed {
        let settings = JobSettings::default().with(|it| it.max_parallelism = GROUPS);
        let store = store(&self.gate.objects());
        let stored = JobBuilder::new(store.clone()).settings(settings).peek_restored().await.unwrap().unwrap();
        let subtask = stored.manifest.operators[0].subtasks[0].inline().unwrap();
        let mut live = 0;
        for segment in &subtask.segments {
            live += ranges(&store, segment).await.unwrap().iter().map(|range| range.end - range.start).sum::<u64>();
        }
        let objects = &stored.manifest.objects;
        let links = |group| {
            let having = subtask.segments.iter().filter(|segment| segment.groups.contains(KeyGroup(group)));
            having.map(|segment| segment.object.to_string()).collect::<Vec<_>>()
        };
        Listed {
            stored: objects.iter().map(|object| object.bytes).sum(),
            live,
            objects: objects.iter().map(|object| object.id.to_string()).collect(),
            longest: (0..GROUPS).map(|group| links(group).len()).max().unwrap(),
            places: (0..GROUPS).map(links).collect(),
        }
    }
}

/// What a checkpoint lists.
struct Listed {
    /// Bytes of its objects.
    stored: u64,
    /// Bytes that a restore reads.
    live: u64,
    objects: BTreeSet<String>,
    /// The most segments of a group.
    longest: usize,
    /// The objects that hold each group's segments.
    places: Vec<Vec<String>>,
}

#[tokio::test(flavor = "multi_thread")]
async fn packs_that_cold_groups_keep_alive_are_rewritten() -> Result<()> {
    let gate = Gate::new();
    let mut policy = ChainPolicy::default();
    (policy.max_segments, policy.spread) = (12, 4);
    let mut world = World::open(&gate, policy, LogBackend::new, BTreeMap::new()).await?;
    // In each round one more group stays as it is, in a pack that is otherwise replaced.
    for round in 0..12 {
        for step in 0..10 {
            world.put_from(round, u32::from(round) * 10 + step)?;
            world.checkpoint().await?;
        }
        // Rewrites that were decided take effect at one of the next checkpoints, once the background was scheduled.
        let mut left = 1000;
        loop {
            let Listed { stored, live, .. } = world.listed().await;
            if stored <= 2 * live {
                break;
            }
            assert!(left > 0, "{stored} bytes are stored, {live} are live");
            world.checkpoint().await?;
            left -= 1;
        }
    }
    world.check()?;
    let model = world.model.clone();
    drop(world);
    World::open(&gate, eager_bases(), LogBackend::new, model).await?.check()
}

/// Holds the next read of a data object until the sender is used. Returns it, and what resolves when that read has begun.
fn hold_next_read(gate: &Gate) -> (oneshot::Sender<()>, oneshot::Receiver<()>) {
    let (release, released) = oneshot::channel::<()>();
    let (began, begun) = oneshot::channel::<()>();
    gate.before_next_read(async move {
        let _waiting = began.send(());
        let _dropped = released.await;
    });
    (release, begun)
}

/// Leaves a job whose only pack is mostly of groups that hold next to nothing now. Returns it with the cold groups absent.
async fn mostly_dead(gate: &Arc<Gate>) -> Result<(World<OverlayBackend>, KeyGroupSet)> {
    let mut world = World::open(gate, eager_bases(), LogBackend::new, BTreeMap::new()).await?;
    world.put_from(0, 0)?;
    for key in 0..KEYS {
        if key % 3 == 0 {
            world.append(key, 1)?;
        }
    }
    world.checkpoint().await?;
    let model = world.model.clone();
    drop(world);
    // Nothing loads groups of this backend before they are touched.
    let make = |groups, _, budget| OverlayBackend::new(groups, budget);
    let mut world = World::open(gate, eager_bases(), make, model).await?;
    let cold: KeyGroupSet = [KeyGroup(2), KeyGroup(9)].into_iter().collect();
    for key in 0..KEYS {
        if !cold.contains(world.group_of(key)) {
            world.append(key, 2)?;
            world.clear(key)?;
        }
    }
    assert_eq!(world.absent(), cold);
    Ok((world, cold))
}

#[tokio::test(flavor = "multi_thread")]
async fn absent_groups_are_rewritten_without_being_loaded() -> Result<()> {
    let gate = Gate::new();
    let (mut world, cold) = mostly_dead(&gate).await?;
    let first = world.listed().await.objects;
    let (mut version, hot) = (10, world.key_beside(&cold));
    while !world.listed().await.objects.is_disjoint(&first) {
        assert!(version < 40, "the first pack is still listed");
        world.append(hot, version)?;
        world.checkpoint().await?;
        version += 1;
    }
    assert_eq!(world.absent(), cold, "nothing was loaded");
    let listed = world.listed().await;
    assert!(listed.stored <= 2 * listed.live, "{} stored, {} live", listed.stored, listed.live);
    let model = world.model.clone();
    world.check()?;
    assert!(world.absent().is_empty());
    drop(world);
    World::open(&gate, eager_bases(), LogBackend::new, model).await?.check()
}

/// The clears are sealed and placed after the rewrite has chosen what it reads, and before it puts that elsewhere.
#[tokio::test(flavor = "multi_thread")]
async fn clears_of_a_group_that_is_being_rewritten_apply() -> Result<()> {
    let gate = Gate::new();
    let (mut world, cold) = mostly_dead(&gate).await?;
    let (first, hot) = (world.listed().await.objects, world.key_beside(&cold));
    let (release, mut begun) = hold_next_read(&gate);
    let mut version = 10;
    while begun.try_recv().is_err() {
        assert!(version < 1000, "nothing is rewritten");
        world.append(hot, version)?;
        world.checkpoint().await?;
        version += 1;
    }
    let cleared: Vec<_> = (0..KEYS).filter(|key| cold.contains(world.group_of(*key))).step_by(3).take(12).collect();
    cleared.iter().try_for_each(|key| world.clear(*key))?;
    world.append(hot, version)?;
    world.checkpoint().await?;
    release.send(()).unwrap();
    while !world.listed().await.objects.is_disjoint(&first) {
        assert!(version < 2000, "the first pack is still listed");
        world.append(hot, version)?;
        world.checkpoint().await?;
        version += 1;
    }
    assert_eq!(world.absent(), cold, "nothing was loaded");
    let model = world.model.clone();
    world.check()?;
    drop(world);
    World::open(&gate, eager_bases(), LogBackend::new, model).await?.check()
}

#[tokio::test(flavor = "multi_thread")]
async fn long_chains_of_absent_groups_are_merged() -> Result<()> {
    let gate = Gate::new();
    let mut long = ChainPolicy::default();
    long.max_segments = 1000;
    let mut world = World::open(&gate, long, LogBackend::new, BTreeMap::new()).await?;
    world.put_from(0, 0)?;
    world.checkpoint().await?;
    for version in 1..=12 {
        // Far less than the base, so that no group gets another.
        (0..GROUPS.into()).try_for_each(|key| world.append(key * 31, version))?;
        world.clear(KEYS - version)?;
        world.checkpoint().await?;
    }
    assert!(world.listed().await.longest > 8);
    let model = world.model.clone();
    drop(world);
    let make = |groups, _, budget| OverlayBackend::new(groups, budget);
    let mut world = World::open(&gate, eager_bases(), make, model).await?;
    for _ in 0..40 {
        world.checkpoint().await?;
        if world.listed().await.longest <= 4 {
            assert_eq!(world.absent(), KeyGroupSet::all(GROUPS));
            return world.check();
        }
    }
    panic!("a chain has {} segments", world.listed().await.longest)
}

/// A load that began before a rewrite finds its objects deleted after it: the group is read from where it lies now.
#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_a_rewrite_overtakes_is_begun_again() -> Result<()> {
    let gate = Gate::new();
    let (mut world, cold) = mostly_dead(&gate).await?;
    let (first, hot) = (world.listed().await.objects, world.key_beside(&cold));
    let (release, begun) = hold_next_read(&gate);
    let mut ready = std::pin::pin!(world.task.ready_groups(&cold));
    assert!(futures_util::poll!(&mut ready).is_pending());
    begun.await.unwrap();
    let is_first = |key: &String| first.iter().any(|id| key.contains(id));
    let mut version = 10;
    while gate.dump().await.keys().any(is_first) {
        assert!(version < 60, "the first pack is still stored");
        world.append(hot, version)?;
        world.checkpoint().await?;
        version += 1;
    }
    release.send(()).unwrap();
    let _guard = ready.await?;
    world.check()
}

/// Damage of one absent group keeps no other where it is.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_group_holds_up_no_other() -> Result<()> {
    let gate = Gate::new();
    let (mut world, cold) = mostly_dead(&gate).await?;
    let (hot, stored) = (world.key_beside(&cold), store(&gate.objects()));
    // A byte in the middle of what a restore of the first cold group reads.
    let settings = JobSettings::default().with(|it| it.max_parallelism = GROUPS);
    let newest = JobBuilder::new(stored.clone()).settings(settings).peek_restored().await?.unwrap();
    let segment = newest.manifest.operators[0].subtasks[0].inline().unwrap().segments[0].clone();
    let of_first = alluvium::manifest::SegmentRef { groups: cold.iter().take(1).collect(), ..segment };
    let range = ranges(&stored, &of_first).await?.remove(0);
    let (path, pack) = gate.dump().await.into_iter().find(|(key, _)| key.contains("/data/")).unwrap();
    let mut damaged = pack.to_vec();
    damaged[usize::try_from((range.start + range.end) / 2).unwrap()] ^= 1;
    gate.damage(&path, Some(damaged.into())).await;
    let links = |listed: &Listed, group: KeyGroup| listed.places[usize::from(group.0)].clone();
    let groups: Vec<_> = cold.iter().collect();
    let before = world.listed().await;
    for version in 10..1000 {
        world.append(hot, version)?;
        world.checkpoint().await?;
        let after = world.listed().await;
        if links(&after, groups[1]) != links(&before, groups[1]) {
            assert_eq!(links(&after, groups[0]), links(&before, groups[0]), "the damaged one stays");
            assert_eq!(world.absent(), cold);
            return Ok(());
        }
    }
    panic!("the sound group was not rewritten")
}
