//! `proxy-rewrite`: rewrites what is sent upstream (`docs/spec/plugins/proxy-rewrite.md`).

mod config;
mod edits;
mod encode;
#[cfg(test)]
mod tests;
mod uri;

use config::Config;
use edits::Edits;
use http::{HeaderValue, Method, StatusCode};
use milecastle_plugin_api::{
    BuildCx, ConfigError, Example, Flow, Hooks, OnRewrite, Plugin, PluginDef, Reply, RequestCx, VarValue, schema_of,
};
use serde_json::Value;
use uri::{Outcome, Uri};

pub(crate) static DEF: PluginDef = PluginDef::of::<ProxyRewrite>();

struct ProxyRewrite {
    uri: Uri,
    raw: bool,
    method: Option<Method>,
    host: Option<HeaderValue>,
    headers: Edits,
}

impl Plugin for ProxyRewrite {
    type Config = Config;
    const NAME: &'static str = "proxy-rewrite";
    const PRIORITY: i32 = 1008;
    const EXAMPLES: &'static [Example] = &[
        Example::new("Another path and Host", include_str!("examples/path.json")),
        Example::new("Parts of the path into path and header", include_str!("examples/regex.json")),
        Example::new("Headers only", include_str!("examples/headers.json")),
    ];

    fn schema() -> Value {
        let mut schema = schema_of::<Config>();
        schema["minProperties"] = 1.into();
        schema
    }

    fn compile(config: Config, cx: &BuildCx<'_>) -> Result<Self, Vec<ConfigError>> {
        let uri = Uri::new(config.uri.as_deref(), config.regex_uri.as_deref(), cx);
        let headers = Edits::new(config.headers.as_ref());
        let (uri, headers) = match (uri, headers) {
            (Ok(uri), Ok(headers)) => (uri, headers),
            (uri, headers) => return Err([uri.err(), headers.err()].into_iter().flatten().flatten().collect()),
        };
        Ok(Self {
            uri,
            headers,
            raw: config.use_real_request_uri_unsafe,
            // An unresolved secret reference is neither a method nor a host: the request keeps its own.
            method: config.method.and_then(|method| method.parse().ok()),
            host: config.host.and_then(|host| HeaderValue::try_from(host).ok()),
        })
    }

    fn hooks(h: Hooks<Self>) -> Hooks<Self> {
        h.rewrite()
    }
}

impl OnRewrite for ProxyRewrite {
    fn on_rewrite<'a>(&'a self, cx: &'a mut RequestCx) -> Flow<'a> {
        if let Some(host) = &self.host {
            cx.upstream.host = Some(host.clone());
        }
        let groups = match self.uri.apply(&cx.request, cx, self.raw) {
            Ok(Outcome::Unchanged) => None,
            Ok(Outcome::Rewritten(made, groups)) => {
                cx.request.rewrite(made.path, made.target);
                groups
            }
            Err(text) => return Flow::Reply(Reply::error_msg(StatusCode::INTERNAL_SERVER_ERROR, &text)),
        };
        self.headers.apply(cx, groups.as_ref());
        if let Some(groups) = groups {
            cx.set_var("proxy_rewrite_regex_uri_captures", VarValue::List(groups));
        }
        if let Some(method) = &self.method {
            cx.request.method = method.clone();
        }
        Flow::Next
    }
}
