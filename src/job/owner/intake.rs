//! Checking what workers acknowledge, before the owner believes it.
//!
//! Invariants: a worker answers for its own seats, all of them, once per epoch; what it refers to was uploaded by
//! itself in this attempt, or is listed by a committed checkpoint; each key group of an operator has one answer.

use std::collections::{BTreeMap, BTreeSet};

use crate::canary::{self, Canary};
use crate::control::coordinator::Participant;
use crate::error::{Error, Result};
use crate::id::{Attempt, ObjectId, SessionId};
use crate::job::wire::{Acknowledge, Acknowledgement, Kept};
use crate::key_group::subtask_range;
use crate::manifest::{ObjectRef, SubtaskEntry, SubtaskManifest, check_objects};

/// Who works for the attempt, and what they uploaded.
#[derive(Debug)]
pub(super) struct Intake {
    attempt: Attempt,
    max_parallelism: u16,
    /// The worker of each subtask, with the operator's parallelism.
    seats: BTreeMap<Participant, (SessionId, u32)>,
    /// The subtasks of each worker.
    workers: BTreeMap<SessionId, Vec<Participant>>,
    /// Who uploaded each object of this attempt.
    uploaders: BTreeMap<ObjectId, SessionId>,
    /// What the newest committed checkpoint lists; the restored one's before the first.
    listed: BTreeMap<ObjectId, ObjectRef>,
}

impl Intake {
    pub(super) fn new(
        attempt: Attempt,
        max_parallelism: u16,
        seats: BTreeMap<Participant, (SessionId, u32)>,
        listed: BTreeMap<ObjectId, ObjectRef>,
    ) -> Self {
        let mut workers: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (subtask, (session, _)) in &seats {
            workers.entry(*session).or_default().push(*subtask);
        }
        Self { attempt, max_parallelism, seats, workers, uploaders: BTreeMap::new(), listed }
    }

    /// Returns the number of workers that have seats.
    pub(super) fn worker_count(&self) -> usize {
        self.workers.len()
    }

    /// Returns the workers that have seats.
    pub(super) fn workers(&self) -> impl Iterator<Item = SessionId> + '_ {
        self.workers.keys().copied()
    }

    pub(super) fn has_seats(&self, session: SessionId) -> bool {
        self.workers.contains_key(&session)
    }

    /// Returns whether a subtask is a worker's.
    pub(super) fn is_seat_of(&self, session: SessionId, subtask: Participant) -> bool {
        self.seats.get(&subtask).is_some_and(|(worker, _)| *worker == session)
    }

    /// Returns a worker's subtasks.
    pub(super) fn seats_of(&self, session: SessionId) -> &[Participant] {
        self.workers.get(&session).map_or(&[], Vec::as_slice)
    }

    /// Returns all subtasks.
    pub(super) fn seats(&self) -> impl Iterator<Item = Participant> + '_ {
        self.seats.keys().copied()
    }

    /// Returns a listed object.
    pub(super) fn listed(&self, id: ObjectId) -> Option<&ObjectRef> {
        self.listed.get(&id)
    }

    /// Records what a committed checkpoint lists, and forgets uploads that neither it nor `pending` refers to.
    pub(super) fn committed(&mut self, listed: BTreeMap<ObjectId, ObjectRef>, pending: &BTreeSet<ObjectId>) {
        self.uploaders.retain(|id, _| listed.contains_key(id) || pending.contains(id));
        self.listed = listed;
    }

    /// Checks an acknowledgement, and records its uploads.
    ///
    /// # Errors
    /// `Usage` if the worker answers for a seat that it was not given, leaves one out, or names other groups than the
    /// seat's; `Corrupt` if it refers to an object that is neither its own upload nor listed, or breaks a rule of the
    /// manifest.
    pub(super) fn check(&mut self, session: SessionId, acknowledge: &Acknowledge) -> Result<()> {
        self.check_seats(session, acknowledge)?;
        for object in &acknowledge.placed.objects {
            self.check_upload(session, object)?;
        }
        self.check_references(session, acknowledge)?;
        self.check_entries(acknowledge)?;
        let uploaded = acknowledge.placed.objects.iter().map(|object| (object.id, session));
        self.uploaders.extend(uploaded);
        Ok(())
    }

    fn check_seats(&self, session: SessionId, acknowledge: &Acknowledge) -> Result<()> {
        let mut answered = BTreeSet::new();
        for acknowledgement in &acknowledge.placed.acknowledgements {
            let (operator, subtask) = acknowledgement.participant;
            let refused = |what| Error::usage(what).with("operator", operator).with("subtask", subtask);
            let Some((worker, parallelism)) = self.seats.get(&acknowledgement.participant) else {
                return Err(refused("worker answers for a subtask that the job does not have"));
            };
            if *worker != session && !canary::on(Canary::ForeignSeats) {
                return Err(refused("worker answers for a seat that it was not given").with("session", session));
            }
            if !answered.insert(acknowledgement.participant) {
                return Err(refused("worker answers twice for a seat"));
            }
            let expected = subtask_range(self.max_parallelism, *parallelism, subtask.0).into();
            let groups = acknowledgement.entry.groups();
            if *groups != expected && !canary::on(Canary::AnyGroups) {
                let error = refused("worker answers for other key groups than its seat's");
                return Err(error.with("groups", groups).with("expected", expected));
            }
        }
        let seats = self.seats_of(session).len();
        if answered.len() < seats && !canary::on(Canary::AnyGroups) {
            let error = Error::usage("worker answers for some of its seats only").with("session", session);
            return Err(error.with("seats", seats).with("answered", answered.len()));
        }
        Ok(())
    }

    fn check_upload(&self, session: SessionId, object: &ObjectRef) -> Result<()> {
        if object.id.attempt != self.attempt {
            let error = Error::corrupt("worker claims to have uploaded an object of another attempt");
            return Err(error.with("object", object.id).with("attempt", self.attempt));
        }
        if self.listed.get(&object.id).is_some_and(|listed| listed != object) {
            return Err(Error::corrupt("object differs from the listed one").with("object", object.id));
        }
        self.check_uploader(session, object.id)
    }

    fn check_uploader(&self, session: SessionId, object: ObjectId) -> Result<()> {
        match self.uploaders.get(&object) {
            Some(other) if *other != session && !canary::on(Canary::ForeignSlices) => {
                let error = Error::corrupt("object was uploaded by another worker").with("object", object);
                Err(error.with("session", session).with("other", other))
            }
            _ => Ok(()),
        }
    }

    /// Checks that everything referred to is listed in the acknowledgement, and that what it keeps is the worker's to keep.
    fn check_references(&self, session: SessionId, acknowledge: &Acknowledge) -> Result<()> {
        let placed = &acknowledge.placed;
        for Kept { id, .. } in &placed.kept {
            self.check_uploader(session, *id)?;
            if !self.listed.contains_key(id) {
                return Err(Error::corrupt("object is in no committed checkpoint").with("object", id));
            }
        }
        let kept = placed.kept.iter().map(|kept| kept.id);
        let known: BTreeSet<_> = placed.objects.iter().map(|object| object.id).chain(kept).collect();
        let referred = placed.acknowledgements.iter().flat_map(|acknowledgement| objects_of(&acknowledgement.entry));
        match referred.into_iter().find(|id| !known.contains(id)) {
            Some(id) if !canary::on(Canary::ForeignSlices) => {
                Err(Error::corrupt("object is not listed").with("object", id))
            }
            _ => Ok(()),
        }
    }

    /// Checks each entry as the manifest will be: otherwise one worker's mistake would fail the commit of all.
    fn check_entries(&self, acknowledge: &Acknowledge) -> Result<()> {
        let placed = &acknowledge.placed;
        let mut lengths = check_objects(&placed.objects)?;
        lengths.extend(placed.kept.iter().filter_map(|Kept { id, .. }| Some((*id, self.listed.get(id)?.bytes))));
        for Acknowledgement { participant: (operator, subtask), entry, .. } in &placed.acknowledgements {
            if canary::on(Canary::ForeignSlices) {
                lengths.extend(objects_of(entry).into_iter().map(|id| (id, u64::MAX)));
            }
            let checked = entry.check(*subtask, (acknowledge.epoch, self.max_parallelism), &lengths);
            checked.map_err(|error| error.with("operator", operator).with("subtask", subtask))?;
        }
        Ok(())
    }
}

/// Returns the objects that an entry refers to.
fn objects_of(entry: &SubtaskEntry) -> Vec<ObjectId> {
    match entry {
        SubtaskEntry::Inline(manifest) => SubtaskManifest::objects(manifest).collect(),
        SubtaskEntry::Slice(slice) => vec![slice.slice.object],
    }
}
