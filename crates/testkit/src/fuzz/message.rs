//! Messages between an owner and its workers: as bytes, and played into both.

use std::collections::VecDeque;

use alluvium::internals::wire::{Body, Envelope, ToOwner, ToWorker, decode, encode};
use alluvium::{
    AdaptiveInterval, Attempt, Barrier, Inbox, Job, JobBuilder, JobId, JobSettings, LogBackend, OperatorSpec, Outbox,
    Owner, Result, SessionId, StoreSettings, Task, Timestamp, Worker, WorkerSettings,
};
use arbitrary::Unstructured;
use bytes::Bytes;
use futures_util::FutureExt as _;

use super::seal;
use super::world::{self, Objects};
use crate::counting::{COUNT, store_on};
use crate::forged::Forged;
use crate::messages;

/// Any bytes as a message of either direction, raw and with the frame corrected.
pub fn message(data: &[u8]) -> Result<()> {
    let sealed = seal::message(data);
    for bytes in [&sealed[..], data] {
        let accepted = [read::<ToOwner>(bytes).is_ok(), read::<ToWorker>(bytes).is_ok()];
        assert!(accepted != [true, true], "a message goes one way");
    }
    read::<ToOwner>(data).or_else(|_| read::<ToWorker>(data))
}

fn read<M: Body>(bytes: &[u8]) -> Result<()> {
    let written = encode(&decode::<M>(bytes)?);
    let again = decode::<M>(&written).expect("encoded output decodes");
    assert_eq!(encode(&again), written, "encoded output is read as it was written");
    Ok(())
}

/// Most steps of a game.
const STEPS_MAX: usize = 100;

/// Plays messages of a real and a forged worker, altered and in any order, into an owner and into the real worker.
/// Then the owner must still commit for honest workers.
pub fn session(data: &[u8]) -> Result<()> {
    world::run(async {
        let mut input = Unstructured::new(data);
        let mut game = Game::new(&mut input).await;
        for _ in 0..STEPS_MAX {
            if input.is_empty() || game.step(&mut input).await.is_err() {
                break;
            }
        }
        game.end().await;
        Ok(())
    })
}

/// The two ends of a link, not carried.
struct Ends {
    inbox: Inbox,
    outbox: Outbox,
}

impl Ends {
    fn new((inbox, outbox): (Inbox, Outbox)) -> Self {
        Self { inbox, outbox }
    }
}

struct Game {
    owner: Owner,
    worker: Worker,
    /// Of the real worker.
    at_owner: Ends,
    at_worker: Ends,
    forged: Forged,
    job: Option<Job>,
    tasks: Vec<Task<LogBackend>>,
    barrier: Option<Barrier>,
    /// Messages seen, newest last, and one of each kind.
    to_owner: VecDeque<Envelope<ToOwner>>,
    to_worker: VecDeque<Envelope<ToWorker>>,
    links: u64,
}

type Played = arbitrary::Result<()>;

impl Game {
    async fn new(input: &mut Unstructured<'_>) -> Self {
        let (memory, store) = world::store(&Objects::new(), 1).await;
        let settings = JobSettings::default().with(|it| {
            it.max_parallelism = 8;
            it.adaptive = input.arbitrary().unwrap_or(false).then(AdaptiveInterval::default);
        });
        let operator = OperatorSpec::new(COUNT, "count", 2);
        let owner = JobBuilder::new(store).settings(settings).operator(operator).owner().expect("good settings");
        let store = store_on(&memory, world::runtime(2), StoreSettings::default());
        let worker = Worker::new(store, WorkerSettings::default());
        let (at_owner, at_worker) = (Ends::new(owner.connect()), Ends::new(worker.connect()));
        let forged = Forged::greeted(&owner, 1);
        let to_owner = messages::to_owner().into_iter().map(|(_, message)| message).collect();
        let to_worker = messages::to_worker().into_iter().map(|(_, message)| message).collect();
        let (job, tasks, barrier, links) = (None, Vec::new(), None, 1);
        let mut game =
            Self { owner, worker, at_owner, at_worker, forged, job, tasks, barrier, to_owner, to_worker, links };
        game.carry_to_owner();
        game.open().await;
        game
    }

    async fn step(&mut self, input: &mut Unstructured<'_>) -> Played {
        match input.int_in_range(0..=9)? {
            0 => self.carry_to_owner(),
            1 => self.carry_to_worker(),
            2 => self.lie_to_owner(input)?,
            3 => self.lie_as_forged(input)?,
            4 => self.lie_to_worker(input)?,
            5 => self.trigger(),
            6 => self.answer(),
            7 => self.open().await,
            8 => self.take_seats().await,
            _ => idle().await,
        }
        Ok(())
    }

    /// Claims an attempt for the workers that are connected.
    async fn open(&mut self) {
        let workers = self.owner.watch_workers().borrow().clone();
        let opened = self.owner.open(&self.owner.seat_evenly(&workers), "payload").await;
        if let Ok(job) = opened {
            (self.job, self.barrier) = (Some(job), None);
        }
        self.forged.hear_all();
    }

    fn trigger(&mut self) {
        let triggered = self.job.as_ref().and_then(|job| job.trigger().ok().flatten());
        let Some(barrier) = triggered else { return };
        self.barrier = Some(barrier);
        for task in &mut self.tasks {
            // Its attempt may have ended.
            let _ended = task.barrier(barrier, Timestamp::MIN, Vec::new());
        }
    }

    fn answer(&mut self) {
        self.forged.hear_all();
        if let Some(barrier) = self.barrier {
            let answer = self.forged.answer(barrier.epoch, barrier.epoch.0.is_multiple_of(2));
            if self.forged.acknowledge(answer).is_err() {
                self.replace_forged();
            }
        }
    }

    async fn take_seats(&mut self) {
        if let Some(Ok(assignment)) = self.worker.assigned().now_or_never() {
            self.tasks.clear();
            for seat in assignment.seats {
                if let Ok(task) = seat.restore(LogBackend::new).await {
                    self.tasks.push(task);
                }
            }
        }
        idle().await;
    }

    fn carry_to_owner(&mut self) {
        while let Some(Some(message)) = self.at_worker.outbox.next().now_or_never() {
            remember(&mut self.to_owner, &message);
            if self.at_owner.inbox.receive(&message).is_err() {
                return self.reconnect();
            }
        }
    }

    fn carry_to_worker(&mut self) {
        while let Some(Some(message)) = self.at_owner.outbox.next().now_or_never() {
            remember(&mut self.to_worker, &message);
            if self.at_worker.inbox.receive(&message).is_err() {
                return self.reconnect();
            }
        }
    }

    fn lie_to_owner(&mut self, input: &mut Unstructured<'_>) -> Played {
        let lie = altered(&self.to_owner, input, None)?;
        if self.at_owner.inbox.receive(&lie).is_err() {
            self.reconnect();
        }
        Ok(())
    }

    fn lie_as_forged(&mut self, input: &mut Unstructured<'_>) -> Played {
        let identity = (self.forged.job, self.forged.attempt, self.forged.session);
        let lie = altered(&self.to_owner, input, Some(identity))?;
        if self.forged.inbox.receive(&lie).is_err() {
            self.replace_forged();
        }
        Ok(())
    }

    fn lie_to_worker(&mut self, input: &mut Unstructured<'_>) -> Played {
        let newest = self.to_owner.back().map(|message| (message.job, message.attempt, message.session));
        let lie = altered(&self.to_worker, input, newest)?;
        if self.at_worker.inbox.receive(&lie).is_err() {
            self.reconnect();
        }
        Ok(())
    }

    /// Breaks the real worker's link, as engines must after an error, and joins it anew.
    fn reconnect(&mut self) {
        self.at_owner = Ends::new(self.owner.connect());
        self.at_worker = Ends::new(self.worker.connect());
        self.carry_to_owner();
    }

    fn replace_forged(&mut self) {
        self.links += 1;
        self.forged = Forged::greeted(&self.owner, self.links);
    }

    /// Lets two honest workers commit.
    async fn end(self) {
        let Self { owner, worker, at_owner, at_worker, forged, job, .. } = self;
        if let Some(failed) = job.and_then(|job| job.progress().failed) {
            assert!(!failed.message().contains("panicked"), "{}", failed.chain());
        }
        drop((worker, at_owner, at_worker, forged));
        let mut honest = [Forged::greeted(&owner, 1 << 40), Forged::greeted(&owner, 1 << 41)];
        let workers = owner.watch_workers().borrow().clone();
        assert_eq!(workers.len(), 2, "broken links are forgotten");
        let job = owner.open(&owner.seat_evenly(&workers), "").await.expect("the job can be claimed");
        for worker in &mut honest {
            worker.assigned().await.expect("its seats");
        }
        let barrier = job.trigger().expect("it runs").expect("nothing is in flight");
        for worker in &mut honest {
            worker.acknowledge(worker.answer(barrier.epoch, false)).expect("a good link");
        }
        let outcome = job.wait(barrier).await;
        assert!(matches!(outcome, Ok(Some(_))), "{outcome:?}: {:?}", job.progress().last_decline);
    }
}

/// Lets the background work.
async fn idle() {
    for _ in 0..16 {
        tokio::task::yield_now().await;
    }
}

/// Most messages to alter.
const REMEMBERED: usize = 64;

fn remember<M: Body>(messages: &mut VecDeque<Envelope<M>>, bytes: &[u8]) {
    messages.push_back(decode(bytes).expect("a message of the library"));
    if messages.len() > REMEMBERED {
        messages.pop_front();
    }
}

type Identity = (JobId, Attempt, SessionId);

/// Returns one of the messages, perhaps under another identity, with some bytes of its body altered and the frame correct.
fn altered<M: Body + Clone>(
    messages: &VecDeque<Envelope<M>>,
    input: &mut Unstructured<'_>,
    identity: Option<Identity>,
) -> arbitrary::Result<Bytes> {
    let mut message = messages[input.choose_index(messages.len())?].clone();
    if let Some((job, attempt, session)) = identity.filter(|_| input.ratio(7, 8).unwrap_or(true)) {
        message = Envelope { job, attempt, session, ..message };
    }
    let mut bytes = encode(&message).to_vec();
    for _ in 0..input.int_in_range(0..=4)? {
        let at = input.int_in_range(0..=bytes.len() - 1)?;
        match input.int_in_range(0..=3)? {
            0 => bytes[at] = input.arbitrary()?,
            1 => bytes[at] ^= 1 << input.int_in_range(0..=7)?,
            2 => bytes.insert(at, input.arbitrary()?),
            _ => drop(bytes.remove(at)),
        }
    }
    if input.ratio(15, 16)? { Ok(seal::message(&bytes).into()) } else { Ok(bytes.into()) }
}
