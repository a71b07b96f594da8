//! Codecs for keys, namespaces and values, with names that tools can decode by.
//!
//! Invariants:
//! - what a codec of this crate encodes, [`super::schema`] decodes by the codec's schema name alone;
//! - decoding takes all bytes or fails: stored bytes are hostile.

use std::fmt::Debug;
use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::schema::{Schema, Type};
use crate::error::{Error, Result};

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

/// Bytes as they are; schema `bytes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Raw;

impl Codec<Vec<u8>> for Raw {
    fn schema(&self) -> Schema {
        Schema::new("bytes")
    }

    fn encode(&self, value: &Vec<u8>, out: &mut Vec<u8>) -> Result<()> {
        out.extend_from_slice(value);
        Ok(())
    }

    fn decode(&self, bytes: &[u8]) -> Result<Vec<u8>> {
        Ok(bytes.to_vec())
    }
}

/// Text; schema `utf8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Utf8;

impl Codec<String> for Utf8 {
    fn schema(&self) -> Schema {
        Schema::new("utf8")
    }

    fn encode(&self, value: &String, out: &mut Vec<u8>) -> Result<()> {
        out.extend_from_slice(value.as_bytes());
        Ok(())
    }

    fn decode(&self, bytes: &[u8]) -> Result<String> {
        let text = std::str::from_utf8(bytes).map_err(|source| mismatch("utf8").with_source(source))?;
        Ok(text.to_owned())
    }
}

/// Numbers as little-endian bytes of their full width; schemas `u8`, `i8`, `u16le`, ..., `i128le`, `f32le`, `f64le`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Fixed;

/// Declares the fixed-width codec of number types.
macro_rules! fixed {
    ($($number:ty => $name:literal),+ $(,)?) => {
        $(impl Codec<$number> for Fixed {
            fn schema(&self) -> Schema {
                Schema::new($name)
            }

            fn encode(&self, value: &$number, out: &mut Vec<u8>) -> Result<()> {
                out.extend_from_slice(&value.to_le_bytes());
                Ok(())
            }

            fn decode(&self, bytes: &[u8]) -> Result<$number> {
                bytes.try_into().map(<$number>::from_le_bytes).map_err(|_| mismatch($name))
            }
        })+
    };
}

fixed! {
    u8 => "u8", u16 => "u16le", u32 => "u32le", u64 => "u64le", u128 => "u128le",
    i8 => "i8", i16 => "i16le", i32 => "i32le", i64 => "i64le", i128 => "i128le",
    f32 => "f32le", f64 => "f64le",
}

/// Integers as big-endian bytes of their full width, the sign bit of signed ones flipped, so that the bytes sort as
/// the numbers do; schemas `ordered:u8`, `ordered:i8`, ..., `ordered:i128`. For namespaces and sub-keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ordered;

/// Declares the order-preserving codec of integer types. Flipping the sign bit is subtracting the minimum.
macro_rules! ordered {
    ($($number:ty => $name:literal),+ $(,)?) => {
        $(impl Codec<$number> for Ordered {
            fn schema(&self) -> Schema {
                Schema::new($name)
            }

            fn encode(&self, value: &$number, out: &mut Vec<u8>) -> Result<()> {
                out.extend_from_slice(&value.wrapping_sub(<$number>::MIN).to_be_bytes());
                Ok(())
            }

            fn decode(&self, bytes: &[u8]) -> Result<$number> {
                let number = bytes.try_into().map(<$number>::from_be_bytes).map_err(|_| mismatch($name))?;
                Ok(number.wrapping_add(<$number>::MIN))
            }
        })+
    };
}

ordered! {
    u8 => "ordered:u8", u16 => "ordered:u16", u32 => "ordered:u32", u64 => "ordered:u64", u128 => "ordered:u128",
    i8 => "ordered:i8", i16 => "ordered:i16", i32 => "ordered:i32", i64 => "ordered:i64", i128 => "ordered:i128",
}

/// Whatever `serde` can describe, in `postcard`'s format; schema `postcard:` and a type expression.
pub struct Serde<T> {
    schema: Schema,
    value: PhantomData<fn() -> T>,
}

impl<T> Serde<T> {
    /// Returns the codec of `T`, whose fields `expression` describes for tools: `struct<count:u64,sum:option<i128>>`.
    ///
    /// # Errors
    /// `Config` if the expression is not one that [`Type`] knows.
    pub fn new(expression: &str) -> Result<Self> {
        let schema = Schema::new(format!("postcard:{expression}"));
        if Type::parse(&schema.name).is_none() {
            return Err(Error::config("not a type expression").with("expression", expression));
        }
        Ok(Self { schema, value: PhantomData })
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

fn mismatch(schema: &str) -> Error {
    Error::corrupt("stored bytes do not have their schema").with("schema", schema)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::schema::decode_any;

    /// Encodes, decodes, decodes by name, and fails on one byte less or more. Returns the printed dynamic value.
    fn check<V: PartialEq + Debug>(codec: &impl Codec<V>, value: &V) -> String {
        let mut bytes = Vec::new();
        codec.encode(value, &mut bytes).unwrap();
        assert_eq!(codec.decode(&bytes).unwrap(), *value);
        let ty = Type::parse(&codec.schema().name).unwrap();
        decode_any(&ty, &bytes).unwrap().to_string()
    }

    #[test]
    fn values_come_back_and_tools_can_read_them() {
        assert_eq!(check(&Raw, &vec![0, 255]), "0x00ff");
        assert_eq!(check(&Utf8, &"a\"é".to_owned()), "a\"é");
        assert_eq!(check(&Fixed, &-3i16), "-3");
        assert_eq!(check(&Fixed, &i128::MIN), i128::MIN.to_string());
        assert_eq!(check(&Fixed, &0.1f32), "0.1");
        assert_eq!(check(&Fixed, &u64::MAX), u64::MAX.to_string());
        assert_eq!(check(&Ordered, &u16::MAX), "65535");
        assert_eq!(check(&Ordered, &i128::MIN), i128::MIN.to_string());
        let codec = Serde::new("struct<count:u64,sum:option<i128>,names:list<tuple<utf8,bool>>>").unwrap();
        let value = (7u64, Some(-300i128), vec![("x".to_owned(), true)]);
        assert_eq!(check(&codec, &value), "{count:7,sum:-300,names:[(x,true)]}");
        assert_eq!(check(&codec, &(0, None, vec![])), "{count:0,sum:null,names:[]}");
    }

    #[test]
    fn ordered_bytes_sort_as_numbers() {
        let numbers = [i64::MIN, -300, -1, 0, 1, 255, 256, i64::MAX];
        let bytes = numbers.map(|number| {
            let mut bytes = Vec::new();
            Ordered.encode(&number, &mut bytes).unwrap();
            assert_eq!(check(&Ordered, &number), number.to_string());
            bytes
        });
        assert!(bytes.is_sorted());
    }

    #[test]
    fn other_versions_are_refused_by_number_and_by_name() {
        assert_eq!(Codec::<u8>::decode_version(&Fixed, 1, &[7]).unwrap(), 7);
        let error = Codec::<u8>::decode_version(&Fixed, 3, &[7]).unwrap_err();
        let text = "value was stored under another version of its type schema=`u8` stored=`3` known=`1`";
        assert_eq!((error.kind(), error.message()), (crate::ErrorKind::Version, text));
        assert!(Utf8.reads_version(&Schema::new("utf8")) && !Utf8.reads_version(&Schema::new("bytes")));
        assert!(!Utf8.reads_version(&Schema { version: 2, ..Utf8.schema() }));
    }

    #[test]
    fn a_byte_less_or_more_is_not_the_value() {
        assert!(Codec::<u32>::decode(&Fixed, &[0; 3]).is_err());
        assert!(Codec::<u32>::decode(&Fixed, &[0; 5]).is_err());
        assert!(Utf8.decode(&[0xff]).is_err());
        let codec = Serde::<(u64, String)>::new("tuple<u64,utf8>").unwrap();
        let mut bytes = Vec::new();
        codec.encode(&(300, "abc".into()), &mut bytes).unwrap();
        assert!(codec.decode(&bytes[..bytes.len() - 1]).is_err());
        bytes.push(0);
        assert!(codec.decode(&bytes).is_err());
        assert!(Serde::<u8>::new("struct<count>").is_err());
    }
}
