//! What an output has, to compare with what the slots have emitted.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use alluvium::manifest::RecordSum;
use alluvium::offline::{EndSums, SlotSum};
use alluvium::sink::{ObjectStoreTarget, Slot};
use alluvium::{Epoch, Error, Result};

use super::compare::End;
use crate::files::{io_error, names_in};
use crate::run::{Emit, Output, OutputPlace, Program, row_count, topic_sum};

/// What an output has of some slots.
enum Found {
    /// What was published for each epoch; and whether an epoch that is not there may yet be.
    ByEpoch(BTreeMap<Epoch, RecordSum>, Box<dyn Fn(Epoch) -> bool + Send>),
    /// Everything that is there.
    Whole(RecordSum),
    /// The number of rows that are there.
    Count(u64),
}

/// Compares an output with the checkpoints: a folder as one end, an object store slot by slot.
///
/// # Errors
/// `Config` if the job has no such output; others from the output.
pub(super) async fn compare(place: &OutputPlace, program: &Program, checkpoints: &[EndSums]) -> Result<Vec<End>> {
    if program.emit != Emit::OnClose {
        return Err(Error::config("the job writes one file at its end: nothing to compare with checkpoints"));
    }
    let all = |_: &Slot| true;
    let url = match place {
        OutputPlace::Path(folder) => {
            return Ok(vec![compared("folder".to_owned(), &of_folder(folder)?, checkpoints, all)]);
        }
        OutputPlace::Url(url) => url,
    };
    let found = match url.split_once("://") {
        Some(("kafka", rest)) => Found::Whole(topic_sum(rest).await?),
        Some(("postgres" | "postgresql", _)) => Found::Count(row_count(url, program).await?),
        _ => return of_store(url, checkpoints).await,
    };
    let name = if matches!(found, Found::Count(_)) { "rows of the table" } else { "topic" };
    Ok(vec![compared(name.to_owned(), &found, checkpoints, all)])
}

async fn of_store(url: &str, checkpoints: &[EndSums]) -> Result<Vec<End>> {
    let target = ObjectStoreTarget::open(url)?.with_form("", ".csv");
    let mut slots: Vec<_> =
        checkpoints.iter().flat_map(|checkpoint| &checkpoint.slots).map(|slot| &slot.slot).collect();
    slots.sort_unstable();
    slots.dedup();
    let mut ends = Vec::new();
    for slot in slots {
        let mut found: BTreeMap<Epoch, RecordSum> = BTreeMap::new();
        let read = target.read(slot, |marker, content| {
            let sum = found.entry(marker.epoch).or_default();
            *sum = *sum + of_rows(&content)?;
            Ok(())
        });
        read.await?;
        let newest = found.last_key_value().map(|(newest, _)| *newest);
        let found = Found::ByEpoch(found, Box::new(move |epoch| Some(epoch) > newest));
        ends.push(compared(slot.to_string(), &found, checkpoints, |other| other == slot));
    }
    Ok(ends)
}

/// Returns what the parts in a folder have.
fn of_folder(folder: &Path) -> Result<Found> {
    let mut found: BTreeMap<Epoch, RecordSum> = BTreeMap::new();
    let mut staged = BTreeSet::new();
    for name in names_in(folder)? {
        if let Some((_, part)) = name.strip_prefix(".staged-").and_then(|rest| rest.split_once("-part-")) {
            staged.extend(epoch_of_part(&format!("part-{part}")));
        }
        let Some(epoch) = epoch_of_part(&name) else { continue };
        let path = folder.join(&name);
        let content = fs::read(&path).map_err(|source| io_error("cannot read part", &path, source))?;
        let sum = found.entry(epoch).or_default();
        *sum = *sum + of_rows(&content).map_err(|error| error.with("file", path.display()))?;
    }
    Ok(Found::ByEpoch(found, Box::new(move |epoch| staged.contains(&epoch))))
}

/// Returns the epoch in the name of a part, `part-<epoch>-<attempt>.csv`.
fn epoch_of_part(name: &str) -> Option<Epoch> {
    let (epoch, attempt) = name.strip_prefix("part-")?.strip_suffix(".csv")?.split_once('-')?;
    attempt.parse::<u64>().ok()?;
    epoch.parse().ok().map(Epoch)
}

/// Returns what CSV with a header has, each row in the form in which it was emitted.
fn of_rows(content: &[u8]) -> Result<RecordSum> {
    let mut sum = RecordSum::default();
    let mut line = Vec::new();
    for row in csv::ReaderBuilder::new().flexible(true).from_reader(content).into_records() {
        let cells = row.map_err(|source| Error::input("output is no CSV").with_source(source))?;
        line.clear();
        Output::write_cells_of(&cells, &mut line)?;
        sum.add(&line);
    }
    Ok(sum)
}

/// Compares what an output has with what the slots that `counts` have emitted, checkpoint by checkpoint.
fn compared(name: String, found: &Found, checkpoints: &[EndSums], counts: impl Fn(&Slot) -> bool) -> End {
    let mut end = End::new("output", name);
    let of = |checkpoint: &EndSums| -> RecordSum {
        checkpoint.slots.iter().filter(|slot| counts(&slot.slot)).map(|slot| slot.sum).sum()
    };
    let Some(newest) = checkpoints.last() else { return end };
    let listed: Vec<Epoch> = {
        let own = newest.slots.iter().filter(|slot| counts(&slot.slot));
        own.flat_map(|SlotSum { listed, .. }| listed.iter().copied()).collect()
    };
    match found {
        Found::ByEpoch(parts, may_follow) => {
            for checkpoint in checkpoints {
                let (epoch, expected) = (checkpoint.epoch, of(checkpoint));
                let found: RecordSum = parts.range(..=epoch).map(|(_, sum)| *sum).sum();
                let counts = (expected.records, found.records);
                let mut missing = listed.iter().filter(|listed| **listed <= epoch && !parts.contains_key(listed));
                if found != expected && missing.any(|listed| may_follow(*listed)) {
                    end.await_publication(counts);
                }
                end.compare(epoch, counts, found == expected);
            }
        }
        Found::Whole(found) => whole(&mut end, checkpoints, &listed, |it| (of(it), of(it) == *found, found.records)),
        Found::Count(found) => whole(&mut end, checkpoints, &listed, |it| (of(it), of(it).records == *found, *found)),
    }
    end
}

/// Compares everything that is there: with the newest checkpoint, or with an older one whose later output is not published yet.
fn whole(
    end: &mut End,
    checkpoints: &[EndSums],
    listed: &[Epoch],
    compare: impl Fn(&EndSums) -> (RecordSum, bool, u64),
) {
    let Some(newest) = checkpoints.last() else { return };
    let (expected, is_same, found) = compare(newest);
    let is_older = |older: &&EndSums| compare(older).1 && listed.iter().any(|listed| *listed > older.epoch);
    if !is_same && checkpoints.iter().any(|older| is_older(&older)) {
        end.await_publication((expected.records, found));
    }
    end.compare(newest.epoch, (expected.records, found), is_same);
}
