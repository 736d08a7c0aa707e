//! The compiler of a gateway group's settings.

use super::Compiler;
use super::pass::Pass;
use crate::snapshot::Snapshot;
use milecastle_matching::RouterMode;
use milecastle_model::{Fault, GroupSettings, HttpRouter, Key, Kind, Object};
use milecastle_plugin_api::Registry;
use milecastle_settings::Registries;
use serde_json::Value;
use std::sync::Arc;

impl Compiler {
    /// The compiler of a group in which `stored` is the object of its settings; without one they are the default ones.
    ///
    /// # Errors
    /// All faults of the settings: another version wrote what this one does not know.
    pub fn of_group(&self, stored: Option<&Object>) -> Result<Self, Vec<Fault>> {
        let Some(object) = stored else { return Ok(self.under_default()) };
        let body = serde_json::from_slice(&object.body)
            .map_err(|error| vec![Fault::configuration("", format!("not JSON: {error}"))])?;
        self.under_settings(&body)
    }

    /// As [`Self::of_group`], of settings that are not stored yet.
    ///
    /// # Errors
    /// All faults of the settings.
    pub fn under_settings(&self, body: &Value) -> Result<Self, Vec<Fault>> {
        let faults = milecastle_model::check(Kind::GroupSettings, body);
        if !faults.is_empty() {
            return Err(faults);
        }
        Ok(self.under(self.typed(body)?, registries(body)?))
    }

    fn under_default(&self) -> Self {
        self.under(GroupSettings::default(), Registries::default())
    }

    fn under(&self, settings: GroupSettings, discovery: Registries) -> Self {
        // Discovery compares the pointers to see whether the registries have changed.
        let discovery = if discovery == *self.discovery { self.discovery.clone() } else { Arc::new(discovery) };
        if settings == self.settings {
            return Self { discovery, ..self.clone() };
        }
        let mode = match settings.router.http {
            HttpRouter::RadixtreeHostUri => RouterMode::HostUri,
            HttpRouter::RadixtreeUri => RouterMode::Uri,
            HttpRouter::RadixtreeUriWithParameter => RouterMode::UriWithParameter,
        };
        let registry = Arc::new(self.registry.enabling(settings.plugins.as_deref()));
        let sessions = self.sessions.as_ref().filter(|_| settings.proxy_mode.stream());
        let streams = sessions.map(|registry| Arc::new(registry.enabling(settings.stream_plugins.as_deref())));
        let (sessions, no_plugins) = (self.sessions.clone(), self.no_plugins.clone());
        Self { settings, discovery, registry, sessions, streams, mode, no_plugins }
    }

    /// The settings of the group.
    pub fn settings(&self) -> &GroupSettings {
        &self.settings
    }

    /// The registries that services are asked of, as the settings of the group name them. The same object until they are others.
    pub fn discovery(&self) -> &Arc<Registries> {
        &self.discovery
    }

    /// Whether everything is accepted and built under the settings of `other` as under these.
    pub fn builds_like(&self, other: &Self) -> bool {
        self.settings == other.settings
    }

    /// Plugins that settings enable and that there are not. A node of an older version passes them over: the objects that
    /// have them are quarantined there.
    pub(super) fn not_built_in(&self, settings: &Value) -> Vec<Fault> {
        let lists = [("plugins", Some(&self.registry)), ("stream_plugins", self.sessions.as_ref())];
        let faults = |(member, registry): (&str, Option<&Arc<Registry>>)| {
            let named = settings.get(member).and_then(Value::as_array).into_iter().flatten();
            let fault = |(n, name): (usize, &Value)| {
                let (registry, name) = (registry?, name.as_str()?);
                let text = registry.built_in(name).is_none().then(|| registry.not_built_in(name))?;
                Some(Fault::rule(format!("/{member}/{n}"), text))
            };
            named.enumerate().filter_map(fault).collect::<Vec<_>>()
        };
        lists.into_iter().flat_map(faults).collect()
    }
}

impl Pass {
    /// Takes the present settings over. Gives whether everything is built otherwise under them: then nothing is built yet.
    pub(super) fn settings(&mut self) -> bool {
        let form = self.form(&Key::group_settings(), |pass, body| pass.compiler.under_settings(body));
        let Some(compiler) = form.map(|settings| settings.unwrap_or_else(|| self.compiler.under_default())) else {
            return false;
        };
        if compiler.builds_like(&self.compiler) {
            self.next.compiler = compiler.clone();
            self.compiler = compiler;
            return false;
        }
        let Snapshot { lineage, revision, objects, .. } = &self.next;
        let empty = Snapshot::empty(lineage, &compiler);
        self.next = Snapshot { revision: *revision, objects: objects.clone(), ..empty };
        self.compiler = compiler;
        true
    }
}

/// The registries in the settings of a group.
pub(super) fn registries(settings: &Value) -> Result<Registries, Vec<Fault>> {
    let Some(written) = settings.get("discovery") else { return Ok(Registries::default()) };
    let within = |fault: Fault| Fault { path: format!("/discovery{}", fault.path), ..fault };
    Registries::of_group(written).map_err(|faults| faults.into_iter().map(within).collect())
}
