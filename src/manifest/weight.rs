//! The memory of a decoded message, computed from its bytes before decoding.
//!
//! Two bytes of a hostile message can decode to a structure of two hundred, so the message's length bounds nothing.

use bytes::Buf as _;
use prost::DecodeError;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use super::proto;

/// The memory added by each occurrence of a repeated field.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Field {
    /// A structure with repeated fields.
    Message { bytes: usize, fields: Fields },
    /// Numbers, packed or one by one.
    Numbers,
}

/// The repeated fields of a message type, by number.
pub(crate) type Fields = &'static [(u32, Field)];

pub(crate) const fn repeated<T>(fields: Fields) -> Field {
    Field::Message { bytes: size_of::<T>(), fields }
}

/// A message stored inside the enclosing structure.
pub(crate) const fn within(fields: Fields) -> Field {
    Field::Message { bytes: 0, fields }
}

const SEGMENT: Fields = &[(4, repeated::<proto::KeyGroupRange>(&[]))];
const OPAQUE: Fields = &[(5, Field::Numbers), (7, within(SEGMENT))];

/// The repeated fields of a subtask manifest.
pub(crate) const SUBTASK: Fields = &[
    (2, repeated::<proto::KeyGroupRange>(&[])),
    (4, repeated::<proto::SegmentRef>(SEGMENT)),
    (5, repeated::<proto::Opaque>(OPAQUE)),
    (6, repeated::<proto::GroupTimes>(&[(5, repeated::<proto::Life>(&[]))])),
];

const SUMMARY: Fields = &[(1, repeated::<proto::KeyGroupRange>(&[]))];
const SLICE: Fields = &[(2, within(SUMMARY))];
pub(crate) const ENTRY: Fields = &[(1, within(SUBTASK)), (3, within(SLICE))];
const OPERATOR: Fields = &[(4, repeated::<proto::Table>(&[])), (5, repeated::<proto::SubtaskEntry>(ENTRY))];

/// The repeated fields of a manifest.
pub(crate) const MANIFEST: Fields = &[
    (7, repeated::<proto::Retained>(&[])),
    (13, repeated::<proto::Object>(&[])),
    (15, repeated::<proto::Operator>(OPERATOR)),
    (16, repeated::<proto::Extension>(&[])),
];

/// The repeated fields of the `heat` extension.
pub(crate) const HEAT: Fields = &[(1, repeated::<proto::OperatorHeat>(&[(2, repeated::<proto::GroupHeat>(&[]))]))];

/// The repeated fields of the `statistics` extension.
pub(crate) const STATISTICS: Fields =
    &[(1, repeated::<proto::OperatorStatistics>(&[(2, repeated::<proto::Statistic>(&[]))]))];

/// Returns the memory of the elements of all lists in a message. Strings and byte fields take no more than the message.
///
/// # Errors
/// Some of the errors of decoding.
pub(crate) fn weigh(mut message: &[u8], fields: Fields) -> Result<usize, DecodeError> {
    let mut total = 0usize;
    while message.has_remaining() {
        let (tag, wire_type) = decode_key(&mut message)?;
        let field = fields.iter().find(|(known, _)| *known == tag).map(|(_, field)| *field);
        let Some(field) = field.filter(|_| wire_type == WireType::LengthDelimited) else {
            skip_field(wire_type, tag, &mut message, DecodeContext::default())?;
            total = total.saturating_add(field.map_or(0, |_| size_of::<u64>()));
            continue;
        };
        let length = usize::try_from(decode_varint(&mut message)?).unwrap_or(usize::MAX);
        // The decoder reports missing bytes.
        let (inner, rest) = message.split_at_checked(length).unwrap_or((message, &[]));
        message = rest;
        total = total.saturating_add(match field {
            Field::Message { bytes, fields } => bytes.saturating_add(weigh(inner, fields)?),
            Field::Numbers => inner.iter().filter(|byte| **byte < 0x80).count().saturating_mul(size_of::<u64>()),
        });
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::manifest::tests::manifest;

    #[test]
    fn every_list_has_weight() {
        let mut message = proto::Manifest::from(&manifest());
        let weight = |message: &proto::Manifest| weigh(&message.encode_to_vec(), MANIFEST).unwrap();
        let subtask = |message: &mut proto::Manifest| match message.operators[0].subtasks[0].subtask.take() {
            Some(proto::Subtask::Inline(subtask)) => subtask,
            other => panic!("{other:?}"),
        };
        let mut before = weight(&message);
        let mut grown = |message: &proto::Manifest| {
            let now = weight(message);
            std::mem::replace(&mut before, now).abs_diff(now)
        };
        let mut inner = subtask(&mut message);
        inner.opaques[0].item_offsets.extend([0, 300, u64::MAX]);
        inner.segments[0].groups.push(proto::KeyGroupRange::default());
        inner.groups.push(proto::KeyGroupRange::default());
        message.operators[0].subtasks[0].subtask = Some(proto::Subtask::Inline(inner.clone()));
        assert_eq!(grown(&message), 3 * 8 + 2 * size_of::<proto::KeyGroupRange>());
        inner.opaques.push(proto::Opaque::default());
        inner.segments.push(proto::SegmentRef::default());
        message.operators[0].subtasks[0].subtask = Some(proto::Subtask::Inline(inner));
        assert_eq!(grown(&message), size_of::<proto::Opaque>() + size_of::<proto::SegmentRef>());
        let mut inner = subtask(&mut message);
        inner.times.push(proto::GroupTimes { lives: vec![proto::Life::default()], ..proto::GroupTimes::default() });
        message.operators[0].subtasks[0].subtask = Some(proto::Subtask::Inline(inner));
        assert_eq!(grown(&message), size_of::<proto::GroupTimes>() + size_of::<proto::Life>());
        let summary =
            proto::SubtaskSummary { groups: vec![proto::KeyGroupRange::default()], ..proto::SubtaskSummary::default() };
        let stored = proto::SubtaskSlice { slice: None, summary: Some(summary) };
        let entry = proto::SubtaskEntry { subtask: Some(proto::Subtask::Slice(stored)) };
        message.operators[0].subtasks.push(entry);
        assert_eq!(grown(&message), size_of::<proto::SubtaskEntry>() + size_of::<proto::KeyGroupRange>());
        message.operators[0].tables.push(proto::Table::default());
        message.operators[0].subtasks.push(proto::SubtaskEntry::default());
        assert_eq!(grown(&message), size_of::<proto::Table>() + size_of::<proto::SubtaskEntry>());
        message.retained.push(proto::Retained::default());
        message.objects.push(proto::Object::default());
        message.operators.push(proto::Operator::default());
        message.extensions.push(proto::Extension::default());
        let lists = size_of::<proto::Retained>() + size_of::<proto::Object>();
        assert_eq!(grown(&message), lists + size_of::<proto::Operator>() + size_of::<proto::Extension>());
    }
}
