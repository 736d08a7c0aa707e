//! `syslog`: sends a line for each session (`docs/spec/plugins/syslog.md`, on stream routes).

mod config;
mod sender;
#[cfg(test)]
mod tests;

use crate::exporting::Exporting;
use crate::log_entry::Format;
use config::{Config, MetadataConfig, SockType};
use milecastle_plugin_api::stream::{OnSessionLog, StreamCx};
use milecastle_plugin_api::{
    BuildCx, CompiledMetadata, ConfigError, Example, Hooks, Metadata, Plugin, PluginDef, schema_of, timestamp,
};
use sender::Sender;
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

pub(crate) static STREAM: PluginDef = PluginDef::of::<Syslog>();

/// Facility 5 (syslog), severity 6 (informational): RFC 5424 §6.2.1.
const PRIORITY_VALUE: u8 = 5 * 8 + 6;

struct Syslog {
    format: Format,
    sender: Sender,
    /// It was said that there is no format.
    complained: AtomicBool,
}

/// The metadata, compiled.
struct Defaults {
    format: Format,
    max_pending_entries: usize,
}

impl Plugin for Syslog {
    type Config = Config;
    const NAME: &'static str = "syslog";
    const PRIORITY: i32 = 401;
    const INCIDENTAL: bool = true;
    const METADATA: Option<Metadata> =
        Some(Metadata { schema: schema_of::<MetadataConfig>, compile: compile_metadata, unwritable: None });
    const EXAMPLES: &'static [Example] = &[
        Example::new("Who talked to what, over TCP", include_str!("examples/tcp.json")),
        Example::new("Each line at once, in a datagram", include_str!("examples/udp.json")),
    ];

    fn compile(config: Config, cx: &BuildCx<'_>) -> Result<Self, Vec<ConfigError>> {
        if config.tls && config.sock_type == SockType::Udp {
            let text = "TLS goes over TCP: leave `sock_type` at `tcp`, or send without TLS";
            return Err(vec![ConfigError::at("/tls", text)]);
        }
        Ok(Self {
            format: Format::custom(config.log_format.clone()),
            sender: Sender::new(&config, Exporting::of(cx)?),
            complained: AtomicBool::new(false),
        })
    }

    fn hooks(h: Hooks<Self>) -> Hooks<Self> {
        h.session_log()
    }
}

fn compile_metadata(value: &Value) -> Result<CompiledMetadata, ConfigError> {
    let config: MetadataConfig =
        serde_json::from_value(value.clone()).map_err(|error| ConfigError::new(error.to_string()))?;
    // An empty object counts as none.
    let format = config.log_format.filter(|format| format.as_object().is_some_and(|members| !members.is_empty()));
    Ok(Arc::new(Defaults { format: Format::custom(format), max_pending_entries: config.max_pending_entries }))
}

impl OnSessionLog for Syslog {
    fn on_session_log(&self, cx: &mut StreamCx) {
        let defaults = cx.metadata::<Defaults>(Self::NAME);
        let entry = self.format.of_session(cx).or_else(|| defaults?.format.of_session(cx));
        let Some(entry) = entry else {
            if !self.complained.swap(true, Ordering::Relaxed) {
                tracing::error!(
                    plugin = Self::NAME,
                    "sessions have no entry of their own: nothing is sent until the plugin or its metadata has a log_format"
                );
            }
            return;
        };
        let (at, pid) = (timestamp(SystemTime::now()), std::process::id());
        let line = format!("<{PRIORITY_VALUE}>1 {at} - apisix {pid} - - {}\n", Value::Object(entry));
        let most = defaults.map_or_else(config::max_pending_entries, |defaults| defaults.max_pending_entries);
        self.sender.push(line, most);
    }
}
