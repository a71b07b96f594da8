//! Committed checkpoints stay restorable, whatever happens afterwards.

use std::collections::BTreeMap;

use alluvium::offline::{self, VerifyLevel};
use alluvium::{Access, KeyGroupSet, ManifestLog, Result, Seq, Store, StoreSettings, open_url};

/// The checkpoints restorable at one time, each with its rows.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Committed(pub(crate) BTreeMap<Seq, Vec<String>>);

impl Committed {
    /// Reads every restorable checkpoint of the job.
    pub(crate) async fn of(store: &Store) -> Result<Self> {
        let chain = ManifestLog::load(store).await?;
        let mut states = BTreeMap::new();
        for seq in chain.restorable().iter().map(|manifest| manifest.id.seq) {
            states.insert(seq, rows(store, seq).await?);
        }
        Ok(Self(states))
    }

    /// Checks that the checkpoints are unchanged, and that nothing in the store is damaged.
    ///
    /// # Panics
    /// If a check fails.
    pub(crate) async fn check(&self, store: &Store, what: &str) {
        let chain = ManifestLog::load(store).await.unwrap_or_else(|error| panic!("{what}: {error:?}"));
        let report = offline::verify(store, &chain, VerifyLevel::Full, &|_, _| {}).await;
        let report = report.unwrap_or_else(|error| panic!("{what}: {error:?}"));
        assert_eq!(report.damaged, [], "{what}");
        for (seq, expected) in &self.0 {
            assert!(report.restorable.contains(seq), "{what}: checkpoint {seq} is gone");
            let found = rows(store, *seq).await.unwrap_or_else(|error| panic!("{what}: checkpoint {seq}: {error:?}"));
            assert!(found == *expected, "{what}: checkpoint {seq} is another");
        }
    }

    /// As [`Committed::of`], for job `j` in a folder, with its own reader.
    pub(crate) fn in_folder(url: &str) -> Self {
        on_folder(url, async |store| Self::of(store).await.unwrap())
    }

    /// As [`Committed::check`], for job `j` in a folder.
    pub(crate) fn check_folder(&self, url: &str, what: &str) {
        on_folder(url, async |store| self.check(store, what).await);
    }
}

/// Runs `look` on job `j` in a folder.
pub(crate) fn on_folder<R>(url: &str, look: impl AsyncFnOnce(&Store) -> R) -> R {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (objects, prefix) = open_url(url, Access::Read).unwrap();
        let job = "j".parse().unwrap();
        look(&Store::new(objects, &prefix, &job, alluvium_testkit::runtime(), StoreSettings::default())).await
    })
}

/// Returns all rows of a checkpoint as text, and its opaques.
async fn rows(store: &Store, seq: Seq) -> Result<Vec<String>> {
    let checkpoint = offline::open(store, &mut ManifestLog::load(store).await?, Some(seq)).await?;
    let mut rows = Vec::new();
    for operator in &checkpoint.manifest.operators {
        for table in &operator.tables {
            let name = format!("{}.{}", operator.name, table.name);
            let groups = KeyGroupSet::all(checkpoint.manifest.max_parallelism);
            offline::export(store, &checkpoint.manifest, &name, &groups, |entry| {
                rows.push(format!("{name} {entry:?}"));
                Ok(())
            })
            .await?;
        }
        let opaques = operator.inline_subtasks()?.into_iter().flat_map(|subtask| &subtask.opaques);
        rows.extend(opaques.map(|opaque| format!("{opaque:?}")));
    }
    Ok(rows)
}
