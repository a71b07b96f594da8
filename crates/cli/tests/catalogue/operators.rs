//! Names, lengths, user code and operator actions (D, F, G).

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::SystemTime;

use alluvium::internals::envelope;
use alluvium::internals::envelope::ObjectKind;
use alluvium::internals::store::{Key, KeyClass, Put};
use alluvium::manifest::{ObjectId, PutId};
use alluvium::{Attempt, ErrorKind, Result, Runtime as _, TokioRuntime};
use object_store::ObjectStore;
use object_store::memory::InMemory;

use crate::sim::{Rig, small};
use alluvium_testkit::tool::{Bench, fails, json, run, stderr, tool, words};
use alluvium_testkit::{self, Counting, Door, Gate};

/// Returns a single-threaded runtime.
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// A job of the tool with three checkpoints.
struct Job {
    bench: Bench,
    store: String,
    input: String,
}

impl Job {
    fn new() -> Self {
        let bench = Bench::new();
        let records: String = (0..40).map(|n| format!("key{},{n}\n", n % 7)).collect();
        let input = bench.write("in.csv", "k,v\n".to_owned() + &records).display().to_string();
        let job = Self { store: bench.store("state"), bench, input };
        for limit in [10, 20, 30] {
            json(&run(job.args(&format!("--limit {limit}"))));
        }
        job
    }

    fn args(&self, extra: &str) -> Vec<String> {
        let Self { store, input, .. } = self;
        words(&format!("run --store {store} --job j --json --input {input} --key k --agg count,sum:v {extra}"))
    }

    /// Runs another command on the job.
    fn on(&self, command: &str) -> Vec<String> {
        words(&format!("{command} --store {}", self.store))
    }
}

/// Returns every file below a folder with its content and modification time.
fn files(folder: &Path) -> Vec<(String, Vec<u8>, SystemTime)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap()) {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            let changed = entry.metadata().unwrap().modified().unwrap();
            found.push((path.display().to_string(), fs::read(&path).unwrap(), changed));
        }
    }
    found.sort();
    found
}

#[test]
pub(crate) fn d13_names_are_drawn_and_never_told_by_a_clock() {
    let rig = Rig::new();
    let mut seen = BTreeSet::new();
    for node in [0, 1] {
        // Both attempts start at the same time of day.
        rig.sim.skew_clock(node, -i64::try_from(rig.sim.now_ms()).unwrap());
        let mut job = rig.open(node, 2, small()).unwrap();
        for round in 0..3 {
            job = rig.on(node, async move {
                job.add(round..round + 9).unwrap();
                job.checkpoint().await.unwrap().unwrap();
                job
            });
        }
        seen.extend(rig.keys("data"));
    }
    assert_eq!(seen.len(), 6);
    let randoms: BTreeSet<_> = seen.iter().map(|key| key.rsplit_once('-').unwrap().1).collect();
    assert_eq!(randoms.len(), 6, "{seen:?}");
}

#[test]
pub(crate) fn d15_what_is_longer_than_it_may_be_is_not_read() {
    runtime().block_on(async {
        let objects: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let store = alluvium_testkit::store(&objects);
        let key = Key::Data(ObjectId { attempt: Attempt(1), random: [1; 16] });
        let object = envelope::encode(ObjectKind::Pack, PutId([1; 16]), &[0; 100_000]);
        assert_eq!(store.folder().put_new(&key, PutId([1; 16]), object).await.unwrap(), Put::Created);
        let error = store.folder().read(&key, 65_536).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(error.message().contains("limit=`65536`"), "{error}");
        assert_eq!(store.requests().get_bytes, 0, "none of it was taken in");
    });
}

#[test]
fn f14_a_target_that_is_not_empty_is_refused_and_left_alone() {
    let job = Job::new();
    for (at, name) in ["data/notes.txt", "manifest/00000000000000000001", "attempt/x"].into_iter().enumerate() {
        let target = job.bench.path(&format!("target{at}"));
        let file = target.join("j").join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, "mine").unwrap();
        for verb in ["restore", "savepoint"] {
            let before = files(&target);
            fails(&run(job.on(&format!("{verb} --job j --to file://{}", target.display()))), "config");
            assert_eq!(files(&target), before, "{verb} over {name}");
        }
    }
    // Unrelated objects beside the job are no obstacle, and stay.
    let target = job.bench.path("shared");
    fs::create_dir_all(target.join("other")).unwrap();
    fs::write(target.join("other/notes.txt"), "mine").unwrap();
    let output = run(job.on(&format!("restore --job j --to file://{}", target.display())));
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(fs::read_to_string(target.join("other/notes.txt")).unwrap(), "mine");
}

#[test]
fn g01_names_that_are_paths_are_refused() {
    let job = Job::new();
    let long = "x".repeat(4096);
    for name in ["../../etc/x", "/etc/x", "..", "a\\b", "%2e%2e", "a/../b", "ü", "a b", " ", ".hidden", &long] {
        for command in ["list", "inspect", "verify", "run"] {
            let mut args = if command == "run" { job.args("") } else { job.on(&format!("{command} --job j")) };
            let at = args.iter().position(|arg| arg == "--job").unwrap();
            args[at + 1] = name.to_owned();
            fails(&run(&args), "config");
        }
    }
    assert_eq!(fs::read_dir(job.bench.path("state")).unwrap().count(), 1, "nothing was made");
}

#[test]
fn g04_a_count_that_cannot_be_is_refused_before_room_is_made_for_it() {
    let job = Job::new();
    let put_id = PutId([7; 16]);
    // A manifest whose list of objects claims 2^40 bytes; one with a name of 2^62 bytes; a pack of 2^40 slices.
    let long = |tag: u8, shift: u32| {
        let mut body = vec![tag];
        let mut length = 1u64 << shift;
        while length > 0x7f {
            body.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
            length >>= 7;
        }
        body.push(u8::try_from(length).unwrap());
        body.extend([0; 10]);
        body
    };
    for body in [long(13 << 3 | 2, 40), long(9 << 3 | 2, 62), long(7 << 3 | 2, 63)] {
        let path = job.bench.path(&format!("state/j/manifest/{:020}", 99));
        fs::write(&path, envelope::encode(ObjectKind::Manifest, put_id, &body)).unwrap();
        for verb in ["inspect", "export --table aggregates --output /dev/null/x.csv"] {
            let args = job.on(&format!("{verb} --job j"));
            // With a memory limit of 256 MiB.
            let mut limited = std::process::Command::new("sh");
            limited.args(["-c", "ulimit -d 262144; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_alluvium")]).args(args);
            let line = fails(&limited.output().unwrap(), "corrupt");
            assert!(line.contains("manifest/00000000000000000099"), "{line}");
        }
        fs::remove_file(path).unwrap();
    }
}

#[test]
fn g05_a_stream_that_is_closed_ends_in_an_error_and_no_half_file() {
    let job = Job::new();
    for command in ["list", "inspect --job j", "verify --job j", "sweep --job j"] {
        for full in [false, true] {
            let mut command = tool(job.on(command));
            if full {
                command.stdout(fs::File::options().write(true).open("/dev/full").unwrap());
            } else {
                let (reader, writer) = std::io::pipe().unwrap();
                drop(reader);
                command.stdout(writer);
            }
            let line = fails(&command.output().unwrap(), "unavailable");
            assert!(line.contains("standard output"), "{line}");
        }
    }
    // Also for standard error.
    let mut command = tool(job.on("inspect --job nope"));
    command.stderr(fs::File::options().write(true).open("/dev/full").unwrap());
    assert_eq!(command.status().unwrap().code(), Some(1));
    // Also for standard input.
    let mut args = job.args(&format!("--output {}", job.bench.path("out.csv").display()));
    let at = args.iter().position(|arg| arg == "--input").unwrap();
    args[at + 1] = "-".to_owned();
    let at = args.iter().position(|arg| arg == "j").unwrap();
    args[at] = "another".to_owned();
    fails(&run(&args), "input");
    assert!(!job.bench.path("out.csv").exists());
    // A full device in place of the result's folder.
    fails(&run(job.args("--output /dev/full/out.csv")), "config");
}

#[test]
fn g06_tools_that_look_change_nothing() {
    let job = Job::new();
    let ids: Vec<u64> = {
        let listed = json(&run(job.on("list --job j --json")));
        let text = listed.to_string();
        (1..50).filter(|id| text.contains(&format!("\"id\":{id},"))).collect()
    };
    assert!(ids.len() >= 2, "{ids:?}");
    let before = files(&job.bench.path("state"));
    let looks = [
        "list".to_owned(),
        "list --job j".into(),
        "inspect --job j".into(),
        "verify --job j --level full".into(),
        format!("diff --job j --from {} --to {}", ids[0], ids[1]),
        format!("export --job j --table aggregates --output {}", job.bench.path("rows.csv").display()),
        "rescale --job j --parallelism 3 --dry-run".into(),
        "sweep --job j".into(),
        format!("savepoint --job j --to {}", job.bench.store("savepoint")),
        format!("restore --job j --to {}", job.bench.store("restored")),
    ];
    for look in looks {
        let output = run(job.on(&look));
        assert!(matches!(output.status.code(), Some(0 | 3)), "{look}: {}", stderr(&output));
        assert!(files(&job.bench.path("state")) == before, "{look} changed the store");
    }
}

#[test]
fn g07_deleting_is_asked_for_and_never_takes_what_can_be_restored() {
    let job = Job::new();
    let orphan = job.bench.path(&format!("state/j/data/1-{}", "ab".repeat(16)));
    fs::write(&orphan, "what a dead upload left").unwrap();
    let before = files(&job.bench.path("state"));
    for dry in ["sweep --job j", "sweep --job j --dry-run", "sweep --job j --retain 1"] {
        assert!(run(job.on(dry)).status.success());
        assert!(files(&job.bench.path("state")) == before, "{dry}");
    }
    assert_eq!(run(job.on("sweep --job j --dry-run --delete")).status.code(), Some(2));
    assert_eq!(run(job.on("sweep --job j --delete --retain 0")).status.code(), Some(2));
    assert!(run(job.on("sweep --job j --delete --retain 1")).status.success());
    assert!(!orphan.exists());
    assert!(run(job.on("verify --job j --level full")).status.success());
    assert_eq!(json(&run(job.args("")))["restored_offset"], 30, "the newest checkpoint remains");
}

#[test]
fn g08_a_listing_takes_a_bounded_room() {
    // At most 16 Mi names, each held as numbers instead of text.
    assert!(size_of::<(Key, u64)>() <= 40);
    runtime().block_on(async {
        let gate = Gate::new();
        for n in 0..20_000u64 {
            gate.damage(&format!("job/manifest/{n:020}"), Some("x".into())).await;
        }
        let listing = alluvium_testkit::store(&gate.objects()).folder().list(KeyClass::Manifest).await.unwrap();
        assert_eq!(listing.entries.len(), 20_000);
        assert!(listing.entries.capacity() <= 2 * 20_000);
    });
}

/// Answers every request with its own content, as a malicious endpoint might.
fn echo(listener: TcpListener) {
    for stream in listener.incoming().map_while(Result::ok) {
        let mut stream = stream;
        let mut request = vec![0; 16_384];
        let length = stream.read(&mut request).unwrap_or(0);
        let body = String::from_utf8_lossy(&request[..length]).into_owned();
        let head = format!("HTTP/1.1 403 Forbidden\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
        drop(stream.write_all((head + &body).as_bytes()));
    }
}

#[test]
fn g10_secrets_are_in_no_log_and_no_error() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || echo(listener));
    let job = Job::new();
    let secrets = ["PLANTED-SECRET-KEY", "PLANTED-TOKEN", "UExBTlRFRC1BQ0NPVU5ULUtFWQ==", "PLANTED-PASSWORD"];
    let mut stores = vec!["s3://bucket/prefix", "az://container/prefix", "gs://bucket/prefix"];
    let carrying =
        ["s3://user:PLANTED-PASSWORD@bucket/x", "s3://bucket/x?token=PLANTED-TOKEN", "s3://bu#PLANTED-TOKEN"];
    stores.extend(carrying);
    let key_file = job.bench.write("gcs.json", r#"{"private_key":"PLANTED-SECRET-KEY","disable_oauth":true}"#);
    let mut text = String::new();
    for store in stores {
        for command in ["list", "verify --job j", "run --input IN --key k --agg count --job j"] {
            let command = command.replace("IN", &job.input);
            let mut tool = tool(words(&format!("{command} --store {store}")));
            tool.env("RUST_LOG", "trace").env("RUST_BACKTRACE", "1");
            tool.env("AWS_ACCESS_KEY_ID", "AKIAPLANTED").env("AWS_SECRET_ACCESS_KEY", secrets[0]);
            tool.env("AWS_SESSION_TOKEN", secrets[1]).env("AWS_ENDPOINT", &endpoint).env("AWS_ALLOW_HTTP", "true");
            tool.env("AWS_REGION", "here").env("AZURE_STORAGE_ACCOUNT_NAME", "planted");
            tool.env("AZURE_STORAGE_ACCOUNT_KEY", secrets[2]).env("AZURE_STORAGE_ENDPOINT", &endpoint);
            tool.env("AZURE_ALLOW_HTTP", "true").env("GOOGLE_SERVICE_ACCOUNT", &key_file);
            tool.env("GOOGLE_SERVICE_ACCOUNT_KEY", secrets[0]);
            let output = tool.output().unwrap();
            text += &String::from_utf8_lossy(&output.stdout);
            text += &stderr(&output);
        }
    }
    // A manifest key: the right one, another job's, and a malformed one.
    let keys =
        ["5ec4e7".to_owned() + &"0a".repeat(29), "5ec4e7".to_owned() + &"0b".repeat(29), "5ec4e7-short".to_owned()];
    for (at, key) in keys.iter().enumerate() {
        let file = job.bench.write(&format!("key{at}"), key).display().to_string();
        let store = format!("--store {} --job signed --manifest-key {file}", job.bench.store("signed"));
        for command in
            [format!("run --input {} --key k --agg count --json {store}", job.input), format!("verify {store}")]
        {
            let output = tool(words(&command)).env("RUST_LOG", "trace").output().unwrap();
            assert_eq!(output.status.success(), at == 0, "{command}: {}", stderr(&output));
            text += &String::from_utf8_lossy(&output.stdout);
            text += &stderr(&output);
        }
    }
    assert!(text.contains("checkpoint committed") && (text.contains("/prefix") || !cfg!(feature = "aws")), "{text}");
    for secret in secrets.into_iter().chain(["5ec4e7"]) {
        let line = text.lines().find(|line| line.contains(secret));
        assert!(line.is_none(), "{}", line.unwrap_or_default());
    }
}

#[tokio::test]
async fn g11_a_panic_in_users_code_changes_nothing() -> Result<()> {
    let gate = Gate::new();
    let mut job = Counting::fresh(&gate.objects(), 1).await;
    job.add(0..20)?;
    let panicking = job.counts.remove(0);
    let state = job.tasks[0].state();
    for key in [3u32, 999] {
        state.set_key(&key.to_be_bytes())?;
        let update = || panicking.update(state, |_| panic!("in the user's code"));
        assert!(catch_unwind(AssertUnwindSafe(update)).is_err());
    }
    job.counts.push(panicking);
    assert_eq!(job.content()?, job.expected);
    job.add(10..30)?;
    job.checkpoint().await?.unwrap();
    job.reopen(&gate.objects(), 2).await;
    Ok(())
}

/// Everything runs on one thread, so a call that blocked on the store would deadlock.
#[tokio::test]
async fn g13_uploads_that_hang_hold_up_no_record_and_no_barrier() -> Result<()> {
    let gate = Gate::new();
    let mut job = Counting::fresh(&gate.objects(), 2).await;
    job.add(0..100)?;
    job.checkpoint().await?.unwrap();
    gate.set(Door::Silent);
    let mut barriers = 0;
    for round in 0..50 {
        job.add(round..round + 30)?;
        barriers += u32::from(job.barrier().is_ok());
        tokio::task::yield_now().await;
    }
    assert_eq!(barriers, 2, "two are under way");
    assert_eq!(job.content()?, job.expected);
    Ok(())
}

#[test]
fn g14_any_year_will_do() {
    for years in [-150, -57, 300, 10_000] {
        let job = Job::new();
        let shim = crate::shim::Shim::below(Path::new("/nonexistent")).with("SHIM_YEARS", years);
        let mut command = tool(job.args(&format!("--output {}", job.bench.path("out.csv").display())));
        shim.under(&mut command, &job.bench.path("calls"));
        let report = json(&command.output().unwrap());
        assert_eq!((&report["records"], &report["restored_offset"]), (&40.into(), &30.into()), "{years} years away");
        for look in ["list --job j", "inspect --job j", "verify --job j"] {
            let output = run(job.on(look));
            assert!(output.status.success(), "{years} years away: {}", stderr(&output));
        }
        assert_eq!(json(&run(job.args("")))["restored_offset"], 40);
    }
    // Beyond any real clock.
    let rig = Rig::new();
    for (node, skew) in [(0, i64::MIN / 2), (1, i64::MAX / 2), (2, i64::MIN / 2)] {
        rig.sim.skew_clock(node, skew);
        let mut job = rig.open(node, 2, small()).unwrap();
        rig.on(node, async move {
            job.add(0..10).unwrap();
            job.checkpoint().await.unwrap().unwrap();
        });
    }
}

#[tokio::test]
async fn g15_every_draw_is_the_systems() {
    let (one, other) = (TokioRuntime::current(), TokioRuntime::current());
    let draws: BTreeSet<u128> = (0..1000).flat_map(|_| [one.random(), other.random()]).collect();
    assert_eq!(draws.len(), 2000);
    // The process keeps no generator state that a fork or a copy would repeat.
    let root = alluvium_testkit::root();
    let adapter = fs::read_to_string(root.join("src/tokio_runtime.rs")).unwrap();
    assert!(adapter.contains("getrandom::fill"));
    let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap();
    let dependencies = manifest.split("[dependencies]").nth(1).unwrap().split("[dev-dependencies]").next().unwrap();
    assert!(!dependencies.lines().any(|line| line.starts_with("rand") || line.starts_with("fastrand")));
}
