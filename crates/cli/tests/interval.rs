//! The adaptive interval from outside: predicted against measured recoveries, the tool, a run on NEXMark.

use std::fs;

use alluvium::internals::control::estimate::{Recovery, RecoveryModel};
use alluvium_testkit::tool::{Bench, fails, json, real_data, run, stderr, words};
use serde_json::Value;

/// Time from the measured failures to the next checkpoint, s.
const BEFORE_CHECKPOINT_S: f64 = 3.0;

/// Longer recoveries had diverged: the job was at its capacity and would hardly have caught up.
const DIVERGED_S: f64 = 1300.0;

/// Returns the measured recoveries of the IoT job at a fixed interval.
fn measured(text: &str) -> Vec<Recovery> {
    let number = |line: &str, name: &str| -> Option<f64> {
        let rest = line.split_once(name)?.1;
        rest[..rest.find([',', '}', '\''])?].parse().ok()
    };
    let recovery = |line: &str| {
        let interval_ms = number(line, "jobId='iot_")?;
        let (rate, total) = (number(line, "avgThr=")?, number(line, "recTime=")?);
        Some(Recovery { age: interval_ms / 1000.0 - BEFORE_CHECKPOINT_S, rate, outage: None, total })
    };
    text.lines().filter_map(recovery).collect()
}

/// Returns the error of predicting each recovery from all others.
fn leave_one_out(recoveries: &[Recovery]) -> Vec<(f64, f64)> {
    let error = |at: usize| {
        let mut model = RecoveryModel::new(0.0, 0.0);
        let others = recoveries.iter().enumerate().filter(|(other, _)| *other != at);
        others.for_each(|(_, recovery)| model.observe(*recovery));
        let left_out = recoveries[at];
        let predicted = model.predict(left_out.age, left_out.rate).unwrap();
        (left_out.total, (predicted / left_out.total - 1.0).abs())
    };
    (0..recoveries.len()).map(error).collect()
}

/// `test.sh` reports when the measurements are absent.
#[test]
fn a7_measured_recoveries_are_predicted() {
    let Some(folder) = real_data() else { return };
    let all = measured(&fs::read_to_string(folder.join("khaos/iot_failures.txt")).unwrap());
    assert_eq!(all.len(), 60);
    let mean = |errors: &[(f64, f64)]| errors.iter().map(|(_, error)| error).sum::<f64>() / errors.len() as f64;
    let ordinary: Vec<Recovery> = all.iter().copied().filter(|recovery| recovery.total < DIVERGED_S).collect();
    assert_eq!(ordinary.len(), 59);
    let without = mean(&leave_one_out(&ordinary));
    assert!(without < 0.12, "without the diverged one {without}");
    // No model predicts the diverged recovery from the others; it must not spoil their prediction.
    let (diverged, others): (Vec<_>, Vec<_>) =
        leave_one_out(&all).into_iter().partition(|(total, _)| *total >= DIVERGED_S);
    assert!(mean(&others) < 0.12 && diverged[0].1 < 1.0, "with it {}, itself {diverged:?}", mean(&others));
}

/// Asserts that the reason states the chosen interval and its binding constraint.
fn assert_reason_states_interval(decision: &Value) {
    let interval = decision["interval_s"].as_f64().unwrap();
    let interval = if interval < 1.0 { format!("{:.0} ms", 1000.0 * interval) } else { format!("{interval:.1} s") };
    let bound = match decision["binds"].as_str().unwrap() {
        "first" => "nothing known yet",
        "cost" => "cost optimum binds",
        "recovery" => "recovery goal 120.0 s binds",
        "recovery_point" => "recovery point goal 5.0 s binds",
        "overhead" => "overhead goal ",
        "duration" | "shortest" | "longest" => "guard rail",
        other => panic!("no goal asks for {other}"),
    };
    let reason = decision["reason"].as_str().unwrap();
    assert!(reason.starts_with(&format!("{interval}: {bound}")), "{decision}");
}

/// An unattainable goal is met by no policy; a single run has no standard error; without losses there is no share.
#[test]
fn unknown_figures_are_null_or_dashes() {
    let job = "interval --trace made:steady --mtbf 1h --state-bytes 64MiB --goal recovery=1s --seeds 1 --json";
    let document = json(&run(words(job)));
    assert_eq!(document["controller"]["goal_met"], 0.0, "{document}");
    assert!(document["controller"]["goal_met_of_best_fixed"].is_null());
    assert!(document["controller"]["lost_s_error_against_best_fixed"].is_null());
    let bench = Bench::new();
    let trace = bench.write("trace.csv", "\"second\",\"value\"\n1,10\n2,10\n3,10\n");
    let table = run(words(&format!("interval --trace {} --mtbf 10d --seeds 2", trace.display())));
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(table.contains("lost - % (+- - %)") && !table.contains("NaN") && !table.contains("inf"), "{table}");
}

/// Fixed intervals cover the controller's range, except those too short to be the best.
#[test]
fn fixed_intervals_are_as_short_and_long_as_the_controllers() {
    let bench = Bench::new();
    let trace = bench.write("trace.csv", "second,value\n1,10\n2,10\n3,10\n");
    for (cost, shortest) in [("1ms", 1.0), ("300ms", 3.0)] {
        let args = format!("interval --trace {} --checkpoint-cost {cost} --seeds 1 --json", trace.display());
        let document = json(&run(words(&args)));
        let fixed = document["fixed"].as_array().unwrap();
        assert_eq!(
            (&fixed[0]["interval_s"], &fixed[fixed.len() - 1]["interval_s"]),
            (&shortest.into(), &3600.0.into())
        );
    }
}

#[test]
fn the_tool_compares_a_trace() {
    let bench = Bench::new();
    let rows: String = (0..4000).map(|second| format!("{second};{}\n", 500 + second % 7)).collect();
    let trace = bench.write("trace.csv", format!("second;value\n{rows}"));
    let svg = bench.path("out.svg");
    let args = format!("interval --trace {} --goal recovery=120s,overhead=20% --mtbf 10m", trace.display());
    let args = format!("{args} --state-bytes 64MiB --capacity 1000 --seeds 3 --json --svg {}", svg.display());
    let document = json(&run(words(&args)));
    for field in ["lost_s", "checkpoints", "recovery_p99_s", "goal_met", "goal_met_of_best_fixed"] {
        assert!(document["controller"][field].is_number(), "{field}: {document}");
    }
    assert!(document["fixed"].as_array().unwrap().iter().all(|fixed| fixed["lost_s"].as_f64().unwrap() > 0.0));
    assert!(document["best_fixed_s"].as_f64() > Some(0.0) && document["clairvoyant_lost_s"].as_f64() > Some(0.0));
    let decisions = document["decisions"].as_array().unwrap();
    assert!(decisions.iter().all(|decision| decision["interval_s"].as_f64().unwrap() >= 1.0), "{document}");
    decisions.iter().for_each(assert_reason_states_interval);
    assert_eq!(json(&run(words(&args))), document, "equal seeds, equal runs");
    let svg = fs::read_to_string(svg).unwrap();
    assert!(svg.starts_with("<svg") && svg.contains("chosen interval") && svg.contains("trace.csv"));
    let table = run(words(&args.replace("--json", "").replace("--svg", "--weibull 0.7 --svg")));
    assert!(String::from_utf8(table.stdout).unwrap().contains("against the best fixed interval"));
}

#[test]
fn bad_traces_and_goals_are_refused() {
    let bench = Bench::new();
    for (name, text, kind) in [
        ("empty.csv", "", "input"),
        ("nan.csv", "second,value\n1,NaN\n", "input"),
        ("unsorted.csv", "second,value\n2,1\n1,1\n", "input"),
        ("negative.csv", "second,value\n1,-1\n", "input"),
    ] {
        let file = bench.write(name, text);
        fails(&run(words(&format!("interval --trace {} --seeds 1", file.display()))), kind);
    }
    fails(&run(words("interval --trace no-such.csv")), "not_found");
    fails(&run(words("interval --trace made:steady --state-bytes 0")), "config");
    for flags in [
        "--goal recovery=0s",
        "--goal overhead=-1%",
        "--goal overhead=200%",
        "--goal recovery-point=1s,requests-per-hour=1",
        "--goal nonsense",
        "--mtbf 0s",
        "--capacity NaN",
        "--seeds 0",
        "--weibull 0.005",
        "--weibull 11",
        "--trace made:nothing",
    ] {
        let output = run(words(&format!("interval --trace made:steady {flags}")));
        assert_eq!(output.status.code(), Some(2), "{flags}: {}", stderr(&output));
    }
}

/// NEXMark at a rate that steps up tenfold and back. The times of decisions depend on the machine;
/// `tests/catalogue/coordinator.rs` shows on virtual time that the interval follows such a step.
#[test]
fn a_run_whose_rate_steps_up_tenfold_reports_its_decisions() {
    let bench = Bench::new();
    let output = bench.path("out.csv");
    let job = "--input nexmark:4000000 --key auction --agg count,max:price --job j --json --limit 32000";
    let flags = format!("run {job} --store {} --output {}", bench.store("state"), output.display());
    let adaptive = "--interval adaptive --goal recovery-point=5s,overhead=50% --mtbf 2m --rate 2000,20000@2s,2000@3s";
    let report = json(&run(words(&format!("{flags} {adaptive}"))));
    assert_eq!(report["records"], 32_000);
    let decisions = report["interval"]["decisions"].as_array().unwrap();
    assert!(!decisions.is_empty(), "{report:#}");
    for decision in decisions {
        let interval = decision["interval_s"].as_f64().unwrap();
        assert!((0.1..=5.0).contains(&interval), "guard rail and goal: {decision}");
        assert_reason_states_interval(decision);
    }
    // The output equals that of a run with a fixed interval.
    let fixed = bench.path("fixed.csv");
    let flags = flags.replace("/state", "/other").replace(&output.display().to_string(), &fixed.display().to_string());
    json(&run(words(&flags)));
    assert_eq!(fs::read_to_string(output).unwrap(), fs::read_to_string(fixed).unwrap());
}

/// A restart after a clean stop keeps the learned state and counts no failure.
#[test]
fn a_restarted_run_keeps_its_learned_state() {
    let bench = Bench::new();
    let job =
        "--input nexmark:4000000 --key auction --agg count,max:price --job j --json --interval adaptive --mtbf 2m";
    let flags = format!("run {job} --store {} --rate 20000", bench.store("state"));
    let first = |limit: u32| {
        let report = json(&run(words(&format!("{flags} --limit {limit}"))));
        report["interval"]["decisions"][0].clone()
    };
    assert_eq!(first(40_000)["binds"], "first");
    let again = first(60_000);
    assert_ne!(again["binds"], "first", "{again}");
    assert!(again["reason"].as_str().unwrap().contains("a failure in 120.0 s"), "{again}");
}
