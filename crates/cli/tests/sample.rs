//! The committed sample equals its generator's output, and has the traits that tests rely on.

use std::collections::BTreeSet;
use std::path::Path;

use alluvium_testkit::oracle::{self, DISTINCT, KEYED, SHUFFLED, WINDOWED, expected, sample};

/// With `BLESS` in the environment the file is rewritten.
#[test]
fn the_sample_matches_its_generator() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/sample.csv");
    let generated = sample::sample();
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, &generated).unwrap();
    }
    assert!(std::fs::read_to_string(&path).unwrap() == generated, "run this test with BLESS=1");
    assert!(generated.len() < 300_000);
}

#[test]
fn the_sample_has_its_traits() {
    let csv = sample::sample();
    for trait_ in ["\"\"", "\nline two\"", "\"north, europe\"", "東京", ",NA", ",,", "e3,", "T1", "Z,"] {
        assert!(csv.contains(trait_), "{trait_}");
    }
    let answer = expected(csv.as_bytes(), &WINDOWED);
    assert!(answer.late_records > 10 && answer.rows > 1000, "{} late, {} rows", answer.late_records, answer.rows);
    let keyed = expected(csv.as_bytes(), &KEYED);
    assert!(keyed.output.lines().any(|line| line.ends_with(",,,,,0") || line.contains(",,,,")), "only nulls");
    assert_eq!(expected(csv.as_bytes(), &DISTINCT).rows, 7);
}

#[test]
fn the_shuffle_makes_records_late() {
    let csv = sample::sample();
    let shuffled = sample::shuffled(&csv);
    assert_ne!(shuffled, csv);
    let sorted = |csv: &str| oracle::records(csv).into_iter().map(str::to_owned).collect::<BTreeSet<_>>();
    assert_eq!(sorted(&shuffled), sorted(&csv));
    let none = expected(shuffled.as_bytes(), &WINDOWED).late_records;
    let half_an_hour = expected(shuffled.as_bytes(), &SHUFFLED).late_records;
    assert!(half_an_hour <= none);
}
