//! TLS with clients: which certificate, which versions, whose client certificate (`docs/spec/tls.md`).
//!
//! The name is looked up in the snapshot in force at each handshake, so a change is live at once. A server configuration is
//! made once for each ssl object and shared by all workers, so that sessions are resumed on any of them; rustls resumes a
//! session only under the name it was made for.
//!
//! Invariant: where an ssl object asks for certificates of clients no session is resumed. It would be resumed with the
//! certificate that it began with: one that may have ended or been replaced since.

use super::client_auth::{ClientVerifier, Verified};
use super::sessions::{Sessions, Tickets};
use crate::config::{Listen, Served, TlsOffer};
use crate::ocsp::{Staple, Stapling};
use crate::worker::Worker;
use milecastle_plugin_api::TlsInfo;
use milecastle_settings::TlsVersion as Version;
use milecastle_snapshot::CompiledSsl;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{Acceptor, ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{
    CipherSuite, CommonState, HandshakeKind, NamedGroup, ProtocolVersion, ServerConfig, SupportedCipherSuite,
    SupportedProtocolVersion,
};
use std::collections::HashMap;
use std::io;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

/// Server configurations of a node.
pub(crate) struct ServerTls {
    provider: Arc<CryptoProvider>,
    versions: Vec<&'static SupportedProtocolVersion>,
    tickets: bool,
    /// Sessions kept for each ssl object.
    sessions: usize,
    /// How long a session can be resumed.
    session_life: Duration,
    /// Counts sessions that were forgotten before their time.
    forgotten_sessions: Arc<AtomicU64>,
    /// Tickets that a client gets with each handshake of TLS 1.3.
    tls13_tickets: usize,
    fallback_sni: Option<String>,
    stapling: Arc<Stapling>,
    /// By the ssl object's address, and what is offered beside it.
    configs: RwLock<HashMap<(usize, Alpn), Made>>,
}

/// Which application protocols are offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Alpn {
    /// None: a client that names some is not refused for it.
    Nothing,
    Http1,
    /// HTTP/2 first.
    Http2,
    /// HTTP/3, over QUIC.
    Http3,
}

impl Alpn {
    fn of(listen: &Listen) -> Self {
        match (listen.served, listen.http2) {
            (Served::Stream { .. }, _) => Self::Nothing,
            (Served::Http, false) => Self::Http1,
            (Served::Http, true) => Self::Http2,
        }
    }
}

/// A configuration and what it was made of; that keeps the address which is its key taken.
struct Made {
    ssl: Arc<CompiledSsl>,
    ready: Arc<Ready>,
}

/// A server configuration, and who judges clients' certificates.
pub(super) struct Ready {
    pub(super) config: Arc<ServerConfig>,
    pub(super) verifier: Option<Arc<ClientVerifier>>,
}

impl ServerTls {
    pub(crate) fn new(offer: &TlsOffer, stapling: Arc<Stapling>, forgotten_sessions: Arc<AtomicU64>) -> Self {
        let mut provider = aws_lc_rs::default_provider();
        provider.cipher_suites = suites(&provider, &offer.ciphers);
        let is_old = |version: &Version| matches!(version, Version::V1_0 | Version::V1_1);
        if offer.versions.iter().any(is_old) {
            tracing::warn!(
                "apisix.ssl.ssl_protocols names TLSv1 or TLSv1.1, which are never offered: clients need one of the newer versions \
                 that it names"
            );
        }
        let versions = offer.versions.iter().filter_map(|version| match version {
            Version::V1_2 => Some(&rustls::version::TLS12),
            Version::V1_3 => Some(&rustls::version::TLS13),
            Version::V1_0 | Version::V1_1 => None,
        });
        Self {
            versions: versions.collect(),
            provider: Arc::new(provider),
            tickets: offer.tickets,
            sessions: offer.sessions,
            session_life: offer.session_life,
            forgotten_sessions,
            tls13_tickets: offer.tls13_tickets,
            fallback_sni: offer.fallback_sni.clone(),
            stapling,
            configs: RwLock::default(),
        }
    }

    /// The name that counts where the client has said this one, or none. `None`: there is no certificate to show.
    pub(super) fn name(&self, said: Option<&str>) -> Option<Arc<str>> {
        let name = said.or(self.fallback_sni.as_deref())?;
        Some(name.trim_end_matches('.').to_ascii_lowercase().into())
    }

    /// A configuration without any certificate, with which a handshake ends in an alert.
    pub(super) fn without_certificate(
        &self,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Result<Arc<ServerConfig>, rustls::Error> {
        let builder = ServerConfig::builder_with_provider(self.provider.clone()).with_protocol_versions(versions)?;
        Ok(Arc::new(builder.with_no_client_auth().with_cert_resolver(Arc::new(Keys(Vec::new())))))
    }

    /// The configuration for an ssl object.
    pub(super) fn ready(&self, ssl: &Arc<CompiledSsl>, alpn: Alpn) -> Result<Arc<Ready>, rustls::Error> {
        let key = (Arc::as_ptr(ssl) as usize, alpn);
        if let Some(made) = self.configs.read().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(made.ready.clone());
        }
        let ready = Arc::new(self.make(ssl, alpn)?);
        let mut configs = self.configs.write().unwrap_or_else(PoisonError::into_inner);
        // What only this table still holds, under however many offers, belongs to no snapshot in use.
        let mut held: HashMap<usize, usize> = HashMap::new();
        configs.keys().for_each(|(ssl, _)| *held.entry(*ssl).or_default() += 1);
        configs.retain(|(ssl, _), made| Arc::strong_count(&made.ssl) > held[ssl]);
        Ok(configs.entry(key).or_insert(Made { ssl: ssl.clone(), ready }).ready.clone())
    }

    fn make(&self, ssl: &Arc<CompiledSsl>, alpn: Alpn) -> Result<Ready, rustls::Error> {
        let own: Option<Vec<_>> = ssl.versions.as_ref().map(|versions| {
            versions
                .iter()
                .filter_map(|version| match version {
                    milecastle_model::TlsVersion::V1_2 => Some(&rustls::version::TLS12),
                    milecastle_model::TlsVersion::V1_3 => Some(&rustls::version::TLS13),
                    milecastle_model::TlsVersion::V1_1 => None,
                })
                .collect()
        });
        let versions = own.as_ref().unwrap_or(&self.versions);
        let builder = ServerConfig::builder_with_provider(self.provider.clone()).with_protocol_versions(versions)?;
        let verifier = |auth| ClientVerifier::new(auth, alpn != Alpn::Nothing, &self.provider);
        let verifier = ssl.client.as_ref().map(verifier).transpose()?;
        let builder = match &verifier {
            Some(verifier) => builder.with_client_cert_verifier(verifier.clone()),
            None => builder.with_no_client_auth(),
        };
        let shown = |key: &Arc<CertifiedKey>| Shown { key: key.clone(), staple: self.stapling.staple(ssl, key) };
        let mut config = builder.with_cert_resolver(Arc::new(Keys(ssl.keys.iter().map(shown).collect())));
        config.ignore_client_order = true;
        config.alpn_protocols = match alpn {
            Alpn::Nothing => Vec::new(),
            Alpn::Http1 => vec![b"http/1.1".to_vec()],
            Alpn::Http2 => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            Alpn::Http3 => vec![b"h3".to_vec()],
        };
        let resumes = verifier.is_none() && !self.session_life.is_zero();
        config.session_storage = match self.sessions {
            most @ 1.. if resumes => Sessions::new(self.session_life, most, self.forgotten_sessions.clone()),
            _ => Arc::new(NoServerSessionStorage {}),
        };
        if self.tickets && resumes {
            config.ticketer = Tickets::new(self.session_life)?;
        }
        // Without a ticketer each is the key of a session that is kept.
        config.send_tls13_tickets = if resumes { self.tls13_tickets } else { 0 };
        Ok(Ready { config: Arc::new(config), verifier })
    }
}

/// The suites that were asked for: of TLS 1.2 those named, in this order; all of TLS 1.3.
fn suites(provider: &CryptoProvider, names: &str) -> Vec<SupportedCipherSuite> {
    let named = names.split(':').filter_map(|name| {
        let suite = match name {
            "ECDHE-ECDSA-AES128-GCM-SHA256" => CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
            "ECDHE-RSA-AES128-GCM-SHA256" => CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
            "ECDHE-ECDSA-AES256-GCM-SHA384" => CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
            "ECDHE-RSA-AES256-GCM-SHA384" => CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
            "ECDHE-ECDSA-CHACHA20-POLY1305" => CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
            "ECDHE-RSA-CHACHA20-POLY1305" => CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
            other => {
                tracing::warn!(
                    suite = other,
                    "apisix.ssl.ssl_ciphers names a suite that is not built in; it is ignored"
                );
                return None;
            }
        };
        provider.cipher_suites.iter().find(|known| known.suite() == suite).copied()
    });
    let modern = provider.cipher_suites.iter().filter(|suite| suite.tls13().is_some()).copied();
    modern.chain(named).collect()
}

/// The certificates of one ssl object; the first whose key the client understands is presented.
#[derive(Debug)]
struct Keys(Vec<Shown>);

/// A certificate and its OCSP responses.
#[derive(Debug)]
struct Shown {
    key: Arc<CertifiedKey>,
    /// `None`: the object asks for none.
    staple: Option<Staple>,
}

impl ResolvesServerCert for Keys {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let usable = |shown: &&Shown| shown.key.key.choose_scheme(hello.signature_schemes()).is_some();
        let Shown { key, staple } = self.0.iter().find(usable)?;
        Some(staple.as_ref().map_or_else(|| key.clone(), |staple| staple.on(key)))
    }
}

/// Shakes hands with a client, for as long as `timeouts.tls_handshake` allows.
///
/// # Errors
/// The handshake failed, or took longer; the client has been sent an alert where that is possible.
pub(crate) async fn accept(
    worker: &Worker,
    listen: &Listen,
    stream: TcpStream,
) -> io::Result<(TlsStream<TcpStream>, TlsInfo)> {
    let patience = worker.node.config.client.handshake_timeout;
    tokio::time::timeout(patience, shake_hands(worker, listen, stream)).await.unwrap_or_else(|_| {
        worker.counters.tls_late.up();
        Err(io::ErrorKind::TimedOut.into())
    })
}

async fn shake_hands(
    worker: &Worker,
    listen: &Listen,
    stream: TcpStream,
) -> io::Result<(TlsStream<TcpStream>, TlsInfo)> {
    let tls = &worker.node.tls;
    let start = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
    let sni = tls.name(start.client_hello().server_name());
    let ssl = sni.as_ref().and_then(|sni| worker.pin().snapshot.certificate(sni).cloned());
    let ready = match ssl {
        Some(ssl) => Some(tls.ready(&ssl, Alpn::of(listen)).map_err(io::Error::other)?),
        None => None,
    };
    let Some(ready) = ready else {
        let nothing = tls.without_certificate(&tls.versions).map_err(io::Error::other)?;
        let refused = start.into_stream(nothing).await;
        return Err(refused.err().unwrap_or_else(|| io::Error::other("no certificate for this name")));
    };
    let stream = start.into_stream(ready.config.clone()).await?;
    let info = info(stream.get_ref().1, sni, ready.verifier.as_deref());
    Ok((stream, info))
}

/// The name that OpenSSL gives to a group.
fn curve(group: NamedGroup) -> Option<&'static str> {
    Some(match group {
        NamedGroup::secp256r1 => "prime256v1",
        NamedGroup::secp384r1 => "secp384r1",
        NamedGroup::secp521r1 => "secp521r1",
        NamedGroup::X25519 => "X25519",
        NamedGroup::MLKEM768 => "MLKEM768",
        NamedGroup::secp256r1MLKEM768 => "SecP256r1MLKEM768",
        NamedGroup::X25519MLKEM768 => "X25519MLKEM768",
        _ => return None,
    })
}

/// What requests are told of a session whose handshake is over.
pub(super) fn info(session: &CommonState, sni: Option<Arc<str>>, verifier: Option<&ClientVerifier>) -> TlsInfo {
    let chain = session.peer_certificates().unwrap_or_default();
    let client_verify = match verifier.map(|verifier| verifier.judge(chain)) {
        None | Some(Verified::Absent) => "NONE".into(),
        Some(Verified::Yes) => "SUCCESS".into(),
        Some(Verified::No(reason)) => format!("FAILED:{reason}").into(),
    };
    TlsInfo {
        sni,
        protocol: match session.protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
            Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
            _ => "",
        },
        cipher: session.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str()).unwrap_or_default().into(),
        curve: session.negotiated_key_exchange_group().and_then(|group| curve(group.name())),
        alpn: match session.alpn_protocol() {
            Some(b"h2") => Some("h2"),
            Some(b"http/1.1") => Some("http/1.1"),
            Some(b"h3") => Some("h3"),
            _ => None,
        },
        resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
        client_verify,
        client_certificate: chain.first().map(|leaf| leaf.as_ref().into()),
    }
}
