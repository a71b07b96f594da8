//! Loads by the second, from a file or generated.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use alluvium::{Error, Result};

use crate::random::Random;

/// A longer gap is an error in the file, not a pause.
const LONGEST_GAP_S: u64 = 3600;

/// Maximum length of a trace, s.
const LONGEST_S: u64 = 32 * 86_400;

/// Some editors write this at the start of a file.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// Length of generated loads, s.
const MADE_S: usize = 21_600;

/// Capacity to which generated loads are scaled, records/s.
pub(super) const MADE_CAPACITY: f64 = 1e5;

/// Source of a load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TraceSource {
    File(PathBuf),
    Made(Made),
}

/// Generated loads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Made {
    Steady,
    Step,
    Ramp,
    Diurnal,
    Bursts,
    FlashCrowd,
    WriteStorm,
    FailureRate,
}

impl Made {
    pub(super) const ALL: [Self; 8] = [
        Self::Steady,
        Self::Step,
        Self::Ramp,
        Self::Diurnal,
        Self::Bursts,
        Self::FlashCrowd,
        Self::WriteStorm,
        Self::FailureRate,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Steady => "steady",
            Self::Step => "step",
            Self::Ramp => "ramp",
            Self::Diurnal => "diurnal",
            Self::Bursts => "bursts",
            Self::FlashCrowd => "flash-crowd",
            Self::WriteStorm => "write-storm",
            Self::FailureRate => "failure-rate",
        }
    }

    /// Returns the utilisation at a second.
    fn utilisation(self, second: usize) -> f64 {
        let part = second as f64 / MADE_S as f64;
        let cycle = second % 900;
        match self {
            Self::Steady | Self::FailureRate => 0.5,
            Self::Step => {
                if part < 0.5 {
                    0.08
                } else {
                    0.8
                }
            }
            Self::Ramp => 0.05 + 0.8 * part,
            Self::Diurnal => 0.45 - 0.4 * (2.0 * std::f64::consts::PI * part).cos(),
            Self::Bursts => {
                if cycle < 150 {
                    0.8
                } else {
                    0.15
                }
            }
            Self::FlashCrowd => {
                let since = second as f64 - 7200.0;
                if since < 0.0 { 0.1 } else { 0.1 + 0.78 * (since / 30.0).min(1.0) * (-since / 1800.0).exp2() }
            }
            Self::WriteStorm => 0.4,
        }
    }

    /// Returns records per second, updates per record, and the failure rate relative to the usual.
    pub(super) fn make(self, seed: u64) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
        let mut random = Random::new(seed);
        let middle = |second: usize| (MADE_S / 3..2 * MADE_S / 3).contains(&second);
        let rate = (0..MADE_S).map(|second| {
            let noise = 1.0 + 0.1 * (random.draw_unit() + random.draw_unit() - 1.0);
            MADE_CAPACITY * self.utilisation(second) * noise
        });
        let rate: Vec<f64> = rate.collect();
        let storm = |second: usize| if self == Self::WriteStorm && middle(second) { 20.0 } else { 0.5 };
        let likelier = |second: usize| if self == Self::FailureRate && middle(second) { 10.0 } else { 1.0 };
        (rate, (0..MADE_S).map(storm).collect(), (0..MADE_S).map(likelier).collect())
    }
}

impl FromStr for TraceSource {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some(name) = text.strip_prefix("made:") else {
            return if text.is_empty() { Err("no file given".to_owned()) } else { Ok(Self::File(text.into())) };
        };
        let found = Made::ALL.into_iter().find(|made| made.name() == name);
        let known = || Made::ALL.map(Made::name).join(", ");
        found.map(Self::Made).ok_or_else(|| format!("no such load; known: {}", known()))
    }
}

impl fmt::Display for TraceSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.file_name().unwrap_or(path.as_os_str()).to_string_lossy()),
            Self::Made(made) => f.write_str(made.name()),
        }
    }
}

/// Reads records per second from a file with the columns `second` and `value`.
///
/// A missing second repeats the previous value, for up to an hour.
///
/// # Errors
/// `Input`, naming file and line, for a value that is negative, not finite or not a number, seconds that do not rise, a
/// longer gap, or a file without load; `NotFound` if the file does not exist.
pub(super) fn read(path: &Path) -> Result<Vec<f64>> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => Error::not_found("there is no such trace").with("file", path.display()),
        _ => Error::input("cannot read the trace").with("file", path.display()).with_source(source),
    };
    let file = File::open(path).map_err(failed)?;
    let reader: Box<dyn Read> = match path.extension().and_then(|extension| extension.to_str()) {
        Some("gz") => Box::new(flate2::read::MultiGzDecoder::new(file)),
        Some("zst") => Box::new(zstd::Decoder::new(file).map_err(failed)?),
        _ => Box::new(file),
    };
    parse(BufReader::new(reader)).map_err(|error| error.with("file", path.display()))
}

fn parse(mut reader: impl BufRead) -> Result<Vec<f64>> {
    let unreadable = |source: io::Error| Error::input("cannot read the trace").with_source(source);
    let mut header = Vec::new();
    reader.read_until(b'\n', &mut header).map_err(unreadable)?;
    let separator = [b'|', b';', b'\t', b','].into_iter().find(|byte| header.contains(byte)).unwrap_or(b',');
    let mut csv = csv::ReaderBuilder::new();
    csv.delimiter(separator).has_headers(false);
    let names = header.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&header);
    let (second, value) = columns(csv.from_reader(names))
        .ok_or_else(|| Error::input("a trace needs the columns second and value").with("line", 1))?;
    let mut rows = csv.from_reader(reader);
    let (mut rates, mut last): (Vec<f64>, Option<u64>) = (Vec::new(), None);
    for (at, row) in rows.records().enumerate() {
        let wrong = |what: &str| Error::input(what.to_owned()).with("line", at + 2);
        let row = row.map_err(|source| wrong("malformed row").with_source(source))?;
        let cell = |column: usize| row.get(column).unwrap_or_default().trim().to_owned();
        let now: u64 =
            cell(second).parse().map_err(|_| wrong("second is not a whole number").with("cell", cell(second)))?;
        let rate: f64 = cell(value).parse().map_err(|_| wrong("value is not a number").with("cell", cell(value)))?;
        if !(rate.is_finite() && (0.0..=1e15).contains(&rate)) {
            return Err(wrong("value is out of range").with("cell", cell(value)));
        }
        if let (Some(before), Some(held)) = (last, rates.last().copied()) {
            let missing = now.checked_sub(before.saturating_add(1)).ok_or_else(|| wrong("seconds do not rise"))?;
            if missing > LONGEST_GAP_S {
                return Err(wrong("a gap of more than an hour"));
            }
            rates.extend((0..missing).map(|_| held));
        }
        if rates.len() as u64 >= LONGEST_S {
            return Err(Error::limit("a trace of more than 32 days"));
        }
        rates.push(rate);
        last = Some(now);
    }
    if rates.iter().sum::<f64>() <= 0.0 {
        return Err(Error::input("a trace without any load"));
    }
    Ok(rates)
}

/// Returns the indices of `second` and `value` in the header.
fn columns(mut header: csv::Reader<&[u8]>) -> Option<(usize, usize)> {
    let names = header.records().next()?.ok()?;
    let column = |wanted: &str| names.iter().position(|name| name.trim() == wanted);
    Some((column("second")?, column("value")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separators_columns_and_gaps() {
        for text in [
            "\u{feff}\"second\",\"value\"\r\n\"1\",5\r\n2,6\r\n4,8\r\n",
            "second|value\n1|5\n2|6\n4|8\n",
            "second,value\n1,5\n2,6\n4,8\n",
            "value;x;second\n5;a;1\n6;b;2\n8;c;4\n",
        ] {
            assert_eq!(parse(text.as_bytes()).unwrap(), [5.0, 6.0, 6.0, 8.0], "{text}");
        }
        assert_eq!(parse("second\tvalue\n7\t1e3\n".as_bytes()).unwrap(), [1000.0]);
    }

    #[test]
    fn bad_traces_are_refused_with_their_line() {
        for (text, line) in [
            ("", "line=`1`"),
            ("a,b\n1,2\n", "line=`1`"),
            ("second,value\n1,x\n", "line=`2`"),
            ("second,value\n1,1\n2,NaN\n", "line=`3`"),
            ("second,value\n1,inf\n", "line=`2`"),
            ("second,value\n1,-3\n", "line=`2`"),
            ("second,value\n1.5,3\n", "line=`2`"),
            ("second,value\n2,3\n1,3\n", "line=`3`"),
            ("second,value\n2,3\n2,3\n", "line=`3`"),
            ("second,value\n2,3\n9999,3\n", "line=`3`"),
            ("second,value\n2\n", "line=`2`"),
            ("second,value\n", "without any load"),
            ("second,value\n1,0\n2,0\n", "without any load"),
        ] {
            let error = parse(text.as_bytes()).unwrap_err();
            assert_eq!(error.kind(), alluvium::ErrorKind::Input, "{text}");
            assert!(error.chain().contains(line), "{text}: {error}");
        }
        let missing = read(Path::new("no/such/file.csv")).unwrap_err();
        assert_eq!(missing.kind(), alluvium::ErrorKind::NotFound);
    }

    #[test]
    fn made_loads_are_named_and_repeatable() {
        for made in Made::ALL {
            assert_eq!(format!("made:{}", made.name()).parse(), Ok(TraceSource::Made(made)));
            let (rate, updates, failures) = made.make(1);
            assert_eq!((rate.len(), updates.len(), failures.len()), (MADE_S, MADE_S, MADE_S));
            assert!(rate == made.make(1).0 && rate.iter().all(|rate| (0.0..MADE_CAPACITY).contains(rate)), "{made:?}");
        }
        assert!("made:".parse::<TraceSource>().is_err() && "".parse::<TraceSource>().is_err());
    }
}
