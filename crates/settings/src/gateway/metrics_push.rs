//! The section `metrics_push` of the gateway's file.

use milecastle_telemetry::Secret;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Time;
use crate::load::Checks;

/// Pushes the metrics of this node, those of the Prometheus page, to an OpenTelemetry collector (OTLP over HTTP).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct MetricsPush {
    /// The collector, `host:port` or a URL; without a path `/v1/metrics` is posted to. Unset pushes nothing. The certificate of
    /// an `https` collector is verified.
    pub endpoint: Option<String>,
    /// Pause between two pushes.
    pub interval: Time,
    /// How long a push may take.
    pub timeout: Time,
    /// Value of the header `Authorization`.
    #[serde(skip_serializing)]
    #[schemars(with = "Option<String>", extend("writeOnly" = true))]
    pub authorization: Option<Secret<String>>,
}

impl Default for MetricsPush {
    fn default() -> Self {
        Self { endpoint: None, interval: Time::secs(60), timeout: Time::secs(10), authorization: None }
    }
}

impl MetricsPush {
    /// Path of a collector's endpoint where none is given.
    pub const PATH: &str = "/v1/metrics";

    pub(super) fn check(&self, checks: &mut Checks<'_>) {
        let known = |endpoint: &&str| match endpoint.split_once("://") {
            Some((scheme, rest)) => matches!(scheme, "http" | "https") && !rest.is_empty(),
            None => !endpoint.is_empty(),
        };
        if self.endpoint.as_deref().is_some_and(|endpoint| !known(&endpoint)) {
            checks.fault("endpoint", "expected `host:port`, or an address that begins with http:// or https://");
        }
        let authority = |endpoint: &str| {
            let rest = endpoint.split_once("://").map_or(endpoint, |(_, rest)| rest);
            rest.split(['/', '?', '#']).next().unwrap_or_default().to_owned()
        };
        if self.endpoint.as_deref().is_some_and(|endpoint| authority(endpoint).contains('@')) {
            checks.fault(
                "endpoint",
                "expected an address without a login: what the collector is to see belongs in `authorization`",
            );
        }
        checks.above_zero(&[("interval", self.interval), ("timeout", self.timeout)]);
    }
}
