//! Runs a process with `shim.c` between it and its files.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::{env, fs, process};

/// How much faster time passes.
const HASTE: u32 = 100;

/// What happens to a process's calls.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shim(Vec<(&'static str, String)>);

/// A call that a process made on a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) name: String,
    pub(crate) path: String,
    /// Whether the shim refused it.
    pub(crate) refused: bool,
    /// Whether it was made and failed.
    pub(crate) failed: bool,
}

/// Compiles the shim, once for each process of tests.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let (made, library) = (folder.join(format!("shim-{}.so", process::id())), folder.join("shim.so"));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/catalogue/shim.c");
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-o"]).args([&made, &source]).arg("-ldl");
        assert!(compiler.status().expect("a C compiler is there").success());
        fs::rename(made, &library).unwrap();
        library
    })
}

impl Shim {
    /// Returns one that counts calls on what lies below `root`. Time passes fast, so that repetitions do not take long.
    pub(crate) fn below(root: &Path) -> Self {
        Self(vec![("SHIM_ROOT", root.display().to_string()), ("SHIM_HASTE", HASTE.to_string())])
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.0.push((name, value.to_string()));
        self
    }

    /// From the `first` on, `count` of these calls are refused with `errno`.
    pub(crate) fn refuse(self, call: &str, first: usize, count: u64, errno: i32) -> Self {
        // Where calls fail for ever, all there is to see is how long they are repeated.
        let haste = if count > 1 { 1000 } else { HASTE };
        self.meet(call, first, count).with("SHIM_ERRNO", errno).with("SHIM_HASTE", haste)
    }

    /// The process is killed at the `first` of these calls, "before" it or "after".
    pub(crate) fn kill(self, call: &str, first: usize, when: &str) -> Self {
        self.meet(call, first, 1).with("SHIM_KILL", when)
    }

    /// The process stops at the `first` of these calls, before it.
    pub(crate) fn stop(self, call: &str, first: usize) -> Self {
        self.meet(call, first, 1).with("SHIM_KILL", "stop")
    }

    fn meet(self, call: &str, first: usize, count: u64) -> Self {
        self.with("SHIM_CALL", call).with("SHIM_FIRST", first).with("SHIM_COUNT", count)
    }

    /// Puts itself under `command`, and its log of calls into `log`.
    pub(crate) fn under(&self, command: &mut Command, log: &Path) {
        drop(fs::remove_file(log));
        command.env("LD_PRELOAD", library()).env("SHIM_LOG", log);
        command.envs(self.0.iter().map(|(name, value)| (*name, value)));
    }
}

/// Returns the calls in a log.
pub(crate) fn calls(log: &Path) -> Vec<Call> {
    let text = fs::read_to_string(log).unwrap_or_default();
    let call = |line: &str| {
        let mut words = line.split(' ');
        let (name, path, outcome) = (words.next()?.to_owned(), words.next()?.to_owned(), words.next());
        Some(Call { name, path, refused: outcome == Some("refused"), failed: outcome == Some("failed") })
    };
    text.lines().filter_map(call).collect()
}
