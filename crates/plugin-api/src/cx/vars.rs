//! Variables of a request (`docs/spec/plugins/_variables.md`).
//!
//! A name has the value that a plugin gave it, else the one of its family, else one of the fixed names. What this data
//! plane cannot know has no value. All server-core variables are text, also where they look like numbers; numbers and
//! lists come only out of JSON bodies.

mod body;
mod graphql;
mod multipart;
pub(crate) mod time;
mod tls;
mod upstream;

use super::{Body, RequestCx, VarValue};
use crate::query;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use foldhash::quality::RandomState;
use http::{HeaderMap, HeaderValue, Version, header};
use milecastle_matching::{Family, Lookup, Var, VarName};
use std::borrow::Cow;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::LazyLock;
use std::time::SystemTime;

pub(super) use body::Parsed;
pub use tls::hex;
pub(crate) use tls::var as tls_var;

impl Lookup for RequestCx {
    fn var(&self, name: &VarName) -> Option<Var<'_>> {
        if let Some(given) = self.overridden(name.as_str()) {
            return Some(match given {
                VarValue::Text(text) => Var::from(text.as_str()),
                VarValue::Header(value) => Var::Str(text(value)),
                VarValue::List(items) => Var::List(items.clone()),
            });
        }
        let key = name.key();
        match name.family() {
            Family::Other => self.other(key),
            Family::Http => header(&self.request.headers, key).map(Var::Str),
            Family::SentHttp => header(&self.response.headers, key).map(Var::Str),
            Family::Arg => query::first(self.request.query()?, key).map(Var::Str),
            Family::Cookie => self.cookie(key).map(Var::from),
            Family::UriParam => {
                let path = self.matched_path.as_deref().unwrap_or_else(|| self.request.normal_path());
                // Where a name occurs twice, the later one counts.
                let captures = self.matched_uri.as_ref()?.captures(path).into_iter().rev();
                captures.filter(|(name, _)| *name == key).map(|(_, value)| Var::from(value)).next()
            }
            Family::PostArg => body::form_field(self, key),
            Family::PostArgPath => body::field(self, name),
            Family::Graphql => graphql::var(self, key),
            Family::UpstreamHttp => upstream::header(self, key),
            Family::UpstreamCookie => upstream::cookie(self, key),
            Family::SentTrailer => header(self.response.trailers.as_deref()?, key).map(Var::Str),
            Family::UpstreamTrailer => header(self.upstream.trailers.as_deref()?, key).map(Var::Str),
        }
    }
}

/// Variables of the first line of a request.
const OF_FIRST_LINE: [&str; 9] = [
    "uri",
    "document_uri",
    "request_uri",
    "real_request_uri",
    "method",
    "request_method",
    "server_protocol",
    "request",
    "request_line",
];

impl RequestCx {
    /// The names without a family. Those that plugins ask for on each request stand first.
    fn other(&self, name: &str) -> Option<Var<'_>> {
        let request = &self.request;
        if request.is_unread() && OF_FIRST_LINE.contains(&name) {
            return None;
        }
        let text = match name {
            "remote_addr" => return Some(Var::Str(self.client_addr())),
            "host" => request.host(),
            "uri" | "document_uri" => request.path(),
            "consumer_name" => &self.consumer.as_ref()?.name,
            "request_uri" => return Some(Var::Str(request.normal_target())),
            "method" | "request_method" => request.method.as_str(),
            "status" => return Some(self.response.logged_status().to_string().into()),
            "scheme" => self.client.scheme.as_str(),
            "route_id" => &self.route.as_ref()?.id,
            "route_name" => self.route.as_ref()?.name.as_deref()?,
            "service_id" => self.route.as_ref()?.service_id.as_deref()?,
            "service_name" => self.route.as_ref()?.service_name.as_deref()?,
            "consumer_group_id" => self.consumer.as_ref()?.group_id.as_deref()?,
            "real_request_uri" => request.received_target(),
            "request_type" => "traditional_http",
            // Working values of limiters, loggers and AI plugins before any of them has acted.
            "rate_limiting_info"
            | "resp_body"
            | "request_llm_model"
            | "llm_model"
            | "llm_end_user_id"
            | "llm_content_risk_level" => "",
            "llm_time_to_first_token"
            | "llm_prompt_tokens"
            | "llm_completion_tokens"
            | "llm_total_tokens"
            | "llm_cache_read_input_tokens"
            | "llm_cache_creation_input_tokens"
            | "llm_reasoning_tokens"
            | "llm_tool_count" => "0",
            "llm_stream" | "llm_has_tool_calls" => "false",
            _ if name.starts_with("ssl_") => return tls::var(self.client.tls.as_ref()?, name),
            _ if name.starts_with("upstream_") || name.starts_with("balancer_") => return upstream::var(self, name),
            _ => return self.server_core(name),
        };
        Some(Var::from(text))
    }

    /// Table C: request and connection.
    fn server_core(&self, name: &str) -> Option<Var<'_>> {
        let (request, response, client) = (&self.request, &self.response, &self.client);
        let header_of = |name: header::HeaderName| request.headers.get(name).map(|value| Var::Str(text(value)));
        let value = match name {
            "args" | "query_string" => request.query()?.into(),
            "is_args" => if request.query().is_some_and(|query| !query.is_empty()) { "?" } else { "" }.into(),
            "cookie" => return header_of(header::COOKIE),
            "content_type" => return header_of(header::CONTENT_TYPE),
            "content_length" => return header_of(header::CONTENT_LENGTH),
            "binary_remote_addr" => Var::Str(self.binary_addr()),
            "remote_port" => self.client_port.to_string().into(),
            "realip_remote_addr" => Var::from(&*client.peer_text),
            "realip_remote_port" => client.peer.port().to_string().into(),
            "remote_user" => self.remote_user()?.into(),
            "server_addr" => client.local.ip().to_canonical().to_string().into(),
            "server_port" => client.local.port().to_string().into(),
            // Virtual servers have no names of their own here.
            "server_name" => "_".into(),
            "server_protocol" => version_text(request.version).into(),
            "hostname" => Var::from(&*self.view.node().hostname),
            "https" => if client.tls.is_some() { "on" } else { "" }.into(),
            "http2" => match (request.version, client.tls.is_some()) {
                (Version::HTTP_2, true) => "h2",
                (Version::HTTP_2, false) => "h2c",
                _ => "",
            }
            .into(),
            "http3" => if request.version == Version::HTTP_3 { "h3" } else { "" }.into(),
            "connection" => client.serial.to_string().into(),
            "connection_requests" => self.number.to_string().into(),
            "connection_time" => time::seconds(client.opened.elapsed()).into(),
            "pid" => std::process::id().to_string().into(),
            "request" | "request_line" => self.request_line().into(),
            "request_body" => match &request.body {
                Body::Read { bytes, .. } => Var::Str(String::from_utf8_lossy(bytes)),
                Body::None | Body::Streaming { .. } => return None,
            },
            "request_length" => (request.head_bytes + request.body_bytes).to_string().into(),
            "request_id" | "apisix_request_id" => self.request_id().into(),
            "request_time" => time::seconds(self.timing.total()).into(),
            "request_completion" => if self.timing.ended.is_some() && !response.client_gone { "OK" } else { "" }.into(),
            "bytes_sent" => response.bytes_sent.to_string().into(),
            "body_bytes_sent" => response.body_bytes_sent.to_string().into(),
            "msec" => time::seconds(time::since_epoch(SystemTime::now())).into(),
            "time_iso8601" => time::iso8601(SystemTime::now()).into(),
            "time_local" => time::common_log(SystemTime::now()).into(),
            "date_gmt" | "date_local" => time::date(SystemTime::now()).into(),
            "proxy_add_x_forwarded_for" => match request.header("x-forwarded-for") {
                Some(before) => format!("{before}, {}", self.client_addr()).into(),
                None => Var::Str(self.client_addr()),
            },
            // Code that rewrites these headers keeps the received value under the name, and it is found before this.
            "original_x_forwarded_for" => return self.original("x-forwarded-for"),
            "original_x_forwarded_proto" => return self.original("x-forwarded-proto"),
            "original_x_forwarded_host" => return self.original("x-forwarded-host"),
            "original_x_forwarded_port" => return self.original("x-forwarded-port"),
            "original_forwarded" => return self.original("forwarded"),
            "apisix_upstream_response_time" => return upstream::var(self, "upstream_response_time"),
            _ => return client.proxied.as_ref()?.var(name),
        };
        Some(value)
    }

    fn original(&self, name: &str) -> Option<Var<'_>> {
        header(&self.request.headers, name).map(Var::Str)
    }

    /// The client's address as text; no text is made unless another address than the peer's is in force.
    pub fn client_addr(&self) -> Cow<'_, str> {
        if self.client_ip == self.client.peer.ip().to_canonical() {
            Cow::Borrowed(&self.client.peer_text)
        } else {
            Cow::Owned(self.client_ip.to_string())
        }
    }

    /// The bytes of the address as the characters U+0000 to U+00FF, since a variable is text.
    fn binary_addr(&self) -> Cow<'static, str> {
        let latin = |bytes: &[u8]| bytes.iter().map(|byte| char::from(*byte)).collect();
        Cow::Owned(match self.client_ip {
            IpAddr::V4(addr) => latin(&addr.octets()),
            IpAddr::V6(addr) => latin(&addr.octets()),
        })
    }

    /// The user of `Authorization: Basic`.
    fn remote_user(&self) -> Option<String> {
        let (scheme, token) = self.request.header("authorization")?.split_once(' ')?;
        let pair = scheme.eq_ignore_ascii_case("basic").then(|| STANDARD.decode(token.trim()).ok()).flatten()?;
        let (user, _) = std::str::from_utf8(&pair).ok()?.split_once(':')?;
        Some(user.to_owned())
    }

    /// The request line as received.
    fn request_line(&self) -> String {
        let request = &self.request;
        format!("{} {} {}", request.received_method(), request.received_target(), version_text(request.version))
    }

    /// 32 hexadecimal digits, the same each time and others for each request.
    fn request_id(&self) -> String {
        static SEEDS: LazyLock<(RandomState, RandomState)> = LazyLock::new(Default::default);
        let identity = (self.client.serial, self.timing.started, self.client.peer);
        format!("{:016x}{:016x}", SEEDS.0.hash_one(identity), SEEDS.1.hash_one(identity))
    }

    fn cookie(&self, name: &str) -> Option<&str> {
        self.request.headers.get_all(header::COOKIE).into_iter().filter_map(|value| value.to_str().ok()).find_map(
            |line| {
                let pairs = line.split(';').filter_map(|pair| pair.trim_ascii().split_once('='));
                pairs.filter(|(known, _)| *known == name).map(|(_, value)| value).next()
            },
        )
    }
}

/// First value of a header, `-` and `_` in its name being equal. `key` is in lower case with `-`.
fn header<'h>(headers: &'h HeaderMap, key: &str) -> Option<Cow<'h, str>> {
    let found = headers.get(key).or_else(|| {
        // A client may have written the name with underscores.
        key.contains('-').then(|| headers.iter().find(|(name, _)| alike(name.as_str(), key)))?.map(|(_, value)| value)
    });
    found.map(text)
}

fn alike(name: &str, key: &str) -> bool {
    name.len() == key.len() && name.bytes().zip(key.bytes()).all(|(a, b)| a == b || (a == b'_' && b == b'-'))
}

/// A header's value as text. Bytes that are no UTF-8 become U+FFFD.
fn text(value: &HeaderValue) -> Cow<'_, str> {
    String::from_utf8_lossy(value.as_bytes())
}

fn version_text(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "HTTP/0.9",
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2.0",
        Version::HTTP_3 => "HTTP/3.0",
        _ => "HTTP/1.1",
    }
}

#[cfg(test)]
mod documented;
#[cfg(test)]
mod tests;
