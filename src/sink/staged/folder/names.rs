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
    /// * `extension`: empty, or begins with a dot.
    pub(super) fn name(self, extension: &str) -> String {
        let Self { epoch, attempt, subtask } = self;
        match subtask {
            Subtask(0) => format!("part-{epoch}-{attempt}{extension}"),
            Subtask(subtask) => format!("part-{epoch}-{attempt}-{subtask}{extension}"),
        }
    }

    /// Parses a name with whatever extension.
    pub(super) fn parse(name: &str) -> Option<Self> {
        let extension = name.find('.').unwrap_or(name.len());
        let (plain, extension) = name.split_at_checked(extension)?;
        let mut numbers = plain.strip_prefix("part-")?.split('-');
        let (epoch, attempt) = (numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?);
        let subtask = numbers.next().map_or(Ok(0), str::parse).ok()?;
        let part = Self { epoch: Epoch(epoch), attempt: Attempt(attempt), subtask: Subtask(subtask) };
        (part.name(extension) == name).then_some(part)
    }
}

/// Returns the name of what an attempt knows of a slot.
pub(super) fn slot(job: JobId, subtask: Subtask, attempt: Attempt) -> String {
    format!("_slot-{job}-{subtask}-{attempt}")
}

/// Returns the slot of the job, and the attempt, of such a name.
pub(super) fn slot_of(job: JobId, name: &str) -> Option<(Subtask, Attempt)> {
    let (subtask, attempt) = name.strip_prefix(&format!("_slot-{job}-"))?.split_once('-')?;
    let parsed = (Subtask(subtask.parse().ok()?), Attempt(attempt.parse().ok()?));
    (slot(job, parsed.0, parsed.1) == name).then_some(parsed)
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
            assert_eq!(Part::parse(&part.name(extension)), Some(part));
        }
        for foreign in
            ["part-1-2-0.csv", "part-01-2.csv", "part-1.csv", "part-1-2-3-4.csv", "part-1-2-copy", "part-x-2"]
        {
            assert_eq!(Part::parse(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn names_of_slots_parse_back() {
        let (job, other) = (JobId([0xab; 16]), JobId([1; 16]));
        let name = slot(job, Subtask(4), Attempt(2));
        assert_eq!(slot_of(job, &name), Some((Subtask(4), Attempt(2))));
        assert_eq!(slot_of(other, &name), None);
        for foreign in [name.replace("-4-2", "-04-2"), name.replace("-4-2", "-4"), format!("{name}-1")] {
            assert_eq!(slot_of(job, &foreign), None, "{foreign}");
        }
    }
}
