//! A worker that is nothing but its messages: for tests of what an owner accepts, and of how it scales.

use alluvium::internals::wire::{
    Acknowledge, Acknowledgement, Assign, Envelope, Hello, Placed, StateSummary, TableEntry, ToOwner, ToWorker, decode,
    encode,
};
use alluvium::manifest::{Hash, ObjectId, SubtaskEntry};
use alluvium::{
    Attempt, Epoch, Error, Inbox, JobId, OperatorId, Outbox, Owner, Participant, Result, SessionId, Subtask,
    subtask_range,
};
use futures_util::FutureExt as _;

use crate::messages;

/// Returns the hash of an empty program, which owners have by default.
pub fn program() -> Hash {
    alluvium::manifest::Program::default().hash
}

/// A forged worker's link, and what its owner has assigned.
pub struct Forged {
    pub session: SessionId,
    pub job: JobId,
    pub attempt: Attempt,
    pub assign: Option<Box<Assign>>,
    pub inbox: Inbox,
    pub outbox: Outbox,
}

impl Forged {
    /// Returns a worker that has not greeted yet.
    pub fn silent(owner: &Owner, session: SessionId) -> Self {
        let (inbox, outbox) = owner.connect();
        Self { session, job: JobId::default(), attempt: Attempt(0), assign: None, inbox, outbox }
    }

    /// Returns a worker that has greeted.
    pub fn greeted(owner: &Owner, number: u64) -> Self {
        let mut session = [0; 16];
        session[..8].copy_from_slice(&number.to_be_bytes());
        let mut forged = Self::silent(owner, SessionId(session));
        forged.say(Self::hello()).expect("the owner takes the greeting");
        forged
    }

    pub fn hello() -> ToOwner {
        let (host, domain, writer) = ("forged".into(), String::new(), "tests".into());
        ToOwner::Hello(Hello { host, domain, writer, program: program() })
    }

    /// Returns a message with this worker's identity.
    pub fn envelope(&self, body: ToOwner) -> Envelope<ToOwner> {
        Envelope { job: self.job, attempt: self.attempt, session: self.session, body }
    }

    /// Sends a message.
    pub fn say(&mut self, body: ToOwner) -> Result<()> {
        let message = encode(&self.envelope(body));
        self.inbox.receive(&message)
    }

    /// Waits for the next message.
    pub async fn hear(&mut self) -> Option<ToWorker> {
        let message = self.outbox.next().await?;
        self.take(&message)
    }

    /// Takes all messages that have been sent already, and returns their number of bytes.
    pub fn hear_all(&mut self) -> usize {
        let mut bytes = 0;
        // Without this, tokio reports no message after some 128 reads by one task, although more are waiting.
        while let Some(Some(message)) = tokio::task::unconstrained(self.outbox.next()).now_or_never() {
            bytes += message.len();
            self.take(&message);
        }
        bytes
    }

    fn take(&mut self, message: &[u8]) -> Option<ToWorker> {
        let message: Envelope<ToWorker> = decode(message).expect("an owner's message");
        assert_eq!(message.session, self.session);
        if let ToWorker::Assign(assign) = &message.body {
            (self.job, self.attempt, self.assign) = (message.job, message.attempt, Some(assign.clone()));
        }
        Some(message.body)
    }

    /// Waits for an assignment.
    pub async fn assigned(&mut self) -> Result<()> {
        self.assign = None;
        while self.assign.is_none() {
            self.hear().await.ok_or_else(|| Error::stopped("the link is broken"))?;
        }
        Ok(())
    }

    /// Returns the seats, each with the parallelism of its operator.
    pub fn seats(&self) -> Vec<(Participant, u32)> {
        let operators = self.assign.iter().flat_map(|assign| &assign.operators);
        let seats = |id: OperatorId, parallelism, seats: &[Subtask]| {
            seats.iter().map(|seat| ((id, *seat), parallelism)).collect::<Vec<_>>()
        };
        operators.flat_map(|operator| seats(operator.id, operator.parallelism, &operator.seats)).collect()
    }

    /// Returns the name of the object that this worker uploads for an epoch.
    pub fn object(&self, epoch: Epoch) -> ObjectId {
        let mut random = self.session.0;
        random[8..].copy_from_slice(&epoch.0.to_be_bytes());
        ObjectId { attempt: self.attempt, random }
    }

    /// Returns a good answer for an epoch: a delta for each seat, in one object.
    ///
    /// * `sliced`: whether the subtask manifests lie in the object, too.
    pub fn answer(&self, epoch: Epoch, sliced: bool) -> Acknowledge {
        let max_parallelism = self.assign.as_ref().map_or(1, |assign| assign.max_parallelism);
        let object = self.object(epoch);
        let tables = std::sync::Arc::from([TableEntry { schema: messages::table("counts"), declared: true }]);
        let acknowledge = |(participant, parallelism): (Participant, u32)| {
            let index = participant.1.0;
            let groups = subtask_range(max_parallelism, parallelism, index).into();
            let manifest = messages::manifest(object, groups, index, epoch);
            let entry = if sliced { messages::slice(object, &manifest) } else { SubtaskEntry::Inline(manifest) };
            let summary = StateSummary { tables: std::sync::Arc::clone(&tables), ..messages::summary(Vec::new()) };
            Acknowledgement { participant, entry, summary }
        };
        let acknowledgements: Vec<_> = self.seats().into_iter().map(acknowledge).collect();
        let (objects, kept) = (vec![messages::object(object)], Vec::new());
        let placed = Placed { acknowledgements, objects, kept, bytes: 1024, new_base_bytes: 0, uploads: 1 };
        Acknowledge { epoch, placed, requests: 1 }
    }

    /// Answers for an epoch.
    pub fn acknowledge(&mut self, acknowledge: Acknowledge) -> Result<()> {
        self.say(ToOwner::Acknowledge(Box::new(acknowledge)))
    }
}
