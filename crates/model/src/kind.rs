//! The kinds of objects and the names they go by.

use std::fmt;

/// A kind of object: the resources of the Admin API (`docs/spec/admin-api.md` §4), and what else a gateway group is
/// configured by.
///
/// The order of the variants is the order in which a full configuration is best loaded for reading by people; nothing
/// relies on it for correctness.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Matches requests and says what happens to them.
    Route,
    /// What several routes share.
    Service,
    /// A set of nodes with balancing, health checks and timeouts.
    Upstream,
    /// A known caller; its id is its username.
    Consumer,
    /// One authentication entry of a consumer; its id is `<consumer>/credentials/<cid>`.
    Credential,
    /// Certificates, for serving clients or for presenting to upstreams.
    Ssl,
    /// Plugins that run on every request.
    GlobalRule,
    /// Plugins that several routes share.
    PluginConfig,
    /// Settings of one plugin for all its uses; its id is the plugin's name.
    PluginMetadata,
    /// Plugins that several consumers share.
    ConsumerGroup,
    /// Matches TCP and UDP sessions.
    StreamRoute,
    /// A protobuf definition for transcoding.
    Proto,
    /// Access to a secret manager; its id is `<manager>/<id>`.
    Secret,
    /// The cost of a GraphQL field; its id is `<service>/graphql_cost_decorations/<id>`.
    GraphqlCostDecoration,
    /// What decides what can be built in the gateway group ([`crate::GroupSettings`]); there is one, [`crate::Key::group_settings`].
    /// It is no resource of the Admin API.
    GroupSettings,
}

impl Kind {
    /// Every kind, in declaration order.
    pub const ALL: &'static [Kind] = &[
        Kind::Route,
        Kind::Service,
        Kind::Upstream,
        Kind::Consumer,
        Kind::Credential,
        Kind::Ssl,
        Kind::GlobalRule,
        Kind::PluginConfig,
        Kind::PluginMetadata,
        Kind::ConsumerGroup,
        Kind::StreamRoute,
        Kind::Proto,
        Kind::Secret,
        Kind::GraphqlCostDecoration,
        Kind::GroupSettings,
    ];

    /// Stable name for storage, the wire and `GET /schema/{name}`: `route`, `plugin_config`, …
    pub fn name(self) -> &'static str {
        match self {
            Kind::Route => "route",
            Kind::Service => "service",
            Kind::Upstream => "upstream",
            Kind::Consumer => "consumer",
            Kind::Credential => "credential",
            Kind::Ssl => "ssl",
            Kind::GlobalRule => "global_rule",
            Kind::PluginConfig => "plugin_config",
            Kind::PluginMetadata => "plugin_metadata",
            Kind::ConsumerGroup => "consumer_group",
            Kind::StreamRoute => "stream_route",
            Kind::Proto => "proto",
            Kind::Secret => "secret",
            Kind::GraphqlCostDecoration => "graphql_cost_decoration",
            Kind::GroupSettings => "group_settings",
        }
    }

    /// Path segment of the collection: `routes`, `ssls`, …; for sub-resources the last fixed segment (`credentials`).
    pub fn collection(self) -> &'static str {
        match self {
            Kind::Route => "routes",
            Kind::Service => "services",
            Kind::Upstream => "upstreams",
            Kind::Consumer => "consumers",
            Kind::Credential => "credentials",
            Kind::Ssl => "ssls",
            Kind::GlobalRule => "global_rules",
            Kind::PluginConfig => "plugin_configs",
            Kind::PluginMetadata => "plugin_metadata",
            Kind::ConsumerGroup => "consumer_groups",
            Kind::StreamRoute => "stream_routes",
            Kind::Proto => "protos",
            Kind::Secret => "secrets",
            Kind::GraphqlCostDecoration => "graphql_cost_decorations",
            Kind::GroupSettings => "group_settings",
        }
    }

    /// The word that error messages use: `route`, `plugin config`, … (`docs/spec/admin-api.md` §4, column *kind*).
    pub fn word(self) -> &'static str {
        match self {
            Kind::GlobalRule => "global rule",
            Kind::PluginConfig => "plugin config",
            Kind::ConsumerGroup => "consumer group",
            Kind::StreamRoute => "stream route",
            Kind::GraphqlCostDecoration => "graphql cost decoration",
            Kind::GroupSettings => "group settings",
            other => other.name(),
        }
    }

    /// The kind below whose collection objects of this kind live: a credential's is the consumer.
    pub fn parent(self) -> Option<Kind> {
        match self {
            Kind::Credential => Some(Kind::Consumer),
            Kind::GraphqlCostDecoration => Some(Kind::Service),
            _ => None,
        }
    }

    /// Whether it is a resource of the Admin API.
    pub fn is_resource(self) -> bool {
        self != Kind::GroupSettings
    }

    /// Inverse of [`Kind::name`].
    pub fn from_name(name: &str) -> Option<Kind> {
        Kind::ALL.iter().copied().find(|kind| kind.name() == name)
    }

    /// Inverse of [`Kind::collection`], for resources of the Admin API.
    pub fn from_collection(collection: &str) -> Option<Kind> {
        Kind::ALL.iter().copied().find(|kind| kind.is_resource() && kind.collection() == collection)
    }
}

/// Writes [`Kind::name`].
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_complete_and_names_are_inverse() {
        for (position, &kind) in Kind::ALL.iter().enumerate() {
            assert_eq!(kind as usize, position);
            assert_eq!(Kind::from_name(kind.name()), Some(kind));
            assert_eq!(Kind::from_collection(kind.collection()), kind.is_resource().then_some(kind));
        }
        assert_eq!(Kind::ALL.len(), Kind::GroupSettings as usize + 1);
        assert_eq!(Kind::from_name("routes"), None);
        assert_eq!(Kind::from_collection("route"), None);
    }

    #[test]
    fn words_of_the_error_messages() {
        let words: Vec<&str> = Kind::ALL.iter().map(|kind| kind.word()).collect();
        assert_eq!(
            words,
            [
                "route",
                "service",
                "upstream",
                "consumer",
                "credential",
                "ssl",
                "global rule",
                "plugin config",
                "plugin_metadata",
                "consumer group",
                "stream route",
                "proto",
                "secret",
                "graphql cost decoration",
                "group settings",
            ]
        );
    }
}
