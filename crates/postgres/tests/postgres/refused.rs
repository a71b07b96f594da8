//! Records that the table cannot hold: named, without their values, and nothing is published.

use super::server::Settings as _;
use crate::*;

/// Publishes records among others that are good, in statements of few records; returns the refusal, which names the record.
async fn refusal(server: &Server, table: &str, key: &[&str], bad: &str, kind: ErrorKind) -> Error {
    let settings = server.settings(table).with(|it| {
        it.key = key.iter().map(|it| (*it).to_owned()).collect();
        it.statement_bytes_max = 200;
    });
    let (mut slot, name) = fenced(settings.clone()).await;
    let good = |n: u32| format!("{{\"k\":\"good{n}\",\"n\":{n}}}");
    let mut published: Vec<_> = (0..40).map(good).collect();
    published[17] = bad.to_owned();
    let before = server.texts(&format!("SELECT t::text FROM {table} t ORDER BY 1")).await;
    let error = refused(slot.publish(marker(FIRST, 1), &records(&published)).await, kind);
    says(&error, &["record=`17`"]);
    assert_eq!(error.applied(), alluvium::Applied::No);
    for value in ["secret", "71077345"] {
        assert!(!format!("{error:?}").contains(value), "{error:?}");
    }
    assert_eq!(server.texts(&format!("SELECT t::text FROM {table} t ORDER BY 1")).await, before);
    refused(slot.publish(marker(FIRST, 1), &records([good(1)])).await, ErrorKind::Usage);
    assert_eq!(slot.fence(FIRST).await.unwrap(), None, "nothing was published");
    drop(name);
    error
}

#[tokio::test]
async fn a_bad_record_is_named() {
    let Some(server) = Server::shared() else { return };
    server
        .run(
            "CREATE TABLE strict (k text PRIMARY KEY CHECK (k <> 'secret71077345'), n int NOT NULL, code varchar(8), day date);
             CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN IF new.n = 99 THEN RAISE 'no % please', new.k; END IF; RETURN new; END $$;
             CREATE TRIGGER refuse BEFORE INSERT ON strict FOR EACH ROW EXECUTE FUNCTION refuse();",
        )
        .await;
    let cases: [(&str, &[&str]); 9] = [
        (r#"{"k":"a","n":"secret"}"#, &["22P02", "column=`n`"]),
        (r#"{"k":"a","n":71077345000}"#, &["22003", "column=`n`"]),
        (r#"{"k":"a","n":1,"day":"secret"}"#, &["22007", "column=`day`"]),
        (r#"{"k":"a","n":1,"code":"secret71077345"}"#, &["22001", "column=`code`"]),
        (r#"{"k":"a","n":null}"#, &["23502", "column=`n`"]),
        (r#"{"k":"secret71077345","n":1}"#, &["23514", "constraint=`strict_k_check`"]),
        (r#"{"k":"secret\u0000","n":1}"#, &["22P05", "column=`k`"]),
        (r#"{"k":"secret","n":99}"#, &["P0001"]),
        (r#"{"k":"secret","n":1,"other":1}"#, &["field=`other`"]),
    ];
    for (bad, parts) in cases {
        says(&refusal(server, "strict", &["k"], bad, ErrorKind::Input).await, parts);
    }
    let long = format!("{{\"k\":\"{}\",\"n\":1}}", (0..2000).map(|_| format!("{:x}", random())).collect::<String>());
    says(&refusal(server, "strict", &["k"], &long, ErrorKind::Limit).await, &["54000"]);
}

#[tokio::test]
async fn a_conflict_within_a_publication_is_named_too() {
    let Some(server) = Server::shared() else { return };
    server.run("CREATE TABLE plain (k text UNIQUE, n int); INSERT INTO plain VALUES ('secret', 1)").await;
    for bad in [r#"{"k":"good3","n":1}"#, r#"{"k":"secret","n":1}"#] {
        let error = refusal(server, "plain", &[], bad, ErrorKind::Input).await;
        says(&error, &["23505", "constraint=`plain_k_key`"]);
    }
}

/// At the end of the transaction the server does not say which row.
#[tokio::test]
async fn a_constraint_that_is_checked_at_the_end_is_named() {
    let Some(server) = Server::shared() else { return };
    server
        .run(
            "CREATE TABLE parents (id int PRIMARY KEY);
             CREATE TABLE deferred (parent int REFERENCES parents INITIALLY DEFERRED)",
        )
        .await;
    let (mut slot, _) = fenced(server.settings("deferred")).await;
    let error = refused(slot.publish(marker(FIRST, 1), &records([r#"{"parent":71077345}"#])).await, ErrorKind::Input);
    says(&error, &["23503", "constraint=`deferred_parent_fkey`"]);
    assert!(!error.chain().contains("71077345"));
    assert_eq!(error.applied(), alluvium::Applied::No);
    assert_eq!(slot.fence(FIRST).await.unwrap(), None);
}
