//! What the slots of a sink have emitted since the job started, as it lies in a checkpoint.
//!
//! ```text
//! version 1 (u8) | per slot: subtask (u32) | records (u64) | sum of the hashes of records (u128)
//! ```
//! Numbers are little-endian. A subtask lists its own slot; subtask 0 also lists those of subtasks that are gone, and keeps what it has of
//! them if they come back: a slot's sum is what all subtasks have of it together.

use std::collections::BTreeMap;

use bytes::{Buf as _, BufMut as _, Bytes};

use super::prepared::{Form, PreparedEpoch, Records, sink_of};
use crate::error::{Error, Result};
use crate::id::{Epoch, Subtask};
use crate::manifest::{Opaque, OpaqueRole, RecordSum};

const VERSION: u8 = 1;
const SLOT_BYTES: usize = 4 + 8 + 16;

/// What a checkpoint says of slots: what each has emitted, and the output that is listed, by epoch; `None` if it is staged.
pub(crate) type SlotAccounts = BTreeMap<Subtask, (RecordSum, BTreeMap<Epoch, Option<RecordSum>>)>;

/// The sums of slots.
pub(crate) type SlotSums = BTreeMap<Subtask, RecordSum>;

/// Returns the opaque of the sink `name`.
pub(super) fn to_opaque(name: &str, sums: &SlotSums) -> Opaque {
    let mut bytes = vec![VERSION];
    for (subtask, sum) in sums {
        bytes.put_u32_le(subtask.0);
        bytes.put_u64_le(sum.records);
        bytes.put_u128_le(sum.hash);
    }
    Opaque::new(OpaqueRole::SinkSums, name, bytes)
}

/// Returns the sums of a sink's slots.
///
/// * `opaques`: those of any number of subtasks.
///
/// # Errors
/// `Corrupt`; `Version` if a later version wrote them.
pub(crate) fn slot_sums(name: &str, opaques: &[Opaque]) -> Result<SlotSums> {
    let mut sums = SlotSums::new();
    for opaque in opaques.iter().filter(|opaque| opaque.role == OpaqueRole::SinkSums && opaque.name == name) {
        for item in opaque.items()? {
            for (subtask, sum) in parse(item).map_err(|error| error.with("sink", name))? {
                let all = sums.entry(subtask).or_default();
                *all = *all + sum;
            }
        }
    }
    Ok(sums)
}

/// Returns what the opaques of any number of subtasks say of each sink and slot: what it has emitted, and the epochs whose output is
/// listed.
///
/// # Errors
/// As [`slot_sums`].
pub(crate) fn stored_sums(opaques: &[Opaque]) -> Result<BTreeMap<String, SlotAccounts>> {
    let mut sinks: BTreeMap<String, SlotAccounts> = BTreeMap::new();
    for opaque in opaques.iter().filter(|opaque| opaque.role == OpaqueRole::SinkSums) {
        if !sinks.contains_key(&opaque.name) {
            let sums = slot_sums(&opaque.name, opaques)?.into_iter();
            sinks.insert(opaque.name.clone(), sums.map(|(subtask, sum)| (subtask, (sum, BTreeMap::new()))).collect());
        }
    }
    for ((form, sink), opaque) in opaques.iter().filter_map(|opaque| Some((sink_of(opaque)?, opaque))) {
        for bytes in opaque.items()? {
            let PreparedEpoch { subtask, epoch, records, .. } = PreparedEpoch::parse(&bytes)?;
            let account = sinks.get_mut(sink).and_then(|slots| slots.get_mut(&subtask));
            if let Some((_, listed)) = account.filter(|_| !records.is_empty()) {
                listed.insert(epoch, (form == Form::Records).then(|| sum_of(&records)));
            }
        }
    }
    Ok(sinks)
}

fn sum_of(records: &Records) -> RecordSum {
    let mut sum = RecordSum::default();
    records.iter().for_each(|record| sum.add(&record));
    sum
}

fn parse(mut bytes: Bytes) -> Result<Vec<(Subtask, RecordSum)>> {
    let version = bytes.try_get_u8().map_err(|_| damaged())?;
    if version != VERSION {
        return Err(Error::version("sums of a sink have an unknown version").with("version", version));
    }
    if !bytes.len().is_multiple_of(SLOT_BYTES) {
        return Err(damaged());
    }
    let mut sums = Vec::new();
    while bytes.has_remaining() {
        let subtask = Subtask(bytes.get_u32_le());
        sums.push((subtask, RecordSum { records: bytes.get_u64_le(), hash: bytes.get_u128_le() }));
    }
    Ok(sums)
}

fn damaged() -> Error {
    Error::corrupt("stored sums of a sink are damaged")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::manifest::OpaqueContent;

    fn sums(slots: &[u32]) -> SlotSums {
        let sum = |slot: u32| RecordSum { records: 3 + u64::from(slot), hash: u128::MAX - u128::from(slot) };
        slots.iter().map(|slot| (Subtask(*slot), sum(*slot))).collect()
    }

    #[test]
    fn sums_come_back_from_all_subtasks() {
        let opaques =
            [to_opaque("out", &sums(&[0, 2])), to_opaque("out", &sums(&[1])), to_opaque("other", &sums(&[0]))];
        assert_eq!(slot_sums("out", &opaques).unwrap(), sums(&[0, 1, 2]));
        assert_eq!(slot_sums("none", &opaques).unwrap(), SlotSums::new());
        let shared = slot_sums("out", &[to_opaque("out", &sums(&[0, 1])), to_opaque("out", &sums(&[1]))]).unwrap();
        assert_eq!(shared[&Subtask(1)].records, 8, "two subtasks have parts of a slot's sum");
    }

    #[test]
    fn damaged_sums_are_refused() {
        let OpaqueContent::Inline(bytes) = to_opaque("out", &sums(&[0, 1])).content else { panic!("inline") };
        for cut in (0..bytes.len()).filter(|cut| !matches!(cut, 1 | 29)) {
            assert_eq!(parse(bytes.slice(..cut)).unwrap_err().kind(), ErrorKind::Corrupt, "{cut}");
        }
        assert_eq!(parse(Bytes::from_static(&[2])).unwrap_err().kind(), ErrorKind::Version);
    }
}
