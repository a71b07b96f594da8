//! The items of opaques.

use bytes::{BufMut as _, Bytes, BytesMut};

use super::rescale::Share;
use super::{Opaque, OpaqueContent, OpaqueRole, Redistribution};
use crate::error::{Error, Result};
use crate::key_group::{KeyGroup, KeyGroupSet};

impl Opaque {
    /// Returns an opaque that stays with the subtask of the same index.
    #[must_use]
    pub fn new(role: OpaqueRole, name: impl Into<String>, bytes: impl Into<Bytes>) -> Self {
        Self {
            role,
            name: name.into(),
            redistribution: Redistribution::None,
            channel: None,
            item_offsets: Vec::new(),
            content: OpaqueContent::Inline(bytes.into()),
        }
    }

    /// Returns the items of a list: the bytes between offsets, or all bytes as one item without offsets.
    ///
    /// # Errors
    /// `Usage` if the content is not inline; `Corrupt` if the offsets do not fit it.
    pub fn items(&self) -> Result<Vec<Bytes>> {
        let OpaqueContent::Inline(bytes) = &self.content else {
            return Err(Error::usage("opaque is stored elsewhere").with("name", &self.name));
        };
        if self.item_offsets.is_empty() {
            return Ok(vec![bytes.clone()]);
        }
        let misfit = || Error::corrupt("item offsets do not fit the opaque").with("name", &self.name);
        let end = bytes.len() as u64;
        let ends = self.item_offsets.iter().skip(1).copied().chain([end]);
        let slice = |(&start, stop): (&u64, u64)| {
            let range = usize::try_from(start).ok()?..usize::try_from(stop).ok()?;
            (range.start <= range.end && stop <= end).then(|| bytes.slice(range))
        };
        self.item_offsets.iter().zip(ends).map(|bounds| slice(bounds).ok_or_else(misfit)).collect()
    }

    /// Returns records between operators, each with the key group of the subtask that was to process it: a channel's state in an
    /// unaligned checkpoint, or a log of the back edge of a cycle. After a restore at any parallelism, the owner of a group gets its
    /// records, in this order, by [`group_items`](Self::group_items).
    #[must_use]
    pub fn in_flight(name: impl Into<String>, records: impl IntoIterator<Item = (KeyGroup, impl AsRef<[u8]>)>) -> Self {
        let (mut bytes, mut item_offsets) = (BytesMut::new(), Vec::new());
        for (group, record) in records {
            item_offsets.push(bytes.len() as u64);
            put_item(&mut bytes, group, record.as_ref());
        }
        Self {
            redistribution: Redistribution::ByKeyGroup,
            item_offsets,
            ..Self::new(OpaqueRole::InFlight, name, bytes.freeze())
        }
    }

    /// Returns the records of [`in_flight`](Self::in_flight), each with its key group.
    ///
    /// # Errors
    /// As [`items`](Self::items); `Corrupt` if an item has no key group.
    pub fn group_items(&self) -> Result<Vec<(KeyGroup, Bytes)>> {
        // Without items there are no offsets.
        if self.item_offsets.is_empty() && self.content == OpaqueContent::Inline(Bytes::new()) {
            return Ok(Vec::new());
        }
        let item = |item: Bytes| match *item {
            [low, high, ..] => Ok((KeyGroup(u16::from_le_bytes([low, high])), item.slice(2..))),
            _ => Err(Error::corrupt("item of the opaque has no key group").with("name", &self.name)),
        };
        self.items()?.into_iter().map(item).collect()
    }

    /// Checks that the items are of these key groups, if they are redistributed by them.
    ///
    /// # Errors
    /// As [`group_items`](Self::group_items); `Corrupt`, with the group.
    pub(crate) fn check_in_flight(&self, groups: &KeyGroupSet) -> Result<()> {
        if self.redistribution != Redistribution::ByKeyGroup {
            return Ok(());
        }
        match self.group_items()?.into_iter().find(|(group, _)| !groups.contains(*group)) {
            None => Ok(()),
            Some((group, _)) => {
                let error = Error::corrupt("item is of a key group that the subtask does not own");
                Err(error.with("name", &self.name).with("group", group))
            }
        }
    }
}

impl Share {
    /// Adds an item of `from` to the opaque of its role and name.
    pub(super) fn add_in_flight(&mut self, from: &Opaque, group: KeyGroup, item: &[u8]) {
        let known = self.opaques.iter().position(|known| (known.role, &known.name) == (from.role, &from.name));
        let at = known.unwrap_or_else(|| {
            let content = OpaqueContent::Inline(Bytes::new());
            self.opaques.push(Opaque { item_offsets: Vec::new(), content, ..from.clone() });
            self.opaques.len() - 1
        });
        let Some(Opaque { item_offsets, content: OpaqueContent::Inline(bytes), .. }) = self.opaques.get_mut(at) else {
            return;
        };
        item_offsets.push(bytes.len() as u64);
        let mut longer = std::mem::take(bytes).try_into_mut().unwrap_or_else(|bytes| bytes.as_ref().into());
        put_item(&mut longer, group, item);
        *bytes = longer.freeze();
    }
}

fn put_item(bytes: &mut BytesMut, group: KeyGroup, record: &[u8]) {
    bytes.put_u16_le(group.0);
    bytes.put_slice(record);
}
