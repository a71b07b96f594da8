//! Bids of a NEXMark generator: deterministic, with constant-time seeks.

use std::fmt::Write;

use alluvium::{Error, Result};
use nexmark::EventGenerator;
use nexmark::config::NexmarkConfig;
use nexmark::event::{Bid, Event, EventType};

use super::tape::Check;
use super::{Position, Rows, Step};

/// Event time of the first event: 2015-07-15T00:00:00Z.
const BASE_TIME_MS: u64 = 1_436_918_400_000;

/// Distance between the first events of two seeds. An event depends only on its number: shorter streams are disjoint.
const EVENTS_PER_SEED: usize = 500_000_000;

const COLUMNS: [&str; 6] = ["auction", "bidder", "price", "channel", "url", "date_time"];

/// The bids among the first events of a generator.
pub(super) struct NexmarkRows {
    generator: EventGenerator,
    /// The number of bids.
    bids: u64,
    /// The index of each wanted column.
    wanted: Vec<usize>,
    /// The wanted cells of the current bid, concatenated, and the end of each.
    text: String,
    ends: Vec<usize>,
}

impl NexmarkRows {
    /// Returns the bids among the first `events` events of the stream chosen by `seed`.
    ///
    /// # Errors
    /// `Config` if bids do not have a wanted column.
    pub(super) fn open(events: u64, seed: u32, wanted: &[String]) -> Result<Self> {
        let index = |name: &String| {
            let index = COLUMNS.iter().position(|column| column == name);
            index.ok_or_else(|| super::unknown_column(name, &COLUMNS.map(str::to_owned)))
        };
        let wanted: Vec<usize> = wanted.iter().map(index).collect::<Result<_>>()?;
        let seed = usize::try_from(seed).map_err(|_| Error::config("seed is too large"))?;
        let first_event_id = seed.saturating_mul(EVENTS_PER_SEED);
        let config = NexmarkConfig { base_time: BASE_TIME_MS, first_event_id, ..NexmarkConfig::default() };
        let bids = bids_among(events, &config);
        let generator = EventGenerator::new(config).with_type_filter(EventType::Bid);
        Ok(Self { generator, bids, ends: vec![0; wanted.len()], wanted, text: String::new() })
    }

    fn write_cells(&mut self, bid: &Bid) {
        self.text.clear();
        for (index, end) in self.wanted.iter().zip(&mut self.ends) {
            // Writing to a string cannot fail.
            let _written = match index {
                0 => write!(self.text, "{}", bid.auction),
                1 => write!(self.text, "{}", bid.bidder),
                2 => write!(self.text, "{}", bid.price),
                3 => self.text.write_str(&bid.channel),
                4 => self.text.write_str(&bid.url),
                _ => write!(self.text, "{}", bid.date_time),
            };
            *end = self.text.len();
        }
    }
}

/// Returns the number of bids among the first `events` events: in each round, persons and auctions precede the bids.
fn bids_among(events: u64, config: &NexmarkConfig) -> u64 {
    let others = (config.person_proportion + config.auction_proportion) as u64;
    let bids = config.bid_proportion as u64;
    let round = others + bids;
    events / round * bids + (events % round).saturating_sub(others)
}

impl std::fmt::Debug for NexmarkRows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NexmarkRows").field("bids", &self.bids).finish_non_exhaustive()
    }
}

impl Rows for NexmarkRows {
    fn next(&mut self) -> Result<Step> {
        if self.generator.offset() >= self.bids {
            return Ok(Step::End);
        }
        match self.generator.next() {
            Some(Event::Bid(bid)) => self.write_cells(&bid),
            _ => return Err(Error::input("generator returned an event that is not a bid")),
        }
        Ok(Step::Row)
    }

    fn cell(&self, wanted: usize) -> Option<&[u8]> {
        let end = |index: usize| self.ends.get(index).copied().unwrap_or(0);
        let start = wanted.checked_sub(1).map_or(0, end);
        self.text.get(start..end(wanted)).map(str::as_bytes)
    }

    /// Returns the bid's number, from 1.
    fn line(&self) -> u64 {
        self.generator.offset()
    }

    /// Returns a position counted in bids: generated input has no bytes.
    fn position(&self) -> Position {
        let bids = self.generator.offset();
        Position::new(bids, bids + 1, Check::Nothing)
    }

    fn resume(&mut self, position: &Position) -> Result<()> {
        if position.offset > self.bids {
            return Err(super::changed(position.offset));
        }
        self.generator = std::mem::take(&mut self.generator).with_offset(position.offset);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(events: u64, seed: u32, skip: u64) -> Vec<String> {
        let wanted = COLUMNS.map(str::to_owned);
        let mut rows = NexmarkRows::open(events, seed, &wanted).unwrap();
        rows.resume(&Position::new(skip, skip + 1, Check::Nothing)).unwrap();
        let mut all = Vec::new();
        while let Step::Row = rows.next().unwrap() {
            let cells: Vec<_> = (0..6).map(|i| std::str::from_utf8(rows.cell(i).unwrap()).unwrap()).collect();
            all.push(cells.join("|"));
        }
        all
    }

    #[test]
    fn bids_are_deterministic_from_every_position() {
        let all = rows(1000, 0, 0);
        assert_eq!(all.len(), 920);
        for skip in [1, 45, 46, 47, 500, 920] {
            assert_eq!(rows(1000, 0, skip as u64), all[skip..]);
        }
        assert!(all[0].contains("|1436918400000"), "{}", all[0]);
        assert!(all[919].ends_with("|1436918400100"), "{}", all[919]);
        assert_ne!(rows(1000, 1, 0)[..5], all[..5]);
    }

    #[test]
    fn persons_and_auctions_precede_bids() {
        let counts = [1, 4, 5, 50, 53, 54, 55, 100].map(|events| rows(events, 0, 0).len());
        assert_eq!(counts, [0, 0, 1, 46, 46, 46, 47, 92]);
    }
}
