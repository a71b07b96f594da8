//! Names of files: each parses back to exactly what made it.

use crate::id::{Attempt, Epoch, JobId, Subtask};

/// A part of a slot's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Part {
    pub(super) epoch: Epoch,
    /// The attempt that staged it.
    pub(super) attempt: Attempt,
    pub(super) subtask: Subtask,
}

impl Part {
    pub(super) fn name(self, extension: &str) -> String {
        let Self { epoch, attempt, subtask } = self;
        match subtask {
            Subtask(0) => format!("part-{epoch}-{attempt}{extension}"),
            Subtask(subtask) => format!("part-{epoch}-{attempt}-{subtask}{extension}"),
        }
    }

    pub(super) fn parse(name: &str, extension: &str) -> Option<Self> {
        let mut numbers = name.strip_prefix("part-")?.strip_suffix(extension)?.split('-');
        let (epoch, attempt) = (numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?);
        let subtask = numbers.next().map_or(Ok(0), str::parse).ok()?;
        let part = Self { epoch: Epoch(epoch), attempt: Attempt(attempt), subtask: Subtask(subtask) };
        (part.name(extension) == name).then_some(part)
    }
}

/// Returns the name under which an attempt stages the file `name`.
pub(super) fn staged(job: JobId, attempt: Attempt, name: &str) -> String {
    format!(".staged-{job}-{attempt}-{name}")
}

/// Returns the attempt of the job that staged a file, and the name that the file was to get.
pub(super) fn staged_by(job: JobId, name: &str) -> Option<(Attempt, &str)> {
    let (attempt, result) = name.strip_prefix(&format!(".staged-{job}-"))?.split_once('-')?;
    let attempt = Attempt(attempt.parse().ok()?);
    (staged(job, attempt, result) == name).then_some((attempt, result))
}

/// Returns the name of what an attempt knows of a slot.
pub(super) fn slot(subtask: Subtask, attempt: Attempt) -> String {
    format!("_slot-{subtask}-{attempt}")
}

/// Returns the slot and the attempt of such a name.
pub(super) fn slot_of(name: &str) -> Option<(Subtask, Attempt)> {
    let (subtask, attempt) = name.strip_prefix("_slot-")?.split_once('-')?;
    let parsed = (Subtask(subtask.parse().ok()?), Attempt(attempt.parse().ok()?));
    (slot(parsed.0, parsed.1) == name).then_some(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_parts_parse_back() {
        let part = |subtask| Part { epoch: Epoch(12), attempt: Attempt(3), subtask: Subtask(subtask) };
        assert_eq!(part(0).name(".csv"), "part-12-3.csv");
        assert_eq!(part(7).name(""), "part-12-3-7");
        for (part, extension) in [(part(0), ".csv"), (part(7), ".csv"), (part(0), ""), (part(7), "")] {
            assert_eq!(Part::parse(&part.name(extension), extension), Some(part));
        }
        for foreign in
            ["part-1-2-0.csv", "part-01-2.csv", "part-1.csv", "part-1-2-3-4.csv", "part-1-2.csv.bak", "part-1-2"]
        {
            assert_eq!(Part::parse(foreign, ".csv"), None, "{foreign}");
        }
    }

    #[test]
    fn staged_names_and_slots_parse_back() {
        let (job, other) = (JobId([0xab; 16]), JobId([1; 16]));
        let name = staged(job, Attempt(9), "part-1-9.csv");
        assert_eq!(staged_by(job, &name), Some((Attempt(9), "part-1-9.csv")));
        assert_eq!(staged_by(other, &name), None);
        for foreign in [name.replace("-9-", "-09-"), name.replace("-9-", "-x-"), name.replace(".staged", "staged")] {
            assert_eq!(staged_by(job, &foreign), None, "{foreign}");
        }
        assert_eq!(slot_of(&slot(Subtask(4), Attempt(2))), Some((Subtask(4), Attempt(2))));
        for foreign in ["_slot-4", "_slot-04-2", "_slot-4-2-1", "slot-4-2"] {
            assert_eq!(slot_of(foreign), None, "{foreign}");
        }
    }
}
