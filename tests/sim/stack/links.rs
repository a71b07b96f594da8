//! Links between owners and workers: they carry encoded messages, which are delayed, and they break.
//!
//! Messages of a link arrive in order. Each side learns of a break on its own: messages sent before it may arrive all the
//! same, also after the worker has another link, and those still on their way when the other side learns of it are lost.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use alluvium::{Error, Inbox, Outbox, Owner, Result};
use bytes::Bytes;
use futures_util::future::{Either, select};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{oneshot, watch};

use super::seats::Party;
use crate::oracle::Oracle;
use alluvium_testkit::sim::{Node, Rng, Sim};

/// Longest time until a side learns of a break.
const BREAK_MAX_MS: u64 = 1_000;

/// What arrives at one end of a link.
enum Arriving {
    Message(Bytes),
    Broken,
}

/// The owners that accept workers, and the links between both. Clones share it.
#[derive(Clone)]
pub(crate) struct Network {
    sim: Sim,
    oracle: Oracle,
    /// Longest delay of a message.
    slowest_ms: u64,
    state: Arc<Mutex<State>>,
    changed: Arc<watch::Sender<()>>,
    /// Whether workers have as much memory as they want.
    plenty: Arc<AtomicBool>,
}

#[derive(Default)]
struct State {
    /// In the order in which they began.
    listeners: Vec<Listener>,
    links: BTreeMap<u64, Link>,
    next: u64,
    /// By attempt: the workers whose seats are restored.
    staged: BTreeMap<u64, Vec<Result<Party>>>,
    /// Workers given up while they were paused.
    silent: BTreeSet<Node>,
}

struct Listener {
    id: u64,
    node: Node,
    /// `None` while the owner's settings change.
    owner: Option<Arc<Owner>>,
}

struct Link {
    owner: Node,
    worker: Node,
    to_owner: UnboundedSender<Arriving>,
    to_worker: UnboundedSender<Arriving>,
    in_flight: Arc<AtomicU64>,
}

/// Accepts workers until it is dropped.
pub(crate) struct Listening {
    network: Network,
    id: u64,
}

impl Drop for Listening {
    fn drop(&mut self) {
        let gone = {
            let mut state = self.network.state();
            let at = state.listeners.iter().position(|listener| listener.id == self.id);
            at.map(|at| state.listeners.remove(at))
        };
        drop(gone);
        self.network.changed.send_replace(());
    }
}

impl Listening {
    /// Changes the owner's settings. It accepts nobody meanwhile.
    pub(crate) fn change<R>(&self, owner: &mut Arc<Owner>, change: impl FnOnce(&mut Owner) -> R) -> R {
        let put = |other: Option<Arc<Owner>>| {
            let mut state = self.network.state();
            let listener = state.listeners.iter_mut().find(|listener| listener.id == self.id);
            std::mem::replace(&mut listener.expect("it is listed until it is dropped").owner, other)
        };
        drop(put(None));
        let changed = change(Arc::get_mut(owner).expect("nobody else holds the owner"));
        put(Some(Arc::clone(owner)));
        changed
    }
}

/// A worker's hold on its link, which breaks when it is dropped.
pub(crate) struct Dialled {
    /// The listener at the other side.
    pub(crate) listener: u64,
    ours: UnboundedSender<Arriving>,
    /// Completes when the link is broken here.
    pub(crate) broken: oneshot::Receiver<()>,
}

impl Drop for Dialled {
    fn drop(&mut self) {
        drop(self.ours.send(Arriving::Broken));
    }
}

impl Network {
    pub(crate) fn new(sim: &Sim, oracle: &Oracle, slowest_ms: u64) -> Self {
        let (changed, _) = watch::channel(());
        Self {
            sim: sim.clone(),
            oracle: oracle.clone(),
            slowest_ms,
            state: Arc::default(),
            changed: Arc::new(changed),
            plenty: Arc::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Returns a watch on the listeners and the memory of workers.
    pub(crate) fn watch(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Ends the shortage of memory at workers, which start over with more.
    pub(crate) fn end_shortage(&self) {
        self.plenty.store(true, Ordering::Relaxed);
        self.changed.send_replace(());
    }

    pub(crate) fn has_plenty(&self) -> bool {
        self.plenty.load(Ordering::Relaxed)
    }

    /// Lets workers connect to an owner on `node`.
    pub(crate) fn listen(&self, node: Node, owner: &Arc<Owner>) -> Listening {
        let id = {
            let mut state = self.state();
            state.next += 1;
            let id = state.next;
            if state.listeners.iter().any(|other| self.sim.paused_for_ms(other.node).is_some()) {
                self.sim.hit("owner replaced while it was paused");
            }
            state.listeners.push(Listener { id, node, owner: Some(Arc::clone(owner)) });
            id
        };
        self.changed.send_replace(());
        Listening { network: self.clone(), id }
    }

    /// Returns the newest listener, or now and then any.
    pub(crate) fn choose(&self, rng: &mut Rng) -> Option<u64> {
        let state = self.state();
        let newest = state.listeners.last()?.id;
        Some(if rng.permille(100) { state.listeners[rng.index(state.listeners.len())].id } else { newest })
    }

    /// Connects a worker to a listener.
    pub(crate) fn dial(&self, worker: Node, listener: u64, halves: (Inbox, Outbox)) -> Dialled {
        let ((to_owner, at_owner), (to_worker, at_worker)) = (unbounded_channel(), unbounded_channel());
        let in_flight = Arc::<AtomicU64>::default();
        let mut state = self.state();
        state.links.retain(|_, link| !link.to_owner.is_closed() || !link.to_worker.is_closed());
        let old = state.links.values().filter(|link| link.worker == worker);
        if old.map(|link| link.in_flight.load(Ordering::Relaxed)).sum::<u64>() > 0 {
            self.sim.hit("link made anew with old messages in flight");
        }
        state.next += 1;
        let id = state.next;
        let owner = state.listeners.iter().find(|other| other.id == listener).map(|listener| listener.node);
        let (ours, owners) = (to_worker.clone(), to_owner.clone());
        if let Some(owner) = owner {
            let (to_owner, to_worker) = (owners.clone(), ours.clone());
            state.links.insert(id, Link { owner, worker, to_owner, to_worker, in_flight: Arc::clone(&in_flight) });
        }
        drop(state);
        let wire =
            |to| Wire { network: self.clone(), id, worker, to, in_flight: Arc::clone(&in_flight), last_at_ms: 0 };
        let (to_owner, to_worker) = (wire(to_owner), wire(to_worker));
        let (ended, broken) = oneshot::channel();
        let at_worker = async move {
            carry(halves, to_owner, at_worker).await;
            drop(ended);
        };
        self.sim.spawn(worker, Box::pin(at_worker));
        let network = self.clone();
        self.sim.after(self.draw_delay(), move |sim| {
            let accepted = {
                let state = network.state();
                let listener = state.listeners.iter().find(|other| other.id == listener);
                listener.and_then(|listener| Some((listener.node, Arc::clone(listener.owner.as_ref()?))))
            };
            // A refused connection drops this end, which breaks the link for the worker.
            let Some((node, owner)) = accepted else { return drop((to_worker, at_owner)) };
            sim.spawn(node, Box::pin(carry(owner.connect(), to_worker, at_owner)));
        });
        Dialled { listener, ours, broken }
    }

    fn draw_delay(&self) -> u64 {
        self.sim.draw(|rng| rng.within(0, self.slowest_ms))
    }

    /// Breaks a random link at one of its ends.
    pub(crate) fn break_one(&self) {
        let state = self.state();
        let open: Vec<_> = state.links.values().filter(|link| !link.to_owner.is_closed()).collect();
        let (at, at_owner) = self.sim.draw(|rng| (rng.index(open.len().max(1)), rng.permille(500)));
        let Some(link) = open.get(at) else { return };
        self.sim.trace(format_args!("link of n{} to n{} breaks", link.worker, link.owner));
        drop(if at_owner { &link.to_owner } else { &link.to_worker }.send(Arriving::Broken));
    }

    /// Gives up the workers of an owner that have been paused for longer than `patience_ms`.
    pub(crate) fn give_up_silent(&self, owner: Node, patience_ms: u64) {
        let mut state = self.state();
        let mut given_up = Vec::new();
        for link in state.links.values().filter(|link| link.owner == owner && !link.to_owner.is_closed()) {
            if self.sim.paused_for_ms(link.worker) > Some(patience_ms) {
                drop(link.to_owner.send(Arriving::Broken));
                given_up.push(link.worker);
            }
        }
        if !given_up.is_empty() {
            self.sim.hit("worker given up while it was paused");
            state.silent.extend(given_up);
        }
    }

    /// Returns whether the worker was given up while it was paused, and forgets it.
    pub(crate) fn was_given_up(&self, worker: Node) -> bool {
        self.state().silent.remove(&worker)
    }

    /// Passes the restored seats of a worker, or why there are none, to the engine of the attempt.
    pub(crate) fn stage(&self, attempt: u64, party: Result<Party>) {
        self.state().staged.entry(attempt).or_default().push(party);
    }

    /// Takes what workers have restored for an attempt since the last call.
    pub(crate) fn take_staged(&self, attempt: u64) -> Vec<Result<Party>> {
        let mut state = self.state();
        let taken = state.staged.remove(&attempt).unwrap_or_default();
        let old = std::mem::take(&mut state.staged);
        let (kept, old) = old.into_iter().partition(|(of, _)| *of > attempt);
        state.staged = kept;
        drop(state);
        let _dropped_outside_the_lock: BTreeMap<u64, Vec<Result<Party>>> = old;
        taken
    }
}

/// The sending side of one direction.
struct Wire {
    network: Network,
    id: u64,
    worker: Node,
    to: UnboundedSender<Arriving>,
    in_flight: Arc<AtomicU64>,
    last_at_ms: u64,
}

impl Wire {
    fn send(&mut self, message: Bytes) {
        let sim = &self.network.sim;
        let now = sim.now_ms();
        self.last_at_ms = self.last_at_ms.max(now + self.network.draw_delay());
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        let (to, in_flight) = (self.to.clone(), Arc::clone(&self.in_flight));
        sim.after(self.last_at_ms - now, move |_| {
            in_flight.fetch_sub(1, Ordering::Relaxed);
            // A side that knows of the break receives nothing more.
            drop(to.send(Arriving::Message(message)));
        });
    }

    /// Returns whether the worker has a newer link.
    fn is_old(&self) -> bool {
        self.network.state().links.iter().any(|(id, link)| *id > self.id && link.worker == self.worker)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        let (to, delay_ms) = (self.to.clone(), self.network.sim.draw(|rng| rng.within(0, BREAK_MAX_MS)));
        self.network.sim.after(delay_ms, move |_| drop(to.send(Arriving::Broken)));
    }
}

/// Carries messages at one end of a link until either side breaks it.
async fn carry((mut inbox, mut outbox): (Inbox, Outbox), mut wire: Wire, mut arriving: UnboundedReceiver<Arriving>) {
    loop {
        let next = match select(pin!(outbox.next()), pin!(arriving.recv())).await {
            Either::Left((message, _)) => Either::Left(message),
            Either::Right((arrived, _)) => Either::Right(arrived),
        };
        match next {
            Either::Left(Some(message)) => wire.send(message),
            Either::Right(Some(Arriving::Message(message))) => {
                if wire.is_old() {
                    wire.network.sim.hit("message of an old link arrived");
                }
                if let Err(error) = inbox.receive(&message) {
                    refused(&wire.network.oracle, &error);
                    break;
                }
            }
            Either::Left(None) | Either::Right(None | Some(Arriving::Broken)) => break,
        }
    }
    wire.network.sim.hit("link broke");
}

/// Nothing damages messages, and nobody sends forbidden ones.
fn refused(oracle: &Oracle, error: &Error) {
    oracle.violation(format!("a sound message was refused: {}", error.chain()));
}
