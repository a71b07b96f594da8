//! Fault points: a full search must reach each at least once.
//!
//! Most are log lines of the code under test, which so needs no hooks for them; harness, nodes and oracles report the
//! others.

use crate::oracle::Oracle;
use alluvium_testkit::sim::Sim;

/// Part of keys, values and the store's messages; must appear in no log line and no error.
pub(crate) const SECRET: &str = "s3cr3t";

/// Messages of the code under test that count as points.
const LOGGED: &[&str] = &[
    ATTEMPT_TAKEN,
    CHAIN_GREW,
    CHECKPOINT_COMMITTED,
    COMMIT_UNKNOWN,
    COPY_DAMAGED,
    COPY_FAILED,
    DELETES_FAILED,
    FENCE_UNKNOWN,
    FENCED,
    GIVEN_UP,
    JOB_CLAIMED,
    JOB_FAILED,
    MESSAGE_REFUSED,
    ORPHANS_SWEPT,
    ORPHANS_UNSWEPT,
    REPEATED,
    UNDELETABLE,
    UNREADABLE_LIVE,
];

const ATTEMPT_TAKEN: &str = "attempt is taken, going higher";
const CHAIN_GREW: &str = "chain grew under a claim";
const CHECKPOINT_COMMITTED: &str = "checkpoint committed";
const COMMIT_UNKNOWN: &str = "outcome of a commit is unknown";
const COPY_DAMAGED: &str = "a local copy is damaged, reading from the store";
const COPY_FAILED: &str = "cannot write a local copy, going on without";
const DELETES_FAILED: &str = "objects could not be deleted, to be tried again";
const FENCE_UNKNOWN: &str = "a newer attempt may have begun";
const FENCED: &str = "fenced";
const GIVEN_UP: &str = "checkpoint given up";
const JOB_CLAIMED: &str = "job claimed";
const JOB_FAILED: &str = "job failed";
const MESSAGE_REFUSED: &str = "message from a worker refused";
const ORPHANS_SWEPT: &str = "swept what earlier attempts left";
const ORPHANS_UNSWEPT: &str = "what earlier attempts left could not be swept";
const REPEATED: &str = "store call failed, to be repeated";
const UNDELETABLE: &str = "store does not let objects be deleted: dead ones will stay";
const UNREADABLE_LIVE: &str = "nothing is collected while a live manifest is unreadable";

/// Points of the core.
pub(crate) const CORE: &[&str] = &[
    ATTEMPT_TAKEN,
    CHAIN_GREW,
    COMMIT_UNKNOWN,
    DELETES_FAILED,
    FENCE_UNKNOWN,
    JOB_CLAIMED,
    REPEATED,
    UNREADABLE_LIVE,
    "clock went ahead",
    "clock went back",
    "commit broken off, settled as another's",
    "commit broken off, settled as ours",
    "commit refused, proved not done",
    "create came too late, after its writer's death",
    "create landed after its writer's death",
    "manifest landed under a number used before",
    "node crashed",
    "node paused",
    "node resumed",
    "restore of a checkpoint that was dropped meanwhile",
    "sweep executed late",
    "sweep refused: another attempt owns the job",
    "writer outlived by its successor",
];

/// Points of the whole stack.
pub(crate) const STACK: &[&str] = &[
    ATTEMPT_TAKEN,
    CHAIN_GREW,
    CHECKPOINT_COMMITTED,
    COMMIT_UNKNOWN,
    COPY_DAMAGED,
    COPY_FAILED,
    DELETES_FAILED,
    FENCE_UNKNOWN,
    FENCED,
    GIVEN_UP,
    JOB_CLAIMED,
    MESSAGE_REFUSED,
    ORPHANS_SWEPT,
    ORPHANS_UNSWEPT,
    REPEATED,
    UNDELETABLE,
    UNREADABLE_LIVE,
    "attempt opened in place",
    "checkpoint aborted",
    "clock went ahead",
    "clock went back",
    "create came too late, after its writer's death",
    "create landed after its writer's death",
    "damage: a byte flipped",
    "damage: an object cut",
    "damage: an object vanished",
    "damage: refused by name",
    "damage: restored beside it",
    "damage: two objects swapped",
    "epoch given up because a worker was lost",
    "job given up for want of memory",
    "key groups absent after a restore",
    "key groups evicted",
    "limit of epochs in flight hit",
    "limit of memory hit, then gone on",
    "link broke",
    "link made anew with old messages in flight",
    "manifest landed under a number used before",
    "message of an old link arrived",
    "node crashed",
    "node paused",
    "node resumed",
    "offline: copied",
    "offline: exported",
    "offline: restored elsewhere",
    "offline: verified",
    "owner replaced",
    "owner replaced while it was paused",
    "prepared transaction abandoned",
    "rescaled in place",
    "restored at another parallelism",
    "restored on another backend",
    "transaction published again",
    "worker crashed and came back",
    "worker given up while it was paused",
    "worker given up while it was paused came back",
    "zombie refused",
];

/// Returns a listener that counts logged points and reports logged secrets as violations.
pub(crate) fn listener(sim: &Sim, oracle: &Oracle) -> impl Fn(&str, &str) + Send + 'static {
    let (sim, oracle) = (sim.clone(), oracle.clone());
    move |message, line| {
        if let Some(point) = LOGGED.iter().find(|point| **point == message) {
            sim.hit(point);
        }
        oracle.check_for_secrets(line);
    }
}
