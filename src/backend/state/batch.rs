//! Operations on many rows: each key is located once, by the caller, and the backend hears of rows ahead of their use.

use crate::error::Result;
use crate::key_group::CurrentKey;

use super::{Access, Keyed, KeyedState, Table};
use crate::backend::{RowRef, StateBackend as _};

/// Rows that the backend hears of at once: what a cache of 32 KiB holds of keys and index entries.
const WINDOW: usize = 64;

impl Table {
    /// Calls `f` for each of `keys` in order, with its place, until it fails.
    pub(super) fn each_key<S: Keyed>(
        self,
        state: &mut S,
        keys: &[CurrentKey<'_>],
        mut f: impl FnMut(usize, Access<'_, S::Backend>) -> Result<()>,
    ) -> Result<()> {
        self.each(state, keys, |key| key, |_, _| Ok(()), |at, _, access| f(at, access))
    }

    /// Calls `f` for each of `items` in order, with its place and the row of its key and sub-key, until it fails.
    pub(super) fn each<'k, S: Keyed, T>(
        self,
        state: &mut S,
        items: &[T],
        key: impl Fn(&T) -> &CurrentKey<'k>,
        encode_sub: impl Fn(&T, &mut Vec<u8>) -> Result<()>,
        mut f: impl FnMut(usize, &T, Access<'_, S::Backend>) -> Result<()>,
    ) -> Result<()> {
        let (state, namespace) = state.parts();
        self.check(namespace)?;
        let KeyedState { backend, buffer, .. } = state;
        let (mut subs, mut at) = (Vec::new(), 0);
        for window in items.chunks(WINDOW) {
            subs.clear();
            let mut ends = Vec::with_capacity(window.len());
            for item in window {
                // An item that has no encoding fails when its turn comes.
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
