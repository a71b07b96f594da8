//! Encrypted connections. The server's certificate and name are always verified.

use std::path::Path;
use std::sync::Arc;

use alluvium::{Error, Result};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use tokio_postgres_rustls::MakeRustlsConnect;

/// Returns what makes connections encrypted.
///
/// * `roots`: file with the authorities to trust; the system's without one.
///
/// # Errors
/// `Config`.
pub(crate) fn connector(roots: Option<&Path>) -> Result<MakeRustlsConnect> {
    let mut trusted = RootCertStore::empty();
    match roots {
        // A system without authorities trusts no server: connecting says so.
        None => drop(trusted.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
        Some(path) => {
            let named = |error: Error| error.with("path", path.display());
            let bad = || named(Error::config("file of root certificates cannot be used"));
            let found = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
            let found = found.map_err(|error| bad().with_source(error))?;
            if found.is_empty() {
                return Err(named(Error::config("file has no certificate in PEM")));
            }
            for certificate in found {
                trusted.add(certificate).map_err(|error| bad().with_source(error))?;
            }
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let versions = versions.map_err(|error| Error::config("TLS cannot be set up").with_source(error))?;
    Ok(MakeRustlsConnect::new(versions.with_root_certificates(trusted).with_no_client_auth()))
}
