//! What an output has, to compare with what the slots have emitted.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use alluvium::internals::store::files::staged_by;
use alluvium::manifest::RecordSum;
use alluvium::offline::{EndSums, SlotSum};
use alluvium::sink::{FolderTarget, ObjectStoreTarget, Slot};
use alluvium::{Epoch, Error, JobId, Result};

use super::compare::End;
use crate::files::{io_error, names_in};
use crate::run::{Emit, Output, OutputPlace, Program, row_count, topic_sum};

/// What an output has of some slots.
enum Found {
    ByEpoch(Parts),
    /// The records of a topic.
    Whole(RecordSum),
    /// The number of a table's rows.
    Count(u64),
}

/// What was published for each epoch.
#[derive(Default)]
struct Parts {
    published: BTreeMap<Epoch, RecordSum>,
    /// What each file has that is staged, and not published yet.
    staged: BTreeMap<Epoch, Vec<RecordSum>>,
}

/// Compares an output with the checkpoints: a folder as one end, an object store slot by slot.
///
/// # Errors
/// `Config` if the job has no such output; others from the output.
pub(super) async fn compare(place: &OutputPlace, program: &Program, checkpoints: &[EndSums]) -> Result<Vec<End>> {
    if program.emit != Emit::OnClose {
        return Err(Error::config("the job writes one file at its end: nothing to compare with checkpoints"));
    }
    let url = match place {
        OutputPlace::Path(folder) => {
            let slots = checkpoints.iter().flat_map(|checkpoint| &checkpoint.slots);
            let found = Found::ByEpoch(of_folder(folder, slots.map(|slot| slot.slot.job).next())?);
            return Ok(vec![compared("folder".to_owned(), &found, checkpoints, |_| true)]);
        }
        OutputPlace::Url(url) => url,
    };
    let (name, found) = match url.split_once("://") {
        Some(("kafka", rest)) => ("topic", Found::Whole(topic_sum(rest).await?)),
        Some(("postgres" | "postgresql", _)) => ("rows of the table", Found::Count(row_count(url, program).await?)),
        _ => return of_store(url, checkpoints).await,
    };
    Ok(vec![compared(name.to_owned(), &found, checkpoints, |_| true)])
}

async fn of_store(url: &str, checkpoints: &[EndSums]) -> Result<Vec<End>> {
    let target = ObjectStoreTarget::open(url)?.with_form("", ".csv");
    let slots = checkpoints.iter().flat_map(|checkpoint| &checkpoint.slots).map(|slot| &slot.slot);
    let mut ends = Vec::new();
    for slot in slots.collect::<BTreeSet<_>>() {
        let mut parts = Parts::default();
        let read = target.read(slot, |marker, content| {
            let sum = parts.published.entry(marker.epoch).or_default();
            *sum = *sum + of_rows(&content)?;
            Ok(())
        });
        read.await?;
        ends.push(compared(slot.to_string(), &Found::ByEpoch(parts), checkpoints, |other| other == slot));
    }
    Ok(ends)
}

/// Returns what the parts in a folder have.
fn of_folder(folder: &Path, job: Option<JobId>) -> Result<Parts> {
    let mut parts = Parts::default();
    for name in names_in(folder)? {
        let staged = job.and_then(|job| staged_by(job, &name)).and_then(|(_holder, part)| FolderTarget::epoch_of(part));
        if staged.is_none() && !name.starts_with("part-") {
            continue;
        }
        let path = folder.join(&name);
        let content = fs::read(&path).map_err(|source| io_error("cannot read part", &path, source))?;
        let found = of_rows(&content).map_err(|error| error.with("file", path.display()))?;
        if let Some(epoch) = staged {
            parts.staged.entry(epoch).or_default().push(found);
        } else {
            // Readers take whatever is called so for output, though no checkpoint counts it.
            let sum = parts.published.entry(FolderTarget::epoch_of(&name).unwrap_or(Epoch(u64::MAX))).or_default();
            *sum = *sum + found;
        }
    }
    Ok(parts)
}

/// Returns what CSV with a header has, each row in the form in which it was emitted.
fn of_rows(content: &[u8]) -> Result<RecordSum> {
    let mut sum = RecordSum::default();
    let mut line = Vec::new();
    for row in csv::ReaderBuilder::new().flexible(true).from_reader(content).into_records() {
        let cells = row.map_err(|source| Error::input("output is no CSV").with_source(source))?;
        line.clear();
        Output::write_row(&cells, &mut line)?;
        sum.add(&line);
    }
    Ok(sum)
}

/// Compares what an output has with what the slots that `counts` have emitted, checkpoint by checkpoint.
fn compared(name: String, found: &Found, checkpoints: &[EndSums], counts: impl Fn(&Slot) -> bool) -> End {
    let mut end = End::new("output", name);
    let own = |checkpoint: &EndSums| -> Vec<SlotSum> {
        checkpoint.slots.iter().filter(|slot| counts(&slot.slot)).cloned().collect()
    };
    let Some(newest) = checkpoints.last() else { return end };
    match found {
        Found::ByEpoch(parts) => {
            for checkpoint in checkpoints {
                by_epoch(&mut end, checkpoint.epoch, (parts, total(&own(checkpoint))), &own(newest));
            }
            let later = parts.published.range(newest.epoch.next()..).map(|(_, sum)| *sum).sum::<RecordSum>();
            if later.records > 0 {
                let (expected, found) = (total(&own(newest)), parts.published.values().copied().sum::<RecordSum>());
                end.compare(newest.epoch, (expected.records, found.records), false);
            }
        }
        Found::Whole(found) => {
            let (expected, counts) = (total(&own(newest)), (total(&own(newest)).records, found.records));
            if *found != expected && is_unpublished(*found, expected, &own(newest)) {
                end.await_publication(counts);
            }
            end.compare(newest.epoch, counts, *found == expected);
        }
        Found::Count(found) => {
            let expected = total(&own(newest)).records;
            end.compare(newest.epoch, (expected, *found), *found == expected);
        }
    }
    end
}

fn total(slots: &[SlotSum]) -> RecordSum {
    slots.iter().map(|slot| slot.sum).sum()
}

/// Compares what was published up to an epoch with what a checkpoint counts.
fn by_epoch(end: &mut End, epoch: Epoch, (parts, expected): (&Parts, RecordSum), newest: &[SlotSum]) {
    let found: RecordSum = parts.published.range(..=epoch).map(|(_, sum)| *sum).sum();
    let counts = (expected.records, found.records);
    let listed = newest.iter().flat_map(|slot| slot.listed.range(..=epoch));
    let mut ways = vec![found];
    for (epoch, sum) in listed.filter(|(listed, _)| !parts.published.contains_key(listed)) {
        // Attempts that committed nothing may have staged parts of the same epoch.
        let staged = parts.staged.get(epoch).into_iter().flatten();
        let candidates: Vec<_> = sum.iter().chain(staged.filter(|_| sum.is_none())).collect();
        ways = ways.iter().flat_map(|way| candidates.iter().map(|sum| *way + **sum)).take(WAYS_MAX).collect();
    }
    if found != expected && ways.contains(&expected) {
        end.await_publication(counts);
    }
    end.compare(epoch, counts, found == expected);
}

/// Most ways to divide what is listed into published and not published that are tried.
const WAYS_MAX: usize = 4096;

/// Returns whether `found` is all that was emitted, but for the last epochs that are listed of some slots: each slot publishes in order.
fn is_unpublished(found: RecordSum, expected: RecordSum, newest: &[SlotSum]) -> bool {
    let mut ways = vec![found];
    for slot in newest {
        let listed = slot.listed.values().rev().map(|sum| sum.unwrap_or_default());
        let suffixes = listed.scan(RecordSum::default(), |rest, sum| {
            *rest = *rest + sum;
            Some(*rest)
        });
        let suffixes: Vec<_> = suffixes.collect();
        let with = |way: &RecordSum| suffixes.iter().map(|suffix| *way + *suffix).collect::<Vec<_>>();
        let more: Vec<_> = ways.iter().flat_map(with).collect();
        ways.extend(more);
        ways.truncate(WAYS_MAX);
    }
    ways.contains(&expected)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use alluvium::{OperatorId, Subtask};

    use super::super::compare::Comparison;
    use super::*;

    fn sum(records: &[&str]) -> RecordSum {
        let mut sum = RecordSum::default();
        records.iter().for_each(|record| sum.add(record.as_bytes()));
        sum
    }

    fn slot(subtask: u32, all: &[&str], listed: &[(u64, &[&str])]) -> SlotSum {
        let slot =
            Slot { job: JobId([1; 16]), operator: OperatorId(2), sink: "out".to_owned(), subtask: Subtask(subtask) };
        let listed =
            listed.iter().map(|(epoch, records)| (Epoch(*epoch), Some(sum(records)))).collect::<BTreeMap<_, _>>();
        SlotSum::new(slot, sum(all), listed)
    }

    #[test]
    fn a_topic_may_lack_the_last_epochs_of_any_slot_and_nothing_else() {
        let slots = [slot(0, &["a", "b", "c"], &[(2, &["b"]), (3, &["c"])]), slot(1, &["x", "y"], &[(3, &["y"])])];
        let expected = sum(&["a", "b", "c", "x", "y"]);
        for unpublished in [&["a", "b", "x", "y"][..], &["a", "x", "y"], &["a", "b", "c", "x"], &["a", "x"]] {
            assert!(is_unpublished(sum(unpublished), expected, &slots), "{unpublished:?}");
        }
        for lost in
            [&["b", "c", "x", "y"][..], &["a", "c", "x", "y"], &["a", "b", "c", "y"], &["a", "b", "c", "x", "y", "y"]]
        {
            assert!(!is_unpublished(sum(lost), expected, &slots), "{lost:?}");
        }
    }

    #[test]
    fn what_is_staged_explains_what_is_missing_and_no_other_damage() {
        let newest = [slot(0, &["a", "b"], &[(2, &["b"])])];
        let outcome = |published: &[(u64, &[&str])]| {
            let published = published.iter().map(|(epoch, records)| (Epoch(*epoch), sum(records))).collect();
            let mut end = End::new("output", "folder");
            let parts = Parts { published, staged: BTreeMap::new() };
            by_epoch(&mut end, Epoch(2), (&parts, sum(&["a", "b"])), &newest);
            end.comparison
        };
        assert_eq!(outcome(&[(1, &["a"])]), Comparison::Unpublished);
        assert_eq!(outcome(&[(1, &["a"]), (2, &["b"])]), Comparison::Same(Epoch(2)));
        let differs = Comparison::Differs { at: Epoch(2), after: None };
        for damaged in [&[(1, &["z"][..])][..], &[], &[(1, &["a"]), (2, &["z"])]] {
            assert_eq!(outcome(damaged), differs, "{damaged:?}");
        }
    }
}
