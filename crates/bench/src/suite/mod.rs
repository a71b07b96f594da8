//! `alluvium bench`: backends and snapshot strategies, compared with the machine's own limits and with other stores.
//!
//! ```text
//! flags --> limits, cells, peers --one process per cell and peer, one more if paced--> Figures, turn by turn
//!       --medians--> Report --> text, JSON, SVG
//! ```

mod args;
mod cell;
mod chart;
mod comparison;
mod distribution;
mod lane;
mod limits;
mod machine;
mod memory;
mod pace;
mod paced;
mod peer;
mod report;
#[cfg(test)]
mod sample;
mod table;
mod turns;
mod walk;
mod workload;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use alluvium::{Error, Result, Store, TokioRuntime};
use indicatif::{ProgressBar, ProgressStyle};
use serde::de::DeserializeOwned;
use tokio::runtime::Runtime;
use url::Url;

use self::args::{BenchArgs, CellSpec, Phase, Suite};
use self::distribution::Distribution;
use self::machine::Machine;
use self::peer::PeerKind;
use self::report::{CellReport, Figures, Limits, PeerReport, Report};
use crate::Print;

pub use self::args::BenchArgs as Args;

/// Environment variable with the maximum number of heaps in glibc's malloc.
const ARENAS: &str = "MALLOC_ARENA_MAX";

/// Runs the command.
///
/// # Errors
/// Those of the store and the job; `Corrupt` if restored state differs from written state.
pub fn run(args: &BenchArgs, print: Print<'_>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|source| Error::unavailable("cannot start the async runtime").with_source(source))?;
    let cells = args.cells();
    if let (Some(phase), Some(store), [cell]) = (args.cell, &args.store, &cells[..]) {
        let report = match phase {
            Phase::Steps => to_json(&cell::measure(cell, store, &runtime)?),
            Phase::Paced => to_json(&cell::measure_paced(cell, store, &runtime)?),
            Phase::Peer => to_json(&measure_peer(args, cell, store)?),
        };
        return print(&report?);
    }
    let progress = progress((cells.len() + args.peer.len()) * args.turns as usize);
    let turns = (0..args.turns).map(|_| measure_turn(args, &cells, &runtime, &progress));
    let turns = turns.collect::<Result<Vec<_>>>()?;
    progress.finish_and_clear();
    let report = Report {
        machine: Machine::this(),
        version: env!("CARGO_PKG_VERSION"),
        seed: args.seed,
        figures: turns::medians(&turns)?,
        turns,
    };
    if let Some(path) = &args.json {
        write(path, &to_json(&report)?)?;
    }
    if let Some(path) = &args.svg {
        write(path, &chart::svg(&report))?;
    }
    print(&table::text(&report))
}

fn write(path: &Path, text: &str) -> Result<()> {
    let written = fs::write(path, text);
    written.map_err(|source| Error::denied("cannot write").with("path", path.display()).with_source(source))
}

/// Measures everything once: limits, then cells, then peers.
fn measure_turn(args: &BenchArgs, cells: &[CellSpec], runtime: &Runtime, progress: &ProgressBar) -> Result<Figures> {
    progress.set_message("limits of the machine");
    let limits = limits(args, cells, runtime)?;
    let (mut reports, mut peers) = (Vec::with_capacity(cells.len()), Vec::with_capacity(args.peer.len()));
    for cell in cells {
        progress.set_message(cell.to_string());
        reports.push(measure_cell(cell, args.store.as_deref())?);
        progress.inc(1);
    }
    let records = CellSpec { distribution: Distribution::Uniform, ..*largest(cells)? };
    for peer in &args.peer {
        progress.set_message(format!("{peer} {} keys", records.keys));
        let place = Place::new(None)?;
        let flags = [records.flags(Phase::Peer, &place.url), vec![format!("--peer={peer}")]].concat();
        peers.push(measure_apart(peer, &flags, &[])?);
        progress.inc(1);
    }
    Ok(Figures { limits, cells: reports, peers })
}

/// Measures the only peer of `args` in the folder at `url`.
fn measure_peer(args: &BenchArgs, cell: &CellSpec, url: &str) -> Result<PeerReport> {
    let folder = Url::parse(url).ok().and_then(|url| url.to_file_path().ok());
    match (args.peer.as_slice(), folder) {
        (&[peer], Some(folder)) => PeerKind::measure(peer, cell, &folder),
        _ => Err(Error::usage("one peer is measured in one local folder")),
    }
}

/// Returns the cell with the most keys, whose records the limits and the peers get.
fn largest(cells: &[CellSpec]) -> Result<&CellSpec> {
    cells.iter().max_by_key(|cell| cell.keys).ok_or_else(|| Error::usage("nothing to measure"))
}

fn limits(args: &BenchArgs, cells: &[CellSpec], runtime: &Runtime) -> Result<Limits> {
    let time = if args.suite == Suite::Quick { Duration::from_millis(200) } else { Duration::from_secs(1) };
    let place = Place::new(args.store.as_deref())?;
    let store = Store::open(&place.url, &"bench-limits".parse()?, TokioRuntime::new(runtime.handle().clone()))?;
    limits::measure(largest(cells)?, time, &store, runtime)
}

/// Measures all phases of `cell`.
fn measure_cell(cell: &CellSpec, store: Option<&str>) -> Result<CellReport> {
    // glibc keeps freed memory in each heap: with a heap per thread, that memory would be charged to the backend.
    let heaps = if std::env::var_os(ARENAS).is_none() { &[(ARENAS, "1")][..] } else { &[] };
    let place = Place::new(store)?;
    let mut report: CellReport = measure_apart(cell, &cell.flags(Phase::Steps, &place.url), heaps)?;
    drop(place);
    if !cell.paced.is_zero() {
        let place = Place::new(store)?;
        report.paced = Some(measure_apart(cell, &cell.flags(Phase::Paced, &place.url), heaps)?);
    }
    Ok(report)
}

/// Measures what `flags` say in a process of its own.
fn measure_apart<R: DeserializeOwned>(
    what: impl fmt::Display,
    flags: &[String],
    environment: &[(&str, &str)],
) -> Result<R> {
    let failed = |source| Error::unavailable("cannot run this program again").with_source(source);
    let program = std::env::current_exe().map_err(failed)?;
    let mut command = Command::new(program);
    command.args(flags).envs(environment.iter().copied()).stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = command.output().map_err(failed)?;
    if !output.status.success() {
        return Err(Error::stopped("a cell failed, see above").with("cell", what).with("status", output.status));
    }
    serde_json::from_slice(&output.stdout)
        .map_err(|source| Error::stopped("a cell printed no report").with("cell", what).with_source(source))
}

/// The store for a cell's checkpoints.
struct Place {
    url: String,
    /// A temporary folder, removed on drop.
    scratch: Option<PathBuf>,
}

impl Place {
    /// Returns the given store, or a new temporary folder.
    fn new(store: Option<&str>) -> Result<Self> {
        if let Some(url) = store {
            return Ok(Self { url: url.to_owned(), scratch: None });
        }
        let folder = std::env::temp_dir().join(format!("alluvium-bench-{}", std::process::id()));
        let unusable = || Error::denied("cannot make a folder for temporary files").with("path", folder.display());
        fs::create_dir(&folder).map_err(|source| unusable().with_source(source))?;
        let url = Url::from_directory_path(&folder).map_err(|()| unusable());
        Ok(Self { scratch: Some(folder), url: url?.into() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.scratch.as_ref().map(fs::remove_dir_all) {
            tracing::warn!(%error, store = self.url, "cannot remove temporary files");
        }
    }
}

/// Returns a progress bar on standard error, hidden unless that is a terminal.
fn progress(cells: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg} ({elapsed})");
    let bar = ProgressBar::new(cells as u64);
    style.map_or_else(|_| bar.clone(), |style| bar.clone().with_style(style))
}

fn to_json(document: &impl serde::Serialize) -> Result<String> {
    let text = serde_json::to_string_pretty(document);
    text.map(|text| text + "\n").map_err(|source| Error::usage("report has no JSON form").with_source(source))
}
