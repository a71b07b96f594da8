//! Upgrades of stored values from older versions to the current one, through the table's codec.

use std::fmt::{self, Debug};
use std::marker::PhantomData;

use crate::codec::bytes::{Reader, put_delimited};
use crate::codec::typed::Codec;
use crate::error::Result;
use crate::row::Upgrade;

/// Decodes a value of any version that the codec reads, and encodes it in the current version.
pub(super) struct ValueUpgrade<V, C> {
    codec: C,
    value: PhantomData<fn() -> V>,
}

impl<V, C: Codec<V>> ValueUpgrade<V, C> {
    pub(super) const fn new(codec: C) -> Self {
        Self { codec, value: PhantomData }
    }
}

impl<V, C: Debug> Debug for ValueUpgrade<V, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ValueUpgrade").field(&self.codec).finish()
    }
}

impl<V, C: Codec<V>> Upgrade for ValueUpgrade<V, C> {
    fn upgrade(&self, from: u32, bytes: &[u8], out: &mut Vec<u8>) -> Result<()> {
        self.codec.encode(&self.codec.decode_version(from, bytes)?, out)
    }
}

/// Upgrades each element of a list as [`ValueUpgrade`] does.
pub(super) struct ListUpgrade<V, C>(ValueUpgrade<V, C>);

impl<V, C: Codec<V>> ListUpgrade<V, C> {
    pub(super) const fn new(codec: C) -> Self {
        Self(ValueUpgrade::new(codec))
    }
}

impl<V, C: Debug> Debug for ListUpgrade<V, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ListUpgrade").field(&self.0.codec).finish()
    }
}

impl<V, C: Codec<V>> Upgrade for ListUpgrade<V, C> {
    fn upgrade(&self, from: u32, bytes: &[u8], out: &mut Vec<u8>) -> Result<()> {
        let mut reader = Reader::new(bytes);
        while reader.remaining() > 0 {
            let element = reader.length_delimited(bytes.len())?;
            put_delimited(out, |out| self.0.upgrade(from, element, out))?;
        }
        Ok(())
    }
}
