//! How fast a slot's publications go, so that one that cannot end in time is announced.

use std::time::Duration;

/// Fewer bytes tell more of the brokers' latency than of their rate.
const MEASURED_BYTES_MIN: usize = 1 << 20;

/// The rate of a slot's last large publication.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    bytes_per_second: Option<f64>,
}

impl Pace {
    /// Returns how long a publication will take, if that is known.
    pub(crate) fn expected(&self, bytes: usize) -> Option<Duration> {
        let seconds = bytes as f64 / self.bytes_per_second?;
        Duration::try_from_secs_f64(seconds).ok()
    }

    /// Takes in how long a publication took.
    pub(crate) fn learn(&mut self, bytes: usize, took: Duration) {
        if bytes >= MEASURED_BYTES_MIN && !took.is_zero() {
            self.bytes_per_second = Some(bytes as f64 / took.as_secs_f64());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_large_publication_counts() {
        let mut pace = Pace::default();
        pace.learn(100, Duration::from_secs(1));
        assert_eq!(pace.expected(1 << 30), None, "small ones do not count");
        pace.learn(4 << 20, Duration::from_secs(2));
        assert_eq!(pace.expected(6 << 20), Some(Duration::from_secs(3)));
        pace.learn(4 << 20, Duration::from_secs(1));
        assert_eq!(pace.expected(6 << 20), Some(Duration::from_millis(1500)));
        pace.learn(4 << 20, Duration::ZERO);
        assert_eq!(pace.expected(0), Some(Duration::ZERO));
    }
}
