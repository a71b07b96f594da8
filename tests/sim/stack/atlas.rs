//! Damage at rest, and what it may cost. Of each object there is one copy, so the atlas of what reaches it is that of the
//! checkpoints that may be lost: each of them is restored right or refused by name, all others are restored.

use std::collections::{BTreeMap, BTreeSet};

use alluvium::Error;

use super::judge::Judge;
use super::shadow::{self, Fixed};
use alluvium_testkit::sim::{Objects, Rng};

/// Which checkpoints reach each object, themselves included; by key.
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

/// Damages a copy of what is stored, in one way, and looks what can be restored.
pub(crate) fn damage(judge: &Judge, objects: &Objects, fixed: Fixed, rng: &mut Rng) {
    let chart = chart(judge);
    let newest = format!("job/manifest/{:020}", judge.oracle.live().keys().max().copied().unwrap_or(0));
    // Without the manifest at the end of its chain a job looks as it did before: what could tell is gone.
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
    let touched: BTreeSet<u64> = victims.iter().flat_map(|key| chart[key].clone()).collect();
    let restorable = survey(judge, &damaged, fixed, rng, &victims, &touched);
    check_verdict(judge, damaged, &victims, &restorable);
}

fn set(objects: &mut Objects, key: &str, bytes: Vec<u8>) {
    objects.get_mut(key).expect("it is stored").bytes = bytes.into();
}

/// Restores every live checkpoint; returns those that could be.
fn survey(
    judge: &Judge,
    damaged: &Objects,
    fixed: Fixed,
    rng: &mut Rng,
    victims: &[String],
    touched: &BTreeSet<u64>,
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
            Err(error) if touched.contains(&seq) && is_clear(&error, victims) => {
                judge.sim.hit("damage: refused by name");
                judge.oracle.said(&error.chain());
            }
            Err(error) => judge.oracle.violation(format!("I6: {what}: {}: {}", error.kind(), error.chain())),
        }
    }
    restorable
}

/// Returns whether an error says that stored bytes are the trouble, and which.
fn is_clear(error: &Error, victims: &[String]) -> bool {
    let named = victims.iter().filter_map(|key| key.split('/').next_back()).any(|key| error.chain().contains(key));
    error.kind().name() == "corrupt" && named
}

/// What the tool finds is damage, and it promises nothing that cannot be restored.
fn check_verdict(judge: &Judge, damaged: Objects, victims: &[String], restorable: &BTreeSet<u64>) {
    match shadow::verify(judge, damaged) {
        Ok(report) if report.damaged.is_empty() => {
            judge.oracle.violation(format!("I6: damage in {victims:?} was not found"));
        }
        Ok(report) => {
            let promised: BTreeSet<u64> = report.restorable.iter().map(|seq| seq.0).collect();
            if !promised.is_subset(restorable) {
                judge.oracle.violation(format!("I6: of {promised:?} only {restorable:?} can be restored"));
            }
        }
        Err(error) => judge.oracle.violation(format!("I6: damage in {victims:?} ended a check: {}", error.chain())),
    }
}
