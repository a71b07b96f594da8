//! A row's place as one byte string, ordered by group and table first, and the places of clears.

use crate::id::TableId;
use crate::key_group::KeyGroup;
use crate::segment::RowKey;

/// Bytes of a place beside the row's own: group, table, two lengths.
const PLACE_OVERHEAD_BYTES: usize = 2 + 4 + 2 + 2;

/// Replaces `place` by the row's place.
pub(super) fn write_place(group: KeyGroup, key: &RowKey<'_>, place: &mut Vec<u8>) {
    place.clear();
    place.extend(group.0.to_be_bytes());
    place.extend(key.table.0.to_be_bytes());
    for part in [key.key, key.namespace].map(Option::unwrap_or_default) {
        push_part(place, part);
    }
    place.extend(key.sub.unwrap_or_default());
}

/// Undoes [`write_place`].
pub(super) fn read_place(place: &[u8]) -> Option<(KeyGroup, RowKey<'_>)> {
    let (group, rest) = place.split_first_chunk()?;
    let (table, rest) = rest.split_first_chunk()?;
    let (key, rest) = take_part(rest)?;
    let (namespace, sub) = take_part(rest)?;
    let key = RowKey::data(TableId(u32::from_be_bytes(*table)), key, namespace, sub);
    Some((KeyGroup(u16::from_be_bytes(*group)), key))
}

/// Returns the place of a clear: as a row's, with a byte that tells which parts it has.
pub(super) fn clear_place(group: KeyGroup, key: &RowKey<'_>) -> Vec<u8> {
    let mut place = group.0.to_be_bytes().to_vec();
    place.extend(key.table.0.to_be_bytes());
    place.push(u8::from(key.key.is_some()) << 1 | u8::from(key.namespace.is_some()));
    for part in [key.key, key.namespace].into_iter().flatten() {
        push_part(&mut place, part);
    }
    place
}

/// Undoes [`clear_place`].
pub(super) fn read_clear(place: &[u8]) -> Option<(KeyGroup, RowKey<'_>)> {
    let (group, rest) = place.split_first_chunk()?;
    let (table, rest) = rest.split_first_chunk()?;
    let (&parts, mut rest) = rest.split_first()?;
    let mut part = |bit: u8| {
        let (part, after) = (parts & bit != 0).then(|| take_part(rest)).flatten()?;
        rest = after;
        Some(part)
    };
    let (key, namespace) = (part(2), part(1));
    let table = TableId(u32::from_be_bytes(*table));
    Some((KeyGroup(u16::from_be_bytes(*group)), RowKey { table, key, namespace, sub: None }))
}

/// Returns the places of the clears that would cover the row at `place`.
pub(super) fn covering(place: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    read_place(place).into_iter().flat_map(|(group, RowKey { table, key, namespace, .. })| {
        let scopes = [(key, None), (key, namespace), (None, namespace)];
        scopes.map(|(key, namespace)| clear_place(group, &RowKey { table, key, namespace, sub: None }))
    })
}

pub(super) fn group_of(place: &[u8]) -> KeyGroup {
    KeyGroup(place.first_chunk().map_or(0, |bytes| u16::from_be_bytes(*bytes)))
}

/// Bytes of a place that are the row's own: key, namespace and sub-key.
pub(super) fn row_bytes(place: &[u8]) -> u64 {
    place.len().saturating_sub(PLACE_OVERHEAD_BYTES) as u64
}

pub(super) fn push_part(place: &mut Vec<u8>, part: &[u8]) {
    place.extend(u16::try_from(part.len()).unwrap_or(u16::MAX).to_be_bytes());
    place.extend(part);
}

fn take_part(rest: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = rest.split_first_chunk()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}
