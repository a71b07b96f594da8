//! The envelope of every object: what it is, which write made it, and that all of it is there.
//!
//! Frozen for all versions: header and checksums are verified before the version is judged, so that damage is
//! never mistaken for a newer format.

use bytes::Bytes;

use crate::codec::bytes::{Reader, put_checksum, put_u8, put_u16, put_u32, put_u64};
use crate::error::{Error, Result};
use crate::id::PutId;

/// Length of the header: enough of an object to read its put-id.
pub const ENVELOPE_HEADER_BYTES: usize = 48;

const MAGIC: [u8; 8] = *b"ALLUVIUM";
const CHECKSUM_BYTES: usize = 4;
const MAC_BYTES: usize = 32;
/// Required flag: a keyed MAC of everything before it ends the object.
const FLAG_MAC: u32 = 1;
/// The required flags that this build can honour. The MAC has its place and, as yet, no keys.
const SUPPORTED_FLAGS: u32 = 0;

/// What an object is. The numbers are part of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// An attempt marker.
    Attempt = 1,
    /// A manifest.
    Manifest = 2,
    /// A pack.
    Pack = 3,
}

impl Kind {
    /// Returns the newest version of its body: the one that is written. All from 1 to this are read.
    #[must_use]
    pub const fn newest_version(self) -> u16 {
        match self {
            Self::Attempt | Self::Manifest | Self::Pack => 1,
        }
    }
}

/// A verified object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// The write that created it.
    pub put_id: PutId,
    /// Version of the body.
    pub version: u16,
    /// The body.
    pub body: Bytes,
}

struct Header {
    kind: u8,
    reserved: u8,
    version: u16,
    required: u32,
    put_id: PutId,
    body_length: u64,
}

impl Header {
    fn encode(kind: Kind, put_id: PutId, body_length: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(ENVELOPE_HEADER_BYTES);
        out.extend_from_slice(&MAGIC);
        put_u8(&mut out, kind as u8);
        put_u8(&mut out, 0);
        put_u16(&mut out, kind.newest_version());
        put_u32(&mut out, SUPPORTED_FLAGS);
        put_u32(&mut out, 0);
        out.extend_from_slice(&put_id.0);
        put_u64(&mut out, body_length);
        put_checksum(&mut out, 0);
        out
    }

    fn decode(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader::new(bytes);
        if reader.array()? != MAGIC {
            return Err(Error::corrupt("object does not start with the magic bytes"));
        }
        let (kind, reserved, version) = (reader.u8()?, reader.u8()?, reader.u16()?);
        let (required, _optional) = (reader.u32()?, reader.u32()?);
        let header =
            Self { kind, reserved, version, required, put_id: PutId(reader.array()?), body_length: reader.u64()? };
        reader.checksum("object header")?;
        Ok(header)
    }
}

/// An object under construction: its body is appended piece by piece, so that a large one is copied once.
#[derive(Debug)]
pub struct Builder {
    object: Vec<u8>,
}

impl Builder {
    /// Returns an object with an empty body and room for `body_bytes`.
    #[must_use]
    pub fn with_capacity(body_bytes: usize) -> Self {
        let mut object = Vec::with_capacity(ENVELOPE_HEADER_BYTES + body_bytes + CHECKSUM_BYTES);
        object.resize(ENVELOPE_HEADER_BYTES, 0);
        Self { object }
    }

    /// Returns where the next byte of the body will stand, from the object's start.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.object.len()
    }

    /// Appends to the body.
    pub fn append(&mut self, bytes: &[u8]) {
        self.object.extend_from_slice(bytes);
    }

    /// Returns the whole object.
    #[must_use]
    pub fn finish(mut self, kind: Kind, put_id: PutId) -> Bytes {
        let (header, body) = self.object.split_at_mut(ENVELOPE_HEADER_BYTES);
        let fields = Header::encode(kind, put_id, body.len() as u64);
        header.copy_from_slice(&fields);
        put_checksum(&mut self.object, 0);
        self.object.into()
    }
}

/// Returns the object of `kind` with this body.
#[must_use]
pub fn encode(kind: Kind, put_id: PutId, body: &[u8]) -> Bytes {
    let mut builder = Builder::with_capacity(body.len());
    builder.append(body);
    builder.finish(kind, put_id)
}

/// Verifies an object and returns what is in it.
///
/// # Errors
/// `Corrupt` if it is damaged, cut, has bytes after its end or is of another kind; `Version` if it is whole but
/// newer than this build.
pub fn decode(kind: Kind, object: &Bytes) -> Result<Envelope> {
    let header = Header::decode(object)?;
    if header.kind != kind as u8 {
        return Err(Error::corrupt("misplaced object: it is of another kind")
            .with("expected", kind as u8)
            .with("found", header.kind));
    }
    if header.reserved != 0 {
        return Err(Error::corrupt("reserved byte is not zero").with("found", header.reserved));
    }
    let tail = CHECKSUM_BYTES + if header.required & FLAG_MAC == 0 { 0 } else { MAC_BYTES };
    let left = object.len().saturating_sub(ENVELOPE_HEADER_BYTES);
    let body_length = usize::try_from(header.body_length).ok().filter(|body| body.checked_add(tail) == Some(left));
    let Some(body_length) = body_length else {
        return Err(Error::corrupt("object has another length than its header says")
            .with("expected", header.body_length.saturating_add((ENVELOPE_HEADER_BYTES + tail) as u64))
            .with("found", object.len()));
    };
    let body_end = ENVELOPE_HEADER_BYTES.saturating_add(body_length);
    let mut reader = Reader::new(object);
    reader.bytes(body_end)?;
    reader.checksum("object")?;
    check_version(kind, &header)?;
    let body = object.slice(ENVELOPE_HEADER_BYTES..body_end);
    Ok(Envelope { put_id: header.put_id, version: header.version, body })
}

fn check_version(kind: Kind, header: &Header) -> Result<()> {
    let unknown = header.required & !SUPPORTED_FLAGS;
    if unknown != 0 {
        return Err(
            Error::version("object needs features that this build lacks").with("flags", format!("{unknown:#x}"))
        );
    }
    match header.version {
        0 => Err(Error::corrupt("version is zero")),
        found if found > kind.newest_version() => Err(Error::version("object was written by a newer version")
            .with("found", found)
            .with("supported", kind.newest_version())),
        _ => Ok(()),
    }
}

/// Returns the put-id of an object, given its first [`ENVELOPE_HEADER_BYTES`] or more. It says whose write this
/// is, not that the rest is whole.
///
/// # Errors
/// `Corrupt` if the header is damaged or cut.
pub fn peek_put_id(header: &[u8]) -> Result<PutId> {
    Header::decode(header).map(|header| header.put_id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    const PUT: PutId = PutId([7; 16]);

    fn kind_of(kind: Kind, object: &[u8]) -> Option<ErrorKind> {
        decode(kind, &Bytes::copy_from_slice(object)).err().map(|error| error.kind())
    }

    /// Rewrites both checksums after an edit, as another writer would have written them.
    fn rechecked(object: &[u8], edit: impl FnOnce(&mut [u8])) -> Vec<u8> {
        let mut object = object.to_vec();
        edit(&mut object);
        let header = crc32fast::hash(&object[..44]).to_le_bytes();
        object[44..48].copy_from_slice(&header);
        let end = object.len() - 4;
        let whole = crc32fast::hash(&object[..end]).to_le_bytes();
        object[end..].copy_from_slice(&whole);
        object
    }

    #[test]
    fn comes_back_whole_or_not_at_all() {
        let object = encode(Kind::Manifest, PUT, b"body");
        let envelope = decode(Kind::Manifest, &object).unwrap();
        assert_eq!((envelope.put_id, envelope.version, &envelope.body[..]), (PUT, 1, &b"body"[..]));
        assert_eq!(peek_put_id(&object[..ENVELOPE_HEADER_BYTES]).unwrap(), PUT);
        for cut in 0..object.len() {
            assert_eq!(kind_of(Kind::Manifest, &object[..cut]), Some(ErrorKind::Corrupt), "cut at {cut}");
        }
        assert_eq!(kind_of(Kind::Manifest, &[&object[..], b"x"].concat()), Some(ErrorKind::Corrupt));
        for at in 0..object.len() {
            for bit in 0..8 {
                let mut flipped = object.to_vec();
                flipped[at] ^= 1 << bit;
                assert_eq!(kind_of(Kind::Manifest, &flipped), Some(ErrorKind::Corrupt), "byte {at} bit {bit}");
                assert_eq!(peek_put_id(&flipped).is_err(), at < ENVELOPE_HEADER_BYTES);
            }
        }
    }

    #[test]
    fn kind_comes_before_version_and_damage_before_both() {
        let object = encode(Kind::Pack, PUT, b"body");
        assert_eq!(kind_of(Kind::Manifest, &object), Some(ErrorKind::Corrupt));
        assert_eq!(kind_of(Kind::Pack, &rechecked(&object, |o| o[10] = 2)), Some(ErrorKind::Version));
        assert_eq!(kind_of(Kind::Pack, &rechecked(&object, |o| o[10] = 0)), Some(ErrorKind::Corrupt));
        assert_eq!(kind_of(Kind::Pack, &rechecked(&object, |o| o[9] = 1)), Some(ErrorKind::Corrupt));
        assert_eq!(kind_of(Kind::Pack, &rechecked(&object, |o| o[12] = 2)), Some(ErrorKind::Version));
        assert_eq!(kind_of(Kind::Pack, &rechecked(&object, |o| o[16] = 0xff)), None, "optional flags are ignored");
        let error = decode(Kind::Pack, &rechecked(&object, |o| o[10] = 9).into()).unwrap_err();
        assert_eq!(error.to_string(), "object was written by a newer version found=`9` supported=`1`");
    }

    #[test]
    fn a_mac_has_its_place() {
        let mut object = rechecked(&encode(Kind::Pack, PUT, b"body"), |o| o[12] = 1);
        assert_eq!(kind_of(Kind::Pack, &object), Some(ErrorKind::Corrupt), "the mac is missing");
        object.extend_from_slice(&[0; MAC_BYTES]);
        assert_eq!(kind_of(Kind::Pack, &object), Some(ErrorKind::Version));
    }
}
