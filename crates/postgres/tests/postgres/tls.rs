//! Encrypted connections.

use std::net::TcpListener;
use std::process::Command;

use crate::*;

/// Makes a certificate for 127.0.0.1 that signs itself, and its key; returns their text.
fn certificate() -> (String, String) {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=test", "-days", "3"]);
    openssl.args(["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"]);
    let made = openssl.arg("-keyout").arg(at("key")).arg("-out").arg(at("certificate")).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    (std::fs::read_to_string(at("certificate")).unwrap(), std::fs::read_to_string(at("key")).unwrap())
}

#[tokio::test]
async fn a_certificate_is_verified() {
    if Command::new("openssl").arg("version").output().is_err() {
        eprintln!("NOT TESTED: encrypted connections, as openssl is not installed");
        return;
    }
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let Some(server) = Server::start(&["-h", "127.0.0.1", "-p", &port]) else { return };
    let tcp = |mode: &str| format!("host=127.0.0.1 port={port} user=postgres dbname=postgres sslmode={mode}");
    let at = |mode: &str| PostgresSettings::new(tcp(mode), "encrypted");
    let over_socket = server.address().replace("user", &format!("port={port} user"));
    let (client, connection) = tokio_postgres::connect(&over_socket, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let run = async |sql: &str| client.batch_execute(sql).await.unwrap();
    run("CREATE FUNCTION encrypted() RETURNS bool LANGUAGE sql AS 'SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()'").await;
    run("CREATE TABLE encrypted (n int, encrypted bool DEFAULT encrypted())").await;
    refused(target(at("require")).check().await, ErrorKind::Config);
    target(at("prefer")).check().await.unwrap();

    let (certificate, key) = certificate();
    server.write("server.crt", &certificate);
    server.write("server.key", &key);
    run("ALTER SYSTEM SET ssl = on").await;
    run("SELECT pg_reload_conf()").await;
    // A session from before the reload does not tell when it has happened: one that is not encrypted any more does.
    let roots = server.folder().join("data/server.crt");
    let trusting = at("require").with(|it| it.root_certificates = Some(roots.clone()));
    while let Err(error) = target(trusting.clone()).check().await {
        assert!(error.chain().contains("does not support TLS"), "{}", error.chain());
    }
    let (mut slot, _) = fenced(trusting).await;
    slot.publish(marker(FIRST, 1), &records([r#"{"n":1}"#])).await.unwrap();
    let row = client.query_one("SELECT encrypted FROM encrypted", &[]).await.unwrap();
    assert!(row.get::<_, bool>(0));
    for mode in ["require", "prefer"] {
        says(&refused(target(at(mode)).check().await, ErrorKind::Config), &["certificate"]);
    }
    let misnamed = at("require").with(|it| {
        it.root_certificates = Some(roots.clone());
        it.server = it.server.replace("host=127.0.0.1", "host=localhost hostaddr=127.0.0.1");
    });
    says(&refused(target(misnamed).check().await, ErrorKind::Config), &["certificate"]);
    let empty = at("require").with(|it| it.root_certificates = Some("/dev/null".into()));
    refused(PostgresTarget::new(empty).map(drop), ErrorKind::Config);
}
