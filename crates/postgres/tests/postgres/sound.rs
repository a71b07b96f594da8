//! The laws of targets.

use super::server::Settings as _;
use std::time::Duration;

use alluvium::sink::conformance::{self, Harness};
use async_trait::async_trait;
use bytes::Bytes;

use crate::*;

/// How long the suite waits for each publication that it stops in its transaction.
const STOPPED: Duration = Duration::from_millis(100);

struct Rows {
    server: &'static Server,
    target: Arc<PostgresTarget>,
    table: &'static str,
    is_ordered: bool,
}

#[async_trait]
impl Harness for Rows {
    fn target(&self) -> Arc<dyn SinkTarget> {
        Arc::clone(&self.target) as _
    }

    fn record(&self, number: u64) -> Bytes {
        format!("{{\"number\":{number},\"text\":\"n{number}\"}}").into()
    }

    async fn read(&self) -> Result<Vec<u64>> {
        let order = if self.is_ordered { "place" } else { "number" };
        let sql = format!("SELECT number::text FROM {} WHERE text = 'n' || number ORDER BY {order}", self.table);
        Ok(self.server.texts(&sql).await.iter().map(|text| text.parse().unwrap()).collect())
    }

    fn is_ordered(&self) -> bool {
        self.is_ordered
    }

    fn random(&self) -> u128 {
        random()
    }
}

#[tokio::test]
async fn new_rows_keep_the_laws_of_targets() {
    let Some(server) = Server::shared() else { return };
    server.run("CREATE TABLE laws_plain (place bigserial, number bigint, text text)").await;
    let settings = server.settings("laws_plain").with(|it| {
        it.statement_bytes_max = 20_000;
        it.idle_in_transaction_timeout = STOPPED;
    });
    conformance::run(&Rows { server, target: target(settings), table: "laws_plain", is_ordered: true }).await;
}

#[tokio::test]
async fn replaced_rows_keep_the_laws_of_targets() {
    let Some(server) = Server::shared() else { return };
    server.run("CREATE TABLE laws_keyed (number bigint PRIMARY KEY, text text)").await;
    let settings = server.settings("laws_keyed").with(|it| {
        it.key = vec!["number".to_owned()];
        it.idle_in_transaction_timeout = STOPPED;
    });
    conformance::run(&Rows { server, target: target(settings), table: "laws_keyed", is_ordered: false }).await;
}
