//! One version of the configuration, ready to serve.

use crate::certificates::{Certificates, CompiledSsl, StapledSsls};
use crate::compiled::{CompiledRoute, UpstreamRef};
use crate::compiler::Compiler;
use crate::credentials::Credentials;
use crate::identity::{ClientCertificate, ClientCertificateFault, ClientIdentity};
use crate::people::Holder;
use crate::plugins::GlobalRules;
use crate::route::CompiledService;
use crate::stream::{CompiledStreamRoute, SessionFacts, StreamRoutes};
use crate::upstream::CompiledUpstream;
use foldhash::fast::RandomState;
use imbl::shared_ptr::DefaultSharedPtr;
use imbl::{GenericHashMap, OrdMap, OrdSet};
use milecastle_matching::Router;
use milecastle_model::{Key, Kind, Object};
use milecastle_plugin_api::{Built, Chain, Consumer, CredentialMatch};
use milecastle_settings::Registries;
use rustls_pki_types::CertificateDer;
use std::any::Any;
use std::sync::Arc;

/// A persistent map by id.
pub(crate) type Map<V> = GenericHashMap<Arc<str>, V, RandomState, DefaultSharedPtr>;

/// What other objects are built from; `None` while it is in quarantine without ever having had a good form.
pub(crate) type Slot<T> = Option<Arc<T>>;

/// One version of the configuration. Cloning is cheap and shares everything.
#[derive(Clone)]
pub struct Snapshot {
    pub(crate) lineage: Arc<str>,
    pub(crate) revision: u64,
    /// Of the settings that the objects have.
    pub(crate) compiler: Compiler,
    /// What was received, whether it could be built or not.
    pub(crate) objects: OrdMap<Key, Object>,
    /// Objects whose present form could not be built, and why.
    pub(crate) quarantined: OrdMap<Key, Arc<str>>,
    /// References to secret managers, of the objects whose present bodies hold some. A former form that serves in the place of a body
    /// in quarantine keeps the values that it was built with.
    pub(crate) references: OrdMap<Key, Arc<[Box<str>]>>,
    /// Objects in whose present bodies references stand for certificates.
    pub(crate) referring: OrdSet<Key>,
    pub(crate) router: Router<Arc<CompiledRoute>>,
    /// Every route that has a form, also those that are switched off.
    pub(crate) routes: Map<Arc<CompiledRoute>>,
    /// Routes whose conditions read fields of the request's body.
    pub(crate) field_routes: OrdSet<Arc<str>>,
    /// Routes whose conditions read a GraphQL document, which may be the request's body.
    pub(crate) document_routes: OrdSet<Arc<str>>,
    /// Routes by the service or plugin_config that they name, whether it exists or not.
    pub(crate) dependents: GenericHashMap<Key, OrdSet<Arc<str>>, RandomState, DefaultSharedPtr>,
    /// The other direction, for routes that name one.
    pub(crate) merged_from: Map<Arc<[Key]>>,
    pub(crate) services: Map<Slot<CompiledService>>,
    pub(crate) plugin_configs: Map<Slot<Chain>>,
    pub(crate) consumer_groups: Map<Slot<Vec<Built>>>,
    pub(crate) upstreams: Map<Arc<CompiledUpstream>>,
    pub(crate) global_rules: GlobalRules,
    pub(crate) holders: OrdMap<Key, Arc<Holder>>,
    pub(crate) consumers: Map<Arc<Consumer>>,
    pub(crate) credentials: Credentials,
    pub(crate) ssls: Map<Arc<CompiledSsl>>,
    pub(crate) certificates: Certificates,
    pub(crate) stapled: StapledSsls,
    /// Of ssl objects of type `client`.
    pub(crate) client_identities: Map<Result<ClientIdentity, ClientCertificateFault>>,
    pub(crate) metadata: Map<Arc<dyn Any + Send + Sync>>,
    pub(crate) stream_routes: StreamRoutes,
}

impl Snapshot {
    /// A configuration without any object, under the settings of `compiler`.
    pub fn empty(lineage: &str, compiler: &Compiler) -> Self {
        Self {
            lineage: lineage.into(),
            revision: 0,
            compiler: compiler.clone(),
            objects: OrdMap::new(),
            quarantined: OrdMap::new(),
            references: OrdMap::new(),
            referring: OrdSet::new(),
            router: Router::new(compiler.mode()),
            routes: Map::default(),
            field_routes: OrdSet::new(),
            document_routes: OrdSet::new(),
            dependents: GenericHashMap::default(),
            merged_from: Map::default(),
            services: Map::default(),
            plugin_configs: Map::default(),
            consumer_groups: Map::default(),
            upstreams: Map::default(),
            global_rules: GlobalRules::default(),
            holders: OrdMap::new(),
            consumers: Map::default(),
            credentials: Credentials::default(),
            ssls: Map::default(),
            certificates: Certificates::default(),
            stapled: StapledSsls::default(),
            client_identities: Map::default(),
            metadata: Map::default(),
            stream_routes: StreamRoutes::default(),
        }
    }

    /// The objects as they were received, without any form of theirs: what was built of them may go.
    #[must_use]
    pub fn as_received(&self) -> Self {
        let empty = Self::empty(&self.lineage, &self.compiler);
        Self { revision: self.revision, objects: self.objects.clone(), ..empty }
    }

    /// Lineage of the store that the objects come from.
    pub fn lineage(&self) -> &str {
        &self.lineage
    }

    /// Revision of the store.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The compiler of the settings that this was built under; it knows which plugins are enabled.
    pub fn compiler(&self) -> &Compiler {
        &self.compiler
    }

    /// The registries that services are asked of, as the settings of the group name them ([`Compiler::discovery`]).
    pub fn discovery(&self) -> &Arc<Registries> {
        self.compiler.discovery()
    }

    /// The routes that can match.
    pub fn router(&self) -> &Router<Arc<CompiledRoute>> {
        &self.router
    }

    /// A route by id, also one that is switched off.
    pub fn route(&self, id: &str) -> Option<&Arc<CompiledRoute>> {
        self.routes.get(id)
    }

    /// The stream route for a session, by the rules of `docs/spec/stream.md` §2; among routes that fit alike, the smaller id
    /// wins.
    pub fn stream_route(&self, session: &SessionFacts<'_>) -> Option<&Arc<CompiledStreamRoute>> {
        self.stream_routes.find(session)
    }

    /// A stream route by id.
    pub fn stream_route_by_id(&self, id: &str) -> Option<&Arc<CompiledStreamRoute>> {
        self.stream_routes.get(id)
    }

    /// Whether a route's conditions read fields of the request's body, so that one which has fields must be read before the match.
    pub fn wants_fields(&self) -> bool {
        !self.field_routes.is_empty()
    }

    /// Whether a route's conditions read a GraphQL document, so that the body of a POST must be read before the match, of whatever
    /// type it is.
    pub fn wants_document(&self) -> bool {
        !self.document_routes.is_empty()
    }

    /// The plugins of all global rules. A name that occurs in several of them is left out
    /// (`docs/spec/plugins/_phases.md` §6.1).
    pub fn global(&self) -> &Arc<Chain> {
        self.global_rules.chain()
    }

    /// Whether every global rule runs. If not, one is in quarantine without ever having had a good form: requests are to
    /// be answered with 503, for none may go without a plugin that it should have.
    pub fn global_is_whole(&self) -> bool {
        self.global_rules.is_whole()
    }

    /// An upstream object.
    pub fn upstream(&self, id: &str) -> Option<&Arc<CompiledUpstream>> {
        self.upstreams.get(id)
    }

    /// The upstream that is kept under this path ([`CompiledUpstream::key`]): of an upstream object, a service or a route.
    pub fn upstream_at(&self, path: &str) -> Option<&Arc<CompiledUpstream>> {
        let key = Key::from_path(path)?;
        let id = &*key.id;
        match key.kind {
            Kind::Upstream => self.upstreams.get(id),
            Kind::Service => self.services.get(id)?.as_ref()?.upstream.as_ref(),
            Kind::Route => match &self.routes.get(id)?.upstream {
                // A route that inherits its service's upstream shares the service's state.
                UpstreamRef::Inline(upstream) => (*upstream.key == *path).then_some(upstream),
                UpstreamRef::None | UpstreamRef::Id(_) => None,
            },
            Kind::StreamRoute => match &self.stream_routes.get(id)?.upstream {
                UpstreamRef::Inline(upstream) => (*upstream.key == *path).then_some(upstream),
                UpstreamRef::None | UpstreamRef::Id(_) => None,
            },
            _ => None,
        }
    }

    /// The id of an upstream, whether it exists or not: all that name the one that does share its text.
    pub(crate) fn upstream_id(&self, id: &str) -> Arc<str> {
        self.upstreams.get_key_value(id).map_or_else(|| id.into(), |(shared, _)| shared.clone())
    }

    /// The certificate for a server name, by the rules of `docs/spec/tls.md` §3.
    pub fn certificate(&self, sni: &str) -> Option<&Arc<CompiledSsl>> {
        self.certificates.find(sni)
    }

    /// The ssl objects whose certificates are to be shown with OCSP responses.
    pub fn stapled(&self) -> &StapledSsls {
        &self.stapled
    }

    /// What an upstream is to be shown when it asks for a certificate.
    ///
    /// # Errors
    /// It names one that is missing or no good: no request may go there without.
    pub fn client_identity<'a>(
        &'a self,
        upstream: &'a CompiledUpstream,
    ) -> Result<Option<&'a ClientIdentity>, ClientCertificateFault> {
        let named = match &upstream.client_certificate {
            ClientCertificate::None => return Ok(None),
            ClientCertificate::Own(own) => own,
            ClientCertificate::Named(id) => self.client_identities.get(&**id).ok_or(ClientCertificateFault::Missing)?,
        };
        match named {
            Ok(identity) => Ok(Some(identity)),
            Err(fault) => Err(*fault),
        }
    }

    /// The credential of a plugin with this key.
    pub fn credential(&self, plugin: &str, key: &str) -> Option<CredentialMatch> {
        self.credentials.get(plugin, key)
    }

    /// Whether any consumer has a credential of this plugin.
    pub fn has_credentials(&self, plugin: &str) -> bool {
        self.credentials.any(plugin)
    }

    /// A consumer by username.
    pub fn consumer(&self, name: &str) -> Option<&Arc<Consumer>> {
        self.consumers.get(name)
    }

    /// The compiled metadata of a plugin.
    pub fn metadata(&self, plugin: &str) -> Option<&Arc<dyn Any + Send + Sync>> {
        self.metadata.get(plugin)
    }

    /// An object as it was received.
    pub fn object(&self, key: &Key) -> Option<&Object> {
        self.objects.get(key)
    }

    /// All objects of a kind as they were received, by id.
    pub fn objects(&self, kind: Kind) -> impl Iterator<Item = &Object> {
        let from = Key::new(kind, "");
        self.objects.range(from..).take_while(move |(key, _)| key.kind == kind).map(|(_, object)| object)
    }

    /// All objects as they were received, by key.
    pub fn all_objects(&self) -> impl Iterator<Item = &Object> {
        self.objects.values()
    }

    /// The objects that hold references to secret managers (`$secret://…`), and which ones.
    pub fn references(&self) -> impl Iterator<Item = (&Key, &[Box<str>])> {
        self.references.iter().map(|(key, references)| (key, &**references))
    }

    /// The objects in which references (`$secret://…`, `$env://…`) stand for certificates or authorities, each with all that it has in
    /// force; upstreams in configurations of plugins are left out.
    pub fn referred_certificates(&self) -> impl Iterator<Item = (&Key, Vec<&CertificateDer<'static>>)> {
        self.referring.iter().map(|key| (key, self.certificates_of(key)))
    }

    fn certificates_of(&self, key: &Key) -> Vec<&CertificateDer<'static>> {
        if key.kind != Kind::Ssl {
            return match self.upstream_at(&key.path()).map(|upstream| &upstream.client_certificate) {
                Some(ClientCertificate::Own(Ok(own))) => own.pair().cert.iter().collect(),
                _ => Vec::new(),
            };
        }
        let served = self.ssls.get(&*key.id).into_iter().flat_map(|ssl| {
            let authorities = ssl.client.iter().flat_map(|client| &client.authorities);
            ssl.keys.iter().flat_map(|pair| &pair.cert).chain(authorities)
        });
        let shown = self.client_identities.get(&*key.id).into_iter().flatten();
        served.chain(shown.flat_map(|identity| &identity.pair().cert)).collect()
    }

    /// Number of objects.
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// Whether there is no object at all. That is a configuration too: 404 for every request.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// Objects whose present form could not be built, why, and whether an earlier form of them still serves.
    pub fn quarantined(&self) -> impl Iterator<Item = (&Key, &str, bool)> {
        self.quarantined.iter().map(|(key, reason)| (key, &**reason, self.has_form(key)))
    }

    fn has_form(&self, key: &Key) -> bool {
        let id = &*key.id;
        match key.kind {
            Kind::Route => self.routes.get(id).is_some_and(|route| !route.stand_in),
            Kind::Service => self.services.get(id).is_some_and(Option::is_some),
            Kind::PluginConfig => self.plugin_configs.get(id).is_some_and(Option::is_some),
            Kind::ConsumerGroup => self.consumer_groups.get(id).is_some_and(Option::is_some),
            Kind::Upstream => {
                self.upstreams.get(id).is_some_and(|upstream| !upstream.nodes.is_empty() || upstream.service.is_some())
            }
            Kind::GlobalRule => self.global_rules.contains(id),
            Kind::Consumer | Kind::Credential => self.holders.contains_key(key),
            Kind::Ssl => {
                self.ssls.contains_key(id) || self.client_identities.get(id).is_some_and(|identity| identity.is_ok())
            }
            Kind::PluginMetadata => self.metadata.contains_key(id),
            Kind::StreamRoute => self.stream_routes.has_form(id),
            // The former ones go on.
            Kind::GroupSettings => true,
            Kind::Proto | Kind::Secret | Kind::GraphqlCostDecoration => false,
        }
    }
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot")
            .field("lineage", &self.lineage)
            .field("revision", &self.revision)
            .field("objects", &self.objects.len())
            .finish_non_exhaustive()
    }
}
