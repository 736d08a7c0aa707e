//! Attributes of secret managers.

use super::environment::EnvironmentSecrets;
use milecastle_export::{Target, without_login};
use milecastle_model::{ServerUrlError, check_server_url};
use milecastle_plugin_api::{Secrets as _, is_reference};
use serde_json::Value;

/// The attributes of an object. What is wrong with one is told with its name and without its value.
pub(super) struct Fields<'a> {
    body: &'a Value,
    /// What stands before the names of attributes: where they are.
    within: &'static str,
}

impl<'a> Fields<'a> {
    pub(super) fn of(body: &'a Value) -> Self {
        Self { body, within: "" }
    }

    /// Those of an object in another place, which `within` names.
    pub(super) fn within(body: &'a Value, within: &'static str) -> Self {
        Self { body, within }
    }

    /// An attribute as it stands.
    pub(super) fn value(&self, name: &str) -> Option<&'a Value> {
        self.body.get(name).filter(|value| !value.is_null())
    }

    /// A complaint about an attribute.
    pub(super) fn fault(&self, name: &str, why: &str) -> String {
        format!("`{}{name}` {why}", self.within)
    }

    /// A text that has to be there.
    pub(super) fn text(&self, name: &str) -> Result<String, String> {
        self.optional(name)?.ok_or_else(|| self.fault(name, "is missing"))
    }

    /// A text that may be there. It may be a reference to the environment.
    pub(super) fn optional(&self, name: &str) -> Result<Option<String>, String> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::String(text)) if is_reference(text) => match EnvironmentSecrets.resolve(text) {
                Some(text) => Ok(Some(text)),
                None => Err(self.fault(name, "is a reference that the environment does not resolve")),
            },
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(self.fault(name, "must be a string")),
        }
    }

    /// The URL of an attribute's text: a server, and a path without `/` at its end that may be empty. A login before the host, which
    /// cannot be written any more, is passed over.
    pub(super) fn url(&self, name: &str, text: &str, verify: bool) -> Result<Target, String> {
        let fault = |error: ServerUrlError| self.fault(name, &error.to_string());
        let plain = without_login(text);
        // As the control plane does. The path is written as it is sent: what is signed of it needs no other form.
        check_server_url(plain.as_deref().unwrap_or(text)).map_err(fault)?;
        let mut target = Target::parse(text, verify).map_err(|_| fault(ServerUrlError))?;
        if plain.is_some() {
            tracing::warn!(
                attribute = format!("{}{name}", self.within),
                server = %target,
                "the address of a secret manager has a login, which is sent to nobody: take it out"
            );
        }
        target.path = match target.path.trim_matches('/') {
            "" => String::new(),
            path => format!("/{path}"),
        };
        Ok(target)
    }
}
