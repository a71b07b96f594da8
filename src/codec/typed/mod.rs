//! Codecs for keys, namespaces and values, with names that tools can decode by.
//!
//! | values | codec | schema |
//! |---|---|---|
//! | `Vec<u8>`, `String`, `()` | [`Raw`], [`Utf8`], [`Unit`] | `bytes`, `utf8`, `unit` |
//! | numbers, `bool` | [`Fixed`] | `u8`, `u16le`, ..., `f64le`, `bool` |
//! | tuples of 2 to 6 | a tuple of codecs | `tuple<utf8,u64le>` |
//! | `Option<V>`, `Vec<V>` | [`Optional`], [`ListOf`] | `option<utf8>`, `list<utf8>` |
//! | all of these but `Vec<V>`, sorted by their bytes | [`Ordered`] | `ordered:tuple<i64,utf8>` |
//! | any type with `serde` implementations | [`Serde`] | `postcard:...`, `serde:...` |
//!
//! [`At`] gives a codec another version, [`Migrating`] makes it read older ones. A composed type has version 1, and its
//! name holds the versions of its parts other than 1, so a part of another version makes another type. Migrate the
//! whole, therefore, never a part.
//!
//! Invariants:
//! - [`super::schema`] decodes the bytes of this crate's codecs by the schema's name alone, except for `serde:` names;
//! - decoding uses all bytes or fails: stored bytes may be hostile.

mod compose;
mod evolve;
mod fixed;
mod ordered;
mod serde;
#[cfg(test)]
mod tests;

use std::fmt::Debug;

use super::schema::Schema;
use crate::error::{Error, Result};

pub use self::serde::Serde;
pub use compose::{ListOf, Optional};
pub use evolve::{At, Migrating};
pub use fixed::{Fixed, Raw, Unit, Utf8};
pub use ordered::{Ordered, OrderedCodec};

/// Encodes values of type `V` as bytes and decodes them.
///
/// Equal values should give equal bytes: sub-keys are found, and unchanged values recognised, by their bytes.
///
/// ```
/// use alluvium::{Codec, Fixed, Utf8};
/// # fn main() -> alluvium::Result<()> {
/// let codec = (Utf8, Fixed);
/// let mut bytes = Vec::new();
/// codec.encode(&("ab".to_owned(), 1u16), &mut bytes)?;
/// assert_eq!(bytes, b"\x02ab\x01\0");
/// let (text, number): (String, u16) = codec.decode(&bytes)?;
/// assert_eq!((text.as_str(), number), ("ab", 1));
/// # Ok(())
/// # }
/// ```
pub trait Codec<V>: Clone + Debug + Send + Sync + 'static {
    /// Returns the type's name and version, which checkpoints store.
    fn schema(&self) -> Schema;

    /// Appends the bytes of `value` to `out`, and leaves the bytes already there. After an error `out` may hold partial
    /// output.
    ///
    /// # Errors
    /// `Usage` if the value has no encoding.
    fn encode(&self, value: &V, out: &mut Vec<u8>) -> Result<()>;

    /// Overwrites `bytes`, which encode another value, with the bytes of `value` if there are as many; else returns false
    /// and leaves them. An update of a stored value then needs no buffer: codecs of a fixed width should implement it.
    /// It must not panic, as that could leave bytes that are neither the old value nor the new one.
    fn encode_over(&self, _value: &V, _bytes: &mut [u8]) -> bool {
        false
    }

    /// Decodes a value from all of `bytes`.
    ///
    /// # Errors
    /// `Corrupt` if `bytes` encode no value, or a value and more.
    fn decode(&self, bytes: &[u8]) -> Result<V>;

    /// Decodes a value from all of `bytes`, which were written under `version` of the type. Rows store their version if it
    /// is not their table's.
    ///
    /// # Errors
    /// As [`Codec::decode`]; `Version` if the codec does not read that version.
    fn decode_version(&self, version: u32, bytes: &[u8]) -> Result<V> {
        let Schema { name, version: known } = self.schema();
        if version == known {
            return self.decode(bytes);
        }
        let error = Error::version("value was stored under another version of its type").with("schema", name);
        Err(error.with("stored", version).with("known", known))
    }

    /// Returns whether [`Codec::decode_version`] reads values that were written under `schema`. A codec always reads its
    /// own schema.
    fn reads_version(&self, schema: &Schema) -> bool {
        *schema == self.schema()
    }
}

/// Returns the error about bytes that encode no value of the schema.
fn mismatch(schema: &str) -> Error {
    Error::corrupt("stored bytes do not match their schema").with("schema", schema)
}
