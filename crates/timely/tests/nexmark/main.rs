//! NEXMark on clusters of real processes: the answers of one thread, whatever is killed.
//!
//! `ALLUVIUM_KILLS` sets the number of kills of each query (5), `ALLUVIUM_KILL_SEED` their instants.
#![expect(clippy::disallowed_methods, reason = "kills fall at real instants, and the environment says how many")]

mod answers;
mod cluster;

use std::time::Duration;

use alluvium_testkit::sim::Rng;
use answers::answer;
use cluster::Place;

const EVENTS: usize = 200_000;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn answers_are_the_same_with_any_number_of_processes_and_threads() {
    for query in [3, 5, 8] {
        let expected = answer(query, EVENTS);
        assert!(expected.len() > 10, "{expected:?}");
        for (processes, threads) in [(1, 1), (1, 2), (2, 1), (2, 2), (3, 1), (3, 2)] {
            let place = Place::new(query, EVENTS as u64);
            let ended = place.start(processes, threads, "--interval 30ms").wait();
            place.assert_success(&ended);
            assert!(place.rows() == expected, "query {query}, {processes} processes of {threads} threads");
        }
    }
}

/// Kills a process of a query's cluster again and again, while the number of processes changes.
fn survive(query: u32) {
    let kills = usize::try_from(setting("ALLUVIUM_KILLS", 5)).unwrap();
    let mut random = Rng::from_state(setting("ALLUVIUM_KILL_SEED", 1) + u64::from(query));
    let place = Place::new(query, EVENTS as u64);
    // At this rate all kills hit before the input ends: each run gets half a second at most.
    let rate = EVENTS * 3 / 2 / kills;
    for at in 0..kills {
        let processes = [2, 3, 2, 1][at % 4];
        let mut cluster = place.start(processes, 1 + random.below(2), &format!("--interval 30ms --rate {rate}"));
        std::thread::sleep(Duration::from_millis(20 + random.below(480)));
        cluster.kill(random.below(processes));
        let ended = cluster.wait_to_stop();
        assert!(ended.iter().all(|status| !status.success()), "{ended:?}");
    }
    let ended = place.start(2, 2, "").wait();
    place.assert_success(&ended);
    assert!(place.rows() == answer(query, EVENTS), "query {query}: {} rows", place.rows().len());
}

#[test]
fn d01_local_items_survive_kills_of_processes() {
    survive(3);
}

#[test]
fn d01_hot_items_survive_kills_of_processes() {
    survive(5);
}

#[test]
fn d01_new_sellers_survive_kills_of_processes() {
    survive(8);
}

/// Runs two processes that do not fit together; returns what each says.
fn misfits(place: &Place, flags: [&str; 2]) -> [String; 2] {
    let store = place.bench.store("state");
    let flags = flags.map(|flags| format!("--job j --interval 30ms {}", flags.replace("STORE", &store)));
    let ended = place.start_each(&flags).wait_to_stop();
    assert!(ended.iter().all(|status| status.code() == Some(1)), "{ended:?}\n{}{}", place.log(0), place.log(1));
    assert_eq!(place.rows(), [""; 0]);
    let log = |process| place.log(process).lines().filter(|line| line.starts_with("error[")).collect();
    [log(0), log(1)]
}

#[test]
fn processes_that_do_not_belong_together_end_with_the_reason() {
    let place = Place::new(5, 1000);
    // One side may see no more than a closed connection, if the other ends first.
    let one = |errors: [String; 2], kind: &str| {
        assert!(errors.iter().any(|error| error.starts_with(kind)), "{errors:?}");
        assert!(errors.iter().all(|error| error.starts_with("error[")), "{errors:?}");
    };
    one(misfits(&place, ["--store STORE -n 2", "--store STORE -n 2 --seed 1"]), "error[config]");
    one(misfits(&place, ["--store STORE -n 2", "--store STORE -n 2 -w 2"]), "error[config]");
    one(misfits(&place, ["--store STORE -n 2", "--store STORE -n 3"]), "error[config]");
    let other = place.bench.store("other");
    one(misfits(&place, ["--store STORE -n 2", &format!("--store {other} -n 2")]), "error[");
}

#[test]
fn a_cluster_that_is_not_complete_in_time_ends() {
    let place = Place::new(5, 1000);
    let ended = place
        .start_each(&[format!("--store {} --job j -n 2 --start-within 200ms", place.bench.store("state"))])
        .wait_to_stop();
    assert!(ended.iter().all(|status| status.code() == Some(1)), "{ended:?}");
    assert!(place.log(0).contains("error[unavailable]"), "{}", place.log(0));
}

#[test]
fn a_store_that_does_not_answer_ends_all_processes() {
    let place = Place::new(5, 1000);
    let flags = "--store s3://nowhere/job?endpoint=http://127.0.0.1:1 --job j -n 2".to_owned();
    let ended = place.start_each(&[flags.clone(), flags]).wait_to_stop();
    assert!(ended.iter().all(|status| status.code() == Some(1)), "{ended:?}");
    assert!(place.log(0).contains("error["), "{}", place.log(0));
}
