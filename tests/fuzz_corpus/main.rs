//! Runs every fuzz target over its committed inputs: seeds, bad inputs, past crashes.
//!
//! Inputs are in `fuzz/seeds/<target>/`. A target must refuse `bad-*` with an error, within [`BAD_CAP`]; all other inputs
//! must only break no rule. The targets of the tool are tested beside its sources. `seeds.rs` and `bad/` generate all
//! inputs but `crash-*`; `BLESS=1` writes them.

#![expect(clippy::unwrap_used, reason = "test helpers may panic")]

mod bad;
mod bounds;
mod seeds;

use std::collections::BTreeMap;
use std::fs;
use std::panic::{self, AssertUnwindSafe};
use std::path::PathBuf;

use alluvium_testkit::fuzz::{TARGETS, memory};
use alluvium_testkit::root;
use peak_alloc::PeakAlloc;

#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// Maximum memory of a reader for a bad input.
const BAD_CAP: usize = 64 << 20;

/// Maximum size of all committed inputs together.
const ALL_BYTES: usize = 1 << 20;

/// Inputs by their path below `fuzz/seeds`.
type Inputs = BTreeMap<String, Vec<u8>>;

fn folder() -> PathBuf {
    root().join("fuzz/seeds")
}

fn committed() -> Inputs {
    let mut inputs = Inputs::new();
    for target in fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()) {
        for file in fs::read_dir(&target).unwrap().map(|entry| entry.unwrap().path()) {
            let name = file.strip_prefix(folder()).unwrap().to_str().unwrap().to_owned();
            inputs.insert(name, fs::read(&file).unwrap());
        }
    }
    inputs
}

#[test]
fn every_input_keeps_the_rules() {
    let alone = memory::alone();
    let mut refused = 0;
    for (path, input) in committed() {
        let (target, name) = path.split_once('/').unwrap();
        let Some((_, body)) = TARGETS.iter().find(|(known, _)| *known == target) else {
            assert!(["flags", "input"].contains(&target), "{path} has no target");
            continue;
        };
        let bad = name.starts_with("bad-");
        let cap = if bad { BAD_CAP } else { memory::CAP };
        let outcome = panic::catch_unwind(AssertUnwindSafe(|| alone.bounded(cap, || body(&input))));
        let outcome = outcome.unwrap_or_else(|_| panic!("{path} breaks a rule"));
        assert!(!bad || outcome.is_err(), "{path} is accepted");
        refused += usize::from(bad);
    }
    assert!(refused > 150, "{refused} bad inputs");
}

#[test]
fn committed_inputs_equal_generated_ones() {
    let _alone = memory::alone();
    let generated: Inputs = seeds::all().into_iter().chain(bad::all()).collect();
    if std::env::vars().any(|(name, _)| name == "BLESS") {
        for (path, input) in &generated {
            let path = folder().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, input).unwrap();
        }
    }
    let committed = committed();
    let differ = |(path, input): &(&String, &Vec<u8>)| committed.get(*path) != Some(input);
    let differing: Vec<_> = generated.iter().filter(differ).map(|(path, _)| path).collect();
    assert!(differing.is_empty(), "the committed input differs or is missing: {differing:?}");
    let crash = |path: &&String| path.split('/').next_back().unwrap().starts_with("crash-");
    let strays: Vec<_> = committed.keys().filter(|path| !generated.contains_key(*path) && !crash(path)).collect();
    assert!(strays.is_empty(), "neither generated nor a crash: {strays:?}");
    let bytes: usize = committed.values().map(Vec::len).sum();
    assert!(bytes <= ALL_BYTES, "{bytes} bytes are committed");
    for (target, _) in TARGETS {
        assert!(committed.keys().any(|path| path.starts_with(&format!("{target}/"))), "{target} has no seeds");
    }
}
