//! TLS as a client: authorities are read once somebody's certificate is to be verified.

use super::{Profile, UpstreamTls, trusted};
use crate::failure::Failure;
use rustls::RootCertStore;
use std::path::PathBuf;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio_rustls::client::TlsStream;

/// TLS as a client, with and without verifying certificates; each is made at the first connection that needs it.
pub(crate) struct OnDemandTls {
    /// Authorities in PEM; `None`: those of the system.
    authorities: Option<PathBuf>,
    /// The key that sets them.
    key: &'static str,
    verifying: OnceCell<UpstreamTls>,
    trusting: OnceCell<UpstreamTls>,
}

impl OnDemandTls {
    /// `authorities` is a file in PEM, `None` those of the system; `key` is the setting that names it.
    pub(crate) fn new(authorities: Option<PathBuf>, key: &'static str) -> Self {
        Self { authorities, key, verifying: OnceCell::new(), trusting: OnceCell::new() }
    }

    /// Shakes hands with a server under the name `host`, for HTTP/1.1.
    pub(crate) async fn connect(
        &self,
        stream: TcpStream,
        host: &str,
        verify: bool,
        patience: Duration,
    ) -> Result<Box<TlsStream<TcpStream>>, Failure> {
        self.connect_by(stream, host, &Profile { verify, ..Profile::default() }, patience).await
    }

    /// Shakes hands with a server under the name `host`, as the profile says.
    pub(crate) async fn connect_by(
        &self,
        stream: TcpStream,
        host: &str,
        profile: &Profile,
        patience: Duration,
    ) -> Result<Box<TlsStream<TcpStream>>, Failure> {
        self.get(profile.verify).await.connect(stream, host, profile, patience).await
    }

    async fn get(&self, verify: bool) -> &UpstreamTls {
        if !verify {
            return self.trusting.get_or_init(async || UpstreamTls::new(None)).await;
        }
        let load = async || {
            let (authorities, key) = (self.authorities.clone(), self.key);
            let roots = tokio::task::spawn_blocking(move || trusted(authorities.as_deref(), key)).await;
            UpstreamTls::new(Some(roots.unwrap_or_else(|_| RootCertStore::empty())))
        };
        self.verifying.get_or_init(load).await
    }
}
