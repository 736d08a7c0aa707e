//! `file-logger`: a line of JSON for each request (`docs/spec/plugins/file-logger.md`).

mod config;
mod files;
#[cfg(test)]
mod tests;

use crate::capture::Bodies;
use crate::log_entry::{self, Format};
use bytes::Bytes;
use config::{Config, MetadataConfig};
use files::Files;
use milecastle_matching::Expr;
use milecastle_plugin_api::{
    BodyNeeds, BuildCx, CompiledMetadata, ConfigError, Example, Hooks, Metadata, OnBody, OnLog, Plugin, PluginDef,
    RequestCx, Shared, schema_of,
};
use serde_json::Value;
use std::sync::Arc;

pub(crate) static DEF: PluginDef = PluginDef::of::<FileLogger>();

struct FileLogger {
    path: Option<Box<str>>,
    /// `None`: every request is logged.
    matches: Option<Box<[Expr]>>,
    format: Format,
    bodies: Bodies,
    files: Arc<Files>,
}

struct CommonSettings {
    path: Option<String>,
    format: Format,
}

/// Has log files opened anew at their next entry: what a process does on `SIGUSR1`, after log rotation has moved them.
pub fn reopen(shared: &Shared) {
    shared.get_or_init(Files::default).reopen();
}

impl Plugin for FileLogger {
    type Config = Config;
    const NAME: &'static str = "file-logger";
    const PRIORITY: i32 = 399;
    const INCIDENTAL: bool = true;
    const METADATA: Option<Metadata> =
        Some(Metadata { schema: schema_of::<MetadataConfig>, compile: compile_metadata, unwritable: None });
    const EXAMPLES: &'static [Example] = &[
        Example::new("Everything that is known", include_str!("examples/default.json")),
        Example::new("A few members, failures only", include_str!("examples/failures.json")),
    ];

    fn compile(config: Config, cx: &BuildCx<'_>) -> Result<Self, Vec<ConfigError>> {
        let mut faults = Vec::new();
        let common = cx.metadata.and_then(|metadata| metadata.get("path")).and_then(Value::as_str);
        if config.path.is_none() && common.is_none() {
            faults.push(ConfigError::at("/path", "property \"path\" is required"));
        }
        let mut compiled = Vec::new();
        for (n, item) in config.matches.clone().into_iter().flatten().enumerate() {
            match cx.condition(&Value::Array(item)) {
                Ok(condition) => compiled.push(condition),
                Err(error) => faults.push(ConfigError::at(
                    format!("/match/{n}"),
                    format!("failed to validate the 'match' expression: {error}"),
                )),
            }
        }
        let bodies = Bodies::new(config.bodies, cx).map_err(|fault| faults.push(fault));
        let (Ok(bodies), true) = (bodies, faults.is_empty()) else { return Err(faults) };
        Ok(Self {
            path: config.path.map(String::into_boxed_str),
            matches: config.matches.is_some().then(|| compiled.into()),
            format: Format::new(config.format),
            bodies,
            files: cx.shared.get_or_init(Files::default),
        })
    }

    fn hooks(h: Hooks<Self>) -> Hooks<Self> {
        h.body().log()
    }

    fn body_needs(&self) -> BodyNeeds {
        self.bodies.needs()
    }
}

fn compile_metadata(value: &Value) -> Result<CompiledMetadata, ConfigError> {
    let config: MetadataConfig =
        serde_json::from_value(value.clone()).map_err(|error| ConfigError::new(error.to_string()))?;
    Ok(Arc::new(CommonSettings { path: config.path, format: Format::of_metadata(config.format) }))
}

impl OnBody for FileLogger {
    fn on_body(&self, cx: &mut RequestCx, chunk: &mut Bytes, _last: bool) {
        self.bodies.keep(self, cx, chunk);
    }
}

impl OnLog for FileLogger {
    fn on_log(&self, cx: &mut RequestCx) {
        if self.matches.as_ref().is_some_and(|matches| !matches.iter().any(|condition| condition.eval(cx))) {
            return;
        }
        let common = cx.metadata::<CommonSettings>(Self::NAME);
        let Some(path) = self.path.as_deref().or_else(|| common?.path.as_deref()) else {
            tracing::error!(plugin = Self::NAME, "no path is left in configuration or metadata; nothing is written");
            return;
        };
        let entry = log_entry::entry(cx, &self.format, common.map(|common| &common.format), &self.bodies, self);
        self.files.append(path, format!("{entry}\n").as_bytes());
    }
}
