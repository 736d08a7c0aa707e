//! Entries of access logs (`docs/spec/plugins/_logging-common.md`): the default one, and the ones that operators make up.

use crate::capture::Bodies;
use http::HeaderMap;
use milecastle_matching::{Lookup, Var, VarName};
use milecastle_plugin_api::stream::StreamCx;
use milecastle_plugin_api::{RequestCx, RouteInfo, query};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Number, Value, json};
use std::time::{Duration, UNIX_EPOCH};

/// Objects nest so deep; what is deeper becomes empty.
const MAX_DEPTH: usize = 5;

/// Attribute group F.
#[derive(Debug, Default, Deserialize, JsonSchema)]
pub(crate) struct FormatConfig {
    /// The entry, in place of the default one. Texts that begin with `$` are variables; objects may nest.
    #[serde(default)]
    #[schemars(schema_with = "object")]
    log_format: Option<Value>,
    /// Members added to the default entry, in the form of `log_format`.
    #[serde(default)]
    #[schemars(schema_with = "object")]
    log_format_extra: Option<Value>,
}

fn object(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "object" })
}

/// Group F, compiled.
#[derive(Debug, Default)]
pub(crate) struct Format {
    custom: Option<Members>,
    extra: Option<Members>,
}

type Members = Vec<(String, Node)>;

#[derive(Debug)]
enum Node {
    Literal(Value),
    Variable(VarName),
    Object(Members),
}

impl Format {
    pub(crate) fn new(config: FormatConfig) -> Self {
        Self {
            custom: config.log_format.map(|value| members(value, 1)),
            extra: config.log_format_extra.map(|value| members(value, 1)),
        }
    }

    /// The format of sessions, which have no default entry.
    pub(crate) fn custom(log_format: Option<Value>) -> Self {
        Self { custom: log_format.map(|value| members(value, 1)), extra: None }
    }

    /// The entry of a session; `None` if there is no format for it.
    pub(crate) fn of_session(&self, cx: &StreamCx) -> Option<Map<String, Value>> {
        let mut entry = resolve(self.custom.as_ref()?, cx);
        put_route(&mut entry, cx.route.as_deref());
        Some(entry)
    }

    /// The format of a plugin's metadata, where an empty object counts as none.
    pub(crate) fn of_metadata(config: FormatConfig) -> Self {
        let Self { custom, extra } = Self::new(config);
        Self { custom: custom.filter(|members| !members.is_empty()), extra }
    }
}

fn members(value: Value, depth: usize) -> Members {
    let Value::Object(members) = value else { return Vec::new() };
    members.into_iter().map(|(name, value)| (name, node(value, depth))).collect()
}

fn node(value: Value, depth: usize) -> Node {
    match value {
        Value::String(text) => match text.strip_prefix('$') {
            Some(name) => Node::Variable(VarName::parse(name)),
            None => Node::Literal(Value::String(text)),
        },
        Value::Object(_) if depth >= MAX_DEPTH => {
            tracing::warn!("log_format nests deeper than {MAX_DEPTH} levels; what is deeper stays empty");
            Node::Object(Vec::new())
        }
        Value::Object(_) => Node::Object(members(value, depth + 1)),
        other => Node::Literal(other),
    }
}

/// The entry of a request. `own` is the plugin's configuration, `metadata` its metadata; `owner` is the instance that has
/// captured the answer's body.
pub(crate) fn entry<P>(cx: &RequestCx, own: &Format, metadata: Option<&Format>, bodies: &Bodies, owner: &P) -> Value {
    let vars = EntryVars { cx, bodies, resp_body: bodies.response(owner, cx) };
    let custom = own.custom.as_ref().or_else(|| metadata?.custom.as_ref());
    if let Some(custom) = custom {
        let mut entry = resolve(custom, &vars);
        put_route(&mut entry, cx.route.as_deref());
        return Value::Object(entry);
    }
    let mut entry = default(&vars);
    if let Some(extra) = own.extra.as_ref().or_else(|| metadata?.extra.as_ref()) {
        for (name, value) in resolve(extra, &vars) {
            entry.entry(name).or_insert(value);
        }
    }
    Value::Object(entry)
}

/// Names the route and its service in an entry that an operator made up.
fn put_route(entry: &mut Map<String, Value>, route: Option<&RouteInfo>) {
    if let Some(route) = route {
        entry.insert("route_id".into(), (*route.id).into());
        if let Some(service) = &route.service_id {
            entry.insert("service_id".into(), (**service).into());
        }
    }
}

/// The request's variables, with the bodies as this logger has them.
struct EntryVars<'a> {
    cx: &'a RequestCx,
    bodies: &'a Bodies,
    resp_body: Option<String>,
}

impl Lookup for EntryVars<'_> {
    fn var(&self, name: &VarName) -> Option<Var<'_>> {
        match name.as_str() {
            "request_body" => self.bodies.buffered_request(self.cx).map(Var::Str),
            "resp_body" => Some(Var::from(self.resp_body.as_deref().unwrap_or_default())),
            _ => self.cx.var(name),
        }
    }
}

fn resolve(members: &Members, vars: &dyn Lookup) -> Map<String, Value> {
    let mut resolved = Map::new();
    for (name, node) in members {
        let value = match node {
            Node::Literal(value) => value.clone(),
            Node::Object(members) => Value::Object(resolve(members, vars)),
            Node::Variable(variable) => match vars.var(variable) {
                None => continue,
                Some(Var::Str(text)) => Value::String(text.into_owned()),
                Some(Var::Bool(flag)) => Value::Bool(flag),
                Some(Var::List(items)) => Value::Array(items),
                Some(Var::Num(number)) if number.fract() == 0.0 && number.abs() < 9e15 => (number as i64).into(),
                Some(Var::Num(number)) => Number::from_f64(number).map_or(Value::Null, Value::Number),
            },
        };
        resolved.insert(name.clone(), value);
    }
    resolved
}

fn default(vars: &EntryVars<'_>) -> Map<String, Value> {
    let cx = vars.cx;
    let (request, response, client) = (&cx.request, &cx.response, &cx.client);
    let uri = request.normal_target();
    let url = format!("{}://{}:{}{uri}", client.scheme.as_str(), request.host(), client.local.port());
    let mut entry = Map::new();
    let mut put = |name: &str, value: Value| drop(entry.insert(name.to_owned(), value));

    let mut of_request = json!({
        "url": url,
        "uri": uri,
        "method": request.method.as_str(),
        "headers": headers(&request.headers),
        "querystring": arguments(request.query().unwrap_or_default()),
        "size": request.head_bytes + request.body_bytes,
    });
    if let Some(body) = vars.bodies.request(cx) {
        of_request["body"] = body.into();
    }
    put("request", of_request);

    let mut of_response = json!({
        "status": response.logged_status(),
        "headers": headers(&response.headers),
        "size": response.bytes_sent,
    });
    if let Some(body) = &vars.resp_body {
        of_response["body"] = body.as_str().into();
    }
    put("response", of_response);

    let node = cx.view.node();
    put("server", json!({ "hostname": &*node.hostname, "version": node.version }));
    put("client_ip", cx.client_addr().into());
    match &cx.route {
        Some(route) => {
            put("route_id", (*route.id).into());
            put("service_id", route.service_id.as_deref().unwrap_or_default().into());
        }
        None => put("service_id", request.host().into()),
    }
    if let Some(consumer) = &cx.consumer {
        put("consumer", json!({ "username": &*consumer.name }));
    }
    let started = cx.timing.started_at().duration_since(UNIX_EPOCH).unwrap_or_default();
    put("start_time", u64::try_from(started.as_millis()).unwrap_or(u64::MAX).into());
    put_latencies(&mut entry, cx);
    entry
}

fn put_latencies(entry: &mut Map<String, Value>, cx: &RequestCx) {
    let ms = |duration: Duration| Value::from(duration.as_secs_f64() * 1000.0);
    let total = cx.timing.total();
    let upstream = cx.upstream.total();
    entry.insert("latency".into(), ms(total));
    entry.insert("apisix_latency".into(), ms(total.saturating_sub(upstream.unwrap_or_default())));
    if let Some(upstream) = upstream {
        let nodes: Vec<&str> = cx.upstream.attempts().map(|attempt| &*attempt.node).collect();
        entry.insert("upstream".into(), nodes.join(", ").into());
        entry.insert("upstream_latency".into(), ms(upstream));
    }
}

/// By lower-case name; a repeated header is a list.
fn headers(headers: &HeaderMap) -> Map<String, Value> {
    let text = |value: &http::HeaderValue| Value::from(String::from_utf8_lossy(value.as_bytes()));
    let mut members = Map::new();
    for name in headers.keys() {
        let mut values: Vec<Value> = headers.get_all(name).iter().map(text).collect();
        let value = if values.len() == 1 { values.remove(0) } else { Value::Array(values) };
        members.insert(name.as_str().to_owned(), value);
    }
    members
}

/// Decoded, by name; a repeated argument is a list, a valueless one `true`.
fn arguments(query: &str) -> Map<String, Value> {
    let mut members: Map<String, Value> = Map::new();
    for arg in query::args(query) {
        let value = arg.value.map_or(Value::Bool(true), Value::from);
        match members.get_mut(&*arg.name) {
            None => drop(members.insert(arg.name.into_owned(), value)),
            Some(Value::Array(values)) => values.push(value),
            Some(first) => *first = json!([first.take(), value]),
        }
    }
    members
}
