//! Connecting to a cluster.

use std::path::Path;

use alluvium::{Error, Result};
use krafka::Kafka;
use krafka::auth::{AuthConfig, TlsConfig};

use crate::errors;
use crate::settings::{KafkaConnection, KafkaSasl, KafkaSaslMechanism, KafkaTls};

/// Checks what can be checked without a connection.
///
/// # Errors
/// `Config`.
pub(crate) fn check(connection: &KafkaConnection) -> Result<()> {
    let KafkaConnection { bootstrap_servers, connect_timeout, request_timeout, sasl, .. } = connection;
    if bootstrap_servers.trim().is_empty() {
        return Err(Error::config("no bootstrap servers are named"));
    }
    if request_timeout < connect_timeout {
        let error = Error::config("request timeout is shorter than the connect timeout");
        let error = error.with("request_timeout", format_args!("{request_timeout:?}"));
        return Err(error.with("connect_timeout", format_args!("{connect_timeout:?}")));
    }
    if sasl.as_ref().is_some_and(|sasl| sasl.user.is_empty() || sasl.password.is_empty()) {
        return Err(Error::config("SASL needs a user and a password"));
    }
    security(connection).map(drop)
}

/// Connects. Each call has connections of its own.
///
/// # Errors
/// `Unavailable`, `Denied` or `Config`.
pub(crate) async fn connect(connection: &KafkaConnection) -> Result<Kafka> {
    let KafkaConnection { bootstrap_servers, client_id, connect_timeout, request_timeout, .. } = connection;
    let mut builder = Kafka::builder(bootstrap_servers)
        .client_id(client_id)
        .connect_timeout(*connect_timeout)
        .request_timeout(*request_timeout);
    if let Some(security) = security(connection)? {
        builder = builder.security(security);
    }
    let failed = |error| errors::failed("cannot connect to Kafka", &error).with("servers", bootstrap_servers);
    builder.connect().await.map_err(failed)
}

fn security(connection: &KafkaConnection) -> Result<Option<AuthConfig>> {
    let tls = connection.tls.as_ref().map(tls).transpose()?;
    Ok(match (&connection.sasl, tls) {
        (None, None) => None,
        (None, Some(tls)) => Some(AuthConfig::ssl(tls)),
        (Some(user), None) => Some(sasl(user)),
        (Some(user), Some(tls)) => Some(sasl(user).with_tls(tls)),
    })
}

fn sasl(sasl: &KafkaSasl) -> AuthConfig {
    let KafkaSasl { mechanism, user, password } = sasl;
    match mechanism {
        KafkaSaslMechanism::Plain => AuthConfig::sasl_plain(user, password),
        KafkaSaslMechanism::ScramSha256 => AuthConfig::sasl_scram_sha256(user, password),
        KafkaSaslMechanism::ScramSha512 => AuthConfig::sasl_scram_sha512(user, password),
    }
}

fn tls(tls: &KafkaTls) -> Result<TlsConfig> {
    let config = match &tls.root_certificates {
        Some(path) => TlsConfig::new().with_ca_cert(text(path)?),
        None => TlsConfig::new().with_native_roots(),
    };
    Ok(match &tls.client_certificate {
        Some(own) => config.with_client_cert(text(&own.certificate)?, text(&own.key)?),
        None => config,
    })
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| Error::config("path of a certificate is not UTF-8").with("path", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alluvium::ErrorKind;
    use std::time::Duration;

    #[test]
    fn settings_that_cannot_hold_are_refused() {
        let sasl = |user: &str, password: &str| {
            let (user, password) = (user.to_owned(), password.to_owned());
            Some(KafkaSasl { mechanism: KafkaSaslMechanism::Plain, user, password })
        };
        let good = KafkaConnection::new("h:9092").with(|it| it.tls = Some(KafkaTls::default()));
        check(&good.clone().with(|it| it.sasl = sasl("user", "password"))).unwrap();
        let bad = [
            good.clone().with(|it| it.bootstrap_servers = " ".to_owned()),
            good.clone().with(|it| it.request_timeout = Duration::from_secs(9)),
            good.clone().with(|it| it.sasl = sasl("", "password")),
            good.with(|it| it.sasl = sasl("user", "")),
        ];
        for connection in bad {
            assert_eq!(check(&connection).unwrap_err().kind(), ErrorKind::Config, "{connection:?}");
        }
    }
}
