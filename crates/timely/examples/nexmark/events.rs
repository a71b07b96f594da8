//! The events of a NEXMark generator, as a source that can be read again.

use std::fmt::{self, Debug, Formatter};
use std::time::{Duration, Instant};

use alluvium::source::{Advance, Position, Source, SplitId, SplitReader, StartAt};
use alluvium::{Error, Result};
use async_trait::async_trait;
use nexmark::EventGenerator;
use nexmark::config::NexmarkConfig;
use nexmark::event::Event;

/// The stream is read in so many parts, each every eighth event: no more workers than these read.
pub(crate) const SPLITS: u32 = 8;
/// Event time of the first event: 2015-07-15T00:00:00Z.
const BASE_TIME_MS: u64 = 1_436_918_400_000;
/// Distance between the first events of two seeds.
const EVENTS_PER_SEED: usize = 500_000_000;

/// The first events of a stream.
#[derive(Debug, Clone)]
pub(crate) struct Events {
    pub(crate) events: u64,
    pub(crate) seed: u32,
    /// Events a second, of all splits together; `None` if they are read as fast as they can be.
    pub(crate) rate: Option<u64>,
}

impl Events {
    /// Returns the events from `offset` on, every `step`.
    pub(crate) fn generator(seed: u32, offset: u64, step: u64) -> EventGenerator {
        let first_event_id = seed as usize * EVENTS_PER_SEED;
        let config = NexmarkConfig { base_time: BASE_TIME_MS, first_event_id, ..NexmarkConfig::default() };
        EventGenerator::new(config).with_offset(offset).with_step(step)
    }
}

#[async_trait]
impl Source for Events {
    type Reader = EventReader;

    async fn splits(&self) -> Result<Vec<SplitId>> {
        (0..SPLITS).map(|number| SplitId::new("events", number)).collect()
    }

    async fn open(&self, split: &SplitId, from: StartAt<'_>) -> Result<EventReader> {
        let offset = match from {
            StartAt::Position(position) => {
                let bytes = position.bytes().try_into();
                u64::from_le_bytes(bytes.map_err(|_| Error::corrupt("a position is no offset").with("split", split))?)
            }
            _ => split.number().into(),
        };
        let generator = Self::generator(self.seed, offset, SPLITS.into());
        let pace = self.rate.map(|rate| Pace { started: Instant::now(), rate: rate.div_ceil(SPLITS.into()), read: 0 });
        Ok(EventReader { generator, events: self.events, event: None, pace })
    }
}

/// Reads a split.
pub(crate) struct EventReader {
    generator: EventGenerator,
    events: u64,
    event: Option<Event>,
    pace: Option<Pace>,
}

impl EventReader {
    pub(crate) fn event(&self) -> Option<&Event> {
        self.event.as_ref()
    }
}

impl SplitReader for EventReader {
    fn advance(&mut self) -> Result<Advance> {
        if self.generator.offset() >= self.events {
            return Ok(Advance::End);
        }
        if self.pace.as_mut().is_some_and(|pace| !pace.is_due()) {
            return Ok(Advance::CaughtUp);
        }
        self.event = self.generator.next();
        Ok(Advance::Record)
    }

    fn position(&self) -> Result<Position> {
        Position::new(self.generator.offset().to_le_bytes().to_vec())
    }
}

impl Debug for EventReader {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventReader").field("offset", &self.generator.offset()).finish_non_exhaustive()
    }
}

/// Holds a split to a rate.
struct Pace {
    started: Instant,
    rate: u64,
    read: u64,
}

impl Pace {
    fn is_due(&mut self) -> bool {
        let due = self.started.elapsed() >= Duration::from_secs(1).mul_f64(self.read as f64 / self.rate as f64);
        self.read += u64::from(due);
        due
    }
}
