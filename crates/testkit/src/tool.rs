//! Runs the tool as a user does.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// A folder for stores and outputs, removed at the end.
pub struct Bench {
    pub folder: TempDir,
}

impl Bench {
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn store(&self, name: &str) -> String {
        format!("file://{}", self.path(name).display())
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        path
    }
}

/// Returns the tool's path. Cargo names it only for tests in the tool's package; elsewhere it is in a parent of the
/// test's folder.
fn binary() -> PathBuf {
    std::env::var_os("CARGO_BIN_EXE_alluvium").map_or_else(
        || {
            let test = std::env::current_exe().unwrap();
            test.parent().and_then(Path::parent).unwrap().join("alluvium")
        },
        PathBuf::from,
    )
}

/// Returns the tool's command with `args`.
pub fn tool<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(binary());
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs the tool to completion.
pub fn run<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Output {
    tool(args).output().unwrap()
}

/// Splits `text` at spaces.
pub fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Asserts success and returns standard output as JSON.
pub fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}", stderr(output));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!("{error}: {}", String::from_utf8_lossy(&output.stdout));
    })
}

/// Asserts exit code 1 with this error kind and returns the error line.
pub fn fails(output: &Output, kind: &str) -> String {
    let text = stderr(output);
    let last = text.lines().last().unwrap_or_default().to_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(last.starts_with(&format!("error[{kind}]: ")), "expected {kind}: {text}");
    last
}

/// Returns the folder with the real input, if present.
pub fn real_data() -> Option<PathBuf> {
    let named = std::env::var_os("ALLUVIUM_DATA").map(PathBuf::from);
    let beside = crate::root().join("../shared/data");
    [named, Some(beside)].into_iter().flatten().find(|folder| folder.join("cloud_benchmarks.csv.gz").exists())
}

/// Kills the process as `kill -9` does and reaps it.
pub fn kill(child: &mut Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Returns the rows of all published parts, sorted, after checking each part's header.
pub fn published(folder: &Path) -> Vec<String> {
    let mut rows = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.starts_with("part-") {
            let text = fs::read_to_string(&path).unwrap();
            let (header, body) = text.split_once('\n').unwrap();
            assert!(header.contains("window_start"), "{name}: {header}");
            rows.extend(body.lines().map(str::to_owned));
        }
    }
    rows.sort_unstable();
    rows
}
