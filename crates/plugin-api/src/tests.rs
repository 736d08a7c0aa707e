//! Rules of chains and registries that hold for every plugin (`docs/spec/plugins/_phases.md`).
//!
//! The plugins here do nothing but leave marks: each phase appends `name:mark:phase` to the variable `trace`.

use crate::testing::{Ask, Exchange, Gateway, Setup};
use crate::{
    BodyNeed, BodyNeeds, BuildCx, ConfigError, Flow, Hooks, OnAccess, OnBeforeProxy, OnBody, OnHeaders, OnLog,
    OnRewrite, Owner, Placement, Plugin, PluginDef, Reply, RequestCx, RunPolicy, Scope, VarValue,
};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

/// What a marking plugin is to do beside leaving marks.
#[derive(Clone, Deserialize, JsonSchema)]
struct Config {
    /// Text of the marks.
    mark: String,
    /// Phase in which to panic.
    panic_in: Option<String>,
    /// Status with which to end the request in `access`.
    reply: Option<u16>,
    /// Wait before going on.
    #[serde(default)]
    wait: bool,
}

struct Marks<const N: usize>(Config);

const NAMES: [&str; 4] = ["alpha", "beta", "gamma", "solo"];
const PRIORITIES: [i32; 4] = [30, 20, 20, 10];

impl<const N: usize> Plugin for Marks<N> {
    type Config = Config;
    const NAME: &'static str = NAMES[N];
    const PRIORITY: i32 = PRIORITIES[N];
    const RUN_POLICY: RunPolicy = if N == 3 { RunPolicy::PreferRoute } else { RunPolicy::Both };
    const SCOPE: Scope = if N == 1 { Scope::Owner } else { Scope::Config };

    fn compile(config: Config, _: &BuildCx<'_>) -> Result<Self, Vec<ConfigError>> {
        if config.mark == "refused" {
            return Err(vec![ConfigError::at("/mark", "no such mark")]);
        }
        Ok(Self(config))
    }

    fn hooks(h: Hooks<Self>) -> Hooks<Self> {
        h.rewrite().access().before_proxy().headers().body().log()
    }

    fn body_needs(&self) -> BodyNeeds {
        BodyNeeds { response: BodyNeed::Stream, ..BodyNeeds::default() }
    }
}

impl<const N: usize> Marks<N> {
    fn leave(&self, cx: &mut RequestCx, phase: &str) {
        let mut trace = trace(cx).to_owned();
        trace.push_str(&format!("{}:{}:{phase} ", Self::NAME, self.0.mark));
        cx.set_var("trace", trace);
        assert_ne!(self.0.panic_in.as_deref(), Some(phase), "a panic of a plugin");
    }
}

fn trace(cx: &RequestCx) -> &str {
    match cx.overridden("trace") {
        Some(VarValue::Text(trace)) => trace,
        _ => "",
    }
}

impl<const N: usize> OnRewrite for Marks<N> {
    fn on_rewrite<'a>(&'a self, cx: &'a mut RequestCx) -> Flow<'a> {
        self.leave(cx, "rewrite");
        Flow::Next
    }
}

impl<const N: usize> OnAccess for Marks<N> {
    fn on_access<'a>(&'a self, cx: &'a mut RequestCx) -> Flow<'a> {
        let end = self.0.reply.map(|status| Reply::text(StatusCode::from_u16(status).unwrap(), "ended"));
        if self.0.wait {
            return Flow::Wait(Box::pin(async move {
                std::future::ready(()).await;
                self.leave(cx, "access");
                end.map_or(Ok(()), Err)
            }));
        }
        self.leave(cx, "access");
        end.map_or(Flow::Next, Flow::Reply)
    }
}

impl<const N: usize> OnBeforeProxy for Marks<N> {
    fn on_before_proxy<'a>(&'a self, cx: &'a mut RequestCx) -> Flow<'a> {
        self.leave(cx, "before_proxy");
        Flow::Next
    }
}

impl<const N: usize> OnHeaders for Marks<N> {
    fn on_headers(&self, cx: &mut RequestCx) {
        self.leave(cx, "headers");
    }
}

impl<const N: usize> OnBody for Marks<N> {
    fn on_body(&self, cx: &mut RequestCx, chunk: &mut Bytes, last: bool) {
        self.leave(cx, "body");
        let seen: &mut usize = cx.slot(self);
        *seen += 1;
        if last {
            *chunk = format!("{}{}", String::from_utf8_lossy(chunk), seen).into();
        }
    }
}

impl<const N: usize> OnLog for Marks<N> {
    fn on_log(&self, cx: &mut RequestCx) {
        self.leave(cx, "log");
    }
}

static ALPHA: PluginDef = PluginDef::of::<Marks<0>>();
static BETA: PluginDef = PluginDef::of::<Marks<1>>();
static GAMMA: PluginDef = PluginDef::of::<Marks<2>>();
static SOLO: PluginDef = PluginDef::of::<Marks<3>>();

fn setup() -> Setup {
    Setup::new(&[&GAMMA, &BETA, &SOLO, &ALPHA])
}

/// The marks of these phases, in order.
fn marks(done: &Exchange, phases: &[&str]) -> String {
    let kept =
        trace(&done.cx).split(' ').filter(|mark| phases.iter().any(|phase| mark.ends_with(&format!(":{phase}"))));
    kept.collect::<Vec<_>>().join(" ")
}

fn access_of(gateway: &Gateway, ask: impl Into<Ask>) -> String {
    marks(&gateway.send(ask), &["access"])
}

#[test]
fn plugins_run_by_priority_then_name_and_global_rules_first() {
    let gateway = setup()
        .global(json!({ "gamma": { "mark": "g" } }))
        .route(json!({ "gamma": { "mark": "r" }, "beta": { "mark": "r" }, "alpha": { "mark": "r" } }));
    let done = gateway.send("GET /");
    let all = ["rewrite", "access", "before_proxy", "headers", "body", "log"];
    let expected: Vec<String> =
        all.iter().map(|phase| format!("gamma:g:{phase} alpha:r:{phase} beta:r:{phase} gamma:r:{phase}")).collect();
    assert_eq!(marks(&done, &all), expected.join(" "));
}

#[test]
fn meta_priority_reorders_its_own_object_only() {
    let gateway = setup().global(json!({ "alpha": { "mark": "g", "_meta": { "priority": 1 } }, "solo": { "mark": "g" } })).route(
        json!({ "alpha": { "mark": "r" }, "solo": { "mark": "r", "_meta": { "disable": true } }, "beta": { "mark": "r", "_meta": { "priority": 99 } } }),
    );
    assert_eq!(access_of(&gateway, "GET /"), "solo:g:access alpha:g:access beta:r:access alpha:r:access");
}

#[test]
fn a_filter_is_evaluated_once_for_all_phases() {
    let gateway = setup().route(json!({
        "alpha": { "mark": "r" },
        "beta": { "mark": "r", "_meta": { "filter": [["trace", "~~", "^alpha:r:rewrite $"]] } },
    }));
    // `trace` changes all the time: only the first verdict, in `rewrite`, is true.
    let done = gateway.send("GET /");
    assert_eq!(marks(&done, &["headers", "log"]), "alpha:r:headers beta:r:headers alpha:r:log beta:r:log");

    let gateway = setup().route(json!({ "alpha": { "mark": "r", "_meta": { "filter": [["arg_v", "==", "2"]] } } }));
    assert_eq!(trace(&gateway.send("GET /?v=1").cx), "");
    assert_eq!(marks(&gateway.send("GET /?v=2"), &["access", "body"]), "alpha:r:access alpha:r:body");
}

#[test]
fn an_answer_ends_the_request_phases_and_not_the_response_phases() {
    let gateway = setup().route(json!({ "alpha": { "mark": "r", "reply": 418 }, "beta": { "mark": "r" } }));
    let done = gateway.send("GET /");
    assert_eq!((done.status, done.ended_by, done.upstream.is_some()), (418, Some("alpha"), false));
    assert_eq!(
        marks(&done, &["access", "before_proxy", "headers", "log"]),
        "alpha:r:access alpha:r:headers beta:r:headers alpha:r:log beta:r:log"
    );
}

#[test]
fn a_hook_that_waits_goes_on_or_ends_the_request() {
    let gateway = setup().route(json!({ "alpha": { "mark": "r", "wait": true }, "beta": { "mark": "r" } }));
    assert_eq!(access_of(&gateway, "GET /"), "alpha:r:access beta:r:access");
    let gateway =
        setup().route(json!({ "alpha": { "mark": "r", "wait": true, "reply": 400 }, "beta": { "mark": "r" } }));
    let done = gateway.send("GET /");
    assert_eq!((done.status, marks(&done, &["access"]).as_str()), (400, "alpha:r:access"));
}

#[test]
fn error_response_replaces_the_body_from_400_on() {
    let body = |reply: u16, error_response: Value| {
        let meta = json!({ "error_response": error_response });
        let done = setup().route(json!({ "alpha": { "mark": "r", "reply": reply, "_meta": meta } })).send("GET /");
        assert_eq!(done.status, reply);
        done.text().trim_end_matches('1').to_owned()
    };
    assert_eq!(body(403, json!({ "a": 1 })), "{\"a\":1}\n");
    assert_eq!(body(403, json!("text")), "text");
    assert_eq!(body(302, json!("text")), "ended");
}

#[test]
fn a_panic_is_the_requests_500_and_is_counted() {
    for wait in [false, true] {
        let gateway = setup().route(json!({
            "alpha": { "mark": "r", "panic_in": "access", "wait": wait }, "beta": { "mark": "r" },
        }));
        let done = gateway.send("GET /");
        assert_eq!((done.status, gateway.view().panics()), (500, vec!["alpha"]));
        assert_eq!(marks(&done, &["access", "log"]), "alpha:r:access alpha:r:log beta:r:log");
    }
    for phase in ["headers", "body", "log"] {
        let gateway = setup().route(json!({ "alpha": { "mark": "r", "panic_in": phase }, "beta": { "mark": "r" } }));
        let done = gateway.send("GET /");
        assert_eq!(gateway.view().panics(), ["alpha"], "{phase}");
        assert_eq!(done.status, if phase == "log" { 200 } else { 500 }, "{phase}");
        // The others still run, and `log` once.
        assert_eq!(marks(&done, &["log"]), "alpha:r:log beta:r:log", "{phase}");
    }
}

#[test]
fn the_highest_layer_has_a_plugin_for_itself() {
    let layer = |mark: &str| json!({ "alpha": { "mark": mark } });
    let names = ["consumer", "group", "route", "plugin_config", "service"];
    for present in 0..names.len() {
        let layers: Vec<(String, Value)> = names
            .iter()
            .skip(2)
            .enumerate()
            .filter(|(n, _)| n + 2 >= present)
            .map(|(_, name)| (format!("/{name}/1"), layer(name)))
            .collect();
        let layers: Vec<(&str, Value)> =
            layers.iter().map(|(owner, plugins)| (owner.as_str(), plugins.clone())).collect();
        let mut consumer = json!({ "username": "joe" });
        if present == 0 {
            consumer["plugins"] = layer("consumer");
        }
        if present <= 1 {
            consumer["group"] = json!({ "id": "g", "plugins": layer("group") });
        }
        let setup = Setup::new(&[&ALPHA, &LOGS_IN]).consumer(consumer);
        let mut layers = layers;
        let login = json!({ "logs-in": {} });
        layers.push(("/routes/9", login));
        let done = setup.layers(&layers).send("GET /");
        assert_eq!(marks(&done, &["access"]), format!("alpha:{}:access", names[present]));
    }
}

/// Attaches the consumer `joe`.
struct LogsIn;

#[derive(Deserialize, JsonSchema)]
struct Nothing {}

impl Plugin for LogsIn {
    type Config = Nothing;
    const NAME: &'static str = "logs-in";
    const PRIORITY: i32 = 25;

    fn compile(_: Nothing, _: &BuildCx<'_>) -> Result<Self, Vec<ConfigError>> {
        Ok(Self)
    }

    fn hooks(h: Hooks<Self>) -> Hooks<Self> {
        h.rewrite()
    }
}

impl OnRewrite for LogsIn {
    fn on_rewrite<'a>(&'a self, cx: &'a mut RequestCx) -> Flow<'a> {
        let joe = cx.view.consumer("joe").unwrap();
        cx.attach_anonymous(joe);
        Flow::Next
    }
}

static LOGS_IN: PluginDef = PluginDef::of::<LogsIn>();

#[test]
fn a_consumers_plugins_rewrite_only_if_the_route_lacks_them() {
    let gateway = Setup::new(&[&ALPHA, &BETA, &GAMMA, &LOGS_IN])
        .consumer(json!({ "username": "joe", "plugins": { "alpha": { "mark": "c" }, "beta": { "mark": "c" } } }))
        .route(json!({ "logs-in": {}, "alpha": { "mark": "r" }, "gamma": { "mark": "r" } }));
    let done = gateway.send("GET /");
    assert_eq!(marks(&done, &["rewrite"]), "alpha:r:rewrite gamma:r:rewrite beta:c:rewrite");
    assert_eq!(marks(&done, &["access"]), "alpha:c:access beta:c:access gamma:r:access");
}

#[test]
fn prefer_route_gives_way_to_an_enabled_copy_on_the_route() {
    let log = |route: Value| {
        let done = setup().global(json!({ "solo": { "mark": "g" } })).route(route).send("GET /");
        marks(&done, &["log"])
    };
    assert_eq!(log(json!({ "solo": { "mark": "r" } })), "solo:r:log");
    assert_eq!(log(json!({ "solo": { "mark": "r", "_meta": { "disable": true } } })), "solo:g:log");
    assert_eq!(log(json!({})), "solo:g:log");
}

#[test]
fn global_rules_run_for_unmatched_requests() {
    let gateway = setup().global(json!({ "alpha": { "mark": "g" } })).no_route();
    let done = gateway.send("GET /nowhere");
    assert_eq!((done.status, done.text()), (404, "{\"error_msg\":\"404 Route Not Found\"}\n1"));
    assert_eq!(
        marks(&done, &["rewrite", "access", "headers", "log"]),
        "alpha:g:rewrite alpha:g:access alpha:g:headers alpha:g:log"
    );
}

#[test]
fn one_instance_has_a_state_for_the_global_rules_and_one_for_the_route() {
    let config = json!({ "alpha": { "mark": "same" } });
    let gateway = setup().global(config.clone()).route(config);
    assert_eq!(gateway.send("GET /").text(), "ok11");
}

#[test]
fn headers_asked_for_early_are_on_the_answer_before_filters_see_it() {
    let mut cx = setup().route(json!({})).send("GET /").cx;
    let name = HeaderName::from_static;
    let value = HeaderValue::from_static;
    cx.response.headers.insert("x-set", value("upstream"));
    cx.response.headers.insert("x-brought", value("upstream"));
    cx.response.headers.insert("x-empty", value(""));
    cx.set_response_header(name("x-set"), value("asked"));
    for header in ["x-brought", "x-empty", "x-absent"] {
        cx.default_response_header(name(header), value("default"));
    }
    crate::Chain::default().run_headers(&mut cx).unwrap();
    let of = |header: &str| cx.response.headers[header].to_str().unwrap();
    assert_eq!(
        [of("x-set"), of("x-brought"), of("x-empty"), of("x-absent")],
        ["asked", "upstream", "default", "default"]
    );
}

#[test]
fn headers_asked_for_early_are_listed_once() {
    let mut cx = setup().route(json!({})).send("GET /").cx;
    let name = HeaderName::from_static;
    let value = HeaderValue::from_static;
    cx.set_response_header(name("x-set"), value("first"));
    cx.set_response_header(name("x-set"), value("second"));
    cx.default_response_header(name("x-set"), value("default"));
    cx.set_response_header(name("x-empty"), value(""));
    cx.default_response_header(name("x-empty"), value("default"));
    assert!(cx.response_headers_to_come().all(|name| name == "x-set" || name == "x-empty"));
    let mut list = vec![(name("x-own"), value("own"))];
    cx.list_response_headers(&mut list);
    let expected = [("x-own", "own"), ("x-set", "second"), ("x-empty", "default")];
    assert_eq!(list, expected.map(|(of, text)| (name(of), value(text))));
    assert_eq!(cx.response_headers_to_come().count(), 0);
}

#[test]
fn equal_configurations_share_an_instance_within_their_scope() {
    let setup = setup();
    let build = |owner: &str, name: &str, mark: &str| {
        let plugins = json!({ name: { "mark": mark } });
        let owner = Owner(owner.into());
        let (mut built, faults) =
            setup.registry().build_all(plugins.as_object().unwrap(), Placement::Object, &owner, &|_| None);
        assert_eq!(faults, []);
        built.remove(0)
    };
    let (one, other) = (build("/routes/1", "alpha", "m"), build("/routes/2", "alpha", "m"));
    assert!(one.same_instance(&other));
    assert!(!one.same_instance(&build("/routes/1", "alpha", "n")));
    let (one, other) = (build("/routes/1", "beta", "m"), build("/routes/2", "beta", "m"));
    assert!(!one.same_instance(&other), "it holds state of its owner");
    assert!(one.same_instance(&build("/routes/1", "beta", "m")), "an unchanged configuration keeps its state");
}

#[test]
fn registries_share_all_but_the_choice_of_plugins() {
    let setup = setup();
    let plugins = json!({ "alpha": { "mark": "m" } });
    let build = |registry: &crate::Registry| {
        let owner = Owner("/routes/1".into());
        registry.build_all(plugins.as_object().unwrap(), Placement::Object, &owner, &|_| None)
    };
    let (all, _) = build(setup.registry());
    let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<String>>();
    let some = setup.registry().enabling(Some(&names(&["alpha", "of another version"])));
    assert_eq!(some.plugins().iter().map(|def| def.name).collect::<Vec<_>>(), ["alpha"]);
    assert!(build(&some).0[0].same_instance(&all[0]), "its state lives on");
    let none = some.enabling(Some(&[]));
    assert_eq!((none.get("alpha").is_none(), none.schema("alpha")), (true, None));
    assert_eq!(build(&none).1[0].message, "unknown plugin [alpha]");
    assert!(none.built_in("alpha").is_some() && none.built_in("aplha").is_none());
    assert_eq!(none.not_built_in("aplha"), "there is no plugin [aplha]; did you mean [alpha]?");
    assert_eq!(none.enabling(None).plugins().len(), setup.registry().plugins().len());
}

#[test]
fn a_filter_that_was_accepted_is_built_though_its_pattern_does_not_compile() {
    // Whether there is such a property only compiling tells.
    let filter = json!([["uri", "~~", r"\p{Nonsense}"]]);
    let plugins = json!({ "alpha": { "mark": "m", "_meta": { "filter": filter } } });
    let (setup, owner) = (setup(), Owner("/routes/1".into()));
    let (built, faults) =
        setup.registry().build_all(plugins.as_object().unwrap(), Placement::Object, &owner, &|_| None);
    assert_eq!((built.len(), faults), (1, Vec::new()));
    let refused = setup.faults(plugins);
    assert_eq!(refused.iter().map(|fault| &*fault.path).collect::<Vec<_>>(), ["/alpha/_meta/filter"]);
}

#[test]
fn faults_are_worded_as_the_admin_api_answers() {
    let check = |plugins: Value, path: &str, message: &str| {
        let faults = setup().faults(plugins);
        let [fault] = faults.as_slice() else { panic!("one fault, not {faults:?}") };
        assert_eq!((fault.path.as_str(), fault.message.as_str()), (path, message));
    };
    check(json!({ "nope": {} }), "/nope", "unknown plugin [nope]");
    check(json!({ "aplha": {} }), "/aplha", "unknown plugin [aplha]; did you mean [alpha]?");
    check(json!({ "alpha": 1 }), "/alpha", "invalid plugin conf 1 for plugin [alpha]");
    check(
        json!({ "alpha": {} }),
        "/alpha/mark",
        "failed to check the configuration of plugin alpha err: property \"mark\" is required",
    );
    check(
        json!({ "alpha": { "mark": "refused" } }),
        "/alpha/mark",
        "failed to check the configuration of plugin alpha err: no such mark",
    );
    let faults = setup().faults(json!({ "alpha": { "mark": "m", "_meta": { "filter": [["a"]] } } }));
    assert!(faults[0].message.starts_with("failed to validate the 'vars' expression: "), "{faults:?}");
    let faults = setup().faults(json!({ "alpha": { "mark": "m", "_meta": { "nope": 1 } } }));
    assert!(faults[0].message.contains("additional properties forbidden, found nope"), "{faults:?}");
    let faults = setup().faults(json!({ "alpha": { "mark": "m", "_meta": { "pre_function": "return 1" } } }));
    assert!(faults[0].message.starts_with("failed to load _meta.pre_function in plugin alpha: "), "{faults:?}");
}

#[test]
fn a_disabled_plugin_may_be_invalid_and_still_hides_lower_copies() {
    let disabled = json!({ "alpha": { "mark": 1, "_meta": { "disable": true } } });
    assert_eq!(setup().faults(disabled.clone()), []);
    let gateway = setup().layers(&[("/routes/1", disabled), ("/services/1", json!({ "alpha": { "mark": "s" } }))]);
    assert_eq!(trace(&gateway.send("GET /").cx), "");
    assert_eq!(setup().faults(json!({ "alpha": { "mark": 1 } })).len(), 1);
}

#[test]
fn references_are_resolved_when_the_chain_is_built() {
    struct Env;
    impl crate::Secrets for Env {
        fn resolve(&self, reference: &str) -> Option<String> {
            (reference == "$env://MARK").then(|| "resolved".to_owned())
        }
    }
    let setup = || Setup::with(&[&ALPHA], &Value::Null, std::sync::Arc::new(Env), std::sync::Arc::default());
    let gateway = setup().route(json!({ "alpha": { "mark": "$env://MARK" } }));
    assert_eq!(access_of(&gateway, "GET /"), "alpha:resolved:access");
    let gateway = setup().route(json!({ "alpha": { "mark": "$env://NONE" } }));
    assert_eq!(access_of(&gateway, "GET /"), "alpha:$env://NONE:access");
}
