//! A connection that is driven by the calls that use it, so that dropping a call ends it and its transaction.

use std::fmt;
use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use alluvium::{Error, Result};
use futures_util::future::BoxFuture;
#[cfg(feature = "tls")]
use tokio_postgres::config::SslMode;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Config, NoTls, Row};

use crate::sqlstate;

/// How to connect.
pub(crate) struct Connector {
    pub(crate) config: Config,
    #[cfg(feature = "tls")]
    pub(crate) tls: tokio_postgres_rustls::MakeRustlsConnect,
    /// The longest wait for an answer.
    pub(crate) patience: Duration,
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The password is left out by `Config`.
        f.debug_struct("Connector").field("config", &self.config).finish_non_exhaustive()
    }
}

type Driver = BoxFuture<'static, Result<(), tokio_postgres::Error>>;

/// A connection. Nothing reads or writes it between calls. Dropping it closes its socket: the server then rolls back.
pub(crate) struct Session {
    client: Client,
    driver: Driver,
    patience: Duration,
}

/// A parameter of a statement, with its type.
pub(crate) type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

impl Session {
    /// Connects.
    ///
    /// # Errors
    /// `Unavailable`, `Denied`, `NotFound` or `Config`.
    pub(crate) async fn open(connector: &Connector) -> Result<Self> {
        let opening = connector.connect();
        let opened = tokio::time::timeout(connector.patience, opening).await.map_err(|_| no_answer())?;
        let (client, driver) = opened.map_err(|error| sqlstate::connecting(&error))?;
        Ok(Self { client, driver, patience: connector.patience })
    }

    /// Runs statements without parameters, separated by semicolons.
    pub(crate) async fn batch(&mut self, sql: &str) -> Result<(), Failure> {
        drive(&mut self.driver, self.patience, self.client.batch_execute(sql)).await
    }

    /// Runs a statement and returns the number of rows that it changed.
    pub(crate) async fn execute(&mut self, sql: &str, parameters: &[Parameter<'_>]) -> Result<u64, Failure> {
        drive(&mut self.driver, self.patience, self.client.execute_typed(sql, parameters)).await
    }

    /// Runs a statement and returns its rows.
    pub(crate) async fn query(&mut self, sql: &str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>, Failure> {
        drive(&mut self.driver, self.patience, self.client.query_typed(sql, parameters)).await
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("is_closed", &self.client.is_closed()).finish_non_exhaustive()
    }
}

impl Connector {
    async fn connect(&self) -> Result<(Client, Driver), tokio_postgres::Error> {
        #[cfg(feature = "tls")]
        if self.config.get_ssl_mode() != SslMode::Disable {
            let (client, connection) = self.config.connect(self.tls.clone()).await?;
            return Ok((client, Box::pin(connection)));
        }
        let (client, connection) = self.config.connect(NoTls).await?;
        Ok((client, Box::pin(connection)))
    }
}

/// Why a statement failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The server refused it, or the connection is lost.
    Postgres(tokio_postgres::Error),
    Closed,
    NoAnswer,
}

impl Failure {
    /// Returns the client's error, if it is one.
    pub(crate) fn postgres(&self) -> Option<&tokio_postgres::Error> {
        match self {
            Self::Postgres(error) => Some(error),
            Self::Closed | Self::NoAnswer => None,
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Postgres(error) => sqlstate::failed(&error),
            Failure::Closed => Self::unavailable("the server has closed the connection"),
            Failure::NoAnswer => no_answer(),
        }
    }
}

fn no_answer() -> Error {
    Error::unavailable("the server does not answer in time")
}

/// Returns what `call` returns, which gets its answer through `driver`.
async fn drive<T>(
    driver: &mut Driver,
    patience: Duration,
    call: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, Failure> {
    let mut call = pin!(call);
    let answer = poll_fn(|context| {
        if let Poll::Ready(answer) = call.as_mut().poll(context) {
            return Poll::Ready(answer.map_err(Failure::Postgres));
        }
        let ended = driver.as_mut().poll(context);
        match (call.as_mut().poll(context), ended) {
            (Poll::Ready(answer), _) => Poll::Ready(answer.map_err(Failure::Postgres)),
            // The driver keeps the call's channel: the call would wait for ever.
            (Poll::Pending, Poll::Ready(Ok(()))) => Poll::Ready(Err(Failure::Closed)),
            (Poll::Pending, Poll::Ready(Err(error))) => Poll::Ready(Err(Failure::Postgres(error))),
            (Poll::Pending, Poll::Pending) => Poll::Pending,
        }
    });
    tokio::time::timeout(patience, answer).await.unwrap_or(Err(Failure::NoAnswer))
}
