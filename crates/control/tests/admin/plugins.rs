//! Plugins of these tests: what the control plane sees of a plugin, and no behaviour.

use milecastle_plugin_api::{
    Auth, BuildCx, ConfigError, Hooks, Metadata, NoSecrets, Plugin, PluginDef, Registry, Shared, Subsystem,
};
use milecastle_snapshot::Compiler;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// A configuration without constraints.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct Free {}

macro_rules! plugin {
    ($type:ident, $name:literal, $priority:literal, $config:ty, { $($member:item)* }) => {
        struct $type;

        impl Plugin for $type {
            type Config = $config;
            const NAME: &'static str = $name;
            const PRIORITY: i32 = $priority;
            $($member)*

            fn compile(_: Self::Config, _: &BuildCx<'_>) -> Result<Self, Vec<ConfigError>> {
                Ok(Self)
            }

            fn hooks(h: Hooks<Self>) -> Hooks<Self> {
                h
            }
        }
    };
}

fn key_credential() -> Value {
    json!({"type": "object", "properties": {"key": {"type": "string"}}, "required": ["key"]})
}

fn basic_credential() -> Value {
    let text = json!({"type": "string"});
    json!({
        "type": "object", "properties": {"username": text, "password": text}, "required": ["username", "password"],
    })
}

#[derive(Deserialize, JsonSchema)]
struct Count {
    #[schemars(range(min = 1))]
    #[expect(dead_code, reason = "only the schema matters")]
    count: u32,
}

#[derive(Deserialize, JsonSchema)]
struct LogFormat {
    #[expect(dead_code, reason = "only the schema matters")]
    log_format: Option<Map<String, Value>>,
}

plugin!(KeyAuth, "key-auth", 2500, Free, {
    const AUTH: Option<Auth> = Some(Auth { key: "key", unique: true, schema: key_credential });
    const ENCRYPTED: &'static [&'static str] = &["key"];
});
plugin!(BasicAuth, "basic-auth", 2520, Free, {
    const AUTH: Option<Auth> = Some(Auth { key: "username", unique: true, schema: basic_credential });
    const ENCRYPTED: &'static [&'static str] = &["password"];
});
plugin!(LimitCount, "limit-count", 1002, Count, {});
plugin!(TrafficSplit, "traffic-split", 966, Free, {});
plugin!(GrpcTranscode, "grpc-transcode", 506, Free, {});
plugin!(Logger, "http-logger", 410, Free, {
    const METADATA: Option<Metadata> = Some(Metadata::of::<LogFormat>());
});

static ALL: [&PluginDef; 6] = [
    &PluginDef::of::<KeyAuth>(),
    &PluginDef::of::<BasicAuth>(),
    &PluginDef::of::<LimitCount>(),
    &PluginDef::of::<TrafficSplit>(),
    &PluginDef::of::<GrpcTranscode>(),
    &PluginDef::of::<Logger>(),
];

plugin!(IpRestriction, "ip-restriction", 3000, Free, {});
plugin!(LimitConn, "limit-conn", 1003, Count, {});

static STREAM: [&PluginDef; 2] = [&PluginDef::of::<IpRestriction>(), &PluginDef::of::<LimitConn>()];

pub(crate) fn compiler() -> Arc<Compiler> {
    let registry = |subsystem, defs: &[&'static PluginDef]| {
        let shared = Arc::new(Shared::default());
        Arc::new(Registry::of(subsystem, defs, None, Map::new(), shared, Arc::new(NoSecrets)))
    };
    Arc::new(Compiler::new(registry(Subsystem::Http, &ALL)).with_sessions(registry(Subsystem::Stream, &STREAM)))
}
