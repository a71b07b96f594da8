//! Tables over restarts of a job: declared before their rows are loaded, renamed, given lives, read by newer codecs.

use std::sync::Arc;
use std::time::Duration;

use alluvium::backend::Ttl;
use alluvium::manifest::TableSchema;
use alluvium::prelude::TableOptions;
use alluvium::{
    At, Epoch, Error, ErrorKind, Fixed, Job, JobBuilder, ListState, MapState, Migrating, OperatorSpec, OverlayBackend,
    Result, Seat, Tables, Task, Timestamp, TtlConfig, Utf8, ValueState,
};
use alluvium_testkit::{COUNT, Gate, store};

async fn open(gate: &Arc<Gate>, parallelism: u32) -> Result<(Job, Vec<Seat>)> {
    let operator = OperatorSpec::new(COUNT, "count", parallelism);
    let mut job = JobBuilder::new(store(&gate.objects())).operator(operator).open().await?;
    let seats = job.take_seats();
    Ok((job, seats))
}

/// Declares tables in each seat, then restores it; returns the tasks with their handles.
async fn start<H>(
    seats: Vec<Seat>,
    declare: impl Fn(&mut Tables) -> Result<H>,
) -> Result<Vec<(Task<OverlayBackend>, H)>> {
    let mut tasks = Vec::new();
    for mut seat in seats {
        let handles = declare(seat.tables())?;
        tasks.push((seat.restore(|groups, _, budget| OverlayBackend::new(groups, budget)).await?, handles));
    }
    Ok(tasks)
}

/// Takes a checkpoint at this watermark; returns its epoch and tables.
async fn checkpoint<H>(
    job: &Job,
    tasks: &mut [(Task<OverlayBackend>, H)],
    watermark: i64,
) -> Result<(Epoch, Vec<TableSchema>)> {
    let barrier = job.trigger_when_possible().await?;
    for (task, _) in tasks.iter_mut() {
        task.barrier(barrier, Timestamp::from_millis(watermark), vec![])?;
    }
    assert!(job.wait(barrier).await?.is_some());
    let tables = tasks.iter_mut().map(|(task, _)| task.state().tables().schemas().to_vec());
    let tables: Vec<_> = tables.collect();
    assert!(tables.iter().all(|other| *other == tables[0]), "the tables of subtasks differ");
    Ok((barrier.epoch, tables[0].clone()))
}

type Handles = (ListState<u16, Fixed>, MapState<String, u64, Utf8, Fixed>);

fn first(tables: &mut Tables) -> Result<Handles> {
    Ok((tables.list("seen", Fixed)?, tables.map("stock", Utf8, Fixed)?))
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_survive_changes_of_tables_between_attempts() -> Result<()> {
    let gate = Gate::new();
    let (job, seats) = open(&gate, 2).await?;
    let mut tasks = start(seats, first).await?;
    for n in 0..40u16 {
        let key = n.to_be_bytes();
        let (task, (seen, stock)) = &mut tasks[job.subtask_of(&key, 2)];
        task.state().set_key(&key)?;
        seen.add_all(task.state(), &[n, n + 1])?;
        stock.put(task.state(), &"pears".to_owned(), &u64::from(n))?;
    }
    checkpoint(&job, &mut tasks, 1000).await?;
    drop((job, tasks));

    let (job, seats) = open(&gate, 3).await?;
    gate.take_calls();
    let refused = start(seats, |tables| tables.list("seen", Utf8)).await.err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::Config);
    for part in ["`seen`", "u16le v1", "utf8 v1"] {
        assert!(refused.to_string().contains(part), "{refused}");
    }
    let calls = gate.take_calls();
    // The background sweep of the new attempt may read manifests meanwhile, but reads no data.
    assert!(calls.iter().all(|call| !call.starts_with("get job/data/")), "a refused declaration read data: {calls:?}");
    drop(job);

    let (job, seats) = open(&gate, 3).await?;
    let second = |tables: &mut Tables| {
        tables.rename("seen", "visited")?;
        let wide = Migrating::new(At::new(Fixed, 2)).from(Fixed, |old: u16| u32::from(old))?;
        let visited = tables.list(TableOptions::new("visited").ttl(TtlConfig::new(Duration::from_secs(3600))), wide)?;
        let event = TtlConfig::new(Duration::from_millis(10)).in_event_time();
        Ok((visited, tables.map::<String, u64, _, _>(TableOptions::new("stock").ttl(event), Utf8, Fixed)?))
    };
    let mut tasks = start(seats, second).await?;
    for late in [false, true] {
        for n in 0..40u16 {
            let key = n.to_be_bytes();
            let (task, (visited, stock)) = &mut tasks[job.subtask_of(&key, 3)];
            task.state().set_key(&key)?;
            assert_eq!(visited.read(task.state())?, [u32::from(n), u32::from(n) + 1]);
            let expected = (!late).then(|| u64::from(n));
            assert_eq!(stock.read(task.state(), &"pears".to_owned())?, expected);
        }
        checkpoint(&job, &mut tasks, 1009).await?;
        tasks.iter_mut().for_each(|(task, _)| task.state().advance(Timestamp::from_millis(1010), Timestamp::MIN));
    }
    let (_, tables) = checkpoint(&job, &mut tasks, 1010).await?;
    let tables = by_name(tables, ["visited", "stock"]);
    assert_eq!((tables[0].name.as_str(), tables[0].value.version), ("visited", 2));
    let visited = Ttl { since: None, ..tables[0].ttl.unwrap() };
    assert_eq!(visited, Ttl { millis: 3_600_000, ..Ttl::default() }, "`since` may differ between groups");
    let since = Some(Timestamp::from_millis(1000));
    assert_eq!(tables[1].ttl, Some(Ttl { millis: 10, event_time: true, since, ..Ttl::default() }));
    drop((job, tasks));

    let (job, seats) = open(&gate, 1).await?;
    let stored = job.restored().unwrap().manifest.operators[0].tables.clone();
    assert_eq!(by_name(stored, ["visited", "stock"]), tables, "the stored tables");
    let mut tasks = start(seats, second).await?;
    let restored = by_name(checkpoint(&job, &mut tasks, 1010).await?.1, ["visited", "stock"]);
    assert_eq!(without_clock(restored), without_clock(tables));
    Ok(())
}

/// Removes what depends on whether the wall clock of all groups agreed.
fn without_clock(mut tables: Vec<TableSchema>) -> Vec<TableSchema> {
    for ttl in tables.iter_mut().filter_map(|table| table.ttl.as_mut()).filter(|ttl| !ttl.event_time) {
        ttl.since = None;
    }
    tables
}

/// Returns the tables with these names.
fn by_name(mut tables: Vec<TableSchema>, names: [&str; 2]) -> Vec<TableSchema> {
    names.map(|name| tables.remove(tables.iter().position(|table| table.name == name).unwrap())).to_vec()
}

type Value = ValueState<u64, Fixed>;

/// Declares `a` and `b` in an order that depends on the subtask.
fn by_order(tables: &mut Tables, at: usize) -> Result<[Value; 2]> {
    if at.is_multiple_of(2) {
        let a = tables.value("a", Fixed)?;
        Ok([a, tables.value("b", Fixed)?])
    } else {
        let b = tables.value("b", Fixed)?;
        Ok([tables.value("a", Fixed)?, b])
    }
}

async fn start_each<H>(
    seats: Vec<Seat>,
    declare: impl Fn(&mut Tables, usize) -> Result<H>,
) -> Result<Vec<(Task<OverlayBackend>, H)>> {
    let mut tasks = Vec::new();
    for (at, mut seat) in seats.into_iter().enumerate() {
        let handles = declare(seat.tables(), at)?;
        tasks.push((seat.restore(|groups, _, budget| OverlayBackend::new(groups, budget)).await?, handles));
    }
    Ok(tasks)
}

#[tokio::test(flavor = "multi_thread")]
async fn subtasks_may_declare_tables_in_any_order() -> Result<()> {
    let gate = Gate::new();
    let (job, seats) = open(&gate, 2).await?;
    let mut tasks = start_each(seats, by_order).await?;
    for n in 0..40u64 {
        let key = n.to_be_bytes();
        let (task, [a, b]) = &mut tasks[job.subtask_of(&key, 2)];
        task.state().set_key(&key)?;
        a.put(task.state(), &n)?;
        b.put(task.state(), &(1000 + n))?;
    }
    checkpoint_all(&job, &mut tasks).await?;
    drop((job, tasks));
    for parallelism in [1, 2, 3] {
        let (job, seats) = open(&gate, parallelism).await?;
        let mut tasks = start_each(seats, |tables, at| by_order(tables, at + 1)).await?;
        for n in 0..40u64 {
            let key = n.to_be_bytes();
            let (task, [a, b]) = &mut tasks[job.subtask_of(&key, parallelism)];
            task.state().set_key(&key)?;
            assert_eq!((a.read(task.state())?, b.read(task.state())?), (Some(n), Some(1000 + n)));
        }
        checkpoint_all(&job, &mut tasks).await?;
    }
    Ok(())
}

async fn checkpoint_all<H>(job: &Job, tasks: &mut [(Task<OverlayBackend>, H)]) -> Result<()> {
    let epoch = job.trigger_when_possible().await?;
    for (task, _) in tasks.iter_mut() {
        task.barrier(epoch, Timestamp::MIN, vec![])?;
    }
    assert!(job.wait(epoch).await?.is_some());
    Ok(())
}

fn assert_differ(refused: &Error) {
    assert_eq!(refused.kind(), ErrorKind::Config, "{refused}");
    let message = refused.to_string();
    for part in ["operator=`1`", "table=`a`", "subtask=`1`", "other_subtask=`0`", "u64le v1", "utf8 v1"] {
        assert!(message.contains(part), "{message} lacks {part}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f16_subtasks_that_differ_about_a_table_are_refused_with_both_sides() -> Result<()> {
    let gate = Gate::new();
    let (_job, seats) = open(&gate, 2).await?;
    let declare = |tables: &mut Tables, at| match at {
        0 => tables.value::<u64, _>("a", Fixed).map(drop),
        _ => tables.value("a", Utf8).map(drop),
    };
    assert_differ(&start_each(seats, declare).await.unwrap_err());

    // Declared while the job runs, the difference is refused at the barrier, before anything is sealed.
    let (job, seats) = open(&gate, 2).await?;
    let mut tasks = start_each(seats, |_, _| Ok(())).await?;
    tasks[0].0.state().value::<u64, _>("a", Fixed)?;
    tasks[1].0.state().value("a", Utf8)?;
    let epoch = job.trigger_when_possible().await?;
    tasks[0].0.barrier(epoch, Timestamp::MIN, vec![])?;
    assert_differ(&tasks[1].0.barrier(epoch, Timestamp::MIN, vec![]).unwrap_err());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_declared_by_some_subtasks_only_is_no_conflict() -> Result<()> {
    let gate = Gate::new();
    for (parallelism, wide) in [(2, false), (2, true), (3, true)] {
        let (job, seats) = open(&gate, parallelism).await?;
        // Only the first subtask declares `a`; if `wide`, in a newer version.
        let declare = |tables: &mut Tables, at| match (at, wide) {
            (0, false) => tables.value::<u16, _>("a", Fixed).map(drop),
            (0, true) => {
                let codec = Migrating::new(At::new(Fixed, 2)).from(Fixed, |old: u16| u32::from(old))?;
                tables.value::<u32, _>("a", codec).map(drop)
            }
            _ => tables.value::<u64, _>("b", Fixed).map(drop),
        };
        let mut tasks = start_each(seats, declare).await?;
        checkpoint_all(&job, &mut tasks).await?;
        drop((job, tasks));
        let (job, _) = open(&gate, 1).await?;
        let stored = job.restored().unwrap().manifest.operators[0].tables.clone();
        let stored = by_name(stored, ["a", "b"]);
        assert_eq!(stored[0].value.version, if wide { 2 } else { 1 });
    }
    Ok(())
}
