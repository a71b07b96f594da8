//! `alluvium run` against an independent computation: the same bytes at any parallelism, over any number of restarts.

use std::fs;
use std::path::Path;

use alluvium_testkit::oracle::{self, DISTINCT, KEYED, LATEST, SHUFFLED, Spec, WINDOWED, expected, sample};
use alluvium_testkit::tool::{self, Bench, fails, json, real_data, run, stderr, words};

/// Runs `spec` over `input` at several parallelisms; each run must write `answer`.
fn matches(input: &Path, spec: &Spec, answer: &oracle::Answer, interval: &str) {
    for parallelism in [1, 2, 3, 8] {
        let bench = Bench::new();
        let (store, output) = (bench.store("state"), bench.path("out.csv"));
        let mut args = words(&format!("run --store {store} --job j --json --interval {interval}"));
        args.extend(words(&format!("--parallelism {parallelism} --output {}", output.display())));
        args.extend(["--input".to_owned(), input.display().to_string()]);
        args.extend(spec.flags());
        let report = json(&run(&args));
        assert!(fs::read_to_string(&output).unwrap() == answer.output, "parallelism {parallelism}: other bytes");
        assert_eq!(report["records"], answer.records);
        assert_eq!(report["late_records"], answer.late_records);
        assert_eq!(report["bad_records"], answer.bad_records);
        assert_eq!(report["stopped"], false);
        assert!(report["checkpoints"]["committed"].as_u64().unwrap() >= 1);
    }
}

#[test]
fn the_sample_gives_the_same_bytes_at_any_parallelism() {
    let bench = Bench::new();
    let csv = sample::sample();
    let plain = bench.write("sample.csv", &csv);
    for spec in [KEYED, WINDOWED, DISTINCT] {
        matches(&plain, &spec, &expected(csv.as_bytes(), &spec), "20ms");
    }
    let csv = sample::shuffled(&csv);
    let shuffled = bench.write("shuffled.csv", &csv);
    matches(&shuffled, &SHUFFLED, &expected(csv.as_bytes(), &SHUFFLED), "20ms");
}

#[test]
fn a_restart_says_how_its_restore_went() {
    let bench = Bench::new();
    let (store, input) = (bench.store("state"), bench.write("sample.csv", sample::sample()));
    let job = |more: &str| {
        let mut args =
            words(&format!("run --store {store} --job j --parallelism 2 --json --input {}", input.display()));
        args.extend(KEYED.flags());
        args.extend(words(more));
        run(&args)
    };
    let first = job("--limit 500");
    assert!(json(&first)["restore"].is_null() && !stderr(&first).contains("restored"), "{}", stderr(&first));
    for mode in ["lazy", "eager"] {
        let again = job(&format!("--restore {mode}"));
        let (report, shown) = (json(&again), stderr(&again));
        let restore = &report["restore"];
        assert_eq!((&restore["groups"], &restore["loaded_groups"]), (&128.into(), &128.into()), "{report}");
        assert!(restore["failed"].is_null() && restore["ready_90_ms"].as_f64() <= restore["ms"].as_f64(), "{report}");
        let lines: Vec<_> = shown.lines().filter(|line| line.starts_with("restor")).collect();
        assert!(matches!(lines[..], [line] if line.starts_with("restored 128 key groups")), "{shown}");
    }
}

#[test]
fn state_of_four_times_the_memory_lies_on_disk_and_gives_the_same_bytes() {
    const MEMORY: u64 = 16 << 20;
    let bench = Bench::new();
    let csv = sample::wide(60_000, 15_000);
    let input = bench.write("wide.csv", &csv);
    let answer = expected(csv.as_bytes(), &LATEST);
    let (output, disk) = (bench.path("out.csv"), bench.path("disk"));
    let job = |name: &str, more: &str| {
        let (store, input, output) = (bench.store("state"), input.display(), output.display());
        let mut args = words(&format!("run --store {store} --job {name} --json --interval 100ms --parallelism 2"));
        args.extend(words(&format!("--input {input} --output {output} {more}")));
        args.extend(LATEST.flags());
        run(args)
    };
    let report = json(&job("unbounded", ""));
    let held = report["tiers"]["memory_bytes_max"].as_u64().unwrap();
    assert!(held > 4 * MEMORY && report["tiers"]["disk_writes"] == 0, "{report}");
    fails(&job("bounded", "--memory 16MiB"), "limit");
    // Half of it is for local copies.
    fails(&job("small", &format!("--memory 16MiB --disk {}:64MiB", disk.display())), "limit");
    let tiers = format!("--memory 16MiB --disk {}", disk.display());
    // The second run restores the state of the first.
    for restored in [false, true] {
        let report = json(&job("tiered", &tiers));
        assert!(fs::read_to_string(&output).unwrap() == answer.output, "other bytes");
        fs::remove_file(&output).unwrap();
        let figure = |name: &str| report["tiers"][name].as_u64().unwrap();
        let held = (figure("memory_bytes_max"), figure("disk_bytes_max"));
        assert!(held.0 < MEMORY + MEMORY / 20 && held.1 > 2 * MEMORY, "{report}");
        assert!(figure("disk_writes") > 0 && figure("disk_reads") > 0, "{report}");
        assert_eq!((figure("disk_failed"), figure("disk_damaged")), (0, 0), "{report}");
        // While the other subtask is late to give memory back, a few groups may leave.
        assert!(figure("evictions") < 16, "cold records go to the disk instead: {report}");
        assert_eq!(report["restore"]["loaded_groups"], if restored { 128.into() } else { serde_json::Value::Null });
    }
}

#[test]
fn memory_too_small_to_work_with_is_refused() {
    let bench = Bench::new();
    let input = bench.write("sample.csv", sample::sample());
    let args = |memory: &str| {
        let mut args = words(&format!("run --store {} --job j --json --memory {memory}", bench.store("state")));
        args.extend(["--input".into(), input.display().to_string()]);
        args.extend(KEYED.flags());
        args
    };
    let error = fails(&run(args("15MiB")), "config");
    assert!(error.contains("--memory") && error.contains("16.0 MiB"), "{error}");
    assert!(!bench.path("state").exists(), "before anything is done");
    let report = json(&run(args("16MiB")));
    assert!(report["tiers"]["memory_bytes_max"].as_u64() > Some(0), "{report}");
}

/// `test.sh` reports when the real input is absent.
#[test]
fn the_real_input_gives_the_same_bytes_at_any_parallelism() {
    let Some(folder) = real_data() else { return };
    let bench = Bench::new();
    let packed = folder.join("cloud_benchmarks.csv.gz");
    let mut csv = String::new();
    let file = fs::File::open(&packed).unwrap();
    std::io::Read::read_to_string(&mut flate2::read::MultiGzDecoder::new(file), &mut csv).unwrap();
    for spec in [KEYED, WINDOWED, DISTINCT] {
        matches(&packed, &spec, &expected(csv.as_bytes(), &spec), "1s");
    }
    let csv = sample::shuffled(&csv);
    let shuffled = bench.write("shuffled.csv", &csv);
    matches(&shuffled, &SHUFFLED, &expected(csv.as_bytes(), &SHUFFLED), "1s");
}

/// Checkpoints are independent of the backend: each run resumes from another backend's checkpoint.
#[cfg(feature = "rocksdb")]
#[test]
fn a_job_moves_between_backends_and_ends_with_the_same_bytes() {
    let bench = Bench::new();
    let csv = sample::sample();
    let input = bench.write("sample.csv", &csv);
    for spec in [WINDOWED, DISTINCT] {
        let answer = expected(csv.as_bytes(), &spec);
        let output = bench.path("out.csv");
        let args = |extra: &str| {
            let mut args =
                words(&format!("run --store {} --job j --json --interval 20ms {extra}", bench.store("state")));
            args.extend(["--input".into(), input.display().to_string()]);
            args.extend(["--output".into(), output.display().to_string()]);
            args.extend(spec.flags());
            args
        };
        for (limit, parallelism, backend) in
            [(500, 3, "rocksdb"), (1200, 2, "log"), (1201, 1, "rocksdb"), (2300, 2, "rocksdb"), (2400, 1, "overlay")]
        {
            let fresh = if limit == 500 { "--fresh" } else { "" };
            let extra = format!("--limit {limit} --parallelism {parallelism} --backend {backend} {fresh}");
            assert_eq!(json(&run(args(&extra)))["records"], limit);
        }
        json(&run(args("--parallelism 3 --backend rocksdb")));
        assert!(fs::read_to_string(&output).unwrap() == answer.output, "other bytes");
    }
}

#[cfg(feature = "rocksdb")]
#[test]
fn rocksdb_refuses_bad_settings() {
    let bench = Bench::new();
    let input = bench.write("sample.csv", sample::sample());
    let args = |extra: &str| {
        let mut args = words(&format!("run --store {} --job j --backend rocksdb {extra}", bench.store("state")));
        args.extend(["--input".into(), input.display().to_string()]);
        args.extend(KEYED.flags());
        args
    };
    fails(&run(args("--rocksdb-memory 1KiB")), "config");
    let error = fails(&run(args("--rocksdb-option write_buffer_size=many")), "config");
    assert!(error.contains("option"), "{error}");
    let output = run(args("--rocksdb-option nonsense"));
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
}

#[test]
fn a_job_in_pieces_ends_with_the_same_bytes() {
    let bench = Bench::new();
    let csv = sample::sample();
    let input = bench.write("sample.csv", &csv);
    let answer = expected(csv.as_bytes(), &WINDOWED);
    let output = bench.path("out.csv");
    let args = |extra: &str| {
        let mut args = words(&format!("run --store {} --job j --json --interval 20ms {extra}", bench.store("state")));
        args.extend(["--input".into(), input.display().to_string(), "--output".into(), output.display().to_string()]);
        args.extend(WINDOWED.flags());
        args
    };
    let mut offset = 0;
    for (limit, parallelism) in [(500, 3), (1200, 8), (1201, 1), (2300, 2)] {
        let report = json(&run(args(&format!("--limit {limit} --parallelism {parallelism}"))));
        assert_eq!(report["records"], limit);
        assert_eq!(report["restored_offset"], offset);
        assert_eq!(report["records_this_run"], limit - offset);
        offset = limit;
    }
    for round in 0..2 {
        fs::remove_file(&output).unwrap();
        let report = json(&run(args("--parallelism 5")));
        assert_eq!(report["records"], answer.records, "round {round}");
        assert_eq!(fs::read_to_string(&output).unwrap(), answer.output, "round {round}");
    }
}

#[test]
fn g05_one_signal_stops_with_a_checkpoint() {
    let bench = Bench::new();
    let csv = sample::sample();
    let input = bench.write("sample.csv", &csv);
    let output = bench.path("out.csv");
    let args = |extra: &str| {
        let mut args = words(&format!("run --store {} --job j --json --interval 50ms {extra}", bench.store("state")));
        args.extend(["--input".into(), input.display().to_string(), "--output".into(), output.display().to_string()]);
        args.extend(KEYED.flags());
        args
    };
    let child = tool::tool(args("--rate 1000")).spawn().unwrap();
    // A manifest besides the claim shows that the job is processing.
    let manifests = bench.path("state").join("j").join("manifest");
    while fs::read_dir(&manifests).map_or(0, Iterator::count) < 3 {
        std::thread::yield_now();
    }
    std::process::Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    let report = json(&child.wait_with_output().unwrap());
    assert_eq!(report["stopped"], true);
    assert!(!output.exists(), "a stopped job has no result yet");
    let stopped_at = report["records"].as_u64().unwrap();
    let report = json(&run(args("--parallelism 4")));
    assert_eq!(report["restored_offset"], stopped_at);
    assert_eq!(fs::read_to_string(&output).unwrap(), expected(csv.as_bytes(), &KEYED).output);
}

#[test]
fn closed_windows_are_published_once_each() {
    let bench = Bench::new();
    let csv = sample::sample();
    let input = bench.write("sample.csv", &csv);
    let folder = bench.path("parts");
    let args = |extra: &str| {
        let mut args = words(&format!("run --store {} --job j --json --interval 20ms {extra}", bench.store("state")));
        args.extend(words("--emit on-close"));
        args.extend(["--input".into(), input.display().to_string(), "--output".into(), folder.display().to_string()]);
        args.extend(WINDOWED.flags());
        args
    };
    for (limit, parallelism) in [(700, 3), (1500, 1)] {
        json(&run(args(&format!("--limit {limit} --parallelism {parallelism}"))));
    }
    for _ in 0..2 {
        json(&run(args("--parallelism 2")));
        let answer = expected(csv.as_bytes(), &WINDOWED).output;
        let mut rows: Vec<&str> = answer.lines().skip(1).collect();
        rows.sort_unstable();
        assert_eq!(tool::published(&folder), rows);
    }
}

/// A finished job run again over a longer input gives the whole input's output, or refuses.
#[test]
fn a_finished_job_resumes_on_a_longer_input() {
    for (name, old, more, fine) in [
        ("in.csv", "k,v\na,1\nb,2\n", "a,3\n", true),
        ("in.csv", "k,v\na,1\nb,2", "\na,3", true),
        ("in.csv", "k,v\na,1\nb,2", "5\na,3\n", false),
        ("in.jsonl", "{\"k\":\"a\",\"v\":1}\n{\"k\":\"b\",\"v\":2}", "\n{\"k\":\"a\",\"v\":3}\n", true),
        ("in.jsonl", "{\"k\":\"a\",\"v\":1}\n{\"k\":\"b\",\"v\":2}", "x\n{\"k\":\"a\",\"v\":3}\n", false),
        ("in.jsonl", "{\"k\":\"a\",\"v\":1}\n{\"k\":\"b\",", "\"v\":2}\n", false),
    ] {
        let bench = Bench::new();
        let input = bench.write(name, old);
        let job = |store: &str| {
            let flags = "--key k --agg count,sum:v --on-bad-record skip";
            run(words(&format!("run --store {store} --job j --input {} {flags}", input.display())))
        };
        let first = job(&bench.store("state"));
        assert!(first.status.success(), "{}", stderr(&first));
        fs::write(&input, format!("{old}{more}")).unwrap();
        let again = job(&bench.store("state"));
        if fine {
            assert_eq!(again.stdout, job("memory:///").stdout, "{old:?} {more:?}: {}", stderr(&again));
        } else {
            let line = fails(&again, "input");
            assert!(line.contains("input changed") && line.contains(name), "{line}");
        }
    }
}

#[test]
fn windows_closed_by_the_end_of_input_are_published_once_when_the_input_grows() {
    let bench = Bench::new();
    let input = bench.write("in.csv", "k,t\na,1000\nb,2000\na,3000\n");
    let args = |emit: &str, extra: &str| {
        let flags = "--key k --agg count --window tumbling:10s --time t --json";
        let (store, output) = (bench.store(emit), bench.path(&format!("{emit}-out")));
        let (input, output) = (input.display(), output.display());
        words(&format!("run --store {store} --job j --input {input} {flags} --emit {emit} --output {output} {extra}"))
    };
    for emit in ["on-close", "end"] {
        json(&run(args(emit, "")));
        json(&run(args(emit, "")));
    }
    fs::write(&input, "k,t\na,1000\nb,2000\na,3000\na,4000\nb,15000\n").unwrap();
    let report = json(&run(args("on-close", "")));
    assert_eq!((&report["records"], &report["late_records"]), (&5.into(), &1.into()));
    let rows = ["a,1970-01-01T00:00:00Z,2", "b,1970-01-01T00:00:00Z,1", "b,1970-01-01T00:00:10Z,1"];
    assert_eq!(tool::published(&bench.path("on-close-out")), rows);
    assert_eq!(json(&run(args("end", "")))["late_records"], 0);
    let rows = "k,window_start,count\na,1970-01-01T00:00:00Z,3\nb,1970-01-01T00:00:00Z,1\nb,1970-01-01T00:00:10Z,1\n";
    assert_eq!(fs::read_to_string(bench.path("end-out")).unwrap(), rows);
}

#[test]
fn column_names_may_contain_commas() {
    let bench = Bench::new();
    let input = bench.write("in.csv", "\"a,b\",\"price, USD\",\"price, USD (old)\",x,x\nk,1,5,y,z\nk,2,6,y,z\n");
    let mut args = words(&format!("run --store memory:/// --job j --input {}", input.display()));
    args.extend(["--key", "\"a,b\"", "--agg", "sum:\"price, USD\",count,\"max:price, USD (old)\""].map(str::to_owned));
    let output = run(args);
    assert!(output.status.success(), "{}", stderr(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text, "\"a,b\",\"sum_price, USD\",count,\"max_price, USD (old)\"\nk,3,2,6\n");
}

#[test]
fn jsonl_and_compressed_input_match_csv() {
    let bench = Bench::new();
    let csv = "k,v\na,1\nb,2\na,3\nb,NA\n";
    let jsonl = "{\"k\":\"a\",\"v\":1}\n{\"v\":2,\"k\":\"b\"}\n{\"k\":\"a\",\"v\":3}\n{\"k\":\"b\",\"v\":null}\n";
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gz, csv.as_bytes()).unwrap();
    let inputs = [
        bench.write("in.csv", csv),
        bench.write("in.csv.gz", gz.finish().unwrap()),
        bench.write("in.csv.zst", zstd::encode_all(csv.as_bytes(), 1).unwrap()),
        bench.write("in.jsonl", jsonl),
    ];
    for (at, input) in inputs.iter().enumerate() {
        let store = bench.store(&format!("state{at}"));
        let output =
            run(words(&format!("run --store {store} --job j --input {} --key k --agg count,sum:v", input.display())));
        assert!(output.status.success(), "{}", stderr(&output));
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "k,count,sum_v\na,2,4\nb,2,2\n", "{}", input.display());
    }
}

#[test]
fn nexmark_is_repeatable_from_any_record() {
    let bench = Bench::new();
    let job = "--input nexmark:20000 --key auction --agg count,max:price,distinct:bidder --json";
    let mut outputs = Vec::new();
    for (at, pieces) in [&[0u64][..], &[5000, 11_111, 0]].iter().enumerate() {
        let output = bench.path(&format!("out{at}.csv"));
        for (round, limit) in pieces.iter().enumerate() {
            let limit = if *limit > 0 { format!("--limit {limit}") } else { String::new() };
            let store = bench.store(&format!("state{at}"));
            let flags = format!("run {job} --store {store} --job j --output {} {limit}", output.display());
            json(&run(words(&format!("{flags} --parallelism {}", round + 1))));
        }
        outputs.push(fs::read_to_string(output).unwrap());
    }
    assert!(outputs[0].lines().count() > 100);
    assert_eq!(outputs[0], outputs[1]);
}

#[test]
fn d10_two_processes_of_one_job() {
    let bench = Bench::new();
    let csv = sample::sample();
    let input = bench.write("sample.csv", &csv);
    let args = |output: &str, extra: &str| {
        let mut args = words(&format!("run --store {} --job j --interval 50ms {extra}", bench.store("state")));
        let output = bench.path(output).display().to_string();
        args.extend(["--input".into(), input.display().to_string(), "--output".into(), output]);
        args.extend(KEYED.flags());
        args
    };
    let older = tool::tool(args("older.csv", "--rate 2000")).spawn().unwrap();
    let manifests = bench.path("state").join("j").join("manifest");
    while fs::read_dir(&manifests).map_or(0, Iterator::count) < 3 {
        std::thread::yield_now();
    }
    let newer = run(args("newer.csv", "--parallelism 3"));
    assert!(newer.status.success(), "{}", stderr(&newer));
    let older = older.wait_with_output().unwrap();
    fails(&older, "fenced");
    assert!(!bench.path("older.csv").exists());
    assert_eq!(fs::read_to_string(bench.path("newer.csv")).unwrap(), expected(csv.as_bytes(), &KEYED).output);
    let verify = run(words(&format!("verify --store {} --job j --level full", bench.store("state"))));
    assert!(verify.status.success(), "{}", stderr(&verify));
}
