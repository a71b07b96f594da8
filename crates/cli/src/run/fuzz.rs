//! Fuzz targets for the tool's input and flags, run by `fuzz/` and by a test over their committed corpora.

use std::fs;

use alluvium::{ErrorKind, Result};
use clap::Parser;
use tempfile::TempDir;

use super::aggregate::Aggregate;
use super::args::RunArgs;
use super::program::Program;
use super::record::decode_key;
use super::source::{Input, Next, Source, SourceState};
use super::window::{WindowSize, namespace, parse_time, start_of};

/// Maximum number of records per case: a compressed case could hold any number.
const RECORDS_MAX: usize = 10_000;

const NAMES: [&str; 4] = ["in.csv", "in.jsonl", "in.csv.gz", "in.jsonl.zst"];

#[derive(Debug, Parser)]
struct Tool {
    #[command(flatten)]
    run: RunArgs,
}

fn parse(flags: &str) -> Result<RunArgs, clap::Error> {
    let fixed = ["run", "--store", "memory:///", "--job", "j"].into_iter();
    let run = Tool::try_parse_from(fixed.chain(flags.split_whitespace()))?.run;
    run.check().map(|()| run)
}

/// Reads fuzzed input. The first byte chooses format and flags; the second sets the number of records before a resume,
/// and the share of the input that exists before it grows.
///
/// # Errors
/// The refusal of the input.
///
/// # Panics
/// If a rule is broken.
pub fn input(data: &[u8]) -> Result<()> {
    let [choice, records, content @ ..] = data else { return Ok(()) };
    let folder = TempDir::new().expect("a folder for temporary files");
    let path = folder.path().join(NAMES[usize::from(choice % 4)]);
    fs::write(&path, content).expect("a temporary file");
    let flags = match choice >> 2 & 3 {
        0 => "--key k --agg count,min:v,last:w",
        1 => "--key k,w --agg mean:v,distinct:w --on-bad-record skip",
        2 => "--key k --agg count,sum:v --window tumbling:10ms --time t --on-bad-record skip",
        _ => "--key k --agg max:v --window tumbling:1d --time t --lateness 1h",
    };
    let args = parse(&format!("--input {} {flags}", path.display())).expect("flags of the tool");
    let program = args.program().expect("a program");
    let whole = read(Source::open_now(&args.input, &program, None)?, usize::MAX)?.0;
    let (first, state) = read(Source::open_now(&args.input, &program, None)?, (*records).into())?;
    let state = SourceState::from_opaques(&state.to_opaques()?).expect("an encoded state decodes");
    let rest = read(Source::open_now(&args.input, &program, Some(state)).expect("the same input"), usize::MAX);
    let rest = rest.expect("a readable input stays readable").0;
    let same = first.iter().chain(&rest).take(whole.len()).eq(&whole);
    assert!(same, "another run reads other records: {first:?} {rest:?} {whole:?}");
    if path.extension().is_some_and(|extension| extension == "csv" || extension == "jsonl") {
        let cut = content.len() * usize::from(*records) / 256;
        fs::write(&path, &content[..cut]).expect("a temporary file");
        let old = Source::open_now(&args.input, &program, None).and_then(|source| read(source, usize::MAX));
        fs::write(&path, content).expect("a temporary file");
        old.into_iter().for_each(|old| check_grown(&args, &program, old, &whole));
    }
    Ok(())
}

/// Resumes after the `old` records of an input that has grown: it yields the rest of `whole`, or is refused.
fn check_grown(args: &RunArgs, program: &Program, (old, state): (Vec<String>, SourceState), whole: &[String]) {
    let more = Source::open_now(&args.input, program, Some(state)).and_then(|source| read(source, usize::MAX));
    match more {
        Ok((more, _)) => {
            let same = old.iter().chain(&more).take(whole.len()).eq(whole);
            assert!(same, "a grown input yields other records: {old:?} {more:?} {whole:?}");
        }
        Err(error) => assert_eq!(error.kind(), ErrorKind::Input, "{error}"),
    }
}

/// Reads up to `limit` records, as text, and returns them with the state after the last.
fn read(mut source: Source, limit: usize) -> Result<(Vec<String>, SourceState)> {
    let mut all = Vec::new();
    while all.len() < limit.min(RECORDS_MAX) {
        all.push(match source.next()? {
            Next::End => break,
            next => format!("{next:?}"),
        });
    }
    let state = source.state()?;
    Ok((all, state))
}

/// Parses fuzzed text as flags, and as every other textual value of the tool.
///
/// # Errors
/// The refusal of the input.
///
/// # Panics
/// If a rule is broken.
pub fn flags(data: &[u8]) -> Result<()> {
    let text = String::from_utf8_lossy(data);
    if let Ok(args) = parse(&text)
        && let Ok(program) = args.program()
    {
        let stored = Program::from_bytes(&program.to_bytes()?).expect("an encoded program decodes");
        Program::check(&stored, &program).expect("the same program");
    }
    for word in text.split_whitespace() {
        if let Ok(aggregate) = word.parse::<Aggregate>() {
            assert_eq!(aggregate.to_string(), word, "an aggregate has one spelling");
        }
        let _parsed = (word.parse::<WindowSize>(), word.parse::<Input>());
    }
    for line in text.lines() {
        if let Some(time) = parse_time(line) {
            assert_eq!(start_of(&namespace(time))?, time);
        }
    }
    for columns in 0..4 {
        let _refused = decode_key(data, columns);
    }
    if let Ok(program) = Program::from_bytes(data) {
        assert_eq!(Program::from_bytes(&program.to_bytes()?)?, program);
    }
    let state = SourceState::from_json(data)?;
    assert_eq!(SourceState::from_json(&state.to_json()?)?, state);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn inputs_of_format_fragments_keep_the_rules(
            choice in any::<u8>(),
            records in any::<u8>(),
            parts in prop::collection::vec(prop::sample::select(&PARTS[..]), 0..24),
        ) {
            let head = if choice % 2 == 0 { "k,v,w,t\n" } else { "{\"k\":1,\"v\":2,\"w\":3,\"t\":4}\n" };
            let content = [&[choice & 0b1101, records], head.as_bytes(), parts.concat().as_bytes()].concat();
            let _refused = input(&content);
        }
    }

    const PARTS: [&str; 16] = [
        "\n",
        "\r\n",
        "\r",
        ",",
        "\"",
        "\"\"",
        "a",
        "1",
        "a,1,b,2\n",
        "\"a\",1,\"b\n\",9",
        " ",
        "{\"k\":1}\n",
        "{\"k\":\"a\",\"t\":99,\"w\":\"\"}",
        "{",
        "}",
        "\u{feff}",
    ];

    #[test]
    fn every_committed_input_keeps_the_rules() {
        for (target, body, least) in [("flags", flags as fn(&[u8]) -> Result<()>, 4), ("input", input, 30)] {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds").join(target);
            let mut inputs = 0;
            for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
                let content = fs::read(&path).unwrap();
                let outcome = std::panic::catch_unwind(|| body(&content));
                let outcome = outcome.unwrap_or_else(|_| panic!("{} breaks a rule", path.display()));
                let bad = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("bad-"));
                assert!(!bad || outcome.is_err(), "{} is accepted", path.display());
                inputs += 1;
            }
            assert!(inputs >= least, "{inputs} inputs of {target}");
        }
    }
}
