//! `mqtt-proxy`: lets MQTT clients in, and tells balancers apart by their identifiers (`docs/spec/stream.md` §4).

mod config;
mod connect;
#[cfg(test)]
mod tests;

use config::Config;
use connect::{Connect, Incomplete};
use milecastle_plugin_api::stream::{OnPreread, SessionFlow, StreamCx};
use milecastle_plugin_api::{BuildCx, ConfigError, Example, Hooks, Plugin, PluginDef};

pub(crate) static STREAM: PluginDef = PluginDef::of::<MqttProxy>();

/// Status of a session that does not begin as it must, for logs and metrics.
const REFUSED: u16 = 400;

struct MqttProxy(Config);

impl Plugin for MqttProxy {
    type Config = Config;
    const NAME: &'static str = "mqtt-proxy";
    const PRIORITY: i32 = 1000;
    const EXAMPLES: &'static [Example] = &[
        Example::new("MQTT 3.1.1", include_str!("examples/3_1_1.json")),
        Example::new("MQTT 5.0", include_str!("examples/5_0.json")),
    ];

    fn compile(config: Config, _: &BuildCx<'_>) -> Result<Self, Vec<ConfigError>> {
        Ok(Self(config))
    }

    fn hooks(h: Hooks<Self>) -> Hooks<Self> {
        h.preread()
    }
}

impl OnPreread for MqttProxy {
    fn on_preread(&self, cx: &mut StreamCx) -> SessionFlow {
        let client_id = match Connect::read(&cx.first) {
            Ok(connect) => {
                let expected = (self.0.protocol_name.as_bytes(), self.0.protocol_level);
                if (connect.protocol_name, i64::from(connect.protocol_level)) != expected {
                    return SessionFlow::Close(REFUSED);
                }
                connect.client_id.to_owned()
            }
            Err(Incomplete::More) => return SessionFlow::More,
            Err(Incomplete::Malformed) => return SessionFlow::Close(REFUSED),
        };
        if !client_id.is_empty() {
            cx.set_var("mqtt_client_id", client_id);
        }
        SessionFlow::Next
    }
}
