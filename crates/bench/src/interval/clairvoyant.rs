//! The best schedule given the future load and the true parameters, but not the failure times.

use super::world::World;

/// The search stops once replay alone costs this many times the best interval found so far.
const REPLAY_CUTOFF: f64 = 6.0;

/// Returns, for each of `points` moments spread over the trace as an interval's start, the interval's best end.
///
/// Backward dynamic programming: an interval from i to j costs its checkpoint at j and the expected replay of failures
/// in between. Prefix sums make the cost of each pair O(1).
#[expect(clippy::indexing_slicing, reason = "every list has a place for each point and one for the end")]
pub(super) fn schedule(world: &World, points: usize, longest: f64) -> Vec<f64> {
    let step = world.end() / points as f64;
    let at = |point: usize| point as f64 * step;
    let value = world.value_of_backlog();
    let (mut weighted, mut plain) = (vec![0.0; points + 1], vec![0.0; points + 1]);
    for point in 0..points {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a second of the trace")]
        let second = at(point) as usize;
        let per_record = step * world.hazard[second] * value[second];
        weighted[point + 1] = weighted[point] + per_record * world.records_at(at(point) + 0.5 * step);
        plain[point + 1] = plain[point] + per_record;
    }
    let records: Vec<f64> = (0..=points).map(|point| world.records_at(at(point))).collect();
    let updates: Vec<f64> = records.iter().map(|records| world.updates_at(*records)).collect();
    let (mut least, mut ends) = (vec![0.0; points + 1], vec![f64::INFINITY; points + 1]);
    let (fixed, per_byte) = world.job.cost;
    for from in (0..points).rev() {
        let replay = |to: usize| weighted[to] - weighted[from] - records[from] * (plain[to] - plain[from]);
        // An interval that runs to the end needs no checkpoint.
        let mut best = (replay(points), f64::INFINITY);
        let mut own = best.0;
        for to in from + 1..points {
            let lost = replay(to);
            // Beyond this, several of the best intervals cost less than one longer interval.
            if lost > REPLAY_CUTOFF * own || at(to) - at(from) > longest {
                break;
            }
            let bytes = world.job.row_bytes * world.distinct(updates[to] - updates[from]);
            let alone = fixed + per_byte * bytes + lost;
            if alone + least[to] < best.0 {
                own = alone;
                best = (alone + least[to], at(to));
            }
        }
        (least[from], ends[from]) = best;
    }
    ends
}
