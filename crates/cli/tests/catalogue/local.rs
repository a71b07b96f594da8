//! Local copies on disks that fill up, fail and are killed under (D): a run never needs them.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::LazyLock;

use crate::folder::{Case, Emit, Ended, Scene};
use crate::shim::{Call, Shim};

const EIO: i32 = 5;
const ENFILE: i32 = 23;
const EMFILE: i32 = 24;
const ENOSPC: i32 = 28;
const EROFS: i32 = 30;
const EDQUOT: i32 = 122;

static SCENE: LazyLock<Scene> = LazyLock::new(|| Scene::new(Emit::End));

/// Runs the job once for each call on a local copy that is named `name`, with `fault` at that call. Checks that the run is
/// killed, succeeds, or is refused at its start, and what `check` finds after it.
fn at_every(name: &str, what: &str, fault: impl Fn(Shim, usize) -> Shim, check: impl Fn(&Case<'_>, &str)) {
    for at in 1.. {
        let case = SCENE.copy_with_disk();
        let ended = case.run(&fault(Shim::below(&case.disk()), at));
        let what = format!("{what} at {name} {at}");
        let Ended { code, stderr, calls } = &ended;
        let refused =
            stderr.lines().last().is_some_and(|last| last.starts_with("error[config]: cannot use the folder"));
        assert!(matches!(code, None | Some(0)) || *code == Some(1) && refused, "{what}: {code:?}: {stderr}");
        case.check_output(*code == Some(0), &what);
        check(&case, &what);
        if code.is_some() && calls.iter().filter(|call| name == "any" || call.name == name).count() < at {
            assert!(at > 1, "{name} is never called");
            return;
        }
    }
}

#[test]
fn d01_a_kill_at_any_call_on_a_copy_leaves_the_next_run_nothing_to_fetch() {
    for when in ["before", "after"] {
        at_every(
            "any",
            when,
            |shim, at| shim.kill("any", at, when),
            |case, what| assert_eq!(case.check_result()["data_bytes_read"], 0, "{what}"),
        );
    }
}

#[test]
fn d05_d06_a_copy_that_cannot_be_written_or_read_is_done_without() {
    for (name, errno) in [
        ("create", EMFILE),
        ("create", EROFS),
        ("write", ENOSPC),
        ("write", EDQUOT),
        ("rename", ENOSPC),
        ("unlink", EROFS),
        ("open", ENFILE),
        ("read", EIO),
    ] {
        for count in [1, 1_000_000] {
            let what = format!("error {errno}, {count} times");
            at_every(name, &what, |shim, at| shim.refuse(name, at, count, errno), |case, _| drop(case.check_result()));
        }
    }
}

#[test]
fn d07_copies_are_read_and_written_a_byte_at_a_time() {
    let case = SCENE.copy_with_disk();
    let ended = case.run(&Shim::below(&case.disk()).with("SHIM_BYTES", 1));
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    for name in ["read", "write"] {
        assert!(ended.calls.iter().filter(|call| call.name == name).count() > 100, "{name}");
    }
    case.check_output(true, "byte by byte");
    assert_eq!(case.check_result()["data_bytes_read"], 0);
}

#[test]
fn d03_d04_copies_are_never_synced_since_they_are_never_trusted() {
    let case = SCENE.copy_with_disk();
    let ended = case.run(&Shim::below(&case.disk()));
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let names: BTreeSet<_> = ended.calls.iter().map(|call| call.name.as_str()).collect();
    assert_eq!(names, BTreeSet::from(["create", "mkdir", "open", "read", "rename", "unlink", "write"]));
}

#[test]
fn d16_copies_are_staged_beside_their_names() {
    let case = SCENE.copy_with_disk();
    let ended = case.run(&Shim::below(&case.disk()).with("TMPDIR", "/nonexistent"));
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let folder = |call: &Call| Path::new(&call.path).parent().unwrap().to_owned();
    let of = |name: &str| -> BTreeSet<_> { ended.calls.iter().filter(|call| call.name == name).map(folder).collect() };
    assert_eq!((of("create"), of("rename")), ([case.disk()].into(), [case.disk()].into()));
}
