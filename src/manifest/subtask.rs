//! Conversion between a subtask manifest's messages and its types, field by field; `rules` checks across fields.

use super::convert::{bits128, each, required};
use super::{Opaque, OpaqueContent, OpaqueRole, Redistribution, SubtaskManifest, proto};
use crate::codec::stored_enum;
use crate::error::{Error, Result};
use crate::id::{Attempt, Epoch, Hash, OperatorId, Part, SegmentId, Subtask, TableId};
use crate::key_group::{KeyGroupRange, KeyGroupSet, MAX_KEY_GROUPS};
use crate::row::{GroupTimes, Life, SegmentKind, Warmth};
use crate::segment::SegmentRef;
use crate::time::Timestamp;

stored_enum!(OpaqueRole { Source, Operator, InFlight, SinkPrepared, SinkSums });
stored_enum!(Redistribution { None, Split, Union, Broadcast, ByChannel, ByKeyGroup });

impl From<&SubtaskManifest> for proto::SubtaskManifest {
    fn from(subtask: &SubtaskManifest) -> Self {
        Self {
            subtask: subtask.subtask.0,
            groups: ranges(&subtask.groups),
            watermark_ms: subtask.watermark.as_millis(),
            segments: subtask.segments.iter().map(Into::into).collect(),
            opaques: subtask.opaques.iter().map(Into::into).collect(),
            times: subtask.times.iter().map(Into::into).collect(),
            heat: subtask.heat.iter().map(|warmth| warmth.byte()).collect(),
        }
    }
}

impl TryFrom<proto::SubtaskManifest> for SubtaskManifest {
    type Error = Error;

    fn try_from(message: proto::SubtaskManifest) -> Result<Self> {
        Ok(Self {
            subtask: Subtask(message.subtask),
            groups: groups(&message.groups)?,
            watermark: Timestamp::from_millis(message.watermark_ms),
            segments: each(message.segments)?,
            opaques: each(message.opaques)?,
            times: each(message.times)?,
            heat: message.heat.iter().copied().map(Warmth).collect(),
        })
    }
}

impl From<&GroupTimes> for proto::GroupTimes {
    fn from(times: &GroupTimes) -> Self {
        Self {
            start: u32::from(times.groups.start),
            end: u32::from(times.groups.end),
            event_time_ms: begun(times.event_time),
            processing_time_ms: begun(times.processing_time),
            lives: times.lives.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<proto::GroupTimes> for GroupTimes {
    type Error = Error;

    fn try_from(message: proto::GroupTimes) -> Result<Self> {
        Ok(Self {
            groups: KeyGroupRange::new(group(message.start)?, group(message.end)?),
            event_time: time(message.event_time_ms),
            processing_time: time(message.processing_time_ms),
            lives: message.lives.into_iter().map(Into::into).collect(),
        })
    }
}

impl From<&Life> for proto::Life {
    fn from(life: &Life) -> Self {
        Self {
            table: life.table.0,
            life_ms: life.millis,
            since_ms: life.since.map(Timestamp::as_millis),
            dead_until_ms: life.dead_until.map(Timestamp::as_millis),
        }
    }
}

impl From<proto::Life> for Life {
    fn from(message: proto::Life) -> Self {
        Self {
            table: TableId(message.table),
            millis: message.life_ms,
            since: message.since_ms.map(Timestamp::from_millis),
            dead_until: message.dead_until_ms.map(Timestamp::from_millis),
        }
    }
}

/// Returns the stored form of a time that may not have begun.
pub(super) fn begun(time: Timestamp) -> Option<i64> {
    (time > Timestamp::MIN).then(|| time.as_millis())
}

/// Returns the time that [`begun`] stored.
pub(super) fn time(millis: Option<i64>) -> Timestamp {
    millis.map_or(Timestamp::MIN, Timestamp::from_millis)
}

fn group(number: u32) -> Result<u16> {
    u16::try_from(number).map_err(|_| Error::corrupt("no such key group").with("found", number))
}

pub(super) fn ranges(groups: &KeyGroupSet) -> Vec<proto::KeyGroupRange> {
    let message =
        |range: &KeyGroupRange| proto::KeyGroupRange { start: u32::from(range.start), end: u32::from(range.end) };
    groups.ranges().iter().map(message).collect()
}

pub(super) fn groups(ranges: &[proto::KeyGroupRange]) -> Result<KeyGroupSet> {
    let range = |range: &proto::KeyGroupRange| Ok(KeyGroupRange::new(group(range.start)?, group(range.end)?));
    KeyGroupSet::from_stored(ranges.iter().map(range).collect::<Result<_>>()?, MAX_KEY_GROUPS)
}

impl From<&SegmentRef> for proto::SegmentRef {
    fn from(segment: &SegmentRef) -> Self {
        let id = segment.id;
        Self {
            id: Some(proto::SegmentId {
                attempt: id.attempt.0,
                operator: id.operator.0,
                subtask: id.subtask.0,
                epoch: id.epoch.0,
                part: id.part.0,
            }),
            kind: segment.kind as u32,
            first_epoch: segment.first_epoch.0,
            groups: ranges(&segment.groups),
            object: Some(segment.object.into()),
            offset: segment.offset,
            length: segment.length,
            index_offset: segment.index_offset,
            index_length: segment.index_length,
            index_hash: segment.index_hash.0.to_vec().into(),
            records: segment.records,
            raw_bytes: segment.raw_bytes,
        }
    }
}

impl TryFrom<proto::SegmentRef> for SegmentRef {
    type Error = Error;

    fn try_from(message: proto::SegmentRef) -> Result<Self> {
        let id = required(message.id, "segment id")?;
        Ok(Self {
            id: SegmentId {
                attempt: Attempt(id.attempt),
                operator: OperatorId(id.operator),
                subtask: Subtask(id.subtask),
                epoch: Epoch(id.epoch),
                part: Part(id.part),
            },
            kind: SegmentKind::from_stored(message.kind)?,
            first_epoch: Epoch(message.first_epoch),
            groups: groups(&message.groups)?,
            object: required(message.object, "segment object")?.try_into()?,
            offset: message.offset,
            length: message.length,
            index_offset: message.index_offset,
            index_length: message.index_length,
            index_hash: Hash(bits128(&message.index_hash, "index hash")?),
            records: message.records,
            raw_bytes: message.raw_bytes,
        })
    }
}

impl From<&Opaque> for proto::Opaque {
    fn from(opaque: &Opaque) -> Self {
        let content = match &opaque.content {
            OpaqueContent::Inline(bytes) => proto::OpaqueContent::Inline(bytes.clone()),
            OpaqueContent::Stored(segment) => proto::OpaqueContent::Stored(segment.into()),
        };
        Self {
            role: opaque.role as u32,
            name: opaque.name.clone(),
            redistribution: opaque.redistribution as u32,
            channel: opaque.channel,
            item_offsets: opaque.item_offsets.clone(),
            content: Some(content),
        }
    }
}

impl TryFrom<proto::Opaque> for Opaque {
    type Error = Error;

    fn try_from(message: proto::Opaque) -> Result<Self> {
        let content = match message.content {
            Some(proto::OpaqueContent::Inline(bytes)) => OpaqueContent::Inline(bytes),
            Some(proto::OpaqueContent::Stored(segment)) => OpaqueContent::Stored(segment.try_into()?),
            None => return Err(Error::version("opaque is stored in a way that this build lacks")),
        };
        Ok(Self {
            role: OpaqueRole::from_stored(message.role)?,
            name: message.name,
            redistribution: Redistribution::from_stored(message.redistribution)?,
            channel: message.channel,
            item_offsets: message.item_offsets,
            content,
        })
    }
}
