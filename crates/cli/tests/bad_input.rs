//! User errors: each gives a clear typed error with the right exit code; nothing is lost or half written.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use alluvium_testkit::tool::{self, Bench, fails, json, run, stderr, words};
use serde_json::Value;

/// A working job over three records.
struct Job {
    bench: Bench,
    input: String,
}

impl Job {
    fn new() -> Self {
        let bench = Bench::new();
        let input = bench.write("in.csv", "k,v,t\na,1.5,0\nb,2.5,1000\na,NA,2000\n").display().to_string();
        Self { bench, input }
    }

    /// Returns the job's flags, followed by `extra`.
    fn args(&self, extra: &str) -> Vec<String> {
        let base = format!(
            "run --store {} --job j --json --input {} --key k --agg count,max:v --output {}",
            self.bench.store("state"),
            self.input,
            self.bench.path("out.csv").display()
        );
        words(&format!("{base} {extra}"))
    }

    /// Returns the job's flags with one changed.
    fn with(&self, flag: &str, value: &str) -> Vec<String> {
        let mut args = self.args("");
        let at = args.iter().position(|arg| arg == flag).unwrap() + 1;
        args[at] = value.to_owned();
        args
    }

    fn list(&self) -> Value {
        json(&run(words(&format!("list --store {} --json", self.bench.store("state")))))
    }

    fn assert_nothing_is_left(&self) {
        assert!(!self.bench.path("out.csv").exists());
        let left: Vec<_> = fs::read_dir(self.bench.folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert!(left.iter().all(|name| !name.to_string_lossy().contains("out.csv")), "{left:?}");
    }
}

#[test]
fn wrong_columns_and_records() {
    let job = Job::new();
    for (flag, value, kind, word) in [
        ("--key", "nope", "config", "nope"),
        ("--agg", "sum:nope", "config", "nope"),
        ("--agg", "sum:k", "input", "line"),
        ("--input", "/nonexistent/in.csv", "not_found", "in.csv"),
        ("--job", "../x", "config", "job name"),
        ("--job", "a/b", "config", "job name"),
        ("--store", "ftp://host/x", "config", "store"),
        ("--store", "nothing at all", "config", "url"),
    ] {
        let line = fails(&run(job.with(flag, value)), kind);
        assert!(line.contains(word), "{flag} {value}: {line}");
        job.assert_nothing_is_left();
    }
    let empty = job.bench.write("empty.csv", "");
    fails(&run(job.with("--input", &empty.display().to_string())), "input");
    let ragged = job.bench.write("ragged.csv", "k,v,t\na,1,0\nb\n");
    let line = fails(&run(job.with("--input", &ragged.display().to_string())), "input");
    assert!(line.contains("ragged.csv") && line.contains('3'), "{line}");
    job.assert_nothing_is_left();
    // The failures above left nothing behind.
    let mut args = job.args("");
    let at = args.iter().position(|arg| arg == "j").unwrap();
    args[at] = "another".to_owned();
    assert_eq!(json(&run(args))["records"], 3);
}

#[test]
fn g09_wrong_usage_ends_with_2() {
    let job = Job::new();
    for extra in ["--strategy changelog", "--backend heap", "--interval often", "--format parquet", "--nope"] {
        assert_eq!(run(job.args(extra)).status.code(), Some(2), "{extra}");
    }
    for command in ["", "nope", "rescale --store memory:/// --job j --parallelism 2"] {
        assert_eq!(run(words(command)).status.code(), Some(2), "{command}");
    }
    for command in ["--help", "run --help", "list --help", "--version"] {
        let output = run(words(command));
        assert!(output.status.success() && output.stdout.len() > 10, "{command}");
    }
}

#[test]
fn f03_parallelism_out_of_range() {
    let job = Job::new();
    for extra in ["--parallelism 0", "--parallelism 129", "--parallelism 1 --max-parallelism 40000"] {
        let line = fails(&run(job.args(extra)), "config");
        assert!(line.contains("parallelism"), "{line}");
    }
    assert_eq!(json(&run(job.args("")))["records"], 3);
    let line = fails(&run(job.args("--max-parallelism 64")), "config");
    assert!(line.contains("64") && line.contains("128"), "{line}");
}

#[test]
fn a_restart_with_another_program_names_the_flag_and_changes_nothing() {
    let job = Job::new();
    json(&run(job.args("")));
    let before = job.list();
    let other = job.bench.write("other.csv", "k,v,t\n").display().to_string();
    for (flag, value) in [("--key", "v"), ("--agg", "count"), ("--input", other.as_str())] {
        let line = fails(&run(job.with(flag, value)), "config");
        assert!(line.contains(flag), "{line}");
    }
    let line = fails(&run(job.args("--on-bad-record skip")), "config");
    assert!(line.contains("--on-bad-record"), "{line}");
    let line = fails(&run(job.args("--checkpoint 99")), "not_found");
    assert!(line.contains("99"), "{line}");
    assert_eq!(job.list(), before, "a refused restart claims nothing");
    assert_eq!(json(&run(job.args("--parallelism 4")))["restored_offset"], 3);
}

#[test]
fn a_changed_input_is_noticed() {
    let job = Job::new();
    json(&run(job.args("--limit 2")));
    fs::write(&job.input, "k,v,t\na,9,0\nb,2.5,1000\na,NA,2000\n").unwrap();
    let line = fails(&run(job.args("")), "input");
    assert!(line.contains("in.csv"), "{line}");
}

#[test]
fn duplicate_output_columns_are_refused() {
    let job = Job::new();
    for extra in ["--key count", "--key sum_v --agg sum:v", "--key window_start --window tumbling:1s --time t"] {
        let mut args = job.args("");
        let at = args.iter().position(|arg| arg == "--key").unwrap();
        args.splice(at..at + 2, words(extra));
        let line = fails(&run(args), "config");
        assert!(line.contains("same name"), "{line}");
        job.assert_nothing_is_left();
        assert!(!job.bench.path("state").exists(), "{extra}: nothing is done");
    }
}

#[test]
fn g16_a_result_that_would_replace_the_input_or_lie_among_checkpoints_is_refused() {
    let job = Job::new();
    let before = fs::read(&job.input).unwrap();
    fs::hard_link(&job.input, job.bench.path("hard.csv")).unwrap();
    std::os::unix::fs::symlink(&job.input, job.bench.path("soft.csv")).unwrap();
    for output in ["in.csv", "./in.csv", "hard.csv", "soft.csv", "state/out.csv", "state/j/out.csv"] {
        let line = fails(&run(job.with("--output", &job.bench.path(output).display().to_string())), "config");
        assert!(line.contains(output), "{line}");
        assert!(!job.bench.path("state").exists(), "{output}: nothing is done");
        assert_eq!(fs::read(&job.input).unwrap(), before);
    }
    // The input under the path that standard input has.
    let at = job.bench.path("in.csv");
    let mut args = job.with("--input", "-");
    let output = args.iter().position(|arg| arg == "--output").unwrap() + 1;
    args[output] = at.display().to_string();
    let mut stdin = tool::tool(args);
    stdin.stdin(fs::File::open(&at).unwrap());
    fails(&stdin.output().unwrap(), "config");
    assert_eq!(fs::read(&job.input).unwrap(), before);
}

#[test]
fn d20_a_folder_of_parts_belongs_to_one_job() {
    let job = Job::new();
    let args = |job_name: &str, store: &str, extra: &str| {
        let parts = job.bench.path("parts").display().to_string();
        words(&format!(
            "run --store {} --job {job_name} --input {} --key k --agg count --window tumbling:1s --time t --json \
             --emit on-close --output {parts} {extra}",
            job.bench.store(store),
            job.input
        ))
    };
    json(&run(args("j", "state", "--limit 2")));
    let published = tool::published(&job.bench.path("parts"));
    for (other, store) in [("other", "state"), ("j", "elsewhere")] {
        let line = fails(&run(args(other, store, "")), "config");
        assert!(line.contains("job=`j at file:") && line.contains("state"), "{line}");
        let listed = run(words(&format!("list --store {} --job {other} --json", job.bench.store(store))));
        assert!(!listed.status.success(), "nothing is claimed");
    }
    assert_eq!(tool::published(&job.bench.path("parts")), published);
    json(&run(args("j", "state", "")));
    assert_eq!(tool::published(&job.bench.path("parts")).len(), 3);
}

#[test]
fn stray_quotes_long_records_and_records_without_a_key() {
    let job = Job::new();
    for (name, content, counted) in [
        ("quote.csv", "k,v\na,1\nb,\"2\nc,3\n".to_owned(), "k,count\na,1\nc,1\n"),
        ("long.csv", format!("k,v\na,1\nb,{}\nc,3\n", "9".repeat(17 << 20)), "k,count\na,1\nc,1\n"),
        ("key.jsonl", "{\"k\":\"a\"}\n{\"v\":1}\n{\"k\":null}\n{\"k\":\"\"}\n".to_owned(), "k,count\n,1\na,1\n"),
    ] {
        let input = job.bench.write(name, content).display().to_string();
        let base = format!("run --store memory:/// --job j --key k --agg count --input {input}");
        let line = fails(&run(words(&base)), "input");
        assert!(line.contains(name) && line.contains("line=`"), "{line}");
        let output = run(words(&format!("{base} --on-bad-record skip")));
        assert!(output.status.success(), "{}", stderr(&output));
        assert_eq!(String::from_utf8(output.stdout).unwrap(), counted, "{name}");
    }
}

#[test]
fn d12_stores_that_cannot_be_used() {
    let job = Job::new();
    let file = job.bench.write("file", "not a folder");
    let output = run(job.with("--store", &format!("file://{}/sub", file.display())));
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    for verb in ["list", "inspect --job j", "verify --job j", "sweep --job j"] {
        let output = run(words(&format!("{verb} --store file:///nonexistent/alluvium")));
        let line = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{verb}: {line}");
        assert!(line.contains("error[not_found]"), "{verb}: {line}");
    }
    json(&run(job.args("")));
    let line = fails(&run(words(&format!("inspect --store {} --job other", job.bench.store("state")))), "not_found");
    assert!(line.contains("other"), "{line}");
}

#[test]
fn f08_a_manifest_of_a_newer_version_is_refused_and_kept() {
    let job = Job::new();
    json(&run(job.args("")));
    let folder = job.bench.path("state").join("j").join("manifest");
    let mut names: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    let newest = names.pop().unwrap();
    let mut bytes = fs::read(&newest).unwrap();
    // The envelope: magic 8, kind 1, reserved 1, version 2, flags 8, put-id 16, length 8, header checksum.
    bytes[10] = 9;
    let sum = crc32fast::hash(&bytes[..44]).to_le_bytes();
    bytes[44..48].copy_from_slice(&sum);
    let end = bytes.len() - 4;
    let sum = crc32fast::hash(&bytes[..end]).to_le_bytes();
    bytes[end..].copy_from_slice(&sum);
    fs::write(&newest, &bytes).unwrap();
    let line = fails(&run(job.args("")), "version");
    assert!(line.contains('9'), "{line}");
    assert_eq!(fs::read(&newest).unwrap(), bytes);
}

/// Returns the names of all files below `folder`.
fn files(folder: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for class in ["attempt", "data", "manifest"] {
        let entries = fs::read_dir(folder.join(class)).unwrap().map(|entry| entry.unwrap().file_name());
        found.extend(entries.map(|name| format!("{class}/{}", name.to_string_lossy())));
    }
    found
}

#[test]
fn a_dry_run_names_everything_it_would_delete() {
    let job = Job::new();
    for limit in 1..=3 {
        json(&run(job.args(&format!("--limit {limit}"))));
    }
    let folder = job.bench.path("state").join("j");
    // A dead attempt that claimed the job and uploaded data: the sweep's claim comes after it.
    let copy = |class: &str, to: &str| {
        let newest = files(&folder).into_iter().rfind(|name| name.starts_with(class)).unwrap();
        fs::copy(folder.join(newest), folder.join(class).join(to)).unwrap();
    };
    copy("attempt", "00000000000000000004");
    copy("data", &format!("4-{}", "ab".repeat(16)));
    let ids = |job: &Job| -> Vec<u64> {
        let checkpoints = job.list()["jobs"][0]["checkpoints"].clone();
        checkpoints.as_array().unwrap().iter().map(|checkpoint| checkpoint["id"].as_u64().unwrap()).collect()
    };
    let named = |plan: &Value, list: &str, field: &str| -> Vec<Value> {
        plan[list].as_array().unwrap().iter().map(|one| one[field].clone()).collect()
    };
    let sweep = |extra: &str| run(words(&format!("sweep --store {} --job j {extra}", job.bench.store("state"))));
    let (before, live) = (files(&folder), ids(&job));
    let dry = json(&sweep("--retain 1 --json"));
    let text = String::from_utf8(sweep("--retain 1").stdout).unwrap();
    assert_eq!((files(&folder), ids(&job)), (before.clone(), live.clone()), "a dry run changes nothing");
    let swept = json(&sweep("--retain 1 --delete --json"));
    let gone: Vec<String> = before.difference(&files(&folder)).cloned().collect();
    let left = ids(&job);
    let dropped: Vec<u64> = live.into_iter().filter(|id| !left.contains(id)).collect();
    assert!(dropped.len() >= 2 && gone.iter().any(|name| name.starts_with("data/4-")), "{dropped:?} {gone:?}");
    for plan in [&dry, &swept] {
        let mut objects: Vec<_> = named(plan, "deletable_objects", "object");
        objects.sort_by_key(ToString::to_string);
        assert_eq!(objects, gone, "{plan:#}");
        assert_eq!(named(plan, "dropped_checkpoints", "id"), dropped, "{plan:#}");
        assert!(named(plan, "dropped_checkpoints", "epoch").iter().all(Value::is_u64), "{plan:#}");
        assert_eq!(plan["deletable"]["objects"], gone.len(), "{plan:#}");
    }
    assert!(dropped.iter().all(|id| text.contains(&format!("would drop checkpoint {id} of epoch "))), "{text}");
    assert!(gone.iter().all(|name| text.contains(name)), "{text}");
}

#[cfg(unix)]
#[test]
fn d18_odd_files_beside_a_job_hide_nothing() {
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::fs::symlink;

    let job = Job::new();
    json(&run(job.args("--limit 2")));
    let state = job.bench.path("state");
    for folder in [state.clone(), state.join("j/manifest"), state.join("j/data"), state.join("j/attempt")] {
        fs::write(folder.join(std::ffi::OsStr::from_bytes(b"\xff")), "").unwrap();
        fs::write(folder.join("back\nwards"), "").unwrap();
        symlink(&state, folder.join("loop")).unwrap();
        symlink("itself", folder.join("itself")).unwrap();
        symlink("nowhere", folder.join("00000000000000000999")).unwrap();
        fs::create_dir_all(folder.join("00000000000000000777/x")).unwrap();
    }
    assert_eq!(json(&run(job.args("")))["restored_offset"], 2);
    let names: Vec<_> = job.list()["jobs"].as_array().unwrap().iter().map(|job| job["name"].clone()).collect();
    assert_eq!(names, ["j"]);
    let ask = |verb: &str| json(&run(words(&format!("{verb} --store {} --job j --json", job.bench.store("state")))));
    for verb in ["verify", "sweep", "sweep --delete", "verify"] {
        let found = ask(verb);
        assert_eq!(found["foreign"], 15, "{verb}: {found:#}");
        assert!(found["foreign_names"].to_string().contains("manifest/%FF (a name that no object has)"), "{found:#}");
    }
}
