//! `plugin_attr.prometheus` of the gateway's file (docs/spec/plugins/prometheus.md, static settings).

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::load::Checks;
use crate::units::as_seconds;
use crate::{IpPort, Time};

/// Metrics of the node: where they are served and how they are named.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Prometheus {
    /// Path of the page.
    pub export_uri: String,
    /// What every metric's name begins with.
    pub metric_prefix: String,
    /// Serves the page on a listener of its own; off leaves it to the `public-api` plugin.
    pub enable_export_server: bool,
    /// That listener.
    pub export_addr: IpPort,
    /// How often the page is made anew; a scrape gets the last one made.
    #[serde(serialize_with = "as_seconds")]
    pub refresh_interval: Time,
    /// Upper bounds of the buckets of `http_latency`, ascending; `+Inf` is added.
    #[schemars(length(min = 1, max = 64), extend("x-unit" = "ms"))]
    pub default_buckets: Vec<f64>,
    /// Settings of single metrics, by name without the prefix, e.g. `http_status`.
    pub metrics: BTreeMap<String, MetricSettings>,
}

/// Settings of one metric.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct MetricSettings {
    /// Labels after the built-in ones, in order: objects with one member, `{label: "$variable"}`.
    pub extra_labels: Vec<BTreeMap<String, String>>,
    /// A series without an update for so long is dropped; 0 keeps it for ever.
    #[serde(serialize_with = "as_seconds")]
    pub expire: Time,
}

impl Prometheus {
    pub(super) fn check(&self, checks: &mut Checks<'_>) {
        if !self.export_uri.starts_with('/') {
            checks.fault("export_uri", "expected a path that begins with `/`");
        }
        let begins_well = self.metric_prefix.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_' || c == ':');
        if !begins_well || !self.metric_prefix.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b':') {
            checks.fault("metric_prefix", "expected letters, digits, `_` and `:`, with no digit first");
        }
        if self.default_buckets.windows(2).any(|w| w[0] >= w[1]) || self.default_buckets.iter().any(|b| !b.is_finite())
        {
            checks.fault("default_buckets", "expected numbers that grow");
        }
        if self.refresh_interval.is_zero() {
            checks.fault("refresh_interval", "expected more than 0");
        }
        for (name, metric) in &self.metrics {
            for (i, label) in metric.extra_labels.iter().enumerate().filter(|(_, label)| !is_label(label)) {
                let found = serde_json::to_string(label).unwrap_or_default();
                checks.fault(
                    &format!("metrics.{name}.extra_labels[{i}]"),
                    &format!(
                        "expected one label (letters, digits and `_`) with its variable, e.g. `{{upstream_addr: \
                         \"$upstream_addr\"}}`, found {found}"
                    ),
                );
            }
        }
    }
}

/// Whether this is one label with the variable that it shows.
fn is_label(label: &BTreeMap<String, String>) -> bool {
    let is_name = |name: &str| {
        name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    let mut members = label.iter();
    let (Some((name, variable)), None) = (members.next(), members.next()) else { return false };
    is_name(name) && variable.strip_prefix('$').is_some_and(|variable| !variable.is_empty())
}

impl Default for Prometheus {
    fn default() -> Self {
        Self {
            export_uri: "/apisix/prometheus/metrics".into(),
            metric_prefix: "apisix_".into(),
            enable_export_server: true,
            export_addr: IpPort::loopback(9091),
            refresh_interval: Time::secs(15),
            default_buckets: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 30_000, 60_000]
                .map(f64::from)
                .to_vec(),
            metrics: BTreeMap::new(),
        }
    }
}
