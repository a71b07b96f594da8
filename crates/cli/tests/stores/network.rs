//! A network with all faults at once, by seed: the library and the tool through it.

use std::fs;
use std::path::Path;
use std::process::{Child, Output};
use std::time::Duration;

use super::answers::survives;
use super::place::{Place, quick};
use super::proxy::{Act, Proxy, seeded};
use super::setting;
use alluvium_testkit::oracle::{KEYED, Spec, WINDOWED, expected, sample};
use alluvium_testkit::tool::{Bench, fails, json, kill, published, stderr, words};

const ALL: &[Act] = &[
    Act::Lose,
    Act::Drop,
    Act::Refuse(500),
    Act::Refuse(503),
    Act::Refuse(409),
    Act::Mask(500),
    Act::Mask(503),
    Act::Late,
    Act::Twice,
    Act::Delay,
    Act::Cut,
    Act::Whole,
    Act::Shift,
];

#[tokio::test(flavor = "multi_thread")]
async fn a_job_survives_a_bad_network() {
    for place in Place::in_memory("network-job").await {
        for seed in 0..setting("ALLUVIUM_STORE_SEEDS", 2) * 3 {
            let place = place.named(&format!("network-job-{seed}"));
            place.make().await;
            let proxy = survives(&place, quick(), seeded(seed, 3, ALL)).await;
            println!("{:?}, seed {seed}: {:?}", place.kind, proxy.done());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tool_publishes_once_through_a_bad_network() {
    let csv = sample::sample();
    for place in Place::in_memory("network-tool").await {
        for seed in 0..setting("ALLUVIUM_STORE_SEEDS", 2) {
            let bench = Bench::new();
            let input = bench.write("sample.csv", &csv);
            let proxy = Proxy::start(place.address, seeded(seed, 8, ALL));
            let through = place.via(proxy.address);
            let run_once = |job: &str, spec: &Spec, output: &Path, extra: &str| {
                let store = through.url();
                let mut args = words(&format!("run --store {store} --job {job}{seed} --json --interval 50ms {extra}"));
                args.extend(words(&format!("--input {} --output {}", input.display(), output.display())));
                args.extend(spec.flags());
                json(&through.tool(args).output().unwrap())
            };
            let (whole, parts) = (bench.path("out.csv"), bench.path("parts"));
            run_once("keyed", &KEYED, &whole, "--parallelism 3");
            assert_eq!(fs::read_to_string(&whole).unwrap(), expected(csv.as_bytes(), &KEYED).output);
            // In two runs, the second at another parallelism.
            run_once("windowed", &WINDOWED, &parts, "--emit on-close --parallelism 2 --limit 1200 --rate 2000");
            run_once("windowed", &WINDOWED, &parts, "--emit on-close --parallelism 5");
            let answer = expected(csv.as_bytes(), &WINDOWED).output;
            let mut rows: Vec<&str> = answer.lines().skip(1).collect();
            rows.sort_unstable();
            assert_eq!(published(&parts), rows, "{:?}, seed {seed}", place.kind);
            println!("{:?}, seed {seed}: {:?}", place.kind, proxy.done());
        }
    }
}

/// Waits for a process that must end by itself.
pub(crate) fn ended(mut child: Child) -> Output {
    for _ in 0..1_800 {
        if child.try_wait().unwrap().is_some() {
            return child.wait_with_output().unwrap();
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    kill(&mut child);
    panic!("it does not end: {}", stderr(&child.wait_with_output().unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a20_whichever_request_is_denied_the_tool_ends_and_can_be_run_again() {
    let csv = sample::sample();
    let answer = expected(csv.as_bytes(), &WINDOWED).output;
    let mut rows: Vec<&str> = answer.lines().skip(1).collect();
    rows.sort_unstable();
    for place in Place::in_memory("denied").await {
        let bench = Bench::new();
        let input = bench.write("sample.csv", &csv);
        for nth in (1..).step_by(3) {
            let output = bench.path(&format!("parts-{nth}"));
            let proxy = Proxy::start(place.address, move |request| match request.nth == nth {
                true => Act::Refuse(403),
                false => Act::Pass,
            });
            let place = place.via(proxy.address);
            let run = || {
                let mut args = words(&format!("run --store {} --job j{nth} --json --interval 20ms", place.url()));
                args.extend(words(&format!("--input {} --output {}", input.display(), output.display())));
                args.extend(words("--emit on-close --parallelism 2 --rate 20000"));
                args.extend(WINDOWED.flags());
                ended(place.tool(args).spawn().unwrap())
            };
            let first = run();
            if !first.status.success() {
                fails(&first, "denied");
                json(&run());
            }
            assert_eq!(published(&output), rows, "{:?}, request {nth}", place.kind);
            if proxy.requests() < nth {
                break;
            }
        }
    }
}

/// By the time a subtask fails, the reader has read all input and waits for the last checkpoint, which never comes: it
/// must not wait for the checkpoint's timeout of ten minutes.
#[tokio::test(flavor = "multi_thread")]
async fn a20_a_subtask_that_cannot_be_restored_ends_the_run_at_once() {
    let csv = sample::sample();
    for place in Place::in_memory("restore-denied").await {
        let bench = Bench::new();
        let (input, output) = (bench.write("sample.csv", &csv), bench.path("out.csv"));
        let run = |place: &Place, extra: &str| {
            let mut args = words(&format!("run --store {} --job j --json --parallelism 2 {extra}", place.url()));
            args.extend(words(&format!("--input {} --output {}", input.display(), output.display())));
            args.extend(KEYED.flags());
            ended(place.tool(args).spawn().unwrap())
        };
        json(&run(&place, "--limit 2300"));
        let proxy = Proxy::start(place.address, |request| match request.target.contains("/data/") {
            true if request.reads() => {
                std::thread::sleep(Duration::from_millis(500));
                Act::Refuse(403)
            }
            _ => Act::Pass,
        });
        fails(&run(&place.via(proxy.address), ""), "denied");
        json(&run(&place, ""));
        assert_eq!(fs::read_to_string(&output).unwrap(), expected(csv.as_bytes(), &KEYED).output);
    }
}
