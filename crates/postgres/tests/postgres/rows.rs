//! What records become.

use super::server::Settings as _;
use crate::*;

/// Publishes records of one epoch to `table`.
async fn publish(server: &Server, table: &str, key: &[&str], published: &[&str]) -> Result<()> {
    let settings = server.settings(table).with(|it| it.key = key.iter().map(|it| (*it).to_owned()).collect());
    let (mut slot, _) = fenced(settings).await;
    slot.publish(marker(FIRST, 1), &records(published)).await
}

#[tokio::test]
async fn the_last_record_of_a_key_stays_and_fields_that_it_lacks_are_kept() {
    let Some(server) = Server::shared() else { return };
    server
        .run(
            "CREATE TABLE upserts (\"the key\" text, part int, n int, note text DEFAULT 'none', seen int,
             UNIQUE (part, \"the key\"), CHECK (n < 100), made int GENERATED ALWAYS AS (n * 2) STORED);
             ALTER TABLE upserts ALTER COLUMN \"the key\" SET NOT NULL, ALTER COLUMN part SET NOT NULL;
             INSERT INTO upserts VALUES ('old', 1, 1, 'kept', 5)",
        )
        .await;
    let published = [
        r#"{"the key":"a","part":1,"n":1}"#,
        r#"{"the key":"old","part":1,"n":7}"#,
        r#"{"part":1,"n":2,"the key":"a"}"#,
        r#"{"the key":"a","part":2,"n":3}"#,
        r#"{"the key":"a","part":2,"note":"later"}"#,
        r#"{"the key":"b","part":1}"#,
        r#"{"the key":"b","part":1}"#,
        r#"{"the key":"c","part":1,"n":4,"note":null}"#,
    ];
    publish(server, "upserts", &["the key", "part"], &published).await.unwrap();
    let rows = server.texts("SELECT row(u.*)::text FROM upserts u ORDER BY \"the key\", part").await;
    assert_eq!(rows, ["(a,1,2,none,,4)", "(a,2,3,later,,6)", "(b,1,,none,,)", "(c,1,4,,,8)", "(old,1,7,kept,5,14)"]);
}

#[tokio::test]
async fn values_keep_their_types() {
    let Some(server) = Server::shared() else { return };
    server
        .run(
            "CREATE SCHEMA \"My Schema\"; CREATE TYPE \"My Schema\".mood AS ENUM ('glad');
             CREATE TABLE \"My Schema\".\"Odd \"\"Table\" (place serial, big numeric, real float8, flag bool, day timestamptz,
             list int[], doc jsonb, code varchar(3), mood \"My Schema\".mood, bytes bytea, id uuid)",
        )
        .await;
    let record = r#"{"big":123456789012345678901234567890.5,"real":0.1,"flag":true,"day":"2024-03-01 12:00:00",
        "list":[1,null],"doc":{"a":[1,"x"]},"code":"abc","mood":"glad","bytes":"\\x00ff","id":"00000000-0000-0000-0000-000000000001"}"#;
    publish(server, "\"My Schema\".\"Odd \"\"Table\"", &[], &[record, record]).await.unwrap();
    let rows = server
        .texts(
            "SELECT row(place, big, real, flag, extract(epoch FROM day)::bigint, list, doc, code, mood, bytes)::text
             FROM \"My Schema\".\"Odd \"\"Table\" ORDER BY place",
        )
        .await;
    let rest =
        r#"123456789012345678901234567890.5,0.1,t,1709294400,"{1,NULL}","{""a"": [1, ""x""]}",abc,glad,"\\x00ff")"#;
    assert_eq!(rows, [format!("(1,{rest}"), format!("(2,{rest}")]);
}

#[tokio::test]
async fn a_publication_does_not_depend_on_the_defaults_of_the_role() {
    let Some(server) = Server::shared() else { return };
    server
        .run(
            "CREATE ROLE odd LOGIN SUPERUSER; ALTER ROLE odd SET synchronous_commit = off; ALTER ROLE odd SET TimeZone = 'Asia/Tokyo';
             ALTER ROLE odd SET default_transaction_isolation = serializable; ALTER ROLE odd SET DateStyle = 'German';
             CREATE TABLE defaults (n int, day timestamptz, synchronous text DEFAULT current_setting('synchronous_commit'),
             isolation text DEFAULT current_setting('transaction_isolation'),
             idle text DEFAULT current_setting('idle_in_transaction_session_timeout'))",
        )
        .await;
    let settings = server.settings("defaults").with(|it| it.server = it.server.replace("user=postgres", "user=odd"));
    let (mut slot, _) = fenced(settings).await;
    slot.publish(marker(FIRST, 1), &records([r#"{"n":1,"day":"2024-03-01 12:00:00"}"#])).await.unwrap();
    let sql = "SELECT row(n, extract(epoch FROM day)::bigint, synchronous, isolation, idle)::text FROM defaults";
    assert_eq!(server.texts(sql).await, ["(1,1709294400,on,\"read committed\",10s)"]);
}

/// Rows are locked in the order of keys: without that, writers of the same keys would end in deadlocks.
#[tokio::test]
async fn slots_that_replace_the_same_rows_do_not_block_each_other_for_ever() {
    let Some(server) = Server::shared() else { return };
    server.run("CREATE TABLE contended (k int PRIMARY KEY, n int)").await;
    let settings = server.settings("contended").with(|it| it.key = vec!["k".to_owned()]);
    let mut writers = Vec::new();
    for writer in 0..4 {
        let (mut slot, _) = fenced(settings.clone()).await;
        writers.push(tokio::spawn(async move {
            for epoch in 1..=10 {
                let keys: Vec<_> = if writer % 2 == 0 { (0..2000).collect() } else { (0..2000).rev().collect() };
                let rows = records(keys.iter().map(|k| format!("{{\"k\":{k},\"n\":{epoch}}}")));
                slot.publish(marker(FIRST, epoch), &rows).await.unwrap();
            }
        }));
    }
    for writer in writers {
        writer.await.unwrap();
    }
    assert_eq!(server.texts("SELECT count(*)::text FROM contended WHERE n = 10").await, ["2000"]);
}
