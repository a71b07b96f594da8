//! Rules that review would forget: who may use whom, who may create and delete, how long a file may be.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The layers, top to bottom: a module may use its own layer's earlier entries and every layer above.
/// Entries of one inner list do not know each other.
const LAYERS: &[&[&str]] = &[
    &["error"],
    &["id", "time", "memory", "canary", "codec"],
    &["key_group", "metrics", "runtime"],
    &["envelope"],
    &["segment"],
    &["manifest"],
    &["backend", "control", "store"],
    &["place"],
    &["checkpoint"],
    &["job", "tokio_runtime"],
    &["offline"],
    &["prelude", "lib"],
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
fn modules_use_only_what_stands_above_them() {
    let mut wrong = Vec::new();
    for (path, text) in sources("src") {
        let user = module(&path);
        if ["main", "cli", "lib"].contains(&user.as_str()) {
            continue;
        }
        let own = layer(&user).unwrap_or_else(|| panic!("{} is in no layer", path.display()));
        for used in used(&production(&text)).into_iter().filter(|used| *used != user) {
            let above = layer(&used).is_some_and(|layer| layer < own);
            if !above {
                wrong.push(format!("{} uses {used}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Returns the files under `src`, beside `allowed`, whose production code contains `needle`.
fn elsewhere(needle: &str, allowed: &[&str]) -> Vec<String> {
    let tests = |path: &Path| path.ends_with("tests.rs");
    let files = sources("src").into_iter().filter(|(path, text)| !tests(path) && production(text).contains(needle));
    files.map(|(path, _)| path.display().to_string()).filter(|path| !allowed.contains(&path.as_str())).collect()
}

#[test]
fn one_committer_one_deleter_one_place_for_keys() {
    let none: Vec<String> = Vec::new();
    // The store layer defines deletes; its probe removes its own object.
    assert_eq!(elsewhere(".delete(", &["src/checkpoint/sweep.rs", "src/store/mod.rs"]), none);
    assert_eq!(elsewhere("put_new(&Key::Manifest(", &["src/checkpoint/commit.rs"]), none);
    assert_eq!(elsewhere("Key::Manifest(", &KEY_USERS), none);
    assert_eq!(elsewhere("/manifest/", &["src/store/key.rs"]), none);
    assert_eq!(elsewhere("object_store", &STORE_USERS), none);
}

const KEY_USERS: [&str; 5] = [
    "src/checkpoint/chain.rs",
    "src/checkpoint/claim.rs",
    "src/checkpoint/commit.rs",
    "src/checkpoint/sweep.rs",
    "src/offline/verify/mod.rs",
];

const STORE_USERS: [&str; 6] = [
    "src/store/folder.rs",
    "src/store/http.rs",
    "src/store/key.rs",
    "src/store/mod.rs",
    "src/store/retry.rs",
    "src/store/url.rs",
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

#[test]
fn files_stay_small_and_finished() {
    for (path, text) in ["src", "tests", "benches", "fuzz", "examples"].into_iter().flat_map(sources) {
        let lines = production(&text).lines().count();
        assert!(lines <= 600, "{} has {lines} lines: two ideas in one room", path.display());
        for word in ["TODO", "FIXME", "XXX"] {
            assert!(path.ends_with("tidy.rs") || !text.contains(word), "{} contains {word}", path.display());
        }
    }
}
