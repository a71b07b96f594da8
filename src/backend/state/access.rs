//! How handles reach the rows of the current key: the namespace, the encoding buffer, and the parts that handles share.

use crate::error::{Error, Result};
use crate::id::TableId;

use super::KeyedState;
use crate::backend::{LazyBackend, RowRef, StateBackend};

/// The state that a handle acts on: a [`KeyedState`], or one [in a namespace](KeyedState::in_namespace).
pub trait Keyed: sealed::Sealed {
    /// The state's backend.
    type Backend: StateBackend;

    /// Returns the state and the namespace; the namespace is empty outside [`KeyedState::in_namespace`].
    #[doc(hidden)]
    fn parts(&mut self) -> (&mut KeyedState<Self::Backend>, &[u8]);
}

/// A state in a namespace: see [`KeyedState::in_namespace`].
#[derive(Debug)]
pub struct InNamespace<'a, B> {
    pub(super) state: &'a mut KeyedState<B>,
    pub(super) namespace: &'a [u8],
}

mod sealed {
    pub trait Sealed {}
}

impl<B> sealed::Sealed for KeyedState<B> {}
impl<B> sealed::Sealed for InNamespace<'_, B> {}

impl<B: StateBackend> Keyed for KeyedState<B> {
    type Backend = B;

    fn parts(&mut self) -> (&mut Self, &[u8]) {
        (self, &[])
    }
}

impl<B: StateBackend> Keyed for InNamespace<'_, B> {
    type Backend = B;

    fn parts(&mut self) -> (&mut KeyedState<B>, &[u8]) {
        (self.state, self.namespace)
    }
}

/// A buffer for encoded bytes. Each encoding replaces the last one and reuses its memory.
#[derive(Debug, Default)]
pub(super) struct Buffer(Vec<u8>);

impl Buffer {
    pub(super) fn fill(&mut self, encode: impl FnOnce(&mut Vec<u8>) -> Result<()>) -> Result<&[u8]> {
        self.0.clear();
        encode(&mut self.0)?;
        Ok(&self.0)
    }
}

/// The table of a handle.
#[derive(Debug, Clone, Copy)]
pub(super) struct Table {
    pub(super) id: TableId,
    pub(super) namespaced: bool,
}

/// Everything that one operation of a handle needs.
pub(super) struct Access<'a, B> {
    pub(super) backend: &'a mut LazyBackend<B>,
    /// The row, without a sub-key.
    pub(super) row: RowRef<'a>,
    pub(super) buffer: &'a mut Buffer,
}

impl Table {
    /// Calls `f` with the row of the current key.
    ///
    /// # Errors
    /// `Usage` if no key is set, or the state is in a namespace and the table has none.
    #[inline(always)]
    pub(super) fn with_row<S: Keyed, R>(
        self,
        state: &mut S,
        f: impl FnOnce(Access<'_, S::Backend>) -> Result<R>,
    ) -> Result<R> {
        let (state, namespace) = state.parts();
        self.check_namespace(namespace)?;
        let key = state.key.located()?;
        let row = RowRef { table: self.id, key: &key, namespace, sub: &[] };
        f(Access { backend: &mut state.backend, row, buffer: &mut state.buffer })
    }

    #[inline]
    pub(super) fn check_namespace(self, namespace: &[u8]) -> Result<()> {
        if self.namespaced || namespace.is_empty() {
            return Ok(());
        }
        Err(Error::usage("table has no namespaces").with("table", self.id))
    }
}

/// Implements `Clone`, `Debug` and `table` for a handle. A derive would bound the value types too, which need neither.
///
/// The brackets hold the generics of the `Clone` and of the `Debug` implementation.
macro_rules! handle {
    ([$($clone:tt)+] [$($debug:tt)+] $name:ident<$($param:ident),+> { $($field:ident),+ }) => {
        impl<$($clone)+> Clone for $name<$($param),+> {
            fn clone(&self) -> Self {
                Self { $($field: Clone::clone(&self.$field),)+ ..*self }
            }
        }

        impl<$($debug)+> std::fmt::Debug for $name<$($param),+> {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                let mut debug = f.debug_struct(stringify!($name));
                debug.field("table", &self.table)$(.field(stringify!($field), &self.$field))+.finish()
            }
        }

        impl<$($param),+> $name<$($param),+> {
            /// Returns the table's id.
            #[must_use]
            pub fn table(&self) -> $crate::id::TableId {
                self.table.id
            }
        }
    };
}
pub(super) use handle;
