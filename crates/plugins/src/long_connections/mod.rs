//! `long-connections`: what becomes of WebSockets, long answers and sessions when their route or upstream goes
//! (`docs/spec/plugins/long-connections.md`).
//!
//! The plugin only leaves its word with the request or session; the data plane keeps it.

mod config;
#[cfg(test)]
mod tests;

use config::{Config, Policy};
use milecastle_plugin_api::stream::{OnPreread, SessionFlow, StreamCx};
use milecastle_plugin_api::{
    BuildCx, ConfigError, Example, Flow, Hooks, OnAccess, Plugin, PluginDef, RequestCx, WhenSuperseded,
};
use std::time::Duration;

pub(crate) static DEF: PluginDef = PluginDef::of::<LongConnections>();
pub(crate) static STREAM: PluginDef = PluginDef::of::<LongSessions>();

const NAME: &str = "long-connections";
const PRIORITY: i32 = 985;

/// Of requests.
struct LongConnections(WhenSuperseded);

/// Of sessions.
struct LongSessions(WhenSuperseded);

impl From<Config> for WhenSuperseded {
    fn from(config: Config) -> Self {
        match config.policy {
            Policy::Keep => Self::Keep,
            Policy::Drain => Self::EndAfter(Duration::from_secs(config.drain.into())),
            Policy::Cut => Self::EndAfter(Duration::ZERO),
        }
    }
}

impl Plugin for LongConnections {
    type Config = Config;
    const NAME: &'static str = NAME;
    const PRIORITY: i32 = PRIORITY;
    const INCIDENTAL: bool = true;
    const EXAMPLES: &'static [Example] = &[
        Example::new("Half a minute to finish", include_str!("examples/drain.json")),
        Example::new("Nobody goes on under what was revoked", include_str!("examples/cut.json")),
    ];

    fn compile(config: Config, _: &BuildCx<'_>) -> Result<Self, Vec<ConfigError>> {
        Ok(Self(config.into()))
    }

    fn hooks(h: Hooks<Self>) -> Hooks<Self> {
        h.access()
    }
}

impl OnAccess for LongConnections {
    fn on_access<'a>(&'a self, cx: &'a mut RequestCx) -> Flow<'a> {
        cx.when_superseded = Some(self.0);
        Flow::Next
    }
}

impl Plugin for LongSessions {
    type Config = Config;
    const NAME: &'static str = NAME;
    const PRIORITY: i32 = PRIORITY;
    const INCIDENTAL: bool = true;
    const EXAMPLES: &'static [Example] =
        &[Example::new("Five minutes for sessions with a database", include_str!("examples/stream.json"))];

    fn compile(config: Config, _: &BuildCx<'_>) -> Result<Self, Vec<ConfigError>> {
        Ok(Self(config.into()))
    }

    fn hooks(h: Hooks<Self>) -> Hooks<Self> {
        h.preread()
    }
}

impl OnPreread for LongSessions {
    fn on_preread(&self, cx: &mut StreamCx) -> SessionFlow {
        cx.when_superseded = Some(self.0);
        SessionFlow::Next
    }
}
