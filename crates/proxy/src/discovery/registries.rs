//! The registries that there are: of the node's file, and of the settings of its group.

use super::consul::Consul;
use super::consul_kv::ConsulKv;
use super::dns::Dns;
use super::eureka::Eureka;
use super::http::Http;
use super::kubernetes::Kubernetes;
use super::nacos::Nacos;
use super::registry::Registry;
use crate::tls::OnDemandTls;
use milecastle_settings::{Discovery as Settings, Registries, RegistrySettings};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Weak};

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

/// Who has written the settings of a registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// Whoever writes the files of this node: what the node has may go wherever they say.
    File,
    /// Whoever may write settings of the group: nothing goes anywhere that they have not given themselves.
    Group,
}

/// What stands behind a `discovery_type`.
pub(super) enum Source {
    Registry(Arc<dyn Registry>),
    /// The settings of the group name it, and it cannot be set up on this node.
    Unusable(String),
}

/// The registries under one state of the group's settings.
pub(super) struct Sources {
    /// Gone once no snapshot has these settings any more.
    group: Weak<Registries>,
    /// What they say, to tell which ones of others are the same.
    settings: Registries,
    by_type: BTreeMap<&'static str, Arc<Source>>,
}

impl Sources {
    pub(super) fn are_of(&self, group: &Arc<Registries>) -> bool {
        std::ptr::eq(self.group.as_ptr(), Arc::as_ptr(group))
    }

    /// Whether some snapshot has these settings.
    pub(super) fn in_use(&self) -> bool {
        self.group.strong_count() > 0
    }

    pub(super) fn get(&self, registry: &str) -> Option<&Arc<Source>> {
        self.by_type.get(registry)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_type.is_empty()
    }

    /// The source of the same registry under the same settings.
    fn same(&self, registry: &str, settings: RegistrySettings<'_>) -> Option<&Arc<Source>> {
        let (_, known) = self.settings.iter().find(|(name, _)| *name == registry)?;
        self.by_type.get(registry).filter(|_| known == settings)
    }
}

/// Makes a registry of its settings.
pub(super) type Make = dyn Fn(RegistrySettings<'_>, Origin) -> Result<Arc<dyn Registry>, DiscoveryError> + Send + Sync;

/// Makes the registries of each state of the group's settings, beside those that the node has of its own.
pub(super) struct Maker {
    own: BTreeMap<&'static str, Arc<Source>>,
    make: Box<Make>,
}

impl Maker {
    /// With the node's own registries, all of which must be there.
    pub(super) fn new(own: &Registries, make: Box<Make>) -> Result<Self, DiscoveryError> {
        let made = |(name, settings)| Ok((name, Arc::new(Source::Registry(make(settings, Origin::File)?))));
        Ok(Self { own: own.iter().map(made).collect::<Result<_, _>>()?, make })
    }

    /// Those that the node names itself, and of the group's the others: whole registries, so that no secret of the one meets a
    /// server of the other. What is in `former` under the same settings goes on.
    pub(super) fn sources(&self, group: &Arc<Registries>, former: &[Arc<Sources>]) -> Sources {
        let mut by_type = self.own.clone();
        for (name, settings) in group.iter() {
            if self.own.contains_key(name) {
                tracing::info!("discovery.{name} is that of this node's file, not that of the group's settings");
                continue;
            }
            let same = former.iter().rev().find_map(|former| former.same(name, settings)).cloned();
            by_type.insert(name, same.unwrap_or_else(|| Arc::new(self.of_group(name, settings))));
        }
        Sources { group: Arc::downgrade(group), settings: Registries::clone(group), by_type }
    }

    fn of_group(&self, name: &str, settings: RegistrySettings<'_>) -> Source {
        match (self.make)(settings, Origin::Group) {
            Ok(registry) => Source::Registry(registry),
            Err(error) => {
                tracing::error!(
                    %error,
                    "discovery.{name} of the group's settings cannot be set up on this node: requests that need it are answered with 503"
                );
                Source::Unusable(format!("discovery {name} cannot be set up on this node: {error}"))
            }
        }
    }
}

impl std::fmt::Debug for Maker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Maker").field("own", &self.own.keys()).finish_non_exhaustive()
    }
}

/// Makes registries that are asked as the node's settings say, on the runtime `side`.
pub(super) fn maker(settings: &Settings, authorities: Option<PathBuf>, side: tokio::runtime::Handle) -> Box<Make> {
    let tls = Arc::new(OnDemandTls::new(authorities, "apisix.ssl.ssl_trusted_certificate"));
    let settings = settings.clone();
    Box::new(move |registry, origin| {
        let http = || Http::new(tls.clone(), settings.answer_bytes.as_len());
        Ok(match registry {
            RegistrySettings::Dns(own) => Arc::new(Dns::new(own)?),
            RegistrySettings::Consul(own) => Arc::new(Consul::new(own.clone(), http())),
            RegistrySettings::ConsulKv(own) => Arc::new(ConsulKv::new(own.clone(), http())),
            RegistrySettings::Nacos(own) => Arc::new(Nacos::new(own.clone(), http())),
            RegistrySettings::Eureka(own) => Arc::new(Eureka::new(own.clone(), http())),
            RegistrySettings::Kubernetes(own) => Arc::new(Kubernetes::new(own, origin, &settings, &side)?),
        })
    })
}
