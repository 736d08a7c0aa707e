//! The plugin's metadata, compiled, and the way to the collector that they name.

use super::config::{BatchConfig, MetadataConfig, TraceIdSource};
use crate::exporting::Exporting;
use http::{HeaderMap, HeaderName, HeaderValue};
use milecastle_export::otlp::proto::collector::trace::v1::ExportTraceServiceRequest;
use milecastle_export::otlp::proto::common::v1::KeyValue;
use milecastle_export::otlp::proto::common::v1::any_value::Value as Scalar;
use milecastle_export::otlp::proto::trace::v1::{ResourceSpans, ScopeSpans, Span};
use milecastle_export::otlp::{self, OtlpClient, OtlpSettings};
use milecastle_export::{BatchSettings, Batches, Deliver, Outcome, Undelivered, without_login};
use milecastle_plugin_api::{CompiledMetadata, ConfigError, NodeFacts};
use serde_json::{Map, Value};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Name of the instrumentation, as the reference calls itself.
const SCOPE: &str = "opentelemetry-lua";
/// Longest time that spans may be gathered.
const LONGEST: f64 = 86_400.0;

/// Batches under way at once, where the queue shall rather be emptied than spans be dropped.
const AT_ONCE: usize = 4;

/// A collector, and what is sent to it. It lives as long as these metadata are in force.
pub(super) struct Collector {
    pub(super) ids_from_requests: bool,
    pub(super) sets_variables: bool,
    resource: Vec<KeyValue>,
    otlp: OtlpSettings,
    batches: BatchSettings,
    most_waiting: usize,
    /// Batches under way at once.
    exporters: usize,
    /// Made with the first span.
    outlet: OnceLock<Batches<Span>>,
}

/// Sends spans.
struct Exporter {
    client: OtlpClient,
    about: Vec<KeyValue>,
}

impl Collector {
    /// A login in the address, which would be sent to nobody.
    pub(super) fn unwritable(value: &Value) -> Option<ConfigError> {
        const ADDRESS: &str = "/collector/address";
        without_login(value.pointer(ADDRESS)?.as_str()?)?;
        Some(ConfigError::at(ADDRESS, "must not have a login: what the collector is to see belongs in request_headers"))
    }

    /// Compiles the metadata.
    ///
    /// # Errors
    /// The address is none, a header cannot be sent, or a batch would not fit into the queue.
    pub(super) fn compile(value: &Value) -> Result<CompiledMetadata, ConfigError> {
        let config: MetadataConfig =
            serde_json::from_value(value.clone()).map_err(|error| ConfigError::new(error.to_string()))?;
        let collector = config.collector;
        let target = otlp::collector(&collector.address, "/v1/traces", true)
            .map_err(|error| ConfigError::at("/collector/address", error.to_string()))?;
        if without_login(&collector.address).is_some() {
            tracing::warn!(server = %target, "the address of the collector has a login, which is sent to nobody: take it out");
        }
        let BatchConfig { drop_on_queue_full, max_queue_size, max_export_batch_size, batch_timeout, inactive_timeout } =
            config.batch_span_processor;
        if max_export_batch_size >= max_queue_size {
            let text = format!("must be less than max_queue_size, which is {max_queue_size}");
            return Err(ConfigError::at("/batch_span_processor/max_export_batch_size", text));
        }
        let seconds = |seconds: f64| Duration::from_secs_f64(seconds.clamp(0.0, LONGEST));
        Ok(Arc::new(Self {
            ids_from_requests: config.trace_id_source == TraceIdSource::RequestId,
            sets_variables: config.set_ngx_var,
            resource: resource(config.resource),
            otlp: OtlpSettings {
                target,
                headers: headers(&collector.request_headers)?,
                timeout: Duration::from_secs(collector.request_timeout.into()),
            },
            batches: BatchSettings {
                name: super::OpenTelemetry::QUEUE.to_owned(),
                most: max_export_batch_size,
                inactive: seconds(inactive_timeout),
                age: seconds(batch_timeout),
                // The client tries again by rules of its own.
                retries: 0,
                retry_delay: Duration::ZERO,
            },
            most_waiting: max_queue_size,
            exporters: if drop_on_queue_full { 1 } else { AT_ONCE },
            outlet: OnceLock::new(),
        }))
    }

    /// Has spans sent.
    pub(super) fn send(&self, spans: impl IntoIterator<Item = Span>, exporting: &Exporting, node: &NodeFacts) {
        let outlet = self.outlet.get_or_init(|| {
            let mut about = vec![otlp::text("hostname", &*node.hostname)];
            about.extend_from_slice(&self.resource);
            let exporters = (0..self.exporters).map(|_| Exporter {
                client: OtlpClient::new(exporting.background.clone(), self.otlp.clone()),
                about: about.clone(),
            });
            let backlog = exporting.backlog(super::OpenTelemetry::QUEUE);
            Batches::start(&exporting.background, self.batches.clone(), backlog, exporters)
        });
        for span in spans {
            outlet.push(span, self.most_waiting);
        }
    }
}

impl Deliver<Span> for Exporter {
    async fn deliver(&mut self, batch: &[Span]) -> Result<Outcome, Undelivered> {
        let scope_spans =
            ScopeSpans { scope: Some(otlp::scope(SCOPE)), spans: batch.to_vec(), ..ScopeSpans::default() };
        let spans = ResourceSpans {
            resource: Some(otlp::resource(self.about.clone())),
            scope_spans: vec![scope_spans],
            ..ResourceSpans::default()
        };
        let message = ExportTraceServiceRequest { resource_spans: vec![spans] };
        self.client.export(&message).await?;
        Ok(Outcome { sent: batch.len(), dropped: 0 })
    }
}

/// Attributes of the resource beside the host.
fn resource(given: Option<Map<String, Value>>) -> Vec<KeyValue> {
    let Some(given) = given else { return Vec::new() };
    let named = given.contains_key("service.name");
    let unnamed = (!named).then(|| otlp::text("service.name", "APISIX"));
    let scalar = |(key, value): (String, Value)| match value {
        Value::String(text) => Some(otlp::text(key, text)),
        Value::Bool(flag) => Some(otlp::attribute(key, Scalar::BoolValue(flag))),
        // As the reference has them, whole numbers too.
        Value::Number(number) => Some(otlp::attribute(key, Scalar::DoubleValue(number.as_f64()?))),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    };
    unnamed.into_iter().chain(given.into_iter().filter_map(scalar)).collect()
}

/// Headers for the collector. Their values may be secrets.
fn headers(given: &Map<String, Value>) -> Result<HeaderMap, ConfigError> {
    let mut headers = HeaderMap::new();
    for (name, value) in given {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let fault = || ConfigError::at(format!("/collector/request_headers/{name}"), "cannot be sent as a header");
        let name = HeaderName::try_from(name).map_err(|_| fault())?;
        let mut value = HeaderValue::try_from(text).map_err(|_| fault())?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(headers)
}
