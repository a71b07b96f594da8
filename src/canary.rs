//! Planted bugs, off unless a test switches one on: a suite that cannot find them finds nothing.
//!
//! Each breaks a law of `docs/protocol.md`, as a mistake that lost somebody's data did. Without the feature `internals` the
//! switches are constants. `docs/catalogue.md` tells where each is found.

/// A planted bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Canary {
    /// "Already exists" is taken to mean "another's", without reading back whose it is.
    TrustAlreadyExists,
    /// A commit whose outcome is unknown is announced.
    TrustUnknown,
    /// A commit whose outcome is unknown is taken as failed, and its objects are deleted.
    DeleteAfterUnknown,
    /// Objects are put whether or not their name is taken.
    Overwrite,
    /// A commit counts without looking whether a newer attempt has begun.
    SkipFence,
    /// A claim counts without looking whether a newer attempt has begun.
    SkipClaimFence,
    /// The end of the chain is where a listing ends.
    TrustListing,
    /// All packs of an attempt have one name.
    ReuseNames,
    /// A sweep takes whatever is unreferenced, even of the attempt that is running.
    SweepInFlight,
    /// What a dropped checkpoint referred to is deleted, whoever else refers to it.
    CollectShared,
    /// A draft may refer to objects that a sweep may be deleting.
    TrustDraft,
    /// A live manifest that cannot be read protects nothing.
    CollectOverUnreadable,
    /// A listing that breaks off is taken for the whole.
    PartialListing,
    /// Savepoints are dropped as checkpoints are.
    CollectSavepoints,
    /// What an aborted epoch sealed is forgotten.
    ForgetAborted,
    /// A start that loses its number to a ghost of its own gives up.
    GhostFences,
    /// Whatever stands under a live manifest's number is taken for it.
    SkipIdentity,
    /// Blocks are used without comparing their hash.
    SkipHash,
    /// If the newest manifest is damaged, an older one takes its place in silence.
    SilentFallback,
    /// Files are not synced.
    SkipSync,
    /// An object may be as long as its store says.
    SkipCap,
    /// Time goes back over a restart if the clock did.
    TrustClock,
    /// A copy is not compared with what it should be of.
    TrustCopy,
    /// State that no operator claims is left out of the next checkpoint.
    LoseOperators,
    /// Output prepared in an epoch that was given up is not in the next manifest.
    ForgetPrepared,
    /// An epoch counts as given up as soon as a later one is.
    EarlyOutcome,
    /// A barrier counts although its epoch was never triggered.
    AnyEpoch,
    /// A new table's id is its place among the tables that its subtask declared.
    PositionalIds,
    /// A checkpoint does not say how far time had come.
    ForgetTimes,
    /// Chains are bounded by stored bytes alone, however much these decode to.
    BoundStoredOnly,
}

#[cfg(feature = "internals")]
mod switch {
    use std::cell::Cell;

    use super::Canary;

    thread_local! {
        static PLANTED: Cell<Option<Canary>> = const { Cell::new(None) };
    }

    /// Plants `canary`, and only it, in what runs on this thread from now on.
    pub fn plant(canary: Option<Canary>) {
        PLANTED.set(canary);
    }

    pub(crate) fn on(canary: Canary) -> bool {
        PLANTED.get() == Some(canary)
    }
}

#[cfg(not(feature = "internals"))]
mod switch {
    use super::Canary;

    pub(crate) const fn on(_canary: Canary) -> bool {
        false
    }
}

pub(crate) use switch::on;
#[cfg(feature = "internals")]
pub use switch::plant;
