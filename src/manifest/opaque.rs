//! The items of opaques.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

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
    ///
    /// # Errors
    /// `Limit` if a record has 4 GiB or more.
    pub fn in_flight(
        name: impl Into<String>,
        records: impl IntoIterator<Item = (KeyGroup, impl AsRef<[u8]>)>,
    ) -> Result<Self> {
        let mut bytes = BytesMut::new();
        for (group, record) in records {
            put_item(&mut bytes, group, record.as_ref())?;
        }
        let opaque = Self::new(OpaqueRole::InFlight, name, bytes.freeze());
        Ok(Self { redistribution: Redistribution::ByKeyGroup, ..opaque })
    }

    /// Returns the records of [`in_flight`](Self::in_flight), each with its key group.
    ///
    /// # Errors
    /// As [`items`](Self::items); `Corrupt` if they do not decode.
    pub fn group_items(&self) -> Result<Vec<(KeyGroup, Bytes)>> {
        let mut items = Vec::new();
        for mut bytes in self.items()? {
            while !bytes.is_empty() {
                let item = take_item(&mut bytes);
                let damaged = || Error::corrupt("items of the opaque do not decode").with("name", &self.name);
                items.push(item.ok_or_else(damaged)?);
            }
        }
        Ok(items)
    }

    /// Returns it with the items of these key groups alone, if it is redistributed by them.
    ///
    /// # Errors
    /// As [`group_items`](Self::group_items).
    pub(crate) fn of_groups(self, groups: &KeyGroupSet) -> Result<Self> {
        if self.redistribution != Redistribution::ByKeyGroup {
            return Ok(self);
        }
        self.with_items(self.group_items()?.into_iter().filter(|(group, _)| groups.contains(*group)))
    }

    /// Returns it with these records in place of its own.
    ///
    /// # Errors
    /// As [`in_flight`](Self::in_flight).
    pub(super) fn with_items(&self, items: impl Iterator<Item = (KeyGroup, Bytes)>) -> Result<Self> {
        let Self { role, channel, .. } = *self;
        Ok(Self { role, channel, ..Self::in_flight(&self.name, items)? })
    }

    /// Checks that the items are of these key groups, if they are redistributed by them.
    ///
    /// # Errors
    /// As [`items_of`](Self::items_of).
    pub(crate) fn check_in_flight(&self, groups: &KeyGroupSet) -> Result<()> {
        if self.redistribution == Redistribution::ByKeyGroup { self.items_of(groups).map(drop) } else { Ok(()) }
    }

    /// Returns the records, which must be of these key groups.
    ///
    /// # Errors
    /// As [`group_items`](Self::group_items); `Corrupt`, with the group.
    pub(super) fn items_of(&self, groups: &KeyGroupSet) -> Result<Vec<(KeyGroup, Bytes)>> {
        let items = self.group_items()?;
        match items.iter().find(|(group, _)| !groups.contains(*group)) {
            None => Ok(items),
            Some((group, _)) => {
                let error = Error::corrupt("item is of a key group that the subtask does not own");
                Err(error.with("name", &self.name).with("group", group))
            }
        }
    }
}

impl Share {
    /// Adds records in flight to the opaque of the same name.
    ///
    /// * `more`: made by [`Opaque::with_items`], as all that are added, so that their contents can follow each other.
    pub(super) fn add_in_flight(&mut self, more: Opaque) {
        let identity = |it: &Opaque| (it.role, it.redistribution);
        let mut known = self.opaques.iter_mut();
        let known = known.find(|known| identity(known) == identity(&more) && known.name == more.name);
        match (known.map(|known| &mut known.content), &more.content) {
            (Some(OpaqueContent::Inline(bytes)), OpaqueContent::Inline(more)) => {
                let mut longer = std::mem::take(bytes).try_into_mut().unwrap_or_else(|bytes| bytes.as_ref().into());
                longer.extend_from_slice(more);
                *bytes = longer.freeze();
            }
            _ => self.opaques.push(more),
        }
    }
}

/// Writes a key group, the record's length and the record.
fn put_item(bytes: &mut BytesMut, group: KeyGroup, record: &[u8]) -> Result<()> {
    let length = u32::try_from(record.len());
    let length = length.map_err(|_| Error::limit("record in flight is too long").with("bytes", record.len()))?;
    bytes.put_u16_le(group.0);
    bytes.put_u32_le(length);
    bytes.put_slice(record);
    Ok(())
}

fn take_item(bytes: &mut Bytes) -> Option<(KeyGroup, Bytes)> {
    let (group, length) = (bytes.try_get_u16_le().ok()?, bytes.try_get_u32_le().ok()?);
    let length = usize::try_from(length).ok().filter(|length| *length <= bytes.len())?;
    Some((KeyGroup(group), bytes.split_to(length)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::id::Subtask;
    use crate::time::Timestamp;

    fn in_flight(name: &str, items: &[(u16, &str)]) -> Opaque {
        Opaque::in_flight(name, items.iter().map(|(group, item)| (KeyGroup(*group), item))).unwrap()
    }

    #[test]
    fn items_keep_their_groups_and_their_order() {
        let opaque = in_flight("a", &[(7, "x"), (3, ""), (7, "yz")]);
        let items: Vec<_> = opaque.group_items().unwrap();
        let item = |group, item: &'static str| (KeyGroup(group), Bytes::from_static(item.as_bytes()));
        assert_eq!(items, [item(7, "x"), item(3, ""), item(7, "yz")]);
        assert_eq!(
            opaque.of_groups(&[KeyGroup(7)].into_iter().collect()).unwrap(),
            in_flight("a", &[(7, "x"), (7, "yz")])
        );
        assert_eq!(in_flight("a", &[]).group_items().unwrap(), []);
    }

    #[test]
    fn items_that_do_not_decode_are_corrupt() {
        let whole = in_flight("a", &[(7, "x")]);
        let OpaqueContent::Inline(bytes) = &whole.content else { panic!("it is inline") };
        for length in 1..bytes.len() {
            let cut = Opaque { content: OpaqueContent::Inline(bytes.slice(..length)), ..whole.clone() };
            assert_eq!(cut.group_items().unwrap_err().kind(), ErrorKind::Corrupt);
        }
        let others = [KeyGroup(8)].into_iter().collect();
        assert_eq!(whole.check_in_flight(&others).unwrap_err().kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn a_share_keeps_opaques_of_one_name_apart_that_are_redistributed_differently() {
        let other = Opaque::new(OpaqueRole::InFlight, "a", "other");
        let mut share = Share {
            subtask: Subtask(0),
            groups: KeyGroupSet::all(8),
            watermark: Timestamp::MIN,
            times: Vec::new(),
            segments: Vec::new(),
            opaques: vec![other.clone()],
            heat: Vec::new(),
        };
        for item in ["x", "y"] {
            share.add_in_flight(in_flight("a", &[(7, item)]));
        }
        assert_eq!(share.opaques, [other, in_flight("a", &[(7, "x"), (7, "y")])]);
    }
}
