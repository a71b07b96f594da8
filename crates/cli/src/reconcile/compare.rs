//! Comparing an end of a job with its checkpoints, oldest first, and showing the result.

use alluvium::offline::EndSums;
use alluvium::{Epoch, Result};
use serde_json::{Value, json};

use crate::offline::Table;
use crate::print;

/// An end of the job: a split of its input, its output, or a slot of that.
#[derive(Debug)]
pub(super) struct End {
    /// `input` or `output`.
    kind: &'static str,
    name: String,
    /// Records that the last compared checkpoint counts.
    expected: u64,
    /// Records that the end has, as far as that checkpoint goes; `None` if it was not asked.
    found: Option<u64>,
    pub(super) comparison: Comparison,
}

/// The outcome of comparing an end with checkpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    /// The end was not asked, or no checkpoint has it.
    Unasked,
    /// The same in all checkpoints, this epoch's last.
    Same(Epoch),
    /// The same, but for output that is not published yet: the newest checkpoint lists it.
    Unpublished,
    /// It differs at this epoch, and was the same at the earlier one, which the checkpoint before has.
    Differs { at: Epoch, after: Option<Epoch> },
}

impl End {
    pub(super) fn new(kind: &'static str, name: impl Into<String>) -> Self {
        Self { kind, name: name.into(), expected: 0, found: None, comparison: Comparison::Unasked }
    }

    /// Takes in what the newest checkpoint counts, of an end that is not asked.
    fn unasked(kind: &'static str, name: impl Into<String>, expected: u64) -> Self {
        Self { expected, ..Self::new(kind, name) }
    }

    /// Takes in the comparison with the next checkpoint, unless an earlier one has differed.
    pub(super) fn compare(&mut self, epoch: Epoch, (expected, found): (u64, u64), is_same: bool) {
        let after = match self.comparison {
            Comparison::Unasked => None,
            Comparison::Same(before) => Some(before),
            Comparison::Unpublished | Comparison::Differs { .. } => return,
        };
        (self.expected, self.found) = (expected, Some(found));
        self.comparison = if is_same { Comparison::Same(epoch) } else { Comparison::Differs { at: epoch, after } };
    }

    /// Takes in that what the next checkpoint has more is not published yet.
    pub(super) fn await_publication(&mut self, (expected, found): (u64, u64)) {
        if matches!(self.comparison, Comparison::Unasked | Comparison::Same(_)) {
            (self.expected, self.found, self.comparison) = (expected, Some(found), Comparison::Unpublished);
        }
    }

    fn json(&self) -> Value {
        let (outcome, at, after) = match self.comparison {
            Comparison::Unasked => ("unasked", None, None),
            Comparison::Same(_) => ("same", None, None),
            Comparison::Unpublished => ("unpublished", None, None),
            Comparison::Differs { at, after } => ("differs", Some(at.0), after.map(|after| after.0)),
        };
        json!({
            "end": self.kind, "name": self.name, "expected": self.expected, "found": self.found,
            "outcome": outcome, "differs_at": at, "same_at": after,
        })
    }

    fn verdict(&self) -> String {
        match self.comparison {
            Comparison::Unasked => "not asked".to_owned(),
            Comparison::Same(_) => "same".to_owned(),
            Comparison::Unpublished => "same, the rest is not published yet".to_owned(),
            Comparison::Differs { at, after: Some(after) } => format!("differs at epoch {at}, same at {after}"),
            Comparison::Differs { at, after: None } => format!("differs at epoch {at}"),
        }
    }
}

/// Returns the splits of the newest checkpoint, not asked.
pub(super) fn splits(checkpoints: &[EndSums]) -> Vec<End> {
    let newest = checkpoints.last().into_iter().flat_map(|newest| &newest.splits);
    newest.map(|split| End::unasked("input", split.split.id.to_string(), split.split.records)).collect()
}

/// Returns the slots of the newest checkpoint, not asked.
pub(super) fn slots(checkpoints: &[EndSums]) -> Vec<End> {
    let newest = checkpoints.last().into_iter().flat_map(|newest| &newest.slots);
    newest.map(|slot| End::unasked("output", slot.slot.to_string(), slot.sum.records)).collect()
}

/// Returns the epochs that the checkpoints cover.
fn epochs(checkpoints: &[EndSums]) -> (u64, u64) {
    let epoch = |checkpoint: Option<&EndSums>| checkpoint.map_or(0, |checkpoint| checkpoint.epoch.0);
    (epoch(checkpoints.first()), epoch(checkpoints.last()))
}

/// Prints one JSON document.
///
/// # Errors
/// `Unavailable` if standard output fails.
pub(super) fn print_json(checkpoints: &[EndSums], ends: &[End]) -> Result<()> {
    let (first, last) = epochs(checkpoints);
    print::json(&json!({
        "checkpoints": checkpoints.len(),
        "first_epoch": first,
        "last_epoch": last,
        "ends": ends.iter().map(End::json).collect::<Vec<_>>(),
    }))
}

/// Prints a table.
///
/// # Errors
/// As [`print_json`].
pub(super) fn print_text(checkpoints: &[EndSums], ends: &[End]) -> Result<()> {
    let (first, last) = epochs(checkpoints);
    let mut table = Table::new(["end", "name", "checkpoint", "found", "outcome"]);
    for end in ends {
        let found = end.found.map_or_else(|| "-".to_owned(), |found| found.to_string());
        table.row([end.kind.to_owned(), end.name.clone(), end.expected.to_string(), found, end.verdict()]);
    }
    let count = checkpoints.len();
    print::out(&format!("{count} checkpoints, epochs {first} to {last}\n{}", table.print("")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_difference_is_named_with_the_checkpoint_before() {
        let mut end = End::new("input", "s/0");
        end.compare(Epoch(3), (5, 5), true);
        end.compare(Epoch(7), (9, 8), false);
        end.compare(Epoch(8), (10, 10), true);
        assert_eq!(end.comparison, Comparison::Differs { at: Epoch(7), after: Some(Epoch(3)) });
        assert_eq!((end.expected, end.found), (9, Some(8)));
        let mut end = End::new("output", "folder");
        end.compare(Epoch(1), (5, 6), false);
        assert_eq!(end.verdict(), "differs at epoch 1");
    }

    #[test]
    fn nothing_after_what_is_not_published_counts() {
        let mut end = End::new("output", "folder");
        end.compare(Epoch(1), (5, 5), true);
        end.await_publication((9, 5));
        end.compare(Epoch(3), (10, 5), false);
        assert_eq!(end.comparison, Comparison::Unpublished);
    }
}
