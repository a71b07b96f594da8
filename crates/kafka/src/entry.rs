//! What the topic of slots says of one slot: who has it, and how far it has come.
//!
//! Its value is text, so that it can be read with Kafka's own tools: `1 <attempt> <marker>`, where 1 is the version, and `-` stands
//! for no marker.

use alluvium::sink::Marker;
use alluvium::{Attempt, Error, Result};

const VERSION: &str = "1";
const NO_MARKER: &str = "-";

/// How much of a damaged entry an error shows.
const SHOWN_BYTES: usize = 100;

/// The entry of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The attempt that has the slot.
    pub(crate) attempt: Attempt,
    /// That of the last publication.
    pub(crate) marker: Option<Marker>,
}

impl Entry {
    /// Returns its value in the topic.
    pub(crate) fn to_value(self) -> String {
        let marker = self.marker.map_or_else(|| NO_MARKER.to_owned(), |marker| marker.to_string());
        format!("{VERSION} {} {marker}", self.attempt)
    }

    /// Parses a value.
    ///
    /// # Errors
    /// `Corrupt`; `Version` if a later version wrote it.
    pub(crate) fn parse(value: &[u8]) -> Result<Self> {
        let start = value.get(..SHOWN_BYTES).unwrap_or(value);
        let damaged = || Error::corrupt("entry of a slot is damaged").with("starts_with", start.escape_ascii());
        let text = std::str::from_utf8(value).map_err(|_| damaged())?;
        let (version, rest) = text.split_once(' ').ok_or_else(damaged)?;
        if version != VERSION {
            let is_number = version.parse::<u32>().is_ok();
            let newer = || Error::version("entry of a slot has an unknown version").with("version", version);
            return Err(if is_number { newer() } else { damaged() });
        }
        let (attempt, marker) = rest.split_once(' ').ok_or_else(damaged)?;
        let marker = match marker {
            NO_MARKER => None,
            marker => Some(marker.parse().map_err(|_| damaged())?),
        };
        let entry = Self { attempt: attempt.parse().map_err(|_| damaged())?, marker };
        if entry.to_value() != text {
            return Err(damaged());
        }
        Ok(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alluvium::{Epoch, ErrorKind, Lineage};

    #[test]
    fn entries_come_back() {
        let marker = Marker { lineage: Lineage([0xab; 16]), attempt: Attempt(6), epoch: Epoch(12) };
        let with = Entry { attempt: Attempt(7), marker: Some(marker) };
        assert_eq!(with.to_value(), format!("1 7 {}.6.12", "ab".repeat(16)));
        for entry in [with, Entry { attempt: Attempt(u64::MAX), marker: None }] {
            assert_eq!(Entry::parse(entry.to_value().as_bytes()).unwrap(), entry);
        }
    }

    #[test]
    fn every_cut_and_other_damage_is_noticed() {
        let marker = Marker { lineage: Lineage([7; 16]), attempt: Attempt(6), epoch: Epoch(12) };
        let whole = Entry { attempt: Attempt(77), marker: Some(marker) }.to_value();
        // A cut epoch is an epoch too: Kafka's own checksum covers that.
        let cuts = (0..whole.len() - 1).map(|end| whole.as_bytes()[..end].to_vec());
        let other = [&b"1 07 -"[..], b"1 7  -", b"1 7 - ", b"1 -1 -", b"x 7 -", b"\xff", b"1 7 \xff"];
        for bad in cuts.chain(other.map(<[u8]>::to_vec)) {
            assert_eq!(Entry::parse(&bad).unwrap_err().kind(), ErrorKind::Corrupt, "{}", bad.escape_ascii());
        }
        assert_eq!(Entry::parse(b"2 anything").unwrap_err().kind(), ErrorKind::Version);
    }
}
