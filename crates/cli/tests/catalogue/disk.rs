//! Disks that fill up, fail, lie and lose power, under a store in a folder and under the tool's results (D).

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use alluvium::internals::canary::{Canary, plant};
use alluvium::offline::{self, VerifyLevel};
use alluvium::{Access, ErrorKind, JobSettings, ManifestLog, RestoreFrom, open_url};

use crate::committed::on_folder;
use crate::folder::{Case, Emit, Ended, Scene};
use crate::shim::{Call, Shim, calls};
use alluvium_testkit::tool::{self, words};
use alluvium_testkit::{Counting, store};

const EPERM: i32 = 1;
const EIO: i32 = 5;
const ENFILE: i32 = 23;
const EMFILE: i32 = 24;
const ENOSPC: i32 = 28;
const EROFS: i32 = 30;
const ENOSYS: i32 = 38;
const EOPNOTSUPP: i32 = 95;
const EDQUOT: i32 = 122;

static TO_A_FILE: LazyLock<Scene> = LazyLock::new(|| Scene::new(Emit::End));
static IN_PARTS: LazyLock<Scene> = LazyLock::new(|| Scene::new(Emit::OnClose));

/// Runs the job once for each call named `name`, with `fault` at that call, and checks each run.
fn at_every(scene: &Scene, name: &str, what: &str, fault: impl Fn(Shim, usize) -> Shim) {
    for at in 1.. {
        let case = scene.copy();
        let ended = case.run(&fault(case.shim(), at));
        case.check(&ended, &format!("{what} at {name} {at}"));
        let calls = ended.calls.iter().filter(|call| name == "any" || call.name == name).count();
        if ended.code.is_some() && calls < at {
            assert!(at > 1, "{name} is never called");
            return;
        }
    }
}

/// As [`at_every`], with refused calls: each call alone, and each with all later calls.
fn refused_at_every(scene: &Scene, name: &str, errno: i32) {
    for count in [1, 1_000_000] {
        at_every(scene, name, &format!("error {errno}, {count} times"), |shim, at| shim.refuse(name, at, count, errno));
    }
}

#[test]
fn d01_a_kill_before_any_call() {
    at_every(&TO_A_FILE, "any", "kill", |shim, at| shim.kill("any", at, "before"));
}

#[test]
fn d01_a_kill_after_any_call() {
    at_every(&IN_PARTS, "any", "kill", |shim, at| shim.kill("any", at, "after"));
}

#[test]
fn d02_blocks_that_were_not_written_are_found() {
    const BLOCK: usize = 64;
    let scene = &*IN_PARTS;
    let (newest, rows) = scene.committed.0.last_key_value().unwrap();
    let case = scene.copy();
    for folder in ["manifest", "data"] {
        for file in fs::read_dir(case.path("state/j").join(folder)).unwrap().map(|file| file.unwrap().path()) {
            let whole = fs::read(&file).unwrap();
            for start in (0..whole.len()).step_by(BLOCK) {
                // The length was written but not the rest, or one block was not.
                for end in [whole.len(), whole.len().min(start + BLOCK)] {
                    let mut bytes = whole.clone();
                    bytes[start..end].fill(0);
                    if bytes == whole {
                        continue;
                    }
                    fs::write(&file, &bytes).unwrap();
                    let what = format!("{} without {start}..{end}", file.display());
                    let (damaged, restorable) = on_folder(&case.store(), async |store| {
                        let chain = ManifestLog::load(store).await.unwrap();
                        let report = offline::verify(store, &chain, VerifyLevel::Full, &|_, _| {}).await.unwrap();
                        (report.damaged, report.restorable)
                    });
                    let void = restorable.len() == scene.committed.0.len();
                    assert!(void || !damaged.is_empty(), "{what} is not found");
                }
            }
            fs::write(&file, &whole).unwrap();
        }
    }
    assert!(!rows.is_empty() && newest.0 > 3);
    scene.committed.check_folder(&case.store(), "all is written");
}

/// Checks that a file is synced before it gets its name, that a name is durable before the next one, and that no failed
/// sync is repeated over the same changes. Returns the first violation.
pub(crate) fn order_of_syncs(calls: &[Call]) -> Result<(), String> {
    let [mut files, mut names, mut failed] = [(); 3].map(|()| BTreeSet::<String>::new());
    let folder = |path: &str| Path::new(path).parent().unwrap().display().to_string();
    for Call { name, path, refused, failed: fell } in calls {
        if *refused && name == "fsync" {
            failed.insert(path.clone());
        }
        if *refused || *fell {
            continue;
        }
        if ["create", "unlink", "link", "rename", "mkdir"].contains(&name.as_str()) {
            failed.remove(path);
            failed.remove(&folder(path));
        }
        match name.as_str() {
            "write" => drop(files.insert(path.clone())),
            "unlink" => drop(files.remove(path)),
            "fsync" if failed.contains(path) => return Err(format!("{path} was synced again and trusted")),
            "fsync" => {
                files.remove(path);
                names.retain(|name| folder(name) != *path);
            }
            "link" | "rename" => {
                if let Some(file) = files.first() {
                    return Err(format!("{path} got its name before {file} was synced"));
                }
                if let Some(before) = names.first() {
                    return Err(format!("{path} got its name before the name {before} was durable"));
                }
                names.insert(path.clone());
            }
            "mkdir" => drop(names.insert(path.clone())),
            _ => {}
        }
    }
    match files.first().or_else(|| names.first()) {
        Some(left) => Err(format!("{left} was never synced")),
        None => Ok(()),
    }
}

#[test]
fn d03_names_come_after_content_and_are_made_durable() {
    let case = TO_A_FILE.copy();
    let ended = case.run(&case.shim());
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.calls.iter().filter(|call| call.name == "link").count() >= 4, "{:?}", ended.calls);
    order_of_syncs(&ended.calls).unwrap();
    // A new job also makes its folders.
    fs::remove_dir_all(case.path("state")).unwrap();
    let ended = case.run(&case.shim());
    assert!(ended.calls.iter().any(|call| call.name == "mkdir"), "{:?}", ended.calls);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    order_of_syncs(&ended.calls).unwrap();
}

/// Environment variables for [`a_job_in_a_folder`]: its folder, and whether it skips syncs.
const FOLDER: &str = "CATALOGUE_FOLDER";
const SKIPS_SYNC: &str = "CATALOGUE_SKIPS_SYNC";

/// Runs in a separate process for [`syncs_of_a_job`], because the tool has no switch for planted bugs.
#[test]
fn a_job_in_a_folder() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    plant(std::env::var_os(SKIPS_SYNC).map(|_| Canary::SkipSync));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let url = format!("file://{}", folder.display());
        let mut job = Counting::fresh(&open_url(&url, Access::Write).unwrap().0, 1).await;
        job.add(0..10).unwrap();
        job.checkpoint().await.unwrap().unwrap();
    });
}

/// Returns whether a job in a folder keeps the order of syncs, optionally with a planted bug.
pub(crate) fn syncs_of_a_job(planted: Option<Canary>) -> Result<(), String> {
    let folder = tempfile::tempdir().unwrap();
    let (store, log) = (folder.path().join("store"), folder.path().join("calls"));
    fs::create_dir(&store).unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "disk::a_job_in_a_folder"]).stdout(Stdio::null()).env(FOLDER, &store);
    if planted == Some(Canary::SkipSync) {
        command.env(SKIPS_SYNC, "1");
    }
    Shim::below(&store).under(&mut command, &log);
    assert!(command.status().unwrap().success());
    let calls = calls(&log);
    assert!(calls.iter().filter(|call| call.name == "link" && !call.failed).count() >= 4, "{calls:?}");
    order_of_syncs(&calls)
}

#[test]
fn d04_a_sync_that_failed_is_not_called_good() {
    refused_at_every(&IN_PARTS, "fsync", EIO);
    for name in ["fsync", "open"] {
        let errno = if name == "fsync" { EIO } else { EMFILE };
        for at in 1.. {
            let case = TO_A_FILE.copy();
            let ended = case.run(&case.shim().refuse(name, at, 1, errno));
            case.check(&ended, &format!("{name} {at} fails"));
            if ended.code == Some(0) {
                order_of_syncs(&ended.calls)
                    .unwrap_or_else(|wrong| panic!("{name} {at} failed: {wrong}: {:#?}", ended.calls));
            }
            if !ended.calls.iter().any(|call| call.refused) {
                assert!(at > 5, "{at} calls");
                break;
            }
        }
    }
}

#[test]
fn d05_no_space_at_any_write() {
    refused_at_every(&TO_A_FILE, "write", ENOSPC);
    refused_at_every(&IN_PARTS, "write", ENOSPC);
}

#[test]
fn d05_no_space_for_names() {
    for name in ["create", "link", "rename"] {
        refused_at_every(&TO_A_FILE, name, ENOSPC);
    }
    // A new job makes its folders.
    for at in 1..=8 {
        let case = TO_A_FILE.copy();
        fs::remove_dir_all(case.path("state")).unwrap();
        case.run(&case.shim().refuse("mkdir", at, 1, ENOSPC));
        case.check_result();
    }
}

#[test]
fn d19_a_file_system_without_hard_links_is_refused_at_once() {
    for errno in [EPERM, ENOSYS, EOPNOTSUPP] {
        let case = TO_A_FILE.copy();
        let ended = case.run(&case.shim().refuse("link", 1, 1_000_000, errno));
        let last = ended.stderr.lines().last().unwrap_or_default();
        assert!(last.starts_with("error[config]: ") && last.contains("hard links"), "{errno}: {}", ended.stderr);
        assert_eq!((ended.code, ended.calls.iter().filter(|call| call.refused).count()), (Some(1), 1), "{errno}");
    }
}

#[test]
fn d06_no_files_no_quota_no_writing() {
    refused_at_every(&TO_A_FILE, "create", EMFILE);
    refused_at_every(&TO_A_FILE, "open", ENFILE);
    refused_at_every(&IN_PARTS, "write", EDQUOT);
    refused_at_every(&IN_PARTS, "create", EROFS);
}

#[test]
fn d07_calls_that_are_interrupted_or_do_one_byte_are_gone_on_with() {
    for scene in [&*TO_A_FILE, &*IN_PARTS] {
        let case = scene.copy();
        let ended = case.run(&case.shim().with("SHIM_BYTES", 1));
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        assert!(ended.calls.iter().filter(|call| call.name == "write").count() > 1000);
        case.check(&ended, "byte by byte");
    }
}

#[test]
fn d08_rot_in_a_folder_is_found_before_it_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("file://{}", folder.path().display());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let objects = open_url(&url, Access::Write).unwrap().0;
        let mut job = Counting::fresh(&objects, 1).await;
        job.add(0..40).unwrap();
        job.checkpoint().await.unwrap().unwrap();
        let data = fs::read_dir(folder.path().join("job/data")).unwrap().next().unwrap().unwrap().path();
        let whole = fs::read(&data).unwrap();
        for at in (48..whole.len()).step_by(5) {
            let mut rotten = whole.clone();
            rotten[at] ^= 0x10;
            fs::write(&data, rotten).unwrap();
            let opened = Counting::open_on(store(&objects), 2, JobSettings::default(), RestoreFrom::Newest).await;
            match opened {
                Ok(opened) => assert_eq!(opened.expected, job.expected, "byte {at}"),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Corrupt, "byte {at}: {}", error.chain()),
            }
        }
    });
}

#[test]
fn d09_a_file_that_is_cut_or_removed_under_a_job_is_an_error_that_names_it() {
    let scene = &*TO_A_FILE;
    for cut in [true, false] {
        let case = scene.copy();
        let data = fs::read_dir(case.path("state/j/data")).unwrap().map(|file| file.unwrap().path());
        let data: Vec<_> = data.collect();
        for file in &data {
            let length = fs::metadata(file).unwrap().len();
            if cut {
                fs::File::options().write(true).open(file).unwrap().set_len(length / 2)
            } else {
                fs::remove_file(file)
            }
            .unwrap();
        }
        let ended = case.run(&case.shim());
        let last = ended.stderr.lines().last().unwrap();
        assert!(ended.code == Some(1) && last.starts_with("error[corrupt]"), "{}", ended.stderr);
        let named = data.iter().any(|file| last.contains(file.file_name().unwrap().to_str().unwrap()));
        assert!(named, "{last}");
    }
    // `tests/tidy.rs` forbids memory-mapped files, because truncating one would kill the process.
}

/// An attempt stopped before any call on its result, and continued once its successor has finished.
#[test]
fn d10_an_attempt_that_sleeps_at_any_call_replaces_nothing() {
    let from = format!("--checkpoint {}", IN_PARTS.committed.0.last_key_value().unwrap().0);
    for (scene, calls_on, extra) in [
        (&*TO_A_FILE, ".staged", ""),
        (&*TO_A_FILE, "out.csv", ""),
        (&*IN_PARTS, "parts", ""),
        (&*IN_PARTS, "parts", from.as_str()),
    ] {
        for at in 1.. {
            let case = scene.copy();
            let shim = Shim::below(&case.path(calls_on)).stop("any", at);
            let parts = || {
                fs::read_dir(case.path("parts")).map_or(0, |names| {
                    names
                        .filter(|name| name.as_ref().unwrap().file_name().to_string_lossy().starts_with("part-"))
                        .count()
                })
            };
            let before = parts();
            let Some(mut older) = case.start_until_stopped(&shim) else {
                assert!(at > 1, "{calls_on}: never stopped");
                break;
            };
            if !extra.is_empty() && parts() > before {
                // Once the older attempt has published a part, no run may restart before that part.
                tool::kill(&mut older);
                break;
            }
            // Before its claim it is not the older attempt; after its rename it has finished.
            let begun = fs::read_dir(case.path("state/j/attempt")).unwrap().count() > 3;
            let sleeps = begun && !case.path("out.csv").exists();
            case.run_on(extra);
            case.check_output(true, "the newer attempt");
            let result = fs::metadata(case.path("out.csv")).ok().map(|result| result.ino());
            assert!(Command::new("kill").args(["-CONT", &older.id().to_string()]).status().unwrap().success());
            let ended = older.wait_with_output().unwrap();
            let what = format!("stopped at {calls_on} {at}");
            if sleeps {
                tool::fails(&ended, "fenced");
                assert_eq!(fs::metadata(case.path("out.csv")).ok().map(|result| result.ino()), result, "{what}");
            } else {
                assert!(ended.status.success(), "{what}: {}", tool::stderr(&ended));
            }
            case.check_output(true, &what);
            case.run_on("");
            case.check_nothing_is_left(&what);
        }
    }
}

#[test]
fn d11_a_folder_is_claimed_whole_or_not_at_all() {
    for fault in ["no space", "kill"] {
        for at in 1.. {
            let case = IN_PARTS.copy();
            fs::remove_file(case.path("parts/_owner.json")).unwrap();
            let below = Shim::below(&case.path("parts"));
            let shim =
                if fault == "kill" { below.kill("any", at, "after") } else { below.refuse("any", at, 1, ENOSPC) };
            let ended = case.run(&shim);
            case.check(&ended, &format!("{fault} at call {at}"));
            assert!(case.path("parts/_owner.json").is_file());
            if ended.calls.iter().filter(|call| call.name != "read").count() < at {
                assert!(at > 8, "{at} calls");
                break;
            }
        }
    }
}

#[test]
fn d11_what_dead_runs_left_is_removed_if_it_is_its_own_and_nothing_else() {
    let case = TO_A_FILE.copy();
    let job = on_folder(&case.store(), async |store| {
        ManifestLog::load(store).await.unwrap().newest_readable().unwrap().manifest.job
    });
    let own = [1, 2].map(|attempt| format!(".staged-{job}-{attempt}-out.csv"));
    let foreign = [
        format!(".staged-{job}-01-out.csv"),
        format!(".staged-{job}-x-out.csv"),
        format!(".staged-{job}-999-out.csv"),
        format!(".staged-{job}-1-other.csv"),
        format!("staged-{job}-1-out.csv"),
        format!(".staged-{job}-1-out.csv.bak"),
        format!(".staged-{}-1-out.csv", "0".repeat(32)),
    ];
    let own = own.map(|name| case.path(&name));
    let foreign = foreign.map(|name| case.path(&name));
    own.iter().chain(&foreign).for_each(|path| fs::write(path, "left over").unwrap());
    // Remains of a dead upload have names that listings hide and uploads do not wait for.
    let staged = |n: usize| case.path("state/j").join(["data", "manifest"][n % 2]).join(format!("{:020}#{n}", n / 10));
    (1..=10_000).for_each(|n| fs::write(staged(n), "left over").unwrap());
    let ended = case.run(&case.shim());
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(own.iter().all(|path| !path.exists()));
    assert!(foreign.iter().all(|path| path.exists()));
    foreign.iter().for_each(|path| fs::remove_file(path).unwrap());
    case.check(&ended, "10,000 left-over files");
}

#[test]
fn d12_a_folder_that_cannot_be_written_is_refused_at_the_start() {
    let case = TO_A_FILE.copy();
    let ended = case.run(&case.shim().refuse("create", 1, 1_000_000, EROFS));
    let last = ended.stderr.lines().last().unwrap();
    assert!(ended.code == Some(1) && last.starts_with("error[denied]"), "{}", ended.stderr);
    assert!(last.contains("probe/"), "before anything is claimed: {last}");
    case.check(&ended, "a folder without rights");
}

#[test]
fn d12_a_link_in_the_place_of_the_result_is_replaced_and_not_followed() {
    let case = TO_A_FILE.copy();
    let victim = case.path("state").join("victim");
    fs::write(&victim, "precious").unwrap();
    symlink(&victim, case.path("out.csv")).unwrap();
    let ended = case.run(&case.shim());
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    assert!(fs::symlink_metadata(case.path("out.csv")).unwrap().is_file());
    case.check(&ended, "a link in the place of the result");
}

#[test]
fn d16_files_are_staged_beside_their_names() {
    for scene in [&*TO_A_FILE, &*IN_PARTS] {
        let case = scene.copy();
        let ended = case.run(&case.shim().with("TMPDIR", "/nonexistent"));
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        let folder = |call: &Call| Path::new(&call.path).parent().unwrap().to_owned();
        let of = |names: &[&str]| -> BTreeSet<_> {
            ended.calls.iter().filter(|call| names.contains(&call.name.as_str())).map(folder).collect()
        };
        assert_eq!(of(&["create"]), of(&["link", "rename"]));
    }
}

/// Runs a tool that copies out of a job, with each of its calls refused or followed by a kill. Checks that the job is
/// unchanged and that, according to `whole`, the copy is complete or absent.
fn copies(args: &str, whole: impl Fn(&Case<'_>) -> Option<bool>) {
    let scene = &*TO_A_FILE;
    for fault in ["no space", "kill"] {
        for at in 1.. {
            let case = scene.copy();
            let to = case.path("copy");
            fs::create_dir(&to).unwrap();
            let args = words(&args.replace("{store}", &case.store()).replace("{to}", &to.display().to_string()));
            let below = Shim::below(&to);
            let shim =
                if fault == "kill" { below.kill("any", at, "after") } else { below.refuse("any", at, 1, ENOSPC) };
            let ended: Ended = case.tool(&shim, args);
            let what = format!("{fault} at call {at}");
            scene.committed.check_folder(&case.store(), &what);
            let found = whole(&case);
            assert_ne!(found, Some(false), "{what}: half a copy");
            assert!(ended.code != Some(0) || found == Some(true), "{what}: {}", ended.stderr);
            if ended.calls.iter().filter(|call| call.name != "read").count() < at {
                assert!(at > 4 && ended.code == Some(0), "{what}: {}", ended.stderr);
                break;
            }
        }
    }
}

#[test]
fn d05_an_export_is_there_whole_or_not_at_all() {
    let case = TO_A_FILE.copy();
    let export = "export --store {store} --job j --table aggregates --output {to}/rows.csv";
    let output = tool::run(words(
        &export.replace("{store}", &case.store()).replace("{to}", &case.path("").display().to_string()),
    ));
    assert!(output.status.success(), "{}", tool::stderr(&output));
    let expected = fs::read(case.path("rows.csv")).unwrap();
    copies(export, |case| fs::read(case.path("copy/rows.csv")).ok().map(|found| found == expected));
}

#[test]
fn d05_a_restore_elsewhere_is_there_whole_or_not_at_all() {
    copies("restore --store {store} --job j --to file://{to}", |case| {
        on_folder(&format!("file://{}", case.path("copy").display()), async |store| {
            let chain = ManifestLog::load(store).await.unwrap();
            if chain.end().0 == 0 {
                return None;
            }
            let report = offline::verify(store, &chain, VerifyLevel::Full, &|_, _| {}).await.unwrap();
            Some(report.damaged.is_empty() && report.restorable.len() == 1)
        })
    });
}
