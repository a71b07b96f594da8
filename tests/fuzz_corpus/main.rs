//! Every committed input of the fuzz targets, through the target's own body: seeds, bad inputs, past crashes.
//!
//! `fuzz/seeds/<target>/` has them. Names tell what is expected: `bad-*` are refused with an error, within
//! [`BAD_CAP`]; all others only break no rule. The targets of the tool have their test beside its sources. All but
//! `crash-*` are made by `seeds.rs` and `bad/`, anew with `BLESS=1`.

#![expect(clippy::unwrap_used, reason = "helpers of tests may panic as tests may")]

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

/// What a bad input may make a reader hold.
const BAD_CAP: usize = 64 << 20;

/// What all committed inputs may take together.
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
            assert!(["flags", "input"].contains(&target), "no target takes {path}");
            continue;
        };
        let bad = name.starts_with("bad-");
        let cap = if bad { BAD_CAP } else { memory::CAP };
        let outcome = panic::catch_unwind(AssertUnwindSafe(|| alone.bounded(cap, || body(&input))));
        let outcome = outcome.unwrap_or_else(|_| panic!("{path} breaks a rule"));
        assert!(!bad || outcome.is_err(), "{path} is taken for good");
        refused += usize::from(bad);
    }
    assert!(refused > 150, "{refused} bad inputs");
}

#[test]
fn the_inputs_are_those_that_are_made_here() {
    let _alone = memory::alone();
    let made: Inputs = seeds::all().into_iter().chain(bad::all()).collect();
    if std::env::vars().any(|(name, _)| name == "BLESS") {
        for (path, input) in &made {
            let path = folder().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, input).unwrap();
        }
    }
    let committed = committed();
    let differ = |(path, input): &(&String, &Vec<u8>)| committed.get(*path) != Some(input);
    let differing: Vec<_> = made.iter().filter(differ).map(|(path, _)| path).collect();
    assert!(differing.is_empty(), "committed otherwise, or not at all: {differing:?}");
    let crash = |path: &&String| path.split('/').next_back().unwrap().starts_with("crash-");
    let strays: Vec<_> = committed.keys().filter(|path| !made.contains_key(*path) && !crash(path)).collect();
    assert!(strays.is_empty(), "made by nothing, and no crash: {strays:?}");
    let bytes: usize = committed.values().map(Vec::len).sum();
    assert!(bytes <= ALL_BYTES, "{bytes} bytes are committed");
    for (target, _) in TARGETS {
        assert!(committed.keys().any(|path| path.starts_with(&format!("{target}/"))), "{target} has no seeds");
    }
}
