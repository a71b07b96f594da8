//! Bytes that take no memory of their own while they are few.

use crate::error::broken;

const INLINE_BYTES: usize = 22;

/// A run of bytes in a value of 24 bytes, or on the heap if it is longer than 22.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SmallBytes {
    Inline(u8, [u8; INLINE_BYTES]),
    Heap(Box<[u8]>),
}

impl SmallBytes {
    pub(super) fn new(bytes: &[u8]) -> Self {
        let mut inline = [0; INLINE_BYTES];
        match (u8::try_from(bytes.len()), inline.get_mut(..bytes.len())) {
            (Ok(length), Some(to)) => {
                to.copy_from_slice(bytes);
                Self::Inline(length, inline)
            }
            _ => Self::Heap(bytes.into()),
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Inline(length, bytes) => match bytes.get(..usize::from(*length)) {
                Some(bytes) => bytes,
                None => broken("inline bytes fit their array"),
            },
            Self::Heap(bytes) => bytes,
        }
    }

    pub(super) fn heap_bytes(&self) -> usize {
        match self {
            Self::Inline(..) => 0,
            Self::Heap(bytes) => bytes.len(),
        }
    }
}
