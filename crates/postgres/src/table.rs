//! The table that takes the rows, as the server's catalogue has it.

use std::collections::BTreeMap;

use alluvium::{Error, Result};
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use crate::session::Session;

/// A column, with its name and type as they are written in SQL.
#[derive(Debug, Clone)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) quoted: String,
    pub(crate) sql_type: String,
    pub(crate) is_not_null: bool,
    /// The server always makes its value.
    pub(crate) is_generated: bool,
}

/// A table, with the columns that identify a row.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    oid: u32,
    /// With its schema, as it is written in SQL.
    pub(crate) quoted: String,
    pub(crate) columns: Vec<Column>,
    /// Positions of columns by name.
    by_name: BTreeMap<String, usize>,
    /// Positions of the key's columns.
    pub(crate) key: Vec<usize>,
}

const FIND: &str = "
    SELECT c.oid, format('%I.%I', n.nspname, c.relname) AS quoted, c.relkind IN ('r', 'p') AS is_table,
           c.relpersistence = 'p' AS is_durable
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.oid = to_regclass($1)";

const COLUMNS: &str = "
    SELECT a.attname::text AS name, quote_ident(a.attname) AS quoted, format_type(a.atttypid, a.atttypmod) AS sql_type,
           a.attnotnull AS is_not_null, a.attgenerated <> '' OR a.attidentity = 'a' AS is_generated
    FROM pg_catalog.pg_attribute a
    WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum";

/// What ON CONFLICT can use: not partial, of plain columns, checked at once.
const HAS_KEY: &str = r#"
    SELECT EXISTS (
        SELECT FROM pg_catalog.pg_index i
        WHERE i.indrelid = $1 AND i.indisunique AND i.indimmediate AND i.indisvalid
          AND i.indpred IS NULL AND i.indexprs IS NULL
          AND $2 = (SELECT array_agg(a.attname::text ORDER BY a.attname::text COLLATE "C")
                    FROM unnest(i.indkey) WITH ORDINALITY AS k(attnum, place)
                    JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
                    WHERE k.place <= i.indnkeyatts))"#;

const PRIVILEGES: &str = "
    SELECT has_any_column_privilege($1, 'INSERT') AS inserts, has_any_column_privilege($1, 'UPDATE') AS updates,
           has_any_column_privilege($1, 'SELECT') AS selects";

impl Table {
    /// Returns the table `name`, or `None` if there is none.
    ///
    /// * `name`: as in SQL, with or without its schema.
    /// * `key`: names of columns.
    ///
    /// # Errors
    /// `Config` if it is not a plain table that survives a crash, or lacks a column of the key; others from the server.
    pub(crate) async fn find(session: &mut Session, name: &str, key: &[String]) -> Result<Option<Self>> {
        let rows = session.query(FIND, &[(&name, Type::TEXT)]).await.map_err(Error::from);
        let rows = rows.map_err(|error| error.with("table", name))?;
        let Some(row) = rows.first() else { return Ok(None) };
        let named = |error: Error| error.with("table", name);
        if !field::<bool>(row, "is_table")? {
            return Err(named(Error::config("target is not a table")));
        }
        if !field::<bool>(row, "is_durable")? {
            return Err(named(Error::config("table is unlogged or temporary: its rows do not outlive the server")));
        }
        let oid: u32 = field(row, "oid")?;
        let rows = session.query(COLUMNS, &[(&oid, Type::OID)]).await?;
        let columns = rows.iter().map(Column::of).collect::<Result<Vec<_>>>()?;
        let by_name: BTreeMap<_, _> = columns.iter().enumerate().map(|(at, it)| (it.name.clone(), at)).collect();
        let place = |column: &String| {
            let missing = || named(Error::config("key column is not in the table").with("column", column));
            by_name.get(column).copied().ok_or_else(missing)
        };
        let key = key.iter().map(place).collect::<Result<_>>()?;
        Ok(Some(Self { oid, quoted: field(row, "quoted")?, columns, by_name, key }))
    }

    /// Returns the position of the column `name`.
    pub(crate) fn position(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// Returns the columns at `positions`.
    pub(crate) fn at<'a>(&'a self, positions: &'a [usize]) -> impl Iterator<Item = &'a Column> {
        positions.iter().filter_map(|at| self.columns.get(*at))
    }

    /// Checks that ON CONFLICT can find rows by the key.
    ///
    /// # Errors
    /// `Config`.
    pub(crate) async fn check_key(&self, session: &mut Session) -> Result<()> {
        let mut names: Vec<_> = self.at(&self.key).map(|column| column.name.clone()).collect();
        let listed = names.join(",");
        let named = |error: Error| error.with("table", &self.quoted).with("key", &listed);
        if let Some(column) = self.at(&self.key).find(|column| !column.is_not_null) {
            let error = Error::config("key column may be null: add NOT NULL, or rows without it never conflict");
            return Err(named(error).with("column", &column.name));
        }
        names.sort_unstable();
        let rows = session.query(HAS_KEY, &[(&self.oid, Type::OID), (&names, Type::TEXT_ARRAY)]).await?;
        match rows.first() {
            Some(row) if field::<bool>(row, "exists")? => Ok(()),
            _ => Err(named(Error::config("table has no unique index on exactly the key's columns"))),
        }
    }

    /// Checks that rows may be written.
    ///
    /// * `reads`: whether they are read and changed too.
    ///
    /// # Errors
    /// `Denied`.
    pub(crate) async fn check_privileges(&self, session: &mut Session, reads: bool) -> Result<()> {
        let rows = session.query(PRIVILEGES, &[(&self.oid, Type::OID)]).await?;
        let row = rows.first().ok_or_else(catalogue)?;
        for (privilege, name, needed) in
            [("inserts", "INSERT", true), ("updates", "UPDATE", reads), ("selects", "SELECT", reads)]
        {
            if needed && !field::<bool>(row, privilege)? {
                return Err(Error::denied("table may not be written")
                    .with("table", &self.quoted)
                    .with("privilege", name));
            }
        }
        Ok(())
    }
}

impl Column {
    fn of(row: &Row) -> Result<Self> {
        Ok(Self {
            name: field(row, "name")?,
            quoted: field(row, "quoted")?,
            sql_type: field(row, "sql_type")?,
            is_not_null: field(row, "is_not_null")?,
            is_generated: field(row, "is_generated")?,
        })
    }
}

/// Returns a field of an answer.
///
/// # Errors
/// `Config` if the server answered in another shape.
pub(crate) fn field<'a, T: tokio_postgres::types::FromSql<'a>>(row: &'a Row, name: &str) -> Result<T> {
    row.try_get(name).map_err(|error| catalogue().with("field", name).with_source(error))
}

fn catalogue() -> Error {
    Error::config("the server answers in another form than PostgreSQL")
}

#[cfg(test)]
impl Table {
    /// Returns the table `s.t`. Its column `made`, if there is one, is generated.
    pub(crate) fn for_tests(columns: &[(&str, &str)], key: &[&str]) -> Self {
        let column = |(name, sql_type): &(&str, &str)| Column {
            name: (*name).to_owned(),
            quoted: format!("\"{}\"", name.replace('"', "\"\"")),
            sql_type: (*sql_type).to_owned(),
            is_not_null: true,
            is_generated: *name == "made",
        };
        let columns: Vec<_> = columns.iter().map(column).collect();
        let by_name: BTreeMap<_, _> = columns.iter().enumerate().map(|(at, it)| (it.name.clone(), at)).collect();
        let key = key.iter().map(|name| by_name[*name]).collect();
        Self { oid: 0, quoted: "s.t".to_owned(), columns, by_name, key }
    }
}
