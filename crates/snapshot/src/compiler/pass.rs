//! Deriving a snapshot from the one before: what was touched is built again, and what depends on it.

use super::{Compiler, Rejected, SslForm};
use crate::identity::ClientCertificateFault;
use crate::people;
use crate::references;
use crate::route::{self, plugins_of};
use crate::snapshot::{Map, Slot, Snapshot};
use crate::stream;
use crate::upstream;
use milecastle_model::{Fault, GlobalRule, Key, Kind, TlsVersion};
use milecastle_plugin_api::{Built, Chain, Placement, Registry};
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::Arc;

/// One derivation of a snapshot from the one before.
pub(super) struct Pass {
    pub(super) compiler: Compiler,
    pub(super) next: Snapshot,
    pub(super) rejected: Vec<Rejected>,
}

impl Pass {
    /// Compiles what was touched and what depends on it, each kind after those that it is built from.
    pub(super) fn run(&mut self, touched: BTreeSet<Key>) {
        let of = |kind: Kind| touched.iter().filter(move |key| key.kind == kind).cloned().collect::<Vec<_>>();
        let mut routes: BTreeSet<Key> = of(Kind::Route).into_iter().collect();
        let mut stream_routes: BTreeSet<Key> = of(Kind::StreamRoute).into_iter().collect();
        let mut consumers: BTreeSet<Arc<str>> = BTreeSet::new();
        touched.iter().for_each(|key| self.refer(key));
        of(Kind::PluginMetadata).iter().for_each(|key| self.metadata(key));
        of(Kind::Upstream).iter().for_each(|key| self.upstream(key));
        for key in of(Kind::PluginConfig).into_iter().chain(of(Kind::Service)) {
            self.mergeable(&key);
            let named_by = self.next.dependents.get(&key);
            routes.extend(named_by.into_iter().flatten().map(|id| Key::new(Kind::Route, id.clone())));
            if key.kind == Kind::Service {
                let named_by = self.next.stream_routes.of_service(&key.id);
                stream_routes.extend(named_by.map(|id| Key::new(Kind::StreamRoute, id)));
            }
        }
        for key in of(Kind::ConsumerGroup) {
            self.mergeable(&key);
            consumers.extend(self.next.members_of(&key.id));
        }
        of(Kind::GlobalRule).iter().for_each(|key| self.global_rule(key));
        for key in of(Kind::Consumer).into_iter().chain(of(Kind::Credential)) {
            self.holder(&key);
            consumers.insert(key.parent().map_or_else(|| key.id.clone(), |consumer| consumer.id));
        }
        consumers.iter().for_each(|name| self.next.refresh_consumer(name));
        of(Kind::Ssl).iter().for_each(|key| self.ssl(key));
        routes.iter().for_each(|key| self.route(key));
        if let Some(registry) = self.compiler.streams.clone() {
            stream_routes.iter().for_each(|key| self.stream_route(key, &registry));
        }
        for key in touched.iter().filter(|key| !self.next.objects.contains_key(*key)) {
            self.next.quarantined.remove(key);
        }
    }

    /// Builds the present form of an object, if there is one. `Some(None)`: it is gone; `None`: it is in quarantine now.
    pub(super) fn form<T>(
        &mut self,
        key: &Key,
        build: impl FnOnce(&Self, &Value) -> Result<T, Vec<Fault>>,
    ) -> Option<Option<T>> {
        let Some(object) = self.next.objects.get(key) else { return Some(None) };
        let parsed = serde_json::from_slice::<Value>(&object.body)
            .map_err(|error| vec![Fault::configuration("", format!("not JSON: {error}"))]);
        match parsed.and_then(|body| build(self, &body)) {
            Ok(form) => {
                self.next.quarantined.remove(key);
                Some(Some(form))
            }
            Err(faults) => {
                let reason = faults.first().map_or_else(|| "unknown fault".into(), Fault::placed);
                tracing::warn!(object = %key, reason, "object in quarantine");
                self.next.quarantined.insert(key.clone(), reason.as_str().into());
                self.rejected.push(Rejected { key: key.clone(), reason });
                None
            }
        }
    }

    /// Keeps the lists of the references that objects hold, and of the objects whose certificates are kept elsewhere.
    fn refer(&mut self, key: &Key) {
        if self.next.objects.get(key).is_some_and(references::stand_for_certificates) {
            self.next.referring.insert(key.clone());
        } else if self.next.referring.contains(key) {
            self.next.referring.remove(key);
        }
        match self.next.objects.get(key).and_then(references::of) {
            Some(held) => drop(self.next.references.insert(key.clone(), held)),
            // Untouched where there is nothing to take away.
            None if self.next.references.contains_key(key) => drop(self.next.references.remove(key)),
            None => {}
        }
    }

    fn metadata(&mut self, key: &Key) {
        let form = self.form(key, |pass, body| pass.compiler.metadata(key, body));
        match form.map(Option::flatten) {
            Some(Some(compiled)) => drop(self.next.metadata.insert(key.id.clone(), compiled)),
            Some(None) => drop(self.next.metadata.remove(&*key.id)),
            None => {}
        }
    }

    fn upstream(&mut self, key: &Key) {
        match self.form(key, |pass, body| pass.compiler.upstream(key, body)) {
            Some(Some(compiled)) => drop(self.next.upstreams.insert(key.id.clone(), Arc::new(compiled))),
            Some(None) => drop(self.next.upstreams.remove(&*key.id)),
            None if self.next.upstreams.contains_key(&*key.id) => {}
            None => drop(self.next.upstreams.insert(key.id.clone(), Arc::new(upstream::unusable(key.path().into())))),
        }
    }

    /// A service, plugin_config or consumer group.
    fn mergeable(&mut self, key: &Key) {
        fn put<T>(map: &mut Map<Slot<T>>, id: &Arc<str>, form: Option<Option<T>>) {
            match form {
                Some(Some(form)) => drop(map.insert(id.clone(), Some(Arc::new(form)))),
                Some(None) => drop(map.remove(&**id)),
                None if map.contains_key(&**id) => {}
                None => drop(map.insert(id.clone(), None)),
            }
        }
        if key.kind == Kind::Service {
            let form = self.form(key, |pass, body| route::compile_service(&pass.compiler, &pass.next, key, body));
            return put(&mut self.next.services, &key.id, form);
        }
        let form = self.form(key, |pass, body| pass.plugins(key, body));
        match key.kind {
            Kind::PluginConfig => put(&mut self.next.plugin_configs, &key.id, form.map(|form| form.map(Chain::new))),
            _ => put(&mut self.next.consumer_groups, &key.id, form),
        }
    }

    fn plugins(&self, key: &Key, body: &Value) -> Result<Vec<Built>, Vec<Fault>> {
        let (built, faults) = self.compiler.build_plugins(&self.next, plugins_of(body), Placement::Object, key);
        if faults.is_empty() { Ok(built) } else { Err(faults) }
    }

    fn global_rule(&mut self, key: &Key) {
        let form = self.form(key, |pass, body| {
            pass.compiler.typed::<GlobalRule>(body)?;
            pass.plugins(key, body)
        });
        match form {
            Some(plugins) => self.next.global_rules.set(&key.id, plugins),
            None => self.next.global_rules.quarantine(&key.id),
        }
    }

    fn holder(&mut self, key: &Key) {
        let form = self.form(key, |pass, body| people::compile(&pass.compiler, &pass.next, key, body));
        if let Some(holder) = form {
            self.next.set_holder(key, holder);
        }
    }

    fn ssl(&mut self, key: &Key) {
        let Some(form) = self.form(key, |pass, body| pass.compiler.ssl(key, body, None)) else {
            // Never had a good form: an upstream that names it cannot tell whether it is for upstreams.
            if !self.next.ssls.contains_key(&*key.id) && !self.next.client_identities.contains_key(&*key.id) {
                let unusable = Err(ClientCertificateFault::Unusable);
                self.next.client_identities.insert(key.id.clone(), unusable);
            }
            return;
        };
        if let Some(old) = self.next.ssls.remove(&*key.id) {
            self.next.certificates.remove(&old);
        }
        self.next.client_identities.remove(&*key.id);
        match form {
            Some(SslForm::Server(ssl)) => {
                tell_of_old_versions(key, ssl.versions.as_deref());
                let ssl = Arc::new(ssl);
                self.next.certificates.insert(&ssl);
                self.next.ssls.insert(key.id.clone(), ssl);
            }
            Some(SslForm::Client(identity)) => drop(self.next.client_identities.insert(key.id.clone(), identity)),
            Some(SslForm::Off) | None => {}
        }
        self.next.stapled.set(&key.id, self.next.ssls.get(&*key.id));
    }

    fn route(&mut self, key: &Key) {
        self.depend(key);
        let form = self.form(key, |pass, body| route::compile(&pass.compiler, &pass.next, key, body, false));
        let form = match form {
            Some(form) => form,
            None if self.next.routes.get(&*key.id).is_some_and(|route| !route.stand_in) => return,
            // Never had a good form: what its conditions match is refused rather than served without its plugins.
            None => {
                let body = self.next.objects.get(key).and_then(|object| serde_json::from_slice(&object.body).ok());
                body.and_then(|body: Value| route::compile(&self.compiler, &self.next, key, &body, true).ok())
            }
        };
        self.next.field_routes.remove(&key.id);
        self.next.document_routes.remove(&key.id);
        self.next.router.remove(&key.id);
        let Some(form) = form else {
            self.next.routes.remove(&*key.id);
            return;
        };
        if let Some(entry) = form.entry {
            self.next.router.insert(entry);
            if form.reads.fields {
                self.next.field_routes.insert(key.id.clone());
            }
            if form.reads.document {
                self.next.document_routes.insert(key.id.clone());
            }
        }
        self.next.routes.insert(key.id.clone(), form.route);
    }

    fn stream_route(&mut self, key: &Key, registry: &Registry) {
        let body = self.next.objects.get(key).and_then(|object| serde_json::from_slice::<Value>(&object.body).ok());
        self.next.stream_routes.depend(&key.id, body.as_ref().and_then(stream::service_of));
        let form = self.form(key, |pass, body| stream::compile(&pass.compiler, registry, &pass.next, key, body, false));
        let form = match form {
            Some(form) => form,
            None if self.next.stream_routes.has_form(&key.id) => return,
            // Never had a good form: what its conditions match is closed rather than passed on without its plugins.
            None => body.and_then(|body| stream::compile(&self.compiler, registry, &self.next, key, &body, true).ok()),
        };
        self.next.stream_routes.set(&key.id, form);
    }

    /// Keeps the index from services and plugin_configs to the routes that name them.
    fn depend(&mut self, key: &Key) {
        let now: Vec<Key> = match self.next.objects.get(key) {
            Some(object) => serde_json::from_slice::<Value>(&object.body)
                .map(|body| route::merged_from(&body).collect())
                .unwrap_or_default(),
            None => Vec::new(),
        };
        let before = self.next.merged_from.remove(&*key.id).unwrap_or_default();
        for old in before.iter().filter(|old| !now.contains(old)) {
            let mut routes = self.next.dependents.get(old).cloned().unwrap_or_default();
            routes.remove(&key.id);
            if routes.is_empty() {
                self.next.dependents.remove(old);
            } else {
                self.next.dependents.insert(old.clone(), routes);
            }
        }
        for new in now.iter().filter(|new| !before.contains(new)) {
            let mut routes = self.next.dependents.get(new).cloned().unwrap_or_default();
            routes.insert(key.id.clone());
            self.next.dependents.insert(new.clone(), routes);
        }
        if !now.is_empty() {
            self.next.merged_from.insert(key.id.clone(), now.into());
        }
    }
}

/// Says of an ssl object that it names versions of TLS which are never offered.
fn tell_of_old_versions(object: &Key, versions: Option<&[TlsVersion]>) {
    let Some(versions) = versions else { return };
    if versions.iter().all(|version| *version == TlsVersion::V1_1) {
        tracing::error!(
            %object,
            "`ssl_protocols` names nothing newer than TLSv1.1, which is never offered: every handshake under the names of this \
             ssl object is refused; add TLSv1.2 or TLSv1.3"
        );
    } else if versions.contains(&TlsVersion::V1_1) {
        tracing::warn!(
            %object,
            "`ssl_protocols` names TLSv1.1, which is never offered: clients need one of the newer versions that it names"
        );
    }
}
