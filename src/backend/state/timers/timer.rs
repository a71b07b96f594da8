//! A timer in memory: its time, and the key, namespace and routing hash of its row in one run of bytes.

use std::cmp::Ordering;

use crate::error::broken;
use crate::key_group::KeyGroup;
use crate::time::Timestamp;

/// Bytes that a timer holds inline: enough for a key of 16 bytes and a window of 16, say.
const INLINE_BYTES: usize = 34;

/// A timer. Timers sort by time, then by group, key and namespace.
#[derive(Debug, Clone)]
pub(super) struct Timer {
    pub(super) at: Timestamp,
    packed: Packed,
}

/// The group, and the bytes of key, namespace and routing hash, in this order.
#[derive(Debug, Clone)]
enum Packed {
    Short { group: KeyGroup, key: u8, namespace: u8, routed: bool, bytes: [u8; INLINE_BYTES] },
    Long { group: KeyGroup, key: u32, namespace: u32, routed: bool, bytes: Box<[u8]> },
}

/// A timer's place without its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Parts<'a> {
    pub(super) group: KeyGroup,
    pub(super) key: &'a [u8],
    pub(super) namespace: &'a [u8],
    pub(super) routing: Option<u64>,
}

const _: () = assert!(size_of::<Timer>() == 48);

impl Timer {
    /// Returns the timer of a row that a backend accepted, so key and namespace are at most 65,535 bytes.
    pub(super) fn new(at: Timestamp, parts: Parts<'_>) -> Self {
        let Parts { group, key, namespace, routing } = parts;
        let routed = routing.is_some();
        let routing = routing.map(u64::to_le_bytes);
        let routing = routing.as_ref().map_or(&[][..], |bytes| bytes.as_slice());
        let all = [key, namespace, routing];
        let short = (u8::try_from(key.len()), u8::try_from(namespace.len()));
        let packed = match short {
            (Ok(key), Ok(namespace)) if all.map(<[u8]>::len).iter().sum::<usize>() <= INLINE_BYTES => {
                let mut bytes = [0; INLINE_BYTES];
                let mut rest = bytes.as_mut_slice();
                for part in all {
                    let Some((to, behind)) = rest.split_at_mut_checked(part.len()) else { malformed() };
                    to.copy_from_slice(part);
                    rest = behind;
                }
                Packed::Short { group, key, namespace, routed, bytes }
            }
            _ => {
                let length = |part: &[u8]| u32::try_from(part.len()).unwrap_or_else(|_| malformed());
                let (key, namespace) = (length(key), length(namespace));
                Packed::Long { group, key, namespace, routed, bytes: all.concat().into() }
            }
        };
        Self { at, packed }
    }

    pub(super) fn parts(&self) -> Parts<'_> {
        let (group, key, namespace, routed, bytes) = match &self.packed {
            Packed::Short { group, key, namespace, routed, bytes } => {
                (*group, usize::from(*key), usize::from(*namespace), *routed, bytes.as_slice())
            }
            Packed::Long { group, key, namespace, routed, bytes } => {
                (*group, *key as usize, *namespace as usize, *routed, &**bytes)
            }
        };
        let Some((key, rest)) = bytes.split_at_checked(key) else { malformed() };
        let Some((namespace, rest)) = rest.split_at_checked(namespace) else { malformed() };
        let hash = || rest.first_chunk().map_or_else(|| malformed(), |bytes| u64::from_le_bytes(*bytes));
        Parts { group, key, namespace, routing: routed.then(hash) }
    }

    pub(super) fn group(&self) -> KeyGroup {
        match self.packed {
            Packed::Short { group, .. } | Packed::Long { group, .. } => group,
        }
    }

    /// Compares timers of the same time. Out of line: most have different times.
    #[inline(never)]
    fn cmp_parts(&self, other: &Self) -> Ordering {
        // Comparing the routing hash changes nothing: it comes last in the parts and is a function of the key.
        self.parts().cmp(&other.parts())
    }

    /// Returns the bytes that the timer holds on the heap.
    pub(super) fn boxed_bytes(&self) -> u64 {
        match &self.packed {
            Packed::Short { .. } => 0,
            Packed::Long { bytes, .. } => bytes.len() as u64,
        }
    }
}

#[cold]
fn malformed() -> ! {
    broken("a timer holds the bytes of all its parts")
}

impl Ord for Timer {
    #[inline]
    fn cmp(&self, other: &Self) -> Ordering {
        if self.at == other.at { self.cmp_parts(other) } else { self.at.cmp(&other.at) }
    }
}

impl PartialOrd for Timer {
    #[inline]
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Timer {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Timer {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_any_length_come_back() {
        let bytes = [7; 70_000];
        for (key, namespace) in [(0, 0), (16, 16), (26, 0), (34, 0), (0, 35), (1, 300), (65_535, 65_535)] {
            for routing in [None, Some(0), Some(u64::MAX)] {
                let parts = Parts { group: KeyGroup(9), key: &bytes[..key], namespace: &bytes[..namespace], routing };
                let timer = Timer::new(Timestamp::MIN, parts);
                assert_eq!((timer.parts(), timer.group()), (parts, parts.group));
                let short = key + namespace + routing.map_or(0, |_| 8) <= INLINE_BYTES;
                assert_eq!(timer.boxed_bytes() == 0, short);
            }
        }
    }

    #[test]
    fn timers_sort_by_time_then_group_key_and_namespace() {
        let timer = |at, group, key: &'static [u8], namespace: &'static [u8]| {
            let parts = Parts { group: KeyGroup(group), key, namespace, routing: None };
            Timer::new(Timestamp::from_millis(at), parts)
        };
        let long = &[b'a'; 40];
        let sorted = [
            timer(i64::MIN, 9, b"z", b"z"),
            timer(-1, 9, b"z", b"z"),
            timer(0, 1, b"z", b"z"),
            timer(0, 2, b"a", b"b"),
            timer(0, 2, long, b""),
            timer(0, 2, b"ab", b"a"),
            timer(0, 2, b"ab", b"b"),
            timer(i64::MAX, 0, b"", b""),
        ];
        assert!(sorted.is_sorted_by(|a, b| a < b));
    }
}
