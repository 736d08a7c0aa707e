//! The compiler of both planes, with all that is built in.

use milecastle_plugin_api::{Registry, Secrets, Shared, Subsystem};
use milecastle_snapshot::Compiler;
use serde_json::{Map, Value};
use std::sync::Arc;

/// Plugins of TCP and UDP sessions that are enabled unless the settings of the group say otherwise (`docs/spec/stream.md` §1).
const STREAM_PLUGINS: [&str; 6] =
    ["ip-restriction", "limit-conn", "long-connections", "mqtt-proxy", "syslog", "traffic-split"];

/// A compiler of the default settings of a group. What a node makes of a configuration rests on `attrs`, its `plugin_attr`; whether
/// it can be made does not.
pub(crate) fn compiler(attrs: Map<String, Value>, shared: Arc<Shared>, secrets: Arc<dyn Secrets>) -> Compiler {
    let http = Registry::new(milecastle_plugins::ALL, attrs.clone(), shared.clone(), secrets.clone());
    let (defs, by_default) = (milecastle_plugins::STREAM, Some(&STREAM_PLUGINS[..]));
    let sessions = Registry::of(Subsystem::Stream, defs, by_default, attrs, shared, secrets);
    Compiler::new(Arc::new(http)).with_sessions(Arc::new(sessions))
}
