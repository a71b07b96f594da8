//! Messages that no worker should send: each is refused with its error and counted, and the job continues.

use alluvium::internals::wire::{Acknowledge, Envelope, Kept, ToOwner, ToWorker, encode};
use alluvium::manifest::{INLINE_OPAQUE_BYTES, Layout, ObjectId, SegmentRef, SubtaskEntry, SubtaskManifest};
use alluvium::{
    Attempt, Epoch, ErrorKind, Job, JobId, JobSettings, KeyGroupSet, Opaque, OpaqueRole, OperatorId, Owner, Result,
    Schema, SessionId, Subtask,
};
use alluvium_testkit::forged::Forged;
use alluvium_testkit::{COUNT, Gate, messages};

use crate::members::builder;

/// A job of four subtasks on two forged workers.
struct Game {
    owner: Owner,
    job: Job,
    workers: [Forged; 2],
}

impl Game {
    async fn new() -> Result<Self> {
        let owner = builder(&Gate::new(), 4, JobSettings::default()).owner()?;
        let mut workers = [Forged::greeted(&owner, 1), Forged::greeted(&owner, 2)];
        let job = Self::begin(&owner, &mut workers).await?;
        Ok(Self { owner, job, workers })
    }

    async fn begin(owner: &Owner, workers: &mut [Forged; 2]) -> Result<Job> {
        let connected = owner.watch_workers().borrow().clone();
        let job = owner.open(&owner.seat_evenly(&connected), "").await?;
        for worker in workers {
            worker.assigned().await?;
        }
        Ok(job)
    }

    fn trigger(&self) -> Result<Epoch> {
        Ok(self.job.trigger()?.expect("few epochs are in flight").epoch)
    }

    /// Completes an epoch with good answers, and asserts that all `refused` messages are counted by then.
    async fn go_on(&mut self, refused: u64) -> Result<()> {
        let epoch = self.trigger()?;
        for worker in &mut self.workers {
            worker.acknowledge(worker.answer(epoch, false))?;
        }
        assert!(self.job.wait(epoch).await?.is_some(), "{:?}", self.job.progress().last_decline);
        assert_eq!(self.owner.refused().messages, refused, "{:?}", self.owner.refused().last);
        Ok(())
    }
}

type Edit = fn(&mut Acknowledge);

fn inline(acknowledge: &mut Acknowledge) -> &mut SubtaskManifest {
    match &mut acknowledge.placed.acknowledgements[0].entry {
        SubtaskEntry::Inline(manifest) => manifest,
        other => panic!("{other:?}"),
    }
}

fn segment(acknowledge: &mut Acknowledge) -> &mut SegmentRef {
    &mut inline(acknowledge).segments[0]
}

fn strange() -> ObjectId {
    ObjectId { attempt: Attempt(1), random: [0xee; 16] }
}

/// Answers for seats that a worker must not give.
const SEATS: [(&str, Edit); 8] = [
    ("for another worker's seat", |it| it.placed.acknowledgements[0].participant.1 = Subtask(0)),
    ("for no subtask", |it| it.placed.acknowledgements[0].participant.1 = Subtask(4)),
    ("for no operator", |it| it.placed.acknowledgements[0].participant.0 = OperatorId(2)),
    ("for some seats only", |it| drop(it.placed.acknowledgements.pop())),
    ("for none", |it| it.placed.acknowledgements.clear()),
    ("twice for a seat", |it| it.placed.acknowledgements.push(it.placed.acknowledgements[0].clone())),
    ("for other groups", |it| inline(it).groups = KeyGroupSet::all(128)),
    ("for no groups", |it| inline(it).groups = KeyGroupSet::empty()),
];

/// References to what is not the worker's to refer to.
const REFERENCES: [(&str, Edit); 8] = [
    ("an object of another attempt", |it| it.placed.objects[0].id.attempt = Attempt(2)),
    ("an object of no attempt", |it| {
        it.placed.objects.push(messages::object(ObjectId { attempt: Attempt(0), random: [1; 16] }))
    }),
    ("an object that it does not list", |it| it.placed.objects.clear()),
    ("a segment in an object that it does not list", |it| segment(it).object = strange()),
    ("a kept object that nobody lists", |it| it.placed.kept.push(Kept { id: strange(), live_bytes: 1 })),
    ("an object twice", |it| it.placed.objects.push(it.placed.objects[0].clone())),
    ("shards too small for their object", |it| {
        it.placed.objects[0].layout = Layout::Shards { k: 4, m: 2, shard_bytes: 1 };
    }),
    ("a slice beyond its object", |it| {
        let object = it.placed.objects[0].id;
        let entry = messages::slice(object, inline(it));
        it.placed.acknowledgements[0].entry = entry;
        it.placed.objects[0].bytes = 2100;
    }),
];

/// Subtask manifests that break rules.
const RULES: [(&str, Edit); 8] = [
    ("another subtask's manifest", |it| inline(it).subtask = Subtask(3)),
    ("a segment of groups that are not its own", |it| segment(it).groups = KeyGroupSet::all(128)),
    ("a segment beyond its object", |it| segment(it).offset = 4000),
    ("a segment whose end overflows", |it| segment(it).offset = u64::MAX),
    ("a segment of a later epoch", |it| segment(it).id.epoch = Epoch(1 << 40)),
    ("an index outside its segment", |it| segment(it).index_offset = 1000),
    ("an inline opaque that is too long", |it| {
        let bytes = vec![0; INLINE_OPAQUE_BYTES + 1];
        inline(it).opaques.push(Opaque::new(OpaqueRole::Source, "x", bytes));
    }),
    ("two opaques of one name", |it| {
        let opaque = Opaque::new(OpaqueRole::Source, "x", "y");
        inline(it).opaques.extend([opaque.clone(), opaque]);
    }),
];

#[tokio::test(flavor = "multi_thread")]
async fn wrong_answers_abort_their_epoch_and_are_counted() -> Result<()> {
    let mut game = Game::new().await?;
    let usage = SEATS.map(|case| (case, ErrorKind::Usage));
    let corrupt = REFERENCES.into_iter().chain(RULES).map(|case| (case, ErrorKind::Corrupt));
    let mut refused = 0;
    for ((name, edit), kind) in usage.into_iter().chain(corrupt) {
        let epoch = game.trigger()?;
        let [first, second] = &mut game.workers;
        first.acknowledge(first.answer(epoch, false))?;
        let mut answer = second.answer(epoch, false);
        edit(&mut answer);
        second.acknowledge(answer)?;
        assert!(game.job.wait(epoch).await?.is_none(), "{name} is accepted");
        refused += 1;
        let seen = game.owner.refused();
        assert_eq!((seen.messages, seen.last.map(|error| error.kind())), (refused, Some(kind)), "{name}");
        assert_eq!(game.job.progress().last_decline.unwrap().kind(), kind, "{name}");
    }
    game.go_on(refused).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_worker_uploaded_is_not_a_workers_to_list() -> Result<()> {
    let mut game = Game::new().await?;
    let epoch = game.trigger()?;
    let [first, second] = &mut game.workers;
    first.acknowledge(first.answer(epoch, false))?;
    let mut answer = second.answer(epoch, false);
    answer.placed.objects.push(messages::object(first.object(epoch)));
    second.acknowledge(answer)?;
    assert!(game.job.wait(epoch).await?.is_none());
    game.go_on(1).await?;
    // A committed object is still its uploader's.
    let committed = Epoch(epoch.0 + 1);
    for (sliced, refused) in [(false, 2), (true, 3)] {
        let epoch = game.trigger()?;
        let [first, second] = &mut game.workers;
        first.acknowledge(first.answer(epoch, sliced))?;
        let mut answer = second.answer(epoch, sliced);
        answer.placed.kept.push(Kept { id: first.object(committed), live_bytes: 1 });
        second.acknowledge(answer)?;
        assert!(game.job.wait(epoch).await?.is_none());
        assert_eq!(game.owner.refused().last.unwrap().kind(), ErrorKind::Corrupt);
        assert_eq!(game.owner.refused().messages, refused);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_disagree_on_a_table_abort_the_epoch() -> Result<()> {
    let mut game = Game::new().await?;
    let epoch = game.trigger()?;
    let [first, second] = &mut game.workers;
    first.acknowledge(first.answer(epoch, false))?;
    let mut answer = second.answer(epoch, false);
    for acknowledgement in &mut answer.placed.acknowledgements {
        let mut tables = acknowledgement.summary.tables.to_vec();
        tables[0].schema.value = Schema::new("utf8");
        acknowledgement.summary.tables = tables.into();
    }
    second.acknowledge(answer)?;
    assert!(game.job.wait(epoch).await?.is_none());
    assert_eq!(game.job.progress().last_decline.unwrap().kind(), ErrorKind::Config);
    game.go_on(0).await
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_out_of_order_are_counted_and_change_nothing() -> Result<()> {
    let mut game = Game::new().await?;
    game.go_on(0).await?;
    // Twice.
    let epoch = game.trigger()?;
    let [first, second] = &mut game.workers;
    for _ in 0..2 {
        first.acknowledge(first.answer(epoch, false))?;
    }
    second.acknowledge(second.answer(epoch, false))?;
    assert!(game.job.wait(epoch).await?.is_some());
    assert_eq!(game.owner.refused().last.unwrap().kind(), ErrorKind::Usage);
    game.go_on(1).await?;
    // For an epoch that has ended, and for one that was never triggered.
    let last = Epoch(epoch.0 + 1);
    let [first, _] = &mut game.workers;
    first.acknowledge(first.answer(last, false))?;
    first.acknowledge(first.answer(Epoch(last.0 + 100), false))?;
    first.acknowledge(first.answer(Epoch(u64::MAX), false))?;
    first.say(ToOwner::Decline(Epoch(u64::MAX), alluvium::Error::unavailable("no")))?;
    game.go_on(3).await?;
    // For seats of others.
    let [first, _] = &mut game.workers;
    let other = (COUNT, Subtask(3));
    first.say(ToOwner::Restored(other))?;
    first.say(ToOwner::Arrived(Epoch(9), vec![other]))?;
    first.say(ToOwner::Dropped(other, None))?;
    first.say(ToOwner::Dropped((OperatorId(7), Subtask(0)), None))?;
    game.go_on(7).await
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_of_any_size_are_only_numbers() -> Result<()> {
    let mut game = Game::new().await?;
    for _ in 0..3 {
        let epoch = game.trigger()?;
        for worker in &mut game.workers {
            let mut answer = worker.answer(epoch, false);
            (answer.requests, answer.placed.bytes, answer.placed.new_base_bytes) = (u64::MAX, u64::MAX, u64::MAX);
            for acknowledgement in &mut answer.placed.acknowledgements {
                let summary = &mut acknowledgement.summary;
                let heat = &mut summary.heat[0];
                (heat.rows, heat.dirty_rows, heat.live_bytes) = (u64::MAX, u64::MAX, u64::MAX);
                (heat.reads, heat.writes) = (u64::MAX, u64::MAX);
                heat.group.0 = u16::try_from(acknowledgement.participant.1.0).unwrap();
                let mut statistics = summary.statistics.to_vec();
                statistics[0].value = u64::MAX;
                summary.statistics = statistics.into();
            }
            worker.acknowledge(answer)?;
        }
        assert!(game.job.wait(epoch).await?.is_some(), "{:?}", game.job.progress().last_decline);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_another_job_attempt_or_session_are_counted() -> Result<()> {
    let mut game = Game::new().await?;
    game.go_on(0).await?;
    let epoch = game.trigger()?;
    let [first, second] = &mut game.workers;
    let answer = ToOwner::Acknowledge(Box::new(first.answer(epoch, false)));
    let good = first.envelope(answer.clone());
    for (wrong, accepted) in [
        (Envelope { job: JobId([1; 16]), ..good.clone() }, true),
        (Envelope { attempt: Attempt(9), ..good.clone() }, true),
        (Envelope { attempt: Attempt(0), ..good.clone() }, true),
        (Envelope { session: second.session, ..good.clone() }, false),
    ] {
        // What is of an ended attempt is no reason to break the link; what names another session is.
        assert_eq!(first.inbox.receive(&encode(&wrong)).is_ok(), accepted);
    }
    assert_eq!(game.owner.refused().messages, 4);
    // A worker without seats.
    let mut third = Forged::greeted(&game.owner, 3);
    (third.job, third.attempt) = (good.job, good.attempt);
    third.say(answer)?;
    let [first, second] = &mut game.workers;
    first.inbox.receive(&encode(&good))?;
    second.acknowledge(second.answer(epoch, false))?;
    assert!(game.job.wait(epoch).await?.is_some());
    game.go_on(5).await?;
    drop(third);

    // A new attempt in place: what belongs to the old one changes nothing, even an error.
    let old: Vec<_> = game.workers.iter().map(|worker| (worker.job, worker.attempt)).collect();
    game.job = Game::begin(&game.owner, &mut game.workers).await?;
    let [first, _] = &mut game.workers;
    let now = std::mem::replace(&mut first.attempt, old[0].1);
    first.say(ToOwner::Refused(alluvium::Error::config("late")))?;
    first.say(ToOwner::Dropped((COUNT, Subtask(0)), None))?;
    first.attempt = now;
    game.go_on(7).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_begins_with_one_greeting_of_a_session_of_its_own() -> Result<()> {
    let mut game = Game::new().await?;
    let kinds = |owner: &Owner| owner.refused().last.map(|error| error.kind());
    let first = game.workers[0].session;
    // Anything before the greeting.
    let mut early = Forged::silent(&game.owner, SessionId([5; 16]));
    assert_eq!(early.say(ToOwner::Restored((COUNT, Subtask(0)))).unwrap_err().kind(), ErrorKind::Usage);
    // Twice.
    let error = game.workers[0].say(Forged::hello()).unwrap_err();
    assert_eq!((error.kind(), kinds(&game.owner)), (ErrorKind::Usage, Some(ErrorKind::Usage)));
    // Under the session of another link, which lives on.
    let mut reused = Forged::silent(&game.owner, first);
    assert_eq!(reused.say(Forged::hello()).unwrap_err().kind(), ErrorKind::Usage);
    assert!(reused.say(Forged::hello()).is_err(), "a refused link stays refused");
    drop(reused);
    // Under another session than before.
    game.workers[0].session = SessionId([6; 16]);
    assert_eq!(game.workers[0].say(Forged::hello()).unwrap_err().kind(), ErrorKind::Usage);
    game.workers[0].session = first;
    // The owner's own direction, damage, and a message that claims 4 GiB.
    let stop = game.workers[0].envelope(Forged::hello());
    let stop = Envelope { body: ToWorker::Stop(alluvium::Error::stopped("x")), ..map(stop) };
    assert_eq!(game.workers[0].inbox.receive(&encode(&stop)).unwrap_err().kind(), ErrorKind::Usage);
    let mut long = encode(&stop).to_vec();
    long[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(game.workers[0].inbox.receive(&long).unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(game.workers[0].inbox.receive(&[]).unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(game.owner.watch_workers().borrow().len(), 2);
    game.go_on(8).await
}

fn map<M>(envelope: Envelope<M>) -> Envelope<ToWorker> {
    let Envelope { job, attempt, session, .. } = envelope;
    Envelope { job, attempt, session, body: ToWorker::Stop(alluvium::Error::stopped("x")) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_was_lost_may_greet_again_but_has_no_seats() -> Result<()> {
    let mut game = Game::new().await?;
    let Game { owner, job, workers: [first, second] } = &mut game;
    let (id, attempt) = (first.job, first.attempt);
    let mut watch = job.watch();
    let again = Forged::silent(owner, first.session);
    drop(std::mem::replace(first, again));
    let failed = watch.wait_for(|progress| progress.failed.is_some()).await.unwrap().failed.clone();
    assert_eq!(failed.unwrap().kind(), ErrorKind::Stopped);
    first.say(Forged::hello())?;
    (first.job, first.attempt) = (id, attempt);
    first.say(ToOwner::Restored((COUNT, Subtask(0))))?;
    assert!(matches!(second.hear().await, Some(ToWorker::Stop(_))), "the others hear of the end");
    game.job = Game::begin(&game.owner, &mut game.workers).await?;
    assert!(game.workers[0].attempt > attempt);
    game.go_on(game.owner.refused().messages).await
}
