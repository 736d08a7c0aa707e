use super::DEF;
use crate::receiver::Receiver;
use milecastle_export::Background;
use milecastle_export::otlp::proto::collector::trace::v1::ExportTraceServiceRequest;
use milecastle_export::otlp::proto::common::v1::KeyValue;
use milecastle_export::otlp::proto::common::v1::any_value::Value as Scalar;
use milecastle_export::otlp::proto::trace::v1::Span;
use milecastle_export::otlp::proto::trace::v1::span::SpanKind;
use milecastle_plugin_api::testing::{Answer, Ask, Setup};
use milecastle_plugin_api::{NoSecrets, RouteInfo, Shared};
use prost::Message as _;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "b7ad6b7169203331";

fn called(flags: &str) -> String {
    format!("GET /a?b=1\nHost: shop.test\nUser-Agent: probe/1\ntraceparent: 00-{TRACE}-{SPAN}-{flags}")
}

fn sampler(sampler: Value) -> Value {
    json!({ "opentelemetry": { "sampler": sampler } })
}

fn always() -> Value {
    sampler(json!({ "name": "always_on" }))
}

fn hex(bytes: &[u8]) -> String {
    super::digits(bytes)
}

/// A collector, and a gateway that sends each span at once.
struct Collector(Receiver);

impl Collector {
    fn new() -> Self {
        Self(Receiver::start())
    }

    fn metadata(&self, more: Value) -> Value {
        let mut metadata = json!({
            "collector": { "address": self.0.address().to_string(), "request_headers": { "X-Token": "t", "x-n": 7 } },
            "batch_span_processor": { "inactive_timeout": 0 },
        });
        metadata.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        metadata
    }

    fn setup(&self) -> Setup {
        Setup::new(&[&DEF]).metadata("opentelemetry", self.metadata(json!({})))
    }

    /// The next message: its resource, its scope's name, its spans.
    fn next(&self) -> (Vec<KeyValue>, String, Vec<Span>) {
        let posted = self.0.next();
        assert_eq!((posted.target.as_str(), posted.header("content-type")), ("/v1/traces", "application/x-protobuf"));
        assert_eq!((posted.header("x-token"), posted.header("x-n")), ("t", "7"));
        let mut message = ExportTraceServiceRequest::decode(&*posted.body).unwrap();
        let spans = message.resource_spans.remove(0);
        let scope = spans.scope_spans.into_iter().next().unwrap();
        (spans.resource.unwrap().attributes, scope.scope.unwrap().name, scope.spans)
    }

    /// The span of the next request; those of its tries may come apart.
    fn request(&self) -> Span {
        loop {
            let server = self.next().2.into_iter().find(|span| span.kind == i32::from(SpanKind::Server));
            if let Some(span) = server {
                return span;
            }
        }
    }
}

fn attribute(attributes: &[KeyValue], key: &str) -> Option<Value> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    Some(match found.value.clone()?.value? {
        Scalar::StringValue(text) => text.into(),
        Scalar::IntValue(number) => number.into(),
        Scalar::DoubleValue(number) => number.into(),
        Scalar::BoolValue(flag) => flag.into(),
        other => panic!("{other:?}"),
    })
}

#[test]
fn a_request_is_a_span_below_its_caller() {
    let collector = Collector::new();
    let info = RouteInfo {
        id: "1".into(),
        name: Some("shop".into()),
        service_id: Some("s".into()),
        service_name: Some("all".into()),
        ..RouteInfo::default()
    };
    let gateway = collector.setup().info(info).matched_uri("/a*").route(always());
    let done = gateway.send(&*called("01"));
    let (resource, scope, spans) = collector.next();
    let told = done.sent().header("traceparent").unwrap().to_owned();
    assert_eq!(attribute(&resource, "hostname"), Some("test-node".into()));
    assert_eq!((resource.len(), scope.as_str()), (1, "opentelemetry-lua"));
    let span = spans.iter().find(|span| span.kind == i32::from(SpanKind::Server)).unwrap();
    assert_eq!((hex(&span.trace_id), hex(&span.parent_span_id)), (TRACE.into(), SPAN.into()));
    assert_eq!(span.name, "GET /a*");
    assert!(span.start_time_unix_nano > 0 && span.end_time_unix_nano >= span.start_time_unix_nano);
    assert_eq!(span.status.as_ref().unwrap().code, 0);
    for (key, value) in [
        ("net.host.name", json!("shop.test")),
        ("http.method", json!("GET")),
        ("http.scheme", json!("http")),
        ("http.target", json!("/a?b=1")),
        ("http.user_agent", json!("probe/1")),
        ("http.request.method", json!("GET")),
        ("url.scheme", json!("http")),
        ("url.path", json!("/a")),
        ("user_agent.original", json!("probe/1")),
        ("apisix.route_id", json!("1")),
        ("apisix.route_name", json!("shop")),
        ("http.route", json!("/a*")),
        ("apisix.service_id", json!("s")),
        ("apisix.service_name", json!("all")),
        ("apisix.response_source", json!("upstream")),
        ("http.status_code", json!(200)),
        ("http.response.status_code", json!(200)),
    ] {
        assert_eq!(attribute(&span.attributes, key), Some(value), "{key}");
    }
    assert_eq!(span.attributes.len(), 17);
    // The upstream is told of the try that it is asked by, which is below the request.
    let tried = spans.iter().cloned().chain(std::iter::from_fn(|| Some(collector.next().2)).flatten());
    let tried = tried.into_iter().find(|span| span.kind == i32::from(SpanKind::Client)).unwrap();
    assert_eq!(told, format!("00-{TRACE}-{}-01", hex(&tried.span_id)));
    assert_eq!(tried.parent_span_id, span.span_id);
    assert_eq!(attribute(&tried.attributes, "server.port"), Some(1980.into()));
    assert_eq!(attribute(&tried.attributes, "http.response.status_code"), Some(200.into()));
}

#[test]
fn failures_are_told() {
    let collector = Collector::new();
    let gateway = collector.setup().route(always());
    gateway.send(Ask::from("GET /").answered("503\n\n"));
    let status = collector.request().status.unwrap();
    assert_eq!((status.code, status.message.as_str()), (2, "upstream error: 503"));
    gateway.send(Ask::from("GET /").answered(Answer::failed(http::StatusCode::GATEWAY_TIMEOUT)));
    let status = collector.request().status.unwrap();
    assert_eq!((status.code, status.message.as_str()), (2, "nginx error: 504"));
}

#[test]
fn samplers() {
    let cases = [
        (json!({}), "01", false),
        (json!({ "name": "always_off" }), "01", false),
        (json!({ "name": "always_on" }), "00", true),
        (json!({ "name": "parent_base" }), "01", true),
        (json!({ "name": "parent_base", "options": { "root": { "name": "always_on" } } }), "00", false),
        (json!({ "name": "parent_base", "options": { "root": { "name": "always_on" } } }), "", true),
        (json!({ "name": "parent_base" }), "", false),
        (json!({ "name": "parent_base", "options": { "root": { "name": "parent_base" } } }), "", false),
        // The first digits of the trace are 4.2 % of all.
        (json!({ "name": "trace_id_ratio", "options": { "fraction": 0.05 } }), "00", true),
        (json!({ "name": "trace_id_ratio", "options": { "fraction": 0.04 } }), "01", false),
        (json!({ "name": "trace_id_ratio", "options": { "fraction": 7 } }), "00", true),
        (json!({ "name": "trace_id_ratio", "options": { "fraction": -1 } }), "01", false),
        (json!({ "name": "trace_id_ratio" }), "01", false),
        (
            json!({ "name": "parent_base", "options": { "root": { "name": "trace_id_ratio", "options": { "fraction": 1 } } } }),
            "",
            true,
        ),
    ];
    let collector = Collector::new();
    for (config, flags, sampled) in cases {
        let gateway = collector.setup().route(sampler(config.clone()));
        let ask = if flags.is_empty() { "GET /".to_owned() } else { called(flags) };
        let done = gateway.send(&*ask);
        let told = done.sent().header("traceparent").unwrap();
        assert!(told.ends_with(if sampled { "-01" } else { "-00" }), "{config} {flags}: {told}");
        assert_ne!(told.get(36..52), Some(SPAN), "a new span");
    }
}

#[test]
fn without_metadata_nothing_happens() {
    let done = Setup::new(&[&DEF]).route(always()).send("GET /");
    assert_eq!((done.status, done.sent().header("traceparent")), (200, None));
}

#[test]
fn the_state_of_a_trace_is_passed_on_and_goes_with_a_malformed_one() {
    let collector = Collector::new();
    let gateway = collector.setup().route(sampler(json!({})));
    let done = gateway.send(&*format!("{}\ntracestate: a=1\ntracestate: b=2", called("00")));
    assert_eq!(done.sent().header_all("tracestate"), ["a=1,b=2"]);
    let done = gateway.send("GET /\ntraceparent: 00-1-2-3\ntracestate: a=1");
    assert_eq!(done.sent().header("tracestate"), None);
    assert_eq!(done.sent().header_all("traceparent").len(), 1);
}

#[test]
fn ids_from_requests() {
    let collector = Collector::new();
    let metadata = collector.metadata(json!({ "trace_id_source": "x-request-id" }));
    let gateway = Setup::new(&[&DEF]).metadata("opentelemetry", metadata).route(sampler(json!({})));
    let trace = |ask: &str| gateway.send(ask).sent().header("traceparent").unwrap().get(3..35).unwrap().to_owned();
    let id = "00112233445566778899AABBCCDDEEFF";
    assert_eq!(trace(&format!("GET /\nX-Request-Id: {id}")), id.to_lowercase());
    assert_eq!(trace(&called("01")), TRACE, "only of traces that begin here");
    for no_trace in ["00000000000000000000000000000000", "8d1c3a52-7d5b-4f0e-9c1a-3b1f2e4d5c6b", "x"] {
        let drawn = trace(&format!("GET /\nX-Request-Id: {no_trace}"));
        assert!(drawn.len() == 32 && drawn != no_trace, "{no_trace}");
    }
    // Without the header, the request's own id.
    assert_eq!(trace("GET /").len(), 32);
}

#[test]
fn what_operators_add() {
    let collector = Collector::new();
    let config = json!({ "opentelemetry": {
        "sampler": { "name": "always_on" },
        "additional_attributes": ["arg_b", "arg_none", "sent_http_x_up"],
        "additional_header_prefix_attributes": ["X-My-*", "x-single", "x-none"],
    } });
    let gateway = collector.setup().route(config);
    let ask = "GET /?b=1\nX-My-One: 1\nx-my-two: 2\nx-my-two: 3\nX-Single: s\nX-Other: o";
    gateway.send(Ask::from(ask).answered("200\nX-Up: u\n\n"));
    let attributes = collector.request().attributes;
    for (key, value) in
        [("arg_b", "1"), ("sent_http_x_up", "u"), ("x-my-one", "1"), ("x-my-two", "2, 3"), ("x-single", "s")]
    {
        assert_eq!(attribute(&attributes, key), Some(value.into()), "{key}");
    }
    for absent in ["arg_none", "x-none", "x-other"] {
        assert_eq!(attribute(&attributes, absent), None, "{absent}");
    }
}

#[test]
fn variables_and_resource() {
    let collector = Collector::new();
    let metadata = collector.metadata(json!({ "set_ngx_var": true, "resource": { "zone": "a", "n": 3, "on": true } }));
    let gateway = Setup::new(&[&DEF]).metadata("opentelemetry", metadata).route(always());
    let done = gateway.send(&*called("01"));
    let (resource, ..) = collector.next();
    for (key, value) in
        [("service.name", json!("APISIX")), ("zone", json!("a")), ("n", json!(3.0)), ("on", json!(true))]
    {
        assert_eq!(attribute(&resource, key), Some(value), "{key}");
    }
    let given = |name: &str| format!("{:?}", done.cx.overridden(name).unwrap());
    assert!(given("opentelemetry_context_traceparent").contains(&format!("00-{TRACE}-")));
    assert!(given("opentelemetry_trace_id").contains(TRACE));
    assert_eq!(given("opentelemetry_span_id").len(), "Text(\"\")".len() + 16);
}

#[test]
fn spans_that_find_no_room_are_dropped_and_counted() {
    // It takes connections and never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let metadata = json!({
        "collector": { "address": silent.local_addr().unwrap().to_string(), "request_timeout": 3600 },
        "batch_span_processor": { "max_queue_size": 3, "max_export_batch_size": 2 },
    });
    let shared: Arc<Shared> = Arc::default();
    let registry = crate::exporting::registry(&shared, None);
    shared.put(Arc::new(Background::default()));
    let gateway = Setup::with(&[&DEF], &Value::Null, Arc::new(NoSecrets), shared)
        .metadata("opentelemetry", metadata)
        .route(always());
    // Two spans each: the request and its try.
    for _ in 0..5 {
        assert_eq!(gateway.send("GET /").status, 200);
    }
    let line = "apisix_exporter_dropped_total{exporter=\"opentelemetry\"} 7";
    assert!(registry.render().contains(line), "{}", registry.render());
}

#[test]
fn a_slow_collector_is_sent_several_batches_at_once_where_the_queue_shall_be_emptied() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let metadata = json!({
        "collector": { "address": silent.local_addr().unwrap().to_string(), "request_timeout": 3600 },
        "batch_span_processor": { "drop_on_queue_full": false, "max_export_batch_size": 1 },
    });
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || silent.incoming().try_for_each(|connection| tell.send(connection)));
    let gateway = Setup::new(&[&DEF]).metadata("opentelemetry", metadata).route(always());
    // Two spans each: the request and its try.
    for _ in 0..2 {
        assert_eq!(gateway.send("GET /").status, 200);
    }
    let under_way = (0..4).map(|n| told.recv_timeout(SOON).unwrap_or_else(|_| panic!("{n} are under way")).unwrap());
    assert_eq!(under_way.collect::<Vec<_>>().len(), 4);
}

#[test]
fn headers_of_the_collector_are_secret() {
    let mut metadata =
        json!({ "collector": { "address": "c:1", "request_headers": { "Authorization": "t", "x-n": 7 } } });
    DEF.mask(&mut metadata);
    let headers = json!({ "Authorization": "******", "x-n": "******" });
    assert_eq!(metadata, json!({ "collector": { "address": "c:1", "request_headers": headers } }));
}

#[test]
fn faults_are_found_on_write() {
    let faults = |config: Value| Setup::new(&[&DEF]).faults(json!({ "opentelemetry": config }));
    assert_eq!(faults(json!({})), []);
    for (config, path) in [
        (json!({ "sampler": { "name": "sometimes" } }), "/sampler/name"),
        (json!({ "sampler": { "options": { "root": { "name": "x" } } } }), "/sampler/options/root/name"),
        (json!({ "additional_attributes": [""] }), "/additional_attributes/0"),
        (json!({ "additional_header_prefix_attributes": [""] }), "/additional_header_prefix_attributes/0"),
    ] {
        let found = faults(config.clone());
        assert!(found.iter().any(|fault| fault.path == format!("/opentelemetry{path}")), "{config}: {found:?}");
    }
    let compile = DEF.metadata.unwrap().compile;
    assert!(compile(&json!({})).is_ok());
    for (metadata, path) in [
        (json!({ "collector": { "address": "ftp://c" } }), "/collector/address"),
        (
            json!({ "batch_span_processor": { "max_queue_size": 10, "max_export_batch_size": 10 } }),
            "/batch_span_processor/max_export_batch_size",
        ),
        (json!({ "collector": { "request_headers": { "a b": "c" } } }), "/collector/request_headers/a b"),
        (json!({ "trace_id_source": "uuid" }), ""),
    ] {
        assert_eq!(compile(&metadata).err().map(|error| error.path), Some(path.to_owned()), "{metadata}");
    }
}

#[test]
fn a_login_in_the_address_of_the_collector_is_refused_on_write_and_does_no_harm_where_it_is_stored() {
    let setup = Setup::new(&[&DEF]);
    let check = |address: &str, refused: Option<&str>| {
        let metadata = json!({ "collector": { "address": address } });
        let fault = setup.registry().unwritable_metadata("opentelemetry", &metadata);
        assert_eq!(fault.map(|fault| fault.path).as_deref(), refused, "{address}");
        assert!(matches!(setup.registry().build_metadata("opentelemetry", &metadata), Some(Ok(Some(_)))), "{address}");
    };
    check("http://c:1/a", None);
    check("http://user:password@c", Some("/collector/address"));
    check("user:password@c:1", Some("/collector/address"));
}
