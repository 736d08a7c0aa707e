//! Each table sends one request and asks for variables when it is over.

use crate::testing::{Ask, Setup};
use crate::{Body, NodeNames, PickedNode, Plugin, RouteInfo, TlsInfo};
use http::{HeaderValue, Version};
use milecastle_matching::{Lookup, VarName};
use serde_json::json;
use std::rc::Rc;
use std::sync::Arc;

/// An upstream of one node.
struct OneNode {
    host: Arc<str>,
    own_host: Option<HeaderValue>,
}

impl NodeNames for OneNode {
    fn host(&self, _: usize) -> &Arc<str> {
        &self.host
    }

    fn own_host(&self, _: usize) -> Option<&HeaderValue> {
        self.own_host.as_ref()
    }
}

/// The node `node.test` of an upstream that names this Host.
pub(super) fn picked(own_host: Option<&'static str>) -> PickedNode {
    let names = OneNode { host: "node.test".into(), own_host: own_host.map(HeaderValue::from_static) };
    PickedNode { names: Rc::new(names), place: 0 }
}

/// Reads the whole request body, so that the variables of bodies have a value.
struct ReadsBody;

#[derive(serde::Deserialize, schemars::JsonSchema)]
struct Nothing {}

impl Plugin for ReadsBody {
    type Config = Nothing;
    const NAME: &'static str = "reads-body";
    const PRIORITY: i32 = 0;

    fn compile(_: Nothing, _: &crate::BuildCx<'_>) -> Result<Self, Vec<crate::ConfigError>> {
        Ok(Self)
    }

    fn hooks(h: crate::Hooks<Self>) -> crate::Hooks<Self> {
        h
    }

    fn body_needs(&self) -> crate::BodyNeeds {
        crate::BodyNeeds { request: crate::BodyNeed::Whole { max_bytes: 1000 }, ..Default::default() }
    }
}

static READS_BODY: crate::PluginDef = crate::PluginDef::of::<ReadsBody>();

pub(super) fn setup() -> Setup {
    Setup::new(&[&READS_BODY])
        .info(RouteInfo {
            id: "r1".into(),
            name: Some("first".into()),
            service_id: Some("s1".into()),
            service_name: Some("users".into()),
            ..RouteInfo::default()
        })
        .uri_params("/u/:id", "/u/42")
}

/// `-` stands for no value.
fn check(ask: impl Into<Ask>, expected: &[(&str, &str)]) {
    let done = setup().route(json!({ "reads-body": {} })).send(ask);
    for (name, text) in expected {
        let value = done.cx.var(&VarName::parse(name));
        assert_eq!(value.as_ref().map_or("-".into(), |value| value.text()), *text, "{name}");
    }
}

#[test]
fn families() {
    check(
        "GET /a%20b?a=1&a=2&v&e=%26\nHost: Foo.COM:8080\nX-Foo-Bar: z\nx_under: u\nCookie: s=1; t=a=b\nX-Foo-Bar: y",
        &[
            ("arg_a", "1"),
            ("arg_v", "true"),
            ("arg_e", "&"),
            ("arg_none", "-"),
            ("http_x_foo_bar", "z"),
            ("http_X-Foo-Bar", "z"),
            ("http_x_under", "u"),
            ("http_none", "-"),
            ("cookie_s", "1"),
            ("cookie_t", "a=b"),
            ("cookie_S", "-"),
            ("cookie", "s=1; t=a=b"),
            ("uri_param_id", "42"),
            ("uri_param_no", "-"),
            ("sent_trailer_x", "-"),
        ],
    );
}

#[test]
fn request_and_connection() {
    check(
        "GET /a%20b?a=1\nHost: Foo.COM:8080\nAuthorization: Basic am9lOnB3\nContent-Type: text/plain\nX-Forwarded-For: 9.9.9.9",
        &[
            ("args", "a=1"),
            ("query_string", "a=1"),
            ("is_args", "?"),
            ("uri", "/a b"),
            ("document_uri", "/a b"),
            ("request_uri", "/a b?a=1"),
            ("real_request_uri", "/a%20b?a=1"),
            ("request", "GET /a%20b?a=1 HTTP/1.1"),
            ("request_line", "GET /a%20b?a=1 HTTP/1.1"),
            ("method", "GET"),
            ("request_method", "GET"),
            ("host", "foo.com"),
            ("http_host", "Foo.COM:8080"),
            ("content_type", "text/plain"),
            ("content_length", "-"),
            ("remote_addr", "127.0.0.1"),
            ("remote_port", "50000"),
            ("binary_remote_addr", "\u{7f}\0\0\u{1}"),
            ("remote_user", "joe"),
            ("scheme", "http"),
            ("https", ""),
            ("http2", ""),
            ("server_addr", "127.0.0.1"),
            ("server_port", "9080"),
            ("server_protocol", "HTTP/1.1"),
            ("hostname", "test-node"),
            ("connection", "7"),
            ("connection_requests", "1"),
            ("proxy_protocol_addr", "-"),
            ("status", "200"),
            ("request_length", "50"),
            ("bytes_sent", "102"),
            ("body_bytes_sent", "2"),
            ("request_completion", "OK"),
            ("request_body", "-"),
            ("proxy_add_x_forwarded_for", "9.9.9.9, 127.0.0.1"),
            ("original_x_forwarded_for", "9.9.9.9"),
            ("original_forwarded", "-"),
            ("nginx_version", "-"),
            ("no_such_variable", "-"),
            ("", "-"),
        ],
    );
    check("GET /", &[("args", "-"), ("is_args", ""), ("host", ""), ("remote_user", "-")]);
    check(
        Ask::from("GET /\nX: y").from_peer("10.0.0.9").real_ip("2001:db8::1").version(Version::HTTP_2),
        &[
            ("remote_addr", "2001:db8::1"),
            ("realip_remote_addr", "10.0.0.9"),
            ("realip_remote_port", "50000"),
            ("http2", "h2c"),
            ("server_protocol", "HTTP/2.0"),
        ],
    );
}

#[test]
fn gateway_variables() {
    check(
        "GET /",
        &[
            ("route_id", "r1"),
            ("route_name", "first"),
            ("service_id", "s1"),
            ("service_name", "users"),
            ("consumer_name", "-"),
            ("consumer_group_id", "-"),
            ("rate_limiting_info", ""),
            ("resp_body", ""),
            ("request_type", "traditional_http"),
            ("llm_model", ""),
            ("llm_prompt_tokens", "0"),
            ("llm_stream", "false"),
        ],
    );
}

#[test]
fn request_ids_are_stable_and_differ() {
    let gateway = setup().route(json!({}));
    let id = |done: &crate::testing::Exchange| done.cx.var(&VarName::parse("request_id")).unwrap().text().into_owned();
    let (one, two) = (gateway.send("GET /"), gateway.send("GET /"));
    assert_eq!(id(&one), id(&one));
    assert_ne!(id(&one), id(&two));
    assert!(id(&one).len() == 32 && id(&one).bytes().all(|b| b.is_ascii_hexdigit()));
    assert_eq!(one.cx.var(&VarName::parse("apisix_request_id")).unwrap().text(), id(&one));
}

#[test]
fn upstream() {
    check(
        Ask::from("GET /x?y=1\nHost: h").answered("503\nX-Up: a\nSet-Cookie: id=7; Path=/\nSet-Cookie: z=8\n\nno"),
        &[
            ("upstream_addr", "127.0.0.1:1980"),
            ("upstream_status", "503"),
            ("upstream_response_time", "0.004"),
            ("apisix_upstream_response_time", "0.004"),
            ("upstream_connect_time", "0.000"),
            ("upstream_header_time", "0.003"),
            ("upstream_response_length", "2"),
            ("upstream_bytes_sent", "-"),
            ("balancer_ip", "127.0.0.1"),
            ("balancer_port", "1980"),
            ("upstream_scheme", "http"),
            ("upstream_host", "h"),
            ("upstream_uri", "/x?y=1"),
            ("upstream_http_x_up", "a"),
            ("upstream_cookie_z", "8"),
            ("sent_http_x_up", "a"),
            ("status", "503"),
        ],
    );
}

#[test]
fn tries_are_listed_in_order() {
    let mut cx = setup().route(json!({})).send("GET /").cx;
    let mut failed = cx.upstream.last().unwrap().clone();
    (failed.status, failed.header, failed.node) = (502, None, "127.0.0.2:1980".into());
    cx.upstream.push(failed);
    let text = |name| cx.var(&VarName::parse(name)).unwrap().text().into_owned();
    assert_eq!(text("upstream_status"), "200, 502");
    assert_eq!(text("upstream_header_time"), "0.003, -");
    assert_eq!(text("upstream_addr"), "127.0.0.1:1980, 127.0.0.2:1980");
}

#[test]
fn what_the_upstream_is_asked_is_what_was_sent() {
    let mut cx = setup().route(json!({})).send("GET /\nHost: h\nUpgrade: h2c\nConnection: Upgrade").cx;
    let shown = |cx: &crate::RequestCx| {
        ["upstream_host", "upstream_upgrade", "upstream_connection"]
            .map(|name| cx.var(&VarName::parse(name)).map_or("-".into(), |value| value.text().into_owned()))
    };
    assert_eq!(shown(&cx), ["h", "-", "-"]);
    cx.upstream.host = Some(HeaderValue::from_static("of.plugin.test"));
    assert_eq!(shown(&cx), ["of.plugin.test", "-", "-"]);
    cx.upstream.node = Some(picked(Some("inner.test")));
    cx.upstream.upgrade = Some("websocket".into());
    assert_eq!(shown(&cx), ["inner.test", "websocket", "Upgrade"]);
}

#[test]
fn values_given_by_plugins_come_first() {
    let mut cx = setup().route(json!({})).send("GET /").cx;
    cx.set_var("uri", "/given".to_owned());
    cx.set_var("uri", "/again".to_owned());
    cx.set_var("captures", crate::VarValue::List(vec![json!("a"), json!(1)]));
    let text = |name| cx.var(&VarName::parse(name)).unwrap().text().into_owned();
    assert_eq!(text("uri"), "/again");
    assert_eq!(text("captures"), r#"["a",1]"#);
}

#[test]
fn fields_of_bodies() {
    check(
        "POST /\nContent-Type: application/x-www-form-urlencoded; charset=utf-8\n\na=1&a=2&b+c=%20&v",
        &[
            ("post_arg_a", "1"),
            ("post_arg_b c", " "),
            ("post_arg.a", "1"),
            ("post_arg_v", "true"),
            ("request_body", "a=1&a=2&b+c=%20&v"),
        ],
    );
    check(
        "POST /\nContent-Type: application/json\n\n{\"user\":{\"tags\":[\"x\",\"y\"],\"n\":3},\"o\":null}",
        &[
            ("post_arg.user.tags[*]", "[\"x\",\"y\"]"),
            ("post_arg.user.n", "3"),
            ("post_arg.user.none", "-"),
            ("post_arg.o", "-"),
            ("post_arg.user..n", "[3]"),
            ("post_arg_user", "-"),
        ],
    );
    check(
        "POST /\nContent-Type: multipart/form-data; boundary=\"B\"\n\n--B\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\none\r\n--B\r\ncontent-disposition: form-data; filename=x; name=b\r\nX: y\r\n\r\ntwo\r\n--B--\r\n",
        &[("post_arg.a", "one"), ("post_arg.b", "two"), ("post_arg.c", "-")],
    );
    check("POST /\nContent-Type: application/json\n\n{broken", &[("post_arg.a", "-")]);
    let long = format!("POST /\nContent-Type: application/x-www-form-urlencoded\n\na=1&b={}", "x".repeat(1000));
    check(long.as_str(), &[("post_arg_a", "-"), ("post_arg.a", "-")]);
}

#[test]
fn graphql() {
    let operation = [("graphql_name", "A"), ("graphql_operation", "mutation"), ("graphql_root_fields", r#"["b","c"]"#)];
    check("POST /\nContent-Type: application/graphql\n\nmutation A{b c}", &operation);
    check("POST /\nContent-Type: application/json\n\n{\"query\":\"mutation A{b c}\"}", &operation);
    check("GET /?query=mutation%20A%7Bb%20c%7D", &operation);
    check("GET /?query=%7Bb%7D", &[("graphql_name", ""), ("graphql_operation", "query"), ("graphql_other", "-")]);
    check("GET /", &[("graphql_name", "-")]);
    check("POST /\nContent-Type: application/json\n\n{\"query\":1}", &[("graphql_name", "-")]);
}

/// Each route that has a condition on the operation asks for it.
#[test]
fn a_graphql_document_is_taken_apart_once() {
    let whole = "{\"query\":\"query A{b}\"}";
    for (body, name) in [(whole, Some("A")), ("{", None)] {
        let ask = format!("POST /\nContent-Type: application/json\n\n{body}");
        let mut done = setup().route(json!({ "reads-body": {} })).send(ask.as_str());
        for again in [whole, "{", whole] {
            let found = done.cx.var(&VarName::parse("graphql_name")).map(|found| found.text().into_owned());
            assert_eq!(found.as_deref(), name, "{body}");
            done.cx.request.body = Body::Read { bytes: again.into(), partial: false };
        }
    }
}

/// A certificate for `CN=Joe\, B,O=Acme,C=DE`, serial 0A1B, valid for 71 years.
const CERTIFICATE: &str = include_str!("client.pem");

/// TLS with a client that shows [`CERTIFICATE`].
pub(super) fn client_tls() -> TlsInfo {
    let der = {
        use base64::Engine as _;
        let body: String = CERTIFICATE.lines().filter(|line| !line.starts_with("-----")).collect();
        base64::engine::general_purpose::STANDARD.decode(body).unwrap()
    };
    TlsInfo {
        sni: Some("a.test".into()),
        protocol: "TLSv1.3",
        cipher: "TLS_AES_128_GCM_SHA256".into(),
        curve: Some("X25519"),
        alpn: Some("h2"),
        resumed: true,
        client_verify: "SUCCESS".into(),
        client_certificate: Some(der.into()),
    }
}

#[test]
fn tls() {
    check(
        Ask::from("GET /\nHost: a.test").tls(client_tls()),
        &[
            ("https", "on"),
            ("scheme", "https"),
            ("ssl_protocol", "TLSv1.3"),
            ("ssl_cipher", "TLS_AES_128_GCM_SHA256"),
            ("ssl_server_name", "a.test"),
            ("ssl_session_reused", "r"),
            ("ssl_alpn_protocol", "h2"),
            ("ssl_client_verify", "SUCCESS"),
            ("ssl_client_raw_cert", CERTIFICATE),
            ("ssl_client_s_dn", r"CN=Joe\, B,O=Acme,C=DE"),
            ("ssl_client_i_dn", r"CN=Joe\, B,O=Acme,C=DE"),
            ("ssl_client_serial", "0A1B"),
            ("ssl_client_v_end", "Jan 28 17:48:26 2098 GMT"),
            ("ssl_client_fingerprint", "53c761490191d7d06d72e12f05269bd7e7ab753d"),
            ("ssl_curve", "X25519"),
        ],
    );
    check("GET /", &[("ssl_protocol", "-"), ("ssl_client_verify", "-")]);
}
