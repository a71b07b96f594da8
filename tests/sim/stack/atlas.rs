//! Damage at rest, and its cost. Each object has one copy, so damage may cost the checkpoints that reach the object: each
//! of them is restored correctly or refused with the object's name, all others are restored.

use std::collections::{BTreeMap, BTreeSet};

use alluvium::Error;

use super::judge::Judge;
use super::shadow::{self, Fixed};
use alluvium_testkit::sim::{Objects, Rng};

/// Returns, per key of a manifest or data object, the checkpoints that need the object.
pub(crate) fn chart(judge: &Judge) -> BTreeMap<String, BTreeSet<u64>> {
    let mut chart: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
    for manifest in judge.oracle.live().into_values().filter(|manifest| !manifest.is_claim()) {
        let data = manifest.objects.iter().map(|object| format!("job/data/{}", object.name));
        for key in data.chain([format!("job/manifest/{:020}", manifest.seq)]) {
            chart.entry(key).or_default().insert(manifest.seq);
        }
    }
    chart
}

/// Damages a copy of the store in one way, and restores every live checkpoint.
pub(crate) fn damage(judge: &Judge, objects: &Objects, fixed: Fixed, rng: &mut Rng) {
    let chart = chart(judge);
    let newest = format!("job/manifest/{:020}", judge.oracle.live().keys().max().copied().unwrap_or(0));
    // The newest manifest is exempt: without it, the store looks as before its commit, and no check can notice.
    let keys: Vec<&String> = chart.keys().filter(|key| **key != newest).collect();
    let Some(victim) = (!keys.is_empty()).then(|| keys[rng.index(keys.len())]) else { return };
    let mut damaged = objects.clone();
    let mut victims = vec![victim.clone()];
    let bytes = damaged[victim].bytes.to_vec();
    match rng.within(0, 3) {
        0 => {
            judge.sim.hit("damage: a byte flipped");
            let mut bytes = bytes;
            let at = rng.index(bytes.len());
            bytes[at] ^= 1 << rng.within(0, 7);
            set(&mut damaged, victim, bytes);
        }
        1 => {
            judge.sim.hit("damage: an object cut");
            set(&mut damaged, victim, bytes[..rng.index(bytes.len())].to_vec());
        }
        2 => {
            judge.sim.hit("damage: an object vanished");
            damaged.remove(victim);
        }
        _ => {
            let other = keys[rng.index(keys.len())];
            if damaged[other].bytes == bytes {
                return;
            }
            judge.sim.hit("damage: two objects swapped");
            let others = damaged[other].bytes.to_vec();
            set(&mut damaged, victim, others);
            set(&mut damaged, other, bytes);
            victims.push(other.clone());
        }
    }
    let affected: BTreeSet<u64> = victims.iter().flat_map(|key| chart[key].clone()).collect();
    let restorable = restore_all(judge, &damaged, fixed, rng, &victims, &affected);
    check_verdict(judge, damaged, &victims, &restorable);
}

fn set(objects: &mut Objects, key: &str, bytes: Vec<u8>) {
    objects.get_mut(key).expect("the object is stored").bytes = bytes.into();
}

/// Restores every live checkpoint; returns the restorable ones.
fn restore_all(
    judge: &Judge,
    damaged: &Objects,
    fixed: Fixed,
    rng: &mut Rng,
    victims: &[String],
    affected: &BTreeSet<u64>,
) -> BTreeSet<u64> {
    let mut restorable = BTreeSet::new();
    for seq in judge.oracle.live().into_values().filter(|manifest| !manifest.is_claim()).map(|manifest| manifest.seq) {
        let what = format!("checkpoint {seq} beside damage in {victims:?}");
        match shadow::restore(judge, damaged.clone(), seq, fixed, rng) {
            Ok(restored) => {
                judge.sim.hit("damage: restored beside it");
                restorable.insert(seq);
                judge.i01_state_is_the_models(&what, restored);
            }
            Err(error) if affected.contains(&seq) && names_damage(&error, victims) => {
                judge.sim.hit("damage: refused by name");
                judge.oracle.check_for_secrets(&error.chain());
            }
            Err(error) => judge.oracle.violation(format!("I6: {what}: {}: {}", error.kind(), error.chain())),
        }
    }
    restorable
}

/// Returns whether an error reports damage and names a damaged object.
fn names_damage(error: &Error, victims: &[String]) -> bool {
    let named = victims.iter().filter_map(|key| key.split('/').next_back()).any(|key| error.chain().contains(key));
    error.kind().name() == "corrupt" && named
}

/// The tool finds the damage, and calls only restorable checkpoints restorable.
fn check_verdict(judge: &Judge, damaged: Objects, victims: &[String], restorable: &BTreeSet<u64>) {
    match shadow::verify(judge, damaged) {
        Ok(report) if report.damaged.is_empty() => {
            judge.oracle.violation(format!("I6: damage in {victims:?} was not found"));
        }
        Ok(report) => {
            let promised: BTreeSet<u64> = report.restorable.iter().map(|seq| seq.0).collect();
            if !promised.is_subset(restorable) {
                judge.oracle.violation(format!("I6: verify calls {promised:?} restorable, only {restorable:?} are"));
            }
        }
        Err(error) => judge.oracle.violation(format!("I6: verify failed on damage in {victims:?}: {}", error.chain())),
    }
}
