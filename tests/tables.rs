//! Tables over a job's restarts: declared before their rows are loaded, renamed, given lives, read by newer codecs.

mod common;

use std::sync::Arc;
use std::time::Duration;

use alluvium::backend::{ListState, MapState, OverlayBackend, Tables, TtlConfig};
use alluvium::codec::typed::{At, Fixed, Migrating, Utf8};
use alluvium::id::Epoch;
use alluvium::job::{Job, JobBuilder, OperatorSpec, Seat, Task};
use alluvium::manifest::{TableSchema, Ttl};
use alluvium::prelude::TableOptions;
use alluvium::time::Timestamp;
use alluvium::{ErrorKind, Result};
use common::{COUNT, Gate, store};

async fn open(gate: &Arc<Gate>, parallelism: u32) -> Result<(Job, Vec<Seat>)> {
    let operator = OperatorSpec::new(COUNT, "count", parallelism);
    let mut job = JobBuilder::new(store(&gate.objects())).operator(operator).open().await?;
    let seats = job.take_seats();
    Ok((job, seats))
}

/// Restores each seat after it declared its tables, and returns the tasks with their handles.
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

/// Makes a checkpoint at this watermark and returns the tables it lists.
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
    assert!(tables.iter().all(|of_one| *of_one == tables[0]), "subtasks differ");
    Ok((barrier.epoch, tables[0].clone()))
}

type Handles = (ListState<u16, Fixed>, MapState<String, u64, Utf8, Fixed>);

fn first(tables: &mut Tables) -> Result<Handles> {
    Ok((tables.list("seen", Fixed)?, tables.map("stock", Utf8, Fixed)?))
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_change_between_attempts_and_their_rows_go_on() -> Result<()> {
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
    assert!(calls.iter().all(|call| !call.starts_with("get")), "something was read: {calls:?}");
    drop(job);

    let (job, seats) = open(&gate, 3).await?;
    let at = job.restored().unwrap().manifest.created_at;
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
    assert_eq!((tables[0].name.as_str(), tables[0].value.version), ("visited", 2));
    assert_eq!(tables[0].ttl, Some(Ttl { millis: 3_600_000, since: Some(at), ..Ttl::default() }));
    let since = Some(Timestamp::from_millis(1000));
    assert_eq!(tables[1].ttl, Some(Ttl { millis: 10, event_time: true, since, ..Ttl::default() }));
    drop((job, tasks));

    let (job, seats) = open(&gate, 1).await?;
    assert_eq!(job.restored().unwrap().manifest.operators[0].tables, tables, "as they were stored");
    let mut tasks = start(seats, second).await?;
    assert_eq!(checkpoint(&job, &mut tasks, 1010).await?.1, tables);
    Ok(())
}
