//! Query 3: who in Oregon, Idaho or California sells in category 10, and what.

use alluvium::Result;
use alluvium::prelude::*;
use alluvium_timely::Operator;
use serde::{Deserialize, Serialize};

/// An event of one person, to whom it belongs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Local {
    pub(crate) person: u64,
    pub(crate) event: LocalEvent,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum LocalEvent {
    /// Name, city and state.
    Person([String; 3]),
    /// An auction that the person has opened.
    Auction(u64),
}

/// Joins persons with their auctions, whichever comes first, for ever.
pub(crate) struct LocalItems {
    task: Task<LogBackend>,
    person: ValueState<[String; 3], Serde<[String; 3]>>,
    /// Those whose seller is not known yet.
    auctions: ListState<u64, Fixed>,
}

impl LocalItems {
    pub(crate) async fn restore(mut seat: Seat) -> Result<Self> {
        let person = seat.tables().value("person", Serde::new("struct<name:utf8,city:utf8,state:utf8>")?)?;
        let auctions = seat.tables().list("auctions", Fixed)?;
        let task = seat.restore(LogBackend::new).await?;
        Ok(Self { task, person, auctions })
    }
}

impl Operator for LocalItems {
    type Input = Local;
    type Output = String;
    type Backend = LogBackend;

    fn task(&mut self) -> &mut Task<LogBackend> {
        &mut self.task
    }

    fn process(&mut self, record: Local, output: &mut Vec<String>) -> Result<()> {
        let state = self.task.state();
        state.set_key(&record.person.to_le_bytes())?;
        match record.event {
            LocalEvent::Person(person) => {
                let auctions = self.auctions.read(state)?;
                self.auctions.clear(state)?;
                output.extend(auctions.into_iter().map(|auction| row(&person, auction)));
                self.person.put(state, &person)?;
            }
            LocalEvent::Auction(auction) => match self.person.read(state)? {
                Some(person) => output.push(row(&person, auction)),
                None => self.auctions.add(state, &auction)?,
            },
        }
        Ok(())
    }
}

fn row([name, city, state]: &[String; 3], auction: u64) -> String {
    format!("{name},{city},{state},{auction}")
}
