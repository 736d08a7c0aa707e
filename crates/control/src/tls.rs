//! TLS of the dashboard's listeners. Certificate, key and authorities are files, which are read again and again, so that one that is
//! renewed in its place is shown without a restart.
//!
//! What must stay true: files that cannot be used change nothing; what was read of them last stays in use, and the log says why.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use milecastle_settings::ListenTls;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::time::{MissedTickBehavior, interval};
use tokio_rustls::TlsAcceptor;

/// HTTP/1.1, all that these listeners speak (RFC 7301).
const ALPN: &[u8] = b"http/1.1";

/// Why TLS cannot be spoken.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{} cannot be read ({key}): {source}", path.display())]
    File {
        /// The key of the configuration.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// What a file holds is not what it should.
    #[error("{} holds no {what} in PEM ({key})", path.display())]
    Content {
        /// The key of the configuration.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is missing.
        what: &'static str,
    },
    /// They do not go together.
    #[error("tls.cert_file and tls.key_file do not go together, or tls.client_ca_file names no authority: {0}")]
    Unfit(String),
}

/// TLS as it is spoken on new connections. Cheap to clone, and the same for all clones.
#[derive(Clone)]
pub(crate) struct Tls {
    files: Arc<Files>,
    current: Arc<RwLock<Current>>,
}

/// The files, by the keys that name them.
struct Files {
    certificate: PathBuf,
    key: PathBuf,
    authorities: Option<PathBuf>,
}

#[derive(Clone)]
struct Current {
    read: Texts,
    config: Arc<ServerConfig>,
}

/// What the files hold.
#[derive(Clone, PartialEq, Eq)]
struct Texts {
    certificate: Vec<u8>,
    key: Vec<u8>,
    authorities: Option<Vec<u8>>,
}

impl Tls {
    /// As the settings have it; `None`: plain HTTP.
    ///
    /// # Errors
    /// Files that cannot be used.
    pub(crate) fn load(settings: &ListenTls) -> Result<Option<Self>, TlsError> {
        let (Some(certificate), Some(key)) = (settings.cert_file.clone(), settings.key_file.clone()) else {
            return Ok(None);
        };
        let files = Files { certificate, key, authorities: settings.client_ca_file.clone() };
        let read = files.read()?;
        let config = files.config(&read)?;
        Ok(Some(Self { files: Arc::new(files), current: Arc::new(RwLock::new(Current { read, config })) }))
    }

    /// For a connection that begins now.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        self.current.read().unwrap_or_else(PoisonError::into_inner).config.clone().into()
    }

    /// Reads the files once in each such time, for ever.
    pub(crate) async fn keep_current(self, settings: ListenTls) {
        let mut tick = interval(settings.reload.get());
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            match self.reload() {
                Ok(false) => {}
                Ok(true) => tracing::info!("the certificate of the dashboard's listeners is another one"),
                Err(error) => tracing::error!(%error, "the certificate read before stays in use: mend the files"),
            }
        }
    }

    /// Whether what the files hold has changed, and is in use from now on.
    fn reload(&self) -> Result<bool, TlsError> {
        let read = self.files.read()?;
        if read == self.current.read().unwrap_or_else(PoisonError::into_inner).read {
            return Ok(false);
        }
        let config = self.files.config(&read)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Current { read, config };
        Ok(true)
    }
}

impl Files {
    fn read(&self) -> Result<Texts, TlsError> {
        let text =
            |key, path: &Path| fs::read(path).map_err(|source| TlsError::File { key, path: path.to_owned(), source });
        Ok(Texts {
            certificate: text("tls.cert_file", &self.certificate)?,
            key: text("tls.key_file", &self.key)?,
            authorities: self.authorities.as_ref().map(|path| text("tls.client_ca_file", path)).transpose()?,
        })
    }

    fn config(&self, read: &Texts) -> Result<Arc<ServerConfig>, TlsError> {
        let unfit = |error: &dyn std::fmt::Display| TlsError::Unfit(error.to_string());
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| unfit(&error))?;
        let builder = match (&read.authorities, &self.authorities) {
            (Some(text), Some(path)) => {
                let mut roots = RootCertStore::empty();
                for authority in certificates("tls.client_ca_file", path, text)? {
                    roots.add(authority).map_err(|error| unfit(&error))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
                builder.with_client_cert_verifier(verifier.map_err(|error| unfit(&error))?)
            }
            _ => builder.with_no_client_auth(),
        };
        let chain = certificates("tls.cert_file", &self.certificate, &read.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&read.key).map_err(|_| {
            let (key, path) = ("tls.key_file", self.key.clone());
            TlsError::Content { key, path, what: "private key" }
        })?;
        let mut config = builder.with_single_cert(chain, key).map_err(|error| unfit(&error))?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Arc::new(config))
    }
}

fn certificates(key: &'static str, path: &Path, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    let found = all.ok().filter(|all| !all.is_empty());
    found.ok_or_else(|| TlsError::Content { key, path: path.to_owned(), what: "certificate" })
}
