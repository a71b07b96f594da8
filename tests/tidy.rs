//! Rules that reviews miss: layers, the only committer and deleters, file lengths, coverage of the fault catalogue.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The layers: a module may use only modules of earlier layers, not those of its own.
const LAYERS: &[&[&str]] = &[
    &["error"],
    &["id", "time", "memory", "canary", "codec"],
    &["key_group", "metrics", "runtime"],
    &["envelope"],
    &["row"],
    &["segment"],
    &["manifest"],
    &["backend", "control", "store"],
    &["place"],
    &["checkpoint"],
    &["sink", "source"],
    &["job", "tokio_runtime"],
    &["offline"],
    &["settings"],
    &["prelude", "internals", "lib"],
];

fn sources(under: &str) -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let mut folders = vec![root.join(under)];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for path in entries.map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path.strip_prefix(root).unwrap().to_owned(), text));
            }
        }
    }
    found.sort();
    found
}

/// Returns the part of a file before its inline tests, without comment lines.
fn production(text: &str) -> String {
    let end = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
    text[..end].lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

fn module(path: &Path) -> String {
    let inner = path.strip_prefix("src").unwrap();
    inner.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs").to_owned()
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// Returns the top-level modules that `text` names through `crate::`.
fn used(text: &str) -> BTreeSet<String> {
    let name = |rest: &str| rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let direct = text.match_indices("crate::").map(|(at, _)| name(&text[at + "crate::".len()..]));
    let grouped = text.match_indices("crate::{").flat_map(|(at, _)| {
        let inner = &text[at + "crate::{".len()..];
        let inner = &inner[..inner.find("};").unwrap_or(0)];
        inner.split(',').map(|part| name(part.trim())).collect::<Vec<_>>()
    });
    direct.chain(grouped).filter(|name| layer(name).is_some()).collect()
}

#[test]
fn modules_use_only_earlier_layers() {
    let mut wrong = Vec::new();
    for (path, text) in sources("src") {
        let user = module(&path);
        if user == "lib" || path.ends_with("tests.rs") {
            continue;
        }
        let own = layer(&user).unwrap_or_else(|| panic!("{} belongs to no layer", path.display()));
        for used in used(&production(&text)).into_iter().filter(|used| *used != user) {
            let earlier = layer(&used).is_some_and(|layer| layer < own);
            if !earlier {
                wrong.push(format!("{} uses {used}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The layers inside `src/job`, the same way.
const JOB_LAYERS: &[&[&str]] = &[
    &["settings", "operator_state", "progress", "schemas"],
    &["interval", "spec", "wire"],
    &["link"],
    &["owner", "worker"],
    &["handle"],
    &["opening"],
    &["builder"],
];

#[test]
fn owner_and_worker_know_nothing_of_each_other() {
    let layer = |name: &str| JOB_LAYERS.iter().position(|layer| layer.contains(&name));
    for (path, text) in sources("src/job") {
        let user = path.strip_prefix("src/job").unwrap().iter().next().unwrap().to_str().unwrap();
        let Some(own) = layer(user.trim_end_matches(".rs")) else { continue };
        let text = production(&text);
        for (at, _) in text.match_indices("use super::").chain(text.match_indices("use crate::job::")) {
            let path_used = text[at..].split(';').next().unwrap().trim_start_matches("use super::");
            let used = path_used.trim_start_matches("use crate::job::").split("::").next().unwrap();
            let inner = path.components().count() > 3 && text[at..].starts_with("use super::");
            if let Some(used) = layer(used).filter(|_| !inner || path.ends_with("mod.rs")) {
                assert!(used < own, "{} uses a later layer: {path_used}", path.display());
            }
        }
    }
}

/// What a program may name of the library: the modules of the public surface, and items at the root.
const SURFACE: [&str; 10] =
    ["backend", "internals", "interval", "manifest", "offline", "prelude", "rocksdb", "schema", "sink", "source"];

#[test]
fn tests_and_tools_use_the_public_surface_or_internals() {
    let lib = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    let modules =
        lib.lines().filter_map(|line| line.strip_prefix("pub mod ")).map(|rest| rest.trim_end_matches([';', '{', ' ']));
    assert!(modules.clone().all(|module| SURFACE.contains(&module)), "{:?}", modules.collect::<Vec<_>>());
    let internal = "alluvium::internals";
    for (path, text) in ["examples", "docs", "src"].into_iter().flat_map(sources) {
        assert!(!text.contains(internal), "{} shows internals to embedders", path.display());
    }
    let documents = ["README.md", "docs/embedding.md", "docs/exactly-once.md", "docs/security.md", "docs/adaptive.md"];
    for document in documents.into_iter().chain(["docs/rocksdb.md"]) {
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(document)).unwrap();
        assert!(!text.contains(internal), "{document} shows internals to embedders");
    }
}

#[test]
fn backends_do_not_use_segments() {
    for (path, text) in sources("src/backend") {
        assert!(!text.contains("crate::segment"), "{} names `crate::segment`", path.display());
    }
}

/// Returns the files under `src`, except `allowed`, whose production code contains `needle`.
fn elsewhere(needle: &str, allowed: &[&str]) -> Vec<String> {
    let tests = |path: &Path| path.ends_with("tests.rs");
    let files = sources("src").into_iter().filter(|(path, text)| !tests(path) && production(text).contains(needle));
    files.map(|(path, _)| path.display().to_string()).filter(|path| !allowed.contains(&path.as_str())).collect()
}

#[test]
fn one_committer_one_deleter_one_place_for_keys() {
    let none: Vec<String> = Vec::new();
    // The store layer defines deletes, and its probe deletes its own object. RocksDB deletes rows.
    let deleters = ["src/backend/rocksdb/writer.rs", "src/checkpoint/sweep.rs", "src/store/job_folder.rs"];
    assert_eq!(elsewhere(".delete(", &deleters), none);
    assert_eq!(elsewhere("put_new(&Key::Manifest(", &["src/checkpoint/commit.rs"]), none);
    assert_eq!(elsewhere("Key::Manifest(", &KEY_USERS), none);
    assert_eq!(elsewhere("Key::Data(", &DATA_KEY_USERS), none, "data objects are put and read through place/");
    assert_eq!(elsewhere("KeyClass::Data", &DATA_KEY_USERS), none);
    assert_eq!(elsewhere("/manifest/", &["src/store/key.rs"]), none);
    assert_eq!(elsewhere("object_store", &STORE_USERS), none);
}

const KEY_USERS: [&str; 5] = [
    "src/checkpoint/manifest_log.rs",
    "src/checkpoint/claim.rs",
    "src/checkpoint/commit.rs",
    "src/checkpoint/sweep.rs",
    "src/offline/verify/mod.rs",
];

/// The placement layer, the deleter, and the offline checks for foreign files and for an empty target.
const DATA_KEY_USERS: [&str; 5] = [
    "src/checkpoint/sweep.rs",
    "src/offline/copy.rs",
    "src/offline/foreign.rs",
    "src/place/objects.rs",
    "src/store/key.rs",
];

const STORE_USERS: [&str; 12] = [
    "src/sink/bucket.rs",
    "src/place/store.rs",
    "src/store/cloud.rs",
    "src/store/folder.rs",
    "src/store/http.rs",
    "src/store/job_folder.rs",
    "src/store/key.rs",
    "src/store/listing.rs",
    "src/store/mod.rs",
    "src/store/fault.rs",
    "src/store/url.rs",
    "src/store/walk.rs",
];

#[test]
fn decisions_have_no_clock_no_randomness_no_io_no_async() {
    for (path, text) in sources("src/control") {
        let code = production(&text);
        for banned in ["async ", ".await", "now()", "random", "std::fs", "std::net", "tokio"] {
            assert!(!code.contains(banned), "{} contains `{banned}`", path.display());
        }
    }
}

/// Longest production code of a file, and the median that keeps files to one idea each, in lines with comments.
const FILE_LINES_MAX: usize = 500;
const FILE_LINES_MEDIAN: usize = 160;

#[test]
fn production_files_are_short() {
    let mut lengths = Vec::new();
    for (path, text) in sources("src").into_iter().chain(sources("crates")) {
        if path.ends_with("tests.rs") || path.iter().any(|part| part == "tests") {
            continue;
        }
        let end = text.find("#[cfg(test)]\nmod tests {").unwrap_or(text.len());
        let lines = text[..end].lines().count();
        assert!(lines <= FILE_LINES_MAX, "{} has {lines} lines: split it", path.display());
        lengths.push(lines);
    }
    lengths.sort_unstable();
    assert!(
        lengths[lengths.len() / 2] <= FILE_LINES_MEDIAN,
        "the median file has {} lines",
        lengths[lengths.len() / 2]
    );
}

#[test]
fn files_are_finished() {
    for (path, text) in ["src", "crates", "tests", "benches", "fuzz", "examples"].into_iter().flat_map(sources) {
        let lines = production(&text).lines().count();
        assert!(lines <= 600, "{} has {lines} lines: split it", path.display());
        for word in ["TODO", "FIXME", "XXX"] {
            assert!(path.ends_with("tidy.rs") || !text.contains(word), "{} contains {word}", path.display());
        }
        let included = text.lines().any(|line| line.trim_start().starts_with("#[path"));
        assert!(!included, "{} includes a file by path: put shared code into crates/testkit", path.display());
    }
}

/// Number of rows in each part of the fault catalogue.
const ROWS: [(char, u32); 6] = [('A', 31), ('B', 27), ('C', 13), ('D', 22), ('F', 19), ('G', 17)];

/// Returns the names of functions in `text` that begin with a catalogue id.
fn named_by_id(text: &str) -> BTreeSet<String> {
    let name = |rest: &str| rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let by_id = |name: &String| {
        let [part, tens, ones, b'_', ..] = name.as_bytes() else { return false };
        (b'a'..=b'g').contains(part) && tens.is_ascii_digit() && ones.is_ascii_digit()
    };
    text.match_indices("fn ").map(|(at, _)| name(&text[at + 3..])).filter(by_id).collect()
}

/// Returns the words of `text` between backticks.
fn quoted(text: &str) -> BTreeSet<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn every_row_of_the_fault_catalogue_has_its_test() {
    let catalogue = include_str!("../docs/catalogue.md");
    let (rows, _) = catalogue.split_once("## Planted bugs").unwrap();
    let functions: BTreeSet<String> =
        ["src", "crates", "tests"].into_iter().flat_map(sources).flat_map(|(_, text)| named_by_id(&text)).collect();
    let mut named = BTreeSet::new();
    for (part, count) in ROWS {
        let mut covered = Vec::new();
        for line in rows.lines().filter(|line| line.starts_with(&format!("| {part}"))) {
            let cells: Vec<&str> = line.split(" | ").map(|cell| cell.trim_matches(['|', ' '])).collect();
            let number = |id: &str| id.trim_start_matches(part).parse::<u32>().unwrap();
            let (first, last) = cells[0].split_once(" to ").unwrap_or((cells[0], cells[0]));
            let ids = number(first)..=number(last);
            covered.extend(ids.clone());
            let tests = quoted(cells[3]);
            for id in ids {
                let prefix = format!("{}{id:02}_", part.to_ascii_lowercase());
                let shown = tests.iter().any(|test| test.contains(&prefix));
                assert!(shown || cells[3].starts_with("does not apply: "), "{part}{id} has no test");
            }
            named.extend(tests);
        }
        assert!(covered.iter().copied().eq(1..=count), "rows of part {part}: {covered:?}");
    }
    let (unknown, unnamed) = (&named - &functions, &functions - &named);
    assert!(
        unknown.is_empty() && unnamed.is_empty(),
        "in the catalogue but not in the code: {unknown:?}; in the code but not in the catalogue: {unnamed:?}"
    );
}

#[test]
fn every_planted_bug_has_a_test() {
    let planted = include_str!("../docs/catalogue.md").split_once("## Planted bugs").unwrap().1;
    let canaries = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/canary.rs")).unwrap();
    let body = canaries.split("pub enum Canary {").nth(1).unwrap().split("\n}").next().unwrap();
    let variants = body.lines().map(|line| line.trim().trim_end_matches(',')).filter(|line| !line.starts_with("//"));
    let finders = [
        "tests/sim/modes.rs",
        "tests/sim/stack/modes.rs",
        "tests/sim/laws/canaries.rs",
        "crates/cli/tests/catalogue/canaries.rs",
        "tests/lazy/main.rs",
        "tests/sinks.rs",
    ];
    let finders = finders.map(|path| fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap());
    for variant in variants.filter(|variant| !variant.is_empty()) {
        let switch = format!("Canary::{variant}");
        assert_eq!(
            sources("src").iter().filter(|(_, text)| text.contains(&format!("{switch})"))).count(),
            1,
            "{variant}"
        );
        assert!(finders.iter().any(|text| text.contains(&switch)), "no test plants {variant}");
        assert!(planted.contains(&format!("| `{variant}` |")), "{variant} is not in the catalogue");
    }
}

#[test]
fn no_file_is_mapped_into_memory() {
    let maps = |(_, text): &(PathBuf, String)| text.contains("memmap2");
    let mapping: Vec<_> = sources("src").into_iter().filter(maps).collect();
    let [(path, text)] = &mapping[..] else { panic!("{mapping:?}") };
    assert_eq!(path, Path::new("src/backend/log/arena.rs"));
    assert!(text.contains("MmapMut::map_anon("), "anonymous mappings only");
    for call in ["MmapOptions", "Mmap::map(", "map_mut(", "map_raw", "map_copy", "map_exec"] {
        assert!(!text.contains(call), "{call}");
    }
}
