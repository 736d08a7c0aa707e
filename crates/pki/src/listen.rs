//! TLS of listeners that are not between nodes and control plane: dashboard, probes, and what a node serves beside its traffic. Nothing
//! of the cluster's authority counts here. Certificate, key and authorities are files, which are read again and again, so that one that
//! is renewed in its place is shown without a restart.
//!
//! What must stay true:
//! - Files that cannot be used change nothing; what was read of them last stays in use, and the log says why.
//! - Where clients must show certificates, each connection shows one that is valid now: no session is resumed.
//! - When the first of the certificates in use ends is a metric, and a warning in time.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use milecastle_settings::ListenTls;
use milecastle_telemetry::metrics::{Family, Gauge, Handle, MetricError, Options, Registry};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};
use tokio_rustls::TlsAcceptor;

use crate::public::chain_ends;

/// HTTP/1.1, all that these listeners speak (RFC 7301).
const ALPN: &[u8] = b"http/1.1";

/// How often the log says that a certificate ends soon.
const DAY: Duration = Duration::from_secs(86_400);

/// The family of the ends of certificates of listeners, for those who want to know what metrics there are.
///
/// # Errors
/// A metric of the same name is another one.
pub fn register_listener_metrics(metrics: &Registry) -> Result<Family<Gauge>, MetricError> {
    metrics.gauge(
        "listener_certificate_end_timestamp_seconds",
        "When the first certificate of a listener's files ends, those of authorities included, by the section that names them",
        &["section"],
        Options::default(),
    )
}

/// Why TLS cannot be spoken. `section` is that of the configuration which names the files.
#[derive(Debug, thiserror::Error)]
pub enum ListenTlsError {
    /// A file cannot be read.
    #[error("{} cannot be read ({section}.{key}): {source}", path.display())]
    File {
        /// The section.
        section: &'static str,
        /// The key in it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// What a file holds is not what it should.
    #[error("{} holds no {what} in PEM ({section}.{key})", path.display())]
    Content {
        /// The section.
        section: &'static str,
        /// The key in it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is missing.
        what: &'static str,
    },
    /// They do not go together.
    #[error(
        "{section}.cert_file and {section}.key_file do not go together, or {section}.client_ca_file names no authority: {why}"
    )]
    Unfit {
        /// The section.
        section: &'static str,
        /// What is wrong with them.
        why: String,
    },
    /// The metric of their end.
    #[error(transparent)]
    Metric(#[from] MetricError),
}

/// TLS as it is spoken on new connections. Cheap to clone, and the same for all clones; the files are looked at until the last one is
/// dropped.
#[derive(Clone)]
pub struct ListenerTls {
    current: Arc<RwLock<Current>>,
    _renewal: Arc<Renewal>,
}

/// The task that looks at the files.
struct Renewal(JoinHandle<()>);

/// The files, by the keys that name them.
struct Files {
    section: &'static str,
    certificate: PathBuf,
    key: PathBuf,
    authorities: Option<PathBuf>,
}

/// Tells when the first certificate ends.
struct Notice {
    section: &'static str,
    end: Handle<Gauge>,
    /// How long before the log says so.
    within: Duration,
    /// When it last did.
    told: Option<SystemTime>,
}

struct Current {
    read: Texts,
    config: Arc<ServerConfig>,
}

/// What the files hold.
#[derive(PartialEq, Eq)]
struct Texts {
    certificate: Vec<u8>,
    key: Vec<u8>,
    authorities: Option<Vec<u8>>,
}

impl ListenerTls {
    /// As this section of the settings has it; `None`: plain HTTP. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// Files that cannot be used, a metric of the same name that is another one.
    pub fn load(
        section: &'static str,
        settings: &ListenTls,
        metrics: &Registry,
    ) -> Result<Option<Self>, ListenTlsError> {
        let ends = register_listener_metrics(metrics)?;
        let (Some(certificate), Some(key)) = (settings.cert_file.clone(), settings.key_file.clone()) else {
            return Ok(None);
        };
        let files = Files { section, certificate, key, authorities: settings.client_ca_file.clone() };
        let read = files.read()?;
        let config = files.config(&read)?;
        let mut notice = Notice { section, end: ends.with(&[section]), within: settings.warn_within.get(), told: None };
        notice.look(read.end(), SystemTime::now());
        let current = Arc::new(RwLock::new(Current { read, config }));
        let renewal = tokio::spawn(keep_current(files, current.clone(), settings.reload.get(), notice));
        Ok(Some(Self { current, _renewal: Arc::new(Renewal(renewal)) }))
    }

    /// For a connection that begins now.
    pub fn acceptor(&self) -> TlsAcceptor {
        self.current.read().unwrap_or_else(PoisonError::into_inner).config.clone().into()
    }
}

impl Drop for Renewal {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Reads the files once in each such time, for ever.
async fn keep_current(files: Files, current: Arc<RwLock<Current>>, every: Duration, mut notice: Notice) {
    let mut tick = interval(every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let section = files.section;
    loop {
        tick.tick().await;
        match files.reload(&current) {
            Ok(false) => {}
            Ok(true) => tracing::info!(section, "the certificate of a listener is another one"),
            Err(error) => tracing::error!(%error, "the certificate read before stays in use: mend the files"),
        }
        let end = current.read().unwrap_or_else(PoisonError::into_inner).read.end();
        notice.look(end, SystemTime::now());
    }
}

impl Texts {
    /// When the first of the certificates ends, those of authorities included.
    fn end(&self) -> Option<SystemTime> {
        let texts = [Some(&self.certificate), self.authorities.as_ref()];
        texts.into_iter().flatten().filter_map(|text| chain_ends(std::str::from_utf8(text).ok()?)).min()
    }
}

impl Notice {
    /// Shows this end, and says in the log if it is near.
    fn look(&mut self, end: Option<SystemTime>, now: SystemTime) {
        let Some(end) = end else { return };
        self.end.set(end.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64());
        if self.is_due(end, now) {
            let days = end.duration_since(now).unwrap_or_default().as_secs() / DAY.as_secs();
            let section = self.section;
            tracing::warn!(section, days, "a certificate of a listener ends soon, or has ended: renew it in its file");
        }
    }

    /// Whether the log is to say something now: as soon as the end is near, and then once a day.
    fn is_due(&mut self, end: SystemTime, now: SystemTime) -> bool {
        let near = end.duration_since(now).unwrap_or_default() <= self.within;
        let told = self.told.filter(|told| near && now.duration_since(*told).is_ok_and(|since| since < DAY));
        self.told = told.or(near.then_some(now));
        near && told.is_none()
    }
}

impl Files {
    /// Whether what the files hold has changed, and is in use from now on.
    fn reload(&self, current: &RwLock<Current>) -> Result<bool, ListenTlsError> {
        let read = self.read()?;
        if read == current.read().unwrap_or_else(PoisonError::into_inner).read {
            return Ok(false);
        }
        let config = self.config(&read)?;
        *current.write().unwrap_or_else(PoisonError::into_inner) = Current { read, config };
        Ok(true)
    }

    fn read(&self) -> Result<Texts, ListenTlsError> {
        let section = self.section;
        let text = |key, path: &Path| {
            fs::read(path).map_err(|source| ListenTlsError::File { section, key, path: path.to_owned(), source })
        };
        Ok(Texts {
            certificate: text("cert_file", &self.certificate)?,
            key: text("key_file", &self.key)?,
            authorities: self.authorities.as_ref().map(|path| text("client_ca_file", path)).transpose()?,
        })
    }

    fn config(&self, read: &Texts) -> Result<Arc<ServerConfig>, ListenTlsError> {
        let section = self.section;
        let unfit = |error: &dyn std::fmt::Display| ListenTlsError::Unfit { section, why: error.to_string() };
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| unfit(&error))?;
        let builder = match (&read.authorities, &self.authorities) {
            (Some(text), Some(path)) => {
                let mut roots = RootCertStore::empty();
                for authority in self.certificates("client_ca_file", path, text)? {
                    roots.add(authority).map_err(|error| unfit(&error))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
                builder.with_client_cert_verifier(verifier.map_err(|error| unfit(&error))?)
            }
            _ => builder.with_no_client_auth(),
        };
        let chain = self.certificates("cert_file", &self.certificate, &read.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&read.key).map_err(|_| {
            let (key, path) = ("key_file", self.key.clone());
            ListenTlsError::Content { section, key, path, what: "private key" }
        })?;
        let mut config = builder.with_single_cert(chain, key).map_err(|error| unfit(&error))?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        if read.authorities.is_some() {
            // A resumed session would not look at the client's certificate again.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        Ok(Arc::new(config))
    }

    fn certificates(
        &self,
        key: &'static str,
        path: &Path,
        text: &[u8],
    ) -> Result<Vec<CertificateDer<'static>>, ListenTlsError> {
        let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
        let found = all.ok().filter(|all| !all.is_empty());
        let (section, path, what) = (self.section, path.to_owned(), "certificate");
        found.ok_or(ListenTlsError::Content { section, key, path, what })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_says_once_a_day_that_the_end_is_near() {
        let end = register_listener_metrics(&Registry::default()).unwrap().with(&["tls"]);
        let mut notice = Notice { section: "tls", end, within: 30 * DAY, told: None };
        let ends = UNIX_EPOCH + 100 * DAY;
        let mut due =
            |ends: SystemTime, hours: u64| notice.is_due(ends, UNIX_EPOCH + Duration::from_secs(hours * 3600));
        assert!(!due(ends, 69 * 24));
        assert!(due(ends, 70 * 24), "30 days before");
        assert!(!due(ends, 70 * 24 + 23));
        assert!(due(ends, 71 * 24));
        assert!(!due(ends + 60 * DAY, 71 * 24 + 1), "it was renewed");
        assert!(due(ends, 71 * 24 + 2), "and taken back");
        assert!(due(ends, 200 * 24), "it is over");
        assert!(due(ends, 199 * 24), "the clock was set back");
    }
}
