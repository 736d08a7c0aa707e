//! TLS for what is asked beside the traffic: probes, registries.

use super::{UpstreamTls, trusted};
use rustls::RootCertStore;
use std::path::PathBuf;
use tokio::sync::OnceCell;

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

    pub(crate) async fn get(&self, verify: bool) -> Result<&UpstreamTls, rustls::Error> {
        if !verify {
            return self.trusting.get_or_try_init(async || UpstreamTls::new(None)).await;
        }
        let load = async || {
            let (authorities, key) = (self.authorities.clone(), self.key);
            let roots = tokio::task::spawn_blocking(move || trusted(authorities.as_deref(), key)).await;
            UpstreamTls::new(Some(roots.unwrap_or_else(|_| RootCertStore::empty())))
        };
        self.verifying.get_or_try_init(load).await
    }
}
