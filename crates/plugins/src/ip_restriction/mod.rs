//! `ip-restriction`: allows or denies by client address (`docs/spec/plugins/ip-restriction.md`).

mod config;
mod stream;
#[cfg(test)]
mod tests;

use config::Config;
use http::StatusCode;
use milecastle_matching::CidrSet;
use milecastle_plugin_api::{
    BuildCx, ConfigError, Example, Flow, Hooks, OnAccess, Plugin, PluginDef, Reply, RequestCx, schema_of,
};
use serde_json::{Value, json};

pub(crate) use stream::DEF as STREAM;

pub(crate) static DEF: PluginDef = PluginDef::of::<IpRestriction>();

struct IpRestriction {
    list: CidrSet,
    /// Whether an address of the list passes; the others do the opposite.
    listed_passes: bool,
    refusal: Reply,
}

impl Plugin for IpRestriction {
    type Config = Config;
    const NAME: &'static str = "ip-restriction";
    const PRIORITY: i32 = 3000;
    const EXAMPLES: &'static [Example] = &[
        Example::new("Only the office", include_str!("examples/whitelist.json")),
        Example::new("Keep some out, as if nothing were there", include_str!("examples/blacklist.json")),
    ];

    fn schema() -> Value {
        with_one_list(schema_of::<Config>())
    }

    fn compile(config: Config, _: &BuildCx<'_>) -> Result<Self, Vec<ConfigError>> {
        let status = StatusCode::from_u16(config.response_code).unwrap_or(StatusCode::FORBIDDEN);
        Ok(Self {
            list: compile_list(config.whitelist.as_deref(), config.blacklist.as_deref())?,
            listed_passes: config.whitelist.is_some(),
            refusal: Reply::message(status, &config.message),
        })
    }

    fn hooks(h: Hooks<Self>) -> Hooks<Self> {
        h.access()
    }
}

/// Says in a schema that there is one list and not two.
fn with_one_list(mut schema: Value) -> Value {
    schema["oneOf"] = json!([{ "required": ["whitelist"] }, { "required": ["blacklist"] }]);
    schema
}

/// The one list that there is.
fn compile_list(whitelist: Option<&[String]>, blacklist: Option<&[String]>) -> Result<CidrSet, Vec<ConfigError>> {
    let (name, list) = match (whitelist, blacklist) {
        (Some(list), _) => ("whitelist", list),
        (None, Some(list)) => ("blacklist", list),
        (None, None) => return Err(vec![ConfigError::new("value should match only one schema, but matches none")]),
    };
    let bad = list.iter().enumerate().filter_map(|(n, entry)| {
        let error = CidrSet::parse([entry]).err()?;
        Some(ConfigError::at(format!("/{name}/{n}"), error.to_string()))
    });
    let bad: Vec<ConfigError> = bad.collect();
    if !bad.is_empty() {
        return Err(bad);
    }
    CidrSet::parse(list).map_err(|error| vec![ConfigError::new(error.to_string())])
}

impl OnAccess for IpRestriction {
    fn on_access<'a>(&'a self, cx: &'a mut RequestCx) -> Flow<'a> {
        if self.list.contains(cx.client_ip) == self.listed_passes {
            Flow::Next
        } else {
            Flow::Reply(self.refusal.clone())
        }
    }
}
