//! `key-auth`: identifies a consumer by an API key (`docs/spec/plugins/key-auth.md`).

mod config;
#[cfg(test)]
mod tests;

use crate::auth::Challenge;
use config::{Config, Credential};
use http::{HeaderName, HeaderValue};
use milecastle_plugin_api::{
    Auth, BuildCx, ConfigError, CredentialMatch, CredentialPlaces, Example, Flow, Hooks, OnRewrite, Plugin, PluginDef,
    RequestCx, fields, query, schema_of,
};

pub(crate) static DEF: PluginDef = PluginDef::of::<KeyAuth>();

struct KeyAuth {
    /// `None` if the configured name can be no header's, so that no request has it.
    header: Option<HeaderName>,
    query: Box<str>,
    hide_credentials: bool,
    challenge: Challenge,
}

const MISSING: &str = "Missing API key in request";
const INVALID: &str = "Invalid API key in request";

/// What a request showed.
enum Shown {
    InHeader(Option<CredentialMatch>),
    InQuery(Option<CredentialMatch>),
    Nothing,
}

impl Plugin for KeyAuth {
    type Config = Config;
    const NAME: &'static str = "key-auth";
    const PRIORITY: i32 = 2500;
    const AUTH: Option<Auth> = Some(Auth { key: "key", unique: true, schema: schema_of::<Credential> });
    const ENCRYPTED: &'static [&'static str] = &["key"];
    const EXAMPLES: &'static [Example] = &[
        Example::new("Header or query argument `apikey`", include_str!("examples/default.json")),
        Example::new("Own names, key hidden from the upstream", include_str!("examples/own-names.json")),
        Example::new("Visitors without a key", include_str!("examples/anonymous.json")),
        Example::credential("A consumer's key", include_str!("examples/credential.json")),
    ];

    fn compile(config: Config, _: &BuildCx<'_>) -> Result<Self, Vec<ConfigError>> {
        Ok(Self {
            header: config.header.parse().ok(),
            query: config.query.into(),
            hide_credentials: config.hide_credentials,
            challenge: Challenge::new("apikey", &config.realm, config.anonymous_consumer),
        })
    }

    fn hooks(h: Hooks<Self>) -> Hooks<Self> {
        h.rewrite()
    }

    fn credential_places(&self) -> CredentialPlaces {
        CredentialPlaces { headers: self.header.iter().cloned().collect(), query_args: vec![self.query.clone()] }
    }
}

impl OnRewrite for KeyAuth {
    fn on_rewrite<'a>(&'a self, cx: &'a mut RequestCx) -> Flow<'a> {
        let (found, failure) = match self.shown(cx) {
            Shown::InHeader(found) => {
                if self.hide_credentials && found.is_some() {
                    self.hide_header(cx);
                }
                (found, INVALID)
            }
            Shown::InQuery(found) => {
                if self.hide_credentials && found.is_some() {
                    cx.request.remove_query_arg(&self.query);
                }
                (found, INVALID)
            }
            Shown::Nothing => (None, MISSING),
        };
        if let Some(found) = found {
            cx.attach_consumer(found);
            return Flow::Next;
        }
        if self.hide_credentials && self.challenge.has_anonymous() {
            self.hide_header(cx);
            cx.request.remove_query_arg(&self.query);
        }
        self.challenge.failed(cx, failure)
    }
}

impl KeyAuth {
    fn shown(&self, cx: &RequestCx) -> Shown {
        let look_up = |key: &str| cx.view.credential(Self::NAME, key);
        if let Some(value) = self.header.as_ref().and_then(|name| fields::get(&cx.request.headers, name)) {
            return Shown::InHeader(text(value).and_then(look_up));
        }
        let mut args = query::args(cx.request.query().unwrap_or_default()).filter(|arg| arg.name == *self.query);
        match (args.next(), args.next()) {
            (None, _) => Shown::Nothing,
            (Some(only), None) => Shown::InQuery(only.value.as_deref().and_then(look_up)),
            (Some(_), Some(_)) => Shown::InQuery(None),
        }
    }

    fn hide_header(&self, cx: &mut RequestCx) {
        if let Some(name) = &self.header {
            cx.request.headers.remove(name);
        }
    }
}

fn text(value: &HeaderValue) -> Option<&str> {
    std::str::from_utf8(value.as_bytes()).ok()
}
