//! Codecs composed of codecs: tuples, options, lists.
//!
//! Every part but the last follows its length, so any codec can be a part. A part of up to 127 bytes costs one byte for
//! the length.

use super::{Codec, mismatch};
use crate::codec::bytes::{Reader, put_delimited, put_length};
use crate::codec::schema::Schema;
use crate::error::Result;

/// Optional values: a byte 0, or a byte 1 and the value; schema `option<part>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Optional<C>(pub C);

impl<V, C: Codec<V>> Codec<Option<V>> for Optional<C> {
    fn schema(&self) -> Schema {
        Schema::composed("option", &[self.0.schema()])
    }

    fn encode(&self, value: &Option<V>, out: &mut Vec<u8>) -> Result<()> {
        out.push(value.is_some().into());
        value.as_ref().map_or(Ok(()), |value| self.0.encode(value, out))
    }

    fn decode(&self, bytes: &[u8]) -> Result<Option<V>> {
        match bytes.split_first() {
            Some((0, [])) => Ok(None),
            Some((1, some)) => self.0.decode(some).map(Some),
            _ => Err(mismatch(&Codec::<Option<V>>::schema(self).name)),
        }
    }
}

/// Lists: the count as a varint, then each value after its length; schema `list<part>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ListOf<C>(pub C);

impl<V, C: Codec<V>> Codec<Vec<V>> for ListOf<C> {
    fn schema(&self) -> Schema {
        Schema::composed("list", &[self.0.schema()])
    }

    fn encode(&self, values: &Vec<V>, out: &mut Vec<u8>) -> Result<()> {
        put_length(out, values.len());
        values.iter().try_for_each(|value| put_delimited(out, |out| self.0.encode(value, out)))
    }

    fn decode(&self, bytes: &[u8]) -> Result<Vec<V>> {
        let mut reader = Reader::new(bytes);
        // The count reserves no memory: values may be much larger than their bytes.
        let count = reader.count(1)?;
        let mut item = |_| self.0.decode(reader.length_delimited(usize::MAX)?);
        let values = (0..count).map(&mut item).collect::<Result<_>>()?;
        reader.finish()?;
        Ok(values)
    }
}

/// Declares tuples of codecs as codecs of tuples. All parts but the last follow their lengths.
macro_rules! tuples {
    ($([$($codec:ident $value:ident $at:tt),+; $last_codec:ident $last_value:ident $last:tt])+) => {
        $(impl<$($value, $codec: Codec<$value>,)+ $last_value, $last_codec: Codec<$last_value>>
            Codec<($($value,)+ $last_value)> for ($($codec,)+ $last_codec)
        {
            fn schema(&self) -> Schema {
                Schema::composed("tuple", &[$(self.$at.schema(),)+ self.$last.schema()])
            }

            fn encode(&self, value: &($($value,)+ $last_value), out: &mut Vec<u8>) -> Result<()> {
                $(put_delimited(out, |out| self.$at.encode(&value.$at, out))?;)+
                self.$last.encode(&value.$last, out)
            }

            fn decode(&self, bytes: &[u8]) -> Result<($($value,)+ $last_value)> {
                let mut reader = Reader::new(bytes);
                Ok(($(self.$at.decode(reader.length_delimited(usize::MAX)?)?,)+ self.$last.decode(reader.rest())?))
            }
        })+
    };
}

tuples! {
    [A X 0; B Y 1]
    [A X 0, B Y 1; C Z 2]
    [A X 0, B Y 1, C Z 2; D W 3]
    [A X 0, B Y 1, C Z 2, D W 3; E V 4]
    [A X 0, B Y 1, C Z 2, D W 3, E V 4; F U 5]
}
