//! The two-phase file sink: parts of closed windows, staged at the barrier, published after the commit.
//!
//! Invariants:
//! - every part listed by a committed checkpoint is published exactly once, however often publishing is retried;
//! - no other file ever gets a part's name;
//! - a folder has parts of one job: see [`Owner`];
//! - only files staged by the job's older attempts are removed. However late such an attempt wakes up, it can publish
//!   no part that the restored checkpoint does not list (see [`Writer`]).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use alluvium::{Attempt, Epoch, Error, ErrorKind, JobId, Result};
use serde::{Deserialize, Serialize};

use super::output::{Output, OutputRow};
use super::owner::{Owner, RECORD};
use crate::files::{Writer, folder_of, io_error, names_in, rename_durably, sync_folder, write_durably};

/// A staged part, as listed in the checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Prepared {
    epoch: u64,
    attempt: u64,
    bytes: u64,
    blake3: String,
}

impl Prepared {
    /// Returns the part's name once published.
    pub(crate) fn final_name(&self) -> String {
        format!("part-{}-{}.csv", self.epoch, self.attempt)
    }

    fn staged_name(&self, job: JobId) -> String {
        Writer { job, attempt: Attempt(self.attempt) }.staged_name(&self.final_name())
    }

    /// Returns whether `content` has the part's length and hash.
    fn matches(&self, content: &[u8]) -> bool {
        content.len() as u64 == self.bytes && blake3::hash(content).to_hex().as_str() == self.blake3
    }
}

/// Refuses, before the job starts, an output folder that is a file.
///
/// # Errors
/// `Config` if `folder` is a file.
pub(crate) fn check_folder(folder: &Path) -> Result<()> {
    if fs::metadata(folder).is_ok_and(|metadata| !metadata.is_dir()) {
        let error = Error::config("--output is a file, --emit on-close needs a folder");
        return Err(error.with("file", folder.display()));
    }
    Ok(())
}

/// The folder that parts are published to.
#[derive(Debug)]
pub(crate) struct FileSink {
    folder: PathBuf,
    writer: Writer,
    output: Output,
}

impl FileSink {
    /// Opens the folder, creating it if missing.
    ///
    /// # Errors
    /// `Config` if `folder` is a file; `Denied` or `Unavailable`.
    pub(crate) fn open(folder: &Path, writer: Writer, output: Output) -> Result<Self> {
        check_folder(folder)?;
        fs::create_dir_all(folder).map_err(|source| io_error("cannot create folder", folder, source))?;
        sync_folder(folder_of(folder))?;
        Ok(Self { folder: folder.to_owned(), writer, output })
    }

    /// Claims the folder for the job, and brings it to the state of the restored checkpoint: publishes listed parts and
    /// removes older attempts' unlisted staged parts.
    ///
    /// * `epoch`: the checkpoint's epoch; `None` for a start from the beginning.
    /// * `prepared`: the parts listed in the checkpoint.
    ///
    /// # Errors
    /// `Config` if another job owns the folder, or if it has parts of a later epoch, whose windows the job would
    /// publish again. Else as [`FileSink::publish`].
    pub(crate) fn recover(&self, owner: &Owner, epoch: Option<Epoch>, prepared: &[Prepared]) -> Result<()> {
        self.check_covered(epoch)?;
        owner.claim(&self.folder, self.writer)?;
        prepared.iter().try_for_each(|part| self.publish(part))?;
        let listed = |name: &str| prepared.iter().any(|part| part.staged_name(self.writer.job) == name);
        self.writer.remove_older(&self.folder, |name, result| is_of_sink(result) && !listed(name))?;
        // An older attempt may have published between the first check and the removal.
        self.check_covered(epoch)
    }

    fn check_covered(&self, epoch: Option<Epoch>) -> Result<()> {
        let later = |part: u64| epoch.is_none_or(|covered| part > covered.0);
        match names_in(&self.folder)?.iter().find(|name| part_of(name).is_some_and(|(epoch, _)| later(epoch))) {
            None => Ok(()),
            Some(name) => Err(Error::config("--output has parts that the restored checkpoint does not cover")
                .with("folder", self.folder.display())
                .with("part", name)),
        }
    }

    /// Stages the rows of the windows closed in `epoch`; returns `None` if there are no rows.
    ///
    /// # Errors
    /// `Denied` or `Unavailable`.
    pub(crate) fn prepare(&self, epoch: Epoch, mut rows: Vec<OutputRow>) -> Result<Option<Prepared>> {
        if rows.is_empty() {
            return Ok(None);
        }
        self.output.sort(&mut rows);
        let mut content = Vec::new();
        self.output.write(&rows, &mut content)?;
        let part = Prepared {
            epoch: epoch.0,
            attempt: self.writer.attempt.0,
            bytes: content.len() as u64,
            blake3: blake3::hash(&content).to_hex().to_string(),
        };
        let staged = self.folder.join(part.staged_name(self.writer.job));
        write_durably(&staged, |file| {
            file.write_all(&content).map_err(|source| io_error("cannot write file", &staged, source))
        })?;
        sync_folder(&self.folder)?;
        Ok(Some(part))
    }

    /// Publishes a part of a committed checkpoint. Idempotent.
    ///
    /// # Errors
    /// `NotFound` if the part is neither staged nor published; `Corrupt` if its content is not as staged.
    pub(crate) fn publish(&self, part: &Prepared) -> Result<()> {
        let staged = self.folder.join(part.staged_name(self.writer.job));
        let published = self.folder.join(part.final_name());
        if !holds(&published, part)? && holds(&staged, part)? {
            match rename_durably(&staged, &published) {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                renamed => return renamed,
            }
        }
        // Also published by an earlier call, or by another attempt that restored the same checkpoint.
        if holds(&published, part)? {
            return sync_folder(&self.folder);
        }
        Err(Error::not_found("part of a committed checkpoint is neither staged nor published")
            .with("file", published.display()))
    }
}

/// Returns whether `name` is that of a part or of the owner record.
pub(crate) fn is_of_sink(name: &str) -> bool {
    name == RECORD || part_of(name).is_some()
}

/// Parses a part's name into epoch and attempt; the exact inverse of [`Prepared::final_name`].
fn part_of(name: &str) -> Option<(u64, u64)> {
    let (epoch, attempt) = name.strip_prefix("part-")?.strip_suffix(".csv")?.split_once('-')?;
    let parsed = (epoch.parse().ok()?, attempt.parse().ok()?);
    (format!("part-{}-{}.csv", parsed.0, parsed.1) == name).then_some(parsed)
}

/// Returns whether a file exists at `path`, with the part's content.
///
/// # Errors
/// `Corrupt` if the content differs, or if the file is a link, which could point anywhere.
fn holds(path: &Path, part: &Prepared) -> Result<bool> {
    let failed = |source| io_error("cannot read part", path, source);
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_file() && part.matches(&fs::read(path).map_err(failed)?) => Ok(true),
        Ok(_) => Err(Error::corrupt("part differs from the staged content").with("file", path.display())),
        Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(failed(source)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use csv::StringRecord;
    use tempfile::TempDir;

    use super::*;
    use crate::run::program::Program;

    fn output() -> Output {
        let program = br#"{"input":"-","format":"csv","key":["k"],"agg":["count"],"window":null,
            "on_bad_record":"fail","emit":"on-close"}"#;
        Output::new(&Program::from_bytes(program).unwrap())
    }

    const JOB: JobId = JobId([7; 16]);

    fn sink(folder: &TempDir, attempt: u64) -> FileSink {
        let writer = Writer { job: JOB, attempt: Attempt(attempt) };
        FileSink::open(&folder.path().join("out"), writer, output()).unwrap()
    }

    fn recover(sink: &FileSink, epoch: Option<Epoch>, prepared: &[Prepared]) -> Result<()> {
        sink.recover(&Owner::new(sink.writer.job, "j", "memory:///"), epoch, prepared)
    }

    fn staged(attempt: u64, part: &str) -> String {
        Writer { job: JOB, attempt: Attempt(attempt) }.staged_name(part)
    }

    fn rows(keys: &[&str]) -> Vec<OutputRow> {
        keys.iter().map(|key| OutputRow { cells: StringRecord::from(vec![*key, "1"]), window: Some(0) }).collect()
    }

    fn files(sink: &FileSink) -> BTreeMap<String, String> {
        let read = |name: String| (name.clone(), fs::read_to_string(sink.folder.join(name)).unwrap_or_default());
        names_in(&sink.folder).unwrap().into_iter().filter(|name| name != RECORD).map(read).collect()
    }

    #[test]
    fn a_part_is_staged_then_published_once() {
        let folder = TempDir::new().unwrap();
        let sink = sink(&folder, 3);
        assert_eq!(sink.prepare(Epoch(4), vec![]).unwrap(), None);
        let part = sink.prepare(Epoch(5), rows(&["b", "a"])).unwrap().unwrap();
        assert_eq!(files(&sink).keys().collect::<Vec<_>>(), [&staged(3, "part-5-3.csv")]);
        let listed = serde_json::to_vec(&part).unwrap();
        let part: Prepared = serde_json::from_slice(&listed).unwrap();
        for _ in 0..2 {
            sink.publish(&part).unwrap();
            let expected = [("part-5-3.csv".to_owned(), "k,count\na,1\nb,1\n".to_owned())];
            assert_eq!(files(&sink), BTreeMap::from(expected));
        }
    }

    #[test]
    fn a_missing_or_damaged_part_is_not_published() {
        let folder = TempDir::new().unwrap();
        let sink = sink(&folder, 1);
        let part = sink.prepare(Epoch(1), rows(&["a"])).unwrap().unwrap();
        let (staged, published) = (sink.folder.join(part.staged_name(JOB)), sink.folder.join(part.final_name()));
        fs::write(&staged, "k,count\na,2\n").unwrap();
        assert_eq!(sink.publish(&part).unwrap_err().kind(), ErrorKind::Corrupt);
        fs::remove_file(&staged).unwrap();
        assert_eq!(sink.publish(&part).unwrap_err().kind(), ErrorKind::NotFound);
        fs::write(&published, "other").unwrap();
        assert_eq!(sink.publish(&part).unwrap_err().kind(), ErrorKind::Corrupt);
        fs::remove_file(&published).unwrap();
        std::os::unix::fs::symlink(folder.path(), &staged).unwrap();
        assert_eq!(sink.publish(&part).unwrap_err().kind(), ErrorKind::Corrupt);
        assert!(!published.exists());
    }

    #[test]
    fn d11_recovery_publishes_what_is_listed_and_removes_what_older_attempts_staged() {
        let folder = TempDir::new().unwrap();
        let older = sink(&folder, 1);
        let published = older.prepare(Epoch(1), rows(&["a"])).unwrap().unwrap();
        older.publish(&published).unwrap();
        let listed = older.prepare(Epoch(2), rows(&["b"])).unwrap().unwrap();
        older.prepare(Epoch(3), rows(&["c"])).unwrap().unwrap();
        let own = [staged(1, "part-9-1.csv"), staged(1, RECORD)];
        let foreign = [
            staged(1, "part-3.csv"),
            staged(1, "part-03-1.csv"),
            staged(1, "part-3-1.csv.bak"),
            staged(2, "part-9-2.csv"),
            staged(3, "part-9-3.csv"),
            Writer { job: JobId([8; 16]), attempt: Attempt(1) }.staged_name("part-3-1.csv"),
            ".staged-part-3-1.csv".to_owned(),
            "notes.txt".to_owned(),
        ];
        own.iter().chain(&foreign).for_each(|name| fs::write(older.folder.join(name), "").unwrap());

        let newer = sink(&folder, 2);
        for _ in 0..2 {
            recover(&newer, Some(Epoch(2)), &[published.clone(), listed.clone()]).unwrap();
            let mut expected: Vec<_> = foreign.to_vec();
            expected.extend(["part-1-1.csv", "part-2-1.csv"].map(str::to_owned));
            expected.sort_unstable();
            assert_eq!(files(&newer).into_keys().collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn d17_going_back_in_time_under_published_parts_is_refused() {
        let folder = TempDir::new().unwrap();
        let first = sink(&folder, 1);
        let part = first.prepare(Epoch(2), rows(&["a"])).unwrap().unwrap();
        first.publish(&part).unwrap();
        let second = sink(&folder, 2);
        for epoch in [None, Some(Epoch(1))] {
            assert_eq!(recover(&second, epoch, &[]).unwrap_err().kind(), ErrorKind::Config);
        }
        assert!(!second.folder.join(RECORD).exists(), "a refused folder is not claimed");
        recover(&second, Some(Epoch(2)), &[]).unwrap();
    }

    #[test]
    fn a_folder_of_another_job_is_refused_and_left_alone() {
        let folder = TempDir::new().unwrap();
        let first = sink(&folder, 1);
        recover(&first, None, &[]).unwrap();
        let part = first.prepare(Epoch(1), rows(&["a"])).unwrap().unwrap();
        let mut second = sink(&folder, 2);
        second.writer.job = JobId([8; 16]);
        let error = recover(&second, Some(Epoch(1)), &[]).unwrap_err();
        assert!(error.kind() == ErrorKind::Config && error.message().contains("job=`j`"), "{error}");
        first.publish(&part).unwrap();
    }

    #[test]
    fn an_older_attempt_cannot_publish_a_part_that_the_restored_checkpoint_does_not_list() {
        let folder = TempDir::new().unwrap();
        let older = sink(&folder, 1);
        let part = older.prepare(Epoch(2), rows(&["a"])).unwrap().unwrap();
        recover(&sink(&folder, 2), Some(Epoch(1)), &[]).unwrap();
        assert_eq!(older.publish(&part).unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn an_output_folder_that_is_a_file_is_refused() {
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("out"), "").unwrap();
        let writer = Writer { job: JOB, attempt: Attempt(1) };
        let error = FileSink::open(&folder.path().join("out"), writer, output()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
    }
}
