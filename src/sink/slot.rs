//! Who publishes, and how far it has come: slots and markers.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::id::{Attempt, Epoch, JobId, Lineage, OperatorId, Subtask};

/// A publisher of a target: one per sink and subtask. Its printed form is a name without spaces or slashes, at most 190 bytes, and is
/// the same in all attempts of the job.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot {
    /// The job.
    pub job: JobId,
    /// The operator with the sink.
    pub operator: OperatorId,
    /// The sink's name.
    pub sink: String,
    /// The subtask.
    pub subtask: Subtask,
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}.{}", self.job, self.operator, self.sink, self.subtask)
    }
}

/// How far a slot has come. A target sets it in the transaction that publishes the records up to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Marker {
    /// The lineage of the checkpoint that has the output.
    pub lineage: Lineage,
    /// The attempt that published it.
    pub attempt: Attempt,
    /// All output up to this epoch is published.
    pub epoch: Epoch,
}

impl fmt::Display for Marker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.lineage, self.attempt, self.epoch)
    }
}

impl FromStr for Marker {
    type Err = Error;

    /// Parses the printed form.
    ///
    /// # Errors
    /// `Corrupt` if `text` is not one.
    fn from_str(text: &str) -> Result<Self> {
        let parsed = text.split_once('.').and_then(|(lineage, rest)| {
            let (attempt, epoch) = rest.split_once('.')?;
            Some(Self { lineage: lineage.parse().ok()?, attempt: attempt.parse().ok()?, epoch: epoch.parse().ok()? })
        });
        let damaged = || Error::corrupt("marker of a slot is damaged").with("text", text.escape_debug());
        parsed.filter(|marker| marker.to_string() == text).ok_or_else(damaged)
    }
}

/// Checks the name of a sink: 1 to 128 ASCII letters, digits, `_` or `-`.
///
/// # Errors
/// `Config`.
pub(crate) fn check_name(name: &str) -> Result<()> {
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    if (1..=128).contains(&name.len()) && name.bytes().all(valid) {
        return Ok(());
    }
    Err(Error::config("a sink's name is 1 to 128 of A-Z a-z 0-9 _ -").with("name", name.escape_debug()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn markers_print_as_they_parse() {
        let marker = Marker { lineage: Lineage([0xab; 16]), attempt: Attempt(7), epoch: Epoch(0) };
        assert_eq!(marker.to_string(), format!("{}.7.0", "ab".repeat(16)));
        assert_eq!(marker.to_string().parse::<Marker>().unwrap(), marker);
        for bad in ["", "7.0", "ab.7.0", &format!("{marker}.1"), &marker.to_string().replace(".7.", ".07.")] {
            assert_eq!(bad.parse::<Marker>().unwrap_err().kind(), ErrorKind::Corrupt, "{bad}");
        }
    }

    #[test]
    fn names_of_sinks_have_no_separators() {
        for bad in ["", "a.b", "a/b", "a b", "ü", &"x".repeat(129)] {
            assert_eq!(check_name(bad).unwrap_err().kind(), ErrorKind::Config, "{bad}");
        }
        check_name("closed-windows_2").unwrap();
    }

    #[test]
    fn the_longest_slot_name_has_its_stated_length() {
        let slot = Slot {
            job: JobId([1; 16]),
            operator: OperatorId(u32::MAX),
            sink: "x".repeat(128),
            subtask: Subtask(u32::MAX),
        };
        assert!(slot.to_string().len() <= 190);
    }
}
