//! The executor: tasks belong to nodes, the seed chooses the next ready task, time is a queue of events.
//!
//! A node can crash (its futures are dropped, at any await), be paused and be resumed. Events belong to the executor,
//! so calls already sent complete without their node.

use std::collections::BTreeMap;
use std::fmt;
use std::fmt::Write;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use alluvium::{Runtime, SharedRuntime, Timestamp};
use futures_util::future::BoxFuture;

use super::Rng;

/// A simulated process.
pub type Node = usize;

/// Counts by name.
pub type Counts = BTreeMap<&'static str, u64>;

type TaskId = u64;
type EventId = (u64, u64);
type CrashHandler = Arc<dyn Fn(&Sim, Node) + Send + Sync>;

/// Destination of the trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tracing {
    Off,
    Hash,
    Print,
}

/// The executor. Clones share it.
#[derive(Clone)]
pub struct Sim {
    world: Arc<Mutex<World>>,
    ready: Arc<Mutex<Vec<TaskId>>>,
}

/// Ends a world on drop. Futures, events and handlers refer to the world, so the cycle would otherwise leak.
pub struct Ending(Sim);

impl Drop for Ending {
    fn drop(&mut self) {
        let mut world = self.0.world.lock().unwrap_or_else(PoisonError::into_inner);
        let held = (std::mem::take(&mut world.tasks), std::mem::take(&mut world.events), world.on_crash.take());
        drop(world);
        // Dropped outside the lock, because their destructors may call the executor.
        drop(held);
    }
}

struct World {
    now_ms: u64,
    rng: Rng,
    events: BTreeMap<EventId, Event>,
    next_event: u64,
    tasks: BTreeMap<TaskId, Task>,
    next_task: TaskId,
    nodes: BTreeMap<Node, NodeState>,
    on_crash: Option<CrashHandler>,
    tracing: Tracing,
    trace: Fnv,
    points: Counts,
}

enum Event {
    Wake(Waker),
    Call(Box<dyn FnOnce(&Sim) + Send>),
}

struct Task {
    node: Node,
    waker: Arc<TaskWaker>,
    /// `None` while the task is polled.
    future: Option<BoxFuture<'static, ()>>,
}

#[derive(Default)]
struct NodeState {
    /// When the node was paused; `None` while it runs.
    paused_at_ms: Option<u64>,
    /// Tasks that became ready while the node was paused.
    held: Vec<TaskId>,
    /// Awaits that did not complete at once, over all incarnations.
    awaits: u64,
    crash_at: Option<u64>,
    crashes: u64,
    clock_skew_ms: i64,
}

struct TaskWaker {
    task: TaskId,
    queued: AtomicBool,
    ready: Arc<Mutex<Vec<TaskId>>>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        if !self.queued.swap(true, Ordering::Relaxed) {
            self.ready.lock().unwrap().push(self.task);
        }
    }
}

impl Sim {
    pub fn new(seed: u64, tracing: Tracing) -> Self {
        let world = World {
            now_ms: 0,
            rng: Rng::new(seed),
            events: BTreeMap::new(),
            next_event: 0,
            tasks: BTreeMap::new(),
            next_task: 0,
            nodes: BTreeMap::new(),
            on_crash: None,
            tracing,
            trace: Fnv(0xcbf2_9ce4_8422_2325),
            points: Counts::new(),
        };
        Self { world: Arc::new(Mutex::new(world)), ready: Arc::default() }
    }

    /// Returns a guard that ends this world on drop.
    pub fn ending(&self) -> Ending {
        Ending(self.clone())
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    /// Returns the runtime for code on `node`.
    pub fn runtime(&self, node: Node) -> SharedRuntime {
        Arc::new(NodeRuntime { sim: self.clone(), node })
    }

    pub fn now_ms(&self) -> u64 {
        self.world().now_ms
    }

    /// Draws from the executor's own generator.
    pub fn draw<T>(&self, f: impl FnOnce(&mut Rng) -> T) -> T {
        f(&mut self.world().rng)
    }

    /// Adds a line to the trace.
    pub fn trace(&self, line: fmt::Arguments<'_>) {
        let mut world = self.world();
        if world.tracing == Tracing::Off {
            return;
        }
        let now = world.now_ms;
        writeln!(world.trace, "{now} {line}").unwrap();
        if world.tracing == Tracing::Print {
            #[expect(clippy::print_stderr, reason = "a replay is asked for to be read")]
            {
                eprintln!("{now:>8} {line}");
            }
        }
    }

    /// Counts a coverage point, which a search has to reach.
    pub fn hit(&self, point: &'static str) {
        *self.world().points.entry(point).or_default() += 1;
    }

    /// Returns the count of each coverage point.
    pub fn points(&self) -> Counts {
        self.world().points.clone()
    }

    /// Returns the hash of the trace so far.
    pub fn trace_hash(&self) -> u64 {
        self.world().trace.0
    }

    /// Runs `future` on `node`.
    pub fn spawn(&self, node: Node, future: BoxFuture<'static, ()>) {
        let mut world = self.world();
        let task = world.next_task;
        world.next_task += 1;
        let waker = Arc::new(TaskWaker { task, queued: AtomicBool::new(false), ready: Arc::clone(&self.ready) });
        world.tasks.insert(task, Task { node, waker: Arc::clone(&waker), future: Some(future) });
        drop(world);
        waker.wake();
    }

    /// Calls `event` after `delay_ms`, even if nodes crash.
    pub fn after(&self, delay_ms: u64, event: impl FnOnce(&Self) + Send + 'static) {
        let mut world = self.world();
        let at = world.now_ms + delay_ms;
        world.schedule(at, Event::Call(Box::new(event)));
    }

    /// Drops all futures of `node`, as a kill does.
    pub fn crash(&self, node: Node) {
        self.trace(format_args!("n{node} CRASH"));
        self.hit("node crashed");
        let mut world = self.world();
        let lost: Vec<TaskId> = world.tasks.iter().filter(|(_, task)| task.node == node).map(|(id, _)| *id).collect();
        let lost: Vec<Option<Task>> = lost.iter().map(|id| world.tasks.remove(id)).collect();
        let state = world.nodes.entry(node).or_default();
        state.paused_at_ms = None;
        state.held.clear();
        state.crashes += 1;
        let on_crash = world.on_crash.clone();
        drop(world);
        // Dropped outside the lock, because the futures' destructors may call the executor.
        drop(lost);
        if let Some(on_crash) = on_crash {
            on_crash(self, node);
        }
    }

    /// Sets the handler called after a node's crash.
    pub fn on_crash(&self, handler: impl Fn(&Self, Node) + Send + Sync + 'static) {
        self.world().on_crash = Some(Arc::new(handler));
    }

    /// Crashes `node` at its `k`-th await, counted from 1.
    pub fn crash_at_await(&self, node: Node, k: u64) {
        self.world().nodes.entry(node).or_default().crash_at = Some(k);
    }

    /// Returns the number of awaits of `node` so far.
    pub fn awaits(&self, node: Node) -> u64 {
        self.world().nodes.get(&node).map_or(0, |state| state.awaits)
    }

    /// Returns the number of crashes of `node`, which identifies its incarnation.
    pub fn crashes(&self, node: Node) -> u64 {
        self.world().nodes.get(&node).map_or(0, |state| state.crashes)
    }

    /// Stops running `node`, as SIGSTOP or a long garbage collection does.
    pub fn pause(&self, node: Node) {
        self.trace(format_args!("n{node} PAUSE"));
        self.hit("node paused");
        let mut world = self.world();
        let now = world.now_ms;
        world.nodes.entry(node).or_default().paused_at_ms.get_or_insert(now);
    }

    /// Returns for how long `node` has been paused; `None` if it runs.
    pub fn paused_for_ms(&self, node: Node) -> Option<u64> {
        let world = self.world();
        let paused_at = world.nodes.get(&node)?.paused_at_ms?;
        Some(world.now_ms - paused_at)
    }

    pub fn resume(&self, node: Node) {
        self.trace(format_args!("n{node} RESUME"));
        let mut world = self.world();
        let state = world.nodes.entry(node).or_default();
        state.paused_at_ms = None;
        let held = std::mem::take(&mut state.held);
        drop(world);
        self.ready.lock().unwrap().extend(held);
    }

    /// Moves the wall clock that `node` sees.
    pub fn skew_clock(&self, node: Node, by_ms: i64) {
        self.hit(if by_ms < 0 { "clock went back" } else { "clock went ahead" });
        self.world().nodes.entry(node).or_default().clock_skew_ms += by_ms;
    }

    /// Runs all tasks and events until `time_ms`.
    pub fn run_until(&self, time_ms: u64) {
        while self.step(time_ms) {}
        let mut world = self.world();
        world.now_ms = world.now_ms.max(time_ms);
    }

    /// Runs one task, or advances to the next event until `time_ms`; returns false if there is neither.
    fn step(&self, time_ms: u64) -> bool {
        if self.run_one_task() {
            return true;
        }
        let mut world = self.world();
        let due = world.events.first_key_value().is_some_and(|((at, _), _)| *at <= time_ms);
        let Some(((at, _), event)) = due.then(|| world.events.pop_first()).flatten() else { return false };
        world.now_ms = at;
        drop(world);
        match event {
            Event::Wake(waker) => waker.wake(),
            Event::Call(call) => call(self),
        }
        true
    }

    /// Runs `future` on `node` until it completes; `None` if it takes longer than `limit_ms`.
    pub fn block_on<T: Send + 'static>(
        &self,
        node: Node,
        limit_ms: u64,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let slot = Arc::new(Mutex::new(None));
        let filled = Arc::clone(&slot);
        self.spawn(
            node,
            Box::pin(async move {
                let value = future.await;
                *filled.lock().unwrap() = Some(value);
            }),
        );
        let end = self.now_ms() + limit_ms;
        while slot.lock().unwrap().is_none() {
            if !self.step(end) {
                self.run_until(end);
                break;
            }
        }
        slot.lock().unwrap().take()
    }

    /// Polls one ready task; returns false if there is none.
    fn run_one_task(&self) -> bool {
        let mut world = self.world();
        let Some((id, node, mut future, waker)) = world.choose(&mut self.ready.lock().unwrap()) else {
            return false;
        };
        drop(world);
        waker.queued.store(false, Ordering::Relaxed);
        let pending = {
            let waker = Waker::from(waker);
            future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending()
        };
        let mut world = self.world();
        if !pending {
            world.tasks.remove(&id);
            return true;
        }
        let state = world.nodes.entry(node).or_default();
        state.awaits += 1;
        let crashes = state.crash_at == Some(state.awaits);
        // The task is gone if it crashed its own node.
        let orphan = match world.tasks.get_mut(&id) {
            Some(task) => {
                task.future = Some(future);
                None
            }
            None => Some(future),
        };
        drop(world);
        drop(orphan);
        if crashes {
            self.crash(node);
        }
        true
    }

    /// Completes at `at_ms`.
    async fn sleep_until(self, at_ms: u64) {
        let mut timer = Timer { sim: self, event: None };
        poll_fn(|context| timer.poll(at_ms, context)).await;
    }
}

impl World {
    fn schedule(&mut self, at_ms: u64, event: Event) -> EventId {
        let id = (at_ms, self.next_event);
        self.next_event += 1;
        self.events.insert(id, event);
        id
    }

    /// Takes the future of a random ready task whose node is not paused.
    fn choose(&mut self, ready: &mut Vec<TaskId>) -> Option<(TaskId, Node, BoxFuture<'static, ()>, Arc<TaskWaker>)> {
        while !ready.is_empty() {
            let id = ready.swap_remove(self.rng.index(ready.len()));
            let Some(task) = self.tasks.get_mut(&id) else { continue };
            let state = self.nodes.entry(task.node).or_default();
            if state.paused_at_ms.is_some() {
                state.held.push(id);
                continue;
            }
            let future = task.future.take()?;
            return Some((id, task.node, future, Arc::clone(&task.waker)));
        }
        None
    }
}

/// A wake-up, cancelled on drop.
struct Timer {
    sim: Sim,
    event: Option<(EventId, Waker)>,
}

impl Timer {
    fn poll(&mut self, at_ms: u64, context: &Context<'_>) -> Poll<()> {
        if self.sim.now_ms() >= at_ms {
            return Poll::Ready(());
        }
        if !self.event.as_ref().is_some_and(|(_, waker)| waker.will_wake(context.waker())) {
            self.cancel();
            let waker = context.waker().clone();
            let id = self.sim.world().schedule(at_ms, Event::Wake(waker.clone()));
            self.event = Some((id, waker));
        }
        Poll::Pending
    }

    fn cancel(&mut self) {
        if let Some((id, _)) = self.event.take() {
            let event = self.sim.world().events.remove(&id);
            drop(event);
        }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.cancel();
    }
}

/// The crate's runtime on one node.
#[derive(Clone)]
pub(crate) struct NodeRuntime {
    sim: Sim,
    node: Node,
}

impl fmt::Debug for NodeRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}", self.node)
    }
}

impl Runtime for NodeRuntime {
    fn spawn(&self, future: BoxFuture<'static, ()>) {
        self.sim.spawn(self.node, future);
    }

    fn spawn_blocking(&self, work: Box<dyn FnOnce() + Send>) {
        work();
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let at = self.sim.now_ms() + u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 2);
        Box::pin(self.sim.clone().sleep_until(at))
    }

    fn now(&self) -> Timestamp {
        let world = self.sim.world();
        let skew = world.nodes.get(&self.node).map_or(0, |state| state.clock_skew_ms);
        Timestamp::from_millis(1_700_000_000_000 + i64::try_from(world.now_ms).unwrap_or(i64::MAX / 2) + skew)
    }

    fn monotonic(&self) -> Timestamp {
        Timestamp::from_millis(i64::try_from(self.sim.now_ms()).unwrap_or(i64::MAX))
    }

    fn random(&self) -> u128 {
        self.sim.draw(|rng| u128::from(rng.next()) << 64 | u128::from(rng.next()))
    }
}

/// FNV-1a, for comparing traces.
struct Fnv(u64);

impl Write for Fnv {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        Ok(())
    }
}
