//! Transactions that others hold.

use super::server::Settings as _;
use std::time::Duration;

use crate::*;

/// A zombie that stops inside its transaction holds the slot's row until the server ends its session.
#[tokio::test]
async fn a_transaction_that_stops_is_ended_by_the_server() {
    let Some(server) = Server::shared() else { return };
    server.run("CREATE TABLE stopped (n int)").await;
    let settings = server.settings("stopped").with(|it| it.idle_in_transaction_timeout = Duration::from_millis(200));
    let name = slot();
    let mut older = open(settings.clone(), &name).await;
    older.fence(FIRST).await.unwrap();
    let published = records([r#"{"n":1}"#]);
    let mut publishing = older.publish(marker(FIRST, 1), &published);
    wait_for_lock(server, &mut publishing, &name).await;
    // Nobody polls the publication any more.
    let mut newer = open(settings, &name).await;
    assert_eq!(newer.fence(SECOND).await.unwrap(), None);
    newer.publish(marker(SECOND, 1), &records([r#"{"n":2}"#])).await.unwrap();
    let error = refused(publishing.await, ErrorKind::Unavailable);
    assert_eq!(server.texts("SELECT n::text FROM stopped").await, ["2"], "{}", error.chain());
    refused(older.fence(FIRST).await, ErrorKind::Fenced);
}

/// Polls a publication until its transaction holds the slot's row.
async fn wait_for_lock(server: &Server, publishing: &mut (impl Future + Unpin), name: &Slot) {
    let client = server.client().await;
    loop {
        let once = std::future::poll_fn(|context| {
            assert!(std::pin::Pin::new(&mut *publishing).poll(context).is_pending(), "the publication has not stopped");
            std::task::Poll::Ready(())
        });
        once.await;
        let sql = "SELECT FROM alluvium_slots WHERE slot = $1 FOR UPDATE SKIP LOCKED";
        if client.query(sql, &[&name.to_string()]).await.unwrap().is_empty() {
            return;
        }
    }
}

/// A lock that another session keeps ends the wait, not the job.
#[tokio::test]
async fn a_lock_that_is_kept_makes_the_target_unavailable() {
    let Some(server) = Server::shared() else { return };
    server.run("CREATE TABLE kept (n int)").await;
    let settings = server.settings("kept").with(|it| it.lock_timeout = Duration::from_millis(100));
    let (mut slot, name) = fenced(settings).await;
    let holder = server.client().await;
    holder.batch_execute(&format!("BEGIN; SELECT FROM alluvium_slots WHERE slot = '{name}' FOR UPDATE")).await.unwrap();
    let error = refused(slot.publish(marker(FIRST, 1), &records([r#"{"n":1}"#])).await, ErrorKind::Unavailable);
    says(&error, &["55P03"]);
    assert_eq!(error.applied(), alluvium::Applied::No);
    says(&refused(slot.fence(FIRST).await, ErrorKind::Unavailable), &["55P03"]);
    holder.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(slot.fence(FIRST).await.unwrap(), None);
    slot.publish(marker(FIRST, 1), &records([r#"{"n":1}"#])).await.unwrap();
    assert_eq!(server.texts("SELECT n::text FROM kept").await, ["1"]);
}

/// A publication that is dropped while it waits for a lock leaves nothing behind that could take effect.
#[tokio::test]
async fn a_dropped_publication_that_waits_does_not_publish_later() {
    let Some(server) = Server::shared() else { return };
    server.run("CREATE TABLE waiting (k int PRIMARY KEY, n int); INSERT INTO waiting VALUES (1, 0)").await;
    let settings = server.settings("waiting").with(|it| it.key = vec!["k".to_owned()]);
    let (mut slot, name) = fenced(settings).await;
    let holder = server.client().await;
    holder.batch_execute("BEGIN; SELECT FROM waiting FOR UPDATE").await.unwrap();
    let published = records([r#"{"k":1,"n":1}"#]);
    let mut publishing = slot.publish(marker(FIRST, 1), &published);
    let blocked = "SELECT count(*)::text FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'INSERT INTO public.waiting%'";
    while server.texts(blocked).await != ["1"] {
        let poll = std::future::poll_fn(|context| {
            assert!(publishing.as_mut().poll(context).is_pending());
            std::task::Poll::Ready(())
        });
        poll.await;
    }
    drop(publishing);
    refused(slot.publish(marker(FIRST, 1), &published).await, ErrorKind::Usage);
    holder.batch_execute("COMMIT").await.unwrap();
    assert_eq!(slot.fence(FIRST).await.unwrap(), None);
    assert_eq!(server.texts("SELECT n::text FROM waiting").await, ["0"]);
    drop(name);
}
