//! The table of slots: who may publish through each, and how far it has come.

use alluvium::sink::Marker;
use alluvium::{Attempt, Epoch, Error, Lineage, Result};
use tokio_postgres::types::Type;

use crate::session::Session;
use crate::table::{Table, field};

/// The columns, of which the marker's three are null until something is published.
const COLUMNS: &str = "
    slot text PRIMARY KEY,
    attempt bigint NOT NULL,
    fence bigint NOT NULL,
    lineage text,
    published_attempt bigint,
    epoch bigint,
    updated_at timestamptz NOT NULL DEFAULT now()";

/// The right to publish through a slot: valid until the slot is fenced again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Claim {
    attempt: i64,
    /// Counts the slot's fences, so that an earlier call of the same attempt differs from a later one.
    fence: i64,
}

/// The table of slots, as it is written in SQL.
#[derive(Debug, Clone)]
pub(crate) struct Slots {
    quoted: String,
}

impl Slots {
    /// Returns the table `name`, if there is one that fits.
    ///
    /// # Errors
    /// `Config` if it has another shape, `Denied` if it may not be written; others from the server.
    pub(crate) async fn find(session: &mut Session, name: &str) -> Result<Option<Self>> {
        let key = ["slot".to_owned()];
        let Some(table) = Table::find(session, name, &key).await? else { return Ok(None) };
        for column in ["attempt", "fence", "lineage", "published_attempt", "epoch", "updated_at"] {
            if table.position(column).is_none() {
                let error = Error::config("table of slots has another form").with("table", name);
                return Err(error.with("missing", column));
            }
        }
        table.check_key(session).await?;
        table.check_privileges(session, true).await?;
        Ok(Some(Self { quoted: table.quoted }))
    }

    /// Creates the table `name`, unless another process has. Part of the session's transaction.
    ///
    /// # Errors
    /// `Config`, `NotFound` or `Denied`; others from the server.
    pub(crate) async fn create(session: &mut Session, name: &str) -> Result<()> {
        // Statements that create the same table at once fail, also with IF NOT EXISTS.
        let lock = "SELECT pg_advisory_xact_lock(hashtextextended('alluvium create ' || $1, 0))";
        session.query(lock, &[(&name, Type::TEXT)]).await?;
        let quote = "SELECT string_agg(quote_ident(part), '.' ORDER BY place) AS quoted
                     FROM unnest(parse_ident($1)) WITH ORDINALITY AS p(part, place)";
        let rows = session.query(quote, &[(&name, Type::TEXT)]).await?;
        let quoted: String = rows.first().map_or_else(|| Err(vanished()), |row| field(row, "quoted"))?;
        Ok(session.batch(&format!("CREATE TABLE IF NOT EXISTS {quoted} ({COLUMNS})")).await?)
    }

    /// Takes a slot over for `attempt`: waits for the transaction that has its row, if there is one. Part of the session's
    /// transaction.
    ///
    /// # Errors
    /// `Fenced`, naming the attempt that has the slot; `Corrupt`; others from the server.
    pub(crate) async fn fence(
        &self,
        session: &mut Session,
        slot: &str,
        attempt: Attempt,
    ) -> Result<(Claim, Option<Marker>)> {
        let attempt = number("attempt", attempt.0)?;
        let sql = format!(
            "INSERT INTO {} AS s (slot, attempt, fence) VALUES ($1, $2, 1)
             ON CONFLICT (slot) DO UPDATE SET attempt = excluded.attempt, fence = s.fence + 1, updated_at = now()
             WHERE s.attempt <= excluded.attempt
             RETURNING fence, lineage, published_attempt, epoch",
            self.quoted
        );
        let rows = session.query(&sql, &[(&slot, Type::TEXT), (&attempt, Type::INT8)]).await?;
        let Some(row) = rows.first() else { return Err(self.refusal(session, slot, attempt).await?) };
        let stored = (field(row, "lineage")?, field(row, "published_attempt")?, field(row, "epoch")?);
        Ok((Claim { attempt, fence: field(row, "fence")? }, marker(stored)?))
    }

    /// Sets a slot's marker, and holds its row until the transaction ends. Part of the session's transaction.
    ///
    /// # Errors
    /// `Fenced` if a later attempt has the slot, `Unavailable` if it was fenced again by the same; others from the server.
    pub(crate) async fn mark(&self, session: &mut Session, slot: &str, claim: Claim, marker: Marker) -> Result<()> {
        let sql = format!(
            "UPDATE {} SET lineage = $4, published_attempt = $5, epoch = $6, updated_at = now()
             WHERE slot = $1 AND attempt = $2 AND fence = $3",
            self.quoted
        );
        let (lineage, published) = (marker.lineage.to_string(), number("attempt", marker.attempt.0)?);
        let epoch = number("epoch", marker.epoch.0)?;
        let parameters = [
            (&slot as _, Type::TEXT),
            (&claim.attempt as _, Type::INT8),
            (&claim.fence as _, Type::INT8),
            (&lineage as _, Type::TEXT),
            (&published as _, Type::INT8),
            (&epoch as _, Type::INT8),
        ];
        match session.execute(&sql, &parameters).await? {
            0 => Err(self.refusal(session, slot, claim.attempt).await?),
            _ => Ok(()),
        }
    }

    /// Returns why `attempt` may not use a slot.
    async fn refusal(&self, session: &mut Session, slot: &str, attempt: i64) -> Result<Error> {
        let sql = format!("SELECT attempt FROM {} WHERE slot = $1", self.quoted);
        let rows = session.query(&sql, &[(&slot, Type::TEXT)]).await?;
        let Some(row) = rows.first() else { return Ok(vanished()) };
        let by: i64 = field(row, "attempt")?;
        if by > attempt {
            return Ok(Error::fenced("a later attempt has the slot").with("by", by));
        }
        Ok(Error::unavailable("the slot was fenced again"))
    }
}

fn vanished() -> Error {
    Error::unavailable("the slot's row is gone")
}

/// Returns a number as the server stores it.
fn number(name: &str, value: u64) -> Result<i64> {
    i64::try_from(value).map_err(|_| Error::limit("number is too large for the table of slots").with(name, value))
}

type Stored = (Option<String>, Option<i64>, Option<i64>);

fn marker(stored: Stored) -> Result<Option<Marker>> {
    if stored == (None, None, None) {
        return Ok(None);
    }
    let parsed = || {
        let (lineage, attempt, epoch) = (stored.0.as_deref()?, stored.1?, stored.2?);
        let lineage: Lineage = lineage.parse().ok()?;
        Some(Marker { lineage, attempt: Attempt(attempt.try_into().ok()?), epoch: Epoch(epoch.try_into().ok()?) })
    };
    match parsed() {
        Some(marker) => Ok(Some(marker)),
        None => Err(Error::corrupt("marker in the table of slots is damaged")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alluvium::ErrorKind;

    #[test]
    fn a_marker_is_whole_or_absent() {
        let lineage = "ab".repeat(16);
        let whole = Marker { lineage: Lineage([0xab; 16]), attempt: Attempt(7), epoch: Epoch(0) };
        assert_eq!(marker((Some(lineage.clone()), Some(7), Some(0))).unwrap(), Some(whole));
        assert_eq!(marker((None, None, None)).unwrap(), None);
        for bad in [
            (None, Some(7), Some(0)),
            (Some(lineage.clone()), None, Some(0)),
            (Some(lineage.clone()), Some(7), None),
            (Some(lineage.clone()), Some(-7), Some(0)),
            (Some(lineage.clone()), Some(7), Some(-1)),
            (Some("ab".to_owned()), Some(7), Some(0)),
        ] {
            assert_eq!(marker(bad.clone()).unwrap_err().kind(), ErrorKind::Corrupt, "{bad:?}");
        }
    }

    #[test]
    fn numbers_beyond_the_servers_are_refused() {
        assert_eq!(number("epoch", u64::MAX).unwrap_err().kind(), ErrorKind::Limit);
        assert_eq!(number("epoch", 7).unwrap(), 7);
    }
}
