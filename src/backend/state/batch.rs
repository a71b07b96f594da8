//! Operations on many rows: the caller locates each key once, and the backend prefetches rows ahead of their use.

use crate::error::Result;
use crate::key_group::CurrentKey;

use super::KeyedState;
use super::access::{Access, Keyed, Table};
use crate::backend::{RowRef, StateBackend as _};

/// Rows prefetched at a time: their keys and index entries fit a cache of 32 KiB.
const PREFETCH_ROWS: usize = 64;

impl Table {
    /// Calls `f` with the index and the stored value of each key, in order, until `f` fails.
    pub(super) fn read_many<S: Keyed>(
        self,
        state: &mut S,
        keys: &[CurrentKey<'_>],
        f: impl FnMut(usize, Option<&[u8]>) -> Result<()>,
    ) -> Result<()> {
        let (state, namespace) = state.parts();
        self.check_namespace(namespace)?;
        state.backend.read_many(self.id, namespace, keys, f)
    }

    /// Calls `f` with the position of each item, the item, and the row of its key and sub-key, in order, until `f` fails
    /// or a sub-key has no encoding.
    pub(super) fn each<'k, S: Keyed, T>(
        self,
        state: &mut S,
        items: &[T],
        key: impl Fn(&T) -> &CurrentKey<'k>,
        encode_sub: impl Fn(&T, &mut Vec<u8>) -> Result<()>,
        mut f: impl FnMut(usize, &T, Access<'_, S::Backend>) -> Result<()>,
    ) -> Result<()> {
        let (state, namespace) = state.parts();
        self.check_namespace(namespace)?;
        let KeyedState { backend, buffer, .. } = state;
        let (mut subs, mut at) = (Vec::new(), 0);
        for window in items.chunks(PREFETCH_ROWS) {
            subs.clear();
            let mut ends = Vec::with_capacity(window.len());
            for item in window {
                // An item without an encoding fails in its turn: earlier items are still applied.
                let start = subs.len();
                let encoded = encode_sub(item, &mut subs);
                ends.push(encoded.map(|()| start..subs.len()));
            }
            let sub = |span: &Result<std::ops::Range<usize>>| {
                span.as_ref().ok().and_then(|span| subs.get(span.clone())).unwrap_or_default()
            };
            let row = |(item, span)| RowRef { table: self.id, key: key(item), namespace, sub: sub(span) };
            let rows: Vec<_> = window.iter().zip(&ends).map(row).collect();
            backend.prefetch(&rows);
            for ((row, item), encoded) in rows.iter().zip(window).zip(&ends) {
                if encoded.is_err() {
                    break;
                }
                f(at, item, Access { backend: &mut *backend, row: *row, buffer: &mut *buffer })?;
                at += 1;
            }
            ends.into_iter().find_map(Result::err).map_or(Ok(()), Err)?;
        }
        Ok(())
    }
}
