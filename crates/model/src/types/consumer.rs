//! Callers and sets of plugins (`docs/spec/resources.md` §5–§7).

use serde::Deserialize;

use super::de::object;
use super::{Labels, debug_identity};
use crate::{Id, Plugins};

/// A known caller.
#[derive(Clone, PartialEq, Deserialize)]
pub struct Consumer {
    /// Its identity.
    pub username: String,
    /// Its group.
    pub group_id: Option<Id>,
    /// Labels; see [`Consumer::custom_id`].
    #[serde(default, deserialize_with = "object")]
    pub labels: Labels,
    /// Authentication plugins hold what it identifies itself with, others act on its requests.
    #[serde(default, deserialize_with = "object")]
    pub plugins: Plugins,
}

impl Consumer {
    /// The label that is sent upstream as `X-Consumer-Custom-ID`.
    pub fn custom_id(&self) -> Option<&str> {
        self.labels.get("custom_id").map(String::as_str)
    }
}

/// One more way for a consumer to identify itself.
#[derive(Clone, PartialEq, Deserialize)]
pub struct Credential {
    /// Its id below the consumer; in every stored body.
    pub id: Option<Id>,
    /// Name for people.
    pub name: Option<String>,
    /// Labels.
    #[serde(default, deserialize_with = "object")]
    pub labels: Labels,
    /// At most one, an authentication plugin.
    #[serde(default, deserialize_with = "object")]
    pub plugins: Plugins,
}

/// Declares the kinds that are an id and plugins.
macro_rules! plugin_sets {
    ($($(#[$doc:meta])* $name:ident),*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Deserialize)]
        pub struct $name {
            /// Identity; in every stored body.
            pub id: Option<Id>,
            /// The plugins.
            #[serde(default, deserialize_with = "object")]
            pub plugins: Plugins,
        }
        debug_identity!($name, id);
    )*};
}

plugin_sets!(
    /// Plugins that several consumers share.
    ConsumerGroup,
    /// Plugins that several routes share.
    PluginConfig,
    /// Plugins that run on every request.
    GlobalRule
);

debug_identity!(Consumer, username);
debug_identity!(Credential, id);
