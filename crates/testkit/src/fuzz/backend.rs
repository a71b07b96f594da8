//! Arbitrary operations on backends: log and overlay against a map.

use alluvium::Result;
use arbitrary::{Arbitrary, Unstructured};

use crate::model::{Action, GROUPS, Length, Place, Step, TABLES, World};

/// Maximum steps per case: a seal's cost grows with the steps before it.
const STEPS: usize = 120;

#[derive(Debug, Clone, Copy, Arbitrary)]
struct AnyPlace {
    table: u8,
    key: u8,
    namespace: u8,
    sub: u8,
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum AnyAction {
    Put(AnyLength),
    Append(AnyLength),
    Keep,
    Delete,
    UpdateDelete,
    Merge(AnyLength),
    Edit,
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum AnyLength {
    Short(u8),
    Long(u16),
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum AnyStep {
    Write(AnyPlace, AnyAction),
    Fill(AnyPlace, u8, u8),
    Clear(AnyPlace, u8),
    ClearScope(AnyPlace, u8),
    ScanKey(AnyPlace, [u8; 2]),
    Tick(u8),
    Seal { next_epoch: bool, bases: u16 },
    Settle { age: u8, commit: bool },
    Crash(u8),
    Rescale(u8),
    Evict(u16),
}

impl From<AnyPlace> for Place {
    fn from(AnyPlace { table, key, namespace, sub }: AnyPlace) -> Self {
        Self { table: u32::from(table) % TABLES, key: key.into(), namespace: namespace % 3, sub: sub % 8 }
    }
}

impl From<AnyLength> for Length {
    fn from(length: AnyLength) -> Self {
        Self(match length {
            AnyLength::Short(length) => length.into(),
            AnyLength::Long(length) => length.into(),
        })
    }
}

impl From<AnyAction> for Action {
    fn from(action: AnyAction) -> Self {
        match action {
            AnyAction::Put(length) => Self::Put(length.into()),
            AnyAction::Append(length) => Self::Append(length.into()),
            AnyAction::Keep => Self::Keep,
            AnyAction::Delete => Self::Delete,
            AnyAction::UpdateDelete => Self::UpdateDelete,
            AnyAction::Merge(length) => Self::Merge(length.into()),
            AnyAction::Edit => Self::Edit,
        }
    }
}

impl From<AnyStep> for Step {
    fn from(step: AnyStep) -> Self {
        let parallelism = |number: u8| 1 + u32::from(number % 8);
        match step {
            AnyStep::Write(place, action) => Self::Write(place.into(), action.into()),
            AnyStep::Fill(place, count, length) => Self::Fill(place.into(), count.into(), Length(length.into())),
            AnyStep::Clear(place, count) => Self::Clear(place.into(), count.into()),
            AnyStep::ClearScope(place, scope) => Self::ClearScope(place.into(), scope % 3),
            AnyStep::ScanKey(place, bounds) => Self::ScanKey(place.into(), bounds.map(|bound| bound % 8)),
            AnyStep::Tick(millis) => Self::Tick(millis.into()),
            AnyStep::Seal { next_epoch, bases } => Self::Seal { next_epoch, bases: bases % (1 << GROUPS) },
            AnyStep::Settle { age, commit } => Self::Settle { age: (age % 4).into(), commit },
            AnyStep::Crash(number) => Self::Crash { parallelism: parallelism(number), lazy: number >= 128 },
            AnyStep::Evict(groups) => Self::Evict(groups),
            AnyStep::Rescale(number) => Self::Rescale(parallelism(number)),
        }
    }
}

/// A job's steps, at a parallelism.
pub fn backend(data: &[u8]) -> Result<()> {
    let mut data = Unstructured::new(data);
    let Ok(parallelism) = data.int_in_range(1..=8) else { return Ok(()) };
    let mut world =
        World::of_logs(parallelism, parallelism % 2 == 0, [None, Some(0), Some(65_536)][parallelism as usize % 3]);
    for step in data.arbitrary_iter::<AnyStep>().into_iter().flatten().flatten().take(STEPS) {
        world.take(&step.into());
    }
    world.take(&Step::Rescale(3));
    world.take(&Step::Crash { parallelism: 1, lazy: false });
    Ok(())
}
