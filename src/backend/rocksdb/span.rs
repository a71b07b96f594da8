//! Ranges of row keys: of a scan, or of the rows that a clear may cover.

use std::ops::Bound;

use crate::backend::SubRange;
use crate::backend::row_key::{encode_row_key, push_part};
use crate::id::TableId;
use crate::key_group::KeyGroup;
use crate::row::RowKey;

/// A half-open range of row keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) from: Vec<u8>,
    /// Excluded; `None` if unbounded.
    pub(super) to: Option<Vec<u8>>,
}

impl Span {
    /// Returns the span of all row keys that start with `start`.
    pub(super) fn starting_with(start: Vec<u8>) -> Self {
        Self { to: successor(&start), from: start }
    }

    /// Returns the span of the rows of `table` in `group`.
    pub(super) fn of_table(group: KeyGroup, table: TableId) -> Self {
        Self::starting_with([group.0.to_be_bytes().as_slice(), &table.0.to_be_bytes()].concat())
    }

    /// Returns the span of the rows that a clear may cover. The span is exact if the clear names a key.
    pub(super) fn of_clear(group: KeyGroup, key: &RowKey<'_>) -> Self {
        let mut span = Self::of_table(group, key.table);
        let Some(key_bytes) = key.key else { return span };
        push_part(&mut span.from, key_bytes);
        key.namespace.into_iter().for_each(|namespace| push_part(&mut span.from, namespace));
        Self::starting_with(span.from)
    }

    /// Returns the span of the rows of a key and namespace whose sub-keys lie in `range`.
    pub(super) fn of_subs(group: KeyGroup, table: TableId, [key, namespace]: [&[u8]; 2], range: SubRange<'_>) -> Self {
        let mut start = Vec::new();
        encode_row_key(group, &RowKey::data(table, key, namespace, &[]), &mut start);
        let at = |sub: &[u8], after: bool| [start.as_slice(), sub, if after { &[0] } else { &[] }].concat();
        let from = match range.0 {
            Bound::Included(sub) => at(sub, false),
            Bound::Excluded(sub) => at(sub, true),
            Bound::Unbounded => start.clone(),
        };
        let to = match range.1 {
            Bound::Included(sub) => Some(at(sub, true)),
            Bound::Excluded(sub) => Some(at(sub, false)),
            Bound::Unbounded => successor(&start),
        };
        // A range that ends before it starts is empty: ordered maps panic on inverted bounds.
        let to = to.map(|to| to.max(from.clone()));
        Self { from, to }
    }

    /// Returns the bounds in the form of ordered maps.
    pub(super) fn bounds(&self) -> SubRange<'_> {
        let to = self.to.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        (Bound::Included(self.from.as_slice()), to)
    }
}

/// Returns the least byte string above all that start with `start`, if there is one.
fn successor(start: &[u8]) -> Option<Vec<u8>> {
    let last = start.iter().rposition(|byte| *byte < u8::MAX)?;
    let mut next = start.get(..=last)?.to_vec();
    next.last_mut().into_iter().for_each(|byte| *byte += 1);
    Some(next)
}
