//! Time to live: when rows expire.

use crate::time::Timestamp;

/// The time to live of a table's rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Ttl {
    /// Life after a row's stamp, in milliseconds; `u64::MAX` if rows no longer expire.
    pub millis: u64,
    /// Whether reads renew a row's life, as writes do.
    pub on_read: bool,
    /// Whether life is measured in event time, or else in processing time.
    pub event_time: bool,
    /// The stamp of rows without one: when expiry was turned on for a table with rows. `None`: such rows never expire.
    pub since: Option<Timestamp>,
    /// Rows with a stamp up to this time stay expired: they had expired when the life was changed.
    pub dead_until: Option<Timestamp>,
}

impl Ttl {
    /// Returns whether a row with this stamp has expired at `now`.
    #[must_use]
    pub fn expired(&self, stamp: Option<Timestamp>, now: Timestamp) -> bool {
        let Some(stamp) = stamp.or(self.since) else { return false };
        let life = i64::try_from(self.millis).unwrap_or(i64::MAX);
        let end = stamp.as_millis().checked_add(life);
        self.dead_until.is_some_and(|dead| stamp <= dead) || end.is_some_and(|end| end <= now.as_millis())
    }
}
