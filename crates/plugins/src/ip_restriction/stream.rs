//! The same for TCP and UDP sessions: a refused one is closed.

use super::config::StreamConfig;
use super::{compile_list, with_one_list};
use milecastle_matching::CidrSet;
use milecastle_plugin_api::stream::{OnPreread, SessionFlow, StreamCx};
use milecastle_plugin_api::{BuildCx, ConfigError, Example, Hooks, Plugin, PluginDef, schema_of};
use serde_json::Value;

pub(crate) static DEF: PluginDef = PluginDef::of::<StreamIpRestriction>();

/// Status of a refused session, for logs and metrics.
const FORBIDDEN: u16 = 403;

struct StreamIpRestriction {
    list: CidrSet,
    listed_passes: bool,
}

impl Plugin for StreamIpRestriction {
    type Config = StreamConfig;
    const NAME: &'static str = "ip-restriction";
    const PRIORITY: i32 = 3000;
    const EXAMPLES: &'static [Example] =
        &[Example::new("A database for the office alone", include_str!("examples/stream.json"))];

    fn schema() -> Value {
        with_one_list(schema_of::<StreamConfig>())
    }

    fn compile(config: StreamConfig, _: &BuildCx<'_>) -> Result<Self, Vec<ConfigError>> {
        let list = compile_list(config.whitelist.as_deref(), config.blacklist.as_deref())?;
        Ok(Self { list, listed_passes: config.whitelist.is_some() })
    }

    fn hooks(h: Hooks<Self>) -> Hooks<Self> {
        h.preread()
    }
}

impl OnPreread for StreamIpRestriction {
    fn on_preread(&self, cx: &mut StreamCx) -> SessionFlow {
        if self.list.contains(cx.client.ip()) == self.listed_passes {
            SessionFlow::Next
        } else {
            SessionFlow::Close(FORBIDDEN)
        }
    }
}
