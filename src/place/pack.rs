//! Packs: the segments of many subtasks in one object, with a directory at its end.
//!
//! Readers with a manifest ignore the directory; it serves readers that have only the object.

use bytes::Bytes;

use crate::codec::bytes::{Reader, put_length, put_u8, put_u32, put_u64};
use crate::codec::trailer::{find_index, put_trailer};
use crate::envelope::{self, ENVELOPE_HEADER_BYTES, ObjectKind};
use crate::error::{Error, Result};
use crate::id::{Attempt, Epoch, ObjectId, OperatorId, Part, PutId, SegmentId, Subtask};
use crate::row::SegmentKind;
use crate::segment::Encoded;

/// Length at which a pack takes no more segments.
pub const PACK_BYTES: u64 = 64 << 20;

const IDENTITY_BYTES: usize = 8 + 16;
const SEGMENT: u8 = 1;
const OPAQUE: u8 = 2;
/// The shortest entry of the directory.
const ENTRY_BYTES: usize = 1 + 8;

/// A slice of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slice {
    /// Its content.
    pub content: SliceContent,
    /// Its offset from the object's start.
    pub offset: u64,
    /// Its length in bytes.
    pub length: u64,
}

/// The content of a slice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SliceContent {
    /// A segment.
    Segment {
        /// Its identity.
        id: SegmentId,
        /// Its kind.
        kind: SegmentKind,
    },
    /// Other bytes.
    Opaque,
}

/// A finished pack.
#[derive(Debug, Clone)]
pub struct Packed {
    /// Its identity, from which its key is made.
    pub id: ObjectId,
    /// The id of the put that creates it.
    pub put_id: PutId,
    /// The whole object.
    pub object: envelope::Object,
}

#[cfg(any(test, feature = "internals"))]
impl Packed {
    /// Returns the whole object in one piece.
    #[must_use]
    pub fn bytes(&self) -> Bytes {
        self.object.pieces.concat().into()
    }
}

/// Collects segments into a pack.
#[derive(Debug)]
pub struct PackBuilder {
    id: ObjectId,
    put_id: PutId,
    object: envelope::Builder,
    slices: Vec<Slice>,
}

impl PackBuilder {
    /// Returns a pack without slices.
    #[must_use]
    pub fn new(id: ObjectId, put_id: PutId) -> Self {
        let mut object = envelope::Builder::default();
        object.copy(&id.attempt.0.to_le_bytes());
        object.copy(&id.random);
        Self { id, put_id, object, slices: Vec::new() }
    }

    /// Appends a segment and returns its offset from the object's start.
    pub fn add_segment(&mut self, id: SegmentId, segment: &Encoded) -> u64 {
        self.add(SliceContent::Segment { id, kind: segment.kind }, &segment.bytes)
    }

    /// Appends other bytes and returns their offset from the object's start.
    pub fn add_opaque(&mut self, bytes: &Bytes) -> u64 {
        self.add(SliceContent::Opaque, bytes)
    }

    fn add(&mut self, content: SliceContent, bytes: &Bytes) -> u64 {
        let offset = self.object.offset() as u64;
        self.object.append(bytes);
        self.slices.push(Slice { content, offset, length: bytes.len() as u64 });
        offset
    }

    /// Returns its length so far, without the directory.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.object.offset() as u64
    }

    /// Returns whether it has no slices.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slices.is_empty()
    }

    /// Returns the pack.
    ///
    /// # Errors
    /// `Limit` if the directory exceeds 4 GiB.
    pub fn finish(mut self) -> Result<Packed> {
        let mut directory = Vec::new();
        put_length(&mut directory, self.slices.len());
        for slice in &self.slices {
            put_slice(&mut directory, slice);
        }
        put_trailer(&mut directory, 0, self.len())?;
        self.object.copy(&directory);
        let object = self.object.finish(ObjectKind::Pack, self.put_id);
        Ok(Packed { id: self.id, put_id: self.put_id, object })
    }
}

/// A verified pack.
#[derive(Debug, Clone)]
pub struct Pack {
    /// The id of the put that created it.
    pub put_id: PutId,
    /// Its slices, in order and without gaps.
    pub slices: Vec<Slice>,
    #[cfg(any(test, feature = "internals"))]
    object: Bytes,
}

impl Pack {
    /// Verifies an object read under the key of `expected`.
    ///
    /// # Errors
    /// `Corrupt` if it is damaged or another pack; `Version` if it is newer than this build.
    pub fn decode(expected: ObjectId, object: &Bytes) -> Result<Self> {
        let envelope = envelope::decode(ObjectKind::Pack, object)?;
        let mut identity = Reader::new(&envelope.body);
        let found = ObjectId { attempt: Attempt(identity.u64()?), random: identity.array()? };
        if found != expected {
            let error = Error::corrupt("misplaced object: it is another pack");
            return Err(error.with("expected", expected).with("found", found));
        }
        // Offsets in a pack count from the object's start.
        let end = ENVELOPE_HEADER_BYTES + envelope.body.len();
        let (directory_offset, directory) = find_index(object.get(..end).unwrap_or_default())?;
        let mut reader = Reader::new(directory);
        let count = reader.count(ENTRY_BYTES)?;
        let mut slices = Vec::with_capacity(count);
        let mut offset = (ENVELOPE_HEADER_BYTES + IDENTITY_BYTES) as u64;
        for _ in 0..count {
            let slice = take_slice(&mut reader, offset)?;
            offset = offset.checked_add(slice.length).ok_or_else(|| reader.corrupt("slices overflow"))?;
            slices.push(slice);
        }
        if offset != directory_offset {
            let error = reader.corrupt("slices do not fill the pack");
            return Err(error.with("expected", directory_offset).with("found", offset));
        }
        reader.finish()?;
        Ok(Self {
            put_id: envelope.put_id,
            slices,
            #[cfg(any(test, feature = "internals"))]
            object: object.clone(),
        })
    }

    /// Returns the bytes of one of its slices.
    ///
    /// # Errors
    /// `Usage` if the slice is not of this pack.
    #[cfg(any(test, feature = "internals"))]
    pub fn bytes(&self, slice: &Slice) -> Result<Bytes> {
        let bounds = usize::try_from(slice.offset).ok().zip(usize::try_from(slice.length).ok());
        let range = bounds.and_then(|(start, length)| Some(start..start.checked_add(length)?));
        match range {
            Some(range) if range.end <= self.object.len() => Ok(self.object.slice(range)),
            _ => Err(Error::usage("slice is not of this pack").with("offset", slice.offset)),
        }
    }
}

fn put_slice(out: &mut Vec<u8>, slice: &Slice) {
    match slice.content {
        SliceContent::Opaque => put_u8(out, OPAQUE),
        SliceContent::Segment { .. } => put_u8(out, SEGMENT),
    }
    put_u64(out, slice.length);
    if let SliceContent::Segment { id, kind } = slice.content {
        put_u8(out, kind as u8);
        put_u64(out, id.attempt.0);
        put_u32(out, id.operator.0);
        put_u32(out, id.subtask.0);
        put_u64(out, id.epoch.0);
        put_u32(out, id.part.0);
    }
}

fn take_slice(reader: &mut Reader<'_>, offset: u64) -> Result<Slice> {
    let (tag, length) = (reader.u8()?, reader.u64()?);
    let content = match tag {
        OPAQUE => SliceContent::Opaque,
        SEGMENT => SliceContent::Segment {
            kind: SegmentKind::from_stored(u32::from(reader.u8()?))?,
            id: SegmentId {
                attempt: Attempt(reader.u64()?),
                operator: OperatorId(reader.u32()?),
                subtask: Subtask(reader.u32()?),
                epoch: Epoch(reader.u64()?),
                part: Part(reader.u32()?),
            },
        },
        other => return Err(Error::version("pack has a kind of slice that this build lacks").with("found", other)),
    };
    Ok(Slice { content, offset, length })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::codec::bytes::put_checksum;
    use crate::codec::bytes::tests::{any_damage, damaged};
    use crate::error::ErrorKind;
    use crate::id::Hash;
    use crate::key_group::KeyGroupSet;

    const ID: ObjectId = ObjectId { attempt: Attempt(3), random: [9; 16] };

    fn packed() -> (Packed, [u64; 2]) {
        let mut builder = PackBuilder::new(ID, PutId([1; 16]));
        assert!(builder.is_empty());
        let foreign = Encoded::foreign(KeyGroupSet::all(4), Bytes::from_static(b"foreign"));
        let segment = builder.add_segment(SegmentId { attempt: Attempt(3), ..SegmentId::default() }, &foreign);
        let opaque = builder.add_opaque(&Bytes::from_static(b"opaque"));
        (builder.finish().unwrap(), [segment, opaque])
    }

    #[test]
    fn slices_are_readable_by_directory_and_by_offset() {
        let (packed, offsets) = packed();
        let bytes = packed.bytes();
        assert_eq!((packed.object.hash, packed.object.length), (Hash::of(&bytes), bytes.len() as u64));
        let pack = Pack::decode(ID, &bytes).unwrap();
        let found: Vec<_> = pack.slices.iter().map(|s| (s.offset, pack.bytes(s).unwrap())).collect();
        assert_eq!(found, [(offsets[0], Bytes::from("foreign")), (offsets[1], Bytes::from("opaque"))]);
        assert!(matches!(pack.slices[0].content, SliceContent::Segment { kind: SegmentKind::Foreign, .. }));
        assert_eq!((pack.put_id, pack.slices[1].content), (packed.put_id, SliceContent::Opaque));
        let empty = PackBuilder::new(ID, PutId([1; 16])).finish().unwrap();
        assert!(Pack::decode(ID, &empty.bytes()).unwrap().slices.is_empty());
    }

    #[test]
    fn another_pack_under_the_key_is_refused() {
        let error = Pack::decode(ObjectId { attempt: Attempt(4), ..ID }, &packed().0.bytes()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.message().starts_with("misplaced object"), "{error}");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_damaged_body_gives_an_error_or_slices_of_the_pack(damage in any_damage()) {
            let body = envelope::decode(ObjectKind::Pack, &packed().0.bytes()).unwrap().body;
            let mut body = damaged(&body, &damage);
            // Recompute the trailer's checksum.
            if let Some(end) = body.len().checked_sub(4).filter(|end| *end >= 12) {
                let offset = Reader::new(&body[end - 12..]).u64().unwrap();
                let start = usize::try_from(offset).ok().and_then(|at| at.checked_sub(ENVELOPE_HEADER_BYTES));
                body.truncate(end);
                put_checksum(&mut body, start.unwrap_or(0));
            }
            let object = envelope::encode(ObjectKind::Pack, PutId([1; 16]), &body);
            if let Ok(pack) = Pack::decode(ID, &object) {
                pack.slices.iter().for_each(|slice| drop(pack.bytes(slice).unwrap()));
            }
        }
    }
}
