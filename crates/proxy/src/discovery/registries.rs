//! The registries that there are.

use super::consul::Consul;
use super::dns::Dns;
use super::eureka::Eureka;
use super::http::Http;
use super::kubernetes::Kubernetes;
use super::nacos::Nacos;
use super::registry::Registry;
use crate::tls::OnDemandTls;
use milecastle_settings::Discovery as Settings;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// Why service discovery cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum DiscoveryError {
    /// The file with the resolvers.
    #[error("discovery.dns.resolv_conf: cannot read {path}: {source}", path = .path.display())]
    ResolvConf {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A regular expression for namespaces.
    #[error("discovery.kubernetes.namespace_selector: {0}")]
    Namespaces(regex::Error),
    /// Nobody says where the API server is.
    #[error(
        "discovery.kubernetes.service.host: set it to the name of the API server; only pods have it in the environment variable \
         KUBERNETES_SERVICE_HOST"
    )]
    NoApiServer,
}

/// The registries that the settings name, by `discovery_type`.
pub(super) fn configured(
    settings: &Settings,
    authorities: Option<PathBuf>,
    side: &tokio::runtime::Handle,
) -> Result<BTreeMap<&'static str, Arc<dyn Registry>>, DiscoveryError> {
    let mut registries: BTreeMap<&'static str, Arc<dyn Registry>> = BTreeMap::new();
    let longest = settings.answer_bytes.as_len();
    let tls = Arc::new(OnDemandTls::new(authorities, "apisix.ssl.ssl_trusted_certificate"));
    let http = || Http::new(tls.clone(), longest);
    if let Some(dns) = &settings.dns {
        registries.insert("dns", Arc::new(Dns::new(dns)?));
    }
    if let Some(consul) = &settings.consul {
        registries.insert("consul", Arc::new(Consul::new(consul.clone(), http())));
    }
    if let Some(nacos) = &settings.nacos {
        registries.insert("nacos", Arc::new(Nacos::new(nacos.clone(), http())));
    }
    if let Some(eureka) = &settings.eureka {
        registries.insert("eureka", Arc::new(Eureka::new(eureka.clone(), http())));
    }
    if let Some(kubernetes) = &settings.kubernetes {
        registries.insert("kubernetes", Arc::new(Kubernetes::new(kubernetes, settings, side)?));
    }
    Ok(registries)
}
