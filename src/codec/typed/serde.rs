//! Values with `serde` implementations, in `postcard`'s format.

use std::fmt::Debug;
use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Codec, mismatch};
use crate::codec::schema::{Schema, Type};
use crate::error::{Error, Result};

/// Values with `serde` implementations, in `postcard`'s format. The schema is `postcard:` and a type expression, by which
/// tools decode the values, or `serde:` and a name, for which tools show plain bytes.
///
/// ```
/// use alluvium::{Codec, Serde};
/// # fn main() -> alluvium::Result<()> {
/// let codec = Serde::<(u64, Option<i128>)>::new("struct<count:u64,sum:option<i128>>")?;
/// let mut bytes = Vec::new();
/// codec.encode(&(7, None), &mut bytes)?;
/// assert_eq!(codec.decode(&bytes)?, (7, None));
/// # Ok(())
/// # }
/// ```
pub struct Serde<T> {
    schema: Schema,
    value: PhantomData<fn() -> T>,
}

impl<T> Serde<T> {
    /// Returns the codec of `T`, version 1. `expression` describes the fields for tools:
    /// `struct<count:u64,sum:option<i128>>`. It must match the `serde` implementation, which is not checked.
    ///
    /// # Errors
    /// `Config` if [`Type::parse`] does not accept the expression.
    pub fn new(expression: &str) -> Result<Self> {
        let schema = Schema::new(format!("postcard:{expression}"));
        if Type::parse(&schema.name).is_none() {
            return Err(Error::config("not a type expression").with("expression", expression));
        }
        Ok(Self { schema, value: PhantomData })
    }

    /// Returns the codec of a `T` that no expression describes, such as a recursive type or one with maps. `name` and
    /// `version` stand for the layout of the fields: raise the version when the layout changes.
    #[must_use]
    pub fn opaque(name: &str, version: u32) -> Self {
        Self { schema: Schema { name: format!("serde:{name}"), version }, value: PhantomData }
    }
}

impl<T> Clone for Serde<T> {
    fn clone(&self) -> Self {
        Self { schema: self.schema.clone(), value: PhantomData }
    }
}

impl<T> Debug for Serde<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Serde").field(&self.schema.name).finish()
    }
}

impl<T: Serialize + DeserializeOwned + 'static> Codec<T> for Serde<T> {
    fn schema(&self) -> Schema {
        self.schema.clone()
    }

    fn encode(&self, value: &T, out: &mut Vec<u8>) -> Result<()> {
        let encoded = postcard::to_io(value, out).map(|_| ());
        encoded.map_err(|source| {
            Error::usage("value has no encoding").with("schema", &self.schema.name).with_source(source)
        })
    }

    fn decode(&self, bytes: &[u8]) -> Result<T> {
        match postcard::take_from_bytes(bytes) {
            Ok((value, [])) => Ok(value),
            Ok(_) => Err(mismatch(&self.schema.name)),
            Err(source) => Err(mismatch(&self.schema.name).with_source(source)),
        }
    }
}
