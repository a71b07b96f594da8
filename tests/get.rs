//! Single keys of a checkpoint: `get` returns what `export` returns for the key, and reads little.

use std::collections::BTreeMap;

use alluvium::offline::{self, TableRow};
use alluvium::{
    ErrorKind, Fixed, JobBuilder, JobSettings, LogBackend, ManifestLog, OperatorId, OperatorSpec, Partitioner, Raw,
    RestoreFrom, Result, Schema, Store, TableOptions, Task, Timestamp, Utf8,
};
use alluvium_testkit::{Counting, Gate};

const GROUPS: u16 = 2;

fn settings() -> JobSettings {
    JobSettings::default().with(|it| it.max_parallelism = GROUPS)
}

/// The rows of a key, printed.
type Rows = Vec<String>;

fn printed(row: &TableRow<'_>) -> String {
    format!("{} {} {} {}", row.group, row.place.namespace, row.place.sub, row.value)
}

/// Returns the rows of `key` in `table`, and the bytes read for them.
async fn get(store: &Store, table: &str, key: &[u8]) -> Result<(Rows, u64)> {
    let checkpoint = offline::find(store, &mut ManifestLog::load(store).await?, None).await?;
    let before = store.requests().get_bytes;
    let mut rows = Vec::new();
    let each = |row: TableRow<'_>| {
        rows.push(printed(&row));
        Ok(())
    };
    let count = offline::get(store, &checkpoint.manifest, table, key, each).await?;
    assert_eq!(count, rows.len() as u64);
    Ok((rows, store.requests().get_bytes - before))
}

/// Returns the rows of every key in `table`, by the key as text.
async fn export(store: &Store, table: &str) -> Result<BTreeMap<String, Rows>> {
    let checkpoint = offline::open(store, &mut ManifestLog::load(store).await?, None).await?;
    let groups = alluvium::KeyGroupSet::all(checkpoint.manifest.max_parallelism);
    let mut rows: BTreeMap<String, Rows> = BTreeMap::new();
    offline::export(store, &checkpoint.manifest, table, &groups, |row| {
        rows.entry(row.place.key.to_string()).or_default().push(printed(&row));
        Ok(())
    })
    .await?;
    Ok(rows)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_found_in_a_base_and_deltas_by_reading_a_block_of_each() -> Result<()> {
    let gate = Gate::new();
    let store = alluvium_testkit::store(&gate.objects());
    let mut job = Counting::open_on(store.clone(), 1, settings(), RestoreFrom::Newest).await?;
    // Keys that do not compress.
    let key_of = |n: u32| xxhash_rust::xxh3::xxh3_128(&n.to_le_bytes()).to_be_bytes();
    (0..60_000).try_for_each(|n| job.add_key(&key_of(n)))?;
    job.checkpoint().await?;
    for round in 0..3 {
        (round * 4000..round * 4000 + 8000).try_for_each(|n| job.add_key(&key_of(n)))?;
        job.checkpoint().await?;
    }
    let store = alluvium_testkit::store(&gate.objects());
    let checkpoint = offline::open(&store, &mut ManifestLog::load(&store).await?, None).await?.manifest;
    let segments = &checkpoint.operators[0].inline_subtasks()?[0].segments;
    assert!(segments.len() > 2 && segments.iter().any(|segment| segment.length > 200_000), "{segments:?}");
    let group_bytes = segments.iter().map(|segment| segment.length).sum::<u64>() / u64::from(GROUPS);
    let expected = export(&store, "count").await?;
    for n in (0..61_000).step_by(997).chain([0, 59_999, 60_000]) {
        let key = key_of(n);
        let (rows, bytes) = get(&store, "count", &key).await?;
        let text = format!("0x{:032x}", u128::from_be_bytes(key));
        assert_eq!(rows, expected.get(&text).cloned().unwrap_or_default(), "{text}");
        assert!(bytes * 5 < group_bytes, "{bytes} of {group_bytes}");
    }
    let unknown = get(&store, "nope", b"a").await.unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::NotFound);
    Ok(())
}

/// Writes a base and three deltas with clears of every kind.
async fn write(task: &mut Task<LogBackend>, job: &alluvium::Job) -> Result<()> {
    let map = task.state().map(TableOptions::new("map").namespaced(Schema::new("utf8")), Utf8, Raw)?;
    let list = task.state().list("list", Utf8)?;
    let sums = task.state().value::<u64, _>("value", Fixed)?;
    for epoch in 0..4u32 {
        for key in 0..300u32 {
            if epoch > 0 && key % 7 != epoch {
                continue;
            }
            let state = task.state();
            state.set_key_routed(format!("key-{key:03}").as_bytes(), u64::from(key));
            for (namespace, sub) in [("a", "x"), ("a", "y"), ("b", "x"), ("c", "z")] {
                let value = vec![u8::try_from(epoch).unwrap_or(0); 1500];
                map.put(&mut state.in_namespace(namespace.as_bytes()), &sub.to_owned(), &value)?;
            }
            list.add(state, &format!("{epoch}-{}", "e".repeat(900)))?;
            sums.update(state, |sum| *sum = Some(sum.unwrap_or(0) + 1))?;
            match key % 11 {
                0 => state.clear_key(map.table())?,
                1 => map.remove(&mut state.in_namespace(b"b"), &"x".to_owned())?,
                2 => map.clear(&mut state.in_namespace(b"c"))?,
                _ => {}
            }
        }
        if epoch == 2 {
            task.state().clear_namespace(map.table(), b"a")?;
        }
        let barrier = job.trigger()?.expect("no other epoch is in flight");
        task.barrier(barrier, Timestamp::MIN, vec![])?;
        assert!(job.wait(barrier).await?.is_some());
    }
    Ok(())
}

async fn equal_to_export(partitioner: Partitioner) -> Result<()> {
    let gate = Gate::new();
    let store = alluvium_testkit::store(&gate.objects());
    let spec = OperatorSpec::new(OperatorId(1), "kinds", 1).keyed_by(Schema::new("utf8"));
    let settings = settings().with(|it| it.partitioner = Some(partitioner));
    let mut job = JobBuilder::new(store.clone()).settings(settings).operator(spec).open().await?;
    let mut task = job.take_seats().remove(0).restore(LogBackend::new).await?;
    write(&mut task, &job).await?;
    for table in ["map", "list", "value"] {
        let expected = export(&store, table).await?;
        assert!(expected.len() > 200);
        for key in (0..310u32).map(|key| format!("key-{key:03}")).chain(["key-1".into(), String::new()]) {
            let (rows, _) = get(&store, table, key.as_bytes()).await?;
            assert_eq!(rows, expected.get(&key).cloned().unwrap_or_default(), "{table} {key}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_key_has_the_rows_that_export_finds() -> Result<()> {
    equal_to_export(Partitioner::Range { seed: 5 }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_do_not_tell_their_group_are_looked_for_in_all() -> Result<()> {
    equal_to_export(Partitioner::External).await
}
