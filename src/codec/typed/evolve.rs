//! Versions of codecs: a codec under another version number, and codecs that also read older versions.
//!
//! Invariants:
//! - a row stores only its version number, so a codec reads at most one type per number;
//! - only the current version is written.

use std::fmt::{self, Debug};
use std::sync::Arc;

use super::{Codec, OrderedCodec};
use crate::codec::schema::Schema;
use crate::error::{Error, Result};

/// A codec under another version number. It reads that version alone: wrap it in a [`Migrating`], never the other way
/// round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct At<C> {
    codec: C,
    version: u32,
}

impl<C> At<C> {
    /// Returns `codec` with its type as version `version`.
    #[must_use]
    pub const fn new(codec: C, version: u32) -> Self {
        Self { codec, version }
    }
}

impl<V, C: Codec<V>> Codec<V> for At<C> {
    fn schema(&self) -> Schema {
        Schema { version: self.version, ..self.codec.schema() }
    }

    fn encode(&self, value: &V, out: &mut Vec<u8>) -> Result<()> {
        self.codec.encode(value, out)
    }

    fn encode_over(&self, value: &V, bytes: &mut [u8]) -> bool {
        self.codec.encode_over(value, bytes)
    }

    fn decode(&self, bytes: &[u8]) -> Result<V> {
        self.codec.decode(bytes)
    }
}

impl<V, C: OrderedCodec<V>> OrderedCodec<V> for At<C> {}

/// A codec that also reads values of older versions, which may have other types. For values only: keys, namespaces and
/// sub-keys are found by their stored bytes, so their encoding cannot change.
///
/// ```
/// use alluvium::{At, Codec, Fixed, Migrating};
/// # fn main() -> alluvium::Result<()> {
/// let codec = Migrating::new(At::new(Fixed, 2)).from(Fixed, |old: u32| u64::from(old))?;
/// assert_eq!(codec.decode_version(1, &[7, 0, 0, 0])?, 7);
/// # Ok(())
/// # }
/// ```
pub struct Migrating<V, C> {
    current: C,
    older: Vec<Older<V>>,
}

/// An older version, and its conversion to the current type.
struct Older<V> {
    schema: Schema,
    decode: Arc<Decode<V>>,
}

type Decode<V> = dyn Fn(&[u8]) -> Result<V> + Send + Sync;

impl<V: 'static, C: Codec<V>> Migrating<V, C> {
    /// Returns a codec that reads and writes as `current` does.
    #[must_use]
    pub const fn new(current: C) -> Self {
        Self { current, older: Vec::new() }
    }

    /// Returns the codec that also reads values written by `old`, converted with `convert`.
    ///
    /// # Errors
    /// `Config` if the version of `old` is not below the current one, or the codec reads that version already.
    pub fn from<O: 'static>(
        mut self,
        old: impl Codec<O>,
        convert: impl Fn(O) -> V + Send + Sync + 'static,
    ) -> Result<Self> {
        let (schema, current) = (old.schema(), self.current.schema());
        let error = |message: &str| {
            let error = Error::config(message).with("old", &schema.name).with("old_version", schema.version);
            Err(error.with("current", &current.name).with("current_version", current.version))
        };
        if schema.version >= current.version {
            return error("old version is not below the current one");
        }
        if self.older.iter().any(|older| older.schema.version == schema.version) {
            return error("old version is read already");
        }
        let decode: Arc<Decode<V>> = Arc::new(move |bytes| old.decode(bytes).map(&convert));
        self.older.push(Older { schema, decode });
        Ok(self)
    }
}

impl<V: 'static, C: Codec<V>> Codec<V> for Migrating<V, C> {
    fn schema(&self) -> Schema {
        self.current.schema()
    }

    fn encode(&self, value: &V, out: &mut Vec<u8>) -> Result<()> {
        self.current.encode(value, out)
    }

    fn encode_over(&self, value: &V, bytes: &mut [u8]) -> bool {
        self.current.encode_over(value, bytes)
    }

    fn decode(&self, bytes: &[u8]) -> Result<V> {
        self.current.decode(bytes)
    }

    fn decode_version(&self, version: u32, bytes: &[u8]) -> Result<V> {
        match self.older.iter().find(|older| older.schema.version == version) {
            Some(older) => (older.decode)(bytes),
            None => self.current.decode_version(version, bytes),
        }
    }

    fn reads_version(&self, schema: &Schema) -> bool {
        match self.older.iter().find(|older| older.schema.version == schema.version) {
            Some(older) => older.schema == *schema,
            None => self.current.reads_version(schema),
        }
    }
}

impl<V, C: Clone> Clone for Migrating<V, C> {
    fn clone(&self) -> Self {
        Self { current: self.current.clone(), older: self.older.clone() }
    }
}

impl<V> Clone for Older<V> {
    fn clone(&self) -> Self {
        Self { schema: self.schema.clone(), decode: Arc::clone(&self.decode) }
    }
}

impl<V, C: Debug> Debug for Migrating<V, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let older: Vec<_> = self.older.iter().map(|older| &older.schema).collect();
        f.debug_struct("Migrating").field("current", &self.current).field("older", &older).finish()
    }
}
