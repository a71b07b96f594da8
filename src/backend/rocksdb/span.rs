//! Places from one up to another: what is scanned, and what a clear may cover.

use std::ops::Bound;

use crate::backend::SubRange;
use crate::backend::place::{push_part, write_place};
use crate::id::TableId;
use crate::key_group::KeyGroup;
use crate::row::RowKey;

/// Places from one up to another, which is not among them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) from: Vec<u8>,
    /// `None` if it ends where places do.
    pub(super) to: Option<Vec<u8>>,
}

impl Span {
    /// Returns the span of all places that start with `start`.
    pub(super) fn starting_with(start: Vec<u8>) -> Self {
        Self { to: successor(&start), from: start }
    }

    /// Returns the span of the rows of `table` in `group`.
    pub(super) fn of_table(group: KeyGroup, table: TableId) -> Self {
        Self::starting_with([group.0.to_be_bytes().as_slice(), &table.0.to_be_bytes()].concat())
    }

    /// Returns the span of the rows that a clear of `key` may cover. It is exact where the clear names a key.
    pub(super) fn of_clear(group: KeyGroup, key: &RowKey<'_>) -> Self {
        let mut span = Self::of_table(group, key.table);
        let Some(of_key) = key.key else { return span };
        push_part(&mut span.from, of_key);
        key.namespace.into_iter().for_each(|namespace| push_part(&mut span.from, namespace));
        Self::starting_with(span.from)
    }

    /// Returns the span of the rows of a key and namespace whose sub-keys lie in `range`.
    pub(super) fn of_subs(group: KeyGroup, table: TableId, [key, namespace]: [&[u8]; 2], range: SubRange<'_>) -> Self {
        let mut start = Vec::new();
        write_place(group, &RowKey::data(table, key, namespace, &[]), &mut start);
        let at = |sub: &[u8], behind: bool| [start.as_slice(), sub, if behind { &[0] } else { &[] }].concat();
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
        // A range that ends before it starts is empty.
        let to = to.map(|to| to.max(from.clone()));
        Self { from, to }
    }

    /// Returns its bounds, as maps take them.
    pub(super) fn bounds(&self) -> SubRange<'_> {
        let to = self.to.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        (Bound::Included(self.from.as_slice()), to)
    }
}

/// Returns the first bytes behind all that start with `start`.
fn successor(start: &[u8]) -> Option<Vec<u8>> {
    let last = start.iter().rposition(|byte| *byte < u8::MAX)?;
    let mut next = start.get(..=last)?.to_vec();
    next.last_mut().into_iter().for_each(|byte| *byte += 1);
    Some(next)
}
