//! Places as sortable bytes: they compare bytewise as the places do, and so do their prefixes.

use super::key::RowKey;
use crate::codec::escape::escape_from;
use crate::id::TableId;

/// Maximum length of a place's sortable bytes.
pub(crate) const MAX_SORTABLE_BYTES: usize = 4 + 3 * (1 + 2 * super::MAX_PART_BYTES + 2);

/// Overwrites `out` with the sortable bytes of a place: the table, then for each of key, namespace and sub-key a zero if it
/// is absent, or else a one and the part, escaped and terminated.
pub(crate) fn sortable(place: &RowKey<'_>, out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(&place.table.0.to_be_bytes());
    [place.key, place.namespace, place.sub].into_iter().for_each(|part| put_part(part, out));
}

/// Returns what the sortable bytes of all places with this key begin with, and of no others. `None`: of all places of the
/// table without a key.
pub(crate) fn sortable_prefix(table: TableId, key: Option<&[u8]>) -> Vec<u8> {
    let mut prefix = table.0.to_be_bytes().to_vec();
    put_part(key, &mut prefix);
    prefix
}

fn put_part(part: Option<&[u8]>, out: &mut Vec<u8>) {
    out.push(u8::from(part.is_some()));
    if let Some(part) = part {
        let start = out.len();
        out.extend_from_slice(part);
        escape_from(out, start);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Parts rich in bytes that escaping treats specially.
    fn part() -> impl Strategy<Value = Option<Vec<u8>>> {
        let byte = prop_oneof![Just(0), Just(1), Just(0xfe), Just(0xff)];
        prop::option::of(prop::collection::vec(byte, 0..4))
    }

    fn place() -> impl Strategy<Value = (u32, [Option<Vec<u8>>; 3])> {
        (prop_oneof![Just(0), Just(255), Just(256)], [part(), part(), part()])
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn sortable_bytes_compare_as_places_do(a in place(), b in place()) {
            let of = |(table, parts): &'_ (u32, [Option<Vec<u8>>; 3])| {
                let [key, namespace, sub] = parts.each_ref().map(Option::as_deref);
                let place = RowKey { table: TableId(*table), key, namespace, sub };
                let mut bytes = Vec::new();
                sortable(&place, &mut bytes);
                assert!(bytes.len() <= MAX_SORTABLE_BYTES);
                (bytes, sortable_prefix(place.table, place.key))
            };
            let key = |(table, parts): &(u32, [Option<Vec<u8>>; 3])| (*table, parts[0].clone());
            let ((left, prefix), (right, _)) = (of(&a), of(&b));
            prop_assert_eq!(a.cmp(&b), left.cmp(&right));
            prop_assert!(left.starts_with(&prefix) && left != prefix);
            prop_assert_eq!(key(&a) == key(&b), right.starts_with(&prefix));
        }
    }
}
