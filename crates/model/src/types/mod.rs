//! The typed forms that the data plane compiles, with the defaults of `docs/spec/resources.md` in place.
//!
//! They read any body that [`check`](crate::check()) accepts and tolerate unknown members. Absent lists and maps are
//! empty; an attribute without a default is an `Option`. Attributes that mean nothing at run time (`desc`, timestamps)
//! are left out.

mod consumer;
mod de;
mod effective;
mod group_settings;
mod health;
mod node;
mod route;
mod secret;
mod ssl;
mod stream_route;
mod upstream;

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::Kind;

pub use consumer::{Consumer, ConsumerGroup, Credential, GlobalRule, PluginConfig};
pub use effective::{EffectiveRoute, UpstreamSource, effective};
pub use group_settings::{GroupSettings, HttpRouter, ProxyMode, RouterChoice, UpstreamTlsRules, VerifyUpstreams};
pub use health::{
    ActiveCheck, ActiveHealthy, ActiveUnhealthy, HealthChecks, PassiveCheck, PassiveHealthy, PassiveUnhealthy,
    ProbeKind,
};
pub use node::{AddressError, Node, bracketed};
pub use route::{Route, Service};
pub use secret::SecretText;
pub use ssl::{OcspStapling, Ssl, SslClient, SslKind, TlsVersion};
pub use stream_route::{StreamProtocol, StreamRoute};
pub use upstream::{Balancer, HashOn, KeepalivePool, PassHost, Scheme, Timeout, Upstream, UpstreamTls};

pub(crate) use node::parse_address;

/// The `labels` attribute.
pub type Labels = BTreeMap<String, String>;

/// Whether the typed form of `kind` reads `body`; kinds without one always do. The error is for an operator to read.
pub(crate) fn readable(kind: Kind, body: &Value) -> Result<(), serde_json::Error> {
    match kind {
        Kind::Route => Route::deserialize(body).map(drop),
        Kind::Service => Service::deserialize(body).map(drop),
        Kind::Upstream => Upstream::deserialize(body).map(drop),
        Kind::Consumer => Consumer::deserialize(body).map(drop),
        Kind::Credential => Credential::deserialize(body).map(drop),
        Kind::Ssl => Ssl::deserialize(body).map(drop),
        Kind::GlobalRule => GlobalRule::deserialize(body).map(drop),
        Kind::PluginConfig => PluginConfig::deserialize(body).map(drop),
        Kind::ConsumerGroup => ConsumerGroup::deserialize(body).map(drop),
        Kind::StreamRoute => StreamRoute::deserialize(body).map(drop),
        Kind::GroupSettings => GroupSettings::deserialize(body).map(drop),
        Kind::PluginMetadata | Kind::Proto | Kind::Secret | Kind::GraphqlCostDecoration => Ok(()),
    }
}

/// `Debug` that shows the identity alone: plugin configurations may hold credentials.
macro_rules! debug_identity {
    ($type:ty, $identity:ident) => {
        impl std::fmt::Debug for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($type)).field(stringify!($identity), &self.$identity).finish_non_exhaustive()
            }
        }
    };
}
use debug_identity;

#[cfg(test)]
mod tests;
