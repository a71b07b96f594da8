//! How far event time has come in a split.

use super::SourceSettings;
use crate::time::Timestamp;

/// The event time of a split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct SplitClock {
    /// The latest event time that counts; `None` before there is one.
    pub(super) latest: Option<i64>,
    /// The first event time, which waits for the second.
    pub(super) first: Option<i64>,
}

impl SplitClock {
    /// Takes in the event time of a record.
    pub(super) fn observe(&mut self, time: Timestamp, settings: &SourceSettings) {
        let time = time.as_millis();
        let Some(ahead) = settings.max_ahead else {
            self.latest = self.latest.max(Some(time));
            return;
        };
        let bounded = |from: i64| time.min(Timestamp::from_millis(from).after(ahead).as_millis());
        match (self.latest, self.first) {
            (Some(latest), _) => self.latest = Some(latest.max(bounded(latest))),
            (None, None) => self.first = Some(time),
            (None, Some(first)) if time < first => {
                self.latest = Some(first.min(Timestamp::from_millis(time).after(ahead).as_millis()));
            }
            (None, Some(first)) => self.latest = Some(bounded(first)),
        }
    }

    /// Returns the time before which no more records are expected.
    pub(super) fn watermark(&self, settings: &SourceSettings) -> Timestamp {
        self.latest.map_or(Timestamp::MIN, |latest| Timestamp::from_millis(latest).before(settings.delay))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn watermarks(settings: &SourceSettings, times: &[i64]) -> Vec<i64> {
        let mut clock = SplitClock::default();
        let observe = |time: &i64| {
            clock.observe(Timestamp::from_millis(*time), settings);
            clock.watermark(settings).as_millis()
        };
        times.iter().map(observe).collect()
    }

    #[test]
    fn the_latest_record_moves_it_and_it_never_goes_back() {
        let settings = SourceSettings::default().with(|it| it.delay = Duration::from_millis(10));
        assert_eq!(watermarks(&settings, &[100, 50, 120, 119]), [90, 90, 110, 110]);
    }

    #[test]
    fn a_record_far_ahead_moves_it_by_the_bound_alone() {
        let settings = SourceSettings::default().with(|it| it.max_ahead = Some(Duration::from_millis(50)));
        let far = 1_000_000;
        assert_eq!(watermarks(&settings, &[100, 110, far, 120, 170]), [i64::MIN, 110, 160, 160, 170]);
        // As the first record, too.
        assert_eq!(watermarks(&settings, &[far, 100, 110, 160]), [i64::MIN, 150, 150, 160]);
        // A real gap is caught up with in steps of the bound.
        assert_eq!(watermarks(&settings, &[0, 1, 200, 201, 202, 203]), [i64::MIN, 1, 51, 101, 151, 201]);
        assert_eq!(watermarks(&settings, &[i64::MAX, i64::MIN, i64::MAX])[2], i64::MIN + 100);
    }
}
