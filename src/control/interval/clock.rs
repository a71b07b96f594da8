//! Time that only goes forward, whatever the caller's clock does.

use std::time::Duration;

use crate::time::Timestamp;

/// A step back by less than this is that of an observation that was overtaken by another.
const OVERTAKEN: Duration = Duration::from_secs(1);

/// A step forward by more than this is the clock's: 366 days.
const FARTHEST: Duration = Duration::from_secs(366 * 86_400);

/// The caller's clock, and the time that has passed by it. A clock that is set back, or far ahead, goes on from where it was:
/// the step itself counts as no time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    told: Timestamp,
    passed: Timestamp,
}

impl Clock {
    pub(super) fn new(now: Timestamp) -> Self {
        Self { told: now, passed: now }
    }

    /// Returns what time it is when the caller's clock says `now`.
    pub(super) fn read(&self, now: Timestamp) -> Timestamp {
        let step = now.since(self.told);
        if step > FARTHEST { self.passed } else { self.passed.after(step) }
    }

    /// As [`Clock::read`], and goes on from there.
    pub(super) fn advance(&mut self, now: Timestamp) -> Timestamp {
        self.passed = self.read(now);
        let back = self.told.since(now);
        if back.is_zero() || back >= OVERTAKEN {
            self.told = now;
        }
        self.passed
    }

    /// Returns what time it is when the caller's clock will say `then`.
    pub(super) fn at(&self, then: Timestamp) -> Timestamp {
        self.passed.after(then.since(self.told))
    }

    /// Returns what the caller's clock will say at `time`; what it says now if that has passed.
    pub(super) fn tell(&self, time: Timestamp) -> Timestamp {
        self.told.after(time.since(self.passed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    #[test]
    fn steps_of_the_clock_are_no_time() {
        let mut clock = Clock::new(at(100));
        assert_eq!((clock.advance(at(110)), clock.read(at(105))), (at(110), at(110)));
        // Set back by an hour, and ten seconds pass.
        assert_eq!((clock.advance(at(-3490)), clock.advance(at(-3480))), (at(110), at(120)));
        assert_eq!((clock.tell(at(150)), clock.at(at(-3450)), clock.tell(at(0))), (at(-3450), at(150), at(-3480)));
        // As far as it goes, either way.
        for far in [Timestamp::MAX, Timestamp::MIN, Timestamp::MAX, at(0)] {
            assert_eq!(clock.advance(far), at(120), "{far}");
        }
        assert_eq!(clock.advance(at(5)), at(125));
        // What was overtaken neither turns time back nor makes it run.
        assert_eq!(
            [5500, 5000, 6000].map(|ms| clock.advance(Timestamp::from_millis(ms))).map(Timestamp::as_millis),
            [125_500, 125_500, 126_000]
        );
    }
}
