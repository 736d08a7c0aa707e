//! Loading, as an operator sees it.

use crate::*;

const NO_VARIABLES: [(String, String); 0] = [];
const KNOWN: Known<'_> = Known { plugins: &["key-auth", "limit-count", "redirect"], group_token, secret_files: false };

fn group_token(text: &str) -> Result<(), String> {
    if text.starts_with("mc1.") { Ok(()) } else { Err("not a group token".into()) }
}

fn faults<F: File + std::fmt::Debug>(text: &str) -> Vec<String> {
    match parse::<F>("f.yaml", text, NO_VARIABLES, &KNOWN) {
        Err(LoadError::Faults(f)) => f.to_string().lines().map(str::to_owned).collect(),
        other => panic!("expected faults, got {other:?}"),
    }
}

fn gateway(text: &str) -> Gateway {
    let text = format!("control_plane: {{endpoints: ['https://c:17900']}}\n{text}");
    parse::<GatewayFile>("f.yaml", &text, NO_VARIABLES, &KNOWN).unwrap_or_else(|e| panic!("{e}")).gateway
}

fn with_environment<F: File>(text: &str, variables: &[(&str, &str)]) -> Result<F, String> {
    let variables = variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
    parse("f.yaml", text, variables, &KNOWN).map_err(|e| e.to_string())
}

#[test]
fn defaults_are_the_listener_table() {
    let up: UpFile = parse("f.yaml", "", NO_VARIABLES, &KNOWN).unwrap();
    let listeners: Vec<_> = up.listeners().iter().map(|one| format!("{} {}", one.key, one.address)).collect();
    assert_eq!(
        listeners,
        [
            "dashboard.server.listen.port 0.0.0.0:17080",
            "dashboard.admin.admin_listen.port 127.0.0.1:9180",
            "dp_manager.server.listen.port 0.0.0.0:17900",
            "gateway.apisix.node_listen 0.0.0.0:9080",
            "gateway.apisix.ssl.listen 0.0.0.0:9443",
            "gateway.apisix.status.port 0.0.0.0:7085",
            "gateway.apisix.control.port 127.0.0.1:9090",
            "gateway.plugin_attr.prometheus.export_addr.port 127.0.0.1:9091",
        ]
    );
    assert_eq!(up.gateway.state.dir(), std::path::Path::new("milecastle-data/gateway"));
    assert_eq!(up.replica.database.dsn.unwrap().reveal(), "sqlite:milecastle-data/milecastle.db");
}

#[test]
fn stream_listeners_take_all_forms() {
    let file = gateway(
        "apisix:\n  node_listen: 9080\n  ssl: {enable: false}\n  stream_proxy:\n    tcp: [9100, '127.0.0.1:9101', 2000-2002, {addr: 9102, tls: true, \
         proxy_protocol: true, proxy_protocol_to_upstream_version: v2}]\n    udp: [53, '[::1]:9100']\n",
    );
    let tcp: Vec<String> = file
        .listeners()
        .into_iter()
        .filter(|one| one.key == "apisix.stream_proxy.tcp")
        .map(|one| one.address.to_string())
        .collect();
    assert_eq!(tcp, ["0.0.0.0:9100", "127.0.0.1:9101", "0.0.0.0:2000", "0.0.0.0:2001", "0.0.0.0:2002", "0.0.0.0:9102"]);
    let last = &file.apisix.stream_proxy.tcp[3];
    assert_eq!((last.tls, last.proxy_protocol, last.proxy_protocol_to_upstream), (true, Some(true), None));
    assert_eq!(last.proxy_protocol_to_upstream_version, Some(ProxyVersion::V2));
    assert_eq!(file.apisix.proxy_protocol.tcp_pp_to_upstream_version, ProxyVersion::V1);
    let only = gateway("apisix: {node_listen: [], ssl: {enable: false}, stream_proxy: {udp: [53]}}");
    assert!(only.listeners().iter().all(|one| !one.key.starts_with("apisix.node_listen")));
}

#[test]
fn faults_of_stream_settings() {
    for (text, key) in [
        ("apisix: {proxy_mode: stream}", "set GROUP --proxy-mode"),
        ("apisix: {stream_proxy: {tcp: [70000]}}", "apisix.stream_proxy.tcp[0]"),
        ("apisix: {stream_proxy: {udp: [9000-8000]}}", "apisix.stream_proxy.udp[0]"),
        ("apisix: {stream_proxy: {udp: [53, '127.0.0.1:53']}}", "apisix.stream_proxy.udp"),
        ("stream_plugins: [prometheus]", "set GROUP --stream-plugins"),
        ("timeouts: {proxy_protocol: 0s}", "timeouts.proxy_protocol"),
    ] {
        let found = faults::<GatewayFile>(text);
        assert!(found.iter().any(|fault| fault.contains(key)), "{text}: {found:?}");
    }
}

#[test]
fn node_listen_takes_the_three_forms() {
    let ports = |g: Gateway| g.apisix.node_listen.0.iter().map(|l| l.socket().to_string()).collect::<Vec<_>>();
    assert_eq!(ports(gateway("apisix: {node_listen: 8000}")), ["0.0.0.0:8000"]);
    assert_eq!(ports(gateway("apisix: {node_listen: [8000, 8001]}")), ["0.0.0.0:8000", "0.0.0.0:8001"]);
    let mixed = gateway(
        "apisix:\n  node_listen:\n    - 8000\n    - ip: 127.0.0.2\n      port: 8001\n      enable_http2: false\n",
    );
    assert_eq!(mixed.apisix.node_listen.0[1].enable_http2, Some(false));
    assert_eq!(ports(mixed), ["0.0.0.0:8000", "127.0.0.2:8001"]);
}

#[test]
fn what_a_section_leaves_out_keeps_its_default() {
    let g =
        gateway("apisix:\n  status:\n    ip: 127.0.0.1\nlimits:\nnginx_config: {http: {client_max_body_size: 10m}}");
    assert_eq!(g.apisix.status.socket().to_string(), "127.0.0.1:7085");
    assert_eq!(g.limits, Limits::default());
    assert_eq!(g.nginx_config.http.client_max_body_size, Size::kib(10 * 1024));
    assert_eq!(g.nginx_config.http.send_timeout, Time::secs(10));
}

#[test]
fn the_reference_spellings_are_understood() {
    let g = gateway(
        "nginx_config: {http: {real_ip_recursive: 'on', real_ip_from: [10.0.0.0/8, 'unix:'], keepalive_timeout: 75}}\n\
         apisix: {trusted_addresses: [127.0.0.1], ssl: {ssl_protocols: TLSv1.3}}\n\
         plugin_attr: {prometheus: {metrics: {http_status: {extra_labels: [{a: $b}], expire: 600}}}, redirect: {https_port: 8443}}\n",
    );
    assert!(g.nginx_config.http.real_ip_recursive.0);
    assert_eq!(g.nginx_config.http.keepalive_timeout, Time::secs(75));
    assert_eq!(g.apisix.ssl.ssl_protocols.0, [TlsVersion::V1_3]);
    assert_eq!(g.plugin_attr.prometheus.metrics["http_status"].expire, Time::secs(600));
    assert_eq!(g.plugin_attr.others["redirect"]["https_port"], 8443);
    let attr = g.plugin_attr.to_json();
    assert_eq!(attr["prometheus"]["metrics"]["http_status"]["expire"], 600);
    assert_eq!(attr["prometheus"]["refresh_interval"], 15);
    assert_eq!(attr["redirect"], serde_json::json!({"https_port": 8443}));
}

#[test]
fn all_faults_come_at_once_with_their_places() {
    let text = "\
apisix:
  node_lisen: 9080
  status:
    port: 70000
  control: {port: soon}
workers: many
timeouts: {tls_handshake: later}
apisx: 1
plugins: {a: 1}
log: {format: xml}
";
    assert_eq!(
        faults::<GatewayFile>(text),
        [
            "f.yaml:2:3: apisix.node_lisen: unknown key; did you mean `node_listen`?",
            "f.yaml:4:11: apisix.status.port: expected a whole number from 0 to 65535, found 70000",
            "f.yaml:5:19: apisix.control.port: expected a whole number from 0 to 65535, found the text \"soon\"",
            "f.yaml:6:10: workers: expected a whole number from 0 to 1024, found the text \"many\"",
            "f.yaml:7:27: timeouts.tls_handshake: expected a length of time such as `500ms`, `30s`, `5m` or `1h30m` (a bare \
             number is seconds), found the text \"later\"",
            "f.yaml:8:1: apisx: unknown key; did you mean `apisix`?",
            "f.yaml:9:1: plugins: unknown key; which plugins are enabled is a setting of the gateway group: \
             `milecastle group settings set GROUP --plugins a,b`",
            "f.yaml:10:15: log.format: expected `text` or `json`, found the text \"xml\"",
        ]
    );
}

#[test]
fn a_key_in_the_wrong_section_is_led_home() {
    let advice = |text| faults::<GatewayFile>(text).remove(0);
    assert!(advice("header_bytes: 1k").ends_with("unknown key; did you mean `limits.header_bytes`?"));
    assert!(advice("deployment: {role: data_plane}").contains("`control_plane`"));
    assert!(advice("state: {zzzzzz: 1}").ends_with(
        "unknown key; known here: dir, generations, fold_at, key_file, write_timeout, sync_delay, retry_interval"
    ));
}

#[test]
fn faults_that_no_schema_sees() {
    let listed =
        faults::<GatewayFile>("apisix: {node_listen: [9080, 9443, 9080], status: {ip: 127.0.0.1, port: 9090}}");
    assert_eq!(
        listed,
        [
            "f.yaml:1:23: apisix.node_listen: 0.0.0.0:9080 is taken by `apisix.node_listen` (0.0.0.0:9080); each listener needs \
             an address of its own",
            "f.yaml:1:9: apisix.ssl.listen: 0.0.0.0:9443 is taken by `apisix.node_listen` (0.0.0.0:9443); each listener needs an \
             address of its own",
            "f.yaml:1:9: apisix.control.port: 127.0.0.1:9090 is taken by `apisix.status.port` (127.0.0.1:9090); each listener needs \
             an address of its own",
            "f.yaml:1:1: control_plane.endpoints: required: name at least one DP manager, e.g. \
             `[\"https://control.example.org:17900\"]`",
        ]
    );
    let listed = faults::<GatewayFile>(
        "apisix: {node_listen: [9080, {ip: '::', port: 9080}, {ip: '::1', port: 9080}], control: {ip: '::', port: 7085}}",
    );
    let taken: Vec<_> = listed.iter().filter_map(|fault| fault.split_once(" is taken by ")).collect();
    // Two of one port are of two families; one for both leaves no room for another.
    assert_eq!(taken.len(), 2, "{listed:?}");
    assert!(taken[0].0.ends_with("apisix.node_listen: [::1]:9080") && taken[0].1.contains("([::]:9080)"), "{listed:?}");
    assert!(
        taken[1].0.ends_with("apisix.control.port: [::]:7085") && taken[1].1.contains("(0.0.0.0:7085)"),
        "{listed:?}"
    );
    let listed = faults::<UpFile>("gateway: {dns: {min_ttl: 2h}, control_plane: {endpoints: ['http://c']}}\n");
    assert_eq!(listed.len(), 2, "{listed:?}");
    assert!(listed[0].starts_with("f.yaml:1:59: gateway.control_plane.endpoints[0]: "), "{listed:?}");
    assert!(listed[1].starts_with("f.yaml:1:26: gateway.dns.min_ttl: "), "{listed:?}");
    let listed = faults::<UpFile>("history: {changes: 10, max_age: 0}\n");
    assert_eq!(
        listed,
        [
            "f.yaml:1:33: history.max_age: expected more than 0",
            "f.yaml:1:10: history.min_changes: expected at most `history.changes`",
        ]
    );
}

#[test]
fn words_that_mean_nothing_are_refused_with_the_nearest_that_does() {
    for (text, fault) in [
        (
            "log: {level: wrn}",
            "f.yaml:1:14: log.level: `wrn` is no level; there are off, error, warn, info, debug, trace; \
          did you mean `warn`?",
        ),
        (
            "log: {level: 'info,milecastle_proxy=dbug'}",
            "f.yaml:1:14: log.level: `dbug` is no level; there are off, error, \
          warn, info, debug, trace; did you mean `debug`?",
        ),
        (
            "gateway: {plugins: [key-auth]}",
            "f.yaml:1:11: gateway.plugins: unknown key; which plugins are enabled is a setting of the gateway group: \
          `milecastle group settings set GROUP --plugins a,b`",
        ),
        (
            "gateway: {apisix: {router: {http: radixtree_uri}}}",
            "f.yaml:1:20: gateway.apisix.router: unknown key; how routes are matched is a setting of the gateway group: \
          `milecastle group settings set GROUP --router radixtree_uri`",
        ),
        (
            "gateway: {plugin_attr: {serverless: {}}}",
            "f.yaml:1:37: gateway.plugin_attr.serverless: there is no plugin `serverless`; there are \
          key-auth, limit-count, redirect",
        ),
        (
            "gateway: {plugin_attr: {redirct: {https_port: 1}}}",
            "f.yaml:1:34: gateway.plugin_attr.redirct: there is no plugin \
          `redirct`; did you mean `redirect`?",
        ),
    ] {
        assert_eq!(faults::<UpFile>(text), [fault]);
    }
}

#[test]
fn values_that_could_not_work_are_refused() {
    for (text, key) in [
        ("database: {connect_timeout: 0}", "database.connect_timeout"),
        ("database: {acquire_timeout: 0s}", "database.acquire_timeout"),
        ("database: {statement_timeout: 0ms}", "database.statement_timeout"),
        ("database: {probe_timeout: 0}", "database.probe_timeout"),
        ("dashboard: {admin: {max_body: 0}}", "dashboard.admin.max_body"),
        ("dashboard: {admin: {max_configs_body: 0}}", "dashboard.admin.max_configs_body"),
        ("dashboard: {admin: {server_header: \"a\\nb\"}}", "dashboard.admin.server_header"),
        ("dp_manager: {certificates: {names: ['a:1']}}", "dp_manager.certificates.names[0]"),
        ("dashboard: {admin: {body_timeout: 0}}", "dashboard.admin.body_timeout"),
        ("dashboard: {admin: {search_time: 0}}", "dashboard.admin.search_time"),
        ("dashboard: {admin: {validation_time: 0}}", "dashboard.admin.validation_time"),
        ("dashboard: {access: {login_wait_min: 2m}}", "dashboard.access.login_wait_min"),
        ("dashboard: {access: {password_hashes: 0}}", "dashboard.access.password_hashes"),
        ("dashboard: {event_streams: {beat: 31s}}", "dashboard.event_streams.beat"),
        ("dp_manager: {probes: {tls: {cert_file: a.pem}}}", "dp_manager.probes.tls.key_file"),
        ("gateway: {side_tls: {status: {key_file: a.pem}}}", "gateway.side_tls.status.cert_file"),
        ("gateway: {side_tls: {control: {client_ca_file: a.pem}}}", "gateway.side_tls.control.cert_file"),
        ("gateway: {side_tls: {prometheus: {reload: 0}}}", "gateway.side_tls.prometheus.reload"),
        ("dp_manager: {limits: {hello_timeout: 0}}", "dp_manager.limits.hello_timeout"),
        ("dp_manager: {stream: {silence: 5s, node_report_interval: 1s}}", "dp_manager.stream.silence"),
        ("dp_manager: {stream: {node_report_interval: 20s}}", "dp_manager.stream.node_report_interval"),
        ("dp_manager: {stream: {heal_min: 0}}", "dp_manager.stream.heal_min"),
        ("dp_manager: {stream: {heal_max: 500ms}}", "dp_manager.stream.heal_min"),
        ("dp_manager: {stream: {past_revisions: 0}}", "dp_manager.stream.past_revisions"),
        ("dp_manager: {stream: {past_age: 0}}", "dp_manager.stream.past_age"),
        ("dp_manager: {stream: {snapshot_idle: 0}}", "dp_manager.stream.snapshot_idle"),
        ("gateway: {control_plane: {connect_timeout: 0}}", "gateway.control_plane.connect_timeout"),
        ("gateway: {control_plane: {report_interval: 0}}", "gateway.control_plane.report_interval"),
        ("gateway: {control_plane: {silence: 2s}}", "gateway.control_plane.silence"),
        ("gateway: {control_plane: {group_token: secret}}", "gateway.control_plane.group_token"),
        ("gateway: {control_plane: {endpoints: ['https://c']}}", "gateway.control_plane.endpoints[0]"),
        ("gateway: {control_plane: {endpoints: ['https://c:0']}}", "gateway.control_plane.endpoints[0]"),
        ("gateway: {control_plane: {endpoints: ['https://::1:1']}}", "gateway.control_plane.endpoints[0]"),
        ("gateway: {timeouts: {tls_handshake: 0}}", "gateway.timeouts.tls_handshake"),
        ("gateway: {timeouts: {http2_ping: 0}}", "gateway.timeouts.http2_ping"),
        ("gateway: {timeouts: {http3_silence: 0}}", "gateway.timeouts.http3_silence"),
        (
            "gateway: {apisix: {ssl: {ssl_protocols: TLSv1.2, listen: [{port: 1, enable_http3: true}]}}}",
            "gateway.apisix.ssl.ssl_protocols",
        ),
        ("gateway: {dns: {timeout: 0}}", "gateway.dns.timeout"),
        ("gateway: {limits: {upstream_header_bytes: 10}}", "gateway.limits.upstream_header_bytes"),
        ("gateway: {limits: {http2_send_buffer: 1k}}", "gateway.limits.http2_send_buffer"),
        ("gateway: {limits: {http2_stream_window: 63k}}", "gateway.limits.http2_stream_window"),
        ("gateway: {limits: {http2_shared_window: 1g}}", "gateway.limits.http2_shared_window"),
        ("gateway: {limits: {http3_stream_window: 15k}}", "gateway.limits.http3_stream_window"),
        ("gateway: {limits: {http3_connection_window: 1023k}}", "gateway.limits.http3_connection_window"),
        ("gateway: {limits: {http3_connection_window: 17g}}", "gateway.limits.http3_connection_window"),
        ("gateway: {limits: {http3_send_buffer: 2g}}", "gateway.limits.http3_send_buffer"),
        ("gateway: {limits: {upstream_http2_window: 1k}}", "gateway.limits.upstream_http2_window"),
        ("gateway: {limits: {upstream_http2_send_buffer: 2g}}", "gateway.limits.upstream_http2_send_buffer"),
        ("gateway: {upstream_tls: {verify: sometimes}}", "gateway.upstream_tls.verify"),
        ("gateway: {apisix: {node_listen: [], ssl: {enable: false}}}", "gateway.apisix.node_listen"),
        ("gateway: {apisix: {ssl: {fallback_sni: ''}}}", "gateway.apisix.ssl.fallback_sni"),
        ("gateway: {nginx_config: {http: {send_timeout: 0}}}", "gateway.nginx_config.http.send_timeout"),
        ("gateway: {nginx_config: {http: {client_body_timeout: 0}}}", "gateway.nginx_config.http.client_body_timeout"),
        (
            "gateway: {nginx_config: {http: {client_header_timeout: 0}}}",
            "gateway.nginx_config.http.client_header_timeout",
        ),
        ("gateway: {nginx_config: {http: {real_ip_header: 'X Real'}}}", "gateway.nginx_config.http.real_ip_header"),
        ("gateway: {nginx_config: {http: {access_log: ''}}}", "gateway.nginx_config.http.access_log"),
        ("gateway: {nginx_config: {http: {access_log_format: ' '}}}", "gateway.nginx_config.http.access_log_format"),
        (
            "gateway: {nginx_config: {http: {upstream: {keepalive_timeout: 0}}}}",
            "gateway.nginx_config.http.upstream.keepalive_timeout",
        ),
        (
            "gateway: {plugin_attr: {prometheus: {metrics: {bandwidth: {extra_labels: [{a-b: $uri}]}}}}}",
            "gateway.plugin_attr.prometheus.metrics.bandwidth.extra_labels[0]",
        ),
        (
            "gateway: {plugin_attr: {prometheus: {metrics: {bandwidth: {extra_labels: [{a: uri}]}}}}}",
            "gateway.plugin_attr.prometheus.metrics.bandwidth.extra_labels[0]",
        ),
    ] {
        let listed = faults::<UpFile>(text);
        assert_eq!(listed.len(), 1, "{text}: {listed:?}");
        assert!(listed[0].starts_with("f.yaml:1:") && listed[0].contains(&format!(": {key}: ")), "{text}: {listed:?}");
        assert!(!listed[0].contains("secret"), "{listed:?}");
    }
    for endpoint in ["https://c:17900", "https://10.0.0.1:1/", "https://[::1]:17900"] {
        let text = format!("gateway: {{control_plane: {{endpoints: ['{endpoint}']}}}}");
        with_environment::<UpFile>(&text, &[]).unwrap();
    }
}

#[test]
fn the_files_of_secrets_are_read_where_that_is_asked_for() {
    let file = |name: &str| std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(name).display().to_string();
    let text = |file: &str| {
        format!("sealing: {{key_file: '{file}'}}\ngateway: {{control_plane: {{group_token_file: '{file}'}}}}\n")
    };
    let thorough = Known { secret_files: true, ..KNOWN };
    let listed = |file: &str| match parse::<UpFile>("f.yaml", &text(file), NO_VARIABLES, &thorough) {
        Err(LoadError::Faults(faults)) => faults.to_string(),
        other => panic!("{other:?}"),
    };
    let missing = listed(&file("no-such-file"));
    let lines: Vec<&str> = missing.lines().collect();
    assert!(lines[0].starts_with("f.yaml:2:45: gateway.control_plane.group_token_file: cannot read /"), "{missing}");
    assert!(lines[1].starts_with("f.yaml:1:21: sealing.key_file: cannot read /"), "{missing}");
    let neither = listed(&file("Cargo.toml"));
    assert!(neither.contains("group_token_file: not a group token"), "{neither}");
    assert!(
        neither.contains("sealing.key_file: what the file holds is no key") && !neither.contains("[package]"),
        "{neither}"
    );
    assert!(parse::<UpFile>("f.yaml", &text("/no/such"), NO_VARIABLES, &KNOWN).is_ok(), "a start leaves them alone");
}

#[test]
fn the_same_port_on_two_interfaces_is_no_clash() {
    gateway("apisix: {node_listen: [{ip: 127.0.0.2, port: 80}, {ip: 127.0.0.3, port: 80}, {port: 0}, {port: 0}]}");
}

#[test]
fn the_environment_overrides() {
    let base = "database: {dsn: 'postgres://file'}";
    let file: DashboardFile = with_environment(
        base,
        &[
            ("MILECASTLE__DATABASE__DSN", "postgres://u:p@h/d"),
            ("MILECASTLE__SERVER__LISTEN__PORT", "0"),
            ("MILECASTLE__ADMIN__ALLOW_ADMIN", "[10.0.0.0/8]"),
            ("MILECASTLE_LOG", "debug"),
            ("HOME", "/root"),
        ],
    )
    .unwrap();
    assert_eq!(file.replica.database.dsn.unwrap().reveal(), "postgres://u:p@h/d");
    assert_eq!(file.dashboard.server.listen.socket().to_string(), "0.0.0.0:0");
    assert_eq!(file.dashboard.admin.allow_admin, ["10.0.0.0/8".parse::<Peers>().unwrap()]);

    // Text stays text, whatever it looks like: these digits are base64 of 32 bytes.
    let digits = format!("{}0=", "0".repeat(42));
    let file: DashboardFile = with_environment(base, &[("MILECASTLE__SEALING__KEY", &digits)]).unwrap();
    assert_eq!(*file.replica.sealing.read().unwrap().unwrap().reveal(), digits);
    let file: UpFile = with_environment("", &[("MILECASTLE__DATA_DIR", "/z"), ("MILECASTLE__DATA_DIR", "/a")]).unwrap();
    assert_eq!(file.data_dir, std::path::Path::new("/a"), "the last one counts, which is the command line's");

    let wrong = [("MILECASTLE__SERVER__LISTEN__PROT", "1"), ("MILECASTLE__SERVER__DRAIN", "[")];
    let message = with_environment::<DashboardFile>(base, &wrong).unwrap_err();
    let lines: Vec<_> = message.lines().collect();
    assert!(
        lines[0].starts_with("environment variable MILECASTLE__SERVER__DRAIN: server.drain: not YAML"),
        "{message}"
    );
    assert_eq!(
        lines[1],
        "environment variable MILECASTLE__SERVER__LISTEN__PROT: server.listen.prot: unknown key; did you mean `port`?"
    );
}

#[test]
fn no_message_shows_a_secret() {
    let text = "\
database: {dsn: [hunter2]}
sealing: {key: 271828182}
admin: {admin_key: [{name: a, key: 314159, role: admin}, {name: b, key: '', role: ''}, {key: hunter2}]}
";
    let message = faults::<DashboardFile>(text).join("\n");
    for secret in ["hunter2", "271828182", "314159"] {
        assert!(!message.contains(secret), "{message}");
    }
    assert_eq!(message.lines().count(), 7, "{message}");
    let text = "database: {dsn: 'mysql://u:hunter2@h'}\nadmin: {admin_key: [{name: a, key: hunter2, role: admin}, {name: b, key: hunter2, role: viewer}]}";
    let message = faults::<DashboardFile>(text).join("\n");
    assert!(!message.contains("hunter2") && message.lines().count() == 2, "{message}");
    for bad in ["'c2h1c2g='", "hushhushhush", "''"] {
        let listed = faults::<DashboardFile>(&format!("database: {{dsn: 'sqlite:a'}}\nsealing: {{key: {bad}}}"));
        assert_eq!(listed.len(), 1, "{listed:?}");
        assert!(listed[0].starts_with("f.yaml:2:16: sealing.key: expected 32 bytes in base64"), "{listed:?}");
        assert!(!listed[0].contains("hush") && !listed[0].contains("c2h1"), "{listed:?}");
    }
    let debug =
        format!("{:?}", with_environment::<DashboardFile>("", &[("MILECASTLE__DATABASE__DSN", "sqlite:hunter2")]));
    assert!(debug.contains("[secret]") && !debug.contains("hunter2"), "{debug}");
}

#[test]
fn what_is_not_our_yaml_is_refused() {
    for (text, expected) in [
        ("a: [", "not YAML"),
        ("log: {level: info}\nlog: {level: info}", "f.yaml:2:1: log: the key is given twice in one mapping"),
        ("a: &x 1\nb: *x", "anchors"),
        ("log: !!str x", "tags"),
        ("log: {}\n---\nlog: {}", "second YAML document"),
        ("- 1", "expected a mapping, found a list"),
        (&"[".repeat(200), "nested too deeply"),
    ] {
        let message = faults::<GatewayFile>(text).join("\n");
        assert!(message.contains(expected), "{text:?} gave {message}");
    }
}

#[test]
fn every_key_of_every_file_has_a_description() {
    fn walk(schema: &serde_json::Value, path: &str, bare: &mut Vec<String>) {
        for branch in check::branches(schema) {
            for (name, member) in branch["properties"].as_object().into_iter().flatten() {
                let path = format!("{path}.{name}");
                if member["description"].as_str().is_none_or(str::is_empty) {
                    bare.push(path.clone());
                }
                walk(member, &path, bare);
            }
            if let Some(items) = branch.get("items") {
                walk(items, path, bare);
            }
        }
    }
    let mut bare = Vec::new();
    walk(check::Schema::of::<UpFile>().root(), "up", &mut bare);
    assert_eq!(bare, [] as [&str; 0]);
}

#[test]
fn the_reference_page_names_every_part() {
    let page = reference::markdown();
    for line in [
        "| `limits.header_bytes` | bytes | `64k` | Head of a request, beyond which the answer is 431. |",
        "| `admin.admin_key[].key` | string, secret | required | The key, as sent in the header `X-API-KEY`. |",
        "| `apisix.node_listen[].ip` | IP address | `0.0.0.0` | Address of the interface; `0.0.0.0` is every IPv4 interface, `::` every IPv6 interface. |",
        "ascending; `+Inf` is added. |",
        "`[1,2,5,10,20,",
        "Here `dashboard.admin.enable` is `true` by default.",
    ] {
        assert!(page.contains(line), "{line}\n{page}");
    }
    assert!(!page.contains("null"));
}

#[test]
fn faults_of_how_ocsp_responders_are_asked() {
    for (text, key) in [
        ("ocsp: {timeout: 0s}", "ocsp.timeout"),
        ("ocsp: {retry_min: 11m}", "ocsp.retry_min"),
        ("ocsp: {answer_bytes: 1k}", "ocsp.answer_bytes"),
        ("ocsp: {concurrency: 0}", "ocsp.concurrency"),
    ] {
        let text = format!("control_plane: {{endpoints: ['https://c:17900']}}\n{text}\n");
        let listed = faults::<GatewayFile>(&text);
        assert!(listed.len() == 1 && listed[0].contains(&format!(": {key}: ")), "{text}: {listed:?}");
    }
}

#[test]
fn faults_of_how_secret_managers_are_asked() {
    for (text, key) in [
        ("secrets: {ttl: 999ms}", "secrets.ttl"),
        ("secrets: {negative_ttl: 0s}", "secrets.negative_ttl"),
        ("secrets: {entries: 0}", "secrets.entries"),
        ("secrets: {timeout: 0s}", "secrets.timeout"),
        ("secrets: {timeout: 11s}", "secrets.timeout"),
        ("secrets: {answer_bytes: 1k}", "secrets.answer_bytes"),
        ("secrets: {concurrency: 0}", "secrets.concurrency"),
    ] {
        let text = format!("control_plane: {{endpoints: ['https://c:17900']}}\n{text}\n");
        let listed = faults::<GatewayFile>(&text);
        assert!(listed.len() == 1 && listed[0].contains(&format!(": {key}: ")), "{text}: {listed:?}");
    }
}

#[test]
fn registries_are_configured_as_operators_know_them() {
    let gateway = gateway(
        "discovery:
  dns: {servers: ['127.0.0.1:8600']}
  consul:
    servers: ['http://127.0.0.1:8500', 'https://consul.test']
    token: sesame
    timeout: {connect: 1000, wait: 30}
    default_service: {host: 127.0.0.1, port: 80, metadata: {weight: 3}}
  consul_kv: {servers: ['http://127.0.0.1:8500'], token: sesame, prefix: a/b, skip_keys: [a/b/old/]}
  nacos: {host: ['http://nacos:sesame@192.0.2.1:8848']}
  eureka: {host: ['http://192.0.2.1:8761'], fetch_interval: 10}
  kubernetes: {}
",
    );
    let discovery = gateway.discovery;
    let consul = discovery.registries.consul.as_ref().unwrap();
    assert_eq!(
        consul.agents.servers.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["http://127.0.0.1:8500", "https://consul.test:443"]
    );
    let timeout = consul.agents.timeout;
    assert_eq!((timeout.connect, timeout.read, timeout.wait), (1000, 2000, 30));
    assert_eq!(consul.default_service.as_ref().unwrap().metadata.weight, 3);
    let keys = discovery.registries.consul_kv.as_ref().unwrap();
    assert_eq!((&*keys.prefix, keys.agents.keepalive, keys.agents.timeout.wait), ("a/b", true, 60));
    assert_eq!(discovery.registries.eureka.as_ref().unwrap().fetch_interval, Time::secs(10));
    assert_eq!(discovery.registries.kubernetes, Some(Kubernetes::default()));
    assert!(!format!("{discovery:?}").contains("sesame"));
    assert!(!serde_json::to_string(&discovery).unwrap().contains("sesame"));
}

#[test]
fn a_collector_of_metrics_has_no_login_in_its_address() {
    gateway("metrics_push: {endpoint: 'http://c:4318/a@b'}");
    let login = "metrics_push.endpoint: expected an address without a login: what the collector is to see belongs in `authorization`";
    for endpoint in ["http://user:hush@c:4318/a", "user:hush@c:4318"] {
        let found = faults::<GatewayFile>(&format!(
            "control_plane: {{endpoints: ['https://c:17900']}}\nmetrics_push: {{endpoint: '{endpoint}'}}\n"
        ));
        assert!(found.len() == 1 && found[0].ends_with(login), "{found:?}");
    }
}

#[test]
fn registries_that_cannot_be_asked_are_named() {
    let check = |text: &str, expected: &[&str]| {
        let text = format!("control_plane: {{endpoints: ['https://c:17900']}}\ndiscovery: {text}\n");
        let found = faults::<GatewayFile>(&text);
        let found: Vec<&str> =
            found.iter().map(|fault| fault.split_once(": ").map_or(fault.as_str(), |(_, rest)| rest)).collect();
        assert_eq!(found, expected, "{text}");
    };
    check("{dns: {}}", &["discovery.dns.servers: expected exactly one of `servers` and `resolv_conf`"]);
    check("{consul: {}}", &["discovery.consul.servers: required: name at least one server"]);
    check(
        "{consul_kv: {servers: ['http://a'], prefix: /upstreams}}",
        &["discovery.consul_kv.prefix: expected what keys begin with, without `/` at either end: `upstreams`"],
    );
    check(
        "{nacos: {host: ['http://nacos:sesame@'], access_key: a}}",
        &[
            "discovery.nacos.host[0]: expected an address such as `http://host:8500`, or `http://user:password@host:8500`, found something else",
        ],
    );
    check(
        "{eureka: {host: ['http://a'], prefix: eureka}}",
        &["discovery.eureka.prefix: expected a path that begins and ends with `/`"],
    );
    check(
        "{kubernetes: {namespace_selector: {equal: a, match: [b]}}}",
        &[
            "discovery.kubernetes.namespace_selector: expected at most one of `equal`, `not_equal`, `match` and `not_match`",
        ],
    );
    check("{consuls: {}}", &["discovery.consuls: unknown key; did you mean `consul`?"]);
}
