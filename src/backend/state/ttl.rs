//! When rows expire, and what becomes of stored rows when that changes.

use std::time::Duration;

use crate::error::{Error, Result};
use crate::row::Ttl;
use crate::time::Timestamp;

use super::tables::CheckpointTimes;

/// How long the rows of a table live: a value, an element of a list, an entry of a map, what was reduced or aggregated.
///
/// A row that has expired is never returned again. In event time nothing expires before the first watermark, and what
/// was written before it counts from the first checkpoint that is restored after it.
///
/// Of a table with stored rows it can be changed at a restart, counted from the restored checkpoint: given to a table
/// that had none, its rows live on for `life`; changed, rows that had expired stay expired; taken away likewise.
/// Between event and processing time it cannot be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TtlConfig {
    /// From the last write (or read) to the end; at least a millisecond.
    pub life: Duration,
    /// What renews it.
    pub update: TtlUpdate,
    /// Which time it is counted in.
    pub time: TtlTime,
}

/// What renews a row's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TtlUpdate {
    /// Writing it.
    OnWrite,
    /// Writing it, and reading it by its key. Reads are then writes: they come into the next delta.
    OnReadAndWrite,
}

/// Which time a life is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TtlTime {
    /// That of the watermarks.
    Event,
    /// That of the wall clock, as the state was last told.
    Processing,
}

impl TtlConfig {
    /// Returns a life in processing time that writing renews.
    #[must_use]
    pub const fn new(life: Duration) -> Self {
        Self { life, update: TtlUpdate::OnWrite, time: TtlTime::Processing }
    }

    /// Lets reads renew it too.
    #[must_use]
    pub const fn renewed_by_reads(self) -> Self {
        Self { update: TtlUpdate::OnReadAndWrite, ..self }
    }

    /// Counts it in event time.
    #[must_use]
    pub const fn in_event_time(self) -> Self {
        Self { time: TtlTime::Event, ..self }
    }
}

/// What a life of `u64::MAX` is: none.
const FOR_EVER: u64 = u64::MAX;

/// Returns what a table's schema says of expiry from now on.
///
/// * `old`: what it said in the checkpoint that is restored.
/// * `times`: how far time had come in it; `None` if the table has no rows.
///
/// # Errors
/// `Config` if the life is out of range, or the time is not the one that stored rows have stamps of.
pub(super) fn settle(
    wanted: Option<TtlConfig>,
    old: Option<Ttl>,
    times: Option<CheckpointTimes>,
) -> Result<Option<Ttl>> {
    let (millis, on_read, event_time) = match (wanted, old) {
        (None, None) => return Ok(None),
        // Stamps and what they were compared with stay, so that nothing comes back.
        (None, Some(old)) => (FOR_EVER, false, old.event_time),
        (Some(wanted), _) => {
            let event_time = wanted.time == TtlTime::Event;
            if old.is_some_and(|old| old.event_time != event_time) {
                return Err(Error::config("rows cannot expire by another time than they did"));
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

/// Returns up to which stamp rows had expired before their life became `millis`.
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
        _ => Err(Error::config("life of rows is out of range").with("life", format_args!("{life:?}"))),
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
    fn lives_begin_change_and_end_at_the_checkpoint() {
        let on = settle(Some(config(10)), None, Some(TIMES)).unwrap().unwrap();
        assert_eq!(on, Ttl { millis: 10, since: Some(at(100)), ..Ttl::default() });
        let later = CheckpointTimes { processing_time: at(200), ..TIMES };
        assert_eq!(settle(Some(config(10)), Some(on), Some(later)).unwrap(), Some(on), "nothing changed");
        let longer = settle(Some(config(50).renewed_by_reads()), Some(on), Some(later)).unwrap().unwrap();
        assert_eq!((longer.millis, longer.on_read), (50, true));
        assert_eq!((longer.since, longer.dead_until), (Some(at(100)), Some(at(190))));
        let off = settle(None, Some(longer), Some(CheckpointTimes { processing_time: at(210), ..TIMES }));
        let off = off.unwrap().unwrap();
        assert_eq!((off.millis, off.on_read, off.dead_until), (u64::MAX, false, Some(at(190))));
        assert_eq!(settle(None, Some(off), Some(later)).unwrap(), Some(off));
        let again = settle(Some(config(1)), Some(off), Some(later)).unwrap().unwrap();
        assert_eq!((again.millis, again.dead_until), (1, Some(at(190))));
        assert_eq!(settle(None, None, Some(TIMES)).unwrap(), None);
    }

    #[test]
    fn unknown_times_say_nothing() {
        let event = config(10).in_event_time();
        let before = CheckpointTimes { event_time: Timestamp::MIN, ..TIMES };
        let new = settle(Some(event), None, Some(before)).unwrap().unwrap();
        assert_eq!(new, Ttl { millis: 10, event_time: true, ..Ttl::default() });
        assert_eq!(settle(Some(event), Some(new), Some(TIMES)).unwrap().unwrap().since, Some(at(5)));
        let shorter = settle(Some(config(3).in_event_time()), Some(new), Some(before)).unwrap().unwrap();
        assert_eq!(shorter.dead_until, None);
        assert_eq!(settle(Some(event), None, None).unwrap().unwrap().since, None, "a new table");
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let refused = |wanted, old| settle(Some(wanted), old, Some(TIMES)).unwrap_err().kind();
        assert_eq!(refused(config(0), None), ErrorKind::Config);
        assert_eq!(refused(TtlConfig::new(Duration::MAX), None), ErrorKind::Config);
        let processing = Ttl { millis: 10, ..Ttl::default() };
        assert_eq!(refused(config(10).in_event_time(), Some(processing)), ErrorKind::Config);
    }
}
