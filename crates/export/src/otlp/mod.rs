//! The OpenTelemetry protocol over HTTP, binary encoding (OTLP 1.x, "OTLP/HTTP").
//!
//! The messages are those of the crate `opentelemetry-proto`; who makes spans fills them in.

mod client;
mod metrics;
#[cfg(test)]
mod tests;

pub use client::{OtlpClient, OtlpSettings, collector};
pub use metrics::push_metrics;
pub use opentelemetry_proto::tonic as proto;

use proto::common::v1::any_value::Value;
use proto::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use proto::resource::v1::Resource;
use std::time::{SystemTime, UNIX_EPOCH};

/// An attribute.
pub fn attribute(key: impl Into<String>, value: Value) -> KeyValue {
    KeyValue { key: key.into(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

/// An attribute whose value is text.
pub fn text(key: impl Into<String>, value: impl Into<String>) -> KeyValue {
    attribute(key, Value::StringValue(value.into()))
}

/// What is described.
pub fn resource(attributes: Vec<KeyValue>) -> Resource {
    Resource { attributes, ..Resource::default() }
}

/// By whom.
pub fn scope(name: &str) -> InstrumentationScope {
    InstrumentationScope { name: name.to_owned(), ..InstrumentationScope::default() }
}

/// Nanoseconds since 1970, as times are given.
pub fn unix_nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
