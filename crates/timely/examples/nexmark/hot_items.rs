//! Query 5: the auctions with the most bids of the last ten seconds, every two seconds.

use alluvium::Result;
use alluvium::prelude::*;
use alluvium_timely::Operator;
use serde::{Deserialize, Serialize};

const WINDOW_MS: i64 = 10_000;
const SLIDE_MS: i64 = 2_000;

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Bid {
    pub(crate) auction: u64,
    pub(crate) millis: i64,
}

/// The bids on an auction in a window.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Count {
    pub(crate) window_end: i64,
    pub(crate) auction: u64,
    pub(crate) bids: u64,
}

/// Counts the bids on each auction, in panes of two seconds, and adds up five of them as a window ends.
pub(crate) struct CountBids {
    task: Task<LogBackend>,
    panes: ValueState<u64, Fixed>,
    ends: Timers,
}

impl CountBids {
    pub(crate) async fn restore(mut seat: Seat) -> Result<Self> {
        let pane = Schema::new("ordered:i64");
        let panes = seat.tables().value(TableOptions::new("bids").namespaced(pane), Fixed)?;
        let ends = seat.tables().timers("window ends", TimeDomain::Event, Schema::unit())?;
        let mut task = seat.restore(LogBackend::new).await?;
        let ends = ends.load(task.state())?;
        Ok(Self { task, panes, ends })
    }
}

impl Operator for CountBids {
    type Input = Bid;
    type Output = Count;
    type Backend = LogBackend;

    fn task(&mut self) -> &mut Task<LogBackend> {
        &mut self.task
    }

    fn process(&mut self, bid: Bid, _output: &mut Vec<Count>) -> Result<()> {
        let state = self.task.state();
        state.set_key(&bid.auction.to_le_bytes())?;
        let pane = bid.millis - bid.millis.rem_euclid(SLIDE_MS);
        let is_first = self.panes.update(&mut state.in_namespace(&encoded(pane)?), |bids| {
            let before = bids.unwrap_or(0);
            *bids = Some(before + 1);
            before == 0
        })?;
        if is_first {
            for end in (pane + SLIDE_MS..=pane + WINDOW_MS).step_by(SLIDE_MS as usize) {
                self.ends.register(state, &[], Timestamp::from_millis(end))?;
            }
        }
        Ok(())
    }

    fn advance(&mut self, watermark: Timestamp, output: &mut Vec<Count>) -> Result<()> {
        while let Some(timer) = self.ends.pop_due(self.task.state(), watermark)? {
            let window_end = timer.timestamp().as_millis();
            let first = window_end - WINDOW_MS;
            let mut bids = 0;
            for pane in (first..window_end).step_by(SLIDE_MS as usize) {
                bids += self.panes.read(&mut self.task.state().in_namespace(&encoded(pane)?))?.unwrap_or(0);
            }
            // No later window has the first pane.
            self.panes.clear(&mut self.task.state().in_namespace(&encoded(first)?))?;
            let auction = u64::from_le_bytes(
                timer.key().try_into().map_err(|_| alluvium::Error::corrupt("a key is no auction"))?,
            );
            output.push(Count { window_end, auction, bids });
        }
        Ok(())
    }
}

fn encoded(pane: i64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    Ordered.encode(&pane, &mut bytes)?;
    Ok(bytes)
}

/// The most bids on an auction, and the auctions that have so many.
type Most = (u64, Vec<u64>);

/// Keeps the auctions with the most bids of each window, until it has ended at all workers.
pub(crate) struct Hottest {
    task: Task<LogBackend>,
    hottest: ValueState<Most, Serde<Most>>,
    ends: Timers,
}

impl Hottest {
    pub(crate) async fn restore(mut seat: Seat) -> Result<Self> {
        let hottest = seat.tables().value("hottest", Serde::new("struct<bids:u64,auctions:list<u64>>")?)?;
        let ends = seat.tables().timers("window ends", TimeDomain::Event, Schema::unit())?;
        let mut task = seat.restore(LogBackend::new).await?;
        let ends = ends.load(task.state())?;
        Ok(Self { task, hottest, ends })
    }
}

impl Operator for Hottest {
    type Input = Count;
    type Output = Count;
    type Backend = LogBackend;

    fn task(&mut self) -> &mut Task<LogBackend> {
        &mut self.task
    }

    fn process(&mut self, count: Count, _output: &mut Vec<Count>) -> Result<()> {
        let state = self.task.state();
        state.set_key(&count.window_end.to_le_bytes())?;
        self.hottest.update(state, |hottest| match hottest {
            Some((most, _)) if *most > count.bids => {}
            Some((most, auctions)) if *most == count.bids => auctions.push(count.auction),
            _ => *hottest = Some((count.bids, vec![count.auction])),
        })?;
        self.ends.register(state, &[], Timestamp::from_millis(count.window_end))?;
        Ok(())
    }

    fn advance(&mut self, watermark: Timestamp, output: &mut Vec<Count>) -> Result<()> {
        while let Some(timer) = self.ends.pop_due(self.task.state(), watermark)? {
            let window_end = timer.timestamp().as_millis();
            let (bids, auctions) = self.hottest.read(self.task.state())?.unwrap_or_default();
            self.hottest.clear(self.task.state())?;
            output.extend(auctions.into_iter().map(|auction| Count { window_end, auction, bids }));
        }
        Ok(())
    }
}
