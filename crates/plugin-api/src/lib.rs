//! What a plugin is, and what it may see and do.
//!
//! A plugin is a configuration type, a way to compile it once ([`Plugin::compile`]) and the phases it takes part in
//! ([`Plugin::hooks`]). The planes know plugins only through [`Registry`] and [`Chain`]; a plugin knows its request only
//! through [`RequestCx`].
//!
//! Invariants:
//! - A chain is built when a snapshot is built. The request path parses no configuration and compiles no pattern.
//! - A hook that need not wait costs one indirect call; one that waits costs one box ([`Flow::Wait`]); a phase that no
//!   plugin of a chain has costs an empty slice.
//! - A hook that panics ends its own request with 500 and is counted under the plugin's name; nothing else is disturbed.
//! - `log` hooks run exactly once for a request, also when the client has left: that is why they are synchronous.
//! - Both planes check plugin configuration through the same [`Registry`], so they accept exactly the same input.
//!
//! Deliberately absent: sockets, runtimes, storage, and every single plugin.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod built;
mod chain;
mod consumer;
mod cx;
mod def;
pub mod fields;
mod flow;
mod hooks;
mod meta;
pub mod query;
mod reference;
mod registry;
mod schema;
mod secrets;
mod shared;
pub mod stream;
mod superseded;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;
mod view;

pub use built::Built;
pub use chain::{Chain, HookPanicked};
pub use consumer::{Consumer, CredentialMatch};
pub use cx::{
    Attempt, Begun, Body, CONSUMER_CUSTOM_ID, CONSUMER_USERNAME, CREDENTIAL_IDENTIFIER, ClientConn, Lists, NodeNames,
    PickedNode, Proxied, Request, RequestCx, Response, ResponseSource, RouteInfo, Scheme, Stretch, Timing, TlsInfo,
    Upstream, VarValue, Way, hex, timestamp,
};
pub use def::{
    Auth, BodyNeed, BodyNeeds, BuildCx, ConfigError, CredentialPlaces, Example, Metadata, Owner, Plugin, PluginDef,
    RunPolicy, Scope,
};
pub use flow::{Flow, LocalFuture, Reply, ReplyBody};
pub use hooks::{
    HookSet, Hooks, OnAccess, OnBeforeProxy, OnBody, OnDelayedBody, OnHeaders, OnLog, OnRewrite, RequestHook,
};
pub use meta::Meta;
pub use milecastle_model::is_reference;
pub use reference::reference_page;
pub use registry::{CompiledMetadata, Placement, Registry, Subsystem, checksum};
pub use schema::schema_of;
pub use shared::{NoSecrets, Secrets, Shared};
pub use superseded::WhenSuperseded;
pub use view::{NodeFacts, View};
