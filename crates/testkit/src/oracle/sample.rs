//! Generates `crates/cli/tests/data/sample.csv`: a small input with the traits of the cloud benchmarks, and some worse
//! ones.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{DAY_MS, MINUTE_MS, date_of, records};
use crate::sim::Rng;

const ROWS: i64 = 2_400;
const HOUR_MS: i64 = 60 * MINUTE_MS;
/// 2023-05-28T19:58:53.260Z
const FIRST_MS: i64 = 1_685_303_933_260;

const REGIONS: [&str; 7] = ["eastus", "westus2", "österreich-ost", "東京", "north, europe", "NA", ""];
const SKUS: [&str; 3] = ["B8ms", "D8s_v5", "D8s \"v6\""];
const TESTS: [&str; 6] = [
    "Redis/Test:_GET_-_Parallel_Connections:_50",
    "Redis/Test:_SET_-_Parallel_Connections:_500",
    "Redis/\"LPOP\", 50",
    "line one\nline two",
    " leading space",
    "naïve 🚀",
];

/// The sample's random numbers.
struct Numbers(Rng);

impl Numbers {
    fn below(&mut self, bound: i64) -> i64 {
        self.0.below(bound.unsigned_abs()).cast_signed()
    }

    fn one_in(&mut self, n: i64) -> bool {
        self.below(n) == 0
    }

    fn pick<'a>(&mut self, items: &[&'a str]) -> &'a str {
        let index = self.below(i64::try_from(items.len()).unwrap());
        items[usize::try_from(index).unwrap()]
    }
}

/// Returns an input whose state is large: `keys` records of different keys with a KiB of text each, which hardly compresses,
/// then `more` records of random ones of them.
pub fn wide(keys: u64, more: u64) -> String {
    let mut random = Rng::from_state(7);
    let mut csv = "id,text\n".to_owned();
    for record in 0..keys + more {
        let id = if record < keys { record } else { random.below(keys) };
        write!(csv, "{id},").unwrap();
        (0..64).for_each(|_| write!(csv, "{:016x}", random.below(u64::MAX)).unwrap());
        csv.push('\n');
    }
    csv
}

/// Returns the sample in order of time.
pub fn sorted() -> String {
    let text = sample();
    let all = records(&text);
    let (header, rest) = all.split_first().expect("a header");
    let mut rest = rest.to_vec();
    rest.sort_by_key(|record| time(record));
    std::iter::once(*header).chain(rest).collect()
}

fn time(record: &str) -> i64 {
    super::time_of(record.split(',').next().unwrap()).expect("a time first")
}

/// Returns the records of [`sorted`] as JSON objects, each with the partition that its key belongs to.
pub fn json(partitions: i32) -> Vec<(i32, String)> {
    let text = sorted();
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let names = reader.headers().unwrap().clone();
    let object = |record: csv::StringRecord| {
        let cells: BTreeMap<_, _> = names.iter().zip(&record).collect();
        let key = [cells["vm_id"], cells["test"]].concat();
        let partition = key.bytes().map(i32::from).sum::<i32>() % partitions;
        (partition, serde_json::to_string(&cells).unwrap())
    };
    reader.records().map(|record| object(record.unwrap())).collect()
}

/// Returns the sample.
pub fn sample() -> String {
    let mut numbers = Numbers(Rng::from_state(7));
    let mut text = "start_time,vm_id,region,sku,lifespan,test,unit,value,runtime_s\n".to_owned();
    let mut now = FIRST_MS;
    for _ in 0..ROWS {
        // About 16 months, in order except for records that are minutes, days or months late.
        now += numbers.below(2 * 480 * DAY_MS / ROWS);
        let late = match numbers.below(40) {
            0..=5 => numbers.below(45) * MINUTE_MS,
            6 => numbers.below(70) * DAY_MS,
            _ => 0,
        };
        // A few machines report often, most rarely.
        let rank = numbers.below(9);
        let vm = numbers.below(1 << rank);
        let start = date_of(now - late);
        let start = if numbers.one_in(9) { start } else { start.replace('T', " ").trim_end_matches('Z').to_owned() };
        let cells = [
            start,
            vm.to_string(),
            numbers.pick(&REGIONS).to_owned(),
            numbers.pick(&SKUS).to_owned(),
            if vm < 4 { "long" } else { "short" }.to_owned(),
            numbers.pick(&TESTS).to_owned(),
            "Requests Per Second".to_owned(),
            value(&mut numbers),
            runtime(&mut numbers),
        ];
        let quoted = cells.map(|cell| quote(&cell));
        writeln!(text, "{}", quoted.join(",")).unwrap();
    }
    text
}

/// A decimal: sometimes written as an integer, with a redundant zero, a sign or an exponent, or missing.
fn value(numbers: &mut Numbers) -> String {
    let (whole, part) = (numbers.below(2_500_000), numbers.below(100));
    match numbers.below(30) {
        0 => String::new(),
        1 => "NA".to_owned(),
        2 => whole.to_string(),
        3 => format!("{whole}.50"),
        4 => format!("-{whole}.{part:02}"),
        5 => format!("{}e3", whole / 1000),
        6 => "1000000.0".to_owned(),
        7 => "1000000.00".to_owned(),
        _ => format!("{whole}.{part:02}"),
    }
}

fn runtime(numbers: &mut Numbers) -> String {
    match numbers.below(25) {
        0 => "NA".to_owned(),
        1 => (20 + numbers.below(60)).to_string(),
        _ => format!("{}.{:02}", 20 + numbers.below(60), numbers.below(100)),
    }
}

fn quote(cell: &str) -> String {
    match cell.contains([',', '"', '\n']) {
        true => format!("\"{}\"", cell.replace('"', "\"\"")),
        false => cell.to_owned(),
    }
}

/// Returns the records of `csv` in another order, each moved by at most an hour of event time.
pub fn shuffled(csv: &str) -> String {
    let mut numbers = Numbers(Rng::from_state(11));
    let all = records(csv);
    let (header, rest) = all.split_first().expect("a header");
    let mut order: Vec<(i64, &str)> =
        rest.iter().map(|record| (time(record) + numbers.below(HOUR_MS), *record)).collect();
    order.sort_by_key(|(time, _)| *time);
    std::iter::once(*header).chain(order.into_iter().map(|(_, record)| record)).collect()
}
