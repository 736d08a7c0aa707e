//! The compiler through its public face, with two small plugins of its own.

mod equality;
mod patterns;
mod people;
mod quarantine;
mod references;
mod secrets;
mod settings;
mod stream;
mod terms;
mod tls;

use crate::{CompiledRoute, Compiler, Rejected, Snapshot};
use milecastle_matching::{MatchInput, NoVars};
use milecastle_model::{Change, Key, Kind, Object};
use milecastle_plugin_api::{
    Auth, BuildCx, ConfigError, Flow, Hooks, NoSecrets, OnAccess, Plugin, PluginDef, Registry, RequestCx, Secrets,
    Shared, schema_of,
};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// A plugin whose configuration can be bad in a way that only compiling finds.
struct Mark;

#[derive(Deserialize, JsonSchema)]
struct MarkConfig {
    text: String,
}

impl Plugin for Mark {
    type Config = MarkConfig;
    const NAME: &'static str = "mark";
    const PRIORITY: i32 = 10;

    fn compile(config: MarkConfig, _: &BuildCx<'_>) -> Result<Self, Vec<ConfigError>> {
        if config.text == "bad" { Err(vec![ConfigError::at("/text", "bad text")]) } else { Ok(Self) }
    }

    fn hooks(h: Hooks<Self>) -> Hooks<Self> {
        h.access()
    }
}

impl OnAccess for Mark {
    fn on_access<'a>(&'a self, _: &'a mut RequestCx) -> Flow<'a> {
        Flow::Next
    }
}

/// An authentication plugin.
struct Pass;

#[derive(Deserialize, JsonSchema)]
struct PassConfig {}

#[derive(Deserialize, JsonSchema)]
#[expect(dead_code, reason = "only its schema is read")]
struct PassCredential {
    key: String,
}

impl Plugin for Pass {
    type Config = PassConfig;
    const NAME: &'static str = "pass";
    const PRIORITY: i32 = 20;
    const AUTH: Option<Auth> = Some(Auth { key: "key", unique: true, schema: schema_of::<PassCredential> });

    fn compile(_: PassConfig, _: &BuildCx<'_>) -> Result<Self, Vec<ConfigError>> {
        Ok(Self)
    }

    fn hooks(h: Hooks<Self>) -> Hooks<Self> {
        h.access()
    }
}

impl OnAccess for Pass {
    fn on_access<'a>(&'a self, _: &'a mut RequestCx) -> Flow<'a> {
        Flow::Next
    }
}

static PLUGINS: [PluginDef; 2] = [PluginDef::of::<Mark>(), PluginDef::of::<Pass>()];

fn compiler() -> Compiler {
    compiler_with(Arc::new(NoSecrets))
}

fn compiler_with(secrets: Arc<dyn Secrets>) -> Compiler {
    let defs: Vec<&'static PluginDef> = PLUGINS.iter().collect();
    Compiler::new(Arc::new(Registry::new(&defs, Map::new(), Arc::new(Shared::default()), secrets)))
}

fn put(kind: Kind, id: &str, body: Value) -> Change {
    Change::Put(Object { key: Key::new(kind, id), body: body.to_string().into(), created: 1, modified: 1 })
}

fn delete(kind: Kind, id: &str) -> Change {
    Change::Delete { key: Key::new(kind, id), revision: 1 }
}

/// A compiler and the snapshot that it has come to.
struct Config {
    compiler: Compiler,
    now: Snapshot,
}

impl Config {
    fn new() -> Self {
        Self::of(compiler())
    }

    fn of(compiler: Compiler) -> Self {
        let now = compiler.build("line", 1, Vec::new()).0;
        Self { compiler, now }
    }

    /// Applies changes as one step.
    fn step(&mut self, changes: &[Change]) -> Vec<Rejected> {
        let (next, rejected) = self.compiler.apply(&self.now, self.now.revision() + 1, changes);
        self.now = next;
        rejected
    }

    fn good(&mut self, changes: &[Change]) {
        assert_eq!(self.step(changes), []);
    }

    fn route(&self, path: &str) -> Option<Arc<CompiledRoute>> {
        find(&self.now, "", path)
    }

    /// Names of the plugins in force at a path, with the text of `mark`.
    fn plugins(&self, path: &str) -> Vec<String> {
        let route = self.route(path).expect("the path is routed");
        let name = |built: &milecastle_plugin_api::Built| match built.config().get("text").and_then(Value::as_str) {
            Some(text) => format!("{}:{text}", built.name()),
            None => built.name().to_owned(),
        };
        route.chain.entries().iter().map(name).collect()
    }
}

fn find(snapshot: &Snapshot, host: &str, path: &str) -> Option<Arc<CompiledRoute>> {
    let input =
        MatchInput { path, host, raw_host: host.as_bytes(), method: "GET", addr: IpAddr::V4(Ipv4Addr::LOCALHOST) };
    snapshot.router().find(&input, &NoVars).map(|found| found.value().clone())
}

fn mark(text: &str) -> Value {
    json!({ "mark": { "text": text } })
}

#[test]
fn all_faults_of_an_object_are_found_at_once_in_the_order_of_the_checks() {
    let body = json!({
        "uri": "/a", "vars": ["arg_a", "==", "1"],
        "plugins": { "mark": { "text": 1 }, "nope": {} },
    });
    let faults: Vec<String> = compiler().check(Kind::Route, "1", &body).iter().map(ToString::to_string).collect();
    assert_eq!(
        faults,
        [
            "failed to validate the 'vars' expression: rule should be wrapped inside brackets",
            "failed to check the configuration of plugin mark err: property \"text\" validation failed: wrong type: \
             expected string, got number",
            "unknown plugin [nope]",
        ]
    );
}

#[test]
fn a_disabled_plugin_may_be_wrong() {
    let body = json!({ "uri": "/a", "plugins": { "mark": { "text": 1, "_meta": { "disable": true } } } });
    assert_eq!(compiler().check(Kind::Route, "1", &body), []);
}

#[test]
fn an_unchanged_plugin_keeps_its_instance() {
    let mut config = Config::new();
    config.good(&[put(Kind::Route, "1", json!({ "uri": "/a", "plugins": mark("x") }))]);
    let before = config.route("/a").unwrap();
    config.good(&[put(Kind::Route, "1", json!({ "uri": "/a", "desc": "new", "plugins": mark("x") }))]);
    let after = config.route("/a").unwrap();
    assert!(!Arc::ptr_eq(&before, &after));
    assert!(before.chain.entries()[0].same_instance(&after.chain.entries()[0]));
}

#[test]
fn global_rules_are_one_chain_and_a_name_in_two_of_them_runs_in_none() {
    let mut config = Config::new();
    config.good(&[put(Kind::GlobalRule, "1", json!({ "plugins": mark("x") }))]);
    assert!(config.now.global().contains("mark"));
    config.good(&[put(Kind::GlobalRule, "2", json!({ "plugins": mark("y") }))]);
    assert!(!config.now.global().contains("mark"));
    config.good(&[delete(Kind::GlobalRule, "1")]);
    assert!(config.now.global().contains("mark"));
}
