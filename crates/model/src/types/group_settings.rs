//! What decides what can be built in a gateway group. The names are those of the reference's static configuration.

use serde::{Deserialize, Serialize};

use super::de::some_list;

/// The settings of a gateway group: the one object of [`crate::Kind::GroupSettings`], or the defaults where there is none.
///
/// A setting belongs here if what is accepted or built depends on it. What is about a process (ports, threads, caps,
/// `plugin_attr`) belongs to the file of the node. The member `discovery` is not here: nothing that is built depends on it, and
/// its types are those of the node's file (`milecastle_settings::Registries`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GroupSettings {
    /// Names of the enabled plugins, in any order; absent: every built-in one.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "some_list")]
    pub plugins: Option<Vec<String>>,
    /// Which traffic the group has routes for.
    pub proxy_mode: ProxyMode,
    /// Names of the plugins that TCP and UDP routes may have; absent: those of `docs/spec/stream.md` §1.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "some_list")]
    pub stream_plugins: Option<Vec<String>>,
    /// How routes are found.
    pub router: RouterChoice,
    /// TLS with upstreams.
    pub upstream_tls: UpstreamTlsRules,
}

/// See [`GroupSettings::proxy_mode`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProxyMode {
    /// HTTP alone: stream routes are refused.
    #[default]
    #[serde(rename = "http")]
    Http,
    /// TCP and UDP alone. Routes of HTTP are taken all the same: a node serves them where it has listeners for HTTP.
    #[serde(rename = "stream")]
    Stream,
    /// Both.
    #[serde(rename = "http&stream")]
    HttpAndStream,
}

impl ProxyMode {
    /// Whether there are stream routes.
    pub const fn stream(self) -> bool {
        !matches!(self, Self::Http)
    }
}

/// See [`GroupSettings::router`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RouterChoice {
    /// Of HTTP requests (`docs/spec/routing.md` §1).
    pub http: HttpRouter,
}

/// See [`GroupSettings::upstream_tls`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UpstreamTlsRules {
    /// Whose certificates are verified. The file of a node may ask for more, not for less.
    pub verify: VerifyUpstreams,
}

/// Whose certificates are verified among upstreams', for a gateway group and in the file of a node. What asks for more is greater.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VerifyUpstreams {
    /// Nobody's.
    #[default]
    Off,
    /// Those of upstreams with `tls.verify: true`.
    Upstream,
    /// Everybody's.
    Required,
}

/// See [`RouterChoice::http`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HttpRouter {
    /// Host, then path, then priority.
    #[default]
    RadixtreeHostUri,
    /// Path, then priority; the host is just a condition.
    RadixtreeUri,
    /// As [`HttpRouter::RadixtreeUri`], with `:name` parameters in paths.
    RadixtreeUriWithParameter,
}
