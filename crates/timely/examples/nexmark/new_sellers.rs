//! Query 8: who has registered and opened an auction in the same ten seconds.

use alluvium::Result;
use alluvium::prelude::*;
use alluvium_timely::Operator;
use serde::{Deserialize, Serialize};

const WINDOW_MS: i64 = 10_000;

/// An event of one person.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Activity {
    pub(crate) person: u64,
    pub(crate) millis: i64,
    /// The name of a person who registers; `None` if the person opens an auction.
    pub(crate) name: Option<String>,
}

/// What a person has done in a window: a name, if the person has registered, and whether there was an auction.
type Seen = (Option<String>, bool);

/// Joins persons and auctions of a window, as it ends.
pub(crate) struct NewSellers {
    task: Task<LogBackend>,
    seen: ValueState<Seen, Serde<Seen>>,
    ends: Timers,
}

impl NewSellers {
    pub(crate) async fn restore(mut seat: Seat) -> Result<Self> {
        let window = Schema::new("ordered:i64");
        let options = TableOptions::new("seen").namespaced(window.clone());
        let seen = seat.tables().value(options, Serde::new("struct<name:option<utf8>,has_auction:bool>")?)?;
        let ends = seat.tables().timers("window ends", TimeDomain::Event, window)?;
        let mut task = seat.restore(LogBackend::new).await?;
        let ends = ends.load(task.state())?;
        Ok(Self { task, seen, ends })
    }
}

impl Operator for NewSellers {
    type Input = Activity;
    type Output = String;
    type Backend = LogBackend;

    fn task(&mut self) -> &mut Task<LogBackend> {
        &mut self.task
    }

    fn process(&mut self, activity: Activity, _output: &mut Vec<String>) -> Result<()> {
        let start = activity.millis - activity.millis.rem_euclid(WINDOW_MS);
        let mut window = Vec::new();
        Ordered.encode(&start, &mut window)?;
        let state = self.task.state();
        state.set_key(&activity.person.to_le_bytes())?;
        self.seen.update(&mut state.in_namespace(&window), |seen| {
            let (name, has_auction) = seen.get_or_insert_default();
            match activity.name {
                Some(registered) => *name = Some(registered),
                None => *has_auction = true,
            }
        })?;
        self.ends.register(state, &window, Timestamp::from_millis(start + WINDOW_MS))?;
        Ok(())
    }

    fn advance(&mut self, watermark: Timestamp, output: &mut Vec<String>) -> Result<()> {
        while let Some(timer) = self.ends.pop_due(self.task.state(), watermark)? {
            let start = timer.timestamp().as_millis() - WINDOW_MS;
            let person = timer.key().try_into().map_err(|_| alluvium::Error::corrupt("a key is no person"))?;
            let person = u64::from_le_bytes(person);
            let mut state = self.task.state().in_namespace(timer.namespace());
            if let Some((Some(name), true)) = self.seen.read(&mut state)? {
                output.push(format!("{person},{name},{start}"));
            }
            self.seen.clear(&mut state)?;
        }
        Ok(())
    }
}
