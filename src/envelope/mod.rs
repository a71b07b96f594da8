//! The envelope of every object: its kind, its put-id, and checksums of the whole.
//!
//! Frozen for all versions: header and checksums are verified before the version is checked, so that damage is never
//! mistaken for a newer format.

mod mac;

use bytes::Bytes;

use crate::codec::bytes::{Reader, put_checksum, put_u8, put_u16, put_u32, put_u64};
use crate::error::{Error, Result};
use crate::id::{Hash, PutId};

use mac::MAC_BYTES;

pub use mac::{MacKey, MacKeys};

/// Length of the header: enough bytes of an object to read its put-id.
pub const ENVELOPE_HEADER_BYTES: usize = 48;

const MAGIC: [u8; 8] = *b"ALLUVIUM";
const CHECKSUM_BYTES: usize = 4;
/// Shorter pieces of an object are copied together, and as many bytes are hashed at a time.
const PIECE_BYTES: usize = 64 << 10;
/// Required flag: the object ends with a keyed MAC of all bytes before it.
const FLAG_MAC: u32 = 1;

/// ObjectKind of an object. The numbers are part of the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ObjectKind {
    /// An attempt marker.
    Attempt = 1,
    /// A manifest.
    Manifest = 2,
    /// A pack.
    Pack = 3,
}

impl ObjectKind {
    /// Returns the newest version of the body. This version is written; all versions from 1 to it are read.
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
    fn encode(kind: ObjectKind, required: u32, put_id: PutId, body_length: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(ENVELOPE_HEADER_BYTES);
        out.extend_from_slice(&MAGIC);
        put_u8(&mut out, kind as u8);
        put_u8(&mut out, 0);
        put_u16(&mut out, kind.newest_version());
        put_u32(&mut out, required);
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

/// Builds an unsigned object from pieces of its body. Copies only short ones.
#[derive(Debug, Default)]
pub struct Builder {
    pieces: Vec<Bytes>,
    /// Short pieces, copied together: stores handle each piece on its own.
    open: Vec<u8>,
    body_bytes: usize,
}

/// An object as the pieces of its bytes, in order.
#[derive(Debug, Clone)]
pub struct Object {
    /// The pieces.
    pub pieces: Vec<Bytes>,
    /// Length of the whole, in bytes.
    pub length: u64,
    /// Hash of the whole.
    pub hash: Hash,
}

impl Builder {
    /// Returns the position of the next byte of the body, from the object's start.
    #[must_use]
    pub fn offset(&self) -> usize {
        ENVELOPE_HEADER_BYTES + self.body_bytes
    }

    /// Appends to the body.
    pub fn append(&mut self, piece: &Bytes) {
        if piece.len() < PIECE_BYTES {
            return self.copy(piece);
        }
        self.body_bytes += piece.len();
        self.close();
        self.pieces.push(piece.clone());
    }

    /// Appends a copy to the body.
    pub fn copy(&mut self, bytes: &[u8]) {
        self.body_bytes += bytes.len();
        self.open.extend_from_slice(bytes);
    }

    fn close(&mut self) {
        if !self.open.is_empty() {
            self.pieces.push(std::mem::take(&mut self.open).into());
        }
    }

    /// Returns the whole object.
    #[must_use]
    pub fn finish(mut self, kind: ObjectKind, put_id: PutId) -> Object {
        self.close();
        let mut pieces = vec![Bytes::from(Header::encode(kind, 0, put_id, self.body_bytes as u64))];
        pieces.append(&mut self.pieces);
        let (mut checksum, mut hash) = (crc32fast::Hasher::new(), blake3::Hasher::new());
        // Both in one pass: what the first has read is still cached for the second.
        for part in pieces.iter().flat_map(|piece| piece.chunks(PIECE_BYTES)) {
            checksum.update(part);
            hash.update(part);
        }
        let checksum = checksum.finalize().to_le_bytes();
        hash.update(&checksum);
        pieces.push(Bytes::copy_from_slice(&checksum));
        let length = (self.body_bytes + ENVELOPE_HEADER_BYTES + CHECKSUM_BYTES) as u64;
        Object { pieces, length, hash: Hash::truncated(&hash.finalize()) }
    }
}

/// Returns the object of `kind` with this body.
#[must_use]
pub fn encode(kind: ObjectKind, put_id: PutId, body: &[u8]) -> Bytes {
    encode_signed(kind, put_id, body, &MacKeys::default())
}

/// Returns the object of `kind` with this body, signed if `keys` has a signing key.
#[must_use]
pub fn encode_signed(kind: ObjectKind, put_id: PutId, body: &[u8], keys: &MacKeys) -> Bytes {
    let required = if keys.signs() { FLAG_MAC } else { 0 };
    let mut object = Header::encode(kind, required, put_id, body.len() as u64);
    object.reserve_exact(body.len() + CHECKSUM_BYTES + MAC_BYTES);
    object.extend_from_slice(body);
    put_checksum(&mut object, 0);
    let mac = keys.sign(&object);
    object.extend(mac.iter().flatten());
    object.into()
}

/// Verifies an object of an unsigned kind and returns its content.
///
/// # Errors
/// `Corrupt` if it is damaged, truncated, has extra bytes or is of another kind; `Version` if it is intact but newer than
/// this build.
pub fn decode(kind: ObjectKind, object: &Bytes) -> Result<Envelope> {
    open(kind, object, 0).map(|(envelope, _)| envelope)
}

/// Verifies an object and its signature and returns its content.
///
/// # Errors
/// As [`decode`]; `Corrupt` if the required signature of one of `keys` is missing or wrong; `Denied` if the object is signed
/// and there are no keys.
pub fn decode_signed(kind: ObjectKind, object: &Bytes, keys: &MacKeys) -> Result<Envelope> {
    let (envelope, signed_bytes) = open(kind, object, FLAG_MAC)?;
    let (signed, mac) = object.split_at(signed_bytes.min(object.len()));
    keys.verify(signed, Some(mac).filter(|mac| !mac.is_empty()))?;
    Ok(envelope)
}

/// Returns the content of an object, verified except for the MAC, and the length of the signed bytes.
fn open(kind: ObjectKind, object: &Bytes, supported: u32) -> Result<(Envelope, usize)> {
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
    check_version(kind, &header, supported)?;
    let body = object.slice(ENVELOPE_HEADER_BYTES..body_end);
    let envelope = Envelope { put_id: header.put_id, version: header.version, body };
    Ok((envelope, body_end.saturating_add(CHECKSUM_BYTES)))
}

fn check_version(kind: ObjectKind, header: &Header, supported: u32) -> Result<()> {
    let unknown = header.required & !supported;
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

/// Returns the put-id of an object, given its first [`ENVELOPE_HEADER_BYTES`] or more. Does not verify the rest of the
/// object.
///
/// # Errors
/// `Corrupt` if the header is damaged or truncated.
pub fn peek_put_id(header: &[u8]) -> Result<PutId> {
    Header::decode(header).map(|header| header.put_id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    const PUT: PutId = PutId([7; 16]);

    fn kind_of(kind: ObjectKind, object: &[u8]) -> Option<ErrorKind> {
        decode(kind, &Bytes::copy_from_slice(object)).err().map(|error| error.kind())
    }

    /// Recomputes both checksums after an edit.
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
    fn an_object_is_read_intact_or_refused() {
        let object = encode(ObjectKind::Manifest, PUT, b"body");
        let envelope = decode(ObjectKind::Manifest, &object).unwrap();
        assert_eq!((envelope.put_id, envelope.version, &envelope.body[..]), (PUT, 1, &b"body"[..]));
        assert_eq!(peek_put_id(&object[..ENVELOPE_HEADER_BYTES]).unwrap(), PUT);
        for cut in 0..object.len() {
            assert_eq!(kind_of(ObjectKind::Manifest, &object[..cut]), Some(ErrorKind::Corrupt), "cut at {cut}");
        }
        assert_eq!(kind_of(ObjectKind::Manifest, &[&object[..], b"x"].concat()), Some(ErrorKind::Corrupt));
        for at in 0..object.len() {
            for bit in 0..8 {
                let mut flipped = object.to_vec();
                flipped[at] ^= 1 << bit;
                assert_eq!(kind_of(ObjectKind::Manifest, &flipped), Some(ErrorKind::Corrupt), "byte {at} bit {bit}");
                assert_eq!(peek_put_id(&flipped).is_err(), at < ENVELOPE_HEADER_BYTES);
            }
        }
    }

    #[test]
    fn kind_is_checked_before_version_and_damage_before_both() {
        let object = encode(ObjectKind::Pack, PUT, b"body");
        assert_eq!(kind_of(ObjectKind::Manifest, &object), Some(ErrorKind::Corrupt));
        assert_eq!(kind_of(ObjectKind::Pack, &rechecked(&object, |o| o[10] = 2)), Some(ErrorKind::Version));
        assert_eq!(kind_of(ObjectKind::Pack, &rechecked(&object, |o| o[10] = 0)), Some(ErrorKind::Corrupt));
        assert_eq!(kind_of(ObjectKind::Pack, &rechecked(&object, |o| o[9] = 1)), Some(ErrorKind::Corrupt));
        assert_eq!(kind_of(ObjectKind::Pack, &rechecked(&object, |o| o[12] = 2)), Some(ErrorKind::Version));
        assert_eq!(
            kind_of(ObjectKind::Pack, &rechecked(&object, |o| o[16] = 0xff)),
            None,
            "optional flags are ignored"
        );
        let error = decode(ObjectKind::Pack, &rechecked(&object, |o| o[10] = 9).into()).unwrap_err();
        assert_eq!(error.to_string(), "object was written by a newer version found=`9` supported=`1`");
    }

    #[test]
    fn only_some_kinds_are_signed() {
        let mut object = rechecked(&encode(ObjectKind::Pack, PUT, b"body"), |o| o[12] = 1);
        assert_eq!(kind_of(ObjectKind::Pack, &object), Some(ErrorKind::Corrupt), "the mac is missing");
        object.extend_from_slice(&[0; MAC_BYTES]);
        assert_eq!(kind_of(ObjectKind::Pack, &object), Some(ErrorKind::Version));
    }

    fn key(byte: u8) -> MacKey {
        MacKey::new([byte; 32])
    }

    fn signed(keys: &MacKeys) -> Bytes {
        encode_signed(ObjectKind::Manifest, PUT, b"body", keys)
    }

    fn refusal(object: &[u8], keys: &MacKeys) -> Option<ErrorKind> {
        decode_signed(ObjectKind::Manifest, &Bytes::copy_from_slice(object), keys).err().map(|error| error.kind())
    }

    #[test]
    fn only_objects_signed_with_a_known_key_are_accepted() {
        let [none, ours, other] = [MacKeys::default(), MacKeys::signing(key(1)), MacKeys::signing(key(2))];
        let (plain, by_us) = (signed(&none), signed(&ours));
        assert_eq!(plain, encode(ObjectKind::Manifest, PUT, b"body"));
        assert_eq!(decode_signed(ObjectKind::Manifest, &by_us, &ours).unwrap().body, b"body"[..]);
        assert_eq!(refusal(&by_us, &other), Some(ErrorKind::Corrupt));
        assert_eq!(refusal(&by_us, &none), Some(ErrorKind::Denied));
        assert_eq!(refusal(&plain, &none), None);
        assert_eq!(refusal(&plain, &ours), Some(ErrorKind::Corrupt));
        assert_eq!(refusal(&plain, &ours.clone().or_unsigned()), None);
        assert_eq!(refusal(&by_us, &other.clone().or_signed_by(key(1))), None);
        assert_eq!(refusal(&by_us, &other.or_unsigned()), Some(ErrorKind::Corrupt));
    }

    #[test]
    fn every_change_without_the_key_is_detected() {
        let keys = MacKeys::signing(key(1));
        let object = signed(&keys);
        let end = object.len() - MAC_BYTES;
        for at in 0..object.len() {
            let mut forged = object.to_vec();
            forged[at] ^= 0x10;
            assert!(refusal(&forged, &keys).is_some(), "byte {at}");
            // An attacker who knows the format can recompute the checksums, and can remove the signature.
            let rechecksummed = [&rechecked(&forged[..end], |_| {}), &forged[end..]].concat();
            assert!(
                rechecksummed == object || refusal(&rechecksummed, &keys).is_some(),
                "byte {at}, checksums recomputed"
            );
            let bare = rechecked(&rechecksummed[..end], |o| o[12] = 0);
            assert!(refusal(&bare, &keys).is_some(), "byte {at}, signature removed");
        }
    }

    #[test]
    fn keys_are_read_and_never_printed() {
        let text = "0123456789abcdef".repeat(4);
        let read: MacKey = text.parse().unwrap();
        assert_eq!(format!("{read:?} {:?}", MacKeys::signing(read.clone())).matches("01").count(), 0);
        for bad in ["", "0", &text[1..], &format!("{text}0"), &text.replace('0', "g")] {
            let error = bad.parse::<MacKey>().unwrap_err();
            assert!(error.kind() == ErrorKind::Config && !error.to_string().contains("cdef"));
        }
    }
}
