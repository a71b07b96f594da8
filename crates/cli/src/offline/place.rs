//! Flags shared by the offline tools: the store, the job, the checkpoint.

use std::str::FromStr;
use std::sync::Arc;

use clap::Args;
use indicatif::ProgressBar;

use alluvium::{
    Access, Error, JobName, KeyGroupRange, KeyGroupSet, ManifestLog, Result, Seq, SharedRuntime, Store, StoreSettings,
    StoredManifest, TokioRuntime, list_jobs, offline, open_url,
};

use super::super::keys::KeyArgs;
use super::super::print;

/// A store.
#[derive(Debug, Clone, Args)]
pub(crate) struct StoreArgs {
    /// Where checkpoints are: file:///dir, s3://bucket/prefix, az://container/prefix, gs://bucket/prefix
    #[arg(long, short, value_name = "URL")]
    pub(super) store: String,
    #[command(flatten)]
    pub(super) keys: KeyArgs,
}

/// A job.
#[derive(Debug, Clone, Args)]
pub(crate) struct JobArgs {
    #[command(flatten)]
    pub(super) store: StoreArgs,
    /// Name of the job within the store
    #[arg(long, short, value_name = "NAME")]
    pub(super) job: String,
}

/// A checkpoint of a job.
#[derive(Debug, Clone, Args)]
pub(super) struct CheckpointArgs {
    #[command(flatten)]
    pub(super) job: JobArgs,
    /// Id of the checkpoint or savepoint [default: the one from which the job would resume]
    #[arg(long, short, value_name = "ID")]
    pub(super) checkpoint: Option<u64>,
}

/// Key groups `A..B`, half-open.
#[derive(Debug, Clone, Copy)]
pub(super) struct Groups(KeyGroupRange);

impl FromStr for Groups {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bounds = text.split_once("..").and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
        let range = bounds.map(|(start, end)| KeyGroupRange::new(start, end));
        range
            .filter(|range| !range.is_empty())
            .map(Self)
            .ok_or("key groups are written A..B, from A up to but not including B")
    }
}

impl Groups {
    /// Returns the given groups, or all.
    pub(super) fn of(groups: Option<Self>, max_parallelism: u16) -> Result<KeyGroupSet> {
        let all = KeyGroupSet::all(max_parallelism);
        let Some(Self(range)) = groups else { return Ok(all) };
        if range.end > max_parallelism {
            let error = Error::config("the job has fewer key groups").with("key_groups", range);
            return Err(error.with("max_parallelism", max_parallelism));
        }
        Ok(range.into())
    }
}

/// Returns the runtime of this process.
pub(super) fn runtime() -> SharedRuntime {
    Arc::new(TokioRuntime::current())
}

impl StoreArgs {
    /// Returns the names of the store's jobs.
    pub(super) async fn jobs(&self) -> Result<Vec<JobName>> {
        let (objects, prefix) = open_url(&self.store, Access::Read)?;
        list_jobs(&*objects, &prefix, &runtime(), &StoreSettings::default()).await
    }

    /// Opens the place of `job` in the store.
    pub(super) fn open(&self, job: &JobName, access: Access) -> Result<Store> {
        let (objects, prefix) = open_url(&self.store, access)?;
        let store = Store::new(objects, &prefix, job, runtime(), StoreSettings::default());
        Ok(store.with_manifest_keys(self.keys.read()?))
    }
}

impl JobArgs {
    /// Opens the job and loads its manifest log.
    ///
    /// # Errors
    /// `NotFound`, listing the existing jobs, if the job has no manifest.
    pub(crate) async fn open(&self) -> Result<(Store, ManifestLog)> {
        let store = self.store.open(&self.job.parse()?, Access::Read)?;
        let chain = ManifestLog::load(&store).await?;
        if chain.end() == Seq(0) {
            let jobs: Vec<_> = self.store.jobs().await?.iter().map(ToString::to_string).collect();
            return Err(Error::not_found("no such job").with("job", &self.job).with("existing", jobs.join(", ")));
        }
        Ok((store, chain))
    }

    /// Opens the same job name in another store, for writing.
    pub(super) fn elsewhere(&self, url: &str) -> Result<Store> {
        StoreArgs { store: url.to_owned(), keys: self.store.keys.clone() }.open(&self.job.parse()?, Access::Write)
    }
}

impl CheckpointArgs {
    /// Calls `read` with the checkpoint. Without `--checkpoint`, retries with a newer one if the checkpoint is dropped
    /// meanwhile.
    pub(super) async fn read<T>(
        &self,
        mut read: impl AsyncFnMut(&Store, &ManifestLog, &StoredManifest) -> Result<T>,
    ) -> Result<T> {
        let (store, mut chain) = self.job.open().await?;
        let mut reader = offline::reader(&store, &mut chain, self.id());
        loop {
            let checkpoint = reader.resolved().await?;
            match read(&store, reader.chain(), &checkpoint).await {
                Ok(found) => return Ok(found),
                Err(error) => reader.follow(error).await?,
            }
        }
    }

    /// As [`CheckpointArgs::read`], with the manifest as it is stored: its subtask manifests may be elsewhere.
    pub(super) async fn read_stored<T>(
        &self,
        mut read: impl AsyncFnMut(&Store, &StoredManifest) -> Result<T>,
    ) -> Result<T> {
        let (store, mut chain) = self.job.open().await?;
        let mut reader = offline::reader(&store, &mut chain, self.id());
        loop {
            let checkpoint = reader.checkpoint().await?;
            match read(&store, &checkpoint).await {
                Ok(found) => return Ok(found),
                Err(error) => reader.follow(error).await?,
            }
        }
    }

    /// Returns the `--checkpoint` id.
    pub(super) fn id(&self) -> Option<Seq> {
        self.checkpoint.map(Seq)
    }
}

/// Returns a progress bar that counts bytes.
pub(super) fn progress_bar() -> ProgressBar {
    print::bar("{wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}")
}

/// Returns a callback that shows (done, total) bytes on `bar`.
pub(super) fn watch(bar: &ProgressBar) -> impl Fn(u64, u64) + Sync + '_ {
    |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    }
}
