//! A table that changes while a job runs.

use super::server::Settings as _;
use crate::*;

#[tokio::test]
async fn a_new_column_is_found_when_a_record_has_it() {
    let Some(server) = Server::shared() else { return };
    server.run("CREATE TABLE widened (n int)").await;
    let (mut slot, _) = fenced(server.settings("widened")).await;
    slot.publish(marker(FIRST, 1), &records([r#"{"n":1}"#])).await.unwrap();
    server.run("ALTER TABLE widened ADD COLUMN m int").await;
    slot.publish(marker(FIRST, 2), &records([r#"{"n":2,"m":2}"#])).await.unwrap();
    assert_eq!(server.texts("SELECT t::text FROM widened t ORDER BY n").await, ["(1,)", "(2,2)"]);
}

#[tokio::test]
async fn a_lost_column_key_or_table_is_a_refusal() {
    let Some(server) = Server::shared() else { return };
    let cases = [
        ("narrowed", "ALTER TABLE narrowed DROP COLUMN n", ErrorKind::Config),
        ("retyped", "ALTER TABLE retyped ALTER COLUMN n TYPE date USING NULL", ErrorKind::Config),
        ("unkeyed", "ALTER TABLE unkeyed DROP CONSTRAINT unkeyed_pkey", ErrorKind::Config),
        ("dropped", "DROP TABLE dropped", ErrorKind::NotFound),
    ];
    for (table, change, kind) in cases {
        server.run(&format!("CREATE TABLE {table} (k int PRIMARY KEY, n int)")).await;
        let (mut slot, name) = fenced(server.settings(table).with(|it| it.key = vec!["k".to_owned()])).await;
        slot.publish(marker(FIRST, 1), &records([r#"{"k":1,"n":1}"#])).await.unwrap();
        server.run(change).await;
        let error = refused(slot.publish(marker(FIRST, 2), &records([r#"{"k":2,"n":2}"#])).await, kind);
        assert_eq!(error.applied(), alluvium::Applied::No);
        let sql = format!("SELECT epoch::text FROM alluvium_slots WHERE slot = '{name}'");
        assert_eq!(server.texts(&sql).await, ["1"], "{table}");
    }
}

#[tokio::test]
async fn a_damaged_marker_is_refused() {
    let Some(server) = Server::shared() else { return };
    server.run("CREATE TABLE marked (n int)").await;
    let (mut slot, name) = fenced(server.settings("marked")).await;
    slot.publish(marker(FIRST, 1), &Records::default()).await.unwrap();
    server.run(&format!("UPDATE alluvium_slots SET lineage = 'x' WHERE slot = '{name}'")).await;
    refused(slot.fence(FIRST).await, ErrorKind::Corrupt);
}

/// As an operator does who cleans up too much: a call from before does not bring the row back.
#[tokio::test]
async fn a_slot_whose_row_is_gone_publishes_nothing() {
    let Some(server) = Server::shared() else { return };
    server.run("CREATE TABLE swept (n int)").await;
    let (mut slot, name) = fenced(server.settings("swept")).await;
    slot.publish(marker(FIRST, 1), &Records::default()).await.unwrap();
    server.run(&format!("DELETE FROM alluvium_slots WHERE slot = '{name}'")).await;
    refused(slot.publish(marker(FIRST, 2), &records([r#"{"n":1}"#])).await, ErrorKind::Unavailable);
    assert_eq!(slot.fence(FIRST).await.unwrap(), None);
    assert!(server.texts("SELECT n::text FROM swept").await.is_empty());
}
