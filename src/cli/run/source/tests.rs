use std::fs;
use std::io::Write;
use std::path::PathBuf;

use alluvium::ErrorKind;
use clap::Parser;
use tempfile::TempDir;

use super::*;
use crate::cli::run::args::RunArgs;
use crate::cli::run::record::decode_key;

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
        Source::open(&self.input, &self.program, None)
    }

    fn path(&self) -> PathBuf {
        match &self.input {
            Input::Path(path) => path.clone(),
            other => panic!("{other:?}"),
        }
    }

    /// All records as text; skipped ones as `skipped`.
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

fn parse(input: &str, flags: &str) -> (Input, Program) {
    let all = format!("run --store memory:/// --job j --input {input} {flags}");
    let args = Tool::try_parse_from(all.split_whitespace()).unwrap().run;
    (args.input.clone(), Program::new(&args).unwrap())
}

fn compressed(name: &str, content: &[u8]) -> Vec<u8> {
    let gz = |part: &[u8]| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(part).unwrap();
        encoder.finish().unwrap()
    };
    let (first, second) = content.split_at(content.len() / 2);
    match name.rsplit('.').next() {
        // Two members: what `cat a.gz b.gz` gives.
        Some("gz") => [gz(first), gz(second)].concat(),
        Some("zst") => [zstd::encode_all(first, 1).unwrap(), zstd::encode_all(second, 1).unwrap()].concat(),
        _ => content.to_vec(),
    }
}

fn text(next: &Next<'_>, source_columns: usize) -> String {
    match next {
        Next::Skipped => "skipped".to_owned(),
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
    {\"k\":null,\"w\":\"NA\"}\n\
    {\"k\":\"NA\",\"v\":\"NA\",\"w\":\"\\u00e9\"}\n\
    {\"k\":\"c\",\"v\":3,\"w\":\"\u{feff}bom\"}\n\
    {\"k\":\"x\",\"k\":\"d\",\"v\":\"04\",\"w\":\"last\"}";

const RECORDS: [&str; 6] =
    ["a|1|x", "b|-2|multi\nline, \"quoted\"", "|?|NA?", "NA|NA?|é", "c|3|\u{feff}bom", "d|04|last"];

#[test]
fn both_formats_give_the_same_records() {
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
fn the_state_after_n_records_gives_the_records_after_n() {
    let nexmark = parse("nexmark:300:2", "--key channel --agg count,min:price,last:bidder");
    let mut inputs = vec![nexmark];
    let cases = [("in.csv", CSV), ("in.csv.gz", CSV), ("in.csv.zst", CSV), ("in.jsonl", JSONL), ("in.jsonl.gz", JSONL)];
    let cases = cases.map(|(name, content)| Case::new(name, content, KEYED));
    inputs.extend(cases.iter().map(|case| (case.input.clone(), case.program.clone())));
    for (input, program) in &inputs {
        let mut source = Source::open(input, program, None).unwrap();
        let all = rest(&mut Source::open(input, program, None).unwrap()).unwrap();
        for n in 0..=all.len() {
            let state = source.state();
            let restored = SourceState::from_bytes(&state.to_bytes().unwrap()).unwrap();
            assert_eq!(restored, state);
            let mut resumed = Source::open(input, program, Some(restored)).unwrap();
            assert_eq!(resumed.state(), state);
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
        let state = source.state();
        let longer = format!("{content}\n");
        for (changed, fine) in [(longer.clone(), true), (longer.replace("quoted", "quoteD"), false)] {
            fs::write(case.path(), compressed(name, changed.as_bytes())).unwrap();
            let opened = Source::open(&case.input, &case.program, Some(state.clone()));
            assert_eq!(opened.is_ok(), fine, "{name}");
            if let Err(error) = opened {
                assert_eq!(error.kind(), ErrorKind::Input);
                assert!(error.message().starts_with("input changed since the checkpoint"), "{error}");
                assert!(error.message().contains(name), "{error}");
            }
        }
        fs::write(case.path(), compressed(name, &content.as_bytes()[..content.len() / 2])).unwrap();
        assert!(Source::open(&case.input, &case.program, Some(state)).is_err(), "shorter {name}");
    }
}

#[test]
fn unknown_columns_are_named_with_the_available_ones() {
    let (nexmark, of_bids) = parse("nexmark:10", "--key auction --agg count,sum:cost");
    let bids = "auction,bidder,price,channel,url,date_time";
    for (error, column, available) in [
        (Case::new("in.csv", CSV, "--key K --agg count").error(), "K", "w,k,v"),
        (Case::new("in.csv", CSV, "--key k --agg sum:nope").error(), "nope", "w,k,v"),
        (Case::new("in.csv", CSV, "--key k --agg count --window tumbling:1s --time t").error(), "t", "w,k,v"),
        (Case::new("in.jsonl", JSONL, "--key k --agg sum:nope").error(), "nope", "k,other,v,w"),
        (Source::open(&nexmark, &of_bids, None).unwrap_err(), "cost", bids),
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
fn empty_inputs() {
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
fn inputs_that_cannot_be_read() {
    let case = Case::new("in.csv", CSV, KEYED);
    let kind = |path: PathBuf| Source::open(&Input::Path(path), &case.program, None).unwrap_err().kind();
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
fn malformed_records_are_named() {
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
fn skipped_records_leave_no_trace_but_a_count() {
    let csv = "k,v,u,t\na,text,1.5,99\nb,5,x,99\nc,5,1,20\nd,6.5,2,21\ne,7,3,9\nf,8,,29\n";
    let case = Case::new("in.csv", csv, &format!("{WINDOWED},min:u --on-bad-record skip").replace(",min:u", ""));
    assert_eq!(case.all(), ["skipped", "b|90|5", "skipped", "skipped", "skipped", "skipped"]);
    let flags = "--key k --agg sum:v,sum:u --window tumbling:10ms --time t --on-bad-record skip";
    let case = Case::new("in.csv", csv, flags);
    let mut source = case.open().unwrap();
    // The first sets no kind for u and the second none for v; both move no watermark; the fifth is late.
    assert_eq!(rest(&mut source).unwrap(), ["skipped", "skipped", "c|20|5|1", "skipped", "skipped", "f|20|8|?"]);
    let state = source.state();
    assert_eq!((state.records, state.bad_records, state.late_records, state.watermark), (6, 3, 1, Some(29)));
    assert_eq!(state.kinds, BTreeMap::from([("u".to_owned(), Kind::Integer), ("v".to_owned(), Kind::Integer)]));
    assert_eq!((source.bad_records(), source.late_records(), source.watermark()), (3, 1, Some(29)));
}

#[test]
fn a_record_is_late_by_the_watermark_before_it() {
    // Windows of 10 ms; with a lateness of 5 ms the one from 0 is closed once 15 was seen, before the record.
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
fn kinds_and_watermark_outlive_a_restart() {
    let csv = "k,v,t\na,1,50\nb,2.5,60\nc,3,1\n";
    let case = Case::new("in.csv", csv, &format!("{WINDOWED} --on-bad-record skip"));
    let mut source = case.open().unwrap();
    source.next().unwrap();
    let mut resumed = Source::open(&case.input, &case.program, Some(source.state())).unwrap();
    assert_eq!(rest(&mut resumed).unwrap(), ["skipped", "skipped"]);
    assert_eq!((resumed.bad_records(), resumed.late_records()), (1, 1));
}

#[test]
fn limits() {
    let long = "x".repeat(70_000);
    let csv = format!("k,v\n{long},1\nb,{long}\n");
    let error = Case::new("in.csv", &csv, "--key k --agg count").error();
    assert!(error.message().contains("key is longer than 65535 bytes"), "{error}");
    let error = Case::new("in.csv", &csv, "--key v --agg count,distinct:k").error();
    assert!(error.message().contains("distinct cell is longer than 65535 bytes"), "{error}");
    assert_eq!(Case::new("in.csv", "k,v\na,b\n", "--key v --agg last:k").all(), ["b|a"]);
    let huge = "y".repeat(MAX_RECORD_BYTES);
    for (name, content) in
        [("in.csv", format!("k,v\na,b\n\"{huge}{huge}")), ("in.jsonl", format!("{{\"k\":1}}\n{{\"k\":\"{huge}\"}}\n"))]
    {
        let error = Case::new(name, content, "--key k --agg count").error();
        assert_eq!(error.kind(), ErrorKind::Input);
        assert!(error.message().starts_with("record is longer than 16 MiB line=`"), "{error}");
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

#[test]
fn damaged_states_are_refused() {
    let case = Case::new("in.csv", CSV, KEYED);
    let mut source = case.open().unwrap();
    source.next().unwrap();
    let state = String::from_utf8(source.state().to_bytes().unwrap()).unwrap();
    for (whole, damaged) in [
        ("\"records\":1", "\"records\":99"),
        ("\"line\":2", "\"line\":18446744073709551615"),
        ("\"bad_records\":0", "\"bad_records\":2"),
        ("\"offset\":", "\"offset\":-"),
        ("}", ""),
    ] {
        assert!(state.contains(whole), "{state}");
        let error = SourceState::from_bytes(state.replace(whole, damaged).as_bytes()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{damaged}");
    }
}
