//! Runs a process with `shim.c` between the process and its files.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::{env, fs, process};

/// Speed-up of time.
const HASTE: u32 = 100;

/// The faults applied to a process's calls.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shim(Vec<(&'static str, String)>);

/// A process's call on a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) name: String,
    pub(crate) path: String,
    /// Whether the shim refused the call.
    pub(crate) refused: bool,
    /// Whether the call was made and failed.
    pub(crate) failed: bool,
}

/// Compiles the shim, once per test process.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let (made, library) = (folder.join(format!("shim-{}.so", process::id())), folder.join("shim.so"));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/catalogue/shim.c");
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-o"]).args([&made, &source]).arg("-ldl");
        assert!(compiler.status().expect("a C compiler is installed").success());
        fs::rename(made, &library).unwrap();
        library
    })
}

impl Shim {
    /// Returns a shim that counts calls below `root`. Time runs faster, so that retries do not slow the tests.
    pub(crate) fn below(root: &Path) -> Self {
        Self(vec![("SHIM_ROOT", root.display().to_string()), ("SHIM_HASTE", HASTE.to_string())])
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.0.push((name, value.to_string()));
        self
    }

    /// Refuses `count` calls with `errno`, starting from call number `first`.
    pub(crate) fn refuse(self, call: &str, first: usize, count: u64, errno: i32) -> Self {
        // If calls fail forever, only the retry duration matters.
        let haste = if count > 1 { 1000 } else { HASTE };
        self.meet(call, first, count).with("SHIM_ERRNO", errno).with("SHIM_HASTE", haste)
    }

    /// Kills the process "before" or "after" call number `first`.
    pub(crate) fn kill(self, call: &str, first: usize, when: &str) -> Self {
        self.meet(call, first, 1).with("SHIM_KILL", when)
    }

    /// Stops the process before call number `first`.
    pub(crate) fn stop(self, call: &str, first: usize) -> Self {
        self.meet(call, first, 1).with("SHIM_KILL", "stop")
    }

    fn meet(self, call: &str, first: usize, count: u64) -> Self {
        self.with("SHIM_CALL", call).with("SHIM_FIRST", first).with("SHIM_COUNT", count)
    }

    /// Injects the shim into `command`, with its log of calls in `log`.
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
