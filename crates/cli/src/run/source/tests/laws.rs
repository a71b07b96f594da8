//! Inputs as sources: their laws, their stored states, and clocks far in the future.

use std::time::Duration;

use alluvium::source::SplitId;
use alluvium::source::conformance::{self, Harness};
use alluvium::{Opaque, OpaqueRole};
use async_trait::async_trait;

use super::super::splits::{InputSource, RecordReader as _, RowReader};
use super::*;

/// Returns the state after the first record, as it was stored before there were splits.
fn old_state(case: &Case) -> String {
    let mut source = case.open().unwrap();
    source.next().unwrap();
    let state = SourceState { position: Some(position(&source)), ..source.state().unwrap() };
    String::from_utf8(state.to_json().unwrap()).unwrap()
}

#[test]
fn states_from_before_there_were_splits_are_read() {
    let case = Case::new("in.csv", CSV, KEYED);
    let stored = old_state(&case);
    assert!(stored.contains("\"offset\":12,\"line\":2,\"check\":{\"tail\":"), "{stored}");
    let opaque = Opaque::new(OpaqueRole::Source, "input", stored.clone());
    let state = SourceState::from_opaques(&[opaque]).unwrap();
    let mut source = Source::open_now(&case.input, &case.program, Some(state)).unwrap();
    assert_eq!(rest(&mut source).unwrap(), RECORDS[1..]);
    // A position belongs to both, or is missing.
    let both =
        [&source.state().unwrap().to_opaques().unwrap()[..1], &[Opaque::new(OpaqueRole::Source, "input", stored)]];
    assert_eq!(SourceState::from_opaques(&both.concat()).unwrap_err().kind(), ErrorKind::Corrupt);
    let none = &source.state().unwrap().to_opaques().unwrap()[1..];
    assert_eq!(SourceState::from_opaques(none).unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn damaged_states_are_refused() {
    let state = old_state(&Case::new("in.csv", CSV, KEYED));
    for (whole, damaged) in [
        ("\"records\":1", "\"records\":99"),
        ("\"records\":1", "\"records\":18446744073709551615"),
        ("\"line\":2", "\"line\":18446744073709551615"),
        ("\"bad_records\":0", "\"bad_records\":2"),
        ("}", ""),
    ] {
        assert!(state.contains(whole), "{state}");
        let error = SourceState::from_json(state.replace(whole, damaged).as_bytes()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{damaged}");
    }
}

#[test]
fn one_record_from_the_far_future_makes_no_other_late() {
    let csv = "k,v,t\na,1,10\na,2,20\na,3,4102444800000\na,4,25\na,5,40\n";
    let case = Case::new("in.csv", csv, WINDOWED);
    let mut source = case.open().unwrap();
    assert_eq!(rest(&mut source).unwrap()[3..], ["skipped", "skipped"]);

    let bounded = SourceSettings::default().with(|it| it.max_ahead = Some(Duration::from_millis(15)));
    let open = |state| Source::open(&case.input, &case.program, bounded, state).now_or_never().unwrap().unwrap();
    let mut source = open(None);
    for _ in 0..3 {
        source.next().unwrap();
    }
    assert_eq!(source.watermark(), Some(35), "the record moves it by 15 ms");
    // The bound holds over a restart.
    let state = SourceState::from_opaques(&source.state().unwrap().to_opaques().unwrap()).unwrap();
    assert_eq!((state.watermark, state.latest), (Some(35), Some(4_102_444_800_000)));
    let mut source = open(Some(state));
    assert_eq!(rest(&mut source).unwrap(), ["skipped", "a|40|5"], "25 is late by the watermark 35, 40 is not");
    assert_eq!(source.watermark(), Some(40));
}

/// Returns a line of a file, by its number from 0.
type Line = fn(usize) -> String;

/// An input whose records are appended and cut off.
struct Growing {
    input: Input,
    wanted: Vec<String>,
    /// The lines, of a file.
    line: Line,
}

#[async_trait]
impl Harness for Growing {
    type Source = InputSource;

    async fn source(&self) -> InputSource {
        InputSource { input: self.input.clone(), format: None, wanted: self.wanted.clone(), start: None }
    }

    fn record(&self, reader: &RowReader) -> Vec<u8> {
        assert!(reader.malformed().is_none(), "{:?}", reader.malformed());
        (0..self.wanted.len()).flat_map(|cell| [reader.cell(cell).unwrap(), b"|"].concat()).collect()
    }

    async fn grow(&self) -> Result<bool> {
        let Input::Path(path) = &self.input else { return Ok(false) };
        let mut content = fs::read_to_string(path).unwrap();
        let lines = content.lines().count();
        content.extend((lines..lines + 3).map(self.line));
        fs::write(path, content).unwrap();
        Ok(true)
    }

    async fn shrink(&self, _: &SplitId) -> Result<bool> {
        let Input::Path(path) = &self.input else { return Ok(false) };
        let content = fs::read_to_string(path).unwrap();
        fs::write(path, &content[..content.trim_end().rfind('\n').unwrap() + 1]).unwrap();
        Ok(true)
    }
}

#[tokio::test]
async fn inputs_keep_the_laws_of_a_source() {
    let folder = TempDir::new().unwrap();
    let wanted = vec!["k".to_owned(), "v".to_owned()];
    let formats: [(&str, Line); 2] = [
        ("in.csv", |at| if at == 0 { "v,k\n".to_owned() } else { format!("{at},\"a\nb\"\n") }),
        ("in.jsonl", |at| format!("{{\"k\":\"a\",\"v\":{at}}}\n")),
    ];
    for (name, line) in formats {
        let path = folder.path().join(name);
        fs::write(&path, (0..20).map(line).collect::<String>()).unwrap();
        conformance::run(&Growing { input: Input::Path(path), wanted: wanted.clone(), line }).await;
    }
    let wanted = ["auction", "bidder", "price", "date_time"].map(str::to_owned).to_vec();
    let input = Input::Nexmark { events: 100, seed: 3 };
    conformance::run(&Growing { input, wanted, line: |_| String::new() }).await;
}
