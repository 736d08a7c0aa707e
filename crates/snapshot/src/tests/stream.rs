//! Stream routes: which sessions they take (`docs/spec/stream.md` §2, §3).

use super::{Config, delete, put};
use crate::{Compiler, SessionFacts, Snapshot, StreamOutcome, UpstreamRef};
use milecastle_model::Kind;
use milecastle_plugin_api::stream::{OnPreread, SessionFlow, StreamCx};
use milecastle_plugin_api::{BuildCx, ConfigError, Hooks, NoSecrets, Plugin, PluginDef, Registry, Shared, Subsystem};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// A plugin of sessions, of the name that one of requests has too.
#[derive(Deserialize, JsonSchema)]
struct SealConfig {
    text: String,
}

struct Seal;

impl Plugin for Seal {
    type Config = SealConfig;
    const NAME: &'static str = "mark";
    const PRIORITY: i32 = 5;

    fn compile(config: SealConfig, _: &BuildCx<'_>) -> Result<Self, Vec<ConfigError>> {
        if config.text == "bad" { Err(vec![ConfigError::new("bad text")]) } else { Ok(Self) }
    }

    fn hooks(h: Hooks<Self>) -> Hooks<Self> {
        h.preread()
    }
}

impl OnPreread for Seal {
    fn on_preread(&self, _: &mut StreamCx) -> SessionFlow {
        SessionFlow::Next
    }
}

static SEAL: PluginDef = PluginDef::of::<Seal>();

fn config() -> Config {
    let shared = Arc::new(Shared::default());
    let registry = Registry::of(Subsystem::Stream, &[&SEAL], None, Map::new(), shared, Arc::new(NoSecrets));
    let mut config = Config::new();
    let compiler = super::compiler().with_sessions(Arc::new(registry));
    config.compiler = compiler.under_settings(&json!({ "proxy_mode": "stream" })).unwrap();
    config.now = config.compiler.build("line", 1, Vec::new()).0;
    config
}

/// What a session is matched by: client, local address, server name.
type Session<'s> = (&'s str, &'s str, Option<&'s str>);

fn find<'s>(snapshot: &'s Snapshot, (client, local, sni): Session<'_>) -> Option<&'s str> {
    let facts = SessionFacts { client: client.parse().unwrap(), local: local.parse().unwrap(), sni };
    snapshot.stream_route(&facts).map(|route| &*route.info.id)
}

fn check(routes: Value, sessions: &[(Session<'_>, Option<&str>)]) {
    let mut config = config();
    let routes = routes.as_object().unwrap();
    let changes: Vec<_> = routes.iter().map(|(id, body)| put(Kind::StreamRoute, id, body.clone())).collect();
    config.good(&changes);
    for (session, expected) in sessions {
        assert_eq!(find(&config.now, *session), *expected, "{session:?}");
    }
    // Whatever the order of the changes that led there.
    let mut other = self::config();
    for change in changes.iter().rev() {
        other.good(std::slice::from_ref(change));
    }
    for (session, expected) in sessions {
        assert_eq!(find(&other.now, *session), *expected, "{session:?}, the other way round");
    }
}

const LOCAL: &str = "127.0.0.1:9100";

#[test]
fn all_conditions_that_are_given_must_hold() {
    check(
        json!({
            "1": { "remote_addr": "10.0.0.0/8", "server_port": 9100, "server_addr": "127.0.0.1" },
            "2": { "remote_addr": "2001:db8::/32" },
            "3": { "server_addr": "127.0.0.2" },
            "4": { "server_port": 9101 },
        }),
        &[
            (("10.1.2.3", LOCAL, None), Some("1")),
            (("11.1.2.3", LOCAL, None), None),
            (("10.1.2.3", "127.0.0.1:9101", None), Some("4")),
            (("10.1.2.3", "127.0.0.2:9100", None), Some("3")),
            (("2001:db8::1", LOCAL, None), Some("2")),
            (("2001:db9::1", "[::1]:9101", None), Some("4")),
        ],
    );
}

#[test]
fn a_route_without_conditions_takes_everything_and_the_smaller_id_wins() {
    check(
        json!({ "b": {}, "c": { "server_port": 9100 }, "a": { "server_port": 9101 } }),
        &[
            (("10.0.0.1", LOCAL, None), Some("b")),
            (("10.0.0.1", "127.0.0.1:9101", None), Some("a")),
            (("::1", "[::1]:1", None), Some("b")),
        ],
    );
}

#[test]
fn server_names_come_first_and_longer_suffixes_before_shorter_ones() {
    check(
        json!({
            "1": {}, "2": { "sni": "*.A.test" }, "3": { "sni": "*.b.a.test" }, "4": { "sni": "x.b.a.test." },
            "5": { "sni": "*" , "remote_addr": "10.0.0.9" }, "6": { "sni": "*.c.test", "server_port": 1 },
        }),
        &[
            (("10.0.0.1", LOCAL, Some("x.b.a.test")), Some("4")),
            (("10.0.0.1", LOCAL, Some("y.b.a.test")), Some("3")),
            (("10.0.0.1", LOCAL, Some("z.y.b.a.test")), Some("3")),
            (("10.0.0.1", LOCAL, Some("y.a.test")), Some("2")),
            (("10.0.0.1", LOCAL, Some("a.test")), Some("1")),
            (("10.0.0.9", LOCAL, Some("other.test")), Some("5")),
            (("10.0.0.1", LOCAL, Some("d.c.test")), Some("1")),
            (("10.0.0.1", LOCAL, None), Some("1")),
        ],
    );
}

#[test]
fn where_the_conditions_of_a_name_do_not_hold_the_next_less_specific_one_is_tried() {
    check(
        json!({
            "1": { "sni": "a.b.test", "remote_addr": "10.0.0.1" }, "2": { "sni": "*.b.test", "remote_addr": "10.0.0.2" },
            "3": { "sni": "*.test" }, "4": { "sni": "a.b.test", "remote_addr": "10.0.0.0/24", "server_port": 9100 },
        }),
        &[
            (("10.0.0.1", LOCAL, Some("a.b.test")), Some("1")),
            (("10.0.0.2", LOCAL, Some("a.b.test")), Some("4")),
            (("10.0.0.2", "127.0.0.1:1", Some("a.b.test")), Some("2")),
            (("11.0.0.1", LOCAL, Some("a.b.test")), Some("3")),
        ],
    );
}

#[test]
fn subordinate_routes_are_no_entry_points() {
    check(
        json!({ "1": { "protocol": { "name": "redis", "superior_id": "2" } }, "2": { "protocol": { "name": "redis" } } }),
        &[(("10.0.0.1", LOCAL, None), Some("2"))],
    );
}

fn route(config: &Config) -> &crate::CompiledStreamRoute {
    let facts = SessionFacts { client: [10, 0, 0, 1].into(), local: LOCAL.parse().unwrap(), sni: None };
    config.now.stream_route(&facts).unwrap()
}

#[test]
fn routes_come_and_go_and_change() {
    let mut config = config();
    config.good(&[
        put(Kind::StreamRoute, "1", json!({ "server_port": 9100 })),
        put(Kind::StreamRoute, "2", json!({ "sni": "a.test" })),
    ]);
    let session = ("10.0.0.1", LOCAL, Some("a.test"));
    assert_eq!(find(&config.now, session), Some("2"));
    config.good(&[put(Kind::StreamRoute, "2", json!({ "sni": "b.test" }))]);
    assert_eq!(find(&config.now, session), Some("1"));
    config.good(&[put(Kind::StreamRoute, "1", json!({ "server_port": 9101 }))]);
    assert_eq!(find(&config.now, session), None);
    config.good(&[delete(Kind::StreamRoute, "1"), delete(Kind::StreamRoute, "2")]);
    assert_eq!(find(&config.now, ("10.0.0.1", "127.0.0.1:9101", Some("b.test"))), None);
}

#[test]
fn a_service_gives_what_the_route_lacks() {
    let mut config = config();
    let nodes = |port: u16| json!({ "nodes": { format!("127.0.0.1:{port}"): 1 } });
    let plugins = json!({ "mark": { "text": "service" }, "pass": {} });
    config.good(&[
        put(Kind::Service, "s", json!({ "name": "n", "plugins": plugins, "upstream": nodes(1) })),
        put(Kind::StreamRoute, "1", json!({ "service_id": "s" })),
    ]);
    // Of the service's plugins those count that are plugins of sessions.
    assert_eq!(format!("{:?}", route(&config).chain), r#"["mark"]"#);
    let inline = |config: &Config| match &route(config).upstream {
        UpstreamRef::Inline(upstream) => upstream.nodes[0].port,
        other => panic!("{other:?}"),
    };
    assert_eq!(inline(&config), 1);
    assert_eq!(route(&config).info.service_name.as_deref(), Some("n"));
    config.good(&[put(Kind::Service, "s", json!({ "upstream": nodes(2) }))]);
    assert_eq!(inline(&config), 2);
    assert_eq!(format!("{:?}", route(&config).chain), "[]");
    config.good(&[put(Kind::StreamRoute, "1", json!({ "service_id": "s", "upstream": nodes(3) }))]);
    assert_eq!(inline(&config), 3);
    config.good(&[put(Kind::StreamRoute, "1", json!({ "service_id": "s", "upstream": nodes(3), "upstream_id": "u" }))]);
    assert!(matches!(&route(&config).upstream, UpstreamRef::Id(id) if &**id == "u"));
    config.good(&[delete(Kind::Service, "s")]);
    assert_eq!(route(&config).outcome, StreamOutcome::Close);
}

#[test]
fn a_route_that_cannot_be_built_keeps_its_last_good_form_or_closes_what_it_matches() {
    let mut config = config();
    let with = |text: &str| json!({ "plugins": { "mark": { "text": text } } });
    let rejected = config.step(&[put(Kind::StreamRoute, "1", with("bad"))]);
    let reason = "/plugins/mark: failed to check the configuration of stream plugin [mark]: bad text";
    assert_eq!(rejected[0].reason, reason);
    assert_eq!(route(&config).outcome, StreamOutcome::Close);
    assert!(!config.now.quarantined().next().unwrap().2);
    config.good(&[put(Kind::StreamRoute, "1", with("good"))]);
    assert_eq!(route(&config).outcome, StreamOutcome::Serve);
    config.step(&[put(Kind::StreamRoute, "1", with("bad"))]);
    assert_eq!(route(&config).outcome, StreamOutcome::Serve);
    assert!(config.now.quarantined().next().unwrap().2);
    config.good(&[delete(Kind::StreamRoute, "1")]);
    assert_eq!(config.now.quarantined().count(), 0);
}

#[test]
fn a_protocol_that_is_not_spoken_closes_the_session() {
    let mut config = config();
    config.good(&[put(Kind::StreamRoute, "1", json!({ "protocol": { "name": "redis" } }))]);
    assert_eq!(route(&config).outcome, StreamOutcome::Unspoken);
}

#[test]
fn without_tcp_and_udp_stream_routes_are_kept_and_not_built() {
    let compiler: Compiler = super::compiler();
    let object = match put(Kind::StreamRoute, "1", json!({ "plugins": { "nope": {} } })) {
        milecastle_model::Change::Put(object) => object,
        other => panic!("{other:?}"),
    };
    let (snapshot, rejected) = compiler.build_over(&Snapshot::empty("line", &compiler), "line", 1, vec![object]);
    assert_eq!((rejected.len(), snapshot.len()), (0, 1));
    assert_eq!(find(&snapshot, ("10.0.0.1", LOCAL, None)), None);
}

#[test]
fn the_settings_say_whether_there_are_stream_routes_and_with_which_plugins() {
    let mut config = config();
    config.good(&[put(Kind::StreamRoute, "1", json!({ "plugins": { "mark": { "text": "x" } } }))]);
    let found = |config: &Config| find(&config.now, ("10.0.0.1", LOCAL, None)).is_some();
    assert!(found(&config));
    let settings = |body: Value| put(Kind::GroupSettings, "group", body);
    config.good(&[settings(json!({ "proxy_mode": "http" }))]);
    assert!(!found(&config) && config.now.compiler().streams().is_none());
    let body = json!({});
    let faults = config.now.compiler().check(Kind::StreamRoute, "1", &body);
    assert_eq!(faults.iter().map(|fault| &*fault.message).collect::<Vec<_>>(), [crate::STREAMS_OFF]);
    config.good(&[settings(json!({ "proxy_mode": "http&stream" }))]);
    assert_eq!(route(&config).outcome, StreamOutcome::Serve);
    let rejected = config.step(&[settings(json!({ "proxy_mode": "stream", "stream_plugins": [] }))]);
    assert_eq!((rejected.len(), route(&config).outcome), (1, StreamOutcome::Close));
    // Nor does a service's plugin go missing unnoticed.
    config.good(&[settings(json!({ "proxy_mode": "stream" }))]);
    let of_service = json!({ "plugins": { "mark": { "text": "x" } } });
    config.good(&[put(Kind::Service, "s", of_service), put(Kind::StreamRoute, "1", json!({ "service_id": "s" }))]);
    assert_eq!(route(&config).outcome, StreamOutcome::Serve);
    let rejected = config.step(&[settings(json!({ "proxy_mode": "stream", "stream_plugins": [] }))]);
    assert_eq!((rejected.len(), route(&config).outcome), (1, StreamOutcome::Close));
    let faults = config.compiler.check(Kind::GroupSettings, "group", &json!({ "stream_plugins": ["mark", "pass"] }));
    assert_eq!(faults.iter().map(|fault| &*fault.path).collect::<Vec<_>>(), ["/stream_plugins/1"]);
}

#[test]
fn faults_are_found_on_write() {
    let check = |body: Value, expected: &[&str]| {
        let faults: Vec<String> =
            config().compiler.check(Kind::StreamRoute, "1", &body).iter().map(ToString::to_string).collect();
        assert_eq!(faults, expected, "{body}");
    };
    check(json!({ "plugins": { "mark": { "text": "x" } } }), &[]);
    check(json!({ "plugins": { "pass": {} } }), &["unknown plugin [pass]"]);
    let wrong = "failed to check the configuration of stream plugin [mark]: property \"text\" is required";
    check(json!({ "plugins": { "mark": {} } }), &[wrong]);
    check(json!({ "remote_addr": "10.0.0.0/33" }), &["invalid remote_addr: 10.0.0.0/33"]);
}
