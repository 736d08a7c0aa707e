//! `upgrade`: which protocols clients may change to with `Upgrade` (`docs/spec/plugins/upgrade.md`).
//!
//! The plugin only leaves the names with the request; the data plane asks for them and makes the tunnel.

mod config;
#[cfg(test)]
mod tests;

use config::Config;
use milecastle_plugin_api::{
    BuildCx, ConfigError, Example, Flow, Hooks, OnAccess, Plugin, PluginDef, RequestCx, is_reference,
};
use std::sync::Arc;

pub(crate) static DEF: PluginDef = PluginDef::of::<Upgrade>();

struct Upgrade(Arc<[String]>);

impl Plugin for Upgrade {
    type Config = Config;
    const NAME: &'static str = "upgrade";
    const PRIORITY: i32 = 984;
    const EXAMPLES: &'static [Example] = &[
        Example::new("`kubectl exec`, `attach` and `port-forward`", include_str!("examples/kubernetes.json")),
        Example::new("`docker attach` and `docker exec`", include_str!("examples/docker.json")),
    ];

    fn compile(config: Config, _: &BuildCx<'_>) -> Result<Self, Vec<ConfigError>> {
        let (mut named, mut faults) = (Vec::new(), Vec::new());
        for (n, protocol) in config.protocols.into_iter().enumerate() {
            match check(&protocol) {
                // It allows nothing while nobody knows what it stands for.
                _ if is_reference(&protocol) => {}
                Ok(()) => named.push(protocol),
                Err(fault) => faults.push(ConfigError::at(format!("/protocols/{n}"), fault)),
            }
        }
        if faults.is_empty() { Ok(Self(named.into())) } else { Err(faults) }
    }

    fn hooks(h: Hooks<Self>) -> Hooks<Self> {
        h.access()
    }
}

/// Whether a protocol may be allowed; if not, why. What came in place of a reference is checked here too.
fn check(protocol: &str) -> Result<(), String> {
    let (name, version) = protocol.split_once('/').unwrap_or((protocol, "any"));
    if !is_token(name) || !is_token(version) {
        return Err(format!("`{protocol}` is no protocol: write its name, or its name, a slash and its version"));
    }
    if carries_requests(name) {
        return Err(format!("`{protocol}` cannot be allowed: behind it requests would pass by routes and plugins"));
    }
    Ok(())
}

/// Whether this is a name of HTTP, or of TLS, in whose records anything may be. Not all versions stand behind a slash: drafts are
/// called `h2c-14`, `h3-29`, `HTTP-draft-04/2.0`, and others have it in the name, as `TLSv1.3`.
fn carries_requests(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let family = name.split(|letter: char| !letter.is_ascii_alphanumeric()).next().unwrap_or_default();
    let unnumbered = family.trim_end_matches(|letter: char| letter.is_ascii_digit());
    matches!(family, "h1" | "h2" | "h2c" | "h3" | "hq")
        || matches!(unnumbered, "http" | "httpv" | "https" | "ssl" | "sslv" | "tls" | "tlsv")
}

/// RFC 9110 §5.6.2.
fn is_token(text: &str) -> bool {
    let is_of_tokens = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(is_of_tokens)
}

impl OnAccess for Upgrade {
    fn on_access<'a>(&'a self, cx: &'a mut RequestCx) -> Flow<'a> {
        cx.upgrades = Some(self.0.clone());
        Flow::Next
    }
}
