//! Heap allocations of a request's way through its plugins.
//!
//! Counts, not times: they are the same on every machine. The figures are the ones to beat; a change that raises one has
//! to say why.
#![allow(unsafe_code, clippy::unwrap_used, reason = "an allocator that counts is unsafe to write; tests may panic")]

use http::StatusCode;
use milecastle_plugin_api::testing::{Ask, Gateway, Setup, block_on};
use milecastle_plugin_api::{
    Attempt, BuildCx, ConfigError, Flow, Hooks, OnAccess, OnHeaders, OnLog, OnRewrite, Plugin, PluginDef, RequestCx,
    ResponseSource,
};
use milecastle_plugins::ALL;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

struct Counting;

thread_local!(static COUNT: Cell<usize> = const { Cell::new(0) });

// SAFETY: every call is handed to the system's allocator as it is; counting touches a constant-initialised thread-local
// without destructor, which allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.set(COUNT.get() + 1);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises; `at` came from `System`.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        COUNT.set(COUNT.get() + 1);
        // SAFETY: as the caller promises; `at` came from `System`.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Takes part in four phases and does nothing, or waits once.
struct Idle<const N: usize> {
    wait: bool,
}

#[derive(Deserialize, JsonSchema)]
struct Config {
    #[serde(default)]
    wait: bool,
}

const NAMES: [&str; 8] = ["idle-0", "idle-1", "idle-2", "idle-3", "idle-4", "idle-5", "idle-6", "idle-7"];

impl<const N: usize> Plugin for Idle<N> {
    type Config = Config;
    const NAME: &'static str = NAMES[N];
    const PRIORITY: i32 = 0;

    fn compile(config: Config, _: &BuildCx<'_>) -> Result<Self, Vec<ConfigError>> {
        Ok(Self { wait: config.wait })
    }

    fn hooks(h: Hooks<Self>) -> Hooks<Self> {
        h.rewrite().access().headers().log()
    }
}

impl<const N: usize> OnRewrite for Idle<N> {
    fn on_rewrite<'a>(&'a self, _: &'a mut RequestCx) -> Flow<'a> {
        Flow::Next
    }
}

impl<const N: usize> OnAccess for Idle<N> {
    fn on_access<'a>(&'a self, cx: &'a mut RequestCx) -> Flow<'a> {
        if !self.wait {
            return Flow::Next;
        }
        Flow::Wait(Box::pin(async move {
            cx.client_port = 0;
            Ok(())
        }))
    }
}

impl<const N: usize> OnHeaders for Idle<N> {
    fn on_headers(&self, _: &mut RequestCx) {}
}

impl<const N: usize> OnLog for Idle<N> {
    fn on_log(&self, _: &mut RequestCx) {}
}

static IDLE: [PluginDef; 8] = [
    PluginDef::of::<Idle<0>>(),
    PluginDef::of::<Idle<1>>(),
    PluginDef::of::<Idle<2>>(),
    PluginDef::of::<Idle<3>>(),
    PluginDef::of::<Idle<4>>(),
    PluginDef::of::<Idle<5>>(),
    PluginDef::of::<Idle<6>>(),
    PluginDef::of::<Idle<7>>(),
];

/// Allocations between the first phase and the last.
fn count(gateway: &Gateway, ask: &str) -> usize {
    // The balancer has one text for a node.
    let node: Rc<str> = "127.0.0.1:1980".into();
    let once = || {
        let mut cx = gateway.context(Ask::from(ask));
        let chain = gateway.chain().clone();
        let attempt = Attempt {
            addr: "127.0.0.1:1980".parse().unwrap(),
            node: node.clone(),
            began: Instant::now(),
            status: 200,
            answered: true,
            connect: Duration::ZERO,
            header: None,
            response: Duration::ZERO,
            response_bytes: 0,
        };
        // The answer's headers exist already when plugins add theirs.
        cx.response.headers.reserve(16);
        let before = COUNT.get();
        block_on(async {
            assert!(chain.run_rewrite(&mut cx).await.is_ok());
            assert!(chain.run_access(&mut cx).await.is_ok());
        });
        cx.upstream.push(attempt);
        cx.response.status = StatusCode::OK;
        cx.response.source = ResponseSource::Upstream;
        chain.run_headers(&mut cx).unwrap();
        chain.run_log(&mut cx);
        COUNT.get() - before
    };
    // The first request fills the worker's caches.
    once();
    once()
}

fn idle(plugins: usize, waiting: usize) -> usize {
    let defs: Vec<&'static PluginDef> = IDLE.iter().collect();
    let configs = NAMES.iter().take(plugins).enumerate();
    let configs: serde_json::Map<String, Value> =
        configs.map(|(n, name)| ((*name).to_owned(), json!({ "wait": n < waiting }))).collect();
    count(&Setup::new(&defs).route(configs.into()), "GET /")
}

#[test]
fn hooks_that_need_not_wait_allocate_nothing() {
    assert_eq!([idle(0, 0), idle(4, 0), idle(8, 0)], [0, 0, 0]);
}

#[test]
fn a_hook_that_waits_allocates_once() {
    assert_eq!([idle(8, 1), idle(8, 2)], [1, 2]);
}

#[test]
fn the_plugins_of_an_ordinary_gateway_allocate_little() {
    let gateway = |plugins: Value| {
        let setup = Setup::new(ALL);
        setup.consumer(json!({ "username": "amy", "plugins": { "key-auth": { "key": "k" } } })).route(plugins)
    };
    let of = |plugins: Value| count(&gateway(plugins), "GET /orders/7?a=1\nHost: shop.test\napikey: k\nX-Debug: 1");
    let key_auth = json!({});
    let request_id = json!({});
    let limit_count = json!({ "count": 1_000_000, "time_window": 60, "key": "consumer_name", "rejected_code": 429 });
    let rewrite = json!({ "headers": { "set": { "X-Gateway": "milecastle" }, "remove": ["X-Debug"] } });
    let named = json!({ "headers": { "set": { "X-Consumer": "$consumer_name" } } });
    let all = json!({
        "key-auth": key_auth, "request-id": request_id, "limit-count": limit_count, "proxy-rewrite": rewrite,
        "prometheus": {},
    });
    // `request-id`: the id, and the lists of variables and of headers for the answer. `limit-count`: the same lists, the
    // text of `rate_limiting_info`, and the two numbers of its headers that are not small. `proxy-rewrite`: a value that is a
    // variable.
    for (plugins, most) in [
        (json!({ "key-auth": key_auth }), 0),
        (json!({ "ip-restriction": { "blacklist": ["10.0.0.0/8"] } }), 0),
        (json!({ "proxy-rewrite": rewrite }), 0),
        (json!({ "key-auth": key_auth, "proxy-rewrite": named }), 1),
        (json!({ "prometheus": {} }), 0),
        (json!({ "request-id": request_id }), 3),
        (json!({ "limit-count": limit_count }), 5),
        (all, 6),
    ] {
        let found = of(plugins.clone());
        assert!(found <= most, "{found} allocations, {most} at most: {plugins}");
    }
}
