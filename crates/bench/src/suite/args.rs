//! The flags of `alluvium bench` and the cells they span.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use alluvium::DEFAULT_MAX_PARALLELISM;
use clap::{Args, ValueEnum};

use super::distribution::Distribution;
use super::peer::PeerKind;
use crate::backend::{BackendKind, Strategy};

/// Measures backends and snapshot strategies, and the machine's own limits for comparison.
///
/// Each combination of --backend, --strategy, --keys, --distribution and --dirty is a cell, measured in its own
/// process: load the keys, read-modify-write them, take checkpoints during writes, restore, rescale.
#[derive(Debug, Clone, Args)]
pub struct BenchArgs {
    /// What to measure unless the flags below override it
    #[arg(long, value_enum, default_value_t = Suite::Quick)]
    pub(super) suite: Suite,
    /// State backends
    #[arg(long, value_enum, value_delimiter = ',')]
    pub(super) backend: Vec<BackendKind>,
    /// Snapshot strategies
    #[arg(long, value_enum, value_delimiter = ',')]
    pub(super) strategy: Vec<Strategy>,
    /// Numbers of keys
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..), value_name = "N")]
    pub(super) keys: Vec<u32>,
    /// Length of a key
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(8..), value_name = "BYTES")]
    pub(super) key_bytes: u16,
    /// Length of a value: half seeded random bytes, half text
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(8..=1 << 20), value_name = "BYTES")]
    pub(super) value_bytes: u32,
    /// How touches spread over keys: uniform, zipf:THETA, or hotspot:F:P (a fraction F of the keys gets the share P)
    #[arg(long, value_delimiter = ',', value_name = "uniform|zipf:THETA|hotspot:F:P")]
    pub(super) distribution: Vec<Distribution>,
    /// Fractions of the keys touched between two checkpoints
    #[arg(long, value_delimiter = ',', value_name = "FRACTION")]
    pub(super) dirty: Vec<Fraction>,
    /// Checkpoints measured per cell
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..), value_name = "K")]
    pub(super) checkpoints: Option<u32>,
    /// Length of the paced phase, in which updates dirty a tenth of the keys per second, first with checkpoints back to
    /// back, then without; 0s skips the phase [default: set by the suite]
    #[arg(long, value_parser = humantime::parse_duration, value_name = "DURATION")]
    pub(super) paced: Option<Duration>,
    /// Other stores, measured on one thread with the keys, values and number of updates of the hash map
    #[arg(long, value_delimiter = ',', value_parser = PeerKind::in_this_build, value_name = PeerKind::NAMES)]
    pub(super) peer: Vec<PeerKind>,
    /// How often to measure everything, in turns; figures are medians, and the JSON has those of each turn
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..), value_name = "N")]
    pub(super) turns: u32,
    /// Number of subtasks, each on its own thread
    #[arg(long, default_value_t = 1, value_parser = parallelism(), value_name = "P")]
    pub(super) parallelism: u32,
    /// Number of key groups, more than the subtasks
    #[arg(long, default_value_t = DEFAULT_MAX_PARALLELISM, value_parser = clap::value_parser!(u16).range(2..=32_768), value_name = "N")]
    pub(super) max_parallelism: u16,
    /// Store for checkpoints; jobs remain there [default: a temporary folder, removed at the end]
    #[arg(long, value_name = "URL")]
    pub(super) store: Option<String>,
    /// Seed of keys, values and the order of operations
    #[arg(long, default_value_t = 1, value_name = "S")]
    pub(super) seed: u64,
    /// File for the figures, as one JSON document
    #[arg(long, value_name = "FILE")]
    pub(super) json: Option<PathBuf>,
    /// File for a chart of maps, cells and other stores, as SVG
    #[arg(long, value_name = "FILE")]
    pub(super) svg: Option<PathBuf>,
    /// Measure this phase of the single cell spanned by the flags and print it as JSON
    #[arg(long, value_enum, hide = true, requires = "store")]
    pub(super) cell: Option<Phase>,
}

/// What is measured in a process of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Phase {
    /// Load, updates, checkpoints, restores.
    Steps,
    /// Paced updates.
    Paced,
    /// Another store in place of the cell's backend.
    Peer,
}

/// Leaves room for the rescale at the end, which adds a subtask.
fn parallelism() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..i64::from(DEFAULT_MAX_PARALLELISM))
}

/// How much to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Suite {
    /// The native backend at 100,000 keys: seconds
    Quick,
    /// All backends up to 1,000,000 keys: minutes
    Standard,
    /// All backends up to 10,000,000 keys: hours
    Full,
}

/// A share in `0 < f <= 1`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Fraction(f64);

impl Fraction {
    pub(super) fn get(self) -> f64 {
        self.0
    }

    /// Returns this share of `count`, at least 1 unless `count` is 0.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 <= result <= count")]
    pub(super) fn share_of(self, count: u32) -> u32 {
        ((f64::from(count) * self.0).round() as u32).clamp(count.min(1), count)
    }
}

impl FromStr for Fraction {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let value: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
        if value > 0.0 && value <= 1.0 { Ok(Self(value)) } else { Err("must be above 0 and at most 1".to_owned()) }
    }
}

impl fmt::Display for Fraction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One combination to measure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct CellSpec {
    pub(super) backend: BackendKind,
    pub(super) strategy: Strategy,
    pub(super) keys: u32,
    pub(super) key_bytes: u16,
    pub(super) value_bytes: u32,
    pub(super) distribution: Distribution,
    pub(super) dirty: Fraction,
    pub(super) checkpoints: u32,
    /// Length of the paced phase; zero skips it.
    pub(super) paced: Duration,
    pub(super) parallelism: u32,
    /// Number of key groups.
    pub(super) max_parallelism: u16,
    pub(super) seed: u64,
}

impl CellSpec {
    /// Returns flags that span this cell alone, for `phase`.
    pub(super) fn flags(&self, phase: Phase, store: &str) -> Vec<String> {
        let Self { keys, key_bytes, value_bytes, distribution, dirty, checkpoints, parallelism, seed, .. } = self;
        let groups = self.max_parallelism;
        let paced_ms = self.paced.as_millis();
        let numbers = format!(
            "--keys={keys} --key-bytes={key_bytes} --value-bytes={value_bytes} --distribution={distribution} \
             --dirty={dirty} --checkpoints={checkpoints} --paced={paced_ms}ms --parallelism={parallelism} \
             --max-parallelism={groups} --seed={seed}"
        );
        let mut flags = vec!["bench".to_owned(), format!("--cell={}", name(&phase)), format!("--store={store}")];
        flags.push(format!("--backend={}", name(&self.backend)));
        flags.push(format!("--strategy={}", name(&self.strategy)));
        flags.extend(numbers.split(' ').map(str::to_owned));
        flags
    }
}

impl fmt::Display for CellSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { backend, strategy, keys, distribution, dirty, .. } = self;
        write!(f, "{} {} {keys} keys {distribution} dirty {dirty}", name(backend), name(strategy))
    }
}

/// Returns a value's command-line name.
pub(super) fn name(value: &impl ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

/// What a suite measures unless flags override it.
struct Defaults {
    backends: Vec<BackendKind>,
    keys: Vec<u32>,
    distributions: Vec<Distribution>,
    dirty: Vec<Fraction>,
    checkpoints: u32,
    paced: Duration,
}

impl Suite {
    fn defaults(self) -> Defaults {
        let (zipf, hotspot) = (Distribution::Zipf(0.99), Distribution::Hotspot { keys: 0.1, share: 0.9 });
        let (native, all) = (vec![BackendKind::Log], BackendKind::value_variants().to_vec());
        let [low, middle, high] = [0.01, 0.1, 1.0].map(Fraction);
        match self {
            Self::Quick => Defaults {
                backends: native,
                keys: vec![100_000],
                distributions: vec![Distribution::Uniform],
                dirty: vec![low, high],
                checkpoints: 10,
                paced: Duration::ZERO,
            },
            Self::Standard => Defaults {
                backends: all,
                keys: vec![100_000, 1_000_000],
                distributions: vec![Distribution::Uniform, zipf],
                dirty: vec![low, middle, high],
                checkpoints: 20,
                paced: Duration::from_secs(5),
            },
            Self::Full => Defaults {
                backends: all,
                keys: vec![100_000, 1_000_000, 10_000_000],
                distributions: vec![Distribution::Uniform, zipf, hotspot],
                dirty: vec![low, middle, high],
                checkpoints: 50,
                paced: Duration::from_secs(10),
            },
        }
    }
}

/// Returns `given`, or `default` if `given` is empty.
fn either<T: Clone>(given: &[T], default: Vec<T>) -> Vec<T> {
    if given.is_empty() { default } else { given.to_vec() }
}

impl BenchArgs {
    /// Returns the cells in measuring order.
    pub(super) fn cells(&self) -> Vec<CellSpec> {
        let defaults = self.suite.defaults();
        let strategies = either(&self.strategy, vec![Strategy::Full, Strategy::Incremental]);
        let (backends, keys) = (either(&self.backend, defaults.backends), either(&self.keys, defaults.keys));
        let distributions = either(&self.distribution, defaults.distributions);
        let dirty = either(&self.dirty, defaults.dirty);
        let mut cells = Vec::new();
        for &backend in &backends {
            for &strategy in &strategies {
                for &keys in &keys {
                    for &distribution in &distributions {
                        cells.extend(dirty.iter().map(|&dirty| CellSpec {
                            backend,
                            strategy,
                            keys,
                            key_bytes: self.key_bytes,
                            value_bytes: self.value_bytes,
                            distribution,
                            dirty,
                            checkpoints: self.checkpoints.unwrap_or(defaults.checkpoints),
                            paced: self.paced.unwrap_or(defaults.paced),
                            parallelism: self.parallelism,
                            max_parallelism: self.max_parallelism,
                            seed: self.seed,
                        }));
                    }
                }
            }
        }
        cells
    }
}

#[cfg(test)]
impl CellSpec {
    /// Returns the first cell that `flags` span.
    pub(super) fn of_flags(flags: &str) -> Self {
        tests::parse(&flags.split(' ').collect::<Vec<_>>()).unwrap().cells()[0]
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Tool {
        #[command(flatten)]
        bench: BenchArgs,
    }

    pub(super) fn parse(flags: &[&str]) -> Result<BenchArgs, clap::Error> {
        Tool::try_parse_from([&["bench"], flags].concat()).map(|tool| tool.bench)
    }

    #[test]
    fn flags_replace_parts_of_the_suite() {
        let cells = parse(&["--keys", "5,7", "--dirty", "0.5", "--strategy", "full"]).unwrap().cells();
        assert_eq!(cells.iter().map(|cell| cell.keys).collect::<Vec<_>>(), [5, 7]);
        assert!(cells.iter().all(|cell| cell.strategy == Strategy::Full && cell.dirty == Fraction(0.5)));
        assert_eq!(parse(&[]).unwrap().cells().len(), 4);
    }

    #[test]
    fn a_cells_flags_span_that_cell() {
        let args = parse(&[
            "--suite",
            "full",
            "--checkpoints",
            "3",
            "--parallelism",
            "2",
            "--max-parallelism",
            "64",
            "--seed",
            "9",
        ])
        .unwrap();
        for cell in args.cells() {
            let flags = cell.flags(Phase::Steps, "memory:///");
            let flags: Vec<_> = flags.iter().skip(1).map(String::as_str).collect();
            assert_eq!(parse(&flags).unwrap().cells(), [cell]);
        }
    }

    #[test]
    fn wrong_usage_exits_with_2() {
        for flags in [
            ["--strategy", "changelog"],
            ["--backend", "heap"],
            ["--suite", "huge"],
            ["--html", "x.html"],
            ["--keys", "0"],
            ["--keys", "1,x"],
            ["--key-bytes", "7"],
            ["--value-bytes", "0"],
            ["--dirty", "0"],
            ["--dirty", "1.5"],
            ["--dirty", "nan"],
            ["--checkpoints", "0"],
            ["--paced", "5"],
            ["--cell", "whole"],
            ["--parallelism", "128"],
            ["--distribution", "zipf"],
            ["--turns", "0"],
            ["--peer", "flink"],
            ["--peer", ""],
        ] {
            assert_eq!(parse(&flags).expect_err(&flags.join(" ")).exit_code(), 2, "{flags:?}");
        }
    }

    #[test]
    fn a_peer_outside_the_build_is_wrong_usage_that_names_its_feature() {
        for (name, built) in [("cobble", cfg!(feature = "peer-cobble")), ("rocksdb", cfg!(feature = "peer-rocksdb"))] {
            match parse(&["--peer", name]) {
                Ok(args) => assert!(built && args.peer.len() == 1),
                Err(error) => {
                    assert!(!built && error.exit_code() == 2, "{error}");
                    assert!(error.to_string().contains(&format!("--features peer-{name}")), "{error}");
                }
            }
        }
    }

    #[test]
    fn a_share_of_few_keys_is_at_least_one() {
        let of = |fraction: f64, count| Fraction(fraction).share_of(count);
        assert_eq!((of(0.01, 5), of(0.01, 0), of(0.01, 1000), of(1.0, 7)), (1, 0, 10, 7));
    }
}
