//! Targets that cannot take output, and say so when they are checked.

use super::server::Settings as _;
use std::time::Duration;

use crate::*;

async fn check(settings: PostgresSettings) -> Result<()> {
    target(settings).check().await
}

fn keyed(settings: PostgresSettings, key: &[&str]) -> PostgresSettings {
    settings.with(|it| it.key = key.iter().map(|it| (*it).to_owned()).collect())
}

#[tokio::test]
async fn a_table_that_does_not_fit_is_named() {
    let Some(server) = Server::shared() else { return };
    server
        .run(
            "CREATE TABLE fits (a int NOT NULL, b int NOT NULL, c int NOT NULL, d int UNIQUE, e int NOT NULL,
             f int NOT NULL UNIQUE DEFERRABLE, UNIQUE (b, a) INCLUDE (c));
             CREATE UNIQUE INDEX ON fits (c) WHERE c > 0; CREATE UNIQUE INDEX ON fits (abs(e));
             CREATE VIEW seen AS SELECT * FROM fits; CREATE UNLOGGED TABLE quick (a int)",
        )
        .await;
    for fit in [&["a", "b"][..], &["b", "a"], &[]] {
        check(keyed(server.settings("fits"), fit)).await.unwrap();
    }
    check(server.settings("public.fits")).await.unwrap();
    for unfit in [&["a"][..], &["b"], &["a", "b", "c"], &["c"], &["d"], &["e"], &["f"], &["x"]] {
        let error = refused(check(keyed(server.settings("fits"), unfit)).await, ErrorKind::Config);
        says(&error, &["fits"]);
    }
    let tables = [
        ("absent", ErrorKind::NotFound),
        ("nowhere.fits", ErrorKind::NotFound),
        ("seen", ErrorKind::Config),
        ("quick", ErrorKind::Config),
        ("a b; DROP TABLE fits", ErrorKind::Config),
        ("", ErrorKind::Config),
    ];
    for (table, kind) in tables {
        let error = refused(check(server.settings(table)).await, kind);
        says(&error, &[&format!("table=`{table}`")]);
        let mut slot = open(server.settings(table), &slot()).await;
        refused(slot.fence(FIRST).await, kind);
    }
}

#[tokio::test]
async fn a_missing_permission_is_named() {
    let Some(server) = Server::shared() else { return };
    server
        .run(
            "CREATE ROLE guest LOGIN; CREATE SCHEMA guarded; CREATE TABLE guarded.t (k int PRIMARY KEY, n int);
             CREATE SCHEMA own AUTHORIZATION guest",
        )
        .await;
    let settings = keyed(server.settings("guarded.t"), &["k"]).with(|it| {
        it.server = it.server.replace("user=postgres", "user=guest");
        it.slots_table = "own.slots".to_owned();
    });
    refused(check(settings.clone()).await, ErrorKind::Denied);
    let grants = ["USAGE ON SCHEMA guarded", "SELECT ON guarded.t", "INSERT ON guarded.t", "UPDATE (n) ON guarded.t"];
    for grant in grants {
        says(&refused(check(settings.clone()).await, ErrorKind::Denied), &["guarded"]);
        server.run(&format!("GRANT {grant} TO guest")).await;
    }
    check(settings.clone()).await.unwrap();
    let elsewhere = settings.clone().with(|it| it.slots_table = "guarded.slots".to_owned());
    says(&refused(check(elsewhere.clone()).await, ErrorKind::Denied), &["guarded.slots"]);
    refused(open(elsewhere, &slot()).await.fence(FIRST).await, ErrorKind::Denied);

    let (mut slot, _) = fenced(settings.clone()).await;
    slot.publish(marker(FIRST, 1), &records([r#"{"k":1,"n":1}"#])).await.unwrap();
    server.run("REVOKE INSERT ON guarded.t FROM guest").await;
    refused(slot.publish(marker(FIRST, 2), &records([r#"{"k":2,"n":2}"#])).await, ErrorKind::Denied);
    server.run("GRANT INSERT ON guarded.t TO guest; REVOKE UPDATE ON own.slots FROM guest").await;
    says(&refused(check(settings).await, ErrorKind::Denied), &["own.slots", "UPDATE"]);
}

#[tokio::test]
async fn the_table_of_slots_is_created_when_it_is_first_needed() {
    let Some(server) = Server::shared() else { return };
    server
        .run("CREATE TABLE slotted (n int); CREATE SCHEMA \"S\"; CREATE TABLE odd_slots (slot text PRIMARY KEY)")
        .await;
    let settings = server.settings("slotted").with(|it| it.slots_table = "\"S\".\"the slots\"".to_owned());
    check(settings.clone()).await.unwrap();
    let exists = "SELECT to_regclass('\"S\".\"the slots\"')::text";
    assert_eq!(server.texts(exists).await, ["null"], "a check changes nothing");
    let forbidden = settings.clone().with(|it| it.create_slots_table = false);
    refused(check(forbidden.clone()).await, ErrorKind::NotFound);
    refused(open(forbidden.clone(), &slot()).await.fence(FIRST).await, ErrorKind::NotFound);
    let opening: Vec<_> = (0..8).map(|_| tokio::spawn(fenced(settings.clone()))).collect();
    for opened in opening {
        opened.await.unwrap();
    }
    check(forbidden).await.unwrap();
    let odd = settings.with(|it| it.slots_table = "odd_slots".to_owned());
    says(&refused(check(odd).await, ErrorKind::Config), &["odd_slots", "missing=`attempt`"]);
}

#[tokio::test]
async fn a_server_that_is_away_or_silent_is_unavailable() {
    let Some(server) = Server::shared() else { return };
    let folder = tempfile::tempdir().unwrap();
    let at = |path: &std::path::Path| PostgresSettings::new(format!("host={} user=postgres", path.display()), "t");
    let away = at(folder.path());
    refused(check(away.clone()).await, ErrorKind::Unavailable);
    refused(open(away.clone(), &slot()).await.fence(FIRST).await, ErrorKind::Unavailable);
    // It accepts connections, as a process that is stopped does, and says nothing.
    let _silent = std::os::unix::net::UnixListener::bind(folder.path().join(".s.PGSQL.5432")).unwrap();
    let silent = away.with(|it| it.answer_timeout = Duration::from_millis(50));
    says(&refused(check(silent).await, ErrorKind::Unavailable), &["does not answer"]);

    let absent = server.settings("t").with(|it| it.server = it.server.replace("dbname=postgres", "dbname=nowhere"));
    refused(check(absent).await, ErrorKind::NotFound);
    let stranger = server.settings("t").with(|it| it.server = it.server.replace("user=postgres", "user=stranger"));
    refused(check(stranger).await, ErrorKind::Denied);
}
