//! Messages as bytes: a header, a protobuf body and a checksum over both, so that it covers the identity.

use bytes::Bytes;
use prost::Message as _;

use super::proto;
use super::{Envelope, MAX_MESSAGE_BYTES};
use crate::codec::frame::Frame;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{Attempt, JobId, SessionId};
use crate::manifest::convert::{bits128, bytes128};
use crate::manifest::proto as manifest;
use crate::manifest::weight::{ENTRY, Field, Fields, repeated, weigh, within};

const FRAME: Frame = Frame { magic: *b"ALMS", version: 1, what: "message" };

const TABLES: Fields = &[(1, repeated::<proto::Table>(&[]))];
const ACKNOWLEDGEMENT: Fields = &[
    (2, within(ENTRY)),
    (3, within(TABLES)),
    (4, repeated::<manifest::GroupHeat>(&[])),
    (5, repeated::<manifest::Statistic>(&[])),
];
const ACKNOWLEDGE: Fields = &[
    (2, repeated::<proto::Acknowledgement>(ACKNOWLEDGEMENT)),
    (3, repeated::<manifest::Object>(&[])),
    (4, repeated::<manifest::ObjectId>(&[])),
    (9, Field::Numbers),
];
const SETTLE: Fields = &[(4, repeated::<manifest::ObjectId>(&[]))];
const OPERATOR: Fields = &[
    (4, Field::Numbers),
    (6, repeated::<manifest::Table>(&[])),
    (9, repeated::<proto::Source>(&[(2, within(ENTRY))])),
];

/// The repeated fields of a message.
pub(super) const MESSAGE: Fields = &[
    (12, within(&[(2, repeated::<proto::Participant>(&[]))])),
    (13, within(ACKNOWLEDGE)),
    (30, within(&[(9, repeated::<proto::Operator>(OPERATOR))])),
    (31, within(SETTLE)),
];

/// A message in one of the two directions.
pub trait Body: Sized {
    /// Returns its protobuf form.
    fn to_proto(&self) -> Protobuf;
    /// Returns the message of a protobuf form.
    ///
    /// # Errors
    /// `Corrupt` or `Version` if a field is not valid; `Usage` if the message goes in the other direction.
    fn from_proto(body: Protobuf) -> Result<Self>;
}

/// The protobuf form of a message, without its identity.
#[derive(Debug)]
pub struct Protobuf(pub(super) proto::Body);

/// Returns the bytes of a message.
pub fn encode<M: Body>(message: &Envelope<M>) -> Bytes {
    let body = proto::Envelope {
        job: bytes128(message.job.0),
        attempt: message.attempt.0,
        session: bytes128(message.session.0),
        body: Some(message.body.to_proto().0),
    };
    FRAME.wrap(&body.encode_to_vec())
}

/// Returns the message in these bytes.
///
/// # Errors
/// `Corrupt` if they are cut or damaged, or break a rule; `Limit` if they are too long; `Version` if a newer version sent
/// them; `Usage` if the message goes in the other direction.
pub fn decode<M: Body>(bytes: &[u8]) -> Result<Envelope<M>> {
    check_limit(ErrorKind::Limit, bytes.len())?;
    let body = FRAME.unwrap(bytes)?;
    let not_protobuf = |source| Error::corrupt("body is not a valid protobuf message").with_source(source);
    check_limit(ErrorKind::Corrupt, weigh(body, MESSAGE).map_err(not_protobuf)?)?;
    let message = proto::Envelope::decode(body).map_err(not_protobuf)?;
    let unknown = || Error::version("message is of a kind that this build lacks");
    Ok(Envelope {
        job: JobId(bits128(&message.job, "job")?),
        attempt: Attempt(message.attempt),
        session: SessionId(bits128(&message.session, "session")?),
        body: M::from_proto(Protobuf(message.body.ok_or_else(unknown)?))?,
    })
}

fn check_limit(kind: ErrorKind, bytes: usize) -> Result<()> {
    if bytes <= MAX_MESSAGE_BYTES {
        return Ok(());
    }
    Err(Error::new(kind, "message is too long").with("bytes", bytes).with("limit", MAX_MESSAGE_BYTES))
}
