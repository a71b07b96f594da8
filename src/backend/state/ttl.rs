//! When rows expire, and what a changed TTL means for stored rows.

use std::time::Duration;

use crate::error::{Error, Result};
use crate::row::Ttl;
use crate::time::Timestamp;

use super::times::CheckpointTimes;

/// The time to live of a table's rows: of a value, each element of a list, each entry of a map, a reduced value or an
/// accumulator.
///
/// An expired row is never returned. In event time nothing expires before the first watermark; for rows written before
/// it, the TTL counts from the first checkpoint that is taken after it and restored.
///
/// A restart may change the TTL of stored rows, as of the restored checkpoint:
/// - added to a table without one, stored rows expire `life` after the checkpoint;
/// - changed or removed, rows that had expired by then stay expired.
///
/// Switching between event and processing time is refused.
///
/// ```
/// use std::time::Duration;
/// use alluvium::{Fixed, KeyedState, OverlayBackend, Schema, TableOptions, Tables, TtlConfig};
/// # use alluvium::{KeyGroupSet, MemoryBudget, Partitioner, Timestamp};
/// # fn main() -> alluvium::Result<()> {
/// # let backend = OverlayBackend::new(KeyGroupSet::all(8), MemoryBudget::new(1 << 30));
/// let mut state = KeyedState::new(backend, Partitioner::Range { seed: 1 }, 8, Tables::new(Schema::new("utf8")));
/// let hour = TtlConfig::new(Duration::from_secs(3600));
/// let attempts = state.value(TableOptions::new("attempts").ttl(hour), Fixed)?;
/// state.set_key(b"user-1")?;
/// state.advance(Timestamp::MIN, Timestamp::from_millis(0));
/// attempts.put(&mut state, &1u32)?;
/// state.advance(Timestamp::MIN, Timestamp::from_millis(3_600_000));
/// assert_eq!(attempts.read(&mut state)?, None);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TtlConfig {
    /// Time from the last renewal until the row expires. Counted in whole milliseconds, from 1 to `i64::MAX`; declaring
    /// a table with another life is a `Config` error.
    pub life: Duration,
    /// Which accesses renew a row.
    pub update: TtlUpdate,
    /// The time that `life` is counted in.
    pub time: TtlTime,
}

/// Which accesses renew a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TtlUpdate {
    /// Writes.
    OnWrite,
    /// Writes, and reads of the row by its key. Each such read is a write: the row goes into the next delta.
    OnReadAndWrite,
}

/// The time that a TTL is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TtlTime {
    /// Event time: the watermark last passed to [`KeyedState::advance`](super::KeyedState::advance) or to a seal.
    Event,
    /// Processing time: the wall clock last passed to [`KeyedState::advance`](super::KeyedState::advance) or to a seal.
    Processing,
}

impl TtlConfig {
    /// Returns a TTL in processing time that writes renew.
    #[must_use]
    pub const fn new(life: Duration) -> Self {
        Self { life, update: TtlUpdate::OnWrite, time: TtlTime::Processing }
    }

    /// Makes reads renew rows too: [`TtlUpdate::OnReadAndWrite`].
    #[must_use]
    pub const fn renewed_by_reads(self) -> Self {
        Self { update: TtlUpdate::OnReadAndWrite, ..self }
    }

    /// Counts the TTL in event time.
    #[must_use]
    pub const fn in_event_time(self) -> Self {
        Self { time: TtlTime::Event, ..self }
    }
}

/// The life in milliseconds of rows that never expire.
const FOREVER: u64 = u64::MAX;

/// Returns the TTL for a table's schema.
///
/// * `old`: the TTL in the restored checkpoint.
/// * `times`: the times of that checkpoint; `None` if the table has no stored rows.
///
/// # Errors
/// `Config` if the life is out of range, or `wanted` counts in another time than the stamps of stored rows.
pub(super) fn resolve(
    wanted: Option<TtlConfig>,
    old: Option<Ttl>,
    times: Option<CheckpointTimes>,
) -> Result<Option<Ttl>> {
    let (millis, on_read, event_time) = match (wanted, old) {
        (None, None) => return Ok(None),
        // The bounds on stamps stay: without them, expired rows would come back.
        (None, Some(old)) => (FOREVER, false, old.event_time),
        (Some(wanted), _) => {
            let event_time = wanted.time == TtlTime::Event;
            if old.is_some_and(|old| old.event_time != event_time) {
                return Err(Error::config("TTL cannot switch between event and processing time"));
            }
            (life_ms(wanted.life)?, wanted.update == TtlUpdate::OnReadAndWrite, event_time)
        }
    };
    let time = |times: CheckpointTimes| if event_time { times.event_time } else { times.processing_time };
    let now = times.map(time).filter(|now| *now > Timestamp::MIN);
    Ok(Some(Ttl {
        millis,
        on_read,
        event_time,
        since: old.and_then(|old| old.since).or(now),
        dead_until: old.and_then(|old| dead_until(&old, millis, now)),
    }))
}

/// Returns the latest stamp of rows that had expired before the life became `millis`.
fn dead_until(old: &Ttl, millis: u64, now: Option<Timestamp>) -> Option<Timestamp> {
    if old.millis == millis {
        return old.dead_until;
    }
    let life = i64::try_from(old.millis).ok();
    let expired = now.zip(life).and_then(|(now, life)| now.as_millis().checked_sub(life));
    old.dead_until.max(expired.map(Timestamp::from_millis))
}

fn life_ms(life: Duration) -> Result<u64> {
    match i64::try_from(life.as_millis()) {
        Ok(millis @ 1..) => Ok(millis.unsigned_abs()),
        _ => Err(Error::config("TTL is out of range").with("life", format_args!("{life:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    fn config(millis: u64) -> TtlConfig {
        TtlConfig::new(Duration::from_millis(millis))
    }

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    /// Event time 5, processing time 100.
    const TIMES: CheckpointTimes =
        CheckpointTimes { event_time: Timestamp::from_millis(5), processing_time: Timestamp::from_millis(100) };

    #[test]
    fn a_ttl_is_added_changed_and_removed_as_of_the_checkpoint() {
        let on = resolve(Some(config(10)), None, Some(TIMES)).unwrap().unwrap();
        assert_eq!(on, Ttl { millis: 10, since: Some(at(100)), ..Ttl::default() });
        let later = CheckpointTimes { processing_time: at(200), ..TIMES };
        assert_eq!(resolve(Some(config(10)), Some(on), Some(later)).unwrap(), Some(on), "nothing changed");
        let longer = resolve(Some(config(50).renewed_by_reads()), Some(on), Some(later)).unwrap().unwrap();
        assert_eq!((longer.millis, longer.on_read), (50, true));
        assert_eq!((longer.since, longer.dead_until), (Some(at(100)), Some(at(190))));
        let off = resolve(None, Some(longer), Some(CheckpointTimes { processing_time: at(210), ..TIMES }));
        let off = off.unwrap().unwrap();
        assert_eq!((off.millis, off.on_read, off.dead_until), (u64::MAX, false, Some(at(190))));
        assert_eq!(resolve(None, Some(off), Some(later)).unwrap(), Some(off));
        let again = resolve(Some(config(1)), Some(off), Some(later)).unwrap().unwrap();
        assert_eq!((again.millis, again.dead_until), (1, Some(at(190))));
        assert_eq!(resolve(None, None, Some(TIMES)).unwrap(), None);
    }

    #[test]
    fn an_unknown_time_bounds_no_rows() {
        let event = config(10).in_event_time();
        let before = CheckpointTimes { event_time: Timestamp::MIN, ..TIMES };
        let new = resolve(Some(event), None, Some(before)).unwrap().unwrap();
        assert_eq!(new, Ttl { millis: 10, event_time: true, ..Ttl::default() });
        assert_eq!(resolve(Some(event), Some(new), Some(TIMES)).unwrap().unwrap().since, Some(at(5)));
        let shorter = resolve(Some(config(3).in_event_time()), Some(new), Some(before)).unwrap().unwrap();
        assert_eq!(shorter.dead_until, None);
        assert_eq!(resolve(Some(event), None, None).unwrap().unwrap().since, None, "a new table");
    }

    #[test]
    fn a_life_out_of_range_and_another_time_are_refused() {
        let refused = |wanted, old| resolve(Some(wanted), old, Some(TIMES)).unwrap_err().kind();
        assert_eq!(refused(config(0), None), ErrorKind::Config);
        assert_eq!(refused(TtlConfig::new(Duration::MAX), None), ErrorKind::Config);
        let processing = Ttl { millis: 10, ..Ttl::default() };
        assert_eq!(refused(config(10).in_event_time(), Some(processing)), ErrorKind::Config);
    }
}
