//! SIGKILL at random instants and restarts at random parallelism: the output equals an undisturbed run's.
//!
//! `ALLUVIUM_KILLS` sets the number of kills per job (10), `ALLUVIUM_KILL_SEED` their instants.
#![expect(clippy::disallowed_methods, reason = "kills fall at real instants, and the environment says how many")]

use std::fs;
use std::time::Duration;

use alluvium_testkit::oracle::{KEYED, LATEST, Spec, WINDOWED, expected, sample};
use alluvium_testkit::sim::Rng;
use alluvium_testkit::tool::{self, Bench, json, kill, run, words};
use serde_json::Value;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Kills a job over `csv` many times, then lets it complete. Returns the last report.
fn survive(bench: &Bench, spec: &Spec, csv: &str, extra: &str, output: &str) -> Value {
    let input = bench.write("sample.csv", csv).display().to_string();
    let kills = setting("ALLUVIUM_KILLS", 10);
    let mut random = Rng::from_state(setting("ALLUVIUM_KILL_SEED", 1));
    let args = |parallelism: u64, rate: &str| {
        let store = bench.store("state");
        let mut args = words(&format!("run --store {store} --job j --json --interval 30ms {extra} {rate}"));
        args.extend(words(&format!("--parallelism {parallelism} --input {input} --output {output}")));
        args.extend(spec.flags());
        args
    };
    let records = expected(csv.as_bytes(), spec).records;
    // At this rate all kills hit before the input ends: each run gets half a second at most.
    let rate = format!("--rate {}", (records * 3 / kills).max(200));
    for _ in 0..kills {
        let mut child = tool::tool(args(1 + random.below(8), &rate)).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(20 + random.below(480)));
        kill(&mut child);
    }
    let report = json(&run(args(1 + random.below(8), "")));
    assert_eq!(report["records"], records);
    assert!(report["attempt"].as_u64().unwrap() > 1, "at least one killed run had claimed the job");
    let verify = run(words(&format!("verify --store {} --job j --level full", bench.store("state"))));
    assert_eq!(verify.status.code(), Some(0), "{}", tool::stderr(&verify));
    report
}

/// Returns the length of all files in a folder of the job.
fn length_of(bench: &Bench, folder: &str) -> u64 {
    let files = fs::read_dir(bench.path("state/j").join(folder)).unwrap();
    files.map(|file| file.unwrap().metadata().unwrap().len()).sum()
}

#[test]
fn d01_a_run_that_was_killed_restarts_from_local_copies_at_any_parallelism() {
    let bench = Bench::new();
    let csv = sample::sample();
    let (output, disk) = (bench.path("out.csv"), format!("--disk {}:1GiB", bench.path("disk").display()));
    let report = survive(&bench, &KEYED, &csv, &disk, &output.display().to_string());
    assert_eq!(fs::read_to_string(output).unwrap(), expected(csv.as_bytes(), &KEYED).output);
    assert!(report["restored_from"].is_u64(), "{report}");
    assert_eq!(report["data_bytes_read"], 0, "{report}");
    let manifests = length_of(&bench, "manifest") + length_of(&bench, "attempt");
    let read = report["store_bytes_read"].as_u64().unwrap();
    assert!(read > 0 && read <= 3 * manifests, "{read} bytes read where manifests and markers have {manifests}");
}

#[test]
fn a_rescale_reads_no_data_on_the_same_machine_and_all_of_it_on_another() {
    let bench = Bench::new();
    let csv = sample::sample();
    let input = bench.write("sample.csv", &csv).display().to_string();
    let part = |disk: &str, parallelism: u32, limit: &str| {
        let (store, disk, output) = (bench.store("state"), bench.path(disk), bench.path("out.csv"));
        let mut args =
            words(&format!("run --store {store} --job j --json --input {input} --parallelism {parallelism}"));
        args.extend(words(&format!("{limit} --disk {} --output {}", disk.display(), output.display())));
        args.extend(KEYED.flags());
        let report = json(&run(args));
        (report["data_bytes_read"].as_u64().unwrap(), report["checkpoints"]["bytes"].as_u64().unwrap())
    };
    assert_eq!(part("here", 4, "--limit 500").0, 0);
    let data = length_of(&bench, "data");
    assert_eq!(part("here", 5, "--limit 501").0, 0);
    let (read, uploaded) = part("there", 5, "--limit 502");
    assert!(read > data / 2, "{read} of {data}");
    // What was uploaded there is all that is not here.
    let (read, _) = part("here", 4, "");
    assert!(read > 0 && read <= uploaded, "{read} of {uploaded}");
    assert_eq!(fs::read_to_string(bench.path("out.csv")).unwrap(), expected(csv.as_bytes(), &KEYED).output);
}

#[test]
fn d01_the_output_survives_kills() {
    let bench = Bench::new();
    let csv = sample::sample();
    let output = bench.path("out.csv");
    survive(&bench, &KEYED, &csv, "", &output.display().to_string());
    assert_eq!(fs::read_to_string(output).unwrap(), expected(csv.as_bytes(), &KEYED).output);
}

/// With state of twice the memory, and more, so that much of it lies on the disk.
#[test]
fn d01_the_output_survives_kills_with_cold_state_on_disk() {
    let bench = Bench::new();
    let csv = sample::wide(60_000, 15_000);
    let (output, disk) = (bench.path("out.csv"), bench.path("disk"));
    let tiers = format!("--memory 16MiB --disk {}", disk.display());
    let report = survive(&bench, &LATEST, &csv, &tiers, &output.display().to_string());
    assert!(fs::read_to_string(output).unwrap() == expected(csv.as_bytes(), &LATEST).output, "other bytes");
    assert!(report["restored_from"].is_u64(), "{report}");
    assert!(report["tiers"]["disk_bytes_max"].as_u64() > Some(24 << 20), "{report}");
    let names = fs::read_dir(disk).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
    let others: Vec<_> = names.filter(|name| !name.ends_with(".pack")).collect();
    assert_eq!(others, [""; 0], "cold state has no name");
}

/// With RocksDB, whose folder the next run takes over from the killed run.
#[cfg(feature = "rocksdb")]
#[test]
fn d01_the_output_survives_kills_with_rocksdb() {
    let bench = Bench::new();
    let csv = sample::sample();
    let output = bench.path("out.csv");
    let backend = format!("--backend rocksdb --rocksdb-memory 16MiB --state-dir {}", bench.path("rocksdb").display());
    survive(&bench, &KEYED, &csv, &backend, &output.display().to_string());
    assert_eq!(fs::read_to_string(output).unwrap(), expected(csv.as_bytes(), &KEYED).output);
}

#[test]
fn b11_closed_windows_are_published_exactly_once_under_kills() {
    let bench = Bench::new();
    let csv = sample::sample();
    let folder = bench.path("parts");
    survive(&bench, &WINDOWED, &csv, "--emit on-close", &folder.display().to_string());
    let answer = expected(csv.as_bytes(), &WINDOWED).output;
    let mut rows: Vec<&str> = answer.lines().skip(1).collect();
    rows.sort_unstable();
    assert_eq!(tool::published(&folder), rows);
    let staged =
        fs::read_dir(&folder).unwrap().filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().starts_with('.'));
    assert_eq!(staged.count(), 0, "nothing staged is left behind");
}
