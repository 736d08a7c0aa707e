//! Configuration of `mqtt-proxy`.

use schemars::JsonSchema;
use serde::Deserialize;

/// Reads the first packet of an MQTT client: sessions that begin otherwise are closed, and `mqtt_client_id` becomes a variable,
/// for a consistent hash to keep clients with their brokers.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct Config {
    /// Name of the protocol, as the client sends it.
    #[serde(default = "name")]
    pub(super) protocol_name: String,
    /// Level of the protocol: 4 is MQTT 3.1.1, 5 is MQTT 5.0.
    pub(super) protocol_level: i64,
}

fn name() -> String {
    "MQTT".to_owned()
}
