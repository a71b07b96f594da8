//! Row keys as byte strings, ordered by group and table first.
//!
//! A row's key encodes group, table, key, namespace and sub-key. A clear's key encodes group, table and the parts that
//! the clear names. The two encodings overlap: hold them in separate collections.

use crate::error::broken;
use crate::id::TableId;
use crate::key_group::KeyGroup;
use crate::row::RowKey;

/// Bytes of a row key beside key, namespace and sub-key: group, table, two lengths.
const ROW_KEY_OVERHEAD_BYTES: usize = 2 + 4 + 2 + 2;

/// Overwrites `row_key` with the encoded key of a row.
pub(super) fn encode_row_key(group: KeyGroup, key: &RowKey<'_>, row_key: &mut Vec<u8>) {
    row_key.clear();
    row_key.extend(group.0.to_be_bytes());
    row_key.extend(key.table.0.to_be_bytes());
    for part in [key.key, key.namespace].map(Option::unwrap_or_default) {
        push_part(row_key, part);
    }
    row_key.extend(key.sub.unwrap_or_default());
}

/// Decodes a row key read from disk.
///
/// # Errors
/// `Corrupt` if [`encode_row_key`] did not write these bytes.
#[cfg(any(test, feature = "rocksdb"))]
pub(super) fn decode_row_key(row_key: &[u8]) -> crate::error::Result<(KeyGroup, RowKey<'_>)> {
    let damaged = || crate::error::Error::corrupt("stored row key is damaged").with("bytes", row_key.len());
    split_row_key(row_key).ok_or_else(damaged)
}

/// Decodes a row key that [`encode_row_key`] wrote in this process.
pub(super) fn decode_trusted(row_key: &[u8]) -> (KeyGroup, RowKey<'_>) {
    split_row_key(row_key).unwrap_or_else(|| broken("a row key in memory decodes"))
}

/// Returns key, namespace and sub-key of a row of data.
pub(super) fn parts<'a>(row: &RowKey<'a>) -> [&'a [u8]; 3] {
    match (row.key, row.namespace, row.sub) {
        (Some(key), Some(namespace), Some(sub)) => [key, namespace, sub],
        _ => broken("a row of data has a key, a namespace and a sub-key"),
    }
}

fn split_row_key(row_key: &[u8]) -> Option<(KeyGroup, RowKey<'_>)> {
    let (group, rest) = row_key.split_first_chunk()?;
    let (table, rest) = rest.split_first_chunk()?;
    let (key, rest) = take_part(rest)?;
    let (namespace, sub) = take_part(rest)?;
    let key = RowKey::data(TableId(u32::from_be_bytes(*table)), key, namespace, sub);
    Some((KeyGroup(u16::from_be_bytes(*group)), key))
}

/// Encodes the key of a clear. Its flag byte says which of key and namespace follow.
pub(super) fn encode_clear(group: KeyGroup, key: &RowKey<'_>) -> Vec<u8> {
    let mut clear = group.0.to_be_bytes().to_vec();
    clear.extend(key.table.0.to_be_bytes());
    clear.push(u8::from(key.key.is_some()) << 1 | u8::from(key.namespace.is_some()));
    for part in [key.key, key.namespace].into_iter().flatten() {
        push_part(&mut clear, part);
    }
    clear
}

/// Decodes a clear's key that [`encode_clear`] wrote in this process.
pub(super) fn decode_clear(clear: &[u8]) -> (KeyGroup, RowKey<'_>) {
    split_clear(clear).unwrap_or_else(|| broken("a clear's key in memory decodes"))
}

fn split_clear(clear: &[u8]) -> Option<(KeyGroup, RowKey<'_>)> {
    let (group, rest) = clear.split_first_chunk()?;
    let (table, rest) = rest.split_first_chunk()?;
    let (&flags, mut rest) = rest.split_first()?;
    let [has_key, has_namespace] = if flags < 4 { [2, 1] } else { return None }.map(|bit| flags & bit != 0);
    let mut part = |present: bool| {
        if !present {
            return Some(None);
        }
        let (part, after) = take_part(rest)?;
        rest = after;
        Some(Some(part))
    };
    let (key, namespace) = (part(has_key)?, part(has_namespace)?);
    let table = TableId(u32::from_be_bytes(*table));
    Some((KeyGroup(u16::from_be_bytes(*group)), RowKey { table, key, namespace, sub: None }))
}

/// Returns the keys of all clears that would cover the row at `row_key`.
pub(super) fn covering_clears(row_key: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    // A damaged row key has no covering clear; reading the row reports the damage.
    split_row_key(row_key).into_iter().flat_map(|(group, RowKey { table, key, namespace, .. })| {
        let scopes = [(key, None), (key, namespace), (None, namespace)];
        scopes.map(|(key, namespace)| encode_clear(group, &RowKey { table, key, namespace, sub: None }))
    })
}

/// Returns the group of a row key that was encoded in this process.
pub(super) fn group_of(row_key: &[u8]) -> KeyGroup {
    match row_key.first_chunk() {
        Some(bytes) => KeyGroup(u16::from_be_bytes(*bytes)),
        None => broken("a row key begins with its group"),
    }
}

/// Returns the bytes of key, namespace and sub-key in a row key.
pub(super) fn row_bytes(row_key: &[u8]) -> u64 {
    match row_key.len().checked_sub(ROW_KEY_OVERHEAD_BYTES) {
        Some(bytes) => bytes as u64,
        None => broken("a row key has a group, a table and two lengths"),
    }
}

pub(super) fn push_part(row_key: &mut Vec<u8>, part: &[u8]) {
    let length =
        u16::try_from(part.len()).unwrap_or_else(|_| broken("row parts are checked to be shorter than 64 KiB"));
    row_key.extend(length.to_be_bytes());
    row_key.extend(part);
}

fn take_part(rest: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = rest.split_first_chunk()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_keys_round_trip_and_damaged_ones_are_refused() {
        let key = RowKey::data(TableId(7), b"key", b"n", b"sub");
        let mut row_key = Vec::new();
        encode_row_key(KeyGroup(3), &key, &mut row_key);
        assert_eq!(
            (decode_row_key(&row_key).unwrap(), decode_trusted(&row_key)),
            ((KeyGroup(3), key), (KeyGroup(3), key))
        );
        assert_eq!((group_of(&row_key), row_bytes(&row_key)), (KeyGroup(3), 7));
        for cut in 0..row_key.len() - 3 {
            assert_eq!(decode_row_key(&row_key[..cut]).unwrap_err().kind(), crate::ErrorKind::Corrupt);
        }
        for (key, namespace) in [(Some(&b"k"[..]), None), (None, Some(&b"n"[..])), (Some(b"k"), Some(b""))] {
            let clear = RowKey { table: TableId(7), key, namespace, sub: None };
            assert_eq!(decode_clear(&encode_clear(KeyGroup(3), &clear)), (KeyGroup(3), clear));
        }
    }

    #[test]
    #[should_panic(expected = "a row key in memory decodes")]
    fn a_damaged_row_key_in_memory_panics() {
        decode_trusted(b"\0\0");
    }
}
