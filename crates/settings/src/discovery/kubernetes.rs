//! The registry `kubernetes`.

use milecastle_telemetry::Secret;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

use crate::Time;
use crate::load::Checks;

/// The registry `kubernetes`: one cluster. In a pod of that cluster `{}` is enough.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Kubernetes {
    /// The API server.
    pub service: KubernetesApi,
    /// How the gateway says who it is.
    pub client: KubernetesClient,
    /// Which namespaces are looked at; all of them by default.
    pub namespace_selector: NamespaceSelector,
    /// Selector of labels, as `kubectl --selector` takes it; empty is every object.
    pub label_selector: String,
    /// Weight of every instance.
    #[schemars(extend("x-unit" = "share"))]
    pub default_weight: u32,
    /// Looks at EndpointSlices instead of Endpoints.
    pub watch_endpoint_slices: bool,
    /// How long one watch lasts before the API server ends it and the next one begins.
    pub watch_for: Time,
    /// How long connecting may take, TLS included, and then each page of a list, and then the head of a watch's answer.
    pub timeout: Time,
}

/// The API server of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct KubernetesApi {
    /// What is spoken with it.
    pub schema: KubernetesScheme,
    /// Name or address; unset is the environment variable `KUBERNETES_SERVICE_HOST`, which pods have.
    pub host: Option<String>,
    /// Port; unset is the environment variable `KUBERNETES_SERVICE_PORT`, or without it 443.
    pub port: Option<u16>,
    /// Verifies its certificate.
    pub ssl_verify: bool,
    /// Authorities that it is verified against, in PEM; unset is the file that pods have
    /// (`/var/run/secrets/kubernetes.io/serviceaccount/ca.crt`), or where there is none the authorities of the system.
    pub ca_file: Option<PathBuf>,
}

/// See [`KubernetesApi::schema`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum KubernetesScheme {
    /// HTTP in clear text, for a proxy on this machine.
    Http,
    /// HTTPS.
    #[default]
    Https,
}

/// How the gateway says who it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct KubernetesClient {
    /// Bearer token.
    #[serde(skip_serializing)]
    #[schemars(with = "Option<String>", extend("writeOnly" = true))]
    pub token: Option<Secret<String>>,
    /// A file that holds the token, read again for each request: such tokens are renewed. Where neither is set, the file that
    /// pods have (`/var/run/secrets/kubernetes.io/serviceaccount/token`).
    pub token_file: Option<PathBuf>,
}

/// Which namespaces are looked at: at most one of the four.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct NamespaceSelector {
    /// This one alone.
    pub equal: Option<String>,
    /// All but this one.
    pub not_equal: Option<String>,
    /// Those that one of these regular expressions matches in whole.
    pub r#match: Vec<String>,
    /// Those that none of these regular expressions matches in whole.
    pub not_match: Vec<String>,
}

impl Kubernetes {
    pub(super) fn check(&self, checks: &mut Checks<'_>) {
        let NamespaceSelector { equal, not_equal, r#match, not_match } = &self.namespace_selector;
        let given = [equal.is_some(), not_equal.is_some(), !r#match.is_empty(), !not_match.is_empty()];
        if given.into_iter().filter(|given| *given).count() > 1 {
            checks.fault("namespace_selector", "expected at most one of `equal`, `not_equal`, `match` and `not_match`");
        }
        for (key, patterns) in [("match", r#match), ("not_match", not_match)] {
            let broken = |pattern: &String| regex::Regex::new(&format!("^(?:{pattern})$")).is_err();
            for (n, _) in patterns.iter().enumerate().filter(|(_, pattern)| broken(pattern)) {
                checks.fault(&format!("namespace_selector.{key}[{n}]"), "expected a regular expression");
            }
        }
        if self.client.token.is_some() && self.client.token_file.is_some() {
            checks.fault("client.token_file", "expected at most one of `token` and `token_file`");
        }
        if self.watch_for < Time::secs(1) {
            checks.fault("watch_for", "expected at least 1s");
        }
        checks.above_zero(&[("timeout", self.timeout)]);
    }
}

impl Default for Kubernetes {
    fn default() -> Self {
        Self {
            service: KubernetesApi::default(),
            client: KubernetesClient::default(),
            namespace_selector: NamespaceSelector::default(),
            label_selector: String::new(),
            default_weight: 50,
            watch_endpoint_slices: false,
            watch_for: Time::secs(300),
            timeout: Time::secs(5),
        }
    }
}

impl Default for KubernetesApi {
    fn default() -> Self {
        Self { schema: KubernetesScheme::Https, host: None, port: None, ssl_verify: true, ca_file: None }
    }
}
