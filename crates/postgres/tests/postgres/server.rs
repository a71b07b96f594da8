//! The server of these tests, and the settings that lead to it.

use alluvium_postgres::PostgresSettings;
pub(crate) use alluvium_testkit::postgres::Server;

pub(crate) trait Settings {
    fn settings(&self, table: &str) -> PostgresSettings;
}

impl Settings for Server {
    fn settings(&self, table: &str) -> PostgresSettings {
        PostgresSettings::new(self.address(), table)
    }
}
