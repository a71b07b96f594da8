//! The target: a table, and the table of its slots.

use std::sync::Arc;
use std::time::Duration;

use alluvium::sink::{SinkSlot, SinkTarget, Slot};
use alluvium::{Error, Result};
use async_trait::async_trait;
use tokio_postgres::Config;
use tokio_postgres::config::{SslMode, TargetSessionAttrs};

use crate::session::{Connector, Session};
use crate::settings::PostgresSettings;
use crate::slot::PostgresSlot;
use crate::slots::Slots;
use crate::table::{Table, field};

/// The longest time to connect to one address, and that sent bytes wait for their acknowledgement, unless the settings say.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(30);

/// A table of a PostgreSQL server that takes output exactly once. See the [crate's page](crate).
#[derive(Debug, Clone)]
pub struct PostgresTarget {
    place: Arc<Place>,
}

/// What the slots of a target share.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) connector: Connector,
    pub(crate) settings: PostgresSettings,
    /// Statements that begin a transaction.
    pub(crate) begin: String,
}

impl PostgresTarget {
    /// Returns the target of `settings`. Does not connect. The target's calls need a tokio runtime with I/O and time.
    ///
    /// # Errors
    /// `Config`.
    pub fn new(settings: PostgresSettings) -> Result<Self> {
        let connector = connector(&settings)?;
        let begin = begin(&settings)?;
        let mut key = settings.key.clone();
        key.sort_unstable();
        key.dedup();
        if key.len() != settings.key.len() {
            return Err(Error::config("key names a column twice").with("key", settings.key.join(",")));
        }
        Ok(Self { place: Arc::new(Place { connector, settings, begin }) })
    }

    /// Returns the number of the table's rows, other writers' too.
    ///
    /// # Errors
    /// `NotFound` if there is no such table, `Denied`, `Config`; `Unavailable` if the server does not answer.
    ///
    /// # Cost
    /// The server reads the whole table, or an index of it.
    pub async fn count(&self) -> Result<u64> {
        let mut session = Session::open(&self.place.connector).await?;
        let table = self.place.table(&mut session).await?;
        let rows = session.query(&format!("SELECT count(*) AS rows FROM {}", table.quoted), &[]).await?;
        let count: i64 = rows.first().map_or(Ok(0), |row| field(row, "rows"))?;
        Ok(u64::try_from(count).unwrap_or_default())
    }
}

#[async_trait]
impl SinkTarget for PostgresTarget {
    async fn check(&self) -> Result<()> {
        let Place { connector, settings, begin } = &*self.place;
        let mut session = Session::open(connector).await?;
        let table = self.place.table(&mut session).await?;
        if !table.key.is_empty() {
            table.check_key(&mut session).await?;
        }
        table.check_privileges(&mut session, !table.key.is_empty()).await?;
        if Slots::find(&mut session, &settings.slots_table).await?.is_none() {
            // Tried, and rolled back: a check changes nothing.
            session.batch(begin).await?;
            self.place.create_slots(&mut session).await?;
            session.batch("ROLLBACK").await?;
        }
        Ok(())
    }

    async fn open(&self, slot: &Slot) -> Result<Box<dyn SinkSlot>> {
        Ok(Box::new(PostgresSlot::new(Arc::clone(&self.place), slot.to_string())))
    }
}

impl Place {
    /// Returns the table that takes the rows.
    ///
    /// # Errors
    /// `NotFound`; others as [`Table::find`].
    pub(crate) async fn table(&self, session: &mut Session) -> Result<Table> {
        let PostgresSettings { table, key, .. } = &self.settings;
        let found = Table::find(session, table, key).await?;
        found.ok_or_else(|| Error::not_found("table does not exist").with("table", table))
    }

    /// Returns the table of slots, and creates it if it is absent.
    ///
    /// # Errors
    /// `NotFound` if it is absent and is not to be created; others from the server.
    pub(crate) async fn slots(&self, session: &mut Session) -> Result<Slots> {
        let name = &self.settings.slots_table;
        if let Some(found) = Slots::find(session, name).await? {
            return Ok(found);
        }
        session.batch(&self.begin).await?;
        self.create_slots(session).await?;
        session.batch("COMMIT").await?;
        let found = Slots::find(session, name).await?;
        found.ok_or_else(|| Error::not_found("table of slots does not exist").with("table", name))
    }

    async fn create_slots(&self, session: &mut Session) -> Result<()> {
        let name = &self.settings.slots_table;
        let named = |error: Error| error.with("table", name);
        if !self.settings.create_slots_table {
            return Err(named(Error::not_found("table of slots does not exist, and is not to be created")));
        }
        Slots::create(session, name).await.map_err(|error| {
            let outer = Error::new(error.kind(), "table of slots cannot be created");
            named(outer).with_source(error)
        })
    }
}

/// Returns how to connect.
fn connector(settings: &PostgresSettings) -> Result<Connector> {
    // The parser's own error may repeat a part of a password.
    let mut config: Config =
        settings.server.parse().map_err(|_| Error::config("the server's address cannot be parsed"))?;
    if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
        return Err(Error::config("the server's address names no host"));
    }
    if config.get_password().is_none()
        && let Some(password) = settings.password.clone().or_else(environment_password)
    {
        config.password(password);
    }
    if config.get_target_session_attrs() == TargetSessionAttrs::Any {
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
    }
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(CONNECT_TIMEOUT);
    }
    if config.get_tcp_user_timeout().is_none() {
        config.tcp_user_timeout(TCP_USER_TIMEOUT);
    }
    if config.get_application_name().is_none() {
        config.application_name("alluvium");
    }
    if cfg!(not(feature = "tls")) && config.get_ssl_mode() == SslMode::Require {
        return Err(Error::config("this build has no TLS: it needs the feature `tls`"));
    }
    Ok(Connector {
        config,
        #[cfg(feature = "tls")]
        tls: crate::tls::connector(settings.root_certificates.as_deref())?,
        patience: settings.answer_timeout,
    })
}

#[expect(clippy::disallowed_methods, reason = "where programs that use PostgreSQL look for the password")]
fn environment_password() -> Option<String> {
    std::env::var("PGPASSWORD").ok()
}

/// Returns the statements that begin a transaction. Its settings come with it, so that they also hold through a pool of connections.
///
/// A commit is on disk when it is acknowledged, whatever the server's default: the checkpoint will not have the records any more.
fn begin(settings: &PostgresSettings) -> Result<String> {
    let mut sql = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL TimeZone = 'UTC'; \
                   SET LOCAL DateStyle = 'ISO, YMD'; SELECT set_config('synchronous_commit', 'on', true) \
                   WHERE current_setting('synchronous_commit') = 'off'"
        .to_owned();
    for (name, value) in [
        ("idle_in_transaction_session_timeout", settings.idle_in_transaction_timeout),
        ("lock_timeout", settings.lock_timeout),
        ("statement_timeout", settings.statement_timeout),
    ] {
        // The server counts in milliseconds; 0 would mean no limit.
        let ms = i32::try_from(value.as_millis()).ok().filter(|ms| *ms > 0);
        let Some(ms) = ms else {
            let error = Error::config("timeout is not between 1 ms and 24 days").with("name", name);
            return Err(error.with("value", format_args!("{value:?}")));
        };
        sql.push_str(&format!("; SET LOCAL {name} = {ms}"));
    }
    Ok(sql)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alluvium::ErrorKind;

    #[test]
    fn secrets_are_not_shown() {
        let settings = PostgresSettings::new("postgresql://job:hunter2@h/db", "t");
        let settings = settings.with(|it| it.password = Some("hunter3".to_owned()));
        let target = PostgresTarget::new(settings.clone()).unwrap();
        for text in [format!("{settings:?}"), format!("{target:?}")] {
            assert!(!text.contains("hunter"), "{text}");
        }
        let bad = PostgresSettings::new("host=h password='hun ter2 hunter3=4", "t");
        let error = PostgresTarget::new(bad).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(!error.chain().contains("hun"), "{}", error.chain());
    }

    #[test]
    fn settings_that_cannot_hold_are_refused() {
        let made = |change: fn(&mut PostgresSettings)| {
            PostgresTarget::new(PostgresSettings::new("host=h user=u", "t").with(change)).map(drop)
        };
        made(|_| ()).unwrap();
        let bad: [fn(&mut PostgresSettings); 5] = [
            |it| it.key = vec!["a".to_owned(), "b".to_owned(), "a".to_owned()],
            |it| it.lock_timeout = Duration::ZERO,
            |it| it.idle_in_transaction_timeout = Duration::from_micros(999),
            |it| it.statement_timeout = Duration::MAX,
            |it| it.server = "user=u".to_owned(),
        ];
        for change in bad {
            assert_eq!(made(change).unwrap_err().kind(), ErrorKind::Config);
        }
    }
}
