//! TLS towards a dashboard, or the proxy in front of it.

use super::cli::Server;
use anyhow::{Context, ensure};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_rustls::TlsConnector;

/// Where systems keep the certificates that they trust.
const BUNDLES: &[&str] =
    &["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// Trusts what the options say, or the system; without either, nobody.
///
/// # Errors
/// A file that the options name cannot be used.
pub(super) fn connector(options: &Server) -> anyhow::Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    let given = options.ca_cert.clone().or_else(|| std::env::var_os("SSL_CERT_FILE").map(PathBuf::from));
    match given {
        Some(path) => {
            let certificates = certificates(&path)?;
            let (taken, _) = roots.add_parsable_certificates(certificates);
            ensure!(taken > 0, "{} holds no certificate to trust", path.display());
        }
        None => {
            let system = BUNDLES.iter().map(Path::new).find(|path| path.exists());
            if let Some(path) = system {
                roots.add_parsable_certificates(certificates(path)?);
            }
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("TLS cannot be set up")?
        .with_root_certificates(roots);
    let config = match (&options.client_cert, &options.client_key) {
        (Some(certificate), Some(key)) => {
            let loaded = PrivateKeyDer::from_pem_file(key).with_context(|| format!("no key in {}", key.display()))?;
            builder
                .with_client_auth_cert(certificates(certificate)?, loaded)
                .with_context(|| format!("{} and {} do not go together", certificate.display(), key.display()))?
        }
        _ => builder.with_no_client_auth(),
    };
    Ok(TlsConnector::from(Arc::new(config)))
}

fn certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    read.with_context(|| format!("no certificates in {}", path.display()))
}
