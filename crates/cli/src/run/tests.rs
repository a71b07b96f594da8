//! Source, operators and output, against an independent computation.

use std::fs;
use std::path::Path;

use alluvium::backend::{Cut, Part, StateBackend};
use alluvium::schema::{Type, decode_any};
use alluvium::{
    Epoch, ErrorKind, KeyGroupSet, MemoryBudget, OverlayBackend, Partitioner, Result, Timestamp, owner, subtask_range,
};
use alluvium_testkit::oracle::{DISTINCT, KEYED, SHUFFLED, Spec, WINDOWED, expected, sample};
use clap::Parser;
use tempfile::TempDir;

use super::args::RunArgs;
use super::operator::Operator;
use super::output::{Output, OutputRow};
use super::program::{Emit, Program};
use super::record::RecordBatch;
use super::source::{Input, Next, Source, SourceState};

const MAX_PARALLELISM: u16 = 128;
const PARTITIONER: Partitioner = Partitioner::Range { seed: 42 };

#[derive(Debug, Parser)]
struct Tool {
    #[command(flatten)]
    run: RunArgs,
}

fn parse(input: &Path, flags: &[String]) -> (Input, Program) {
    let input = input.display().to_string();
    let fixed = ["run", "--store", "memory:///", "--job", "j", "--input", &input].map(str::to_owned);
    let args = Tool::try_parse_from(fixed.iter().chain(flags)).unwrap().run;
    (args.input.clone(), args.program().unwrap())
}

/// The operators of a job, without threads, and the source that feeds them.
struct Job {
    program: Program,
    source: Source,
    subtasks: Vec<(Operator, OverlayBackend)>,
    batches: Vec<RecordBatch>,
}

impl Job {
    fn start(input: &Input, program: &Program, parallelism: u32) -> Result<Self> {
        Self::with_source(Source::open_now(input, program, None)?, program, parallelism)
    }

    fn with_source(source: Source, program: &Program, parallelism: u32) -> Result<Self> {
        let subtask = |index| {
            let groups = KeyGroupSet::from(subtask_range(MAX_PARALLELISM, parallelism, index));
            let operator = Operator::new(program, PARTITIONER, MAX_PARALLELISM)?;
            Ok((operator, OverlayBackend::new(groups, MemoryBudget::new(u64::MAX))))
        };
        let subtasks = (0..parallelism).map(subtask).collect::<Result<Vec<_>>>()?;
        let batches = subtasks.iter().map(|_| RecordBatch::default()).collect();
        Ok(Self { program: program.clone(), source, subtasks, batches })
    }

    /// Reads up to `limit` records; returns whether the input ended.
    fn read(&mut self, limit: u64) -> Result<bool> {
        let parallelism = u32::try_from(self.subtasks.len()).unwrap();
        let until = self.source.records() + limit;
        let mut ended = false;
        while !ended && self.source.records() < until {
            match self.source.next()? {
                Next::Record(record) => {
                    let key = PARTITIONER.locate(record.key, 0, MAX_PARALLELISM);
                    self.batches[owner(MAX_PARALLELISM, parallelism, key.group) as usize].push(record, &key);
                }
                Next::Skipped => {}
                Next::Wait => panic!("input makes its reader wait"),
                Next::End => ended = true,
            }
            if ended || self.batches.iter().any(|batch| batch.len() >= 100) {
                self.flush()?;
            }
        }
        self.flush()?;
        Ok(ended)
    }

    fn flush(&mut self) -> Result<()> {
        for ((operator, backend), batch) in self.subtasks.iter_mut().zip(&mut self.batches) {
            operator.apply_batch(backend, batch, || {})?;
            batch.clear();
        }
        Ok(())
    }

    /// Checkpoints the job and resumes it at `parallelism`.
    fn restart(mut self, input: &Input, parallelism: u32) -> Self {
        let state = SourceState::from_opaques(&self.source.state().unwrap().to_opaques().unwrap()).unwrap();
        let source = Source::open_now(input, &self.program, Some(state)).unwrap();
        let mut next = Self::with_source(source, &self.program, parallelism).unwrap();
        let cut = Cut { epoch: Epoch(1), part: Part(0), event_time: Timestamp::MIN, processing_time: Timestamp::MIN };
        for (_, old) in &mut self.subtasks {
            let all = old.groups().clone();
            let sealed = old.seal(cut, &all).unwrap();
            for (_, new) in &mut next.subtasks {
                for part in &sealed.parts {
                    let groups = part.groups.intersection(new.groups());
                    new.drop_groups(&groups).unwrap();
                    new.load(&*part.rows, &groups).unwrap();
                }
            }
        }
        for (operator, backend) in &mut next.subtasks {
            operator.recover_open_windows(backend).unwrap();
        }
        next
    }

    fn rows(&mut self, read: impl Fn(&mut Operator, &mut OverlayBackend) -> Result<Vec<OutputRow>>) -> Vec<OutputRow> {
        let mut rows = Vec::new();
        for (operator, backend) in &mut self.subtasks {
            rows.extend(read(operator, backend).unwrap());
        }
        rows
    }

    fn output(&self, mut rows: Vec<OutputRow>) -> String {
        let output = Output::new(&self.program);
        output.sort(&mut rows);
        let mut bytes = Vec::new();
        output.write(&rows, &mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    fn results(&mut self) -> String {
        let rows = self.rows(|operator, backend| operator.results(backend));
        self.output(rows)
    }
}

/// Runs the spec over a file at several parallelisms, and compares with the independent computation.
fn check(path: &Path, spec: &Spec, parallelisms: &[u32]) {
    let csv = fs::read(path).unwrap();
    let answer = expected(&csv, spec);
    let (input, program) = parse(path, &spec.flags());
    for parallelism in parallelisms {
        let mut job = Job::start(&input, &program, *parallelism).unwrap();
        job.read(u64::MAX).unwrap();
        let counts = (job.source.records(), job.source.bad_records(), job.source.late_records());
        assert_eq!(counts, (answer.records, answer.bad_records, answer.late_records));
        assert!(job.results() == answer.output, "parallelism {parallelism}, {spec:?}");
    }
}

fn write(folder: &TempDir, name: &str, content: &str) -> std::path::PathBuf {
    let path = folder.path().join(name);
    fs::write(&path, content).unwrap();
    path
}

#[test]
fn results_equal_an_independent_computation() {
    let folder = TempDir::new().unwrap();
    let csv = sample::sample();
    let path = write(&folder, "sample.csv", &csv);
    for spec in [KEYED, WINDOWED, DISTINCT] {
        check(&path, &spec, &[1, 2, 3, 8]);
    }
    let shuffled = write(&folder, "shuffled.csv", &sample::shuffled(&csv));
    check(&shuffled, &SHUFFLED, &[1, 2, 3, 8]);
    // Integers, another key, a window that is not a whole number of seconds, times as integers.
    let integers = Spec { key: "sku,region", agg: "sum:vm_id,mean:vm_id,min:vm_id,max:vm_id,max:test", ..KEYED };
    check(&path, &integers, &[1, 5]);
}

#[test]
fn the_result_does_not_depend_on_restarts() {
    let folder = TempDir::new().unwrap();
    let path = write(&folder, "sample.csv", &sample::sample());
    for spec in [KEYED, WINDOWED, DISTINCT] {
        let (input, program) = parse(&path, &spec.flags());
        let mut job = Job::start(&input, &program, 2).unwrap();
        let parallelisms = [1, 8, 3, 5, 2, 7];
        for parallelism in parallelisms.iter().cycle() {
            if job.read(333).unwrap() {
                break;
            }
            job = job.restart(&input, *parallelism);
        }
        assert!(job.results() == expected(&fs::read(&path).unwrap(), &spec).output, "{spec:?}");
    }
}

#[test]
fn closed_windows_are_emitted_once_and_leave_no_state() {
    let folder = TempDir::new().unwrap();
    let path = write(&folder, "sample.csv", &sample::shuffled(&sample::sample()));
    for spec in [WINDOWED, SHUFFLED] {
        let flags: Vec<_> =
            spec.flags().into_iter().chain(["--emit", "on-close", "--output", "x"].map(str::to_owned)).collect();
        let (input, program) = parse(&path, &flags);
        assert_eq!(program.emit, Emit::OnClose);
        let mut job = Job::start(&input, &program, 3).unwrap();
        let mut published = Vec::new();
        let mut parts = 0;
        for parallelism in [2, 4, 1].iter().cycle() {
            let ended = job.read(250).unwrap();
            let watermark = if ended { i64::MAX } else { job.source.watermark().unwrap() };
            let part = job.rows(|operator, backend| operator.close(backend, watermark));
            parts += usize::from(!part.is_empty());
            published.extend(part);
            if ended {
                break;
            }
            job = job.restart(&input, *parallelism);
        }
        assert!(parts > 3, "windows close along the way");
        assert!(job.output(published) == expected(&fs::read(&path).unwrap(), &spec).output, "{spec:?}");
        let left: u64 = job.subtasks.iter().map(|(_, backend)| backend.stats().rows).sum();
        assert_eq!(left, 0);
    }
}

#[test]
fn sums_that_overflow_end_the_job() {
    let folder = TempDir::new().unwrap();
    let max = i128::MAX;
    for (content, agg) in [
        (format!("k,v\na,{max}\nb,1\na,0\na,1\n"), "sum:v"),
        (format!("k,v\na,-{max}\na,-2\n"), "mean:v"),
        ("k,v\na,1.7e308\na,1.7e308\n".to_owned(), "sum:v"),
    ] {
        let path = write(&folder, "in.csv", &content);
        let (input, program) = parse(&path, &["--key", "k", "--agg", agg].map(str::to_owned));
        let error = Job::start(&input, &program, 1).unwrap().read(u64::MAX).unwrap_err();
        let text = format!("sum overflows aggregate=`{}` key=`a`", agg.replace(':', "_"));
        assert_eq!((error.kind(), error.message()), (ErrorKind::Input, text.as_str()));
    }
}

#[test]
fn numbers_print_as_the_contract_says() {
    let folder = TempDir::new().unwrap();
    let content = "k,d,i\na,-0.0,7\na,0.10,-0\nb,1e21,170141183460469231731687303715884105727\nc,-0.0,NA\nc,NA,\n";
    let path = write(&folder, "in.csv", content);
    let agg = "sum:d,mean:d,min:d,max:d,sum:i,mean:i,min:i,max:i";
    let (input, program) = parse(&path, &["--key", "k", "--agg", agg].map(str::to_owned));
    let mut job = Job::start(&input, &program, 1).unwrap();
    job.read(u64::MAX).unwrap();
    let rows = job.results();
    let rows: Vec<_> = rows.lines().skip(1).collect();
    assert_eq!(
        rows,
        [
            "a,0.1,0.05,-0.0,0.10,7,3.5,-0,7",
            "b,1000000000000000000000,1000000000000000000000,1e21,1e21,170141183460469231731687303715884105727,\
             170141183460469230000000000000000000000,170141183460469231731687303715884105727,\
             170141183460469231731687303715884105727",
            "c,0,0,-0.0,-0.0,,,,",
        ]
    );
}

#[test]
fn ties_keep_the_first() {
    let folder = TempDir::new().unwrap();
    let path = write(&folder, "in.csv", "k,d,t\na,1.0,x\na,1,y\na,1.00,x\na,01.000,y\n");
    let (input, program) = parse(&path, &["--key", "k", "--agg", "min:d,max:d,last:d,min:t,max:t"].map(str::to_owned));
    let mut job = Job::start(&input, &program, 1).unwrap();
    job.read(u64::MAX).unwrap();
    assert_eq!(job.results(), "k,min_d,max_d,last_d,min_t,max_t\na,1.0,1.0,01.000,x,y\n");
}

#[test]
fn an_input_without_records_yields_only_a_header() {
    let folder = TempDir::new().unwrap();
    let path = write(&folder, "in.csv", "k,v,t\n");
    let flags = "--key k,v --agg count,last:v --window tumbling:1h --time t".split(' ').map(str::to_owned);
    let (input, program) = parse(&path, &flags.collect::<Vec<_>>());
    let mut job = Job::start(&input, &program, 2).unwrap();
    assert!(job.read(u64::MAX).unwrap());
    assert_eq!(job.results(), "k,v,window_start,count,last_v\n");
}

#[test]
fn tools_can_decode_every_row() {
    let folder = TempDir::new().unwrap();
    let content = "k,a b,a_b,t\nx,1,2.5,7\nx,NA,,8\n";
    let path = write(&folder, "in.csv", content);
    let agg = "count,sum:a b,mean:a_b,min:a b,min:a_b,last:a b,distinct:a b";
    let flags = ["--key", "k", "--agg", agg, "--window", "tumbling:5ms", "--time", "t"].map(str::to_owned);
    let (input, program) = parse(&path, &flags);
    let mut job = Job::start(&input, &program, 1).unwrap();
    job.read(u64::MAX).unwrap();
    let (operator, backend) = &mut job.subtasks[0];
    let mut printed = Vec::new();
    for table in operator.tables() {
        let types = [&table.key, &table.namespace, &table.sub, &table.value];
        let types = types.map(|schema| Type::parse(&schema.name).unwrap_or_else(|| panic!("{schema:?}")));
        let groups = backend.groups().clone();
        let decode = |entry: alluvium::backend::Entry<'_>| {
            let parts = [entry.key, entry.namespace, entry.sub, entry.value];
            let texts = types.iter().zip(parts).map(|(ty, part)| decode_any(ty, part).unwrap().to_string());
            printed.push(format!("{}: {}", table.name, texts.collect::<Vec<_>>().join(" | ")));
            true
        };
        backend.scan(table.id, &groups, &[], decode).unwrap();
    }
    let row = "{count:2,sum_a_b:{integer:1},mean_a_b:{cells:1,sum:{decimal:2.5}},min_a_b:1,min_a_b_4:2.5,\
               last_a_b:1,distinct_a_b:1}";
    assert_eq!(printed, [format!("aggregates: {{k:x}} | 5 |  | {row}"), "distinct_a b: {k:x} | 5 | 1 | ".to_owned()]);
}

#[test]
fn rows_of_another_job_are_corrupt() {
    let folder = TempDir::new().unwrap();
    let path = write(&folder, "in.csv", "k,v\na,1\na,2\n");
    let start = |agg: &str| {
        let (input, program) = parse(&path, &["--key", "k", "--agg", agg].map(str::to_owned));
        Job::start(&input, &program, 1).unwrap()
    };
    for (written, read) in
        [("count", "count,last:v"), ("count,last:v", "count"), ("last:v", "sum:v"), ("sum:v", "mean:v")]
    {
        let mut job = start(written);
        job.read(u64::MAX).unwrap();
        let mut other = start(read);
        let (operator, _) = &mut other.subtasks[0];
        let (_, backend) = &mut job.subtasks[0];
        assert_eq!(operator.results(backend).unwrap_err().kind(), ErrorKind::Corrupt, "{written} as {read}");
    }
}
