//! Configuration of `opentelemetry`.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde_json::{Map, Value};

/// Makes a span of each request that is sampled and sends it to an OpenTelemetry collector (OTLP over HTTP); tells the upstream
/// its place in the trace (W3C Trace Context).
///
/// Does nothing until the plugin has metadata, which name the collector; `{}` are metadata. With `apisix.tracing` in the
/// gateway's file each try at an upstream is a span too, and so is what the gateway and its plugins do in each phase.
#[derive(Debug, Deserialize, JsonSchema)]
pub(crate) struct Config {
    /// Which requests are recorded.
    #[serde(default)]
    pub(super) sampler: SamplerConfig,
    /// Variables whose values become attributes of the span; one without value is left out.
    #[schemars(schema_with = "names")]
    #[serde(default)]
    pub(super) additional_attributes: Vec<String>,
    /// Headers of the request that become attributes of the span; a name that ends in `*` stands for all that begin so.
    #[schemars(schema_with = "names")]
    #[serde(default)]
    pub(super) additional_header_prefix_attributes: Vec<String>,
}

fn names(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "array", "items": { "type": "string", "minLength": 1 } })
}

/// See [`Config::sampler`].
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(inline)]
pub(super) struct SamplerConfig {
    /// `always_on`: all; `always_off`: none; `trace_id_ratio`: a share of the traces, the same ones on every node;
    /// `parent_base`: as whoever sent the request has decided, or by `root` where nobody has.
    #[serde(default)]
    pub(super) name: SamplerName,
    /// What the sampler goes by.
    #[serde(default)]
    pub(super) options: SamplerOptions,
}

/// See [`SamplerConfig::options`].
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(inline)]
pub(super) struct SamplerOptions {
    /// Share of the traces that `trace_id_ratio` records: none below 0, all from 1 on.
    #[serde(default)]
    pub(super) fraction: f64,
    /// What `parent_base` goes by for requests that come without a trace.
    #[serde(default)]
    pub(super) root: RootConfig,
}

/// See [`SamplerOptions::root`].
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(inline)]
pub(super) struct RootConfig {
    /// As `sampler.name`; here `parent_base` records nothing.
    #[serde(default)]
    pub(super) name: SamplerName,
    /// What it goes by.
    #[serde(default)]
    pub(super) options: RootOptions,
}

/// See [`RootConfig::options`].
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(inline)]
pub(super) struct RootOptions {
    /// As `sampler.options.fraction`.
    #[serde(default)]
    pub(super) fraction: f64,
}

/// See [`SamplerConfig::name`].
#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(rename_all = "snake_case")]
pub(super) enum SamplerName {
    AlwaysOn,
    #[default]
    AlwaysOff,
    TraceIdRatio,
    ParentBase,
}

/// The collector, and what is sent to it.
#[derive(Debug, Deserialize, JsonSchema)]
pub(super) struct MetadataConfig {
    /// Where new traces have their id from: `random`, or `x-request-id`, where that is 32 hexadecimal digits.
    #[serde(default)]
    pub(super) trace_id_source: TraceIdSource,
    /// Attributes of the resource, beside the name of the host: texts, numbers and booleans.
    #[schemars(schema_with = "scalars")]
    #[serde(default)]
    pub(super) resource: Option<Map<String, Value>>,
    /// The collector.
    #[serde(default)]
    pub(super) collector: CollectorConfig,
    /// How spans are gathered.
    #[serde(default)]
    pub(super) batch_span_processor: BatchConfig,
    /// Gives the variables `opentelemetry_context_traceparent`, `opentelemetry_trace_id` and `opentelemetry_span_id` their
    /// values, for access logs.
    #[serde(default)]
    pub(super) set_ngx_var: bool,
}

fn scalars(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "additionalProperties": { "type": ["boolean", "number", "string"] } })
}

/// See [`MetadataConfig::trace_id_source`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[schemars(inline)]
pub(super) enum TraceIdSource {
    #[default]
    #[serde(rename = "random")]
    Random,
    #[serde(rename = "x-request-id")]
    RequestId,
}

/// See [`MetadataConfig::collector`].
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(default)]
pub(super) struct CollectorConfig {
    /// `host:port`, or a URL; without a path spans go to `/v1/traces`. The certificate of an `https` collector is verified.
    pub(super) address: String,
    /// Seconds that a request to it may take.
    #[schemars(range(min = 1))]
    pub(super) request_timeout: u32,
    /// Headers of the requests to it, as `Authorization`: texts, numbers and booleans. Secret, and shown with the metadata alone.
    #[schemars(schema_with = "scalars")]
    pub(super) request_headers: Map<String, Value>,
}

impl Default for CollectorConfig {
    fn default() -> Self {
        Self { address: "127.0.0.1:4318".to_owned(), request_timeout: 3, request_headers: Map::new() }
    }
}

/// See [`MetadataConfig::batch_span_processor`].
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(inline)]
#[serde(default)]
pub(super) struct BatchConfig {
    /// Off: up to four batches are under way to the collector at once, so that a slow one is less likely to fill the queue. Either way
    /// a batch is sent as soon as it is full, no request waits, and what has no room is dropped and counted.
    pub(super) drop_on_queue_full: bool,
    /// Spans that wait; further ones are dropped and counted.
    #[schemars(range(min = 1))]
    pub(super) max_queue_size: usize,
    /// Seconds after which the oldest span is sent.
    #[schemars(range(min = 0))]
    pub(super) batch_timeout: f64,
    /// Seconds without a new span after which those that wait are sent.
    #[schemars(range(min = 0))]
    pub(super) inactive_timeout: f64,
    /// Spans in one request to the collector; less than `max_queue_size`.
    #[schemars(range(min = 1))]
    pub(super) max_export_batch_size: usize,
}

impl Default for BatchConfig {
    fn default() -> Self {
        Self {
            drop_on_queue_full: true,
            max_queue_size: 2048,
            batch_timeout: 5.0,
            inactive_timeout: 2.0,
            max_export_batch_size: 256,
        }
    }
}
