//! The section `nginx_config` of the gateway's file: the settings of the reference's HTTP server that mean something here
//! (docs/spec/routing.md §9, upstream-balancing.md §7–8).

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::stream::NginxStream;
use crate::load::Checks;
use crate::{Peers, Size, Switch, Time};

/// The settings of the reference's HTTP server that have a meaning here.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct NginxConfig {
    /// HTTP.
    pub http: NginxHttp,
    /// TCP and UDP.
    pub stream: NginxStream,
}

/// See [`NginxConfig::http`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct NginxHttp {
    /// Header that names the client where a request comes from one of `real_ip_from`.
    pub real_ip_header: String,
    /// Peers whose `real_ip_header` is believed.
    pub real_ip_from: Vec<Peers>,
    /// Walks a list of addresses in `real_ip_header` from the right, past every one in `real_ip_from`; off takes the last.
    pub real_ip_recursive: Switch,
    /// Largest request body, beyond which the answer is 413; 0 is no limit.
    pub client_max_body_size: Size,
    /// How long a client may take to send a request's head, beyond which the answer is 408.
    pub client_header_timeout: Time,
    /// Longest pause between two reads of a request's body, beyond which the answer is 408.
    pub client_body_timeout: Time,
    /// How long an idle client connection is kept; 0 closes after each answer.
    pub keepalive_timeout: Time,
    /// Longest pause between two writes of an answer to the client, beyond which the connection is closed.
    pub send_timeout: Time,
    /// Whether an HTTP/1 request goes on, and is answered, whose client has ended sending; `off` takes that for having left
    /// (499). A reset is one either way.
    pub proxy_ignore_client_abort: Switch,
    /// Whether a line is written for each request.
    pub enable_access_log: bool,
    /// File of the access log; `-` is standard output, a relative path starts at `state.dir`.
    pub access_log: PathBuf,
    /// Line of the access log, with `$variables`.
    pub access_log_format: String,
    /// How values are escaped in it: `default` as nginx does (`\xXX`), `json` for use inside JSON strings, `none`.
    pub access_log_format_escape: EscapeStyle,
    /// Idle connections to upstreams that set no `keepalive_pool`.
    pub upstream: UpstreamKeepalive,
}

/// See [`NginxHttp::access_log_format_escape`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EscapeStyle {
    /// `"`, `\` and bytes below 32 or above 126 as `\xXX`.
    #[default]
    Default,
    /// As a JSON string's content.
    Json,
    /// Not at all.
    None,
}

/// Connections kept to one upstream address, each worker for itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct UpstreamKeepalive {
    /// Idle connections kept for each worker and pool.
    #[schemars(range(min = 1), extend("x-unit" = "connections"))]
    pub keepalive: u32,
    /// Requests on one connection, after which it is closed.
    #[schemars(range(min = 1), extend("x-unit" = "requests"))]
    pub keepalive_requests: u32,
    /// How long a connection may stay idle.
    pub keepalive_timeout: Time,
}

impl NginxHttp {
    pub(super) fn check(&self, checks: &mut Checks<'_>) {
        checks.above_zero(&[
            ("client_header_timeout", self.client_header_timeout),
            ("client_body_timeout", self.client_body_timeout),
            ("send_timeout", self.send_timeout),
            ("upstream.keepalive_timeout", self.upstream.keepalive_timeout),
        ]);
        // RFC 9110, section 5.6.2.
        let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if self.real_ip_header.is_empty() || !self.real_ip_header.bytes().all(is_token) {
            checks.fault("real_ip_header", "expected the name of a header, such as `X-Forwarded-For`");
        }
        check_access_log(checks, self.enable_access_log, &self.access_log, &self.access_log_format);
    }
}

/// The keys that an access log has, of requests or of sessions.
pub(super) fn check_access_log(checks: &mut Checks<'_>, enabled: bool, file: &Path, format: &str) {
    let file = file.as_os_str();
    if enabled && file.is_empty() {
        checks.fault("access_log", "expected a path, `-` for standard output, or `off`");
    }
    if enabled && file != "off" && format.trim().is_empty() {
        checks.fault("access_log_format", "expected text: for no log at all set `enable_access_log: false`");
    }
}

impl Default for NginxHttp {
    fn default() -> Self {
        Self {
            real_ip_header: "X-Real-IP".into(),
            real_ip_from: vec![
                Peers::Network { address: std::net::Ipv4Addr::LOCALHOST.into(), prefix: 32 },
                Peers::Unix,
            ],
            real_ip_recursive: Switch(false),
            client_max_body_size: Size::bytes(0),
            client_header_timeout: Time::secs(60),
            client_body_timeout: Time::secs(60),
            keepalive_timeout: Time::secs(60),
            send_timeout: Time::secs(10),
            proxy_ignore_client_abort: Switch(false),
            enable_access_log: true,
            access_log: "logs/access.log".into(),
            access_log_format: "$remote_addr - $remote_user [$time_local] $http_host \"$request\" $status \
                                $body_bytes_sent $request_time \"$http_referer\" \"$http_user_agent\" $upstream_addr \
                                $upstream_status $upstream_response_time \
                                \"$upstream_scheme://$upstream_host$upstream_uri\""
                .into(),
            access_log_format_escape: EscapeStyle::Default,
            upstream: UpstreamKeepalive::default(),
        }
    }
}

impl Default for UpstreamKeepalive {
    fn default() -> Self {
        Self { keepalive: 320, keepalive_requests: 1000, keepalive_timeout: Time::secs(60) }
    }
}
