//! I11: the calls on a key, as observed by callers, are linearizable for a register that accepts a write only while
//! empty.
//!
//! The search is Wing and Gong's, with Lowe's cache of visited states. It knows when calls began and returned, but not
//! when they took effect.

use std::collections::BTreeSet;
use std::ops::Range;

use bytes::Bytes;

/// A call's effect, as far as its caller knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Did {
    /// May have created this object.
    Put(Bytes),
    /// May have deleted the object.
    Delete,
    /// Returned these bytes of this range, or found nothing.
    Read(Option<(Range<usize>, Bytes)>),
}

/// A call on one key.
#[derive(Debug, Clone)]
pub(crate) struct Told {
    pub did: Did,
    /// The call's start, in the global order of events.
    pub began: u64,
    /// The call's return; `None` if it never returned, so that it may take effect at any later time, or never.
    pub done: Option<u64>,
}

/// The calls already placed, and the register's content: the index of a put.
type State = (Vec<bool>, Option<usize>);

/// Returns whether the calls on a key are linearizable.
pub(crate) fn i11_is_linearizable(calls: &[Told]) -> bool {
    // A write that returned may have been delivered twice.
    let again = calls.iter().filter(|call| call.done.is_some() && !matches!(call.did, Did::Read(_)));
    let calls: Vec<Told> = calls.iter().cloned().chain(again.map(|call| Told { done: None, ..call.clone() })).collect();
    let mut seen = BTreeSet::new();
    let mut open: Vec<State> = vec![(vec![false; calls.len()], None)];
    while let Some((mut placed, holds)) = open.pop() {
        // Reads change nothing, so any possible read is placed at once.
        while let Some(at) = candidates(&calls, &placed).into_iter().find(|at| reads(&calls, *at, holds)) {
            placed[at] = true;
        }
        if calls.iter().zip(&placed).all(|(call, placed)| *placed || call.done.is_none()) {
            return true;
        }
        if !seen.insert((placed.clone(), holds)) {
            continue;
        }
        let writes = candidates(&calls, &placed).into_iter();
        for at in writes.filter(|at| !matches!(calls[*at].did, Did::Read(_))) {
            let after = match calls[at].did {
                Did::Put(_) if holds.is_none() => Some(at),
                Did::Delete => None,
                _ => continue,
            };
            let mut placed = placed.clone();
            placed[at] = true;
            open.push((placed, after));
        }
    }
    false
}

/// Returns the calls that may come next: those begun before any other unplaced call returned.
fn candidates(calls: &[Told], placed: &[bool]) -> Vec<usize> {
    let left = || calls.iter().enumerate().filter(|(at, _)| !placed[*at]);
    let first_done = left().filter_map(|(_, call)| call.done).min().unwrap_or(u64::MAX);
    left().filter(|(_, call)| call.began < first_done).map(|(at, _)| at).collect()
}

/// Returns whether the call is a read of the register's current content.
fn reads(calls: &[Told], at: usize, holds: Option<usize>) -> bool {
    match (&calls[at].did, holds.map(|at| &calls[at].did)) {
        (Did::Read(None), None) => true,
        (Did::Read(Some((range, bytes))), Some(Did::Put(held))) => held.get(range.clone()) == Some(&bytes[..]),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(text: &'static str, began: u64, done: Option<u64>) -> Told {
        Told { did: Did::Put(text.into()), began, done }
    }

    fn read(text: Option<&'static str>, began: u64, done: u64) -> Told {
        Told { did: Did::Read(text.map(|text| (0..text.len(), text.into()))), began, done: Some(done) }
    }

    fn delete(began: u64, done: u64) -> Told {
        Told { did: Did::Delete, began, done: Some(done) }
    }

    #[test]
    fn what_a_register_can_do_is_accepted() {
        for calls in [
            vec![],
            vec![read(None, 1, 2), put("a", 3, Some(4)), read(Some("a"), 5, 6)],
            vec![put("a", 1, Some(6)), read(None, 2, 3), read(Some("a"), 4, 5)],
            vec![put("a", 1, None), put("b", 2, Some(3)), read(Some("b"), 4, 5)],
            vec![put("a", 1, Some(2)), delete(3, 4), read(None, 5, 6), put("b", 7, None), read(Some("b"), 8, 9)],
            vec![put("a", 1, Some(2)), delete(3, 4), read(Some("a"), 5, 6)],
        ] {
            assert!(i11_is_linearizable(&calls), "{calls:?}");
        }
    }

    #[test]
    fn what_it_cannot_is_refused() {
        for calls in [
            vec![read(Some("a"), 1, 2)],
            vec![put("a", 1, Some(2)), read(None, 3, 4)],
            vec![put("a", 1, Some(2)), put("b", 3, Some(4))],
            vec![put("a", 1, None), put("b", 1, None), read(Some("a"), 2, 3), read(Some("b"), 4, 5)],
            vec![put("a", 1, None), read(Some("a"), 2, 3), read(None, 4, 5)],
            vec![read(Some("a"), 1, 2), put("a", 3, Some(4))],
        ] {
            assert!(!i11_is_linearizable(&calls), "{calls:?}");
        }
    }
}
