//! The encoding of manifests, subtask manifests and attempt markers.

use bytes::Bytes;
use prost::{DecodeError, Message};

use super::weight::{Fields, MANIFEST, SUBTASK, weigh};
use super::{AttemptMarker, Manifest, ObjectSlice, SubtaskEntry, SubtaskManifest, SubtaskSlice, proto};
use crate::codec::bytes::{Reader, put_i64, put_u64};
use crate::codec::frame::Frame;
use crate::envelope::{self, MacKeys, ObjectKind};
use crate::error::{Error, ErrorKind, Result, broken};
use crate::id::{Attempt, Hash, JobId, PutId, Seq};
use crate::time::Timestamp;

/// Maximum length of a stored manifest; larger jobs store their subtask manifests in slices.
pub const MAX_MANIFEST_BYTES: usize = 32 << 20;

/// Maximum memory of the elements of a manifest's lists, in one copy.
pub(super) const MAX_LISTS_BYTES: usize = 32 << 20;

const SUBTASK_FRAME: Frame = Frame { magic: *b"ALSM", version: 1, what: "subtask manifest" };

impl Manifest {
    /// Returns the manifest as an unsigned object.
    ///
    /// # Errors
    /// `Usage` if it breaks a rule and would be unreadable; `Limit` if it is too long.
    pub fn encode(&self, put_id: PutId) -> Result<Bytes> {
        self.encode_signed(put_id, &MacKeys::default())
    }

    /// Returns the manifest as an object, signed if `keys` has a signing key.
    ///
    /// # Errors
    /// As [`Manifest::encode`].
    pub fn encode_signed(&self, put_id: PutId, keys: &MacKeys) -> Result<Bytes> {
        self.check().map_err(refused)?;
        if let Some(extension) = self.extensions.iter().find(|extension| extension.required) {
            return Err(Error::usage("this version has no required extensions").with("tag", &extension.tag));
        }
        let body = proto::Manifest::from(self).encode_to_vec();
        let object = envelope::encode_signed(ObjectKind::Manifest, put_id, &body, keys);
        check_length(ErrorKind::Limit, object.len())?;
        check_lists(ErrorKind::Limit, weigh(&body, MANIFEST))?;
        Ok(object)
    }

    /// Returns the unsigned manifest stored under the key of `expected`, and its put-id.
    ///
    /// # Errors
    /// `Corrupt` if it is damaged, breaks a rule or is a different manifest; `Version` if it is newer than this build;
    /// `Denied` if it is signed.
    pub fn decode(object: &Bytes, expected: Seq) -> Result<(Self, PutId)> {
        Self::decode_signed(object, expected, &MacKeys::default())
    }

    /// Returns the manifest as [`Manifest::decode`] does, and verifies its signature with `keys`.
    ///
    /// # Errors
    /// As [`Manifest::decode`]; `Corrupt` if a required signature is missing or not of these keys.
    pub fn decode_signed(object: &Bytes, expected: Seq, keys: &MacKeys) -> Result<(Self, PutId)> {
        let envelope = envelope::decode_signed(ObjectKind::Manifest, object, keys)?;
        check_length(ErrorKind::Corrupt, object.len())?;
        check_lists(ErrorKind::Corrupt, weigh(&envelope.body, MANIFEST))?;
        let manifest = Self::try_from(proto::Manifest::decode(envelope.body).map_err(not_protobuf)?)?;
        if manifest.seq != expected {
            let error = Error::corrupt("misplaced object: it is another manifest");
            return Err(error.with("expected", expected).with("found", manifest.seq));
        }
        manifest.check()?;
        Ok((manifest, envelope.put_id))
    }

    /// Returns the slices with the subtask manifests that are not inline.
    pub fn slices(&self) -> impl Iterator<Item = &ObjectSlice> {
        self.operators.iter().flat_map(|operator| &operator.subtasks).filter_map(SubtaskEntry::slice)
    }

    /// Returns the manifest with every slice replaced by its subtask manifest, from the bytes returned by `read`.
    ///
    /// # Errors
    /// The errors of `read`; `Corrupt` or `Version` if the bytes or the resulting manifest are invalid.
    pub fn inlined(mut self, mut read: impl FnMut(&ObjectSlice) -> Result<Bytes>) -> Result<Self> {
        for entry in self.operators.iter_mut().flat_map(|operator| &mut operator.subtasks) {
            let SubtaskEntry::Slice(SubtaskSlice { slice, summary }) = entry else { continue };
            let bytes = read(slice)?;
            let found = Hash::of(&bytes);
            if found != slice.hash {
                let error = Error::corrupt("subtask manifest has another hash").with("object", slice.object);
                return Err(error.with("offset", slice.offset).with("expected", slice.hash).with("found", found));
            }
            let subtask = SubtaskManifest::decode(&bytes, self.max_parallelism)?;
            subtask.check_summary(summary)?;
            *entry = SubtaskEntry::Inline(subtask);
        }
        self.check()?;
        Ok(self)
    }
}

impl SubtaskManifest {
    /// Returns the share of a manifest's limits taken: its bytes, or the memory of its lists if larger.
    #[must_use]
    pub(crate) fn weight(&self) -> usize {
        let body = proto::SubtaskManifest::from(self).encode_to_vec();
        let lists = weigh(&body, SUBTASK).unwrap_or_else(|_| broken("a message just encoded can be weighed"));
        lists.max(body.len())
    }

    /// Returns a separate encoding, to send to another process or to store as a slice of an object.
    ///
    /// # Errors
    /// `Usage` if it breaks a rule and would be unreadable; `Limit` if it is too long.
    pub fn encode(&self, max_parallelism: u16) -> Result<Bytes> {
        self.check(max_parallelism).map_err(refused)?;
        let body = proto::SubtaskManifest::from(self).encode_to_vec();
        check_length(ErrorKind::Limit, body.len())?;
        check_lists(ErrorKind::Limit, weigh(&body, SUBTASK))?;
        Ok(SUBTASK_FRAME.wrap(&body))
    }

    /// Returns the subtask manifest in these bytes, of a job with `max_parallelism` key groups.
    ///
    /// # Errors
    /// `Corrupt` if it is damaged or breaks a rule; `Version` if it is newer than this build.
    pub fn decode(bytes: &[u8], max_parallelism: u16) -> Result<Self> {
        let body = SUBTASK_FRAME.unwrap(bytes)?;
        check_length(ErrorKind::Corrupt, body.len())?;
        check_lists(ErrorKind::Corrupt, weigh(body, SUBTASK))?;
        let subtask = Self::try_from(proto::SubtaskManifest::decode(body).map_err(not_protobuf)?)?;
        subtask.check(max_parallelism)?;
        Ok(subtask)
    }
}

impl AttemptMarker {
    /// Returns the object that reserves the attempt's number.
    #[must_use]
    pub fn encode(&self, put_id: PutId) -> Bytes {
        let mut body = Vec::new();
        put_u64(&mut body, self.attempt.0);
        body.extend_from_slice(&self.job.0);
        put_i64(&mut body, self.created_at.as_millis());
        envelope::encode(ObjectKind::Attempt, put_id, &body)
    }

    /// Returns the marker stored under the key of `expected`, and its put-id.
    ///
    /// # Errors
    /// `Corrupt` if it is damaged or a different marker; `Version` if it is newer than this build.
    pub fn decode(object: &Bytes, expected: Attempt) -> Result<(Self, PutId)> {
        let envelope = envelope::decode(ObjectKind::Attempt, object)?;
        let mut reader = Reader::new(&envelope.body);
        let marker = Self {
            attempt: Attempt(reader.u64()?),
            job: JobId(reader.array()?),
            created_at: Timestamp::from_millis(reader.i64()?),
        };
        reader.finish()?;
        if marker.attempt != expected {
            let error = Error::corrupt("misplaced object: it is the marker of another attempt");
            return Err(error.with("expected", expected).with("found", marker.attempt));
        }
        Ok((marker, envelope.put_id))
    }
}

/// Returns the length if it is within the limit.
fn check_length(kind: ErrorKind, length: usize) -> Result<()> {
    if length <= MAX_MANIFEST_BYTES {
        return Ok(());
    }
    Err(Error::new(kind, "manifest is too long").with("bytes", length).with("limit", MAX_MANIFEST_BYTES))
}

impl Manifest {
    /// Returns the message in extension `tag`, with repeated `fields`; an empty message without the extension.
    ///
    /// # Errors
    /// `Corrupt` if the extension is malformed.
    pub(super) fn extension<M: Message + Default>(&self, tag: &str, fields: Fields) -> Result<M> {
        let Some(extension) = self.extensions.iter().find(|extension| extension.tag == tag) else {
            return Ok(M::default());
        };
        check_lists(ErrorKind::Corrupt, weigh(&extension.bytes, fields))
            .and_then(|()| M::decode(extension.bytes.clone()).map_err(not_protobuf))
            .map_err(|error| error.with("extension", tag))
    }
}

/// Checks the memory of lists against the limit.
fn check_lists(kind: ErrorKind, weight: Result<usize, DecodeError>) -> Result<()> {
    match weight.map_err(not_protobuf)? {
        ..=MAX_LISTS_BYTES => Ok(()),
        weight => Err(Error::new(kind, "manifest lists too much").with("bytes", weight).with("limit", MAX_LISTS_BYTES)),
    }
}

fn refused(rule: Error) -> Error {
    Error::usage("manifest breaks a rule of the format").with_source(rule)
}

fn not_protobuf(source: DecodeError) -> Error {
    Error::corrupt("body is not a valid protobuf message").with_source(source)
}
