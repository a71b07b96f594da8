//! The output of one epoch and slot, as it lies in a checkpoint: its records, or the part that they are staged in.
//!
//! ```text
//! version 1 (u8) | subtask (u32) | epoch (u64) | marked (u64, all ones: none) | records (u32) | { length (u32) | bytes } ...
//! ```
//! Numbers are little-endian. A staged part takes the place of a record. Without staging, every epoch has one, also without records: it
//! says what the target's marker was.

use bytes::{Buf as _, Bytes};

use crate::error::{Error, Result};
use crate::id::{Epoch, Subtask};
use crate::manifest::{Opaque, OpaqueRole};

/// What a checkpoint has of a sink's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Form {
    /// The records.
    Records,
    /// The parts in which they are staged.
    Parts,
}

impl Form {
    const ALL: [Self; 2] = [Self::Records, Self::Parts];

    /// Returns the prefix of the names of its opaques; the sink's name follows.
    fn prefix(self) -> &'static str {
        match self {
            Self::Records => "sink:",
            Self::Parts => "staged:",
        }
    }
}

const VERSION: u8 = 1;
const NO_EPOCH: u64 = u64::MAX;

/// Room at the start of a draft for what is known at the barrier alone.
pub(super) const HEADER_BYTES: usize = 1 + 4 + 8 + 8 + 4;

/// The records that a slot publishes at once, in the order in which they were emitted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Records {
    /// Verified frames.
    frames: Bytes,
    count: u32,
}

impl Records {
    /// Returns the number of records.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Returns whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Returns the bytes of all records together, with four more for each.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.frames.len()
    }

    /// Returns the records, sharing memory with this.
    pub fn iter(&self) -> impl Iterator<Item = Bytes> + '_ {
        let mut rest = self.frames.clone();
        std::iter::from_fn(move || next_frame(&mut rest))
    }

    fn parse(frames: Bytes, count: u32) -> Result<Self> {
        let mut rest = frames.clone();
        let found = std::iter::from_fn(|| next_frame(&mut rest)).count();
        if found == count as usize && rest.is_empty() {
            return Ok(Self { frames, count });
        }
        Err(damaged().with("expected", count).with("found", found))
    }
}

impl<T: AsRef<[u8]>> FromIterator<T> for Records {
    fn from_iter<I: IntoIterator<Item = T>>(records: I) -> Self {
        let mut draft = Draft::default();
        records.into_iter().for_each(|record| draft.push(record.as_ref()));
        draft.into_records()
    }
}

fn next_frame(rest: &mut Bytes) -> Option<Bytes> {
    let length = rest.get(..4).map(|mut length| length.get_u32_le() as usize)?;
    let end = length.checked_add(4).filter(|end| *end <= rest.len())?;
    let frame = rest.slice(4..end);
    rest.advance(end);
    Some(frame)
}

/// The records emitted since the last barrier.
#[derive(Debug)]
pub(super) struct Draft {
    bytes: Vec<u8>,
    count: u32,
}

impl Default for Draft {
    fn default() -> Self {
        Self { bytes: vec![0; HEADER_BYTES], count: 0 }
    }
}

impl Draft {
    /// Returns the bytes of its records.
    pub(super) fn len(&self) -> u64 {
        (self.bytes.len() - HEADER_BYTES) as u64
    }

    /// Returns the number of its records.
    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// Adds a record of less than 4 GiB. There are fewer than 2^32 records, as each takes memory.
    pub(super) fn push(&mut self, record: &[u8]) {
        let length = u32::try_from(record.len()).unwrap_or(u32::MAX);
        self.bytes.extend_from_slice(&length.to_le_bytes());
        self.bytes.extend_from_slice(record);
        self.count += 1;
    }

    /// Returns the records alone.
    pub(super) fn into_records(self) -> Records {
        let count = self.count;
        Records { frames: Bytes::from(self.bytes).slice(HEADER_BYTES..), count }
    }

    /// Returns the output of an epoch.
    ///
    /// * `marked`: the epoch of the target's marker, if there is one.
    pub(super) fn prepare(self, subtask: Subtask, epoch: Epoch, marked: Option<Epoch>) -> Bytes {
        let Self { mut bytes, count } = self;
        let mut header = Vec::with_capacity(HEADER_BYTES);
        header.push(VERSION);
        header.extend_from_slice(&subtask.0.to_le_bytes());
        header.extend_from_slice(&epoch.0.to_le_bytes());
        header.extend_from_slice(&marked.map_or(NO_EPOCH, |epoch| epoch.0).to_le_bytes());
        header.extend_from_slice(&count.to_le_bytes());
        bytes.splice(..HEADER_BYTES, header);
        bytes.into()
    }
}

/// The output of one epoch and slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PreparedEpoch {
    /// The subtask whose slot it is.
    pub(crate) subtask: Subtask,
    pub(crate) epoch: Epoch,
    /// The epoch of the target's marker, as far as the attempt knew it.
    pub(crate) marked: Option<Epoch>,
    pub(crate) records: Records,
}

impl PreparedEpoch {
    /// Parses what [`Draft::prepare`] made.
    ///
    /// # Errors
    /// `Corrupt`; `Version` if a later version wrote it.
    pub(crate) fn parse(bytes: &Bytes) -> Result<Self> {
        let version = bytes.first().copied().ok_or_else(damaged)?;
        if version != VERSION {
            return Err(Error::version("output of a sink has an unknown version").with("version", version));
        }
        let (mut header, frames) = bytes.split_at_checked(HEADER_BYTES).ok_or_else(damaged)?;
        header.advance(1);
        let (subtask, epoch) = (Subtask(header.get_u32_le()), Epoch(header.get_u64_le()));
        let marked = Some(header.get_u64_le()).filter(|marked| *marked != NO_EPOCH).map(Epoch);
        let records = Records::parse(bytes.slice_ref(frames), header.get_u32_le())?;
        Ok(Self { subtask, epoch, marked, records })
    }
}

/// Returns the opaque with the prepared output of the sink `name`.
pub(super) fn opaque(form: Form, name: &str, prepared: Bytes) -> Opaque {
    Opaque::new(OpaqueRole::SinkPrepared, format!("{}{name}", form.prefix()), prepared)
}

/// Returns whether an opaque is one of a registered sink.
pub(crate) fn is_of_sink(opaque: &Opaque) -> bool {
    opaque.role == OpaqueRole::SinkSums || sink_of(opaque).is_some()
}

/// Returns the sink whose output an opaque carries.
pub(crate) fn sink_of(opaque: &Opaque) -> Option<(Form, &str)> {
    let name = |form: Form| Some((form, opaque.name.strip_prefix(form.prefix())?));
    Form::ALL.into_iter().find_map(name).filter(|_| opaque.role == OpaqueRole::SinkPrepared)
}

fn damaged() -> Error {
    Error::corrupt("stored output of a sink is damaged")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn prepared() -> Bytes {
        let mut draft = Draft::default();
        [&b"one"[..], b"", b"three"].iter().for_each(|record| draft.push(record));
        draft.prepare(Subtask(3), Epoch(9), Some(Epoch(7)))
    }

    #[test]
    fn records_come_back_in_order() {
        let parsed = PreparedEpoch::parse(&prepared()).unwrap();
        assert_eq!((parsed.subtask, parsed.epoch, parsed.marked), (Subtask(3), Epoch(9), Some(Epoch(7))));
        assert_eq!(parsed.records.iter().collect::<Vec<_>>(), [&b"one"[..], b"", b"three"]);
        assert_eq!(parsed.records, [&b"one"[..], b"", b"three"].iter().collect());
        let empty = PreparedEpoch::parse(&Draft::default().prepare(Subtask(0), Epoch(1), None)).unwrap();
        assert!(empty.records.is_empty() && empty.marked.is_none());
    }

    #[test]
    fn every_cut_and_every_other_count_is_damage() {
        let whole = prepared();
        for end in 0..whole.len() {
            assert_eq!(PreparedEpoch::parse(&whole.slice(..end)).unwrap_err().kind(), ErrorKind::Corrupt, "{end}");
        }
        for (at, value) in [(HEADER_BYTES - 4, 2), (HEADER_BYTES - 4, 4), (HEADER_BYTES, 4), (HEADER_BYTES + 3, 255)] {
            let mut bytes = whole.to_vec();
            bytes[at] = value;
            assert_eq!(PreparedEpoch::parse(&bytes.into()).unwrap_err().kind(), ErrorKind::Corrupt, "{at} {value}");
        }
        let mut newer = whole.to_vec();
        newer[0] = 2;
        assert_eq!(PreparedEpoch::parse(&newer.into()).unwrap_err().kind(), ErrorKind::Version);
    }
}
