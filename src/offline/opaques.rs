//! Joining the opaques that a rescale brought together in one subtask: a subtask manifest has at most one opaque per
//! role and name.

use std::collections::BTreeMap;

use bytes::{BufMut as _, BytesMut};

use crate::error::{Error, Result};
use crate::manifest::{Opaque, OpaqueContent, OpaqueRole};

/// Joins opaques with the same role and name, appending their items in order.
///
/// # Errors
/// `Usage` if one is not inline; `Config` if they belong to different channels, or are redistributed differently, which only their
/// engine can merge.
pub(super) fn joined(opaques: Vec<Opaque>) -> Result<Vec<Opaque>> {
    let mut groups: BTreeMap<(OpaqueRole, String), Vec<Opaque>> = BTreeMap::new();
    for opaque in opaques {
        groups.entry((opaque.role, opaque.name.clone())).or_default().push(opaque);
    }
    groups.into_values().map(join).collect()
}

fn join(mut opaques: Vec<Opaque>) -> Result<Opaque> {
    let Some(last) = opaques.pop() else { return Err(Error::usage("no opaques to join")) };
    if opaques.is_empty() {
        return Ok(last);
    }
    if opaques.iter().any(|opaque| opaque.channel != last.channel) {
        let error = Error::config("opaques of one name were on different channels: keep the parallelism");
        return Err(error.with("name", &last.name));
    }
    if opaques.iter().any(|opaque| opaque.redistribution != last.redistribution) {
        let error = Error::config("opaques of one name are redistributed differently: keep the parallelism");
        return Err(error.with("name", &last.name));
    }
    let (mut bytes, mut item_offsets) = (BytesMut::new(), Vec::new());
    for item in opaques.iter().chain([&last]).map(Opaque::items).collect::<Result<Vec<_>>>()?.concat() {
        item_offsets.push(bytes.len() as u64);
        bytes.put(item);
    }
    Ok(Opaque { item_offsets, content: OpaqueContent::Inline(bytes.freeze()), ..last })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::manifest::Redistribution;

    fn opaque(name: &str, channel: Option<u32>, content: &'static [u8], item_offsets: Vec<u64>) -> Opaque {
        let content = OpaqueContent::Inline(Bytes::from_static(content));
        let redistribution = Redistribution::Split;
        Opaque { role: OpaqueRole::Operator, name: name.into(), redistribution, channel, item_offsets, content }
    }

    #[test]
    fn joined_items_stay_separate_and_in_order() {
        let alone = opaque("alone", None, b"x", vec![]);
        let list = [opaque("list", None, b"abc", vec![0, 1]), opaque("list", None, b"", vec![])];
        let joined = joined([list.as_slice(), std::slice::from_ref(&alone)].concat()).unwrap();
        assert_eq!(joined[0], alone);
        assert_eq!(joined[1].items().unwrap(), ["a", "bc", ""]);
        assert_eq!(joined.len(), 2);
    }

    #[test]
    fn opaques_of_different_channels_are_not_joined() {
        let mixed = vec![opaque("x", Some(1), b"", vec![]), opaque("x", Some(2), b"", vec![])];
        assert!(joined(mixed).is_err());
    }
}
