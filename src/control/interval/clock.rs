//! Monotonic time from a caller's clock that may be set.

use std::time::Duration;

use crate::time::Timestamp;

/// A smaller step back means that the observation was overtaken by a later one.
const OVERTAKEN: Duration = Duration::from_secs(1);

/// A larger step forward means that the clock was set: 366 days.
const FARTHEST: Duration = Duration::from_secs(366 * 86_400);

/// Converts between the caller's clock and monotonic time. Setting the caller's clock back, or far ahead, takes no monotonic
/// time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    /// The last reading of the caller's clock.
    caller: Timestamp,
    /// The monotonic time of that reading.
    monotonic: Timestamp,
}

impl Clock {
    pub(super) fn new(now: Timestamp) -> Self {
        Self { caller: now, monotonic: now }
    }

    /// Returns the monotonic time when the caller's clock reads `now`.
    pub(super) fn read(&self, now: Timestamp) -> Timestamp {
        let step = now.since(self.caller);
        if step > FARTHEST { self.monotonic } else { self.monotonic.after(step) }
    }

    /// Advances to the caller's `now`, and returns the monotonic time.
    pub(super) fn advance(&mut self, now: Timestamp) -> Timestamp {
        self.monotonic = self.read(now);
        let back = self.caller.since(now);
        if back.is_zero() || back >= OVERTAKEN {
            self.caller = now;
        }
        self.monotonic
    }

    /// Returns the monotonic time when the caller's clock will read `then`.
    pub(super) fn monotonic_at(&self, then: Timestamp) -> Timestamp {
        self.monotonic.after(then.since(self.caller))
    }

    /// Returns the reading of the caller's clock at the monotonic `time`; the last reading if `time` has passed.
    pub(super) fn caller_at(&self, time: Timestamp) -> Timestamp {
        self.caller.after(time.since(self.monotonic))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    #[test]
    fn setting_the_clock_takes_no_time() {
        let mut clock = Clock::new(at(100));
        assert_eq!((clock.advance(at(110)), clock.read(at(105))), (at(110), at(110)));
        // Set back by an hour, then ten seconds pass.
        assert_eq!((clock.advance(at(-3490)), clock.advance(at(-3480))), (at(110), at(120)));
        assert_eq!(
            (clock.caller_at(at(150)), clock.monotonic_at(at(-3450)), clock.caller_at(at(0))),
            (at(-3450), at(150), at(-3480))
        );
        for far in [Timestamp::MAX, Timestamp::MIN, Timestamp::MAX, at(0)] {
            assert_eq!(clock.advance(far), at(120), "{far}");
        }
        assert_eq!(clock.advance(at(5)), at(125));
        // An overtaken observation neither turns time back nor advances it.
        assert_eq!(
            [5500, 5000, 6000].map(|ms| clock.advance(Timestamp::from_millis(ms))).map(Timestamp::as_millis),
            [125_500, 125_500, 126_000]
        );
    }
}
