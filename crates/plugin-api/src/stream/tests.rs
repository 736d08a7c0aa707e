use super::*;
use crate::testing::FakeView;
use crate::{
    BuildCx, ConfigError, Hooks, NoSecrets, Owner, Placement, Plugin, PluginDef, Registry, Shared, Subsystem, View,
};
use milecastle_matching::{Lookup, PatternBudget, VarName};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Does as it is told, and leaves its mark in a variable.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// What it wants: `next`, `more` until two bytes are there, `pause`, `panic`, or a status.
    wants: Value,
}

struct Told<const N: usize>(Config);

macro_rules! told {
    ($n:literal, $name:literal, $priority:literal) => {
        impl Plugin for Told<$n> {
            type Config = Config;
            const NAME: &'static str = $name;
            const PRIORITY: i32 = $priority;

            fn compile(config: Config, _: &BuildCx<'_>) -> Result<Self, Vec<ConfigError>> {
                Ok(Self(config))
            }

            fn hooks(h: Hooks<Self>) -> Hooks<Self> {
                h.preread().session_log()
            }
        }

        impl OnPreread for Told<$n> {
            fn on_preread(&self, cx: &mut StreamCx) -> SessionFlow {
                mark(cx, concat!($name, " "));
                match &self.0.wants {
                    Value::Number(status) => SessionFlow::Close(status.as_u64().unwrap().try_into().unwrap()),
                    Value::String(word) => match word.as_str() {
                        "more" if cx.first.len() < 2 => SessionFlow::More,
                        "pause" => SessionFlow::Pause(Duration::from_secs(1)),
                        "panic" => panic!("as told"),
                        _ => SessionFlow::Next,
                    },
                    _ => SessionFlow::Next,
                }
            }
        }

        impl OnSessionLog for Told<$n> {
            fn on_session_log(&self, cx: &mut StreamCx) {
                mark(cx, concat!("log-", $name, " "));
                assert_ne!(self.0.wants, "panic");
            }
        }
    };
}

told!(1, "first", 20);
told!(2, "second", 10);

static FIRST: PluginDef = PluginDef::of::<Told<1>>();
static SECOND: PluginDef = PluginDef::of::<Told<2>>();

fn mark(cx: &mut StreamCx, word: &str) {
    let before = cx.var(&VarName::parse("marks")).map(|value| value.text().into_owned()).unwrap_or_default();
    cx.set_var("marks", before + word);
}

fn registry() -> Registry {
    let shared = Arc::new(Shared::default());
    Registry::of(Subsystem::Stream, &[&FIRST, &SECOND], None, Map::new(), shared, Arc::new(NoSecrets))
}

fn chain(plugins: Value) -> StreamChain {
    let owner = Owner("/stream_routes/1".into());
    let (built, faults) = registry().build_all(plugins.as_object().unwrap(), Placement::Object, &owner, &|_| None);
    assert_eq!(faults, []);
    StreamChain::new(built)
}

fn session() -> StreamCx {
    StreamCx::new(Transport::Tcp, "[::ffff:10.0.0.1]:40000".parse().unwrap(), "127.0.0.1:9100".parse().unwrap(), 7)
}

fn view() -> Rc<dyn View> {
    Rc::new(FakeView::default())
}

fn text(cx: &StreamCx, name: &str) -> Option<String> {
    cx.var(&VarName::parse(name)).map(|value| value.text().into_owned())
}

#[test]
fn hooks_run_by_priority_and_log_runs_whatever_happened() {
    let mut cx = session();
    let chain = chain(json!({ "second": { "wants": "next" }, "first": { "wants": "next" } }));
    assert_eq!(chain.run_preread(&mut cx, &view(), 0), Preread::Passed);
    chain.run_log(&mut cx, &view());
    assert_eq!(text(&cx, "marks").unwrap(), "first second log-first log-second ");
}

#[test]
fn a_hook_that_wants_more_is_asked_again() {
    let mut cx = session();
    let chain = chain(json!({ "second": { "wants": "more" }, "first": { "wants": "next" } }));
    assert_eq!(chain.run_preread(&mut cx, &view(), 0), Preread::More { step: 1 });
    cx.first.extend_from_slice(b"ab");
    assert_eq!(chain.run_preread(&mut cx, &view(), 1), Preread::Passed);
    assert_eq!(text(&cx, "marks").unwrap(), "first second second ");
}

#[test]
fn a_pause_goes_on_with_the_next_hook() {
    let mut cx = session();
    let chain = chain(json!({ "second": { "wants": "next" }, "first": { "wants": "pause" } }));
    let pause = Preread::Pause { time: Duration::from_secs(1), step: 1 };
    assert_eq!(chain.run_preread(&mut cx, &view(), 0), pause);
    assert_eq!(chain.run_preread(&mut cx, &view(), 1), Preread::Passed);
    assert_eq!(text(&cx, "marks").unwrap(), "first second ");
}

#[test]
fn a_refusal_ends_the_phase_and_is_remembered() {
    let mut cx = session();
    let chain = chain(json!({ "second": { "wants": "next" }, "first": { "wants": 403 } }));
    assert_eq!(chain.run_preread(&mut cx, &view(), 0), Preread::Closed { status: 403 });
    assert_eq!((cx.rejected, text(&cx, "marks").as_deref()), (Some(403), Some("first ")));
}

#[test]
fn a_panic_closes_the_session_and_keeps_no_log_from_running() {
    let mut cx = session();
    let chain = chain(json!({ "second": { "wants": "next" }, "first": { "wants": "panic" } }));
    assert_eq!(chain.run_preread(&mut cx, &view(), 0), Preread::Closed { status: 500 });
    chain.run_log(&mut cx, &view());
    assert_eq!(text(&cx, "marks").unwrap(), "first log-first log-second ");
}

#[test]
fn disabled_and_filtered_plugins_do_not_run() {
    let mut cx = session();
    let filter = json!([["remote_addr", "==", "10.0.0.2"]]);
    let chain = chain(json!({
        "first": { "wants": 403, "_meta": { "disable": true } },
        "second": { "wants": 403, "_meta": { "filter": filter } },
    }));
    assert_eq!(chain.run_preread(&mut cx, &view(), 0), Preread::Passed);
    chain.run_log(&mut cx, &view());
    assert_eq!(text(&cx, "marks"), None);
}

#[test]
fn faults_name_the_subsystem() {
    let check = |plugins: Value| {
        let owner = Owner("/stream_routes/1".into());
        let plugins = plugins.as_object().unwrap();
        let faults = registry().check_all(plugins, Placement::Object, &owner, &|_| None, &PatternBudget::default());
        faults.into_iter().map(|fault| fault.message).collect::<Vec<_>>()
    };
    let missing = "failed to check the configuration of stream plugin [first]: property \"wants\" is required";
    assert_eq!(check(json!({ "first": {} })), [missing]);
    assert_eq!(check(json!({ "nope": {} })), ["unknown plugin [nope]"]);
}

#[test]
fn variables_of_a_session() {
    let mut cx = session();
    for (name, value) in [
        ("remote_addr", "10.0.0.1"),
        ("remote_port", "40000"),
        ("server_addr", "127.0.0.1"),
        ("server_port", "9100"),
        ("protocol", "TCP"),
        ("connection", "7"),
        ("status", "200"),
        ("bytes_received", "0"),
    ] {
        assert_eq!(text(&cx, name).as_deref(), Some(value), "{name}");
    }
    assert_eq!(text(&cx, "stream_listen_addr").as_deref(), Some("127.0.0.1:9100"));
    for name in [
        "route_id",
        "proxy_protocol_addr",
        "upstream_addr",
        "upstream_bytes_sent",
        "ssl_protocol",
        "uri",
        "http_host",
        "nope",
    ] {
        assert_eq!(text(&cx, name), None, "{name}");
    }
    cx.client = "[2001:db8::1]:1".parse().unwrap();
    assert_eq!(text(&cx, "remote_addr").as_deref(), Some("2001:db8::1"));
    assert_eq!(text(&cx, "realip_remote_addr").as_deref(), Some("10.0.0.1"));
}
