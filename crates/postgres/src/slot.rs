//! Publishing through one slot.
//!
//! A connection belongs to one call at a time. A call takes it out of the slot, and puts it back when it has succeeded: whatever
//! else happens to the call, the connection is dropped, the server rolls back, and the next fence opens another.

use std::sync::Arc;

use alluvium::sink::{Marker, Records, SinkSlot};
use alluvium::{Attempt, Error, Result};
use async_trait::async_trait;
use bytes::Bytes;

use crate::insert::{self, Batch, Unplanned};
use crate::refused::{self, Refused};
use crate::session::{Failure, Session};
use crate::slots::{Claim, Slots};
use crate::sqlstate;
use crate::table::Table;
use crate::target::Place;

/// The publisher of one slot.
#[derive(Debug)]
pub(crate) struct PostgresSlot {
    place: Arc<Place>,
    name: String,
    open: Option<Open>,
    claim: Option<Claim>,
}

impl PostgresSlot {
    pub(crate) fn new(place: Arc<Place>, name: String) -> Self {
        Self { place, name, open: None, claim: None }
    }
}

/// A connection, with what it found.
#[derive(Debug)]
struct Open {
    place: Arc<Place>,
    session: Session,
    table: Table,
    slots: Slots,
}

impl Open {
    async fn new(place: Arc<Place>) -> Result<Self> {
        let mut session = Session::open(&place.connector).await?;
        let table = place.table(&mut session).await?;
        let slots = place.slots(&mut session).await?;
        Ok(Self { place, session, table, slots })
    }

    async fn fence(&mut self, slot: &str, attempt: Attempt) -> Result<(Claim, Option<Marker>)> {
        self.session.batch(&self.place.begin).await?;
        let fenced = self.slots.fence(&mut self.session, slot, attempt).await?;
        self.session.batch("COMMIT").await.map_err(doubtful)?;
        Ok(fenced)
    }

    /// Inserts records and sets the marker, in one transaction.
    async fn publish(&mut self, slot: &str, claim: Claim, marker: Marker, records: &[Bytes]) -> Result<()> {
        let batches = self.plan(records).await?;
        self.session.batch(&self.place.begin).await?;
        self.slots.mark(&mut self.session, slot, claim, marker).await?;
        for (at, batch) in batches.iter().enumerate() {
            let of_batch = records.get(batch.records.clone()).unwrap_or_default();
            if let Err(failure) = refused::insert(&mut self.session, &self.table, &batch.fields, of_batch).await {
                let (before, _) = batches.split_at(at);
                return Err(self.explain(failure, records, before, batch).await);
            }
        }
        self.session.batch("COMMIT").await.map_err(doubtful)
    }

    /// Returns the statements for `records`, by the table as it is now if they have a field that it had not.
    async fn plan(&mut self, records: &[Bytes]) -> Result<Vec<Batch>> {
        let bytes_max = self.place.settings.statement_bytes_max;
        match insert::plan(&self.table, records, bytes_max) {
            Ok(batches) => Ok(batches),
            Err(Unplanned::UnknownField(_)) => {
                self.table = self.place.table(&mut self.session).await?;
                Ok(insert::plan(&self.table, records, bytes_max)?)
            }
            Err(Unplanned::Refused(error)) => Err(error),
        }
    }

    /// Returns the error for a batch that failed; names the record, if it is one that the table cannot hold.
    async fn explain(&mut self, failure: Failure, records: &[Bytes], before: &[Batch], batch: &Batch) -> Error {
        if failure.postgres().and_then(sqlstate::refusal).is_none() {
            return failure.into();
        }
        let Self { place, session, table, .. } = self;
        let named = async {
            session.batch("ROLLBACK").await?;
            session.batch(&place.begin).await?;
            Refused { table, records, before, batch }.name(session).await
        };
        named.await.unwrap_or_else(|error: Error| error)
    }
}

#[async_trait]
impl SinkSlot for PostgresSlot {
    async fn fence(&mut self, attempt: Attempt) -> Result<Option<Marker>> {
        self.claim = None;
        let mut open = match self.open.take() {
            Some(open) => open,
            None => Open::new(Arc::clone(&self.place)).await?,
        };
        let (claim, marker) = open.fence(&self.name, attempt).await?;
        (self.open, self.claim) = (Some(open), Some(claim));
        Ok(marker)
    }

    async fn publish(&mut self, marker: Marker, records: &Records) -> Result<()> {
        let (Some(mut open), Some(claim)) = (self.open.take(), self.claim.take()) else {
            return Err(Error::usage("a slot is fenced before its first publication, and after a failed one"));
        };
        let records: Vec<_> = records.iter().collect();
        open.publish(&self.name, claim, marker, &records).await?;
        (self.open, self.claim) = (Some(open), Some(claim));
        Ok(())
    }
}

/// Returns the error for a failed COMMIT. Without an answer that it was rolled back, it may have taken effect.
fn doubtful(failure: Failure) -> Error {
    match failure.postgres().filter(|error| sqlstate::is_rolled_back(error)) {
        // A constraint that is checked at the end of a transaction: the server does not tell the row.
        Some(error) => match sqlstate::refusal(error) {
            Some(answer) => refused::describe(answer, answer.column()),
            None => failure.into(),
        },
        None => {
            let error = Error::unavailable("the outcome of a transaction is unknown");
            error.with_source(Error::from(failure)).unknown()
        }
    }
}
