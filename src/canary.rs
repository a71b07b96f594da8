//! Planted bugs, off unless a test enables one: they prove that the test suite detects such bugs.
//!
//! Most break a law of `docs/protocol.md` in a way that has lost data in a real system. Without the feature `canary` the
//! switches are constants. `docs/catalogue.md` lists the law, and the test that finds each.

/// A planted bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(
    all(feature = "internals", not(feature = "canary")),
    expect(unreachable_pub, reason = "planted with the feature `canary` alone")
)]
pub enum Canary {
    /// Treats "already exists" as another writer's object, without reading the object back.
    TrustAlreadyExists,
    /// Announces a commit of unknown outcome.
    TrustUnknown,
    /// Treats a commit of unknown outcome as failed and deletes its objects.
    DeleteAfterUnknown,
    /// Overwrites existing objects.
    Overwrite,
    /// Accepts a commit without checking for a newer attempt.
    SkipFence,
    /// Accepts a claim without checking for a newer attempt.
    SkipClaimFence,
    /// Takes the end of a listing as the end of the chain.
    TrustListing,
    /// Gives all packs of an attempt one name.
    ReuseNames,
    /// Sweeps all unreferenced objects, even those of the running attempt.
    SweepInFlight,
    /// Deletes all objects of a dropped checkpoint, even those shared with live ones.
    CollectShared,
    /// Lets a draft refer to objects that a sweep may be deleting.
    TrustDraft,
    /// Lets an unreadable live manifest protect no objects.
    CollectOverUnreadable,
    /// Takes an interrupted listing as complete.
    PartialListing,
    /// Drops savepoints by the retention policy of checkpoints.
    CollectSavepoints,
    /// Discards the sealed parts of an aborted epoch.
    ForgetAborted,
    /// Fails a start that finds its attempt number taken by its own earlier write.
    GhostFences,
    /// Accepts any manifest stored under a live manifest's number.
    SkipIdentity,
    /// Uses blocks without checking their hash.
    SkipHash,
    /// Silently falls back to an older manifest if the newest is damaged.
    SilentFallback,
    /// Does not sync files.
    SkipSync,
    /// Reads an object of any length that the store reports.
    SkipCap,
    /// Lets time go back over a restart if the clock did.
    TrustClock,
    /// Does not compare a copy with its source.
    TrustCopy,
    /// Omits state of undeclared operators from the next checkpoint.
    LoseOperators,
    /// Omits output prepared in an abandoned epoch from the next manifest.
    ForgetPrepared,
    /// Treats an epoch as abandoned as soon as a later one is.
    EarlyOutcome,
    /// Accepts a barrier of an epoch that was never triggered.
    AnyEpoch,
    /// Gives a new table its index among the subtask's declared tables as id.
    PositionalIds,
    /// Omits group times from a checkpoint.
    ForgetTimes,
    /// Bounds chains by stored bytes alone, regardless of their decoded size.
    BoundStoredOnly,
    /// Accepts messages of other attempts and sessions, and acknowledgements of epochs that were never triggered.
    StaleMessages,
    /// Accepts a worker's second acknowledgement of an epoch.
    AcknowledgeTwice,
    /// Accepts a worker's answer for another worker's seat.
    ForeignSeats,
    /// Accepts a worker's answer for other key groups than its seats have.
    AnyGroups,
    /// Accepts references to what another worker uploaded.
    ForeignSlices,
    /// Gives up an epoch whose manifest is being created.
    DeclineCommitting,
    /// Sweeps what this attempt has uploaded and not yet committed.
    SweepUploads,
    /// Seals an absent key group that is to get a new base as an empty one.
    ForgetAbsent,
    /// Does not repeat the clears of an absent key group when it is loaded.
    SkipClears,
    /// Loads an evicted key group from the segments of the restored checkpoint.
    LoadStale,
    /// Takes a publication of unknown outcome as failed, without asking the target.
    TrustPublication,
    /// Publishes output of an epoch that was given up.
    PublishAborted,
    /// Puts a rewritten base after the deltas that its groups got meanwhile.
    RewriteLast,
}

#[cfg(feature = "canary")]
mod switch {
    use std::cell::Cell;

    use super::Canary;

    thread_local! {
        static PLANTED: Cell<Option<Canary>> = const { Cell::new(None) };
    }

    /// Plants `canary` alone, or none, in all code on this thread from now on.
    pub fn plant(canary: Option<Canary>) {
        PLANTED.set(canary);
    }

    pub(crate) fn on(canary: Canary) -> bool {
        PLANTED.get() == Some(canary)
    }
}

#[cfg(not(feature = "canary"))]
mod switch {
    use super::Canary;

    pub(crate) const fn on(_canary: Canary) -> bool {
        false
    }
}

pub(crate) use switch::on;
#[cfg(feature = "canary")]
pub use switch::plant;
