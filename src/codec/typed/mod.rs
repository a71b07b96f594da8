//! Codecs for keys, namespaces and values, with names that tools can decode by.
//!
//! | values | codec | schema |
//! |---|---|---|
//! | `Vec<u8>`, `String`, `()` | [`Raw`], [`Utf8`], [`Unit`] | `bytes`, `utf8`, `unit` |
//! | numbers, `bool` | [`Fixed`] | `u8`, `u16le`, ..., `f64le`, `bool` |
//! | tuples of 2 to 6 | a tuple of codecs | `tuple<utf8,u64le>` |
//! | `Option<V>`, `Vec<V>` | [`Optional`], [`ListOf`] | `option<utf8>`, `list<utf8>` |
//! | all of these but `Vec<V>`, sorted by their bytes | [`Ordered`] | `ordered:tuple<i64,utf8>` |
//! | whatever `serde` can describe | [`Serde`] | `postcard:...`, `serde:...` |
//!
//! [`At`] gives a codec another version, [`Migrating`] lets it read older ones. A composed type is of version 1, and
//! its name holds the versions of its parts where they are not 1: parts of another version make another type. What
//! migrates is therefore the whole, never a part.
//!
//! Invariants:
//! - what a codec of this crate encodes, [`super::schema`] decodes by the codec's schema name alone, unless that name
//!   says otherwise (`serde:`);
//! - decoding takes all bytes or fails: stored bytes are hostile.

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

/// Turns values of type `V` into bytes and back.
///
/// Equal values should give equal bytes, so that unchanged state is seen as unchanged.
pub trait Codec<V>: Clone + Debug + Send + Sync + 'static {
    /// Returns the name and version of the type, which checkpoints store.
    fn schema(&self) -> Schema;

    /// Appends the bytes of `value` to `out`. After an error, what was appended is garbage: encoding may fail half way.
    ///
    /// # Errors
    /// `Usage` if the value has no encoding.
    fn encode(&self, value: &V, out: &mut Vec<u8>) -> Result<()>;

    /// Returns the value that exactly `bytes` stand for.
    ///
    /// # Errors
    /// `Corrupt` if there is none.
    fn decode(&self, bytes: &[u8]) -> Result<V>;

    /// Returns the value that exactly `bytes` stand for, which were written under `version` of the type: rows keep the
    /// version's number if it is not their table's.
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

    /// Returns whether the codec reads what was written under `schema`, by [`Codec::decode_version`] and the schema's
    /// version. It always reads its own.
    fn reads_version(&self, schema: &Schema) -> bool {
        *schema == self.schema()
    }
}

/// Returns the error about bytes that no value has.
fn mismatch(schema: &str) -> Error {
    Error::corrupt("stored bytes do not have their schema").with("schema", schema)
}
