//! The data plane alone, with the configuration that `tests/bench` asks for: no control plane, no disk.
//!
//! One worker; plain HTTP on 19301, HTTPS on 19302 with the certificate in `$BENCH_CERT` and `$BENCH_KEY`; every request goes
//! to `$BENCH_ORIGIN`. The scenario `gateway` needs plugins, which this crate does not know: measure it with the whole binary.

use milecastle_model::{Key, Kind, Object};
use milecastle_plugin_api::{NoSecrets, NodeFacts, Registry, Shared};
use milecastle_proxy::drain::Drain;
use milecastle_proxy::handover::{Gate, Inherited};
use milecastle_proxy::{Counters, Current, Discovery, Gateway, GatewayConfig, GatewayParts};
use milecastle_settings::{Gateway as Settings, HttpListen, NodeListen, SslListen};
use milecastle_snapshot::Compiler;
use serde_json::{Map, Value, json};
use std::error::Error;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn object(kind: Kind, id: &str, body: &Value) -> Object {
    Object { key: Key::new(kind, id), body: body.to_string().into(), created: 1, modified: 1 }
}

fn objects() -> Result<Vec<Object>, Box<dyn Error>> {
    let origin = std::env::var("BENCH_ORIGIN").unwrap_or_else(|_| "http://127.0.0.1:19000".into());
    let node = origin.trim_start_matches("http://");
    let upstream = json!({ "nodes": { node: 1 }, "keepalive_pool": { "size": 512, "idle_timeout": 3600, "requests": 100_000_000 } });
    let mut all = vec![
        object(Kind::Upstream, "origin", &upstream),
        object(Kind::Route, "all", &json!({ "uri": "/*", "upstream_id": "origin" })),
    ];
    if let (Ok(cert), Ok(key)) = (std::env::var("BENCH_CERT"), std::env::var("BENCH_KEY")) {
        let (cert, key) = (std::fs::read_to_string(cert)?, std::fs::read_to_string(key)?);
        all.push(object(Kind::Ssl, "bench", &json!({ "cert": cert, "key": key, "sni": "*" })));
    }
    Ok(all)
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut settings = Settings { workers: 1, ..Settings::default() };
    settings.apisix.node_listen = NodeListen(vec![HttpListen { ip: LOCAL, port: 19301, enable_http2: None }]);
    settings.apisix.ssl.listen = vec![SslListen { ip: LOCAL, port: 19302, enable_http2: None, enable_http3: false }];
    settings.apisix.ssl.fallback_sni = Some("localhost".into());
    settings.nginx_config.http.keepalive_timeout = milecastle_settings::Time::secs(3600);
    let facts = NodeFacts { hostname: "bench".into(), version: env!("CARGO_PKG_VERSION"), tracing: false };
    let registry = Registry::new(&[], Map::new(), Arc::new(Shared::default()), Arc::new(NoSecrets));
    let compiler = Compiler::new(Arc::new(registry));
    let (snapshot, rejected) = compiler.build("bench", 1, objects()?);
    if let Some(rejected) = rejected.first() {
        return Err(format!("{}: {}", rejected.key, rejected.reason).into());
    }
    let side = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let config = GatewayConfig::new(&settings, &facts)?;
    let discovery = Discovery::new(&settings.discovery, side.handle().clone(), None, None)?;
    let gateway = Gateway::start(
        GatewayParts {
            counters: Arc::new(Counters::new(config.workers())),
            config,
            facts,
            current: Arc::new(Current::new(Arc::new(snapshot))),
            upstream_health: Arc::default(),
            discovery,
            side: side.handle().clone(),
            on_end: None,
            on_session_end: None,
            drain: Arc::new(Drain::new("1.2.3", std::time::Duration::ZERO)),
            gate: Gate::open(),
        },
        &mut Inherited::default(),
    )?;
    side.block_on(std::future::pending::<()>());
    drop(gateway);
    Ok(())
}
