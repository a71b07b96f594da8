//! When rows expire.

use crate::time::Timestamp;

/// When rows expire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Ttl {
    /// Life in milliseconds after a row's stamp; `u64::MAX` if rows live for ever (by now).
    pub millis: u64,
    /// Whether reading renews it, beside writing.
    pub on_read: bool,
    /// Whether it is counted in event time; else in processing time.
    pub event_time: bool,
    /// The stamp of rows that have none: when the table, which had rows, began to expire. `None`: such rows live on.
    pub since: Option<Timestamp>,
    /// Rows whose stamp is not later are gone for ever: they had expired when the life was changed.
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
