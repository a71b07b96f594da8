//! Exactly-once output of [`alluvium`] to a table of PostgreSQL.
//!
//! A sink's records are part of each checkpoint. After its commit they are inserted in one transaction, which also sets a marker:
//! how far the sink has come. A new attempt takes the marker's row over, so that an older one, which may still run somewhere, cannot
//! write any more; it reads the marker, and inserts what is missing.
//!
//! ```no_run
//! use alluvium::sink::SinkTarget as _;
//! use alluvium_postgres::{PostgresSettings, PostgresTarget};
//!
//! # async fn example() -> alluvium::Result<()> {
//! // CREATE TABLE counts (word text, minute timestamptz, count bigint, PRIMARY KEY (word, minute))
//! let settings = PostgresSettings::new("postgresql://job@db.example/stats?sslmode=require", "counts")
//!     .with(|it| it.key = vec!["word".to_owned(), "minute".to_owned()]);
//! let target = PostgresTarget::new(settings)?;
//! target.check().await?;
//! // The sink emits: {"word":"tea","minute":"2024-03-01T12:00:00Z","count":3}
//! # Ok(())
//! # }
//! ```
//!
//! # Records
//! A record is one JSON object in UTF-8: the columns of a row by name. It does what an `INSERT` of these columns does.
//! - A column that the record lacks gets its default. A field that the table has not is refused, as `Input`: nothing is left out in
//!   silence. `null` is SQL's null.
//! - Without a [key](PostgresSettings::key), each record is a new row. With one, a record whose key is there already changes the
//!   columns that it names, and leaves the others (`ON CONFLICT ... DO UPDATE`); of several records with the same key, the last one
//!   counts. So a table by key and window can take corrections.
//! - Times without a zone are in UTC. Numbers keep all their digits.
//! - Consecutive records with the same fields share a statement, which is much faster than one for each.
//!
//! A record that the table cannot hold ends the sink. The error has the record's place in the publication, counted from 0, its
//! column or constraint, and the SQLSTATE, but no value of the row.
//!
//! # Guarantees
//! - **Once**: each row of a committed checkpoint is inserted once, whatever was lost on the way: the process, the server, the
//!   answer to `COMMIT`. Rows of an epoch that was given up come with the next one that is committed.
//! - **Atomic for each slot and publication**: a reader sees all rows of one subtask's publication, or none, and each subtask's in
//!   order. Different subtasks publish in transactions of their own: a reader may see an epoch of one before that of another.
//! - **Fenced**: once an attempt has a slot, no older one writes through it. A process that stopped inside its transaction loses it
//!   after [`idle_in_transaction_timeout`](PostgresSettings::idle_in_transaction_timeout).
//!
//! They rest on the server: it must keep what it has acknowledged. Unlogged tables are refused, and `synchronous_commit = off` is
//! overridden; `fsync = off`, or a failover to a standby that lags, can lose rows together with their marker. The next start then
//! finds the marker behind the checkpoint, and refuses. A trigger that writes elsewhere, outside the transaction, is not covered.
//! Two sinks that change the same rows are each exact, but which of them wrote last is not defined.
//!
//! # The table of slots
//! One row for each subtask of a sink, in `alluvium_slots`, created when it is first needed:
//!
//! | column | what |
//! |---|---|
//! | `slot text PRIMARY KEY` | job, operator, sink and subtask |
//! | `attempt bigint NOT NULL` | the attempt that has the slot |
//! | `fence bigint NOT NULL` | how often the slot was taken over; tells calls of the same attempt apart |
//! | `lineage text`, `published_attempt bigint`, `epoch bigint` | the marker; null until something is published |
//! | `updated_at timestamptz NOT NULL DEFAULT now()` | for those who clean up: rows of jobs that are gone can be deleted |
//!
//! Do not delete the rows of a job that runs or will be restored: it will refuse to start, as it cannot know what is published. The
//! table must be in the same database as the rows. The role needs `SELECT`, `INSERT` and `UPDATE` on it; and on the target `INSERT`,
//! with a key also `SELECT` and `UPDATE`.
//!
//! # Connections
//! One for each subtask that publishes. With the feature `tls` (on by default) they are encrypted if `sslmode` is `require`, or if it
//! is `prefer` and the server can; its certificate and name are then always verified. Certificates of clients are not supported. Nothing
//! is left in a session between transactions, and statements have no names, as pools of connections in front of a server need it.
//!
//! Needs PostgreSQL 12 or later; tested with 15.

mod insert;
mod refused;
mod session;
mod settings;
mod slot;
mod slots;
mod sqlstate;
mod table;
mod target;
#[cfg(feature = "tls")]
mod tls;

pub use settings::PostgresSettings;
pub use target::PostgresTarget;
