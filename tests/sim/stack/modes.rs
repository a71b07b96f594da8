//! Search modes for the whole stack.

use alluvium::internals::canary::{Canary, plant};

use super::scenario::{CALM, RANDOM, WAYS, run};
use crate::budget::{CANARY_SEEDS, STACK_CRASHED, STACK_SEEDS};
use crate::modes::Suite;
use crate::points;
use crate::search::{FailingCalls, Mode, search, show_line};

const STACK: Suite = Suite {
    name: "stack",
    replay: "stack::modes::replay",
    variable: "ALLUVIUM_STACK_SEED",
    run,
    random: RANDOM,
    calm: CALM,
    known: include_str!("seeds.txt"),
    points: points::STACK,
};

#[test]
fn random_seeds() {
    let sum = STACK.random_seeds(STACK_SEEDS);
    assert!(sum.commits > sum.runs && sum.restores > sum.runs, "the runs do too little: {sum:?}");
}

#[test]
fn crash_at_every_await() {
    let sum = STACK.crash_at_every_await(STACK_CRASHED);
    assert!(!STACK_CRASHED.is_default() || sum.runs >= 1_500, "{} runs", sum.runs);
}

/// Every store call of a job with every kind of state fails in turn, in every way: the call alone, three calls, and all
/// calls until the end.
#[test]
fn every_call_fails_in_turn_in_every_way() {
    let none = FailingCalls { first: u64::MAX, count: 0, fate: WAYS[0].1 };
    let calm = Mode { length_ms: 3_000, ..CALM };
    let calls = run(1, Mode { calls: Some(none), ..calm }).calls;
    let (ways, counts) = (WAYS.len() as u64, [1, 3, u64::MAX]);
    let way = |at: u64| WAYS[usize::try_from(at / 3 % ways).unwrap()];
    let failing = |at: u64| FailingCalls {
        first: at / (ways * 3),
        count: counts[usize::try_from(at % 3).unwrap()],
        fate: way(at).1,
    };
    let (sum, violation) = search(calls * ways * 3, |at| run(1, Mode { calls: Some(failing(at)), ..calm }));
    if let Some((at, violations)) = violation {
        let FailingCalls { first, count, .. } = failing(at);
        panic!("{count} calls from call {first}, {}: {violations:#?}", way(at).0);
    }
    sum.show("stack, each call failing in turn");
    assert!(calls > 20, "{calls} calls");
}

/// Finding it also proves that the seeds rewrite packs.
#[test]
fn a_planted_bug_of_rewrites_is_found() {
    let (sum, violation) = search(CANARY_SEEDS.get(), |seed| {
        plant(Some(Canary::RewriteLast));
        let report = run(seed, RANDOM);
        plant(None);
        report
    });
    let (seed, violations) = violation.expect("no seed finds a rewritten base in the wrong place");
    show_line(&format!("found by seed {seed} after {} runs: {}", sum.runs, violations[0]));
}

#[test]
fn replay() {
    STACK.replay();
}
