//! TLS as a client: authorities are read once somebody's certificate is to be verified.

use super::{Profile, UpstreamTls, server_name, trusted};
use crate::failure::Failure;
use rustls::RootCertStore;
use std::io;
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

    /// Shakes hands with a server under the name `host`, a Host header's value without port, as the profile says.
    pub(crate) async fn connect_by(
        &self,
        stream: TcpStream,
        host: &str,
        profile: &Profile,
        patience: Duration,
    ) -> Result<Box<TlsStream<TcpStream>>, Failure> {
        let name = server_name(host).ok_or_else(|| Failure::Tls(io::Error::other("TLS has no such server names")))?;
        let name = name.to_owned();
        let connector = self.get(profile.verify).await.connector(profile);
        let connector = connector.map_err(|error| Failure::Tls(io::Error::other(error)))?;
        let stream = tokio::time::timeout(patience, connector.connect(name, stream)).await;
        stream.map_err(|_| Failure::ConnectTimeout)?.map(Box::new).map_err(Failure::Tls)
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
