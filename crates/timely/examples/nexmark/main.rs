//! NEXMark queries on a cluster of timely processes. Kill any of them at any time, and start all again, with any number of them: each
//! row of the answer is published once.
//!
//! ```sh
//! cargo build --release -p alluvium-timely --example nexmark
//! alias nexmark="target/release/examples/nexmark --query 5 --events 2000000 --store file:///tmp/nexmark --job hot --output /tmp/hot"
//! nexmark -n 3 -p 0 & nexmark -n 3 -p 1 & nexmark -n 3 -p 2
//! ```

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "an example speaks to its reader")]
#![expect(clippy::disallowed_methods, reason = "an engine has a clock of its own")]
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    reason = "times and numbers of a generator"
)]

mod events;
mod hot_items;
mod local_items;
mod new_sellers;

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use alluvium::sink::{FolderTarget, SinkSettings};
use alluvium::source::SourceSettings;
use alluvium::{Error, ErrorKind, JobSettings, Result, Schema, Store, Timestamp, TokioRuntime};
use alluvium_timely::{Job, JobConfig, Summary, Time, execute};
use clap::Parser;
use nexmark::event::Event;
use timely::dataflow::operators::vec::Map as _;
use timely::dataflow::{Scope, Stream};
use timely::worker::Worker;

use events::{EventReader, Events};
use hot_items::{Bid, Count, CountBids, Hottest};
use local_items::{Local, LocalEvent, LocalItems};
use new_sellers::{Activity, NewSellers};

/// Runs a NEXMark query, as one process of a cluster.
#[derive(Debug, Clone, Parser)]
#[command(disable_help_flag = true)]
struct Args {
    /// The query: 3 (local items), 5 (hot items) or 8 (new sellers).
    #[arg(long, value_parser = clap::value_parser!(u8).range(3..=8))]
    query: u8,
    /// How many events to read.
    #[arg(long)]
    events: u64,
    /// Chooses the events.
    #[arg(long, default_value_t = 0)]
    seed: u32,
    /// Where the checkpoints lie: file:///tmp/nexmark, say. The same place for all processes.
    #[arg(long)]
    store: String,
    /// The name of the job.
    #[arg(long)]
    job: String,
    /// The folder that gets the answer, as part-*.csv: one for all processes.
    #[arg(long)]
    output: PathBuf,
    /// Time between checkpoints.
    #[arg(long, default_value = "1s", value_parser = humantime::parse_duration)]
    interval: Duration,
    /// Events to read in a second, in all processes together. Default: as many as possible.
    #[arg(long)]
    rate: Option<u64>,
    /// Print a summary as JSON, at process 0.
    #[arg(long)]
    json: bool,
    /// How many processes there are.
    #[arg(short = 'n', default_value_t = 1)]
    processes: usize,
    /// Which of them this is, from 0.
    #[arg(short = 'p', default_value_t = 0)]
    process: usize,
    /// Threads of each process.
    #[arg(short = 'w', default_value_t = 1)]
    threads: usize,
    /// A file with the address of each process in a line. Default: localhost, from port 2101 on.
    #[arg(short = 'h')]
    hostfile: Option<String>,
    /// How long all processes have to be there.
    #[arg(long, default_value = "8s", value_parser = humantime::parse_duration)]
    start_within: Duration,
    /// Print help.
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,
}

impl Args {
    /// Returns what timely makes of its own flags.
    fn timely(&self) -> Result<timely::Config> {
        if self.process >= self.processes {
            return Err(Error::usage("-p is not below -n")
                .with("process", self.process)
                .with("processes", self.processes));
        }
        let mut flags =
            vec![format!("-n{}", self.processes), format!("-p{}", self.process), format!("-w{}", self.threads)];
        flags.extend(self.hostfile.iter().map(|file| format!("-h{file}")));
        timely::Config::from_args(flags.into_iter()).map_err(Error::config)
    }

    fn header(&self) -> &'static str {
        match self.query {
            3 => "name,city,state,auction\n",
            5 => "window_end,auction,bids\n",
            _ => "person,name,window_start\n",
        }
    }
}

type Rows<'scope> = Stream<'scope, Time, Vec<String>>;

fn source<'scope, D: Clone + 'static>(
    (job, args): (&Job, &Args),
    scope: Scope<'scope, Time>,
    select: impl Fn(&Event) -> Option<D> + 'static,
) -> Stream<'scope, Time, Vec<D>> {
    let events = Events { events: args.events, seed: args.seed, rate: args.rate };
    let read = move |reader: &EventReader| {
        let event = reader.event().ok_or_else(|| Error::usage("there is no current event"))?;
        Ok((Some(Timestamp::from_millis(event.timestamp() as i64)), select(event)))
    };
    job.source(scope, job.operator(1, "events"), (events, SourceSettings::default()), read)
}

fn local_items<'scope>(job: &Job, args: &Args, scope: Scope<'scope, Time>) -> Rows<'scope> {
    let events = source((job, args), scope, |event| match event {
        Event::Person(person) if ["OR", "ID", "CA"].contains(&&*person.state.to_uppercase()) => {
            let columns = [&person.name, &person.city, &person.state].map(String::clone);
            Some(Local { person: person.id as u64, event: LocalEvent::Person(columns) })
        }
        Event::Auction(auction) if auction.category == 10 => {
            Some(Local { person: auction.seller as u64, event: LocalEvent::Auction(auction.id as u64) })
        }
        _ => None,
    });
    let join = job.operator(2, "local items").keyed_by(Schema::new("u64"));
    job.stateful(events, join, |local, key| key.extend(local.person.to_le_bytes()), LocalItems::restore)
}

fn hot_items<'scope>(job: &Job, args: &Args, scope: Scope<'scope, Time>) -> Rows<'scope> {
    let bids = source((job, args), scope, |event| match event {
        Event::Bid(bid) => Some(Bid { auction: bid.auction as u64, millis: bid.date_time as i64 }),
        _ => None,
    });
    let count = job.operator(2, "bids of windows").keyed_by(Schema::new("u64"));
    let counts = job.stateful(bids, count, |bid, key| key.extend(bid.auction.to_le_bytes()), CountBids::restore);
    let hottest = job.operator(3, "hottest").keyed_by(Schema::new("i64"));
    let hottest =
        job.stateful(counts, hottest, |count, key| key.extend(count.window_end.to_le_bytes()), Hottest::restore);
    hottest.map(|Count { window_end, auction, bids }| format!("{window_end},{auction},{bids}"))
}

fn new_sellers<'scope>(job: &Job, args: &Args, scope: Scope<'scope, Time>) -> Rows<'scope> {
    let activity = source((job, args), scope, |event| match event {
        Event::Person(person) => Some(Activity {
            person: person.id as u64,
            millis: person.date_time as i64,
            name: Some(person.name.clone()),
        }),
        Event::Auction(auction) => {
            Some(Activity { person: auction.seller as u64, millis: auction.date_time as i64, name: None })
        }
        Event::Bid(_) => None,
    });
    let join = job.operator(2, "new sellers").keyed_by(Schema::new("u64"));
    job.stateful(activity, join, |activity, key| key.extend(activity.person.to_le_bytes()), NewSellers::restore)
}

fn build(worker: &mut Worker, job: &Job, args: &Args, target: &FolderTarget) {
    worker.dataflow(|scope| {
        let rows = match args.query {
            3 => local_items(job, args, scope),
            5 => hot_items(job, args, scope),
            _ => new_sellers(job, args, scope),
        };
        let target = Arc::new(target.clone());
        job.publish(
            rows,
            job.operator(9, "output"),
            |seat| seat.add_staged_sink("rows", target, SinkSettings::default()),
            |row, bytes| {
                bytes.extend_from_slice(row.as_bytes());
                bytes.push(b'\n');
            },
        );
    });
}

fn run(args: &Args) -> Result<()> {
    if ![3, 5, 8].contains(&args.query) {
        return Err(Error::usage("there is no such query").with("query", args.query));
    }
    let started = Instant::now();
    let runtime =
        tokio::runtime::Runtime::new().map_err(|source| Error::unavailable("no runtime").with_source(source))?;
    let adapter = TokioRuntime::new(runtime.handle().clone());
    let store = Store::open(&args.store, &args.job.parse()?, adapter.clone())?;
    let mut config = JobConfig::new(store);
    config.settings = JobSettings::default().with(|it| it.checkpoints.interval = args.interval);
    config.program = format!("nexmark 1, query {}, {} events, seed {}", args.query, args.events, args.seed).into();
    config.start_within = args.start_within;
    let target = FolderTarget::new(&args.output, adapter).with_form(args.header(), ".csv");
    let of_workers = args.clone();
    let ended = execute(args.timely()?, config, move |worker, job| {
        build(worker, job, &of_workers, &target);
        Ok(())
    });
    // Uploads that are under way are of no use any more.
    runtime.shutdown_background();
    ended?.map_or(Ok(()), |summary| report(args, &summary, started.elapsed()))
}

fn report(args: &Args, summary: &Summary, elapsed: Duration) -> Result<()> {
    let Summary { attempt, restored, progress, .. } = summary;
    let (committed, aborted) = (progress.completed, progress.aborted);
    let (seconds, last) = (elapsed.as_secs_f64(), progress.committed.map(|(_, id)| id.seq.0));
    if args.json {
        let checkpoints = serde_json::json!({ "committed": committed, "aborted": aborted });
        println!(
            "{}",
            serde_json::json!({
                "attempt": attempt.0,
                "restored_from": restored.map(|id| id.seq.0),
                "last_checkpoint": last,
                "checkpoints": checkpoints,
                "elapsed_s": seconds,
            })
        );
    } else {
        println!("attempt {attempt}: {committed} checkpoints, {aborted} aborted, {seconds:.2} s");
    }
    Ok(())
}

fn main() {
    let args = Args::parse();
    let is_terminal = std::io::stderr().is_terminal();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(is_terminal)
        .with_max_level(tracing::Level::WARN)
        .init();
    if let Err(error) = run(&args) {
        eprintln!("error[{}]: {}", error.kind(), error.chain());
        std::process::exit(if error.kind() == ErrorKind::Usage { 2 } else { 1 });
    }
}
