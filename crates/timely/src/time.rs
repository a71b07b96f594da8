//! The timestamp of a dataflow.

use std::fmt::{self, Debug, Formatter};

use serde::{Deserialize, Serialize};
use timely::order::PartialOrder;
use timely::progress::timestamp::{PathSummary, Refines};

/// The timestamp of a dataflow with state: the epoch that a record belongs to, and how far its source had come in event time.
///
/// Ordered as a product, not by one after the other: a source that is an epoch ahead of another may be behind it in event time.
/// An operator that has no more records of an epoch in its input frontier has seen all of them, and one whose frontier has no element
/// below a time of day has seen all that came before it. Operators that do not look at timestamps work on it as they are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Time {
    /// The epoch: the number of the checkpoint that has the effect of the record.
    pub epoch: u64,
    /// The watermark of the source when it read the record, in milliseconds since 1970.
    pub millis: i64,
}

impl Time {
    pub(crate) const fn new(epoch: u64, millis: i64) -> Self {
        Self { epoch, millis }
    }
}

impl Debug for Time {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "({}, {})", self.epoch, self.millis)
    }
}

impl PartialOrder for Time {
    fn less_equal(&self, other: &Self) -> bool {
        self.epoch <= other.epoch && self.millis <= other.millis
    }
}

impl timely::progress::Timestamp for Time {
    type Summary = Delay;

    fn minimum() -> Self {
        Self::new(0, i64::MIN)
    }
}

impl Refines<()> for Time {
    fn to_inner((): ()) -> Self {
        timely::progress::Timestamp::minimum()
    }

    fn to_outer(self) {}

    fn summarize(_: Delay) {}
}

/// What a path through a dataflow adds to a [`Time`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Delay {
    /// Epochs.
    pub epochs: u64,
    /// Milliseconds.
    pub millis: u64,
}

impl PartialOrder for Delay {
    fn less_equal(&self, other: &Self) -> bool {
        self.epochs <= other.epochs && self.millis <= other.millis
    }
}

impl PathSummary<Time> for Delay {
    fn results_in(&self, time: &Time) -> Option<Time> {
        let millis = time.millis.checked_add_unsigned(self.millis)?;
        Some(Time::new(time.epoch.checked_add(self.epochs)?, millis))
    }

    fn followed_by(&self, other: &Self) -> Option<Self> {
        let epochs = self.epochs.checked_add(other.epochs)?;
        Some(Self { epochs, millis: self.millis.checked_add(other.millis)? })
    }
}
