//! Messages between an owner and its workers that are late, doubled or wrong. Real workers send most of them; the test
//! withholds some, alters them, and delivers them when it likes.

use std::sync::Arc;
use std::time::Duration;

use alluvium::internals::wire::{Acknowledge, Acknowledgement, Envelope, Kept, ToOwner, decode, encode};
use alluvium::manifest::{ObjectId, SubtaskEntry, SubtaskManifest};
use alluvium::{
    Attempt, Barrier, Epoch, Error, ErrorKind, Inbox, Job, JobBuilder, JobSettings, KeyGroupRange, LogBackend,
    ManifestId, ManifestLog, OperatorId, OperatorSpec, Outbox, Owner, Raw, Result, Seating, SessionId, SharedRuntime,
    Store, Subtask, Task, Timestamp, ValueState, Worker, WorkerSettings, subtask_range,
};
use futures_util::future::FutureExt as _;

use super::{Rig, upload};
use alluvium_testkit::sim::{Fate, Operation};

const STATE: OperatorId = OperatorId(1);
const GROUPS: u16 = 16;

/// A job over links that the test carries, with `seats[i]` subtasks at worker `i`.
struct Wired {
    runtime: SharedRuntime,
    owner: Owner,
    seats: Vec<u32>,
    hands: Vec<Hand>,
    job: Option<Job>,
}

/// A task and its table.
type TaskWithTable = (Task<LogBackend>, ValueState<Vec<u8>, Raw>);

/// A worker and its link.
struct Hand {
    worker: Worker,
    /// `None` once the link is broken.
    ends: Option<Ends>,
    tasks: Vec<TaskWithTable>,
    withholds: bool,
    withheld: Vec<Envelope<ToOwner>>,
    session: SessionId,
}

struct Ends {
    at_worker: Inbox,
    from_worker: Outbox,
    at_owner: Inbox,
    from_owner: Outbox,
}

impl Hand {
    fn new(owner: &Owner, store: Store) -> Self {
        let worker = Worker::new(store, WorkerSettings::default());
        let ((at_worker, from_worker), (at_owner, from_owner)) = (worker.connect(), owner.connect());
        let ends = Some(Ends { at_worker, from_worker, at_owner, from_owner });
        let session = SessionId::default();
        Self { worker, ends, tasks: Vec::new(), withholds: false, withheld: Vec::new(), session }
    }

    /// Carries all messages; withholds acknowledgements on request.
    fn carry(&mut self) {
        let Some(ends) = &mut self.ends else { return };
        while let Some(Some(message)) = ends.from_owner.next().now_or_never() {
            ends.at_worker.receive(&message).unwrap();
        }
        while let Some(Some(bytes)) = ends.from_worker.next().now_or_never() {
            let message: Envelope<ToOwner> = decode(&bytes).unwrap();
            self.session = message.session;
            if self.withholds && matches!(message.body, ToOwner::Acknowledge(_)) {
                self.withheld.push(message);
            } else {
                ends.at_owner.receive(&bytes).unwrap();
            }
        }
    }

    fn send(&mut self, message: &Envelope<ToOwner>) -> Result<()> {
        self.ends.as_mut().expect("the link is whole").at_owner.receive(&encode(message))
    }

    /// Changes a row in every task, and passes a barrier.
    fn barrier(&mut self, barrier: Barrier) {
        for (task, value) in &mut self.tasks {
            let key = (0u32..).map(|key| key.to_le_bytes()).find(|key| {
                let group = task.state().locate_routed(key, 0).group;
                task.groups().contains(group)
            });
            task.state().set_key(&key.unwrap()).unwrap();
            value.put(task.state(), &format!("{barrier:?}").into_bytes()).unwrap();
            task.barrier(barrier, Timestamp::MIN, Vec::new()).unwrap();
        }
    }
}

impl Wired {
    async fn open(stores: Vec<Store>, seats: &[u32]) -> Self {
        let mut stores = stores.into_iter();
        let store = stores.next().unwrap();
        let runtime = store.runtime().clone();
        let settings = JobSettings::default().with(|it| it.max_parallelism = GROUPS);
        let operator = OperatorSpec::new(STATE, "state", seats.iter().sum());
        let owner = JobBuilder::new(store).settings(settings).operator(operator).owner().unwrap();
        let hands = stores.map(|store| Hand::new(&owner, store)).collect();
        let mut wired = Self { runtime, owner, seats: seats.to_vec(), hands, job: None };
        wired.carry().await;
        wired.begin().await;
        wired
    }

    /// Opens the next attempt with the connected workers; those whose link is broken leave their seats to the first.
    async fn begin(&mut self) {
        let mut seating = Seating::new();
        let mut next = 0..;
        let whole = self.hands.iter().find(|hand| hand.ends.is_some()).unwrap().session;
        for (hand, seats) in self.hands.iter().zip(&self.seats) {
            let session = if hand.ends.is_some() { hand.session } else { whole };
            next.by_ref().take(*seats as usize).for_each(|index| seating.give(STATE, Subtask(index), session));
        }
        self.job = Some(self.owner.open(&seating, "").await.unwrap());
        self.carry().await;
        for hand in self.hands.iter_mut().filter(|hand| hand.ends.is_some()) {
            hand.tasks.clear();
            let mut assignment = hand.worker.assigned().await.unwrap();
            for mut seat in std::mem::take(&mut assignment.seats) {
                let value = seat.tables().value("value", Raw).unwrap();
                hand.tasks.push((seat.restore(LogBackend::new).await.unwrap(), value));
            }
        }
        self.carry().await;
    }

    /// Carries messages until nothing more happens.
    async fn carry(&mut self) {
        for _ in 0..40 {
            self.runtime.sleep(Duration::from_millis(5)).await;
            self.hands.iter_mut().for_each(Hand::carry);
        }
    }

    fn job(&self) -> &Job {
        self.job.as_ref().unwrap()
    }

    fn trigger(&self) -> Barrier {
        self.job().trigger().unwrap().unwrap()
    }

    /// Takes one checkpoint.
    async fn checkpoint(&mut self) -> ManifestId {
        let barrier = self.trigger();
        self.hands.iter_mut().for_each(|hand| hand.barrier(barrier));
        self.carry().await;
        self.outcome(barrier).expect("the epoch has ended").expect("it is committed")
    }

    /// Triggers an epoch in which worker 0 withholds its acknowledgement, and returns that.
    async fn withhold(&mut self) -> (Barrier, Envelope<ToOwner>) {
        let barrier = self.trigger();
        self.hands[0].withholds = true;
        self.hands.iter_mut().for_each(|hand| hand.barrier(barrier));
        self.carry().await;
        self.hands[0].withholds = false;
        assert_eq!(self.outcome(barrier), None);
        (barrier, self.hands[0].withheld.pop().unwrap())
    }

    /// Returns how the epoch ended; `None` while it has not.
    fn outcome(&self, barrier: Barrier) -> Option<Option<ManifestId>> {
        self.job().wait(barrier).now_or_never().map(Result::unwrap)
    }

    fn refused(&self) -> u64 {
        self.owner.refused().messages
    }

    /// A wrong acknowledgement was refused for `reason`: its epoch is given up, the job continues, and the next checkpoint
    /// holds everything.
    async fn wrong_is_refused(&mut self, barrier: Barrier, wrong: &Envelope<ToOwner>, reason: &str) {
        let before = self.refused();
        self.hands[0].send(wrong).unwrap();
        self.carry().await;
        assert_eq!(self.outcome(barrier), Some(None), "{reason}");
        assert_eq!(self.refused(), before + 1, "{reason}");
        let aborted = self.job().progress().last_aborted.unwrap();
        assert!(aborted.reason.chain().contains(reason), "{reason}: {}", aborted.reason.chain());
        self.checkpoint().await;
    }
}

/// Runs `law` on a job with `seats[i]` subtasks at worker `i`, then checks that everything live is in the store.
fn on_wire<F: Future<Output = ()> + Send + 'static>(
    seats: &[u32],
    law: impl FnOnce(Arc<Rig>, Wired) -> F + Send + 'static,
) {
    let rig = Arc::new(Rig::new());
    let stores = (0..=seats.len()).map(|node| rig.store(node)).collect();
    let (inner, seats) = (Arc::clone(&rig), seats.to_vec());
    let _ending = rig.sim.ending();
    rig.on(0, async move {
        let wired = Wired::open(stores, &seats).await;
        law(inner, wired).await;
    });
    assert!(!rig.check_live().is_empty());
}

/// Returns an acknowledgement after a change.
fn altered(message: &Envelope<ToOwner>, change: impl FnOnce(&mut Acknowledge)) -> Envelope<ToOwner> {
    let mut message = message.clone();
    let ToOwner::Acknowledge(acknowledge) = &mut message.body else { panic!("not an acknowledgement") };
    change(acknowledge);
    message
}

fn acknowledge(message: &Envelope<ToOwner>) -> &Acknowledge {
    match &message.body {
        ToOwner::Acknowledge(acknowledge) => acknowledge,
        other => panic!("{other:?}"),
    }
}

fn inline(acknowledgement: &mut Acknowledgement) -> &mut SubtaskManifest {
    match &mut acknowledgement.entry {
        SubtaskEntry::Inline(manifest) => manifest,
        SubtaskEntry::Slice(slice) => panic!("{slice:?}"),
    }
}

#[test]
pub(super) fn b22_what_another_attempt_session_or_epoch_sent_changes_nothing() {
    on_wire(&[1, 1], |_, mut wired| async move {
        let (first, old) = wired.withhold().await;
        wired.begin().await;
        let barrier = wired.trigger();
        assert_eq!((barrier.epoch, barrier.attempt), (first.epoch, Attempt(2)));
        wired.hands[1].barrier(barrier);
        wired.carry().await;
        wired.hands[0].send(&old).unwrap();
        let of_current = Envelope { attempt: barrier.attempt, ..old.clone() };
        let never = altered(&of_current, |acknowledge| acknowledge.epoch = Epoch(99));
        wired.hands[0].send(&never).unwrap();
        let foreign = Envelope { session: wired.hands[1].session, ..of_current };
        assert_eq!(wired.hands[0].send(&foreign).map_err(|error| error.kind()), Err(ErrorKind::Corrupt));
        wired.carry().await;
        assert_eq!((wired.outcome(barrier), wired.refused()), (None, 3));
        wired.hands[0].barrier(barrier);
        wired.carry().await;
        assert!(wired.outcome(barrier).unwrap().is_some());
    });
}

#[test]
pub(super) fn b23_of_two_acknowledgements_the_first_counts() {
    on_wire(&[1, 1], |rig, mut wired| async move {
        wired.hands[1].withholds = true;
        let (barrier, message) = wired.withhold().await;
        wired.hands[0].send(&message).unwrap();
        let other = |acknowledge: &mut Acknowledge| {
            inline(&mut acknowledge.placed.acknowledgements[0]).watermark = Timestamp::from_millis(77);
        };
        wired.hands[0].send(&altered(&message, other)).unwrap();
        wired.carry().await;
        assert_eq!((wired.outcome(barrier), wired.refused()), (None, 1));
        let last = wired.hands[1].withheld.pop().unwrap();
        wired.hands[1].send(&last).unwrap();
        wired.carry().await;
        assert!(wired.outcome(barrier).unwrap().is_some());
        let chain = ManifestLog::load(&rig.store(0)).await.unwrap();
        match &chain.newest().unwrap().unwrap().manifest.operators[0].subtasks[0] {
            SubtaskEntry::Inline(manifest) => assert_eq!(manifest.watermark, Timestamp::MIN),
            SubtaskEntry::Slice(slice) => panic!("{slice:?}"),
        }
    });
}

#[test]
pub(super) fn b24_an_answer_for_another_workers_seat_is_refused() {
    on_wire(&[1, 1], |_, mut wired| async move {
        wired.checkpoint().await;
        wired.hands[1].withholds = true;
        let (barrier, message) = wired.withhold().await;
        wired.hands[1].withholds = false;
        let wrong = altered(&message, |acknowledge| {
            let mut foreign = acknowledge.placed.acknowledgements[0].clone();
            foreign.participant.1 = Subtask(1);
            let manifest = inline(&mut foreign);
            (manifest.subtask, manifest.groups) = (Subtask(1), subtask_range(GROUPS, 2, 1).into());
            (manifest.segments, manifest.times) = (Vec::new(), Vec::new());
            acknowledge.placed.acknowledgements.push(foreign);
        });
        wired.wrong_is_refused(barrier, &wrong, "a seat that it was not given").await;
    });
}

#[test]
pub(super) fn b24_groups_with_a_hole_or_an_overlap_and_seats_left_out_are_refused() {
    on_wire(&[2, 1], |_, mut wired| async move {
        let own = subtask_range(GROUPS, 3, 0);
        for (start, end) in [(own.start + 1, own.end), (own.start, own.end + 1)] {
            let (barrier, message) = wired.withhold().await;
            let wrong = altered(&message, |acknowledge| {
                inline(&mut acknowledge.placed.acknowledgements[0]).groups = KeyGroupRange::new(start, end).into();
            });
            wired.wrong_is_refused(barrier, &wrong, "other key groups than its seat's").await;
        }
        let (barrier, message) = wired.withhold().await;
        let wrong = altered(&message, |acknowledge| drop(acknowledge.placed.acknowledgements.pop()));
        wired.wrong_is_refused(barrier, &wrong, "some of its seats only").await;
        let (barrier, message) = wired.withhold().await;
        let wrong = altered(&message, |acknowledge| {
            let again = acknowledge.placed.acknowledgements[0].clone();
            acknowledge.placed.acknowledgements.push(again);
        });
        wired.wrong_is_refused(barrier, &wrong, "answers twice for a seat").await;
    });
}

#[test]
pub(super) fn b25_what_another_worker_uploaded_and_what_nobody_listed_is_refused() {
    on_wire(&[1, 1], |_, mut wired| async move {
        wired.hands[1].withholds = true;
        let (barrier, message) = wired.withhold().await;
        wired.hands[1].withholds = false;
        let other = wired.hands[1].withheld.pop().unwrap();
        wired.hands[1].send(&other).unwrap();
        wired.carry().await;
        let foreign = acknowledge(&other).placed.objects.clone();
        let wrong = altered(&message, |acknowledge| acknowledge.placed.objects.extend(foreign.clone()));
        wired.wrong_is_refused(barrier, &wrong, "uploaded by another worker").await;

        let (barrier, message) = wired.withhold().await;
        let wrong = altered(&message, |acknowledge| {
            acknowledge.placed.kept.extend(foreign.iter().map(|it| Kept { id: it.id, live_bytes: 1 }))
        });
        wired.wrong_is_refused(barrier, &wrong, "uploaded by another worker").await;

        let (barrier, message) = wired.withhold().await;
        let wrong = altered(&message, |acknowledge| acknowledge.placed.objects.clear());
        wired.wrong_is_refused(barrier, &wrong, "is not listed").await;

        let (barrier, message) = wired.withhold().await;
        let nowhere = ObjectId { attempt: Attempt(1), random: [7; 16] };
        let wrong = altered(&message, |acknowledge| acknowledge.placed.kept.push(Kept { id: nowhere, live_bytes: 1 }));
        wired.wrong_is_refused(barrier, &wrong, "in no committed checkpoint").await;

        let (barrier, message) = wired.withhold().await;
        let wrong = altered(&message, |acknowledge| acknowledge.placed.objects[0].id.attempt = Attempt(7));
        wired.wrong_is_refused(barrier, &wrong, "an object of another attempt").await;
    });
}

#[test]
pub(super) fn b26_an_epoch_whose_manifest_is_being_created_is_not_given_up() {
    on_wire(&[1, 1], |rig, mut wired| async move {
        wired.checkpoint().await;
        rig.next_call(Operation::Put, "manifest/", Fate::ok(1_000));
        let barrier = wired.trigger();
        wired.hands.iter_mut().for_each(|hand| hand.barrier(barrier));
        wired.carry().await;
        let (session, job) = (wired.hands[0].session, wired.job().id());
        let body = ToOwner::Decline(barrier.epoch, Error::unavailable("too late"));
        wired.hands[0].send(&Envelope { job, attempt: barrier.attempt, session, body }).unwrap();
        wired.carry().await;
        assert_eq!(wired.outcome(barrier), None, "only the store knows");
        for _ in 0..6 {
            wired.carry().await;
        }
        assert!(wired.outcome(barrier).unwrap().is_some());
        assert_eq!(wired.job().progress().aborted, 0);
    });
}

#[test]
fn b27_a_worker_that_is_lost_ends_the_attempt_and_the_next_goes_on_without_it() {
    on_wire(&[1, 1], |_, mut wired| async move {
        let committed = wired.checkpoint().await;
        let (barrier, _) = wired.withhold().await;
        wired.hands[0].ends = None;
        wired.carry().await;
        let progress = wired.job().progress();
        assert_eq!(progress.failed.map(|error| error.kind()), Some(ErrorKind::Stopped));
        assert_eq!(progress.last_aborted.map(|aborted| aborted.epoch), Some(barrier.epoch));
        for hand in &mut wired.hands {
            let (task, _) = &mut hand.tasks[0];
            let error = task.barrier(barrier, Timestamp::MIN, Vec::new()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Stopped, "{error}");
        }
        wired.begin().await;
        assert_eq!(wired.job().restored().map(|restored| restored.id), Some(committed));
        assert_eq!(wired.hands[1].tasks.len(), 2);
        wired.hands.remove(0);
        wired.checkpoint().await;
    });
}

#[test]
pub(super) fn c13_a_late_sweep_takes_what_lost_workers_left_and_nothing_of_this_attempt() {
    on_wire(&[1, 1], |rig, mut wired| async move {
        wired.checkpoint().await;
        wired.begin().await;
        // An upload of attempt 1 that lands after attempt 2 has swept.
        let late = upload(&rig.store(1), Attempt(1), 0).await.unwrap();
        for _ in 0..7 {
            wired.checkpoint().await;
        }
        assert!(rig.has(&late));
        let [eighth, ninth] = [wired.trigger(), wired.trigger()];
        // Worker 0 is ahead: its state of the ninth epoch is uploaded when the eighth is committed, and the sweep runs.
        wired.hands[0].barrier(eighth);
        wired.hands[0].barrier(ninth);
        wired.carry().await;
        wired.hands[1].barrier(eighth);
        wired.carry().await;
        assert!(wired.outcome(eighth).unwrap().is_some());
        assert!(!rig.has(&late), "the late upload is an orphan");
        wired.hands[1].barrier(ninth);
        wired.carry().await;
        assert!(wired.outcome(ninth).unwrap().is_some());
    });
}
