//! Planted protocol bugs, off unless a test switches one on: a simulation that cannot find them finds nothing.
//!
//! Each is a mistake that lost somebody's data. Without the feature `canary` the switches are constants.

/// A planted bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Canary {
    /// A commit whose outcome is unknown is taken as failed, and its objects are deleted.
    DeleteAfterUnknown,
    /// A commit counts without looking whether a newer attempt has begun.
    SkipFence,
    /// A sweep takes whatever is unreferenced, even of the attempt that is running.
    SweepInFlight,
    /// "Already exists" is taken to mean "another's", without reading back whose it is.
    TrustAlreadyExists,
}

#[cfg(feature = "canary")]
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
