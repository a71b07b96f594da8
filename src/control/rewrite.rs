//! Which data objects are rewritten. An object is deleted once no checkpoint refers to it, so a few key groups that never
//! change could keep a whole pack stored. Giving these groups new bases elsewhere frees it.

use crate::id::ObjectId;
use crate::segment::sum;

/// How a checkpoint uses a data object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectUse {
    /// The object.
    pub id: ObjectId,
    /// Its length.
    pub bytes: u64,
    /// Those of its bytes that the next checkpoint will need. Estimated; at most `bytes`.
    pub live_bytes: u64,
}

/// Rewriting begins when what is stored exceeds the live bytes by this share of them. The bound is twice the live bytes; a
/// rewrite takes effect one or two checkpoints later, and the ordinary turn of bases alone comes to 15/8.
const EXCESS: (u64, u64) = (7, 8);

/// At most this share of the live bytes is rewritten for a checkpoint, but always one object.
const QUOTA: u64 = 8;

/// Returns the objects to rewrite: those with the smallest live share, until the others are within the bound.
///
/// Objects that are more than half live stay: rewriting them would cost more than it frees.
#[must_use]
pub fn rewrites_due(objects: &[ObjectUse]) -> Vec<ObjectId> {
    let live = sum(objects.iter().map(|object| object.live_bytes));
    let mut stored = sum(objects.iter().map(|object| object.bytes));
    let most = live.saturating_add(live / EXCESS.1 * EXCESS.0);
    // What has no live rows holds opaques, which no rewrite moves.
    let is_wasteful = |object: &&ObjectUse| object.live_bytes > 0 && object.live_bytes <= object.bytes / 2;
    let mut wasteful: Vec<_> = objects.iter().filter(is_wasteful).collect();
    // By the live share, compared without dividing.
    wasteful.sort_by(|a, b| {
        let share = |this: &ObjectUse, other: &ObjectUse| u128::from(this.live_bytes) * u128::from(other.bytes);
        share(a, b).cmp(&share(b, a)).then(a.id.cmp(&b.id))
    });
    let (mut due, mut rewritten) = (Vec::new(), 0);
    for object in wasteful {
        if stored <= most || (rewritten > 0 && rewritten + object.live_bytes > live / QUOTA) {
            break;
        }
        stored = stored.saturating_sub(object.bytes - object.live_bytes);
        rewritten += object.live_bytes;
        due.push(object.id);
    }
    due
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Attempt;

    fn due(objects: &[(u64, u64)]) -> Vec<u8> {
        let named = |(name, &(bytes, live_bytes)): (u8, &(u64, u64))| {
            let id = ObjectId { attempt: Attempt(1), random: [name; 16] };
            ObjectUse { id, bytes, live_bytes }
        };
        let objects: Vec<_> = (0..).zip(objects).map(named).collect();
        rewrites_due(&objects).into_iter().map(|id| id.random[0]).collect()
    }

    #[test]
    fn nothing_is_rewritten_within_the_bound() {
        assert!(due(&[]).is_empty());
        assert!(due(&[(1000, 1000), (870, 10)]).is_empty());
        assert_eq!(due(&[(1000, 1000), (900, 10)]), [1]);
    }

    #[test]
    fn the_emptiest_goes_first_and_no_more_than_needed() {
        assert_eq!(due(&[(1000, 900), (500, 100), (500, 1), (400, 180)]), [2]);
        assert_eq!(due(&[(1000, 900), (500, 100), (900, 1), (800, 80)]), [2, 3]);
    }

    #[test]
    fn a_checkpoint_rewrites_an_eighth_but_always_one_object() {
        let cold = (1000, 100);
        assert_eq!(due(&[(800, 800), cold, cold, cold, cold]), [1]);
        assert_eq!(due(&[(8000, 8000), (12_000, 1200), (12_000, 600), (12_000, 500)]), [3, 2]);
        assert_eq!(due(&[(10_000, 5000)]), [0]);
    }

    #[test]
    fn what_is_mostly_live_stays() {
        assert_eq!(due(&[(1000, 501), (1000, 501), (1000, 1), (1000, 0)]), [2]);
        assert!(due(&[(1000, 510), (1000, 510), (10, 10)]).is_empty());
    }
}
