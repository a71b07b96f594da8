use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::PathBuf;

use alluvium::ErrorKind;
use clap::Parser;
use futures_util::FutureExt as _;
use tempfile::TempDir;

use super::*;
use crate::run::args::RunArgs;
use crate::run::record::decode_key;

mod laws;

#[derive(Debug, Parser)]
struct Tool {
    #[command(flatten)]
    run: RunArgs,
}

/// A folder with one input file and the program that reads it.
struct Case {
    folder: TempDir,
    input: Input,
    program: Program,
}

const KEYED: &str = "--key k --agg count,min:v,last:w";
const TIMED: &str = "--key k --agg count --window tumbling:10ms --time t";
const WINDOWED: &str = "--key k --agg count,sum:v --window tumbling:10ms --time t";

impl Case {
    fn new(name: &str, content: impl AsRef<[u8]>, flags: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join(name);
        fs::write(&path, compressed(name, content.as_ref())).unwrap();
        let (input, program) = parse(&path.display().to_string(), flags);
        Self { folder, input, program }
    }

    fn open(&self) -> Result<Source> {
        Source::open_now(&self.input, &self.program, None)
    }

    fn path(&self) -> PathBuf {
        match &self.input {
            Input::Path(path) => path.clone(),
            other => panic!("{other:?}"),
        }
    }

    /// Returns all records as text; skipped ones as `skipped`.
    fn all(&self) -> Vec<String> {
        rest(&mut self.open().unwrap()).unwrap()
    }

    fn error(&self) -> Error {
        match self.open() {
            Err(error) => error,
            Ok(mut source) => rest(&mut source).unwrap_err(),
        }
    }
}

/// Returns the position of the next record.
fn position(source: &Source) -> Position {
    Position::from_bytes(source.splits.current().unwrap().1.position().unwrap().bytes()).unwrap()
}

/// Returns the line of the next record.
fn line(source: &Source) -> u64 {
    position(source).line
}

fn parse(input: &str, flags: &str) -> (Input, Program) {
    let all = format!("run --store memory:/// --job j --input {input} {flags}");
    let args = Tool::try_parse_from(all.split_whitespace()).unwrap().run;
    (args.input.clone(), args.program().unwrap())
}

fn compressed(name: &str, content: &[u8]) -> Vec<u8> {
    let gz = |part: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(part).unwrap();
        encoder.finish().unwrap()
    };
    let (first, second) = content.split_at(content.len() / 2);
    match name.rsplit('.').next() {
        // Two members, as from `cat a.gz b.gz`.
        Some("gz") => [gz(first), gz(second)].concat(),
        Some("zst") => [zstd::encode_all(first, 1).unwrap(), zstd::encode_all(second, 1).unwrap()].concat(),
        _ => content.to_vec(),
    }
}

fn text(next: &Next<'_>, source_columns: usize) -> String {
    match next {
        Next::Skipped => "skipped".to_owned(),
        Next::Wait => panic!("input makes its reader wait"),
        Next::End => "end".to_owned(),
        Next::Record(record) => {
            let mut parts = vec![decode_key(record.key, 1).unwrap().concat()];
            parts.extend(record.window.map(|start| start.to_string()));
            parts.extend((0..source_columns).map(|column| {
                let cell = record.cell(column);
                format!("{}{}", cell.text, if cell.is_null() { "?" } else { "" })
            }));
            parts.join("|")
        }
    }
}

fn rest(source: &mut Source) -> Result<Vec<String>> {
    let columns = source.wanted.cells.len();
    let mut all = Vec::new();
    loop {
        match source.next()? {
            Next::End => return Ok(all),
            next => all.push(text(&next, columns)),
        }
    }
}

const CSV: &str = "w,k,v\n\
    x,a,1\r\n\
    \n\
    \"multi\nline, \"\"quoted\"\"\",b,-2\n\
    NA,\"\",\n\
    é,NA,NA\r\n\
    \u{feff}bom,c,3\n\
    last,d,04";

const JSONL: &str = "{\"k\":\"a\",\"v\":1,\"w\":\"x\"}\n\
    \n\
    {\"v\":-2, \"k\":\"b\", \"w\":\"multi\\nline, \\\"quoted\\\"\", \"other\":[1,{}]}\r\n\
    {\"k\":\"\",\"w\":\"NA\"}\n\
    {\"k\":\"NA\",\"v\":\"NA\",\"w\":\"\\u00e9\"}\n\
    {\"k\":\"c\",\"v\":3,\"w\":\"\u{feff}bom\"}\n\
    {\"k\":\"x\",\"k\":\"d\",\"v\":\"04\",\"w\":\"last\"}";

const RECORDS: [&str; 6] =
    ["a|1|x", "b|-2|multi\nline, \"quoted\"", "|?|NA?", "NA|NA?|é", "c|3|\u{feff}bom", "d|04|last"];

#[test]
fn both_formats_yield_the_same_records() {
    for name in ["in.csv", "in.csv.gz", "in.csv.zst"] {
        assert_eq!(Case::new(name, CSV, KEYED).all(), RECORDS, "{name}");
        assert_eq!(Case::new(name, format!("{CSV}\n\n"), KEYED).all(), RECORDS, "{name}");
    }
    assert_eq!(Case::new("in.csv", format!("\u{feff}{CSV}"), KEYED).all(), RECORDS);
    for name in ["in.jsonl", "in.jsonl.gz", "in.ndjson.zst"] {
        assert_eq!(Case::new(name, JSONL, KEYED).all(), RECORDS, "{name}");
    }
}

#[test]
fn a_source_resumed_after_n_records_yields_the_rest() {
    let nexmark = parse("nexmark:300:2", "--key channel --agg count,min:price,last:bidder");
    let mut inputs = vec![nexmark];
    let cases = [("in.csv", CSV), ("in.csv.gz", CSV), ("in.csv.zst", CSV), ("in.jsonl", JSONL), ("in.jsonl.gz", JSONL)];
    let cases = cases.map(|(name, content)| Case::new(name, content, KEYED));
    inputs.extend(cases.iter().map(|case| (case.input.clone(), case.program.clone())));
    for (input, program) in &inputs {
        let mut source = Source::open_now(input, program, None).unwrap();
        let all = rest(&mut Source::open_now(input, program, None).unwrap()).unwrap();
        for n in 0..=all.len() {
            let state = source.state().unwrap();
            let restored = SourceState::from_opaques(&state.to_opaques().unwrap()).unwrap();
            assert_eq!(restored, state);
            let mut resumed = Source::open_now(input, program, Some(restored)).unwrap();
            assert_eq!(resumed.state().unwrap(), state);
            assert_eq!(rest(&mut resumed).unwrap(), all[n..], "{input:?} after {n}");
            assert_eq!(resumed.records(), all.len() as u64);
            let _read = source.next().unwrap();
        }
    }
}

#[test]
fn a_changed_input_is_refused() {
    for (name, content) in [("in.csv", CSV), ("in.csv.gz", CSV), ("in.csv.zst", CSV), ("in.jsonl", JSONL)] {
        let case = Case::new(name, content, KEYED);
        let mut source = case.open().unwrap();
        for _ in 0..4 {
            source.next().unwrap();
        }
        let state = source.state().unwrap();
        let longer = format!("{content}\n");
        for (changed, fine) in [(longer.clone(), true), (longer.replace("quoted", "quoteD"), false)] {
            fs::write(case.path(), compressed(name, changed.as_bytes())).unwrap();
            let opened = Source::open_now(&case.input, &case.program, Some(state.clone()));
            assert_eq!(opened.is_ok(), fine, "{name}");
            if let Err(error) = opened {
                assert_eq!(error.kind(), ErrorKind::Input);
                assert!(error.message().starts_with("input changed since the checkpoint"), "{error}");
                assert!(error.message().contains(name), "{error}");
            }
        }
        fs::write(case.path(), compressed(name, &content.as_bytes()[..content.len() / 2])).unwrap();
        assert!(Source::open_now(&case.input, &case.program, Some(state)).is_err(), "shorter {name}");
    }
}

#[test]
fn the_error_for_an_unknown_column_lists_the_available_ones() {
    let (nexmark, of_bids) = parse("nexmark:10", "--key auction --agg count,sum:cost");
    let bids = "auction,bidder,price,channel,url,date_time";
    for (error, column, available) in [
        (Case::new("in.csv", CSV, "--key K --agg count").error(), "K", "w,k,v"),
        (Case::new("in.csv", CSV, "--key k --agg sum:nope").error(), "nope", "w,k,v"),
        (Case::new("in.csv", CSV, "--key k --agg count --window tumbling:1s --time t").error(), "t", "w,k,v"),
        (Case::new("in.jsonl", JSONL, "--key k --agg sum:nope").error(), "nope", "k,other,v,w"),
        (Source::open_now(&nexmark, &of_bids, None).unwrap_err(), "cost", bids),
    ] {
        assert_eq!(error.kind(), ErrorKind::Config);
        let message = error.message();
        assert!(message.starts_with(&format!("unknown column column=`{column}` available=`{available}`")), "{message}");
    }
    let error = Case::new("in.csv", "k,v,k\na,1,b\n", "--key k --agg count").error();
    assert_eq!((error.kind(), error.message().contains("column=`k`")), (ErrorKind::Config, true));
    assert_eq!(Case::new("in.csv", "k,v,v\na,1,b\n", "--key k --agg count").all(), ["a"], "unused names may repeat");
}

#[test]
fn empty_inputs_are_refused() {
    for name in ["in.csv", "in.jsonl", "in.csv.gz", "in.jsonl.zst"] {
        let error = Case::new(name, "", KEYED).error();
        assert_eq!(error.kind(), ErrorKind::Input, "{name}");
        assert!(error.message().starts_with("input is empty"), "{error}");
        assert!(error.message().contains(&format!("{name}`")), "{error}");
    }
    assert!(Case::new("in.csv", "w,k,v\n", KEYED).all().is_empty(), "a header alone is no error");
    assert!(Case::new("in.csv", "w,k,v", KEYED).all().is_empty());
}

#[test]
fn unreadable_inputs_are_refused() {
    let case = Case::new("in.csv", CSV, KEYED);
    let kind = |path: PathBuf| Source::open_now(&Input::Path(path), &case.program, None).unwrap_err().kind();
    assert_eq!(kind(case.folder.path().join("none.csv")), ErrorKind::NotFound);
    assert_eq!(kind(case.folder.path().to_owned()), ErrorKind::Input);
    for name in ["in.csv.gz", "in.csv.zst"] {
        let case = Case::new(name, CSV.repeat(50), KEYED);
        let whole = fs::read(case.path()).unwrap();
        fs::write(case.path(), &whole[..whole.len() - 5]).unwrap();
        assert_eq!(case.error().kind(), ErrorKind::Input, "truncated {name}");
        fs::write(case.path(), CSV).unwrap();
        assert_eq!(case.error().kind(), ErrorKind::Input, "not even {name}");
    }
}

#[test]
fn the_error_for_a_malformed_record_names_file_line_and_column() {
    for (name, content, flags, what) in [
        ("in.csv", "k,v\na,1\nb,1.5\n", "--key k --agg min:v", "line=`3` column=`v` cell=`1.5`"),
        ("in.csv", "k,v\r\na,1\r\n\r\nb,x\r\n", "--key k --agg max:v", "line=`4` column=`v` cell=`x`"),
        ("in.csv", "k,v\n\"a\nb\",1.5\nb,nan\n", "--key k --agg max:v", "line=`4` column=`v` cell=`nan`"),
        ("in.csv", "k,v\na,text\n", "--key k --agg sum:v", "line=`2` column=`v` cell=`text`"),
        ("in.csv", "k,v\na,text\n", "--key k --agg min:v,mean:v", "line=`2` column=`v` cell=`text`"),
        ("in.csv", "k,v\na\n", "--key k --agg sum:v", "line=`2` column=`v` cell=``"),
        ("in.csv", "k,v\na,1,2\n", "--key k --agg sum:v", "line=`2`"),
        ("in.csv", "k,v\na,170141183460469231731687303715884105728\n", "--key k --agg sum:v", "line=`2` column=`v`"),
        ("in.csv", "k,v,t\na,1,2\na,1,\n", WINDOWED, "line=`3` column=`t` cell=``"),
        ("in.csv", "k,v,t\na,1,NA\n", WINDOWED, "line=`2` column=`t` cell=`NA`"),
        ("in.csv", "k,v,t\na,1,2023-02-30 00:00:00\n", WINDOWED, "line=`2` column=`t` cell=`2023-02-30 00:00:00`"),
        ("in.csv", "k,v,t\na,1,-9223372036854775808\n", WINDOWED, "line=`2` column=`t`"),
        ("in.jsonl", "{\"k\":1,\"v\":2}\nnonsense\n", "--key k --agg sum:v", "line=`2`"),
        ("in.jsonl", "{\"k\":1,\"v\":2}\n[1]\n", "--key k --agg sum:v", "line=`2`"),
        ("in.jsonl", "{\"k\":1,\"v\":2}\n{} {}\n", "--key k --agg sum:v", "line=`2`"),
        ("in.jsonl", "{\"k\":1,\"v\":2}\n\n{\"k\":1,\"v\":[2]}\n", "--key k --agg sum:v", "line=`3` column=`v`"),
        (
            "in.jsonl",
            "{\"k\":1,\"v\":2}\n{\"k\":1,\"v\":true}\n",
            "--key k --agg sum:v",
            "line=`2` column=`v` cell=`true`",
        ),
        ("in.jsonl", "{\"k\":\"\\ud800\",\"v\":2}\n", "--key k --agg sum:v", "line=`1` column=`k`"),
        ("in.jsonl", "{\"k\":1}\n{\"v\":1,\"t\":2}\n", WINDOWED, "line=`1` column=`t` cell=``"),
        ("in.jsonl", "{\"k\":1}\n{\"v\":1}\n", "--key k --agg count", "line=`2` column=`k` cell=``"),
        ("in.jsonl", "{\"k\":1}\n{\"k\":null}\n", "--key k --agg count", "line=`2` column=`k` cell=``"),
        ("in.csv", "k,t\na,2024-07-10T02:30:00[America/New_York]\n", TIMED, "line=`2` column=`t`"),
        ("in.csv", "k,v\na,1\nb,\"2\nc,3\n", "--key k --agg count", "line=`3`"),
        ("in.csv", "k,v\n\"a\na\",\"2\nc,3\n", "--key k --agg count", "line=`3`"),
        ("in.csv", "k,v\na,1\n\"b", "--key k --agg count", "line=`3`"),
    ] {
        let case = Case::new(name, content, flags);
        let error = case.error();
        assert_eq!(error.kind(), ErrorKind::Input, "{content:?}: {error}");
        let path = case.path();
        assert!(error.message().starts_with("malformed record: "), "{error}");
        assert!(error.message().contains(&format!("file=`{}` {what}", path.display())), "{error}");
        let skipping = Case::new(name, content, &format!("{flags} --on-bad-record skip"));
        assert!(skipping.all().contains(&"skipped".to_owned()), "{content:?}");
    }
    let bytes = [&b"k,v\na,1\n"[..], &[b'x', 0xff, b',', b'2', b'\n']].concat();
    let error = Case::new("in.csv", &bytes, "--key k --agg sum:v").error();
    assert!(error.message().contains("not valid UTF-8") && error.message().contains("column=`k`"), "{error}");
    assert_eq!(Case::new("in.csv", &bytes, "--key v --agg count").all(), ["1", "2"], "columns not read may hold bytes");
}

#[test]
fn a_skipped_record_changes_only_a_count() {
    let csv = "k,v,u,t\na,text,1.5,99\nb,5,x,99\nc,5,1,20\nd,6.5,2,21\ne,7,3,9\nf,8,,29\n";
    let case = Case::new("in.csv", csv, &format!("{WINDOWED},min:u --on-bad-record skip").replace(",min:u", ""));
    assert_eq!(case.all(), ["skipped", "b|90|5", "skipped", "skipped", "skipped", "skipped"]);
    let flags = "--key k --agg sum:v,sum:u --window tumbling:10ms --time t --on-bad-record skip";
    let case = Case::new("in.csv", csv, flags);
    let mut source = case.open().unwrap();
    // The first sets no kind for u, the second none for v; neither moves the watermark; the fifth is late.
    assert_eq!(rest(&mut source).unwrap(), ["skipped", "skipped", "c|20|5|1", "skipped", "skipped", "f|20|8|?"]);
    let state = source.state().unwrap();
    assert_eq!((state.records, state.bad_records, state.late_records, state.watermark), (6, 3, 1, Some(29)));
    assert_eq!(state.kinds, BTreeMap::from([("u".to_owned(), Kind::Integer), ("v".to_owned(), Kind::Integer)]));
    assert_eq!((source.bad_records(), source.late_records(), source.watermark()), (3, 1, Some(29)));
}

#[test]
fn a_record_is_late_by_the_watermark_before_it() {
    // Windows of 10 ms: with a lateness of 5 ms, the window from 0 closes after the record at 15.
    let csv = "k,v,t\na,1,14\na,2,9\na,3,15\na,4,9\na,5,10\na,6,25\na,7,19\na,8,20\n";
    let late = |flags: &str| {
        let mut source = Case::new("in.csv", csv, flags).open().unwrap();
        let all = rest(&mut source).unwrap();
        let late: Vec<_> = all.iter().enumerate().filter(|(_, text)| *text == "skipped").map(|(i, _)| i + 1).collect();
        assert_eq!(source.late_records(), late.len() as u64);
        late
    };
    assert_eq!(late(&format!("{WINDOWED} --lateness 5ms")), [4, 7]);
    assert_eq!(late(WINDOWED), [2, 4, 7]);
    assert!(late(&format!("{WINDOWED} --lateness 1h")).is_empty());
}

#[test]
fn kinds_and_watermark_survive_a_restart() {
    let csv = "k,v,t\na,1,50\nb,2.5,60\nc,3,1\n";
    let case = Case::new("in.csv", csv, &format!("{WINDOWED} --on-bad-record skip"));
    let mut source = case.open().unwrap();
    source.next().unwrap();
    let mut resumed = Source::open_now(&case.input, &case.program, Some(source.state().unwrap())).unwrap();
    assert_eq!(rest(&mut resumed).unwrap(), ["skipped", "skipped"]);
    assert_eq!((resumed.bad_records(), resumed.late_records()), (1, 1));
}

#[test]
fn overlong_keys_and_distinct_cells_are_malformed() {
    let long = "x".repeat(70_000);
    let csv = format!("k,v\n{long},1\nb,{long}\n");
    let error = Case::new("in.csv", &csv, "--key k --agg count").error();
    assert!(error.message().contains("key is longer than 65535 bytes"), "{error}");
    let error = Case::new("in.csv", &csv, "--key v --agg count,distinct:k").error();
    assert!(error.message().contains("distinct cell is longer than 65535 bytes"), "{error}");
    assert_eq!(Case::new("in.csv", "k,v\na,b\n", "--key v --agg last:k").all(), ["b|a"]);
}

/// Each overlong record counts as one bad record, and the next record is read.
#[test]
fn a_record_that_is_too_long_is_one_bad_record() {
    let huge = "y".repeat(MAX_RECORD_BYTES);
    let (quoted, lines) = (format!("\"{huge}\""), "y\n".repeat(MAX_RECORD_BYTES / 2));
    for (name, before, long, trailer) in [
        ("in.csv", "k,v\na,1\n", format!("{huge},2"), "\nc,3\n"),
        ("in.csv", "k,v\na,1\n", format!("{huge},2"), "\r\nc,3"),
        ("in.csv", "k,v\na,1\n", format!("b,{quoted}"), "\nc,3\n"),
        ("in.csv", "k,v\na,1\n", format!("b,\"{}", "\"\"".repeat(MAX_RECORD_BYTES)), "\nc,3\n"),
        ("in.csv", "k,v\na,1\n", ",".repeat(MAX_RECORD_BYTES + 1), "\nc,3\n"),
        ("in.csv.zst", "k,v\na,1\n", format!("{huge},2"), "\nc,3\n"),
        ("in.jsonl", "{\"k\":\"a\"}\n", format!("{{\"k\":{quoted}}}"), "\n{\"k\":\"c\"}"),
        ("in.jsonl.gz", "{\"k\":\"a\"}\n", format!("{huge}{huge}{huge}"), "\n{\"k\":\"c\"}\n"),
    ] {
        let content = format!("{before}{long}{trailer}");
        let case = Case::new(name, &content, "--key k --agg count --on-bad-record skip");
        let mut source = case.open().unwrap();
        let mut all = vec![text(&source.next().unwrap(), 0), text(&source.next().unwrap(), 0)];
        let state = source.state().unwrap();
        all.extend(rest(&mut source).unwrap());
        assert_eq!(all, ["a", "skipped", "c"], "{name}");
        let mut resumed = Source::open_now(&case.input, &case.program, Some(state)).unwrap();
        assert_eq!(rest(&mut resumed).unwrap(), ["c"], "{name}");
        let error = Case::new(name, &content, "--key k --agg count").error();
        let line = before.lines().count() + 1;
        assert!(error.message().starts_with("malformed record: longer than 16 MiB file=`"), "{error}");
        assert!(error.message().contains(&format!("line=`{line}`")), "{error}");
    }
    // A stray quote followed by more than a record can hold: the record is the quote's line.
    let content = format!("k,v\na,1\nb,\"2\n{lines}c,3\n");
    let mut source = Case::new("in.csv", &content, "--key k --agg count --on-bad-record skip").open().unwrap();
    let all = rest(&mut source).unwrap();
    assert_eq!((all[0].as_str(), all[1].as_str(), all.last().unwrap().as_str()), ("a", "skipped", "c"));
    assert_eq!(all.len(), 3 + MAX_RECORD_BYTES / 2);
    assert_eq!(line(&source), 5 + MAX_RECORD_BYTES as u64 / 2);
    // The longest allowed records.
    for (name, content) in [
        ("in.csv", format!("k,v\n{},{}\nc,3\n", "a", &huge[2..])),
        ("in.csv", format!("v,k\n{},{}", &huge[2..], "a")),
        ("in.jsonl", format!("{{\"k\":\"a\",\"v\":\"{}\"}}\r\n", &huge[17..])),
    ] {
        assert_eq!(Case::new(name, content, "--key k --agg count").all()[0], "a");
    }
}

#[test]
fn a_stray_quote_costs_one_record() {
    let flags = "--key k --agg count --on-bad-record skip";
    for (content, records) in [
        ("k,v\na,1\nb,\"2\nc,3\nd,4\n", &["a", "skipped", "c", "d"][..]),
        ("k,v\na,1\nb,\"2\nc,3\nd,4", &["a", "skipped", "c", "d"]),
        ("k,v\n\"a\na\",1\n\"b\nb\",\"2\nc,\"\"\n", &["a\na", "skipped", "c"]),
        ("k,v\na,1\nb,\"2", &["a", "skipped"]),
        ("k,v\na,1\n\"\"\"\nb,2\r\n", &["a", "skipped", "b"]),
        // Not stray: a quote within a cell, closed quotes, a doubled quote at the end.
        ("k,v\na\",1\nb,\"2\"\nc,\"x\"\"\"", &["a\"", "b", "c"]),
    ] {
        let case = Case::new("in.csv", content, flags);
        assert_eq!(case.all(), records, "{content:?}");
        let mut source = case.open().unwrap();
        for n in 0..=records.len() {
            let state = source.state().unwrap();
            let mut resumed = Source::open_now(&case.input, &case.program, Some(state.clone())).unwrap();
            assert_eq!(resumed.state().unwrap(), state);
            assert_eq!(rest(&mut resumed).unwrap(), records[n..], "{content:?} after {n}");
            let _read = source.next().unwrap();
        }
    }
    let error = Case::new("in.csv", "k,\"v\na,1\n", flags).error();
    assert!(error.message().starts_with("malformed header: a quote is never closed line=`1`"), "{error}");
}

/// Reads to the end. Returns the records as text, and the states at all record boundaries.
fn records_and_states(source: &mut Source) -> (Vec<String>, Vec<SourceState>) {
    let (mut read, mut states) = (Vec::new(), vec![source.state().unwrap()]);
    loop {
        let next = text(&source.next().unwrap(), 0);
        if next == "end" {
            return (read, states);
        }
        read.push(next);
        states.push(source.state().unwrap());
    }
}

/// A job resumed on a grown input yields the records of the whole input, or refuses the input.
#[test]
fn d21_an_input_that_grows_is_gone_on_with_or_refused() {
    let skip = "--key k --agg count --on-bad-record skip";
    for (name, old, more, fine) in [
        ("in.csv", "k,v\na,1\nb,2", "\nc,3\n", true),
        ("in.csv", "k,v\na,1\nb,2", "\r\nc,3", true),
        ("in.csv", "k,v\na,1\nb,2", "\n", true),
        ("in.csv", "k,v\na,1\nb,2\r", "\nc,3\n", true),
        ("in.csv", "k,v\na,1\nb,2\n", "c,3\n", true),
        ("in.csv", "k,v\na,1\nb,2", "5\nc,3\n", false),
        ("in.csv", "k,v\na,1\nb,2", ",3\n", false),
        ("in.csv", "k,v\na,1\nb", ",2\n", false),
        ("in.csv", "k,v", "\na,1\n", true),
        ("in.csv", "k,v", ",w\na,1,2\n", false),
        ("in.csv", "k,v\na,\"1\"", "\"\nc,3\n", false),
        ("in.csv", "k,v\na,\"1\nc,3\n", "d,4\n", false),
        ("in.csv", "k,v\na,\"1", "\n", false),
        ("in.csv", "k,v\na,\"1", "\"\nb,2\n", false),
        ("in.jsonl", "{\"k\":1}\n{\"k\":2}", "\n{\"k\":3}\n", true),
        ("in.jsonl", "{\"k\":1}\n{\"k\":2}", " \r\n{\"k\":3}", true),
        ("in.jsonl", "{\"k\":1}\n{\"k\":2}", " ", true),
        ("in.jsonl", "{\"k\":1}\n  ", "{\"k\":3}\n", true),
        ("in.jsonl", "{\"k\":1}\n{\"k\":2}", "{\"k\":3}\n", false),
        ("in.jsonl", "{\"k\":1}\n{\"k\":", "2}\n", false),
    ] {
        for name in [name.to_owned(), format!("{name}.gz"), format!("{name}.zst")] {
            let case = Case::new(&name, old, skip);
            let mut source = case.open().unwrap();
            let (read, states) = records_and_states(&mut source);
            let whole = format!("{old}{more}");
            fs::write(case.path(), compressed(&name, whole.as_bytes())).unwrap();
            let expected = case.all();
            for (n, state) in states.iter().enumerate() {
                let resumed = Source::open_now(&case.input, &case.program, Some(state.clone()));
                let got = resumed.and_then(|mut source| Ok((rest(&mut source)?, line(&source))));
                match got {
                    Ok((more_read, end)) => {
                        assert_eq!([&read[..n], &more_read].concat(), expected, "{old:?} + {more:?} after {n}");
                        let mut plain = case.open().unwrap();
                        let _all = rest(&mut plain).unwrap();
                        assert_eq!(end, line(&plain), "{old:?} + {more:?} after {n}");
                        assert!(fine || n < read.len(), "{old:?} + {more:?}");
                    }
                    Err(error) => {
                        assert!(!fine, "{old:?} + {more:?} after {n}: {error}");
                        assert_eq!(error.kind(), ErrorKind::Input);
                        assert!(error.message().starts_with("input changed since the checkpoint"), "{error}");
                        assert!(error.message().contains(&name), "{error}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_utf_8_byte_order_mark_is_skipped_and_others_are_refused() {
    for name in ["in.csv", "in.csv.gz", "in.jsonl", "in.jsonl.zst"] {
        let content = if name.contains("csv") { "k\na\nb\n" } else { "{\"k\":\"a\"}\n{\"k\":\"b\"}\n" };
        let case = Case::new(name, format!("\u{feff}{content}"), "--key k --agg count");
        assert_eq!(case.all(), ["a", "b"], "{name}");
        let mut resumed =
            Source::open_now(&case.input, &case.program, Some(case.open().unwrap().state().unwrap())).unwrap();
        assert_eq!(rest(&mut resumed).unwrap(), ["a", "b"], "{name}");
        let wide = |bytes: fn(u16) -> [u8; 2]| {
            format!("\u{feff}{content}").encode_utf16().flat_map(bytes).collect::<Vec<u8>>()
        };
        for other in [wide(u16::to_le_bytes), wide(u16::to_be_bytes)] {
            let error = Case::new(name, other, "--key k --agg count").error();
            assert!(error.message().starts_with("input is UTF-16 or UTF-32"), "{name}: {error}");
        }
        let error = Case::new(name, "\u{feff}", "--key k --agg count").error();
        assert!(error.message().starts_with("input is empty"), "{name}: {error}");
    }
}

#[test]
fn only_padding_may_follow_compressed_input() {
    let read = |name: &str, trailer: &[u8]| {
        let case = Case::new(name, "k\na\nb\n", "--key k --agg count");
        let file = [fs::read(case.path()).unwrap(), trailer.to_vec()].concat();
        fs::write(case.path(), file).unwrap();
        let read = rest(&mut case.open()?)?;
        Ok::<_, Error>(read)
    };
    let member = compressed("in.csv.gz", b"c\n");
    for (trailer, more) in [(&b""[..], &[][..]), (&[0], &[]), (&[0; 100_000], &[]), (&member, &["c"])] {
        assert_eq!(read("in.csv.gz", trailer).unwrap(), [&["a", "b"], more].concat(), "{} bytes", trailer.len());
    }
    let padded = [&[0; 512], &member[..]].concat();
    for trailer in [&b"x"[..], b"\0x", &[0x1f], &member[..5], &member[..member.len() - 1], &padded] {
        let error = read("in.csv.gz", trailer).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Input, "{trailer:?}");
    }
    let frame = compressed("in.csv.zst", b"c\n");
    assert_eq!(read("in.csv.zst", &frame).unwrap(), ["a", "b", "c"]);
    for trailer in [&b"x"[..], b"\0\0\0\0", b"garbage", &frame[..6], &frame[..frame.len() - 1]] {
        let error = read("in.csv.zst", trailer).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Input, "{trailer:?}");
    }
}

#[test]
fn records_of_windows_closed_by_the_end_of_the_input_are_late_after_it_grows() {
    let old = "k,v,t\na,1,1\nb,2,25\na,3,12\n";
    let more = "a,4,24\na,5,29\na,6,30\nb,7,29\nb,8,45\n";
    let flags = format!("{WINDOWED} --lateness 7ms --emit on-close --output x");
    for (flags, expected) in [
        (flags.as_str(), &["skipped", "skipped", "a|30|6", "skipped", "b|40|8"][..]),
        // With --emit end, the end of the input closes no window.
        (&format!("{WINDOWED} --lateness 7ms"), &["a|20|4", "a|20|5", "a|30|6", "b|20|7", "b|40|8"]),
    ] {
        let case = Case::new("in.csv", old, flags);
        let mut source = case.open().unwrap();
        let _all = rest(&mut source).unwrap();
        let before = source.state().unwrap();
        for _ in 0..3 {
            source.close_windows();
            source = Source::open_now(&case.input, &case.program, Some(source.state().unwrap())).unwrap();
        }
        fs::write(case.path(), format!("{old}{more}")).unwrap();
        let mut grown = Source::open_now(&case.input, &case.program, Some(source.state().unwrap())).unwrap();
        assert_eq!(rest(&mut grown).unwrap(), expected);
        // A checkpoint from before the end has no closed windows.
        let mut grown = Source::open_now(&case.input, &case.program, Some(before)).unwrap();
        assert_eq!(rest(&mut grown).unwrap(), ["a|20|4", "a|20|5", "a|30|6", "b|20|7", "b|40|8"]);
    }
}

#[test]
fn json_numbers_keep_their_text() {
    let line = "{\"k\":1.50,\"v\":12345678901234567890123456789,\"w\":1e2}\n";
    assert_eq!(Case::new("in.jsonl", line, KEYED).all(), ["1.50|12345678901234567890123456789|1e2"]);
}

#[test]
fn a_column_may_first_appear_later_in_jsonl() {
    let content = "{\"k\":1}\n{\"k\":2,\"v\":5}\n";
    assert_eq!(Case::new("in.jsonl", content, "--key k --agg sum:v").all(), ["1|?", "2|5"]);
}
