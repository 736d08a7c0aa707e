//! Configuration of `prometheus`: of an instance, of the metadata, and the static settings.

use super::table::{METRICS, Metric};
use milecastle_matching::VarName;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::time::Duration;

/// Counts requests, latency and traffic, and shows them to Prometheus.
///
/// An instance on a route takes the place of one on a global rule. What the page shows and where it is served is set in
/// the gateway's own file, under `plugin_attr.prometheus`.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct Config {
    /// Labels carry the names of route and service instead of their ids, where they have names.
    #[serde(default)]
    pub(super) prefer_name: bool,
}

/// Labels that are switched off, as bits by their place, for each metric of the table.
#[derive(Debug, Default)]
pub(crate) struct Disabled(pub(super) [u16; METRICS.len()]);

impl Disabled {
    /// Reads checked metadata.
    pub(super) fn read(metadata: &Value) -> Self {
        let mut disabled = Self::default();
        let lists = metadata.get("disabled_labels");
        for (mask, metric) in disabled.0.iter_mut().zip(METRICS) {
            let names = lists.and_then(|lists| lists.get(metric.name)?.as_array()).into_iter().flatten();
            for name in names.filter_map(Value::as_str) {
                let place = metric.labels.iter().position(|label| *label == name);
                *mask |= place.map_or(0, |place| 1 << place);
            }
        }
        disabled
    }
}

/// The schema of the metadata: which labels of which metric may be switched off.
pub(super) fn metadata_schema() -> Value {
    let metric = |metric: &Metric| {
        let labels: Vec<&str> =
            metric.labels.iter().filter(|label| !metric.structural.contains(label)).copied().collect();
        (metric.name.to_owned(), json!({ "type": "array", "items": { "type": "string", "enum": labels } }))
    };
    let metrics: Map<String, Value> = METRICS.iter().map(metric).collect();
    json!({
        "type": "object",
        "properties": {
            "disabled_labels": {
                "description": "Labels by metric whose value is left empty.",
                "type": "object",
                "properties": metrics,
                "additionalProperties": false,
            },
        },
    })
}

/// The static settings.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Settings {
    pub(super) prefix: Option<String>,
    pub(super) latency_buckets: Option<Vec<f64>>,
    /// By place in the table.
    pub(super) metrics: [MetricSettings; METRICS.len()],
}

/// The static settings of one metric.
#[derive(Debug, Default, PartialEq)]
pub(super) struct MetricSettings {
    pub(super) extra_labels: Vec<(String, VarName)>,
    pub(super) expire: Option<Duration>,
}

impl Settings {
    /// Reads `plugin_attr.prometheus`.
    ///
    /// # Errors
    /// What is wrong, in words that name the setting.
    pub(super) fn read(attr: Option<&Value>) -> Result<Self, String> {
        let Some(attr) = attr else { return Ok(Self::default()) };
        let mut settings = Self {
            prefix: attr.get("metric_prefix").and_then(Value::as_str).map(str::to_owned),
            latency_buckets: attr.get("default_buckets").map(buckets).transpose()?,
            ..Self::default()
        };
        for (own, metric) in settings.metrics.iter_mut().zip(METRICS) {
            if let Some(given) = attr.get("metrics").and_then(|metrics| metrics.get(metric.name)) {
                *own = MetricSettings::read(metric.name, given)?;
            }
        }
        Ok(settings)
    }
}

impl MetricSettings {
    fn read(metric: &str, given: &Value) -> Result<Self, String> {
        let mut extra_labels = Vec::new();
        for entry in given.get("extra_labels").and_then(Value::as_array).into_iter().flatten() {
            let fault =
                || format!("plugin_attr.prometheus.metrics.{metric}.extra_labels: each item is {{label: $variable}}");
            let mut members = entry.as_object().into_iter().flatten();
            let (Some((label, variable)), None) = (members.next(), members.next()) else { return Err(fault()) };
            let name = variable.as_str().and_then(|text| text.strip_prefix('$')).ok_or_else(fault)?;
            extra_labels.push((label.clone(), VarName::parse(name)));
        }
        let seconds = given.get("expire").and_then(Value::as_u64).filter(|seconds| *seconds > 0);
        Ok(Self { extra_labels, expire: seconds.map(Duration::from_secs) })
    }
}

fn buckets(value: &Value) -> Result<Vec<f64>, String> {
    let numbers = value.as_array().and_then(|items| items.iter().map(Value::as_f64).collect::<Option<Vec<f64>>>());
    numbers.ok_or_else(|| "plugin_attr.prometheus.default_buckets: a list of numbers is needed".to_owned())
}
