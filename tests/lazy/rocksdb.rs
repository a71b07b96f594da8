//! Lazy restores into RocksDB.

use alluvium::{RocksDb, RocksDbSettings};

use super::*;

/// Small parts: each group comes in several pieces.
#[tokio::test(flavor = "multi_thread")]
async fn a_restore_into_rocksdb_starts_at_once_and_loads_groups_in_pieces() -> Result<()> {
    let (gate, mut model) = stored().await?;
    let folder = tempfile::tempdir().unwrap();
    let databases = RocksDb::new(RocksDbSettings::new(folder.path()))?;
    for (version, restore_bytes) in [(1u32, 32 << 20), (2, 8_000), (3, 8_000)] {
        let settings = settings(RestoreMode::Auto).with(|it| it.restore_bytes = restore_bytes);
        let (job, mut seat) = open_seat_with(&gate.objects(), settings).await?;
        let state_of = seat.tables().value("value", Raw)?;
        let name = version.to_string();
        let mut task = seat.restore(|groups, _, budget| databases.backend(&name, groups, budget).unwrap()).await?;
        if version == 1 {
            drop(task.ready_groups(&KeyGroupSet::all(GROUPS)).await?);
        }
        let state = task.state();
        assert_eq!(state.backend().absent(), KeyGroupSet::all(GROUPS), "groups are adopted when they are touched");
        state.set_key(&version.to_le_bytes())?;
        state_of.put(state, &value(version, version))?;
        model.insert(version, value(version, version));
        assert_eq!(state.backend().absent().len(), usize::from(GROUPS) - 1, "and no others with them");
        let barrier = job.trigger_when_possible().await?;
        task.barrier(barrier, Timestamp::MIN, Vec::new())?;
        assert!(job.wait(barrier).await?.is_some());
        if version == 2 {
            // The next restore begins while this one still loads.
            continue;
        }
        for key in 0..KEYS {
            let state = task.state();
            state.set_key(&key.to_le_bytes())?;
            assert_eq!(state_of.read(state)?, model.get(&key).cloned(), "key {key}");
        }
        assert!(task.restore_progress().is_complete());
    }
    World::open(&gate.objects(), RestoreMode::Eager, model).await?.check()
}
