//! What a chain costs: `dyn` hooks with [`Flow`] against an enum of all plugins, and an ordinary gateway's plugins.
//!
//! `cargo bench -p milecastle-plugins`. Times are of one machine at one moment; compare within one run only.

use divan::{Bencher, black_box};
use milecastle_plugin_api::testing::{Ask, Gateway, Setup, block_on};
use milecastle_plugin_api::{BuildCx, ConfigError, Flow, Hooks, OnAccess, Plugin, PluginDef, RequestCx};
use milecastle_plugins::ALL;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};

#[global_allocator]
static ALLOCATOR: divan::AllocProfiler = divan::AllocProfiler::system();

fn main() {
    divan::main();
}

/// A hook of the least work that cannot be left out.
struct Touch<const N: usize>(u16);

#[derive(Deserialize, JsonSchema)]
struct Config {
    port: u16,
}

const NAMES: [&str; 8] = ["t-0", "t-1", "t-2", "t-3", "t-4", "t-5", "t-6", "t-7"];

impl<const N: usize> Plugin for Touch<N> {
    type Config = Config;
    const NAME: &'static str = NAMES[N];
    const PRIORITY: i32 = 0;

    fn compile(config: Config, _: &BuildCx<'_>) -> Result<Self, Vec<ConfigError>> {
        Ok(Self(config.port))
    }

    fn hooks(h: Hooks<Self>) -> Hooks<Self> {
        h.access()
    }
}

impl<const N: usize> OnAccess for Touch<N> {
    fn on_access<'a>(&'a self, cx: &'a mut RequestCx) -> Flow<'a> {
        cx.client_port = cx.client_port.wrapping_add(self.0);
        Flow::Next
    }
}

static DEFS: [PluginDef; 8] = [
    PluginDef::of::<Touch<0>>(),
    PluginDef::of::<Touch<1>>(),
    PluginDef::of::<Touch<2>>(),
    PluginDef::of::<Touch<3>>(),
    PluginDef::of::<Touch<4>>(),
    PluginDef::of::<Touch<5>>(),
    PluginDef::of::<Touch<6>>(),
    PluginDef::of::<Touch<7>>(),
];

fn touching(count: usize) -> Gateway {
    let defs: Vec<&'static PluginDef> = DEFS.iter().collect();
    let plugins: Map<String, Value> =
        NAMES.iter().take(count).map(|name| ((*name).to_owned(), json!({ "port": 1 }))).collect();
    Setup::new(&defs).route(plugins.into())
}

/// The phase `access` of a chain, panics caught, as every request runs it.
#[divan::bench(args = [0, 4, 8])]
fn hooks_dyn(bencher: Bencher<'_, '_>, count: usize) {
    let gateway = touching(count);
    let chain = gateway.chain().clone();
    let mut cx = gateway.context("GET /");
    bencher.bench_local(move || block_on(chain.run_access(black_box(&mut cx))).is_ok());
}

/// The alternative: one enum of all plugins, called through a `match`.
enum AnyPlugin {
    Zero(Touch<0>),
    One(Touch<1>),
    Two(Touch<2>),
    Three(Touch<3>),
}

impl AnyPlugin {
    fn on_access<'a>(&'a self, cx: &'a mut RequestCx) -> Flow<'a> {
        match self {
            Self::Zero(plugin) => plugin.on_access(cx),
            Self::One(plugin) => plugin.on_access(cx),
            Self::Two(plugin) => plugin.on_access(cx),
            Self::Three(plugin) => plugin.on_access(cx),
        }
    }
}

/// The same without filters, panics or `dyn`: the floor.
#[divan::bench(args = [0, 4, 8])]
fn hooks_enum(bencher: Bencher<'_, '_>, count: usize) {
    let plugin = |n: usize| match n % 4 {
        0 => AnyPlugin::Zero(Touch(1)),
        1 => AnyPlugin::One(Touch(1)),
        2 => AnyPlugin::Two(Touch(1)),
        _ => AnyPlugin::Three(Touch(1)),
    };
    let plugins: Vec<AnyPlugin> = (0..count).map(plugin).collect();
    let mut cx = touching(0).context("GET /");
    let run = async |plugins: &[AnyPlugin], cx: &mut RequestCx| {
        for plugin in plugins {
            match plugin.on_access(cx) {
                Flow::Next => {}
                Flow::Reply(_) => return false,
                Flow::Wait(future) => {
                    if future.await.is_err() {
                        return false;
                    }
                }
            }
        }
        true
    };
    bencher.bench_local(move || block_on(run(black_box(&plugins), black_box(&mut cx))));
}

/// Each of the benchmark's plugins alone, then all five: from `rewrite` to `log`.
#[divan::bench(args = ["none", "key-auth", "limit-count", "request-id", "proxy-rewrite", "prometheus", "all"])]
fn gateway(bencher: Bencher<'_, '_>, which: &str) {
    let all = json!({
        "key-auth": {},
        "limit-count": { "count": 1_000_000_000, "time_window": 3600, "key": "consumer_name" },
        "request-id": {},
        "proxy-rewrite": { "headers": { "set": { "X-Gateway": "milecastle" }, "remove": ["X-Debug"] } },
        "prometheus": {},
    });
    let mut plugins = all.as_object().cloned().unwrap_or_default();
    plugins.retain(|name, _| which == "all" || which == name);
    let gateway = Setup::new(ALL)
        .consumer(json!({ "username": "amy", "plugins": { "key-auth": { "key": "k" } } }))
        .route(plugins.into());
    let chain = gateway.chain().clone();
    bencher
        .with_inputs(|| gateway.context(Ask::from("GET /orders/7?a=1\nHost: shop.test\napikey: k\nX-Debug: 1")))
        .bench_local_values(|mut cx| {
            let ended = block_on(async {
                chain.run_rewrite(&mut cx).await.is_err() || chain.run_access(&mut cx).await.is_err()
            });
            let panicked = chain.run_headers(&mut cx).is_err();
            chain.mask_credentials(&mut cx.request);
            chain.run_log(&mut cx);
            assert!(!ended && !panicked);
            cx
        });
}
