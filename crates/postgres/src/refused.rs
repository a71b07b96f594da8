//! Which record, and which of its fields, a table cannot hold.

use std::ops::Range;

use alluvium::{Error, Result};
use bytes::Bytes;
use tokio_postgres::error::DbError;
use tokio_postgres::types::Type;

use crate::insert::{self, Batch};
use crate::session::{Failure, Session};
use crate::sqlstate;
use crate::table::Table;

const SAVE: &str = "SAVEPOINT alluvium";
const BACK: &str = "ROLLBACK TO SAVEPOINT alluvium";

/// Inserts the rows of `records`, which have `fields`. Part of the session's transaction.
pub(crate) async fn insert(
    session: &mut Session,
    table: &Table,
    fields: &[usize],
    records: &[Bytes],
) -> Result<(), Failure> {
    let array = insert::array(records);
    session.execute(&insert::sql(table, fields), &[(&array, Type::TEXT)]).await.map(drop)
}

/// Publications that the server refused.
pub(crate) struct Refused<'a> {
    pub(crate) table: &'a Table,
    pub(crate) records: &'a [Bytes],
    /// What was inserted before, in the same transaction.
    pub(crate) before: &'a [Batch],
    /// What was refused.
    pub(crate) batch: &'a Batch,
}

impl Refused<'_> {
    /// Returns the error that names the first record that the server refuses, by inserting halves of the batch. Part of the
    /// session's transaction, which must be rolled back.
    ///
    /// # Errors
    /// From the server, for other reasons than a record.
    pub(crate) async fn name(&self, session: &mut Session) -> Result<Error> {
        for batch in self.before {
            insert(session, self.table, &batch.fields, self.slice(&batch.records)).await?;
        }
        let mut range = self.batch.records.clone();
        while range.len() > 1 {
            let middle = range.start + range.len() / 2;
            match self.try_insert(session, range.start..middle).await? {
                None => range.start = middle,
                Some(_) => range.end = middle,
            }
        }
        let at = range.start;
        let Some(failure) = self.try_insert(session, range.clone()).await? else {
            return Ok(Error::unavailable("the server refused records that it takes one by one"));
        };
        let Some(answer) = failure.postgres().and_then(sqlstate::refusal) else { return Err(failure.into()) };
        let mut column = answer.column().map(str::to_owned);
        if column.is_none() {
            column = self.unreadable_field(session, range).await?;
        }
        let error = describe(answer, column.as_deref());
        Ok(error.with("record", at))
    }

    /// Inserts records, and undoes that if the server refuses one of them; returns the refusal.
    async fn try_insert(&self, session: &mut Session, records: Range<usize>) -> Result<Option<Failure>> {
        session.batch(SAVE).await?;
        match insert(session, self.table, &self.batch.fields, self.slice(&records)).await {
            Ok(()) => Ok(None),
            Err(failure) if failure.postgres().and_then(sqlstate::refusal).is_some() => {
                session.batch(BACK).await?;
                Ok(Some(failure))
            }
            Err(failure) => Err(failure.into()),
        }
    }

    /// Returns the first field of a record that is no value of its column's type.
    async fn unreadable_field(&self, session: &mut Session, record: Range<usize>) -> Result<Option<String>> {
        let array = insert::array(self.slice(&record));
        for field in &self.batch.fields {
            session.batch(SAVE).await?;
            let sql = format!("SELECT FROM {} AS r", insert::rows(self.table, &[*field]));
            if session.query(&sql, &[(&array, Type::TEXT)]).await.is_err() {
                session.batch(BACK).await?;
                return Ok(self.table.at(&[*field]).map(|column| column.name.clone()).next());
            }
        }
        Ok(None)
    }

    fn slice(&self, records: &Range<usize>) -> &[Bytes] {
        self.records.get(records.clone()).unwrap_or_default()
    }
}

/// Returns the error of a refused row, without the server's text, which repeats values.
pub(crate) fn describe(answer: &DbError, column: Option<&str>) -> Error {
    let code = answer.code().code();
    let mut error = Error::new(sqlstate::kind(code), "table cannot hold a record").with("sqlstate", code);
    for (name, value) in [("constraint", answer.constraint()), ("type", answer.datatype()), ("column", column)] {
        if let Some(value) = value {
            error = error.with(name, value);
        }
    }
    error
}
