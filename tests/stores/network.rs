//! A network that does everything at once, by seeds: the library and the tool through it.

use std::fs;
use std::path::Path;

use super::answers::survives;
use super::oracle::{KEYED, Spec, WINDOWED, expected, sample};
use super::place::{Place, quick};
use super::proxy::{Act, Proxy, seeded};
use super::setting;
use super::tool::{Bench, json, published, words};

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
    for place in Place::all("network-job").await {
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
    for place in Place::all("network-tool").await {
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
            // In two pieces, the second at another parallelism.
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
