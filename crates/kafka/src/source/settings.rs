//! Settings of a source.

use std::time::Duration;

use alluvium::{Error, Result};

/// Memory that a record takes besides its key, value and headers, about.
pub(super) const RECORD_BYTES: usize = 128;

/// Smallest buffer: below, a fetch would be a few records.
const BUFFER_BYTES_MIN: usize = 64 << 10;

/// Settings of a [`KafkaSource`](crate::KafkaSource). Made by [`default`](Self::default), changed by [`with`](Self::with).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct KafkaSourceSettings {
    /// Where a job that starts from nothing begins. Partitions that appear later are read from their beginning. Default: the earliest
    /// record.
    pub start: KafkaStart,
    /// Which records are read. Default: those of committed transactions, and those without one.
    pub isolation: KafkaIsolation,
    /// Whether each partition ends where its readable records end when it is opened, for a job that ends. After a restart, it ends
    /// where they end then. Default: no.
    pub stop_at_end: bool,
    /// About the most bytes of records that are fetched and not yet read, for each partition. At least 64 KiB. A fetch asks for an
    /// eighth of it, as compressed; a single larger batch comes whole. Default: 8 MiB.
    pub buffer_bytes: usize,
    /// How long brokers that are away, or do not answer for a partition, are waited for, with warnings. Default: 60 s.
    pub patience: Duration,
}

/// Where to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum KafkaStart {
    /// At the earliest record that is still there.
    #[default]
    Earliest,
    /// After the last readable record.
    Latest,
}

/// Which records are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum KafkaIsolation {
    /// Those of committed transactions, and those without one, up to the first transaction that is still open.
    #[default]
    ReadCommitted,
    /// All, those of open and aborted transactions too.
    ReadUncommitted,
}

impl Default for KafkaSourceSettings {
    fn default() -> Self {
        Self {
            start: KafkaStart::default(),
            isolation: KafkaIsolation::default(),
            stop_at_end: false,
            buffer_bytes: 8 << 20,
            patience: Duration::from_secs(60),
        }
    }
}

impl KafkaSourceSettings {
    /// Returns these settings after `change`, for use in an expression.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// # Errors
    /// `Config`.
    pub(super) fn check(&self) -> Result<()> {
        // Kafka counts in milliseconds.
        if !i32::try_from(self.patience.as_millis()).is_ok_and(|ms| ms > 0) {
            let error = Error::config("patience is not between 1 ms and 24 days");
            return Err(error.with("patience", format_args!("{:?}", self.patience)));
        }
        if self.buffer_bytes < BUFFER_BYTES_MIN {
            let error = Error::config("buffer of a source is too small").with("buffer_bytes", self.buffer_bytes);
            return Err(error.with("at_least", BUFFER_BYTES_MIN));
        }
        Ok(())
    }

    /// Returns the most bytes that one fetch asks for. Four times as many fit once they are unpacked.
    pub(super) fn fetch_bytes(&self) -> i32 {
        i32::try_from(self.buffer_bytes / 8).unwrap_or(i32::MAX)
    }

    /// Returns the most records that one fetch unpacks: small ones take more memory than bytes.
    pub(super) fn fetch_records(&self) -> i32 {
        i32::try_from(self.buffer_bytes / 2 / RECORD_BYTES).unwrap_or(i32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alluvium::ErrorKind;

    #[test]
    fn settings_that_cannot_hold_are_refused() {
        KafkaSourceSettings::default().check().unwrap();
        let bad: [fn(&mut KafkaSourceSettings); 3] = [
            |it| it.patience = Duration::from_micros(999),
            |it| it.patience = Duration::MAX,
            |it| it.buffer_bytes = BUFFER_BYTES_MIN - 1,
        ];
        for change in bad {
            assert_eq!(KafkaSourceSettings::default().with(change).check().unwrap_err().kind(), ErrorKind::Config);
        }
    }
}
