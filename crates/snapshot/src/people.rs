//! Consumers, and the credentials that lead to them.

use crate::compiler::{Compiler, MetadataOf};
use crate::route::plugins_of;
use crate::snapshot::Snapshot;
use http::HeaderValue;
use milecastle_matching::PatternBudget;
use milecastle_model::{Fault, Key, Kind, is_reference};
use milecastle_plugin_api::{Built, Consumer, Placement};
use serde_json::{Map, Value};
use std::sync::Arc;

/// What a consumer or a credential object brings in, compiled.
pub(crate) struct Holder {
    /// Plugin, key, configuration of each credential.
    credentials: Vec<(&'static str, Box<str>, Value)>,
    /// Of a consumer: its other plugins.
    plugins: Vec<Built>,
    group_id: Option<Arc<str>>,
    labels: Map<String, Value>,
}

fn placement(key: &Key) -> Placement {
    if key.kind == Kind::Credential { Placement::Credential } else { Placement::Consumer }
}

/// All faults of the plugins of a consumer or credential that is being written.
pub(crate) fn check(
    compiler: &Compiler,
    key: &Key,
    body: &Value,
    metadata: &MetadataOf<'_>,
    patterns: &PatternBudget,
) -> Vec<Fault> {
    let unfit = unfit(compiler, key, body);
    if !unfit.is_empty() {
        return unfit;
    }
    invalid(compiler.check_plugins(plugins_of(body), placement(key), key, metadata, patterns))
}

/// A credential holds nothing but authentication plugins.
fn unfit(compiler: &Compiler, key: &Key, body: &Value) -> Vec<Fault> {
    if key.kind != Kind::Credential {
        return Vec::new();
    }
    let fault = |plugin: &String| {
        let reason = match compiler.registry().get(plugin) {
            None => format!("unknown plugin {plugin}{}", compiler.registry().suggestion(plugin)),
            Some(def) if def.auth.is_none() => "only supports auth type plugins in consumer credential".into(),
            Some(_) => return None,
        };
        Some(Fault::rule(format!("/plugins/{plugin}"), reason))
    };
    plugins_of(body).keys().filter_map(fault).collect()
}

fn invalid(faults: Vec<Fault>) -> Vec<Fault> {
    let explain =
        |fault: Fault| Fault { message: format!("invalid plugins configuration: {}", fault.message), ..fault };
    faults.into_iter().map(explain).collect()
}

/// Compiles the plugins of a consumer or credential. A credential whose references cannot be resolved is left out: the
/// literal text of a reference never authenticates anyone (`docs/spec/plugins/_auth-common.md` §6.4).
pub(crate) fn compile(compiler: &Compiler, base: &Snapshot, key: &Key, body: &Value) -> Result<Holder, Vec<Fault>> {
    let unfit = unfit(compiler, key, body);
    if !unfit.is_empty() {
        return Err(unfit);
    }
    let plugins = plugins_of(body);
    let (built, faults) = compiler.build_plugins(base, plugins, placement(key), key);
    if !faults.is_empty() {
        return Err(invalid(faults));
    }
    let registry = compiler.registry();
    let mut credentials = Vec::new();
    for (name, config) in plugins {
        let Some((def, auth)) = registry.get(name).and_then(|def| Some((def, def.auth?))) else { continue };
        if config.pointer("/_meta/disable") == Some(&Value::Bool(true)) {
            continue;
        }
        let mut config = config.clone();
        if resolve(&mut config, &|text| registry.secrets().resolve(text)).is_err() {
            // At `debug`: whoever resolves says which reference, and whether it has been asked for yet.
            tracing::debug!(object = %key, plugin = def.name, "credential left out: a reference in it cannot be resolved");
            continue;
        }
        if let Some(text) = config.get(auth.key).and_then(Value::as_str) {
            credentials.push((def.name, text.into(), config));
        }
    }
    Ok(Holder {
        credentials,
        plugins: built,
        group_id: body.get("group_id").and_then(id_text),
        labels: body.get("labels").and_then(Value::as_object).cloned().unwrap_or_default(),
    })
}

fn id_text(id: &Value) -> Option<Arc<str>> {
    match id {
        Value::String(text) => Some(text.as_str().into()),
        Value::Number(number) => Some(number.to_string().into()),
        _ => None,
    }
}

fn resolve(value: &mut Value, secrets: &dyn Fn(&str) -> Option<String>) -> Result<(), ()> {
    match value {
        Value::String(text) => {
            if is_reference(text) {
                *text = secrets(text).ok_or(())?;
            }
            Ok(())
        }
        Value::Array(items) => items.iter_mut().try_for_each(|item| resolve(item, secrets)),
        Value::Object(members) => members.values_mut().try_for_each(|member| resolve(member, secrets)),
        _ => Ok(()),
    }
}

impl Snapshot {
    /// Puts the compiled form of a consumer or credential in place, `None` if the object is gone.
    pub(crate) fn set_holder(&mut self, key: &Key, holder: Option<Holder>) {
        if let Some(old) = self.holders.get(key).cloned() {
            for (plugin, text, _) in &old.credentials {
                self.credentials.remove(plugin, text, key);
            }
        }
        match holder {
            Some(holder) => drop(self.holders.insert(key.clone(), Arc::new(holder))),
            None => drop(self.holders.remove(key)),
        }
    }

    /// Makes the consumer anew from what it and its group hold now, and leads its credentials to it.
    pub(crate) fn refresh_consumer(&mut self, name: &str) {
        let own = Key::new(Kind::Consumer, name);
        let Some(holder) = self.holders.get(&own).cloned() else {
            self.consumers.remove(name);
            for key in self.credentials_of(name) {
                self.set_credentials(&key, None);
            }
            return;
        };
        // A group in quarantine is like a missing one: its plugins must not be left out silently.
        let group = holder.group_id.as_ref().map(|id| self.consumer_groups.get(&**id).and_then(Option::as_ref));
        let group_plugins = group.flatten().map(|group| group.as_slice()).unwrap_or_default();
        let is_own = |built: &&Built| holder.plugins.iter().all(|own| own.name() != built.name());
        let runs = |built: &&Built| built.def().auth.is_none();
        let overlay = group_plugins.iter().filter(is_own).chain(&holder.plugins).filter(runs).cloned().collect();
        let Ok(name_header) = HeaderValue::from_str(name) else { return };
        let consumer = Arc::new(Consumer {
            name: name.into(),
            name_header,
            group_id: holder.group_id.clone(),
            group_found: group.is_none_or(|found| found.is_some()),
            custom_id: holder
                .labels
                .get("custom_id")
                .and_then(Value::as_str)
                .and_then(|id| HeaderValue::from_str(id).ok()),
            labels: holder.labels.clone(),
            overlay,
        });
        self.consumers.insert(name.into(), consumer.clone());
        self.set_credentials(&own, Some(&consumer));
        for key in self.credentials_of(name) {
            self.set_credentials(&key, Some(&consumer));
        }
    }

    fn set_credentials(&mut self, key: &Key, consumer: Option<&Arc<Consumer>>) {
        let Some(holder) = self.holders.get(key).cloned() else { return };
        for (plugin, text, config) in &holder.credentials {
            match consumer {
                Some(consumer) => self.credentials.insert(plugin, text, key.clone(), consumer.clone(), config.clone()),
                None => self.credentials.remove(plugin, text, key),
            }
        }
    }

    fn credentials_of(&self, consumer: &str) -> Vec<Key> {
        let first = Key::credential(consumer, "");
        let below = |key: &&Key| key.kind == Kind::Credential && key.id.starts_with(&*first.id);
        self.holders.range(first.clone()..).map(|(key, _)| key).take_while(below).cloned().collect()
    }

    /// Consumers that name this group.
    pub(crate) fn members_of(&self, group: &str) -> Vec<Arc<str>> {
        let first = Key::new(Kind::Consumer, "");
        let consumers = self.holders.range(first..).take_while(|(key, _)| key.kind == Kind::Consumer);
        consumers
            .filter(|(_, holder)| holder.group_id.as_deref() == Some(group))
            .map(|(key, _)| key.id.clone())
            .collect()
    }
}
