//! A row's place as one byte string, ordered by group and table first, and the places of clears.

use crate::error::broken;
use crate::id::TableId;
use crate::key_group::KeyGroup;
use crate::row::RowKey;

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
///
/// # Errors
/// `Corrupt` if that did not write it, but a disk.
#[cfg(any(test, feature = "rocksdb"))]
pub(super) fn read_place(place: &[u8]) -> crate::error::Result<(KeyGroup, RowKey<'_>)> {
    let none = || crate::error::Error::corrupt("stored row has no place").with("bytes", place.len());
    split_place(place).ok_or_else(none)
}

/// Undoes [`write_place`], of a place that was written in this memory.
pub(super) fn known_place(place: &[u8]) -> (KeyGroup, RowKey<'_>) {
    split_place(place).unwrap_or_else(|| broken("a place in memory is as it was written"))
}

/// Returns key, namespace and sub-key of a row of data.
pub(super) fn parts<'a>(row: &RowKey<'a>) -> [&'a [u8]; 3] {
    match (row.key, row.namespace, row.sub) {
        (Some(key), Some(namespace), Some(sub)) => [key, namespace, sub],
        _ => broken("a row of data has a key, a namespace and a sub-key"),
    }
}

fn split_place(place: &[u8]) -> Option<(KeyGroup, RowKey<'_>)> {
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
pub(super) fn read_clear(place: &[u8]) -> (KeyGroup, RowKey<'_>) {
    split_clear(place).unwrap_or_else(|| broken("the place of a clear is as it was written"))
}

fn split_clear(place: &[u8]) -> Option<(KeyGroup, RowKey<'_>)> {
    let (group, rest) = place.split_first_chunk()?;
    let (table, rest) = rest.split_first_chunk()?;
    let (&parts, mut rest) = rest.split_first()?;
    let [key, namespace] = if parts < 4 { [2, 1] } else { return None }.map(|bit| parts & bit != 0);
    let mut part = |named: bool| {
        if !named {
            return Some(None);
        }
        let (part, after) = take_part(rest)?;
        rest = after;
        Some(Some(part))
    };
    let (key, namespace) = (part(key)?, part(namespace)?);
    let table = TableId(u32::from_be_bytes(*table));
    Some((KeyGroup(u16::from_be_bytes(*group)), RowKey { table, key, namespace, sub: None }))
}

/// Returns the places of the clears that would cover the row at `place`.
pub(super) fn covering(place: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    // What has no place is covered by nothing, and reading it reports it.
    split_place(place).into_iter().flat_map(|(group, RowKey { table, key, namespace, .. })| {
        let scopes = [(key, None), (key, namespace), (None, namespace)];
        scopes.map(|(key, namespace)| clear_place(group, &RowKey { table, key, namespace, sub: None }))
    })
}

/// Returns the group of a place that was written in this memory.
pub(super) fn group_of(place: &[u8]) -> KeyGroup {
    match place.first_chunk() {
        Some(bytes) => KeyGroup(u16::from_be_bytes(*bytes)),
        None => broken("a place begins with its group"),
    }
}

/// Bytes of a place that are the row's own: key, namespace and sub-key.
pub(super) fn row_bytes(place: &[u8]) -> u64 {
    match place.len().checked_sub(PLACE_OVERHEAD_BYTES) {
        Some(bytes) => bytes as u64,
        None => broken("a place has a group, a table and two lengths"),
    }
}

pub(super) fn push_part(place: &mut Vec<u8>, part: &[u8]) {
    let length = u16::try_from(part.len()).unwrap_or_else(|_| broken("keys are checked to be shorter than 64 KiB"));
    place.extend(length.to_be_bytes());
    place.extend(part);
}

fn take_part(rest: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = rest.split_first_chunk()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_come_back_and_damaged_ones_are_told_apart() {
        let key = RowKey::data(TableId(7), b"key", b"n", b"sub");
        let mut place = Vec::new();
        write_place(KeyGroup(3), &key, &mut place);
        assert_eq!((read_place(&place).unwrap(), known_place(&place)), ((KeyGroup(3), key), (KeyGroup(3), key)));
        assert_eq!((group_of(&place), row_bytes(&place)), (KeyGroup(3), 7));
        for cut in 0..place.len() - 3 {
            assert_eq!(read_place(&place[..cut]).unwrap_err().kind(), crate::ErrorKind::Corrupt);
        }
        for (key, namespace) in [(Some(&b"k"[..]), None), (None, Some(&b"n"[..])), (Some(b"k"), Some(b""))] {
            let clear = RowKey { table: TableId(7), key, namespace, sub: None };
            assert_eq!(read_clear(&clear_place(KeyGroup(3), &clear)), (KeyGroup(3), clear));
        }
    }

    #[test]
    #[should_panic(expected = "a place in memory is as it was written")]
    fn a_place_in_memory_that_is_none_stops_the_work() {
        known_place(b"\0\0");
    }
}
