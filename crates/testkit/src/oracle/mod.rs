//! The expected output of `alluvium run --emit end`, computed directly from the whole input. The oracle follows the
//! tool's contract alone and shares no code with the crate.

pub mod sample;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

/// The computation, in terms of the tool's flags.
#[derive(Debug, Clone, Copy)]
pub struct Spec {
    pub key: &'static str,
    pub agg: &'static str,
    pub window: Option<Windows>,
    pub skip_bad: bool,
}

/// Tumbling windows.
#[derive(Debug, Clone, Copy)]
pub struct Windows {
    pub time: &'static str,
    pub size_ms: i64,
    pub lateness_ms: i64,
}

/// The expected output and counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub output: String,
    pub records: u64,
    pub bad_records: u64,
    pub late_records: u64,
    pub rows: usize,
}

pub const MINUTE_MS: i64 = 60_000;
pub const DAY_MS: i64 = 24 * 60 * MINUTE_MS;

const WIDE: &str = "count,min:value,max:value,mean:value,last:value,sum:runtime_s,distinct:region";

/// The main job's aggregations, for the cloud benchmarks and the sample modelled on them.
pub const KEYED: Spec = Spec { key: "vm_id,test", agg: WIDE, window: None, skip_bad: false };
pub const WINDOWED: Spec = Spec { window: Some(MONTHS), ..KEYED };
pub const DISTINCT: Spec = Spec { key: "region", agg: "distinct:vm_id", window: None, skip_bad: false };
/// For the input of [`sample::shuffled`].
pub const SHUFFLED: Spec = Spec { window: Some(Windows { lateness_ms: 30 * MINUTE_MS, ..MONTHS }), ..KEYED };

/// For the input of [`sample::wide`].
pub const LATEST: Spec = Spec { key: "id", agg: "count,last:text", window: None, skip_bad: false };

const MONTHS: Windows = Windows { time: "start_time", size_ms: 30 * DAY_MS, lateness_ms: 0 };

impl Spec {
    /// Returns the tool's flags for this computation.
    pub fn flags(&self) -> Vec<String> {
        let mut flags = vec!["--key".to_owned(), self.key.to_owned(), "--agg".to_owned(), self.agg.to_owned()];
        if let Some(window) = self.window {
            flags.extend(["--window".to_owned(), format!("tumbling:{}ms", window.size_ms)]);
            flags.extend(["--time".to_owned(), window.time.to_owned()]);
            flags.extend(["--lateness".to_owned(), format!("{}ms", window.lateness_ms)]);
        }
        if self.skip_bad {
            flags.extend(["--on-bad-record".to_owned(), "skip".to_owned()]);
        }
        flags
    }
}

/// Each aggregate's cells, in input order, by key and window.
type Groups<'a> = BTreeMap<(Vec<Cell<'a>>, i64), Vec<Vec<Cell<'a>>>>;

type Cell<'a> = Cow<'a, str>;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Integer,
    Decimal,
    Text,
}

/// Computes the answer. Panics on a malformed record unless the spec skips such records.
pub fn expected(csv: &[u8], spec: &Spec) -> Answer {
    let text = std::str::from_utf8(csv).expect("text");
    let mut lines = records(text).into_iter().map(split);
    let header = lines.next().expect("a header");
    let column = |name: &str| header.iter().position(|h| h == name).unwrap_or_else(|| panic!("no column {name}"));
    let keys: Vec<usize> = spec.key.split(',').map(column).collect();
    let aggs: Vec<(&str, usize)> =
        spec.agg.split(',').map(|agg| agg.split_once(':').map_or((agg, 0), |(f, c)| (f, column(c)))).collect();
    let time_column = spec.window.map(|window| column(window.time));
    let mut kinds: Vec<Option<Kind>> = vec![None; header.len()];
    let mut groups = Groups::new();
    let mut answer = Answer { output: String::new(), records: 0, bad_records: 0, late_records: 0, rows: 0 };
    let mut watermark: Option<i64> = None;
    for cells in lines {
        answer.records += 1;
        let time = time_column.map(|column| cells.get(column).and_then(|cell| time_of(cell)));
        let Some(new_kinds) = check(&cells, header.len(), &aggs, &kinds).filter(|_| time != Some(None)) else {
            assert!(spec.skip_bad, "malformed record {}: {cells:?}", answer.records);
            answer.bad_records += 1;
            continue;
        };
        kinds = new_kinds;
        let mut start = 0;
        if let (Some(window), Some(Some(time))) = (spec.window, time) {
            start = time.div_euclid(window.size_ms) * window.size_ms;
            if watermark.is_some_and(|watermark| start + window.size_ms + window.lateness_ms <= watermark) {
                answer.late_records += 1;
                continue;
            }
            watermark = watermark.max(Some(time));
        }
        let key = keys.iter().map(|column| cells[*column].clone()).collect();
        let columns = groups.entry((key, start)).or_insert_with(|| vec![Vec::new(); aggs.len()]);
        for ((function, column), into) in aggs.iter().zip(columns) {
            into.push(if *function == "count" { "1".into() } else { cells[*column].clone() });
        }
    }
    answer.rows = groups.len();
    answer.output = write(spec, &groups, &aggs, &kinds);
    answer
}

/// Returns the column kinds after a record; `None` if the record is malformed.
fn check(
    cells: &[Cell<'_>],
    columns: usize,
    aggs: &[(&str, usize)],
    kinds: &[Option<Kind>],
) -> Option<Vec<Option<Kind>>> {
    if cells.len() != columns {
        return None;
    }
    let mut kinds = kinds.to_vec();
    for (function, column) in aggs.iter().filter(|(f, _)| matches!(*f, "sum" | "mean" | "min" | "max")) {
        let cell = &cells[*column];
        let kind = if is_null(cell) { continue } else { kind_of(cell)? };
        kinds[*column] = match (kinds[*column], kind) {
            (None, Kind::Text) if matches!(*function, "sum" | "mean") => return None,
            (None, kind) => Some(kind),
            (Some(Kind::Text), _) if matches!(*function, "sum" | "mean") => return None,
            (Some(Kind::Text), _) => Some(Kind::Text),
            (Some(Kind::Integer), Kind::Integer) => Some(Kind::Integer),
            (Some(Kind::Decimal), Kind::Integer | Kind::Decimal) => Some(Kind::Decimal),
            _ => return None,
        };
    }
    Some(kinds)
}

fn is_null(cell: &str) -> bool {
    cell.is_empty() || cell == "NA"
}

/// Returns a cell's kind; `None` for a number that is not finite.
fn kind_of(cell: &str) -> Option<Kind> {
    let digits = cell.strip_prefix('-').unwrap_or(cell);
    if !digits.is_empty() && digits.chars().all(|c| c.is_ascii_digit()) {
        return Some(Kind::Integer);
    }
    match cell.parse::<f64>() {
        Ok(number) => number.is_finite().then_some(Kind::Decimal),
        Err(_) => Some(Kind::Text),
    }
}

fn write(spec: &Spec, groups: &Groups<'_>, aggs: &[(&str, usize)], kinds: &[Option<Kind>]) -> String {
    let mut header: Vec<Cell<'_>> = spec.key.split(',').map(Cow::from).collect();
    header.extend(spec.window.map(|_| "window_start".into()));
    header.extend(spec.agg.split(',').map(|agg| agg.replacen(':', "_", 1).into()));
    let mut output = line(&header);
    for ((key, start), columns) in groups {
        let mut cells = key.clone();
        cells.extend(spec.window.map(|_| date_of(*start).into()));
        let results = aggs.iter().zip(columns);
        cells.extend(results.map(|((function, column), cells)| aggregate(function, cells, kinds[*column]).into()));
        output.push_str(&line(&cells));
    }
    output
}

fn aggregate(function: &str, cells: &[Cell<'_>], kind: Option<Kind>) -> String {
    let present: Vec<&str> = cells.iter().map(AsRef::as_ref).filter(|cell| !is_null(cell)).collect();
    if function == "count" {
        return cells.len().to_string();
    }
    if function == "distinct" {
        return present.iter().collect::<BTreeSet<_>>().len().to_string();
    }
    let Some(last) = present.last() else { return String::new() };
    match (function, kind) {
        ("last", _) => (*last).to_owned(),
        ("sum", Some(Kind::Integer)) => integers(&present).iter().sum::<i128>().to_string(),
        ("sum", _) => decimal_sum(&present).to_string(),
        ("mean", Some(Kind::Integer)) => {
            (integers(&present).iter().sum::<i128>() as f64 / present.len() as f64).to_string()
        }
        ("mean", _) => (decimal_sum(&present) / present.len() as f64).to_string(),
        _ => {
            let mut best = present[0];
            for cell in &present {
                let (a, b) = if function == "min" { (*cell, best) } else { (best, *cell) };
                let less = match kind {
                    Some(Kind::Integer) => a.parse::<i128>().unwrap() < b.parse::<i128>().unwrap(),
                    Some(Kind::Decimal) => a.parse::<f64>().unwrap() < b.parse::<f64>().unwrap(),
                    _ => a.as_bytes() < b.as_bytes(),
                };
                if less {
                    best = cell;
                }
            }
            best.to_owned()
        }
    }
}

fn integers(cells: &[&str]) -> Vec<i128> {
    cells.iter().map(|cell| cell.parse().unwrap()).collect()
}

fn decimal_sum(cells: &[&str]) -> f64 {
    let mut sum = 0.0;
    for cell in cells {
        sum += cell.parse::<f64>().unwrap();
    }
    sum
}

/// Returns a text's records, each with its line end and quotes.
pub fn records(text: &str) -> Vec<&str> {
    let mut records = Vec::new();
    let (mut start, mut quoted) = (0, false);
    for (at, byte) in text.bytes().enumerate() {
        quoted ^= byte == b'"';
        if byte == b'\n' && !quoted {
            records.push(&text[start..=at]);
            start = at + 1;
        }
    }
    if start < text.len() {
        records.push(&text[start..]);
    }
    records
}

/// Returns the cells of a record.
fn split(record: &str) -> Vec<Cell<'_>> {
    let record = record.strip_suffix('\n').unwrap_or(record);
    let record = record.strip_suffix('\r').unwrap_or(record);
    if !record.contains('"') {
        return record.split(',').map(Cow::from).collect();
    }
    let (mut cells, mut quoted) = (vec![String::new()], false);
    let mut chars = record.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                cells.last_mut().unwrap().push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => cells.push(String::new()),
            c => cells.last_mut().unwrap().push(c),
        }
    }
    cells.into_iter().map(Cow::from).collect()
}

fn line(cells: &[Cell<'_>]) -> String {
    let quote = |cell: &Cell<'_>| match cell.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", cell.replace('"', "\"\"")),
        false => cell.to_string(),
    };
    cells.iter().map(quote).collect::<Vec<_>>().join(",") + "\n"
}

/// Returns milliseconds since the epoch of `2023-05-28 19:58:53.260` (UTC, also with `T` and `Z`) or of an integer.
fn time_of(text: &str) -> Option<i64> {
    if kind_of(text) == Some(Kind::Integer) {
        return text.parse().ok();
    }
    let text = text.strip_suffix('Z').unwrap_or(text);
    let (date, time) = text.split_once([' ', 'T'])?;
    let date: Vec<i64> = date.split('-').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let time: Vec<i64> = time.split(':').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    let ([year, month, day], [hour, minute, second]) = (date.as_slice(), time.as_slice()) else { return None };
    let millis: i64 = format!("{fraction:0<3}").get(..3)?.parse().ok()?;
    let seconds = ((days(*year, *month, *day) * 24 + hour) * 60 + minute) * 60 + second;
    Some(seconds * 1000 + millis)
}

/// Returns the days from 1970-01-01 to a date after the year 1.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let before = |year: i64| year * 365 + year / 4 - year / 100 + year / 400;
    let lengths = [31, 28 + i64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let months: i64 = lengths.iter().take(usize::try_from(month - 1).unwrap()).sum();
    before(year - 1) - before(1969) + months + day - 1
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

/// Returns RFC 3339 text, with a fraction only if it is not zero.
fn date_of(millis: i64) -> String {
    let (day, in_day) = (millis.div_euclid(DAY_MS), millis.rem_euclid(DAY_MS));
    let mut year = 1970 + day.div_euclid(366) - 1;
    while days(year + 1, 1, 1) <= day {
        year += 1;
    }
    let month = (1..=12).rev().find(|month| days(year, *month, 1) <= day).unwrap();
    let (hour, minute) = (in_day / 3_600_000, in_day / MINUTE_MS % 60);
    let seconds = match (in_day / 1000 % 60, in_day % 1000) {
        (seconds, 0) => format!("{seconds:02}"),
        (seconds, millis) => format!("{seconds:02}.{millis:03}").trim_end_matches('0').to_owned(),
    };
    format!("{year:04}-{month:02}-{:02}T{hour:02}:{minute:02}:{seconds}Z", day - days(year, month, 1) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        for (text, millis) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2023-05-28 19:58:53.260", 1_685_303_933_260),
            ("2024-02-29T23:59:59.9Z", 1_709_251_199_900),
            ("1969-12-31T23:59:59.999Z", -1),
            ("2000-03-01T00:00:00Z", 951_868_800_000),
        ] {
            assert_eq!(time_of(text), Some(millis));
            assert_eq!(time_of(&date_of(millis)), Some(millis));
        }
        assert_eq!(date_of(1_685_232_000_000), "2023-05-28T00:00:00Z");
        assert_eq!(date_of(-1), "1969-12-31T23:59:59.999Z");
    }

    #[test]
    fn cells() {
        let text = "a,\"b\"\"c\",\"d\ne\"\r\nf,,";
        assert_eq!(records(text).into_iter().map(split).collect::<Vec<_>>(), [["a", "b\"c", "d\ne"], ["f", "", ""]]);
    }

    #[test]
    fn a_small_answer() {
        let csv = b"k,t,v\na,10,1\nb,25,NA\na,11,3\na,12,2\nb,26,\na,9,x\n";
        let window = Some(Windows { time: "t", size_ms: 10, lateness_ms: 5 });
        let spec = Spec { key: "k", agg: "count,sum:v,mean:v,min:v,distinct:v", window, skip_bad: true };
        let answer = expected(csv, &spec);
        assert_eq!(
            answer.output,
            "k,window_start,count,sum_v,mean_v,min_v,distinct_v\n\
             a,1970-01-01T00:00:00.01Z,1,1,1,1,1\n\
             b,1970-01-01T00:00:00.02Z,2,,,,0\n"
        );
        assert_eq!((answer.records, answer.bad_records, answer.late_records), (6, 1, 2));
    }
}
