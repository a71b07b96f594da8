//! The contents of one operator state, kept in the stored encoding so that a barrier only concatenates.
//!
//! Invariant: damaged bytes are an error, and restored contents are written again byte for byte.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::label::{Label, OperatorStateKind};
use crate::codec::bytes::{Reader, put_length_delimited};
use crate::error::{Error, Result};
use crate::manifest::{Opaque, OpaqueContent, OpaqueRole};

/// Encoded items in one run of bytes.
#[derive(Debug, Default)]
pub(super) struct Items {
    bytes: Vec<u8>,
    starts: Vec<usize>,
}

impl Items {
    pub(super) fn len(&self) -> usize {
        self.starts.len()
    }

    pub(super) fn push(&mut self, item: &[u8]) {
        self.starts.push(self.bytes.len());
        self.bytes.extend_from_slice(item);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let ends = self.starts.iter().skip(1).copied().chain([self.bytes.len()]);
        self.starts.iter().zip(ends).map(|(&start, end)| self.bytes.get(start..end).unwrap_or_default())
    }
}

/// Encoded values by encoded key.
pub(super) type Entries = BTreeMap<Vec<u8>, Vec<u8>>;

/// The contents of an operator state.
#[derive(Debug)]
pub(super) enum Content {
    /// Those of a list.
    Items(Items),
    /// Those of a broadcast state.
    Entries(Entries),
}

impl Content {
    fn empty(kind: OperatorStateKind) -> Self {
        match kind {
            OperatorStateKind::List | OperatorStateKind::UnionList => Self::Items(Items::default()),
            OperatorStateKind::Broadcast => Self::Entries(Entries::new()),
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::Items(items) => items.len() == 0,
            Self::Entries(entries) => entries.is_empty(),
        }
    }
}

/// One operator state.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) label: Label,
    content: Content,
    /// The opaque of the last barrier; `None` once the content changes.
    cached: Option<Opaque>,
}

impl Slot {
    pub(super) fn new(label: Label) -> Self {
        Self { content: Content::empty(label.kind), label, cached: None }
    }

    pub(super) fn content(&self) -> &Content {
        &self.content
    }

    /// Returns the content for a change, and drops the cached opaque.
    pub(super) fn content_mut(&mut self) -> &mut Content {
        self.cached = None;
        &mut self.content
    }

    /// Adds the content of a restored opaque of this state.
    ///
    /// # Errors
    /// `Corrupt` if the opaque does not fit the state's kind or is damaged, or a broadcast state has two opaques.
    pub(super) fn restore(&mut self, opaque: &Opaque) -> Result<()> {
        if opaque.redistribution != self.label.kind.redistribution() {
            return Err(Error::corrupt("operator state has the redistribution of another kind"));
        }
        match self.content_mut() {
            Content::Items(items) => opaque.items()?.iter().for_each(|item| items.push(item)),
            Content::Entries(entries) if entries.is_empty() => *entries = decode_entries(opaque)?,
            Content::Entries(_) => return Err(Error::corrupt("broadcast state occurs twice")),
        }
        Ok(())
    }

    /// Returns the opaque that carries the state; `None` if it is empty, because an opaque without offsets means one item.
    pub(super) fn opaque(&mut self) -> Option<Opaque> {
        if self.content.is_empty() {
            return None;
        }
        let Self { label, content, cached } = self;
        Some(cached.get_or_insert_with(|| encode(label, content)).clone())
    }
}

fn encode(label: &Label, content: &Content) -> Opaque {
    let (bytes, item_offsets) = match content {
        Content::Items(items) => (items.bytes.clone(), items.starts.iter().map(|&start| start as u64).collect()),
        Content::Entries(entries) => {
            let mut bytes = Vec::new();
            for (key, value) in entries {
                put_length_delimited(&mut bytes, key);
                put_length_delimited(&mut bytes, value);
            }
            (bytes, Vec::new())
        }
    };
    opaque(label.kind, label.to_string(), bytes, item_offsets)
}

/// Returns an opaque that carries operator state of `kind`.
pub(super) fn opaque(kind: OperatorStateKind, name: String, bytes: Vec<u8>, item_offsets: Vec<u64>) -> Opaque {
    Opaque {
        role: OpaqueRole::Operator,
        name,
        redistribution: kind.redistribution(),
        channel: None,
        item_offsets,
        content: OpaqueContent::Inline(Bytes::from(bytes)),
    }
}

fn decode_entries(opaque: &Opaque) -> Result<Entries> {
    if !opaque.item_offsets.is_empty() {
        return Err(Error::corrupt("broadcast state has items"));
    }
    let bytes = opaque.items()?.concat();
    let mut reader = Reader::new(&bytes);
    let mut entries = Entries::new();
    while reader.remaining() > 0 {
        let key = reader.length_delimited(usize::MAX)?;
        if entries.last_key_value().is_some_and(|(last, _)| last.as_slice() >= key) {
            return Err(reader.corrupt("keys of a broadcast state are out of order"));
        }
        let value = reader.length_delimited(usize::MAX)?;
        entries.insert(key.to_vec(), value.to_vec());
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::test_runner::RngSeed;

    use super::*;
    use crate::codec::bytes::tests::{any_damage, damaged};
    use crate::codec::schema::Schema;
    use crate::error::ErrorKind;

    fn slot(kind: OperatorStateKind) -> Slot {
        Slot::new(Label { kind, schemas: vec![Schema::new("bytes")], name: "x".into() })
    }

    fn broadcast(bytes: &[u8]) -> Opaque {
        opaque(OperatorStateKind::Broadcast, "x".into(), bytes.to_vec(), vec![])
    }

    fn restored(opaque: &Opaque) -> Result<Slot> {
        let mut slot = slot(OperatorStateKind::Broadcast);
        slot.restore(opaque).map(|()| slot)
    }

    #[test]
    fn lists_keep_empty_items_apart() {
        let mut first = slot(OperatorStateKind::List);
        assert_eq!(first.opaque(), None);
        for items in [&[b"".as_slice()][..], &[b"ab", b"", b""]] {
            let Content::Items(list) = first.content_mut() else { panic!("a list") };
            items.iter().for_each(|item| list.push(item));
            let mut second = slot(OperatorStateKind::List);
            second.restore(&first.opaque().unwrap()).unwrap();
            let (Content::Items(a), Content::Items(b)) = (first.content(), second.content()) else { panic!("lists") };
            assert!(a.iter().eq(b.iter()) && a.len() == b.len());
            assert_eq!(second.opaque(), first.opaque());
        }
    }

    #[test]
    fn an_unchanged_state_shares_its_bytes_with_the_last_barrier() {
        let mut slot = slot(OperatorStateKind::List);
        let Content::Items(list) = slot.content_mut() else { panic!("a list") };
        list.push(b"abc");
        let bytes = |opaque: Option<Opaque>| match opaque.unwrap().content {
            OpaqueContent::Inline(bytes) => bytes,
            OpaqueContent::Stored(_) => panic!("inline"),
        };
        let first = bytes(slot.opaque());
        assert_eq!(first.as_ptr(), bytes(slot.opaque()).as_ptr(), "shared, not copied");
        let Content::Items(list) = slot.content_mut() else { panic!("a list") };
        list.push(b"d");
        assert_eq!(bytes(slot.opaque()), "abcd");
    }

    #[test]
    fn entries_have_one_valid_encoding() {
        let bytes = [1, b'a', 2, b'x', b'y', 2, b'a', b'a', 0];
        assert_eq!(
            restored(&broadcast(&bytes)).unwrap().opaque(),
            Some(broadcast(&bytes)).map(|o| {
                let name = slot(OperatorStateKind::Broadcast).label.to_string();
                Opaque { name, ..o }
            })
        );
        for bad in [
            &[1][..],
            &[1, b'a'],
            &[1, b'a', 2, b'x'],
            &[1, b'a', 0, 1, b'a', 0],
            &[1, b'b', 0, 1, b'a', 0],
            &[0x80, 0, 0],
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 0],
        ] {
            assert_eq!(restored(&broadcast(bad)).unwrap_err().kind(), ErrorKind::Corrupt, "{bad:?}");
        }
        let twice = restored(&broadcast(&bytes)).unwrap().restore(&broadcast(&bytes));
        assert_eq!(twice.unwrap_err().kind(), ErrorKind::Corrupt);
        let items = Opaque { item_offsets: vec![0], ..broadcast(&bytes) };
        assert_eq!(restored(&items).unwrap_err().kind(), ErrorKind::Corrupt);
        let split = opaque(OperatorStateKind::List, "x".into(), bytes.to_vec(), vec![0]);
        assert_eq!(restored(&split).unwrap_err().kind(), ErrorKind::Corrupt);
    }

    proptest! {
        #![proptest_config(ProptestConfig { rng_seed: RngSeed::Fixed(7), failure_persistence: None, ..Default::default() })]

        #[test]
        fn damage_is_corrupt_or_other_entries_in_a_valid_encoding(
            entries in prop::collection::btree_map(any::<Vec<u8>>(), any::<Vec<u8>>(), 1..6),
            damage in any_damage(),
        ) {
            let mut first = slot(OperatorStateKind::Broadcast);
            *first.content_mut() = Content::Entries(entries);
            let OpaqueContent::Inline(bytes) = first.opaque().unwrap().content else { panic!("inline") };
            let bytes = damaged(&bytes, &damage);
            match restored(&broadcast(&bytes)) {
                Ok(mut slot) => {
                    let OpaqueContent::Inline(again) = slot.opaque().map_or_else(|| broadcast(b"").content, |o| o.content)
                    else { panic!("inline") };
                    prop_assert_eq!(again, bytes);
                }
                Err(error) => prop_assert_eq!(error.kind(), ErrorKind::Corrupt),
            }
        }
    }
}
