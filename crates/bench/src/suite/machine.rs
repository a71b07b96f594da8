//! Properties of the machine and the process. `None` where the system does not report them.

use std::fs;

use serde::Serialize;

/// The machine under measurement.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Machine {
    os: &'static str,
    arch: &'static str,
    cores: Option<usize>,
    cpu: Option<String>,
    memory_bytes: Option<u64>,
    /// Of one cache, shared by some cores; a virtual machine may show more than it gets.
    l3_bytes: Option<u64>,
    build: &'static str,
}

impl Machine {
    pub(super) fn this() -> Self {
        Self {
            os: std::env::consts::OS,
            arch: std::env::consts::ARCH,
            cores: std::thread::available_parallelism().ok().map(usize::from),
            cpu: field("/proc/cpuinfo", "model name"),
            memory_bytes: kibibytes("/proc/meminfo", "MemTotal"),
            l3_bytes: l3_bytes(),
            build: if cfg!(debug_assertions) { "debug" } else { "release" },
        }
    }

    /// Returns the machine in one line.
    pub(super) fn line(&self) -> String {
        let Self { os, arch, cores, cpu, memory_bytes, l3_bytes, build } = self;
        let cores = cores.map_or_else(String::new, |cores| format!(", {cores} cores"));
        let cpu = cpu.as_ref().map_or_else(String::new, |cpu| format!(", {cpu}"));
        let memory = memory_bytes.map_or_else(String::new, |bytes| format!(", {} GiB", bytes >> 30));
        let l3 = l3_bytes.map_or_else(String::new, |bytes| format!(", L3 of {} MiB", bytes >> 20));
        format!("{os} {arch}{cores}{cpu}{memory}{l3}, {build} build")
    }
}

/// Returns the process's resident memory, in bytes.
pub(super) fn resident_bytes() -> Option<u64> {
    kibibytes("/proc/self/status", "VmRSS")
}

/// Returns the size of the first core's third-level cache.
fn l3_bytes() -> Option<u64> {
    let text = fs::read_to_string("/sys/devices/system/cpu/cpu0/cache/index3/size").ok()?;
    text.trim().strip_suffix('K')?.parse::<u64>().ok()?.checked_mul(1024)
}

fn kibibytes(path: &str, name: &str) -> Option<u64> {
    field(path, name)?.strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Returns the value of the file's first line `name: value`.
fn field(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(':'))?;
    Some(value.trim().to_owned())
}
