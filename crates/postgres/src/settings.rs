//! Settings of a target: where the server is, which table, how long to wait.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Settings of a [`PostgresTarget`](crate::PostgresTarget). Made by [`new`](Self::new), changed by [`with`](Self::with).
#[derive(Clone)]
#[non_exhaustive]
pub struct PostgresSettings {
    /// Where the server is: a URL (`postgresql://user@host:5432/database?sslmode=require`) or the keys and values of libpq
    /// (`host=/var/run/postgresql user=job dbname=counts`).
    ///
    /// `sslmode` is `prefer` unless it is given: connections through a network should have `require`. `target_session_attrs` is
    /// `read-write` unless it is given. Without `connect_timeout` a host has 10 s, without `tcp_user_timeout` sent bytes have 30 s.
    pub server: String,
    /// The password, if `server` has none. Default: that of the environment variable `PGPASSWORD`, if there is one.
    pub password: Option<String>,
    /// File with the certificates, in PEM, of authorities that may sign the server's. Default: those of the system.
    pub root_certificates: Option<PathBuf>,
    /// The table that takes the rows, as in SQL: `counts`, `sales.counts` or `"Sales".counts`.
    pub table: String,
    /// Columns that identify a row: a record replaces what the row with its key has. They need a unique index on just these
    /// columns, and must be `NOT NULL`. Default: none, so each record is a new row.
    pub key: Vec<String>,
    /// The table that has the marker of each slot, as in SQL. Default: `alluvium_slots`.
    pub slots_table: String,
    /// Whether to create the table of slots if it is absent. Default: yes.
    pub create_slots_table: bool,
    /// How long the server lets a transaction wait for its client before it ends it. A process that stops inside a publication
    /// holds up the attempt that follows for this long. At least 1 ms. Default: 10 s.
    pub idle_in_transaction_timeout: Duration,
    /// How long a statement waits for a lock. At least 1 ms; should be longer than `idle_in_transaction_timeout`. Default: 30 s.
    pub lock_timeout: Duration,
    /// How long a statement may take, with its waits for locks. At least 1 ms. Default: 30 s.
    pub statement_timeout: Duration,
    /// How long to wait for an answer before the server counts as away; should be longer than `statement_timeout`. Default: 60 s.
    pub answer_timeout: Duration,
    /// About the most bytes of records in one statement; a larger record goes alone. Default: 4 MiB.
    pub statement_bytes_max: usize,
}

impl PostgresSettings {
    /// Returns the default settings.
    ///
    /// * `server`: where the server is; see [`server`](Self::server).
    /// * `table`: the table that takes the rows; see [`table`](Self::table).
    pub fn new(server: impl Into<String>, table: impl Into<String>) -> Self {
        Self {
            server: server.into(),
            password: None,
            root_certificates: None,
            table: table.into(),
            key: Vec::new(),
            slots_table: "alluvium_slots".to_owned(),
            create_slots_table: true,
            idle_in_transaction_timeout: Duration::from_secs(10),
            lock_timeout: Duration::from_secs(30),
            statement_timeout: Duration::from_secs(30),
            answer_timeout: Duration::from_secs(60),
            statement_bytes_max: 4 << 20,
        }
    }

    /// Returns these settings after `change`, for use in an expression: the struct may gain fields, so it cannot be written as a
    /// literal outside the crate.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }
}

/// Leaves out the server and the password, which are secrets or may contain one.
impl fmt::Debug for PostgresSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresSettings")
            .field("root_certificates", &self.root_certificates)
            .field("table", &self.table)
            .field("key", &self.key)
            .field("slots_table", &self.slots_table)
            .field("create_slots_table", &self.create_slots_table)
            .field("idle_in_transaction_timeout", &self.idle_in_transaction_timeout)
            .field("lock_timeout", &self.lock_timeout)
            .field("statement_timeout", &self.statement_timeout)
            .field("answer_timeout", &self.answer_timeout)
            .field("statement_bytes_max", &self.statement_bytes_max)
            .finish_non_exhaustive()
    }
}
