//! `limit-conn`: caps concurrent sessions for each key (`docs/spec/plugins/limit-conn.md`, the stream variant).
//!
//! What is counted belongs to the object that carries the plugin and to its configuration, so that an unrelated change of
//! either does not forget open sessions. A session gives its place back when it is dropped, whatever ended it.

mod config;
mod counters;
#[cfg(test)]
mod tests;

use config::{Config, KeyType};
use counters::{Counters, Place};
use milecastle_matching::{Lookup, Template, VarName};
use milecastle_plugin_api::stream::{OnPreread, SessionFlow, StreamCx};
use milecastle_plugin_api::{BuildCx, ConfigError, Example, Hooks, Plugin, PluginDef, Scope};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

pub(crate) static STREAM: PluginDef = PluginDef::of::<LimitConn>();

/// Status of a refused session, for logs and metrics.
const REFUSED: u16 = 503;
/// Shorter delays are none.
const SHORTEST_DELAY: Duration = Duration::from_millis(1);

/// The key of a session that has none of its own.
static CLIENT_ADDRESS: LazyLock<VarName> = LazyLock::new(|| VarName::parse("remote_addr"));

struct LimitConn {
    conn: u64,
    burst: u64,
    /// For each full measure of `conn` that is already open.
    unit_delay: Duration,
    key: Key,
    /// What the keys of this instance begin with.
    identity: Box<str>,
    counters: Arc<Counters>,
}

enum Key {
    Variable(VarName),
    Template(Template),
}

impl Plugin for LimitConn {
    type Config = Config;
    const NAME: &'static str = "limit-conn";
    const PRIORITY: i32 = 1003;
    const SCOPE: Scope = Scope::Owner;
    const EXAMPLES: &'static [Example] = &[
        Example::new("Ten sessions for each client", include_str!("examples/client.json")),
        Example::new("A hundred on a port, and fifty more that wait a little", include_str!("examples/port.json")),
    ];

    fn compile(config: Config, cx: &BuildCx<'_>) -> Result<Self, Vec<ConfigError>> {
        let fault =
            |_| vec![ConfigError::at("/default_conn_delay", "expected a number of seconds below a hundred years")];
        Ok(Self {
            conn: config.conn,
            burst: config.burst,
            unit_delay: Duration::try_from_secs_f64(config.default_conn_delay).map_err(fault)?,
            key: match config.key_type {
                KeyType::Var => Key::Variable(VarName::parse(&config.key)),
                KeyType::VarCombination => Key::Template(Template::parse(&config.key)),
            },
            identity: format!("{}:{:x}:", cx.owner.0, cx.checksum).into(),
            counters: cx.shared.get_or_init(Counters::default),
        })
    }

    fn hooks(h: Hooks<Self>) -> Hooks<Self> {
        h.preread()
    }
}

impl LimitConn {
    fn key(&self, cx: &StreamCx) -> String {
        let own = match &self.key {
            Key::Variable(name) => cx.var(name).map(|value| value.text().into_owned()),
            Key::Template(template) => {
                let rendered = template.render(cx);
                (rendered.resolved > 0).then_some(rendered.text)
            }
        };
        let client = || cx.var(&CLIENT_ADDRESS).map(|value| value.text().into_owned());
        format!("{}{}", self.identity, own.or_else(client).unwrap_or_default())
    }
}

impl OnPreread for LimitConn {
    fn on_preread(&self, cx: &mut StreamCx) -> SessionFlow {
        let Some((place, open)) = self.counters.enter(self.key(cx), self.conn + self.burst) else {
            return SessionFlow::Close(REFUSED);
        };
        *cx.slot::<_, Option<Place>>(self) = Some(place);
        let over = u32::try_from((open - 1) / self.conn).unwrap_or(u32::MAX);
        match self.unit_delay.saturating_mul(over) {
            delay if delay < SHORTEST_DELAY => SessionFlow::Next,
            delay => SessionFlow::Pause(delay),
        }
    }
}
